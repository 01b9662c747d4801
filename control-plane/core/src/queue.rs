//! Queues: the deliveries that wait for one general, or for one of a route's, lane by lane.
//!
//! Work of one lane keeps its order: only the deliveries of the lane's oldest event may be leased. A lane whose oldest
//! event has a delivery that may be leased stands once in `turns`, in the class of that event's priority.
//!
//! Invariants: a lane stands in `turns` if and only if it is marked `queued`; a lane that could give out work is queued.

use std::collections::VecDeque;
use std::sync::Arc;

use foldhash::quality::FixedState;
use hashbrown::HashMap;
use mindos_model::{DeliveryId, Priority, Seq};

use crate::fair::{FlowIdx, Turns};
use crate::overflow::Overflow;
use crate::registry::GeneralIdx;
use crate::routing::RouteIdx;
use crate::weights::Weights;

/// Names a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum QueueId {
    /// Under broadcast: what waits for this general alone.
    General(GeneralIdx),
    /// Under the strategies that choose: what waits for any general of the route.
    Route(RouteIdx),
    /// Shadows of the route's deliveries, which must not stand in their way.
    Shadow(RouteIdx),
}

/// Place of a lane in its queue; given to another lane once this one is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LaneIdx(pub(crate) u32);

impl LaneIdx {
    /// Of a delivery that never stood in a lane.
    pub(crate) const NONE: LaneIdx = LaneIdx(u32::MAX);
}

/// Lanes that may wait for their turn before anybody looks whether they have work.
const READY_MIN: usize = 64;
/// How many times what is free in a queue one flow may take.
const SHARE: u32 = 4;
/// Entries that an empty lane keeps room for.
const SPARE_MAX: usize = 4;

#[derive(Clone, Debug)]
pub(crate) struct Queue {
    // Hashed, because each delivery passes here; nobody iterates it. Names come from outside, so the hasher is seeded by
    // the shell.
    by_name: HashMap<Arc<str>, LaneIdx, FixedState>,
    lanes: Vec<Lane>,
    vacant: Vec<LaneIdx>,
    turns: Turns,
    /// Lanes in turn at which those without work are taken out.
    ready_max: usize,
    /// Whether the queue stands in the agenda.
    pub(crate) dirty: bool,
    /// The turn of the agenda in which it gave out work last.
    pub(crate) served: u64,
    /// Deliveries that wait in the lanes.
    pub(crate) waiting: u32,
    /// Those of them that the order of their lanes lets begin.
    pub(crate) startable: u32,
    /// Parked as `backlog_full`.
    pub(crate) overflow: Overflow,
}

/// The deliveries of one lane that wait or are leased, oldest first.
#[derive(Clone, Debug)]
pub(crate) struct Lane {
    name: Arc<str>,
    pub(crate) entries: VecDeque<DeliveryId>,
    /// How many of them are at the head, kept so that nobody counts them again.
    at_head: u32,
    pub(crate) waiting: u32,
    /// Its deliveries in the queue's overflow.
    pub(crate) overflow: u32,
    flow: FlowIdx,
    queued: bool,
}

impl Lane {
    /// The deliveries of the oldest event: those that order allows to run.
    pub(crate) fn head(&self) -> impl Iterator<Item = DeliveryId> + '_ {
        let event = self.entries.front().map(|id| id.event);
        self.entries.iter().copied().take_while(move |id| Some(id.event) == event)
    }

    /// Waiting deliveries that order lets begin. Leased ones are all at the head.
    fn startable(&self) -> u32 {
        let leased = self.entries.len() - self.waiting as usize;
        (self.at_head as usize).saturating_sub(leased) as u32
    }

    fn push(&mut self, delivery: DeliveryId) {
        let is_all_head = self.at_head as usize == self.entries.len();
        let is_of_head = self.entries.front().is_none_or(|front| front.event == delivery.event);
        self.at_head += u32::from(is_all_head && is_of_head);
        self.entries.push_back(delivery);
    }

    /// Whether it was there.
    fn take(&mut self, delivery: DeliveryId) -> bool {
        // The deliveries that end are those of the lane's head, but for cancelled and parked ones.
        let Some(at) = self.entries.iter().position(|id| *id == delivery) else { return false };
        self.entries.remove(at);
        match self.at_head {
            // What stood between may have parted those of one event.
            head if at as u32 >= head => {
                if at as u32 == head {
                    self.count_head();
                }
            }
            1 => self.count_head(),
            _ => self.at_head -= 1,
        }
        true
    }

    /// Each is counted once as the head comes to it.
    fn count_head(&mut self) {
        self.at_head = u32::try_from(self.head().count()).unwrap_or(u32::MAX);
    }

    /// Whether another event waits behind the oldest one.
    pub(crate) fn has_follower(&self) -> bool {
        match (self.entries.front(), self.entries.back()) {
            (Some(front), Some(back)) => front.event != back.event,
            _ => false,
        }
    }
}

impl Queue {
    pub(crate) fn new(hasher: FixedState) -> Queue {
        Queue {
            by_name: HashMap::with_hasher(hasher.clone()),
            lanes: Vec::new(),
            vacant: Vec::new(),
            turns: Turns::new(hasher),
            ready_max: READY_MIN,
            dirty: false,
            served: 0,
            waiting: 0,
            startable: 0,
            overflow: Overflow::default(),
        }
    }

    pub(crate) fn lane(&self, idx: LaneIdx) -> &Lane {
        &self.lanes[idx.0 as usize]
    }

    pub(crate) fn lane_named(&self, name: &str) -> Option<&Lane> {
        self.by_name.get(name).map(|idx| self.lane(*idx))
    }

    pub(crate) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Puts a waiting delivery at the lane's tail. Says whether it is at the lane's head. A lane belongs to the flow of the event
    /// that began it.
    pub(crate) fn push(&mut self, name: &Arc<str>, flow: &Arc<str>, delivery: DeliveryId) -> (LaneIdx, bool) {
        self.waiting += 1;
        let idx = self.lane_for(name, flow);
        self.changed(idx, |lane| {
            lane.waiting += 1;
            lane.push(delivery);
        });
        let lane = self.lane(idx);
        let (flow, is_head) = (lane.flow, lane.entries.front().is_some_and(|front| front.event == delivery.event));
        self.turns.waits(flow);
        (idx, is_head)
    }

    fn lane_for(&mut self, name: &Arc<str>, flow: &Arc<str>) -> LaneIdx {
        if let Some(idx) = self.by_name.get(name.as_ref()) {
            return *idx;
        }
        let flow = self.turns.join(flow);
        let idx = match self.vacant.pop() {
            Some(idx) => {
                let lane = &mut self.lanes[idx.0 as usize];
                lane.name = name.clone();
                lane.flow = flow;
                idx
            }
            None => {
                let idx = LaneIdx(u32::try_from(self.lanes.len()).expect("open deliveries are bounded far below"));
                // Most lanes hold one delivery.
                let entries = VecDeque::with_capacity(1);
                self.lanes.push(Lane {
                    name: name.clone(),
                    entries,
                    at_head: 0,
                    waiting: 0,
                    overflow: 0,
                    flow,
                    queued: false,
                });
                idx
            }
        };
        self.by_name.insert(name.clone(), idx);
        idx
    }

    /// A waiting delivery of the lane was leased.
    pub(crate) fn leased(&mut self, lane: LaneIdx) {
        self.waiting -= 1;
        self.changed(lane, |lane| lane.waiting -= 1);
        self.turns.waits_not(self.lane(lane).flow);
    }

    /// A leased delivery of the lane waits again.
    pub(crate) fn unleased(&mut self, lane: LaneIdx) {
        self.waiting += 1;
        self.changed(lane, |lane| lane.waiting += 1);
        self.turns.waits(self.lane(lane).flow);
    }

    /// Takes a delivery out of its lane.
    pub(crate) fn remove(&mut self, idx: LaneIdx, delivery: DeliveryId, was_waiting: bool) {
        self.waiting -= u32::from(was_waiting);
        self.changed(idx, |lane| {
            assert!(lane.take(delivery), "delivery {delivery} is not in its lane");
            lane.waiting -= u32::from(was_waiting);
        });
        if was_waiting {
            self.turns.waits_not(self.lane(idx).flow);
        }
        self.drop_if_empty(idx);
    }

    /// Changes a lane, and counts again what of it may begin.
    fn changed(&mut self, idx: LaneIdx, change: impl FnOnce(&mut Lane)) {
        let lane = &mut self.lanes[idx.0 as usize];
        let before = lane.startable();
        change(lane);
        self.startable = self.startable - before + lane.startable();
    }

    pub(crate) fn overflow_in(
        &mut self,
        name: &Arc<str>,
        flow: &Arc<str>,
        place: Seq,
        delivery: DeliveryId,
    ) -> LaneIdx {
        self.overflow.insert(name, place, delivery);
        let idx = self.lane_for(name, flow);
        self.lane_mut(idx).overflow += 1;
        idx
    }

    pub(crate) fn overflow_out(&mut self, idx: LaneIdx, place: Seq, delivery: DeliveryId) {
        let name = self.lane(idx).name.clone();
        let there = self.overflow.remove(&name, place, delivery);
        assert!(there, "delivery {delivery} is not in the overflow");
        self.lane_mut(idx).overflow -= 1;
        self.drop_if_empty(idx);
    }

    /// Has the lane wait for its turn, unless it does already. `priority` is that of its oldest event.
    pub(crate) fn enqueue(&mut self, idx: LaneIdx, priority: Priority) {
        let lane = self.lane_mut(idx);
        if !std::mem::replace(&mut lane.queued, true) {
            let flow = lane.flow;
            self.turns.push(idx, flow, priority);
            if self.turns.len() > self.ready_max {
                self.tidy();
            }
        }
    }

    /// Takes lanes without work out of turn. Who only folds, such as a follower, gives no lane its turn.
    fn tidy(&mut self) {
        let lanes = &self.lanes;
        for idx in self.turns.tidy(|idx| lanes[idx.0 as usize].entries.is_empty()) {
            self.lane_mut(idx).queued = false;
            self.drop_if_empty(idx);
        }
        self.ready_max = (2 * self.turns.len()).max(READY_MIN);
    }

    /// The lane whose turn it is.
    pub(crate) fn next(&mut self) -> Option<LaneIdx> {
        self.turns.front()
    }

    pub(crate) fn ready(&self) -> usize {
        self.turns.len()
    }

    /// Ends the turn of the lane in front without work given out: it is out, or with `again` stands aside until the queue's turn
    /// is over, so that others are asked.
    pub(crate) fn turn(&mut self, again: bool) {
        if again {
            self.turns.set_aside();
        } else if let Some(idx) = self.turns.drop_front() {
            self.lane_mut(idx).queued = false;
            self.drop_if_empty(idx);
        }
    }

    /// Ends the turn of the lane in front, which gave out a delivery. One that has no more is out.
    pub(crate) fn gave(&mut self, has_more: bool, weights: &Weights) {
        let front = self.turns.front().filter(|_| !has_more);
        let weight = match self.turns.front() {
            Some(idx) => weights.of_flow(self.flow_of(idx).map(AsRef::as_ref)),
            None => 1,
        };
        self.turns.gave(has_more, weight);
        if let Some(idx) = front {
            self.lane_mut(idx).queued = false;
            self.drop_if_empty(idx);
        }
    }

    /// The queue's turn is over: lanes that stood aside wait again.
    pub(crate) fn put_back(&mut self) {
        self.turns.put_back();
    }

    pub(crate) fn flow(&self, idx: LaneIdx) -> FlowIdx {
        self.lane(idx).flow
    }

    /// Whether a queue that may hold `max` has no room for one more of this flow, once `leaving` of it are gone.
    ///
    /// A flow takes at most [`SHARE`] times what is left free: one alone fills four fifths, and of what remains the next one does.
    pub(crate) fn is_full_for(&self, flow: &str, leaving: u32, max: u32) -> bool {
        let waiting = self.waiting.saturating_sub(leaving);
        let free = max.saturating_sub(waiting);
        // Mostly a queue is far from full, and nobody asks whose it is.
        let has_room =
            waiting < max / 2 || self.turns.waiting(flow).saturating_sub(leaving) < free.saturating_mul(SHARE);
        free == 0 || !has_room
    }

    /// How many more of those parked for want of room come back: an eighth is left to new ones.
    pub(crate) fn room_for_overflow(&self, max: u32) -> u32 {
        (max - max / 8).saturating_sub(self.waiting)
    }

    /// How many deliveries wait in the flow of a lane.
    pub(crate) fn waiting_in_flow_of(&self, idx: LaneIdx) -> u32 {
        self.turns.waiting_in(self.lane(idx).flow)
    }

    /// The name of the lane's flow, one text for all of its lanes.
    pub(crate) fn flow_of(&self, idx: LaneIdx) -> Option<&Arc<str>> {
        self.turns.name(self.lane(idx).flow)
    }

    /// All lanes by name, in no order.
    pub(crate) fn scan(&self) -> impl Iterator<Item = (&Arc<str>, LaneIdx)> {
        self.by_name.iter().map(|(name, idx)| (name, *idx))
    }

    /// The lanes that wait for their turn.
    pub(crate) fn in_turn(&self) -> impl Iterator<Item = LaneIdx> {
        self.turns.iter()
    }

    /// As [`Turns::check`].
    pub(crate) fn check_turns(&self) -> Result<(), String> {
        self.turns.check()
    }

    pub(crate) fn is_queued(&self, idx: LaneIdx) -> bool {
        self.lane(idx).queued
    }

    fn lane_mut(&mut self, idx: LaneIdx) -> &mut Lane {
        &mut self.lanes[idx.0 as usize]
    }

    fn drop_if_empty(&mut self, idx: LaneIdx) {
        let lane = self.lane_mut(idx);
        // A lane that waits for its turn goes when that comes, so that it cannot wait twice.
        if lane.entries.is_empty() && lane.overflow == 0 && !lane.queued {
            lane.entries.shrink_to(SPARE_MAX);
            let name = std::mem::take(&mut lane.name);
            let flow = lane.flow;
            self.by_name.remove(&name);
            self.vacant.push(idx);
            self.turns.leave(flow);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(event: u64, ordinal: u32) -> DeliveryId {
        DeliveryId::new(Seq(event), ordinal)
    }

    fn flow() -> Arc<str> {
        "o/r".into()
    }

    #[test]
    fn only_the_oldest_events_deliveries_are_at_the_head() {
        let mut queue = Queue::new(FixedState::default());
        let lane: Arc<str> = "l".into();
        let [idx, ..] = [id(1, 1), id(1, 2), id(2, 1)].map(|delivery| queue.push(&lane, &flow(), delivery).0);

        assert_eq!(queue.lane(idx).head().collect::<Vec<_>>(), [id(1, 1), id(1, 2)]);
        queue.remove(idx, id(1, 2), true);
        queue.remove(idx, id(1, 1), true);
        assert_eq!(queue.lane(idx).head().collect::<Vec<_>>(), [id(2, 1)]);
    }

    #[test]
    fn only_what_the_order_of_lanes_lets_begin_counts_as_startable() {
        let mut queue = Queue::new(FixedState::default());
        let (one, two): (Arc<str>, Arc<str>) = ("1".into(), "2".into());
        let [first, ..] = [id(1, 1), id(2, 1), id(3, 1)].map(|delivery| queue.push(&one, &flow(), delivery).0);
        let [race, ..] = [id(4, 1), id(4, 2)].map(|delivery| queue.push(&two, &flow(), delivery).0);
        assert_eq!((queue.waiting, queue.startable), (5, 3));

        queue.leased(first);
        queue.leased(race);
        assert_eq!((queue.waiting, queue.startable), (3, 1), "what stands behind a leased one may not begin");
        queue.remove(first, id(1, 1), false);
        assert_eq!(queue.startable, 2, "the next one of the lane may");
        queue.unleased(race);
        queue.remove(race, id(4, 1), true);
        queue.remove(race, id(4, 2), true);
        queue.remove(first, id(3, 1), true);
        assert_eq!((queue.waiting, queue.startable), (1, 1));
        queue.remove(first, id(2, 1), true);
        assert_eq!((queue.waiting, queue.startable), (0, 0));
    }

    #[test]
    fn what_is_at_the_head_is_counted_as_it_changes() {
        let mut queue = Queue::new(FixedState::default());
        let lane: Arc<str> = "l".into();
        // The first event comes again behind the second, as a redrive does.
        let all = [id(1, 1), id(1, 2), id(2, 1), id(1, 3), id(3, 1), id(3, 2)];
        let [idx, ..] = all.map(|delivery| queue.push(&lane, &flow(), delivery).0);
        assert_eq!(queue.startable, 2);
        queue.remove(idx, id(2, 1), true);
        assert_eq!(queue.startable, 3, "nothing parts them any more");
        queue.remove(idx, id(3, 2), true);
        queue.remove(idx, id(1, 2), true);
        assert_eq!(queue.startable, 2);
        queue.remove(idx, id(1, 1), true);
        queue.remove(idx, id(1, 3), true);
        assert_eq!(queue.startable, 1, "the next event is at the head");
        queue.push(&lane, &flow(), id(3, 3));
        assert_eq!(queue.startable, 2);
        queue.remove(idx, id(3, 1), true);
        queue.remove(idx, id(3, 3), true);
        assert_eq!((queue.startable, queue.len()), (0, 0));
    }

    #[test]
    fn lanes_whose_turn_never_comes_are_forgotten_too() {
        let mut queue = Queue::new(FixedState::default());
        for event in 1..=1000 {
            let lane: Arc<str> = format!("l{event}").into();
            let (idx, _) = queue.push(&lane, &flow(), id(event, 1));
            queue.enqueue(idx, Priority::Normal);
            queue.remove(idx, id(event, 1), true);
        }

        assert!(queue.len() <= 2 * READY_MIN && queue.ready() == queue.len());
        assert!(queue.lanes.len() <= 2 * READY_MIN);
    }

    #[test]
    fn a_noisy_flow_leaves_room_to_quiet_ones() {
        const MAX: u32 = 10_000;
        let mut queue = Queue::new(FixedState::default());
        let mut fill = |flow: &str, first: u64| {
            let name: Arc<str> = flow.into();
            let mut taken = 0;
            while !queue.is_full_for(flow, 0, MAX) {
                taken += 1;
                queue.push(&format!("{flow}/{taken}").into(), &name, id(first + taken, 1));
            }
            (taken, queue.is_full_for("quiet", 0, MAX))
        };
        assert_eq!(fill("o/a", 0), (8000, false));
        let (taken, quiet_is_out) = fill("o/b", 100_000);
        assert!(taken > 1000 && !quiet_is_out, "{taken}");
        for other in 2..5 {
            assert!(!fill(&format!("o/{other}"), other * 100_000).1, "{other}");
        }
    }

    #[test]
    fn an_empty_lane_is_forgotten_when_its_turn_is_over() {
        let mut queue = Queue::new(FixedState::default());
        let lane: Arc<str> = "l".into();
        let (idx, _) = queue.push(&lane, &flow(), id(1, 1));
        queue.enqueue(idx, Priority::Normal);
        queue.enqueue(idx, Priority::Normal);
        assert_eq!(queue.ready(), 1);

        queue.remove(idx, id(1, 1), true);
        assert!(queue.lane_named("l").is_some());
        queue.turn(false);

        assert!(queue.len() == 0 && queue.ready() == 0);
    }
}
