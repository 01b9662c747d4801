//! A check run on the head: what was computed may fail it, what a model said may not.

use serde_json::{Value, json};

use super::item::{Item, headline};
use super::{Shown, safe};
use crate::intent::Intent;
use crate::report::Severity;

/// Most annotations; GitHub takes 50 at a time.
const ANNOTATIONS_MAX: usize = 50;
const TEXT_MAX: usize = 4_000;

/// The check run of a commit.
pub(crate) fn check(shown: &Shown<'_>, repository: &str, head: &str) -> Intent {
    let items = shown.items;
    let fails = |item: &Item| !item.by_model && shown.profile.check_fails_at.is_some_and(|at| item.severity >= at);
    let conclusion = if items.iter().any(fails) {
        "failure"
    } else if items.iter().any(|item| item.severity >= Severity::Warning) {
        "neutral"
    } else {
        "success"
    };
    let summary = match shown.answer.map(|answer| answer.summary.trim()).filter(|summary| !summary.is_empty()) {
        Some(summary) => safe::text(summary, shown.allowed, TEXT_MAX),
        None => safe::line(shown.about, shown.allowed, TEXT_MAX),
    };
    let annotations: Vec<Value> = items.iter().filter_map(|item| annotation(item, shown.allowed)).take(ANNOTATIONS_MAX).collect();
    let statement = safe::line(shown.statement, shown.allowed, TEXT_MAX);
    let parameters = json!({
        "name": format!("Mind OS / {}", shown.profile.title),
        "conclusion": conclusion,
        "title": headline(items),
        "summary": format!("{summary}\n\n{statement}"),
        "annotations": annotations,
    });
    Intent::new("check", format!("{repository}@{head}"), parameters)
}

fn annotation(item: &Item, allowed: &safe::Allowed) -> Option<Value> {
    let (path, line) = (item.path.as_deref()?, item.line?);
    let level = match item.severity {
        Severity::Info => return None,
        Severity::Notice => "notice",
        Severity::Warning => "warning",
        Severity::Critical => "failure",
    };
    let message = safe::line(&item.title, allowed, 1_000);
    Some(json!({"path": path, "start_line": line, "end_line": line, "level": level, "message": message}))
}
