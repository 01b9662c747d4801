//! Tokens: secrets that stand for a program, or let agents join. Only their hashes are known here.

use std::fmt;
use std::sync::Arc;

use mindos_model::{ClusterName, GeneralName, Role, Seq, TenantName, Timestamp};

use crate::access::binding::Scope;
use crate::route::Pattern;

/// Names a token: the sequence of the record that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(pub u64);

impl From<Seq> for TokenId {
    fn from(seq: Seq) -> TokenId {
        TokenId(seq.0)
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// SHA-256 of a token's whole text.
pub type TokenHash = [u8; 32];

/// Stands for a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiToken {
    pub id: TokenId,
    /// For people; need not be unique.
    pub name: Arc<str>,
    pub hash: TokenHash,
    pub scope: Scope,
    /// At least one, each once, in order.
    pub roles: Vec<Role>,
    /// Sources of events that it may name as a publisher; none where empty.
    pub sources: Vec<Pattern>,
    /// Not accepted from then on.
    pub expires: Timestamp,
    pub created: Timestamp,
    pub by: Arc<str>,
    /// To within an hour.
    pub last_used: Option<Timestamp>,
}

/// Lets agents join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinToken {
    pub id: TokenId,
    pub hash: TokenHash,
    pub tenant: TenantName,
    pub cluster: ClusterName,
    /// Any where unset.
    pub namespace: Option<Arc<str>>,
    pub holder: Holder,
    /// Agents that may join by it yet.
    pub uses_left: u32,
    /// Lets nobody in from then on.
    pub expires: Timestamp,
    pub created: Timestamp,
    pub by: Arc<str>,
    /// Lets nobody in. It is kept for a while, so that who comes with it is told from who comes with nothing.
    pub revoked: bool,
}

impl JoinToken {
    /// Whether nobody can join by it at that time, so that it may be forgotten.
    #[must_use]
    pub fn is_spent(&self, at: Timestamp) -> bool {
        self.revoked || self.uses_left == 0 || self.expires <= at
    }
}

/// What whoever joins may become.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Holder {
    /// An instance of one general.
    General(GeneralName),
    /// An instance of any one general of the cluster.
    AnyGeneral,
    /// The agent of the cluster, which speaks for all generals of it.
    ClusterAgent,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Holder::General(name) => write!(f, "general {name}"),
            Holder::AnyGeneral => f.write_str("any general"),
            Holder::ClusterAgent => f.write_str("cluster agent"),
        }
    }
}
