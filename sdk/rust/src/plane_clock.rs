//! The control plane's time, as its answers say it, carried on by the monotonic clock.
//!
//! ```text
//!   wall clock, read once --+--> now --> when to renew, whether a certificate is good
//!   answers of the plane ---+
//! ```
//! Invariant: after its start nothing reads the wall clock, so whoever steps it ends no connection and no certificate.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use mindos_model::Timestamp;
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;

use crate::clock::Clock;

/// A clock that is set by the control plane. Cheap to clone; all clones are the same clock.
#[derive(Clone, Debug)]
pub struct PlaneClock {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    clock: Clock,
    /// What to add, in milliseconds; [`UNKNOWN`] until an answer came.
    ahead_ms: AtomicI64,
}

const UNKNOWN: i64 = i64::MIN;
/// Latest time that is believed, the year 9999: beyond it certificates have no dates.
const TIME_MAX_MS: i64 = 253_402_300_799_000;

impl PlaneClock {
    /// A clock that goes by this machine until the control plane says otherwise.
    #[must_use]
    pub fn start() -> PlaneClock {
        PlaneClock { shared: Arc::new(Shared { clock: Clock::start(), ahead_ms: AtomicI64::new(UNKNOWN) }) }
    }

    /// The time now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let own = self.shared.clock.now();
        match self.shared.ahead_ms.load(Ordering::Relaxed) {
            UNKNOWN => own,
            ahead => Timestamp(own.0.saturating_add_signed(ahead)),
        }
    }

    /// The time of this machine: its wall clock at the start and the monotonic time since.
    #[must_use]
    pub fn own(&self) -> Timestamp {
        self.shared.clock.now()
    }

    /// How far the control plane is ahead of this machine, in milliseconds; `None` before its first answer.
    #[must_use]
    pub fn ahead_ms(&self) -> Option<i64> {
        Some(self.shared.ahead_ms.load(Ordering::Relaxed)).filter(|ahead| *ahead != UNKNOWN)
    }

    /// Takes over the time of an answer to a question that was asked at `asked`, by [`PlaneClock::own`]. A time that cannot be is ignored.
    pub fn set(&self, server_time_ms: i64, asked: Timestamp) {
        if !(1..=TIME_MAX_MS).contains(&server_time_ms) {
            return;
        }
        let own = self.shared.clock.now();
        let half_way = own.since(asked) / 2;
        let then = own.0.saturating_sub(u64::try_from(half_way.as_millis()).unwrap_or(u64::MAX));
        let ahead = server_time_ms.saturating_sub(i64::try_from(then).unwrap_or(i64::MAX));
        self.shared.ahead_ms.store(ahead.max(UNKNOWN + 1), Ordering::Relaxed);
    }
}

impl TimeProvider for PlaneClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(self.now().0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plane_sets_the_clock_forward_and_back() {
        let clock = PlaneClock::start();
        assert_eq!(clock.ahead_ms(), None);
        for ahead in [3_600_000, -3_600_000, 0] {
            let own = clock.own();
            clock.set(i64::try_from(own.0).unwrap() + ahead, own);
            let seen = clock.ahead_ms().unwrap();
            assert!((ahead..ahead + 1000).contains(&seen) || (ahead - 1000..=ahead).contains(&seen), "{ahead} {seen}");
            let now = i64::try_from(clock.now().0).unwrap() - i64::try_from(clock.own().0).unwrap();
            assert!((now - ahead).abs() < 1000, "{now} {ahead}");
        }
    }

    #[test]
    fn times_that_cannot_be_change_nothing() {
        let clock = PlaneClock::start();
        for time in [i64::MIN, -1, 0, i64::MAX] {
            clock.set(time, clock.own());
            assert_eq!(clock.ahead_ms(), None);
        }
    }
}
