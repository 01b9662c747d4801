//! Shares: how much one key may hold at a time of what all have together.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::Semaphore;

/// Keys that are remembered; more of them are looked through for those that hold nothing.
const KEYS_MAX: usize = 1024;

/// A semaphore for each key that holds something or waits. Those of others are forgotten.
#[derive(Debug)]
pub struct Shares<K>(Mutex<HashMap<K, Weak<Semaphore>>>);

impl<K> Default for Shares<K> {
    fn default() -> Shares<K> {
        Shares(Mutex::default())
    }
}

impl<K: Hash + Eq> Shares<K> {
    /// The share of a key, of `most` permits where nobody has it already; at least one.
    #[must_use]
    pub fn of(&self, key: K, most: usize) -> Arc<Semaphore> {
        let mut shares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if shares.len() >= KEYS_MAX {
            shares.retain(|_, share| share.strong_count() > 0);
        }
        if let Some(share) = shares.get(&key).and_then(Weak::upgrade) {
            return share;
        }
        let share = Arc::new(Semaphore::new(most.clamp(1, Semaphore::MAX_PERMITS)));
        shares.insert(key, Arc::downgrade(&share));
        share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_share_while_it_holds_something() {
        let shares = Shares::default();
        let held = shares.of("a", 2).try_acquire_many_owned(2).unwrap();
        assert_eq!((shares.of("a", 5).available_permits(), shares.of("b", 5).available_permits()), (0, 5));
        drop(held);
        assert_eq!(shares.of("a", 5).available_permits(), 5);
    }

    #[test]
    fn who_holds_nothing_is_forgotten() {
        let shares = Shares::default();
        let held = shares.of(0, 1).try_acquire_owned().unwrap();
        (1..KEYS_MAX * 3).for_each(|key| drop(shares.of(key, 1)));
        assert!(shares.0.lock().unwrap().len() <= KEYS_MAX);
        assert_eq!(shares.of(0, 1).available_permits(), 0);
        drop(held);
    }
}
