//! What strategies and policies promise, judged by the ledger: races, shadows, debounce, split, time to live.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use mindos_core::record::{
    CancelReason, ClusterRegistered, DeliveryCancelled, DeliveryLeased, DeliveryParked, EventAccepted, PlannedDelivery,
    Terms,
};
use mindos_core::route::{Coalesce, Route};
use mindos_model::{
    ClusterName, DeliveryId, GeneralName, ParkReason, Region, RouteName, Seq, Strategy, Timestamp, Token,
};

use crate::coverage::Phase;
use crate::ledger::{Broken, Facts, Ledger, Queue};

/// Queue, lane and kind of what is debounced together.
type Burst = (Queue, Arc<str>, Arc<str>);

/// What is kept for that.
#[derive(Debug, Default)]
pub struct Policies {
    /// Who won, of the races.
    races: HashMap<Seq, Option<DeliveryId>>,
    /// The last event of a debounced lane that began, and when.
    starts: HashMap<Burst, (Seq, Timestamp)>,
    /// Deliveries that took the place of one in another queue.
    taken_over: HashSet<DeliveryId>,
    /// Clusters as they were registered last.
    pub(crate) clusters: HashMap<ClusterName, ClusterRegistered>,
    /// Where lanes of split routes went, by what the routes said.
    arms: HashMap<(RouteName, String, Arc<str>), GeneralName>,
}

/// What an event says of its deliveries.
#[derive(Clone, Debug)]
pub struct Plan {
    pub terms: Terms,
    kind: Arc<str>,
    /// The least time between two starts, under debounce.
    quiet: Option<Duration>,
    pub replay: bool,
}

impl Plan {
    pub(crate) fn new(record: &EventAccepted, planned: &PlannedDelivery, route: Option<&Route>) -> Plan {
        let terms = planned.terms.as_deref().copied().unwrap_or_default();
        let quiet = route.and_then(|route| match route.coalesce {
            Coalesce::Debounce { quiet, .. } if terms.burst_since > Timestamp(0) => Some(quiet),
            _ => None,
        });
        Plan { terms, kind: record.kind.clone(), quiet, replay: record.replay().is_some() }
    }
}

impl Ledger {
    pub(crate) fn policies_of_event(&mut self, seq: Seq, record: &EventAccepted) -> Result<(), Broken> {
        if record.strategy == Some(Strategy::Race) {
            self.policies.races.insert(seq, None);
        }
        let shadows = record.deliveries.iter().filter(|one| one.terms.as_deref().is_some_and(|terms| terms.shadow));
        let shadows = shadows.count();
        if record.replay().is_some() && (shadows != 1 || record.deliveries.len() != 1) {
            return Err(format!("a_replay_is_one_shadow: event {seq}"));
        }
        if shadows > usize::from(record.strategy == Some(Strategy::Shadow)) {
            return Err(format!("one_shadow_at_most: event {seq} under {:?}", record.strategy));
        }
        let parks = |one: &PlannedDelivery| {
            let shadow = one.terms.as_deref().is_some_and(|terms| terms.shadow);
            shadow && one.parked.is_some_and(|reason| reason != ParkReason::Delayed)
        };
        if record.deliveries.iter().any(parks) {
            return Err(format!("a_shadow_is_never_parked: of event {seq}"));
        }
        Ok(())
    }

    pub(crate) fn policies_of_lease(
        &mut self,
        at: Timestamp,
        facts: &Facts,
        before: Token,
        record: &DeliveryLeased,
    ) -> Result<(), Broken> {
        let id = record.delivery;
        let Plan { terms, kind, quiet, replay: _ } = &facts.plan;
        if terms.expires > Timestamp(0) && at >= terms.expires && at > self.clock_moved {
            return Err(format!("what_has_expired_is_not_begun: {id} at {at}, expired at {}", terms.expires));
        }
        let is_first = before == Token::default() && facts.place == id.event;
        if let Some(quiet) = quiet.filter(|_| is_first) {
            let key = (facts.queue.clone(), facts.lane.clone(), kind.clone());
            let last = self.policies.starts.insert(key, (id.event, at));
            // A burst that came over from another general's queue, in whose stead this one works, may be older than what began here.
            let is_older = |at: Timestamp| self.policies.taken_over.contains(&id) && terms.burst_since < at;
            let other = last.filter(|(event, last)| *event != id.event && *last > self.clock_moved && !is_older(*last));
            if other.is_some_and(|(_, last)| at < last + quiet) {
                return Err(format!("debounced_starts_are_apart: {id} at {at}, the one before at {other:?}"));
            }
        }
        let route = self.events.get(&id.event).and_then(|event| event.route.clone());
        let route = route.and_then(|name| self.routes.get(&name));
        if let Some(route) = route.filter(|_| !facts.plan.replay) {
            let cluster = self.policies.clusters.get(&record.general.cluster);
            let region = cluster.and_then(|cluster| cluster.region.as_ref());
            let require = route.policy.affinity.as_deref().map(|affinity| &affinity.require);
            let is_one_of = |regions: &[Region]| regions.is_empty() || region.is_some_and(|one| regions.contains(one));
            let is_there = require.is_none_or(|place| {
                let (clusters, name) = (&place.clusters, &record.general.cluster);
                (clusters.is_empty() || clusters.contains(name)) && is_one_of(&place.regions)
            });
            if !is_there || !is_one_of(&route.policy.residency) {
                return Err(format!("who_is_kept_out_gets_nothing: {id} went to {} in {region:?}", record.general));
            }
            let told =
                self.told.get(&(record.instance.clone(), record.general.clone())).and_then(|told| told.at(self.end));
            let lacks = |label: &&(Arc<str>, Arc<str>)| {
                !cluster.is_some_and(|cluster| cluster.labels.contains(label))
                    && !told.as_ref().is_some_and(|told| told.contains(label))
            };
            let labels = require.map(|place| &place.labels[..]).unwrap_or_default();
            if let Some((key, value)) = labels.iter().find(lacks) {
                return Err(format!(
                    "labels_are_required: {id} went to {}, which lacks {key}={value}",
                    record.instance
                ));
            }
        }
        if let (Queue::Route(name), Some(route)) = (&facts.queue, route)
            && route.strategy == Strategy::Split
            && record.degraded.is_none()
        {
            let arms = format!("{:?}", route.targets.weights);
            let key = (name.clone(), arms, facts.lane.clone());
            let known = self.policies.arms.entry(key).or_insert_with(|| record.general.name.clone());
            if *known != record.general.name {
                return Err(format!("a_lane_keeps_its_arm: {id} went to {}, {known} before", record.general));
            }
        }
        Ok(())
    }

    pub(crate) fn policies_of_success(&mut self, id: DeliveryId) -> Result<(), Broken> {
        match self.policies.races.get_mut(&id.event) {
            Some(Some(winner)) => Err(format!("a_race_has_one_winner: {winner} and {id}")),
            Some(winner) => {
                *winner = Some(id);
                Ok(())
            }
            None => Ok(()),
        }
    }

    pub(crate) fn policies_of_cancel(
        &mut self,
        at: Timestamp,
        phase: Phase,
        record: &DeliveryCancelled,
    ) -> Result<(), Broken> {
        let id = record.delivery;
        let Some(facts) = self.deliveries.get(&id) else { return Ok(()) };
        let terms = facts.plan.terms;
        match record.reason {
            CancelReason::RaceLost { by } => match self.policies.races.get(&id.event) {
                Some(Some(winner)) if *winner == by && by != id => Ok(()),
                winner => Err(format!("races_are_lost_to_their_winner: {id} to {by}, won by {winner:?}")),
            },
            CancelReason::Expired => {
                let waits = matches!(
                    phase,
                    Phase::Waiting
                        | Phase::Parked(ParkReason::BacklogFull | ParkReason::Delayed | ParkReason::OverBudget)
                );
                if waits && terms.expires > Timestamp(0) && at >= terms.expires {
                    return Ok(());
                }
                Err(format!("only_what_waits_too_long_expires: {id} {phase:?} at {at}, expires {}", terms.expires))
            }
            CancelReason::Superseded { by } => {
                if self.deliveries.get(&by).is_some_and(|other| other.queue != facts.queue) {
                    self.policies.taken_over.insert(by);
                }
                Ok(())
            }
            CancelReason::ShadowFailed if !terms.shadow || facts.plan.replay => {
                Err(format!("what_counts_is_not_dropped: {id} ended as a shadow"))
            }
            CancelReason::ReplayFailed | CancelReason::ReplayOverBudget if !facts.plan.replay => {
                Err(format!("what_counts_is_not_dropped: {id} ended as a replay"))
            }
            CancelReason::ReplayFailed
            | CancelReason::ReplayOverBudget
            | CancelReason::ShadowFailed
            | CancelReason::Redacted
            | CancelReason::Requested => Ok(()),
        }
    }

    /// A shadow concerns nobody. A replay waits for its budget where that begins anew.
    pub(crate) fn parks(&self, record: &DeliveryParked) -> Result<(), Broken> {
        let id = record.delivery;
        let waits_for_reset = record.over.as_deref().is_some_and(|over| over.resets.is_some());
        match self.deliveries.get(&id) {
            Some(facts) if facts.plan.replay && waits_for_reset => Ok(()),
            Some(facts) if facts.plan.terms.shadow => Err(format!("a_shadow_is_never_parked: {id}")),
            _ => Ok(()),
        }
    }
}
