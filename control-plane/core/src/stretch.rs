//! Folding a stretch of the journal at once.
//!
//! Most events are accepted, worked on and settled within a short stretch. What is left of such an event are its key, its settled
//! deliveries and where its route's turn stands; who has the whole stretch before it need not put the rest into lanes and take it out
//! again. Invariant: the state exports the same as after folding the records one by one.

use mindos_model::Seq;

use crate::durable::Durable;
use crate::input::Seen;
use crate::passage::Passage;
use crate::recent::Ended;
use crate::record::{DeliveryLeased, DeliverySettled, Entry, EventAccepted, Record};
use crate::snapshot::Ending;

/// Entries looked at together.
const STRETCH_MAX: usize = 1 << 16;

/// Events accepted in a stretch, by their place in it, with their deliveries that are not settled in it.
struct Stretch<'a> {
    first: Seq,
    events: Vec<Option<(&'a EventAccepted, usize)>>,
}

impl<'a> Stretch<'a> {
    fn new(entries: &[&'a Entry]) -> Stretch<'a> {
        let first = entries.first().map_or(Seq::ZERO, |entry| entry.seq);
        let mut stretch = Stretch { first, events: vec![None; entries.len()] };
        for entry in entries {
            let Some(passage) = entry.record.passage() else { continue };
            let held_up = match passage {
                Passage::Accepted(event) => {
                    let goes_through = !event.deliveries.is_empty()
                        && event.about.is_none()
                        && event.deliveries.iter().all(|one| one.parked.is_none());
                    if let Some(place) = stretch.place(entry.seq).filter(|_| goes_through) {
                        *place = Some((event, event.deliveries.len()));
                    }
                    continue;
                }
                Passage::Settled(settled) => {
                    if let Some(Some((_, open))) = stretch.place(settled.delivery.event) {
                        *open = open.saturating_sub(1);
                    }
                    continue;
                }
                // What it used stands against its budgets.
                Passage::Leased(leased) if leased.reservation.is_some() => leased.delivery.event,
                Passage::Leased(_) => continue,
                Passage::AttemptEnded(record) => record.delivery.event,
                Passage::CancelRequested(record) => record.delivery.event,
                Passage::Cancelled(record) => record.delivery.event,
                Passage::Parked(record) => record.delivery.event,
                Passage::Redriven(record) => record.delivery.event,
                Passage::Carried(record) => record.event,
            };
            if let Some(place) = stretch.place(held_up) {
                *place = None;
            }
        }
        stretch
    }

    fn place(&mut self, event: Seq) -> Option<&mut Option<(&'a EventAccepted, usize)>> {
        self.events.get_mut(usize::try_from(event.0.checked_sub(self.first.0)?).ok()?)
    }

    /// The event, if it began and ended in this stretch and nothing held it up.
    fn passing(&self, event: Seq) -> Option<&'a EventAccepted> {
        match self.events.get(usize::try_from(event.0.checked_sub(self.first.0)?).ok()?) {
            Some(Some((event, 0))) => Some(event),
            _ => None,
        }
    }
}

impl Durable {
    /// Folds consecutive records, as [`Durable::apply`] for each of them, and faster.
    ///
    /// # Panics
    /// As [`Durable::apply`].
    pub fn apply_all<'a>(&mut self, entries: impl IntoIterator<Item = &'a Entry>) {
        let mut entries = entries.into_iter();
        let mut taken = Vec::new();
        loop {
            taken.clear();
            taken.extend(entries.by_ref().take(STRETCH_MAX));
            if taken.is_empty() {
                return;
            }
            let stretch = Stretch::new(&taken);
            taken.iter().for_each(|entry| self.apply_in(&stretch, entry));
        }
    }

    fn apply_in(&mut self, stretch: &Stretch<'_>, entry: &Entry) {
        match &entry.record {
            Record::EventAccepted(event) if stretch.passing(entry.seq).is_some() => {
                self.advance_to(entry);
                self.dedupe.insert(event.key, entry.at, Seen { event: entry.seq, digest: event.digest });
            }
            Record::DeliveryLeased(leased) => {
                let DeliveryLeased { delivery, general, .. } = leased.as_ref();
                let Some(event) = stretch.passing(delivery.event) else { return self.apply(entry) };
                self.advance_to(entry);
                let planned = &event.deliveries[delivery.ordinal as usize - 1];
                let is_shadow = planned.terms.as_deref().is_some_and(|terms| terms.shadow);
                if let (None, Some(route), false) = (&planned.general, &event.route, is_shadow) {
                    let route =
                        self.routing.find(&event.tenant, route).expect("records name routes applied before them");
                    self.routing.rule_mut(route).cursor = self.registry.find(general);
                }
            }
            Record::DeliverySettled(settled) if stretch.passing(settled.delivery.event).is_some() => {
                let DeliverySettled { delivery, token, .. } = settled.as_ref();
                self.advance_to(entry);
                self.recent.insert(*delivery, Ended { token: *token, ending: Ending::Held });
            }
            _ => self.apply(entry),
        }
    }
}
