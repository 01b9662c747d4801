//! What a replay came to, counted.

use std::collections::BTreeMap;
use std::time::Duration;

use mindos_proto::delivery::v1::{Delivery, DeliveryStatus};
use mindos_proto::route::v1::Strategy;
use serde_json::{Value, json};

use super::replay::Outcome;
use crate::commands::deliveries::{general_text, park_text, status_word};
use crate::failure::Failure;
use crate::render::{Table, short_word};

/// The counts of a replay.
#[derive(Debug)]
pub(crate) struct Summary {
    webhooks: usize,
    duplicates: usize,
    events: usize,
    not_routed: usize,
    by_kind: BTreeMap<String, usize>,
    by_type: BTreeMap<String, usize>,
    deliveries: usize,
    planned: usize,
    by_general: BTreeMap<String, usize>,
    by_outcome: BTreeMap<String, usize>,
    /// Events and deliveries of each (kind, strategy).
    by_kind_and_strategy: BTreeMap<(String, String), (usize, usize)>,
    unsettled: Vec<(String, String)>,
    attempts_failed: u64,
    restarts: u64,
    ledger: Value,
    ledger_good: bool,
    publishing: Duration,
    settling: Duration,
    total: Duration,
}

impl Summary {
    pub(crate) fn new(outcome: &Outcome, restarts: u64, total: Duration) -> Summary {
        let Outcome { webhooks, duplicates, events, deliveries, publishing, settling, ledger } = outcome;
        let mut summary = Summary {
            webhooks: *webhooks,
            duplicates: *duplicates,
            events: events.len(),
            not_routed: events.iter().filter(|event| event.route.is_empty()).count(),
            by_kind: BTreeMap::new(),
            by_type: BTreeMap::new(),
            deliveries: deliveries.len(),
            planned: events.iter().map(|event| event.deliveries.len()).sum(),
            by_general: BTreeMap::new(),
            by_outcome: BTreeMap::new(),
            by_kind_and_strategy: BTreeMap::new(),
            unsettled: Vec::new(),
            attempts_failed: deliveries.iter().map(|delivery| u64::from(delivery.attempts_used)).sum(),
            restarts,
            ledger: ledger.to_json(),
            ledger_good: ledger.damage.is_none(),
            publishing: *publishing,
            settling: *settling,
            total,
        };
        for event in events {
            *summary.by_kind.entry(event.kind.clone()).or_default() += 1;
            let event_type = event.event.as_ref().map(|event| event.r#type.clone()).unwrap_or_default();
            *summary.by_type.entry(event_type).or_default() += 1;
            if !event.route.is_empty() {
                let key = (event.kind.clone(), strategy_word(event.strategy));
                summary.by_kind_and_strategy.entry(key).or_default().0 += 1;
            }
        }
        for delivery in deliveries {
            *summary.by_general.entry(general_text(delivery)).or_default() += 1;
            *summary.by_outcome.entry(status_word(delivery)).or_default() += 1;
            let kind = delivery.event.as_ref().map(|event| event.kind.clone()).unwrap_or_default();
            summary.by_kind_and_strategy.entry((kind, strategy_word(delivery.strategy))).or_default().1 += 1;
            if !is_settled(delivery) {
                let why = format!("{} {}", status_word(delivery), park_text(delivery));
                summary.unsettled.push((delivery.delivery_id.clone(), why.trim().to_owned()));
            }
        }
        summary
    }

    /// Whether every delivery that was planned is settled.
    fn is_settled(&self) -> bool {
        self.unsettled.is_empty() && self.deliveries == self.planned
    }

    pub(crate) fn to_json(&self) -> Value {
        let pairs: Vec<Value> = self
            .by_kind_and_strategy
            .iter()
            .map(|((kind, strategy), (events, deliveries))| {
                json!({"kind": kind, "strategy": strategy, "events": events, "deliveries": deliveries})
            })
            .collect();
        let unsettled: Vec<Value> =
            self.unsettled.iter().map(|(id, why)| json!({"delivery_id": id, "why": why})).collect();
        json!({
            "webhooks": self.webhooks,
            "duplicates": self.duplicates,
            "events": self.events,
            "events_not_routed": self.not_routed,
            "by_kind": self.by_kind,
            "by_type": self.by_type,
            "deliveries": self.deliveries,
            "deliveries_planned": self.planned,
            "by_general": self.by_general,
            "by_outcome": self.by_outcome,
            "by_kind_and_strategy": pairs,
            "settled": self.is_settled(),
            "unsettled": unsettled,
            "attempts_failed": self.attempts_failed,
            "process_restarts": self.restarts,
            "ledger": self.ledger,
            "seconds": {
                "publishing": seconds(self.publishing),
                "settling": seconds(self.settling),
                "total": seconds(self.total),
            },
        })
    }

    pub(crate) fn to_text(&self) -> String {
        let mut kinds = Table::new(&["kind", "strategy", ">events", ">deliveries"]);
        for ((kind, strategy), (events, deliveries)) in &self.by_kind_and_strategy {
            kinds.row(vec![kind.clone(), strategy.clone(), events.to_string(), deliveries.to_string()]);
        }
        let mut generals = Table::new(&["general", ">deliveries"]);
        for (general, deliveries) in &self.by_general {
            generals.row(vec![general.clone(), deliveries.to_string()]);
        }
        let outcomes: Vec<String> =
            self.by_outcome.iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
        let mut text = format!(
            "{}\n\n{}\n\n{} webhooks, {} events ({} accepted before, {} not routed)\n{} deliveries: {}\n",
            kinds.text(),
            generals.text(),
            self.webhooks,
            self.events,
            self.duplicates,
            self.not_routed,
            self.deliveries,
            if outcomes.is_empty() { "none".to_owned() } else { outcomes.join(", ") },
        );
        for (id, why) in self.unsettled.iter().take(20) {
            text.push_str(&format!("not settled: {id} {why}\n"));
        }
        if self.ledger_good {
            text.push_str(&format!("ledger verified: {} records\n", self.ledger["records"]));
        } else {
            text.push_str(&format!("ledger DAMAGED: {}\n", self.ledger["damage"]));
        }
        text.push_str(&format!(
            "published in {:.2} s, settled after {:.2} s, {:.2} s in all",
            seconds(self.publishing),
            seconds(self.settling),
            seconds(self.total)
        ));
        text
    }

    /// An error unless every delivery settled and the ledger is whole.
    pub(crate) fn into_result(self) -> Result<(), Failure> {
        if !self.ledger_good {
            return Err(Failure::verification("the ledger is damaged"));
        }
        if !self.is_settled() {
            let missing = self.planned.saturating_sub(self.deliveries) + self.unsettled.len();
            return Err(Failure::verification(format!("{missing} deliveries are not settled")).hint(
                "run with --keep and look at them with `mindos deliveries list --status parked,waiting,leased`",
            ));
        }
        Ok(())
    }
}

fn is_settled(delivery: &Delivery) -> bool {
    matches!(delivery.status(), DeliveryStatus::Succeeded | DeliveryStatus::Cancelled)
}

fn strategy_word(strategy: i32) -> String {
    let strategy = Strategy::try_from(strategy).unwrap_or(Strategy::Unspecified);
    short_word(strategy.as_str_name(), "STRATEGY_")
}

fn seconds(span: Duration) -> f64 {
    (span.as_secs_f64() * 1000.0).round() / 1000.0
}
