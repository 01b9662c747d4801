//! Judging events by the conditions of a table.
//!
//! Invariant: only conditions of routes that fit by kind, type and subject are evaluated, in the table's order, until one
//! holds; the payload is read at most once, and only where one of those asks for it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use cel::common::types::{CelBool, CelInt, CelMap, CelMapKey, CelNull, CelString};
use cel::common::value::CowVal;
use cel::context::VariableResolver;
use mindos_core::input::{Judged, NewEvent};
use mindos_core::record::EventAccepted;
use mindos_core::route::RouteTable;
use mindos_core::route_index::{Looked, RouteIndex};
use mindos_model::{Seq, TenantName};
use tracing::warn;

use super::condition::{Budget, Condition, Verdict, not_counted};
use super::elsewhere::{self, Unread, UnreadCounts};
use super::fields::{Value, Wanted};
use crate::blobs::BlobStore;
use crate::ingest::event::{Extension, extensions, json_data, json_dataref};
use crate::metrics::{Exposition, Kind};

/// What conditions can ask of an event.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    pub id: &'a str,
    pub source: &'a str,
    pub ty: &'a str,
    pub kind: &'a str,
    pub subject: Option<&'a str>,
    pub actor: Option<&'a str>,
    pub repository: Option<&'a str>,
    pub lane: &'a str,
    /// The encoded CloudEvent; empty where it is gone.
    pub encoded: &'a [u8],
    /// Its data, where they do not stand in it.
    pub elsewhere: Result<&'a [u8], Unread>,
}

impl<'a> Facts<'a> {
    /// With data that were read back, or why they could not be.
    #[must_use]
    pub fn with_data(self, read: &'a Result<Bytes, Unread>) -> Facts<'a> {
        Facts { elsewhere: read.as_ref().map(|data| &**data).map_err(|unread| *unread), ..self }
    }

    fn looked(&self) -> Looked<'a> {
        Looked { kind: self.kind, ty: self.ty, subject: self.subject }
    }
}

impl<'a> From<&'a NewEvent> for Facts<'a> {
    fn from(event: &'a NewEvent) -> Facts<'a> {
        Facts {
            id: &event.id,
            source: &event.source,
            ty: &event.ty,
            kind: &event.kind,
            subject: event.subject.as_deref(),
            actor: event.actor.as_deref(),
            repository: event.repository.as_deref(),
            lane: &event.lane,
            encoded: &event.payload.bytes,
            elsewhere: Err(Unread::Pending),
        }
    }
}

impl<'a> From<&'a EventAccepted> for Facts<'a> {
    fn from(event: &'a EventAccepted) -> Facts<'a> {
        Facts {
            id: &event.id,
            source: &event.source,
            ty: &event.ty,
            kind: &event.kind,
            subject: event.subject.as_deref(),
            actor: event.actor.as_deref(),
            repository: event.repository.as_deref(),
            lane: &event.lane,
            encoded: &event.payload.bytes,
            elsewhere: Err(Unread::Pending),
        }
    }
}

/// A table with its conditions compiled.
#[derive(Debug)]
pub struct Judge {
    pub table: Arc<RouteTable>,
    at: Seq,
    index: RouteIndex,
    /// By place; unset where a route has none, or one that does not compile.
    conditions: Vec<Option<Condition>>,
    wanted: Wanted,
}

impl Judge {
    /// Compiles the conditions of the table that the record `at` brought in force.
    #[must_use]
    pub fn new(table: Arc<RouteTable>, at: Seq) -> Judge {
        let mut wanted = Wanted::default();
        let conditions = table.routes.iter().map(|route| {
            let text = route.matches.condition.as_deref()?;
            match Condition::compile(text) {
                Ok(condition) => {
                    condition.paths().iter().for_each(|path| wanted.want(path));
                    Some(condition)
                }
                // Checked when it was applied; another release may have taken what this one does not.
                Err(error) => {
                    warn!(%error, route = %route.name, "condition of a route was not compiled and does not hold");
                    None
                }
            }
        });
        let conditions = conditions.collect();
        Judge { index: RouteIndex::new(&table), table, at, conditions, wanted }
    }

    /// Place of the first route that fits, and what is to be said of the conditions on the way there. `failed` hears of each that
    /// could not be evaluated.
    pub fn route(&self, facts: &Facts<'_>, failed: impl FnMut(u32, &str)) -> (Option<u32>, Judged) {
        self.route_within(facts, &mut Budget::full(), failed)
    }

    /// As [`Self::route`], within a budget for all conditions together.
    fn route_within(
        &self,
        facts: &Facts<'_>,
        budget: &mut Budget,
        mut failed: impl FnMut(u32, &str),
    ) -> (Option<u32>, Judged) {
        let variables = Variables {
            facts,
            wanted: &self.wanted,
            data: OnceLock::new(),
            attributes: OnceLock::new(),
            are_elsewhere: OnceLock::new(),
            missed: AtomicBool::new(false),
        };
        if let Ok(data) = facts.elsewhere {
            // Ahead of the conditions, whose time is short.
            let read = || self.wanted.read(data).unwrap_or_else(|| Box::new(CelNull));
            let _ = variables.data.set(budget.without(read));
        }
        let mut judged = Judged { table: self.at, holds: None, failed: 0 };
        let first = self.index.first(&self.table, facts.looked(), |place| {
            let verdict = match &self.conditions[place as usize] {
                Some(condition) => {
                    variables.missed.store(false, Ordering::Relaxed);
                    let verdict = condition.holds(&variables, budget);
                    match (variables.missed.load(Ordering::Relaxed), facts.elsewhere) {
                        // Whatever it made of data that it did not see.
                        (true, Err(unread)) => Verdict::Failed(unread.reason().to_owned()),
                        (true, Ok(_)) | (false, _) => verdict,
                    }
                }
                None => Verdict::Failed("it was not compiled".to_owned()),
            };
            match verdict {
                Verdict::Holds => {
                    judged.holds = Some(place);
                    true
                }
                Verdict::DoesNot => false,
                Verdict::Failed(reason) => {
                    judged.failed += 1;
                    failed(place, &reason);
                    false
                }
            }
        });
        (first, judged)
    }

    /// Whether any route has a condition.
    #[must_use]
    pub fn is_conditional(&self) -> bool {
        self.index.is_conditional()
    }
}

/// An event's variables, made when they are asked for.
struct Variables<'a> {
    facts: &'a Facts<'a>,
    wanted: &'a Wanted,
    data: OnceLock<Value>,
    attributes: OnceLock<Value>,
    /// Whether the data do not stand in the event.
    are_elsewhere: OnceLock<bool>,
    /// A condition asked for data that cannot be seen.
    missed: AtomicBool,
}

impl VariableResolver for Variables<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        let Facts { id, source, ty, kind, subject, actor, repository, lane, encoded, elsewhere } = *self.facts;
        let text = match variable {
            "type" => ty,
            "kind" => kind,
            "source" => source,
            "subject" => subject.unwrap_or_default(),
            "actor" => actor.unwrap_or_default(),
            "repository" => repository.unwrap_or_default(),
            "lane" => lane,
            "id" => id,
            "data" => {
                if elsewhere.is_err() && *self.are_elsewhere.get_or_init(|| json_dataref(encoded).is_some()) {
                    self.missed.store(true, Ordering::Relaxed);
                }
                let read = || {
                    let data = json_data(encoded).and_then(|data| self.wanted.read(data));
                    data.unwrap_or_else(|| Box::new(CelNull))
                };
                return Some(CowVal::Borrowed(self.data.get_or_init(|| not_counted(read)).as_ref()));
            }
            "attributes" => {
                return Some(CowVal::Borrowed(self.attributes.get_or_init(|| attributes(encoded)).as_ref()));
            }
            _ => return None,
        };
        Some(CowVal::owned(CelString::from(text)))
    }
}

fn attributes(encoded: &[u8]) -> Value {
    let entry = |(name, extension): (&str, Extension<'_>)| {
        let value: Value = match extension {
            Extension::Text(text) => Box::new(CelString::from(text.to_owned())),
            Extension::Boolean(truth) => Box::new(CelBool::from(truth)),
            Extension::Integer(number) => Box::new(CelInt::from(i64::from(number))),
        };
        (CelMapKey::from(name.to_owned()), value)
    };
    let entries: HashMap<CelMapKey<'static>, Value> = extensions(encoded).into_iter().map(entry).collect();
    Box::new(CelMap::from(entries))
}

/// What is to be done before an event is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum More {
    Nothing,
    /// A condition asked for data in a blob: [`Judges::judge_reading`], where it may wait for a disk.
    Data,
    /// The conditions take longer than others can wait: [`Judges::judge_slowly`].
    Time,
}

/// Sources whose events took long a moment ago: theirs are not tried where others wait.
#[derive(Debug, Default)]
struct SlowSources(Mutex<HashMap<(TenantName, Arc<str>), Instant>>);

/// Sources that are remembered, and for how long.
const SLOW_SOURCES_MAX: usize = 4096;
const SLOW_SOURCE_TIME: Duration = Duration::from_secs(10);

impl SlowSources {
    fn has(&self, event: &NewEvent) -> bool {
        let sources = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = || (event.tenant.clone(), Arc::clone(&event.source));
        !sources.is_empty() && sources.get(&key()).is_some_and(|since| since.elapsed() < SLOW_SOURCE_TIME)
    }

    fn add(&self, event: &NewEvent) {
        let mut sources = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if sources.len() >= SLOW_SOURCES_MAX {
            sources.retain(|_, since| since.elapsed() < SLOW_SOURCE_TIME);
        }
        if sources.len() < SLOW_SOURCES_MAX {
            sources.insert((event.tenant.clone(), Arc::clone(&event.source)), Instant::now());
        }
    }
}

/// Tenants whose tables are known at a time; all are forgotten, and learned again, when there would be more.
const TENANTS_MAX: usize = 10_000;

/// The judges of the tables in force, by tenant, as far as the shell knows them.
#[derive(Debug, Default)]
pub struct Judges {
    in_force: ArcSwap<HashMap<TenantName, Arc<Judge>>>,
    failed: AtomicU64,
    again: AtomicU64,
    slow: AtomicU64,
    slow_sources: SlowSources,
    /// Had to be taken as they were found, for there was no turn to evaluate them.
    pub(super) no_turn: AtomicU64,
    unread: UnreadCounts,
}

impl Judges {
    /// Whether a tenant's table is known.
    pub(super) fn knows(&self, tenant: &TenantName) -> bool {
        self.in_force.load().contains_key(tenant)
    }

    /// Judges an event by the table that is known to be in force, and says by which, also where that has no conditions. It takes no
    /// longer than others can wait; where more is to be done, it says what.
    #[must_use]
    pub fn judge(&self, event: &mut NewEvent) -> More {
        let in_force = self.in_force.load();
        let Some(judge) = in_force.get(&event.tenant) else { return More::Nothing };
        if !judge.is_conditional() || !event.routed {
            event.judged = Some(Judged { table: judge.at, holds: None, failed: 0 });
            return More::Nothing;
        }
        if self.slow_sources.has(event) {
            self.slow.fetch_add(1, Ordering::Relaxed);
            // Until it was evaluated nothing holds.
            event.judged = Some(Judged { table: judge.at, holds: None, failed: 1 });
            return More::Time;
        }
        let (mut asked, mut budget) = (false, Budget::quick());
        let heard = |_, reason: &str| asked |= reason == Unread::Pending.reason();
        let (_, judged) = judge.route_within(&Facts::from(&*event), &mut budget, heard);
        let more = match (asked, budget.used_up) {
            (true, _) => More::Data,
            (false, true) => More::Time,
            (false, false) => More::Nothing,
        };
        match more {
            More::Nothing => self.count_failed(judged),
            More::Time => {
                self.slow.fetch_add(1, Ordering::Relaxed);
                self.slow_sources.add(event);
            }
            More::Data => {}
        }
        event.judged = Some(judged);
        more
    }

    /// Counts what was settled as failed.
    pub(super) fn count_failed(&self, judged: Judged) {
        self.failed.fetch_add(judged.failed.into(), Ordering::Relaxed);
    }

    /// Judges an event whose conditions take long. Blocks for as long as they may.
    pub fn judge_slowly(&self, event: &mut NewEvent) {
        let in_force = self.in_force.load_full();
        let Some(judge) = in_force.get(&event.tenant) else { return };
        let (_, judged) = judge.route(&Facts::from(&*event), |_, _| {});
        self.count_failed(judged);
        event.judged = Some(judged);
    }

    /// Judges an event whose data are in a blob. Blocks.
    pub fn judge_reading(&self, event: &mut NewEvent, blobs: &BlobStore) {
        let Some(judge) = self.in_force.load().get(&event.tenant).cloned() else { return };
        let Some(dataref) = json_dataref(&event.payload.bytes) else { return };
        let read = elsewhere::read(blobs, &event.tenant, dataref);
        if let Err(unread) = read {
            self.unread.count(unread);
        }
        let (_, judged) = judge.route(&Facts::from(&*event).with_data(&read), |_, _| {});
        self.failed.fetch_add(judged.failed.into(), Ordering::Relaxed);
        event.judged = Some(judged);
    }

    /// Shows what conditions could not see.
    pub fn expose(&self, into: &mut Exposition) {
        self.unread.expose(into);
        let help =
            "Events whose conditions took longer than others can wait, and were evaluated on a thread of their own.";
        into.single("mindos_events_judged_slowly_total", Kind::Counter, help, self.slow.load(Ordering::Relaxed));
        let help =
            "Of those, events that found no turn there: conditions that were not evaluated to their end did not hold.";
        into.single("mindos_events_judged_in_part_total", Kind::Counter, help, self.no_turn.load(Ordering::Relaxed));
    }

    /// A tenant's table is in force. One that is older than what is known changes nothing.
    pub fn learn(&self, tenant: &TenantName, table: Arc<RouteTable>, at: Seq) {
        let judge = Arc::new(Judge::new(table, at));
        self.in_force.rcu(|known| {
            if known.get(tenant).is_some_and(|known| known.at >= at) {
                return Arc::clone(known);
            }
            let is_full = known.len() >= TENANTS_MAX && !known.contains_key(tenant);
            let mut next = if is_full { HashMap::new() } else { HashMap::clone(known) };
            next.insert(tenant.clone(), Arc::clone(&judge));
            Arc::new(next)
        });
    }

    pub(super) fn count_again(&self, events: usize) {
        self.again.fetch_add(events as u64, Ordering::Relaxed);
    }

    /// Conditions that could not be evaluated, and events that were judged again, since the start.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.failed.load(Ordering::Relaxed), self.again.load(Ordering::Relaxed))
    }
}
