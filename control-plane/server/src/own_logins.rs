//! Whom we are on GitHub: what the settings say, and what is learned from the credentials that effects are carried out with.
//!
//! Invariant: as long as nothing is known, nobody is taken for us by name.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use tokio::sync::watch;

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

    /// Learns under which logins credentials turn out to write, until `drain` turns true.
    pub async fn follow(self, mut author: watch::Receiver<Option<Arc<str>>>, mut drain: watch::Receiver<bool>) {
        loop {
            if let Some(login) = author.borrow_and_update().as_deref() {
                self.learn(login);
            }
            tokio::select! {
                changed = author.changed() => if changed.is_err() { return },
                _ = drain.wait_for(|draining| *draining) => return,
            }
        }
    }

    fn change(&self, change: impl FnOnce(&mut Parts)) {
        let mut parts = self.0.parts.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut parts);
        let all: Logins = parts.said.iter().chain(&parts.learned).collect();
        self.0.all.store(Arc::new(all));
    }
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
    }
}
