//! Unified diffs: those of `git diff`, and the patches that forges give for one file.
//!
//! The counts in a hunk's head say which lines belong to it, so that a line of content that looks like a head is content.
//! Invariant: any bytes give files or an error, within `DIFF_MAX`, `FILES_MAX` and `LINES_MAX`; what is beyond is said to be cut.

use super::{DIFF_MAX, FILES_MAX, FileChange, FileKind, Hunk, LINES_MAX, Line, LineKind};

/// Why a text is not a diff.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiffError {
    #[error("line {line} of the diff is not a head of a hunk: expected one such as `@@ -1,2 +3,4 @@`")]
    Head { line: usize },
    #[error("line {line} of the diff belongs to no file")]
    NoFile { line: usize },
    #[error("line {line} of the diff is in a hunk and begins with none of ` `, `+`, `-` and `\\`")]
    Line { line: usize },
}

/// Reads what `git diff` wrote. The flag says whether it was cut.
///
/// # Errors
/// When it is not a unified diff.
pub fn parse(diff: &[u8]) -> Result<(Vec<FileChange>, bool), DiffError> {
    let cut = diff.len() > DIFF_MAX;
    let text = String::from_utf8_lossy(&diff[..diff.len().min(DIFF_MAX)]);
    let mut reader = Reader::new(&text, cut);
    reader.files()?;
    let cut = reader.cut;
    let mut files = reader.files;
    if cut && let Some(last) = files.last_mut() {
        last.cut = true;
    }
    files.iter_mut().for_each(count);
    Ok((files, cut))
}

/// Reads the patch of one file, which begins with its first hunk. The flag says whether it was cut.
///
/// # Errors
/// When it is not made of hunks.
pub fn hunks(patch: &str) -> Result<(Vec<Hunk>, bool), DiffError> {
    let cut = patch.len() > DIFF_MAX;
    let mut end = patch.len().min(DIFF_MAX);
    while !patch.is_char_boundary(end) {
        end -= 1;
    }
    let mut reader = Reader::new(&patch[..end], cut);
    reader.files.push(FileChange::default());
    while let Some(line) = reader.peek() {
        match line.is_empty() {
            true => reader.at += 1,
            false => reader.hunk()?,
        }
    }
    let cut = reader.cut;
    Ok((std::mem::take(&mut reader.files[0].hunks), cut))
}

fn count(file: &mut FileChange) {
    let of = |kind| file.lines().filter(|line| line.kind == kind).count() as u64;
    (file.additions, file.deletions) = (of(LineKind::Added), of(LineKind::Removed));
}

struct Reader<'a> {
    lines: Vec<&'a str>,
    at: usize,
    kept: usize,
    cut: bool,
    files: Vec<FileChange>,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str, cut: bool) -> Reader<'a> {
        let mut lines: Vec<&str> = text.split('\n').collect();
        // What follows the last line feed is no line; in a text that was cut it is part of one.
        if cut || lines.last() == Some(&"") {
            lines.pop();
        }
        Reader { lines, at: 0, kept: 0, cut, files: Vec::new() }
    }

    fn peek(&self) -> Option<&'a str> {
        self.lines.get(self.at).copied()
    }

    fn files(&mut self) -> Result<(), DiffError> {
        // Whether the head of the file at hand came from a line `diff --git`, so that `---` does not begin another.
        let mut headed = false;
        while let Some(line) = self.peek() {
            if line.starts_with("diff --git ") || line.starts_with("diff --cc ") || line.starts_with("diff --combined ")
            {
                if !self.begin() {
                    return Ok(());
                }
                headed = true;
                let combined = !line.starts_with("diff --git ");
                let file = self.files.last_mut().expect("just begun");
                if let Some((old, new)) = line.strip_prefix("diff --git ").and_then(both_names) {
                    (file.path, file.old_path) = (new, Some(old));
                }
                // A merge's diff against several parents says nothing about one of them.
                file.cut |= combined;
                self.at += 1;
            } else if line.starts_with("--- ") && self.lines.get(self.at + 1).is_some_and(|it| it.starts_with("+++ ")) {
                if (!headed || self.files.is_empty()) && !self.begin() {
                    return Ok(());
                }
                headed = false;
                let (old, new) = (name(&line[4..]), name(&self.lines[self.at + 1][4..]));
                let file = self.files.last_mut().expect("just begun");
                match (old, new) {
                    (Some(old), Some(new)) => (file.path, file.old_path) = (new, Some(old)),
                    (None, Some(new)) => {
                        (file.path, file.old_path, file.kind) = (new, None, FileKind::Added);
                    }
                    (Some(old), None) => (file.path, file.old_path, file.kind) = (old, None, FileKind::Removed),
                    (None, None) => {}
                }
                self.at += 2;
            } else if line.starts_with("@@ ") {
                if self.files.is_empty() {
                    return Err(DiffError::NoFile { line: self.at + 1 });
                }
                self.hunk()?;
            } else {
                self.extended(line);
                self.at += 1;
            }
        }
        for file in &mut self.files {
            if file.old_path.as_ref() == Some(&file.path) || matches!(file.kind, FileKind::Added | FileKind::Removed) {
                file.old_path = None;
            } else if file.old_path.is_some() {
                file.kind = FileKind::Renamed;
            }
        }
        Ok(())
    }

    /// Begins a file; `false` where there are too many.
    fn begin(&mut self) -> bool {
        if self.files.len() >= FILES_MAX {
            self.cut = true;
            return false;
        }
        self.files.push(FileChange::default());
        true
    }

    /// A line between the head of a file and its hunks.
    fn extended(&mut self, line: &str) {
        let Some(file) = self.files.last_mut() else { return };
        if !file.hunks.is_empty() {
            return;
        }
        if line.starts_with("new file mode ") {
            file.kind = FileKind::Added;
        } else if line.starts_with("deleted file mode ") {
            file.kind = FileKind::Removed;
        } else if let Some(path) = line.strip_prefix("rename from ") {
            (file.old_path, file.kind) = (Some(unquoted(path)), FileKind::Renamed);
        } else if let Some(path) = line.strip_prefix("rename to ") {
            file.path = unquoted(path);
        } else if let Some(path) = line.strip_prefix("copy to ") {
            (file.path, file.old_path, file.kind) = (unquoted(path), None, FileKind::Added);
        } else if line.starts_with("Binary files ") || line == "GIT binary patch" {
            file.binary = true;
        }
    }

    fn hunk(&mut self) -> Result<(), DiffError> {
        let head = self.lines[self.at];
        let mut hunk = hunk_head(head).ok_or(DiffError::Head { line: self.at + 1 })?;
        self.at += 1;
        let (mut old, mut new) = (hunk.old_start, hunk.new_start);
        let (mut old_left, mut new_left) = (hunk.old_lines, hunk.new_lines);
        while let Some(line) = self.peek() {
            let marked = line.strip_prefix('\\').is_some();
            if old_left == 0 && new_left == 0 && !marked {
                break;
            }
            let (kind, text) = match line.as_bytes().first() {
                Some(b' ') => (LineKind::Context, &line[1..]),
                // Some tools cut the blank off an empty line of context.
                None => (LineKind::Context, ""),
                Some(b'+') => (LineKind::Added, &line[1..]),
                Some(b'-') => (LineKind::Removed, &line[1..]),
                Some(b'\\') => {
                    if let Some(last) = hunk.lines.last_mut() {
                        last.unended = true;
                    }
                    self.at += 1;
                    continue;
                }
                Some(_) => return Err(DiffError::Line { line: self.at + 1 }),
            };
            let (in_old, in_new) = (kind != LineKind::Added, kind != LineKind::Removed);
            if (in_old && old_left == 0) || (in_new && new_left == 0) {
                return Err(DiffError::Line { line: self.at + 1 });
            }
            if self.kept < LINES_MAX {
                self.kept += 1;
                hunk.lines.push(Line {
                    kind,
                    text: text.to_owned(),
                    old: in_old.then_some(old),
                    new: in_new.then_some(new),
                    unended: false,
                });
            } else {
                self.cut = true;
            }
            old_left -= u32::from(in_old);
            new_left -= u32::from(in_new);
            old = old.saturating_add(u32::from(in_old));
            new = new.saturating_add(u32::from(in_new));
            self.at += 1;
        }
        let file = self.files.last_mut().expect("a hunk belongs to a file");
        // The text ended before the hunk did, or there was no room for it.
        let whole = old_left == 0 && new_left == 0 && self.kept < LINES_MAX;
        file.cut |= !whole;
        self.cut |= !whole;
        file.hunks.push(hunk);
        Ok(())
    }
}

/// `@@ -1,2 +3,4 @@ heading`; a missing count is 1.
fn hunk_head(line: &str) -> Option<Hunk> {
    let (ranges, heading) = line.strip_prefix("@@ -")?.split_once(" @@")?;
    let (old, new) = ranges.split_once(" +")?;
    let range = |text: &str| -> Option<(u32, u32)> {
        let (start, lines) = text.split_once(',').unwrap_or((text, "1"));
        let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
            true => text.parse::<u32>().ok(),
            false => None,
        };
        Some((number(start)?, number(lines)?))
    };
    let ((old_start, old_lines), (new_start, new_lines)) = (range(old)?, range(new)?);
    Some(Hunk { old_start, old_lines, new_start, new_lines, heading: heading.trim().to_owned(), lines: Vec::new() })
}

/// The two names of `diff --git a/x b/x`. Without quotes they can only be told apart where they are the same.
fn both_names(rest: &str) -> Option<(String, String)> {
    if rest.starts_with('"') {
        let end = closing(rest)?;
        return Some((bare(&unquoted(&rest[..=end])), bare(&unquoted(rest[end + 1..].trim_start()))));
    }
    if let Some(at) = rest.find(" \"") {
        return Some((bare(&rest[..at]), bare(&unquoted(&rest[at + 1..]))));
    }
    let middle = rest.len() / 2;
    if rest.len() % 2 == 1 && rest.is_char_boundary(middle) && rest.as_bytes()[middle] == b' ' {
        let (old, new) = (bare(&rest[..middle]), bare(&rest[middle + 1..]));
        if old == new {
            return Some((old, new));
        }
    }
    let at = rest.find(" b/")?;
    Some((bare(&rest[..at]), bare(&rest[at + 1..])))
}

/// A name in a `---` or `+++` line; `None` for the missing side of a file that came or went.
fn name(text: &str) -> Option<String> {
    let text = text.trim_end_matches('\r');
    let text = match text.starts_with('"') {
        true => &text[..=closing(text).unwrap_or(text.len() - 1)],
        // Behind a tab, other tools write a time.
        false => text.split('\t').next().unwrap_or_default(),
    };
    (text != "/dev/null").then(|| bare(&unquoted(text)))
}

/// A name without git's `a/` or `b/` before it.
fn bare(name: &str) -> String {
    name.strip_prefix("a/").or_else(|| name.strip_prefix("b/")).unwrap_or(name).to_owned()
}

/// Where the quote that begins a text ends.
fn closing(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().enumerate().skip(1).find_map(|(at, byte)| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends.then_some(at)
    })
}

/// A name as it is, where git put it into quotes with escapes of C.
fn unquoted(text: &str) -> String {
    let Some(inner) = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) else { return text.to_owned() };
    let bytes = inner.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] != b'\\' || at + 1 == bytes.len() {
            plain.push(bytes[at]);
            at += 1;
            continue;
        }
        at += 2;
        match bytes[at - 1] {
            b'n' => plain.push(b'\n'),
            b't' => plain.push(b'\t'),
            b'r' => plain.push(b'\r'),
            b'a' => plain.push(7),
            b'b' => plain.push(8),
            b'v' => plain.push(11),
            b'f' => plain.push(12),
            b'0'..=b'3'
                if bytes.len() >= at + 2 && bytes[at..at + 2].iter().all(|byte| matches!(byte, b'0'..=b'7')) =>
            {
                let digit = |at: usize| bytes[at] - b'0';
                plain.push(digit(at - 1) * 64 + digit(at) * 8 + digit(at + 1));
                at += 2;
            }
            other => plain.push(other),
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
#[path = "diff_tests.rs"]
mod tests;
