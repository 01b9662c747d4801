//! `mindos routes explain`: where a table would send events of the past, against where they went.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use mindos_proto::convert;
use mindos_proto::fleet::v1::GeneralName;
use mindos_proto::route::v1::explain_response::Part;
use mindos_proto::route::v1::{
    ExplainRequest, ExplainSummary, ExplainedEvent, ExplainedWay, GuardAction, KeptOutGeneral, Strategy,
};
use serde_json::json;

use super::filter::{now, span};
use super::routes::read_table;
use crate::client::Client;
use crate::failure::Failure;
use crate::options::Global;
use crate::render::{self, Table, short_word};

pub(crate) const EXAMPLES: &str = "\
Examples:
  mindos routes explain routes.yaml --last 7d
  mindos routes explain routes.yaml --event 4711
  mindos routes explain --event 4711                     (by the table in force)
  mindos routes explain routes.yaml --last 1d --same --shown 1000 --output json

Without --event and --last it looks at everything the journal has. Shown are events that would go another way; the summary
counts all. With --output json it prints one object a line, the summary last.";

/// Arguments of `routes explain`.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The table to try, YAML or JSON; `-` reads standard input. Unset tries the one in force.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// The one event to explain, by its sequence.
    #[arg(long, value_name = "SEQ", conflicts_with = "last", value_parser = clap::value_parser!(u64).range(1..))]
    event: Option<u64>,
    /// Events of this long ago until now, such as 7d.
    #[arg(long, value_name = "SPAN", value_parser = span)]
    last: Option<Duration>,
    /// Show events that would go the same way too.
    #[arg(long)]
    same: bool,
    /// Show at most this many events.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    shown: u32,
}

pub(crate) async fn run(args: ExplainArgs, global: &Global) -> Result<(), Failure> {
    let ExplainArgs { file, event, last, same, shown } = args;
    let request = ExplainRequest {
        table: file.map(|file| read_table(&file)).transpose()?,
        seq: event.unwrap_or(0),
        since: last.map(|last| convert::time(now() - last)),
        until: None,
        same_too: same,
        shown_max: shown,
    };
    let client = Client::connect(global).await?;
    let mut parts = client.routes().explain(request).await.map_err(client.failed())?.into_inner();
    let mut rows = Table::new(&[">event", "kind", "subject", "went", "would go", "not evaluated"]);
    let mut shown = 0;
    while let Some(part) = parts.message().await.map_err(client.failed())? {
        match part.part {
            Some(Part::Event(event)) if global.output.is_json() => {
                render::print_json_line(&json!({ "event": render::json(&event) }));
            }
            Some(Part::Event(event)) => {
                shown += 1;
                rows.row(row(&event));
            }
            Some(Part::Summary(summary)) if global.output.is_json() => {
                render::print_json_line(&json!({ "summary": render::json(&summary) }));
            }
            Some(Part::Summary(summary)) => {
                if shown > 0 {
                    render::print(&rows.text());
                    render::print("");
                }
                print_summary(&summary);
            }
            None => {}
        }
        if render::is_closed() {
            break;
        }
    }
    Ok(())
}

fn row(event: &ExplainedEvent) -> Vec<String> {
    let way = |of: &Option<ExplainedWay>| of.as_ref().map_or_else(|| "(nowhere)".to_owned(), way);
    vec![
        event.seq.to_string(),
        event.kind.clone(),
        event.subject.clone(),
        way(&event.went),
        if event.differs { way(&event.would_go) } else { "(the same)".to_owned() },
        event.failed.join("; "),
    ]
}

fn way(of: &ExplainedWay) -> String {
    let ExplainedWay { route, strategy, generals, guard, guard_action, cheaper, degraded_by, .. } = of;
    let ExplainedWay { version_min, too_old, kept_out, .. } = of;
    if route.is_empty() {
        return "(not routed)".to_owned();
    }
    let strategy = Strategy::try_from(*strategy).unwrap_or(Strategy::Unspecified);
    let mut text = format!("{route} {}", short_word(strategy.as_str_name(), "STRATEGY_"));
    if !guard.is_empty() {
        let action = GuardAction::try_from(*guard_action).unwrap_or(GuardAction::Unspecified);
        text = format!("{text} [{guard}: {}]", short_word(action.as_str_name(), "GUARD_ACTION_"));
    }
    if !degraded_by.is_empty() {
        text = format!("{text} [budget {degraded_by} low]");
    }
    let names = |generals: &[GeneralName]| {
        let names: Vec<_> = generals.iter().map(|general| format!("{}/{}", general.cluster, general.name)).collect();
        names.join(" ")
    };
    if !generals.is_empty() {
        text = format!("{text}: {}", names(generals));
    }
    if !version_min.is_empty() {
        text = format!("{text} (version {version_min} or newer)");
    }
    if !too_old.is_empty() {
        text = format!("{text} (nobody is new enough at {})", names(too_old));
    }
    if !kept_out.is_empty() {
        let name = |one: &KeptOutGeneral| {
            let GeneralName { cluster, name, .. } = one.general.clone().unwrap_or_default();
            format!("{cluster}/{name} by {}", one.why)
        };
        text = format!("{text} (kept out: {})", kept_out.iter().map(name).collect::<Vec<_>>().join(", "));
    }
    if !cheaper.is_empty() {
        text = format!("{text} (while a budget is low: {})", names(cheaper));
    }
    text
}

fn print_summary(summary: &ExplainSummary) {
    let ExplainSummary { events, differ, without_payload, flows, failures, records, first_seq } = summary;
    let mut rows = Table::new(&["went", "would go", ">events", ">guarded"]);
    let name = |route: &str| if route.is_empty() { "(not routed)".to_owned() } else { route.to_owned() };
    for flow in flows {
        let guarded = if flow.guarded > 0 { flow.guarded.to_string() } else { String::new() };
        rows.row(vec![name(&flow.went), name(&flow.would_go), flow.events.to_string(), guarded]);
    }
    if !flows.is_empty() {
        render::print(&rows.text());
        render::print("");
    }
    for failure in failures {
        let (route, count, example) = (&failure.route, failure.events, &failure.example);
        render::print(&format!("route {route}: its condition could not be evaluated for {count} events: {example}"));
    }
    if *without_payload > 0 {
        render::print(&format!(
            "{without_payload} events have no payload any more: conditions on data do not hold for them"
        ));
    }
    render::print(&format!("{differ} of {events} events would go another way ({records} records from {first_seq} on)"));
}
