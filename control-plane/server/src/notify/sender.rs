//! Senders: one for each notifier, with a queue, a pace and patience.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::StatusCode;
use mindos_model::TenantName;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::warn;

use super::Configured;
use super::notice::Notice;
use super::place::{Kind, Paces, Place};
use crate::logging::Chain;
use mindos_outgoing::{Answer, Outgoing};

/// Notices that wait for one notifier; further ones are dropped.
const QUEUE_MAX: usize = 256;
/// Tries of one notice.
const TRIES_MAX: u32 = 4;
/// First wait between two tries; doubles.
const RETRY_MIN: Duration = Duration::from_secs(1);
/// Longest that a notifier's own word is heeded.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(600);
/// Between two log lines about notices that were dropped or failed.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// What became of notices.
#[derive(Debug, Default)]
pub(super) struct Counts {
    sent: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
    limited: AtomicU64,
}

impl Counts {
    pub(super) fn read(&self) -> [(&'static str, u64); 4] {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        [
            ("sent", read(&self.sent)),
            ("failed", read(&self.failed)),
            ("dropped", read(&self.dropped)),
            ("rate_limited", read(&self.limited)),
        ]
    }
}

/// Where notices for one kind of place are put.
#[derive(Debug)]
pub(super) struct Queue {
    kind: Kind,
    places: Configured,
    sender: mpsc::Sender<Notice>,
    counts: Arc<Counts>,
}

impl Queue {
    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    pub(super) fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts)
    }

    /// Never waits: what finds no room is dropped and counted. Nothing happens where no such place is configured, or is told of another
    /// tenant's events.
    pub(super) fn put(&self, notice: &Notice, tenant: &TenantName) {
        let is_told = |place: &Place| place.whose.covers_tenant(tenant);
        if self.places.load().get(self.kind).is_some_and(is_told) && self.sender.try_send(notice.clone()).is_err() {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Sends notices to the place of one kind, whichever is configured when their turn comes.
#[derive(Debug)]
pub(super) struct Sender {
    kind: Kind,
    places: Configured,
    paces: Paces,
    notices: mpsc::Receiver<Notice>,
    counts: Arc<Counts>,
    outgoing: Outgoing,
}

impl Sender {
    pub(super) fn new(kind: Kind, places: &Configured, paces: &Paces, outgoing: &Outgoing) -> (Sender, Queue) {
        let (sender, notices) = mpsc::channel(QUEUE_MAX);
        let counts = Arc::new(Counts::default());
        let queue = Queue { kind, places: Arc::clone(places), sender, counts: Arc::clone(&counts) };
        let (places, paces, outgoing) = (Arc::clone(places), paces.clone(), outgoing.clone());
        (Sender { kind, places, paces, notices, counts, outgoing }, queue)
    }

    fn place(&self) -> Option<Place> {
        self.places.load().get(self.kind).cloned()
    }

    /// Sends until the queue is closed.
    pub(super) async fn run(mut self) {
        let mut warned: Option<Instant> = None;
        while let Some(notice) = self.notices.recv().await {
            let Some(place) = self.place() else {
                self.counts.dropped.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            if place.render(&notice).is_none() {
                continue;
            }
            self.paces.take(&place).await;
            match self.deliver(&notice).await {
                Ok(()) => {
                    self.counts.sent.fetch_add(1, Ordering::Relaxed);
                }
                Err(reason) => {
                    self.counts.failed.fetch_add(1, Ordering::Relaxed);
                    if warned.is_none_or(|at| at.elapsed() >= WARN_INTERVAL) {
                        warned = Some(Instant::now());
                        warn!(notifier = self.kind.as_str(), reason, "notice was not delivered");
                    }
                }
            }
        }
    }

    async fn deliver(&self, notice: &Notice) -> Result<(), String> {
        let mut wait = RETRY_MIN;
        let mut tries = 0;
        loop {
            tries += 1;
            // Looked up at every try: what a change of the settings mended goes at once.
            let Some(request) = self.place().and_then(|place| place.render(notice)) else {
                return Err("is not configured any more".to_owned());
            };
            let (reason, after) = match self.outgoing.send(request).await {
                Ok(answer) if answer.status.is_success() => return Ok(()),
                Ok(answer) if answer.status == StatusCode::TOO_MANY_REQUESTS => {
                    // Told to wait is not a failure of the notice; only so often, though.
                    self.counts.limited.fetch_add(1, Ordering::Relaxed);
                    ("was told to wait".to_owned(), told(&answer).unwrap_or(wait).min(RETRY_AFTER_MAX))
                }
                Ok(answer) if answer.status.is_server_error() => {
                    (format!("answered {}", answer.status), told(&answer).unwrap_or(wait).min(RETRY_AFTER_MAX))
                }
                // It would be refused again.
                Ok(answer) => return Err(format!("answered {}", answer.status)),
                Err(error) => (Chain(&error).to_string(), wait),
            };
            if tries >= TRIES_MAX {
                return Err(reason);
            }
            tokio::time::sleep(after).await;
            wait *= 2;
        }
    }
}

/// When to come again: by the header, or by Discord's body.
pub(crate) fn told(answer: &Answer) -> Option<Duration> {
    answer.retry_after().or_else(|| {
        let body: serde_json::Value = serde_json::from_slice(&answer.body).ok()?;
        Duration::try_from_secs_f64(body["retry_after"].as_f64()?).ok()
    })
}
