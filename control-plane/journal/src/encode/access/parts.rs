//! What records and items of access have in common: tokens, bindings, issuers, denials, quotas.

use std::sync::Arc;

use bytes::Bytes;
use mindos_core::access::{
    ApiToken, Binding, Denial, DenialId, DenialTarget, Holder, Identity, Issuer, IssuerGrant, JoinToken, TenantQuota,
    TokenId,
};
use mindos_model::Timestamp;
use mindos_proto::convert::{Invalid, parsed, required};
use mindos_proto::journal::v1 as pb;

use super::{of_patterns, of_role, of_subject, pattern, patterns, role, scope, subject};
use crate::encode::names::Names;
use crate::encode::read::fixed;
use crate::encode::record::tenant;

pub(super) fn of_api_token(token: &ApiToken) -> pb::ApiToken {
    let ApiToken { id, name, hash, scope, roles, sources, expires, created, by, last_used } = token;
    pb::ApiToken {
        id: id.0,
        name: name.to_string(),
        hash: Bytes::copy_from_slice(hash),
        scope: scope.to_string(),
        roles: roles.iter().copied().map(of_role).collect(),
        sources: of_patterns(sources),
        expires_ms: expires.0,
        created_ms: created.0,
        by: by.to_string(),
        last_used_ms: last_used.map_or(0, |at| at.0),
    }
}

pub(super) fn api_token(message: pb::ApiToken) -> Result<ApiToken, Invalid> {
    let pb::ApiToken { id, name, hash, scope: of, roles, sources, expires_ms, created_ms, by, last_used_ms } = message;
    Ok(ApiToken {
        id: TokenId(id),
        name: Arc::from(name),
        hash: fixed(&hash, "token.hash")?,
        scope: scope(&of)?,
        roles: roles.into_iter().map(role).collect::<Result<_, _>>()?,
        sources: patterns(&sources, "token.sources")?,
        expires: Timestamp(expires_ms),
        created: Timestamp(created_ms),
        by: Arc::from(by),
        last_used: (last_used_ms != 0).then_some(Timestamp(last_used_ms)),
    })
}

pub(super) fn of_join_token(token: &JoinToken) -> pb::JoinToken {
    use pb::join_token::Holder as Which;
    let JoinToken { id, hash, tenant: of, cluster, namespace, holder, uses_left, expires, created, by, revoked } =
        token;
    pb::JoinToken {
        id: id.0,
        hash: Bytes::copy_from_slice(hash),
        tenant: tenant(of),
        cluster: cluster.to_string(),
        namespace: namespace.as_deref().unwrap_or_default().to_owned(),
        holder: Some(match holder {
            Holder::General(name) => Which::General(name.to_string()),
            Holder::AnyGeneral => Which::AnyGeneral(true),
            Holder::ClusterAgent => Which::ClusterAgent(true),
        }),
        uses_left: *uses_left,
        expires_ms: expires.0,
        created_ms: created.0,
        by: by.to_string(),
        revoked: *revoked,
    }
}

pub(super) fn join_token(names: &mut Names, message: pb::JoinToken) -> Result<JoinToken, Invalid> {
    use pb::join_token::Holder as Which;
    let pb::JoinToken { id, hash, tenant, cluster, namespace, holder, .. } = message;
    let pb::JoinToken { uses_left, expires_ms, created_ms, by, revoked, .. } = message;
    Ok(JoinToken {
        id: TokenId(id),
        hash: fixed(&hash, "token.hash")?,
        tenant: names.tenant(&tenant)?,
        cluster: names.cluster(&cluster)?,
        namespace: maybe_namespace(namespace)?,
        holder: match required(holder, "token.holder")? {
            Which::General(name) => Holder::General(parsed(&name, "token.general")?),
            Which::AnyGeneral(true) => Holder::AnyGeneral,
            Which::ClusterAgent(true) => Holder::ClusterAgent,
            Which::AnyGeneral(false) | Which::ClusterAgent(false) => {
                return Err(Invalid::new("token.holder", "is false: expected true"));
            }
        },
        uses_left,
        expires: Timestamp(expires_ms),
        created: Timestamp(created_ms),
        by: Arc::from(by),
        revoked,
    })
}

fn maybe_namespace(text: String) -> Result<Option<Arc<str>>, Invalid> {
    if text.is_empty() {
        return Ok(None);
    }
    Identity::check_namespace(&text).map_err(|error| Invalid::new("namespace", error))?;
    Ok(Some(Arc::from(text)))
}

pub(super) fn of_binding(binding: &Binding) -> pb::RoleBinding {
    let Binding { scope, subject, role, sources } = binding;
    pb::RoleBinding {
        scope: scope.to_string(),
        subject: Some(of_subject(subject)),
        role: of_role(*role),
        sources: of_patterns(sources),
    }
}

pub(super) fn binding(message: pb::RoleBinding) -> Result<Binding, Invalid> {
    let pb::RoleBinding { scope: of, subject: who, role: which, sources } = message;
    Ok(Binding {
        scope: scope(&of)?,
        subject: subject(who)?,
        role: role(which)?,
        sources: patterns(&sources, "binding.sources")?,
    })
}

pub(super) fn of_issuer(issuer: &Issuer) -> pb::Issuer {
    let Issuer { tenant: of, cluster, name, url, audience, keys, grants } = issuer;
    let grants = grants.iter().map(|grant| {
        let IssuerGrant { namespace, service_account, generals, cluster_agent } = grant;
        pb::IssuerGrant {
            namespace: namespace.as_str().to_owned(),
            service_account: service_account.as_str().to_owned(),
            generals: of_patterns(generals),
            cluster_agent: *cluster_agent,
        }
    });
    pb::Issuer {
        tenant: tenant(of),
        cluster: cluster.to_string(),
        name: name.to_string(),
        url: url.to_string(),
        audience: audience.to_string(),
        keys: keys.to_string(),
        grants: grants.collect(),
    }
}

pub(super) fn issuer(names: &mut Names, message: pb::Issuer) -> Result<Issuer, Invalid> {
    let pb::Issuer { tenant, cluster, name, url, audience, keys, grants } = message;
    let grants = grants.into_iter().map(|grant| {
        let pb::IssuerGrant { namespace, service_account, generals, cluster_agent } = grant;
        Ok(IssuerGrant {
            namespace: pattern(&namespace, "issuer.grants.namespace")?,
            service_account: pattern(&service_account, "issuer.grants.service_account")?,
            generals: patterns(&generals, "issuer.grants.generals")?,
            cluster_agent,
        })
    });
    Ok(Issuer {
        tenant: names.tenant(&tenant)?,
        cluster: names.cluster(&cluster)?,
        name: Arc::from(name),
        url: Arc::from(url),
        audience: Arc::from(audience),
        keys: Arc::from(keys),
        grants: grants.collect::<Result<_, Invalid>>()?,
    })
}

pub(super) fn of_denial(denial: &Denial) -> pb::Denial {
    let Denial { id, scope, target, reason, at, by } = denial;
    let target = match target {
        DenialTarget::Agent { tenant: of, cluster, namespace, general, instance } => {
            pb::denial::Target::Agent(pb::DeniedAgent {
                tenant: tenant(of),
                cluster: cluster.to_string(),
                namespace: namespace.as_deref().unwrap_or_default().to_owned(),
                general: general.as_ref().map(ToString::to_string).unwrap_or_default(),
                instance: instance.as_ref().map(ToString::to_string).unwrap_or_default(),
            })
        }
        DenialTarget::Key(key) => pb::denial::Target::Key(Bytes::copy_from_slice(key)),
    };
    pb::Denial {
        id: id.0,
        scope: scope.to_string(),
        target: Some(target),
        reason: reason.to_string(),
        at_ms: at.0,
        by: by.to_string(),
    }
}

pub(super) fn denial(names: &mut Names, message: pb::Denial) -> Result<Denial, Invalid> {
    let pb::Denial { id, scope: of, target, reason, at_ms, by } = message;
    let target = match required(target, "denial.target")? {
        pb::denial::Target::Agent(pb::DeniedAgent { tenant, cluster, namespace, general, instance }) => {
            let named = |text: &str| !text.is_empty();
            DenialTarget::Agent {
                tenant: names.tenant(&tenant)?,
                cluster: names.cluster(&cluster)?,
                namespace: maybe_namespace(namespace)?,
                general: named(&general).then(|| parsed(&general, "denial.general")).transpose()?,
                instance: named(&instance).then(|| parsed(&instance, "denial.instance")).transpose()?,
            }
        }
        pb::denial::Target::Key(key) => DenialTarget::Key(fixed(&key, "denial.key")?),
    };
    let (reason, by) = (Arc::from(reason), Arc::from(by));
    Ok(Denial { id: DenialId(id), scope: scope(&of)?, target, reason, at: Timestamp(at_ms), by })
}

pub(super) fn of_quota(quota: TenantQuota) -> pb::TenantQuota {
    let TenantQuota { events_per_second, requests_per_second, open_max, streams_max } = quota;
    pb::TenantQuota { events_per_second, requests_per_second, open_max, streams_max }
}

pub(super) fn quota(message: pb::TenantQuota) -> TenantQuota {
    let pb::TenantQuota { events_per_second, requests_per_second, open_max, streams_max } = message;
    TenantQuota { events_per_second, requests_per_second, open_max, streams_max }
}
