//! Spending: what a lease may use, what becomes of work that fits into no budget, and when it goes on.
//!
//! Work that does not fit is parked with the budget's name, so that the lanes of others go on and nothing is tried over and over; it
//! is redriven in the order in which it was parked, as much of it as there is room for. Invariant: whether work fits is asked in one
//! place, [`Account::admits`], when it is leased and when it is redriven, so that the one never undoes the other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mindos_model::{DeliveryId, FailureKind, Seq, Timestamp};

use crate::account::{Account, AccountIds, Due, Over, OverBudget, Reservation, Spend, Turn};
use crate::budget::{Amount, Level, Limit, Scope};
use crate::decide::Context;
use crate::durable::Durable;
use crate::estimate::Pair;
use crate::event::{Delivery, Event, Lease};
use crate::input::CeilingsWanted;
use crate::record::{BudgetCrossed, Cause, DeliveryParked, DeliveryRedriven, Record, Usage};
use crate::registry::GeneralIdx;

/// Deliveries redriven for one budget at a time.
const REDRIVEN_STEP: usize = 64;
/// How long a budget rests with room left, where what was redriven is not leased.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// What a lease gets.
pub(crate) struct Granted {
    pub(crate) reservation: Reservation,
    /// The same where something is limited.
    pub(crate) ceilings: Limit,
}

impl Account {
    /// Whether work may begin that wants so much; `waits` where it waits for its turn.
    pub(crate) fn admits(&self, now: Timestamp, event: Seq, priority: bool, wanted: Amount) -> bool {
        let tally = self.tally(now, event);
        if !self.is_for_runs() {
            let level = self.budget.level(tally.charged);
            let acknowledged = self.acknowledged && !self.has_ended(now);
            if level == Level::Paused && !acknowledged {
                return false;
            }
            if level >= Level::Degraded && !priority && !self.budget.priority.is_empty() {
                return false;
            }
        }
        self.budget.limit.holds(tally.used().plus(wanted))
    }

    /// Whether somebody else has to go first.
    fn is_behind(&self, turn: Turn) -> bool {
        let first = self.parked.first_key_value().map(|((first, _), _)| *first);
        !self.is_for_runs() && first.is_some_and(|first| first <= turn && first != Turn::Never)
    }

    fn turn(&self, kind: &str, wanted: Amount) -> Turn {
        match () {
            () if !self.budget.limit.holds(wanted) => Turn::Never,
            () if self.budget.has_priority(kind) => Turn::Priority,
            () => Turn::Usual,
        }
    }

    fn refusal(&self, account: Seq, now: Timestamp, kind: &str, wanted: Amount) -> OverBudget {
        let (budget, resets) = (self.budget.name.clone(), self.budget.period.end(now));
        OverBudget { account, budget, resets, wanted, turn: self.turn(kind, wanted) }
    }
}

/// What was used of models, in that time.
pub(crate) fn used(usage: &[Usage], took: Duration) -> Amount {
    let time_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    usage.iter().fold(Amount { time_ms, ..Amount::NONE }, |sum, usage| {
        let tokens = usage.input_tokens.saturating_add(usage.output_tokens);
        sum.plus(Amount { micros: usage.cost_micros, tokens, time_ms: 0 })
    })
}

impl Durable {
    fn applying(&self, event: &Event, general: GeneralIdx) -> AccountIds {
        let rule = self.routing.rule(event.route);
        let of = |scope| self.budgets.in_scope(&event.tenant, scope);
        if let Some(replay) = &event.replay {
            let mut accounts = AccountIds::from_slice(of(Scope::Replay(Arc::from(""))));
            accounts.extend_from_slice(of(Scope::Replay(replay.id.clone())));
            return accounts;
        }
        let mut accounts = AccountIds::from_slice(of(Scope::Tenant));
        if let Some(repository) = &event.repository {
            accounts.extend_from_slice(of(Scope::Repository(repository.clone())));
        }
        accounts.extend_from_slice(of(Scope::GeneralType(self.registry.general(general).ty.clone())));
        accounts.extend_from_slice(of(Scope::Route(rule.route.name.clone())));
        accounts.extend_from_slice(of(Scope::Run));
        accounts
    }

    /// What is set aside for a lease, or the budget that it does not fit into. `None` where no budget applies.
    pub(crate) fn reserve(
        &self,
        id: DeliveryId,
        (event, delivery): (&Event, &Delivery),
        general: GeneralIdx,
        reports: bool,
        context: Context<'_>,
    ) -> Result<Option<Granted>, Box<OverBudget>> {
        let accounts = self.applying(event, general);
        if accounts.is_empty() {
            return Ok(None);
        }
        let now = context.now.max(self.at);
        let known = || accounts.iter().filter_map(|since| Some((*since, self.budgets.get(*since)?)));
        let limit = known().fold(Limit::default(), |limits, (_, account)| limits.or(account.budget.limit));
        let over = delivery.setback().over.as_deref();
        let mut amount = match reports {
            // Who can be told to stop may begin with less than is likely.
            true => {
                let smallest = |most: Amount, (_, account): (Seq, &Account)| most.min(account.budget.limit.most());
                let ty = self.registry.general(general).ty.clone();
                let pair = Pair { tenant: event.tenant.clone(), ty, kind: event.kind.clone() };
                let estimate = self.budgets.estimates.of(&pair, context.limits.reservation_start);
                estimate.min(known().fold(Limit::default().most(), smallest))
            }
            false => context.limits.reservation_max,
        };
        amount = amount.max(over.map_or(Amount::NONE, |over| over.wanted));
        let admitted = over.is_some_and(|over| over.admitted);
        for (since, account) in known() {
            let turn = account.turn(&event.kind, amount);
            let waits = !admitted && account.is_behind(turn);
            if waits || !account.admits(now, id.event, turn == Turn::Priority, amount) {
                return Err(Box::new(account.refusal(since, now, &event.kind, amount)));
            }
        }
        Ok(Some(Granted { ceilings: limit.of(amount), reservation: Reservation { amount, accounts } }))
    }

    /// A waiting delivery is set aside until its budget has room.
    pub(crate) fn over_budget(id: DeliveryId, over: Box<OverBudget>) -> Record {
        let reason = mindos_model::ParkReason::OverBudget;
        Record::DeliveryParked(DeliveryParked { delivery: id, reason, over: Some(over) })
    }

    /// What an open lease has reserved from here on, and what it has spent, when its general reported usage or wants more.
    pub(crate) fn more(
        &self,
        (id, lease): (DeliveryId, &Lease),
        spend: &Spend,
        usage: &[Usage],
        wanted: Option<CeilingsWanted>,
        context: Context<'_>,
    ) -> (Amount, Option<Amount>) {
        let now = context.now.max(self.at);
        let reported = (!usage.is_empty()).then(|| used(usage, now.since(lease.since)));
        let spent = reported.map(|reported| reported.max(spend.spent.unwrap_or_default()));
        // What was used is not free for others, whether it had been reserved or not.
        let reserved = spend.reserved.max(spent.unwrap_or_default());
        let amount = |Limit { micros, tokens, time_ms }: Limit| Amount {
            micros: micros.unwrap_or(0),
            tokens: tokens.unwrap_or(0),
            time_ms: time_ms.unwrap_or(0),
        };
        let mut more = match wanted {
            None => Amount::NONE,
            Some(CeilingsWanted::InAll(limit)) => amount(limit).less(reserved),
            Some(CeilingsWanted::More(limit)) => amount(limit),
        };
        for account in spend.accounts.iter().filter_map(|since| self.budgets.get(*since)) {
            let used = account.tally(now, id.event).used().plus(reserved.less(spend.reserved));
            more = more.min(account.budget.limit.room(used));
        }
        (reserved.plus(more), spent)
    }

    /// What an open lease may use where something is limited.
    pub(crate) fn ceilings(&self, spend: &Spend, reserved: Amount) -> Limit {
        let accounts = spend.accounts.iter().filter_map(|since| self.budgets.get(*since));
        accounts.fold(Limit::default(), |limits, account| limits.or(account.budget.limit)).of(reserved)
    }

    /// What a lease is charged that ended for this cause.
    pub(crate) fn charge(
        &self,
        delivery: &Delivery,
        cause: Option<Cause>,
        usage: &[Usage],
        now: Timestamp,
    ) -> Option<Amount> {
        let lease = delivery.lease()?;
        let spend = lease.spend.as_deref()?;
        Some(match cause {
            // The general has answered, and knows.
            None | Some(Cause::Failed(_)) => used(usage, now.since(lease.since)).max(spend.spent.unwrap_or_default()),
            // It never began.
            Some(Cause::Declined | Cause::Undelivered) => spend.spent.unwrap_or_default(),
            Some(Cause::Lapsed | Cause::Rebooted | Cause::Deadline) => spend.spent.unwrap_or(spend.reserved),
        })
    }

    /// The budget that a general has stopped at, and what the next attempt is to have.
    pub(crate) fn stopped_at(&self, id: DeliveryId, cause: Cause, now: Timestamp) -> Option<OverBudget> {
        if cause != Cause::Failed(FailureKind::OverBudget) {
            return None;
        }
        let (event, delivery) = self.events.delivery(id)?;
        let spend = delivery.lease()?.spend.as_deref()?;
        let known = spend.accounts.iter().filter_map(|since| Some((*since, self.budgets.get(*since)?)));
        let fullness = |account: &Account| account.budget.limit.percent(account.tally(now, id.event).used());
        let (since, account) = known.max_by_key(|(_, account)| fullness(account))?;
        let (had, most) = (spend.reserved, account.budget.limit.most());
        // Who had all of it and stopped needs more than there is.
        let had_all = account.budget.limit.percent(had) >= 100;
        let wanted = if had_all { had.plus(had) } else { had.plus(had).min(most) };
        Some(account.refusal(since, now, &event.kind, wanted))
    }

    /// What may go on, and whether there is more of it to look at.
    pub(crate) fn freed(&self, due: Due, context: Context<'_>) -> (Vec<Record>, bool) {
        let now = context.now.max(self.at);
        let ids: Vec<DeliveryId> = match due {
            Due::Orphans => self.budgets.orphans.values().copied().take(REDRIVEN_STEP).collect(),
            Due::Account(since) => {
                self.budgets.get(since).map_or_else(Vec::new, |account| self.fitting_in(account, now, context))
            }
            Due::Run(since, event) => self.fitting_run(since, event, now),
        };
        let has_more = ids.len() == REDRIVEN_STEP;
        let redriven = ids.into_iter().filter_map(|delivery| {
            let (_, known) = self.events.delivery(delivery)?;
            let (place_before, why, by) = (known.place, std::sync::Arc::default(), std::sync::Arc::from(""));
            let record = DeliveryRedriven { delivery, place_before, why, by };
            Some(Record::DeliveryRedriven(record))
        });
        (redriven.collect(), has_more)
    }

    /// Those parked for an account for which there is room, the first in turn first: nobody is passed over.
    fn fitting_in(&self, account: &Account, now: Timestamp, context: Context<'_>) -> Vec<DeliveryId> {
        let mut taken = BTreeMap::<Option<Seq>, Amount>::new();
        let mut fitting = Vec::new();
        for ((turn, _), id) in &account.parked {
            let Some(over) = self.waits_for_budget(*id) else { continue };
            let run = account.is_for_runs().then_some(id.event);
            let taken = taken.entry(run).or_default();
            let wanted = taken.plus(over.wanted);
            if account.admits(now, id.event, *turn == Turn::Priority, wanted) {
                *taken = wanted;
                fitting.push(*id);
            } else if self.goes_round(&account.budget.scope, *id, context) {
                // Cheaper generals may take it, and they do not concern this budget.
                fitting.push(*id);
            } else if run.is_none() {
                break;
            }
            if fitting.len() == REDRIVEN_STEP {
                break;
            }
        }
        fitting
    }

    fn fitting_run(&self, since: Seq, event: Seq, now: Timestamp) -> Vec<DeliveryId> {
        let (Some(account), Some(known)) = (self.budgets.get(since), self.events.get(event)) else { return Vec::new() };
        let mut taken = Amount::NONE;
        let fits = |(id, delivery): (DeliveryId, &Delivery)| {
            let over = delivery.setback().over.as_deref();
            let over = over.filter(|over| over.account == since && over.place.is_some())?;
            let wanted = taken.plus(over.wanted);
            let priority = account.budget.has_priority(&known.kind);
            account.admits(now, event, priority, wanted).then(|| {
                taken = wanted;
                id
            })
        };
        known.deliveries(event).filter_map(fits).take(REDRIVEN_STEP).collect()
    }

    fn waits_for_budget(&self, id: DeliveryId) -> Option<&Over> {
        let (_, delivery) = self.events.delivery(id)?;
        delivery.setback().over.as_deref()
    }

    /// That a budget has reached a level, if it has.
    pub(crate) fn crossing(&self, since: Seq, now: Timestamp) -> Option<Record> {
        let account = self.budgets.get(since)?;
        let now = now.max(self.at);
        let level = account.reached(now);
        let before = if account.has_ended(now) { Level::Free } else { account.level };
        let Account { tenant, budget, tally, .. } = account;
        (level > before).then(|| {
            let (tenant, budget) = (tenant.clone(), budget.name.clone());
            let tally = *tally;
            Record::BudgetCrossed(Box::new(BudgetCrossed { tenant, budget, level, tally }))
        })
    }

    /// When to look again: soon after something was redriven, else when the period ends.
    pub(crate) fn look_at_budget(&mut self, due: Due, redriven: bool, now: Timestamp) {
        let (Due::Account(since) | Due::Run(since, _)) = due else { return };
        // One that is low is looked at when its period ends, because work then goes to other generals again.
        let is_watched = |account: &&Account| !account.parked.is_empty() || account.level >= Level::Degraded;
        let Some(account) = self.budgets.get(since).filter(is_watched) else { return };
        let end = account.budget.period.end(now.max(self.at));
        if let Some(at) = if redriven { Some(now + LOOK_AGAIN) } else { end } {
            self.budgets.look_at(since, at);
        }
    }
}
