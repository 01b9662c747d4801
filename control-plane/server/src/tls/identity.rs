//! Who an agent is, by the certificate that it shows.
//!
//! Invariant: what is read here was verified before, by [`super::verify`]; nothing here decides whom to trust.

use std::sync::Arc;

use mindos_core::access::{Identity, KeyHash};
use mindos_model::Timestamp;
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use super::key::{KeyError, PublicKey};

/// An agent whose certificate was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentIdentity {
    pub identity: Identity,
    /// SHA-256 of its public key.
    pub key: KeyHash,
    /// When its certificate lapses.
    pub not_after: Timestamp,
    /// Common name of what signed its certificate.
    pub issuer: Option<Arc<str>>,
}

impl AgentIdentity {
    /// Reads a certificate that was verified.
    ///
    /// # Errors
    /// When it names no agent of the trust domain.
    pub fn of(certificate: &CertificateDer<'_>, trust_domain: &str) -> Result<AgentIdentity, CertificateError> {
        let read = Read::new(certificate)?;
        Ok(AgentIdentity {
            identity: read.identity(trust_domain)?,
            key: read.key_hash(),
            not_after: read.not_after(),
            issuer: read.issuer_name().map(Arc::from),
        })
    }
}

/// Why a certificate names no agent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    #[error("certificate cannot be read")]
    Malformed,
    #[error("certificate names {found} SPIFFE ids: expected one")]
    Names { found: usize },
    #[error("certificate may sign others: expected that of an agent")]
    Authority,
    #[error(transparent)]
    Identity(#[from] mindos_core::access::IdentityError),
}

/// What of a certificate counts here.
pub struct Read<'a> {
    certificate: X509Certificate<'a>,
}

impl<'a> Read<'a> {
    /// Reads a certificate.
    ///
    /// # Errors
    /// When it is none.
    pub fn new(der: &'a CertificateDer<'_>) -> Result<Read<'a>, CertificateError> {
        match x509_parser::parse_x509_certificate(der) {
            Ok(([], certificate)) => Ok(Read { certificate }),
            _ => Err(CertificateError::Malformed),
        }
    }

    /// The agent that it names: its one URI is a SPIFFE id of the trust domain.
    ///
    /// # Errors
    /// When it names none, or more.
    pub fn identity(&self, trust_domain: &str) -> Result<Identity, CertificateError> {
        if self.certificate.is_ca() {
            return Err(CertificateError::Authority);
        }
        let names = self.certificate.subject_alternative_name().map_err(|_| CertificateError::Malformed)?;
        let names = names.map_or(&[][..], |names| &names.value.general_names);
        let uris = names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
        // Names of other kinds, such as the DNS names that SPIRE can add, name nobody here.
        match &uris.collect::<Vec<_>>()[..] {
            [uri] => Ok(Identity::from_spiffe_id(trust_domain, uri)?),
            uris => Err(CertificateError::Names { found: uris.len() }),
        }
    }

    /// When it lapses.
    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        let seconds = self.certificate.validity().not_after.timestamp();
        Timestamp(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000))
    }

    /// From when it is good.
    #[must_use]
    pub fn not_before(&self) -> Timestamp {
        let seconds = self.certificate.validity().not_before.timestamp();
        Timestamp(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000))
    }

    /// SHA-256 of its key, of whatever kind.
    #[must_use]
    pub fn key_hash(&self) -> KeyHash {
        Sha256::digest(self.certificate.tbs_certificate.subject_pki.raw).into()
    }

    /// Its key, where it is one that may renew.
    ///
    /// # Errors
    /// When it is of another kind.
    pub fn key(&self) -> Result<PublicKey, KeyError> {
        PublicKey::of(&self.certificate.tbs_certificate.subject_pki)
    }

    /// The common name of its issuer, by which the built-in authority knows its own.
    #[must_use]
    pub fn issuer_name(&self) -> Option<&str> {
        self.certificate.issuer().iter_common_name().next().and_then(|name| name.as_str().ok())
    }
}
