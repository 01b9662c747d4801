//! Access and redaction, in the words of a scenario.
//!
//! A secret, a key or a digest is a number, with which its bytes begin; the rest are zero.

use std::fmt::Write as _;
use std::sync::Arc;

use mindos_core::access::{
    AccessChange, AccessRecord, AuthorityChange, Binding, Checkpoint, DenialId, DenialTarget, Holder, IdentityHolder,
    Issuer, IssuerGrant, Join, JoinRefused, JoinedBy, Presented, Scope, SigningKey, Subject, TenantQuota, TokenId,
};
use mindos_core::input::{Input, RequestId};
use mindos_core::route::Pattern;
use mindos_model::{InstanceId, Seq, TenantName, Timestamp};

use super::parse::{Parsed, Words, number, text};
use super::show::since;
use crate::words;

/// Bytes that begin with a number.
pub fn bytes<const N: usize>(number: u64) -> [u8; N] {
    let mut bytes = [0; N];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes
}

fn number_of(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|at| bytes.get(at).copied().unwrap_or_default()))
}

fn scope(word: &str) -> Parsed<Scope> {
    if word == "*" { Ok(Scope::Plane) } else { TenantName::new(word).map(Scope::Tenant).map_err(text) }
}

fn subject(word: &str) -> Parsed<Subject> {
    match word.split_once(':') {
        Some(("principal", name)) => Ok(Subject::Principal(Arc::from(name))),
        Some(("group", name)) => Ok(Subject::Group(Arc::from(name))),
        _ => Err(format!("`{word}` is not principal:name or group:name")),
    }
}

fn subject_word(subject: &Subject) -> String {
    match subject {
        Subject::Principal(name) => format!("principal:{name}"),
        Subject::Group(name) => format!("group:{name}"),
    }
}

fn pattern(word: &str) -> Parsed<Pattern> {
    Pattern::new(word).map_err(text)
}

fn joined<T>(items: &[T], word: impl Fn(&T) -> String) -> String {
    items.iter().map(word).collect::<Vec<_>>().join(",")
}

/// `general:g`, `any` or `agent`.
fn holder(word: &str) -> Parsed<Holder> {
    match word.split_once(':') {
        Some(("general", name)) => name.parse().map(Holder::General).map_err(text),
        None if word == "any" => Ok(Holder::AnyGeneral),
        None if word == "agent" => Ok(Holder::ClusterAgent),
        _ => Err(format!("`{word}` is not general:name, any or agent")),
    }
}

fn holder_word(holder: &Holder) -> String {
    match holder {
        Holder::General(name) => format!("general:{name}"),
        Holder::AnyGeneral => "any".to_owned(),
        Holder::ClusterAgent => "agent".to_owned(),
    }
}

/// `ns/general/instance` or `agent/instance`.
fn wanted(word: &str) -> Parsed<IdentityHolder> {
    let instance = |text: &str| InstanceId::new(text).map_err(self::text);
    match word.split('/').collect::<Vec<_>>()[..] {
        ["agent", name] => Ok(IdentityHolder::ClusterAgent { instance: instance(name)? }),
        [namespace, general, name] => Ok(IdentityHolder::General {
            namespace: Arc::from(namespace),
            general: general.parse().map_err(self::text)?,
            instance: instance(name)?,
        }),
        _ => Err(format!("`{word}` is not namespace/general/instance or agent/instance")),
    }
}

fn wanted_word(holder: &IdentityHolder) -> String {
    match holder {
        IdentityHolder::General { namespace, general, instance } => format!("{namespace}/{general}/{instance}"),
        IdentityHolder::ClusterAgent { instance } => format!("agent/{instance}"),
    }
}

/// `key:7` or `tenant/cluster/namespace/general/instance`, each of the last three maybe `*`.
fn target(word: &str) -> Parsed<DenialTarget> {
    if let Some(key) = word.strip_prefix("key:") {
        return Ok(DenialTarget::Key(bytes(number(key)?)));
    }
    let [tenant, cluster, namespace, general, instance] = word.split('/').collect::<Vec<_>>()[..] else {
        return Err(format!("`{word}` is not tenant/cluster/namespace/general/instance or key:number"));
    };
    let set = |word: &&str| *word != "*";
    Ok(DenialTarget::Agent {
        tenant: tenant.parse().map_err(text)?,
        cluster: cluster.parse().map_err(text)?,
        namespace: Some(namespace).filter(set).map(Arc::from),
        general: Some(general).filter(set).map(str::parse).transpose().map_err(text)?,
        instance: Some(instance).filter(set).map(str::parse).transpose().map_err(text)?,
    })
}

fn target_word(target: &DenialTarget) -> String {
    match target {
        DenialTarget::Agent { .. } => target.to_string().trim_start_matches("agent ").to_owned(),
        DenialTarget::Key(key) => format!("key:{}", number_of(key)),
    }
}

/// `ns:account:general` or `ns:account:@agent`.
fn grant(word: &str) -> Parsed<IssuerGrant> {
    let [namespace, account, what] = word.split(':').collect::<Vec<_>>()[..] else {
        return Err(format!("`{word}` is not namespace:account:general or namespace:account:@agent"));
    };
    let (generals, cluster_agent) = if what == "@agent" { (Vec::new(), true) } else { (vec![pattern(what)?], false) };
    Ok(IssuerGrant { namespace: pattern(namespace)?, service_account: pattern(account)?, generals, cluster_agent })
}

fn grant_word(grant: &IssuerGrant) -> String {
    let what = grant.generals.first().map_or("@agent", Pattern::as_str);
    format!("{}:{}:{what}", grant.namespace.as_str(), grant.service_account.as_str())
}

impl Words<'_> {
    /// Reads a change; see [`print`] for how it is written.
    pub(super) fn access(&mut self, verb: &str) -> Parsed<Input> {
        let change = match verb {
            "token" => self.token()?,
            "role" => self.role()?,
            "issuer" => self.issuer()?,
            "deny" => AccessChange::Deny {
                scope: scope(self.next("a scope")?)?,
                target: target(self.next("whom")?)?,
                reason: Arc::from(self.take("reason").unwrap_or_default()),
            },
            "allow" => AccessChange::Allow { denial: DenialId(number(self.next("a denial")?)?) },
            "quota" => self.quota()?,
            "settings" => AccessChange::ChangeSettings {
                what: Arc::from(self.next("what")?),
                digest: bytes(self.take("digest").map(number).transpose()?.unwrap_or_default()),
                summary: Arc::from(self.take("summary").unwrap_or_default()),
            },
            "key" => self.key()?,
            "checkpoint" => AccessChange::SignCheckpoint(Checkpoint {
                through: Seq(number(self.next("a sequence")?)?),
                link: [0; 32],
                key: bytes(self.take("key").map(number).transpose()?.unwrap_or_default()),
                signature: [0; 64],
            }),
            _ => AccessChange::NoteRefusal(JoinRefused {
                tenant: self.next("a tenant")?.parse().map_err(text)?,
                cluster: self.next("a cluster")?.parse().map_err(text)?,
                reason: self.next("a reason")?.parse().map_err(text)?,
                token: self.take("token").map(number).transpose()?.map(TokenId),
            }),
        };
        let within = self.take("within").map_or(Ok(Scope::Plane), scope)?;
        let (by, from) = (self.by(), self.from());
        Ok(Input::Access { request: RequestId(0), within, change: Box::new(change), by, from })
    }

    fn from(&mut self) -> Arc<str> {
        Arc::from(self.take("from").unwrap_or_default())
    }

    fn until(&mut self) -> Parsed<Timestamp> {
        let word = self.take("until").ok_or("until= is missing")?;
        self.time(word)
    }

    fn token(&mut self) -> Parsed<AccessChange> {
        let (what, which) = (self.next("api, join, used, revoke_api or revoke_join")?, self.next("a number")?);
        let which: u64 = number(which)?;
        Ok(match what {
            "api" => AccessChange::CreateApiToken {
                name: Arc::from(self.take("name").unwrap_or("ci")),
                hash: bytes(which),
                scope: scope(self.take("scope").unwrap_or("*"))?,
                roles: self.list("roles", |word| word.parse().map_err(text))?,
                sources: self.list("sources", pattern)?,
                expires: self.until()?,
            },
            "join" => AccessChange::CreateJoinToken {
                hash: bytes(which),
                tenant: self.take("tenant").map_or(Ok(words::tenant()), |word| word.parse().map_err(text))?,
                cluster: self.take("cluster").unwrap_or("c1").parse().map_err(text)?,
                namespace: self.take("ns").map(Arc::from),
                holder: holder(self.take("holder").unwrap_or("any"))?,
                uses: self.take("uses").map(number).transpose()?.unwrap_or(1),
                expires: self.until()?,
            },
            "used" => AccessChange::UseApiToken { token: TokenId(which) },
            "revoke_api" => AccessChange::RevokeApiToken { token: TokenId(which) },
            "revoke_join" => AccessChange::RevokeJoinToken { token: TokenId(which) },
            other => return Err(format!("`{other}` is not done to a token")),
        })
    }

    fn role(&mut self) -> Parsed<AccessChange> {
        let what = self.next("bind or unbind")?;
        let (scope, subject) = (scope(self.next("a scope")?)?, subject(self.next("a subject")?)?);
        let role = self.next("a role")?.parse().map_err(text)?;
        Ok(match what {
            "bind" => AccessChange::BindRole(Binding { scope, subject, role, sources: self.list("sources", pattern)? }),
            _ => AccessChange::UnbindRole { scope, subject, role },
        })
    }

    fn issuer(&mut self) -> Parsed<AccessChange> {
        let what = self.next("set or remove")?;
        let tenant = self.next("a tenant")?.parse().map_err(text)?;
        let cluster = self.next("a cluster")?.parse().map_err(text)?;
        let name = Arc::from(self.next("a name")?);
        Ok(match what {
            "set" => AccessChange::RegisterIssuer(Issuer {
                tenant,
                cluster,
                name,
                url: Arc::from(self.take("url").unwrap_or("https://kubernetes")),
                audience: Arc::from("mindos"),
                keys: Arc::from(""),
                grants: self.list("grants", grant)?,
            }),
            _ => AccessChange::RemoveIssuer { tenant, cluster, name },
        })
    }

    fn quota(&mut self) -> Parsed<AccessChange> {
        let tenant = self.next("a tenant")?.parse().map_err(text)?;
        let quota = TenantQuota {
            events_per_second: self.take("events").map(number).transpose()?,
            requests_per_second: self.take("requests").map(number).transpose()?,
            open_max: self.take("open").map(number).transpose()?,
            streams_max: self.take("streams").map(number).transpose()?,
        };
        Ok(AccessChange::SetQuota { tenant, quota: (!quota.is_none()).then_some(quota) })
    }

    fn key(&mut self) -> Parsed<AccessChange> {
        let (what, which) = (self.next("certificate, retired or ledger")?, number(self.next("a number")?)?);
        Ok(AccessChange::ChangeAuthority(match what {
            "ledger" => {
                let key = SigningKey { id: bytes(which), public: bytes(which), since: Seq::ZERO };
                AuthorityChange::SigningKey { key, signed_by_old: None }
            }
            what => AuthorityChange::CertificateKey { id: bytes(which), retired: what == "retired" },
        }))
    }

    /// `join CLUSTER WANTED token=SECRET` or `.. issuer=NAME account=NS/ACCOUNT/POD tenant=T`, with `key=NUMBER`.
    pub(super) fn join(&mut self) -> Parsed<Input> {
        let cluster = self.next("a cluster")?.parse().map_err(text)?;
        let holder = wanted(self.next("what it wants to be")?)?;
        let presented = match self.take("token") {
            Some(secret) => Presented::Token { hash: bytes(number(secret)?) },
            None => {
                let account = self.take("account").ok_or("token= or account= is missing")?;
                let [namespace, service_account, pod] = account.split('/').collect::<Vec<_>>()[..] else {
                    return Err(format!("`{account}` is not namespace/account/pod"));
                };
                Presented::ServiceAccount {
                    tenant: self.take("tenant").map_or(Ok(words::tenant()), |word| word.parse().map_err(text))?,
                    issuer: Arc::from(self.take("issuer").unwrap_or("kube")),
                    namespace: Arc::from(namespace),
                    service_account: Arc::from(service_account),
                    pod: Arc::from(pod),
                }
            }
        };
        let key = bytes(self.take("key").map(number).transpose()?.unwrap_or_default());
        let not_after = self.take("until").map(|word| self.time(word)).transpose()?.unwrap_or_default();
        let from = self.from();
        Ok(Input::Join(Box::new(Join { request: RequestId(0), presented, cluster, holder, key, not_after, from })))
    }

    /// `redact EVENT,EVENT why=TEXT by=WHO`; an event is a number, or a delivery of it.
    pub(super) fn redact(&mut self) -> Parsed<Input> {
        let events = self.next("events")?.split(',').map(|word| {
            let event = word.trim_start_matches('d').split('.').next().unwrap_or_default();
            number(event).map(Seq)
        });
        let events = events.collect::<Parsed<_>>()?;
        let (why, by, from) = (self.why(), self.by(), self.from());
        Ok(Input::Redact { request: RequestId(0), tenant: words::tenant(), events, why, by, from })
    }
}

/// The line of a change.
pub fn print(within: &Scope, change: &AccessChange, start: Timestamp) -> String {
    let mut out = match change {
        AccessChange::CreateApiToken { name, hash, scope, roles, sources, expires } => format!(
            "token api {} name={name} scope={scope} roles={} sources={} until={}",
            number_of(hash),
            joined(roles, ToString::to_string),
            joined(sources, |one| one.as_str().to_owned()),
            since(*expires, start)
        ),
        AccessChange::UseApiToken { token } => format!("token used {token}"),
        AccessChange::RevokeApiToken { token } => format!("token revoke_api {token}"),
        AccessChange::CreateJoinToken { hash, tenant, cluster, namespace, holder, uses, expires } => {
            let namespace = namespace.as_deref().map(|name| format!(" ns={name}")).unwrap_or_default();
            format!(
                "token join {} tenant={tenant} cluster={cluster}{namespace} holder={} uses={uses} until={}",
                number_of(hash),
                holder_word(holder),
                since(*expires, start)
            )
        }
        AccessChange::RevokeJoinToken { token } => format!("token revoke_join {token}"),
        AccessChange::NoteRefusal(JoinRefused { tenant, token, cluster, reason }) => {
            let token = token.map(|token| format!(" token={token}")).unwrap_or_default();
            format!("refused {tenant} {cluster} {reason}{token}")
        }
        AccessChange::BindRole(Binding { scope, subject, role, sources }) => {
            let sources = joined(sources, |one| one.as_str().to_owned());
            format!("role bind {scope} {} {role} sources={sources}", subject_word(subject))
        }
        AccessChange::UnbindRole { scope, subject, role } => {
            format!("role unbind {scope} {} {role}", subject_word(subject))
        }
        AccessChange::RegisterIssuer(Issuer { tenant, cluster, name, url, grants, .. }) => {
            format!("issuer set {tenant} {cluster} {name} url={url} grants={}", joined(grants, grant_word))
        }
        AccessChange::RemoveIssuer { tenant, cluster, name } => format!("issuer remove {tenant} {cluster} {name}"),
        AccessChange::Deny { scope, target, reason } => format!("deny {scope} {} reason={reason}", target_word(target)),
        AccessChange::Allow { denial } => format!("allow {denial}"),
        AccessChange::SetQuota { tenant, quota } => format!("quota {tenant}{}", quota_words(quota.as_ref())),
        AccessChange::ChangeSettings { what, digest, summary } => {
            format!("settings {what} digest={} summary={summary}", number_of(digest))
        }
        AccessChange::ChangeAuthority(AuthorityChange::CertificateKey { id, retired }) => {
            format!("key {} {}", if *retired { "retired" } else { "certificate" }, number_of(id))
        }
        AccessChange::ChangeAuthority(AuthorityChange::SigningKey { key, .. }) => {
            format!("key ledger {}", number_of(&key.id))
        }
        AccessChange::SignCheckpoint(checkpoint) => {
            format!("checkpoint {} key={}", checkpoint.through, number_of(&checkpoint.key))
        }
    };
    if *within != Scope::Plane {
        let _ = write!(out, " within={within}");
    }
    out
}

/// The line of a join.
pub fn print_join(join: &Join, start: Timestamp) -> String {
    let presented = match &join.presented {
        Presented::Token { hash } => format!("token={}", number_of(hash)),
        Presented::ServiceAccount { tenant, issuer, namespace, service_account, pod } => {
            format!("issuer={issuer} account={namespace}/{service_account}/{pod} tenant={tenant}")
        }
    };
    let (key, until) = (number_of(&join.key), since(join.not_after, start));
    format!("join {} {} {presented} key={key} until={until}", join.cluster, wanted_word(&join.holder))
}

fn quota_words(quota: Option<&TenantQuota>) -> String {
    let TenantQuota { events_per_second, requests_per_second, open_max, streams_max } =
        quota.copied().unwrap_or_default();
    let fields = [
        ("events", events_per_second.map(u64::from)),
        ("requests", requests_per_second.map(u64::from)),
        ("open", open_max),
        ("streams", streams_max.map(u64::from)),
    ];
    fields.into_iter().filter_map(|(name, value)| Some(format!(" {name}={}", value?))).collect()
}

/// A record of access behind its kind.
pub(super) fn show(record: &AccessRecord, start: Timestamp) -> String {
    let by = |by: &str| if by.is_empty() { String::new() } else { format!(" by={by}") };
    match record {
        AccessRecord::ApiTokenCreated { token, from: _ } => {
            let (roles, until) = (joined(&token.roles, ToString::to_string), since(token.expires, start));
            format!(" {} in {} roles={roles} until={until}{}", token.id, token.scope, by(&token.by))
        }
        AccessRecord::ApiTokenUsed { token, at, .. } => format!(" {token} at {}", since(*at, start)),
        AccessRecord::ApiTokenRevoked { token, by: who, .. } => format!(" {token}{}", by(who)),
        AccessRecord::JoinTokenCreated { token, from: _ } => format!(
            " {} for {} in {}/{} uses={} until={}{}",
            token.id,
            token.holder,
            token.tenant,
            token.cluster,
            token.uses_left,
            since(token.expires, start),
            by(&token.by)
        ),
        AccessRecord::JoinTokenRevoked { token, by: who, .. } => format!(" {token}{}", by(who)),
        AccessRecord::AgentJoined { identity, how, .. } => match how {
            JoinedBy::Token(token) => format!(" {identity} by token {token}"),
            JoinedBy::ServiceAccount { issuer, service_account, .. } => {
                format!(" {identity} by {service_account} of {issuer}")
            }
        },
        AccessRecord::JoinRefused { refused: JoinRefused { cluster, token, reason, .. }, .. } => {
            let token = token.map(|token| format!(" token {token}")).unwrap_or_default();
            format!("{token} in {cluster}: {reason}")
        }
        AccessRecord::RoleBound { binding, by: who, .. } => {
            format!(" {} to {} in {}{}", binding.role, binding.subject, binding.scope, by(who))
        }
        AccessRecord::RoleUnbound { scope, subject, role, by: who, .. } => {
            format!(" {role} of {subject} in {scope}{}", by(who))
        }
        AccessRecord::IssuerRegistered { issuer, by: who, .. } => {
            let Issuer { tenant, cluster, name, .. } = issuer.as_ref();
            format!(" {tenant}/{cluster}/{name}{}", by(who))
        }
        AccessRecord::IssuerRemoved { tenant, cluster, name, by: who, .. } => {
            format!(" {tenant}/{cluster}/{name}{}", by(who))
        }
        AccessRecord::AgentDenied { denial, .. } => {
            format!(" {} {} in {}{}", denial.id, target_word(&denial.target), denial.scope, by(&denial.by))
        }
        AccessRecord::AgentAllowed { denial, by: who, .. } => format!(" {denial}{}", by(who)),
        AccessRecord::QuotaSet { tenant, quota, by: who, .. } => {
            format!(" {tenant}{}{}", quota_words(quota.as_ref()), by(who))
        }
        AccessRecord::SettingsChanged { what, digest, .. } => format!(" {what} digest={}", number_of(digest)),
        AccessRecord::AuthorityChanged { what, .. } => match what {
            AuthorityChange::CertificateKey { id, retired } => {
                format!(" certificate {}{}", number_of(id), if *retired { " retired" } else { "" })
            }
            AuthorityChange::SigningKey { key, .. } => format!(" ledger {}", number_of(&key.id)),
        },
        AccessRecord::CheckpointSigned(checkpoint) => {
            format!(" through #{} key={}", checkpoint.through, number_of(&checkpoint.key))
        }
    }
}
