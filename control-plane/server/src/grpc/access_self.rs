//! What a caller is told of itself: who it is, and what it may do.

use http::Method;
use mindos_proto::access::v1::can_i_request::What;
use mindos_proto::access::v1::{CanIRequest, CanIResponse, PrincipalKind as Kind, WhoAmIResponse};
use mindos_proto::convert::Invalid;
use tonic::Status;

use super::access_words::of_role;
use super::status;
use crate::access::authenticate::Bound;
use crate::access::permission::{self, Listener, Permission, rights};
use crate::access::refusal;
use crate::access::{Principal, PrincipalKind, Scoped, Sources};

/// Answers `WhoAmI`.
pub(super) fn who(scoped: &Scoped) -> WhoAmIResponse {
    let Principal { name, kind, tenant, roles, sources, expires, .. } = &*scoped.caller;
    let (word, tenants, groups) = match kind {
        PrincipalKind::Local | PrincipalKind::Plane => (Kind::Local, Vec::new(), Vec::new()),
        PrincipalKind::ApiToken(_) => (Kind::ApiToken, vec![tenant.to_string()], Vec::new()),
        PrincipalKind::Agent(_) => (Kind::Agent, vec![tenant.to_string()], Vec::new()),
        PrincipalKind::Surface | PrincipalKind::Webhook => (Kind::Surface, vec![tenant.to_string()], Vec::new()),
        PrincipalKind::Person { provider, groups } => {
            let bound = Bound { name, provider, groups, expires: *expires };
            let tenants = bound.tenants(&scoped.access.load()).iter().map(ToString::to_string).collect();
            (Kind::Person, tenants, groups.iter().map(ToString::to_string).collect())
        }
    };
    let held = rights::ALL.into_iter().filter(|right| right.is_of(&scoped.caller));
    WhoAmIResponse {
        principal: name.to_string(),
        kind: word.into(),
        tenant: tenant.to_string(),
        roles: roles.iter().map(of_role).collect(),
        plane: scoped.caller.is_plane(),
        // The plane's may choose any.
        tenants: if scoped.caller.is_plane() { Vec::new() } else { tenants },
        any_source: matches!(sources, Sources::All),
        sources: sources.patterns().iter().map(|pattern| pattern.as_str().to_owned()).collect(),
        expires_at_ms: expires.map_or(0, |at| i64::try_from(at.0).unwrap_or(i64::MAX)),
        permissions: held.map(|right| right.name.to_owned()).collect(),
        groups,
    }
}

/// Answers `CanI`.
pub(super) fn can(scoped: &Scoped, request: CanIRequest) -> Result<CanIResponse, Status> {
    let CanIRequest { what, source } = request;
    let unknown =
        |kind: &str, name: &str| Status::from(status::not_found(kind, name.chars().take(200).collect::<String>()));
    let permission = match &what {
        None => return Err(status::invalid(Invalid::new("what", "expected one of permission, rpc and path")).into()),
        Some(What::Permission(name)) => {
            Permission::Needs(rights::named(name).ok_or_else(|| unknown("permission", name))?)
        }
        Some(What::Rpc(name)) => permission::of_rpc(name).ok_or_else(|| unknown("RPC", name))?.permission,
        Some(What::Path(path)) => of_path(path).ok_or_else(|| unknown("path", path))?,
    };
    let name = match permission {
        Permission::Surface(right) | Permission::Needs(right) => right.name.to_owned(),
        Permission::Public | Permission::Anyone | Permission::Agent | Permission::Webhook => String::new(),
    };
    let caller = &scoped.caller;
    let reason = match permission.is_of(caller) {
        false => refusal::denied(permission, caller).message,
        true if name == rights::EVENTS_PUBLISH.name && !source.is_empty() && !caller.sources.grant(&source) => {
            refusal::source(caller, &source).message
        }
        true => String::new(),
    };
    Ok(CanIResponse { allowed: reason.is_empty(), permission: name, reason })
}

/// What a path of the API takes; in a path of a list names stand for themselves.
fn of_path(text: &str) -> Option<Permission> {
    let (method, path) = text.split_once(' ')?;
    let method: Method = method.parse().ok()?;
    let fits = |pattern: &str| {
        let (mut parts, mut found) = (pattern.split('/'), path.split('/'));
        loop {
            match (parts.next(), found.next()) {
                (None, None) => return true,
                (Some(part), Some(found)) if part == found || part.starts_with('{') && !found.is_empty() => {}
                _ => return false,
            }
        }
    };
    let mut rows = permission::PATHS.iter().filter(|(on, _, pattern, _)| *on == Listener::Api && fits(pattern));
    rows.find_map(|(on, _, pattern, _)| permission::of_path(*on, &method, pattern))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_found_by_its_pattern() {
        assert_eq!(of_path("POST /events"), Some(Permission::Needs(&rights::EVENTS_PUBLISH)));
        assert_eq!(of_path("GET /generals/c1/g1"), Some(Permission::Surface(&rights::FLEET_READ)));
        assert_eq!(of_path("PUT /generals/c1/g1/status"), Some(Permission::Surface(&rights::FLEET_HOLD)));
        for nothing in ["GET /events", "POST /nothing", "/events", "GET /generals//g1", ""] {
            assert_eq!(of_path(nothing), None, "{nothing}");
        }
    }
}
