//! Traces: the way of an event from its acceptance over stream and general to its settlement, as OpenTelemetry sees it.
//!
//! The journal says already what began and ended when, so spans are a view of it: made behind the durable records, sent by OTLP over HTTP
//! as JSON, in batches. Each assignment carries the context of its own span, under which the general goes on. Off unless `otlp` is set.
//! Invariant: nothing waits for a collector; what it does not take is dropped and counted.

pub mod context;
pub mod settings;
mod spans;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::{HeaderValue, Method, header};
use mindos_model::{DeliveryId, Token};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tracing::warn;

use crate::grpc::Context;
use crate::grpc::watch::{Step, Walk};
use crate::logging::Chain;
use crate::metrics::{Exposition, Kind};
use context::{TraceContext, attempt_span};
use mindos_outgoing::{Outgoing, Request};
use settings::Otlp;
use spans::Spans;

/// Spans in one message.
const BATCH_MAX: usize = 512;
/// How long spans gather.
const GATHER: Duration = Duration::from_secs(1);
/// Messages on their way.
const SENDING_MAX: usize = 4;
/// Between two looks at the settings while there is nothing to do.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Where spans go, if anywhere. Cheap to clone.
pub type Configured = Arc<ArcSwapOption<Otlp>>;

/// The context that an agent is told with an assignment.
#[must_use]
pub fn of_assignment(otlp: &Otlp, plane_id: &str, event: &[u8], delivery: DeliveryId, token: Token) -> String {
    let context = TraceContext::of(event, plane_id, delivery.event, otlp.sample);
    context.header(attempt_span(plane_id, delivery, token))
}

/// How many spans went where.
#[derive(Clone, Debug, Default)]
pub struct Counts(Arc<[AtomicU64; 2]>);

impl Counts {
    /// Writes the family.
    pub fn expose(&self, into: &mut Exposition) {
        let mut family = into.family("mindos_trace_spans_total", Kind::Counter, "Spans made, by what became of them.");
        for (outcome, count) in ["exported", "dropped"].into_iter().zip(&*self.0) {
            family.series(&[("outcome", outcome)], count.load(Ordering::Relaxed));
        }
    }

    fn add(&self, exported: bool, spans: usize) {
        self.0[usize::from(!exported)].fetch_add(spans as u64, Ordering::Relaxed);
    }
}

/// Makes spans and sends them.
#[derive(Clone, Debug)]
pub struct Tracer {
    pub configured: Configured,
    pub counts: Counts,
    pub client: Outgoing,
}

impl Tracer {
    /// Follows the journal while traces are configured, until the server drains.
    pub async fn run(self, context: Arc<Context>) {
        let sending = Arc::new(Semaphore::new(SENDING_MAX));
        loop {
            if self.configured.load().is_some() {
                self.follow(&context, &sending).await;
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
                () = context.drained() => return,
            }
        }
    }

    /// Until traces are no longer configured, or the journal cannot be followed.
    async fn follow(&self, context: &Arc<Context>, sending: &Arc<Semaphore>) {
        let mut walk = Walk::start(context, 0);
        let mut spans = Spans::new(&context.plane_id);
        let mut made = Vec::new();
        let mut since = Instant::now();
        loop {
            let Some(otlp) = self.configured.load_full() else { return };
            let wait = if made.is_empty() { LOOK_INTERVAL } else { GATHER.saturating_sub(since.elapsed()) };
            // Giving up on a step loses nothing: a step moves on only when it answers.
            match tokio::time::timeout(wait, walk.step()).await {
                Ok(Ok(Step::Closed)) => {
                    self.send(&otlp, &mut made, sending);
                    // What is on its way may arrive, as far as the drain lets it.
                    let _ = sending.acquire_many(SENDING_MAX as u32).await;
                    return;
                }
                Ok(Ok(step)) => {
                    if made.is_empty() {
                        since = Instant::now();
                    }
                    for entry in step.entries() {
                        spans.take(entry, otlp.sample, &mut made);
                        if made.len() >= BATCH_MAX {
                            self.send(&otlp, &mut made, sending);
                        }
                    }
                }
                Ok(Err(error)) => return warn!(%error, "journal was not followed for traces"),
                Err(_) => {}
            }
            if since.elapsed() >= GATHER {
                self.send(&otlp, &mut made, sending);
                since = Instant::now();
            }
        }
    }

    /// Sends what was made, on a task of its own; drops it when too much is on its way.
    fn send(&self, otlp: &Arc<Otlp>, made: &mut Vec<Value>, sending: &Arc<Semaphore>) {
        if made.is_empty() {
            return;
        }
        let spans = std::mem::take(made);
        let count = spans.len();
        let Ok(permit) = Arc::clone(sending).try_acquire_owned() else {
            return self.counts.add(false, count);
        };
        let (tracer, otlp) = (self.clone(), Arc::clone(otlp));
        tokio::spawn(async move {
            let mut request = Request::new(Method::POST, otlp.target.clone());
            request.headers = otlp.headers.clone();
            request.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            request.body = Bytes::from(message(spans).to_string());
            let exported = match tracer.client.send(request).await {
                Ok(answer) if answer.status.is_success() => true,
                Ok(answer) => {
                    warn!(status = answer.status.as_u16(), spans = count, "collector refused spans");
                    false
                }
                Err(error) => {
                    warn!(error = %Chain(&error), spans = count, "spans were not sent");
                    false
                }
            };
            tracer.counts.add(exported, count);
            drop(permit);
        });
    }
}

fn message(spans: Vec<Value>) -> Value {
    let attribute = |key: &str, value: &str| json!({ "key": key, "value": { "stringValue": value } });
    let resource = [attribute("service.name", "mindos-control-plane"), attribute("service.version", crate::VERSION)];
    json!({ "resourceSpans": [{
        "resource": { "attributes": resource },
        "scopeSpans": [{ "scope": { "name": "mindos", "version": crate::VERSION }, "spans": spans }],
    }] })
}
