//! Titles of commits and pull requests: what kind of change they announce, by the conventional form or by their first word.

use crate::text::clipped;

const TITLE_MAX: usize = 120;

/// `type(scope)!: text`, or a plain title.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conventional {
    /// Such as `fix`, in lower case; empty for a plain title.
    pub kind: String,
    pub scope: String,
    /// Whether it says that it breaks what others rely on.
    pub breaking: bool,
    /// The rest of the title, on one line.
    pub text: String,
    /// Its first word in lower case.
    pub first: String,
}

impl Conventional {
    /// Reads a message: its first line, and a `BREAKING CHANGE:` below.
    #[must_use]
    pub fn of(message: &str) -> Conventional {
        let (title, body) = message.split_once("\n\n").unwrap_or((message, ""));
        let title = clipped(title, TITLE_MAX);
        let (prefix, text) = match title.split_once(": ") {
            Some((prefix, text)) if !text.is_empty() && prefix.len() <= 40 && !prefix.contains(' ') => (prefix, text),
            _ => ("", title.as_str()),
        };
        let kind = prefix.split(['(', '!']).next().unwrap_or_default().to_lowercase();
        let scope = prefix.split_once('(').and_then(|(_, rest)| rest.split_once(')')).map_or("", |(scope, _)| scope);
        let footer =
            body.lines().any(|line| line.starts_with("BREAKING CHANGE: ") || line.starts_with("BREAKING-CHANGE: "));
        Conventional {
            scope: scope.to_owned(),
            breaking: prefix.ends_with('!') || footer,
            first: text.split(' ').next().unwrap_or_default().to_lowercase(),
            text: text.to_owned(),
            kind,
        }
    }

    /// Whether the kind is one of those of the conventional form.
    #[must_use]
    pub fn is_conventional(&self) -> bool {
        const KINDS: [&str; 12] =
            ["feat", "fix", "docs", "style", "refactor", "perf", "test", "build", "ci", "chore", "revert", "deps"];
        KINDS.contains(&self.kind.as_str())
    }

    /// The text as a sentence of a changelog: with a capital, without a full stop.
    #[must_use]
    pub fn sentence(&self) -> String {
        let mut letters = self.text.trim_end_matches('.').chars();
        letters.next().into_iter().flat_map(char::to_uppercase).chain(letters).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_are_taken_apart() {
        let it = Conventional::of("feat(api)!: drop the old path.\n\nwhy");
        assert_eq!((&*it.kind, &*it.scope, it.breaking, &*it.first), ("feat", "api", true, "drop"));
        assert_eq!(it.sentence(), "Drop the old path");
        let it = Conventional::of("Update the README");
        assert_eq!((&*it.kind, it.breaking, it.is_conventional()), ("", false, false));
        assert!(Conventional::of("fix: x\n\nBREAKING CHANGE: y").breaking);
        assert!(!Conventional::of("area: x\n\nBREAKING CHANGE").is_conventional());
        assert_eq!(Conventional::of("").sentence(), "");
    }
}
