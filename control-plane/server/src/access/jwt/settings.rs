//! Identity providers, as the settings file names them.
//!
//! ```yaml
//! oidc:
//!   - name: corp                             # people are `oidc:corp#<sub>`, groups `oidc:corp#<group>`
//!     issuer: https://login.example.com      # as it stands in tokens; discovery is asked below it
//!     audience: mindos                       # tokens for others are refused
//!     groups_claim: groups                   # also a path, such as realm_access.roles
//!     jwks: https://login.example.com/keys   # where its keys are; by discovery when left out
//!     ca: /etc/mindos/corp-ca.pem            # who vouches for its certificate; whom the machine trusts when left out
//!     skew: 60s                              # by how much its clock may differ, 0s to 5m
//! ```

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use serde::Deserialize;

use crate::config::span;
use crate::secret::Secrets;
use mindos_outgoing::{Outgoing, Target};

/// Providers in one file.
const PROVIDERS_MAX: usize = 16;
/// By how much clocks may differ unless something else is said.
const SKEW: Duration = Duration::from_secs(60);
const SKEW_MAX: Duration = Duration::from_secs(300);
/// Bytes of a file of certificates.
const CA_BYTES_MAX: u64 = 1 << 20;

/// The providers in force.
pub type Configured = Arc<ArcSwap<Vec<OidcProvider>>>;

/// An identity provider as the settings file names it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OidcSetting {
    name: String,
    issuer: String,
    audience: String,
    groups_claim: Option<String>,
    jwks: Option<String>,
    ca: Option<PathBuf>,
    skew: Option<String>,
}

/// An identity provider, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OidcProvider {
    /// Names it in principals: 1 to 63 of a-z, 0-9 and `-`.
    pub name: Arc<str>,
    /// What `iss` of its tokens has to be.
    pub issuer: Arc<str>,
    /// What `aud` of its tokens has to hold.
    pub audience: Arc<str>,
    /// Claim that lists groups.
    pub groups_claim: Arc<str>,
    /// Where its description is.
    pub discovery: Target,
    /// Where its keys are; by discovery when unset.
    pub jwks: Option<Target>,
    /// Certificates that vouch for its servers, as PEM; whom the machine trusts when unset.
    pub ca: Option<Arc<[u8]>>,
    /// By how much its clock may differ.
    pub skew: Duration,
}

/// Checks all providers.
///
/// # Errors
/// Names the field and what is accepted.
pub fn providers(settings: &[OidcSetting], secrets: Secrets) -> Result<Vec<OidcProvider>, String> {
    if settings.len() > PROVIDERS_MAX {
        return Err(format!("`oidc` has {} providers: at most {PROVIDERS_MAX} are taken", settings.len()));
    }
    let (mut names, mut pairs) = (BTreeSet::new(), BTreeSet::new());
    let mut checked = Vec::with_capacity(settings.len());
    for (index, setting) in settings.iter().enumerate() {
        let provider =
            provider(setting, secrets).map_err(|(field, reason)| format!("`oidc[{index}].{field}`: {reason}"))?;
        if !names.insert(Arc::clone(&provider.name)) {
            return Err(format!("`oidc[{index}].name`: `{}` is the name of another provider too", provider.name));
        }
        if !pairs.insert((Arc::clone(&provider.issuer), Arc::clone(&provider.audience))) {
            return Err(format!("`oidc[{index}]`: another provider has the same `issuer` and `audience`"));
        }
        checked.push(provider);
    }
    Ok(checked)
}

fn provider(setting: &OidcSetting, secrets: Secrets) -> Result<OidcProvider, (&'static str, String)> {
    let OidcSetting { name, issuer, audience, groups_claim, jwks, ca, skew } = setting;
    let is_name = (1..=63).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if !is_name {
        return Err(("name", format!("`{name}`: expected 1 to 63 of a-z, 0-9 and -")));
    }
    let text = |field: &'static str, text: &str| match text {
        text if (1..=255).contains(&text.len()) && !text.chars().any(char::is_control) => Ok(Arc::from(text)),
        _ => Err((field, "expected 1 to 255 bytes of printable text".to_owned())),
    };
    let target = |field: &'static str, text: &str| {
        let target = Target::parse(text, false).map_err(|error| (field, error.to_string().replace(INSECURE, "")))?;
        match text.contains(['?', '#']) {
            true => Err((field, "has a query or a fragment: expected an address without".to_owned())),
            false => Ok(target),
        }
    };
    let discovery = target("issuer", issuer)?.join("/.well-known/openid-configuration");
    let skew = skew.as_deref().map_or(Ok(SKEW), span).map_err(|error| ("skew", error))?;
    if skew > SKEW_MAX {
        return Err(("skew", "expected 0s to 5m".to_owned()));
    }
    let ca = match ca {
        Some(path) if secrets == Secrets::Read => Some(authorities(path).map_err(|reason| ("ca", reason))?),
        _ => None,
    };
    Ok(OidcProvider {
        name: name.as_str().into(),
        issuer: text("issuer", issuer)?,
        audience: text("audience", audience)?,
        groups_claim: text("groups_claim", groups_claim.as_deref().unwrap_or("groups"))?,
        discovery: discovery.map_err(|error| ("issuer", error.to_string()))?,
        jwks: jwks.as_deref().map(|jwks| target("jwks", jwks)).transpose()?,
        ca,
        skew,
    })
}

/// What is said of addresses that may be in the clear, which these may not.
const INSECURE: &str = ", unless `insecure: true` stands beside it";

/// Reads certificates that vouch for a server, and checks that they can.
///
/// # Errors
/// Names the file and what is accepted.
pub(crate) fn authorities(path: &Path) -> Result<Arc<[u8]>, String> {
    let failed = |error: &dyn std::fmt::Display| format!("failed to read `{}`: {error}", path.display());
    let length = std::fs::metadata(path).map_err(|error| failed(&error))?.len();
    if length > CA_BYTES_MAX {
        return Err(failed(&"it has more than 1 MiB"));
    }
    let pem = std::fs::read(path).map_err(|error| failed(&error))?;
    Outgoing::trusting(&pem).map_err(|error| format!("`{}` {error}", path.display()))?;
    Ok(pem.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(yaml: &str) -> Result<Vec<OidcProvider>, String> {
        let settings: Vec<OidcSetting> = serde_norway::from_str(yaml).map_err(|error| error.to_string())?;
        providers(&settings, Secrets::Read)
    }

    #[test]
    fn a_provider_is_checked_whole() {
        let good = read("[{name: corp, issuer: 'https://login.example.com/realm/', audience: mindos}]").unwrap();
        assert_eq!((&*good[0].groups_claim, good[0].skew), ("groups", SKEW));
        let expected = Target::parse("https://login.example.com/realm/.well-known/openid-configuration", false);
        assert_eq!(good[0].discovery, expected.unwrap());
        let with = |rest: &str| format!("[{{name: corp, issuer: 'https://x', audience: a, {rest}}}]");
        let empty = tempfile::NamedTempFile::new().unwrap();
        for (bad, says) in [
            ("[{name: Corp, issuer: 'https://x', audience: a}]".to_owned(), "oidc[0].name"),
            ("[{name: c#d, issuer: 'https://x', audience: a}]".to_owned(), "oidc[0].name"),
            ("[{name: c, issuer: 'http://example.com', audience: a}]".to_owned(), "oidc[0].issuer`: is not https"),
            ("[{name: c, issuer: 'https://x?a=b', audience: a}]".to_owned(), "oidc[0].issuer`: has a query"),
            ("[{name: c, issuer: 'https://x', audience: ''}]".to_owned(), "oidc[0].audience"),
            ("[{name: c, issuer: 'https://x'}]".to_owned(), "audience"),
            (with("skew: 6m"), "oidc[0].skew"),
            (with("skew: minute"), "oidc[0].skew"),
            (with("jwks: 'ftp://x'"), "oidc[0].jwks"),
            (with("groups_claim: ''"), "oidc[0].groups_claim"),
            (with("ca: /none"), "oidc[0].ca"),
            (with(&format!("ca: {:?}", empty.path())), "oidc[0].ca"),
            (with("client_secret: x"), "client_secret"),
            (
                "[{name: c, issuer: 'https://x', audience: a}, {name: c, issuer: 'https://y', audience: a}]".to_owned(),
                "oidc[1].name",
            ),
            (
                "[{name: c, issuer: 'https://x', audience: a}, {name: d, issuer: 'https://x', audience: a}]".to_owned(),
                "oidc[1]`: another provider",
            ),
        ] {
            let error = read(&bad).unwrap_err();
            assert!(error.contains(says) && !error.contains("insecure"), "{bad}: {error}");
        }
        let many: Vec<String> =
            (0..17).map(|at| format!("{{name: p{at}, issuer: 'https://x', audience: a{at}}}")).collect();
        assert!(read(&format!("[{}]", many.join(","))).unwrap_err().contains("at most 16"));
    }
}
