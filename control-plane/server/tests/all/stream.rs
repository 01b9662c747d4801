//! The stream of agents and what leads to it, over real connections.

use crate::support::{Agent, Directory, Running, event, hello};
use mindos_proto::agent::v1 as agent;
use mindos_proto::agent::v1::agent_message::Message as Up;
use mindos_proto::delivery::v1 as delivery;
use tonic::Code;

#[tokio::test]
async fn an_event_reaches_its_general_and_its_result_is_kept() {
    let server = Running::alone(&[]).await;
    let mut agent = Agent::ready(&server, "b1", 4).await;
    let sent = event("e1", "payload");
    let published = server.publish(sent.clone()).await.unwrap();
    assert!(!published.duplicate && published.seq > 0);

    let assign = agent.assignment().await;
    assert_eq!(assign.event, Some(sent));
    assert_eq!((assign.event_seq, assign.attempt), (published.seq, 1));
    agent.succeed(&assign, "done").await;
    let settled = agent.settled().await;
    assert_eq!(settled.verdict(), agent::SettleVerdict::Settled);

    let request = delivery::GetRequest { delivery_id: assign.delivery_id.clone(), include_output: true };
    let found = server.deliveries().await.get(request).await.unwrap().into_inner().delivery.unwrap();
    assert_eq!(found.status(), delivery::DeliveryStatus::Succeeded);
    assert_eq!(found.output.unwrap().data, "done");
    assert_eq!((found.attempts.len(), found.attempts[0].token), (1, assign.token));
    // A result that is repeated is settled again and recorded once.
    agent.succeed(&assign, "done").await;
    assert_eq!(agent.settled().await.verdict(), agent::SettleVerdict::Settled);
    server.stop().await;
}

#[tokio::test]
async fn a_duplicate_gets_the_first_answer_and_other_content_a_conflict() {
    let server = Running::alone(&[]).await;
    let first = server.publish(event("e1", "one")).await.unwrap();
    let again = server.publish(event("e1", "one")).await.unwrap();
    assert_eq!((again.seq, again.duplicate), (first.seq, true));
    let refused = server.publish(event("e1", "two")).await.unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists);
    let details = mindos_proto::rpc::Status::from(&refused);
    let info: mindos_proto::rpc::ErrorInfo = details.detail().unwrap();
    assert_eq!((info.reason.as_str(), &info.metadata["event_seq"]), ("EVENT_CONFLICT", &first.seq.to_string()));
    server.stop().await;
}

#[tokio::test]
async fn the_same_boot_keeps_its_lease_over_a_restart_of_the_plane() {
    let directory = Directory::new();
    let server = Running::start(&directory).await;
    let (mut agent, assign) = server.leased("b1", 1).await;
    let (epoch, plane_id) = (agent.welcome.epoch, agent.welcome.plane_id.clone());
    server.stop().await;
    assert_eq!(agent.next().await.unwrap_err().code(), Code::Unavailable);

    let server = Running::start(&directory).await;
    let claim = agent::LeaseClaim { delivery_id: assign.delivery_id.clone(), token: assign.token };
    let stale = agent::LeaseClaim { delivery_id: "d1.7".to_owned(), token: assign.token };
    let mut agent = Agent::dial(&server, hello("b1", vec![claim, stale])).await.unwrap();
    assert_eq!((agent.welcome.epoch, &agent.welcome.plane_id), (epoch + 1, &plane_id));
    let verdicts: Vec<_> = agent.welcome.verdicts.iter().map(agent::LeaseVerdict::verdict).collect();
    assert_eq!(verdicts, [agent::Verdict::Keep, agent::Verdict::Unknown]);
    agent.succeed(&assign, "done").await;
    assert_eq!(agent.settled().await.verdict(), agent::SettleVerdict::Settled);
    // What was acknowledged before is known after.
    assert!(server.publish(event("e1", "one")).await.unwrap().duplicate);
    server.stop().await;
}

#[tokio::test]
async fn a_newer_stream_of_an_instance_ends_the_older() {
    let server = Running::alone(&[]).await;
    let mut older = Agent::ready(&server, "b1", 1).await;
    let _newer = Agent::ready(&server, "b1", 1).await;
    assert_eq!(older.next().await.unwrap_err().code(), Code::Aborted);
    server.stop().await;
}

#[tokio::test]
async fn a_stream_that_breaks_the_protocol_is_told_so() {
    let server = Running::alone(&[]).await;
    let mut unknown = hello("b1", Vec::new());
    unknown.protocol_min = 9;
    unknown.protocol_max = 9;
    assert_eq!(Agent::dial(&server, unknown).await.err().unwrap().code(), Code::FailedPrecondition);
    let mut nameless = hello("b1", Vec::new());
    nameless.cluster = "Not A Name".to_owned();
    let refused = Agent::dial(&server, nameless).await.err().unwrap();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("hello.cluster"), "{refused}");

    let mut agent = Agent::ready(&server, "b1", 1).await;
    agent.up.send(agent::ConnectRequest { first_number: 77, messages: Vec::new() }).await.unwrap();
    assert_eq!(agent.next().await.unwrap_err().code(), Code::InvalidArgument);
    server.stop().await;
}

#[tokio::test]
async fn work_of_a_stream_that_is_gone_is_not_doubled_while_its_lease_runs() {
    let server = Running::alone(&["--lease", "1s", "--heartbeat", "100ms", "--heartbeat-idle", "100ms"]).await;
    let (agent, first) = server.leased("b1", 1).await;
    drop(agent);
    // Another boot without claims: the lease of the old one ends at once, and the work comes again under a later token.
    let mut agent = Agent::ready(&server, "b2", 1).await;
    let second = agent.assignment().await;
    assert_eq!(second.delivery_id, first.delivery_id);
    assert!(second.token.unwrap().term > first.token.unwrap().term);
    agent.succeed(&first, "late").await;
    assert_eq!(agent.settled().await.verdict(), agent::SettleVerdict::RefusedStale);
    agent.succeed(&second, "good").await;
    assert_eq!(agent.settled().await.verdict(), agent::SettleVerdict::Settled);
    server.stop().await;
}

#[tokio::test]
async fn claims_are_compared_when_an_agent_asks() {
    let server = Running::alone(&[]).await;
    let (mut agent, assign) = server.leased("b1", 1).await;
    let held = agent::LeaseClaim { delivery_id: assign.delivery_id.clone(), token: assign.token };
    agent.say(Up::Reconcile(agent::Reconcile { request: 42, claims: vec![held], last_assign: 2 })).await;
    match agent.next().await.unwrap() {
        agent::control_message::Message::Reconciled(answer) => {
            assert_eq!(answer.request, 42);
            assert_eq!(answer.verdicts[0].verdict(), agent::Verdict::Keep);
        }
        other => panic!("{other:?}"),
    }
    server.stop().await;
}
