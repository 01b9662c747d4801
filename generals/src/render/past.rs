//! What the same general found before: left, hidden, in its own comment, and read from there alone.
//!
//! Invariant: it is read from comments of our own author only (the caller's care), and even then it is foreign text when it is shown.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::item::{Item, word};
use crate::run::Answer;

/// Begins the hidden text; the general's type and a colon follow.
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

/// What a comment of ours says that a general found.
pub(crate) fn read_past(body: &str, general: &str) -> Vec<PastFinding> {
    // The last one: what stands before it may quote one.
    let Some((_, rest)) = body.rsplit_once(BEGIN) else { return Vec::new() };
    let Some(rest) = rest.strip_prefix(general).and_then(|rest| rest.strip_prefix(':')) else { return Vec::new() };
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
pub(super) fn hidden(general: &str, items: &[Item], past: &[PastFinding]) -> String {
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
    format!("{BEGIN}{general}:{}{END}", URL_SAFE_NO_PAD.encode(json))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Finding, Severity};
    use serde_json::json;

    fn found(codes: &[&'static str]) -> Vec<Item> {
        let finding = |code: &&'static str| Finding::of(Severity::Warning, code, format!("about {code} -->"), json!({}));
        super::super::items(&codes.iter().map(finding).collect::<Vec<_>>(), None)
    }

    #[test]
    fn what_was_found_is_left_and_compared_with_what_is_found() {
        let first = format!("text <!-- mindos:findings=a:xx --> text\n{}", hidden("a", &found(&["x", "y"]), &[]));
        let past = read_past(&first, "a");
        assert_eq!(past.len(), 2);
        assert_eq!(past[0].title, "about x -->", "it cannot end its own comment");
        assert_eq!((read_past(&first, "b").len(), read_past("<!-- mindos:findings=a:?? -->", "a").len()), (0, 0));

        let items = found(&["y", "z"]);
        let states: Vec<State> = compared(past.clone(), &items, None).into_iter().map(|it| it.state).collect();
        assert_eq!(states, [State::Resolved, State::StillThere]);
        let mut said = past;
        said.iter_mut().for_each(|it| it.by_model = true);
        let compared_with = |answer: Option<&Answer>| compared(said.clone(), &[], answer).into_iter().map(|it| it.state).collect::<Vec<_>>();
        assert_eq!(compared_with(None), [State::NotLookedAt; 2]);
        let answer = Answer { past: vec![(said[0].id.clone(), true), (said[1].id.clone(), false)], ..Answer::default() };
        assert_eq!(compared_with(Some(&answer)), [State::Resolved, State::StillThere]);
    }
}
