//! Membership: how an agent comes by its certificate, and keeps it.
//!
//! ```text
//!            issued            renewal due
//!  Joining ---------> Valid ---------------> Renewing
//!   |  ^                ^                      |   |
//!   |  |                +------- issued -------+   | the certificate expires
//!   |  |                |                          v
//!   |  |                +------- issued -------- Lapsed
//!   |  |                |                          |
//!   |  +----------------|---- a day has passed, or refused, and there is something to join with
//!   |                   |                          |
//!   +---- refused ---> Refused <--- refused, and there is nothing to join with
//! ```
//! Whoever drives it does what [`Membership::step`] asks for and reports how it went. While a certificate is good it stays in use,
//! whatever else goes wrong.
//!
//! Invariant: what concerns certificates goes by the control plane's time, waits go by this machine's monotonic one, so a correction
//! of the former neither delays a try nor repeats it.

use std::time::Duration;

use mindos_model::Timestamp;

use crate::backoff::Chance;

/// How long after its end a certificate may still be renewed with its key.
pub const RENEW_LATE_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Bound of the first wait after a failure; doubles from there.
const FIRST: Duration = Duration::from_secs(1);
/// Bound of every wait while nobody answers.
const AWAY_MAX: Duration = Duration::from_secs(30);
/// Bound of the first wait after a refusal: it is not likely to be taken back soon.
const REFUSED_FIRST: Duration = Duration::from_secs(5);
/// Bound of every wait after a refusal.
const REFUSED_MAX: Duration = Duration::from_secs(5 * 60);
/// Refused renewals in a row after which the renewal is given up: the first may be due to a challenge that a restart made void.
const REFUSALS_MAX: u32 = 2;
/// How often at most a stream that was turned away leads to a renewal out of turn.
const SUSPICION_INTERVAL: Duration = Duration::from_secs(10);

/// A point in time by both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Monotonic time of this machine.
    pub own: Timestamp,
    /// The control plane's time, as far as it is known.
    pub plane: Timestamp,
}

/// From when until when a certificate is good, by the control plane's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    /// When the control plane wants it to be renewed at the latest.
    pub renew_after: Timestamp,
}

/// How certificates are come by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Means {
    /// With a token, and by renewing.
    Join,
    /// By renewing alone: there is nothing to join with.
    Renew,
    /// Somebody else brings them.
    Brought,
}

/// Where an agent stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It has no certificate that could be renewed, and asks for one.
    Joining,
    /// Its certificate is good.
    Valid,
    /// Its certificate is good, and the next one is asked for.
    Renewing,
    /// Its certificate has expired, or is not good yet, and can still be renewed.
    Lapsed,
    /// The control plane does not want it, or it has nothing to ask with.
    Refused,
}

/// What is to be tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Join,
    Renew,
}

/// Why a try came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nobody that is trusted answered, or not yet.
    Away { why: String, retry_after: Option<Duration> },
    /// The control plane said no.
    Refused { why: String },
    /// The proof is not to be had, such as a file that is missing.
    NoProof { why: String },
}

impl Trouble {
    fn why(&self) -> &str {
        match self {
            Trouble::Away { why, .. } | Trouble::Refused { why } | Trouble::NoProof { why } => why,
        }
    }
}

/// An agent's certificate over time.
#[derive(Clone, Debug)]
pub struct Membership {
    means: Means,
    phase: Phase,
    term: Option<Term>,
    /// When to begin with the renewal, by the control plane's time and by the own clock, whichever is first.
    renew_at: Moment,
    /// When to try again, by the own clock.
    retry_at: Timestamp,
    failures: u32,
    refusals: u32,
    trouble: Option<Trouble>,
    suspected: Option<Timestamp>,
    chance: Chance,
}

impl Phase {
    /// One word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Joining => "joining",
            Phase::Valid => "valid",
            Phase::Renewing => "renewing",
            Phase::Lapsed => "lapsed",
            Phase::Refused => "refused",
        }
    }
}

impl Membership {
    /// An agent that starts, with the certificate of an earlier run if it kept one.
    #[must_use]
    pub fn new(means: Means, kept: Option<Term>, now: Moment, seed: u64) -> Membership {
        let mut membership = Membership {
            means,
            phase: Phase::Joining,
            term: None,
            renew_at: now,
            retry_at: now.own,
            failures: 0,
            refusals: 0,
            trouble: None,
            suspected: None,
            chance: Chance(seed),
        };
        match kept {
            Some(term) => membership.hold(term, now),
            None if means == Means::Renew => membership.phase = Phase::Refused,
            None => {}
        }
        membership.turn(now);
        membership
    }

    /// Where the agent stands.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether there is a certificate that the control plane takes.
    #[must_use]
    pub fn is_good(&self, now: Moment) -> bool {
        self.term.is_some_and(|term| (term.not_before..term.not_after).contains(&now.plane))
    }

    /// Until when the certificate is good.
    #[must_use]
    pub fn not_after(&self) -> Option<Timestamp> {
        self.term.map(|term| term.not_after)
    }

    /// What is wrong, for people. `None` when the agent can do its work and nothing failed.
    #[must_use]
    pub fn problem(&self, now: Moment) -> Option<String> {
        let why = self.trouble.as_ref().map(Trouble::why);
        let because = |text: String| match why {
            Some(why) => format!("{text}: {why}"),
            None => text,
        };
        match self.phase {
            Phase::Valid => None,
            Phase::Renewing => why.map(|why| format!("the certificate could not be renewed yet: {why}")),
            Phase::Lapsed => {
                let text = match self.term {
                    Some(term) if now.plane < term.not_before => "the certificate is not good yet".to_owned(),
                    Some(term) => {
                        format!("the certificate expired {} s ago", now.plane.since(term.not_after).as_secs())
                    }
                    None => "there is no certificate".to_owned(),
                };
                Some(because(format!("{text} and is not renewed")))
            }
            Phase::Joining => Some(because("not joined yet".to_owned())),
            Phase::Refused => match why {
                Some(why) => Some(format!("the control plane refused this agent: {why}")),
                None => Some("there is neither a certificate nor anything to join with".to_owned()),
            },
        }
    }

    /// How long until something is to be done. Zero when something is; `None` when nothing ever will be by itself.
    #[must_use]
    pub fn wait(&self, now: Moment) -> Option<Duration> {
        let until_end = self.term.map(|term| term.not_after.since(now.plane)).filter(|left| !left.is_zero());
        match self.phase {
            _ if self.means == Means::Brought => until_end,
            Phase::Valid => Some(self.renewal_wait(now)),
            Phase::Refused if self.term.is_none() && self.means == Means::Renew => None,
            Phase::Joining | Phase::Renewing | Phase::Lapsed | Phase::Refused => Some(self.retry_at.since(now.own)),
        }
    }

    /// What is to be tried now. How it went has to be told by [`Membership::issued`] or [`Membership::failed`] before the next call.
    pub fn step(&mut self, now: Moment) -> Option<Step> {
        self.turn(now);
        if self.means == Means::Brought || self.wait(now) != Some(Duration::ZERO) {
            return None;
        }
        match self.phase {
            Phase::Joining => Some(Step::Join),
            Phase::Renewing | Phase::Lapsed => Some(Step::Renew),
            // Both may be taken back: an agent that was denied may be allowed again, a token file may be filled.
            Phase::Refused if self.means == Means::Join => Some(Step::Join),
            Phase::Refused => self.can_renew(now).then_some(Step::Renew),
            Phase::Valid => None,
        }
    }

    /// A certificate came.
    pub fn issued(&mut self, term: Term, now: Moment) {
        self.hold(term, now);
        self.turn(now);
    }

    /// A try came to nothing.
    pub fn failed(&mut self, trouble: Trouble, now: Moment) {
        self.failures = self.failures.saturating_add(1);
        let wait = match &trouble {
            Trouble::Away { retry_after, .. } => retry_after.unwrap_or_default() + self.away_wait(now),
            Trouble::NoProof { .. } => self.away_wait(now),
            Trouble::Refused { .. } => {
                self.refusals = self.refusals.saturating_add(1);
                self.refused(now)
            }
        };
        self.retry_at = now.own + wait;
        self.trouble = Some(trouble);
        self.turn(now);
    }

    /// The control plane turned a stream of this agent away because of its certificate: it may have another time, or another mind.
    pub fn suspect(&mut self, now: Moment) {
        let recent = self.suspected.is_some_and(|at| now.own.since(at) < SUSPICION_INTERVAL);
        if recent || self.phase != Phase::Valid || self.means == Means::Brought {
            return;
        }
        self.suspected = Some(now.own);
        self.phase = Phase::Renewing;
        // Many may have been turned away at once.
        self.retry_at = now.own + self.chance.span(FIRST);
    }

    /// There may be another proof, or others to trust: tries at once what waits for them.
    pub fn files_changed(&mut self, now: Moment) {
        if matches!(self.phase, Phase::Joining | Phase::Lapsed | Phase::Refused) {
            self.failures = 0;
            self.retry_at = now.own;
        }
    }

    fn hold(&mut self, term: Term, now: Moment) {
        // Before half of what is left, and not all at once.
        let half = term.not_after.since(now.plane) / 2;
        let drawn = half - self.chance.span(half * 2 / 5);
        let wait = drawn.min(term.renew_after.since(now.plane));
        self.renew_at = Moment { own: now.own + wait, plane: now.plane + wait };
        self.term = Some(term);
        self.phase = Phase::Valid;
        self.failures = 0;
        self.refusals = 0;
        self.trouble = None;
    }

    /// Follows the time.
    fn turn(&mut self, now: Moment) {
        if self.term.is_none() {
            return;
        }
        if self.phase == Phase::Valid && self.renewal_wait(now).is_zero() && self.means != Means::Brought {
            self.phase = Phase::Renewing;
            self.retry_at = now.own;
        }
        // The control plane's time may go either way.
        match self.phase {
            Phase::Valid | Phase::Renewing if !self.is_good(now) => self.phase = Phase::Lapsed,
            Phase::Lapsed if self.is_good(now) => self.phase = Phase::Renewing,
            Phase::Valid | Phase::Renewing | Phase::Lapsed | Phase::Joining | Phase::Refused => {}
        }
        if self.phase == Phase::Lapsed && !self.can_renew(now) && self.means != Means::Brought {
            self.give_up_renewing();
            self.retry_at = self.retry_at.min(now.own);
        }
    }

    fn renewal_wait(&self, now: Moment) -> Duration {
        // A certificate of the future: the control plane's time went back.
        if self.term.is_some_and(|term| now.plane < term.not_before) {
            return Duration::ZERO;
        }
        self.renew_at.plane.since(now.plane).min(self.renew_at.own.since(now.own))
    }

    fn can_renew(&self, now: Moment) -> bool {
        self.term.is_some_and(|term| now.plane <= term.not_after + RENEW_LATE_MAX)
    }

    fn give_up_renewing(&mut self) {
        match self.means {
            Means::Join => self.phase = Phase::Joining,
            Means::Renew | Means::Brought => self.phase = Phase::Refused,
        }
    }

    /// What a refusal leads to, and how long to wait then.
    fn refused(&mut self, now: Moment) -> Duration {
        match self.phase {
            Phase::Renewing | Phase::Lapsed if self.refusals < REFUSALS_MAX => self.away_wait(now),
            Phase::Renewing | Phase::Lapsed => {
                self.give_up_renewing();
                self.failures = 0;
                if self.phase == Phase::Joining { Duration::ZERO } else { self.refused_wait() }
            }
            Phase::Joining | Phase::Refused | Phase::Valid => {
                self.phase = Phase::Refused;
                self.refused_wait()
            }
        }
    }

    /// Full jitter under a bound that doubles. While a certificate is good the tries fit into what is left of it.
    fn away_wait(&mut self, now: Moment) -> Duration {
        let left = self.term.map(|term| term.not_after.since(now.plane)).filter(|left| !left.is_zero());
        let max = left.map_or(AWAY_MAX, |left| (left / 8).clamp(Duration::from_millis(250), AWAY_MAX));
        self.chance.span(doubled(FIRST, self.failures).min(max))
    }

    /// The upper half of the bound, so that a refusal is never answered at once.
    fn refused_wait(&mut self) -> Duration {
        let bound = doubled(REFUSED_FIRST, self.failures).min(REFUSED_MAX);
        bound / 2 + self.chance.span(bound / 2)
    }
}

fn doubled(first: Duration, failures: u32) -> Duration {
    first.saturating_mul(1 << failures.saturating_sub(1).min(10))
}
