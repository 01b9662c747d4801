//! Where the platform's paths are, and what runs are where a request does not say, by the names that the earlier system had.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use mindos_kube::platform::request::{CODE_MODEL, DOCS_MODEL};

use crate::config::Port;

/// The port of the earlier system.
const PORT: u16 = 8080;

/// A surface of an earlier system, and where it is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SurfaceAt {
    /// Unset is `SERVER_HOST` and `SERVER_PORT`.
    Platform(Option<SocketAddr>),
}

impl FromStr for SurfaceAt {
    type Err = String;

    fn from_str(text: &str) -> Result<SurfaceAt, String> {
        const EXPECTED: &str = "expected platform=ADDRESS, such as platform=127.0.0.1:8080, or platform alone";
        match text.split_once('=') {
            None if text == "platform" => Ok(SurfaceAt::Platform(None)),
            Some(("platform", address)) => {
                address.parse().map(|address| SurfaceAt::Platform(Some(address))).map_err(|_| EXPECTED.to_owned())
            }
            _ => Err(EXPECTED.to_owned()),
        }
    }
}

/// Options of this surface.
#[derive(Clone, Debug, clap::Args)]
pub struct PlatformConfig {
    /// Serves the paths of an earlier system on a listener of its own: `platform=ADDRESS` (runs of code and documentation). `platform`
    /// alone is SERVER_HOST and SERVER_PORT.
    #[arg(long = "surface", env = "MINDOS_SURFACE", value_name = "NAME=ADDRESS", value_delimiter = ',')]
    pub surfaces: Vec<SurfaceAt>,

    /// Lets the platform's listener be reached from elsewhere in the clear, by the ranges in `platform.sources` of the settings.
    #[arg(long, env = "MINDOS_PLATFORM_PLAINTEXT")]
    pub platform_plaintext: bool,

    /// Address of `--surface platform` where it names none, by the name that the earlier system had.
    #[arg(long, env = "SERVER_HOST", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST), value_name = "ADDRESS", hide_short_help = true)]
    pub platform_host: IpAddr,

    /// Port of `--surface platform`, instead of that of its address, by the name that the earlier system had.
    #[arg(long, env = "SERVER_PORT", value_name = "PORT", value_parser = Port::read, hide_short_help = true)]
    pub platform_port: Option<Port>,

    /// Namespace of runs that are asked for there.
    #[arg(long, env = "KUBERNETES_NAMESPACE", default_value = "orchestrator", value_parser = namespace, value_name = "NAME")]
    pub run_namespace: String,

    /// Model of code runs that name none.
    #[arg(long, env = "DEFAULT_CODE_MODEL", default_value = CODE_MODEL, value_name = "MODEL")]
    pub default_code_model: String,

    /// Model of documentation runs that name none.
    #[arg(long, env = "DEFAULT_DOCS_MODEL", default_value = DOCS_MODEL, value_name = "MODEL")]
    pub default_docs_model: String,
}

impl PlatformConfig {
    /// Where the paths are served, if they are.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        let SurfaceAt::Platform(named) = self.surfaces.last()?;
        let mut address = named.unwrap_or(SocketAddr::new(self.platform_host, PORT));
        address.set_port(self.platform_port.as_ref().and_then(Port::number).unwrap_or(address.port()));
        Some(address)
    }
}

fn namespace(text: &str) -> Result<String, String> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_name = (1..=63).contains(&text.len()) && text.bytes().all(fits) && !text.starts_with('-') && !text.ends_with('-');
    if is_name { Ok(text.to_owned()) } else { Err("expected a namespace: 1 to 63 of a-z, 0-9 and `-`".to_owned()) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        config: PlatformConfig,
    }

    fn address(words: &[&str]) -> Option<String> {
        let words = [&["test"], words].concat();
        Command::parse_from(words).config.address().map(|address| address.to_string())
    }

    #[test]
    fn the_listener_is_where_the_contract_has_it_unless_something_else_is_said() {
        assert_eq!(address(&[]), None);
        assert_eq!(address(&["--surface", "platform"]).as_deref(), Some("127.0.0.1:8080"));
        assert_eq!(address(&["--surface", "platform=[::1]:7"]).as_deref(), Some("[::1]:7"));
        let more = ["--surface", "platform", "--platform-host", "0.0.0.0", "--platform-port", "9"];
        assert_eq!(address(&more).as_deref(), Some("0.0.0.0:9"));
        for bad in ["gaia=127.0.0.1:1", "platform=x", "platform="] {
            assert!(Command::try_parse_from(["test", "--surface", bad]).is_err(), "{bad}");
        }
        assert!(Command::try_parse_from(["test", "--run-namespace", "A"]).is_err());
    }
}
