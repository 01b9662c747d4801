//! Edits as a model writes them: parts to replace, whole files, files to remove; read as data, checked, and applied to a clone.
//!
//! ```json
//! {"summary": "..", "edits": [
//!   {"path": "src/a.rs", "search": "text that stands there once", "replace": "what is to stand there"},
//!   {"path": "src/new.rs", "content": "a whole file"},
//!   {"path": "src/old.rs", "delete": true}]}
//! ```
//! Invariant: either all edits of an answer are applied, or nothing is; what cannot be applied is told in words that the model gets back.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use super::paths::{Rules, place};

/// Most edits of one answer.
pub const EDITS_MAX: usize = 200;
/// Most files of one change.
pub const FILES_MAX: usize = 100;
/// Longest file that is edited or made, in bytes.
pub const FILE_MAX: usize = 512 << 10;
/// Most bytes of all files of one change.
pub const CHANGE_MAX: usize = 4 << 20;

/// What a model answers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Edits {
    /// What was done, for people.
    #[serde(default)]
    pub summary: String,
    pub edits: Vec<Edit>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Edit {
    pub path: String,
    pub search: Option<String>,
    pub replace: Option<String>,
    pub content: Option<String>,
    #[serde(default)]
    pub delete: Option<bool>,
}

/// What an answer has to look like. All members are required, for providers whose schemas know no others; unused ones are null.
#[must_use]
pub fn schema() -> Value {
    let text = || json!({"type": ["string", "null"]});
    json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["summary", "edits"],
        "properties": {
            "summary": {"type": "string", "description": "what was changed and why, in two or three sentences"},
            "edits": {"type": "array", "items": {
                "type": "object",
                "additionalProperties": false,
                "required": ["path", "search", "replace", "content", "delete"],
                "properties": {
                    "path": {"type": "string", "description": "relative to the root of the repository"},
                    "search": text(),
                    "replace": text(),
                    "content": text(),
                    "delete": {"type": ["boolean", "null"]}
                }
            }}
        }
    })
}

/// Reads an answer: the object in it, whatever stands around it.
///
/// # Errors
/// What is wrong, for the model.
pub fn read(text: &str) -> Result<Edits, Vec<String>> {
    let object = match (text.find('{'), text.rfind('}')) {
        (Some(begin), Some(end)) if begin < end => &text[begin..=end],
        _ => return Err(vec!["there is no JSON object in the answer".to_owned()]),
    };
    let edits: Edits = serde_json::from_str(object)
        .map_err(|error| vec![format!("the answer is not the object asked for: {error}")])?;
    match edits.edits.len() {
        0 => Err(vec!["`edits` is empty".to_owned()]),
        number if number > EDITS_MAX => Err(vec![format!("{number} edits are too many: at most {EDITS_MAX}")]),
        _ => Ok(edits),
    }
}

/// Applies all edits to the files under `folder`, in their order, or none. A file that is there already may be written anew as a whole
/// only where it is one of those that the model was `shown` whole.
///
/// # Errors
/// What of them does not fit, one line each, for the model.
pub fn apply(
    folder: &Path,
    edits: &Edits,
    rules: &Rules,
    shown: &BTreeSet<String>,
) -> Result<Vec<String>, Vec<String>> {
    let mut files: BTreeMap<&str, Option<String>> = BTreeMap::new();
    let mut faults = Vec::new();
    for (number, edit) in edits.edits.iter().enumerate() {
        let path = edit.path.as_str();
        let before = match files.get(path) {
            Some(known) => Ok(known.clone()),
            None => look(folder, path, rules),
        };
        // Made by this very answer, or seen to its end.
        let known = shown.contains(path) || !folder.join(path).exists();
        match before.and_then(|before| edited(edit, before, known)) {
            Ok(after) => drop(files.insert(path, after)),
            Err(fault) => faults.push(format!("edit {}: {fault}", number + 1)),
        }
    }
    let bytes: usize = files.values().flatten().map(String::len).sum();
    if files.len() > FILES_MAX || bytes > CHANGE_MAX {
        faults.push(format!(
            "{} files with {bytes} bytes are too many: at most {FILES_MAX} with {CHANGE_MAX}",
            files.len()
        ));
    }
    let kept = |path: &str| matches!(files.get(path), Some(Some(_)));
    let below = files.keys().filter(|path| path.match_indices('/').any(|(at, _)| kept(&path[..at])));
    faults.extend(below.map(|path| format!("`{path}` lies below a file of the same answer")));
    if !faults.is_empty() {
        return Err(faults);
    }
    for (path, text) in &files {
        write(folder, path, text.as_deref(), rules).map_err(|fault| vec![fault])?;
    }
    Ok(files.into_keys().map(str::to_owned).collect())
}

/// The text of a file; none where there is none.
fn look(folder: &Path, path: &str, rules: &Rules) -> Result<Option<String>, String> {
    let place = place(folder, path, rules).map_err(|error| error.to_string())?;
    let failed = |error| format!("`{path}` cannot be read: {error}");
    match fs::metadata(&place) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Ok(found) if found.len() > FILE_MAX as u64 => return Err(format!("`{path}` has more than {FILE_MAX} bytes")),
        other => other.map_err(failed)?,
    };
    match String::from_utf8(fs::read(&place).map_err(failed)?) {
        Ok(text) => Ok(Some(text)),
        Err(_) => Err(format!("`{path}` is no text")),
    }
}

/// The text of a file after an edit; none where it is to be gone.
fn edited(edit: &Edit, before: Option<String>, shown: bool) -> Result<Option<String>, String> {
    let Edit { path, search, replace, content, delete } = edit;
    let after = match (search.as_deref().filter(|it| !it.is_empty()), replace, content, delete.unwrap_or(false)) {
        (None, None, None, true) if before.is_some() => return Ok(None),
        (None, None, None, true) => return Err(format!("`{path}` is not there, so it cannot be removed")),
        (None, None, Some(_), false) if before.is_some() && !shown => {
            return Err(format!("`{path}` was not shown to you whole: replace parts of it with `search`"));
        }
        (None, None, Some(content), false) => content.clone(),
        // A part that replaces nothing is a file of its own, where there is none yet.
        (None, Some(content), None, false) if before.is_none() => content.clone(),
        (Some(search), Some(replace), None, false) => {
            let Some(before) = before else {
                return Err(format!("`{path}` is not there, so nothing in it can be replaced"));
            };
            replaced(path, &before, search, replace)?
        }
        _ => return Err(format!("for `{path}` give either `search` with `replace`, or `content`, or `delete`: true")),
    };
    if after.len() > FILE_MAX {
        return Err(format!("`{path}` would have more than {FILE_MAX} bytes"));
    }
    Ok(Some(after))
}

fn replaced(path: &str, before: &str, search: &str, replace: &str) -> Result<String, String> {
    // A file with the line ends of Windows is searched for in its own way.
    let crlf = before.contains("\r\n") && !search.contains('\r');
    let (search, replace) = match crlf {
        true => (search.replace('\n', "\r\n"), replace.replace("\r\n", "\n").replace('\n', "\r\n")),
        false => (search.to_owned(), replace.to_owned()),
    };
    let mut found = before.match_indices(&search);
    match (found.next(), found.next()) {
        (Some((at, _)), None) => Ok(format!("{}{replace}{}", &before[..at], &before[at + search.len()..])),
        (Some(_), Some(_)) => Err(format!("`search` stands more than once in `{path}`: take more lines with it")),
        (None, _) => {
            Err(format!("`search` does not stand in `{path}`: repeat the lines as they are, with their indents"))
        }
    }
}

/// Writes a file as it shall be, or removes it. The path is judged once more, for an earlier file may have made it another place.
fn write(folder: &Path, path: &str, text: Option<&str>, rules: &Rules) -> Result<(), String> {
    let place = place(folder, path, rules).map_err(|error| error.to_string())?;
    let written = match text {
        None => fs::remove_file(&place),
        Some(text) => place.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&place, text)),
    };
    written.map_err(|error| format!("`{path}` cannot be written: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules { workflows: false };

    fn edits(edits: Value) -> Edits {
        read(&json!({"summary": "s", "edits": edits}).to_string()).unwrap()
    }

    fn shown() -> BTreeSet<String> {
        BTreeSet::from(["old".to_owned()])
    }

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("src")).unwrap();
        fs::write(folder.path().join("src/a.rs"), "fn a() {}\nfn b() {}\n").unwrap();
        fs::write(folder.path().join("old"), "old").unwrap();
        folder
    }

    #[test]
    fn edits_are_applied_in_order_and_together() {
        let folder = folder();
        let wanted = edits(json!([
            {"path": "src/a.rs", "search": "fn a() {}", "replace": "fn a() { b() }"},
            {"path": "src/a.rs", "search": "{ b() }", "replace": "{ c() }", "content": null, "delete": null},
            {"path": "deep/er/new.rs", "content": "new\n"},
            {"path": "old", "delete": true},
        ]));
        assert_eq!(apply(folder.path(), &wanted, &RULES, &shown()).unwrap(), ["deep/er/new.rs", "old", "src/a.rs"]);
        assert_eq!(fs::read_to_string(folder.path().join("src/a.rs")).unwrap(), "fn a() { c() }\nfn b() {}\n");
        assert_eq!(fs::read_to_string(folder.path().join("deep/er/new.rs")).unwrap(), "new\n");
        assert!(!folder.path().join("old").exists());
    }

    #[test]
    fn one_fault_keeps_all_from_being_applied() {
        let folder = folder();
        let wanted = edits(json!([
            {"path": "src/a.rs", "search": "fn a", "replace": "fn z"},
            {"path": "src/a.rs", "search": "not there", "replace": ""},
            {"path": "src/a.rs", "search": "fn ", "replace": ""},
            {"path": "nowhere", "search": "x", "replace": "y"},
            {"path": "../outside", "content": "x"},
            {"path": ".git/hooks/post-commit", "content": "x"},
            {"path": ".github/workflows/ci.yml", "content": "x"},
            {"path": "src/a.rs", "search": "x", "content": "y"},
            {"path": "none", "delete": true},
            {"path": "src/a.rs", "content": "all of it"},
            {"path": "big", "content": "x".repeat(FILE_MAX + 1)},
        ]));
        let faults = apply(folder.path(), &wanted, &RULES, &shown()).unwrap_err();
        assert_eq!(faults.len(), 10, "{faults:#?}");
        assert_eq!(fs::read_to_string(folder.path().join("src/a.rs")).unwrap(), "fn a() {}\nfn b() {}\n");
        assert!(!folder.path().join("big").exists());
    }

    #[test]
    fn line_ends_of_windows_stay() {
        assert_eq!(replaced("f", "a\r\nb\r\nc\r\n", "a\nb", "x\ny").unwrap(), "x\r\ny\r\nc\r\n");
    }

    #[test]
    fn a_file_that_becomes_a_folder_is_refused_before_anything_is_written() {
        let folder = folder();
        for path in ["old", "new"] {
            let wanted =
                edits(json!([{"path": path, "content": "x"}, {"path": format!("{path}/below"), "content": "x"}]));
            assert!(apply(folder.path(), &wanted, &RULES, &shown()).is_err());
        }
        assert!(!folder.path().join("new").exists());
        assert_eq!(fs::read_to_string(folder.path().join("old")).unwrap(), "old");
    }

    #[test]
    fn answers_are_read_out_of_what_stands_around_them() {
        assert_eq!(
            read("Sure!\n```json\n{\"edits\": [{\"path\": \"a\", \"content\": \"{}\"}]}\n```").unwrap().edits[0].path,
            "a"
        );
        for wrong in ["", "no", "{}", "{\"edits\": []}", "{\"edits\": [{}]}", "{\"edits\": [1]}", "}{"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        let many = json!({"edits": vec![json!({"path": "a", "content": ""}); EDITS_MAX + 1]}).to_string();
        assert!(read(&many).is_err());
    }
}
