//! The dedupe index: which events were accepted before the core's own window, on disk.
//!
//! ```text
//! journal --> buffer --> run of 256 Ki keys --> merged up to 4 Mi keys --> dropped whole, past the horizon
//! ```
//! A follower writes; anybody asks. The buffer is not asked: what it holds is within the newest 2^20 keys that the core knows itself.
//! Invariant: each key accepted from the oldest run on through [`DedupeIndex::covered_through`] is found.

mod filter;
mod run;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use mindos_core::input::Seen;
use mindos_core::record::{DedupeKey, Entry, Record};
use mindos_model::{Seq, Timestamp};
use tracing::{info, warn};

use super::follow::{View, ViewError};
use filter::Probe;
use run::{Row, Run, Span};

/// Keys that make a run.
const BUFFER_MAX: usize = 1 << 18;
/// What was buffered is written at least this often, so that the journal need not be kept for it.
const FLUSH_INTERVAL: Duration = Duration::from_secs(300);
/// Runs are merged up to this many keys: a lookup asks each run, so few are wanted, and they leave whole, so not too few.
const RUN_MAX: u64 = 1 << 22;

/// How far back a republished event is recognised: the shorter of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Horizon {
    pub age: Duration,
    /// At least so many are kept, over all sources together.
    pub keys: u64,
}

impl Default for Horizon {
    fn default() -> Horizon {
        Horizon { age: Duration::from_secs(7 * 24 * 3600), keys: 20_000_000 }
    }
}

/// A failure of the index on disk.
#[derive(Debug, thiserror::Error)]
pub enum DedupeError {
    #[error("failed to read dedupe index `{path}`")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("failed to write dedupe index `{path}`")]
    Write { path: PathBuf, source: std::io::Error },
}

/// The runs in force, the oldest first.
type Runs = Vec<Arc<Run>>;

/// What can be asked from anywhere.
#[derive(Debug)]
pub struct DedupeIndex {
    runs: ArcSwap<Runs>,
    covered: AtomicU64,
    flush_wanted: AtomicBool,
}

impl DedupeIndex {
    /// The event known under this key, if it was accepted through [`Self::covered_through`] and within the horizon.
    ///
    /// # Errors
    /// When a run cannot be read.
    pub fn lookup(&self, key: &DedupeKey) -> Result<Option<Seen>, DedupeError> {
        let runs = self.runs.load();
        let probe = Probe::new(key);
        // The newest first: a key that came again after the horizon stands in two runs.
        for run in runs.iter().rev() {
            if let Some(seen) = run.lookup(key, &probe)? {
                return Ok(Some(seen));
            }
        }
        Ok(None)
    }

    /// Every key accepted at or before this record, and after the horizon, is in the index.
    #[must_use]
    pub fn covered_through(&self) -> Seq {
        Seq(self.covered.load(Ordering::Acquire))
    }

    /// Asks the writer to cover what it has seen, so that the journal need not be kept for it.
    pub fn want_flush(&self) {
        self.flush_wanted.store(true, Ordering::Relaxed);
    }

    /// The first record that the index covers; the horizon in force.
    #[must_use]
    pub fn covered_from(&self) -> Option<Seq> {
        self.runs.load().first().map(|run| run.span.first)
    }

    /// Keys on disk.
    #[must_use]
    pub fn keys(&self) -> u64 {
        self.runs.load().iter().map(|run| run.count).sum()
    }
}

/// Writes the index.
#[derive(Debug)]
pub struct DedupeWriter {
    dir: PathBuf,
    horizon: Horizon,
    index: Arc<DedupeIndex>,
    buffer: Vec<Row>,
    /// The first record that the buffer covers.
    first: Seq,
    next: Seq,
    newest: Timestamp,
    flushed: Instant,
    buffer_max: usize,
    run_max: u64,
}

impl DedupeWriter {
    /// Opens the index in `dir`, which is made when it is missing. Runs that are damaged, and those before a gap, are removed.
    ///
    /// # Errors
    /// When the directory cannot be read or written.
    pub fn open(dir: &Path, horizon: Horizon) -> Result<DedupeWriter, DedupeError> {
        let write = |source| DedupeError::Write { path: dir.to_owned(), source };
        fs::create_dir_all(dir).map_err(write)?;
        let runs = load(dir)?;
        let covered = runs.last().map_or(Seq::ZERO, |run| run.span.through);
        let newest = runs.last().map_or(Timestamp(0), |run| run.span.newest);
        let index = DedupeIndex {
            runs: ArcSwap::from_pointee(runs),
            covered: AtomicU64::new(covered.0),
            flush_wanted: AtomicBool::new(false),
        };
        Ok(DedupeWriter {
            dir: dir.to_owned(),
            horizon,
            index: Arc::new(index),
            buffer: Vec::new(),
            first: covered.next(),
            next: covered.next(),
            newest,
            flushed: Instant::now(),
            buffer_max: BUFFER_MAX,
            run_max: RUN_MAX,
        })
    }

    /// What others ask.
    #[must_use]
    pub fn index(&self) -> Arc<DedupeIndex> {
        Arc::clone(&self.index)
    }

    /// Writes the buffer out, merges and drops runs.
    ///
    /// # Errors
    /// When a run cannot be written; what was buffered is kept.
    pub fn flush(&mut self) -> Result<(), DedupeError> {
        if self.next == self.first {
            return Ok(());
        }
        let through = Seq(self.next.0 - 1);
        let mut runs: Runs = self.index.runs.load().to_vec();
        let mut retired = Vec::new();
        self.buffer.sort_by_key(|row| (row.key, row.event));
        // Of a key that stands twice, the later event holds.
        self.buffer.dedup_by(|later, earlier| {
            later.key == earlier.key && {
                *earlier = *later;
                true
            }
        });
        let span = Span { first: self.first, through, newest: self.newest };
        let rows = self.buffer.iter().copied();
        let mut run = Arc::new(Run::write(&self.dir, span, self.buffer.len() as u64, rows)?);
        // Neighbours of about one size become one, so that few are left to ask.
        while let Some(older) = runs.last()
            && older.count + run.count <= self.run_max
            && older.count <= run.count * 2
        {
            let merged = Arc::new(merge(&self.dir, older, &run)?);
            retired.extend([runs.pop(), Some(run)].into_iter().flatten());
            run = merged;
        }
        runs.push(run);
        let mut keys: u64 = runs.iter().map(|run| run.count).sum();
        let oldest = self.newest - self.horizon.age;
        let expired = |run: &Run, keys: u64| run.span.newest < oldest || keys - run.count >= self.horizon.keys;
        while runs.len() > 1 && expired(&runs[0], keys) {
            let run = runs.remove(0);
            keys -= run.count;
            retired.push(run);
        }
        self.index.runs.store(Arc::new(runs));
        self.index.covered.store(through.0, Ordering::Release);
        self.buffer.clear();
        self.first = self.next;
        self.flushed = Instant::now();
        for run in retired {
            run.remove()?;
        }
        Ok(())
    }
}

impl View for DedupeWriter {
    fn name(&self) -> &'static str {
        "dedupe"
    }

    fn next(&self) -> Seq {
        self.next
    }

    fn apply(&mut self, entry: &Entry) -> Result<(), ViewError> {
        if let Record::EventAccepted(event) = &entry.record {
            if self.buffer.len() >= self.buffer_max {
                self.flush()?;
            }
            self.buffer.push(Row { key: event.key, event: entry.seq, digest: event.digest });
        }
        self.newest = entry.at;
        self.next = entry.seq.next();
        Ok(())
    }

    fn upkeep(&mut self, _idle: bool) -> Result<(), ViewError> {
        let wanted = self.index.flush_wanted.swap(false, Ordering::Relaxed);
        if wanted || self.buffer.len() >= self.buffer_max || self.flushed.elapsed() >= FLUSH_INTERVAL {
            self.flush()?;
        }
        Ok(())
    }

    fn mark(&self) -> Option<(Seq, Timestamp)> {
        (self.next > Seq(1) && self.newest > Timestamp(0)).then_some((Seq(self.next.0 - 1), self.newest))
    }

    fn reset(&mut self) -> Result<(), ViewError> {
        self.skip_to(Seq(1))
    }

    fn skip_to(&mut self, first: Seq) -> Result<(), ViewError> {
        // Between the runs and the journal is a gap: what was accepted in it is not known, as if it were past the horizon.
        let runs = self.index.runs.swap(Arc::new(Vec::new()));
        self.buffer.clear();
        self.index.covered.store(first.0.saturating_sub(1), Ordering::Release);
        (self.first, self.next, self.newest) = (first, first, Timestamp(0));
        for run in runs.iter() {
            run.remove()?;
        }
        Ok(())
    }

    fn recover(&mut self) -> Result<(), ViewError> {
        // The buffer is whole: what failed was a file, which is written again under the same name.
        Ok(())
    }

    fn close(&mut self) -> Result<(), ViewError> {
        self.flush()?;
        Ok(())
    }
}

/// Opens the newest runs that follow on one another, and removes the rest.
fn load(dir: &Path) -> Result<Runs, DedupeError> {
    let read = |source| DedupeError::Read { path: dir.to_owned(), source };
    let mut found: BTreeMap<(Seq, std::cmp::Reverse<Seq>), Run> = BTreeMap::new();
    for file in fs::read_dir(dir).map_err(read)? {
        let path = file.map_err(read)?.path();
        let run = match path.extension().and_then(|extension| extension.to_str()) {
            Some("run") => Run::open(path.clone())?,
            Some("tmp") => None,
            _ => continue,
        };
        match run {
            Some(run) => {
                found.insert((run.span.first, std::cmp::Reverse(run.span.through)), run);
            }
            None => {
                info!(path = %path.display(), "unusable dedupe run was removed");
                fs::remove_file(&path).map_err(|source| DedupeError::Write { path, source })?;
            }
        }
    }
    let mut runs = Runs::new();
    // Of those that begin at one record the longest comes first: the others were merged into it.
    for run in found.into_values() {
        match runs.last().map(|last| last.span.through) {
            Some(through) if run.span.through <= through => {
                run.remove()?;
                continue;
            }
            Some(through) if run.span.first != through.next() => {
                warn!(after = %through, before = %run.span.first, "dedupe index has a gap; what stands before it was removed");
                runs.drain(..).try_for_each(|run| run.remove())?;
            }
            _ => {}
        }
        runs.push(Arc::new(run));
    }
    Ok(runs)
}

/// One run of two neighbours; of a key that stands in both, the newer event holds.
fn merge(dir: &Path, older: &Run, newer: &Run) -> Result<Run, DedupeError> {
    let span = Span { first: older.span.first, through: newer.span.through, newest: newer.span.newest };
    let mut failed = None;
    let mut sides = [older.rows()?, newer.rows()?].map(|rows| rows.peekable());
    let rows = std::iter::from_fn(|| {
        let [older, newer] = &mut sides;
        let key = |side: &mut std::iter::Peekable<_>| match side.peek() {
            Some(Ok(Row { key, .. })) => Some(*key),
            _ => None,
        };
        let row = match (key(older), key(newer)) {
            (Some(left), Some(right)) if left < right => older.next(),
            (Some(left), Some(right)) => {
                if left == right {
                    older.next();
                }
                newer.next()
            }
            (Some(_), None) if newer.peek().is_none() => older.next(),
            (None, Some(_)) if older.peek().is_none() => newer.next(),
            // An error on either side comes out here.
            _ => older.find(Result::is_err).or_else(|| newer.find(Result::is_err)),
        };
        match row? {
            Ok(row) => Some(row),
            Err(source) => {
                failed = Some(source);
                None
            }
        }
    });
    let merged = Run::write(dir, span, older.count + newer.count, rows)?;
    match failed {
        None => Ok(merged),
        Some(source) => {
            merged.remove()?;
            Err(DedupeError::Read { path: dir.to_owned(), source })
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
