//! `mindos routes`: the table that says which events concern which generals.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use mindos_control_plane::routing::file;
use mindos_proto::convert;
use mindos_proto::route::v1::{self as route, CoalescePolicy, Route, RouteTable, Strategy};
use serde_json::{Value, json};

use super::fleet::{self, Noun, PauseCommand};
use super::routes_explain::{self, ExplainArgs};
use super::routes_scorecard::{self, ScorecardArgs};
use crate::client::Client;
use crate::failure::Failure;
use crate::options::Global;
use crate::render::{self, Output, Table, short_word};

pub(crate) const EXAMPLES: &str = "\
Examples:
  mindos routes get
  mindos routes get --output yaml > routes.yaml
  mindos routes diff routes.yaml
  mindos routes explain routes.yaml --last 7d
  mindos routes apply routes.yaml
  mindos routes pause pr-created --reason 'too noisy'";
const GET_EXAMPLES: &str = "\
Examples:
  mindos routes get
  mindos routes get --output yaml > routes.yaml
  mindos routes get --output json > routes.json";
const DIFF_EXAMPLES: &str = "\
Examples:
  mindos routes diff routes.yaml
  mindos routes diff routes.yaml --output json";
const SCHEMA_EXAMPLES: &str = "\
Examples:
  mindos routes schema > routes.schema.json

Editors complete and check a routes file whose first line names it, as `mindos routes get --output yaml` writes it:
  # yaml-language-server: $schema=routes.schema.json";
const APPLY_EXAMPLES: &str = "\
Examples:
  mindos routes apply routes.yaml --dry-run
  mindos routes apply routes.json --expect 3f1c...
  cat routes.yaml | mindos routes apply -

A file holds the whole table, the first match wins and the last route matches everything:
  routes:
    - name: pr-created
      match: {kinds: [pr_created], expr: '!data.pull_request.draft'}     # CEL over the event
      targets: {types: [security-general, code-review-general], regions: [eu-west-1]}
      strategy: broadcast
      coalesce: latest
      attempts_max: 3
      deadline: 10m
      max_block: 5m
      guards: {forks: park, bots: drop, association: [MEMBER, OWNER], hops_max: 3}
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
    /// Show what applying a file would change.
    #[command(after_help = DIFF_EXAMPLES)]
    Diff {
        /// YAML or JSON; `-` reads standard input.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Show where a table would send events of the past, against where they went.
    #[command(after_help = routes_explain::EXAMPLES)]
    Explain(ExplainArgs),
    /// Compare the arms of splits, shadows with live work, and replays: success, latency, cost, feedback.
    #[command(after_help = routes_scorecard::EXAMPLES)]
    Scorecard(ScorecardArgs),
    /// Print the JSON Schema of a routes file.
    #[command(after_help = SCHEMA_EXAMPLES)]
    Schema,
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
        RoutesCommand::Diff { file } => diff(&file, global).await,
        RoutesCommand::Explain(args) => routes_explain::run(args, global).await,
        RoutesCommand::Scorecard(args) => routes_scorecard::run(args, global).await,
        RoutesCommand::Schema => {
            render::print_json(&file::schema());
            Ok(())
        }
        RoutesCommand::Pause(command) => {
            let client = Client::connect(global).await?;
            fleet::pause(command, Noun::Route, global, &client).await
        }
    }
}

async fn get(global: &Global) -> Result<(), Failure> {
    let client = Client::connect(global).await?;
    let answer = client.routes().get(route::GetRequest {}).await.map_err(client.failed())?.into_inner();
    let table = answer.table.unwrap_or_default();
    if global.output == Output::Yaml {
        render::print(file::to_yaml(&table).trim_end());
        return Ok(());
    }
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
        let expr: Vec<String> = Some(matches.expr.clone()).filter(|expr| !expr.is_empty()).into_iter().collect();
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
            any_of(&[&matches.kinds, &matches.subjects, &expr]),
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
    let table = read_table(&file)?;
    let client = Client::connect(global).await?;
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

/// Reads a file and checks it; nothing was sent yet.
pub(super) fn read_table(path: &Path) -> Result<RouteTable, Failure> {
    let mut text = String::new();
    if path.as_os_str() == "-" {
        std::io::stdin().read_to_string(&mut text)?;
    } else {
        text = std::fs::read_to_string(path)
            .map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))?;
    }
    file::parse(&text).map_err(|error| {
        Failure::refused(format!("{}: {error}", path.display())).hint("see `mindos routes apply --help` for the form")
    })
}

/// Shows what applying a file would change: routes that come and go, and for each that changes its fields.
async fn diff(path: &Path, global: &Global) -> Result<(), Failure> {
    let wanted = file::with_defaults(&read_table(path)?).map_err(Failure::refused)?;
    let client = Client::connect(global).await?;
    let answer = client.routes().get(route::GetRequest {}).await.map_err(client.failed())?.into_inner();
    let changes = changes(&answer.table.unwrap_or_default(), &wanted);
    if global.output.is_json() {
        render::print_json(&json!({ "digest": answer.digest, "changes": changes }));
        return Ok(());
    }
    for change in &changes {
        let text = |name: &str| change[name].as_str().unwrap_or_default().to_owned();
        let (at, was, is) = (text("at"), text("was"), text("is"));
        match (was.is_empty(), is.is_empty()) {
            (true, _) => render::print(&format!("+ {at}: {is}")),
            (_, true) => render::print(&format!("- {at}: {was}")),
            _ => render::print(&format!("~ {at}: {was} -> {is}")),
        }
    }
    if changes.is_empty() {
        render::print("nothing would change");
    }
    Ok(())
}

/// What differs, each as its place, what it was and what it is, empty where it is not there.
fn changes(before: &RouteTable, after: &RouteTable) -> Vec<Value> {
    let mut changes = Vec::new();
    let mut note = |at: String, was: &Value, is: &Value| {
        let text = |value: &Value| match value {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        if was != is {
            changes.push(json!({ "at": at, "was": text(was), "is": text(is) }));
        }
    };
    let routes = |table: &RouteTable| -> BTreeMap<String, (usize, Value)> {
        let place = |(place, route): (usize, &Route)| (route.name.clone(), (place, render::json(route)));
        table.routes.iter().enumerate().map(place).collect()
    };
    let (old, new) = (routes(before), routes(after));
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for name in names {
        match (old.get(name), new.get(name)) {
            (Some((was_at, was)), Some((is_at, is))) => {
                note(format!("{name} place"), &json!(was_at + 1), &json!(is_at + 1));
                let fields = |value: &Value| value.as_object().cloned().unwrap_or_default();
                let (was, is) = (fields(was), fields(is));
                let fields: BTreeSet<&String> = was.keys().chain(is.keys()).collect();
                for field in fields {
                    let of = |fields: &serde_json::Map<String, Value>| fields.get(field).cloned().unwrap_or_default();
                    note(format!("{name} {field}"), &of(&was), &of(&is));
                }
            }
            (was, is) => {
                let whole = |route: Option<&(usize, Value)>| route.map(|(_, route)| route.clone()).unwrap_or_default();
                note(format!("route {name}"), &whole(was), &whole(is));
            }
        }
    }
    let top = |table: &RouteTable| render::json(&RouteTable { routes: Vec::new(), ..table.clone() });
    let (was, is) = (top(before), top(after));
    for field in ["guards", "own_logins"] {
        note(field.to_owned(), &was[field], &is[field]);
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> RouteTable {
        let (_, text) = APPLY_EXAMPLES.split_once("everything:\n").unwrap();
        file::parse(text).unwrap()
    }

    #[test]
    fn the_example_of_the_help_is_a_table() {
        let table = example();
        assert_eq!(table.routes.len(), 2);
        assert_eq!(table.routes[0].coalesce(), CoalescePolicy::Latest);
    }

    #[test]
    fn what_get_prints_can_be_applied() {
        let table = file::with_defaults(&example()).unwrap();
        let mut printed = render::json(&table);
        printed["digest"] = json!("00");
        printed["applied_at"] = json!(null);
        // What says nothing is as if it were not there.
        for text in [printed.to_string(), file::to_yaml(&table)] {
            let read = file::parse(&text).unwrap();
            assert_eq!(file::with_defaults(&read), Ok(table.clone()));
        }
    }

    #[test]
    fn a_difference_is_said_by_its_field() {
        let before = file::with_defaults(&example()).unwrap();
        assert_eq!(changes(&before, &before), Vec::<Value>::new());
        let mut after = before.clone();
        after.routes[0].count = 1;
        after.routes[0].attempts_max = 9;
        after.own_logins = vec!["me".to_owned()];
        after.routes.insert(1, Route { name: "more".to_owned(), ..after.routes[1].clone() });

        let changes = changes(&before, &after);

        let at: Vec<_> = changes.iter().map(|change| change["at"].as_str().unwrap()).collect();
        assert_eq!(at, ["default place", "route more", "pr-created attempts_max", "own_logins"]);
        assert_eq!((&changes[2]["was"], &changes[2]["is"]), (&json!("3"), &json!("9")));
    }
}
