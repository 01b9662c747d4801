//! The embedded home as the core's [`Journal`], and what the shell needs beyond it from other threads.
//!
//! [`EmbeddedJournal`] belongs to the writer's thread; [`Ledger`] is for everybody else: followers, history, the payload
//! cache, snapshots. Invariant: both show only what is durable.

use std::io;

use bytes::Bytes;
use mindos_core::journal::{Journal, JournalError as HomeError};
use mindos_core::record::{Batch, Entry, Payload as StoredBody};
use mindos_core::snapshot::Item;
use mindos_model::Seq;

use crate::ahead::{Ahead, read_ahead};
use crate::chain::{self, Link};
use crate::disk::Disk;
use crate::encode::effect::KeyBlock;
use crate::encode::seen_block::SeenBlock;
use crate::encode::{self, DecodeError, Names};
use crate::error::JournalError;
use crate::frame::{Frame, Payload};
use crate::log::{Log, Options};
use crate::reader::{Cursor, Reader, StoredPayload};
use crate::recover::Recovery;

/// A log of records.
#[derive(Debug)]
pub struct EmbeddedJournal<D: Disk> {
    log: Log<D>,
    ledger: Ledger<D>,
    frame: Frame,
}

/// A failure of the embedded home, below the seam.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// The log failed.
    #[error(transparent)]
    Log(#[from] JournalError),
    /// A record or snapshot item cannot be read.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The batch does not begin where the log ends.
    #[error("batch begins at record {first}, but the log ends at {end}")]
    Misplaced { first: Seq, end: Seq },
}

impl EmbeddedError {
    /// Whether the same call may succeed later: the disk was full, nothing was written.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        matches!(self, EmbeddedError::Log(JournalError::NoSpace { .. }))
    }
}

impl<D: Disk> EmbeddedJournal<D> {
    /// Opens the log in `disk`, or begins one there.
    ///
    /// # Errors
    /// See [`Log::open`].
    pub fn open(disk: D, options: Options) -> Result<(EmbeddedJournal<D>, Recovery), JournalError> {
        let (log, recovery) = Log::open(disk, options)?;
        let ledger = Ledger { reader: log.reader() };
        Ok((EmbeddedJournal { log, ledger, frame: Frame::new() }, recovery))
    }

    /// What other threads use.
    #[must_use]
    pub fn ledger(&self) -> Ledger<D> {
        self.ledger.clone()
    }

    /// The log, for retention, epochs and marks.
    pub fn log(&mut self) -> &mut Log<D> {
        &mut self.log
    }

    /// Appends a batch right behind `expected` and returns once it is on stable storage.
    ///
    /// # Errors
    /// See [`Log::append`]; after [`JournalError::NoSpace`] the same batch may be tried again.
    pub fn append_batch(&mut self, expected: Seq, batch: &Batch) -> Result<Seq, EmbeddedError> {
        let first = batch.first();
        if first != expected.next() {
            return Err(EmbeddedError::Misplaced { first, end: expected });
        }
        self.frame.clear();
        for entry in &batch.entries {
            let payload = entry.record.payload();
            let payload = payload.map(|StoredBody { salt, bytes }| Payload { salt, bytes });
            self.frame.push_with(|bytes| encode::encode(entry, bytes), payload);
        }
        Ok(self.log.append(expected, &mut self.frame)?)
    }
}

/// Reads the records of a log from any thread. Cheap to clone.
#[derive(Debug)]
pub struct Ledger<D: Disk> {
    reader: Reader<D>,
}

impl<D: Disk> Clone for Ledger<D> {
    fn clone(&self) -> Ledger<D> {
        Ledger { reader: self.reader.clone() }
    }
}

impl<D: Disk> Ledger<D> {
    /// The records of `reader`, such as that of a directory which another process has open.
    #[must_use]
    pub fn new(reader: Reader<D>) -> Ledger<D> {
        Ledger { reader }
    }

    /// The bytes below: verification, usage, backup.
    #[must_use]
    pub fn reader(&self) -> &Reader<D> {
        &self.reader
    }

    /// Follows the records from `from` on.
    ///
    /// # Errors
    /// See [`Reader::cursor`].
    pub fn tail(&self, from: Seq) -> Result<Tail<D>, JournalError> {
        Ok(Tail { cursor: self.reader.cursor(from)?, names: Names::default() })
    }

    /// The body that stands beside the record at `seq`; where it was redacted, one that says so.
    ///
    /// # Errors
    /// See [`Reader::read`].
    pub fn payload(&self, seq: Seq) -> Result<Option<Bytes>, JournalError> {
        let stored = self.reader.read(seq)?;
        Ok(body(&stored.metadata, stored.payload, stored.redacted.is_some()).map(|payload| payload.bytes))
    }

    /// One record; `None` if it is of a kind that may be passed over.
    ///
    /// # Errors
    /// See [`Reader::read`] and [`encode::decode`].
    pub fn entry(&self, seq: Seq) -> Result<Option<Entry>, EmbeddedError> {
        let stored = self.reader.read(seq)?;
        let payload = body(&stored.metadata, stored.payload, stored.redacted.is_some());
        Ok(encode::decode(&mut Names::default(), seq, &stored.metadata, payload)?)
    }

    /// Link of the record at `at`; of zero and of the record before the first kept one too.
    ///
    /// # Errors
    /// See [`Reader::cursor`].
    pub fn link_at(&self, at: Seq) -> Result<Link, JournalError> {
        if at.next() == self.reader.first() {
            return Ok(self.reader.link_before_first());
        }
        let mut cursor = self.reader.cursor(at)?;
        let Some(batch) = cursor.next_batch()? else {
            return Err(JournalError::PastEnd { seq: at, end: self.reader.end() });
        };
        if batch.last() == at {
            return Ok(batch.end_link());
        }
        let mut link = batch.previous_link();
        for entry in batch.all_entries() {
            let entry = entry?;
            if entry.seq > at {
                break;
            }
            link = chain::link(&link, entry.seq.0, &entry.leaf());
        }
        Ok(link)
    }

    /// Stores the snapshot of the state right behind `at`, on the caller's thread. The two newest are kept.
    ///
    /// # Errors
    /// What the system says; an older one stays.
    pub fn save_snapshot(&self, at: Seq, items: &mut dyn Iterator<Item = Item>) -> Result<(), EmbeddedError> {
        let mut epoch = 0;
        let mut writer = None;
        let mut bytes = Vec::new();
        let (mut seen, mut keys) = (SeenBlock::default(), KeyBlock::default());
        for item in items {
            if let Item::Header { epoch: of, .. } = &item {
                epoch = *of;
            }
            let writer = match &mut writer {
                Some(writer) => writer,
                None => writer.insert(self.reader.write_snapshot(at, self.link_at(at)?, epoch)?),
            };
            // What one of them takes in comes behind what the other holds.
            let before = if matches!(item, Item::EffectKey { .. }) { seen.take() } else { keys.take() };
            if let Some(block) = before {
                writer.push(&block)?;
            }
            if seen.takes(&item) || keys.takes(&item) {
                continue;
            }
            for block in [seen.take(), keys.take()].into_iter().flatten() {
                writer.push(&block)?;
            }
            if seen.takes(&item) || keys.takes(&item) {
                continue;
            }
            bytes.clear();
            encode::state::encode(&item, &mut bytes);
            writer.push(&bytes)?;
        }
        if let Some(mut writer) = writer {
            for block in [seen.take(), keys.take()].into_iter().flatten() {
                writer.push(&block)?;
            }
            writer.finish()?;
        }
        Ok(())
    }

    /// Hands the items of the newest whole snapshot to `visit` and returns where it was taken.
    ///
    /// A snapshot is read once to see that it is whole, and then for `visit`. Damaged ones go to `skipped`.
    ///
    /// # Errors
    /// What the system says, or an item that this program cannot read.
    pub fn load_snapshot(
        &self,
        visit: &mut dyn FnMut(Item),
        mut skipped: impl FnMut(JournalError),
    ) -> Result<Option<Seq>, EmbeddedError> {
        let Some(seq) = self.reader.load_snapshot(|snapshot| Ok(snapshot.seq()), &mut skipped)? else {
            return Ok(None);
        };
        let mut snapshot = self.reader.open_snapshot(seq)?;
        let mut names = Names::default();
        while let Some(item) = snapshot.next_item()? {
            encode::state::decode(&mut names, item, visit)?;
        }
        Ok(Some(seq))
    }

    /// As [`Ledger::load_snapshot`], with the items for `fold` as they are read on another thread; none if there is no snapshot.
    ///
    /// # Errors
    /// As [`Ledger::load_snapshot`]. What `fold` made is then gone: it may have seen a part of the items.
    pub fn fold_snapshot<R>(
        &self,
        fold: impl FnOnce(&mut dyn Iterator<Item = Item>) -> R,
        skipped: impl FnMut(JournalError) + Send,
    ) -> Result<R, EmbeddedError> {
        let read = |ahead: &mut Ahead<Item>| {
            // A few hundred bytes each.
            let mut visit = |item| {
                ahead.push(item, 0);
            };
            self.load_snapshot(&mut visit, skipped).map(drop)
        };
        read_ahead(read, fold, |error| self.no_thread(error))
    }

    /// Hands the durable records from `from` on to `visit`, in order, while another thread reads those that follow.
    ///
    /// # Errors
    /// As [`Ledger::tail`] and [`Tail::next_batch`]. `visit` has then seen some of the records before the bad one.
    pub fn replay(&self, from: Seq, mut visit: impl FnMut(Entry)) -> Result<(), EmbeddedError> {
        let read = |ahead: &mut Ahead<Entry>| {
            let mut tail = self.tail(from)?;
            // Nobody wants more when the fold panicked.
            let mut is_wanted = true;
            while is_wanted {
                let more = tail.next_batch(|entry| {
                    let bytes = entry.record.payload().map_or(0, |payload| payload.bytes.len());
                    is_wanted &= ahead.push(entry, bytes);
                })?;
                is_wanted &= more;
            }
            Ok(())
        };
        read_ahead(read, |entries| entries.for_each(&mut visit), |error| self.no_thread(error))
    }

    fn no_thread(&self, source: io::Error) -> EmbeddedError {
        let file = self.reader.shared.disk.describe("");
        JournalError::Io { action: "start a thread that reads", file, source }.into()
    }
}

/// Follows the records of a log: a later call goes on with what has become durable.
#[derive(Debug)]
pub struct Tail<D: Disk> {
    cursor: Cursor<D>,
    names: Names,
}

impl<D: Disk> Tail<D> {
    /// The record that comes next.
    #[must_use]
    pub fn next_seq(&self) -> Seq {
        self.cursor.next_seq()
    }

    /// Hands the records of the next durable batch to `visit`; false if there is none yet.
    ///
    /// # Errors
    /// Damage, or a record that this program cannot read.
    pub fn next_batch(&mut self, mut visit: impl FnMut(Entry)) -> Result<bool, EmbeddedError> {
        let Tail { cursor, names } = self;
        let Some(batch) = cursor.next_batch()? else { return Ok(false) };
        for entry in batch.entries() {
            let entry = entry?;
            let payload = entry
                .payload
                .map(|payload| StoredBody { salt: *payload.salt, bytes: Bytes::copy_from_slice(payload.bytes) })
                .or_else(|| entry.redacted.map(|_| encode::stand_in(entry.metadata)));
            if let Some(entry) = encode::decode(names, entry.seq, entry.metadata, payload)? {
                visit(entry);
            }
        }
        Ok(true)
    }
}

/// The body beside a record, or what stands for it where it was redacted.
fn body(metadata: &[u8], payload: Option<StoredPayload>, is_redacted: bool) -> Option<StoredBody> {
    let stored = payload.map(|payload| StoredBody { salt: payload.salt, bytes: payload.bytes });
    stored.or_else(|| is_redacted.then(|| encode::stand_in(metadata)))
}

fn home(context: &str) -> impl FnOnce(EmbeddedError) -> HomeError {
    move |error| match error {
        EmbeddedError::Log(JournalError::UnexpectedEnd { expected, end }) => {
            HomeError::Fenced { expected, actual: end }
        }
        EmbeddedError::Log(JournalError::Dropped { seq, first }) => HomeError::Dropped { wanted: seq, first },
        EmbeddedError::Misplaced { first, end } => HomeError::Fenced { expected: Seq(first.0 - 1), actual: end },
        error @ (EmbeddedError::Log(_) | EmbeddedError::Decode(_)) => {
            HomeError::Home { context: context.to_owned(), source: Box::new(error) }
        }
    }
}

impl<D: Disk> Journal for EmbeddedJournal<D> {
    fn append(&mut self, expected: Seq, batch: &Batch) -> Result<(), HomeError> {
        self.append_batch(expected, batch).map(drop).map_err(home("failed to append to the journal"))
    }

    fn read(&self, from: Seq, visit: &mut dyn FnMut(Entry) -> bool) -> Result<(), HomeError> {
        let failed = || home("failed to read the journal");
        let mut tail = self.ledger.tail(from).map_err(|error| failed()(error.into()))?;
        let mut goes_on = true;
        while goes_on && tail.next_batch(|entry| goes_on = goes_on && visit(entry)).map_err(failed())? {}
        Ok(())
    }

    fn end(&self) -> Seq {
        self.log.end()
    }

    fn save_snapshot(&mut self, at: Seq, items: &mut dyn Iterator<Item = Item>) -> Result<(), HomeError> {
        self.ledger.save_snapshot(at, items).map_err(home("failed to save a snapshot"))
    }

    fn load_snapshot(&self, visit: &mut dyn FnMut(Item)) -> Result<Option<Seq>, HomeError> {
        self.ledger.load_snapshot(visit, |_| {}).map_err(home("failed to load a snapshot"))
    }

    fn drop_prefix(&mut self, through: Seq) -> Result<(), HomeError> {
        let dropped = self.log.drop_prefix(through).map(drop);
        dropped.map_err(|error| home("failed to drop a prefix of the journal")(error.into()))
    }
}

#[cfg(test)]
mod tests {
    use mindos_core::journal::MemoryJournal;

    use super::*;
    use crate::encode::samples::{self, KINDS};
    use crate::fault::{FaultDisk, Random};
    use crate::testing::options;

    fn batch(random: &mut Random, first: Seq) -> Batch {
        let count = 1 + random.below(20);
        let entries = (0..count).map(|number| {
            let kind = random.below(KINDS);
            samples::entry(random, kind, Seq(first.0 + number))
        });
        Batch { entries: entries.collect() }
    }

    fn read(journal: &dyn Journal, from: Seq, most: usize) -> Vec<Entry> {
        let mut entries = Vec::new();
        journal
            .read(from, &mut |entry| {
                entries.push(entry);
                entries.len() < most
            })
            .unwrap();
        entries
    }

    #[test]
    fn it_holds_what_the_memory_journal_holds() {
        let (mut memory, disk) = (MemoryJournal::default(), FaultDisk::new());
        let options = |seed| Options { segment_bytes: 64 << 10, ..options(seed) };
        let (mut journal, _) = EmbeddedJournal::open(disk.clone(), options(1)).unwrap();
        let mut random = Random::new(7);
        for _ in 0..100 {
            let batch = batch(&mut random, journal.end().next());
            memory.append(memory.end(), &batch).unwrap();
            journal.append(journal.end(), &batch).unwrap();
        }
        let items: Vec<Item> = (0..200).map(|_| samples::item(&mut random)).collect();
        let at = Seq(journal.end().0 / 2);
        journal.save_snapshot(at, &mut items.clone().into_iter()).unwrap();
        drop(journal);

        let (mut journal, recovery) = EmbeddedJournal::open(disk, options(2)).unwrap();

        assert_eq!((journal.end(), recovery.end), (memory.end(), memory.end()));
        for (from, most) in [(1, usize::MAX), (77, usize::MAX), (at.0, 3), (memory.end().0 + 1, 9)] {
            assert_eq!(read(&journal, Seq(from), most), read(&memory, Seq(from), most));
        }
        let mut loaded = Vec::new();
        assert_eq!(journal.load_snapshot(&mut |item| loaded.push(item)).unwrap(), Some(at));
        assert_eq!(loaded, items);
        for entry in read(&memory, Seq(1), 300) {
            let ledger = journal.ledger();
            assert_eq!(ledger.payload(entry.seq).unwrap(), entry.record.payload().map(|body| body.bytes.clone()));
            assert_eq!(ledger.entry(entry.seq).unwrap(), Some(entry));
        }
        let refused = journal.append(Seq(3), &batch(&mut random, Seq(4))).unwrap_err();
        assert!(matches!(refused, HomeError::Fenced { expected: Seq(3), actual } if actual == memory.end()));
        journal.drop_prefix(at).unwrap();
        let dropped = journal.read(Seq(1), &mut |_| true).unwrap_err();
        assert!(matches!(dropped, HomeError::Dropped { wanted: Seq(1), .. }), "{dropped}");
    }

    #[test]
    fn what_is_read_ahead_is_what_is_read() {
        let (mut journal, _) = EmbeddedJournal::open(FaultDisk::new(), options(1)).unwrap();
        let mut random = Random::new(11);
        for _ in 0..200 {
            let batch = batch(&mut random, journal.end().next());
            // One that is larger than a segment of this test is left out.
            let _ = journal.append(journal.end(), &batch);
        }
        let items: Vec<Item> = (0..2000).map(|_| samples::item(&mut random)).collect();
        let ledger = journal.ledger();
        assert_eq!(ledger.fold_snapshot(|items| items.count(), |_| {}).unwrap(), 0);
        ledger.save_snapshot(Seq(3), &mut items.clone().into_iter()).unwrap();

        let mut replayed = Vec::new();
        ledger.replay(Seq(77), |entry| replayed.push(entry)).unwrap();
        let folded: Vec<Item> = ledger.fold_snapshot(|items| items.collect(), |_| {}).unwrap();

        assert_eq!(replayed, read(&journal, Seq(77), usize::MAX));
        assert_eq!(folded, items);
        assert!(ledger.replay(journal.end().next().next(), |_| {}).is_err(), "past the end");
    }

    #[test]
    fn the_first_bad_record_is_the_error_and_none_behind_it_is_seen() {
        let disk = FaultDisk::new();
        let options = |seed| Options { segment_bytes: 64 << 10, ..options(seed) };
        let (mut journal, _) = EmbeddedJournal::open(disk.clone(), options(1)).unwrap();
        let mut random = Random::new(12);
        while journal.log().reader().shared.segments().len() < 4 {
            let batch = batch(&mut random, journal.end().next());
            let _ = journal.append(journal.end(), &batch);
        }
        let second = journal.log().reader().shared.segments()[1].clone();
        disk.flip(&second.name, crate::segment::FRAMES_AT + 200, 1);
        let ledger = journal.ledger();

        let mut seen = 0;
        let ahead = ledger.replay(Seq(1), |entry| seen = entry.seq.0).unwrap_err();
        let mut tail = ledger.tail(Seq(1)).unwrap();
        let alone = loop {
            if let Err(error) = tail.next_batch(drop) {
                break error;
            }
        };

        assert_eq!(ahead.to_string(), alone.to_string());
        assert!(matches!(ahead, EmbeddedError::Log(JournalError::Damaged(_))));
        assert!(seen < second.header.first_seq, "{seen} was seen");
    }

    #[test]
    fn a_link_is_known_for_every_record() {
        let (mut journal, _) = EmbeddedJournal::open(FaultDisk::new(), options(1)).unwrap();
        let mut random = Random::new(9);
        let mut link = journal.log().end_link();
        let mut links = vec![link];
        for _ in 0..20 {
            let batch = batch(&mut random, journal.end().next());
            for entry in &batch.entries {
                let mut metadata = Vec::new();
                encode::encode(entry, &mut metadata);
                let body = entry.record.payload();
                let digest = body.map_or(chain::NO_PAYLOAD, |body| chain::payload_digest(&body.salt, &body.bytes));
                link = chain::link(&link, entry.seq.0, &chain::leaf(&metadata, &digest));
                links.push(link);
            }
            if journal.append(journal.end(), &batch).is_err() {
                // Larger than a segment of this test.
                links.truncate(usize::try_from(journal.end().0).unwrap() + 1);
                link = *links.last().unwrap();
            }
        }
        let ledger = journal.ledger();
        for (seq, link) in (0..).zip(&links) {
            assert_eq!(ledger.link_at(Seq(seq)).unwrap(), *link, "record {seq}");
        }
    }
}
