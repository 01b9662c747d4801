//! The clock of the plane: the wall clock at the start, carried on by the time since the machine booted.
//!
//! Invariant: readings never go back and never jump, whatever is done to the wall clock meanwhile. While the machine is suspended they
//! go on, so that what ended in the meantime has ended.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mindos_model::Timestamp;
use rustix::time::{ClockId, clock_gettime};
use tracing::warn;

/// By how much the journal may be ahead of the wall clock before that is worth a word.
const AHEAD_MAX: Duration = Duration::from_secs(60);

/// Reads times; cheap to copy, all copies agree.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    base: Timestamp,
    /// Time since boot, suspensions included, at the start.
    started: Duration,
}

impl Clock {
    /// A clock that begins with the wall clock, but not before `floor`: what the journal has seen stays in the past.
    #[must_use]
    pub fn start(floor: Timestamp) -> Clock {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall = Timestamp(u64::try_from(wall.as_millis()).unwrap_or(u64::MAX));
        if floor.since(wall) > AHEAD_MAX {
            let ahead_s = floor.since(wall).as_secs();
            warn!(
                ahead_s,
                journal = %floor,
                wall = %wall,
                "wall clock is behind the journal, which goes on from its own time: certificates and tokens are judged by that"
            );
        }
        Clock { base: wall.max(floor), started: since_boot() }
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.base + since_boot().saturating_sub(self.started)
    }

    /// How long from now until `at`; zero when it has passed.
    #[must_use]
    pub fn until(&self, at: Timestamp) -> Duration {
        at.since(self.now())
    }
}

fn since_boot() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
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
