//! What was said of our work, published: an event for each word, and only then forgotten by the index.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mindos_proto::rpc;
use tokio::sync::Notify;
use tonic::Code;
use tracing::{debug, warn};

use super::index::{Index, Pending, word};
use crate::grpc::{Context, status};
use crate::ingest::cloudevents::{ExtensionValue, IncomingEvent};
use crate::ingest::event::accept_incoming;
use crate::logging::Chain;
use crate::metrics::{Exposition, Kind};

/// Whose word it is.
pub const SOURCE: &str = "/github/feedback";
/// Words published at a time.
const AT_ONCE: usize = 64;
/// Between two looks where nobody says that there is something.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);
/// How long to wait where the plane has no room.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// What became of words.
#[derive(Debug, Default)]
pub struct Counts {
    published: AtomicU64,
    dropped: AtomicU64,
    pub(super) polls: AtomicU64,
    pub(super) polls_same: AtomicU64,
    pub(super) polls_failed: AtomicU64,
}

impl Counts {
    /// Writes the families.
    pub fn expose(&self, into: &mut Exposition) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let help = "Words on our work that came from GitHub, by what became of them.";
        let mut family = into.family("mindos_github_feedback_total", Kind::Counter, help);
        family.series(&[("outcome", "published")], read(&self.published));
        family.series(&[("outcome", "dropped")], read(&self.dropped));
        let help = "Requests for reactions to comments, by what became of them.";
        let mut family = into.family("mindos_github_reaction_polls_total", Kind::Counter, help);
        family.series(&[("outcome", "done")], read(&self.polls));
        family.series(&[("outcome", "unchanged")], read(&self.polls_same));
        family.series(&[("outcome", "failed")], read(&self.polls_failed));
    }
}

/// Publishes what the index holds.
#[derive(Clone, Debug)]
pub struct Publisher {
    /// The index.
    pub path: PathBuf,
    /// Told when there is something.
    pub said: Arc<Notify>,
    pub counts: Arc<Counts>,
}

impl Publisher {
    /// Publishes until the server drains.
    pub async fn run(self, context: Arc<Context>) {
        let mut wait = Duration::ZERO;
        loop {
            tokio::select! {
                () = self.said.notified() => {}
                () = tokio::time::sleep(wait) => {}
                () = context.drained() => return,
            }
            wait = match self.publish(&context).await {
                Ok(true) => RETRY_AFTER,
                Ok(false) => LOOK_INTERVAL,
                Err(error) => {
                    warn!(error = %Chain(&*error), "feedback was not read");
                    LOOK_INTERVAL
                }
            };
        }
    }

    /// Publishes all there is; true where some of it has to be tried again.
    async fn publish(&self, context: &Arc<Context>) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
        loop {
            let path = self.path.clone();
            let pending = tokio::task::spawn_blocking(move || Index::open(&path)?.pending(AT_ONCE)).await??;
            if pending.is_empty() {
                return Ok(false);
            }
            let mut done = Vec::with_capacity(pending.len());
            let mut is_full = false;
            for word in pending {
                match publish(context, &word).await {
                    Ok(duplicate) => {
                        debug!(delivery = %word.delivery, id = word.id, duplicate, "feedback was published");
                        self.counts.published.fetch_add(u64::from(!duplicate), Ordering::Relaxed);
                        done.push(word);
                    }
                    Err(error) if is_for_good(&error) => {
                        debug!(error = error.message, id = word.id, "feedback was dropped");
                        self.counts.dropped.fetch_add(1, Ordering::Relaxed);
                        done.push(word);
                    }
                    Err(error) => {
                        debug!(error = error.message, id = word.id, "feedback found no room");
                        is_full = true;
                        break;
                    }
                }
            }
            let path = self.path.clone();
            let forget = move || {
                let index = Index::open(&path)?;
                done.iter().try_for_each(|word| index.published(&word.tenant, &word.id))
            };
            tokio::task::spawn_blocking(forget).await??;
            if is_full {
                return Ok(true);
            }
        }
    }
}

/// Publishes one word that needs not be kept; false where it has to be tried again.
pub(super) async fn now(context: &Arc<Context>, word: &Pending, counts: &Counts) -> bool {
    match publish(context, word).await {
        Ok(duplicate) => {
            counts.published.fetch_add(u64::from(!duplicate), Ordering::Relaxed);
            true
        }
        Err(error) => {
            let is_for_good = is_for_good(&error);
            counts.dropped.fetch_add(u64::from(is_for_good), Ordering::Relaxed);
            is_for_good
        }
    }
}

/// Whether another try would come to the same: the delivery is forgotten, or the word was said before with another meaning.
fn is_for_good(error: &rpc::Status) -> bool {
    matches!(
        Code::from_i32(error.code),
        Code::NotFound | Code::FailedPrecondition | Code::InvalidArgument | Code::AlreadyExists
    )
}

/// Publishes one word; true where it was there already.
async fn publish(context: &Arc<Context>, pending: &Pending) -> Result<bool, rpc::Status> {
    let Pending { tenant, id, delivery, verdict, actor } = pending;
    let text = |name: &str, value: &str| (name.to_owned(), ExtensionValue::String(value.to_owned()));
    let mut extensions: std::collections::BTreeMap<_, _> = [text("mindosdelivery", &delivery.to_string())].into();
    extensions.extend(actor.as_deref().map(|actor| text("actor", actor)));
    let event = IncomingEvent {
        id: id.clone(),
        source: SOURCE.to_owned(),
        r#type: format!("dev.mindos.feedback.{}", word(*verdict)),
        subject: Some(delivery.to_string()),
        extensions,
        ..IncomingEvent::default()
    };
    context.room()?;
    let mut event = Box::new(accept_incoming(tenant, event).map_err(|error| status::event(&error))?);
    context.recall(&mut event).await;
    context.quota(&event)?;
    context.hear(&mut event).await?;
    match context.publish_one(event).await.map_err(|error| status::call(&error))? {
        mindos_core::output::Reply::Published(published) => Ok(published.duplicate),
        _ => Err(status::internal("the plane gave an answer of another kind")),
    }
}
