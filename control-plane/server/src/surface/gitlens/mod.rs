//! The aggregator and the orchestrator of the GitLens contract.
//!
//! ```text
//!   8086  /health /events /webhook/gitlens /stats, and the older gateway's /event /alert /git /webhooks/github
//!   8090  /health /distribute /status /generals/{cluster}/{name}[/status] /distributions, beside the API
//! ```
//! Bodies are as `JSON.stringify` prints them, with the fields in the contract's order; a refusal is `{"error": ..}` in the
//! contract's words, and the header `x-mindos-error` says what was wrong. Invariant: what is answered with success is on
//! stable storage.

mod aggregator;
mod answer;
mod board;
mod board_file;
mod distribute;
mod event;
mod generals;
mod orchestrator;
mod plain;
mod settings;
mod sources;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::body::Body;
use http::HeaderMap;
use mindos_core::input::NewEvent;
use mindos_core::output::{Published, Reply};
use mindos_model::limits::MESSAGE_MAX;
use mindos_model::{TenantName, Timestamp};

use crate::access::Scoped;
use crate::grpc::{Context, status};
use crate::http::HttpError;
use crate::http::body::{Bodies, Held, Sender};
use crate::ingest::cloudevents::IncomingEvent;
use crate::secure::AccessMode;

pub use aggregator::router as aggregator;
pub use board::{Board, BoardError, BoardView};
pub use generals::{expose, expose_generals};
pub use orchestrator::router as orchestrator;
pub(crate) use plain::{Glimpse, PlainEvent};
pub use settings::{ClusterSection, GitlensSection, GitlensSettings};
pub(crate) use sources::announce;
use sources::{Guard, Listener};
pub use sources::{SourcesSection, Turned};

/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Reads a body in each of the forms that this surface takes, up to the events that the plane would get: what noise is fed to.
#[must_use]
pub fn decode(headers: &HeaderMap, body: &[u8], now: Timestamp) -> Vec<IncomingEvent> {
    let Ok(object) = event::object(body) else { return Vec::new() };
    let asked = distribute::Asked::read(body, now).map(|asked| asked.event);
    let read = [event::check(&object, now), event::check_webhook(&object, now), asked];
    read.into_iter().flatten().map(|checked| checked.into_incoming(headers, "", now)).collect()
}

/// What both surfaces need.
#[derive(Debug)]
pub struct Gitlens {
    context: Arc<Context>,
    board: Board,
    settings: Arc<ArcSwap<GitlensSettings>>,
    turned: Arc<Turned>,
    bodies: Bodies,
}

impl Gitlens {
    /// Both surfaces over one plane. The settings may be swapped while they serve.
    #[must_use]
    pub fn new(
        context: Arc<Context>,
        board: Board,
        settings: Arc<ArcSwap<GitlensSettings>>,
        turned: Arc<Turned>,
    ) -> Gitlens {
        Gitlens { context, board, settings, turned, bodies: Bodies::new(BODY_TIMEOUT) }
    }

    /// What stands before the paths of a listener.
    fn guard(&self, listener: Listener) -> Guard {
        Guard {
            listener,
            is_enforced: self.context.mode == AccessMode::Enforced,
            settings: Arc::clone(&self.settings),
            turned: Arc::clone(&self.turned),
        }
    }

    /// The context for whoever calls the paths: the principal that stands for these listeners.
    fn scoped(&self) -> Scoped {
        Scoped::new(&self.context, Arc::new(self.settings.load().principal(None)))
    }

    async fn read(&self, headers: &HeaderMap, body: Body) -> Result<Held<'_>, HttpError> {
        self.bodies.read(Sender::Known, headers, body, MESSAGE_MAX).await
    }

    /// Publishes an event; answers once it is on stable storage.
    async fn publish(&self, mut event: NewEvent) -> Result<Published, HttpError> {
        self.context.room()?;
        self.context.recall(&mut event).await;
        self.context.quota(&event)?;
        let stopped = |stopped| HttpError::from(status::stopped(stopped));
        let mut pending = self.context.handle.publish(vec![event]).await.map_err(stopped)?;
        let mut answers = pending.answers().await.map_err(stopped)?;
        self.context.settle_unjudged(&mut answers).await.map_err(stopped)?;
        match answers.pop() {
            Some(Ok(Reply::Published(published))) => {
                Ok(self.context.first_answer(&TenantName::default_tenant(), published).await)
            }
            Some(Err(rejection)) => Err(status::rejection(&rejection).into()),
            Some(Ok(_)) | None => Err(status::internal("the plane gave an answer of another kind").into()),
        }
    }

    /// Everything that was durable at the call is on the board when this returns, or it lags much.
    async fn caught_up(&self) {
        self.board.seen(self.context.handle.durable_seq(), Duration::from_secs(1)).await;
    }
}
