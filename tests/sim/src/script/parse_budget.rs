//! Lines about budgets: `budget set NAME ..`, `budget remove NAME`, `budget ack NAME`, and what work has spent.

use std::sync::Arc;

use mindos_core::budget::{Budget, Limit, Period, Scope, Thresholds};
use mindos_core::input::{BudgetChange, Input, RequestId};
use mindos_core::record::Usage;
use mindos_model::{BudgetName, GeneralType, RouteName};

use super::parse::{Parsed, Words, number, split, text};
use crate::words;

impl Words<'_> {
    /// What models were used for, as `micros/tokens`.
    pub(super) fn spent(&mut self) -> Parsed<Vec<Usage>> {
        self.list("spent", |item| {
            let (micros, tokens) = split(item)?;
            let (cost_micros, input_tokens) = (number(micros)?, number(tokens)?);
            Ok(Usage { model: Arc::from("m"), input_tokens, output_tokens: 0, cost_micros })
        })
    }

    /// What a budget says, beside its name.
    pub(super) fn budget_of(&mut self, name: BudgetName) -> Parsed<Budget> {
        let repository = self.take("repository").map(|repository| Scope::Repository(Arc::from(repository)));
        let ty = self.take("type").map(GeneralType::new).transpose().map_err(text)?.map(Scope::GeneralType);
        let route = self.take("route").map(RouteName::new).transpose().map_err(text)?.map(Scope::Route);
        let scope = match self.take("scope") {
            Some("run") => Scope::Run,
            Some("replay") => Scope::Replay(Arc::from("")),
            Some(other) if other.starts_with("replay:") => Scope::Replay(Arc::from(&other["replay:".len()..])),
            _ => Scope::Tenant,
        };
        let limit = |words: &mut Self, name| words.take(name).map(number).transpose();
        let at: Vec<u32> = self.list("at", number)?;
        let stock = Thresholds::default();
        Ok(Budget {
            name,
            scope: repository.or(ty).or(route).unwrap_or(scope),
            period: match self.take("period").unwrap_or("total") {
                "hour" => Period::Hour,
                "day" => Period::Day,
                "month" => Period::Month,
                _ => Period::Total,
            },
            limit: Limit {
                micros: limit(self, "micros")?,
                tokens: limit(self, "tokens")?,
                time_ms: limit(self, "time_ms")?,
            },
            thresholds: match at[..] {
                [warn, act, pause] => Thresholds { warn, act, pause },
                _ => stock,
            },
            priority: self.list("priority", |kind| Ok(Arc::from(kind)))?,
        })
    }

    pub(super) fn budget(&mut self) -> Parsed<Input> {
        let verb = self.next("set, remove or ack")?;
        let name = BudgetName::new(self.next("a name")?).map_err(text)?;
        let change = match verb {
            "remove" => BudgetChange::Remove(name),
            "ack" => BudgetChange::Acknowledge(name),
            _ => self.budget_of(name).map(|budget| BudgetChange::Set(Arc::new(budget)))?,
        };
        Ok(Input::Budget { request: RequestId(0), tenant: words::tenant(), change, by: self.by(), from: Arc::from("") })
    }
}
