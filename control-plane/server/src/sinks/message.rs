//! Messages to sinks: what became of a delivery, before it takes the form of the road that it goes.
//!
//! Invariant: the same record makes the same message with the same id, so that who gets it twice can tell.

use mindos_core::record::{Payload, Usage};
use mindos_model::{DeliveryId, ParkReason, Seq, TenantName, Timestamp};
use serde_json::{Value, json};

use super::settings::Outcome;

/// What is known of the event behind a delivery.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct EventFacts {
    pub tenant: Option<TenantName>,
    pub source: String,
    pub id: String,
    pub ty: String,
    pub kind: String,
    pub subject: Option<String>,
    pub lane: String,
    pub repository: Option<String>,
    pub actor: Option<String>,
    pub route: Option<String>,
}

/// The end of a delivery, or its parking.
#[derive(Clone, Debug)]
pub(super) struct Notice {
    pub seq: Seq,
    pub at: Timestamp,
    pub delivery: DeliveryId,
    pub outcome: Outcome,
    /// Why it was parked or cancelled.
    pub reason: Option<String>,
    /// The same, where it was parked.
    pub parked: Option<ParkReason>,
    /// What the last failure said. Data, never trusted.
    pub message: Option<String>,
    /// `<cluster>/<general>`, where it is known.
    pub general: Option<String>,
    pub took_ms: Option<u64>,
    pub usage: Vec<Usage>,
    pub output: Option<Payload>,
    pub output_type: Option<String>,
    pub output_ref: Option<[u8; 32]>,
}

impl Notice {
    /// One of which no more is known.
    pub(super) fn new(seq: Seq, at: Timestamp, delivery: DeliveryId, outcome: Outcome) -> Notice {
        Notice {
            seq,
            at,
            delivery,
            outcome,
            reason: None,
            parked: None,
            message: None,
            general: None,
            took_ms: None,
            usage: Vec::new(),
            output: None,
            output_type: None,
            output_ref: None,
        }
    }

    fn id(&self) -> String {
        format!("{}.{}", self.delivery, self.seq.0)
    }

    /// What the message says.
    fn data(&self, event: Option<&EventFacts>) -> Value {
        let mut data = json!({
            "delivery": self.delivery.to_string(),
            "outcome": self.outcome.as_str(),
            "reason": self.reason,
            "event_seq": self.delivery.event.0,
            "took_ms": self.took_ms,
        });
        if let Some(message) = &self.message {
            data["message"] = json!(message);
        }
        if let Some((cluster, name)) = self.general.as_deref().and_then(|general| general.split_once('/')) {
            data["general"] = json!({ "cluster": cluster, "name": name });
        }
        if let Some(event) = event {
            let EventFacts { tenant: _, source, id, ty, kind, subject, lane, repository, actor, route } = event;
            data["route"] = json!(route);
            data["event"] = json!({ "source": source, "id": id, "type": ty, "kind": kind, "subject": subject,
                "lane": lane, "repository": repository, "actor": actor });
        }
        let usage = |usage: &Usage| {
            let Usage { model, input_tokens, output_tokens, cost_micros } = usage;
            json!({ "model": &**model, "input_tokens": input_tokens, "output_tokens": output_tokens, "cost_micros": cost_micros })
        };
        if !self.usage.is_empty() {
            data["usage"] = self.usage.iter().map(usage).collect();
        }
        if let Some(output) = &self.output {
            data["output_type"] = json!(self.output_type);
            // Text as it is; other bytes as base64 says them.
            match std::str::from_utf8(&output.bytes) {
                Ok(text) => data["output"] = json!(text),
                Err(_) => data["output_base64"] = json!(base64(&output.bytes)),
            }
        }
        if let Some(blob) = &self.output_ref {
            let hex: String = blob.iter().map(|byte| format!("{byte:02x}")).collect();
            data["output_ref"] = json!(format!("sha256:{hex}"));
        }
        data
    }

    /// The message of it.
    pub(super) fn message(&self, plane_id: &str, event: Option<&EventFacts>) -> Message {
        Message {
            id: self.id(),
            source: format!("urn:mindos:{plane_id}"),
            ty: format!("dev.mindos.delivery.{}", self.outcome.as_str()),
            subject: self.delivery.to_string(),
            time: self.at,
            route: event.and_then(|event| event.route.clone()),
            data: self.data(event),
        }
    }
}

/// Data with the attributes of a CloudEvent, which sinks put where their form has them.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub id: String,
    pub source: String,
    pub ty: String,
    pub subject: String,
    pub time: Timestamp,
    pub route: Option<String>,
    pub data: Value,
}

pub(super) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let filled = digit <= chunk.len();
            text.push(if filled { char::from(DIGITS[(bits >> (18 - 6 * digit) & 63) as usize]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_padded() {
        let of = |text: &str| base64(text.as_bytes());
        assert_eq!(["", "f", "fo", "foo", "foob"].map(of), ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg=="]);
    }
}
