//! Diffs: what git writes, and the patches that forges give for one file. Both hold what strangers wrote.

use mindos_generals::change::{FILES_MAX, FileChange, Hunk, LINES_MAX, LineKind, Side, hunks, parse};

/// Files and lines within their bounds; what is written out again is read as the same.
pub(super) fn diff(input: &[u8]) {
    if let Ok((files, _)) = parse(input) {
        assert!(files.len() <= FILES_MAX && files.iter().flat_map(FileChange::lines).count() <= LINES_MAX);
        for file in &files {
            check(file);
        }
    }
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok((hunks, cut)) = hunks(text) {
        check(&FileChange { hunks, cut, ..FileChange::default() });
    }
}

fn check(file: &FileChange) {
    let of = |kind| file.lines().filter(|line| line.kind == kind).count();
    assert_eq!(file.added().count(), of(LineKind::Added), "an added line has a number in the new state");
    assert_eq!(file.removed().count(), of(LineKind::Removed), "a removed line has a number in the old state");
    for line in file.lines().take(64) {
        for side in [Side::Left, Side::Right] {
            let Some(number) = line.number(side) else { continue };
            assert!(file.shows(side, number) && file.shows_range(side, number, number));
            assert_eq!(file.nearest(side, number), Some(number));
        }
    }
    for old in [0, 1, u32::MAX] {
        let _ = file.now(old);
    }
    if file.cut {
        return;
    }
    let text: String = file.hunks.iter().map(written).collect();
    let again = hunks(&text).expect("what was read is hunks");
    assert_eq!(again, (file.hunks.clone(), false), "read again from {text:?}");
}

fn written(hunk: &Hunk) -> String {
    let Hunk { old_start, old_lines, new_start, new_lines, heading, lines } = hunk;
    let mut text = format!("@@ -{old_start},{old_lines} +{new_start},{new_lines} @@ {heading}\n");
    for line in lines {
        text.push(match line.kind {
            LineKind::Context => ' ',
            LineKind::Added => '+',
            LineKind::Removed => '-',
        });
        text.push_str(&line.text);
        text.push_str(if line.unended { "\n\\ No newline at end of file\n" } else { "\n" });
    }
    text
}

pub(super) fn diff_seeds() -> Vec<Vec<u8>> {
    let diffs = [
        "diff --git a/a.rs b/a.rs\nindex 1..2 100644\n--- a/a.rs\n+++ b/a.rs\n@@ -1,3 +1,3 @@ fn main() {\n one\n-two\n+three\n four\n\
         @@ -10 +10,2 @@\n x\n+y\n\\ No newline at end of file\n",
        "diff --git a/new b/new\nnew file mode 100644\n--- /dev/null\n+++ b/new\n@@ -0,0 +1,2 @@\n+a\n+b\n",
        "diff --git a/old b/old\ndeleted file mode 100644\n--- a/old\n+++ /dev/null\n@@ -1 +0,0 @@\n-a\n",
        "diff --git \"a/\\303\\244 b\" \"b/\\\"c\"\nsimilarity index 90%\nrename from \"\\303\\244 b\"\nrename to \"\\\"c\"\n\
         --- \"a/\\303\\244 b\"\t\n+++ \"b/\\\"c\"\n@@ -1 +1 @@\n-a\n+b\n",
        "diff --git a/x.png b/x.png\nBinary files a/x.png and b/x.png differ\n",
        "diff --cc m\nindex 1,2..3\n--- a/m\n+++ b/m\n@@@ -1,1 -1,1 +1,1 @@@\n",
        "--- one\t2026-11-29\n+++ two\t2026-11-29\n@@ -1,2 +1,1 @@\n--- x\n y\n",
        "@@ -1,2 +1,2 @@ class X\n a\n-b\n+c\n\n@@ -7,0 +8,1 @@\n+d\n",
    ];
    diffs.iter().map(|diff| diff.as_bytes().to_vec()).collect()
}
