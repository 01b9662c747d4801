//! Outboxes: what the plane says to each stream of an agent, until the stream takes it.
//!
//! Invariant: an outbox is bounded in number and in time; a stream that does not read loses its session, and nobody else
//! notices.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use mindos_core::input::SessionId;
use mindos_core::output::{CloseReason, PlaneMessage};
use tokio::sync::Notify;

/// How much may wait for a stream.
#[derive(Clone, Copy, Debug)]
pub struct OutboxLimits {
    pub messages_max: usize,
    /// How long messages may wait for a stream that takes none.
    pub stall_max: Duration,
}

/// Why a stream ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The plane ended it.
    Plane(CloseReason),
    /// It reads too slowly.
    TooSlow,
    /// The server goes.
    Shutdown,
    /// It broke the protocol.
    Protocol(String),
    /// No version of the protocol is common.
    Version(String),
    /// It said it is somebody else than its certificate says.
    Identity(String),
    /// The agent side has ended it.
    Finished,
}

/// What waits for one stream.
#[derive(Debug, Default)]
pub struct Outbox {
    state: Mutex<State>,
    ended: Notify,
}

#[derive(Debug, Default)]
struct State {
    messages: Vec<PlaneMessage>,
    /// Since when messages wait and none was taken.
    waiting_since: Option<Instant>,
    ending: Option<Ending>,
    waker: Option<Waker>,
}

/// What a stream finds in its outbox.
#[derive(Debug)]
pub(crate) enum Next {
    Messages(Vec<PlaneMessage>),
    End(Ending),
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes all that waits. The ending comes after the last message.
    pub(crate) fn poll_take(&self, context: &mut Context<'_>) -> Poll<Next> {
        let mut state = self.lock();
        if !state.messages.is_empty() {
            state.waiting_since = None;
            return Poll::Ready(Next::Messages(std::mem::take(&mut state.messages)));
        }
        if let Some(ending) = state.ending.clone() {
            return Poll::Ready(Next::End(ending));
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(context.waker()),
            empty => *empty = Some(context.waker().clone()),
        }
        Poll::Pending
    }

    /// Notes that the stream was sent something: what waits behind it waits anew.
    pub(crate) fn moved(&self) {
        let mut state = self.lock();
        if state.waiting_since.is_some() {
            state.waiting_since = Some(Instant::now());
        }
    }

    /// Ends the stream once it has taken what waits. The first ending counts.
    pub(crate) fn end(&self, ending: Ending) {
        let mut state = self.lock();
        if ending == Ending::TooSlow {
            state.messages = Vec::new();
        }
        state.ending.get_or_insert(ending);
        let waker = state.waker.take();
        drop(state);
        self.ended.notify_one();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Waits until the stream is to end, and says why. For the one who reads the stream.
    pub(crate) async fn ended(&self) -> Ending {
        loop {
            if let Some(ending) = self.lock().ending.clone() {
                return ending;
            }
            self.ended.notified().await;
        }
    }

    /// Adds a message; false when there is no room.
    fn push(&self, message: PlaneMessage, limits: OutboxLimits, now: Instant) -> bool {
        let mut state = self.lock();
        if state.ending.is_some() {
            return true;
        }
        let since = *state.waiting_since.get_or_insert(now);
        if state.messages.len() >= limits.messages_max || now.duration_since(since) > limits.stall_max {
            return false;
        }
        state.messages.push(message);
        true
    }

    fn wake(&self) {
        let waker = self.lock().waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The outboxes of all streams.
#[derive(Debug)]
pub(crate) struct Sessions {
    limits: OutboxLimits,
    open: Mutex<HashMap<SessionId, Arc<Outbox>, FixedState>>,
}

impl Sessions {
    pub(crate) fn new(limits: OutboxLimits) -> Sessions {
        Sessions { limits, open: Mutex::new(HashMap::with_hasher(FixedState::default())) }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, Arc<Outbox>, FixedState>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    pub(crate) fn open(&self, session: SessionId) -> Arc<Outbox> {
        let outbox = Arc::<Outbox>::default();
        self.lock().insert(session, Arc::clone(&outbox));
        outbox
    }

    pub(crate) fn remove(&self, session: SessionId) -> bool {
        self.lock().remove(&session).is_some()
    }

    pub(crate) fn end_all(&self, ending: &Ending) {
        for outbox in self.lock().values() {
            outbox.end(ending.clone());
        }
    }

    /// Begins to put messages into outboxes.
    pub(crate) fn post(&self) -> Post<'_> {
        Post {
            limits: self.limits,
            open: self.lock(),
            last: None,
            touched: Vec::new(),
            slow: Vec::new(),
            now: Instant::now(),
        }
    }
}

/// Puts messages into outboxes; wakes each stream once, at the end.
pub(crate) struct Post<'a> {
    limits: OutboxLimits,
    open: MutexGuard<'a, HashMap<SessionId, Arc<Outbox>, FixedState>>,
    last: Option<(SessionId, Arc<Outbox>)>,
    touched: Vec<(SessionId, Arc<Outbox>)>,
    slow: Vec<SessionId>,
    now: Instant,
}

impl Post<'_> {
    pub(crate) fn send(&mut self, session: SessionId, message: PlaneMessage) {
        if self.last.as_ref().is_none_or(|(last, _)| *last != session) {
            let Some(outbox) = self.open.get(&session) else { return };
            let outbox = Arc::clone(outbox);
            self.touched.push((session, Arc::clone(&outbox)));
            self.last = Some((session, outbox));
        }
        if let Some((_, outbox)) = &self.last
            && !outbox.push(message, self.limits, self.now)
        {
            outbox.end(Ending::TooSlow);
            self.slow.push(session);
        }
    }

    pub(crate) fn close(&mut self, session: SessionId, reason: CloseReason) {
        self.last = None;
        if let Some(outbox) = self.open.remove(&session) {
            outbox.end(Ending::Plane(reason));
        }
    }

    /// Wakes the streams and returns those that were too slow.
    pub(crate) fn finish(mut self) -> Vec<SessionId> {
        drop(self.open);
        self.touched.sort_unstable_by_key(|(session, _)| *session);
        self.touched.dedup_by_key(|(session, _)| *session);
        for (_, outbox) in &self.touched {
            outbox.wake();
        }
        self.slow.dedup();
        self.slow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: OutboxLimits = OutboxLimits { messages_max: 2, stall_max: Duration::from_secs(30) };

    fn context() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    #[test]
    fn a_stream_that_does_not_read_is_ended_and_others_go_on() {
        let sessions = Sessions::new(LIMITS);
        let (slow, other) = (sessions.open(SessionId(1)), sessions.open(SessionId(2)));
        let mut post = sessions.post();
        for _ in 0..3 {
            post.send(SessionId(1), PlaneMessage::Drain);
        }
        post.send(SessionId(2), PlaneMessage::Drain);

        assert_eq!(post.finish(), [SessionId(1)]);
        assert!(matches!(slow.poll_take(&mut context()), Poll::Ready(Next::End(Ending::TooSlow))));
        assert!(
            matches!(other.poll_take(&mut context()), Poll::Ready(Next::Messages(messages)) if messages.len() == 1)
        );
        assert!(other.poll_take(&mut context()).is_pending());
    }

    #[test]
    fn an_outbox_that_is_left_alone_for_too_long_counts_as_full() {
        let outbox = Outbox::default();
        let start = Instant::now();
        assert!(outbox.push(PlaneMessage::Drain, LIMITS, start));
        assert!(!outbox.push(PlaneMessage::Drain, LIMITS, start + Duration::from_secs(31)));
    }

    #[test]
    fn the_ending_comes_after_the_last_message() {
        let sessions = Sessions::new(LIMITS);
        let outbox = sessions.open(SessionId(1));
        let mut post = sessions.post();
        post.send(SessionId(1), PlaneMessage::Drain);
        post.close(SessionId(1), CloseReason::Replaced);
        post.finish();

        assert!(matches!(outbox.poll_take(&mut context()), Poll::Ready(Next::Messages(_))));
        let end = Ending::Plane(CloseReason::Replaced);
        assert!(matches!(outbox.poll_take(&mut context()), Poll::Ready(Next::End(ending)) if ending == end));
        assert!(!sessions.remove(SessionId(1)));
    }
}
