//! The gate: stands before everything that a port answers.
//!
//! It says who calls, for which tenant and whether that may be, and puts the [`Principal`] into the request's extensions. Invariants: what
//! the table of permissions does not name is refused; a refusal names the permission that is missing, and never what is behind it.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{StatusCode, header};
use mindos_core::access::{AccessChange, Scope};
use mindos_core::input::Input;
use mindos_model::TenantName;
use mindos_proto::rpc::Status;
use tokio::sync::watch;
use tracing::debug;

use super::authenticate::{self, Bound, Shown};
use super::browser;
use super::jwt::{Jwt, Person};
use super::live::{Live, Stream};
use super::permission::{self, Listener, Permission};
use super::principal::{self, Principal, PrincipalKind};
use super::refusal::{self, Refused};
use super::view::{AccessView, KnownToken};
use crate::driver::Handle;
use crate::http::HttpError;
use crate::limits::{OuterLayer, WithinLayer};
use crate::metrics::{Exposition, Kind};
use crate::net::{Connection, Undecided};
use crate::secure::AccessMode;
use crate::surface::keda::Admission;
use crate::tls::identity::AgentIdentity;

/// Between two looks for streams whose credential has ended.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Tenants that principals of the plane may choose until the next start: each gets a table of routes when it is first asked for.
const CHOSEN_MAX: usize = 10_000;

/// What all gates of a server share.
#[derive(Debug)]
pub struct Gate {
    access: AccessMode,
    view: Arc<AccessView>,
    handle: Handle,
    jwt: Jwt,
    /// Of the SPIFFE ids of agents.
    trust_domain: Arc<str>,
    /// Names that this server goes by.
    names: Vec<String>,
    live: Live,
    /// Tenants that principals of the plane chose.
    chosen: Mutex<HashSet<TenantName>>,
    counts: Counts,
}

/// Requests that were turned away.
#[derive(Debug)]
struct Counts {
    unauthenticated: [AtomicU64; Refused::ALL.len()],
    denied: AtomicU64,
}

impl Gate {
    /// A gate over access as it is seen there.
    #[must_use]
    pub fn new(
        access: AccessMode,
        view: Arc<AccessView>,
        handle: Handle,
        jwt: Jwt,
        trust_domain: &str,
        names: Vec<String>,
    ) -> Gate {
        let counts = Counts { unauthenticated: [const { AtomicU64::new(0) }; _], denied: AtomicU64::new(0) };
        let trust_domain = Arc::from(trust_domain);
        Gate { access, view, handle, jwt, trust_domain, names, live: Live::default(), chosen: Mutex::default(), counts }
    }

    /// Access as it is.
    #[must_use]
    pub fn view(&self) -> &Arc<AccessView> {
        &self.view
    }

    /// Whether callers have to say who they are.
    #[must_use]
    pub fn access(&self) -> AccessMode {
        self.access
    }

    /// Puts the gate before RPCs, and the limits around it: all at once, for each layer of a router costs a request a few copies.
    pub fn before_rpcs(self: &Arc<Self>, router: Router, outer: OuterLayer, within: WithinLayer) -> Router {
        router.layer((outer, from_fn_with_state(Arc::clone(self), rpc), within))
    }

    /// As [`Gate::before_rpcs`], behind who is admitted to KEDA's listener, where nobody says who they are.
    pub fn before_admitted_rpcs(
        self: &Arc<Self>,
        router: Router,
        outer: OuterLayer,
        admission: Arc<Admission>,
        within: WithinLayer,
    ) -> Router {
        let admission = from_fn_with_state(admission, Admission::guard);
        router.layer((outer, admission, from_fn_with_state(Arc::clone(self), rpc), within))
    }

    /// Puts the gate before the paths of a listener.
    pub fn before_paths(self: &Arc<Self>, listener: Listener, router: Router) -> Router {
        router.layer(from_fn_with_state((Arc::clone(self), listener), path))
    }

    /// Ends streams that would not be let in any more, until the server drains.
    pub async fn watch(self: Arc<Self>, mut draining: watch::Receiver<bool>) {
        let mut changes = self.view.changes();
        loop {
            let changed = tokio::select! {
                changed = changes.changed() => changed.is_ok(),
                () = tokio::time::sleep(LOOK_INTERVAL) => false,
                _ = draining.wait_for(|draining| *draining) => return,
            };
            let wanted = |stream: &Stream| changed || stream.principal.expires.is_some();
            self.live.look(wanted, |stream| self.may_go_on(stream)).await;
        }
    }

    /// Whether a stream that was let in would be so again.
    fn may_go_on(&self, stream: &Stream) -> Result<(), Status> {
        let Stream { principal, permission, .. } = stream;
        if principal.expires.is_some_and(|expires| expires <= self.handle.now()) {
            return Err(Refused::Expired.into());
        }
        let known = self.view.load();
        match &principal.kind {
            PrincipalKind::ApiToken(id) => match known.access.api_token(*id) {
                Some(_) => Ok(()),
                None => Err(Refused::Unknown.into()),
            },
            PrincipalKind::Agent(agent) => match known.access.denial_of(&agent.identity, &agent.key) {
                Some(_) => Err(Refused::Denied.into()),
                None => Ok(()),
            },
            PrincipalKind::Person { provider, groups } => {
                let bound = Bound { name: &principal.name, provider, groups, expires: principal.expires };
                let again =
                    bound.principal(&known, Some(principal.tenant.clone()), true, Arc::clone(&principal.from))?;
                if !permission.is_of(&again) {
                    return Err(refusal::denied(*permission, &again));
                }
                // It may go on with what it has: what it has lost ends the stream, and its peer dials again.
                if again.has_all_of(principal) { Ok(()) } else { Err(refusal::less(&again)) }
            }
            PrincipalKind::Local | PrincipalKind::Plane | PrincipalKind::Surface | PrincipalKind::Webhook => Ok(()),
        }
    }

    /// Who makes a request.
    async fn principal(&self, request: &Parts, permission: Permission) -> Result<Principal, Status> {
        let connection = request.extensions.get::<Connection>();
        let peer = connection.map(|connection| connection.peer);
        let asked = authenticate::tenant(&request.headers)?;
        if let Some(agent) = connection.and_then(|connection| connection.identity.as_ref()) {
            return self.agent(agent, asked, peer);
        }
        if self.access == AccessMode::Open {
            return Ok(Principal::local(asked, peer));
        }
        match authenticate::shown(&request.headers).map_err(|refused| self.refuse(refused))? {
            Shown::Nothing => Err(self.refuse(Refused::NoCredential)),
            Shown::ApiToken(text) => {
                let known = self.view.load();
                let now = self.handle.now();
                let found = authenticate::api_token(&known, text, now).map_err(|refused| self.refuse(refused))?;
                let principal = authenticate::of_token(found, asked, principal::from(peer))?;
                if found.is_to_be_noted(now) {
                    self.note_use(found, &principal);
                }
                Ok(principal)
            }
            Shown::Jwt(text) => {
                let verified = self.jwt.verify(text).await;
                let person = verified.map_err(|error| {
                    let _ = self.refuse(Refused::Jwt);
                    refusal::jwt(&error)
                })?;
                let groups: Arc<[Arc<str>]> = person.group_names().map(Arc::from).collect();
                let Person { name, provider, expires, .. } = &person;
                let bound = Bound { name, provider, groups: &groups, expires: Some(*expires) };
                let any = permission == Permission::Anyone;
                bound.principal(&self.view.load(), asked, any, principal::from(peer))
            }
        }
    }

    /// The agent at the other end of a connection.
    fn agent(
        &self,
        agent: &Arc<AgentIdentity>,
        asked: Option<TenantName>,
        peer: Option<SocketAddr>,
    ) -> Result<Principal, Status> {
        if self.view.load().access.denial_of(&agent.identity, &agent.key).is_some() {
            return Err(self.refuse(Refused::Denied));
        }
        let principal = Principal::agent(agent, &self.trust_domain, peer);
        if asked.is_some_and(|asked| asked != principal.tenant) {
            return Err(refusal::no_role(&principal.name));
        }
        Ok(principal)
    }

    fn refuse(&self, refused: Refused) -> Status {
        self.counts.unauthenticated[refused as usize].fetch_add(1, Ordering::Relaxed);
        refused.into()
    }

    /// Has it on record that a token is in use. Nobody waits for that.
    fn note_use(&self, found: &KnownToken, principal: &Principal) {
        let (token, by, from) = (found.token.id, Arc::clone(&principal.name), Arc::clone(&principal.from));
        let handle = self.handle.clone();
        tokio::spawn(async move {
            let change = Box::new(AccessChange::UseApiToken { token });
            let noted = handle.call(|request| Input::Access { request, within: Scope::Plane, change, by, from }).await;
            if let Err(error) = noted {
                debug!(%error, %token, "use of an API token was not noted");
            }
        });
    }

    /// Lets a request pass as the principal that makes it. `None` where nobody is asked who that is.
    async fn admit(&self, permission: Permission, request: &mut Parts) -> Result<Option<Arc<Principal>>, Status> {
        let asks_nobody = self.access == AccessMode::Open || matches!(permission, Permission::Surface(_));
        if asks_nobody && permission != Permission::Public {
            browser::check_origin(request)?;
        }
        if self.access == AccessMode::Open && !matches!(permission, Permission::Public | Permission::Webhook) {
            browser::check_host(request, &self.names)?;
        }
        match permission {
            Permission::Public | Permission::Webhook | Permission::Surface(_) => return Ok(None),
            Permission::Anyone | Permission::Agent | Permission::Needs(_) => {}
        }
        let principal = Arc::new(self.principal(request, permission).await?);
        if principal.is_plane() && principal.is_tenant_chosen {
            self.choose(&principal.tenant)?;
        }
        if !permission.is_of(&principal) {
            self.counts.denied.fetch_add(1, Ordering::Relaxed);
            return Err(refusal::denied(permission, &principal));
        }
        request.extensions.insert(Arc::clone(&principal));
        Ok(Some(principal))
    }

    /// Notes a tenant that a principal of the plane chose: no other tenant is bounded by who has a role in it.
    fn choose(&self, tenant: &TenantName) -> Result<(), Status> {
        let mut chosen = self.chosen.lock().unwrap_or_else(PoisonError::into_inner);
        if chosen.contains(tenant) {
            return Ok(());
        }
        if chosen.len() >= CHOSEN_MAX {
            return Err(refusal::too_many_tenants(CHOSEN_MAX));
        }
        chosen.insert(tenant.clone());
        Ok(())
    }

    /// Writes the families.
    pub fn expose(&self, into: &mut Exposition) {
        let help = "Requests that were turned away, because nobody is known by what they show.";
        let mut family = into.family("mindos_unauthenticated_total", Kind::Counter, help);
        for refused in Refused::ALL {
            let count = self.counts.unauthenticated[*refused as usize].load(Ordering::Relaxed);
            family.series(&[("reason", &refused.reason().to_ascii_lowercase())], count);
        }
        let help = "Requests of known principals that lacked the permission.";
        into.single("mindos_permission_denied_total", Kind::Counter, help, self.counts.denied.load(Ordering::Relaxed));
        let help = "Streams that were ended, because they would not be let in any more.";
        into.single("mindos_streams_ended_by_access_total", Kind::Counter, help, self.live.ended());
    }
}

async fn rpc(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    let name = request.uri().path().strip_prefix('/').unwrap_or_default();
    let Some(permission::Rpc { permission, is_stream }) = permission::of_rpc(name) else {
        return tonic::Status::unimplemented("there is no such RPC").into_http::<Body>();
    };
    let (mut parts, body) = request.into_parts();
    let admitted = gate.admit(permission, &mut parts).await;
    note(&mut parts, &admitted).await;
    match admitted {
        // Nobody can be turned away later who need not be known.
        Ok(Some(principal)) if is_stream && principal.kind != PrincipalKind::Local => {
            let answer = next.run(Request::from_parts(parts, body));
            gate.live.carry(principal, permission, answer).await
        }
        Ok(_) => next.run(Request::from_parts(parts, body)).await,
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
    let admitted = gate.admit(permission, &mut parts).await;
    note(&mut parts, &admitted).await;
    match admitted {
        // They are told apart by a secret or an address, once they are within.
        Ok(None) if permission != Permission::Public => {
            let connection = parts.extensions.get::<Connection>().cloned();
            let answer = next.run(Request::from_parts(parts, body)).await;
            if let Some(connection) = connection.filter(|_| answer.status().is_success()) {
                connection.let_in().await;
            }
            answer
        }
        Ok(_) => next.run(Request::from_parts(parts, body)).await,
        Err(status) => refused(status),
    }
}

/// It is decided whether the request is let in; where it is known who makes it, so is the connection.
async fn note(request: &mut Parts, admitted: &Result<Option<Arc<Principal>>, Status>) {
    request.extensions.remove::<Undecided>();
    if let (Ok(Some(_)), Some(connection)) = (admitted, request.extensions.get::<Connection>()) {
        connection.let_in().await;
    }
}

fn refused(status: Status) -> Response {
    let mut response = HttpError::from(status).into_response();
    if response.status() == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, http::HeaderValue::from_static("Bearer"));
    }
    response
}
