//! Recovery: a control plane with much pending is killed and started again while an agent waits for it.
//!
//! The journal is made by a real control plane: first the pending deliveries and a snapshot, then as many records behind it as
//! wanted, from other work and without further snapshots, so that the start has to fold all of them.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::compare::machine;
use super::fanout::within;
use super::stage::{Data, Stage, free_port};
use super::worker::Worker;
use super::{StageArgs, clock_ns, rounded, say};
use crate::failure::Failure;
use crate::render;

/// Records that an event of three deliveries leads to: accepted, three leases, three results.
const RECORDS_PER_EVENT: u64 = 7;
/// How long each of the steps may take.
const STEP_WITHIN: Duration = Duration::from_secs(900);
#[derive(Clone, Debug, Args)]
pub(crate) struct RecoveryArgs {
    /// Deliveries that wait.
    #[arg(long, default_value_t = 1_000_000)]
    pending: u64,
    /// Lanes they are spread over.
    #[arg(long, default_value_t = 100_000)]
    lanes: u64,
    /// Records behind the snapshot.
    #[arg(long, default_value_t = 2_000_000)]
    records: u64,
    /// How often the agent dials.
    #[arg(long, default_value = "100ms", value_parser = crate::commands::filter::span, value_name = "SPAN")]
    redial: Duration,
    #[command(flatten)]
    stage: StageArgs,
}

pub(super) async fn run(args: RecoveryArgs) -> Result<(), Failure> {
    let RecoveryArgs { pending, lanes, records, redial, stage: stage_args } = args;
    let data = Data::new(&stage_args)?;
    let extra = &stage_args.control_plane_args;
    // A snapshot as soon as everything pending is there, and none later.
    let often = with(extra, &["--snapshot-tail=1000", "--snapshot-interval=1s"]);
    let never = with(extra, &["--snapshot-tail=1000000000000"]);
    let mut stage = Stage::start(&data.path, &often).await?;
    let work: Vec<String> = (1..=3).map(|number| format!("bench-{number}")).collect();
    stage.route(&[("pending", vec!["bench-pending".to_owned()]), ("bench", work.clone())]).await?;
    // The general has to be known before events can be bound to it.
    let known = Worker::start("registration", &agent(&stage.agents, "r", "bench-pending", None)).await?;
    stage.wait_for_generals(&["bench-pending".to_owned()]).await?;
    known.stop().await?;
    say(&format!("publishing {pending} events over {lanes} lanes that nobody works on"));
    publish(&stage.api, "pending", pending, lanes).await?;
    say("waiting for a snapshot of them");
    let end = stage.metrics().await?.get("mindos_journal_durable_seq").copied().unwrap_or(0.0);
    let covered = |metrics: &BTreeMap<String, f64>| metrics.get("mindos_snapshot_seq") >= Some(&(end - 1000.0));
    let metrics = stage.wait("the snapshot", STEP_WITHIN, covered).await?;
    let snapshot = metrics.get("mindos_snapshot_seq").copied().unwrap_or(0.0);
    stage.stop().await;
    let mut stage = Stage::start(&data.path, &never).await?;
    let rounds = records.div_ceil(RECORDS_PER_EVENT);
    say(&format!("{rounds} events of three deliveries each, for {records} records behind it"));
    let worker = Worker::start("agent", &agent(&stage.agents, "w", &work.join(","), None)).await?;
    stage.wait_for_generals(&work).await?;
    publish(&stage.api, "bench", rounds, 0).await?;
    let open = pending as f64;
    let metrics = stage
        .wait("settling the work", STEP_WITHIN, |metrics| metrics.get("mindos_open_deliveries") <= Some(&open))
        .await?;
    worker.stop().await?;
    let pending_found = metrics.get("mindos_open_deliveries").copied().unwrap_or(0.0);
    let seq = metrics.get("mindos_journal_durable_seq").copied().unwrap_or(0.0);
    stage.kill().await;
    let (api, agents) = (free_port()?, free_port()?);
    let url = format!("http://127.0.0.1:{agents}");
    let mut waiting = Worker::start("waiting agent", &agent(&url, "r", "bench-pending", Some(redial))).await?;
    say("starting it again");
    let start = clock_ns();
    let stage = Stage::spawn(&data.path, extra, api, agents)?;
    let first = waiting.expect("first", STEP_WITHIN).await?.as_u64().unwrap_or(0);
    let used = stage.used();
    waiting.stop().await?;
    stage.stop().await;
    render::print_json(&json!({
        "bench": "recovery",
        "pending": pending_found,
        "lanes": lanes,
        "snapshot_seq": snapshot,
        "end_seq": seq,
        "records_behind_the_snapshot": seq - snapshot,
        "agent_redials_every_ms": redial.as_millis() as u64,
        "seconds_to_first_assignment": rounded(first.saturating_sub(start) as f64 / 1e9),
        "server_cpu_seconds": rounded(used.cpu.as_secs_f64()),
        "server_rss_peak_bytes": used.resident_peak,
        "machine": machine(),
    }));
    Ok(())
}

async fn publish(api: &str, kind: &str, count: u64, lanes: u64) -> Result<(), Failure> {
    let (count, lanes) = (count.to_string(), lanes.to_string());
    let command = [
        "publish",
        "--url",
        api,
        "--kind",
        kind,
        "--count",
        &count,
        "--lanes",
        &lanes,
        "--batch",
        "500",
        "--seconds",
        "900",
    ];
    let mut publisher = Worker::start("publisher", &command.map(str::to_owned)).await?;
    publisher.tell("go").await?;
    let done = publisher.expect("done", within(900.0)).await?;
    let refused = done["refused"].as_u64().unwrap_or(0);
    publisher.stop().await?;
    match refused {
        0 => Ok(()),
        refused => Err(Failure::world(format!("{refused} events were refused: {}", done["last_error"]))),
    }
}

fn agent(url: &str, prefix: &str, generals: &str, redial: Option<Duration>) -> Vec<String> {
    let mut command: Vec<String> =
        ["agent", "--url", url, "--prefix", prefix, "--generals", generals, "--slots", "1024"]
            .map(str::to_owned)
            .into();
    if let Some(redial) = redial {
        command.extend(["--redial".to_owned(), format!("{}ms", redial.as_millis())]);
    }
    command
}

/// These arguments and more.
fn with(extra: &[String], more: &[&str]) -> Vec<String> {
    extra.iter().cloned().chain(more.iter().map(|argument| (*argument).to_owned())).collect()
}
