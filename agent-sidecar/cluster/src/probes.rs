//! `GET /healthz`, `/readyz` and `/metrics`.
//!
//! | path | answer |
//! |---|---|
//! | `/healthz` | 200 for as long as the process answers |
//! | `/readyz` | 200, or 503 with what is missing: a certificate, or the first look at the cluster |
//! | `/metrics` | what is counted, as Prometheus reads it |

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use mindos_sdk::{PlaneClock, Standing, Trunk};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use crate::metrics::Metrics;

/// Requests that are answered at a time.
const CONNECTIONS_MAX: usize = 16;
const HEADERS_MAX: Duration = Duration::from_secs(5);

/// What is answered from.
#[derive(Clone, Debug)]
pub(crate) struct Probes {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) trunk: Trunk,
    /// Unset where the control plane asks nobody who he is.
    pub(crate) standing: Option<watch::Receiver<Standing>>,
    pub(crate) clock: PlaneClock,
}

/// Answers until it is dropped.
pub(crate) async fn serve(listener: TcpListener, probes: Probes) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let Ok((connection, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let probes = probes.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let response = probes.respond(request.method(), request.uri().path());
                async move { Ok::<_, Infallible>(response) }
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

impl Probes {
    fn respond(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if !matches!(path, "/healthz" | "/readyz" | "/metrics") {
            return text(StatusCode::NOT_FOUND, "expected /healthz, /readyz or /metrics\n");
        }
        if !matches!(*method, Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "expected GET\n");
        }
        match path {
            "/metrics" => {
                let (streams, connections) = self.trunk.load();
                self.metrics.streams.set(count(streams));
                self.metrics.connections.set(count(connections));
                if let Some(end) = self.standing.as_ref().and_then(|standing| standing.borrow().not_after) {
                    let now = self.clock.now();
                    let left = count(end.since(now).as_secs()) - count(now.since(end).as_secs());
                    self.metrics.certificate_left.set(left);
                }
                text(StatusCode::OK, self.metrics.text())
            }
            "/readyz" => match self.missing() {
                None => text(StatusCode::OK, "ready\n"),
                Some(missing) => text(StatusCode::SERVICE_UNAVAILABLE, missing + "\n"),
            },
            _ => text(StatusCode::OK, "alive\n"),
        }
    }

    fn missing(&self) -> Option<String> {
        if let Some(standing) = &self.standing {
            let standing = standing.borrow();
            if !standing.is_good {
                let problem = standing.problem.clone().unwrap_or_else(|| standing.phase.as_str().to_owned());
                return Some(format!("no certificate: {problem}"));
            }
        }
        let (leading, synced) = (self.metrics.leader.get() == 1, self.metrics.synced.get() == 1);
        (leading && !synced).then(|| "the first look at the cluster is not complete".to_owned())
    }
}

fn count(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_agent_at_work_is_ready_when_it_has_seen_its_cluster() {
        let metrics = Arc::new(Metrics::default());
        let trunk = Trunk::anonymous("http://127.0.0.1:1").unwrap();
        let probes = Probes { metrics: metrics.clone(), trunk, standing: None, clock: PlaneClock::start() };
        let status = |path: &str| probes.respond(&Method::GET, path).status().as_u16();
        assert_eq!((status("/readyz"), status("/healthz"), status("/metrics"), status("/")), (200, 200, 200, 404));
        metrics.leader.set(1);
        assert_eq!((status("/readyz"), status("/healthz")), (503, 200));
        metrics.synced.set(1);
        assert_eq!(status("/readyz"), 200);
        assert_eq!(probes.respond(&Method::POST, "/readyz").status(), StatusCode::METHOD_NOT_ALLOWED);
    }
}
