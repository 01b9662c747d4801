//! The stubs over mirrored messages, called by ordinary clients within one process.

use prost::Message;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::tests::event;
use super::*;
use crate::agent::v1::agent_service_client::AgentServiceClient;
use crate::agent::v1::control_message::Message as Control;
use crate::agent::v1::{ConnectRequest, agent_service_server as generated};
use crate::cloudevents::v1::CloudEvent;
use crate::event::v1::event_service_client::EventServiceClient;
use crate::event::v1::{
    GetRequest, GetResponse, ListRequest, ListResponse, PublishRequest, PublishResponse, PublishResult,
    PublishStreamRequest, PublishStreamResponse, WatchRequest, WatchResponse,
};

type Boxed<T> = std::pin::Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Answers every frame with one assignment, and every published event with its length.
struct Plane;

#[tonic::async_trait]
impl agent_service_server::AgentService for Plane {
    type ConnectStream = Boxed<ConnectResponseWire>;

    async fn connect(
        &self,
        frames: Request<Streaming<ConnectRequest>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let answer = |frame: ConnectRequest| {
            let assign = AssignWire {
                delivery_id: "d42.1".into(),
                event: event("1").encode_to_vec().into(),
                ..Default::default()
            };
            let messages = vec![ControlWire::Assign(assign).into()];
            ConnectResponseWire { first_number: frame.first_number, messages, encoded: Bytes::new() }
        };
        Ok(Response::new(Box::pin(frames.into_inner().map(move |frame| frame.map(answer)))))
    }
}

#[tonic::async_trait]
impl event_service_server::EventService for Plane {
    async fn publish(&self, request: Request<PublishRequestWire>) -> Result<Response<PublishResponse>, Status> {
        let event = request.into_inner().event;
        let id = CloudEvent::decode(event.clone()).map_err(|error| Status::invalid_argument(error.to_string()))?.id;
        let result = PublishResult { seq: event.len() as u64, id, ..Default::default() };
        Ok(Response::new(PublishResponse { result: Some(result) }))
    }

    type PublishStreamStream = Boxed<PublishStreamResponse>;

    async fn publish_stream(
        &self,
        batches: Request<Streaming<PublishStreamRequestWire>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        let answer = |PublishStreamRequestWire { batch, events, explain: _ }| {
            let results =
                events.iter().map(|event| PublishResult { seq: event.len() as u64, ..Default::default() }).collect();
            PublishStreamResponse { batch, results }
        };
        Ok(Response::new(Box::pin(batches.into_inner().map(move |batch| batch.map(answer)))))
    }

    async fn get(&self, _: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        Err(Status::not_found("nothing is kept"))
    }

    async fn list(&self, _: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        Ok(Response::new(ListResponse::default()))
    }

    type WatchStream = Boxed<WatchResponse>;

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Ok(Response::new(Box::pin(tokio_stream::empty())))
    }
}

#[tokio::test]
async fn an_agent_decodes_what_the_mirrored_stub_sends() {
    let mut client = AgentServiceClient::new(agent_service_server::AgentServiceServer::new(Plane));
    let frames = tokio_stream::iter([ConnectRequest { first_number: 9, messages: vec![] }]);

    let mut stream = client.connect(frames).await.unwrap().into_inner();
    let frame = stream.message().await.unwrap().unwrap();

    assert_eq!(frame.first_number, 9);
    let Some(Control::Assign(assign)) = &frame.messages[0].message else { panic!("{frame:?}") };
    assert_eq!(assign.event, Some(event("1")));
    assert_eq!(stream.message().await.unwrap(), None);
}

#[tokio::test]
async fn a_publisher_reaches_the_mirrored_stub() {
    let mut client = EventServiceClient::new(event_service_server::EventServiceServer::new(Plane));
    let length = event("2").encoded_len() as u64;

    let request = PublishRequest { event: Some(event("2")), explain: false };
    let result = client.publish(request).await.unwrap().into_inner().result.unwrap();
    assert_eq!((result.seq, result.id.as_str()), (length, "2"));

    let batch = PublishStreamRequest { batch: 1, events: vec![event("3"); 3], explain: false };
    let mut stream = client.publish_stream(tokio_stream::iter([batch])).await.unwrap().into_inner();
    let answer = stream.message().await.unwrap().unwrap();
    assert_eq!(answer.results.iter().map(|result| result.seq).collect::<Vec<_>>(), [length; 3]);
}

#[test]
fn mirrored_stubs_serve_the_paths_of_the_generated_ones() {
    use crate::event::v1::event_service_server as event_generated;
    assert_eq!(agent_service_server::SERVICE_NAME, generated::SERVICE_NAME);
    assert_eq!(event_service_server::SERVICE_NAME, event_generated::SERVICE_NAME);
}
