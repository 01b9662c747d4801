//! The repository's own checks: which there are, and what came of them.
//!
//! Invariant: what is run is named by the settings, or by files of the base branch, and never by a model or a branch that it wrote;
//! and it is run without a shell.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The repository's own setting.
pub const SETTING: &str = ".mindos.yaml";
/// Files of the base branch by which checks are known.
pub const SOURCES: [&str; 8] =
    [SETTING, "Cargo.toml", "package.json", "pyproject.toml", "pytest.ini", "setup.cfg", "tox.ini", "Makefile"];
/// Most checks.
const CHECKS_MAX: usize = 8;
/// Longest of those files, in bytes.
const SOURCE_MAX: usize = 256 << 10;

/// A command, without a shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    pub program: String,
    pub arguments: Vec<String>,
}

impl Command {
    /// Splits a line at its spaces.
    #[must_use]
    pub fn of_line(line: &str) -> Option<Command> {
        Command::of_words(line.split_whitespace().map(str::to_owned))
    }

    fn of_words(words: impl IntoIterator<Item = String>) -> Option<Command> {
        let mut words = words.into_iter();
        let program = words.next().filter(|program| !program.is_empty() && !program.starts_with('-'))?;
        Some(Command { program, arguments: words.collect() })
    }

    /// As somebody would write it.
    #[must_use]
    pub fn name(&self) -> String {
        std::iter::once(&self.program).chain(&self.arguments).map(String::as_str).collect::<Vec<_>>().join(" ")
    }
}

/// What came of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    Failed,
    /// It fails without the change, too, so it says nothing of it.
    FailedBefore,
}

/// One check that was run.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    pub name: String,
    pub outcome: Outcome,
    pub output: String,
    pub seconds: f64,
}

/// What came of all.
#[derive(Clone, Debug, PartialEq)]
pub enum Checked {
    /// There are none that are known.
    None,
    /// There are, and they were not run, for this reason.
    NotRun(String),
    Run {
        checks: Vec<Check>,
        /// Whether in a sandbox.
        isolated: bool,
        /// Whether the edits were corrected after checks had failed.
        corrected: bool,
    },
}

impl Checked {
    /// Whether a check failed because of the change.
    #[must_use]
    pub fn is_red(&self) -> bool {
        matches!(self, Checked::Run { checks, .. } if checks.iter().any(|check| check.outcome == Outcome::Failed))
    }
}

/// The checks of a repository, by files of its base branch (see [`SOURCES`]): its own setting, or else by what it is built with.
///
/// # Errors
/// What is wrong with its setting.
pub fn detect(files: &BTreeMap<&str, String>) -> Result<Vec<Command>, String> {
    let file = |name: &str| files.get(name).filter(|text| text.len() <= SOURCE_MAX);
    if let Some(text) = file(SETTING) {
        return configured(text);
    }
    let mut lines = Vec::new();
    if file("Cargo.toml").is_some() {
        lines.extend(["cargo check --all-targets", "cargo test"]);
    }
    if file("package.json").is_some_and(|text| has_npm_test(text)) {
        lines.push("npm test");
    }
    let pytest = |name: &str, mark: &str| file(name).is_some_and(|text| text.contains(mark));
    if file("pytest.ini").is_some()
        || pytest("pyproject.toml", "pytest")
        || pytest("setup.cfg", "[tool:pytest]")
        || pytest("tox.ini", "[pytest]")
    {
        lines.push("pytest");
    }
    // Where nothing else is known: what people type.
    if lines.is_empty() && file("Makefile").is_some_and(|text| text.lines().any(|line| line.starts_with("test:"))) {
        lines.push("make test");
    }
    Ok(lines.into_iter().filter_map(Command::of_line).collect())
}

/// Whether there is a test that is more than npm's own placeholder.
fn has_npm_test(text: &str) -> bool {
    let package: Option<serde_json::Value> = serde_json::from_str(text).ok();
    let test = package.as_ref().and_then(|package| package.pointer("/scripts/test")?.as_str());
    test.is_some_and(|test| !test.contains("no test specified"))
}

#[derive(Deserialize)]
struct Setting {
    #[serde(default)]
    coding: Coding,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Coding {
    #[serde(default)]
    checks: Vec<Line>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Words(Vec<String>),
    Text(String),
}

fn configured(text: &str) -> Result<Vec<Command>, String> {
    let setting: Setting =
        serde_norway::from_str(text).map_err(|error| format!("{SETTING} of the base branch: {error}"))?;
    let wrong = || {
        format!(
            "{SETTING} of the base branch: `coding.checks` takes up to {CHECKS_MAX} commands, as a line or a list of words"
        )
    };
    if setting.coding.checks.len() > CHECKS_MAX {
        return Err(wrong());
    }
    let command = |line| match line {
        Line::Words(words) => Command::of_words(words),
        Line::Text(line) => Command::of_line(&line),
    };
    setting.coding.checks.into_iter().map(|line| command(line).ok_or_else(wrong)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(files: &[(&'static str, &str)]) -> Result<Vec<String>, String> {
        let files = files.iter().map(|(name, text)| (*name, (*text).to_owned())).collect();
        detect(&files).map(|commands| commands.iter().map(Command::name).collect())
    }

    #[test]
    fn checks_are_known_by_what_a_repository_is_built_with() {
        assert_eq!(
            names(&[("Cargo.toml", ""), ("Makefile", "test:\n")]).unwrap(),
            ["cargo check --all-targets", "cargo test"]
        );
        assert_eq!(names(&[("package.json", r#"{"scripts": {"test": "jest"}}"#)]).unwrap(), ["npm test"]);
        let placeholder = r#"{"scripts": {"test": "echo \"Error: no test specified\" && exit 1"}}"#;
        assert!(names(&[("package.json", placeholder)]).unwrap().is_empty());
        assert_eq!(names(&[("pyproject.toml", "[tool.pytest.ini_options]")]).unwrap(), ["pytest"]);
        assert_eq!(names(&[("Makefile", "all:\n\ntest: all\n")]).unwrap(), ["make test"]);
        assert!(names(&[("Makefile", "all:\n"), ("package.json", "no json")]).unwrap().is_empty());
    }

    #[test]
    fn a_repositorys_own_setting_comes_first() {
        let setting = "coding:\n  checks:\n    - sh check.sh\n    - [python3, -m, unittest, 'a b']\n";
        assert_eq!(
            names(&[(SETTING, setting), ("Cargo.toml", "")]).unwrap(),
            ["sh check.sh", "python3 -m unittest a b"]
        );
        assert!(names(&[(SETTING, "coding: {checks: []}"), ("Cargo.toml", "")]).unwrap().is_empty());
        for wrong in [
            "coding: [",
            "coding: {cheks: []}",
            "coding: {checks: ['']}",
            "coding: {checks: ['--x']}",
            "coding: {checks: [1, 2, 3, 4, 5, 6, 7, 8, 9]}",
        ] {
            assert!(names(&[(SETTING, wrong)]).unwrap_err().starts_with(SETTING), "{wrong}");
        }
    }
}
