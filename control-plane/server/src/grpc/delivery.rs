//! Deliveries: `mindos.delivery.v1.DeliveryService`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mindos_core::input::{Input, Query, Selector};
use mindos_core::journal::JournalError;
use mindos_core::output::{DeliveryView, Reply};
use mindos_core::record::Record;
use mindos_model::{DeliveryId, Status as Phase};
use mindos_proto::convert::delivery_id;
use mindos_proto::delivery::v1::delivery_service_server::DeliveryService;
use mindos_proto::delivery::v1::{
    CancelRequest, CancelResponse, Delivery, DeliveryStatus, GetRequest, GetResponse, ListRequest, ListResponse,
    RedriveRequest, RedriveResponse, WatchRequest, WatchResponse, cancel_request, redrive_request,
};
use tonic::{Request, Response, Status};

use super::delivery_filter::Filter;
use super::watch::{self, Walk, Watched};
use super::{Context, delivery_fold, delivery_list, delivery_watch, effect_list, page_size, status, words};
use crate::access::Scoped;

/// Deliveries of a page that carries the data of outputs.
const OUTPUT_PAGE_MAX: usize = 64;
/// How long the ledger is read for one delivery.
const READ_MAX: Duration = Duration::from_secs(2);
/// Deliveries named in an answer.
const NAMED_MAX: usize = 1000;
/// Deliveries that one call changes.
const CHANGED_MAX: u32 = mindos_core::SELECTED_MAX;

/// The service.
#[derive(Clone, Debug)]
pub(super) struct Deliveries {
    pub(super) context: Arc<Context>,
}

#[tonic::async_trait]
impl DeliveryService for Deliveries {
    type WatchStream = Watched<WatchResponse>;

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let context = self.context.of(&request)?;
        let GetRequest { delivery_id: id, include_output } = request.into_inner();
        let id = delivery_id(&id).map_err(|error| Status::from(status::invalid(error)))?;
        let mut delivery = context.delivery(id, include_output).await?;
        delivery.effects = effect_list::of_delivery(&context, id).await?;
        Ok(Response::new(GetResponse { delivery: Some(delivery) }))
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        let context = self.context.of(&request)?;
        let ListRequest { filter, page_size: asked, page_token, include_output } = request.into_inner();
        let limit = page_size(asked, if include_output { OUTPUT_PAGE_MAX } else { 1000 })?;
        let filter = Filter::new(filter.unwrap_or_default())?;
        let before = delivery_list::token(&page_token)?;
        let (mut deliveries, next) = delivery_list::page(&context, filter, before, limit).await?;
        if include_output {
            // One that has just ended is listed before the history knows of its output.
            let may_have =
                |delivery: &&mut Delivery| delivery.output.is_some() || delivery.status() == DeliveryStatus::Succeeded;
            for delivery in deliveries.iter_mut().filter(may_have) {
                if let Ok(id) = delivery_id(&delivery.delivery_id) {
                    *delivery = context.delivery(id, true).await?;
                }
            }
        }
        let next_page_token = next.map(|next| next.to_string()).unwrap_or_default();
        Ok(Response::new(ListResponse { deliveries, next_page_token }))
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let context = self.context.of(&request)?;
        let WatchRequest { filter, from_seq, include_output } = request.into_inner();
        let filter = Filter::new(filter.unwrap_or_default())?;
        let walk = Walk::start(&context, from_seq);
        let (sender, watched) = watch::channel();
        tokio::spawn(async move {
            tokio::select! {
                _ = delivery_watch::show(&context, walk, &filter, include_output, &sender) => {}
                () = sender.gone() => {}
            }
        });
        Ok(Response::new(watched))
    }

    async fn cancel(&self, request: Request<CancelRequest>) -> Result<Response<CancelResponse>, Status> {
        let context = self.context.of(&request)?;
        let CancelRequest { target, reason, grace: _, dry_run } = request.into_inner();
        let why = words::why(&reason).map_err(status::invalid)?;
        let target = match target {
            None => return Err(Status::invalid_argument("target: is required")),
            Some(cancel_request::Target::DeliveryId(id)) => Target::one(&id)?,
            Some(cancel_request::Target::Filter(filter)) => Target::Many(Box::new(Filter::new(filter)?.not_empty()?)),
        };
        let fitting = self::fitting(&context, &target).await?;
        if let (Target::One(id), []) = (&target, &fitting[..]) {
            return cancel_ended(&context, *id).await.map(Response::new);
        }
        let (mut response, mut changing) = (CancelResponse::default(), Vec::new());
        for view in &fitting {
            match view.status {
                Phase::Succeeded | Phase::Cancelled => response.unchanged += 1,
                Phase::Leased if view.cancel.is_some() => response.unchanged += 1,
                Phase::Leased => {
                    response.requested += 1;
                    changing.push(view.delivery);
                }
                Phase::Waiting | Phase::Parked => {
                    response.cancelled += 1;
                    changing.push(view.delivery);
                }
            }
        }
        if !dry_run && !changing.is_empty() {
            let changed = change(&context, &target, changing, |request, tenant, select, by| Input::Cancel {
                request,
                tenant,
                select,
                why: Arc::clone(&why),
                by,
            });
            changing = changed.await?;
        }
        response.delivery_ids = named(&changing);
        Ok(Response::new(response))
    }

    async fn redrive(&self, request: Request<RedriveRequest>) -> Result<Response<RedriveResponse>, Status> {
        let context = self.context.of(&request)?;
        let RedriveRequest { target, reason, dry_run } = request.into_inner();
        let why = words::why(&reason).map_err(status::invalid)?;
        let target = match target {
            None => return Err(Status::invalid_argument("target: is required")),
            Some(redrive_request::Target::DeliveryId(id)) => Target::one(&id)?,
            Some(redrive_request::Target::Filter(filter)) => Target::Many(Box::new(Filter::new(filter)?.not_empty()?)),
        };
        let fitting = self::fitting(&context, &target).await?;
        if let (Target::One(id), []) = (&target, &fitting[..]) {
            let ended = context.delivery(*id, false).await?;
            return Err(not_parked(&ended));
        }
        let parked = fitting.iter().filter(|view| view.status == Phase::Parked);
        let mut changing: Vec<DeliveryId> = parked.map(|view| view.delivery).collect();
        let unchanged = (fitting.len() - changing.len()) as u64;
        if !dry_run && !changing.is_empty() {
            let changed = change(&context, &target, changing, |request, tenant, select, by| Input::Redrive {
                request,
                tenant,
                select,
                why: Arc::clone(&why),
                by,
            });
            changing = changed.await?;
        }
        let (redriven, delivery_ids) = (changing.len() as u64, named(&changing));
        Ok(Response::new(RedriveResponse { redriven, unchanged, delivery_ids }))
    }
}

/// What is to be changed.
enum Target {
    One(DeliveryId),
    Many(Box<Filter>),
}

impl Target {
    fn one(id: &str) -> Result<Target, Status> {
        delivery_id(id).map(Target::One).map_err(|error| status::invalid(error).into())
    }
}

fn named(deliveries: &[DeliveryId]) -> Vec<String> {
    deliveries.iter().take(NAMED_MAX).map(ToString::to_string).collect()
}

fn not_parked(delivery: &Delivery) -> Status {
    Status::failed_precondition(format!(
        "delivery {} has ended: only parked ones can be redriven",
        delivery.delivery_id
    ))
}

/// The open deliveries that are meant.
async fn fitting(context: &Scoped, target: &Target) -> Result<Vec<DeliveryView>, Status> {
    match target {
        Target::One(id) => {
            let views = context.open_event(id.event).await?;
            Ok(views.into_iter().filter(|view| view.delivery == *id && !view.status.is_settled()).collect())
        }
        Target::Many(filter) => context.open_deliveries(filter, CHANGED_MAX).await,
    }
}

async fn cancel_ended(context: &Scoped, id: DeliveryId) -> Result<CancelResponse, Status> {
    let ended = context.delivery(id, false).await?;
    if ended.status == words::status(Phase::Cancelled) {
        return Ok(CancelResponse { unchanged: 1, ..CancelResponse::default() });
    }
    Err(Status::failed_precondition(format!("delivery {id} has succeeded: it cannot be cancelled any more")))
}

/// What became of a delivery that was to be cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cancelled {
    AtOnce,
    /// Its general was told to stop.
    Requested,
    /// It had ended, or its general was told before.
    Unchanged,
}

/// Cancels one open delivery.
pub(super) async fn cancel_one(context: &Scoped, view: &DeliveryView) -> Result<Cancelled, Status> {
    let becomes = match view.status {
        Phase::Succeeded | Phase::Cancelled => return Ok(Cancelled::Unchanged),
        Phase::Leased if view.cancel.is_some() => return Ok(Cancelled::Unchanged),
        Phase::Leased => Cancelled::Requested,
        Phase::Waiting | Phase::Parked => Cancelled::AtOnce,
    };
    let target = Target::One(view.delivery);
    let changed = change(context, &target, vec![view.delivery], |request, tenant, select, by| Input::Cancel {
        request,
        tenant,
        select,
        why: Arc::default(),
        by,
    });
    Ok(if changed.await?.is_empty() { Cancelled::Unchanged } else { becomes })
}

/// Has the plane change the deliveries; returns those that it did change.
async fn change(
    context: &Scoped,
    target: &Target,
    deliveries: Vec<DeliveryId>,
    make: impl Fn(mindos_core::input::RequestId, mindos_model::TenantName, Selector, Arc<str>) -> Input,
) -> Result<Vec<DeliveryId>, Status> {
    let selectors: Vec<Selector> = match target {
        // One input for all where the plane can tell them by itself.
        Target::Many(filter) => match filter.exact() {
            Some(filter) => vec![Selector::Filter { filter, limit: CHANGED_MAX }],
            None => deliveries.into_iter().map(Selector::One).collect(),
        },
        Target::One(_) => deliveries.into_iter().map(Selector::One).collect(),
    };
    let single = matches!(target, Target::One(_));
    let mut changed = Vec::new();
    for select in selectors {
        let reply = context.handle.call(|request| make(request, context.tenant().clone(), select, context.by())).await;
        match reply {
            Ok(Reply::Changed { deliveries }) => changed.extend(deliveries),
            Ok(other) => return Err(super::unexpected(&other)),
            // It ended in the meantime, which only matters to who named it.
            Err(crate::driver::CallError::Rejected(_)) if !single => {}
            Err(error) => return Err(status::call(&error).into()),
        }
    }
    Ok(changed)
}

impl Scoped {
    /// The deliveries of an event with open work; empty when there is none.
    pub(super) async fn open_event(&self, event: mindos_model::Seq) -> Result<Vec<DeliveryView>, Status> {
        let query = Query::Event { event };
        let ask = |request| Input::Query { request, tenant: self.tenant().clone(), query };
        match self.handle.call(ask).await.map_err(|error| status::call(&error))? {
            Reply::Event(view) => Ok(view.map(|view| view.deliveries).unwrap_or_default()),
            other => Err(super::unexpected(&other)),
        }
    }

    /// Open deliveries that fit, in the order of their ids.
    pub(super) async fn open_deliveries(&self, filter: &Filter, limit: u32) -> Result<Vec<DeliveryView>, Status> {
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let page = self.open_after(filter, after, limit).await?;
            let full = page.len() == limit as usize;
            after = page.last().map(|last| last.delivery);
            found.extend(page.into_iter().filter(|view| filter.fits_view(view)));
            if !full || found.len() >= limit as usize {
                found.truncate(limit as usize);
                return Ok(found);
            }
        }
    }

    /// One page of what the plane finds; the filter may be finer than what the plane looks at.
    pub(super) async fn open_after(
        &self,
        filter: &Filter,
        after: Option<DeliveryId>,
        limit: u32,
    ) -> Result<Vec<DeliveryView>, Status> {
        let query = Query::Deliveries { filter: filter.coarse(), after, limit };
        let ask = |request| Input::Query { request, tenant: self.tenant().clone(), query };
        match self.handle.call(ask).await.map_err(|error| status::call(&error))? {
            Reply::Deliveries(views) => Ok(views),
            other => Err(super::unexpected(&other)),
        }
    }

    /// One delivery with all that the ledger says about it.
    pub(super) async fn delivery(&self, id: DeliveryId, output: bool) -> Result<Delivery, Status> {
        let open = self.open_event(id.event).await?.into_iter().find(|view| view.delivery == id);
        let folded = self.blocking(move |context| context.fold_one(id, output)).await??;
        let found = match (folded, open) {
            (Some(folded), Some(view)) if !view.status.is_settled() && !delivery_fold::has_ended(&folded) => {
                Some(merged(folded, &view))
            }
            (Some(folded), _) => Some(folded),
            (None, Some(view)) => Some(words::open_delivery(&view)),
            (None, None) => None,
        };
        found.ok_or_else(|| status::not_found("delivery", id.to_string()).into())
    }

    /// Reads the ledger from the delivery's event on; what has left the journal comes from the history.
    fn fold_one(&self, id: DeliveryId, output: bool) -> Result<Option<Delivery>, Status> {
        let began = Instant::now();
        let mut folded: Option<Delivery> = None;
        let read = self.source.read(id.event, &mut |entry| {
            match &entry.record {
                Record::EventAccepted(accepted) if entry.seq == id.event && accepted.tenant == *self.tenant() => {
                    folded = delivery_fold::planned(entry.at, id, accepted);
                }
                record if delivery_fold::subject(record) == Some(id) => {
                    if let Some(folded) = &mut folded {
                        delivery_fold::fold(folded, entry, output);
                    }
                }
                _ => {}
            }
            let goes_on = folded.as_ref().is_some_and(|folded| !delivery_fold::has_ended(folded));
            goes_on && began.elapsed() < READ_MAX
        });
        match read {
            Ok(()) => {}
            Err(JournalError::Dropped { .. }) => folded = None,
            Err(error) => return Err(super::failed("journal was not read", &error)),
        }
        let whole = folded.as_ref().is_some_and(delivery_fold::has_ended) || began.elapsed() < READ_MAX;
        if folded.is_some() && whole {
            return Ok(folded);
        }
        let row = self.history.delivery(self.tenant(), id);
        let row = row.map_err(|error| super::failed("history was not read", &error))?;
        Ok(row.map(delivery_list::of_row).or(folded))
    }
}

/// What the ledger says, with what only the plane knows.
fn merged(mut folded: Delivery, view: &DeliveryView) -> Delivery {
    let open = words::open_delivery(view);
    folded.status = open.status;
    folded.general = open.general.or(folded.general);
    folded.lease = match (open.lease, folded.lease.take()) {
        (Some(open), Some(folded)) if open.token == folded.token => {
            Some(mindos_proto::delivery::v1::Lease { expires_at: open.expires_at, ..folded })
        }
        (open, _) => open,
    };
    folded.attempts_used = open.attempts_used;
    folded.park_reason = open.park_reason;
    folded.not_before = open.not_before;
    folded.cancel_requested = open.cancel_requested;
    folded
}
