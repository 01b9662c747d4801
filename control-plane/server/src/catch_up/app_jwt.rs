//! How a GitHub App says who it is: a JSON Web Token, signed RS256 with its private key.
//!
//! Invariant: the key is never printed, and a token lives for ten minutes at most, as GitHub wants it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mindos_model::Timestamp;
use rustls::SignatureScheme;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::sign::SigningKey;

use crate::base64url::encode;

/// Clocks may differ by so much.
const SKEW_S: u64 = 60;
/// From when a token is made to when it is worth nothing.
const LIFE_S: u64 = 540;

/// Why a key is not usable.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("failed to read `{path}`: expected the App's private key, a PEM file")]
    Read { path: PathBuf, source: rustls::pki_types::pem::Error },
    #[error("`{path}` does not hold an RSA key")]
    NotRsa { path: PathBuf },
}

/// The private key of an App.
#[derive(Clone)]
pub struct AppKey(Arc<dyn SigningKey>);

impl fmt::Debug for AppKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AppKey")
    }
}

impl AppKey {
    /// Reads a key as GitHub hands it out.
    ///
    /// # Errors
    /// Names the file.
    pub fn read(path: &Path) -> Result<AppKey, KeyError> {
        let key = PrivateKeyDer::from_pem_file(path);
        let key = key.map_err(|source| KeyError::Read { path: path.to_owned(), source })?;
        let not_rsa = || KeyError::NotRsa { path: path.to_owned() };
        let key = rustls::crypto::ring::sign::any_supported_type(&key).map_err(|_| not_rsa())?;
        key.choose_scheme(&[SignatureScheme::RSA_PKCS1_SHA256]).ok_or_else(not_rsa)?;
        Ok(AppKey(key))
    }

    /// A token for the App at `now`.
    #[must_use]
    pub fn token(&self, app: &str, now: Timestamp) -> String {
        let seconds = now.0 / 1000;
        let claims = serde_json::json!({ "iat": seconds - SKEW_S, "exp": seconds + LIFE_S, "iss": app });
        let mut token = encode(br#"{"alg":"RS256","typ":"JWT"}"#);
        token.push('.');
        token.push_str(&encode(claims.to_string().as_bytes()));
        let signer = self.0.choose_scheme(&[SignatureScheme::RSA_PKCS1_SHA256]);
        let signer = signer.expect("a key is kept only when it has the scheme");
        let signature =
            signer.sign(token.as_bytes()).expect("RSA fails only without randomness, which PKCS #1 needs none of");
        token.push('.');
        token.push_str(&encode(&signature));
        token
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base64url;

    const KEY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/catch_up/test_key.pem");
    const PUBLIC: &[u8] = include_bytes!("test_key.pub.der");

    #[test]
    fn a_token_says_who_and_until_when_under_the_apps_key() {
        let token = AppKey::read(Path::new(KEY)).unwrap().token("12345", Timestamp(1_795_176_000_000));
        let parts: Vec<&str> = token.split('.').collect();
        let claims: serde_json::Value = serde_json::from_slice(&base64url::decode(parts[1]).unwrap()).unwrap();
        assert_eq!(claims, serde_json::json!({ "iat": 1_795_175_940u64, "exp": 1_795_176_540u64, "iss": "12345" }));
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
        let (_, algorithms) =
            algorithms.mapping.iter().find(|(scheme, _)| *scheme == SignatureScheme::RSA_PKCS1_SHA256).unwrap();
        let signed = format!("{}.{}", parts[0], parts[1]);
        let good = |signed: &str| {
            algorithms[0].verify_signature(PUBLIC, signed.as_bytes(), &base64url::decode(parts[2]).unwrap()).is_ok()
        };
        assert!(good(&signed));
        assert!(!good(&signed.replacen('A', "B", 1)));
    }

    #[test]
    fn a_file_without_a_key_is_named() {
        let error = AppKey::read(Path::new("/none/app.pem")).unwrap_err().to_string();
        assert!(error.contains("/none/app.pem"), "{error}");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        std::fs::write(&path, "no key").unwrap();
        assert!(AppKey::read(&path).is_err());
        assert_eq!(format!("{:?}", AppKey::read(Path::new(KEY)).unwrap()), "AppKey");
    }
}
