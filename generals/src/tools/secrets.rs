//! Credentials in texts and in added lines: known formats, and values of random look under names that say what they are.
//!
//! ```text
//!  known prefix + letters --+
//!  private key block -------+--> no placeholder, no example, no known test key --> a hit
//!  password in a URL -------+
//!  name = "random value" ---+
//! ```
//! Formats, names and placeholders are data (`secrets.json`). Invariant: what is found is told by its kind and place, never repeated.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::json;

use super::files::{is_generated, is_prose, is_test};
use crate::Profile;
use crate::analysis::Analysis;
use crate::evidence::Evidence;
use crate::profile::{Letters, SecretPattern};
use crate::report::{Findings, Place, Severity};
use crate::text::{clipped, count};

mod built;
mod look;
mod named;

use built::{is_key_block, structured};
use look::entropy;
use named::assigned;
#[cfg(test)]
use named::{kind_of, snake};

/// Longest line that is looked at for values under names; longer ones are made by programs.
const LINE_MAX: usize = 1000;
/// Longest line that is looked at for formats.
const FORMAT_LINE_MAX: usize = 100_000;
/// Fewest letters of a password and of another value under a name.
const PASSWORD_MIN: usize = 8;
const VALUE_MIN: usize = 16;
const VALUE_MAX: usize = 500;
/// Fewest bits a letter that a value of random look has.
const ENTROPY_MIN: f64 = 3.0;
const NAME_MAX: usize = 120;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Data {
    formats: Vec<SecretPattern>,
    /// What names of secrets hold.
    names: Vec<String>,
    /// What names end with that are of something about a secret.
    endings: Vec<String>,
    /// What values hold that stand for others.
    placeholders: Vec<String>,
    /// What values under names hold that are words.
    words: Vec<String>,
    /// Values that documentation and tests of the world use.
    known: Vec<String>,
}

static DATA: LazyLock<Data> =
    LazyLock::new(|| serde_json::from_str(include_str!("secrets.json")).expect("secrets.json is one of ours"));

/// A credential in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hit {
    pub(crate) kind: String,
    /// The line, counted from 0.
    pub(crate) line: usize,
    /// Whether a known format tells it, and not its look alone.
    pub(crate) known: bool,
}

/// Where a text stands, as far as it decides what is looked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Setting {
    /// Prose of a person: values need quotes.
    #[default]
    Prose,
    /// Code: values need quotes.
    Code,
    /// Settings, scripts and variables: values stand bare.
    Bare,
    /// Made by programs: formats alone.
    Generated,
}

impl Setting {
    pub(crate) fn of(path: &str) -> Setting {
        let name = path.rsplit('/').next().unwrap_or_default().to_lowercase();
        let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
        let bare = [
            "env",
            "properties",
            "ini",
            "cfg",
            "conf",
            "config",
            "yaml",
            "yml",
            "toml",
            "sh",
            "bash",
            "zsh",
            "tfvars",
            "tf",
            "hcl",
            "npmrc",
            "netrc",
            "pypirc",
            "service",
            "envrc",
        ];
        let generated = ["svg", "lock", "sum", "map", "snap", "ipynb", "csv", "pem", "crt", "patch", "diff"];
        if is_generated(path) || generated.contains(&extension) && extension != "pem" {
            Setting::Generated
        } else if bare.contains(&extension)
            || name.starts_with(".env")
            || ["dockerfile", "credentials", "config"].contains(&name.as_str())
            || extension.starts_with("env")
        {
            Setting::Bare
        } else if is_prose(path) || extension == "txt" {
            Setting::Prose
        } else {
            Setting::Code
        }
    }
}

/// The credentials in a text of several lines. `more` are formats of a profile's own.
pub(crate) fn scan<'a>(lines: impl IntoIterator<Item = &'a str>, setting: Setting, more: &[SecretPattern]) -> Vec<Hit> {
    let lines: Vec<&str> = lines.into_iter().collect();
    let mut hits = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let mut line = line.trim_end_matches('\r');
        if line.len() > FORMAT_LINE_MAX {
            line = crate::change::log::clip(line, FORMAT_LINE_MAX);
        }
        let mut kinds: BTreeSet<(String, bool)> = BTreeSet::new();
        let mut spans: Vec<(usize, usize)> = Vec::new();
        for pattern in DATA.formats.iter().chain(more) {
            for (start, end) in occurrences(line, pattern) {
                // `sk-` begins `sk-ant-` too: what was told already is not told again.
                if !spans.iter().any(|(from, to)| start < *to && end > *from) {
                    spans.push((start, end));
                    kinds.insert((pattern.name.clone(), true));
                }
            }
        }
        for (start, end, kind) in structured(line) {
            if !spans.iter().any(|(from, to)| start < *to && end > *from) {
                spans.push((start, end));
                kinds.insert((kind.to_owned(), true));
            }
        }
        if is_key_block(line, lines.get(number + 1).copied()) {
            kinds.insert(("private key".to_owned(), true));
        }
        if setting != Setting::Generated && line.len() <= LINE_MAX {
            for (start, end, kind) in assigned(line, setting) {
                if !spans.iter().any(|(from, to)| start < *to && end > *from) {
                    spans.push((start, end));
                    kinds.insert((kind.to_owned(), false));
                }
            }
        }
        hits.extend(kinds.into_iter().map(|(kind, known)| Hit { kind, line: number, known }));
    }
    hits
}

pub(super) const ADDED: Analysis =
    Analysis { name: "secrets", thresholds: &[], words: &[], codes: &["secrets.added", "secrets.none_added"], run };

fn run(profile: &Profile, evidence: &Evidence<'_>, findings: &mut Findings) {
    let Some(change) = evidence.change else { return };
    let (mut lines, mut found) = (0u64, 0u64);
    for file in &change.files {
        let added: Vec<(u32, &str)> = file.added().collect();
        lines += added.len() as u64;
        for hit in scan(added.iter().map(|(_, line)| *line), Setting::of(&file.path), &profile.secrets) {
            found += 1;
            let name = clipped(&file.path, NAME_MAX);
            let number = added[hit.line].0;
            let test = is_test(&file.path);
            let severity = match (hit.known, test) {
                (true, false) => Severity::Critical,
                (true, true) | (false, false) => Severity::Warning,
                (false, true) => Severity::Notice,
            };
            let text = format!("What looks like a credential ({}) is added in {name}, line {number}.", hit.kind);
            let data =
                json!({"kind": hit.kind, "path": name, "line": number, "known_format": hit.known, "in_tests": test});
            findings.add_at(Place::line(&file.path, number), severity, "secrets.added", text, data);
        }
    }
    if found == 0 && lines > 0 {
        let text = format!("No credential in {}.", count(lines, "added line"));
        findings.add(Severity::Info, "secrets.none_added", text, json!({"lines": lines}));
    }
}

/// How often each kind of credential stands in the texts of an event.
pub(crate) fn in_text(text: &str, more: &[SecretPattern]) -> BTreeMap<String, u64> {
    let mut kinds = BTreeMap::new();
    for hit in scan(text.lines(), Setting::Prose, more) {
        *kinds.entry(hit.kind).or_default() += 1;
    }
    kinds
}

/// Where a format occurs.
fn occurrences(line: &str, pattern: &SecretPattern) -> Vec<(usize, usize)> {
    if pattern.prefix.is_empty() {
        return Vec::new();
    }
    let bytes = line.as_bytes();
    let accepted = |byte: u8| {
        let letter = match pattern.letters {
            Letters::Any => byte.is_ascii_alphanumeric(),
            Letters::Hex => byte.is_ascii_hexdigit(),
            Letters::Upper => byte.is_ascii_uppercase() || byte.is_ascii_digit(),
        };
        letter || pattern.also.as_bytes().contains(&byte)
    };
    let found = line.match_indices(&pattern.prefix).filter_map(|(at, _)| {
        let before = at.checked_sub(1).map(|at| bytes[at]);
        let begin = at + pattern.prefix.len();
        let mut length = bytes[begin..].iter().take_while(|byte| accepted(**byte)).count();
        let next = bytes.get(begin + length).copied();
        // A run that goes on with other letters is something longer.
        let ends = !next.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        length = length.min(pattern.max.unwrap_or(usize::MAX).saturating_add(1));
        let begins = !pattern.prefix.as_bytes()[0].is_ascii_alphanumeric()
            || !before.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let value = &line[begin..begin + length];
        let fits = begins && ends && length >= pattern.min && pattern.max.is_none_or(|max| length <= max);
        (fits && (pattern.min == 0 || is_real(value))).then_some((at, begin + length))
    });
    found.collect()
}

/// Whether a value is one, and does not stand for one.
fn is_real(value: &str) -> bool {
    let lower = value.to_lowercase();
    let holds = |words: &[String]| words.iter().any(|word| lower.contains(word.as_str()));
    let letters: Vec<char> = value.chars().collect();
    let run = letters.windows(5).any(|five| five.iter().all(|letter| letter == &five[0]));
    !run && entropy(value) >= ENTROPY_MIN.min(max_entropy(value) * 0.72)
        && !holds(&DATA.placeholders)
        && !DATA.known.iter().any(|known| known.contains(value) || value.contains(known.as_str()))
}

/// The most bits a letter that a text of this length can have.
fn max_entropy(value: &str) -> f64 {
    (value.len().max(1) as f64).log2()
}

#[cfg(test)]
#[path = "secrets_tests.rs"]
mod tests;
