//! Renewals: a certificate that is good, or was so within the last day, and its key vouch for the next one.
//!
//! Invariant: who renews is who the old certificate names, holds its key, and is not kept out; nothing of the new request but its key
//! counts.

use std::time::Duration;

use mindos_model::Timestamp;
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};

use super::challenge::Challenges;
use super::identity::{AgentIdentity, Read};
use super::key::{DER_MAX, KeyError, PublicKey};
use super::server_config::unix;
use super::verify::AgentVerifier;

/// How long after its end a certificate may still be renewed.
pub const RENEW_LATE_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Certificates in a chain.
pub const CHAIN_MAX: usize = 4;
/// Bytes of a signature.
const SIGNATURE_MAX: usize = 128;

/// What asks for a renewal.
#[derive(Clone, Copy, Debug)]
pub struct Renewal<'a> {
    /// Leaf first.
    pub certificates: &'a [CertificateDer<'a>],
    pub request: &'a [u8],
    pub challenge: &'a [u8],
    pub signature: &'a [u8],
}

/// Why there is no renewal. Its word is all that a caller hears.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenewRefusal {
    #[error("certificates: there are {found}: expected 1 to {CHAIN_MAX} of at most {DER_MAX} bytes each")]
    Chain { found: usize },
    #[error("certificate_request: {0}")]
    Request(KeyError),
    #[error("challenge")]
    Challenge,
    #[error("expired")]
    Late,
    #[error("certificate")]
    Certificate,
    #[error("signature")]
    Signature,
    #[error("denied")]
    Denied,
}

impl RenewRefusal {
    /// Its word.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            RenewRefusal::Chain { .. } | RenewRefusal::Request(_) => "malformed",
            RenewRefusal::Challenge => "challenge",
            RenewRefusal::Late => "expired",
            RenewRefusal::Certificate => "certificate",
            RenewRefusal::Signature => "signature",
            RenewRefusal::Denied => "denied",
        }
    }
}

/// What is signed with the old key.
#[must_use]
pub fn signed(challenge: &[u8], request: &[u8]) -> Vec<u8> {
    [&b"mindos-renew\0"[..], challenge, &Sha256::digest(request)].concat()
}

/// Judges a renewal: who it is, and the key that the next certificate is for.
///
/// # Errors
/// Why there is none.
pub fn judge(
    renewal: Renewal<'_>,
    verifier: &AgentVerifier,
    challenges: &Challenges,
    now: Timestamp,
) -> Result<(AgentIdentity, PublicKey), RenewRefusal> {
    let Renewal { certificates, request, challenge, signature } = renewal;
    let fits = certificates.iter().all(|certificate| (1..=DER_MAX).contains(&certificate.len()));
    let Some(leaf) = certificates.first().filter(|_| fits && certificates.len() <= CHAIN_MAX) else {
        return Err(RenewRefusal::Chain { found: certificates.len() });
    };
    // What costs least comes first.
    if !challenges.holds(challenge, now) {
        return Err(RenewRefusal::Challenge);
    }
    let read = Read::new(leaf).map_err(|_| RenewRefusal::Certificate)?;
    let not_after = read.not_after();
    if not_after + RENEW_LATE_MAX < now {
        return Err(RenewRefusal::Late);
    }
    let old = read.key().map_err(|_| RenewRefusal::Certificate)?;
    if signature.len() > SIGNATURE_MAX || old.verify(&signed(challenge, request), signature).is_err() {
        return Err(RenewRefusal::Signature);
    }
    // Of an expired one it is asked whether it was good to the last.
    let agent = verifier.agent(certificates, unix(now.min(not_after))).map_err(|error| match error {
        rustls::Error::InvalidCertificate(rustls::CertificateError::Revoked) => RenewRefusal::Denied,
        _ => RenewRefusal::Certificate,
    })?;
    let key = PublicKey::of_request(request).map_err(RenewRefusal::Request)?;
    if verifier.denies(&AgentIdentity { key: key.digest(), ..agent.clone() }) {
        return Err(RenewRefusal::Denied);
    }
    Ok((agent, key))
}

#[cfg(test)]
#[path = "renew_tests.rs"]
mod tests;
