//! Fan-out: every event to three generals, each delivery on a lane of its own, settled with a result of 100 bytes.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::compare::{AgainstArgs, compare, machine};
use super::histogram::{Latencies, Receipts};
use super::stage::{Data, Stage};
use super::worker::Worker;
use super::{StageArgs, clock_ns, rounded, say};
use crate::failure::Failure;
use crate::render;

/// Deliveries of each event.
pub(super) const FANOUT: u64 = 3;
/// How long what was published may take to settle.
const SETTLE_WITHIN: Duration = Duration::from_secs(300);
/// How long the deliveries that come first may take.
const SETTLE_FIRST_WITHIN: Duration = Duration::from_secs(900);
/// How long the history may take to catch up.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(300);

#[derive(Clone, Debug, Args)]
pub(crate) struct FanoutArgs {
    #[command(flatten)]
    load: Load,
    #[command(flatten)]
    stage: StageArgs,
    #[command(flatten)]
    against: AgainstArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct LatencyArgs {
    /// Events a second; several with commas.
    #[arg(long, value_delimiter = ',', default_value = "1000,5000")]
    rates: Vec<f64>,
    /// How long at each rate.
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
    /// Bytes of each event's data.
    #[arg(long, default_value_t = 1024)]
    payload: usize,
    #[command(flatten)]
    stage: StageArgs,
    #[command(flatten)]
    against: AgainstArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct PublishArgs {
    /// For how long.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Calls without an answer.
    #[arg(long, default_value_t = 64)]
    in_flight: usize,
    /// Bytes of each event's data.
    #[arg(long, default_value_t = 1024)]
    payload: usize,
    #[command(flatten)]
    stage: StageArgs,
}

/// One measurement, whatever the system.
#[derive(Clone, Debug, Args)]
pub(super) struct Load {
    /// How long events are published.
    #[arg(long, default_value_t = USUAL.seconds)]
    pub(super) seconds: f64,
    /// Publishers, each a process.
    #[arg(long, default_value_t = USUAL.publishers)]
    pub(super) publishers: u16,
    /// Agents, each a process with one stream that serves all three generals.
    #[arg(long, default_value_t = USUAL.streams)]
    pub(super) streams: u16,
    /// Slots of each general at each agent.
    #[arg(long, default_value_t = USUAL.slots)]
    pub(super) slots: u32,
    /// Events a second in all, whatever the answers do (open loop); 0 goes as fast as they come.
    #[arg(long, default_value_t = USUAL.rate)]
    pub(super) rate: f64,
    /// Events of a batch.
    #[arg(long, default_value_t = USUAL.batch)]
    pub(super) batch: usize,
    /// Batches without an answer.
    #[arg(long, default_value_t = USUAL.window, value_parser = clap::value_parser!(u8).range(1..=2))]
    pub(super) window: u8,
    /// One call for each event instead of a stream.
    #[arg(long)]
    pub(super) unary: bool,
    /// Calls without an answer.
    #[arg(long, default_value_t = USUAL.in_flight)]
    pub(super) in_flight: usize,
    /// Bytes of each event's data.
    #[arg(long, default_value_t = USUAL.payload)]
    pub(super) payload: usize,
    /// Deliveries to settle first, unmeasured, so that they stand in the history.
    #[arg(long, default_value_t = USUAL.settled_before, conflicts_with = "against")]
    pub(super) settled_before: u64,
    /// Routes of the table: the bench's own, the default, and before them others that its events do not match, 95 % of all for
    /// other kinds, the rest for other subjects of the same kind.
    #[arg(long, default_value_t = USUAL.routes, value_parser = clap::value_parser!(u16).range(2..=1000), conflicts_with = "against")]
    pub(super) routes: u16,
    /// Over TLS: agents show certificates, publishers tokens.
    #[arg(long, conflicts_with = "against")]
    pub(super) tls: bool,
}

/// What is measured where nothing else is asked for.
const USUAL: Load = Load {
    seconds: 10.0,
    publishers: 1,
    streams: 1,
    slots: 4096,
    rate: 0.0,
    batch: 64,
    window: 2,
    unary: false,
    in_flight: 64,
    payload: 1024,
    settled_before: 0,
    routes: 2,
    tls: false,
};

pub(super) async fn fanout(args: FanoutArgs) -> Result<(), Failure> {
    let FanoutArgs { load, stage, against } = args;
    let mut result = compare(&load, &stage, &against).await?;
    result["bench"] = json!("fanout");
    render::print_json(&result);
    Ok(())
}

pub(super) async fn latency(args: LatencyArgs) -> Result<(), Failure> {
    let LatencyArgs { rates, seconds, payload, stage, against } = args;
    let mut results = Vec::new();
    for rate in rates {
        let load = Load { seconds, rate, payload, ..USUAL };
        results.push(compare(&load, &stage, &against).await?);
    }
    render::print_json(&json!({"bench": "latency", "rates": results}));
    Ok(())
}

pub(super) async fn publish(args: PublishArgs) -> Result<(), Failure> {
    let PublishArgs { seconds, in_flight, payload, stage: stage_args } = args;
    let data = Data::new(&stage_args)?;
    let stage = Stage::start(&data.path, &stage_args.control_plane_args).await?;
    stage.route(&[]).await?;
    let command = [
        "publish",
        "--url",
        &stage.api,
        "--seconds",
        &seconds.to_string(),
        "--unary",
        "--in-flight",
        &in_flight.to_string(),
        "--payload",
        &payload.to_string(),
        "--kind",
        "nobody",
    ];
    let mut publisher = Worker::start("publisher", &command.map(str::to_owned)).await?;
    let before = (stage.used(), publisher.used());
    publisher.tell("go").await?;
    let done = publisher.expect("done", within(seconds)).await?;
    let after = (stage.used(), publisher.used());
    let mut latencies = Latencies::new();
    latencies.add_pairs(&done["latencies"]);
    let took = span_seconds(&done["start_ns"], &done["end_ns"]);
    let accepted = done["accepted"].as_u64().unwrap_or(0);
    let result = json!({
        "bench": "publish",
        "in_flight": in_flight,
        "payload_bytes": payload,
        "durability": "synced before every answer",
        "accepted": accepted,
        "refused": done["refused"],
        "last_error": done["last_error"],
        "seconds": rounded(took),
        "publishes_per_second": rounded(accepted as f64 / took),
        "answer_latency": latencies.to_json(),
        "server_cpu_seconds": rounded((after.0.cpu - before.0.cpu).as_secs_f64()),
        "generator_cpu_seconds": rounded((after.1.cpu - before.1.cpu).as_secs_f64()),
        "server_rss_peak_bytes": after.0.resident_peak,
        "machine": machine(),
    });
    publisher.stop().await?;
    stage.stop().await;
    render::print_json(&result);
    Ok(())
}

/// One run of ours.
pub(super) async fn measure(load: &Load, stage_args: &StageArgs) -> Result<Value, Failure> {
    let data = Data::new(stage_args)?;
    let mut stage = Stage::start_as(&data.path, &stage_args.control_plane_args, load.tls).await?;
    let generals: Vec<String> = (1..=FANOUT).map(|number| format!("bench-{number}")).collect();
    stage.route_among(usize::from(load.routes), &[("bench", generals.clone())]).await?;
    let mut agents = Vec::new();
    for number in 0..load.streams {
        let mut command: Vec<String> = ["agent", "--url", &stage.agents].map(str::to_owned).into();
        command.extend(["--prefix".to_owned(), format!("a{number}"), "--slots".to_owned(), load.slots.to_string()]);
        command.extend(stage.agent_arguments(1).await?);
        if load.rate > 0.0 {
            command.push("--measure".to_owned());
        }
        agents.push(Worker::start(&format!("agent {number}"), &command).await?);
    }
    stage.wait_for_generals(&generals).await?;
    let sessions = f64::from(load.streams);
    stage
        .wait("connecting the agents", Duration::from_secs(60), |metrics| {
            metrics.get("mindos_sessions") >= Some(&sessions)
        })
        .await?;
    let before = match load.settled_before {
        0 => 0.0,
        deliveries => settle(&mut stage, load, deliveries).await?,
    };
    let mut publishers = Vec::new();
    for number in 0..load.publishers {
        publishers.push(Worker::start(&format!("publisher {number}"), &publisher_command(load, number, &stage)).await?);
    }
    let used_before = stage.used();
    let generators_before: f64 = agents.iter().chain(&publishers).map(|worker| worker.used().cpu.as_secs_f64()).sum();
    let start = clock_ns();
    for publisher in &mut publishers {
        publisher.tell("go").await?;
    }
    let mut sum = Sum::default();
    for publisher in &mut publishers {
        sum.add(&publisher.expect("done", within(load.seconds)).await?);
    }
    let published = clock_ns();
    let settled = stage
        .wait("settling everything", SETTLE_WITHIN, |metrics| metrics.get("mindos_open_deliveries") == Some(&0.0))
        .await?;
    let end = clock_ns();
    let after = stage.used();
    let generators_after: f64 = agents.iter().chain(&publishers).map(|worker| worker.used().cpu.as_secs_f64()).sum();
    let lag = settled.get("mindos_history_lag_records").copied().unwrap_or(0.0);
    let caught_up = stage
        .wait("the history's catching up", CATCH_UP_WITHIN, |metrics| {
            metrics.get("mindos_history_lag_records") <= Some(&0.0)
        })
        .await?;
    let caught_up_at = clock_ns();
    let after_history = stage.used();
    let mut receipts = Receipts::new();
    let mut started = 0;
    for agent in agents {
        let done = agent.stop().await?;
        started += done["started"].as_u64().unwrap_or(0);
        receipts.add_pairs(&done["receipts"]);
    }
    for publisher in publishers {
        publisher.stop().await?;
    }
    stage.stop().await;
    let took = (end - start) as f64 / 1e9;
    let deliveries = sum.accepted * FANOUT;
    let cpu = (after.cpu - used_before.cpu).as_secs_f64();
    let parked = caught_up
        .iter()
        .filter(|(name, _)| name.as_str() == "mindos_deliveries_total")
        .map(|(_, all)| all)
        .sum::<f64>()
        - caught_up.get(crate::top::SETTLED).copied().unwrap_or(0.0);
    Ok(json!({
        "events": sum.accepted,
        "refused": sum.refused,
        "last_error": sum.last_error,
        "deliveries_settled": caught_up.get(crate::top::SETTLED).copied().unwrap_or(0.0) - before,
        "deliveries_settled_before": before,
        "deliveries_parked": parked,
        "starts_at_agents": started,
        "complete": started >= deliveries && parked == 0.0 && sum.refused == 0,
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
        "history_lag_records": lag,
        "history_catch_up_seconds": rounded((caught_up_at - end) as f64 / 1e9),
        "history_catch_up_cpu_seconds": rounded((after_history.cpu - after.cpu).as_secs_f64()),
    }))
}

/// Settles so many deliveries and waits until they stand in the history; returns how many they were.
async fn settle(stage: &mut Stage, load: &Load, deliveries: u64) -> Result<f64, Failure> {
    say(&format!("settling {deliveries} deliveries for the history"));
    let seconds = SETTLE_FIRST_WITHIN.as_secs_f64();
    let load = Load { seconds, rate: 0.0, unary: false, batch: 256, ..load.clone() };
    let mut command = publisher_command(&load, load.publishers, stage);
    command.extend(["--count".to_owned(), deliveries.div_ceil(FANOUT).to_string()]);
    let mut publisher = Worker::start("publisher", &command).await?;
    publisher.tell("go").await?;
    publisher.expect("done", within(load.seconds)).await?;
    publisher.stop().await?;
    let is_over = |metrics: &BTreeMap<String, f64>| {
        metrics.get("mindos_open_deliveries") == Some(&0.0) && metrics.get("mindos_history_lag_records") <= Some(&0.0)
    };
    let metrics = stage.wait("settling what comes first", CATCH_UP_WITHIN, is_over).await?;
    Ok(metrics.get(crate::top::SETTLED).copied().unwrap_or(0.0))
}

/// The arguments of a publisher's process.
fn publisher_command(load: &Load, number: u16, stage: &Stage) -> Vec<String> {
    let rate = load.rate / f64::from(load.publishers.max(1));
    let mut command: Vec<String> = [
        "publish",
        "--url",
        &stage.api,
        "--seconds",
        &load.seconds.to_string(),
        "--rate",
        &rate.to_string(),
        "--batch",
        &load.batch.to_string(),
        "--window",
        &load.window.to_string(),
        "--payload",
        &load.payload.to_string(),
        "--in-flight",
        &load.in_flight.to_string(),
        "--number",
        &number.to_string(),
    ]
    .map(str::to_owned)
    .into();
    if load.unary {
        command.push("--unary".to_owned());
    }
    command.extend(stage.publisher_arguments());
    command
}

/// What all publishers did.
#[derive(Debug)]
pub(super) struct Sum {
    pub(super) accepted: u64,
    pub(super) refused: u64,
    pub(super) last_error: String,
    pub(super) latencies: Latencies,
}

impl Default for Sum {
    fn default() -> Sum {
        Sum { accepted: 0, refused: 0, last_error: String::new(), latencies: Latencies::new() }
    }
}

impl Sum {
    pub(super) fn add(&mut self, done: &Value) {
        self.accepted += done["accepted"].as_u64().unwrap_or(0);
        self.refused += done["refused"].as_u64().unwrap_or(0);
        if let Some(error) = done["last_error"].as_str().filter(|error| !error.is_empty()) {
            error.clone_into(&mut self.last_error);
        }
        self.latencies.add_pairs(&done["latencies"]);
    }
}

/// How long a publisher may take.
pub(super) fn within(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.max(0.0) + 120.0)
}

pub(super) fn span_seconds(start: &Value, end: &Value) -> f64 {
    let (start, end) = (start.as_u64().unwrap_or(0), end.as_u64().unwrap_or(0));
    (end.saturating_sub(start) as f64 / 1e9).max(1e-9)
}
