//! How fast an agent may talk on its stream.
//!
//! Each assignment that it got earns it the messages that work takes; what it says of itself comes out of a rate. Beyond both its stream is
//! read no faster. Invariant: an agent that does its work is never kept waiting.

use std::time::{Duration, Instant};

use crate::limits::Limits;

/// Messages that one assignment earns: to accept it, to extend it now and then, to say what came of it.
const EARNED: u64 = 8;
/// Seconds' worth of messages that may come at once.
const BURST: u64 = 2;

/// One stream's allowance.
#[derive(Debug)]
pub(super) struct Pace {
    messages: Allowance,
    bytes: Allowance,
    /// Assignments that have earned.
    assigned: u64,
    last: Instant,
}

#[derive(Debug)]
struct Allowance {
    rate: u64,
    most: u64,
    /// Below nothing is what was taken ahead.
    left: i64,
}

impl Allowance {
    fn new(rate: u32, seconds: u64) -> Allowance {
        let most = u64::from(rate) * seconds;
        Allowance { rate: rate.into(), most, left: i64::try_from(most).unwrap_or(i64::MAX) }
    }

    fn refill(&mut self, since: Duration) {
        let more = (self.rate as f64 * since.as_secs_f64()) as i64;
        let most = i64::try_from(self.most).unwrap_or(i64::MAX);
        self.left = self.left.saturating_add(more).min(most.max(self.left));
    }

    fn take(&mut self, count: u64) {
        self.left = self.left.saturating_sub(i64::try_from(count).unwrap_or(i64::MAX));
    }

    fn wait(&self) -> Duration {
        match u64::try_from(self.left.saturating_neg()) {
            Ok(behind) => Duration::from_secs_f64(behind as f64 / self.rate.max(1) as f64),
            Err(_) => Duration::ZERO,
        }
    }
}

impl Pace {
    pub(super) fn new(limits: &Limits, now: Instant) -> Pace {
        Pace {
            messages: Allowance::new(limits.agent_messages_per_second, BURST),
            bytes: Allowance::new(limits.agent_bytes_per_second, 1),
            assigned: 0,
            last: now,
        }
    }

    /// A frame came; `assigned` is how many assignments were sent since the stream began. Says how long to wait before the next one.
    pub(super) fn take(&mut self, messages: usize, bytes: usize, assigned: u64, now: Instant) -> Duration {
        let since = now.saturating_duration_since(self.last);
        // Seldom enough that nothing is lost in rounding.
        if since >= Duration::from_millis(5) {
            self.last = now;
            self.messages.refill(since);
            self.bytes.refill(since);
        }
        let earned = assigned.saturating_sub(self.assigned).saturating_mul(EARNED);
        self.assigned = assigned;
        self.messages.left = self.messages.left.saturating_add(i64::try_from(earned).unwrap_or(i64::MAX));
        self.messages.take(messages as u64);
        self.bytes.take(bytes as u64);
        self.messages.wait().max(self.bytes.wait())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace() -> (Pace, Instant) {
        let limits = Limits { agent_messages_per_second: 10, agent_bytes_per_second: 1000, ..Limits::default() };
        let now = Instant::now();
        (Pace::new(&limits, now), now)
    }

    #[test]
    fn who_talks_without_end_waits_longer_and_longer() {
        let (mut pace, now) = pace();
        assert_eq!(pace.take(20, 0, 0, now), Duration::ZERO);
        assert_eq!(pace.take(10, 0, 0, now), Duration::from_secs(1));
        assert_eq!(pace.take(10, 0, 0, now), Duration::from_secs(2));
        assert_eq!(pace.take(10, 0, 0, now + Duration::from_secs(3)), Duration::ZERO);
    }

    #[test]
    fn who_works_is_never_kept_waiting() {
        let (mut pace, now) = pace();
        for assigned in 1..10_000 {
            assert_eq!(pace.take(3, 0, assigned, now), Duration::ZERO, "{assigned}");
        }
    }

    #[test]
    fn bytes_have_a_rate_of_their_own() {
        let (mut pace, now) = pace();
        assert_eq!(pace.take(1, 1000, 0, now), Duration::ZERO);
        assert_eq!(pace.take(1, 500, 0, now), Duration::from_millis(500));
    }
}
