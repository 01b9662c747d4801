//! Files of a commit, as an intent has them.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::parameters::{Fields, Invalid};
use crate::ingest::base64;

/// Files of one commit.
pub(super) const FILES_MAX: usize = 1000;
/// Bytes of one file.
const FILE_MAX: usize = 8 << 20;
/// Where programs stand that run with a repository's secrets as soon as they are pushed.
const WORKFLOWS: &str = ".github/workflows";

/// A file that a commit changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct File {
    pub(super) path: String,
    pub(super) mode: &'static str,
    pub(super) content: Content,
}

/// What it is then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Text(String),
    /// In base64.
    Bytes(String),
    Deleted,
}

impl File {
    /// Its entry in a tree; `blob` where its bytes were stored before.
    pub(super) fn entry(&self, blob: Option<&str>) -> Value {
        let mut entry = json!({ "path": self.path, "mode": self.mode, "type": "blob" });
        match (&self.content, blob) {
            (_, Some(sha)) => entry["sha"] = json!(sha),
            (Content::Text(text), None) => entry["content"] = json!(text),
            (Content::Bytes(_) | Content::Deleted, None) => entry["sha"] = Value::Null,
        }
        entry
    }

    pub(super) fn len(&self) -> usize {
        match &self.content {
            Content::Text(text) | Content::Bytes(text) => text.len(),
            Content::Deleted => 0,
        }
    }
}

/// Reads the list `files`.
pub(super) fn read(fields: &mut Fields, may_change_workflows: bool) -> Result<Vec<File>, Invalid> {
    let mut paths = BTreeSet::new();
    let mut files = Vec::new();
    for mut one in fields.objects("files", FILES_MAX)? {
        let path = one.needed("path", 4096)?;
        if !is_path(&path) {
            let reason = "expected the path of a file within the repository, such as `src/main.rs`";
            return Err(one.wrong("path", reason));
        }
        if !may_change_workflows && path.to_ascii_lowercase().starts_with(WORKFLOWS) {
            let reason = format!("`{WORKFLOWS}` may not be changed here: set `github.workflows: true` to let it");
            return Err(one.wrong("path", reason));
        }
        if !paths.insert(path.clone()) {
            return Err(one.wrong("path", "stands twice"));
        }
        let mode = one.word("mode", &["100644", "100755", "120000"])?.unwrap_or("100644");
        let text = one.text("content", FILE_MAX)?;
        let encoded = one.text("content_base64", 2 * FILE_MAX)?;
        let content = match (text, encoded, one.boolean("delete", false)?) {
            (Some(text), None, false) => Content::Text(text),
            (None, Some(encoded), false) => bytes(&one, &encoded)?,
            (None, None, true) => Content::Deleted,
            _ => return Err(one.wrong("content", "expected one of content, content_base64 and `delete: true`")),
        };
        one.end("path, mode, content, content_base64, delete")?;
        files.push(File { path, mode, content });
    }
    // One that is a file cannot be a folder too.
    let kept: BTreeSet<&str> =
        files.iter().filter(|file| file.content != Content::Deleted).map(|file| file.path.as_str()).collect();
    let above = |path: &&str| -> Option<String> {
        let mut folders = path.match_indices('/').map(|(at, _)| &path[..at]);
        folders.find(|folder| kept.contains(folder)).map(str::to_owned)
    };
    if let Some(folder) = kept.iter().find_map(above) {
        return Err(fields.wrong("files", format!("`{folder}` is a file and a folder")));
    }
    Ok(files)
}

/// Text where it is that, for text needs no request of its own.
fn bytes(fields: &Fields, encoded: &str) -> Result<Content, Invalid> {
    let compact: String = encoded.split_ascii_whitespace().collect();
    let decoded = base64::decode(&compact).ok_or_else(|| fields.wrong("content_base64", "expected base64"))?;
    Ok(match String::from_utf8(decoded) {
        Ok(text) if !text.contains('\0') => Content::Text(text),
        _ => Content::Bytes(compact),
    })
}

/// Whether a path lies within a repository and is none of git's own.
fn is_path(path: &str) -> bool {
    let is_part = |part: &str| {
        let lower = part.to_ascii_lowercase();
        let bare = lower.trim_end_matches(['.', ' ']);
        !part.is_empty() && part != "." && part != ".." && bare != ".git" && !lower.starts_with("git~")
    };
    !path.chars().any(|letter| letter.is_control() || letter == '\\') && path.split('/').all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(files: Value) -> Result<Vec<File>, String> {
        let mut fields = Fields::of(json!({ "files": files }), "").unwrap();
        read(&mut fields, false).map_err(|error| error.to_string())
    }

    #[test]
    fn files_are_text_bytes_or_gone() {
        let read = files(json!([
            { "path": "a", "content": "x" }, { "path": "b/c", "content_base64": "eA==", "mode": "100755" },
            { "path": "d", "content_base64": "/w==" }, { "path": "e", "delete": true },
        ]));
        let contents: Vec<_> = read.unwrap().into_iter().map(|file| file.content).collect();
        let text = Content::Text("x".to_owned());
        assert_eq!(contents, [text.clone(), text, Content::Bytes("/w==".to_owned()), Content::Deleted]);
    }

    #[test]
    fn paths_stay_within_the_repository() {
        for path in
            ["/a", "../a", "a/../b", "a//b", ".git/config", "a/.GIT/x", ".git./x", "a\\b", "a\nb", "", "git~1/x", "a/"]
        {
            let error = files(json!([{ "path": path, "content": "x" }])).unwrap_err();
            assert!(error.starts_with("files[0].path"), "{path}: {error}");
        }
        for path in [".github/workflows/ci.yml", ".GitHub/Workflows/x"] {
            assert!(files(json!([{ "path": path, "content": "x" }])).unwrap_err().contains("github.workflows"));
        }
        assert!(files(json!([{ "path": ".gitignore", "content": "x" }])).is_ok());
    }

    #[test]
    fn what_does_not_fit_together_is_named() {
        let twice = json!([{ "path": "a", "content": "x" }, { "path": "a", "delete": true }]);
        assert_eq!(files(twice).unwrap_err(), "files[1].path: stands twice");
        let both = json!([{ "path": "a", "content": "x", "delete": true }]);
        assert!(files(both).unwrap_err().starts_with("files[0].content: expected one of"));
        let folder = json!([{ "path": "a", "content": "x" }, { "path": "a/b", "content": "x" }]);
        assert_eq!(files(folder).unwrap_err(), "files: `a` is a file and a folder");
        assert!(files(json!([{ "path": "a", "content_base64": "!" }])).unwrap_err().contains("expected base64"));
    }
}
