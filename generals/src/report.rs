//! Reports: what a general has to say about an event.

use std::borrow::Cow;

use mindos_model::Timestamp;
use mindos_sdk::Usage;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::intent::Intent;
use crate::{Event, Profile, examine, summary};

/// What a report states where there was nothing but the event.
pub const NO_MODEL: &str = "Computed from the event alone; no model was asked.";

/// Most advice in one report.
const RECOMMENDATIONS_MAX: usize = 10;
/// Most findings in one report.
const FINDINGS_MAX: usize = 100;
/// Most findings of one analysis, so that none crowds out the others.
const FINDINGS_EACH: usize = 25;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Info,
    Notice,
    Warning,
    Critical,
}

/// A line of a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// The file's name now; for one that is gone, the name it had.
    pub path: String,
    /// From 1; unset for the file as a whole. For a line that is gone, the number it had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
}

/// One thing that is true of the event or of the change behind it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// What kind of thing, such as `size.large`.
    pub code: &'static str,
    pub severity: Severity,
    /// A sentence for people.
    pub text: String,
    /// The same for programs.
    pub data: Value,
    /// Where in the change it is true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
}

impl Finding {
    /// A finding about the whole.
    pub(crate) fn of(severity: Severity, code: &'static str, text: String, data: Value) -> Finding {
        Finding { code, severity, text, data, place: None }
    }
}

/// The answer to `POST /process`: the contract's members, then what this implementation adds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    pub general: String,
    pub event_type: String,
    /// Always `processed`: what cannot be processed is an error, not a report.
    pub status: &'static str,
    /// When the report was made, RFC 3339.
    pub timestamp: String,
    pub analysis: String,
    /// At least one.
    pub recommendations: Vec<String>,
    pub findings: Vec<Finding>,
    /// The model asked, as `provider:name`, or `none`.
    pub model: Cow<'static, str>,
    /// What it was computed from, and who was asked.
    pub statement: Cow<'static, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_id: Option<String>,
    /// What the model answered, under the profile's schema: foreign text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<Value>,
    /// What models were used for in this attempt, by model.
    pub usage: Vec<Used>,
    /// What is to be done outside.
    pub effects: Vec<Intent>,
}

/// What one model was used for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Used {
    pub model: String,
    pub input_tokens: u64,
    /// Of the input, what the provider had in its cache.
    pub cached_input_tokens: u64,
    pub output_tokens: u64,
    /// Millionths of the currency unit.
    pub cost_micros: u64,
    pub calls: u32,
    /// By which price list the cost was counted; left out where that is told elsewhere.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub prices: String,
}

impl From<Usage> for Used {
    fn from(usage: Usage) -> Used {
        let Usage { model, input_tokens, cached_input_tokens, output_tokens, cost_micros, calls } = usage;
        Used { model, input_tokens, cached_input_tokens, output_tokens, cost_micros, calls, prices: String::new() }
    }
}

/// Where analyses put what they find.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    all: Vec<Finding>,
    /// How many there were when the analysis at hand began.
    before: usize,
}

impl Findings {
    /// Says that another analysis begins.
    pub(crate) fn begin(&mut self) {
        self.before = self.all.len();
    }

    pub(crate) fn add(&mut self, severity: Severity, code: &'static str, text: String, data: Value) {
        self.push(Finding { code, severity, text, data, place: None });
    }

    /// Adds what is true of one file or line of it.
    pub(crate) fn add_at(&mut self, place: Place, severity: Severity, code: &'static str, text: String, data: Value) {
        self.push(Finding { code, severity, text, data, place: Some(place) });
    }

    fn push(&mut self, finding: Finding) {
        if self.all.len() < FINDINGS_MAX && self.all.len() - self.before < FINDINGS_EACH {
            self.all.push(finding);
        }
    }

    pub(crate) fn into_vec(self) -> Vec<Finding> {
        self.all
    }
}

impl Place {
    pub(crate) fn file(path: &str) -> Place {
        Place { path: path.to_owned(), line: None }
    }

    pub(crate) fn line(path: &str, line: u32) -> Place {
        Place { path: path.to_owned(), line: Some(line) }
    }
}

/// Runs the profile's analyses over the event. `now` only stamps the report.
#[must_use]
pub fn analyse(profile: &Profile, event: &Event, now: Timestamp) -> Report {
    let findings = examine(profile, event, None, None);
    let mut sentences = vec![format!("{}: {}", profile.title, summary::of(event))];
    sentences.extend(findings.iter().map(|finding| finding.text.clone()));
    Report {
        general: profile.general_type.clone(),
        event_type: event.event_type.clone(),
        status: "processed",
        timestamp: now.to_string(),
        analysis: sentences.join(" "),
        recommendations: recommendations(profile, &findings),
        findings,
        model: Cow::Borrowed("none"),
        statement: Cow::Borrowed(NO_MODEL),
        job_id: event.job_id.clone(),
        answer: None,
        usage: Vec::new(),
        effects: Vec::new(),
    }
}

/// The profile's advice on the findings, the gravest first, each once.
pub(crate) fn recommendations(profile: &Profile, findings: &[Finding]) -> Vec<String> {
    let mut ranked: Vec<&Finding> = findings.iter().collect();
    ranked.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    let mut advice: Vec<String> = Vec::new();
    for finding in ranked {
        let Some(template) = profile.advice.get(finding.code) else { continue };
        let text = fill(template, &finding.data);
        if !advice.contains(&text) && advice.len() < RECOMMENDATIONS_MAX {
            advice.push(text);
        }
    }
    if advice.is_empty() {
        advice.push(profile.otherwise.clone());
    }
    advice
}

/// Puts members of `data` in the place of their `{names}`. What is put in is not looked through again.
fn fill(template: &str, data: &Value) -> String {
    let mut filled = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        filled.push_str(before);
        let Some((name, behind)) = after.split_once('}') else {
            filled.push('{');
            rest = after;
            continue;
        };
        match data.get(name) {
            Some(Value::String(text)) => filled.push_str(text),
            Some(Value::Array(items)) => {
                let names: Vec<String> =
                    items.iter().map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned)).collect();
                filled.push_str(&names.join(", "));
            }
            Some(other) => filled.push_str(&other.to_string()),
            None => filled.push('?'),
        }
        rest = behind;
    }
    filled.push_str(rest);
    filled
}

/// An empty object, for findings whose sentence says all.
pub(crate) fn nothing() -> Value {
    json!(Map::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_is_filled_once_and_only_from_data() {
        let data = json!({"a": "{b}", "b": 7, "c": ["x", "y"]});
        assert_eq!(fill("{a} {b} {c} {z} {", &data), "{b} 7 x, y ? {");
    }
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod over_real_payloads;
