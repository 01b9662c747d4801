//! Pace: so many at once, and so many a minute.

use std::time::Duration;

use tokio::time::Instant;

/// How fast notices may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    pub(super) per_minute: u32,
    pub(super) burst: u32,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { per_minute: 30, burst: 10 }
    }
}

/// A bucket that fills at the pace; each notice takes one out.
#[derive(Debug)]
pub(super) struct Bucket {
    /// When the bucket would be full again.
    full_at: Instant,
}

impl Bucket {
    pub(super) fn new(now: Instant) -> Bucket {
        Bucket { full_at: now }
    }

    /// Takes one out; returns when it may be used.
    pub(super) fn take(&mut self, pace: Pace, now: Instant) -> Instant {
        // Between two notices once the burst is used up.
        let interval = Duration::from_secs(60) / pace.per_minute.max(1);
        self.full_at = self.full_at.max(now) + interval;
        (self.full_at - interval * pace.burst.max(1)).max(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_go_at_once_and_then_one_every_two_seconds() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start);
        let mut after = || bucket.take(Pace::default(), start).duration_since(start).as_secs();
        let times: Vec<_> = (0..13).map(|_| after()).collect();
        assert_eq!(times, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 4, 6]);
        // After a quiet minute the burst is whole again.
        let later = start + Duration::from_secs(120);
        let free = (0..12).filter(|_| bucket.take(Pace::default(), later) == later).count();
        assert_eq!(free, 10);
    }
}
