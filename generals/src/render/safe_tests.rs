use super::*;

fn allowed() -> Allowed {
    Allowed { host: "github.com".into(), repository: "o/r".into(), numbers: vec![7] }
}

fn made(foreign: &str) -> String {
    text(foreign, &allowed(), 10_000)
}

#[test]
fn nobody_is_notified_and_nothing_elsewhere_is_referred_to() {
    assert_eq!(made("cc @org/team, \\@a &#64;b"), "cc @\u{200b}org/team, \\@\u{200b}a &amp;#\u{200b}64;b");
    assert_eq!(made("fixes #7, #8, other/r#7, GH-9"), "fixes #7, #\u{200b}8, other/r#\u{200b}7, GH-\u{200b}9");
    assert_eq!(made("o/r@0123456789012345678901234567890123456789").matches("@\u{200b}").count(), 1);
}

#[test]
fn links_stay_within_the_repository() {
    for kept in ["https://github.com/o/r/blob/main/a.rs#L3", "https://github.com/o/r", "https://github.com/o/r/pull/7"]
    {
        assert_eq!(made(kept), kept);
    }
    for (link, host) in [
        ("https://evil.example/a?b=c", "evil.example"),
        ("HTTPS://evil.example", "evil.example"),
        ("https://github.com.evil.example/o/r", "github.com.evil.example"),
        ("https://github.com/o/r2/issues/1", "github.com"),
        ("https://github.com/o/r/issues/8", "github.com"),
        ("https://github.com/o/r/../x", "github.com"),
        ("https://github.com/o/r?x=SECRET", "github.com"),
        ("https://u:p@evil.example/", "evil.example"),
        ("http://github.com/o/r", "github.com"),
        ("www.evil.example/x", "evil.example"),
        ("javascript:alert(1", "javascript:alert1"),
        ("ftp://evil.example", "evil.example"),
    ] {
        assert_eq!(made(&format!("see {link} now")), format!("see ‹link to {host} left out› now"), "{link}");
    }
    assert_eq!(made("metadata: x, update: y"), "metadata: x, update: y");
}

#[test]
fn an_address_is_found_behind_a_word_that_only_seems_one() {
    assert_eq!(made("awww.x www.evil.example/?q=SECRET"), "awww.x ‹link to evil.example left out›");
    assert_eq!(made("mailto: y mailto:a@evil.example"), "mailto: y ‹link to evil.example left out›");
    assert_eq!(made("metadata:x data:text/html,SECRET"), "metadata:x ‹link to data:text left out›");
}

#[test]
fn neither_links_nor_images_nor_definitions_of_them_are_left() {
    let made = made(
        "[a](https://evil.example/x) ![i](//evil.example/p.png) [b][1]\n[1]: https://evil.example \"t\"\n[l](/o/r)",
    );
    for link in ["](", "][", "]:", "![", "//", "evil.example/"] {
        assert!(!made.contains(link), "{link}: {made}");
    }
}

#[test]
fn html_comments_and_entities_are_shown_as_written() {
    let made = made("<!-- mindos:general=x --><img src=x onerror=y>&lt;b&gt;<details>");
    assert!(!made.contains('<'), "{made}");
    assert!(made.contains("&lt;!-- mindos:general=x --") && made.contains("&amp;lt;b"), "{made}");
}

#[test]
fn headings_rules_and_commands_lose_their_meaning() {
    let made = made("# Approved\ntext\n=====\n---\n/approve\n  /merge now\n- [x] a /b c");
    assert_eq!(made, "\\# Approved\ntext\n\\=====\n\\---\n\\/approve\n  \\/merge now\n- [x] a /b c");
}

#[test]
fn code_stays_code_and_what_seems_code_is_not_taken_for_it() {
    let foreign = "- item\n  ```rust\n@victim\n```\n@victim2\n````suggestion\nrm\n```\n````\n";
    let made = made(foreign);
    assert!(made.contains("\n```rust\n@victim\n```\n"), "{made}");
    assert!(made.contains("@\u{200b}victim2"), "{made}");
    assert!(made.contains("````text\nrm\n```\n````"), "{made}");
    // Never closed: closed by us.
    assert!(text("```\nx @y", &allowed(), 100).ends_with("\n```"));
    // Indented code is no code.
    assert_eq!(text("a\n\n        @v", &allowed(), 100), "a\n\n   @\u{200b}v");
    assert_eq!(block("mermaid", "graph"), "\n```text\ngraph\n```\n");
}

#[test]
fn a_path_as_code_cannot_leave_it() {
    assert_eq!(code("a`b` c\n@d", 100), "``a`b` c @d``");
    assert_eq!(code("`", 100), "`` ` ``");
    assert_eq!(code("a|b", 100), "`a¦b`");
    assert_eq!(code("\u{202e}", 100), "``");
}

#[test]
fn one_line_is_one_line_and_long_text_is_cut_at_a_letter() {
    assert_eq!(line("a\n# b | c", &allowed(), 100), "a # b \\| c");
    assert_eq!(line(&"é".repeat(50), &allowed(), 10), format!("{}…", "é".repeat(10)));
    assert_eq!(text("a\r\nb\u{0}\u{200b}\u{e0041}", &allowed(), 100), "a\nb");
}
