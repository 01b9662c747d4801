//! Replays over the API: what they wait for is named, and what comes of them is nobody's news.

use crate::support::{Agent, Directory, PATIENCE, Running, event, http};
use axum::extract::State;
use bytes::Bytes;
use mindos_control_plane::routing::file;
use mindos_proto::agent::v1::{Assign, Mode};
use mindos_proto::budget::v1::budget::Scope;
use mindos_proto::budget::v1::budget_service_client::BudgetServiceClient;
use mindos_proto::budget::v1::{Budget, Period, ReplayScope, SetBudgetRequest};
use mindos_proto::cloudevents::v1::cloud_event::CloudEventAttributeValue;
use mindos_proto::cloudevents::v1::cloud_event::cloud_event_attribute_value::Attr;
use mindos_proto::delivery::v1::{self as delivery, DeliveryStatus, ParkReason};
use mindos_proto::replay::v1::replay_response::Part;
use mindos_proto::replay::v1::replay_service_client::ReplayServiceClient;
use mindos_proto::replay::v1::{ReplayRequest, ReplayTarget, ReplayedEvent};
use mindos_proto::route::v1::ApplyRequest;
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// Has the general do past events once more.
async fn replay(server: &Running, id: &str, event_seqs: Vec<u64>) -> Vec<ReplayedEvent> {
    let general_type = "general-purpose-general".to_owned();
    let target = Some(ReplayTarget { general_type, ..ReplayTarget::default() });
    let request = ReplayRequest { id: id.to_owned(), event_seqs, target, ..ReplayRequest::default() };
    let mut parts = ReplayServiceClient::new(server.channel().await).replay(request).await.unwrap().into_inner();
    let mut events = Vec::new();
    while let Some(part) = parts.message().await.unwrap() {
        if let Some(Part::Event(event)) = part.part {
            events.push(event);
        }
    }
    events
}

async fn delivery(server: &Running, id: &str) -> delivery::Delivery {
    let request = delivery::GetRequest { delivery_id: id.to_owned(), ..Default::default() };
    server.deliveries().await.get(request).await.unwrap().into_inner().delivery.unwrap()
}

/// A delivery once it stands so.
async fn stands(server: &Running, id: &str, status: DeliveryStatus) -> delivery::Delivery {
    let stands = async {
        loop {
            let found = delivery(server, id).await;
            if found.status() == status {
                return found;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, stands).await.expect("it does not come to stand so")
}

fn costing(cost_micros: u64) -> delivery::Usage {
    delivery::Usage { model: "m".to_owned(), cost_micros, ..Default::default() }
}

async fn set_budget(server: &Running, period: Period, cost_micros: u64) {
    let budget = Budget {
        name: "replays".to_owned(),
        scope: Some(Scope::Replay(ReplayScope::default())),
        period: period.into(),
        cost_micros: Some(cost_micros),
        pause_percent: Some(0),
        ..Budget::default()
    };
    let request = SetBudgetRequest { budget: Some(budget) };
    BudgetServiceClient::new(server.channel().await).set_budget(request).await.unwrap();
}

/// An address that says what is posted to it.
async fn inbox() -> (String, mpsc::UnboundedReceiver<Value>) {
    let (taken, messages) = mpsc::unbounded_channel();
    let receive = async |State(taken): State<mpsc::UnboundedSender<Value>>, body: Bytes| {
        taken.send(serde_json::from_slice(&body).unwrap()).unwrap();
    };
    let router = axum::Router::new().fallback(receive).with_state(taken);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, router).await });
    (url, messages)
}

async fn next(messages: &mut mpsc::UnboundedReceiver<Value>) -> Value {
    tokio::time::timeout(PATIENCE, messages.recv()).await.expect("no message came").unwrap()
}

/// Work of a kind that people are told of; returns its assignment, settled.
async fn work(server: &Running, agent: &mut Agent, id: &str) -> Assign {
    let mut event = event(id, "{}");
    for (name, value) in [("kind", "review_started".to_owned()), ("repository", format!("o/{id}"))] {
        let attr = Some(Attr::CeString(value));
        event.attributes.insert(name.to_owned(), CloudEventAttributeValue { attr });
    }
    server.publish(event).await.unwrap();
    let assign = agent.assignment().await;
    agent.succeed(&assign, "done").await;
    agent.settled().await;
    assign
}

const ROUTES: &str = "\
routes:
  - name: default
    targets: {types: [general-purpose-general]}
    strategy: round_robin
";

#[tokio::test]
async fn what_is_done_again_reaches_no_sink_no_notifier_and_no_board() {
    let directory = Directory::new();
    let (ops, mut taken) = inbox().await;
    let (hook, mut told) = inbox().await;
    std::fs::create_dir_all(&directory.0).unwrap();
    let settings = directory.0.join("settings.yaml");
    let sinks = format!("sinks: {{ops: {{url: '{ops}', on: [succeeded, parked, cancelled]}}}}");
    std::fs::write(&settings, format!("{sinks}\nnotify: {{webhook: {{url: '{hook}'}}}}\n")).unwrap();
    let options = ["--aggregator-address", "127.0.0.1:0", "--settings", settings.to_str().unwrap()];
    let server = Running::with(&directory, &options).await;
    let mut routes = server.routes().await;
    let table = Some(file::parse(ROUTES).unwrap());
    routes.apply(ApplyRequest { table, ..Default::default() }).await.unwrap();
    let begun = async {
        loop {
            let listed: Value = serde_json::from_str(&http::get(&server, "/sinks").await.1).unwrap();
            if listed.as_array().unwrap().iter().filter(|sink| sink["next_seq"] != json!(0)).count() == 2 {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, begun).await.expect("a sink has not begun");
    let mut agent = Agent::ready(&server, "b1", 1).await;

    let first = work(&server, &mut agent, "e1").await;
    // Once more with a result; then it finds no room in a budget that never begins anew, and none before the reset of another.
    replay(&server, "try-1", vec![first.event_seq]).await;
    let again = agent.assignment().await;
    assert_eq!(again.mode(), Mode::Replay);
    agent.succeed(&again, "again").await;
    agent.settled().await;
    set_budget(&server, Period::Total, 500_000).await;
    let ended = replay(&server, "try-2", vec![first.event_seq]).await.remove(0);
    stands(&server, &ended.delivery_id, DeliveryStatus::Cancelled).await;
    set_budget(&server, Period::Day, 1_000_000).await;
    replay(&server, "try-3", vec![first.event_seq]).await;
    let again = agent.assignment().await;
    agent.succeed_using(&again, costing(900_000)).await;
    agent.settled().await;
    let waits = replay(&server, "try-4", vec![first.event_seq]).await.remove(0);
    stands(&server, &waits.delivery_id, DeliveryStatus::Parked).await;
    let last = work(&server, &mut agent, "e2").await;

    for assign in [&first, &last] {
        let message = next(&mut taken).await;
        assert_eq!(message["data"]["delivery"], json!(assign.delivery_id), "{message}");
    }
    for id in ["o/e1", "o/e2"] {
        let notice = next(&mut told).await;
        assert_eq!((&notice["notice"], &notice["event"]["repository"]), (&json!("event"), &json!(id)), "{notice}");
    }
    let stats = async {
        loop {
            let address = server.aggregator.unwrap();
            let stats: Value = serde_json::from_str(&http::get_at(address, "/stats").await.1).unwrap();
            if stats["total_events"].as_u64().unwrap() >= 2 {
                return stats;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let stats = tokio::time::timeout(PATIENCE, stats).await.expect("the board has not seen both");
    assert_eq!((&stats["total_events"], &stats["event_types"]), (&json!(2), &json!({ "review_started": 2 })));
    assert_eq!(stats["recent_events"].as_array().unwrap().len(), 2, "{stats}");
    assert!(taken.try_recv().is_err() && told.try_recv().is_err());
    server.stop().await;
}

#[tokio::test]
async fn a_replay_without_room_says_until_when_it_waits_and_goes_on_after_a_raise() {
    let server = Running::alone(&[]).await;
    let (mut agent, assign) = server.leased("b1", 1).await;
    agent.succeed(&assign, "then").await;
    agent.settled().await;
    // A million is set aside for a general that does not keep ceilings: one fits, two do not.
    set_budget(&server, Period::Day, 1_500_000).await;
    let first = replay(&server, "try-1", vec![assign.event_seq]).await.remove(0);
    let again = agent.assignment().await;
    assert_eq!(again.delivery_id, first.delivery_id);
    agent.succeed_using(&again, costing(900_000)).await;
    agent.settled().await;

    let second = replay(&server, "try-2", vec![assign.event_seq]).await.remove(0);
    let parked = stands(&server, &second.delivery_id, DeliveryStatus::Parked).await;
    assert_eq!(parked.park_reason(), ParkReason::OverBudget);
    let says = &parked.park_message;
    assert!(says.starts_with("budget replays has too little left: waits until 20") && says.ends_with("Z or a raise"));
    let filter = delivery::DeliveryFilter { statuses: vec![DeliveryStatus::Parked.into()], ..Default::default() };
    let list = delivery::ListRequest { filter: Some(filter), ..Default::default() };
    let listed = server.deliveries().await.list(list).await.unwrap().into_inner().deliveries;
    assert_eq!((listed.len(), &listed[0].park_message), (1, says));

    set_budget(&server, Period::Day, 3_000_000).await;
    let again = agent.assignment().await;
    assert_eq!(again.delivery_id, second.delivery_id);
    agent.succeed(&again, "again").await;
    agent.settled().await;

    // One that never begins anew has no room for it, now or later.
    set_budget(&server, Period::Total, 500_000).await;
    let third = replay(&server, "try-3", vec![assign.event_seq]).await.remove(0);
    stands(&server, &third.delivery_id, DeliveryStatus::Cancelled).await;
    server.stop().await;
}
