//! Deliveries that ended lately, so that a result repeated after a lost reply gets the same answer, and one that comes late is
//! refused.
//!
//! Invariant: holds the newest [`KEPT`] that were ever leased; what comes for an older one is answered as unknown, which settles
//! nothing either.

use std::collections::VecDeque;

use foldhash::quality::FixedState;
use hashbrown::HashMap;
use mindos_model::{DeliveryId, Token};

use crate::snapshot::Ending;

/// Ended deliveries remembered.
pub(crate) const KEPT: usize = 1 << 16;

/// How a delivery ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    /// Its newest.
    pub(crate) token: Token,
    pub(crate) ending: Ending,
}

#[derive(Clone, Debug)]
pub(crate) struct Recent {
    // Hashed, because every result passes here; nobody iterates it.
    by_id: HashMap<DeliveryId, Ended, FixedState>,
    order: VecDeque<DeliveryId>,
}

impl Default for Recent {
    fn default() -> Recent {
        Recent { by_id: HashMap::with_hasher(FixedState::default()), order: VecDeque::new() }
    }
}

impl Recent {
    pub(crate) fn get(&self, delivery: DeliveryId) -> Option<Ended> {
        self.by_id.get(&delivery).copied()
    }

    pub(crate) fn insert(&mut self, delivery: DeliveryId, ended: Ended) {
        if self.order.len() == KEPT {
            let oldest = self.order.pop_front().expect("the order is full");
            self.by_id.remove(&oldest);
        }
        self.by_id.insert(delivery, ended);
        self.order.push_back(delivery);
    }

    /// Oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (DeliveryId, Ended)> + '_ {
        self.order.iter().map(|delivery| (*delivery, self.by_id[delivery]))
    }
}
