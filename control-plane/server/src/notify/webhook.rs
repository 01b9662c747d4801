//! A plain webhook: JSON, signed where a secret is configured.
//!
//! ```text
//! X-Mindos-Timestamp: 1795176000
//! X-Mindos-Signature: sha256=<hex of HMAC-SHA256 over timestamp, a dot and the body>
//! ```

use std::time::{SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderName, HeaderValue};
use serde_json::json;
use sha2::Sha256;

use super::notice::{Notice, Story};
use super::place::{Notifier, post};
use mindos_outgoing::{Request, Target};

const TIMESTAMP: HeaderName = HeaderName::from_static("x-mindos-timestamp");
const SIGNATURE: HeaderName = HeaderName::from_static("x-mindos-signature");

/// Posts every notice to one address.
#[derive(Clone, PartialEq)]
pub(super) struct Webhook {
    pub(super) address: Target,
    pub(super) secret: Option<String>,
}

impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Webhook").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Notifier for Webhook {
    fn render(&self, notice: &Notice) -> Option<Request> {
        let body = match notice {
            Notice::Event(glimpse) => {
                let Story { title, event, .. } = Story::of(glimpse);
                json!({ "notice": "event", "title": title, "event": event })
            }
            Notice::Parked { delivery, reason, message, at } => json!({
                "notice": "parked",
                "delivery": delivery.to_string(),
                "reason": reason.as_str(),
                "message": message,
                "timestamp": at.to_string(),
            }),
        };
        let mut request = post(&self.address, &body);
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        request.headers.insert(TIMESTAMP, HeaderValue::from(seconds));
        if let Some(secret) = &self.secret {
            request.headers.insert(SIGNATURE, sign(secret, seconds, &request.body)?);
        }
        Some(request)
    }
}

fn sign(secret: &str, seconds: u64, body: &[u8]) -> Option<HeaderValue> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).ok()?;
    mac.update(format!("{seconds}.").as_bytes());
    mac.update(body);
    let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    HeaderValue::from_str(&format!("sha256={hex}")).ok()
}
