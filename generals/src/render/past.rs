//! What the same general found before: left, hidden, in its own comment, and read from there alone.
//!
//! Invariant: it is read from comments of our own author only (the caller's care), and even then it is foreign text when it is shown.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::item::{Item, word};
use crate::run::Answer;

const BEGIN: &str = "<!-- mindos:findings=";
const END: &str = " -->";
/// Most findings that are left.
const LEFT_MAX: usize = 60;
/// Longest title that is left, in letters.
const TITLE_MAX: usize = 120;
/// Longest hidden text that is read, in bytes.
const HIDDEN_MAX: usize = 48 * 1024;

/// What became of an earlier finding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum State {
    #[default]
    StillThere,
    Resolved,
    /// A model found it, and none was asked this time, or it said nothing of it.
    NotLookedAt,
}

/// A finding of an earlier run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PastFinding {
    pub(crate) id: String,
    pub(crate) severity: String,
    pub(crate) title: String,
    #[serde(default)]
    pub(crate) path: Option<String>,
    #[serde(default)]
    pub(crate) by_model: bool,
    #[serde(skip)]
    pub(crate) state: State,
}

/// What a comment of ours says was found.
pub(crate) fn read_past(body: &str) -> Vec<PastFinding> {
    // The last one: what stands before it may quote one.
    let Some((_, rest)) = body.rsplit_once(BEGIN) else { return Vec::new() };
    let Some((encoded, _)) = rest.split_once(END).filter(|(encoded, _)| encoded.len() <= HIDDEN_MAX) else { return Vec::new() };
    let json = URL_SAFE_NO_PAD.decode(encoded.trim()).unwrap_or_default();
    let mut past: Vec<PastFinding> = serde_json::from_slice(&json).unwrap_or_default();
    past.truncate(LEFT_MAX);
    past.retain(|finding| finding.id.len() <= 32 && finding.title.chars().count() <= TITLE_MAX + 1);
    past
}

/// The earlier findings with what became of them.
pub(crate) fn compared(past: Vec<PastFinding>, items: &[Item], answer: Option<&Answer>) -> Vec<PastFinding> {
    let state = |finding: &PastFinding| {
        if items.iter().any(|item| item.id == finding.id) {
            return State::StillThere;
        }
        if !finding.by_model {
            return State::Resolved;
        }
        match answer.and_then(|answer| answer.past.iter().find(|(id, _)| *id == finding.id)) {
            Some((_, true)) => State::Resolved,
            Some((_, false)) => State::StillThere,
            None => State::NotLookedAt,
        }
    };
    past.into_iter().map(|finding| PastFinding { state: state(&finding), ..finding }).collect()
}

/// The hidden text for the next run: what is found, and what was found and is not known to be resolved.
pub(super) fn hidden(items: &[Item], past: &[PastFinding]) -> String {
    let found = items.iter().filter(|item| item.severity > crate::Severity::Info).map(|item| PastFinding {
        id: item.id.clone(),
        severity: word(item.severity).to_owned(),
        title: item.title.chars().take(TITLE_MAX).collect(),
        path: item.path.clone(),
        by_model: item.by_model,
        state: State::StillThere,
    });
    let open = past.iter().filter(|finding| finding.state != State::Resolved && !items.iter().any(|item| item.id == finding.id));
    let left: Vec<PastFinding> = found.chain(open.cloned()).take(LEFT_MAX).collect();
    let json = serde_json::to_vec(&left).unwrap_or_default();
    format!("{BEGIN}{}{END}", URL_SAFE_NO_PAD.encode(json))
}
