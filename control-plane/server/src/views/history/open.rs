//! Events that are not written yet, for their deliveries may still settle before they are.
//!
//! Invariant: none outlives a commit, so there are at most as many as rows in a transaction.

use hashbrown::HashMap;
use mindos_model::Seq;

use super::HistoryError;
use super::file::{DeliveryColumns, EventColumns, HistoryFile};
use super::settled::{self, Base};

pub(super) type OpenEvents = HashMap<Seq, OpenEvent, foldhash::fast::RandomState>;

/// An event, and those of its deliveries that have settled.
#[derive(Debug)]
pub(super) struct OpenEvent {
    columns: EventColumns,
    /// Of [`settled`].
    settled: Vec<u8>,
    /// Deliveries that have not.
    left: usize,
}

impl OpenEvent {
    pub(super) fn new(columns: EventColumns, deliveries: usize) -> OpenEvent {
        OpenEvent { columns, settled: Vec::new(), left: deliveries }
    }

    pub(super) fn seq(&self) -> i64 {
        self.columns.seq
    }

    /// Of [`super::planned`].
    pub(super) fn plan(&self) -> &[u8] {
        &self.columns.planned
    }

    /// Takes a delivery that settled, each once.
    pub(super) fn settle(&mut self, delivery: &DeliveryColumns) {
        let base = self.base();
        self.settled.reserve(self.left.min(16) * 32);
        settled::encode(&mut self.settled, base, delivery);
        self.left = self.left.saturating_sub(1);
    }

    /// Whether nothing more can come.
    pub(super) fn is_whole(&self) -> bool {
        self.left == 0
    }

    fn base(&self) -> Base {
        Base { seq: self.columns.seq, at: self.columns.at }
    }

    /// Writes it: in one row when it is whole, else with a row for each delivery that settled.
    pub(super) fn write(self, file: &mut HistoryFile) -> Result<(), HistoryError> {
        let whole = Some(self.settled.as_slice()).filter(|settled| self.is_whole() && !settled.is_empty());
        let written = file.insert_event(&self.columns, whole)?;
        if whole.is_none() || !written {
            settled::decode(&self.settled, self.base()).try_for_each(|delivery| file.upsert_delivery(delivery))?;
        }
        Ok(())
    }
}
