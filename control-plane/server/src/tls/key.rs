//! Public keys of agents, and the requests for certificates that show who holds them: ECDSA P-256 and nothing else.
//!
//! Invariant: a key that was read from a request is one whose private half signed that request.

use rustls::SignatureScheme;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::crypto::ring::default_provider;
use sha2::{Digest, Sha256};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

/// Bytes of a request for a certificate, and of a certificate.
pub const DER_MAX: usize = 8 << 10;
/// What stands before the point of a P-256 key in X.509: `ecPublicKey`, `prime256v1`, a bit string of 65 bytes.
const SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// Bytes of a point that is written whole.
const POINT: usize = 65;
/// `ecdsa-with-SHA256`.
const ECDSA_SHA256: &str = "1.2.840.10045.4.3.2";

/// Why a key or a request is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("is longer than {DER_MAX} bytes")]
    TooLong,
    #[error("is not a certificate signing request in DER (PKCS#10)")]
    Malformed,
    #[error("has a key or signature of another kind: expected ECDSA P-256 with SHA-256")]
    Kind,
    #[error("is not signed by its own key")]
    Signature,
}

/// A public key: a point of P-256.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    point: [u8; POINT],
}

impl PublicKey {
    /// Reads the key of a certificate or request.
    ///
    /// # Errors
    /// When it is of another kind.
    pub fn of(info: &SubjectPublicKeyInfo<'_>) -> Result<PublicKey, KeyError> {
        let point = info.raw.strip_prefix(&SPKI).ok_or(KeyError::Kind)?;
        let point: [u8; POINT] = point.try_into().map_err(|_| KeyError::Kind)?;
        // Uncompressed; that the point lies on the curve shows when a signature is checked.
        if point[0] == 4 { Ok(PublicKey { point }) } else { Err(KeyError::Kind) }
    }

    /// Reads a request for a certificate and checks that the holder of the key made it. Its names are not looked at.
    ///
    /// # Errors
    /// Says what is wrong with the request.
    pub fn of_request(der: &[u8]) -> Result<PublicKey, KeyError> {
        if der.len() > DER_MAX {
            return Err(KeyError::TooLong);
        }
        let (rest, request) = X509CertificationRequest::from_der(der).map_err(|_| KeyError::Malformed)?;
        if !rest.is_empty() {
            return Err(KeyError::Malformed);
        }
        let key = PublicKey::of(&request.certification_request_info.subject_pki)?;
        if request.signature_algorithm.algorithm.to_id_string() != ECDSA_SHA256 {
            return Err(KeyError::Kind);
        }
        key.verify(request.certification_request_info.raw, &request.signature_value.data)?;
        Ok(key)
    }

    /// Checks a signature of this key: ECDSA with SHA-256, in ASN.1.
    ///
    /// # Errors
    /// When it is not one.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), KeyError> {
        let WebPkiSupportedAlgorithms { mapping, .. } = default_provider().signature_verification_algorithms;
        let wanted = SignatureScheme::ECDSA_NISTP256_SHA256;
        let found = mapping.iter().find(|(scheme, _)| *scheme == wanted).and_then(|(_, algorithms)| algorithms.first());
        let algorithm = found.ok_or(KeyError::Kind)?;
        algorithm.verify_signature(&self.point, message, signature).map_err(|_| KeyError::Signature)
    }

    /// SHA-256 of the key as X.509 writes it: its name in the ledger.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        Sha256::new().chain_update(SPKI).chain_update(self.point).finalize().into()
    }
}

impl rcgen::PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PublicKeyData};

    use super::*;

    fn request(key: &KeyPair) -> Vec<u8> {
        CertificateParams::default().serialize_request(key).unwrap().der().to_vec()
    }

    #[test]
    fn a_request_gives_the_key_that_signed_it() {
        let key = KeyPair::generate().unwrap();
        let read = PublicKey::of_request(&request(&key)).unwrap();
        assert_eq!(read.der_bytes(), key.public_key_raw());
        let digest: [u8; 32] = Sha256::digest(key.subject_public_key_info()).into();
        assert_eq!(read.digest(), digest);
    }

    #[test]
    fn a_request_that_is_altered_long_or_of_another_kind_is_not_taken() {
        let key = KeyPair::generate().unwrap();
        let good = request(&key);
        let other = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        assert_eq!(PublicKey::of_request(&request(&other)), Err(KeyError::Kind));
        let wide = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        assert_eq!(PublicKey::of_request(&request(&wide)), Err(KeyError::Kind));
        assert_eq!(PublicKey::of_request(&vec![0x30; DER_MAX + 1]), Err(KeyError::TooLong));
        assert_eq!(PublicKey::of_request(&[&good[..], &[0]].concat()), Err(KeyError::Malformed));
        for at in 0..good.len() {
            for bit in [1, 0x80] {
                let mut bad = good.clone();
                bad[at] ^= bit;
                // What frames the request is not signed. What is taken for all that is what was signed.
                let taken = PublicKey::of_request(&bad);
                assert!(taken.is_err() || taken == PublicKey::of_request(&good), "byte {at}");
            }
            assert!(PublicKey::of_request(&good[..at]).is_err(), "cut at {at}");
        }
    }
}
