//! Base64 for addresses (RFC 4648, section 5) without padding, as JSON Web Tokens and keys carry bytes.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The text of `bytes`.
pub(crate) fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The bytes of `text`; `None` when it is not canonical, so that no two texts mean the same bytes.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};

    #[test]
    fn what_is_encoded_decodes() {
        for length in 0..64 {
            let bytes: Vec<u8> = (0..length).map(|at| (at * 37 + length) as u8).collect();
            assert_eq!(decode(&encode(&bytes)), Some(bytes));
        }
        assert_eq!(encode(&[0xfb, 0xff, 0xbf]), "-_-_");
    }

    #[test]
    fn what_is_not_canonical_is_refused() {
        for text in ["A", "AAAAA", "Zh", "Zg==", "Zm9v\n", "+/+/", "Zm 9", "Zé"] {
            assert_eq!(decode(text), None, "{text:?}");
        }
    }
}
