//! A sidecar from its settings to its end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mindos_sdk::agent::{AgentError, Identity};
use mindos_sdk::model::GeneralType;
use mindos_sdk::{Counts, GeneralConfig, Options, serve_all};
use tokio::sync::watch;
use tracing::info;

use crate::command::Command;
use crate::config::{Config, ConfigError, GeneralSpec, Label, MetricsUrl, Target, host_instance};
use crate::drain::{Drains, RESUME};
use crate::general::{About, Adapter, Reached};
use crate::gone::Watched;
use crate::http_adapter::{Http, HttpClient};
use crate::joining::{JoiningConfig, JoiningError, Surroundings};
use crate::model_metrics::Scraper;
use crate::ready::{self, Answers};

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

/// Serves the generals until `shutdown` is done or they are gone, then drains. Dials again for as long as it takes.
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
        end_with_general,
        general_start_max,
        joining,
    } = config;
    let JoiningConfig { ready_listen, .. } = joining;
    let around = Surroundings::read();
    let drains = Drains::new(around.drain_token.clone());
    let joining = joining.joining(&control_plane, around)?;
    let instance = match instance {
        Some(instance) => instance,
        None => host_instance()?,
    };
    let watched = end_with_general.map(|after| watched(&generals, after, general_start_max)).transpose()?;
    let about = |ty: &GeneralType| About {
        cluster: cluster.clone(),
        instance: Arc::from(instance.as_str()),
        ty: Arc::from(ty.as_str()),
        output_max,
        repository_access,
    };
    info!(%control_plane, %cluster, %instance, generals = generals.len(), "sidecar started");
    let (standing, seen) = watch::channel(None);
    let answers = Answers::new(seen, joining.is_some(), drains.clone());
    let _answering = match ready_listen {
        Some(address) => {
            let listener = ready::listen(address).await.map_err(|source| RunError::Listen { address, source })?;
            Some(Answering(tokio::spawn(ready::serve_with(listener, answers.clone()))))
        }
        None => None,
    };
    let options = Options {
        control_plane,
        cluster: cluster.clone(),
        region,
        cluster_labels: cluster_labels.into_iter().map(|Label(key, value)| (key, value)).collect(),
        instance: instance.clone(),
        identity: Identity { namespace, pod, capabilities: vec!["blob".to_owned()] },
        drain_grace,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        joining,
        standing: Some(standing),
    };
    let mut shutdown = std::pin::pin!(shutdown);
    let mut gone = std::pin::pin!(async {
        match watched {
            Some(watched) => watched.gone().await,
            None => std::future::pending().await,
        }
    });
    loop {
        let scraper = model_metrics.clone().map(|MetricsUrl(address)| Arc::new(Scraper::new(address)));
        let adapters = generals.iter().map(|general| adapter(general, about(&general.ty), scraper.clone())).collect();
        // Set where what asked for the drain ends this process as well.
        let mut ends = true;
        let until = async {
            tokio::select! {
                () = &mut shutdown => {}
                () = &mut gone => {}
                () = drains.asked() => ends = false,
            }
            drains.begun();
        };
        let counts = serve_all(adapters, options.clone(), until).await?;
        drains.ended();
        if !ends {
            info!(?counts, "sidecar drained");
            ends = tokio::time::timeout(RESUME, &mut shutdown).await.is_ok();
        }
        if ends {
            answers.all_given().await;
            info!(?counts, "sidecar ended");
            return Ok(counts);
        }
        drains.resumed();
        info!("sidecar takes work again");
    }
}

fn adapter(general: &GeneralSpec, about: About, scraper: Option<Arc<Scraper>>) -> (GeneralConfig, Adapter) {
    let GeneralSpec { name, ty, slots, labels, target } = general.clone();
    let reached = match target {
        Target::Http { base, process, ready } => {
            Reached::Http(Box::new(Http::new(HttpClient::default(), &base, about).at(process, ready)))
        }
        Target::Command(command) => Reached::Command(Command::new(command, about)),
    };
    (GeneralConfig { name, ty, labels, slots }, Adapter { reached, scraper })
}

fn watched(generals: &[GeneralSpec], after: Duration, start_max: Duration) -> Result<Watched, ConfigError> {
    let authority = |general: &GeneralSpec| match &general.target {
        Target::Http { base, .. } => Ok(base.authority().expect("an address of a general has one").clone()),
        Target::Command(_) => Err(ConfigError::NeverGone(general.name.clone())),
    };
    Ok(Watched { generals: generals.iter().map(authority).collect::<Result<_, _>>()?, after, start_max })
}

/// The task that answers probes; it ends with it.
struct Answering(tokio::task::JoinHandle<()>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.abort();
    }
}
