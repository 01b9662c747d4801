//! HTTP: events and webhooks in, health and metrics out. Everything else is gRPC.
//!
//! Invariant: what a request may hold is bounded before its body is read.

pub(crate) mod body;
mod error;
mod events;
mod github;
mod health;
mod scrape;
mod upgrade;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use http::{HeaderMap, StatusCode};

use crate::blobs::BlobStore;
use crate::grpc::Context;
use crate::net::Connection;
use crate::surface::gitlens::Gitlens;
use body::Bodies;

pub use error::HttpError;
pub use github::GithubAccess;
pub use scrape::Scraped;

/// How the HTTP side behaves.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    /// How long a body may take to arrive.
    pub body_timeout: Duration,
    /// Swapped when the secrets change.
    pub github: Arc<ArcSwap<GithubAccess>>,
}

impl Default for HttpSettings {
    fn default() -> HttpSettings {
        HttpSettings { body_timeout: Duration::from_secs(30), github: Arc::default() }
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
}

type Shared = State<Arc<Http>>;

/// The routes, to be merged with those of gRPC.
pub fn router(parts: HttpParts) -> Router {
    let HttpParts { context, blobs, scraped, settings, gitlens } = parts;
    let bodies = Bodies::new(settings.body_timeout);
    let http = Arc::new(Http { context, blobs, scraped, settings, gitlens: Arc::clone(&gitlens), bodies });
    Router::new()
        .route(
            "/events",
            post(async |State(http): Shared, headers: HeaderMap, body: Body| events::post(&http, headers, body).await),
        )
        .route(
            "/webhooks/github",
            post(async |State(http): Shared, request: http::Request<Body>| {
                let (parts, body) = request.into_parts();
                let peer = parts.extensions.get::<Connection>();
                github::post(&http, peer, parts.headers, body).await
            }),
        )
        .route(
            "/upgrade/finalize",
            post(async |State(http): Shared, headers: HeaderMap, body: Body| {
                upgrade::finalize(&http, headers, body).await
            }),
        )
        .route("/healthz", get(async |State(http): Shared| health::live(&http.context)))
        .route("/readyz", get(async |State(http): Shared| health::ready(&http.context)))
        .route("/metrics", get(async |State(http): Shared| scrape::get(&http).await))
        .method_not_allowed_fallback(async || {
            let message = "the path does not take this method";
            HttpError::with_code(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", message).into_response()
        })
        .with_state(http)
        .merge(crate::surface::gitlens::orchestrator(gitlens))
}
