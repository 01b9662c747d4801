//! The gRPC services: messages in, inputs to the plane; replies and records out, as messages.
//!
//! Generated types stop here. Invariant: no service waits for a disk on the network's threads; what reads the journal or
//! the history does so on threads that may wait, and only so many at a time.

mod access;
mod access_self;
mod access_words;
mod agent;
mod agent_down;
mod agent_effects;
mod agent_pace;
mod agent_up;
mod authority;
mod blob;
mod budget;
mod cluster;
mod cluster_watch;
mod delivery;
mod delivery_filter;
mod delivery_fold;
mod delivery_list;
mod delivery_watch;
mod effect;
mod effect_list;
mod event;
mod explain;
mod feedback;
mod first_answer;
mod fleet;
mod fleet_view;
mod fleet_watch;
mod identity;
mod ledger;
mod ledger_export;
mod ledger_redact;
mod model_load;
mod publish;
mod replay;
mod replay_request;
mod repository;
mod route;
mod route_policy;
mod route_table;
pub(crate) mod run;
mod run_log;
mod scorecards;
pub mod status;
mod task;
pub(crate) mod watch;
mod words;

use std::sync::{Arc, OnceLock};

pub use authority::Authorities;
pub(crate) use explain::fits;
pub use identity::{Identities, IdentityParts};
pub(crate) use route_table::{read as read_routes, route as read_route, write as write_routes};
pub(crate) use task::TaskKey;

use arc_swap::ArcSwap;
use mindos_core::Limits;
use mindos_core::output::Reply;
use mindos_journal::{Ledger, RealDisk};
use mindos_model::Seq;
use mindos_model::limits::{INLINE_MAX, MESSAGE_MAX};
use mindos_proto::access::v1::access_service_server::AccessServiceServer;
use mindos_proto::access::v1::authority_service_server::AuthorityServiceServer;
use mindos_proto::agent::v1::repository_service_server::RepositoryServiceServer;
use mindos_proto::blob::v1::blob_service_server::BlobServiceServer;
use mindos_proto::budget::v1::budget_service_server::BudgetServiceServer;
use mindos_proto::cluster::v1::cluster_service_server::ClusterServiceServer;
use mindos_proto::delivery::v1::delivery_service_server::DeliveryServiceServer;
use mindos_proto::effect::v1::effect_service_server::EffectServiceServer;
use mindos_proto::fleet::v1::fleet_service_server::FleetServiceServer;
use mindos_proto::identity::v1::identity_service_server::IdentityServiceServer;
use mindos_proto::ledger::v1::ledger_service_server::LedgerServiceServer;
use mindos_proto::replay::v1::replay_service_server::ReplayServiceServer;
use mindos_proto::route::v1::route_service_server::RouteServiceServer;
use mindos_proto::run::v1::run_service_server::RunServiceServer;
use mindos_proto::task::v1::task_service_server::TaskServiceServer;
use mindos_proto::wire::agent_service_server::AgentServiceServer;
use mindos_proto::wire::event_service_server::EventServiceServer;
use tokio::sync::{Semaphore, watch as signal};
use tonic::Status;
use tonic::service::RoutesBuilder;
use tracing::error;

use crate::access::AccessView;
use crate::access::tenancy::EventTenants;
use crate::blobs::BlobStore;
use crate::clusters::grants;
use crate::driver::Handle;
use crate::effects::{self, Readers};
use crate::ledger::checkpoints::Checkpoints;
use crate::ledger::keys::LedgerKeys;
use crate::ledger::redactions::Redactions;
use crate::limits::Rates;
use crate::logging::Chain;
use crate::payloads::Payloads;
use crate::prices::Prices;
use crate::routing::Judges;
use crate::secure::AccessMode;
use crate::surface::platform::PlatformSettings;
use crate::tls::server_config::Tls;
use crate::views::dedupe::DedupeIndex;
use crate::views::follow::Source;
use crate::views::history::HistoryReader;

/// Reads of journal and history at a time.
const READS_MAX: usize = 8;
/// Data of events in memory for conditions at a time, of 25 MiB at most each.
const DATA_READS_MAX: usize = 4;

/// What the services need.
pub struct Context {
    pub handle: Handle,
    pub payloads: Payloads,
    pub source: Arc<dyn Source>,
    pub dedupe: Arc<DedupeIndex>,
    pub history: HistoryReader,
    pub limits: Limits,
    /// Names the journal.
    pub plane_id: String,
    /// What models cost, for agents that report tokens alone.
    pub prices: Arc<ArcSwap<Prices>>,
    /// Turns true when the server drains.
    pub draining: signal::Receiver<bool>,
    /// Judge events by the conditions of routes.
    pub judges: Judges,
    /// Where spans go; empty while nothing is traced.
    pub otlp: crate::trace::Configured,
    /// Data too large for their events.
    pub blobs: Arc<BlobStore>,
    /// What peers may take.
    pub rates: Arc<Rates>,
    /// Who may do what, as it is.
    pub access: Arc<AccessView>,
    /// Whether callers have to say who they are.
    pub mode: AccessMode,
    /// Whose events are.
    pub(crate) event_tenants: EventTenants,
    /// Where the ports are encrypted.
    pub tls: OnceLock<Arc<Tls>>,
    /// Whether effects are carried out.
    pub effects: OnceLock<effects::settings::Configured>,
    /// What clusters may bring.
    pub clusters: OnceLock<grants::Configured>,
    /// What runs say while their Jobs run.
    pub(crate) run_logs: run_log::RunLogs,
    /// What is said of the platform's runs.
    pub platform: OnceLock<Arc<ArcSwap<PlatformSettings>>>,
    reads: Arc<Semaphore>,
    /// Reads of data for conditions.
    pub(crate) data_reads: Arc<Semaphore>,
    /// Turns for conditions that take long.
    pub(crate) slow_judges: Arc<Semaphore>,
    scorecards: Arc<Semaphore>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("plane_id", &self.plane_id).finish_non_exhaustive()
    }
}

/// What a context is made of.
pub struct Parts {
    pub handle: Handle,
    pub payloads: Payloads,
    pub source: Arc<dyn Source>,
    pub dedupe: Arc<DedupeIndex>,
    pub history: HistoryReader,
    pub limits: Limits,
    pub plane_id: String,
    pub prices: Arc<ArcSwap<Prices>>,
    pub draining: signal::Receiver<bool>,
    pub otlp: crate::trace::Configured,
    pub blobs: Arc<BlobStore>,
    pub rates: Arc<Rates>,
    pub access: Arc<AccessView>,
    pub mode: AccessMode,
}

impl Context {
    /// A context of these parts.
    #[must_use]
    pub fn new(parts: Parts) -> Context {
        let Parts {
            handle,
            payloads,
            source,
            dedupe,
            history,
            limits,
            plane_id,
            prices,
            draining,
            otlp,
            blobs,
            access,
            mode,
            rates,
        } = parts;
        let reads = Arc::new(Semaphore::new(READS_MAX));
        let judges = Judges::default();
        Context {
            handle,
            payloads,
            source,
            dedupe,
            history,
            limits,
            plane_id,
            prices,
            draining,
            judges,
            otlp,
            blobs,
            rates,
            access,
            mode,
            event_tenants: EventTenants::default(),
            reads,
            data_reads: Arc::new(Semaphore::new(DATA_READS_MAX)),
            slow_judges: Arc::new(Semaphore::new(1)),
            scorecards: Arc::new(Semaphore::new(1)),
            tls: OnceLock::new(),
            effects: OnceLock::new(),
            clusters: OnceLock::new(),
            run_logs: run_log::RunLogs::default(),
            platform: OnceLock::new(),
        }
    }

    /// Runs something that may wait for a disk.
    pub(crate) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Context) -> T + Send + 'static,
    ) -> Result<T, Status> {
        let permit = Arc::clone(&self.reads).acquire_owned().await;
        let permit = permit.map_err(|_| Status::unavailable("the control plane is stopping"))?;
        let context = Arc::clone(self);
        // Given back when the read has ended, also where its caller is gone before.
        let read = move || {
            let _permit = permit;
            read(&context)
        };
        tokio::task::spawn_blocking(read).await.map_err(|error| failed("a read panicked", &error))
    }

    /// Whether effects stay open, whatever they are.
    pub(crate) fn effects_are_off(&self) -> bool {
        self.effects.get().is_none_or(|configured| configured.load().mode == effects::settings::Mode::Off)
    }

    /// Completes when the server drains.
    pub(crate) async fn drained(&self) {
        // The sender lives as long as the server.
        let _ = self.draining.clone().wait_for(|draining| *draining).await;
    }
}

/// The services of the API, without those that live elsewhere.
pub fn api(context: &Arc<Context>, routes: &mut RoutesBuilder) {
    let events = event::Events { context: Arc::clone(context) };
    let deliveries = delivery::Deliveries { context: Arc::clone(context) };
    let fleet = fleet::Fleet { context: Arc::clone(context) };
    let table = route::Routes { context: Arc::clone(context) };
    let budgets = budget::Budgets { context: Arc::clone(context) };
    let effects = effect::EffectApi { context: Arc::clone(context) };
    let replays = replay::Replays { context: Arc::clone(context) };
    let access = access::AccessApi { context: Arc::clone(context) };
    let tasks = task::Tasks { context: Arc::clone(context) };
    routes
        .add_service(
            EventServiceServer::new(events)
                .max_decoding_message_size(MESSAGE_MAX + SLACK)
                .max_encoding_message_size(usize::MAX),
        )
        .add_service(DeliveryServiceServer::new(deliveries).max_encoding_message_size(usize::MAX))
        .add_service(FleetServiceServer::new(fleet))
        .add_service(BudgetServiceServer::new(budgets))
        .add_service(EffectServiceServer::new(effects).max_encoding_message_size(usize::MAX))
        .add_service(ReplayServiceServer::new(replays))
        .add_service(AccessServiceServer::new(access))
        .add_service(TaskServiceServer::new(tasks).max_encoding_message_size(usize::MAX))
        .add_service(RouteServiceServer::new(table));
}

/// What the service that shows the ledger needs beside its context.
#[derive(Clone, Debug)]
pub struct LedgerParts {
    pub ledger: Ledger<RealDisk>,
    pub keys: LedgerKeys,
    pub checkpoints: Checkpoints,
    pub redactions: Redactions,
}

/// The services by which agents come by certificates and people look after what makes them.
pub fn certificates(identities: Identities, authorities: Authorities, routes: &mut RoutesBuilder) {
    routes
        .add_service(IdentityServiceServer::new(identities).max_decoding_message_size(identity::REQUEST_MAX))
        .add_service(AuthorityServiceServer::new(authorities));
}

/// The service that shows the ledger.
pub fn ledger(context: &Arc<Context>, parts: LedgerParts, routes: &mut RoutesBuilder) {
    let LedgerParts { ledger, keys, checkpoints, redactions } = parts;
    let reader = ledger.reader().clone();
    let ledger = ledger::Ledger { context: Arc::clone(context), reader, ledger, keys, checkpoints, redactions };
    routes.add_service(LedgerServiceServer::new(ledger).max_encoding_message_size(usize::MAX));
}

/// The service that keeps blobs.
pub fn blobs(context: &Arc<Context>, store: Arc<BlobStore>, routes: &mut RoutesBuilder) {
    let blobs = blob::Blobs { context: Arc::clone(context), store, streams: blob::Streams::default() };
    routes.add_service(BlobServiceServer::new(blobs).max_decoding_message_size(INLINE_MAX + SLACK));
}

/// The service by which agents read repositories.
pub fn repositories(context: &Arc<Context>, readers: Readers, routes: &mut RoutesBuilder) {
    let repositories = repository::Repositories { context: Arc::clone(context), readers };
    routes.add_service(RepositoryServiceServer::new(repositories));
}

/// The service that takes objects of clusters.
pub fn clusters(context: &Arc<Context>, routes: &mut RoutesBuilder) {
    let clusters = cluster::Clusters { context: Arc::clone(context) };
    routes.add_service(ClusterServiceServer::new(clusters).max_decoding_message_size(cluster::REQUEST_MAX));
}

/// The service of agents.
pub fn agents(context: &Arc<Context>, routes: &mut RoutesBuilder) {
    let agents = agent::Agents { context: Arc::clone(context) };
    let runs = run::Runs { context: Arc::clone(context) };
    routes
        .add_service(AgentServiceServer::new(agents).max_decoding_message_size(MESSAGE_MAX + SLACK))
        .add_service(RunServiceServer::new(runs).max_decoding_message_size(INLINE_MAX + SLACK));
}

/// What a frame may have beside the 4 MiB of its messages.
const SLACK: usize = 64 * 1024;

/// Logs a failure of ours and says that there was one.
fn failed(what: &'static str, error: &(dyn std::error::Error + 'static)) -> Status {
    error!(error = %Chain(error), "{what}");
    status::internal(what).into()
}

/// The plane answered something else than what was asked.
fn unexpected(reply: &Reply) -> Status {
    error!(?reply, "plane gave an answer of another kind");
    status::internal("the plane gave an answer of another kind").into()
}

/// Bounds of a page: 0 means 100, and at most 1000.
fn page_size(asked: u32, max: usize) -> Result<usize, Status> {
    match asked {
        0 => Ok(max.min(100)),
        1..=1000 => Ok((asked as usize).min(max)),
        _ => Err(Status::invalid_argument(format!("page_size: is {asked}: expected at most 1000"))),
    }
}

/// Reads a page token that is a sequence; empty is `None`.
fn seq_token(token: &str) -> Result<Option<Seq>, Status> {
    if token.is_empty() {
        return Ok(None);
    }
    let seq = token.parse().map_err(|_| Status::invalid_argument("page_token: is not one that was given out"))?;
    Ok(Some(Seq(seq)))
}
