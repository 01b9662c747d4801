//! Publishing: one event, many, or a stream of batches.
//!
//! Whatever is sent again after a break is recognised by its source and id, so a retry never doubles an event.

use std::collections::VecDeque;

use bytes::Bytes;
use http::uri::PathAndQuery;
use mindos_model::{DeliveryId, ParkReason, Seq};
use mindos_proto::convert;
use mindos_proto::event::v1 as proto;
use mindos_proto::wire::PublishStreamRequestWire;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::retry::Pause;
use crate::{Client, Error, Event};

/// Batches that may be unanswered.
const WINDOW: usize = 2;
/// Events of one batch.
const BATCH_EVENTS: usize = 1000;
/// Bytes of one batch; one event may have more.
const BATCH_BYTES: usize = 1024 * 1024;

/// An accepted event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Names the event in the control plane.
    pub seq: Seq,
    /// It was accepted before, and this is the first answer again.
    pub duplicate: bool,
    /// What it led to. From a batch only those that were parked at once.
    pub deliveries: Vec<PublishedDelivery>,
}

/// A delivery that an event led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedDelivery {
    /// Names the delivery.
    pub id: DeliveryId,
    /// Cluster and name of the general that it is for. `None` where one is chosen later.
    pub general: Option<(String, String)>,
    /// Why it was parked at once. `None` when it waits for its turn.
    pub parked: Option<ParkReason>,
}

impl Client {
    /// Publishes one event; it is on stable storage when this returns.
    ///
    /// # Errors
    /// Refused with `AlreadyExists` when another event has its source and id, and with `InvalidArgument` when it is malformed;
    /// unavailable when everything is full, or the control plane could not be reached for as long as is retried.
    pub async fn publish(&self, event: Event) -> Result<Published, Error> {
        event.check()?;
        let call = || async {
            let request = proto::PublishRequest { event: Some(event.message().clone()), explain: false };
            let result = self.events().publish(request).await?.into_inner().result;
            published(result.ok_or_else(|| Error::Protocol("an answer without its result".to_owned()))?)
        };
        self.retry.run(call).await
    }

    /// Publishes many events; returns what became of each, in their order.
    ///
    /// # Errors
    /// When the control plane could not be reached for as long as is retried. What was sent till then may have been accepted;
    /// publishing all of it again is harmless.
    pub async fn publish_many(
        &self,
        events: impl IntoIterator<Item = Event>,
    ) -> Result<Vec<Result<Published, Error>>, Error> {
        let mut publisher = self.publisher();
        let mut results = Vec::new();
        for event in events {
            results.extend(publisher.push(event).await?);
        }
        results.extend(publisher.finish().await?);
        Ok(results)
    }

    /// Publishes in batches over one stream, with two batches on their way.
    #[must_use]
    pub fn publisher(&self) -> Publisher {
        Publisher {
            client: self.clone(),
            stream: None,
            batch: Batch::default(),
            unanswered: VecDeque::new(),
            pause: Pause::new(self.retry),
        }
    }
}

/// Publishes in batches over one stream. Dials again by itself and repeats what is unanswered.
#[derive(Debug)]
pub struct Publisher {
    client: Client,
    stream: Option<Stream>,
    batch: Batch,
    /// Sent, in their order.
    unanswered: VecDeque<Vec<Bytes>>,
    pause: Pause,
}

#[derive(Debug, Default)]
struct Batch {
    events: Vec<Bytes>,
    bytes: usize,
}

#[derive(Debug)]
struct Stream {
    requests: mpsc::Sender<PublishStreamRequestWire>,
    answers: Streaming<proto::PublishStreamResponse>,
    sent: u64,
    answered: u64,
}

impl Publisher {
    /// Adds an event. A full batch is sent, and where the window is full the oldest one's results are awaited and returned.
    ///
    /// # Errors
    /// When the control plane could not be reached for as long as is retried. Nothing is forgotten: the next call tries again.
    pub async fn push(&mut self, event: Event) -> Result<Vec<Result<Published, Error>>, Error> {
        event.check()?;
        self.push_encoded(event.message().encode_to_vec().into()).await
    }

    /// As [`Publisher::push`], with an encoded `io.cloudevents.v1.CloudEvent`.
    ///
    /// # Errors
    /// As [`Publisher::push`].
    pub async fn push_encoded(&mut self, event: Bytes) -> Result<Vec<Result<Published, Error>>, Error> {
        self.batch.bytes += event.len();
        self.batch.events.push(event);
        if self.batch.events.len() >= BATCH_EVENTS || self.batch.bytes >= BATCH_BYTES {
            self.flush().await
        } else {
            Ok(Vec::new())
        }
    }

    /// Sends what was added; where the window is full the oldest batch's results are awaited and returned.
    ///
    /// # Errors
    /// As [`Publisher::push`].
    pub async fn flush(&mut self) -> Result<Vec<Result<Published, Error>>, Error> {
        if self.batch.events.is_empty() {
            return Ok(Vec::new());
        }
        let results = if self.unanswered.len() >= WINDOW { self.answer().await? } else { Vec::new() };
        self.unanswered.push_back(std::mem::take(&mut self.batch).events);
        if let Err(error) = self.send_unsent().await {
            // Sent again when the answer is awaited.
            self.stream = None;
            tracing::debug!(error = %error, "publish stream lost");
        }
        Ok(results)
    }

    /// Sends what was added and waits for all results that are outstanding.
    ///
    /// # Errors
    /// As [`Publisher::push`].
    pub async fn finish(&mut self) -> Result<Vec<Result<Published, Error>>, Error> {
        let mut results = self.flush().await?;
        while !self.unanswered.is_empty() {
            results.extend(self.answer().await?);
        }
        self.stream = None;
        Ok(results)
    }

    /// The results of the oldest batch.
    async fn answer(&mut self) -> Result<Vec<Result<Published, Error>>, Error> {
        loop {
            match self.try_answer().await {
                Ok(results) => {
                    self.pause.reset();
                    return Ok(results);
                }
                Err(error @ Error::Unavailable { .. }) => {
                    self.stream = None;
                    self.pause.after(error).await?;
                }
                Err(error) => {
                    self.stream = None;
                    return Err(error);
                }
            }
        }
    }

    async fn try_answer(&mut self) -> Result<Vec<Result<Published, Error>>, Error> {
        self.send_unsent().await?;
        let Some(stream) = &mut self.stream else {
            return Err(Error::Protocol("a stream without a stream".to_owned()));
        };
        let answer = stream.answers.message().await?;
        let answer = answer.ok_or_else(|| Error::from(Status::unavailable("the stream ended before its answers")))?;
        let batch = self.unanswered.front().map_or(0, Vec::len);
        if answer.batch != stream.answered + 1 || answer.results.len() != batch {
            let (got, results, expected) = (answer.batch, answer.results.len(), stream.answered + 1);
            return Err(Error::Protocol(format!(
                "batch {got} with {results} results came instead of batch {expected} with {batch}"
            )));
        }
        stream.answered += 1;
        self.unanswered.pop_front();
        Ok(answer.results.into_iter().map(published).collect())
    }

    /// Opens the stream if there is none, and sends the batches that were not sent on it.
    async fn send_unsent(&mut self) -> Result<(), Error> {
        if self.stream.is_none() {
            self.stream = Some(open(&self.client).await?);
        }
        let Some(stream) = &mut self.stream else { return Ok(()) };
        let in_flight = usize::try_from(stream.sent - stream.answered).unwrap_or(usize::MAX);
        for events in self.unanswered.iter().skip(in_flight) {
            let request = PublishStreamRequestWire { batch: stream.sent + 1, events: events.clone(), explain: false };
            let closed = |_| Error::from(Status::unavailable("the stream was closed"));
            stream.requests.send(request).await.map_err(closed)?;
            stream.sent += 1;
        }
        Ok(())
    }
}

async fn open(client: &Client) -> Result<Stream, Error> {
    let (requests, receiver) = mpsc::channel(WINDOW);
    let mut grpc = tonic::client::Grpc::new(client.channel.clone());
    grpc.ready().await.map_err(|error| Error::from(Status::unavailable(crate::error::chain(&error))))?;
    let path = PathAndQuery::from_static("/mindos.event.v1.EventService/PublishStream");
    let codec = ProstCodec::<PublishStreamRequestWire, proto::PublishStreamResponse>::default();
    let answers = grpc.streaming(Request::new(ReceiverStream::new(receiver)), path, codec).await?.into_inner();
    Ok(Stream { requests, answers, sent: 0, answered: 0 })
}

fn published(result: proto::PublishResult) -> Result<Published, Error> {
    if let Some(error) = result.error {
        return Err(Error::from(error));
    }
    let deliveries = result.deliveries.into_iter().map(planned).collect::<Result<_, _>>()?;
    Ok(Published { seq: Seq(result.seq), duplicate: result.duplicate, deliveries })
}

pub(crate) fn planned(planned: proto::PlannedDelivery) -> Result<PublishedDelivery, Error> {
    let protocol = |error: convert::Invalid| Error::Protocol(error.to_string());
    Ok(PublishedDelivery {
        id: convert::delivery_id(&planned.delivery_id).map_err(protocol)?,
        general: planned.general.map(|general| (general.cluster, general.name)),
        parked: convert::word::<mindos_proto::delivery::v1::ParkReason, _>(planned.park_reason, "park_reason")
            .map_err(protocol)?,
    })
}
