//! Where the platform's paths are, and what runs are where a request does not say, by the names that the earlier system had.

use std::net::{IpAddr, SocketAddr};

use mindos_kube::platform::request::{CODE_MODEL, DOCS_MODEL};

use crate::config::Port;

/// Options of this surface.
#[derive(Clone, Debug, clap::Args)]
pub struct PlatformConfig {
    /// Lets the platform's listener be reached from elsewhere in the clear, by the ranges in `platform.sources` of the settings.
    #[arg(long, env = "MINDOS_PLATFORM_PLAINTEXT")]
    pub platform_plaintext: bool,

    /// Host of `--surface platform`, instead of that of its address, by the name that the earlier system had for it.
    #[arg(long, env = "SERVER_HOST", value_name = "ADDRESS", hide_short_help = true)]
    pub platform_host: Option<IpAddr>,

    /// Port of `--surface platform`, instead of that of its address, by the name that the earlier system had for it.
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
    /// Where the paths are served, given the address of the surface.
    #[must_use]
    pub fn at(&self, surface: Option<SocketAddr>) -> Option<SocketAddr> {
        let mut address = surface?;
        address.set_ip(self.platform_host.unwrap_or(address.ip()));
        address.set_port(self.platform_port.as_ref().and_then(Port::number).unwrap_or(address.port()));
        Some(address)
    }
}

fn namespace(text: &str) -> Result<String, String> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_name =
        (1..=63).contains(&text.len()) && text.bytes().all(fits) && !text.starts_with('-') && !text.ends_with('-');
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

    fn address(words: &[&str], surface: Option<&str>) -> Option<String> {
        let words = [&["test"], words].concat();
        let surface = surface.map(|address| address.parse().unwrap());
        Command::parse_from(words).config.at(surface).map(|address| address.to_string())
    }

    #[test]
    fn older_names_take_the_place_of_host_and_port() {
        assert_eq!(address(&[], None), None);
        assert_eq!(address(&["--platform-port", "9"], None), None, "not served unless the surface is asked for");
        assert_eq!(address(&[], Some("127.0.0.1:8080")).as_deref(), Some("127.0.0.1:8080"));
        let more = ["--platform-host", "0.0.0.0", "--platform-port", "9"];
        assert_eq!(address(&more, Some("127.0.0.1:8080")).as_deref(), Some("0.0.0.0:9"));
        assert!(Command::try_parse_from(["test", "--run-namespace", "A"]).is_err());
    }
}
