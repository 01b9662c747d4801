//! Fairness inside a queue: which lane gives out work next.
//!
//! ```text
//!  queue -- class high    (cost 1)  -- flow o/a -- lane, lane, ..
//!        |                          +- flow o/b -- lane
//!        +- class normal  (cost 4)  -- flow o/a -- lane
//!        +- class low     (cost 16) -- ..
//! ```
//! A flow is the work of one repository, or of one source where events name no repository. Classes share by stride scheduling: the one
//! that paid least goes next, and every delivery costs it what the class costs, so that work of all classes leaves as 16:4:1. The flows
//! of a class take turns, as many deliveries as their weight says, 1 where it says nothing, and so do the lanes of a flow. All of it is exact, draws no chance, and costs the
//! same however many lanes and flows there are; lists are linked through indexes, so nothing is allocated for a delivery.
//!
//! None of this is recorded: a lease says what was chosen, and another process may begin its rounds anew.
//!
//! Invariants: a lane stands in one list at most; a flow stands in the ring of a class if and only if it has lanes there; a flow without
//! lanes is forgotten, but for one that is kept in case the next delivery is its own.

use std::sync::Arc;

use foldhash::quality::FixedState;
use hashbrown::HashMap;
use mindos_model::Priority;

use crate::queue::LaneIdx;

/// What a delivery costs its class, by class: the shares are 16:4:1.
const COSTS: [u64; CLASSES] = [1, 4, 16];
const CLASSES: usize = 3;
/// Deliveries given out of one queue before another one gets its turn.
pub(crate) const QUEUE_TURN: usize = 16;
/// Lanes of a class that are set aside before another class is asked, until the queue's turn is over.
const TRIES: usize = 8;
const NONE: u32 = u32::MAX;

/// Place of a flow among those of its queue; given to another one once it is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FlowIdx(u32);

/// A list through indexes: who stands in it is in the links.
#[derive(Clone, Copy, Debug)]
struct List {
    head: u32,
    tail: u32,
}

impl List {
    const EMPTY: List = List { head: NONE, tail: NONE };

    fn is_empty(self) -> bool {
        self.head == NONE
    }

    fn push(&mut self, links: &mut [u32], at: u32) {
        links[at as usize] = NONE;
        match self.tail {
            NONE => self.head = at,
            tail => links[tail as usize] = at,
        }
        self.tail = at;
    }

    fn pop(&mut self, links: &[u32]) -> Option<u32> {
        if self.is_empty() {
            return None;
        }
        let at = self.head;
        self.head = links[at as usize];
        if self.is_empty() {
            self.tail = NONE;
        }
        Some(at)
    }

    fn iter(self, links: &[u32]) -> impl Iterator<Item = u32> + '_ {
        std::iter::successors((!self.is_empty()).then_some(self.head), |at| {
            Some(links[*at as usize]).filter(|next| *next != NONE)
        })
    }
}

#[derive(Clone, Debug)]
struct Flow {
    /// Unset once it is forgotten.
    name: Option<Arc<str>>,
    /// Lanes of the queue that are its own, in turn or not.
    lanes: u32,
    /// Deliveries that wait in them.
    waiting: u32,
    in_turn: [List; CLASSES],
    /// Deliveries that each class of it gave out in the turn that is its own.
    used: [u32; CLASSES],
    /// When each class of it joined its ring: deliveries given out of the queue by then, and flows before it.
    joined: [(u64, u64); CLASSES],
}

#[derive(Clone, Copy, Debug)]
struct Class {
    ring: List,
    /// Flows in the ring.
    flows: u32,
    paid: u64,
}

/// The lanes of a queue that wait for their turn.
#[derive(Clone, Debug)]
pub(crate) struct Turns {
    // Hashed, because lanes come and go with deliveries; nobody iterates it. Names come from outside.
    by_name: HashMap<Arc<str>, FlowIdx, FixedState>,
    flows: Vec<Flow>,
    vacant: Vec<FlowIdx>,
    /// Joined last: mostly the next lane is of the same one.
    last: FlowIdx,
    /// The one without lanes, if any.
    spare: FlowIdx,
    classes: [Class; CLASSES],
    lane_links: Vec<u32>,
    flow_links: [Vec<u32>; CLASSES],
    /// Whose turn it is; asked for again until the turn is over.
    current: Option<usize>,
    /// What the class that gave last had paid before.
    reached: u64,
    /// Deliveries given out so far.
    given: u64,
    /// The largest weight that any flow had in its turn.
    weight_max: u32,
    /// Lanes in turn, those set aside too.
    len: usize,
    /// Lanes that could not give out anything for now, until the queue's own turn is over.
    aside: Vec<(LaneIdx, FlowIdx, usize)>,
    /// How many of them are of each class.
    tried: [usize; CLASSES],
}

fn class_of(priority: Priority) -> usize {
    match priority {
        Priority::High => 0,
        Priority::Normal => 1,
        Priority::Low => 2,
    }
}

/// What a delivery of this priority costs, where shares are 16:4:1.
pub(crate) fn cost(priority: Priority) -> u64 {
    COSTS[class_of(priority)]
}

/// Deliveries that may leave a queue between two turns of a class that has work.
fn between(class: usize) -> u64 {
    let others = (0..CLASSES).filter(|other| *other != class);
    1 + others.map(|other| COSTS[class].div_ceil(COSTS[other]) + 1).sum::<u64>()
}

impl Turns {
    pub(crate) fn new(hasher: FixedState) -> Turns {
        Turns {
            by_name: HashMap::with_hasher(hasher),
            flows: Vec::new(),
            vacant: Vec::new(),
            last: FlowIdx(NONE),
            spare: FlowIdx(NONE),
            classes: [Class { ring: List::EMPTY, flows: 0, paid: 0 }; CLASSES],
            lane_links: Vec::new(),
            flow_links: Default::default(),
            current: None,
            reached: 0,
            given: 0,
            weight_max: 1,
            len: 0,
            aside: Vec::new(),
            tried: [0; CLASSES],
        }
    }

    /// The flow of this name has one more lane.
    pub(crate) fn join(&mut self, name: &Arc<str>) -> FlowIdx {
        let is_last = |flow: &&Flow| flow.name.as_ref() == Some(name);
        let idx = match self.flows.get(self.last.0 as usize).filter(is_last) {
            Some(_) => self.last,
            None => match self.by_name.get(name) {
                Some(idx) => *idx,
                None => self.begin(name),
            },
        };
        self.last = idx;
        self.flows[idx.0 as usize].lanes += 1;
        idx
    }

    fn begin(&mut self, name: &Arc<str>) -> FlowIdx {
        let idx = self.vacant.pop().unwrap_or_else(|| {
            let idx = FlowIdx(u32::try_from(self.flows.len()).expect("open deliveries are bounded far below"));
            self.flows.push(Flow {
                name: None,
                lanes: 0,
                waiting: 0,
                in_turn: [List::EMPTY; CLASSES],
                used: [0; CLASSES],
                joined: [(0, 0); CLASSES],
            });
            self.flow_links.iter_mut().for_each(|links| links.push(NONE));
            idx
        });
        self.flows[idx.0 as usize].name = Some(name.clone());
        self.by_name.insert(name.clone(), idx);
        idx
    }

    /// The flow has one lane less.
    pub(crate) fn leave(&mut self, idx: FlowIdx) {
        let flow = &mut self.flows[idx.0 as usize];
        flow.lanes -= 1;
        if flow.lanes > 0 || self.spare == idx {
            return;
        }
        let spare = std::mem::replace(&mut self.spare, idx);
        let Some(flow) = self.flows.get_mut(spare.0 as usize).filter(|flow| flow.lanes == 0) else { return };
        if let Some(name) = flow.name.take() {
            self.by_name.remove(&name);
            self.vacant.push(spare);
        }
    }

    /// One more delivery waits in the flow.
    pub(crate) fn waits(&mut self, idx: FlowIdx) {
        self.flows[idx.0 as usize].waiting += 1;
    }

    /// One less.
    pub(crate) fn waits_not(&mut self, idx: FlowIdx) {
        self.flows[idx.0 as usize].waiting -= 1;
    }

    /// How many deliveries wait in the flow of this name.
    pub(crate) fn waiting(&self, name: &str) -> u32 {
        self.by_name.get(name).map_or(0, |idx| self.flows[idx.0 as usize].waiting)
    }

    /// As [`Turns::waiting`], by its place.
    pub(crate) fn waiting_in(&self, idx: FlowIdx) -> u32 {
        self.flows[idx.0 as usize].waiting
    }

    /// The lane of the flow waits for its turn in the class of this priority.
    pub(crate) fn push(&mut self, lane: LaneIdx, flow: FlowIdx, priority: Priority) {
        self.len += 1;
        self.put(lane, flow, class_of(priority));
    }

    fn put(&mut self, lane: LaneIdx, idx: FlowIdx, class: usize) {
        if self.lane_links.len() <= lane.0 as usize {
            self.lane_links.resize(lane.0 as usize + 1, NONE);
        }
        let in_turn = &mut self.flows[idx.0 as usize].in_turn[class];
        let was_empty = in_turn.is_empty();
        in_turn.push(&mut self.lane_links, lane.0);
        if was_empty {
            let of_class = &mut self.classes[class];
            if of_class.ring.is_empty() {
                // Nobody saves up turns for later.
                of_class.paid = of_class.paid.max(self.reached);
            }
            of_class.flows += 1;
            self.line_up(idx, class);
        }
    }

    fn line_up(&mut self, idx: FlowIdx, class: usize) {
        let of_class = &mut self.classes[class];
        of_class.ring.push(&mut self.flow_links[class], idx.0);
        let flow = &mut self.flows[idx.0 as usize];
        flow.used[class] = 0;
        flow.joined[class] = (self.given, u64::from(of_class.flows));
    }

    /// Deliveries given out of the queue at which a flow of the class is to have had its turn: those before it, each with its class's
    /// part; and where lanes are set aside, a turn of the queue for every few of them.
    fn due(&self, class: usize, (given, before): (u64, u64)) -> u64 {
        let aside = (before / TRIES as u64 + 1) * QUEUE_TURN as u64;
        given + before * between(class) * u64::from(self.weight_max) + aside
    }

    /// The lane whose turn it is.
    pub(crate) fn front(&mut self) -> Option<LaneIdx> {
        if self.current.is_none() {
            let with_work = (0..CLASSES).filter(|class| !self.classes[*class].ring.is_empty());
            // A class whose lanes can give out nothing keeps no other one waiting. Among equals the higher one goes first.
            self.current = with_work.min_by_key(|class| (self.tried[*class] / TRIES, self.classes[*class].paid));
        }
        let class = self.current?;
        let flow = self.classes[class].ring.head;
        Some(LaneIdx(self.flows[flow as usize].in_turn[class].head))
    }

    /// Takes out the lane whose turn it is; its flow keeps the turn while it has another one.
    fn take(&mut self) -> Option<(LaneIdx, FlowIdx, usize)> {
        let lane = self.front()?;
        let class = self.current.take()?;
        let idx = FlowIdx(self.classes[class].ring.head);
        let in_turn = &mut self.flows[idx.0 as usize].in_turn[class];
        in_turn.pop(&self.lane_links);
        if in_turn.is_empty() {
            self.classes[class].ring.pop(&self.flow_links[class]);
            self.classes[class].flows -= 1;
        }
        Some((lane, idx, class))
    }

    /// The lane whose turn it is has nothing to give out, and leaves.
    pub(crate) fn drop_front(&mut self) -> Option<LaneIdx> {
        let (lane, ..) = self.take()?;
        self.len -= 1;
        Some(lane)
    }

    /// The lane whose turn it is can give out nothing for now: it stands aside until [`Turns::put_back`].
    pub(crate) fn set_aside(&mut self) {
        let Some((lane, flow, class)) = self.take() else { return };
        self.tried[class] += 1;
        self.aside.push((lane, flow, class));
        self.next_flow(flow, class);
    }

    /// The queue's turn is over. Lanes that stood aside wait again, each behind the others of its flow.
    pub(crate) fn put_back(&mut self) {
        // Until the next turn of the queue something more urgent may come.
        self.current = None;
        if self.aside.is_empty() {
            return;
        }
        let mut aside = std::mem::take(&mut self.aside);
        for (lane, flow, class) in aside.drain(..) {
            self.put(lane, flow, class);
        }
        self.aside = aside;
        self.tried = [0; CLASSES];
    }

    /// The flow had its turn, unless it left the ring with its last lane.
    fn next_flow(&mut self, flow: FlowIdx, class: usize) {
        if self.classes[class].ring.head == flow.0 {
            self.classes[class].ring.pop(&self.flow_links[class]);
            self.line_up(flow, class);
        }
    }

    /// The lane whose turn it is gave out a delivery, and has more to give out or leaves. The next one is another flow's, once this one
    /// has given out as many as its weight says.
    pub(crate) fn gave(&mut self, has_more: bool, weight: u32) {
        if self.front().is_none() {
            return;
        }
        let Some(class) = self.current else { return };
        let flow = FlowIdx(self.classes[class].ring.head);
        if has_more {
            self.current = None;
        } else {
            self.drop_front();
        }
        let of_class = &mut self.classes[class];
        self.given += 1;
        self.reached = of_class.paid;
        of_class.paid += COSTS[class];
        self.weight_max = self.weight_max.max(weight);
        let used = &mut self.flows[flow.0 as usize].used[class];
        *used += 1;
        if *used >= weight {
            self.next_flow(flow, class);
        }
    }

    /// Lanes that wait for their turn.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Takes out the lanes that `is_idle` names; they are returned.
    pub(crate) fn tidy(&mut self, is_idle: impl Fn(LaneIdx) -> bool) -> Vec<LaneIdx> {
        let mut idle = Vec::new();
        for class in 0..CLASSES {
            let mut ring = std::mem::replace(&mut self.classes[class].ring, List::EMPTY);
            while let Some(flow) = ring.pop(&self.flow_links[class]) {
                let mut lanes = std::mem::replace(&mut self.flows[flow as usize].in_turn[class], List::EMPTY);
                while let Some(lane) = lanes.pop(&self.lane_links) {
                    if is_idle(LaneIdx(lane)) {
                        idle.push(LaneIdx(lane));
                    } else {
                        self.flows[flow as usize].in_turn[class].push(&mut self.lane_links, lane);
                    }
                }
                if self.flows[flow as usize].in_turn[class].is_empty() {
                    self.classes[class].flows -= 1;
                } else {
                    self.classes[class].ring.push(&mut self.flow_links[class], flow);
                }
            }
            if self.current == Some(class) && self.classes[class].ring.is_empty() {
                self.current = None;
            }
        }
        self.len -= idle.len();
        idle
    }

    /// The lanes that wait for their turn, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = LaneIdx> + '_ {
        let flows = (0..CLASSES).flat_map(|class| {
            self.classes[class].ring.iter(&self.flow_links[class]).map(move |flow| (class, flow as usize))
        });
        let lanes = flows.flat_map(|(class, flow)| self.flows[flow].in_turn[class].iter(&self.lane_links));
        lanes.map(LaneIdx).chain(self.aside.iter().map(|(lane, ..)| *lane))
    }

    /// The flow's name, the same text for all who ask.
    pub(crate) fn name(&self, flow: FlowIdx) -> Option<&Arc<str>> {
        self.flows[flow.0 as usize].name.as_ref()
    }

    /// What the simulator asks after every step: rings and counts agree, flows are forgotten, and nobody starves.
    ///
    /// # Errors
    /// With the first thing that is not so, for a person.
    pub(crate) fn check(&self) -> Result<(), String> {
        let mut lanes = self.aside.len();
        for (class, of_class) in self.classes.iter().enumerate() {
            let ring: Vec<_> = of_class.ring.iter(&self.flow_links[class]).collect();
            if ring.len() != of_class.flows as usize {
                return Err(format!("class {class} has {} flows, {} are counted", ring.len(), of_class.flows));
            }
            for (idx, flow) in (0_u32..).zip(&self.flows) {
                let in_turn = flow.in_turn[class].iter(&self.lane_links).count();
                lanes += in_turn;
                if (in_turn > 0) != ring.contains(&idx) {
                    return Err(format!(
                        "flow {:?} has {in_turn} lanes in class {class}, and its ring differs",
                        flow.name
                    ));
                }
                let due = self.due(class, flow.joined[class]);
                if in_turn > 0 && self.given > due {
                    let given = self.given;
                    return Err(format!(
                        "flow {:?} starves: its turn was due at {due}, {given} were given out",
                        flow.name
                    ));
                }
            }
        }
        if lanes != self.len {
            return Err(format!("{lanes} lanes are in turn, {} are counted", self.len));
        }
        let empty = self.flows.iter().filter(|flow| flow.lanes == 0 && flow.name.is_some()).count();
        if empty > 1 || self.by_name.len() + self.vacant.len() != self.flows.len() {
            let (known, all) = (self.by_name.len(), self.flows.len());
            return Err(format!("{empty} flows without lanes are kept, {known} of {all} have a name"));
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "fair_tests.rs"]
mod tests;
