//! Races: deliveries for all targets, of which the first success wins.
//!
//! Invariant: at most one delivery of a race succeeds. The others are cancelled in the same append; who succeeds afterwards all the
//! same has lost, and what it used stays in the ledger.

use std::sync::Arc;

use mindos_model::{DeliveryId, Seq, Token};

use crate::budget::Amount;
use crate::event::{Delivery, Event, Phase};
use crate::record::{CancelReason, CancelRequested, DeliveryCancelled, LeaseExtended, Record, Usage};

impl Event {
    /// Who has won, where this is a race and somebody has.
    pub(crate) fn winner(&self, event: Seq) -> Option<DeliveryId> {
        if !self.race {
            return None;
        }
        let won = |(_, delivery): &(DeliveryId, &Delivery)| matches!(delivery.phase, Phase::Succeeded);
        self.deliveries(event).find(won).map(|(id, _)| id)
    }

    /// The ends of those that lose when `winner` succeeds.
    pub(crate) fn lost(&self, winner: DeliveryId) -> impl Iterator<Item = Record> + '_ {
        let others = self.deliveries(winner.event).filter(move |(id, _)| *id != winner);
        let race = self.race;
        others.filter(move |_| race).filter_map(move |(delivery, known)| {
            let (reason, why, by) = (CancelReason::RaceLost { by: winner }, Arc::default(), Arc::from(""));
            match known.phase {
                // Somebody asked before.
                Phase::Leased(_) if known.setback().cancel.is_some() => None,
                Phase::Leased(_) => Some(Record::CancelRequested(CancelRequested { delivery, reason, why, by })),
                Phase::Waiting { .. } | Phase::Parked { .. } => {
                    let (charged, unanswered) = (None, false);
                    let cancelled = DeliveryCancelled { delivery, reason, why, by, charged, unanswered };
                    Some(Record::DeliveryCancelled(Box::new(cancelled)))
                }
                Phase::Succeeded | Phase::Cancelled => None,
            }
        })
    }
}

/// A success that came second: it does not count, but what it cost does.
pub(crate) fn second(
    delivery: DeliveryId,
    token: Token,
    winner: DeliveryId,
    usage: Vec<Usage>,
    charged: Option<Amount>,
) -> Vec<Record> {
    let mut records = Vec::with_capacity(2);
    if !usage.is_empty() {
        let extended = LeaseExtended { delivery, token, checkpoint: None, usage, reserved: None, spent: None };
        records.push(Record::LeaseExtended(Box::new(extended)));
    }
    let (reason, why, by) = (CancelReason::RaceLost { by: winner }, Arc::default(), Arc::from(""));
    let (charged, unanswered) = (charged.map(Box::new), false);
    let cancelled = DeliveryCancelled { delivery, reason, why, by, charged, unanswered };
    records.push(Record::DeliveryCancelled(Box::new(cancelled)));
    records
}
