//! The order in which waiting work is looked at.

use std::time::Duration;

use mindos_model::{DeliveryId, Seq, Status, TenantName, Timestamp};

use crate::durable::Durable;
use crate::event::Phase;
use crate::queue::QueueId;
use crate::registry::GeneralIdx;
use crate::weights::Weights;

/// How often a lane that nobody waits behind is looked at, while its head could block it.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

impl Durable {
    /// The next delivery of the queue that may be leased. Lanes that have none lose their turn.
    pub(crate) fn next_in(&mut self, queue: QueueId) -> Option<DeliveryId> {
        loop {
            let lane = self.queue_mut(queue).next()?;
            if let Some(delivery) = self.first_eligible(queue, lane) {
                return Some(delivery);
            }
            self.queue_mut(queue).turn(false);
        }
    }

    /// The lane in front gave out a delivery: the next one is of another flow.
    pub(crate) fn gave(&mut self, queue: QueueId, weights: &Weights) {
        let Some(lane) = self.queue_mut(queue).next() else { return };
        let has_more = self.first_eligible(queue, lane).is_some();
        self.queue_mut(queue).gave(has_more, weights);
    }

    /// Ends the turn of a queue. With `rests` it is off the agenda, until something wakes it.
    pub(crate) fn end_turn(&mut self, id: QueueId, has_given: bool, rests: bool, weights: &Weights) {
        let tenant = match id {
            QueueId::General(general) => self.registry.get(general).map(|known| &known.key.tenant),
            QueueId::Route(route) | QueueId::Shadow(route) => Some(&self.routing.rule(route).tenant),
        };
        let weight = tenant.map_or(1, |tenant| weights.of_tenant(tenant));
        let turn = self.agenda.dirty.end(weight);
        let queue = self.queue_mut(id);
        queue.put_back();
        queue.dirty = !rests;
        if has_given {
            queue.served = turn;
        }
        if !rests {
            let served = queue.served;
            self.agenda.dirty.add(self.tenant_of(id), id, served);
        }
    }

    /// Has every queue with an overflow looked at.
    pub(crate) fn look_at_overflows(&mut self) {
        let overflows = |queue: &QueueId| !self.queue(*queue).overflow.is_empty();
        let queues: Vec<_> = self.queues().filter(overflows).collect();
        self.agenda.overflows.extend(queues);
    }

    /// Forgets when blocked lanes were to be looked at, up to now: for who only folds, and looks at none.
    pub fn forget_blocks(&mut self) {
        let coming = self.agenda.blocks.split_off(&(self.at, DeliveryId::new(Seq::ZERO, 0)));
        self.agenda.blocks = coming;
    }

    /// Gives a queue another turn, if it is there and has lanes.
    pub(crate) fn look_at_queue(&mut self, queue: QueueId) {
        let is_there = !matches!(queue, QueueId::General(general) if self.registry.get(general).is_none());
        if is_there && self.queue(queue).ready() > 0 {
            self.mark_dirty(queue);
        }
    }

    /// A general may take work: its own, and that of the routes that could choose it.
    pub(crate) fn wake(&mut self, general: GeneralIdx) {
        let Some(known) = self.registry.get(general) else { return };
        let mut queues = Vec::with_capacity(1 + known.routes.len());
        queues.push(QueueId::General(general));
        queues.extend(known.routes.iter().copied().map(QueueId::Route));
        for queue in queues {
            if self.queue(queue).ready() > 0 {
                self.mark_dirty(queue);
            }
        }
    }

    /// Sets the times at which waiting deliveries block their lanes by the routes in force. Those set before stay: what they
    /// find too early is looked at again.
    pub(crate) fn time_blocks(&mut self, tenant: &TenantName) {
        let of_tenant = self.events.iter().filter(|(_, event)| event.tenant == *tenant);
        for (id, event, delivery) in
            of_tenant.flat_map(|(seq, event)| event.deliveries(seq).map(move |(id, d)| (id, event, d)))
        {
            let Phase::Waiting { not_before } = delivery.phase else { continue };
            let Some(since) = delivery.setback().held_since else { continue };
            let block_max = self.routing.rule(event.route).route.block_max;
            let blocked = (since + block_max) - Duration::from_millis(delivery.setback().held_ms);
            if not_before > blocked {
                self.agenda.blocks.insert((blocked, id));
            }
        }
    }

    /// When to see again whether a delivery that waits for itself blocks its lane.
    pub(crate) fn look_again(&self, id: DeliveryId, now: Timestamp) -> Option<Timestamp> {
        let (event, delivery) = self.events.delivery(id)?;
        let waits = delivery.status() == Status::Waiting && !self.is_eligible(event, delivery);
        (waits && delivery.setback().held_since.is_some()).then(|| now + LOOK_AGAIN)
    }
}
