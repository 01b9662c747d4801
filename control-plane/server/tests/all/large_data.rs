//! Conditions see data that are too large to stand in their event, whichever way it came, and `explain` sees them too.

use crate::support::{Directory, Running, event};
use http::Method;
use mindos_outgoing::{Outgoing, Request, Target};
use mindos_proto::blob::v1::blob_service_client::BlobServiceClient;
use mindos_proto::blob::v1::put_request::Part;
use mindos_proto::blob::v1::{PutHeader, PutRequest};
use mindos_proto::cloudevents::v1::cloud_event::CloudEventAttributeValue;
use mindos_proto::cloudevents::v1::cloud_event::cloud_event_attribute_value::Attr;
use mindos_proto::event::v1::{PublishStreamRequest, PublishStreamResponse};
use mindos_proto::route::v1::explain_response::Part as Explained;
use mindos_proto::route::v1::{ApplyRequest, ExplainRequest, GetRequest, Route, RouteMatch};
use serde_json::{Value, json};

async fn post(server: &Running, path: &str, headers: &[(&'static str, &str)], body: Vec<u8>) -> Value {
    let target = Target::parse(&server.api, false).unwrap().join(path).unwrap();
    let mut request = Request { body: body.into(), ..Request::new(Method::POST, target) };
    for (name, value) in headers {
        request.headers.insert(*name, value.parse().unwrap());
    }
    let answer = Outgoing::new().send(request).await.unwrap();
    serde_json::from_slice(&answer.body).unwrap()
}

#[tokio::test]
async fn routes_ask_for_fields_of_data_in_a_blob() {
    let directory = Directory::new();
    let server = Running::with(&directory, &["--webhooks-unsigned"]).await;
    let mut routes = server.routes().await;
    let mut table = routes.get(GetRequest {}).await.unwrap().into_inner().table.unwrap();
    let last = table.routes.last().unwrap().clone();
    let large = |condition: &str| Route {
        name: "large".to_owned(),
        r#match: Some(RouteMatch { expr: condition.to_owned(), ..RouteMatch::default() }),
        ..last.clone()
    };
    table.routes.insert(0, large("data.size == 7 || data.pull_request.additions > 6000"));
    let apply = ApplyRequest { table: Some(table.clone()), ..ApplyRequest::default() };
    routes.apply(apply).await.unwrap();

    // By HTTP: what is too large goes into a blob on its way.
    let padding = "x".repeat(400 << 10);
    let cloud_event = |id: &str, size: u32| {
        let data = json!({ "size": size, "pull_request": {"additions": 0}, "padding": padding });
        let event = json!({ "specversion": "1.0", "id": id, "source": "/s", "type": "com.example.test", "data": data });
        event.to_string().into_bytes()
    };
    let structured = [("content-type", "application/cloudevents+json")];
    let answer = post(&server, "/events", &structured, cloud_event("1", 7)).await;
    assert_eq!(answer["route"], "large", "{answer}");
    let seq = answer["event"].as_u64().unwrap();
    assert_eq!(post(&server, "/events", &structured, cloud_event("2", 8)).await["route"], "default");

    // A webhook.
    let pull = json!({ "action": "opened", "number": 7, "padding": "x".repeat(5 << 20),
        "pull_request": { "number": 7, "additions": 6001, "head": {"sha": "a"}, "base": {"ref": "main"} },
        "repository": { "full_name": "o/a", "html_url": "https://github.com/o/a" }, "sender": { "login": "ada" } });
    let headers =
        [("content-type", "application/json"), ("x-github-event", "pull_request"), ("x-github-delivery", "1")];
    let answer = post(&server, "/webhooks/github", &headers, pull.to_string().into_bytes()).await;
    assert_eq!(answer["route"], "large", "{answer}");

    // By gRPC: the publisher put the blob itself. Alone and in a stream.
    let part = |part| PutRequest { part: Some(part) };
    let header = PutHeader { content_type: "application/json".to_owned(), ..PutHeader::default() };
    let parts = [part(Part::Header(header)), part(Part::Chunk(br#"{"size": 7}"#.to_vec().into()))];
    let put = BlobServiceClient::new(server.channel().await).put(tokio_stream::iter(parts)).await.unwrap();
    let address = put.into_inner().r#ref;
    let referring = |id: &str| {
        let mut event = event(id, "");
        event.data = None;
        let value = CloudEventAttributeValue { attr: Some(Attr::CeUri(address.clone())) };
        event.attributes.insert("dataref".to_owned(), value);
        event
    };
    let seen = |seq: u64| ExplainRequest { seq, ..ExplainRequest::default() };
    let alone = server.publish(referring("3")).await.unwrap().seq;
    let batch = PublishStreamRequest { batch: 1, events: vec![referring("4"), event("5", "{}")], explain: true };
    let mut answers = server.events().await.publish_stream(tokio_stream::iter([batch])).await.unwrap().into_inner();
    let PublishStreamResponse { results, .. } = answers.message().await.unwrap().unwrap();
    for (seq, route) in [(seq, "large"), (alone, "large"), (results[0].seq, "large"), (results[1].seq, "default")] {
        let mut parts = routes.explain(seen(seq)).await.unwrap().into_inner();
        let Some(Explained::Event(shown)) = parts.message().await.unwrap().unwrap().part else { panic!("no event") };
        assert_eq!((shown.went.unwrap().route, shown.would_go.unwrap().route), (route.to_owned(), route.to_owned()));
    }

    // Another table, tried on what is stored.
    table.routes[0] = large("data.size == 8");
    let request = ExplainRequest { table: Some(table), same_too: true, ..ExplainRequest::default() };
    let mut parts = routes.explain(request).await.unwrap().into_inner();
    let mut would = Vec::new();
    while let Some(response) = parts.message().await.unwrap() {
        if let Some(Explained::Event(event)) = response.part {
            would.push((event.id, event.would_go.unwrap().route));
        }
    }
    let of = |id: &str| would.iter().find(|(found, _)| found == id).unwrap().1.clone();
    assert_eq!([of("2"), of("3"), of("4")], ["large", "default", "default"]);
    server.stop().await;
}
