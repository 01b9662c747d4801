//! `mindos events`: what was published and what it led to.

use clap::{Args, Subcommand};
use mindos_proto::event::v1::{self as event, Event, EventFilter, get_request};
use serde_json::json;

use super::filter::{EventFilterArgs, PageArgs, ago};
use super::watch::{self, Printed};
use crate::client::Client;
use crate::failure::Failure;
use crate::options::Global;
use crate::render::{self, Table, clip};

pub(crate) const EXAMPLES: &str = "\
Examples:
  mindos events list --repository octocat/hello-world --since 1h
  mindos events get 42
  mindos events get https://github.com/octocat/hello-world 7b9e...   (source and id)
  mindos events watch --kind pr_created --output json";

const LIST_EXAMPLES: &str = "\
Examples:
  mindos events list
  mindos events list --kind pr_created --since 1h --limit 200
  mindos events list --lane octocat/hello-world/pr/7 --output json --data";
const GET_EXAMPLES: &str = "\
Examples:
  mindos events get 42
  mindos events get 42 --output json
  mindos events get https://github.com/octocat/hello-world 7b9e1c52-...   (source and id)";
const WATCH_EXAMPLES: &str = "\
Examples:
  mindos events watch
  mindos events watch --repository octocat/hello-world --from 1 --output json";

#[derive(Debug, Subcommand)]
pub(crate) enum EventsCommand {
    /// List events, the newest first.
    #[command(after_help = LIST_EXAMPLES)]
    List(ListArgs),
    /// Show one event with its data and its deliveries.
    #[command(after_help = GET_EXAMPLES)]
    Get(GetArgs),
    /// Follow events as they become durable.
    #[command(after_help = WATCH_EXAMPLES)]
    Watch(WatchArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    filter: EventFilterArgs,
    #[command(flatten)]
    page: PageArgs,
    /// With the events' data (JSON output only).
    #[arg(long)]
    data: bool,
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// Its sequence, or its source when an id follows.
    #[arg(value_name = "SEQ|SOURCE")]
    key: String,
    /// Its id within the source.
    #[arg(value_name = "ID")]
    id: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    #[command(flatten)]
    filter: EventFilterArgs,
    /// Begin with the event of this sequence; unset begins with the next one.
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    from: u64,
    /// With the events' data (JSON output only).
    #[arg(long)]
    data: bool,
    /// End after this many events; 0 goes on.
    #[arg(long, default_value_t = 0)]
    limit: u64,
}

pub(crate) async fn run(command: EventsCommand, global: &Global) -> Result<(), Failure> {
    let client = Client::connect(global).await?;
    match command {
        EventsCommand::List(args) => list(args, global, &client).await,
        EventsCommand::Get(args) => get(args, global, &client).await,
        EventsCommand::Watch(args) => watch(args, global, &client).await,
    }
}

async fn list(args: ListArgs, global: &Global, client: &Client) -> Result<(), Failure> {
    let ListArgs { filter, page, data } = args;
    let filter = EventFilter::from(filter);
    let mut events: Vec<Event> = Vec::new();
    let mut page_token = String::new();
    while let Some(page_size) = page.next_size(events.len()) {
        let request = event::ListRequest { filter: Some(filter.clone()), page_size, page_token, include_data: data };
        let answer = client.events().list(request).await.map_err(client.failed())?.into_inner();
        events.extend(answer.events);
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if global.output.is_json() {
        let values: Vec<_> = events.iter().map(render::json).collect();
        render::print_json(&json!({"events": values}));
        return Ok(());
    }
    let mut table = table();
    for event in &events {
        table.row(row(event));
    }
    render::print(&table.text());
    Ok(())
}

async fn get(args: GetArgs, global: &Global, client: &Client) -> Result<(), Failure> {
    let GetArgs { key, id } = args;
    let key = match id {
        Some(id) => get_request::Key::Name(event::EventKey { source: key, id }),
        None => get_request::Key::Seq(key.parse().map_err(|_| {
            Failure::usage(format!("`{key}` is not a sequence: expected a number, or a source followed by an id"))
        })?),
    };
    let request = event::GetRequest { key: Some(key) };
    let answer = client.events().get(request).await.map_err(client.failed())?.into_inner();
    let Some(event) = answer.event else { return Err(Failure::not_found("the event is not there")) };
    if global.output.is_json() {
        render::print_json(&render::json(&event));
        return Ok(());
    }
    let value = render::json(&event);
    let shown = |name: &str| match &value[name] {
        serde_json::Value::Null => String::new(),
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    for name in ["seq", "kind", "lane", "repository", "actor", "accepted_at", "route", "strategy", "payload_len"] {
        render::print(&format!("{name:<12} {}", shown(name)));
    }
    if let Some(attributes) = value["event"].as_object() {
        for (name, value) in attributes.iter().filter(|(name, _)| *name != "data") {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            render::print(&format!("{:<12} {}", format!("ce-{name}"), clip(&text, 160)));
        }
    }
    let mut table = Table::new(&["delivery", "general", "parked", "supersedes"]);
    for planned in &event.deliveries {
        let general = planned.general.as_ref().map(|name| format!("{}/{}", name.cluster, name.name));
        let parked = short_reason(planned.park_reason);
        let general = general.unwrap_or_else(|| "(chosen at the lease)".to_owned());
        table.row(vec![planned.delivery_id.clone(), general, parked, planned.supersedes.join(" ")]);
    }
    if !table.is_empty() {
        render::print("");
        render::print(&table.text());
    }
    Ok(())
}

async fn watch(args: WatchArgs, global: &Global, client: &Client) -> Result<(), Failure> {
    let WatchArgs { filter, from, data, limit } = args;
    let filter = EventFilter::from(filter);
    let open = async |from_seq| {
        let request = event::WatchRequest { filter: Some(filter.clone()), from_seq, include_data: data };
        Ok(client.events().watch(request).await?.into_inner())
    };
    let printed = Printed::new(global, table, row);
    watch::follow(client, (from, limit), open, |message| (message.seq, message.event), printed).await
}

fn table() -> Table {
    Table::new(&[">seq", "accepted", "kind", "subject", "repository", "route", ">deliveries", "lane"])
}

fn row(event: &Event) -> Vec<String> {
    let subject = event.event.as_ref().map(|event| attribute(event, "subject")).unwrap_or_default();
    vec![
        event.seq.to_string(),
        format!("{} ago", ago(event.accepted_at.as_ref())),
        clip(&event.kind, 40),
        clip(&subject, 30),
        clip(&event.repository, 40),
        if event.route.is_empty() { "(not routed)".to_owned() } else { event.route.clone() },
        event.deliveries.len().to_string(),
        clip(&event.lane, 60),
    ]
}

fn attribute(event: &mindos_proto::cloudevents::v1::CloudEvent, name: &str) -> String {
    use mindos_proto::cloudevents::v1::cloud_event::cloud_event_attribute_value::Attr;
    match event.attributes.get(name).and_then(|value| value.attr.as_ref()) {
        Some(Attr::CeString(text) | Attr::CeUri(text) | Attr::CeUriRef(text)) => text.clone(),
        _ => String::new(),
    }
}

/// The word of a park reason; empty when there is none.
pub(super) fn short_reason(reason: i32) -> String {
    match mindos_proto::delivery::v1::ParkReason::try_from(reason) {
        Ok(mindos_proto::delivery::v1::ParkReason::Unspecified) | Err(_) => String::new(),
        Ok(reason) => render::short_word(reason.as_str_name(), "PARK_REASON_"),
    }
}
