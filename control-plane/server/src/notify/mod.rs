//! Notifiers: what people want to be told where they already are, as it happens.
//!
//! ```text
//!   records --> view --notices--> queue of each notifier --> pace --> HTTP --> Discord, Slack, a webhook
//!                                   full: dropped, counted         429: waits as told; failed: tried again, then counted
//! ```
//! Invariants: nothing here makes the plane or an answer wait; a secret is in no log line; every queue has a bound. Notices
//! are a courtesy: what happened while the process was down is not told afterwards.

mod discord;
mod notice;
mod pace;
mod sender;
mod settings;
mod slack;
#[cfg(test)]
mod tests;
mod view;
mod webhook;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Poll, Poll as Polled};

use bytes::Bytes;
use http::{HeaderValue, Method, header};

use crate::metrics::{Exposition, Kind};
use crate::outgoing::{Outgoing, Request, Target};

pub(crate) use settings::secret;
pub use settings::{DiscordEnv, NotifySection};
pub use view::NotifyView;

use notice::Notice;
use sender::{Counts, Sender};

/// A place that takes notices.
trait Notifier: Send + Sync + std::fmt::Debug {
    /// For logs and metrics.
    fn name(&self) -> &'static str;
    /// The request that tells of it; `None` when this place does not care.
    fn render(&self, notice: &Notice) -> Option<Request>;
}

/// A post of JSON.
fn post(target: &Target, body: &serde_json::Value) -> Request {
    let mut request = Request::new(Method::POST, target.clone());
    request.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    request.body = Bytes::from(body.to_string());
    request
}

/// All notifiers of a server, before they run.
#[derive(Debug, Default)]
pub struct Notifiers {
    senders: Vec<Sender>,
    queues: Vec<sender::Queue>,
}

/// Tells what one notifier is to tell.
pub struct Task(Pin<Box<dyn Future<Output = ()> + Send>>);

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Task")
    }
}

impl Future for Task {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Poll<'_>) -> Polled<()> {
        self.0.as_mut().poll(context)
    }
}

/// What became of notices, by notifier.
#[derive(Clone, Debug, Default)]
pub struct NoticeCounts(Vec<(&'static str, Arc<Counts>)>);

impl Notifiers {
    /// Makes those that are configured.
    ///
    /// # Errors
    /// Names the setting and what is accepted.
    pub fn new(section: &NotifySection, env: &DiscordEnv, outgoing: &Outgoing) -> Result<Notifiers, String> {
        let mut notifiers = Notifiers::default();
        for (notifier, pace) in section.notifiers(env)? {
            let (sender, queue) = Sender::new(notifier, pace, outgoing.clone());
            notifiers.senders.push(sender);
            notifiers.queues.push(queue);
        }
        Ok(notifiers)
    }

    /// Whether nobody is to be told anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.senders.is_empty()
    }

    /// What becomes of notices.
    #[must_use]
    pub fn counts(&self) -> NoticeCounts {
        NoticeCounts(self.queues.iter().map(|queue| (queue.name(), queue.counts())).collect())
    }

    /// The view that finds what is worth telling, and the tasks that tell it until they are dropped.
    #[must_use]
    pub fn start(self, next: mindos_model::Seq) -> (NotifyView, Vec<Task>) {
        let Notifiers { senders, queues } = self;
        (NotifyView::new(queues, next), senders.into_iter().map(|sender| Task(Box::pin(sender.run()))).collect())
    }
}

impl NoticeCounts {
    /// Shows them.
    pub fn expose(&self, into: &mut Exposition) {
        if self.0.is_empty() {
            return;
        }
        let help = "Notices by notifier and what became of them.";
        let mut family = into.family("mindos_notices_total", Kind::Counter, help);
        for (name, counts) in &self.0 {
            for (outcome, count) in counts.read() {
                family.series(&[("notifier", name), ("outcome", outcome)], count);
            }
        }
    }
}
