//! Who may ask as KEDA, for which tenants and clusters, and how long a pool may take to come.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use mindos_model::{ClusterName, TenantName};

use crate::network::Network;

/// Options of KEDA's surface, which is served where `--surface keda=ADDRESS` is given.
#[derive(Clone, Debug, clap::Args)]
pub struct KedaConfig {
    /// Roots in PEM of the authority that makes KEDA's client certificate. Read again when it changes.
    #[arg(long, env = "MINDOS_KEDA_CLIENT_CA", value_name = "FILE")]
    pub keda_client_ca: Option<PathBuf>,

    /// DNS names, one of which KEDA's client certificate has to carry. Unset lets in whoever the authority made one for.
    #[arg(long, env = "MINDOS_KEDA_CLIENT_NAMES", value_delimiter = ',', value_name = "NAMES")]
    pub keda_client_names: Vec<String>,

    /// From where KEDA may ask, such as `10.0.0.0/8`. Unset is from anywhere with --keda-client-ca, else from this machine while access
    /// is open.
    #[arg(long, env = "MINDOS_KEDA_SOURCES", value_delimiter = ',', value_name = "RANGES")]
    pub keda_sources: Vec<Network>,

    /// Tenants that KEDA may ask for.
    #[arg(long, env = "MINDOS_KEDA_TENANTS", value_delimiter = ',', default_value = "default", value_name = "TENANTS")]
    pub keda_tenants: Vec<TenantName>,

    /// Clusters that KEDA may ask for. Unset is all.
    #[arg(long, env = "MINDOS_KEDA_CLUSTERS", value_delimiter = ',', value_name = "CLUSTERS")]
    pub keda_clusters: Vec<ClusterName>,

    /// How long work waits for the first instance of a pool, 10 s to 1 h, such as `10m`. After that nobody counts as there.
    #[arg(long, env = "MINDOS_KEDA_WARM_UP", default_value = "10m", value_parser = crate::config::span, value_name = "TIME")]
    pub keda_warm_up: Duration,
}

/// Options that do not go together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KedaError {
    #[error(
        "--surface keda={address} lets nobody in: expected --keda-client-ca, --keda-sources, or a loopback address with --access open"
    )]
    Nobody { address: SocketAddr },
    #[error("--{option} is of no use without --surface keda=ADDRESS")]
    Useless { option: &'static str },
    #[error("--keda-client-names needs --keda-client-ca: expected a PEM file with the roots of KEDA's certificate")]
    NamesWithoutCa,
    #[error("--keda-client-ca needs TLS: expected --tls authority or files")]
    CaWithoutTls,
    #[error("--keda-client-names has `{name}`: expected a DNS name")]
    Name { name: String },
    #[error("--keda-warm-up is {found:?}: expected 10s to 1h")]
    WarmUp { found: Duration },
}

impl KedaConfig {
    /// Checks what single options cannot say. `address` is where it is served, `is_open` whether nobody is asked who they are.
    ///
    /// # Errors
    /// Names the option and what it accepts.
    pub fn check(&self, address: Option<SocketAddr>, is_open: bool, has_tls: bool) -> Result<(), KedaError> {
        let given = [
            ("keda-client-ca", self.keda_client_ca.is_some()),
            ("keda-client-names", !self.keda_client_names.is_empty()),
            ("keda-sources", !self.keda_sources.is_empty()),
            ("keda-clusters", !self.keda_clusters.is_empty()),
        ];
        let Some(address) = address else {
            return match given.into_iter().find(|(_, given)| *given) {
                Some((option, _)) => Err(KedaError::Useless { option }),
                None => Ok(()),
            };
        };
        if !self.keda_client_names.is_empty() && self.keda_client_ca.is_none() {
            return Err(KedaError::NamesWithoutCa);
        }
        if self.keda_client_ca.is_some() && !has_tls {
            return Err(KedaError::CaWithoutTls);
        }
        let is_name = |name: &str| rustls::pki_types::DnsName::try_from(name).is_ok();
        if let Some(name) = self.keda_client_names.iter().find(|name| !is_name(name)) {
            return Err(KedaError::Name { name: name.chars().take(100).collect() });
        }
        let is_here = address.ip().to_canonical().is_loopback();
        if self.keda_client_ca.is_none() && self.keda_sources.is_empty() && !(is_open && is_here) {
            return Err(KedaError::Nobody { address });
        }
        if !(Duration::from_secs(10)..=Duration::from_secs(3600)).contains(&self.keda_warm_up) {
            return Err(KedaError::WarmUp { found: self.keda_warm_up });
        }
        Ok(())
    }

    /// Whether KEDA may ask from there; its certificate was looked at before.
    pub(super) fn admits(&self, peer: IpAddr, is_open: bool) -> bool {
        let is_named = self.keda_sources.iter().any(|range| range.contains(peer));
        let by_certificate = self.keda_client_ca.is_some() && self.keda_sources.is_empty();
        is_named || by_certificate || is_open && peer.is_loopback()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        keda: KedaConfig,
    }

    fn keda(arguments: &[&str]) -> KedaConfig {
        Command::parse_from([&["test"], arguments].concat()).keda
    }

    #[test]
    fn nobody_may_ask_unless_it_is_said_who() {
        let (here, there) = (Some("127.0.0.1:1".parse().unwrap()), Some("0.0.0.0:1".parse().unwrap()));
        let none = keda(&[]);
        assert_eq!(none.check(None, true, false), Ok(()));
        assert_eq!(none.check(here, true, false), Ok(()));
        assert!(matches!(none.check(here, false, true), Err(KedaError::Nobody { .. })));
        assert!(matches!(none.check(there, false, true), Err(KedaError::Nobody { .. })));
        assert!(none.admits("127.0.0.1".parse().unwrap(), true) && !none.admits("127.0.0.1".parse().unwrap(), false));
        let ranges = keda(&["--keda-sources", "10.0.0.0/8,fd00::/8"]);
        assert_eq!(ranges.check(there, false, true), Ok(()));
        assert!(ranges.admits("10.1.2.3".parse().unwrap(), false) && !ranges.admits("11.1.2.3".parse().unwrap(), false));
        let both = keda(&["--keda-sources", "10.0.0.0/8", "--keda-client-ca", "ca.pem"]);
        assert!(!both.admits("11.1.2.3".parse().unwrap(), false), "a certificate does not widen the ranges");
        let ca = keda(&["--keda-client-ca", "ca.pem"]);
        assert!(ca.check(there, false, true).is_ok() && ca.admits("11.1.2.3".parse().unwrap(), false));
        assert_eq!(ca.check(there, false, false), Err(KedaError::CaWithoutTls));
    }

    #[test]
    fn what_is_of_no_use_is_refused() {
        let here = Some("127.0.0.1:1".parse().unwrap());
        for (arguments, at, named) in [
            (&["--keda-clusters", "a"][..], None, "--surface keda"),
            (&["--keda-client-names", "keda"], here, "--keda-client-ca"),
            (&["--keda-client-ca", "x", "--keda-client-names", "a b"], here, "a DNS name"),
            (&["--keda-warm-up", "1s"], here, "10s to 1h"),
        ] {
            let error = keda(arguments).check(at, true, true).unwrap_err().to_string();
            assert!(error.contains(named), "{arguments:?}: {error}");
        }
    }
}
