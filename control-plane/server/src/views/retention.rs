//! Retention: what is older than wanted leaves the journal, once nothing needs it any more.
//!
//! ```text
//! age, size, quota -> how far? -> snapshots, history, dedupe and blobs have seen it? -> payloads carried -> PrefixDropped
//! ```
//! Invariant: no record leaves before a snapshot stands for it, every view has it, and each payload that open work needs was
//! written again behind it.

use std::sync::Arc;
use std::time::Duration;

use mindos_core::input::{Input, Query};
use mindos_core::output::{PayloadOf, PayloadRef, Reply};
use mindos_core::record::Payload;
use mindos_journal::{JournalError, Ledger, RealDisk};
use mindos_model::{Seq, TenantName, Timestamp};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::follow::Progress;
use super::history::HistoryReader;
use crate::blobs::{BlobError, BlobStore};
use crate::driver::{CallError, Handle, Stopped};
use crate::ingest::event::salt;
use crate::logging::Chain;
use crate::views::blob_refs::BlobRefs;
use crate::views::dedupe::DedupeIndex;
use crate::views::snapshot::SnapshotWanted;

/// Between two looks while the disk is short of room.
const TIGHT_INTERVAL: Duration = Duration::from_secs(2);
/// Payloads carried between two answers of the plane.
const CARRY_MAX: u32 = 256;
/// Payloads weighed before it is decided whether dropping is worth it.
const WEIGHED_MAX: u32 = 10_000;
/// A blob that nothing names is kept for this long, so that its event has time to come.
const BLOB_GRACE: Duration = Duration::from_secs(24 * 3600);
/// Records that may be on their way to the view of names of blobs while unnamed ones are removed: those of a moment.
const UNSEEN_MAX: u64 = 10_000;

/// What is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetentionSettings {
    /// Records that are older leave.
    pub keep_age: Duration,
    /// The oldest records leave while the journal takes more bytes.
    pub keep_bytes: u64,
    /// Between two looks.
    pub interval: Duration,
}

impl Default for RetentionSettings {
    fn default() -> RetentionSettings {
        RetentionSettings {
            keep_age: Duration::from_secs(7 * 24 * 3600),
            keep_bytes: 40 << 30,
            interval: Duration::from_secs(30),
        }
    }
}

/// A failure of the upkeep; it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum RetentionError {
    #[error("failed to read the journal")]
    Journal(#[from] JournalError),
    #[error("failed to read the journal")]
    Record(#[from] mindos_journal::EmbeddedError),
    #[error("plane did not answer")]
    Call(#[from] CallError),
    #[error("plane did not answer")]
    Stopped(#[from] Stopped),
    #[error("payload of event {event} at record {seq} is gone, so nothing is dropped")]
    PayloadGone { event: Seq, seq: Seq },
    #[error("failed to sweep blobs")]
    Blobs(#[from] BlobError),
    #[error("plane gave an answer of another kind")]
    Unexpected,
    #[error("a read panicked")]
    Panicked(#[from] tokio::task::JoinError),
}

/// What retention needs.
#[derive(Debug)]
pub struct Retention {
    pub handle: Handle,
    pub ledger: Ledger<RealDisk>,
    pub history: HistoryReader,
    pub dedupe: Arc<DedupeIndex>,
    pub blobs: Arc<BlobStore>,
    pub blob_refs: BlobRefs,
    /// Of the view that finds names of blobs.
    pub blob_progress: Arc<Progress>,
    pub snapshot_wanted: SnapshotWanted,
    pub settings: RetentionSettings,
}

impl Retention {
    /// Looks again and again until `drain` turns true.
    pub async fn run(self, mut drain: watch::Receiver<bool>) {
        let retention = Arc::new(self);
        loop {
            let wanted = retention.settings.interval;
            let interval = if retention.handle.is_tight() { TIGHT_INTERVAL.min(wanted) } else { wanted };
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                _ = drain.wait_for(|draining| *draining) => return,
            }
            let turn = tokio::select! {
                turn = retention.turn() => turn,
                _ = drain.wait_for(|draining| *draining) => return,
            };
            match turn {
                Ok(()) | Err(RetentionError::Stopped(_) | RetentionError::Call(CallError::Stopped(_))) => {}
                Err(error) => warn!(error = %Chain(&error), "nothing was dropped"),
            }
        }
    }

    async fn turn(self: &Arc<Self>) -> Result<(), RetentionError> {
        let planner = Arc::clone(self);
        if let Some((through, link)) = tokio::task::spawn_blocking(move || planner.plan()).await?? {
            if !self.is_worth_it(through).await? {
                debug!(%through, "nothing is dropped: most of it would have to be written again");
                return self.swept().await;
            }
            let carried = self.carry(through).await?;
            let drop = |request| Input::DropPrefix { request, through, link };
            self.handle.call(drop).await?;
            info!(%through, carried, "prefix may be dropped");
        }
        self.swept().await
    }

    async fn swept(self: &Arc<Self>) -> Result<(), RetentionError> {
        let sweeper = Arc::clone(self);
        tokio::task::spawn_blocking(move || sweeper.sweep()).await?
    }

    /// Whether at most half of what would leave had to be carried: else carrying would go on for ever and win nothing.
    async fn is_worth_it(&self, through: Seq) -> Result<bool, RetentionError> {
        let reader = self.ledger.reader();
        let (first, end, used) = (reader.first(), reader.end(), reader.usage().used_bytes);
        let share = (through.0 + 1 - first.0) as f64 / (end.0 + 1 - first.0) as f64;
        let carried: u64 =
            self.payloads_before(through, WEIGHED_MAX).await?.iter().map(|(_, at)| u64::from(at.len)).sum();
        Ok(carried as f64 <= used as f64 * share / 2.0)
    }

    /// Payloads that open work needs from `through` or before.
    async fn payloads_before(&self, through: Seq, limit: u32) -> Result<Vec<(PayloadOf, PayloadRef)>, RetentionError> {
        let query = Query::PayloadsBefore { before: through.next(), limit };
        let ask = |request| Input::Query { request, tenant: TenantName::default_tenant(), query };
        match self.handle.call(ask).await? {
            Reply::Payloads(payloads) => Ok(payloads),
            _ => Err(RetentionError::Unexpected),
        }
    }

    /// How far the journal may be dropped, at the end of a batch; `None` when that is nowhere.
    fn plan(&self) -> Result<Option<(Seq, [u8; 32])>, RetentionError> {
        let reader = self.ledger.reader();
        let (first, end) = (reader.first(), reader.end());
        if end < first {
            return Ok(None);
        }
        let usage = reader.usage();
        let room = self.settings.keep_bytes.min(usage.quota_bytes / 10 * 8);
        let by_size = surplus(first, end, usage.used_bytes, room);
        let oldest = self.handle.now() - self.settings.keep_age;
        let by_age = first_since(first, end, oldest, |seq| self.time(seq))?;
        let wanted = by_size.max(Seq(by_age.0.saturating_sub(1)));
        // A start must be able to begin from the older of two snapshots.
        let snapshots = reader.snapshots()?;
        let covered = snapshots.get(1).or(snapshots.first()).copied().unwrap_or(Seq::ZERO);
        if wanted >= first {
            // What holds it up is asked to come along; the next look finds it done.
            if covered < wanted {
                self.snapshot_wanted.ask();
            }
            if self.dedupe.covered_through() < wanted {
                self.dedupe.want_flush();
            }
        }
        let seen = [covered, self.history.committed(), self.dedupe.covered_through(), self.blob_progress.seen()];
        let through = seen.into_iter().fold(wanted, Seq::min);
        if through < first {
            return Ok(None);
        }
        // Only whole segments leave, so a place before the second one is not worth a record.
        let mut cursor = reader.cursor(through)?;
        let Some(batch) = cursor.next_batch()? else { return Ok(None) };
        let (at, link) = (Seq(batch.first().0 - 1), batch.previous_link());
        let file = batch.file().to_owned();
        let mut begin = reader.cursor(first)?;
        let same = begin.next_batch()?.is_some_and(|batch| batch.file() == file);
        Ok((at >= first && !same && at > self.handle.droppable_seq()).then_some((at, link)))
    }

    /// When a record was decided; of one that is passed over, that of the next.
    fn time(&self, seq: Seq) -> Result<Option<Timestamp>, RetentionError> {
        Ok(self.ledger.entry(seq)?.map(|entry| entry.at))
    }

    /// Writes the payloads again that open work needs from `through` or before.
    async fn carry(&self, through: Seq) -> Result<usize, RetentionError> {
        let mut carried = 0;
        loop {
            let payloads = self.payloads_before(through, CARRY_MAX).await?;
            if payloads.is_empty() {
                return Ok(carried);
            }
            carried += payloads.len();
            let ledger = self.ledger.clone();
            let read = move || payloads.into_iter().map(|one| read(&ledger, one)).collect::<Result<Vec<_>, _>>();
            let mut inputs = tokio::task::spawn_blocking(read).await??;
            self.handle.send(&mut inputs).await?;
        }
    }

    fn sweep(&self) -> Result<(), RetentionError> {
        // Names that were not seen yet must not be missed, as at a start that reads all records again.
        if self.blob_progress.lag(self.handle.durable_seq()) <= UNSEEN_MAX {
            let before = self.handle.now() - BLOB_GRACE;
            self.blob_refs.sweep(&self.blobs, self.ledger.reader().first(), before)?;
        }
        Ok(())
    }
}

fn read(ledger: &Ledger<RealDisk>, (of, at): (PayloadOf, PayloadRef)) -> Result<Input, RetentionError> {
    let (event, effect) = match of {
        PayloadOf::Event(event) => (event, None),
        PayloadOf::Effect { event, effect } => (event, Some(effect)),
    };
    let gone = RetentionError::PayloadGone { event, seq: at.seq };
    if let Some(stored) = ledger.reader().read_payload(at.seq)? {
        return Ok(Input::Carry { event, effect, payload: Payload { salt: stored.salt, bytes: stored.bytes } });
    }
    // What was redacted is carried as what stands for it.
    let bytes = ledger.payload(at.seq)?.ok_or(gone)?;
    Ok(Input::Carry { event, effect, payload: Payload { salt: salt(), bytes } })
}

/// The last record of the share that is too much, as if all were of one size.
fn surplus(first: Seq, end: Seq, used: u64, room: u64) -> Seq {
    let count = u128::from(end.0 + 1 - first.0);
    let surplus = u128::from(used.saturating_sub(room)) * count / u128::from(used.max(1));
    Seq(first.0 - 1 + u64::try_from(surplus).unwrap_or(u64::MAX))
}

/// The first record decided at `time` or later; right behind the end when there is none. Times grow with sequences.
fn first_since<E>(
    first: Seq,
    end: Seq,
    time: Timestamp,
    mut at: impl FnMut(Seq) -> Result<Option<Timestamp>, E>,
) -> Result<Seq, E> {
    let (mut low, mut high) = (first.0, end.0 + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        // A record that says no time counts as new, so that nothing leaves too early.
        if at(Seq(middle))?.is_some_and(|at| at < time) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(Seq(low))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_is_found_by_size_and_by_age() {
        assert_eq!(surplus(Seq(101), Seq(200), 1000, 1000), Seq(100));
        assert_eq!(surplus(Seq(101), Seq(200), 1000, 250), Seq(175));
        assert_eq!(surplus(Seq(1), Seq(0), 0, 0), Seq(0));
        let since =
            |time| first_since(Seq(5), Seq(20), Timestamp(time), |seq| Ok::<_, ()>(Some(Timestamp(seq.0 * 10))));
        assert_eq!([since(0), since(61), since(70), since(9_999)], [Ok(Seq(5)), Ok(Seq(7)), Ok(Seq(7)), Ok(Seq(21))]);
        assert_eq!(first_since(Seq(5), Seq(20), Timestamp(99), |_| Ok::<_, ()>(None)), Ok(Seq(5)));
    }
}
