//! Shadows: deliveries that are worked on for comparison, beside the ones that count.
//!
//! They wait in a queue of their own, so that they stand in nobody's way, expire, and when they come to nothing they end: nobody is
//! asked to look at one. Invariant: a shadow is never parked, but for one that is delayed, and replays for a budget that begins anew.

use std::collections::BTreeSet;
use std::sync::Arc;

use foldhash::quality::FixedState;
use mindos_model::DeliveryId;

use crate::budget::Amount;
use crate::durable::Durable;
use crate::event::Event;
use crate::input::Entropy;
use crate::placement::Unplaced;
use crate::queue::{Queue, QueueId};
use crate::record::{CancelReason, Choice, DeliveryCancelled, Record};
use crate::registry::GeneralIdx;
use crate::routing::{RouteIdx, Rule};
use crate::soft::Soft;

/// What a route has for its shadows.
#[derive(Clone, Debug)]
pub(crate) struct ShadowSide {
    /// Generals that the shadow's targets name.
    pub(crate) members: BTreeSet<GeneralIdx>,
    pub(crate) queue: Queue,
}

/// Generals with a slot that are looked at for one shadow; where none of them will do, others are looked at a little later.
const GENERALS_LOOKED_MAX: usize = 64;

impl Rule {
    /// # Panics
    /// When the route never had a shadow: ids of such queues come from routes that had one.
    pub(crate) fn shadow_queue(&self) -> &Queue {
        &self.shadow.as_ref().expect("a queue of shadows is named after it was made").queue
    }

    /// Made with the first shadow; stays when the route has none any more.
    pub(crate) fn shadow_side(&mut self, hasher: &FixedState) -> &mut ShadowSide {
        let made = || Box::new(ShadowSide { members: BTreeSet::new(), queue: Queue::new(hasher.clone()) });
        self.shadow.get_or_insert_with(made)
    }
}

impl Durable {
    /// The least loaded of the shadow's generals that have a slot for it.
    pub(crate) fn choose_shadow(
        &self,
        route: RouteIdx,
        event: &Event,
        soft: &Soft,
        entropy: &mut Entropy,
        choice: &mut Choice,
    ) -> Result<GeneralIdx, Unplaced> {
        let rule = self.routing.rule(route);
        let side = rule.shadow.as_ref().ok_or(Unplaced::NoSlot)?;
        let start = GeneralIdx(entropy.below(u64::from(self.registry.width())) as u32);
        let around = side.members.range(start..).chain(side.members.range(..start)).copied();
        let has_slot = |general: &GeneralIdx| self.has_fitting(rule, *general, soft);
        let may = |general: &GeneralIdx| self.takes_replay(event, *general, soft);
        // The next lane may want another version, and less of its budget.
        let found = self.least(rule, around.filter(has_slot).take(GENERALS_LOOKED_MAX).filter(may), soft, choice);
        let is_free = || side.members.iter().any(|general| soft.free.contains(general));
        found.ok_or_else(|| if event.replay.is_some() && is_free() { Unplaced::Taken } else { Unplaced::NoSlot })
    }

    /// Whether shadows or replays of the general could be leased if it had a slot.
    pub(crate) fn has_shadows_ready(&self, general: GeneralIdx) -> bool {
        let known = self.registry.get(general);
        known.is_some_and(|known| known.shadows.iter().any(|route| self.queue(QueueId::Shadow(*route)).ready() > 0))
    }

    /// A general may take work: shadows that wait for one of their own get a look too.
    pub(crate) fn wake_shadows(&mut self, general: GeneralIdx) {
        let Some(known) = self.registry.get(general).filter(|known| !known.shadows.is_empty()) else { return };
        for queue in known.shadows.clone().into_iter().map(QueueId::Shadow) {
            if self.queue(queue).ready() > 0 {
                self.mark_dirty(queue);
            }
        }
    }
}

/// The end of a shadow or replay without a result; `unanswered` if a lease of it ends that nobody answered.
pub(crate) fn ended(delivery: DeliveryId, reason: CancelReason, charged: Option<Amount>, unanswered: bool) -> Record {
    let (why, by, charged) = (Arc::default(), Arc::from(""), charged.map(Box::new));
    Record::DeliveryCancelled(Box::new(DeliveryCancelled { delivery, reason, why, by, charged, unanswered }))
}
