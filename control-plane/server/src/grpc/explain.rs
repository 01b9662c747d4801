//! Explaining routes: where a table would send the events of the journal, against where they went.
//!
//! Invariant: the journal is read once, from the first event asked for on, and nothing is kept of an event that was looked at
//! but counts.

use std::collections::BTreeMap;
use std::sync::Arc;

use mindos_core::ASKED_PREFIX;
use mindos_core::guard::{self, GuardAction, Guarded};
use mindos_core::journal::JournalError;
use mindos_core::output::{FleetView, GeneralView};
use mindos_core::record::{Degraded, Entry, EventAccepted, KeptOut, Labels, Record};
use mindos_core::route::{Route, RouteTable, Targets, Version};
use mindos_model::{Seq, Strategy, Timestamp};
use mindos_proto::convert::{time, timestamp};
use mindos_proto::fleet::v1::GeneralName;
use mindos_proto::route::v1::explain_response::Part;
use mindos_proto::route::v1::{
    self as wire, ExplainFailure, ExplainFlow, ExplainRequest, ExplainResponse, ExplainSummary, ExplainedEvent,
    ExplainedWay, KeptOutGeneral,
};
use tokio::sync::mpsc;
use tonic::Status;

use super::{Context, route_table, status, words};
use crate::access::Scoped;
use crate::blobs::BlobStore;
use crate::ingest::event::{json_dataref, trust_of};
use crate::routing::elsewhere::{self, Unread};
use crate::routing::{Facts, Judge};

/// Events shown where nothing is said, and at most.
const SHOWN: u32 = 100;
const SHOWN_MAX: u32 = 10_000;
/// Generals shown of one way.
const GENERALS_MAX: usize = 64;
/// Pairs of routes that are counted apart; the rest is counted under the route it went by.
const FLOWS_MAX: usize = 10_000;

/// What is asked, checked.
pub(super) struct Asked {
    judge: Judge,
    ways: Vec<ExplainedWay>,
    seq: Option<Seq>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    same_too: bool,
    shown_max: u32,
}

impl Asked {
    pub(super) fn new(request: ExplainRequest, in_force: Arc<RouteTable>, fleet: &FleetView) -> Result<Asked, Status> {
        let ExplainRequest { table, seq, since, until, same_too, shown_max } = request;
        let table = match table {
            None => in_force,
            Some(table) => {
                let (table, _) = route_table::read(table).map_err(|error| status::invalid(error.within("table")))?;
                table.check().map_err(|error| status::routes(&error))?;
                Arc::new(table)
            }
        };
        if shown_max > SHOWN_MAX {
            return Err(Status::invalid_argument(format!("shown_max: is {shown_max}: expected at most {SHOWN_MAX}")));
        }
        let at = |at: Option<prost_types::Timestamp>, field| {
            at.map(|at| timestamp(&at, field)).transpose().map_err(|error| Status::from(status::invalid(error)))
        };
        let way = |route: &Route| {
            let fitting = fleet.generals.iter().filter(|general| fits(&route.targets, general, fleet));
            let fitting = fitting.filter(|general| kept_out(route, general, fleet).is_none());
            ExplainedWay {
                route: route.name.to_string(),
                strategy: words::strategy(Some(route.strategy)),
                generals: fitting.take(GENERALS_MAX).map(|general| words::general_name(&general.key)).collect(),
                cheaper: cheaper(route, fleet),
                version_min: route.policy.version_min.map(|version| version.to_string()).unwrap_or_default(),
                too_old: too_old(route, fleet),
                kept_out: all_kept_out(route, fleet),
                ..ExplainedWay::default()
            }
        };
        Ok(Asked {
            ways: table.routes.iter().map(way).collect(),
            judge: Judge::new(table, Seq::ZERO),
            seq: (seq > 0).then_some(Seq(seq)),
            since: at(since, "since")?,
            until: at(until, "until")?,
            same_too,
            shown_max: if shown_max == 0 { SHOWN } else { shown_max },
        })
    }

    /// Where an event would go; with what is wrong with conditions on the way.
    fn would_go(
        &self,
        blobs: &BlobStore,
        accepted: &EventAccepted,
        mut failed: impl FnMut(u32, &str),
    ) -> Option<(usize, Option<Guarded>)> {
        let mut failures = Vec::new();
        let facts = Facts::from(accepted);
        let (mut place, _) = self.judge.route(&facts, |place, reason| failures.push((place, reason.to_owned())));
        let asks = failures.iter().any(|(_, reason)| reason == Unread::Pending.reason());
        if let (true, Some(dataref)) = (asks, json_dataref(&accepted.payload.bytes)) {
            failures.clear();
            let read = elsewhere::read(blobs, &accepted.tenant, dataref);
            let facts = facts.with_data(&read);
            (place, _) = self.judge.route(&facts, |place, reason| failures.push((place, reason.to_owned())));
        }
        failures.iter().for_each(|(place, reason)| failed(*place, reason));
        let place = place? as usize;
        let table = &self.judge.table;
        let guards = table.routes[place].guards.as_deref();
        let trust = trust_of(&accepted.payload.bytes);
        let guarded = guard::judge(table.trust.as_deref(), guards, trust.as_deref(), accepted.actor.as_deref());
        Some((place, guarded))
    }
}

pub(crate) fn fits(targets: &Targets, general: &GeneralView, fleet: &FleetView) -> bool {
    let cluster = fleet.clusters.iter().find(|cluster| cluster.cluster == general.key.cluster);
    let region = cluster.and_then(|cluster| cluster.region.as_ref());
    (targets.types.is_empty() || targets.types.contains(&general.ty))
        && (targets.clusters.is_empty() || targets.clusters.contains(&general.key.cluster))
        && (targets.names.is_empty() || targets.names.contains(&general.key.name))
        && (targets.regions.is_empty() || region.is_some_and(|region| targets.regions.contains(region)))
        && targets.labels.iter().all(|label| {
            general.labels.contains(label) || cluster.is_some_and(|cluster| cluster.labels.contains(label))
        })
}

/// What keeps a general out of a route's work: where its cluster is, or the labels of it and its instances.
fn kept_out(route: &Route, general: &GeneralView, fleet: &FleetView) -> Option<KeptOut> {
    let cluster = fleet.clusters.iter().find(|cluster| cluster.cluster == general.key.cluster);
    let region = cluster.and_then(|cluster| cluster.region.as_ref());
    let by_place = route.keeps_out(&general.key.cluster, region);
    by_place.or_else(|| {
        let carry = |labels: &Labels| {
            route
                .required_labels()
                .iter()
                .all(|label| labels.contains(label) || cluster.is_some_and(|cluster| cluster.labels.contains(label)))
        };
        (!carry(&general.labels) && !general.told.iter().any(carry)).then_some(KeptOut::Affinity)
    })
}

/// Whether affinity or residency keeps out every general that the targets name, and there are some.
pub(super) fn keeps_all_out(route: &Route, fleet: &FleetView) -> bool {
    let mut named = fleet.generals.iter().filter(|general| fits(&route.targets, general, fleet)).peekable();
    named.peek().is_some() && named.all(|general| kept_out(route, general, fleet).is_some())
}

fn all_kept_out(route: &Route, fleet: &FleetView) -> Vec<KeptOutGeneral> {
    let named = fleet.generals.iter().filter(|general| fits(&route.targets, general, fleet));
    let found = named.filter_map(|general| {
        let why = words::kept_out(kept_out(route, general, fleet)?).to_owned();
        Some(KeptOutGeneral { general: Some(words::general_name(&general.key)), why })
    });
    found.take(GENERALS_MAX).collect()
}

/// Those that take work of a route while a budget is low.
fn cheaper(route: &Route, fleet: &FleetView) -> Vec<GeneralName> {
    let is_called =
        |general: &GeneralView, word: &str| general.key.name.as_str() == word || general.ty.as_str() == word;
    let stands_in = |general: &&GeneralView| route.policy.degrade.iter().any(|line| is_called(general, &line.to));
    let may = |general: &&GeneralView| kept_out(route, general, fleet).is_none();
    let found = fleet.generals.iter().filter(stands_in).filter(may);
    found.take(GENERALS_MAX).map(|general| words::general_name(&general.key)).collect()
}

/// Those of a route's generals at which nobody is new enough for it.
fn too_old(route: &Route, fleet: &FleetView) -> Vec<GeneralName> {
    let Some(min) = route.policy.version_min else { return Vec::new() };
    let is_new = |general: &GeneralView| {
        let mut new =
            fleet.instances.iter().filter(|one| one.version.parse::<Version>().is_ok_and(|known| known >= min));
        new.any(|instance| instance.generals.iter().any(|(key, ..)| *key == general.key))
    };
    let may =
        |general: &&GeneralView| fits(&route.targets, general, fleet) && kept_out(route, general, fleet).is_none();
    let fitting = fleet.generals.iter().filter(may).take(GENERALS_MAX);
    fitting.filter(|general| !is_new(general)).map(|general| words::general_name(&general.key)).collect()
}

/// For which budget's sake cheaper generals were fixed.
fn degraded_by(accepted: &EventAccepted) -> Option<&Degraded> {
    accepted.deliveries.iter().find_map(|planned| planned.degraded.as_deref())
}

fn went(accepted: &EventAccepted) -> ExplainedWay {
    let generals = accepted.deliveries.iter().filter_map(|planned| planned.general.as_deref());
    let guarded = accepted.judgement.as_ref().and_then(|judgement| judgement.guarded);
    let way = ExplainedWay {
        route: accepted.route.as_ref().map(ToString::to_string).unwrap_or_default(),
        strategy: words::strategy(accepted.strategy),
        generals: generals.take(GENERALS_MAX).map(words::general_name).collect(),
        degraded_by: degraded_by(accepted).map(|degraded| degraded.budget.to_string()).unwrap_or_default(),
        ..ExplainedWay::default()
    };
    stopped(way, guarded)
}

fn stopped(way: ExplainedWay, guarded: Option<Guarded>) -> ExplainedWay {
    let Some(Guarded { guard, action }) = guarded else { return way };
    let guard_action = match action {
        GuardAction::Allow => wire::GuardAction::Allow,
        GuardAction::Park => wire::GuardAction::Park,
        GuardAction::Drop => wire::GuardAction::Drop,
    };
    let generals = if action == GuardAction::Drop { Vec::new() } else { way.generals };
    let cheaper = if action == GuardAction::Drop { Vec::new() } else { way.cheaper };
    let kept_out = if action == GuardAction::Drop { Vec::new() } else { way.kept_out };
    ExplainedWay {
        guard: guard.as_str().to_owned(),
        guard_action: guard_action.into(),
        generals,
        cheaper,
        kept_out,
        ..way
    }
}

/// What is counted while the journal is read.
#[derive(Default)]
struct Counts {
    summary: ExplainSummary,
    /// By the route that it went by, and the place of the one it would go by.
    flows: BTreeMap<(Option<mindos_model::RouteName>, usize), (u64, u64)>,
    failures: BTreeMap<u32, (u64, String)>,
    shown: u32,
}

/// Reads the journal and tells of what is found.
pub(super) fn run(context: &Scoped, asked: &Asked, sender: &mpsc::Sender<Result<ExplainResponse, Status>>) {
    let ended = explain(context, asked, sender);
    // Whoever asked may be gone.
    let _ = match ended {
        Ok(Some(summary)) => sender.blocking_send(Ok(ExplainResponse { part: Some(Part::Summary(summary)) })),
        Ok(None) => Ok(()),
        Err(status) => sender.blocking_send(Err(status)),
    };
}

fn explain(
    context: &Scoped,
    asked: &Asked,
    sender: &mpsc::Sender<Result<ExplainResponse, Status>>,
) -> Result<Option<ExplainSummary>, Status> {
    let failed = |error: JournalError| super::failed("journal was not read", &error);
    let end = context.source.end();
    let first = match (asked.seq, asked.since) {
        (Some(seq), _) => seq,
        (None, since) => begin(context, since.unwrap_or(Timestamp(0)), end).map_err(failed)?,
    };
    let mut counts = Counts::default();
    let mut is_gone = false;
    counts.summary.first_seq = first.0;
    let read = context.source.read(first, &mut |entry| {
        if entry.seq > end || asked.until.is_some_and(|until| entry.at >= until) {
            return false;
        }
        counts.summary.records += 1;
        if let Record::EventAccepted(accepted) = &entry.record
            && accepted.tenant == *context.tenant()
            && asked.since.is_none_or(|since| entry.at >= since)
            && let Some(event) = counts.look(&context.blobs, asked, entry, accepted)
        {
            let response = ExplainResponse { part: Some(Part::Event(event)) };
            is_gone = sender.blocking_send(Ok(response)).is_err();
        }
        !is_gone && asked.seq.is_none()
    });
    match read {
        Err(JournalError::Dropped { .. }) if asked.seq.is_some() => {}
        read => read.map_err(failed)?,
    }
    if let Some(seq) = asked.seq
        && counts.summary.events == 0
    {
        return Err(status::not_found("event", seq.to_string()).into());
    }
    Ok((!is_gone).then(|| counts.finish(asked)))
}

/// The first record at or after a time.
pub(super) fn begin(context: &Context, since: Timestamp, end: Seq) -> Result<Seq, JournalError> {
    let mut low = match context.source.read(Seq(1), &mut |_| false) {
        Err(JournalError::Dropped { first, .. }) => first.0,
        read => read.map(|()| 1)?,
    };
    let mut high = end.0 + 1;
    while since > Timestamp(0) && low < high {
        let middle = low + (high - low) / 2;
        let mut at = None;
        context.source.read(Seq(middle), &mut |entry| {
            at = Some(entry.at);
            false
        })?;
        if at.is_some_and(|at| at < since) { low = middle + 1 } else { high = middle }
    }
    Ok(Seq(low))
}

impl Counts {
    /// Counts an event, and says what is to be shown of it.
    fn look(
        &mut self,
        blobs: &BlobStore,
        asked: &Asked,
        entry: &Entry,
        accepted: &EventAccepted,
    ) -> Option<ExplainedEvent> {
        // Where its publisher asked for a route itself, no table has a say.
        let is_asked = accepted.route.as_ref().is_some_and(|route| route.as_str().starts_with(ASKED_PREFIX));
        let is_routed = accepted.route.is_some() && !is_asked;
        let mut failed = Vec::new();
        let failures = &mut self.failures;
        let would = if is_routed {
            asked.would_go(blobs, accepted, |place, reason| {
                let (count, _) = failures.entry(place).or_insert_with(|| (0, reason.to_owned()));
                *count += 1;
                failed.push((place, reason.to_owned()));
            })
        } else {
            None
        };
        self.summary.events += 1;
        self.summary.without_payload += u64::from(accepted.payload.bytes.is_empty());
        let (place, guarded) = would.unzip();
        let guarded = guarded.flatten();
        let table = &asked.judge.table;
        let route = place.map(|place| &table.routes[place]);
        let was_guarded = accepted.judgement.as_ref().and_then(|judgement| judgement.guarded);
        // Which budgets are low is not asked: where one was, others were fixed.
        let is_fixed = route.is_some_and(|route| route.strategy == Strategy::Broadcast)
            && guarded.is_none()
            && degraded_by(accepted).is_none();
        // One whose generals were not there went another way than that of the route that matched.
        let matched = accepted.fell_back_from.as_ref().or(accepted.route.as_ref());
        let is_straight = accepted.fell_back_from.is_none();
        let differs = !is_asked
            && (route.map(|route| &route.name) != matched
                || is_straight && route.map(|route| route.strategy) != accepted.strategy
                || guarded != was_guarded
                || is_straight && is_fixed && place.is_some_and(|place| !same(&asked.ways[place].generals, accepted)));
        self.summary.differ += u64::from(differs);
        let mut flow = (accepted.route.clone(), place.unwrap_or(usize::MAX));
        if self.flows.len() >= FLOWS_MAX && !self.flows.contains_key(&flow) {
            flow.0 = None;
        }
        let (events, stopped_here) = self.flows.entry(flow).or_default();
        *events += 1;
        *stopped_here += u64::from(guarded.is_some());
        if self.shown >= asked.shown_max || !(differs || asked.same_too || asked.seq.is_some()) {
            return None;
        }
        self.shown += 1;
        let name = |place: u32| &table.routes[place as usize].name;
        Some(ExplainedEvent {
            seq: entry.seq.0,
            accepted_at: Some(time(entry.at)),
            source: accepted.source.to_string(),
            id: accepted.id.to_string(),
            r#type: accepted.ty.to_string(),
            kind: accepted.kind.to_string(),
            subject: words::text(accepted.subject.as_deref()),
            went: Some(went(accepted)),
            would_go: place.map(|place| stopped(asked.ways[place].clone(), guarded)),
            differs,
            failed: failed.into_iter().map(|(place, reason)| format!("{}: {reason}", name(place))).collect(),
        })
    }

    fn finish(self, asked: &Asked) -> ExplainSummary {
        let routes = &asked.judge.table.routes;
        let name = |place: usize| routes.get(place).map(|route| route.name.to_string()).unwrap_or_default();
        let flows = self.flows.into_iter().map(|((went, place), (events, guarded))| {
            let went = went.map(|went| went.to_string()).unwrap_or_default();
            // Without a place its publisher asked for the route, and would get it again.
            let would_go = if place == usize::MAX { went.clone() } else { name(place) };
            ExplainFlow { went, would_go, events, guarded }
        });
        let failures = self.failures.into_iter().map(|(place, (events, example))| ExplainFailure {
            route: name(place as usize),
            events,
            example,
        });
        ExplainSummary { flows: flows.collect(), failures: failures.collect(), ..self.summary }
    }
}

/// Whether the generals that were fixed are these.
fn same(generals: &[GeneralName], accepted: &EventAccepted) -> bool {
    let fixed = || accepted.deliveries.iter().filter_map(|planned| planned.general.as_deref());
    fixed().count() == generals.len()
        && fixed().all(|fixed| {
            generals.iter().any(|name| name.cluster == fixed.cluster.as_str() && name.name == fixed.name.as_str())
        })
}

#[cfg(test)]
mod tests {
    use mindos_core::affinity::{Affinity, Place};
    use mindos_core::output::ClusterView;
    use mindos_core::record::{GeneralKey, Holds, Load};
    use mindos_core::route::Match;
    use mindos_model::TenantName;

    use super::*;

    fn labels(value: &str) -> Labels {
        vec![("gpu".into(), value.into())]
    }

    fn general(cluster: &str, told: &[&str]) -> GeneralView {
        let key = GeneralKey {
            tenant: TenantName::default_tenant(),
            cluster: cluster.parse().unwrap(),
            name: "g".parse().unwrap(),
        };
        GeneralView {
            key: Arc::new(key),
            ty: "worker".parse().unwrap(),
            labels: labels("t4"),
            told: told.iter().map(|value| labels(value)).collect(),
            holds: Holds::NONE,
            instances: 1,
            load: Load::default(),
            waiting: 0,
            parked_backlog: 0,
            ejected: 0,
            rate_pool: None,
        }
    }

    #[test]
    fn who_is_kept_out_is_named_with_what_keeps_it_out() {
        let cluster = |name: &str, region: &str, labels: Labels| ClusterView {
            cluster: name.parse().unwrap(),
            region: (!region.is_empty()).then(|| region.parse().unwrap()),
            labels,
            holds: Holds::NONE,
        };
        let fleet = FleetView {
            clusters: vec![
                cluster("c1", "us-east", Vec::new()),
                cluster("c2", "eu-west", Vec::new()),
                cluster("c3", "eu-west", labels("a100")),
                cluster("c4", "", labels("a100")),
                cluster("c5", "eu-west", Vec::new()),
            ],
            generals: vec![
                general("c1", &["a100"]),
                general("c2", &["t4"]),
                general("c3", &["t4"]),
                general("c4", &["a100"]),
                general("c5", &["t4", "a100"]),
            ],
            instances: Vec::new(),
            holds: BTreeMap::new(),
        };
        let targets = Targets { types: vec!["worker".parse().unwrap()], ..Targets::default() };
        let mut route = Route::new("r".parse().unwrap(), Match::default(), targets, Strategy::Broadcast);
        assert!(all_kept_out(&route, &fleet).is_empty());
        route.policy.residency = vec!["eu-west".parse().unwrap()];
        let require = Place { labels: labels("a100"), ..Place::default() };
        route.policy.affinity = Some(Box::new(Affinity { require, prefer: Vec::new() }));
        let kept_out: Vec<_> = all_kept_out(&route, &fleet)
            .into_iter()
            .map(|one| format!("{} {}", one.general.unwrap().cluster, one.why))
            .collect();
        assert_eq!(kept_out, ["c1 residency", "c2 affinity", "c4 residency"]);
        assert!(!keeps_all_out(&route, &fleet));
        route.policy.residency = vec!["ap-south".parse().unwrap()];
        assert!(keeps_all_out(&route, &fleet));
        route.targets.types = vec!["nobody".parse().unwrap()];
        assert!(!keeps_all_out(&route, &fleet));
    }
}
