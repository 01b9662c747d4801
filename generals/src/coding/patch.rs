//! What a task changed, as git sees it: compared with the commit that the clone stands at, as the list of files that the plane commits.
//!
//! Invariant: git runs here without hooks, without settings of the machine or the user, without a network and without a question; it reads
//! what a command left in a folder, and never the `.git` that a command may have left there.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use mindos_sdk::base64;
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use super::edits::{CHANGE_MAX, FILE_MAX, FILES_MAX};
use super::paths::{self, Rules};

/// How long one call of git may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// Most bytes that are taken of what git writes.
const OUTPUT_MAX: usize = 16 << 20;

/// A file of a commit, as the `branch` intent lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_base64: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete: Option<bool>,
}

#[derive(Debug, thiserror::Error)]
pub enum PatchError {
    #[error("git cannot be run: {0}")]
    NoGit(std::io::Error),
    #[error("git {what} took longer than {} s", PATIENCE.as_secs())]
    TooSlow { what: String },
    #[error("git {what} failed: {why}")]
    Failed { what: String, why: String },
    #[error("the change is too large: {0}")]
    TooLarge(String),
    #[error("the change is not one that this agent makes: {0}")]
    Forbidden(String),
}

/// The clone that a task works on.
#[derive(Clone, Debug)]
pub struct Clone {
    folder: PathBuf,
    git: PathBuf,
}

impl Clone {
    /// A clone that stands at `folder`.
    #[must_use]
    pub fn at(folder: &Path) -> Clone {
        Clone { folder: folder.to_owned(), git: folder.join(".git") }
    }

    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes all files as the commit has them.
    ///
    /// # Errors
    /// When git fails.
    pub async fn reset(&self) -> Result<(), PatchError> {
        self.git(&self.folder, &["reset", "--quiet", "--hard", "HEAD"]).await?;
        self.git(&self.folder, &["clean", "-ffdxq"]).await.map(drop)
    }

    /// The commit.
    ///
    /// # Errors
    /// When git fails.
    pub async fn head(&self) -> Result<String, PatchError> {
        let output = self.git(&self.folder, &["rev-parse", "HEAD"]).await?;
        Ok(String::from_utf8_lossy(&output).trim().to_owned())
    }

    /// What differs in the clone's own files after these were edited, ignored ones among them.
    ///
    /// # Errors
    /// When git fails, or the change is none that may be made.
    pub async fn changes(&self, edited: &[String], rules: &Rules) -> Result<Vec<FileEntry>, PatchError> {
        self.git(&self.folder, &["add", "--all", "--", "."]).await?;
        let there: Vec<&str> =
            edited.iter().map(String::as_str).filter(|path| self.folder.join(path).exists()).collect();
        if !there.is_empty() {
            let arguments: Vec<&str> = ["add", "--force", "--"].into_iter().chain(there).collect();
            self.git(&self.folder, &arguments).await?;
        }
        self.staged(rules).await
    }

    /// What differs in a copy of the clone's files that a command edited. The clone's files are made the same.
    ///
    /// # Errors
    /// As [`Clone::changes`].
    pub async fn taken_over(&self, copy: &Path, rules: &Rules) -> Result<Vec<FileEntry>, PatchError> {
        self.git(copy, &["add", "--all", "--", "."]).await?;
        let changes = self.staged(rules).await?;
        for gone in changes.iter().filter(|entry| entry.delete == Some(true)) {
            let place = paths::place(&self.folder, &gone.path, rules)
                .map_err(|error| PatchError::Forbidden(error.to_string()))?;
            let _ = std::fs::remove_file(place);
        }
        self.git(&self.folder, &["checkout-index", "--all", "--force"]).await?;
        Ok(changes)
    }

    /// Writes the files as the commit has them to a folder that is not there yet.
    ///
    /// # Errors
    /// When git fails.
    pub async fn export(&self, to: &Path) -> Result<(), PatchError> {
        std::fs::create_dir_all(to)
            .map_err(|error| PatchError::Failed { what: "export".to_owned(), why: error.to_string() })?;
        // An index of its own, so that the clone's stays as it is.
        for arguments in [["read-tree", "HEAD"], ["checkout-index", "--all"]] {
            let mut command = self.command(to, &arguments);
            command.env("GIT_INDEX_FILE", self.git.join("export-index"));
            run(command, arguments[0]).await?;
        }
        Ok(())
    }

    /// A file as the commit has it; none where there is none, or it is no text.
    ///
    /// # Errors
    /// When git fails.
    pub async fn committed(&self, path: &str) -> Result<Option<String>, PatchError> {
        let listed = self.git(&self.folder, &["ls-tree", "-z", "HEAD", "--", path]).await?;
        let listed = String::from_utf8_lossy(&listed);
        // `<mode> blob <object> TAB <path>`; a link names another file, and is not followed.
        let words: Vec<&str> = listed.split(['\t', ' ']).collect();
        let &[mode, "blob", blob, ..] = words.as_slice() else { return Ok(None) };
        if !mode.starts_with("100") {
            return Ok(None);
        }
        Ok(String::from_utf8(self.git(&self.folder, &["cat-file", "blob", blob]).await?).ok())
    }

    /// Makes the clone's files what a list says.
    ///
    /// # Errors
    /// When one of them may not be written, or cannot.
    pub fn write(&self, entries: &[FileEntry], rules: &Rules) -> Result<(), PatchError> {
        use std::os::unix::fs::PermissionsExt;
        for FileEntry { path, mode, content, content_base64, delete } in entries {
            let place =
                paths::place(&self.folder, path, rules).map_err(|error| PatchError::Forbidden(error.to_string()))?;
            let bytes = match (content, content_base64) {
                (Some(text), _) => text.clone().into_bytes(),
                (None, Some(text)) => crate::request::base64_decode(text).unwrap_or_default(),
                (None, None) => Vec::new(),
            };
            let written = if *delete == Some(true) {
                std::fs::remove_file(&place).or_else(|error| if place.exists() { Err(error) } else { Ok(()) })
            } else {
                let made =
                    place.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(&place, bytes));
                let bits = if mode.as_deref() == Some("100755") { 0o755 } else { 0o644 };
                made.and_then(|()| std::fs::set_permissions(&place, std::fs::Permissions::from_mode(bits)))
            };
            written.map_err(|error| PatchError::Failed { what: "write".to_owned(), why: error.to_string() })?;
        }
        Ok(())
    }

    /// What the index has that the commit has not.
    async fn staged(&self, rules: &Rules) -> Result<Vec<FileEntry>, PatchError> {
        let arguments = ["diff", "--cached", "--raw", "-z", "--no-renames", "--no-ext-diff", "--no-abbrev", "HEAD"];
        let raw = self.git(&self.folder, &arguments).await?;
        let raw =
            String::from_utf8(raw).map_err(|_| PatchError::Forbidden("the name of a file is not UTF-8".to_owned()))?;
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for Staged { path, before, after, blob } in staged(&raw)? {
            if entries.len() == FILES_MAX {
                return Err(PatchError::TooLarge(format!("more than {FILES_MAX} files")));
            }
            paths::check(path, rules).map_err(|error| PatchError::Forbidden(error.to_string()))?;
            let plain = |mode: &str| matches!(mode, "100644" | "100755" | "000000");
            if !plain(before) || !plain(after) {
                return Err(PatchError::Forbidden(format!(
                    "`{}` is a link or a module",
                    crate::text::clipped(path, 100)
                )));
            }
            let entry =
                FileEntry { path: path.to_owned(), mode: None, content: None, content_base64: None, delete: None };
            if after == "000000" {
                entries.push(FileEntry { delete: Some(true), ..entry });
                continue;
            }
            let size = self.git(&self.folder, &["cat-file", "-s", blob]).await?;
            let size = String::from_utf8_lossy(&size).trim().parse::<usize>().unwrap_or(usize::MAX);
            bytes += size;
            if size > FILE_MAX || bytes > CHANGE_MAX {
                let path = crate::text::clipped(path, 100);
                return Err(PatchError::TooLarge(format!(
                    "`{path}` with {size} bytes; at most {FILE_MAX} a file and {CHANGE_MAX} in all"
                )));
            }
            let content = self.git(&self.folder, &["cat-file", "blob", blob]).await?;
            let (content, content_base64) = match String::from_utf8(content) {
                Ok(text) => (Some(text), None),
                Err(error) => (None, Some(base64(error.as_bytes()))),
            };
            entries.push(FileEntry { mode: Some(after.to_owned()), content, content_base64, ..entry });
        }
        Ok(entries)
    }

    /// Runs git on this clone with the files of a folder.
    async fn git(&self, files: &Path, arguments: &[&str]) -> Result<Vec<u8>, PatchError> {
        run(self.command(files, arguments), arguments.first().copied().unwrap_or_default()).await
    }

    fn command(&self, files: &Path, arguments: &[&str]) -> Command {
        let mut command = bare();
        command.arg("--git-dir").arg(&self.git).arg("--work-tree").arg(files).args(arguments).current_dir(files);
        command
    }
}

/// Makes a repository of a copy, for commands that want one. Nothing reads it afterwards.
///
/// # Errors
/// When git fails.
pub async fn begin(copy: &Path) -> Result<(), PatchError> {
    for arguments in [
        &["init", "--quiet", "--template="][..],
        &["add", "--all"],
        &[
            "-c",
            "user.name=base",
            "-c",
            "user.email=base@localhost",
            "commit",
            "--quiet",
            "--allow-empty",
            "--no-verify",
            "-m",
            "base",
        ],
    ] {
        let mut command = bare();
        command.args(arguments).current_dir(copy);
        run(command, "init").await?;
    }
    Ok(())
}

fn bare() -> Command {
    let mut command = Command::new("git");
    command.env_clear();
    for name in ["PATH", "TMPDIR"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
        .env("HOME", "/nonexistent")
        .env("LC_ALL", "C")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_CONFIG_NOSYSTEM", "1");
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_OPTIONAL_LOCKS", "0").env("GIT_LITERAL_PATHSPECS", "1");
    for setting in [
        "core.hooksPath=/dev/null",
        "core.fsmonitor=false",
        "core.untrackedCache=false",
        "core.autocrlf=false",
        "core.quotePath=false",
        "core.symlinks=true",
        "commit.gpgSign=false",
        "gc.auto=0",
        "maintenance.auto=false",
        "protocol.allow=never",
        "safe.directory=*",
        "advice.addEmbeddedRepo=false",
    ] {
        command.arg("-c").arg(setting);
    }
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

async fn run(mut command: Command, what: &str) -> Result<Vec<u8>, PatchError> {
    let what = what.to_owned();
    let output = match tokio::time::timeout(PATIENCE, command.output()).await {
        Err(_) => return Err(PatchError::TooSlow { what }),
        Ok(output) => output.map_err(PatchError::NoGit)?,
    };
    if !output.status.success() {
        let why = crate::text::clipped(&String::from_utf8_lossy(&output.stderr), 300);
        return Err(PatchError::Failed { what, why });
    }
    if output.stdout.len() > OUTPUT_MAX {
        return Err(PatchError::TooLarge(format!("git {what} wrote more than {OUTPUT_MAX} bytes")));
    }
    Ok(output.stdout)
}

struct Staged<'a> {
    path: &'a str,
    before: &'a str,
    after: &'a str,
    blob: &'a str,
}

/// Reads `git diff --raw -z`: `:<mode> <mode> <object> <object> <letter>`, a zero, the path, a zero.
fn staged(raw: &str) -> Result<Vec<Staged<'_>>, PatchError> {
    let odd = || PatchError::Failed { what: "diff".to_owned(), why: "wrote what is no list of changes".to_owned() };
    let mut parts = raw.split_terminator('\0');
    let mut found = Vec::new();
    while let Some(head) = parts.next() {
        let words: Vec<&str> = head.strip_prefix(':').ok_or_else(odd)?.split(' ').collect();
        let (&[before, after, _, blob, _], Some(path)) = (words.as_slice(), parts.next()) else { return Err(odd()) };
        found.push(Staged { path, before, after, blob });
    }
    Ok(found)
}

#[cfg(test)]
#[path = "patch_tests.rs"]
mod tests;
