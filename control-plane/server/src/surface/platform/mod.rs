//! The platform's paths: runs of code and documentation are asked for, shown and cancelled.
//!
//! ```text
//! GET    /health
//! POST   /api/v1/pm/tasks                  200 {"success":true,"message":..,"data":{"coderun_name":..,"namespace":..}}
//! GET    /api/v1/pm/tasks                  ?limit=50&page=..                200 {"success":true,"data":{"runs":[..],"next_page":..}}
//! GET    /api/v1/pm/tasks/{run}            by its name, the uid of its object, or the sequence of its event
//! DELETE /api/v1/pm/tasks/{run}            cancels it
//! GET    /api/v1/pm/tasks/{run}/logs       200 text/plain: the last part of the log
//! POST   /api/v1/pm/tasks/{run}/context    another run of the task that goes on with its session
//! POST   /api/v1/pm/docs/generate          201 {"success":true,"message":..,"data":{"docsrun_name":..,..}}
//! POST   /webhook/github                   as `/webhooks/github` of the API: signed, or refused
//! ```
//! A body that is no JSON is a 400, one without `application/json` a 415, one with a wrong member a 422, all three in plain text as the
//! earlier system had them. Everything else that is refused is `{"success":false,"message":..}` under its own status code, never 200.
//! Invariant: what is answered with success is on stable storage.

mod answer;
mod config;
mod guard;
mod paths;
mod settings;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use tracing::warn;

use crate::access::Scoped;
use crate::grpc::Context;
use crate::http::body::Bodies;
use crate::secure::AccessMode;

pub use config::PlatformConfig;
pub use guard::Turned;
pub use paths::router;
pub(crate) use settings::ATTEMPTS;
pub use settings::{PlatformSection, PlatformSettings};

/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Says at the start who can reach the paths, and how.
pub(crate) fn announce(settings: &PlatformSettings, at: Option<SocketAddr>, is_encrypted: bool) {
    let Some(address) = at.filter(|at| !at.ip().to_canonical().is_loopback()) else { return };
    if !is_encrypted {
        warn!(%address, "the platform's listener is reached from elsewhere WITHOUT encryption, by the ranges of platform.sources");
    }
    if !settings.names_callers() {
        warn!(%address, "the platform's paths answer nobody there: name the ranges that may call them in platform.sources");
    }
}

/// What the paths need.
#[derive(Debug)]
pub struct Platform {
    context: Arc<Context>,
    settings: Arc<ArcSwap<PlatformSettings>>,
    config: PlatformConfig,
    bodies: Bodies,
    turned: Turned,
    /// The API's HTTP side, for the webhook.
    api: Router,
}

impl Platform {
    /// The surface over a plane. `api` is what answers HTTP on the API's listener.
    #[must_use]
    pub fn new(
        context: Arc<Context>,
        settings: Arc<ArcSwap<PlatformSettings>>,
        config: PlatformConfig,
        turned: Turned,
        api: Router,
    ) -> Platform {
        Platform { context, settings, config, bodies: Bodies::new(BODY_TIMEOUT), turned, api }
    }

    /// The context for whoever calls the paths: the principal that stands for this listener.
    fn scoped(&self) -> Scoped {
        Scoped::new(&self.context, Arc::new(self.settings.load().principal(None)))
    }

    fn is_enforced(&self) -> bool {
        self.context.mode == AccessMode::Enforced
    }
}
