//! Stats: what went through the plane since the process started, counted from durable records.
//!
//! Invariant: a record is counted once, and every map has a bound behind which everything is counted together.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use mindos_core::record::{Cause, Entry, GeneralKey, Next, Record};
use mindos_model::{DeliveryId, EffectStatus, ParkReason, Seq, TenantName, Timestamp};

use super::follow::{View, ViewError};
use super::times::Times;
use crate::metrics::{Exposition, Histogram, Kind};

/// Kinds of events that are counted apart.
const KINDS_MAX: usize = 256;
/// Generals that are counted apart.
const GENERALS_MAX: usize = 1024;
/// Tenants that are counted apart; those beyond are in the sums alone.
const TENANTS_MAX: usize = 1000;
/// Leases that are remembered; those beyond are settled for a general that is not named.
const LEASES_MAX: usize = 1 << 20;
/// How old the counts that are read may be while records keep coming.
const SHOW_INTERVAL: Duration = Duration::from_millis(100);
/// What is counted together.
const OTHER: &str = "other";
/// Past events that are worked on again, whatever their kinds.
const REPLAY: &str = "replay";

/// Counts, as they are at one moment.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Accepted, by kind.
    pub events: BTreeMap<Arc<str>, u64>,
    pub deliveries_planned: u64,
    pub leased: u64,
    pub succeeded: u64,
    pub cancelled: u64,
    pub parked: BTreeMap<ParkReason, u64>,
    pub redriven: u64,
    pub results_refused: u64,
    /// Effects that ended or failed, by kind and outcome.
    pub effects: BTreeMap<(&'static str, &'static str), u64>,
    /// Attempts that ended without a result, by cause.
    pub attempts_ended: BTreeMap<&'static str, u64>,
    pub generals: BTreeMap<GeneralLabel, GeneralCounters>,
    pub tenants: BTreeMap<TenantName, TenantCounters>,
    /// From an event's acceptance to the result of each of its deliveries.
    pub settled_after: Histogram,
    /// From an event's acceptance to the first lease of each of its deliveries.
    pub leased_after: Histogram,
    pub input_tokens: u64,
    pub output_tokens: u64,
    pub cost_micros: u64,
    pub records: u64,
}

/// A general as it is labelled.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GeneralLabel {
    /// Empty for what is counted together.
    pub tenant: Arc<str>,
    pub cluster: Arc<str>,
    pub name: Arc<str>,
}

impl GeneralLabel {
    fn of(key: &GeneralKey) -> GeneralLabel {
        let GeneralKey { tenant, cluster, name } = key;
        GeneralLabel { tenant: tenant.as_str().into(), cluster: cluster.as_str().into(), name: name.as_str().into() }
    }

    fn other() -> GeneralLabel {
        GeneralLabel { tenant: "".into(), cluster: "".into(), name: OTHER.into() }
    }

    /// The labels of a series; the tenant is among them where there is another than the default one.
    fn with<'a>(&'a self, more: &[(&'static str, &'a str)]) -> Vec<(&'static str, &'a str)> {
        let mut labels = vec![("cluster", &*self.cluster), ("general", &*self.name)];
        labels.extend_from_slice(more);
        if !["", "default"].contains(&&*self.tenant) {
            labels.push(("tenant", &self.tenant));
        }
        labels
    }
}

/// Counts of one tenant.
#[derive(Clone, Copy, Debug, Default)]
pub struct TenantCounters {
    pub events: u64,
    pub deliveries_planned: u64,
}

/// Counts of one general.
#[derive(Clone, Debug, Default)]
pub struct GeneralCounters {
    pub leased: u64,
    pub succeeded: u64,
    pub ended_without_result: u64,
    /// From the lease to the result.
    pub took: Histogram,
}

/// Where the counts are read.
#[derive(Clone, Debug, Default)]
pub struct Stats(Arc<Mutex<Counters>>);

impl Stats {
    /// The counts as they are.
    #[must_use]
    pub fn read(&self) -> Counters {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Counters> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts records as they become durable.
#[derive(Debug)]
pub struct StatsView {
    stats: Stats,
    next: Seq,
    times: Times,
    leases: HashMap<DeliveryId, u16, RandomState>,
    generals: HashMap<Arc<GeneralKey>, u16, RandomState>,
    slots: Vec<(GeneralLabel, GeneralCounters)>,
    pending: Counters,
    shown: Option<Instant>,
}

impl StatsView {
    /// Counts from the record after `end` on.
    #[must_use]
    pub fn new(end: Seq) -> StatsView {
        StatsView {
            stats: Stats::default(),
            next: end.next(),
            times: Times::default(),
            leases: HashMap::default(),
            generals: HashMap::default(),
            slots: vec![(GeneralLabel::other(), GeneralCounters::default())],
            pending: Counters::default(),
            shown: None,
        }
    }

    /// Where the counts are read.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats.clone()
    }

    fn slot(&mut self, general: &Arc<GeneralKey>) -> u16 {
        if let Some(&slot) = self.generals.get(general) {
            return slot;
        }
        if self.slots.len() > GENERALS_MAX {
            return 0;
        }
        let slot = self.slots.len() as u16;
        self.slots.push((GeneralLabel::of(general), GeneralCounters::default()));
        self.generals.insert(Arc::clone(general), slot);
        slot
    }

    /// Puts the counts where they are read.
    fn show(&mut self) {
        let mut counters = self.pending.clone();
        counters.generals = self.slots.iter().filter(|(_, counts)| counts.leased > 0).cloned().collect();
        *self.stats.lock() = counters;
        self.shown = Some(Instant::now());
    }

    fn since_accepted(&self, delivery: DeliveryId, at: Timestamp) -> Option<Duration> {
        self.times.at(delivery.event).map(|accepted| at.since(accepted))
    }

    fn park(&mut self, reason: ParkReason) {
        *self.pending.parked.entry(reason).or_default() += 1;
    }

    fn count(&mut self, entry: &Entry) {
        let Entry { seq, at, record } = entry;
        self.times.note(*seq, *at);
        self.pending.records += 1;
        match record {
            Record::EventAccepted(event) => {
                let counts = &mut self.pending.events;
                if event.replay().is_some() {
                    *counts.entry(Arc::from(REPLAY)).or_default() += 1;
                } else if let Some(count) = counts.get_mut(&event.kind) {
                    *count += 1;
                } else if counts.len() < KINDS_MAX {
                    counts.insert(Arc::clone(&event.kind), 1);
                } else {
                    *counts.entry(Arc::from(OTHER)).or_default() += 1;
                }
                self.pending.deliveries_planned += event.deliveries.len() as u64;
                let tenants = &mut self.pending.tenants;
                if tenants.len() < TENANTS_MAX || tenants.contains_key(&event.tenant) {
                    let tenant = tenants.entry(event.tenant.clone()).or_default();
                    tenant.events += 1;
                    tenant.deliveries_planned += event.deliveries.len() as u64;
                }
                event.deliveries.iter().filter_map(|delivery| delivery.parked).for_each(|reason| self.park(reason));
            }
            Record::DeliveryLeased(leased) => {
                let slot = self.slot(&leased.general);
                self.slots[usize::from(slot)].1.leased += 1;
                self.pending.leased += 1;
                if self.leases.len() < LEASES_MAX {
                    self.leases.insert(leased.delivery, slot);
                }
                if leased.attempt == 1
                    && let Some(after) = self.since_accepted(leased.delivery, *at)
                {
                    self.pending.leased_after.record(after);
                }
            }
            Record::AttemptEnded(ended) => {
                *self.pending.attempts_ended.entry(cause(&ended.cause)).or_default() += 1;
                if let Some(slot) = self.leases.remove(&ended.delivery) {
                    self.slots[usize::from(slot)].1.ended_without_result += 1;
                }
                match ended.next {
                    Next::Wait { .. } => {}
                    Next::Park { reason } => self.park(reason),
                }
            }
            Record::DeliverySettled(settled) => {
                self.pending.succeeded += 1;
                if let Some(slot) = self.leases.remove(&settled.delivery) {
                    let general = &mut self.slots[usize::from(slot)].1;
                    general.succeeded += 1;
                    general.took.record(Duration::from_millis(settled.took_ms));
                }
                if let Some(after) = self.since_accepted(settled.delivery, *at) {
                    self.pending.settled_after.record(after);
                }
                for usage in &settled.usage {
                    // From outside, so of any size.
                    let Counters { input_tokens, output_tokens, cost_micros, .. } = &mut self.pending;
                    *input_tokens = input_tokens.saturating_add(usage.input_tokens);
                    *output_tokens = output_tokens.saturating_add(usage.output_tokens);
                    *cost_micros = cost_micros.saturating_add(usage.cost_micros);
                }
            }
            Record::DeliveryCancelled(cancelled) => {
                self.pending.cancelled += 1;
                self.leases.remove(&cancelled.delivery);
            }
            Record::DeliveryParked(parked) => self.park(parked.reason),
            Record::DeliveryRedriven(_) => self.pending.redriven += 1,
            Record::ResultRefused(_) => self.pending.results_refused += 1,
            Record::EffectEnded(ended) => {
                let outcome = ended.outcome.status().as_str();
                *self.pending.effects.entry((effect_kind(&ended.kind), outcome)).or_default() += 1;
            }
            Record::EffectIntended(intended) if intended.first.is_some() => {
                let repeated = (effect_kind(&intended.kind), EffectStatus::Repeated.as_str());
                *self.pending.effects.entry(repeated).or_default() += 1;
            }
            Record::EpochStarted(_)
            | Record::EffectIntended(_)
            | Record::EffectDeferred(_)
            | Record::EffectRevived(_)
            | Record::Object(_)
            | Record::CancelRequested(_)
            | Record::LeaseExtended(_)
            | Record::ClusterRegistered(_)
            | Record::GeneralRegistered(_)
            | Record::GeneralRemoved(_)
            | Record::HoldChanged(_)
            | Record::RoutesApplied(_)
            | Record::RouteAsked(_)
            | Record::PayloadCarried(_)
            | Record::PrefixDropped(_)
            | Record::JournalTruncated(_)
            | Record::UpgradeFinalized(_)
            | Record::BudgetSet(_)
            | Record::BudgetRemoved(_)
            | Record::BudgetAcknowledged(_)
            | Record::BudgetCrossed(_)
            | Record::Access(_)
            | Record::PayloadsRedacted(_) => {}
        }
    }
}

/// Kinds of effects that are counted apart: generals may ask for any.
fn effect_kind(kind: &str) -> &'static str {
    const KINDS: [&str; 8] = ["comment", "review", "check", "labels", "reaction", "branch", "pull_request", "issue"];
    KINDS.into_iter().find(|known| *known == kind).unwrap_or(OTHER)
}

fn cause(cause: &Cause) -> &'static str {
    match cause {
        Cause::Failed(kind) => kind.as_str(),
        Cause::Lapsed => "lapsed",
        Cause::Rebooted => "rebooted",
        Cause::Undelivered => "undelivered",
        Cause::Declined => "declined",
        Cause::Deadline => "deadline",
    }
}

impl View for StatsView {
    fn name(&self) -> &'static str {
        "stats"
    }

    fn next(&self) -> Seq {
        self.next
    }

    fn mark(&self) -> Option<(Seq, Timestamp)> {
        None
    }

    fn apply(&mut self, entry: &Entry) -> Result<(), ViewError> {
        self.count(entry);
        self.next = entry.seq.next();
        Ok(())
    }

    fn upkeep(&mut self, idle: bool) -> Result<(), ViewError> {
        if idle || self.shown.is_none_or(|shown| shown.elapsed() >= SHOW_INTERVAL) {
            self.show();
        }
        Ok(())
    }

    fn reset(&mut self) -> Result<(), ViewError> {
        Ok(())
    }

    fn skip_to(&mut self, first: Seq) -> Result<(), ViewError> {
        self.next = first;
        Ok(())
    }

    fn recover(&mut self) -> Result<(), ViewError> {
        Ok(())
    }

    fn close(&mut self) -> Result<(), ViewError> {
        self.show();
        Ok(())
    }
}

impl Counters {
    /// Writes the families that come from the counts.
    pub fn expose(&self, into: &mut Exposition) {
        let mut family = into.family("mindos_events_total", Kind::Counter, "Events accepted.");
        self.events.iter().for_each(|(kind, count)| family.series(&[("kind", kind)], count));
        let help = "Deliveries planned when events were accepted.";
        into.single("mindos_deliveries_planned_total", Kind::Counter, help, self.deliveries_planned);
        let mut family = into.family("mindos_deliveries_total", Kind::Counter, "Deliveries settled or parked.");
        family.series(&[("outcome", "succeeded"), ("reason", "")], self.succeeded);
        family.series(&[("outcome", "cancelled"), ("reason", "")], self.cancelled);
        for (reason, count) in &self.parked {
            family.series(&[("outcome", "parked"), ("reason", reason.as_str())], count);
        }
        into.single("mindos_deliveries_redriven_total", Kind::Counter, "Deliveries redriven.", self.redriven);
        into.single("mindos_leases_total", Kind::Counter, "Leases given.", self.leased);
        let help = "Attempts that ended without a result.";
        let mut family = into.family("mindos_attempts_ended_total", Kind::Counter, help);
        self.attempts_ended.iter().for_each(|(cause, count)| family.series(&[("cause", cause)], count));
        let help = "Results refused because another token held the delivery.";
        into.single("mindos_results_refused_total", Kind::Counter, help, self.results_refused);
        let help = "Effects that ended or failed, by kind and outcome.";
        let mut family = into.family("mindos_effects_total", Kind::Counter, help);
        for ((kind, outcome), count) in &self.effects {
            family.series(&[("kind", kind), ("outcome", outcome)], count);
        }
        let name = "mindos_delivery_settled_seconds";
        let help = "Time from an event's acceptance to each of its results.";
        into.family(name, Kind::Histogram, help).histogram(&[], &self.settled_after);
        let name = "mindos_delivery_leased_seconds";
        let help = "Time from an event's acceptance to the first lease of each of its deliveries.";
        into.family(name, Kind::Histogram, help).histogram(&[], &self.leased_after);
        let mut family = into.family("mindos_tokens_total", Kind::Counter, "Tokens used by models.");
        family.series(&[("direction", "input")], self.input_tokens);
        family.series(&[("direction", "output")], self.output_tokens);
        let help = "Cost reported, in units of the currency.";
        into.single("mindos_cost_total", Kind::Counter, help, self.cost_micros as f64 / 1e6);
        into.single("mindos_records_total", Kind::Counter, "Records that became durable.", self.records);
        self.expose_tenants(|_| true, into);
    }

    /// Writes the families of one tenant.
    pub fn expose_of(&self, tenant: &TenantName, into: &mut Exposition) {
        self.expose_tenants(|name| name == tenant.as_str(), into);
    }

    fn expose_tenants(&self, is_shown: impl Fn(&str) -> bool, into: &mut Exposition) {
        let tenants = || self.tenants.iter().filter(|(name, _)| is_shown(name.as_str()));
        let mut family = into.family("mindos_tenant_events_total", Kind::Counter, "Events accepted, by tenant.");
        tenants().for_each(|(name, counts)| family.series(&[("tenant", name.as_str())], counts.events));
        let help = "Deliveries planned when events were accepted, by tenant.";
        let mut family = into.family("mindos_tenant_deliveries_planned_total", Kind::Counter, help);
        tenants().for_each(|(name, counts)| family.series(&[("tenant", name.as_str())], counts.deliveries_planned));
        let generals = || self.generals.iter().filter(|(label, _)| is_shown(&label.tenant));
        let mut family = into.family("mindos_general_leases_total", Kind::Counter, "Leases given, by general.");
        for (label, counts) in generals() {
            family.series(&label.with(&[]), counts.leased);
        }
        let help = "Leases that ended, by general.";
        let mut family = into.family("mindos_general_leases_ended_total", Kind::Counter, help);
        for (label, counts) in generals() {
            for (outcome, count) in [("succeeded", counts.succeeded), ("no_result", counts.ended_without_result)] {
                family.series(&label.with(&[("outcome", outcome)]), count);
            }
        }
        let help = "Time from a lease to its result, by general.";
        let mut family = into.family("mindos_general_took_seconds", Kind::Histogram, help);
        for (label, counts) in generals() {
            family.histogram(&label.with(&[]), &counts.took);
        }
    }
}

#[cfg(test)]
mod tests {
    use mindos_core::record::DeliveryParked;

    use super::super::testing::{Records, general};
    use super::*;

    #[test]
    fn usage_of_any_size_is_counted() {
        use mindos_core::record::{DeliverySettled, Usage};
        let records = Records::default();
        let security = general("eu", "security");
        let event = records.event("o/a", "push", &[&security, &security]);
        let tokens = u64::MAX;
        let usage = Usage { input_tokens: tokens, output_tokens: tokens, cost_micros: tokens, ..Usage::default() };
        for ordinal in [1, 2] {
            records.push(Record::DeliverySettled(Box::new(DeliverySettled {
                delivery: DeliveryId::new(event, ordinal),
                token: mindos_model::Token::new(1, 1),
                output: None,
                output_type: None,
                output_ref: None,
                usage: vec![usage.clone(), usage.clone()],
                took_ms: u64::MAX,
                charged: None,
            })));
        }
        let mut view = StatsView::new(Seq::ZERO);
        records.entries().iter().for_each(|entry| view.apply(entry).unwrap());
        view.close().unwrap();

        let counts = view.stats().read();
        assert_eq!((counts.input_tokens, counts.output_tokens, counts.cost_micros), (tokens, tokens, tokens));
    }

    #[test]
    fn each_record_is_counted_where_it_belongs() {
        let records = Records::default();
        let security = general("eu", "security");
        let event = records.event("o/a", "push", &[&security, &security, &security]);
        let [first, second, third] = [1, 2, 3].map(|ordinal| DeliveryId::new(event, ordinal));
        records.leased(first, &security, 1);
        records.failed(first, true, Next::Wait { not_before: Timestamp(0) });
        records.leased(first, &security, 2);
        records.settled(first);
        records.leased(second, &security, 1);
        records.failed(second, true, Next::Park { reason: ParkReason::Poison });
        records.push(Record::DeliveryParked(DeliveryParked {
            delivery: third,
            reason: ParkReason::Blocked,
            over: None,
        }));
        let mut view = StatsView::new(Seq::ZERO);
        records.entries().iter().for_each(|entry| view.apply(entry).unwrap());
        view.close().unwrap();

        let counts = view.stats().read();
        assert_eq!(counts.events, BTreeMap::from([("push".into(), 1)]));
        assert_eq!((counts.deliveries_planned, counts.leased, counts.succeeded), (3, 3, 1));
        assert_eq!(counts.parked, BTreeMap::from([(ParkReason::Poison, 1), (ParkReason::Blocked, 1)]));
        assert_eq!(counts.attempts_ended, BTreeMap::from([("transient", 2)]));
        let eu = &counts.generals[&GeneralLabel::of(&security)];
        assert_eq!((eu.leased, eu.succeeded, eu.ended_without_result), (3, 1, 2));
        // Records are a millisecond apart.
        assert_eq!(counts.settled_after.quantile(1.0), Some(Duration::from_millis(5)));
        assert_eq!((counts.leased_after.count(), counts.settled_after.count()), (2, 1));
        assert!(view.leases.is_empty());

        let mut metrics = Exposition::default();
        counts.expose(&mut metrics);
        let text = metrics.into_text();
        for line in [
            "mindos_events_total{kind=\"push\"} 1",
            "mindos_deliveries_total{outcome=\"parked\",reason=\"poison\"} 1",
            "mindos_general_leases_ended_total{cluster=\"eu\",general=\"security\",outcome=\"succeeded\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
        let of = |tenant: &str| {
            let mut metrics = Exposition::default();
            counts.expose_of(&tenant.parse().unwrap(), &mut metrics);
            metrics.into_text()
        };
        assert!(of("default").contains("mindos_tenant_events_total{tenant=\"default\"} 1\n"));
        assert!(of("default").contains("general=\"security\"") && !of("acme").contains("security"));
    }
}
