//! Queues: the deliveries that wait for one general, or for one of a route's, lane by lane.
//!
//! Work of one lane keeps its order: only the deliveries of the lane's oldest event may be leased. A lane whose oldest
//! event has a delivery that may be leased stands once in `ready`, and lanes take turns.
//!
//! Invariants: a lane stands in `ready` if and only if it is marked `queued`; a lane that could give out work is queued.

use std::collections::VecDeque;
use std::sync::Arc;

use foldhash::quality::FixedState;
use hashbrown::HashMap;
use mindos_model::{DeliveryId, Seq};

use crate::overflow::Overflow;
use crate::registry::GeneralIdx;
use crate::routing::RouteIdx;

/// Names a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum QueueId {
    /// Under broadcast: what waits for this general alone.
    General(GeneralIdx),
    /// Under the strategies that choose: what waits for any general of the route.
    Route(RouteIdx),
}

/// Lanes that may stand in `ready` before anybody looks whether they have work.
const READY_MIN: usize = 64;

#[derive(Clone, Debug)]
pub(crate) struct Queue {
    // Hashed, because each delivery passes here three times; nobody iterates it. Names come from outside, so the
    // hasher is seeded by the shell.
    lanes: HashMap<Arc<str>, Lane, FixedState>,
    ready: VecDeque<Arc<str>>,
    /// Lanes in `ready` at which those without work are taken out.
    ready_max: usize,
    /// Whether the queue stands in the agenda.
    pub(crate) dirty: bool,
    /// Deliveries that wait in the lanes.
    pub(crate) waiting: u32,
    /// Parked as `backlog_full`.
    pub(crate) overflow: Overflow,
}

impl Queue {
    pub(crate) fn new(hasher: FixedState) -> Queue {
        Queue {
            lanes: HashMap::with_hasher(hasher),
            ready: VecDeque::new(),
            ready_max: READY_MIN,
            dirty: false,
            waiting: 0,
            overflow: Overflow::default(),
        }
    }
}

/// The deliveries of one lane that wait or are leased, oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lane {
    pub(crate) entries: VecDeque<DeliveryId>,
    pub(crate) waiting: u32,
    /// Its deliveries in the queue's overflow.
    pub(crate) overflow: u32,
    queued: bool,
}

impl Lane {
    /// Most lanes hold one delivery.
    fn for_one() -> Lane {
        Lane { entries: VecDeque::with_capacity(1), ..Lane::default() }
    }

    /// The deliveries of the oldest event: those that order allows to run.
    pub(crate) fn head(&self) -> impl Iterator<Item = DeliveryId> + '_ {
        let event = self.entries.front().map(|id| id.event);
        self.entries.iter().copied().take_while(move |id| Some(id.event) == event)
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
    pub(crate) fn lane(&self, name: &str) -> Option<&Lane> {
        self.lanes.get(name)
    }

    pub(crate) fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// Puts a waiting delivery at the lane's tail. Says whether it is at the lane's head.
    pub(crate) fn push(&mut self, lane: &Arc<str>, delivery: DeliveryId) -> bool {
        self.waiting += 1;
        let lane = self.lanes.entry(lane.clone()).or_insert_with(Lane::for_one);
        lane.waiting += 1;
        lane.entries.push_back(delivery);
        lane.entries.front().is_some_and(|front| front.event == delivery.event)
    }

    /// A waiting delivery of the lane was leased, or a leased one waits again.
    pub(crate) fn leased(&mut self, lane: &str) {
        self.waiting -= 1;
        self.lane_mut(lane).waiting -= 1;
    }

    pub(crate) fn unleased(&mut self, lane: &str) {
        self.waiting += 1;
        self.lane_mut(lane).waiting += 1;
    }

    /// Takes a delivery out of its lane.
    pub(crate) fn remove(&mut self, name: &str, delivery: DeliveryId, was_waiting: bool) {
        let lane = self.lane_mut(name);
        // The deliveries that end are those of the lane's head, but for cancelled and parked ones.
        let at = lane.entries.iter().position(|id| *id == delivery);
        lane.entries.remove(at.unwrap_or_else(|| panic!("delivery {delivery} is not in its lane")));
        if was_waiting {
            lane.waiting -= 1;
            self.waiting -= 1;
        }
        self.drop_if_empty(name);
    }

    pub(crate) fn overflow_in(&mut self, lane: &Arc<str>, place: Seq, delivery: DeliveryId) {
        self.overflow.insert(lane, place, delivery);
        self.lanes.entry(lane.clone()).or_default().overflow += 1;
    }

    pub(crate) fn overflow_out(&mut self, lane: &str, place: Seq, delivery: DeliveryId) {
        let there = self.overflow.remove(lane, place, delivery);
        assert!(there, "delivery {delivery} is not in the overflow");
        self.lane_mut(lane).overflow -= 1;
        self.drop_if_empty(lane);
    }

    /// Gives the lane its turn, unless it waits for one already.
    pub(crate) fn enqueue(&mut self, name: &Arc<str>) {
        let Some(lane) = self.lanes.get_mut(name.as_ref()) else { return };
        if !lane.queued {
            lane.queued = true;
            self.ready.push_back(name.clone());
            if self.ready.len() > self.ready_max {
                self.tidy();
            }
        }
    }

    /// Takes lanes without work out of `ready`. Who only folds, such as a follower, gives no lane its turn.
    fn tidy(&mut self) {
        for name in std::mem::take(&mut self.ready) {
            match self.lanes.get_mut(name.as_ref()) {
                Some(lane) if lane.entries.is_empty() => {
                    lane.queued = false;
                    self.drop_if_empty(&name);
                }
                Some(_) => self.ready.push_back(name),
                None => {}
            }
        }
        self.ready_max = (2 * self.ready.len()).max(READY_MIN);
    }

    /// The lane whose turn it is.
    pub(crate) fn next(&self) -> Option<&Arc<str>> {
        self.ready.front()
    }

    pub(crate) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Ends the turn of the lane in front: it waits for another one, or is out.
    pub(crate) fn turn(&mut self, again: bool) {
        let Some(name) = self.ready.pop_front() else { return };
        if again {
            self.ready.push_back(name);
            return;
        }
        if let Some(lane) = self.lanes.get_mut(name.as_ref()) {
            lane.queued = false;
        }
        self.drop_if_empty(&name);
    }

    /// All lanes, in no order.
    pub(crate) fn scan(&self) -> impl Iterator<Item = (&Arc<str>, &Lane)> {
        self.lanes.iter()
    }

    /// The lanes that wait for their turn.
    pub(crate) fn in_turn(&self) -> impl Iterator<Item = &Arc<str>> {
        self.ready.iter()
    }

    pub(crate) fn is_queued(&self, name: &str) -> bool {
        self.lanes.get(name).is_some_and(|lane| lane.queued)
    }

    fn lane_mut(&mut self, name: &str) -> &mut Lane {
        self.lanes.get_mut(name).unwrap_or_else(|| panic!("lane `{name}` is not there"))
    }

    fn drop_if_empty(&mut self, name: &str) {
        // A lane that stands in `ready` goes when its turn comes, so that it cannot stand there twice.
        if self.lanes.get(name).is_some_and(|lane| lane.entries.is_empty() && lane.overflow == 0 && !lane.queued) {
            self.lanes.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(event: u64, ordinal: u32) -> DeliveryId {
        DeliveryId::new(Seq(event), ordinal)
    }

    #[test]
    fn only_the_oldest_events_deliveries_are_at_the_head() {
        let mut queue = Queue::new(FixedState::default());
        let lane: Arc<str> = "l".into();
        for delivery in [id(1, 1), id(1, 2), id(2, 1)] {
            queue.push(&lane, delivery);
        }

        assert_eq!(queue.lane("l").unwrap().head().collect::<Vec<_>>(), [id(1, 1), id(1, 2)]);
        queue.remove("l", id(1, 2), true);
        queue.remove("l", id(1, 1), true);
        assert_eq!(queue.lane("l").unwrap().head().collect::<Vec<_>>(), [id(2, 1)]);
    }

    #[test]
    fn lanes_whose_turn_never_comes_are_forgotten_too() {
        let mut queue = Queue::new(FixedState::default());
        for event in 1..=1000 {
            let lane: Arc<str> = format!("l{event}").into();
            queue.push(&lane, id(event, 1));
            queue.enqueue(&lane);
            queue.remove(&lane, id(event, 1), true);
        }

        assert!(queue.lanes() <= 2 * READY_MIN && queue.ready() == queue.lanes());
    }

    #[test]
    fn an_empty_lane_is_forgotten_when_its_turn_is_over() {
        let mut queue = Queue::new(FixedState::default());
        let lane: Arc<str> = "l".into();
        queue.push(&lane, id(1, 1));
        queue.enqueue(&lane);
        queue.enqueue(&lane);
        assert_eq!(queue.ready(), 1);

        queue.remove("l", id(1, 1), true);
        assert!(queue.lane("l").is_some());
        queue.turn(false);

        assert!(queue.lanes() == 0 && queue.ready() == 0);
    }
}
