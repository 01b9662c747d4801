//! A throw-away clone: one commit of a repository in a directory of its own, gone when it is dropped.
//!
//! ```text
//!  ls-remote --> fetch (shallow; its size is watched) --> ls-tree (how much there is to write) --> checkout
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mindos_outgoing::Target;

use super::git::{Git, Run};
use super::{Forge, ForgeFailure};
use crate::change::{COMMITS_MAX, Change, DIFF_MAX, Tree, log, parse};
use crate::text::clipped;

/// Most files that are checked out.
const FILES_MAX: u64 = 200_000;
/// Longest list of files or references that is taken from git, in bytes.
const LIST_MAX: usize = 64 << 20;
const LOG_MAX: usize = 32 << 20;
/// How far history is fetched, step by step, to find where two commits parted.
const DEEPER: [u32; 3] = [50, 500, 5000];
/// How often the removal of a directory is tried, and how long apart.
const REMOVALS: u32 = 50;
const REMOVAL_WAIT: Duration = Duration::from_millis(10);

/// Which commit is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The tip of the default branch, whatever it is called.
    Default,
    /// The tip of a branch, a tag, or a whole name such as `refs/pull/7/head`.
    Ref(String),
    /// A commit, by its 40 digits.
    Commit(String),
}

/// How a clone is made.
#[derive(Clone, Debug)]
pub struct CloneWish {
    pub at: Wanted,
    /// Commits of history, from 1.
    pub depth: u32,
    /// How long all of it may take.
    pub timeout: Duration,
    /// Most bytes that are fetched, and most that are written as files.
    pub bytes_max: u64,
    /// Whether links of the repository become links; else they are files that hold where they lead.
    pub links: bool,
    /// Where the directory is made; unset: where the machine keeps temporary files.
    pub below: Option<PathBuf>,
}

impl Default for CloneWish {
    /// The contract's depth and time, and 2 GiB.
    fn default() -> CloneWish {
        CloneWish {
            at: Wanted::Default,
            depth: 1,
            timeout: Duration::from_secs(300),
            bytes_max: 2 << 30,
            links: false,
            below: None,
        }
    }
}

/// A clone.
#[derive(Debug)]
pub struct Clone {
    directory: Directory,
    url: String,
    wish: CloneWish,
    /// The branch that is checked out; `None` where it is a tag or a commit.
    pub branch: Option<String>,
    /// The commit that is checked out.
    pub commit: String,
    repository: String,
    online: Git,
}

impl Forge {
    /// Clones the repository. Dropping the future ends git and removes what it left.
    ///
    /// # Errors
    /// As [`ForgeFailure`] says.
    pub async fn clone(&self, wish: CloneWish) -> Result<Clone, ForgeFailure> {
        let url = self.access.clone_url.trim().to_owned();
        let server = Target::parse(&url, false)
            .map_err(|error| ForgeFailure::Access { field: "clone_url", why: error.to_string() })?;
        let online = Git::online(wish.timeout, wish.links, &server, &self.access.token);
        let directory = Directory::make(wish.below.as_deref())?;
        let repository = self.access.repository.clone();
        let mut clone =
            Clone { directory, url, wish, branch: None, commit: String::new(), repository, online };
        clone.step("init", &["init", "--quiet", "--template=", "."]).await?;
        // Kept, so that git run there by others sees the files as they were written.
        clone.step("init", &["config", "core.symlinks", if clone.wish.links { "true" } else { "false" }]).await?;
        let (name, branch) = clone.named().await?;
        clone.fetch("fetch", &name, clone.wish.depth.max(1)).await?;
        clone.commit = clone.resolved("FETCH_HEAD").await?;
        clone.measure().await?;
        match &branch {
            Some(branch) => clone.step("checkout", &["checkout", "--quiet", "--no-track", "-B", branch, "FETCH_HEAD", "--"]).await?,
            None => clone.step("checkout", &["checkout", "--quiet", "--detach", "FETCH_HEAD", "--"]).await?,
        };
        clone.branch = branch;
        Ok(clone)
    }
}

impl Clone {
    /// Where its files are.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.directory.0
    }

    /// Its files.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn tree(&self) -> Result<Tree, ForgeFailure> {
        Tree::of_directory(self.path(), self.commit.clone())
            .map_err(|error| ForgeFailure::Git { step: "listing", why: error.to_string() })
    }

    /// What leads from where `head` and `base` parted to `head`; both are commits, branches or tags of the repository. History that is
    /// not there yet is fetched. Where no common commit is found, the two are compared as they are.
    ///
    /// # Errors
    /// As [`ForgeFailure`] says.
    pub async fn change(&self, base: &str, head: &str) -> Result<Change, ForgeFailure> {
        let (base, head) = (self.had(base).await?, self.had(head).await?);
        let mut parted = self.merge_base(&base, &head).await?;
        for depth in DEEPER {
            if parted.is_some() || !self.is_shallow().await? {
                break;
            }
            self.fetch("fetch history", &base, depth).await?;
            self.fetch("fetch history", &head, depth).await?;
            parted = self.merge_base(&base, &head).await?;
        }
        let from = parted.as_deref().unwrap_or(&base);
        let diff = [
            "diff", "--no-color", "--no-ext-diff", "--no-textconv", "--find-renames", "--unified=3", "--src-prefix=a/",
            "--dst-prefix=b/", "--submodule=short", "--ignore-submodules=none", from, &head, "--",
        ];
        let (files, cut) = match self.offline("diff", &diff, DIFF_MAX).await {
            Ok(diff) => parse(&diff).map_err(|error| ForgeFailure::Git { step: "diff", why: error.to_string() })?,
            Err(failure) => return Err(failure),
        };
        let range = format!("{from}..{head}");
        let number = format!("--max-count={}", COMMITS_MAX + 1);
        let log_arguments =
            ["log", "-z", "--numstat", "--find-renames", "--no-ext-diff", "--no-textconv", &number, log::FORMAT, &range, "--"];
        let (commits, commits_cut) = log::parse(&self.offline("log", &log_arguments, LOG_MAX).await?);
        Ok(Change {
            repository: self.repository.clone(),
            number: None,
            base: from.to_owned(),
            head,
            files,
            commits,
            cut: cut || commits_cut,
        })
    }

    /// Runs git in the clone, without the outside and without the token. `step` names it in messages.
    ///
    /// # Errors
    /// As [`ForgeFailure`] says.
    pub async fn run(&self, step: &'static str, arguments: &[&str]) -> Result<Vec<u8>, ForgeFailure> {
        self.offline(step, arguments, LIST_MAX).await
    }

    async fn step(&self, step: &'static str, arguments: &[&str]) -> Result<Vec<u8>, ForgeFailure> {
        self.offline(step, arguments, LIST_MAX).await
    }

    async fn offline(&self, step: &'static str, arguments: &[&str], output_max: usize) -> Result<Vec<u8>, ForgeFailure> {
        let git = Git::offline(self.wish.timeout, self.wish.links);
        git.run(Run { step, directory: self.path(), arguments, output_max, watched: None }).await
    }

    /// The name to fetch, and the branch that it is.
    async fn named(&self) -> Result<(String, Option<String>), ForgeFailure> {
        let name = match &self.wish.at {
            Wanted::Commit(commit) if is_commit(commit) => return Ok((commit.clone(), None)),
            Wanted::Commit(_) => return Err(unusable("commit", "is not 40 hexadecimal digits")),
            Wanted::Ref(name) if !is_ref(name) => return Err(unusable("ref", "is not the name of a branch or tag")),
            Wanted::Ref(name) if name.starts_with("refs/") => {
                return Ok((name.clone(), name.strip_prefix("refs/heads/").map(str::to_owned)));
            }
            Wanted::Ref(name) => Some(name),
            Wanted::Default => None,
        };
        let (head, tag) = match name {
            Some(name) => (format!("refs/heads/{name}"), format!("refs/tags/{name}")),
            None => ("HEAD".to_owned(), "HEAD".to_owned()),
        };
        let listed = self.remote("ls-remote", &["ls-remote", "--symref", "--", &self.url, &head, &tag], None).await?;
        let listed = String::from_utf8_lossy(&listed);
        // `ref: refs/heads/main TAB HEAD`, then `commit TAB name`; a pattern fits the ends of names, so they are compared whole.
        let has = |wanted: &str| listed.lines().any(|line| line.split_once('\t').is_some_and(|(_, name)| name == wanted));
        match name {
            Some(name) if has(&head) => Ok((head, Some(name.clone()))),
            Some(_) if has(&tag) => Ok((tag, None)),
            Some(name) => Err(ForgeFailure::NotFound { what: format!("branch or tag {}", clipped(name, 80)) }),
            None if !has("HEAD") => Err(ForgeFailure::NotFound { what: "commit in the repository".to_owned() }),
            None => {
                let branch = listed.lines().find_map(|line| line.strip_prefix("ref: refs/heads/")?.strip_suffix("\tHEAD"));
                let branch = branch.filter(|branch| is_ref(branch)).map(str::to_owned);
                Ok((branch.as_ref().map_or_else(|| "HEAD".to_owned(), |it| format!("refs/heads/{it}")), branch))
            }
        }
    }

    async fn fetch(&self, step: &'static str, name: &str, depth: u32) -> Result<(), ForgeFailure> {
        let depth = format!("--depth={depth}");
        let arguments = [
            "fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--no-auto-maintenance", "--update-shallow", &depth, "--",
            &self.url, name,
        ];
        let objects = self.path().join(".git");
        self.remote(step, &arguments, Some((&objects, self.wish.bytes_max))).await.map(drop)
    }

    async fn remote(
        &self,
        step: &'static str,
        arguments: &[&str],
        watched: Option<(&Path, u64)>,
    ) -> Result<Vec<u8>, ForgeFailure> {
        self.online.run(Run { step, directory: self.path(), arguments, output_max: LIST_MAX, watched }).await
    }

    /// The commit that a name means here.
    async fn resolved(&self, name: &str) -> Result<String, ForgeFailure> {
        let spec = format!("{name}^{{commit}}");
        let found = self.step("rev-parse", &["rev-parse", "--verify", "--quiet", "--end-of-options", &spec]).await?;
        let found = String::from_utf8_lossy(&found).trim().to_owned();
        match is_commit(&found) {
            true => Ok(found),
            false => Err(ForgeFailure::NotFound { what: "such branch, tag or commit".to_owned() }),
        }
    }

    /// The commit that a name means, fetched where it is not here.
    async fn had(&self, name: &str) -> Result<String, ForgeFailure> {
        if !is_ref(name) {
            return Err(unusable("ref", "is not the name of a branch, tag or commit"));
        }
        if is_commit(name)
            && let Ok(found) = self.resolved(name).await
        {
            return Ok(found);
        }
        if self.branch.as_deref() == Some(name) || name == self.commit {
            return Ok(self.commit.clone());
        }
        self.fetch("fetch", name, self.wish.depth.max(1)).await?;
        self.resolved("FETCH_HEAD").await
    }

    async fn merge_base(&self, base: &str, head: &str) -> Result<Option<String>, ForgeFailure> {
        match self.step("merge-base", &["merge-base", base, head]).await {
            Ok(found) => {
                let found = String::from_utf8_lossy(&found).trim().to_owned();
                Ok(is_commit(&found).then_some(found))
            }
            // It ends with 1 and without a word where there is none.
            Err(ForgeFailure::Git { .. }) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    async fn is_shallow(&self) -> Result<bool, ForgeFailure> {
        Ok(self.step("rev-parse", &["rev-parse", "--is-shallow-repository"]).await?.starts_with(b"true"))
    }

    /// Refuses what would be too much to write, before it is written: a small pack can hold a great deal.
    async fn measure(&self) -> Result<(), ForgeFailure> {
        let listed = self.step("ls-tree", &["ls-tree", "-r", "-l", "-z", "--full-tree", "FETCH_HEAD"]).await?;
        let (mut files, mut bytes) = (0u64, 0u64);
        for entry in listed.split(|byte| *byte == 0).filter(|entry| !entry.is_empty()) {
            let head = entry.split(|byte| *byte == b'\t').next().unwrap_or_default();
            let size = head.rsplit(|byte| *byte == b' ').next().and_then(|size| std::str::from_utf8(size).ok());
            files += 1;
            bytes = bytes.saturating_add(size.and_then(|size| size.parse().ok()).unwrap_or(0));
        }
        let too_large = |max, unit| Err(ForgeFailure::TooLarge { what: "the repository".to_owned(), max, unit });
        match () {
            () if files > FILES_MAX => too_large(FILES_MAX, "files"),
            () if bytes > self.wish.bytes_max => too_large(self.wish.bytes_max, "bytes"),
            () => Ok(()),
        }
    }
}

fn unusable(field: &'static str, why: &str) -> ForgeFailure {
    ForgeFailure::Access { field, why: why.to_owned() }
}

fn is_commit(name: &str) -> bool {
    name.len() == 40 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether a name is one that git takes for a branch or tag, and no option or pattern.
fn is_ref(name: &str) -> bool {
    let odd = |letter: char| letter.is_control() || letter.is_whitespace() || "~^:?*[\\".contains(letter);
    !name.is_empty()
        && name.len() <= 255
        && !name.starts_with(['-', '/', '+', '.'])
        && !name.ends_with(['/', '.'])
        && !name.contains("..")
        && !name.contains("//")
        && !name.contains("@{")
        && name != "@"
        && !name.split('/').any(|part| part.ends_with(".lock") || part.starts_with('.'))
        && !name.contains(odd)
}

/// A directory of our own, removed when it is dropped.
#[derive(Debug)]
struct Directory(PathBuf);

impl Directory {
    fn make(below: Option<&Path>) -> Result<Directory, ForgeFailure> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("mindos-clone-").permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
        let made = match below {
            Some(below) => builder.tempdir_in(below),
            None => builder.tempdir(),
        };
        let made = made.map_err(|error: io::Error| ForgeFailure::Git { step: "directory", why: error.to_string() })?;
        Ok(Directory(made.keep()))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        for _ in 0..REMOVALS {
            match fs::remove_dir_all(&self.0) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => std::thread::sleep(REMOVAL_WAIT),
                _ => return,
            }
        }
    }
}
