//! Members of a forge's answers. What is missing or of another type is an empty value: only what a caller cannot do without is asked
//! for by [`needed`].

use mindos_model::Timestamp;
use serde_json::Value;

use super::ForgeFailure;
use super::model::{Comment, Issue, Label, PullRequest};
use crate::change::log::{MESSAGE_MAX, clip, offset};
use crate::change::{Commit, FileChange, FileKind, Touched, hunks};

/// The blob of an empty file.
const EMPTY_BLOB: &str = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391";
/// Longest text of a person that is kept, in bytes: GitHub takes 64 KiB.
const BODY_MAX: usize = 256 << 10;

pub(super) fn text(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).map(|text| clip(text, BODY_MAX)).unwrap_or_default().to_owned()
}

fn number(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

fn flag(value: &Value, pointer: &str) -> bool {
    value.pointer(pointer).and_then(Value::as_bool).unwrap_or(false)
}

fn time(value: &Value, pointer: &str) -> Option<Timestamp> {
    value.pointer(pointer)?.as_str()?.parse().ok()
}

fn names(value: &Value, pointer: &str) -> Vec<String> {
    let items = value.pointer(pointer).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    // Labels of issues may be plain texts.
    items
        .iter()
        .filter_map(|item| item.as_str().or_else(|| item.get("name")?.as_str()))
        .take(100)
        .map(str::to_owned)
        .collect()
}

/// A text that has to be there.
pub(super) fn needed(value: &Value, pointer: &str, what: &str) -> Result<String, ForgeFailure> {
    let found = text(value, pointer);
    match found.is_empty() {
        true => Err(ForgeFailure::Invalid { what: what.to_owned(), why: format!("`{pointer}` is missing") }),
        false => Ok(found),
    }
}

pub(super) fn pull_request(value: &Value, what: &str) -> Result<PullRequest, ForgeFailure> {
    Ok(PullRequest {
        number: number(value, "/number"),
        title: text(value, "/title"),
        body: text(value, "/body"),
        state: text(value, "/state"),
        draft: flag(value, "/draft"),
        merged: flag(value, "/merged"),
        author: text(value, "/user/login"),
        association: text(value, "/author_association"),
        base_ref: needed(value, "/base/ref", what)?,
        base_sha: needed(value, "/base/sha", what)?,
        head_ref: needed(value, "/head/ref", what)?,
        head_sha: needed(value, "/head/sha", what)?,
        head_repository: value.pointer("/head/repo/full_name").and_then(Value::as_str).map(str::to_owned),
        labels: names(value, "/labels"),
        url: text(value, "/html_url"),
    })
}

pub(super) fn issue(value: &Value) -> Issue {
    Issue {
        number: number(value, "/number"),
        title: text(value, "/title"),
        body: text(value, "/body"),
        state: text(value, "/state"),
        author: text(value, "/user/login"),
        association: text(value, "/author_association"),
        labels: names(value, "/labels"),
        created_at: time(value, "/created_at"),
        updated_at: time(value, "/updated_at"),
        comments_count: number(value, "/comments"),
        url: text(value, "/html_url"),
        is_pull_request: value.get("pull_request").is_some_and(|it| !it.is_null()),
    }
}

pub(super) fn comment(value: &Value) -> Comment {
    let path = value.get("path").and_then(Value::as_str);
    Comment {
        id: number(value, "/id"),
        author: text(value, "/user/login"),
        association: text(value, "/author_association"),
        body: text(value, "/body"),
        created_at: time(value, "/created_at"),
        url: text(value, "/html_url"),
        place: path.map(|path| {
            let line = value.get("line").and_then(Value::as_u64).and_then(|line| u32::try_from(line).ok());
            (path.to_owned(), line)
        }),
    }
}

pub(super) fn label(value: &Value) -> Label {
    Label { name: text(value, "/name"), description: text(value, "/description") }
}

pub(super) fn commit(value: &Value) -> Commit {
    let parents = value.get("parents").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let login = text(value, "/author/login");
    let date = text(value, "/commit/author/date");
    let files = value.get("files").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    Commit {
        sha: text(value, "/sha"),
        parents: parents.iter().map(|parent| text(parent, "/sha")).take(100).collect(),
        author: if login.is_empty() { text(value, "/commit/author/name") } else { login },
        email: text(value, "/commit/author/email"),
        authored: date.parse().ok(),
        offset_minutes: offset(&date),
        message: clip(&text(value, "/commit/message"), MESSAGE_MAX).to_owned(),
        touched: files
            .iter()
            .map(|file| Touched {
                path: text(file, "/filename"),
                kind: kind(file),
                lines: Some((number(file, "/additions"), number(file, "/deletions"))),
            })
            .collect(),
    }
}

fn kind(file: &Value) -> FileKind {
    match file.get("status").and_then(Value::as_str) {
        Some("added" | "copied") => FileKind::Added,
        Some("removed") => FileKind::Removed,
        Some("renamed") => FileKind::Renamed,
        _ => FileKind::Modified,
    }
}

/// A file of a pull request, a comparison or a commit; `lines_left` is what may still be kept of all patches together.
pub(super) fn file(value: &Value, what: &str, lines_left: &mut usize) -> Result<FileChange, ForgeFailure> {
    let (additions, deletions) = (number(value, "/additions"), number(value, "/deletions"));
    let mut file = FileChange {
        path: needed(value, "/filename", what)?,
        old_path: value.get("previous_filename").and_then(Value::as_str).map(str::to_owned),
        kind: kind(value),
        additions,
        deletions,
        ..FileChange::default()
    };
    let lines = additions.saturating_add(deletions);
    match value.get("patch").and_then(Value::as_str) {
        // What is no diff is treated as left out: the numbers stand for themselves.
        Some(patch) => match hunks(patch) {
            Ok((hunks, cut)) => {
                let kept: usize = hunks.iter().map(|hunk| hunk.lines.len()).sum();
                let changed = |hunk: &crate::change::Hunk| {
                    hunk.lines.iter().filter(|it| it.old.is_none() || it.new.is_none()).count()
                };
                let shown = hunks.iter().map(changed).sum::<usize>() as u64;
                if kept > *lines_left {
                    file.cut = true;
                } else {
                    *lines_left -= kept;
                    file.cut = cut || shown != lines;
                    file.hunks = hunks;
                }
            }
            Err(_) => file.cut = true,
        },
        None if lines > 0 => file.cut = true,
        None => {
            file.binary = file.kind != FileKind::Renamed && text(value, "/sha") != EMPTY_BLOB;
        }
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn files_tell_what_they_lack() {
        let mut left = 3;
        let mut read = |value: Value| file(&value, "x", &mut left).unwrap();
        let whole = read(
            json!({"filename": "a", "status": "modified", "additions": 1, "deletions": 1, "patch": "@@ -1 +1 @@\n-a\n+b"}),
        );
        assert!(!whole.cut && whole.hunks.len() == 1);
        let short = read(json!({"filename": "a", "additions": 5, "deletions": 0, "patch": "@@ -0,0 +1 @@\n+b"}));
        assert!(short.cut && short.additions == 5);
        let full = read(json!({"filename": "a", "additions": 1, "deletions": 0, "patch": "@@ -0,0 +1 @@\n+b"}));
        assert!(full.cut && full.hunks.is_empty(), "no room is left");
        assert!(read(json!({"filename": "a", "additions": 5, "deletions": 0})).cut);
        assert!(read(json!({"filename": "a.png", "status": "added", "sha": "1"})).binary);
        assert!(!read(json!({"filename": "a", "status": "added", "sha": EMPTY_BLOB})).binary);
        assert!(read(json!({"filename": "a", "additions": 1, "patch": "noise"})).cut);
        let moved = read(json!({"filename": "b", "previous_filename": "a", "status": "renamed"}));
        assert_eq!((moved.kind, moved.old_path.as_deref(), moved.binary), (FileKind::Renamed, Some("a"), false));
        assert!(file(&json!({"filename": 7}), "x", &mut 1).is_err());
    }

    #[test]
    fn odd_values_are_empty() {
        for value in
            [json!(null), json!([]), json!({"user": 3, "labels": [1, {"name": 2}], "parents": "x", "commit": []})]
        {
            let _ = (issue(&value), comment(&value), label(&value), commit(&value));
            assert!(pull_request(&value, "x").is_err());
        }
        assert_eq!(names(&json!({"l": ["a", {"name": "b"}]}), "/l"), ["a", "b"]);
    }
}
