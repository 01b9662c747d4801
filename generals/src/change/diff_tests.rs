use super::*;

fn one(diff: &str) -> FileChange {
    let (mut files, cut) = parse(diff.as_bytes()).unwrap();
    assert!(!cut);
    assert_eq!(files.len(), 1, "{files:?}");
    files.remove(0)
}

#[test]
fn kinds_and_names_are_read() {
    let added =
        one("diff --git a/n b/n\nnew file mode 100644\nindex 0..1\n--- /dev/null\n+++ b/n\n@@ -0,0 +1 @@\n+x\n");
    assert_eq!((added.kind, &*added.path, added.old_path), (FileKind::Added, "n", None));
    let removed = one("diff --git a/n b/n\ndeleted file mode 100644\n--- a/n\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n");
    assert_eq!((removed.kind, &*removed.path, removed.old_path), (FileKind::Removed, "n", None));
    let moved = one("diff --git a/o l d b/n e w\nsimilarity index 100%\nrename from o l d\nrename to n e w\n");
    assert_eq!((moved.kind, &*moved.path, moved.old_path.as_deref()), (FileKind::Renamed, "n e w", Some("o l d")));
    let copied = one("diff --git a/o b/n\nsimilarity index 100%\ncopy from o\ncopy to n\n");
    assert_eq!((copied.kind, &*copied.path, copied.old_path), (FileKind::Added, "n", None));
    let empty = one("diff --git a/e b/e\nnew file mode 100644\nindex 0000000..e69de29\n");
    assert_eq!((empty.kind, &*empty.path), (FileKind::Added, "e"));
    let mode = one("diff --git a/run b/run\nold mode 100644\nnew mode 100755\n");
    assert_eq!((mode.kind, &*mode.path, mode.old_path), (FileKind::Modified, "run", None));
    let binary = one("diff --git a/i.png b/i.png\nindex 1..2 100644\nBinary files a/i.png and b/i.png differ\n");
    assert!(binary.binary && binary.kind == FileKind::Modified && binary.path == "i.png");
    let plain = one("--- old.c\t2020-01-01\n+++ new.c\t2020-01-02\n@@ -1 +1 @@\n-a\n+b\n");
    assert_eq!((&*plain.path, plain.old_path.as_deref()), ("new.c", Some("old.c")));
}

#[test]
fn quoted_names_are_unquoted() {
    let diff = "diff --git \"a/gr\\303\\266\\303\\237e\\t\\\"x\" \"b/gr\\303\\266\\303\\237e\\t\\\"x\"\n\
                --- \"a/gr\\303\\266\\303\\237e\\t\\\"x\"\n+++ \"b/gr\\303\\266\\303\\237e\\t\\\"x\"\n@@ -1 +1 @@\n-a\n+b\n";
    assert_eq!(one(diff).path, "größe\t\"x");
    assert_eq!(one("diff --git a/a b/b b/a b/b\nold mode 100644\nnew mode 100755\n").path, "a b/b");
}

#[test]
fn content_that_looks_like_a_head_is_content() {
    let diff = "--- a/x\n+++ b/x\n@@ -1,2 +1,3 @@\n--- a/y\n+++ b/y\n+@@ -1 +1 @@\n diff --git a/z b/z\n";
    let file = one(diff);
    assert_eq!(file.removed().collect::<Vec<_>>(), [(1, "-- a/y")]);
    assert_eq!(file.added().collect::<Vec<_>>(), [(1, "++ b/y"), (2, "@@ -1 +1 @@")]);
}

#[test]
fn several_files_and_the_end_of_a_file_are_read() {
    let diff = "diff --git a/1 b/1\n--- a/1\n+++ b/1\n@@ -1 +1 @@\n-a\n\\ No newline at end of file\n+b\n\
                diff --git a/2 b/2\n--- a/2\n+++ b/2\n@@ -1,2 +1,1 @@ here\n a\r\n-\n";
    let (files, cut) = parse(diff.as_bytes()).unwrap();
    assert!(!cut && files.len() == 2);
    assert!(files[0].hunks[0].lines[0].unended && !files[0].hunks[0].lines[1].unended);
    assert_eq!((&*files[1].hunks[0].heading, &*files[1].hunks[0].lines[0].text), ("here", "a\r"));
}

#[test]
fn patches_of_the_api_have_hunks_only() {
    let (hunks, cut) = hunks("@@ -1 +1,2 @@\n a\n+b\n@@ -9,0 +11 @@ x\n+c").unwrap();
    assert!(!cut);
    assert_eq!((hunks.len(), hunks[1].lines[0].new), (2, Some(11)));
    assert_eq!(super::hunks("").unwrap().0.len(), 0);
    assert_eq!(super::hunks("hello"), Err(DiffError::Head { line: 1 }));
}

#[test]
fn what_is_not_a_diff_is_refused_and_what_is_short_is_cut() {
    assert_eq!(parse(b"@@ -1 +1 @@\n"), Err(DiffError::NoFile { line: 1 }));
    assert_eq!(parse(b"--- a/x\n+++ b/x\n@@ -x +1 @@\n"), Err(DiffError::Head { line: 3 }));
    assert_eq!(parse(b"--- a/x\n+++ b/x\n@@ -1,2 +1,2 @@\n a\nb\n"), Err(DiffError::Line { line: 5 }));
    assert_eq!(parse(b"--- a/x\n+++ b/x\n@@ -1,0 +1 @@\n-a\n"), Err(DiffError::Line { line: 4 }));
    let (files, cut) = parse(b"--- a/x\n+++ b/x\n@@ -1,2 +1,2 @@\n a\n").unwrap();
    assert!(cut && files[0].cut);
    assert_eq!(parse(b"").unwrap(), (vec![], false));
}

#[test]
fn sizes_are_bounded() {
    let mut many = String::from("--- a/x\n+++ b/x\n@@ -0,0 +1,4294967295 @@\n");
    many.push_str(&"+\n".repeat(LINES_MAX + 10));
    let (files, cut) = parse(many.as_bytes()).unwrap();
    assert!(cut && files[0].cut && files[0].hunks[0].lines.len() == LINES_MAX);
    let files = "diff --git a/x b/x\n".repeat(FILES_MAX + 1);
    let (files, cut) = parse(files.as_bytes()).unwrap();
    assert!(cut && files.len() == FILES_MAX);
    let far = "--- a/x\n+++ b/x\n@@ -4294967295,2 +4294967295,2 @@\n a\n b\n";
    assert_eq!(one(far).hunks[0].lines[1].old, Some(u32::MAX));
}

/// Noise that is near enough to diffs to reach every branch.
#[test]
fn no_text_makes_the_reader_panic() {
    let pieces = [
        "diff --git ",
        "a/x b/x",
        "\"a/\\3",
        "\"",
        "\n",
        "--- ",
        "+++ ",
        "@@ -1,2 +1,2 @@",
        "@@ -",
        "+",
        "-",
        " ",
        "\\",
        "é",
        "rename from ",
        "/dev/null",
        "\t",
        "99999999999",
        "new file mode",
        "@@ -0,0 +1 @@\n",
        "\u{0}",
        "\r\n",
    ];
    let mut seed = 7u64;
    for _ in 0..20_000 {
        let mut text = String::new();
        for _ in 0..12 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            text.push_str(pieces[(seed >> 33) as usize % pieces.len()]);
        }
        let _ = parse(text.as_bytes());
        let _ = hunks(&text);
    }
}
