//! Checks of what a change of access brings.

use std::ops::RangeInclusive;
use std::time::Duration;

use mindos_model::{Role, TenantName, Timestamp, limits};

use crate::access::binding::{Scope, Subject};
use crate::access::denial::DenialTarget;
use crate::access::error::AccessError;
use crate::access::identity::Identity;
use crate::access::issuer::Issuer;
use crate::access::state::share;
use crate::route::Pattern;

/// Bytes of a name that a person gives to a token, a principal or a group.
///
/// A subject of an identity provider has up to 512, and the name of the provider stands before it.
const NAME_MAX: usize = 600;

/// A text of some length without control characters.
pub(super) fn text(field: &'static str, text: &str, len: RangeInclusive<usize>) -> Result<(), AccessError> {
    if len.contains(&text.len()) && !text.chars().any(char::is_control) {
        return Ok(());
    }
    let expected = format!("{} to {} bytes without control characters", len.start(), len.end());
    Err(AccessError::invalid(field, text, expected))
}

/// A name of the same alphabet as those of clusters.
pub(super) fn name(field: &'static str, text: &str) -> Result<(), AccessError> {
    let fits = mindos_model::ClusterName::new(text).is_ok();
    let expected = "1 to 63 of a-z, 0-9, and inside also `-`, `.` and `_`";
    if fits { Ok(()) } else { Err(AccessError::invalid(field, text, expected)) }
}

pub(super) fn token_name(text: &str) -> Result<(), AccessError> {
    self::text("name", text, 1..=NAME_MAX)
}

pub(super) fn subject(subject: &Subject) -> Result<(), AccessError> {
    match subject {
        Subject::Principal(name) => text("principal", name, 1..=NAME_MAX),
        Subject::Group(name) => text("group", name, 1..=NAME_MAX),
    }
}

pub(super) fn roles(roles: &[Role]) -> Result<Vec<Role>, AccessError> {
    let mut roles = roles.to_vec();
    roles.sort_unstable();
    roles.dedup();
    match roles.is_empty() {
        true => Err(AccessError::invalid("roles", "", "at least one of viewer, publisher, operator and admin")),
        false => Ok(roles),
    }
}

/// Only publishers have sources.
pub(super) fn sources(sources: &[Pattern], roles: &[Role]) -> Result<(), AccessError> {
    if sources.len() > limits::GRANTS_MAX {
        let expected = format!("at most {}", limits::GRANTS_MAX);
        return Err(AccessError::invalid("sources", &sources.len().to_string(), expected));
    }
    match sources.first() {
        Some(source) if !roles.contains(&Role::Publisher) => {
            Err(AccessError::invalid("sources", source.as_str(), "none, because the role is not publisher"))
        }
        _ => Ok(()),
    }
}

/// A token lives from now on, and not for ever.
pub(super) fn expires(expires: Timestamp, now: Timestamp, life_max: Duration) -> Result<(), AccessError> {
    let latest = now + life_max;
    if expires > now && expires <= latest {
        return Ok(());
    }
    Err(AccessError::invalid("expires", &expires.to_string(), format!("a time after {now} and up to {latest}")))
}

pub(super) fn namespace(namespace: Option<&str>) -> Result<(), AccessError> {
    let Some(text) = namespace else { return Ok(()) };
    let expected = "1 to 63 of a-z, 0-9 and, inside, `-`";
    Identity::check_namespace(text).map_err(|_| AccessError::invalid("namespace", text, expected))
}

pub(super) fn target(target: &DenialTarget) -> Result<(), AccessError> {
    match target {
        DenialTarget::Agent { namespace, .. } => self::namespace(namespace.as_deref()),
        DenialTarget::Key(_) => Ok(()),
    }
}

pub(super) fn issuer(issuer: &Issuer) -> Result<(), AccessError> {
    let Issuer { tenant: _, cluster: _, name, url, audience, keys, grants } = issuer;
    self::name("issuer.name", name)?;
    text("issuer.url", url, 1..=limits::ATTRIBUTE_MAX)?;
    text("issuer.audience", audience, 1..=limits::ATTRIBUTE_MAX)?;
    if keys.len() > limits::JWKS_MAX {
        let expected = format!("at most {} bytes", limits::JWKS_MAX);
        return Err(AccessError::invalid("issuer.keys", &format!("{} bytes", keys.len()), expected));
    }
    if !(1..=limits::GRANTS_MAX).contains(&grants.len()) {
        let expected = format!("1 to {}", limits::GRANTS_MAX);
        return Err(AccessError::invalid("issuer.grants", &grants.len().to_string(), expected));
    }
    for grant in grants {
        let most = grant.generals.len() <= limits::GRANTS_MAX;
        if !most || (grant.generals.is_empty() && !grant.cluster_agent) {
            let expected = format!("1 to {}, or `cluster_agent`", limits::GRANTS_MAX);
            return Err(AccessError::invalid("issuer.grants.generals", &grant.generals.len().to_string(), expected));
        }
    }
    Ok(())
}

/// Whether there is room for one more thing of a scope among those that are there.
pub(super) fn room<'a>(
    what: &'static str,
    max: usize,
    of: Option<&TenantName>,
    there: impl Iterator<Item = Option<&'a TenantName>>,
) -> Result<(), AccessError> {
    let (mut all, mut own) = (0, 0);
    for tenant in there {
        all += 1;
        own += usize::from(tenant == of);
    }
    if all >= max {
        return Err(AccessError::Full { what, max });
    }
    match of {
        Some(tenant) if own >= share(max) => {
            Err(AccessError::TenantFull { tenant: tenant.clone(), what, max: share(max) })
        }
        _ => Ok(()),
    }
}

/// What is made must lie where its maker acts.
pub(super) fn within(within: &Scope, asked: &Scope) -> Result<(), AccessError> {
    match within.covers(asked) {
        true => Ok(()),
        false => Err(AccessError::OutsideScope { asked: asked.to_string(), within: within.to_string() }),
    }
}
