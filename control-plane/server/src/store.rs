//! The journal's embedded home, as the server uses it: opened and folded at the start, written by one thread, read by all.
//!
//! Invariant: what tools did to the journal while nobody served stands in it before anything else is written.

use std::cell::Cell;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use mindos_core::Durable;
use mindos_core::journal::{Journal, JournalError as HomeError};
use mindos_core::record::{Batch, Entry, EpochCause, EpochStarted, JournalTruncated, Record};
use mindos_core::snapshot::Item;
use mindos_journal::{
    EmbeddedError, EmbeddedJournal, JournalError, Ledger, Marks, Options, RealDisk, Recovery, Redactor, Usage,
};
use mindos_model::{Seq, Timestamp};
use tracing::{info, warn};

use crate::clock::Clock;
use crate::config::Config;
use crate::driver::{AppendError, DISK_INTERVAL, Home};
use crate::logging::Chain;
use crate::run::Opened;
use crate::views::follow::Source;
use crate::views::snapshot::SnapshotHome;

/// Directory of the journal within the data directory.
pub const JOURNAL_DIR: &str = "journal";
/// Records that are folded at once at a start, and bytes of their payloads.
const STRETCH_ENTRIES: usize = 16 << 10;
const STRETCH_BYTES: usize = 32 << 20;

/// Why the journal cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("failed to make data directory `{path}`")]
    Directory { path: PathBuf, source: io::Error },
    #[error("failed to open the journal")]
    Open(#[from] JournalError),
    #[error("failed to read the journal")]
    Read(#[from] HomeError),
    #[error("failed to record what was done to the journal")]
    Marks(#[from] EmbeddedError),
    #[error("system gave no random bytes")]
    Random(#[source] io::Error),
}

/// Everything that reads the journal.
#[derive(Debug)]
pub struct Reads {
    ledger: Ledger<RealDisk>,
    redactor: Redactor<RealDisk>,
}

impl Reads {
    /// Records, payloads and the bytes below them.
    #[must_use]
    pub fn ledger(&self) -> &Ledger<RealDisk> {
        &self.ledger
    }

    /// Takes payloads out of the journal.
    #[must_use]
    pub fn redactor(&self) -> &Redactor<RealDisk> {
        &self.redactor
    }

    /// The payload that stands with a record; `None` when it has none, or has left with its record.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn payload(&self, seq: Seq) -> Result<Option<Bytes>, HomeError> {
        match self.ledger.payload(seq) {
            Err(JournalError::Dropped { .. }) => Ok(None),
            read => read.map_err(|error| failed("failed to read a payload", error.into())),
        }
    }
}

fn failed(context: &str, error: EmbeddedError) -> HomeError {
    match error {
        EmbeddedError::Log(JournalError::Dropped { seq, first }) => HomeError::Dropped { wanted: seq, first },
        error => HomeError::Home { context: context.to_owned(), source: Box::new(error) },
    }
}

impl Source for Reads {
    fn end(&self) -> Seq {
        self.ledger.reader().end()
    }

    fn read(&self, from: Seq, visit: &mut dyn FnMut(&Entry) -> bool) -> Result<(), HomeError> {
        if from > self.end() {
            return Ok(());
        }
        let mut tail = self.ledger.tail(from).map_err(|error| failed("failed to read the journal", error.into()))?;
        let mut goes_on = true;
        while goes_on {
            let read = tail.next_batch(|entry| goes_on = goes_on && visit(&entry));
            if !read.map_err(|error| failed("failed to read the journal", error))? {
                break;
            }
        }
        Ok(())
    }
}

impl SnapshotHome for Reads {
    fn snapshots(&self) -> Result<Vec<Seq>, HomeError> {
        let snapshots = self.ledger.reader().snapshots();
        let mut snapshots = snapshots.map_err(|error| failed("failed to list snapshots", error.into()))?;
        snapshots.sort_unstable_by_key(|seq| std::cmp::Reverse(*seq));
        Ok(snapshots)
    }

    fn load(&self, visit: &mut dyn FnMut(Item)) -> Result<Option<Seq>, HomeError> {
        self.ledger.load_snapshot(visit, passed_over).map_err(|error| failed("failed to load a snapshot", error))
    }

    fn save(&self, at: Seq, _epoch: u32, items: &mut dyn Iterator<Item = Item>) -> Result<(), HomeError> {
        self.ledger.save_snapshot(at, items).map_err(|error| failed("failed to save a snapshot", error))
    }
}

/// The writer's side.
#[derive(Debug)]
pub struct EmbeddedHome {
    journal: EmbeddedJournal<RealDisk>,
    dropped: Seq,
    disk: FileSystem,
}

/// What the file system of the journal has left, looked at now and then.
#[derive(Debug)]
struct FileSystem {
    path: PathBuf,
    seen: Cell<Option<(Instant, u64)>>,
}

impl FileSystem {
    fn of(path: PathBuf) -> FileSystem {
        FileSystem { path, seen: Cell::default() }
    }

    /// Bytes; without end where the system does not say.
    fn available(&self) -> u64 {
        if let Some((at, bytes)) = self.seen.get()
            && at.elapsed() < DISK_INTERVAL
        {
            return bytes;
        }
        let bytes =
            rustix::fs::statvfs(&self.path).map_or(u64::MAX, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
        self.seen.set(Some((Instant::now(), bytes)));
        bytes
    }
}

/// What the journal may take of a disk that has so much left.
fn within(usage: Usage, available: u64) -> Usage {
    let Usage { used_bytes, quota_bytes } = usage;
    Usage { used_bytes, quota_bytes: quota_bytes.min(used_bytes.saturating_add(available)) }
}

impl Home for EmbeddedHome {
    fn append(&mut self, expected: Seq, batch: &Batch) -> Result<(), AppendError> {
        self.journal.append_batch(expected, batch).map(drop).map_err(|error| {
            if error.is_no_space() { AppendError::NoSpace } else { AppendError::Fatal(Box::new(error)) }
        })
    }

    fn is_tight(&self) -> bool {
        within(self.journal.ledger().reader().usage(), self.disk.available()).is_tight()
    }

    fn drop_prefix(&mut self, through: Seq) -> Result<(), AppendError> {
        match self.journal.log().seal_if_wanted() {
            Err(error) if error.is_fatal() => return Err(AppendError::Fatal(Box::new(error))),
            Err(error) => warn!(error = %Chain(&error), "segment was not sealed"),
            Ok(()) => {}
        }
        if through <= self.dropped {
            return Ok(());
        }
        match self.journal.log().drop_prefix(through) {
            Ok(dropped) => {
                info!(first = %dropped.first, recycled = dropped.recycled, unlinked = dropped.unlinked, "prefix was dropped");
                self.dropped = through;
                Ok(())
            }
            Err(JournalError::NoSnapshot { .. }) => Ok(()),
            Err(error) if error.is_fatal() => Err(AppendError::Fatal(Box::new(error))),
            Err(error) => {
                warn!(error = %Chain(&error), "prefix was not dropped");
                Ok(())
            }
        }
    }
}

/// Opens the journal in the data directory, or begins one, and folds it. Waits for the disk.
///
/// # Errors
/// When another process has it, or it is damaged: names the file and the place.
pub fn open(config: &Config) -> Result<Opened<EmbeddedHome>, StoreError> {
    let path = config.data_dir.join(JOURNAL_DIR);
    make_private(&config.data_dir).map_err(|source| StoreError::Directory { path: path.clone(), source })?;
    std::fs::create_dir_all(&path).map_err(|source| StoreError::Directory { path: path.clone(), source })?;
    let disk = RealDisk::new(&path).map_err(|source| StoreError::Directory { path, source })?;
    let (mut entropy, mut seed) = ([0; 16], [0; 8]);
    for random in [&mut entropy[..], &mut seed[..]] {
        getrandom::fill(random).map_err(|error| StoreError::Random(io::Error::other(error)))?;
    }
    let options = Options {
        segment_bytes: config.segment_bytes,
        quota_bytes: config.journal_quota,
        check_all: config.check_all,
        ..Options::new(entropy)
    };
    let (mut journal, recovery) = EmbeddedJournal::open(disk, options)?;
    tell(&recovery);
    let reads = Arc::new(Reads { ledger: journal.ledger(), redactor: journal.log().redactor() });

    let (mut durable, mut newest) = fold(&reads.ledger, u64::from_le_bytes(seed))?;
    if recovery.marks != Marks::default() {
        newest = note(&mut journal, &mut durable, newest, &recovery.marks)?;
    }
    journal.log().begin_epoch(durable.epoch() + 1)?;
    // A restore has an epoch of its own by now, in the record noted above.
    let cause = EpochCause::Start;
    let plane_id = hex(&recovery.log_id);
    let home = EmbeddedHome { journal, dropped: Seq::ZERO, disk: FileSystem::of(config.data_dir.join(JOURNAL_DIR)) };
    Ok(Opened { home, durable, newest, cause, reads, plane_id })
}

/// Makes the data directory where it is missing, for nobody else to read.
fn make_private(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    if !path.is_dir() {
        return std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    }
    let mode = std::fs::metadata(path)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let (path, mode) = (path.display(), format!("{mode:03o}"));
        warn!(%path, mode, "others on this machine can read the data directory: chmod 700 it");
    }
    Ok(())
}

/// The state that the newest snapshot and the records behind it lead to, and when the newest of them was decided.
/// `seed` is for the hash maps, whose keys come from outside.
fn fold(ledger: &Ledger<RealDisk>, seed: u64) -> Result<(Durable, Timestamp), HomeError> {
    let mut newest = Timestamp::default();
    let import = |items: &mut dyn Iterator<Item = Item>| {
        Durable::import_seeded(
            seed,
            items.inspect(|item| {
                if let Item::Header { at, .. } = item {
                    newest = *at;
                }
            }),
        )
    };
    let folded = ledger.fold_snapshot(import, passed_over);
    let mut durable = folded.map_err(|error| failed("failed to load a snapshot", error))?;
    let from = durable.seq().next();
    if from <= ledger.reader().end() {
        let (mut stretch, mut bytes) = (Vec::new(), 0);
        let replayed = ledger.replay(from, |entry| {
            newest = newest.max(entry.at);
            bytes += entry.record.payload().map_or(0, |payload| payload.bytes.len());
            stretch.push(entry);
            if stretch.len() == STRETCH_ENTRIES || bytes >= STRETCH_BYTES {
                durable.apply_all(&stretch);
                stretch.clear();
                bytes = 0;
            }
        });
        replayed.map_err(|error| failed("failed to read the journal", error))?;
        durable.apply_all(&stretch);
    }
    Ok((durable, newest))
}

fn passed_over(error: JournalError) {
    warn!(error = %Chain(&error), "damaged snapshot was passed over");
}

fn tell(recovery: &Recovery) {
    if let Some(cut) = &recovery.cut {
        info!(
            file = cut.file,
            offset = cut.offset,
            bytes = cut.bytes,
            "torn batch at the end was cut: it was never acknowledged"
        );
    }
    for damage in &recovery.repaired {
        warn!(%damage, "damaged byte of the last batch was put right");
    }
}

/// Records what tools did, and moves the epoch past every token that may have been given out since a backup.
fn note(
    journal: &mut EmbeddedJournal<RealDisk>,
    durable: &mut Durable,
    newest: Timestamp,
    marks: &Marks,
) -> Result<Timestamp, StoreError> {
    let at = Clock::start(newest).now();
    let end = journal.end();
    let mut records = Vec::new();
    let mut epoch = durable.epoch().max(1);
    if let Some(truncated) = marks.truncated {
        let (kept, dropped_through) = (truncated.at, truncated.dropped_through);
        records.push(Record::JournalTruncated(JournalTruncated { kept, dropped_through }));
    }
    if let Some(restored) = marks.restored {
        epoch = restored.epoch_min.max(durable.epoch() + 1);
        let version = Arc::from(crate::VERSION);
        records.push(Record::EpochStarted(EpochStarted { epoch, version, cause: EpochCause::Restore }));
    }
    let entry = |(seq, record)| Entry { seq: Seq(seq), at, record };
    let entries: Vec<Entry> = (end.next().0..).zip(records).map(entry).collect();
    if let Some(last) = entries.last() {
        let last = last.seq;
        entries.iter().for_each(|entry| durable.apply(entry));
        journal.log().begin_epoch(epoch)?;
        journal.append_batch(end, &Batch { entries })?;
        info!(seq = %last, "what tools did to the journal was recorded");
    }
    journal.log().clear_marks()?;
    Ok(at)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_may_take_what_its_disk_has_and_no_more_than_its_quota() {
        let usage = |used_bytes, quota_bytes| Usage { used_bytes, quota_bytes };
        // Used, quota, left on the disk.
        for (used, quota, available, is_tight) in [
            (90, 100, u64::MAX, true),
            (89, 100, u64::MAX, false),
            (9, 100, 1, true),
            (9, 100, 2, false),
            (0, 100, 0, true),
        ] {
            assert_eq!(within(usage(used, quota), available).is_tight(), is_tight, "{used} of {quota}, {available}");
        }
    }

    #[test]
    fn the_file_system_says_what_it_has() {
        assert!((1..u64::MAX).contains(&FileSystem::of(std::env::temp_dir()).available()));
        assert_eq!(FileSystem::of(PathBuf::from("/nowhere/at/all")).available(), u64::MAX);
    }
}
