//! Terms: what few deliveries have, set when their event is accepted: a time to begin at, a time to live, being a shadow.
//!
//! Deliveries without any have no terms at all, so that the usual one pays for none of it.
//!
//! Invariants: what is delayed stands in `agenda.later` under its time; what may expire stands in `agenda.expiries`, unless it was
//! found leased or parked for a person when that time came.

use std::sync::Arc;

use mindos_model::{DeliveryId, ParkReason, Status, Timestamp};

use crate::durable::Durable;
use crate::event::{Delivery, Phase};
use crate::record::{CancelReason, DeliveryCancelled, DeliveryRedriven, Record};

/// What is special about a delivery; times of 0 stand for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Its effects are dropped, and its failure concerns nobody.
    pub shadow: bool,
    /// Not begun before: under debounce it waits at its place, parked as `delayed` it enters its lane then.
    pub not_before: Timestamp,
    /// Under debounce, when the first event came of those whose place it takes.
    pub burst_since: Timestamp,
    /// Cancelled when it waits at this time.
    pub expires: Timestamp,
}

impl Terms {
    /// As it is stored: not at all where nothing is special.
    #[must_use]
    pub fn boxed(self) -> Option<Box<Terms>> {
        (self != Terms::default()).then(|| Box::new(self))
    }
}

impl Delivery {
    pub(crate) fn terms(&self) -> Terms {
        self.terms.as_deref().copied().unwrap_or_default()
    }

    /// Redriven: its own time no longer matters, and where a person asked for work that counts, neither does its age.
    pub(crate) fn redriven(&mut self, by_itself: bool) {
        if self.terms.is_some() {
            let Terms { shadow, expires, .. } = self.terms();
            let expires = if by_itself || shadow { expires } else { Timestamp(0) };
            self.terms = Terms { shadow, expires, ..Terms::default() }.boxed();
        }
    }
}

impl Durable {
    /// Sets the timers of a delivery with terms.
    pub(crate) fn time_terms(&mut self, id: DeliveryId, terms: Terms, phase: &Phase) {
        if terms.expires > Timestamp(0) {
            self.agenda.expiries.insert((terms.expires, id));
        }
        match phase {
            Phase::Parked { reason: ParkReason::Delayed, .. } => {
                self.agenda.later.insert((terms.not_before, id));
            }
            Phase::Waiting { not_before } if *not_before > self.agenda.fired => {
                self.agenda.retries.insert((*not_before, id));
            }
            Phase::Waiting { .. } | Phase::Leased(_) | Phase::Parked { .. } | Phase::Succeeded | Phase::Cancelled => {}
        }
    }

    /// Takes the timers of a delivery away that ends or is redriven by a person.
    pub(crate) fn untime_terms(&mut self, id: DeliveryId, terms: Terms) {
        self.agenda.expiries.remove(&(terms.expires, id));
        self.agenda.later.remove(&(terms.not_before, id));
    }

    /// What becomes of a delivery whose time to live is over. One that is worked on is looked at again when its lease ends; one that
    /// is set aside for a person stays.
    pub(crate) fn expired(&self, delivery: DeliveryId) -> Option<Record> {
        let (event, known) = self.events.delivery(delivery)?;
        let waits = match known.phase {
            Phase::Waiting { .. } => true,
            Phase::Parked { reason: ParkReason::BacklogFull | ParkReason::Delayed, .. } => true,
            // What waits for a budget goes on by itself as well. Replays have time until it begins anew.
            Phase::Parked { .. } => {
                event.replay.is_none() && known.setback().over.as_deref().is_some_and(|over| over.place.is_some())
            }
            Phase::Leased(_) | Phase::Succeeded | Phase::Cancelled => false,
        };
        let cancelled = DeliveryCancelled {
            delivery,
            reason: CancelReason::Expired,
            why: Arc::default(),
            by: Arc::from(""),
            charged: None,
            unanswered: false,
        };
        waits.then(|| Record::DeliveryCancelled(Box::new(cancelled)))
    }

    /// A delayed delivery whose time has come enters its lane.
    pub(crate) fn come(&self, delivery: DeliveryId) -> Option<Record> {
        let (_, known) = self.events.delivery(delivery)?;
        let is_delayed = matches!(known.phase, Phase::Parked { reason: ParkReason::Delayed, .. });
        let (place_before, why, by) = (known.place, Arc::default(), Arc::from(""));
        let redriven = DeliveryRedriven { delivery, place_before, why, by };
        is_delayed.then_some(Record::DeliveryRedriven(redriven))
    }

    /// What a scan finds of terms, against the agenda.
    pub(crate) fn check_terms(&self) -> Result<(), String> {
        let (mut later, mut expiring) = (0, 0);
        for (seq, event) in self.events.iter() {
            for (id, delivery) in event.deliveries(seq) {
                let (terms, status) = (delivery.terms(), delivery.status());
                if matches!(delivery.phase, Phase::Parked { reason: ParkReason::Delayed, .. }) {
                    later += 1;
                    if !self.agenda.later.contains(&(terms.not_before, id)) {
                        return Err(format!("delivery {id} is delayed until {} and has no timer", terms.not_before));
                    }
                }
                let listed = terms.expires > Timestamp(0) && self.agenda.expiries.contains(&(terms.expires, id));
                expiring += usize::from(listed);
                let may_expire = status == Status::Waiting && terms.expires > self.agenda.fired;
                if may_expire && !listed {
                    return Err(format!("delivery {id} expires at {} and has no timer", terms.expires));
                }
            }
        }
        if (later, expiring) != (self.agenda.later.len(), self.agenda.expiries.len()) {
            let (l, e) = (self.agenda.later.len(), self.agenda.expiries.len());
            return Err(format!("{later} delayed and {expiring} expiring deliveries, {l} and {e} timers"));
        }
        Ok(())
    }
}
