//! Peers that do what they should not: others go on, memory stays bounded, and each is told what is wrong.

use std::time::Instant;

use crate::support::{Agent, PATIENCE, Running, event};
use mindos_proto::agent::v1 as agent;
use mindos_proto::agent::v1::agent_message::Message as Up;
use mindos_proto::cloudevents::v1::cloud_event::Data;
use mindos_proto::delivery::v1 as delivery;
use mindos_proto::event::v1 as events_pb;
use mindos_proto::event::v1::PublishStreamRequest;
use mindos_proto::ledger::v1::ledger_service_client::LedgerServiceClient;
use mindos_proto::ledger::v1::{TailRequest, VerifyRequest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

fn address(url: &str) -> &str {
    url.strip_prefix("http://").unwrap()
}

#[tokio::test]
async fn garbage_on_the_ports_is_dropped_and_others_go_on() {
    let server = Running::alone(&[]).await;
    let mut noise = vec![0u8; 64 << 10];
    getrandom::fill(&mut noise).unwrap();
    for port in [&server.api, &server.agents] {
        for bytes in
            [&noise[..], b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET / HTTP/9.9\r\n\r\n", b"\0\0\0\0"]
        {
            let mut stream = TcpStream::connect(address(port)).await.unwrap();
            // The peer may close before all is written.
            let _ = stream.write_all(bytes).await;
            let _ = stream.shutdown().await;
            let mut answer = Vec::new();
            let read = stream.read_to_end(&mut answer);
            let _ = tokio::time::timeout(PATIENCE, read).await.expect("the connection stays open");
        }
    }
    let (mut agent, assign) = server.leased("b1", 1).await;
    agent.succeed(&assign, "done").await;
    agent.settled().await;
    server.stop().await;
}

#[tokio::test]
async fn what_is_too_large_is_refused_by_name() {
    let server = Running::alone(&[]).await;
    let large = "x".repeat(300 << 10);
    let refused = server.publish(event("e1", &large)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("dataref"), "{refused}");
    let refused = server.publish(event("e1", &"x".repeat(8 << 20))).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange);

    let mut agent = Agent::ready(&server, "b1", 1).await;
    let beat = agent::GeneralLoad { general: "x".repeat(5 << 20), ..Default::default() };
    agent.say(Up::Heartbeat(agent::Heartbeat { loads: vec![beat], leases: 0 })).await;
    assert_eq!(agent.next().await.unwrap_err().code(), Code::InvalidArgument);
    server.publish(event("e2", "small")).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_stream_that_never_reads_is_ended_and_its_work_goes_to_another() {
    let options = [
        "--lease",
        "1s",
        "--heartbeat",
        "100ms",
        "--heartbeat-idle",
        "200ms",
        "--outbox-stall",
        "1s",
        "--lane-backlog-max",
        "10000",
    ];
    let server = Running::alone(&options).await;
    // Takes 500 events of 64 KiB, far more than any window, and reads none of them.
    let mut deaf = Agent::ready(&server, "b1", 500).await;
    let mut events = server.events().await;
    for number in 0..500 {
        let mut event = event(&format!("e{number}"), "");
        event.source = format!("/lane/{number}");
        event.data = Some(Data::BinaryData(vec![7; 64 << 10].into()));
        let request = mindos_proto::event::v1::PublishRequest { event: Some(event), explain: false };
        events.publish(request).await.unwrap();
    }
    // It goes on to say that it lives, and is cut off all the same.
    let began = Instant::now();
    loop {
        let beat = agent::AgentMessage { message: Some(Up::Heartbeat(agent::Heartbeat::default())) };
        let number = deaf.take_number();
        let frame = agent::ConnectRequest { first_number: number, messages: vec![beat] };
        if deaf.up.send(frame).await.is_err() {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "the stream was not ended");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let mut other = Agent::ready(&server, "b2", 16).await;
    let assign = other.assignment().await;
    other.succeed(&assign, "done").await;
    server.stop().await;
}

#[tokio::test]
async fn answers_on_a_publish_stream_come_in_order_with_errors_in_their_places() {
    let server = Running::alone(&[]).await;
    let (sender, receiver) = mpsc::channel(8);
    let mut client = server.events().await;
    let mut answers = client.publish_stream(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    for batch in 1..=4 {
        let mut events: Vec<_> = (0..10).map(|number| event(&format!("{batch}-{number}"), "x")).collect();
        events[3].id = String::new();
        events.push(event("1-0", "x"));
        events.push(event("1-1", "other"));
        sender.send(PublishStreamRequest { batch, events, explain: false }).await.unwrap();
    }
    for batch in 1..=4 {
        let answer = answers.message().await.unwrap().unwrap();
        assert_eq!((answer.batch, answer.results.len()), (batch, 12));
        let code = |index: usize| answer.results[index].error.as_ref().map(|error| Code::from_i32(error.code));
        assert_eq!((code(0), code(3), code(11)), (None, Some(Code::InvalidArgument), Some(Code::AlreadyExists)));
        assert!(answer.results[10].duplicate);
        let seqs: Vec<u64> = answer.results.iter().take(10).map(|result| result.seq).filter(|seq| *seq > 0).collect();
        assert!(seqs.windows(2).all(|pair| pair[0] < pair[1]), "{seqs:?}");
    }
    sender.send(PublishStreamRequest { batch: 9, events: vec![event("e", "x")], explain: false }).await.unwrap();
    assert_eq!(answers.message().await.unwrap_err().code(), Code::InvalidArgument);
    server.stop().await;
}

#[tokio::test]
async fn events_are_refused_at_the_quota_and_work_goes_on() {
    let options = ["--segment-bytes", "1MiB", "--journal-quota", "8MiB", "--lane-backlog-max", "100000"];
    let server = Running::alone(&options).await;
    let mut events = server.events().await;
    let began = Instant::now();
    let refused = loop {
        let mut event = event(&format!("{:?}", began.elapsed()), "");
        event.data = Some(Data::BinaryData(vec![7; 64 << 10].into()));
        let request = mindos_proto::event::v1::PublishRequest { event: Some(event), explain: false };
        match events.publish(request).await {
            Ok(_) => assert!(began.elapsed() < PATIENCE, "the quota does not hold"),
            Err(status) => break status,
        }
    };
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let details = mindos_proto::rpc::Status::from(&refused);
    assert!(details.detail::<mindos_proto::rpc::RetryInfo>().is_some());
    let mut agent = Agent::ready(&server, "b1", 1).await;
    let assign = agent.assignment().await;
    agent.succeed(&assign, "done").await;
    assert_eq!(agent.settled().await.verdict(), agent::SettleVerdict::Settled);
    server.stop().await;
}

/// What a call came to; a stream's first message counts. Internal errors are what this is about.
fn answered<T>(what: &str, answer: Result<T, tonic::Status>) {
    if let Err(status) = answer {
        assert!(!matches!(status.code(), Code::Internal | Code::Unknown), "{what}: {status}");
    }
}

async fn begun<T>(what: &str, stream: Result<tonic::Response<tonic::Streaming<T>>, tonic::Status>) {
    match stream {
        Ok(stream) => {
            let mut stream = stream.into_inner();
            // A watch of the far future says nothing for as long as it lives.
            if let Ok(first) = tokio::time::timeout(std::time::Duration::from_millis(200), stream.message()).await {
                answered(what, first);
            }
        }
        Err(status) => answered::<()>(what, Err(status)),
    }
}

#[tokio::test]
async fn numbers_at_the_ends_are_answered_like_any_other() {
    let server = Running::alone(&[]).await;
    let (mut agent, assign) = server.leased("b1", 1).await;
    let usage = delivery::Usage {
        input_tokens: u64::MAX,
        output_tokens: u64::MAX,
        cost_micros: u64::MAX,
        ..delivery::Usage::default()
    };
    let result = agent::Result {
        delivery_id: assign.delivery_id.clone(),
        token: assign.token,
        outcome: Some(agent::result::Outcome::Succeeded(delivery::Succeeded {})),
        usage: vec![usage.clone(), usage],
        ..agent::Result::default()
    };
    agent.say(Up::Result(result)).await;
    agent.settled().await;

    let (mut events, mut deliveries) = (server.events().await, server.deliveries().await);
    let mut ledger = LedgerServiceClient::new(server.channel().await);
    let ends = [0, 1, 2, u64::from(u32::MAX), i64::MAX as u64 - 1, i64::MAX as u64, u64::MAX - 1, u64::MAX];
    for number in ends {
        let get = events_pb::GetRequest { key: Some(events_pb::get_request::Key::Seq(number)) };
        answered("event", events.get(get).await);
        let page_token = number.to_string();
        answered("events", events.list(events_pb::ListRequest { page_token, ..Default::default() }).await);
        let watch = events_pb::WatchRequest { from_seq: number, ..Default::default() };
        begun("watch of events", events.watch(watch).await).await;
        let watch = delivery::WatchRequest { from_seq: number, ..Default::default() };
        begun("watch of deliveries", deliveries.watch(watch).await).await;
        for ordinal in [1, u32::MAX] {
            let id = format!("d{number}.{ordinal}");
            let get = delivery::GetRequest { delivery_id: id.clone(), include_output: true };
            answered("delivery", deliveries.get(get).await);
            let redrive = delivery::redrive_request::Target::DeliveryId(id.clone());
            let redrive = delivery::RedriveRequest { target: Some(redrive), ..Default::default() };
            answered("redrive", deliveries.redrive(redrive).await);
            let list = delivery::ListRequest { page_token: id, ..Default::default() };
            answered("deliveries", deliveries.list(list).await);
        }
        let filter = delivery::DeliveryFilter { event_seqs: vec![number], ..Default::default() };
        let list = delivery::ListRequest { filter: Some(filter), ..Default::default() };
        answered("deliveries of an event", deliveries.list(list).await);
        for other in ends {
            let tail = TailRequest { from_seq: number, limit: other, ..Default::default() };
            begun("tail", ledger.tail(tail).await).await;
            let verify = VerifyRequest { from_seq: number, through_seq: other };
            begun("verify", ledger.verify(verify).await).await;
            let since = prost_types::Timestamp { seconds: number as i64, nanos: other as i32 };
            let filter = delivery::DeliveryFilter { since: Some(since), until: Some(since), ..Default::default() };
            let list = delivery::ListRequest { filter: Some(filter), ..Default::default() };
            answered("deliveries of a time", deliveries.list(list).await);
        }
    }
    server.stop().await;
}
