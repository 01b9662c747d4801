//! Lanes set aside: under the strategies that want one general, or one arm, for a lane, those whose general has no free slot.
//!
//! Without this a lane whose general is busy would stand in the way of all behind it, or be tried again and again. A lane leaves the
//! turn, and is called back when a slot comes free where it wants to go: one lane for a slot. Who is next follows from tags, as in
//! start-time fair queueing: each lane is tagged behind the last one of its flow and class, by what its class costs, and never before
//! what was served already. So a flow with a thousand lanes gets its turns, and one that comes with a single lane waits for one of those.
//!
//! Invariant: while a general has a free slot and lanes are set aside for it, one of those stands in turn, or the queue is to be
//! rechecked. Follows from what is only observed, so it is not recorded; after a start every lane stands in turn.

use std::collections::BTreeMap;

use mindos_model::{DeliveryId, Priority, Strategy};

use crate::durable::Durable;
use crate::fair::{FlowIdx, cost};
use crate::queue::{LaneIdx, QueueId};
use crate::registry::GeneralIdx;
use crate::routing::RouteIdx;
use crate::soft::Soft;
use crate::weights::Weights;

/// What a lane waits for: under `sticky` a general, under `split` an arm.
pub(crate) type Wanted = u32;

/// Marks what lanes of an arm wait for while some of its generals give way to cheaper ones.
pub(crate) const GIVING_WAY: Wanted = 1 << 31;

/// Flows remembered for one general beyond those that have lanes here.
const FLOWS_SPARE: usize = 64;

/// What the cheapest delivery of a flow without a weight moves the tag by: enough to be divided by every weight.
const TAG: u64 = 10_000;

/// Place of a lane among those that wait for the same: the tag, and of equal ones the order in which they came.
type Place = (Wanted, u64, u64);

/// Bounded by the lanes of the queue: each stands here once at most.
#[derive(Clone, Debug, Default)]
pub(crate) struct Aside {
    waiting: BTreeMap<Place, LaneIdx>,
    lanes: BTreeMap<LaneIdx, Place>,
    lines: BTreeMap<Wanted, Line>,
    count: u64,
    /// A lane that was called may have lost its work before its turn.
    recheck: bool,
}

/// What has passed among those that wait for the same.
#[derive(Clone, Debug, Default)]
struct Line {
    /// Tag of the last one that was served.
    passed: u64,
    /// Tag of the last lane of each flow and class.
    flows: BTreeMap<(FlowIdx, Priority), u64>,
}

impl Line {
    fn tag(&mut self, flow: FlowIdx, (priority, weight): (Priority, u32), lanes: usize) -> u64 {
        let passed = self.passed;
        if self.flows.len() > lanes + FLOWS_SPARE {
            self.flows.retain(|_, last| *last > passed);
        }
        let last = self.flows.entry((flow, priority)).or_default();
        *last = passed.max(*last) + cost(priority) * TAG / u64::from(weight);
        *last
    }
}

impl Aside {
    pub(crate) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// Who is next.
    pub(crate) fn first(&self, wanted: Wanted) -> Option<LaneIdx> {
        self.waiting_for(wanted).next()
    }

    fn waiting_for(&self, wanted: Wanted) -> impl Iterator<Item = LaneIdx> + '_ {
        self.waiting.range((wanted, 0, 0)..=(wanted, u64::MAX, u64::MAX)).map(|(_, lane)| *lane)
    }

    /// Sets a lane aside, at its old place if it has one. Returns what it waited for before, if that was something else.
    fn insert(&mut self, lane: LaneIdx, wanted: Wanted, flow: FlowIdx, share: (Priority, u32)) -> Option<Wanted> {
        let before = self.lanes.get(&lane).map(|(before, ..)| *before);
        if before == Some(wanted) {
            return None;
        }
        self.remove(lane);
        self.count += 1;
        let tag = self.lines.entry(wanted).or_default().tag(flow, share, self.lanes.len());
        self.waiting.insert((wanted, tag, self.count), lane);
        self.lanes.insert(lane, (wanted, tag, self.count));
        before
    }

    /// Takes a lane out that has no work, or waits for something else. Returns what it waited for.
    fn remove(&mut self, lane: LaneIdx) -> Option<Wanted> {
        let place = self.lanes.remove(&lane)?;
        self.waiting.remove(&place);
        let (wanted, ..) = place;
        if self.first(wanted).is_none() {
            self.lines.remove(&wanted);
        }
        Some(wanted)
    }

    /// Takes a lane out that got a slot. Returns what it waited for.
    fn served(&mut self, lane: LaneIdx) -> Option<Wanted> {
        let (wanted, tag, _) = *self.lanes.get(&lane)?;
        if let Some(line) = self.lines.get_mut(&wanted) {
            line.passed = line.passed.max(tag);
        }
        self.remove(lane)
    }
}

impl Durable {
    /// Takes the lane in front out of the turn. `behind` says that there is a slot, and others are before it.
    pub(crate) fn set_aside(&mut self, queue: QueueId, wanted: Wanted, behind: bool, weights: &Weights) {
        let (QueueId::Route(route), Some(lane)) = (queue, self.queue_mut(queue).next()) else { return };
        let weight = weights.of_flow(self.queue(queue).flow_of(lane).map(AsRef::as_ref));
        self.queue_mut(queue).turn(false);
        let flow = self.queue(queue).flow(lane);
        let event = self.queue(queue).lane(lane).entries.front().and_then(|id| self.events.get(id.event));
        let priority = event.map_or(Priority::Normal, |event| event.priority);
        let before = self.routing.rule_mut(route).aside.insert(lane, wanted, flow, (priority, weight));
        if let Some(before) = before {
            self.call(route, before);
        }
        if behind {
            self.call(route, wanted);
        }
    }

    /// A delivery was leased from the queue: its lane waits no more, and the next one may find a slot too.
    pub(crate) fn placed(&mut self, queue: QueueId, id: DeliveryId) {
        let QueueId::Route(route) = queue else { return };
        if self.routing.rule(route).aside.is_empty() {
            return;
        }
        let Some((_, delivery)) = self.events.delivery(id) else { return };
        let (lane, general) = (delivery.lane, delivery.lease().map(|lease| lease.general));
        let waited = self.routing.rule_mut(route).aside.served(lane);
        let wanted = general.and_then(|general| self.wanted(route, general));
        for wanted in [waited, wanted.filter(|wanted| Some(*wanted) != waited)].into_iter().flatten() {
            self.call_each(route, wanted);
        }
    }

    /// A general may take work: whoever is next for it gets its turn.
    pub(crate) fn call_for(&mut self, general: GeneralIdx) {
        let Some(known) = self.registry.get(general) else { return };
        let waits = |route: &RouteIdx| !self.routing.rule(*route).aside.is_empty();
        let routes: Vec<_> = known.routes.iter().copied().filter(waits).collect();
        for route in routes {
            if let Some(wanted) = self.wanted(route, general) {
                self.call_each(route, wanted);
            }
        }
    }

    /// Generals came or went: lanes may want to go elsewhere.
    pub(crate) fn release_for(&mut self, general: GeneralIdx) {
        let routes = self.registry.get(general).map(|known| known.routes.clone()).unwrap_or_default();
        let stands_in = self.registry.get(general).map(|known| known.stands_in.clone()).unwrap_or_default();
        routes.into_iter().chain(stands_in).for_each(|route| self.release_aside(route));
    }

    pub(crate) fn release_all_aside(&mut self) {
        let waits = self.routing.iter().filter(|(_, rule)| !rule.aside.is_empty()).map(|(idx, _)| idx);
        waits.collect::<Vec<_>>().into_iter().for_each(|route| self.release_aside(route));
    }

    /// A waiting delivery left the queue without a lease.
    pub(crate) fn left_aside(&mut self, queue: QueueId) {
        if let QueueId::Route(route) = queue {
            let aside = &mut self.routing.rule_mut(route).aside;
            aside.recheck |= !aside.is_empty();
        }
    }

    /// Calls for every slot that nobody was called for. Says whether there is something to look at.
    pub(crate) fn recall(&mut self, queue: QueueId, soft: &Soft) -> bool {
        let QueueId::Route(route) = queue else { return false };
        if !std::mem::take(&mut self.routing.rule_mut(route).aside.recheck) {
            return false;
        }
        let free: Vec<_> = soft.free_of(route).into_iter().flatten().copied().collect();
        for general in free {
            if let Some(wanted) = self.wanted(route, general) {
                self.call_each(route, wanted);
            }
        }
        self.queue(queue).ready() > 0
    }

    pub(crate) fn is_aside(&self, queue: QueueId, lane: LaneIdx) -> bool {
        matches!(queue, QueueId::Route(route) if self.routing.rule(route).aside.lanes.contains_key(&lane))
    }

    /// Lanes that wait although a slot is free for them: there are none once the plane has done what is due.
    pub(crate) fn check_aside(&self, soft: &Soft) -> Result<(), String> {
        for (route, rule) in self.routing.iter() {
            for general in self.fitting_of(route, soft).iter().flat_map(|free| free.iter()) {
                let Some(wanted) = self.wanted(route, *general) else { continue };
                let mut lanes = rule.aside.waiting_for(wanted);
                let stuck = lanes.find(|lane| self.first_eligible(QueueId::Route(route), *lane).is_some());
                if let Some(lane) = stuck {
                    let name = &rule.route.name;
                    return Err(format!("general {} of {name} has a slot, and {lane:?} waits for it", general.0));
                }
            }
        }
        Ok(())
    }

    /// Gives those that are next their turns, whatever they wait for.
    pub(crate) fn call_all(&mut self, route: RouteIdx) {
        let wanted: Vec<_> = self.routing.rule(route).aside.lines.keys().copied().collect();
        wanted.into_iter().for_each(|wanted| self.call(route, wanted));
    }

    fn wanted(&self, route: RouteIdx, general: GeneralIdx) -> Option<Wanted> {
        let rule = self.routing.rule(route);
        match rule.route.strategy {
            Strategy::Sticky => Some(general.0),
            Strategy::Split => rule.ranks.of(general),
            Strategy::Broadcast
            | Strategy::RoundRobin
            | Strategy::LoadBalanced
            | Strategy::Failover
            | Strategy::Race
            | Strategy::Shadow => None,
        }
    }

    /// As [`Durable::call`], for those too whose arm gives way to others.
    fn call_each(&mut self, route: RouteIdx, wanted: Wanted) {
        self.call(route, wanted);
        if self.routing.rule(route).cheaper.is_some() {
            self.call(route, wanted | GIVING_WAY);
        }
    }

    /// Gives the lane that is next its turn. It keeps its place until it has a lease.
    fn call(&mut self, route: RouteIdx, wanted: Wanted) {
        let queue = QueueId::Route(route);
        while let Some(lane) = self.routing.rule(route).aside.first(wanted) {
            if self.first_eligible(queue, lane).is_some() {
                self.touch(queue, lane);
                return;
            }
            self.routing.rule_mut(route).aside.remove(lane);
        }
    }

    pub(crate) fn release_aside(&mut self, route: RouteIdx) {
        let aside = std::mem::take(&mut self.routing.rule_mut(route).aside);
        for lane in aside.waiting.into_values() {
            self.touch(QueueId::Route(route), lane);
        }
    }
}
