//! A general as an HTTP server: `POST /process`, `GET /health`, `GET /ready`.
//!
//! | of `/process` | answer |
//! |---|---|
//! | a report | 200, with `effects` and `usage` |
//! | not the contract's body, or none that can be worked on | 400, 422 |
//! | a ceiling is reached (`mindos-ceiling-*`) | 402 |
//! | too large for the model or the forge | 413 |
//! | a provider or the forge limits | 429 with `Retry-After` |
//! | may work next time | 503 |
//!
//! What models were used for stands in the body in any case. A caller that goes away ends the run. One that takes
//! `application/x-ndjson` hears how far the run is, and what it paid for, while it runs; see `streamed`.
//!
//! Invariant: memory is bounded by `CONNECTIONS_MAX` bodies of `body_max` bytes and what their JSON unfolds to; a body over the
//! limit is refused before it is read whole.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use mindos_model::FailureKind;
use mindos_sdk::{Ceilings, Failure};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use crate::Report;
use crate::report::Used;
use crate::request::read;
use crate::serve::{Served, now};
use crate::streamed::{self, Body};

/// The default limit of a body, in bytes: the largest message of the agent stream.
pub const BODY_MAX: usize = mindos_model::limits::MESSAGE_MAX;
/// Most connections at once; further ones wait to be accepted.
const CONNECTIONS_MAX: usize = 64;
/// How long a request's headers may take to arrive, and a connection may idle.
const HEADERS_WITHIN: Duration = Duration::from_secs(90);
/// How long a body may take to arrive.
const BODY_WITHIN: Duration = Duration::from_secs(30);
/// How long accepting pauses when the system is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// One general to serve.
#[derive(Clone, Debug)]
pub struct Config {
    pub served: Served,
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Longest body accepted, in bytes.
    pub body_max: usize,
    /// How long open requests may take to end once the server stops.
    pub drain: Duration,
}

/// Why the server did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("cannot listen on {address}: {error}")]
    Listen { address: SocketAddr, error: io::Error },
    #[error("cannot wait for signals: {0}")]
    Signals(io::Error),
}

/// A server that has its port and serves nobody yet.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    address: SocketAddr,
    served: Served,
    body_max: usize,
    drain: Duration,
}

/// Serves until SIGTERM or SIGINT, then ends the requests under way.
///
/// # Errors
/// `RunError` when it cannot start.
pub async fn run(config: Config) -> Result<(), RunError> {
    let stop = stop_signal().map_err(RunError::Signals)?;
    bind(config).await?.serve(stop).await;
    Ok(())
}

pub(crate) fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Takes the port.
///
/// # Errors
/// `RunError::Listen` when it is not to be had.
pub async fn bind(config: Config) -> Result<Bound, RunError> {
    let Config { served, listen, body_max, drain } = config;
    let refused = |error| RunError::Listen { address: listen, error };
    let listener = TcpListener::bind(listen).await.map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;
    Ok(Bound { listener, address, served, body_max, drain })
}

impl Bound {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` is done, then ends the requests under way, for at most `drain`.
    pub async fn serve(self, stop: impl Future<Output = ()>) {
        let Bound { listener, address: _, served, body_max, drain } = self;
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let (stopping, stopped) = watch::channel(false);
        tokio::pin!(stop);
        loop {
            let accepted = tokio::select! {
                () = &mut stop => break,
                accepted = accept(&listener, &places) => accepted,
            };
            let Some((stream, place)) = accepted else { continue };
            let (served, mut stopped) = (served.clone(), stopped.clone());
            tokio::spawn(async move {
                let answer = service_fn(move |request| {
                    let served = served.clone();
                    async move { Ok::<_, Infallible>(answer(&served, body_max, request).await) }
                });
                let mut server = http1::Builder::new();
                server.timer(TokioTimer::new()).header_read_timeout(HEADERS_WITHIN);
                let connection = server.serve_connection(TokioIo::new(stream), answer);
                tokio::pin!(connection);
                tokio::select! {
                    _ = connection.as_mut() => {}
                    () = async { drop(stopped.wait_for(|stopped| *stopped).await) } => {
                        connection.as_mut().graceful_shutdown();
                        let _ = connection.await;
                    }
                }
                drop(place);
            });
        }
        drop(listener);
        stopping.send_replace(true);
        // Every connection holds a place, so all of them free means that all have ended.
        let all = u32::try_from(CONNECTIONS_MAX).unwrap_or(u32::MAX);
        let _ = tokio::time::timeout(drain, places.acquire_many(all)).await;
    }
}

/// The next connection and its place; `None` when accepting failed, after a pause.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(tokio::net::TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = places.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => {
            let _ = stream.set_nodelay(true);
            Some((stream, place))
        }
        Err(_) => {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

async fn answer(served: &Served, body_max: usize, request: Request<Incoming>) -> Response<Body> {
    let general = served.profile.general_type.as_str();
    match (request.method(), request.uri().path()) {
        (&Method::POST, "/process") => process(served, body_max, request).await,
        (&Method::GET | &Method::HEAD, "/health") => {
            let mut health = json!({"status": "healthy", "general": general});
            // What a person has to see to, such as a key that a provider does not take.
            let troubles = served.brain.models().troubles();
            if !troubles.is_empty() {
                health["troubles"] = json!(troubles);
            }
            respond(StatusCode::OK, &health)
        }
        (&Method::GET | &Method::HEAD, "/ready") => {
            respond(StatusCode::OK, &json!({"status": "ready", "general": general}))
        }
        (_, "/process") => not_allowed("POST"),
        (_, "/health" | "/ready") => not_allowed("GET, HEAD"),
        _ => refuse(StatusCode::NOT_FOUND, "path", "there are POST /process, GET /health and GET /ready"),
    }
}

async fn process(served: &Served, body_max: usize, request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let too_large = || {
        let mut response =
            refuse(StatusCode::PAYLOAD_TOO_LARGE, "body", &format!("the body is longer than {body_max} bytes"));
        // What was not read of it must not be taken for the next request.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        response
    };
    let declared = head.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > u64::try_from(body_max).unwrap_or(u64::MAX)) {
        return too_large();
    }
    let body = match tokio::time::timeout(BODY_WITHIN, Limited::new(body, body_max).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => return too_large(),
        Ok(Err(error)) => return refuse(StatusCode::BAD_REQUEST, "body", &format!("the body broke off: {error}")),
        Err(_) => return refuse(StatusCode::REQUEST_TIMEOUT, "body", "the body did not arrive within 30 s"),
    };
    let asked = match read(&head.headers, &body) {
        Ok(asked) => asked,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, error.field(), &error.to_string()),
    };
    // It may be large, and the run may take long.
    drop(body);
    let ceilings = ceilings(&head.headers);
    if streamed::is_taken(&head.headers) {
        let served = served.clone();
        let body =
            Body::lines(|follower| async move { Answer::of(served.once(asked, ceilings, Some(follower)).await) });
        let mut response = Response::new(body);
        response.headers_mut().insert(header::CONTENT_TYPE, streamed::MEDIA_TYPE);
        return response;
    }
    let Answer { status, retry_after, body } = Answer::of(served.once(asked, ceilings, None).await);
    let mut response = respond_bytes(status, body);
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// How a run ended, as HTTP says it.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: StatusCode,
    /// In seconds.
    pub retry_after: Option<u64>,
    /// JSON.
    pub body: Vec<u8>,
}

impl Answer {
    fn of(ended: Result<Report, Failure>) -> Answer {
        let written = ended.map(|report| serde_json::to_vec(&report));
        let Failure { kind, message, usage } = match written {
            Ok(Ok(body)) => return Answer { status: StatusCode::OK, retry_after: None, body },
            Ok(Err(error)) => Failure::poison(format!("the report is not to be written: {error}")),
            Err(failure) => failure,
        };
        let status = match kind {
            FailureKind::Poison => StatusCode::UNPROCESSABLE_ENTITY,
            FailureKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            FailureKind::OverBudget => StatusCode::PAYMENT_REQUIRED,
            FailureKind::RateLimited { .. } => StatusCode::TOO_MANY_REQUESTS,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        let retry_after = match kind {
            FailureKind::RateLimited { until } => Some(until.since(now()).as_secs().max(1)),
            _ => None,
        };
        let usage: Vec<Used> = usage.into_iter().map(Used::from).collect();
        let body = json!({"error": message, "field": "event", "usage": usage}).to_string().into_bytes();
        Answer { status, retry_after, body }
    }
}

/// The ceilings of the delivery, which a sidecar sends along.
fn ceilings(headers: &http::HeaderMap) -> Ceilings {
    let number = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()?.trim().parse::<u64>().ok());
    Ceilings {
        cost_micros: number("mindos-ceiling-cost-micros"),
        tokens: number("mindos-ceiling-tokens"),
        time: number("mindos-ceiling-time-ms").map(Duration::from_millis),
    }
}

fn refuse(status: StatusCode, field: &str, error: &str) -> Response<Body> {
    respond(status, &json!({"error": error, "field": field}))
}

fn not_allowed(methods: &'static str) -> Response<Body> {
    let mut response = refuse(StatusCode::METHOD_NOT_ALLOWED, "method", &format!("this path takes {methods}"));
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(methods));
    response
}

fn respond(status: StatusCode, body: &Value) -> Response<Body> {
    respond_bytes(status, body.to_string().into_bytes())
}

fn respond_bytes(status: StatusCode, body: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Body::whole(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
