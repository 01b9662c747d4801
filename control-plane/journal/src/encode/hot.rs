//! The three kinds that come with every event, without messages in between.
//!
//! Invariant: they write the bytes that the generated messages would, and read whatever those read.

use std::sync::Arc;

use mindos_core::Reservation;
use mindos_core::budget::Amount;
use mindos_core::record::{
    Choice, Degraded, DeliveryLeased, DeliverySettled, Entry, EventAccepted, GeneralKey, Load, Payload,
    PlannedDelivery, Record, Terms, Usage, Weight,
};
use mindos_model::{DeliveryId, Seq, Strategy, TenantName, Timestamp, Token};
use mindos_proto::budget::v1 as budget_pb;
use mindos_proto::convert::{Invalid, required, word};
use mindos_proto::journal::v1 as pb;
use mindos_proto::put::{put_bytes, put_long_message, put_message, put_number};
use mindos_proto::route::v1 as route_pb;
use prost::Message;

use super::budget;
use super::fields::Fields;
use super::names::{DEFAULT_TENANT, Names};
use super::read::{self, blob, fixed};
use super::record::{BLOB, default_lane, of_degraded, payload_len};
use super::{about, guard, siting, words};

/// Tags of the kinds in `Entry.record`, and of the fields before it.
const SEQ: u32 = 1;
const AT_MS: u32 = 2;
const EVENT_ACCEPTED: u32 = 3;
const DELIVERY_LEASED: u32 = 4;
const DELIVERY_SETTLED: u32 = 5;

fn entry(entry: &Entry, kind: u32, bytes: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    put_number(SEQ, entry.seq.0, bytes);
    put_number(AT_MS, entry.at.0, bytes);
    put_long_message(kind, bytes, fill);
}

pub(crate) fn event_accepted(of: &Entry, record: &EventAccepted, bytes: &mut Vec<u8>) {
    let EventAccepted {
        tenant,
        source,
        id,
        ty,
        kind,
        subject,
        lane,
        repository,
        priority,
        actor,
        time,
        key,
        digest,
        payload,
        route,
        strategy,
        judgement,
        deliveries,
        fell_back_from,
        about,
    } = record;
    entry(of, EVENT_ACCEPTED, bytes, |bytes| {
        let optional = |tag: u32, text: &Option<Arc<str>>, bytes: &mut Vec<u8>| {
            if let Some(text) = text {
                put_bytes(tag, text.as_bytes(), bytes);
            }
        };
        put_bytes(1, tenant.as_str().as_bytes(), bytes);
        put_bytes(2, source.as_bytes(), bytes);
        put_bytes(3, id.as_bytes(), bytes);
        put_bytes(4, ty.as_bytes(), bytes);
        if kind != ty {
            put_bytes(5, kind.as_bytes(), bytes);
        }
        optional(6, subject, bytes);
        if **lane != *default_lane(subject.as_deref(), source) {
            put_bytes(7, lane.as_bytes(), bytes);
        }
        optional(8, repository, bytes);
        optional(9, actor, bytes);
        put_number(10, time.map_or(0, |time| time.0), bytes);
        put_bytes(11, digest, bytes);
        put_number(12, u64::from(payload_len(payload)), bytes);
        for (ordinal, PlannedDelivery { general, parked, terms, degraded }) in (1_u64..).zip(deliveries) {
            put_message(14, bytes, |bytes| {
                put_number(1, ordinal, bytes);
                if let Some(general) = general {
                    put_general(2, general, bytes);
                }
                put_number(3, words::of_parked(*parked).unsigned_abs().into(), bytes);
                if let Some(terms) = terms {
                    let Terms { shadow, not_before, burst_since, expires } = terms.as_ref();
                    put_number(5, u64::from(*shadow), bytes);
                    put_number(6, not_before.0, bytes);
                    put_number(7, burst_since.0, bytes);
                    put_number(8, expires.0, bytes);
                }
                put_degraded(9, degraded.as_deref(), bytes);
            });
        }
        put_bytes(15, route.as_ref().map_or("", |route| route.as_str()).as_bytes(), bytes);
        put_number(16, strategy.map_or(0, |strategy| route_pb::Strategy::from(strategy) as u64), bytes);
        put_number(17, u64::from(route.is_none()), bytes);
        put_bytes(19, key, bytes);
        if let Some(from) = fell_back_from {
            put_bytes(20, from.as_str().as_bytes(), bytes);
        }
        if let Some(judgement) = judgement {
            let (guard, action, failed) = guard::of_judgement(Some(judgement));
            put_number(30, guard.unsigned_abs().into(), bytes);
            put_number(31, action.unsigned_abs().into(), bytes);
            put_number(32, u64::from(failed), bytes);
        }
        put_number(35, words::of_priority(*priority).unsigned_abs().into(), bytes);
        if let Some(about) = about {
            about::to_message(about).encode(bytes);
        }
    });
}

pub(crate) fn delivery_leased(of: &Entry, record: &DeliveryLeased, bytes: &mut Vec<u8>) {
    let DeliveryLeased {
        delivery,
        token,
        general,
        instance,
        boot,
        attempt,
        lease_ms,
        choice: Choice { generals, instances, free, connected, aside, excluded, feedback, siting },
        reservation,
        degraded,
        variant,
    } = record;
    entry(of, DELIVERY_LEASED, bytes, |bytes| {
        put_lease(*delivery, *token, bytes);
        put_general(3, general, bytes);
        put_bytes(4, instance.instance.as_str().as_bytes(), bytes);
        put_bytes(5, boot.as_str().as_bytes(), bytes);
        put_number(6, u64::from(*attempt), bytes);
        put_number(7, u64::from(*lease_ms), bytes);
        let put_load = |load: &Load, bytes: &mut Vec<u8>| {
            put_number(5, u64::from(load.open), bytes);
            put_number(6, u64::from(load.capacity), bytes);
        };
        for (general, load) in generals {
            put_message(8, bytes, |bytes| {
                put_general(1, general, bytes);
                put_load(load, bytes);
            });
        }
        for (instance, weight) in instances {
            let Weight { load, score, latency_ms, model, queue, trial } = weight;
            put_message(8, bytes, |bytes| {
                put_bytes(2, instance.instance.as_str().as_bytes(), bytes);
                put_number(3, u64::from(*score), bytes);
                put_load(load, bytes);
                put_number(7, u64::from(*latency_ms), bytes);
                put_number(8, u64::from(*model), bytes);
                put_number(9, u64::from(*queue), bytes);
                put_number(10, u64::from(*trial), bytes);
            });
        }
        for (instance, why) in excluded {
            put_message(8, bytes, |bytes| {
                put_bytes(2, instance.instance.as_str().as_bytes(), bytes);
                put_number(4, words::of_exclusion(*why).unsigned_abs().into(), bytes);
            });
        }
        if general.tenant.as_str() != DEFAULT_TENANT {
            put_bytes(9, general.tenant.as_str().as_bytes(), bytes);
        }
        put_number(10, u64::from(*free), bytes);
        put_number(11, u64::from(*connected), bytes);
        put_number(12, u64::from(*aside), bytes);
        if let Some(reservation) = reservation {
            let message = budget::of_reservation(reservation).encode_to_vec();
            put_message(16, bytes, |bytes| bytes.extend_from_slice(&message));
        }
        put_degraded(17, degraded.as_deref(), bytes);
        if let Some(variant) = variant {
            let message = about::of_variant(variant).encode_to_vec();
            put_message(20, bytes, |bytes| bytes.extend_from_slice(&message));
        }
        if let Some(feedback) = feedback {
            let message = about::of_weighing(feedback).encode_to_vec();
            put_message(21, bytes, |bytes| bytes.extend_from_slice(&message));
        }
        if let Some(siting) = siting {
            let message = siting::to_message(siting).encode_to_vec();
            put_message(22, bytes, |bytes| bytes.extend_from_slice(&message));
        }
    });
}

pub(crate) fn delivery_settled(of: &Entry, record: &DeliverySettled, bytes: &mut Vec<u8>) {
    let DeliverySettled { delivery, token, output, output_type, output_ref, usage, took_ms, charged } = record;
    entry(of, DELIVERY_SETTLED, bytes, |bytes| {
        put_lease(*delivery, *token, bytes);
        put_number(3, pb::Outcome::Succeeded as u64, bytes);
        for Usage { model, input_tokens, output_tokens, cost_micros } in usage {
            put_message(4, bytes, |bytes| {
                put_bytes(1, model.as_bytes(), bytes);
                put_number(2, *input_tokens, bytes);
                put_number(3, *output_tokens, bytes);
                put_number(4, *cost_micros, bytes);
            });
        }
        put_number(5, output.as_ref().map_or(0, payload_len).into(), bytes);
        put_number(7, *took_ms, bytes);
        put_bytes(8, output_type.as_deref().unwrap_or_default().as_bytes(), bytes);
        if let Some(digest) = output_ref {
            put_bytes(9, format!("{BLOB}{}", crate::chain::hex(digest)).as_bytes(), bytes);
        }
        if let Some(charged) = charged {
            let message = budget::of_amount(*charged).encode_to_vec();
            put_message(13, bytes, |bytes| bytes.extend_from_slice(&message));
        }
    });
}

fn put_degraded(tag: u32, degraded: Option<&Degraded>, bytes: &mut Vec<u8>) {
    if let Some(degraded) = degraded {
        let message = of_degraded(degraded).encode_to_vec();
        put_message(tag, bytes, |bytes| bytes.extend_from_slice(&message));
    }
}

fn put_lease(delivery: DeliveryId, token: Token, bytes: &mut Vec<u8>) {
    put_message(1, bytes, |bytes| {
        put_number(1, delivery.event.0, bytes);
        put_number(2, u64::from(delivery.ordinal), bytes);
    });
    put_message(2, bytes, |bytes| {
        put_number(1, u64::from(token.epoch), bytes);
        put_number(2, u64::from(token.term), bytes);
    });
}

fn put_general(tag: u32, general: &GeneralKey, bytes: &mut Vec<u8>) {
    put_message(tag, bytes, |bytes| {
        put_bytes(1, general.cluster.as_str().as_bytes(), bytes);
        put_bytes(2, general.name.as_str().as_bytes(), bytes);
    });
}

/// Reads an entry of one of the hot kinds; `None` if it is of another one, or not as this module writes it.
/// The payload goes into the entry.
pub(crate) fn decode(
    names: &mut Names,
    metadata: &[u8],
    payload: &mut Option<Payload>,
) -> Result<Option<Entry>, Invalid> {
    let mut fields = Fields(metadata);
    let (Some((SEQ, seq)), Some((AT_MS, at))) = (fields.next()?, fields.next()?) else { return Ok(None) };
    let Some((kind, body)) = fields.next()? else { return Ok(None) };
    if !fields.0.is_empty() {
        return Ok(None);
    }
    let record = match kind {
        EVENT_ACCEPTED => read_event_accepted(names, Fields(body.bytes()?), payload)?,
        DELIVERY_LEASED => read_delivery_leased(names, Fields(body.bytes()?))?,
        DELIVERY_SETTLED => read_delivery_settled(names, Fields(body.bytes()?), payload)?,
        _ => return Ok(None),
    };
    Ok(Some(Entry { seq: Seq(seq.number()?), at: Timestamp(at.number()?), record }))
}

fn read_event_accepted(
    names: &mut Names,
    mut fields: Fields<'_>,
    payload: &mut Option<Payload>,
) -> Result<Record, Invalid> {
    let (mut tenant, mut source, mut id, mut ty, mut kind, mut subject) = ("", "", "", "", "", "");
    let (mut lane, mut repository, mut actor, mut route, mut time, mut strategy) = ("", "", "", "", 0, 0);
    let (mut digest, mut key): (&[u8], &[u8]) = (&[], &[]);
    let (mut guard, mut action, mut failed) = (0, 0, 0);
    let mut fell_back_from = "";
    let (mut planned, mut priority, mut about) = (Vec::new(), 0, None);
    while let Some((tag, value)) = fields.next()? {
        match tag {
            1 => tenant = value.text()?,
            2 => source = value.text()?,
            3 => id = value.text()?,
            4 => ty = value.text()?,
            5 => kind = value.text()?,
            6 => subject = value.text()?,
            7 => lane = value.text()?,
            8 => repository = value.text()?,
            9 => actor = value.text()?,
            10 => time = value.number()?,
            11 => digest = value.bytes()?,
            14 => planned.push(Fields(value.bytes()?)),
            15 => route = value.text()?,
            16 => strategy = value.word()?,
            19 => key = value.bytes()?,
            30 => guard = value.word()?,
            31 => action = value.word()?,
            32 => failed = value.small()?,
            20 => fell_back_from = value.text()?,
            35 => priority = value.word()?,
            40 => about = Some(pb::event_accepted::About::Replay(message(value.bytes()?, "replay")?)),
            41 => about = Some(pb::event_accepted::About::Feedback(message(value.bytes()?, "feedback")?)),
            _ => {}
        }
    }
    let tenant = names.tenant(tenant)?;
    let optional = |text: &str| (!text.is_empty()).then(|| Arc::<str>::from(text));
    let lane = if lane.is_empty() { if subject.is_empty() { source } else { subject } } else { lane };
    let mut deliveries = Vec::with_capacity(planned.len());
    for fields in planned {
        deliveries.push(read_planned(names, &tenant, fields)?);
    }
    let subject = optional(subject);
    let about = about.map(|about| about::from_message(names, &tenant, about)).transpose()?.map(Box::new);
    Ok(Record::EventAccepted(Box::new(EventAccepted {
        source: names.text(source),
        id: Arc::from(id),
        ty: names.text(ty),
        kind: names.text(if kind.is_empty() { ty } else { kind }),
        // Often the same text, which is then shared.
        lane: subject.clone().filter(|subject| **subject == *lane).unwrap_or_else(|| Arc::from(lane)),
        repository: (!repository.is_empty()).then(|| names.text(repository)),
        priority: words::priority(priority)?,
        actor: (!actor.is_empty()).then(|| names.text(actor)),
        time: (time > 0).then_some(Timestamp(time)),
        key: fixed(key, "dedupe_key")?,
        digest: fixed(digest, "content_digest")?,
        payload: required(payload.take(), "payload")?,
        route: if route.is_empty() { None } else { Some(names.route(route)?) },
        strategy: word::<route_pb::Strategy, Strategy>(strategy, "strategy")?,
        judgement: guard::judgement(guard, action, failed)?,
        tenant,
        subject,
        deliveries,
        fell_back_from: if fell_back_from.is_empty() { None } else { Some(names.route(fell_back_from)?) },
        about,
    })))
}

fn read_planned(names: &mut Names, tenant: &TenantName, mut fields: Fields<'_>) -> Result<PlannedDelivery, Invalid> {
    let mut planned = PlannedDelivery { general: None, parked: None, terms: None, degraded: None };
    let mut terms = Terms::default();
    while let Some((tag, value)) = fields.next()? {
        match tag {
            2 => {
                let (cluster, name) = read_general(Fields(value.bytes()?))?;
                planned.general = Some(names.general(tenant, cluster, name)?);
            }
            3 => planned.parked = words::parked(value.word()?)?,
            5 => terms.shadow = value.number()? != 0,
            6 => terms.not_before = Timestamp(value.number()?),
            7 => terms.burst_since = Timestamp(value.number()?),
            8 => terms.expires = Timestamp(value.number()?),
            9 => planned.degraded = Some(read_degraded(names, tenant, value.bytes()?)?),
            _ => {}
        }
    }
    planned.terms = terms.boxed();
    Ok(planned)
}

fn read_general(mut fields: Fields<'_>) -> Result<(&str, &str), Invalid> {
    let (mut cluster, mut name) = ("", "");
    while let Some((tag, value)) = fields.next()? {
        match tag {
            1 => cluster = value.text()?,
            2 => name = value.text()?,
            _ => {}
        }
    }
    Ok((cluster, name))
}

fn read_delivery_leased(names: &mut Names, mut fields: Fields<'_>) -> Result<Record, Invalid> {
    let (mut delivery, mut token, mut general) = (None, None, None);
    let (mut instance, mut boot, mut tenant) = ("", "", "");
    let (mut attempt, mut lease_ms, mut free, mut connected, mut aside) = (0, 0, 0, 0, 0);
    let (mut candidates, mut reservation, mut degraded) = (Vec::new(), None, None);
    let (mut variant, mut feedback, mut siting) = (None, None, None);
    while let Some((tag, value)) = fields.next()? {
        match tag {
            1 => delivery = Some(read_delivery(Fields(value.bytes()?))?),
            2 => token = Some(read_token(Fields(value.bytes()?))?),
            3 => general = Some(read_general(Fields(value.bytes()?))?),
            4 => instance = value.text()?,
            5 => boot = value.text()?,
            6 => attempt = value.small()?,
            7 => lease_ms = value.small()?,
            8 => candidates.push(Fields(value.bytes()?)),
            9 => tenant = value.text()?,
            10 => free = value.small()?,
            11 => connected = value.small()?,
            12 => aside = value.small()?,
            16 => reservation = Some(value.bytes()?),
            17 => degraded = Some(value.bytes()?),
            20 => variant = Some(message::<pb::Variant>(value.bytes()?, "variant")?),
            21 => feedback = Some(message::<pb::Weighing>(value.bytes()?, "feedback")?),
            22 => siting = Some(message::<pb::Siting>(value.bytes()?, "siting")?),
            _ => {}
        }
    }
    let tenant = names.tenant(tenant)?;
    let (cluster, name) = required(general, "general")?;
    let feedback = feedback.map(about::weighing).map(Box::new);
    let siting = siting.map(|siting| siting::from_message(names, &tenant, siting)).transpose()?.map(Box::new);
    let mut choice = Choice { free, connected, aside, feedback, siting, ..Choice::default() };
    for mut fields in candidates {
        let (mut general, mut instance, mut weight, mut why) = (None, "", Weight::default(), 0);
        while let Some((tag, value)) = fields.next()? {
            match tag {
                1 => general = Some(read_general(Fields(value.bytes()?))?),
                2 => instance = value.text()?,
                3 => weight.score = value.small()?,
                4 => why = value.word()?,
                5 => weight.load.open = value.small()?,
                6 => weight.load.capacity = value.small()?,
                7 => weight.latency_ms = value.small()?,
                8 => weight.model = value.small()?,
                9 => weight.queue = value.small()?,
                10 => weight.trial = value.number()? != 0,
                _ => {}
            }
        }
        match general {
            Some((cluster, name)) => choice.generals.push((names.general(&tenant, cluster, name)?, weight.load)),
            None => {
                let instance = names.instance(&tenant, cluster, instance)?;
                match words::exclusion(why)? {
                    Some(why) => choice.excluded.push((instance, why)),
                    None => choice.instances.push((instance, weight)),
                }
            }
        }
    }
    Ok(Record::DeliveryLeased(Box::new(DeliveryLeased {
        delivery: required(delivery, "delivery")?,
        token: required(token, "token")?,
        general: names.general(&tenant, cluster, name)?,
        instance: names.instance(&tenant, cluster, instance)?,
        boot: names.boot(boot)?,
        attempt,
        lease_ms,
        choice,
        reservation: reservation.map(read_reservation).transpose()?,
        degraded: degraded.map(|bytes| read_degraded(names, &tenant, bytes)).transpose()?,
        variant: variant.map(|variant| about::variant(names, variant)).transpose()?.map(Box::new),
    })))
}

fn read_delivery_settled(
    names: &mut Names,
    mut fields: Fields<'_>,
    payload: &mut Option<Payload>,
) -> Result<Record, Invalid> {
    let (mut delivery, mut token, mut outcome, mut took_ms) = (None, None, 0, 0);
    let (mut output_type, mut output_ref) = ("", "");
    let (mut usage, mut charged) = (Vec::new(), None);
    while let Some((tag, value)) = fields.next()? {
        match tag {
            1 => delivery = Some(read_delivery(Fields(value.bytes()?))?),
            2 => token = Some(read_token(Fields(value.bytes()?))?),
            3 => outcome = value.word()?,
            4 => usage.push(read_usage(names, Fields(value.bytes()?))?),
            7 => took_ms = value.number()?,
            8 => output_type = value.text()?,
            9 => output_ref = value.text()?,
            13 => charged = Some(value.bytes()?),
            _ => {}
        }
    }
    if outcome != pb::Outcome::Succeeded as i32 {
        return Err(Invalid::new("outcome", format_args!("value {outcome} is not accepted here")));
    }
    Ok(Record::DeliverySettled(Box::new(DeliverySettled {
        delivery: required(delivery, "delivery")?,
        token: required(token, "token")?,
        output: payload.take(),
        output_type: (!output_type.is_empty()).then(|| names.text(output_type)),
        output_ref: blob(output_ref)?,
        usage,
        took_ms,
        charged: charged.map(read_amount).transpose()?,
    })))
}

fn message<T: Message + Default>(bytes: &[u8], field: &'static str) -> Result<T, Invalid> {
    T::decode(bytes).map_err(|error| Invalid::new(field, error))
}

fn read_reservation(bytes: &[u8]) -> Result<Box<Reservation>, Invalid> {
    let message = pb::Reservation::decode(bytes).map_err(|error| Invalid::new("reservation", error))?;
    Ok(Box::new(budget::reservation(message)))
}

fn read_degraded(names: &mut Names, tenant: &TenantName, bytes: &[u8]) -> Result<Box<Degraded>, Invalid> {
    let message = pb::Degraded::decode(bytes).map_err(|error| Invalid::new("degraded", error))?;
    read::degraded(names, tenant, message).map(Box::new)
}

fn read_amount(bytes: &[u8]) -> Result<Amount, Invalid> {
    let message = budget_pb::Amount::decode(bytes).map_err(|error| Invalid::new("charged", error))?;
    Ok(budget::amount(message))
}

fn read_usage(names: &mut Names, mut fields: Fields<'_>) -> Result<Usage, Invalid> {
    let (mut model, mut usage) = ("", Usage::default());
    while let Some((tag, value)) = fields.next()? {
        match tag {
            1 => model = value.text()?,
            2 => usage.input_tokens = value.number()?,
            3 => usage.output_tokens = value.number()?,
            4 => usage.cost_micros = value.number()?,
            _ => {}
        }
    }
    usage.model = names.text(model);
    Ok(usage)
}

fn read_delivery(mut fields: Fields<'_>) -> Result<DeliveryId, Invalid> {
    let mut message = pb::DeliveryRef::default();
    while let Some((tag, value)) = fields.next()? {
        match tag {
            1 => message.event = value.number()?,
            2 => message.ordinal = value.small()?,
            _ => {}
        }
    }
    message.try_into()
}

fn read_token(mut fields: Fields<'_>) -> Result<Token, Invalid> {
    let mut message = pb::Token::default();
    while let Some((tag, value)) = fields.next()? {
        match tag {
            1 => message.epoch = value.small()?,
            2 => message.term = value.small()?,
            _ => {}
        }
    }
    message.try_into()
}
