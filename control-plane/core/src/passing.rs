//! Folding of what records say about deliveries: leased, let go of, set aside, put back, and ended.

use mindos_model::{DeliveryId, ParkReason, Seq, Timestamp, Token};

use crate::account::Over;
use crate::breaker::Ended as Verdict;
use crate::budget::Amount;
use crate::durable::{Change, Durable, held_by};
use crate::event::{Lease, Phase};
use crate::queue::{LaneIdx, QueueId};
use crate::recent::Ended;
use crate::record::{
    AttemptEnded, DeliveryCancelled, DeliveryLeased, DeliveryParked, DeliveryRedriven, DeliverySettled, Next,
};
use crate::snapshot::Ending;
use crate::terms::Terms;

impl Durable {
    pub(crate) fn delivery_leased(&mut self, at: Timestamp, record: &DeliveryLeased) -> Change {
        let DeliveryLeased { delivery: id, token, general, instance, boot, reservation, .. } = record;
        let spend = reservation.as_ref().map(|reservation| self.reserved(*id, at, reservation));
        let general = self.registry.find(general).expect("records name generals registered before them");
        let event = self.events.get_mut(id.event).expect("records name deliveries created before them");
        let delivery = &mut event.deliveries[id.ordinal as usize - 1];
        let Phase::Waiting { not_before } = delivery.phase else {
            panic!("delivery {id} was leased while it did not wait")
        };
        if not_before > Timestamp(0) {
            // Fired long ago where the plane runs, and never where records are only folded.
            self.agenda.retries.remove(&(not_before, *id));
        }
        assert!(*token > delivery.token, "tokens of delivery {id} do not grow");
        delivery.release_lane(at);
        delivery.token = *token;
        let (instance, held) = held_by(&mut self.held, instance);
        held.insert(*id, general);
        delivery.phase =
            Phase::Leased(Lease { general, instance: instance.clone(), boot: boot.clone(), since: at, spend });
        let (queue_id, lane) = (delivery.queue, delivery.lane);
        if let QueueId::Route(route) = queue_id {
            self.routing.rule_mut(route).cursor = Some(general);
        }
        self.queue_mut(queue_id).leased(lane);
        self.made_room(queue_id);
        self.registry.general_mut(general).leased += 1;
        Change::Leased { delivery: *id, general, instance }
    }

    pub(crate) fn attempt_ended(&mut self, seq: Seq, at: Timestamp, record: &AttemptEnded) -> Change {
        let AttemptEnded { delivery: id, token, cause, message: _, counted, next, usage: _, charged, over } = record;
        let verdict = Verdict::of(*cause, *counted);
        let (queue, lane, change) = self.release(*id, at, *charged, verdict);
        let delivery = self.events.delivery_mut(*id);
        assert_eq!(delivery.token, *token, "attempt of delivery {id} ended under another token");
        delivery.attempts += u32::from(*counted);
        delivery.setback_mut().last_cause = Some(*cause);
        match *next {
            Next::Wait { not_before } => {
                delivery.phase = Phase::Waiting { not_before };
                delivery.setback_mut().held_since = Some(at);
                let expires = delivery.terms().expires;
                if expires > Timestamp(0) {
                    // It may have passed while the delivery was leased.
                    self.agenda.expiries.insert((expires, *id));
                }
                let delivery = self.events.delivery_mut(*id);
                let held_ms = delivery.setback().held_ms;
                self.queue_mut(queue).unleased(lane);
                if not_before > self.agenda.fired {
                    self.agenda.retries.insert((not_before, *id));
                }
                let block_max = self.rule_of(*id).block_max;
                let blocked = (at + block_max) - std::time::Duration::from_millis(held_ms);
                if not_before > blocked {
                    self.agenda.blocks.insert((blocked, *id));
                }
                self.touch(queue, lane);
            }
            Next::Park { reason } => {
                delivery.phase = Phase::Parked { reason, since: at };
                self.leave_lane(queue, lane, *id, false);
                if let Some(over) = over {
                    self.park_over(seq, at, *id, over);
                }
            }
        }
        change
    }

    pub(crate) fn delivery_settled(&mut self, at: Timestamp, record: &DeliverySettled) -> Change {
        let DeliverySettled { delivery: id, token, charged, .. } = record;
        if let Some(charged) = charged.filter(|_| !self.is_replay(*id)) {
            self.learn(*id, charged);
        }
        let (queue, lane, change) = self.release(*id, at, *charged, Verdict::Good);
        assert_eq!(self.events.delivery_mut(*id).token, *token, "delivery {id} settled under another token");
        if let Change::Released { general, .. } = &change {
            self.events.delivery_mut(*id).done_by = Some(*general);
        }
        self.recent.insert(*id, Ended { token: *token, ending: Ending::Held });
        self.leave_lane(queue, lane, *id, false);
        self.end(*id, Phase::Succeeded);
        change
    }

    pub(crate) fn delivery_cancelled(&mut self, at: Timestamp, record: &DeliveryCancelled) -> Change {
        let DeliveryCancelled { delivery: id, reason: _, why: _, by: _, charged, unanswered } = record;
        let event = self.events.get(id.event).expect("records name deliveries created before them");
        let delivery = &event.deliveries[id.ordinal as usize - 1];
        let (queue, lane, token, place) = (delivery.queue, delivery.lane, delivery.token, delivery.place);
        let mut change = Change::Nothing;
        if delivery.lease().is_none() && token != Token::default() {
            // Whoever held it may still report.
            let ending = if delivery.has_answered(token) { Ending::Answered } else { Ending::Unanswered };
            self.recent.insert(*id, Ended { token, ending });
        }
        match delivery.phase {
            Phase::Waiting { not_before } => {
                self.agenda.retries.remove(&(not_before, *id));
                self.leave_lane(queue, lane, *id, true);
            }
            Phase::Leased(_) => {
                (_, _, change) = self.release(*id, at, charged.as_deref().copied(), Verdict::Other);
                let ending = if *unanswered { Ending::Unanswered } else { Ending::Held };
                self.recent.insert(*id, Ended { token, ending });
                self.leave_lane(queue, lane, *id, false);
            }
            Phase::Parked { reason: ParkReason::BacklogFull, .. } => {
                self.queue_mut(queue).overflow_out(lane, place, *id);
            }
            Phase::Parked { .. } => self.unpark_over(*id, false),
            Phase::Succeeded | Phase::Cancelled => panic!("delivery {id} was cancelled after it had ended"),
        }
        self.end(*id, Phase::Cancelled);
        change
    }

    pub(crate) fn delivery_parked(&mut self, seq: Seq, at: Timestamp, record: &DeliveryParked) -> Change {
        let DeliveryParked { delivery: id, reason, over } = record;
        let delivery = self.events.delivery_mut(*id);
        let Phase::Waiting { not_before } = delivery.phase else {
            panic!("delivery {id} was parked while it did not wait")
        };
        delivery.release_lane(at);
        delivery.phase = Phase::Parked { reason: *reason, since: at };
        let (queue, lane) = (delivery.queue, delivery.lane);
        self.agenda.retries.remove(&(not_before, *id));
        self.leave_lane(queue, lane, *id, true);
        if let Some(over) = over {
            self.park_over(seq, at, *id, over);
        }
        Change::Nothing
    }

    pub(crate) fn delivery_redriven(&mut self, seq: Seq, at: Timestamp, record: &DeliveryRedriven) -> Change {
        let DeliveryRedriven { delivery: id, place_before, why: _, by } = record;
        self.unpark_over(*id, by.is_empty());
        let event = self.events.get(id.event).expect("records name deliveries created before them");
        let (lane, flow, priority) = (event.lane.clone(), event.flow(), event.priority);
        let delivery = self.events.delivery_mut(*id);
        let Phase::Parked { reason, since } = delivery.phase else {
            panic!("delivery {id} was redriven while it was not parked")
        };
        assert_eq!(delivery.place, *place_before, "delivery {id} stood elsewhere");
        let (by_itself, terms) = (by.is_empty(), delivery.terms());
        delivery.redriven(by_itself);
        delivery.phase = Phase::Waiting { not_before: Timestamp(0) };
        delivery.place = seq;
        let over = delivery.setback_over().filter(|_| by.is_empty());
        delivery.forgive();
        if let Some(over) = over {
            delivery.setback_mut().over = Some(Box::new(Over { admitted: true, ..*over }));
        }
        let queue_id = delivery.queue;
        if reason == ParkReason::OverBudget {
            self.replay_put_back(*id, since, at);
        }
        if terms != Terms::default() {
            self.agenda.later.remove(&(terms.not_before, *id));
            if !by_itself && !terms.shadow {
                self.agenda.expiries.remove(&(terms.expires, *id));
            }
        }
        let queue = self.queue_mut(queue_id);
        let (lane, is_head) = queue.push(&lane, &flow, *id);
        if reason == ParkReason::BacklogFull {
            queue.overflow_out(lane, *place_before, *id);
        }
        if is_head {
            queue.enqueue(lane, priority);
            self.mark_dirty(queue_id);
        }
        self.events.delivery_mut(*id).lane = lane;
        Change::Nothing
    }

    /// Takes the lease off a delivery; its phase is set by the caller.
    fn release(
        &mut self,
        id: DeliveryId,
        at: Timestamp,
        charged: Option<Amount>,
        verdict: Verdict,
    ) -> (QueueId, LaneIdx, Change) {
        let event = self.events.get_mut(id.event).expect("records name deliveries created before them");
        let delivery = &mut event.deliveries[id.ordinal as usize - 1];
        let lane = delivery.lane;
        let Phase::Leased(Lease { general, instance, since, spend, .. }) = &mut delivery.phase else {
            panic!("lease of delivery {id} ended, and it had none")
        };
        let (general, instance, since, queue) = (*general, instance.clone(), *since, delivery.queue);
        let spend = spend.take();
        let (is_replay, route) = (event.replay.is_some(), event.route);
        // What is only compared says nothing of how live work goes.
        let verdict = match verdict {
            Verdict::Good | Verdict::Bad if is_replay => Verdict::Other,
            verdict => verdict,
        };
        if delivery.setback().cancel.is_some() {
            delivery.setback_mut().cancel = None;
        }
        if let Some(held) = self.held.get_mut(&instance) {
            held.remove(&id);
            if held.is_empty() {
                self.held.remove(&instance);
            }
        }
        self.registry.general_mut(general).leased -= 1;
        if let Some(spend) = spend {
            let charged = charged.unwrap_or(spend.spent.unwrap_or(spend.reserved));
            self.budgets.settle(id.event, at, &spend, charged);
            self.charged_to(route);
            if is_replay {
                self.wake_replays();
            }
        }
        (queue, lane, Change::Released { delivery: id, general, instance, since, verdict })
    }

    fn leave_lane(&mut self, queue: QueueId, lane: LaneIdx, id: DeliveryId, was_waiting: bool) {
        self.queue_mut(queue).remove(lane, id, was_waiting);
        self.touch(queue, lane);
        if was_waiting {
            self.made_room(queue);
            self.left_aside(queue);
        }
    }

    fn end(&mut self, id: DeliveryId, phase: Phase) {
        let event = self.events.get(id.event).expect("records name deliveries created before them");
        let (route, last) = (event.route, event.open == 1);
        let delivery = &event.deliveries[id.ordinal as usize - 1];
        let queue = delivery.queue;
        let terms = delivery.terms.is_some().then(|| delivery.terms());
        if last && !self.budgets.is_empty() {
            self.budgets.forget_run(&event.tenant, id.event);
        }
        let rule = self.routing.rule_mut(route);
        rule.events -= u64::from(last);
        self.tenants.ended(rule.tenant_idx);
        if let QueueId::General(general) = queue {
            self.registry.general_mut(general).bound -= 1;
        }
        if let Some(terms) = terms {
            self.untime_terms(id, terms);
        }
        self.events.end(id, phase);
    }

    fn made_room(&mut self, queue: QueueId) {
        if !self.queue(queue).overflow.is_empty() {
            self.agenda.overflows.insert(queue);
        }
    }
}
