//! Denials: agents and keys that are kept out, whatever else vouches for them.

use std::fmt;
use std::fmt::Write as _;
use std::sync::Arc;

use mindos_model::{ClusterName, GeneralName, InstanceId, Seq, TenantName, Timestamp};

use crate::access::binding::Scope;
use crate::access::identity::{Identity, IdentityHolder};

/// Names a denial: the sequence of the record that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DenialId(pub u64);

impl From<Seq> for DenialId {
    fn from(seq: Seq) -> DenialId {
        DenialId(seq.0)
    }
}

impl fmt::Display for DenialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// SHA-256 of a public key's `SubjectPublicKeyInfo`.
pub type KeyHash = [u8; 32];

/// That an agent or a key is kept out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    pub id: DenialId,
    /// Whose agents it concerns.
    pub scope: Scope,
    pub target: DenialTarget,
    pub reason: Arc<str>,
    pub at: Timestamp,
    pub by: Arc<str>,
}

/// What is kept out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DenialTarget {
    /// All agents of which each field that is set is true. The agent of a cluster has neither a namespace nor a general.
    Agent {
        tenant: TenantName,
        cluster: ClusterName,
        namespace: Option<Arc<str>>,
        general: Option<GeneralName>,
        instance: Option<InstanceId>,
    },
    /// Whoever holds the key.
    Key(KeyHash),
}

impl DenialTarget {
    /// Every target that an agent with this key falls under.
    pub(super) fn all_of(identity: &Identity, key: &KeyHash) -> impl Iterator<Item = DenialTarget> {
        let Identity { tenant, cluster, holder } = identity.clone();
        let (namespace, general, instance) = match holder {
            IdentityHolder::General { namespace, general, instance } => (Some(namespace), Some(general), instance),
            IdentityHolder::ClusterAgent { instance } => (None, None, instance),
        };
        // Where nothing can be set, both turns of a bit give the same target.
        let agents = (0..8u8).map(move |bits| DenialTarget::Agent {
            tenant: tenant.clone(),
            cluster: cluster.clone(),
            namespace: namespace.clone().filter(|_| bits & 1 != 0),
            general: general.clone().filter(|_| bits & 2 != 0),
            instance: Some(instance.clone()).filter(|_| bits & 4 != 0),
        });
        agents.chain([DenialTarget::Key(*key)])
    }
}

impl fmt::Display for DenialTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DenialTarget::Agent { tenant, cluster, namespace, general, instance } => {
                let word = |text: Option<&str>| text.unwrap_or("*").to_owned();
                let (namespace, general) =
                    (word(namespace.as_deref()), word(general.as_ref().map(GeneralName::as_str)));
                let instance = word(instance.as_ref().map(InstanceId::as_str));
                write!(f, "agent {tenant}/{cluster}/{namespace}/{general}/{instance}")
            }
            DenialTarget::Key(key) => {
                let hex =
                    key.iter().try_fold(String::new(), |mut text, byte| write!(text, "{byte:02x}").map(|()| text));
                write!(f, "key {}", hex?)
            }
        }
    }
}
