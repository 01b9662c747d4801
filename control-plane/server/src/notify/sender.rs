//! Senders: one for each notifier, with a queue, a pace and patience.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::StatusCode;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::warn;

use super::Notifier;
use super::notice::Notice;
use super::pace::{Bucket, Pace};
use crate::logging::Chain;
use crate::outgoing::{Answer, Outgoing, Request};

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

/// Where notices for one notifier are put.
#[derive(Debug)]
pub(super) struct Queue {
    name: &'static str,
    sender: mpsc::Sender<Notice>,
    counts: Arc<Counts>,
}

impl Queue {
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts)
    }

    /// Never waits: what finds no room is dropped and counted.
    pub(super) fn put(&self, notice: Notice) {
        if self.sender.try_send(notice).is_err() {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Sends what its notifier makes of notices.
#[derive(Debug)]
pub(super) struct Sender {
    notifier: Box<dyn Notifier>,
    pace: Pace,
    notices: mpsc::Receiver<Notice>,
    counts: Arc<Counts>,
    outgoing: Outgoing,
}

impl Sender {
    pub(super) fn new(notifier: Box<dyn Notifier>, pace: Pace, outgoing: Outgoing) -> (Sender, Queue) {
        let (sender, notices) = mpsc::channel(QUEUE_MAX);
        let counts = Arc::new(Counts::default());
        let queue = Queue { name: notifier.name(), sender, counts: Arc::clone(&counts) };
        (Sender { notifier, pace, notices, counts, outgoing }, queue)
    }

    /// Sends until the queue is closed.
    pub(super) async fn run(mut self) {
        let mut bucket = Bucket::new(self.pace, Instant::now());
        let mut warned: Option<Instant> = None;
        while let Some(notice) = self.notices.recv().await {
            let Some(request) = self.notifier.render(&notice) else { continue };
            tokio::time::sleep_until(bucket.take(Instant::now())).await;
            match self.deliver(&request).await {
                Ok(()) => {
                    self.counts.sent.fetch_add(1, Ordering::Relaxed);
                }
                Err(reason) => {
                    self.counts.failed.fetch_add(1, Ordering::Relaxed);
                    if warned.is_none_or(|at| at.elapsed() >= WARN_INTERVAL) {
                        warned = Some(Instant::now());
                        warn!(notifier = self.notifier.name(), reason, "notice was not delivered");
                    }
                }
            }
        }
    }

    async fn deliver(&self, request: &Request) -> Result<(), String> {
        let mut wait = RETRY_MIN;
        let mut tries = 0;
        loop {
            tries += 1;
            let (reason, after) = match self.outgoing.send(request.clone()).await {
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
fn told(answer: &Answer) -> Option<Duration> {
    answer.retry_after().or_else(|| {
        let body: serde_json::Value = serde_json::from_slice(&answer.body).ok()?;
        Duration::try_from_secs_f64(body["retry_after"].as_f64()?).ok()
    })
}
