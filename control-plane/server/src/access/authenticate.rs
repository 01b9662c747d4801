//! Authentication: from what a request shows to who makes it.
//!
//! ```text
//!   certificate of an agent --> its identity                        nothing --> refused, unless access is open
//!   Bearer mindos_api_..    --> API token, by the hash of its text  --> roles in its scope
//!   Bearer x.y.z            --> provider, by its keys               --> roles bound to the person and its groups
//! ```
//! Invariant: a credential is in no error and no log line, and one that is refused is not told from one that never was.

use std::sync::Arc;

use http::{HeaderMap, header};
use mindos_core::access::{Binding, Scope, Subject};
use mindos_model::{TenantName, Timestamp};
use mindos_proto::rpc::Status;

use super::jwt::Jwt;
use super::principal::{Principal, PrincipalKind, Roles, Sources};
use super::refusal::{self, Refused};
use super::secret::{self, API_PREFIX, JOIN_PREFIX};
use super::view::{Known, KnownToken};

/// The header and the metadata by which a principal says for which tenant it acts.
pub const TENANT_HEADER: &str = "mindos-tenant";
/// Longest credential that is looked at, in bytes.
const CREDENTIAL_MAX: usize = 16 * 1024;

/// What a request shows.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Shown<'a> {
    Nothing,
    ApiToken(&'a str),
    Jwt(&'a str),
}

/// Reads the credential among the headers.
pub(super) fn shown(headers: &HeaderMap) -> Result<Shown<'_>, Refused> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(Shown::Nothing) };
    if values.next().is_some() || value.len() > CREDENTIAL_MAX {
        return Err(Refused::Malformed);
    }
    let text = value.to_str().map_err(|_| Refused::Malformed)?;
    let (scheme, credential) = text.split_once(' ').ok_or(Refused::Scheme)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Refused::Scheme);
    }
    let credential = credential.trim();
    if credential.starts_with(API_PREFIX) {
        return if secret::is_formed(credential, API_PREFIX) {
            Ok(Shown::ApiToken(credential))
        } else {
            Err(Refused::Malformed)
        };
    }
    if credential.starts_with(JOIN_PREFIX) {
        return Err(Refused::JoinToken);
    }
    if Jwt::is_compact(credential) { Ok(Shown::Jwt(credential)) } else { Err(Refused::Malformed) }
}

/// The tenant that a request names; unset where it names none.
pub(super) fn tenant(headers: &HeaderMap) -> Result<Option<TenantName>, Status> {
    let Some(value) = headers.get(TENANT_HEADER) else { return Ok(None) };
    let name = value.to_str().ok().and_then(|text| text.parse().ok());
    name.map(Some).ok_or_else(refusal::malformed_tenant)
}

/// Finds the API token.
pub(super) fn api_token<'a>(known: &'a Known, text: &str, now: Timestamp) -> Result<&'a Arc<KnownToken>, Refused> {
    let found = known.api_token(&secret::hash(text)).ok_or(Refused::Unknown)?;
    if found.token.expires <= now {
        return Err(Refused::Expired);
    }
    Ok(found)
}

/// Who a token stands for, in the tenant that is asked for.
pub(super) fn of_token(found: &KnownToken, asked: Option<TenantName>, from: Arc<str>) -> Result<Principal, Status> {
    let is_tenant_chosen = asked.is_some();
    let (tenant, plane_roles) = match (&found.token.scope, asked) {
        (Scope::Plane, asked) => (asked.unwrap_or_else(TenantName::default_tenant), found.roles),
        (Scope::Tenant(own), Some(asked)) if *own != asked => return Err(refusal::no_role(&found.name)),
        (Scope::Tenant(own), _) => (own.clone(), Roles::NONE),
    };
    Ok(Principal {
        name: Arc::clone(&found.name),
        kind: PrincipalKind::ApiToken(found.token.id),
        tenant,
        roles: found.roles,
        plane_roles,
        is_tenant_chosen,
        sources: found.sources.clone(),
        expires: Some(found.token.expires),
        from,
    })
}

/// Somebody whose roles are bound to its name and its groups.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound<'a> {
    pub(crate) name: &'a Arc<str>,
    pub(crate) provider: &'a Arc<str>,
    pub(crate) groups: &'a Arc<[Arc<str>]>,
    pub(crate) expires: Option<Timestamp>,
}

impl Bound<'_> {
    fn bindings<'k>(&self, known: &'k Known) -> Vec<&'k Arc<Binding>> {
        let subjects = [Subject::Principal(Arc::clone(self.name))];
        let groups = self.groups.iter().map(|group| Subject::Group(Arc::clone(group)));
        subjects.into_iter().chain(groups).flat_map(|subject| known.bindings(&subject)).collect()
    }

    /// The tenants in which it has a role of their own.
    pub(crate) fn tenants(&self, known: &Known) -> Vec<TenantName> {
        let mut tenants: Vec<_> =
            self.bindings(known).into_iter().filter_map(|binding| binding.scope.tenant().cloned()).collect();
        tenants.sort();
        tenants.dedup();
        tenants
    }

    /// Who that is in the tenant that is asked for. Where none is, and there are several, it has to say which, unless `any` will do.
    pub(super) fn principal(
        &self,
        known: &Known,
        asked: Option<TenantName>,
        any: bool,
        from: Arc<str>,
    ) -> Result<Principal, Status> {
        let bindings = self.bindings(known);
        let of_plane = bindings.iter().filter(|binding| binding.scope == Scope::Plane);
        let plane_roles: Roles = of_plane.map(|binding| binding.role).collect();
        let is_tenant_chosen = asked.is_some();
        let tenant = match asked {
            Some(asked) => asked,
            None if !plane_roles.is_empty() => TenantName::default_tenant(),
            None => {
                let tenants = self.tenants(known);
                match &tenants[..] {
                    [] => TenantName::default_tenant(),
                    [only] => only.clone(),
                    several if several.contains(&TenantName::default_tenant()) => TenantName::default_tenant(),
                    [first, ..] if any => first.clone(),
                    _ => return Err(refusal::ambiguous_tenant(self.name)),
                }
            }
        };
        let here: Vec<_> = bindings.into_iter().filter(|binding| binding.scope.covers_tenant(&tenant)).collect();
        let roles: Roles = here.iter().map(|binding| binding.role).collect();
        if is_tenant_chosen && roles.is_empty() {
            return Err(refusal::no_role(self.name));
        }
        let sources = Sources::of(roles, here.iter().flat_map(|binding| &binding.sources));
        Ok(Principal {
            name: Arc::clone(self.name),
            kind: PrincipalKind::Person { provider: Arc::clone(self.provider), groups: Arc::clone(self.groups) },
            tenant,
            roles,
            plane_roles,
            is_tenant_chosen,
            sources,
            expires: self.expires,
            from,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (header::AUTHORIZATION, value.parse().unwrap())).collect()
    }

    #[test]
    fn a_credential_is_read_by_its_form() {
        let token = format!("mindos_api_{}", "a".repeat(43));
        let bearer = format!("bearer  {token}");
        assert_eq!(shown(&headers(&[])), Ok(Shown::Nothing));
        assert_eq!(shown(&headers(&[&bearer])), Ok(Shown::ApiToken(&token)));
        assert_eq!(shown(&headers(&["Bearer a.b.c"])), Ok(Shown::Jwt("a.b.c")));
        for (values, refused) in [
            (&["Basic dXNlcjpwYXNz"][..], Refused::Scheme),
            (&["mindos_api_x"], Refused::Scheme),
            (&["Bearer mindos_api_short"], Refused::Malformed),
            (&["Bearer opaque"], Refused::Malformed),
            (&["Bearer a.b.c", "Bearer a.b.c"], Refused::Malformed),
            (&["Bearer mindos_join_x"], Refused::JoinToken),
        ] {
            assert_eq!(shown(&headers(values)), Err(refused), "{values:?}");
        }
        let long = format!("Bearer {}", "a.".repeat(CREDENTIAL_MAX));
        assert_eq!(shown(&headers(&[&long])), Err(Refused::Malformed));
    }
}
