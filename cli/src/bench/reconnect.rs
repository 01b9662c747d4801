//! A fleet that comes back at once: the control plane is killed and started again, and all agents dial it.

use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;

use super::compare::machine;
use super::histogram::Latencies;
use super::stage::{Data, Stage, free_port};
use super::streams::{AGENTS_PER_WORKER, command};
use super::worker::Worker;
use super::{StageArgs, rounded, say};
use crate::failure::Failure;
use crate::render;

/// How long all agents may take to be there.
const CONNECT_WITHIN: Duration = Duration::from_secs(600);
/// How long the control plane stays away, so that every agent has noticed.
const AWAY: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, Args)]
pub(crate) struct ReconnectArgs {
    /// Agents, each with a connection and a certificate of its own.
    #[arg(long, default_value_t = 5000)]
    agents: u32,
    /// Events a second that are published once the control plane is back.
    #[arg(long, default_value_t = 200.0)]
    rate: f64,
    /// For how long.
    #[arg(long, default_value_t = 40.0)]
    seconds: f64,
    /// Without TLS.
    #[arg(long)]
    clear: bool,
    #[command(flatten)]
    stage: StageArgs,
}

pub(super) async fn run(args: ReconnectArgs) -> Result<(), Failure> {
    let ReconnectArgs { agents, rate, seconds, clear, stage: stage_args } = args;
    let data = Data::new(&stage_args)?;
    let extra = &stage_args.control_plane_args;
    let (api, port) = (free_port()?, free_port()?);
    let mut stage = start(&data, extra, (api, port), clear).await?;
    stage.route(&[("bench", vec!["bench-1".to_owned()])]).await?;
    let (mut workers, mut left) = (Vec::new(), agents);
    while left > 0 {
        let some = left.min(AGENTS_PER_WORKER);
        left -= some;
        let name = format!("w{}", workers.len());
        say(&format!("{some} agents in another process"));
        workers.push(Worker::start(&name, &command(&stage, &name, some).await?).await?);
    }
    let all = f64::from(agents);
    let connected = |metrics: &std::collections::BTreeMap<String, f64>| metrics.get("mindos_sessions") >= Some(&all);
    stage.wait("connecting the agents", CONNECT_WITHIN, connected).await?;

    stage.kill().await;
    tokio::time::sleep(AWAY).await;
    say("starting it again");
    let begun = Instant::now();
    let mut stage = start(&data, extra, (api, port), clear).await?;
    let ready = begun.elapsed();
    let publish = [
        ["publish", "--url", &stage.api].map(str::to_owned).to_vec(),
        ["--unary", "--rate", &rate.to_string(), "--seconds", &seconds.to_string()].map(str::to_owned).to_vec(),
        stage.publisher_arguments(),
    ]
    .concat();
    let mut publisher = Worker::start("publisher", &publish).await?;
    publisher.tell("go").await?;
    let metrics = stage.wait("the agents' return", CONNECT_WITHIN, connected).await?;
    let back = begun.elapsed();
    let used = stage.used();
    let handshakes = metrics.get("mindos_tls_handshakes_total").copied();
    let done = publisher.expect("done", Duration::from_secs_f64(seconds + 120.0)).await?;
    let mut latencies = Latencies::new();
    latencies.add_pairs(&done["latencies"]);
    publisher.stop().await?;
    for worker in workers {
        worker.stop().await?;
    }
    stage.stop().await;
    render::print_json(&json!({
        "bench": "reconnect",
        "tls": !clear,
        "agents": agents,
        "seconds_until_ready": rounded(ready.as_secs_f64()),
        "seconds_until_all_are_back": rounded(back.as_secs_f64()),
        "handshakes": handshakes,
        "handshakes_per_second": handshakes.map(|all| rounded(all / (back - ready).as_secs_f64().max(0.001))),
        "server_cpu_seconds": rounded(used.cpu.as_secs_f64()),
        "server_rss_peak_bytes": used.resident_peak,
        "events_per_second_wanted": rate,
        "published": done["accepted"],
        "refused": done["refused"],
        "last_error": done["last_error"],
        "publish_latency": latencies.to_json(),
        "machine": machine(),
    }));
    Ok(())
}

async fn start(data: &Data, extra: &[String], ports: (u16, u16), clear: bool) -> Result<Stage, Failure> {
    let (api, agents) = ports;
    if clear {
        return Stage::start_on(&data.path, extra, api, agents).await;
    }
    Stage::start_secure(&data.path, extra, api, agents).await
}
