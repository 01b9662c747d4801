//! Generals inside the test: they serve HTTP as any general does, and note every start.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::chance::Chance;

/// One start of work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// The delivery, such as `d42.1`.
    pub delivery: String,
    /// The job id: the delivery with its token.
    pub job: String,
    /// Lane of the delivery.
    pub lane: String,
    /// Cluster of the sidecar.
    pub cluster: String,
    /// Instance that the sidecar is.
    pub instance: String,
    /// When.
    pub at: Instant,
}

/// What every general of the test saw; a clone is the same.
#[derive(Clone, Debug, Default)]
pub struct Notes(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    starts: Mutex<Vec<Start>>,
    /// How long work takes from then on, in ms: at least, and by how much longer at most.
    least: AtomicU64,
    spread: AtomicU64,
    running: AtomicU64,
    running_most: AtomicU64,
    /// What a job says it cost, in millionths: at least, and by how much more at most. Nothing is said while `cost_most` is 0.
    cost_least: AtomicU64,
    cost_most: AtomicU64,
    /// What each job said.
    costs: Mutex<BTreeMap<String, u64>>,
}

impl Notes {
    /// Work takes from `least` to `most` milliseconds.
    #[must_use]
    pub fn new(least: u64, most: u64) -> Notes {
        let notes = Notes::default();
        notes.set_time(least, most);
        notes
    }

    /// Work that starts from here on takes from `least` to `most` milliseconds.
    pub fn set_time(&self, least: u64, most: u64) {
        self.0.least.store(least, Ordering::Relaxed);
        self.0.spread.store(most - least, Ordering::Relaxed);
    }

    /// Work that ends from here on says that it cost from `least` to `most` millionths, a number of its own for each job.
    pub fn set_cost(&self, least: u64, most: u64) {
        self.0.cost_least.store(least, Ordering::Relaxed);
        self.0.cost_most.store(most, Ordering::Relaxed);
    }

    /// What each job said that it cost; of one whose answer never left there is nothing.
    #[must_use]
    pub fn costs(&self) -> BTreeMap<String, u64> {
        self.0.costs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The answer of a job that is done.
    fn answer(&self, job: &str) -> Response<Full<Bytes>> {
        let (least, most) = (self.0.cost_least.load(Ordering::Relaxed), self.0.cost_most.load(Ordering::Relaxed));
        if most == 0 {
            return Response::new(Full::from("{\"status\":\"processed\"}"));
        }
        let cost = least + Chance::of(job).below(most - least + 1);
        self.0.costs.lock().unwrap_or_else(PoisonError::into_inner).insert(job.to_owned(), cost);
        let body =
            format!(r#"{{"status":"processed","usage":{{"model":"m","input_tokens":{cost},"cost_micros":{cost}}}}}"#);
        let mut response = Response::new(Full::from(body));
        response.headers_mut().insert(hyper::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }

    /// Every start so far.
    #[must_use]
    pub fn starts(&self) -> Vec<Start> {
        self.0.starts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Starts by job: more than one of a job is work doubled under one token.
    #[must_use]
    pub fn by_job(&self) -> BTreeMap<String, u64> {
        let mut jobs = BTreeMap::new();
        for start in self.starts() {
            *jobs.entry(start.job).or_default() += 1;
        }
        jobs
    }

    /// How much work ran at the same time at most.
    #[must_use]
    pub fn running_most(&self) -> u64 {
        self.0.running_most.load(Ordering::Relaxed)
    }

    fn begin(&self, start: Start) -> Duration {
        let mut starts = self.0.starts.lock().unwrap_or_else(PoisonError::into_inner);
        starts.push(start);
        let number = starts.len() as u64;
        drop(starts);
        let running = self.0.running.fetch_add(1, Ordering::Relaxed) + 1;
        self.0.running_most.fetch_max(running, Ordering::Relaxed);
        let spread = self.0.spread.load(Ordering::Relaxed);
        let more = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (spread + 1);
        Duration::from_millis(self.0.least.load(Ordering::Relaxed) + more)
    }

    fn end(&self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves a general on a free port of loopback until the runtime ends; returns its address.
///
/// # Errors
/// When no port is to be had.
pub async fn serve(notes: Notes) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.context("failed to bind a general")?;
    let address = listener.local_addr().context("a bound socket has an address")?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let notes = notes.clone();
            let service = service_fn(move |request| answer(request, notes.clone()));
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::spawn(connection);
        }
    });
    Ok(format!("http://{address}"))
}

async fn answer(request: Request<Incoming>, notes: Notes) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() != "/process" {
        return Ok(Response::new(Full::from("{\"status\":\"ready\"}")));
    }
    let Ok(body) = request.into_body().collect().await else {
        return Ok(status(400));
    };
    let Ok(body) = serde_json::from_slice::<serde_json::Value>(&body.to_bytes()) else {
        return Ok(status(400));
    };
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let info = &body["general_info"];
    let job = text(&body["job_id"]);
    let time = notes.begin(Start {
        delivery: text(&info["delivery"]),
        job: job.clone(),
        lane: text(&info["lane"]),
        cluster: text(&info["cluster"]),
        instance: text(&info["instance"]),
        at: Instant::now(),
    });
    // A sidecar that goes away drops the connection and this future with it.
    let running = Running(notes.clone());
    tokio::time::sleep(time).await;
    drop(running);
    Ok(notes.answer(&job))
}

struct Running(Notes);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.end();
    }
}

fn status(code: u16) -> Response<Full<Bytes>> {
    let mut response = Response::default();
    *response.status_mut() = hyper::StatusCode::from_u16(code).unwrap_or_default();
    response
}
