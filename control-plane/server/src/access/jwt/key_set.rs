//! Key sets (RFC 7517): the public keys of an issuer, as it publishes them.
//!
//! Keys that no token can be verified with are passed over: those for encryption, symmetric ones, curves and sizes that are not
//! taken. Invariant: a set has at most [`KEYS_MAX`] keys, and every key in it can verify.

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::algorithm::{ACCEPTED, Algorithm, Material};
use crate::base64url;

/// Bytes of a key set.
pub const KEY_SET_BYTES_MAX: usize = 64 << 10;
/// Keys of a set; large providers publish about ten.
pub const KEYS_MAX: usize = 100;
/// Bytes of a key's id.
const KID_BYTES_MAX: usize = 512;
/// Keys of one id that are tried: ids are to be unique, but two kinds of key may share one.
const SAME_ID_MAX: usize = 4;

/// Why a key set is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    #[error("key set has {bytes} bytes: at most {KEY_SET_BYTES_MAX} are taken")]
    TooLarge { bytes: usize },
    #[error("key set is not JSON with a list `keys`: {reason}")]
    Malformed { reason: String },
    #[error("key set has {keys} keys: at most {KEYS_MAX} are taken")]
    TooMany { keys: usize },
    #[error("key set has no key to verify with: expected public keys for {ACCEPTED}, RSA ones of 2048 to 8192 bits")]
    NoKey,
}

/// A public key.
#[derive(Clone)]
pub struct Key {
    id: Option<Box<str>>,
    algorithm: Option<Algorithm>,
    material: Material,
    digest: [u8; 32],
}

impl Key {
    /// SHA-256 over the numbers of the key: tells two keys apart also where they share an id.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    fn fits(&self, algorithm: Algorithm) -> bool {
        self.algorithm.is_none_or(|only| only == algorithm) && self.material.fits(algorithm)
    }

    /// Whether the signature is this key's, under the algorithm.
    #[must_use]
    pub fn verify(&self, algorithm: Algorithm, signed: &[u8], signature: &[u8]) -> bool {
        self.fits(algorithm) && self.material.verify(algorithm, signed, signature)
    }
}

/// What one key of a set says. What else stands there does not matter.
#[derive(Deserialize)]
struct Written {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    used: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

/// The public keys of an issuer.
#[derive(Clone)]
pub struct KeySet {
    keys: Vec<Key>,
}

impl std::fmt::Debug for KeySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ids: Vec<_> = self.keys.iter().map(|key| key.id.as_deref().unwrap_or_default()).collect();
        f.debug_tuple("KeySet").field(&ids).finish()
    }
}

impl KeySet {
    /// Reads a set.
    ///
    /// # Errors
    /// Says what is accepted.
    pub fn parse(bytes: &[u8]) -> Result<KeySet, KeySetError> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<serde_json::Value>,
        }
        if bytes.len() > KEY_SET_BYTES_MAX {
            return Err(KeySetError::TooLarge { bytes: bytes.len() });
        }
        let Set { keys } =
            serde_json::from_slice(bytes).map_err(|error| KeySetError::Malformed { reason: error.to_string() })?;
        if keys.len() > KEYS_MAX {
            return Err(KeySetError::TooMany { keys: keys.len() });
        }
        let keys: Vec<Key> =
            keys.into_iter().filter_map(|key| serde_json::from_value(key).ok().and_then(key_of)).collect();
        match keys.is_empty() {
            true => Err(KeySetError::NoKey),
            false => Ok(KeySet { keys }),
        }
    }

    /// The keys that a token may have been signed with: those of its key id, or without one the only one that fits.
    #[must_use]
    pub fn choose(&self, algorithm: Algorithm, id: Option<&str>) -> Vec<&Key> {
        let mut fitting = self.keys.iter().filter(|key| key.fits(algorithm));
        match id {
            Some(id) => fitting.filter(|key| key.id.as_deref() == Some(id)).take(SAME_ID_MAX).collect(),
            None => match (fitting.next(), fitting.next()) {
                (Some(only), None) => vec![only],
                _ => Vec::new(),
            },
        }
    }

    /// Whether a key is in the set.
    #[must_use]
    pub fn has(&self, digest: &[u8; 32]) -> bool {
        self.keys.iter().any(|key| key.digest == *digest)
    }
}

fn key_of(written: Written) -> Option<Key> {
    let Written { kty, kid, alg, used, key_ops, crv, n, e, x, y } = written;
    if used.is_some_and(|used| used != "sig") || key_ops.is_some_and(|ops| !ops.iter().any(|op| op == "verify")) {
        return None;
    }
    if kid.as_ref().is_some_and(|kid| kid.len() > KID_BYTES_MAX) {
        return None;
    }
    let algorithm = match alg {
        Some(alg) => Some(Algorithm::read(&alg)?),
        None => None,
    };
    let number = |text: Option<String>| base64url::decode(&text?);
    let of_length = |text: Option<String>, length: usize| number(text).filter(|bytes| bytes.len() == length);
    let point = |length: usize| {
        let (x, y) = (of_length(x.clone(), length)?, of_length(y, length)?);
        Some([&[4][..], &x, &y].concat())
    };
    let material = match (kty.as_str(), crv.as_deref()) {
        ("RSA", _) => {
            let (n, e) = (bare(number(n)?), bare(number(e)?));
            let bits = n.len() * 8 - n.first()?.leading_zeros() as usize;
            // Even exponents and 1 are no exponents; ring takes up to 33 bits.
            if !(2048..=8192).contains(&bits) || !(1..=5).contains(&e.len()) || e == [1] || e.last()? % 2 == 0 {
                return None;
            }
            Material::Rsa { n, e }
        }
        ("EC", Some("P-256")) => Material::P256(point(32)?),
        ("EC", Some("P-384")) => Material::P384(point(48)?),
        ("OKP", Some("Ed25519")) => Material::Ed25519(of_length(x, 32)?),
        _ => return None,
    };
    let digest = digest(&material);
    Some(Key { id: kid.map(Into::into), algorithm, material, digest })
}

/// Without leading zeros, which some issuers write.
fn bare(number: Vec<u8>) -> Vec<u8> {
    let zeros = number.iter().take_while(|&&byte| byte == 0).count();
    number[zeros..].to_vec()
}

fn digest(material: &Material) -> [u8; 32] {
    let mut hash = Sha256::new();
    match material {
        Material::Rsa { n, e } => {
            hash.update([1]);
            hash.update((n.len() as u64).to_be_bytes());
            hash.update(n);
            hash.update(e);
        }
        Material::P256(point) => {
            hash.update([2]);
            hash.update(point);
        }
        Material::P384(point) => {
            hash.update([3]);
            hash.update(point);
        }
        Material::Ed25519(key) => {
            hash.update([4]);
            hash.update(key);
        }
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(keys: serde_json::Value) -> Result<KeySet, KeySetError> {
        KeySet::parse(json!({ "keys": keys }).to_string().as_bytes())
    }

    fn ed25519(kid: &str) -> serde_json::Value {
        json!({ "kty": "OKP", "crv": "Ed25519", "kid": kid, "x": base64url::encode(&[7; 32]) })
    }

    #[test]
    fn keys_that_cannot_verify_are_passed_over() {
        let with = |field: &str, value: serde_json::Value| {
            let mut key = ed25519("a");
            key[field] = value;
            key
        };
        let rsa = |bytes: usize, e: &[u8]| json!({ "kty": "RSA", "n": base64url::encode(&vec![0xff; bytes]), "e": base64url::encode(e) });
        for bad in [
            json!({ "kty": "oct", "kid": "a", "k": "c2VjcmV0" }),
            with("use", json!("enc")),
            with("key_ops", json!(["sign"])),
            with("alg", json!("HS256")),
            with("alg", json!("none")),
            with("crv", json!("X25519")),
            with("crv", json!("Ed448")),
            with("x", json!("AAAA")),
            with("x", json!(7)),
            with("kid", json!("x".repeat(513))),
            json!({ "kty": "EC", "crv": "P-256", "x": base64url::encode(&[1; 32]) }),
            rsa(128, &[1, 0, 1]),
            rsa(1025, &[1, 0, 1]),
            rsa(256, &[1]),
            rsa(256, &[2]),
            rsa(256, &[]),
            rsa(0, &[1, 0, 1]),
            json!("text"),
            json!(null),
        ] {
            assert_eq!(parse(json!([bad])).unwrap_err(), KeySetError::NoKey, "{bad}");
            assert_eq!(parse(json!([bad, ed25519("b")])).unwrap().keys.len(), 1, "{bad}");
        }
        assert!(parse(json!([rsa(256, &[1, 0, 1])])).is_ok());
    }

    #[test]
    fn a_set_has_bounds() {
        let many: Vec<_> = (0..=KEYS_MAX).map(|id| ed25519(&id.to_string())).collect();
        assert_eq!(parse(json!(many)).unwrap_err(), KeySetError::TooMany { keys: KEYS_MAX + 1 });
        let large = vec![b' '; KEY_SET_BYTES_MAX + 1];
        assert_eq!(KeySet::parse(&large).unwrap_err(), KeySetError::TooLarge { bytes: large.len() });
        let deep = format!("{{\"keys\":{}{}}}", "[".repeat(20_000), "]".repeat(20_000));
        for bad in ["", "[]", "{}", "{\"keys\":{}}", "{\"keys\":[}", deep.as_str()] {
            assert!(matches!(KeySet::parse(bad.as_bytes()), Err(KeySetError::Malformed { .. })), "{bad:.20}");
        }
    }

    #[test]
    fn without_a_key_id_only_a_single_fitting_key_is_chosen() {
        let one = parse(json!([ed25519("a")])).unwrap();
        assert_eq!(one.choose(Algorithm::EdDsa, None).len(), 1);
        assert_eq!(one.choose(Algorithm::EdDsa, Some("b")).len(), 0);
        assert_eq!(one.choose(Algorithm::Rs256, Some("a")).len(), 0);
        let two = parse(json!([ed25519("a"), ed25519("b")])).unwrap();
        assert_eq!(two.choose(Algorithm::EdDsa, None).len(), 0);
        assert_eq!(two.choose(Algorithm::EdDsa, Some("b")).len(), 1);
        let same = parse(json!(vec![ed25519("a"); 50])).unwrap();
        assert_eq!(same.choose(Algorithm::EdDsa, Some("a")).len(), SAME_ID_MAX);
        assert!(same.has(&one.keys[0].digest()) && !same.has(&[0; 32]));
    }
}
