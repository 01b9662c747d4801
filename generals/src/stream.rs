//! A general with a stream of its own: no sidecar beside it.
//!
//! ```text
//!   control plane <== one stream ==> this general, for as many deliveries at a time as it has slots
//!                                        +-- GET /health, GET /ready, POST /process on --listen, as without a stream
//! ```

use std::net::SocketAddr;
use std::time::Duration;

use mindos_agent_sidecar::config::{Label, host_instance, seconds};
use mindos_agent_sidecar::joining::{JoiningConfig, JoiningError, Surroundings};
use mindos_agent_sidecar::{ConfigError, ready};
use mindos_model::{ClusterName, GeneralName, InstanceId, NameError, Region};
use mindos_sdk::agent::{AgentError, Identity};
use mindos_sdk::{GeneralConfig, Joining, Labels, serve};
use tokio::sync::watch;

use crate::server::{Config, RunError, bind, stop_signal};

/// Where and as what a general holds a stream of its own.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "A stream of its own")]
pub struct StreamOptions {
    /// Address of the control plane for agents: hold a stream of one's own, without a sidecar; with `https` it proves who it is by a
    /// certificate [default: only what --listen serves]
    #[arg(long, env = "MINDOS_CONTROL_PLANE", value_name = "URL")]
    pub control_plane: Option<String>,
    /// Name of the cluster that this runs in
    #[arg(long, env = "MINDOS_CLUSTER", value_name = "NAME", default_value = "local")]
    pub cluster: ClusterName,
    /// Region of the cluster, such as `eu-west-1` [default: what the control plane knows]
    #[arg(long, env = "MINDOS_REGION", value_name = "NAME")]
    pub region: Option<Region>,
    /// Label of the cluster; may be given several times
    #[arg(long = "cluster-label", env = "MINDOS_CLUSTER_LABELS", value_name = "KEY=VALUE", value_delimiter = ',')]
    pub cluster_labels: Vec<Label>,
    /// Name of the general within the cluster [default: its type]
    #[arg(long, env = "MINDOS_GENERAL_NAME", value_name = "NAME")]
    pub name: Option<GeneralName>,
    /// Label of the general; may be given several times
    #[arg(long = "label", env = "MINDOS_GENERAL_LABELS", value_name = "KEY=VALUE", value_delimiter = ',')]
    pub labels: Vec<Label>,
    /// Names this program within the cluster, the same after every restart [default: the host's name]
    #[arg(long, env = "MINDOS_INSTANCE", value_name = "NAME")]
    pub instance: Option<InstanceId>,
    /// Deliveries worked on at a time, 1 to 10000
    #[arg(long, env = "MINDOS_SLOTS", value_name = "NUMBER", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub slots: u32,
    /// Kubernetes namespace; part of what the certificate says, where there is one
    #[arg(long, env = "MINDOS_NAMESPACE", value_name = "NAME", default_value = "")]
    pub namespace: String,
    /// Kubernetes pod, for people
    #[arg(long, env = "MINDOS_POD", value_name = "NAME", default_value = "")]
    pub pod: String,
    /// How long work may go on after SIGTERM before it is handed back, in seconds
    #[arg(long, env = "MINDOS_DRAIN_GRACE", value_name = "SECONDS", default_value = "20", value_parser = seconds)]
    pub drain_grace: Duration,

    #[command(flatten)]
    pub joining: JoiningConfig,
}

/// Why a general with a stream of its own did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Joining(#[from] JoiningError),
    #[error("--type or --name: {0}")]
    Name(#[from] NameError),
    #[error("{0}")]
    Serve(#[from] RunError),
    #[error("failed to listen on --ready-listen {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("{0}")]
    Agent(#[from] AgentError),
}

/// Options that fit together.
#[derive(Debug)]
pub struct Stream {
    options: mindos_sdk::Options,
    name: Option<GeneralName>,
    labels: Labels,
    slots: u32,
    joins: bool,
    ready_listen: Option<SocketAddr>,
}

impl StreamOptions {
    /// The stream that is asked for; `None` where none is.
    ///
    /// # Errors
    /// Names the option that is wrong.
    pub fn checked(self) -> Result<Option<Stream>, StreamError> {
        let StreamOptions {
            control_plane,
            cluster,
            region,
            cluster_labels,
            name,
            labels,
            instance,
            slots,
            namespace,
            pod,
            drain_grace,
            joining,
        } = self;
        // A variable that is set to nothing says nothing.
        let Some(control_plane) = control_plane.filter(|url| !url.trim().is_empty()) else { return Ok(None) };
        let ready_listen = joining.ready_listen;
        let joining: Option<Joining> = joining.joining(&control_plane, Surroundings::read())?;
        let instance = match instance {
            Some(instance) => instance,
            None => host_instance()?,
        };
        let joins = joining.is_some();
        let options = mindos_sdk::Options {
            control_plane,
            cluster,
            region,
            cluster_labels: pairs(cluster_labels),
            instance,
            identity: Identity { namespace, pod, capabilities: vec!["blob".to_owned()] },
            drain_grace,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            joining,
            standing: None,
        };
        Ok(Some(Stream { options, name, labels: pairs(labels), slots, joins, ready_listen }))
    }
}

fn pairs(labels: Vec<Label>) -> Labels {
    labels.into_iter().map(|Label(key, value)| (key, value)).collect()
}

/// Serves over the stream and on `--listen` until SIGTERM or SIGINT, then drains.
///
/// # Errors
/// When the settings do not fit together, or an address is taken.
pub(crate) async fn run(config: Config, stream: Stream) -> Result<(), StreamError> {
    let Stream { mut options, name, labels, slots, joins, ready_listen } = stream;
    let stop = stop_signal().map_err(RunError::Signals)?;
    let served = config.served.clone();
    let ty = mindos_model::GeneralType::new(&served.profile.general_type)?;
    let name = match name {
        Some(name) => name,
        None => GeneralName::new(ty.as_str())?,
    };
    let (standing, seen) = watch::channel(None);
    options.standing = Some(standing);
    let mut tasks = Tasks(Vec::new());
    if let Some(address) = ready_listen {
        let listener = ready::listen(address).await.map_err(|source| StreamError::Listen { address, source })?;
        tasks.0.push(tokio::spawn(ready::serve(listener, seen, joins)));
    }
    let (ended, mut ending) = watch::channel(false);
    let server = bind(config).await?;
    let serving = tokio::spawn(server.serve(async move { drop(ending.wait_for(|ended| *ended).await) }));
    serve(served, GeneralConfig { name, ty, labels, slots }, options, stop).await?;
    ended.send_replace(true);
    let _ = serving.await;
    Ok(())
}

/// Tasks that end with it.
struct Tasks(Vec<tokio::task::JoinHandle<()>>);

impl Drop for Tasks {
    fn drop(&mut self) {
        self.0.iter().for_each(tokio::task::JoinHandle::abort);
    }
}
