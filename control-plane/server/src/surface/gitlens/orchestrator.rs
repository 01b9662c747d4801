//! The orchestrator's paths, which stand beside the API.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Extension, Router};
use http::{HeaderMap, StatusCode};
use serde::Serialize;

use super::Gitlens;
use super::answer::{Health, Refusal, json};
use super::distribute::{Answer, answer};
use super::generals::{self, Counts, General, Listed};
use super::sources::{Listener, guard};
use crate::access::Principal;

type Shared = State<Arc<Gitlens>>;
type Named = Path<(String, String)>;
type Calling = Extension<Arc<Principal>>;

/// The paths, to be merged with those of the API.
pub fn router(gitlens: Arc<Gitlens>) -> Router {
    let guarded = gitlens.guard(Listener::Orchestrator);
    Router::new()
        .route("/health", get(async |State(gitlens): Shared| gitlens.health("mindos-orchestrator")))
        .route(
            "/distribute",
            post(async |State(gitlens): Shared, headers: HeaderMap, body: Body| {
                gitlens.distribute(headers, body).await
            }),
        )
        .route("/status", get(async |State(gitlens): Shared| gitlens.status().await))
        .route("/distributions", get(async |State(gitlens): Shared| gitlens.distributions().await))
        .route(
            "/generals/{cluster}/{name}",
            get(async |State(gitlens): Shared, Path((cluster, name)): Named| gitlens.general(&cluster, &name).await),
        )
        .route(
            "/generals/{cluster}/{name}/status",
            put(
                async |State(gitlens): Shared,
                       Extension(caller): Calling,
                       path: Named,
                       headers: HeaderMap,
                       body: Body| {
                    let Path((cluster, name)) = path;
                    match gitlens.read(&headers, body).await {
                        Ok(held) => gitlens.put_status(&caller, &cluster, &name, &held.bytes).await,
                        Err(error) => Refusal::of("Invalid status", &error).into_response(),
                    }
                },
            ),
        )
        .with_state(gitlens)
        // Of these paths alone: those of the API beside them have their own rules.
        .route_layer(from_fn_with_state(guarded, guard))
}

#[derive(Serialize)]
struct Status<'a> {
    total_generals: usize,
    generals_by_cluster: BTreeMap<&'a str, Vec<Listed>>,
    generals_by_status: Counts,
    recent_distributions: Vec<Answer>,
    total_distributions: u64,
}

#[derive(Serialize)]
struct Distributions {
    total: u64,
    recent: Vec<Answer>,
}

impl Gitlens {
    /// `/health` of either service; 503 while it takes no work.
    pub(super) fn health(&self, service: &'static str) -> Response {
        let handle = &self.context.handle;
        let takes_work = handle.failure().is_none() && handle.has_begun() && !*self.context.draining.borrow();
        let (code, status) = match takes_work {
            true => (StatusCode::OK, "healthy"),
            false => (StatusCode::SERVICE_UNAVAILABLE, "unhealthy"),
        };
        json(code, &Health { status, service, timestamp: handle.now().to_string() })
    }

    async fn status(&self) -> Response {
        self.caught_up().await;
        match self.generals().await {
            Ok(generals) => {
                let (recent_distributions, total_distributions) = self.recent(&generals);
                let generals_by_status = Counts::of(&generals);
                let status = Status {
                    total_generals: generals.len(),
                    generals_by_cluster: generals::by_cluster(&generals),
                    generals_by_status,
                    recent_distributions,
                    total_distributions,
                };
                json(StatusCode::OK, &status)
            }
            Err(error) => Refusal::of("Failed to read status", &error).into_response(),
        }
    }

    async fn distributions(&self) -> Response {
        self.caught_up().await;
        match self.generals().await {
            Ok(generals) => {
                let (recent, total) = self.recent(&generals);
                json(StatusCode::OK, &Distributions { total, recent })
            }
            Err(error) => Refusal::of("Failed to read distributions", &error).into_response(),
        }
    }

    fn recent(&self, generals: &[General]) -> (Vec<Answer>, u64) {
        let shown = self.board.show();
        let known = |one: &super::board::Distribution| shown.routes.get(one.route.as_ref()?.as_str());
        let recent = shown.distributions.iter().map(|one| answer(one, None, generals, known(one)));
        (recent.collect(), shown.total_distributions)
    }
}
