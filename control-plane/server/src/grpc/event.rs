//! Events: `mindos.event.v1.EventService`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mindos_core::input::{Input, Query, Seen};
use mindos_core::journal::JournalError;
use mindos_core::output::Reply;
use mindos_core::record::{DedupeKey, Entry, EventAccepted, Record};
use mindos_core::replay::is_replay_route;
use mindos_model::{DeliveryId, Seq, TenantName, Timestamp};
use mindos_proto::cloudevents::v1::CloudEvent;
use mindos_proto::convert::{time, timestamp};
use mindos_proto::event::v1::{
    Event, EventFilter, GetRequest, GetResponse, ListRequest, ListResponse, PlannedDelivery, PublishResponse,
    PublishStreamResponse, WatchRequest, WatchResponse, get_request,
};
use mindos_proto::wire::event_service_server::EventService;
use mindos_proto::wire::{PublishRequestWire, PublishStreamRequestWire};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::watch::{self, Ended, Sender, Step, Walk, Watched};
use super::{Context, page_size, publish, seq_token, status, words};
use crate::access::Scoped;
use crate::ingest::event::key;
use crate::views::history::{EventQuery, EventRow, PageRequest};

/// Events of a page that carries their data.
const DATA_PAGE_MAX: usize = 64;
/// How long what the history has not seen yet is searched.
const TAIL_MAX: Duration = Duration::from_secs(2);

/// The service.
#[derive(Clone, Debug)]
pub(super) struct Events {
    pub(super) context: Arc<Context>,
}

#[tonic::async_trait]
impl EventService for Events {
    type PublishStreamStream = ReceiverStream<Result<PublishStreamResponse, Status>>;
    type WatchStream = Watched<WatchResponse>;

    async fn publish(&self, request: Request<PublishRequestWire>) -> Result<Response<PublishResponse>, Status> {
        let context = self.context.of(&request)?;
        publish::one(&context, request.into_inner()).await.map(Response::new)
    }

    async fn publish_stream(
        &self,
        request: Request<Streaming<PublishStreamRequestWire>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        let (sender, receiver) = mpsc::channel(publish::WINDOW);
        let context = self.context.of(&request)?;
        tokio::spawn(async move { publish::stream(&context, request.into_inner(), sender).await });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let context = self.context.of(&request)?;
        let seq = match request.into_inner().key {
            None => return Err(Status::invalid_argument("key: is required")),
            Some(get_request::Key::Seq(seq)) => Seq(seq),
            Some(get_request::Key::Name(name)) => seq_of(&context, &name.source, &name.id).await?,
        };
        let event = event(&context, seq).await?;
        Ok(Response::new(GetResponse { event: Some(event) }))
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        let context = self.context.of(&request)?;
        let ListRequest { filter, page_size: asked, page_token, include_data } = request.into_inner();
        let limit = page_size(asked, if include_data { DATA_PAGE_MAX } else { 1000 })?;
        let filter = Filter::new(filter.unwrap_or_default())?;
        let before = seq_token(&page_token)?.unwrap_or(Seq(u64::MAX));
        let found = context.blocking(move |context| page(context, &filter, before, limit)).await?;
        let (events, next) = found?;
        let next_page_token = next.map(|next| next.to_string()).unwrap_or_default();
        let mut response = ListResponse { events: Vec::with_capacity(events.len()), next_page_token };
        for mut event in events {
            if include_data {
                event = self::event(&context, Seq(event.seq)).await?;
            }
            response.events.push(event);
        }
        Ok(Response::new(response))
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let tenant = self.context.of(&request)?.tenant().clone();
        let WatchRequest { filter, from_seq, include_data } = request.into_inner();
        let filter = Filter::new(filter.unwrap_or_default())?;
        let walk = Walk::start(&self.context, from_seq);
        let (sender, watched) = watch::channel();
        tokio::spawn(async move {
            tokio::select! {
                _ = show(walk, &tenant, &filter, include_data, &sender) => {}
                () = sender.gone() => {}
            }
        });
        Ok(Response::new(watched))
    }
}

impl Context {
    /// The event that is known under a key: by the core's own window, or by the index on disk.
    pub(super) async fn seen(self: &Arc<Self>, tenant: &TenantName, key: DedupeKey) -> Result<Option<Seen>, Status> {
        let ask = |request| Input::Query { request, tenant: tenant.clone(), query: Query::Seen { key } };
        match self.handle.call(ask).await.map_err(|error| status::call(&error))? {
            Reply::Seen(Some(seen)) => Ok(Some(seen)),
            Reply::Seen(None) => self
                .blocking(move |context| context.dedupe.lookup(&key))
                .await?
                .map_err(|error| super::failed("dedupe index was not read", &error)),
            other => Err(super::unexpected(&other)),
        }
    }
}

/// The sequence of an event that its publisher named.
pub(super) async fn seq_of(context: &Scoped, source: &str, id: &str) -> Result<Seq, Status> {
    let seen = context.seen(context.tenant(), key(context.tenant(), source, id)).await?;
    seen.map(|seen| seen.event).ok_or_else(|| status::not_found("event", format!("{source} {id}")).into())
}

/// One event with its data: from the journal, or what the history kept of it.
pub(super) async fn event(context: &Scoped, seq: Seq) -> Result<Event, Status> {
    let found = context.blocking(move |context| {
        let mut found = None;
        let read = context.source.read(seq, &mut |entry| {
            let own = accepted(entry, context.tenant()).filter(|_| entry.seq == seq);
            found = own.map(|accepted| event_of(entry, accepted, true));
            false
        });
        match read {
            Ok(()) => Ok(found),
            Err(JournalError::Dropped { .. }) => {
                let row = context.history.event(context.tenant(), seq);
                row.map(|row| row.map(gone)).map_err(|error| super::failed("history was not read", &error))
            }
            Err(error) => Err(super::failed("journal was not read", &error)),
        }
    });
    found.await??.ok_or_else(|| status::not_found("event", seq.to_string()).into())
}

async fn show(
    mut walk: Walk,
    tenant: &TenantName,
    filter: &Filter,
    data: bool,
    sender: &Sender<WatchResponse>,
) -> Result<(), Ended> {
    let known = walk.known();
    if walk.next() > known {
        sender.send(WatchResponse { event: None, seq: known.0, caught_up: true }, walk.next()).await?;
    }
    loop {
        let from = walk.next();
        let step = match walk.step().await {
            Ok(Step::Closed) => {
                return Err(sender.end(status::stopped(crate::driver::Stopped).into()));
            }
            Ok(step) => step,
            Err(status) => return Err(sender.end(status)),
        };
        for entry in step.entries() {
            if let Some(accepted) = accepted(entry, tenant).filter(|accepted| filter.fits(entry.at, accepted)) {
                let event = Some(event_of(entry, accepted, data));
                let response = WatchResponse { event, seq: entry.seq.0, caught_up: entry.seq >= known };
                sender.send(response, entry.seq).await?;
            }
        }
        let seq = Seq(walk.next().0 - 1);
        let caught_up = seq >= known;
        // What was asked for is complete, which the watcher may wait for; and a sign of life.
        if matches!(step, Step::Quiet) || caught_up && from <= known {
            sender.send(WatchResponse { event: None, seq: seq.0, caught_up }, walk.next()).await?;
        }
    }
}

/// The event that a record accepts for a tenant.
fn accepted<'a>(entry: &'a Entry, tenant: &TenantName) -> Option<&'a EventAccepted> {
    match &entry.record {
        Record::EventAccepted(accepted) if accepted.tenant == *tenant => Some(accepted),
        _ => None,
    }
}

fn event_of(entry: &Entry, accepted: &EventAccepted, data: bool) -> Event {
    let event = CloudEvent::decode(accepted.payload.bytes.clone()).ok();
    let redacted = crate::ingest::event::is_stand_in(&accepted.payload.bytes);
    let payload_gone = redacted || event.is_none() || accepted.payload.bytes.is_empty();
    let event = event.map(|event| if data { event } else { CloudEvent { data: None, ..event } });
    let deliveries = (1..).zip(&accepted.deliveries).map(|(ordinal, planned)| PlannedDelivery {
        delivery_id: DeliveryId::new(entry.seq, ordinal).to_string(),
        general: planned.general.as_deref().map(words::general_name),
        park_reason: words::park_reason(planned.parked),
        ..PlannedDelivery::default()
    });
    Event {
        seq: entry.seq.0,
        event,
        kind: accepted.kind.to_string(),
        lane: accepted.lane.to_string(),
        repository: words::text(accepted.repository.as_deref()),
        actor: words::text(accepted.actor.as_deref()),
        accepted_at: Some(time(entry.at)),
        route: accepted.route.as_ref().map(ToString::to_string).unwrap_or_default(),
        strategy: words::strategy(accepted.strategy),
        deliveries: deliveries.collect(),
        payload_gone,
        payload_len: accepted.payload.bytes.len() as u64,
        content_digest: bytes::Bytes::copy_from_slice(&accepted.digest),
        redacted,
    }
}

/// An event whose record has left the journal.
fn gone(row: EventRow) -> Event {
    Event { payload_gone: true, ..listed(row) }
}

fn listed(row: EventRow) -> Event {
    use mindos_proto::cloudevents::v1::cloud_event::CloudEventAttributeValue;
    use mindos_proto::cloudevents::v1::cloud_event::cloud_event_attribute_value::Attr;
    let attributes = row.subject.iter().map(|subject| {
        let attr = Some(Attr::CeString(subject.clone()));
        ("subject".to_owned(), CloudEventAttributeValue { attr })
    });
    let event = CloudEvent {
        id: row.id,
        source: row.source,
        spec_version: "1.0".to_owned(),
        r#type: row.ty,
        attributes: attributes.collect(),
        data: None,
    };
    let deliveries = (1..).zip(row.deliveries).map(|(ordinal, planned)| PlannedDelivery {
        delivery_id: DeliveryId::new(row.seq, ordinal).to_string(),
        general: planned
            .general
            .map(|general| mindos_proto::fleet::v1::GeneralName { cluster: general.cluster, name: general.name }),
        park_reason: words::park_reason(planned.parked),
        ..PlannedDelivery::default()
    });
    Event {
        seq: row.seq.0,
        event: Some(event),
        kind: row.kind,
        lane: row.lane,
        repository: row.repository.unwrap_or_default(),
        actor: row.actor.unwrap_or_default(),
        accepted_at: Some(time(row.at)),
        route: row.route.unwrap_or_default(),
        strategy: words::strategy(row.strategy),
        deliveries: deliveries.collect(),
        payload_gone: false,
        redacted: false,
        payload_len: u64::from(row.payload_len),
        content_digest: bytes::Bytes::new(),
    }
}

/// Newest first: what the history has not seen yet, then the history; with where to go on.
fn page(context: &Scoped, filter: &Filter, before: Seq, limit: usize) -> Result<(Vec<Event>, Option<Seq>), Status> {
    let committed = context.history.committed();
    let mut events = Vec::new();
    if before > committed.next() {
        let began = Instant::now();
        let read = context.source.read(committed.next(), &mut |entry| {
            if let Some(accepted) = accepted(entry, context.tenant()).filter(|accepted| filter.fits(entry.at, accepted))
                && entry.seq < before
            {
                events.push(event_of(entry, accepted, false));
                // Only the newest are wanted.
                if events.len() >= limit * 2 {
                    events.drain(..limit);
                }
            }
            entry.seq.next() < before && began.elapsed() < TAIL_MAX
        });
        match read {
            Ok(()) | Err(JournalError::Dropped { .. }) => {}
            Err(error) => return Err(super::failed("journal was not read", &error)),
        }
        events.reverse();
        events.truncate(limit);
    }
    let mut next = events.last().map(|last| Seq(last.seq));
    if events.len() < limit {
        let query = EventQuery { before: Some(before.min(committed.next())), ..filter.0.clone() };
        let request = PageRequest { tenant: context.tenant().clone(), limit: limit - events.len() };
        let page = context.history.events(&query, &request);
        let page = page.map_err(|error| super::failed("history was not read", &error))?;
        events.extend(page.rows.into_iter().map(listed));
        next = page.next;
    }
    Ok((events, next))
}

/// The newest events that fit, oldest first; those that say something of other work are not among them.
pub(super) fn newest(context: &Scoped, query: EventQuery, limit: usize) -> Result<Vec<Seq>, Status> {
    let filter = Filter(query);
    let (mut found, mut before) = (Vec::new(), Seq(u64::MAX));
    while found.len() < limit {
        let (events, next) = page(context, &filter, before, 1000)?;
        found.extend(events.iter().filter(|event| !is_about(event)).map(|event| Seq(event.seq)));
        let Some(next) = next else { break };
        before = next;
    }
    found.truncate(limit);
    found.reverse();
    Ok(found)
}

fn is_about(event: &Event) -> bool {
    let feedback = |event: &CloudEvent| event.r#type.starts_with(super::feedback::TYPE_PREFIX);
    is_replay_route(&event.route) || event.event.as_ref().is_some_and(feedback)
}

/// Which events are meant.
#[derive(Clone, Debug)]
struct Filter(EventQuery);

impl Filter {
    fn new(filter: EventFilter) -> Result<Filter, Status> {
        let EventFilter { repository, kind, r#type, source, subject, lane, actor, since, until, route } = filter;
        let some = |text: String| (!text.is_empty()).then_some(text);
        let at = |at: Option<prost_types::Timestamp>, field| {
            at.map(|at| timestamp(&at, field)).transpose().map_err(|error| Status::from(status::invalid(error)))
        };
        Ok(Filter(EventQuery {
            repository: some(repository),
            kind: some(kind),
            ty: some(r#type),
            source: some(source),
            subject: some(subject),
            lane: some(lane),
            actor: some(actor),
            route: some(route),
            since: at(since, "filter.since")?,
            until: at(until, "filter.until")?,
            before: None,
        }))
    }

    fn fits(&self, at: Timestamp, accepted: &EventAccepted) -> bool {
        let EventQuery { repository, kind, ty, source, subject, lane, actor, route, since, until, before: _ } = &self.0;
        let fits =
            |wanted: &Option<String>, found: Option<&str>| wanted.as_deref().is_none_or(|wanted| found == Some(wanted));
        fits(repository, accepted.repository.as_deref())
            && fits(kind, Some(&accepted.kind))
            && fits(ty, Some(&accepted.ty))
            && fits(source, Some(&accepted.source))
            && fits(subject, accepted.subject.as_deref())
            && fits(lane, Some(&accepted.lane))
            && fits(actor, accepted.actor.as_deref())
            && fits(route, accepted.route.as_ref().map(|route| route.as_str()))
            && since.is_none_or(|since| at >= since)
            && until.is_none_or(|until| at < until)
    }
}
