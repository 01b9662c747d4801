//! Records and items of access as messages, and back with each field checked.

use std::sync::Arc;

use bytes::Bytes;
use mindos_core::access::{
    AccessRecord, AuthorityChange, Checkpoint, Denial, DenialId, Identity, IdentityHolder, JoinRefusal, JoinRefused,
    JoinedBy, KeyId, Scope, SigningKey, Subject, TokenId,
};
use mindos_core::record::{PayloadsRedacted, Record};
use mindos_core::route::Pattern;
use mindos_model::{Role, Seq, Timestamp};
use mindos_proto::convert::{Invalid, parsed, required};
use mindos_proto::journal::v1::{self as pb, entry::Record as Kind};

use super::names::Names;
use super::read::fixed;
use super::record::tenant;

mod parts;
pub(crate) mod state;

use parts::{
    api_token, binding, denial, issuer, join_token, of_api_token, of_binding, of_denial, of_issuer, of_join_token,
    of_quota, quota,
};

pub(crate) fn to_message(record: &AccessRecord) -> Kind {
    match record {
        AccessRecord::ApiTokenCreated { token, from } => {
            Kind::ApiTokenCreated(pb::ApiTokenCreated { token: Some(of_api_token(token)), from: from.to_string() })
        }
        AccessRecord::ApiTokenUsed { scope, token, at, from } => Kind::ApiTokenUsed(pb::ApiTokenUsed {
            token: token.0,
            at_ms: at.0,
            from: from.to_string(),
            scope: scope.to_string(),
        }),
        AccessRecord::ApiTokenRevoked { scope, token, by, from } => Kind::ApiTokenRevoked(pb::ApiTokenRevoked {
            token: token.0,
            by: by.to_string(),
            from: from.to_string(),
            scope: scope.to_string(),
        }),
        AccessRecord::JoinTokenCreated { token, from } => {
            Kind::JoinTokenCreated(pb::JoinTokenCreated { token: Some(of_join_token(token)), from: from.to_string() })
        }
        AccessRecord::JoinTokenRevoked { tenant: of, token, by, from } => {
            Kind::JoinTokenRevoked(pb::JoinTokenRevoked {
                token: token.0,
                by: by.to_string(),
                from: from.to_string(),
                tenant: tenant(of),
            })
        }
        AccessRecord::AgentJoined { identity, key, how, not_after, from } => Kind::AgentJoined(pb::AgentJoined {
            identity: Some(of_identity(identity)),
            key: Bytes::copy_from_slice(key),
            how: Some(of_how(how)),
            not_after_ms: not_after.0,
            from: from.to_string(),
        }),
        AccessRecord::JoinRefused { refused, from } => {
            let JoinRefused { tenant: of, token, cluster, reason } = refused;
            Kind::JoinRefused(pb::JoinRefused {
                tenant: tenant(of),
                token: token.map_or(0, |token| token.0),
                cluster: cluster.to_string(),
                reason: of_refusal(*reason),
                from: from.to_string(),
            })
        }
        AccessRecord::RoleBound { binding, by, from } => Kind::RoleBound(pb::RoleBound {
            binding: Some(of_binding(binding)),
            by: by.to_string(),
            from: from.to_string(),
        }),
        AccessRecord::RoleUnbound { scope, subject, role, by, from } => Kind::RoleUnbound(pb::RoleUnbound {
            scope: scope.to_string(),
            subject: Some(of_subject(subject)),
            role: of_role(*role),
            by: by.to_string(),
            from: from.to_string(),
        }),
        AccessRecord::IssuerRegistered { issuer, by, from } => Kind::IssuerRegistered(pb::IssuerRegistered {
            issuer: Some(of_issuer(issuer)),
            by: by.to_string(),
            from: from.to_string(),
        }),
        AccessRecord::IssuerRemoved { tenant: of, cluster, name, by, from } => Kind::IssuerRemoved(pb::IssuerRemoved {
            tenant: tenant(of),
            cluster: cluster.to_string(),
            name: name.to_string(),
            by: by.to_string(),
            from: from.to_string(),
        }),
        AccessRecord::AgentDenied { denial, from } => {
            Kind::AgentDenied(pb::AgentDenied { denial: Some(of_denial(denial)), from: from.to_string() })
        }
        AccessRecord::AgentAllowed { scope, denial, by, from } => Kind::AgentAllowed(pb::AgentAllowed {
            denial: denial.0,
            scope: scope.to_string(),
            by: by.to_string(),
            from: from.to_string(),
        }),
        AccessRecord::QuotaSet { tenant: of, quota, by, from } => Kind::QuotaSet(pb::QuotaSet {
            tenant: tenant(of),
            quota: quota.map(of_quota),
            by: by.to_string(),
            from: from.to_string(),
        }),
        AccessRecord::SettingsChanged { what, digest, summary, by, from } => {
            Kind::SettingsChanged(pb::SettingsChanged {
                what: what.to_string(),
                digest: Bytes::copy_from_slice(digest),
                summary: summary.to_string(),
                by: by.to_string(),
                from: from.to_string(),
            })
        }
        AccessRecord::AuthorityChanged { what, by, from } => Kind::AuthorityChanged(pb::AuthorityChanged {
            what: Some(of_authority(what)),
            by: by.to_string(),
            from: from.to_string(),
        }),
        AccessRecord::CheckpointSigned(checkpoint) => Kind::CheckpointSigned(of_checkpoint(checkpoint)),
    }
}

pub(crate) fn of_redacted(record: &PayloadsRedacted) -> Kind {
    let PayloadsRedacted { tenant: of, events, why, by, from } = record;
    Kind::PayloadsRedacted(pb::PayloadsRedacted {
        events: events.iter().map(|event| event.0).collect(),
        why: why.to_string(),
        by: by.to_string(),
        from: from.to_string(),
        tenant: tenant(of),
    })
}

pub(crate) fn redacted(names: &mut Names, message: pb::PayloadsRedacted) -> Result<Record, Invalid> {
    let pb::PayloadsRedacted { events, why, by, from, tenant } = message;
    Ok(Record::PayloadsRedacted(Box::new(PayloadsRedacted {
        tenant: names.tenant(&tenant)?,
        events: events.into_iter().map(Seq).collect(),
        why: Arc::from(why),
        by: Arc::from(by),
        from: Arc::from(from),
    })))
}

/// A record of access; what is none is refused.
pub(crate) fn from_message(names: &mut Names, kind: Kind) -> Result<AccessRecord, Invalid> {
    let text = |text: &str| Arc::<str>::from(text);
    Ok(match kind {
        Kind::ApiTokenCreated(pb::ApiTokenCreated { token, from }) => {
            let token = Arc::new(api_token(required(token, "token")?)?);
            AccessRecord::ApiTokenCreated { token, from: text(&from) }
        }
        Kind::ApiTokenUsed(pb::ApiTokenUsed { token, at_ms, from, scope }) => AccessRecord::ApiTokenUsed {
            scope: self::scope(&scope)?,
            token: TokenId(token),
            at: Timestamp(at_ms),
            from: text(&from),
        },
        Kind::ApiTokenRevoked(pb::ApiTokenRevoked { token, by, from, scope }) => AccessRecord::ApiTokenRevoked {
            scope: self::scope(&scope)?,
            token: TokenId(token),
            by: text(&by),
            from: text(&from),
        },
        Kind::JoinTokenCreated(pb::JoinTokenCreated { token, from }) => {
            let token = Arc::new(join_token(names, required(token, "token")?)?);
            AccessRecord::JoinTokenCreated { token, from: text(&from) }
        }
        Kind::JoinTokenRevoked(pb::JoinTokenRevoked { token, by, from, tenant }) => AccessRecord::JoinTokenRevoked {
            tenant: names.tenant(&tenant)?,
            token: TokenId(token),
            by: text(&by),
            from: text(&from),
        },
        Kind::AgentJoined(pb::AgentJoined { identity, key, how, not_after_ms, from }) => AccessRecord::AgentJoined {
            identity: self::identity(names, required(identity, "identity")?)?,
            key: fixed(&key, "key")?,
            how: self::how(required(how, "how")?),
            not_after: Timestamp(not_after_ms),
            from: text(&from),
        },
        Kind::JoinRefused(pb::JoinRefused { tenant, token, cluster, reason, from }) => AccessRecord::JoinRefused {
            refused: JoinRefused {
                tenant: names.tenant(&tenant)?,
                token: (token != 0).then_some(TokenId(token)),
                cluster: names.cluster(&cluster)?,
                reason: refusal(reason)?,
            },
            from: text(&from),
        },
        Kind::RoleBound(pb::RoleBound { binding: bound, by, from }) => {
            let binding = Arc::new(binding(required(bound, "binding")?)?);
            AccessRecord::RoleBound { binding, by: text(&by), from: text(&from) }
        }
        Kind::RoleUnbound(pb::RoleUnbound { scope, subject, role, by, from }) => AccessRecord::RoleUnbound {
            scope: self::scope(&scope)?,
            subject: self::subject(subject)?,
            role: self::role(role)?,
            by: text(&by),
            from: text(&from),
        },
        Kind::IssuerRegistered(pb::IssuerRegistered { issuer: registered, by, from }) => {
            let issuer = Arc::new(issuer(names, required(registered, "issuer")?)?);
            AccessRecord::IssuerRegistered { issuer, by: text(&by), from: text(&from) }
        }
        Kind::IssuerRemoved(pb::IssuerRemoved { tenant, cluster, name, by, from }) => AccessRecord::IssuerRemoved {
            tenant: names.tenant(&tenant)?,
            cluster: names.cluster(&cluster)?,
            name: text(&name),
            by: text(&by),
            from: text(&from),
        },
        Kind::AgentDenied(pb::AgentDenied { denial: denied, from }) => {
            let denial = Arc::<Denial>::new(denial(names, required(denied, "denial")?)?);
            AccessRecord::AgentDenied { denial, from: text(&from) }
        }
        Kind::AgentAllowed(pb::AgentAllowed { denial, scope, by, from }) => AccessRecord::AgentAllowed {
            scope: self::scope(&scope)?,
            denial: DenialId(denial),
            by: text(&by),
            from: text(&from),
        },
        Kind::QuotaSet(pb::QuotaSet { tenant, quota: set, by, from }) => AccessRecord::QuotaSet {
            tenant: names.tenant(&tenant)?,
            quota: set.map(quota),
            by: text(&by),
            from: text(&from),
        },
        Kind::SettingsChanged(pb::SettingsChanged { what, digest, summary, by, from }) => {
            AccessRecord::SettingsChanged {
                what: text(&what),
                digest: fixed(&digest, "digest")?,
                summary: text(&summary),
                by: text(&by),
                from: text(&from),
            }
        }
        Kind::AuthorityChanged(pb::AuthorityChanged { what, by, from }) => AccessRecord::AuthorityChanged {
            what: authority(required(what, "what")?)?,
            by: text(&by),
            from: text(&from),
        },
        Kind::CheckpointSigned(message) => AccessRecord::CheckpointSigned(checkpoint(&message)?),
        _ => return Err(Invalid::new("record", "is not one of access")),
    })
}

pub(super) fn scope(text: &str) -> Result<Scope, Invalid> {
    if text == "*" { Ok(Scope::Plane) } else { parsed(text, "scope").map(Scope::Tenant) }
}

pub(super) fn patterns(texts: &[String], field: &'static str) -> Result<Vec<Pattern>, Invalid> {
    texts.iter().map(|text| pattern(text, field)).collect()
}

pub(super) fn pattern(text: &str, field: &'static str) -> Result<Pattern, Invalid> {
    Pattern::new(text).map_err(|error| Invalid::new(field, error))
}

pub(super) fn of_patterns(patterns: &[Pattern]) -> Vec<String> {
    patterns.iter().map(|pattern| pattern.as_str().to_owned()).collect()
}

pub(super) fn of_role(role: Role) -> i32 {
    (match role {
        Role::Viewer => pb::Role::Viewer,
        Role::Publisher => pb::Role::Publisher,
        Role::Operator => pb::Role::Operator,
        Role::Admin => pb::Role::Admin,
    }) as i32
}

pub(super) fn role(number: i32) -> Result<Role, Invalid> {
    match pb::Role::try_from(number) {
        Ok(pb::Role::Viewer) => Ok(Role::Viewer),
        Ok(pb::Role::Publisher) => Ok(Role::Publisher),
        Ok(pb::Role::Operator) => Ok(Role::Operator),
        Ok(pb::Role::Admin) => Ok(Role::Admin),
        Ok(pb::Role::Unspecified) | Err(_) => {
            Err(Invalid::new("role", format_args!("value {number} is not accepted here")))
        }
    }
}

pub(super) fn of_subject(subject: &Subject) -> pb::Subject {
    use pb::subject::Subject as Which;
    let which = match subject {
        Subject::Principal(name) => Which::Principal(name.to_string()),
        Subject::Group(name) => Which::Group(name.to_string()),
    };
    pb::Subject { subject: Some(which) }
}

pub(super) fn subject(message: Option<pb::Subject>) -> Result<Subject, Invalid> {
    use pb::subject::Subject as Which;
    Ok(match required(message.and_then(|message| message.subject), "subject")? {
        Which::Principal(name) => Subject::Principal(Arc::from(name)),
        Which::Group(name) => Subject::Group(Arc::from(name)),
    })
}

fn of_identity(identity: &Identity) -> pb::AgentIdentity {
    let Identity { tenant: of, cluster, holder } = identity;
    let (namespace, general, instance) = match holder {
        IdentityHolder::General { namespace, general, instance } => {
            (namespace.to_string(), general.to_string(), instance)
        }
        IdentityHolder::ClusterAgent { instance } => (String::new(), String::new(), instance),
    };
    let (cluster, instance) = (cluster.to_string(), instance.to_string());
    pb::AgentIdentity { tenant: tenant(of), cluster, namespace, general, instance }
}

fn identity(names: &mut Names, message: pb::AgentIdentity) -> Result<Identity, Invalid> {
    let pb::AgentIdentity { tenant, cluster, namespace, general, instance } = message;
    let instance = parsed(&instance, "identity.instance")?;
    let holder = if general.is_empty() && namespace.is_empty() {
        IdentityHolder::ClusterAgent { instance }
    } else {
        Identity::check_namespace(&namespace).map_err(|error| Invalid::new("identity.namespace", error))?;
        let general = parsed(&general, "identity.general")?;
        IdentityHolder::General { namespace: Arc::from(namespace), general, instance }
    };
    Ok(Identity { tenant: names.tenant(&tenant)?, cluster: names.cluster(&cluster)?, holder })
}

fn of_how(how: &JoinedBy) -> pb::agent_joined::How {
    match how {
        JoinedBy::Token(token) => pb::agent_joined::How::Token(token.0),
        JoinedBy::ServiceAccount { issuer, namespace, service_account, pod } => {
            pb::agent_joined::How::ServiceAccount(pb::JoinedByServiceAccount {
                issuer: issuer.to_string(),
                namespace: namespace.to_string(),
                service_account: service_account.to_string(),
                pod: pod.to_string(),
            })
        }
    }
}

fn how(message: pb::agent_joined::How) -> JoinedBy {
    match message {
        pb::agent_joined::How::Token(token) => JoinedBy::Token(TokenId(token)),
        pb::agent_joined::How::ServiceAccount(message) => {
            let pb::JoinedByServiceAccount { issuer, namespace, service_account, pod } = message;
            JoinedBy::ServiceAccount {
                issuer: Arc::from(issuer),
                namespace: Arc::from(namespace),
                service_account: Arc::from(service_account),
                pod: Arc::from(pod),
            }
        }
    }
}

fn of_refusal(refusal: JoinRefusal) -> i32 {
    (match refusal {
        JoinRefusal::UsedUp => pb::JoinRefusal::UsedUp,
        JoinRefusal::Expired => pb::JoinRefusal::Expired,
        JoinRefusal::Revoked => pb::JoinRefusal::Revoked,
        JoinRefusal::WrongCluster => pb::JoinRefusal::WrongCluster,
        JoinRefusal::WrongNamespace => pb::JoinRefusal::WrongNamespace,
        JoinRefusal::WrongGeneral => pb::JoinRefusal::WrongGeneral,
        JoinRefusal::NotClusterAgent => pb::JoinRefusal::NotClusterAgent,
        JoinRefusal::Denied => pb::JoinRefusal::Denied,
        JoinRefusal::NotGranted => pb::JoinRefusal::NotGranted,
        JoinRefusal::WrongInstance => pb::JoinRefusal::WrongInstance,
    }) as i32
}

fn refusal(number: i32) -> Result<JoinRefusal, Invalid> {
    let known = JoinRefusal::ALL.into_iter().find(|refusal| of_refusal(*refusal) == number);
    known.ok_or_else(|| Invalid::new("reason", format_args!("value {number} is not accepted here")))
}

fn of_authority(what: &AuthorityChange) -> pb::authority_changed::What {
    match what {
        AuthorityChange::CertificateKey { id, retired } => {
            let id = Bytes::copy_from_slice(id);
            pb::authority_changed::What::CertificateKey(pb::CertificateKeyChanged { id, retired: *retired })
        }
        AuthorityChange::SigningKey { key, signed_by_old } => {
            pb::authority_changed::What::LedgerKey(pb::LedgerKeyChanged {
                key: Some(of_key(key)),
                signed_by_old: signed_by_old.as_ref().map(|it| Bytes::copy_from_slice(it)).unwrap_or_default(),
            })
        }
    }
}

fn authority(message: pb::authority_changed::What) -> Result<AuthorityChange, Invalid> {
    Ok(match message {
        pb::authority_changed::What::CertificateKey(pb::CertificateKeyChanged { id, retired }) => {
            AuthorityChange::CertificateKey { id: key_id(&id, "certificate_key.id")?, retired }
        }
        pb::authority_changed::What::LedgerKey(pb::LedgerKeyChanged { key, signed_by_old }) => {
            let signed_by_old = match signed_by_old.is_empty() {
                true => None,
                false => Some(fixed(&signed_by_old, "ledger_key.signed_by_old")?),
            };
            AuthorityChange::SigningKey { key: self::key(&required(key, "ledger_key.key")?)?, signed_by_old }
        }
    })
}

pub(super) fn key_id(bytes: &[u8], field: &'static str) -> Result<KeyId, Invalid> {
    fixed(bytes, field)
}

pub(super) fn of_key(key: &SigningKey) -> pb::LedgerKey {
    let SigningKey { id, public, since } = key;
    pb::LedgerKey { id: Bytes::copy_from_slice(id), public_key: Bytes::copy_from_slice(public), since: since.0 }
}

pub(super) fn key(message: &pb::LedgerKey) -> Result<SigningKey, Invalid> {
    let pb::LedgerKey { id, public_key, since } = message;
    Ok(SigningKey { id: key_id(id, "key.id")?, public: fixed(public_key, "key.public_key")?, since: Seq(*since) })
}

pub(super) fn of_checkpoint(checkpoint: &Checkpoint) -> pb::CheckpointSigned {
    let Checkpoint { through, link, key, signature } = checkpoint;
    pb::CheckpointSigned {
        through: through.0,
        link: Bytes::copy_from_slice(link),
        key: Bytes::copy_from_slice(key),
        signature: Bytes::copy_from_slice(signature),
    }
}

pub(super) fn checkpoint(message: &pb::CheckpointSigned) -> Result<Checkpoint, Invalid> {
    let pb::CheckpointSigned { through, link, key, signature } = message;
    Ok(Checkpoint {
        through: Seq(*through),
        link: fixed(link, "link")?,
        key: key_id(key, "key")?,
        signature: fixed(signature, "signature")?,
    })
}
