//! When the whole machine stood still: a host that shares its processors stops a guest for tens of milliseconds once its share is used up,
//! and an attack uses up all that it can get.
//!
//! ```text
//!   one watcher on each processor, in front of all else --asleep for four milliseconds, again and again--> gaps
//!   gaps of all processors at the same time --> stills
//! ```
//! Invariant: a watcher that was only kept waiting on its processor makes no still, for the others went on. Nothing the server does
//! comes in front of a watcher.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use tokio::process::{Child, Command};

/// How long a watcher sleeps: it takes nothing from others, and has the system look no more often than it does by itself who waits.
const NAP: Duration = Duration::from_millis(4);
/// Longer than this it was not let on.
const GAP_MIN: u64 = 8_000;

/// From when to when, in microseconds of the system's clock.
type Span = (u64, u64);

/// The system's clock, in microseconds.
pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Runs as a watcher until standard input ends, and prints its gaps.
///
/// # Errors
/// When they cannot be printed.
pub fn watch() -> Result<()> {
    let end = Arc::new(AtomicBool::new(false));
    let of_input = Arc::clone(&end);
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        of_input.store(true, Ordering::Relaxed);
    });
    let (mut gaps, mut before) = (Vec::<Span>::new(), now());
    while !end.load(Ordering::Relaxed) {
        std::thread::sleep(NAP);
        let after = now();
        if after.saturating_sub(before) >= GAP_MIN {
            gaps.push((before, after));
        }
        before = after;
    }
    println!("{}", serde_json::to_string(&gaps).context("gaps as JSON")?);
    Ok(())
}

/// The watchers.
pub(super) struct Watch(Vec<Child>);

impl Watch {
    /// Starts one on each processor; `program` is this one.
    ///
    /// # Errors
    /// When one does not start.
    pub(super) fn start(program: &Path) -> Result<Watch> {
        let processors = std::thread::available_parallelism().context("failed to count the processors")?.get();
        let start = |processor: usize| {
            Command::new("chrt")
                .args(["--fifo", "50", "taskset", "--cpu-list", &processor.to_string()])
                .arg(program)
                .arg("--watch-stills")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .kill_on_drop(true)
                .spawn()
                .context("failed to start a watcher")
        };
        (0..processors).map(start).collect::<Result<_>>().map(Watch)
    }

    /// Ends them; `None` where one may not come in front of others.
    ///
    /// # Errors
    /// When one says something else than its gaps.
    pub(super) async fn end(self) -> Result<Option<Stills>> {
        let mut all: Option<Vec<Span>> = None;
        for mut child in self.0 {
            drop(child.stdin.take());
            let output = child.wait_with_output().await.context("failed to wait for a watcher")?;
            if !output.status.success() {
                return Ok(None);
            }
            let gaps: Vec<Span> = serde_json::from_slice(&output.stdout).context("a watcher prints its gaps")?;
            all = Some(all.map_or(gaps.clone(), |all| common(&all, &gaps)));
        }
        Ok(all.map(Stills))
    }
}

/// What two lists in order have in common.
fn common(one: &[Span], other: &[Span]) -> Vec<Span> {
    let both = one.iter().flat_map(|a| other.iter().map(move |b| (a.0.max(b.0), a.1.min(b.1))));
    both.filter(|(from, to)| from + GAP_MIN - 4_000 <= *to).collect()
}

/// When the machine stood still.
#[derive(Clone, Debug, Default)]
pub(super) struct Stills(Vec<Span>);

impl Stills {
    /// Whether it did so at any time from `from` to `to`.
    pub(super) fn hit(&self, from: u64, to: u64) -> bool {
        self.0.iter().any(|still| still.0 < to && from < still.1)
    }

    /// How often from `from` to `to`, and for how many microseconds in all.
    pub(super) fn within(&self, from: u64, to: u64) -> (usize, u64) {
        let spans = self.0.iter().map(|still| (still.0.max(from), still.1.min(to))).filter(|span| span.0 < span.1);
        spans.fold((0, 0), |(times, micros), span| (times + 1, micros + span.1 - span.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_stands_still_where_all_processors_do() {
        let (one, other) = ([(0, 10_000), (50_000, 90_000)], [(20_000, 30_000), (60_000, 95_000), (200_000, 300_000)]);
        let stills = Stills(common(&one, &other));
        assert_eq!(stills.0, [(60_000, 90_000)]);
        assert!(stills.hit(0, 60_001) && stills.hit(70_000, 70_001) && stills.hit(89_999, 200_000));
        assert!(!stills.hit(0, 60_000) && !stills.hit(90_000, 100_000));
        assert_eq!(stills.within(80_000, 100_000), (1, 10_000));
        assert_eq!(stills.within(0, 50_000), (0, 0));
    }
}
