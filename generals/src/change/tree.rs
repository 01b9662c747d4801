//! The files of a repository at one commit, from a clone or from the forge's API.
//!
//! Invariant: nothing outside the directory is read, whatever links the repository holds, and no more than `TEXT_MAX` bytes of a
//! file are taken into memory.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Most files of a tree; what is beyond is left out and said to be.
const ENTRIES_MAX: usize = 100_000;
/// Longest text that is read, in bytes.
const TEXT_MAX: usize = 1 << 20;
/// Deepest folder that is looked into.
const DEPTH_MAX: usize = 64;
/// How much is looked at to tell a text from other content, as git does.
const PROBE: usize = 8000;

/// Why a directory cannot be read as a tree.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the directory `{path}`")]
pub struct TreeError {
    pub path: String,
    pub source: io::Error,
}

/// The files of a repository at one commit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tree {
    /// The commit.
    pub at: String,
    /// Whether files were left out because there were too many.
    pub cut: bool,
    entries: BTreeMap<String, Entry>,
    source: Source,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Entry {
    size: u64,
    /// A link or a module of another repository: it is there, and has no text.
    opaque: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Source {
    Directory(PathBuf),
    Texts(BTreeMap<String, String>),
}

impl Default for Source {
    fn default() -> Source {
        Source::Texts(BTreeMap::new())
    }
}

impl Tree {
    /// Lists a directory, without `.git`. Its files are read when they are asked for.
    ///
    /// # Errors
    /// When the directory itself cannot be read.
    pub fn of_directory(directory: &Path, at: impl Into<String>) -> Result<Tree, TreeError> {
        let source = Source::Directory(directory.to_owned());
        let mut tree = Tree { at: at.into(), cut: false, entries: BTreeMap::new(), source };
        let failed = |source| TreeError { path: directory.display().to_string(), source };
        tree.list(directory, "", 0).map_err(failed)?;
        Ok(tree)
    }

    fn list(&mut self, directory: &Path, prefix: &str, depth: usize) -> io::Result<()> {
        let mut found: Vec<_> = fs::read_dir(directory)?.filter_map(Result::ok).collect();
        found.sort_by_key(fs::DirEntry::file_name);
        for entry in found {
            // A name that is no text could not be spoken of.
            let Ok(name) = entry.file_name().into_string() else { continue };
            let Ok(kind) = entry.file_type() else { continue };
            if name == ".git" {
                continue;
            }
            if self.entries.len() >= ENTRIES_MAX || depth >= DEPTH_MAX {
                self.cut = true;
                return Ok(());
            }
            let path = format!("{prefix}{name}");
            if kind.is_dir() {
                // A folder that cannot be read is one that has nothing to say.
                let _ = self.list(&entry.path(), &format!("{path}/"), depth + 1);
            } else {
                let size = if kind.is_file() { entry.metadata().map_or(0, |it| it.len()) } else { 0 };
                self.entries.insert(path, Entry { size, opaque: !kind.is_file() });
            }
        }
        Ok(())
    }

    /// A tree of which the names and sizes are known; texts are added by [`Tree::hold`].
    #[must_use]
    pub fn of_listing(at: impl Into<String>, files: impl IntoIterator<Item = (String, u64)>, cut: bool) -> Tree {
        let mut tree = Tree { at: at.into(), cut, ..Tree::default() };
        for (path, size) in files {
            if tree.entries.len() >= ENTRIES_MAX {
                tree.cut = true;
                break;
            }
            tree.entries.insert(path, Entry { size, opaque: false });
        }
        tree
    }

    /// Adds a file with its text, or the text of a file that is listed. Does nothing to a directory that was listed.
    pub fn hold(&mut self, path: impl Into<String>, text: impl Into<String>) {
        let (path, text) = (path.into(), text.into());
        if let Source::Texts(texts) = &mut self.source {
            self.entries.insert(path.clone(), Entry { size: text.len() as u64, opaque: false });
            texts.insert(path, text);
        }
    }

    /// The names of all files, in order.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// How many files there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The size of a file in bytes.
    #[must_use]
    pub fn size(&self, path: &str) -> Option<u64> {
        self.entries.get(path).map(|entry| entry.size)
    }

    /// Whether there is a file of this name.
    #[must_use]
    pub fn has(&self, path: &str) -> bool {
        self.entries.contains_key(path)
    }

    /// Whether there is a folder of this name; the root is the empty one.
    #[must_use]
    pub fn has_folder(&self, path: &str) -> bool {
        let prefix = format!("{}/", path.trim_end_matches('/'));
        path.is_empty()
            || self.entries.range(prefix.clone()..).next().is_some_and(|(entry, _)| entry.starts_with(&prefix))
    }

    /// The text of a file; `None` where it is not there, not read yet, longer than `TEXT_MAX`, or no text.
    #[must_use]
    pub fn text(&self, path: &str) -> Option<Cow<'_, str>> {
        (self.size(path)? <= TEXT_MAX as u64).then(|| self.start(path, TEXT_MAX))?
    }

    /// The first bytes of a file as text, at most `max` of them.
    #[must_use]
    pub fn start(&self, path: &str, max: usize) -> Option<Cow<'_, str>> {
        let entry = self.entries.get(path)?;
        let max = max.min(TEXT_MAX);
        match &self.source {
            Source::Texts(texts) => {
                let text = texts.get(path)?;
                let mut end = text.len().min(max);
                while !text.is_char_boundary(end) {
                    end -= 1;
                }
                (!text.as_bytes()[..end.min(PROBE)].contains(&0)).then(|| Cow::Borrowed(&text[..end]))
            }
            Source::Directory(_) if entry.opaque => None,
            Source::Directory(directory) => read(directory, path, max).map(Cow::Owned),
        }
    }
}

/// Reads a file below a directory, through no link.
fn read(directory: &Path, path: &str, max: usize) -> Option<String> {
    let mut place = directory.to_owned();
    let mut parts = path.split('/').peekable();
    while let Some(part) = parts.next() {
        if part.is_empty() || part == "." || part == ".." {
            return None;
        }
        place.push(part);
        let kind = fs::symlink_metadata(&place).ok()?.file_type();
        if !(if parts.peek().is_some() { kind.is_dir() } else { kind.is_file() }) {
            return None;
        }
    }
    let mut bytes = Vec::new();
    open(&place).ok()?.take(max as u64).read_to_end(&mut bytes).ok()?;
    if bytes[..bytes.len().min(PROBE)].contains(&0) {
        return None;
    }
    // The last letter may have been cut.
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).trim_end_matches('\u{fffd}').to_owned(),
    };
    Some(text)
}

fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    // What was a file a moment ago may be a link or a pipe by then.
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    fs::OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_listed_and_read_without_leaving_it() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fs::create_dir_all(root.join("src/.git")).unwrap();
        fs::create_dir_all(root.join(".git")).unwrap();
        fs::write(root.join(".git/config"), "secret").unwrap();
        fs::write(root.join("src/a.rs"), "fn é() {}").unwrap();
        fs::write(root.join("b.bin"), [1, 0, 2]).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", root.join("link")).unwrap();
        std::os::unix::fs::symlink("/etc", root.join("folder")).unwrap();
        let tree = Tree::of_directory(root, "abc").unwrap();
        assert_eq!(tree.paths().collect::<Vec<_>>(), ["b.bin", "folder", "link", "src/a.rs"]);
        assert_eq!(tree.text("src/a.rs").as_deref(), Some("fn é() {}"));
        assert_eq!(tree.start("src/a.rs", 4).as_deref(), Some("fn "), "half a letter is left out");
        for path in ["b.bin", "link", "folder", "folder/passwd", ".git/config", "../x", "/etc/passwd", ""] {
            assert_eq!(tree.text(path), None, "{path}");
        }
        assert!(tree.has_folder("src") && tree.has_folder("") && !tree.has_folder("sr") && !tree.has("src"));
        // A link that takes the place of a listed file is not followed.
        fs::remove_file(root.join("src/a.rs")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", root.join("src/a.rs")).unwrap();
        assert_eq!(tree.text("src/a.rs"), None);
        assert!(Tree::of_directory(&root.join("none"), "").is_err());
    }

    #[test]
    fn a_listing_holds_the_texts_it_is_given() {
        let mut tree = Tree::of_listing("abc", [("a/b.txt".to_owned(), 3), ("c".to_owned(), u64::MAX)], false);
        assert_eq!((tree.len(), tree.text("a/b.txt"), tree.size("c")), (2, None, Some(u64::MAX)));
        tree.hold("a/b.txt", "hé");
        assert_eq!(tree.text("a/b.txt").as_deref(), Some("hé"));
        assert_eq!(tree.start("a/b.txt", 2).as_deref(), Some("h"));
        let many = (0..=ENTRIES_MAX).map(|number| (format!("{number:07}"), 0));
        assert!(Tree::of_listing("", many, false).cut);
    }
}
