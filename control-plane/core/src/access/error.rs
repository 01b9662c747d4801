//! Why a change of access, or a join, is refused.

use std::fmt;
use std::str::FromStr;

use mindos_model::{ClusterName, Seq, TenantName};

use crate::access::token::TokenId;

/// Why a change of access is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// It is not there, or lies outside of the scope of who asks, which is not to be told.
    #[error("{what} is not known")]
    Unknown { what: String },
    #[error("{field}: `{text}` is not accepted: expected {expected}")]
    Invalid { field: &'static str, text: String, expected: String },
    #[error("there are {max} {what}, no more may be")]
    Full { what: &'static str, max: usize },
    #[error("tenant {tenant} has {max} {what}, no more may be")]
    TenantFull { tenant: TenantName, what: &'static str, max: usize },
    #[error("{what} is there: expected another")]
    Exists { what: &'static str },
    #[error("scope {asked} is not accepted: expected {within}")]
    OutsideScope { asked: String, within: String },
    #[error(
        "checkpoint through record {through} is not accepted: expected one after record {last}, up to record {end}"
    )]
    Checkpoint { through: Seq, last: Seq, end: Seq },
}

impl AccessError {
    pub(super) fn invalid(field: &'static str, text: &str, expected: impl Into<String>) -> AccessError {
        AccessError::Invalid { field, text: text.escape_debug().take(80).collect(), expected: expected.into() }
    }
}

/// Why nobody could join.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum JoinRefusal {
    /// The token let in as many as it may.
    UsedUp,
    Expired,
    Revoked,
    WrongCluster,
    WrongNamespace,
    /// The token is for another general, or for the agent of the cluster.
    WrongGeneral,
    /// The token is for generals, not for the agent of the cluster.
    NotClusterAgent,
    /// The agent or its key is kept out.
    Denied,
    /// No grant of the issuer fits.
    NotGranted,
    /// The pod that its token names is not the instance that it wants to be.
    WrongInstance,
}

impl JoinRefusal {
    /// Every reason, in order.
    pub const ALL: [JoinRefusal; 10] = [
        JoinRefusal::UsedUp,
        JoinRefusal::Expired,
        JoinRefusal::Revoked,
        JoinRefusal::WrongCluster,
        JoinRefusal::WrongNamespace,
        JoinRefusal::WrongGeneral,
        JoinRefusal::NotClusterAgent,
        JoinRefusal::Denied,
        JoinRefusal::NotGranted,
        JoinRefusal::WrongInstance,
    ];

    /// The word as it is written everywhere.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            JoinRefusal::UsedUp => "used_up",
            JoinRefusal::Expired => "expired",
            JoinRefusal::Revoked => "revoked",
            JoinRefusal::WrongCluster => "wrong_cluster",
            JoinRefusal::WrongNamespace => "wrong_namespace",
            JoinRefusal::WrongGeneral => "wrong_general",
            JoinRefusal::NotClusterAgent => "not_cluster_agent",
            JoinRefusal::Denied => "denied",
            JoinRefusal::NotGranted => "not_granted",
            JoinRefusal::WrongInstance => "wrong_instance",
        }
    }
}

impl fmt::Display for JoinRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for JoinRefusal {
    type Err = AccessError;

    fn from_str(text: &str) -> Result<JoinRefusal, AccessError> {
        let known = JoinRefusal::ALL.into_iter().find(|refusal| refusal.as_str() == text);
        known.ok_or_else(|| AccessError::invalid("reason", text, JoinRefusal::ALL.map(JoinRefusal::as_str).join(", ")))
    }
}

/// Who could not join, and why. Who came is told the reason's word and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinRefused {
    pub tenant: TenantName,
    /// The token that was presented; unset where it was one of a service account.
    pub token: Option<TokenId>,
    /// As was asked for.
    pub cluster: ClusterName,
    pub reason: JoinRefusal,
}
