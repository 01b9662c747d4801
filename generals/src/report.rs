//! Reports: what a general has to say about an event.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use mindos_model::Timestamp;

use crate::analysis;
use crate::{Event, Profile, summary};

/// What every report of these generals states about models.
pub const NO_MODEL: &str = "Computed from the event alone; no model was asked.";

/// Most advice in one report.
const RECOMMENDATIONS_MAX: usize = 10;
/// Most findings in one report.
const FINDINGS_MAX: usize = 100;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Info,
    Notice,
    Warning,
    Critical,
}

/// One thing that is true of the event.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// What kind of thing, such as `size.large`.
    pub code: &'static str,
    pub severity: Severity,
    /// A sentence for people.
    pub text: String,
    /// The same for programs.
    pub data: Value,
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
    /// The model asked: `none`.
    pub model: &'static str,
    pub statement: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_id: Option<String>,
}

/// Where analyses put what they find.
#[derive(Debug, Default)]
pub(crate) struct Findings(Vec<Finding>);

impl Findings {
    pub(crate) fn add(&mut self, severity: Severity, code: &'static str, text: String, data: Value) {
        if self.0.len() < FINDINGS_MAX {
            self.0.push(Finding { code, severity, text, data });
        }
    }
}

/// Runs the profile's analyses over the event. `now` only stamps the report.
#[must_use]
pub fn analyse(profile: &Profile, event: &Event, now: Timestamp) -> Report {
    let mut findings = Findings::default();
    for analysis in profile.analyses.iter().filter_map(|name| analysis::find(name)) {
        (analysis.run)(profile, event, &mut findings);
    }
    let Findings(findings) = findings;
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
        model: "none",
        statement: NO_MODEL,
        job_id: event.job_id.clone(),
    }
}

/// The profile's advice on the findings, the gravest first, each once.
fn recommendations(profile: &Profile, findings: &[Finding]) -> Vec<String> {
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
