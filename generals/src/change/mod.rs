//! A change to code: what a pull request or a push alters, whichever way it was learned.
//!
//! ```text
//!  forge API: files, patches, commits --+
//!                                       +--> Change { files: [FileChange { hunks: [Hunk { lines }] }], commits }
//!  clone: git diff, git log ------------+
//! ```
//! Everything in it is foreign text. Invariant: a line's numbers are those of its file in the old and the new state, so that
//! whatever names a line here can be pointed at on the forge.

mod conventional;
pub(crate) mod diff;
pub(crate) mod log;
mod owners;
mod sides;
mod tree;

use mindos_model::Timestamp;

pub use conventional::Conventional;
pub use diff::{DiffError, hunks, parse};
pub use owners::Owners;
pub(crate) use sides::{State, differences};
pub use tree::{Tree, TreeError};

/// Most files of a change that are looked at; GitHub lists no more than 3000.
pub const FILES_MAX: usize = 3000;
/// Most commits of a change that are looked at.
pub const COMMITS_MAX: usize = 2048;
/// Longest diff that is read, in bytes.
pub const DIFF_MAX: usize = 16 << 20;
/// Most lines of a diff that are kept.
pub const LINES_MAX: usize = 200_000;

/// What a pull request or a push alters.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Change {
    /// `owner/name`.
    pub repository: String,
    /// The pull request's number.
    pub number: Option<u64>,
    /// The commit it starts from: for a pull request the place where its branch left the target. Empty where it is not known.
    pub base: String,
    /// The commit it leads to.
    pub head: String,
    pub files: Vec<FileChange>,
    /// Oldest first.
    pub commits: Vec<Commit>,
    /// Whether files, lines or commits were left out because there were too many.
    pub cut: bool,
}

impl Change {
    /// The file that has this path now, or had it where it is gone.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<&FileChange> {
        self.files.iter().find(|file| file.path == path)
    }

    /// Lines added and removed, over all files.
    #[must_use]
    pub fn size(&self) -> (u64, u64) {
        self.files.iter().fold((0, 0), |(added, removed), file| {
            (added.saturating_add(file.additions), removed.saturating_add(file.deletions))
        })
    }
}

/// What became of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum FileKind {
    Added,
    #[default]
    Modified,
    Removed,
    /// Has another name, and perhaps other content.
    Renamed,
}

impl FileKind {
    /// In a word, as GitHub says it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            FileKind::Added => "added",
            FileKind::Modified => "modified",
            FileKind::Removed => "removed",
            FileKind::Renamed => "renamed",
        }
    }
}

/// One file of a change.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FileChange {
    /// Its name now; for a removed file, the name it had.
    pub path: String,
    /// The name it had, where that is another.
    pub old_path: Option<String>,
    pub kind: FileKind,
    pub hunks: Vec<Hunk>,
    pub binary: bool,
    /// Lines added, whether or not they are in `hunks`.
    pub additions: u64,
    pub deletions: u64,
    /// Whether `hunks` lack lines that changed: the forge left the patch out, or it was too long.
    pub cut: bool,
}

/// Which state of a file a line number belongs to; the words are GitHub's for comments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Before the change.
    Left,
    /// After it.
    Right,
}

impl FileChange {
    /// The added lines with their numbers.
    pub fn added(&self) -> impl Iterator<Item = (u32, &str)> {
        self.lines().filter(|line| line.kind == LineKind::Added).filter_map(|line| Some((line.new?, line.text.as_str())))
    }

    /// The removed lines with the numbers they had.
    pub fn removed(&self) -> impl Iterator<Item = (u32, &str)> {
        let removed = self.lines().filter(|line| line.kind == LineKind::Removed);
        removed.filter_map(|line| Some((line.old?, line.text.as_str())))
    }

    /// All lines that the change shows, its context included.
    pub fn lines(&self) -> impl Iterator<Item = &Line> {
        self.hunks.iter().flat_map(|hunk| &hunk.lines)
    }

    /// Whether a comment can be put on a line: the forge takes those that the change shows.
    #[must_use]
    pub fn shows(&self, side: Side, number: u32) -> bool {
        self.lines().any(|line| line.number(side) == Some(number))
    }

    /// Whether a comment can be put on these lines, first to last: they have to stand in one hunk.
    #[must_use]
    pub fn shows_range(&self, side: Side, first: u32, last: u32) -> bool {
        let has = |hunk: &Hunk, number| hunk.lines.iter().any(|line| line.number(side) == Some(number));
        first <= last && self.hunks.iter().any(|hunk| has(hunk, first) && has(hunk, last))
    }

    /// The line that the change shows and that lies nearest; `None` where it shows none.
    #[must_use]
    pub fn nearest(&self, side: Side, number: u32) -> Option<u32> {
        self.lines().filter_map(|line| line.number(side)).min_by_key(|shown| (shown.abs_diff(number), *shown))
    }

    /// Where a line of the old state stands now; `None` where it is gone. Right only for a file whose hunks are whole.
    #[must_use]
    pub fn now(&self, old: u32) -> Option<u32> {
        let mut shift = 0i64;
        for hunk in &self.hunks {
            // A hunk without old lines stands behind the line it names.
            let first = hunk.old_start + u32::from(hunk.old_lines == 0);
            if old < first {
                break;
            }
            if old < first.saturating_add(hunk.old_lines) {
                return hunk.lines.iter().find(|line| line.old == Some(old))?.new;
            }
            shift += i64::from(hunk.new_lines) - i64::from(hunk.old_lines);
        }
        u32::try_from(i64::from(old) + shift).ok()
    }
}

/// A run of lines that changed, with lines around it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hunk {
    /// The first line in the old state, from 1; the line before where there is none.
    pub old_start: u32,
    pub old_lines: u32,
    pub new_start: u32,
    pub new_lines: u32,
    /// What git says it stands in, such as a function's head. May be empty.
    pub heading: String,
    pub lines: Vec<Line>,
}

/// What became of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineKind {
    Context,
    Added,
    Removed,
}

/// One line of a hunk.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    pub kind: LineKind,
    /// Without its line feed.
    pub text: String,
    /// Its number in the old state, from 1.
    pub old: Option<u32>,
    /// Its number in the new state, from 1.
    pub new: Option<u32>,
    /// Whether the file ends with it, without a line feed.
    pub unended: bool,
}

impl Line {
    /// Its number in one of the two states.
    #[must_use]
    pub fn number(&self, side: Side) -> Option<u32> {
        match side {
            Side::Left => self.old,
            Side::Right => self.new,
        }
    }
}

/// A commit of a change.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Commit {
    pub sha: String,
    /// The commits it follows. Empty where they are not known.
    pub parents: Vec<String>,
    /// Its author: the login where the forge knows it, else the name.
    pub author: String,
    pub email: String,
    pub authored: Option<Timestamp>,
    /// Minutes that the author's clock was ahead of UTC.
    pub offset_minutes: Option<i32>,
    pub message: String,
    /// The files it touched, as far as they are known.
    pub touched: Vec<Touched>,
}

impl Commit {
    /// The first line of its message.
    #[must_use]
    pub fn title(&self) -> &str {
        self.message.lines().next().unwrap_or_default().trim()
    }

    /// Whether it joins two lines of history: by its parents, or by git's own words where they are not known.
    #[must_use]
    pub fn is_merge(&self) -> bool {
        self.parents.len() > 1 || (self.parents.is_empty() && self.message.starts_with("Merge "))
    }
}

/// A file that a commit touched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    pub path: String,
    pub kind: FileKind,
    /// Lines added and removed; `None` where they are not known or there are none, as in a binary file.
    pub lines: Option<(u64, u64)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIFF: &str = "\
diff --git a/a.rs b/a.rs
--- a/a.rs
+++ b/a.rs
@@ -2,3 +2,4 @@ fn main() {
 two
-three
+drei
+dreieinhalb
 four
@@ -10,2 +11,1 @@
 ten
-eleven
";

    #[test]
    fn lines_are_found_on_both_sides() {
        let file = &parse(DIFF.as_bytes()).unwrap().0[0];
        assert_eq!((file.additions, file.deletions), (2, 2));
        assert_eq!(file.added().collect::<Vec<_>>(), [(3, "drei"), (4, "dreieinhalb")]);
        assert_eq!(file.removed().collect::<Vec<_>>(), [(3, "three"), (11, "eleven")]);
        assert!(file.shows(Side::Right, 5) && !file.shows(Side::Right, 6) && file.shows(Side::Left, 11));
        assert!(file.shows_range(Side::Right, 2, 5) && !file.shows_range(Side::Right, 5, 11));
        assert!(!file.shows_range(Side::Right, 5, 2));
        assert_eq!((file.nearest(Side::Right, 8), file.nearest(Side::Right, 9)), (Some(5), Some(11)));
        assert_eq!(FileChange::default().nearest(Side::Left, 1), None);
    }

    #[test]
    fn old_lines_are_followed_to_where_they_are() {
        let file = &parse(DIFF.as_bytes()).unwrap().0[0];
        let now: Vec<_> = [1, 2, 3, 4, 5, 9, 10, 11, 12].map(|old| file.now(old)).into();
        assert_eq!(
            now,
            [Some(1), Some(2), None, Some(5), Some(6), Some(10), Some(11), None, Some(12)]
        );
        let (files, _) = parse(b"--- a/x\n+++ b/x\n@@ -3,0 +4,2 @@\n+a\n+b\n").unwrap();
        assert_eq!((files[0].now(3), files[0].now(4)), (Some(3), Some(6)));
    }
}
