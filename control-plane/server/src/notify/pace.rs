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
    /// The pace it was last used at.
    pace: Pace,
}

impl Bucket {
    pub(super) fn new(now: Instant) -> Bucket {
        Bucket { full_at: now, pace: Pace::default() }
    }

    /// Takes one out; returns when it may be used.
    pub(super) fn take(&mut self, pace: Pace, now: Instant) -> Instant {
        // Between two notices once the burst is used up.
        let interval = Duration::from_secs(60) / pace.per_minute.max(1);
        let burst = interval * pace.burst.max(1);
        if self.pace != pace {
            // What a slower pace would have waited for is not waited for at this one.
            self.full_at = self.full_at.min(now + burst);
            self.pace = pace;
        }
        self.full_at = self.full_at.max(now) + interval;
        (self.full_at - burst).max(now)
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

    #[test]
    fn a_faster_pace_does_not_wait_for_what_a_slower_one_would() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start);
        for _ in 0..1000 {
            bucket.take(Pace { per_minute: 1, burst: 1000 }, start);
        }

        let at = bucket.take(Pace { per_minute: 6000, burst: 10 }, start);

        assert_eq!(at, start + Duration::from_millis(10));
    }
}
