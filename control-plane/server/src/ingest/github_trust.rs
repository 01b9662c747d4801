//! What a GitHub payload says of where it comes from, as attributes that the guards of routes look at.

use std::collections::BTreeSet;

use serde_json::Value;

use super::github_table::{at, text};

/// What stands, hidden, in everything that we write to GitHub.
pub const MARK: &str = "<!-- mindos:";

/// Logins under which we write to GitHub, as far as they are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Logins(BTreeSet<String>);

impl Logins {
    /// Whether none is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a login is one of ours. An App writes as `name[bot]` and is called `name`.
    #[must_use]
    pub fn has(&self, login: &str) -> bool {
        self.0.contains(&plain(login))
    }
}

impl<T: AsRef<str>> FromIterator<T> for Logins {
    fn from_iter<I: IntoIterator<Item = T>>(logins: I) -> Logins {
        Logins(logins.into_iter().map(|login| plain(login.as_ref())).collect())
    }
}

fn plain(login: &str) -> String {
    let lower = login.trim().to_ascii_lowercase();
    lower.strip_suffix("[bot]").unwrap_or(&lower).to_owned()
}

/// The origin of a delivery.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The head of the pull request is another repository than its base.
    pub fork: bool,
    /// A program caused it.
    pub bot: bool,
    /// What was written carries our mark, and is of our own author where that is known: a person who quotes us is not us.
    pub echo: bool,
    /// What the author of what was written is to the repository, in GitHub's word.
    pub association: Option<String>,
}

/// Reads the origin of a delivery from its payload.
pub(crate) fn origin(payload: &Value, own: &Logins) -> Origin {
    let sender = text(payload, "sender.login").unwrap_or_default();
    let is_bot = text(payload, "sender.type").as_deref() == Some("Bot") || sender.ends_with("[bot]");
    Origin { fork: is_fork(payload), bot: is_bot, echo: is_echo(payload, own), association: association(payload) }
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

fn is_echo(payload: &Value, own: &Logins) -> bool {
    let Some(part) = WRITTEN.iter().find(|part| at(payload, part).is_some()) else { return false };
    let is_marked = text(payload, &format!("{part}.body")).is_some_and(|body| body.contains(MARK));
    // Where nobody has said who we are, the mark has to do.
    let is_ours =
        || own.is_empty() || text(payload, &format!("{part}.user.login")).is_some_and(|login| own.has(&login));
    is_marked && is_ours()
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
        let origin = |payload: &Value| origin(payload, &Logins::default());
        assert!(!origin(&pull(json!({ "id": 1 }))).fork);
        assert!(origin(&pull(json!({ "id": 2 }))).fork);
        assert!(origin(&pull(Value::Null)).fork, "the fork was deleted");
        assert!(!origin(&json!({ "ref": "refs/heads/main" })).fork);
    }

    #[test]
    fn bots_and_echoes_are_known_by_what_they_say() {
        let origin = |payload: &Value| origin(payload, &Logins::default());
        assert!(origin(&json!({ "sender": { "login": "dependabot[bot]", "type": "Bot" } })).bot);
        assert!(!origin(&json!({ "sender": { "login": "ada", "type": "User" } })).bot);
        let ours = json!({ "body": "Looks good.\n<!-- mindos: effect=17 -->", "author_association": "MEMBER" });
        let theirs = json!({ "body": "thanks", "author_association": "NONE" });
        assert!(origin(&json!({ "comment": ours, "issue": theirs })).echo);
        let answered = origin(&json!({ "comment": theirs, "issue": ours }));
        assert_eq!((answered.echo, answered.association.as_deref()), (false, Some("NONE")));
    }

    #[test]
    fn who_quotes_our_mark_is_not_us_where_it_is_known_who_we_are() {
        let own: Logins = ["Mindos"].into_iter().collect();
        let by =
            |login: &str| json!({ "comment": { "body": "> <!-- mindos:general=x -->", "user": { "login": login } } });
        assert!(origin(&by("mindos[bot]"), &own).echo && origin(&by("MindOS"), &own).echo);
        assert!(!origin(&by("ada"), &own).echo, "a person quotes");
        assert!(origin(&by("ada"), &Logins::default()).echo, "nobody said who we are");
        assert!(!origin(&json!({ "comment": { "body": MARK } }), &own).echo, "nobody wrote it");
    }
}
