//! The folders of one task: a trusted clone, and copies of its files for what is not trusted. All of them are gone with the task.
//!
//! ```text
//!   <workspace>/repo-7-<random>/   .lock (held as long as the task lives)
//!       scratch/                   what a sandbox needs: its root, the proxy's socket
//!       edit/, checks/, before/    copies of the clone's files, without .git
//! ```
//! Invariants: git runs on the clone's own `.git` alone, which nothing untrusted can write; what a command left in a copy is compared by
//! reading it. A folder whose lock nobody holds belongs to a process that died, and is removed by the next task.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// Most files of a copy.
const FILES_MAX: usize = 200_000;
const LOCK: &str = ".lock";

/// The folder of one task.
#[derive(Debug)]
pub struct Workspace {
    folder: PathBuf,
    /// Held until the folder is gone.
    _lock: File,
}

impl Workspace {
    /// Makes one under `parent`, which is made, too, and removes those whose tasks died.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn make(parent: &Path, name: &str, bits: u128) -> io::Result<Workspace> {
        fs::create_dir_all(parent)?;
        sweep(parent);
        let folder = parent.join(format!("{name}-{bits:032x}"));
        fs::DirBuilder::new().mode(0o700).create(&folder)?;
        let lock = File::create(folder.join(LOCK))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        // Processes of a sandbox that become somebody else look through here at what is theirs.
        fs::create_dir(folder.join("scratch"))?;
        Ok(Workspace { folder, _lock: lock })
    }

    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    #[must_use]
    pub fn scratch(&self) -> PathBuf {
        self.folder.join("scratch")
    }

    /// A copy of a tree's files under this name, made anew.
    ///
    /// # Errors
    /// When it cannot be made, or the tree has too many files.
    pub fn copy(&self, from: &Path, name: &str) -> io::Result<PathBuf> {
        let to = self.folder.join(name);
        remove(&to)?;
        copy(from, &to)?;
        Ok(to)
    }

    /// As [`Workspace::copy`], on a thread where it keeps nobody waiting.
    ///
    /// # Errors
    /// As [`Workspace::copy`].
    pub async fn copied(&self, from: &Path, name: &str) -> io::Result<PathBuf> {
        let (from, to) = (from.to_owned(), self.folder.join(name));
        let copied = move || remove(&to).and_then(|()| copy(&from, &to)).map(|()| to);
        tokio::task::spawn_blocking(copied).await.map_err(io::Error::other)?
    }

    /// As [`Workspace::clean_up`], on a thread where it keeps nobody waiting.
    ///
    /// # Errors
    /// As [`Workspace::clean_up`].
    pub async fn cleaned_up(&self) -> io::Result<()> {
        let folder = self.folder.clone();
        tokio::task::spawn_blocking(move || remove(&folder)).await.map_err(io::Error::other)?
    }

    /// Removes it, and says whether that went well. Dropping does the same in silence.
    ///
    /// # Errors
    /// When something of it stays.
    pub fn clean_up(&self) -> io::Result<()> {
        remove(&self.folder)
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        let _ = self.clean_up();
    }
}

/// Removes folders of tasks whose processes died.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let is_ours = entry.file_name().to_str().is_some_and(|name| name.starts_with("repo-"));
        let Some(lock) = is_ours.then(|| File::open(entry.path().join(LOCK)).ok()).flatten() else { continue };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = remove(&entry.path());
        }
    }
}

/// Removes a folder with all that is in it, also where its writer took away the right to.
fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(_) => {
            unlock(folder);
            fs::remove_dir_all(folder)
        }
        Ok(()) => Ok(()),
    }
}

fn unlock(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let _ = fs::set_permissions(folder, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            unlock(&entry.path());
        }
    }
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut open = vec![(from.to_owned(), to.to_owned())];
    let mut files = 0;
    while let Some((from, to)) = open.pop() {
        fs::create_dir_all(&to)?;
        for entry in fs::read_dir(&from)? {
            let entry = entry?;
            let (name, kind) = (entry.file_name(), entry.file_type()?);
            files += 1;
            if files > FILES_MAX {
                return Err(io::Error::other(format!("the repository has more than {FILES_MAX} files")));
            }
            match (kind.is_dir(), kind.is_file(), kind.is_symlink()) {
                _ if name == ".git" => {}
                (true, ..) => open.push((entry.path(), to.join(name))),
                (_, true, _) => drop(fs::copy(entry.path(), to.join(name))?),
                (.., true) => symlink(fs::read_link(entry.path())?, to.join(name))?,
                _ => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_gone_with_their_task_and_those_of_dead_ones_with_the_next() {
        let parent = tempfile::tempdir().unwrap();
        let first = Workspace::make(parent.path(), "repo-7", 1).unwrap();
        let second = Workspace::make(parent.path(), "repo-7", 2).unwrap();
        assert!(first.folder().exists() && second.folder().exists(), "both live");
        let path = first.folder().to_owned();
        drop(first);
        assert!(!path.exists());
        // A process that died holds no lock.
        let dead = parent.path().join("repo-9-dead");
        fs::create_dir_all(dead.join("edit")).unwrap();
        File::create(dead.join(LOCK)).unwrap();
        // What is not ours stays.
        fs::create_dir(parent.path().join("other")).unwrap();
        Workspace::make(parent.path(), "repo-8", 3).unwrap();
        assert!(!dead.exists() && parent.path().join("other").exists() && second.folder().exists());
    }

    #[test]
    fn copies_have_no_git_and_follow_no_link() {
        let parent = tempfile::tempdir().unwrap();
        let from = parent.path().join("clone");
        fs::create_dir_all(from.join(".git")).unwrap();
        fs::create_dir_all(from.join("sub/.git")).unwrap();
        fs::write(from.join(".git/config"), "secret").unwrap();
        fs::write(from.join("sub/a"), "x").unwrap();
        symlink("/etc/passwd", from.join("link")).unwrap();
        let workspace = Workspace::make(&parent.path().join("w"), "repo-7", 1).unwrap();
        let copy = workspace.copy(&from, "edit").unwrap();
        assert!(!copy.join(".git").exists() && !copy.join("sub/.git").exists());
        assert_eq!(fs::read_link(copy.join("link")).unwrap(), Path::new("/etc/passwd"));
        fs::write(copy.join("stale"), "").unwrap();
        assert!(!workspace.copy(&from, "edit").unwrap().join("stale").exists());
        workspace.clean_up().unwrap();
        assert!(!workspace.folder().exists());
    }
}
