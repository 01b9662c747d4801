//! How attempts end: what is counted, how long the next one waits, and when there is none.

use mindos_core::record::{AttemptEnded, Cause, Next};
use mindos_model::{FailureKind, ParkReason, Seq, Timestamp};

use crate::coverage::Phase;
use crate::ledger::{Broken, Ledger};

impl Ledger {
    pub(crate) fn attempt_ended(
        &mut self,
        seq: Seq,
        at: Timestamp,
        phase: Phase,
        record: &AttemptEnded,
    ) -> Result<(), Broken> {
        let AttemptEnded { delivery: id, token, cause, counted, next, over, .. } = record;
        let (id, token) = (*id, *token);
        if phase == Phase::Cancelling {
            return Err(format!("what_is_cancelled_ends: {id} ended an attempt by {cause:?}"));
        }
        if *cause == Cause::Lapsed {
            let deadline = self.clocks.deadline(id, token, seq);
            if deadline.is_some_and(|deadline| at < deadline) {
                return Err(format!("no_lease_lapses_before_its_time: {id} at {at}, lease until {deadline:?}"));
            }
        }
        if matches!(cause, Cause::Failed(_) | Cause::Declined) {
            self.ended_by_its_holder(id, token)?;
        }
        let held = self.facts_mut(id)?.held.clone();
        if let (Cause::Failed(FailureKind::RateLimited { until }), Some(held)) = (cause, &held) {
            self.limited.met(held, at, *until);
        }
        let boot = held.map(|(_, _, boot)| boot);
        // What was handed back to a plane that died over it is told by the next boot.
        let lost = matches!(cause, Cause::Lapsed | Cause::Rebooted) && token.epoch == self.epoch;
        if lost && boot.is_some_and(|boot| self.left.contains(&boot)) && self.started.contains(&(id, token)) {
            return Err(format!("a_drain_is_clean: {id} {token} was lost after its agent had left"));
        }
        if *cause == Cause::Deadline {
            self.stuck.insert((id, token));
        }
        self.ends_lease(id, token, phase, seq, at)?;
        let must_count = match cause {
            Cause::Failed(FailureKind::Transient | FailureKind::Lost) | Cause::Deadline => true,
            Cause::Lapsed | Cause::Rebooted => token.epoch == self.epoch,
            Cause::Failed(_) | Cause::Undelivered | Cause::Declined => false,
        };
        if must_count != *counted {
            return Err(format!("attempts_are_counted: {id} {cause:?} counted: {counted}"));
        }
        let route = self.events.get(&id.event).and_then(|event| event.route.clone());
        let route = route.and_then(|name| self.routes.get(&name));
        let attempts_max = route.map(|route| route.attempts_max);
        let retry = route.map(|route| route.policy.retry).unwrap_or_default();
        if let Cause::Failed(_) = cause {
            self.facts_mut(id)?.answered.push(token);
        }
        let facts = self.facts_mut(id)?;
        facts.attempts += u32::from(*counted);
        let attempts = facts.attempts;
        let exhausted = attempts_max.is_some_and(|max| attempts >= max);
        let wanted = match cause {
            Cause::Failed(FailureKind::Poison) => Some(ParkReason::Poison),
            Cause::Failed(FailureKind::TooLarge) => Some(ParkReason::TooLarge),
            Cause::Failed(FailureKind::OverBudget) => Some(ParkReason::OverBudget),
            _ if exhausted => Some(ParkReason::AttemptsExhausted),
            _ => None,
        };
        let waits_for_reset = over.as_deref().is_some_and(|over| over.resets.is_some());
        match (*next, wanted) {
            (Next::Park { reason }, Some(wanted))
                if reason == wanted && (!facts.plan.terms.shadow || facts.plan.replay && waits_for_reset) =>
            {
                (facts.phase, facts.parked_at) = (Phase::Parked(reason), at);
                Ok(())
            }
            // It ends with the next record.
            (Next::Wait { not_before }, Some(_)) if facts.plan.terms.shadow => self.waits_again(id, not_before),
            (Next::Wait { not_before }, None) => {
                check_wait(id, *cause, retry.most(attempts), at, not_before)?;
                self.waits_again(id, not_before)
            }
            _ => Err(format!("failures_lead_where_they_must: {id} {cause:?} at attempt {attempts} led to {next:?}")),
        }
    }
}

fn check_wait(
    id: mindos_model::DeliveryId,
    cause: Cause,
    most: std::time::Duration,
    at: Timestamp,
    not_before: Timestamp,
) -> Result<(), Broken> {
    let wait = not_before.since(at);
    let fits = match cause {
        Cause::Failed(FailureKind::RateLimited { until }) => not_before >= until,
        Cause::Failed(_) | Cause::Deadline => wait <= most,
        Cause::Lapsed | Cause::Rebooted | Cause::Undelivered => wait.is_zero(),
        Cause::Declined => true,
    };
    if fits { Ok(()) } else { Err(format!("retries_wait: {id} {cause:?} waits {wait:?}, at most {most:?}")) }
}
