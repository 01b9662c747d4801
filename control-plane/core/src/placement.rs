//! Placement: which general and which instance get a delivery that may be leased.
//!
//! Nothing here grows with the fleet: at most 16 generals and two instances are weighed. Who may not begin work is not among
//! those drawn from: held or leaving, its breaker open, its provider's limit reached, no free slot (`pool.rs`).

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use mindos_model::{DeliveryId, Strategy, Token};
use smallvec::smallvec;

use crate::aside::Wanted;
use crate::decide::{Context, Decision};
use crate::degrade::Spender;
use crate::durable::Durable;
use crate::event::{Delivery, Event, Phase};
use crate::input::Entropy;
use crate::output::{Assign, InstanceState, Output, PlaneMessage};
use crate::pool::{MemberIdx, Pool};
use crate::queue::QueueId;
use crate::record::{Choice, Degraded, DeliveryLeased, Load, Record};
use crate::registry::GeneralIdx;
use crate::replay::Room;
use crate::routing::{RouteIdx, Rule};
use crate::soft::Soft;
use crate::spend::Granted;

/// Generals weighed for one delivery.
pub(crate) const GENERALS_WEIGHED_MAX: usize = 16;

/// Instances set aside that a record names.
const EXCLUDED_NAMED_MAX: usize = 4;

/// How an instance is drawn from those with a free slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Drawing {
    /// The better of two drawn at random, by their scores.
    #[default]
    BetterOfTwo,
    /// One after the other.
    RoundRobin,
    /// The one with the smallest share of its slots taken, of all.
    LeastLoaded,
}

/// Why a delivery was not leased.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Unplaced {
    /// The queue's generals have no free slot.
    NoSlot,
    /// Those with a free slot have another delivery of the event, or are not for it.
    Taken,
    /// The general or arm that the lane wants has no free slot, or others wait longer for it.
    Aside { wanted: Wanted, behind: bool },
}

impl Durable {
    pub(crate) fn place(&self, queue: QueueId, id: DeliveryId, context: Context<'_>) -> Result<Decision, Unplaced> {
        let (event, delivery) = self.events.delivery(id).expect("queues name open deliveries");
        let mut entropy = context.entropy;
        let mut choice = Choice::default();
        let mut degraded = None;
        let opinions = self.opinion_weight(event.route, &mut entropy, &mut choice);
        let general = match queue {
            QueueId::General(general) if context.soft.free.contains(&general) => {
                // Fixed when it was accepted, and kept out since.
                if self.keeps_out(self.routing.rule(event.route), general).is_some() {
                    return Err(Unplaced::Taken);
                }
                general
            }
            QueueId::General(_) => return Err(Unplaced::NoSlot),
            QueueId::Shadow(route) => self.choose_shadow(route, event, context.soft, &mut entropy, &mut choice)?,
            QueueId::Route(route) => {
                let rule = self.routing.rule(route);
                let substitutes = self.substitutes(rule, Spender::open(event, id.event), context);
                let weighed = (context.soft, opinions);
                let chosen = match &substitutes {
                    Some(substitutes) => {
                        let of = (event, delivery);
                        self.choose_cheaper(route, of, substitutes, weighed, &mut entropy, &mut choice)
                    }
                    None if self.lists_generals(route) => {
                        self.choose_listed(route, (event, delivery.lane), context.soft, &mut entropy, &mut choice)
                    }
                    None => self.choose(rule, route, event, weighed, &mut entropy, &mut choice),
                };
                let general = chosen.map_err(|unplaced| self.unless_others_may(route, unplaced, context.soft))?;
                degraded = substitutes.and_then(|substitutes| self.degraded(rule, event, &substitutes, general));
                general
            }
        };
        let rule = self.routing.rule(event.route);
        let drawn = match self.draw_version(event, general, context, &mut choice) {
            Some(found) => found,
            None => self.draw(rule, (general, event.replay.is_some()), context, opinions, &mut entropy, &mut choice),
        };
        // Work of another route may go to those that are not for this one's.
        let picks = rule.route.picks_instances();
        let member = drawn.ok_or(if picks { Unplaced::Taken } else { Unplaced::NoSlot })?;
        self.note_kept_out(rule, &mut choice);
        let mut granted = None;
        if !self.budgets.is_empty() {
            let keeps_ceilings = context.soft.member(member).keeps_ceilings;
            match self.reserve(id, (event, delivery), general, keeps_ceilings, context) {
                Ok(found) => granted = found,
                Err(over) if event.replay.is_some() => {
                    return match self.room_for_replay(&over, id.event, context) {
                        Room::Soon => Err(Unplaced::Taken),
                        Room::AtReset => Ok(Decision::default().with(Durable::over_budget(id, over))),
                        Room::Never => Ok(Decision::default().with(Durable::replay_over_budget(id))),
                    };
                }
                // A shadow is never set aside.
                Err(_) if delivery.terms().shadow => {
                    return Ok(Decision::default().with(crate::shadow::ended(
                        id,
                        event.came_to_nothing(),
                        None,
                        false,
                    )));
                }
                Err(over) => return Ok(Decision::default().with(Durable::over_budget(id, over))),
            }
        }
        Ok(self.lease(id, event, delivery, general, member, choice, granted, degraded, context))
    }

    #[expect(clippy::too_many_arguments, reason = "one caller, which has them all at hand")]
    fn lease(
        &self,
        id: DeliveryId,
        event: &Event,
        delivery: &Delivery,
        general: GeneralIdx,
        member: MemberIdx,
        mut choice: Choice,
        granted: Option<Granted>,
        degraded: Option<Box<Degraded>>,
        context: Context<'_>,
    ) -> Decision {
        let rule = self.routing.rule(event.route);
        let route = &rule.route;
        let member = context.soft.member(member);
        let variant = self.variant((event, delivery), rule, general, member, degraded.is_some());
        if let Some(weighing) = &mut choice.feedback {
            weighing.tidy();
        }
        if let Some(siting) = &mut choice.siting {
            siting.tidy();
        }
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
            degraded,
            variant,
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
            mode: event.mode(delivery),
        };
        let message = PlaneMessage::Assign(Box::new(assign));
        Decision {
            records: smallvec![Record::DeliveryLeased(Box::new(record))],
            outputs: smallvec![Output::Send { session: member.session, message }],
        }
    }

    fn choose(
        &self,
        rule: &Rule,
        route: RouteIdx,
        event: &Event,
        (soft, opinions): (&Soft, Option<u32>),
        entropy: &mut Entropy,
        choice: &mut Choice,
    ) -> Result<GeneralIdx, Unplaced> {
        let Some(free) = self.fitting_of(route, soft) else { return Err(Unplaced::NoSlot) };
        self.choose_among(rule, event, (&rule.members, &free), (soft, opinions), entropy, choice)
    }

    /// One of the generals that may have it, of those that have a slot.
    pub(crate) fn choose_among(
        &self,
        rule: &Rule,
        event: &Event,
        (members, free): (&BTreeSet<GeneralIdx>, &BTreeSet<GeneralIdx>),
        (soft, opinions): (&Soft, Option<u32>),
        entropy: &mut Entropy,
        choice: &mut Choice,
    ) -> Result<GeneralIdx, Unplaced> {
        match rule.route.strategy {
            Strategy::RoundRobin => {
                let behind = rule.cursor.map_or(Bound::Unbounded, Bound::Excluded);
                let next = free.range((behind, Bound::Unbounded)).next();
                let general = *next.or_else(|| free.first()).ok_or(Unplaced::NoSlot)?;
                self.weigh(general, soft, choice);
                Ok(general)
            }
            Strategy::Broadcast
            | Strategy::LoadBalanced
            | Strategy::Race
            | Strategy::Shadow
            | Strategy::Sticky
            | Strategy::Failover
            | Strategy::Split => {
                let siblings = |phase: &Phase| match phase {
                    Phase::Leased(lease) => Some(lease.general),
                    Phase::Waiting { .. } | Phase::Parked { .. } | Phase::Succeeded | Phase::Cancelled => None,
                };
                // A shadow stands in nobody's way.
                let count = event.deliveries.iter().filter(|delivery| !delivery.terms().shadow);
                let taken: Vec<_> = count.filter_map(|d| d.done_by.or(siblings(&d.phase))).collect();
                // Begin anywhere, so that the first ones in order are not preferred in a large fleet.
                let start = GeneralIdx(entropy.below(u64::from(self.registry.width())) as u32);
                let around = free.range(start..).chain(free.range(..start));
                let candidates: Vec<_> = around.copied().take(GENERALS_WEIGHED_MAX).collect();
                let mut best: Option<(GeneralIdx, Load, Option<u32>)> = None;
                for general in candidates.iter().copied().filter(|idx| !taken.contains(idx)) {
                    let load = self.weigh(general, soft, choice);
                    let opinion = opinions.map(|weight| {
                        let factor = self.general_factor(&self.registry.general(general).key, weight);
                        choice.feedback.get_or_insert_default().generals.push(factor);
                        factor
                    });
                    let factor = match (opinion, self.prefer_general(rule, general, choice)) {
                        (Some(opinion), Some(preference)) => Some(opinion * preference / 1000),
                        (opinion, preference) => opinion.or(preference),
                    };
                    if best.is_none_or(|(_, least, of_least)| load.is_less(factor, least, of_least)) {
                        best = Some((general, load, factor));
                    }
                }
                if let Some((general, _, _)) = best {
                    return Ok(general);
                }
                let Some(again) = candidates.first() else { return Err(Unplaced::NoSlot) };
                // Another general would be better, but where there is none the work is not stranded.
                let other_is_there = members.iter().any(|idx| !taken.contains(idx) && self.has_fit(rule, *idx, soft));
                if other_is_there { Err(Unplaced::Taken) } else { Ok(*again) }
            }
        }
    }

    /// Generals that the route could choose and that have a slot at an instance which is one for it.
    pub(crate) fn fitting_of<'a>(&self, route: RouteIdx, soft: &'a Soft) -> Option<Cow<'a, BTreeSet<GeneralIdx>>> {
        let free = soft.free_of(route)?;
        let rule = self.routing.rule(route);
        if !rule.route.picks_instances() {
            return Some(Cow::Borrowed(free));
        }
        Some(Cow::Owned(free.iter().copied().filter(|general| self.has_fitting(rule, *general, soft)).collect()))
    }

    /// Whether the general has a slot at an instance which is one for the route.
    pub(crate) fn has_fitting(&self, rule: &Rule, general: GeneralIdx, soft: &Soft) -> bool {
        soft.free.contains(&general)
            && (!rule.route.picks_instances() || {
                let asks = self.asks(rule, general);
                let fits = |idx: &MemberIdx| asks.fit(&soft.member(*idx).profile);
                soft.pool(general).is_some_and(|pool| pool.free.iter().any(fits))
            })
    }

    /// What has no slot for one event may have one for another, where not all of them may go to the same generals.
    fn unless_others_may(&self, route: RouteIdx, unplaced: Unplaced, soft: &Soft) -> Unplaced {
        let Some(cheaper) = self.routing.rule(route).cheaper.as_deref() else { return unplaced };
        let is_free = || soft.free_of(route).is_some_and(|free| !free.is_empty()) || cheaper.is_free(soft);
        if matches!(unplaced, Unplaced::NoSlot) && is_free() { Unplaced::Taken } else { unplaced }
    }

    fn lists_generals(&self, route: RouteIdx) -> bool {
        let strategy = self.routing.rule(route).route.strategy;
        matches!(strategy, Strategy::Sticky | Strategy::Failover | Strategy::Split)
    }

    pub(crate) fn weigh(&self, general: GeneralIdx, soft: &Soft, choice: &mut Choice) -> Load {
        let load = soft.pool(general).map(|pool| pool.load).unwrap_or_default();
        choice.generals.push((self.registry.general(general).key.clone(), load));
        load
    }
}

impl Durable {
    /// An instance of a general for one more lease.
    fn draw(
        &self,
        rule: &Rule,
        (general, is_replay): (GeneralIdx, bool),
        context: Context<'_>,
        opinions: Option<u32>,
        entropy: &mut Entropy,
        choice: &mut Choice,
    ) -> Option<MemberIdx> {
        let Context { soft, limits, now, .. } = context;
        let pool = soft.pool(general)?;
        let asks = self.asks(rule, general);
        let is_ours = |idx: &MemberIdx| asks.is_nothing() || asks.fit(&soft.member(*idx).profile);
        // A trial is for live work: only that tells whether an instance has recovered.
        let is_kept = |idx: &MemberIdx| is_replay && pool.trials.contains(idx);
        let fits = |idx: &MemberIdx| is_ours(idx) && !is_kept(idx);
        let fitting: Vec<MemberIdx>;
        let free = if asks.is_nothing() && (!is_replay || pool.trials.is_empty()) {
            &pool.free
        } else {
            fitting = pool.free.iter().copied().filter(fits).collect();
            &fitting
        };
        if free.is_empty() {
            return None;
        }
        choice.free = u32::try_from(free.len()).unwrap_or(u32::MAX);
        choice.connected = pool.members;
        // Whose trial it is waits for nobody's luck: else it would be out for long in a large pool.
        let trial = pool.trials.iter().rev().copied().find(fits);
        if !pool.aside.is_empty() {
            self.note_excluded(pool, trial, soft, choice);
        }
        if free.len() < pool.free.len() {
            let others = pool.free.iter().map(|idx| soft.member(*idx));
            let others = others.filter_map(|member| Some((member, asks.excludes(&member.profile)?)));
            choice.aside += u32::try_from(others.clone().count()).unwrap_or(u32::MAX);
            let room = EXCLUDED_NAMED_MAX.saturating_sub(choice.excluded.len());
            choice.excluded.extend(others.take(room).map(|(member, why)| (member.instance.clone(), why)));
        }
        let mut weigh = |idx: MemberIdx, trial: bool| {
            let mut weight = soft.weight(pool, idx, now);
            if trial {
                (weight.score, weight.trial) = (0, true);
            }
            choice.instances.push((Arc::clone(&soft.member(idx).instance), weight));
            let preference = self.prefer_instance(rule, general, &soft.member(idx).profile, choice);
            let score = u64::from(weight.score) * u64::from(preference);
            let Some(of) = opinions else { return score };
            let key = &self.registry.general(general).key;
            let factor = self.version_factor(key, &soft.member(idx).version, of);
            choice.feedback.get_or_insert_default().instances.push(factor);
            score * u64::from(factor)
        };
        if let Some(trial) = trial {
            weigh(trial, true);
            return Some(trial);
        }
        let chosen = match limits.drawing {
            Drawing::BetterOfTwo => {
                let count = free.len() as u64;
                let at = entropy.below(count) as usize;
                let first = *free.get(at)?;
                let score = weigh(first, false);
                if count == 1 {
                    return Some(first);
                }
                // Any but the first.
                let other = entropy.below(count - 1) as usize;
                let second = free[other + usize::from(other >= at)];
                return Some(if weigh(second, false) < score { second } else { first });
            }
            Drawing::RoundRobin => {
                let after = free.iter().filter(|idx| **idx > pool.last).min();
                *after.or_else(|| free.iter().min())?
            }
            Drawing::LeastLoaded => {
                let begin = entropy.below(free.len() as u64) as usize;
                let around = free[begin..].iter().chain(&free[..begin]).copied();
                let load = |idx: MemberIdx| soft.member(idx).load;
                around.reduce(|best, next| if load(next).is_below(load(best)) { next } else { best })?
            }
        };
        weigh(chosen, false);
        Some(chosen)
    }

    /// Names the first few that were not drawn from, and counts all.
    #[cold]
    fn note_excluded(&self, pool: &Pool, trial: Option<MemberIdx>, soft: &Soft, choice: &mut Choice) {
        let aside = pool.aside.iter().copied().filter(|idx| Some(*idx) != trial);
        choice.aside = u32::try_from(aside.clone().count()).unwrap_or(u32::MAX);
        for member in aside.map(|idx| soft.member(idx)).take(EXCLUDED_NAMED_MAX) {
            let leaves = soft.instances.get(&member.instance).is_some_and(|i| i.state == InstanceState::Draining);
            let draining = leaves || self.registry.instance_holds(&member.instance).draining;
            let why = member.excluded(draining);
            choice.excluded.extend(why.map(|why| (member.instance.clone(), why)));
        }
    }
}
