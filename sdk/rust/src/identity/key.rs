//! The agent's own key: ECDSA on P-256, made here, and what is signed with it.

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, SigningKey};
use rustls::pki_types::PrivateKeyDer;
use sha2::{Digest, Sha256};

use super::IdentityError;

/// A key. Never shown.
pub(crate) struct Key(KeyPair);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

fn failed(error: rcgen::Error) -> IdentityError {
    IdentityError::Key(error.to_string())
}

impl Key {
    /// A fresh one.
    pub(crate) fn make() -> Result<Key, IdentityError> {
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map(Key).map_err(failed)
    }

    /// One that was kept.
    pub(crate) fn from_pem(pem: &str) -> Result<Key, IdentityError> {
        KeyPair::from_pkcs8_pem_and_sign_algo(pem, &PKCS_ECDSA_P256_SHA256).map(Key).map_err(failed)
    }

    pub(crate) fn to_pem(&self) -> String {
        self.0.serialize_pem()
    }

    pub(crate) fn to_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.0.serialize_der().into())
    }

    /// A certificate signing request, PKCS#10 in DER. The names are the control plane's to say.
    pub(crate) fn request(&self) -> Result<Vec<u8>, IdentityError> {
        let params = CertificateParams::new(Vec::<String>::new()).map_err(failed)?;
        Ok(params.serialize_request(&self.0).map_err(failed)?.der().to_vec())
    }

    /// The signature under a renewal: it shows that who asks has the old key, now, and wants this very request.
    pub(crate) fn sign_renewal(&self, challenge: &[u8], request: &[u8]) -> Result<Vec<u8>, IdentityError> {
        let message = [b"mindos-renew\0".as_slice(), challenge, Sha256::digest(request).as_slice()].concat();
        self.0.sign(&message).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_file_and_signs() {
        let key = Key::make().unwrap();
        let kept = Key::from_pem(&key.to_pem()).unwrap();
        assert_eq!(key.to_der(), kept.to_der());
        assert_eq!(format!("{key:?}"), "Key");
        let request = key.request().unwrap();
        assert!(request.len() < 1024);
        let signature = kept.sign_renewal(b"challenge", &request).unwrap();
        let message = [b"mindos-renew\0challenge".as_slice(), Sha256::digest(&request).as_slice()].concat();
        let public = ring::signature::UnparsedPublicKey::new(
            &ring::signature::ECDSA_P256_SHA256_ASN1,
            key.0.public_key_raw().to_vec(),
        );
        public.verify(&message, &signature).unwrap();
    }
}
