//! What the settings file says of this surface.
//!
//! ```yaml
//! platform:
//!   principal: platform
//!   sources: ["10.0.0.0/8"]      # this machine alone when left out
//!   cluster: workers             # where runs are done; any cluster whose agent takes runs when left out
//!   attempts: 3                  # Jobs before a run is given up
//! ```

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mindos_model::ClusterName;
use serde::{Deserialize, Serialize};

use crate::access::Principal;
use crate::network::Network;

/// Ranges that are named.
const RANGES_MAX: usize = 256;
/// Jobs before a run is given up, where nothing is said.
pub(crate) const ATTEMPTS: u32 = 3;

/// What the settings file says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PlatformSection {
    /// Who the ledger says did what was asked for here, behind `surface:`. `platform` when unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// Who may call, such as `10.0.0.0/8`. When empty, this machine alone, and nobody where access is enforced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Network>,
    /// The cluster in which runs are done. Any when unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// Jobs before a run is given up, 1 to 10. 3 when unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
}

/// The settings in force.
#[derive(Clone, Debug)]
pub struct PlatformSettings {
    principal: Arc<str>,
    pub(crate) sources: Vec<Network>,
    pub(crate) cluster: Option<ClusterName>,
    pub(crate) attempts: u32,
}

impl Default for PlatformSettings {
    fn default() -> PlatformSettings {
        PlatformSettings { principal: Arc::from("platform"), sources: Vec::new(), cluster: None, attempts: ATTEMPTS }
    }
}

impl PlatformSettings {
    /// Checks the section.
    ///
    /// # Errors
    /// Names the field and what is accepted.
    pub fn new(section: &PlatformSection) -> Result<PlatformSettings, String> {
        let PlatformSection { principal, sources, cluster, attempts } = section;
        let principal = principal.as_deref().unwrap_or("platform");
        if principal.is_empty() || principal.len() > 63 || !principal.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("platform.principal: expected 1 to 63 visible ASCII characters".to_owned());
        }
        if sources.len() > RANGES_MAX {
            return Err(format!("platform.sources: has {} ranges: expected at most {RANGES_MAX}", sources.len()));
        }
        let cluster = cluster.as_deref().map(ClusterName::new).transpose();
        let cluster = cluster.map_err(|error| format!("platform.cluster: {error}"))?;
        let attempts = attempts.unwrap_or(ATTEMPTS);
        if !(1..=10).contains(&attempts) {
            return Err(format!("platform.attempts: is {attempts}: expected 1 to 10"));
        }
        Ok(PlatformSettings { principal: Arc::from(principal), sources: sources.clone(), cluster, attempts })
    }

    /// Whether anybody may call from elsewhere.
    #[must_use]
    pub fn names_callers(&self) -> bool {
        !self.sources.is_empty()
    }

    /// Who acts for whoever calls these paths: in the tenant `default`, as viewer, publisher and operator.
    #[must_use]
    pub fn principal(&self, peer: Option<SocketAddr>) -> Principal {
        Principal::surface(&self.principal, peer)
    }

    pub(super) fn admits(&self, peer: IpAddr, is_enforced: bool) -> bool {
        peer.is_loopback() && !is_enforced || self.sources.iter().any(|range| range.contains(peer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_that_is_not_accepted_is_named() {
        let read = |text: &str| PlatformSettings::new(&serde_norway::from_str(text).unwrap());
        assert_eq!(read("{}").unwrap().attempts, 3);
        for (text, field) in [
            ("{attempts: 0}", "platform.attempts"),
            ("{cluster: 'A b'}", "platform.cluster"),
            ("{principal: ''}", "platform.principal"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.starts_with(field), "{error}");
        }
        let settings = read("{sources: ['10.0.0.0/8']}").unwrap();
        let admits = |peer: &str, enforced| settings.admits(peer.parse().unwrap(), enforced);
        assert!(admits("10.1.2.3", true) && admits("127.0.0.1", false));
        assert!(!admits("127.0.0.1", true) && !admits("11.0.0.1", false));
    }
}
