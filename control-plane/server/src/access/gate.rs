//! The gate: stands before everything that a port answers.
//!
//! It says who calls, for which tenant and whether that may be, and puts the [`Principal`] into the request's extensions. Invariants: what
//! the table of permissions does not name is refused; a refusal names the permission that is missing, and never what is behind it.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderMap, StatusCode, header};
use mindos_model::TenantName;
use mindos_proto::rpc::Status;

use super::permission::{self, Listener, Permission};
use super::principal::Principal;
use super::refusal;
use crate::http::HttpError;
use crate::net::Connection;

/// The header and the metadata by which a principal says for which tenant it acts.
pub const TENANT_HEADER: &str = "mindos-tenant";

/// What all gates of a server share.
#[derive(Debug, Default)]
pub struct Gate {}

impl Gate {
    /// Puts the gate before RPCs.
    pub fn before_rpcs(self: &Arc<Self>, router: Router) -> Router {
        router.layer(from_fn_with_state(Arc::clone(self), rpc))
    }

    /// Puts the gate before the paths of a listener.
    pub fn before_paths(self: &Arc<Self>, listener: Listener, router: Router) -> Router {
        router.layer(from_fn_with_state((Arc::clone(self), listener), path))
    }

    /// Who makes a request.
    async fn principal(&self, request: &Parts) -> Result<Principal, Status> {
        let peer = request.extensions.get::<Connection>().map(|connection| connection.peer);
        let tenant = tenant(&request.headers)?;
        Ok(Principal::local(tenant, peer))
    }

    /// Lets a request pass as the principal that makes it.
    async fn admit(&self, permission: Permission, request: &mut Parts) -> Result<(), Status> {
        match permission {
            Permission::Public | Permission::Webhook | Permission::Surface(_) => return Ok(()),
            Permission::Anyone | Permission::Agent | Permission::Needs(_) => {}
        }
        let principal = self.principal(request).await?;
        if !permission.is_of(&principal) {
            return Err(refusal::denied(permission, &principal));
        }
        request.extensions.insert(Arc::new(principal));
        Ok(())
    }
}

/// The tenant that a request names; unset where it names none.
fn tenant(headers: &HeaderMap) -> Result<Option<TenantName>, Status> {
    let Some(value) = headers.get(TENANT_HEADER) else { return Ok(None) };
    let name = value.to_str().ok().and_then(|text| text.parse().ok());
    name.map(Some).ok_or_else(refusal::malformed_tenant)
}

async fn rpc(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    let name = request.uri().path().strip_prefix('/').unwrap_or_default();
    let Some(permission) = permission::of_rpc(name) else {
        return tonic::Status::unimplemented("there is no such RPC").into_http::<Body>();
    };
    let (mut parts, body) = request.into_parts();
    match gate.admit(permission, &mut parts).await {
        Ok(()) => next.run(Request::from_parts(parts, body)).await,
        Err(status) => tonic::Status::from(status).into_http::<Body>(),
    }
}

async fn path(State((gate, listener)): State<(Arc<Gate>, Listener)>, request: Request, next: Next) -> Response {
    // Where nothing is routed, nobody is let in to anything.
    let Some(matched) = request.extensions().get::<MatchedPath>() else { return next.run(request).await };
    let Some(permission) = permission::of_path(listener, request.method(), matched.as_str()) else {
        let message = "the path does not take this method";
        return HttpError::with_code(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", message).into_response();
    };
    let (mut parts, body) = request.into_parts();
    match gate.admit(permission, &mut parts).await {
        Ok(()) => next.run(Request::from_parts(parts, body)).await,
        Err(status) => refused(status),
    }
}

fn refused(status: Status) -> Response {
    let mut response = HttpError::from(status).into_response();
    if response.status() == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, http::HeaderValue::from_static("Bearer"));
    }
    response
}
