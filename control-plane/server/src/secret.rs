//! Secrets that the settings file names and does not hold.
//!
//! ```yaml
//! token: { file: /run/secrets/token }   # white space at its ends does not count
//! token: { env: TOKEN }
//! ```
//! Invariant: what was read is in no error and no log line.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Whether secrets are read where they are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secrets {
    /// They are, and what is not there is an error.
    Read,
    /// A word stands for each: to check settings on a machine that need not have them.
    Assumed,
}

/// Stands for a secret that is not read. An address too, because some addresses are secrets.
const ASSUMED: &str = "https://secret.invalid/";

/// Where a secret is: in a file or in the environment, one of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SecretAt {
    /// File that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Environment variable that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<String>,
}

impl SecretAt {
    /// Reads it; `setting` is its name for people, such as `notify.slack.url`.
    ///
    /// # Errors
    /// Names the setting, and what is wrong with what it names.
    pub(crate) fn read(&self, setting: &str, secrets: Secrets) -> Result<String, String> {
        let text = match (&self.file, &self.env) {
            (None, None) | (Some(_), Some(_)) => {
                return Err(format!("{setting}: expected one of `{{file: PATH}}` and `{{env: NAME}}`"));
            }
            _ if secrets == Secrets::Assumed => ASSUMED.to_owned(),
            (Some(path), None) => std::fs::read_to_string(path)
                .map_err(|error| format!("{setting}.file: failed to read `{}`: {error}", path.display()))?,
            (None, Some(name)) => {
                std::env::var(name).map_err(|_| format!("{setting}.env: environment variable `{name}` is not set"))?
            }
        };
        let text = text.trim();
        if text.is_empty() {
            return Err(format!("{setting}: is empty: expected at least one character"));
        }
        Ok(text.to_owned())
    }

    /// As [`Self::read`], where the setting may be left out.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub(crate) fn read_if(at: Option<&SecretAt>, setting: &str, secrets: Secrets) -> Result<Option<String>, String> {
        at.map(|at| at.read(setting, secrets)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_has_one_place_and_errors_name_the_setting() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let at = |file: Option<&str>, env: Option<&str>| SecretAt {
            file: file.map(|name| dir.path().join(name)),
            env: env.map(str::to_owned),
        };
        std::fs::write(&path, " hush\n").unwrap();
        assert_eq!(at(Some("secret"), None).read("a.b", Secrets::Read).unwrap(), "hush");
        assert_eq!(SecretAt::read_if(None, "a.b", Secrets::Read), Ok(None));
        for (wrong, says) in [
            (at(None, None), "a.b: expected one of"),
            (at(Some("secret"), Some("X")), "a.b: expected one of"),
            (at(Some("none"), None), "a.b.file: failed to read"),
            (at(None, Some("NO_SUCH_VARIABLE_HERE")), "a.b.env: environment variable `NO_SUCH_VARIABLE_HERE`"),
        ] {
            let error = wrong.read("a.b", Secrets::Read).unwrap_err();
            assert!(error.contains(says) && !error.contains("hush"), "{error}");
        }
        assert!(at(Some("none"), None).read("a.b", Secrets::Assumed).is_ok());
        std::fs::write(&path, " \n").unwrap();
        assert!(at(Some("secret"), None).read("a.b", Secrets::Read).unwrap_err().contains("is empty"));
    }
}
