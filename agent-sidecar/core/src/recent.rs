//! What ended lately, so that an assignment repeated after its end starts nothing.
//!
//! Invariant: of bounded size; forgets by being overwritten, which the plane's tokens make harmless.

use mindos_model::{DeliveryId, Seq, Token};

/// Places for remembered ends; a power of two.
const PLACES: usize = 1024;

#[derive(Clone, Debug, Default)]
pub(crate) struct Recent {
    /// Empty until something ends.
    places: Vec<(DeliveryId, Token)>,
}

impl Recent {
    pub(crate) fn insert(&mut self, delivery: DeliveryId, token: Token) {
        if self.places.is_empty() {
            self.places = vec![(DeliveryId::new(Seq::ZERO, 0), Token::default()); PLACES];
        }
        self.places[place(delivery)] = (delivery, token);
    }

    /// Whether this or a later lease of the delivery has ended here.
    pub(crate) fn has(&self, delivery: DeliveryId, token: Token) -> bool {
        self.places.get(place(delivery)).is_some_and(|(known, ended)| *known == delivery && *ended >= token)
    }
}

fn place(delivery: DeliveryId) -> usize {
    let mixed = (delivery.event.0.wrapping_mul(31) ^ u64::from(delivery.ordinal)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 54) as usize % PLACES
}
