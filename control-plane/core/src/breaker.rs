//! Circuit breakers: whether an instance gets work, by how its work ended of late.
//!
//! ```text
//!           trips                 penalty is over          trial succeeds            10 s
//!  Closed ---------> Open{until} -----------------> Trial ----------------> Reentry ------> Closed
//!                      ^  ^                           |                        |
//!                      |  +------- trial fails -------+                        |
//!                      +------------------------- trips -----------------------+
//! ```
//! Whether a pool can do without one more is not judged here. Invariants: an open breaker lets nothing begin; one on trial
//! lets one delivery begin at a time; what was leased before the breaker opened goes on and says nothing more.

use std::time::Duration;

use mindos_model::{DeliveryId, FailureKind, Timestamp};

use crate::record::Cause;

/// Failures in a row that open a breaker.
const ROW_MAX: u32 = 7;
/// Results of the last [`WINDOW`] seconds below which their share says nothing.
const RESULTS_MIN: u32 = 5;
/// Share of successes, in percent, below which a breaker opens.
const SUCCESS_MIN: u32 = 80;
/// Seconds whose results count.
const WINDOW: usize = 10;
/// First penalty; doubles with each that follows soon, up to [`PENALTY_MAX`].
const PENALTY_MIN: Duration = Duration::from_secs(1);
const PENALTY_MAX: Duration = Duration::from_secs(60);
/// How long an instance has to be back before its earlier penalties are forgotten.
const FORGIVEN_AFTER: Duration = Duration::from_secs(60);
/// Steps in which an instance that is back gets its slots again, and how long each takes.
const REENTRY_STEPS: u32 = 10;
const REENTRY_STEP: Duration = Duration::from_secs(1);

/// How a piece of work ended, as far as it says something of the instance that did it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Good,
    /// Transient, lost, lapsed, or past its deadline.
    Bad,
    /// The provider wants no more until then.
    Limited(Timestamp),
    /// Says nothing of the instance.
    Other,
}

impl Ended {
    /// What the end of an attempt says of its instance. One that used up no attempt was nobody's failure.
    pub(crate) fn of(cause: Cause, counted: bool) -> Ended {
        match cause {
            Cause::Failed(FailureKind::Transient | FailureKind::Lost) | Cause::Lapsed | Cause::Deadline if counted => {
                Ended::Bad
            }
            Cause::Failed(FailureKind::RateLimited { until }) => Ended::Limited(until),
            Cause::Failed(
                FailureKind::Transient
                | FailureKind::Lost
                | FailureKind::Poison
                | FailureKind::TooLarge
                | FailureKind::Cancelled
                | FailureKind::OverBudget,
            )
            | Cause::Lapsed
            | Cause::Deadline
            | Cause::Rebooted
            | Cause::Undelivered
            | Cause::Declined => Ended::Other,
        }
    }
}

/// Where a breaker stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BreakerState {
    #[default]
    Closed,
    /// Nothing begins until then.
    Open { until: Timestamp },
    /// One delivery at a time shows whether it is well; unset while none is out.
    Trial { with: Option<DeliveryId> },
    /// Back, with a share of its slots that grows at the times given.
    Reentry { step: u32, next: Timestamp },
}

/// Good and bad results by second.
#[derive(Clone, Debug, Default)]
struct Window {
    seconds: [(u16, u16); WINDOW],
    /// The newest second.
    newest: u64,
    good: u32,
    bad: u32,
}

impl Window {
    fn push(&mut self, good: bool, now: Timestamp) {
        let second = now.0 / 1000;
        let passed = second.saturating_sub(self.newest).min(WINDOW as u64);
        self.newest = self.newest.max(second);
        for back in 0..passed {
            let at = ((self.newest - back) % WINDOW as u64) as usize;
            let (good, bad) = std::mem::take(&mut self.seconds[at]);
            self.good -= u32::from(good);
            self.bad -= u32::from(bad);
        }
        let (of_good, of_bad) = &mut self.seconds[(self.newest % WINDOW as u64) as usize];
        let (count, sum) = if good { (of_good, &mut self.good) } else { (of_bad, &mut self.bad) };
        if *count < u16::MAX {
            *count += 1;
            *sum += 1;
        }
    }
}

/// The breaker of one instance for one general.
#[derive(Clone, Debug, Default)]
pub(crate) struct Breaker {
    state: BreakerState,
    failures_in_a_row: u32,
    window: Window,
    /// Times it opened of late.
    opened: u32,
    /// When it was let back in last.
    back_since: Timestamp,
}

impl Breaker {
    pub(crate) fn state(&self) -> BreakerState {
        self.state
    }

    /// Whether the instance is kept out of its pool, but for a trial.
    pub(crate) fn is_ejected(&self) -> bool {
        matches!(self.state, BreakerState::Open { .. } | BreakerState::Trial { .. })
    }

    /// Whether the next delivery should be its trial.
    pub(crate) fn wants_trial(&self) -> bool {
        self.state == BreakerState::Trial { with: None }
    }

    /// Whether one more lease may begin on top of `open`.
    pub(crate) fn lets_in(&self, open: u32, capacity: u32) -> bool {
        let most = match self.state {
            BreakerState::Closed => capacity,
            BreakerState::Open { .. } | BreakerState::Trial { with: Some(_) } => 0,
            BreakerState::Trial { with: None } => capacity,
            BreakerState::Reentry { step, .. } => share(capacity, step),
        };
        open < most
    }

    /// When time alone changes it next.
    pub(crate) fn due(&self) -> Option<Timestamp> {
        match self.state {
            BreakerState::Closed | BreakerState::Trial { .. } => None,
            BreakerState::Open { until } => Some(until),
            BreakerState::Reentry { next, .. } => Some(next),
        }
    }

    /// What time did to it.
    pub(crate) fn pass(&mut self, now: Timestamp) {
        match self.state {
            BreakerState::Open { until } if until <= now => self.state = BreakerState::Trial { with: None },
            BreakerState::Reentry { step, next } if next <= now => {
                let step = step + 1;
                self.state = if step > REENTRY_STEPS {
                    BreakerState::Closed
                } else {
                    BreakerState::Reentry { step, next: now + REENTRY_STEP }
                };
            }
            BreakerState::Closed
            | BreakerState::Open { .. }
            | BreakerState::Trial { .. }
            | BreakerState::Reentry { .. } => {}
        }
    }

    /// A lease was given to its instance.
    pub(crate) fn leased(&mut self, delivery: DeliveryId) {
        if self.wants_trial() {
            self.state = BreakerState::Trial { with: Some(delivery) };
        }
    }

    /// A lease of its instance ended. Opens if it has to and `may_open`; a pool that cannot do without it lets it go on.
    pub(crate) fn ended(&mut self, delivery: DeliveryId, ended: Ended, may_open: bool, now: Timestamp) {
        match self.state {
            BreakerState::Open { .. } => return,
            BreakerState::Trial { with } => {
                if with == Some(delivery) {
                    match ended {
                        Ended::Good => self.readmit(now),
                        Ended::Bad => self.open(now),
                        Ended::Limited(_) | Ended::Other => self.state = BreakerState::Trial { with: None },
                    }
                }
                return;
            }
            BreakerState::Closed | BreakerState::Reentry { .. } => {}
        }
        match ended {
            Ended::Good => {
                self.failures_in_a_row = 0;
                self.window.push(true, now);
            }
            Ended::Bad => {
                self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
                self.window.push(false, now);
                if may_open && self.has_to_open() {
                    self.open(now);
                }
            }
            Ended::Limited(_) | Ended::Other => {}
        }
    }

    /// Lets it back in, with the first share of its slots.
    pub(crate) fn readmit(&mut self, now: Timestamp) {
        self.state = BreakerState::Reentry { step: 1, next: now + REENTRY_STEP };
        self.failures_in_a_row = 0;
        self.window = Window::default();
        self.back_since = now;
    }

    fn has_to_open(&self) -> bool {
        let Window { good, bad, .. } = self.window;
        let results = good + bad;
        self.failures_in_a_row >= ROW_MAX || (results >= RESULTS_MIN && good * 100 < results * SUCCESS_MIN)
    }

    fn open(&mut self, now: Timestamp) {
        let was_well = self.state == BreakerState::Closed && now.since(self.back_since) >= FORGIVEN_AFTER;
        self.opened = if was_well { 1 } else { self.opened.saturating_add(1) };
        let penalty = PENALTY_MIN.saturating_mul(1 << (self.opened - 1).min(16)).min(PENALTY_MAX);
        self.state = BreakerState::Open { until: now + penalty };
    }
}

/// Slots at this step of coming back: at least one of any.
fn share(capacity: u32, step: u32) -> u32 {
    let share = u64::from(capacity) * u64::from(step) / u64::from(REENTRY_STEPS);
    u32::try_from(share).unwrap_or(u32::MAX).max(capacity.min(1))
}

#[cfg(test)]
mod tests {
    use mindos_model::Seq;

    use super::*;

    const T0: Timestamp = Timestamp(1_000_000);

    fn id(event: u64) -> DeliveryId {
        DeliveryId::new(Seq(event), 1)
    }

    fn after(seconds: u64) -> Timestamp {
        T0 + Duration::from_secs(seconds)
    }

    /// A breaker that saw these results, one each 100 ms.
    fn saw(results: &[bool]) -> Breaker {
        let mut breaker = Breaker::default();
        for (at, good) in (0..).zip(results) {
            let ended = if *good { Ended::Good } else { Ended::Bad };
            breaker.ended(id(at), ended, true, T0 + Duration::from_millis(at * 100));
        }
        breaker
    }

    #[test]
    fn opens_at_the_seventh_failure_in_a_row_however_far_apart() {
        let mut breaker = Breaker::default();
        for at in 0..6 {
            breaker.ended(id(at), Ended::Bad, true, after(at * 60));
        }
        assert!(!breaker.is_ejected());

        breaker.ended(id(6), Ended::Bad, true, after(6 * 60));

        assert_eq!(breaker.state(), BreakerState::Open { until: after(361) });
    }

    #[test]
    fn opens_below_four_successes_in_five() {
        assert!(!saw(&[true, true, false, true]).is_ejected(), "four results say nothing");
        assert!(!saw(&[true, true, false, true, true]).is_ejected(), "80 % is enough");
        assert!(saw(&[true, true, false, true, false]).is_ejected());
    }

    #[test]
    fn results_older_than_ten_seconds_do_not_count() {
        let mut breaker = saw(&[true, false, true, true]);

        breaker.ended(id(9), Ended::Bad, true, after(11));
        breaker.ended(id(9), Ended::Good, true, after(11));

        assert!(!breaker.is_ejected());
        assert_eq!((breaker.window.good, breaker.window.bad), (1, 1));
    }

    #[test]
    fn stays_closed_where_the_pool_cannot_do_without_it() {
        let mut breaker = saw(&[true]);
        (0..20).for_each(|at| breaker.ended(id(at), Ended::Bad, false, T0));
        assert!(!breaker.is_ejected());

        breaker.ended(id(20), Ended::Bad, true, T0);

        assert!(breaker.is_ejected());
    }

    #[test]
    fn only_the_trial_decides_once_the_penalty_is_over() {
        let mut breaker = saw(&[false; 7]);
        let until = breaker.due().unwrap();
        breaker.ended(id(50), Ended::Good, true, until);
        assert!(!breaker.lets_in(0, 8), "what was leased before says nothing");

        breaker.pass(until);
        assert!(breaker.wants_trial() && breaker.lets_in(3, 8));
        breaker.leased(id(99));
        assert!(!breaker.lets_in(0, 8), "one at a time");
        breaker.ended(id(50), Ended::Bad, true, until);
        breaker.ended(id(99), Ended::Other, true, until);
        assert!(breaker.wants_trial(), "cancelled work shows nothing: another trial");

        breaker.leased(id(100));
        breaker.ended(id(100), Ended::Good, true, until);
        assert!(!breaker.is_ejected() && breaker.lets_in(0, 8) && !breaker.lets_in(1, 8));
    }

    #[test]
    fn penalties_double_to_a_minute_and_are_forgotten_after_one() {
        let mut breaker = saw(&[false; 7]);
        let mut penalties = Vec::new();
        for at in 0..8 {
            let until = breaker.due().unwrap();
            breaker.pass(until);
            breaker.leased(id(at));
            breaker.ended(id(at), Ended::Bad, true, until);
            penalties.push(breaker.due().unwrap().since(until).as_secs());
        }
        assert_eq!(penalties, [2, 4, 8, 16, 32, 60, 60, 60]);

        let mut now = breaker.due().unwrap();
        breaker.pass(now);
        breaker.leased(id(1));
        breaker.ended(id(1), Ended::Good, true, now);
        while let Some(due) = breaker.due() {
            now = due;
            breaker.pass(now);
        }
        let later = now + FORGIVEN_AFTER;
        (0..7).for_each(|at| breaker.ended(id(at), Ended::Bad, true, later));
        assert_eq!(breaker.due().unwrap().since(later), PENALTY_MIN);
    }

    #[test]
    fn slots_come_back_within_ten_seconds() {
        let mut breaker = Breaker::default();
        breaker.readmit(T0);
        let mut slots = Vec::new();
        while let Some(due) = breaker.due() {
            slots.push((0..20).take_while(|open| breaker.lets_in(*open, 20)).count());
            breaker.pass(due);
        }
        assert_eq!(slots, [2, 4, 6, 8, 10, 12, 14, 16, 18, 20]);
        assert_eq!(share(1, 1), 1);
        assert_eq!(share(0, 5), 0);
    }
}
