//! The command line of `mindos`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use mindos_model::TenantName;

use crate::commands::{
    agents, auth, authority, budgets, contexts as context_commands, deliveries, effects, events, feedback, fleet,
    import, install, issuers, journal, ledger, quotas, replay, roles, routes, run, send, sinks, task, tasks, tokens,
};
use crate::contexts;
use crate::render::Output;
use crate::{bench, top, up};

/// The control plane for fleets of LLM agents, in one command.
#[derive(Debug, Parser)]
#[command(name = "mindos", version, propagate_version = true, after_help = AFTER_HELP, max_term_width = 110)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const AFTER_HELP: &str = "\
Examples:
  mindos up                                       a control plane and two clusters of generals, with a live view
  mindos up --ephemeral --replay ./payloads       publish a folder of GitHub webhooks, wait, sum up, end
  mindos send --type com.example.hello --source /me --data '{\"text\":\"hi\"}' --wait
  mindos deliveries list --status parked
  mindos ledger verify

Exit codes:
  0  done
  1  a failure of the world: nothing answers, a port is taken, a process died
  2  the command line is wrong, or a file that it or the settings name cannot be read
  3  the control plane refused it
  4  what was named is not there
  5  verification failed: damage was found, or work was left unsettled";

/// What every command understands.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// Address of the control plane's API, `https://HOST:PORT`, or `http://HOST:PORT` in the clear. [default: that of the context, else
    /// http://127.0.0.1:8090]
    #[arg(long, visible_alias = "server", global = true, env = "MINDOS_SERVER", value_name = "URL")]
    pub(crate) endpoint: Option<String>,
    /// Context of `mindos contexts` that says where and as whom to call. [default: the current one]
    #[arg(long, global = true, env = "MINDOS_CONTEXT", value_name = "NAME", value_parser = contexts::name)]
    pub(crate) context: Option<String>,
    /// File of certificates (PEM) that vouch for the control plane. [default: that of the context, else whom the machine trusts]
    #[arg(long, global = true, env = "MINDOS_CA", value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// File with the token to call with; the variable MINDOS_TOKEN may hold one too. [default: that of the context]
    #[arg(long, global = true, env = "MINDOS_TOKEN_FILE", value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Tenant to call for, for those who have roles in several. [default: that of the context]
    #[arg(long, global = true, env = "MINDOS_TENANT", value_name = "TENANT")]
    pub(crate) tenant: Option<TenantName>,
    /// How results are printed.
    #[arg(long, short, global = true, env = "MINDOS_OUTPUT", default_value = "table", value_enum)]
    pub(crate) output: Output,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run everything on this machine: a control plane, clusters of generals, and a sidecar beside each.
    #[command(after_help = up::EXAMPLES)]
    Up(up::UpArgs),
    /// Run a control plane.
    #[command(after_help = CONTROL_PLANE_EXAMPLES)]
    ControlPlane(Box<run::ControlPlaneArgs>),
    /// Run a sidecar: one agent beside one or more generals.
    #[command(after_help = SIDECAR_EXAMPLES)]
    Sidecar(Box<run::SidecarArgs>),
    /// Run the agent of a whole cluster: it finds generals that have no sidecar and brings them their work.
    #[command(after_help = mindos_cluster_agent::config::EXAMPLES)]
    ClusterAgent(Box<run::ClusterAgentArgs>),
    /// Run the injector: it gives pods of Kubernetes that are generals their sidecars, when they are made.
    #[command(after_help = mindos_control_plane::injector::EXAMPLES)]
    Injector(Box<mindos_control_plane::injector::InjectorArgs>),
    /// Run one general.
    #[command(after_help = GENERAL_EXAMPLES)]
    General(Box<mindos_generals::options::Options>),
    /// Publish an event, and wait for its results if asked to.
    #[command(after_help = send::EXAMPLES)]
    Send(send::SendArgs),
    /// Work on past events again, by a general of your choice, and compare the results.
    #[command(after_help = replay::EXAMPLES, disable_version_flag = true)]
    Replay(Box<replay::ReplayArgs>),
    /// Say what became of a result.
    #[command(after_help = feedback::EXAMPLES)]
    Feedback(feedback::FeedbackArgs),
    /// Look at events.
    #[command(subcommand, after_help = events::EXAMPLES)]
    Events(events::EventsCommand),
    /// Look at deliveries, cancel them, put parked ones back.
    #[command(subcommand, after_help = deliveries::EXAMPLES)]
    Deliveries(deliveries::DeliveriesCommand),
    /// Look at what generals want done outside, try again what failed, cancel it.
    #[command(subcommand, after_help = effects::EXAMPLES)]
    Effects(effects::EffectsCommand),
    /// Ask for plans, changes and refinements of code on GitHub, and look after them.
    #[command(subcommand, after_help = tasks::EXAMPLES)]
    Tasks(tasks::TasksCommand),
    /// Have code or documentation worked on by an agent in a Job of a cluster, and look after such runs.
    #[command(after_help = task::EXAMPLES)]
    Task(Box<task::TaskArgs>),
    /// Look at generals and hold work back from them.
    #[command(subcommand, after_help = fleet::GENERALS_EXAMPLES)]
    Generals(fleet::GeneralsCommand),
    /// Look at clusters and hold work back from them.
    #[command(subcommand, after_help = fleet::CLUSTERS_EXAMPLES)]
    Clusters(fleet::ClustersCommand),
    /// Look at instances and hold work back from them.
    #[command(subcommand, after_help = fleet::INSTANCES_EXAMPLES)]
    Instances(fleet::InstancesCommand),
    /// Read, replace, pause and resume the routes.
    #[command(subcommand, after_help = routes::EXAMPLES)]
    Routes(routes::RoutesCommand),
    /// Limit what may be spent, and see what was.
    #[command(subcommand, after_help = budgets::EXAMPLES)]
    Budgets(budgets::BudgetsCommand),
    /// Look at where results leave to.
    #[command(subcommand, after_help = sinks::EXAMPLES)]
    Sinks(sinks::SinksCommand),
    /// Take over the configuration of an earlier system.
    #[command(after_help = import::EXAMPLES)]
    Import(import::ImportArgs),
    /// Read the ledger and verify its hash chain.
    #[command(subcommand, after_help = ledger::EXAMPLES)]
    Ledger(ledger::LedgerCommand),
    /// Look into the journal of a data directory, and cut its end off.
    #[command(subcommand, after_help = journal::EXAMPLES)]
    Journal(journal::JournalCommand),
    /// Copy the journal of a data directory, also while a control plane writes it.
    #[command(after_help = journal::BACKUP_EXAMPLES)]
    Backup(journal::BackupArgs),
    /// Make a data directory from a backup; the next start raises the epoch.
    #[command(after_help = journal::RESTORE_EXAMPLES)]
    Restore(journal::RestoreArgs),
    /// Steps of an upgrade.
    #[command(subcommand, after_help = journal::UPGRADE_EXAMPLES)]
    Upgrade(journal::UpgradeCommand),
    /// Sign in, and see who you are and what you may do.
    #[command(subcommand, after_help = auth::EXAMPLES)]
    Auth(auth::AuthCommand),
    /// Choose among control planes.
    #[command(subcommand, after_help = context_commands::EXAMPLES)]
    Contexts(context_commands::ContextsCommand),
    /// Make and end tokens: for agents to join, for programs to call.
    #[command(subcommand, after_help = tokens::EXAMPLES)]
    Tokens(tokens::TokensCommand),
    /// Say who may do what.
    #[command(subcommand, after_help = roles::EXAMPLES)]
    Roles(roles::RolesCommand),
    /// Let pods join by the service account tokens of their cluster.
    #[command(subcommand, after_help = issuers::EXAMPLES)]
    Issuers(issuers::IssuersCommand),
    /// Turn agents away, and let them in again.
    #[command(subcommand, after_help = agents::EXAMPLES)]
    Agents(agents::AgentsCommand),
    /// Limit what tenants may use.
    #[command(subcommand, after_help = quotas::EXAMPLES)]
    Quotas(quotas::QuotasCommand),
    /// What a Kubernetes cluster needs: printed, or applied with kubectl.
    #[command(after_help = install::EXAMPLES)]
    Install(Box<install::InstallArgs>),
    /// Look after the keys that sign certificates and the ledger.
    #[command(subcommand, after_help = authority::EXAMPLES)]
    Authority(authority::AuthorityCommand),
    /// Watch the fleet and its work, full screen.
    #[command(after_help = top::EXAMPLES)]
    Top(top::TopArgs),
    /// Measure.
    #[command(subcommand, after_help = bench::EXAMPLES)]
    Bench(bench::BenchCommand),
    /// Print a completion script for a shell.
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions(CompletionsArgs),
}

/// Arguments of `completions`.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// For which shell.
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

const CONTROL_PLANE_EXAMPLES: &str = "\
Examples:
  mindos control-plane --data-dir ./data
  mindos control-plane --data-dir ./data --listen 127.0.0.1:8090 --agent-listen 127.0.0.1:8091 --log-format json
  MINDOS_GITHUB_SECRET=... mindos control-plane --data-dir ./data      (takes webhooks at /webhooks/github)

SIGTERM and SIGINT drain it: nothing that was answered is lost.";
const SIDECAR_EXAMPLES: &str = "\
Examples:
  mindos sidecar --cluster eu --general type=security-general,slots=4,url=http://127.0.0.1:8080
  mindos sidecar --cluster eu --general \"type=metrics-general,command=jq -c '{id, subject}'\"
  MINDOS_JOIN_TOKEN=mindos_join_... mindos sidecar --control-plane https://mindos.example.com:8091 --ca ca.pem \\
    --cluster eu --identity-dir ./identity --general type=security-general,url=http://127.0.0.1:8080

SIGTERM and SIGINT drain it: no new work, what runs may finish, the rest is handed back.";
const GENERAL_EXAMPLES: &str = "\
Examples:
  mindos general --type security-general --listen 127.0.0.1:8080
  mindos general --type triage-general --stdin < event.json
  OPENAI_API_KEY=... mindos general --type code-review-general --model openai:gpt-4o-mini
  mindos general --profile my-general.json --control-plane https://mindos.example.com:8091 --ca ca.pem --cluster eu --instance mine-0 \\
    --slots 8";
const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  mindos completions bash > ~/.local/share/bash-completion/completions/mindos
  mindos completions zsh > \"${fpath[1]}/_mindos\"
  mindos completions fish > ~/.config/fish/completions/mindos.fish";
