//! A review: line comments on what the change shows, new ones only. Never a verdict but "comment".

use mindos_model::limits;
use serde_json::{Value, json};

use super::item::{Item, headline, word};
use super::{Shown, safe};
use crate::change::{Change, Side};
use crate::intent::Intent;
use crate::report::Severity;

/// Most line comments of a review.
const COMMENTS_MAX: usize = 20;
const TITLE_MAX: usize = 400;
const BODY_MAX: usize = 2_000;

/// The review of a pull request's head, where there is something to say about a line that was not said before.
///
/// Its key names the head: a head is reviewed once, however often an event about it is delivered.
pub(crate) fn review(shown: &Shown<'_>, change: &Change, target: &str, head: &str) -> Option<Intent> {
    let known = |item: &Item| shown.past.iter().any(|past| past.id == item.id);
    let mut comments: Vec<Value> = shown
        .items
        .iter()
        // What a model says of a line it may say there; of what was computed only what is grave.
        .filter(|item| item.by_model || item.severity >= Severity::Warning)
        .filter(|item| !known(item))
        .filter_map(|item| on_line(item, change, shown.allowed))
        .take(COMMENTS_MAX)
        .collect();
    // Room for the rest of the parameters.
    while comments.iter().map(|comment| comment.to_string().len()).sum::<usize>() > limits::EFFECT_PARAMETERS_MAX - 2_048 {
        comments.pop();
    }
    if comments.is_empty() {
        return None;
    }
    let count = comments.len();
    let body = format!(
        "{}: {}. {count} of it on lines of the change.",
        shown.profile.title,
        headline(shown.items),
    );
    let mut intent = Intent::new(
        "review",
        target,
        json!({"commit": head, "body": body, "verdict": "comment", "comments": comments}),
    );
    intent.key = Some(format!("{}/{target}@{head}/review", shown.profile.general_type).chars().take(256).collect());
    Some(intent)
}

fn on_line(item: &Item, change: &Change, allowed: &safe::Allowed) -> Option<Value> {
    let (path, line) = (item.path.as_deref()?, item.line?);
    let file = change.file(path)?;
    if !file.shows(Side::Right, line) {
        return None;
    }
    let mut body = format!("**{}** {}", word(item.severity), safe::line(&item.title, allowed, TITLE_MAX));
    let more = safe::text(&item.body, allowed, BODY_MAX);
    if !more.is_empty() {
        body.push_str("\n\n");
        body.push_str(&more);
    }
    if let Some(lines) = &item.suggestion {
        body.push_str(&safe::block("text", lines));
    }
    Some(json!({"path": file.path, "line": line, "side": "RIGHT", "body": body}))
}
