//! The queues of the state: found by their ids, and whose lanes get a turn.

use mindos_model::DeliveryId;

use crate::durable::Durable;
use crate::event::{Delivery, Event, Phase};
use crate::queue::{LaneIdx, Queue, QueueId};
use crate::tenants::TenantIdx;

impl Durable {
    /// Gives the lane its turn if something at its head may be leased.
    pub(crate) fn touch(&mut self, queue: QueueId, lane: LaneIdx) {
        let found = self.queue(queue).lane(lane).head().find_map(|id| {
            let (event, delivery) = self.events.delivery(id)?;
            self.is_eligible(event, delivery).then_some(event.priority)
        });
        if let Some(priority) = found {
            self.queue_mut(queue).enqueue(lane, priority);
            // Also when it stands in turn already: what it waited for may have changed.
            self.mark_dirty(queue);
        }
    }

    /// The first delivery at the lane's head that waits and whose time has come.
    pub(crate) fn first_eligible(&self, queue: QueueId, lane: LaneIdx) -> Option<DeliveryId> {
        let mut head = self.queue(queue).lane(lane).head();
        head.find(|id| self.events.delivery(*id).is_some_and(|(event, delivery)| self.is_eligible(event, delivery)))
    }

    /// Whether a delivery at its lane's head may be leased.
    pub(crate) fn is_eligible(&self, event: &Event, delivery: &Delivery) -> bool {
        matches!(delivery.phase, Phase::Waiting { not_before } if not_before <= self.agenda.fired)
            && self.routing.rule(event.route).holds.is_none()
    }

    pub(crate) fn mark_dirty(&mut self, queue_id: QueueId) {
        let queue = self.queue_mut(queue_id);
        if !queue.dirty {
            queue.dirty = true;
            let served = queue.served;
            self.agenda.dirty.add(self.tenant_of(queue_id), queue_id, served);
        }
    }

    pub(crate) fn tenant_of(&self, queue: QueueId) -> TenantIdx {
        match queue {
            QueueId::General(general) => self.registry.general(general).tenant_idx,
            QueueId::Route(route) | QueueId::Shadow(route) => self.routing.rule(route).tenant_idx,
        }
    }

    pub(crate) fn queues(&self) -> impl Iterator<Item = QueueId> + '_ {
        let generals = self.registry.iter().map(|(idx, _)| QueueId::General(idx));
        let shadows = self.routing.iter().filter(|(_, rule)| rule.shadow.is_some());
        let routes = self.routing.iter().map(|(idx, _)| QueueId::Route(idx));
        generals.chain(routes).chain(shadows.map(|(idx, _)| QueueId::Shadow(idx)))
    }

    pub(crate) fn queue(&self, id: QueueId) -> &Queue {
        match id {
            QueueId::General(general) => &self.registry.general(general).queue,
            QueueId::Route(route) => &self.routing.rule(route).queue,
            QueueId::Shadow(route) => self.routing.rule(route).shadow_queue(),
        }
    }

    pub(crate) fn queue_mut(&mut self, id: QueueId) -> &mut Queue {
        match id {
            QueueId::General(general) => &mut self.registry.general_mut(general).queue,
            QueueId::Route(route) => &mut self.routing.rule_mut(route).queue,
            QueueId::Shadow(route) => &mut self.routing.rule_mut(route).shadow_side(&self.hasher).queue,
        }
    }
}
