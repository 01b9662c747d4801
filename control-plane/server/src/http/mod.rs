//! HTTP: events and webhooks in, tasks, health and metrics out. Everything else is gRPC.
//!
//! Invariant: what a request may hold is bounded before its body is read.

pub(crate) mod body;
mod counted;
mod error;
mod events;
mod github;
mod health;
mod hook;
mod scrape;
mod tasks;
mod upgrade;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Extension;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use http::StatusCode;

use crate::access::{Caller, Principal, Scoped};
use crate::blobs::BlobStore;
use crate::grpc::Context;
use crate::ingest::doors::Doors;
use crate::net::Connection;
use crate::own_logins::OwnLogins;
use crate::surface::gitlens::Gitlens;
use crate::tasks::http_counts::TaskCounts;
use crate::tasks::queue::Configured;
use body::Bodies;
use counted::Counted;

pub use error::HttpError;
pub use github::GithubAccess;
pub use scrape::{Exposed, Scraped};

/// How the HTTP side behaves.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    /// How long a body may take to arrive.
    pub body_timeout: Duration,
    /// Swapped when the secrets change.
    pub github: Arc<ArcSwap<GithubAccess>>,
    /// The doors for other webhooks, swapped likewise.
    pub doors: Arc<ArcSwap<Doors>>,
    /// What of GitHub's is a task, swapped likewise.
    pub tasks: Configured,
    /// Whom we are on GitHub.
    pub own_logins: OwnLogins,
    /// What was asked for on GitHub.
    pub task_counts: Arc<TaskCounts>,
}

impl Default for HttpSettings {
    fn default() -> HttpSettings {
        HttpSettings {
            body_timeout: Duration::from_secs(30),
            github: Arc::default(),
            doors: Arc::default(),
            tasks: Configured::default(),
            own_logins: OwnLogins::default(),
            task_counts: Arc::default(),
        }
    }
}

/// What the HTTP side needs.
#[derive(Debug)]
pub struct HttpParts {
    pub context: Arc<Context>,
    pub blobs: Arc<BlobStore>,
    pub scraped: Scraped,
    pub settings: HttpSettings,
    pub gitlens: Arc<Gitlens>,
}

#[derive(Debug)]
struct Http {
    context: Arc<Context>,
    blobs: Arc<BlobStore>,
    scraped: Scraped,
    settings: HttpSettings,
    gitlens: Arc<Gitlens>,
    bodies: Bodies,
    counted: Counted,
}

type Shared = State<Arc<Http>>;
type Calling = Extension<Arc<Principal>>;

impl Http {
    /// The context for who made a request.
    fn scoped(&self, extensions: &http::Extensions) -> Result<Scoped, HttpError> {
        let caller = Caller::among(extensions);
        let caller = caller.map_err(|status| HttpError::from(mindos_proto::rpc::Status::from(&status)))?;
        Ok(Scoped::new(&self.context, caller))
    }
}

/// The routes, to be merged with those of gRPC.
pub fn router(parts: HttpParts) -> Router {
    let HttpParts { context, blobs, scraped, settings, gitlens } = parts;
    let bodies = Bodies::new(settings.body_timeout);
    let http = Arc::new(Http {
        context,
        blobs,
        scraped,
        settings,
        gitlens: Arc::clone(&gitlens),
        bodies,
        counted: Counted::default(),
    });
    Router::new()
        .route(
            "/events",
            post(async |State(http): Shared, request: http::Request<Body>| events::post(&http, request).await),
        )
        .route(
            "/webhooks/github",
            post(async |State(http): Shared, request: http::Request<Body>| {
                let (parts, body) = request.into_parts();
                let peer = parts.extensions.get::<Connection>();
                http.counted.around("github", github::post(&http, peer, parts.headers, body)).await
            }),
        )
        .route(
            "/webhooks/gitlab",
            post(async |State(http): Shared, request: http::Request<Body>| {
                http.counted.around("gitlab", hook::gitlab(&http, knock(request))).await
            }),
        )
        .route(
            "/webhooks/alertmanager",
            post(async |State(http): Shared, request: http::Request<Body>| {
                http.counted.around("alertmanager", hook::alertmanager(&http, knock(request))).await
            }),
        )
        .route(
            "/webhooks/generic/{name}",
            post(async |State(http): Shared, Path(name): Path<String>, request: http::Request<Body>| {
                http.counted.around("generic", hook::generic(&http, &name, knock(request))).await
            }),
        )
        .route(
            "/api/v1/tasks",
            post(async |State(http): Shared, request: http::Request<Body>| tasks::create(&http, request).await)
                .get(async |State(http): Shared, request: http::Request<Body>| tasks::list(&http, request).await),
        )
        .route(
            "/api/v1/tasks/{task}",
            get(async |State(http): Shared, Path(task): Path<String>, request: http::Request<Body>| {
                tasks::show(&http, &task, request).await
            })
            .delete(
                async |State(http): Shared, Path(task): Path<String>, request: http::Request<Body>| {
                    tasks::cancel(&http, &task, request).await
                },
            ),
        )
        .route(
            "/upgrade/finalize",
            post(async |State(http): Shared, request: http::Request<Body>| upgrade::finalize(&http, request).await),
        )
        .route("/healthz", get(async |State(http): Shared| health::live(&http.context)))
        .route("/readyz", get(async |State(http): Shared| health::ready(&http.context)))
        .route("/sinks", get(async |State(http): Shared, Extension(caller): Calling| scrape::sinks(&http, &caller)))
        .route(
            "/metrics",
            get(async |State(http): Shared, Extension(caller): Calling| scrape::get(&http, &caller).await),
        )
        .method_not_allowed_fallback(async || {
            let message = "the path does not take this method";
            HttpError::with_code(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", message).into_response()
        })
        .with_state(http)
        .merge(crate::surface::gitlens::orchestrator(gitlens))
}

fn knock(request: http::Request<Body>) -> hook::Knock {
    let (mut parts, body) = request.into_parts();
    hook::Knock { peer: parts.extensions.remove::<Connection>(), headers: parts.headers, body }
}
