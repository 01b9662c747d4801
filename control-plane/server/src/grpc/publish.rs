//! Publishing: events from one request or a stream of batches, checked, deduplicated, offered, answered in order.
//!
//! Invariants: at most [`WINDOW`] batches of a stream are unanswered; no more is read before, so a publisher that does not take
//! its answers holds up nobody but itself. Events of a stream are accepted in their order, also while the routes change.

use std::collections::VecDeque;
use std::sync::Arc;

use mindos_core::input::NewEvent;
use mindos_core::output::{Published, Reply};
use mindos_model::Seq;
use mindos_proto::event::v1::{PlannedDelivery, PublishResponse, PublishResult, PublishStreamResponse};
use mindos_proto::rpc;
use mindos_proto::wire::{PublishRequestWire, PublishStreamRequestWire};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};
use tracing::warn;

use super::{Context, status, words};
use crate::access::{Scoped, refusal};
use crate::admission::Verdict;
use crate::driver::{Answer, CallError, Handle, Pending};
use crate::ingest::event::accept;
use crate::limits::What;
use crate::logging::Chain;

/// Batches of a stream that may be unanswered.
pub(super) const WINDOW: usize = 2;
/// Events of one batch.
const EVENTS_MAX: usize = 1000;

impl Scoped {
    /// Checks an encoded event, whether the caller may publish it, and what the index on disk knows of it.
    pub(crate) async fn admit(&self, encoded: &[u8]) -> Result<NewEvent, rpc::Status> {
        let accepted = accept(self.tenant(), encoded, true);
        let accepted = accepted.inspect_err(|_| self.handle.admission().count(Verdict::Invalid));
        let mut event = accepted.map_err(|error| status::event(&error))?;
        self.granted_source(&event.source)?;
        self.recall(&mut event).await;
        Ok(event)
    }

    /// Checks that the caller may publish events of this source.
    pub(crate) fn granted_source(&self, source: &str) -> Result<(), rpc::Status> {
        if self.caller.sources.grant(source) {
            return Ok(());
        }
        self.handle.admission().count(Verdict::NotGranted);
        Err(refusal::source(&self.caller, source))
    }
}

impl Context {
    /// Checks that the journal has room for events.
    pub(crate) fn room(&self) -> Result<(), rpc::Status> {
        if self.handle.is_tight() {
            self.handle.admission().count(Verdict::DiskFull);
            return Err(status::disk_full());
        }
        Ok(())
    }

    /// Takes an event's part of its source's quota.
    pub(crate) fn quota(&self, event: &NewEvent) -> Result<(), rpc::Status> {
        if event.seen.is_none() {
            let rate = self.access.load().access.quota(&event.tenant).events_per_second;
            let taken = self.rates.tenant(&event.tenant, What::Events, rate);
            taken.map_err(|refusal| status::at_limit(&refusal))?;
        }
        self.handle.admission().take(event).map_err(|exceeded| status::quota_exceeded(&exceeded))
    }

    /// Notes what the index on disk knows of an event that left the core's own window, and which conditions hold for it.
    pub(crate) async fn recall(self: &Arc<Self>, event: &mut NewEvent) {
        self.judge(event).await;
        match self.dedupe.lookup(&event.key) {
            Ok(seen) => event.seen = seen,
            // The core's window still holds what is recent; an index that cannot be read makes nobody wait.
            Err(error) => warn!(error = %Chain(&error), "dedupe index was not read"),
        }
    }
}

/// Publishes one event.
pub(super) async fn one(context: &Scoped, request: PublishRequestWire) -> Result<PublishResponse, Status> {
    context.room()?;
    let PublishRequestWire { event, explain: _ } = request;
    let mut event = Box::new(context.admit(&event).await?);
    context.quota(&event)?;
    context.hear(&mut event).await?;
    let (source, id) = (event.source.to_string(), event.id.to_string());
    let reply = context.publish_one(event).await;
    let is_full = |error: &CallError| {
        if matches!(error, CallError::Full(_)) {
            context.handle.admission().count(Verdict::InboxFull);
        }
    };
    match reply.inspect_err(is_full).map_err(|error| status::call(&error))? {
        Reply::Published(published) => {
            let published = context.first_answer(context.tenant(), published).await;
            let result = PublishResult { source, id, ..result(published, true) };
            Ok(PublishResponse { result: Some(result) })
        }
        other => Err(super::unexpected(&other)),
    }
}

fn result(published: Published, all: bool) -> PublishResult {
    let Published { event, duplicate, route: _, deliveries } = published;
    let shown = deliveries.into_iter().filter(|delivery| all || delivery.parked.is_some());
    let deliveries = shown.map(|delivery| PlannedDelivery {
        delivery_id: delivery.delivery.to_string(),
        general: delivery.general.as_deref().map(words::general_name),
        park_reason: words::park_reason(delivery.parked),
        ..PlannedDelivery::default()
    });
    PublishResult { seq: event.0, duplicate, deliveries: deliveries.collect(), ..PublishResult::default() }
}

fn refused(error: rpc::Status) -> PublishResult {
    PublishResult { error: Some(error), ..PublishResult::default() }
}

/// What became of the events of a batch, once the plane has answered.
struct Batch {
    number: u64,
    explain: bool,
    /// In order; unset where the plane has to answer.
    results: Vec<Option<PublishResult>>,
    /// Source and id of each, when they are wanted.
    names: Vec<(String, String)>,
    /// By which table its events were judged.
    table: Option<Seq>,
    pending: Option<Pending>,
}

impl Batch {
    /// Waits for the plane's answers. May be dropped and called again.
    async fn answered(&mut self) -> Result<Vec<Answer>, Status> {
        match &mut self.pending {
            None => Ok(Vec::new()),
            Some(pending) => pending.answers().await.map_err(|stopped| status::stopped(stopped).into()),
        }
    }

    fn response(self, answers: Vec<Answer>) -> Result<PublishStreamResponse, Status> {
        let Batch { number, explain, results, names, table: _, pending: _ } = self;
        let mut answers = answers.into_iter();
        let mut names = names.into_iter();
        let mut response = PublishStreamResponse { batch: number, results: Vec::with_capacity(results.len()) };
        for result in results {
            let mut result = match result {
                Some(result) => result,
                None => match answers.next() {
                    Some(Ok(Reply::Published(published))) => self::result(published, explain),
                    Some(Ok(other)) => return Err(super::unexpected(&other)),
                    Some(Err(rejection)) => refused(status::rejection(&rejection)),
                    None => return Err(status::internal("an answer is missing").into()),
                },
            };
            if let Some((source, id)) = names.next() {
                (result.source, result.id) = (source, id);
            }
            response.results.push(result);
        }
        Ok(response)
    }
}

/// Carries a stream until its publisher has closed it and all is answered.
pub(super) async fn stream(
    context: &Scoped,
    mut batches: Streaming<PublishStreamRequestWire>,
    answers: mpsc::Sender<Result<PublishStreamResponse, Status>>,
) {
    let ended = carry(context, &mut batches, &answers).await;
    if let Err(status) = ended {
        let _ = answers.send(Err(status)).await;
    }
}

async fn carry(
    context: &Scoped,
    batches: &mut Streaming<PublishStreamRequestWire>,
    answers: &mpsc::Sender<Result<PublishStreamResponse, Status>>,
) -> Result<(), Status> {
    let mut waiting = VecDeque::<Batch>::with_capacity(WINDOW);
    let mut next = 1;
    let mut open = true;
    while open || !waiting.is_empty() {
        let may_read = open && waiting.len() < WINDOW;
        tokio::select! {
            biased;
            answered = first(&mut waiting), if !waiting.is_empty() => {
                if !conclude(context, &mut waiting, answered?, answers).await? {
                    return Ok(());
                }
            }
            message = batches.message(), if may_read => match message? {
                None => open = false,
                Some(message) => {
                    let (mut batch, events) = admit(context, message, next).await?;
                    // Those before may be given back, and would come behind it.
                    while waiting.iter().any(|before| before.pending.is_some() && before.table != batch.table) {
                        let answered = first(&mut waiting).await?;
                        if !conclude(context, &mut waiting, answered, answers).await? {
                            return Ok(());
                        }
                    }
                    batch.pending = send(&context.handle, events).await?;
                    next += 1;
                    waiting.push_back(batch);
                }
            },
            () = context.drained(), if may_read => open = false,
            // The publisher is gone; what it sent is decided all the same.
            () = answers.closed() => return Ok(()),
        }
    }
    if *context.draining.borrow() {
        return Err(status::stopped(crate::driver::Stopped).into());
    }
    Ok(())
}

/// Answers the first batch, whose events the plane has answered. False when its publisher is gone.
async fn conclude(
    context: &Scoped,
    waiting: &mut VecDeque<Batch>,
    mut answered: Vec<Answer>,
    answers: &mpsc::Sender<Result<PublishStreamResponse, Status>>,
) -> Result<bool, Status> {
    let Some(batch) = waiting.pop_front() else { return Ok(true) };
    let settled = context.settle_unjudged(&mut answered).await;
    settled.map_err(|stopped| Status::from(status::stopped(stopped)))?;
    if batch.explain {
        for answer in &mut answered {
            if let Ok(Reply::Published(published)) = answer
                && published.duplicate
            {
                *published = context.first_answer(context.tenant(), published.clone()).await;
            }
        }
    }
    Ok(answers.send(Ok(batch.response(answered)?)).await.is_ok())
}

async fn first(waiting: &mut VecDeque<Batch>) -> Result<Vec<Answer>, Status> {
    match waiting.front_mut() {
        Some(batch) => batch.answered().await,
        None => std::future::pending().await,
    }
}

/// Checks the events of a batch; returns those that are good beside it.
async fn admit(
    context: &Scoped,
    message: PublishStreamRequestWire,
    number: u64,
) -> Result<(Batch, Vec<NewEvent>), Status> {
    let PublishStreamRequestWire { batch, events, explain } = message;
    if batch != number {
        return Err(Status::invalid_argument(format!("batch: is {batch}: expected {number}")));
    }
    if events.is_empty() || events.len() > EVENTS_MAX {
        let found = events.len();
        return Err(Status::invalid_argument(format!("events: there are {found}: expected 1 to {EVENTS_MAX}")));
    }
    let tight = context.handle.is_tight();
    let mut results = Vec::with_capacity(events.len());
    let mut good = Vec::with_capacity(events.len());
    let mut names = Vec::new();
    for encoded in events {
        if tight {
            context.handle.admission().count(Verdict::DiskFull);
            results.push(Some(refused(status::disk_full())));
            continue;
        }
        let admitted = match context.admit(&encoded).await {
            Ok(mut event) => match context.quota(&event) {
                Ok(()) => context.hear(&mut event).await.map(|()| event),
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        match admitted {
            Ok(event) => {
                if explain {
                    names.push((event.source.to_string(), event.id.to_string()));
                }
                good.push(event);
                results.push(None);
            }
            Err(error) => {
                if explain {
                    names.push(Default::default());
                }
                results.push(Some(refused(error)));
            }
        }
    }
    let table = context.judge_alike(&mut good).await.map_err(|stopped| Status::from(status::stopped(stopped)))?;
    Ok((Batch { number, explain, results, names, table, pending: None }, good))
}

async fn send(handle: &Handle, events: Vec<NewEvent>) -> Result<Option<Pending>, Status> {
    if events.is_empty() {
        return Ok(None);
    }
    handle.publish(events).await.map(Some).map_err(|stopped| status::stopped(stopped).into())
}
