//! What a GitHub payload says of where it comes from, as attributes that the guards of routes look at.

use serde_json::Value;

use super::github_table::{at, text};

/// What stands, hidden, in everything that we write to GitHub.
pub const MARK: &str = "<!-- mindos:";

/// The origin of a delivery.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The head of the pull request is another repository than its base.
    pub fork: bool,
    /// A program caused it.
    pub bot: bool,
    /// What was written carries our mark.
    pub echo: bool,
    /// What the author of what was written is to the repository, in GitHub's word.
    pub association: Option<String>,
}

/// Reads the origin of a delivery from its payload.
pub(super) fn origin(payload: &Value) -> Origin {
    let sender = text(payload, "sender.login").unwrap_or_default();
    let is_bot = text(payload, "sender.type").as_deref() == Some("Bot") || sender.ends_with("[bot]");
    Origin { fork: is_fork(payload), bot: is_bot, echo: is_echo(payload), association: association(payload) }
}

/// Of a pull request, or of any of the pull requests that a check or a run is about.
fn is_fork(payload: &Value) -> bool {
    let differs = |head: Option<&Value>, base: Option<&Value>| match (head, base) {
        (Some(head), Some(base)) => head != base,
        // The fork was deleted.
        (None, Some(_)) => true,
        (_, None) => false,
    };
    if at(payload, "pull_request.base").is_some() {
        return differs(at(payload, "pull_request.head.repo.id"), at(payload, "pull_request.base.repo.id"));
    }
    if let Some(head) = at(payload, "workflow_run.head_repository.id") {
        return differs(Some(head), at(payload, "workflow_run.repository.id").or_else(|| at(payload, "repository.id")));
    }
    ["check_run.pull_requests", "check_suite.pull_requests"].iter().any(|path| {
        let listed = at(payload, path).and_then(Value::as_array);
        let is_fork = |pull: &Value| differs(at(pull, "head.repo.id"), at(pull, "base.repo.id"));
        listed.is_some_and(|listed| listed.iter().any(is_fork))
    })
}

/// The newest thing that was written decides: a comment before what it stands under.
const WRITTEN: [&str; 4] = ["comment", "review", "pull_request", "issue"];

fn is_echo(payload: &Value) -> bool {
    let newest = WRITTEN.iter().find(|part| at(payload, part).is_some());
    newest.is_some_and(|part| text(payload, &format!("{part}.body")).is_some_and(|body| body.contains(MARK)))
}

fn association(payload: &Value) -> Option<String> {
    let is_word =
        |word: &String| (1..=32).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
    WRITTEN.iter().find_map(|part| text(payload, &format!("{part}.author_association"))).filter(is_word)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pull_request_from_elsewhere_is_a_fork() {
        let pull =
            |head: Value| json!({ "pull_request": { "head": { "repo": head }, "base": { "repo": { "id": 1 } } } });
        assert!(!origin(&pull(json!({ "id": 1 }))).fork);
        assert!(origin(&pull(json!({ "id": 2 }))).fork);
        assert!(origin(&pull(Value::Null)).fork, "the fork was deleted");
        assert!(!origin(&json!({ "ref": "refs/heads/main" })).fork);
    }

    #[test]
    fn bots_and_echoes_are_known_by_what_they_say() {
        assert!(origin(&json!({ "sender": { "login": "dependabot[bot]", "type": "Bot" } })).bot);
        assert!(!origin(&json!({ "sender": { "login": "ada", "type": "User" } })).bot);
        let ours = json!({ "body": "Looks good.\n<!-- mindos: effect=17 -->", "author_association": "MEMBER" });
        let theirs = json!({ "body": "thanks", "author_association": "NONE" });
        assert!(origin(&json!({ "comment": ours, "issue": theirs })).echo);
        let answered = origin(&json!({ "comment": theirs, "issue": ours }));
        assert_eq!((answered.echo, answered.association.as_deref()), (false, Some("NONE")));
    }
}
