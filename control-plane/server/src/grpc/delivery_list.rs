//! Pages of deliveries: the open ones from the plane, those that have ended from the history, and from the journal what the
//! history has not seen yet.
//!
//! Invariant: a page is in descending order of ids and has each delivery once, in its latest state that was found.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mindos_core::journal::JournalError;
use mindos_core::record::{EventAccepted, Record};
use mindos_model::{DeliveryId, Seq, Timestamp};
use mindos_proto::convert::{delivery_id, time};
use mindos_proto::delivery::v1 as wire;
use tonic::Status;

use super::delivery_filter::Filter;
use super::{delivery_fold, words};
use crate::access::Scoped;
use crate::views::history::{DeliveryRow, PageRequest};

/// Open deliveries asked for at a time.
const VIEWS_MAX: u32 = 2000;
/// Records of the first stretch that is asked for; grows while little is found.
const STRETCH_MIN: u64 = 1 << 12;
/// How long what the history has not seen yet is searched.
const TAIL_MAX: Duration = Duration::from_secs(2);

/// Reads a page token; empty is the start.
pub(super) fn token(token: &str) -> Result<DeliveryId, Status> {
    if token.is_empty() {
        return Ok(DeliveryId::new(Seq(u64::MAX), u32::MAX));
    }
    delivery_id(token).map_err(|_| Status::invalid_argument("page_token: is not one that was given out"))
}

/// The page before `before`, and where the next one begins.
pub(super) async fn page(
    context: &Scoped,
    filter: Filter,
    before: DeliveryId,
    limit: usize,
) -> Result<(Vec<wire::Delivery>, Option<DeliveryId>), Status> {
    let filter = Arc::new(filter);
    let mut found = BTreeMap::new();
    let (for_read, of_history) = (Arc::clone(&filter), before);
    let (ended, mut next) = context.blocking(move |context| ended(context, &for_read, of_history, limit)).await??;
    found.extend(ended);
    if filter.wants_open() {
        // Nothing at or below where the history stopped may be shown yet.
        let floor = next.unwrap_or(DeliveryId::new(Seq(0), 0));
        for (id, delivery) in open(context, &filter, floor, before, limit).await? {
            found.insert(id, delivery);
        }
    }
    let mut page: Vec<_> = found.into_iter().rev().collect();
    if page.len() >= limit {
        page.truncate(limit);
        next = page.last().map(|(id, _)| *id);
    }
    Ok((page.into_iter().map(|(_, delivery)| delivery).collect(), next))
}

/// The newest open deliveries that fit, between `floor` and `before`: in stretches backwards, because the plane counts forwards.
async fn open(
    context: &Scoped,
    filter: &Filter,
    floor: DeliveryId,
    before: DeliveryId,
    limit: usize,
) -> Result<Vec<(DeliveryId, wire::Delivery)>, Status> {
    let mut found = Vec::new();
    let mut high = before.min(DeliveryId::new(context.handle.durable_seq().next(), 0));
    let mut length = STRETCH_MIN;
    while high > floor && found.len() < limit {
        let low = DeliveryId::new(Seq(high.event.0.saturating_sub(length)), 0).max(floor);
        let mut after = (low.event.0 > 0).then_some(low);
        let mut stretch = Vec::new();
        loop {
            let views = context.open_after(filter, after, VIEWS_MAX).await?;
            let more = views.len() == VIEWS_MAX as usize;
            after = views.last().map(|last| last.delivery);
            let inside = views.into_iter().filter(|view| view.delivery < high && filter.fits_view(view));
            stretch.extend(inside.filter(|view| !view.status.is_settled()));
            if !more || after.is_none_or(|after| after >= high) {
                break;
            }
        }
        found.extend(stretch.iter().rev().map(|view| (view.delivery, words::open_delivery(view))));
        high = low;
        length *= 8;
    }
    found.truncate(limit);
    Ok(found)
}

type Ended = (Vec<(DeliveryId, wire::Delivery)>, Option<DeliveryId>);

/// What has ended or is parked: the history, and over it what it has not seen yet.
fn ended(context: &Scoped, filter: &Filter, before: DeliveryId, limit: usize) -> Result<Ended, Status> {
    let Some(query) = filter.query(Some(before)) else { return Ok((Vec::new(), None)) };
    let committed = context.history.committed();
    let request = PageRequest { tenant: context.tenant().clone(), limit };
    let page = context.history.deliveries(&query, &request);
    let page = page.map_err(|error| super::failed("history was not read", &error))?;
    let mut found: BTreeMap<DeliveryId, wire::Delivery> =
        page.rows.into_iter().map(|row| (row.delivery, of_row(row))).collect();
    let floor = page.next.unwrap_or(DeliveryId::new(Seq(0), 0));
    for (id, at, delivery) in tail(context, committed, floor, before)? {
        if filter.fits(&delivery, at) {
            found.insert(id, delivery);
        } else {
            // Redriven or cancelled since: the history's row is of the past.
            found.remove(&id);
        }
    }
    Ok((found.into_iter().collect(), page.next))
}

/// Deliveries that the records behind the history are about, as these leave them.
fn tail(
    context: &Scoped,
    committed: Seq,
    floor: DeliveryId,
    before: DeliveryId,
) -> Result<Vec<(DeliveryId, Timestamp, wire::Delivery)>, Status> {
    let began = Instant::now();
    let mut entries = BTreeMap::<DeliveryId, Vec<mindos_core::record::Entry>>::new();
    let read = context.source.read(committed.next(), &mut |entry| {
        if let Some(id) = delivery_fold::subject(&entry.record).filter(|id| *id < before && *id > floor) {
            entries.entry(id).or_default().push(entry.clone());
        }
        began.elapsed() < TAIL_MAX
    });
    match read {
        Ok(()) | Err(JournalError::Dropped { .. }) => {}
        Err(error) => return Err(super::failed("journal was not read", &error)),
    }
    let mut found = Vec::new();
    let mut event: Option<(Seq, Timestamp, Box<EventAccepted>)> = None;
    for (id, entries) in entries.into_iter().rev() {
        if event.as_ref().is_none_or(|(seq, ..)| *seq != id.event) {
            let read = context.source.read(id.event, &mut |entry| {
                if let Record::EventAccepted(accepted) = &entry.record {
                    event = Some((entry.seq, entry.at, accepted.clone()));
                }
                false
            });
            if read.is_err() {
                continue;
            }
        }
        let own = |(seq, _, accepted): &&(Seq, Timestamp, Box<EventAccepted>)| {
            *seq == id.event && accepted.tenant == *context.tenant()
        };
        let Some((_, at, accepted)) = event.as_ref().filter(own) else { continue };
        if let Some(mut delivery) = delivery_fold::planned(*at, id, accepted) {
            entries.iter().for_each(|entry| delivery_fold::fold(&mut delivery, entry, false));
            delivery.attempts.clear();
            delivery.explanation = None;
            if delivery_fold::has_ended(&delivery) {
                found.push((id, *at, delivery));
            }
        }
        if began.elapsed() >= 2 * TAIL_MAX {
            break;
        }
    }
    Ok(found)
}

/// A row of the history as the API shows it.
pub(super) fn of_row(row: DeliveryRow) -> wire::Delivery {
    let settled = row.status.is_settled();
    wire::Delivery {
        delivery_id: row.delivery.to_string(),
        status: words::status(row.status),
        general: row
            .general
            .map(|general| mindos_proto::fleet::v1::GeneralName { cluster: general.cluster, name: general.name }),
        attempts_used: row.attempts,
        park_reason: words::park_reason(row.reason),
        lane: row.lane,
        superseded_by: words::superseded_by(row.superseded_by),
        event: Some(wire::DeliveryEvent {
            seq: row.delivery.event.0,
            source: row.source,
            id: row.event_id,
            r#type: row.ty,
            kind: row.kind,
            subject: row.subject.unwrap_or_default(),
            repository: row.repository.unwrap_or_default(),
        }),
        route: row.route.unwrap_or_default(),
        strategy: words::strategy(row.strategy),
        accepted_at: Some(time(row.accepted)),
        leased_at: words::maybe_time(row.leased),
        parked_at: (!settled).then(|| time(row.ended)),
        settled_at: settled.then(|| time(row.ended)),
        usage: usage(row.input_tokens, row.output_tokens, row.cost_micros),
        redrives: row.redrives,
        seq: row.seq.0,
        ..wire::Delivery::default()
    }
}

fn usage(input_tokens: u64, output_tokens: u64, cost_micros: u64) -> Vec<wire::Usage> {
    if (input_tokens, output_tokens, cost_micros) == (0, 0, 0) {
        return Vec::new();
    }
    vec![wire::Usage { input_tokens, output_tokens, cost_micros, ..wire::Usage::default() }]
}
