//! Texts of events: foreign, so they are looked through and quoted, never followed.

/// A foreign text on one line, in quotes, of at most `max` letters.
pub(crate) fn quoted(text: &str, max: usize) -> String {
    format!("\"{}\"", clipped(text, max))
}

/// A foreign text on one line, of at most `max` letters.
pub(crate) fn clipped(text: &str, max: usize) -> String {
    let mut line = String::new();
    let mut letters = 0;
    for word in text.split(|letter: char| letter.is_whitespace() || letter.is_control()).filter(|it| !it.is_empty()) {
        if letters > 0 {
            line.push(' ');
            letters += 1;
        }
        for letter in word.chars() {
            if letters >= max {
                line.push('…');
                return line;
            }
            // Letters that turn the direction of writing, or show nothing, could make a line read as another.
            if !matches!(letter, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
            {
                line.push(letter);
                letters += 1;
            }
        }
    }
    line
}

/// Whether `text` has `word` as a whole word, in either case; a word may consist of several.
pub(crate) fn mentions(text: &str, word: &str) -> bool {
    let (text, word) = (text.to_lowercase(), word.to_lowercase());
    if word.is_empty() {
        return false;
    }
    text.match_indices(&word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
    })
}

/// The numbers written as `#7`, each once, in order, at most `max` of them.
pub(crate) fn references(text: &str, max: usize) -> Vec<u64> {
    let mut found = Vec::new();
    for part in text.split('#').skip(1) {
        let digits: String = part.chars().take_while(char::is_ascii_digit).take(9).collect();
        if let Ok(number) = digits.parse()
            && !found.contains(&number)
        {
            found.push(number);
            if found.len() == max {
                break;
            }
        }
    }
    found
}

/// Whether a path fits one of the patterns: `dir/` is a folder anywhere in it, `*.ext` an ending, anything else the file's
/// name, alone or with an ending.
pub(crate) fn path_fits(path: &str, patterns: &[String]) -> bool {
    let path = path.to_lowercase();
    let name = path.rsplit('/').next().unwrap_or_default();
    patterns.iter().any(|pattern| {
        let pattern = pattern.to_lowercase();
        match pattern.strip_prefix('*') {
            Some(ending) => name.ends_with(ending),
            None if pattern.ends_with('/') => path.starts_with(&pattern) || path.contains(&format!("/{pattern}")),
            None => name.strip_prefix(&pattern).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')),
        }
    })
}

/// A count with its noun, in the plural where it has to be.
pub(crate) fn count(number: u64, noun: &str) -> String {
    match (number, noun) {
        (1, _) => format!("1 {noun}"),
        (_, noun) if noun.ends_with('y') => format!("{number} {}ies", &noun[..noun.len() - 1]),
        _ => format!("{number} {noun}s"),
    }
}

/// A span of time in its two largest units.
pub(crate) fn span(seconds: u64) -> String {
    let units = [(86_400, "d"), (3600, "h"), (60, "min"), (1, "s")];
    let first = units.iter().position(|(unit, _)| seconds >= *unit).unwrap_or(3);
    let (unit, name) = units[first];
    let mut text = format!("{} {name}", seconds / unit);
    if let Some((smaller, name)) = units.get(first + 1) {
        let rest = seconds % unit / smaller;
        if rest > 0 {
            text.push_str(&format!(" {rest} {name}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_texts_stay_on_one_short_line() {
        assert_eq!(quoted("a\r\n b\t\u{1b}[31mc", 20), "\"a b [31mc\"");
        assert_eq!(clipped("abcdef", 3), "abc…");
        assert_eq!(clipped("ab\u{202e}c", 9), "abc");
        assert_eq!(clipped("", 3), "");
    }

    #[test]
    fn words_are_found_whole() {
        assert!(mentions("It CRASHES; a crash.", "crash"));
        assert!(!mentions("crashing", "crash"));
        assert!(mentions("needs a new line: data loss!", "data loss"));
        assert!(!mentions("x", ""));
        assert!(mentions("Größe ÄRGER", "ärger"));
    }

    #[test]
    fn references_are_read_once_each() {
        assert_eq!(references("fixes #12, #3 and #12 but not # or #x; see a#4", 9), [12, 3, 4]);
        assert_eq!(references("#1 #2 #3", 2), [1, 2]);
    }

    #[test]
    fn paths_fit_folders_endings_and_names() {
        let patterns: Vec<String> = ["docs/", "*.lock", "Dockerfile"].map(str::to_owned).into();
        for path in ["docs/a.txt", "x/docs/a", "Cargo.lock", "a/Dockerfile", "Dockerfile.prod"] {
            assert!(path_fits(path, &patterns), "{path}");
        }
        for path in ["mydocs/a", "docs", "lock", "a/Dockerfiles", ""] {
            assert!(!path_fits(path, &patterns), "{path}");
        }
    }

    #[test]
    fn spans_and_counts_read_well() {
        assert_eq!([0, 59, 60, 3661, 90_000].map(span), ["0 s", "59 s", "1 min", "1 h 1 min", "1 d 1 h"]);
        assert_eq!(
            (count(1, "file"), count(2, "file"), count(0, "directory")),
            ("1 file".into(), "2 files".into(), "0 directories".into())
        );
    }
}
