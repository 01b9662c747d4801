//! Open events and their deliveries.
//!
//! ```text
//!               lease                 result
//!   Waiting ------------> Leased --------------> Succeeded
//!    ^  ^  |                |  |
//!    |  |  |  attempt ended |  | cancel answered
//!    |  +--|----------------+  +---------------> Cancelled
//!    |     | park                                   ^
//!    |     v                                        |
//!    +-- Parked ------------------------------------+
//!  redrive                     cancel
//! ```
//! Invariants: the tokens of one delivery only grow, so a late result can be told from a current one; an event is here
//! as long as one of its deliveries has not ended.

use std::collections::BTreeMap;
use std::sync::Arc;

use mindos_model::{BootId, DeliveryId, ParkReason, Priority, Seq, Status, TenantName, Timestamp, Token};

use crate::account::{Over, Spend};
use crate::output::PayloadRef;
use crate::queue::{LaneIdx, QueueId};
use crate::record::{CancelReason, Cause, InstanceKey};
use crate::registry::GeneralIdx;
use crate::replay::Replay;
use crate::routing::RouteIdx;
use crate::terms::Terms;

#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) tenant: TenantName,
    pub(crate) kind: Arc<str>,
    pub(crate) lane: Arc<str>,
    pub(crate) repository: Option<Arc<str>>,
    /// Kept where there is no repository, whose place it takes in a queue.
    pub(crate) source: Option<Arc<str>>,
    pub(crate) priority: Priority,
    pub(crate) route: RouteIdx,
    pub(crate) accepted: Timestamp,
    pub(crate) payload: PayloadRef,
    /// Deliveries that have not ended.
    pub(crate) open: u32,
    pub(crate) deliveries: Vec<Delivery>,
    /// The first delivery that succeeds cancels the others.
    pub(crate) race: bool,
    /// The past event that it repeats.
    pub(crate) replay: Option<Box<Replay>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    pub(crate) queue: QueueId,
    /// Its place in the queue while it waits, is leased, or is parked for want of room.
    pub(crate) lane: LaneIdx,
    pub(crate) phase: Phase,
    /// Of the newest lease; epoch 0 before the first one.
    pub(crate) token: Token,
    /// Used up so far.
    pub(crate) attempts: u32,
    /// The record that put it into its lane.
    pub(crate) place: Seq,
    /// Most deliveries never have one, so it stands apart.
    setback: Option<Box<Setback>>,
    /// Where it succeeded.
    pub(crate) done_by: Option<GeneralIdx>,
    /// What few have.
    pub(crate) terms: Option<Box<Terms>>,
}

/// What kept a delivery from going straight through.
#[derive(Clone, Debug, Default)]
pub(crate) struct Setback {
    /// How long it held its lane up for its own retry times, before `held_since`.
    pub(crate) held_ms: u64,
    /// Since when it waits for its own retry time.
    pub(crate) held_since: Option<Timestamp>,
    /// It is to end, once its lease does.
    pub(crate) cancel: Option<CancelReason>,
    pub(crate) last_cause: Option<Cause>,
    /// The budget that it waits for, or waited for last.
    pub(crate) over: Option<Box<Over>>,
}

const NO_SETBACK: &Setback = &Setback { held_ms: 0, held_since: None, cancel: None, last_cause: None, over: None };

#[derive(Clone, Debug)]
pub(crate) enum Phase {
    Waiting { not_before: Timestamp },
    Leased(Lease),
    Parked { reason: ParkReason, since: Timestamp },
    Succeeded,
    Cancelled,
}

#[derive(Clone, Debug)]
pub(crate) struct Lease {
    pub(crate) general: GeneralIdx,
    pub(crate) instance: Arc<InstanceKey>,
    pub(crate) boot: BootId,
    pub(crate) since: Timestamp,
    /// What budgets set aside for it; few leases have any.
    pub(crate) spend: Option<Box<Spend>>,
}

impl Delivery {
    pub(crate) fn new(queue: QueueId, lane: LaneIdx, phase: Phase, place: Seq) -> Delivery {
        let token = Token::default();
        Delivery { queue, lane, phase, token, attempts: 0, place, setback: None, done_by: None, terms: None }
    }

    pub(crate) fn setback(&self) -> &Setback {
        self.setback.as_deref().unwrap_or(NO_SETBACK)
    }

    /// The budget that it waited for, taken out.
    pub(crate) fn setback_over(&mut self) -> Option<Box<Over>> {
        self.setback.as_mut().and_then(|setback| setback.over.take())
    }

    pub(crate) fn setback_mut(&mut self) -> &mut Setback {
        self.setback.get_or_insert_default()
    }

    /// Begins anew: nothing that went wrong counts any more.
    pub(crate) fn forgive(&mut self) {
        self.attempts = 0;
        self.setback = None;
    }

    /// Its wait for its own retry time is over at `now`.
    pub(crate) fn release_lane(&mut self, now: Timestamp) {
        let held_ms = self.held_ms(now);
        if let Some(setback) = &mut self.setback {
            setback.held_ms = held_ms;
            setback.held_since = None;
        }
    }

    pub(crate) fn status(&self) -> Status {
        match self.phase {
            Phase::Waiting { .. } => Status::Waiting,
            Phase::Leased(_) => Status::Leased,
            Phase::Parked { .. } => Status::Parked,
            Phase::Succeeded => Status::Succeeded,
            Phase::Cancelled => Status::Cancelled,
        }
    }

    pub(crate) fn lease(&self) -> Option<&Lease> {
        match &self.phase {
            Phase::Leased(lease) => Some(lease),
            Phase::Waiting { .. } | Phase::Parked { .. } | Phase::Succeeded | Phase::Cancelled => None,
        }
    }

    /// Whether it is leased and its event's payload was redacted: nothing that comes of it is kept.
    pub(crate) fn is_redacted(&self) -> bool {
        self.lease().is_some() && self.setback().cancel == Some(CancelReason::Redacted)
    }

    /// Whether a failure under this token is what it waits or is parked for.
    pub(crate) fn has_answered(&self, token: Token) -> bool {
        self.token == token && self.lease().is_none() && matches!(self.setback().last_cause, Some(Cause::Failed(_)))
    }

    /// How long it has held its lane up by `now`, for its own retry times.
    pub(crate) fn held_ms(&self, now: Timestamp) -> u64 {
        let since = match (&self.phase, self.setback().held_since) {
            (Phase::Waiting { not_before }, Some(since)) => now.0.min(not_before.0).saturating_sub(since.0),
            _ => 0,
        };
        self.setback().held_ms + since
    }
}

/// Events by the record that accepted them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Events {
    by_seq: BTreeMap<Seq, Event>,
    /// Deliveries that have not ended, over all events.
    pub(crate) open: u64,
}

impl Events {
    pub(crate) fn insert(&mut self, seq: Seq, event: Event) {
        self.open += u64::from(event.open);
        self.by_seq.insert(seq, event);
    }

    pub(crate) fn get(&self, seq: Seq) -> Option<&Event> {
        self.by_seq.get(&seq)
    }

    pub(crate) fn get_mut(&mut self, seq: Seq) -> Option<&mut Event> {
        self.by_seq.get_mut(&seq)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_seq.len()
    }

    /// An open event's delivery, ended or not.
    pub(crate) fn delivery(&self, id: DeliveryId) -> Option<(&Event, &Delivery)> {
        let event = self.by_seq.get(&id.event)?;
        let delivery = event.deliveries.get(usize::try_from(id.ordinal).ok()?.checked_sub(1)?)?;
        Some((event, delivery))
    }

    /// # Panics
    /// When the delivery is not there: records name deliveries created before them.
    pub(crate) fn delivery_mut(&mut self, id: DeliveryId) -> &mut Delivery {
        let event = self.by_seq.get_mut(&id.event);
        let index = id.ordinal as usize;
        event
            .and_then(|event| event.deliveries.get_mut(index.wrapping_sub(1)))
            .unwrap_or_else(|| panic!("record names delivery {id}, which is not open"))
    }

    /// Marks a delivery as ended; the event goes with its last one.
    pub(crate) fn end(&mut self, id: DeliveryId, phase: Phase) {
        let delivery = self.delivery_mut(id);
        assert!(!delivery.status().is_settled(), "delivery {id} ended twice");
        delivery.phase = phase;
        self.open -= 1;
        let event = self.by_seq.get_mut(&id.event).expect("its delivery was found");
        event.open -= 1;
        if event.open == 0 {
            self.by_seq.remove(&id.event);
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Seq, &Event)> {
        self.by_seq.iter().map(|(seq, event)| (*seq, event))
    }

    pub(crate) fn from(&self, seq: Seq) -> impl Iterator<Item = (Seq, &Event)> {
        self.by_seq.range(seq..).map(|(seq, event)| (*seq, event))
    }
}

impl Event {
    /// Whose turn it takes in a queue. Empty in snapshots of releases that did not know.
    pub(crate) fn flow(&self) -> Arc<str> {
        self.repository.as_ref().or(self.source.as_ref()).cloned().unwrap_or_default()
    }

    /// Whether its payload was redacted. Then what is open of it is leased, and ends with its lease.
    pub(crate) fn is_redacted(&self) -> bool {
        self.deliveries.iter().any(Delivery::is_redacted)
    }

    /// Its deliveries with their ids.
    pub(crate) fn deliveries(&self, seq: Seq) -> impl Iterator<Item = (DeliveryId, &Delivery)> {
        (1..).zip(&self.deliveries).map(move |(ordinal, delivery)| (DeliveryId::new(seq, ordinal), delivery))
    }
}
