//! Traces: an event's sender, the agent and the collector see one and the same trace.

use crate::support::{Agent, Directory, PATIENCE, Running, event};
use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use mindos_proto::cloudevents::v1::cloud_event::CloudEventAttributeValue;
use mindos_proto::cloudevents::v1::cloud_event::cloud_event_attribute_value::Attr;
use serde_json::{Value, json};
use tokio::sync::mpsc;

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

async fn collect(State(spans): State<mpsc::UnboundedSender<Value>>, Json(message): Json<Value>) -> Json<Value> {
    for span in message["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap() {
        spans.send(span.clone()).unwrap();
    }
    Json(json!({}))
}

#[tokio::test]
async fn sender_agent_and_collector_see_one_trace() {
    let (sender, mut spans) = mpsc::unbounded_channel();
    let router = Router::new().route("/v1/traces", post(collect)).with_state(sender);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, router).await });
    let directory = Directory::new();
    std::fs::create_dir_all(&directory.0).unwrap();
    let settings = directory.0.join("settings.yaml");
    std::fs::write(&settings, format!("otlp: {{endpoint: '{endpoint}'}}")).unwrap();
    let server = Running::with(&directory, &["--settings", settings.to_str().unwrap()]).await;
    let mut agent = Agent::ready(&server, "b1", 1).await;

    let mut sent = event("e1", "x");
    let value = CloudEventAttributeValue { attr: Some(Attr::CeString(PARENT.to_owned())) };
    sent.attributes.insert("traceparent".to_owned(), value);
    server.publish(sent).await.unwrap();
    let assign = agent.assignment().await;
    agent.succeed(&assign, "done").await;
    agent.settled().await;

    let mut found = Vec::new();
    while found.len() < 3 {
        found.push(tokio::time::timeout(PATIENCE, spans.recv()).await.expect("no spans came").unwrap());
    }
    let named = |start: &str| found.iter().find(|span| span["name"].as_str().unwrap().starts_with(start)).unwrap();
    let [publish, process, deliver] = ["publish ", "process ", "deliver "].map(named);
    assert!(found.iter().all(|span| span["traceId"] == json!(TRACE)));
    assert_eq!(publish["parentSpanId"], "00f067aa0ba902b7");
    assert_eq!((&deliver["parentSpanId"], &process["parentSpanId"]), (&publish["spanId"], &deliver["spanId"]));
    assert_eq!(assign.traceparent, format!("00-{TRACE}-{}-01", process["spanId"].as_str().unwrap()));
    server.stop().await;
}

#[tokio::test]
async fn nothing_is_traced_unless_it_is_asked_for() {
    let directory = Directory::new();
    let server = Running::start(&directory).await;
    let mut agent = Agent::ready(&server, "b1", 1).await;
    server.publish(event("e1", "x")).await.unwrap();
    assert_eq!(agent.assignment().await.traceparent, "");
    server.stop().await;
}
