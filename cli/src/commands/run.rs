//! `mindos control-plane`, `sidecar`, `cluster-agent`, `injector` and `general`: the same as the binaries of their own, in the one that
//! people have.

use std::error::Error;

use clap::Args;
use mindos_agent_sidecar::told_to_end;
use mindos_control_plane::injector::{self, InjectorArgs};
use mindos_control_plane::run::RunError;
use mindos_generals::coding::SetupError;
use mindos_generals::options::StartError;
use mindos_model::NameError;
use mindos_sdk::IdentityError;
use mindos_sdk::agent::AgentError;

use crate::failure::Failure;
use crate::site::chain;

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
        let ended = mindos_agent_sidecar::run(config, shutdown).await;
        ended.map(drop).map_err(|error| failure(&error, sidecar_is_usage(&error)))
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
        let ended = mindos_cluster_agent::run(config, shutdown).await;
        ended.map_err(|error| failure(&error, cluster_agent_is_usage(&error)))
    })
}

/// Runs a general until SIGTERM or SIGINT, or once as a command.
pub(crate) fn general(options: mindos_generals::options::Options) -> Result<(), Failure> {
    mindos_generals::options::start(options).map_err(|error| failure(&error, general_is_usage(&error)))
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
    mindos_control_plane::run::run_until_signal(config).map_err(|error| failure(&error, control_plane_is_usage(&error)))
}

/// Runs an injector until SIGTERM or SIGINT.
pub(crate) fn injector(args: InjectorArgs) -> Result<(), Failure> {
    injector::run_until_signal(args).map_err(|error| failure(&error, error.is_usage()))
}

/// A failure with all that it came from: of the command line where other settings would have helped, else of the world.
fn failure(error: &(dyn Error + 'static), is_usage: bool) -> Failure {
    if is_usage { Failure::usage(chain(error)) } else { Failure::world(chain(error)) }
}

/// Whether other settings would have helped: other words, or another file where one that they name cannot be read. A port, or a place to
/// write to, that is not to be had is the world's.
fn control_plane_is_usage(error: &RunError) -> bool {
    use mindos_control_plane::tls::server_config::TlsError;
    use mindos_control_plane::upkeep::UpkeepError;
    match error {
        RunError::Config(_) | RunError::NoSources | RunError::NoPlatformSources => true,
        RunError::Upkeep(error) => matches!(error, UpkeepError::Settings(_)),
        RunError::Tls(error) => !matches!(error, TlsError::Authority(_)),
        RunError::Store(_)
        | RunError::Listen { .. }
        | RunError::Thread(_)
        | RunError::Services(_)
        | RunError::Journal { .. } => false,
    }
}

fn sidecar_is_usage(error: &mindos_agent_sidecar::RunError) -> bool {
    use mindos_agent_sidecar::RunError;
    match error {
        RunError::Config(_) | RunError::Joining(_) => true,
        RunError::Listen { .. } => false,
        RunError::Agent(error) => agent_is_usage(error),
    }
}

fn cluster_agent_is_usage(error: &mindos_cluster_agent::RunError) -> bool {
    use mindos_cluster_agent::RunError;
    match error {
        RunError::Config(_) | RunError::Joining(_) | RunError::Runs(_) | RunError::Kube { .. } => true,
        RunError::Listen { .. } | RunError::Part(_) => false,
        RunError::Identity(error) => identity_is_usage(error),
        RunError::Address(_) => true,
    }
}

fn general_is_usage(error: &StartError) -> bool {
    match error {
        StartError::Profile(_) | StartError::ReadProfile { .. } | StartError::Log(_) | StartError::Models(_) => true,
        StartError::Coding(error) => !matches!(error, SetupError::Program(_)),
        StartError::Run(_) | StartError::Command(_) | StartError::Runtime(_) => false,
        // What it is has no name out here, but what it came from has.
        StartError::Stream(error) => match error.source() {
            None => true,
            Some(source) => match source.downcast_ref::<AgentError>() {
                Some(error) => agent_is_usage(error),
                None => source.is::<NameError>(),
            },
        },
    }
}

fn agent_is_usage(error: &AgentError) -> bool {
    match error {
        AgentError::Config(_) | AgentError::Address(_) => true,
        AgentError::Identity(error) => identity_is_usage(error),
    }
}

fn identity_is_usage(error: &IdentityError) -> bool {
    match error {
        IdentityError::Address(_)
        | IdentityError::Tls(_)
        | IdentityError::InClear { .. }
        | IdentityError::Api { .. } => true,
        IdentityError::Kept(_) | IdentityError::Key(_) => false,
    }
}
