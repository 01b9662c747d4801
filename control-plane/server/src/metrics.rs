//! Metrics in the text format of Prometheus.
//!
//! Written by hand: a family is a few lines, and what a scrape shows is read where it lives instead of being counted twice.
//! Invariant: every label has a bound, and every series of a family stands under one heading.

use std::fmt::{Display, Write};
use std::time::Duration;

/// The media type of what [`Exposition`] writes.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a family counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Families and their series, as text.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
}

impl Exposition {
    /// Begins a family; its series follow. `name` is in base units, `help` one line.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &str) -> Family<'_> {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        Family { name, text: &mut self.text }
    }

    /// A family with one series and no labels.
    pub fn single(&mut self, name: &'static str, kind: Kind, help: &str, value: impl Display) {
        self.family(name, kind, help).series(&[], value);
    }

    /// Everything that was written.
    #[must_use]
    pub fn into_text(self) -> String {
        self.text
    }
}

/// A family whose series are being written.
#[derive(Debug)]
pub struct Family<'a> {
    name: &'static str,
    text: &'a mut String,
}

impl Family<'_> {
    /// One series. Label values may be any text.
    pub fn series(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.text.push_str(self.name);
        self.labels(labels, None);
        let _ = writeln!(self.text, " {value}");
    }

    /// The series of a histogram.
    pub fn histogram(&mut self, labels: &[(&str, &str)], histogram: &Histogram) {
        let mut sum = 0;
        for (bound, count) in BOUNDS_MS.iter().map(Some).chain([None]).zip(histogram.counts) {
            sum += count;
            let bound = bound.map_or_else(|| "+Inf".to_owned(), |&bound| (bound as f64 / 1000.0).to_string());
            let _ = write!(self.text, "{}_bucket", self.name);
            self.labels(labels, Some(&bound));
            let _ = writeln!(self.text, " {sum}");
        }
        for (suffix, value) in [("sum", histogram.sum_ms as f64 / 1000.0), ("count", sum as f64)] {
            let _ = write!(self.text, "{}_{suffix}", self.name);
            self.labels(labels, None);
            let _ = writeln!(self.text, " {value}");
        }
    }

    fn labels(&mut self, labels: &[(&str, &str)], bound: Option<&str>) {
        let bound = bound.map(|bound| ("le", bound));
        let mut separator = '{';
        for (name, value) in labels.iter().copied().chain(bound) {
            let _ = write!(self.text, "{separator}{name}=\"");
            for character in value.chars() {
                match character {
                    '\\' => self.text.push_str("\\\\"),
                    '"' => self.text.push_str("\\\""),
                    '\n' => self.text.push_str("\\n"),
                    plain => self.text.push(plain),
                }
            }
            self.text.push('"');
            separator = ',';
        }
        if separator == ',' {
            self.text.push('}');
        }
    }
}

/// Upper bounds of the buckets: about three to a decade, from a millisecond to an hour.
const BOUNDS_MS: [u64; 19] = [
    1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000, 300_000, 900_000, 1_800_000,
    3_600_000,
];

/// How often spans of time fell between fixed bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    counts: [u64; BOUNDS_MS.len() + 1],
    sum_ms: u64,
}

impl Histogram {
    /// Adds one span.
    pub fn record(&mut self, span: Duration) {
        let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        self.counts[BOUNDS_MS.partition_point(|&bound| bound < millis)] += 1;
        self.sum_ms = self.sum_ms.saturating_add(millis);
    }

    /// How many spans were added.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The upper bound of the bucket that holds the quantile, 0 to 1; `None` when it lies above all bounds or there is nothing.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        let rank = (quantile * self.count() as f64).ceil().max(1.0) as u64;
        let mut sum = 0;
        let reached = |count: &u64| {
            sum += count;
            sum >= rank
        };
        let index = self.counts.iter().position(reached)?;
        BOUNDS_MS.get(index).copied().map(Duration::from_millis)
    }
}

/// What this process has taken from the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    /// Processor time, of all threads.
    pub cpu: Duration,
    /// Resident memory in bytes.
    pub resident: u64,
    pub threads: u64,
    pub open_files: u64,
}

/// Reads what the system counts for this process; zeros where it does not say.
#[must_use]
pub fn process() -> Process {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field is the program's name and may hold anything, up to the last bracket.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let field = |index: usize| fields.get(index).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let ticks = rustix::param::clock_ticks_per_second().max(1);
    Process {
        cpu: Duration::from_millis((field(11) + field(12)) * 1000 / ticks),
        threads: field(17),
        resident: field(21) * rustix::param::page_size() as u64,
        open_files: std::fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as u64),
    }
}

impl Process {
    /// Writes the usual families.
    pub fn expose(&self, into: &mut Exposition) {
        let Process { cpu, resident, threads, open_files } = *self;
        let help = "Processor time used, in seconds.";
        into.single("process_cpu_seconds_total", Kind::Counter, help, cpu.as_secs_f64());
        into.single("process_resident_memory_bytes", Kind::Gauge, "Resident memory, in bytes.", resident);
        into.single("process_threads", Kind::Gauge, "Threads.", threads);
        into.single("process_open_fds", Kind::Gauge, "Open file descriptors.", open_files);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_written_as_the_format_wants_them() {
        let mut metrics = Exposition::default();
        metrics.single("a_total", Kind::Counter, "As.", 3);
        let mut family = metrics.family("b", Kind::Gauge, "Bs.");
        family.series(&[("x", "1\"\\\n"), ("y", "z")], 0.5);
        assert_eq!(
            metrics.into_text(),
            "# HELP a_total As.\n# TYPE a_total counter\na_total 3\n# HELP b Bs.\n# TYPE b gauge\nb{x=\"1\\\"\\\\\\n\",y=\"z\"} 0.5\n"
        );
    }

    #[test]
    fn a_histogram_counts_up_to_its_bounds() {
        let mut histogram = Histogram::default();
        [1, 2, 3, 4_000_000].iter().for_each(|&millis| histogram.record(Duration::from_millis(millis)));
        let mut metrics = Exposition::default();
        metrics.family("h_seconds", Kind::Histogram, "Hs.").histogram(&[("k", "v")], &histogram);
        let text = metrics.into_text();
        for line in [
            "h_seconds_bucket{k=\"v\",le=\"0.001\"} 1",
            "h_seconds_bucket{k=\"v\",le=\"0.002\"} 2",
            "h_seconds_bucket{k=\"v\",le=\"0.005\"} 3",
            "h_seconds_bucket{k=\"v\",le=\"3600\"} 3",
            "h_seconds_bucket{k=\"v\",le=\"+Inf\"} 4",
            "h_seconds_sum{k=\"v\"} 4000.006",
            "h_seconds_count{k=\"v\"} 4",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
        assert_eq!(histogram.quantile(0.5), Some(Duration::from_millis(2)));
        assert_eq!(histogram.quantile(1.0), None);
    }

    #[test]
    fn this_process_is_seen() {
        let process = process();
        assert!(process.resident > 1_000_000 && process.threads > 0 && process.open_files > 2, "{process:?}");
    }
}
