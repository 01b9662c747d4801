//! A sidecar from its settings to its end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use mindos_sdk::agent::{AgentError, Identity};
use mindos_sdk::{Counts, GeneralConfig, Options, serve_all};
use tokio::sync::watch;
use tracing::info;

use crate::command::Command;
use crate::config::{Config, ConfigError, GeneralSpec, Label, MetricsUrl, Target, host_instance};
use crate::general::{About, Adapter, Reached};
use crate::http_adapter::{Http, HttpClient};
use crate::joining::{JoiningConfig, JoiningError, Surroundings};
use crate::model_metrics::Scraper;
use crate::ready;

/// Why a sidecar cannot start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Joining(#[from] JoiningError),
    #[error("failed to listen on --ready-listen {address}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error(transparent)]
    Agent(#[from] AgentError),
}

/// Serves the generals until `shutdown` is done, then drains. Dials again for as long as it takes.
///
/// # Errors
/// When the settings do not fit together.
pub async fn run(config: Config, shutdown: impl Future<Output = ()> + Send) -> Result<Counts, RunError> {
    let Config {
        control_plane,
        cluster,
        region,
        cluster_labels,
        instance,
        namespace,
        pod,
        generals,
        drain_grace,
        output_max,
        model_metrics,
        repository_access,
        joining,
    } = config;
    let JoiningConfig { ready_listen, .. } = joining;
    let joining = joining.joining(&control_plane, Surroundings::read())?;
    let instance = match instance {
        Some(instance) => instance,
        None => host_instance()?,
    };
    let scraper = model_metrics.map(|MetricsUrl(address)| Arc::new(Scraper::new(address)));
    let adapters = generals
        .into_iter()
        .map(|GeneralSpec { name, ty, slots, labels, target }| {
            let about = About {
                cluster: cluster.clone(),
                instance: Arc::from(instance.as_str()),
                ty: Arc::from(ty.as_str()),
                output_max,
                repository_access,
            };
            let reached = match target {
                Target::Http(base) => Reached::Http(Box::new(Http::new(HttpClient::default(), &base, about))),
                Target::Command(command) => Reached::Command(Command::new(command, about)),
            };
            let adapter = Adapter { reached, scraper: scraper.clone() };
            (GeneralConfig { name, ty, labels, slots }, adapter)
        })
        .collect::<Vec<_>>();
    info!(%control_plane, %cluster, %instance, generals = adapters.len(), "sidecar started");
    let (standing, seen) = watch::channel(None);
    let _answering = match ready_listen {
        Some(address) => {
            let listener = ready::listen(address).await.map_err(|source| RunError::Listen { address, source })?;
            Some(Answering(tokio::spawn(ready::serve(listener, seen, joining.is_some()))))
        }
        None => None,
    };
    let options = Options {
        control_plane,
        cluster,
        region,
        cluster_labels: cluster_labels.into_iter().map(|Label(key, value)| (key, value)).collect(),
        instance,
        identity: Identity { namespace, pod, capabilities: vec!["blob".to_owned()] },
        drain_grace,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        joining,
        standing: Some(standing),
    };
    let counts = serve_all(adapters, options, shutdown).await?;
    info!(?counts, "sidecar ended");
    Ok(counts)
}

/// The task that answers probes; it ends with it.
struct Answering(tokio::task::JoinHandle<()>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.abort();
    }
}
