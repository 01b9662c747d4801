//! Watching, listing and steering, over real connections.

use crate::support::{Agent, Directory, Running, event};
use mindos_proto::agent::v1::agent_message::Message as Up;
use mindos_proto::agent::v1::{self as agent, result};
use mindos_proto::delivery::v1::{self as delivery, DeliveryStatus};
use mindos_proto::event::v1 as events;
use mindos_proto::fleet::v1 as fleet;
use mindos_proto::journal::v1::entry::Record;
use mindos_proto::ledger::v1::TailRequest;
use mindos_proto::ledger::v1::ledger_service_client::LedgerServiceClient;
use mindos_proto::route::v1 as route;
use tonic::Code;

#[tokio::test]
async fn a_watch_begins_in_the_past_and_goes_on_with_what_comes() {
    let directory = Directory::new();
    let server = Running::start(&directory).await;
    let first = server.publish(event("e1", "one")).await.unwrap();
    let second = server.publish(event("e2", "two")).await.unwrap();
    let mut client = server.events().await;
    let request = events::WatchRequest { from_seq: first.seq, include_data: true, filter: None };
    let mut watch = client.watch(request).await.unwrap().into_inner();
    let mut seen = Vec::new();
    while seen.len() < 2 {
        if let Some(found) = watch.message().await.unwrap().unwrap().event {
            seen.push(found.seq);
        }
    }
    assert_eq!(seen, [first.seq, second.seq]);
    let third = server.publish(event("e3", "three")).await.unwrap();
    let found = loop {
        if let Some(found) = watch.message().await.unwrap().unwrap().event {
            break found;
        }
    };
    assert_eq!((found.seq, found.event), (third.seq, Some(event("e3", "three"))));

    let get = events::GetRequest {
        key: Some(events::get_request::Key::Name(events::EventKey { source: "/test".to_owned(), id: "e2".to_owned() })),
    };
    assert_eq!(client.get(get).await.unwrap().into_inner().event.unwrap().seq, second.seq);
    let list = events::ListRequest { page_size: 2, ..Default::default() };
    let page = client.list(list).await.unwrap().into_inner();
    let seqs: Vec<u64> = page.events.iter().map(|event| event.seq).collect();
    assert_eq!(seqs, [third.seq, second.seq]);
    let list = events::ListRequest { page_size: 2, page_token: page.next_page_token, ..Default::default() };
    let page = client.list(list).await.unwrap().into_inner();
    assert_eq!((page.events.len(), page.events[0].seq), (1, first.seq));
    server.stop().await;
    assert_eq!(watch.message().await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn the_life_of_a_delivery_is_seen_as_it_happens() {
    let directory = Directory::new();
    let server = Running::start(&directory).await;
    let mut client = server.deliveries().await;
    let mut watch = client.watch(delivery::WatchRequest::default()).await.unwrap().into_inner();
    assert!(watch.message().await.unwrap().unwrap().caught_up);
    let mut agent = Agent::ready(&server, "b1", 1).await;
    server.publish(event("e1", "one")).await.unwrap();
    let assign = agent.assignment().await;
    agent.succeed(&assign, "done").await;
    agent.settled().await;
    let mut seen = Vec::new();
    while seen.last() != Some(&DeliveryStatus::Succeeded) {
        if let Some(found) = watch.message().await.unwrap().unwrap().delivery {
            assert_eq!(found.delivery_id, assign.delivery_id);
            seen.push(found.status());
        }
    }
    assert_eq!(seen, [DeliveryStatus::Waiting, DeliveryStatus::Leased, DeliveryStatus::Succeeded]);
    server.stop().await;
}

#[tokio::test]
async fn open_and_ended_deliveries_stand_in_one_list_and_can_be_cancelled() {
    let directory = Directory::new();
    let server = Running::start(&directory).await;
    let mut agent = Agent::ready(&server, "b1", 1).await;
    server.publish(event("e1", "one")).await.unwrap();
    let assign = agent.assignment().await;
    agent.grant(0).await;
    agent.succeed(&assign, "done").await;
    agent.settled().await;
    server.publish(event("e2", "two")).await.unwrap();
    server.publish(event("e3", "three")).await.unwrap();

    let mut client = server.deliveries().await;
    let page = client.list(delivery::ListRequest::default()).await.unwrap().into_inner();
    let statuses: Vec<_> = page.deliveries.iter().map(delivery::Delivery::status).collect();
    assert_eq!(statuses, [DeliveryStatus::Waiting, DeliveryStatus::Waiting, DeliveryStatus::Succeeded]);
    assert_eq!(page.deliveries[2].delivery_id, assign.delivery_id);

    let open = page.deliveries[0].delivery_id.clone();
    let cancel = |id: String, dry_run| delivery::CancelRequest {
        target: Some(delivery::cancel_request::Target::DeliveryId(id)),
        dry_run,
        ..Default::default()
    };
    let counted = client.cancel(cancel(open.clone(), true)).await.unwrap().into_inner();
    assert_eq!(counted.cancelled, 1);
    let cancelled = client.cancel(cancel(open.clone(), false)).await.unwrap().into_inner();
    assert_eq!((cancelled.cancelled, &cancelled.delivery_ids), (1, &vec![open.clone()]));
    let again = client.cancel(cancel(open, false)).await.unwrap().into_inner();
    assert_eq!((again.cancelled, again.unchanged), (0, 1));
    let refused = client.cancel(cancel(assign.delivery_id.clone(), false)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    for id in ["d99999.1", "d18446744073709551615.4294967295"] {
        let unknown = client.cancel(cancel(id.to_owned(), false)).await.unwrap_err();
        assert_eq!(unknown.code(), Code::NotFound);
        let page_token = id.to_owned();
        client.list(delivery::ListRequest { page_token, ..Default::default() }).await.unwrap();
    }

    let last = events::GetRequest { key: Some(events::get_request::Key::Seq(u64::MAX)) };
    assert_eq!(server.events().await.get(last).await.unwrap_err().code(), Code::NotFound);

    let statuses = vec![DeliveryStatus::Waiting.into()];
    let filter = delivery::DeliveryFilter { statuses, ..Default::default() };
    let target = Some(delivery::cancel_request::Target::Filter(filter));
    let rest = delivery::CancelRequest { target, ..Default::default() };
    assert_eq!(client.cancel(rest).await.unwrap().into_inner().cancelled, 1);
    server.stop().await;
}

#[tokio::test]
async fn the_fleet_is_listed_and_held_back() {
    let directory = Directory::new();
    let server = Running::start(&directory).await;
    let mut agent = Agent::ready(&server, "b1", 2).await;
    let mut client = server.fleet().await;
    let name = fleet::GeneralName { cluster: "c1".to_owned(), name: "general-purpose-general".to_owned() };
    let target = || Some(fleet::Target { target: Some(fleet::target::Target::General(name.clone())) });
    let paused = client.pause(fleet::PauseRequest { target: target(), ..Default::default() }).await.unwrap();
    assert!(paused.into_inner().changed);
    let paused = client.pause(fleet::PauseRequest { target: target(), ..Default::default() }).await.unwrap();
    assert!(!paused.into_inner().changed);
    server.publish(event("e1", "one")).await.unwrap();
    let general = client.get_general(fleet::GetGeneralRequest { name: Some(name.clone()) }).await.unwrap();
    let general = general.into_inner().general.unwrap();
    assert_eq!((general.liveness(), general.slots, general.slots_in_use), (fleet::Liveness::Connected, 2, 0));
    assert_eq!(general.holds[0].kind(), fleet::HoldKind::Pause);
    let cordoned = client.cordon(fleet::CordonRequest { target: target(), ..Default::default() }).await.unwrap();
    assert!(cordoned.into_inner().changed, "a pause does not stand in for a cordon");
    let general = client.get_general(fleet::GetGeneralRequest { name: Some(name.clone()) }).await.unwrap();
    let kinds: Vec<_> = general.into_inner().general.unwrap().holds.iter().map(fleet::Hold::kind).collect();
    assert_eq!(kinds, [fleet::HoldKind::Cordon, fleet::HoldKind::Pause]);
    let uncordon = || fleet::UncordonRequest { target: target(), ..Default::default() };
    assert!(client.uncordon(uncordon()).await.unwrap().into_inner().changed);
    assert!(!client.uncordon(uncordon()).await.unwrap().into_inner().changed);
    let resumed = client.resume(fleet::ResumeRequest { target: target(), ..Default::default() }).await.unwrap();
    assert!(resumed.into_inner().changed);
    agent.assignment().await;

    let clusters = client.list_clusters(fleet::ListClustersRequest::default()).await.unwrap().into_inner().clusters;
    assert_eq!((clusters.len(), clusters[0].region.as_str(), clusters[0].instances_connected), (1, "eu", 1));
    let instances = client.list_instances(fleet::ListInstancesRequest::default()).await.unwrap().into_inner().instances;
    let [instance] = &instances[..] else { panic!("one is connected: {instances:?}") };
    assert!(instance.session.starts_with("1."), "a stream of the first start: {instance:?}");
    assert!(instance.heard_at.unwrap().seconds >= instance.connected_at.unwrap().seconds);
    let unknown = fleet::Target { target: Some(fleet::target::Target::Cluster("nowhere".to_owned())) };
    let refused =
        client.cordon(fleet::CordonRequest { target: Some(unknown), ..Default::default() }).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    let mut watch = client.watch(fleet::WatchRequest::default()).await.unwrap().into_inner();
    let mut items = 0;
    while !watch.message().await.unwrap().unwrap().caught_up {
        items += 1;
    }
    assert_eq!(items, 3);
    server.stop().await;
}

/// The reasons in the ledger, with the kinds of the records that may have one.
async fn reasons(server: &Running) -> Vec<(String, String)> {
    let mut ledger = LedgerServiceClient::new(server.channel().await);
    let mut tail = ledger.tail(TailRequest::default()).await.unwrap().into_inner();
    let mut found = Vec::new();
    while let Some(response) = tail.message().await.unwrap() {
        for entry in response.entries {
            let reason = match entry.entry.unwrap().record.unwrap() {
                Record::HoldChanged(record) => record.reason,
                Record::DeliveryRedriven(record) => record.message,
                Record::CancelRequested(record) => record.message,
                Record::DeliveryCancelled(record) => record.message,
                _ => continue,
            };
            found.push((entry.kind, reason));
        }
    }
    found
}

#[tokio::test]
async fn the_reasons_that_people_give_stand_in_the_ledger() {
    let directory = Directory::new();
    let server = Running::start(&directory).await;
    let (mut agent, assign) = server.leased("b1", 1).await;
    let mut client = server.fleet().await;
    let name = fleet::GeneralName { cluster: "c1".to_owned(), name: "general-purpose-general".to_owned() };
    let target = || Some(fleet::Target { target: Some(fleet::target::Target::General(name.clone())) });
    let reason = |text: &str| text.to_owned();
    client.cordon(fleet::CordonRequest { target: target(), reason: reason("one") }).await.unwrap();
    client.uncordon(fleet::UncordonRequest { target: target(), reason: reason("two") }).await.unwrap();
    client.drain(fleet::DrainRequest { target: target(), reason: reason("three"), grace: None }).await.unwrap();
    client.uncordon(fleet::UncordonRequest { target: target(), reason: String::new() }).await.unwrap();
    client.pause(fleet::PauseRequest { target: target(), reason: reason("four") }).await.unwrap();
    client.resume(fleet::ResumeRequest { target: target(), reason: reason("five") }).await.unwrap();

    let failed = delivery::Failure { kind: delivery::FailureKind::Poison.into(), ..Default::default() };
    let result = agent::Result {
        delivery_id: assign.delivery_id.clone(),
        token: assign.token,
        outcome: Some(result::Outcome::Failure(failed)),
        ..Default::default()
    };
    agent.say(Up::Result(result)).await;
    agent.settled().await;
    let mut client = server.deliveries().await;
    let target = Some(delivery::redrive_request::Target::DeliveryId(assign.delivery_id.clone()));
    let redrive = delivery::RedriveRequest { target, reason: reason("six"), dry_run: false };
    assert_eq!(client.redrive(redrive).await.unwrap().into_inner().redriven, 1);
    assert_eq!(agent.assignment().await.delivery_id, assign.delivery_id);
    let waiting = server.publish(event("e2", "two")).await.unwrap().deliveries[0].delivery_id.clone();
    for (id, text) in [(assign.delivery_id, "seven"), (waiting, "eight")] {
        let target = Some(delivery::cancel_request::Target::DeliveryId(id));
        client.cancel(delivery::CancelRequest { target, reason: reason(text), ..Default::default() }).await.unwrap();
    }

    let expected = [
        ("hold_changed", "one"),
        ("hold_changed", "two"),
        ("hold_changed", "three"),
        ("hold_changed", ""),
        ("hold_changed", "four"),
        ("hold_changed", "five"),
        ("delivery_redriven", "six"),
        ("cancel_requested", "seven"),
        ("delivery_cancelled", "eight"),
    ];
    let found = reasons(&server).await;
    let found: Vec<_> = found.iter().map(|(kind, reason)| (kind.as_str(), reason.as_str())).collect();
    assert_eq!(found, expected);
    server.stop().await;
}

#[tokio::test]
async fn a_reason_that_is_too_long_is_refused_and_nothing_changes() {
    let server = Running::alone(&[]).await;
    let waiting = server.publish(event("e1", "one")).await.unwrap().deliveries[0].delivery_id.clone();
    let reason = "x".repeat(1025);
    let route = fleet::Target { target: Some(fleet::target::Target::Route("default".to_owned())) };
    let pause = fleet::PauseRequest { target: Some(route), reason: reason.clone() };
    let target = Some(delivery::cancel_request::Target::DeliveryId(waiting.clone()));
    let cancel = delivery::CancelRequest { target, reason: reason.clone(), ..Default::default() };
    let target = Some(delivery::redrive_request::Target::DeliveryId(waiting));
    let redrive = delivery::RedriveRequest { target, reason, dry_run: false };
    let mut deliveries = server.deliveries().await;

    let refused = [
        server.fleet().await.pause(pause).await.unwrap_err(),
        deliveries.cancel(cancel).await.unwrap_err(),
        deliveries.redrive(redrive).await.unwrap_err(),
    ];

    for refused in refused {
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().starts_with("reason: has 1025 bytes"), "{refused}");
    }
    assert!(reasons(&server).await.is_empty());
    server.stop().await;
}

#[tokio::test]
async fn a_table_is_applied_when_it_is_the_one_that_was_seen() {
    let directory = Directory::new();
    let server = Running::start(&directory).await;
    let mut client = server.routes().await;
    let stock = client.get(route::GetRequest {}).await.unwrap().into_inner();
    let mut table = stock.table.clone().unwrap();
    table.routes[0].attempts_max = 2;
    let apply = |expected: &str, table: &route::RouteTable, dry_run| route::ApplyRequest {
        table: Some(table.clone()),
        expected_digest: expected.to_owned(),
        dry_run,
    };
    let wanted = client.apply(apply(&stock.digest, &table, true)).await.unwrap().into_inner();
    assert_eq!((&wanted.changed, wanted.added.len(), wanted.removed.len()), (&vec!["pr-created".to_owned()], 0, 0));
    let applied = client.apply(apply(&stock.digest, &table, false)).await.unwrap().into_inner();
    assert!(applied.seq > stock.seq);
    let now = client.get(route::GetRequest {}).await.unwrap().into_inner();
    assert_eq!((&now.digest, now.seq, now.table.unwrap()), (&applied.digest, applied.seq, table.clone()));
    assert!(now.applied_at.is_some());
    // A retry is harmless; somebody who saw the old one is told.
    assert_eq!(client.apply(apply("", &table, false)).await.unwrap().into_inner().seq, applied.seq);
    let late = client.apply(apply(&stock.digest, &stock.table.clone().unwrap(), false)).await.unwrap_err();
    assert_eq!(late.code(), Code::Aborted);
    table.routes.pop();
    let malformed = client.apply(apply("", &table, false)).await.unwrap_err();
    assert_eq!(malformed.code(), Code::InvalidArgument);
    server.stop().await;
}
