//! What follows the journal beside the plane: the views, the snapshots, and the surfaces that show them.
//!
//! Invariant: nothing here makes the plane wait; what lags reads the journal, and what fails is brought back.

use std::io;
use std::sync::Arc;

use arc_swap::ArcSwap;
use mindos_core::access::Access;
use mindos_core::journal::JournalError;
use mindos_journal::keyring::KeyringError;
use mindos_model::{Seq, TenantName, Timestamp};
use tokio::task::JoinSet;
use tonic::service::RoutesBuilder;

use crate::access::jwt::Jwt;
use crate::access::service_account::ServiceAccounts;
use crate::blobs::{BlobError, BlobStore};
use crate::catch_up::CatchUp;
use crate::config::Config;
use crate::driver::Handle;
use crate::effects::{Effects, Readers};
use crate::feedback::poll::Poller;
use crate::feedback::publish::Publisher;
use crate::feedback::view::FeedbackView;
use crate::grpc::{self, Context, LedgerParts};
use crate::http::{self, Exposed, HttpParts, HttpSettings, Scraped};
use crate::ledger::anchors::{AnchorStates, Anchoring};
use crate::ledger::changes;
use crate::ledger::checkpoints::CheckpointsView;
use crate::ledger::keys::LedgerKeys;
use crate::ledger::redactions::Redactions;
use crate::ledger::redactor::{Places, RedactorView};
use crate::ledger::signer::{Signer, SignerSettings};
use crate::notify::{self, Paces};
use crate::payloads::Payloads;
use crate::prices::Prices;
use crate::settings::{InForce, LiveSettings, SettingsError};
use crate::sinks::{SinkStates, Sinks};
use crate::store::Reads;
use crate::surface::gitlens::{Board, BoardError, BoardView, Gitlens, GitlensSettings, Turned};
use crate::surface::platform::{self, Platform, PlatformConfig, PlatformSettings};
use crate::tasks::http_counts::TaskCounts;
use crate::tasks::queue::{self as task_queue, QueueReader};
use crate::trace::{self, Tracer};
use crate::views::blob_refs::{BlobRefs, BlobRefsView, RefsError};
use crate::views::dedupe::{DedupeError, DedupeIndex, DedupeWriter, Horizon};
use crate::views::follow::{Follower, Priority, Progress, Source, View};
use crate::views::history::{HistoryError, HistoryReader, HistorySettings, HistoryWriter};
use crate::views::retention::{Retention, RetentionSettings};
use crate::views::snapshot::{SnapshotFollower, SnapshotHome, SnapshotSettings, Snapshotter};
use crate::views::stats::{Stats, StatsView};
use mindos_outgoing::Outgoing;

/// Why upkeep did not start.
#[derive(Debug, thiserror::Error)]
pub enum UpkeepError {
    #[error(transparent)]
    Dedupe(#[from] DedupeError),
    #[error(transparent)]
    History(#[from] HistoryError),
    #[error("failed to look for snapshots")]
    Snapshots(#[from] JournalError),
    #[error(transparent)]
    Blobs(#[from] BlobError),
    #[error(transparent)]
    BlobRefs(#[from] RefsError),
    #[error(transparent)]
    Board(#[from] BoardError),
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("failed to open the index of feedback")]
    Feedback(#[from] rusqlite::Error),
    #[error("failed to open the file of turns to write on GitHub, `pace.db`")]
    Pace(#[source] rusqlite::Error),
    #[error("failed to open the keys of the ledger")]
    Keys(#[from] KeyringError),
    #[error("failed to open the ledger's checkpoints or redactions")]
    Ledger(#[source] io::Error),
    #[error("failed to start a thread")]
    Thread(#[from] io::Error),
}

/// The followers of a running server.
#[derive(Debug)]
pub struct Upkeep {
    dedupe: Arc<DedupeIndex>,
    history: HistoryReader,
    stats: Stats,
    followers: Vec<Follower>,
    snapshots: SnapshotFollower,
    blobs: Arc<BlobStore>,
    blob_refs: BlobRefs,
    progress: Vec<(&'static str, Arc<Progress>)>,
    reads: Arc<Reads>,
    retention: RetentionSettings,
    settings: Option<LiveSettings>,
    in_force: InForce,
    catch_up: Option<CatchUp>,
    sinks: Sinks,
    tracer: Tracer,
    exposed: Vec<Exposed>,
    board: Board,
    turned: Arc<Turned>,
    senders: Vec<crate::notify::Task>,
    ledger: LedgerParts,
    /// There are settings to tell of, or were.
    notes_settings: bool,
    signer: Option<Signer>,
    anchoring: Option<Anchoring>,
    jwt: Jwt,
    service_accounts: Arc<ServiceAccounts>,
    effects: Effects,
    readers: Readers,
    tasks: Arc<TaskCounts>,
    task_queue: QueueReader,
    publisher: Publisher,
}

impl Upkeep {
    /// Opens the views and starts their threads.
    ///
    /// # Errors
    /// When a view cannot be opened.
    pub fn start(
        config: &Config,
        handle: &Handle,
        reads: &Arc<Reads>,
        payloads: &Payloads,
        access: &Access,
        newest: Timestamp,
    ) -> Result<Upkeep, UpkeepError> {
        let source: Arc<dyn Source> = Arc::clone(reads) as Arc<dyn Source>;
        let writer = DedupeWriter::open(&config.data_dir.join("dedupe"), Horizon::default())?;
        let dedupe = writer.index();
        let mut views = Views { handle, source: &source, followers: Vec::new(), progress: Vec::new() };
        views.start(writer, Priority::Normal)?;

        let settings = HistorySettings {
            keep_age: config.history_keep,
            keep_bytes: config.history_bytes,
            ..HistorySettings::default()
        };
        let writer = HistoryWriter::open(&config.data_dir.join("history"), settings)?;
        let history = writer.reader();
        views.start(writer, Priority::Low)?;

        let view = StatsView::new(handle.durable_seq());
        let stats = view.stats();
        views.start(view, Priority::Normal)?;

        let path = config.data_dir.join("blobs");
        let blobs = Arc::new(BlobStore::open(&path, config.blob_quota)?);
        let view = BlobRefsView::open(&path)?;
        let blob_refs = view.refs();
        views.start(view, Priority::Low)?;
        let view = BoardView::open(&config.data_dir, TenantName::default_tenant())?;
        let board = view.board();
        views.start(view, Priority::Low)?;
        let log_id = reads.ledger().reader().log_id();
        let view = CheckpointsView::open(&config.data_dir, log_id).map_err(UpkeepError::Ledger)?;
        let ledger = LedgerParts {
            ledger: reads.ledger().clone(),
            keys: LedgerKeys::open(&config.data_dir, log_id)?,
            checkpoints: view.known(),
            redactions: Redactions::default(),
        };
        views.start(view, Priority::Low)?;
        let places = Places {
            ledger: reads.ledger().clone(),
            log: reads.redactor().clone(),
            payloads: payloads.clone(),
            blobs: Arc::clone(&blobs),
            views: views
                .progress
                .iter()
                .filter(|(name, _)| *name == "gitlens")
                .map(|(_, seen)| Arc::clone(seen))
                .collect(),
        };
        let view = RedactorView::open(&config.data_dir, places, ledger.redactions.clone());
        views.start(view.map_err(UpkeepError::Ledger)?, Priority::Low)?;
        let file = config.settings.as_deref();
        let live = LiveSettings::open(&config.webhooks, config.environment(), &config.log, file)?;
        let in_force = live.in_force();
        let client = Outgoing::new();
        let paces = Paces::default();
        let (view, senders, notices) = notify::start(&in_force.notify, &paces, &client, handle.durable_seq().next());
        views.start(view, Priority::Low)?;
        let path = config.data_dir.join("feedback.db");
        let view = FeedbackView::open(&path, Arc::clone(&blobs), in_force.own_logins.clone())?;
        let publisher = Publisher { path, said: view.said(), counts: Arc::default() };
        views.start(view, Priority::Low)?;
        let Views { followers, progress, .. } = views;

        let home: Arc<dyn SnapshotHome> = Arc::clone(reads) as Arc<dyn SnapshotHome>;
        let settings = SnapshotSettings {
            tail_max: config.snapshot_tail,
            interval_min: config.snapshot_interval,
            ..SnapshotSettings::default()
        };
        let snapshotter = Snapshotter::new(source, home, settings)?;
        let snapshots = SnapshotFollower::start(snapshotter, handle.subscribe())?;
        let retention = RetentionSettings {
            keep_age: config.journal_keep,
            keep_bytes: config.journal_keep_bytes,
            interval: config.upkeep_interval,
        };
        let catch_up = CatchUp::new(client.clone(), handle.clock());
        let sinks = Sinks {
            configured: Arc::clone(&in_force.sinks),
            states: SinkStates::default(),
            dir: config.data_dir.join("sinks"),
            client,
            paces,
        };
        let tracer = Tracer {
            configured: Arc::clone(&in_force.otlp),
            counts: trace::Counts::default(),
            client: sinks.client.clone(),
        };
        let spans = tracer.counts.clone();
        let (counts, states, plane) = (catch_up.counts(), sinks.states.clone(), handle.clone());
        handle.admission().follow(Arc::clone(&in_force.quotas));
        let jwt = Jwt::new(handle.clock(), Arc::clone(&in_force.oidc));
        let tokens = jwt.clone();
        let service_accounts = ServiceAccounts::new(handle.clock(), Arc::clone(&in_force.token_review));
        let door = handle.clone();
        let exposed = vec![
            Exposed::new(move |into| counts.expose(into)),
            Exposed::new(move |into| spans.expose(into)),
            Exposed::new(move |into| states.expose(plane.durable_seq(), into)),
            Exposed::new(move |into| door.admission().expose(into)),
            Exposed::new(move |into| notices.expose(into)),
            Exposed::new(move |into| tokens.expose(into)),
        ];
        let signer = Signer {
            handle: handle.clone(),
            ledger: reads.ledger().clone(),
            keys: ledger.keys.clone(),
            settings: SignerSettings { records: config.checkpoint_records, interval: config.checkpoint_interval },
            last: access
                .last_checkpoint()
                .map_or((Seq::ZERO, Seq::ZERO), |(seq, checkpoint)| (checkpoint.through, seq)),
        };
        let anchoring = Anchoring {
            configured: Arc::clone(&in_force.anchors),
            checkpoints: ledger.checkpoints.clone(),
            states: AnchorStates::default(),
            client: sinks.client.clone(),
            clock: handle.clock(),
            log_id,
            dir: config.data_dir.join("anchors"),
        };
        let (states, noted, plane) = (anchoring.states.clone(), ledger.checkpoints.clone(), handle.clone());
        let pace = config.data_dir.join("pace.db");
        let effects = Effects::new(&in_force.effects, sinks.client.clone(), handle, &pace, newest);
        let effects = effects.map_err(UpkeepError::Pace)?;
        let counts = effects.counts();
        let mut exposed = exposed;
        exposed.push(Exposed::new(move |into| counts.expose(into)));
        exposed.push(Exposed::new(move |into| states.expose(&noted, plane.durable_seq(), plane.now(), into)));
        let tasks = Arc::new(TaskCounts::default());
        let task_queue =
            QueueReader { configured: Arc::clone(&in_force.tasks), counts: Arc::new(task_queue::Counts::default()) };
        let (asked, read, heard) = (Arc::clone(&tasks), Arc::clone(&task_queue.counts), Arc::clone(&publisher.counts));
        exposed.push(Exposed::new(move |into| {
            asked.expose(into);
            read.expose(into);
            heard.expose(into);
        }));
        let (reads, settings) = (Arc::clone(reads), Some(live));
        Ok(Upkeep {
            dedupe,
            history,
            stats,
            followers,
            snapshots,
            blobs,
            blob_refs,
            progress,
            reads,
            retention,
            settings,
            in_force,
            catch_up: Some(catch_up),
            sinks,
            tracer,
            exposed,
            board,
            turned: Arc::default(),
            senders,
            ledger,
            notes_settings: config.settings.is_some()
                || access.settings().any(|(what, _)| &**what == changes::SETTINGS),
            signer: Some(signer),
            anchoring: Some(anchoring),
            jwt,
            service_accounts: Arc::new(service_accounts),
            readers: effects.readers(),
            effects,
            tasks,
            task_queue,
            publisher,
        })
    }

    /// The keys that sign the ledger: for whoever rotates them.
    #[must_use]
    pub fn ledger_keys(&self) -> LedgerKeys {
        self.ledger.keys.clone()
    }

    /// What models cost, as the settings say.
    pub fn prices(&self) -> Arc<ArcSwap<Prices>> {
        Arc::clone(&self.in_force.prices)
    }

    /// What peers may take, as the settings say.
    #[must_use]
    pub fn limits(&self) -> Arc<ArcSwap<crate::limits::Limits>> {
        Arc::clone(&self.in_force.limits)
    }

    /// Verifies tokens of the identity providers that the settings name.
    #[must_use]
    pub fn jwt(&self) -> Jwt {
        self.jwt.clone()
    }

    /// Checks service account tokens of clusters.
    #[must_use]
    pub fn service_accounts(&self) -> Arc<ServiceAccounts> {
        Arc::clone(&self.service_accounts)
    }

    /// Spawns what looks after the journal and the settings; it ends when the server drains.
    pub fn spawn(&mut self, context: &Arc<Context>, tasks: &mut JoinSet<()>) {
        let _ = context.effects.set(Arc::clone(&self.in_force.effects));
        let _ = context.clusters.set(Arc::clone(&self.in_force.clusters));
        let _ = context.platform.set(Arc::clone(&self.in_force.platform));
        if let Some(settings) = self.settings.take() {
            tasks.spawn(settings.watch(context.draining.clone()));
        }
        let (handle, digest) = (context.handle.clone(), self.in_force.digest.subscribe());
        if self.notes_settings {
            tasks.spawn(changes::follow(handle, self.ledger_keys(), digest, context.draining.clone()));
        }
        if let Some(signer) = self.signer.take() {
            tasks.spawn(signer.run(context.draining.clone()));
        }
        if let Some(anchoring) = self.anchoring.take() {
            tasks.spawn(anchoring.run(context.draining.clone()));
        }
        for sender in self.senders.drain(..) {
            let context = Arc::clone(context);
            tasks.spawn(async move {
                tokio::select! {
                    () = sender => {}
                    () = context.drained() => {}
                }
            });
        }
        if let Some(catch_up) = self.catch_up.take() {
            tasks.spawn(catch_up.run(Arc::clone(&self.in_force.app), context.draining.clone()));
        }
        tasks.spawn(self.readers.clone().watch(context.draining.clone()));
        tasks.spawn(self.effects.clone().run(Arc::clone(context)));
        tasks.spawn(self.task_queue.clone().run(Arc::clone(context)));
        tasks.spawn(self.publisher.clone().run(Arc::clone(context)));
        let poller = Poller {
            path: self.publisher.path.clone(),
            configured: Arc::clone(&self.in_force.feedback),
            effects: self.effects.clone(),
            own: self.in_force.own_logins.clone(),
            counts: Arc::clone(&self.publisher.counts),
        };
        tasks.spawn(poller.run(Arc::clone(context)));
        tasks.spawn(self.in_force.own_logins.clone().follow(self.effects.author(), context.draining.clone()));
        tasks.spawn(self.tracer.clone().run(Arc::clone(context)));
        tasks.spawn(self.sinks.clone().run(Arc::clone(context)));
        let seen =
            |name| self.progress.iter().find(|(view, _)| *view == name).map(|(_, progress)| Arc::clone(progress));
        let retention = Retention {
            handle: context.handle.clone(),
            ledger: self.reads.ledger().clone(),
            history: self.history(),
            dedupe: self.dedupe(),
            blobs: Arc::clone(&self.blobs),
            blob_refs: self.blob_refs.clone(),
            blob_progress: seen("blob-refs").unwrap_or_default(),
            snapshot_wanted: self.snapshots.wanted(),
            settings: self.retention,
        };
        tasks.spawn(retention.run(context.draining.clone()));
    }

    /// Adds families to what a scrape shows.
    pub fn expose(&mut self, exposed: Exposed) {
        self.exposed.push(exposed);
    }

    /// Data too large for their events.
    #[must_use]
    pub fn blobs(&self) -> Arc<BlobStore> {
        Arc::clone(&self.blobs)
    }

    /// Where spans go, if anywhere.
    #[must_use]
    pub fn otlp(&self) -> trace::Configured {
        Arc::clone(&self.in_force.otlp)
    }

    /// The index of events that left the core's own window.
    #[must_use]
    pub fn dedupe(&self) -> Arc<DedupeIndex> {
        Arc::clone(&self.dedupe)
    }

    /// Answers questions about the past.
    #[must_use]
    pub fn history(&self) -> HistoryReader {
        self.history.clone()
    }

    /// Counts of what went through.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats.clone()
    }

    /// Adds the services that show the ledger and keep blobs.
    pub fn services(&self, context: &Arc<Context>, routes: &mut RoutesBuilder) {
        grpc::ledger(context, self.ledger.clone(), routes);
        grpc::blobs(context, Arc::clone(&self.blobs), routes);
    }

    /// The services that agents need beside their stream: payloads and outputs too large for it.
    pub fn agent_services(&self, context: &Arc<Context>, routes: &mut RoutesBuilder) {
        grpc::blobs(context, Arc::clone(&self.blobs), routes);
        grpc::repositories(context, self.readers.clone(), routes);
        grpc::clusters(context, routes);
    }

    /// What answers HTTP.
    pub fn router(&self, context: &Arc<Context>) -> axum::Router {
        http::router(HttpParts {
            context: Arc::clone(context),
            blobs: Arc::clone(&self.blobs),
            scraped: Scraped {
                stats: self.stats.clone(),
                journal: self.reads.ledger().reader().clone(),
                views: self.progress.clone(),
                snapshot: self.snapshots.newest(),
                others: self.exposed.clone(),
                sinks: self.sinks.states.clone(),
            },
            gitlens: self.gitlens(context),
            settings: HttpSettings {
                github: Arc::clone(&self.in_force.github),
                doors: Arc::clone(&self.in_force.doors),
                tasks: Arc::clone(&self.in_force.tasks),
                own_logins: self.in_force.own_logins.clone(),
                task_counts: Arc::clone(&self.tasks),
                ..HttpSettings::default()
            },
        })
    }

    /// What the surface of the GitLens contract is.
    #[must_use]
    pub fn gitlens_settings(&self) -> Arc<GitlensSettings> {
        self.in_force.gitlens.load_full()
    }

    /// The surface of the GitLens contract.
    #[must_use]
    pub fn gitlens(&self, context: &Arc<Context>) -> Arc<Gitlens> {
        let (settings, turned) = (Arc::clone(&self.in_force.gitlens), Arc::clone(&self.turned));
        Arc::new(Gitlens::new(Arc::clone(context), self.board.clone(), settings, turned))
    }

    /// What the surface of the platform's contract is.
    #[must_use]
    pub fn platform_settings(&self) -> Arc<PlatformSettings> {
        self.in_force.platform.load_full()
    }

    /// The surface of the platform's contract. `api` is what answers HTTP on the API's listener.
    #[must_use]
    pub fn platform(
        &self,
        context: &Arc<Context>,
        config: &PlatformConfig,
        turned: platform::Turned,
        api: axum::Router,
    ) -> Arc<Platform> {
        let settings = Arc::clone(&self.in_force.platform);
        Arc::new(Platform::new(Arc::clone(context), settings, config.clone(), turned, api))
    }

    /// Ends the threads once the views are closed. Blocks.
    pub fn stop(self) {
        let Upkeep { followers, snapshots, .. } = self;
        drop(snapshots);
        followers.into_iter().for_each(Follower::stop);
    }
}

/// Followers being started.
struct Views<'a> {
    handle: &'a Handle,
    source: &'a Arc<dyn Source>,
    followers: Vec<Follower>,
    progress: Vec<(&'static str, Arc<Progress>)>,
}

impl Views<'_> {
    fn start(&mut self, view: impl View + 'static, priority: Priority) -> io::Result<()> {
        let name = view.name();
        let follower = Follower::start(view, self.handle.subscribe(), Arc::clone(self.source), priority)?;
        self.progress.push((name, follower.progress()));
        self.followers.push(follower);
        Ok(())
    }
}
