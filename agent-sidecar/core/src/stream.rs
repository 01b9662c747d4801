//! The stream: greeting, grants, heartbeats, and when to dial again.
//!
//! ```text
//!            connected            Welcome
//!   Down ---------------> Greeting -------> Open
//!     ^                      |               |  lost, too old, or the plane says so
//!     +----------------------+---------------+
//! ```
//! Invariant: an `Action::Reconnect` is asked for at every way into `Down`, and at none else.

use std::collections::BTreeSet;
use std::time::Duration;

use mindos_model::{DeliveryId, Timestamp, Token};

use crate::agent::{Action, Agent, GeneralIndex};
use crate::backoff::FIRST;
use crate::lease::Phase;
use crate::message::{Claim, Hello, Load, Up, Verdict, Welcome};

/// How long `Welcome` may take.
const WELCOME_MAX: Duration = Duration::from_secs(10);
/// A stream that stood for this long was a good one: the next dial is a first one.
const STOOD: Duration = Duration::from_secs(10);
/// How long an old stream waits for its leases to end before it goes with them.
const QUIET_MAX: Duration = Duration::from_secs(10);
/// How long results may wait to be settled on an open stream before they are asked about.
const DOUBT: Duration = Duration::from_secs(30);
/// Leases that a `Hello` may claim.
const CLAIMS_MAX: usize = 100_000;

#[derive(Clone, Debug)]
pub(crate) enum Stream {
    Down,
    Greeting {
        sent: Timestamp,
    },
    Open {
        since: Timestamp,
        last_heartbeat: Option<Timestamp>,
        /// When it is to be dialled anew.
        old_at: Timestamp,
        /// Nothing is granted any more; goes at the latest then.
        quiet_until: Option<Timestamp>,
        regrant: bool,
    },
}

impl<W, O: Clone + Default> Agent<W, O> {
    /// A stream stands: asks for `Hello` to be sent on it.
    pub fn connected(&mut self, now: Timestamp) {
        self.stream = Stream::Greeting { sent: now };
        self.counts.streams += 1;
        self.last_assign = 0;
        for general in &mut self.generals {
            general.granted = None;
            general.draining = false;
        }
        for lease in self.leases.values_mut() {
            lease.extend_sent = None;
            lease.progress_sent = false;
        }
        let claims = self.claims().take(CLAIMS_MAX).collect();
        let hello = Hello { last_session: self.last_session.clone(), claims };
        self.actions.push(Action::Send(Up::Hello(hello)));
    }

    /// The stream is gone, or could not be dialled.
    pub fn stream_lost(&mut self, now: Timestamp) {
        match self.stream {
            Stream::Open { since, .. } if now.since(since) >= STOOD => self.failures = 1,
            Stream::Down | Stream::Greeting { .. } | Stream::Open { .. } => {
                self.failures = self.failures.saturating_add(1);
            }
        }
        let after = self.chance.backoff(self.failures, !self.leases.is_empty());
        self.leave(after);
    }

    /// Leaves the stream without being driven to: it was too old, or the server goes.
    pub(crate) fn leave(&mut self, after: Duration) {
        self.stream = Stream::Down;
        self.actions.push(Action::Reconnect { after });
    }

    pub(crate) fn welcomed(&mut self, welcome: Welcome, hello_sent: Timestamp, now: Timestamp) {
        let Welcome { session, intervals, verdicts } = welcome;
        self.last_session = Some(session);
        self.intervals = intervals.within_protocol();
        let age = self.config.stream_age_max;
        let old_at = now + age.saturating_sub(self.chance.span(age / 5));
        self.stream = Stream::Open { since: now, last_heartbeat: None, old_at, quiet_until: None, regrant: true };
        self.doubt_from = now;
        self.announce_drain();
        let mut judged = BTreeSet::new();
        for (delivery, token, verdict) in verdicts {
            judged.insert(delivery);
            self.judged(delivery, token, verdict, hello_sent, now);
        }
        let unjudged: Vec<_> = self.claims().filter(|(delivery, _)| !judged.contains(delivery)).collect();
        for (delivery, token) in unjudged {
            self.judged(delivery, token, Verdict::Unknown, hello_sent, now);
        }
    }

    /// A verdict on a claim made at `claimed`.
    pub(crate) fn judged(
        &mut self,
        delivery: DeliveryId,
        token: Token,
        verdict: Verdict,
        claimed: Timestamp,
        now: Timestamp,
    ) {
        let Some(lease) = self.leases.get_mut(&delivery).filter(|lease| lease.token == token) else { return };
        match (verdict, &lease.phase) {
            (Verdict::Keep | Verdict::Cancel, Phase::Reported { finish }) => {
                let finish = finish.clone();
                self.counts.resent += 1;
                self.send(Up::Result { delivery, token, finish });
            }
            (Verdict::Keep | Verdict::Cancel, Phase::Declined { retry_at }) => {
                let retry_at = *retry_at;
                self.decline(delivery, token, retry_at);
            }
            (Verdict::Keep, Phase::Taken | Phase::Working | Phase::Stopping { .. }) => {
                lease.expires = lease.expires.max(claimed + lease.length);
                lease.extend_at = claimed + self.intervals.extend;
                self.reschedule(delivery);
            }
            (Verdict::Cancel, _) => {
                self.cancel(delivery, token, crate::CancelReason::Human, crate::work::CANCEL_GRACE, now);
            }
            (Verdict::Unknown, _) => self.lost(delivery, token),
        }
    }

    pub(crate) fn reconcile_wanted(&mut self, request: u64, claims: Vec<Claim>) {
        let held = |(delivery, token): &Claim| self.leases.get(delivery).is_some_and(|lease| lease.token == *token);
        let verdict = |claim: Claim| (claim.0, claim.1, if held(&claim) { Verdict::Keep } else { Verdict::Unknown });
        let verdicts = claims.into_iter().map(verdict).collect();
        self.send(Up::Reconciled { request, verdicts });
    }

    /// Asks what became of the leases held. Done by itself when results wait to be settled for half a minute.
    pub fn reconcile(&mut self, now: Timestamp) {
        self.doubt_from = now;
        self.reconciles += 1;
        let claims = self.claims().take(CLAIMS_MAX).collect();
        let (request, last_assign) = (self.reconciles, self.last_assign);
        self.send(Up::Reconcile { request, claims, last_assign });
    }

    /// What may be filled may have changed.
    pub(crate) fn regrant(&mut self) {
        if let Stream::Open { regrant, .. } = &mut self.stream {
            *regrant = true;
        }
    }

    fn send_grants(&mut self, quiet: bool) {
        let leaving = quiet || self.drain.is_on();
        let mut capacities = Vec::new();
        for (at, general) in self.generals.iter_mut().enumerate() {
            let open = general.ready && !general.draining && !leaving;
            let capacity = if open { general.slots.saturating_sub(general.leftover) } else { 0 };
            // A general that was never granted any has none, so the first zero need not be said.
            if general.granted.unwrap_or(0) != capacity {
                capacities.push((GeneralIndex(at as u16), capacity));
            }
            general.granted = Some(capacity);
        }
        if !capacities.is_empty() {
            let last_assign = self.last_assign;
            self.send(Up::Grant { capacities, last_assign });
        }
    }

    fn heartbeat_interval(&self) -> Duration {
        if self.leases.is_empty() { self.intervals.heartbeat_idle } else { self.intervals.heartbeat }
    }

    fn send_heartbeat(&mut self) {
        let loads = self.generals.iter().map(|general| Load {
            in_flight: general.running + general.leftover,
            latency: Duration::from_micros(general.latency_us),
        });
        let (loads, leases) = (loads.collect(), u32::try_from(self.leases.len()).unwrap_or(u32::MAX));
        self.send(Up::Heartbeat { loads, leases });
    }

    pub(crate) fn stream_due(&mut self, now: Timestamp) {
        let interval = self.heartbeat_interval();
        let idle = self.leases.is_empty() && self.leftovers.is_empty();
        if self.is_open() && self.unsettled > 0 && now.since(self.doubt_from) >= DOUBT {
            self.reconcile(now);
        }
        match &mut self.stream {
            Stream::Down => {}
            Stream::Greeting { sent } => {
                if now.since(*sent) >= WELCOME_MAX {
                    self.stream_lost(now);
                }
            }
            Stream::Open { since: _, last_heartbeat, old_at, quiet_until, regrant } => {
                if *old_at <= now && quiet_until.is_none() {
                    *quiet_until = Some(now + QUIET_MAX);
                    *regrant = true;
                }
                let quiet = *quiet_until;
                let beat = last_heartbeat.is_none_or(|last| now.since(last) >= interval);
                if beat {
                    *last_heartbeat = Some(now);
                }
                if std::mem::take(regrant) {
                    self.send_grants(quiet.is_some());
                }
                if beat {
                    self.send_heartbeat();
                }
                // A second without work, so that what the plane had sent before it knew has come.
                let quiet_for = |until: Timestamp| QUIET_MAX.saturating_sub(until.since(now));
                if quiet.is_some_and(|until| until <= now || (idle && quiet_for(until) >= Duration::from_secs(1))) {
                    self.leave(Duration::ZERO);
                }
            }
        }
    }

    pub(crate) fn stream_next_due(&self) -> Option<Timestamp> {
        match &self.stream {
            Stream::Down => None,
            Stream::Greeting { sent } => Some(*sent + WELCOME_MAX),
            Stream::Open { since, last_heartbeat, old_at, quiet_until, regrant } => {
                let beat = last_heartbeat.map_or(*since, |last| last + self.heartbeat_interval());
                let idle = self.leases.is_empty() && self.leftovers.is_empty();
                let leave = match *quiet_until {
                    Some(until) if idle => until - (QUIET_MAX - Duration::from_secs(1)),
                    Some(until) => until,
                    None => *old_at,
                };
                let doubt = if self.unsettled > 0 { self.doubt_from + DOUBT } else { leave };
                Some(if *regrant { *since } else { beat.min(leave).min(doubt) })
            }
        }
    }

    /// A little after now, so that the agents of a server that goes do not dial the next one all at once.
    pub(crate) fn leave_soon(&mut self) {
        let after = self.chance.span(FIRST);
        self.leave(after);
    }
}
