//! Changes of access: what somebody wants, and which record follows.

use std::sync::Arc;
use std::time::Duration;

use mindos_model::{ClusterName, Role, Seq, TenantName, Timestamp, limits};

use crate::access::authority::{AuthorityChange, Checkpoint, SigningKey};
use crate::access::binding::{Binding, Scope, Subject};
use crate::access::check;
use crate::access::denial::{Denial, DenialId, DenialTarget};
use crate::access::error::{AccessError, JoinRefused};
use crate::access::issuer::Issuer;
use crate::access::quota::TenantQuota;
use crate::access::record::AccessRecord;
use crate::access::state::Access;
use crate::access::token::{ApiToken, Holder, JoinToken, TokenHash, TokenId};
use crate::decide::Decision;
use crate::durable::Durable;
use crate::input::RequestId;
use crate::output::Reply;
use crate::record::Record;
use crate::route::Pattern;

/// The use of an API token is noted again only after this long.
const USE_NOTED_EVERY: Duration = Duration::from_secs(60 * 60);
/// Settings whose digests are kept.
const SETTINGS_MAX: usize = 100;

/// What somebody wants of access.
#[derive(Clone, Debug)]
pub enum AccessChange {
    /// Answered with [`Reply::TokenMade`].
    CreateApiToken {
        name: Arc<str>,
        hash: TokenHash,
        scope: Scope,
        roles: Vec<Role>,
        /// Only for publishers.
        sources: Vec<Pattern>,
        expires: Timestamp,
    },
    /// It was used. Recorded at most once an hour.
    UseApiToken {
        token: TokenId,
    },
    RevokeApiToken {
        token: TokenId,
    },
    /// Answered with [`Reply::TokenMade`].
    CreateJoinToken {
        hash: TokenHash,
        tenant: TenantName,
        cluster: ClusterName,
        namespace: Option<Arc<str>>,
        holder: Holder,
        uses: u32,
        expires: Timestamp,
    },
    RevokeJoinToken {
        token: TokenId,
    },
    /// A refusal that is to be on record: the shell paces them.
    NoteRefusal(JoinRefused),
    /// Binds a role, or sets the sources of a publisher otherwise.
    BindRole(Binding),
    UnbindRole {
        scope: Scope,
        subject: Subject,
        role: Role,
    },
    /// Registers an issuer, or sets it otherwise.
    RegisterIssuer(Issuer),
    RemoveIssuer {
        tenant: TenantName,
        cluster: ClusterName,
        name: Arc<str>,
    },
    /// The record that answers it names the denial.
    Deny {
        scope: Scope,
        target: DenialTarget,
        reason: Arc<str>,
    },
    Allow {
        denial: DenialId,
    },
    /// `None` takes the quota away.
    SetQuota {
        tenant: TenantName,
        quota: Option<TenantQuota>,
    },
    /// Settings were read. Nothing is recorded where they are as they were.
    ChangeSettings {
        what: Arc<str>,
        digest: [u8; 32],
        summary: Arc<str>,
    },
    ChangeAuthority(AuthorityChange),
    SignCheckpoint(Checkpoint),
}

/// Where a change comes from.
struct Origin {
    /// Where its maker may act. What lies outside is not known to them.
    within: Scope,
    by: Arc<str>,
    from: Arc<str>,
    /// The last record before it.
    end: Seq,
    at: Timestamp,
}

/// The record that follows, with the answer; or the record that has said it before.
enum Follows {
    Record(Box<AccessRecord>, Reply),
    Nothing { since: Seq },
}

impl Durable {
    pub(crate) fn change_access(
        &self,
        request: RequestId,
        within: Scope,
        change: AccessChange,
        (by, from): (Arc<str>, Arc<str>),
        now: Timestamp,
    ) -> Decision {
        let origin = Origin { within, by, from, end: self.seq, at: now.max(self.at) };
        match self.access().change(change, origin) {
            Ok(Follows::Record(record, reply)) => Decision::reply(request, Ok(reply)).with(Record::Access(record)),
            Ok(Follows::Nothing { since }) => Decision::reply(request, Ok(Reply::Done { at: since })),
            Err(error) => Decision::reply(request, Err(error.into())),
        }
    }
}

impl Access {
    fn change(&self, change: AccessChange, origin: Origin) -> Result<Follows, AccessError> {
        match change {
            AccessChange::CreateApiToken { name, hash, scope, roles, sources, expires } => {
                self.create_api_token(origin, name, hash, scope, (roles, sources), expires)
            }
            AccessChange::UseApiToken { token } => self.use_api_token(origin, token),
            AccessChange::RevokeApiToken { token: id } => {
                let known = self.api_token(id).filter(|token| origin.within.covers(&token.scope));
                let token = known.ok_or_else(|| unknown(format!("API token {id}")))?;
                let scope = token.scope.clone();
                Ok(origin.then(|by, from| AccessRecord::ApiTokenRevoked { scope, token: id, by, from }))
            }
            AccessChange::CreateJoinToken { hash, tenant, cluster, namespace, holder, uses, expires } => {
                let token = JoinToken {
                    id: TokenId::from(origin.end.next()),
                    hash,
                    tenant,
                    cluster,
                    namespace,
                    holder,
                    uses_left: uses,
                    expires,
                    created: origin.at,
                    by: origin.by.clone(),
                    revoked: false,
                };
                self.create_join_token(origin, token)
            }
            AccessChange::RevokeJoinToken { token: id } => {
                let known = self.join_token(id).filter(|token| origin.within.covers_tenant(&token.tenant));
                let token = known.ok_or_else(|| unknown(format!("join token {id}")))?;
                if token.revoked {
                    return Ok(Follows::Nothing { since: origin.end });
                }
                let tenant = token.tenant.clone();
                Ok(origin.then(|by, from| AccessRecord::JoinTokenRevoked { tenant, token: id, by, from }))
            }
            AccessChange::NoteRefusal(refused) => {
                if let Some(id) = refused.token
                    && self.join_token(id).is_none_or(|token| token.tenant != refused.tenant)
                {
                    return Err(unknown(format!("join token {id}")));
                }
                Ok(origin.then(|_, from| AccessRecord::JoinRefused { refused, from }))
            }
            AccessChange::BindRole(binding) => self.bind_role(origin, binding),
            AccessChange::UnbindRole { scope, subject, role } => {
                let known = self.binding(&scope, &subject, role).filter(|_| origin.within.covers(&scope));
                known.ok_or_else(|| unknown(format!("role {role} of {subject} in {scope}")))?;
                Ok(origin.then(|by, from| AccessRecord::RoleUnbound { scope, subject, role, by, from }))
            }
            AccessChange::RegisterIssuer(issuer) => self.register_issuer(origin, issuer),
            AccessChange::RemoveIssuer { tenant, cluster, name } => {
                let known = self.issuer(&tenant, &cluster, &name).filter(|_| origin.within.covers_tenant(&tenant));
                known.ok_or_else(|| unknown(format!("issuer {name} of cluster {cluster}")))?;
                Ok(origin.then(|by, from| AccessRecord::IssuerRemoved { tenant, cluster, name, by, from }))
            }
            AccessChange::Deny { scope, target, reason } => self.deny(origin, scope, target, reason),
            AccessChange::Allow { denial: id } => {
                let known = self.denial(id).filter(|denial| origin.within.covers(&denial.scope));
                let scope = known.ok_or_else(|| unknown(format!("denial {id}")))?.scope.clone();
                Ok(origin.then(|by, from| AccessRecord::AgentAllowed { scope, denial: id, by, from }))
            }
            AccessChange::SetQuota { tenant, quota } => self.set_quota(origin, tenant, quota),
            AccessChange::ChangeSettings { what, digest, summary } => {
                self.change_settings(origin, what, digest, summary)
            }
            AccessChange::ChangeAuthority(change) => self.change_authority(origin, change),
            AccessChange::SignCheckpoint(checkpoint) => self.sign_checkpoint(origin, checkpoint),
        }
    }

    fn create_api_token(
        &self,
        origin: Origin,
        name: Arc<str>,
        hash: TokenHash,
        scope: Scope,
        (roles, sources): (Vec<Role>, Vec<Pattern>),
        expires: Timestamp,
    ) -> Result<Follows, AccessError> {
        check::within(&origin.within, &scope)?;
        check::token_name(&name)?;
        let roles = check::roles(&roles)?;
        check::sources(&sources, &roles)?;
        check::expires(expires, origin.at, limits::API_TOKEN_LIFE_MAX)?;
        if self.api_token_by_hash(&hash).is_some() {
            return Err(AccessError::Exists { what: "a token of the same text" });
        }
        let there = self.api_tokens().filter(|token| token.expires > origin.at).map(|token| token.scope.tenant());
        check::room("API tokens", limits::API_TOKENS_MAX, scope.tenant(), there)?;
        let id = TokenId::from(origin.end.next());
        let (created, by) = (origin.at, origin.by.clone());
        let token = ApiToken { id, name, hash, scope, roles, sources, expires, created, by, last_used: None };
        let record = AccessRecord::ApiTokenCreated { token: Arc::new(token), from: origin.from };
        Ok(Follows::Record(Box::new(record), Reply::TokenMade { id }))
    }

    fn use_api_token(&self, origin: Origin, id: TokenId) -> Result<Follows, AccessError> {
        let known = self.api_token(id).filter(|token| origin.within.covers(&token.scope));
        let token = known.ok_or_else(|| unknown(format!("API token {id}")))?;
        if token.last_used.is_some_and(|last| origin.at < last + USE_NOTED_EVERY) {
            return Ok(Follows::Nothing { since: origin.end });
        }
        let (scope, at) = (token.scope.clone(), origin.at);
        Ok(origin.then(|_, from| AccessRecord::ApiTokenUsed { scope, token: id, at, from }))
    }

    fn create_join_token(&self, origin: Origin, token: JoinToken) -> Result<Follows, AccessError> {
        check::within(&origin.within, &Scope::Tenant(token.tenant.clone()))?;
        check::namespace(token.namespace.as_deref())?;
        if token.namespace.is_some() && token.holder == Holder::ClusterAgent {
            let text = token.namespace.as_deref().unwrap_or_default();
            return Err(AccessError::invalid("namespace", text, "none, because a cluster agent stands in none"));
        }
        if !(1..=limits::JOIN_TOKEN_USES_MAX).contains(&token.uses_left) {
            let expected = format!("1 to {}", limits::JOIN_TOKEN_USES_MAX);
            return Err(AccessError::invalid("uses", &token.uses_left.to_string(), expected));
        }
        check::expires(token.expires, origin.at, limits::JOIN_TOKEN_LIFE_MAX)?;
        if self.join_token_by_hash(&token.hash).is_some() {
            return Err(AccessError::Exists { what: "a token of the same text" });
        }
        let there = self.join_tokens().filter(|token| !token.is_spent(origin.at)).map(|token| Some(&token.tenant));
        check::room("join tokens", limits::JOIN_TOKENS_MAX, Some(&token.tenant), there)?;
        let id = token.id;
        let record = AccessRecord::JoinTokenCreated { token: Arc::new(token), from: origin.from };
        Ok(Follows::Record(Box::new(record), Reply::TokenMade { id }))
    }

    fn bind_role(&self, origin: Origin, binding: Binding) -> Result<Follows, AccessError> {
        let Binding { scope, subject, role, sources } = &binding;
        check::within(&origin.within, scope)?;
        check::subject(subject)?;
        check::sources(sources, &[*role])?;
        match self.binding(scope, subject, *role) {
            Some(known) if **known == binding => return Ok(Follows::Nothing { since: origin.end }),
            Some(_) => {}
            None => {
                let there = self.bindings().map(|binding| binding.scope.tenant());
                check::room("bindings of roles", limits::BINDINGS_MAX, scope.tenant(), there)?;
            }
        }
        let binding = Arc::new(binding);
        Ok(origin.then(|by, from| AccessRecord::RoleBound { binding, by, from }))
    }

    fn register_issuer(&self, origin: Origin, issuer: Issuer) -> Result<Follows, AccessError> {
        check::within(&origin.within, &Scope::Tenant(issuer.tenant.clone()))?;
        check::issuer(&issuer)?;
        match self.issuer(&issuer.tenant, &issuer.cluster, &issuer.name) {
            Some(known) if **known == issuer => return Ok(Follows::Nothing { since: origin.end }),
            Some(_) => {}
            None => {
                let there = self.issuers().map(|issuer| Some(&issuer.tenant));
                check::room("issuers", limits::ISSUERS_MAX, Some(&issuer.tenant), there)?;
            }
        }
        let issuer = Arc::new(issuer);
        Ok(origin.then(|by, from| AccessRecord::IssuerRegistered { issuer, by, from }))
    }

    fn deny(
        &self,
        origin: Origin,
        scope: Scope,
        target: DenialTarget,
        reason: Arc<str>,
    ) -> Result<Follows, AccessError> {
        check::within(&origin.within, &scope)?;
        if let DenialTarget::Agent { tenant, .. } = &target {
            check::within(&scope, &Scope::Tenant(tenant.clone()))?;
        }
        check::target(&target)?;
        check::text("reason", &reason, 0..=limits::REASON_MAX)?;
        if let Some(id) = self.denial_at(&scope, &target) {
            return Ok(Follows::Nothing { since: Seq(id.0) });
        }
        let there = self.denials().map(|denial| denial.scope.tenant());
        check::room("denials", limits::DENIALS_MAX, scope.tenant(), there)?;
        let (id, at, by) = (DenialId::from(origin.end.next()), origin.at, origin.by.clone());
        let denial = Arc::new(Denial { id, scope, target, reason, at, by });
        Ok(origin.then(|_, from| AccessRecord::AgentDenied { denial, from }))
    }

    fn set_quota(
        &self,
        origin: Origin,
        tenant: TenantName,
        quota: Option<TenantQuota>,
    ) -> Result<Follows, AccessError> {
        check::within(&origin.within, &Scope::Tenant(tenant.clone()))?;
        let quota = quota.filter(|quota| !quota.is_none());
        if let Some(quota) = &quota {
            quota.check()?;
        }
        let known = self.quotas().find(|(of, _)| **of == tenant).map(|(_, quota)| *quota);
        if known == quota {
            return Ok(Follows::Nothing { since: origin.end });
        }
        if known.is_none() && self.quotas().count() >= limits::QUOTAS_MAX {
            return Err(AccessError::Full { what: "quotas of tenants", max: limits::QUOTAS_MAX });
        }
        Ok(origin.then(|by, from| AccessRecord::QuotaSet { tenant, quota, by, from }))
    }

    fn change_settings(
        &self,
        origin: Origin,
        what: Arc<str>,
        digest: [u8; 32],
        summary: Arc<str>,
    ) -> Result<Follows, AccessError> {
        check::within(&origin.within, &Scope::Plane)?;
        check::name("what", &what)?;
        check::text("summary", &summary, 0..=limits::REASON_MAX)?;
        match self.settings_digest(&what) {
            Some(known) if *known == digest => return Ok(Follows::Nothing { since: origin.end }),
            None if self.settings().count() >= SETTINGS_MAX => {
                return Err(AccessError::Full { what: "kinds of settings", max: SETTINGS_MAX });
            }
            Some(_) | None => {}
        }
        Ok(origin.then(|by, from| AccessRecord::SettingsChanged { what, digest, summary, by, from }))
    }

    fn change_authority(&self, origin: Origin, change: AuthorityChange) -> Result<Follows, AccessError> {
        check::within(&origin.within, &Scope::Plane)?;
        let what = match change {
            AuthorityChange::CertificateKey { id, retired } => {
                match (self.has_certificate_key(&id), retired) {
                    (true, false) => return Ok(Follows::Nothing { since: origin.end }),
                    (false, true) => return Err(unknown(format!("certificate key {:016x}", u64::from_be_bytes(id)))),
                    (false, false) if self.certificate_keys().count() >= limits::AUTHORITY_KEYS_MAX => {
                        let (what, max) = ("certificate keys", limits::AUTHORITY_KEYS_MAX);
                        return Err(AccessError::Full { what, max });
                    }
                    (true, true) | (false, false) => {}
                }
                AuthorityChange::CertificateKey { id, retired }
            }
            AuthorityChange::SigningKey { key, signed_by_old } => {
                if self.has_signing_key(&key.id) {
                    return Err(AccessError::Exists { what: "a signing key of the same id" });
                }
                let key = SigningKey { since: origin.end.next(), ..key };
                AuthorityChange::SigningKey { key, signed_by_old }
            }
        };
        Ok(origin.then(|by, from| AccessRecord::AuthorityChanged { what, by, from }))
    }

    fn sign_checkpoint(&self, origin: Origin, checkpoint: Checkpoint) -> Result<Follows, AccessError> {
        check::within(&origin.within, &Scope::Plane)?;
        if !self.has_signing_key(&checkpoint.key) {
            return Err(unknown(format!("signing key {:016x}", u64::from_be_bytes(checkpoint.key))));
        }
        let last = self.last_checkpoint().map_or(Seq::ZERO, |(_, last)| last.through);
        let (through, end) = (checkpoint.through, origin.end);
        if through <= last || through > end {
            return Err(AccessError::Checkpoint { through, last, end });
        }
        Ok(origin.then(|_, _| AccessRecord::CheckpointSigned(checkpoint)))
    }
}

impl Origin {
    /// The record, with the answer that it is done.
    fn then(self, record: impl FnOnce(Arc<str>, Arc<str>) -> AccessRecord) -> Follows {
        let Origin { within: _, by, from, end, at: _ } = self;
        Follows::Record(Box::new(record(by, from)), Reply::Done { at: end.next() })
    }
}

fn unknown(what: String) -> AccessError {
    AccessError::Unknown { what }
}
