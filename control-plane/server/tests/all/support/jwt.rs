//! Tokens as an issuer signs them.

use rcgen::{KeyPair, SigningKey};

/// The public half of a key, as an issuer publishes it under the key id `k1`.
pub fn public(issuer: &KeyPair) -> serde_json::Value {
    let point = issuer.public_key_raw();
    serde_json::json!({
        "kty": "EC", "crv": "P-256", "kid": "k1", "use": "sig", "alg": "ES256",
        "x": base64url(&point[1..33]), "y": base64url(&point[33..65]),
    })
}

/// A token with these claims, signed as ES256 under the key id `k1`.
pub fn signed(issuer: &KeyPair, claims: &serde_json::Value) -> String {
    let header = serde_json::json!({ "alg": "ES256", "typ": "JWT", "kid": "k1" });
    let signed = format!("{}.{}", base64url(header.to_string().as_bytes()), base64url(claims.to_string().as_bytes()));
    let asn1 = issuer.sign(signed.as_bytes()).unwrap();
    // Two integers of ASN.1 become two of 32 bytes each.
    let integer = |at: usize| (&asn1[at + 2..at + 2 + usize::from(asn1[at + 1])], at + 2 + usize::from(asn1[at + 1]));
    let (r, next) = integer(2);
    let (s, _) = integer(next);
    let mut raw = [0; 64];
    for (half, number) in raw.chunks_mut(32).zip([r, s]) {
        let number = &number[number.len().saturating_sub(32)..];
        half[32 - number.len()..].copy_from_slice(number);
    }
    format!("{signed}.{}", base64url(&raw))
}

pub fn base64url(bytes: &[u8]) -> String {
    base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, bytes)
}
