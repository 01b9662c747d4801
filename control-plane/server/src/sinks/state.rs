//! How sinks fare: what metrics and `mindos sinks list` show.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mindos_core::access::Scope;
use mindos_model::Seq;
use serde_json::{Value, json};

/// Counts of one sink, and its last trouble.
#[derive(Debug)]
pub(super) struct State {
    pub(super) name: String,
    /// Whose work it is told of.
    pub(super) whose: Scope,
    /// The first record that was not sent.
    pub(super) next: AtomicU64,
    pub(super) sent: AtomicU64,
    pub(super) attempts_failed: AtomicU64,
    pub(super) refused: AtomicU64,
    /// Records that left the journal unseen.
    pub(super) skipped: AtomicU64,
    trouble: Mutex<Option<Trouble>>,
}

#[derive(Debug)]
struct Trouble {
    since: Instant,
    reason: String,
    retry_at: Instant,
    /// Messages are passed over until one is taken.
    given_up: bool,
}

impl State {
    pub(super) fn new(name: &str, whose: Scope) -> State {
        let zero = AtomicU64::default;
        let (next, sent, attempts_failed, refused, skipped) = (zero(), zero(), zero(), zero(), zero());
        State { name: name.to_owned(), whose, next, sent, attempts_failed, refused, skipped, trouble: Mutex::default() }
    }

    pub(super) fn taken(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Notes a failure; true when it is the first in a row.
    pub(super) fn failed(&self, reason: &str, wait: Duration) -> bool {
        self.attempts_failed.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let first = trouble.is_none();
        let (since, given_up) = trouble.as_ref().map_or((now, false), |trouble| (trouble.since, trouble.given_up));
        *trouble = Some(Trouble { since, reason: reason.to_owned(), retry_at: now + wait, given_up });
        first
    }

    /// Notes that a message was passed over; true when it is the first in a row.
    pub(super) fn gave_up(&self, reason: &str) -> bool {
        let now = Instant::now();
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, given_up) = trouble.as_ref().map_or((now, false), |trouble| (trouble.since, trouble.given_up));
        *trouble = Some(Trouble { since, reason: reason.to_owned(), retry_at: now, given_up: true });
        !given_up
    }

    /// Whether messages were passed over since one was taken.
    pub(super) fn is_given_up(&self) -> bool {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).as_ref().is_some_and(|trouble| trouble.given_up)
    }

    pub(super) fn is_up(&self) -> bool {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    pub(super) fn lag(&self, end: Seq) -> u64 {
        end.next().0.saturating_sub(self.next.load(Ordering::Relaxed))
    }

    pub(super) fn show(&self, end: Seq) -> Value {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let mut shown = json!({
            "name": self.name,
            "tenant": self.whose.to_string(),
            "state": if self.is_up() { "up" } else { "failing" },
            "next_seq": read(&self.next),
            "lag_records": self.lag(end),
            "sent": read(&self.sent),
            "attempts_failed": read(&self.attempts_failed),
            "refused": read(&self.refused),
            "records_skipped": read(&self.skipped),
        });
        if let Some(trouble) = &*self.trouble.lock().unwrap_or_else(PoisonError::into_inner) {
            shown["failing_for_s"] = json!(trouble.since.elapsed().as_secs());
            shown["reason"] = json!(trouble.reason);
            shown["retry_in_s"] = json!(trouble.retry_at.saturating_duration_since(Instant::now()).as_secs());
        }
        shown
    }
}
