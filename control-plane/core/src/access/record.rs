//! What the journal says of access.

use std::sync::Arc;

use mindos_model::{ClusterName, Role, TenantName, Timestamp};

use crate::access::authority::{AuthorityChange, Checkpoint};
use crate::access::binding::{Binding, Scope, Subject};
use crate::access::denial::{Denial, DenialId, KeyHash};
use crate::access::error::JoinRefused;
use crate::access::identity::Identity;
use crate::access::issuer::Issuer;
use crate::access::quota::TenantQuota;
use crate::access::token::{ApiToken, JoinToken, TokenId};

/// A fact about access. In each `by` is who did it, empty for the plane itself, and `from` the address that it was done from, empty for
/// the plane itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessRecord {
    ApiTokenCreated {
        token: Arc<ApiToken>,
        from: Arc<str>,
    },
    /// It was used, for the first time in an hour.
    ApiTokenUsed {
        scope: Scope,
        token: TokenId,
        at: Timestamp,
        from: Arc<str>,
    },
    ApiTokenRevoked {
        scope: Scope,
        token: TokenId,
        by: Arc<str>,
        from: Arc<str>,
    },
    JoinTokenCreated {
        token: Arc<JoinToken>,
        from: Arc<str>,
    },
    JoinTokenRevoked {
        tenant: TenantName,
        token: TokenId,
        by: Arc<str>,
        from: Arc<str>,
    },
    /// An agent got an identity. By a token that is one use of it.
    AgentJoined {
        identity: Identity,
        key: KeyHash,
        how: JoinedBy,
        /// When its first certificate ends.
        not_after: Timestamp,
        from: Arc<str>,
    },
    /// An agent came with something that is known, and did not get an identity.
    JoinRefused {
        refused: JoinRefused,
        from: Arc<str>,
    },
    /// A role was given, or the sources of a publisher were set otherwise.
    RoleBound {
        binding: Arc<Binding>,
        by: Arc<str>,
        from: Arc<str>,
    },
    RoleUnbound {
        scope: Scope,
        subject: Subject,
        role: Role,
        by: Arc<str>,
        from: Arc<str>,
    },
    /// An issuer was registered, or set otherwise than before.
    IssuerRegistered {
        issuer: Arc<Issuer>,
        by: Arc<str>,
        from: Arc<str>,
    },
    IssuerRemoved {
        tenant: TenantName,
        cluster: ClusterName,
        name: Arc<str>,
        by: Arc<str>,
        from: Arc<str>,
    },
    AgentDenied {
        denial: Arc<Denial>,
        from: Arc<str>,
    },
    /// A denial ended.
    AgentAllowed {
        scope: Scope,
        denial: DenialId,
        by: Arc<str>,
        from: Arc<str>,
    },
    QuotaSet {
        tenant: TenantName,
        /// Unset where it has none from here on.
        quota: Option<TenantQuota>,
        by: Arc<str>,
        from: Arc<str>,
    },
    SettingsChanged {
        /// `settings`, `server_certificate`, `oidc` and such.
        what: Arc<str>,
        /// SHA-256 of all of it.
        digest: [u8; 32],
        /// Names of what changed in it; no secrets.
        summary: Arc<str>,
        by: Arc<str>,
        from: Arc<str>,
    },
    AuthorityChanged {
        what: AuthorityChange,
        by: Arc<str>,
        from: Arc<str>,
    },
    CheckpointSigned(Checkpoint),
}

/// What vouched for an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JoinedBy {
    Token(TokenId),
    ServiceAccount {
        /// Name of the issuer.
        issuer: Arc<str>,
        namespace: Arc<str>,
        service_account: Arc<str>,
        pod: Arc<str>,
    },
}

impl AccessRecord {
    /// Name of the kind, as the ledger shows it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            AccessRecord::ApiTokenCreated { .. } => "ApiTokenCreated",
            AccessRecord::ApiTokenUsed { .. } => "ApiTokenUsed",
            AccessRecord::ApiTokenRevoked { .. } => "ApiTokenRevoked",
            AccessRecord::JoinTokenCreated { .. } => "JoinTokenCreated",
            AccessRecord::JoinTokenRevoked { .. } => "JoinTokenRevoked",
            AccessRecord::AgentJoined { .. } => "AgentJoined",
            AccessRecord::JoinRefused { .. } => "JoinRefused",
            AccessRecord::RoleBound { .. } => "RoleBound",
            AccessRecord::RoleUnbound { .. } => "RoleUnbound",
            AccessRecord::IssuerRegistered { .. } => "IssuerRegistered",
            AccessRecord::IssuerRemoved { .. } => "IssuerRemoved",
            AccessRecord::AgentDenied { .. } => "AgentDenied",
            AccessRecord::AgentAllowed { .. } => "AgentAllowed",
            AccessRecord::QuotaSet { .. } => "QuotaSet",
            AccessRecord::SettingsChanged { .. } => "SettingsChanged",
            AccessRecord::AuthorityChanged { .. } => "AuthorityChanged",
            AccessRecord::CheckpointSigned(_) => "CheckpointSigned",
        }
    }

    /// The tenant that it concerns; `None` for what concerns the plane.
    #[must_use]
    pub fn tenant(&self) -> Option<&TenantName> {
        match self {
            AccessRecord::ApiTokenCreated { token, .. } => token.scope.tenant(),
            AccessRecord::ApiTokenUsed { scope, .. }
            | AccessRecord::ApiTokenRevoked { scope, .. }
            | AccessRecord::RoleUnbound { scope, .. }
            | AccessRecord::AgentAllowed { scope, .. } => scope.tenant(),
            AccessRecord::JoinTokenCreated { token, .. } => Some(&token.tenant),
            AccessRecord::JoinTokenRevoked { tenant, .. }
            | AccessRecord::IssuerRemoved { tenant, .. }
            | AccessRecord::QuotaSet { tenant, .. } => Some(tenant),
            AccessRecord::AgentJoined { identity, .. } => Some(&identity.tenant),
            AccessRecord::JoinRefused { refused, .. } => Some(&refused.tenant),
            AccessRecord::RoleBound { binding, .. } => binding.scope.tenant(),
            AccessRecord::IssuerRegistered { issuer, .. } => Some(&issuer.tenant),
            AccessRecord::AgentDenied { denial, .. } => denial.scope.tenant(),
            AccessRecord::SettingsChanged { .. }
            | AccessRecord::AuthorityChanged { .. }
            | AccessRecord::CheckpointSigned(_) => None,
        }
    }
}
