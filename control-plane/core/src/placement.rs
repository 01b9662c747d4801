//! Placement: which general and which instance get a delivery that may be leased.
//!
//! Nothing here grows with the fleet: at most 16 generals and two instances are weighed.

use std::ops::Bound;
use std::sync::Arc;

use mindos_model::{DeliveryId, Strategy, Token};
use smallvec::smallvec;

use crate::decide::{Context, Decision};
use crate::durable::Durable;
use crate::event::{Delivery, Event, Phase};
use crate::input::Entropy;
use crate::output::{Assign, Output, PlaneMessage};
use crate::queue::QueueId;
use crate::record::{Choice, DeliveryLeased, Load, Record};
use crate::registry::GeneralIdx;
use crate::routing::RouteIdx;
use crate::soft::{MemberIdx, Soft};
use crate::spend::Granted;

/// Generals weighed for one delivery.
const GENERALS_WEIGHED_MAX: usize = 16;

/// Why a delivery was not leased.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Unplaced {
    /// The queue's generals have no free slot.
    NoSlot,
    /// Those with a free slot have another delivery of the event.
    Taken,
}

impl Durable {
    pub(crate) fn place(&self, queue: QueueId, id: DeliveryId, context: Context<'_>) -> Result<Decision, Unplaced> {
        let (event, delivery) = self.events.delivery(id).expect("queues name open deliveries");
        let mut entropy = context.entropy;
        let mut choice = Choice::default();
        let general = match queue {
            QueueId::General(general) if context.soft.free.contains(&general) => general,
            QueueId::General(_) => return Err(Unplaced::NoSlot),
            QueueId::Route(route) => self.choose(route, event, context.soft, &mut entropy, &mut choice)?,
        };
        let member = draw(general, context.soft, &mut entropy, &mut choice).ok_or(Unplaced::NoSlot)?;
        let mut granted = None;
        if !self.budgets.is_empty() {
            let keeps_ceilings = context.soft.member(member).keeps_ceilings;
            match self.reserve(id, (event, delivery), general, keeps_ceilings, context) {
                Ok(found) => granted = found,
                Err(over) => return Ok(Decision::default().with(Durable::over_budget(id, over))),
            }
        }
        Ok(self.lease(id, event, delivery, general, member, choice, granted, context))
    }

    #[expect(clippy::too_many_arguments, reason = "one caller, which has them all at hand")]
    fn lease(
        &self,
        id: DeliveryId,
        event: &Event,
        delivery: &Delivery,
        general: GeneralIdx,
        member: MemberIdx,
        choice: Choice,
        granted: Option<Granted>,
        context: Context<'_>,
    ) -> Decision {
        let route = &self.routing.rule(event.route).route;
        let member = context.soft.member(member);
        let token = Token::new(self.epoch, delivery.token.term + 1);
        let general = self.registry.general(general).key.clone();
        let lease = context.limits.lease;
        let (reservation, ceilings) = granted.map_or((None, None), |Granted { reservation, ceilings }| {
            (Some(Box::new(reservation)), Some(Box::new(ceilings)))
        });
        let record = DeliveryLeased {
            delivery: id,
            token,
            general: general.clone(),
            instance: member.instance.clone(),
            boot: member.boot.clone(),
            attempt: delivery.attempts + 1,
            lease_ms: u32::try_from(lease.as_millis()).unwrap_or(u32::MAX),
            choice,
            reservation,
        };
        let assign = Assign {
            delivery: id,
            token,
            general,
            attempt: record.attempt,
            lane: event.lane.clone(),
            place: delivery.place,
            payload: event.payload,
            lease,
            deadline: route.deadline,
            ceilings,
        };
        let message = PlaneMessage::Assign(Box::new(assign));
        Decision {
            records: smallvec![Record::DeliveryLeased(Box::new(record))],
            outputs: smallvec![Output::Send { session: member.session, message }],
        }
    }

    fn choose(
        &self,
        route: RouteIdx,
        event: &Event,
        soft: &Soft,
        entropy: &mut Entropy,
        choice: &mut Choice,
    ) -> Result<GeneralIdx, Unplaced> {
        let rule = self.routing.rule(route);
        let Some(free) = soft.free_of(route) else { return Err(Unplaced::NoSlot) };
        match rule.route.strategy {
            Strategy::RoundRobin => {
                let behind = rule.cursor.map_or(Bound::Unbounded, Bound::Excluded);
                let next = free.range((behind, Bound::Unbounded)).next();
                let general = *next.or_else(|| free.first()).ok_or(Unplaced::NoSlot)?;
                self.weigh(general, soft, choice);
                Ok(general)
            }
            Strategy::Broadcast | Strategy::LoadBalanced => {
                let siblings = |phase: &Phase| match phase {
                    Phase::Leased(lease) => Some(lease.general),
                    Phase::Waiting { .. } | Phase::Parked { .. } | Phase::Succeeded | Phase::Cancelled => None,
                };
                let taken: Vec<_> = event.deliveries.iter().filter_map(|d| d.done_by.or(siblings(&d.phase))).collect();
                // Begin anywhere, so that the first ones in order are not preferred in a large fleet.
                let start = GeneralIdx(entropy.below(u64::from(self.registry.width())) as u32);
                let around = free.range(start..).chain(free.range(..start));
                let candidates: Vec<_> = around.copied().take(GENERALS_WEIGHED_MAX).collect();
                let mut best: Option<(GeneralIdx, Load)> = None;
                for general in candidates.iter().copied().filter(|idx| !taken.contains(idx)) {
                    let load = self.weigh(general, soft, choice);
                    if best.is_none_or(|(_, least)| load.is_below(least)) {
                        best = Some((general, load));
                    }
                }
                if let Some((general, _)) = best {
                    return Ok(general);
                }
                let Some(again) = candidates.first() else { return Err(Unplaced::NoSlot) };
                // Another general would be better, but where there is none the work is not stranded.
                let other_is_there = rule
                    .members
                    .iter()
                    .any(|idx| !taken.contains(idx) && soft.pool(*idx).is_some_and(|p| p.members > 0));
                if other_is_there { Err(Unplaced::Taken) } else { Ok(*again) }
            }
        }
    }

    fn weigh(&self, general: GeneralIdx, soft: &Soft, choice: &mut Choice) -> Load {
        let load = soft.pool(general).map(|pool| pool.load).unwrap_or_default();
        choice.generals.push((self.registry.general(general).key.clone(), load));
        load
    }
}

/// The better of two instances drawn from those with a free slot.
fn draw(general: GeneralIdx, soft: &Soft, entropy: &mut Entropy, choice: &mut Choice) -> Option<MemberIdx> {
    let free = &soft.pool(general)?.free;
    let count = free.len() as u64;
    let first = *free.get(entropy.below(count) as usize)?;
    let second = free[entropy.below(count) as usize];
    let weighed = |idx: MemberIdx| (Arc::clone(&soft.member(idx).instance), soft.member(idx).load);
    choice.free = u32::try_from(count).unwrap_or(u32::MAX);
    choice.instances.push(weighed(first));
    if first == second {
        return Some(first);
    }
    choice.instances.push(weighed(second));
    let better = if soft.member(second).load.is_below(soft.member(first).load) { second } else { first };
    Some(better)
}
