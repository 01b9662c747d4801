//! One thing that is shown: a finding that was computed, or a remark of a model.

use sha2::{Digest, Sha256};

use crate::report::{Finding, Severity};
use crate::run::Answer;

/// A finding or remark, as it is shown.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Item {
    /// The same in the next run over the same thing.
    pub(crate) id: String,
    pub(crate) severity: Severity,
    /// Foreign in part.
    pub(crate) title: String,
    /// Foreign. May be empty.
    pub(crate) body: String,
    pub(crate) path: Option<String>,
    pub(crate) line: Option<u32>,
    pub(crate) suggestion: Option<String>,
    /// Whether a model said it.
    pub(crate) by_model: bool,
}

/// What a run found, the gravest first; of equal gravity what was computed comes before what a model said.
pub(crate) fn items(findings: &[Finding], answer: Option<&Answer>) -> Vec<Item> {
    let mut items: Vec<Item> = Vec::new();
    for finding in findings {
        let (path, line) = match &finding.place {
            Some(place) => (Some(place.path.clone()), place.line),
            None => (None, None),
        };
        // Numbers in the sentence change with every push; what kind of thing it is, where, and which one of several does not.
        let before = |item: &&Item| !item.by_model && item.body == finding.code && item.path == path;
        let which = items.iter().filter(before).count();
        let id = id(&["computed", finding.code, path.as_deref().unwrap_or_default(), &which.to_string()]);
        items.push(Item {
            id,
            severity: finding.severity,
            title: finding.text.clone(),
            body: finding.code.to_string(),
            path,
            line,
            suggestion: None,
            by_model: false,
        });
    }
    for item in &mut items {
        item.body.clear();
    }
    for remark in answer.iter().flat_map(|answer| &answer.remarks) {
        let words: Vec<String> = remark.title.split_whitespace().map(str::to_lowercase).collect();
        items.push(Item {
            id: id(&["model", remark.path.as_deref().unwrap_or_default(), &words.join(" ")]),
            severity: remark.severity,
            title: remark.title.clone(),
            body: remark.body.clone(),
            path: remark.path.clone(),
            line: remark.line,
            suggestion: remark.suggestion.clone(),
            by_model: true,
        });
    }
    items.sort_by_key(|item| std::cmp::Reverse(item.severity));
    items
}

fn id(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

/// How much there is to look at, in a few words.
pub(crate) fn headline(items: &[Item]) -> String {
    let count = |severity: Severity| items.iter().filter(|item| item.severity == severity).count();
    let mut parts = Vec::new();
    for (severity, one, many) in [
        (Severity::Critical, "critical", "critical"),
        (Severity::Warning, "warning", "warnings"),
        (Severity::Notice, "notice", "notices"),
    ] {
        match count(severity) {
            0 => {}
            1 => parts.push(format!("1 {one}")),
            number => parts.push(format!("{number} {many}")),
        }
    }
    if parts.is_empty() { "nothing to say".to_owned() } else { parts.join(", ") }
}

/// A severity in a word.
pub(crate) fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "info",
        Severity::Notice => "notice",
        Severity::Warning => "warning",
        Severity::Critical => "critical",
    }
}
