//! What somebody wants replayed, checked.

use std::sync::Arc;

use mindos_core::budget::{Budget, Limit, Period, Scope, Thresholds};
use mindos_core::record::VersionWanted;
use mindos_core::replay::REPLAY_ROUTE_PREFIX;
use mindos_core::route::{Match, Route, Targets, Version};
use mindos_model::{Priority, Seq, Strategy};
use mindos_proto::convert::{Invalid, parsed, required, timestamp};
use mindos_proto::replay::v1::{ReplayRequest, ReplayTarget, ReplayWindow};
use sha2::{Digest, Sha256};

use crate::views::history::EventQuery;

/// Events named one by one.
const NAMED_MAX: usize = 1000;
/// Events of a window, and where nothing is said.
const WINDOW_MAX: u32 = 10_000;
const WINDOW: u32 = 100;
/// The longest name: that of its budget has to fit as well.
const ID_MAX: usize = 40;
const VERSION_MAX: usize = 64;
/// How long a replay may wait to be begun: it has what live work leaves.
pub(super) const TTL: std::time::Duration = std::time::Duration::from_secs(24 * 60 * 60);
const ATTEMPTS_MAX: u32 = 3;

/// Which events.
#[derive(Debug)]
pub(super) enum Which {
    Named(Vec<Seq>),
    Window { query: Box<EventQuery>, limit: usize },
}

/// What is asked.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) id: Arc<str>,
    pub(super) which: Which,
    pub(super) route: Arc<Route>,
    pub(super) version: Option<VersionWanted>,
    pub(super) budget: Option<Budget>,
    pub(super) dry_run: bool,
    /// Stands for the target.
    pub(super) target: [u8; 32],
}

impl Asked {
    pub(super) fn new(request: ReplayRequest) -> Result<Asked, Invalid> {
        let ReplayRequest { id, event_seqs, window, target, cost_max_micros, dry_run } = request;
        if id.len() > ID_MAX {
            return Err(Invalid::new("id", format_args!("has {} bytes: expected 1 to {ID_MAX}", id.len())));
        }
        // The alphabet is that of names.
        let _: mindos_model::BudgetName = parsed(&id, "id")?;
        let which = which(event_seqs, window)?;
        let target = required(target, "target")?;
        let digest = digest(&target);
        let (targets, version) = targets(target).map_err(|error| error.within("target"))?;
        let short: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        let name = parsed(&format!("{REPLAY_ROUTE_PREFIX}{short}"), "target")?;
        let mut route = Route::new(name, Match::default(), targets.clone(), Strategy::Shadow);
        route.policy.shadow = Some(targets);
        route.policy.ttl = Some(TTL);
        route.attempts_max = ATTEMPTS_MAX;
        route.priority = Priority::Low;
        let id: Arc<str> = Arc::from(id);
        let budget = cost_max_micros.map(|micros| budget(&id, micros)).transpose()?;
        Ok(Asked { id, which, route: Arc::new(route), version, budget, dry_run, target: digest })
    }

    /// The source of its events.
    pub(super) fn source(&self) -> Arc<str> {
        Arc::from(format!("mindos:replay/{}", self.id))
    }
}

fn which(event_seqs: Vec<u64>, window: Option<ReplayWindow>) -> Result<Which, Invalid> {
    match (event_seqs.is_empty(), window) {
        (false, None) if event_seqs.len() > NAMED_MAX => {
            let found = event_seqs.len();
            Err(Invalid::new("event_seqs", format_args!("there are {found}: expected at most {NAMED_MAX}")))
        }
        (false, None) => {
            let mut seqs: Vec<Seq> = event_seqs.into_iter().map(Seq).collect();
            seqs.sort_unstable();
            seqs.dedup();
            Ok(Which::Named(seqs))
        }
        (false, Some(_)) => Err(Invalid::new("window", "is accepted without event_seqs only")),
        (true, None) => Err(Invalid::new("event_seqs", "is required, or a window")),
        (true, Some(window)) => self::window(window).map_err(|error| error.within("window")),
    }
}

fn window(window: ReplayWindow) -> Result<Which, Invalid> {
    let ReplayWindow { since, until, kind, repository, route, limit } = window;
    let some = |text: String| (!text.is_empty()).then_some(text);
    let at = |at: Option<prost_types::Timestamp>, field| at.map(|at| timestamp(&at, field)).transpose();
    if limit > WINDOW_MAX {
        return Err(Invalid::new("limit", format_args!("is {limit}: expected at most {WINDOW_MAX}")));
    }
    let query = EventQuery {
        kind: some(kind),
        repository: some(repository),
        route: some(route),
        since: at(since, "since")?,
        until: at(until, "until")?,
        ..EventQuery::default()
    };
    let limit = if limit == 0 { WINDOW } else { limit };
    Ok(Which::Window { query: Box::new(query), limit: limit as usize })
}

fn targets(target: ReplayTarget) -> Result<(Targets, Option<VersionWanted>), Invalid> {
    let ReplayTarget { general_type, general, cluster, version, or_later } = target;
    if general_type.is_empty() && general.is_empty() && cluster.is_empty() {
        return Err(Invalid::new("general_type", "is required, or general or cluster"));
    }
    if version.len() > VERSION_MAX {
        let len = version.len();
        return Err(Invalid::new("version", format_args!("has {len} bytes: expected at most {VERSION_MAX}")));
    }
    if version.is_empty() && or_later {
        return Err(Invalid::new("or_later", "is accepted with a version only"));
    }
    if or_later && let Err(error) = version.parse::<Version>() {
        return Err(Invalid::new("version", error));
    }
    let targets = Targets {
        types: if general_type.is_empty() { Vec::new() } else { vec![parsed(&general_type, "general_type")?] },
        names: if general.is_empty() { Vec::new() } else { vec![parsed(&general, "general")?] },
        clusters: if cluster.is_empty() { Vec::new() } else { vec![parsed(&cluster, "cluster")?] },
        ..Targets::default()
    };
    let wanted = match (version.is_empty(), or_later) {
        (true, _) => None,
        (false, false) => Some(VersionWanted::Exactly(version.into())),
        (false, true) => Some(VersionWanted::AtLeast(version.into())),
    };
    Ok((targets, wanted))
}

fn digest(target: &ReplayTarget) -> [u8; 32] {
    let ReplayTarget { general_type, general, cluster, version, or_later } = target;
    let mut hash = Sha256::new();
    for part in [general_type, general, cluster, version] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    hash.update([u8::from(*or_later)]);
    hash.finalize().into()
}

/// How names of budgets for one replay begin.
pub(super) const BUDGET_PREFIX: &str = "replay.";

fn budget(id: &Arc<str>, micros: u64) -> Result<Budget, Invalid> {
    if micros == 0 {
        return Err(Invalid::new("cost_max_micros", "is 0: expected 1 to 2^53"));
    }
    let budget = Budget {
        name: parsed(&format!("{BUDGET_PREFIX}{id}"), "id")?,
        scope: Scope::Replay(id.clone()),
        period: Period::Total,
        limit: Limit { micros: Some(micros), ..Limit::default() },
        // It is to be used up.
        thresholds: Thresholds { warn: 0, act: 0, pause: 0 },
        priority: Vec::new(),
    };
    budget.check().map_err(|error| Invalid::new("cost_max_micros", error))?;
    Ok(budget)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(change: impl FnOnce(&mut ReplayRequest)) -> Result<Asked, String> {
        let target = ReplayTarget { general_type: "a".to_owned(), ..ReplayTarget::default() };
        let mut request = ReplayRequest {
            id: "try-1".to_owned(),
            event_seqs: vec![4, 3, 4],
            target: Some(target),
            ..Default::default()
        };
        change(&mut request);
        Asked::new(request).map_err(|error| error.to_string())
    }

    #[test]
    fn a_request_names_its_events_once_and_in_order() {
        let asked = request(|_| {}).unwrap();
        assert!(matches!(&asked.which, Which::Named(seqs) if *seqs == [Seq(3), Seq(4)]));
        assert_eq!(&*asked.source(), "mindos:replay/try-1");
        let other = request(|request| request.target.as_mut().unwrap().version = "2".to_owned()).unwrap();
        assert_ne!(asked.route.name, other.route.name);
    }

    #[test]
    fn what_is_wrong_is_named_with_what_is_accepted() {
        type Change = fn(&mut ReplayRequest);
        let wrong: [(Change, &str); 9] = [
            (|request| request.id = "Not".to_owned(), "id"),
            (|request| request.id = "x".repeat(41), "id: has 41 bytes: expected 1 to 40"),
            (|request| request.event_seqs.clear(), "event_seqs: is required, or a window"),
            (|request| request.window = Some(ReplayWindow::default()), "window: is accepted without event_seqs only"),
            (|request| request.target = None, "target"),
            (
                |request| request.target = Some(ReplayTarget::default()),
                "target.general_type: is required, or general or cluster",
            ),
            (
                |request| request.target.as_mut().unwrap().or_later = true,
                "target.or_later: is accepted with a version only",
            ),
            (
                |request| {
                    let target = request.target.as_mut().unwrap();
                    (target.version, target.or_later) = ("v1".to_owned(), true);
                },
                "target.version: `v1` is not accepted: expected one to three numbers",
            ),
            (|request| request.cost_max_micros = Some(0), "cost_max_micros: is 0: expected 1 to 2^53"),
        ];
        for (change, expected) in wrong {
            let error = request(change).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
