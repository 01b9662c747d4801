//! `mindos-cluster-agent`: one for a whole cluster.

use anyhow::Context;
use clap::Parser;
use mindos_agent_sidecar::{logs, told_to_end};
use mindos_cluster_agent::{Config, config, run};

/// Works for a whole cluster: finds its generals and brings them their work, watches its objects and runs its Jobs.
#[derive(Debug, Parser)]
#[command(name = "mindos-cluster-agent", version, after_help = config::EXAMPLES)]
struct Args {
    #[command(flatten)]
    config: Config,
    #[command(flatten)]
    logs: logs::LogConfig,
}

fn main() -> anyhow::Result<()> {
    let Args { config, logs } = Args::parse();
    logs::start(&logs).context("--log is not a filter")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("failed to start")?;
    runtime.block_on(async {
        run(config, told_to_end()?).await?;
        Ok(())
    })
}
