//! Idle agents, each with a TCP connection of its own: what one costs in memory, and all of them in processor time.

use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::compare::machine;
use super::stage::{Data, Stage};
use super::worker::Worker;
use super::{StageArgs, rounded, say};
use crate::failure::Failure;
use crate::render;

/// Agents of one process at most: a process may have 20,000 descriptors on common systems.
pub(super) const AGENTS_PER_WORKER: u32 = 2500;
/// How long after the last connection the memory is read.
const CALM: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, Args)]
pub(crate) struct StreamsArgs {
    /// Idle agents.
    #[arg(long, default_value_t = 10_000)]
    agents: u32,
    /// How long they are watched.
    #[arg(long, default_value_t = 30.0)]
    seconds: f64,
    /// Over TLS: each agent joins with a token and shows a certificate of its own.
    #[arg(long)]
    tls: bool,
    #[command(flatten)]
    stage: StageArgs,
}

pub(super) async fn run(args: StreamsArgs) -> Result<(), Failure> {
    let StreamsArgs { agents, seconds, tls, stage: stage_args } = args;
    let data = Data::new(&stage_args)?;
    let mut stage = Stage::start_as(&data.path, &stage_args.control_plane_args, tls).await?;
    // One agent first, so that what every server needs once is not counted as an agent's.
    let first = Worker::start("first agent", &command(&stage, "first", 1).await?).await?;
    stage
        .wait("the first agent", Duration::from_secs(30), |metrics| metrics.get("mindos_sessions") >= Some(&1.0))
        .await?;
    tokio::time::sleep(CALM).await;
    let before = stage.used();
    let mut workers = Vec::new();
    let mut left = agents;
    let connecting = std::time::Instant::now();
    while left > 0 {
        let some = left.min(AGENTS_PER_WORKER);
        left -= some;
        let name = format!("w{}", workers.len());
        say(&format!("{some} agents in another process"));
        workers.push(Worker::start(&name, &command(&stage, &name, some).await?).await?);
    }
    let all = f64::from(agents + 1);
    stage
        .wait("connecting the agents", Duration::from_secs(300), |metrics| metrics.get("mindos_sessions") >= Some(&all))
        .await?;
    let connected_after = connecting.elapsed();
    tokio::time::sleep(CALM).await;
    let idle = stage.used();
    let watched = std::time::Instant::now();
    say(&format!("watching {agents} idle agents for {seconds} s"));
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    let after = stage.used();
    let watched = watched.elapsed().as_secs_f64();
    let metrics = stage.metrics().await?;
    let result = json!({
        "bench": "streams",
        "agents": agents,
        "tls": tls,
        "processes": workers.len(),
        "sessions_at_the_end": metrics.get("mindos_sessions"),
        "seconds_to_connect": rounded(connected_after.as_secs_f64()),
        "cpu_seconds_to_connect": rounded((idle.cpu - before.cpu).as_secs_f64()),
        "server_rss_before_bytes": before.resident,
        "server_rss_bytes": after.resident,
        "server_rss_peak_bytes": after.resident_peak,
        "rss_per_agent_kib": rounded(after.resident.saturating_sub(before.resident) as f64 / 1024.0 / f64::from(agents)),
        "seconds_watched": rounded(watched),
        "server_cpu_percent_of_a_core": rounded((after.cpu - idle.cpu).as_secs_f64() / watched * 100.0),
        "machine": machine(),
    });
    for worker in workers {
        worker.stop().await?;
    }
    first.stop().await?;
    stage.stop().await;
    render::print_json(&result);
    Ok(())
}

/// A worker with so many agents of one general each.
pub(super) async fn command(stage: &Stage, prefix: &str, agents: u32) -> Result<Vec<String>, Failure> {
    let (url, count) = (&stage.agents, agents.to_string());
    let words =
        ["agent", "--url", url, "--prefix", prefix, "--agents", &count, "--generals", "bench-1", "--slots", "1"];
    let secrets = stage.agent_arguments(agents).await?;
    Ok(words.map(str::to_owned).into_iter().chain(secrets).collect())
}
