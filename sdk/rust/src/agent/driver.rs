//! The loop around the pure agent: one task for socket, timer and inbox.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use mindos_model::Timestamp;
use mindos_proto::agent::v1 as proto;
use mindos_proto::agent::v1::agent_message::Message as AgentMessage;
use mindos_sidecar_core::{Action, Agent, Config, ConfigError, Counts, Down, GeneralIndex, Up};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming};
use tracing::{debug, info, warn};

use super::codec::FrameCodec;
use super::decode::{self, Read};
use super::encode::{self, Frames, Sender};
use super::inbox::Inbox;
use super::{Adapter, Assignment, Body, Handle, Start};
use crate::clock::Clock;
use crate::dial::{AddressError, Channel, Dialer};
use crate::general::ModelLoad;
use crate::identity::{IdentityError, Member, Signals, is_turned_away};
use crate::trunk::{Seat, Trunk};

/// Frames that may wait for the connection.
const OUTBOUND_MAX: usize = 4;
/// Messages that may wait while the control plane does not read; beyond it the stream is dropped.
const PENDING_MAX: usize = 200_000;
/// How long the control plane may take to end a stream that was half-closed.
const CLOSE_MAX: Duration = Duration::from_secs(5);
/// Largest frame that is taken.
const FRAME_MAX: usize = mindos_model::limits::MESSAGE_MAX;

/// What `Hello` says beyond the core's configuration.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// Kubernetes namespace, or empty.
    pub namespace: String,
    /// Kubernetes pod, or empty.
    pub pod: String,
    /// Such as `blob`.
    pub capabilities: Vec<String>,
}

/// Why an agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The generals do not fit together.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The control plane's address is not one.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The agent cannot prove who it is.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// An agent that is set up and not running yet.
#[derive(Debug)]
pub struct Connection {
    agent: Agent<Assignment, Body>,
    identity: Identity,
    way: Way,
    handle: Handle,
    clock: Clock,
    signals: Signals,
}

/// How streams come to the control plane.
#[derive(Debug)]
enum Way {
    /// Each on a connection of its own.
    Own(Box<Dialer>),
    /// On one that others use as well.
    Shared(Trunk),
}

impl Way {
    /// A channel for the next stream; the seat that comes with it is to be kept for as long as that stands.
    async fn channel(&self) -> Result<(Channel, Option<Seat>), Status> {
        match self {
            Way::Own(dialer) => {
                let channel =
                    dialer.connect().await.map_err(|error| Status::unavailable(crate::error::chain(&error)))?;
                Ok((channel, None))
            }
            Way::Shared(trunk) => {
                let seat = trunk.seat().await?;
                Ok((seat.channel(), Some(seat)))
            }
        }
    }
}

enum Next {
    Dial { after: Duration },
    Exit,
}

impl Connection {
    /// Checks everything; dials nothing yet.
    ///
    /// # Errors
    /// When the address is not one, or the generals do not fit together.
    pub fn new(url: &str, config: Config, identity: Identity) -> Result<Connection, AgentError> {
        Connection::dial(Dialer::new(url)?, config, identity)
    }

    /// The same with roots, certificate or token of your own. Each stream has a connection of its own, and so the certificate of the
    /// moment.
    ///
    /// # Errors
    /// When TLS cannot be set up, or the generals do not fit together.
    pub fn dial(dialer: Dialer, config: Config, identity: Identity) -> Result<Connection, AgentError> {
        let dialer = dialer.settled()?;
        let agent = Agent::new(config)?;
        Ok(Connection {
            agent,
            identity,
            way: Way::Own(Box::new(dialer)),
            handle: Handle::default(),
            clock: Clock::start(),
            signals: Signals::default(),
        })
    }

    /// The same as a member, with its certificate of the moment: dials at once when it has one again, and tells it when one was turned
    /// away.
    ///
    /// # Errors
    /// When the generals do not fit together.
    pub fn of(member: &Member, config: Config, identity: Identity) -> Result<Connection, AgentError> {
        Ok(Connection { signals: member.signals(), ..Connection::dial(member.dialer(), config, identity)? })
    }

    /// The same with streams that share their connections with others, as those of an agent that speaks for many instances.
    ///
    /// # Errors
    /// When the generals do not fit together.
    pub fn over(trunk: &Trunk, config: Config, identity: Identity) -> Result<Connection, AgentError> {
        Ok(Connection {
            agent: Agent::new(config)?,
            identity,
            way: Way::Shared(trunk.clone()),
            handle: Handle::default(),
            clock: Clock::start(),
            signals: trunk.signals(),
        })
    }

    /// Tells the agent what happens, before and while it runs.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Another channel to the same control plane, for blobs; dials when first used. Has to be called within a Tokio runtime.
    ///
    /// # Errors
    /// Never in practice: what TLS needs has been read.
    pub fn channel(&self) -> Result<Channel, AddressError> {
        match &self.way {
            Way::Own(dialer) => dialer.channel(),
            Way::Shared(trunk) => Ok(trunk.calls()),
        }
    }

    /// The clock that the agent goes by.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Serves until it is drained. Dials again for as long as it takes.
    pub async fn run<A: Adapter>(self, adapter: A) -> Counts {
        let Connection { agent, identity, way, handle, clock, signals } = self;
        let mut driver = Driver {
            agent,
            identity,
            handle,
            clock,
            signals,
            adapter,
            frames: Frames::default(),
            pending: VecDeque::new(),
            actions: Vec::new(),
            inbox: Inbox::default(),
            models: BTreeMap::new(),
            seat: None,
            expected: 1,
            next: None,
        };
        loop {
            match driver.stream(&way).await {
                Next::Dial { after } => match driver.wait(after).await {
                    Next::Dial { .. } => {}
                    Next::Exit => return *driver.agent.counts(),
                },
                Next::Exit => return *driver.agent.counts(),
            }
        }
    }
}

struct Driver<A> {
    agent: Agent<Assignment, Body>,
    identity: Identity,
    handle: Handle,
    clock: Clock,
    signals: Signals,
    adapter: A,
    frames: Frames,
    /// Not yet framed.
    pending: VecDeque<Up<Body>>,
    actions: Vec<Action<Assignment, Body>>,
    inbox: Inbox,
    /// Load of the models behind each general, as heard last and not sent yet.
    models: BTreeMap<GeneralIndex, Vec<ModelLoad>>,
    /// Its place on a connection that others use as well.
    seat: Option<Seat>,
    /// Number of the next message down.
    expected: u64,
    next: Option<Next>,
}

impl<A: Adapter> Driver<A> {
    /// Dials, and serves one stream to its end.
    async fn stream(&mut self, way: &Way) -> Next {
        let (sender, receiver) = mpsc::channel(OUTBOUND_MAX);
        self.seat = None;
        let channel = match self.while_turning(Box::pin(way.channel())).await {
            Ok(Ok((channel, seat))) => {
                self.seat = seat;
                channel
            }
            Ok(Err(status)) => return self.lost(&status),
            Err(next) => return next,
        };
        self.frames.restart();
        self.pending.clear();
        self.expected = 1;
        self.agent.connected(self.clock.now());
        self.turn();
        if let Err(status) = self.flush(&sender) {
            return self.lost(&status);
        }
        // Boxed, as the dial is: what it takes to open a stream is not kept for as long as that stands.
        let open = Box::pin(open(channel, receiver));
        let mut inbound = match self.while_turning(open).await {
            Ok(Ok(inbound)) => inbound,
            Ok(Err(status)) => return self.lost(&status),
            Err(next) => return next,
        };
        debug!("stream opened");
        let next = self.serve(&sender, &mut inbound).await;
        if matches!(next, Next::Exit) {
            drop(sender);
            let ended = async { while let Ok(Some(_)) = inbound.message().await {} };
            if timeout(CLOSE_MAX, ended).await.is_err() {
                debug!("control plane did not end the stream");
            }
        }
        next
    }

    /// Serves the open stream until the agent wants another one or none.
    async fn serve(&mut self, sender: &mpsc::Sender<Bytes>, inbound: &mut Streaming<Bytes>) -> Next {
        let mut timer = Box::pin(sleep_until(Instant::now()));
        let handle = self.handle.clone();
        loop {
            self.turn();
            if let Err(status) = self.flush(sender) {
                return self.lost(&status);
            }
            if let Some(next) = self.next.take() {
                if matches!(next, Next::Exit) {
                    self.flush_all(sender).await;
                }
                return next;
            }
            self.set(timer.as_mut());
            tokio::select! {
                biased;
                frame = inbound.message() => match frame {
                    Ok(Some(frame)) => {
                        if let Err(malformed) = self.take(&frame) {
                            warn!(error = %malformed, "control plane broke the protocol");
                            return self.lost(&Status::internal("protocol broken"));
                        }
                    }
                    Ok(None) => return self.lost(&Status::unavailable("the control plane ended the stream")),
                    Err(status) => return self.lost(&status),
                },
                () = handle.arrived() => {}
                permit = sender.reserve(), if !self.frames.is_empty() => match permit {
                    Ok(permit) => {
                        if let Some(frame) = self.frames.take() {
                            permit.send(frame);
                        }
                    }
                    Err(_) => return self.lost(&Status::unavailable("the connection was closed")),
                },
                () = &mut timer => {}
            }
        }
    }

    /// Waits before a dial; the work goes on meanwhile.
    async fn wait(&mut self, after: Duration) -> Next {
        let revived = self.signals.revived.clone();
        let over = async {
            let _ = timeout(after, revived.notified()).await;
        };
        match self.while_turning(over).await {
            Ok(()) => Next::Dial { after: Duration::ZERO },
            Err(next) => next,
        }
    }

    /// Lets the agent go on while something else is awaited. `Err` when it wants to dial anew or to end.
    async fn while_turning<T>(&mut self, future: impl Future<Output = T>) -> Result<T, Next> {
        let mut future = std::pin::pin!(future);
        let mut timer = Box::pin(sleep_until(Instant::now()));
        let handle = self.handle.clone();
        loop {
            self.turn();
            if let Some(next) = self.next.take() {
                return Err(next);
            }
            self.set(timer.as_mut());
            tokio::select! {
                value = &mut future => return Ok(value),
                () = handle.arrived() => {}
                () = &mut timer => {}
            }
        }
    }

    fn set(&self, timer: std::pin::Pin<&mut Sleep>) {
        // A second when nothing is due: the timer has to stand somewhere.
        let wait = match self.agent.next_due() {
            Some(due) => due.since(self.clock.now()).max(Duration::from_millis(1)),
            None => Duration::from_secs(1),
        };
        timer.reset(Instant::now() + wait);
    }

    fn lost(&mut self, status: &Status) -> Next {
        if let Some(seat) = self.seat.take() {
            seat.ended(status);
        }
        if is_turned_away(status) {
            self.signals.suspected.notify_one();
        }
        self.agent.stream_lost(self.clock.now());
        self.act(self.clock.now());
        let next = self.next.take().unwrap_or(Next::Dial { after: Duration::from_secs(1) });
        if let Next::Dial { after } = &next {
            let retry_in_ms = after.as_millis() as u64;
            warn!(code = ?status.code(), error = status.message(), retry_in_ms, "stream lost");
        }
        next
    }

    /// Reads a frame into the agent; an adapter that answers at once is answered for at once.
    fn take(&mut self, frame: &Bytes) -> Result<(), super::protobuf::Malformed> {
        let now = self.clock.now();
        let mut number = self.expected;
        let mut error = None;
        let mut events = decode::Events::default();
        let (first, count) = decode::frame(frame, |message| {
            if error.is_none() {
                error = self.take_message(frame, message, &mut events, number, now).err();
                number += 1;
            }
        })?;
        if let Some(error) = error {
            return Err(error);
        }
        if first != self.expected {
            let expected = self.expected;
            return Err(super::protobuf::Malformed(format!("message {first} came instead of {expected}")));
        }
        self.expected += count;
        Ok(())
    }

    fn take_message<'a>(
        &mut self,
        frame: &'a Bytes,
        message: &'a [u8],
        events: &mut decode::Events<'a>,
        number: u64,
        now: Timestamp,
    ) -> Result<(), super::protobuf::Malformed> {
        let agent = &mut self.agent;
        match decode::message(frame, message, events, |name| agent.general(name))? {
            Read::Core(message) => {
                agent.received(number, message, now);
                self.act(now);
            }
            Read::Granted { extended, delivery, token, ceilings } => {
                agent.received(number, extended, now);
                self.adapter.granted(delivery, token, ceilings);
                self.act(now);
            }
            Read::Welcome { welcome, inline_max } => {
                info!(session = %welcome.session, inline_max, claims = welcome.verdicts.len(), "stream welcomed");
                agent.received(number, Down::Welcome(welcome), now);
                self.act(now);
            }
            Read::Refuse { delivery, token, reason } => {
                agent.refuse(delivery, token, &reason, now);
                self.act(now);
            }
            Read::Configure { version } => {
                let error = "this agent has nothing to configure".to_owned();
                let configured = proto::Configured { version, error, digest: String::new() };
                self.frames.put_other(AgentMessage::Configured(configured));
            }
            Read::Call { id } => {
                let unimplemented = mindos_proto::rpc::Status::new(12, "no such capability");
                let reply =
                    proto::Reply { call_id: id, end: true, error: Some(unimplemented), ..proto::Reply::default() };
                self.frames.put_other(AgentMessage::Reply(reply));
            }
            Read::Unknown => debug!(number, "unknown message skipped"),
        }
        Ok(())
    }

    /// One turn: what came from elsewhere, what is due, what there is to do.
    fn turn(&mut self) {
        let now = self.clock.now();
        let mut inbox = std::mem::take(&mut self.inbox);
        self.handle.swap(&mut inbox);
        for (general, ready) in std::mem::take(&mut inbox.ready) {
            self.agent.ready(general, ready);
        }
        self.models.append(&mut inbox.models);
        for ((delivery, token), progress) in std::mem::take(&mut inbox.progress) {
            self.agent.progressed(delivery, token, progress, now);
        }
        for (delivery, token, finish) in inbox.finished.drain(..) {
            self.agent.general_finished(delivery, token, finish, now);
        }
        if let Some(grace) = inbox.drain.take() {
            self.agent.drain(now, grace);
        }
        self.inbox = inbox;
        self.act(now);
        self.agent.tick(now);
        self.act(now);
    }

    /// Carries out what the agent asks for.
    fn act(&mut self, now: Timestamp) {
        let mut actions = std::mem::take(&mut self.actions);
        loop {
            self.agent.take_actions(&mut actions);
            if actions.is_empty() {
                break;
            }
            for action in actions.drain(..) {
                match action {
                    Action::Send(message) => self.pending.push_back(message),
                    Action::Start { general, delivery, token, work } => {
                        let start = Start { general, delivery, token, assignment: work };
                        if let Some(finish) = self.adapter.start(start) {
                            self.agent.general_finished(delivery, token, finish, now);
                        }
                    }
                    Action::Stop { delivery, token, grace } => self.adapter.stop(delivery, token, grace),
                    // Nothing calls an exit back.
                    Action::Reconnect { .. } if matches!(self.next, Some(Next::Exit)) => {}
                    Action::Reconnect { after } => self.next = Some(Next::Dial { after }),
                    Action::Exit => self.next = Some(Next::Exit),
                }
            }
        }
        self.actions = actions;
    }

    /// Frames and sends as much as the connection takes now.
    fn flush(&mut self, sender: &mpsc::Sender<Bytes>) -> Result<(), Status> {
        loop {
            self.frame_pending();
            if self.frames.is_empty() {
                return Ok(());
            }
            match sender.try_reserve() {
                Ok(permit) => {
                    if let Some(frame) = self.frames.take() {
                        permit.send(frame);
                    }
                }
                Err(mpsc::error::TrySendError::Full(())) if self.pending.len() > PENDING_MAX => {
                    return Err(Status::resource_exhausted("the control plane does not read"));
                }
                Err(mpsc::error::TrySendError::Full(())) => return Ok(()),
                Err(mpsc::error::TrySendError::Closed(())) => {
                    return Err(Status::unavailable("the connection was closed"));
                }
            }
        }
    }

    /// Fills the open frame.
    fn frame_pending(&mut self) {
        let sender = Sender { config: self.agent.config(), identity: &self.identity };
        while !self.frames.is_full()
            && let Some(message) = self.pending.pop_front()
        {
            match message {
                Up::Heartbeat { loads, leases } => {
                    let models = std::mem::take(&mut self.models);
                    self.frames.put_other(encode::heartbeat(loads, leases, models, sender));
                }
                message => self.frames.put(message, sender),
            }
        }
    }

    /// Sends all that there is, before the stream is half-closed.
    async fn flush_all(&mut self, sender: &mpsc::Sender<Bytes>) {
        let all = async {
            loop {
                self.frame_pending();
                let Some(frame) = self.frames.take() else { return };
                if sender.send(frame).await.is_err() {
                    return;
                }
            }
        };
        if timeout(CLOSE_MAX, all).await.is_err() {
            debug!("control plane did not take the last messages");
        }
    }
}

async fn open(channel: Channel, frames: mpsc::Receiver<Bytes>) -> Result<Streaming<Bytes>, Status> {
    let mut client = tonic::client::Grpc::new(channel).max_decoding_message_size(FRAME_MAX);
    client.ready().await.map_err(|error| Status::unavailable(crate::error::chain(&error)))?;
    let path = PathAndQuery::from_static("/mindos.agent.v1.AgentService/Connect");
    let request = Request::new(ReceiverStream::new(frames));
    Ok(client.streaming(request, path, FrameCodec).await?.into_inner())
}
