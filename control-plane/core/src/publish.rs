//! Publishing: an event is known, refused, or accepted with all its deliveries.

use std::collections::BTreeSet;
use std::sync::Arc;

use mindos_model::{DeliveryId, ParkReason, Priority, Strategy, Timestamp, Token, limits};
use smallvec::smallvec;

use crate::decide::{Context, Decision};
use crate::degrade::Spender;
use crate::durable::Durable;
use crate::event::{Event, Phase};
use crate::guard::GuardAction;
use crate::input::{NewEvent, RequestId, Seen};
use crate::output::{Output, Published, PublishedDelivery, Rejection, Reply};
use crate::queue::QueueId;
use crate::record::{
    About, CancelReason, CancelRequested, Degraded, DeliveryCancelled, EventAccepted, Judgement, PlannedDelivery,
    Record,
};
use crate::registry::GeneralIdx;
use crate::route::{Coalesce, DELAY_MAX, SHADOW_TTL};
use crate::routing::Rule;
use crate::terms::Terms;
use crate::there::Way;

/// Where one delivery of an event is to wait.
struct Target {
    queue: QueueId,
    general: Option<GeneralIdx>,
    /// Older deliveries that it takes the place of.
    superseded: Vec<DeliveryId>,
    parked: Option<ParkReason>,
    terms: Terms,
    degraded: Option<Box<Degraded>>,
}

impl Durable {
    pub(crate) fn publish(&self, request: RequestId, event: NewEvent, context: Context<'_>) -> Decision {
        if let Some(seen) = self.dedupe.get(&event.key).or(event.seen) {
            return Decision::reply(request, self.known(&event, seen));
        }
        if self.routing.wants_judging(&event) {
            return Decision::reply(request, Ok(Reply::Unjudged(Box::new(event))));
        }
        match self.accept(event, context) {
            Ok((published, records)) => {
                let reply = Box::new(Ok(Reply::Published(published)));
                Decision { records: records.into(), outputs: smallvec![Output::Reply { request, reply }] }
            }
            Err(rejection) => Decision::reply(request, Err(rejection)),
        }
    }

    /// The first answer again.
    fn known(&self, event: &NewEvent, seen: Seen) -> Result<Reply, Rejection> {
        if seen.digest != event.digest {
            return Err(Rejection::Conflict { event: seen.event });
        }
        let open = self.events.get(seen.event);
        let route = open.map(|event| self.routing.rule(event.route).route.name.clone());
        let deliveries = open.map_or_else(Vec::new, |event| {
            let general = |queue| match queue {
                // One whose work here has ended may be gone.
                QueueId::General(general) => self.registry.get(general).map(|general| general.key.clone()),
                QueueId::Route(_) | QueueId::Shadow(_) => None,
            };
            let parked = |phase: &Phase| match phase {
                Phase::Parked { reason, .. } => Some(*reason),
                Phase::Waiting { .. } | Phase::Leased(_) | Phase::Succeeded | Phase::Cancelled => None,
            };
            let deliveries = event.deliveries(seen.event);
            let view = |(delivery, known): (DeliveryId, &crate::event::Delivery)| PublishedDelivery {
                delivery,
                general: general(known.queue),
                parked: parked(&known.phase),
            };
            deliveries.map(view).collect()
        });
        Ok(Reply::Published(Published { event: seen.event, duplicate: true, route, deliveries }))
    }

    fn accept(&self, event: NewEvent, context: Context<'_>) -> Result<(Published, Vec<Record>), Rejection> {
        let seq = self.seq.next();
        let (mut targets, mut route, mut strategy, mut fell_back_from) = (Vec::new(), None, None, None);
        let (mut guarded, mut is_degrading) = (None, false);
        let mut priority = event.priority.unwrap_or(Priority::Normal);
        if event.routed && !self.is_only_noted(&event) {
            let (idx, stopped) = match &event.asked {
                None => {
                    let matching = self.routing.matching(&event);
                    matching.expect("every tenant has a table, and it ends with a route that matches everything")
                }
                Some(asked) => {
                    let missing = self.asked(&event, asked)?;
                    debug_assert!(missing.is_none(), "the route is recorded before the event is decided");
                    let found = self.routing.find(&event.tenant, &asked.name).expect("it was recorded or refused");
                    // A replay changes nothing, and the caller chose what to repeat.
                    let guarded = || self.routing.guarded(&event, &self.routing.rule(found).route);
                    (found, if is_replay(&event) { None } else { guarded() })
                }
            };
            if event.not_before.is_some_and(|at| at > context.now + DELAY_MAX) {
                let not_before = event.not_before.unwrap_or_default();
                return Err(Rejection::TooFarAhead { not_before });
            }
            guarded = stopped;
            let is_dropped = guarded.is_some_and(|guarded| guarded.action == GuardAction::Drop);
            let way = if is_dropped { Way::straight(idx) } else { self.way(idx, context)? };
            let rule = self.routing.rule(way.route);
            if !is_dropped {
                targets = self.targets(&event, &way, rule, context)?;
                if guarded.is_some() {
                    // It waits for a person, and a shadow waits for nobody.
                    targets.retain(|target| !target.terms.shadow);
                }
                self.check_room(&targets, rule, context)?;
            }
            is_degrading = rule.cheaper.is_some();
            fell_back_from = way.from;
            route = Some(rule.route.name.clone());
            strategy = Some(rule.route.strategy);
            priority = event.priority.unwrap_or(rule.route.priority);
        }
        let mut deliveries = Vec::with_capacity(targets.len());
        let mut published = Vec::with_capacity(targets.len());
        let (mut ends, mut ended) = (Vec::new(), BTreeSet::new());
        let aside = guarded.map(|_| ParkReason::Guarded);
        for (ordinal, mut target) in (1..).zip(targets) {
            if aside.is_some() {
                // What is not trusted takes nobody's place, and has no time but that at which a person lets it go on.
                target.superseded.clear();
                target.terms = Terms { expires: target.terms.expires, ..Terms::default() };
            }
            let delivery = DeliveryId::new(seq, ordinal);
            let general = target.general.map(|idx| self.registry.general(idx).key.clone());
            let parked = aside.or(target.parked);
            published.push(PublishedDelivery { delivery, general: general.clone(), parked });
            let (terms, degraded) = (target.terms.boxed(), target.degraded);
            deliveries.push(PlannedDelivery { general, parked, terms, degraded });
            // Where others stand in, two of them may take the place of the same one.
            let is_first = |older: &DeliveryId| !is_degrading || ended.insert(*older);
            let older: Vec<_> = target.superseded.into_iter().filter(is_first).collect();
            ends.extend(older.into_iter().map(|older| self.supersede(older, delivery)));
        }
        let NewEvent { tenant, source, id, ty, kind, subject, lane, repository, actor, time, .. } = event;
        let NewEvent { key, digest, payload, judged, about, .. } = event;
        let judgement = Judgement { guarded, conditions_failed: judged.map_or(0, |judged| judged.failed) };
        let accepted = EventAccepted {
            tenant,
            source,
            id,
            ty,
            kind,
            subject,
            lane,
            repository,
            priority,
            actor,
            time,
            key,
            digest,
            payload,
            route: route.clone(),
            strategy,
            judgement: (judgement != Judgement::default()).then(|| Box::new(judgement)),
            deliveries,
            fell_back_from,
            about,
        };
        let mut records = Vec::with_capacity(1 + ends.len());
        records.push(Record::EventAccepted(Box::new(accepted)));
        records.extend(ends);
        Ok((Published { event: seq, duplicate: false, route, deliveries: published }, records))
    }

    fn targets(
        &self,
        event: &NewEvent,
        way: &Way,
        rule: &Rule,
        context: Context<'_>,
    ) -> Result<Vec<Target>, Rejection> {
        let route_queue = QueueId::Route(way.route);
        let target = |queue, general| self.target(event, queue, general, rule, context);
        if is_replay(event) {
            // For those that the shadow's targets name, which are the only ones of such a route.
            return match rule.shadow.as_ref().is_some_and(|side| !side.members.is_empty()) {
                true => Ok(vec![target(QueueId::Shadow(way.route), None)]),
                false => Err(Rejection::NoGeneral { route: rule.route.name.clone() }),
            };
        }
        if let Some(general) = way.general {
            return Ok(vec![target(QueueId::General(general), Some(general))]);
        }
        match rule.route.strategy {
            Strategy::Broadcast | Strategy::Race => {
                let may = |idx: &&GeneralIdx| {
                    self.registry.may_be_given(**idx) && self.may_carry(rule, **idx, context.soft, context.now)
                };
                let given = rule.members.iter().filter(may);
                let given: Vec<GeneralIdx> = given.copied().collect();
                if given.len() > limits::FANOUT_MAX {
                    return Err(Rejection::FanoutTooWide { targets: given.len(), max: limits::FANOUT_MAX });
                }
                let to = |idx| target(QueueId::General(idx), Some(idx));
                let Some(substitutes) = self.substitutes(rule, Spender::coming(event), context) else {
                    return Ok(given.into_iter().map(to).collect());
                };
                let given = self.cheaper_of(rule, &given, &substitutes, context.soft);
                Ok(given.into_iter().map(|(idx, degraded)| Target { degraded, ..to(idx) }).collect())
            }
            Strategy::RoundRobin | Strategy::Sticky | Strategy::Failover | Strategy::Split => {
                Ok(vec![target(route_queue, None)])
            }
            Strategy::LoadBalanced => {
                let members = if rule.route.required_labels().is_empty() {
                    rule.members.len()
                } else {
                    let may = |idx: &&GeneralIdx| self.may_carry(rule, **idx, context.soft, context.now);
                    rule.members.iter().filter(may).count()
                };
                let count = (rule.route.count as usize).min(members.max(1));
                let mut targets: Vec<_> = (0..count).map(|_| target(route_queue, None)).collect();
                // They stand in one lane: what the first takes the place of is gone for the others.
                targets.iter_mut().skip(1).for_each(|target| target.superseded.clear());
                Ok(targets)
            }
            Strategy::Shadow => {
                let mut targets = vec![target(route_queue, None)];
                // Without anybody to compare with, or without room, there is none: it must not be in the way.
                if rule.shadow.as_ref().is_some_and(|side| !side.members.is_empty()) {
                    let shadow = target(QueueId::Shadow(way.route), None);
                    targets.extend(Some(shadow).filter(|shadow| shadow.parked != Some(ParkReason::BacklogFull)));
                }
                Ok(targets)
            }
        }
    }

    fn target(
        &self,
        event: &NewEvent,
        queue: QueueId,
        general: Option<GeneralIdx>,
        rule: &Rule,
        context: Context<'_>,
    ) -> Target {
        let shadow = matches!(queue, QueueId::Shadow(_));
        let later = event.not_before.filter(|at| *at > context.now);
        let ttl = rule.route.policy.ttl.or(shadow.then_some(SHADOW_TTL));
        let mut terms = Terms { shadow, ..Terms::default() };
        // From when it may begin.
        let expires = |terms: &Terms| ttl.map_or(Timestamp(0), |ttl| terms.not_before.max(context.now) + ttl);
        if let Some(not_before) = later {
            // It takes its place in the lane when its time comes, so that nothing waits behind it, nor is superseded by it.
            terms.not_before = not_before;
            terms.expires = expires(&terms);
            let (superseded, parked) = (Vec::new(), Some(ParkReason::Delayed));
            return Target { queue, general, superseded, parked, terms, degraded: None };
        }
        let mut superseded = self.superseded_by(event, queue, rule);
        let is_full = self.is_full(queue, event, superseded.len(), context);
        for twin in self.twin_queues(rule, queue) {
            let is_ours = |id: &DeliveryId| self.rule_of(*id).name == rule.route.name;
            superseded.extend(self.superseded_by(event, twin, rule).into_iter().filter(is_ours));
        }
        if let Coalesce::Debounce { quiet, longest } = rule.route.coalesce {
            let since = self.burst_since(&superseded, queue, context.now);
            terms.burst_since = since;
            if !is_full {
                terms.not_before = (context.now + quiet).min(since + longest);
            }
        }
        terms.expires = expires(&terms);
        let parked = is_full.then_some(ParkReason::BacklogFull);
        Target { queue, general, superseded, parked, terms, degraded: None }
    }

    /// When the first event came of a burst that goes on: of those that are superseded and of which nothing was begun.
    fn burst_since(&self, superseded: &[DeliveryId], queue: QueueId, now: Timestamp) -> Timestamp {
        let known = superseded.iter().filter_map(|id| self.events.delivery(*id));
        // Another delivery of the same event may have been begun, where it is for several: there, or here where a twin waited for it.
        let fresh = known.filter(|(event, delivery)| {
            let ours = [delivery.queue, queue];
            let mut others = event.deliveries.iter().filter(|other| ours.contains(&other.queue));
            others.all(|other| other.token == Token::default())
        });
        let since = fresh.map(|(_, delivery)| delivery.terms().burst_since).filter(|since| *since > Timestamp(0));
        since.min().unwrap_or(now)
    }

    /// Whether the event says something of other work, and no route asks for it by more than being the last one.
    fn is_only_noted(&self, event: &NewEvent) -> bool {
        let is_feedback = matches!(event.about.as_deref(), Some(About::Feedback(_)));
        let by_default = |(idx, _)| self.routing.rule(idx).route.matches.is_everything();
        is_feedback && event.asked.is_none() && self.routing.matching(event).is_none_or(by_default)
    }

    fn check_room(&self, targets: &[Target], rule: &Rule, context: Context<'_>) -> Result<(), Rejection> {
        let open = self.events.open;
        if open + targets.len() as u64 > context.limits.open_max {
            return Err(Rejection::PlaneFull { open, max: context.limits.open_max });
        }
        let of_tenant = self.tenants.open(rule.tenant_idx);
        let max = self.tenants.open_max(rule.tenant_idx).unwrap_or(context.limits.tenant_backlog_max);
        if of_tenant + targets.len() as u64 > max {
            return Err(Rejection::TenantFull { tenant: rule.tenant.clone(), open: of_tenant, max });
        }
        let is_full = |target: &Target| target.parked == Some(ParkReason::BacklogFull);
        match targets.first() {
            // A shadow has room, or it is not there; alone it is a replay.
            Some(first) if targets.iter().filter(|target| !target.terms.shadow || targets.len() == 1).all(is_full) => {
                Err(Rejection::BacklogFull {
                    route: rule.route.name.clone(),
                    waiting: self.queue(first.queue).waiting,
                    max: context.limits.queue_backlog_max,
                })
            }
            _ => Ok(()),
        }
    }

    /// Whether the queue, the event's flow or its lane in it has no room. Those that make room count as gone.
    fn is_full(&self, queue: QueueId, event: &NewEvent, leaving: usize, context: Context<'_>) -> bool {
        let queue = self.queue(queue);
        let leaving = u32::try_from(leaving).unwrap_or(u32::MAX);
        let flow = event.repository.as_ref().unwrap_or(&event.source);
        if queue.is_full_for(flow, leaving, context.limits.queue_backlog_max) {
            return true;
        }
        // Behind an overflow the order of the lane is kept by waiting in the overflow too.
        queue.lane_named(&event.lane).is_some_and(|lane| {
            lane.waiting.saturating_sub(leaving) >= context.limits.lane_backlog_max || lane.overflow > 0
        })
    }

    /// Open deliveries of the same lane and kind, where the route wants the latest only.
    fn superseded_by(&self, event: &NewEvent, queue: QueueId, rule: &Rule) -> Vec<DeliveryId> {
        match rule.route.coalesce {
            Coalesce::Every => Vec::new(),
            Coalesce::Latest => {
                let Some(lane) = self.queue(queue).lane_named(&event.lane) else { return Vec::new() };
                let older = |id: &DeliveryId| {
                    let Some((known, delivery)) = self.events.delivery(*id) else { return false };
                    let Event { kind, .. } = known;
                    *kind == event.kind && delivery.setback().cancel.is_none()
                };
                lane.entries.iter().copied().filter(older).collect()
            }
            Coalesce::Debounce { .. } => {
                let Some(lane) = self.queue(queue).lane_named(&event.lane) else { return Vec::new() };
                // What has begun goes on.
                let older = |id: &DeliveryId| {
                    let known = self.events.delivery(*id);
                    known.is_some_and(|(known, delivery)| {
                        known.kind == event.kind && matches!(delivery.phase, Phase::Waiting { .. })
                    })
                };
                lane.entries.iter().copied().filter(older).collect()
            }
        }
    }

    fn supersede(&self, older: DeliveryId, by: DeliveryId) -> Record {
        let reason = CancelReason::Superseded { by };
        let (why, by) = (Arc::default(), Arc::from(""));
        let is_leased = self.events.delivery(older).is_some_and(|(_, delivery)| delivery.lease().is_some());
        if is_leased {
            Record::CancelRequested(CancelRequested { delivery: older, reason, why, by })
        } else {
            let (charged, unanswered) = (None, false);
            let cancelled = DeliveryCancelled { delivery: older, reason, why, by, charged, unanswered };
            Record::DeliveryCancelled(Box::new(cancelled))
        }
    }
}

fn is_replay(event: &NewEvent) -> bool {
    matches!(event.about.as_deref(), Some(About::Replay(_)))
}
