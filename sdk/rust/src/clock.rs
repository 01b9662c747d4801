//! Wall time that never jumps: read once, then carried on by the monotonic clock.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use mindos_model::Timestamp;

/// A clock that only goes forward.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    wall: Timestamp,
    from: Instant,
}

impl Clock {
    /// Reads the wall clock once.
    #[must_use]
    pub fn start() -> Clock {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock { wall: Timestamp(0) + wall, from: Instant::now() }
    }

    /// The time now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.wall + self.from.elapsed()
    }
}
