//! `mindos up`: everything on one machine, as real processes that speak over loopback as in production.
//!
//! ```text
//!   up -+- control-plane
//!       +- eu/triage-general     <-- HTTP -- eu/triage-general-sidecar  == stream ==> control-plane
//!       +- ... 11 generals and sidecars a cluster
//! ```
//! Invariant: no process outlives `up`, however `up` ends.

pub(crate) mod github;
mod plan;
mod replay;
mod summary;
mod supervisor;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use mindos_proto::fleet::v1::{FleetFilter, Liveness};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::client::Client;
use crate::commands::filter::span;
use crate::commands::fleet::all_generals;
use crate::commands::send::random_id;
use crate::failure::Failure;
use crate::options::Global;
use crate::render::{self, Progress};
use crate::site::Site;
use crate::top;
use crate::web::Web;

use plan::{ClusterSpec, Part, Plan, Wishes};
use supervisor::{Notices, Supervisor};

pub(crate) const EXAMPLES: &str = "\
Examples:
  mindos up
  mindos up --clusters eu=eu-west-1,us=us-east-1,lab --slots 8
  mindos up --ephemeral --replay ./tests/data/github-webhooks
  mindos up --ephemeral --replay ./payloads --output json | jq .by_outcome
  mindos up --port 0 --agent-port 0 --generals-port 0 --output json    (free ports; they are printed)

On a terminal it shows the live view of `mindos top`, elsewhere a line for everything that happens to a process. The logs
of the processes stand in DATA_DIR/logs, their process ids in DATA_DIR/pids. With --replay the exit code is 0 only if every
delivery settled and the ledger verifies.";

/// How long the control plane may take to be ready, replaying a long journal included.
const READY_WITHIN: Duration = Duration::from_secs(180);
/// How long the generals may take to be connected after that.
const CONNECTED_WITHIN: Duration = Duration::from_secs(90);
/// How often it is looked whether something is ready.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// Clusters to start, as NAME or NAME=REGION.
    #[arg(long, value_delimiter = ',', default_value = "eu=eu-west-1,us=us-east-1", value_name = "NAMES")]
    clusters: Vec<ClusterSpec>,
    /// Where everything is kept; unset is `mindos` in the user's state directory.
    #[arg(long, env = "MINDOS_DATA_DIR", value_name = "DIR", conflicts_with = "ephemeral")]
    data_dir: Option<PathBuf>,
    /// Keep everything in a temporary directory and remove it at the end.
    #[arg(long)]
    ephemeral: bool,
    /// Port of the API; 0 takes a free one.
    #[arg(long, default_value_t = 8090)]
    port: u16,
    /// Port for agents; 0 takes a free one.
    #[arg(long, default_value_t = 8091)]
    agent_port: u16,
    /// First port of the generals, taken ones are skipped; 0 takes free ones anywhere.
    #[arg(long, default_value_t = 8100)]
    generals_port: u16,
    /// How many deliveries each general works on at a time.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    slots: u32,
    /// Publish the GitHub webhooks of this folder (`<event>.<action>.json`), wait until all is settled, sum up, end.
    #[arg(long, value_name = "FOLDER")]
    replay: Option<PathBuf>,
    /// Give the webhooks other delivery ids, so that a folder replayed before is not recognised.
    #[arg(long, requires = "replay")]
    fresh_ids: bool,
    /// How long a replay may take to settle.
    #[arg(long, default_value = "5m", value_parser = span, value_name = "SPAN")]
    timeout: Duration,
    /// Go on after the replay instead of ending.
    #[arg(long, requires = "replay")]
    keep: bool,
    /// Secret of the GitHub webhooks; unset generates one for this run.
    #[arg(long, env = "MINDOS_GITHUB_SECRET", hide_env_values = true, value_name = "SECRET")]
    github_secret: Option<String>,
    /// Lines instead of the live view, also on a terminal.
    #[arg(long)]
    plain: bool,
    /// What the processes log, such as `info` or `debug`.
    #[arg(long, default_value = "info", value_name = "FILTER")]
    log: String,
    /// An argument for the control plane, such as --control-plane-arg=--lane-backlog-max=1000; may be given several times.
    #[arg(long = "control-plane-arg", value_name = "ARG", allow_hyphen_values = true)]
    control_plane_args: Vec<String>,
}

/// Where a run keeps its files; a temporary one goes with it.
#[derive(Debug)]
struct DataDir {
    path: PathBuf,
    ephemeral: bool,
}

impl DataDir {
    fn new(wanted: Option<PathBuf>, ephemeral: bool) -> Result<DataDir, Failure> {
        let path = match wanted {
            Some(path) => path,
            None if ephemeral => std::env::temp_dir().join(format!("mindos-{}", &random_id()?[..12])),
            None => state_directory()?,
        };
        std::fs::create_dir_all(&path)
            .map_err(|error| Failure::world(format!("cannot make {}: {error}", path.display())))?;
        let path = path.canonicalize()?;
        Ok(DataDir { path, ephemeral })
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        if self.ephemeral {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

fn state_directory() -> Result<PathBuf, Failure> {
    let state = std::env::var_os("XDG_STATE_HOME").filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    let state =
        state.or_else(home).ok_or_else(|| Failure::usage("HOME is not set: name a directory with --data-dir"))?;
    Ok(state.join("mindos"))
}

/// Runs everything until it is told to end. Must run on the main thread.
pub(crate) async fn run(args: UpArgs, global: &Global) -> Result<(), Failure> {
    let UpArgs {
        clusters,
        data_dir,
        ephemeral,
        port,
        agent_port,
        generals_port,
        slots,
        replay,
        fresh_ids,
        timeout,
        keep,
        github_secret,
        plain,
        log,
        control_plane_args,
    } = args;
    let salt = if fresh_ids { random_id()? } else { String::new() };
    // A folder that cannot be read ends the run before anything is started.
    let webhooks = replay.as_deref().map(|folder| github::read_folder(folder, &salt)).transpose()?;
    let data_dir = DataDir::new(data_dir, ephemeral)?;
    let secret = match github_secret {
        Some(secret) => secret,
        None => random_id()?,
    };
    let plan = Plan::new(&Wishes {
        clusters: &clusters,
        data_dir: &data_dir.path,
        port,
        agent_port,
        generals_port,
        slots,
        secret: &secret,
        log: &log,
        control_plane_args: &control_plane_args,
    })?;
    let live = !plain && !global.output.is_json() && std::io::stdout().is_terminal() && webhooks.is_none();
    let notices = Notices::new(live);
    let mut supervisor = Supervisor::new(notices.clone());
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let result = tokio::select! {
        result = work(&plan, &data_dir, &mut supervisor, &notices, webhooks, Job { secret, timeout, keep, live }, global) => result,
        () = first_of(&mut terminate, &mut interrupt) => Ok(()),
    };
    if !live {
        notices.say("ending: sidecars hand back what they have, then everything stops".to_owned());
    }
    supervisor.stop(async { first_of(&mut terminate, &mut interrupt).await }).await;
    result
}

/// Waits for either signal.
async fn first_of(one: &mut tokio::signal::unix::Signal, other: &mut tokio::signal::unix::Signal) {
    tokio::select! {
        _ = one.recv() => {}
        _ = other.recv() => {}
    }
}

/// What is to be done once all is up.
#[derive(Debug)]
struct Job {
    secret: String,
    timeout: Duration,
    keep: bool,
    live: bool,
}

async fn work(
    plan: &Plan,
    data_dir: &DataDir,
    supervisor: &mut Supervisor,
    notices: &Notices,
    webhooks: Option<Vec<github::Webhook>>,
    job: Job,
    global: &Global,
) -> Result<(), Failure> {
    let Job { secret, timeout, keep, live } = job;
    let started = Instant::now();
    notices.say(format!("starting {} processes, data in {}", plan.processes.len(), data_dir.path.display()));
    supervisor.start(&plan.processes, Part::ControlPlane);
    supervisor.start(&plan.processes, Part::General);
    control_plane_ready(plan, data_dir).await?;
    notices.say(format!("control plane ready at {} after {} ms", plan.server, started.elapsed().as_millis()));
    supervisor.start(&plan.processes, Part::Sidecar);
    let client = Client::lazy(&Site::plain(&plan.server))?;
    if live {
        return top::view(&plan.server, &|| notices.last()).await;
    }
    all_connected(plan, &client).await?;
    let count = plan.generals.len();
    notices.say(format!("{count} generals connected after {} ms", started.elapsed().as_millis()));
    let Some(webhooks) = webhooks else {
        if global.output.is_json() {
            render::print_json_line(&json!({
                "ready": true,
                "server": plan.server,
                "data_dir": data_dir.path,
                "generals": count,
                "milliseconds": started.elapsed().as_millis() as u64,
            }));
        } else {
            notices.say("ready; end it with Ctrl-C".to_owned());
        }
        return std::future::pending().await;
    };
    let outcome = replay::run(&client, &plan.server, &webhooks, &secret, timeout).await?;
    let summary = summary::Summary::new(&outcome, notices.restarts(), started.elapsed());
    if global.output.is_json() {
        render::print_json(&summary.to_json());
    } else {
        render::print(&summary.to_text());
    }
    let result = summary.into_result();
    if keep {
        return std::future::pending().await;
    }
    result
}

async fn control_plane_ready(plan: &Plan, data_dir: &DataDir) -> Result<(), Failure> {
    let mut web = Web::new(&Site::plain(&plan.server))?;
    let deadline = Instant::now() + READY_WITHIN;
    let mut progress = Progress::new();
    loop {
        if let Ok((status, _)) = web.get("/readyz").await
            && status.is_success()
        {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let log = data_dir.path.join("logs/control-plane.log");
            return Err(Failure::world(format!("the control plane was not ready within {} s", READY_WITHIN.as_secs()))
                .hint(format!("its log is {}", log.display())));
        }
        progress.show("waiting for the control plane");
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

async fn all_connected(plan: &Plan, client: &Client) -> Result<(), Failure> {
    let deadline = Instant::now() + CONNECTED_WITHIN;
    let mut progress = Progress::new();
    loop {
        let filter = FleetFilter { liveness: vec![Liveness::Connected.into()], ..Default::default() };
        let connected = all_generals(client, filter).await.unwrap_or_default();
        let is_up = |(cluster, name): &&(String, String)| {
            connected.iter().any(|general| general.cluster == *cluster && general.name == *name && general.slots > 0)
        };
        let up = plan.generals.iter().filter(is_up).count();
        if up == plan.generals.len() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let missing: Vec<String> = plan
                .generals
                .iter()
                .filter(|general| !is_up(general))
                .map(|(cluster, name)| format!("{cluster}/{name}"))
                .collect();
            return Err(Failure::world(format!(
                "not connected within {} s: {}",
                CONNECTED_WITHIN.as_secs(),
                missing.join(", ")
            ))
            .hint("their logs and those of their sidecars are in the folder logs of the data directory"));
        }
        progress.show(&format!("{up} of {} generals connected", plan.generals.len()));
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}
