//! What agents report of deliveries, and what time does to them.

use std::sync::Arc;
use std::time::Duration;

use mindos_model::{DeliveryId, FailureKind, ParkReason, Timestamp, Token};
use smallvec::{SmallVec, smallvec};

use crate::decide::{Context, Decision};
use crate::durable::Durable;
use crate::effect::Origin;
use crate::event::{Delivery, Event, Lease};
use crate::input::{AgentMessage, Entropy, Extend, ReportedOutcome, ResultReport, SessionId};
use crate::output::{Claim, Output, PlaneMessage, SettledVerdict};
use crate::queue::QueueId;
use crate::race;
use crate::record::{
    AttemptEnded, CancelReason, Cause, DeliveryCancelled, DeliveryParked, DeliveryRedriven, DeliverySettled,
    InstanceKey, LeaseExtended, Next, Record, ResultRefused, Usage,
};
use crate::shadow;
use crate::snapshot::Ending;

/// Bytes of a message from the agent side that are kept.
const MESSAGE_MAX: usize = 1024;
/// Shortest wait after a lease was given back.
const DECLINED_WAIT: Duration = Duration::from_secs(1);
/// Deliveries taken out of one queue's overflow at a time.
const OVERFLOW_STEP: usize = 64;

/// What the agent side said about the end of a lease.
#[derive(Default)]
pub(crate) struct Said<'a> {
    message: &'a str,
    usage: Vec<Usage>,
    /// When it may be leased again at the earliest.
    not_before: Option<Timestamp>,
}

impl Durable {
    pub(crate) fn agent(&self, session: SessionId, message: AgentMessage, context: Context<'_>) -> Decision {
        // A message of a stream that was closed meanwhile: its sender repeats on the next one what matters.
        let Some(known) = context.soft.sessions.get(&session) else { return Decision::default() };
        let key = &known.instance;
        match message {
            AgentMessage::Grant { .. } | AgentMessage::Heartbeat { .. } | AgentMessage::Draining => Decision::default(),
            AgentMessage::Accept { delivery, token } => match self.held_lease(key, delivery, token) {
                Some(_) => Decision::default(),
                None => Decision::send(session, PlaneMessage::Lost { delivery, token }),
            },
            AgentMessage::Decline { delivery, token, retry_at, message } => {
                let Some((_, known)) = self.held_lease(key, delivery, token) else { return Decision::default() };
                let not_before = retry_at.unwrap_or(context.now).max(context.now + DECLINED_WAIT);
                let said = Said { message: &message, usage: Vec::new(), not_before: Some(not_before) };
                let records = self.lease_ended(delivery, known, Cause::Declined, said, context);
                Decision { records, outputs: SmallVec::new() }
            }
            AgentMessage::Extend(extend) => self.extend(session, key, *extend, context),
            AgentMessage::Result(report) => self.result(session, key, *report, context),
            AgentMessage::Reconcile { held } => {
                let (verdicts, records) = self.claims(key, None, &held, context);
                let mut decision = Decision::send(session, PlaneMessage::Reconciled { verdicts });
                decision.records = records.into();
                decision
            }
        }
    }

    /// The delivery, if this instance holds its lease under this token.
    fn held_lease(&self, key: &InstanceKey, id: DeliveryId, token: Token) -> Option<(&Event, &Delivery)> {
        let (event, delivery) = self.events.delivery(id)?;
        let lease = delivery.lease()?;
        (delivery.token == token && *lease.instance == *key).then_some((event, delivery))
    }

    fn extend(&self, session: SessionId, key: &InstanceKey, extend: Extend, context: Context<'_>) -> Decision {
        let Extend { delivery, token, progress: _, checkpoint, usage, wanted } = extend;
        let Some((_, known)) = self.held_lease(key, delivery, token) else {
            return Decision::send(session, PlaneMessage::Lost { delivery, token });
        };
        let lease = known.lease().and_then(|lease| Some((lease, lease.spend.as_deref()?)));
        let (mut reserved, mut spent, mut ceilings) = (None, None, None);
        if let Some((lease, spend)) = lease {
            let (after, used) = self.more((delivery, lease), spend, &usage, wanted, context);
            reserved = (after != spend.reserved).then_some(after);
            spent = used;
            ceilings = wanted.map(|_| self.ceilings(spend, after));
        }
        let decision = Decision::send(session, PlaneMessage::Extended { delivery, token, ceilings });
        let checkpoint = checkpoint.filter(|_| !known.is_redacted());
        if checkpoint.is_none() && usage.is_empty() && reserved.is_none() {
            return decision;
        }
        let record = LeaseExtended { delivery, token, checkpoint, usage, reserved, spent };
        decision.with(Record::LeaseExtended(Box::new(record)))
    }

    fn result(
        &self,
        session: SessionId,
        key: &Arc<InstanceKey>,
        report: ResultReport,
        context: Context<'_>,
    ) -> Decision {
        let ResultReport { delivery: id, token, outcome, usage, effects } = report;
        let settled_with =
            |verdict, effects| Decision::send(session, PlaneMessage::Settled { delivery: id, token, verdict, effects });
        let settled = |verdict| settled_with(verdict, Vec::new());
        // No lease ever had it, so there is nothing to refuse; and no record may name it.
        if !was_given(token) {
            return settled(SettledVerdict::Unknown);
        }
        let Some((event, delivery)) = self.held_lease(key, id, token) else {
            return match (self.recent.get(id), self.events.delivery(id)) {
                // Repeated after a lost reply: already true, so there is nothing to record.
                (Some(by), _) if by.ending != Ending::Unanswered && by.token == token => {
                    settled_with(SettledVerdict::Settled, self.effects.of_delivery(id))
                }
                (None, Some((_, delivery))) if delivery.has_answered(token) => settled(SettledVerdict::Settled),
                (_, Some((_, Delivery { token: current, .. }))) => self.refuse(id, token, *current, key, settled),
                (Some(by), None) => self.refuse(id, token, by.token, key, settled),
                (None, None) => settled(SettledVerdict::Unknown),
            };
        };
        let records = match outcome {
            ReportedOutcome::Succeeded { .. } if delivery.is_redacted() => {
                let charged = self.charge(delivery, None, &usage, context.now);
                smallvec![shadow::ended(id, CancelReason::Redacted, charged, false)]
            }
            ReportedOutcome::Succeeded { .. } if event.winner(id.event).is_some() => {
                let winner = event.winner(id.event).expect("it was just found");
                let charged = self.charge(delivery, None, &usage, context.now);
                let mut decision = settled(SettledVerdict::Settled);
                decision.records = race::second(id, token, winner, usage, charged).into();
                return decision;
            }
            ReportedOutcome::Succeeded { output, output_type, output_ref } => {
                let since = delivery.lease().map_or(context.now, |lease: &Lease| lease.since);
                let took_ms = u64::try_from(context.now.since(since).as_millis()).unwrap_or(u64::MAX);
                let charged = self.charge(delivery, None, &usage, context.now);
                let settled =
                    DeliverySettled { delivery: id, token, output, output_type, output_ref, usage, took_ms, charged };
                smallvec![Record::DeliverySettled(Box::new(settled))]
            }
            ReportedOutcome::Failed { kind, message } => {
                let said = Said { message: &message, usage, not_before: None };
                self.lease_ended(id, delivery, Cause::Failed(kind), said, context)
            }
        };
        let has_settled = matches!(records[..], [Record::DeliverySettled(_)]);
        let has_won = event.race && has_settled;
        // Those of shadows and replays are dropped.
        let counts = has_settled && !effects.is_empty() && !delivery.terms().shadow && event.replay.is_none();
        let lease = delivery.lease().filter(|_| counts);
        let (intended, effects) = lease.map_or_else(Default::default, |lease| {
            let general = self.registry.general(lease.general);
            let (general, general_type) = (general.key.clone(), general.ty.clone());
            let tenant = event.tenant.clone();
            let origin = Origin { tenant, event: id.event, delivery: Some(id), token, general, general_type };
            self.intended(&origin, effects, self.seq.next().next())
        });
        let mut decision = settled_with(SettledVerdict::Settled, effects);
        decision.records = records;
        decision.records.extend(intended);
        if has_won {
            decision.records.extend(event.lost(id));
        }
        decision
    }

    fn refuse(
        &self,
        delivery: DeliveryId,
        presented: Token,
        current: Token,
        key: &Arc<InstanceKey>,
        settled: impl Fn(SettledVerdict) -> Decision,
    ) -> Decision {
        let record = ResultRefused { delivery, presented, current, instance: key.clone() };
        settled(SettledVerdict::Stale { current }).with(Record::ResultRefused(Box::new(record)))
    }

    /// The end of a lease without a result: another attempt, the side, or the end where it was to be cancelled.
    pub(crate) fn lease_ended(
        &self,
        id: DeliveryId,
        delivery: &Delivery,
        cause: Cause,
        said: Said<'_>,
        context: Context<'_>,
    ) -> SmallVec<[Record; 1]> {
        let Said { message, usage, not_before } = said;
        let now = context.now.max(self.at);
        let charged = self.charge(delivery, Some(cause), &usage, now);
        if let Some(reason) = delivery.setback().cancel {
            let unanswered = !matches!(cause, Cause::Failed(_));
            return smallvec![shadow::ended(id, reason, charged, unanswered)];
        }
        if cause == Cause::Failed(FailureKind::Cancelled) {
            let reason = CancelReason::Requested;
            let (why, by, charged) = (Arc::default(), Arc::from("agent"), charged.map(Box::new));
            let unanswered = false;
            let cancelled = DeliveryCancelled { delivery: id, reason, why, by, charged, unanswered };
            return smallvec![Record::DeliveryCancelled(Box::new(cancelled))];
        }
        // A lease that an earlier process of the plane gave out may have lapsed for the plane's sake.
        let of_this_epoch = delivery.token.epoch == self.epoch;
        let counted = match cause {
            Cause::Failed(FailureKind::Transient | FailureKind::Lost) | Cause::Deadline => true,
            Cause::Lapsed | Cause::Rebooted => of_this_epoch,
            Cause::Failed(_) | Cause::Undelivered | Cause::Declined => false,
        };
        let attempts = delivery.attempts + u32::from(counted);
        let next = match cause {
            Cause::Failed(FailureKind::Poison) => Next::Park { reason: ParkReason::Poison },
            Cause::Failed(FailureKind::TooLarge) => Next::Park { reason: ParkReason::TooLarge },
            Cause::Failed(FailureKind::OverBudget) => Next::Park { reason: ParkReason::OverBudget },
            _ if attempts >= self.rule_of(id).attempts_max => Next::Park { reason: ParkReason::AttemptsExhausted },
            Cause::Failed(FailureKind::RateLimited { until }) => {
                Next::Wait { not_before: until.max(context.now + DECLINED_WAIT) }
            }
            Cause::Declined => Next::Wait { not_before: not_before.unwrap_or(context.now + DECLINED_WAIT) },
            Cause::Undelivered | Cause::Lapsed | Cause::Rebooted => Next::Wait { not_before: context.now },
            Cause::Failed(FailureKind::Transient | FailureKind::Lost | FailureKind::Cancelled) | Cause::Deadline => {
                let most = self.rule_of(id).policy.retry.most(attempts);
                Next::Wait { not_before: context.now + backoff(most, context.entropy) }
            }
        };
        let mut records = SmallVec::new();
        let mut next = next;
        let over = self.stopped_at(id, cause, now);
        let event = self.events.get(id.event).expect("its delivery is open");
        let waits_for_reset =
            event.replay.is_some() && over.as_ref().is_some_and(crate::account::OverBudget::fits_after_reset);
        if delivery.terms().shadow && matches!(next, Next::Park { .. }) && !waits_for_reset {
            // The attempt stands in the ledger with what it used and why it failed, and then there is an end.
            next = Next::Wait { not_before: now };
            records.push(shadow::ended(id, event.came_to_nothing(), None, false));
        }
        let message = shorten(message);
        let token = delivery.token;
        let over = over.filter(|_| matches!(next, Next::Park { .. })).map(Box::new);
        let ended = AttemptEnded { delivery: id, token, cause, message, counted, next, usage, charged, over };
        records.insert(0, Record::AttemptEnded(Box::new(ended)));
        records
    }

    /// Verdicts on the leases that an agent claims, and the end of those that it does not.
    ///
    /// `boot` is set when the agent opens a stream; then leases of another boot end, unless they are claimed.
    pub(crate) fn claims(
        &self,
        key: &InstanceKey,
        boot: Option<&mindos_model::BootId>,
        claimed: &[(DeliveryId, Token)],
        context: Context<'_>,
    ) -> (Vec<(DeliveryId, Token, Claim)>, Vec<Record>) {
        let verdict = |id: DeliveryId, token: Token| match self.held_lease(key, id, token) {
            Some((_, delivery)) if delivery.setback().cancel.is_some() => Claim::Cancel,
            Some(_) => Claim::Keep,
            None => Claim::Unknown,
        };
        let verdicts = claimed.iter().map(|(id, token)| (*id, *token, verdict(*id, *token))).collect();
        // Without a boot the stream stands, and an assignment may be on its way down.
        let Some(boot) = boot else { return (verdicts, Vec::new()) };
        let mut records = Vec::new();
        for id in self.held.get(key).into_iter().flat_map(|held| held.keys()) {
            let (_, delivery) = self.events.delivery(*id).expect("held leases are of open deliveries");
            if claimed.contains(&(*id, delivery.token)) {
                continue;
            }
            let same_boot = delivery.lease().is_some_and(|lease| lease.boot == *boot);
            let cause = if same_boot { Cause::Undelivered } else { Cause::Rebooted };
            records.extend(self.lease_ended(*id, delivery, cause, Said::default(), context));
        }
        (verdicts, records)
    }

    /// A lease whose time is up.
    pub(crate) fn lapsed(&self, id: DeliveryId, context: Context<'_>) -> Decision {
        let Some((_, delivery)) = self.events.delivery(id) else { return Decision::default() };
        let Some(Lease { instance, .. }) = delivery.lease() else { return Decision::default() };
        // Its instance still extends it, and the general gets nowhere.
        let stuck = context.soft.leases.get(&id).is_some_and(|clock| clock.deadline < clock.lease_until);
        let cause = if stuck { Cause::Deadline } else { Cause::Lapsed };
        let records = self.lease_ended(id, delivery, cause, Said::default(), context);
        let token = delivery.token;
        let lost = PlaneMessage::Lost { delivery: id, token };
        let send = |session| Output::Send { session, message: lost };
        let outputs = context.soft.session_of(instance).map(send).into_iter().collect();
        Decision { records, outputs }
    }

    /// A waiting delivery has held its lane up for long.
    pub(crate) fn blocked(&self, id: DeliveryId, context: Context<'_>) -> Option<Record> {
        let (event, delivery) = self.events.delivery(id)?;
        // One that has ended may name a general that was removed since.
        if delivery.status() != mindos_model::Status::Waiting {
            return None;
        }
        let lane = self.queue(delivery.queue).lane(delivery.lane);
        let held = delivery.held_ms(context.now);
        let too_long = u128::from(held) >= self.rule_of(id).block_max.as_millis();
        let is_head = lane.head().any(|head| head == id);
        let waits = !self.is_eligible(event, delivery);
        if !(too_long && is_head && waits && lane.has_follower()) {
            return None;
        }
        if delivery.terms().shadow {
            return Some(shadow::ended(id, event.came_to_nothing(), None, false));
        }
        // While limits of providers hold back whoever could do the work, nobody waits for this one.
        let limited = self.general_of(delivery).and_then(|key| self.registry.find(key));
        if limited.is_some_and(|general| context.soft.is_limited(self, general)) {
            return None;
        }
        if self.waits_for_pool(event, delivery, context) {
            return None;
        }
        Some(Record::DeliveryParked(DeliveryParked { delivery: id, reason: ParkReason::Blocked, over: None }))
    }

    /// Deliveries parked for want of room that have room again.
    pub(crate) fn overflow(&self, queue_id: QueueId, context: Context<'_>) -> Vec<Record> {
        let queue = self.queue(queue_id);
        let max = context.limits.queue_backlog_max;
        let room = queue.room_for_overflow(max) as usize;
        let room_in = |lane: &str| {
            let waiting = queue.lane_named(lane).map_or(0, |lane| lane.waiting);
            context.limits.lane_backlog_max.saturating_sub(waiting)
        };
        let fitting = queue.overflow.fitting(room.min(OVERFLOW_STEP), room_in).into_iter();
        let redriven = fitting.map(|(place_before, delivery)| {
            let (why, by) = (Arc::default(), Arc::from(""));
            Record::DeliveryRedriven(DeliveryRedriven { delivery, place_before, why, by })
        });
        redriven.collect()
    }
}

/// Whether a lease can have had this token: epochs and terms count from 1.
fn was_given(token: Token) -> bool {
    token.epoch > 0 && token.term > 0
}

/// How long to wait before another attempt, at most so long: full jitter.
fn backoff(most: Duration, mut entropy: Entropy) -> Duration {
    let most = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(1 + entropy.below(most))
}

pub(crate) fn shorten(message: &str) -> Arc<str> {
    let mut end = message.len().min(MESSAGE_MAX);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    Arc::from(&message[..end])
}
