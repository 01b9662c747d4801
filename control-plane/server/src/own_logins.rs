//! Whom we are on GitHub: what the settings say, and what is learned from the credentials that effects are carried out with.
//!
//! Invariant: as long as nothing is known, nobody is taken for us by name.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use crate::ingest::github_trust::Logins;

/// Logins that may be known.
pub const OWN_LOGINS_MAX: usize = 16;
/// The longest, in bytes.
const LOGIN_MAX: usize = 100;

/// Our own logins; cheap to clone, all clones know the same.
#[derive(Clone, Debug, Default)]
pub struct OwnLogins(Arc<Known>);

#[derive(Debug, Default)]
struct Known {
    all: ArcSwap<Logins>,
    parts: Mutex<Parts>,
}

#[derive(Debug, Default)]
struct Parts {
    said: BTreeSet<String>,
    learned: BTreeSet<String>,
}

impl OwnLogins {
    /// All that are known now.
    #[must_use]
    pub fn load(&self) -> Arc<Logins> {
        self.0.all.load_full()
    }

    /// Takes what the settings say, in place of what they said before.
    pub fn set(&self, said: &[String]) {
        self.change(|parts| parts.said = said.iter().cloned().collect());
    }

    /// Takes the login that credentials turned out to be of.
    pub fn learn(&self, login: &str) {
        if login.is_empty() || login.len() > LOGIN_MAX {
            return;
        }
        self.change(|parts| {
            if parts.learned.len() < OWN_LOGINS_MAX {
                parts.learned.insert(login.to_owned());
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut Parts)) {
        let mut parts = self.0.parts.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut parts);
        let all: Logins = parts.said.iter().chain(&parts.learned).collect();
        self.0.all.store(Arc::new(all));
    }
}

/// Checks the logins that the settings name.
///
/// # Errors
/// Names the setting and what is accepted.
pub fn checked(logins: &[String], setting: &str) -> Result<Vec<String>, String> {
    let fits = |login: &String| {
        (1..=LOGIN_MAX).contains(&login.len()) && !login.chars().any(|c| c.is_control() || c.is_whitespace())
    };
    if logins.len() > OWN_LOGINS_MAX || !logins.iter().all(fits) {
        return Err(format!("`{setting}`: expected at most {OWN_LOGINS_MAX} logins of 1 to {LOGIN_MAX} bytes"));
    }
    Ok(logins.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_gives_way_and_what_is_learned_stays() {
        let own = OwnLogins::default();
        assert!(own.load().is_empty());
        own.set(&["first".to_owned()]);
        own.learn("Mind-OS[bot]");
        assert!(own.load().has("first") && own.load().has("mind-os"));
        own.set(&["second".to_owned()]);
        assert!(!own.load().has("FIRST") && own.load().has("second[bot]") && own.load().has("mind-os[bot]"));
    }

    #[test]
    fn logins_are_bounded() {
        let own = OwnLogins::default();
        (0..100).for_each(|number| own.learn(&format!("l{number}")));
        own.learn(&"x".repeat(101));
        assert!(own.load().has("l15") && !own.load().has("l16"));
        assert!(checked(&["a b".to_owned()], "github.login").unwrap_err().contains("github.login"));
        assert_eq!(checked(&["mindos[bot]".to_owned()], "github.login"), Ok(vec!["mindos[bot]".to_owned()]));
    }
}
