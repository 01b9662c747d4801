//! Read access to repositories for agents: `mindos.agent.v1.RepositoryService`.

use std::sync::Arc;

use mindos_core::access::IdentityHolder;
use mindos_core::record::InstanceKey;
use mindos_proto::agent::v1::repository_service_server::RepositoryService;
use mindos_proto::agent::v1::{GetRepositoryAccessRequest, GetRepositoryAccessResponse};
use mindos_proto::convert;
use tonic::{Request, Response, Status};

use super::{Context, status};
use crate::access::PrincipalKind;
use crate::effects::{Access, Asker, Asking, Readers};

/// The service.
pub(super) struct Repositories {
    pub(super) context: Arc<Context>,
    pub(super) readers: Readers,
}

#[tonic::async_trait]
impl RepositoryService for Repositories {
    async fn get_repository_access(
        &self,
        request: Request<GetRepositoryAccessRequest>,
    ) -> Result<Response<GetRepositoryAccessResponse>, Status> {
        let context = self.context.of(&request)?;
        let GetRepositoryAccessRequest { delivery_id, token, repository } = request.into_inner();
        let (delivery, token) = convert::lease(&delivery_id, token).map_err(status::invalid)?;
        let holder = match &context.caller.kind {
            PrincipalKind::Agent(agent) => match &agent.identity.holder {
                IdentityHolder::General { instance, .. } => Asker::Instance(InstanceKey {
                    tenant: context.tenant().clone(),
                    cluster: agent.identity.cluster.clone(),
                    instance: instance.clone(),
                }),
                IdentityHolder::ClusterAgent { .. } => Asker::ClusterAgent(agent.identity.cluster.clone()),
            },
            _ => Asker::Anybody,
        };
        let asking = Asking { tenant: context.tenant().clone(), holder };
        let wanted = Some(repository.as_str()).filter(|repository| !repository.is_empty());
        let access = self
            .readers
            .access(&asking, (delivery, token), wanted)
            .await
            .map_err(|error| status::repository_access(&error))?;
        let Access { repository, api_url, clone_url, token, expires, author } = access;
        Ok(Response::new(GetRepositoryAccessResponse {
            repository: repository.to_string(),
            api_url,
            clone_url,
            token: token.expose().to_owned(),
            expires_at: expires.map(convert::time),
            author: author.to_string(),
        }))
    }
}
