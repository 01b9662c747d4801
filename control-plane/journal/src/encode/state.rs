//! Snapshot items as bytes and back.

use std::sync::Arc;

use bytes::Bytes;
use mindos_core::input::Seen;
use mindos_core::output::PayloadRef;
use mindos_core::record::{GeneralKey, Terms};
use mindos_core::snapshot::{DeliveryItem, Ending, EventItem, Item, PhaseItem};
use mindos_model::{Seq, Status, TenantName, Timestamp};
use mindos_proto::convert::{Invalid, required, word};
use mindos_proto::delivery::v1 as delivery;
use mindos_proto::journal::v1::{self as pb, snapshot_item::Item as Piece};
use prost::Message;

use super::names::Names;
use super::read::{self, fixed, token_or_none};
use super::record::{self, general_to_message, token_to_message};
use super::{DecodeError, RECORD_FORMAT, about, access, budget_state, effect, object, route, seen_block, words};

/// Appends an item to `bytes`.
pub(crate) fn encode(item: &Item, bytes: &mut Vec<u8>) {
    let message = pb::SnapshotItem { item: Some(to_message(item)) };
    message.encode(bytes).expect("a vector grows as needed");
}

/// Reads the items of one piece.
///
/// # Errors
/// [`DecodeError::Item`]: the snapshot was not written by a release that this one can read.
pub(crate) fn decode(names: &mut Names, bytes: &[u8], visit: &mut dyn FnMut(Item)) -> Result<(), DecodeError> {
    let message =
        pb::SnapshotItem::decode(bytes).map_err(|error| DecodeError::Item { invalid: Invalid::new("item", error) })?;
    let read = required(message.item, "item").and_then(|piece| match piece {
        Piece::DedupeBlock(pb::DedupeBlock { entries }) => seen_block::read(&entries, visit),
        Piece::EffectKeys(pb::EffectKeyBlock { entries }) => effect::read_keys(&entries, visit),
        piece => from_message(names, piece).map(visit),
    });
    read.map_err(|invalid| DecodeError::Item { invalid })
}

fn to_message(item: &Item) -> Piece {
    match item {
        Item::Header { seq, at, epoch } => {
            Piece::Header(pb::SnapshotHeader { format: RECORD_FORMAT, epoch: *epoch, seq: seq.0, at_ms: at.0 })
        }
        Item::Cluster(cluster) => Piece::Cluster(record::cluster_registered(cluster)),
        Item::General(general) => Piece::General(record::general_registered(general)),
        Item::Hold(hold) => Piece::Hold(record::hold_changed(hold)),
        Item::Routes { tenant, at, table } => Piece::Routes(pb::RoutesState {
            tenant: record::tenant(tenant),
            routes_seq: at.0,
            table: Some(route::table_to_message(table)),
        }),
        Item::Route { tenant, route, cursor } => Piece::Route(pb::RouteState {
            tenant: record::tenant(tenant),
            route: Some(route::to_message(route)),
            cursor: cursor.as_deref().map(general_to_message),
        }),
        Item::Event(event) => Piece::Event(event_to_message(event)),
        Item::Seen { key, at, seen: Seen { event, digest } } => Piece::Dedupe(pb::DedupeState {
            key: Bytes::copy_from_slice(key),
            seq: event.0,
            content_digest: Bytes::copy_from_slice(digest),
            at_ms: at.0,
        }),
        Item::Budget(_) | Item::Estimate { .. } | Item::Spend { .. } | Item::Over { .. } => {
            budget_state::to_message(item)
        }
        Item::Opinion { general, version, voices } => about::of_opinion(general, version, *voices),
        Item::Voice { voice, verdict } => about::of_voice(voice, *verdict),
        Item::Access(item) => access::state::to_message(item),
        Item::EffectSeries(item) => effect::of_series(item),
        Item::Effect(item) => effect::of_item(item),
        Item::EffectKey { key, at, effect } => effect::of_key(key, *effect, *at),
        Item::Object(item) => Piece::Object(object::of_object(item)),
        Item::EffectObserved { effect, observed } => effect::of_observed(*effect, observed),
        Item::Settled { delivery, token, ending } => Piece::Settled(pb::SettledState {
            delivery: Some((*delivery).into()),
            token: token_to_message(*token),
            cancelled_unheld: *ending != Ending::Held,
            unanswered: *ending == Ending::Unanswered,
        }),
    }
}

fn event_to_message(event: &EventItem) -> pb::EventState {
    let EventItem {
        event,
        tenant,
        kind,
        lane,
        repository,
        source,
        priority,
        route,
        accepted,
        payload: PayloadRef { seq, len },
        deliveries,
        race,
        replay,
    } = event;
    pb::EventState {
        seq: event.0,
        tenant: record::tenant(tenant),
        kind: kind.to_string(),
        lane: lane.to_string(),
        repository: repository.as_deref().unwrap_or_default().to_owned(),
        route: route.to_string(),
        accepted_ms: accepted.0,
        payload_seq: seq.0,
        payload_len: *len,
        deliveries: deliveries.iter().map(delivery_to_message).collect(),
        race: *race,
        priority: words::of_priority(*priority),
        source: source.as_deref().unwrap_or_default().to_owned(),
        replay: replay.as_deref().map(about::of_replay),
    }
}

fn delivery_to_message(item: &DeliveryItem) -> pb::DeliveryState {
    let DeliveryItem { general, phase, token, attempts, place, held_ms, held_since, cancel, last_cause, terms } = item;
    let Terms { shadow, not_before, burst_since, expires } = terms.as_deref().copied().unwrap_or_default();
    let (cancel, superseded_by) = cancel.map_or((0, None), words::of_cancel);
    let (ended_by, cause, rate_limited_until_ms) = last_cause.map_or((0, 0, 0), words::of_cause);
    let mut message = pb::DeliveryState {
        general: general.as_deref().map(general_to_message),
        token: token_to_message(*token),
        attempts: *attempts,
        place: place.0,
        held_ms: *held_ms,
        held_since_ms: held_since.map(|since| since.0),
        cancel,
        superseded_by,
        ended_by,
        cause,
        rate_limited_until_ms,
        shadow,
        planned_not_before_ms: not_before.0,
        burst_since_ms: burst_since.0,
        expires_ms: expires.0,
        ..Default::default()
    };
    let status = match phase {
        PhaseItem::Waiting { not_before } => {
            message.not_before_ms = not_before.0;
            Status::Waiting
        }
        PhaseItem::Leased { general, instance, boot, since } => {
            message.holder = Some(general_to_message(general));
            message.instance = instance.instance.to_string();
            message.boot = boot.to_string();
            message.since_ms = since.0;
            Status::Leased
        }
        PhaseItem::Parked { reason, since } => {
            message.parked = words::of_parked(Some(*reason));
            message.since_ms = since.0;
            Status::Parked
        }
        PhaseItem::Succeeded { general } => {
            message.holder = general.as_deref().map(general_to_message);
            Status::Succeeded
        }
        PhaseItem::Cancelled => Status::Cancelled,
    };
    message.status = delivery::DeliveryStatus::from(status) as i32;
    message
}

fn from_message(names: &mut Names, piece: Piece) -> Result<Item, Invalid> {
    Ok(match piece {
        Piece::Header(pb::SnapshotHeader { format, epoch, seq, at_ms }) => {
            if format > RECORD_FORMAT {
                return Err(Invalid::new("format", format_args!("is {format}, this program reads {RECORD_FORMAT}")));
            }
            Item::Header { seq: Seq(seq), at: Timestamp(at_ms), epoch }
        }
        Piece::Cluster(message) => Item::Cluster(read::read_cluster_registered(names, message)?),
        Piece::General(message) => Item::General(read::read_general_registered(names, message)?),
        Piece::Hold(message) => Item::Hold(read::read_hold_changed(names, message)?),
        Piece::Routes(pb::RoutesState { tenant, routes_seq, table }) => Item::Routes {
            tenant: names.tenant(&tenant)?,
            at: Seq(routes_seq),
            table: Arc::new(route::table_from_message(required(table, "table")?)?),
        },
        Piece::Route(pb::RouteState { tenant, route, cursor }) => {
            let tenant = names.tenant(&tenant)?;
            let cursor = general(names, &tenant, cursor)?;
            Item::Route { tenant, route: Arc::new(route::from_message(required(route, "route")?)?), cursor }
        }
        Piece::Event(message) => Item::Event(Box::new(event_from_message(names, message)?)),
        Piece::Dedupe(pb::DedupeState { key, seq, content_digest, at_ms }) => Item::Seen {
            key: fixed(&key, "key")?,
            at: Timestamp(at_ms),
            seen: Seen { event: Seq(seq), digest: fixed(&content_digest, "content_digest")? },
        },
        Piece::DedupeBlock(_) | Piece::EffectKeys(_) => {
            return Err(Invalid::new("item", "is many items, not one"));
        }
        Piece::EffectSeries(message) => effect::series(names, message)?,
        Piece::Effect(message) => effect::item(names, message)?,
        Piece::EffectObserved(message) => effect::observed(message),
        Piece::Object(message) => Item::Object(object::read_object(names, message)?),
        Piece::Budget(message) => budget_state::budget(names, message)?,
        Piece::Estimate(message) => budget_state::estimate(names, message)?,
        Piece::Spend(message) => budget_state::spend(message)?,
        Piece::OverBudget(message) => budget_state::over(message)?,
        Piece::Opinion(message) => about::opinion(names, message)?,
        Piece::Voice(message) => about::voice(message)?,
        Piece::Access(message) => access::state::from_message(names, message)?,
        Piece::Settled(pb::SettledState { delivery, token, cancelled_unheld, unanswered }) => Item::Settled {
            delivery: read::delivery_id(delivery)?,
            token: token_or_none(token)?,
            ending: match (cancelled_unheld, unanswered) {
                (false, _) => Ending::Held,
                (true, false) => Ending::Answered,
                (true, true) => Ending::Unanswered,
            },
        },
    })
}

fn general(
    names: &mut Names,
    tenant: &TenantName,
    message: Option<pb::General>,
) -> Result<Option<Arc<GeneralKey>>, Invalid> {
    message.map(|general| names.general(tenant, &general.cluster, &general.name)).transpose()
}

fn event_from_message(names: &mut Names, message: pb::EventState) -> Result<EventItem, Invalid> {
    let pb::EventState {
        seq,
        tenant,
        kind,
        lane,
        repository,
        route,
        accepted_ms,
        payload_seq,
        payload_len,
        deliveries,
        race,
        priority,
        source,
        replay,
    } = message;
    let tenant = names.tenant(&tenant)?;
    let mut items = Vec::with_capacity(deliveries.len());
    for delivery in deliveries {
        items.push(delivery_from_message(names, &tenant, delivery)?);
    }
    Ok(EventItem {
        event: Seq(seq),
        kind: names.text(&kind),
        lane: names.text(&lane),
        repository: (!repository.is_empty()).then(|| names.text(&repository)),
        source: (!source.is_empty()).then(|| names.text(&source)),
        priority: words::priority(priority)?,
        route: names.route(&route)?,
        accepted: Timestamp(accepted_ms),
        payload: PayloadRef { seq: Seq(payload_seq), len: payload_len },
        deliveries: items,
        race,
        replay: replay.map(|replay| about::replay(names, replay)).transpose()?.map(Box::new),
        tenant,
    })
}

fn delivery_from_message(
    names: &mut Names,
    tenant: &TenantName,
    message: pb::DeliveryState,
) -> Result<DeliveryItem, Invalid> {
    let status = required(word::<delivery::DeliveryStatus, Status>(message.status, "status")?, "status")?;
    let holder = general(names, tenant, message.holder)?;
    let since = Timestamp(message.since_ms);
    let phase = match status {
        Status::Waiting => PhaseItem::Waiting { not_before: Timestamp(message.not_before_ms) },
        Status::Leased => {
            let general = required(holder, "holder")?;
            let instance = names.instance(tenant, general.cluster.as_str(), &message.instance)?;
            PhaseItem::Leased { general, instance, boot: names.boot(&message.boot)?, since }
        }
        Status::Parked => PhaseItem::Parked { reason: required(words::parked(message.parked)?, "parked")?, since },
        Status::Succeeded => PhaseItem::Succeeded { general: holder },
        Status::Cancelled => PhaseItem::Cancelled,
    };
    Ok(DeliveryItem {
        general: general(names, tenant, message.general)?,
        phase,
        token: token_or_none(message.token)?,
        attempts: message.attempts,
        place: Seq(message.place),
        held_ms: message.held_ms,
        held_since: message.held_since_ms.map(Timestamp),
        cancel: words::cancel(message.cancel, message.superseded_by)?,
        last_cause: words::cause(message.ended_by, message.cause, message.rate_limited_until_ms)?,
        terms: Terms {
            shadow: message.shadow,
            not_before: Timestamp(message.planned_not_before_ms),
            burst_since: Timestamp(message.burst_since_ms),
            expires: Timestamp(message.expires_ms),
        }
        .boxed(),
    })
}
