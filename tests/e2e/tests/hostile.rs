//! Abuse: the control plane keeps its memory bounded, says what is wrong, and goes on serving everybody else.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mindos_e2e::chance::Chance;
use mindos_e2e::client;
use mindos_e2e::general::{self, Notes};
use mindos_e2e::world::{World, http};
use mindos_proto::agent::v1::agent_service_client::AgentServiceClient;
use mindos_proto::agent::v1::{AgentMessage, ConnectRequest, GeneralGrant, Grant, Hello, ServedGeneral, agent_message};
use mindos_proto::cloudevents::v1::cloud_event::Data;
use mindos_proto::event::v1::event_service_client::EventServiceClient;
use mindos_proto::event::v1::{PublishRequest, WatchRequest};
use mindos_proto::route::v1::{Route, RouteTargets, Strategy};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tonic::Code;

const MIB: u64 = 1 << 20;
/// What a control plane may take under any of this.
const MEMORY_MAX: u64 = 512 * MIB;
const SETTLE_MAX: Duration = Duration::from_secs(60);

/// One event published, worked on and settled: somebody else is served.
async fn others_are_served(world: &World, id: &str) -> Result<()> {
    let begun = Instant::now();
    let event = client::event("/others", id, "work", &format!("others-{id}"));
    let acked = client::publish(&world.channel()?, event, Duration::from_secs(10)).await?;
    loop {
        let account = world.account().await?;
        let mine: Vec<_> = account.deliveries.iter().filter(|((event, _), _)| *event == acked.seq).collect();
        if mine.iter().all(|(_, settled)| **settled == 1) && !mine.is_empty() {
            return Ok(());
        }
        ensure!(begun.elapsed() < Duration::from_secs(20), "an event of others is not settled: {mine:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

struct Scene {
    world: World,
    notes: Notes,
    sidecar: mindos_e2e::process::Process,
}

async fn scene(name: &str, arguments: &[&str]) -> Result<Scene> {
    let notes = Notes::new(1, 1);
    let world = World::started(name, arguments).await?;
    client::broadcast_to_workers(&world.channel()?).await?;
    let url = general::serve(notes.clone()).await?;
    let sidecar = world.sidecar("east", "east-0", 8, &url, None)?;
    world.fleet(1, 1).await?;
    Ok(Scene { world, notes, sidecar })
}

impl Scene {
    fn memory_is_bounded(&self) -> Result<()> {
        let peak = self.world.plane()?.memory_peak()?;
        println!(
            "peak of the control plane: {} MiB, of the sidecar: {} MiB",
            peak / MIB,
            self.sidecar.memory_peak()? / MIB
        );
        ensure!(peak < MEMORY_MAX, "the control plane took {} MiB", peak / MIB);
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_100_mb_is_refused_and_not_kept() -> Result<()> {
    let scene = scene("body", &["--webhooks-unsigned"]).await?;
    let body = vec![b'x'; 100_000_000];
    let event = [
        ("ce-specversion", "1.0"),
        ("ce-id", "1"),
        ("ce-source", "/big"),
        ("ce-type", "big"),
        ("content-type", "text/plain"),
    ];
    let (status, _) = http(scene.world.api(), "POST", "/events", &event, &body).await?;
    ensure!(status == 413, "POST /events of 100 MB got {status}");
    let hook = [("X-GitHub-Event", "push"), ("X-GitHub-Delivery", "1"), ("Content-Type", "application/json")];
    let (status, _) = http(scene.world.api(), "POST", "/webhooks/github", &hook, &body).await?;
    ensure!(status == 413, "POST /webhooks/github of 100 MB got {status}");

    let mut event = client::event("/big", "2", "work", "big");
    event.data = Some(Data::TextData("x".repeat(100_000_000)));
    let mut client = EventServiceClient::new(scene.world.channel()?).max_encoding_message_size(200_000_000);
    let refused =
        client.publish(PublishRequest { event: Some(event), explain: false }).await.err().context("refused")?;
    ensure!(refused.code() != Code::Ok, "{refused}");
    println!("gRPC says {:?}: {}", refused.code(), refused.message());

    others_are_served(&scene.world, "1").await?;
    scene.memory_is_bounded()
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_either_port_harms_nobody() -> Result<()> {
    let scene = scene("garbage", &["--webhooks-unsigned"]).await?;
    let mut chance = Chance::new(7);
    for port in [scene.world.api(), scene.world.agents()] {
        for round in 0..60_usize {
            let mut stream = TcpStream::connect(port).await?;
            let mut bytes: Vec<u8> = (0..4096).map(|_| chance.below(256).to_le_bytes()[0]).collect();
            let starts: [&[u8]; 4] = [
                b"",
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                b"GET / HTTP/1.1\r\n",
                b"POST /events HTTP/1.1\r\ncontent-length: 99999\r\n\r\n",
            ];
            let start = starts[round % starts.len()];
            bytes[..start.len()].copy_from_slice(start);
            let _ = stream.write_all(&bytes).await;
        }
        // And those that say nothing at all.
        for _ in 0..60 {
            drop(TcpStream::connect(port).await?);
        }
    }
    for (path, body) in [("/events", "{"), ("/events", "[]"), ("/webhooks/github", "\u{0}"), ("/nothing", "")] {
        let kind = [("content-type", "application/cloudevents+json")];
        let (status, answer) = http(scene.world.api(), "POST", path, &kind, body.as_bytes()).await?;
        ensure!((400..500).contains(&status), "{path} {body:?} got {status}: {}", String::from_utf8_lossy(&answer));
    }
    others_are_served(&scene.world, "1").await?;
    scene.memory_is_bounded()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_that_never_reads_is_let_go_and_holds_nobody_up() -> Result<()> {
    let scene = scene("watcher", &["--payload-cache", "64MiB"]).await?;
    let channel = scene.world.channel()?;
    let mut watchers = Vec::new();
    for _ in 0..4 {
        let mut client = EventServiceClient::new(client::channel(&scene.world.server())?);
        let request = WatchRequest { include_data: true, ..WatchRequest::default() };
        watchers.push(client.watch(request).await?.into_inner());
    }
    let mut sent = tokio::task::JoinSet::new();
    for number in 0..400 {
        let mut event = client::event("/watched", &number.to_string(), "work", &format!("lane-{}", number % 40));
        event.data = Some(Data::TextData("x".repeat(200_000)));
        let channel = channel.clone();
        sent.spawn(async move { client::publish(&channel, event, Duration::from_secs(60)).await });
        while sent.len() >= 16 {
            sent.join_next().await.context("one is there")???;
        }
    }
    while let Some(one) = sent.join_next().await {
        one??;
    }
    let account = scene.world.settled(400, SETTLE_MAX).await?;
    ensure!(account.unsettled() == 0, "all settled while nobody read");
    others_are_served(&scene.world, "1").await?;
    drop(watchers);
    scene.memory_is_bounded()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_never_reads_gets_no_more_than_its_slots_and_holds_nobody_up() -> Result<()> {
    let scene = scene("deaf", &["--payload-cache", "64MiB"]).await?;
    let (messages, stream) = tokio::sync::mpsc::channel(8);
    let general =
        ServedGeneral { r#type: "worker".to_owned(), name: "deaf".to_owned(), slots: 1000, ..ServedGeneral::default() };
    let hello = Hello {
        protocol_min: 1,
        protocol_max: 1,
        version: "0.1.0".to_owned(),
        cluster: "west".to_owned(),
        instance_id: "west-0".to_owned(),
        boot_id: "b1".to_owned(),
        generals: vec![general],
        ..Hello::default()
    };
    let grant = Grant { generals: vec![GeneralGrant { general: "deaf".to_owned(), capacity: 1000 }], last_assign: 0 };
    let up = [agent_message::Message::Hello(hello), agent_message::Message::Grant(grant)];
    for (number, message) in (1..).zip(up) {
        let frame = ConnectRequest { first_number: number, messages: vec![AgentMessage { message: Some(message) }] };
        messages.send(frame).await?;
    }
    let mut agent = AgentServiceClient::new(client::channel(&format!("http://{}", scene.world.agents()))?);
    let answers = agent.connect(tokio_stream::wrappers::ReceiverStream::new(stream)).await?.into_inner();
    scene.world.fleet(2, 2).await?;

    let channel = scene.world.channel()?;
    for number in 0..300 {
        let mut event = client::event("/deaf", &number.to_string(), "work", &format!("lane-{number}"));
        event.data = Some(Data::TextData("x".repeat(200_000)));
        client::publish(&channel, event, Duration::from_secs(60)).await?;
    }
    let begun = Instant::now();
    // The other general, which reads, has done all of its own.
    while scene.notes.starts().len() < 300 {
        ensure!(begun.elapsed() < SETTLE_MAX, "{} of 300 ran at the general that reads", scene.notes.starts().len());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop((answers, messages));
    scene.memory_is_bounded()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_general_that_hangs_is_stopped_at_the_routes_deadline_and_the_lane_beside_it_goes_on() -> Result<()> {
    let scene = scene("hung", &[]).await?;
    let deadline = prost_types::Duration { seconds: 3, nanos: 0 };
    let route = Route {
        name: "short".to_owned(),
        targets: Some(RouteTargets { types: vec!["worker".to_owned()], ..RouteTargets::default() }),
        strategy: Strategy::Broadcast.into(),
        attempts_max: 1,
        deadline: Some(deadline),
        ..Route::default()
    };
    client::apply(&scene.world.channel()?, vec![route]).await?;
    scene.notes.set_time(3_600_000, 3_600_000);
    let event = client::event("/hung", "1", "work", "hung");
    client::publish(&scene.world.channel()?, event, Duration::from_secs(10)).await?;
    while scene.notes.starts().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    scene.notes.set_time(1, 1);

    others_are_served(&scene.world, "1").await?;
    let begun = Instant::now();
    loop {
        let account = scene.world.account().await?;
        if account.parked.len() == 1 {
            break;
        }
        ensure!(begun.elapsed() < Duration::from_secs(30), "the hung work is not parked");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    scene.memory_is_bounded()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_fleet_ends_in_a_verdict_and_loses_nothing() -> Result<()> {
    let scene = scene("full", &[]).await?;
    scene.notes.set_time(3_600_000, 3_600_000);
    let channel = scene.world.channel()?;
    let (mut accepted, mut refused) = (0_u64, None);
    // One lane: its backlog has a cap of 100.
    for number in 0..400 {
        let event = client::event("/full", &number.to_string(), "work", "one-lane");
        let request = PublishRequest { event: Some(event), explain: true };
        match EventServiceClient::new(channel.clone()).publish(request).await {
            Ok(_) => accepted += 1,
            Err(status) => {
                refused = Some(status);
                break;
            }
        }
    }
    let status = refused.context("a lane whose only target is full refuses")?;
    println!("{accepted} accepted, then {:?}: {}", status.code(), status.message());
    ensure!(status.code() == Code::ResourceExhausted, "{status}");
    ensure!(!status.details().is_empty(), "the refusal has details");
    // Another lane of the same general has room.
    let event = client::event("/full", "other", "work", "another-lane");
    client::publish(&channel, event, Duration::from_secs(5)).await?;
    let account = scene.world.account().await?;
    ensure!(account.events.len() as u64 == accepted + 1, "what was refused is not in the ledger");
    scene.memory_is_bounded()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_publications_and_lets_work_go_on() -> Result<()> {
    let scene = scene("disk", &["--journal-quota", "160MiB", "--segment-bytes", "16MiB"]).await?;
    scene.notes.set_time(300, 300);
    let channel = scene.world.channel()?;
    let mut sent = 0_u64;
    let refused = loop {
        let mut event = client::event("/disk", &sent.to_string(), "work", &format!("lane-{sent}"));
        event.data = Some(Data::TextData("x".repeat(250_000)));
        let request = PublishRequest { event: Some(event), explain: false };
        match EventServiceClient::new(channel.clone()).publish(request).await {
            Ok(_) => sent += 1,
            Err(status) => break status,
        }
        ensure!(sent < 4_000, "a quota of 160 MiB took 1 GB");
    };
    println!("{sent} accepted, then {:?}: {}", refused.code(), refused.message());
    ensure!(refused.code() == Code::ResourceExhausted, "{refused}");
    scene.notes.set_time(1, 1);
    let account = scene.world.settled(usize::try_from(sent)?, Duration::from_secs(120)).await?;
    ensure!(account.unsettled() == 0, "what was accepted is settled on a full disk");
    scene.memory_is_bounded()
}
