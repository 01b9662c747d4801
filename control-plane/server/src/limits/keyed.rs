//! An allowance for each of many keys, by GCRA, with a bound on what is kept.
//!
//! Invariant: at most [`KEYS_MAX`] keys have an allowance of their own, and one that is whole again is forgotten when room is needed;
//! while as many are in use, all share one allowance.

use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use governor::clock::{Clock, DefaultClock};
use governor::state::keyed::DashMapStateStore;
use governor::state::{InMemoryState, NotKeyed};
use governor::{NotUntil, Quota, RateLimiter};

/// Keys with an allowance of their own.
const KEYS_MAX: usize = 50_000;
/// Between two looks for keys that may be forgotten.
const PRUNE_INTERVAL: Duration = Duration::from_secs(1);

/// A peer's address as limits see it: IPv6 by its network of 64 bits, for a host has all of those.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AddressKey(u64, bool);

impl From<IpAddr> for AddressKey {
    fn from(address: IpAddr) -> AddressKey {
        match address.to_canonical() {
            IpAddr::V4(address) => AddressKey(address.to_bits().into(), false),
            IpAddr::V6(address) => AddressKey((address.to_bits() >> 64) as u64, true),
        }
    }
}

/// Allowances by key.
#[derive(Debug)]
pub struct Keyed<K: Hash + Eq + Clone> {
    own: RateLimiter<K, DashMapStateStore<K>, DefaultClock>,
    shared: RateLimiter<NotKeyed, InMemoryState, DefaultClock>,
    keys_max: usize,
    pruned: Mutex<Instant>,
}

impl<K: Hash + Eq + Clone> Keyed<K> {
    /// `rate` in a second, and up to `burst` at once after a pause.
    #[must_use]
    pub fn new(rate: u32, burst: u32) -> Keyed<K> {
        Keyed::bounded(rate, burst, KEYS_MAX)
    }

    fn bounded(rate: u32, burst: u32, keys_max: usize) -> Keyed<K> {
        let one = NonZeroU32::MIN;
        let quota =
            Quota::per_second(NonZeroU32::new(rate).unwrap_or(one)).allow_burst(NonZeroU32::new(burst).unwrap_or(one));
        Keyed {
            own: RateLimiter::dashmap(quota),
            shared: RateLimiter::direct(quota),
            keys_max,
            pruned: Mutex::new(Instant::now()),
        }
    }

    /// Takes `count` out of the key's allowance.
    ///
    /// # Errors
    /// When there is less; says when there will be as much. More than was ever allowed at once counts as all of that.
    pub fn take(&self, key: &K, count: u32) -> Result<(), Duration> {
        let Some(count) = NonZeroU32::new(count) else { return Ok(()) };
        if self.has_room() { self.own_take(key, count) } else { self.shared_take(count) }
    }

    fn own_take(&self, key: &K, count: NonZeroU32) -> Result<(), Duration> {
        match self.own.check_key_n(key, count) {
            Ok(taken) => taken.map_err(|until| wait(&until)),
            Err(most) => self
                .own
                .check_key_n(key, NonZeroU32::new(most.0).unwrap_or(NonZeroU32::MIN))
                .unwrap_or(Ok(()))
                .map_err(|until| wait(&until)),
        }
    }

    fn shared_take(&self, count: NonZeroU32) -> Result<(), Duration> {
        match self.shared.check_n(count) {
            Ok(taken) => taken.map_err(|until| wait(&until)),
            Err(most) => self
                .shared
                .check_n(NonZeroU32::new(most.0).unwrap_or(NonZeroU32::MIN))
                .unwrap_or(Ok(()))
                .map_err(|until| wait(&until)),
        }
    }

    fn has_room(&self) -> bool {
        if self.own.len() < self.keys_max {
            return true;
        }
        let Ok(mut pruned) = self.pruned.try_lock() else { return false };
        if pruned.elapsed() >= PRUNE_INTERVAL {
            *pruned = Instant::now();
            self.own.retain_recent();
            self.own.shrink_to_fit();
        }
        self.own.len() < self.keys_max
    }

    /// Keys with an allowance that is not whole, or was not when it was last looked at.
    #[must_use]
    pub fn len(&self) -> usize {
        self.own.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.own.is_empty()
    }
}

fn wait(until: &NotUntil<<DefaultClock as Clock>::Instant>) -> Duration {
    until.wait_time_from(DefaultClock::default().now()).max(Duration::from_millis(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted<K: Hash + Eq + Clone>(keyed: &Keyed<K>, key: &K, tries: u32) -> u32 {
        (0..tries).map(|_| u32::from(keyed.take(key, 1).is_ok())).sum()
    }

    #[test]
    fn one_key_at_its_limit_costs_the_others_nothing() {
        let keyed = Keyed::new(1, 5);
        assert_eq!(admitted(&keyed, &"loud", 1000), 5);
        assert!(keyed.take(&"loud", 1).unwrap_err() <= Duration::from_secs(1));
        assert_eq!(admitted(&keyed, &"quiet", 5), 5);
    }

    #[test]
    fn keys_without_number_take_a_bounded_place() {
        let keyed = Keyed::bounded(1, 1, 100);
        let admitted: u32 = (0..10_000u32).map(|key| admitted(&keyed, &key, 1)).sum();
        assert_eq!((keyed.len(), admitted), (100, 101), "one more for all that share");
        std::thread::sleep(Duration::from_millis(2200));
        assert!(keyed.take(&7, 1).is_ok());
        assert!(keyed.len() <= 2, "those that are whole again are forgotten: {}", keyed.len());
    }

    #[test]
    fn more_than_was_ever_allowed_at_once_passes_when_all_of_it_is_there() {
        let keyed = Keyed::new(1, 10);
        assert_eq!(keyed.take(&1, 1000), Ok(()));
        assert!(keyed.take(&1, 1).is_err());
    }

    #[test]
    fn a_host_of_ipv6_is_one_key() {
        let key = |text: &str| AddressKey::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:1"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_eq!(key("::ffff:10.0.0.1"), key("10.0.0.1"));
        assert_ne!(key("10.0.0.1"), key("::a00:1"));
    }
}
