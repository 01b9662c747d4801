//! Replays over the API: what they wait for is named, and what comes of them is nobody's news.

#![allow(clippy::unwrap_used)]

mod support;

use mindos_proto::budget::v1::budget::Scope;
use mindos_proto::budget::v1::budget_service_client::BudgetServiceClient;
use mindos_proto::budget::v1::{Budget, Period, ReplayScope, SetBudgetRequest};
use mindos_proto::delivery::v1::{self as delivery, DeliveryStatus, ParkReason};
use mindos_proto::replay::v1::replay_response::Part;
use mindos_proto::replay::v1::replay_service_client::ReplayServiceClient;
use mindos_proto::replay::v1::{ReplayRequest, ReplayTarget, ReplayedEvent};
use support::{PATIENCE, Running};

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
    let usage = delivery::Usage { model: "m".to_owned(), cost_micros: 900_000, ..Default::default() };
    agent.succeed_using(&again, usage).await;
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
