//! The view that finds events worth telling of. It begins with the process: nobody wants yesterday's news at a start.

use mindos_core::record::Entry;
use mindos_model::{Seq, Timestamp};

use super::Configured;
use super::notice::Notice;
use super::sender::Queue;
use crate::access::tenancy::{Owner, owner};
use crate::views::follow::{View, ViewError};

/// Follows the journal for the notifiers.
#[derive(Debug)]
pub struct NotifyView {
    places: Configured,
    queues: Vec<Queue>,
    next: Seq,
}

impl NotifyView {
    pub(super) fn new(places: Configured, queues: Vec<Queue>, next: Seq) -> NotifyView {
        NotifyView { places, queues, next }
    }
}

impl View for NotifyView {
    fn name(&self) -> &'static str {
        "notify"
    }

    fn next(&self) -> Seq {
        self.next
    }

    fn apply(&mut self, entry: &Entry) -> Result<(), ViewError> {
        if !self.places.load().is_empty()
            && let (Some(notice), Owner::Tenant(tenant)) = (Notice::of(entry), owner(&entry.record))
        {
            self.queues.iter().for_each(|queue| queue.put(&notice, tenant));
        }
        self.next = entry.seq.next();
        Ok(())
    }

    fn upkeep(&mut self, _: bool) -> Result<(), ViewError> {
        Ok(())
    }

    fn mark(&self) -> Option<(Seq, Timestamp)> {
        None
    }

    fn reset(&mut self) -> Result<(), ViewError> {
        Ok(())
    }

    fn skip_to(&mut self, first: Seq) -> Result<(), ViewError> {
        self.next = first;
        Ok(())
    }

    fn recover(&mut self) -> Result<(), ViewError> {
        Ok(())
    }

    fn close(&mut self) -> Result<(), ViewError> {
        Ok(())
    }
}
