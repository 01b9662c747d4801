//! `mindos send`: one event from the command line.

use std::io::Read;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use mindos_proto::cloudevents::v1::CloudEvent;
use mindos_proto::cloudevents::v1::cloud_event::cloud_event_attribute_value::Attr;
use mindos_proto::cloudevents::v1::cloud_event::{CloudEventAttributeValue, Data};
use mindos_proto::delivery::v1::{Delivery, DeliveryFilter, DeliveryStatus};
use mindos_proto::event::v1::get_request::Key;
use mindos_proto::event::v1::{GetRequest, PublishRequest, PublishResult};
use serde_json::json;

use super::deliveries::{fetch, general_text, park_text, status_word};
use super::filter::{PageArgs, span};
use crate::client::Client;
use crate::failure::Failure;
use crate::options::Global;
use crate::render::{self, Progress, Table};

pub(crate) const EXAMPLES: &str = "\
Examples:
  mindos send --type com.example.hello --source /me --data '{\"text\":\"hi\"}'
  mindos send --type com.example.hello --source /me --data-file event.json --wait
  mindos send --kind pr_created --type com.example.pr --source /me --lane demo/pr/1 --data '{}' --wait --output json
  echo '{\"text\":\"hi\"}' | mindos send --type com.example.hello --source /me --data-file -

With --wait the exit code is 0 when everything was settled, 5 when something was parked or took too long, and 4 when the event
led to no delivery.

The same --source and --id again is the same event: it is answered as the first time and not worked on twice.";

#[derive(Debug, Args)]
pub(crate) struct SendArgs {
    /// What happened, such as `com.example.hello`.
    #[arg(long = "type", value_name = "TYPE")]
    event_type: String,
    /// Where it comes from, a URI reference.
    #[arg(long)]
    source: String,
    /// Its id within the source; unset draws one at random.
    #[arg(long)]
    id: Option<String>,
    /// What it is about.
    #[arg(long)]
    subject: Option<String>,
    /// Word that routes match; unset is the type.
    #[arg(long)]
    kind: Option<String>,
    /// Lane in which it keeps its order; unset is the subject, else the source.
    #[arg(long)]
    lane: Option<String>,
    /// Repository, as owner/name.
    #[arg(long, value_name = "OWNER/NAME")]
    repository: Option<String>,
    /// Who caused it.
    #[arg(long)]
    actor: Option<String>,
    /// The data.
    #[arg(long, conflicts_with = "data_file")]
    data: Option<String>,
    /// File with the data; `-` reads standard input.
    #[arg(long, value_name = "FILE")]
    data_file: Option<PathBuf>,
    /// Media type of the data.
    #[arg(long, default_value = "application/json", value_name = "TYPE")]
    content_type: String,
    /// Wait until everything it led to is settled, and show the results.
    #[arg(long)]
    wait: bool,
    /// How long to wait at most.
    #[arg(long, default_value = "5m", value_parser = span, value_name = "SPAN")]
    timeout: Duration,
}

pub(crate) async fn run(args: SendArgs, global: &Global) -> Result<(), Failure> {
    let (wait, timeout) = (args.wait, args.timeout);
    let event = event(args)?;
    let client = Client::connect(global).await?;
    let request = PublishRequest { event: Some(event), explain: false };
    let answer = client.events().publish(request).await.map_err(client.failed())?.into_inner();
    let Some(result) = answer.result else { return Err(Failure::world("the answer is empty")) };
    let mut value = render::json(&result);
    if !wait {
        if global.output.is_json() {
            render::print_json(&value);
        } else {
            let again = if result.duplicate { ", accepted before" } else { "" };
            render::print(&format!(
                "event {} (id {}), {} deliveries{again}",
                result.seq,
                result.id,
                result.deliveries.len()
            ));
        }
        return Ok(());
    }
    if !has_deliveries(&client, &result).await? {
        if global.output.is_json() {
            value["deliveries"] = json!([]);
            value["settled"] = json!(false);
            render::print_json(&value);
        } else {
            render::print(&format!("event {} (id {}), no deliveries", result.seq, result.id));
        }
        return Err(Failure::not_found(format!("no delivery was made of event {}: nobody works on it", result.seq))
            .hint(format!(
                "see its route with `mindos events get {}`, and who is there with `mindos generals list`",
                result.seq
            )));
    }
    let (deliveries, settled) = wait_for(&client, result.seq, timeout).await?;
    if global.output.is_json() {
        value["deliveries"] = deliveries.iter().map(render::json).collect();
        value["settled"] = json!(settled);
        render::print_json(&value);
    } else {
        let mut table = Table::new(&["delivery", "status", "general", "result"]);
        for delivery in &deliveries {
            let output = render::json(delivery)["output"]["data"].clone();
            let text = output["analysis"].as_str().map_or_else(|| output.to_string(), str::to_owned);
            let text = if output.is_null() { park_text(delivery) } else { text };
            table.row(vec![
                delivery.delivery_id.clone(),
                status_word(delivery),
                general_text(delivery),
                render::clip(&text, 100),
            ]);
        }
        render::print(&table.text());
    }
    match settled {
        true => Ok(()),
        false => Err(Failure::verification(format!("event {} is not settled", result.seq))
            .hint(format!("look at it with `mindos deliveries list --event {}`", result.seq))),
    }
}

/// Whether the event led to anything that can be waited for: a ping does not, nor does a route that names nobody.
async fn has_deliveries(client: &Client, result: &PublishResult) -> Result<bool, Failure> {
    if !result.deliveries.is_empty() {
        return Ok(true);
    }
    if !result.duplicate {
        return Ok(false);
    }
    // The answer to a duplicate may leave out what has ended.
    let request = GetRequest { key: Some(Key::Seq(result.seq)) };
    let answer = client.events().get(request).await.map_err(client.failed())?.into_inner();
    Ok(answer.event.is_some_and(|event| !event.deliveries.is_empty()))
}

/// Waits until the event's deliveries are settled or one is parked.
async fn wait_for(client: &Client, seq: u64, timeout: Duration) -> Result<(Vec<Delivery>, bool), Failure> {
    let filter = DeliveryFilter { event_seqs: vec![seq], ..Default::default() };
    let started = Instant::now();
    let mut progress = Progress::new();
    loop {
        let deliveries = fetch(client, &filter, PageArgs { limit: 0 }, true).await?;
        let is = |delivery: &Delivery, status: DeliveryStatus| delivery.status() == status;
        let done = deliveries
            .iter()
            .filter(|delivery| is(delivery, DeliveryStatus::Succeeded) || is(delivery, DeliveryStatus::Cancelled))
            .count();
        let parked = deliveries.iter().filter(|delivery| is(delivery, DeliveryStatus::Parked)).count();
        let settled = done == deliveries.len() && !deliveries.is_empty();
        if settled || (parked > 0 && done + parked == deliveries.len()) || started.elapsed() >= timeout {
            return Ok((deliveries, settled));
        }
        progress.show(&format!("{done} of {} settled", deliveries.len()));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn event(args: SendArgs) -> Result<CloudEvent, Failure> {
    let SendArgs {
        event_type,
        source,
        id,
        subject,
        kind,
        lane,
        repository,
        actor,
        data,
        data_file,
        content_type,
        wait: _,
        timeout: _,
    } = args;
    let data = match (data, data_file) {
        (Some(data), _) => Some(data.into_bytes()),
        (None, Some(path)) if path.as_os_str() == "-" => {
            let mut bytes = Vec::new();
            std::io::stdin().read_to_end(&mut bytes)?;
            Some(bytes)
        }
        (None, Some(path)) => Some(
            std::fs::read(&path).map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))?,
        ),
        (None, None) => None,
    };
    if let Some(bytes) = &data
        && content_type == "application/json"
        && let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(bytes)
    {
        return Err(Failure::usage(format!("the data are not JSON: {error}"))
            .hint("say what they are with --content-type, such as text/plain"));
    }
    let text = |text: String| CloudEventAttributeValue { attr: Some(Attr::CeString(text)) };
    let mut attributes: std::collections::HashMap<String, CloudEventAttributeValue> = [
        ("subject", subject),
        ("kind", kind),
        ("lane", lane),
        ("repository", repository),
        ("actor", actor),
        ("datacontenttype", data.is_some().then_some(content_type)),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name.to_owned(), text(value?))))
    .collect();
    let now = mindos_proto::convert::time(super::filter::now());
    attributes.insert("time".to_owned(), CloudEventAttributeValue { attr: Some(Attr::CeTimestamp(now)) });
    let id = match id {
        Some(id) => id,
        None => random_id()?,
    };
    Ok(CloudEvent {
        id,
        source,
        spec_version: "1.0".to_owned(),
        r#type: event_type,
        attributes: attributes.into_iter().collect(),
        data: data.map(|data| Data::BinaryData(data.into())),
    })
}

/// 128 bits of chance, in hex.
pub(crate) fn random_id() -> Result<String, Failure> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).map_err(|error| Failure::world(format!("no randomness: {error}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
