//! What follows the journal beside the plane: the views, the snapshots, and the surfaces that show them.
//!
//! Invariant: nothing here makes the plane wait; what lags reads the journal, and what fails is brought back.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use mindos_core::journal::JournalError;
use tonic::service::RoutesBuilder;

use crate::config::Config;
use crate::driver::Handle;
use crate::grpc::Context;
use crate::store::Reads;
use crate::views::dedupe::{DedupeError, DedupeIndex, DedupeWriter, Horizon};
use crate::views::follow::{Follower, Priority, Source};
use crate::views::history::{HistoryError, HistoryReader, HistorySettings, HistoryWriter};
use crate::views::snapshot::{SnapshotFollower, SnapshotHome, SnapshotSettings, Snapshotter};
use crate::views::stats::{Stats, StatsView};

/// Why upkeep did not start.
#[derive(Debug, thiserror::Error)]
pub enum UpkeepError {
    #[error(transparent)]
    Dedupe(#[from] DedupeError),
    #[error(transparent)]
    History(#[from] HistoryError),
    #[error("failed to look for snapshots")]
    Snapshots(#[from] JournalError),
    #[error("failed to make directory `{path}`")]
    Directory { path: PathBuf, source: io::Error },
    #[error("failed to start a thread")]
    Thread(#[from] io::Error),
}

/// The followers of a running server.
#[derive(Debug)]
pub struct Upkeep {
    dedupe: Arc<DedupeIndex>,
    history: HistoryReader,
    stats: Stats,
    followers: Vec<Follower>,
    snapshots: SnapshotFollower,
}

impl Upkeep {
    /// Opens the views and starts their threads.
    ///
    /// # Errors
    /// When a view cannot be opened.
    pub fn start(config: &Config, handle: &Handle, reads: &Arc<Reads>) -> Result<Upkeep, UpkeepError> {
        let source: Arc<dyn Source> = Arc::clone(reads) as Arc<dyn Source>;
        let writer = DedupeWriter::open(&config.data_dir.join("dedupe"), Horizon::default())?;
        let dedupe = writer.index();
        let mut followers = Vec::new();
        followers.push(Follower::start(writer, handle.subscribe(), Arc::clone(&source), Priority::Normal)?);

        let settings = HistorySettings {
            keep_age: config.history_keep,
            keep_bytes: config.history_bytes,
            ..HistorySettings::default()
        };
        let writer = HistoryWriter::open(&config.data_dir.join("history"), settings)?;
        let history = writer.reader();
        followers.push(Follower::start(writer, handle.subscribe(), Arc::clone(&source), Priority::Low)?);

        let view = StatsView::new(handle.durable_seq());
        let stats = view.stats();
        followers.push(Follower::start(view, handle.subscribe(), Arc::clone(&source), Priority::Low)?);

        let home: Arc<dyn SnapshotHome> = Arc::clone(reads) as Arc<dyn SnapshotHome>;
        let snapshotter = Snapshotter::new(source, home, SnapshotSettings::default())?;
        let snapshots = SnapshotFollower::start(snapshotter)?;
        Ok(Upkeep { dedupe, history, stats, followers, snapshots })
    }

    /// The index of events that left the core's own window.
    #[must_use]
    pub fn dedupe(&self) -> Arc<DedupeIndex> {
        Arc::clone(&self.dedupe)
    }

    /// Answers questions about the past.
    #[must_use]
    pub fn history(&self) -> HistoryReader {
        self.history.clone()
    }

    /// Counts of what went through.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats.clone()
    }

    /// Adds the services that show the ledger and keep blobs.
    pub fn services(&self, _context: &Arc<Context>, _routes: &mut RoutesBuilder) {}

    /// What answers HTTP.
    pub fn router(&self, _context: &Arc<Context>) -> axum::Router {
        axum::Router::new()
    }

    /// Ends the threads once the views are closed. Blocks.
    pub fn stop(self) {
        let Upkeep { dedupe: _, history: _, stats: _, followers, snapshots } = self;
        drop(snapshots);
        followers.into_iter().for_each(Follower::stop);
    }
}
