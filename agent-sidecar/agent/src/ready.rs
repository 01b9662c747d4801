//! `GET /ready`: whether this sidecar may do its work, and why not.
//!
//! | path | answer |
//! |---|---|
//! | `/ready` | 200, or 503 with what is wrong |
//! | `/live` | 200 for as long as the process answers |
//! | `/drain` | for whoever has the token, in the header `mindos-drain` or as a second part of the path: 200 when nothing runs any more |

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use mindos_sdk::{Phase, Standing};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use crate::drain::Drains;

/// Probes that are answered at a time.
const CONNECTIONS_MAX: usize = 16;
const HEADERS_MAX: Duration = Duration::from_secs(5);
/// How long the last answers may take before the process ends.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// Carries the token of whoever asks for a drain.
const DRAIN_HEADER: &str = "mindos-drain";

/// What is answered.
#[derive(Debug, Serialize)]
struct Answer {
    ready: bool,
    /// Unset where the control plane asks nobody who he is.
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<Identity>,
}

#[derive(Debug, Serialize)]
struct Identity {
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_after: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// Listens, so that an address that is taken is found out at the start. On a machine without IPv6, all addresses are those of IPv4.
///
/// # Errors
/// When it is taken.
pub async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let every = address.ip() == Ipv6Addr::UNSPECIFIED;
    match TcpListener::bind(address).await {
        Err(error) if every && matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)) => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        bound => bound,
    }
}

/// Who is answered, and with what.
#[derive(Clone, Debug)]
pub(crate) struct Answers {
    standing: watch::Receiver<Option<Standing>>,
    joins: bool,
    drains: Drains,
    places: Arc<Semaphore>,
}

impl Answers {
    pub(crate) fn new(standing: watch::Receiver<Option<Standing>>, joins: bool, drains: Drains) -> Answers {
        Answers { standing, joins, drains, places: Arc::new(Semaphore::new(CONNECTIONS_MAX)) }
    }

    /// Waits, but not long, until everybody has been answered.
    pub(crate) async fn all_given(&self) {
        let given = async {
            // The listener itself holds one place.
            while self.places.available_permits() + 1 < CONNECTIONS_MAX {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let _ = tokio::time::timeout(ANSWER_MAX, given).await;
    }

    async fn to(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let by_path =
            request.uri().path().strip_prefix("/drain").filter(|rest| rest.is_empty() || rest.starts_with('/'));
        if let Some(by_path) = by_path.filter(|_| self.drains.are_offered()) {
            // Kubelets before 1.25 send no headers along.
            let by_header = request.headers().get(DRAIN_HEADER).map(http::HeaderValue::as_bytes);
            let presented = by_header.unwrap_or(by_path.trim_start_matches('/').as_bytes());
            return match request.method() {
                _ if !self.drains.may_ask(presented) => said(StatusCode::FORBIDDEN, r#"{"drained":false}"#),
                // Kubernetes asks with GET.
                &Method::GET | &Method::POST => {
                    self.drains.ask().await;
                    said(StatusCode::OK, r#"{"drained":true}"#)
                }
                _ => said(StatusCode::METHOD_NOT_ALLOWED, r#"{"drained":false}"#),
            };
        }
        respond(request.method(), request.uri().path(), &answer(self.standing.borrow().as_ref(), self.joins))
    }
}

/// Answers until it is dropped.
pub async fn serve(listener: TcpListener, standing: watch::Receiver<Option<Standing>>, joins: bool) {
    serve_with(listener, Answers::new(standing, joins, Drains::new(None))).await;
}

/// Answers until it is dropped, also those who ask for a drain.
pub(crate) async fn serve_with(listener: TcpListener, answers: Answers) {
    loop {
        let Ok(place) = answers.places.clone().acquire_owned().await else { return };
        let Ok((connection, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let answers = answers.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let answers = answers.clone();
                async move { Ok::<_, Infallible>(answers.to(&request).await) }
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADERS_MAX)
                .keep_alive(false)
                .serve_connection(TokioIo::new(connection), service)
                .await;
            drop(place);
        });
    }
}

fn answer(standing: Option<&Standing>, joins: bool) -> Answer {
    let Some(standing) = standing else { return Answer { ready: !joins, identity: None } };
    let Standing { phase, is_good, identity, not_after, problem } = standing;
    // A certificate that is good does its work until its end, whatever comes of the next one.
    let ready = *is_good || *phase == Phase::Valid;
    let identity = Identity {
        state: phase.as_str(),
        id: identity.as_deref().map(str::to_owned),
        not_after: not_after.map(|end| end.to_string()),
        problem: problem.clone(),
    };
    Answer { ready, identity: Some(identity) }
}

fn respond(method: &Method, path: &str, answer: &Answer) -> Response<Full<Bytes>> {
    let status = match (method, path) {
        (&Method::GET | &Method::HEAD, "/live") => StatusCode::OK,
        (&Method::GET | &Method::HEAD, "/ready") if answer.ready => StatusCode::OK,
        (&Method::GET | &Method::HEAD, "/ready") => StatusCode::SERVICE_UNAVAILABLE,
        (_, "/live" | "/ready") => StatusCode::METHOD_NOT_ALLOWED,
        _ => StatusCode::NOT_FOUND,
    };
    said(status, serde_json::to_vec(answer).unwrap_or_default())
}

fn said(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(phase: Phase, is_good: bool, problem: Option<&str>) -> Standing {
        let problem = problem.map(str::to_owned);
        Standing { phase, is_good, identity: Some(Arc::from("spiffe://d/x")), not_after: None, problem }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (phase, is_good, problem, status) in [
            (Phase::Valid, true, None, 200),
            (Phase::Renewing, true, Some("could not be renewed yet"), 200),
            (Phase::Refused, true, Some("refused"), 200),
            (Phase::Lapsed, false, Some("expired 3 s ago"), 503),
            (Phase::Joining, false, Some("not joined yet"), 503),
            (Phase::Refused, false, Some("refused"), 503),
        ] {
            let answer = answer(Some(&standing(phase, is_good, problem)), true);
            let response = respond(&Method::GET, "/ready", &answer);
            assert_eq!(response.status(), status, "{phase:?}");
            let text = serde_json::to_string(&answer).unwrap();
            assert!(text.contains(phase.as_str()), "{text}");
            assert!(problem.is_none_or(|problem| text.contains(problem)), "{text}");
        }
        assert_eq!(respond(&Method::GET, "/ready", &answer(None, false)).status(), 200);
        assert_eq!(respond(&Method::GET, "/ready", &answer(None, true)).status(), 503);
        assert_eq!(respond(&Method::POST, "/ready", &answer(None, false)).status(), 405);
        assert_eq!(respond(&Method::GET, "/live", &answer(None, true)).status(), 200);
        assert_eq!(respond(&Method::GET, "/", &answer(None, true)).status(), 404);
    }
}
