//! The way to a control plane: one gRPC channel, dialled with the answer to "what if nobody is there".

use mindos_model::TenantName;
use mindos_proto::access::v1::access_service_client::AccessServiceClient;
use mindos_proto::access::v1::authority_service_client::AuthorityServiceClient;
use mindos_proto::budget::v1::budget_service_client::BudgetServiceClient;
use mindos_proto::delivery::v1::delivery_service_client::DeliveryServiceClient;
use mindos_proto::effect::v1::effect_service_client::EffectServiceClient;
use mindos_proto::event::v1::event_service_client::EventServiceClient;
use mindos_proto::fleet::v1::fleet_service_client::FleetServiceClient;
use mindos_proto::ledger::v1::ledger_service_client::LedgerServiceClient;
use mindos_proto::replay::v1::replay_service_client::ReplayServiceClient;
use mindos_proto::route::v1::route_service_client::RouteServiceClient;
use mindos_proto::task::v1::task_service_client::TaskServiceClient;
use mindos_sdk::{Channel, DialError};

use crate::failure::Failure;
use crate::options::Global;
use crate::site::{Site, chain};

/// Largest answer: a page of 1000 deliveries with their events' names stays far below.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// An open channel to a control plane.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    server: String,
    channel: Channel,
    tenant: Option<TenantName>,
}

impl Client {
    /// Dials the control plane that the command line, the environment or a context names.
    pub(crate) async fn connect(global: &Global) -> Result<Client, Failure> {
        Client::dial(&Site::of(global).await?).await
    }

    /// Dials a control plane.
    pub(crate) async fn dial(site: &Site) -> Result<Client, Failure> {
        let channel = site.dialer()?.connect().await.map_err(|error| not_connected(&site.endpoint, &error))?;
        Ok(Client { server: site.endpoint.clone(), channel, tenant: site.tenant.clone() })
    }

    /// A channel that dials when it is used, and again after a break.
    pub(crate) fn lazy(site: &Site) -> Result<Client, Failure> {
        let channel = site.dialer()?.channel().map_err(|error| Failure::usage(chain(&error)))?;
        Ok(Client { server: site.endpoint.clone(), channel, tenant: site.tenant.clone() })
    }

    /// The tenant to name in a request about access: `*` for the whole plane, else the one that is called for, else the caller's.
    pub(crate) fn tenant(&self, plane: bool) -> String {
        match (plane, &self.tenant) {
            (true, _) => "*".to_owned(),
            (false, Some(tenant)) => tenant.to_string(),
            (false, None) => String::new(),
        }
    }

    pub(crate) fn access(&self) -> AccessServiceClient<Channel> {
        AccessServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    pub(crate) fn authority(&self) -> AuthorityServiceClient<Channel> {
        AuthorityServiceClient::new(self.channel.clone())
    }

    pub(crate) fn events(&self) -> EventServiceClient<Channel> {
        EventServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    pub(crate) fn deliveries(&self) -> DeliveryServiceClient<Channel> {
        DeliveryServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    pub(crate) fn effects(&self) -> EffectServiceClient<Channel> {
        EffectServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    pub(crate) fn fleet(&self) -> FleetServiceClient<Channel> {
        FleetServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    pub(crate) fn routes(&self) -> RouteServiceClient<Channel> {
        RouteServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    pub(crate) fn budgets(&self) -> BudgetServiceClient<Channel> {
        BudgetServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    pub(crate) fn replays(&self) -> ReplayServiceClient<Channel> {
        ReplayServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    pub(crate) fn ledger(&self) -> LedgerServiceClient<Channel> {
        LedgerServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    pub(crate) fn tasks(&self) -> TaskServiceClient<Channel> {
        TaskServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// What an error of a call means, to be used with `map_err`.
    pub(crate) fn failed(&self) -> impl Fn(tonic::Status) -> Failure + '_ {
        |status| Failure::from_status(&status, &self.server)
    }

    /// Whether a broken watch or tail may be opened again.
    pub(crate) fn is_passing(status: &tonic::Status) -> bool {
        matches!(status.code(), tonic::Code::Unavailable | tonic::Code::Cancelled | tonic::Code::Unknown)
    }
}

/// Nobody answers, or somebody whom we do not trust, or who does not speak TLS.
fn not_connected(endpoint: &str, error: &DialError) -> Failure {
    let text = chain(error);
    let is_tls = ["certificate", "TLS", "tls", "Certificate", "handshake"].iter().any(|word| text.contains(word));
    match error {
        DialError::Connect(_) if is_tls || endpoint.starts_with("https://") && !text.contains("refused") => {
            Failure::world(format!("cannot speak to {endpoint}: {text}"))
                .hint("is it TLS there? name the certificates that vouch for it with --ca or MINDOS_CA")
        }
        DialError::Connect(_) => Failure::unreachable(endpoint),
        DialError::Address(error) => Failure::usage(format!("--endpoint {}", chain(error))),
    }
}
