//! The journal's seam: what the plane asks of the place where its records are kept.
//!
//! The embedded home and others live in crates of their own; [`MemoryJournal`] is for tests and dry runs.

use std::sync::Arc;

use mindos_model::Seq;

use crate::record::{Batch, Entry};
use crate::snapshot::Item;

/// A failure of the journal's world.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Somebody else wrote, or this process lost count. Nothing was written.
    #[error("journal ends at record {actual}, not {expected}")]
    Fenced { expected: Seq, actual: Seq },
    /// The records asked for left with a dropped prefix.
    #[error("record {wanted} left the journal, which begins at {first}")]
    Dropped { wanted: Seq, first: Seq },
    /// The home failed. After a failed append nothing more is accepted: end the process.
    #[error("{context}")]
    Home {
        context: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Keeps batches in order, for good.
pub trait Journal {
    /// Appends a batch right behind `expected` and returns once it is on stable storage.
    ///
    /// # Errors
    /// [`JournalError::Fenced`] when the journal does not end at `expected`; any other error poisons the journal.
    fn append(&mut self, expected: Seq, batch: &Batch) -> Result<(), JournalError>;

    /// Reads durable entries from `from` on, in order, until `visit` returns false.
    ///
    /// # Errors
    /// When `from` has been dropped, or the home cannot be read.
    fn read(&self, from: Seq, visit: &mut dyn FnMut(Entry) -> bool) -> Result<(), JournalError>;

    /// The last durable record; zero when there is none.
    fn end(&self) -> Seq;

    /// Stores a snapshot of the state right behind `at`.
    ///
    /// # Errors
    /// When it cannot be stored; an older one stays.
    fn save_snapshot(&mut self, at: Seq, items: &mut dyn Iterator<Item = Item>) -> Result<(), JournalError>;

    /// Hands the items of the newest whole snapshot to `visit` and returns where it was taken.
    ///
    /// # Errors
    /// When the home cannot be read.
    fn load_snapshot(&self, visit: &mut dyn FnMut(Item)) -> Result<Option<Seq>, JournalError>;

    /// Drops what stands wholly at or before `through`.
    ///
    /// # Errors
    /// When the home cannot be changed.
    fn drop_prefix(&mut self, through: Seq) -> Result<(), JournalError>;
}

/// A journal that ends with the process.
#[derive(Debug, Default)]
pub struct MemoryJournal {
    batches: Vec<Arc<Batch>>,
    snapshot: Option<(Seq, Vec<Item>)>,
    dropped: Seq,
}

impl Journal for MemoryJournal {
    fn append(&mut self, expected: Seq, batch: &Batch) -> Result<(), JournalError> {
        let actual = self.end();
        if actual != expected || batch.first() != actual.next() {
            return Err(JournalError::Fenced { expected, actual });
        }
        self.batches.push(Arc::new(batch.clone()));
        Ok(())
    }

    fn read(&self, from: Seq, visit: &mut dyn FnMut(Entry) -> bool) -> Result<(), JournalError> {
        if from <= self.dropped && self.dropped > Seq::ZERO {
            return Err(JournalError::Dropped { wanted: from, first: self.dropped.next() });
        }
        let start = self.batches.partition_point(|batch| batch.last() < from);
        for entry in self.batches[start..].iter().flat_map(|batch| &batch.entries) {
            if entry.seq >= from && !visit(entry.clone()) {
                break;
            }
        }
        Ok(())
    }

    fn end(&self) -> Seq {
        self.batches.last().map_or(self.dropped, |batch| batch.last())
    }

    fn save_snapshot(&mut self, at: Seq, items: &mut dyn Iterator<Item = Item>) -> Result<(), JournalError> {
        self.snapshot = Some((at, items.collect()));
        Ok(())
    }

    fn load_snapshot(&self, visit: &mut dyn FnMut(Item)) -> Result<Option<Seq>, JournalError> {
        let Some((at, items)) = &self.snapshot else { return Ok(None) };
        items.iter().cloned().for_each(visit);
        Ok(Some(*at))
    }

    fn drop_prefix(&mut self, through: Seq) -> Result<(), JournalError> {
        let count = self.batches.iter().take_while(|batch| batch.last() <= through).count();
        if let Some(last) = self.batches[..count].last() {
            self.dropped = last.last();
        }
        self.batches.drain(..count);
        Ok(())
    }
}
