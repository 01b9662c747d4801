//! What a task wants done outside, as intents of the plane, in the contract's order.
//!
//! Invariant: keys are `<mode>:<repo>#<n>:<what>[:<comment>]`, so the same task twice is one effect each; the same asked for anew by a
//! comment is another.

use serde_json::{Value, json};

use super::task::{Mode, Task};
use super::texts::{self, AUTHOR};
use crate::intent::Intent;

/// What a pull request is made from.
pub(super) struct Request<'a> {
    pub(super) title: &'a str,
    pub(super) body: &'a str,
    pub(super) draft: bool,
}

/// The files of a commit: as they are, or by the name of a blob that lists them.
pub(super) enum Files {
    None,
    Listed(Value),
    Blob(String),
}

/// Makes the intents of one task.
pub(super) struct Wishes<'a> {
    pub(super) task: &'a Task,
    /// The branch that all starts from, and its commit.
    pub(super) base: &'a str,
    pub(super) base_commit: &'a str,
}

impl Wishes<'_> {
    fn intent(&self, kind: &'static str, what: &str, target: String, parameters: Value) -> Intent {
        let Task { mode, repository, comment, .. } = self.task;
        let comment = comment.map(|id| format!(":{id}")).unwrap_or_default();
        let key = format!("{}:{repository}#{}:{what}{comment}", mode.as_str(), self.task.number());
        Intent { key: Some(key), ..Intent::new(kind, target, parameters) }
    }

    fn at(&self, number: impl std::fmt::Display) -> String {
        format!("{}#{number}", self.task.repository)
    }

    /// A branch made anew, with one commit: an empty one for a plan.
    pub(super) fn new_branch(&self, branch: &str, message: &str, files: Files) -> Intent {
        self.branch(branch, self.base, message, files, "new")
    }

    /// A commit on top of a branch that is there.
    pub(super) fn commit(&self, branch: &str, message: &str, files: Files) -> Intent {
        self.branch(branch, branch, message, files, "existing")
    }

    fn branch(&self, branch: &str, base: &str, message: &str, files: Files, onto: &str) -> Intent {
        let (name, email) = AUTHOR;
        let mut parameters = json!({
            "branch": branch,
            "base": base,
            "base_commit": self.base_commit,
            "message": message,
            "author": {"name": name, "email": email},
            "onto": onto,
        });
        match files {
            Files::None => {
                parameters["files"] = json!([]);
                parameters["allow_empty"] = json!(true);
            }
            Files::Listed(files) => parameters["files"] = files,
            Files::Blob(reference) => parameters["files_ref"] = json!(reference),
        }
        self.intent("branch", "branch", self.task.repository.clone(), parameters)
    }

    pub(super) fn pull_request(&self, head: &str, request: &Request<'_>) -> Intent {
        let Request { title, body, draft } = request;
        let parameters = json!({"head": head, "base": self.base, "title": title, "body": body, "draft": draft});
        self.intent("pull_request", "pull_request", self.task.repository.clone(), parameters)
    }

    /// A comment on a number; one per `name`, edited in place.
    pub(super) fn comment(&self, number: u64, name: &str, body: &str) -> Intent {
        self.intent("comment", "comment", self.at(number), json!({"body": body, "name": name}))
    }

    pub(super) fn labels(&self, number: impl std::fmt::Display, add: &[&str], remove: &[&str]) -> Intent {
        self.intent("labels", "labels", self.at(number), json!({"add": add, "remove": remove}))
    }

    pub(super) fn reaction(&self, number: u64, comment: u64, content: &str) -> Intent {
        let kind = if self.task.on_line { "review" } else { "issue" };
        let parameters = json!({"content": content, "comment_id": comment, "comment_kind": kind});
        self.intent("reaction", "reaction", self.at(number), parameters)
    }

    /// Plan mode: branch, draft, comment, labels.
    pub(super) fn plan(&self, issue: u64, title: &str, body: &str, comment: &str) -> Vec<Intent> {
        let branch = texts::branch(Mode::Plan, issue);
        let message = texts::commit(&format!("Plan for issue #{issue}"), "");
        vec![
            self.new_branch(&branch, &message, Files::None),
            self.pull_request(&branch, &Request { title, body, draft: true }),
            self.comment(issue, "coding-plan", comment),
            self.labels("${effects.1.number}", &["ai-agent", "plan-pending"], &[]),
        ]
    }

    /// A quick fix: branch with its commit, pull request, comment, labels.
    pub(super) fn quickfix(&self, issue: u64, title: &str, message: &str, files: Files, body: &str) -> Vec<Intent> {
        let branch = texts::branch(Mode::Quickfix, issue);
        vec![
            self.new_branch(&branch, message, files),
            self.pull_request(&branch, &Request { title, body, draft: false }),
            self.comment(issue, "coding-quickfix", texts::QUICKFIX_COMMENT),
            self.labels("${effects.1.number}", &["ai-agent", "quickfix"], &[]),
        ]
    }

    /// An implemented plan: commit on its branch, labels, comment.
    pub(super) fn implement(&self, pull: u64, branch: &str, message: &str, files: Files, comment: &str) -> Vec<Intent> {
        vec![
            self.commit(branch, message, files),
            self.labels(pull, &["ai-agent", "implemented"], &["plan-pending"]),
            self.comment(pull, "coding-result", comment),
        ]
    }

    /// A refinement: commit on the branch, `rocket` on what asked for it, what came of it.
    pub(super) fn refine(
        &self,
        pull: u64,
        asked: u64,
        branch: &str,
        message: &str,
        files: Files,
        comment: &str,
    ) -> Vec<Intent> {
        vec![
            self.commit(branch, message, files),
            self.reaction(pull, asked, "rocket"),
            self.comment(pull, "coding-result", comment),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(mode: Mode, comment: Option<u64>) -> Task {
        Task {
            mode,
            repository: "o/r".into(),
            issue: Some(7),
            pull: Some(8),
            branch: None,
            comment,
            on_line: false,
            request: String::new(),
            by: "u".into(),
        }
    }

    #[test]
    fn a_plan_wants_the_contracts_effects_in_its_order() {
        let task = task(Mode::Plan, None);
        let wishes = Wishes { task: &task, base: "trunk", base_commit: "0123" };
        let intents = wishes.plan(7, "[AI Agent] Fix issue #7: t", "body", "see ${effects.1.url}");
        let kinds: Vec<_> = intents.iter().map(|intent| (intent.kind, intent.target.as_str())).collect();
        assert_eq!(
            kinds,
            [("branch", "o/r"), ("pull_request", "o/r"), ("comment", "o/r#7"), ("labels", "o/r#${effects.1.number}")]
        );
        let keys: Vec<_> = intents.iter().map(|intent| intent.key.as_deref().unwrap()).collect();
        assert_eq!(keys, ["plan:o/r#7:branch", "plan:o/r#7:pull_request", "plan:o/r#7:comment", "plan:o/r#7:labels"]);
        let branch = &intents[0].parameters;
        assert_eq!(
            (branch["branch"].as_str(), branch["allow_empty"].as_bool(), branch["onto"].as_str()),
            (Some("ai-agent/issue-7"), Some(true), Some("new"))
        );
        assert_eq!(branch["author"], json!({"name": "AI Coding Agent", "email": "ai-agent@example.com"}));
        assert_eq!(
            intents[1].parameters,
            json!({"head": "ai-agent/issue-7", "base": "trunk", "title": "[AI Agent] Fix issue #7: t", "body": "body", "draft": true})
        );
        assert_eq!(intents[3].parameters, json!({"add": ["ai-agent", "plan-pending"], "remove": []}));
    }

    #[test]
    fn what_is_asked_for_anew_has_keys_of_its_own() {
        let first = task(Mode::Refine, Some(99));
        let wishes = Wishes { task: &first, base: "main", base_commit: "0" };
        let intents = wishes.refine(8, 99, "b", "m", Files::Blob("blob:sha256:x".into()), "done");
        let keys: Vec<_> = intents.iter().map(|intent| intent.key.as_deref().unwrap()).collect();
        assert_eq!(keys, ["refine:o/r#8:branch:99", "refine:o/r#8:reaction:99", "refine:o/r#8:comment:99"]);
        assert_eq!(intents[0].parameters["files_ref"], "blob:sha256:x");
        assert!(intents[0].parameters.get("files").is_none());
        assert_eq!(intents[1].parameters, json!({"content": "rocket", "comment_id": 99, "comment_kind": "issue"}));
    }
}
