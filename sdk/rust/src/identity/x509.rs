//! What an agent reads out of certificates: their dates and their name.

use mindos_model::Timestamp;
use mindos_sidecar_core::membership::Term;
use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// When a leaf is good, to be renewed by half of that.
pub(crate) fn term(leaf: &CertificateDer<'_>) -> Option<Term> {
    let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
    let at = |seconds: i64| Timestamp(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000));
    let validity = certificate.validity();
    let (not_before, not_after) = (at(validity.not_before.timestamp()), at(validity.not_after.timestamp()));
    (not_before < not_after).then(|| {
        let renew_after = not_before + not_after.since(not_before) / 2;
        Term { not_before, not_after, renew_after }
    })
}

/// The SPIFFE id of a leaf.
pub(crate) fn spiffe_id(leaf: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| match name {
        GeneralName::URI(uri) if uri.starts_with("spiffe://") => Some((*uri).to_owned()),
        _ => None,
    })
}

/// Takes apart certificates that stand one after the other in DER. `None` when they do not.
pub(crate) fn split(mut der: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let mut certificates = Vec::new();
    while !der.is_empty() {
        let (rest, _) = X509Certificate::from_der(der).ok()?;
        let (certificate, after) = der.split_at(der.len() - rest.len());
        certificates.push(CertificateDer::from(certificate.to_vec()));
        der = after;
    }
    Some(certificates)
}
