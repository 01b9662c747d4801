//! A long way between agent and control plane: a proxy in user space that holds every byte back for half a round trip.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use clap::Args;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::compare::machine;
use super::fanout::within;
use super::stage::{Data, Stage};
use super::worker::Worker;
use super::{StageArgs, rounded, say};
use crate::commands::filter::span;
use crate::failure::Failure;
use crate::render;

/// How long work runs before it is counted.
const WARM_UP: Duration = Duration::from_secs(4);
/// How long each slot's work takes.
const WORK: Duration = Duration::from_secs(1);
/// Bytes that may be on the way in one direction, in chunks of up to 256 KiB.
const CHUNKS_MAX: usize = 1024;
const CHUNK: usize = 256 * 1024;
/// Data of a large event: 256 KiB with all attributes.
const LARGE: usize = 256 * 1024 - 512;

#[derive(Clone, Debug, Args)]
pub(crate) struct DelayArgs {
    /// Round trip between agent and control plane.
    #[arg(long, default_value = "100ms", value_parser = span, value_name = "SPAN")]
    round_trip: Duration,
    /// Slots of 1 s work.
    #[arg(long, default_value_t = 256)]
    slots: u32,
    /// How long each throughput is measured.
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
    /// How much is sent in payloads of 256 KiB.
    #[arg(long, default_value_t = 512)]
    megabytes: u64,
    #[command(flatten)]
    stage: StageArgs,
}

pub(super) async fn run(args: DelayArgs) -> Result<(), Failure> {
    let DelayArgs { round_trip, slots, seconds, megabytes, stage: stage_args } = args;
    say(&format!("{slots} slots of 1 s work, without delay"));
    let direct = throughput(&stage_args, slots, seconds, Duration::ZERO).await?;
    say(&format!("the same with {} ms round trip", round_trip.as_millis()));
    let delayed = throughput(&stage_args, slots, seconds, round_trip).await?;
    say(&format!("{megabytes} MB in payloads of 256 KiB, without delay and with it"));
    let direct_bytes = megabytes_per_second(&stage_args, megabytes, Duration::ZERO).await?;
    let delayed_bytes = megabytes_per_second(&stage_args, megabytes, round_trip).await?;
    render::print_json(&json!({
        "bench": "delay",
        "round_trip_ms": round_trip.as_millis() as u64,
        "slots": slots,
        "work_seconds": WORK.as_secs(),
        "settled_per_second_without_delay": rounded(direct),
        "settled_per_second_with_delay": rounded(delayed),
        "share": rounded(delayed / direct),
        "payload_bytes": LARGE,
        "megabytes": megabytes,
        "megabytes_per_second_without_delay": direct_bytes,
        "megabytes_per_second_with_delay": delayed_bytes,
        "machine": machine(),
    }));
    Ok(())
}

/// Deliveries settled in a second by so many slots of 1 s work.
async fn throughput(args: &StageArgs, slots: u32, seconds: f64, delay: Duration) -> Result<f64, Failure> {
    let data = Data::new(args)?;
    let mut stage = Stage::start(&data.path, &args.control_plane_args).await?;
    let url = through(&stage.agents, delay).await?;
    let generals = vec!["bench-1".to_owned()];
    stage.route(&[("bench", generals.clone())]).await?;
    let slots_text = slots.to_string();
    let command = ["agent", "--url", &url, "--generals", "bench-1", "--slots", &slots_text, "--work", "1s"];
    let agent = Worker::start("agent", &command.map(str::to_owned)).await?;
    stage.wait_for_generals(&generals).await?;
    let enough = f64::from(slots) * (seconds + WARM_UP.as_secs_f64() + 4.0);
    publish(&stage.api, enough as u64, 100).await?;
    tokio::time::sleep(WARM_UP).await;
    let settled =
        |metrics: &std::collections::BTreeMap<String, f64>| metrics.get(crate::top::SETTLED).copied().unwrap_or(0.0);
    let before = (settled(&stage.metrics().await?), Instant::now());
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    let after = (settled(&stage.metrics().await?), Instant::now());
    agent.stop().await?;
    stage.stop().await;
    Ok((after.0 - before.0) / (after.1 - before.1).as_secs_f64())
}

/// What one stream carries in payloads of 256 KiB.
async fn megabytes_per_second(args: &StageArgs, megabytes: u64, delay: Duration) -> Result<Value, Failure> {
    let data = Data::new(args)?;
    let mut stage = Stage::start(&data.path, &args.control_plane_args).await?;
    let url = through(&stage.agents, delay).await?;
    let generals = vec!["bench-1".to_owned()];
    stage.route(&[("bench", generals.clone())]).await?;
    let command =
        |url: &str| ["agent", "--url", url, "--generals", "bench-1", "--slots", "256", "--measure"].map(str::to_owned);
    let known = Worker::start("registration", &command(&stage.agents)).await?;
    stage.wait_for_generals(&generals).await?;
    known.stop().await?;
    let count = (megabytes * 1_000_000).div_ceil(LARGE as u64);
    publish(&stage.api, count, LARGE).await?;
    let agent = Worker::start("agent", &command(&url)).await?;
    stage
        .wait("carrying the payloads", Duration::from_secs(300), |metrics| {
            metrics.get("mindos_open_deliveries") == Some(&0.0)
        })
        .await?;
    let done = agent.stop().await?;
    stage.stop().await;
    let span = done["last_ns"].as_u64().unwrap_or(0).saturating_sub(done["first_ns"].as_u64().unwrap_or(0));
    let bytes = done["bytes"].as_f64().unwrap_or(0.0);
    Ok(json!(rounded(bytes / 1e6 / (span as f64 / 1e9).max(1e-9))))
}

async fn publish(api: &str, count: u64, payload: usize) -> Result<(), Failure> {
    let (count, payload) = (count.to_string(), payload.to_string());
    let command =
        ["publish", "--url", api, "--count", &count, "--payload", &payload, "--batch", "8", "--seconds", "300"];
    let mut publisher = Worker::start("publisher", &command.map(str::to_owned)).await?;
    publisher.tell("go").await?;
    let done = publisher.expect("done", within(300.0)).await?;
    publisher.stop().await?;
    match done["refused"].as_u64() {
        Some(0) => Ok(()),
        _ => Err(Failure::world(format!("events were refused: {}", done["last_error"]))),
    }
}

/// The address of a proxy to `url` that delays by half of `round_trip` each way; `url` itself without a delay.
async fn through(url: &str, round_trip: Duration) -> Result<String, Failure> {
    if round_trip.is_zero() {
        return Ok(url.to_owned());
    }
    let target: SocketAddr = url
        .trim_start_matches("http://")
        .parse()
        .map_err(|_| Failure::world(format!("{url} is not an address of this machine")))?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let at = listener.local_addr()?;
    tokio::task::spawn_local(async move {
        while let Ok((near, _)) = listener.accept().await {
            let Ok(far) = TcpStream::connect(target).await else { continue };
            let _ = (near.set_nodelay(true), far.set_nodelay(true));
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            hold_back(near_in, far_out, round_trip / 2);
            hold_back(far_in, near_out, round_trip / 2);
        }
    });
    Ok(format!("http://{at}"))
}

/// Carries bytes one way, each chunk `delay` after it came.
fn hold_back(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration) {
    let (sender, mut chunks) = mpsc::channel::<(tokio::time::Instant, Bytes)>(CHUNKS_MAX);
    tokio::task::spawn_local(async move {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(CHUNK);
            match from.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            let due = tokio::time::Instant::now() + delay;
            if sender.send((due, buffer.split().freeze())).await.is_err() {
                return;
            }
        }
    });
    tokio::task::spawn_local(async move {
        while let Some((due, chunk)) = chunks.recv().await {
            tokio::time::sleep_until(due).await;
            if to.write_all(&chunk).await.is_err() {
                return;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn the_proxy_delays_both_ways_and_keeps_the_bytes() {
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                let echo = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let url = format!("http://{}", echo.local_addr().unwrap());
                tokio::task::spawn_local(async move {
                    let (mut stream, _) = echo.accept().await.unwrap();
                    let mut bytes = [0; 4];
                    stream.read_exact(&mut bytes).await.unwrap();
                    stream.write_all(&bytes).await.unwrap();
                });
                let url = through(&url, Duration::from_millis(60)).await.unwrap();
                let mut stream = TcpStream::connect(url.trim_start_matches("http://")).await.unwrap();
                let began = Instant::now();
                stream.write_all(b"ping").await.unwrap();
                let mut bytes = [0; 4];
                stream.read_exact(&mut bytes).await.unwrap();
                assert_eq!(&bytes, b"ping");
                assert!(began.elapsed() >= Duration::from_millis(60));
            })
            .await;
    }
}
