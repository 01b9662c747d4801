//! The history: every event, every delivery that has ended or is parked, and every effect, in SQLite files that are rolled and unlinked whole.
//!
//! ```text
//! journal --> rows in an open transaction --> committed every 15,000 rows or 5 s, with the mark of the last record in it
//!                                                   |  4 million rows
//!                                                   v
//!                                              next file;  the oldest leaves by age or size
//! ```
//! A delivery stands in the file of its event, in the event's own row where all its deliveries settle before it is written. Invariant: what is committed is the fold of the journal through the mark, so that a
//! crash loses rows only with the mark that says they are missing; and since a later state of a delivery never gives way to an
//! earlier one, writing rows twice changes nothing.

mod effects;
mod ending;
mod file;
mod leases;
mod open;
mod planned;
mod query;
mod row;
mod search;
mod settled;
mod shown;
mod spending;
mod view;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use mindos_core::record::{
    AttemptEnded, CancelReason, DeliveryCancelled, DeliverySettled, Entry, EventAccepted, Next, Record,
};
use mindos_model::{DeliveryId, Seq, Status, Timestamp};
use tracing::info;

use super::follow::ViewError;
use ending::{Ending, columns_at, columns_of};
use file::{Domain, EventColumns, HistoryFile, Mark};
use leases::{OpenLease, OpenLeases};
use open::{OpenEvent, OpenEvents};
use row::strategy_code;

pub use query::HistoryReader;
pub use row::{DeliveryQuery, DeliveryRow, EventQuery, EventRow, GeneralRef, Page, PageRequest, PlannedRow};
pub use spending::{Spending, SpendingBy};

/// Between two looks for files that may leave.
const EXPIRE_INTERVAL: Duration = Duration::from_secs(60);

/// A failure of the history.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    #[error("failed to open history file `{path}`")]
    Open { path: PathBuf, source: rusqlite::Error },
    #[error("failed to use the history")]
    Sqlite(#[from] rusqlite::Error),
    #[error("failed to change history files in `{path}`")]
    Files { path: PathBuf, source: std::io::Error },
}

/// How much is kept, and how it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistorySettings {
    /// Rows of one file.
    pub rows_max: u64,
    /// Rows of one transaction.
    pub batch_rows: u64,
    /// A transaction is committed when it is this old.
    pub batch_age: Duration,
    /// Files whose newest event is older leave.
    pub keep_age: Duration,
    /// The oldest files leave while all together have more bytes.
    pub keep_bytes: u64,
}

impl Default for HistorySettings {
    fn default() -> HistorySettings {
        HistorySettings {
            rows_max: 4_000_000,
            batch_rows: 15_000,
            batch_age: Duration::from_secs(5),
            keep_age: Duration::from_secs(30 * 24 * 3600),
            keep_bytes: 20 << 30,
        }
    }
}

/// A file that questions may be put to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileRef {
    first: Seq,
    path: PathBuf,
}

/// The files in force, the oldest first.
type Files = Arc<ArcSwap<Vec<FileRef>>>;

/// Writes the history.
#[derive(Debug)]
pub struct HistoryWriter {
    dir: PathBuf,
    settings: HistorySettings,
    files: Files,
    /// The newest file; unset before the first event.
    newest: Option<HistoryFile>,
    /// Older files with rows that wait.
    older: BTreeMap<Seq, HistoryFile>,
    leases: OpenLeases,
    /// Events of the newest file that are not written yet.
    open: OpenEvents,
    mark: Mark,
    waiting_rows: u64,
    waiting_since: Option<Instant>,
    committed: Arc<AtomicU64>,
    expired_at: Option<Instant>,
    damaged: bool,
}

impl HistoryWriter {
    /// Opens the history in `dir`, which is made when it is missing. Files that are damaged or of another schema are removed with
    /// all others, and the whole is rebuilt from the journal.
    ///
    /// # Errors
    /// When the directory cannot be read or written.
    pub fn open(dir: &Path, settings: HistorySettings) -> Result<HistoryWriter, HistoryError> {
        std::fs::create_dir_all(dir).map_err(|source| HistoryError::Files { path: dir.to_owned(), source })?;
        let mut writer = HistoryWriter {
            dir: dir.to_owned(),
            settings,
            files: Files::default(),
            newest: None,
            older: BTreeMap::new(),
            leases: OpenLeases::default(),
            open: OpenEvents::default(),
            mark: Mark::default(),
            waiting_rows: 0,
            waiting_since: None,
            committed: Arc::default(),
            expired_at: None,
            damaged: false,
        };
        writer.load()?;
        Ok(writer)
    }

    /// Answers questions, from any thread.
    #[must_use]
    pub fn reader(&self) -> HistoryReader {
        HistoryReader::new(Arc::clone(&self.files), Arc::clone(&self.committed))
    }

    fn load(&mut self) -> Result<(), HistoryError> {
        (self.newest, self.mark, self.waiting_rows, self.waiting_since) = (None, Mark::default(), 0, None);
        self.older.clear();
        self.leases.clear();
        self.open.clear();
        let mut files = self.list()?;
        // A file that was being made when the process ended is not whole, and nothing stands in it yet.
        while let Some(last) = files.last() {
            if let Some(newest) = HistoryFile::open(&last.path)? {
                let (mark, state) = newest.mark()?;
                if let Some(leases) = leases::decode(&state) {
                    (self.newest, self.mark, self.leases) = (Some(newest), mark, leases);
                    break;
                }
            }
            info!(path = %last.path.display(), "unusable history file was removed");
            file::remove(&last.path)?;
            files.pop();
        }
        // What one file knows of the mark holds for all, so a single other one that is not whole makes the history start over.
        for file in &files {
            match file::open_to_read(&file.path).and_then(|open| query::schema(&open)) {
                Ok(file::SCHEMA) => {}
                Ok(_) => return self.clear(),
                Err(HistoryError::Sqlite(error) | HistoryError::Open { source: error, .. })
                    if file::is_damage(&error) =>
                {
                    return self.clear();
                }
                // It may be whole, and could not be read this time.
                Err(error) => return Err(error),
            }
        }
        self.files.store(Arc::new(files));
        self.committed.store(self.mark.seq.0, Ordering::Release);
        Ok(())
    }

    fn list(&self) -> Result<Vec<FileRef>, HistoryError> {
        let failed = |source| HistoryError::Files { path: self.dir.clone(), source };
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if let Some(first) = file::first_of(&path) {
                files.push(FileRef { first, path });
            }
        }
        files.sort_by_key(|file| file.first);
        Ok(files)
    }

    /// Removes everything; the next record is the journal's first.
    fn clear(&mut self) -> Result<(), HistoryError> {
        info!(path = %self.dir.display(), "history is rebuilt from the journal");
        self.files.store(Arc::default());
        self.committed.store(0, Ordering::Release);
        (self.newest, self.mark, self.waiting_rows, self.waiting_since) = (None, Mark::default(), 0, None);
        self.older.clear();
        self.leases.clear();
        self.open.clear();
        self.list()?.iter().try_for_each(|file| file::remove(&file.path))
    }

    fn commit(&mut self) -> Result<(), HistoryError> {
        if let Some(newest) = &mut self.newest {
            // In the order in which they lie in the file.
            let mut open: Vec<_> = self.open.drain().map(|(_, event)| event).collect();
            open.sort_unstable_by_key(OpenEvent::seq);
            open.into_iter().try_for_each(|event| event.write(newest))?;
        }
        let state = leases::encode(&self.leases);
        // The older files first: their rows may be written twice, but must not be missed.
        for file in self.older.values_mut() {
            file.commit_rows()?;
        }
        self.older.clear();
        if let Some(newest) = &mut self.newest {
            newest.commit(self.mark, &state)?;
        }
        (self.waiting_rows, self.waiting_since) = (0, None);
        self.committed.store(self.mark.seq.0, Ordering::Release);
        if self.expired_at.is_none_or(|at| at.elapsed() >= EXPIRE_INTERVAL) {
            self.expired_at = Some(Instant::now());
            self.expire()?;
        }
        Ok(())
    }

    /// Remembers whether the files are to blame, so that they are rebuilt.
    fn blame(&mut self, error: HistoryError) -> ViewError {
        if let HistoryError::Sqlite(source) | HistoryError::Open { source, .. } = &error {
            self.damaged |= file::is_damage(source);
        }
        error.into()
    }

    /// Unlinks the oldest files past what is kept.
    fn expire(&mut self) -> Result<(), HistoryError> {
        let files = self.files.load_full();
        let size = |file: &FileRef| std::fs::metadata(&file.path).map_or(0, |data| data.len());
        let mut bytes: u64 = files.iter().map(size).sum();
        let oldest = self.mark.at - self.settings.keep_age;
        let mut gone = 0;
        for pair in files.windows(2) {
            // Everything in a file is older than the mark with which the next one began.
            let began = || query::first_event_at(&pair[1].path).ok().flatten();
            if bytes <= self.settings.keep_bytes && began().is_none_or(|at| at >= oldest) {
                break;
            }
            bytes -= size(&pair[0]);
            gone += 1;
        }
        if gone > 0 {
            self.files.store(Arc::new(files[gone..].to_vec()));
            for file in &files[..gone] {
                file::remove(&file.path)?;
                info!(path = %file.path.display(), "history file left");
            }
        }
        Ok(())
    }

    fn event(&mut self, seq: Seq, at: Timestamp, event: &EventAccepted) -> Result<(), HistoryError> {
        if self.newest.as_ref().is_none_or(|newest| newest.is_full(self.settings.rows_max)) {
            self.roll(seq)?;
        }
        let Some(file) = &mut self.newest else { return Ok(()) };
        let EventAccepted {
            tenant,
            source,
            id,
            ty,
            kind,
            subject,
            lane,
            repository,
            priority: _,
            actor,
            time,
            key: _,
            digest: _,
            payload,
            route,
            strategy,
            judgement: _,
            deliveries,
            fell_back_from: _,
            about: _,
        } = event;
        let mut plan = Vec::with_capacity(deliveries.len() * 3);
        for delivery in deliveries {
            let general = delivery.general.as_ref().map(|key| file.general(key)).transpose()?;
            planned::encode(&mut plan, general, delivery.parked);
        }
        let optional = |file: &mut HistoryFile, domain, text: &Option<Arc<str>>| {
            text.as_ref().map(|text| file.name(domain, text)).transpose()
        };
        let columns = EventColumns {
            seq: seq.0 as i64,
            at: at.0 as i64,
            tenant: file.name_of(Domain::Tenant, tenant.as_str())?,
            source: file.name(Domain::Source, source)?,
            id: Arc::clone(id),
            ty: file.name(Domain::Type, ty)?,
            kind: file.name(Domain::Kind, kind)?,
            subject: subject.clone(),
            repository: optional(file, Domain::Repository, repository)?,
            lane: (subject.as_ref() != Some(lane)).then(|| Arc::clone(lane)),
            actor: optional(file, Domain::Actor, actor)?,
            time: time.map(|time| time.0 as i64),
            payload_len: payload.bytes.len() as i64,
            route: route.as_ref().map(|route| file.name_of(Domain::Route, route.as_str())).transpose()?,
            strategy: strategy.map(strategy_code),
            planned: plan,
        };
        self.waiting_rows += 1;
        let event = OpenEvent::new(columns, deliveries.len());
        if event.is_whole() {
            event.write(file)?;
        } else {
            self.open.insert(seq, event);
        }
        for (index, delivery) in deliveries.iter().enumerate() {
            if let Some(reason) = delivery.parked {
                let id = DeliveryId::new(seq, index as u32 + 1);
                self.ended(
                    id,
                    seq,
                    at,
                    Status::Parked,
                    Ending { reason: Some(reason), attempts: Some(0), ..Ending::default() },
                )?;
            }
        }
        Ok(())
    }

    /// Begins a file whose first event is at `first`.
    fn roll(&mut self, first: Seq) -> Result<(), HistoryError> {
        if self.newest.is_some() {
            self.commit()?;
        }
        let made = HistoryFile::create(&self.dir, first, self.mark, &leases::encode(&self.leases))?;
        let mut files = self.files.load().to_vec();
        files.push(FileRef { first, path: made.path.clone() });
        if let Some(full) = self.newest.replace(made) {
            full.seal()?;
        }
        self.files.store(Arc::new(files));
        Ok(())
    }

    /// The file that has the event; `None` when it has left, or the journal no longer had the event.
    fn file_of(&mut self, event: Seq) -> Result<Option<&mut HistoryFile>, HistoryError> {
        let files = self.files.load();
        let Some(index) = files.partition_point(|file| file.first <= event).checked_sub(1) else { return Ok(None) };
        if index + 1 == files.len() {
            return Ok(self.newest.as_mut());
        }
        let file = &files[index];
        match self.older.entry(file.first) {
            Slot::Occupied(open) => Ok(Some(open.into_mut())),
            Slot::Vacant(none) => {
                let Some(open) = HistoryFile::open(&file.path)? else { return Ok(None) };
                open.sync_commits()?;
                Ok(Some(none.insert(open)))
            }
        }
    }

    fn ended(
        &mut self,
        delivery: DeliveryId,
        seq: Seq,
        at: Timestamp,
        status: Status,
        ending: Ending,
    ) -> Result<(), HistoryError> {
        let lease = self.leases.remove(&delivery);
        let columns = columns_of(delivery, seq, at, status, ending);
        if let (Some(event), Some(newest)) = (self.open.get_mut(&delivery.event), &mut self.newest) {
            let columns = columns_at(newest, columns, lease.as_ref(), |_| Ok(event.plan().to_vec()))?;
            if status == Status::Succeeded {
                event.settle(&columns);
                if !event.is_whole() {
                    return Ok(());
                }
            }
            // Other endings may be followed by more, which a row of its own takes.
            if let Some(event) = self.open.remove(&delivery.event) {
                event.write(newest)?;
            }
            if status != Status::Succeeded {
                newest.upsert_delivery(columns)?;
                self.waiting_rows += 1;
            }
            return Ok(());
        }
        let Some(file) = self.file_of(delivery.event)? else { return Ok(()) };
        let columns = columns_at(file, columns, lease.as_ref(), |file| file.plan(delivery.event))?;
        file.upsert_delivery(columns)?;
        self.waiting_rows += 1;
        Ok(())
    }

    fn attempt_ended(&mut self, seq: Seq, at: Timestamp, ended: &AttemptEnded) -> Result<(), HistoryError> {
        let AttemptEnded { delivery, counted, next, .. } = ended;
        let used = self.leases.get(delivery).map(|lease| lease.attempt - u32::from(!counted).min(lease.attempt));
        let (status, reason) = match next {
            Next::Wait { .. } => (Status::Waiting, None),
            Next::Park { reason } => (Status::Parked, Some(*reason)),
        };
        self.ended(*delivery, seq, at, status, Ending { reason, attempts: used, ..Ending::default() })
    }

    fn take(&mut self, entry: &Entry) -> Result<(), HistoryError> {
        let Entry { seq, at, record } = entry;
        let (seq, at) = (*seq, *at);
        match record {
            Record::EventAccepted(event) => self.event(seq, at, event)?,
            Record::DeliveryLeased(leased) => {
                let lease = OpenLease {
                    general: Arc::clone(&leased.general),
                    instance: Arc::clone(&leased.instance),
                    token: leased.token,
                    attempt: leased.attempt,
                    since: at,
                };
                self.leases.insert(leased.delivery, lease);
            }
            Record::AttemptEnded(ended) => self.attempt_ended(seq, at, ended)?,
            Record::DeliverySettled(settled) => {
                let DeliverySettled { delivery, usage, took_ms, .. } = &**settled;
                let sum = usage.iter().fold([0_u64; 3], |sum, usage| {
                    let more = [usage.input_tokens, usage.output_tokens, usage.cost_micros];
                    [0, 1, 2].map(|index| sum[index].saturating_add(more[index]))
                });
                let ending = Ending { took_ms: Some(*took_ms), usage: sum, ..Ending::default() };
                self.ended(*delivery, seq, at, Status::Succeeded, ending)?;
            }
            Record::DeliveryCancelled(cancelled) => {
                let DeliveryCancelled { delivery, reason, why: _, by: _, charged: _, unanswered: _ } = &**cancelled;
                let superseded_by = match reason {
                    CancelReason::Superseded { by } | CancelReason::RaceLost { by } => Some(*by),
                    CancelReason::Requested
                    | CancelReason::Expired
                    | CancelReason::ShadowFailed
                    | CancelReason::ReplayFailed
                    | CancelReason::ReplayOverBudget
                    | CancelReason::Redacted => None,
                };
                self.ended(*delivery, seq, at, Status::Cancelled, Ending { superseded_by, ..Ending::default() })?;
            }
            Record::DeliveryParked(parked) => {
                let ending = Ending { reason: Some(parked.reason), ..Ending::default() };
                self.ended(parked.delivery, seq, at, Status::Parked, ending)?;
            }
            Record::DeliveryRedriven(redriven) => {
                let ending = Ending { attempts: Some(0), redrives: 1, ..Ending::default() };
                self.ended(redriven.delivery, seq, at, Status::Waiting, ending)?;
            }
            Record::EffectIntended(_)
            | Record::EffectDeferred(_)
            | Record::EffectEnded(_)
            | Record::EffectRevived(_) => self.effect(entry)?,
            Record::EpochStarted(_)
            | Record::Object(_)
            | Record::CancelRequested(_)
            | Record::ResultRefused(_)
            | Record::LeaseExtended(_)
            | Record::ClusterRegistered(_)
            | Record::GeneralRegistered(_)
            | Record::GeneralRemoved(_)
            | Record::HoldChanged(_)
            | Record::RoutesApplied(_)
            | Record::RouteAsked(_)
            | Record::PayloadCarried(_)
            | Record::PrefixDropped(_)
            | Record::JournalTruncated(_)
            | Record::UpgradeFinalized(_)
            | Record::BudgetSet(_)
            | Record::BudgetRemoved(_)
            | Record::BudgetAcknowledged(_)
            | Record::BudgetCrossed(_)
            | Record::Access(_)
            | Record::PayloadsRedacted(_) => {}
        }
        self.mark = Mark { seq, at };
        Ok(())
    }
}

#[cfg(test)]
mod tests;
