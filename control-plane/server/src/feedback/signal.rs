//! Signals: what a GitHub event says of something that we wrote there.
//!
//! ```text
//!  pull_request.closed, of ours                  merged: accepted; not: dismissed
//!  pull_request_review_thread, of ours           resolved: accepted; unresolved: reverted
//!  push to the default branch                    "This reverts commit <sha>", a commit of ours: reverted
//!  a reaction to a comment of ours, those on
//!    lines too (polled)                          +1 heart rocket hooray: accepted; -1 confused: dismissed
//! ```
//! Pure. Whether something is ours is not known here: a signal names it ([`Wrote`]), and the index of what effects observed knows whose
//! it is. Invariant: what we do ourselves is no signal, and the same thing said twice is the same signal.

use std::fmt;

use mindos_core::record::FeedbackVerdict;
use serde_json::Value;

use crate::ingest::github_table::{at, text};
use crate::ingest::github_trust::Logins;

/// Commits of one push that are looked at; GitHub sends at most 2048.
const COMMITS_MAX: usize = 2048;
/// How a commit says that it takes another back.
const REVERTS: &str = "This reverts commit ";

/// Something that was written on GitHub, by the name that effects and events have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Wrote {
    /// A comment on an issue or pull request, by its id.
    Comment {
        id: u64,
    },
    /// A review of a pull request, by its id; the number of the pull request where it is known.
    Review {
        id: u64,
        pull: Option<u64>,
    },
    PullRequest {
        repository: String,
        number: u64,
    },
    Commit {
        sha: String,
    },
}

impl fmt::Display for Wrote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wrote::Comment { id } => write!(f, "comment/{id}"),
            Wrote::Review { id, pull: _ } => write!(f, "review/{id}"),
            Wrote::PullRequest { repository, number } => {
                write!(f, "pull/{}#{number}", repository.to_ascii_lowercase())
            }
            Wrote::Commit { sha } => write!(f, "commit/{}", sha.to_ascii_lowercase()),
        }
    }
}

/// What somebody made of something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signal {
    pub about: Wrote,
    pub verdict: FeedbackVerdict,
    /// What it rests on: the id of its event.
    pub id: String,
    /// Who said it.
    pub actor: Option<String>,
}

/// What an event of GitHub tells the index and says of what we wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    pub signals: Vec<Signal>,
    /// A commit that stands for a pull request from here on: its merge.
    pub merged: Option<(Wrote, Wrote)>,
}

/// Whether events of this type can say something.
#[must_use]
pub fn may_say(ty: &str) -> bool {
    ty == "com.github.push"
        || ty == "com.github.pull_request.closed"
        || ty.starts_with("com.github.pull_request_review_thread")
}

/// Reads what an event of this type says. `own` are our own logins.
#[must_use]
pub fn read(ty: &str, payload: &Value, own: &Logins) -> Said {
    if text(payload, "sender.login").is_some_and(|login| own.has(&login)) {
        return Said::default();
    }
    match ty {
        "com.github.pull_request.closed" => closed(payload),
        "com.github.push" => Said { signals: pushed(payload), merged: None },
        _ if ty.starts_with("com.github.pull_request_review_thread") => {
            Said { signals: threads(payload), merged: None }
        }
        _ => Said::default(),
    }
}

fn repository(payload: &Value) -> Option<String> {
    text(payload, "repository.full_name")
}

fn is_sha(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn closed(payload: &Value) -> Said {
    let number = at(payload, "pull_request.number").and_then(Value::as_u64);
    let (Some(repository), Some(number)) = (repository(payload), number) else { return Said::default() };
    let about = Wrote::PullRequest { repository, number };
    let is_merged = at(payload, "pull_request.merged").and_then(Value::as_bool).unwrap_or_default();
    let actor = text(payload, "sender.login");
    let closed_at = text(payload, "pull_request.closed_at").filter(|at| at.len() <= 64).unwrap_or_default();
    let (verdict, id) = match is_merged {
        true => (FeedbackVerdict::Accepted, format!("{about}/merged")),
        // It may be opened again, and closed again.
        false => (FeedbackVerdict::Dismissed, format!("{about}/closed/{closed_at}")),
    };
    let merge = text(payload, "pull_request.merge_commit_sha").filter(|sha| is_merged && is_sha(sha));
    let merged = merge.map(|sha| (Wrote::Commit { sha }, about.clone()));
    Said { signals: vec![Signal { about, verdict, id, actor }], merged }
}

fn threads(payload: &Value) -> Vec<Signal> {
    let verdict = match at(payload, "action").and_then(Value::as_str) {
        Some("resolved") => FeedbackVerdict::Accepted,
        Some("unresolved") => FeedbackVerdict::Reverted,
        _ => return Vec::new(),
    };
    let first = at(payload, "thread.comments").and_then(Value::as_array).and_then(|comments| comments.first());
    let Some(first) = first else { return Vec::new() };
    let review = at(first, "pull_request_review_id").and_then(Value::as_u64);
    let (Some(review), Some(comment)) = (review, at(first, "id").and_then(Value::as_u64)) else { return Vec::new() };
    let action = at(payload, "action").and_then(Value::as_str).unwrap_or_default();
    // GitHub gives no time of it; the thread's last change tells one resolution from the next.
    let when = text(payload, "thread.updated_at").or_else(|| text(payload, "updated_at"));
    let when = when.or_else(|| text(payload, "pull_request.updated_at")).filter(|at| at.len() <= 64);
    let id = format!("thread/{comment}/{action}/{}", when.unwrap_or_default());
    vec![Signal { about: Wrote::Review { id: review, pull: None }, verdict, id, actor: text(payload, "sender.login") }]
}

fn pushed(payload: &Value) -> Vec<Signal> {
    // Only what arrives where the work was meant for takes it back.
    let (Some(to), Some(default)) = (text(payload, "ref"), text(payload, "repository.default_branch")) else {
        return Vec::new();
    };
    if to.strip_prefix("refs/heads/") != Some(default.as_str()) {
        return Vec::new();
    }
    let commits = at(payload, "commits").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut signals = Vec::new();
    for commit in commits.iter().take(COMMITS_MAX) {
        let (Some(by), Some(message)) = (text(commit, "id"), text(commit, "message")) else { continue };
        if !is_sha(&by) {
            continue;
        }
        let actor = text(commit, "author.username").or_else(|| text(payload, "sender.login"));
        for sha in reverted(&message) {
            let about = Wrote::Commit { sha: sha.to_ascii_lowercase() };
            let id = format!("{about}/reverted/{}", by.to_ascii_lowercase());
            let signal = Signal { about, verdict: FeedbackVerdict::Reverted, id, actor: actor.clone() };
            signals.push(signal);
        }
    }
    signals
}

/// The commits that a message says it takes back; those of a merge's are among its parents, and not said twice.
fn reverted(message: &str) -> Vec<&str> {
    let mut found: Vec<&str> = message
        .match_indices(REVERTS)
        .filter_map(|(place, _)| message.get(place + REVERTS.len()..place + REVERTS.len() + 40))
        .filter(|sha| is_sha(sha))
        .collect();
    found.sort_unstable();
    found.dedup();
    found.truncate(16);
    found
}

/// What a reaction to a comment says; `None` for those that say nothing.
#[must_use]
pub fn reaction(content: &str) -> Option<FeedbackVerdict> {
    match content {
        "+1" | "heart" | "rocket" | "hooray" => Some(FeedbackVerdict::Accepted),
        "-1" | "confused" => Some(FeedbackVerdict::Dismissed),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SHA: &str = "0123456789abcdef0123456789abcdef01234567";
    const OTHER: &str = "fedcba9876543210fedcba9876543210fedcba98";

    fn own() -> Logins {
        ["mindos"].into_iter().collect()
    }

    #[test]
    fn a_pull_request_that_is_merged_was_accepted_and_one_that_is_closed_was_not() {
        let closed = |merged: bool, sender: &str| {
            json!({
                "action": "closed", "sender": { "login": sender }, "repository": { "full_name": "O/n" },
                "pull_request": { "number": 9, "merged": merged, "merge_commit_sha": SHA, "closed_at": "2026-11-29T10:00:00Z" },
            })
        };
        let ty = "com.github.pull_request.closed";
        let merged = read(ty, &closed(true, "ada"), &own());
        assert_eq!(merged.signals[0].verdict, FeedbackVerdict::Accepted);
        assert_eq!(merged.signals[0].id, "pull/o/n#9/merged");
        let (commit, pull) = merged.merged.unwrap();
        assert_eq!((commit.to_string(), pull.to_string()), (format!("commit/{SHA}"), "pull/o/n#9".to_owned()));
        let dismissed = read(ty, &closed(false, "ada"), &own());
        assert_eq!((dismissed.signals[0].verdict, dismissed.merged), (FeedbackVerdict::Dismissed, None));
        assert_eq!(read(ty, &closed(false, "mindos[bot]"), &own()), Said::default(), "we close ourselves");
    }

    #[test]
    fn a_commit_on_the_default_branch_takes_others_back() {
        let push = |to: &str, message: &str| {
            json!({
                "ref": to, "sender": { "login": "ada" }, "repository": { "full_name": "o/n", "default_branch": "main" },
                "commits": [{ "id": OTHER, "message": message, "author": { "username": "bob" } }],
            })
        };
        let message =
            format!("Revert \"x\"\n\nThis reverts commit {SHA}, reversing\nchanges.\nThis reverts commit {SHA}.");
        let found = read("com.github.push", &push("refs/heads/main", &message), &own()).signals;
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].verdict, found[0].actor.as_deref()), (FeedbackVerdict::Reverted, Some("bob")));
        assert_eq!(found[0].id, format!("commit/{SHA}/reverted/{OTHER}"));
        assert_eq!(read("com.github.push", &push("refs/heads/topic", &message), &own()), Said::default());
        for message in
            ["This reverts commit abc.", "This reverts commit ", "reverts", "This reverts commit \u{e4}\u{e4}"]
        {
            assert_eq!(
                read("com.github.push", &push("refs/heads/main", message), &own()),
                Said::default(),
                "{message}"
            );
        }
    }

    #[test]
    fn a_thread_of_a_review_is_resolved_and_opened_again() {
        let thread = |action: &str| {
            json!({
                "action": action, "sender": { "login": "ada" }, "updated_at": "2026-11-29T10:00:00Z",
                "thread": { "comments": [{ "id": 5, "pull_request_review_id": 77 }] },
            })
        };
        let of = |action: &str| {
            let said = read(&format!("com.github.pull_request_review_thread.{action}"), &thread(action), &own());
            said.signals.into_iter().map(|signal| (signal.about, signal.verdict)).next()
        };
        assert_eq!(of("resolved"), Some((Wrote::Review { id: 77, pull: None }, FeedbackVerdict::Accepted)));
        assert_eq!(of("unresolved"), Some((Wrote::Review { id: 77, pull: None }, FeedbackVerdict::Reverted)));
        assert_eq!(of("edited"), None);
    }

    #[test]
    fn reactions_say_yes_no_or_nothing() {
        assert_eq!(reaction("rocket"), Some(FeedbackVerdict::Accepted));
        assert_eq!(reaction("-1"), Some(FeedbackVerdict::Dismissed));
        assert_eq!((reaction("eyes"), reaction("laugh"), reaction("")), (None, None, None));
    }
}
