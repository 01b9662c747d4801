//! Work as tasks: each delivery a future of its general, which ends by itself, by a stop, or by a panic.
//!
//! Invariant: every start is reported exactly once, whatever becomes of its task.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mindos_model::limits::INLINE_MAX;
use mindos_model::{DeliveryId, FailureKind, GeneralName, Token};
use mindos_proto::agent::v1::Mode;
use mindos_proto::convert;
use mindos_sidecar_core::{CancelReason, Ceilings, Outcome};
use tokio::sync::watch;
use tonic::Code;

use crate::agent::{Adapter, Assignment, Body, Finish, Handle, Start};
use crate::budget::{Grants, Spending};
use crate::general::{Failure, General, Output, Reporter, Work, WorkMode, stopped};
use crate::{Channel, Error, Event, Retry, blob};

/// What may still run: the way to stop it.
pub(crate) type Running = Arc<Mutex<Stops>>;
type Stops = BTreeMap<(DeliveryId, Token), Lines>;

/// The ways to tell a piece of work something.
#[derive(Debug)]
pub(crate) struct Lines {
    stop: watch::Sender<Option<Duration>>,
    granted: watch::Sender<Grants>,
}

/// Runs each piece of work as a task.
#[derive(Debug)]
pub(crate) struct Tasks<G> {
    pub(crate) generals: Vec<(GeneralName, Arc<G>)>,
    pub(crate) handle: Arc<Handle>,
    pub(crate) channel: Channel,
    pub(crate) running: Running,
}

impl<G: General> Adapter for Tasks<G> {
    fn start(&mut self, work: Start) -> Option<Finish> {
        let Start { general, delivery, token, assignment } = work;
        let Some((name, general)) = self.generals.get(usize::from(general.0)).cloned() else {
            return Some(finish(Err(Failure::transient("there is no such general")), Duration::ZERO));
        };
        // The frame it came in may be much larger, and the work may take long.
        let assignment = assignment.detached();
        let (stop, stopping) = watch::channel(None);
        let (granted, grants) = watch::channel(Grants::default());
        lock(&self.running).insert((delivery, token), Lines { stop, granted });
        let report =
            Report { delivery, token, handle: self.handle.clone(), running: self.running.clone(), finish: None };
        let (channel, reporter) = (self.channel.clone(), Reporter { delivery, token, handle: self.handle.clone() });
        tokio::spawn(async move {
            let mut report = report;
            let began = Instant::now();
            let ended = async {
                let work = prepare(assignment, (delivery, token), name, reporter, (stopping.clone(), grants), &channel)
                    .await?;
                let output = general.process(work).await?;
                store(output, &channel).await
            };
            let killed = async {
                tokio::time::sleep(stopped(stopping.clone()).await).await;
                Err(Failure::new(FailureKind::Cancelled, "stopped"))
            };
            let answer = tokio::select! {
                biased;
                answer = ended => answer,
                answer = killed => answer,
            };
            report.set(finish(answer, began.elapsed()));
        });
        None
    }

    fn stop(&mut self, delivery: DeliveryId, token: Token, grace: Duration) {
        if let Some(lines) = lock(&self.running).get(&(delivery, token)) {
            lines.stop.send_replace(Some(grace));
        }
    }

    fn granted(&mut self, delivery: DeliveryId, token: Token, ceilings: Ceilings) {
        if let Some(lines) = lock(&self.running).get(&(delivery, token)) {
            lines.granted.send_modify(|grants| grants.answered(ceilings));
        }
    }
}

/// Ends everything that still runs.
pub(crate) fn end_all(running: &Running) {
    for lines in lock(running).values() {
        lines.stop.send_replace(Some(Duration::ZERO));
    }
}

fn lock(running: &Running) -> std::sync::MutexGuard<'_, Stops> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reports when it is dropped, so that a panic is reported too.
struct Report {
    delivery: DeliveryId,
    token: Token,
    handle: Arc<Handle>,
    running: Running,
    finish: Option<Finish>,
}

impl Report {
    fn set(&mut self, finish: Finish) {
        self.finish = Some(finish);
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        lock(&self.running).remove(&(self.delivery, self.token));
        let finish = self.finish.take().unwrap_or_else(|| Finish {
            outcome: Outcome::Failed { kind: FailureKind::Transient, message: Arc::from("the general panicked") },
            body: Body::default(),
        });
        self.handle.finished(self.delivery, self.token, finish);
    }
}

fn finish(answer: Result<Body, Failure>, took: Duration) -> Finish {
    match answer {
        Ok(body) => Finish { outcome: Outcome::Succeeded, body: Body { duration: Some(took), ..body } },
        Err(Failure { kind, message, usage }) => {
            let outcome = match kind {
                FailureKind::Cancelled => Outcome::Cancelled { reason: CancelReason::Human },
                kind => Outcome::Failed { kind, message: Arc::from(message) },
            };
            Finish { outcome, body: Body { usage, duration: Some(took), ..Body::default() } }
        }
    }
}

/// Reads an assignment, and fetches what of it lies in the blob store.
async fn prepare(
    assignment: Assignment,
    (delivery, token): (DeliveryId, Token),
    general: GeneralName,
    reporter: Reporter,
    (stop, grants): (watch::Receiver<Option<Duration>>, watch::Receiver<Grants>),
    channel: &Channel,
) -> Result<Work, Failure> {
    let unreadable = |error: crate::agent::AssignmentError| Failure::poison(crate::error::chain(&error));
    let assign = assignment.decode().map_err(unreadable)?;
    let encoded =
        if assign.event_ref.is_empty() { assign.event.clone() } else { fetch(channel, &assign.event_ref).await? };
    let mut event = Event::from(crate::agent::event(encoded).map_err(unreadable)?);
    if !event.has_data()
        && let Some(reference) = event.attribute("dataref").filter(|reference| blob::is_blob_ref(reference))
    {
        let data = fetch(channel, &reference).await?;
        event.set_bytes(data);
    }
    let mode = match assign.mode() {
        Mode::Unspecified | Mode::Live => WorkMode::Live,
        Mode::Shadow => WorkMode::Shadow,
        Mode::Replay => WorkMode::Replay,
    };
    let deadline = assign.deadline.as_ref().and_then(|deadline| convert::timestamp(deadline, "deadline").ok());
    let ceilings = assign.ceilings.as_ref().map(crate::agent::ceilings_of).unwrap_or_default();
    let spending = Spending::new(reporter.clone(), ceilings, grants);
    Ok(Work {
        delivery,
        token,
        attempt: assign.attempt,
        general,
        event,
        lane: assign.lane,
        route: assign.route,
        live: mode == WorkMode::Live,
        mode,
        traceparent: assign.traceparent,
        tracestate: assign.tracestate,
        deadline,
        checkpoint: assign.checkpoint,
        reporter,
        spending,
        stop,
        channel: channel.clone(),
    })
}

async fn fetch(channel: &Channel, reference: &str) -> Result<bytes::Bytes, Failure> {
    let fetched = Retry::default().run(|| blob::get(channel.clone(), reference)).await;
    fetched.map_err(|error| {
        let message = format!("failed to fetch `{reference}`: {}", crate::error::chain(&error));
        if error.is_temporary() { Failure::transient(message) } else { Failure::poison(message) }
    })
}

/// Puts an output that is too large for a message into the blob store.
async fn store(output: Output, channel: &Channel) -> Result<Body, Failure> {
    let Output { data, content_type, usage, effects } = output;
    crate::effect::check(&effects)?;
    let body = Body { content_type, usage, effects, ..Body::default() };
    if data.len() <= INLINE_MAX {
        return Ok(Body { output: data, ..body });
    }
    let len = data.len();
    match Retry::default().run(|| blob::put(channel.clone(), data.clone(), &body.content_type)).await {
        Ok(reference) => Ok(Body { output_ref: Some(reference), ..body }),
        Err(error) => {
            let temporary = error.is_temporary();
            let absent = matches!(&error, Error::Refused { code: Code::Unimplemented, .. });
            let why = if absent { "there is no blob store".to_owned() } else { crate::error::chain(&error) };
            let message = format!("the output has {len} bytes, {INLINE_MAX} fit into a message, and: {why}");
            Err(if temporary { Failure::transient(message) } else { Failure::too_large(message) })
        }
    }
}
