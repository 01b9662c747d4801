//! `mindos budgets`: limits on money, tokens and time, how they stand, and what was used.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand, ValueEnum};
use mindos_control_plane::amount::money;
use mindos_model::Timestamp;
use mindos_proto::budget::v1::{
    self as wire, AcknowledgeBudgetRequest, Amount, Budget, BudgetStatus, DeleteBudgetRequest, GetBudgetRequest,
    GetUsageRequest, Level, ListBudgetsRequest, SetBudgetRequest, UsageDimension, budget::Scope,
};
use mindos_proto::convert;
use serde_json::json;

use super::filter::span;
use crate::client::Client;
use crate::failure::Failure;
use crate::options::Global;
use crate::render::{self, Table, short_word};

pub(crate) const EXAMPLES: &str = "\
Examples:
  mindos budgets set team --period day --cost 25 --priority pr_created
  mindos budgets set reviews --general-type code-review-general --period month --cost 400 --tokens 50000000
  mindos budgets set each-run --run --cost 0.50
  mindos budgets set replays --replays --period day --cost 10
  mindos budgets list
  mindos budgets usage --by repository --since 7d";
const SET_EXAMPLES: &str = "\
Examples:
  mindos budgets set team --period day --cost 25
  mindos budgets set team --period day --cost 40          # raises it; what waits for it goes on
  mindos budgets set site --repository acme/site --period hour --tokens 2000000 --pause 0
  mindos budgets set each-run --run --cost 0.50 --time 10m

Without a scope a budget is about all work. A delivery is leased only if it fits into all budgets that apply to it.";
const USAGE_EXAMPLES: &str = "\
Examples:
  mindos budgets usage
  mindos budgets usage --by repository --since 7d --limit 10
  mindos budgets usage --by kind --output json";

#[derive(Debug, Subcommand)]
pub(crate) enum BudgetsCommand {
    /// Set a budget, or set it otherwise: so a limit is raised.
    #[command(after_help = SET_EXAMPLES)]
    Set(Box<SetArgs>),
    /// Show one budget.
    #[command(after_help = "Examples:\n  mindos budgets get team\n  mindos budgets get team --output json")]
    Get(NameArgs),
    /// Show all budgets.
    #[command(after_help = "Examples:\n  mindos budgets list\n  mindos budgets list --output json")]
    List,
    /// Remove a budget; what waits for it goes on.
    #[command(after_help = "Examples:\n  mindos budgets delete team")]
    Delete(NameArgs),
    /// Let a paused budget be used up to its limit, in this period.
    #[command(after_help = "Examples:\n  mindos budgets ack team")]
    Ack(NameArgs),
    /// Show what settled deliveries used.
    #[command(after_help = USAGE_EXAMPLES)]
    Usage(UsageArgs),
}

#[derive(Debug, Args)]
pub(crate) struct NameArgs {
    /// Name of the budget.
    name: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Period {
    Hour,
    Day,
    Month,
    Total,
}

#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// Name of the budget.
    name: String,
    /// When it begins anew, in UTC.
    #[arg(long, value_enum, default_value = "total")]
    period: Period,
    /// About the work for one repository, `owner/name`.
    #[arg(long, value_name = "REPOSITORY", group = "scope")]
    repository: Option<String>,
    /// About the work of generals of one type.
    #[arg(long, value_name = "TYPE", group = "scope")]
    general_type: Option<String>,
    /// About the work that one route made.
    #[arg(long, value_name = "ROUTE", group = "scope")]
    route: Option<String>,
    /// For all that one event led to; each event has the limit for itself.
    #[arg(long, group = "scope")]
    run: bool,
    /// For replays, which are charged to no other budgets.
    #[arg(long, group = "scope")]
    replays: bool,
    /// Limit on money, such as `25` or `0.50`.
    #[arg(long, value_name = "AMOUNT", value_parser = money)]
    cost: Option<u64>,
    /// Limit on tokens, read and written together.
    #[arg(long, value_name = "COUNT")]
    tokens: Option<u64>,
    /// Limit on time at work, all leases together, such as `8h`.
    #[arg(long, value_name = "TIME", value_parser = span)]
    time: Option<Duration>,
    /// Tell people from this share on, in percent; 0 for never. [default: 50]
    #[arg(long, value_name = "PERCENT")]
    warn: Option<u32>,
    /// Begin priority work only from this share on; 0 for never. [default: 80]
    #[arg(long, value_name = "PERCENT")]
    act: Option<u32>,
    /// Begin nothing from this share on, until somebody acknowledges it; 0 for never. [default: 95]
    #[arg(long, value_name = "PERCENT")]
    pause: Option<u32>,
    /// A kind of event whose work is priority work. May be given several times.
    #[arg(long, value_name = "KIND")]
    priority: Vec<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum By {
    Repository,
    GeneralType,
    Route,
    General,
    Kind,
}

#[derive(Debug, Args)]
pub(crate) struct UsageArgs {
    /// By what it is added up.
    #[arg(long, value_enum, default_value = "general-type")]
    by: By,
    /// Events accepted within this time.
    #[arg(long, value_name = "TIME", value_parser = span, default_value = "24h")]
    since: Duration,
    /// Rows to show, the most expensive first; at most 1000.
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    limit: u32,
}

pub(crate) async fn run(command: BudgetsCommand, global: &Global) -> Result<(), Failure> {
    let client = Client::connect(global).await?;
    let mut budgets = client.budgets();
    let failed = client.failed();
    match command {
        BudgetsCommand::Set(args) => {
            let request = SetBudgetRequest { budget: Some(budget(*args)) };
            let answer = budgets.set_budget(request).await.map_err(&failed)?.into_inner();
            show(answer.budget.as_slice(), global, true);
        }
        BudgetsCommand::Get(NameArgs { name }) => {
            let answer = budgets.get_budget(GetBudgetRequest { name }).await.map_err(&failed)?.into_inner();
            show(answer.budget.as_slice(), global, true);
        }
        BudgetsCommand::List => {
            let answer = budgets.list_budgets(ListBudgetsRequest {}).await.map_err(&failed)?.into_inner();
            show(&answer.budgets, global, false);
        }
        BudgetsCommand::Delete(NameArgs { name }) => {
            budgets.delete_budget(DeleteBudgetRequest { name: name.clone() }).await.map_err(&failed)?;
            if global.output.is_json() {
                render::print_json(&json!({ "deleted": name }));
            } else {
                render::print(&format!("budget {name} was removed; what waited for it goes on"));
            }
        }
        BudgetsCommand::Ack(NameArgs { name }) => {
            let answer = budgets.acknowledge_budget(AcknowledgeBudgetRequest { name }).await.map_err(&failed)?;
            show(answer.into_inner().budget.as_slice(), global, true);
        }
        BudgetsCommand::Usage(args) => {
            let limit = args.limit;
            let answer = budgets.get_usage(asked(args)).await.map_err(&failed)?.into_inner();
            show_usage(&answer, limit, global);
        }
    }
    Ok(())
}

fn budget(args: SetArgs) -> Budget {
    let SetArgs { name, period, repository, general_type, route, run, replays, cost, tokens, time, .. } = args;
    let SetArgs { warn, act, pause, priority, .. } = args;
    let scope = match (repository, general_type, route, run) {
        (Some(repository), ..) => Scope::Repository(repository),
        (_, Some(ty), ..) => Scope::GeneralType(ty),
        (_, _, Some(route), _) => Scope::Route(route),
        (.., true) => Scope::Run(wire::RunScope {}),
        (.., false) if replays => Scope::Replay(wire::ReplayScope::default()),
        (.., false) => Scope::Tenant(wire::TenantScope {}),
    };
    let period = match period {
        Period::Hour => wire::Period::Hour,
        Period::Day => wire::Period::Day,
        Period::Month => wire::Period::Month,
        Period::Total => wire::Period::Total,
    };
    Budget {
        name,
        scope: Some(scope),
        period: period.into(),
        cost_micros: cost,
        tokens,
        time_ms: time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
        warn_percent: warn,
        act_percent: act,
        pause_percent: pause,
        priority_kinds: priority,
    }
}

fn asked(UsageArgs { by, since, limit }: UsageArgs) -> GetUsageRequest {
    let dimension = match by {
        By::Repository => UsageDimension::Repository,
        By::GeneralType => UsageDimension::GeneralType,
        By::Route => UsageDimension::Route,
        By::General => UsageDimension::General,
        By::Kind => UsageDimension::Kind,
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let since = u64::try_from(now.saturating_sub(since).as_millis()).unwrap_or_default();
    GetUsageRequest { dimension: dimension.into(), limit, since: Some(convert::time(Timestamp(since))), until: None }
}

fn show(budgets: &[BudgetStatus], global: &Global, one: bool) {
    if global.output.is_json() {
        let rows: Vec<_> = budgets.iter().map(as_json).collect();
        match rows.into_iter().next().filter(|_| one) {
            Some(row) => render::print_json(&row),
            None => render::print_json(&json!({ "budgets": budgets.iter().map(as_json).collect::<Vec<_>>() })),
        }
        return;
    }
    let mut rows =
        Table::new(&["budget", "scope", "period", ">limit", ">used", ">reserved", ">%", "level", ">parked", "resets"]);
    for status in budgets {
        let budget = status.budget.clone().unwrap_or_default();
        let used = |of: Option<&Amount>| limits(&budget, of.copied().unwrap_or_default());
        let limit = Amount {
            cost_micros: budget.cost_micros.unwrap_or_default(),
            tokens: budget.tokens.unwrap_or_default(),
            time_ms: budget.time_ms.unwrap_or_default(),
        };
        let level = Level::try_from(status.level).unwrap_or(Level::Unspecified);
        let acknowledged = if status.acknowledged { " (acknowledged)" } else { "" };
        rows.row(vec![
            budget.name.clone(),
            scope(&budget),
            period(&budget),
            used(Some(&limit)),
            used(status.charged.as_ref()),
            used(status.reserved.as_ref()),
            status.used_percent.to_string(),
            format!("{}{acknowledged}", word(level)),
            status.parked.to_string(),
            at(status.resets_at.as_ref()).unwrap_or_default(),
        ]);
    }
    render::print(&rows.text());
}

/// Amounts of what the budget limits.
fn limits(budget: &Budget, amount: Amount) -> String {
    let mut parts = Vec::new();
    if budget.cost_micros.is_some() {
        parts.push(cost(amount.cost_micros));
    }
    if budget.tokens.is_some() {
        parts.push(format!("{} tokens", amount.tokens));
    }
    if budget.time_ms.is_some() {
        parts.push(format!("{}s", amount.time_ms / 1000));
    }
    parts.join(", ")
}

fn word(level: Level) -> String {
    if level == Level::Unspecified { "free".to_owned() } else { short_word(level.as_str_name(), "LEVEL_") }
}

fn scope(budget: &Budget) -> String {
    match &budget.scope {
        None | Some(Scope::Tenant(_)) => "all".to_owned(),
        Some(Scope::Repository(repository)) => format!("repository {repository}"),
        Some(Scope::GeneralType(ty)) => format!("type {ty}"),
        Some(Scope::Route(route)) => format!("route {route}"),
        Some(Scope::Run(_)) => "each run".to_owned(),
        Some(Scope::Replay(replay)) if replay.id.is_empty() => "replays".to_owned(),
        Some(Scope::Replay(replay)) => format!("replay {}", replay.id),
    }
}

fn period(budget: &Budget) -> String {
    let period = wire::Period::try_from(budget.period).unwrap_or(wire::Period::Unspecified);
    short_word(period.as_str_name(), "PERIOD_")
}

fn at(at: Option<&prost_types::Timestamp>) -> Option<String> {
    at.and_then(|at| convert::timestamp(at, "at").ok()).map(|at| at.to_string())
}

fn as_json(status: &BudgetStatus) -> serde_json::Value {
    let budget = status.budget.clone().unwrap_or_default();
    let amount = |of: Option<&Amount>| {
        let Amount { cost_micros, tokens, time_ms } = of.copied().unwrap_or_default();
        json!({ "cost_micros": cost_micros, "tokens": tokens, "time_ms": time_ms })
    };
    let level = Level::try_from(status.level).unwrap_or(Level::Unspecified);
    json!({
        "name": budget.name,
        "scope": scope(&budget),
        "period": period(&budget),
        "limit": { "cost_micros": budget.cost_micros, "tokens": budget.tokens, "time_ms": budget.time_ms },
        "warn_percent": budget.warn_percent,
        "act_percent": budget.act_percent,
        "pause_percent": budget.pause_percent,
        "priority_kinds": budget.priority_kinds,
        "charged": amount(status.charged.as_ref()),
        "reserved": amount(status.reserved.as_ref()),
        "used_percent": status.used_percent,
        "level": word(level),
        "acknowledged": status.acknowledged,
        "parked": status.parked,
        "period_began_at": at(status.period_began_at.as_ref()),
        "resets_at": at(status.resets_at.as_ref()),
    })
}

fn show_usage(answer: &wire::GetUsageResponse, limit: u32, global: &Global) {
    if global.output.is_json() {
        let rows = answer.rows.iter().map(|row| {
            json!({
                "value": row.value,
                "cost_micros": row.cost_micros,
                "input_tokens": row.input_tokens,
                "output_tokens": row.output_tokens,
                "time_ms": row.time_ms,
                "deliveries": row.deliveries,
            })
        });
        render::print_json(&json!({ "rows": rows.collect::<Vec<_>>(), "partial": answer.partial }));
        return;
    }
    let mut rows = Table::new(&["value", ">cost", ">tokens in", ">tokens out", ">time", ">deliveries"]);
    for row in &answer.rows {
        let value = if row.value.is_empty() { "(none)".to_owned() } else { row.value.clone() };
        let (input, output) = (row.input_tokens.to_string(), row.output_tokens.to_string());
        let time = format!("{}s", row.time_ms / 1000);
        rows.row(vec![value, cost(row.cost_micros), input, output, time, row.deliveries.to_string()]);
    }
    render::print(&rows.text());
    if answer.rows.len() >= limit as usize {
        render::print(&format!("the {limit} most expensive; --limit shows more"));
    }
    if answer.partial {
        render::print("older events were left out: ask with a shorter --since");
    }
}

/// Millionths as an amount of money, with as many digits as it takes.
pub(super) fn cost(micros: u64) -> String {
    let text = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    let cut = text.trim_end_matches('0');
    let digits = text.len() - cut.len();
    text[..text.len() - digits.min(4)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_read_and_written_to_the_millionth() {
        for (text, micros, shown) in [
            ("25", 25_000_000, "25.00"),
            ("0.5", 500_000, "0.50"),
            ("0.000001", 1, "0.000001"),
            ("1.25", 1_250_000, "1.25"),
        ] {
            assert_eq!(money(text), Ok(micros));
            assert_eq!(cost(micros), shown);
        }
        for bad in ["", ".5", "1,5", "-1", "0.0000001", "1e3", "99999999999999999999"] {
            assert!(money(bad).is_err(), "{bad}");
        }
    }
}
