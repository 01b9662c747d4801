//! One sentence on any event, for the head of every report.

use serde_json::Value;

use crate::Event;
use crate::event::Topic;
use crate::text::{clipped, count, quoted};

const TITLE_MAX: usize = 100;
const NAME_MAX: usize = 80;

/// What happened, where and by whom, as far as the event says.
pub(crate) fn of(event: &Event) -> String {
    let action = clipped(event.action().unwrap_or("seen"), NAME_MAX).replace('_', " ");
    let number = event.subject_number().map(|number| format!(" #{number}")).unwrap_or_default();
    let title = event.title().map(|title| format!(" {}", quoted(title, TITLE_MAX))).unwrap_or_default();
    let name = |path: &str| event.text(path).map(|text| clipped(text, NAME_MAX));
    let what = match event.topic() {
        Topic::PullRequest => format!("pull request{number}{title}: {}{}.", pull_action(event, &action), shape(event)),
        Topic::Review => {
            let state = name("review.state").unwrap_or_else(|| "unknown".to_owned());
            format!("review of pull request{number}{title}: {action}, state {state}.")
        }
        Topic::ReviewComment => {
            let path = name("comment.path").map(|path| format!(" on {path}")).unwrap_or_default();
            format!("review comment{path} in pull request{number}{title}: {action}.")
        }
        Topic::IssueComment => format!("comment on {}{number}{title}: {action}.", issue_word(event)),
        Topic::Issue => {
            let label = name("label.name").map(|label| format!(" {}", quoted(&label, NAME_MAX))).unwrap_or_default();
            format!("{}{number}{title}: {action}{label}.", issue_word(event))
        }
        Topic::CheckRun | Topic::WorkflowRun => {
            let (word, member) = match event.topic() {
                Topic::CheckRun => ("check run", "check_run"),
                _ => ("workflow run", "workflow_run"),
            };
            let run =
                name(&format!("{member}.name")).map(|it| format!(" {}", quoted(&it, NAME_MAX))).unwrap_or_default();
            let conclusion = name(&format!("{member}.conclusion")).unwrap_or_else(|| "not concluded".to_owned());
            format!("{word}{run}: {action}, {conclusion}.")
        }
        Topic::Release => {
            let tag = name("release.tag_name").unwrap_or_default();
            format!("release {tag}{title}: {action}.")
        }
        Topic::Deployment => {
            let state = name("deployment_status.state").unwrap_or_else(|| "no status yet".to_owned());
            let place = name("deployment.environment").unwrap_or_else(|| "an unnamed environment".to_owned());
            let from = name("deployment.ref").map(|from| format!(" of {from}")).unwrap_or_default();
            format!("deployment{from} to {place}: {state}.")
        }
        Topic::Push => push(event),
        Topic::Installation => {
            let account = name("installation.account.login").unwrap_or_else(|| "an unnamed account".to_owned());
            let repositories = u64::try_from(event.list("repositories").len()).unwrap_or(u64::MAX);
            format!("app installation on {account}: {action}, {} listed.", count(repositories, "repository"))
        }
        Topic::Ping => format!("ping of webhook {}.", event.number("hook_id").unwrap_or_default()),
        Topic::Plain => {
            let branch = event.head().map(|head| format!(" on branch {}", clipped(head, NAME_MAX))).unwrap_or_default();
            let what = if number.is_empty() { String::new() } else { format!(", pull request{number}") };
            format!("{}{what}{title}{branch}.", clipped(&event.event_type, NAME_MAX))
        }
        Topic::Other => other(event),
    };
    let place = event.repository().map(|it| format!(" In {}", clipped(it, NAME_MAX)));
    let actor = event.actor().map(|it| format!("by {}", clipped(it, NAME_MAX)));
    match (place, actor) {
        (Some(place), Some(actor)) => format!("{what}{place}, {actor}."),
        (Some(place), None) => format!("{what}{place}."),
        (None, Some(actor)) => format!("{what} B{}.", &actor[1..]),
        (None, None) => what,
    }
}

fn issue_word(event: &Event) -> &'static str {
    if event.at("issue.pull_request").is_some() { "pull request" } else { "issue" }
}

fn pull_action(event: &Event, action: &str) -> String {
    match (action, event.flag("pull_request.merged")) {
        ("closed", Some(true)) => "merged".to_owned(),
        ("closed", Some(false)) => "closed without merging".to_owned(),
        ("synchronize", _) => "new commits".to_owned(),
        _ => action.to_owned(),
    }
}

fn shape(event: &Event) -> String {
    let mut shape = String::new();
    if let (Some(head), Some(base)) = (event.text("pull_request.head.ref"), event.text("pull_request.base.ref")) {
        shape.push_str(&format!(", {} into {}", clipped(head, NAME_MAX), clipped(base, NAME_MAX)));
    }
    if let (Some(files), Some(added), Some(removed)) = (
        event.number("pull_request.changed_files"),
        event.number("pull_request.additions"),
        event.number("pull_request.deletions"),
    ) {
        shape.push_str(&format!(", {}, +{added} -{removed}", count(files, "file")));
    }
    shape
}

fn push(event: &Event) -> String {
    let name = clipped(event.text("ref").unwrap_or("an unnamed ref"), NAME_MAX);
    let flag = |path: &str| event.flag(path) == Some(true);
    let commits = count(u64::try_from(event.commits().len()).unwrap_or(u64::MAX), "commit");
    if flag("deleted") {
        format!("push: {name} deleted.")
    } else if flag("created") {
        format!("push: {name} created with {commits}.")
    } else if flag("forced") {
        format!("forced push to {name} with {commits}.")
    } else {
        format!("push to {name} with {commits}.")
    }
}

fn other(event: &Event) -> String {
    let kind = clipped(&event.event_type, NAME_MAX);
    match &event.data {
        Value::Object(members) => {
            let names: Vec<String> = members.keys().take(8).map(|key| clipped(key, 30)).collect();
            let more = if members.len() > 8 { ", …" } else { "" };
            let listed = if names.is_empty() { String::new() } else { format!(" ({}{more})", names.join(", ")) };
            format!("{kind} with {}{listed}.", count(members.len() as u64, "member"))
        }
        Value::Array(items) => format!("{kind} with a list of {}.", count(items.len() as u64, "item")),
        Value::String(text) => format!("{kind} with a text of {}.", count(text.chars().count() as u64, "letter")),
        Value::Null => format!("{kind} without data."),
        Value::Bool(_) | Value::Number(_) => format!("{kind} with a single value."),
    }
}
