//! Listening: one loop for each port, HTTP/1.1 and HTTP/2 on the same socket, in TLS or in the clear, bounds on everything a peer
//! can hold.
//!
//! ```text
//!   accept -> doorkeeper -> handshake -> frames counted -> HTTP -> bodies in, bodies out
//!               |  who goes when it is full   |  floods         |  in their time, and taken by the peer
//!   on the porch, until somebody is let in: from there on inside
//! ```
//! Invariant: a connection that was accepted is counted until it is gone, and ends within the grace period once the server
//! drains. Nothing is accepted slower because somebody shakes hands slowly.

pub mod background;
pub mod doorkeeper;
pub mod frames;
pub mod handshakes;
mod inbound;
mod outbound;
pub mod porch;
#[cfg(test)]
mod porch_tests;
mod stranger;
mod watched;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::{Body, HttpBody};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tower::ServiceExt;
use tracing::{debug, error, warn};

use self::doorkeeper::{Doorkeeper, Ended, Visit};
use self::frames::Flood;
use self::handshakes::Handshakes;
use self::inbound::{Form, Inbound};
use self::outbound::Outbound;
use self::porch::{Moves, Outside, Tasks};
use self::stranger::Standing;
pub(crate) use self::stranger::Undecided;
use self::watched::{Seen, Watched};
use crate::limits::Limits;
use crate::tls::accept::PortTls;
use crate::tls::identity::AgentIdentity;

/// What a stream may have in flight before its receiver takes it: long fat links need much.
const STREAM_WINDOW: u32 = 16 << 20;
/// What all streams of a connection may have in flight together.
const CONNECTION_WINDOW: u32 = 32 << 20;
/// Largest frame of HTTP/2: fewer of them for large payloads.
const FRAME_MAX: u32 = 256 << 10;
/// What a stream may have written and not sent.
const SEND_BUFFER: usize = 512 << 10;
/// Bodies above this are read and answered where it costs nobody else time.
const LARGE: u64 = 32 << 10;
/// All headers of a request together.
const HEADERS_MAX: u32 = 32 << 10;
/// Streams of a connection at a time.
const STREAMS_MAX: u32 = 4096;
/// Streams that a peer may make this side reset before its connection is ended.
const LOCAL_RESETS_MAX: usize = 256;
/// Streams that were reset before anybody looked at them, at a time.
const PENDING_RESETS_MAX: usize = 64;
/// Between two looks at a connection; shorter where its times are.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// What a peer has to take of what waits for it, within the time for that.
const TAKEN_MIN: u64 = 16 << 10;
/// How long a connection that was asked to end may take.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long whoever was dismissed may take to read the last answers.
const DISMISS_TIMEOUT: Duration = Duration::from_millis(500);
/// Tasks of connections beyond those that are let in: some that gave way are still on their way out.
const LEAVING_MAX: usize = 4096;
/// When a silent peer is asked whether it is there, and how long it may take to say so.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long accepting rests after the system had no socket to give.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A connection as its requests see it.
#[derive(Clone, Debug)]
pub struct Connection {
    pub peer: SocketAddr,
    /// The agent at the other end, where it showed a certificate.
    pub identity: Option<Arc<AgentIdentity>>,
    ends: Arc<Ends>,
    standing: Arc<Standing>,
}

/// Ways to end a connection from here.
#[derive(Debug, Default)]
struct Ends {
    cut: Notify,
    leave: Notify,
    dismissed: AtomicBool,
}

impl From<SocketAddr> for Connection {
    /// One that nobody serves, for requests that come by no socket.
    fn from(peer: SocketAddr) -> Connection {
        Connection { peer, identity: None, ends: Arc::default(), standing: Arc::default() }
    }
}

impl Connection {
    /// Ends the connection at once, with all its streams.
    pub fn cut(&self) {
        self.ends.cut.notify_one();
    }

    /// Somebody on it was let in: from here on it is read as fast as it comes, and served inside.
    pub async fn let_in(&self) {
        self.standing.let_in();
        if porch::here() != self.standing.place() {
            // The next turn is there.
            tokio::task::yield_now().await;
        }
    }

    #[cfg(test)]
    pub(crate) fn is_let_in(&self) -> bool {
        self.standing.is_known()
    }

    /// Somebody on it takes more than they may: it is served on the porch for a moment, behind the others.
    pub fn set_back(&self) {
        self.standing.set_back();
    }

    /// Nobody on it takes more than they may: it is inside again when its moment on the porch is over.
    pub fn come_forward(&self) {
        self.standing.let_in();
    }

    /// Somebody on it is not who they say they are. Who is so again and again is heard no more.
    pub fn refuse(&self) {
        if self.standing.refuse() {
            self.dismiss();
        }
    }

    /// As [`Self::leave`], and cuts it a moment later: for whoever would go on regardless.
    pub fn dismiss(&self) {
        if self.ends.dismissed.swap(true, Ordering::Relaxed) {
            return;
        }
        self.leave();
        let ends = Arc::clone(&self.ends);
        tokio::spawn(async move {
            tokio::time::sleep(DISMISS_TIMEOUT).await;
            ends.cut.notify_one();
        });
    }

    /// Takes no more streams on the connection and ends it with the last of them, so that its peer dials again.
    pub fn leave(&self) {
        self.ends.leave.notify_one();
    }
}

/// What all ports share.
#[derive(Clone, Debug)]
pub struct Doors {
    pub keeper: Arc<Doorkeeper>,
    pub outside: Outside,
    pub handshakes: Arc<Handshakes>,
    /// In force, now and after every change.
    pub limits: Arc<ArcSwap<Limits>>,
}

/// A port with what answers there.
pub struct Port {
    pub listener: TcpListener,
    pub grpc: Router,
    /// What is not gRPC goes here.
    pub http: Option<Router>,
    /// Tasks of connections at a time.
    pub connections_max: usize,
    /// Unset is in the clear.
    pub tls: Option<PortTls>,
    pub doors: Doors,
    /// Whether callers have to say who they are; else nobody is a stranger.
    pub asks: bool,
    /// Where whoever was let in is served.
    pub inside: Handle,
}

impl Port {
    /// Serves until `drain` turns true and all connections are gone. To be run on the porch.
    pub async fn serve(self, mut drain: watch::Receiver<bool>) {
        let Port { listener, grpc, http, connections_max, tls, doors, asks, inside } = self;
        let Some(listener) = told_here(listener) else { return };
        let answers = Answers { grpc, http };
        let most = connections_max.saturating_add(LEAVING_MAX).min(Semaphore::MAX_PERMITS);
        let connections = Arc::new(Semaphore::new(most));
        loop {
            let accepted = tokio::select! {
                accepted = accept(&listener, &connections, &doors.keeper) => accepted,
                _ = drain.wait_for(|draining| *draining) => break,
            };
            background::give_way();
            let Some((stream, peer, permit)) = accepted else { continue };
            let limits = doors.limits.load_full();
            // Whoever is not let in is closed without a word: that costs the least.
            let Ok(visit) = doors.keeper.admit(peer.ip(), &limits, Instant::now()) else {
                let _ = stream.set_zero_linger();
                continue;
            };
            let standing = Arc::new(Standing::default());
            if !asks {
                standing.let_in();
            }
            let tasks =
                Tasks { standing: Arc::clone(&standing), outside: doors.outside.clone(), inside: inside.clone() };
            let serving = Serving {
                visit,
                limits,
                answers: answers.clone(),
                keeper: Arc::clone(&doors.keeper),
                tasks: tasks.clone(),
            };
            let connection = Connection { standing, ..Connection::from(peer) };
            let (tls, handshakes, drain) = (tls.clone(), Arc::clone(&doors.handshakes), drain.clone());
            tasks.execute(async move {
                if let Err(error) = stream.set_nodelay(true) {
                    debug!(%error, %peer, "TCP_NODELAY was not set");
                }
                match tls {
                    None => serving.serve(stream, connection, drain, None).await,
                    Some(tls) => {
                        if let Some((stream, identity)) = serving.shaken(&handshakes, &tls, stream, peer, &drain).await
                        {
                            let connection = Connection { identity, ..connection };
                            if connection.identity.is_some() {
                                connection.let_in().await;
                            }
                            let standing = tls.enter(&connection);
                            let until = standing.as_ref().map(|(_, until)| *until);
                            serving.serve(stream, connection, drain, until).await;
                            drop(standing);
                        }
                    }
                }
                drop(permit);
            });
        }
        drop(listener);
        // All permits back: all connections gone. The caller has the timer.
        let all = u32::try_from(most).unwrap_or(u32::MAX);
        let _ = connections.acquire_many(all).await;
    }
}

/// The listener, so that the thread that runs this is told of who comes.
fn told_here(listener: TcpListener) -> Option<TcpListener> {
    let moved = listener.into_std().and_then(TcpListener::from_std);
    moved.inspect_err(|error| error!(%error, "a port is closed, because it cannot be listened on")).ok()
}

/// Who answers what on a port.
#[derive(Clone)]
struct Answers {
    grpc: Router,
    http: Option<Router>,
}

impl Answers {
    fn of(&self, is_grpc: bool) -> &Router {
        match &self.http {
            Some(http) if !is_grpc => http,
            _ => &self.grpc,
        }
    }
}

fn is_grpc(request: &Request<Incoming>) -> bool {
    let content_type = request.headers().get(http::header::CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// Whether the body of a request is one whole and takes long to read, or may.
fn is_large(is_grpc: bool, request: &Request<Body>) -> bool {
    let size = request.body().size_hint();
    !is_grpc && size.upper().is_none_or(|most| most > LARGE)
}

fn builder(limits: &Limits, tasks: Tasks) -> auto::Builder<Tasks> {
    let mut builder = auto::Builder::new(tasks);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.headers_timeout)
        .max_buf_size(HEADERS_MAX as usize * 2);
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_MAX)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(HEADERS_MAX)
        .max_concurrent_streams(STREAMS_MAX)
        .max_local_error_reset_streams(LOCAL_RESETS_MAX)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT);
    builder
}

async fn accept(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
    keeper: &Doorkeeper,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let permit = Arc::clone(connections).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => Some((stream, peer, permit)),
        Err(error) => {
            // Mostly there are no more files: somebody idle gives theirs back.
            let made_room = keeper.make_room();
            warn!(%error, made_room, "connection was not accepted");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

/// What serves one connection.
struct Serving {
    visit: Visit,
    limits: Arc<Limits>,
    answers: Answers,
    keeper: Arc<Doorkeeper>,
    tasks: Tasks,
}

impl Serving {
    /// A connection after its handshake; `None` when there was none, or the server drains.
    async fn shaken(
        &self,
        handshakes: &Handshakes,
        tls: &PortTls,
        stream: TcpStream,
        peer: SocketAddr,
        drain: &watch::Receiver<bool>,
    ) -> Option<handshakes::Shaken> {
        let mut drain = drain.clone();
        let Limits { handshakes: most, handshake_timeout, .. } = *self.limits;
        tokio::select! {
            shaken = handshakes.shake(tls, stream, peer, most, handshake_timeout) => match shaken {
                Ok(shaken) => shaken,
                Err(handshakes::Late) => {
                    self.keeper.count(Ended::Handshake);
                    None
                }
            },
            () = self.visit.visitor.evicted() => None,
            _ = drain.wait_for(|draining| *draining) => None,
        }
    }

    async fn serve<S: AsyncRead + AsyncWrite + Moves + Unpin + Send + 'static>(
        self,
        stream: S,
        connection: Connection,
        mut drain: watch::Receiver<bool>,
        until: Option<tokio::time::Instant>,
    ) {
        let Serving { visit, limits, answers, keeper, tasks } = self;
        let (peer, ends) = (connection.peer, Arc::clone(&connection.ends));
        let agent = connection.identity.as_ref().map(|agent| agent.key);
        if agent.is_some_and(|agent| keeper.is_punished(&agent, Instant::now())) {
            return;
        }
        let standing = Arc::clone(&connection.standing);
        if agent.is_some() {
            visit.identified();
        }
        let of_stranger = Arc::clone(&standing);
        let seen = Arc::new(Seen::new(limits.streams_per_second, limits.resets_per_second));
        let visitor = Arc::clone(&visit.visitor);
        let (body_timeout, memory_max, counts) = (limits.body_timeout, limits.reading_memory, Arc::clone(&keeper));
        let service = service_fn(move |mut request: Request<Incoming>| {
            if let Some(undecided) = Undecided::begin(&of_stranger) {
                request.extensions_mut().insert(undecided);
            }
            request.extensions_mut().insert(connection.clone());
            let is_grpc = is_grpc(&request);
            let router = answers.of(is_grpc).clone();
            let form = Form::of(is_grpc, request.uri().path());
            visitor.enter();
            let entered = Entered(Some(Arc::clone(&visitor)));
            let (of_request, counts) = (Arc::clone(&visitor), Arc::clone(&counts));
            let request =
                request.map(|body| Body::new(Inbound::new(body, form, of_request, counts, body_timeout, memory_max)));
            let large = is_large(is_grpc, &request).then(|| of_stranger.begin_large());
            async move {
                if large.is_some() {
                    // The next turn is where large bodies are read.
                    tokio::task::yield_now().await;
                }
                let answer: Result<Response<Body>, std::convert::Infallible> = router.oneshot(request).await;
                drop(large);
                answer.map(|answer| answer.map(|body| Outbound::new(body, entered.pass_on())))
            }
        });
        let watched = Watched::new(stream, Arc::clone(&seen), standing);
        let builder = builder(&limits, tasks);
        let served = builder.serve_connection(TokioIo::new(watched), service);
        tokio::pin!(served);
        let mut watch = Watch::new(&limits, Instant::now());
        let mut look = tokio::time::interval(watch.interval);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut leaving: Option<Instant> = None;
        let aged = async {
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(aged);
        loop {
            tokio::select! {
                ended = served.as_mut() => {
                    let of_http = || ended.as_ref().err().and_then(|error| Flood::of(&**error));
                    if let Some(flood) = seen.flood().or_else(of_http) {
                        keeper.punish(peer.ip(), agent, flood, limits.penalty, Instant::now());
                        debug!(%peer, %flood, "connection was ended");
                    } else if let Err(error) = ended {
                        debug!(error, %peer, "connection ended");
                    }
                    return;
                }
                () = ends.cut.notified() => {
                    debug!(%peer, "connection was cut");
                    return;
                }
                () = aged.as_mut() => {
                    debug!(%peer, "connection has reached its age");
                    return;
                }
                () = visit.visitor.evicted() => {
                    debug!(%peer, "connection gave way");
                    return;
                }
                _ = look.tick() => {
                    let now = Instant::now();
                    if leaving.is_some_and(|since| now - since >= LEAVE_TIMEOUT && visit.visitor.is_idle()) {
                        return;
                    }
                    let Some(ended) = watch.look(&visit, &seen, now).filter(|_| leaving.is_none()) else { continue };
                    keeper.count(ended);
                    debug!(%peer, ?ended, "connection is ended");
                    // Whoever is only idle is told; the others would not listen.
                    if ended != Ended::Idle || !seen.look().1 {
                        return;
                    }
                    leaving = Some(now);
                    served.as_mut().graceful_shutdown();
                }
                () = ends.leave.notified(), if leaving.is_none() => {
                    leaving = Some(Instant::now());
                    served.as_mut().graceful_shutdown();
                }
                _ = drain.wait_for(|draining| *draining), if leaving.is_none() => {
                    leaving = Some(Instant::now());
                    served.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

/// A request that was entered and has no answer yet: it leaves when it is given up.
struct Entered(Option<Arc<doorkeeper::Visitor>>);

impl Entered {
    /// From here on the body of the answer has to leave.
    fn pass_on(mut self) -> Arc<doorkeeper::Visitor> {
        self.0.take().unwrap_or_default()
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        if let Some(visitor) = &self.0 {
            visitor.leave();
        }
    }
}

/// What was seen of a connection at the last look.
struct Watch {
    limits: Arc<Limits>,
    interval: Duration,
    asked: u64,
    idle_since: Instant,
    /// Since when something waits for the peer, and what had been sent then.
    waits: Option<(Instant, u64)>,
}

impl Watch {
    fn new(limits: &Arc<Limits>, now: Instant) -> Watch {
        let shortest = limits.headers_timeout.min(limits.idle_timeout).min(limits.write_timeout);
        let interval = (shortest / 4).clamp(Duration::from_millis(25), LOOK_INTERVAL);
        Watch { limits: Arc::clone(limits), interval, asked: 0, idle_since: now, waits: None }
    }

    /// Says why the connection is to end, if it is.
    fn look(&mut self, visit: &Visit, seen: &Seen, now: Instant) -> Option<Ended> {
        let visitor = &visit.visitor;
        let asked = visitor.asked.load(Ordering::Relaxed);
        if asked != self.asked || !visitor.is_idle() {
            (self.asked, self.idle_since) = (asked, now);
        }
        let (block_since, has_begun) = seen.look();
        let Limits { headers_timeout, idle_timeout, write_timeout, .. } = *self.limits;
        if block_since.is_some_and(|since| now.saturating_duration_since(since) >= headers_timeout) {
            return Some(Ended::Headers);
        }
        let idle_max = if has_begun { idle_timeout } else { headers_timeout };
        if now - self.idle_since >= idle_max {
            return Some(Ended::Idle);
        }
        let sent = visitor.sent.load(Ordering::Relaxed);
        self.waits = match self.waits {
            _ if !visitor.waits() => None,
            None => Some((now, sent)),
            Some((since, before)) if now - since >= write_timeout => {
                if sent - before < TAKEN_MIN {
                    return Some(Ended::Unread);
                }
                Some((now, sent))
            }
            waits => waits,
        };
        None
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const ASK: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";

    /// Serves one end of a pipe; the other end, with the connection as its requests see it.
    fn serving(until: Option<tokio::time::Instant>) -> (tokio::io::DuplexStream, Connection, watch::Sender<bool>) {
        let (ours, theirs) = tokio::io::duplex(4096);
        let connection = Connection::from(SocketAddr::from(([127, 0, 0, 1], 7)));
        let router = Router::new().route("/", get(async || "yes"));
        let answers = Answers { grpc: router.clone(), http: Some(router) };
        let (keeper, limits) = (Arc::new(Doorkeeper::new(16)), Arc::new(Limits::default()));
        let visit = keeper.admit(connection.peer.ip(), &limits, Instant::now()).unwrap();
        let here = Handle::current();
        let outside = Outside::start().unwrap();
        let tasks = Tasks { standing: Arc::clone(&connection.standing), outside, inside: here };
        let serving = Serving { visit, limits, answers, keeper, tasks };
        let (drain, draining) = watch::channel(false);
        let served = connection.clone();
        tokio::spawn(serving.serve(ours, served, draining, until));
        (theirs, connection, drain)
    }

    async fn answer(stream: &mut tokio::io::DuplexStream) -> String {
        stream.write_all(ASK).await.unwrap();
        let mut bytes = [0; 4096];
        let length = stream.read(&mut bytes).await.unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    #[tokio::test]
    async fn a_connection_ends_with_its_age() {
        let until = tokio::time::Instant::now() + Duration::from_millis(300);
        let (mut stream, _connection, _drain) = serving(Some(until));
        assert!(answer(&mut stream).await.ends_with("yes"));
        assert_eq!(stream.read(&mut [0; 16]).await.unwrap(), 0);
        assert!(tokio::time::Instant::now() >= until);
    }

    #[tokio::test]
    async fn a_connection_without_an_age_stands_until_it_is_cut_or_told_to_leave() {
        for end in [Connection::cut, Connection::leave] {
            let (mut stream, connection, _drain) = serving(None);
            assert!(answer(&mut stream).await.ends_with("yes"));
            end(&connection);
            assert_eq!(stream.read(&mut [0; 16]).await.unwrap(), 0);
        }
    }
}
