//! The durable state: the fold of the records.
//!
//! Invariants: nothing but `apply` changes what is recorded; `apply` judges nothing and asserts what `decide` promised,
//! because a record that does not fit is a bug, and serving from a wrong state is worse than stopping.

use std::collections::BTreeMap;
use std::sync::Arc;

use foldhash::quality::FixedState;
use hashbrown::{HashMap, hash_map};
use mindos_model::{DeliveryId, ParkReason, Seq, Status, Strategy, Timestamp};

use crate::access::{Access, AccessRecord};
use crate::account::Accounts;
use crate::agenda::Agenda;
use crate::breaker::Ended as Verdict;
use crate::dedupe::{Dedupe, HORIZON, WINDOW};
use crate::effect::Effects;
use crate::event::{Delivery, Event, Events, Phase};
use crate::feedback::Opinions;
use crate::input::Seen;
use crate::object::{ObjectRecord, Objects};
use crate::output::PayloadRef;
use crate::queue::{LaneIdx, QueueId};
use crate::recent::Recent;
use crate::record::{
    BudgetAcknowledged, BudgetCrossed, BudgetRemoved, BudgetSet, CancelRequested, ClusterRegistered, Entry,
    EventAccepted, GeneralRegistered, GeneralRemoved, HoldChanged, HoldTarget, InstanceKey, PayloadCarried, Record,
};
use crate::registry::{GeneralIdx, Registry};
use crate::routing::Routing;
use crate::tenants::Tenants;

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
    pub(crate) effects: Effects,
    /// Shared, so that a copy of the state costs nothing for it.
    pub(crate) access: Arc<Access>,
    pub(crate) objects: Objects,
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
            dedupe: Dedupe::new(hasher.clone(), WINDOW, HORIZON),
            effects: Effects::new(hasher.clone()),
            opinions: Opinions::new(hasher.clone()),
            hasher,
            events: Events::default(),
            recent: Recent::default(),
            tenants: Tenants::default(),
            agenda: Agenda::default(),
            access: Arc::default(),
            objects: Objects::default(),
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

    /// Who may do what.
    #[must_use]
    pub fn access(&self) -> &Arc<Access> {
        &self.access
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
            Record::CancelRequested(CancelRequested { delivery, reason, why: _, by: _ }) => {
                let delivery = self.events.delivery_mut(*delivery);
                assert!(delivery.lease().is_some(), "cancel was requested of a delivery that is not leased");
                delivery.setback_mut().cancel = Some(*reason);
                Change::Nothing
            }
            Record::DeliveryParked(record) => self.delivery_parked(*seq, *at, record),
            Record::DeliveryRedriven(record) => self.delivery_redriven(*seq, *at, record),
            Record::ClusterRegistered(record) => self.cluster_registered(record),
            Record::GeneralRegistered(record) => self.general_registered(record),
            Record::GeneralRemoved(record) => {
                let GeneralRemoved { key, by: _, from: _ } = record.as_ref();
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
            Record::PayloadCarried(PayloadCarried { event, effect, payload }) => {
                let payload = PayloadRef { seq: *seq, len: length(&payload.bytes) };
                match effect {
                    Some(effect) => self.effects.carried(*effect, payload),
                    None => {
                        if let Some(event) = self.events.get_mut(*event) {
                            event.payload = payload;
                        }
                    }
                }
                Change::Nothing
            }
            Record::EffectIntended(record) => {
                self.effects.intended(*seq, *at, record);
                Change::Nothing
            }
            Record::EffectDeferred(record) => {
                self.effects.deferred(record);
                Change::Nothing
            }
            Record::EffectEnded(record) => {
                self.effects.ended(*at, record);
                Change::Nothing
            }
            Record::EffectRevived(record) => {
                self.effects.revived(record);
                Change::Nothing
            }
            Record::LeaseExtended(record) => {
                self.lease_extended(*at, record);
                Change::Nothing
            }
            Record::BudgetSet(record) => {
                let BudgetSet { tenant, budget, by: _, from: _ } = record.as_ref();
                self.budgets.set(*at, *seq, tenant, budget);
                self.budget_moved(tenant);
                Change::Nothing
            }
            Record::BudgetRemoved(BudgetRemoved { tenant, budget, by: _, from: _ }) => {
                self.budgets.remove(tenant, budget);
                self.budget_moved(tenant);
                Change::Nothing
            }
            Record::BudgetAcknowledged(BudgetAcknowledged { tenant, budget, by: _, from: _ }) => {
                self.budgets.acknowledge(*at, tenant, budget);
                Change::Nothing
            }
            Record::BudgetCrossed(record) => {
                let BudgetCrossed { tenant, budget, level, tally: _ } = record.as_ref();
                self.budgets.crossed(*at, tenant, budget, *level);
                self.budget_moved(tenant);
                Change::Nothing
            }
            Record::Access(record) => {
                Arc::make_mut(&mut self.access).fold(entry);
                if let AccessRecord::QuotaSet { tenant, quota, .. } = record.as_ref() {
                    self.tenants.bound(tenant, quota.and_then(|quota| quota.open_max));
                }
                Change::Nothing
            }
            Record::Object(record) => {
                match record.as_ref() {
                    ObjectRecord::Applied { object, by: _, from: _ } => self.objects.put(object),
                    ObjectRecord::Removed { key, by: _, from: _ } => self.objects.remove(key),
                }
                Change::Nothing
            }
            Record::ResultRefused(_)
            | Record::PayloadsRedacted(_)
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
        let HoldChanged { tenant, target, holds, why: _, by: _, from: _ } = record;
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

    pub(crate) fn register(&mut self, record: &GeneralRegistered) -> GeneralIdx {
        let idx = self.registry.register(record, &self.hasher);
        self.registry.general_mut(idx).tenant_idx = self.tenants.place(&record.key.tenant);
        idx
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
