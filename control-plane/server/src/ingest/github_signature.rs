//! `X-Hub-Signature-256`: HMAC-SHA256 over the bytes as they came, compared in constant time.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The secrets a webhook may be signed with: the current one, and while it is being rotated the one before.
#[derive(Clone)]
pub struct Secrets {
    current: Vec<u8>,
    previous: Option<Vec<u8>>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let count = 1 + usize::from(self.previous.is_some());
        write!(f, "Secrets({count})")
    }
}

/// A secret without bytes: anybody could sign with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a webhook secret is empty: give at least one byte, or leave the option unset")]
pub struct EmptySecret;

impl Secrets {
    /// # Errors
    /// `EmptySecret` when either secret has no bytes.
    pub fn new(current: impl Into<Vec<u8>>, previous: Option<Vec<u8>>) -> Result<Secrets, EmptySecret> {
        let current = current.into();
        if current.is_empty() || previous.as_ref().is_some_and(Vec::is_empty) {
            return Err(EmptySecret);
        }
        Ok(Secrets { current, previous })
    }

    /// Whether `signature` is that of `body` under either secret. Both are always tried, so time tells nothing of which.
    pub(super) fn verify(&self, body: &[u8], signature: &[u8; 32]) -> bool {
        let current = signed(&self.current, body, signature);
        let previous = self.previous.as_ref().is_some_and(|secret| signed(secret, body, signature));
        current | previous
    }
}

fn signed(secret: &[u8], body: &[u8], signature: &[u8; 32]) -> bool {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret) else { return false };
    mac.update(body);
    mac.verify_slice(signature).is_ok()
}

/// Reads `sha256=<64 hex digits>`; `None` for anything else.
pub(super) fn parse(header: &str) -> Option<[u8; 32]> {
    let digits = header.strip_prefix("sha256=")?.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut signature = [0; 32];
    for (byte, pair) in signature.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = u8::try_from(high * 16 + low).ok()?;
    }
    Some(signature)
}

#[cfg(test)]
mod tests {
    use super::*;

    // The example of GitHub's documentation on validating deliveries.
    const SECRET: &str = "It's a Secret to Everybody";
    const BODY: &[u8] = b"Hello, World!";
    const SIGNATURE: &str = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";

    #[test]
    fn the_documented_example_verifies_under_either_secret() {
        let signature = parse(SIGNATURE).unwrap();
        assert!(Secrets::new(SECRET, None).unwrap().verify(BODY, &signature));
        assert!(Secrets::new("next", Some(SECRET.into())).unwrap().verify(BODY, &signature));
        assert!(!Secrets::new("next", Some("other".into())).unwrap().verify(BODY, &signature));
        assert!(!Secrets::new(SECRET, None).unwrap().verify(b"Hello, World?", &signature));
    }

    #[test]
    fn every_flipped_bit_of_a_signature_is_refused() {
        let secrets = Secrets::new(SECRET, Some("other".into())).unwrap();
        for bit in 0..256 {
            let mut signature = parse(SIGNATURE).unwrap();
            signature[bit / 8] ^= 1 << (bit % 8);
            assert!(!secrets.verify(BODY, &signature));
        }
    }

    #[test]
    fn malformed_signatures_and_empty_secrets_are_refused() {
        for header in ["", "sha256=", "sha1=00", &SIGNATURE[7..], &SIGNATURE[..70], "sha256=zz", "SHA256=00"] {
            assert_eq!(parse(header), None, "{header}");
        }
        assert!(parse(&format!("sha256={}", "+1".repeat(32))).is_none());
        assert_eq!(Secrets::new("", None).unwrap_err(), EmptySecret);
        assert_eq!(Secrets::new("a", Some(Vec::new())).unwrap_err(), EmptySecret);
        assert_eq!(format!("{:?}", Secrets::new("a", None).unwrap()), "Secrets(1)");
    }
}
