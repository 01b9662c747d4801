//! `mindos-sidecar`: brings work from the control plane to the generals beside it.

use anyhow::Context;
use clap::Parser;
use mindos_agent_sidecar::{Config, logs, run, told_to_end};

/// Brings work from the Mind OS control plane to the generals beside it.
#[derive(Debug, Parser)]
#[command(name = "mindos-sidecar", version, after_help = EXAMPLES)]
struct Args {
    #[command(flatten)]
    config: Config,
    #[command(flatten)]
    logs: logs::LogConfig,
}

const EXAMPLES: &str = "\
Examples:
  Beside one general that serves HTTP:
    mindos-sidecar --cluster prod-us --general type=security-general,slots=4,url=http://127.0.0.1:8080

  Two generals, one of them a command that gets the event as JSON on standard input:
    mindos-sidecar --control-plane http://10.0.0.5:8091 --cluster dev --region eu-west-1 \\
      --general type=triage-general,slots=2,url=http://127.0.0.1:8080 \\
      --general \"type=metrics-general,command=jq -c '{id, subject}'\"

  Over the internet, joining once with a token; the key stays in a directory:
    MINDOS_JOIN_TOKEN=mindos_join_... mindos-sidecar --control-plane https://mindos.example.com:8091 --ca ca.pem \\
      --cluster prod-us --identity-dir /var/lib/mindos --general type=security-general,slots=4,url=http://127.0.0.1:8080

  In Kubernetes, by the pod's own identity:
    mindos-sidecar --control-plane https://mindos.example.com:8091 --ca-sha256 3f..e1 --cluster prod-us --namespace agents \\
      --service-account-token /var/run/secrets/mindos/token --ready-listen 0.0.0.0:8092 \\
      --general type=security-general,slots=4,url=http://127.0.0.1:8080

A sidecar with several generals joins as an agent of its cluster. With SPIFFE_ENDPOINT_SOCKET set and no token given, certificates come
from the SPIFFE Workload API.

SIGTERM and SIGINT drain: no new work, what runs may finish, the rest is handed back.";

fn main() -> anyhow::Result<()> {
    let Args { config, logs } = Args::parse();
    logs::start(&logs).context("--log is not a filter")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("failed to start")?;
    runtime.block_on(async {
        run(config, told_to_end()?).await?;
        Ok(())
    })
}
