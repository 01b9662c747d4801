//! Work: taken on, extended, stopped, reported, settled.

use std::sync::Arc;
use std::time::Duration;

use mindos_model::{DeliveryId, FailureKind, Timestamp, Token, limits};

use crate::agent::{Action, Agent, GeneralIndex};
use crate::lease::{Answer, Lease, Phase};
use crate::message::{Assign, CancelReason, Extend, Finish, Outcome, Progress, SettledVerdict, Up};

/// How long a general may take to stop where nothing else is said.
pub(crate) const CANCEL_GRACE: Duration = Duration::from_secs(10);
/// Longest grace.
const GRACE_MAX: Duration = Duration::from_secs(600);
/// How much longer than its grace a general may take to end before it is answered for.
const KILL_MAX: Duration = Duration::from_secs(2);
/// When a delivery that was declined may come again.
const DECLINE_RETRY: Duration = Duration::from_secs(1);

impl<W, O: Clone + Default> Agent<W, O> {
    pub(crate) fn assigned(&mut self, assign: Assign<W>, now: Timestamp) {
        let Assign { delivery, token, general, lease, deadline, work } = assign;
        self.counts.assigned += 1;
        if let Some(held) = self.leases.get(&delivery) {
            if held.token == token {
                self.repeated(delivery, token);
                return;
            }
            if held.token > token {
                self.refuse(delivery, token, "a later lease of the delivery is held", now);
                return;
            }
            // The plane has given up the lease that is held: a result under it would be refused.
            let older = held.token;
            self.lost(delivery, older);
        }
        if self.recent.has(delivery, token) {
            self.counts.repeated += 1;
            return;
        }
        let draining = self.drain.is_on();
        let Some(served) = self.generals.get_mut(general.at()) else {
            self.refuse(delivery, token, "no such general here", now);
            return;
        };
        let refusal = if draining || served.draining {
            Some("draining")
        } else if !served.ready {
            Some("general is not ready")
        } else if served.running + served.leftover >= served.slots {
            Some("no free slot")
        } else if self.unsettled >= self.config.unsettled_max {
            Some("too many results wait to be settled")
        } else {
            None
        };
        if let Some(reason) = refusal {
            self.refuse(delivery, token, reason, now);
            return;
        }
        served.running += 1;
        self.running += 1;
        self.counts.started += 1;
        let length = lease.unwrap_or(self.intervals.lease);
        self.leases.insert(
            delivery,
            Lease {
                token,
                general,
                phase: Phase::Taken,
                length,
                started: now,
                expires: now + length,
                extend_at: now + self.intervals.extend,
                extend_sent: None,
                // One that is past on arrival tells of clocks that differ, not of work without time.
                deadline: deadline.filter(|at| *at > now).unwrap_or(now + limits::DEADLINE),
                due: None,
                progress: None,
                progress_sent: false,
            },
        );
        self.taken.push((delivery, token));
        self.actions.push(Action::Start { general, delivery, token, work });
    }

    /// Gives an assignment back that the shell cannot even read.
    pub fn refuse(&mut self, delivery: DeliveryId, token: Token, message: &str, now: Timestamp) {
        self.counts.declined += 1;
        self.send(Up::Decline { delivery, token, retry_at: now + DECLINE_RETRY, message: Arc::from(message) });
    }

    /// The same assignment once more: it is answered as it was, and nothing starts.
    fn repeated(&mut self, delivery: DeliveryId, token: Token) {
        self.counts.repeated += 1;
        match self.leases.get(&delivery).map(|lease| &lease.phase) {
            Some(Phase::Working | Phase::Stopping { .. }) => self.send(Up::Accept { delivery, token }),
            Some(Phase::Reported { finish }) => {
                let finish = finish.clone();
                self.send(Up::Result { delivery, token, finish });
            }
            Some(Phase::Declined { retry_at }) => {
                let retry_at = *retry_at;
                self.decline(delivery, token, retry_at);
            }
            Some(Phase::Taken) | None => {}
        }
    }

    /// Gives work back that was begun. Without an open stream the next `Welcome` is waited for: a lease that merely lapsed
    /// would use up an attempt.
    pub(crate) fn decline(&mut self, delivery: DeliveryId, token: Token, retry_at: Timestamp) {
        if self.is_open() {
            self.forget(delivery, token);
            self.send(Up::Decline { delivery, token, retry_at, message: Arc::from("draining") });
        } else if let Some(lease) = self.leases.get_mut(&delivery) {
            lease.phase = Phase::Declined { retry_at };
            self.reschedule(delivery);
        }
    }

    /// Accepts what was taken on in this turn and still runs: a result says more than an `Accept`.
    pub(crate) fn accept_taken(&mut self, now: Timestamp) {
        let mut taken = std::mem::take(&mut self.taken);
        for (delivery, token) in taken.drain(..) {
            let Some(lease) = self.leases.get_mut(&delivery).filter(|lease| lease.token == token) else { continue };
            if matches!(lease.phase, Phase::Taken) {
                lease.phase = Phase::Working;
                lease.expires = now + lease.length;
                lease.extend_at = now + self.intervals.extend.min(lease.length / 2);
                self.reschedule(delivery);
                self.send(Up::Accept { delivery, token });
            }
        }
        self.taken = taken;
    }

    /// What the general says about how far it is; travels with the next `Extend`, a checkpoint at once.
    pub fn progressed(&mut self, delivery: DeliveryId, token: Token, progress: Progress, now: Timestamp) {
        let Some(lease) = self.leases.get_mut(&delivery).filter(|lease| lease.token == token && lease.is_running())
        else {
            return;
        };
        let mut progress = progress;
        if progress.checkpoint.is_empty() {
            // One that has not arrived for sure stays with what is said next.
            if let Some(before) = &lease.progress {
                progress.checkpoint.clone_from(&before.checkpoint);
            }
        } else {
            lease.extend_at = now;
        }
        if progress.wanted.is_some() {
            lease.extend_at = now;
        } else if let Some(before) = lease.progress.as_ref().filter(|_| !lease.progress_sent) {
            progress.wanted = before.wanted;
        }
        lease.progress = Some(Arc::new(progress));
        lease.progress_sent = false;
        self.reschedule(delivery);
    }

    /// The general has ended, by itself or because it was stopped.
    pub fn general_finished(&mut self, delivery: DeliveryId, token: Token, finish: Finish<O>, now: Timestamp) {
        if let Some(general) = self.leftovers.remove(&(delivery, token)) {
            self.generals[general.at()].leftover -= 1;
            self.regrant();
            return;
        }
        let is_open = self.is_open();
        let Some(lease) = self.leases.get_mut(&delivery).filter(|lease| lease.token == token && lease.is_running())
        else {
            return;
        };
        let (general, took) = (lease.general, now.since(lease.started));
        let left = lease.progress.take().filter(|progress| !lease.progress_sent && !progress.checkpoint.is_empty());
        if finish.outcome != Outcome::Succeeded && left.is_some() && is_open {
            // What was paid for is for the next attempt, also where the general said it with its last breath.
            self.counts.extends += 1;
            self.send(Up::Extend(Extend { delivery, token, progress: left }));
        }
        let Some(lease) = self.leases.get_mut(&delivery) else { return };
        let answer = match lease.phase {
            Phase::Stopping { answer, .. } => Some(answer),
            Phase::Taken | Phase::Working | Phase::Reported { .. } | Phase::Declined { .. } => None,
        };
        self.counts.finished += 1;
        self.ended(general, took);
        match answer {
            Some(answer) if finish.outcome != Outcome::Succeeded => {
                self.answer(delivery, token, answer, finish.body, now)
            }
            Some(_) | None => self.report(delivery, token, finish, now),
        }
    }

    /// Frees the slot and remembers how long it was taken.
    fn ended(&mut self, general: GeneralIndex, took: Duration) {
        self.running -= 1;
        let general = &mut self.generals[general.at()];
        general.running -= 1;
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        general.latency_us =
            if general.latency_us == 0 { took } else { general.latency_us - general.latency_us / 8 + took / 8 };
    }

    fn report(&mut self, delivery: DeliveryId, token: Token, finish: Finish<O>, now: Timestamp) {
        let Some(lease) = self.leases.get_mut(&delivery) else { return };
        lease.phase = Phase::Reported { finish: finish.clone() };
        lease.progress = None;
        if self.unsettled == 0 {
            self.doubt_from = now;
        }
        self.unsettled += 1;
        self.reschedule(delivery);
        self.send(Up::Result { delivery, token, finish });
    }

    /// Answers for work that was stopped.
    fn answer(&mut self, delivery: DeliveryId, token: Token, answer: Answer, body: O, now: Timestamp) {
        match answer {
            Answer::Cancelled(reason) => {
                self.counts.cancelled += 1;
                self.report(delivery, token, Finish { outcome: Outcome::Cancelled { reason }, body }, now);
            }
            Answer::Overdue => {
                self.counts.overdue += 1;
                let message = Arc::from("the general took longer than the delivery's deadline allows");
                let outcome = Outcome::Failed { kind: FailureKind::Transient, message };
                self.report(delivery, token, Finish { outcome, body }, now);
            }
            Answer::Decline => {
                self.counts.handed_back += 1;
                self.decline(delivery, token, now);
            }
        }
    }

    pub(crate) fn extended(&mut self, delivery: DeliveryId, token: Token, length: Option<Duration>) {
        let extend = self.intervals.extend;
        let Some(lease) = self.leases.get_mut(&delivery).filter(|lease| lease.token == token && lease.is_running())
        else {
            return;
        };
        if let Some(length) = length {
            lease.length = length;
        }
        if let Some(sent) = lease.extend_sent.take() {
            lease.expires = lease.expires.max(sent + lease.length);
            lease.extend_at = lease.extend_at.min(sent + extend.min(lease.length / 2));
            if std::mem::take(&mut lease.progress_sent) {
                lease.progress = None;
            }
        }
        self.reschedule(delivery);
    }

    /// The lease is gone: the work stops, and nobody wants to hear of it.
    pub(crate) fn lost(&mut self, delivery: DeliveryId, token: Token) {
        if self.leases.get(&delivery).is_some_and(|lease| lease.token == token) {
            self.counts.lost += 1;
            self.stop_and_forget(delivery, token);
        }
    }

    fn stop_and_forget(&mut self, delivery: DeliveryId, token: Token) {
        let Some(lease) = self.leases.get(&delivery) else { return };
        if lease.is_running() {
            let general = lease.general;
            self.running -= 1;
            self.generals[general.at()].running -= 1;
            self.generals[general.at()].leftover += 1;
            self.leftovers.insert((delivery, token), general);
            self.actions.push(Action::Stop { delivery, token, grace: Duration::ZERO });
            self.regrant();
        }
        self.forget(delivery, token);
    }

    fn forget(&mut self, delivery: DeliveryId, token: Token) {
        if let Some(lease) = self.leases.remove(&delivery) {
            if let Some(due) = lease.due {
                self.agenda.remove(&(due, delivery));
            }
            if matches!(lease.phase, Phase::Reported { .. }) {
                self.unsettled -= 1;
            }
            self.recent.insert(delivery, token);
        }
    }

    pub(crate) fn cancel(
        &mut self,
        delivery: DeliveryId,
        token: Token,
        reason: CancelReason,
        grace: Duration,
        now: Timestamp,
    ) {
        self.stop(delivery, token, Answer::Cancelled(reason), grace.min(GRACE_MAX), now);
    }

    /// Tells the general to stop; how it is answered is settled when it has.
    pub(crate) fn stop(&mut self, delivery: DeliveryId, token: Token, answer: Answer, grace: Duration, now: Timestamp) {
        let Some(lease) = self.leases.get_mut(&delivery).filter(|lease| lease.token == token) else { return };
        match lease.phase {
            Phase::Taken | Phase::Working => {
                lease.phase = Phase::Stopping { answer, until: now + grace + KILL_MAX };
                self.reschedule(delivery);
                self.actions.push(Action::Stop { delivery, token, grace });
            }
            // Stopping already, or the result is on its way.
            Phase::Stopping { .. } | Phase::Reported { .. } | Phase::Declined { .. } => {}
        }
    }

    pub(crate) fn settled(&mut self, delivery: DeliveryId, token: Token, verdict: SettledVerdict) {
        if self.leases.get(&delivery).is_none_or(|lease| lease.token != token) {
            return;
        }
        match verdict {
            SettledVerdict::Settled => self.counts.settled += 1,
            SettledVerdict::Refused | SettledVerdict::Unknown => self.counts.refused += 1,
        }
        // It would be odd while the work runs, but then the delivery needs it no more.
        self.stop_and_forget(delivery, token);
    }

    /// Puts the lease where it belongs in the agenda.
    pub(crate) fn reschedule(&mut self, delivery: DeliveryId) {
        let Some(lease) = self.leases.get_mut(&delivery) else { return };
        let due = lease.next_due();
        if due == lease.due {
            return;
        }
        if let Some(before) = std::mem::replace(&mut lease.due, due) {
            self.agenda.remove(&(before, delivery));
        }
        if let Some(due) = due {
            self.agenda.insert((due, delivery));
        }
    }

    pub(crate) fn leases_due(&mut self, now: Timestamp) {
        while let Some((due, delivery)) = self.agenda.first().copied() {
            if due > now {
                break;
            }
            self.lease_due(delivery, now);
        }
    }

    fn lease_due(&mut self, delivery: DeliveryId, now: Timestamp) {
        let open = self.is_open();
        let Some(lease) = self.leases.get_mut(&delivery) else { return };
        let token = lease.token;
        if lease.expires <= now {
            self.counts.lapsed += 1;
            self.stop_and_forget(delivery, token);
            return;
        }
        match lease.phase {
            Phase::Stopping { answer, until } if until <= now => {
                // It will not end: answer for it, and keep its slot until it does.
                let general = lease.general;
                self.running -= 1;
                self.generals[general.at()].running -= 1;
                self.generals[general.at()].leftover += 1;
                self.leftovers.insert((delivery, token), general);
                self.regrant();
                self.answer(delivery, token, answer, O::default(), now);
                return;
            }
            Phase::Working if lease.deadline <= now => {
                self.stop(delivery, token, Answer::Overdue, CANCEL_GRACE, now);
                return;
            }
            Phase::Taken
            | Phase::Working
            | Phase::Stopping { .. }
            | Phase::Reported { .. }
            | Phase::Declined { .. } => {}
        }
        if lease.extend_sent.is_none() && lease.extend_at <= now {
            if open {
                lease.extend_sent = Some(now);
                lease.extend_at = now + self.intervals.extend;
                let progress = lease.progress.clone();
                lease.progress_sent = true;
                self.counts.extends += 1;
                self.send(Up::Extend(Extend { delivery, token, progress }));
            } else if let Some(lease) = self.leases.get_mut(&delivery) {
                // Without a stream there is nothing to extend; the next `Welcome` says when to.
                lease.extend_at = Timestamp(u64::MAX);
            }
        }
        self.reschedule(delivery);
    }
}
