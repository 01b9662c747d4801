//! Watching: the durable records from a sequence on, first from storage, then as they come.
//!
//! Invariant: a watcher sees every record once and in order, or is told from which sequence to go on.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use mindos_core::journal::JournalError;
use mindos_core::record::{Batch, Entry};
use mindos_model::Seq;
use tokio::sync::mpsc;
use tonic::Status;

use super::{Context, status};
use crate::driver::{Followed, Follower};

/// A sign of life comes at least this often.
pub(super) const LIFE_INTERVAL: Duration = Duration::from_secs(15);
/// How long a watcher may leave its messages lying.
const SLOW_MAX: Duration = Duration::from_secs(10);
/// Messages that may lie for a watcher.
const MESSAGES_MAX: usize = 256;
/// Entries read from storage at a time.
const CHUNK_ENTRIES: usize = 2048;

/// What comes next for a watcher.
pub(crate) enum Step {
    Stored(Vec<Entry>),
    Live(Arc<Batch>),
    /// Nothing for so long that a sign of life is due.
    Quiet,
    Closed,
}

impl Step {
    pub(crate) fn entries(&self) -> &[Entry] {
        match self {
            Step::Stored(entries) => entries,
            Step::Live(batch) => &batch.entries,
            Step::Quiet | Step::Closed => &[],
        }
    }
}

/// Walks durable records.
pub(crate) struct Walk {
    context: Arc<Context>,
    follower: Follower,
    /// The first record that was not handed out.
    next: Seq,
    /// Everything before this one has to be read from storage.
    stored_before: Seq,
    /// A batch that waits until storage was read up to it.
    ahead: Option<Arc<Batch>>,
}

impl Walk {
    /// From `from` on; zero is from what becomes durable next.
    pub(crate) fn start(context: &Arc<Context>, from: u64) -> Walk {
        let follower = context.handle.subscribe();
        let stored_before = follower.start().next();
        let next = if from == 0 { stored_before } else { Seq(from) };
        Walk { context: Arc::clone(context), follower, next, stored_before, ahead: None }
    }

    /// The last record that was durable when the walk began.
    pub(super) fn known(&self) -> Seq {
        self.follower.start()
    }

    pub(crate) fn next(&self) -> Seq {
        self.next
    }

    pub(crate) async fn step(&mut self) -> Result<Step, Status> {
        loop {
            if self.next < self.stored_before {
                let entries = self.read().await?;
                if let Some(last) = entries.last() {
                    self.next = last.seq.next();
                    return Ok(Step::Stored(entries));
                }
                self.next = self.stored_before;
            }
            let followed = match self.ahead.take() {
                Some(batch) => Followed::Batch(batch),
                None => tokio::select! {
                    followed = tokio::time::timeout(LIFE_INTERVAL, self.follower.next()) => match followed {
                        Ok(followed) => followed,
                        Err(_) => return Ok(Step::Quiet),
                    },
                    () = self.context.drained() => return Ok(Step::Closed),
                },
            };
            match followed {
                Followed::Batch(batch) if batch.last() < self.next => {}
                Followed::Batch(batch) if batch.first() > self.next => {
                    self.stored_before = batch.first();
                    self.ahead = Some(batch);
                }
                Followed::Batch(batch) if batch.first() == self.next => {
                    self.next = batch.last().next();
                    return Ok(Step::Live(batch));
                }
                Followed::Batch(batch) => {
                    let rest = batch.entries.iter().filter(|entry| entry.seq >= self.next).cloned().collect();
                    self.next = batch.last().next();
                    return Ok(Step::Stored(rest));
                }
                Followed::Lagged { through } => self.stored_before = through.next(),
                Followed::Idle => {}
                Followed::Closed => return Ok(Step::Closed),
            }
        }
    }

    async fn read(&self) -> Result<Vec<Entry>, Status> {
        let (from, before) = (self.next, self.stored_before);
        let read = self.context.blocking(move |context| {
            let mut entries = Vec::new();
            let mut visit = |entry: &Entry| {
                if entry.seq < before {
                    entries.push(entry.clone());
                }
                entry.seq.next() < before && entries.len() < CHUNK_ENTRIES
            };
            context.source.read(from, &mut visit).map(|()| entries)
        });
        match read.await? {
            Ok(entries) => Ok(entries),
            Err(JournalError::Dropped { wanted, first }) => Err(status::dropped(wanted, first).into()),
            Err(error) => Err(super::failed("journal was not read", &error)),
        }
    }
}

/// The sending half of a watch.
pub(super) struct Sender<T> {
    messages: mpsc::Sender<T>,
    end: Arc<Mutex<Option<Status>>>,
}

/// The stream of a watch.
pub(super) struct Watched<T> {
    messages: mpsc::Receiver<T>,
    end: Arc<Mutex<Option<Status>>>,
}

pub(super) fn channel<T>() -> (Sender<T>, Watched<T>) {
    let (sender, receiver) = mpsc::channel(MESSAGES_MAX);
    let end = Arc::default();
    (Sender { messages: sender, end: Arc::clone(&end) }, Watched { messages: receiver, end })
}

/// The watcher has gone, or was told why it ends.
pub(super) struct Ended;

impl<T> Sender<T> {
    /// Sends a message, and ends the watch when it is not taken in time. `next` is where to go on.
    pub(super) async fn send(&self, message: T, next: Seq) -> Result<(), Ended> {
        match tokio::time::timeout(SLOW_MAX, self.messages.send(message)).await {
            Ok(sent) => sent.map_err(|_| Ended),
            Err(_) => Err(self.end(status::too_slow(next).into())),
        }
    }

    /// Ends the watch with a status, once what lies there was taken.
    pub(super) fn end(&self, status: Status) -> Ended {
        self.end.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(status);
        Ended
    }

    /// Returns when the watcher has gone.
    pub(super) async fn gone(&self) {
        self.messages.closed().await;
    }
}

impl<T> tokio_stream::Stream for Watched<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Option<Self::Item>> {
        match self.messages.poll_recv(task) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(message)) => Poll::Ready(Some(Ok(message))),
            Poll::Ready(None) => Poll::Ready(self.end.lock().unwrap_or_else(PoisonError::into_inner).take().map(Err)),
        }
    }
}
