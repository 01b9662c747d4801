//! The platform's paths.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Path, State};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use mindos_kube::platform::plan::{Kind, RunSpec};
use mindos_kube::platform::{CodeRequest, DocsRequest, RequestError, names, request};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::answer::{self, done, refused};
use super::guard::guard;
use super::{Platform, PlatformSettings};
use crate::grpc::run::{NewRun, ShownRun};
use crate::http::HttpError;
use crate::http::body::Sender;

/// Largest request: its free texts, escaped, and the rest.
const BODY_MAX: usize = 6 * 3 * request::TEXT_MAX + (64 << 10);
/// Runs of one page where the query does not say.
const PAGE: u32 = 50;
/// Runs of one second that are told apart by their name.
const SAME_SECOND_MAX: u32 = 1000;

type Shared = State<Arc<Platform>>;

/// The paths.
pub fn router(platform: Arc<Platform>) -> Router {
    let open = Arc::clone(&platform);
    Router::new()
        .route(
            "/api/v1/pm/tasks",
            post(async |State(here): Shared, headers: HeaderMap, body: Body| {
                here.create(Kind::Code, headers, body).await
            })
            .get(async |State(here): Shared, uri: http::Uri| here.list(uri.query().unwrap_or_default()).await),
        )
        .route(
            "/api/v1/pm/tasks/{run}",
            get(async |State(here): Shared, Path(run): Path<String>| here.show(&run).await)
                .delete(async |State(here): Shared, Path(run): Path<String>| here.cancel(&run).await),
        )
        .route(
            "/api/v1/pm/tasks/{run}/logs",
            get(async |State(here): Shared, Path(run): Path<String>| here.logs(&run).await),
        )
        .route(
            "/api/v1/pm/tasks/{run}/context",
            post(async |State(here): Shared, Path(run): Path<String>, headers: HeaderMap, body: Body| {
                here.go_on(&run, headers, body).await
            }),
        )
        .route(
            "/api/v1/pm/docs/generate",
            post(async |State(here): Shared, headers: HeaderMap, body: Body| {
                here.create(Kind::Docs, headers, body).await
            }),
        )
        .route_layer(from_fn_with_state(Arc::clone(&platform), guard))
        .with_state(platform)
        // Probes come from wherever the kubelet is, and the webhook has a secret.
        .route("/health", get(async |State(here): Shared| here.health()).with_state(Arc::clone(&open)))
        .route(
            "/webhook/github",
            post(async |State(here): Shared, request: Request<Body>| here.github(request).await).with_state(open),
        )
        .method_not_allowed_fallback(async || {
            refused(StatusCode::METHOD_NOT_ALLOWED, "the path does not take this method")
        })
        .fallback(async || refused(StatusCode::NOT_FOUND, "there is no such path"))
}

impl Platform {
    fn health(&self) -> Response {
        let handle = &self.context.handle;
        let takes_work = handle.failure().is_none() && handle.has_begun() && !*self.context.draining.borrow();
        let (code, status) = match takes_work {
            true => (StatusCode::OK, "healthy"),
            false => (StatusCode::SERVICE_UNAVAILABLE, "unhealthy"),
        };
        let timestamp = handle.now().to_string();
        answer::json_body(code, &json!({ "status": status, "version": crate::VERSION, "timestamp": timestamp }))
    }

    async fn create(&self, kind: Kind, headers: HeaderMap, body: Body) -> Response {
        if let Some(refusal) = answer::not_json(&headers) {
            return refusal;
        }
        let held = match self.bodies.read(Sender::Known, &headers, body, BODY_MAX).await {
            Ok(held) => held,
            Err(error) => return answer::of(&error),
        };
        match self.read(kind, &held.bytes) {
            Ok(spec) => self.take(spec).await.unwrap_or_else(|error| answer::of(&error)),
            Err(refusal) => *refusal,
        }
    }

    fn read(&self, kind: Kind, body: &Bytes) -> Result<RunSpec, Box<Response>> {
        let object = answer::object(body)?;
        let spec = match kind {
            Kind::Code => CodeRequest::read(&object, &self.config.default_code_model).map(RunSpec::Code),
            Kind::Docs => DocsRequest::read(&object, &self.config.default_docs_model).map(RunSpec::Docs),
        };
        spec.map_err(|error| Box::new(answer::unprocessable(&missing_first(&error))))
    }

    /// Takes a run. Another one that was asked for in the same second has the next name; the same one is the same run.
    async fn take(&self, spec: RunSpec) -> Result<Response, HttpError> {
        let second = self.context.handle.now().0 / 1000;
        let settings = self.settings.load_full();
        for again in 1..=SAME_SECOND_MAX {
            let name = match &spec {
                RunSpec::Code(spec) => names::code_run(spec.task_id, second, again),
                RunSpec::Docs(_) => names::docs_run(second, again),
            };
            match self.scoped().take_run(self.new_run(&name, &spec, &settings)).await {
                Ok(_) => return Ok(self.taken(&name, &spec)),
                Err(error) => {
                    let error = HttpError::from(error);
                    if error.code() != StatusCode::CONFLICT {
                        return Err(error);
                    }
                }
            }
        }
        let message = format!("{SAME_SECOND_MAX} runs were asked for in this second: try again in the next");
        Err(HttpError::with_code(StatusCode::TOO_MANY_REQUESTS, "RUNS_OF_A_SECOND", message))
    }

    fn new_run(&self, name: &str, spec: &RunSpec, settings: &PlatformSettings) -> NewRun {
        NewRun {
            id: name.to_owned(),
            name: name.to_owned(),
            namespace: self.config.run_namespace.clone(),
            uid: None,
            spec: spec.clone(),
            cluster: settings.cluster.clone(),
            attempts: settings.attempts,
        }
    }

    fn taken(&self, name: &str, spec: &RunSpec) -> Response {
        let namespace = &self.config.run_namespace;
        match spec {
            RunSpec::Code(_) => {
                let data = json!({ "coderun_name": name, "namespace": namespace });
                done(StatusCode::OK, "Code task submitted successfully", data)
            }
            RunSpec::Docs(spec) => {
                let data = json!({
                    "docsrun_name": name,
                    "namespace": namespace,
                    "repository_url": spec.repository_url,
                    "model": spec.model,
                });
                done(StatusCode::CREATED, "Documentation generation submitted successfully", data)
            }
        }
    }

    async fn list(&self, query: &str) -> Response {
        let (mut limit, mut page) = (PAGE, String::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("limit", text)) => match text.parse() {
                    Ok(count @ 1..=200) => limit = count,
                    _ => return refused(StatusCode::BAD_REQUEST, "limit: expected 1 to 200"),
                },
                Some(("page", text)) => page = text.to_owned(),
                _ => return refused(StatusCode::BAD_REQUEST, "the query is not known: expected limit or page"),
            }
        }
        match self.scoped().runs(&page, limit).await {
            Ok((runs, next)) => {
                let runs: Vec<Value> = runs.iter().map(ShownRun::to_json).collect();
                done(StatusCode::OK, &format!("{} runs", runs.len()), json!({ "runs": runs, "next_page": next }))
            }
            Err(status) => answer::of(&of_grpc(&status)),
        }
    }

    async fn show(&self, run: &str) -> Response {
        match self.scoped().run(run, true).await {
            Ok(run) => done(StatusCode::OK, run.phase().as_str(), run.to_json()),
            Err(status) => answer::of(&of_grpc(&status)),
        }
    }

    async fn cancel(&self, run: &str) -> Response {
        match self.scoped().cancel_run(run).await {
            Ok(true) => done(StatusCode::OK, "the run is being cancelled", json!({ "cancelled": true })),
            Ok(false) => done(StatusCode::OK, "the run had ended", json!({ "cancelled": false })),
            Err(status) => answer::of(&of_grpc(&status)),
        }
    }

    async fn logs(&self, run: &str) -> Response {
        match self.scoped().run(run, true).await {
            Ok(run) => {
                let text = run.log();
                (StatusCode::OK, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
            }
            Err(status) => answer::of(&of_grpc(&status)),
        }
    }

    /// Another run of a task, which goes on with what the named one left.
    async fn go_on(&self, run: &str, headers: HeaderMap, body: Body) -> Response {
        if let Some(refusal) = answer::not_json(&headers) {
            return refusal;
        }
        let held = match self.bodies.read(Sender::Known, &headers, body, BODY_MAX).await {
            Ok(held) => held,
            Err(error) => return answer::of(&error),
        };
        let object = match answer::object(&held.bytes) {
            Ok(object) => object,
            Err(refusal) => return *refusal,
        };
        let text = match object.get("prompt_modification").or_else(|| object.get("context")) {
            Some(Value::String(text)) if !text.trim().is_empty() => text.clone(),
            _ => return answer::unprocessable("prompt_modification: is missing: expected a string"),
        };
        let found = match self.scoped().run(run, false).await {
            Ok(found) => found,
            Err(status) => return answer::of(&of_grpc(&status)),
        };
        let RunSpec::Code(mut spec) = found.spec else {
            return refused(StatusCode::CONFLICT, "a documentation run has no context: ask for another run");
        };
        spec.context_version = spec.context_version.saturating_add(1);
        spec.prompt_modification = Some(text);
        spec.continue_session = true;
        if let Err(error) = request::check_code(&spec) {
            return answer::unprocessable(&error.to_string());
        }
        self.take(RunSpec::Code(spec)).await.unwrap_or_else(|error| answer::of(&error))
    }

    /// A delivery of GitHub: by the API's own door, which verifies it.
    async fn github(&self, request: Request<Body>) -> Response {
        let (mut parts, body) = request.into_parts();
        parts.uri = http::Uri::from_static("/webhooks/github");
        // The API's router would put its own path behind that of this one.
        parts.extensions.remove::<MatchedPath>();
        let response = match self.api.clone().oneshot(Request::from_parts(parts, body)).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        response.into_response()
    }
}

/// As the earlier system said it where a member is missing.
fn missing_first(error: &RequestError) -> String {
    match error.reason.starts_with("is missing") {
        true => format!("missing field `{}`: {}", error.field, error.reason),
        false => error.to_string(),
    }
}

fn of_grpc(status: &tonic::Status) -> HttpError {
    mindos_proto::rpc::Status::from(status).into()
}
