//! The driver: offers inputs to the core, fills batches for the journal, and lets answers out once they are durable.
//!
//! Synchronous: the server's thread and the simulator run the very same object.
//!
//! Invariants: an output leaves only when the records it rests on are durable; at most [`IN_FLIGHT_MAX`] batches are with
//! the journal at a time; entries of one batch become durable together.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use mindos_model::{DeliveryId, Seq, Status, TenantName, Timestamp, limits};

use crate::budget::Amount;
use crate::decide::{Context, Decision};
use crate::durable::Durable;
use crate::fair::QUEUE_TURN;
use crate::input::{Entropy, Input, NewEvent};
use crate::output::{Assign, CloseReason, Output, PlaneMessage};
use crate::placement::{Drawing, Unplaced};
use crate::queue::QueueId;
use crate::record::{Batch, CancelReason, Entry, EpochCause, EpochStarted, Record, RoutesApplied};
use crate::route::{Route, RouteTable};
use crate::soft::Soft;
use crate::weights::Weights;

/// Batches with the journal at a time, so that one is written while the other is synced.
pub const IN_FLIGHT_MAX: usize = 2;
/// Lanes tried in one queue when those with a free slot already have another delivery of the event.
const LANES_TRIED_MAX: usize = 64;
/// After what time a queue is looked at again of which not all lanes were tried.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// The same where shadows and replays wait: each end of live work may bring their queue a look.
const SHADOW_LANES_TRIED_MAX: usize = 4;
/// Rough size of a record without its payload.
const RECORD_SIZE: usize = 200;

/// Bounds and intervals of the plane.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Deliveries that may wait in one lane of one queue.
    pub lane_backlog_max: u32,
    /// Deliveries that may wait for one general, or for one of a route's.
    pub queue_backlog_max: u32,
    /// Deliveries of one tenant that may be open: wait, be leased or be parked.
    pub tenant_backlog_max: u64,
    /// Deliveries that may be open in all.
    pub open_max: u64,
    /// Generals that may be registered.
    pub generals_max: usize,
    pub lease: Duration,
    /// What is set aside for work of which too little was seen to estimate it.
    pub reservation_start: Amount,
    /// What is set aside for a general that cannot be stopped in mid-run.
    pub reservation_max: Amount,
    /// What agents with work are told.
    pub heartbeat: Duration,
    /// What idle agents are told.
    pub heartbeat_idle: Duration,
    /// Who gets more than others of what is shared.
    pub weights: Weights,
    /// How an instance is drawn. For measurements only: a plane that serves draws the better of two.
    pub drawing: Drawing,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            lane_backlog_max: limits::LANE_BACKLOG_MAX,
            queue_backlog_max: limits::QUEUE_BACKLOG_MAX,
            tenant_backlog_max: limits::TENANT_BACKLOG_MAX,
            open_max: 2_000_000,
            generals_max: 50_000,
            lease: limits::LEASE,
            reservation_start: Amount { micros: 50_000, tokens: 20_000, time_ms: 60_000 },
            reservation_max: Amount { micros: 1_000_000, tokens: 200_000, time_ms: 600_000 },
            heartbeat: limits::HEARTBEAT_INTERVAL,
            heartbeat_idle: limits::HEARTBEAT_IDLE_INTERVAL,
            weights: Weights::default(),
            drawing: Drawing::default(),
        }
    }
}

/// The plane: both states, the open batch and what waits for durability.
#[derive(Clone, Debug)]
pub struct Plane {
    durable: Durable,
    soft: Soft,
    limits: Limits,
    open: Vec<Entry>,
    open_bytes: usize,
    /// Somebody waits for more than an answer to a result.
    urgent: bool,
    /// Last records of the batches that are with the journal.
    in_flight: VecDeque<Seq>,
    durable_seq: Seq,
    outbox: VecDeque<(Seq, Output)>,
    /// Queues with lanes that were not tried, and when to go on.
    looks: BTreeSet<(Timestamp, QueueId)>,
}

impl Plane {
    /// Starts an epoch on a state folded from the journal. Its record stands in the first open batch.
    #[must_use]
    pub fn new(mut durable: Durable, limits: Limits, version: &str, cause: EpochCause, now: Timestamp) -> Plane {
        // Where a stretch was folded at once, nobody has noted the room that it made.
        durable.look_at_overflows();
        durable.budgets.look_at_all(now);
        let soft = Soft::new(limits.clone(), &durable, now);
        let durable_seq = durable.seq();
        let epoch = durable.epoch + 1;
        let mut plane = Plane {
            durable,
            soft,
            limits,
            open: Vec::new(),
            open_bytes: 0,
            urgent: true,
            in_flight: VecDeque::new(),
            durable_seq,
            outbox: VecDeque::new(),
            looks: BTreeSet::new(),
        };
        plane.record(Record::EpochStarted(EpochStarted { epoch, version: Arc::from(version), cause }), now);
        plane.ensure_routes(&TenantName::default_tenant(), now);
        plane
    }

    /// Decides one input and applies its records. What it answers rests on the end of the open batch.
    pub fn offer(&mut self, input: Input, now: Timestamp, entropy: Entropy) {
        match &input {
            Input::Hello(hello) => {
                if let Some(max) = self.soft.too_many_streams(&self.durable, &hello.key) {
                    let reason = CloseReason::TooManyStreams { max };
                    self.outbox.push_back((self.durable.seq, Output::Close { session: hello.session, reason }));
                    self.urgent = true;
                    return;
                }
                // Generals must be known before slots can be counted.
                for record in self.durable.introduce(hello, self.limits.generals_max) {
                    self.record(record, now);
                }
            }
            Input::KeepPools { tenant, pools } => {
                let records = self.durable.introduce_pools(tenant, pools, self.limits.generals_max);
                if !records.is_empty() {
                    self.ensure_routes(&tenant.clone(), now);
                }
                for record in records {
                    self.record(record, now);
                }
            }
            Input::Publish { event, .. } => {
                self.ensure_routes(&event.tenant, now);
                if let Some(route) = &event.asked {
                    self.ensure_asked(event, route, now);
                }
            }
            Input::Query { tenant, .. } | Input::Hold { tenant, .. } => self.ensure_routes(&tenant.clone(), now),
            Input::Object { change, .. } => self.ensure_routes(&change.tenant().clone(), now),
            Input::Agent { .. }
            | Input::Closed { .. }
            | Input::Cancel { .. }
            | Input::Redrive { .. }
            | Input::ApplyRoutes { .. }
            | Input::RemoveGeneral { .. }
            | Input::Budget { .. }
            | Input::FinalizeUpgrade { .. }
            | Input::Access { .. }
            | Input::Join(_)
            | Input::Redact { .. }
            | Input::Effect { .. }
            | Input::ChangeEffect { .. }
            | Input::Intend { .. }
            | Input::Carry { .. }
            | Input::DropPrefix { .. }
            | Input::Truncated { .. } => {}
        }
        self.soft.observe(&self.durable, &input, now);
        let decision = self.durable.decide(input, self.context(now, entropy));
        self.carry_out(decision, now);
    }

    /// Does what is due: silent streams, lapsed leases, retries, assignments. Stops when the open batch is full.
    pub fn advance(&mut self, now: Timestamp, mut entropy: Entropy) {
        self.soft.turn(now);
        while let Some(session) = self.soft.silent(&self.durable, now) {
            self.soft.closed(&self.durable, session, now);
            let close = Output::Close { session, reason: CloseReason::Silent };
            self.outbox.push_back((self.durable.seq, close));
            self.urgent = true;
        }
        self.soft.forget(&self.durable, now);
        self.soft.come_back(&self.durable, now);
        while let Some(general) = self.soft.idle_general(now) {
            if let Some(record) = self.durable.forgotten(general, self.context(now, entropy)) {
                self.record(record, now);
            } else {
                self.soft.idle_again(&self.durable, general, now);
            }
        }
        while let Some(&(at, delivery)) = self.soft.deadlines.first() {
            if at > now || self.is_full() {
                break;
            }
            let context = self.context(now, Entropy(entropy.draw()));
            let decision = self.durable.lapsed(delivery, context);
            self.carry_out(decision, now);
        }
        self.fire(now, &mut entropy);
        self.assign(now, &mut entropy);
    }

    /// Whether the open batch is at its cap: seal it before offering more.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.open_bytes >= limits::BATCH_MAX
    }

    /// Whether the open batch has something in it that may wait a moment for company: nothing but results, extensions and what came
    /// due rests on it.
    #[must_use]
    pub fn may_linger(&self) -> bool {
        !self.open.is_empty() && !self.urgent && !self.is_full()
    }

    /// Closes the open batch for the writer; none when it is empty, or two are on their way.
    pub fn seal(&mut self) -> Option<Batch> {
        if self.open.is_empty() || self.in_flight.len() == IN_FLIGHT_MAX {
            return None;
        }
        self.in_flight.push_back(self.durable.seq);
        self.open_bytes = 0;
        self.urgent = false;
        // Loads differ little from batch to batch.
        let next = Vec::with_capacity(self.open.len());
        Some(Batch { entries: std::mem::replace(&mut self.open, next) })
    }

    /// The writer has synced all batches through `end`: what rests on them may leave.
    pub fn synced(&mut self, end: Seq, now: Timestamp) -> Vec<Output> {
        self.durable_seq = self.durable_seq.max(end);
        while self.in_flight.front().is_some_and(|last| *last <= end) {
            self.in_flight.pop_front();
        }
        self.ready(now)
    }

    /// What may leave without waiting, because it rests on durable records.
    pub fn ready(&mut self, now: Timestamp) -> Vec<Output> {
        let count = self.outbox.partition_point(|(rests_on, _)| *rests_on <= self.durable_seq);
        let outputs: Vec<_> = self.outbox.drain(..count).map(|(_, output)| output).collect();
        let mut outputs = outputs;
        outputs.retain(|output| {
            let Output::Send { message: PlaneMessage::Assign(assign), .. } = output else { return true };
            let Assign { delivery, token, .. } = assign.as_ref();
            let known = self.durable.events.delivery(*delivery);
            // Whose lease has ended meanwhile is not begun, and may be redacted.
            let Some((_, known)) = known.filter(|(_, known)| known.token == *token && known.lease().is_some()) else {
                return false;
            };
            let leaves = known.setback().cancel != Some(CancelReason::Redacted);
            // What does not leave lapses: nobody was given it.
            self.soft.sent(*delivery, *token, now);
            leaves
        });
        outputs
    }

    /// When `advance` has something to do next; `None` when only an input can bring work.
    #[must_use]
    pub fn next_due(&self) -> Option<Timestamp> {
        let agenda = &self.durable.agenda;
        let waits = !agenda.dirty.is_empty() || !agenda.overflows.is_empty();
        let waits = waits || !self.soft.woken.is_empty() || !self.soft.moved.is_empty();
        let waits = waits || !self.soft.shadows_woken.is_empty();
        if waits || self.durable.budgets.is_waiting() {
            return Some(Timestamp(0));
        }
        let budgets = self.durable.budgets.next_due();
        let looks = self.looks.first().map(|(at, _)| *at).into_iter().chain(self.durable.effects.next_due());
        agenda.next_due().into_iter().chain(looks).chain(budgets).chain(self.soft.next_due()).min()
    }

    /// The durable state, as it stands at the end of the open batch.
    #[must_use]
    pub fn durable(&self) -> &Durable {
        &self.durable
    }

    /// The soft state.
    #[must_use]
    pub fn soft(&self) -> &Soft {
        &self.soft
    }

    /// The last record that is known to be durable.
    #[must_use]
    pub fn durable_seq(&self) -> Seq {
        self.durable_seq
    }

    /// Retry times and blocked lanes whose time has come.
    fn fire(&mut self, now: Timestamp, entropy: &mut Entropy) {
        self.durable.agenda.fired = self.durable.agenda.fired.max(now);
        while let Some((_, delivery)) = due(&mut self.durable.agenda.retries, now) {
            let known = self.durable.events.delivery(delivery);
            // One that has ended may name a general that was removed since.
            let known = known.filter(|(_, known)| known.status() == Status::Waiting);
            let Some((queue, lane)) = known.map(|(_, known)| (known.queue, known.lane)) else { continue };
            self.durable.touch(queue, lane);
        }
        while let Some((_, delivery)) = due(&mut self.durable.agenda.blocks, now) {
            let context = self.context(now, *entropy);
            if let Some(record) = self.durable.blocked(delivery, context) {
                self.record(record, now);
            } else if let Some(later) = self.durable.look_again(delivery, now) {
                self.durable.agenda.blocks.insert((later, delivery));
            }
        }
        while let Some(queue) = self.durable.agenda.overflows.pop_first() {
            for record in self.durable.overflow(queue, self.context(now, *entropy)) {
                self.record(record, now);
            }
        }
        self.durable.effects.fire(now);
        self.fire_budgets(now, entropy);
        self.fire_terms(now);
        while let Some(&(at, queue)) = self.looks.first().filter(|(at, _)| *at <= now) {
            self.looks.remove(&(at, queue));
            self.durable.look_at_queue(queue);
        }
        for general in std::mem::take(&mut self.soft.moved) {
            self.durable.release_for(general);
            self.durable.wake_parked(general);
            self.durable.wake_degraded(general);
        }
        for general in std::mem::take(&mut self.soft.shadows_woken) {
            self.durable.wake_shadows(general);
        }
        for general in std::mem::take(&mut self.soft.woken) {
            self.durable.wake(general);
            self.durable.wake_shadows(general);
            self.durable.wake_degraded(general);
            self.durable.call_for(general);
        }
    }

    /// Deliveries whose own time has come, and those whose time to live is over.
    fn fire_terms(&mut self, now: Timestamp) {
        while !self.is_full() {
            let Some((_, delivery)) = due(&mut self.durable.agenda.expiries, now) else { break };
            if let Some(record) = self.durable.expired(delivery) {
                self.record(record, now);
            }
        }
        while !self.is_full() {
            let Some((_, delivery)) = due(&mut self.durable.agenda.later, now) else { break };
            if let Some(record) = self.durable.come(delivery) {
                self.record(record, now);
            }
        }
    }

    /// What budgets have room for again, and levels that they have reached.
    fn fire_budgets(&mut self, now: Timestamp, entropy: &mut Entropy) {
        for tenant in self.durable.budgets.fire(now) {
            self.durable.budget_moved(&tenant);
        }
        while let Some(since) = self.durable.budgets.crossings.pop_first() {
            if let Some(record) = self.durable.crossing(since, now) {
                self.record(record, now);
            }
        }
        for due in std::mem::take(&mut self.durable.budgets.due) {
            let (records, has_more) = self.durable.freed(due, self.context(now, *entropy));
            let any = !records.is_empty();
            for record in records {
                self.record(record, now);
            }
            if has_more {
                self.durable.budgets.due.insert(due);
            } else {
                self.durable.look_at_budget(due, any, now);
            }
        }
    }

    /// Whether a queue of which not all lanes were tried is looked at again, soon.
    pub(crate) fn will_look_at(&self, queue: QueueId) -> bool {
        self.looks.iter().any(|(_, waiting)| *waiting == queue)
    }

    /// Leases what may be leased to whoever has a slot.
    fn assign(&mut self, now: Timestamp, entropy: &mut Entropy) {
        while !self.is_full() {
            let Some(queue) = self.durable.agenda.dirty.begin() else { return };
            let mut leased = 0;
            let rests = self.assign_from(queue, &mut leased, now, entropy);
            self.durable.end_turn(queue, leased > 0, rests, &self.limits.weights);
        }
        self.durable.agenda.dirty.fill();
    }

    /// Gives a queue its turn. Says whether there is nothing more to give out until something wakes it.
    fn assign_from(&mut self, queue: QueueId, leased: &mut usize, now: Timestamp, entropy: &mut Entropy) -> bool {
        let mut lanes_tried = 0;
        while *leased < QUEUE_TURN {
            let Some(delivery) = self.durable.next_in(queue) else {
                if self.durable.recall(queue, &self.soft) {
                    continue;
                }
                return true;
            };
            let context = self.context(now, Entropy(entropy.draw()));
            match self.durable.place(queue, delivery, context) {
                Ok(decision) => {
                    self.carry_out(decision, now);
                    self.durable.gave(queue, &self.limits.weights);
                    self.durable.placed(queue, delivery);
                    *leased += 1;
                    if self.is_full() {
                        return false;
                    }
                }
                Err(Unplaced::NoSlot) => return true,
                Err(Unplaced::Aside { wanted, behind }) => {
                    self.durable.set_aside(queue, wanted, behind, &self.limits.weights)
                }
                Err(Unplaced::Taken) => {
                    self.durable.queue_mut(queue).turn(true);
                    lanes_tried += 1;
                    let most =
                        if matches!(queue, QueueId::Shadow(_)) { SHADOW_LANES_TRIED_MAX } else { LANES_TRIED_MAX };
                    if lanes_tried == most {
                        // Others stand behind those, and nothing may wake the queue.
                        self.looks.insert((now + LOOK_AGAIN, queue));
                        return true;
                    }
                }
            }
        }
        false
    }

    /// Every tenant's table stands in the ledger, the stock one too.
    fn ensure_routes(&mut self, tenant: &TenantName, now: Timestamp) {
        if !self.durable.routing.tenants.contains_key(tenant) {
            let (tenant, table) = (tenant.clone(), Arc::new(RouteTable::stock()));
            let record = RoutesApplied { tenant, table, by: Arc::from(""), from: Arc::from("") };
            self.record(Record::RoutesApplied(Box::new(record)), now);
        }
    }

    /// The route that an event brings must be known before its work can wait under it.
    fn ensure_asked(&mut self, event: &NewEvent, route: &Arc<Route>, now: Timestamp) {
        let known = event.seen.is_some() || self.durable.dedupe.get(&event.key).is_some();
        // What may not be asked for is refused when the event is decided.
        if !known && let Ok(Some(record)) = self.durable.asked(event, route) {
            self.record(record, now);
        }
    }

    pub(crate) fn context(&self, now: Timestamp, entropy: Entropy) -> Context<'_> {
        Context { soft: &self.soft, limits: &self.limits, now, entropy }
    }

    fn carry_out(&mut self, decision: Decision, now: Timestamp) {
        let Decision { records, outputs } = decision;
        for record in records {
            self.cancel_leased(&record);
            self.record(record, now);
        }
        let rests_on = self.durable.seq;
        // What rests on nothing open waits for no sync of this batch.
        self.urgent |= !self.open.is_empty() && outputs.iter().any(is_urgent);
        self.outbox.extend(outputs.into_iter().map(|output| (rests_on, output)));
    }

    /// The agent side is told to stop what a newer event takes the place of, and what has lost a race.
    fn cancel_leased(&mut self, record: &Record) {
        let Record::CancelRequested(request) = record else { return };
        let (CancelReason::Superseded { .. } | CancelReason::RaceLost { .. }) = request.reason else { return };
        let Some((_, known)) = self.durable.events.delivery(request.delivery) else { return };
        let session = known.lease().and_then(|lease| self.soft.session_of(&lease.instance));
        let Some(session) = session else { return };
        let (delivery, token, reason) = (request.delivery, known.token, request.reason);
        let message = PlaneMessage::Cancel { delivery, token, reason };
        self.outbox.push_back((self.durable.seq.next(), Output::Send { session, message }));
        self.urgent = true;
    }

    fn record(&mut self, record: Record, now: Timestamp) {
        let payload = record.payload().map_or(0, |payload| payload.bytes.len());
        let said = if let Record::Object(object) = &record { object.weight() } else { 0 };
        self.open_bytes += RECORD_SIZE + payload + said;
        // Time never runs backwards in the journal.
        let entry = Entry { seq: self.durable.seq.next(), at: now.max(self.durable.at), record };
        let change = self.durable.fold(&entry);
        self.soft.follow(&self.durable, change, now);
        self.open.push(entry);
    }
}

/// Whether somebody waits for it: not so an agent that has said what it had to say.
fn is_urgent(output: &Output) -> bool {
    match output {
        Output::Send { message: PlaneMessage::Settled { .. } | PlaneMessage::Extended { .. }, .. } => false,
        Output::Reply { .. } | Output::Send { .. } | Output::Close { .. } | Output::DropPrefix { .. } => true,
    }
}

fn due(
    agenda: &mut std::collections::BTreeSet<(Timestamp, DeliveryId)>,
    now: Timestamp,
) -> Option<(Timestamp, DeliveryId)> {
    let first = agenda.first()?;
    if first.0 <= now { agenda.pop_first() } else { None }
}
