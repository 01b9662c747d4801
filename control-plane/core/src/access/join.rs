//! Joins: an agent shows what vouches for it, and gets an identity.

use std::sync::Arc;

use mindos_model::{ClusterName, TenantName, Timestamp};

use crate::access::denial::KeyHash;
use crate::access::error::{JoinRefusal, JoinRefused};
use crate::access::identity::{Identity, IdentityHolder};
use crate::access::record::{AccessRecord, JoinedBy};
use crate::access::state::Access;
use crate::access::token::{Holder, JoinToken, TokenHash};
use crate::decide::Decision;
use crate::durable::Durable;
use crate::input::RequestId;
use crate::output::{Rejection, Reply};
use crate::record::Record;

/// An agent wants to join. Its key was shown to be its own.
#[derive(Clone, Debug)]
pub struct Join {
    pub request: RequestId,
    pub presented: Presented,
    /// With [`Join::holder`] what it wants to be. The tenant comes from what is presented.
    pub cluster: ClusterName,
    pub holder: IdentityHolder,
    pub key: KeyHash,
    /// When its certificate will end.
    pub not_after: Timestamp,
    /// Address of the agent.
    pub from: Arc<str>,
}

/// What vouches for an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presented {
    Token {
        hash: TokenHash,
    },
    /// A token that was found to be signed by the issuer, for its audience, and in its time.
    ServiceAccount {
        tenant: TenantName,
        /// Name of the issuer; its cluster is the one that is wanted.
        issuer: Arc<str>,
        namespace: Arc<str>,
        service_account: Arc<str>,
        /// The instance that it must want to be; any where the token names none.
        pod: Arc<str>,
    },
}

impl Access {
    /// The identity that an agent may get at that time, and by what; or why not.
    fn admit(&self, join: &Join, at: Timestamp) -> Result<(Identity, JoinedBy), Rejection> {
        let Join { request: _, presented, cluster, holder, key, not_after: _, from: _ } = join;
        let (tenant, how, refusal) = match presented {
            Presented::Token { hash } => {
                let token = self.join_token_by_hash(hash).ok_or(Rejection::JoinUnknown)?;
                (&token.tenant, JoinedBy::Token(token.id), refusal_of_token(token, cluster, holder, at))
            }
            Presented::ServiceAccount { tenant, issuer: name, namespace, service_account, pod } => {
                let issuer = self.issuer(tenant, cluster, name).ok_or(Rejection::JoinUnknown)?;
                let refusal = match holder {
                    IdentityHolder::General { namespace: wanted, .. } if wanted != namespace => {
                        Some(JoinRefusal::WrongNamespace)
                    }
                    _ if !issuer.grants(namespace, service_account, holder) => Some(JoinRefusal::NotGranted),
                    // Else a pod that is kept out would join by another name, or take that of another pod.
                    _ if !pod.is_empty() && **pod != *holder.instance().as_str() => Some(JoinRefusal::WrongInstance),
                    _ => None,
                };
                let (issuer, namespace) = (issuer.name.clone(), namespace.clone());
                let (service_account, pod) = (service_account.clone(), pod.clone());
                (tenant, JoinedBy::ServiceAccount { issuer, namespace, service_account, pod }, refusal)
            }
        };
        let identity = Identity { tenant: tenant.clone(), cluster: cluster.clone(), holder: holder.clone() };
        let denied = || self.denial_of(&identity, key).map(|_| JoinRefusal::Denied);
        match refusal.or_else(denied) {
            None => Ok((identity, how)),
            Some(reason) => {
                let token = match how {
                    JoinedBy::Token(token) => Some(token),
                    JoinedBy::ServiceAccount { .. } => None,
                };
                let refused = JoinRefused { tenant: identity.tenant, token, cluster: identity.cluster, reason };
                Err(Rejection::JoinRefused(Box::new(refused)))
            }
        }
    }
}

fn refusal_of_token(
    token: &JoinToken,
    cluster: &ClusterName,
    holder: &IdentityHolder,
    at: Timestamp,
) -> Option<JoinRefusal> {
    let refused = |is_so: bool, reason| is_so.then_some(reason);
    let first = refused(token.revoked, JoinRefusal::Revoked)
        .or(refused(token.expires <= at, JoinRefusal::Expired))
        .or(refused(token.uses_left == 0, JoinRefusal::UsedUp))
        .or(refused(token.cluster != *cluster, JoinRefusal::WrongCluster));
    first.or_else(|| match (&token.holder, holder) {
        (Holder::General(_) | Holder::AnyGeneral, IdentityHolder::ClusterAgent { .. }) => {
            Some(JoinRefusal::NotClusterAgent)
        }
        (Holder::ClusterAgent, IdentityHolder::General { .. }) => Some(JoinRefusal::WrongGeneral),
        (Holder::ClusterAgent, IdentityHolder::ClusterAgent { .. }) => None,
        (Holder::General(_) | Holder::AnyGeneral, IdentityHolder::General { namespace, general, .. }) => {
            match (&token.namespace, &token.holder) {
                (Some(own), _) if own != namespace => Some(JoinRefusal::WrongNamespace),
                (_, Holder::General(own)) if own != general => Some(JoinRefusal::WrongGeneral),
                _ => None,
            }
        }
    })
}

impl Durable {
    pub(crate) fn join(&self, join: Join, now: Timestamp) -> Decision {
        match self.access().admit(&join, now.max(self.at)) {
            Ok((identity, how)) => {
                let Join { request, presented: _, cluster: _, holder: _, key, not_after, from } = join;
                let record = AccessRecord::AgentJoined { identity: identity.clone(), key, how, not_after, from };
                let reply = Reply::Joined { identity: Box::new(identity), at: self.seq.next() };
                Decision::reply(request, Ok(reply)).with(Record::Access(Box::new(record)))
            }
            Err(rejection) => Decision::reply(join.request, Err(rejection)),
        }
    }
}
