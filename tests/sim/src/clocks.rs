//! When leases may lapse at the earliest and must at the latest, reckoned beside the plane from what it was told.
//!
//! Invariant: a deadline holds for the records decided after it was set, so a slow disk does not move it.

use std::collections::{BTreeSet, HashMap};

use mindos_model::{DeliveryId, Seq, Timestamp, Token, limits};

/// What was learnt when, each valid for records after a sequence.
#[derive(Clone, Debug)]
pub struct Timeline<T>(Vec<(Seq, T)>);

impl<T> Default for Timeline<T> {
    fn default() -> Timeline<T> {
        Timeline(Vec::new())
    }
}

impl<T: Clone> Timeline<T> {
    /// From the record after `end` on.
    pub fn push(&mut self, end: Seq, value: T) {
        if self.0.len() > 64 {
            self.0.drain(..32);
        }
        self.0.push((end, value));
    }

    /// What held when record `seq` was decided.
    #[must_use]
    pub fn at(&self, seq: Seq) -> Option<T> {
        self.0.iter().rev().find(|(end, _)| *end < seq).map(|(_, value)| value.clone())
    }
}

#[derive(Clone, Copy, Debug)]
struct Bound {
    deadline: Timestamp,
    /// Stalls that it has not got its share of yet begin here.
    stalls: usize,
}

/// The deadlines of all leases.
#[derive(Debug, Default)]
pub struct Clocks {
    bounds: HashMap<(DeliveryId, Token), Timeline<Bound>>,
    /// Given to every lease that was open: from which record on, and how much.
    stalls: Vec<(Seq, u64)>,
    /// When turns were taken after a stall: what is decided then had waited.
    pub after_stall: BTreeSet<Timestamp>,
    last_turn: Timestamp,
    /// The plane was kept from its turns since the last one.
    pub stalled: bool,
}

impl Clocks {
    /// The assignment has left, or was accepted or extended.
    pub fn armed(&mut self, id: DeliveryId, token: Token, end: Seq, now: Timestamp) {
        let bound = Bound { deadline: now + limits::LEASE, stalls: self.stalls.len() };
        self.bounds.entry((id, token)).or_default().push(end, bound);
    }

    /// Whether the plane was told of the lease.
    #[must_use]
    pub fn knows(&self, id: DeliveryId, token: Token) -> bool {
        self.bounds.contains_key(&(id, token))
    }

    /// The plane has started with these leases open.
    pub fn restarted(&mut self, open: impl Iterator<Item = (DeliveryId, Token)>, end: Seq, now: Timestamp) {
        self.bounds.clear();
        self.stalls.clear();
        (self.last_turn, self.stalled) = (now, false);
        for (id, token) in open {
            let bound = Bound { deadline: now + limits::LEASE + limits::LEASE_GRACE, stalls: 0 };
            self.bounds.entry((id, token)).or_default().push(end, bound);
        }
    }

    /// The plane takes a turn; true when the time since the last one was a stall.
    pub fn turn(&mut self, end: Seq, now: Timestamp) -> bool {
        let gap = now.since(self.last_turn);
        self.last_turn = self.last_turn.max(now);
        // A plane that only had nothing to do has not stalled.
        if !std::mem::take(&mut self.stalled) || gap <= limits::STALL {
            return false;
        }
        let more = u64::try_from((gap + limits::LEASE_GRACE).as_millis()).unwrap_or(u64::MAX);
        self.stalls.push((end, more));
        self.after_stall.insert(now);
        true
    }

    /// When the lease runs out, as known when record `seq` was decided.
    #[must_use]
    pub fn deadline(&self, id: DeliveryId, token: Token, seq: Seq) -> Option<Timestamp> {
        let bound = self.bounds.get(&(id, token))?.at(seq)?;
        let more: u64 = self.stalls[bound.stalls..].iter().filter(|(end, _)| *end < seq).map(|(_, more)| more).sum();
        Some(Timestamp(bound.deadline.0 + more))
    }

    /// The lease is over.
    pub fn ended(&mut self, id: DeliveryId, token: Token) {
        self.bounds.remove(&(id, token));
    }
}
