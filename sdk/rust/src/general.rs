//! Generals in Rust: the trait, the work they get, and what they answer.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mindos_model::{DeliveryId, FailureKind, GeneralName, Timestamp, Token};
use mindos_sidecar_core::{Progress, Usage};
use tokio::sync::watch;

use crate::agent::Handle;
use crate::budget::Spending;
use crate::effect::Effect;
use crate::{Channel, Event, RepositoryAccess};

/// An agent of some type, written in Rust. [`serve`](crate::serve()) connects it.
pub trait General: Send + Sync + 'static {
    /// Does one piece of work. Called for as many at a time as there are slots.
    ///
    /// The future is dropped when the work has to end at once, for instance because its lease is lost; [`Work::stopped`] tells
    /// earlier where there is time. The same delivery may come again after a failure, with another token.
    fn process(&self, work: Work) -> impl Future<Output = Result<Output, Failure>> + Send;

    /// Whether all its work asks [`Spending::may_spend`] before it uses a model, and stops where it may not. Of one that does not, the
    /// control plane sets a configured maximum aside for each delivery, where a budget applies.
    fn keeps_ceilings(&self) -> bool {
        false
    }

    /// Whether work may come. Asked every few seconds.
    fn ready(&self) -> impl Future<Output = bool> + Send {
        async { true }
    }

    /// Load of the models behind it, where it is known; none otherwise. Asked every few seconds; goes with the next heartbeat,
    /// and the control plane prefers instances whose models are less busy.
    fn models(&self) -> impl Future<Output = Vec<ModelLoad>> + Send {
        async { Vec::new() }
    }
}

/// What a model server or a provider reports about its load.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelLoad {
    /// Name of the model, for people. May be empty.
    pub model: String,
    /// Requests in work.
    pub running: u32,
    /// Requests that wait.
    pub queue: u32,
    /// Use of the key-value cache, 0 to 1.
    pub cache_use: Option<f64>,
    /// Tokens written in a second, all requests together.
    pub tokens_per_second: Option<f64>,
    /// Requests that the provider allows until the reset. None left, with a time to come, keeps work away until then.
    pub requests: Option<ProviderLimit>,
    /// The same of tokens.
    pub tokens: Option<ProviderLimit>,
}

/// What a provider allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProviderLimit {
    /// How much is left.
    pub remaining: u64,
    /// When there is more; unset when not known.
    pub resets_at: Option<Timestamp>,
}

/// What the work of a delivery leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkMode {
    /// The result counts, and effects are carried out.
    Live,
    /// It is compared with work that counts; effects are held back.
    Shadow,
    /// A past event is worked on again for comparison; effects are held back.
    Replay,
}

impl WorkMode {
    /// `live`, `shadow` or `replay`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            WorkMode::Live => "live",
            WorkMode::Shadow => "shadow",
            WorkMode::Replay => "replay",
        }
    }
}

/// One delivery to work on.
#[derive(Debug)]
pub struct Work {
    /// Names the delivery for its whole life.
    pub delivery: DeliveryId,
    /// Token of the lease that this attempt runs under.
    pub token: Token,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// The general that it is for.
    pub general: GeneralName,
    /// The event.
    pub event: Event,
    /// The lane in which the delivery keeps its order.
    pub lane: String,
    /// Name of the route that made the delivery.
    pub route: String,
    /// Whether effects count: not for shadow and replay.
    pub live: bool,
    /// What it leads to.
    pub mode: WorkMode,
    /// W3C trace context, or empty.
    pub traceparent: String,
    /// W3C trace state, or empty.
    pub tracestate: String,
    /// When the attempt has to be done.
    pub deadline: Option<Timestamp>,
    /// The state that the attempt before left with [`Work::progress`], or empty.
    pub checkpoint: Bytes,
    pub(crate) reporter: Reporter,
    pub(crate) spending: Spending,
    pub(crate) stop: watch::Receiver<Option<Duration>>,
    pub(crate) channel: Channel,
}

impl Work {
    /// Names this attempt: `<delivery>-<token>`, such as `d42.1-1.3`.
    #[must_use]
    pub fn job_id(&self) -> String {
        format!("{}-{}", self.delivery, self.token)
    }

    /// Tells the control plane how far the work is; a checkpoint is made durable and given to the next attempt.
    pub fn progress(&self, progress: Progress) {
        self.reporter.progress(progress);
    }

    /// Tells how far the work is, also after the work itself was taken apart.
    #[must_use]
    pub fn reporter(&self) -> Reporter {
        self.reporter.clone()
    }

    /// What the work may use, and what it has used so far.
    #[must_use]
    pub fn spending(&self) -> Spending {
        self.spending.clone()
    }

    /// Read access to the repository of the event, for as long as this attempt holds its lease. Asked again, the same while it is good
    /// for another five minutes.
    ///
    /// # Errors
    /// [`FailureKind::Transient`] when it cannot be had just then; [`FailureKind::Poison`] when it is refused: the event names no
    /// repository, or the control plane has no access to give, so that work goes on without or ends.
    pub async fn repository_access(&self) -> Result<RepositoryAccess, Failure> {
        RepositoryAccess::ask(&self.channel, self.delivery, self.token).await
    }

    /// Returns when the work is wanted no longer, and how long it may take to end by itself.
    pub fn stopped(&self) -> impl Future<Output = Duration> + Send + 'static {
        let stop = self.stop.clone();
        stopped(stop)
    }
}

pub(crate) async fn stopped(mut stop: watch::Receiver<Option<Duration>>) -> Duration {
    let grace = stop.wait_for(Option::is_some).await.ok().and_then(|grace| *grace);
    match grace {
        Some(grace) => grace,
        // Whoever could have stopped it is gone.
        None => std::future::pending().await,
    }
}

/// Tells the control plane how far a piece of work is.
#[derive(Clone, Debug)]
pub struct Reporter {
    pub(crate) delivery: DeliveryId,
    pub(crate) token: Token,
    pub(crate) handle: Arc<Handle>,
}

impl Reporter {
    /// As [`Work::progress`].
    pub fn progress(&self, progress: Progress) {
        self.handle.progress(self.delivery, self.token, progress);
    }
}

/// What work produced.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Output {
    /// The output. Above 256 KiB it is stored as a blob.
    pub data: Bytes,
    /// Its media type. Empty means `application/octet-stream`.
    pub content_type: Cow<'static, str>,
    /// What models were used for.
    pub usage: Vec<Usage>,
    /// What is to be done outside, in this order; at most 64. Counts in [`WorkMode::Live`] only.
    pub effects: Vec<Effect>,
}

impl Output {
    /// An output that is JSON.
    #[must_use]
    pub fn json(data: impl Into<Bytes>) -> Output {
        Output { data: data.into(), content_type: Cow::Borrowed("application/json"), ..Output::default() }
    }

    /// An output that is text.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Output {
        let data = text.into().into_bytes().into();
        Output { data, content_type: Cow::Borrowed("text/plain; charset=utf-8"), ..Output::default() }
    }
}

/// Why work failed, and with that what happens to the delivery.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{kind}: {message}")]
pub struct Failure {
    /// What kind of failure.
    pub kind: FailureKind,
    /// What happened, for people. At most 4 KiB; the rest is cut.
    pub message: String,
    /// What models were used for nevertheless.
    pub usage: Vec<Usage>,
}

impl Failure {
    /// A failure of a kind.
    #[must_use]
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Failure {
        Failure { kind, message: message.into(), usage: Vec::new() }
    }

    /// May work next time.
    #[must_use]
    pub fn transient(message: impl Into<String>) -> Failure {
        Failure::new(FailureKind::Transient, message)
    }

    /// A budget has too little left: the delivery is parked until it has more.
    #[must_use]
    pub fn over_budget(message: impl Into<String>) -> Failure {
        Failure::new(FailureKind::OverBudget, message)
    }

    /// Cannot work: the delivery is parked.
    #[must_use]
    pub fn poison(message: impl Into<String>) -> Failure {
        Failure::new(FailureKind::Poison, message)
    }

    /// A limit is used up until then; uses up no attempt.
    #[must_use]
    pub fn rate_limited(until: Timestamp, message: impl Into<String>) -> Failure {
        Failure::new(FailureKind::RateLimited { until }, message)
    }

    /// The event or the output is too large: the delivery is parked.
    #[must_use]
    pub fn too_large(message: impl Into<String>) -> Failure {
        Failure::new(FailureKind::TooLarge, message)
    }
}
