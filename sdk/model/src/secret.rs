//! A text that must not be seen: a token, a password.
//!
//! Invariant: no trait of it shows the text, so it cannot reach a log or an error by accident; [`Secret::expose`] is the one way.

use std::fmt;

/// A text that cannot be printed. Its memory is overwritten when it is dropped.
///
/// ```
/// let token = mindos_model::Secret::new(" mindos_api_abc\n");
/// assert_eq!(format!("{token:?}"), "Secret");
/// assert_eq!(token.expose(), "mindos_api_abc");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Takes a text without the white space around it, which files and variables often have.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Secret {
        let text = Secret(text.into().into_bytes());
        Secret(text.expose().trim().as_bytes().to_vec())
    }

    /// The text.
    #[must_use]
    pub fn expose(&self) -> &str {
        std::str::from_utf8(&self.0).expect("made from a string")
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.fill(0);
        // Keeps the compiler from leaving out what nobody reads.
        std::hint::black_box(&self.0);
    }
}

impl std::str::FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Secret, std::convert::Infallible> {
        Ok(Secret::new(text))
    }
}
