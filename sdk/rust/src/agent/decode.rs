//! Frames from the control plane, as messages of the core.
//!
//! `Assign`, `Extended` and `Settled` are read by hand and an assignment stays encoded; the rest is rare and decoded as generated.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mindos_model::{DeliveryId, GeneralName, Timestamp, Token};
use mindos_proto::agent::v1 as proto;
use mindos_proto::agent::v1::control_message::Message as Control;
use mindos_proto::convert;
use mindos_proto::delivery::v1 as delivery;
use mindos_sidecar_core::{
    Assign, CancelReason, Ceilings, Down, GeneralIndex, Intervals, SettledVerdict, Verdict, Welcome,
};
use prost::Message;

use super::Assignment;
use super::protobuf::{Malformed, Reader, Value, shared};

/// What a message comes to.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Read {
    /// For the core.
    Core(Down<Assignment>),
    /// The answer to an `Extend` that wanted more.
    Granted { extended: Down<Assignment>, delivery: DeliveryId, token: Token, ceilings: Ceilings },
    /// `Welcome` also sets limits.
    Welcome { welcome: Welcome, inline_max: u64 },
    /// An assignment that nobody here can do.
    Refuse { delivery: DeliveryId, token: Token, reason: String },
    /// Configuration: there is none that could be changed yet.
    Configure { version: u64 },
    /// A capability is wanted: there is none yet.
    Call { id: u64 },
    /// Nothing that this release knows.
    Unknown,
}

/// Calls `each` with the encoded messages of a frame; returns the number of the first and how many there are.
pub(super) fn frame<'a>(frame: &'a Bytes, mut each: impl FnMut(&'a [u8])) -> Result<(u64, u64), Malformed> {
    let (mut first, mut count) = (0, 0);
    let mut reader = Reader(frame);
    while let Some((number, value)) = reader.next()? {
        match (number, value) {
            (1, Value::Varint(value)) => first = value,
            (2, Value::Bytes(message)) => {
                count += 1;
                each(message);
            }
            _ => {}
        }
    }
    Ok((first, count))
}

/// The encoded events of a frame's assignments so far, by the sequence of their record: an event that goes to several generals here
/// comes once.
#[derive(Debug, Default)]
pub(super) struct Events<'a>(Vec<(u64, &'a [u8])>);

impl<'a> Events<'a> {
    /// Where deliveries of one event come apart, it is not by much.
    fn find(&self, seq: u64) -> Option<&'a [u8]> {
        self.0.iter().rev().find(|(known, _)| *known == seq).map(|(_, event)| *event)
    }
}

/// Reads one message; `general` finds the place of a general by its name.
pub(super) fn message<'a>(
    frame: &'a Bytes,
    message: &'a [u8],
    events: &mut Events<'a>,
    general: impl Fn(&str) -> Option<GeneralIndex>,
) -> Result<Read, Malformed> {
    let mut reader = Reader(message);
    match reader.next()? {
        Some((2, Value::Bytes(assign))) => read_assign(frame, assign, events, general),
        Some((3, Value::Bytes(extended))) => {
            let Lease { delivery, token, span, ceilings, .. } = Lease::read(extended)?;
            let ceilings = ceilings.map(proto::Ceilings::decode).transpose().map_err(Malformed::new)?;
            let extended = Down::Extended { delivery, token, lease: span };
            match ceilings {
                None => Ok(Read::Core(extended)),
                Some(message) => Ok(Read::Granted { extended, delivery, token, ceilings: ceilings_of(&message) }),
            }
        }
        Some((6, Value::Bytes(settled))) => {
            let Lease { delivery, token, number, .. } = Lease::read(settled)?;
            Ok(Read::Core(Down::Settled { delivery, token, verdict: settled_verdict(number) }))
        }
        Some(_) => generated(message),
        None => Ok(Read::Unknown),
    }
}

/// A message that begins with delivery and token, and has a number or a span in field 3.
struct Lease<'a> {
    delivery: DeliveryId,
    token: Token,
    number: u64,
    span: Option<Duration>,
    /// Field 4, where an answer to `Extend` has the ceilings.
    ceilings: Option<&'a [u8]>,
}

impl Lease<'_> {
    fn read(bytes: &[u8]) -> Result<Lease<'_>, Malformed> {
        let (mut delivery, mut token, mut number, mut span, mut ceilings) = (None, None, 0, None, None);
        let mut reader = Reader(bytes);
        while let Some((field, value)) = reader.next()? {
            match (field, value) {
                (1, Value::Bytes(text)) => delivery = Some(read_delivery(text)?),
                (2, Value::Bytes(bytes)) => token = Some(read_token(bytes)?),
                (3, Value::Varint(value)) => number = value,
                (3, Value::Bytes(bytes)) => span = Some(read_span(bytes)?),
                (4, Value::Bytes(bytes)) => ceilings = Some(bytes),
                _ => {}
            }
        }
        match (delivery, token) {
            (Some(delivery), Some(token)) => Ok(Lease { delivery, token, number, span, ceilings }),
            _ => Err(Malformed::new("a message about a lease names none")),
        }
    }
}

/// Ceilings as the core has them; a time that is none is no limit.
pub(crate) fn ceilings_of(message: &proto::Ceilings) -> Ceilings {
    let time = message.time.as_ref().and_then(|time| mindos_proto::convert::duration(time, "ceilings.time").ok());
    Ceilings { cost_micros: message.cost_micros, tokens: message.tokens, time }
}

fn read_assign<'a>(
    frame: &'a Bytes,
    encoded: &'a [u8],
    events: &mut Events<'a>,
    general: impl Fn(&str) -> Option<GeneralIndex>,
) -> Result<Read, Malformed> {
    let (mut delivery, mut token, mut name, mut lease, mut deadline) = (None, None, &b""[..], None, None);
    let (mut event, mut seq, mut is_elsewhere) = (None, 0, false);
    let mut reader = Reader(encoded);
    while let Some((field, value)) = reader.next()? {
        match (field, value) {
            (1, Value::Bytes(text)) => delivery = Some(read_delivery(text)?),
            (2, Value::Bytes(bytes)) => token = Some(read_token(bytes)?),
            (3, Value::Bytes(bytes)) => name = bytes,
            (4, Value::Bytes(bytes)) => event = Some(bytes),
            (5, Value::Bytes(bytes)) => lease = Some(read_span(bytes)?),
            (11, Value::Bytes(address)) => is_elsewhere = !address.is_empty(),
            (14, Value::Bytes(bytes)) => deadline = Some(read_time(bytes)?),
            (16, Value::Varint(value)) => seq = value,
            _ => {}
        }
    }
    let event = match event {
        Some(event) => {
            events.0.push((seq, event));
            None
        }
        None if is_elsewhere => None,
        None => Some(events.find(seq).ok_or_else(|| Malformed::new("an assignment has no event"))?),
    };
    let (Some(delivery), Some(token)) = (delivery, token) else {
        return Err(Malformed::new("an assignment names no lease"));
    };
    match std::str::from_utf8(name).ok().and_then(general) {
        Some(general) => {
            let work = Assignment { encoded: shared(frame, encoded), event: event.map(|event| shared(frame, event)) };
            Ok(Read::Core(Down::Assign(Assign { delivery, token, general, lease, deadline, work })))
        }
        None => {
            let reason = format!("general `{}` is not served here", String::from_utf8_lossy(name));
            Ok(Read::Refuse { delivery, token, reason })
        }
    }
}

fn read_delivery(text: &[u8]) -> Result<DeliveryId, Malformed> {
    std::str::from_utf8(text).map_err(Malformed::new)?.parse().map_err(Malformed::new)
}

fn read_token(bytes: &[u8]) -> Result<Token, Malformed> {
    let mut token = Token::default();
    let mut reader = Reader(bytes);
    while let Some((field, value)) = reader.next()? {
        match (field, value) {
            (1, Value::Varint(epoch)) => token.epoch = u32::try_from(epoch).map_err(Malformed::new)?,
            (2, Value::Varint(term)) => token.term = u32::try_from(term).map_err(Malformed::new)?,
            _ => {}
        }
    }
    Ok(token)
}

fn read_span(bytes: &[u8]) -> Result<Duration, Malformed> {
    let span = prost_types::Duration::decode(bytes).map_err(Malformed::new)?;
    convert::duration(&span, "lease").map_err(Malformed::new)
}

fn read_time(bytes: &[u8]) -> Result<Timestamp, Malformed> {
    let time = prost_types::Timestamp::decode(bytes).map_err(Malformed::new)?;
    convert::timestamp(&time, "deadline").map_err(Malformed::new)
}

fn settled_verdict(number: u64) -> SettledVerdict {
    match i32::try_from(number).ok().and_then(|number| proto::SettleVerdict::try_from(number).ok()) {
        Some(proto::SettleVerdict::Settled) => SettledVerdict::Settled,
        Some(proto::SettleVerdict::RefusedStale) => SettledVerdict::Refused,
        Some(proto::SettleVerdict::Unknown | proto::SettleVerdict::Unspecified) | None => SettledVerdict::Unknown,
    }
}

fn generated(message: &[u8]) -> Result<Read, Malformed> {
    let message = proto::ControlMessage::decode(message).map_err(Malformed::new)?;
    let lease = |id: &str, token| convert::lease(id, token).map_err(Malformed::new);
    Ok(match message.message {
        None => Read::Unknown,
        Some(Control::Welcome(welcome)) => {
            let inline_max = welcome.limits.map_or(0, |limits| limits.inline_bytes_max);
            let (intervals, verdicts) = (intervals(welcome.intervals)?, verdicts(&welcome.verdicts)?);
            let welcome = Welcome { session: Arc::from(welcome.session), intervals, verdicts };
            Read::Welcome { welcome, inline_max }
        }
        Some(Control::Lost(lost)) => {
            let (delivery, token) = lease(&lost.delivery_id, lost.token)?;
            Read::Core(Down::Lost { delivery, token })
        }
        Some(Control::Cancel(cancel)) => {
            let (delivery, token) = lease(&cancel.delivery_id, cancel.token)?;
            let grace = match &cancel.grace {
                Some(grace) => convert::duration(grace, "grace").map_err(Malformed::new)?,
                None => Duration::from_secs(10),
            };
            Read::Core(Down::Cancel { delivery, token, reason: cancel_reason(cancel.reason()), grace })
        }
        Some(Control::Reconciled(reconciled)) => {
            Read::Core(Down::Reconciled { verdicts: verdicts(&reconciled.verdicts)? })
        }
        Some(Control::Reconcile(reconcile)) => {
            let claims = reconcile.claims.into_iter().map(|claim| lease(&claim.delivery_id, claim.token));
            Read::Core(Down::Reconcile { request: reconcile.request, claims: claims.collect::<Result<_, _>>()? })
        }
        Some(Control::Configure(configure)) => Read::Configure { version: configure.version },
        Some(Control::Drain(drain)) => {
            let names = drain.generals.iter().map(|name| GeneralName::new(name).map_err(Malformed::new));
            Read::Core(Down::Drain { generals: names.collect::<Result<_, _>>()?, reconnect: drain.reconnect })
        }
        Some(Control::Call(call)) => Read::Call { id: call.call_id },
        // Read by hand.
        Some(Control::Assign(_) | Control::Extended(_) | Control::Settled(_)) => Read::Unknown,
    })
}

fn intervals(given: Option<proto::Intervals>) -> Result<Intervals, Malformed> {
    let usual = Intervals::default();
    let Some(given) = given else { return Ok(usual) };
    let span = |span: Option<prost_types::Duration>, usual: Duration| match span {
        Some(span) => convert::duration(&span, "intervals").map_err(Malformed::new),
        None => Ok(usual),
    };
    Ok(Intervals {
        heartbeat: span(given.heartbeat, usual.heartbeat)?,
        heartbeat_idle: span(given.heartbeat_idle, usual.heartbeat_idle)?,
        lease: span(given.lease, usual.lease)?,
        extend: span(given.extend, usual.extend)?,
    })
}

fn verdicts(given: &[proto::LeaseVerdict]) -> Result<Vec<(DeliveryId, Token, Verdict)>, Malformed> {
    let read = |given: &proto::LeaseVerdict| {
        let (delivery, token) = convert::lease(&given.delivery_id, given.token).map_err(Malformed::new)?;
        let verdict = match given.verdict() {
            proto::Verdict::Keep => Verdict::Keep,
            proto::Verdict::Cancel => Verdict::Cancel,
            proto::Verdict::Unknown | proto::Verdict::Unspecified => Verdict::Unknown,
        };
        Ok((delivery, token, verdict))
    };
    given.iter().map(read).collect()
}

fn cancel_reason(reason: delivery::CancelReason) -> CancelReason {
    match reason {
        delivery::CancelReason::Superseded => CancelReason::Superseded,
        delivery::CancelReason::Budget => CancelReason::Budget,
        delivery::CancelReason::Unspecified
        | delivery::CancelReason::Human
        | delivery::CancelReason::Expired
        | delivery::CancelReason::ShadowFailed
        | delivery::CancelReason::ReplayFailed
        | delivery::CancelReason::ReplayOverBudget
        | delivery::CancelReason::Redacted => CancelReason::Human,
        delivery::CancelReason::Drain => CancelReason::Drain,
        delivery::CancelReason::Deadline => CancelReason::Deadline,
        delivery::CancelReason::RaceLost => CancelReason::RaceLost,
    }
}

/// Reads a frame as a running agent would, and says how many of its messages are well-formed; for fuzzing.
///
/// # Errors
/// When the frame as a whole is not one.
#[doc(hidden)]
pub fn probe(bytes: &[u8]) -> Result<usize, String> {
    let frame = Bytes::copy_from_slice(bytes);
    let mut good = 0;
    let mut events = Events::default();
    let each = |message| {
        good += usize::from(self::message(&frame, message, &mut events, |_| Some(GeneralIndex(0))).is_ok());
    };
    self::frame(&frame, each).map_err(|malformed| malformed.to_string())?;
    Ok(good)
}
