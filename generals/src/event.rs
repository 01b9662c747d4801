//! An event as a general sees it, and what can be read from it. GitHub's payloads and the aggregator's plain events are
//! told apart by their members, so that it does not matter which name they came under.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use mindos_model::Timestamp;
use serde_json::Value;

/// One event, decoded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Event {
    /// What it was called on arrival: the contract's word or the CloudEvents type. Never empty.
    pub event_type: String,
    /// The caller's name for this piece of work, repeated in the report.
    pub job_id: Option<String>,
    /// The CloudEvents attributes, as far as they came.
    pub id: Option<String>,
    pub source: Option<String>,
    pub subject: Option<String>,
    pub time: Option<Timestamp>,
    /// Extension attributes that came as headers or members.
    pub extensions: BTreeMap<String, String>,
    /// The payload.
    pub data: Value,
}

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Topic {
    PullRequest,
    Review,
    ReviewComment,
    IssueComment,
    Issue,
    Push,
    CheckRun,
    WorkflowRun,
    Release,
    Deployment,
    Installation,
    Ping,
    /// The aggregator's own shape: `type`, `repository`, `user`, `metadata`.
    Plain,
    Other,
}

/// A file that a push touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Touch<'a> {
    pub(crate) path: &'a str,
    pub(crate) how: &'static str,
}

/// Most commits and files looked at; GitHub lists at most 2048 commits in a push.
const COMMITS_MAX: usize = 2048;
const FILES_MAX: usize = 50_000;

impl Event {
    pub(crate) fn topic(&self) -> Topic {
        let has = |name: &str| self.data.get(name).is_some_and(Value::is_object);
        if has("pull_request") && has("review") {
            Topic::Review
        } else if has("pull_request") && has("comment") {
            Topic::ReviewComment
        } else if has("pull_request") {
            Topic::PullRequest
        } else if has("issue") && has("comment") {
            Topic::IssueComment
        } else if has("issue") {
            Topic::Issue
        } else if has("check_run") {
            Topic::CheckRun
        } else if has("workflow_run") {
            Topic::WorkflowRun
        } else if has("release") {
            Topic::Release
        } else if has("deployment") {
            Topic::Deployment
        } else if self.data.get("commits").is_some_and(Value::is_array) && self.text("ref").is_some() {
            Topic::Push
        } else if has("hook") && self.data.get("zen").is_some() {
            Topic::Ping
        } else if has("metadata") {
            Topic::Plain
        } else if has("installation") && !has("repository") {
            Topic::Installation
        } else {
            Topic::Other
        }
    }

    /// The value at a dotted path; `None` where it is missing or null.
    pub(crate) fn at(&self, path: &str) -> Option<&Value> {
        path.split('.').try_fold(&self.data, |value, key| value.get(key)).filter(|value| !value.is_null())
    }

    /// A text that is not empty.
    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        self.at(path)?.as_str().filter(|text| !text.trim().is_empty())
    }

    pub(crate) fn number(&self, path: &str) -> Option<u64> {
        self.at(path)?.as_u64()
    }

    pub(crate) fn flag(&self, path: &str) -> Option<bool> {
        self.at(path)?.as_bool()
    }

    pub(crate) fn time_at(&self, path: &str) -> Option<Timestamp> {
        match self.at(path)? {
            Value::String(text) => Timestamp::from_str(text).ok(),
            Value::Number(seconds) => seconds.as_u64().map(|seconds| Timestamp(seconds.saturating_mul(1000))),
            _ => None,
        }
    }

    /// Seconds from one time to a later one; `None` where either is missing or they stand the other way round.
    pub(crate) fn between(&self, from: &str, to: &str) -> Option<u64> {
        let (from, to) = (self.time_at(from)?, self.time_at(to)?);
        (from <= to).then(|| to.since(from).as_secs())
    }

    pub(crate) fn list(&self, path: &str) -> &[Value] {
        self.at(path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn action(&self) -> Option<&str> {
        self.text("action")
    }

    pub(crate) fn repository(&self) -> Option<&str> {
        let extension = self.extensions.get("repository").map(String::as_str);
        self.text("repository.full_name").or_else(|| self.text("repository")).or(extension)
    }

    pub(crate) fn actor(&self) -> Option<&str> {
        let extension = self.extensions.get("actor").map(String::as_str);
        self.text("sender.login").or_else(|| self.text("pusher.name")).or_else(|| self.text("user")).or(extension)
    }

    /// The title of what it is about.
    pub(crate) fn title(&self) -> Option<&str> {
        ["pull_request.title", "issue.title", "release.name", "metadata.title"].iter().find_map(|path| self.text(path))
    }

    /// The description of what it is about.
    pub(crate) fn description(&self) -> Option<&str> {
        ["pull_request.body", "issue.body", "release.body", "metadata.description"]
            .iter()
            .find_map(|path| self.text(path))
    }

    /// Whether it is about a change that somebody proposes, in either shape.
    pub(crate) fn is_change(&self) -> bool {
        matches!(self.topic(), Topic::PullRequest | Topic::Review | Topic::ReviewComment)
            || (self.topic() == Topic::Plain && self.at("metadata.pr_number").is_some())
    }

    /// The branch a change comes from.
    pub(crate) fn head(&self) -> Option<&str> {
        ["pull_request.head.ref", "metadata.branch"].iter().find_map(|path| self.text(path))
    }

    /// The number of the pull request or issue.
    pub(crate) fn subject_number(&self) -> Option<u64> {
        ["pull_request.number", "issue.number", "metadata.pr_number"].iter().find_map(|path| self.number(path))
    }

    /// The names of the labels it carries.
    pub(crate) fn labels(&self) -> Vec<&str> {
        let carried = self.list("pull_request.labels").iter().chain(self.list("issue.labels"));
        carried.filter_map(|label| label.get("name")?.as_str()).take(100).collect()
    }

    pub(crate) fn commits(&self) -> &[Value] {
        let commits = self.list("commits");
        &commits[..commits.len().min(COMMITS_MAX)]
    }

    /// The files that the commits of a push touched, each once for each way it was touched, in order of their names.
    pub(crate) fn files(&self) -> Vec<Touch<'_>> {
        let mut files = BTreeSet::new();
        for commit in self.commits() {
            for how in ["added", "modified", "removed"] {
                let paths = commit.get(how).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
                files.extend(paths.iter().filter_map(Value::as_str).take(FILES_MAX).map(|path| Touch { path, how }));
                if files.len() >= FILES_MAX {
                    return files.into_iter().collect();
                }
            }
        }
        files.into_iter().collect()
    }

    /// Every text a person wrote, with the place it stands in.
    pub(crate) fn writings(&self) -> Vec<(&'static str, &str)> {
        const PLACES: [(&str, &str); 13] = [
            ("title", "pull_request.title"),
            ("description", "pull_request.body"),
            ("branch name", "pull_request.head.ref"),
            ("title", "issue.title"),
            ("description", "issue.body"),
            ("comment", "comment.body"),
            ("review", "review.body"),
            ("release name", "release.name"),
            ("release notes", "release.body"),
            ("title", "metadata.title"),
            ("description", "metadata.description"),
            ("check summary", "check_run.output.summary"),
            ("check text", "check_run.output.text"),
        ];
        let messages = self.commits().iter().filter_map(|commit| commit.get("message")?.as_str());
        let mut writings: Vec<_> = PLACES.iter().filter_map(|(place, path)| Some((*place, self.text(path)?))).collect();
        writings.extend(messages.map(|message| ("commit message", message)));
        writings
    }
}
