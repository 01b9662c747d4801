//! `mindos routes`: the table that says which events concern which generals.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use mindos_proto::convert;
use mindos_proto::route::v1::route::FallBack;
use mindos_proto::route::v1::{
    self as route, CoalescePolicy, NoGeneralPolicy, Priority, Route, RouteMatch, RouteTable, RouteTargets, Strategy,
    TargetWeight,
};
use serde::Deserialize;
use serde_json::json;

use super::filter::span;
use super::fleet::{self, Noun, PauseCommand};
use crate::client::Client;
use crate::failure::Failure;
use crate::options::Global;
use crate::render::{self, Table, short_word};

pub(crate) const EXAMPLES: &str = "\
Examples:
  mindos routes get
  mindos routes get --output json > routes.json
  mindos routes apply routes.yaml --dry-run
  mindos routes apply routes.yaml
  mindos routes pause pr-created --reason 'too noisy'";
const GET_EXAMPLES: &str = "\
Examples:
  mindos routes get
  mindos routes get --output json > routes.json";
const APPLY_EXAMPLES: &str = "\
Examples:
  mindos routes apply routes.yaml --dry-run
  mindos routes apply routes.json --expect 3f1c...
  cat routes.yaml | mindos routes apply -

A file holds the whole table, the first match wins and the last route matches everything:
  routes:
    - name: pr-created
      match: {kinds: [pr_created]}
      targets: {types: [security-general, code-review-general], regions: [eu-west-1]}
      strategy: broadcast          # round_robin, load_balanced, sticky, failover, race, split, shadow
      coalesce: latest             # every, latest or debounce
      attempts_max: 3
      deadline: 10m
      max_block: 5m
    - name: default
      targets: {types: [general-purpose-general]}
      strategy: round_robin";

#[derive(Debug, Subcommand)]
pub(crate) enum RoutesCommand {
    /// Show the table in force.
    #[command(after_help = GET_EXAMPLES)]
    Get,
    /// Replace the table by that of a file (YAML or JSON; `-` reads standard input).
    #[command(after_help = APPLY_EXAMPLES)]
    Apply(ApplyArgs),
    #[command(flatten)]
    Pause(PauseCommand),
}

#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// YAML or JSON; `-` reads standard input.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Check and compare only; nothing changes.
    #[arg(long)]
    dry_run: bool,
    /// Refuse unless the table in force has this digest.
    #[arg(long, value_name = "DIGEST", default_value = "")]
    expect: String,
}

pub(crate) async fn run(command: RoutesCommand, global: &Global) -> Result<(), Failure> {
    match command {
        RoutesCommand::Get => get(global).await,
        RoutesCommand::Apply(args) => apply(args, global).await,
        RoutesCommand::Pause(command) => {
            let client = Client::connect(&global.server).await?;
            fleet::pause(command, Noun::Route, global, &client).await
        }
    }
}

async fn get(global: &Global) -> Result<(), Failure> {
    let client = Client::connect(&global.server).await?;
    let answer = client.routes().get(route::GetRequest {}).await.map_err(client.failed())?.into_inner();
    let table = answer.table.unwrap_or_default();
    if global.output.is_json() {
        let mut value = render::json(&table);
        value["digest"] = json!(answer.digest);
        value["seq"] = json!(answer.seq);
        value["applied_by"] = json!(answer.applied_by);
        let at = answer.applied_at.as_ref().and_then(|at| convert::timestamp(at, "applied_at").ok());
        value["applied_at"] = json!(at.map(|at| at.to_string()));
        render::print_json(&value);
        return Ok(());
    }
    let mut rows =
        Table::new(&["route", "matches", "targets", "strategy", "coalesce", ">attempts", "deadline", "paused"]);
    for route in &table.routes {
        let matches = route.r#match.clone().unwrap_or_default();
        let targets = route.targets.clone().unwrap_or_default();
        let strategy = Strategy::try_from(route.strategy).unwrap_or(Strategy::Unspecified);
        let coalesce = CoalescePolicy::try_from(route.coalesce).unwrap_or(CoalescePolicy::Every);
        let mut strategy_text = short_word(strategy.as_str_name(), "STRATEGY_");
        if strategy == Strategy::LoadBalanced {
            strategy_text = format!("{strategy_text} ({})", route.count);
        }
        let lists = [&targets.types, &targets.clusters, &targets.names, &targets.regions];
        rows.row(vec![
            route.name.clone(),
            any_of(&[&matches.kinds, &matches.subjects]),
            any_of(&lists),
            strategy_text,
            short_word(coalesce.as_str_name(), "COALESCE_POLICY_"),
            route.attempts_max.to_string(),
            route.deadline.as_ref().map(|span| format!("{}s", span.seconds)).unwrap_or_default(),
            if route.paused { "yes" } else { "" }.to_owned(),
        ]);
    }
    render::print(&rows.text());
    render::print("");
    let stock = if answer.seq == 0 { " (the stock table)" } else { "" };
    render::print(&format!("digest {}{stock}", answer.digest));
    Ok(())
}

fn any_of(lists: &[&Vec<String>]) -> String {
    let words: Vec<&str> = lists.iter().flat_map(|list| list.iter().map(String::as_str)).collect();
    if words.is_empty() { "(all)".to_owned() } else { words.join(" ") }
}

async fn apply(args: ApplyArgs, global: &Global) -> Result<(), Failure> {
    let ApplyArgs { file, dry_run, expect } = args;
    let mut text = String::new();
    if file.as_os_str() == "-" {
        std::io::stdin().read_to_string(&mut text)?;
    } else {
        text = std::fs::read_to_string(&file)
            .map_err(|error| Failure::world(format!("cannot read {}: {error}", file.display())))?;
    }
    let table = parse(&text).map_err(|error| {
        Failure::refused(format!("{}: {error}", file.display())).hint("see `mindos routes apply --help` for the form")
    })?;
    let client = Client::connect(&global.server).await?;
    let request = route::ApplyRequest { table: Some(table), expected_digest: expect, dry_run };
    let answer = client.routes().apply(request).await.map_err(client.failed())?.into_inner();
    if global.output.is_json() {
        render::print_json(&render::json(&answer));
        return Ok(());
    }
    for (word, names) in [("added", &answer.added), ("changed", &answer.changed), ("removed", &answer.removed)] {
        if !names.is_empty() {
            render::print(&format!("{word:<8} {}", names.join(", ")));
        }
    }
    for warning in &answer.warnings {
        render::print(&format!("warning  {warning}"));
    }
    let what = if dry_run { "would be in force" } else { "in force" };
    render::print(&format!("{what}: {} (record {})", answer.digest, answer.seq));
    Ok(())
}

/// The table of a file. What `routes get` prints is accepted too.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TableFile {
    routes: Vec<RouteFile>,
    #[serde(default, rename = "digest")]
    _digest: Option<String>,
    #[serde(default, rename = "seq")]
    _seq: Option<u64>,
    #[serde(default, rename = "applied_by")]
    _applied_by: Option<String>,
    #[serde(default, rename = "applied_at")]
    _applied_at: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RouteFile {
    name: String,
    #[serde(default, rename = "match")]
    matches: Option<MatchFile>,
    #[serde(default)]
    targets: Option<TargetsFile>,
    strategy: String,
    #[serde(default)]
    count: u32,
    #[serde(default)]
    coalesce: Option<String>,
    #[serde(default)]
    priority: Option<String>,
    #[serde(default)]
    attempts_max: u32,
    #[serde(default)]
    deadline: Option<String>,
    #[serde(default)]
    max_block: Option<String>,
    #[serde(default)]
    paused: bool,
    #[serde(default)]
    debounce_quiet: Option<String>,
    #[serde(default)]
    debounce_longest: Option<String>,
    #[serde(default)]
    shadow: Option<TargetsFile>,
    #[serde(default)]
    ttl: Option<String>,
    #[serde(default)]
    retry_first: Option<String>,
    #[serde(default)]
    retry_longest: Option<String>,
    #[serde(default)]
    no_general: Option<String>,
    #[serde(default)]
    fall_back_route: Option<String>,
    #[serde(default)]
    fall_back_type: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct MatchFile {
    kinds: Vec<String>,
    subjects: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct TargetsFile {
    types: Vec<String>,
    clusters: Vec<String>,
    names: Vec<String>,
    labels: BTreeMap<String, String>,
    regions: Vec<String>,
    weights: Vec<WeightFile>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WeightFile {
    target: String,
    weight: u32,
}

fn parse(text: &str) -> Result<RouteTable, String> {
    // YAML, of which JSON is a part.
    let file: TableFile = serde_norway::from_str(text).map_err(|error| error.to_string())?;
    let routes: Result<Vec<Route>, String> = file.routes.into_iter().map(convert_route).collect();
    Ok(RouteTable { routes: routes? })
}

fn convert_route(file: RouteFile) -> Result<Route, String> {
    let RouteFile { name, matches, targets, strategy, count, coalesce, priority, .. } = file;
    let RouteFile { attempts_max, deadline, max_block, paused, .. } = file;
    let RouteFile { debounce_quiet, debounce_longest, shadow, ttl, retry_first, retry_longest, .. } = file;
    let RouteFile { no_general, fall_back_route, fall_back_type, .. } = file;
    let strategy = Strategy::from_str_name(&format!("STRATEGY_{}", strategy.to_ascii_uppercase()))
        .filter(|found| *found != Strategy::Unspecified)
        .ok_or_else(|| {
            let expected = "broadcast, round_robin, load_balanced, sticky, failover, race, split or shadow";
            format!("route {name}: strategy `{strategy}` is not known: expected {expected}")
        })?;
    let coalesce = match coalesce {
        None => CoalescePolicy::Unspecified,
        Some(word) => CoalescePolicy::from_str_name(&format!("COALESCE_POLICY_{}", word.to_ascii_uppercase()))
            .ok_or_else(|| {
                format!("route {name}: coalesce `{word}` is not known: expected every, latest or debounce")
            })?,
    };
    let no_general = match no_general {
        None => NoGeneralPolicy::Unspecified,
        Some(word) => NoGeneralPolicy::from_str_name(&format!("NO_GENERAL_POLICY_{}", word.to_ascii_uppercase()))
            .ok_or_else(|| {
                format!("route {name}: no_general `{word}` is not known: expected wait, fall_back or refuse")
            })?,
    };
    let fall_back = match (fall_back_route, fall_back_type) {
        (None, None) => None,
        (Some(route), None) => Some(FallBack::FallBackRoute(route)),
        (None, Some(ty)) => Some(FallBack::FallBackType(ty)),
        (Some(_), Some(_)) => {
            return Err(format!("route {name}: expected fall_back_route or fall_back_type, not both"));
        }
    };
    let priority = match priority {
        None => Priority::Unspecified,
        Some(word) => Priority::from_str_name(&format!("PRIORITY_{}", word.to_ascii_uppercase()))
            .ok_or_else(|| format!("route {name}: priority `{word}` is not known: expected low, normal or high"))?,
    };
    let read = |field: &str, text: Option<String>| -> Result<Option<Duration>, String> {
        text.map(|text| span(&text).map_err(|error| format!("route {name}: {field}: {error}"))).transpose()
    };
    let (deadline, max_block) = (read("deadline", deadline)?, read("max_block", max_block)?);
    let (quiet, longest) = (read("debounce_quiet", debounce_quiet)?, read("debounce_longest", debounce_longest)?);
    let (first, last) = (read("retry_first", retry_first)?, read("retry_longest", retry_longest)?);
    let ttl = read("ttl", ttl)?;
    Ok(Route {
        r#match: matches.map(|MatchFile { kinds, subjects }| RouteMatch { kinds, subjects }),
        targets: targets.map(convert_targets),
        strategy: strategy.into(),
        count,
        coalesce: coalesce.into(),
        priority: priority.into(),
        attempts_max,
        deadline: deadline.map(convert::span),
        max_block: max_block.map(convert::span),
        paused,
        debounce_quiet: quiet.map(convert::span),
        debounce_longest: longest.map(convert::span),
        shadow: shadow.map(convert_targets),
        ttl: ttl.map(convert::span),
        retry_first: first.map(convert::span),
        retry_longest: last.map(convert::span),
        no_general: no_general.into(),
        fall_back,
        name,
    })
}

fn convert_targets(file: TargetsFile) -> RouteTargets {
    let TargetsFile { types, clusters, names, labels, regions, weights } = file;
    let weight = |WeightFile { target, weight }| TargetWeight { target, weight };
    let weights = weights.into_iter().map(weight).collect();
    RouteTargets { types, clusters, names, labels: labels.into_iter().collect(), regions, weights }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_help_is_a_table() {
        let (_, text) = APPLY_EXAMPLES.split_once("everything:\n").unwrap();
        let table = parse(text).unwrap();
        assert_eq!(table.routes.len(), 2);
        assert_eq!(table.routes[0].deadline, Some(convert::span(Duration::from_secs(600))));
        assert_eq!(table.routes[0].coalesce(), CoalescePolicy::Latest);
    }

    #[test]
    fn what_get_prints_can_be_applied() {
        let (_, text) = APPLY_EXAMPLES.split_once("everything:\n").unwrap();
        let table = parse(text).unwrap();
        let mut printed = render::json(&table);
        printed["digest"] = json!("00");
        printed["applied_at"] = json!(null);
        assert_eq!(parse(&printed.to_string()), Ok(table));
    }

    #[test]
    fn every_policy_of_a_file_reaches_the_table() {
        let text = "routes: [{name: a, strategy: split, coalesce: debounce, debounce_quiet: 2s, debounce_longest: 30s, \
                    targets: {types: [v1, v2], weights: [{target: v1, weight: 9}, {target: v2, weight: 1}]}, \
                    shadow: {types: [v3]}, ttl: 1h, retry_first: 2s, retry_longest: 1m, no_general: fall_back, \
                    fall_back_type: spare}]";
        let table = parse(text).unwrap();
        let route = &table.routes[0];
        assert_eq!(route.strategy(), Strategy::Split);
        assert_eq!(route.targets.as_ref().unwrap().weights[0], TargetWeight { target: "v1".to_owned(), weight: 9 });
        assert_eq!(route.fall_back, Some(FallBack::FallBackType("spare".to_owned())));
        assert_eq!(parse(&render::json(&table).to_string()), Ok(table));
    }

    #[test]
    fn a_slip_in_a_file_is_named() {
        let error = parse("routes: [{name: a, strategy: brodcast}]").unwrap_err();
        let urgent = parse("routes: [{name: a, strategy: broadcast, priority: urgent}]").unwrap_err();
        assert!(urgent.contains("priority `urgent`") && urgent.contains("low, normal or high"), "{urgent}");
        assert!(error.contains("brodcast") && error.contains("broadcast"), "{error}");
        assert!(parse("routes: [{name: a, strategy: broadcast, tagets: {}}]").unwrap_err().contains("tagets"));
    }
}
