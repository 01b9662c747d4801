//! The version of an API server, as far as it decides what is put into pods.

use std::fmt;

/// Version of an API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServerVersion {
    pub major: u32,
    pub minor: u32,
}

impl ServerVersion {
    /// The first one in which init containers that always restart are there without being asked for.
    pub const NATIVE_SIDECARS: ServerVersion = ServerVersion { major: 1, minor: 29 };

    /// From what `/version` says: `1` and `29`, or `29+` as some vendors have it.
    #[must_use]
    pub fn read(major: &str, minor: &str) -> Option<ServerVersion> {
        let number = |text: &str| {
            let end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
            text[..end].parse().ok()
        };
        Some(ServerVersion { major: number(major)?, minor: number(minor)? })
    }

    /// Whether it knows native sidecars.
    #[must_use]
    pub fn has_native_sidecars(self) -> bool {
        self >= Self::NATIVE_SIDECARS
    }
}

impl fmt::Display for ServerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_vendors_write_them() {
        for (major, minor, text, native) in [
            ("1", "20", "1.20", false),
            ("1", "28+", "1.28", false),
            ("1", "29-eks-1", "1.29", true),
            ("2", "0", "2.0", true),
        ] {
            let version = ServerVersion::read(major, minor).unwrap();
            assert_eq!((version.to_string().as_str(), version.has_native_sidecars()), (text, native));
        }
        assert_eq!(ServerVersion::read("", "x"), None);
    }
}
