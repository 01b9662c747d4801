//! A connection to the API of the control plane.

use mindos_model::DeliveryId;
use mindos_model::limits::MESSAGE_MAX;
use mindos_proto::delivery::v1 as delivery;
use mindos_proto::delivery::v1::delivery_service_client::DeliveryServiceClient;
use mindos_proto::event::v1 as event;
use mindos_proto::event::v1::event_service_client::EventServiceClient;
use mindos_proto::fleet::v1::fleet_service_client::FleetServiceClient;
use mindos_proto::ledger::v1::ledger_service_client::LedgerServiceClient;
use mindos_proto::route::v1::route_service_client::RouteServiceClient;

use crate::blob;
use crate::dial::{Channel, Dialer};
use crate::error::Error;
use crate::retry::Retry;

/// A client of the control plane. Cheap to clone; all clones share one connection.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) channel: Channel,
    pub(crate) retry: Retry,
}

impl Client {
    /// A client of the control plane at `url`, such as `http://127.0.0.1:8090`, or `https://...` where this machine trusts it.
    ///
    /// Dials when first used, and again after a break. Has to be called within a Tokio runtime.
    ///
    /// # Errors
    /// When the address is not one, or this machine has nobody to trust.
    pub fn connect(url: &str) -> Result<Client, Error> {
        Client::dial(&Dialer::new(url)?)
    }

    /// A client with roots, certificate, token or tenant of your own; otherwise as [`Client::connect`].
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn dial(dialer: &Dialer) -> Result<Client, Error> {
        Ok(Client { channel: dialer.channel()?, retry: Retry::default() })
    }

    /// The same client with other retries.
    #[must_use]
    pub fn with_retry(self, retry: Retry) -> Client {
        Client { retry, ..self }
    }

    /// Events, as the API has them.
    #[must_use]
    pub fn events(&self) -> EventServiceClient<Channel> {
        EventServiceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_MAX)
    }

    /// Deliveries, as the API has them.
    #[must_use]
    pub fn deliveries(&self) -> DeliveryServiceClient<Channel> {
        DeliveryServiceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_MAX)
    }

    /// Clusters, generals and instances, as the API has them.
    #[must_use]
    pub fn fleet(&self) -> FleetServiceClient<Channel> {
        FleetServiceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_MAX)
    }

    /// The routing table, as the API has it.
    #[must_use]
    pub fn routes(&self) -> RouteServiceClient<Channel> {
        RouteServiceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_MAX)
    }

    /// The ledger, as the API has it.
    #[must_use]
    pub fn ledger(&self) -> LedgerServiceClient<Channel> {
        LedgerServiceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_MAX)
    }

    /// One event with its data and what it led to, by the sequence that [`Client::publish`] returned.
    ///
    /// # Errors
    /// Refused with `NotFound` when it is not known, or older than the history kept.
    pub async fn event(&self, seq: u64) -> Result<event::Event, Error> {
        let call = || async {
            let request = event::GetRequest { key: Some(event::get_request::Key::Seq(seq)) };
            Ok(self.events().get(request).await?.into_inner().event)
        };
        self.retry.run(call).await?.ok_or_else(|| Error::Protocol("an answer without its event".to_owned()))
    }

    /// One delivery with its attempts, its output, and why it went where it went.
    ///
    /// # Errors
    /// Refused with `NotFound` when it is not known, or settled and older than the history kept.
    pub async fn delivery(&self, id: DeliveryId) -> Result<delivery::Delivery, Error> {
        let call = || async {
            let request = delivery::GetRequest { delivery_id: id.to_string(), include_output: true };
            Ok(self.deliveries().get(request).await?.into_inner().delivery)
        };
        self.retry.run(call).await?.ok_or_else(|| Error::Protocol("an answer without its delivery".to_owned()))
    }

    /// The newest events that fit, at most `max`, without their data.
    ///
    /// # Errors
    /// When the control plane refuses, or cannot be reached for as long as is retried.
    pub async fn list_events(&self, filter: event::EventFilter, max: usize) -> Result<Vec<event::Event>, Error> {
        let (mut events, mut page_token) = (Vec::new(), String::new());
        while events.len() < max {
            let page_size = page_size(max - events.len());
            let call = || async {
                let (filter, page_token) = (Some(filter.clone()), page_token.clone());
                let request = event::ListRequest { filter, page_size, page_token, include_data: false };
                Ok(self.events().list(request).await?.into_inner())
            };
            let page = self.retry.run(call).await?;
            events.extend(page.events);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        events.truncate(max);
        Ok(events)
    }

    /// The newest deliveries that fit, at most `max`, without their outputs.
    ///
    /// # Errors
    /// When the control plane refuses, or cannot be reached for as long as is retried.
    pub async fn list_deliveries(
        &self,
        filter: delivery::DeliveryFilter,
        max: usize,
    ) -> Result<Vec<delivery::Delivery>, Error> {
        let (mut deliveries, mut page_token) = (Vec::new(), String::new());
        while deliveries.len() < max {
            let page_size = page_size(max - deliveries.len());
            let call = || async {
                let (filter, page_token) = (Some(filter.clone()), page_token.clone());
                let request = delivery::ListRequest { filter, page_size, page_token, include_output: false };
                Ok(self.deliveries().list(request).await?.into_inner())
            };
            let page = self.retry.run(call).await?;
            deliveries.extend(page.deliveries);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        deliveries.truncate(max);
        Ok(deliveries)
    }

    /// Stores bytes that are too large for an event; name them in it with the attribute `dataref`.
    ///
    /// # Errors
    /// When the control plane refuses, or cannot be reached for as long as is retried.
    pub async fn put_blob(&self, bytes: impl Into<bytes::Bytes>, content_type: &str) -> Result<String, Error> {
        let bytes = bytes.into();
        self.retry.run(|| blob::put(self.channel.clone(), bytes.clone(), content_type)).await
    }

    /// Fetches a blob by its address, `blob:sha256:<hex>`.
    ///
    /// # Errors
    /// When it is not there or damaged, or the control plane cannot be reached for as long as is retried.
    pub async fn get_blob(&self, reference: &str) -> Result<bytes::Bytes, Error> {
        self.retry.run(|| blob::get(self.channel.clone(), reference)).await
    }
}

fn page_size(wanted: usize) -> u32 {
    u32::try_from(wanted.min(1000)).unwrap_or(1000)
}
