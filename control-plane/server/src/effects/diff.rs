//! Lines of a diff: where a review may comment.

use std::ops::RangeInclusive;

/// The lines that a patch shows, by side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lines {
    right: Vec<RangeInclusive<u64>>,
    left: Vec<RangeInclusive<u64>>,
}

impl Lines {
    /// Reads the hunks of a patch. What cannot be read shows nothing.
    pub(super) fn of(patch: &str) -> Lines {
        let mut lines = Lines::default();
        for line in patch.lines() {
            let Some([left, right]) = line.strip_prefix("@@ ").and_then(hunk) else { continue };
            lines.left.extend(left);
            lines.right.extend(right);
        }
        lines
    }

    /// Whether one hunk shows all of these lines.
    pub(super) fn has(&self, side: &str, start: Option<u64>, line: u64) -> bool {
        let hunks = if side == "LEFT" { &self.left } else { &self.right };
        hunks.iter().any(|hunk| hunk.contains(&line) && hunk.contains(&start.unwrap_or(line)))
    }
}

/// `-1,3 +1,4 @@`, as ranges; none where a side has no lines.
fn hunk(head: &str) -> Option<[Option<RangeInclusive<u64>>; 2]> {
    let (ranges, _) = head.split_once(" @@")?;
    let (left, right) = ranges.split_once(' ')?;
    let range = |text: &str| {
        let (start, count) = match text.split_once(',') {
            Some((start, count)) => (start.parse::<u64>().ok()?, count.parse::<u64>().ok()?),
            None => (text.parse().ok()?, 1),
        };
        Some((count > 0).then(|| start..=start.saturating_add(count - 1)))
    };
    Some([range(left.strip_prefix('-')?)?, range(right.strip_prefix('+')?)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_review_may_comment_on_what_a_hunk_shows() {
        let lines = Lines::of("@@ -1,2 +1,3 @@ fn main\n a\n+b\n c\n@@ -10 +11,0 @@\n-x\n+ @@ -1,9 +1,9 @@\n");
        assert!(lines.has("RIGHT", None, 1) && lines.has("RIGHT", Some(1), 3) && lines.has("LEFT", None, 10));
        assert!(!lines.has("RIGHT", None, 4) && !lines.has("RIGHT", None, 11) && !lines.has("LEFT", Some(2), 10));
        for broken in ["", "@@ x", "@@ -1 @@", "@@ -a,b +c @@", "@@ -1,99999999999999999999 +1 @@"] {
            assert_eq!(Lines::of(broken), Lines::default(), "{broken}");
        }
        assert!(Lines::of("@@ -1,1 +18446744073709551615,5 @@").has("RIGHT", None, u64::MAX));
    }
}
