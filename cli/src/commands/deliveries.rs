//! `mindos deliveries`: where work stands, and steering it.

use std::time::Duration;

use clap::{Args, Subcommand};
use mindos_proto::convert;
use mindos_proto::delivery::v1::{self as delivery, Degraded, Delivery, DeliveryFilter, DeliveryStatus};
use mindos_proto::effect::v1::EffectFilter;
use serde_json::json;

use super::effects;
use super::events::short_reason;
use super::filter::{DeliveryFilterArgs, PageArgs, ago, span};
use super::watch::{self, Printed};
use crate::client::Client;
use crate::failure::Failure;
use crate::options::Global;
use crate::render::{self, Table, clip, short_word};

pub(crate) const EXAMPLES: &str = "\
Examples:
  mindos deliveries list --status parked
  mindos deliveries get d42.1
  mindos deliveries redrive --status parked --park-reason attempts_exhausted --dry-run
  mindos deliveries cancel d42.1 --reason 'no longer wanted'";

const LIST_EXAMPLES: &str = "\
Examples:
  mindos deliveries list
  mindos deliveries list --status waiting,leased --general eu/triage-general
  mindos deliveries list --event 42 --output json --results";
const GET_EXAMPLES: &str = "\
Examples:
  mindos deliveries get d42.1
  mindos deliveries get d42.1 --output json";
const WATCH_EXAMPLES: &str = "\
Examples:
  mindos deliveries watch
  mindos deliveries watch --status parked --output json";
const CANCEL_EXAMPLES: &str = "\
Examples:
  mindos deliveries cancel d42.1
  mindos deliveries cancel --lane octocat/hello-world/pr/7 --reason 'branch was deleted' --dry-run
  mindos deliveries cancel --general eu/triage-general --status waiting";
const REDRIVE_EXAMPLES: &str = "\
Examples:
  mindos deliveries redrive d42.1
  mindos deliveries redrive --park-reason attempts_exhausted --since 1d --dry-run
  mindos deliveries redrive --park-reason attempts_exhausted --since 1d --reason 'provider is back'";

#[derive(Debug, Subcommand)]
pub(crate) enum DeliveriesCommand {
    /// List deliveries, the newest first.
    #[command(after_help = LIST_EXAMPLES)]
    List(ListArgs),
    /// Show one delivery with its attempts, its result, and why it went where it went.
    #[command(after_help = GET_EXAMPLES)]
    Get(GetArgs),
    /// Follow the changes of deliveries as they become durable.
    #[command(after_help = WATCH_EXAMPLES)]
    Watch(WatchArgs),
    /// Cancel one delivery, or all that fit a filter.
    #[command(after_help = CANCEL_EXAMPLES)]
    Cancel(CancelArgs),
    /// Put one parked delivery back, or all that fit a filter.
    #[command(after_help = REDRIVE_EXAMPLES)]
    Redrive(RedriveArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    filter: DeliveryFilterArgs,
    #[command(flatten)]
    page: PageArgs,
    /// With what the generals produced (JSON output only).
    #[arg(long)]
    results: bool,
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// Such as `d42.1`.
    #[arg(value_name = "DELIVERY")]
    id: String,
}

#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    #[command(flatten)]
    filter: DeliveryFilterArgs,
    /// Begin with the changes of this sequence; unset begins with the next one.
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    from: u64,
    /// With what the generals produced (JSON output only).
    #[arg(long)]
    results: bool,
    /// End after this many changes; 0 goes on.
    #[arg(long, default_value_t = 0)]
    limit: u64,
}

#[derive(Debug, Args)]
pub(crate) struct CancelArgs {
    /// Such as `d42.1`; or leave it out and give a filter.
    #[arg(value_name = "DELIVERY")]
    id: Option<String>,
    #[command(flatten)]
    filter: DeliveryFilterArgs,
    /// Why, for the ledger.
    #[arg(long, default_value = "")]
    reason: String,
    /// Taken, and without effect yet: a general has 10 s to stop.
    #[arg(long, value_parser = span, value_name = "SPAN")]
    grace: Option<Duration>,
    /// Count only; nothing changes.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RedriveArgs {
    /// Such as `d42.1`; or leave it out and give a filter.
    #[arg(value_name = "DELIVERY")]
    id: Option<String>,
    #[command(flatten)]
    filter: DeliveryFilterArgs,
    /// Why, for the ledger.
    #[arg(long, default_value = "")]
    reason: String,
    /// Count only; nothing changes.
    #[arg(long)]
    dry_run: bool,
}

pub(crate) async fn run(command: DeliveriesCommand, global: &Global) -> Result<(), Failure> {
    let client = Client::connect(global).await?;
    match command {
        DeliveriesCommand::List(args) => list(args, global, &client).await,
        DeliveriesCommand::Get(args) => get(args, global, &client).await,
        DeliveriesCommand::Watch(args) => watch(args, global, &client).await,
        DeliveriesCommand::Cancel(args) => cancel(args, global, &client).await,
        DeliveriesCommand::Redrive(args) => redrive(args, global, &client).await,
    }
}

/// All deliveries that fit, page by page, as many as wanted.
pub(crate) async fn fetch(
    client: &Client,
    filter: &DeliveryFilter,
    page: PageArgs,
    include_output: bool,
) -> Result<Vec<Delivery>, Failure> {
    let mut deliveries: Vec<Delivery> = Vec::new();
    let mut page_token = String::new();
    while let Some(page_size) = page.next_size(deliveries.len()) {
        let request = delivery::ListRequest { filter: Some(filter.clone()), page_size, page_token, include_output };
        let answer = client.deliveries().list(request).await.map_err(client.failed())?.into_inner();
        deliveries.extend(answer.deliveries);
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    Ok(deliveries)
}

async fn list(args: ListArgs, global: &Global, client: &Client) -> Result<(), Failure> {
    let ListArgs { filter, page, results } = args;
    let deliveries = fetch(client, &filter.into(), page, results).await?;
    if global.output.is_json() {
        let values: Vec<_> = deliveries.iter().map(render::json).collect();
        render::print_json(&json!({"deliveries": values}));
        return Ok(());
    }
    let mut table = table();
    for delivery in &deliveries {
        table.row(row(delivery));
    }
    render::print(&table.text());
    Ok(())
}

async fn get(args: GetArgs, global: &Global, client: &Client) -> Result<(), Failure> {
    let request = delivery::GetRequest { delivery_id: args.id, include_output: true };
    let answer = client.deliveries().get(request).await.map_err(client.failed())?.into_inner();
    let Some(delivery) = answer.delivery else { return Err(Failure::not_found("the delivery is not there")) };
    let value = render::json(&delivery);
    if global.output.is_json() {
        render::print_json(&value);
        return Ok(());
    }
    let line = |name: &str, text: &str| {
        if !text.is_empty() {
            render::print(&format!("{name:<12} {text}"));
        }
    };
    line("delivery", &delivery.delivery_id);
    line("status", &status_word(&delivery));
    line("general", &general_text(&delivery));
    line("instead of", &degraded_text(&delivery));
    if let Some(event) = &delivery.event {
        line("event", &format!("{} {} {}", event.seq, event.kind, event.subject));
        line("repository", &event.repository);
    }
    line("lane", &format!("{} (place {})", delivery.lane, delivery.lane_place));
    line("route", &delivery.route);
    line("attempts", &delivery.attempts_used.to_string());
    line("parked for", &park_text(&delivery));
    line("superseded", &delivery.superseded_by);
    for name in ["accepted_at", "leased_at", "parked_at", "settled_at", "not_before"] {
        line(name.trim_end_matches("_at"), value[name].as_str().unwrap_or_default());
    }
    if let Some(lease) = &delivery.lease {
        let instance = lease.instance.as_ref().map(|name| name.instance_id.as_str()).unwrap_or_default();
        line("lease", &format!("{} at {instance} {}", value["lease"]["token"].as_str().unwrap_or(""), lease.progress));
    }
    if let Some(explanation) = &delivery.explanation {
        line("why", &explanation.summary);
    }
    let mut attempts = Table::new(&["token", "general", "instance", "leased", "failure", "message"]);
    for (attempt, value) in delivery.attempts.iter().zip(value["attempts"].as_array().into_iter().flatten()) {
        attempts.row(vec![
            value["token"].as_str().unwrap_or_default().to_owned(),
            attempt.general.as_ref().map(|name| format!("{}/{}", name.cluster, name.name)).unwrap_or_default(),
            attempt.instance_id.clone(),
            value["leased_at"].as_str().unwrap_or_default().to_owned(),
            value["failure"].as_str().unwrap_or_default().to_owned(),
            clip(&attempt.message, 80),
        ]);
    }
    if !attempts.is_empty() {
        render::print("");
        render::print(&attempts.text());
    }
    if !delivery.effects.is_empty() {
        let filter = EffectFilter { delivery_id: delivery.delivery_id.clone(), ..EffectFilter::default() };
        let mut wanted = effects::table();
        let all = effects::fetch(client, &filter, PageArgs { limit: 0 }).await?;
        all.iter().rev().for_each(|effect| wanted.row(effects::row(effect)));
        render::print("");
        render::print(&wanted.text());
    }
    let output = &value["output"]["data"];
    if !output.is_null() {
        render::print("");
        render::print(&format!("{output:#}"));
    }
    Ok(())
}

async fn watch(args: WatchArgs, global: &Global, client: &Client) -> Result<(), Failure> {
    let WatchArgs { filter, from, results, limit } = args;
    let filter = DeliveryFilter::from(filter);
    let open = async |from_seq| {
        let request = delivery::WatchRequest { filter: Some(filter.clone()), from_seq, include_output: results };
        Ok(client.deliveries().watch(request).await?.into_inner())
    };
    let printed = Printed::new(global, table, row);
    watch::follow(client, (from, limit), open, |message| (message.seq, message.delivery), printed).await
}

/// The one named or all that fit; a filter in which nothing is set is a slip of the fingers.
fn target<T>(
    id: Option<String>,
    filter: DeliveryFilterArgs,
    one: fn(String) -> T,
    many: fn(DeliveryFilter) -> T,
) -> Result<T, Failure> {
    let filter = DeliveryFilter::from(filter);
    match (id, filter == DeliveryFilter::default()) {
        (Some(id), true) => Ok(one(id)),
        (Some(_), false) => Err(Failure::usage("name one delivery or give a filter, not both")),
        (None, false) => Ok(many(filter)),
        (None, true) => Err(Failure::usage("name a delivery, such as d42.1, or give a filter, such as --lane")),
    }
}

async fn cancel(args: CancelArgs, global: &Global, client: &Client) -> Result<(), Failure> {
    use delivery::cancel_request::Target;
    let CancelArgs { id, filter, reason, grace, dry_run } = args;
    let target = target(id, filter, Target::DeliveryId, Target::Filter)?;
    let request = delivery::CancelRequest { target: Some(target), reason, grace: grace.map(convert::span), dry_run };
    let answer = client.deliveries().cancel(request).await.map_err(client.failed())?.into_inner();
    if global.output.is_json() {
        render::print_json(&render::json(&answer));
        return Ok(());
    }
    let would = if dry_run { " (dry run: nothing changed)" } else { "" };
    render::print(&format!(
        "{} cancelled, {} asked to stop, {} unchanged{would}",
        answer.cancelled, answer.requested, answer.unchanged
    ));
    Ok(())
}

async fn redrive(args: RedriveArgs, global: &Global, client: &Client) -> Result<(), Failure> {
    use delivery::redrive_request::Target;
    let RedriveArgs { id, filter, reason, dry_run } = args;
    let target = target(id, filter, Target::DeliveryId, Target::Filter)?;
    let request = delivery::RedriveRequest { target: Some(target), reason, dry_run };
    let answer = client.deliveries().redrive(request).await.map_err(client.failed())?.into_inner();
    if global.output.is_json() {
        render::print_json(&render::json(&answer));
        return Ok(());
    }
    let would = if dry_run { " (dry run: nothing changed)" } else { "" };
    render::print(&format!("{} put back, {} unchanged{would}", answer.redriven, answer.unchanged));
    Ok(())
}

pub(crate) fn status_word(delivery: &Delivery) -> String {
    let status = DeliveryStatus::try_from(delivery.status).unwrap_or(DeliveryStatus::Unspecified);
    short_word(status.as_str_name(), "DELIVERY_STATUS_")
}

pub(crate) fn general_text(delivery: &Delivery) -> String {
    match &delivery.general {
        Some(name) => format!("{}/{}", name.cluster, name.name),
        None => format!("(one of {})", delivery.candidates.len()),
    }
}

fn degraded_text(delivery: &Delivery) -> String {
    let Some(Degraded { budget, percent, from }) = &delivery.degraded else { return String::new() };
    let from: Vec<_> = from.iter().map(|name| format!("{}/{}", name.cluster, name.name)).collect();
    format!("{} ({percent} % of budget {budget} are charged)", from.join(" "))
}

pub(crate) fn park_text(delivery: &Delivery) -> String {
    let reason = short_reason(delivery.park_reason);
    match delivery.park_message.is_empty() {
        true => reason,
        false => format!("{reason}: {}", clip(&delivery.park_message, 80)),
    }
}

fn table() -> Table {
    Table::new(&["delivery", "status", "general", "kind", "repository", ">attempts", "accepted", "lane", "parked"])
}

fn row(delivery: &Delivery) -> Vec<String> {
    let event = delivery.event.clone().unwrap_or_default();
    vec![
        delivery.delivery_id.clone(),
        status_word(delivery),
        general_text(delivery),
        clip(&event.kind, 40),
        clip(&event.repository, 40),
        delivery.attempts_used.to_string(),
        format!("{} ago", ago(delivery.accepted_at.as_ref())),
        clip(&delivery.lane, 50),
        park_text(delivery),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_delivery_or_a_filter_but_never_everything() {
        use delivery::cancel_request::Target;
        let none = DeliveryFilterArgs::default;
        assert!(target(None, none(), Target::DeliveryId, Target::Filter).is_err());
        assert!(target(Some("d1.1".to_owned()), none(), Target::DeliveryId, Target::Filter).is_ok());
    }
}
