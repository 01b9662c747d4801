//! The inbox: inputs on their way to the plane's thread, bounded by number and by bytes.
//!
//! Many producers push many inputs under one lock; the plane's thread takes them all at once. Invariant: inputs of one
//! producer keep their order, and nothing that was taken in is dropped before the plane stops.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mindos_core::access::AccessChange;
use mindos_core::input::{AgentMessage, Input, Intent, ReportedOutcome};
use mindos_model::Seq;
use tokio::sync::Notify;

use super::Stopped;

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InboxLimits {
    pub(crate) inputs_max: usize,
    pub(crate) bytes_max: usize,
}

#[derive(Debug)]
pub(crate) struct Inbox {
    limits: InboxLimits,
    state: Mutex<State>,
    ready: Condvar,
    room: Notify,
}

#[derive(Debug, Default)]
struct State {
    inputs: Vec<Input>,
    bytes: usize,
    synced: Option<Seq>,
    failed: bool,
    stopping: bool,
    stopped: bool,
    /// The plane's thread waits on `ready`.
    sleeping: bool,
    /// Producers wait on `room`.
    crowded: bool,
}

/// What the plane's thread finds.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    pub(crate) inputs: Vec<Input>,
    pub(crate) synced: Option<Seq>,
    /// The writer failed: nothing more becomes durable.
    pub(crate) failed: bool,
    /// Finish what was taken and stop.
    pub(crate) stopping: bool,
}

impl Inbox {
    pub(crate) fn new(limits: InboxLimits) -> Inbox {
        Inbox { limits, state: Mutex::default(), ready: Condvar::new(), room: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes all inputs or none of them. `inputs` is left empty on success.
    pub(crate) fn push(&self, inputs: &mut Vec<Input>) -> Result<(), Refused> {
        let bytes: usize = inputs.iter().map(weight).sum();
        let mut state = self.lock();
        if state.stopped {
            return Err(Refused::Stopped);
        }
        let fits =
            state.inputs.len() + inputs.len() <= self.limits.inputs_max && state.bytes + bytes <= self.limits.bytes_max;
        // A push larger than the whole inbox gets in when it is alone.
        if !fits && !state.inputs.is_empty() {
            state.crowded = true;
            return Err(Refused::Full);
        }
        self.admit(state, inputs, bytes);
        Ok(())
    }

    /// Takes an input that must not be lost and of which there is at most one for each stream.
    pub(crate) fn force(&self, input: Input) {
        let state = self.lock();
        if !state.stopped {
            let bytes = weight(&input);
            self.admit(state, &mut vec![input], bytes);
        }
    }

    fn admit(&self, mut state: MutexGuard<'_, State>, inputs: &mut Vec<Input>, bytes: usize) {
        if state.inputs.is_empty() {
            std::mem::swap(&mut state.inputs, inputs);
            inputs.clear();
        } else {
            state.inputs.append(inputs);
        }
        state.bytes += bytes;
        self.wake(state);
    }

    /// Waits for room.
    pub(crate) async fn send(&self, inputs: &mut Vec<Input>) -> Result<(), Stopped> {
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            // Registered before the try, so that room made in between is not missed.
            room.as_mut().enable();
            match self.push(inputs) {
                Ok(()) => return Ok(()),
                Err(Refused::Stopped) => return Err(Stopped),
                Err(Refused::Full) => room.await,
            }
        }
    }

    pub(crate) fn synced(&self, end: Seq) {
        let mut state = self.lock();
        state.synced = Some(end);
        self.wake(state);
    }

    pub(crate) fn fail(&self) {
        let mut state = self.lock();
        state.failed = true;
        self.wake(state);
    }

    pub(crate) fn stop(&self) {
        let mut state = self.lock();
        state.stopping = true;
        self.wake(state);
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.lock().stopping
    }

    fn wake(&self, mut state: MutexGuard<'_, State>) {
        let sleeping = std::mem::take(&mut state.sleeping);
        drop(state);
        if sleeping {
            self.ready.notify_one();
        }
    }

    /// Waits until there is something, or until `patience` is over. Inputs are left where they are unless `wants_inputs`.
    pub(crate) fn take(&self, patience: Duration, wants_inputs: bool) -> Taken {
        let deadline = Instant::now().checked_add(patience);
        let mut state = self.lock();
        loop {
            let something = state.synced.is_some() || state.failed || state.stopping;
            if something || wants_inputs && !state.inputs.is_empty() {
                break;
            }
            let left = match deadline {
                Some(deadline) => deadline.saturating_duration_since(Instant::now()),
                None => Duration::from_secs(3600),
            };
            if left.is_zero() {
                break;
            }
            state.sleeping = true;
            state = self.ready.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            state.sleeping = false;
        }
        let mut taken =
            Taken { inputs: Vec::new(), synced: state.synced.take(), failed: state.failed, stopping: state.stopping };
        let mut crowded = false;
        if wants_inputs {
            taken.inputs = std::mem::take(&mut state.inputs);
            state.bytes = 0;
            crowded = std::mem::take(&mut state.crowded);
        }
        drop(state);
        if crowded {
            self.room.notify_waiters();
        }
        taken
    }

    /// Refuses everything from here on.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.stopped = true;
        state.inputs = Vec::new();
        drop(state);
        self.room.notify_waiters();
    }
}

/// Why inputs were not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Full,
    Stopped,
}

fn intents(intents: &[Intent]) -> usize {
    intents.iter().map(|intent| 256 + intent.key.len() + intent.target.len() + intent.parameters.bytes.len()).sum()
}

/// Bytes that an input holds on to, roughly.
fn weight(input: &Input) -> usize {
    const BASE: usize = 256;
    let body = match input {
        Input::Publish { event, .. } => event.payload.bytes.len(),
        Input::Agent { message: AgentMessage::Result(report), .. } => {
            let outcome = match &report.outcome {
                ReportedOutcome::Succeeded { output, .. } => output.as_ref().map_or(0, |output| output.bytes.len()),
                ReportedOutcome::Failed { message, .. } => message.len(),
            };
            outcome + intents(&report.effects)
        }
        Input::Intend { intents: all, .. } => intents(all),
        Input::Agent { message: AgentMessage::Extend(extend), .. } => {
            extend.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.bytes.len())
        }
        Input::Agent { message: AgentMessage::Reconcile { held }, .. } => held.len() * 24,
        Input::Hello(hello) => hello.held.len() * 24 + hello.generals.len() * 128,
        Input::Carry { payload, .. } => payload.bytes.len(),
        Input::Access { change, .. } => match change.as_ref() {
            AccessChange::RegisterIssuer(issuer) => issuer.keys.len(),
            _ => 0,
        },
        Input::Redact { events, .. } => events.len() * 8,
        _ => 0,
    };
    BASE + body
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mindos_core::input::SessionId;

    use super::*;

    const LIMITS: InboxLimits = InboxLimits { inputs_max: 2, bytes_max: 1 << 20 };

    fn closed(session: u64) -> Input {
        Input::Closed { session: SessionId(session) }
    }

    #[test]
    fn a_full_inbox_refuses_and_takes_again_once_emptied() {
        let inbox = Inbox::new(LIMITS);
        inbox.push(&mut vec![closed(1), closed(2)]).unwrap();
        assert_eq!(inbox.push(&mut vec![closed(3)]), Err(Refused::Full));
        assert_eq!(inbox.take(Duration::ZERO, true).inputs.len(), 2);
        inbox.push(&mut vec![closed(3)]).unwrap();
    }

    #[test]
    fn what_must_not_be_lost_gets_into_a_full_inbox() {
        let inbox = Inbox::new(LIMITS);
        inbox.push(&mut vec![closed(1), closed(2)]).unwrap();
        inbox.force(closed(3));
        assert_eq!(inbox.take(Duration::ZERO, true).inputs.len(), 3);
    }

    #[test]
    fn a_sync_is_heard_while_inputs_have_to_wait() {
        let inbox = Inbox::new(LIMITS);
        inbox.push(&mut vec![closed(1)]).unwrap();
        inbox.synced(Seq(7));
        let taken = inbox.take(Duration::from_secs(60), false);
        assert_eq!((taken.inputs.len(), taken.synced), (0, Some(Seq(7))));
        assert_eq!(inbox.take(Duration::ZERO, true).inputs.len(), 1);
    }

    #[tokio::test]
    async fn a_sender_waits_for_room() {
        let inbox = Arc::new(Inbox::new(LIMITS));
        inbox.push(&mut vec![closed(1), closed(2)]).unwrap();
        let sender = tokio::spawn({
            let inbox = Arc::clone(&inbox);
            async move { inbox.send(&mut vec![closed(3)]).await }
        });
        tokio::task::yield_now().await;
        assert!(!sender.is_finished());
        inbox.take(Duration::ZERO, true);
        sender.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_closed_inbox_turns_senders_away() {
        let inbox = Inbox::new(LIMITS);
        inbox.close();
        assert_eq!(inbox.send(&mut vec![closed(1)]).await, Err(Stopped));
    }
}
