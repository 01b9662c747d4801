//! `Budget`: a limit on money, tokens or time.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What may be spent, for what, and by when. Work is begun only if it fits into all budgets that apply to it.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[kube(
    group = "mindos.io",
    version = "v1alpha1",
    kind = "Budget",
    plural = "budgets",
    singular = "budget",
    namespaced,
    shortname = "mbg",
    category = "mindos",
    status = "BudgetStatus",
    derive = "PartialEq",
    doc = "A limit on what work may cost. The control plane takes it only where its settings grant budgets to this cluster.",
    printcolumn(
        name = "Scope",
        type_ = "string",
        json_path = ".spec.scope.kind",
        description = "Whose work it is about."
    ),
    printcolumn(name = "Of", type_ = "string", json_path = ".spec.scope.value", description = "Which one."),
    printcolumn(name = "Period", type_ = "string", json_path = ".spec.period", description = "When it begins anew."),
    printcolumn(
        name = "Used",
        type_ = "integer",
        json_path = ".status.usedPercent",
        description = "How much of it was charged or is set aside, in percent."
    ),
    printcolumn(name = "Level", type_ = "string", json_path = ".status.level", description = "How far it is used up."),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Accepted')].status",
        description = "Whether the control plane took it."
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.name) == has(oldSelf.name) && (!has(self.name) || self.name == oldSelf.name)").message("the name cannot change").field_path(".name"),
    validation = Rule::new("has(self.cost) || has(self.tokens) || has(self.time)").message("one of cost, tokens and time is needed"),
    validation = Rule::new("self.scope.kind != 'Run' || self.period == 'Total'").message("a budget for runs has no period: expected Total").field_path(".period")
)]
pub struct BudgetSpec {
    /// Name in the control plane. The object's own name where it is unset. Cannot change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$"))]
    pub name: Option<String>,
    /// Whose work it is about.
    #[serde(default)]
    pub scope: BudgetScope,
    /// When it begins anew, in UTC.
    #[serde(default)]
    pub period: BudgetPeriod,
    /// Money, in the currency of the control plane's prices, such as `25` or `12.50`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-9]{1,9}(\.[0-9]{1,6})?$"))]
    pub cost: Option<String>,
    /// Tokens read and written together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 9_007_199_254_740_992u64))]
    pub tokens: Option<u64>,
    /// Time from lease to result, all together, such as `10h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^([0-9]{1,9}(ms|s|m|h|d))+$"))]
    pub time: Option<String>,
    /// Share of the limit in percent at which people are told. 0 is never.
    #[serde(default = "fifty")]
    #[schemars(range(max = 100))]
    pub warn_percent: u32,
    /// Share of the limit from which on only priority work begins, and other work goes to cheaper generals. 0 is never.
    #[serde(default = "eighty")]
    #[schemars(range(max = 100))]
    pub act_percent: u32,
    /// Share of the limit at which nothing begins until somebody acknowledges it. 0 is never.
    #[serde(default = "ninety_five")]
    #[schemars(range(max = 100))]
    pub pause_percent: u32,
    /// Kinds of events whose work is priority work. Empty means that all work goes on at `actPercent`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 256)))]
    pub priority_kinds: Vec<String>,
}

/// Whose work a budget is about.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.kind in ['Repository', 'GeneralType', 'Route'] ? has(self.value) && self.value != '' : true").message("repository, general type and route have to be named").field_path(".value"),
    validation = Rule::new("self.kind in ['Tenant', 'Run'] ? !has(self.value) || self.value == '' : true").message("tenant and run have no value").field_path(".value")
)]
pub struct BudgetScope {
    /// Which dimension.
    #[serde(default)]
    pub kind: BudgetScopeKind,
    /// Which one: the repository as owner/name, the type of the generals, the route's name, or the replay's name, where nothing means all
    /// replays together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub value: Option<String>,
}

/// A dimension of budgets.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[schemars(description = "Tenant, Repository, GeneralType, Route, Run (each event for itself) or Replay.")]
pub enum BudgetScopeKind {
    #[default]
    Tenant,
    Repository,
    GeneralType,
    Route,
    Run,
    Replay,
}

/// When a budget begins anew.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[schemars(description = "Hour, Day, Month, or Total, which never ends.")]
pub enum BudgetPeriod {
    Hour,
    Day,
    #[default]
    Month,
    Total,
}

/// How far a budget is used up.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[schemars(description = "Free, Warned, Degraded, Paused or Exhausted.")]
pub enum BudgetLevel {
    #[default]
    Free,
    Warned,
    Degraded,
    Paused,
    Exhausted,
}

/// What was used.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BudgetAmount {
    /// Money.
    #[serde(default)]
    pub cost: String,
    /// Tokens read and written together.
    #[serde(default)]
    pub tokens: u64,
    /// Time from lease to result.
    #[serde(default)]
    pub time: String,
}

/// How a budget stands.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BudgetStatus {
    /// The generation of the spec that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Accepted`: the control plane took the object. `Ready`: work begins under it.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Name in the control plane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What was charged in the present period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub charged: Option<BudgetAmount>,
    /// What is set aside for open leases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserved: Option<BudgetAmount>,
    /// How far it is used up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<BudgetLevel>,
    /// How much of the limit was charged or is set aside, in percent; of several limits the fullest.
    #[serde(default)]
    pub used_percent: u32,
    /// Deliveries that are set aside for it.
    #[serde(default)]
    pub parked: u64,
    /// Whether somebody lets it be used up in this period.
    #[serde(default)]
    pub acknowledged: bool,
    /// When it begins anew, as RFC 3339. Unset where it never does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resets_at: Option<String>,
}

fn fifty() -> u32 {
    50
}

fn eighty() -> u32 {
    80
}

fn ninety_five() -> u32 {
    95
}

/// Why a text is no amount of money.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an amount: expected up to nine digits and, after a point, up to six, such as 12.50")]
pub struct CostError {
    text: String,
}

/// Millionths of the currency unit.
///
/// # Errors
/// Says what is accepted.
pub fn cost_micros(text: &str) -> Result<u64, CostError> {
    let wrong = || CostError { text: text.escape_debug().take(64).collect() };
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str, max: usize| (1..=max).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole, 9) || !digits(part, 6) {
        return Err(wrong());
    }
    let whole: u64 = whole.parse().map_err(|_| wrong())?;
    let part: u64 = format!("{part:0<6}").parse().map_err(|_| wrong())?;
    Ok(whole * 1_000_000 + part)
}

/// The amount as a text, without zeroes at its end.
#[must_use]
pub fn cost_text(micros: u64) -> String {
    let (whole, part) = (micros / 1_000_000, micros % 1_000_000);
    match part {
        0 => whole.to_string(),
        part => format!("{whole}.{}", format!("{part:06}").trim_end_matches('0')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_to_the_millionth() {
        for (text, micros) in [("0", 0), ("25", 25_000_000), ("12.5", 12_500_000), ("0.000001", 1)] {
            assert_eq!(cost_micros(text), Ok(micros), "{text}");
            assert_eq!(cost_text(micros), text);
        }
        assert_eq!(cost_micros("12.50"), Ok(12_500_000));
        for text in ["", ".", "1.", ".5", "-1", "1e3", "1.0000001", "1234567890", "1,5"] {
            assert!(cost_micros(text).is_err(), "{text}");
        }
    }
}
