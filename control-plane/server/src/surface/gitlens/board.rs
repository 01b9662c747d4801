//! The board: what the earlier services kept in memory and showed, as a view of the journal.
//!
//! ```text
//!   records --> counts by type, the last ten events, the last distributions with what became of each delivery
//! ```
//! It is written to a small file now and then, so that a start goes on from there; without the file it is rebuilt from the
//! journal. Invariant: every list has a bound; a distribution is an event with at least one delivery.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mindos_core::record::{Entry, EventAccepted, GeneralKey, Next, Record};
use mindos_core::route::Route;
use mindos_model::{DeliveryId, RouteName, Seq, Strategy, TenantName, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::board_file::Saved;
use super::plain::{Glimpse, PlainEvent};
use crate::views::follow::{View, ViewError};

/// Events and distributions that are shown.
pub(super) const SHOWN: usize = 10;
/// Distributions that are kept for those who wait for their deliveries.
const KEPT_MAX: usize = 1024;
/// Deliveries of all of them together.
const DELIVERIES_MAX: usize = 65_536;
/// Types that are counted apart.
const TYPES_MAX: usize = 256;
/// Routes whose targets are known.
const ROUTES_MAX: usize = 2048;
/// Between two writes of the file.
const SAVE_INTERVAL: Duration = Duration::from_secs(5);

/// Why the board did not start.
#[derive(Debug, thiserror::Error)]
pub enum BoardError {
    #[error("failed to read `{path}`")]
    Read { path: PathBuf, source: std::io::Error },
}

/// Where the board is read.
#[derive(Clone, Debug, Default)]
pub struct Board(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    seen: AtomicU64,
    changed: Notify,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) mark: Option<(Seq, Timestamp)>,
    pub(super) next: u64,
    pub(super) total_events: u64,
    pub(super) types: BTreeMap<String, u64>,
    pub(super) recent: VecDeque<Recent>,
    pub(super) total_distributions: u64,
    pub(super) distributions: VecDeque<Distribution>,
    pub(super) deliveries: usize,
    pub(super) routes: BTreeMap<String, Candidates>,
    pub(super) dirty: bool,
}

/// An event of late: rendered when somebody asks.
#[derive(Debug)]
pub(super) enum Recent {
    Accepted(Glimpse),
    Plain(Box<PlainEvent>),
}

/// What one event led to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Distribution {
    pub(super) event: Seq,
    pub(super) at: Timestamp,
    pub(super) strategy: Option<Strategy>,
    pub(super) route: Option<RouteName>,
    pub(super) deliveries: Vec<Slot>,
}

/// A delivery of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Slot {
    /// Where it is, once that is known.
    pub(super) general: Option<Arc<GeneralKey>>,
    pub(super) leased_at: Option<Timestamp>,
    /// Why nothing comes of it as it stands.
    pub(super) failed: Option<Cow<'static, str>>,
}

/// Which generals a route may choose.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Candidates {
    pub(super) types: Vec<String>,
    pub(super) clusters: Vec<String>,
    pub(super) names: Vec<String>,
}

impl Candidates {
    fn of(route: &Route) -> Candidates {
        let targets = &route.targets;
        Candidates {
            types: targets.types.iter().map(ToString::to_string).collect(),
            clusters: targets.clusters.iter().map(ToString::to_string).collect(),
            names: targets.names.iter().map(ToString::to_string).collect(),
        }
    }
}

impl Distribution {
    /// Nothing more is to be learnt of who has it.
    pub(super) fn is_bound(&self) -> bool {
        self.deliveries.iter().all(|slot| slot.general.is_some() || slot.failed.is_some())
    }
}

/// What `/stats` and `/status` show.
#[derive(Clone, Debug, Default)]
pub(super) struct Shown {
    pub(super) total_events: u64,
    pub(super) types: BTreeMap<String, u64>,
    pub(super) events: Vec<PlainEvent>,
    pub(super) total_distributions: u64,
    pub(super) distributions: Vec<Distribution>,
    pub(super) routes: BTreeMap<String, Candidates>,
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Events that led to a delivery.
    #[must_use]
    pub fn total_distributions(&self) -> u64 {
        self.lock().total_distributions
    }

    pub(super) fn show(&self) -> Shown {
        let state = self.lock();
        let events = state.recent.iter().map(|recent| match recent {
            Recent::Accepted(glimpse) => PlainEvent::of(glimpse),
            Recent::Plain(plain) => plain.as_ref().clone(),
        });
        let last = state.distributions.len().saturating_sub(SHOWN);
        let distributions: Vec<_> = state.distributions.range(last..).cloned().collect();
        let named = |one: &Distribution| {
            let route = one.route.as_ref()?.as_str();
            state.routes.get(route).map(|known| (route.to_owned(), known.clone()))
        };
        Shown {
            total_events: state.total_events,
            types: state.types.clone(),
            events: events.collect(),
            total_distributions: state.total_distributions,
            routes: distributions.iter().filter_map(named).collect(),
            distributions,
        }
    }

    /// Waits until the board has seen `seq`, and no longer than `patience`.
    pub(super) async fn seen(&self, seq: Seq, patience: Duration) {
        let _ =
            tokio::time::timeout(patience, self.until(|| (self.0.seen.load(Ordering::Acquire) >= seq.0).then_some(())))
                .await;
    }

    /// The distribution of an event once all its deliveries have a general, or as it is after `patience`; `None` when the
    /// board does not keep it.
    pub(super) async fn bound(&self, event: Seq, patience: Duration) -> Option<Distribution> {
        let bound = self.until(|| self.find(event).filter(Distribution::is_bound));
        match tokio::time::timeout(patience, bound).await {
            Ok(distribution) => Some(distribution),
            Err(_) => self.find(event),
        }
    }

    fn find(&self, event: Seq) -> Option<Distribution> {
        let state = self.lock();
        let place = state.distributions.binary_search_by_key(&event, |one| one.event).ok()?;
        Some(state.distributions[place].clone())
    }

    async fn until<T>(&self, mut ready: impl FnMut() -> Option<T>) -> T {
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            // Registered before the look, so that a change in between is not missed.
            changed.as_mut().enable();
            match ready() {
                Some(found) => return found,
                None => changed.await,
            }
        }
    }
}

impl State {
    fn count(&mut self, tenant: &TenantName, entry: &Entry) {
        let Entry { seq, at, record } = entry;
        match record {
            // What is worked on again for comparison is no event of today.
            Record::EventAccepted(event) if event.tenant == *tenant && event.replay().is_none() => {
                self.accepted(*seq, *at, event)
            }
            Record::DeliveryLeased(leased) => {
                if let Some(slot) = self.slot(leased.delivery) {
                    slot.general = Some(leased.general.clone());
                    slot.leased_at = Some(*at);
                    slot.failed = None;
                }
            }
            Record::AttemptEnded(ended) => {
                if let (Some(slot), Next::Park { reason }) = (self.slot(ended.delivery), &ended.next) {
                    slot.failed = Some(Cow::Borrowed(reason.as_str()));
                }
            }
            Record::DeliveryParked(parked) => self.fail(parked.delivery, parked.reason.as_str()),
            Record::DeliveryCancelled(cancelled) => self.fail(cancelled.delivery, "cancelled"),
            Record::DeliveryRedriven(redriven) => {
                if let Some(slot) = self.slot(redriven.delivery) {
                    slot.failed = None;
                }
            }
            Record::RoutesApplied(applied) if applied.tenant == *tenant => {
                self.routes.retain(|name, _| name.starts_with(mindos_core::ASKED_PREFIX));
                for route in &applied.table.routes {
                    self.route(&route.name, route);
                }
            }
            Record::RouteAsked(asked) if asked.tenant == *tenant => {
                if let Some((_, name)) = &asked.replaces {
                    self.routes.remove(name.as_str());
                }
                self.route(&asked.route.name, &asked.route);
            }
            Record::PayloadsRedacted(redacted) if redacted.tenant == *tenant => self.recent.clear(),
            _ => {}
        }
        (self.mark, self.next) = (Some((*seq, *at)), seq.0 + 1);
        self.dirty = true;
    }

    fn route(&mut self, name: &RouteName, route: &Route) {
        if self.routes.len() < ROUTES_MAX {
            self.routes.insert(name.to_string(), Candidates::of(route));
        }
    }

    fn accepted(&mut self, seq: Seq, at: Timestamp, event: &EventAccepted) {
        self.total_events += 1;
        match self.types.get_mut(&*event.kind) {
            Some(count) => *count += 1,
            None => {
                let kind = if self.types.len() < TYPES_MAX { &*event.kind } else { "other" };
                *self.types.entry(kind.to_owned()).or_default() += 1;
            }
        }
        if self.recent.len() == SHOWN {
            self.recent.pop_front();
        }
        self.recent.push_back(Recent::Accepted(Glimpse::of(at, event)));
        if event.deliveries.is_empty() {
            return;
        }
        self.total_distributions += 1;
        self.deliveries += event.deliveries.len();
        while self.distributions.len() >= KEPT_MAX || self.deliveries > DELIVERIES_MAX && !self.distributions.is_empty()
        {
            self.deliveries -= self.distributions.pop_front().map_or(0, |old| old.deliveries.len());
        }
        let slots = event.deliveries.iter().map(|planned| Slot {
            general: planned.general.clone(),
            leased_at: None,
            failed: planned.parked.map(|reason| Cow::Borrowed(reason.as_str())),
        });
        self.distributions.push_back(Distribution {
            event: seq,
            at,
            strategy: event.strategy,
            route: event.route.clone(),
            deliveries: slots.collect(),
        });
    }

    fn slot(&mut self, id: DeliveryId) -> Option<&mut Slot> {
        let place = self.distributions.binary_search_by_key(&id.event, |one| one.event).ok()?;
        self.distributions[place].deliveries.get_mut(id.ordinal.checked_sub(1)? as usize)
    }

    fn fail(&mut self, id: DeliveryId, why: &'static str) {
        if let Some(slot) = self.slot(id) {
            slot.failed = Some(Cow::Borrowed(why));
        }
    }
}

/// Keeps the board.
#[derive(Debug)]
pub struct BoardView {
    board: Board,
    tenant: TenantName,
    path: PathBuf,
    saved: Instant,
}

impl BoardView {
    /// Goes on from the file `gitlens.json` in `dir`; one that cannot be used is as none.
    ///
    /// # Errors
    /// When there is a file that cannot be read.
    pub fn open(dir: &Path, tenant: TenantName) -> Result<BoardView, BoardError> {
        let path = dir.join("gitlens.json");
        let state = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).ok().and_then(|saved: Saved| saved.restore(&tenant)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(source) => return Err(BoardError::Read { path, source }),
        };
        let board = Board::default();
        *board.lock() = state.unwrap_or_else(empty);
        Ok(BoardView { board, tenant, path, saved: Instant::now() })
    }

    /// Where it is read.
    #[must_use]
    pub fn board(&self) -> Board {
        self.board.clone()
    }

    fn save(&mut self) -> Result<(), ViewError> {
        self.saved = Instant::now();
        let shown = self.board.show();
        let mut state = self.board.lock();
        let Some((seq, at)) = state.mark.filter(|_| std::mem::take(&mut state.dirty)) else { return Ok(()) };
        let saved = Saved::of((seq, at), &state, shown);
        drop(state);
        let fresh = self.path.with_extension("json.new");
        // Not synced: it can be rebuilt.
        std::fs::write(&fresh, serde_json::to_vec(&saved)?)?;
        std::fs::rename(&fresh, &self.path)?;
        Ok(())
    }
}

fn empty() -> State {
    State { next: 1, ..State::default() }
}

impl View for BoardView {
    fn name(&self) -> &'static str {
        "gitlens"
    }

    fn next(&self) -> Seq {
        Seq(self.board.lock().next)
    }

    fn apply(&mut self, entry: &Entry) -> Result<(), ViewError> {
        self.board.lock().count(&self.tenant, entry);
        if matches!(entry.record, Record::PayloadsRedacted(_)) {
            // Whoever redacts relies on it that nothing is left once the record was seen.
            self.save()?;
        }
        self.board.0.seen.store(entry.seq.0, Ordering::Release);
        Ok(())
    }

    fn upkeep(&mut self, _: bool) -> Result<(), ViewError> {
        // What was seen before the start counts as seen too.
        let next = self.board.lock().next;
        self.board.0.seen.fetch_max(next.saturating_sub(1), Ordering::AcqRel);
        self.board.0.changed.notify_waiters();
        if self.saved.elapsed() >= SAVE_INTERVAL { self.save() } else { Ok(()) }
    }

    fn mark(&self) -> Option<(Seq, Timestamp)> {
        self.board.lock().mark
    }

    fn reset(&mut self) -> Result<(), ViewError> {
        *self.board.lock() = empty();
        Ok(())
    }

    fn skip_to(&mut self, first: Seq) -> Result<(), ViewError> {
        self.board.lock().next = first.0;
        Ok(())
    }

    fn recover(&mut self) -> Result<(), ViewError> {
        Ok(())
    }

    fn close(&mut self) -> Result<(), ViewError> {
        self.save()
    }
}

#[cfg(test)]
mod tests {
    use mindos_model::ParkReason;

    use super::*;
    use crate::views::testing::{Records, general};

    fn fold(view: &mut BoardView, records: &Records) {
        let next = View::next(view);
        records.entries().iter().filter(|entry| entry.seq >= next).for_each(|entry| view.apply(entry).unwrap());
    }

    #[test]
    fn the_board_counts_events_and_what_became_of_their_deliveries() {
        let dir = tempfile::tempdir().unwrap();
        let mut view = BoardView::open(dir.path(), TenantName::default_tenant()).unwrap();
        let records = Records::default();
        let security = general("eu", "security");
        for _ in 0..12 {
            records.event("o/a", "push", &[&security, &security]);
        }
        let last = records.event("o/a", "ping", &[]);
        let event = records.event("o/a", "pr_created", &[&security, &security]);
        records.leased(DeliveryId::new(event, 1), &security, 1);
        records.push(Record::DeliveryParked(mindos_core::record::DeliveryParked {
            delivery: DeliveryId::new(event, 2),
            reason: ParkReason::Blocked,
            over: None,
        }));

        fold(&mut view, &records);

        let shown = view.board().show();
        assert_eq!((shown.total_events, shown.total_distributions), (14, 13));
        assert_eq!(shown.types, BTreeMap::from([("push".into(), 12), ("ping".into(), 1), ("pr_created".into(), 1)]));
        assert_eq!((shown.events.len(), shown.distributions.len()), (SHOWN, SHOWN));
        assert_eq!(shown.events.last().unwrap().kind, "pr_created");
        assert!(shown.distributions.iter().all(|one| one.event != last));
        let found = view.board().find(event).unwrap();
        assert!(found.deliveries[0].leased_at.is_some() && found.deliveries[0].failed.is_none());
        assert_eq!(found.deliveries[1].failed.as_deref(), Some("blocked"));
    }

    #[test]
    fn a_start_goes_on_from_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let tenant = TenantName::default_tenant();
        let mut view = BoardView::open(dir.path(), tenant.clone()).unwrap();
        let records = Records::default();
        records.event("o/a", "push", &[&general("eu", "security")]);
        fold(&mut view, &records);
        view.close().unwrap();

        let mut again = BoardView::open(dir.path(), tenant).unwrap();
        assert_eq!(again.mark(), view.mark());
        records.event("o/a", "push", &[&general("eu", "security")]);
        fold(&mut again, &records);

        let shown = again.board().show();
        assert_eq!((shown.total_events, shown.total_distributions, shown.events.len()), (2, 2, 2));
        std::fs::write(dir.path().join("gitlens.json"), "{").unwrap();
        assert_eq!(View::next(&BoardView::open(dir.path(), TenantName::default_tenant()).unwrap()), Seq(1));
    }
}
