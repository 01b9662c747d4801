//! Latencies in microseconds, carried between processes as value and count.

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::rounded;

/// Longest latency told apart, in microseconds: an hour.
const MICROS_MAX: u64 = 3_600_000_000;

/// A histogram of microseconds with three significant digits.
#[derive(Clone, Debug)]
pub(super) struct Latencies(Histogram<u64>);

impl Latencies {
    pub(super) fn new() -> Latencies {
        Latencies(Histogram::new_with_bounds(1, MICROS_MAX, 3).expect("the bounds are in order"))
    }

    pub(super) fn record_ns(&mut self, nanoseconds: u64) {
        self.0.saturating_record(nanoseconds.div_ceil(1000).max(1));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Every value and how often it came, for another process.
    pub(super) fn to_pairs(&self) -> Value {
        let pairs =
            self.0.iter_recorded().map(|step| json!([step.value_iterated_to(), step.count_since_last_iteration()]));
        pairs.collect()
    }

    /// Adds what another process counted.
    pub(super) fn add_pairs(&mut self, pairs: &Value) {
        for pair in pairs.as_array().into_iter().flatten() {
            if let (Some(value), Some(count)) = (pair[0].as_u64(), pair[1].as_u64()) {
                self.0.saturating_record_n(value.max(1), count);
            }
        }
    }

    /// The usual quantiles, in milliseconds.
    pub(super) fn to_json(&self) -> Value {
        if self.is_empty() {
            return Value::Null;
        }
        let at = |quantile: f64| rounded(self.0.value_at_quantile(quantile) as f64 / 1000.0);
        json!({
            "count": self.0.len(),
            "p50_ms": at(0.5),
            "p90_ms": at(0.9),
            "p99_ms": at(0.99),
            "p999_ms": at(0.999),
            "max_ms": rounded(self.0.max() as f64 / 1000.0),
        })
    }
}

/// What counts as the start of a run, whose receipts are shown apart: memory and caches are touched for the first time.
const START_NS: u64 = 1_000_000_000;

/// From when events were due until they came to the agents, of the whole run and of all behind its first second.
#[derive(Clone, Debug)]
pub(super) struct Receipts {
    first_due_ns: Option<u64>,
    all: Latencies,
    after_start: Latencies,
}

impl Receipts {
    pub(super) fn new() -> Receipts {
        Receipts { first_due_ns: None, all: Latencies::new(), after_start: Latencies::new() }
    }

    /// An event came.
    pub(super) fn record(&mut self, due_ns: u64, now_ns: u64) {
        let first = *self.first_due_ns.get_or_insert(due_ns);
        let took = now_ns.saturating_sub(due_ns);
        self.all.record_ns(took);
        if due_ns >= first.saturating_add(START_NS) {
            self.after_start.record_ns(took);
        }
    }

    /// Both, for another process.
    pub(super) fn to_pairs(&self) -> Value {
        json!({"all": self.all.to_pairs(), "after_start": self.after_start.to_pairs()})
    }

    /// Adds what another process saw.
    pub(super) fn add_pairs(&mut self, pairs: &Value) {
        self.all.add_pairs(&pairs["all"]);
        self.after_start.add_pairs(&pairs["after_start"]);
    }

    /// Of the whole run.
    pub(super) fn all(&self) -> Value {
        self.all.to_json()
    }

    /// Without its first second.
    pub(super) fn after_start(&self) -> Value {
        self.after_start.to_json()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_processes_counted_adds_up() {
        let mut one = Latencies::new();
        (1..=100).for_each(|ms| one.record_ns(ms * 1_000_000));
        let mut sum = Latencies::new();
        sum.add_pairs(&one.to_pairs());
        sum.add_pairs(&one.to_pairs());
        let json = sum.to_json();
        assert_eq!(json["count"], 200);
        let p50 = json["p50_ms"].as_f64().unwrap();
        assert!((49.9..50.2).contains(&p50), "{p50}");
    }
}
