//! Access as messages: what comes in is checked here, with the name of the field, and what goes out is spelled here.

use std::sync::Arc;
use std::time::Duration;

use mindos_core::access::{
    ApiToken, Binding, Denial, DenialTarget, Holder, Issuer, IssuerGrant, JoinToken, KeyHash, Scope, Subject,
    TenantQuota,
};
use mindos_core::route::Pattern;
use mindos_model::limits::GRANTS_MAX;
use mindos_model::{Role, TenantName};
use mindos_proto::access::v1 as wire;
use mindos_proto::convert::{Invalid, duration, parsed, time};

use crate::access::jwt::key_set::KeySet;

/// How the plane's scope is written.
const PLANE: &str = "*";
/// Shortest life of a token.
const TTL_MIN: Duration = Duration::from_secs(1);

/// Reads where something holds; empty is the caller's tenant.
pub(super) fn scope(text: &str, own: &TenantName, field: &'static str) -> Result<Scope, Invalid> {
    match text {
        "" => Ok(Scope::Tenant(own.clone())),
        PLANE => Ok(Scope::Plane),
        name => Ok(Scope::Tenant(parsed(name, field)?)),
    }
}

/// Reads a tenant; empty is the caller's.
pub(super) fn tenant(text: &str, own: &TenantName, field: &'static str) -> Result<TenantName, Invalid> {
    if text.is_empty() { Ok(own.clone()) } else { parsed(text, field) }
}

/// Reads how long something is good.
pub(super) fn ttl(asked: Option<prost_types::Duration>, stock: Duration, max: Duration) -> Result<Duration, Invalid> {
    let Some(asked) = asked else { return Ok(stock) };
    let ttl = duration(&asked, "ttl")?;
    if (TTL_MIN..=max).contains(&ttl) {
        return Ok(ttl);
    }
    Err(Invalid::new("ttl", format!("is {} s: expected 1 s to {} d", ttl.as_secs(), max.as_secs() / 86_400)))
}

pub(super) fn role(number: i32, field: &str) -> Result<Role, Invalid> {
    match wire::Role::try_from(number) {
        Ok(wire::Role::Viewer) => Ok(Role::Viewer),
        Ok(wire::Role::Publisher) => Ok(Role::Publisher),
        Ok(wire::Role::Operator) => Ok(Role::Operator),
        Ok(wire::Role::Admin) => Ok(Role::Admin),
        Ok(wire::Role::Unspecified) | Err(_) => {
            Err(Invalid::new(field, "expected one of viewer, publisher, operator and admin"))
        }
    }
}

pub(super) fn roles(numbers: &[i32]) -> Result<Vec<Role>, Invalid> {
    if numbers.len() > Role::ALL.len() {
        return Err(Invalid::new("roles", format!("there are {}: expected each role once", numbers.len())));
    }
    numbers.iter().map(|number| role(*number, "roles")).collect()
}

pub(super) fn of_role(role: Role) -> i32 {
    let role = match role {
        Role::Viewer => wire::Role::Viewer,
        Role::Publisher => wire::Role::Publisher,
        Role::Operator => wire::Role::Operator,
        Role::Admin => wire::Role::Admin,
    };
    role.into()
}

pub(super) fn patterns(texts: &[String], field: &str) -> Result<Vec<Pattern>, Invalid> {
    if texts.len() > GRANTS_MAX {
        return Err(Invalid::new(field, format!("there are {}: expected at most {GRANTS_MAX}", texts.len())));
    }
    let one = |(place, text): (usize, &String)| pattern(text, &format!("{field}[{place}]"));
    texts.iter().enumerate().map(one).collect()
}

fn pattern(text: &str, field: &str) -> Result<Pattern, Invalid> {
    let accepted = "expected 1 to 1024 bytes, with at most one `*`, at the end";
    Pattern::new(text).map_err(|_| Invalid::new(field, accepted))
}

fn texts(patterns: &[Pattern]) -> Vec<String> {
    patterns.iter().map(|pattern| pattern.as_str().to_owned()).collect()
}

pub(super) fn of_api_token(token: &ApiToken) -> wire::ApiToken {
    let ApiToken { id, name, hash: _, scope, roles, sources, expires, created, by, last_used } = token;
    wire::ApiToken {
        id: id.0,
        name: name.to_string(),
        tenant: scope.to_string(),
        roles: roles.iter().copied().map(of_role).collect(),
        sources: texts(sources),
        expires_at: Some(time(*expires)),
        created_at: Some(time(*created)),
        created_by: by.to_string(),
        last_used_at: last_used.map(time),
    }
}

/// Reads what whoever joins may become.
pub(super) fn holder(holder: Option<wire::JoinHolder>) -> Result<Holder, Invalid> {
    use wire::join_holder::Holder as Wire;
    let accepted = "expected one of general, any_general and cluster_agent";
    match holder.and_then(|holder| holder.holder) {
        Some(Wire::General(name)) => Ok(Holder::General(parsed(&name, "holder.general")?)),
        Some(Wire::AnyGeneral(true)) => Ok(Holder::AnyGeneral),
        Some(Wire::ClusterAgent(true)) => Ok(Holder::ClusterAgent),
        Some(Wire::AnyGeneral(false) | Wire::ClusterAgent(false)) | None => Err(Invalid::new("holder", accepted)),
    }
}

fn of_holder(holder: &Holder) -> wire::JoinHolder {
    use wire::join_holder::Holder as Wire;
    let holder = match holder {
        Holder::General(name) => Wire::General(name.to_string()),
        Holder::AnyGeneral => Wire::AnyGeneral(true),
        Holder::ClusterAgent => Wire::ClusterAgent(true),
    };
    wire::JoinHolder { holder: Some(holder) }
}

pub(super) fn of_join_token(token: &JoinToken) -> wire::JoinToken {
    let JoinToken { id, hash: _, tenant, cluster, namespace, holder, uses_left, expires, created, by, revoked } = token;
    wire::JoinToken {
        id: id.0,
        tenant: tenant.to_string(),
        cluster: cluster.to_string(),
        namespace: super::words::text(namespace.as_deref()),
        holder: Some(of_holder(holder)),
        uses_left: *uses_left,
        expires_at: Some(time(*expires)),
        created_at: Some(time(*created)),
        created_by: by.to_string(),
        revoked: *revoked,
    }
}

/// Reads whose role it is. Nobody else's roles are bound: tokens have their own, and agents have none.
fn subject(subject: Option<wire::binding::Subject>) -> Result<Subject, Invalid> {
    let known = |name: &str, field: &str| match name.strip_prefix("oidc:").and_then(|rest| rest.split_once('#')) {
        Some((provider, subject)) if !provider.is_empty() && !subject.is_empty() => Ok(Arc::from(name)),
        _ => Err(Invalid::new(field, "expected `oidc:`, the name of a provider, `#`, and who it is there")),
    };
    match subject {
        Some(wire::binding::Subject::Principal(name)) => Ok(Subject::Principal(known(&name, "binding.principal")?)),
        Some(wire::binding::Subject::Group(name)) => Ok(Subject::Group(known(&name, "binding.group")?)),
        None => Err(Invalid::new("binding", "expected one of principal and group")),
    }
}

/// Reads a binding.
pub(super) fn binding(binding: Option<wire::Binding>, own: &TenantName) -> Result<Binding, Invalid> {
    let binding = binding.ok_or_else(|| Invalid::new("binding", "is required"))?;
    let wire::Binding { tenant, role, sources, subject } = binding;
    Ok(Binding {
        scope: scope(&tenant, own, "binding.tenant")?,
        subject: self::subject(subject)?,
        role: self::role(role, "binding.role")?,
        sources: patterns(&sources, "binding.sources")?,
    })
}

pub(super) fn of_binding(binding: &Binding) -> wire::Binding {
    let Binding { scope, subject, role, sources } = binding;
    let subject = match subject {
        Subject::Principal(name) => wire::binding::Subject::Principal(name.to_string()),
        Subject::Group(name) => wire::binding::Subject::Group(name.to_string()),
    };
    wire::Binding { tenant: scope.to_string(), role: of_role(*role), sources: texts(sources), subject: Some(subject) }
}

/// Reads an issuer.
pub(super) fn issuer(issuer: Option<wire::Issuer>, own: &TenantName) -> Result<Issuer, Invalid> {
    let issuer = issuer.ok_or_else(|| Invalid::new("issuer", "is required"))?;
    let wire::Issuer { tenant, cluster, name, url, audience, keys, grants } = issuer;
    if !keys.is_empty() {
        KeySet::parse(keys.as_bytes()).map_err(|error| Invalid::new("issuer.keys", error))?;
    }
    if grants.len() > GRANTS_MAX {
        return Err(Invalid::new(
            "issuer.grants",
            format!("there are {}: expected at most {GRANTS_MAX}", grants.len()),
        ));
    }
    let grant = |(place, grant): (usize, &wire::IssuerGrant)| {
        let field = |name: &str| format!("issuer.grants[{place}].{name}");
        Ok(IssuerGrant {
            namespace: pattern(&grant.namespace, &field("namespace"))?,
            service_account: pattern(&grant.service_account, &field("service_account"))?,
            generals: patterns(&grant.generals, &field("generals"))?,
            cluster_agent: grant.cluster_agent,
        })
    };
    Ok(Issuer {
        tenant: self::tenant(&tenant, own, "issuer.tenant")?,
        cluster: parsed(&cluster, "issuer.cluster")?,
        name: name.into(),
        url: url.into(),
        audience: audience.into(),
        keys: keys.into(),
        grants: grants.iter().enumerate().map(grant).collect::<Result<_, Invalid>>()?,
    })
}

pub(super) fn of_issuer(issuer: &Issuer) -> wire::Issuer {
    let Issuer { tenant, cluster, name, url, audience, keys, grants } = issuer;
    let grant = |grant: &IssuerGrant| wire::IssuerGrant {
        namespace: grant.namespace.as_str().to_owned(),
        service_account: grant.service_account.as_str().to_owned(),
        generals: texts(&grant.generals),
        cluster_agent: grant.cluster_agent,
    };
    wire::Issuer {
        tenant: tenant.to_string(),
        cluster: cluster.to_string(),
        name: name.to_string(),
        url: url.to_string(),
        audience: audience.to_string(),
        keys: keys.to_string(),
        grants: grants.iter().map(grant).collect(),
    }
}

/// Reads which agents are meant.
pub(super) fn agents(pattern: &wire::AgentPattern, own: &TenantName) -> Result<DenialTarget, Invalid> {
    let wire::AgentPattern { tenant, cluster, namespace, general, instance_id } = pattern;
    let some = |text: &str| (!text.is_empty()).then(|| Arc::from(text));
    let general = (!general.is_empty()).then(|| parsed(general, "agent.general")).transpose()?;
    let instance = (!instance_id.is_empty()).then(|| parsed(instance_id, "agent.instance_id")).transpose()?;
    Ok(DenialTarget::Agent {
        tenant: self::tenant(tenant, own, "agent.tenant")?,
        cluster: parsed(cluster, "agent.cluster")?,
        namespace: some(namespace),
        general,
        instance,
    })
}

/// Reads the hash of a key.
pub(super) fn key(bytes: &[u8]) -> Result<DenialTarget, Invalid> {
    let hash: KeyHash = bytes
        .try_into()
        .map_err(|_| Invalid::new("key", format!("has {} bytes: expected the 32 of a SHA-256", bytes.len())))?;
    Ok(DenialTarget::Key(hash))
}

pub(super) fn of_denial(denial: &Denial) -> wire::Denial {
    let Denial { id, scope, target, reason, at, by } = denial;
    let target = match target {
        DenialTarget::Agent { tenant, cluster, namespace, general, instance } => {
            wire::denial::Target::Agent(wire::AgentPattern {
                tenant: tenant.to_string(),
                cluster: cluster.to_string(),
                namespace: super::words::text(namespace.as_deref()),
                general: general.as_ref().map(ToString::to_string).unwrap_or_default(),
                instance_id: instance.as_ref().map(ToString::to_string).unwrap_or_default(),
            })
        }
        DenialTarget::Key(key) => wire::denial::Target::Key(key.to_vec().into()),
    };
    wire::Denial {
        id: id.0,
        reason: reason.to_string(),
        created_at: Some(time(*at)),
        created_by: by.to_string(),
        tenant: scope.to_string(),
        target: Some(target),
    }
}

pub(super) fn quota(quota: wire::TenantQuota) -> TenantQuota {
    let wire::TenantQuota { events_per_second, requests_per_second, open_max, streams_max } = quota;
    TenantQuota { events_per_second, requests_per_second, open_max, streams_max }
}

pub(super) fn of_quota(tenant: &TenantName, quota: &TenantQuota) -> wire::QuotaOfTenant {
    let TenantQuota { events_per_second, requests_per_second, open_max, streams_max } = *quota;
    let quota = wire::TenantQuota { events_per_second, requests_per_second, open_max, streams_max };
    wire::QuotaOfTenant { tenant: tenant.to_string(), quota: Some(quota) }
}
