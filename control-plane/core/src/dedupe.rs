//! Windows of recent keys. That of events by (tenant, source, id) gives a republished event its first answer.
//!
//! Invariant: the window of events holds the newest [`WINDOW`] keys of the last seven days; what is older is looked up by the
//! shell in its index on disk and comes in with the event.

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::time::Duration;

use foldhash::quality::FixedState;
use hashbrown::HashTable;
use mindos_model::{Seq, Timestamp};

use crate::input::Seen;
use crate::record::DedupeKey;

/// Keys kept in memory, about 64 bytes each.
pub const WINDOW: usize = 1 << 20;
/// How long a key is kept.
pub(crate) const HORIZON: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Recent events.
pub(crate) type Dedupe = Window<Seen>;

/// The entries in order, and where each stands by its key: who reads them all goes straight through memory, and the table that
/// each event passes is as small as it can be.
#[derive(Clone, Debug)]
pub(crate) struct Window<V> {
    // Hashed, because it is on the path of every event; nobody iterates it.
    by_key: HashTable<Number>,
    hasher: FixedState,
    order: VecDeque<Entry<V>>,
    /// Number of the oldest entry.
    first: Number,
    /// How many are kept.
    max: usize,
    /// How long they are kept.
    life: Duration,
}

/// Counts entries, around the end of its range too: far fewer are kept.
type Number = u32;

#[derive(Clone, Copy, Debug)]
struct Entry<V> {
    key: DedupeKey,
    at: Timestamp,
    seen: V,
}

impl<V: Copy> Window<V> {
    pub(crate) fn new(hasher: FixedState, max: usize, life: Duration) -> Window<V> {
        Window { by_key: HashTable::new(), hasher, order: VecDeque::new(), first: 0, max, life }
    }

    pub(crate) fn get(&self, key: &DedupeKey) -> Option<V> {
        let found = self.by_key.find(self.hasher.hash_one(key), |number| self.entry(*number).key == *key);
        found.map(|number| self.entry(*number).seen)
    }

    /// Takes in a key that the window does not know.
    pub(crate) fn insert(&mut self, key: DedupeKey, at: Timestamp, seen: V) {
        while let Some(oldest) = self.order.front() {
            if self.order.len() < self.max && at.since(oldest.at) <= self.life {
                break;
            }
            let (hash, first) = (self.hasher.hash_one(oldest.key), self.first);
            if let Ok(place) = self.by_key.find_entry(hash, |number| *number == first) {
                place.remove();
            }
            self.order.pop_front();
            self.first = first.wrapping_add(1);
        }
        let Window { by_key, hasher, order, first, .. } = self;
        let number = first.wrapping_add(Number::try_from(order.len()).expect("the window is far below 2^32"));
        order.push_back(Entry { key, at, seen });
        let hash_of = |number: &Number| hasher.hash_one(order[number.wrapping_sub(*first) as usize].key);
        by_key.insert_unique(hasher.hash_one(key), number, hash_of);
    }

    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    /// Oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (DedupeKey, Timestamp, V)> + '_ {
        self.order.iter().map(|Entry { key, at, seen }| (*key, *at, *seen))
    }

    fn entry(&self, number: Number) -> &Entry<V> {
        &self.order[number.wrapping_sub(self.first) as usize]
    }
}

impl Dedupe {
    /// The oldest event that the window knows.
    pub(crate) fn from(&self) -> Seq {
        self.order.front().map_or(Seq::ZERO, |entry| entry.seen.event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(seq: u64) -> Seen {
        Seen { event: Seq(seq), digest: [0; 16] }
    }

    #[test]
    fn keys_past_the_horizon_are_forgotten() {
        let mut dedupe = Dedupe::new(FixedState::default(), WINDOW, HORIZON);
        dedupe.insert([1; 16], Timestamp(0), seen(1));
        dedupe.insert([2; 16], Timestamp(1000), seen(2));

        dedupe.insert([3; 16], Timestamp(500) + HORIZON, seen(3));

        assert_eq!(dedupe.get(&[1; 16]), None);
        assert_eq!(dedupe.get(&[2; 16]), Some(seen(2)));
        assert_eq!(dedupe.from(), Seq(2));
    }

    #[test]
    fn a_full_window_forgets_its_oldest_key_also_where_numbers_begin_anew() {
        let mut dedupe = Dedupe::new(FixedState::with_seed(7), WINDOW, HORIZON);
        dedupe.first = Number::MAX - 1000;
        let key = |seq: u64| u128::from(seq).to_be_bytes();
        let last = WINDOW as u64 + 5000;
        for seq in 1..=last {
            dedupe.insert(key(seq), Timestamp(seq), seen(seq));
        }

        assert_eq!((dedupe.len(), dedupe.by_key.len()), (WINDOW, WINDOW));
        assert_eq!((dedupe.get(&key(5000)), dedupe.get(&key(5001))), (None, Some(seen(5001))));
        assert_eq!((dedupe.get(&key(last)), dedupe.from()), (Some(seen(last)), Seq(5001)));
        assert!(dedupe.iter().map(|(_, _, seen)| seen.event.0).eq(5001..=last));
    }
}
