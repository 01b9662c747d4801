//! What a stranger's client does: publish until acknowledged, ask, read the ledger.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mindos_proto::cloudevents::v1::CloudEvent;
use mindos_proto::cloudevents::v1::cloud_event::cloud_event_attribute_value::Attr;
use mindos_proto::cloudevents::v1::cloud_event::{CloudEventAttributeValue, Data};
use mindos_proto::event::v1::PublishRequest;
use mindos_proto::event::v1::event_service_client::EventServiceClient;
use mindos_proto::ledger::v1::ledger_service_client::LedgerServiceClient;
use mindos_proto::ledger::v1::{LedgerEntry, TailRequest};
use mindos_proto::route::v1::route_service_client::RouteServiceClient;
use mindos_proto::route::v1::{ApplyRequest, Route, RouteTable, RouteTargets, Strategy};
use mindos_sdk::{Channel, Dialer};
use tonic::Code;

/// A connection that dials again by itself.
///
/// # Errors
/// When the address is malformed.
pub fn channel(address: &str) -> Result<Channel> {
    let dialer = Dialer::new(address).context("failed to read an address")?;
    dial(dialer)
}

/// The same with roots and a token.
///
/// # Errors
/// When TLS cannot be set up.
pub fn dial(dialer: Dialer) -> Result<Channel> {
    let dialer = dialer.connect_max(Duration::from_secs(2)).call_max(Duration::from_secs(10));
    dialer.channel().context("failed to set a channel up")
}

/// An event on a lane of its own choice.
#[must_use]
pub fn event(source: &str, id: &str, kind: &str, lane: &str) -> CloudEvent {
    let text = |text: &str| CloudEventAttributeValue { attr: Some(Attr::CeString(text.to_owned())) };
    CloudEvent {
        id: id.to_owned(),
        source: source.to_owned(),
        spec_version: "1.0".to_owned(),
        r#type: format!("com.example.{kind}"),
        attributes: [("kind".to_owned(), text(kind)), ("lane".to_owned(), text(lane))].into(),
        data: Some(Data::TextData(format!("{{\"id\":\"{id}\"}}"))),
    }
}

/// What the answer to a publication said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acked {
    /// Sequence of the event.
    pub seq: u64,
    /// Deliveries planned, those parked at once among them.
    pub deliveries: usize,
    /// Whether an earlier call had been accepted already.
    pub duplicate: bool,
}

/// Publishes until there is an answer; tries again where the answer is that one should.
///
/// # Errors
/// When the control plane refuses the event for good, or there is no answer within `time`.
pub async fn publish(channel: &Channel, event: CloudEvent, time: Duration) -> Result<Acked> {
    let begun = Instant::now();
    let mut client = EventServiceClient::new(channel.clone());
    loop {
        let request = PublishRequest { event: Some(event.clone()), explain: false };
        let status = match client.publish(request).await {
            Ok(answer) => {
                let result = answer.into_inner().result.context("an answer has a result")?;
                return Ok(Acked { seq: result.seq, deliveries: result.deliveries.len(), duplicate: result.duplicate });
            }
            Err(status) => status,
        };
        let refused = [Code::InvalidArgument, Code::AlreadyExists, Code::Unimplemented, Code::PermissionDenied];
        if refused.contains(&status.code()) || begun.elapsed() > time {
            bail!("event {} was not accepted: {status}", event.id);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Puts a table in force in which every event goes to all generals of the type `worker`.
///
/// # Errors
/// When it is refused.
pub async fn broadcast_to_workers(channel: &Channel) -> Result<()> {
    let route = Route {
        name: "all".to_owned(),
        targets: Some(RouteTargets { types: vec!["worker".to_owned()], ..RouteTargets::default() }),
        strategy: Strategy::Broadcast.into(),
        ..Route::default()
    };
    apply(channel, vec![route]).await
}

/// Puts a table in force.
///
/// # Errors
/// When it is refused.
pub async fn apply(channel: &Channel, routes: Vec<Route>) -> Result<()> {
    let request =
        ApplyRequest { table: Some(RouteTable { routes, ..RouteTable::default() }), ..ApplyRequest::default() };
    RouteServiceClient::new(channel.clone()).apply(request).await.context("failed to apply routes")?;
    Ok(())
}

/// All records from `from` on, without payloads.
///
/// # Errors
/// When the ledger cannot be read.
pub async fn ledger(channel: &Channel, from: u64) -> Result<Vec<LedgerEntry>> {
    let mut client = LedgerServiceClient::new(channel.clone()).max_decoding_message_size(64 << 20);
    let request = TailRequest { from_seq: from, ..TailRequest::default() };
    let mut stream = client.tail(request).await.context("failed to tail the ledger")?.into_inner();
    let mut entries = Vec::new();
    while let Some(message) = stream.message().await.context("the ledger broke off")? {
        entries.extend(message.entries);
    }
    Ok(entries)
}
