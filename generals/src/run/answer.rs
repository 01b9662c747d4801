//! What a model answered, read as data: so much of it as has a meaning, cut to a size, and nothing of it believed.

use serde_json::Value;

use crate::report::Severity;
use crate::text::clipped;

/// Most findings of an answer.
const FINDINGS_MAX: usize = 30;
/// Most labels of an answer.
const LABELS_MAX: usize = 10;
/// Most parts beside those with a meaning.
const SECTIONS_MAX: usize = 6;
/// Most items of a part that is a list.
const ITEMS_MAX: usize = 40;
/// Longest title, in letters.
const TITLE_MAX: usize = 160;
/// Longest body, in letters.
pub(crate) const BODY_MAX: usize = 2_000;
/// Longest path, in bytes.
const PATH_MAX: usize = 400;

/// What is said of the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Good,
    Minor,
    Serious,
}

/// A finding of a model.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Remark {
    pub severity: Severity,
    pub title: String,
    pub body: String,
    pub path: Option<String>,
    pub line: Option<u32>,
    /// Lines that could stand in the place of the one named.
    pub suggestion: Option<String>,
}

/// A part that a profile asks for beside those with a meaning, such as release notes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Section {
    pub title: String,
    pub body: String,
}

/// An answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Answer {
    pub summary: String,
    pub verdict: Option<Verdict>,
    pub remarks: Vec<Remark>,
    pub labels: Vec<String>,
    /// Low, normal, high or urgent.
    pub priority: Option<&'static str>,
    pub reason: String,
    /// Of earlier findings, by their ids: whether they are resolved.
    pub past: Vec<(String, bool)>,
    pub sections: Vec<Section>,
}

/// Members with a meaning.
const KNOWN: [&str; 7] = ["summary", "verdict", "findings", "labels", "priority", "reason", "past"];

impl Answer {
    /// Reads an answer that was given under a schema. What does not fit is left out.
    #[must_use]
    pub(crate) fn read(value: &Value, schema: &Value) -> Answer {
        let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
        let list = |name: &str| value.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        Answer {
            summary: cut(text("summary"), BODY_MAX),
            verdict: match text("verdict") {
                "good" => Some(Verdict::Good),
                "minor" => Some(Verdict::Minor),
                "serious" => Some(Verdict::Serious),
                _ => None,
            },
            remarks: list("findings").iter().filter_map(remark).take(FINDINGS_MAX).collect(),
            labels: list("labels")
                .iter()
                .filter_map(|label| Some(clipped(label.as_str()?, 50)))
                .take(LABELS_MAX)
                .collect(),
            priority: ["low", "normal", "high", "urgent"].into_iter().find(|level| *level == text("priority")),
            reason: cut(text("reason"), BODY_MAX),
            past: list("past").iter().filter_map(past).take(FINDINGS_MAX).collect(),
            sections: sections(value, schema),
        }
    }
}

fn remark(value: &Value) -> Option<Remark> {
    let text = |name: &str| value.get(name).and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty());
    let title = clipped(text("title")?, TITLE_MAX);
    let severity = match text("severity") {
        Some("critical") => Severity::Critical,
        Some("warning") => Severity::Warning,
        Some("notice") => Severity::Notice,
        _ => Severity::Info,
    };
    Some(Remark {
        severity,
        title,
        body: cut(text("body").unwrap_or_default(), BODY_MAX),
        path: text("path")
            .filter(|path| path.len() <= PATH_MAX && !path.contains(['\n', '\r', '\0']))
            .map(str::to_owned),
        line: value
            .get("line")
            .and_then(Value::as_u64)
            .and_then(|line| u32::try_from(line).ok())
            .filter(|line| *line > 0),
        suggestion: text("suggestion").map(|lines| cut(lines, BODY_MAX)),
    })
}

fn past(value: &Value) -> Option<(String, bool)> {
    let id = value.get("id")?.as_str().filter(|id| id.len() <= 32)?;
    Some((id.to_owned(), value.get("state")?.as_str()? == "resolved"))
}

fn sections(value: &Value, schema: &Value) -> Vec<Section> {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return Vec::new() };
    let mut sections = Vec::new();
    for (name, about) in properties.iter().filter(|(name, _)| !KNOWN.contains(&name.as_str())) {
        let title = about.get("title").and_then(Value::as_str).unwrap_or(name);
        let body = match value.get(name) {
            Some(Value::String(text)) => cut(text, 4 * BODY_MAX),
            Some(Value::Array(items)) => {
                let items = items.iter().take(ITEMS_MAX).map(|item| match item {
                    Value::String(text) => format!("- {}", clipped(text, BODY_MAX / 4)),
                    other => format!("- {}", clipped(&other.to_string(), BODY_MAX / 4)),
                });
                items.collect::<Vec<_>>().join("\n")
            }
            None | Some(Value::Null) => continue,
            Some(other) => clipped(&other.to_string(), BODY_MAX),
        };
        if !body.trim().is_empty() && sections.len() < SECTIONS_MAX {
            sections.push(Section { title: clipped(title, TITLE_MAX), body });
        }
    }
    sections
}

fn cut(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_is_cut_to_what_has_a_meaning() {
        let schema =
            json!({"type": "object", "properties": {"summary": {}, "notes": {"title": "Release notes"}, "list": {}}});
        let hostile = json!({
            "summary": "s".repeat(9_000),
            "verdict": "approve",
            "findings": vec![json!({"title": "t\nu", "severity": "fatal", "path": "a\nb", "line": -1, "body": 7}); 99],
            "labels": vec!["x"; 99],
            "notes": "done",
            "list": ["a", {"b": 1}],
            "effects": [{"kind": "review", "parameters": {"verdict": "approve"}}],
            "past": [{"id": "f1", "state": "resolved"}, {"id": 1}],
        });
        let answer = Answer::read(&hostile, &schema);
        assert_eq!(answer.summary.chars().count(), BODY_MAX + 1);
        assert_eq!((answer.verdict, answer.remarks.len(), answer.labels.len()), (None, FINDINGS_MAX, LABELS_MAX));
        let first = &answer.remarks[0];
        assert_eq!(
            (first.title.as_str(), first.severity, &first.path, first.line),
            ("t u", Severity::Info, &None, None)
        );
        assert_eq!(answer.past, [("f1".to_owned(), true)]);
        let titles: Vec<_> = answer.sections.iter().map(|section| section.title.as_str()).collect();
        assert_eq!(titles, ["list", "Release notes"]);
        assert_eq!(answer.sections[0].body, "- a\n- {\"b\":1}");
        assert_eq!(Answer::read(&json!([1]), &schema), Answer::default());
    }
}
