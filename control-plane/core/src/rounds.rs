//! Rounds: the queues that may have something to give out, and which of them goes next.
//!
//! The slots of a general are shared by its own queue and those of all routes that could choose it, and the plane's time by all tenants.
//! So tenants take turns, and within a tenant its queues do: the one that gave out work the longest ago goes first. One that
//! just became ready stands before all that have had a turn since it gave out work last, whatever waits in them. Of the tenants one of
//! weight 3 has three turns for each of one of weight 1 (stride scheduling). Shadows and replays have what the others leave; and where
//! those fill one batch after the other, a turn now and then, so that what is compared is not put off for good.
//!
//! Invariants: a queue stands here at most once; a tenant stands in `ready` if and only if it has queues and none of them has its turn.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::queue::QueueId;
use crate::tenants::TenantIdx;

/// What a turn of a tenant of weight 1 moves it by.
const STRIDE: u64 = 1_000_000;

/// Batches that live work fills before shadows and replays, which wait meanwhile, have a turn: one delivery in some thousands.
const FULL_MAX: u32 = 16;

/// The rounds of all queues: those of shadows and replays go round for what the others leave.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rounds {
    live: Round,
    shadows: Round,
    /// Batches that were full before shadows that wait had a turn, one after the other.
    full: u32,
}

impl Rounds {
    fn of(&mut self, queue: QueueId) -> &mut Round {
        match queue {
            QueueId::General(_) | QueueId::Route(_) => &mut self.live,
            QueueId::Shadow(_) => &mut self.shadows,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.live.is_empty() && self.shadows.is_empty()
    }

    /// The queue is to get a turn; it gave out work last in the turn `served`.
    pub(crate) fn add(&mut self, tenant: TenantIdx, queue: QueueId, served: u64) {
        self.of(queue).add(tenant, queue, served);
    }

    /// Begins the next turn.
    pub(crate) fn begin(&mut self) -> Option<QueueId> {
        let live = if self.full < FULL_MAX { self.live.begin() } else { None };
        live.or_else(|| {
            self.full = 0;
            // None of them may be there any more.
            self.shadows.begin().or_else(|| self.live.begin())
        })
    }

    /// The batch is full, and whoever had no turn waits for the next one.
    pub(crate) fn fill(&mut self) {
        self.full = if self.shadows.is_empty() { 0 } else { self.full.saturating_add(1) };
    }

    /// Ends the turn, and says which one it was. The queue is out, until it is added again.
    pub(crate) fn end(&mut self, weight: u32) -> u64 {
        if self.shadows.current.is_some() { self.shadows.end(weight) } else { self.live.end(weight) }
    }

    /// Takes a queue out that does not exist any more.
    pub(crate) fn remove(&mut self, tenant: TenantIdx, queue: QueueId) {
        self.of(queue).remove(tenant, queue);
    }

    /// All that are to get a turn, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = QueueId> + '_ {
        self.live.iter().chain(self.shadows.iter())
    }
}

#[derive(Clone, Debug, Default)]
struct Round {
    /// By their places.
    tenants: Vec<Tenant>,
    /// Tenants by what they have passed.
    ready: BinaryHeap<Reverse<(u64, TenantIdx)>>,
    /// The turn that was begun last.
    turn: u64,
    /// What the tenant had passed whose turn was begun last, or one before it.
    passed: u64,
    queues: usize,
    /// Whose turn it is.
    current: Option<(QueueId, TenantIdx)>,
}

#[derive(Clone, Debug, Default)]
struct Tenant {
    /// Queues by the turn in which they gave out work last.
    queues: BinaryHeap<Reverse<(u64, QueueId)>>,
    /// Grows with every turn, the less the more it weighs.
    passed: u64,
}

impl Round {
    fn is_empty(&self) -> bool {
        self.queues == 0 && self.current.is_none()
    }

    fn add(&mut self, tenant: TenantIdx, queue: QueueId, served: u64) {
        let place = tenant.0 as usize;
        if self.tenants.len() <= place {
            self.tenants.resize_with(place + 1, Tenant::default);
        }
        let known = &mut self.tenants[place];
        let is_first = known.queues.is_empty();
        known.queues.push(Reverse((served, queue)));
        self.queues += 1;
        if is_first && self.current.is_none_or(|(_, of)| of != tenant) {
            self.ready.push(Reverse((known.passed, tenant)));
        }
    }

    fn begin(&mut self) -> Option<QueueId> {
        debug_assert!(self.current.is_none(), "one turn ends before the next one begins");
        loop {
            let Reverse((passed, tenant)) = self.ready.pop()?;
            self.passed = self.passed.max(passed);
            // The last queue may have been removed.
            let Some(Reverse((_, queue))) = self.tenants[tenant.0 as usize].queues.pop() else { continue };
            self.queues -= 1;
            self.turn += 1;
            self.current = Some((queue, tenant));
            return Some(queue);
        }
    }

    fn end(&mut self, weight: u32) -> u64 {
        if let Some((_, tenant)) = self.current.take() {
            let known = &mut self.tenants[tenant.0 as usize];
            // Nobody saves up turns for later.
            known.passed = known.passed.max(self.passed) + STRIDE / u64::from(weight);
            if !known.queues.is_empty() {
                self.ready.push(Reverse((known.passed, tenant)));
            }
        }
        self.turn
    }

    fn remove(&mut self, tenant: TenantIdx, queue: QueueId) {
        let Some(known) = self.tenants.get_mut(tenant.0 as usize) else { return };
        let before = known.queues.len();
        known.queues.retain(|Reverse((_, of))| *of != queue);
        self.queues -= before - known.queues.len();
        if known.queues.is_empty() {
            self.ready.retain(|Reverse((_, of))| *of != tenant);
        }
    }

    fn iter(&self) -> impl Iterator<Item = QueueId> + '_ {
        self.tenants.iter().flat_map(|tenant| tenant.queues.iter().map(|Reverse((_, queue))| *queue))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::GeneralIdx;

    fn queue(number: u32) -> QueueId {
        QueueId::General(GeneralIdx(number))
    }

    /// Gives turns to whoever is ready, each of which is ready again at once.
    fn turns(rounds: &mut Rounds, count: usize, tenant_of: impl Fn(QueueId) -> TenantIdx) -> Vec<QueueId> {
        weighted_turns(rounds, count, tenant_of, |_| 1)
    }

    fn weighted_turns(
        rounds: &mut Rounds,
        count: usize,
        tenant_of: impl Fn(QueueId) -> TenantIdx,
        weight_of: impl Fn(QueueId) -> u32,
    ) -> Vec<QueueId> {
        let one = |_| {
            let queue = rounds.begin().unwrap();
            let turn = rounds.end(weight_of(queue));
            rounds.add(tenant_of(queue), queue, turn);
            queue
        };
        (0..count).map(one).collect()
    }

    #[test]
    fn whoever_was_served_the_longest_ago_goes_first() {
        let mut rounds = Rounds::default();
        (1..=3).for_each(|number| rounds.add(TenantIdx(0), queue(number), 0));
        assert_eq!(turns(&mut rounds, 6, |_| TenantIdx(0)), [1, 2, 3, 1, 2, 3].map(queue));
        rounds.add(TenantIdx(0), queue(4), 0);
        assert_eq!(turns(&mut rounds, 3, |_| TenantIdx(0)), [4, 1, 2].map(queue));
    }

    #[test]
    fn a_tenant_with_a_thousand_queues_has_the_turns_of_a_tenant_with_one() {
        let mut rounds = Rounds::default();
        (0..1000).for_each(|number| rounds.add(TenantIdx(0), queue(number), 0));
        turns(&mut rounds, 10, |_| TenantIdx(0));
        let quiet = queue(5000);
        rounds.add(TenantIdx(1), quiet, 0);
        let tenant_of = |of| TenantIdx(u32::from(of == quiet));
        let next = turns(&mut rounds, 10, tenant_of);
        assert_eq!(next[0], quiet);
        assert_eq!(next.iter().filter(|of| **of == quiet).count(), 5);
    }

    #[test]
    fn tenants_have_turns_in_the_proportion_of_their_weights() {
        let mut rounds = Rounds::default();
        rounds.add(TenantIdx(0), queue(0), 0);
        rounds.add(TenantIdx(1), queue(1), 0);
        let tenant_of = |of| TenantIdx(u32::from(of == queue(1)));
        let weight_of = |of| if of == queue(0) { 3 } else { 1 };
        let turns = weighted_turns(&mut rounds, 400, tenant_of, weight_of);
        let of_first = turns.iter().filter(|of| **of == queue(0)).count();
        assert!((299..=301).contains(&of_first), "{of_first} of 400");
    }

    #[test]
    fn shadows_have_what_the_others_leave() {
        let mut rounds = Rounds::default();
        let shadow = QueueId::Shadow(crate::routing::RouteIdx(0));
        rounds.add(TenantIdx(0), shadow, 0);
        (1..=2).for_each(|number| rounds.add(TenantIdx(number), queue(number), 0));
        assert_eq!(turns(&mut rounds, 4, |of| TenantIdx(if of == queue(1) { 1 } else { 2 })), [1, 2, 1, 2].map(queue));
        for number in [1, 2] {
            assert_eq!(rounds.begin(), Some(queue(number)));
            rounds.end(1);
        }
        assert_eq!(rounds.begin(), Some(shadow));
        assert_eq!((rounds.end(1), rounds.is_empty()), (1, true));
    }

    #[test]
    fn shadows_have_a_turn_now_and_then_while_live_work_fills_every_batch() {
        let mut rounds = Rounds::default();
        let shadow = QueueId::Shadow(crate::routing::RouteIdx(0));
        rounds.add(TenantIdx(0), shadow, 0);
        (1..=2).for_each(|number| rounds.add(TenantIdx(0), queue(number), 0));
        let of_batch = |rounds: &mut Rounds| {
            let begun = turns(rounds, 3, |_| TenantIdx(0));
            rounds.fill();
            begun.iter().filter(|of| **of == shadow).count()
        };
        let begun: Vec<_> = (0..3 * (FULL_MAX + 1)).map(|_| of_batch(&mut rounds)).collect();
        let every = FULL_MAX as usize;
        assert!(begun[..every].iter().all(|turns| *turns == 0), "{begun:?}");
        assert_eq!(begun[every], 1, "{begun:?}");
        assert_eq!(begun.iter().sum::<usize>(), 3, "{begun:?}");
        // Live work has nothing to wait for where no shadow is left.
        rounds.remove(TenantIdx(0), shadow);
        (0..=FULL_MAX).for_each(|_| rounds.fill());
        assert_eq!(turns(&mut rounds, 2, |_| TenantIdx(0)).len(), 2);
    }

    #[test]
    fn a_queue_that_is_removed_leaves_no_turn_behind() {
        let mut rounds = Rounds::default();
        rounds.add(TenantIdx(1), queue(1), 0);
        rounds.add(TenantIdx(1), queue(2), 0);
        rounds.remove(TenantIdx(1), queue(1));
        assert_eq!(rounds.iter().collect::<Vec<_>>(), [queue(2)]);
        rounds.remove(TenantIdx(1), queue(2));
        assert!(rounds.is_empty() && rounds.begin().is_none());
        rounds.add(TenantIdx(1), queue(3), 0);
        assert_eq!(rounds.begin(), Some(queue(3)));
        assert!(!rounds.is_empty());
        rounds.end(1);
        assert!(rounds.is_empty());
    }
}
