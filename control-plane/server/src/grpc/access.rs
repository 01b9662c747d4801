//! Access: `mindos.access.v1.AccessService`.
//!
//! Invariant: whoever changes something gets the answer once every request sees the change.

use std::sync::Arc;
use std::time::Duration;

use mindos_core::access::{AccessChange, DenialId, DenialTarget, Scope, Subject, TokenId};
use mindos_core::input::Input;
use mindos_core::output::Reply;
use mindos_model::limits::{API_TOKEN_LIFE_MAX, JOIN_TOKEN_LIFE_MAX};
use mindos_model::{Seq, TenantName};
use mindos_proto::access::v1::access_service_server::AccessService;
use mindos_proto::access::v1::{
    AllowAgentRequest, AllowAgentResponse, BindRoleRequest, BindRoleResponse, CanIRequest, CanIResponse,
    CreateApiTokenRequest, CreateApiTokenResponse, CreateJoinTokenRequest, CreateJoinTokenResponse, DenyAgentRequest,
    DenyAgentResponse, ListApiTokensRequest, ListApiTokensResponse, ListDenialsRequest, ListDenialsResponse,
    ListIssuersRequest, ListIssuersResponse, ListJoinTokensRequest, ListJoinTokensResponse, ListQuotasRequest,
    ListQuotasResponse, ListRolesRequest, ListRolesResponse, RegisterIssuerRequest, RegisterIssuerResponse,
    RemoveIssuerRequest, RemoveIssuerResponse, RevokeApiTokenRequest, RevokeApiTokenResponse, RevokeJoinTokenRequest,
    RevokeJoinTokenResponse, SetQuotaRequest, SetQuotaResponse, UnbindRoleRequest, UnbindRoleResponse, WhoAmIRequest,
    WhoAmIResponse, deny_agent_request,
};
use mindos_proto::convert::{Invalid, parsed};
use tonic::{Request, Response, Status};

use super::access_self;
use super::access_words as words;
use super::fleet::page;
use super::{Context, failed, status};
use crate::access::Scoped;
use crate::access::permission::{Right, rights};
use crate::access::secret::{API_PREFIX, JOIN_PREFIX, TokenText};

/// How long an API token is good unless somebody says.
const API_TOKEN_LIFE: Duration = Duration::from_secs(90 * 24 * 60 * 60);
/// How long a join token is good unless somebody says.
const JOIN_TOKEN_LIFE: Duration = Duration::from_secs(60 * 60);

/// The service.
#[derive(Clone, Debug)]
pub(super) struct AccessApi {
    pub(super) context: Arc<Context>,
}

/// A caller who may do something, and where.
struct Allowed {
    scoped: Scoped,
    within: Scope,
}

impl AccessApi {
    fn allowed<T>(&self, request: &Request<T>, right: &Right) -> Result<Allowed, Status> {
        let scoped = self.context.of(request)?;
        let caller = &scoped.caller;
        let within = match caller.is_plane() && !caller.is_tenant_chosen && right.is_of_plane(caller) {
            true => Scope::Plane,
            false => Scope::Tenant(caller.tenant.clone()),
        };
        Ok(Allowed { scoped, within })
    }
}

impl Allowed {
    fn own(&self) -> &TenantName {
        self.scoped.tenant()
    }

    async fn change(&self, change: AccessChange) -> Result<Reply, Status> {
        let (by, from, within) = (self.scoped.by(), self.scoped.from(), self.within.clone());
        let change = Box::new(change);
        let make = |request| Input::Access { request, within, change, by, from };
        let reply = self.scoped.handle.call(make).await.map_err(|error| status::call(&error))?;
        match &reply {
            Reply::Done { at } => self.scoped.access.seen(*at).await,
            Reply::TokenMade { id } => self.scoped.access.seen(Seq(id.0)).await,
            other => return Err(super::unexpected(other)),
        }
        Ok(reply)
    }

    /// A change that makes a token; returns its number.
    async fn make(&self, change: AccessChange) -> Result<TokenId, Status> {
        match self.change(change).await? {
            Reply::TokenMade { id } => Ok(id),
            other => Err(super::unexpected(&other)),
        }
    }

    /// Which scope a list is asked for; `None` is all that the caller may see.
    fn listed(&self, tenant: &str) -> Result<Option<Scope>, Status> {
        match (tenant, &self.within) {
            ("", Scope::Plane) => Ok(None),
            (text, _) => Ok(Some(words::scope(text, self.own(), "tenant").map_err(status::invalid)?)),
        }
    }

    /// Whether something of a scope is to be listed.
    fn shows(&self, asked: Option<&Scope>, of: &Scope) -> bool {
        self.within.covers(of) && asked.is_none_or(|asked| asked == of)
    }
}

fn text(prefix: &str) -> Result<TokenText, Status> {
    TokenText::random(prefix).map_err(|error| failed("the system gave no random bytes", &error))
}

/// It was made, and is gone again before anybody looked.
fn gone() -> Status {
    status::internal("what was made is not there any more").into()
}

/// Numbers sort as texts.
fn number(id: u64) -> String {
    format!("{id:020}")
}

#[tonic::async_trait]
impl AccessService for AccessApi {
    async fn who_am_i(&self, request: Request<WhoAmIRequest>) -> Result<Response<WhoAmIResponse>, Status> {
        Ok(Response::new(access_self::who(&self.context.of(&request)?)))
    }

    async fn can_i(&self, request: Request<CanIRequest>) -> Result<Response<CanIResponse>, Status> {
        let scoped = self.context.of(&request)?;
        access_self::can(&scoped, request.into_inner()).map(Response::new)
    }

    async fn create_api_token(
        &self,
        request: Request<CreateApiTokenRequest>,
    ) -> Result<Response<CreateApiTokenResponse>, Status> {
        let allowed = self.allowed(&request, &rights::API_TOKENS_MANAGE)?;
        let CreateApiTokenRequest { name, tenant, roles, sources, ttl } = request.into_inner();
        let scope = words::scope(&tenant, allowed.own(), "tenant").map_err(status::invalid)?;
        let roles = words::roles(&roles).map_err(status::invalid)?;
        let sources = words::patterns(&sources, "sources").map_err(status::invalid)?;
        let ttl = words::ttl(ttl, API_TOKEN_LIFE, API_TOKEN_LIFE_MAX).map_err(status::invalid)?;
        let (text, expires) = (text(API_PREFIX)?, allowed.scoped.handle.now() + ttl);
        let (name, hash) = (name.into(), text.hash());
        let change = AccessChange::CreateApiToken { name, hash, scope, roles, sources, expires };
        let id = allowed.make(change).await?;
        let token = allowed.scoped.access.load().access.api_token(id).map(|token| words::of_api_token(token));
        let token = Some(token.ok_or_else(gone)?);
        Ok(Response::new(CreateApiTokenResponse { token, text: text.reveal().to_owned() }))
    }

    async fn list_api_tokens(
        &self,
        request: Request<ListApiTokensRequest>,
    ) -> Result<Response<ListApiTokensResponse>, Status> {
        let allowed = self.allowed(&request, &rights::API_TOKENS_MANAGE)?;
        let ListApiTokensRequest { tenant, page_size, page_token } = request.into_inner();
        let (asked, now) = (allowed.listed(&tenant)?, allowed.scoped.handle.now());
        let known = allowed.scoped.access.load();
        let tokens = known.access.api_tokens().filter(|token| token.expires > now);
        let tokens = tokens.filter(|token| allowed.shows(asked.as_ref(), &token.scope)).collect();
        let (tokens, next_page_token) = page(tokens, page_size, &page_token, |token| number(token.id.0))?;
        let tokens = tokens.into_iter().map(|token| words::of_api_token(token)).collect();
        Ok(Response::new(ListApiTokensResponse { tokens, next_page_token }))
    }

    async fn revoke_api_token(
        &self,
        request: Request<RevokeApiTokenRequest>,
    ) -> Result<Response<RevokeApiTokenResponse>, Status> {
        let allowed = self.allowed(&request, &rights::API_TOKENS_MANAGE)?;
        let token = TokenId(request.into_inner().id);
        allowed.change(AccessChange::RevokeApiToken { token }).await?;
        Ok(Response::new(RevokeApiTokenResponse {}))
    }

    async fn create_join_token(
        &self,
        request: Request<CreateJoinTokenRequest>,
    ) -> Result<Response<CreateJoinTokenResponse>, Status> {
        let allowed = self.allowed(&request, &rights::JOIN_TOKENS_MANAGE)?;
        let CreateJoinTokenRequest { tenant, cluster, namespace, holder, uses, ttl } = request.into_inner();
        let tenant = words::tenant(&tenant, allowed.own(), "tenant").map_err(status::invalid)?;
        let cluster = parsed(&cluster, "cluster").map_err(status::invalid)?;
        let namespace = (!namespace.is_empty()).then(|| Arc::from(namespace));
        let holder = words::holder(holder).map_err(status::invalid)?;
        let ttl = words::ttl(ttl, JOIN_TOKEN_LIFE, JOIN_TOKEN_LIFE_MAX).map_err(status::invalid)?;
        let (text, expires) = (text(JOIN_PREFIX)?, allowed.scoped.handle.now() + ttl);
        let (hash, uses) = (text.hash(), uses.max(1));
        let change = AccessChange::CreateJoinToken { hash, tenant, cluster, namespace, holder, uses, expires };
        let id = allowed.make(change).await?;
        let token = allowed.scoped.access.load().access.join_token(id).map(|token| words::of_join_token(token));
        let token = Some(token.ok_or_else(gone)?);
        Ok(Response::new(CreateJoinTokenResponse { token, text: text.reveal().to_owned() }))
    }

    async fn list_join_tokens(
        &self,
        request: Request<ListJoinTokensRequest>,
    ) -> Result<Response<ListJoinTokensResponse>, Status> {
        let allowed = self.allowed(&request, &rights::JOIN_TOKENS_MANAGE)?;
        let ListJoinTokensRequest { tenant, page_size, page_token } = request.into_inner();
        let asked = allowed.listed(&tenant)?;
        let known = allowed.scoped.access.load();
        let tokens = known.access.join_tokens();
        let shown = |tenant: &TenantName| allowed.shows(asked.as_ref(), &Scope::Tenant(tenant.clone()));
        let tokens = tokens.filter(|token| shown(&token.tenant)).collect();
        let (tokens, next_page_token) = page(tokens, page_size, &page_token, |token| number(token.id.0))?;
        let tokens = tokens.into_iter().map(|token| words::of_join_token(token)).collect();
        Ok(Response::new(ListJoinTokensResponse { tokens, next_page_token }))
    }

    async fn revoke_join_token(
        &self,
        request: Request<RevokeJoinTokenRequest>,
    ) -> Result<Response<RevokeJoinTokenResponse>, Status> {
        let allowed = self.allowed(&request, &rights::JOIN_TOKENS_MANAGE)?;
        let token = TokenId(request.into_inner().id);
        allowed.change(AccessChange::RevokeJoinToken { token }).await?;
        Ok(Response::new(RevokeJoinTokenResponse {}))
    }

    async fn bind_role(&self, request: Request<BindRoleRequest>) -> Result<Response<BindRoleResponse>, Status> {
        let allowed = self.allowed(&request, &rights::ROLES_MANAGE)?;
        let binding = words::binding(request.into_inner().binding, allowed.own()).map_err(status::invalid)?;
        let shown = words::of_binding(&binding);
        allowed.change(AccessChange::BindRole(binding)).await?;
        Ok(Response::new(BindRoleResponse { binding: Some(shown) }))
    }

    async fn unbind_role(&self, request: Request<UnbindRoleRequest>) -> Result<Response<UnbindRoleResponse>, Status> {
        let allowed = self.allowed(&request, &rights::ROLES_MANAGE)?;
        let binding = words::binding(request.into_inner().binding, allowed.own()).map_err(status::invalid)?;
        let mindos_core::access::Binding { scope, subject, role, sources: _ } = binding;
        allowed.change(AccessChange::UnbindRole { scope, subject, role }).await?;
        Ok(Response::new(UnbindRoleResponse {}))
    }

    async fn list_roles(&self, request: Request<ListRolesRequest>) -> Result<Response<ListRolesResponse>, Status> {
        let allowed = self.allowed(&request, &rights::ROLES_MANAGE)?;
        let ListRolesRequest { tenant, page_size, page_token } = request.into_inner();
        let asked = allowed.listed(&tenant)?;
        let known = allowed.scoped.access.load();
        let shown = known.access.bindings().filter(|binding| allowed.shows(asked.as_ref(), &binding.scope));
        let place = |binding: &&Arc<mindos_core::access::Binding>| {
            let (kind, name) = match &binding.subject {
                Subject::Principal(name) => ("principal", name),
                Subject::Group(name) => ("group", name),
            };
            format!("{} {kind} {name} {}", binding.scope, binding.role)
        };
        let mut bindings: Vec<_> = shown.collect();
        bindings.sort_by_key(place);
        let (bindings, next_page_token) = page(bindings, page_size, &page_token, place)?;
        let bindings = bindings.into_iter().map(|binding| words::of_binding(binding)).collect();
        Ok(Response::new(ListRolesResponse { bindings, next_page_token }))
    }

    async fn register_issuer(
        &self,
        request: Request<RegisterIssuerRequest>,
    ) -> Result<Response<RegisterIssuerResponse>, Status> {
        let allowed = self.allowed(&request, &rights::ISSUERS_MANAGE)?;
        let issuer = words::issuer(request.into_inner().issuer, allowed.own()).map_err(status::invalid)?;
        let shown = words::of_issuer(&issuer);
        allowed.change(AccessChange::RegisterIssuer(issuer)).await?;
        Ok(Response::new(RegisterIssuerResponse { issuer: Some(shown) }))
    }

    async fn list_issuers(
        &self,
        request: Request<ListIssuersRequest>,
    ) -> Result<Response<ListIssuersResponse>, Status> {
        let allowed = self.allowed(&request, &rights::ISSUERS_READ)?;
        let ListIssuersRequest { tenant, page_size, page_token } = request.into_inner();
        let asked = allowed.listed(&tenant)?;
        let known = allowed.scoped.access.load();
        let shown = |tenant: &TenantName| allowed.shows(asked.as_ref(), &Scope::Tenant(tenant.clone()));
        let place = |issuer: &&Arc<mindos_core::access::Issuer>| {
            format!("{} {} {}", issuer.tenant, issuer.cluster, issuer.name)
        };
        let mut issuers: Vec<_> = known.access.issuers().filter(|issuer| shown(&issuer.tenant)).collect();
        issuers.sort_by_key(place);
        let (issuers, next_page_token) = page(issuers, page_size, &page_token, place)?;
        let issuers = issuers.into_iter().map(|issuer| words::of_issuer(issuer)).collect();
        Ok(Response::new(ListIssuersResponse { issuers, next_page_token }))
    }

    async fn remove_issuer(
        &self,
        request: Request<RemoveIssuerRequest>,
    ) -> Result<Response<RemoveIssuerResponse>, Status> {
        let allowed = self.allowed(&request, &rights::ISSUERS_MANAGE)?;
        let RemoveIssuerRequest { tenant, cluster, name } = request.into_inner();
        let tenant = words::tenant(&tenant, allowed.own(), "tenant").map_err(status::invalid)?;
        let cluster = parsed(&cluster, "cluster").map_err(status::invalid)?;
        allowed.change(AccessChange::RemoveIssuer { tenant, cluster, name: name.into() }).await?;
        Ok(Response::new(RemoveIssuerResponse {}))
    }

    async fn deny_agent(&self, request: Request<DenyAgentRequest>) -> Result<Response<DenyAgentResponse>, Status> {
        let allowed = self.allowed(&request, &rights::AGENTS_DENY)?;
        let DenyAgentRequest { target, reason } = request.into_inner();
        let target: DenialTarget = match target {
            Some(deny_agent_request::Target::Agent(agents)) => words::agents(&agents, allowed.own()),
            Some(deny_agent_request::Target::Key(key)) => words::key(&key),
            None => Err(Invalid::new("target", "expected one of agent and key")),
        }
        .map_err(status::invalid)?;
        let scope = allowed.within.clone();
        let (wanted, reason) = ((scope.clone(), target.clone()), reason.into());
        allowed.change(AccessChange::Deny { scope, target, reason }).await?;
        let known = allowed.scoped.access.load();
        let denial = known.access.denials().find(|denial| (&denial.scope, &denial.target) == (&wanted.0, &wanted.1));
        let denial = Some(words::of_denial(denial.ok_or_else(gone)?));
        Ok(Response::new(DenyAgentResponse { denial }))
    }

    async fn allow_agent(&self, request: Request<AllowAgentRequest>) -> Result<Response<AllowAgentResponse>, Status> {
        let allowed = self.allowed(&request, &rights::AGENTS_DENY)?;
        let denial = DenialId(request.into_inner().id);
        allowed.change(AccessChange::Allow { denial }).await?;
        Ok(Response::new(AllowAgentResponse {}))
    }

    async fn list_denials(
        &self,
        request: Request<ListDenialsRequest>,
    ) -> Result<Response<ListDenialsResponse>, Status> {
        let allowed = self.allowed(&request, &rights::AGENTS_DENY)?;
        let ListDenialsRequest { tenant, page_size, page_token } = request.into_inner();
        let asked = allowed.listed(&tenant)?;
        let known = allowed.scoped.access.load();
        let denials = known.access.denials().filter(|denial| allowed.shows(asked.as_ref(), &denial.scope)).collect();
        let (denials, next_page_token) = page(denials, page_size, &page_token, |denial| number(denial.id.0))?;
        let denials = denials.into_iter().map(|denial| words::of_denial(denial)).collect();
        Ok(Response::new(ListDenialsResponse { denials, next_page_token }))
    }

    async fn set_quota(&self, request: Request<SetQuotaRequest>) -> Result<Response<SetQuotaResponse>, Status> {
        let allowed = self.allowed(&request, &rights::QUOTAS_SET)?;
        let SetQuotaRequest { tenant, quota } = request.into_inner();
        let tenant = parsed(&tenant, "tenant").map_err(status::invalid)?;
        allowed.change(AccessChange::SetQuota { tenant, quota: quota.map(words::quota) }).await?;
        Ok(Response::new(SetQuotaResponse {}))
    }

    async fn list_quotas(&self, request: Request<ListQuotasRequest>) -> Result<Response<ListQuotasResponse>, Status> {
        let allowed = self.allowed(&request, &rights::QUOTAS_READ)?;
        let ListQuotasRequest { page_size, page_token } = request.into_inner();
        let known = allowed.scoped.access.load();
        let quotas = known.access.quotas().filter(|(tenant, _)| allowed.within.covers_tenant(tenant));
        let quotas = quotas.map(|(tenant, quota)| words::of_quota(tenant, quota)).collect();
        let (quotas, next_page_token) = page(quotas, page_size, &page_token, |quota| quota.tenant.clone())?;
        Ok(Response::new(ListQuotasResponse { quotas, next_page_token }))
    }
}
