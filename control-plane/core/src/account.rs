//! Accounts: what stands against each budget, and what waits for it.
//!
//! ```text
//!                 lease                 result, lapse
//!   room left ------------> reserved ----------------> charged
//!       ^                      |  ^                       |
//!       |  what was not used   |  | more, in `Extend`     | the period ends
//!       +----------------------+--+-----------------------+
//! ```
//! An account is named by the record that began it, so that leases of a budget that was removed and set anew stay apart from it.
//! Invariant: what is reserved is the sum over the open leases that name the account.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use foldhash::quality::FixedState;
use hashbrown::HashMap;
use mindos_model::{BudgetName, DeliveryId, Seq, TenantName, Timestamp};
use smallvec::SmallVec;

use crate::budget::{Amount, Budget, Level, Scope};
use crate::estimate::Estimates;

/// The accounts that a lease is reserved in, few as a rule.
pub type AccountIds = SmallVec<[Seq; 4]>;

/// What is set aside for a lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reservation {
    pub amount: Amount,
    /// By the records that began them.
    pub accounts: AccountIds,
}

/// Why work waits for a budget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverBudget {
    /// The record that began its account.
    pub account: Seq,
    pub budget: BudgetName,
    /// When its period ends; unset where it has none.
    pub resets: Option<Timestamp>,
    /// What has to be left of it.
    pub wanted: Amount,
    pub turn: Turn,
}

/// Who goes first among those that wait for a budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Turn {
    /// Goes on when the budget runs low.
    Priority,
    #[default]
    Usual,
    /// Wants more than the whole budget, and waits for a raise.
    Never,
}

/// A place among those that wait: by turn, then in the order of the records that parked them.
pub(crate) type Place = (Turn, Seq);

/// What a lease has of its budgets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spend {
    pub(crate) reserved: Amount,
    /// What its general reported last.
    pub(crate) spent: Option<Amount>,
    pub(crate) accounts: AccountIds,
}

/// That a delivery waits for a budget, or did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Over {
    pub(crate) account: Seq,
    pub(crate) wanted: Amount,
    /// Set while it is parked.
    pub(crate) place: Option<Place>,
    /// Its turn came: those behind it do not hold it up.
    pub(crate) admitted: bool,
}

/// What is used of a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub charged: Amount,
    /// By open leases.
    pub reserved: Amount,
}

impl Tally {
    fn settle(&mut self, reserved: Amount, charged: Amount) {
        self.reserved = self.reserved.less(reserved);
        self.charged = self.charged.plus(charged);
    }

    pub(crate) fn used(self) -> Amount {
        self.charged.plus(self.reserved)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) tenant: TenantName,
    pub(crate) budget: Arc<Budget>,
    /// When the period began that `tally` was charged in.
    pub(crate) began: Timestamp,
    pub(crate) tally: Tally,
    /// The highest that was recorded in the period.
    pub(crate) level: Level,
    /// The pause of this period is over.
    pub(crate) acknowledged: bool,
    /// Of a budget for runs: what each open event used.
    pub(crate) runs: BTreeMap<Seq, Tally>,
    pub(crate) parked: BTreeMap<Place, DeliveryId>,
    /// Its entry in `looks`.
    pub(crate) look: Option<Timestamp>,
}

impl Account {
    pub(crate) fn has_ended(&self, now: Timestamp) -> bool {
        self.budget.period.end(self.began).is_some_and(|end| end <= now)
    }

    pub(crate) fn roll(&mut self, at: Timestamp) {
        if self.has_ended(at) {
            self.began = self.budget.period.start(at);
            self.tally.charged = Amount::NONE;
            self.level = Level::Free;
            self.acknowledged = false;
        }
    }

    /// What is used as `now` sees it, of one event where the budget is for runs.
    pub(crate) fn tally(&self, now: Timestamp, event: Seq) -> Tally {
        if self.budget.scope == Scope::Run {
            return self.runs.get(&event).copied().unwrap_or_default();
        }
        let charged = if self.has_ended(now) { Amount::NONE } else { self.tally.charged };
        Tally { charged, ..self.tally }
    }

    pub(crate) fn is_for_runs(&self) -> bool {
        self.budget.scope == Scope::Run
    }

    fn change(&mut self, event: Seq, at: Timestamp, change: impl Fn(&mut Tally)) {
        self.roll(at);
        change(&mut self.tally);
        if self.is_for_runs() {
            change(self.runs.entry(event).or_default());
        }
    }

    /// Where charges have brought it, for people; one for runs has no level of its own.
    pub(crate) fn reached(&self, now: Timestamp) -> Level {
        if self.is_for_runs() || self.has_ended(now) {
            return Level::Free;
        }
        self.budget.level(self.tally.charged)
    }
}

/// What may go on, because something of a budget changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Due {
    Account(Seq),
    /// One event under a budget for runs.
    Run(Seq, Seq),
    Orphans,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Accounts {
    // Hashed, because leases and results pass here; nobody iterates them.
    by_since: HashMap<Seq, Box<Account>, FixedState>,
    by_scope: HashMap<(TenantName, Scope), AccountIds, FixedState>,
    pub(crate) by_name: BTreeMap<(TenantName, BudgetName), Seq>,
    /// Parked for a budget that is gone.
    pub(crate) orphans: BTreeMap<Place, DeliveryId>,
    pub(crate) estimates: Estimates,
    /// Agenda, recorded nowhere: accounts whose parked work may go on.
    pub(crate) due: BTreeSet<Due>,
    /// When to look at an account that work is parked for.
    pub(crate) looks: BTreeSet<(Timestamp, Seq)>,
    /// Accounts that may have reached another level.
    pub(crate) crossings: BTreeSet<Seq>,
}

impl Accounts {
    pub(crate) fn new(hasher: FixedState) -> Accounts {
        Accounts {
            by_since: HashMap::with_hasher(hasher.clone()),
            by_scope: HashMap::with_hasher(hasher),
            ..Accounts::default()
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_since.is_empty()
    }

    pub(crate) fn get(&self, account: Seq) -> Option<&Account> {
        self.by_since.get(&account).map(Box::as_ref)
    }

    pub(crate) fn get_mut(&mut self, account: Seq) -> Option<&mut Account> {
        self.by_since.get_mut(&account).map(Box::as_mut)
    }

    pub(crate) fn named(&self, tenant: &TenantName, name: &BudgetName) -> Option<(Seq, &Account)> {
        let since = *self.by_name.get(&(tenant.clone(), name.clone()))?;
        Some((since, self.get(since)?))
    }

    pub(crate) fn in_scope(&self, tenant: &TenantName, scope: Scope) -> &[Seq] {
        self.by_scope.get(&(tenant.clone(), scope)).map_or(&[], |accounts| accounts)
    }

    pub(crate) fn of_tenant(&self, tenant: &TenantName) -> impl Iterator<Item = (Seq, &Account)> {
        let names = self.by_name.iter().filter(move |((of, _), _)| of == tenant);
        names.filter_map(|(_, since)| Some((*since, self.get(*since)?)))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Seq, &Account)> {
        self.by_name.values().filter_map(|since| Some((*since, self.get(*since)?)))
    }

    /// Sets a budget. One of another scope or period begins anew.
    pub(crate) fn set(&mut self, at: Timestamp, seq: Seq, tenant: &TenantName, budget: &Arc<Budget>) {
        let known = self.by_name.get(&(tenant.clone(), budget.name.clone())).copied();
        if let Some((since, account)) = known.and_then(|since| Some((since, self.get_mut(since)?)))
            && account.budget.scope == budget.scope
            && account.budget.period == budget.period
        {
            account.roll(at);
            account.budget = budget.clone();
            account.acknowledged = false;
            account.level = account.level.min(account.reached(at));
            self.crossings.insert(since);
            self.due.insert(Due::Account(since));
            return;
        }
        self.remove(tenant, &budget.name);
        let account = Account {
            tenant: tenant.clone(),
            budget: budget.clone(),
            began: budget.period.start(at),
            tally: Tally::default(),
            level: Level::Free,
            acknowledged: false,
            runs: BTreeMap::new(),
            parked: BTreeMap::new(),
            look: None,
        };
        self.put(seq, account);
    }

    pub(crate) fn put(&mut self, since: Seq, account: Account) {
        let scope = (account.tenant.clone(), account.budget.scope.clone());
        self.by_scope.entry(scope).or_default().push(since);
        self.by_name.insert((account.tenant.clone(), account.budget.name.clone()), since);
        self.by_since.insert(since, Box::new(account));
    }

    pub(crate) fn remove(&mut self, tenant: &TenantName, name: &BudgetName) {
        let Some(since) = self.by_name.remove(&(tenant.clone(), name.clone())) else { return };
        let Some(account) = self.by_since.remove(&since) else { return };
        let Account { tenant, budget, runs, parked, look, .. } = *account;
        let scope = (tenant, budget.scope.clone());
        if let Some(accounts) = self.by_scope.get_mut(&scope) {
            accounts.retain(|known| *known != since);
            if accounts.is_empty() {
                self.by_scope.remove(&scope);
            }
        }
        self.due.remove(&Due::Account(since));
        self.crossings.remove(&since);
        look.map(|look| self.looks.remove(&(look, since)));
        for event in runs.keys() {
            self.due.remove(&Due::Run(since, *event));
        }
        if !parked.is_empty() {
            self.orphans.extend(parked);
            self.due.insert(Due::Orphans);
        }
    }

    pub(crate) fn acknowledge(&mut self, at: Timestamp, tenant: &TenantName, name: &BudgetName) {
        let Some(since) = self.by_name.get(&(tenant.clone(), name.clone())).copied() else { return };
        let Some(account) = self.get_mut(since) else { return };
        account.roll(at);
        account.acknowledged = true;
        self.due.insert(Due::Account(since));
    }

    pub(crate) fn crossed(&mut self, at: Timestamp, tenant: &TenantName, name: &BudgetName, level: Level) {
        let since = self.by_name.get(&(tenant.clone(), name.clone())).copied();
        if let Some(account) = since.and_then(|since| self.get_mut(since)) {
            account.roll(at);
            account.level = level;
            let end = account.budget.period.end(at).filter(|_| level >= Level::Degraded);
            if let (Some(since), Some(end)) = (since, end) {
                self.look_at(since, end);
            }
        }
    }

    /// Sets an amount aside. What waits for the same budgets may have its turn.
    pub(crate) fn reserve(&mut self, event: Seq, at: Timestamp, reservation: &Reservation) {
        let Reservation { amount, accounts } = reservation;
        for since in accounts {
            let Some(account) = self.get_mut(*since) else { continue };
            account.change(event, at, |tally| tally.reserved = tally.reserved.plus(*amount));
            self.wake(*since, event);
        }
    }

    /// Sets more aside for an open lease.
    pub(crate) fn extend(&mut self, event: Seq, at: Timestamp, spend: &Spend, more: Amount) {
        for since in &spend.accounts {
            if let Some(account) = self.get_mut(*since) {
                account.change(event, at, |tally| tally.reserved = tally.reserved.plus(more));
            }
        }
    }

    /// A lease ended, and used so much.
    pub(crate) fn settle(&mut self, event: Seq, at: Timestamp, spend: &Spend, charged: Amount) {
        for since in &spend.accounts {
            let Some(account) = self.get_mut(*since) else { continue };
            account.change(event, at, |tally| tally.settle(spend.reserved, charged));
            let crosses = account.reached(at) > account.level;
            self.wake(*since, event);
            if crosses {
                self.crossings.insert(*since);
            }
        }
    }

    pub(crate) fn wake(&mut self, since: Seq, event: Seq) {
        let Some(account) = self.get(since) else { return };
        if !account.parked.is_empty() {
            let due = if account.is_for_runs() { Due::Run(since, event) } else { Due::Account(since) };
            self.due.insert(due);
        }
    }

    /// The event has ended, and with it its run.
    pub(crate) fn forget_run(&mut self, tenant: &TenantName, event: Seq) {
        for since in AccountIds::from_slice(self.in_scope(tenant, Scope::Run)) {
            self.due.remove(&Due::Run(since, event));
            if let Some(account) = self.get_mut(since) {
                account.runs.remove(&event);
            }
        }
    }

    /// Has those budgets of generals' types looked at that work waits for: it may go to generals of other types.
    pub(crate) fn wake_types(&mut self, tenant: &TenantName) {
        let waits =
            |account: &Account| matches!(account.budget.scope, Scope::GeneralType(_)) && !account.parked.is_empty();
        let due: Vec<_> =
            self.of_tenant(tenant).filter(|(_, account)| waits(account)).map(|(since, _)| since).collect();
        self.due.extend(due.into_iter().map(Due::Account));
    }

    /// Puts a parked delivery among those that wait for the account.
    pub(crate) fn park(&mut self, at: Timestamp, since: Seq, place: Place, delivery: DeliveryId) {
        let Some(account) = self.get_mut(since) else {
            self.orphans.insert(place, delivery);
            self.due.insert(Due::Orphans);
            return;
        };
        account.parked.insert(place, delivery);
        let end = account.budget.period.end(at);
        self.wake(since, delivery.event);
        if let Some(end) = end {
            self.look_at(since, end);
        }
    }

    /// It waits no longer, by itself or for somebody's sake.
    pub(crate) fn unpark(&mut self, since: Seq, place: Place) {
        match self.get_mut(since) {
            Some(account) => account.parked.remove(&place),
            None => self.orphans.remove(&place),
        };
    }

    /// Has the account looked at, at the earlier of this time and the one set before.
    pub(crate) fn look_at(&mut self, since: Seq, at: Timestamp) {
        let Some(account) = self.by_since.get_mut(&since) else { return };
        if account.look.is_some_and(|look| look <= at) {
            return;
        }
        if let Some(look) = account.look.replace(at) {
            self.looks.remove(&(look, since));
        }
        self.looks.insert((at, since));
    }

    /// Whether there is something to look at.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.due.is_empty() || !self.crossings.is_empty()
    }

    /// When to look at an account next.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        self.looks.first().map(|(at, _)| *at)
    }

    /// Accounts whose time has come become due. Returned are the tenants of those that were low and whose period has ended.
    pub(crate) fn fire(&mut self, now: Timestamp) -> Vec<TenantName> {
        let mut recovered = Vec::new();
        while let Some(&(at, since)) = self.looks.first().filter(|(at, _)| *at <= now) {
            self.looks.remove(&(at, since));
            let Some(account) = self.by_since.get_mut(&since) else { continue };
            account.look = None;
            let was_low = account.level >= Level::Degraded;
            if was_low && account.has_ended(now) {
                recovered.push(account.tenant.clone());
            }
            if was_low || !account.parked.is_empty() {
                self.due.insert(Due::Account(since));
            }
        }
        recovered
    }

    /// Has everything looked at, where records were only folded.
    pub(crate) fn look_at_all(&mut self, now: Timestamp) {
        let all: Vec<_> = self
            .iter()
            .map(|(since, account)| (since, account.parked.is_empty() && account.level < Level::Degraded))
            .collect();
        for (since, is_quiet) in all {
            self.crossings.insert(since);
            if !is_quiet {
                self.look_at(since, now);
            }
        }
        if !self.orphans.is_empty() {
            self.due.insert(Due::Orphans);
        }
    }
}
