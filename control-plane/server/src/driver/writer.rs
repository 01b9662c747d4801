//! The writer's thread: takes sealed batches, has the journal make them durable, and says so.
//!
//! Invariant: batches are appended in the order in which they were sealed, and after a failure no more are. What may be dropped is,
//! however busy or full the disk is.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use mindos_core::record::Batch;
use mindos_model::Seq;
use tracing::{error, info, warn};

use super::Shared;
use crate::logging::Chain;

/// How often a batch is tried again while the disk is full, and what may be dropped is.
pub const DISK_INTERVAL: Duration = Duration::from_secs(1);

/// What the writer needs of the journal's home.
pub trait Home: Send {
    /// Appends a batch right behind `expected`, and returns once it is on stable storage.
    ///
    /// # Errors
    /// See [`AppendError`].
    fn append(&mut self, expected: Seq, batch: &Batch) -> Result<(), AppendError>;

    /// Drops what stands wholly at or before `through`, as far as a snapshot covers it. Called again with the same.
    ///
    /// # Errors
    /// [`AppendError::Fatal`] when nothing more can be appended.
    fn drop_prefix(&mut self, through: Seq) -> Result<(), AppendError>;

    /// Whether so much of the disk is used that no more events are to be taken.
    fn is_tight(&self) -> bool;
}

/// Why a batch was not appended.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The disk is full; the same batch may be tried again.
    #[error("no space left for the journal")]
    NoSpace,
    /// Nothing more can be appended: the process has to end.
    #[error(transparent)]
    Fatal(Box<dyn std::error::Error + Send + Sync>),
}

pub(super) fn run(mut home: impl Home, mut end: Seq, batches: &Receiver<Arc<Batch>>, shared: &Shared) {
    let mut tight = home.is_tight();
    shared.set_tight(tight);
    let mut dropped = Instant::now();
    loop {
        match batches.recv_timeout(DISK_INTERVAL) {
            Ok(batch) => {
                if !append(&mut home, end, &batch, shared) {
                    return;
                }
                end = batch.last();
                shared.inbox.synced(end);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if dropped.elapsed() >= DISK_INTERVAL {
            if !drop_prefix(&mut home, shared) {
                return;
            }
            dropped = Instant::now();
        }
        let is_tight = home.is_tight();
        if is_tight != tight {
            tight = is_tight;
            shared.set_tight(tight);
            if tight {
                warn!("journal reached 90 % of its quota: publishing is refused");
            } else {
                info!("journal has room again: publishing goes on");
            }
        }
    }
}

/// Drops what may be dropped; false when the process has to end.
fn drop_prefix(home: &mut impl Home, shared: &Shared) -> bool {
    let through = Seq(shared.droppable.load(Ordering::Acquire));
    home.drop_prefix(through)
        .inspect_err(|error| {
            error!(error = %Chain(error), %through, "prefix was not dropped");
            shared.fail(Chain(error).to_string());
        })
        .is_ok()
}

/// False when the process has to end.
fn append(home: &mut impl Home, expected: Seq, batch: &Batch, shared: &Shared) -> bool {
    let mut tries = 0u64;
    loop {
        match home.append(expected, batch) {
            Ok(()) => {
                if tries > 0 {
                    info!(tries, "journal goes on");
                    shared.set_tight(home.is_tight());
                }
                return true;
            }
            Err(AppendError::NoSpace) if !shared.inbox.is_stopping() => {
                if tries == 0 {
                    shared.set_tight(true);
                    error!("disk is full: nothing is recorded until there is room");
                }
                tries += 1;
                if !drop_prefix(home, shared) {
                    return false;
                }
                std::thread::sleep(DISK_INTERVAL);
            }
            Err(error) => {
                error!(error = %Chain(&error), first = %batch.first(), last = %batch.last(), "batch was not recorded");
                shared.fail(Chain(&error).to_string());
                return false;
            }
        }
    }
}
