//! Places: where notices go, one of each kind.
//!
//! Invariant: a kind keeps its pace also when its settings change, so that a change gives nobody another burst.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderValue, Method, header};
use mindos_core::access::Scope;
use mindos_model::{DeliveryId, ParkReason, Timestamp};
use tokio::time::Instant;

use super::discord::Discord;
use super::notice::Notice;
use super::pace::{Bucket, Pace};
use super::slack::Slack;
use super::webhook::Webhook;
use mindos_outgoing::{Request, Target};

/// What makes a request of a notice.
pub(super) trait Notifier {
    /// The request that tells of it; `None` when this place does not care.
    fn render(&self, notice: &Notice) -> Option<Request>;
}

/// A post of JSON.
pub(super) fn post(target: &Target, body: &serde_json::Value) -> Request {
    let mut request = Request::new(Method::POST, target.clone());
    request.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    request.body = Bytes::from(body.to_string());
    request
}

/// The kinds of places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Discord,
    Slack,
    Webhook,
}

impl Kind {
    pub(super) const ALL: [Kind; 3] = [Kind::Discord, Kind::Slack, Kind::Webhook];

    /// For logs and metrics.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Kind::Discord => "discord",
            Kind::Slack => "slack",
            Kind::Webhook => "webhook",
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Form {
    Discord(Discord),
    Slack(Slack),
    Webhook(Webhook),
}

/// A place, and how fast it may be told.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    pub(super) form: Form,
    pub(super) pace: Pace,
    /// Whose work and events it is told of.
    pub(crate) whose: Scope,
}

impl Place {
    /// Names the sink by which this place is told of work that was set aside. No sink of the settings can have such a name.
    pub(crate) fn sink(&self) -> String {
        format!("notify.{}", self.kind().as_str())
    }

    /// The request that tells of work that was set aside; `None` for work that comes back by itself.
    pub(crate) fn parked(
        &self,
        delivery: DeliveryId,
        reason: ParkReason,
        message: &str,
        at: Timestamp,
    ) -> Option<Request> {
        self.render(&Notice::parked(delivery, reason, message, at)?)
    }

    pub(super) fn kind(&self) -> Kind {
        match &self.form {
            Form::Discord(_) => Kind::Discord,
            Form::Slack(_) => Kind::Slack,
            Form::Webhook(_) => Kind::Webhook,
        }
    }

    pub(super) fn render(&self, notice: &Notice) -> Option<Request> {
        match &self.form {
            Form::Discord(form) => form.render(notice),
            Form::Slack(form) => form.render(notice),
            Form::Webhook(form) => form.render(notice),
        }
    }
}

/// The places in force, at most one of each kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Places(pub(super) Vec<Place>);

impl Places {
    pub(super) fn get(&self, kind: Kind) -> Option<&Place> {
        self.0.iter().find(|place| place.kind() == kind)
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Place> {
        self.0.iter()
    }

    /// Whether nobody is to be told anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// How fast each kind was told lately. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Paces(Arc<[Mutex<Bucket>; 3]>);

impl Default for Paces {
    fn default() -> Paces {
        let now = Instant::now();
        Paces(Arc::new(Kind::ALL.map(|_| Mutex::new(Bucket::new(now)))))
    }
}

impl Paces {
    /// Waits until the place may be told of one more thing.
    pub(crate) async fn take(&self, place: &Place) {
        let bucket = &self.0[place.kind() as usize];
        let at = bucket.lock().unwrap_or_else(PoisonError::into_inner).take(place.pace, Instant::now());
        tokio::time::sleep_until(at).await;
    }
}
