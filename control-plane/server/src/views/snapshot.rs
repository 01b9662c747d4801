//! Snapshots by a follower: folds durable records in a state of its own, so that deciding never waits for one.
//!
//! ```text
//!            more events open than it holds twice
//!   Kept  --------------------------------------->  Let go
//!         <---------------------------------------
//!            the next snapshot, read back from the newest one
//! ```
//! While its state is kept it folds batches from memory as they come; what it missed, and all of it while the state is let go, it reads
//! from the journal when a snapshot is due. Invariant: a snapshot is the fold of the journal through its record, and no more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mindos_core::Durable;
use mindos_core::journal::JournalError;
use mindos_core::record::Batch;
use mindos_core::snapshot::Item;
use mindos_model::Seq;
use tracing::{error, info, warn};

use super::follow::{Fed, Feed, Source, lower_priority};
use crate::logging::Chain;

/// Between two looks at how long the tail is.
const POLL: Duration = Duration::from_millis(200);
/// How long batches may gather: waking for each would cost more than its fold.
const GATHER: Duration = Duration::from_millis(200);
/// Batches that are folded at once, at most.
const GATHERED_MAX: usize = 256;
/// Before another try after a failure.
const RETRY: Duration = Duration::from_secs(30);

/// Where snapshots are kept.
pub trait SnapshotHome: Send + Sync {
    /// The records of which there are snapshots, the newest first.
    ///
    /// # Errors
    /// When the home cannot be read.
    fn snapshots(&self) -> Result<Vec<Seq>, JournalError>;

    /// Hands the items of the newest whole snapshot to `visit`.
    ///
    /// # Errors
    /// When the home cannot be read.
    fn load(&self, visit: &mut dyn FnMut(Item)) -> Result<Option<Seq>, JournalError>;

    /// Stores a snapshot of the state right behind `at`.
    ///
    /// # Errors
    /// When it cannot be stored; an older one stays.
    fn save(&self, at: Seq, epoch: u32, items: &mut dyn Iterator<Item = Item>) -> Result<(), JournalError>;
}

/// When snapshots are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotSettings {
    /// Records after the newest snapshot that make another: what is replayed in about 2 s.
    pub tail_max: u64,
    /// Between two snapshots, at least: under full load they would cost more than they save.
    pub interval_min: Duration,
    /// The state is kept for the next snapshot while it has at most this many open events, and read back otherwise.
    pub keep_events_max: usize,
}

impl Default for SnapshotSettings {
    fn default() -> SnapshotSettings {
        SnapshotSettings { tail_max: 1_000_000, interval_min: Duration::from_secs(10), keep_events_max: 100_000 }
    }
}

/// Takes snapshots, one call at a time.
pub struct Snapshotter {
    source: Arc<dyn Source>,
    home: Arc<dyn SnapshotHome>,
    settings: SnapshotSettings,
    newest: Option<Seq>,
    state: Option<Durable>,
}

impl std::fmt::Debug for Snapshotter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshotter").field("newest", &self.newest).finish_non_exhaustive()
    }
}

impl Snapshotter {
    /// Looks for the newest snapshot.
    ///
    /// # Errors
    /// When the home cannot be read.
    pub fn new(
        source: Arc<dyn Source>,
        home: Arc<dyn SnapshotHome>,
        settings: SnapshotSettings,
    ) -> Result<Snapshotter, JournalError> {
        let newest = home.snapshots()?.first().copied();
        // A young journal is followed from its beginning on; an older one from the first snapshot on.
        let state = newest.is_none().then(Durable::new);
        Ok(Snapshotter { source, home, settings, newest, state })
    }

    /// Folds consecutive durable batches, if the state is kept and lacks nothing before them.
    pub fn follow(&mut self, batches: &[Arc<Batch>]) {
        let (Some(state), Some(first)) = (&mut self.state, batches.first()) else { return };
        let next = state.seq().next();
        if first.first() <= next {
            state.apply_all(batches.iter().flat_map(|batch| &batch.entries).filter(|entry| entry.seq >= next));
        }
    }

    /// Reads what the state lacks, if it is kept: batches were passed over.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn catch_up(&mut self, stop: &AtomicBool) -> Result<(), JournalError> {
        let Some(mut state) = self.state.take() else { return Ok(()) };
        self.read(&mut state, stop)?;
        self.state = Some(state);
        Ok(())
    }

    fn read(&self, state: &mut Durable, stop: &AtomicBool) -> Result<(), JournalError> {
        let end = self.source.end();
        if state.seq() >= end {
            return Ok(());
        }
        self.source.read(state.seq().next(), &mut |entry| {
            state.apply(entry);
            entry.seq < end && !stop.load(Ordering::Relaxed)
        })
    }

    /// The record of the newest snapshot; zero when there is none.
    #[must_use]
    pub fn newest(&self) -> Seq {
        self.newest.unwrap_or(Seq::ZERO)
    }

    /// Whether the tail is too long.
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.source.end().0 - self.newest().0.min(self.source.end().0) >= self.settings.tail_max
    }

    /// Takes a snapshot of what is durable at this moment, or little less where the state is kept: what the followed batches have
    /// brought is not read once more. None when told to stop meanwhile.
    ///
    /// # Errors
    /// When the journal cannot be read, or the snapshot cannot be stored.
    pub fn take(&mut self, stop: &AtomicBool) -> Result<Option<Seq>, JournalError> {
        let mut state = match self.state.take() {
            Some(state) => state,
            None => {
                let mut items = Vec::new();
                match self.home.load(&mut |item| items.push(item))? {
                    Some(_) => Durable::import(items),
                    None => Durable::new(),
                }
            }
        };
        let followed = state.seq().0.saturating_sub(self.newest().0);
        if followed < self.settings.tail_max / 2 {
            self.read(&mut state, stop)?;
        }
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let at = state.seq();
        if at == self.newest() {
            return Ok(None);
        }
        self.home.save(at, state.epoch(), &mut state.items())?;
        // Where the state is large, it is not held twice.
        state.forget_blocks();
        self.state = (state.events_open() <= self.settings.keep_events_max).then_some(state);
        self.newest = Some(at);
        Ok(Some(at))
    }
}

/// A thread that takes snapshots when they are due. Dropping it ends it.
#[derive(Debug)]
pub struct SnapshotFollower {
    stop: Arc<AtomicBool>,
    newest: Arc<AtomicU64>,
    wanted: SnapshotWanted,
    thread: Option<JoinHandle<()>>,
}

/// Asks for a snapshot sooner than the tail does: what is to leave the journal has to be covered by one.
#[derive(Clone, Debug, Default)]
pub struct SnapshotWanted(Arc<AtomicBool>);

impl SnapshotWanted {
    /// One snapshot of what is durable, once the least interval is over.
    pub fn ask(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl SnapshotFollower {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start(mut snapshotter: Snapshotter, mut feed: impl Feed + 'static) -> std::io::Result<SnapshotFollower> {
        let stop = Arc::new(AtomicBool::new(false));
        let newest = Arc::new(AtomicU64::new(snapshotter.newest().0));
        let wanted = SnapshotWanted::default();
        let (its_stop, its_newest, its_wanted) = (Arc::clone(&stop), Arc::clone(&newest), wanted.clone());
        let thread = std::thread::Builder::new().name("snapshots".to_owned()).spawn(move || {
            lower_priority();
            let mut not_before: Option<Instant> = None;
            let mut wait = POLL;
            let mut gathered: Vec<Arc<Batch>> = Vec::new();
            while !its_stop.load(Ordering::Relaxed) {
                match feed.next(wait) {
                    Fed::Batch(batch) => {
                        gathered.push(batch);
                        wait = Duration::ZERO;
                        if gathered.len() < GATHERED_MAX {
                            continue;
                        }
                    }
                    Fed::Lagged => {
                        gathered.clear();
                        if let Err(error) = snapshotter.catch_up(&its_stop) {
                            warn!(error = %Chain(&error), "state for snapshots was let go");
                        }
                        wait = Duration::ZERO;
                    }
                    Fed::Idle if wait.is_zero() => {
                        std::thread::park_timeout(GATHER);
                        wait = POLL;
                    }
                    Fed::Idle => {}
                    // The plane ends, and this thread is told to.
                    Fed::Closed => std::thread::park_timeout(POLL),
                }
                snapshotter.follow(&gathered);
                gathered.clear();
                let due = its_wanted.0.load(Ordering::Relaxed) || snapshotter.is_due();
                if !due || not_before.is_some_and(|at| Instant::now() < at) {
                    continue;
                }
                its_wanted.0.store(false, Ordering::Relaxed);
                let began = Instant::now();
                let pause = match snapshotter.take(&its_stop) {
                    Ok(Some(seq)) => {
                        its_newest.store(seq.0, Ordering::Release);
                        info!(%seq, took_ms = began.elapsed().as_millis() as u64, "snapshot taken");
                        snapshotter.settings.interval_min
                    }
                    Ok(None) => Duration::ZERO,
                    Err(error) => {
                        warn!(error = %Chain(&error), "snapshot was not taken");
                        RETRY
                    }
                };
                not_before = Some(Instant::now() + pause);
            }
        })?;
        Ok(SnapshotFollower { stop, newest, wanted, thread: Some(thread) })
    }

    /// The record of the newest snapshot; zero when there is none.
    #[must_use]
    pub fn newest(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.newest)
    }

    /// The way to ask for one.
    #[must_use]
    pub fn wanted(&self) -> SnapshotWanted {
        self.wanted.clone()
    }
}

impl Drop for SnapshotFollower {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            if thread.join().is_err() {
                error!("the snapshots' thread panicked");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use mindos_core::record::{Entry, EpochCause, EpochStarted, GeneralKey, GeneralRegistered, Record, RoutesApplied};
    use mindos_core::route::RouteTable;
    use mindos_model::{DeliveryId, GeneralType};

    use super::super::testing::{Records, general};
    use super::*;

    #[derive(Default)]
    struct Kept(Mutex<Vec<(Seq, Vec<Item>)>>);

    impl SnapshotHome for Kept {
        fn snapshots(&self) -> Result<Vec<Seq>, JournalError> {
            Ok(self.0.lock().unwrap().iter().rev().map(|(seq, _)| *seq).collect())
        }

        fn load(&self, visit: &mut dyn FnMut(Item)) -> Result<Option<Seq>, JournalError> {
            let kept = self.0.lock().unwrap();
            let Some((seq, items)) = kept.last() else { return Ok(None) };
            items.iter().cloned().for_each(visit);
            Ok(Some(*seq))
        }

        fn save(&self, at: Seq, _: u32, items: &mut dyn Iterator<Item = Item>) -> Result<(), JournalError> {
            self.0.lock().unwrap().push((at, items.collect()));
            Ok(())
        }
    }

    fn records() -> Arc<Records> {
        let records = Records::default();
        records.push(Record::EpochStarted(EpochStarted { epoch: 1, version: "0".into(), cause: EpochCause::Start }));
        let (key, table) = (general("eu", "security"), RouteTable::stock());
        let applied =
            RoutesApplied { tenant: key.tenant.clone(), table: Arc::new(table), by: "".into(), from: "".into() };
        records.push(Record::RoutesApplied(Box::new(applied)));
        let ty = GeneralType::new("security-general").unwrap();
        let registered = GeneralRegistered { key: GeneralKey::clone(&key), ty, labels: vec![] };
        records.push(Record::GeneralRegistered(Box::new(registered)));
        Arc::new(records)
    }

    fn work(records: &Records, count: usize) {
        let security = general("eu", "security");
        for _ in 0..count {
            let event = records.event("o/a", "push", &[&security]);
            let delivery = DeliveryId::new(event, 1);
            records.leased(delivery, &security, 1);
            records.settled(delivery);
        }
    }

    #[test]
    fn a_snapshot_is_the_fold_of_the_journal_whatever_it_began_from() {
        for keep_events_max in [0, usize::MAX] {
            let (records, home) = (records(), Arc::new(Kept::default()));
            let settings = SnapshotSettings { tail_max: 30, keep_events_max, ..SnapshotSettings::default() };
            let source: Arc<dyn Source> = Arc::clone(&records) as _;
            let mut snapshotter = Snapshotter::new(source, Arc::clone(&home) as _, settings).unwrap();
            let go = AtomicBool::new(false);
            assert!(!snapshotter.is_due());
            for round in 1..=3 {
                work(&records, 10);
                assert!(snapshotter.is_due());
                assert_eq!(snapshotter.take(&go).unwrap(), Some(records.end()));
                assert!(!snapshotter.is_due());
                let mut whole = Durable::new();
                records.entries().iter().for_each(|entry| whole.apply(entry));
                assert_eq!(home.0.lock().unwrap()[round - 1].1, whole.export());
            }
        }
    }

    #[test]
    fn what_it_followed_and_what_it_missed_come_to_the_same_snapshot() {
        let (records, home) = (records(), Arc::new(Kept::default()));
        let source: Arc<dyn Source> = Arc::clone(&records) as _;
        let mut snapshotter = Snapshotter::new(source, Arc::clone(&home) as _, SnapshotSettings::default()).unwrap();
        let go = AtomicBool::new(false);
        let follow = |snapshotter: &mut Snapshotter, from: usize| {
            let batch = |entries: &[Entry]| Arc::new(Batch { entries: entries.to_vec() });
            snapshotter.follow(&records.entries()[from..].chunks(3).map(batch).collect::<Vec<_>>());
        };
        let folded = |snapshotter: &Snapshotter| snapshotter.state.as_ref().map(Durable::seq);
        work(&records, 5);
        follow(&mut snapshotter, 0);
        assert_eq!(folded(&snapshotter), Some(records.end()));
        // Batches that it has seen change nothing, and those behind a gap wait until the gap is read.
        follow(&mut snapshotter, 0);
        let seen = records.entries().len();
        work(&records, 5);
        follow(&mut snapshotter, seen + 1);
        assert_eq!(folded(&snapshotter), Some(Seq(seen as u64)));
        snapshotter.catch_up(&go).unwrap();
        assert_eq!(folded(&snapshotter), Some(records.end()));

        assert_eq!(snapshotter.take(&go).unwrap(), Some(records.end()));
        let mut whole = Durable::new();
        records.entries().iter().for_each(|entry| whole.apply(entry));
        assert_eq!(home.0.lock().unwrap()[0].1, whole.export());
    }

    #[test]
    fn a_state_that_has_followed_most_of_the_tail_is_taken_as_it_stands() {
        let (records, home) = (records(), Arc::new(Kept::default()));
        let source: Arc<dyn Source> = Arc::clone(&records) as _;
        let settings = SnapshotSettings { tail_max: 20, ..SnapshotSettings::default() };
        let mut snapshotter = Snapshotter::new(source, Arc::clone(&home) as _, settings).unwrap();
        work(&records, 10);
        let (go, followed) = (AtomicBool::new(false), records.end());
        snapshotter.follow(&[Arc::new(Batch { entries: records.entries() })]);
        work(&records, 1);
        assert_eq!(snapshotter.take(&go).unwrap(), Some(followed));
        let mut then = Durable::new();
        records.entries().iter().filter(|entry| entry.seq <= followed).for_each(|entry| then.apply(entry));
        assert_eq!(home.0.lock().unwrap()[0].1, then.export());
        // Asked for again at once, it reads the little that is missing.
        assert_eq!(snapshotter.take(&go).unwrap(), Some(records.end()));
    }

    #[test]
    fn a_snapshot_that_is_interrupted_is_not_stored() {
        let (records, home) = (records(), Arc::new(Kept::default()));
        work(&records, 10);
        let source: Arc<dyn Source> = Arc::clone(&records) as _;
        let mut snapshotter = Snapshotter::new(source, Arc::clone(&home) as _, SnapshotSettings::default()).unwrap();
        assert_eq!(snapshotter.take(&AtomicBool::new(true)).unwrap(), None);
        assert!(home.0.lock().unwrap().is_empty());
    }
}
