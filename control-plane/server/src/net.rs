//! Listening: one loop for each port, HTTP/1.1 and HTTP/2 on the same socket, in TLS or in the clear, bounds on everything a peer
//! can hold.
//!
//! Invariant: a connection that was accepted is counted until it is gone, and ends within the grace period once the server
//! drains. Nothing is accepted slower because somebody shakes hands slowly.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;
use tokio_rustls::server::TlsStream;
use tower::ServiceExt;
use tracing::{debug, warn};

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
/// All headers of a request together.
const HEADERS_MAX: u32 = 32 << 10;
/// Streams of a connection at a time.
const STREAMS_MAX: u32 = 4096;
/// How long the headers of an HTTP/1.1 request may take.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(10);
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
}

/// Ways to end a connection from here.
#[derive(Debug, Default)]
struct Ends {
    cut: Notify,
    leave: Notify,
}

impl From<SocketAddr> for Connection {
    /// One that nobody serves, for requests that come by no socket.
    fn from(peer: SocketAddr) -> Connection {
        Connection { peer, identity: None, ends: Arc::default() }
    }
}

impl Connection {
    /// Ends the connection at once, with all its streams.
    pub fn cut(&self) {
        self.ends.cut.notify_one();
    }

    /// Takes no more streams on the connection and ends it with the last of them, so that its peer dials again.
    pub fn leave(&self) {
        self.ends.leave.notify_one();
    }
}

/// A port with what answers there.
pub struct Port {
    pub listener: TcpListener,
    pub grpc: Router,
    /// What is not gRPC goes here.
    pub http: Option<Router>,
    /// Further connections wait to be accepted.
    pub connections_max: usize,
    /// Unset is in the clear.
    pub tls: Option<PortTls>,
}

impl Port {
    /// Serves until `drain` turns true and all connections are gone.
    pub async fn serve(self, mut drain: watch::Receiver<bool>) {
        let Port { listener, grpc, http, connections_max, tls } = self;
        let answers = Answers { grpc, http };
        let connections = Arc::new(Semaphore::new(connections_max));
        let builder = Arc::new(builder());
        loop {
            let accepted = tokio::select! {
                accepted = accept(&listener, &connections) => accepted,
                _ = drain.wait_for(|draining| *draining) => break,
            };
            let Some((stream, peer, permit)) = accepted else { continue };
            let (builder, answers, drain) = (Arc::clone(&builder), answers.clone(), drain.clone());
            let tls = tls.clone();
            tokio::spawn(async move {
                if let Err(error) = stream.set_nodelay(true) {
                    debug!(%error, %peer, "TCP_NODELAY was not set");
                }
                match tls {
                    None => serve(&builder, stream, Connection::from(peer), answers, drain, None).await,
                    Some(tls) => {
                        if let Some((stream, identity)) = shaken(&tls, stream, peer, drain.clone()).await {
                            let connection = Connection { identity, ..Connection::from(peer) };
                            let standing = tls.enter(&connection);
                            let until = standing.as_ref().map(|(_, until)| *until);
                            serve(&builder, stream, connection, answers, drain, until).await;
                            drop(standing);
                        }
                    }
                }
                drop(permit);
            });
        }
        drop(listener);
        // All permits back: all connections gone. The caller has the timer.
        let all = u32::try_from(connections_max).unwrap_or(u32::MAX);
        let _ = connections.acquire_many(all).await;
    }
}

/// Who answers what on a port.
#[derive(Clone)]
struct Answers {
    grpc: Router,
    http: Option<Router>,
}

impl Answers {
    fn of(&self, request: &Request<Incoming>) -> &Router {
        let content_type = request.headers().get(http::header::CONTENT_TYPE);
        let is_grpc = content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
        match &self.http {
            Some(http) if !is_grpc => http,
            _ => &self.grpc,
        }
    }
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_TIMEOUT)
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
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT);
    builder
}

async fn accept(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let permit = Arc::clone(connections).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => Some((stream, peer, permit)),
        Err(error) => {
            warn!(%error, "connection was not accepted");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

/// A connection after its handshake; `None` when there was none, or the server drains.
async fn shaken(
    tls: &PortTls,
    stream: TcpStream,
    peer: SocketAddr,
    mut drain: watch::Receiver<bool>,
) -> Option<(TlsStream<TcpStream>, Option<Arc<AgentIdentity>>)> {
    tokio::select! {
        shaken = tls.accept(stream, peer) => shaken,
        _ = drain.wait_for(|draining| *draining) => None,
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    builder: &auto::Builder<TokioExecutor>,
    stream: S,
    connection: Connection,
    answers: Answers,
    mut drain: watch::Receiver<bool>,
    until: Option<Instant>,
) {
    let (peer, ends) = (connection.peer, Arc::clone(&connection.ends));
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(connection.clone());
        let router = answers.of(&request).clone();
        router.oneshot(request.map(axum::body::Body::new))
    });
    let served = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(served);
    let mut leaving = false;
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
                if let Err(error) = ended {
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
            () = ends.leave.notified(), if !leaving => {
                leaving = true;
                served.as_mut().graceful_shutdown();
            }
            _ = drain.wait_for(|draining| *draining), if !leaving => {
                leaving = true;
                served.as_mut().graceful_shutdown();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const ASK: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";

    /// Serves one end of a pipe; the other end, with the connection as its requests see it.
    fn serving(until: Option<Instant>) -> (tokio::io::DuplexStream, Connection, watch::Sender<bool>) {
        let (ours, theirs) = tokio::io::duplex(4096);
        let connection = Connection::from(SocketAddr::from(([127, 0, 0, 1], 7)));
        let router = Router::new().route("/", get(async || "yes"));
        let answers = Answers { grpc: router.clone(), http: Some(router) };
        let (drain, draining) = watch::channel(false);
        let served = connection.clone();
        tokio::spawn(async move { serve(&builder(), ours, served, answers, draining, until).await });
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
        let until = Instant::now() + Duration::from_millis(300);
        let (mut stream, _connection, _drain) = serving(Some(until));
        assert!(answer(&mut stream).await.ends_with("yes"));
        assert_eq!(stream.read(&mut [0; 16]).await.unwrap(), 0);
        assert!(Instant::now() >= until);
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
