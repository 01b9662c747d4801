//! A task: what somebody asked for, as the contract's message or the plane's event carries it.
//!
//! Invariant: a task that exists holds all that its mode needs, each number above 0, and names of branches that git takes as names.

use serde_json::Value;

pub use mindos_model::TaskMode as Mode;

/// One task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    pub mode: Mode,
    /// `owner/repo`.
    pub repository: String,
    pub issue: Option<u64>,
    pub pull: Option<u64>,
    /// The branch of the pull request, where who asks knows it.
    pub branch: Option<String>,
    pub comment: Option<u64>,
    /// Whether the comment is one on a line of a review.
    pub on_line: bool,
    /// What is asked for; foreign text.
    pub request: String,
    /// Who asked.
    pub by: String,
}

/// Why a message is no task.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TaskError {
    #[error("the task is not an object: expected the members repo_url, mode, trigger_user and those of the mode")]
    NoObject,
    #[error("`{field}` is missing: mode {mode} needs {accepted}")]
    Missing { field: &'static str, mode: &'static str, accepted: &'static str },
    #[error("`{field}` is `{got}`: expected {accepted}")]
    Wrong { field: &'static str, got: String, accepted: &'static str },
}

const MODES: &str = "plan, quickfix, implement (or plan_approval) or refine";
const NUMBER: &str = "a whole number above 0";
const REPOSITORY: &str = "owner/repo";
const BRANCH: &str = "the name of a branch";
/// Longest request, in bytes: longer than a comment can be.
const REQUEST_MAX: usize = 70_000;

impl Task {
    /// Reads a task. Numbers may be written as strings.
    ///
    /// # Errors
    /// Names the member that is missing or wrong, and what is accepted.
    pub fn read(data: &Value) -> Result<Task, TaskError> {
        if !data.is_object() {
            return Err(TaskError::NoObject);
        }
        let Some(mode) = text(data, "mode")? else {
            return Err(TaskError::Missing { field: "mode", mode: "unknown", accepted: MODES });
        };
        let mode = Mode::read(&mode).ok_or_else(|| wrong("mode", &mode, MODES))?;
        let task = Task {
            mode,
            repository: repository(data, mode)?,
            issue: number(data, "issue_id")?,
            pull: number(data, "pr_number")?,
            branch: text(data, "pr_branch")?,
            comment: number(data, "comment_id")?,
            on_line: text(data, "comment_kind")?.as_deref() == Some("review"),
            request: text(data, "refine_request")?.unwrap_or_default(),
            by: text(data, "trigger_user")?.unwrap_or_default(),
        };
        task.complete()
    }

    fn complete(self) -> Result<Task, TaskError> {
        let missing = |field, accepted| Err(TaskError::Missing { field, mode: self.mode.as_str(), accepted });
        if self.by.is_empty() {
            return missing("trigger_user", "who asked");
        }
        match self.mode {
            Mode::Plan | Mode::Quickfix if self.issue.is_none() => return missing("issue_id", NUMBER),
            Mode::Implement if self.pull.is_none() && self.issue.is_none() => return missing("pr_number", NUMBER),
            Mode::Refine if self.pull.is_none() => return missing("pr_number", NUMBER),
            Mode::Refine if self.comment.is_none() => return missing("comment_id", NUMBER),
            Mode::Refine if self.request.is_empty() => return missing("refine_request", "what is to be changed"),
            Mode::Plan | Mode::Quickfix | Mode::Implement | Mode::Refine => {}
        }
        if let Some(branch) = self.branch.as_deref().filter(|branch| !is_branch(branch)) {
            return Err(wrong("pr_branch", branch, BRANCH));
        }
        if self.request.len() > REQUEST_MAX {
            return Err(wrong("refine_request", &self.request, "at most 70000 bytes"));
        }
        Ok(self)
    }

    /// The number that the task is known by: the issue's, or the pull request's where that is changed.
    #[must_use]
    pub fn number(&self) -> u64 {
        let (first, second) = match self.mode {
            Mode::Plan | Mode::Quickfix => (self.issue, self.pull),
            Mode::Implement | Mode::Refine => (self.pull, self.issue),
        };
        first.or(second).unwrap_or_default()
    }
}

/// A text that is not empty; null and blank count as missing.
fn text(data: &Value, field: &'static str) -> Result<Option<String>, TaskError> {
    match data.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty())),
        Some(other) => Err(wrong(field, &other.to_string(), "a text")),
    }
}

fn number(data: &Value, field: &'static str) -> Result<Option<u64>, TaskError> {
    let (found, shown) = match data.get(field) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) if text.trim().is_empty() => return Ok(None),
        Some(Value::String(text)) => (text.trim().parse().ok(), text.clone()),
        Some(other) => (other.as_u64(), other.to_string()),
    };
    found.filter(|number| *number > 0).map(Some).ok_or_else(|| wrong(field, &shown, NUMBER))
}

fn repository(data: &Value, mode: Mode) -> Result<String, TaskError> {
    if let Some(name) = text(data, "repository")? {
        return if is_repository(&name) { Ok(name) } else { Err(wrong("repository", &name, REPOSITORY)) };
    }
    const ADDRESS: &str = "an http or https address of a repository";
    let Some(address) = text(data, "repo_url")? else {
        return Err(TaskError::Missing { field: "repo_url", mode: mode.as_str(), accepted: ADDRESS });
    };
    let path = address.strip_prefix("https://").or_else(|| address.strip_prefix("http://"));
    let mut parts = path.unwrap_or_default().trim_end_matches('/').split('/').skip(1);
    let name = match (parts.next(), parts.next(), parts.next()) {
        (Some(owner), Some(name), None) => format!("{owner}/{}", name.strip_suffix(".git").unwrap_or(name)),
        _ => String::new(),
    };
    // What stands before the path may hold a password.
    if is_repository(&name) { Ok(name) } else { Err(wrong("repo_url", "(not shown)", ADDRESS)) }
}

fn is_repository(name: &str) -> bool {
    let fits = |part: &str| {
        (1..=100).contains(&part.len())
            && !part.starts_with('.')
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
    };
    name.split_once('/').is_some_and(|(owner, name)| fits(owner) && fits(name))
}

/// Whether git takes it as the name of a branch, and no program as an option.
#[must_use]
pub fn is_branch(name: &str) -> bool {
    let bad = |letter: char| letter.is_control() || letter.is_whitespace() || "~^:?*[\\".contains(letter);
    (1..=250).contains(&name.len())
        && !name.starts_with(['-', '/'])
        && !name.ends_with(['/', '.'])
        && !name.contains("..")
        && !name.contains("//")
        && !name.contains("@{")
        && name != "@"
        && !name.chars().any(bad)
        && name.split('/').all(|part| !part.starts_with('.') && !part.ends_with(".lock"))
}

fn wrong(field: &'static str, got: &str, accepted: &'static str) -> TaskError {
    TaskError::Wrong { field, got: crate::text::clipped(got, 60), accepted }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_contracts_messages_are_read() {
        let plan = Task::read(
            &json!({"repo_url": "https://github.com/o/r.git", "mode": "plan", "trigger_user": "u", "issue_id": 7}),
        );
        let plan = plan.unwrap();
        assert_eq!((plan.mode, plan.repository.as_str(), plan.number()), (Mode::Plan, "o/r", 7));
        // The workflow of the contract sends numbers as strings.
        let refine = Task::read(&json!({
            "repo_url": "http://127.0.0.1:80/o/r", "mode": "refine", "trigger_user": "u", "issue_id": null, "pr_number": "8",
            "pr_branch": "ai-agent/issue-7", "comment_id": "9", "refine_request": " shorter ", "comment_kind": "review"
        }));
        let refine = refine.unwrap();
        assert_eq!(
            (refine.number(), refine.comment, refine.request.as_str(), refine.on_line),
            (8, Some(9), "shorter", true)
        );
        let approval =
            json!({"repository": "o/r", "mode": "plan_approval", "trigger_user": "u", "issue_id": 7, "pr_number": 8});
        assert_eq!(Task::read(&approval).unwrap().mode, Mode::Implement);
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let base = json!({
            "repository": "o/r", "mode": "refine", "trigger_user": "u", "pr_number": 8, "pr_branch": "b", "comment_id": 9, "refine_request": "x"
        });
        for field in ["mode", "trigger_user", "pr_number", "comment_id", "refine_request"] {
            let mut data = base.clone();
            data.as_object_mut().unwrap().remove(field);
            let error = Task::read(&data).unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{field}` is missing")), "{error}");
        }
        for (field, value) in [
            ("mode", json!("delete")),
            ("pr_number", json!(0)),
            ("pr_number", json!("-1")),
            ("comment_id", json!(1.5)),
            ("repository", json!("../x")),
            ("repository", json!("o/r/x")),
            ("pr_branch", json!("--upload-pack=x")),
            ("pr_branch", json!("a..b")),
            ("trigger_user", json!(["u"])),
        ] {
            let mut data = base.clone();
            data[field] = value;
            let error = Task::read(&data).unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{field}` is `")), "{error}");
        }
        let secret =
            json!({"repo_url": "ftp://user:hunter2@h/o/r", "mode": "plan", "trigger_user": "u", "issue_id": 7});
        assert!(!Task::read(&secret).unwrap_err().to_string().contains("hunter2"));
        assert_eq!(Task::read(&json!([])), Err(TaskError::NoObject));
    }

    #[test]
    fn branches_are_names_and_no_options() {
        for name in ["main", "ai-agent/issue-7", "a.b", "ü/x"] {
            assert!(is_branch(name), "{name}");
        }
        for name in [
            "", "-x", "a b", "a..b", "a/", "/a", "a//b", "a.lock", ".a", "a/.b", "a~1", "a:b", "@", "a@{1}", "a\n",
            "a\\b",
        ] {
            assert!(!is_branch(name), "{name}");
        }
    }
}
