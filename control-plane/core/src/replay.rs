//! Replays: past events once more, for a general of the caller's choice and for comparison only.
//!
//! A replay is a distribution of its own: an event that names the one it repeats, with one delivery that waits as shadows do, in a
//! queue beside all live work. It takes nobody's place, is not guarded, is charged to budgets for replays and to no other, and moves
//! neither estimates, breakers nor latencies. Invariants: live work that could take a slot has it first, and of a
//! general with several slots the last free one is left to live work; a replay is parked for a budget alone that begins anew.

use std::sync::Arc;

use mindos_model::{DeliveryId, RouteName, Seq, Timestamp};

use crate::account::{OverBudget, Turn};
use crate::asked::is_asked;
use crate::budget::Amount;
use crate::decide::Context;
use crate::durable::Durable;
use crate::event::{Delivery, Event};
use crate::member::Member;
use crate::output::Mode;
use crate::pool::MemberIdx;
use crate::queue::QueueId;
use crate::record::{CancelReason, Choice, Load, Record};
use crate::registry::GeneralIdx;
use crate::routing::Rule;
use crate::score::Weight;
use crate::soft::Soft;
use crate::version;

/// The longest name of a replay, in bytes.
pub const REPLAY_ID_MAX: usize = 64;
/// How the names of the routes begin that replays bring along.
pub const REPLAY_ROUTE_PREFIX: &str = "asked.replay.";

/// Whether a route is one that replays bring along.
#[must_use]
pub fn is_replay_route(name: &str) -> bool {
    name.starts_with(REPLAY_ROUTE_PREFIX)
}

/// That an event repeats a past one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// The record that accepted the event which is repeated.
    pub of: Seq,
    /// Names the replay that it is part of.
    pub id: Arc<str>,
    /// The route that took the event then; unset where none did.
    pub route: Option<RouteName>,
    /// Which instances may work on it; unset for any.
    pub version: Option<VersionWanted>,
}

/// Which versions of an instance will do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VersionWanted {
    Exactly(Arc<str>),
    AtLeast(Arc<str>),
}

impl VersionWanted {
    /// Whether an instance of this version will do.
    #[must_use]
    pub fn fits(&self, version: &str) -> bool {
        match self {
            VersionWanted::Exactly(wanted) => **wanted == *version,
            VersionWanted::AtLeast(wanted) => version::is_at_least(version, wanted),
        }
    }
}

/// What is compared by a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variant {
    /// Of a replay, the route that took the event then.
    pub route: RouteName,
    pub role: Role,
    /// The target whose share it is, under `split`; empty otherwise, and where a cheaper general takes its place.
    pub arm: Arc<str>,
    /// Of the instance.
    pub version: Arc<str>,
}

/// When a budget that a replay does not fit into has room for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// Others may not use what they have set aside.
    Soon,
    /// When its period ends, if it is not raised before.
    AtReset,
    Never,
}

impl OverBudget {
    /// Whether there is room when the budget begins anew.
    pub(crate) fn fits_after_reset(&self) -> bool {
        self.resets.is_some() && self.turn != Turn::Never
    }
}

/// On which side of a comparison a delivery stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    Live,
    Shadow,
    Replay,
}

impl Event {
    /// What the work of this delivery leads to.
    pub(crate) fn mode(&self, delivery: &Delivery) -> Mode {
        match (self.replay.is_some(), delivery.terms().shadow) {
            (true, _) => Mode::Replay,
            (false, true) => Mode::Shadow,
            (false, false) => Mode::Live,
        }
    }

    fn version(&self) -> Option<&VersionWanted> {
        self.replay.as_deref().and_then(|replay| replay.version.as_ref())
    }

    /// The end of a shadow or replay that came to nothing.
    pub(crate) fn came_to_nothing(&self) -> CancelReason {
        if self.replay.is_some() { CancelReason::ReplayFailed } else { CancelReason::ShadowFailed }
    }
}

impl Durable {
    /// What is compared by a lease of this delivery, where something is.
    pub(crate) fn variant(
        &self,
        (event, delivery): (&Event, &Delivery),
        rule: &Rule,
        general: GeneralIdx,
        member: &Member,
        is_degraded: bool,
    ) -> Option<Box<Variant>> {
        let compares = rule.route.policy.shadow.is_some() || !rule.route.targets.weights.is_empty();
        if !compares && rule.route.policy.feedback.is_none() {
            return None;
        }
        let role = match event.mode(delivery) {
            Mode::Live => Role::Live,
            Mode::Shadow => Role::Shadow,
            Mode::Replay => Role::Replay,
        };
        // Who stands in for others does not do what falls to its own share.
        let arm = rule
            .ranks
            .of(general)
            .filter(|_| !is_degraded)
            .and_then(|rank| rule.route.targets.weights.get(rank as usize));
        let arm = arm.map(|weight| weight.target.clone()).unwrap_or_default();
        let of = event.replay.as_deref().and_then(|replay| replay.route.clone());
        let route = of.unwrap_or_else(|| rule.route.name.clone());
        Some(Box::new(Variant { route, role, arm, version: member.version.clone() }))
    }

    /// Whether this general may work on a replay now: it leaves live work a slot, and has an instance of the version that is wanted.
    pub(crate) fn takes_replay(&self, event: &Event, general: GeneralIdx, soft: &Soft) -> bool {
        if event.replay.is_none() {
            return true;
        }
        let Some(pool) = soft.pool(general) else { return false };
        // A trial is for live work: only that tells whether an instance has recovered.
        let mut free = pool.free.iter().filter(|idx| !pool.trials.contains(idx)).map(|idx| soft.member(*idx));
        let mut slots = 0;
        let leaves_room = pool.load.open == 0
            || pool.free.iter().any(|idx| {
                let Load { open, capacity } = soft.member(*idx).load;
                slots += capacity.saturating_sub(open);
                slots > 1
            });
        leaves_room && free.any(|member| event.version().is_none_or(|wanted| wanted.fits(&member.version)))
    }

    /// An instance of the version that a replay wants: the one with the lowest score of those that are free. `None` where it wants none.
    pub(crate) fn draw_version(
        &self,
        event: &Event,
        general: GeneralIdx,
        context: Context<'_>,
        choice: &mut Choice,
    ) -> Option<Option<MemberIdx>> {
        let wanted = event.version()?;
        let Some(pool) = context.soft.pool(general) else { return Some(None) };
        (choice.free, choice.connected) = (u32::try_from(pool.free.len()).unwrap_or(u32::MAX), pool.members);
        let fits = |idx: &MemberIdx| wanted.fits(&context.soft.member(*idx).version) && !pool.trials.contains(idx);
        let fitting = pool.free.iter().copied().filter(fits);
        let weighed = fitting.map(|idx| (idx, context.soft.weight(pool, idx, context.now)));
        let least = |best: (MemberIdx, Weight), next: (MemberIdx, Weight)| {
            if next.1.score < best.1.score { next } else { best }
        };
        let Some((idx, weight)) = weighed.reduce(least) else { return Some(None) };
        choice.instances.push((Arc::clone(&context.soft.member(idx).instance), weight));
        Some(Some(idx))
    }

    pub(crate) fn room_for_replay(&self, over: &OverBudget, event: Seq, context: Context<'_>) -> Room {
        let now = context.now.max(self.at);
        let account = self.budgets.get(over.account);
        let is_reserved = account.is_some_and(|account| account.tally(now, event).reserved != Amount::NONE);
        match over.fits_after_reset() {
            _ if is_reserved => Room::Soon,
            true => Room::AtReset,
            false => Room::Never,
        }
    }

    /// A replay that was set aside for a budget is put back: the time in which it could not be begun is not part of its time to live.
    pub(crate) fn replay_put_back(&mut self, id: DeliveryId, since: Timestamp, at: Timestamp) {
        if !self.is_replay(id) {
            return;
        }
        let delivery = self.events.delivery_mut(id);
        let Some(terms) = &mut delivery.terms else { return };
        if terms.expires > Timestamp(0) {
            self.agenda.expiries.remove(&(terms.expires, id));
            terms.expires = terms.expires + at.since(since);
            self.agenda.expiries.insert((terms.expires, id));
        }
    }

    /// A replay's lease ended: others may wait for what it had set aside.
    pub(crate) fn wake_replays(&mut self) {
        let waits = |(_, rule): &(_, &Rule)| {
            is_asked(&rule.route) && rule.shadow.as_ref().is_some_and(|side| side.queue.ready() > 0)
        };
        let queues: Vec<_> = self.routing.iter().filter(waits).map(|(idx, _)| QueueId::Shadow(idx)).collect();
        queues.into_iter().for_each(|queue| self.mark_dirty(queue));
    }

    /// The end of a replay that its budget has no room for, now or later.
    pub(crate) fn replay_over_budget(id: DeliveryId) -> Record {
        crate::shadow::ended(id, CancelReason::ReplayOverBudget, None, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_version_is_no_version() {
        let at_least = VersionWanted::AtLeast("0.0".into());
        assert!(!at_least.fits("") && !at_least.fits("custom") && at_least.fits("0.0.1"));
        let exactly = VersionWanted::Exactly("1.2.3".into());
        assert!(exactly.fits("1.2.3") && !exactly.fits("1.2.30"));
    }
}
