//! The calls: a proof or an old certificate against a new one, and roots by their digest.

use std::time::Duration;

use mindos_model::Timestamp;
use mindos_proto::identity::v1 as proto;
use mindos_proto::identity::v1::identity_service_client::IdentityServiceClient;
use mindos_proto::rpc;
use mindos_sidecar_core::membership::{Term, Trouble};
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use tonic::{Code, Status};

use super::key::Key;
use super::{IdentityError, Who};
use crate::dial::{Channel, Dialer};
use crate::plane_clock::PlaneClock;
use crate::tls;

/// How long one call may take.
const CALL_MAX: Duration = Duration::from_secs(10);
/// Certificates of one answer.
const CERTIFICATES_MAX: usize = 16;

/// A certificate with what belongs to it, checked.
#[derive(Debug)]
pub(crate) struct Issued {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) bundle: Vec<CertificateDer<'static>>,
    pub(crate) identity: String,
    pub(crate) term: Term,
}

type Client = IdentityServiceClient<Channel>;

async fn connect(api: &Dialer) -> Result<Client, Trouble> {
    let channel = api.connect().await.map_err(|error| away(crate::error::chain(&error)))?;
    Ok(IdentityServiceClient::new(channel))
}

pub(crate) async fn join(
    api: &Dialer,
    clock: &PlaneClock,
    who: &Who,
    presented: proto::join_request::Proof,
    key: &Key,
    issuer_hint: &str,
) -> Result<Issued, Trouble> {
    let mut client = connect(api).await?;
    let request = proto::JoinRequest {
        proof: Some(presented),
        cluster: who.cluster.to_string(),
        namespace: who.namespace().to_owned(),
        general: who.general.as_ref().map(ToString::to_string).unwrap_or_default(),
        instance: who.instance.to_string(),
        certificate_request: key.request().map_err(own)?.into(),
        issuer_hint: issuer_hint.to_owned(),
    };
    let asked = clock.own();
    let answer = call(client.join(request)).await?;
    checked(answer.issued, clock, asked)
}

pub(crate) async fn renew(
    api: &Dialer,
    clock: &PlaneClock,
    chain: &[CertificateDer<'static>],
    old: &Key,
    next: &Key,
) -> Result<Issued, Trouble> {
    let mut client = connect(api).await?;
    let asked = clock.own();
    let proto::ChallengeResponse { challenge, server_time_ms } =
        call(client.challenge(proto::ChallengeRequest {})).await?;
    clock.set(server_time_ms, asked);
    let request = next.request().map_err(own)?;
    let signature = old.sign_renewal(&challenge, &request).map_err(own)?;
    let request = proto::RenewRequest {
        certificates: chain.iter().map(|certificate| certificate.to_vec().into()).collect(),
        certificate_request: request.into(),
        challenge,
        signature: signature.into(),
    };
    let asked = clock.own();
    let answer = call(client.renew(request)).await?;
    checked(answer.issued, clock, asked)
}

/// The root with this digest, from whoever answers: what comes is believed for its digest alone, and nothing is told.
pub(crate) async fn pinned(
    api: &Dialer,
    clock: &PlaneClock,
    pin: &[u8; 32],
) -> Result<CertificateDer<'static>, Trouble> {
    let mut client = connect(&api.clone().tls_fixed(tls::trusting_nobody(clock))).await?;
    let proto::AuthorityResponse { trust_bundle, .. } = call(client.authority(proto::AuthorityRequest {})).await?;
    let root = trust_bundle.iter().find(|root| Sha256::digest(root).as_slice() == pin);
    let root = root.ok_or_else(|| {
        away(format!("none of the {} roots of the control plane has the SHA-256 that is pinned", trust_bundle.len()))
    })?;
    Ok(CertificateDer::from(root.to_vec()))
}

async fn call<T>(call: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Result<T, Trouble> {
    match tokio::time::timeout(CALL_MAX, call).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(trouble(&status)),
        Err(_) => Err(away(format!("no answer within {} s", CALL_MAX.as_secs()))),
    }
}

fn trouble(status: &Status) -> Trouble {
    let why = if status.message().is_empty() { status.code().to_string() } else { status.message().to_owned() };
    match status.code() {
        Code::Unauthenticated
        | Code::PermissionDenied
        | Code::InvalidArgument
        | Code::FailedPrecondition
        | Code::NotFound
        | Code::Unimplemented => Trouble::Refused { why },
        _ => {
            let info = rpc::Status::from(status).detail::<rpc::RetryInfo>().and_then(|info| info.retry_delay);
            let retry_after = info.and_then(|delay| mindos_proto::convert::duration(&delay, "retry_delay").ok());
            Trouble::Away { why, retry_after: retry_after.map(|wish| wish.min(Duration::from_secs(300))) }
        }
    }
}

fn checked(issued: Option<proto::Issued>, clock: &PlaneClock, asked: Timestamp) -> Result<Issued, Trouble> {
    let against = |what: &str| away(format!("the control plane answered against the protocol: {what}"));
    let issued = issued.ok_or_else(|| against("no certificate"))?;
    let proto::Issued {
        certificates,
        trust_bundle,
        identity,
        not_before_ms,
        not_after_ms,
        renew_after_ms,
        server_time_ms,
    } = issued;
    if certificates.is_empty() || certificates.len() > CERTIFICATES_MAX || trust_bundle.len() > CERTIFICATES_MAX {
        return Err(against("not 1 to 16 certificates"));
    }
    let time = |ms: i64| u64::try_from(ms).map(Timestamp).map_err(|_| against("a time before 1970"));
    let term =
        Term { not_before: time(not_before_ms)?, not_after: time(not_after_ms)?, renew_after: time(renew_after_ms)? };
    if term.not_after <= term.not_before {
        return Err(against("a certificate that ends before it begins"));
    }
    clock.set(server_time_ms, asked);
    let certificates_of = |ders: Vec<bytes::Bytes>| ders.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
    Ok(Issued { chain: certificates_of(certificates), bundle: certificates_of(trust_bundle), identity, term })
}

fn away(why: String) -> Trouble {
    Trouble::Away { why, retry_after: None }
}

fn own(error: IdentityError) -> Trouble {
    away(error.to_string())
}
