//! Deliveries that settled lately, so that a result repeated after a lost reply gets the same answer.
//!
//! Invariant: holds the newest [`KEPT`]; an older repetition is answered as unknown, which settles nothing either.

use std::collections::VecDeque;

use foldhash::quality::FixedState;
use hashbrown::HashMap;
use mindos_model::{DeliveryId, Token};

/// Settled deliveries remembered.
pub(crate) const KEPT: usize = 1 << 16;

#[derive(Clone, Debug)]
pub(crate) struct Recent {
    // Hashed, because every result passes here; nobody iterates it.
    by_id: HashMap<DeliveryId, Token, FixedState>,
    order: VecDeque<DeliveryId>,
}

impl Default for Recent {
    fn default() -> Recent {
        Recent { by_id: HashMap::with_hasher(FixedState::default()), order: VecDeque::new() }
    }
}

impl Recent {
    pub(crate) fn get(&self, delivery: DeliveryId) -> Option<Token> {
        self.by_id.get(&delivery).copied()
    }

    pub(crate) fn insert(&mut self, delivery: DeliveryId, token: Token) {
        if self.order.len() == KEPT {
            let oldest = self.order.pop_front().expect("the order is full");
            self.by_id.remove(&oldest);
        }
        self.by_id.insert(delivery, token);
        self.order.push_back(delivery);
    }

    /// Oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (DeliveryId, Token)> + '_ {
        self.order.iter().map(|delivery| (*delivery, self.by_id[delivery]))
    }
}
