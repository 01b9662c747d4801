//! Feedback through every door: counted, weighed where a routes file says so, and answered as the first time when it comes again.

use std::time::{Duration, Instant};

use crate::support::{Directory, PATIENCE, Running, event, http};
use mindos_control_plane::routing::file;
use mindos_proto::cloudevents::v1::CloudEvent;
use mindos_proto::cloudevents::v1::cloud_event::CloudEventAttributeValue;
use mindos_proto::cloudevents::v1::cloud_event::cloud_event_attribute_value::Attr;
use mindos_proto::delivery::v1::{self as delivery, CancelRequest, cancel_request};
use mindos_proto::event::v1::PublishStreamRequest;
use mindos_proto::ledger::v1::TailRequest;
use mindos_proto::ledger::v1::ledger_service_client::LedgerServiceClient;
use mindos_proto::route::v1::{self as route, FeedbackWeight};
use tonic::Code;

fn feedback(id: &str, word: &str, delivery: &str) -> CloudEvent {
    let about = CloudEventAttributeValue { attr: Some(Attr::CeString(delivery.to_owned())) };
    CloudEvent {
        id: id.to_owned(),
        source: format!("/{id}"),
        spec_version: "1.0".to_owned(),
        r#type: format!("dev.mindos.feedback.{word}"),
        attributes: [("mindosdelivery".to_owned(), about)].into(),
        ..CloudEvent::default()
    }
}

/// The same over HTTP, with its attributes as headers.
async fn post(server: &Running, id: &str, word: &str, delivery: &str) -> (u16, serde_json::Value) {
    let headers = format!(
        "ce-specversion: 1.0\r\nce-id: {id}\r\nce-source: /{id}\r\nce-type: dev.mindos.feedback.{word}\r\n\
         ce-mindosdelivery: {delivery}\r\n"
    );
    let (code, body) = http::post(server, "/events", &headers, b"").await;
    (code, serde_json::from_str(&body).unwrap())
}

const ROUTES: &str = "\
routes:
  - name: all
    targets: {types: [general-purpose-general]}
    strategy: load_balanced
    feedback: {weight_permille: 300, floor_permille: 10}
";

#[tokio::test]
async fn what_comes_over_http_and_streams_is_counted_and_weighs_where_the_routes_file_says_so() {
    let server = Running::alone(&[]).await;
    let table = file::parse(ROUTES).unwrap();
    let mut routes = server.routes().await;
    routes.apply(route::ApplyRequest { table: Some(table), ..Default::default() }).await.unwrap();
    let kept = routes.get(route::GetRequest::default()).await.unwrap().into_inner().table.unwrap();
    assert_eq!(kept.routes[0].feedback, Some(FeedbackWeight { weight_permille: 300, floor_permille: 10 }));
    let (mut agent, assign) = server.leased("b1", 1).await;
    let done = assign.delivery_id.clone();
    assert_eq!(post(&server, "early", "accepted", &done).await.0, 400, "it has no result");
    agent.succeed(&assign, "done").await;
    agent.settled().await;

    let (code, first) = post(&server, "http", "accepted", &done).await;
    assert_eq!((code, &first["duplicate"]), (202, &false.into()), "{first}");
    assert_eq!(post(&server, "http", "accepted", &done).await.1["duplicate"], true);
    assert_eq!(post(&server, "other", "accepted", "d99.1").await.0, 404);
    assert_eq!(post(&server, "other", "praised", &done).await.0, 400);
    assert_eq!(post(&server, "other", "accepted", "it").await.0, 400);
    let events = vec![
        feedback("stream", "dismissed", &done),
        feedback("other", "accepted", "d99.1"),
        feedback("stream", "dismissed", &done),
        feedback("other", "praised", &done),
        event("e2", "two"),
    ];
    let batch = PublishStreamRequest { batch: 1, events, explain: true };
    let mut answers = server.events().await.publish_stream(tokio_stream::iter([batch])).await.unwrap().into_inner();
    let results = answers.message().await.unwrap().unwrap().results;
    let codes: Vec<_> = results.iter().map(|result| result.error.as_ref().map(|error| error.code)).collect();
    assert_eq!(codes, [None, Some(Code::NotFound as i32), None, Some(Code::InvalidArgument as i32), None]);
    assert!(!results[0].duplicate && results[2].duplicate && results[0].seq == results[2].seq);

    let request = route::ScorecardsRequest { route: "all".to_owned(), ..Default::default() };
    let cards = routes.scorecards(request).await.unwrap().into_inner().cards;
    assert_eq!((cards[0].accepted, cards[0].dismissed, cards[0].reverted), (1, 1, 0));
    let next = agent.assignment().await.delivery_id;
    let request = delivery::GetRequest { delivery_id: next, ..Default::default() };
    let explained = server.deliveries().await.get(request).await.unwrap().into_inner();
    let told = format!("{explained:?}");
    assert!(told.contains("feedback: load x") || told.contains("feedback left out of this choice"), "{told}");
    server.stop().await;
}

#[tokio::test]
async fn feedback_that_comes_again_gets_its_first_answer_also_when_its_delivery_is_forgotten() {
    let directory = Directory::new();
    let options = ["--journal-keep-bytes", "1MiB", "--upkeep-interval", "100ms", "--snapshot-interval", "100ms"];
    let server = Running::with(&directory, &options).await;
    let (mut agent, assign) = server.leased("b1", 1).await;
    let done = assign.delivery_id.clone();
    agent.succeed(&assign, "done").await;
    agent.settled().await;
    drop(agent);
    let first = server.publish(feedback("ann", "accepted", &done)).await.unwrap();
    fill(&server, first.seq).await;
    server.stop().await;
    // The history begins anew, and what it is made from no longer reaches back so far.
    std::fs::remove_dir_all(directory.0.join("history")).unwrap();

    let server = Running::with(&directory, &options).await;
    let gone = server.publish(feedback("bob", "accepted", &done)).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
    let again = server.publish(feedback("ann", "accepted", &done)).await.unwrap();
    assert_eq!((again.duplicate, again.seq), (true, first.seq));
    let (code, again) = post(&server, "bob", "accepted", &done).await;
    assert_eq!(code, 404, "{again}");
    let changed = server.publish(feedback("ann", "reverted", &done)).await.unwrap_err();
    assert_eq!(changed.code(), Code::AlreadyExists);
    let batch = PublishStreamRequest { batch: 1, events: vec![feedback("ann", "accepted", &done)], explain: false };
    let mut answers = server.events().await.publish_stream(tokio_stream::iter([batch])).await.unwrap().into_inner();
    let result = answers.message().await.unwrap().unwrap().results.remove(0);
    assert!(result.error.is_none() && result.duplicate && result.seq == first.seq, "{result:?}");
    server.stop().await;
    // Without the index on disk it is in the core's window alone.
    for view in ["history", "dedupe"] {
        std::fs::remove_dir_all(directory.0.join(view)).unwrap();
    }
    let server = Running::with(&directory, &options).await;
    let again = server.publish(feedback("ann", "accepted", &done)).await.unwrap();
    assert_eq!((again.duplicate, again.seq), (true, first.seq));
    server.stop().await;
}

/// Publishes until the journal no longer has a record.
async fn fill(server: &Running, seq: u64) {
    let data = "x".repeat(200_000);
    let mut deliveries = server.deliveries().await;
    for number in 0..60 {
        let published = server.publish(event(&format!("filler-{number}"), &data)).await.unwrap();
        let target = cancel_request::Target::DeliveryId(published.deliveries[0].delivery_id.clone());
        deliveries.cancel(CancelRequest { target: Some(target), ..Default::default() }).await.unwrap();
    }
    let began = Instant::now();
    let mut ledger = LedgerServiceClient::new(server.channel().await);
    loop {
        let mut tail = ledger.tail(TailRequest { limit: 1, ..TailRequest::default() }).await.unwrap().into_inner();
        if tail.message().await.unwrap().unwrap().entries[0].seq > seq {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "nothing was dropped");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
