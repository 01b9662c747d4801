//! An agent from its settings to its end.
//!
//! ```text
//!   join --> look for the API server --> stand by --> at work: the parts run --> stand by ...
//! ```

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use mindos_agent_sidecar::config::{ConfigError, Label, host_instance};
use mindos_agent_sidecar::joining::{JoiningConfig, JoiningError, Surroundings};
use mindos_agent_sidecar::ready;
use mindos_sdk::model::InstanceId;
use mindos_sdk::{AddressError, IdentityError, Member, PlaneClock, Standing, Trunk, Who};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::config::Config;
use crate::discovery::{self, chain};
use crate::leader::Leader;
use crate::metrics::Metrics;
use crate::objects;
use crate::probes::{self, Probes};
use crate::runs;
use crate::shutdown::{Curtain, Ending, Shutdown};
use crate::site::{Namespaces, ServerVersion, Site};

/// A server that says nothing for this long is asked anew: a watch lasts 290 s.
const SILENCE_MAX: Duration = Duration::from_secs(300);
/// How long the version of the API server may take.
const VERSION_MAX: Duration = Duration::from_secs(10);
const VERSION_RETRY: Duration = Duration::from_secs(2);

/// Why an agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Joining(#[from] JoiningError),
    #[error("failed to listen on {option} {address}")]
    Listen { option: &'static str, address: SocketAddr, source: io::Error },
    #[error("the API server cannot be told from {from}")]
    Kube { from: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Address(#[from] AddressError),
    #[error("{0}")]
    Runs(String),
    /// Whoever starts the process again starts all parts.
    #[error(transparent)]
    Part(#[from] PartError),
}

/// Why an agent at work is one no more.
#[derive(Debug, thiserror::Error)]
pub enum PartError {
    #[error("a part of the agent broke off")]
    Broke(#[source] JoinError),
    #[error("a part of the agent ended by itself")]
    Ended,
}

/// Works for the cluster until `shutdown` is done, then drains. Goes on through every absence of the control plane and of the API server.
///
/// # Errors
/// When the settings do not fit together, or a part breaks off; the Lease is given up then.
pub async fn run(config: Config, shutdown: impl Future<Output = ()> + Send) -> Result<(), RunError> {
    let mut shutdown = std::pin::pin!(shutdown);
    config.runs.settings(config.finalizer_timeout).map_err(RunError::Runs)?;
    let instance = match &config.instance {
        Some(instance) => instance.clone(),
        None => host_instance()?,
    };
    let (kube, watching) = clients(&config).await?;
    let metrics = Arc::new(Metrics::default());
    let plane = Plane::start(&config, &instance)?;
    let _answering = answer(&config, &plane, &metrics).await?;
    let Config { control_plane, cluster, namespace, .. } = &config;
    info!(%control_plane, %cluster, %instance, %namespace, "cluster agent started");
    tokio::select! {
        () = plane.ready() => {}
        () = &mut shutdown => return Ok(()),
    }
    let server_version = tokio::select! {
        version = version(&kube) => version,
        () = &mut shutdown => return Ok(()),
    };
    let site = site(&config, instance.clone(), (kube.clone(), watching), server_version, &plane.trunk, &metrics);
    let (leading, led) = watch::channel(false);
    let mut leader = Leader::new(kube, &config, instance.as_str());
    let worked = {
        let mut campaign = std::pin::pin!(leader.run(&leading, &plane.trunk, &metrics));
        let mut work = std::pin::pin!(work(&site, &config, led, shutdown));
        tokio::select! {
            () = &mut campaign => Ok(()),
            worked = &mut work => worked,
        }
    };
    leader.release().await;
    worked?;
    info!("cluster agent ended");
    Ok(())
}

/// Runs the parts whenever this agent is the one at work, until the shutdown.
///
/// # Errors
/// When a part ended before it was told to: this agent would be the one at work, and not do it.
async fn work(
    site: &Site,
    config: &Config,
    mut led: watch::Receiver<bool>,
    mut shutdown: Pin<&mut (impl Future<Output = ()> + Send)>,
) -> Result<(), PartError> {
    loop {
        tokio::select! {
            chosen = led.wait_for(|leading| *leading) => if chosen.is_err() {
                return Ok(());
            },
            () = &mut shutdown => return Ok(()),
        }
        let (curtain, parts_end) = Shutdown::new();
        let parts = parts(site, config, &parts_end);
        if attend(parts, &curtain, &mut led, shutdown.as_mut()).await? {
            return Ok(());
        }
    }
}

/// Waits for the parts until they have ended, by the shutdown or because another agent is at work. Returns whether it was the shutdown.
async fn attend(
    mut parts: JoinSet<()>,
    curtain: &Curtain,
    led: &mut watch::Receiver<bool>,
    shutdown: Pin<&mut impl Future<Output = ()>>,
) -> Result<bool, PartError> {
    let is_over = tokio::select! {
        _ = led.wait_for(|leading| !*leading) => {
            // Somebody else does all of it already.
            curtain.fall(Ending::Abandon);
            Ok(false)
        }
        () = shutdown => {
            curtain.fall(Ending::Drain);
            Ok(true)
        }
        Some(ended) = parts.join_next() => {
            // What the others have under way ends in good order.
            curtain.fall(Ending::Drain);
            Err(ended.map_or_else(PartError::Broke, |()| PartError::Ended))
        }
    };
    loop {
        tokio::select! {
            ended = parts.join_next() => match ended {
                Some(Ok(())) => {}
                Some(Err(error)) => warn!(error = %chain(&error), "a part of the agent broke off"),
                None => return is_over,
            },
            _ = led.wait_for(|leading| !*leading), if curtain.is_draining() => curtain.fall(Ending::Abandon),
        }
    }
}

/// What an agent at work does.
fn parts(site: &Site, config: &Config, shutdown: &Shutdown) -> JoinSet<()> {
    let mut parts = JoinSet::new();
    if config.no_discovery {
        site.metrics.synced.set(1);
    } else {
        let settings = discovery::Settings {
            slots: config.slots,
            output_max: config.output_max,
            repository_access: config.repository_access,
        };
        parts.spawn(discovery::run(site.clone(), settings, shutdown.clone()));
    }
    // What is not accepted ended the start.
    if let Ok(Some(settings)) = config.runs.settings(config.finalizer_timeout) {
        parts.spawn(runs::run(site.clone(), settings, shutdown.clone()));
    }
    if !config.no_objects {
        let settings = objects::Settings { finalizer_timeout: config.finalizer_timeout, resync: config.objects_resync };
        parts.spawn(objects::run(site.clone(), settings, shutdown.clone()));
    }
    parts
}

/// The control plane, as this agent reaches it.
struct Plane {
    trunk: Trunk,
    /// Unset where nobody is asked who he is.
    member: Option<Member>,
}

impl Plane {
    fn start(config: &Config, instance: &InstanceId) -> Result<Plane, RunError> {
        let joining = config.joining.clone().joining(&config.control_plane, Surroundings::read())?;
        let Some(joining) = joining else {
            return Ok(Plane { trunk: Trunk::anonymous(&config.control_plane)?, member: None });
        };
        let who = Who {
            cluster: config.cluster.clone(),
            namespace: config.namespace.clone(),
            general: None,
            instance: instance.clone(),
        };
        let member = Member::start(&config.control_plane, joining, who)?;
        Ok(Plane { trunk: Trunk::of(&member)?, member: Some(member) })
    }

    async fn ready(&self) {
        if let Some(member) = &self.member {
            member.ready().await;
        }
    }

    fn standing(&self) -> Option<watch::Receiver<Standing>> {
        self.member.as_ref().map(Member::standing)
    }
}

/// Tasks that answer probes; they end with it.
struct Answering(Vec<JoinHandle<()>>);

impl Drop for Answering {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

async fn answer(config: &Config, plane: &Plane, metrics: &Arc<Metrics>) -> Result<Answering, RunError> {
    let failed = |option, address| move |source| RunError::Listen { option, address, source };
    let listener = TcpListener::bind(config.listen).await.map_err(failed("--listen", config.listen))?;
    let standing = plane.standing();
    let (metrics, trunk, clock) = (metrics.clone(), plane.trunk.clone(), PlaneClock::start());
    let mut tasks =
        vec![tokio::spawn(probes::serve(listener, Probes { metrics, trunk, standing: standing.clone(), clock }))];
    let JoiningConfig { ready_listen, .. } = &config.joining;
    if let Some(address) = *ready_listen {
        let listener = ready::listen(address).await.map_err(failed("--ready-listen", address))?;
        let (told, seen) = watch::channel(standing.as_ref().map(|standing| standing.borrow().clone()));
        let joins = standing.is_some();
        tasks.push(tokio::spawn(ready::serve(listener, seen, joins)));
        if let Some(mut standing) = standing {
            tasks.push(tokio::spawn(async move {
                while standing.changed().await.is_ok() {
                    let now = standing.borrow_and_update().clone();
                    told.send_replace(Some(now));
                }
            }));
        }
    }
    Ok(Answering(tasks))
}

/// Two clients of the API server: one for calls, one for watches.
async fn clients(config: &Config) -> Result<(Client, Client), RunError> {
    let (from, found) = match &config.kubeconfig {
        Some(file) => {
            let options = KubeConfigOptions { context: config.kube_context.clone(), ..KubeConfigOptions::default() };
            let found = match Kubeconfig::read_from(file) {
                Ok(kubeconfig) => kube::Config::from_custom_kubeconfig(kubeconfig, &options).await,
                Err(error) => Err(error),
            };
            (format!("--kubeconfig {}", file.display()), found.map_err(Box::from))
        }
        // A pod's own service account first: what else lies about in its image is not meant.
        None => match kube::Config::incluster() {
            Ok(found) => ("the pod's service account".to_owned(), Ok(found)),
            Err(_) => ("the kubeconfig".to_owned(), kube::Config::infer().await.map_err(Box::from)),
        },
    };
    let failed = |source| RunError::Kube { from: from.clone(), source };
    let found: kube::Config = found.map_err(failed)?;
    let mut watching = found.clone();
    (watching.read_timeout, watching.reset_reader_on_write) = (Some(SILENCE_MAX), true);
    let client = |config| Client::try_from(config).map_err(|error| failed(Box::new(error)));
    Ok((client(found)?, client(watching)?))
}

/// What the API server is; waits until it says so.
async fn version(kube: &Client) -> ServerVersion {
    let mut trouble = None;
    loop {
        let error = match timeout(VERSION_MAX, kube.apiserver_version()).await {
            Ok(Ok(info)) => {
                info!(version = info.git_version, "api server found");
                return ServerVersion::read(&info.major, &info.minor);
            }
            Ok(Err(error)) => chain(&error),
            Err(_) => format!("no answer within {} s", VERSION_MAX.as_secs()),
        };
        if trouble.as_ref() != Some(&error) {
            warn!(error, "api server did not answer");
            trouble = Some(error);
        }
        sleep(VERSION_RETRY).await;
    }
}

fn site(
    config: &Config,
    instance: InstanceId,
    (kube, watching): (Client, Client),
    server_version: ServerVersion,
    trunk: &Trunk,
    metrics: &Arc<Metrics>,
) -> Site {
    let labels = config.cluster_labels.iter().map(|Label(key, value)| (key.clone(), value.clone()));
    Site {
        kube,
        watching,
        cluster: config.cluster.clone(),
        namespace: Arc::from(config.namespace.as_str()),
        namespaces: Namespaces::new(&config.watch_namespaces),
        plane: trunk.calls(),
        instance,
        server_version,
        drain_grace: config.drain_grace,
        metrics: metrics.clone(),
        region: config.region.clone(),
        cluster_labels: labels.collect(),
        trunk: trunk.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_ends_by_itself_ends_the_work_and_the_other_parts_in_good_order() {
        for is_broken in [true, false] {
            let (curtain, parts_end) = Shutdown::new();
            let (_leading, mut led) = watch::channel(true);
            let (told, heard) = tokio::sync::oneshot::channel();
            let mut parts = JoinSet::new();
            parts.spawn(async move { assert!(!is_broken, "a part that breaks off") });
            parts.spawn(async move {
                let _ = told.send(parts_end.begun().await);
            });
            let never = std::pin::pin!(std::future::pending());
            match attend(parts, &curtain, &mut led, never).await {
                Err(PartError::Broke(error)) => assert!(is_broken && error.is_panic()),
                Err(PartError::Ended) => assert!(!is_broken),
                Ok(is_over) => panic!("it is nobody's shutdown: {is_over}"),
            }
            assert_eq!(heard.await, Ok(Ending::Drain));
        }
    }
}
