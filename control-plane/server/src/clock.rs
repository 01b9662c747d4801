//! The clock of the plane: the wall clock at the start, carried on by the monotonic one.
//!
//! Invariant: readings never go back and never jump, whatever is done to the wall clock meanwhile.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mindos_model::Timestamp;

/// Reads times; cheap to copy, all copies agree.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    base: Timestamp,
    started: Instant,
}

impl Clock {
    /// A clock that begins with the wall clock, but not before `floor`: what the journal has seen stays in the past.
    #[must_use]
    pub fn start(floor: Timestamp) -> Clock {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall = Timestamp(u64::try_from(wall.as_millis()).unwrap_or(u64::MAX));
        Clock { base: wall.max(floor), started: Instant::now() }
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.base + self.started.elapsed()
    }

    /// How long from now until `at`; zero when it has passed.
    #[must_use]
    pub fn until(&self, at: Timestamp) -> Duration {
        at.since(self.now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_never_starts_before_what_the_journal_has_seen() {
        let future = Clock::start(Timestamp(0)).now() + Duration::from_secs(3600);
        assert!(Clock::start(future).now() >= future);
    }
}
