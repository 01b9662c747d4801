//! What reaches the agent from elsewhere: finished work, progress, readiness, the wish to leave.
//!
//! Invariant: bounded by the work that runs: one end for each start, and of progress only the last of each.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mindos_model::{DeliveryId, Token};
use mindos_sidecar_core::{GeneralIndex, Progress};
use tokio::sync::Notify;

use super::Finish;
use crate::general::ModelLoad;

/// Tells a running agent what happened. Cheap to clone; usable from any thread.
#[derive(Clone, Debug, Default)]
pub struct Handle {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    inbox: Mutex<Inbox>,
    arrived: Notify,
}

#[derive(Debug, Default)]
pub(super) struct Inbox {
    pub(super) finished: Vec<(DeliveryId, Token, Finish)>,
    pub(super) progress: BTreeMap<(DeliveryId, Token), Progress>,
    pub(super) ready: BTreeMap<GeneralIndex, bool>,
    pub(super) models: BTreeMap<GeneralIndex, Vec<ModelLoad>>,
    pub(super) drain: Option<Duration>,
}

impl Handle {
    /// Work has ended. Exactly one call for each start that was not answered at once.
    pub fn finished(&self, delivery: DeliveryId, token: Token, finish: Finish) {
        let mut inbox = self.lock();
        // A checkpoint is for the next attempt, also where the work ends behind it.
        if inbox.progress.get(&(delivery, token)).is_some_and(|progress| progress.checkpoint.is_empty()) {
            inbox.progress.remove(&(delivery, token));
        }
        inbox.finished.push((delivery, token, finish));
        drop(inbox);
        self.shared.arrived.notify_one();
    }

    /// How far work is. Travels with the next extension of its lease; a checkpoint at once.
    pub fn progress(&self, delivery: DeliveryId, token: Token, progress: Progress) {
        let mut inbox = self.lock();
        let before = inbox.progress.insert((delivery, token), progress);
        if let Some(before) = before
            && let Some(progress) = inbox.progress.get_mut(&(delivery, token))
        {
            if progress.checkpoint.is_empty() {
                progress.checkpoint = before.checkpoint;
            }
            progress.wanted = progress.wanted.or(before.wanted);
        }
        drop(inbox);
        self.shared.arrived.notify_one();
    }

    /// A general became ready for work, or stopped being so. None is at first.
    pub fn ready(&self, general: GeneralIndex, ready: bool) {
        self.lock().ready.insert(general, ready);
        self.shared.arrived.notify_one();
    }

    /// Load of the models behind a general, of this moment. Travels with the next heartbeat.
    pub fn models(&self, general: GeneralIndex, models: Vec<ModelLoad>) {
        // Nothing waits for it.
        self.lock().models.insert(general, models);
    }

    /// Leaves: takes on no work, finishes within `grace`, hands back the rest. The run then ends.
    pub fn drain(&self, grace: Duration) {
        self.lock().drain.get_or_insert(grace);
        self.shared.arrived.notify_one();
    }

    pub(super) async fn arrived(&self) {
        self.shared.arrived.notified().await;
    }

    pub(super) fn swap(&self, into: &mut Inbox) {
        std::mem::swap(&mut *self.lock(), into);
    }

    fn lock(&self) -> MutexGuard<'_, Inbox> {
        // Nothing in here is left half done by a panic.
        self.shared.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
