//! The control plane as runs see it.

use std::sync::Arc;
use std::time::Duration;

use mindos_kube::platform::plan::Kind;
use mindos_model::{ClusterName, Status, Token};
use mindos_proto::delivery::v1::DeliveryStatus;
use mindos_proto::run::v1::run_service_client::RunServiceClient;
use mindos_proto::run::v1::{
    CancelRunRequest, GetRunRequest, GetRunResponse, RunKind, SubmitRunRequest, SubmitRunResponse, TellLogRequest,
};
use mindos_sdk::Channel;
use tonic::Request;

/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// The control plane, or who plays it.
pub(super) type Plane = Arc<dyn ControlPlane>;

/// What runs ask of the control plane.
#[tonic::async_trait]
pub(super) trait ControlPlane: Send + Sync {
    /// Takes the run of an object; again it is the same run.
    async fn submit(
        &self,
        kind: Kind,
        object: (&str, &str, &str),
        spec: &serde_json::Value,
    ) -> Result<SubmitRunResponse, tonic::Status>;

    /// How a run stands.
    async fn stands(&self, delivery: &str) -> Result<Stands, tonic::Status>;

    /// Cancels a run. One that is not known needs it no more.
    async fn cancel(&self, delivery: &str) -> Result<(), tonic::Status>;

    /// Tells the last lines of a run's log.
    async fn tell_log(&self, delivery: &str, token: Token, lines: String) -> Result<(), tonic::Status>;
}

/// The control plane that is dialled.
#[derive(Clone, Debug)]
pub(super) struct Dialled {
    client: RunServiceClient<Channel>,
    cluster: ClusterName,
}

/// How a run stands there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stands {
    /// It waits, or is worked on.
    Open,
    /// It is to be stopped, or has been.
    Cancelled,
    /// It waits for a person, for this reason.
    Parked(String),
    Succeeded,
    /// Nobody knows it.
    Unknown,
}

impl Dialled {
    pub(super) fn new(channel: Channel, cluster: ClusterName) -> Dialled {
        Dialled { client: RunServiceClient::new(channel), cluster }
    }
}

#[tonic::async_trait]
impl ControlPlane for Dialled {
    async fn submit(
        &self,
        kind: Kind,
        (namespace, name, uid): (&str, &str, &str),
        spec: &serde_json::Value,
    ) -> Result<SubmitRunResponse, tonic::Status> {
        let kind = match kind {
            Kind::Code => RunKind::Code,
            Kind::Docs => RunKind::Docs,
        };
        let request = SubmitRunRequest {
            kind: kind.into(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            spec_json: spec.to_string(),
            cluster: self.cluster.to_string(),
        };
        Ok(self.client.clone().submit_run(bounded(request)).await?.into_inner())
    }

    async fn stands(&self, delivery: &str) -> Result<Stands, tonic::Status> {
        let request = GetRunRequest { delivery_id: delivery.to_owned(), cluster: self.cluster.to_string() };
        let answer = match self.client.clone().get_run(bounded(request)).await {
            Ok(answer) => answer.into_inner(),
            Err(status) if status.code() == tonic::Code::NotFound => return Ok(Stands::Unknown),
            Err(status) => return Err(status),
        };
        let GetRunResponse { status, cancel_requested, message } = answer;
        let is = |stands: Status| status == i32::from(DeliveryStatus::from(stands));
        Ok(if cancel_requested || is(Status::Cancelled) {
            Stands::Cancelled
        } else if is(Status::Parked) {
            Stands::Parked(message)
        } else if is(Status::Succeeded) {
            Stands::Succeeded
        } else {
            Stands::Open
        })
    }

    async fn cancel(&self, delivery: &str) -> Result<(), tonic::Status> {
        let request = CancelRunRequest { delivery_id: delivery.to_owned(), cluster: self.cluster.to_string() };
        match self.client.clone().cancel_run(bounded(request)).await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == tonic::Code::NotFound => Ok(()),
            Err(status) => Err(status),
        }
    }

    async fn tell_log(&self, delivery: &str, token: Token, lines: String) -> Result<(), tonic::Status> {
        let (delivery_id, cluster) = (delivery.to_owned(), self.cluster.to_string());
        let request = TellLogRequest { delivery_id, cluster, token: Some(token.into()), lines };
        self.client.clone().tell_log(bounded(request)).await.map(drop)
    }
}

fn bounded<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(ANSWER_WITHIN);
    request
}
