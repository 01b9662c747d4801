//! Tasks that a GitHub delivery asks for: by a label on an issue, or by the first word of a comment.
//!
//! ```text
//!  issues.labeled, the label of the settings                        -> plan
//!  comment created on an issue:         /plan  /quickfix  /approve  -> plan, quickfix, implement
//!  comment created on a pull request:   /approve  /refine <text>    -> implement, refine
//! ```
//! Pure: payload in, task out. Invariant: only who may write to the repository is heard, and neither a program nor ourselves.

use serde_json::Value;

use super::settings::TaskRules;
use super::task::{About, CommentKind, Mode, REQUEST_MAX, Task};
use crate::ingest::github_table::{at, text};
use crate::ingest::github_trust::{Logins, Origin};

/// What came of looking at a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// It asks for nothing.
    Nothing,
    /// It asks for something that is not done, and why.
    Ignored(Ignored),
    /// It asks for a task.
    Task(Box<Wanted>),
}

/// A task that a delivery asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub task: Task,
    pub origin: Origin,
}

/// Why what a delivery asks for is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ignored {
    /// A program asks.
    Bot,
    /// We ask ourselves.
    Own,
    /// Who asks may not write to the repository.
    Association,
    /// The pull request comes from a fork.
    Fork,
    /// The issue or pull request is closed.
    Closed,
    /// The command does not fit where it stands, or lacks what it needs.
    Unfit,
}

impl Ignored {
    /// All there are.
    pub const ALL: [Ignored; 6] =
        [Ignored::Bot, Ignored::Own, Ignored::Association, Ignored::Fork, Ignored::Closed, Ignored::Unfit];

    /// The word for it, in metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Ignored::Bot => "bot",
            Ignored::Own => "own",
            Ignored::Association => "association",
            Ignored::Fork => "fork",
            Ignored::Closed => "closed",
            Ignored::Unfit => "unfit",
        }
    }
}

/// What a delivery of `event` asks for. `origin` is what was made of it, `own` are our own logins.
#[must_use]
pub fn find(event: &str, payload: &Value, origin: &Origin, own: &Logins, rules: &TaskRules) -> Found {
    let action = at(payload, "action").and_then(Value::as_str);
    let asked = match (event, action) {
        ("issues", Some("labeled")) => labelled(payload, rules),
        ("issue_comment", Some("created")) => commented(payload, CommentKind::Issue),
        ("pull_request_review_comment", Some("created")) => commented(payload, CommentKind::Review),
        _ => return Found::Nothing,
    };
    let Some(asked) = asked else { return Found::Nothing };
    match may(payload, &asked, origin, own, rules) {
        Some(ignored) => Found::Ignored(ignored),
        None => wanted(payload, asked, origin),
    }
}

/// What is asked for, before it is known who asks.
struct Asked {
    /// Unset where the command does not fit where it stands.
    mode: Option<Mode>,
    /// Who has to be trusted; unset where nobody can do it who is not.
    association: Option<String>,
    comment: Option<(u64, CommentKind)>,
    /// What stands behind the command.
    words: String,
}

fn labelled(payload: &Value, rules: &TaskRules) -> Option<Asked> {
    let label = text(payload, "label.name")?;
    if !label.eq_ignore_ascii_case(&rules.label) || at(payload, "issue.pull_request").is_some() {
        return None;
    }
    // Labels are set by those who may, except that a form of the repository sets them in the name of whoever opens an issue.
    let by_author = text(payload, "issue.user.login") == text(payload, "sender.login");
    let association = by_author.then(|| text(payload, "issue.author_association").unwrap_or_default());
    Some(Asked { mode: Some(Mode::Plan), association, comment: None, words: String::new() })
}

fn commented(payload: &Value, kind: CommentKind) -> Option<Asked> {
    let body = at(payload, "comment.body").and_then(Value::as_str)?.trim_start();
    let (word, words) = body.split_once(char::is_whitespace).unwrap_or((body, ""));
    let on_pull_request = kind == CommentKind::Review || at(payload, "issue.pull_request").is_some();
    let mode = match (word.to_ascii_lowercase().as_str(), on_pull_request) {
        ("/plan", false) => Some(Mode::Plan),
        ("/quickfix", false) => Some(Mode::Quickfix),
        ("/approve", _) => Some(Mode::Implement),
        ("/refine", true) => Some(Mode::Refine),
        ("/plan" | "/quickfix", true) | ("/refine", false) => None,
        _ => return None,
    };
    let words = words.trim().to_owned();
    let mode = mode.filter(|mode| *mode != Mode::Refine || !words.is_empty());
    let id = at(payload, "comment.id").and_then(Value::as_u64)?;
    let association = text(payload, "comment.author_association").unwrap_or_default();
    Some(Asked { mode, association: Some(association), comment: Some((id, kind)), words })
}

/// Why it is not done, if it is not.
fn may(payload: &Value, asked: &Asked, origin: &Origin, own: &Logins, rules: &TaskRules) -> Option<Ignored> {
    let sender = text(payload, "sender.login").unwrap_or_default();
    let author = text(payload, "comment.user.login").unwrap_or_default();
    let is_bot =
        origin.bot || text(payload, "comment.user.type").as_deref() == Some("Bot") || author.ends_with("[bot]");
    if (asked.comment.is_some() && origin.echo) || own.has(&sender) || own.has(&author) {
        return Some(Ignored::Own);
    }
    if is_bot {
        return Some(Ignored::Bot);
    }
    if asked.association.as_ref().is_some_and(|word| !rules.associations.iter().any(|trusted| trusted == word)) {
        return Some(Ignored::Association);
    }
    let Some(mode) = asked.mode else { return Some(Ignored::Unfit) };
    let state = text(payload, "issue.state").or_else(|| text(payload, "pull_request.state"));
    if state.as_deref() == Some("closed") {
        return Some(Ignored::Closed);
    }
    // Of what stands under a line of the diff alone is it said here whether it is a fork's; else the coding agent has to look.
    let is_fork = origin.fork && matches!(mode, Mode::Implement | Mode::Refine);
    (is_fork && !rules.allow_forks).then_some(Ignored::Fork)
}

fn wanted(payload: &Value, asked: Asked, origin: &Origin) -> Found {
    let Asked { mode, association, comment, words } = asked;
    let Some(mode) = mode else { return Found::Ignored(Ignored::Unfit) };
    let number = |path: &str| at(payload, path).and_then(Value::as_u64);
    let on_pull_request = at(payload, "issue.pull_request").is_some() || at(payload, "pull_request").is_some();
    let issue = number("issue.number").or_else(|| number("pull_request.number"));
    let clipped = |path: &str, max: usize| text(payload, path).filter(|text| text.len() <= max);
    let mut about = About {
        comment_id: comment.map(|(id, _)| id),
        comment_kind: comment.map(|(_, kind)| kind),
        comment_url: comment.and_then(|_| clipped("comment.html_url", 1024)),
        ..About::default()
    };
    if on_pull_request {
        about.pr_number = issue;
        about.pr_title = clipped("issue.title", 1024).or_else(|| clipped("pull_request.title", 1024));
        about.pr_branch = clipped("pull_request.head.ref", 255);
        about.base_branch = clipped("pull_request.base.ref", 255);
    } else {
        about.issue_id = issue;
        about.base_branch = clipped("repository.default_branch", 255);
    }
    if mode == Mode::Refine {
        about.refine_request = Some(words.chars().take(REQUEST_MAX / 4).collect());
    }
    let url = text(payload, "repository.html_url").or_else(|| {
        let name = text(payload, "repository.full_name")?;
        Some(format!("https://github.com/{name}"))
    });
    let user = text(payload, "comment.user.login").or_else(|| text(payload, "sender.login"));
    let (Some(url), Some(user)) = (url, user) else { return Found::Ignored(Ignored::Unfit) };
    match Task::new(&url, mode, about, &user) {
        Ok(task) => {
            let origin = Origin { association, echo: false, bot: false, fork: origin.fork };
            Found::Task(Box::new(Wanted { task, origin }))
        }
        Err(_) => Found::Ignored(Ignored::Unfit),
    }
}

#[cfg(test)]
#[path = "github_tests.rs"]
mod tests;
