//! The reference: what the durable records say, folded without any of the core's code.
//!
//! Each record is judged as it is folded; the names of the invariants stand before the colon of what is reported.
//! Invariant: only what the journal has acknowledged is in here.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use mindos_core::record::{
    CancelReason, ContentDigest, DedupeKey, DeliveryLeased, Entry, EventAccepted, GeneralKey, HoldTarget, Holds,
    InstanceKey, Labels, Record,
};
use mindos_core::route::Route;
use mindos_model::{BootId, ClusterName, DeliveryId, InstanceId, ParkReason, RouteName, Seq, Timestamp, Token};

use crate::access::AccessFacts;
use crate::budgets::Budgets;
use crate::clocks::{Clocks, Timeline};
use crate::coverage::{Coverage, Phase};
use crate::effects::Effects;
use crate::objects::ObjectFacts;
use crate::placed::Limited;
use crate::policies::{Plan, Policies};

/// What a broken invariant is reported as.
pub type Broken = String;

/// Where a delivery waits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Queue {
    General(Arc<GeneralKey>),
    Route(RouteName),
    /// Shadows of a route's deliveries.
    Shadow(RouteName),
}

/// What is known of an event.
#[derive(Clone, Debug)]
pub struct EventFacts {
    pub digest: ContentDigest,
    pub route: Option<RouteName>,
    pub payload_at: Seq,
}

/// What is known of a delivery.
#[derive(Clone, Debug)]
pub struct Facts {
    pub phase: Phase,
    pub token: Token,
    pub attempts: u32,
    pub lane: Arc<str>,
    pub queue: Queue,
    pub place: Seq,
    pub not_before: Timestamp,
    pub leased_at: Timestamp,
    pub parked_at: Timestamp,
    pub held: Option<(Arc<GeneralKey>, Arc<InstanceKey>, BootId)>,
    /// Tokens under which a result was taken.
    pub answered: Vec<Token>,
    /// The lease that ended with the delivery itself.
    pub settled_by: Option<Token>,
    pub plan: Plan,
}

/// What stands in the lanes of a queue, with its place there.
pub type Lanes = HashMap<Arc<str>, BTreeSet<(Seq, DeliveryId)>>;

/// The reference state.
#[derive(Debug, Default)]
pub struct Ledger {
    pub end: Seq,
    pub at: Timestamp,
    pub epoch: u32,
    pub events: HashMap<Seq, EventFacts>,
    pub by_key: HashMap<DedupeKey, Seq>,
    pub deliveries: HashMap<DeliveryId, Facts>,
    pub open: BTreeSet<DeliveryId>,
    pub leased: BTreeSet<DeliveryId>,
    pub refused: HashSet<(DeliveryId, Token)>,
    pub cancels: HashSet<DeliveryId>,
    pub lanes: HashMap<Queue, Lanes>,
    pub load: HashMap<(Arc<InstanceKey>, Arc<GeneralKey>), u32>,
    pub routes: BTreeMap<RouteName, Route>,
    pub holds: BTreeMap<HoldTarget, Holds>,
    /// Everything through here has left the journal.
    pub dropped: Seq,
    /// Slots as the plane was told, by instance and general.
    pub slots: HashMap<(Arc<InstanceKey>, Arc<GeneralKey>), Timeline<u32>>,
    /// Labels of generals as instances told them.
    pub told: HashMap<(Arc<InstanceKey>, Arc<GeneralKey>), Timeline<Labels>>,
    pub clocks: Clocks,
    pub budgets: Budgets,
    /// Boots that left with all their work done.
    pub left: BTreeSet<BootId>,
    /// Work that generals began, by boot.
    pub started: HashSet<(DeliveryId, Token)>,
    /// Who reported an end of which lease.
    pub reported: HashSet<(DeliveryId, Token, Arc<InstanceKey>)>,
    /// Leases that the plane ended itself while they were extended: their agent hears of it a little later.
    pub stuck: HashSet<(DeliveryId, Token)>,
    /// Records decided before this time say nothing of when: the clock had stood elsewhere.
    pub clock_moved: Timestamp,
    pub(crate) limited: Limited,
    pub policies: Policies,
    pub access: AccessFacts,
    pub effects: Effects,
    pub objects: ObjectFacts,
    pub coverage: Coverage,
    /// Kinds of records that came.
    pub kinds: BTreeSet<&'static str>,
}

/// How much later than its deadline a lease may end: one tick of the driver and one turn.
const LATE: Duration = Duration::from_millis(1500);

impl Ledger {
    /// Folds and judges a record.
    ///
    /// # Errors
    /// Names the invariant that the record breaks.
    pub fn fold(&mut self, entry: &Entry) -> Result<(), Broken> {
        let Entry { seq, at, record } = entry;
        if *seq != self.end.next() {
            return Err(format!("no_record_is_missing: record {seq} follows {}", self.end));
        }
        if *at < self.at {
            return Err(format!("time_grows: record {seq} at {at} follows {}", self.at));
        }
        self.end = *seq;
        self.at = *at;
        let phase = delivery_of(record).map_or(Phase::New, |id| self.phase(id));
        self.coverage.hit(phase, record);
        self.kinds.insert(record.kind());
        self.budgets.fold(entry)?;
        self.access.fold(entry)?;
        self.objects.fold(entry, &mut self.coverage)?;
        self.judge(*seq, *at, phase, record)?;
        self.fold_effects(*seq, *at, record)
    }

    fn phase(&self, id: DeliveryId) -> Phase {
        self.deliveries.get(&id).map_or(Phase::New, |facts| facts.phase)
    }

    fn judge(&mut self, seq: Seq, at: Timestamp, phase: Phase, record: &Record) -> Result<(), Broken> {
        match record {
            Record::EpochStarted(record) => {
                if record.epoch <= self.epoch {
                    return Err(format!("epochs_grow: {} follows {}", record.epoch, self.epoch));
                }
                self.epoch = record.epoch;
                self.limited.forget();
            }
            Record::EventAccepted(record) => self.event_accepted(seq, record)?,
            Record::DeliveryLeased(record) => self.delivery_leased(seq, at, phase, record)?,
            Record::GeneralRegistered(record) => self.limited.registered(record),
            Record::ClusterRegistered(record) => {
                self.policies.clusters.insert(record.cluster.clone(), (**record).clone());
            }
            Record::AttemptEnded(record) => self.attempt_ended(seq, at, phase, record)?,
            Record::DeliverySettled(record) => {
                self.ended_by_its_holder(record.delivery, record.token)?;
                self.policies_of_success(record.delivery)?;
                self.ends_lease(record.delivery, record.token, phase, seq, at)?;
                let facts = self.facts(record.delivery)?;
                facts.answered.push(record.token);
                facts.settled_by = Some(record.token);
                self.end_delivery(record.delivery)?;
            }
            Record::DeliveryCancelled(record) => {
                self.policies_of_cancel(at, phase, record)?;
                match phase {
                    Phase::Leased | Phase::Cancelling => {
                        let token = self.facts(record.delivery)?.token;
                        self.ends_lease(record.delivery, token, phase, seq, at)?;
                        let facts = self.facts(record.delivery)?;
                        facts.answered.push(token);
                        facts.settled_by = Some(token);
                    }
                    Phase::Waiting => self.leave_lane(record.delivery)?,
                    Phase::Parked(_) => {}
                    Phase::New | Phase::Ended => {
                        return Err(format!("settled_exactly_once: delivery {} ended again", record.delivery));
                    }
                }
                self.cancels.insert(record.delivery);
                self.end_delivery(record.delivery)?;
            }
            Record::CancelRequested(record) => {
                // Who is stopped already is told once more that nothing of it is kept.
                let again = phase == Phase::Cancelling && record.reason == CancelReason::Redacted;
                if phase != Phase::Leased && !again {
                    return Err(format!("cancel_of_leased_only: delivery {} is {phase:?}", record.delivery));
                }
                self.cancels.insert(record.delivery);
                self.facts(record.delivery)?.phase = Phase::Cancelling;
            }
            Record::DeliveryParked(record) => {
                if phase != Phase::Waiting {
                    return Err(format!("parked_while_waiting: delivery {} is {phase:?}", record.delivery));
                }
                self.parks(record)?;
                self.leave_lane(record.delivery)?;
                let facts = self.facts(record.delivery)?;
                (facts.phase, facts.parked_at) = (Phase::Parked(record.reason), at);
            }
            Record::DeliveryRedriven(record) => {
                let facts = self.facts(record.delivery)?;
                if !matches!(phase, Phase::Parked(_)) || facts.place != record.place_before {
                    return Err(format!("redriven_while_parked: delivery {} is {phase:?}", record.delivery));
                }
                facts.phase = Phase::Waiting;
                facts.place = seq;
                facts.attempts = 0;
                facts.not_before = Timestamp(0);
                if !record.by.is_empty() && !facts.plan.terms.shadow {
                    // A person wants it, however old it is.
                    facts.plan.terms.expires = Timestamp(0);
                }
                if phase == Phase::Parked(ParkReason::OverBudget) && facts.plan.replay {
                    // It could not be begun while its budget had no room.
                    facts.plan.terms.expires = facts.plan.terms.expires + at.since(facts.parked_at);
                }
                self.enter_lane(record.delivery)?;
            }
            Record::ResultRefused(record) => {
                let facts = self.deliveries.get(&record.delivery);
                let holds = facts.is_some_and(|facts| {
                    facts.token == record.presented
                        && facts.held.as_ref().is_some_and(|(_, instance, _)| *instance == record.instance)
                });
                if holds {
                    return Err(format!(
                        "only_stale_results_are_refused: delivery {} {}",
                        record.delivery, record.presented
                    ));
                }
                self.refused.insert((record.delivery, record.presented));
            }
            Record::LeaseExtended(record) => {
                if self.facts(record.delivery)?.token != record.token
                    || !matches!(phase, Phase::Leased | Phase::Cancelling)
                {
                    return Err(format!("extended_by_its_holder: delivery {} {}", record.delivery, record.token));
                }
            }
            Record::HoldChanged(record) => {
                self.holds.insert(record.target.clone(), record.holds);
            }
            Record::RoutesApplied(record) => {
                self.routes.extend(record.table.routes.iter().map(|route| (route.name.clone(), route.clone())));
            }
            Record::RouteAsked(record) => {
                self.routes.insert(record.route.name.clone(), (*record.route).clone());
            }
            Record::PayloadCarried(record) if record.effect.is_some() => {}
            Record::PayloadCarried(record) => {
                if let Some(event) = self.events.get_mut(&record.event) {
                    event.payload_at = seq;
                }
            }
            Record::GeneralRemoved(record) => {
                let open = self.open.iter().any(|id| self.queue_is(*id, &record.key));
                if open {
                    return Err(format!("no_general_with_work_is_removed: {}", record.key));
                }
                self.limited.removed(&record.key);
                let GeneralKey { cluster, name, .. } = &record.key;
                self.holds.remove(&HoldTarget::General(cluster.clone(), name.clone()));
            }
            Record::PrefixDropped(_)
            | Record::JournalTruncated(_)
            | Record::UpgradeFinalized(_)
            | Record::BudgetSet(_)
            | Record::BudgetRemoved(_)
            | Record::BudgetAcknowledged(_)
            | Record::BudgetCrossed(_)
            | Record::Access(_)
            | Record::PayloadsRedacted(_)
            | Record::EffectIntended(_)
            | Record::EffectDeferred(_)
            | Record::EffectEnded(_)
            | Record::EffectRevived(_)
            | Record::Object(_) => {}
        }
        Ok(())
    }

    fn queue_is(&self, id: DeliveryId, key: &GeneralKey) -> bool {
        self.deliveries
            .get(&id)
            .is_some_and(|facts| matches!(&facts.queue, Queue::General(general) if **general == *key))
    }

    fn facts(&mut self, id: DeliveryId) -> Result<&mut Facts, Broken> {
        self.deliveries.get_mut(&id).ok_or_else(|| format!("records_name_known_deliveries: {id}"))
    }

    fn event_accepted(&mut self, seq: Seq, record: &EventAccepted) -> Result<(), Broken> {
        if let Some(earlier) = self.by_key.insert(record.key, seq) {
            return Err(format!("accepted_once: {}/{} as {earlier} and {seq}", record.source, record.id));
        }
        let open = (self.open.len() + record.deliveries.len()) as u64;
        if let Some(max) = self.access.open_max.filter(|max| open > *max && !record.deliveries.is_empty()) {
            return Err(format!("quotas_bound_what_is_open: {open} with event {seq}, {max} may"));
        }
        let facts = EventFacts { digest: record.digest, route: record.route.clone(), payload_at: seq };
        self.events.insert(seq, facts);
        self.policies_of_event(seq, record)?;
        let route = record.route.as_ref().and_then(|name| self.routes.get(name)).cloned();
        for (ordinal, planned) in (1..).zip(&record.deliveries) {
            let id = DeliveryId::new(seq, ordinal);
            let queue = match (&planned.general, &record.route) {
                (Some(general), _) => Queue::General(general.clone()),
                (None, Some(route)) if planned.terms.as_deref().is_some_and(|terms| terms.shadow) => {
                    Queue::Shadow(route.clone())
                }
                (None, Some(route)) => Queue::Route(route.clone()),
                (None, None) => return Err(format!("routed_deliveries_have_a_queue: {id}")),
            };
            self.coverage.accepted(planned.parked.is_some());
            if planned.degraded.is_some() {
                self.coverage.note("degraded at acceptance");
            }
            let phase = planned.parked.map_or(Phase::Waiting, Phase::Parked);
            let plan = Plan::new(record, planned, route.as_ref());
            self.deliveries.insert(
                id,
                Facts {
                    phase,
                    token: Token::default(),
                    attempts: 0,
                    lane: record.lane.clone(),
                    queue,
                    place: seq,
                    not_before: plan.terms.not_before,
                    leased_at: Timestamp(0),
                    parked_at: Timestamp(0),
                    held: None,
                    answered: Vec::new(),
                    settled_by: None,
                    plan,
                },
            );
            self.open.insert(id);
            if phase == Phase::Waiting {
                self.enter_lane(id)?;
            }
        }
        Ok(())
    }

    fn enter_lane(&mut self, id: DeliveryId) -> Result<(), Broken> {
        let Facts { queue, lane, place, .. } = self.facts(id)?;
        let (queue, lane, place) = (queue.clone(), lane.clone(), *place);
        self.lanes.entry(queue).or_default().entry(lane).or_default().insert((place, id));
        Ok(())
    }

    fn leave_lane(&mut self, id: DeliveryId) -> Result<(), Broken> {
        let Facts { queue, lane, place, .. } = self.facts(id)?;
        let (queue, lane, place) = (queue.clone(), lane.clone(), *place);
        if let Some(lanes) = self.lanes.get_mut(&queue)
            && let Some(entries) = lanes.get_mut(&lane)
        {
            entries.remove(&(place, id));
            if entries.is_empty() {
                lanes.remove(&lane);
            }
        }
        Ok(())
    }

    fn delivery_leased(
        &mut self,
        seq: Seq,
        at: Timestamp,
        phase: Phase,
        record: &DeliveryLeased,
    ) -> Result<(), Broken> {
        let DeliveryLeased { delivery: id, token, general, instance, boot, attempt, .. } = record;
        let (id, token) = (*id, *token);
        if matches!(phase, Phase::Leased | Phase::Cancelling) {
            return Err(format!("one_lease_per_delivery: {id} was leased again under {token}"));
        }
        if phase != Phase::Waiting {
            return Err(format!("only_waiting_work_is_leased: {id} is {phase:?}"));
        }
        let epoch = self.epoch;
        let facts = self.facts(id)?;
        if token <= facts.token || token.epoch != epoch {
            return Err(format!("tokens_grow: {id} got {token} after {} in epoch {epoch}", facts.token));
        }
        if *attempt != facts.attempts + 1 {
            return Err(format!("attempts_are_counted: {id} is at {attempt} after {}", facts.attempts));
        }
        if at < facts.not_before {
            return Err(format!("retries_wait: {id} was leased at {at}, not before {}", facts.not_before));
        }
        self.limited.judge(record, at)?;
        if record.degraded.is_some() {
            self.coverage.note("degraded at the lease");
        }
        let facts = self.facts_mut(id)?;
        let before = std::mem::replace(&mut facts.token, token);
        facts.phase = Phase::Leased;
        facts.leased_at = at;
        facts.held = Some((general.clone(), instance.clone(), boot.clone()));
        let (queue, lane, place) = (facts.queue.clone(), facts.lane.clone(), facts.place);
        let facts = facts.clone();
        self.policies_of_lease(at, &facts, before, record)?;
        if let Queue::General(bound) = &queue
            && **bound != **general
        {
            return Err(format!("broadcast_fixes_its_generals: {id} is for {bound}, went to {general}"));
        }
        let entries = self.lanes.get(&queue).and_then(|lanes| lanes.get(&lane));
        let earlier = entries.and_then(|entries| entries.iter().find(|(_, other)| other.event != id.event));
        if let Some((before, other)) = earlier.filter(|(before, _)| *before < place) {
            return Err(format!("order_by_lane: {id} was leased while {other} stands before it at {before}"));
        }
        self.leased.insert(id);
        let key = (instance.clone(), general.clone());
        let load = self.load.entry(key.clone()).or_default();
        *load += 1;
        let slots = self.slots.get(&key).and_then(|slots| slots.at(seq)).unwrap_or(0);
        if *load > slots {
            return Err(format!("no_push_without_a_slot: {id} went to {instance}, {load} leases on {slots} slots"));
        }
        self.not_held(id, general, instance)
    }

    fn not_held(&self, id: DeliveryId, general: &GeneralKey, instance: &InstanceKey) -> Result<(), Broken> {
        if self.holds.is_empty() {
            return Ok(());
        }
        let cluster: ClusterName = general.cluster.clone();
        let name: InstanceId = instance.instance.clone();
        let route = self.events.get(&id.event).and_then(|event| event.route.clone());
        let mut targets = vec![
            HoldTarget::Cluster(cluster.clone()),
            HoldTarget::General(cluster.clone(), general.name.clone()),
            HoldTarget::Instance(cluster, name),
        ];
        targets.extend(route.map(HoldTarget::Route));
        let held = targets.iter().find(|target| self.holds.get(target).is_some_and(|holds| !holds.is_none()));
        match held {
            Some(target) => Err(format!("what_is_held_begins_nothing: {id} was leased in spite of {target:?}")),
            None => Ok(()),
        }
    }

    /// A lease ends under this token, in time.
    pub(crate) fn ends_lease(
        &mut self,
        id: DeliveryId,
        token: Token,
        phase: Phase,
        seq: Seq,
        at: Timestamp,
    ) -> Result<(), Broken> {
        if phase == Phase::Ended {
            return Err(format!("settled_exactly_once: {id} ended again under {token}"));
        }
        if !matches!(phase, Phase::Leased | Phase::Cancelling) {
            return Err(format!("leases_end_once: {id} is {phase:?}, a lease under {token} ended"));
        }
        let deadline = self.clocks.deadline(id, token, seq);
        self.clocks.ended(id, token);
        let facts = self.facts(id)?;
        if facts.token != token {
            return Err(format!("stale_results_are_refused: {id} ended under {token}, leased under {}", facts.token));
        }
        let Some((general, instance, _)) = facts.held.take() else {
            return Err(format!("leases_end_once: {id} has no holder"));
        };
        self.leased.remove(&id);
        if let Some(load) = self.load.get_mut(&(instance, general)) {
            *load = load.saturating_sub(1);
        }
        self.leave_lane(id)?;
        match deadline {
            Some(deadline)
                if at > deadline + LATE && at > self.clock_moved && !self.clocks.after_stall.contains(&at) =>
            {
                Err(format!("a_lost_instances_work_is_freed_in_time: {id} ended at {at}, its lease at {deadline}"))
            }
            _ => Ok(()),
        }
    }

    /// A result, or a lease handed back, came from the instance that held it.
    pub(crate) fn ended_by_its_holder(&self, id: DeliveryId, token: Token) -> Result<(), Broken> {
        let holder = self.deliveries.get(&id).and_then(|facts| facts.held.as_ref()).map(|(_, instance, _)| instance);
        match holder {
            Some(holder) if !self.reported.contains(&(id, token, holder.clone())) => {
                Err(format!("only_its_holder_ends_a_lease: {id} {token} of {holder}"))
            }
            _ => Ok(()),
        }
    }

    fn end_delivery(&mut self, id: DeliveryId) -> Result<(), Broken> {
        self.facts(id)?.phase = Phase::Ended;
        if !self.open.remove(&id) {
            return Err(format!("settled_exactly_once: {id} ended again"));
        }
        Ok(())
    }

    /// Puts a delivery whose attempt failed back into its lane.
    pub(crate) fn waits_again(&mut self, id: DeliveryId, not_before: Timestamp) -> Result<(), Broken> {
        let facts = self.facts(id)?;
        facts.phase = Phase::Waiting;
        facts.not_before = not_before;
        self.enter_lane(id)
    }

    /// The facts of a delivery, to be changed.
    pub(crate) fn facts_mut(&mut self, id: DeliveryId) -> Result<&mut Facts, Broken> {
        self.facts(id)
    }
}

fn delivery_of(record: &Record) -> Option<DeliveryId> {
    match record {
        Record::DeliveryLeased(record) => Some(record.delivery),
        Record::AttemptEnded(record) => Some(record.delivery),
        Record::DeliverySettled(record) => Some(record.delivery),
        Record::DeliveryCancelled(record) => Some(record.delivery),
        Record::CancelRequested(record) => Some(record.delivery),
        Record::DeliveryParked(record) => Some(record.delivery),
        Record::DeliveryRedriven(record) => Some(record.delivery),
        Record::ResultRefused(record) => Some(record.delivery),
        Record::LeaseExtended(record) => Some(record.delivery),
        Record::EpochStarted(_)
        | Record::EventAccepted(_)
        | Record::ClusterRegistered(_)
        | Record::GeneralRegistered(_)
        | Record::GeneralRemoved(_)
        | Record::HoldChanged(_)
        | Record::RoutesApplied(_)
        | Record::RouteAsked(_)
        | Record::PayloadCarried(_)
        | Record::PrefixDropped(_)
        | Record::JournalTruncated(_)
        | Record::UpgradeFinalized(_)
        | Record::BudgetSet(_)
        | Record::BudgetRemoved(_)
        | Record::BudgetAcknowledged(_)
        | Record::BudgetCrossed(_)
        | Record::Access(_)
        | Record::PayloadsRedacted(_)
        | Record::EffectIntended(_)
        | Record::EffectDeferred(_)
        | Record::EffectEnded(_)
        | Record::EffectRevived(_)
        | Record::Object(_) => None,
    }
}
