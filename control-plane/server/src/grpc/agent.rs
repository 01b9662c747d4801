//! The stream of an agent: `mindos.agent.v1.AgentService`.
//!
//! ```text
//!   frames up --> agent_up --> inbox        plane's thread --> outbox --> agent_down --> frames down
//! ```
//! Invariant: a session that was opened is closed exactly once, in whatever way its stream ends.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mindos_core::input::SessionId;
use mindos_proto::agent::v1::ConnectRequest;
use mindos_proto::wire::agent_service_server::AgentService;
use prost::Message;
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, info};

use super::Context;
use super::agent_down::Down;
use super::agent_pace::Pace;
use super::agent_up::{HelloError, Noted, PROTOCOL_MAX, PROTOCOL_MIN, Up};
use crate::access::view::{AccessView, Denials};
use crate::access::{Caller, Principal};
use crate::driver::{Ending, Handle, Outbox};
use crate::net::Connection;

/// How long an agent may take to say `Hello`.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest that a frame waits at a time.
const PACE_MAX: Duration = Duration::from_secs(10);
/// How long a stream that was ended may take to hear of it before its connection is cut.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// The same for one that is turned away, which is to be gone 5 s after its denial.
const END_TIMEOUT_DENIED: Duration = Duration::from_secs(2);

/// The service.
#[derive(Clone, Debug)]
pub(super) struct Agents {
    pub(super) context: Arc<Context>,
}

/// What both directions of a stream share.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) session: SessionId,
    pub(super) handle: Handle,
    pub(super) outbox: Arc<Outbox>,
    /// Numbers of `Reconcile` messages that are not answered.
    pub(super) reconciles: Mutex<VecDeque<u64>>,
    /// An event may be sent once for all assignments of a frame.
    pub(super) shares_events: AtomicBool,
    /// Assignments that were sent.
    pub(super) assigned: AtomicU64,
    /// The way down is gone.
    pub(super) gone: tokio::sync::Notify,
}

/// Questions that may wait for their answer.
const RECONCILES_MAX: usize = 64;

impl Stream {
    fn note(&self, noted: Noted) -> Result<(), Ending> {
        if noted.shares_events {
            self.shares_events.store(true, Ordering::Relaxed);
        }
        if noted.reconciles.is_empty() {
            return Ok(());
        }
        let mut waiting = self.reconciles.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.extend(noted.reconciles);
        if waiting.len() > RECONCILES_MAX {
            return Err(Ending::Protocol(format!("more than {RECONCILES_MAX} `reconcile` wait for an answer")));
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl AgentService for Agents {
    type ConnectStream = Down;

    async fn connect(&self, request: Request<Streaming<ConnectRequest>>) -> Result<Response<Down>, Status> {
        let caller = Caller::of(&request)?;
        let connection = request.extensions().get::<Connection>().cloned();
        let handle = self.context.handle.clone();
        let (session, outbox) = handle.open_session();
        let stream = Arc::new(Stream {
            session,
            handle,
            outbox,
            reconciles: Mutex::default(),
            shares_events: AtomicBool::new(false),
            assigned: AtomicU64::new(0),
            gone: tokio::sync::Notify::new(),
        });
        let down = Down::new(Arc::clone(&stream), Arc::clone(&self.context));
        let context = Arc::clone(&self.context);
        tokio::spawn(async move {
            let ending = read(&stream, &caller, &context, request.into_inner(), connection.as_ref()).await;
            debug!(session = session.0, ?ending, "stream ends");
            stream.handle.close_session(session);
            let timeout = if matches!(ending, Ending::Identity(_)) { END_TIMEOUT_DENIED } else { END_TIMEOUT };
            stream.outbox.end(ending);
            // Somebody who does not read does not hear that the stream has ended either.
            let heard = tokio::time::timeout(timeout, stream.gone.notified()).await.is_ok();
            if let Some(connection) = connection.filter(|_| !heard) {
                info!(session = session.0, peer = %connection.peer, "connection of a stream that does not read was cut");
                connection.cut();
            }
        });
        Ok(Response::new(down))
    }
}

/// Reads a stream to its end and says why it ended.
async fn read(
    stream: &Stream,
    caller: &Principal,
    context: &Context,
    mut frames: Streaming<ConnectRequest>,
    connection: Option<&Connection>,
) -> Ending {
    let (prices, limits) = (&context.prices, context.rates.limits());
    let mut inputs = Vec::new();
    let first = tokio::select! {
        first = tokio::time::timeout(HELLO_TIMEOUT, frames.message()) => first,
        ending = stream.outbox.ended() => return ending,
    };
    let first = match first {
        Ok(Ok(Some(first))) => first,
        Ok(Ok(None)) => return Ending::Protocol("the stream ended before `hello`".to_owned()),
        Ok(Err(status)) => return broken(&status),
        Err(_) => return Ending::Protocol(format!("no `hello` within {} s", HELLO_TIMEOUT.as_secs())),
    };
    let now = stream.handle.now();
    let mut up = match Up::open(stream.session, caller, first, now, &mut inputs) {
        Ok((up, noted)) => match stream.note(noted) {
            Ok(()) => up,
            Err(ending) => return ending,
        },
        Err(HelloError::Identity(message)) => return Ending::Identity(message),
        Err(HelloError::Invalid(invalid)) => return Ending::Protocol(invalid.to_string()),
        Err(HelloError::Version { min, max }) => {
            let spoken = format!("protocol {PROTOCOL_MIN} to {PROTOCOL_MAX} is spoken here, {min} to {max} there");
            return Ending::Version(spoken);
        }
    };
    let mut pace = Pace::new(&limits, Instant::now());
    let mut denials = context.access.denials();
    loop {
        denials.mark_unchanged();
        if let Some(ending) = turned_away(&up, &context.access) {
            return ending;
        }
        prices.load().price(&mut inputs);
        tokio::select! {
            sent = stream.handle.send(&mut inputs) => if sent.is_err() {
                return Ending::Shutdown;
            },
            ending = ended(stream, &up, &context.access, &mut denials) => return ending,
        }
        let frame = tokio::select! {
            frame = frames.message() => frame,
            ending = ended(stream, &up, &context.access, &mut denials) => return ending,
        };
        let frame = match frame {
            Ok(Some(frame)) => frame,
            Ok(None) => return Ending::Finished,
            Err(status) => return broken(&status),
        };
        let assigned = stream.assigned.load(Ordering::Relaxed);
        let wait = pace.take(frame.messages.len(), frame.encoded_len(), assigned, Instant::now());
        if wait.is_zero() {
            if let Some(connection) = connection {
                connection.come_forward();
            }
        } else {
            // What it costs to take in what waits is not taken from others.
            if let Some(connection) = connection {
                connection.set_back();
            }
            tokio::select! {
                () = tokio::time::sleep(wait.min(PACE_MAX)) => {}
                ending = ended(stream, &up, &context.access, &mut denials) => return ending,
            }
        }
        let noted = match up.frame(frame, stream.handle.now(), &mut inputs) {
            Ok(noted) => noted,
            Err(invalid) => return Ending::Protocol(invalid.to_string()),
        };
        if let Err(ending) = stream.note(noted) {
            return ending;
        }
    }
}

/// How a stream ends that speaks for somebody who is kept out.
fn turned_away(up: &Up, access: &AccessView) -> Option<Ending> {
    let known = access.load();
    let identity = up.kept_out(&known.access)?;
    Some(Ending::Identity(format!("{identity} is turned away")))
}

/// Waits until the plane ends the stream, or somebody that it speaks for comes to be denied: a quiet one may say nothing for long.
/// Who is denied by a certificate of its own is cut off elsewhere.
async fn ended(stream: &Stream, up: &Up, access: &AccessView, denials: &mut watch::Receiver<Denials>) -> Ending {
    let denied = async {
        while up.speaks_for_others() && denials.changed().await.is_ok() {
            if let Some(ending) = turned_away(up, access) {
                return ending;
            }
        }
        std::future::pending().await
    };
    tokio::select! {
        ending = stream.outbox.ended() => ending,
        ending = denied => ending,
    }
}

/// Malformed or too large, or the connection broke.
fn broken(status: &Status) -> Ending {
    match status.code() {
        tonic::Code::OutOfRange | tonic::Code::Internal | tonic::Code::InvalidArgument => {
            Ending::Protocol(status.message().to_owned())
        }
        _ => Ending::Finished,
    }
}
