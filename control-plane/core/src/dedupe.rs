//! The window of recent events by (tenant, source, id), so that a republished event gets its first answer.
//!
//! Invariant: the window holds the newest [`WINDOW`] keys of the last seven days; what is older is looked up by the
//! shell in its index on disk and comes in with the event.

use std::collections::VecDeque;
use std::time::Duration;

use foldhash::quality::FixedState;
use hashbrown::HashMap;
use mindos_model::{Seq, Timestamp};

use crate::input::Seen;
use crate::record::DedupeKey;

/// Keys kept in memory, about 64 bytes each.
pub const WINDOW: usize = 1 << 20;
/// How long a key is kept.
pub(crate) const HORIZON: Duration = Duration::from_secs(7 * 24 * 60 * 60);

#[derive(Clone, Debug)]
pub(crate) struct Dedupe {
    // Hashed, because it is on the path of every event; nobody iterates it. Keys are hashes already.
    by_key: HashMap<DedupeKey, Seen, FixedState>,
    order: VecDeque<(Timestamp, DedupeKey)>,
}

impl Default for Dedupe {
    fn default() -> Dedupe {
        Dedupe { by_key: HashMap::with_hasher(FixedState::default()), order: VecDeque::new() }
    }
}

impl Dedupe {
    pub(crate) fn get(&self, key: &DedupeKey) -> Option<Seen> {
        self.by_key.get(key).copied()
    }

    pub(crate) fn insert(&mut self, key: DedupeKey, at: Timestamp, seen: Seen) {
        while let Some(&(oldest, key)) = self.order.front() {
            if self.order.len() < WINDOW && at.since(oldest) <= HORIZON {
                break;
            }
            self.order.pop_front();
            self.by_key.remove(&key);
        }
        self.by_key.insert(key, seen);
        self.order.push_back((at, key));
    }

    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    /// The oldest event that the window knows.
    pub(crate) fn from(&self) -> Seq {
        self.order.front().map_or(Seq::ZERO, |(_, key)| self.by_key[key].event)
    }

    /// Oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (DedupeKey, Timestamp, Seen)> + '_ {
        self.order.iter().map(|(at, key)| (*key, *at, self.by_key[key]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_past_the_horizon_are_forgotten() {
        let mut dedupe = Dedupe::default();
        let seen = |seq| Seen { event: Seq(seq), digest: [0; 16] };
        dedupe.insert([1; 16], Timestamp(0), seen(1));
        dedupe.insert([2; 16], Timestamp(1000), seen(2));

        dedupe.insert([3; 16], Timestamp(500) + HORIZON, seen(3));

        assert_eq!(dedupe.get(&[1; 16]), None);
        assert_eq!(dedupe.get(&[2; 16]), Some(seen(2)));
        assert_eq!(dedupe.from(), Seq(2));
    }
}
