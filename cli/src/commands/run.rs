//! `mindos control-plane`, `sidecar`, `cluster-agent` and `injector`: the same as the binaries of their own, in the one that people have.

use clap::Args;
use mindos_agent_sidecar::told_to_end;
use mindos_control_plane::injector::{self, InjectorArgs};
use mindos_control_plane::run::RunError;

use crate::failure::Failure;

/// Settings of `mindos sidecar`.
#[derive(Debug, Args)]
pub(crate) struct SidecarArgs {
    #[command(flatten)]
    config: mindos_agent_sidecar::Config,
    #[command(flatten)]
    logs: mindos_agent_sidecar::logs::LogConfig,
}

/// Runs a sidecar until SIGTERM or SIGINT, then drains it.
pub(crate) fn sidecar(args: SidecarArgs) -> Result<(), Failure> {
    let SidecarArgs { config, logs } = args;
    mindos_agent_sidecar::logs::start(&logs).map_err(|error| Failure::usage(format!("--log: {error}")))?;
    wait(async {
        let shutdown = told_to_end()?;
        mindos_agent_sidecar::run(config, shutdown).await.map_err(|error| Failure::usage(error.to_string()))?;
        Ok(())
    })
}

/// Settings of `mindos cluster-agent`.
#[derive(Debug, Args)]
pub(crate) struct ClusterAgentArgs {
    #[command(flatten)]
    config: mindos_cluster_agent::Config,
    #[command(flatten)]
    logs: mindos_agent_sidecar::logs::LogConfig,
}

/// Runs the agent of a cluster until SIGTERM or SIGINT, then drains it.
pub(crate) fn cluster_agent(args: ClusterAgentArgs) -> Result<(), Failure> {
    let ClusterAgentArgs { config, logs } = args;
    mindos_agent_sidecar::logs::start(&logs).map_err(|error| Failure::usage(format!("--log: {error}")))?;
    wait(async {
        let shutdown = told_to_end()?;
        let chain = |error| mindos_control_plane::logging::Chain(&error).to_string();
        mindos_cluster_agent::run(config, shutdown).await.map_err(|error| Failure::usage(chain(error)))
    })
}

fn wait(run: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run)
}

/// Settings of `mindos control-plane`.
#[derive(Debug, Args)]
pub(crate) struct ControlPlaneArgs {
    #[command(flatten)]
    config: mindos_control_plane::config::Config,
}

/// Runs a control plane until SIGTERM or SIGINT, then drains it.
pub(crate) fn control_plane(args: ControlPlaneArgs) -> Result<(), Failure> {
    let ControlPlaneArgs { config } = args;
    mindos_control_plane::logging::init(config.log_format, &config.log)
        .map_err(|error| Failure::usage(format!("--log: {error}")))?;
    mindos_control_plane::run::run_until_signal(config).map_err(|error| {
        let message = mindos_control_plane::logging::Chain(&error).to_string();
        match &error {
            RunError::Config(_) => Failure::usage(message),
            _ => Failure::world(message),
        }
    })
}

/// Runs an injector until SIGTERM or SIGINT.
pub(crate) fn injector(args: InjectorArgs) -> Result<(), Failure> {
    injector::run_until_signal(args).map_err(|error| {
        let message = mindos_control_plane::logging::Chain(&error).to_string();
        if error.is_usage() { Failure::usage(message) } else { Failure::world(message) }
    })
}
