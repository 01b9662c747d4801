//! The injector from its settings to its end.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use kube::{Api, Client};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::certificate_files::CertificateFiles;
use super::config::{CertificateConfig, Checked, Config};
use super::error::RunError;
use super::keeper::{Keeper, chain};
use super::metrics::Metrics;
use super::serve::{self, InForce, Shared};
use super::server_version::ServerVersion;
use super::trust::{TrustKeeper, WAITING_MAX};

/// Between two looks at the version of the API server, which changes under a running injector.
const VERSION_LOOK: Duration = Duration::from_secs(60);
const VERSION_RETRY: Duration = Duration::from_secs(2);

/// Serves the webhook until `shutdown` is done; goes on for a while then, as settings say, and finishes what is under way.
///
/// # Errors
/// When settings do not fit together, a port is taken, or it is not known what cluster this is.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
    let Config { listen, metrics_listen, namespace, shutdown_delay, certificate, .. } = config.clone();
    let CertificateConfig { secret, webhook_configuration, .. } = certificate;
    let Checked { settings, policy, files, roots } = config.check()?;
    let client = Client::try_default().await.map_err(|error| RunError::Kube(error.into()))?;
    let (metrics, in_force) = (Arc::new(Metrics::default()), Arc::new(InForce::default()));
    let webhook = bind("listen", listen).await?;
    let probes = bind("metrics-listen", metrics_listen).await?;
    let mut tasks = JoinSet::new();

    let keeps_certificate = files.is_none();
    match files {
        Some((certificate, key)) => {
            tasks.spawn(CertificateFiles { certificate, key, in_force: Arc::clone(&in_force) }.run());
        }
        None => {
            let keeper = Keeper {
                secrets: Api::namespaced(client.clone(), &namespace),
                configurations: Api::all(client.clone()),
                secret,
                configuration: webhook_configuration,
                policy,
                in_force: Arc::clone(&in_force),
                metrics: Arc::clone(&metrics),
                published: String::new(),
            };
            tasks.spawn(keeper.run());
        }
    }
    let injected = roots.map(|(file, name, roots)| {
        let (injected, namespaces) = mpsc::channel(WAITING_MAX);
        let keeper = TrustKeeper { client: client.clone(), name, file, namespaces, metrics: Arc::clone(&metrics) };
        tasks.spawn(keeper.run(roots));
        injected
    });
    let cluster = settings.cluster.clone();
    let shared = Arc::new(Shared::new(settings, in_force, metrics, injected, keeps_certificate));
    tasks.spawn(versions(client, Arc::clone(&shared)));

    let (end, ends) = watch::channel(false);
    let mut ports = JoinSet::new();
    ports.spawn(serve::webhook(webhook, Arc::clone(&shared), ends.clone()));
    ports.spawn(serve::probes(probes, Arc::clone(&shared), ends));
    info!(%cluster, %listen, %metrics_listen, namespace, "injector started");
    shutdown.await;
    shared.end();
    // Not ready any more; until every API server knows, it is called all the same.
    tokio::time::sleep(shutdown_delay).await;
    end.send_replace(true);
    while ports.join_next().await.is_some() {}
    info!("injector ended");
    Ok(())
}

/// Listens; on a machine without IPv6 all addresses are those of IPv4.
async fn bind(flag: &'static str, address: SocketAddr) -> Result<TcpListener, RunError> {
    let bound = match TcpListener::bind(address).await {
        Err(error) if address.ip().is_unspecified() && error.kind() != std::io::ErrorKind::AddrInUse => {
            TcpListener::bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port())).await
        }
        bound => bound,
    };
    bound.map_err(|source| RunError::Listen { flag, address, source })
}

/// Looks at the version of the API server, which decides what pods are given.
async fn versions(client: Client, shared: Arc<Shared>) {
    loop {
        let wait = match client.apiserver_version().await {
            Ok(info) => match ServerVersion::read(&info.major, &info.minor) {
                Some(version) => {
                    if shared.version() != Some(version) {
                        let native = version.has_native_sidecars();
                        info!(%version, native, "version of the API server is known");
                        shared.set_version(version);
                    }
                    VERSION_LOOK
                }
                None => {
                    warn!(major = info.major, minor = info.minor, "version of the API server has no meaning");
                    VERSION_RETRY
                }
            },
            Err(error) => {
                warn!(error = chain(&error), "version of the API server is not to be had");
                VERSION_RETRY
            }
        };
        tokio::time::sleep(wait).await;
    }
}
