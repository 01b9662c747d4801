//! A task: code is to be planned, written or made better, for an issue or a pull request.
//!
//! ```text
//!  label, comment command --+
//!  API, command line -------+--> Task --> event `dev.mindos.task.requested`, id `<repo>#<n>/<mode>[/<comment or word>]`
//!  RabbitMQ message --------+
//! ```
//! The fields and their names are those of the coding agent's contract. Invariant: the same wish is the same event, whichever way it
//! comes in and however often; what is refused is refused by the name of its field.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

use super::repository::{branch, repository};
use crate::ingest::cloudevents::{ExtensionValue, IncomingEvent};
use crate::ingest::github_trust::Origin;

/// The type of every task's event.
pub const TASK_TYPE: &str = "dev.mindos.task.requested";
/// The kind of every task's event.
pub const TASK_KIND: &str = "task";
/// The source of every task's event.
pub const TASK_SOURCE: &str = "/tasks";
/// The longest wish of a refinement, in bytes.
pub const REQUEST_MAX: usize = 64 << 10;
/// The longest title or address, in bytes.
const TEXT_MAX: usize = 2048;
/// The longest login, in bytes.
const LOGIN_MAX: usize = 256;
/// The longest word that tells one wish from an earlier one, in bytes.
const REPEAT_MAX: usize = 64;

pub use mindos_model::TaskMode as Mode;

/// What a comment stands under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CommentKind {
    /// An issue, or the talk of a pull request.
    Issue,
    /// A line of a pull request's diff.
    Review,
}

impl CommentKind {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            CommentKind::Issue => "issue",
            CommentKind::Review => "review",
        }
    }
}

/// A field that is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct TaskError {
    pub field: String,
    pub reason: String,
}

impl TaskError {
    pub(super) fn new(field: &str, reason: impl Into<String>) -> TaskError {
        TaskError { field: field.to_owned(), reason: reason.into() }
    }
}

/// A task that was checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Task {
    /// Where the repository is, without credentials.
    pub repo_url: String,
    /// The same as `owner/name`.
    pub repository: String,
    #[serde(serialize_with = "mode_word")]
    pub mode: Mode,
    #[serde(flatten)]
    pub about: About,
    /// Who asked.
    pub trigger_user: String,
}

fn mode_word<S: serde::Serializer>(mode: &Mode, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(mode.as_str())
}

/// What a task is about; what is unset was not said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct About {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issue_id: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pr_number: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pr_branch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pr_title: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_branch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment_id: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment_kind: Option<CommentKind>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refine_request: Option<String>,
}

/// Members that are known, of messages and of requests.
const MEMBERS: [&str; 13] = [
    "repo_url",
    "repository",
    "mode",
    "trigger_user",
    "issue_id",
    "pr_number",
    "pr_branch",
    "pr_title",
    "base_branch",
    "comment_id",
    "comment_kind",
    "comment_url",
    "refine_request",
];

impl Task {
    /// Reads a JSON object with the contract's members; strings that are numbers are taken for them. `asked_by` is who asks, where
    /// the object does not say. Members that are not known are passed over, as the contract's workers did.
    ///
    /// # Errors
    /// Names the member and what is accepted.
    pub fn read(object: &Map<String, Value>, asked_by: Option<&str>) -> Result<Task, TaskError> {
        let text = |field: &str, max: usize| text(object, field, max);
        let repo_url = text("repo_url", TEXT_MAX)?;
        let repo_url = repo_url.ok_or_else(|| TaskError::new("repo_url", "is missing: expected an http(s) address"))?;
        let mode = "expected plan, quickfix, implement or refine";
        let word = text("mode", 32)?.ok_or_else(|| TaskError::new("mode", format!("is missing: {mode}")))?;
        let Some(mode) = Mode::read(&word) else {
            return Err(TaskError::new("mode", format!("`{}` is not known: {mode}", clip(&word))));
        };
        let trigger_user = text("trigger_user", LOGIN_MAX)?.or_else(|| asked_by.map(str::to_owned));
        let about = About {
            issue_id: number(object, "issue_id")?,
            pr_number: number(object, "pr_number")?,
            pr_branch: text("pr_branch", TEXT_MAX)?,
            pr_title: text("pr_title", TEXT_MAX)?,
            base_branch: text("base_branch", TEXT_MAX)?,
            comment_id: number(object, "comment_id")?,
            comment_kind: match text("comment_kind", 32)?.as_deref() {
                None => None,
                Some("issue") => Some(CommentKind::Issue),
                Some("review") => Some(CommentKind::Review),
                Some(_) => return Err(TaskError::new("comment_kind", "expected issue or review")),
            },
            comment_url: text("comment_url", TEXT_MAX)?,
            refine_request: text("refine_request", REQUEST_MAX)?,
        };
        let trigger_user =
            trigger_user.ok_or_else(|| TaskError::new("trigger_user", "is missing: expected who asks"))?;
        Task::new(&repo_url, mode, about, &trigger_user)
    }

    /// The member of an object that is none of a task's, if there is one.
    #[must_use]
    pub fn unknown_member(object: &Map<String, Value>) -> Option<&str> {
        object.keys().map(String::as_str).find(|name| !MEMBERS.contains(name))
    }

    /// Checks a task whole.
    ///
    /// # Errors
    /// Names the field and what is accepted.
    pub fn new(repo_url: &str, mode: Mode, mut about: About, trigger_user: &str) -> Result<Task, TaskError> {
        let (repo_url, repository) = repository(repo_url)?;
        if trigger_user.is_empty() || trigger_user.len() > LOGIN_MAX || trigger_user.chars().any(char::is_control) {
            let reason = format!("expected 1 to {LOGIN_MAX} bytes without control characters");
            return Err(TaskError::new("trigger_user", reason));
        }
        for (field, name) in [("pr_branch", &about.pr_branch), ("base_branch", &about.base_branch)] {
            name.as_deref().map_or(Ok(()), |name| branch(field, name))?;
        }
        let needs = |field: &str| Err(TaskError::new(field, format!("is missing: mode {} needs it", mode.as_str())));
        match mode {
            Mode::Plan | Mode::Quickfix if about.issue_id.is_none() => return needs("issue_id"),
            Mode::Implement if about.pr_number.is_none() && about.issue_id.is_none() => return needs("pr_number"),
            Mode::Refine if about.pr_number.is_none() => return needs("pr_number"),
            Mode::Refine if about.refine_request.is_none() && about.comment_id.is_none() => {
                let reason = "is missing: mode refine needs it, or comment_id of the comment that says it";
                return Err(TaskError::new("refine_request", reason));
            }
            Mode::Plan | Mode::Quickfix | Mode::Implement | Mode::Refine => {}
        }
        if about.comment_kind.is_some() && about.comment_id.is_none() {
            return Err(TaskError::new("comment_id", "is missing: comment_kind says of what kind it is"));
        }
        if about.comment_id.is_some() {
            about.comment_kind.get_or_insert(CommentKind::Issue);
        }
        Ok(Task { repo_url, repository, mode, about, trigger_user: trigger_user.to_owned() })
    }

    /// The issue or pull request that it is about.
    #[must_use]
    pub fn number(&self) -> u64 {
        let About { issue_id, pr_number, .. } = &self.about;
        let number = match self.mode {
            Mode::Plan | Mode::Quickfix => *issue_id,
            Mode::Implement | Mode::Refine => pr_number.or(*issue_id),
        };
        number.expect("what a mode needs was checked")
    }

    /// `owner/name#7`.
    #[must_use]
    pub fn subject(&self) -> String {
        format!("{}#{}", self.repository, self.number())
    }

    /// What it keeps its order in: all that is done for an issue, or to a pull request.
    #[must_use]
    pub fn lane(&self) -> String {
        let of_pull_request = match self.mode {
            Mode::Plan | Mode::Quickfix => false,
            Mode::Implement | Mode::Refine => self.about.pr_number.is_some(),
        };
        let kind = if of_pull_request { "pr" } else { "issue" };
        format!("{}/{kind}/{}", self.repository, self.number())
    }

    /// The id of its event. `repeat` tells it from an earlier wish of the same.
    #[must_use]
    pub fn id(&self, repeat: Option<&str>) -> String {
        let mut id = format!("{}/{}", self.subject(), self.mode.as_str());
        for part in [self.about.comment_id.map(|id| id.to_string()), repeat.map(str::to_owned)].into_iter().flatten() {
            id.push('/');
            id.push_str(&part);
        }
        id
    }

    /// Its event. `origin` is what is known of where it comes from.
    #[must_use]
    pub fn event(&self, origin: &Origin, repeat: Option<&str>) -> IncomingEvent {
        let text = |name: &str, value: String| (name.to_owned(), ExtensionValue::String(value));
        let mut extensions: BTreeMap<String, ExtensionValue> = [
            text("kind", TASK_KIND.to_owned()),
            text("lane", self.lane()),
            text("repository", self.repository.clone()),
            text("actor", self.trigger_user.clone()),
        ]
        .into();
        extensions.extend(origin.association.clone().map(|word| text("association", word)));
        if origin.fork {
            extensions.insert("fork".to_owned(), ExtensionValue::Boolean(true));
        }
        let data = serde_json::to_vec(self).expect("texts and numbers are JSON");
        IncomingEvent {
            id: self.id(repeat),
            source: TASK_SOURCE.to_owned(),
            r#type: TASK_TYPE.to_owned(),
            subject: Some(self.subject()),
            datacontenttype: Some("application/json".to_owned()),
            extensions,
            data: data.into(),
            ..IncomingEvent::default()
        }
    }
}

/// Checks the word that tells a wish from an earlier one; empty is none.
///
/// # Errors
/// Says what is accepted.
pub fn repeat(word: &str) -> Result<Option<&str>, TaskError> {
    let fits = word.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    match word {
        "" => Ok(None),
        word if fits && word.len() <= REPEAT_MAX => Ok(Some(word)),
        _ => Err(TaskError::new("repeat", format!("expected 1 to {REPEAT_MAX} of a-z, A-Z, 0-9, -, _ and ."))),
    }
}

fn clip(text: &str) -> String {
    text.chars().take(40).collect()
}

/// A member that is a text; `None` where it is missing, null or empty.
fn text(object: &Map<String, Value>, field: &str, max: usize) -> Result<Option<String>, TaskError> {
    match object.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.trim().is_empty() => Ok(None),
        Some(Value::String(text)) if text.len() <= max => Ok(Some(text.clone())),
        Some(Value::String(text)) => {
            Err(TaskError::new(field, format!("has {} bytes: expected at most {max}", text.len())))
        }
        Some(_) => Err(TaskError::new(field, "expected a string")),
    }
}

/// A member that is a number above 0, or a string of its digits.
fn number(object: &Map<String, Value>, field: &str) -> Result<Option<u64>, TaskError> {
    let number = match object.get(field) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Number(number)) => number.as_u64(),
        Some(Value::String(digits)) if digits.trim().bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.trim().parse().ok()
        }
        Some(_) => None,
    };
    let number = number.filter(|number| (1..=i64::MAX as u64).contains(number));
    number.map(Some).ok_or_else(|| TaskError::new(field, "expected a whole number above 0"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: &Value) -> Result<Task, TaskError> {
        Task::read(value.as_object().unwrap(), None)
    }

    fn refused(value: &Value) -> String {
        read(value).unwrap_err().to_string()
    }

    #[test]
    fn the_contracts_messages_are_read_with_numbers_as_strings() {
        // As `refine-pr.yml` sent it.
        let message = json!({
            "repo_url": "https://github.com/octocat/hello.git", "mode": "refine", "pr_number": "7", "comment_id": "99",
            "pr_branch": "ai-agent/issue-3", "pr_title": "Fix", "base_branch": "main", "refine_request": "/refine add a test",
            "comment_url": "https://github.com/octocat/hello/pull/7#issuecomment-99", "trigger_user": "ada", "issue_id": null,
            "sent_by": "workflow",
        });
        let task = read(&message).unwrap();
        assert_eq!((task.mode, task.about.pr_number, task.about.comment_id), (Mode::Refine, Some(7), Some(99)));
        assert_eq!(task.repository, "octocat/hello");
        assert_eq!(task.id(None), "octocat/hello#7/refine/99");
        assert_eq!(task.lane(), "octocat/hello/pr/7");
        assert_eq!(Task::unknown_member(message.as_object().unwrap()), Some("sent_by"));
        // As `test-queue.py` did.
        let task =
            read(&json!({"repo_url": "https://github.com/o/n", "mode": "plan", "issue_id": 3, "trigger_user": "ada"}));
        let task = task.unwrap();
        assert_eq!((task.id(None).as_str(), task.lane().as_str()), ("o/n#3/plan", "o/n/issue/3"));
        assert_eq!(task.id(Some("again")), "o/n#3/plan/again");
        let approval =
            json!({"repo_url": "https://github.com/o/n", "mode": "plan_approval", "issue_id": 3, "trigger_user": "a"});
        assert_eq!(read(&approval).unwrap().mode, Mode::Implement);
    }

    #[test]
    fn what_a_mode_lacks_or_a_field_holds_wrongly_is_refused_by_its_name() {
        let base = json!({"repo_url": "https://github.com/o/n", "mode": "plan", "issue_id": 3, "trigger_user": "ada"});
        let with = |changes: Value| {
            let mut message = base.clone();
            for (name, value) in changes.as_object().unwrap() {
                message[name] = value.clone();
            }
            refused(&message)
        };
        for (changes, begins) in [
            (json!({"repo_url": null}), "repo_url: is missing"),
            (json!({"repo_url": "git@github.com:o/n.git"}), "repo_url: expected"),
            (json!({"repo_url": "https://ada:secret@github.com/o/n"}), "repo_url: holds a user name"),
            (json!({"mode": 7}), "mode: expected a string"),
            (json!({"mode": "dance"}), "mode: `dance` is not known: expected plan"),
            (json!({"trigger_user": ""}), "trigger_user: is missing"),
            (json!({"issue_id": 0}), "issue_id: expected a whole number above 0"),
            (json!({"issue_id": "3x"}), "issue_id: expected a whole number"),
            (json!({"issue_id": 3.5}), "issue_id: expected a whole number"),
            (json!({"issue_id": -3}), "issue_id: expected a whole number"),
            (json!({"issue_id": null}), "issue_id: is missing: mode plan needs it"),
            (json!({"mode": "refine"}), "pr_number: is missing: mode refine needs it"),
            (json!({"mode": "refine", "pr_number": 4}), "refine_request: is missing"),
            (json!({"mode": "implement", "issue_id": null}), "pr_number: is missing"),
            (json!({"base_branch": "-oops"}), "base_branch: expected the name of a branch"),
            (json!({"pr_branch": "a..b"}), "pr_branch: expected the name of a branch"),
            (json!({"comment_kind": "poem"}), "comment_kind: expected issue or review"),
            (json!({"comment_kind": "review"}), "comment_id: is missing"),
            (json!({"refine_request": "x".repeat(REQUEST_MAX + 1)}), "refine_request: has 65537 bytes"),
        ] {
            let said = with(changes.clone());
            assert!(said.starts_with(begins), "{changes}: {said}");
            assert!(!said.contains("secret"), "{said}");
        }
    }

    #[test]
    fn the_event_holds_the_contracts_names_and_nothing_unsaid() {
        let task = read(
            &json!({"repo_url": "https://github.com/o/n/", "mode": "quickfix", "issue_id": "12", "trigger_user": "ada"}),
        );
        let origin = Origin { association: Some("MEMBER".to_owned()), ..Origin::default() };
        let event = task.unwrap().event(&origin, None);
        assert_eq!((event.source.as_str(), event.r#type.as_str()), (TASK_SOURCE, TASK_TYPE));
        assert_eq!((event.id.as_str(), event.subject.as_deref()), ("o/n#12/quickfix", Some("o/n#12")));
        assert_eq!(event.extensions["association"], ExtensionValue::String("MEMBER".to_owned()));
        let data: Value = serde_json::from_slice(&event.data).unwrap();
        let expected = json!({
            "repo_url": "https://github.com/o/n", "repository": "o/n", "mode": "quickfix", "issue_id": 12, "trigger_user": "ada",
        });
        assert_eq!(data, expected);
    }

    #[test]
    fn a_word_for_a_repetition_is_short_and_plain() {
        assert_eq!(repeat("").unwrap(), None);
        assert_eq!(repeat("2026-11-29").unwrap(), Some("2026-11-29"));
        for word in ["a/b", "ä", &"x".repeat(65)] {
            assert!(repeat(word).is_err(), "{word}");
        }
    }
}
