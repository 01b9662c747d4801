//! What the settings file says of this surface.
//!
//! ```yaml
//! gitlens:
//!   secret: { file: /run/secrets/gitlens }     # or { env: GITLENS_SECRET }; unsigned when left out
//!   principal: gitlens
//!   sources: { aggregator: ["10.0.0.0/8"], orchestrator: ["fd00::/8"] }   # this machine alone when left out
//!   clusters:
//!     prod-us: { api_server: "https://k8s-prod.example", namespace: agents }
//! ```

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use http::HeaderMap;
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::sources::SourcesSection;
use crate::access::Principal;
use crate::secret::{SecretAt, Secrets};

/// What the settings file says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct GitlensSection {
    /// The secret under which `/events`, `/webhook/gitlens`, `/event` and `/alert` are signed. Unsigned when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretAt>,
    /// Who the ledger says did what was asked for here, behind `surface:`. `gitlens` when unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// From where the paths may be called.
    #[serde(default)]
    pub sources: SourcesSection,
    /// What the earlier system knew of its clusters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub clusters: BTreeMap<String, ClusterSection>,
}

/// A cluster as the earlier system addressed it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterSection {
    /// URL of its API server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_server: Option<String>,
    /// Where its generals run. `agents` when unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// Who may post.
#[derive(Clone, Default)]
pub(super) enum GitlensAccess {
    /// Whoever reaches the listener.
    #[default]
    Open,
    /// Who knows the secret.
    Signed(Arc<[u8]>),
}

impl std::fmt::Debug for GitlensAccess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            GitlensAccess::Open => "Open",
            GitlensAccess::Signed(_) => "Signed",
        })
    }
}

/// The settings in force.
#[derive(Clone, Debug)]
pub struct GitlensSettings {
    pub(super) access: GitlensAccess,
    pub(super) principal: Arc<str>,
    pub(super) sources: SourcesSection,
    pub(super) clusters: BTreeMap<String, ClusterSection>,
}

impl Default for GitlensSettings {
    fn default() -> GitlensSettings {
        GitlensSettings {
            access: GitlensAccess::Open,
            principal: Arc::from("gitlens"),
            sources: SourcesSection::default(),
            clusters: BTreeMap::new(),
        }
    }
}

impl GitlensSettings {
    /// Whether there are ranges that may call the aggregator's paths from elsewhere.
    #[must_use]
    pub fn names_callers_of_aggregator(&self) -> bool {
        !self.sources.aggregator.is_empty()
    }

    /// Checks the section and reads its secret.
    ///
    /// # Errors
    /// Names the field and what is accepted.
    pub fn new(section: &GitlensSection, secrets: Secrets) -> Result<GitlensSettings, String> {
        let GitlensSection { secret, principal, sources, clusters } = section;
        sources.check()?;
        let secret = SecretAt::read_if(secret.as_ref(), "gitlens.secret", secrets)?;
        let access = secret.map_or(GitlensAccess::Open, |secret| GitlensAccess::Signed(secret.as_bytes().into()));
        let principal = principal.as_deref().unwrap_or("gitlens");
        let is_word = |byte: u8| byte.is_ascii_graphic();
        if principal.is_empty() || principal.len() > 63 || !principal.bytes().all(is_word) {
            return Err("gitlens.principal: expected 1 to 63 visible ASCII characters".to_owned());
        }
        let principal = Arc::from(principal);
        Ok(GitlensSettings { access, principal, sources: sources.clone(), clusters: clusters.clone() })
    }

    /// Who acts for whoever calls these paths: in the tenant `default`, as viewer, publisher and operator.
    #[must_use]
    pub fn principal(&self, peer: Option<SocketAddr>) -> Principal {
        Principal::surface(&self.principal, peer)
    }

    /// Whether what is posted has to be signed.
    #[must_use]
    pub fn is_signed(&self) -> bool {
        self.access.is_signed()
    }
}

/// Headers in which a signature may come: `sha256=` and the hex digits of HMAC-SHA256 over the body, or the digits alone.
const SIGNATURES: [&str; 3] = ["x-sig", "x-gitlens-signature", "x-hub-signature-256"];

impl GitlensAccess {
    pub(super) fn is_signed(&self) -> bool {
        matches!(self, GitlensAccess::Signed(_))
    }

    /// Whether a body may be taken.
    pub(super) fn admits(&self, headers: &HeaderMap, body: &[u8]) -> bool {
        let GitlensAccess::Signed(secret) = self else { return true };
        let given = SIGNATURES.iter().find_map(|name| headers.get(*name)?.to_str().ok());
        let Some(signature) = given.and_then(|given| hex(given.strip_prefix("sha256=").unwrap_or(given))) else {
            return false;
        };
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret) else { return false };
        mac.update(body);
        mac.verify_slice(&signature).is_ok()
    }
}

fn hex(text: &str) -> Option<Vec<u8>> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    (0..32).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_taken_under_its_signature_only() {
        // The example of GitHub's documentation on validating deliveries.
        let access = GitlensAccess::Signed(b"It's a Secret to Everybody"[..].into());
        let digits = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        let admits = |name: &'static str, value: &str| {
            let headers = HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())]);
            access.admits(&headers, b"Hello, World!")
        };
        assert!(admits("x-sig", digits) && admits("x-sig", &format!("sha256={digits}")));
        assert!(admits("x-hub-signature-256", &format!("sha256={digits}")));
        assert!(!admits("x-sig", &digits.replace('7', "8")) && !admits("x-sig", "7") && !admits("x-other", digits));
        assert!(!access.admits(&HeaderMap::new(), b"Hello, World!"));
        assert!(GitlensAccess::Open.admits(&HeaderMap::new(), b""));
    }
}
