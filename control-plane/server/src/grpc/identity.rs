//! Certificates of agents: `mindos.identity.v1.IdentityService`.
//!
//! Invariant: nobody needs to be known here, so each call is bounded in size and number, what is not known to the plane leaves no
//! record, and a refusal says one word.

use std::sync::Arc;
use std::time::Duration;

use mindos_core::access::{
    AccessChange, AccessError, Identity, IdentityHolder, Join, JoinRefused, Presented, Scope, TokenHash,
};
use mindos_core::input::Input;
use mindos_core::output::{Rejection, Reply};
use mindos_model::{ClusterName, Timestamp};
use mindos_proto::convert::{Invalid, parsed, span};
use mindos_proto::identity::v1::identity_service_server::IdentityService;
use mindos_proto::identity::v1::{
    AuthorityRequest, AuthorityResponse, ChallengeRequest, ChallengeResponse, Issued, JoinRequest, JoinResponse,
    LedgerKey, RenewRequest, RenewResponse, join_request,
};
use mindos_proto::rpc;
use rustls::pki_types::CertificateDer;
use tokio::sync::{Semaphore, SemaphorePermit};
use tonic::{Code, Request, Response, Status};
use tracing::{debug, info, warn};

use super::{failed, status, unexpected};
use crate::access::secret::{self, JOIN_PREFIX};
use crate::access::service_account::{AttestError, ServiceAccounts};
use crate::access::view::AccessView;
use crate::driver::{CallError, Handle};
use crate::logging::Chain;
use crate::net::Connection;
use crate::tls::authority::Authority;
use crate::tls::challenge::Challenges;
use crate::tls::key::{DER_MAX, PublicKey};
use crate::tls::membership::Membership;
use crate::tls::renew::{self, RenewRefusal, Renewal};
use crate::tls::server_config::Tls;

/// Requests of one kind that are looked at together. More are told to come again.
const ASKING_MAX: usize = 64;
/// When they may.
const RETRY: Duration = Duration::from_secs(1);
/// Bytes of a service account token.
const SERVICE_ACCOUNT_TOKEN_MAX: usize = 16 << 10;
/// Bytes of what names an issuer: a tenant and a name.
const HINT_MAX: usize = 256;
/// Bytes of a request.
pub(super) const REQUEST_MAX: usize = 64 << 10;

/// What the service needs.
pub struct IdentityParts {
    pub handle: Handle,
    pub access: Arc<AccessView>,
    /// Unset where nothing is encrypted.
    pub tls: Option<Arc<Tls>>,
    pub service_accounts: Arc<ServiceAccounts>,
    /// Of a certificate.
    pub life: Duration,
}

/// The service.
#[derive(Clone)]
pub struct Identities(Arc<Shared>);

struct Shared {
    parts: IdentityParts,
    challenges: Challenges,
    membership: Membership,
    turns: Turns,
}

/// Turns by kind, so that no kind waits for another: a service account token may have to wait for its cluster.
struct Turns {
    tokens: Semaphore,
    service_accounts: Semaphore,
    renewals: Semaphore,
}

impl Default for Turns {
    fn default() -> Turns {
        let turns = || Semaphore::new(ASKING_MAX);
        Turns { tokens: turns(), service_accounts: turns(), renewals: turns() }
    }
}

/// A turn in one of them.
fn turn(of: &Semaphore) -> Result<SemaphorePermit<'_>, Status> {
    of.try_acquire().map_err(|_| {
        let full = rpc::Status::new(Code::ResourceExhausted as i32, "too many ask for certificates at once");
        full.with_reason("TOO_MANY_AT_ONCE", []).with(rpc::RetryInfo { retry_delay: Some(span(RETRY)) }).into()
    })
}

/// What an agent shows.
enum Proof {
    Token { hash: TokenHash },
    ServiceAccount { hint: String, token: String },
}

impl Identities {
    /// A service of these parts.
    ///
    /// # Errors
    /// When the system has no chance to give.
    pub fn new(parts: IdentityParts) -> Result<Identities, getrandom::Error> {
        let (challenges, membership) = (Challenges::new()?, Membership::default());
        Ok(Identities(Arc::new(Shared { parts, challenges, membership, turns: Turns::default() })))
    }

    /// What is counted.
    #[must_use]
    pub fn exposed(&self) -> crate::http::Exposed {
        let shared = Arc::clone(&self.0);
        crate::http::Exposed::new(move |into| shared.membership.expose(into))
    }
}

impl Shared {
    fn now(&self) -> Timestamp {
        self.parts.handle.now()
    }

    /// What makes certificates for agents.
    fn issuer(&self) -> Result<(&Arc<Tls>, &Arc<Authority>), Status> {
        let refused = |reason: &str, message: &str| {
            Status::from(rpc::Status::new(Code::FailedPrecondition as i32, message).with_reason(reason, []))
        };
        let tls = self.parts.tls.as_ref().ok_or_else(|| {
            refused("TLS_OFF", "the control plane runs without TLS, where agents need no certificate")
        })?;
        match tls.authority() {
            Some(authority) if tls.issues_to_agents() => Ok((tls, authority)),
            _ => Err(refused("EXTERNAL_AUTHORITY", "certificates of agents are made by an external authority")),
        }
    }

    /// Makes the certificate.
    fn issue(&self, identity: &Identity, key: &PublicKey) -> Result<Issued, Status> {
        let (tls, authority) = self.issuer()?;
        let (now, life) = (self.now(), self.parts.life);
        let id = identity.spiffe_id(tls.trust_domain());
        let made = authority.for_agent(&id, key, now, life);
        let made = made.map_err(|error| failed("a certificate was not made", &error))?;
        // Between 35 and 50 % of its life, so that those who came together do not come together again.
        let chance = u32::from(getrandom::u32().unwrap_or_default() as u16);
        let renew_after = now + life * 35 / 100 + life * 15 / 100 * chance / u32::from(u16::MAX);
        Ok(Issued {
            certificates: made.chain.iter().map(der).collect(),
            trust_bundle: tls.roots_for_clients().iter().map(der).collect(),
            identity: id,
            not_before_ms: millis(made.not_before),
            not_after_ms: millis(made.not_after),
            renew_after_ms: millis(renew_after),
            server_time_ms: millis(now),
        })
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<JoinResponse, Status> {
        self.issuer()?;
        let peer = request.extensions().get::<Connection>().map(|connection| connection.peer);
        let from: Arc<str> = peer.map_or_else(|| Arc::from(""), |peer| Arc::from(peer.to_string()));
        let Asked { proof, cluster, holder, certificate_request } =
            Asked::read(request.into_inner()).map_err(status::invalid)?;
        let _turn = turn(match &proof {
            Proof::Token { .. } => &self.turns.tokens,
            Proof::ServiceAccount { .. } => &self.turns.service_accounts,
        })?;
        let known = Arc::clone(&self.parts.access.load());
        let (presented, shown) = match proof {
            Proof::Token { hash } => match known.access.join_token_by_hash(&hash) {
                // Nobody's: not worth a record.
                None => return Err(self.refused("unknown", None)),
                Some(token) => (Presented::Token { hash }, Some((hash, token.revoked))),
            },
            Proof::ServiceAccount { hint, token } => {
                let attested = self.parts.service_accounts.attest(&known.access, &cluster, &hint, &token).await;
                match attested {
                    Ok(attested) => (attested.presented(), None),
                    Err(error @ AttestError::Unavailable(_)) => {
                        self.membership.count("join", error.word());
                        warn!(error = %Chain(&error), %cluster, "a service account token was not checked");
                        let message = "the cluster of the service account token cannot be asked: try again";
                        let status = rpc::Status::new(Code::Unavailable as i32, message);
                        return Err(status.with_reason(error.word(), []).into());
                    }
                    Err(error) => return Err(self.refused(error.word(), Some(&error))),
                }
            }
        };
        let key = PublicKey::of_request(&certificate_request)
            .map_err(|error| status::invalid(Invalid::new("certificate_request", error)))?;
        let now = self.now();
        // An answer that was lost.
        let repeated = shown.filter(|(_, is_revoked)| !is_revoked);
        let repeated = repeated.and_then(|(hash, _)| self.membership.joined_as(&(hash, key.digest()), now));
        if let Some(identity) = repeated
            && identity.cluster == cluster
            && identity.holder == holder
            && known.access.denial_of(&identity, &key.digest()).is_none()
        {
            self.membership.count("join", "repeated");
            return Ok(JoinResponse { issued: Some(self.issue(&identity, &key)?) });
        }
        let (digest, not_after) = (key.digest(), now + self.parts.life);
        let joined = self.parts.handle.call(|request| {
            let from = Arc::clone(&from);
            Input::Join(Box::new(Join { request, presented, cluster, holder, key: digest, not_after, from }))
        });
        match joined.await {
            Ok(Reply::Joined { identity, at }) => {
                info!(agent = %identity, %from, seq = %at, "agent joined");
                self.membership.count("join", "ok");
                if let Some((hash, _)) = shown {
                    self.membership.joined((hash, digest), (*identity).clone(), now);
                }
                Ok(JoinResponse { issued: Some(self.issue(&identity, &key)?) })
            }
            Ok(other) => Err(unexpected(&other)),
            Err(CallError::Rejected(Rejection::JoinRefused(refused))) => {
                let word = refused.reason.as_str();
                self.record(*refused, from).await;
                Err(self.refused(word, None))
            }
            Err(CallError::Rejected(Rejection::JoinUnknown)) => Err(self.refused("unknown", None)),
            Err(error) => Err(status::call(&error).into()),
        }
    }

    /// Puts a refusal on record, unless the same one was a moment ago.
    async fn record(&self, refused: JoinRefused, from: Arc<str>) {
        if !self.membership.is_to_be_recorded(&refused, self.now()) {
            return;
        }
        let change = Box::new(AccessChange::NoteRefusal(refused));
        let (within, by) = (Scope::Plane, Arc::from(""));
        let noted = self.parts.handle.call(|request| Input::Access { request, within, change, by, from }).await;
        match noted {
            Ok(_) | Err(CallError::Rejected(Rejection::Access(AccessError::Unknown { .. }))) => {}
            Err(error) => debug!(%error, "a refusal was not recorded"),
        }
    }

    /// What somebody who is refused hears.
    fn refused(&self, word: &'static str, error: Option<&dyn std::error::Error>) -> Status {
        debug!(reason = word, error = error.map(tracing::field::display), "join was refused");
        self.membership.count("join", word);
        let message = format!("join refused: {word}");
        rpc::Status::new(Code::PermissionDenied as i32, message).with_reason("JOIN_REFUSED", []).into()
    }

    fn renew(&self, request: RenewRequest) -> Result<RenewResponse, Status> {
        let (tls, _) = self.issuer()?;
        let _turn = turn(&self.turns.renewals)?;
        let RenewRequest { certificates, certificate_request, challenge, signature } = request;
        let certificates: Vec<_> = certificates.iter().map(|der| CertificateDer::from(&der[..])).collect();
        let renewal = Renewal {
            certificates: &certificates,
            request: &certificate_request,
            challenge: &challenge,
            signature: &signature,
        };
        let (agent, key) = renew::judge(renewal, &tls.verifier(), &self.challenges, self.now()).map_err(|refusal| {
            self.membership.count("renew", refusal.word());
            not_renewed(&refusal)
        })?;
        self.membership.count("renew", "ok");
        debug!(agent = %agent.identity, "certificate was renewed");
        Ok(RenewResponse { issued: Some(self.issue(&agent.identity, &key)?) })
    }
}

fn not_renewed(refusal: &RenewRefusal) -> Status {
    let code = match refusal {
        RenewRefusal::Chain { .. } => return status::invalid(Invalid::new("certificates", refusal)).into(),
        RenewRefusal::Request(error) => return status::invalid(Invalid::new("certificate_request", error)).into(),
        RenewRefusal::Denied => Code::PermissionDenied,
        RenewRefusal::Challenge | RenewRefusal::Late | RenewRefusal::Certificate | RenewRefusal::Signature => {
            Code::Unauthenticated
        }
    };
    let message = format!("renewal refused: {}", refusal.word());
    rpc::Status::new(code as i32, message).with_reason("RENEW_REFUSED", []).into()
}

/// A request to join, read.
struct Asked {
    proof: Proof,
    cluster: ClusterName,
    holder: IdentityHolder,
    certificate_request: bytes::Bytes,
}

impl Asked {
    fn read(request: JoinRequest) -> Result<Asked, Invalid> {
        let JoinRequest { cluster, namespace, general, instance, certificate_request, issuer_hint: hint, proof } =
            request;
        let cluster = parsed(&cluster, "cluster")?;
        let instance = parsed(&instance, "instance")?;
        let holder = if general.is_empty() {
            IdentityHolder::ClusterAgent { instance }
        } else {
            Identity::check_namespace(&namespace).map_err(|error| Invalid::new("namespace", error))?;
            IdentityHolder::General { namespace: namespace.into(), general: parsed(&general, "general")?, instance }
        };
        if certificate_request.is_empty() || certificate_request.len() > DER_MAX {
            let found = certificate_request.len();
            let reason = format!("has {found} bytes: expected a PKCS#10 request in DER of 1 to {DER_MAX}");
            return Err(Invalid::new("certificate_request", reason));
        }
        let proof = match proof {
            Some(join_request::Proof::JoinToken(text)) => {
                if !secret::is_formed(&text, JOIN_PREFIX) {
                    let reason = format!("is malformed: expected `{JOIN_PREFIX}` and 43 characters");
                    return Err(Invalid::new("join_token", reason));
                }
                Proof::Token { hash: secret::hash(&text) }
            }
            Some(join_request::Proof::ServiceAccountToken(token)) => {
                if token.is_empty() || token.len() > SERVICE_ACCOUNT_TOKEN_MAX {
                    let reason = format!("has {} bytes: expected 1 to {SERVICE_ACCOUNT_TOKEN_MAX}", token.len());
                    return Err(Invalid::new("service_account_token", reason));
                }
                if hint.len() > HINT_MAX {
                    let reason = format!("has {} bytes: expected at most {HINT_MAX}", hint.len());
                    return Err(Invalid::new("issuer_hint", reason));
                }
                Proof::ServiceAccount { hint, token }
            }
            None => return Err(Invalid::new("proof", "is required: expected `join_token` or `service_account_token`")),
        };
        Ok(Asked { proof, cluster, holder, certificate_request })
    }
}

fn der(certificate: &CertificateDer<'_>) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(certificate)
}

fn millis(at: Timestamp) -> i64 {
    i64::try_from(at.0).unwrap_or(i64::MAX)
}

#[tonic::async_trait]
impl IdentityService for Identities {
    async fn challenge(&self, _: Request<ChallengeRequest>) -> Result<Response<ChallengeResponse>, Status> {
        let now = self.0.now();
        let challenge = self.0.challenges.make(now).map_err(|error| failed("no challenge was made", &error))?;
        Ok(Response::new(ChallengeResponse { challenge: challenge.into(), server_time_ms: millis(now) }))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        self.0.join(request).await.map(Response::new)
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        self.0.renew(request.into_inner()).map(Response::new)
    }

    async fn authority(&self, _: Request<AuthorityRequest>) -> Result<Response<AuthorityResponse>, Status> {
        let IdentityParts { access, tls, .. } = &self.0.parts;
        let roots = tls.as_ref().and_then(|tls| tls.authority()).map(|authority| authority.roots());
        let known = access.load();
        let mut keys: Vec<_> = known.access.signing_keys().collect();
        keys.sort_by_key(|key| key.since);
        let ledger_keys = keys.into_iter().map(|key| LedgerKey {
            id: key.id.to_vec().into(),
            public_key: key.public.to_vec().into(),
            since: key.since.0,
        });
        Ok(Response::new(AuthorityResponse {
            trust_domain: tls.as_ref().map(|tls| tls.trust_domain().to_string()).unwrap_or_default(),
            trust_bundle: roots.unwrap_or_default().iter().map(der).collect(),
            ledger_keys: ledger_keys.collect(),
            server_time_ms: millis(self.0.now()),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_a_cluster_keeps_nobody_from_renewing() {
        let turns = Turns::default();
        let waiting: Vec<_> = (0..ASKING_MAX).map(|_| turn(&turns.service_accounts).unwrap()).collect();
        let refused = turn(&turns.service_accounts).unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert!(rpc::Status::from(&refused).detail::<rpc::RetryInfo>().is_some());
        assert!(turn(&turns.renewals).is_ok() && turn(&turns.tokens).is_ok());
        drop(waiting);
        assert!(turn(&turns.service_accounts).is_ok());
    }
}
