//! The driver: everything around the plane that is not network.
//!
//! ```text
//!  services --inputs--> inbox --> plane's thread --batch--> writer's thread --> journal
//!      ^                             |    ^                      |
//!      +--- replies, outboxes -------+    +------- synced -------+
//! ```
//! One thread owns the plane: it takes all inputs that wait, offers them, seals a batch and passes it to the writer; what
//! the plane lets go afterwards is put into the outboxes of streams and handed to those who asked. Invariant: nothing here
//! decides, and nothing leaves that the plane has not let go.

mod follow;
mod inbox;
mod outbox;
mod requests;
mod turn;
mod writer;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use mindos_core::input::{Input, NewEvent, RequestId, SessionId};
use mindos_core::output::{Rejection, Reply};
use mindos_model::{Seq, Timestamp};
use tokio::sync::{Notify, oneshot};

use crate::admission::Admission;
use crate::clock::Clock;

pub use follow::{FOLLOW_BATCHES_MAX, FOLLOW_ENTRIES_MAX, Followed, Follower};
pub(crate) use inbox::{InboxLimits, Refused};
pub(crate) use outbox::Next;
pub use outbox::{Ending, Outbox, OutboxLimits};
pub use requests::Answer;
pub use turn::{Driver, Start};
pub use writer::{AppendError, DISK_INTERVAL, Home};

use follow::Followers;
use inbox::Inbox;
use outbox::Sessions;
use requests::Requests;

/// The plane does not run any more, or not yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the control plane is stopping")]
pub struct Stopped;

/// More waits for the plane than may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the plane's inbox is full")]
pub struct Full;

/// Why a call got no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// The plane's answer is no.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The inbox is full; try again soon.
    #[error(transparent)]
    Full(#[from] Full),
    /// The process is about to end.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

impl From<Refused> for CallError {
    fn from(refused: Refused) -> CallError {
        match refused {
            Refused::Full => CallError::Full(Full),
            Refused::Stopped => CallError::Stopped(Stopped),
        }
    }
}

/// The way to the plane; cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    inbox: Inbox,
    requests: Requests,
    sessions: Sessions,
    followers: Followers,
    clock: Clock,
    durable: AtomicU64,
    /// The last record that was there when the process started.
    found: Seq,
    droppable: AtomicU64,
    next_session: AtomicU64,
    /// The disk has no room: publishing is refused.
    tight: AtomicBool,
    failure: Mutex<Option<String>>,
    /// The plane's thread has ended.
    ended: Notify,
    admission: Admission,
}

/// Answers to a batch of publishes that are on their way.
#[derive(Debug)]
pub struct Pending(oneshot::Receiver<Vec<Answer>>);

impl Pending {
    /// The answers, in the order of the events.
    ///
    /// # Errors
    /// When the plane stopped before it answered: whether the events were accepted is not known.
    pub async fn answers(&mut self) -> Result<Vec<Answer>, Stopped> {
        (&mut self.0).await.map_err(|_| Stopped)
    }
}

/// A slot for answers, given back unless what is to be answered has reached the plane.
struct Offered<'a> {
    shared: &'a Shared,
    request: Option<RequestId>,
}

impl Drop for Offered<'_> {
    fn drop(&mut self) {
        if let Some(request) = self.request.take() {
            self.shared.requests.lock().withdraw(request);
        }
    }
}

impl Handle {
    pub(crate) fn new(clock: Clock, durable: Seq, inbox: InboxLimits, outbox: OutboxLimits) -> Handle {
        let followers = Followers::default();
        followers.begin(durable);
        let shared = Shared {
            inbox: Inbox::new(inbox),
            requests: Requests::default(),
            sessions: Sessions::new(outbox),
            followers,
            clock,
            durable: AtomicU64::new(durable.0),
            found: durable,
            droppable: AtomicU64::new(0),
            next_session: AtomicU64::new(1),
            tight: AtomicBool::new(false),
            failure: Mutex::default(),
            ended: Notify::new(),
            admission: Admission::default(),
        };
        Handle { shared: Arc::new(shared) }
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Offers inputs that ask for no reply, all or none, without waiting.
    ///
    /// # Errors
    /// [`CallError::Full`] or [`CallError::Stopped`].
    pub fn offer(&self, inputs: impl IntoIterator<Item = Input>) -> Result<(), CallError> {
        Ok(self.shared.inbox.push(&mut inputs.into_iter().collect())?)
    }

    /// Offers inputs that ask for no reply, and waits while the inbox is full. `inputs` is left empty.
    ///
    /// # Errors
    /// When the plane has stopped.
    pub async fn send(&self, inputs: &mut Vec<Input>) -> Result<(), Stopped> {
        self.shared.inbox.send(inputs).await
    }

    /// Asks the plane one thing.
    ///
    /// # Errors
    /// The plane's refusal, or [`CallError::Full`] without waiting, or [`CallError::Stopped`].
    pub async fn call(&self, make: impl FnOnce(RequestId) -> Input) -> Result<Reply, CallError> {
        let (request, receiver) = self.shared.requests.lock().one();
        if let Err(refused) = self.shared.inbox.push(&mut vec![make(request)]) {
            self.shared.requests.lock().withdraw(request);
            return Err(refused.into());
        }
        Ok(receiver.await.map_err(|_| Stopped)??)
    }

    /// Publishes events together, 1 to 1024, waiting while the inbox is full. The answers come when all are durable.
    ///
    /// # Errors
    /// When the plane has stopped.
    pub async fn publish(&self, events: Vec<NewEvent>) -> Result<Pending, Stopped> {
        debug_assert!((1..=requests::BATCH_REQUESTS_MAX).contains(&events.len()));
        let (first, receiver) = self.shared.requests.lock().many(events.len());
        let with_id = |(place, event)| Input::Publish { request: RequestId(first.0 + place), event: Box::new(event) };
        let mut inputs: Vec<Input> = (0..).zip(events).map(with_id).collect();
        // Who waits for room may be gone before there is any, and nobody would answer.
        let mut offered = Offered { shared: &self.shared, request: Some(first) };
        self.shared.inbox.send(&mut inputs).await?;
        offered.request = None;
        Ok(Pending(receiver))
    }

    /// The last record on stable storage.
    #[must_use]
    pub fn durable_seq(&self) -> Seq {
        Seq(self.shared.durable.load(Ordering::Acquire))
    }

    /// Whether the record of the epoch that began with the process is on stable storage, so that it may serve.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.durable_seq() > self.shared.found
    }

    /// Returns once [`Handle::has_begun`], or when the plane has stopped without.
    pub async fn begun(&self) {
        let mut follower = self.subscribe();
        while !self.has_begun() && !matches!(follower.next().await, Followed::Closed) {}
    }

    /// The plane needs nothing at or before this record, once a snapshot covers it.
    #[must_use]
    pub fn droppable_seq(&self) -> Seq {
        Seq(self.shared.droppable.load(Ordering::Acquire))
    }

    /// Follows what becomes durable from here on.
    #[must_use]
    pub fn subscribe(&self) -> Follower {
        self.shared.followers.subscribe()
    }

    /// The clock that decisions go by.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.shared.clock
    }

    /// The plane's time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }

    /// Whether publishing is refused because the disk, or what of it may be used, is full.
    #[must_use]
    pub fn is_tight(&self) -> bool {
        self.shared.tight.load(Ordering::Relaxed)
    }

    /// What becomes of events at the door.
    #[must_use]
    pub fn admission(&self) -> &Admission {
        &self.shared.admission
    }

    /// How many streams of agents are open.
    #[must_use]
    pub fn sessions_open(&self) -> usize {
        self.shared.sessions.len()
    }

    /// Opens the way down for a stream.
    pub(crate) fn open_session(&self) -> (SessionId, Arc<Outbox>) {
        let session = SessionId(self.shared.next_session.fetch_add(1, Ordering::Relaxed));
        (session, self.shared.sessions.open(session))
    }

    /// Tells the plane that a stream is gone. Harmless when it knows already.
    pub(crate) fn close_session(&self, session: SessionId) {
        if self.shared.sessions.remove(session) {
            self.shared.inbox.force(Input::Closed { session });
        }
    }

    /// Ends all streams of agents: they are to dial again.
    pub(crate) fn end_sessions(&self, ending: &Ending) {
        self.shared.sessions.end_all(ending);
    }

    /// Has the plane's thread finish what it took and stop.
    pub(crate) fn stop(&self) {
        self.shared.inbox.stop();
    }

    /// Returns when the plane's thread has ended.
    pub async fn ended(&self) {
        self.shared.ended.notified().await;
    }

    /// Why the driver failed; unset while it has not.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Shared {
    fn set_tight(&self, tight: bool) {
        self.tight.store(tight, Ordering::Relaxed);
    }

    fn fail(&self, reason: String) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
        self.inbox.fail();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mindos_model::TenantName;

    use super::*;
    use crate::ingest::cloudevents::IncomingEvent;
    use crate::ingest::event::accept_incoming;

    fn event() -> NewEvent {
        let incoming = IncomingEvent {
            id: "1".to_owned(),
            source: "/here".to_owned(),
            r#type: "com.example.changed".to_owned(),
            ..IncomingEvent::default()
        };
        accept_incoming(&TenantName::default_tenant(), incoming).unwrap()
    }

    #[tokio::test]
    async fn who_hangs_up_while_waiting_for_room_gives_the_slot_back() {
        let inbox = InboxLimits { inputs_max: 1, bytes_max: 1 << 20 };
        let outbox = OutboxLimits { messages_max: 1, stall_max: Duration::from_secs(1) };
        let handle = Handle::new(Clock::start(Timestamp(0)), Seq(0), inbox, outbox);
        handle.offer([Input::Closed { session: SessionId(1) }]).unwrap();
        for _ in 0..3 {
            let publish = handle.publish(vec![event(), event()]);
            assert!(tokio::time::timeout(Duration::from_millis(5), publish).await.is_err(), "there is no room");
            assert_eq!(handle.shared.requests.lock().waiting(), 0);
        }
        // Once it is with the plane, the slot stays until the plane has answered.
        handle.shared.inbox.take(Duration::ZERO, true);
        drop(handle.publish(vec![event()]).await.unwrap());
        assert_eq!(handle.shared.requests.lock().waiting(), 1);
    }
}
