//! Messages by HTTP: a CloudEvent in structured JSON, or a webhook, signed where a secret is configured.

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderValue, Method, header};
use mindos_model::Timestamp;
use serde_json::json;
use sha2::Sha256;

use super::message::{Message, base64};
use super::road::{Refused, judge};
use super::settings::Format;
use mindos_outgoing::{Answer, Outgoing, Request, Target};

/// An address that messages are posted to.
#[derive(Clone, PartialEq)]
pub struct Post {
    pub target: Target,
    pub format: Format,
    /// The keys that messages are signed with: the current one and, while it is being changed, the one before.
    pub keys: Vec<Vec<u8>>,
    pub headers: HeaderMap,
}

impl std::fmt::Debug for Post {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Post { target, format, keys, headers: _ } = self;
        let mut shown = f.debug_struct("Post");
        shown.field("target", target).field("format", format).field("keys", &keys.len()).finish_non_exhaustive()
    }
}

impl Post {
    /// The request for one message; `now` is signed, so that nobody can send it again later.
    pub(super) fn request(&self, message: &Message, now: Timestamp) -> Request {
        let Message { id, source, ty, subject, time, route, data } = message;
        let (media, body) = match self.format {
            Format::Webhook => ("application/json", data.to_string()),
            Format::Cloudevents => {
                let mut envelope = json!({
                    "specversion": "1.0",
                    "id": id,
                    "source": source,
                    "type": ty,
                    "subject": subject,
                    "time": time.to_string(),
                    "datacontenttype": "application/json",
                    "data": data,
                });
                if let Some(route) = route {
                    envelope["route"] = json!(route);
                }
                ("application/cloudevents+json", envelope.to_string())
            }
        };
        self.signed(id, media, Bytes::from(body), now)
    }

    /// A body under an id, signed where there are keys.
    fn signed(&self, id: &str, media: &'static str, body: Bytes, now: Timestamp) -> Request {
        let mut headers = self.headers.clone();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
        if !self.keys.is_empty() {
            let seconds = (now.0 / 1000).to_string();
            let signatures: Vec<String> =
                self.keys.iter().map(|key| format!("v1,{}", sign(key, id, &seconds, &body))).collect();
            let signatures = signatures.join(" ");
            for (name, value) in [
                ("webhook-id", id),
                ("webhook-timestamp", seconds.as_str()),
                ("webhook-signature", signatures.as_str()),
            ] {
                let value = HeaderValue::from_str(value).expect("ids, numbers and base64 are ASCII");
                headers.insert(name, value);
            }
        }
        let request = Request::new(Method::POST, self.target.clone());
        Request { headers, body, ..request }
    }

    /// Posts a body of JSON under an id of visible ASCII; says why it was not taken.
    pub(crate) async fn post(&self, client: &Outgoing, id: &str, body: Bytes, now: Timestamp) -> Result<(), String> {
        let request = self.signed(id, "application/json", body, now);
        self.send(client, request).await.map_err(|refused| refused.into_reason())
    }

    /// Sends one message.
    pub(super) async fn send(&self, client: &Outgoing, request: Request) -> Result<(), Refused> {
        judge(client.send(request).await, &self.target.origin(), Answer::retry_after)
    }
}

/// The signature of Standard Webhooks: over id, time and body.
fn sign(key: &[u8], id: &str, seconds: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in [id.as_bytes(), b".", seconds.as_bytes(), b".", body] {
        mac.update(part);
    }
    base64(&mac.finalize().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_standard_webhooks_verifies() {
        let key = crate::ingest::base64::decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signed = sign(&key, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", br#"{"test": 2432232314}"#);
        assert_eq!(signed, "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}
