//! Marks: what stands, hidden, in all that we write, so that it is found again.
//!
//! ```text
//! <!-- mindos:general=security-general effect=3f2a90c1d7e4b586 -->
//! ```
//! `once` stands in what is never edited for another effect. `effect` is a hash of journal, tenant and key: effects of two planes that write under one author are told apart. Invariant: a mark
//! counts only in what was written under our own author, which the reader has to look at first.

use std::fmt;

use mindos_model::TenantName;
use sha2::{Digest, Sha256};

use super::text;
use crate::ingest::github_trust::MARK;

/// Bytes of the longest name in a mark.
pub(super) const NAME_MAX: usize = 128;
/// Bytes of the longest body; GitHub takes 65,536 characters.
pub(super) const BODY_MAX: usize = 65_000;

/// What stands in one text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The general, or another name under which there is one text only.
    pub name: String,
    /// Names the effect: 16 hex digits.
    pub effect: String,
    /// Written once for its effect, and never edited for another one of its name.
    pub is_once: bool,
}

/// Names an effect in marks.
#[must_use]
pub fn effect_hash(plane: &str, tenant: &TenantName, key: &str) -> String {
    let hash = Sha256::new().chain_update(plane).chain_update([0]).chain_update(tenant.as_str());
    let hash = hash.chain_update([0]).chain_update(key).finalize();
    hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a name may stand in a mark.
pub(super) fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'/' | b':');
    (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(fits) && !name.contains("--")
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let once = if self.is_once { "once " } else { "" };
        write!(f, "{MARK}general={} effect={} {once}-->", self.name, self.effect)
    }
}

impl Mark {
    /// The mark of a text, where it has one.
    pub(super) fn of(text: &str) -> Option<Mark> {
        let inner = text.split_once(MARK)?.1.split_once("-->")?.0;
        let part = |name: &str| inner.split_whitespace().find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
        let effect = part("effect").unwrap_or_default().to_owned();
        let is_once = inner.split_whitespace().any(|part| part == "once");
        Some(Mark { name: part("general")?.to_owned(), effect, is_once })
    }

    /// A text of others, harmless and within bounds, under this mark. The mark comes first, where nothing that the text leaves open,
    /// such as a block of code, can swallow it.
    pub(super) fn over(&self, text: &str) -> String {
        let text = text::harmless(text);
        let mark = self.to_string();
        let room = BODY_MAX - mark.len() - CUT.len() - 2;
        let (text, cut) = match text.len() > room {
            true => (&text[..text.floor_char_boundary(room)], CUT),
            false => (text.as_str(), ""),
        };
        format!("{mark}\n{text}{cut}")
    }
}

const CUT: &str = "\n\n(cut, for it is longer than GitHub takes)";

/// Whether two texts are the same but for what GitHub does to line ends, and for the effect that wrote them.
pub(super) fn is_same(one: &str, other: &str) -> bool {
    let rest = |text: &str| -> String {
        let text = match Mark::of(text).and(text.split_once("-->")) {
            Some((_, rest)) => rest,
            None => text,
        };
        text.replace("\r\n", "\n").trim().to_owned()
    };
    rest(one) == rest(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark() -> Mark {
        Mark { name: "code-general".to_owned(), effect: "0123456789abcdef".to_owned(), is_once: false }
    }

    #[test]
    fn a_mark_is_found_again_and_a_forged_one_in_the_text_is_not() {
        let body = mark().over("text <!-- mindos:general=other effect=ffff --> more\n```\nopen");
        assert!(body.starts_with("<!-- mindos:general=code-general effect=0123456789abcdef -->\n"));
        assert_eq!(Mark::of(&body), Some(mark()));
        assert_eq!(body.matches(MARK).count(), 1, "{body}");
        assert_eq!(Mark::of("no mark"), None);
        let once = Mark { is_once: true, ..mark() };
        assert_eq!(Mark::of(&once.over("x")), Some(once));
        assert!(is_name("plane/intake") && is_name("a.b_c-d") && !is_name("a b") && !is_name("a-->") && !is_name(""));
    }

    #[test]
    fn a_text_that_is_too_long_is_cut_at_a_character() {
        let body = mark().over(&"ü".repeat(40_000));
        assert!(body.len() <= BODY_MAX && body.ends_with("GitHub takes)"));
    }

    #[test]
    fn the_effect_that_wrote_a_text_makes_it_no_other() {
        let later = Mark { effect: "ffffffffffffffff".to_owned(), ..mark() };
        assert!(is_same(&mark().over("a\nb"), &later.over("a\r\nb\n")));
        assert!(!is_same(&mark().over("a\nb"), &later.over("a\nc")));
        assert!(is_same("plain", "plain "));
    }

    #[test]
    fn effects_are_told_apart_by_journal_tenant_and_key() {
        let (one, two) = (TenantName::default_tenant(), TenantName::new("acme").unwrap());
        let hashes = [
            effect_hash("p", &one, "k"),
            effect_hash("q", &one, "k"),
            effect_hash("p", &two, "k"),
            effect_hash("p", &one, "l"),
        ];
        for (at, hash) in hashes.iter().enumerate() {
            assert_eq!(hash.len(), 16);
            assert!(!hashes[..at].contains(hash));
        }
    }
}
