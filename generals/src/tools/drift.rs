//! Documents that fall behind: they name options, variables or files that the change takes away.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::files::{is_generated, is_prose, is_test};
use crate::Profile;
use crate::analysis::Analysis;
use crate::change::FileKind;
use crate::evidence::Evidence;
use crate::report::{Findings, Place, Severity};
use crate::text::clipped;

const NAME_MAX: usize = 160;
/// Most names that are searched for, and most files that are searched.
const NAMES_MAX: usize = 200;
const SEARCHED_MAX: usize = 300;
/// Most mentions told of one name.
const MENTIONS_MAX: usize = 3;

pub(super) const DRIFT: Analysis =
    Analysis { name: "drift", thresholds: &[], words: &[], codes: &["docs.stale_option", "docs.stale_path"], run };

fn run(_: &Profile, evidence: &Evidence<'_>, findings: &mut Findings) {
    let (Some(change), Some(tree)) = (evidence.change, evidence.tree) else { return };
    let mut gone: BTreeMap<String, &'static str> = BTreeMap::new();
    let mut kept: BTreeSet<String> = BTreeSet::new();
    for file in change.files.iter().filter(|file| !is_prose(&file.path) && !is_generated(&file.path) && !is_test(&file.path)) {
        for (_, line) in file.removed() {
            gone.extend(options(line).into_iter().map(|name| (name, "option")));
            gone.extend(variables(line).into_iter().map(|name| (name, "variable")));
        }
        // What still stands in the file, or is added elsewhere, is only moved.
        let text = file.sides(Some(tree)).new.map(|new| new.text).unwrap_or_default();
        for line in text.lines() {
            kept.extend(options(line));
            kept.extend(variables(line));
        }
        if matches!(file.kind, FileKind::Removed | FileKind::Renamed)
            && let Some(old) = file.old_path.as_deref().or(Some(&file.path))
            && !tree.has(old)
            && old.contains('/')
        {
            gone.insert(old.to_owned(), "path");
        }
    }
    gone.retain(|name, _| !kept.contains(name));
    if gone.is_empty() {
        return;
    }
    let names: Vec<(String, &'static str)> = gone.into_iter().take(NAMES_MAX).collect();
    let mut told: BTreeMap<&str, usize> = BTreeMap::new();
    for path in tree.paths().filter(|path| is_prose(path) && !is_history(path)).take(SEARCHED_MAX) {
        let Some(text) = tree.text(path) else { continue };
        for (index, line) in text.lines().enumerate() {
            for (name, kind) in &names {
                let times = told.entry(name.as_str()).or_default();
                if *times >= MENTIONS_MAX || !names_it(line, name) {
                    continue;
                }
                *times += 1;
                let number = u32::try_from(index).unwrap_or(u32::MAX).saturating_add(1);
                let (shown, doc) = (clipped(name, NAME_MAX), clipped(path, NAME_MAX));
                let code = if *kind == "path" { "docs.stale_path" } else { "docs.stale_option" };
                let text = format!("{doc}, line {number}, names the {kind} {shown}, which the change takes away.");
                let data = json!({"path": doc, "line": number, "name": shown, "kind": kind});
                findings.add_at(Place::line(path, number), Severity::Warning, code, text, data);
            }
        }
    }
}

/// A file that tells of the past, where names of what is gone belong.
fn is_history(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path).to_lowercase();
    ["changelog", "changes", "history", "news", "release"].iter().any(|word| name.starts_with(word))
}

/// `--long-options` in a line of code.
fn options(line: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in line.match_indices("--") {
        let before = line[..at].chars().next_back();
        if before.is_some_and(|letter| letter.is_alphanumeric() || letter == '-') {
            continue;
        }
        let name: String = line[at + 2..].chars().take_while(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || *it == '-').collect();
        if name.len() >= 2 && name.starts_with(|letter: char| letter.is_ascii_lowercase()) && !name.ends_with('-') {
            found.insert(format!("--{name}"));
        }
    }
    // As a parser of options is told: `long = "name"`.
    for (at, _) in line.match_indices("long = \"") {
        let name = line[at + 8..].split('"').next().unwrap_or_default();
        if !name.is_empty() && name.len() <= 64 {
            found.insert(format!("--{name}"));
        }
    }
    found
}

/// Variables of the environment that a line reads.
fn variables(line: &str) -> BTreeSet<String> {
    let lower = line.to_ascii_lowercase();
    if !lower.contains("env") {
        return BTreeSet::new();
    }
    line.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
        .filter(|word| {
            word.len() >= 5
                && word.contains('_')
                && word.starts_with(|letter: char| letter.is_ascii_uppercase())
                && word.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
        })
        .map(str::to_owned)
        .collect()
}

/// Whether a line has a name as a whole.
fn names_it(line: &str, name: &str) -> bool {
    let goes_on = |letter: char| letter.is_alphanumeric() || matches!(letter, '_' | '-');
    line.match_indices(name).any(|(at, _)| {
        let after = line[at + name.len()..].chars().next();
        let before = line[..at].chars().next_back();
        !after.is_some_and(goes_on) && !before.is_some_and(|letter| goes_on(letter) || letter == '/')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_off_code() {
        let of = |line: &str| options(line).into_iter().collect::<Vec<_>>();
        assert_eq!(of("x --dry-run a--b ---- --X --9 (\"--out\")"), ["--dry-run", "--out"]);
        assert_eq!(of("#[arg(long = \"body-max\")]"), ["--body-max"]);
        assert_eq!(of("i--; -- a comment"), Vec::<String>::new());
        assert_eq!(variables("std::env::var(\"MY_TOKEN_FILE\")").into_iter().collect::<Vec<_>>(), ["MY_TOKEN_FILE"]);
        assert!(variables("const MAX_SIZE: u32").is_empty());
        assert!(names_it("use `--out` here", "--out") && !names_it("--output", "--out") && !names_it("a/src/x", "src/x"));
    }
}
