//! Deliveries that ended lately, so that a result repeated after a lost reply gets the same answer, and one that comes late is
//! refused.
//!
//! Invariant: holds the newest [`KEPT`] that were ever leased; what comes for an older one is answered as unknown, which settles
//! nothing either.

use std::hash::BuildHasher;

use foldhash::quality::FixedState;
use mindos_model::{DeliveryId, Token};

use crate::snapshot::Ending;

/// Ended deliveries remembered; a power of two.
pub(crate) const KEPT: usize = 1 << 16;

/// How a delivery ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    /// Its newest.
    pub(crate) token: Token,
    pub(crate) ending: Ending,
}

/// A ring of the newest, and chains through it by hash. Every result passes here, so a place is written in order and nothing is ever
/// taken out: a chain ends where it leaves the ring.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recent {
    ring: Vec<Place>,
    /// Number of the newest of each chain, from 1.
    newest: Vec<u64>,
    /// How many were ever put in.
    count: u64,
    hasher: FixedState,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    delivery: DeliveryId,
    ended: Ended,
    /// Number of the one before it in its chain; zero for none.
    before: u64,
}

impl Recent {
    pub(crate) fn get(&self, delivery: DeliveryId) -> Option<Ended> {
        let mut number = *self.newest.get(self.chain(delivery))?;
        while number > self.count.saturating_sub(KEPT as u64) {
            let kept = self.ring[place(number)];
            if kept.delivery == delivery {
                return Some(kept.ended);
            }
            number = kept.before;
        }
        None
    }

    pub(crate) fn insert(&mut self, delivery: DeliveryId, ended: Ended) {
        if self.newest.is_empty() {
            self.newest = vec![0; KEPT];
        }
        self.count += 1;
        let chain = self.chain(delivery);
        let before = std::mem::replace(&mut self.newest[chain], self.count);
        let newest = Place { delivery, ended, before };
        match self.ring.get_mut(place(self.count)) {
            Some(oldest) => *oldest = newest,
            None => self.ring.push(newest),
        }
    }

    /// Oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (DeliveryId, Ended)> + '_ {
        let numbers = self.count.saturating_sub(KEPT as u64) + 1..=self.count;
        numbers.map(|number| &self.ring[place(number)]).map(|kept| (kept.delivery, kept.ended))
    }

    fn chain(&self, delivery: DeliveryId) -> usize {
        self.hasher.hash_one(delivery) as usize % KEPT
    }
}

/// Where in the ring the one with this number stands.
fn place(number: u64) -> usize {
    (number - 1) as usize % KEPT
}

#[cfg(test)]
mod tests {
    use mindos_model::Seq;

    use super::*;

    #[test]
    fn the_newest_are_remembered_and_the_older_ones_forgotten() {
        let mut recent = Recent::default();
        let id = |event| DeliveryId::new(Seq(event), 1);
        let ended = |event| Ended { token: Token::new(1, event as u32), ending: Ending::Held };
        let last = 3 * KEPT as u64 + 7;
        assert_eq!(recent.get(id(1)), None);
        for event in 1..=last {
            recent.insert(id(event), ended(event));
            assert_eq!(recent.get(id(event)), Some(ended(event)));
        }
        let oldest = last - KEPT as u64 + 1;
        assert_eq!(recent.get(id(oldest - 1)), None);
        for event in (oldest..=last).step_by(101) {
            assert_eq!(recent.get(id(event)), Some(ended(event)));
        }
        assert!(recent.iter().map(|(delivery, _)| delivery).eq((oldest..=last).map(id)));
    }
}
