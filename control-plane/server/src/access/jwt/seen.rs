//! Tokens that were verified, by their SHA-256, so that a program which asks often costs one signature.
//!
//! Invariant: at most `max` of them; none outlives its own end. Whoever asks checks that the key is still the provider's.

use std::collections::{BTreeSet, HashMap};

use mindos_model::Timestamp;

use super::Person;

/// SHA-256 of a token.
pub(super) type Hash = [u8; 32];

/// A token that was verified.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) person: Person,
    /// Index of the provider in the settings in force.
    pub(super) provider: usize,
    /// Digest of the key that verified it.
    pub(super) key: [u8; 32],
}

/// The tokens, and which of them ends first.
#[derive(Debug)]
pub(super) struct Seen {
    max: usize,
    entries: HashMap<Hash, Entry>,
    by_end: BTreeSet<(Timestamp, Hash)>,
}

impl Seen {
    pub(super) fn new(max: usize) -> Seen {
        Seen { max, entries: HashMap::new(), by_end: BTreeSet::new() }
    }

    pub(super) fn get(&self, hash: &Hash, now: Timestamp) -> Option<Entry> {
        self.entries.get(hash).filter(|entry| now < entry.person.expires).cloned()
    }

    /// Keeps a token; when there is no room, the one goes that ends first.
    pub(super) fn put(&mut self, hash: Hash, entry: Entry) {
        self.forget(&hash);
        while self.entries.len() >= self.max {
            let Some((_, first)) = self.by_end.pop_first() else { return };
            self.entries.remove(&first);
        }
        self.by_end.insert((entry.person.expires, hash));
        self.entries.insert(hash, entry);
    }

    pub(super) fn forget(&mut self, hash: &Hash) {
        if let Some(entry) = self.entries.remove(hash) {
            self.by_end.remove(&(entry.person.expires, *hash));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(expires: u64) -> Entry {
        let person = Person {
            provider: "corp".into(),
            subject: "alice".into(),
            groups: Vec::new().into(),
            expires: Timestamp(expires),
            name: "oidc:corp#alice".into(),
        };
        Entry { person, provider: 0, key: [0; 32] }
    }

    #[test]
    fn a_token_is_known_until_it_ends_and_the_first_to_end_makes_room() {
        let mut seen = Seen::new(2);
        seen.put([1; 32], entry(100));
        seen.put([2; 32], entry(50));
        seen.put([2; 32], entry(60));
        assert!(seen.get(&[2; 32], Timestamp(59)).is_some() && seen.get(&[2; 32], Timestamp(60)).is_none());
        seen.put([3; 32], entry(200));
        assert!(seen.get(&[2; 32], Timestamp(0)).is_none());
        assert!(seen.get(&[1; 32], Timestamp(0)).is_some() && seen.get(&[3; 32], Timestamp(0)).is_some());
        seen.forget(&[1; 32]);
        seen.forget(&[1; 32]);
        assert!(seen.get(&[1; 32], Timestamp(0)).is_none());
        assert_eq!((seen.entries.len(), seen.by_end.len()), (1, 1));
    }
}
