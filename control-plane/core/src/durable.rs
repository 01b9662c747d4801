//! The durable state: the fold of the records.
//!
//! Invariants: nothing but `apply` changes what is recorded; `apply` judges nothing and asserts what `decide` promised,
//! because a record that does not fit is a bug, and serving from a wrong state is worse than stopping.

use std::collections::BTreeMap;
use std::sync::Arc;

use foldhash::quality::FixedState;
use hashbrown::{HashMap, hash_map};
use mindos_model::{DeliveryId, ParkReason, Seq, Status, Strategy, Timestamp, Token};

use crate::account::{Accounts, Over};
use crate::agenda::Agenda;
use crate::breaker::Ended as Verdict;
use crate::budget::Amount;
use crate::dedupe::Dedupe;
use crate::event::{Delivery, Event, Events, Lease, Phase};
use crate::feedback::Opinions;
use crate::input::Seen;
use crate::output::PayloadRef;
use crate::queue::{LaneIdx, Queue, QueueId};
use crate::recent::{Ended, Recent};
use crate::record::{
    AttemptEnded, BudgetAcknowledged, BudgetCrossed, BudgetRemoved, BudgetSet, CancelRequested, ClusterRegistered,
    DeliveryCancelled, DeliveryLeased, DeliveryParked, DeliveryRedriven, DeliverySettled, Entry, EventAccepted,
    GeneralRegistered, GeneralRemoved, HoldChanged, HoldTarget, InstanceKey, Next, PayloadCarried, Record,
};
use crate::registry::{GeneralIdx, Registry};
use crate::routing::Routing;
use crate::snapshot::Ending;
use crate::tenants::{TenantIdx, Tenants};
use crate::terms::Terms;

/// Everything that the journal says, as it stands after its last record.
#[derive(Clone, Debug)]
pub struct Durable {
    pub(crate) seq: Seq,
    /// When the last record was decided.
    pub(crate) at: Timestamp,
    pub(crate) epoch: u32,
    pub(crate) hasher: FixedState,
    pub(crate) registry: Registry,
    pub(crate) routing: Routing,
    pub(crate) events: Events,
    pub(crate) dedupe: Dedupe,
    pub(crate) recent: Recent,
    pub(crate) held: Held,
    pub(crate) tenants: Tenants,
    pub(crate) agenda: Agenda,
    pub(crate) budgets: Accounts,
    pub(crate) opinions: Opinions,
}

/// Open leases by the instance that holds them.
// Hashed, because every lease and result passes here; nobody iterates the outer map.
pub(crate) type Held = HashMap<Arc<InstanceKey>, BTreeMap<DeliveryId, GeneralIdx>, FixedState>;

/// What a record did to the slots of the fleet, for the state that is only observed.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Nothing,
    Leased {
        delivery: DeliveryId,
        general: GeneralIdx,
        instance: Arc<InstanceKey>,
    },
    Released {
        delivery: DeliveryId,
        general: GeneralIdx,
        instance: Arc<InstanceKey>,
        /// When the lease began.
        since: Timestamp,
        /// What its end says of the instance.
        verdict: Verdict,
    },
    /// Generals may begin work, or no longer.
    Opened(Vec<GeneralIdx>),
    Instance(Arc<InstanceKey>),
    Removed(GeneralIdx),
}

impl Default for Durable {
    fn default() -> Durable {
        Durable::new()
    }
}

impl Durable {
    /// The state before the first record.
    #[must_use]
    pub fn new() -> Durable {
        Durable::seeded(0)
    }

    /// As [`Durable::new`], with a seed for its hash maps, whose keys come from outside. It shows in no decision.
    #[must_use]
    pub fn seeded(seed: u64) -> Durable {
        let hasher = FixedState::with_seed(seed);
        Durable {
            seq: Seq::ZERO,
            at: Timestamp(0),
            epoch: 0,
            held: HashMap::with_hasher(hasher.clone()),
            registry: Registry::new(hasher.clone()),
            routing: Routing::new(hasher.clone()),
            budgets: Accounts::new(hasher.clone()),
            dedupe: Dedupe::new(hasher.clone()),
            opinions: Opinions::new(hasher.clone()),
            hasher,
            events: Events::default(),
            recent: Recent::default(),
            tenants: Tenants::default(),
            agenda: Agenda::default(),
        }
    }

    /// The last record applied.
    #[must_use]
    pub fn seq(&self) -> Seq {
        self.seq
    }

    /// How many events are open.
    #[must_use]
    pub fn events_open(&self) -> usize {
        self.events.len()
    }

    /// The epoch in force; 0 before the first start.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// When the last record was decided.
    #[must_use]
    pub fn at(&self) -> Timestamp {
        self.at
    }

    /// Folds a record into the state.
    ///
    /// # Panics
    /// When the record does not follow the last one, or does not fit the state: a bug, or another journal's record.
    pub fn apply(&mut self, entry: &Entry) {
        let _ = self.fold(entry);
    }

    pub(crate) fn advance_to(&mut self, entry: &Entry) {
        assert_eq!(entry.seq, self.seq.next(), "record does not follow the last one");
        self.seq = entry.seq;
        self.at = self.at.max(entry.at);
    }

    pub(crate) fn fold(&mut self, entry: &Entry) -> Change {
        self.advance_to(entry);
        let Entry { seq, at, record } = entry;
        match record {
            Record::EpochStarted(record) => {
                self.epoch = record.epoch;
                Change::Nothing
            }
            Record::EventAccepted(record) => self.event_accepted(*seq, *at, record),
            Record::DeliveryLeased(record) => self.delivery_leased(*at, record),
            Record::AttemptEnded(record) => self.attempt_ended(*seq, *at, record),
            Record::DeliverySettled(record) => self.delivery_settled(*at, record),
            Record::DeliveryCancelled(record) => self.delivery_cancelled(*at, record),
            Record::CancelRequested(CancelRequested { delivery, reason, by: _ }) => {
                let delivery = self.events.delivery_mut(*delivery);
                assert!(delivery.lease().is_some(), "cancel was requested of a delivery that is not leased");
                delivery.setback_mut().cancel = Some(*reason);
                Change::Nothing
            }
            Record::DeliveryParked(record) => self.delivery_parked(*seq, *at, record),
            Record::DeliveryRedriven(record) => self.delivery_redriven(*seq, record),
            Record::ClusterRegistered(record) => self.cluster_registered(record),
            Record::GeneralRegistered(record) => self.general_registered(record),
            Record::GeneralRemoved(GeneralRemoved { key, by: _ }) => {
                let Some(idx) = self.registry.find(key) else { return Change::Nothing };
                let general = self.registry.general(idx);
                assert!(general.bound == 0 && general.leased == 0, "general {key} was removed with open work");
                // Where records are only folded, no queue loses its place in the agenda by being looked at.
                let queue = QueueId::General(idx);
                self.agenda.dirty.remove(self.tenant_of(queue), queue);
                self.agenda.overflows.remove(&queue);
                self.routing.leave(idx);
                self.opinions.forget(key);
                self.registry.remove(idx);
                Change::Removed(idx)
            }
            Record::HoldChanged(record) => self.hold_changed(record),
            Record::RoutesApplied(record) => {
                self.routing.apply(record, *seq, &mut self.registry, &self.hasher);
                self.release_all_aside();
                self.routing.adopt(&record.tenant, self.tenants.place(&record.tenant));
                self.time_blocks(&record.tenant);
                self.budgets.wake_types(&record.tenant);
                self.all_opened()
            }
            Record::RouteAsked(record) => self.route_asked(record),
            Record::PayloadCarried(PayloadCarried { event, payload }) => {
                if let Some(event) = self.events.get_mut(*event) {
                    event.payload = PayloadRef { seq: *seq, len: length(&payload.bytes) };
                }
                Change::Nothing
            }
            Record::LeaseExtended(record) => {
                self.lease_extended(*at, record);
                Change::Nothing
            }
            Record::BudgetSet(record) => {
                let BudgetSet { tenant, budget, by: _ } = record.as_ref();
                self.budgets.set(*at, *seq, tenant, budget);
                self.budget_moved(tenant);
                Change::Nothing
            }
            Record::BudgetRemoved(BudgetRemoved { tenant, budget, by: _ }) => {
                self.budgets.remove(tenant, budget);
                self.budget_moved(tenant);
                Change::Nothing
            }
            Record::BudgetAcknowledged(BudgetAcknowledged { tenant, budget, by: _ }) => {
                self.budgets.acknowledge(*at, tenant, budget);
                Change::Nothing
            }
            Record::BudgetCrossed(record) => {
                let BudgetCrossed { tenant, budget, level, tally: _ } = record.as_ref();
                self.budgets.crossed(*at, tenant, budget, *level);
                self.budget_moved(tenant);
                Change::Nothing
            }
            Record::ResultRefused(_)
            | Record::PrefixDropped(_)
            | Record::JournalTruncated(_)
            | Record::UpgradeFinalized(_) => Change::Nothing,
        }
    }

    fn event_accepted(&mut self, seq: Seq, at: Timestamp, record: &EventAccepted) -> Change {
        self.dedupe.insert(record.key, at, Seen { event: seq, digest: record.digest });
        if let Some(feedback) = record.feedback() {
            self.opinions.hear(feedback, self.registry.find(&feedback.general).is_some());
        }
        let Some(name) = &record.route else { return Change::Nothing };
        let route = self.routing.find(&record.tenant, name).expect("records name routes applied before them");
        if record.deliveries.is_empty() {
            return Change::Nothing;
        }
        let flow = record.repository.as_ref().unwrap_or(&record.source);
        let mut source = None;
        let mut deliveries = Vec::with_capacity(record.deliveries.len());
        for (ordinal, planned) in (1..).zip(&record.deliveries) {
            let id = DeliveryId::new(seq, ordinal);
            let terms = planned.terms.as_deref().copied().unwrap_or_default();
            let queue_id = match &planned.general {
                Some(key) => {
                    let general = self.registry.find(key).expect("records name generals registered before them");
                    self.registry.general_mut(general).bound += 1;
                    QueueId::General(general)
                }
                None if terms.shadow => QueueId::Shadow(route),
                None => QueueId::Route(route),
            };
            let is_due = terms.not_before <= self.agenda.fired;
            let queue = self.queue_mut(queue_id);
            let (lane, phase) = match planned.parked {
                None => {
                    let (lane, is_head) = queue.push(&record.lane, flow, id);
                    if is_head && is_due {
                        // A lane that was emptied may stand in turn still.
                        queue.enqueue(lane, record.priority);
                        self.mark_dirty(queue_id);
                    }
                    (lane, Phase::Waiting { not_before: terms.not_before })
                }
                Some(reason) => {
                    let overflows = reason == ParkReason::BacklogFull;
                    let lane = if overflows { queue.overflow_in(&record.lane, flow, seq, id) } else { LaneIdx::NONE };
                    (lane, Phase::Parked { reason, since: at })
                }
            };
            if source.is_none() && record.repository.is_none() {
                // Many events share one source: its text is kept once.
                let shared = (lane != LaneIdx::NONE).then(|| self.queue(queue_id).flow_of(lane)).flatten();
                source = Some(shared.filter(|shared| *shared == flow).unwrap_or(flow).clone());
            }
            let mut delivery = Delivery::new(queue_id, lane, phase, seq);
            if planned.terms.is_some() {
                delivery.terms.clone_from(&planned.terms);
                self.time_terms(id, terms, &delivery.phase);
            }
            deliveries.push(delivery);
        }
        let rule = self.routing.rule_mut(route);
        rule.events += 1;
        self.tenants.began(rule.tenant_idx, deliveries.len());
        let event = Event {
            tenant: record.tenant.clone(),
            kind: record.kind.clone(),
            lane: record.lane.clone(),
            repository: record.repository.clone(),
            source,
            priority: record.priority,
            route,
            accepted: at,
            payload: PayloadRef { seq, len: length(&record.payload.bytes) },
            open: u32::try_from(deliveries.len()).expect("fan-out is bounded"),
            deliveries,
            race: record.strategy == Some(Strategy::Race),
            replay: record.replay().cloned().map(Box::new),
        };
        self.events.insert(seq, event);
        Change::Nothing
    }

    fn delivery_leased(&mut self, at: Timestamp, record: &DeliveryLeased) -> Change {
        let DeliveryLeased { delivery: id, token, general, instance, boot, reservation, .. } = record;
        let spend = reservation.as_ref().map(|reservation| self.reserved(*id, at, reservation));
        let general = self.registry.find(general).expect("records name generals registered before them");
        let event = self.events.get_mut(id.event).expect("records name deliveries created before them");
        let delivery = &mut event.deliveries[id.ordinal as usize - 1];
        let Phase::Waiting { not_before } = delivery.phase else {
            panic!("delivery {id} was leased while it did not wait")
        };
        if not_before > Timestamp(0) {
            // Fired long ago where the plane runs, and never where records are only folded.
            self.agenda.retries.remove(&(not_before, *id));
        }
        assert!(*token > delivery.token, "tokens of delivery {id} do not grow");
        delivery.release_lane(at);
        delivery.token = *token;
        let (instance, held) = held_by(&mut self.held, instance);
        held.insert(*id, general);
        delivery.phase =
            Phase::Leased(Lease { general, instance: instance.clone(), boot: boot.clone(), since: at, spend });
        let (queue_id, lane) = (delivery.queue, delivery.lane);
        if let QueueId::Route(route) = queue_id {
            self.routing.rule_mut(route).cursor = Some(general);
        }
        self.queue_mut(queue_id).leased(lane);
        self.made_room(queue_id);
        self.registry.general_mut(general).leased += 1;
        Change::Leased { delivery: *id, general, instance }
    }

    fn attempt_ended(&mut self, seq: Seq, at: Timestamp, record: &AttemptEnded) -> Change {
        let AttemptEnded { delivery: id, token, cause, message: _, counted, next, usage: _, charged, over } = record;
        let verdict = Verdict::of(*cause, *counted);
        let (queue, lane, change) = self.release(*id, at, *charged, verdict);
        let delivery = self.events.delivery_mut(*id);
        assert_eq!(delivery.token, *token, "attempt of delivery {id} ended under another token");
        delivery.attempts += u32::from(*counted);
        delivery.setback_mut().last_cause = Some(*cause);
        match *next {
            Next::Wait { not_before } => {
                delivery.phase = Phase::Waiting { not_before };
                delivery.setback_mut().held_since = Some(at);
                let expires = delivery.terms().expires;
                if expires > Timestamp(0) {
                    // It may have passed while the delivery was leased.
                    self.agenda.expiries.insert((expires, *id));
                }
                let delivery = self.events.delivery_mut(*id);
                let held_ms = delivery.setback().held_ms;
                self.queue_mut(queue).unleased(lane);
                if not_before > self.agenda.fired {
                    self.agenda.retries.insert((not_before, *id));
                }
                let block_max = self.rule_of(*id).block_max;
                let blocked = (at + block_max) - std::time::Duration::from_millis(held_ms);
                if not_before > blocked {
                    self.agenda.blocks.insert((blocked, *id));
                }
                self.touch(queue, lane);
            }
            Next::Park { reason } => {
                delivery.phase = Phase::Parked { reason, since: at };
                self.leave_lane(queue, lane, *id, false);
                if let Some(over) = over {
                    self.park_over(seq, at, *id, over);
                }
            }
        }
        change
    }

    fn delivery_settled(&mut self, at: Timestamp, record: &DeliverySettled) -> Change {
        let DeliverySettled { delivery: id, token, charged, .. } = record;
        if let Some(charged) = charged.filter(|_| !self.is_replay(*id)) {
            self.learn(*id, charged);
        }
        let (queue, lane, change) = self.release(*id, at, *charged, Verdict::Good);
        assert_eq!(self.events.delivery_mut(*id).token, *token, "delivery {id} settled under another token");
        if let Change::Released { general, .. } = &change {
            self.events.delivery_mut(*id).done_by = Some(*general);
        }
        self.recent.insert(*id, Ended { token: *token, ending: Ending::Held });
        self.leave_lane(queue, lane, *id, false);
        self.end(*id, Phase::Succeeded);
        change
    }

    fn delivery_cancelled(&mut self, at: Timestamp, record: &DeliveryCancelled) -> Change {
        let DeliveryCancelled { delivery: id, reason: _, by: _, charged, unanswered } = record;
        let event = self.events.get(id.event).expect("records name deliveries created before them");
        let delivery = &event.deliveries[id.ordinal as usize - 1];
        let (queue, lane, token, place) = (delivery.queue, delivery.lane, delivery.token, delivery.place);
        let mut change = Change::Nothing;
        if delivery.lease().is_none() && token != Token::default() {
            // Whoever held it may still report.
            let ending = if delivery.has_answered(token) { Ending::Answered } else { Ending::Unanswered };
            self.recent.insert(*id, Ended { token, ending });
        }
        match delivery.phase {
            Phase::Waiting { not_before } => {
                self.agenda.retries.remove(&(not_before, *id));
                self.leave_lane(queue, lane, *id, true);
            }
            Phase::Leased(_) => {
                (_, _, change) = self.release(*id, at, charged.as_deref().copied(), Verdict::Other);
                let ending = if *unanswered { Ending::Unanswered } else { Ending::Held };
                self.recent.insert(*id, Ended { token, ending });
                self.leave_lane(queue, lane, *id, false);
            }
            Phase::Parked { reason: ParkReason::BacklogFull, .. } => {
                self.queue_mut(queue).overflow_out(lane, place, *id);
            }
            Phase::Parked { .. } => self.unpark_over(*id, false),
            Phase::Succeeded | Phase::Cancelled => panic!("delivery {id} was cancelled after it had ended"),
        }
        self.end(*id, Phase::Cancelled);
        change
    }

    fn delivery_parked(&mut self, seq: Seq, at: Timestamp, record: &DeliveryParked) -> Change {
        let DeliveryParked { delivery: id, reason, over } = record;
        let delivery = self.events.delivery_mut(*id);
        let Phase::Waiting { not_before } = delivery.phase else {
            panic!("delivery {id} was parked while it did not wait")
        };
        delivery.release_lane(at);
        delivery.phase = Phase::Parked { reason: *reason, since: at };
        let (queue, lane) = (delivery.queue, delivery.lane);
        self.agenda.retries.remove(&(not_before, *id));
        self.leave_lane(queue, lane, *id, true);
        if let Some(over) = over {
            self.park_over(seq, at, *id, over);
        }
        Change::Nothing
    }

    fn delivery_redriven(&mut self, seq: Seq, record: &DeliveryRedriven) -> Change {
        let DeliveryRedriven { delivery: id, place_before, by } = record;
        self.unpark_over(*id, by.is_empty());
        let event = self.events.get(id.event).expect("records name deliveries created before them");
        let (lane, flow, priority) = (event.lane.clone(), event.flow(), event.priority);
        let delivery = self.events.delivery_mut(*id);
        let Phase::Parked { reason, .. } = delivery.phase else {
            panic!("delivery {id} was redriven while it was not parked")
        };
        assert_eq!(delivery.place, *place_before, "delivery {id} stood elsewhere");
        let (by_itself, terms) = (by.is_empty(), delivery.terms());
        delivery.redriven(by_itself);
        delivery.phase = Phase::Waiting { not_before: Timestamp(0) };
        delivery.place = seq;
        let over = delivery.setback_over().filter(|_| by.is_empty());
        delivery.forgive();
        if let Some(over) = over {
            delivery.setback_mut().over = Some(Box::new(Over { admitted: true, ..*over }));
        }
        let queue_id = delivery.queue;
        if terms != Terms::default() {
            self.agenda.later.remove(&(terms.not_before, *id));
            if !by_itself && !terms.shadow {
                self.agenda.expiries.remove(&(terms.expires, *id));
            }
        }
        let queue = self.queue_mut(queue_id);
        let (lane, is_head) = queue.push(&lane, &flow, *id);
        if reason == ParkReason::BacklogFull {
            queue.overflow_out(lane, *place_before, *id);
        }
        if is_head {
            queue.enqueue(lane, priority);
            self.mark_dirty(queue_id);
        }
        self.events.delivery_mut(*id).lane = lane;
        Change::Nothing
    }

    fn cluster_registered(&mut self, record: &ClusterRegistered) -> Change {
        let ClusterRegistered { tenant, cluster, region, labels } = record;
        let entry = self.registry.clusters.entry((tenant.clone(), cluster.clone())).or_default();
        entry.region = region.clone();
        entry.labels = labels.clone();
        let generals = self.registry.of_cluster(tenant, cluster);
        generals.iter().for_each(|general| self.rejoin(*general));
        Change::Opened(generals)
    }

    fn general_registered(&mut self, record: &GeneralRegistered) -> Change {
        let idx = self.register(record);
        self.rejoin(idx);
        Change::Opened(vec![idx])
    }

    /// Finds the routes that could choose the general. Lanes of those that no longer do want to go elsewhere.
    fn rejoin(&mut self, general: GeneralIdx) {
        let before = self.registry.general(general).routes.clone();
        self.routing.rejoin(general, &mut self.registry);
        let now = &self.registry.general(general).routes;
        let left: Vec<_> = before.into_iter().filter(|route| !now.contains(route)).collect();
        left.into_iter().for_each(|route| self.release_aside(route));
    }

    fn hold_changed(&mut self, record: &HoldChanged) -> Change {
        let HoldChanged { tenant, target, holds, by: _ } = record;
        match target {
            HoldTarget::Route(name) => {
                let route = self.routing.find(tenant, name).expect("records name routes applied before them");
                self.routing.rule_mut(route).holds = *holds;
                // Its broadcast work waits in the generals' own queues, out of turn while the route is held.
                let ours = self.events.iter().map(|(_, event)| event).filter(|event| event.route == route);
                // Those that have ended may name a general that was removed since.
                let in_lane = |delivery: &&Delivery| matches!(delivery.status(), Status::Waiting | Status::Leased);
                let lanes = ours.flat_map(|event| event.deliveries.iter().filter(in_lane));
                let lanes = lanes.map(|delivery| (delivery.queue, delivery.lane));
                for (queue, lane) in lanes.collect::<Vec<_>>() {
                    self.touch(queue, lane);
                }
                self.all_opened()
            }
            HoldTarget::Instance(cluster, instance) => {
                self.registry.hold(tenant, target, *holds);
                let key = InstanceKey { tenant: tenant.clone(), cluster: cluster.clone(), instance: instance.clone() };
                Change::Instance(Arc::new(key))
            }
            HoldTarget::Cluster(_) | HoldTarget::General(..) => {
                Change::Opened(self.registry.hold(tenant, target, *holds))
            }
        }
    }

    pub(crate) fn all_opened(&self) -> Change {
        Change::Opened(self.registry.iter().map(|(idx, _)| idx).collect())
    }

    /// Takes the lease off a delivery; its phase is set by the caller.
    fn release(
        &mut self,
        id: DeliveryId,
        at: Timestamp,
        charged: Option<Amount>,
        verdict: Verdict,
    ) -> (QueueId, LaneIdx, Change) {
        let event = self.events.get_mut(id.event).expect("records name deliveries created before them");
        let delivery = &mut event.deliveries[id.ordinal as usize - 1];
        let lane = delivery.lane;
        let Phase::Leased(Lease { general, instance, since, spend, .. }) = &mut delivery.phase else {
            panic!("lease of delivery {id} ended, and it had none")
        };
        let (general, instance, since, queue) = (*general, instance.clone(), *since, delivery.queue);
        let spend = spend.take();
        let (is_replay, route) = (event.replay.is_some(), event.route);
        // What is only compared says nothing of how live work goes.
        let verdict = match verdict {
            Verdict::Good | Verdict::Bad if is_replay => Verdict::Other,
            verdict => verdict,
        };
        if delivery.setback().cancel.is_some() {
            delivery.setback_mut().cancel = None;
        }
        if let Some(held) = self.held.get_mut(&instance) {
            held.remove(&id);
            if held.is_empty() {
                self.held.remove(&instance);
            }
        }
        self.registry.general_mut(general).leased -= 1;
        if let Some(spend) = spend {
            let charged = charged.unwrap_or(spend.spent.unwrap_or(spend.reserved));
            self.budgets.settle(id.event, at, &spend, charged);
            self.charged_to(route);
            if is_replay {
                self.wake_replays();
            }
        }
        (queue, lane, Change::Released { delivery: id, general, instance, since, verdict })
    }

    fn leave_lane(&mut self, queue: QueueId, lane: LaneIdx, id: DeliveryId, was_waiting: bool) {
        self.queue_mut(queue).remove(lane, id, was_waiting);
        self.touch(queue, lane);
        if was_waiting {
            self.made_room(queue);
            self.left_aside(queue);
        }
    }

    fn end(&mut self, id: DeliveryId, phase: Phase) {
        let event = self.events.get(id.event).expect("records name deliveries created before them");
        let (route, last) = (event.route, event.open == 1);
        let delivery = &event.deliveries[id.ordinal as usize - 1];
        let queue = delivery.queue;
        let terms = delivery.terms.is_some().then(|| delivery.terms());
        if last && !self.budgets.is_empty() {
            self.budgets.forget_run(&event.tenant, id.event);
        }
        let rule = self.routing.rule_mut(route);
        rule.events -= u64::from(last);
        self.tenants.ended(rule.tenant_idx);
        if let QueueId::General(general) = queue {
            self.registry.general_mut(general).bound -= 1;
        }
        if let Some(terms) = terms {
            self.untime_terms(id, terms);
        }
        self.events.end(id, phase);
    }

    fn made_room(&mut self, queue: QueueId) {
        if !self.queue(queue).overflow.is_empty() {
            self.agenda.overflows.insert(queue);
        }
    }

    /// Gives the lane its turn if something at its head may be leased.
    pub(crate) fn touch(&mut self, queue: QueueId, lane: LaneIdx) {
        let found = self.queue(queue).lane(lane).head().find_map(|id| {
            let (event, delivery) = self.events.delivery(id)?;
            self.is_eligible(event, delivery).then_some(event.priority)
        });
        if let Some(priority) = found {
            self.queue_mut(queue).enqueue(lane, priority);
            // Also when it stands in turn already: what it waited for may have changed.
            self.mark_dirty(queue);
        }
    }

    /// The first delivery at the lane's head that waits and whose time has come.
    pub(crate) fn first_eligible(&self, queue: QueueId, lane: LaneIdx) -> Option<DeliveryId> {
        let mut head = self.queue(queue).lane(lane).head();
        head.find(|id| self.events.delivery(*id).is_some_and(|(event, delivery)| self.is_eligible(event, delivery)))
    }

    /// Whether a delivery at its lane's head may be leased.
    pub(crate) fn is_eligible(&self, event: &Event, delivery: &Delivery) -> bool {
        matches!(delivery.phase, Phase::Waiting { not_before } if not_before <= self.agenda.fired)
            && self.routing.rule(event.route).holds.is_none()
    }

    pub(crate) fn mark_dirty(&mut self, queue_id: QueueId) {
        let queue = self.queue_mut(queue_id);
        if !queue.dirty {
            queue.dirty = true;
            let served = queue.served;
            self.agenda.dirty.add(self.tenant_of(queue_id), queue_id, served);
        }
    }

    pub(crate) fn tenant_of(&self, queue: QueueId) -> TenantIdx {
        match queue {
            QueueId::General(general) => self.registry.general(general).tenant_idx,
            QueueId::Route(route) | QueueId::Shadow(route) => self.routing.rule(route).tenant_idx,
        }
    }

    pub(crate) fn register(&mut self, record: &GeneralRegistered) -> GeneralIdx {
        let idx = self.registry.register(record, &self.hasher);
        self.registry.general_mut(idx).tenant_idx = self.tenants.place(&record.key.tenant);
        idx
    }

    pub(crate) fn queues(&self) -> impl Iterator<Item = QueueId> + '_ {
        let generals = self.registry.iter().map(|(idx, _)| QueueId::General(idx));
        let shadows = self.routing.iter().filter(|(_, rule)| rule.shadow.is_some());
        let routes = self.routing.iter().map(|(idx, _)| QueueId::Route(idx));
        generals.chain(routes).chain(shadows.map(|(idx, _)| QueueId::Shadow(idx)))
    }

    pub(crate) fn queue(&self, id: QueueId) -> &Queue {
        match id {
            QueueId::General(general) => &self.registry.general(general).queue,
            QueueId::Route(route) => &self.routing.rule(route).queue,
            QueueId::Shadow(route) => self.routing.rule(route).shadow_queue(),
        }
    }

    pub(crate) fn queue_mut(&mut self, id: QueueId) -> &mut Queue {
        match id {
            QueueId::General(general) => &mut self.registry.general_mut(general).queue,
            QueueId::Route(route) => &mut self.routing.rule_mut(route).queue,
            QueueId::Shadow(route) => &mut self.routing.rule_mut(route).shadow_side(&self.hasher).queue,
        }
    }

    /// Whether the open delivery repeats a past event.
    pub(crate) fn is_replay(&self, id: DeliveryId) -> bool {
        self.events.get(id.event).is_some_and(|event| event.replay.is_some())
    }

    /// The route of an open delivery.
    pub(crate) fn rule_of(&self, id: DeliveryId) -> &crate::route::Route {
        let event = self.events.get(id.event).expect("asked for open deliveries only");
        &self.routing.rule(event.route).route
    }
}

/// The leases of an instance, and the stored copy of its name, so that leases read from the journal share one.
pub(crate) fn held_by<'a>(
    held: &'a mut Held,
    key: &Arc<InstanceKey>,
) -> (Arc<InstanceKey>, &'a mut BTreeMap<DeliveryId, GeneralIdx>) {
    match held.entry(key.clone()) {
        hash_map::Entry::Occupied(entry) => {
            let key = entry.key().clone();
            (key, entry.into_mut())
        }
        hash_map::Entry::Vacant(entry) => (key.clone(), entry.insert(BTreeMap::new())),
    }
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("payloads are bounded well below 4 GiB")
}
