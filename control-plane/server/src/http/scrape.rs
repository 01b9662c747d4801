//! `/metrics`: what there is to see, read where it lives at the moment of the scrape.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::header;
use mindos_core::input::{Input, Query};
use mindos_core::output::{Reply, Totals};
use mindos_journal::{Reader, RealDisk};
use mindos_model::TenantName;

use super::Http;
use crate::access::Principal;
use crate::grpc::Context;
use crate::metrics::{self, Exposition, Kind};
use crate::sinks::SinkStates;
use crate::views::follow::Progress;
use crate::views::stats::Stats;

/// How long the plane may take to count what is open.
const PATIENCE: Duration = Duration::from_secs(1);

/// Families that are written elsewhere.
#[derive(Clone)]
pub struct Exposed(Arc<dyn Fn(&mut Exposition) + Send + Sync>);

impl Exposed {
    /// Wraps what writes them.
    pub fn new(write: impl Fn(&mut Exposition) + Send + Sync + 'static) -> Exposed {
        Exposed(Arc::new(write))
    }
}

impl std::fmt::Debug for Exposed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Exposed")
    }
}

/// What a scrape reads, beside the plane itself.
#[derive(Clone, Debug)]
pub struct Scraped {
    pub stats: Stats,
    pub journal: Reader<RealDisk>,
    /// The followers by name.
    pub views: Vec<(&'static str, Arc<Progress>)>,
    /// The record of the newest snapshot.
    pub snapshot: Arc<AtomicU64>,
    pub others: Vec<Exposed>,
    /// For `GET /sinks`.
    pub sinks: SinkStates,
}

/// Answers `GET /metrics`: everything to viewers of the plane, and to others what is their tenant's.
pub(super) async fn get(http: &Http, caller: &Principal) -> Response {
    let mut into = Exposition::default();
    if !caller.sees_all() {
        http.scraped.stats.read().expose_of(&caller.tenant, &mut into);
        http.scraped.sinks.expose_of(&caller.tenant, http.context.handle.durable_seq(), &mut into);
        if caller.tenant == TenantName::default_tenant() {
            crate::surface::gitlens::expose_generals(&http.gitlens, &mut into).await;
        }
        return ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], into.into_text()).into_response();
    }
    let totals = totals(&http.context).await;
    http.scraped.stats.read().expose(&mut into);
    if let Some(totals) = totals {
        open(&totals, &mut into);
    }
    let (failed, again) = http.context.judges.counts();
    let help = "Conditions of routes that could not be evaluated for an event, and so did not hold.";
    into.single("mindos_route_conditions_failed_total", Kind::Counter, help, failed);
    let help = "Events judged again, because the routes changed while they were on their way.";
    into.single("mindos_events_judged_again_total", Kind::Counter, help, again);
    http.context.judges.expose(&mut into);
    journal(http, &mut into);
    views(http, &mut into);
    http.counted.expose(&mut into);
    crate::surface::gitlens::expose(&http.gitlens, &mut into).await;
    http.scraped.others.iter().for_each(|other| (other.0)(&mut into));
    metrics::process().expose(&mut into);
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], into.into_text()).into_response()
}

/// Answers `GET /sinks` with those of the caller's tenant, or all.
pub(super) fn sinks(http: &Http, caller: &Principal) -> Response {
    let whose = (!caller.sees_all()).then_some(&caller.tenant);
    axum::Json(http.scraped.sinks.show(whose, http.context.handle.durable_seq())).into_response()
}

async fn totals(context: &Context) -> Option<Totals> {
    // They are the sums of all tenants.
    let tenant = TenantName::default_tenant();
    let ask = |request| Input::Query { request, tenant, query: Query::Totals };
    match tokio::time::timeout(PATIENCE, context.handle.call(ask)).await {
        Ok(Ok(Reply::Totals(totals))) => Some(totals),
        _ => None,
    }
}

fn open(totals: &Totals, into: &mut Exposition) {
    let Totals {
        events_open,
        waiting,
        leased,
        parked,
        lanes,
        sessions: _,
        generals,
        effects_waiting,
        effects_failed,
        dedupe_keys,
        dedupe_from,
        seq: _,
        epoch,
    } = totals;
    let mut family = into.family("mindos_open_deliveries", Kind::Gauge, "Deliveries that have not ended, by status.");
    for (status, count) in [("waiting", waiting), ("leased", leased), ("parked", parked)] {
        family.series(&[("status", status)], count);
    }
    into.single("mindos_open_events", Kind::Gauge, "Events with deliveries that have not ended.", events_open);
    let mut family = into.family("mindos_effects_open", Kind::Gauge, "Effects that have not ended, by status.");
    for (status, count) in [("waiting", effects_waiting), ("failed", effects_failed)] {
        family.series(&[("status", status)], count);
    }
    into.single("mindos_lanes", Kind::Gauge, "Lanes with open deliveries.", lanes);
    into.single("mindos_generals", Kind::Gauge, "Generals known.", generals);
    into.single("mindos_dedupe_core_keys", Kind::Gauge, "Event keys that the core remembers.", dedupe_keys);
    let help = "Record of the oldest event key that the core remembers.";
    into.single("mindos_dedupe_core_from_seq", Kind::Gauge, help, dedupe_from);
    into.single("mindos_epoch", Kind::Gauge, "Epoch in force.", epoch);
}

fn journal(http: &Http, into: &mut Exposition) {
    let (handle, journal) = (&http.context.handle, &http.scraped.journal);
    let usage = journal.usage();
    into.single("mindos_journal_durable_seq", Kind::Counter, "Last record on stable storage.", handle.durable_seq());
    into.single("mindos_journal_first_seq", Kind::Gauge, "First record that is kept.", journal.first());
    into.single("mindos_journal_used_bytes", Kind::Gauge, "Bytes that the journal takes.", usage.used_bytes);
    if usage.quota_bytes < u64::MAX {
        into.single("mindos_journal_quota_bytes", Kind::Gauge, "Bytes that the journal may take.", usage.quota_bytes);
    }
    let help = "Whether events are refused because the disk, or what of it may be used, is full.";
    into.single("mindos_journal_tight", Kind::Gauge, help, u8::from(handle.is_tight()));
    let snapshot = http.scraped.snapshot.load(Ordering::Relaxed);
    into.single("mindos_snapshot_seq", Kind::Gauge, "Record of the newest snapshot.", snapshot);
    let tail = handle.durable_seq().0.saturating_sub(snapshot);
    into.single("mindos_snapshot_tail_records", Kind::Gauge, "Records that a start would replay.", tail);
    into.single("mindos_sessions", Kind::Gauge, "Streams of agents that are open.", handle.sessions_open());
    into.single(
        "mindos_payload_cache_bytes",
        Kind::Gauge,
        "Bytes of payloads in memory.",
        http.context.payloads.bytes(),
    );
    into.single("mindos_blob_used_bytes", Kind::Gauge, "Bytes that blobs take.", http.blobs.used());
}

fn views(http: &Http, into: &mut Exposition) {
    let end = http.context.handle.durable_seq();
    let views = &http.scraped.views;
    let mut family = into.family("mindos_view_lag_records", Kind::Gauge, "Records that a view has not seen yet.");
    views.iter().for_each(|(name, progress)| family.series(&[("view", name)], progress.lag(end)));
    let help = "How often a view failed and was brought back.";
    let mut family = into.family("mindos_view_restarts_total", Kind::Counter, help);
    views.iter().for_each(|(name, progress)| family.series(&[("view", name)], progress.restarts()));
    let lag = end.0.saturating_sub(http.context.history.committed().0);
    into.single("mindos_history_lag_records", Kind::Gauge, "Records that the history does not show yet.", lag);
    let dedupe = &http.context.dedupe;
    into.single("mindos_dedupe_index_keys", Kind::Gauge, "Event keys in the index on disk.", dedupe.keys());
    let help = "Last record whose event keys are in the index on disk.";
    into.single("mindos_dedupe_index_through_seq", Kind::Gauge, help, dedupe.covered_through());
    if let Some(from) = dedupe.covered_from() {
        let help = "First record whose event keys are in the index on disk: the horizon in force.";
        into.single("mindos_dedupe_index_from_seq", Kind::Gauge, help, from);
    }
}
