//! Budgets, as the records tell: what may be reserved, what is charged, and whom a budget that is used up keeps waiting.
//!
//! None of the core's accounting is used; amounts, limits and periods are its plain values.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use mindos_core::budget::{Amount, Budget, Level, Scope};
use mindos_core::record::{Degraded, Entry, EventAccepted, GeneralKey, Record};
use mindos_model::{BudgetName, DeliveryId, GeneralType, RouteName, Seq, Timestamp};

use crate::ledger::Broken;

#[derive(Debug)]
struct Account {
    budget: Arc<Budget>,
    began: Timestamp,
    charged: Amount,
    reserved: Amount,
    acknowledged: bool,
    /// By event, of a budget for runs.
    runs: HashMap<Seq, (Amount, Amount)>,
}

#[derive(Debug)]
struct Held {
    reserved: Amount,
    spent: Option<Amount>,
    accounts: Vec<Seq>,
}

#[derive(Debug)]
struct Of {
    repository: Option<Arc<str>>,
    route: Option<RouteName>,
    kind: Arc<str>,
    replay: Option<Arc<str>>,
}

/// What stands against the budgets.
#[derive(Debug, Default)]
pub struct Budgets {
    accounts: BTreeMap<Seq, Account>,
    pub(crate) names: BTreeMap<BudgetName, Seq>,
    leases: HashMap<DeliveryId, Held>,
    events: HashMap<Seq, Of>,
    types: HashMap<GeneralKey, GeneralType>,
    /// Deliveries parked for a budget.
    pub(crate) parked: BTreeSet<DeliveryId>,
}

impl Budgets {
    /// Folds and judges a record.
    ///
    /// # Errors
    /// Names the invariant that the record breaks.
    pub(crate) fn fold(&mut self, entry: &Entry) -> Result<(), Broken> {
        let Entry { seq, at, record } = entry;
        match record {
            Record::EventAccepted(record) => {
                let EventAccepted { repository, route, kind, .. } = record.as_ref();
                let replay = record.replay().map(|replay| replay.id.clone());
                let of = Of { repository: repository.clone(), route: route.clone(), kind: kind.clone(), replay };
                self.events.insert(*seq, of);
                for planned in record.deliveries.iter().filter(|planned| planned.degraded.is_some()) {
                    self.degraded(*at, *seq, planned.general.as_deref(), planned.degraded.as_deref())?;
                }
            }
            Record::GeneralRegistered(record) => {
                self.types.insert(record.key.clone(), record.ty.clone());
            }
            Record::BudgetSet(record) => self.set(*seq, *at, &record.budget),
            Record::BudgetRemoved(record) => {
                if let Some(since) = self.names.remove(&record.budget) {
                    self.accounts.remove(&since);
                }
            }
            Record::BudgetAcknowledged(record) => {
                if let Some(account) = self.names.get(&record.budget).and_then(|since| self.accounts.get_mut(since)) {
                    roll(account, *at);
                    account.acknowledged = true;
                }
            }
            Record::BudgetCrossed(record) => {
                let account = self.names.get(&record.budget).and_then(|since| self.accounts.get_mut(since));
                let Some(account) = account else {
                    return Err(format!("levels_are_of_budgets_in_force: {}", record.budget));
                };
                roll(account, *at);
                if account.budget.level(account.charged) < record.level || record.level == Level::Free {
                    return Err(format!("levels_are_reached: {} {:?}", record.budget, record.level));
                }
            }
            Record::DeliveryLeased(record) => {
                self.parked.remove(&record.delivery);
                self.degraded(*at, record.delivery.event, Some(&record.general), record.degraded.as_deref())?;
                let empty = Default::default();
                let reservation = record.reservation.as_deref().unwrap_or(&empty);
                let accounts: Vec<Seq> = reservation.accounts.to_vec();
                self.leased(*at, record.delivery, &record.general, reservation.amount, accounts)?;
            }
            Record::LeaseExtended(record) => {
                self.extended(*at, record.delivery, record.reserved, record.spent)?;
            }
            Record::AttemptEnded(record) => {
                self.ended(*at, record.delivery, record.charged)?;
                if record.over.is_some() {
                    self.parked.insert(record.delivery);
                }
            }
            Record::DeliverySettled(record) => self.ended(*at, record.delivery, record.charged)?,
            Record::DeliveryCancelled(record) => {
                self.parked.remove(&record.delivery);
                self.ended(*at, record.delivery, record.charged.as_deref().copied())?;
            }
            Record::DeliveryParked(record) => {
                if let Some(over) = &record.over {
                    let account = self.accounts.get(&over.account);
                    if account.is_none_or(|account| account.budget.name != over.budget) {
                        return Err(format!("verdicts_name_a_budget: {} waits for {}", record.delivery, over.budget));
                    }
                    self.parked.insert(record.delivery);
                }
            }
            Record::DeliveryRedriven(record) => {
                self.parked.remove(&record.delivery);
            }
            _ => {}
        }
        Ok(())
    }

    fn set(&mut self, seq: Seq, at: Timestamp, budget: &Arc<Budget>) {
        let known = self.names.get(&budget.name).and_then(|since| self.accounts.get_mut(since));
        if let Some(account) = known
            && (&account.budget.scope, account.budget.period) == (&budget.scope, budget.period)
        {
            roll(account, at);
            account.budget = budget.clone();
            account.acknowledged = false;
            return;
        }
        if let Some(before) = self.names.insert(budget.name.clone(), seq) {
            self.accounts.remove(&before);
        }
        let (charged, reserved, began) = (Amount::NONE, Amount::NONE, budget.period.start(at));
        let (budget, runs) = (budget.clone(), HashMap::new());
        self.accounts.insert(seq, Account { budget, began, charged, reserved, acknowledged: false, runs });
    }

    /// Work goes to others while a budget is low that concerns those whose place they take, and only then.
    fn degraded(
        &mut self,
        at: Timestamp,
        event: Seq,
        general: Option<&GeneralKey>,
        degraded: Option<&Degraded>,
    ) -> Result<(), Broken> {
        let (Some(Degraded { budget, percent, from }), Some(of)) = (degraded, self.events.get(&event)) else {
            return Ok(());
        };
        let account = self.names.get(budget).and_then(|since| self.accounts.get_mut(since));
        let Some(account) = account else { return Err(format!("low_budgets_are_in_force: {budget} of event {event}")) };
        roll(account, at);
        let concerns = match &account.budget.scope {
            Scope::Tenant | Scope::Run => true,
            Scope::Repository(repository) => of.repository.as_ref() == Some(repository),
            Scope::GeneralType(ty) => from.first().and_then(|first| self.types.get(first)) == Some(ty),
            Scope::Route(route) => of.route.as_ref() == Some(route),
            // Nobody gives way for the sake of replays.
            Scope::Replay(_) => false,
        };
        let charged = match account.budget.scope {
            Scope::Run => account.runs.get(&event).map_or(Amount::NONE, |(charged, _)| *charged),
            _ => account.charged,
        };
        let (found, act) = (account.budget.limit.percent(charged), account.budget.thresholds.act);
        let is_priority = account.budget.priority.iter().any(|kind| **kind == *of.kind);
        if !concerns || is_priority || act == 0 || found < act || found != *percent {
            return Err(format!(
                "work_is_degraded_while_a_budget_is_low: event {event}, {budget} stands at {found} %, recorded {percent} %, acts at {act}"
            ));
        }
        if from.is_empty() || general.is_none_or(|general| from.iter().any(|before| **before == *general)) {
            return Err(format!("who_stands_in_is_another: event {event} went to {general:?} instead of {from:?}"));
        }
        Ok(())
    }

    /// What is leased is reserved in every budget that applies, and fits into all of them.
    fn leased(
        &mut self,
        at: Timestamp,
        id: DeliveryId,
        general: &GeneralKey,
        amount: Amount,
        accounts: Vec<Seq>,
    ) -> Result<(), Broken> {
        let Some(of) = self.events.get(&id.event) else { return Ok(()) };
        let applies = |account: &Account| match &account.budget.scope {
            Scope::Replay(id) => of.replay.as_ref().is_some_and(|of| id.is_empty() || id == of),
            _ if of.replay.is_some() => false,
            Scope::Tenant | Scope::Run => true,
            Scope::Repository(repository) => of.repository.as_ref() == Some(repository),
            Scope::GeneralType(ty) => self.types.get(general) == Some(ty),
            Scope::Route(route) => of.route.as_ref() == Some(route),
        };
        let applying = self.accounts.iter().filter(|(_, account)| applies(account));
        let applying: BTreeSet<Seq> = applying.map(|(since, _)| *since).collect();
        if applying != accounts.iter().copied().collect() {
            return Err(format!("reserved_in_all_that_apply: {id} in {accounts:?}, {applying:?} apply"));
        }
        let is_priority = |budget: &Budget| budget.priority.iter().any(|kind| **kind == *of.kind);
        for since in &accounts {
            let Some(account) = self.accounts.get_mut(since) else { continue };
            roll(account, at);
            let budget = account.budget.clone();
            let Budget { name, limit, scope, .. } = budget.as_ref();
            let level = account.budget.level(account.charged);
            if *scope != Scope::Run {
                if level == Level::Paused && !account.acknowledged {
                    return Err(format!("a_paused_budget_begins_nothing: {id} under {name}"));
                }
                let spared = account.budget.priority.is_empty() || is_priority(&account.budget);
                if level >= Level::Degraded && !spared {
                    return Err(format!("low_budgets_are_for_priority_work: {id} under {name}"));
                }
            }
            let used = tally(account, id.event, |_, reserved| *reserved = reserved.plus(amount));
            if !limit.holds(used) {
                return Err(format!("money_is_reserved_before_it_is_spent: {id}, {name} has {limit:?}, used {used:?}"));
            }
        }
        self.leases.insert(id, Held { reserved: amount, spent: None, accounts });
        Ok(())
    }

    fn extended(
        &mut self,
        at: Timestamp,
        id: DeliveryId,
        reserved: Option<Amount>,
        spent: Option<Amount>,
    ) -> Result<(), Broken> {
        let Some(held) = self.leases.get_mut(&id) else { return Ok(()) };
        held.spent = spent.or(held.spent);
        let Some(reserved) = reserved else { return Ok(()) };
        // What was spent already is spent; only what is granted beyond it has to fit.
        let must = held.reserved.max(held.spent.unwrap_or_default());
        let (more, granted) = (reserved.less(held.reserved), reserved.less(must));
        held.reserved = reserved;
        for since in &held.accounts {
            let Some(account) = self.accounts.get_mut(since) else { continue };
            roll(account, at);
            let limit = account.budget.limit;
            let used = tally(account, id.event, |_, reserved| *reserved = reserved.plus(more));
            let over =
                |granted: u64, used: u64, limit: Option<u64>| granted > 0 && limit.is_some_and(|limit| used > limit);
            if over(granted.micros, used.micros, limit.micros)
                || over(granted.tokens, used.tokens, limit.tokens)
                || over(granted.time_ms, used.time_ms, limit.time_ms)
            {
                return Err(format!("more_is_granted_where_it_fits: {id}, {limit:?}, used {used:?}"));
            }
        }
        Ok(())
    }

    fn ended(&mut self, at: Timestamp, id: DeliveryId, charged: Option<Amount>) -> Result<(), Broken> {
        let Some(held) = self.leases.remove(&id) else { return Ok(()) };
        if held.accounts.is_empty() {
            return Ok(());
        }
        let Some(charged) = charged else { return Err(format!("what_was_reserved_is_settled: {id}")) };
        if charged.max(held.spent.unwrap_or_default()) != charged {
            return Err(format!("what_was_reported_is_charged: {id} {charged:?}, reported {:?}", held.spent));
        }
        for since in &held.accounts {
            let Some(account) = self.accounts.get_mut(since) else { continue };
            roll(account, at);
            tally(account, id.event, |of, reserved| {
                *reserved = reserved.less(held.reserved);
                *of = of.plus(charged);
            });
        }
        Ok(())
    }
}

fn roll(account: &mut Account, at: Timestamp) {
    if account.budget.period.end(account.began).is_some_and(|end| end <= at) {
        account.began = account.budget.period.start(at);
        account.charged = Amount::NONE;
        account.acknowledged = false;
    }
}

/// Changes charged and reserved, of one event too where the budget is for runs; says what is used of the limit afterwards.
fn tally(account: &mut Account, event: Seq, change: impl Fn(&mut Amount, &mut Amount)) -> Amount {
    change(&mut account.charged, &mut account.reserved);
    if account.budget.scope != Scope::Run {
        return account.charged.plus(account.reserved);
    }
    let (charged, reserved) = account.runs.entry(event).or_default();
    change(charged, reserved);
    charged.plus(*reserved)
}
