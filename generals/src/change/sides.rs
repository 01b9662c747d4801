//! Both states of a changed file, as far as they can be known.
//!
//! The new state comes from the tree; the old one follows from it by taking the hunks back. Without a tree, what the hunks show
//! of each state stands for it, as a fragment.

use std::collections::BTreeMap;

use super::{FileChange, FileKind, LineKind, Tree};

/// A state of a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct State {
    /// Its lines, or those that the change shows.
    pub(crate) text: String,
    /// The number that each line of `text` has in the file.
    numbers: Numbers,
}

#[derive(Clone, Debug, Default, PartialEq)]
enum Numbers {
    /// `text` is the whole file.
    #[default]
    All,
    Shown(Vec<u32>),
}

impl State {
    /// Whether it is the whole file.
    pub(crate) fn whole(&self) -> bool {
        self.numbers == Numbers::All
    }

    /// The number in the file of a line of `text`, counted from 0.
    pub(crate) fn number(&self, index: usize) -> u32 {
        match &self.numbers {
            Numbers::All => u32::try_from(index).unwrap_or(u32::MAX).saturating_add(1),
            Numbers::Shown(numbers) => numbers.get(index).copied().unwrap_or(1),
        }
    }
}

/// A file before and after; `None` where it did not exist.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sides {
    pub(crate) old: Option<State>,
    pub(crate) new: Option<State>,
}

impl FileChange {
    /// The file before and after the change.
    pub(crate) fn sides(&self, tree: Option<&Tree>) -> Sides {
        let fragment = |keep: LineKind| {
            let lines = self.lines().filter(|line| line.kind == LineKind::Context || line.kind == keep);
            let (mut text, mut numbers) = (String::new(), Vec::new());
            for line in lines {
                text.push_str(&line.text);
                text.push('\n');
                numbers.push(if keep == LineKind::Added { line.new } else { line.old }.unwrap_or(1));
            }
            State { text, numbers: Numbers::Shown(numbers) }
        };
        let whole = |text: String| State { text, numbers: Numbers::All };
        // The hunks of a file that came or went hold all of it.
        if !self.cut && matches!(self.kind, FileKind::Added | FileKind::Removed) {
            let all = fragment(if self.kind == FileKind::Added { LineKind::Added } else { LineKind::Removed });
            let all = Some(whole(all.text));
            return match self.kind {
                FileKind::Added => Sides { old: None, new: all },
                _ => Sides { old: all, new: None },
            };
        }
        if self.kind != FileKind::Removed
            && let Some(new) = tree.and_then(|tree| tree.text(&self.path))
        {
            let old = if self.kind == FileKind::Added { None } else { self.taken_back(&new) };
            if self.kind == FileKind::Added || old.is_some() {
                return Sides { old: old.map(whole), new: Some(whole(new.into_owned())) };
            }
        }
        Sides {
            old: (self.kind != FileKind::Added).then(|| fragment(LineKind::Removed)),
            new: (self.kind != FileKind::Removed).then(|| fragment(LineKind::Added)),
        }
    }

    /// The old text that the hunks lead from to `new`; `None` where they do not fit it.
    fn taken_back(&self, new: &str) -> Option<String> {
        if self.cut {
            return None;
        }
        let lines: Vec<&str> = new.split_inclusive('\n').collect();
        let mut old = String::with_capacity(new.len());
        let mut at = 0usize;
        for hunk in &self.hunks {
            // A hunk without lines in the new state stands behind the line it names.
            let first = hunk.new_start as usize - usize::from(hunk.new_lines != 0 && hunk.new_start > 0);
            if first < at || first > lines.len() {
                return None;
            }
            old.extend(lines[at..first].iter().copied());
            at = first;
            for line in &hunk.lines {
                if line.kind != LineKind::Removed {
                    if lines.get(at)?.trim_end_matches(['\n', '\r']) != line.text.trim_end_matches('\r') {
                        return None;
                    }
                    at += 1;
                }
                if line.kind != LineKind::Added {
                    old.push_str(&line.text);
                    if !line.unended {
                        old.push('\n');
                    }
                }
            }
        }
        old.extend(lines[at..].iter().copied());
        Some(old)
    }
}

/// What differs between two maps: in the order of names, the values before and after.
pub(crate) fn differences<'a, K: Ord, V: PartialEq>(
    old: &'a BTreeMap<K, V>,
    new: &'a BTreeMap<K, V>,
) -> Vec<(&'a K, Option<&'a V>, Option<&'a V>)> {
    let mut all: Vec<(&K, Option<&V>, Option<&V>)> = old
        .iter()
        .map(|(name, before)| (name, Some(before), new.get(name)))
        .chain(new.iter().filter(|(name, _)| !old.contains_key(name)).map(|(name, after)| (name, None, Some(after))))
        .filter(|(_, before, after)| before != after)
        .collect();
    all.sort_by(|left, right| left.0.cmp(right.0));
    all
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    fn file(diff: &str) -> FileChange {
        parse(diff.as_bytes()).unwrap().0.remove(0)
    }

    #[test]
    fn the_old_state_follows_from_the_new_one() {
        let file = file(
            "--- a/x\n+++ b/x\n@@ -1,2 +1,2 @@\n a\n-b\n+B\n@@ -4,2 +4 @@\n d\n-e\n\\ No newline at end of file\n",
        );
        let mut tree = Tree::default();
        tree.hold("x", "a\nB\nc\nd\n");
        let sides = file.sides(Some(&tree));
        assert_eq!(sides.old.as_ref().unwrap().text, "a\nb\nc\nd\ne");
        assert!(sides.old.unwrap().whole() && sides.new.unwrap().number(2) == 3);
        // A tree of another commit does not fit: the fragments are all that is known.
        tree.hold("x", "z\n");
        let sides = file.sides(Some(&tree));
        let (old, new) = (sides.old.unwrap(), sides.new.unwrap());
        assert!(!old.whole());
        assert_eq!((&*old.text, &*new.text), ("a\nb\nd\ne\n", "a\nB\nd\n"));
        assert_eq!((old.number(2), old.number(3), new.number(2)), (4, 5, 4));
    }

    #[test]
    fn files_that_come_and_go_are_known_whole() {
        let added = file("--- /dev/null\n+++ b/x\n@@ -0,0 +1,2 @@\n+a\n+b\n").sides(None);
        assert_eq!((added.old, &*added.new.unwrap().text), (None, "a\nb\n"));
        let removed = file("--- a/x\n+++ /dev/null\n@@ -1 +0,0 @@\n-a\n").sides(None);
        assert_eq!((removed.new, &*removed.old.unwrap().text), (None, "a\n"));
        let gone = file("--- a/x\n+++ b/x\n@@ -2 +1,0 @@\n-b\n");
        let mut tree = Tree::default();
        tree.hold("x", "a\nc\n");
        assert_eq!(gone.sides(Some(&tree)).old.unwrap().text, "a\nb\nc\n");
    }
}
