//! Changes of what the server is configured with, on record: what changed, and never what it says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mindos_core::access::AccessChange;
use mindos_model::limits::REASON_MAX;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tracing::warn;

use super::keys::LedgerKeys;
use super::record;
use crate::driver::{CallError, Handle};
use crate::logging::Chain;

/// What the file of settings is called in the ledger.
pub const SETTINGS: &str = "settings";
/// How long to wait before a change is offered again.
const RETRY: Duration = Duration::from_secs(1);

/// What tells one text of settings from another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SettingsDigest {
    /// Of all of it.
    pub whole: [u8; 32],
    /// Of each section, by its name.
    pub sections: BTreeMap<String, [u8; 32]>,
}

impl SettingsDigest {
    /// Of the text of a settings file; one that is not YAML has no sections.
    #[must_use]
    pub fn of(text: &str) -> SettingsDigest {
        let sections = serde_norway::from_str::<BTreeMap<String, serde_norway::Value>>(text).unwrap_or_default();
        let digest = |(name, value): (String, serde_norway::Value)| {
            let text = serde_norway::to_string(&value).unwrap_or_default();
            (name, Sha256::digest(text.as_bytes()).into())
        };
        SettingsDigest {
            whole: Sha256::digest(text.as_bytes()).into(),
            sections: sections.into_iter().map(digest).collect(),
        }
    }

    /// Names of the sections that differ from `before`.
    #[must_use]
    pub fn changed(&self, before: Option<&SettingsDigest>) -> String {
        let Some(before) = before else {
            let names: Vec<&str> = self.sections.keys().map(String::as_str).collect();
            return shortened(&format!(
                "at start: {}",
                if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
            ));
        };
        let mut names: Vec<&str> = Vec::new();
        names.extend(
            self.sections
                .iter()
                .filter(|(name, digest)| before.sections.get(*name) != Some(digest))
                .map(|(name, _)| name.as_str()),
        );
        names.extend(before.sections.keys().filter(|name| !self.sections.contains_key(*name)).map(String::as_str));
        shortened(&if names.is_empty() { "nothing but its text".to_owned() } else { names.join(", ") })
    }
}

fn shortened(text: &str) -> String {
    let clean: String = text.chars().filter(|char| !char.is_control()).collect();
    let mut end = clean.len().min(REASON_MAX);
    while !clean.is_char_boundary(end) {
        end -= 1;
    }
    clean[..end].to_owned()
}

/// Records that `what` is now as `digest` says; nothing where it was so before. What is recorded is blinded, for there may be secrets in it.
///
/// # Errors
/// When the plane does not take it.
pub async fn note(
    handle: &Handle,
    keys: &LedgerKeys,
    what: &str,
    digest: [u8; 32],
    summary: &str,
) -> Result<(), CallError> {
    let digest = keys.blinded(&digest);
    let change = AccessChange::ChangeSettings { what: Arc::from(what), digest, summary: Arc::from(shortened(summary)) };
    record(handle, change).await.map(drop)
}

/// Records each text of the settings that takes effect, until `drain` turns true.
pub async fn follow(
    handle: Handle,
    keys: LedgerKeys,
    mut settings: watch::Receiver<SettingsDigest>,
    mut drain: watch::Receiver<bool>,
) {
    handle.begun().await;
    let mut before: Option<SettingsDigest> = None;
    loop {
        let current = settings.borrow_and_update().clone();
        if before.as_ref() != Some(&current) {
            let summary = current.changed(before.as_ref());
            match note(&handle, &keys, SETTINGS, current.whole, &summary).await {
                Ok(()) => before = Some(current),
                Err(CallError::Stopped(_)) => return,
                Err(error) => {
                    warn!(error = %Chain(&error), "change of settings was not recorded");
                    tokio::select! {
                        () = tokio::time::sleep(RETRY) => continue,
                        _ = drain.wait_for(|draining| *draining) => return,
                    }
                }
            }
        }
        tokio::select! {
            changed = settings.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            _ = drain.wait_for(|draining| *draining) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_sections_are_named_and_nothing_of_what_they_say() {
        let before = SettingsDigest::of("github_secret: aaa\nlog: info\nsinks: {}\n");
        let after = SettingsDigest::of("github_secret: bbb\nlog: info\nquotas: []\n");
        assert_eq!(after.changed(Some(&before)), "github_secret, quotas, sinks");
        assert_eq!(before.changed(None), "at start: github_secret, log, sinks");
        assert_eq!(SettingsDigest::of("").changed(None), "at start: nothing");
        assert_ne!(before.whole, after.whole);
        let comment = SettingsDigest::of("github_secret: aaa\nlog: info\nsinks: {} # none\n");
        assert_eq!(comment.changed(Some(&before)), "nothing but its text");
    }
}
