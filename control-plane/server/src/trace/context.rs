//! W3C trace context: which trace an event belongs to, and the names of the spans that the journal's records are.
//!
//! Invariant: nothing is remembered for it. A trace's and a span's name follow from the event and the record, so what an agent is told
//! at the assignment is what is exported after the result, also across a restart.

use std::fmt;

use http::HeaderMap;
use mindos_model::{DeliveryId, Seq, Token};
use sha2::{Digest, Sha256};

use crate::ingest::cloudevents::{ExtensionValue, IncomingEvent};
use crate::ingest::event::traceparent;

/// The attribute of CloudEvents' distributed tracing extension.
pub const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";

/// Names a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanId(pub [u8; 8]);

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The trace of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace: [u8; 16],
    /// The span that the event came out of; unset where the trace begins here.
    pub parent: Option<SpanId>,
    /// Whether its spans are exported.
    pub sampled: bool,
}

impl TraceContext {
    /// The trace of an accepted event: its sender's, or one of its own, of which a share of `sample` is exported.
    #[must_use]
    pub fn of(encoded: &[u8], plane_id: &str, event: Seq, sample: f64) -> TraceContext {
        traceparent(encoded).and_then(parse).unwrap_or_else(|| {
            let hash = hash(plane_id, &format!("trace {}", event.0));
            let trace: [u8; 16] = hash[..16].try_into().expect("a hash has 32 bytes");
            let chance = u32::from_be_bytes(hash[16..20].try_into().expect("a hash has 32 bytes"));
            TraceContext { trace, parent: None, sampled: f64::from(chance) < sample * 4_294_967_296.0 }
        })
    }

    /// The trace's name.
    #[must_use]
    pub fn trace_id(&self) -> String {
        self.trace.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// What whoever works under `span` passes on.
    #[must_use]
    pub fn header(&self, span: SpanId) -> String {
        format!("00-{}-{span}-{:02x}", self.trace_id(), u8::from(self.sampled))
    }
}

/// The span of an event's acceptance.
#[must_use]
pub fn event_span(plane_id: &str, event: Seq) -> SpanId {
    span(plane_id, &format!("event {}", event.0))
}

/// The span of a delivery, from acceptance to its end.
#[must_use]
pub fn delivery_span(plane_id: &str, delivery: DeliveryId) -> SpanId {
    span(plane_id, &format!("delivery {delivery}"))
}

/// The span of one lease.
#[must_use]
pub fn attempt_span(plane_id: &str, delivery: DeliveryId, token: Token) -> SpanId {
    span(plane_id, &format!("attempt {delivery} {token}"))
}

fn span(plane_id: &str, name: &str) -> SpanId {
    let hash = hash(plane_id, name);
    SpanId(hash[..8].try_into().expect("a hash has 32 bytes"))
}

fn hash(plane_id: &str, name: &str) -> [u8; 32] {
    Sha256::new().chain_update(plane_id).chain_update([0]).chain_update(name).finalize().into()
}

/// Reads `00-<trace>-<span>-<flags>`, and versions to come as far as they begin so.
fn parse(text: &str) -> Option<TraceContext> {
    let (version, rest) = text.split_at_checked(2)?;
    let rest = rest.strip_prefix('-')?;
    let (trace, rest) = rest.split_at_checked(32)?;
    let (parent, rest) = rest.strip_prefix('-')?.split_at_checked(16)?;
    let (flags, rest) = rest.strip_prefix('-')?.split_at_checked(2)?;
    let version: [u8; 1] = hex(version)?;
    let goes_on = rest.is_empty() || (version != [0] && rest.starts_with('-'));
    let (trace, parent, flags): ([u8; 16], [u8; 8], [u8; 1]) = (hex(trace)?, hex(parent)?, hex(flags)?);
    if version == [0xff] || !goes_on || trace == [0; 16] || parent == [0; 8] {
        return None;
    }
    Some(TraceContext { trace, parent: Some(SpanId(parent)), sampled: flags[0] & 1 == 1 })
}

fn hex<const BYTES: usize>(text: &str) -> Option<[u8; BYTES]> {
    let mut bytes = [0; BYTES];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16).filter(|_| !digit.is_ascii_uppercase());
        *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()?;
    }
    Some(bytes)
}

/// Gives a webhook's event the trace that its request was sent under, if it has none of its own.
pub fn adopt(headers: &HeaderMap, event: &mut IncomingEvent) {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim).map(str::to_owned);
    let Some(parent) = text(TRACEPARENT).filter(|text| parse(text).is_some()) else { return };
    if event.extensions.contains_key(TRACEPARENT) {
        return;
    }
    event.extensions.insert(TRACEPARENT.to_owned(), ExtensionValue::String(parent));
    if let Some(state) = text(TRACESTATE).filter(|state| (1..=512).contains(&state.len())) {
        event.extensions.insert(TRACESTATE.to_owned(), ExtensionValue::String(state));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::event::encode;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn encoded(extensions: &[(&str, &str)]) -> Vec<u8> {
        let extensions =
            extensions.iter().map(|(name, value)| ((*name).to_owned(), ExtensionValue::String((*value).to_owned())));
        encode(IncomingEvent {
            id: "1".to_owned(),
            source: "/s".to_owned(),
            r#type: "t".to_owned(),
            extensions: extensions.collect(),
            data: bytes::Bytes::from_static(b"traceparent"),
            ..IncomingEvent::default()
        })
    }

    #[test]
    fn a_senders_trace_goes_on_and_others_begin_here() {
        let sent = TraceContext::of(&encoded(&[(TRACEPARENT, PARENT)]), "p", Seq(7), 0.0);
        assert_eq!(sent.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!((sent.parent.unwrap().to_string(), sent.sampled), ("00f067aa0ba902b7".to_owned(), true));
        let span = attempt_span("p", DeliveryId::new(Seq(7), 1), Token::new(1, 1));
        assert_eq!(sent.header(span), format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{span}-01"));
        let own = |event: u64, sample| TraceContext::of(&encoded(&[]), "p", Seq(event), sample);
        assert_eq!(own(7, 1.0), own(7, 1.0));
        assert_ne!(own(7, 1.0).trace_id(), own(8, 1.0).trace_id());
        assert_eq!((own(7, 1.0).sampled, own(7, 0.0).sampled, own(7, 1.0).parent), (true, false, None));
        let tenth = (0..1000).filter(|event| own(*event, 0.1).sampled).count();
        assert!((60..150).contains(&tenth), "{tenth}");
    }

    #[test]
    fn what_is_not_a_trace_context_counts_as_none() {
        for bad in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0é",
            "é0-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        assert!(parse("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00-more").is_some());
    }

    #[test]
    fn a_webhook_takes_its_requests_trace() {
        let mut headers = HeaderMap::new();
        let mut event = IncomingEvent::default();
        headers.insert(TRACEPARENT, "nonsense".parse().unwrap());
        adopt(&headers, &mut event);
        assert!(event.extensions.is_empty());
        headers.insert(TRACEPARENT, PARENT.parse().unwrap());
        headers.insert(TRACESTATE, "a=b".parse().unwrap());
        adopt(&headers, &mut event);
        assert_eq!(event.extensions[TRACEPARENT], ExtensionValue::String(PARENT.to_owned()));
        assert_eq!(event.extensions.len(), 2);
    }
}
