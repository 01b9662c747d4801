//! Names that people give: clusters, generals, routes, tenants.
//!
//! Invariant: a value of such a type is within its length and alphabet, so nothing past the edge checks again.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing was given.
    #[error("{kind} is empty: expected 1 to {max} characters")]
    Empty { kind: &'static str, max: usize },
    /// More characters than a name may have.
    #[error("{kind} has {len} bytes: expected 1 to {max}")]
    TooLong { kind: &'static str, len: usize, max: usize },
    /// A character outside the alphabet, or a first or last one that may only stand inside.
    #[error(
        "{kind} `{text}` is not allowed: expected a-z, 0-9, and inside also `-`, `.` and `_`, beginning and ending with a letter or digit"
    )]
    Alphabet { kind: &'static str, text: String },
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $max:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Longest name, in bytes.
            pub const MAX: usize = $max;

            /// Checks and takes a text.
            ///
            /// # Errors
            /// Says what is accepted when `text` is empty, too long or outside the alphabet.
            pub fn new(text: &str) -> Result<Self, NameError> {
                check($kind, $max, text)?;
                Ok(Self(Arc::from(text)))
            }

            /// The text of the name.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

name!(
    /// Whose data it is; part of every key. Comes from the principal, never from a message.
    TenantName, "tenant", 63
);
name!(
    /// Where generals run.
    ClusterName, "cluster", 63
);
name!(
    /// Where a cluster stands, such as `eu-west-1`.
    Region, "region", 63
);
name!(
    /// A pool of identical agents within its cluster.
    GeneralName, "general", 63
);
name!(
    /// What a general is for, such as `security-general`; what routes name.
    GeneralType, "general type", 63
);
name!(
    /// A rule of the routing table.
    RouteName, "route", 63
);
name!(
    /// A limit on what may be spent.
    BudgetName, "budget", 63
);
name!(
    /// One running agent within its cluster, such as a pod's name.
    InstanceId, "instance", 253
);

name!(
    /// One life of an agent process, fresh at each of its starts.
    BootId, "boot id", 63
);

impl TenantName {
    /// The tenant of an installation that has only one.
    #[must_use]
    pub fn default_tenant() -> TenantName {
        TenantName(Arc::from("default"))
    }
}

fn check(kind: &'static str, max: usize, text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty { kind, max });
    }
    if text.len() > max {
        return Err(NameError::TooLong { kind, len: text.len(), max });
    }
    let edge = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let inside = |byte: u8| edge(byte) || matches!(byte, b'-' | b'.' | b'_');
    let bytes = text.as_bytes();
    if edge(bytes[0]) && edge(bytes[bytes.len() - 1]) && bytes.iter().all(|&byte| inside(byte)) {
        Ok(())
    } else {
        Err(NameError::Alphabet { kind, text: text.escape_debug().take(80).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_within_the_alphabet_are_taken() {
        for text in ["a", "prod-us", "eu.west_1", "0", &"x".repeat(63)] {
            assert_eq!(ClusterName::new(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn names_outside_the_alphabet_are_refused_with_what_is_accepted() {
        for text in ["", "-a", "a-", "A", "a b", "a/b", "é", "a\n", &"x".repeat(64)] {
            let error = ClusterName::new(text).unwrap_err().to_string();
            assert!(error.starts_with("cluster") && error.contains("expected"), "{error}");
        }
    }
}
