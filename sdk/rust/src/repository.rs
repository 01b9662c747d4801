//! Read access to the repository that a piece of work is about.

use mindos_model::{DeliveryId, FailureKind, Secret, Timestamp, Token};
use mindos_proto::agent::v1::repository_service_client::RepositoryServiceClient;
use mindos_proto::agent::v1::{GetRepositoryAccessRequest, GetRepositoryAccessResponse};
use mindos_proto::convert;

use crate::general::Failure;
use crate::{Channel, Error, Retry};

/// What it takes to read one repository. Ends with the lease that it was given for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepositoryAccess {
    /// The repository, `owner/name`.
    pub repository: String,
    /// Where the forge's API is, without a slash at its end.
    pub api_url: String,
    /// From where the repository is cloned, without credentials.
    pub clone_url: String,
    /// Bearer token of the API, and for git the password of the user `x-access-token`.
    pub token: Secret,
    /// When it ends at the latest; unset where that is not known.
    pub expires_at: Option<Timestamp>,
    /// The login under which the control plane writes there.
    pub author: String,
}

impl RepositoryAccess {
    /// Asks the control plane for access to the repository of a delivery's event, for whoever holds its lease. For those who bring
    /// their own way of doing work; generals have [`Work::repository_access`](crate::Work::repository_access).
    ///
    /// # Errors
    /// As [`Work::repository_access`](crate::Work::repository_access).
    pub async fn ask(channel: &Channel, delivery: DeliveryId, token: Token) -> Result<RepositoryAccess, Failure> {
        let request = || GetRepositoryAccessRequest {
            delivery_id: delivery.to_string(),
            token: Some(token.into()),
            repository: String::new(),
        };
        let call = || async {
            let answer = RepositoryServiceClient::new(channel.clone()).get_repository_access(request()).await?;
            RepositoryAccess::read(answer.into_inner())
        };
        Retry::default().run(call).await.map_err(|error| {
            let kind = if error.is_temporary() { FailureKind::Transient } else { FailureKind::Poison };
            Failure::new(kind, format!("repository cannot be read: {}", crate::error::chain(&error)))
        })
    }

    fn read(answer: GetRepositoryAccessResponse) -> Result<RepositoryAccess, Error> {
        let GetRepositoryAccessResponse { repository, api_url, clone_url, token, expires_at, author } = answer;
        let expires_at = expires_at.map(|at| convert::timestamp(&at, "expires_at")).transpose();
        let expires_at = expires_at.map_err(|error| Error::Protocol(error.to_string()))?;
        Ok(RepositoryAccess { repository, api_url, clone_url, token: Secret::new(token), expires_at, author })
    }
}
