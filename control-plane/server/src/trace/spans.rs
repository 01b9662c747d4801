//! Spans out of records: an event's acceptance, each delivery from acceptance to its end, each lease within it.
//!
//! ```text
//!  sender's span > publish <kind> > deliver <route> > process <general> > what the general itself makes
//! ```
//! By the conventions for messaging and generative AI, as far as they fit. Invariant: what is remembered is bounded; what was forgotten
//! makes no span.

use std::collections::VecDeque;
use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use mindos_core::passage::Passage;
use mindos_core::record::{AttemptEnded, Cause, DeliveryLeased, Entry, EventAccepted, Next, Usage};
use mindos_model::{DeliveryId, Seq, Timestamp, Token};
use serde_json::{Value, json};

use super::context::{SpanId, TraceContext, attempt_span, delivery_span, event_span};

/// Events whose deliveries are followed.
const EVENTS_MAX: usize = 65_536;
/// Leases that are followed.
const LEASES_MAX: usize = 65_536;

/// The kinds of OTLP.
const INTERNAL: u8 = 1;
const PRODUCER: u8 = 4;
const CONSUMER: u8 = 5;

#[derive(Debug)]
struct Traced {
    context: TraceContext,
    at: Timestamp,
    event: Box<EventAccepted>,
}

#[derive(Debug)]
struct Lease {
    at: Timestamp,
    token: Token,
    general: String,
    cluster: String,
    instance: String,
    attempt: u32,
}

/// Makes spans of records as they become durable.
#[derive(Debug)]
pub(super) struct Spans {
    plane_id: String,
    events: HashMap<Seq, Arc<Traced>, FixedState>,
    order: VecDeque<Seq>,
    leases: HashMap<DeliveryId, Lease, FixedState>,
}

impl Spans {
    pub(super) fn new(plane_id: &str) -> Spans {
        let (events, leases) = (HashMap::default(), HashMap::default());
        Spans { plane_id: plane_id.to_owned(), events, order: VecDeque::new(), leases }
    }

    /// Adds the spans that end with this record.
    pub(super) fn take(&mut self, entry: &Entry, sample: f64, into: &mut Vec<Value>) {
        let Some(passage) = entry.record.passage() else { return };
        match passage {
            Passage::Accepted(event) => self.accepted(entry, event, sample, into),
            Passage::Leased(leased) => self.leased(entry.at, leased),
            Passage::AttemptEnded(ended) => {
                let AttemptEnded { delivery, cause, next, .. } = ended;
                let error = match cause {
                    Cause::Failed(kind) => kind.as_str(),
                    Cause::Lapsed => "lapsed",
                    Cause::Rebooted => "rebooted",
                    Cause::Undelivered => "undelivered",
                    Cause::Declined => "declined",
                    Cause::Deadline => "deadline",
                };
                self.attempt(*delivery, entry.at, Some(error), &[], into);
                if let Next::Park { reason } = next {
                    self.ended(*delivery, entry.at, "parked", Some(reason.as_str()), into);
                }
            }
            Passage::Settled(settled) => {
                self.attempt(settled.delivery, entry.at, None, &settled.usage, into);
                self.ended(settled.delivery, entry.at, "succeeded", None, into);
            }
            Passage::Cancelled(cancelled) => {
                self.attempt(cancelled.delivery, entry.at, Some("cancelled"), &[], into);
                self.ended(cancelled.delivery, entry.at, "cancelled", None, into);
            }
            Passage::Parked(parked) => {
                self.ended(parked.delivery, entry.at, "parked", Some(parked.reason.as_str()), into);
            }
            Passage::CancelRequested(_) | Passage::Redriven(_) | Passage::Carried(_) => {}
        }
    }

    fn accepted(&mut self, entry: &Entry, event: &EventAccepted, sample: f64, into: &mut Vec<Value>) {
        let context = TraceContext::of(&event.payload.bytes, &self.plane_id, entry.seq, sample);
        if !context.sampled {
            return;
        }
        while self.order.len() >= EVENTS_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.events.remove(&oldest);
            }
        }
        // Without its payload: what is needed of it is the context.
        let mut kept = Box::new(event.clone());
        kept.payload.bytes = bytes::Bytes::new();
        let traced = Arc::new(Traced { context, at: entry.at, event: kept });
        self.order.push_back(entry.seq);
        self.events.insert(entry.seq, Arc::clone(&traced));
        let mut attributes = about(&traced);
        attributes.push(text("messaging.operation.type", "send"));
        attributes.push(number("mindos.deliveries", event.deliveries.len() as u64));
        into.push(span(Span {
            traced: &traced,
            id: event_span(&self.plane_id, entry.seq),
            parent: context.parent,
            name: format!("publish {}", event.kind),
            kind: PRODUCER,
            from: entry.at,
            to: entry.at,
            attributes,
            error: None,
        }));
    }

    fn leased(&mut self, at: Timestamp, leased: &DeliveryLeased) {
        if !self.events.contains_key(&leased.delivery.event) {
            return;
        }
        if self.leases.len() >= LEASES_MAX {
            self.leases.clear();
        }
        let lease = Lease {
            at,
            token: leased.token,
            general: leased.general.name.as_str().to_owned(),
            cluster: leased.general.cluster.as_str().to_owned(),
            instance: leased.instance.instance.as_str().to_owned(),
            attempt: leased.attempt,
        };
        self.leases.insert(leased.delivery, lease);
    }

    fn attempt(
        &mut self,
        delivery: DeliveryId,
        at: Timestamp,
        error: Option<&str>,
        usage: &[Usage],
        into: &mut Vec<Value>,
    ) {
        let Some(lease) = self.leases.remove(&delivery) else { return };
        let Some(traced) = self.events.get(&delivery.event) else { return };
        let mut attributes = about(traced);
        attributes.push(text("messaging.operation.type", "process"));
        attributes.push(text("mindos.delivery", &delivery.to_string()));
        attributes.push(text("mindos.cluster", &lease.cluster));
        attributes.push(text("mindos.general", &lease.general));
        attributes.push(text("mindos.instance", &lease.instance));
        attributes.push(number("mindos.attempt", u64::from(lease.attempt)));
        if !usage.is_empty() {
            let sum = |of: fn(&Usage) -> u64| usage.iter().map(of).fold(0, u64::saturating_add);
            attributes.push(text("gen_ai.response.model", &usage[0].model));
            attributes.push(number("gen_ai.usage.input_tokens", sum(|usage| usage.input_tokens)));
            attributes.push(number("gen_ai.usage.output_tokens", sum(|usage| usage.output_tokens)));
            attributes.push(number("mindos.cost_micros", sum(|usage| usage.cost_micros)));
        }
        into.push(span(Span {
            traced,
            id: attempt_span(&self.plane_id, delivery, lease.token),
            parent: Some(delivery_span(&self.plane_id, delivery)),
            name: format!("process {}", lease.general),
            kind: CONSUMER,
            from: lease.at,
            to: at,
            attributes,
            error,
        }));
    }

    fn ended(&self, delivery: DeliveryId, at: Timestamp, outcome: &str, reason: Option<&str>, into: &mut Vec<Value>) {
        let Some(traced) = self.events.get(&delivery.event) else { return };
        let mut attributes = about(traced);
        attributes.push(text("mindos.delivery", &delivery.to_string()));
        attributes.push(text("mindos.outcome", outcome));
        let route = traced.event.route.as_ref().map_or("", |route| route.as_str());
        into.push(span(Span {
            traced,
            id: delivery_span(&self.plane_id, delivery),
            parent: Some(event_span(&self.plane_id, delivery.event)),
            name: format!("deliver {route}"),
            kind: INTERNAL,
            from: traced.at,
            to: at,
            attributes,
            error: reason,
        }));
    }
}

struct Span<'a> {
    traced: &'a Traced,
    id: SpanId,
    parent: Option<SpanId>,
    name: String,
    kind: u8,
    from: Timestamp,
    to: Timestamp,
    attributes: Vec<Value>,
    error: Option<&'a str>,
}

/// A span in the JSON of OTLP.
fn span(span: Span<'_>) -> Value {
    let Span { traced, id, parent, name, kind, from, to, mut attributes, error } = span;
    let status = match error {
        Some(error) => {
            attributes.push(text("error.type", error));
            json!({ "code": 2, "message": error })
        }
        None => json!({}),
    };
    let nanos = |at: Timestamp| (u128::from(at.0) * 1_000_000).to_string();
    json!({
        "traceId": traced.context.trace_id(),
        "spanId": id.to_string(),
        "parentSpanId": parent.map_or_else(String::new, |parent| parent.to_string()),
        "name": name,
        "kind": kind,
        "startTimeUnixNano": nanos(from),
        "endTimeUnixNano": nanos(to),
        "attributes": attributes,
        "status": status,
    })
}

/// What every span says of its event.
fn about(traced: &Traced) -> Vec<Value> {
    let event = &traced.event;
    let mut attributes = vec![
        text("messaging.system", "mindos"),
        text("messaging.message.id", &event.id),
        text("cloudevents.event_id", &event.id),
        text("cloudevents.event_source", &event.source),
        text("cloudevents.event_type", &event.ty),
        text("mindos.lane", &event.lane),
    ];
    if let Some(subject) = &event.subject {
        attributes.push(text("cloudevents.event_subject", subject));
    }
    if let Some(route) = &event.route {
        attributes.push(text("messaging.destination.name", route.as_str()));
    }
    attributes
}

fn text(key: &str, value: &str) -> Value {
    json!({ "key": key, "value": { "stringValue": value } })
}

fn number(key: &str, value: u64) -> Value {
    // OTLP has 64 bits with a sign, as text.
    json!({ "key": key, "value": { "intValue": value.min(i64::MAX as u64).to_string() } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views::testing::{Records, general};

    #[test]
    fn an_event_its_deliveries_and_their_attempts_hang_together() {
        let records = Records::default();
        let security = general("eu", "security");
        let event = records.event("o/a", "push", &[&security]);
        let delivery = DeliveryId::new(event, 1);
        records.leased(delivery, &security, 1);
        records.failed(delivery, true, Next::Wait { not_before: Timestamp(0) });
        records.leased(delivery, &security, 2);
        records.settled(delivery);
        let mut spans = Spans::new("p");
        let mut made = Vec::new();
        records.entries().iter().for_each(|entry| spans.take(entry, 1.0, &mut made));

        let names: Vec<&str> = made.iter().map(|span| span["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["publish push", "process security", "process security", "deliver pr-created"]);
        let [publish, failed, done, deliver] = &made[..] else { panic!("{made:?}") };
        assert_eq!(publish["parentSpanId"], "");
        assert_eq!(deliver["parentSpanId"], publish["spanId"]);
        assert_eq!((&failed["parentSpanId"], &done["parentSpanId"]), (&deliver["spanId"], &deliver["spanId"]));
        assert_ne!(failed["spanId"], done["spanId"]);
        assert!(made.iter().all(|span| span["traceId"] == publish["traceId"]));
        assert_eq!((&failed["status"]["code"], &done["status"]), (&json!(2), &json!({})));
        assert_eq!(done["startTimeUnixNano"], "1004000000");
        assert!(done["attributes"].as_array().unwrap().contains(&number("mindos.attempt", 2)));
        assert!(spans.leases.is_empty());
        let mut none = Vec::new();
        let mut unsampled = Spans::new("p");
        records.entries().iter().for_each(|entry| unsampled.take(entry, 0.0, &mut none));
        assert!(none.is_empty() && unsampled.events.is_empty());
    }
}
