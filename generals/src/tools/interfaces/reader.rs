//! Reading code by line: what is left of a line without texts and comments, and what stands up to the end of a signature.

use super::{Item, Items};

/// Most lines that a signature may have.
const LINES_MAX: usize = 40;
const SIGNATURE_MAX: usize = 2000;

/// Lines without the content of texts and without comments, so that brackets in them do not count. `single` says whether single
/// quotes hold texts too.
pub(super) fn bare(text: &str, line_comment: &str, single: bool) -> Vec<String> {
    let mut within_block = false;
    text.lines()
        .map(|line| {
            let mut plain = String::with_capacity(line.len());
            let mut quote: Option<char> = None;
            let mut letters = line.char_indices().peekable();
            while let Some((at, letter)) = letters.next() {
                if within_block {
                    if line[at..].starts_with("*/") {
                        within_block = false;
                        letters.next();
                    }
                    continue;
                }
                if let Some(open) = quote {
                    if letter == '\\' {
                        letters.next();
                    } else if letter == open {
                        quote = None;
                        plain.push(letter);
                    }
                    continue;
                }
                if line[at..].starts_with(line_comment) {
                    break;
                }
                if line_comment == "//" && line[at..].starts_with("/*") {
                    within_block = true;
                    letters.next();
                    continue;
                }
                // A quote that is not closed on its line is a lifetime, an apostrophe, or a text of several lines.
                let closes = |open: char| line[at + 1..].contains(open);
                match letter {
                    '"' | '`' if closes(letter) => quote = Some(letter),
                    '\'' if single && closes('\'') => quote = Some(letter),
                    // A letter in quotes: `'{'`.
                    '\'' if line[at + 1..].chars().nth(1) == Some('\'') => {
                        plain.push('\'');
                        letters.next();
                    }
                    _ => {}
                }
                plain.push(letter);
            }
            plain
        })
        .collect()
}

/// How much deeper a line ends than it begins.
pub(super) fn deeper(line: &str) -> i32 {
    line.chars().fold(0, |depth, letter| match letter {
        '{' => depth + 1,
        '}' => depth - 1,
        _ => depth,
    })
}

/// The text from a line on up to the first of `ends` that stands in no bracket, on one line.
pub(super) fn signature(lines: &[String], from: usize, ends: &[char]) -> String {
    let mut text = String::new();
    let mut depth = 0i32;
    'lines: for line in lines.iter().skip(from).take(LINES_MAX) {
        let line = line.trim();
        if !text.is_empty() && !text.ends_with(['(', '[', '<']) && !line.is_empty() && !line.starts_with([')', ']', ',', '.']) {
            text.push(' ');
        }
        let mut before = ' ';
        for letter in line.chars() {
            if depth <= 0 && ends.contains(&letter) && !(letter == '=' && matches!(before, '=' | '!' | '<' | '>')) {
                break 'lines;
            }
            match letter {
                '(' | '[' => depth += 1,
                ')' | ']' => depth -= 1,
                _ => {}
            }
            text.push(letter);
            before = letter;
            if text.len() > SIGNATURE_MAX {
                break 'lines;
            }
        }
        // A line that ends outside of brackets without an end goes on only where its language says so.
        if depth <= 0 && ends.contains(&'\n') {
            break;
        }
    }
    let text = text.replace(",)", ")").replace("( ", "(").replace(" )", ")");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The name that a text begins with.
pub(super) fn name(text: &str) -> Option<&str> {
    let text = text.trim_start();
    let end = text.find(|letter: char| !letter.is_alphanumeric() && letter != '_' && letter != '$').unwrap_or(text.len());
    (end > 0).then(|| &text[..end])
}

/// Adds an item; what has several forms under one name keeps them all.
pub(super) fn add(items: &mut Items, key: String, signature: String, line: usize) {
    match items.get_mut(&key) {
        Some(item) if item.signature.len() < SIGNATURE_MAX => {
            item.signature.push_str(" | ");
            item.signature.push_str(&signature);
        }
        Some(_) => {}
        None => {
            items.insert(key, Item { signature, line });
        }
    }
}
