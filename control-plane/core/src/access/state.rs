//! The state of access: the fold of its records.

use std::collections::BTreeMap;
use std::sync::Arc;

use mindos_model::{ClusterName, Role, Seq, TenantName, Timestamp, limits};

use crate::access::authority::{AuthorityChange, Checkpoint, KeyId, SigningKey};
use crate::access::binding::{Binding, Scope, Subject};
use crate::access::denial::{Denial, DenialId, DenialTarget, KeyHash};
use crate::access::identity::Identity;
use crate::access::issuer::Issuer;
use crate::access::quota::TenantQuota;
use crate::access::record::{AccessRecord, JoinedBy};
use crate::access::token::{ApiToken, JoinToken, TokenHash, TokenId};
use crate::record::{Entry, Record};

/// Everything that the records say of access. Cheap to clone: what it holds is shared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    bindings: BTreeMap<(Scope, Subject, Role), Arc<Binding>>,
    api_tokens: BTreeMap<TokenId, Arc<ApiToken>>,
    api_token_ids: BTreeMap<TokenHash, TokenId>,
    join_tokens: BTreeMap<TokenId, Arc<JoinToken>>,
    join_token_ids: BTreeMap<TokenHash, TokenId>,
    issuers: BTreeMap<(TenantName, ClusterName, Arc<str>), Arc<Issuer>>,
    denials: BTreeMap<DenialId, Arc<Denial>>,
    denial_ids: BTreeMap<(Scope, DenialTarget), DenialId>,
    quotas: BTreeMap<TenantName, TenantQuota>,
    settings: BTreeMap<Arc<str>, [u8; 32]>,
    certificate_keys: BTreeMap<KeyId, Seq>,
    signing_keys: BTreeMap<KeyId, SigningKey>,
    last_checkpoint: Option<(Seq, Checkpoint)>,
}

/// One piece of the state of access, as a snapshot has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessItem {
    Binding(Arc<Binding>),
    ApiToken(Arc<ApiToken>),
    JoinToken(Arc<JoinToken>),
    Issuer(Arc<Issuer>),
    Denial(Arc<Denial>),
    Quota {
        tenant: TenantName,
        quota: TenantQuota,
    },
    Settings {
        what: Arc<str>,
        digest: [u8; 32],
    },
    /// A key that signs certificates, and the record that told of it.
    CertificateKey {
        id: KeyId,
        since: Seq,
    },
    SigningKey(SigningKey),
    /// The newest one, and its record.
    Checkpoint {
        at: Seq,
        checkpoint: Checkpoint,
    },
}

impl Access {
    /// Folds a record; those that do not concern access change nothing.
    ///
    /// # Panics
    /// When the record does not fit the state: a bug, or another journal's record.
    pub fn fold(&mut self, entry: &Entry) {
        let Record::Access(record) = &entry.record else { return };
        let Entry { seq, at, record: _ } = entry;
        match record.as_ref() {
            AccessRecord::ApiTokenCreated { token, from: _ } => {
                assert_eq!(token.id, TokenId::from(*seq), "an API token is named for its record");
                self.forget_api_tokens(&token.scope, *at);
                self.put_api_token(token.clone());
            }
            AccessRecord::ApiTokenUsed { scope: _, token, at, from: _ } => {
                let token = self.api_tokens.get_mut(token).expect("records name API tokens created before them");
                Arc::make_mut(token).last_used = Some(*at);
            }
            AccessRecord::ApiTokenRevoked { scope: _, token, by: _, from: _ } => {
                let token = self.api_tokens.remove(token).expect("records name API tokens created before them");
                self.api_token_ids.remove(&token.hash);
            }
            AccessRecord::JoinTokenCreated { token, from: _ } => {
                assert_eq!(token.id, TokenId::from(*seq), "a join token is named for its record");
                self.forget_join_tokens(&token.tenant, *at);
                self.put_join_token(token.clone());
            }
            AccessRecord::JoinTokenRevoked { tenant: _, token, by: _, from: _ } => {
                let token = self.join_tokens.get_mut(token).expect("records name join tokens created before them");
                Arc::make_mut(token).revoked = true;
            }
            AccessRecord::AgentJoined { identity, key: _, how, not_after: _, from: _ } => match how {
                JoinedBy::Token(id) => {
                    let token = self.join_tokens.get_mut(id).expect("records name join tokens created before them");
                    assert!(!token.is_spent(*at), "{identity} joined by join token {id}, which lets nobody in");
                    Arc::make_mut(token).uses_left -= 1;
                }
                JoinedBy::ServiceAccount { .. } => {}
            },
            AccessRecord::RoleBound { binding, by: _, from: _ } => self.put_binding(binding.clone()),
            AccessRecord::RoleUnbound { scope, subject, role, by: _, from: _ } => {
                let key = (scope.clone(), subject.clone(), *role);
                self.bindings.remove(&key).expect("records name bindings made before them");
            }
            AccessRecord::IssuerRegistered { issuer, by: _, from: _ } => self.put_issuer(issuer.clone()),
            AccessRecord::IssuerRemoved { tenant, cluster, name, by: _, from: _ } => {
                let key = (tenant.clone(), cluster.clone(), name.clone());
                self.issuers.remove(&key).expect("records name issuers registered before them");
            }
            AccessRecord::AgentDenied { denial, from: _ } => {
                assert_eq!(denial.id, DenialId::from(*seq), "a denial is named for its record");
                self.put_denial(denial.clone());
            }
            AccessRecord::AgentAllowed { scope: _, denial, by: _, from: _ } => {
                let denial = self.denials.remove(denial).expect("records name denials made before them");
                self.denial_ids.remove(&(denial.scope.clone(), denial.target.clone()));
            }
            AccessRecord::QuotaSet { tenant, quota, by: _, from: _ } => match quota {
                Some(quota) => {
                    self.quotas.insert(tenant.clone(), *quota);
                }
                None => {
                    self.quotas.remove(tenant);
                }
            },
            AccessRecord::SettingsChanged { what, digest, summary: _, by: _, from: _ } => {
                self.settings.insert(what.clone(), *digest);
            }
            AccessRecord::AuthorityChanged { what, by: _, from: _ } => match what {
                AuthorityChange::CertificateKey { id, retired: false } => {
                    self.certificate_keys.insert(*id, *seq);
                }
                AuthorityChange::CertificateKey { id, retired: true } => {
                    self.certificate_keys.remove(id);
                }
                AuthorityChange::SigningKey { key, signed_by_old: _ } => {
                    self.signing_keys.insert(key.id, *key);
                }
            },
            AccessRecord::CheckpointSigned(checkpoint) => self.last_checkpoint = Some((*seq, *checkpoint)),
            AccessRecord::JoinRefused { .. } => {}
        }
    }

    /// Where there is no room for another one, those that nobody can use leave.
    fn forget_api_tokens(&mut self, scope: &Scope, at: Timestamp) {
        if self.api_tokens.len() < share(limits::API_TOKENS_MAX) {
            return;
        }
        let scopes = self.api_tokens.values().map(|token| token.scope.tenant());
        if is_full(limits::API_TOKENS_MAX, scope.tenant(), scopes) {
            self.api_tokens.retain(|_, token| token.expires > at);
            let tokens = &self.api_tokens;
            self.api_token_ids.retain(|_, id| tokens.contains_key(id));
        }
    }

    fn forget_join_tokens(&mut self, tenant: &TenantName, at: Timestamp) {
        if self.join_tokens.len() < share(limits::JOIN_TOKENS_MAX) {
            return;
        }
        let tenants = self.join_tokens.values().map(|token| Some(&token.tenant));
        if is_full(limits::JOIN_TOKENS_MAX, Some(tenant), tenants) {
            self.join_tokens.retain(|_, token| !token.is_spent(at));
            let tokens = &self.join_tokens;
            self.join_token_ids.retain(|_, id| tokens.contains_key(id));
        }
    }

    fn put_api_token(&mut self, token: Arc<ApiToken>) {
        let known = self.api_token_ids.insert(token.hash, token.id);
        assert!(known.is_none(), "two API tokens have one hash");
        self.api_tokens.insert(token.id, token);
    }

    fn put_join_token(&mut self, token: Arc<JoinToken>) {
        let known = self.join_token_ids.insert(token.hash, token.id);
        assert!(known.is_none(), "two join tokens have one hash");
        self.join_tokens.insert(token.id, token);
    }

    fn put_binding(&mut self, binding: Arc<Binding>) {
        self.bindings.insert((binding.scope.clone(), binding.subject.clone(), binding.role), binding);
    }

    fn put_issuer(&mut self, issuer: Arc<Issuer>) {
        self.issuers.insert((issuer.tenant.clone(), issuer.cluster.clone(), issuer.name.clone()), issuer);
    }

    fn put_denial(&mut self, denial: Arc<Denial>) {
        let known = self.denial_ids.insert((denial.scope.clone(), denial.target.clone()), denial.id);
        assert!(known.is_none(), "{} is denied twice", denial.target);
        self.denials.insert(denial.id, denial);
    }

    /// The state as items, in one order only.
    pub fn items(&self) -> impl Iterator<Item = AccessItem> + '_ {
        let bindings = self.bindings.values().cloned().map(AccessItem::Binding);
        let api_tokens = self.api_tokens.values().cloned().map(AccessItem::ApiToken);
        let join_tokens = self.join_tokens.values().cloned().map(AccessItem::JoinToken);
        let issuers = self.issuers.values().cloned().map(AccessItem::Issuer);
        let denials = self.denials.values().cloned().map(AccessItem::Denial);
        let quotas = self.quotas.iter();
        let quotas = quotas.map(|(tenant, quota)| AccessItem::Quota { tenant: tenant.clone(), quota: *quota });
        let settings = self.settings.iter();
        let settings = settings.map(|(what, digest)| AccessItem::Settings { what: what.clone(), digest: *digest });
        let certificate_keys = self.certificate_keys.iter();
        let certificate_keys =
            certificate_keys.map(|(id, since)| AccessItem::CertificateKey { id: *id, since: *since });
        let signing_keys = self.signing_keys().copied().map(AccessItem::SigningKey);
        let checkpoint = self.last_checkpoint.iter();
        let checkpoint = checkpoint.map(|(at, one)| AccessItem::Checkpoint { at: *at, checkpoint: *one });
        let items = bindings.chain(api_tokens).chain(join_tokens).chain(issuers).chain(denials).chain(quotas);
        items.chain(settings).chain(certificate_keys).chain(signing_keys).chain(checkpoint)
    }

    /// Takes an item that was exported.
    ///
    /// # Panics
    /// When it contradicts one before it: the snapshot is not one of ours, or was damaged unnoticed.
    pub fn put(&mut self, item: AccessItem) {
        match item {
            AccessItem::Binding(binding) => self.put_binding(binding),
            AccessItem::ApiToken(token) => self.put_api_token(token),
            AccessItem::JoinToken(token) => self.put_join_token(token),
            AccessItem::Issuer(issuer) => self.put_issuer(issuer),
            AccessItem::Denial(denial) => self.put_denial(denial),
            AccessItem::Quota { tenant, quota } => {
                self.quotas.insert(tenant, quota);
            }
            AccessItem::Settings { what, digest } => {
                self.settings.insert(what, digest);
            }
            AccessItem::CertificateKey { id, since } => {
                self.certificate_keys.insert(id, since);
            }
            AccessItem::SigningKey(key) => {
                self.signing_keys.insert(key.id, key);
            }
            AccessItem::Checkpoint { at, checkpoint } => self.last_checkpoint = Some((at, checkpoint)),
        }
    }

    /// All bindings, by scope, subject and role.
    pub fn bindings(&self) -> impl Iterator<Item = &Arc<Binding>> {
        self.bindings.values()
    }

    /// What this subject has in this very scope.
    pub fn bindings_of(&self, scope: &Scope, subject: &Subject) -> impl Iterator<Item = &Arc<Binding>> {
        let key = |role| (scope.clone(), subject.clone(), role);
        self.bindings.range(key(Role::Viewer)..=key(Role::Admin)).map(|(_, binding)| binding)
    }

    /// One binding.
    #[must_use]
    pub fn binding(&self, scope: &Scope, subject: &Subject, role: Role) -> Option<&Arc<Binding>> {
        self.bindings.get(&(scope.clone(), subject.clone(), role))
    }

    /// All API tokens, in the order of their making; some may have expired.
    pub fn api_tokens(&self) -> impl Iterator<Item = &Arc<ApiToken>> {
        self.api_tokens.values()
    }

    /// One API token; it may have expired.
    #[must_use]
    pub fn api_token(&self, id: TokenId) -> Option<&Arc<ApiToken>> {
        self.api_tokens.get(&id)
    }

    /// The API token whose text has this hash; it may have expired.
    #[must_use]
    pub fn api_token_by_hash(&self, hash: &TokenHash) -> Option<&Arc<ApiToken>> {
        self.api_token_ids.get(hash).and_then(|id| self.api_tokens.get(id))
    }

    /// All join tokens, in the order of their making; some may let nobody in.
    pub fn join_tokens(&self) -> impl Iterator<Item = &Arc<JoinToken>> {
        self.join_tokens.values()
    }

    /// One join token; it may let nobody in.
    #[must_use]
    pub fn join_token(&self, id: TokenId) -> Option<&Arc<JoinToken>> {
        self.join_tokens.get(&id)
    }

    /// The join token whose text has this hash; it may let nobody in.
    #[must_use]
    pub fn join_token_by_hash(&self, hash: &TokenHash) -> Option<&Arc<JoinToken>> {
        self.join_token_ids.get(hash).and_then(|id| self.join_tokens.get(id))
    }

    /// All issuers, by tenant, cluster and name.
    pub fn issuers(&self) -> impl Iterator<Item = &Arc<Issuer>> {
        self.issuers.values()
    }

    /// One issuer.
    #[must_use]
    pub fn issuer(&self, tenant: &TenantName, cluster: &ClusterName, name: &Arc<str>) -> Option<&Arc<Issuer>> {
        self.issuers.get(&(tenant.clone(), cluster.clone(), name.clone()))
    }

    /// All denials, in the order of their making.
    pub fn denials(&self) -> impl Iterator<Item = &Arc<Denial>> {
        self.denials.values()
    }

    /// One denial.
    #[must_use]
    pub fn denial(&self, id: DenialId) -> Option<&Arc<Denial>> {
        self.denials.get(&id)
    }

    /// What keeps this agent out, if anything does. It costs the same however many denials there are.
    #[must_use]
    pub fn denial_of(&self, identity: &Identity, key: &KeyHash) -> Option<&Arc<Denial>> {
        if self.denials.is_empty() {
            return None;
        }
        let own = Scope::Tenant(identity.tenant.clone());
        let keys = DenialTarget::all_of(identity, key);
        let mut keys = keys.flat_map(|target| [(own.clone(), target.clone()), (Scope::Plane, target)]);
        keys.find_map(|key| self.denial_ids.get(&key)).and_then(|id| self.denials.get(id))
    }

    pub(super) fn denial_at(&self, scope: &Scope, target: &DenialTarget) -> Option<DenialId> {
        self.denial_ids.get(&(scope.clone(), target.clone())).copied()
    }

    /// All quotas, by tenant.
    pub fn quotas(&self) -> impl Iterator<Item = (&TenantName, &TenantQuota)> {
        self.quotas.iter()
    }

    /// The quota of a tenant; nothing is bounded by it where none was set.
    #[must_use]
    pub fn quota(&self, tenant: &TenantName) -> TenantQuota {
        self.quotas.get(tenant).copied().unwrap_or_default()
    }

    /// Settings as they were told of last, by what they are, with their digests.
    pub fn settings(&self) -> impl Iterator<Item = (&Arc<str>, &[u8; 32])> {
        self.settings.iter()
    }

    /// Keys that certificates are trusted by, with the records that told of them.
    pub fn certificate_keys(&self) -> impl Iterator<Item = (&KeyId, Seq)> {
        self.certificate_keys.iter().map(|(id, since)| (id, *since))
    }

    /// Keys that signed checkpoints, in no order that means anything; the newest one is the one whose `since` is.
    pub fn signing_keys(&self) -> impl Iterator<Item = &SigningKey> {
        self.signing_keys.values()
    }

    /// The key that signs what comes next.
    #[must_use]
    pub fn signing_key(&self) -> Option<&SigningKey> {
        self.signing_keys.values().max_by_key(|key| key.since)
    }

    /// The newest checkpoint, and the record that brought it.
    #[must_use]
    pub fn last_checkpoint(&self) -> Option<(Seq, &Checkpoint)> {
        self.last_checkpoint.as_ref().map(|(at, checkpoint)| (*at, checkpoint))
    }

    /// Whether a key of that id signs, or signed, checkpoints.
    #[must_use]
    pub fn has_signing_key(&self, id: &KeyId) -> bool {
        self.signing_keys.contains_key(id)
    }

    pub(super) fn has_certificate_key(&self, id: &KeyId) -> bool {
        self.certificate_keys.contains_key(id)
    }

    pub(super) fn settings_digest(&self, what: &str) -> Option<&[u8; 32]> {
        self.settings.get(what)
    }
}

/// What one tenant may have of that many.
pub(super) fn share(max: usize) -> usize {
    max / limits::ACCESS_SHARE
}

/// Whether there is no room for one more, in all or for its tenant.
fn is_full<'a>(max: usize, of: Option<&TenantName>, tenants: impl Iterator<Item = Option<&'a TenantName>>) -> bool {
    let (mut all, mut own) = (0, 0);
    for tenant in tenants {
        all += 1;
        own += usize::from(tenant == of);
    }
    all >= max || (of.is_some() && own >= share(max))
}
