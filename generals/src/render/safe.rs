//! Foreign text made harmless in Markdown.
//!
//! | in it | becomes |
//! |---|---|
//! | `@name` | the same with an invisible letter after the `@`: nobody is notified |
//! | links and addresses elsewhere | ‹link to host left out› |
//! | images | their words, without the image |
//! | HTML, comments, entities | shown as written |
//! | `#7`, `GH-7`, `other/repo#7` | the same with an invisible letter, but for the numbers that the run is about |
//! | `/command` and headings at the start of a line | shown as written |
//! | fenced code | a fence of ours, without diagrams, suggestions or anything else that is carried out |
//! | invisible letters, turned writing | gone |

use std::fmt::Write as _;

/// An invisible letter that keeps a word from being taken for more.
const BREAK: char = '\u{200b}';
/// Most fenced blocks of one text that stay code.
const BLOCKS_MAX: usize = 20;
/// Languages of fenced code that are drawn or carried out rather than shown.
const LIVE: [&str; 8] = ["mermaid", "geojson", "topojson", "stl", "math", "suggestion", "html", "svg"];

/// What foreign text may refer to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// Host of the forge, such as `github.com`. Empty: no link stays.
    pub host: String,
    /// The repository, `owner/name`. Links into it stay.
    pub repository: String,
    /// Numbers of issues and pull requests that may be linked.
    pub numbers: Vec<u64>,
}

/// Foreign text of several lines, at most `max` letters of it.
#[must_use]
pub(crate) fn text(foreign: &str, allowed: &Allowed, max: usize) -> String {
    let foreign = cut(&cleaned(foreign), max);
    let mut safe = String::with_capacity(foreign.len());
    let mut lines = foreign.lines();
    let mut blocks = 0;
    while let Some(line) = lines.next() {
        match opening(line).filter(|_| blocks < BLOCKS_MAX) {
            Some((fence, language)) => {
                blocks += 1;
                let mut code = Vec::new();
                for line in lines.by_ref() {
                    if closes(line, fence) {
                        break;
                    }
                    code.push(line);
                }
                safe.push_str(&block(language, &code.join("\n")));
            }
            None => {
                safe.push_str(&prose(line, allowed));
                safe.push('\n');
            }
        }
    }
    safe.trim_end().to_owned()
}

/// Foreign text on one line, at most `max` letters of it.
#[must_use]
pub(crate) fn line(foreign: &str, allowed: &Allowed, max: usize) -> String {
    let foreign = cut(&cleaned(foreign), max);
    let words: Vec<&str> = foreign.split_whitespace().collect();
    prose(&words.join(" "), allowed).replace('|', "\\|")
}

/// Foreign text as inline code, at most `max` letters of it. To stand at the start of its paragraph or after words of ours.
#[must_use]
pub(crate) fn code(foreign: &str, max: usize) -> String {
    let foreign = cut(&cleaned(foreign), max);
    let words: Vec<&str> = foreign.split_whitespace().collect();
    let words = words.join(" ").replace('|', "¦");
    if words.is_empty() {
        return "``".to_owned();
    }
    let ticks = "`".repeat(longest_run(&words, '`') + 1);
    // A tick at either end would join ours.
    let pad = if words.starts_with('`') || words.ends_with('`') { " " } else { "" };
    format!("{ticks}{pad}{words}{pad}{ticks}")
}

/// Foreign code in a fence that it cannot end, at the left margin, so that it ends every list and quote before it.
#[must_use]
pub(crate) fn block(language: &str, code: &str) -> String {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '+' | '-' | '_' | '#');
    let language = language.to_ascii_lowercase();
    let shown = !LIVE.contains(&language.as_str()) && language.len() <= 20 && language.chars().all(fits);
    let fence = "`".repeat(longest_run(code, '`').max(2) + 1);
    let language = if shown { language.as_str() } else { "text" };
    let mut block = String::new();
    let _ = write!(block, "\n{fence}{language}\n{}\n{fence}\n", cleaned(code).trim_end_matches('\n'));
    block
}

/// Without letters that show nothing, turn the direction of writing, or control something.
fn cleaned(text: &str) -> String {
    let shows = |letter: &char| {
        !matches!(letter,
            '\u{ad}' | '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2028}' | '\u{2029}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e0fff}')
            && (!letter.is_control() || matches!(letter, '\n' | '\t'))
    };
    text.replace("\r\n", "\n").replace('\r', "\n").chars().filter(shows).collect()
}

fn cut(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        Some((at, _)) => format!("{}…", text[..at].trim_end()),
        None => text.to_owned(),
    }
}

fn longest_run(text: &str, of: char) -> usize {
    let (mut longest, mut run) = (0, 0);
    for letter in text.chars() {
        run = if letter == of { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    longest
}

/// The fence that a line opens, and its language.
fn opening(line: &str) -> Option<((char, usize), &str)> {
    let bare = line.trim_start_matches(' ');
    let mark = bare.chars().next().filter(|mark| matches!(mark, '`' | '~'))?;
    let length = bare.chars().take_while(|letter| *letter == mark).count();
    let info = bare[length..].trim();
    if length < 3 || line.len() - bare.len() > 3 || (mark == '`' && info.contains('`')) {
        return None;
    }
    Some(((mark, length), info.split_whitespace().next().unwrap_or_default()))
}

fn closes(line: &str, (mark, length): (char, usize)) -> bool {
    let bare = line.trim();
    bare.len() >= length && bare.chars().all(|letter| letter == mark)
}

/// One line that is not code.
fn prose(line: &str, allowed: &Allowed) -> String {
    let indent = line.len() - line.trim_start().len();
    // Deep indents would be code, in which what follows is not what it seems.
    let line = format!("{}{}", " ".repeat(indent.min(3)), line.trim_start());
    let line = without_links(&line, allowed);
    let mut safe = String::with_capacity(line.len() + 8);
    let bare = line.trim_start();
    safe.push_str(&line[..line.len() - bare.len()]);
    // Headings, rules under headings, and commands of bots.
    let underline = !bare.is_empty() && bare.chars().all(|letter| matches!(letter, '=' | '-' | ' '));
    let command = bare.strip_prefix('/').is_some_and(|rest| rest.starts_with(|it: char| it.is_ascii_alphabetic()));
    if bare.starts_with('#') || underline || command {
        safe.push('\\');
    }
    let mut before = ' ';
    let mut letters = bare.chars().peekable();
    while let Some(letter) = letters.next() {
        let next = letters.peek().copied().unwrap_or(' ');
        match letter {
            '<' => safe.push_str("&lt;"),
            '&' => safe.push_str("&amp;"),
            '$' => safe.push_str("\\$"),
            '@' if !next.is_whitespace() => {
                safe.push('@');
                safe.push(BREAK);
            }
            '#' if next.is_ascii_digit() => {
                let digits: String = letters.clone().take_while(char::is_ascii_digit).take(12).collect();
                let known = digits.parse().is_ok_and(|number| allowed.numbers.contains(&number));
                safe.push('#');
                // With a repository before it, it is another one's.
                if !known || is_word(before) {
                    safe.push(BREAK);
                }
            }
            '-' if next.is_ascii_digit() && ends_with_gh(&safe) => {
                safe.push('-');
                safe.push(BREAK);
            }
            // No link, no image, no definition of one.
            ']' if matches!(next, '(' | '[' | ':') => {
                safe.push(']');
                safe.push(BREAK);
            }
            '!' if next == '[' => {}
            other => safe.push(other),
        }
        before = letter;
    }
    safe
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || matches!(letter, '_' | '-' | '.' | '/')
}

fn ends_with_gh(text: &str) -> bool {
    text.len() >= 2 && text.is_char_boundary(text.len() - 2) && text[text.len() - 2..].eq_ignore_ascii_case("gh")
}

/// The line with every address but those of the repository replaced by words.
fn without_links(line: &str, allowed: &Allowed) -> String {
    let mut safe = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((at, length)) = address(rest) {
        safe.push_str(&rest[..at]);
        let found = &rest[at..at + length];
        if is_allowed(found, allowed) {
            safe.push_str(found);
        } else {
            let _ = write!(safe, "‹link to {} left out›", host(found));
        }
        rest = &rest[at + length..];
    }
    safe.push_str(rest);
    safe
}

/// Where the next address begins, and its length: `scheme://..`, `www...`, `mailto:..` and the like.
fn address(text: &str) -> Option<(usize, usize)> {
    let lower = text.to_ascii_lowercase();
    let mut begin = None;
    if let Some(at) = lower.find("://") {
        let scheme = lower[..at]
            .bytes()
            .rev()
            .take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
            .count();
        begin = Some(at - scheme);
    }
    for start in ["www.", "mailto:", "javascript:", "data:", "vbscript:", "xmpp:"] {
        // `metadata: x` is no address.
        let is_address = |at: &usize| {
            let apart = !lower[..*at].ends_with(|letter: char| letter.is_ascii_alphanumeric());
            let filled = lower[at + start.len()..].starts_with(|letter: char| !letter.is_whitespace());
            apart && filled
        };
        let found = lower.match_indices(start).map(|(at, _)| at).find(is_address);
        if let Some(at) = found.filter(|at| begin.is_none_or(|begin| *at < begin)) {
            begin = Some(at);
        }
    }
    // `//host` after a bracket is an address without a scheme.
    if let Some(at) = lower.find("](//").map(|at| at + 2).filter(|at| begin.is_none_or(|begin| *at < begin)) {
        begin = Some(at);
    }
    let begin = begin?;
    let ends = |letter: char| letter.is_whitespace() || matches!(letter, '<' | '>' | '"' | '`' | ')' | ']' | '|');
    let length = text[begin..].find(ends).unwrap_or(text.len() - begin);
    Some((begin, length.max(1)))
}

fn is_allowed(address: &str, allowed: &Allowed) -> bool {
    let Allowed { host, repository, numbers } = allowed;
    if host.is_empty() || repository.is_empty() {
        return false;
    }
    let Some(path) = address.strip_prefix("https://").and_then(|rest| rest.strip_prefix(host.as_str())) else {
        return false;
    };
    let Some(within) = path.strip_prefix('/').and_then(|path| path.strip_prefix(repository.as_str())) else {
        return false;
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-#".contains(&byte);
    if !within.is_empty() && !within.starts_with('/') || within.contains("..") || !within.bytes().all(plain) {
        return false;
    }
    // A link to another issue would show up there.
    let number = ["/issues/", "/pull/", "/discussions/"].iter().find_map(|place| within.strip_prefix(place));
    number.is_none_or(|rest| {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().is_ok_and(|number| numbers.contains(&number))
    })
}

/// The host of an address, in letters that link nothing.
fn host(address: &str) -> String {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let rest = rest.trim_start_matches('/');
    let host = rest.split(['/', '?', '#', '\\']).next().unwrap_or_default();
    let host = host.rsplit('@').next().unwrap_or_default();
    let fits = |letter: &char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-' | ':');
    let host: String = host.chars().filter(fits).take(80).collect();
    let host = host.strip_prefix("www.").unwrap_or(&host);
    if host.is_empty() { "somewhere else".to_owned() } else { host.to_owned() }
}

#[cfg(test)]
#[path = "safe_tests.rs"]
mod tests;
