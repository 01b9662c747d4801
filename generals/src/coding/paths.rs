//! Which files of a clone may be written, and how: the one place that turns a path from a model or a command into one on disk.
//!
//! Invariant: what [`place`] returns lies inside the folder, through no link, and is none of what is kept from being edited.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Longest path, in bytes.
pub const PATH_MAX: usize = 400;

/// What may not be edited, besides `.git`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Whether workflows of the forge may be: they run with its rights.
    pub workflows: bool,
}

/// Why a path is not taken.
#[derive(Debug, thiserror::Error)]
pub enum PathError {
    #[error("`{0}` is not a path inside the repository: expected one such as src/main.rs")]
    Outside(String),
    #[error("`{0}` belongs to git and is not edited")]
    Git(String),
    #[error("`{0}` is a workflow of the forge, which this agent is not set up to edit")]
    Workflow(String),
    #[error("`{0}` is, or lies behind, a link or something else that is no file")]
    Link(String),
    #[error("`{path}` cannot be looked at: {error}")]
    Look { path: String, error: io::Error },
}

/// Where a path of the repository lies under `folder`, if it may be written.
///
/// # Errors
/// Why it may not.
pub fn place(folder: &Path, path: &str, rules: &Rules) -> Result<PathBuf, PathError> {
    check(path, rules)?;
    let shown = || crate::text::clipped(path, 100);
    let mut at = folder.to_owned();
    let mut parts = path.split('/').peekable();
    while let Some(part) = parts.next() {
        at.push(part);
        let last = parts.peek().is_none();
        match fs::symlink_metadata(&at) {
            Ok(found) if (last && found.is_file()) || (!last && found.is_dir()) => {}
            Ok(_) => return Err(PathError::Link(shown())),
            // What is not there is no link either, nor is what would be below it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(folder.join(path)),
            Err(error) => return Err(PathError::Look { path: shown(), error }),
        }
    }
    Ok(at)
}

/// Whether a path may be written at all, wherever it lies.
///
/// # Errors
/// Why it may not.
pub fn check(path: &str, rules: &Rules) -> Result<(), PathError> {
    let shown = || crate::text::clipped(path, 100);
    let plain = (1..=PATH_MAX).contains(&path.len()) && !path.contains('\\') && !path.chars().any(char::is_control);
    if !plain || path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(PathError::Outside(shown()));
    }
    if path.split('/').any(is_git) {
        return Err(PathError::Git(shown()));
    }
    let lower = visible(path).to_lowercase();
    let executes =
        |folder: &str| lower == folder || lower.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
    if !rules.workflows && (executes(".github/workflows") || executes(".github/actions")) {
        return Err(PathError::Workflow(shown()));
    }
    Ok(())
}

/// Whether a file system somewhere would take the name for `.git`: case, trailing dots and spaces, short names, letters that do not
/// count. Git itself refuses such names, too.
fn is_git(part: &str) -> bool {
    let name = visible(part).to_lowercase();
    let name = name.split(':').next().unwrap_or_default().trim_end_matches(['.', ' ']);
    matches!(name, ".git" | "git~1" | ".gitmodules" | "gitmod~1")
}

fn visible(text: &str) -> String {
    let ignored = |letter: char| matches!(letter, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    text.chars().filter(|letter| !ignored(*letter)).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const STRICT: Rules = Rules { workflows: false };

    #[test]
    fn paths_stay_inside_and_out_of_what_runs() {
        for path in ["a", "src/a.rs", "a b/ü.txt", ".gitignore", ".github/CODEOWNERS", "x/.github/workflows.md"] {
            check(path, &STRICT).unwrap_or_else(|error| panic!("{path}: {error}"));
        }
        for path in [
            "",
            "/etc/passwd",
            "../x",
            "a/../../x",
            "a//b",
            "./a",
            "a/.",
            "a\\b",
            "a\0",
            "a\nb",
            ".git",
            ".git/config",
            "sub/.git/hooks/x",
            ".GIT/config",
            ".git./x",
            ".git /x",
            "git~1/x",
            ".g\u{200c}it/config",
            ".git::$INDEX_ALLOCATION/x",
            ".gitmodules",
            ".github/workflows/ci.yml",
            ".GitHub/Workflows/ci.yml",
            ".github/workflows",
            ".github/actions/x/action.yml",
        ] {
            assert!(check(path, &STRICT).is_err(), "{path}");
        }
        assert!(check(&"a/".repeat(300), &STRICT).is_err());
        check(".github/workflows/ci.yml", &Rules { workflows: true }).unwrap();
    }

    #[test]
    fn no_link_is_followed_nor_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir(root.join("real")).unwrap();
        fs::write(root.join("real/file"), "x").unwrap();
        symlink("/etc", root.join("out")).unwrap();
        symlink("real", root.join("in")).unwrap();
        symlink("/etc/passwd", root.join("link")).unwrap();
        for path in ["out/x", "in/file", "link", "real/file/below", "real"] {
            assert!(matches!(place(root, path, &STRICT), Err(PathError::Link(_))), "{path}");
        }
        for path in ["real/file", "real/new", "new/deep/file"] {
            assert_eq!(place(root, path, &STRICT).unwrap(), root.join(path));
        }
    }
}
