//! Names and labels of what a run makes, within what Kubernetes takes.
//!
//! Invariants: a name is a DNS label of at most 63 characters; what had to be cut or dropped is told apart by a hash of the whole, so two
//! different runs never share a name; the same run has the same names after every restart.

use sha2::{Digest, Sha256};

/// The longest name and label.
pub const NAME_MAX: usize = 63;
/// Characters of the hash behind what was cut, with its hyphen.
const HASH: usize = 9;

/// A label's value as the contract has it: lower case, white space and `_` to `-`, other characters removed, both ends alphanumeric, at
/// most 63 characters. May be empty.
#[must_use]
pub fn label(text: &str) -> String {
    let kept: String = text.chars().filter_map(label_character).take(NAME_MAX).collect();
    kept.trim_matches('-').to_owned()
}

fn label_character(letter: char) -> Option<char> {
    match letter {
        'a'..='z' | '0'..='9' | '-' => Some(letter),
        'A'..='Z' => Some(letter.to_ascii_lowercase()),
        ' ' | '_' => Some('-'),
        _ => None,
    }
}

/// A name of an object: lower case, `_` and `.` to `-`.
#[must_use]
pub fn object(text: &str) -> String {
    let mut is_whole = true;
    let mut name = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            'a'..='z' | '0'..='9' | '-' => name.push(letter),
            'A'..='Z' => name.push(letter.to_ascii_lowercase()),
            '_' | '.' => name.push('-'),
            _ => is_whole = false,
        }
    }
    let trimmed = name.trim_matches('-');
    if is_whole && trimmed.len() == name.len() && (1..=NAME_MAX).contains(&name.len()) {
        return name;
    }
    let kept = &trimmed[..trimmed.len().min(NAME_MAX - HASH)];
    let hash = hash(text);
    match kept.trim_end_matches('-') {
        "" => format!("x-{hash}"),
        kept => format!("{kept}-{hash}"),
    }
}

fn hash(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

fn uid8(uid: &str) -> &str {
    uid.get(..8).unwrap_or(uid)
}

/// The name of a code run that is asked for at a second; `again` tells it from others of that second, from 1.
#[must_use]
pub fn code_run(task: u32, second: u64, again: u32) -> String {
    numbered(format!("code-{task}-{second}"), again)
}

/// The same of a documentation run.
#[must_use]
pub fn docs_run(second: u64, again: u32) -> String {
    numbered(format!("docs-gen-{second}"), again)
}

fn numbered(name: String, again: u32) -> String {
    if again <= 1 { name } else { format!("{name}-{again}") }
}

/// The Job of one attempt at a code run.
#[must_use]
pub fn code_job(namespace: &str, name: &str, uid: &str, task: u32, context: u32) -> String {
    object(&format!("code-{namespace}-{name}-{}-t{task}-v{context}", uid8(uid)))
}

/// The Job of a documentation run. The contract has one; another attempt says which.
#[must_use]
pub fn docs_job(namespace: &str, name: &str, uid: &str, context: u32) -> String {
    let name = format!("docs-{namespace}-{name}-{}", uid8(uid));
    object(&if context <= 1 { name } else { format!("{name}-v{context}") })
}

/// The ConfigMap of one attempt at a code run.
#[must_use]
pub fn code_files(service: &str, task: u32, context: u32, uid: &str) -> String {
    let name = format!("{service}-task{task}-v{context}-files");
    // Two runs of the same task and context may be there at a time: the first keeps the contract's name.
    if uid.is_empty() { object(&name) } else { object(&format!("{service}-task{task}-v{context}-{}-files", uid8(uid))) }
}

/// The ConfigMap of a documentation run.
#[must_use]
pub fn docs_files(namespace: &str, name: &str, uid: &str, context: u32) -> String {
    object(&format!("docs-{namespace}-{name}-{}-v{context}-files", uid8(uid)))
}

/// The volume that all runs of a service share, one after the other.
#[must_use]
pub fn workspace(service: &str) -> String {
    object(&format!("workspace-{service}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn is_name(name: &str) -> bool {
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(fits) && !name.starts_with('-') && !name.ends_with('-')
    }

    #[test]
    fn names_are_those_of_the_contract() {
        assert_eq!(code_run(5, 1_700_000_000, 1), "code-5-1700000000");
        assert_eq!(code_run(5, 1_700_000_000, 3), "code-5-1700000000-3");
        assert_eq!(docs_run(1_700_000_000, 1), "docs-gen-1700000000");
        let uid = "0123abcd-1111-2222-3333-444455556666";
        let job = code_job("orchestrator", "code-5-1700000000", uid, 5, 2);
        assert_eq!(job, "code-orchestrator-code-5-1700000000-0123abcd-t5-v2");
        assert_eq!(docs_job("a.b", "docs_x", uid, 1), "docs-a-b-docs-x-0123abcd");
        assert_eq!(docs_job("ns", "docs", uid, 2), "docs-ns-docs-0123abcd-v2");
        assert_eq!(code_files("trader", 5, 1, ""), "trader-task5-v1-files");
        assert_eq!(code_files("trader", 5, 1, uid), "trader-task5-v1-0123abcd-files");
        assert_eq!(docs_files("ns", "docs-gen-1", uid, 1), "docs-ns-docs-gen-1-0123abcd-v1-files");
        assert_eq!((workspace("Trader_1"), workspace("a b")), ("workspace-trader-1".into(), object("workspace-a b")));
    }

    #[test]
    fn labels_are_sanitised_as_the_contract_has_it() {
        assert_eq!(label("My Service_1"), "my-service-1");
        assert_eq!(label("--https://github.com/O/n.git--"), "httpsgithubcomongit");
        assert_eq!(label(&"ab-".repeat(40)).len(), 62);
        assert_eq!(label("\u{e9}\n"), "");
    }

    /// A generator that needs no crate: the property has to hold for whatever it brings.
    fn noise(seed: &mut u64, max: u64) -> String {
        let mut next = || {
            *seed ^= *seed << 13;
            *seed ^= *seed >> 7;
            *seed ^= *seed << 17;
            *seed
        };
        let letters: Vec<char> = "abcz019-_. AZ/\u{e9}\u{4e16}\n'\"$`".chars().collect();
        let length = next() % max;
        (0..length).map(|_| letters[(next() % letters.len() as u64) as usize]).collect()
    }

    #[test]
    fn whatever_comes_in_names_are_valid_the_same_and_not_shared() {
        let mut seed = 0x9e37_79b9_7f4a_7c15;
        let mut seen: BTreeMap<String, String> = BTreeMap::new();
        for _ in 0..20_000 {
            let text = noise(&mut seed, 120);
            let name = object(&text);
            assert!(is_name(&name), "{text:?} became {name:?}");
            assert_eq!(name, object(&text));
            let shown = label(&text);
            assert!(shown.is_empty() || is_name(&shown), "{text:?} became {shown:?}");
            // Case, `_` and `.` are folded by the contract; nothing else may bring two texts together.
            let folded: String =
                text.chars().map(|l| if matches!(l, '_' | '.') { '-' } else { l.to_ascii_lowercase() }).collect();
            if let Some(other) = seen.insert(name.clone(), folded.clone()) {
                assert_eq!(other, folded, "share {name}");
            }
        }
        let long = "s".repeat(200);
        for name in [
            code_job(&long, &long, &long, u32::MAX, u32::MAX),
            code_files(&long, u32::MAX, u32::MAX, &long),
            docs_files(&long, &long, "", 7),
            workspace(&long),
        ] {
            assert!(is_name(&name) && name.len() == NAME_MAX, "{name}");
        }
        assert_ne!(code_job(&long, "a", "u", 1, 1), code_job(&long, "a", "u", 1, 2));
    }
}
