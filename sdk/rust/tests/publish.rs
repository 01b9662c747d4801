//! Publishing, waiting and watching against a small plane that keeps its promises but loses its connections.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mindos_proto::cloudevents::v1::CloudEvent;
use mindos_proto::delivery::v1 as delivery;
use mindos_proto::delivery::v1::delivery_service_server::{DeliveryService, DeliveryServiceServer};
use mindos_proto::event::v1 as event;
use mindos_proto::event::v1::event_service_server::{EventService, EventServiceServer};
use mindos_proto::{fleet, rpc};
use mindos_sdk::model::{ParkReason, Seq};
use mindos_sdk::{Client, DeliveryFeed, Error, Event, Retry};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Code, Request, Response, Status, Streaming};

type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[derive(Default)]
struct State {
    seqs: BTreeMap<(String, String), (u64, CloudEvent)>,
    /// Calls to refuse before the next one is let through.
    refusals: u32,
    /// Batches after which a stream breaks, each time it does.
    breaks: Vec<u64>,
    streams: u32,
    watches: u32,
}

#[derive(Clone, Default)]
struct Plane(Arc<Mutex<State>>);

impl Plane {
    async fn start(&self) -> Client {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = tonic::transport::Server::builder()
            .add_service(EventServiceServer::new(self.clone()))
            .add_service(DeliveryServiceServer::new(self.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        let retry = Retry { first: Duration::from_millis(1), ..Retry::default() };
        Client::connect(&url).unwrap().with_retry(retry)
    }

    fn accept(&self, given: CloudEvent) -> event::PublishResult {
        let mut state = self.0.lock().unwrap();
        let next = state.seqs.len() as u64 + 1;
        let key = (given.source.clone(), given.id.clone());
        let known = state.seqs.get(&key).cloned();
        let duplicate = known.is_some();
        if known.as_ref().is_some_and(|(_, before)| *before != given) {
            let error = Some(rpc::Status::new(6, "known with other content"));
            return event::PublishResult { error, ..Default::default() };
        }
        let seq = known.map_or(next, |(seq, _)| seq);
        state.seqs.insert(key, (seq, given));
        event::PublishResult {
            seq,
            duplicate,
            deliveries: if duplicate { vec![] } else { plan(seq) },
            ..Default::default()
        }
    }
}

fn plan(seq: u64) -> Vec<event::PlannedDelivery> {
    let general = |name: &str| fleet::v1::GeneralName { cluster: "c1".into(), name: name.into() };
    vec![
        event::PlannedDelivery { delivery_id: format!("d{seq}.1"), general: Some(general("a")), ..Default::default() },
        event::PlannedDelivery {
            delivery_id: format!("d{seq}.2"),
            park_reason: delivery::ParkReason::BacklogFull.into(),
            ..Default::default()
        },
    ]
}

#[tonic::async_trait]
impl EventService for Plane {
    async fn publish(
        &self,
        request: Request<event::PublishRequest>,
    ) -> Result<Response<event::PublishResponse>, Status> {
        let refused = {
            let mut state = self.0.lock().unwrap();
            let refused = state.refusals > 0;
            state.refusals = state.refusals.saturating_sub(1);
            refused
        };
        let result = self.accept(request.into_inner().event.unwrap());
        // Refused after it was accepted: the answer got lost.
        if refused {
            return Err(Status::unavailable("the answer got lost"));
        }
        match result.error {
            Some(error) => Err(error.into()),
            None => Ok(Response::new(event::PublishResponse { result: Some(result) })),
        }
    }

    type PublishStreamStream = Boxed<event::PublishStreamResponse>;

    async fn publish_stream(
        &self,
        batches: Request<Streaming<event::PublishStreamRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        let plane = self.clone();
        let breaks_after = {
            let mut state = plane.0.lock().unwrap();
            state.streams += 1;
            state.breaks.pop()
        };
        let answer = move |batch: Result<event::PublishStreamRequest, Status>| {
            let event::PublishStreamRequest { batch, events, explain: _ } = batch?;
            let results = events.into_iter().map(|event| plane.accept(event)).collect();
            match breaks_after {
                Some(last) if batch > last => Err(Status::unavailable("broken")),
                _ => Ok(event::PublishStreamResponse { batch, results }),
            }
        };
        Ok(Response::new(Box::pin(batches.into_inner().map(answer))))
    }

    async fn get(&self, request: Request<event::GetRequest>) -> Result<Response<event::GetResponse>, Status> {
        let Some(event::get_request::Key::Seq(seq)) = request.into_inner().key else {
            return Err(Status::invalid_argument("no key"));
        };
        let event = event::Event { seq, deliveries: plan(seq), ..Default::default() };
        Ok(Response::new(event::GetResponse { event: Some(event) }))
    }

    async fn list(&self, _: Request<event::ListRequest>) -> Result<Response<event::ListResponse>, Status> {
        Err(Status::unimplemented("nothing is listed"))
    }

    type WatchStream = Boxed<event::WatchResponse>;

    async fn watch(&self, _: Request<event::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::out_of_range("too old"))
    }
}

/// What becomes of the deliveries of an event, in order.
fn changes(seq: u64) -> Vec<delivery::WatchResponse> {
    let change = |at: u64, ordinal: u32, status: delivery::DeliveryStatus, reason: delivery::ParkReason| {
        let delivery = delivery::Delivery {
            delivery_id: format!("d{seq}.{ordinal}"),
            status: status.into(),
            park_reason: reason.into(),
            seq: at,
            ..Default::default()
        };
        delivery::WatchResponse { delivery: Some(delivery), seq: at, caught_up: at > seq + 3 }
    };
    use delivery::{DeliveryStatus as S, ParkReason as P};
    vec![
        change(seq, 2, S::Parked, P::BacklogFull),
        change(seq + 1, 1, S::Leased, P::Unspecified),
        change(seq + 2, 2, S::Waiting, P::Unspecified),
        change(seq + 3, 1, S::Succeeded, P::Unspecified),
        change(seq + 4, 2, S::Parked, P::Poison),
    ]
}

#[tonic::async_trait]
impl DeliveryService for Plane {
    async fn get(&self, _: Request<delivery::GetRequest>) -> Result<Response<delivery::GetResponse>, Status> {
        Err(Status::not_found("gone"))
    }

    async fn list(&self, _: Request<delivery::ListRequest>) -> Result<Response<delivery::ListResponse>, Status> {
        Err(Status::unimplemented("nothing is listed"))
    }

    type WatchStream = Boxed<delivery::WatchResponse>;

    /// Breaks after two changes, each time.
    async fn watch(&self, request: Request<delivery::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let delivery::WatchRequest { filter, from_seq, .. } = request.into_inner();
        self.0.lock().unwrap().watches += 1;
        let event = filter.unwrap().event_seqs.first().copied().unwrap_or(1);
        let rest = changes(event).into_iter().filter(move |change| change.seq >= from_seq).take(2);
        let end = Err(Status::unavailable("broken"));
        Ok(Response::new(Box::pin(tokio_stream::iter(rest.map(Ok).chain([end])))))
    }

    async fn cancel(&self, _: Request<delivery::CancelRequest>) -> Result<Response<delivery::CancelResponse>, Status> {
        Err(Status::unimplemented("nothing is cancelled"))
    }

    async fn redrive(
        &self,
        _: Request<delivery::RedriveRequest>,
    ) -> Result<Response<delivery::RedriveResponse>, Status> {
        Err(Status::unimplemented("nothing is redriven"))
    }
}

fn event(id: u32) -> Event {
    Event::new("s", id.to_string(), "t").json(format!("{id}"))
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_and_the_event_is_there_once() {
    let plane = Plane::default();
    let client = plane.start().await;
    plane.0.lock().unwrap().refusals = 3;

    let published = client.publish(event(1)).await.unwrap();

    assert_eq!((published.seq, published.duplicate), (Seq(1), true));
    assert_eq!(plane.0.lock().unwrap().seqs.len(), 1);
}

#[tokio::test]
async fn a_conflict_is_refused_and_not_tried_again() {
    let plane = Plane::default();
    let client = plane.start().await;
    let published = client.publish(event(1)).await.unwrap();
    assert_eq!(published.deliveries[0].general, Some(("c1".into(), "a".into())));
    assert_eq!(published.deliveries[1].parked, Some(ParkReason::BacklogFull));

    let error = client.publish(event(1).subject("other")).await.unwrap_err();

    assert!(matches!(error, Error::Refused { code: Code::AlreadyExists, .. }), "{error}");
    assert!(!error.is_temporary());
}

#[tokio::test]
async fn without_retries_an_unreachable_plane_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = Client::connect(&url).unwrap().with_retry(Retry::NEVER).publish(event(1)).await.unwrap_err();
    assert!(error.is_temporary(), "{error}");
}

#[tokio::test]
async fn batches_survive_broken_streams_in_order_and_once() {
    let plane = Plane::default();
    let client = plane.start().await;
    plane.0.lock().unwrap().breaks = vec![1, 0, 2];

    let results = client.publish_many((1..=5500).map(event)).await.unwrap();

    let seqs: Vec<u64> = results.into_iter().map(|result| result.unwrap().seq.0).collect();
    assert_eq!(seqs, (1..=5500).collect::<Vec<_>>());
    assert_eq!(plane.0.lock().unwrap().streams, 4);
}

#[tokio::test]
async fn a_bad_event_in_a_batch_leaves_the_others_alone() {
    let plane = Plane::default();
    let client = plane.start().await;
    let results = client.publish_many([event(1), event(1).subject("other"), event(2)]).await.unwrap();
    assert!(results[0].is_ok() && results[2].is_ok());
    assert!(matches!(&results[1], Err(Error::Refused { code: Code::AlreadyExists, .. })));
}

#[tokio::test]
async fn waiting_ends_when_nothing_more_happens_by_itself() {
    let plane = Plane::default();
    let client = plane.start().await;

    let (published, deliveries) = client.publish_and_wait(event(1), Duration::from_secs(20)).await.unwrap();

    assert!(!published.duplicate);
    let ended: Vec<_> = deliveries.iter().map(|delivery| (&*delivery.delivery_id, delivery.status())).collect();
    assert_eq!(ended, [("d1.1", delivery::DeliveryStatus::Succeeded), ("d1.2", delivery::DeliveryStatus::Parked)]);
    // Two changes a stream, and none twice.
    assert_eq!(plane.0.lock().unwrap().watches, 3);

    let (again, deliveries) = client.publish_and_wait(event(1), Duration::from_secs(20)).await.unwrap();
    assert!(again.duplicate);
    assert_eq!(deliveries.len(), 2);
}

#[tokio::test]
async fn a_watch_shows_every_change_once_across_breaks() {
    let plane = Plane::default();
    let client = plane.start().await;
    let mut watch = client.watch_deliveries(DeliveryFeed::default(), 1);
    let mut seqs = Vec::new();
    while !watch.is_caught_up() {
        seqs.push(watch.next().await.unwrap().seq);
    }
    assert_eq!(seqs, [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn a_watch_of_what_is_gone_is_refused() {
    let client = Plane::default().start().await;
    let error = client.watch_events(Default::default(), 1).next().await.unwrap_err();
    assert!(matches!(error, Error::Refused { code: Code::OutOfRange, .. }));
}
