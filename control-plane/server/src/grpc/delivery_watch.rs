//! Watching deliveries: each record about one becomes its state after it.
//!
//! Invariant: what a watcher keeps in memory is bounded; a delivery that was forgotten is built again from the journal.

use std::collections::VecDeque;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use mindos_core::record::{Entry, EventAccepted, Record};
use mindos_model::{DeliveryId, Seq, Timestamp};
use mindos_proto::delivery::v1::{Delivery, WatchResponse};

use super::delivery_filter::Filter;
use super::watch::{Ended, Sender, Step, Walk};
use super::{delivery_fold, status, words};
use crate::access::Scoped;

/// Events whose deliveries are remembered.
const EVENTS_MAX: usize = 4096;

/// Sends every change until the watcher goes.
pub(super) async fn show(
    context: &Scoped,
    mut walk: Walk,
    filter: &Filter,
    output: bool,
    sender: &Sender<WatchResponse>,
) -> Result<(), Ended> {
    let known = walk.known();
    let mut states = States::default();
    if walk.next() > known {
        sender.send(WatchResponse { delivery: None, seq: known.0, caught_up: true }, walk.next()).await?;
    }
    loop {
        let from = walk.next();
        let step = match walk.step().await {
            Ok(Step::Closed) => return Err(sender.end(status::stopped(crate::driver::Stopped).into())),
            Ok(step) => step,
            Err(status) => return Err(sender.end(status)),
        };
        for entry in step.entries() {
            for delivery in states.change(context, entry, output).await {
                if filter.fits(&delivery.shown, delivery.accepted) {
                    let response = WatchResponse {
                        delivery: Some(delivery.shown),
                        seq: entry.seq.0,
                        caught_up: entry.seq >= known,
                    };
                    sender.send(response, entry.seq).await?;
                }
            }
        }
        let seq = Seq(walk.next().0 - 1);
        let caught_up = seq >= known;
        if matches!(step, Step::Quiet) || caught_up && from <= known {
            sender.send(WatchResponse { delivery: None, seq: seq.0, caught_up }, walk.next()).await?;
        }
    }
}

/// A delivery after a change.
struct Changed {
    shown: Delivery,
    accepted: Timestamp,
}

/// The deliveries of an event.
#[derive(Debug)]
struct Known {
    accepted: Timestamp,
    deliveries: Vec<Delivery>,
}

#[derive(Debug, Default)]
struct States {
    events: HashMap<Seq, Known, FixedState>,
    order: VecDeque<Seq>,
}

impl States {
    fn insert(&mut self, event: Seq, known: Known) {
        while self.order.len() >= EVENTS_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.events.remove(&oldest);
            }
        }
        self.order.push_back(event);
        self.events.insert(event, known);
    }

    async fn change(&mut self, context: &Scoped, entry: &Entry, output: bool) -> Vec<Changed> {
        if let Record::EventAccepted(accepted) = &entry.record {
            let deliveries = planned(context, entry.seq, entry.at, accepted);
            let changed = deliveries.iter().cloned().map(|shown| Changed { shown, accepted: entry.at }).collect();
            // Those of others too, so that what follows of them is known to be theirs.
            if !accepted.deliveries.is_empty() {
                self.insert(entry.seq, Known { accepted: entry.at, deliveries });
            }
            return changed;
        }
        let Some(id) = delivery_fold::subject(&entry.record) else { return Vec::new() };
        if !self.events.contains_key(&id.event)
            && let Some(known) = recall(context, id.event).await
        {
            self.insert(id.event, known);
        }
        let Some(known) = self.events.get_mut(&id.event) else { return Vec::new() };
        let place = id.ordinal.checked_sub(1).map(|place| place as usize);
        let Some(delivery) = place.and_then(|place| known.deliveries.get_mut(place)) else { return Vec::new() };
        delivery_fold::fold(delivery, entry, output);
        let mut shown = delivery.clone();
        if let Some(output) = &mut delivery.output {
            output.data = bytes::Bytes::new();
        }
        // These are for `Get`.
        shown.attempts.clear();
        shown.explanation = None;
        vec![Changed { shown, accepted: known.accepted }]
    }
}

/// The deliveries of an event; none where it is another tenant's.
fn planned(context: &Scoped, seq: Seq, at: Timestamp, accepted: &EventAccepted) -> Vec<Delivery> {
    if accepted.tenant != *context.tenant() {
        return Vec::new();
    }
    let count = u32::try_from(accepted.deliveries.len()).unwrap_or(u32::MAX);
    (1..=count).filter_map(|ordinal| delivery_fold::planned(at, DeliveryId::new(seq, ordinal), accepted)).collect()
}

/// An event from before the watch: as it was accepted, and where its open deliveries were leased to.
async fn recall(context: &Scoped, event: Seq) -> Option<Known> {
    let read = context.blocking(move |context| {
        let mut found = None;
        let read = context.source.read(event, &mut |entry| {
            if let Record::EventAccepted(accepted) = &entry.record
                && entry.seq == event
            {
                found = Some(Known { accepted: entry.at, deliveries: planned(context, entry.seq, entry.at, accepted) });
            }
            false
        });
        read.ok().and(found)
    });
    let mut known = read.await.ok().flatten()?;
    if known.deliveries.is_empty() {
        return Some(known);
    }
    for view in context.open_event(event).await.unwrap_or_default() {
        let place = view.delivery.ordinal.checked_sub(1)? as usize;
        if let Some(delivery) = known.deliveries.get_mut(place) {
            let open = words::open_delivery(&view);
            (delivery.general, delivery.lease, delivery.attempts_used) = (open.general, open.lease, open.attempts_used);
        }
    }
    Some(known)
}
