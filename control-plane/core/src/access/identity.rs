//! Identities: which agent it is, as its certificate says.
//!
//! ```text
//! spiffe://<trust domain>/tenant/<t>/cluster/<c>/ns/<ns>/general/<g>/instance/<i>
//! spiffe://<trust domain>/tenant/<t>/cluster/<c>/agent/<i>
//! ```
//! Invariant: what is parsed is written the same again, to the letter.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use mindos_model::{ClusterName, GeneralName, InstanceId, NameError, TenantName};

/// An agent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    pub tenant: TenantName,
    pub cluster: ClusterName,
    pub holder: IdentityHolder,
}

/// What it speaks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IdentityHolder {
    /// One general.
    General {
        /// As [`Identity::check_namespace`] has it.
        namespace: Arc<str>,
        general: GeneralName,
        instance: InstanceId,
    },
    /// All generals of its cluster.
    ClusterAgent { instance: InstanceId },
}

impl IdentityHolder {
    /// The instance of the agent.
    #[must_use]
    pub fn instance(&self) -> &InstanceId {
        match self {
            IdentityHolder::General { instance, .. } | IdentityHolder::ClusterAgent { instance } => instance,
        }
    }
}

/// Why a text is not the identity of an agent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    #[error("identity `{text}` is not accepted: expected `spiffe://{trust_domain}/tenant/..`")]
    TrustDomain { text: String, trust_domain: String },
    #[error(
        "identity `{text}` is not accepted: expected `tenant/<tenant>/cluster/<cluster>/` and then \
         `ns/<namespace>/general/<general>/instance/<instance>` or `agent/<instance>`"
    )]
    Form { text: String },
    #[error("identity: {0}")]
    Name(#[from] NameError),
    #[error("namespace `{text}` is not accepted: expected 1 to 63 of a-z, 0-9 and, inside, `-`")]
    Namespace { text: String },
}

impl Identity {
    /// The identity that a SPIFFE id of this trust domain names.
    ///
    /// # Errors
    /// Says what is accepted.
    pub fn from_spiffe_id(trust_domain: &str, id: &str) -> Result<Identity, IdentityError> {
        let path = id.strip_prefix("spiffe://").and_then(|rest| rest.strip_prefix(trust_domain));
        match path.and_then(|rest| rest.strip_prefix('/')) {
            Some(path) => path.parse(),
            None => Err(IdentityError::TrustDomain { text: shown(id), trust_domain: trust_domain.to_owned() }),
        }
    }

    /// The SPIFFE id in this trust domain.
    #[must_use]
    pub fn spiffe_id(&self, trust_domain: &str) -> String {
        format!("spiffe://{trust_domain}/{self}")
    }

    /// The instance of the agent.
    #[must_use]
    pub fn instance(&self) -> &InstanceId {
        self.holder.instance()
    }

    /// Whether it may speak for this general of its cluster.
    #[must_use]
    pub fn speaks_for(&self, name: &GeneralName) -> bool {
        match &self.holder {
            IdentityHolder::General { general, .. } => general == name,
            IdentityHolder::ClusterAgent { .. } => true,
        }
    }

    /// Checks the name of a namespace: a DNS label, as Kubernetes has it.
    ///
    /// # Errors
    /// Says what is accepted.
    pub fn check_namespace(text: &str) -> Result<(), IdentityError> {
        let edge = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = text.as_bytes();
        let fits = (1..=63).contains(&bytes.len())
            && bytes.iter().all(|byte| edge(*byte) || *byte == b'-')
            && bytes.first().is_some_and(|byte| edge(*byte))
            && bytes.last().is_some_and(|byte| edge(*byte));
        if fits { Ok(()) } else { Err(IdentityError::Namespace { text: shown(text) }) }
    }
}

/// The path of the SPIFFE id, without the slash before it.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Identity { tenant, cluster, holder } = self;
        write!(f, "tenant/{tenant}/cluster/{cluster}/")?;
        match holder {
            IdentityHolder::General { namespace, general, instance } => {
                write!(f, "ns/{namespace}/general/{general}/instance/{instance}")
            }
            IdentityHolder::ClusterAgent { instance } => write!(f, "agent/{instance}"),
        }
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Identity, IdentityError> {
        let mut parts = text.split('/');
        let mut next = || parts.next();
        let words = [(); 11].map(|()| next());
        let (tenant, cluster, holder) = match words {
            [Some("tenant"), Some(t), Some("cluster"), Some(c), Some("agent"), Some(i), None, ..] => {
                (t, c, IdentityHolder::ClusterAgent { instance: InstanceId::new(i)? })
            }
            [
                Some("tenant"),
                Some(t),
                Some("cluster"),
                Some(c),
                Some("ns"),
                Some(namespace),
                Some("general"),
                Some(g),
                Some("instance"),
                Some(i),
                None,
            ] => {
                Identity::check_namespace(namespace)?;
                let (namespace, general, instance) = (Arc::from(namespace), GeneralName::new(g)?, InstanceId::new(i)?);
                (t, c, IdentityHolder::General { namespace, general, instance })
            }
            _ => return Err(IdentityError::Form { text: shown(text) }),
        };
        Ok(Identity { tenant: TenantName::new(tenant)?, cluster: ClusterName::new(cluster)?, holder })
    }
}

fn shown(text: &str) -> String {
    text.escape_debug().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GENERAL: &str = "tenant/acme/cluster/prod-us/ns/agents/general/security/instance/security-0";
    const AGENT: &str = "tenant/acme/cluster/prod-us/agent/agent-7f.x";

    #[test]
    fn what_is_parsed_is_written_the_same_again() {
        for path in [GENERAL, AGENT] {
            let identity: Identity = path.parse().unwrap();
            assert_eq!(identity.to_string(), path);
            let id = identity.spiffe_id("mindos.local");
            assert_eq!(id, format!("spiffe://mindos.local/{path}"));
            assert_eq!(Identity::from_spiffe_id("mindos.local", &id), Ok(identity));
        }
    }

    #[test]
    fn what_is_not_of_our_form_is_refused() {
        let bad = [
            "",
            "/",
            "tenant/acme",
            "tenant/acme/cluster/c/agent",
            "tenant/acme/cluster/c/agent/",
            "tenant/acme/cluster/c/agent/i/",
            "tenant/acme/cluster/c/agent/i/more",
            "tenant/acme/cluster/c/agent/..",
            "tenant/Acme/cluster/c/agent/i",
            "tenant//cluster/c/agent/i",
            "tenant/a%2f/cluster/c/agent/i",
            "tenant/acme/cluster/c/ns/x/general/g/instance/i/more",
            "tenant/acme/cluster/c/ns/x.y/general/g/instance/i",
            "tenant/acme/cluster/c/ns/-x/general/g/instance/i",
            "tenant/acme/cluster/c/ns/x/agent/g/instance/i",
            " tenant/acme/cluster/c/agent/i",
        ];
        for text in bad {
            let error = text.parse::<Identity>().unwrap_err().to_string();
            assert!(error.contains("expected"), "{text}: {error}");
        }
    }

    #[test]
    fn an_id_of_another_trust_domain_is_refused() {
        for id in [
            format!("spiffe://other/{AGENT}"),
            format!("spiffe://mindos.local.evil/{AGENT}"),
            format!("spiffe://mindos.localtenant/{AGENT}"),
            format!("https://mindos.local/{AGENT}"),
            format!("SPIFFE://mindos.local/{AGENT}"),
            AGENT.to_owned(),
        ] {
            let error = Identity::from_spiffe_id("mindos.local", &id).unwrap_err();
            assert!(matches!(error, IdentityError::TrustDomain { .. }), "{id}: {error}");
        }
    }

    #[test]
    fn a_general_speaks_for_itself_and_a_cluster_agent_for_all_of_its_cluster() {
        let (general, agent): (Identity, Identity) = (GENERAL.parse().unwrap(), AGENT.parse().unwrap());
        let (own, other) = (GeneralName::new("security").unwrap(), GeneralName::new("triage").unwrap());
        assert!(general.speaks_for(&own) && !general.speaks_for(&other));
        assert!(agent.speaks_for(&own) && agent.speaks_for(&other));
    }
}
