//! Watching: events and deliveries as they change, without gaps across breaks; and waiting for what becomes of an event.

use std::collections::BTreeMap;
use std::time::Duration;

use mindos_model::{DeliveryId, ParkReason, Status as Word};
use mindos_proto::convert;
use mindos_proto::delivery::v1 as delivery;
use mindos_proto::event::v1 as event;
use tokio::time::{Instant, timeout_at};
use tonic::{Status, Streaming};

use crate::publish::{Published, planned};
use crate::retry::Pause;
use crate::{Client, Error, Event};

/// Shows something as it changes; goes on where it stood after a break.
#[derive(Debug)]
pub struct Watch<F: Feed> {
    client: Client,
    feed: F,
    stream: Option<Streaming<F::Response>>,
    /// Where to go on; 0 at the present.
    from_seq: u64,
    caught_up: bool,
    pause: Pause,
}

/// What can be watched.
pub trait Feed: sealed::Sealed {
    /// What is shown.
    type Item;
    /// The message it comes in.
    type Response;
    #[doc(hidden)]
    fn open(
        &self,
        client: &Client,
        from_seq: u64,
    ) -> impl Future<Output = Result<Streaming<Self::Response>, Status>> + Send;
    #[doc(hidden)]
    fn read(response: Self::Response) -> (Option<Self::Item>, u64, bool);
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::EventFeed {}
    impl Sealed for super::DeliveryFeed {}
}

/// Events.
#[derive(Clone, Debug, Default)]
pub struct EventFeed {
    /// Which ones.
    pub filter: event::EventFilter,
    /// Whether their data is wanted.
    pub include_data: bool,
}

/// Deliveries.
#[derive(Clone, Debug, Default)]
pub struct DeliveryFeed {
    /// Which ones.
    pub filter: delivery::DeliveryFilter,
    /// Whether the data of their outputs is wanted.
    pub include_output: bool,
}

impl Feed for EventFeed {
    type Item = event::Event;
    type Response = event::WatchResponse;

    async fn open(&self, client: &Client, from_seq: u64) -> Result<Streaming<event::WatchResponse>, Status> {
        let EventFeed { filter, include_data } = self.clone();
        let request = event::WatchRequest { filter: Some(filter), from_seq, include_data };
        Ok(client.events().watch(request).await?.into_inner())
    }

    fn read(response: event::WatchResponse) -> (Option<event::Event>, u64, bool) {
        (response.event, response.seq, response.caught_up)
    }
}

impl Feed for DeliveryFeed {
    type Item = delivery::Delivery;
    type Response = delivery::WatchResponse;

    async fn open(&self, client: &Client, from_seq: u64) -> Result<Streaming<delivery::WatchResponse>, Status> {
        let DeliveryFeed { filter, include_output } = self.clone();
        let request = delivery::WatchRequest { filter: Some(filter), from_seq, include_output };
        Ok(client.deliveries().watch(request).await?.into_inner())
    }

    fn read(response: delivery::WatchResponse) -> (Option<delivery::Delivery>, u64, bool) {
        (response.delivery, response.seq, response.caught_up)
    }
}

impl Client {
    /// Watches events from a sequence on; 0 begins with what is accepted from now on.
    #[must_use]
    pub fn watch_events(&self, feed: EventFeed, from_seq: u64) -> Watch<EventFeed> {
        self.watch(feed, from_seq)
    }

    /// Watches deliveries from a sequence on; 0 begins with what changes from now on.
    #[must_use]
    pub fn watch_deliveries(&self, feed: DeliveryFeed, from_seq: u64) -> Watch<DeliveryFeed> {
        self.watch(feed, from_seq)
    }

    fn watch<F: Feed>(&self, feed: F, from_seq: u64) -> Watch<F> {
        Watch { client: self.clone(), feed, stream: None, from_seq, caught_up: false, pause: Pause::new(self.retry) }
    }
}

impl<F: Feed> Watch<F> {
    /// The next change. Waits for as long as it takes; dials again after a break.
    ///
    /// # Errors
    /// When the control plane refuses, as with `OutOfRange` where `from_seq` is older than what is kept, or cannot be reached for as
    /// long as is retried.
    pub async fn next(&mut self) -> Result<F::Item, Error> {
        loop {
            match self.try_next().await {
                Ok(Some(item)) => return Ok(item),
                Ok(None) => {}
                Err(error @ Error::Unavailable { .. }) => {
                    self.stream = None;
                    self.pause.after(error).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether everything that had happened before the watch was opened has been shown.
    #[must_use]
    pub fn is_caught_up(&self) -> bool {
        self.caught_up
    }

    async fn try_next(&mut self) -> Result<Option<F::Item>, Error> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => none.insert(self.feed.open(&self.client, self.from_seq).await?),
        };
        let response = stream.message().await?;
        let response = response.ok_or_else(|| Error::from(Status::unavailable("the watch was ended")))?;
        self.pause.reset();
        let (item, seq, caught_up) = F::read(response);
        // Everything up to `seq` has come, so a break loses and repeats nothing.
        self.from_seq = self.from_seq.max(seq.saturating_add(1));
        self.caught_up |= caught_up;
        Ok(item)
    }
}

impl Client {
    /// Publishes an event and waits until each of its deliveries has succeeded, been cancelled, or been parked for somebody to
    /// look at. Returns them with their outputs, in the order of their ids.
    ///
    /// # Errors
    /// As [`Client::publish`]; and [`Error::Timeout`] when it takes longer than `wait_max`. The event goes on all the same.
    pub async fn publish_and_wait(
        &self,
        event: Event,
        wait_max: Duration,
    ) -> Result<(Published, Vec<delivery::Delivery>), Error> {
        let published = self.publish(event).await?;
        let deliveries = self.wait(&published, wait_max).await?;
        Ok((published, deliveries))
    }

    /// Waits for what becomes of a published event, as [`Client::publish_and_wait`].
    ///
    /// # Errors
    /// As there.
    pub async fn wait(&self, published: &Published, wait_max: Duration) -> Result<Vec<delivery::Delivery>, Error> {
        let end = Instant::now() + wait_max;
        let late = || Error::Timeout { waited_ms: u64::try_from(wait_max.as_millis()).unwrap_or(u64::MAX) };
        let seq = published.seq.0;
        let mut open: BTreeMap<DeliveryId, Option<delivery::Delivery>> = if published.duplicate {
            // The first answer may have left out what had ended by then.
            let event = timeout_at(end, self.event(seq)).await.map_err(|_| late())??;
            let planned = event.deliveries.into_iter().map(planned);
            planned.map(|planned| planned.map(|planned| (planned.id, None))).collect::<Result<_, _>>()?
        } else {
            published.deliveries.iter().map(|planned| (planned.id, None)).collect()
        };
        let filter = delivery::DeliveryFilter { event_seqs: vec![seq], ..Default::default() };
        let mut watch = self.watch_deliveries(DeliveryFeed { filter, include_output: true }, seq);
        while open.values().any(Option::is_none) {
            let changed = timeout_at(end, watch.next()).await.map_err(|_| late())??;
            let id = convert::delivery_id(&changed.delivery_id).map_err(|error| Error::Protocol(error.to_string()))?;
            if has_ended(&changed)? {
                open.insert(id, Some(changed));
            }
        }
        Ok(open.into_values().flatten().collect())
    }
}

/// Whether nothing more happens to it by itself.
fn has_ended(delivery: &delivery::Delivery) -> Result<bool, Error> {
    let protocol = |error: convert::Invalid| Error::Protocol(error.to_string());
    let status = convert::word::<delivery::DeliveryStatus, Word>(delivery.status, "status").map_err(protocol)?;
    let reason =
        convert::word::<delivery::ParkReason, ParkReason>(delivery.park_reason, "park_reason").map_err(protocol)?;
    Ok(match status {
        Some(Word::Succeeded | Word::Cancelled) => true,
        // These are redriven by themselves.
        Some(Word::Parked) => {
            !matches!(reason, Some(ParkReason::BacklogFull | ParkReason::OverBudget | ParkReason::Delayed))
        }
        Some(Word::Waiting | Word::Leased) | None => false,
    })
}
