//! Code that changes without a test that changes with it, file by file.

use serde_json::json;

use super::files::{is_generated, is_test};
use crate::Profile;
use crate::analysis::Analysis;
use crate::change::{FileChange, FileKind};
use crate::evidence::Evidence;
use crate::report::{Findings, Place, Severity};
use crate::text::{clipped, count, path_fits};

const NAME_MAX: usize = 120;
/// Fewest added lines of code that ask for a test.
const LINES_MIN: u64 = 8;

pub(super) const UNTESTED: Analysis = Analysis {
    name: "untested",
    thresholds: &[],
    words: &["test_paths", "code_paths"],
    codes: &["tests.missing", "tests.removed"],
    run,
};

fn run(profile: &Profile, evidence: &Evidence<'_>, findings: &mut Findings) {
    let Some(change) = evidence.change else { return };
    let tests: Vec<&FileChange> = change
        .files
        .iter()
        .filter(|file| is_test(&file.path) || path_fits(&file.path, profile.words("test_paths")))
        .collect();
    for file in tests.iter().filter(|file| file.kind == FileKind::Removed) {
        let name = clipped(&file.path, NAME_MAX);
        let text = format!("The test file {name} is removed.");
        findings.add_at(Place::file(&file.path), Severity::Notice, "tests.removed", text, json!({"path": name}));
    }
    let grown: Vec<&&FileChange> = tests.iter().filter(|file| file.additions > 0).collect();
    for file in &change.files {
        let is_code = path_fits(&file.path, profile.words("code_paths")) && !is_generated(&file.path);
        if !is_code || file.kind == FileKind::Removed || tests.iter().any(|test| test.path == file.path) {
            continue;
        }
        let lines: Vec<(u32, &str)> = file.added().filter(|(_, line)| is_statement(line)).collect();
        if (lines.len() as u64) < LINES_MIN || tests_itself(file, evidence) {
            continue;
        }
        let name = stem(&file.path);
        if grown.iter().any(|test| covers(test, name)) {
            continue;
        }
        let path = clipped(&file.path, NAME_MAX);
        let number = lines.len() as u64;
        let (severity, why) = match grown.is_empty() {
            true => (Severity::Warning, "no test"),
            false => (Severity::Notice, "no test that names it"),
        };
        let text = format!("{path} gains {} and {why} changes.", count(number, "line of code").replace("line of codes", "lines of code"));
        let data = json!({"path": path, "lines": number, "tests_changed": grown.len()});
        findings.add_at(Place::line(&file.path, lines[0].0), severity, "tests.missing", text, data);
    }
}

/// Whether a line does something: no blank, no brace alone, no comment.
fn is_statement(line: &str) -> bool {
    let line = line.trim();
    line.chars().any(char::is_alphanumeric)
        && !["//", "#", "/*", "*", "--", "\"\"\"", "'''", "import ", "use ", "from ", "package "].iter().any(|start| line.starts_with(start))
}

/// Whether the change adds tests within the file itself, as Rust and others have it.
fn tests_itself(file: &FileChange, evidence: &Evidence<'_>) -> bool {
    let marks = ["#[test]", "#[tokio::test", "#[rstest", "#[cfg(test)]", "def test_", "describe(", "@Test", "func Test"];
    if file.added().any(|(_, line)| marks.iter().any(|mark| line.contains(mark))) {
        return true;
    }
    if file.hunks.iter().any(|hunk| hunk.heading.contains("mod tests") && hunk.lines.iter().any(|line| line.old.is_none())) {
        return true;
    }
    // A test that is there already and grows.
    let sides = file.sides(evidence.tree);
    let Some(new) = sides.new.filter(|new| new.whole() && file.path.ends_with(".rs")) else { return false };
    let Some(begin) = new.text.lines().position(|line| line.trim() == "#[cfg(test)]") else { return false };
    file.added().any(|(number, line)| number as usize > begin && is_statement(line))
}

/// The name of a file without folder and ending; of `mod.rs` and its like the folder's.
fn stem(path: &str) -> &str {
    let (folders, name) = path.rsplit_once('/').unwrap_or(("", path));
    let stem = name.split('.').next().unwrap_or(name);
    match stem {
        "mod" | "lib" | "main" | "index" | "__init__" if !folders.is_empty() => {
            let parent = folders.rsplit('/').next().unwrap_or(folders);
            if parent == "src" { folders.rsplit('/').nth(1).unwrap_or(stem) } else { parent }
        }
        _ => stem,
    }
}

/// Whether a test file is about a file of this name: by its own name, or because what is added to it speaks of it.
fn covers(test: &FileChange, name: &str) -> bool {
    let lower = name.to_lowercase();
    let own = test.path.rsplit('/').next().unwrap_or(&test.path).to_lowercase();
    let words = |text: &str| text.split(|letter: char| !letter.is_alphanumeric() && letter != '_').any(|word| word == lower);
    own.split('.').next().is_some_and(|own| own.contains(&lower))
        || lower.len() >= 3 && test.lines().any(|line| line.old.is_none() && words(&line.text.to_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_tests_are_matched_with_names_of_code() {
        assert_eq!([stem("src/a/mod.rs"), stem("x/src/lib.rs"), stem("a/parser.tsx"), stem("main.go")], ["a", "x", "parser", "main"]);
        let test = |path: &str, line: &str| {
            let diff = format!("--- a/{path}\n+++ b/{path}\n@@ -0,0 +1 @@\n+{line}\n");
            crate::change::parse(diff.as_bytes()).unwrap().0.remove(0)
        };
        assert!(covers(&test("tests/parser_test.py", "x"), "parser"));
        assert!(covers(&test("tests/all.py", "from app import parser"), "parser"));
        assert!(!covers(&test("tests/all.py", "parsers"), "parser"));
        assert!(is_statement("let a = 1;") && !is_statement("  // let") && !is_statement("}") && !is_statement(""));
    }
}
