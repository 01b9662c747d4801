//! `mindos routes scorecard`: what came of each side that a route compares.

use std::time::Duration;

use clap::Args;
use mindos_proto::convert;
use mindos_proto::route::v1::{Scorecard, ScorecardsRequest};
use serde_json::json;

use super::budgets::cost;
use super::filter::{now, short_span, span};
use crate::client::Client;
use crate::failure::Failure;
use crate::options::Global;
use crate::render::{self, Table, short_word};

pub(crate) const EXAMPLES: &str = "\
Examples:
  mindos routes scorecard
  mindos routes scorecard reviews --last 30d
  mindos routes scorecard reviews --last 1d --output json

Compared are the arms of `split`, `shadow` against live, and replays, each by general and version. A route that lets feedback weigh has
cards as well. Times are those of results, from the lease on.";

/// Arguments of `routes scorecard`.
#[derive(Debug, Args)]
pub(crate) struct ScorecardArgs {
    /// Name of the route; unset for all.
    #[arg(value_name = "ROUTE")]
    route: Option<String>,
    /// Work begun and feedback given since this long ago.
    #[arg(long, value_name = "SPAN", value_parser = span, default_value = "7d")]
    last: Duration,
}

pub(crate) async fn run(args: ScorecardArgs, global: &Global) -> Result<(), Failure> {
    let ScorecardArgs { route, last } = args;
    let since = Some(convert::time(now() - last));
    let request = ScorecardsRequest { route: route.unwrap_or_default(), since, until: None };
    let client = Client::connect(global).await?;
    let answer = client.routes().scorecards(request).await.map_err(client.failed())?.into_inner();
    if global.output.is_json() {
        let cards: Vec<_> = answer.cards.iter().map(render::json).collect();
        render::print_json(&json!({ "cards": cards, "left_out": answer.left_out }));
        return Ok(());
    }
    let mut table = Table::new(&[
        "route",
        "side",
        "general",
        "version",
        ">ended",
        ">success",
        ">p50",
        ">p90",
        ">cost",
        ">tokens",
        ">accepted",
        ">dismissed",
        ">reverted",
    ]);
    answer.cards.iter().for_each(|card| table.row(row(card)));
    if table.is_empty() {
        render::print("nothing was compared in that time");
    } else {
        render::print(&table.text());
    }
    if answer.left_out > 0 {
        render::print(&format!("{} leases and words of feedback found no room", answer.left_out));
    }
    Ok(())
}

fn row(card: &Scorecard) -> Vec<String> {
    let role = short_word(card.role().as_str_name(), "VARIANT_ROLE_");
    let side = if card.arm.is_empty() { role } else { format!("{role} {}", card.arm) };
    let general = card.general.as_ref().map(|general| format!("{}/{}", general.cluster, general.name));
    let success = match card.ended {
        0 => String::new(),
        ended => format!("{:.1}%", card.succeeded as f64 * 100.0 / ended as f64),
    };
    let took = |ms: Option<u64>| ms.map_or_else(String::new, |ms| short_span(Duration::from_millis(ms)));
    vec![
        card.route.clone(),
        side,
        general.unwrap_or_default(),
        card.version.clone(),
        card.ended.to_string(),
        success,
        took(card.took_p50_ms),
        took(card.took_p90_ms),
        cost(card.cost_micros),
        card.input_tokens.saturating_add(card.output_tokens).to_string(),
        card.accepted.to_string(),
        card.dismissed.to_string(),
        card.reverted.to_string(),
    ]
}
