//! What the simulator compares accounts with: a scan of all open leases and of all that is parked.

use std::collections::BTreeMap;

use mindos_model::{DeliveryId, Seq};

use crate::account::{Due, Place};
use crate::budget::Amount;
use crate::decide::Context;
use crate::durable::Durable;
use crate::event::Phase;

impl Durable {
    pub(crate) fn check_budgets(&self) -> Result<(), String> {
        let mut reserved = BTreeMap::<Seq, Amount>::new();
        let mut runs = BTreeMap::<(Seq, Seq), Amount>::new();
        let mut parked = BTreeMap::<Option<Seq>, BTreeMap<Place, DeliveryId>>::new();
        for (seq, event) in self.events.iter() {
            for (id, delivery) in event.deliveries(seq) {
                if let Some(spend) = delivery.lease().and_then(|lease| lease.spend.as_deref()) {
                    for since in &spend.accounts {
                        let sum = reserved.entry(*since).or_default();
                        *sum = sum.plus(spend.reserved);
                        let sum = runs.entry((*since, seq)).or_default();
                        *sum = sum.plus(spend.reserved);
                    }
                }
                let place = delivery.setback().over.as_deref().and_then(|over| Some((over.account, over.place?)));
                if let Some((since, place)) = place {
                    if !matches!(delivery.phase, Phase::Parked { .. }) {
                        return Err(format!("delivery {id} waits for a budget and is {}", delivery.status()));
                    }
                    let since = self.budgets.get(since).map(|_| since);
                    parked.entry(since).or_default().insert(place, id);
                }
            }
        }
        let orphans = parked.remove(&None).unwrap_or_default();
        if orphans != self.budgets.orphans {
            return Err(format!("a scan finds {orphans:?} without a budget, listed {:?}", self.budgets.orphans));
        }
        for (since, account) in self.budgets.iter() {
            let name = &account.budget.name;
            let found = reserved.get(&since).copied().unwrap_or_default();
            if found != account.tally.reserved {
                return Err(format!("leases reserve {found:?} of budget {name}, listed {:?}", account.tally.reserved));
            }
            for (event, tally) in &account.runs {
                let found = runs.get(&(since, *event)).copied().unwrap_or_default();
                if found != tally.reserved || self.events.get(*event).is_none() {
                    return Err(format!("event {event} reserves {found:?} of budget {name}, listed {tally:?}"));
                }
            }
            let found = parked.remove(&Some(since)).unwrap_or_default();
            if found != account.parked {
                return Err(format!("a scan finds {found:?} parked for {name}, listed {:?}", account.parked));
            }
            let looks = account.look.map_or(0, |look| usize::from(self.budgets.looks.contains(&(look, since))));
            if looks != usize::from(account.look.is_some()) {
                return Err(format!("budget {name} is to be looked at, and not in the agenda"));
            }
        }
        Ok(())
    }

    /// Work that a budget has room for, and that nothing will set off.
    pub(crate) fn check_budget_turns(&self, context: Context<'_>) -> Result<(), String> {
        for (since, account) in self.budgets.iter() {
            let due = Due::Account(since);
            let end = account.budget.period.end(self.at);
            let is_looked_at = account.look.is_some_and(|look| end.is_none_or(|end| look <= end));
            if !account.parked.is_empty() && end.is_some() && !is_looked_at && !self.budgets.due.contains(&due) {
                return Err(format!(
                    "work waits for budget {}, and nothing looks at it at its reset",
                    account.budget.name
                ));
            }
            if self.budgets.due.contains(&due) || account.look.is_some_and(|look| look.0 <= self.at.0 + 10_000) {
                continue;
            }
            let (records, _) = self.freed(due, Context { now: self.at, ..context });
            let first = records.first().filter(|_| !account.is_for_runs() || self.budgets.due.is_empty());
            if let Some(record) = first {
                return Err(format!("budget {} has room, and nothing looks at {record:?}", account.budget.name));
            }
        }
        Ok(())
    }
}
