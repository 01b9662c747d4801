//! Load on a whole server over loopback, its clients in the same process on a thread of their own: figures for a change of the
//! shell, not for a release (`mindos bench` has those).
//!
//! `cargo bench --bench serve -- [unary|fanout] [seconds]`

#![allow(clippy::unwrap_used)]

#[path = "../tests/all/support/mod.rs"]
mod support;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mindos_proto::agent::v1 as agent;
use mindos_proto::agent::v1::agent_message::Message as Up;
use mindos_proto::agent::v1::agent_service_client::AgentServiceClient;
use mindos_proto::agent::v1::control_message::Message as Down;
use mindos_proto::cloudevents::v1::cloud_event::Data;
use mindos_proto::delivery::v1 as delivery;
use mindos_proto::event::v1::event_service_client::EventServiceClient;
use mindos_proto::event::v1::{PublishRequest, PublishStreamRequest};
use support::{Directory, Running, event};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PAYLOAD: usize = 1024;
const BATCH: usize = 64;
const GENERALS: [&str; 3] = ["architecture-general", "security-general", "code-review-general"];
const CAPACITY: u32 = 4000;
const STREAMS: u64 = 4;
/// Events that may be unsettled.
const OPEN_MAX: u64 = 4000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let what = arguments.first().map_or("unary", String::as_str).to_owned();
    let seconds = arguments.get(1).and_then(|text| text.parse().ok()).unwrap_or(5);
    let directory = Directory::new();
    let (ready, started) = std::sync::mpsc::channel();
    let stop = Arc::new(tokio::sync::Notify::new());
    let stopping = Arc::clone(&stop);
    let data = directory.0.clone();
    let server = std::thread::Builder::new().name("server".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let directory = Directory(data);
            let options =
                ["--lane-backlog-max", "1000000", "--queue-backlog-max", "10000000", "--segment-bytes", "64MiB"];
            let running = Running::with(&directory, &options).await;
            ready.send((running.api.clone(), running.agents.clone())).unwrap();
            stopping.notified().await;
            running.stop().await;
            std::mem::forget(directory);
        });
    });
    let (api, agents) = started.recv().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let before = cpu();
    runtime.block_on(async {
        match what.as_str() {
            "unary" => unary(&api, Duration::from_secs(seconds)).await,
            _ => fanout(&api, &agents, Duration::from_secs(seconds)).await,
        }
    });
    for (name, seconds) in cpu() {
        let spent = seconds - before.iter().find(|(other, _)| *other == name).map_or(0.0, |(_, before)| *before);
        if spent > 0.01 {
            println!("  cpu {name}: {spent:.2} s");
        }
    }
    stop.notify_one();
    server.unwrap().join().unwrap();
}

/// Seconds of CPU of each thread, by name.
fn cpu() -> Vec<(String, f64)> {
    let mut found = Vec::<(String, f64)>::new();
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let Ok(stat) = std::fs::read_to_string(task.path().join("stat")) else { continue };
        let (head, rest) = stat.rsplit_once(") ").unwrap();
        let name = head.split_once('(').unwrap().1.to_owned();
        let fields: Vec<f64> = rest.split(' ').map(|field| field.trim().parse().unwrap_or(0.0)).collect();
        let seconds = (fields[11] + fields[12]) / 100.0;
        match found.iter_mut().find(|(other, _)| *other == name) {
            Some((_, sum)) => *sum += seconds,
            None => found.push((name, seconds)),
        }
    }
    found
}

async fn connect(address: &str) -> Channel {
    let endpoint = Endpoint::from_shared(address.to_owned()).unwrap();
    let endpoint = endpoint.initial_stream_window_size(16 << 20).initial_connection_window_size(32 << 20);
    endpoint.tcp_nodelay(true).connect().await.unwrap()
}

async fn unary(api: &str, time: Duration) {
    let client = EventServiceClient::new(connect(api).await);
    let count = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..64 {
        let (mut client, count) = (client.clone(), Arc::clone(&count));
        tasks.spawn(async move {
            let mut number = 0u64;
            while began.elapsed() < time {
                let mut event = event(&format!("{worker}-{number}"), "");
                event.data = Some(Data::BinaryData(vec![worker as u8; PAYLOAD].into()));
                let request = PublishRequest { event: Some(event), explain: false };
                client.publish(request).await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                number += 1;
            }
        });
    }
    while tasks.join_next().await.is_some() {}
    let (count, took) = (count.load(Ordering::Relaxed), began.elapsed().as_secs_f64());
    println!("unary: {:.0} publishes/s at 64 in flight ({count} in {took:.2} s)", count as f64 / took);
}

async fn fanout(api: &str, agents: &str, time: Duration) {
    let settled = Arc::new(AtomicU64::new(0));
    for general in GENERALS {
        let (settled, channel) = (Arc::clone(&settled), connect(agents).await);
        tokio::spawn(async move { work(channel, general, &settled).await });
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let began = Instant::now();
    let published = Arc::new(AtomicU64::new(0));
    let mut streams = tokio::task::JoinSet::new();
    for number in 0..STREAMS {
        let client = EventServiceClient::new(connect(api).await);
        let (published, settled) = (Arc::clone(&published), Arc::clone(&settled));
        streams.spawn(async move { publish(client, number, began + time, &published, &settled).await });
    }
    while streams.join_next().await.is_some() {}
    let published = published.load(Ordering::Relaxed);
    let deadline = Instant::now() + Duration::from_secs(30);
    while settled.load(Ordering::Relaxed) < published * 3 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let (settled, took) = (settled.load(Ordering::Relaxed), began.elapsed().as_secs_f64());
    println!(
        "fanout: {:.0} events/s with {settled} of {} deliveries settled ({published} in {took:.2} s)",
        published as f64 / took,
        published * 3
    );
}

/// Publishes batches on one stream, two of them unanswered, while the fleet keeps up.
async fn publish(
    mut client: EventServiceClient<Channel>,
    number: u64,
    until: Instant,
    published: &AtomicU64,
    settled: &AtomicU64,
) {
    let (sender, receiver) = mpsc::channel(2);
    let mut answers = client.publish_stream(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    let window = tokio::sync::Semaphore::new(2);
    let send = async {
        let mut batch = 0;
        while Instant::now() < until {
            window.acquire().await.unwrap().forget();
            // The fleet's work is bounded, or the publisher would only measure itself.
            while published.load(Ordering::Relaxed) * 3 > settled.load(Ordering::Relaxed) + 3 * OPEN_MAX {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            batch += 1;
            let one = |index: usize| {
                let mut event = event(&format!("{number}-{batch}-{index}"), "");
                event.r#type = "pr_created".to_owned();
                event.source = format!("/lane/{}", (batch as usize * BATCH + index) % 4096);
                event.data = Some(Data::BinaryData(vec![index as u8; PAYLOAD].into()));
                event
            };
            let events = (0..BATCH).map(one).collect();
            published.fetch_add(BATCH as u64, Ordering::Relaxed);
            sender.send(PublishStreamRequest { batch, events, explain: false }).await.unwrap();
        }
        drop(sender);
    };
    let receive = async {
        while let Some(answer) = answers.message().await.unwrap() {
            assert!(answer.results.iter().all(|result| result.error.is_none()), "{:?}", answer.results);
            window.add_permits(1);
        }
    };
    tokio::join!(send, receive);
}

async fn work(channel: Channel, general: &str, settled: &AtomicU64) {
    let (up, receiver) = mpsc::channel(16);
    let served = agent::ServedGeneral { r#type: general.to_owned(), ..Default::default() };
    let hello = agent::Hello { generals: vec![served], instance_id: general.to_owned(), ..support::hello("b", vec![]) };
    let grant = agent::GeneralGrant { general: general.to_owned(), capacity: CAPACITY };
    let grant = agent::Grant { generals: vec![grant], last_assign: 0 };
    let frame = |first_number, messages: Vec<Up>| agent::ConnectRequest {
        first_number,
        messages: messages.into_iter().map(|message| agent::AgentMessage { message: Some(message) }).collect(),
    };
    up.send(frame(1, vec![Up::Hello(hello), Up::Grant(grant)])).await.unwrap();
    let mut number = 3;
    let mut client = AgentServiceClient::new(channel).max_decoding_message_size(8 << 20);
    let mut down = client.connect(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    let output = bytes::Bytes::from(vec![7; 100]);
    let mut results = VecDeque::new();
    while let Ok(Some(message)) = down.message().await {
        for message in message.messages {
            match message.message {
                Some(Down::Assign(assign)) => results.push_back(Up::Result(agent::Result {
                    delivery_id: assign.delivery_id,
                    token: assign.token,
                    outcome: Some(agent::result::Outcome::Succeeded(delivery::Succeeded {})),
                    output: output.clone(),
                    ..Default::default()
                })),
                Some(Down::Settled(_)) => drop(settled.fetch_add(1, Ordering::Relaxed)),
                _ => {}
            }
        }
        if !results.is_empty() {
            let messages: Vec<Up> = results.drain(..).collect();
            let count = messages.len() as u64;
            up.send(frame(number, messages)).await.unwrap();
            number += count;
        }
    }
}
