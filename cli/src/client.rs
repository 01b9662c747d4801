//! The way to a control plane: one gRPC channel, dialled with the answer to "what if nobody is there".

use std::time::Duration;

use mindos_proto::budget::v1::budget_service_client::BudgetServiceClient;
use mindos_proto::delivery::v1::delivery_service_client::DeliveryServiceClient;
use mindos_proto::event::v1::event_service_client::EventServiceClient;
use mindos_proto::fleet::v1::fleet_service_client::FleetServiceClient;
use mindos_proto::ledger::v1::ledger_service_client::LedgerServiceClient;
use mindos_proto::replay::v1::replay_service_client::ReplayServiceClient;
use mindos_proto::route::v1::route_service_client::RouteServiceClient;
use tonic::transport::{Channel, Endpoint};

use crate::failure::Failure;

/// How long dialling may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Largest answer: a page of 1000 deliveries with their events' names stays far below.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// HTTP/2 windows, so that a long tail or watch is not slowed down by the round trip.
const WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// An open channel to a control plane.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    server: String,
    channel: Channel,
}

impl Client {
    /// Dials `server`, such as `http://127.0.0.1:8090`.
    pub(crate) async fn connect(server: &str) -> Result<Client, Failure> {
        let endpoint = endpoint(server)?;
        let channel = endpoint.connect().await.map_err(|_| Failure::unreachable(server))?;
        Ok(Client { server: server.to_owned(), channel })
    }

    /// A channel that dials when it is used, and again after a break.
    pub(crate) fn lazy(server: &str) -> Result<Client, Failure> {
        Ok(Client { server: server.to_owned(), channel: endpoint(server)?.connect_lazy() })
    }

    pub(crate) fn events(&self) -> EventServiceClient<Channel> {
        EventServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    pub(crate) fn deliveries(&self) -> DeliveryServiceClient<Channel> {
        DeliveryServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
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

    /// What an error of a call means, to be used with `map_err`.
    pub(crate) fn failed(&self) -> impl Fn(tonic::Status) -> Failure + '_ {
        |status| Failure::from_status(&status, &self.server)
    }

    /// Whether a broken watch or tail may be opened again.
    pub(crate) fn is_passing(status: &tonic::Status) -> bool {
        matches!(status.code(), tonic::Code::Unavailable | tonic::Code::Cancelled | tonic::Code::Unknown)
    }
}

fn endpoint(server: &str) -> Result<Endpoint, Failure> {
    let accepted = "expected http://HOST:PORT, such as http://127.0.0.1:8090";
    let uri: http::Uri =
        server.parse().map_err(|error| Failure::usage(format!("--server {server}: {error}; {accepted}")))?;
    if uri.scheme_str() != Some("http") || uri.authority().is_none() {
        return Err(Failure::usage(format!("--server {server}: {accepted}")));
    }
    Ok(Endpoint::from(uri)
        .connect_timeout(CONNECT_WITHIN)
        .tcp_nodelay(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20)))
}
