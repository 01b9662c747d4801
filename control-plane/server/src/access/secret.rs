//! Texts of tokens: made, hashed, and shown to nobody but who they are for.
//!
//! Invariant: a [`TokenText`] has no `Display` and no `Serialize`, and its `Debug` says nothing; who wants the text has to say so.

use sha2::{Digest, Sha256};

use mindos_core::access::TokenHash;

use crate::base64url;

/// How the text of an API token begins.
pub const API_PREFIX: &str = "mindos_api_";
/// How the text of a join token begins.
pub const JOIN_PREFIX: &str = "mindos_join_";
/// Characters behind the prefix: 32 bytes in base64url.
const RANDOM_CHARS: usize = 43;

/// The whole text of a token.
#[derive(Clone)]
pub struct TokenText(Box<str>);

impl std::fmt::Debug for TokenText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenText")
    }
}

impl TokenText {
    /// A text that nobody has seen: the prefix and 256 bits of chance.
    ///
    /// # Errors
    /// When the system has no chance to give.
    pub fn random(prefix: &str) -> Result<TokenText, getrandom::Error> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes)?;
        Ok(TokenText(format!("{prefix}{}", base64url::encode(&bytes)).into()))
    }

    /// The text, to be given to whom it is for.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What is kept of it.
    #[must_use]
    pub fn hash(&self) -> TokenHash {
        hash(&self.0)
    }
}

/// SHA-256 of a token's whole text.
#[must_use]
pub fn hash(text: &str) -> TokenHash {
    Sha256::digest(text.as_bytes()).into()
}

/// Whether a text has the form of a token with this prefix.
#[must_use]
pub fn is_formed(text: &str, prefix: &str) -> bool {
    let random = text.strip_prefix(prefix).unwrap_or_default().as_bytes();
    random.len() == RANDOM_CHARS
        && random.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_long_random_and_unspoken() {
        let (one, other) = (TokenText::random(API_PREFIX).unwrap(), TokenText::random(API_PREFIX).unwrap());
        assert!(is_formed(one.reveal(), API_PREFIX) && !is_formed(one.reveal(), JOIN_PREFIX));
        assert_ne!(one.reveal(), other.reveal());
        assert_eq!(one.reveal().len(), API_PREFIX.len() + 43);
        assert_eq!(format!("{one:?}"), "TokenText");
        assert!(!is_formed("mindos_api_short", API_PREFIX) && !is_formed(&one.reveal().replace('_', "!"), API_PREFIX));
    }
}
