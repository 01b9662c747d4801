//! Who is let in: connections by address and in all, and who has to go when there is no room.
//!
//! ```text
//!            first request           none left
//!  New ---------------------> Busy <-----------> Idle
//! ```
//! When the server is full, the oldest connection without a request goes, at the address that has the most of them; so whoever opens many
//! pays with their own. Invariant: a connection is counted until it is gone; what is kept is bounded by the connections there are.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::frames::Flood;
use crate::limits::{AddressKey, Keyed, Limits};
use crate::metrics::{Exposition, Kind};

/// Addresses in the penalty box.
const PENALTIES_MAX: usize = 10_000;
/// Addresses that are looked at for a connection that can go.
const EVICT_TRIES: usize = 64;

/// Why a connection is not taken, or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Its address has as many as it may.
    AddressFull,
    /// Its address opens them too fast.
    AddressRate,
    /// Its address flooded the server a moment ago.
    Penalty,
    /// There is no room, and everybody else is at work.
    Full,
    /// It gave way to another one.
    Evicted,
    /// It did not get through TLS in time.
    Handshake,
    /// Nothing was asked of it for too long.
    Idle,
    /// Headers did not come in time.
    Headers,
    /// What waits for it is not taken.
    Unread,
    /// It sends what nobody would in good faith.
    Flood,
}

impl Ended {
    const ALL: [(Ended, &'static str); 10] = [
        (Ended::AddressFull, "address_full"),
        (Ended::AddressRate, "address_rate"),
        (Ended::Penalty, "penalty"),
        (Ended::Full, "full"),
        (Ended::Evicted, "evicted"),
        (Ended::Handshake, "handshake"),
        (Ended::Idle, "idle"),
        (Ended::Headers, "headers"),
        (Ended::Unread, "unread"),
        (Ended::Flood, "flood"),
    ];
}

/// What is known of one connection.
#[derive(Debug, Default)]
pub struct Visitor {
    /// Requests under way.
    requests: AtomicU32,
    /// Grows with every request.
    pub(super) asked: AtomicU64,
    /// Bytes of answers that were made and not sent.
    pub(super) unsent: AtomicUsize,
    /// Bytes of answers that were sent.
    pub(super) sent: AtomicU64,
    /// Answers that could go on and are not asked for more.
    pub(super) blocked: AtomicUsize,
    /// Bytes of messages that are half there.
    pub(super) unread: AtomicUsize,
    evicted: Notify,
}

impl Visitor {
    /// A request is under way until this is given back by [`Self::leave`].
    pub(super) fn enter(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.asked.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn leave(&self) {
        self.requests.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether nothing is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.requests.load(Ordering::Relaxed) == 0
    }

    /// Whether something waits for the peer to take it.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.unsent.load(Ordering::Relaxed) > 0 || self.blocked.load(Ordering::Relaxed) > 0
    }

    /// Completes when it has to give way.
    pub async fn evicted(&self) {
        self.evicted.notified().await;
    }
}

/// Lets connections in.
#[derive(Debug)]
pub struct Doorkeeper {
    inside: Mutex<Inside>,
    /// Connections at a time, in all.
    max: usize,
    /// Made for the rate beside it.
    rate: Mutex<(u32, Arc<Keyed<AddressKey>>)>,
    ended: [AtomicU64; Ended::ALL.len()],
    floods: [AtomicU64; Flood::ALL.len()],
    /// Bytes of messages that are half there, of all connections.
    pub(super) reading: AtomicUsize,
}

#[derive(Debug, Default)]
struct Inside {
    count: usize,
    /// By address and in order of arrival.
    by_address: HashMap<AddressKey, BTreeMap<u64, Arc<Visitor>>>,
    next: u64,
    by_size: BTreeSet<(usize, AddressKey)>,
    /// How many of an address are agents with a certificate.
    known: HashMap<AddressKey, usize>,
    penalties: HashMap<AddressKey, Instant>,
    /// Of agents, by the keys of their certificates: others behind the same address are not meant.
    agents: HashMap<[u8; 32], Instant>,
}

/// A connection that was let in; it counts until this is dropped.
#[derive(Debug)]
pub struct Visit {
    keeper: Arc<Doorkeeper>,
    key: AddressKey,
    number: u64,
    /// Whether an agent showed its certificate.
    known: AtomicBool,
    pub visitor: Arc<Visitor>,
}

impl Visit {
    /// An agent showed its certificate: the bound of the address is for those who did not, since a whole cluster may come from one.
    pub fn identified(&self) {
        if !self.known.swap(true, Ordering::Relaxed) {
            *self.keeper.inside().known.entry(self.key).or_default() += 1;
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut inside = self.keeper.inside();
        inside.remove(self.key, self.number);
        if self.known.load(Ordering::Relaxed) {
            inside.forget(self.key);
        }
        drop(inside);
        let unread = self.visitor.unread.load(Ordering::Relaxed);
        self.keeper.reading.fetch_sub(unread, Ordering::Relaxed);
    }
}

impl Inside {
    fn add(&mut self, key: AddressKey, visitor: Arc<Visitor>) -> u64 {
        let number = self.next;
        self.next += 1;
        let of = self.by_address.entry(key).or_default();
        self.by_size.remove(&(of.len(), key));
        of.insert(number, visitor);
        self.by_size.insert((of.len(), key));
        self.count += 1;
        number
    }

    fn remove(&mut self, key: AddressKey, number: u64) {
        let Some(of) = self.by_address.get_mut(&key) else { return };
        let before = of.len();
        if of.remove(&number).is_none() {
            return;
        }
        self.count -= 1;
        self.by_size.remove(&(before, key));
        match of.len() {
            0 => drop(self.by_address.remove(&key)),
            left => drop(self.by_size.insert((left, key))),
        }
    }

    fn forget(&mut self, key: AddressKey) {
        if let Some(known) = self.known.get_mut(&key) {
            *known -= 1;
            if *known == 0 {
                self.known.remove(&key);
            }
        }
    }

    /// Tells the oldest idle connection of whoever has the most to go; it counts no longer.
    fn evict(&mut self) -> bool {
        let largest: Vec<AddressKey> = self.by_size.iter().rev().take(EVICT_TRIES).map(|(_, key)| *key).collect();
        for key in largest {
            let of = self.by_address.get(&key).into_iter().flatten();
            let idle =
                of.filter(|(_, visitor)| visitor.is_idle()).map(|(number, visitor)| (*number, Arc::clone(visitor)));
            if let Some((number, visitor)) = idle.take(1).next() {
                self.remove(key, number);
                visitor.evicted.notify_one();
                return true;
            }
        }
        false
    }
}

impl Doorkeeper {
    /// Lets in `max` at a time.
    #[must_use]
    pub fn new(max: usize) -> Doorkeeper {
        let limits = Limits::default();
        Doorkeeper {
            inside: Mutex::default(),
            max: max.max(1),
            rate: Mutex::new((0, Arc::new(Keyed::new(limits.new_connections_per_second, 1)))),
            ended: Default::default(),
            floods: Default::default(),
            reading: AtomicUsize::new(0),
        }
    }

    fn inside(&self) -> std::sync::MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rate(&self, limits: &Limits) -> Arc<Keyed<AddressKey>> {
        let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = limits.new_connections_per_second;
        if rate.0 != wanted {
            *rate = (wanted, Arc::new(Keyed::new(wanted, wanted.saturating_mul(2))));
        }
        Arc::clone(&rate.1)
    }

    /// Lets a connection in.
    ///
    /// # Errors
    /// Says why not; counted.
    pub fn admit(self: &Arc<Self>, from: IpAddr, limits: &Limits, now: Instant) -> Result<Visit, Ended> {
        let key = AddressKey::from(from);
        let admitted = self.decide(key, limits, now);
        admitted.inspect_err(|ended| self.count(*ended))
    }

    fn decide(self: &Arc<Self>, key: AddressKey, limits: &Limits, now: Instant) -> Result<Visit, Ended> {
        let rate = self.rate(limits);
        let mut inside = self.inside();
        if let Some(until) = inside.penalties.get(&key) {
            if *until > now {
                return Err(Ended::Penalty);
            }
            inside.penalties.remove(&key);
        }
        if rate.take(&key, 1).is_err() {
            return Err(Ended::AddressRate);
        }
        let known = inside.known.get(&key).copied().unwrap_or(0);
        let of_address = inside.by_address.get(&key).map_or(0, BTreeMap::len).saturating_sub(known);
        if of_address >= limits.connections_per_address as usize {
            return Err(Ended::AddressFull);
        }
        if inside.count >= self.max {
            if !inside.evict() {
                return Err(Ended::Full);
            }
            self.count(Ended::Evicted);
        }
        let visitor = Arc::new(Visitor::default());
        let number = inside.add(key, Arc::clone(&visitor));
        Ok(Visit { keeper: Arc::clone(self), key, number, known: AtomicBool::new(false), visitor })
    }

    /// Makes room when the system has no more files to give. Says whether there was somebody to go.
    pub fn make_room(&self) -> bool {
        let gone = self.inside().evict();
        if gone {
            self.count(Ended::Evicted);
        }
        gone
    }

    /// Counts a connection that was ended.
    pub fn count(&self, ended: Ended) {
        self.ended[ended as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A connection was ended for a flood: its agent is refused for a time, or its address where it showed no certificate.
    pub fn punish(&self, from: IpAddr, agent: Option<[u8; 32]>, flood: Flood, penalty: Duration, now: Instant) {
        self.count(Ended::Flood);
        self.floods[flood as usize].fetch_add(1, Ordering::Relaxed);
        let mut inside = self.inside();
        match agent {
            Some(key) => put(&mut inside.agents, key, now, penalty),
            None => put(&mut inside.penalties, from.into(), now, penalty),
        }
    }

    /// Whether an agent flooded the server a moment ago; counted.
    #[must_use]
    pub fn is_punished(&self, agent: &[u8; 32], now: Instant) -> bool {
        let punished = self.inside().agents.get(agent).is_some_and(|until| *until > now);
        if punished {
            self.count(Ended::Penalty);
        }
        punished
    }

    /// Connections there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inside().count
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes the families.
    pub fn expose(&self, into: &mut Exposition) {
        let (count, addresses, most) = {
            let inside = self.inside();
            (inside.count, inside.by_address.len(), inside.by_size.last().map_or(0, |(size, _)| *size))
        };
        into.single("mindos_connections", Kind::Gauge, "Connections that are open, on all ports.", count);
        into.single("mindos_connections_max", Kind::Gauge, "Connections that may be open at a time.", self.max);
        into.single("mindos_connection_addresses", Kind::Gauge, "Addresses that they come from.", addresses);
        let help = "Connections of the address that has the most.";
        into.single("mindos_connections_of_one_address", Kind::Gauge, help, most);
        let help = "Connections that were refused or ended, by why.";
        let mut family = into.family("mindos_connections_ended_total", Kind::Counter, help);
        for (ended, word) in Ended::ALL {
            family.series(&[("reason", word)], self.ended[ended as usize].load(Ordering::Relaxed));
        }
        let help = "Connections that were ended for a flood, by what of.";
        let mut family = into.family("mindos_floods_total", Kind::Counter, help);
        for (flood, word) in Flood::ALL {
            family.series(&[("of", word)], self.floods[flood as usize].load(Ordering::Relaxed));
        }
        let help = "Bytes of messages that are half there.";
        into.single("mindos_reading_bytes", Kind::Gauge, help, self.reading.load(Ordering::Relaxed));
    }
}

fn put<K: Eq + std::hash::Hash>(penalties: &mut HashMap<K, Instant>, key: K, now: Instant, penalty: Duration) {
    if penalties.len() >= PENALTIES_MAX {
        penalties.retain(|_, until| *until > now);
    }
    if penalties.len() < PENALTIES_MAX {
        penalties.insert(key, now + penalty);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn limits() -> Limits {
        Limits { connections_per_address: 3, new_connections_per_second: 100, ..Limits::default() }
    }

    #[test]
    fn an_address_has_a_bound_of_its_own_and_gets_back_what_it_returns() {
        let keeper = Arc::new(Doorkeeper::new(100));
        let now = Instant::now();
        let admit = |last| keeper.admit(address(last), &limits(), now);
        let mut visits: Vec<Visit> = (0..3).map(|_| admit(1).unwrap()).collect();
        assert_eq!(admit(1).unwrap_err(), Ended::AddressFull);
        assert!(admit(2).is_ok());
        visits.pop();
        assert!(admit(1).is_ok());
        drop(visits);
        assert_eq!(keeper.len(), 0);
        assert!(keeper.inside().by_address.is_empty() && keeper.inside().by_size.is_empty());
    }

    #[test]
    fn agents_with_certificates_are_not_counted_against_their_address() {
        let keeper = Arc::new(Doorkeeper::new(100));
        let now = Instant::now();
        let admit = || keeper.admit(address(1), &limits(), now);
        let agents: Vec<Visit> = (0..10).map(|_| admit().unwrap()).inspect(Visit::identified).collect();
        agents[0].identified();
        let others: Vec<Visit> = (0..3).map(|_| admit().unwrap()).collect();
        assert_eq!(admit().unwrap_err(), Ended::AddressFull);
        drop(others);
        assert!(admit().is_ok());
        assert_eq!(keeper.len(), 10);
        drop(agents);
        assert!(keeper.inside().known.is_empty() && keeper.is_empty());
    }

    #[test]
    fn who_has_the_most_gives_way_and_who_works_stays() {
        let keeper = Arc::new(Doorkeeper::new(4));
        let now = Instant::now();
        let limits = Limits { connections_per_address: 100, ..limits() };
        let admit = |last| keeper.admit(address(last), &limits, now);
        let attackers: Vec<Visit> = (0..3).map(|_| admit(1).unwrap()).collect();
        attackers[0].visitor.enter();
        let honest: Vec<Visit> = [admit(2), admit(3), admit(4)].into_iter().map(Result::unwrap).collect();
        // Two of three gave way; the one at work did not.
        assert_eq!(keeper.len(), 4);
        assert_eq!(keeper.inside().by_address[&address(1).into()].len(), 1);
        honest.iter().for_each(|visit| visit.visitor.enter());
        assert_eq!(admit(5).unwrap_err(), Ended::Full);
        attackers[0].visitor.leave();
        assert!(admit(5).is_ok());
        drop(attackers);
        assert_eq!(keeper.len(), 3, "who gave way is not counted twice");
    }

    #[test]
    fn who_floods_is_refused_for_a_while() {
        let keeper = Arc::new(Doorkeeper::new(4));
        let now = Instant::now();
        keeper.punish(address(1), None, Flood::Resets, Duration::from_secs(10), now);
        assert_eq!(keeper.admit(address(1), &limits(), now).unwrap_err(), Ended::Penalty);
        assert!(keeper.admit(address(2), &limits(), now).is_ok());
        assert!(keeper.admit(address(1), &limits(), now + Duration::from_secs(11)).is_ok());
        for number in 0..2 * PENALTIES_MAX as u32 {
            let from = IpAddr::from(std::net::Ipv4Addr::from_bits(0x0a00_0000 + number));
            keeper.punish(from, None, Flood::Resets, Duration::from_secs(10), now);
        }
        assert!(keeper.inside().penalties.len() <= PENALTIES_MAX);
    }

    #[test]
    fn an_agent_that_floods_costs_others_at_its_address_nothing() {
        let keeper = Arc::new(Doorkeeper::new(4));
        let now = Instant::now();
        keeper.punish(address(1), Some([7; 32]), Flood::Resets, Duration::from_secs(10), now);
        assert!(keeper.admit(address(1), &limits(), now).is_ok());
        assert!(keeper.is_punished(&[7; 32], now) && !keeper.is_punished(&[8; 32], now));
        assert!(!keeper.is_punished(&[7; 32], now + Duration::from_secs(11)));
    }

    #[test]
    fn who_comes_too_often_is_refused_and_others_are_not() {
        let keeper = Arc::new(Doorkeeper::new(10_000));
        let now = Instant::now();
        let limits = Limits { new_connections_per_second: 1, connections_per_address: 10_000, ..Limits::default() };
        let admitted = (0..100).filter(|_| keeper.admit(address(1), &limits, now).is_ok()).count();
        assert_eq!(admitted, 2);
        assert!(keeper.admit(address(2), &limits, now).is_ok());
    }
}
