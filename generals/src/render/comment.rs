//! The one comment of a general on a subject.

use std::fmt::Write as _;

use serde_json::json;

use super::item::{Item, headline, word};
use super::past::{State, hidden};
use super::{Shown, safe};
use crate::intent::Intent;
use crate::report::Severity;

/// Longest comment, in bytes: with what JSON adds, it has to fit into an intent's 64 KiB. GitHub takes 65,536 letters.
const COMMENT_MAX: usize = 50_000;
/// Most findings that are shown in full.
const ITEMS_MAX: usize = 20;
/// Most findings in a list that is folded up.
const FOLDED_MAX: usize = 40;
const TITLE_MAX: usize = 400;
const BODY_MAX: usize = 2_000;

/// The comment, edited in place from run to run.
pub(crate) fn comment(shown: &Shown<'_>, target: &str) -> Intent {
    let name = shown.profile.general_type.as_str();
    Intent::new("comment", target, json!({"body": body(shown), "sticky": true, "name": name}))
}

fn body(shown: &Shown<'_>) -> String {
    let Shown { profile, about, items, past, answer, advice, statement, head, allowed } = *shown;
    let mut text = format!("### {}: {}\n\n", profile.title, headline(items));
    match answer.map(|answer| answer.summary.trim()).filter(|summary| !summary.is_empty()) {
        Some(summary) => paragraph(&mut text, &safe::text(summary, allowed, BODY_MAX)),
        None => paragraph(&mut text, &safe::line(about, allowed, 2 * TITLE_MAX)),
    }
    if let Some((answer, level)) = answer.and_then(|answer| Some((answer, answer.priority?))) {
        let reason = safe::line(&answer.reason, allowed, BODY_MAX);
        paragraph(&mut text, &format!("**Priority: {level}.** {reason}"));
    }
    let (grave, light): (Vec<&Item>, Vec<&Item>) = items.iter().partition(|item| item.severity > Severity::Info);
    for item in grave.iter().take(ITEMS_MAX) {
        paragraph(&mut text, &finding(item, allowed));
    }
    if grave.len() > ITEMS_MAX {
        folded(&mut text, &format!("{} more", grave.len() - ITEMS_MAX), grave.iter().skip(ITEMS_MAX).map(|item| in_short(item, allowed)));
    }
    for section in answer.iter().flat_map(|answer| &answer.sections) {
        let _ = write!(text, "<details><summary>{}</summary>\n\n", safe::line(&section.title, allowed, 100));
        paragraph(&mut text, &safe::text(&section.body, allowed, 4 * BODY_MAX));
        text.push_str("</details>\n\n");
    }
    folded(&mut text, "What to do", advice.iter().map(|advice| safe::line(advice, allowed, TITLE_MAX)));
    let of = |state| past.iter().filter(move |finding| finding.state == state);
    let told = |finding: &super::PastFinding| {
        let place = finding.path.as_deref().map(|path| format!("{} ", safe::code(path, 200))).unwrap_or_default();
        format!("{place}{}", safe::line(&finding.title, allowed, TITLE_MAX))
    };
    folded(&mut text, "Resolved since the last look", of(State::Resolved).map(told));
    folded(&mut text, "Found before, not looked at again", of(State::NotLookedAt).map(told));
    let again = of(State::StillThere).filter(|finding| !items.iter().any(|item| item.id == finding.id));
    folded(&mut text, "Found before and still there", again.map(told));
    folded(&mut text, "Also computed", light.iter().map(|item| in_short(item, allowed)));
    let at = head.map(|head| format!(" at {}", safe::code(head.get(..7).unwrap_or(head), 40))).unwrap_or_default();
    let footer = format!("<sub>{}{at}. {}</sub>\n", safe::line(&profile.general_type, allowed, 80), safe::line(statement, allowed, 600));
    let end = format!("{footer}\n{}\n", hidden(&profile.general_type, items, past));
    let room = COMMENT_MAX.saturating_sub(end.len());
    if text.len() > room {
        text = cut(&text, room);
    }
    text + &end
}

/// As much of it as there is room for, ending between paragraphs and with everything closed that is open.
fn cut(text: &str, room: usize) -> String {
    let mut end = room.saturating_sub(100);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let end = text[..end].rfind("\n\n").unwrap_or(0);
    let mut kept = text[..end].to_owned();
    // A fence of ours stands at the margin, and is as long as the one that opened it.
    let mut open: Option<&str> = None;
    for line in text[..end].lines().filter(|line| line.starts_with("```")) {
        let ticks = &line[..line.len() - line.trim_start_matches('`').len()];
        match open {
            None => open = Some(ticks),
            Some(fence) if line == fence => open = None,
            Some(_) => {}
        }
    }
    if let Some(fence) = open {
        kept.push('\n');
        kept.push_str(fence);
    }
    if kept.matches("<details>").count() > kept.matches("</details>").count() {
        kept.push_str("\n\n</details>");
    }
    kept + "\n\n(cut: there is more than a comment holds)\n\n"
}

fn paragraph(text: &mut String, words: &str) {
    let words = words.trim();
    if !words.is_empty() {
        text.push_str(words);
        text.push_str("\n\n");
    }
}

fn finding(item: &Item, allowed: &safe::Allowed) -> String {
    let place = place(item).map(|place| format!(" {place}")).unwrap_or_default();
    let mut told = format!("**{}**{place} {}", word(item.severity), safe::line(&item.title, allowed, TITLE_MAX));
    let body = safe::text(&item.body, allowed, BODY_MAX);
    if !body.is_empty() {
        let _ = write!(told, "\n\n{body}");
    }
    if let Some(lines) = &item.suggestion {
        told.push_str(&safe::block("text", lines));
    }
    told
}

fn in_short(item: &Item, allowed: &safe::Allowed) -> String {
    let place = place(item).map(|place| format!("{place} ")).unwrap_or_default();
    format!("{place}{}", safe::line(&item.title, allowed, TITLE_MAX))
}

/// Where it is, as code.
fn place(item: &Item) -> Option<String> {
    let path = item.path.as_deref()?;
    Some(match item.line {
        Some(line) => safe::code(&format!("{path}:{line}"), 240),
        None => safe::code(path, 240),
    })
}

/// A list that is folded up; nothing where it is empty.
fn folded(text: &mut String, title: &str, items: impl Iterator<Item = String>) {
    let mut items = items.peekable();
    if items.peek().is_none() {
        return;
    }
    let _ = write!(text, "<details><summary>{title}</summary>\n\n");
    for (number, item) in items.enumerate() {
        if number == FOLDED_MAX {
            text.push_str("- and more\n");
            break;
        }
        let _ = writeln!(text, "- {item}");
    }
    text.push_str("\n</details>\n\n");
}
