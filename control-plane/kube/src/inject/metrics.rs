//! What the injector counts, in the text format of Prometheus.

use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::decide::Decision;

/// Upper bounds of how long a review took, in microseconds.
const BOUNDS: [u64; 9] = [250, 500, 1_000, 2_500, 5_000, 10_000, 50_000, 250_000, 1_000_000];

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Injected,
    Present,
    Left,
    Warned,
    Refused,
    Malformed,
    TooLarge,
    Late,
    Busy,
}

impl Outcome {
    const ALL: [Outcome; 9] = [
        Outcome::Injected,
        Outcome::Present,
        Outcome::Left,
        Outcome::Warned,
        Outcome::Refused,
        Outcome::Malformed,
        Outcome::TooLarge,
        Outcome::Late,
        Outcome::Busy,
    ];

    pub(super) fn of(decision: &Decision) -> Outcome {
        match decision {
            Decision::Left => Outcome::Left,
            Decision::Present { .. } => Outcome::Present,
            Decision::Injected { .. } => Outcome::Injected,
            Decision::Warned { .. } => Outcome::Warned,
            Decision::Refused { .. } => Outcome::Refused,
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Outcome::Injected => "injected",
            Outcome::Present => "present",
            Outcome::Left => "left",
            Outcome::Warned => "warned",
            Outcome::Refused => "refused",
            Outcome::Malformed => "malformed",
            Outcome::TooLarge => "too_large",
            Outcome::Late => "late",
            Outcome::Busy => "busy",
        }
    }
}

/// All counts.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    reviews: [AtomicU64; Outcome::ALL.len()],
    took: [AtomicU64; BOUNDS.len() + 1],
    took_sum: AtomicU64,
    handshakes_failed: AtomicU64,
    connections_refused: AtomicU64,
    published: AtomicBool,
    config_maps: [AtomicU64; 2],
}

impl Metrics {
    pub(super) fn review(&self, outcome: Outcome, took: Duration) {
        self.reviews[outcome as usize].fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let at = BOUNDS.iter().position(|bound| micros <= *bound).unwrap_or(BOUNDS.len());
        self.took[at].fetch_add(1, Ordering::Relaxed);
        self.took_sum.fetch_add(micros, Ordering::Relaxed);
    }

    pub(super) fn handshake_failed(&self) {
        self.handshakes_failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn connection_refused(&self) {
        self.connections_refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn set_published(&self, published: bool) {
        self.published.store(published, Ordering::Relaxed);
    }

    pub(super) fn config_map(&self, kept: bool) {
        self.config_maps[usize::from(kept)].fetch_add(1, Ordering::Relaxed);
    }

    /// Everything, as text. `not_after` is the end of the certificate in force, in seconds since the epoch; 0 where there is none.
    pub(super) fn text(&self, connections: usize, not_after: u64, keeps_certificate: bool) -> String {
        let mut text = String::new();
        let mut family = |name: &str, kind: &str, help: &str, series: &[(String, String)]| {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (labels, value) in series {
                let _ = writeln!(text, "{name}{labels} {value}");
            }
        };
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let single = |value: String| [(String::new(), value)];
        let reviews = Outcome::ALL.map(|outcome| {
            (format!("{{result=\"{}\"}}", outcome.as_str()), read(&self.reviews[outcome as usize]).to_string())
        });
        family("mindos_injector_reviews_total", "counter", "Requests for admission, by what became of them.", &reviews);
        let help = "Handshakes that failed, such as those of API servers that do not believe the certificate.";
        let failed = read(&self.handshakes_failed).to_string();
        family("mindos_injector_handshakes_failed_total", "counter", help, &single(failed));
        let help = "Connections that were turned away because all others were at work.";
        family(
            "mindos_injector_connections_refused_total",
            "counter",
            help,
            &single(read(&self.connections_refused).to_string()),
        );
        family("mindos_injector_connections", "gauge", "Connections that stand.", &single(connections.to_string()));
        let help = "When the certificate in force ends; 0 where there is none.";
        family("mindos_injector_certificate_expiry_timestamp_seconds", "gauge", help, &single(not_after.to_string()));
        if keeps_certificate {
            let help =
                "Whether the webhook configuration was last seen with the roots of the certificate, or given them.";
            let published = u8::from(self.published.load(Ordering::Relaxed)).to_string();
            family("mindos_injector_ca_bundle_published", "gauge", help, &single(published));
        }
        let [failed, kept] = [0, 1].map(|at| read(&self.config_maps[at]).to_string());
        let kept = [("{result=\"failed\"}".to_owned(), failed), ("{result=\"kept\"}".to_owned(), kept)];
        family(
            "mindos_injector_ca_config_maps_total",
            "counter",
            "Writes of the ConfigMap that sidecars find the roots in.",
            &kept,
        );
        let (mut sum, name) = (0, "mindos_injector_review_duration_seconds");
        let mut series = Vec::new();
        let bounds = BOUNDS.map(|bound| (bound as f64 / 1e6).to_string());
        for (bound, count) in bounds.iter().map(String::as_str).chain(["+Inf"]).zip(&self.took) {
            sum += read(count);
            series.push((format!("_bucket{{le=\"{bound}\"}}"), sum.to_string()));
        }
        series.push(("_sum".to_owned(), (read(&self.took_sum) as f64 / 1e6).to_string()));
        series.push(("_count".to_owned(), sum.to_string()));
        family(name, "histogram", "How long requests for admission took.", &series);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_shown() {
        let metrics = Metrics::default();
        metrics.review(Outcome::Injected, Duration::from_micros(300));
        metrics.review(Outcome::Malformed, Duration::from_secs(5));
        metrics.set_published(true);
        let text = metrics.text(3, 1_795_176_000, true);
        for line in [
            "mindos_injector_reviews_total{result=\"injected\"} 1",
            "mindos_injector_reviews_total{result=\"left\"} 0",
            "mindos_injector_connections 3",
            "mindos_injector_certificate_expiry_timestamp_seconds 1795176000",
            "mindos_injector_ca_bundle_published 1",
            "mindos_injector_review_duration_seconds_bucket{le=\"0.00025\"} 0",
            "mindos_injector_review_duration_seconds_bucket{le=\"0.0005\"} 1",
            "mindos_injector_review_duration_seconds_bucket{le=\"+Inf\"} 2",
            "mindos_injector_review_duration_seconds_sum 5.0003",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
        assert!(!metrics.text(0, 0, false).contains("ca_bundle"));
    }
}
