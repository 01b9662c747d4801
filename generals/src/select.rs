//! Which files of a repository are worth reading for a task: the contract's scoring, within a budget of tokens.
//!
//! A file gets 5 for each keyword in its name, 2 for each in its path and 1 for each in its first 10,000 letters. The best ten
//! are taken, the better first, each with its first 500 lines, until the budget is used up.

use std::collections::BTreeSet;

use crate::change::Tree;
use crate::text::clipped;

/// Most files taken.
pub const FILES_MAX: usize = 10;
/// Most lines taken of a file.
pub const LINES_MAX: usize = 500;
/// How much of a file is looked through for keywords, in letters.
const LOOKED_AT: usize = 10_000;
/// Bytes that a token is reckoned to be. Low for prose and code alike, so that the budget is kept.
pub const BYTES_PER_TOKEN: usize = 3;
/// Most keywords looked for.
const KEYWORDS_MAX: usize = 200;
/// Most bytes of files that are looked through in one selection.
const LOOKED_AT_ALL: usize = 256 << 20;
/// Fewest tokens of a file worth having.
const TOKENS_MIN: usize = 40;

const EXTENSIONS: [&str; 20] = [
    "py", "js", "ts", "tsx", "jsx", "java", "go", "rs", "cpp", "c", "h", "hpp", "cs", "rb", "php", "swift", "kt",
    "scala", "sh", "sql",
];
const IGNORED: [&str; 10] =
    [".git", "__pycache__", "node_modules", ".venv", "venv", ".pytest_cache", "dist", "build", ".mypy_cache", ".tox"];
const STOP_WORDS: [&str; 11] =
    ["this", "that", "with", "from", "have", "will", "when", "where", "what", "which", "should"];

/// A file that was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selected {
    pub path: String,
    pub score: u64,
    /// Its first lines, as many as there was room for.
    pub text: String,
    /// Lines in `text`.
    pub lines: usize,
    /// Whether the file goes on behind them.
    pub cut: bool,
    /// Tokens that `text` and `path` are reckoned to be.
    pub tokens: usize,
}

/// Chooses files of a tree by the words of a task: its title and its body. Together they keep within `budget_tokens`.
#[must_use]
pub fn select(tree: &Tree, words: &str, budget_tokens: usize) -> Vec<Selected> {
    let mut left = budget_tokens;
    let mut chosen = Vec::new();
    for (score, path) in ranked(tree, words).into_iter().take(FILES_MAX) {
        let Some(text) = tree.start(path, left.saturating_mul(BYTES_PER_TOKEN).saturating_add(4)) else { continue };
        let whole = tree.size(path).is_some_and(|size| size <= text.len() as u64);
        let head = tokens(path);
        let mut taken = String::new();
        let mut lines = 0;
        let mut cut = !whole;
        for line in text.split_inclusive('\n') {
            let fits = head + tokens_of(taken.len() + line.len()) <= left;
            // The last line of a text that was cut is itself cut.
            let part = !whole && !line.ends_with('\n');
            if lines == LINES_MAX || !fits || part {
                cut = true;
                break;
            }
            taken.push_str(line);
            lines += 1;
        }
        let tokens = head + tokens_of(taken.len());
        if lines == 0 || (cut && tokens < TOKENS_MIN && lines < LINES_MAX) {
            continue;
        }
        left = left.saturating_sub(tokens);
        chosen.push(Selected { path: path.to_owned(), score, text: taken, lines, cut, tokens });
    }
    chosen
}

/// The best names of a tree by name and path alone, for where the texts are not there yet. At most `max`.
#[must_use]
pub fn candidates(tree: &Tree, words: &str, max: usize) -> Vec<String> {
    let keywords = keywords(words);
    let mut scored: Vec<(u64, &str)> = tree
        .paths()
        .filter(|path| is_code(path))
        .map(|path| (by_name(path, &keywords), path))
        .filter(|(score, _)| *score > 0)
        .collect();
    scored.sort_by(|left, right| right.0.cmp(&left.0).then(left.1.cmp(right.1)));
    scored.into_iter().take(max).map(|(_, path)| path.to_owned()).collect()
}

/// Tokens that a text is reckoned to be.
#[must_use]
pub fn tokens(text: &str) -> usize {
    tokens_of(text.len())
}

fn tokens_of(bytes: usize) -> usize {
    bytes.div_ceil(BYTES_PER_TOKEN)
}

/// Lower-cased words of more than three letters, without the punctuation around them, each once.
pub(crate) fn keywords(words: &str) -> Vec<String> {
    let mut seen = BTreeSet::new();
    words
        .to_lowercase()
        .split_whitespace()
        .map(|word| word.trim_matches(|letter: char| !letter.is_alphanumeric() && letter != '_'))
        .filter(|word| word.chars().count() > 3 && word.len() <= 64 && !STOP_WORDS.contains(word))
        .filter(|word| seen.insert((*word).to_owned()))
        .take(KEYWORDS_MAX)
        .map(str::to_owned)
        .collect()
}

/// Whether a file is one that is looked at: code, in no folder that is ignored.
pub(crate) fn is_code(path: &str) -> bool {
    let (folders, name) = path.rsplit_once('/').unwrap_or(("", path));
    let Some((_, extension)) = name.rsplit_once('.') else { return false };
    let extension = extension.to_lowercase();
    EXTENSIONS.contains(&extension.as_str()) && !folders.split('/').any(|folder| IGNORED.contains(&folder))
}

fn by_name(path: &str, keywords: &[String]) -> u64 {
    let path = path.to_lowercase();
    let name = path.rsplit('/').next().unwrap_or_default();
    let of = |text: &str| keywords.iter().filter(|word| text.contains(word.as_str())).count() as u64;
    5 * of(name) + 2 * of(&path)
}

/// Files with their scores, the best first; equal ones in the order of their names.
fn ranked<'a>(tree: &'a Tree, words: &str) -> Vec<(u64, &'a str)> {
    let keywords = keywords(words);
    let mut looked_at = 0usize;
    let mut scored: Vec<(u64, &str)> = Vec::new();
    if keywords.is_empty() {
        return scored;
    }
    for path in tree.paths().filter(|path| is_code(path)) {
        let mut score = by_name(path, &keywords);
        // A letter has at most four bytes.
        if looked_at < LOOKED_AT_ALL
            && let Some(text) = tree.start(path, LOOKED_AT * 4)
        {
            looked_at += text.len();
            let end = text.char_indices().nth(LOOKED_AT).map_or(text.len(), |(at, _)| at);
            let text = text[..end].to_lowercase();
            score += keywords.iter().filter(|word| text.contains(word.as_str())).count() as u64;
        }
        if score > 0 {
            scored.push((score, path));
        }
    }
    scored.sort_by(|left, right| right.0.cmp(&left.0).then(left.1.cmp(right.1)));
    scored
}

/// The files of a tree to a depth, as an indented list: what a task's reader sees of a repository first.
#[must_use]
pub fn outline(tree: &Tree, depth: usize, max: usize) -> String {
    let mut shown = String::new();
    let mut folders: BTreeSet<String> = BTreeSet::new();
    let mut lines = 0;
    let mut line = |text: &str, level: usize, shown: &mut String| {
        lines += 1;
        if lines <= max {
            shown.push_str(&format!("{}{}\n", "  ".repeat(level), clipped(text, 120)));
        }
        lines <= max
    };
    for path in tree.paths() {
        let parts: Vec<&str> = path.split('/').collect();
        if parts.iter().any(|part| IGNORED[..6].contains(part)) {
            continue;
        }
        for level in 0..parts.len().min(depth) {
            let last = level + 1 == parts.len();
            let folder = parts[..=level].join("/");
            let more = match last {
                true => line(parts[level], level, &mut shown),
                false if folders.insert(folder) => line(&format!("{}/", parts[level]), level, &mut shown),
                false => true,
            };
            if !more {
                shown.push_str("...\n");
                return shown;
            }
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> Tree {
        let mut tree = Tree::default();
        for (path, text) in files {
            tree.hold(*path, *text);
        }
        tree
    }

    fn scores(tree: &Tree, words: &str) -> Vec<(String, u64)> {
        select(tree, words, 100_000).into_iter().map(|it| (it.path, it.score)).collect()
    }

    #[test]
    fn keywords_are_those_of_the_contract() {
        assert_eq!(
            keywords("Fix the PARSER: this (should) parse `tokens`, tokens; a_b when über_x"),
            ["parser", "parse", "tokens", "über_x"]
        );
        assert!(keywords("the fix is it").is_empty());
    }

    #[test]
    fn scores_are_those_of_the_contract() {
        let tree = tree(&[
            // Name: 5, path: 2, content: 1.
            ("src/parser.rs", "fn parser() {}"),
            // Path only: 2.
            ("parser/lib.rs", "x"),
            // Content only: 1.
            ("src/main.rs", "use Parser;"),
            ("src/none.rs", "nothing"),
            // Not code, or in a folder that is ignored.
            ("parser.md", "parser"),
            ("node_modules/parser.js", "parser"),
            ("a/build/parser.c", "parser"),
            ("parser", "parser"),
        ]);
        let expected = [("src/parser.rs", 8), ("parser/lib.rs", 2), ("src/main.rs", 1)];
        assert_eq!(scores(&tree, "parser"), expected.map(|(path, score)| (path.to_owned(), score)));
        assert!(scores(&tree, "it").is_empty());
    }

    #[test]
    fn only_the_first_letters_count_and_the_best_ten_are_taken() {
        let far = format!("{}parser", "é".repeat(LOOKED_AT));
        let near = format!("{}parser", "é".repeat(LOOKED_AT - 6));
        let mut files: Vec<(String, String)> =
            (0..12).map(|it| (format!("f{it:02}.py"), "parser\n".to_owned())).collect();
        files.push(("far.py".to_owned(), far));
        files.push(("a_near.py".to_owned(), near));
        let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
        let names: Vec<String> = scores(&tree(&files), "parser").into_iter().map(|(path, _)| path).collect();
        assert_eq!(names.len(), FILES_MAX);
        assert_eq!((&*names[0], &*names[1]), ("a_near.py", "f00.py"));
    }

    #[test]
    fn lines_and_tokens_are_bounded() {
        let long = "parser line\n".repeat(600);
        let tree = tree(&[("a.rs", &long), ("b.rs", &long), ("c.rs", "parser\n")]);
        let all = select(&tree, "parser", 100_000);
        assert_eq!((all.len(), all[0].lines, all[0].cut), (3, LINES_MAX, true));
        assert!(!all[2].cut && all[2].text == "parser\n");
        let some = select(&tree, "parser", 2500);
        assert!(some.iter().map(|it| it.tokens).sum::<usize>() <= 2500);
        assert_eq!((some[0].lines, some[1].cut, some[1].lines < LINES_MAX), (LINES_MAX, true, true));
        assert!(some[1].text.ends_with('\n'));
        assert!(select(&tree, "parser", 0).is_empty());
    }

    #[test]
    fn candidates_and_outlines_need_no_texts() {
        let names = ["src/deep/er/parser.rs", "README.md", "src/x.rs", ".git/config"];
        let tree = Tree::of_listing("", names.map(|name| (name.to_owned(), 9)), false);
        assert_eq!(candidates(&tree, "the parser", 5), ["src/deep/er/parser.rs"]);
        assert_eq!(outline(&tree, 3, 100), "README.md\nsrc/\n  deep/\n    er/\n  x.rs\n");
        assert_eq!(outline(&tree, 3, 2), "README.md\nsrc/\n...\n");
    }
}
