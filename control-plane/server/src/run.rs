//! The server as a whole: opens the journal, starts the plane, the views and the ports, and takes all of it down again.
//!
//! ```text
//!   open journal -> fold -> plane, writer -> views -> ports ... drain -> streams end -> last sync -> views closed
//! ```
//! Invariant: nothing is served before the state is whole, and after a drain nothing that was answered is lost.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mindos_core::record::EpochCause;
use mindos_core::{Durable, Plane};
use mindos_model::Timestamp;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::service::{Routes, RoutesBuilder};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tracing::{error, info, warn};

use crate::access::permission::Listener;
use crate::access::{AccessView, Gate, Principal, PrincipalKind, bootstrap};
use crate::clock::Clock;
use crate::config::{Config, ConfigError};
use crate::driver::{Driver, Ending, Handle, Home, InboxLimits, OutboxLimits, Start};
use crate::grpc::{self, Context};
use crate::http::Exposed;
use crate::limits::{Asker, FindAsker, OuterLayer, Rates, Remembers, WithinLayer};
use crate::logging::Chain;
use crate::net::doorkeeper::Doorkeeper;
use crate::net::handshakes::Handshakes;
use crate::net::porch::Outside;
use crate::net::{Doors, Port};
use crate::payloads::{Payloads, ReadPayload};
use crate::secure::{AccessMode, TlsMode};
use crate::store::{self, StoreError};
use crate::surface::keda::{self, Admission, Demands};
use crate::tls::accept::PortTls;
use crate::tls::counts::PortName;
use crate::tls::live;
use crate::tls::server_config::{Tls, TlsError};
use crate::upkeep::{Upkeep, UpkeepError};
use crate::views::follow::Source;

/// How long the driver may take to end once streams are closed.
const DRIVER_TIMEOUT: Duration = Duration::from_secs(6);

/// Why the server did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Upkeep(#[from] UpkeepError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(
        "--aggregator-plaintext needs `gitlens.sources.aggregator` in the settings: expected the ranges that may call, such as 10.0.0.0/8"
    )]
    NoSources,
    #[error(
        "--platform-plaintext needs `platform.sources` in the settings: expected the ranges that may call, such as 10.0.0.0/8"
    )]
    NoPlatformSources,
    #[error("failed to listen on {address}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("failed to start a thread")]
    Thread(#[source] io::Error),
    #[error("failed to build the services")]
    Services(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("journal failed: {reason}")]
    Journal { reason: String },
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    /// Where the API listens.
    pub api: SocketAddr,
    /// Where agents are awaited.
    pub agents: SocketAddr,
    /// Where the aggregator's paths are; unset where their port was taken and nobody insisted.
    pub aggregator: Option<SocketAddr>,
    /// Where KEDA asks; unset where that is not served.
    pub keda: Option<SocketAddr>,
    /// Where the platform's paths are; unset where they are not served.
    pub platform: Option<SocketAddr>,
    handle: Handle,
    driver: Driver,
    upkeep: Upkeep,
    health: HealthReporter,
    drain: watch::Sender<bool>,
    ports: JoinSet<()>,
    stop_timeout: Duration,
    #[cfg(test)]
    context: Arc<Context>,
    /// What is routed on each listener of HTTP, as it describes itself.
    #[cfg(test)]
    routed: Vec<(Listener, String)>,
}

/// Runs a server until `shutdown` completes, and then takes it down in order.
///
/// # Errors
/// When it cannot start, or when the journal fails: then nothing more is answered, and the process is to end.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
    Server::start(config).await?.serve(shutdown).await
}

/// As [`run`], on a runtime of its own with as many threads as configured, until the process is told to end.
///
/// # Errors
/// As [`run`].
pub fn run_until_signal(config: Config) -> Result<(), RunError> {
    crate::memory::prepare();
    let mut builder = if config.net_threads == 1 {
        tokio::runtime::Builder::new_current_thread()
    } else {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(usize::from(config.net_threads));
        builder
    };
    let runtime = builder.thread_name("net").enable_all().build().map_err(RunError::Thread)?;
    let ended = runtime.block_on(run(config, signalled()));
    // What still reads a disk must not hold up the end.
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}

/// Completes when the process is told to end.
pub async fn signalled() {
    use tokio::signal::unix::{SignalKind, signal};
    let (terminate, interrupt) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    match (terminate, interrupt) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! {
                _ = terminate.recv() => info!("told to end by SIGTERM"),
                _ = interrupt.recv() => info!("told to end by SIGINT"),
            }
        }
        (Err(error), _) | (_, Err(error)) => {
            error!(%error, "signals cannot be heard: end by SIGKILL");
            std::future::pending().await
        }
    }
}

/// What a journal holds when it was opened.
pub struct Opened<H> {
    pub home: H,
    pub durable: Durable,
    /// When its newest record was decided.
    pub newest: Timestamp,
    pub cause: EpochCause,
    pub reads: Arc<store::Reads>,
    /// Names the journal.
    pub plane_id: String,
}

impl Server {
    /// Starts everything; the ports are open when this returns.
    ///
    /// # Errors
    /// When a setting is not accepted, the journal cannot be opened, or a port cannot be had.
    pub async fn start(config: Config) -> Result<Server, RunError> {
        config.check()?;
        let began = Instant::now();
        let opening = config.clone();
        let opened = tokio::task::spawn_blocking(move || store::open(&opening));
        let opened = opened.await.map_err(|error| RunError::Services(error.into()))??;
        let seq = opened.durable.seq();
        info!(%seq, took_ms = began.elapsed().as_millis() as u64, "journal opened");
        Server::with(config, opened).await
    }

    async fn with<H: Home + 'static>(config: Config, opened: Opened<H>) -> Result<Server, RunError> {
        let Opened { home, durable, newest, cause, reads, plane_id } = opened;
        let seed = random()?;
        let clock = Clock::start(newest);
        let inbox = InboxLimits {
            inputs_max: config.inbox_max as usize,
            bytes_max: usize::try_from(config.inbox_bytes).unwrap_or(usize::MAX),
        };
        let outbox = OutboxLimits { messages_max: config.outbox_max as usize, stall_max: config.outbox_stall };
        let limits = config.limits();
        let handle = Handle::new(clock, durable.seq(), inbox, outbox);
        let for_payloads = Arc::clone(&reads);
        let read: ReadPayload = Arc::new(move |seq| for_payloads.payload(seq));
        let cache = usize::try_from(config.payload_cache).unwrap_or(usize::MAX);
        let payloads = Payloads::start(cache, read).map_err(RunError::Thread)?;
        let listeners = config.listeners();
        let tls = config.secure.tls_settings(&listeners, &config.data_dir, &config.keda);
        let tls = tls.map(|settings| Tls::start(settings, clock).map(Arc::new)).transpose()?;
        let mut upkeep = Upkeep::start(&config, &handle, &reads, &payloads, durable.access(), newest)?;
        // Before the plane begins, so that nothing becomes durable unseen.
        let access = Arc::new(AccessView::new(durable.access(), durable.seq()));
        let access_follower = handle.subscribe();
        let aggregator_is_plain = !config.secure.aggregator_is_encrypted(&listeners);
        if config.secure.aggregator_plaintext && !upkeep.gitlens_settings().names_callers_of_aggregator() {
            return Err(RunError::NoSources);
        }
        if config.platform.platform_plaintext && !upkeep.platform_settings().names_callers() {
            return Err(RunError::NoPlatformSources);
        }
        let platform_turned = crate::surface::platform::Turned::default();
        let shown = platform_turned.clone();
        upkeep.expose(Exposed::new(move |into| shown.expose(into)));
        let plane = Plane::new(durable, limits.clone(), crate::VERSION, cause, clock.now());
        let start = Start { plane, home, handle: handle.clone(), payloads: payloads.clone(), seed };
        let driver = Driver::start(start).map_err(RunError::Thread)?;

        let source: Arc<dyn Source> = Arc::clone(&reads) as Arc<dyn Source>;
        tokio::spawn(Arc::clone(&access).follow(access_follower, source));
        let mode = config.secure.access_mode(&listeners);
        let names = config.secure.tls_names.iter().map(ToString::to_string).collect();
        let gate = Arc::new(Gate::new(
            mode,
            Arc::clone(&access),
            handle.clone(),
            upkeep.jwt(),
            &config.secure.trust_domain,
            names,
        ));
        if mode == AccessMode::Enforced {
            tokio::spawn(bootstrap::run(Arc::clone(&access), handle.clone(), config.data_dir.clone()));
        }
        let exposed = Arc::clone(&gate);
        upkeep.expose(Exposed::new(move |into| exposed.expose(into)));

        let (drain, draining) = watch::channel(false);
        let rates = Arc::new(Rates::new(upkeep.limits()));
        if let Some(tls) = &tls {
            let tls = Arc::clone(tls);
            upkeep.expose(Exposed::new(move |into| tls.expose(into)));
        }
        if let Some(tls) = &tls {
            // Before a port is open: nobody who is denied shakes hands.
            let known = Arc::clone(&access);
            tls.denied().ask(move |agent| known.load().access.denial_of(&agent.identity, &agent.key).is_some());
        }
        let identities = grpc::Identities::new(grpc::IdentityParts {
            handle: handle.clone(),
            access: Arc::clone(&access),
            tls: tls.clone(),
            service_accounts: upkeep.service_accounts(),
            life: config.secure.certificate_life,
        });
        let identities = identities.map_err(|error| RunError::Thread(io::Error::other(error)))?;
        upkeep.expose(identities.exposed());
        let authorities = grpc::Authorities {
            handle: handle.clone(),
            access: Arc::clone(&access),
            tls: tls.clone(),
            ledger: upkeep.ledger_keys(),
        };
        let context = Arc::new(Context::new(grpc::Parts {
            handle: handle.clone(),
            payloads,
            source: reads,
            dedupe: upkeep.dedupe(),
            history: upkeep.history(),
            limits,
            plane_id,
            prices: upkeep.prices(),
            draining: draining.clone(),
            otlp: upkeep.otlp(),
            blobs: upkeep.blobs(),
            rates: Arc::clone(&rates),
            access,
            mode,
        }));
        if let Some(tls) = &tls {
            let _ = context.tls.set(Arc::clone(tls));
        }
        let (health, api_health) = tonic_health::server::health_reporter();
        tell(&health, ServingStatus::NotServing).await;
        let mut api = Routes::builder();
        api.add_service(api_health.clone());
        add_reflection(&mut api)?;
        grpc::api(&context, &mut api);
        grpc::certificates(identities, authorities.clone(), &mut api);
        upkeep.services(&context, &mut api);
        let mut agents = Routes::builder();
        let keda_health = api_health.clone();
        agents.add_service(api_health);
        add_reflection(&mut agents)?;
        grpc::agents(&context, &mut agents);
        upkeep.agent_services(&context, &mut agents);

        let jwt = upkeep.jwt();
        let remembers: Remembers = Arc::new(move |token| jwt.remembers(token));
        let outer = OuterLayer { rates: Arc::clone(&rates), remembers };
        let within = WithinLayer { rates: Arc::clone(&rates), find: finds_askers(Arc::clone(&context.access)) };
        let doors = Doors {
            keeper: Arc::new(Doorkeeper::new(connections_max(config.connections_max))),
            handshakes: Arc::new(Handshakes::start().map_err(RunError::Thread)?),
            outside: Outside::start().map_err(RunError::Thread)?,
            limits: upkeep.limits(),
        };
        let (keeper, shown) = (Arc::clone(&doors.keeper), Arc::clone(&rates));
        upkeep.expose(Exposed::new(move |into| {
            keeper.expose(into);
            shown.expose(into);
        }));
        let http = upkeep.router(&context);
        let (api_listener, api_at) = listen(config.api_address()).await?;
        let (agent_listener, agents_at) = listen(config.agent_listen).await?;
        let aggregator = match listen(config.aggregator()).await {
            Ok(aggregator) => Some(aggregator),
            Err(error) if config.insists_on_aggregator() => return Err(error),
            Err(error) => {
                warn!(error = %Chain(&error), "the aggregator's paths are not served: give --aggregator-address");
                None
            }
        };
        let keda_listener = match listeners.keda {
            Some(address) => Some(listen(address).await?),
            None => None,
        };
        let platform = match listeners.platform {
            Some(address) => Some(listen(address).await?),
            None => None,
        };
        let platform_at = platform.as_ref().map(|(_, at)| *at);
        let keda_at = keda_listener.as_ref().map(|(_, at)| *at);
        let aggregator_at = aggregator.as_ref().map(|(_, at)| *at);
        crate::surface::gitlens::announce(&upkeep.gitlens_settings(), aggregator_at, api_at);
        let connections_max = config.connections_max as usize;
        let mut ports = JoinSet::new();
        upkeep.spawn(&context, &mut ports);
        if let Some(tls) = &tls {
            ports.spawn(Arc::clone(tls).watch(draining.clone()));
            ports.spawn(live::keep_out(Arc::clone(tls), Arc::clone(&context.access), draining.clone()));
            ports.spawn(authorities.keep_recorded(draining.clone()));
        }
        announce(&config, tls.as_deref(), aggregator_at);
        crate::surface::platform::announce(&upkeep.platform_settings(), platform_at, listeners.platform_is_encrypted());
        let porch = doors.outside.porch().clone();
        let (asks, inside) = (mode == AccessMode::Enforced, tokio::runtime::Handle::current());
        let on = |port| tls.as_ref().map(|tls| PortTls::new(tls, port));
        ports.spawn(serves_once_begun(health.clone(), handle.clone(), draining.clone()));
        ports.spawn(Arc::clone(&gate).watch(draining.clone()));
        #[cfg(test)]
        let mut routed = vec![(Listener::Api, format!("{http:?}"))];
        let http = gate.before_paths(Listener::Api, http.layer(within.clone()));
        let http_api = http.clone();
        let api = (api_listener, api, Some(http), on(PortName::Api));
        for (listener, grpc, http, tls) in [api, (agent_listener, agents, None, on(PortName::Agents))] {
            let grpc = grpc.routes().prepare().into_axum_router();
            let grpc = gate.before_rpcs(grpc, outer.clone(), within.clone());
            let http = http.map(|http| http.layer(outer.clone()));
            let (doors, inside) = (doors.clone(), inside.clone());
            let port = Port { listener, grpc, http, connections_max, tls, doors, asks, inside };
            ports.spawn_on(port.serve(draining.clone()), &porch);
        }
        if let Some((listener, _)) = keda_listener {
            let demands = Arc::new(Demands::new(handle.clone(), config.keda.keda_warm_up));
            let rules = Arc::new(config.keda.clone());
            let admission = Arc::new(Admission::new(Arc::clone(&rules), mode == AccessMode::Open));
            let (shown, turned) = (Arc::clone(&demands), Arc::clone(&admission));
            upkeep.expose(Exposed::new(move |into| {
                shown.expose(into);
                turned.expose(into);
            }));
            ports.spawn(Arc::clone(&demands).run(draining.clone()));
            let mut routes = Routes::builder();
            routes.add_service(keda_health);
            routes.add_service(keda::service(demands, rules, draining.clone()));
            let grpc = routes.routes().prepare().into_axum_router();
            let grpc = gate.before_admitted_rpcs(grpc, outer.clone(), admission, within.clone());
            let (tls, doors, inside) = (on(PortName::Keda), doors.clone(), inside.clone());
            let port = Port { listener, grpc, http: None, connections_max, tls, doors, asks, inside };
            ports.spawn_on(port.serve(draining.clone()), &porch);
        }
        if let Some((listener, _)) = platform {
            let platform = upkeep.platform(&context, &config.platform, platform_turned, http_api.clone());
            let http = crate::surface::platform::router(platform);
            #[cfg(test)]
            routed.push((Listener::Platform, format!("{http:?}")));
            let http = gate.before_paths(Listener::Platform, http.layer(within.clone()));
            let tls = on(PortName::Platform).filter(|_| listeners.platform_is_encrypted());
            let http = http.layer(outer.clone());
            let (doors, inside) = (doors.clone(), inside.clone());
            let port =
                Port { listener, grpc: http.clone(), http: Some(http), connections_max, tls, doors, asks, inside };
            ports.spawn_on(port.serve(draining.clone()), &porch);
        }
        if let Some((listener, _)) = aggregator {
            let http = crate::surface::gitlens::aggregator(upkeep.gitlens(&context), http_api);
            #[cfg(test)]
            routed.push((Listener::Aggregator, format!("{http:?}")));
            let http = gate.before_paths(Listener::Aggregator, http.layer(within));
            let tls = on(PortName::Aggregator).filter(|_| !aggregator_is_plain);
            let http = http.layer(outer.clone());
            let port =
                Port { listener, grpc: http.clone(), http: Some(http), connections_max, tls, doors, asks, inside };
            ports.spawn_on(port.serve(draining.clone()), &porch);
        }
        let shown = aggregator_at.map(|at| at.to_string()).unwrap_or_default();
        let keda_shown = keda_at.map(|at| at.to_string()).unwrap_or_default();
        info!(api = %api_at, agents = %agents_at, aggregator = shown, keda = keda_shown, version = crate::VERSION, "control plane serves");
        let stop_timeout = config.stop_timeout;
        Ok(Server {
            api: api_at,
            agents: agents_at,
            aggregator: aggregator_at,
            keda: keda_at,
            platform: platform_at,
            handle,
            driver,
            upkeep,
            health,
            drain,
            ports,
            stop_timeout,
            #[cfg(test)]
            context,
            #[cfg(test)]
            routed,
        })
    }

    /// The way to the plane.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Serves until `shutdown` completes, and then drains.
    ///
    /// # Errors
    /// When the journal failed.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
        let Server { handle, driver, upkeep, health, drain, mut ports, stop_timeout, .. } = self;
        tokio::select! {
            () = shutdown => {}
            () = handle.ended() => {}
        }
        if let Some(reason) = handle.failure() {
            // Nothing can be promised any more: no drain, nothing waited for.
            ports.abort_all();
            error!(reason, "journal failed: the process ends");
            return Err(RunError::Journal { reason });
        }
        let began = Instant::now();
        info!("draining");
        let _ = drain.send(true);
        tell(&health, ServingStatus::NotServing).await;
        handle.end_sessions(&Ending::Shutdown);
        if tokio::time::timeout(stop_timeout, async { while ports.join_next().await.is_some() {} }).await.is_err() {
            warn!("connections were cut, because they did not end in time");
            ports.abort_all();
        }
        handle.stop();
        let joined = tokio::task::spawn_blocking(move || driver.join());
        if tokio::time::timeout(DRIVER_TIMEOUT, joined).await.is_err() {
            warn!("the journal's last sync did not end in time");
        }
        let closed = tokio::task::spawn_blocking(move || upkeep.stop());
        if tokio::time::timeout(DRIVER_TIMEOUT, closed).await.is_err() {
            warn!("views were not closed in time: they catch up at the next start");
        }
        info!(took_ms = began.elapsed().as_millis() as u64, seq = %handle.durable_seq(), "control plane stopped");
        match handle.failure() {
            Some(reason) => Err(RunError::Journal { reason }),
            None => Ok(()),
        }
    }
}

/// Names under which health is asked for; the empty one is the whole server.
const SERVICES: &[&str] = &[
    "",
    "mindos.access.v1.AccessService",
    "mindos.agent.v1.AgentService",
    "mindos.blob.v1.BlobService",
    "mindos.delivery.v1.DeliveryService",
    "mindos.event.v1.EventService",
    "mindos.fleet.v1.FleetService",
    "mindos.ledger.v1.LedgerService",
    "mindos.route.v1.RouteService",
];

async fn tell(health: &HealthReporter, status: ServingStatus) {
    for service in SERVICES {
        health.set_service_status(*service, status).await;
    }
}

/// Says that the server serves, once the record of its epoch is durable.
async fn serves_once_begun(health: HealthReporter, handle: Handle, mut draining: watch::Receiver<bool>) {
    tokio::select! {
        () = handle.begun() => {}
        _ = draining.wait_for(|draining| *draining) => return,
    }
    tell(&health, ServingStatus::Serving).await;
    if *draining.borrow() || !handle.has_begun() {
        tell(&health, ServingStatus::NotServing).await;
    }
}

fn add_reflection(routes: &mut RoutesBuilder) -> Result<(), RunError> {
    let services = |error: tonic_reflection::server::Error| RunError::Services(Box::new(error));
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(mindos_proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    routes.add_service(builder().build_v1().map_err(services)?);
    routes.add_service(builder().build_v1alpha().map_err(services)?);
    Ok(())
}

/// Says aloud who may call, and where nothing is encrypted.
fn announce(config: &Config, tls: Option<&Tls>, aggregator: Option<SocketAddr>) {
    let listeners = config.listeners();
    if config.secure.access_mode(&listeners) == AccessMode::Open {
        warn!(
            "access is OPEN: whoever can run something on this machine rules this plane; give --access enforced to ask who calls"
        );
    } else if config.secure.tls_mode(&listeners) == TlsMode::Off {
        warn!("agents cannot say who they are WITHOUT TLS, so none is let in: give --tls authority");
    }
    match tls {
        Some(tls) => {
            let root = tls.authority().map(|authority| authority.id().to_string()).unwrap_or_default();
            info!(not_after = %tls.not_after(), root, trust_domain = %tls.trust_domain(), "TLS 1.3 is spoken on the API's and the agents' port");
        }
        None => warn!("nothing is encrypted on the API's and the agents' port, which are loopback"),
    }
    let exposed = aggregator.filter(|at| !at.ip().to_canonical().is_loopback());
    if let Some(address) = exposed.filter(|_| !config.secure.aggregator_is_encrypted(&listeners)) {
        warn!(%address, "the aggregator's listener is reached from elsewhere WITHOUT encryption, by the ranges of gitlens.sources.aggregator");
    }
}

/// Finds who asks in what the gate left, with the quota of the tenant that they act for.
fn finds_askers(access: Arc<AccessView>) -> FindAsker {
    Arc::new(move |extensions| {
        let principal = extensions.get::<Arc<Principal>>()?;
        Some(Asker {
            principal: Arc::clone(&principal.name),
            requests_per_second: access.load().access.quota(&principal.tenant).requests_per_second,
            tenant: principal.tenant.clone(),
            alone: matches!(principal.kind, PrincipalKind::Local | PrincipalKind::Plane),
        })
    })
}

/// Files that are left for the journal, views and everything else.
const FILES_KEPT: u64 = 512;

/// How many connections there can be: as many as configured, if the system gives as many files.
fn connections_max(wanted: u32) -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX).min(u64::from(wanted).saturating_mul(2).saturating_add(FILES_KEPT));
    if limit.current.is_some_and(|current| current < most)
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum: limit.maximum })
    {
        warn!(%error, "the limit of open files was not raised");
    }
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let room = files.saturating_sub(FILES_KEPT).max(files / 2);
    if room < u64::from(wanted) {
        warn!(
            connections = room,
            wanted, files, "fewer connections fit than --connections-max, for want of open files"
        );
    }
    usize::try_from(room.min(wanted.into())).unwrap_or(usize::MAX)
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), RunError> {
    let failed = |source| RunError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

fn random() -> Result<u64, RunError> {
    getrandom::u64().map_err(|error| RunError::Thread(io::Error::other(error)))
}

/// Logs why a server ended and says how the process is to end.
#[must_use]
pub fn report(ended: Result<(), RunError>) -> std::process::ExitCode {
    match ended {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            error!(error = %Chain(&error), "control plane ended");
            std::process::ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
#[path = "run_order_tests.rs"]
mod order_tests;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::mpsc;

    use clap::Parser;
    use mindos_core::record::Batch;
    use mindos_model::Seq;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::access::permission;
    use crate::driver::AppendError;
    use crate::store::EmbeddedHome;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        config: Config,
    }

    /// A home that appends nothing until it is let.
    struct Gated {
        home: EmbeddedHome,
        gate: mpsc::Receiver<()>,
    }

    impl Home for Gated {
        fn append(&mut self, expected: Seq, batch: &Batch) -> Result<(), AppendError> {
            let _ = self.gate.recv();
            self.home.append(expected, batch)
        }

        fn drop_prefix(&mut self, through: Seq) -> Result<(), AppendError> {
            self.home.drop_prefix(through)
        }

        fn is_tight(&self) -> bool {
            self.home.is_tight()
        }
    }

    async fn code(at: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(at).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.split(' ').nth(1).unwrap().to_owned()
    }

    /// The paths that stand in quotes in what a router says of itself.
    fn paths(routed: &str) -> BTreeSet<&str> {
        // Behind them stands what answers where nothing is routed.
        let own = routed.split("fallback_router").next().unwrap_or_default();
        own.split('"').skip(1).step_by(2).filter(|text| text.starts_with('/')).collect()
    }

    #[tokio::test]
    async fn every_path_that_is_routed_has_a_row_in_the_table_of_permissions() {
        let folder = std::env::temp_dir().join(format!("mindos-server-paths-{}", std::process::id()));
        let words = ["test", "--listen", "127.0.0.1:0", "--agent-listen", "127.0.0.1:0", "--segment-bytes", "4MiB"];
        let more = [
            "--surface",
            "platform=127.0.0.1:0",
            "--aggregator-address",
            "127.0.0.1:0",
            "--data-dir",
            folder.to_str().unwrap(),
        ];
        let server = Server::start(Command::parse_from([&words[..], &more].concat()).config).await.unwrap();
        assert_eq!(server.routed.len(), 3);
        for (listener, routed) in &server.routed {
            let rows = permission::PATHS.iter().filter(|(on, ..)| on == listener).map(|(_, _, path, _)| *path);
            assert_eq!(paths(routed), rows.collect(), "{listener:?}");
        }
        server.serve(async {}).await.unwrap();
        let _ = std::fs::remove_dir_all(folder);
    }

    #[tokio::test]
    async fn a_server_is_ready_once_its_epoch_is_durable() {
        let folder = std::env::temp_dir().join(format!("mindos-server-ready-{}", std::process::id()));
        let words = ["test", "--listen", "127.0.0.1:0", "--agent-listen", "127.0.0.1:0", "--segment-bytes", "4MiB"];
        let words = [&words[..], &["--data-dir", folder.to_str().unwrap()]].concat();
        let config = Command::parse_from(words).config;
        let Opened { home, durable, newest, cause, reads, plane_id } = store::open(&config).unwrap();
        let (open, gate) = mpsc::channel();
        let home = Gated { home, gate };
        let opened = Opened { home, durable, newest, cause, reads, plane_id };

        let server = Server::with(config, opened).await.unwrap();
        let handle = server.handle().clone();
        let api = server.api;
        assert_eq!((code(api, "/healthz").await, code(api, "/readyz").await), ("200".to_owned(), "503".to_owned()));

        drop(open);
        handle.begun().await;

        assert_eq!((code(api, "/healthz").await, code(api, "/readyz").await), ("200".to_owned(), "200".to_owned()));
        server.serve(async {}).await.unwrap();
        let _ = std::fs::remove_dir_all(folder);
    }
}
