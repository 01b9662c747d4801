//! The plane's thread: one turn after another, each with all that has arrived.
//!
//! ```text
//!   wait -> synced -> offer.. -> advance -> seal -> ready -> deliver -> wait
//! ```
//! Invariant: a batch is handed to the writer in the turn that sealed it; what rests on it leaves in the turn that hears of
//! its sync.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mindos_core::Plane;
use mindos_core::input::{Entropy, Input};
use mindos_core::output::Output;
use mindos_core::record::Batch;
use tracing::{debug, error};

use super::writer::{self, Home};
use super::{Handle, Shared};
use crate::payloads::Payloads;

/// How long the plane's thread sleeps at most.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// How long results wait for others to share their sync, where nothing else is to be synced.
const LINGER: Duration = Duration::from_millis(1);
/// How long a stop waits for what is on its way to the disk.
const STOP_MAX: Duration = Duration::from_secs(5);

/// What a driver is started with.
pub struct Start<H> {
    pub plane: Plane,
    pub home: H,
    pub handle: Handle,
    pub payloads: Payloads,
    /// Seeds all that the plane draws.
    pub seed: u64,
}

/// The threads of a running plane.
#[derive(Debug)]
pub struct Driver {
    plane: JoinHandle<()>,
    writer: JoinHandle<()>,
}

impl Driver {
    /// Starts both threads.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start<H: Home + 'static>(start: Start<H>) -> io::Result<Driver> {
        let Start { plane, home, handle, payloads, seed } = start;
        let (batches, sealed) = sync_channel::<Arc<Batch>>(2);
        let end = handle.durable_seq();
        let for_writer = handle.clone();
        let writer = std::thread::Builder::new().name("journal".to_owned()).spawn(move || {
            let shared = Panics(for_writer);
            writer::run(home, end, &sealed, shared.0.shared());
        })?;
        let (in_flight, entropy) = (VecDeque::new(), Entropy(seed));
        let turns = Turns { plane, handle, payloads, batches, in_flight, entropy, lingers_until: None };
        let plane = std::thread::Builder::new().name("plane".to_owned()).spawn(move || {
            let shared = Guard(turns.handle.clone());
            turns.run(&shared.0);
        })?;
        Ok(Driver { plane, writer })
    }

    /// Waits until both threads have ended. Blocks.
    pub fn join(self) {
        let Driver { plane, writer } = self;
        for (name, thread) in [("plane", plane), ("journal", writer)] {
            if thread.join().is_err() {
                error!(thread = name, "thread panicked");
            }
        }
    }
}

/// Turns all who wait away when the plane's thread ends, in whatever way.
struct Guard(Handle);

impl Drop for Guard {
    fn drop(&mut self) {
        let shared = self.0.shared();
        if std::thread::panicking() {
            shared.fail("the plane's thread panicked".to_owned());
        }
        shared.inbox.close();
        shared.requests.lock().clear();
        shared.followers.close();
        shared.sessions.end_all(&super::Ending::Shutdown);
        shared.ended.notify_waiters();
        shared.ended.notify_one();
    }
}

/// Says that the journal's thread panicked, so that the plane's thread ends too and callers see that nothing more comes.
struct Panics(Handle);

impl Drop for Panics {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.shared().fail("the journal's thread panicked".to_owned());
        }
    }
}

struct Turns {
    plane: Plane,
    handle: Handle,
    payloads: Payloads,
    batches: SyncSender<Arc<Batch>>,
    in_flight: VecDeque<Arc<Batch>>,
    entropy: Entropy,
    /// When the open batch, that may linger, is sealed.
    lingers_until: Option<Instant>,
}

impl Turns {
    fn run(mut self, handle: &Handle) {
        let shared = handle.shared();
        let mut backlog = Vec::new().into_iter();
        let mut stop_by: Option<Instant> = None;
        // The plane comes with records of its own: its epoch stands in the open batch.
        let mut first = true;
        loop {
            // While a full batch cannot be sealed, inputs wait where their senders can see it.
            let blocked = backlog.len() > 0;
            let patience = if std::mem::take(&mut first) { Duration::ZERO } else { self.patience(blocked) };
            let taken = shared.inbox.take(patience, !blocked);
            if taken.failed {
                return;
            }
            if !blocked {
                backlog = taken.inputs.into_iter();
            }
            let now = self.handle.now();
            let mut outputs = Vec::new();
            if let Some(end) = taken.synced {
                self.publish(end, shared);
                outputs.append(&mut self.plane.synced(end, now));
            }
            loop {
                self.offer(&mut backlog);
                if !self.plane.is_full() {
                    let entropy = Entropy(self.entropy.draw());
                    self.plane.advance(self.handle.now(), entropy);
                }
                // More of the backlog fits only when what was open could be sealed.
                if self.lingers(taken.stopping) || !self.seal() || backlog.len() == 0 {
                    break;
                }
            }
            outputs.append(&mut self.plane.ready(self.handle.now()));
            self.deliver(outputs, shared);
            if taken.stopping && backlog.len() == 0 {
                let by = *stop_by.get_or_insert_with(|| Instant::now() + STOP_MAX);
                if self.in_flight.is_empty() || Instant::now() >= by {
                    debug!(in_flight = self.in_flight.len(), "plane stopped");
                    return;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// How long nothing is due.
    fn patience(&self, blocked: bool) -> Duration {
        if blocked {
            return IDLE_MAX;
        }
        let lingers = self.lingers_until.map_or(IDLE_MAX, |until| until.saturating_duration_since(Instant::now()));
        match self.plane.next_due() {
            // The plane counts in milliseconds: one more, so that it is really due.
            Some(due) => (self.handle.shared().clock.until(due) + Duration::from_millis(1)).min(lingers),
            None => lingers,
        }
    }

    /// Whether the open batch waits for company still.
    fn lingers(&mut self, stopping: bool) -> bool {
        if stopping || !self.plane.may_linger() {
            self.lingers_until = None;
            return false;
        }
        let now = Instant::now();
        let until = *self.lingers_until.get_or_insert(now + LINGER);
        if until <= now {
            self.lingers_until = None;
        }
        until > now
    }

    fn offer(&mut self, backlog: &mut std::vec::IntoIter<Input>) {
        let now = self.handle.now();
        while !self.plane.is_full() {
            let Some(input) = backlog.next() else { return };
            let entropy = Entropy(self.entropy.draw());
            self.plane.offer(input, now, entropy);
        }
    }

    /// Hands the open batch to the writer; false when there is none, or two are on their way.
    fn seal(&mut self) -> bool {
        let Some(batch) = self.plane.seal() else { return false };
        let batch = Arc::new(batch);
        self.payloads.keep(&batch);
        self.in_flight.push_back(Arc::clone(&batch));
        // The writer is gone only after it said that it failed, which the next turn hears.
        let _ = self.batches.send(batch);
        true
    }

    /// Shows followers what has become durable.
    fn publish(&mut self, end: mindos_model::Seq, shared: &Shared) {
        shared.durable.store(end.0, Ordering::Release);
        while self.in_flight.front().is_some_and(|batch| batch.last() <= end) {
            if let Some(batch) = self.in_flight.pop_front() {
                shared.followers.publish(&batch);
            }
        }
    }

    fn deliver(&self, outputs: Vec<Output>, shared: &Shared) {
        if outputs.is_empty() {
            return;
        }
        let mut post = shared.sessions.post();
        let mut requests = None;
        for output in outputs {
            match output {
                Output::Reply { request, reply } => {
                    shared.admission.answered(&reply);
                    requests.get_or_insert_with(|| shared.requests.lock()).complete(request, *reply);
                }
                Output::Send { session, message } => post.send(session, message),
                Output::Close { session, reason } => post.close(session, reason),
                Output::DropPrefix { through } => {
                    shared.droppable.fetch_max(through.0, Ordering::AcqRel);
                }
            }
        }
        drop(requests);
        for session in post.finish() {
            debug!(session = session.0, "stream was too slow");
            self.handle.close_session(session);
        }
    }
}
