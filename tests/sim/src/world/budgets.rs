//! People who set budgets, raise them, let paused ones go on and take them away, at random.

use std::sync::Arc;

use mindos_core::budget::{Budget, Limit, Period, Scope, Thresholds};
use mindos_core::input::{BudgetChange, Input};
use mindos_model::BudgetName;

use super::World;
use super::people::Asked;
use crate::words;

const NAMES: [&str; 4] = ["all", "repo", "type", "run"];

impl World {
    pub(super) fn change_budgets(&mut self) {
        let at = self.chance.below(NAMES.len() as u64) as usize;
        let name = BudgetName::new(NAMES[at]).expect("a name of ours");
        let change = match self.chance.below(10) {
            0..=5 => BudgetChange::Set(self.budget(at, name)),
            6 | 7 => BudgetChange::Acknowledge(name),
            _ => BudgetChange::Remove(name),
        };
        self.change_budget(change);
    }

    pub(super) fn change_budget(&mut self, change: BudgetChange) {
        let request = self.request(Asked::Other);
        self.input(Input::Budget {
            request,
            tenant: words::tenant(),
            change,
            by: Arc::from("ann"),
            from: Arc::from(""),
        });
    }

    /// Takes all budgets away, so that what waits for them goes on.
    pub(super) fn remove_budgets(&mut self) {
        let names: Vec<_> = self.ledger.budgets.names.keys().cloned().collect();
        for name in names {
            self.change_budget(BudgetChange::Remove(name));
        }
    }

    /// One of any kind.
    pub(super) fn some_budget(&mut self, name: BudgetName) -> Arc<Budget> {
        let at = self.chance.below(NAMES.len() as u64) as usize;
        self.budget(at, name)
    }

    fn budget(&mut self, at: usize, name: BudgetName) -> Arc<Budget> {
        let scope = match at {
            0 => Scope::Tenant,
            1 => Scope::Repository(Arc::from(format!("acme/{}", self.chance.below(3)))),
            2 => Scope::GeneralType("b".parse().expect("a name of ours")),
            3 if self.chance.permille(400) => {
                Scope::Replay(Arc::from(if self.chance.permille(500) { "" } else { "try1" }))
            }
            _ => Scope::Run,
        };
        let periods = [Period::Hour, Period::Hour, Period::Day, Period::Total];
        let period = self.chance.pick(&periods).copied().unwrap_or(Period::Total);
        let micros = Some(if at == 3 { self.chance.within(200, 3000) } else { self.chance.skewed(1000, 50_000) });
        let tokens = self.chance.permille(300).then(|| self.chance.skewed(100, 20_000));
        let pauses = self.chance.permille(300);
        let act = self.chance.pick(&[1, 1, 20, 80]).copied().unwrap_or(80);
        let priority = if self.chance.permille(400) { vec![Arc::from("bc"), Arc::from("rr")] } else { Vec::new() };
        Arc::new(Budget {
            name,
            period: if scope == Scope::Run { Period::Total } else { period },
            scope,
            limit: Limit { micros, tokens, time_ms: None },
            thresholds: Thresholds { act, pause: if pauses { 90 } else { 0 }, ..Thresholds::default() },
            priority,
        })
    }
}
