//! The history as a view: what it does with each record, and how it comes back after a failure.

use std::sync::atomic::Ordering;
use std::time::Instant;

use mindos_core::record::Entry;
use mindos_model::{Seq, Timestamp};

use super::super::follow::{View, ViewError};
use super::HistoryWriter;
use super::file::Mark;

impl View for HistoryWriter {
    fn name(&self) -> &'static str {
        "history"
    }

    fn next(&self) -> Seq {
        self.mark.seq.next()
    }

    fn mark(&self) -> Option<(Seq, Timestamp)> {
        (self.mark.seq > Seq::ZERO && self.mark.at > Timestamp(0)).then_some((self.mark.seq, self.mark.at))
    }

    fn apply(&mut self, entry: &Entry) -> Result<(), ViewError> {
        self.take(entry).map_err(|error| self.blame(error))?;
        if self.waiting_rows >= self.settings.batch_rows {
            self.commit().map_err(|error| self.blame(error))?;
        }
        Ok(())
    }

    fn upkeep(&mut self, idle: bool) -> Result<(), ViewError> {
        if self.mark.seq.0 > self.committed.load(Ordering::Relaxed) {
            let since = *self.waiting_since.get_or_insert_with(Instant::now);
            if idle || since.elapsed() >= self.settings.batch_age {
                self.commit().map_err(|error| self.blame(error))?;
            }
        }
        Ok(())
    }

    fn reset(&mut self) -> Result<(), ViewError> {
        Ok(self.clear()?)
    }

    fn skip_to(&mut self, first: Seq) -> Result<(), ViewError> {
        // Older events stay as they are known; leases given in between are not.
        self.leases.clear();
        self.mark = Mark { seq: Seq(first.0.saturating_sub(1)), at: Timestamp(0) };
        Ok(self.commit()?)
    }

    fn recover(&mut self) -> Result<(), ViewError> {
        // What was not committed is read again.
        if self.damaged {
            self.clear()?;
            self.damaged = false;
            return Ok(());
        }
        self.load().map_err(|error| self.blame(error))
    }

    fn close(&mut self) -> Result<(), ViewError> {
        if self.mark.seq.0 > self.committed.load(Ordering::Relaxed) {
            self.commit()?;
        }
        Ok(())
    }
}
