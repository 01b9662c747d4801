//! `mindos bench`: measurements with real processes, as one JSON object on standard output.
//!
//! ```text
//!   bench -+- control plane      on a data directory of its own
//!          +- publishers         `mindos bench worker publish`
//!          +- agents             `mindos bench worker agent`
//! ```
//! Invariant: the server is measured from outside (its `/proc` entry, its metrics, what its clients see), and the load
//! generators report what they used themselves.

mod agent;
mod compare;
mod delay;
mod event;
mod explain;
mod fanout;
mod histogram;
#[cfg(feature = "nats")]
mod nats;
mod publisher;
mod reconnect;
mod recovery;
mod stage;
mod streams;
mod webhooks;
mod worker;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::failure::Failure;
use crate::options::Global;
use crate::render;

pub(crate) const EXAMPLES: &str = "\
Examples:
  mindos bench fanout --seconds 10
  mindos bench latency
  mindos bench publish --in-flight 64
  mindos bench streams --agents 10000
  mindos bench reconnect --agents 5000
  mindos bench recovery --pending 1000000 --lanes 100000 --records 2000000
  mindos bench delay
  mindos bench explain --events 1000000
  mindos bench webhooks --payloads tests/data/github-webhooks

Build with --release first: a debug build measures the compiler. The result is one JSON object on standard output.";

const FANOUT_EXAMPLES: &str = "\
Examples:
  mindos bench fanout
  mindos bench fanout --seconds 30 --publishers 2 --streams 2 --slots 4096
  mindos bench fanout --tls                (the same over mutual TLS)
  mindos bench fanout --rate 5000          (open loop: latency from the due time)
  mindos bench fanout --routes 1000        (950 of them for other kinds)
  mindos bench fanout --against nats --nats-server ./nats-server --rounds 5

Each event has 1 KiB that cannot be compressed and leads to 3 deliveries, each on a lane of its own and settled with a result
of 100 bytes. Measured is until all are settled.";
const LATENCY_EXAMPLES: &str = "\
Examples:
  mindos bench latency
  mindos bench latency --rates 1000,5000 --seconds 20
  mindos bench latency --against nats --nats-server ./nats-server";
const PUBLISH_EXAMPLES: &str = "\
Examples:
  mindos bench publish
  mindos bench publish --in-flight 256 --seconds 20";
const STREAMS_EXAMPLES: &str = "\
Examples:
  mindos bench streams --agents 10000
  mindos bench streams --agents 2000 --seconds 60
  mindos bench streams --agents 10000 --tls          (each with a certificate of its own)";
const RECONNECT_EXAMPLES: &str = "\
Examples:
  mindos bench reconnect --agents 5000
  mindos bench reconnect --agents 500 --rate 100 --seconds 60
  mindos bench reconnect --agents 5000 --clear       (without TLS)";
const RECOVERY_EXAMPLES: &str = "\
Examples:
  mindos bench recovery --pending 1000000 --lanes 100000 --records 2000000
  mindos bench recovery --pending 10000 --lanes 1000 --records 20000";
const DELAY_EXAMPLES: &str = "\
Examples:
  mindos bench delay
  mindos bench delay --round-trip 100ms --slots 256 --seconds 20";

const EXPLAIN_EXAMPLES: &str = "\
Examples:
  mindos bench explain --events 1000000
  mindos bench explain --events 200000 --payload 8192";

const WEBHOOKS_EXAMPLES: &str = "\
Examples:
  mindos bench webhooks --payloads tests/data/github-webhooks
  mindos bench webhooks --payloads tests/data/github-webhooks --rate 1000 --seconds 20";

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Events to three generals each, until all is settled.
    #[command(after_help = FANOUT_EXAMPLES)]
    Fanout(fanout::FanoutArgs),
    /// Open loop at several rates: from the due time to the receipt at the agent.
    #[command(after_help = LATENCY_EXAMPLES)]
    Latency(fanout::LatencyArgs),
    /// Durable publishes one by one, many in flight.
    #[command(after_help = PUBLISH_EXAMPLES)]
    Publish(fanout::PublishArgs),
    /// Idle agents, each with a connection of its own: memory and CPU.
    #[command(after_help = STREAMS_EXAMPLES)]
    Streams(streams::StreamsArgs),
    /// A control plane that is killed and started again: until all agents are back, and publishes meanwhile.
    #[command(after_help = RECONNECT_EXAMPLES)]
    Reconnect(reconnect::ReconnectArgs),
    /// From the start of a process with much pending to its first assignment.
    #[command(after_help = RECOVERY_EXAMPLES)]
    Recovery(recovery::RecoveryArgs),
    /// A long way between agent and control plane.
    #[command(after_help = DELAY_EXAMPLES)]
    Delay(delay::DelayArgs),
    /// A table with conditions, tried on many stored events.
    #[command(after_help = EXPLAIN_EXAMPLES)]
    Explain(explain::ExplainArgs),
    /// Webhooks over HTTP at a rate: from the due time to the durable answer.
    #[command(after_help = WEBHOOKS_EXAMPLES)]
    Webhooks(webhooks::WebhooksArgs),
    /// A load generator; started by the others.
    #[command(hide = true, subcommand, after_help = "Examples:\n  mindos bench worker agent --help")]
    Worker(worker::WorkerCommand),
}

/// Where and how a bench runs its control plane.
#[derive(Clone, Debug, Args)]
pub(crate) struct StageArgs {
    /// Directory for data; unset is a temporary one that is removed at the end.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// An argument for the control plane, such as --control-plane-arg=--net-threads=2; may be given several times.
    #[arg(long = "control-plane-arg", value_name = "ARG", allow_hyphen_values = true)]
    control_plane_args: Vec<String>,
    /// Keep the data directory.
    #[arg(long)]
    keep: bool,
}

pub(crate) async fn run(command: BenchCommand, _global: &Global) -> Result<(), Failure> {
    match command {
        BenchCommand::Fanout(args) => fanout::fanout(args).await,
        BenchCommand::Latency(args) => fanout::latency(args).await,
        BenchCommand::Publish(args) => fanout::publish(args).await,
        BenchCommand::Streams(args) => streams::run(args).await,
        BenchCommand::Reconnect(args) => reconnect::run(args).await,
        BenchCommand::Recovery(args) => recovery::run(args).await,
        BenchCommand::Delay(args) => delay::run(args).await,
        BenchCommand::Explain(args) => explain::run(args).await,
        BenchCommand::Webhooks(args) => webhooks::run(args).await,
        BenchCommand::Worker(command) => worker::run(command).await,
    }
}

/// Nanoseconds of the clock that all processes of the machine share.
fn clock_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// A line about what is being done, on standard error.
fn say(text: &str) {
    render::say(&format!("bench: {text}"));
}

/// Rounded for people; three digits behind the point.
fn rounded(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}
