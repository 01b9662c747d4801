//! The webhook's port and that of the probes.
//!
//! | port | path | answer |
//! |---|---|---|
//! | HTTPS | `POST /inject` | the AdmissionReview with a response, or 400 and why |
//! | HTTP | `GET /healthz` | 200 for as long as the process answers |
//! | HTTP | `GET /readyz` | 200, or 503 and what is missing |
//! | HTTP | `GET /metrics` | counts |
//!
//! Invariant: every request is bounded in size and time, and all bodies together in size; nothing that a peer sends ends more than its own connection.

use std::convert::Infallible;
use std::future::ready;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info, warn};

use super::answer::answer;
use super::certificate::{CertificateError, Pair};
use super::connections::{Connections, Place};
use super::decide::{Decision, Entropy, decide};
use super::metrics::{Metrics, Outcome};
use super::review::Review;
use super::server_version::ServerVersion;
use super::settings::Settings;

/// Bytes of a body. An API server takes objects of at most 3 MiB itself.
const BODY_MAX: usize = 3 << 20;
/// KiB of bodies that are read and worked on at a time.
const BODIES_MAX: usize = 2 * (BODY_MAX >> 10) + 512;
/// How long a body may take.
const BODY_TIME: Duration = Duration::from_secs(5);
/// How long a request may wait for its turn.
const TURN_TIME: Duration = Duration::from_secs(3);
const HANDSHAKE_TIME: Duration = Duration::from_secs(5);
/// How long a connection may be idle: longer than API servers keep one (90 s), so that none is closed as it is taken again.
const IDLE_TIME: Duration = Duration::from_secs(120);
/// Connections of the webhook's port.
pub(super) const CONNECTIONS_MAX: usize = 1024;
/// Connections of the port of probes.
pub(super) const PROBES_MAX: usize = 64;
/// How long what is under way may take when the process ends.
const END_TIME: Duration = Duration::from_secs(5);

/// The certificate in force.
#[derive(Debug, Default)]
pub(super) struct InForce {
    key: RwLock<Option<Arc<CertifiedKey>>>,
    chain: RwLock<String>,
    not_after: AtomicU64,
}

impl InForce {
    /// Puts a pair in force, if it is not.
    pub(super) fn set(&self, pair: &Pair) -> Result<(), CertificateError> {
        let mut chain = self.chain.write().unwrap_or_else(PoisonError::into_inner);
        if *chain != pair.chain {
            self.put(pair.certified()?, pair.not_after);
            chain.clone_from(&pair.chain);
            info!(not_after = pair.not_after, "certificate is in force");
        }
        Ok(())
    }

    pub(super) fn put(&self, key: CertifiedKey, not_after: u64) {
        *self.key.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(key));
        self.not_after.store(not_after, Ordering::Relaxed);
    }

    fn get(&self) -> Option<Arc<CertifiedKey>> {
        self.key.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn not_after(&self) -> u64 {
        self.not_after.load(Ordering::Relaxed)
    }
}

impl ResolvesServerCert for InForce {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.get()
    }
}

/// What all requests share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) in_force: Arc<InForce>,
    pub(super) metrics: Arc<Metrics>,
    /// Minor version of the API server in the lower half, major in the upper; 0 while it is not known.
    version: AtomicU32,
    /// Namespaces with an injected pod, for who keeps up the roots there.
    pub(super) injected: Option<mpsc::Sender<String>>,
    pub(super) connections: Arc<Connections>,
    pub(super) keeps_certificate: bool,
    bodies: Semaphore,
    ending: AtomicBool,
}

impl Shared {
    pub(super) fn new(
        settings: Settings,
        in_force: Arc<InForce>,
        metrics: Arc<Metrics>,
        injected: Option<mpsc::Sender<String>>,
        keeps_certificate: bool,
    ) -> Shared {
        Shared {
            settings,
            in_force,
            metrics,
            version: AtomicU32::new(0),
            injected,
            connections: Connections::new(CONNECTIONS_MAX),
            keeps_certificate,
            bodies: Semaphore::new(BODIES_MAX),
            ending: AtomicBool::new(false),
        }
    }

    pub(super) fn set_version(&self, version: ServerVersion) {
        let half = |number: u32| number.min(0xffff);
        self.version.store(half(version.major) << 16 | half(version.minor), Ordering::Relaxed);
    }

    pub(super) fn version(&self) -> Option<ServerVersion> {
        match self.version.load(Ordering::Relaxed) {
            0 => None,
            both => Some(ServerVersion { major: both >> 16, minor: both & 0xffff }),
        }
    }

    /// From here on no new work is to come.
    pub(super) fn end(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }

    /// What is missing, if anything is.
    fn lacks(&self) -> Option<&'static str> {
        if self.ending.load(Ordering::Relaxed) {
            return Some("ending");
        }
        if self.in_force.get().is_none() {
            return Some("no certificate yet: see the log");
        }
        self.version().is_none().then_some("version of the API server is not known yet")
    }
}

type Answer = Response<Full<Bytes>>;

/// Serves the webhook until `ends`, and then what is under way.
pub(super) async fn webhook(listener: TcpListener, shared: Arc<Shared>, ends: watch::Receiver<bool>) {
    let mut config =
        ServerConfig::builder().with_no_client_auth().with_cert_resolver(Arc::clone(&shared.in_force) as _);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let connections = Arc::clone(&shared.connections);
    accept(listener, connections, Some(&*shared.metrics), &ends, |stream, place| {
        let (acceptor, shared, ends) = (acceptor.clone(), Arc::clone(&shared), ends.clone());
        async move {
            match timeout(HANDSHAKE_TIME, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => talk(stream, place, ends, |request| review(request, &shared)).await,
                Ok(Err(error)) => {
                    shared.metrics.handshake_failed();
                    debug!(%error, "handshake failed");
                }
                Err(_) => shared.metrics.handshake_failed(),
            }
        }
    })
    .await;
}

/// Serves probes and metrics until `ends`.
pub(super) async fn probes(listener: TcpListener, shared: Arc<Shared>, ends: watch::Receiver<bool>) {
    accept(listener, Connections::new(PROBES_MAX), None, &ends, |stream, place| {
        let (shared, ends) = (Arc::clone(&shared), ends.clone());
        async move { talk(stream, place, ends, |request| ready(probe(&request, &shared))).await }
    })
    .await;
}

async fn accept<F: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    connections: Arc<Connections>,
    metrics: Option<&Metrics>,
    ends: &watch::Receiver<bool>,
    serve: impl Fn(tokio::net::TcpStream, Place) -> F,
) {
    let mut ending = ends.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = ending.wait_for(|ends| *ends) => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let _ = stream.set_nodelay(true);
                if !connections.serve(|place| serve(stream, place))
                    && let Some(metrics) = metrics
                {
                    metrics.connection_refused();
                }
            }
            Err(error) => {
                warn!(%error, "connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    let ended = async {
        while connections.count() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let _ = timeout(END_TIME, ended).await;
}

/// Answers what is asked on a connection, until it is idle and the process ends.
async fn talk<F: Future<Output = Answer>>(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    place: Place,
    mut ends: watch::Receiver<bool>,
    answer: impl Fn(Request<Incoming>) -> F,
) {
    let (answer, place) = (&answer, &place);
    let service = service_fn(move |request: Request<Incoming>| async move {
        let _busy = place.busy();
        Ok::<_, Infallible>(answer(request).await)
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(IDLE_TIME).max_buf_size(64 << 10);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        _ = &mut connection => return,
        _ = ends.wait_for(|ends| *ends) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

fn said(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn text(status: StatusCode, body: impl Into<String>) -> Answer {
    said(status, "text/plain; charset=utf-8", body.into() + "\n")
}

fn probe(request: &Request<Incoming>, shared: &Shared) -> Answer {
    match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/healthz") => text(StatusCode::OK, "ok"),
        (&Method::GET | &Method::HEAD, "/readyz") => match shared.lacks() {
            None => text(StatusCode::OK, "ok"),
            Some(lacks) => text(StatusCode::SERVICE_UNAVAILABLE, lacks),
        },
        (&Method::GET | &Method::HEAD, "/metrics") => {
            let (connections, not_after) = (shared.connections.count(), shared.in_force.not_after());
            let body = shared.metrics.text(connections, not_after, shared.keeps_certificate);
            said(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", body)
        }
        (_, "/healthz" | "/readyz" | "/metrics") => text(StatusCode::METHOD_NOT_ALLOWED, "expected GET"),
        _ => text(StatusCode::NOT_FOUND, "expected /healthz, /readyz or /metrics"),
    }
}

async fn review(request: Request<Incoming>, shared: &Shared) -> Answer {
    let begun = Instant::now();
    let (outcome, answer) = match request.uri().path() {
        "/inject" => judged(request, shared).await,
        _ => return text(StatusCode::NOT_FOUND, "expected POST /inject"),
    };
    shared.metrics.review(outcome, begun.elapsed());
    answer
}

async fn judged(request: Request<Incoming>, shared: &Shared) -> (Outcome, Answer) {
    let malformed = |status, why: String| (Outcome::Malformed, text(status, why));
    if request.method() != Method::POST {
        return malformed(StatusCode::METHOD_NOT_ALLOWED, "expected POST".to_owned());
    }
    let content_type = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if content_type.split(';').next().map(str::trim) != Some("application/json") {
        return malformed(StatusCode::UNSUPPORTED_MEDIA_TYPE, "expected content-type application/json".to_owned());
    }
    let too_large =
        || (Outcome::TooLarge, text(StatusCode::PAYLOAD_TOO_LARGE, format!("expected at most {BODY_MAX} bytes")));
    let length = request.body().size_hint().exact().unwrap_or(BODY_MAX as u64);
    let Some(length) = usize::try_from(length).ok().filter(|length| *length <= BODY_MAX) else { return too_large() };
    let share = u32::try_from((length >> 10) + 1).unwrap_or(u32::MAX);
    // Held until the answer is made, so that what is parsed is bounded as well.
    let Ok(Ok(_share)) = timeout(TURN_TIME, shared.bodies.acquire_many(share)).await else {
        return (Outcome::Busy, text(StatusCode::SERVICE_UNAVAILABLE, "too many requests at a time: try again"));
    };
    let body = match timeout(BODY_TIME, read(request.into_body(), length)).await {
        Ok(Ok(Some(body))) => body,
        Ok(Ok(None)) => return too_large(),
        Ok(Err(error)) => return malformed(StatusCode::BAD_REQUEST, format!("body could not be read: {error}")),
        Err(_) => return (Outcome::Late, text(StatusCode::REQUEST_TIMEOUT, "body did not come in time")),
    };
    let review = match Review::read(&body) {
        Ok(review) => review,
        Err(error) => return malformed(StatusCode::BAD_REQUEST, error.to_string()),
    };
    drop(body);
    let Some(version) = shared.version() else {
        return (Outcome::Busy, text(StatusCode::SERVICE_UNAVAILABLE, "version of the API server is not known yet"));
    };
    let Review { uid, namespace, dry_run, pod } = review;
    let decision = match pod {
        Some(pod) => {
            let mut entropy = [0; 16];
            if let Err(error) = getrandom::fill(&mut entropy) {
                return malformed(StatusCode::INTERNAL_SERVER_ERROR, format!("no random bytes are to be had: {error}"));
            }
            match decide(&pod, &namespace, &shared.settings, version, Entropy(entropy)) {
                Ok(decision) => decision,
                Err(why) => return malformed(StatusCode::BAD_REQUEST, format!("request.{why}")),
            }
        }
        None => Decision::Left,
    };
    let outcome = Outcome::of(&decision);
    if outcome == Outcome::Injected
        && !dry_run
        && let Some(injected) = &shared.injected
    {
        // Full only when the API server does not answer; the next pod of the namespace asks again.
        let _ = injected.try_send(namespace.clone());
    }
    debug!(namespace, outcome = outcome.as_str(), dry_run, "pod reviewed");
    let body = serde_json::to_vec(&answer(&uid, &decision)).unwrap_or_default();
    (outcome, said(StatusCode::OK, "application/json", body))
}

/// All of a body; `None` when it is longer.
async fn read(mut body: Incoming, max: usize) -> Result<Option<Bytes>, hyper::Error> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            if bytes.len() + data.len() > max {
                return Ok(None);
            }
            bytes.extend_from_slice(&data);
        }
    }
    Ok(Some(bytes.freeze()))
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
