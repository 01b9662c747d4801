//! Texts that come from models and events, made harmless before they are written to GitHub.
//!
//! Nobody is notified by what a model wrote: behind each `@` that GitHub would take for a mention stands an invisible character, so it
//! reads as it did. Code is left alone, for GitHub mentions nobody in it and what is to be copied has to stay whole; what is code is
//! found by a parser of CommonMark, so a text cannot look like code to us and like prose to GitHub. Invariant: no text leaves with a
//! mark of ours in it.

use std::ops::Range;

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

use crate::ingest::github_trust::MARK;

/// Stands behind an `@`: takes no room and is no letter of a name.
const JOINER: char = '\u{200b}';

/// A text in Markdown that mentions nobody and has no mark of ours in it.
pub(super) fn harmless(text: &str) -> String {
    without_mentions(&without_marks(&text.replace('\0', "")))
}

/// A plain text, such as a title or a commit's message, that mentions nobody and has no mark of ours in it.
pub(super) fn plain(text: &str) -> String {
    let text = without_marks(&text.replace('\0', ""));
    let mut out = String::with_capacity(text.len() + 16);
    let mut before = None;
    for letter in text.chars() {
        out.push(letter);
        if letter == '@' && !before.is_some_and(is_word) {
            out.push(JOINER);
        }
        before = Some(letter);
    }
    out
}

/// A title: one line of plain text of at most 256 characters, as GitHub takes it.
pub(super) fn title(text: &str) -> String {
    let line: String = plain(text).chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    line.trim().chars().take(256).collect()
}

/// Before these an `@` makes an address and no mention.
fn is_word(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_'
}

fn without_marks(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(MARK) {
        out.push_str(&rest[..at]);
        let behind = &rest[at + MARK.len()..];
        rest = behind.split_once("-->").map_or(behind, |(_, rest)| rest);
    }
    out.push_str(rest);
    // What was left may make another one with what stood before it.
    out.replace(MARK, "&lt;!-- mindos:")
}

fn without_mentions(text: &str) -> String {
    if !text.contains('@') && !text.contains('&') {
        return text.to_owned();
    }
    let options = Options::ENABLE_TABLES
        | Options::ENABLE_STRIKETHROUGH
        | Options::ENABLE_TASKLISTS
        | Options::ENABLE_FOOTNOTES
        | Options::ENABLE_GFM;
    // Where something is to stand, and what.
    let mut edits: Vec<(Range<usize>, &str)> = Vec::new();
    let mut in_code = false;
    for (event, range) in Parser::new_ext(text, options).into_offset_iter() {
        match event {
            Event::Start(Tag::CodeBlock(_)) => in_code = true,
            Event::End(TagEnd::CodeBlock) => in_code = false,
            Event::Text(shown) if !in_code => find(text, &shown, range, &mut edits),
            Event::Html(shown) | Event::InlineHtml(shown) => find(text, &shown, range, &mut edits),
            _ => {}
        }
    }
    edits.sort_by_key(|(range, _)| range.start);
    let mut out = String::with_capacity(text.len() + 3 * edits.len());
    let mut at = 0;
    for (range, with) in edits {
        // Parsers may show one place twice.
        if range.start < at {
            continue;
        }
        out.push_str(&text[at..range.start]);
        out.push_str(with);
        at = range.end;
    }
    out.push_str(&text[at..]);
    out
}

/// Finds what has to change in a piece of the text that is shown.
fn find(text: &str, shown: &str, range: Range<usize>, edits: &mut Vec<(Range<usize>, &'static str)>) {
    let source = &text[range.clone()];
    if source != shown {
        // Written as an entity: nothing else is in such a piece.
        if shown.contains('@') {
            edits.push((range.end..range.end, "\u{200b}"));
        }
        return;
    }
    let near = &text[text.floor_char_boundary(range.start.saturating_sub(LOOK_BACK))..range.start];
    let token = near.rfind(char::is_whitespace).map_or(near, |space| &near[space..]);
    let mut in_address = SCHEMES.iter().any(|scheme| token.contains(scheme));
    let mut before = None;
    for (at, letter) in source.char_indices() {
        if letter.is_whitespace() {
            in_address = false;
        } else if letter == 'h' && SCHEMES.iter().any(|scheme| source[at..].starts_with(scheme)) {
            in_address = true;
        } else if letter == '@' && !before.is_some_and(is_word) {
            let start = range.start + at;
            match in_address {
                // The same address, written otherwise.
                true => edits.push((start..start + 1, "%40")),
                false => edits.push((start + 1..start + 1, "\u{200b}")),
            }
        }
        before = Some(letter);
    }
}

/// How addresses begin.
const SCHEMES: [&str; 2] = ["http://", "https://"];
/// How far before a piece of text the beginning of an address is looked for.
const LOOK_BACK: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    /// A text as it is expected, with `|` where the invisible character stands.
    fn expect(text: &str, expected: &str) {
        assert_eq!(harmless(text).replace(JOINER, "|"), expected, "{text}");
    }

    #[test]
    fn nobody_is_mentioned() {
        expect("ask @ada and @octo/team-a.", "ask @|ada and @|octo/team-a.");
        expect("(@ada) **@bob** [@eve](https://x.y/)", "(@|ada) **@|bob** [@|eve](https://x.y/)");
        expect("write to ada@example.com", "write to ada@example.com");
        expect("é@ada", "é@|ada");
        expect("a\\@ada and &#64;bob &commat;eve", "a\\@|ada and &#64;|bob &commat;|eve");
        expect("> - @ada\n>   @bob", "> - @|ada\n>   @|bob");
        expect("| a | b |\n|---|---|\n| @ada | x |", "| a | b |\n|---|---|\n| @|ada | x |".replace("||", "|").as_str());
        expect("see https://npm.io/@scope/pkg", "see https://npm.io/%40scope/pkg");
        expect("*a*@ada", "*a*@|ada");
    }

    #[test]
    fn code_stays_whole_and_what_only_looks_like_code_does_not() {
        expect("`@types/node` and ``a ` @b``", "`@types/node` and ``a ` @b``");
        expect("```suggestion\n@Override\n```\n@ada", "```suggestion\n@Override\n```\n@|ada");
        expect("    @decorator\n\n@ada", "    @decorator\n\n@|ada");
        // No fence inside of a block of HTML, none that is not closed by the same letter, no code without its second mark.
        expect("<div>\n```\n@ada\n```\n</div>", "<div>\n```\n@|ada\n```\n</div>");
        expect("a ` b @ada", "a ` b @|ada");
        expect("<code>@ada</code>", "<code>@|ada</code>");
        expect("```\nx\n```\n@ada\n```", "```\nx\n```\n@|ada\n```");
    }

    #[test]
    fn marks_of_ours_are_taken_out() {
        let nested = "a<!-- min<!-- mindos:x -->dos:general=y -->b";
        for text in ["<!-- mindos:general=x -->", "<!-- mindos:", nested, "<!-- mindos:<!-- mindos:-->-->"] {
            assert!(!harmless(text).contains(MARK), "{text}");
            assert!(!plain(text).contains(MARK), "{text}");
        }
        assert_eq!(harmless("a<!-- mindos:general=x -->b"), "ab");
        assert_eq!(harmless("a<!-- other -->b"), "a<!-- other -->b");
    }

    #[test]
    fn a_title_is_one_line() {
        assert_eq!(title(" fix @ada\nnow "), format!("fix @{JOINER}ada now"));
        assert_eq!(title(&"x".repeat(300)).len(), 256);
    }

    #[test]
    fn hostile_texts_take_no_time() {
        let began = std::time::Instant::now();
        for text in [
            "[".repeat(60_000),
            "@".repeat(60_000),
            "*a **a ".repeat(8_000),
            "`".repeat(60_000),
            "<!-- mindos:".repeat(5_000),
        ] {
            harmless(&text);
        }
        harmless(&format!("https://{}", "@a".repeat(30_000)));
        assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
    }
}
