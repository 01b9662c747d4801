//! Tokens and money: what the ledger says was used, against what the model server counted.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::team::{General, Setup, Team};
use super::{Counted, OWNER, reviews};
use crate::process;

/// What one lease used, by model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Lease {
    extended: ByModel,
    ended: Option<ByModel>,
}

/// What was used of each model.
pub type ByModel = BTreeMap<String, Used>;

fn sum(by_model: &ByModel) -> Used {
    let mut sum = Used::default();
    by_model.values().for_each(|used| sum.add(*used));
    sum
}

/// Tokens and money.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Tokens asked.
    pub input: u64,
    /// Tokens answered.
    pub output: u64,
    /// Millionths.
    pub cost: u64,
}

impl Used {
    fn of(one: &Value) -> Used {
        let number = |name: &str| one[name].as_u64().or_else(|| one[name].as_str()?.parse().ok()).unwrap_or(0);
        Used { input: number("input_tokens"), output: number("output_tokens"), cost: number("cost_micros") }
    }

    fn by_model(usage: &Value) -> ByModel {
        let mut by_model = ByModel::new();
        for one in usage.as_array().into_iter().flatten() {
            by_model.entry(one["model"].as_str().unwrap_or_default().to_owned()).or_default().add(Used::of(one));
        }
        by_model
    }

    /// Adds another's.
    pub fn add(&mut self, other: Used) {
        self.input += other.input;
        self.output += other.output;
        self.cost += other.cost;
    }
}

/// What every lease of an export used in the end: by its result, or where nobody answered by its last report. Each counts once.
///
/// # Errors
/// When the export is not one.
pub fn used(export: &str) -> Result<Used> {
    Ok(sum(&used_by_model(export)?))
}

/// The same by model.
///
/// # Errors
/// When the export is not one.
pub fn used_by_model(export: &str) -> Result<ByModel> {
    let mut leases: BTreeMap<String, Lease> = BTreeMap::new();
    for line in export.lines() {
        let record: Value = serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))?;
        let Some(entry) = record["entry"].as_object() else { continue };
        for (kind, fields) in entry.iter().filter(|(_, fields)| fields.is_object()) {
            let job = || format!("{}-{}", fields["delivery"], fields["token"]);
            match kind.as_str() {
                "lease_extended" if !fields["usage"].is_null() => {
                    let lease = leases.entry(job()).or_default();
                    let said = Used::by_model(&fields["usage"]);
                    if sum(&said).output >= sum(&lease.extended).output {
                        lease.extended = said;
                    }
                }
                "delivery_settled" | "attempt_ended" => {
                    let lease = leases.entry(job()).or_default();
                    ensure!(lease.ended.is_none(), "a lease ended twice: {line}");
                    let said = Used::by_model(&fields["usage"]);
                    let is_later = sum(&said).output >= sum(&lease.extended).output;
                    lease.ended = Some(if is_later { said } else { lease.extended.clone() });
                }
                _ => {}
            }
        }
    }
    let mut all = ByModel::new();
    for Lease { extended, ended } in leases.into_values() {
        for (model, used) in ended.unwrap_or(extended) {
            all.entry(model).or_default().add(used);
        }
    }
    Ok(all)
}

/// That the ledger has exactly the tokens that the model server counted, and what they cost.
///
/// # Errors
/// With both sides.
pub fn agrees(used: Used, counted: Counted) -> Result<()> {
    let Used { input, output, cost } = used;
    ensure!(
        (input, output, cost) == (counted.input, counted.output, counted.cost),
        "the ledger has {used:?}, the model server counted {counted:?}"
    );
    Ok(())
}

/// A run that would go over its ceiling: it asks once, and stops before it asks again.
///
/// # Errors
/// When it spends more than its ceiling and one call.
pub async fn ceiling(scale: u32) -> Result<Value> {
    let mut team = Team::start(&Setup { name: "ceiling", scale, settings: "" }).await?;
    // A call may cost 5,126 millionths if its answer is as long as it may be. The first one costs 206, and then there is no room for another.
    let server = team.world.server();
    let ceiling = 5300;
    process::json(&["budgets", "set", "small", "--cost", "0.0053", "--time", "1h", "--server", &server])?;
    team.general(&General::stream("code-review-general")).await?;
    team.forge.repository(&format!("{OWNER}/shelf")).await?;
    reviews::open(&team, "shelf", "Whole weeks cost half").await?;
    team.forge.look("settled").await?;
    let begun = std::time::Instant::now();
    let (parked, used) = loop {
        let account = team.account().await?;
        // Two more generals are asked for that are not there; one delivery is the review's.
        if !account.parked.is_empty() || team.forge.counted().await?.calls > 1 {
            break (account.parked.len(), used(&team.export()?)?);
        }
        ensure!(
            begun.elapsed() < super::team::REST_MAX,
            "the run did not stop: {:?}\n{}",
            account.attempts_ended,
            team.logs()
        );
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    let counted = team.forge.counted().await?;
    ensure!(parked == 1 && counted.calls == 1, "{parked} parked after {counted:?}; {used:?}\n{}", team.logs());
    agrees(used, counted)?;
    ensure!(used.cost > 0 && used.cost <= ceiling, "{} spent under a ceiling of {ceiling}", used.cost);
    Ok(
        json!({"ceiling_micros": ceiling, "spent_micros": used.cost, "calls": counted.calls, "calls_over_the_ceiling": counted.calls - 1}),
    )
}
