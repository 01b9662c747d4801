//! How listeners are secured: who may call without saying who they are, and where nothing is encrypted.
//!
//! Invariant: beyond loopback everybody is asked who they are, and nothing is sent in the clear but by the aggregator's listener,
//! where that was asked for and the settings name who may call it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::surface::keda::KedaConfig;
use crate::tls::names::{self, NAMES_MAX, Name};
use crate::tls::server_config::{Source, TlsSettings};

/// Options of this page.
#[derive(Clone, Debug, clap::Args)]
pub struct SecureConfig {
    /// Who may call: `enforced` asks everybody who they are; `open` lets everybody do everything, and is for loopback only. Unset is
    /// `open` where all addresses are loopback, else `enforced`.
    #[arg(long, env = "MINDOS_ACCESS", value_name = "WHO")]
    pub access: Option<AccessMode>,

    /// TLS of the API and the agents' port: `off` (loopback only), `authority` (certificates of the built-in authority) or `files`.
    /// Unset is `files` where --tls-cert is given, else `off` where all addresses are loopback and access is open, else `authority`.
    #[arg(long, env = "MINDOS_TLS", value_name = "HOW")]
    pub tls: Option<TlsMode>,

    /// Certificate of the server in PEM, leaf first. Read again when it changes.
    #[arg(long, env = "MINDOS_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,

    /// Private key of the server's certificate in PEM. Read again when it changes.
    #[arg(long, env = "MINDOS_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,

    /// Names and addresses that the built-in authority puts into the server's certificate. Unset is localhost, the loopback
    /// addresses, those listened on, and the name of the machine.
    #[arg(long, env = "MINDOS_TLS_NAMES", value_delimiter = ',', value_name = "NAMES")]
    pub tls_names: Vec<Name>,

    /// Roots in PEM of the authority that makes the certificates of agents, such as SPIRE. Read again when it changes. Unset is the
    /// built-in authority.
    #[arg(long, env = "MINDOS_AGENT_CA", value_name = "FILE")]
    pub agent_ca: Option<PathBuf>,

    /// Domain of the SPIFFE ids of agents.
    #[arg(long, env = "MINDOS_TRUST_DOMAIN", default_value = "mindos.local", value_parser = trust_domain, value_name = "DOMAIN")]
    pub trust_domain: String,

    /// How long a certificate that an agent gets is good, 10 s to 1 h, such as `1h`.
    #[arg(long, env = "MINDOS_CERTIFICATE_LIFE", default_value = "1h", value_parser = crate::config::span, value_name = "TIME")]
    pub certificate_life: Duration,

    /// Lets the aggregator's listener be reached from elsewhere in the clear, by the ranges in `gitlens.sources.aggregator` of the
    /// settings.
    #[arg(long, env = "MINDOS_AGGREGATOR_PLAINTEXT")]
    pub aggregator_plaintext: bool,
}

/// Who may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum AccessMode {
    /// Everybody, everything.
    Open,
    /// Whoever says who they are, what they may.
    Enforced,
}

/// How the API and the agents' port are encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum TlsMode {
    Off,
    Authority,
    Files,
}

/// Where there is somebody to be heard.
#[derive(Clone, Copy, Debug)]
pub struct Listeners {
    pub api: SocketAddr,
    pub agents: SocketAddr,
    pub aggregator: SocketAddr,
    /// Unset where KEDA's surface is not served.
    pub keda: Option<SocketAddr>,
    /// Unset where the platform's paths are not served.
    pub platform: Option<SocketAddr>,
    /// Whether those may be reached from elsewhere in the clear.
    pub platform_is_plain: bool,
}

impl Listeners {
    fn all(&self) -> impl Iterator<Item = (&'static str, SocketAddr)> {
        let always = [("listen", self.api), ("agent-listen", self.agents), ("aggregator-address", self.aggregator)];
        let platform = self.platform.map(|at| ("surface platform=", at));
        always.into_iter().chain(self.surfaces()).chain(platform)
    }

    /// Whether the platform's listener is encrypted: never on loopback, as the aggregator's.
    #[must_use]
    pub fn platform_is_encrypted(&self) -> bool {
        self.platform.is_some_and(|at| !is_here(at)) && !self.platform_is_plain
    }

    /// Those of surfaces that are served on an address of their own.
    fn surfaces(&self) -> impl Iterator<Item = (&'static str, SocketAddr)> {
        self.keda.map(|at| ("surface keda=", at)).into_iter()
    }

    /// The first that others than this machine can reach.
    fn exposed(&self) -> Option<(&'static str, SocketAddr)> {
        self.all().find(|(_, at)| !is_here(*at))
    }
}

fn is_here(at: SocketAddr) -> bool {
    at.ip().to_canonical().is_loopback()
}

/// Options that do not go together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecureError {
    #[error(
        "--access open does not go with --{option} {address}, which others than this machine can reach: expected --access enforced"
    )]
    Open { option: &'static str, address: SocketAddr },
    #[error(
        "--tls off does not go with --{option} {address}, which others than this machine can reach: expected --tls authority or files"
    )]
    Plain { option: &'static str, address: SocketAddr },
    #[error("--tls files needs --{missing}: expected the server's certificate and key, each a PEM file")]
    Missing { missing: &'static str },
    #[error("--{given} is of no use with --tls {with}: expected --tls {expected}")]
    Useless { given: &'static str, with: &'static str, expected: &'static str },
    #[error("--tls-names has {found} names: expected at most {NAMES_MAX}")]
    Names { found: usize },
    #[error("--certificate-life is {found:?}: expected 10s to 1h")]
    Life { found: Duration },
}

impl SecureConfig {
    /// Checks what single options cannot say.
    ///
    /// # Errors
    /// Names the option and what it accepts.
    pub fn check(&self, listeners: &Listeners) -> Result<(), SecureError> {
        if let Some((option, address)) = listeners.exposed()
            && self.access == Some(AccessMode::Open)
        {
            return Err(SecureError::Open { option, address });
        }
        let mode = self.tls_mode(listeners);
        let exposed = [("listen", listeners.api), ("agent-listen", listeners.agents)];
        let exposed = exposed.into_iter().chain(listeners.surfaces());
        match (mode, { exposed }.find(|(_, at)| !is_here(*at))) {
            (TlsMode::Off, Some((option, address))) => return Err(SecureError::Plain { option, address }),
            (TlsMode::Off, None) if !is_here(listeners.aggregator) && !self.aggregator_plaintext => {
                return Err(SecureError::Plain { option: "aggregator-address", address: listeners.aggregator });
            }
            (TlsMode::Off, None) if listeners.platform_is_encrypted() => {
                let address = listeners.platform.unwrap_or(listeners.api);
                return Err(SecureError::Plain { option: "surface platform=", address });
            }
            _ => {}
        }
        let files = [("tls-cert", self.tls_cert.is_some()), ("tls-key", self.tls_key.is_some())];
        for (option, given) in files {
            match mode {
                TlsMode::Files if !given => return Err(SecureError::Missing { missing: option }),
                TlsMode::Off if given => return Err(useless(option, "off", "files")),
                TlsMode::Authority if given => return Err(useless(option, "authority", "files")),
                _ => {}
            }
        }
        if mode == TlsMode::Files && !self.tls_names.is_empty() {
            return Err(useless("tls-names", "files", "authority"));
        }
        if mode == TlsMode::Off && self.agent_ca.is_some() {
            return Err(useless("agent-ca", "off", "authority or files"));
        }
        if self.tls_names.len() > NAMES_MAX {
            return Err(SecureError::Names { found: self.tls_names.len() });
        }
        if !(Duration::from_secs(10)..=Duration::from_secs(3600)).contains(&self.certificate_life) {
            return Err(SecureError::Life { found: self.certificate_life });
        }
        Ok(())
    }

    /// Who may call.
    #[must_use]
    pub fn access_mode(&self, listeners: &Listeners) -> AccessMode {
        match (listeners.exposed(), self.access) {
            (None, None) => AccessMode::Open,
            (None, Some(asked)) => asked,
            (Some(_), _) => AccessMode::Enforced,
        }
    }

    /// How the API and the agents' port are encrypted.
    #[must_use]
    pub fn tls_mode(&self, listeners: &Listeners) -> TlsMode {
        match self.tls {
            Some(asked) => asked,
            None if self.tls_cert.is_some() || self.tls_key.is_some() => TlsMode::Files,
            None if self.access_mode(listeners) == AccessMode::Open => TlsMode::Off,
            None => TlsMode::Authority,
        }
    }

    /// Whether the aggregator's listener is encrypted: never on loopback, where its clients have always dialled in the clear.
    #[must_use]
    pub fn aggregator_is_encrypted(&self, listeners: &Listeners) -> bool {
        !is_here(listeners.aggregator) && !self.aggregator_plaintext
    }

    /// What TLS is set up with; `None` where it is off.
    #[must_use]
    pub fn tls_settings(&self, listeners: &Listeners, data_dir: &Path, keda: &KedaConfig) -> Option<TlsSettings> {
        let source = match (self.tls_mode(listeners), &self.tls_cert, &self.tls_key) {
            (TlsMode::Off, ..) => return None,
            (TlsMode::Files, Some(certificates), Some(key)) => {
                Source::Files { certificates: certificates.clone(), key: key.clone() }
            }
            (TlsMode::Files | TlsMode::Authority, ..) => {
                let listening: Vec<_> = listeners.all().map(|(_, at)| at).collect();
                Source::Authority { names: names::served(&self.tls_names, &listening) }
            }
        };
        Some(TlsSettings {
            source,
            agent_ca: self.agent_ca.clone(),
            keda_ca: keda.keda_client_ca.clone(),
            keda_names: keda.keda_client_names.clone(),
            trust_domain: Arc::from(self.trust_domain.as_str()),
            authority: data_dir.join("authority"),
        })
    }
}

fn useless(given: &'static str, with: &'static str, expected: &'static str) -> SecureError {
    SecureError::Useless { given, with, expected }
}

/// Reads a trust domain, as SPIFFE has it.
fn trust_domain(text: &str) -> Result<String, String> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
    if (1..=255).contains(&text.len()) && text.bytes().all(fits) {
        Ok(text.to_owned())
    } else {
        Err("expected 1 to 255 of a-z, 0-9, `.`, `-` and `_`, such as mindos.example.com".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        secure: SecureConfig,
    }

    fn secure(arguments: &[&str]) -> SecureConfig {
        Command::parse_from([&["test"], arguments].concat()).secure
    }

    fn at(api: &str, agents: &str, aggregator: &str) -> Listeners {
        let read = |text: &str| format!("{text}:1").parse().unwrap();
        Listeners {
            api: read(api),
            agents: read(agents),
            aggregator: read(aggregator),
            keda: None,
            platform: None,
            platform_is_plain: false,
        }
    }

    #[test]
    fn loopback_is_open_and_plain_and_the_rest_is_neither() {
        let here = at("127.0.0.1", "[::1]", "127.0.0.1");
        let plain = secure(&[]);
        assert_eq!(plain.check(&here), Ok(()));
        assert_eq!((plain.access_mode(&here), plain.tls_mode(&here)), (AccessMode::Open, TlsMode::Off));
        let enforced = secure(&["--access", "enforced"]);
        assert_eq!(enforced.tls_mode(&here), TlsMode::Authority);
        let mapped = at("[::ffff:127.0.0.1]", "127.0.0.1", "127.0.0.1");
        assert_eq!(plain.access_mode(&mapped), AccessMode::Open);
        for there in [at("0.0.0.0", "127.0.0.1", "127.0.0.1"), at("127.0.0.1", "10.0.0.1", "127.0.0.1")] {
            assert_eq!(plain.check(&there), Ok(()));
            assert_eq!((plain.access_mode(&there), plain.tls_mode(&there)), (AccessMode::Enforced, TlsMode::Authority));
            let error = secure(&["--access", "open"]).check(&there).unwrap_err().to_string();
            assert!(error.contains("--access open") && error.contains("expected --access enforced"), "{error}");
            let error = secure(&["--tls", "off"]).check(&there).unwrap_err().to_string();
            assert!(error.contains("--tls off") && error.contains("expected --tls authority"), "{error}");
        }
    }

    #[test]
    fn the_aggregator_is_plain_beyond_loopback_only_when_asked_for() {
        let there = at("127.0.0.1", "127.0.0.1", "0.0.0.0");
        let plain = secure(&[]);
        assert_eq!((plain.tls_mode(&there), plain.access_mode(&there)), (TlsMode::Authority, AccessMode::Enforced));
        assert!(plain.aggregator_is_encrypted(&there));
        assert!(secure(&["--tls", "off"]).check(&there).is_err());
        let asked = secure(&["--aggregator-plaintext", "--tls", "off"]);
        assert_eq!(asked.check(&there), Ok(()));
        assert_eq!(asked.access_mode(&there), AccessMode::Enforced);
        assert!(!asked.aggregator_is_encrypted(&there));
    }

    #[test]
    fn keda_beyond_loopback_is_asked_who_it_is_in_tls() {
        let mut there = at("127.0.0.1", "127.0.0.1", "127.0.0.1");
        there.keda = Some("0.0.0.0:8092".parse().unwrap());
        let plain = secure(&[]);
        assert_eq!((plain.access_mode(&there), plain.tls_mode(&there)), (AccessMode::Enforced, TlsMode::Authority));
        assert!(
            secure(&["--tls", "off"]).check(&there).is_err() && secure(&["--access", "open"]).check(&there).is_err()
        );
    }

    #[test]
    fn the_platform_is_plain_beyond_loopback_only_when_asked_for() {
        let here = at("127.0.0.1", "127.0.0.1", "127.0.0.1");
        let there = Listeners { platform: Some("0.0.0.0:1".parse().unwrap()), ..here };
        let plain = secure(&[]);
        assert_eq!((plain.tls_mode(&there), plain.access_mode(&there)), (TlsMode::Authority, AccessMode::Enforced));
        assert!(there.platform_is_encrypted() && secure(&["--tls", "off"]).check(&there).is_err());
        let asked = Listeners { platform_is_plain: true, ..there };
        assert!(!asked.platform_is_encrypted() && secure(&["--tls", "off"]).check(&asked).is_ok());
    }

    #[test]
    fn files_come_in_pairs_and_what_is_of_no_use_is_refused() {
        let here = at("127.0.0.1", "127.0.0.1", "127.0.0.1");
        let both = secure(&["--tls-cert", "c", "--tls-key", "k"]);
        assert_eq!((both.check(&here), both.tls_mode(&here)), (Ok(()), TlsMode::Files));
        for (arguments, named) in [
            (&["--tls-cert", "c"][..], "--tls-key"),
            (&["--tls", "files"], "--tls-cert"),
            (&["--tls", "off", "--tls-cert", "c"], "--tls files"),
            (&["--tls", "authority", "--tls-key", "c"], "--tls files"),
            (&["--tls-cert", "c", "--tls-key", "k", "--tls-names", "x"], "--tls-names"),
            (&["--agent-ca", "c"], "--agent-ca"),
            (&["--certificate-life", "9s"], "--certificate-life"),
            (&["--certificate-life", "61m"], "10s to 1h"),
        ] {
            let error = secure(arguments).check(&here).unwrap_err().to_string();
            assert!(error.contains(named), "{arguments:?}: {error}");
        }
        for bad in ["", "Mindos", "a/b", "a b"] {
            assert!(Command::try_parse_from(["test", "--trust-domain", bad]).is_err(), "{bad}");
        }
    }
}
