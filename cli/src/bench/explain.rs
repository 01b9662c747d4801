//! Explaining: a table with conditions is tried on many stored events.
//!
//! Events with JSON like that of small webhooks are published to a route without generals, so that they are history and nothing
//! else. Then the control plane is started again, and one call explains all of them.

use std::time::Instant;

use bytes::Bytes;
use clap::Args;
use mindos_control_plane::routing::file;
use mindos_proto::cloudevents::v1::CloudEvent;
use mindos_proto::cloudevents::v1::cloud_event::cloud_event_attribute_value::Attr;
use mindos_proto::cloudevents::v1::cloud_event::{CloudEventAttributeValue, Data};
use mindos_proto::event::v1::PublishStreamRequest;
use mindos_proto::route::v1::ExplainRequest;
use mindos_proto::route::v1::explain_response::Part;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::compare::machine;
use super::stage::{Data as DataDir, Stage};
use super::{StageArgs, rounded, say};
use crate::failure::Failure;
use crate::render;

/// Events of one batch.
const BATCH: u64 = 500;
/// Batches on their way.
const AHEAD: usize = 2;
/// What is tried: conditions on attributes, on the payload, in a loop, and a guard.
const TABLE: &str = "
guards: {bots: drop}
routes:
  - name: large
    match: {kinds: [pr_created], expr: data.pull_request.additions > 400 && !data.pull_request.draft}
    targets: {types: [bench-nobody]}
    strategy: broadcast
  - name: labelled
    match: {kinds: ['pr_*'], expr: \"data.pull_request.labels.exists(l, l.name == 'security')\"}
    targets: {types: [bench-nobody]}
    strategy: broadcast
  - name: titled
    match: {expr: \"actor.startsWith('a') && data.pull_request.title.matches('^(fix|feat)')\"}
    targets: {types: [bench-nobody]}
    strategy: broadcast
  - name: default
    targets: {types: [bench-nobody]}
    strategy: broadcast
";

#[derive(Clone, Debug, Args)]
pub(crate) struct ExplainArgs {
    /// Events that are stored.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    events: u64,
    /// Bytes of each event's payload, roughly.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(0..=100_000))]
    payload: u64,
    #[command(flatten)]
    stage: StageArgs,
}

pub(super) async fn run(args: ExplainArgs) -> Result<(), Failure> {
    let ExplainArgs { events, payload, stage: stage_args } = args;
    let data = DataDir::new(&stage_args)?;
    let extra = &stage_args.control_plane_args;
    let stage = Stage::start(&data.path, extra).await?;
    stage.route(&[("pr_created", vec!["bench-nobody".to_owned()])]).await?;
    say(&format!("publishing {events} events that nobody works on"));
    let began = Instant::now();
    publish(&stage, events, payload).await?;
    let published = began.elapsed();
    stage.stop().await;
    say("starting the control plane again, to explain them");
    let stage = Stage::start(&data.path, extra).await?;
    let before = stage.used();
    let table = file::parse(TABLE).map_err(|error| Failure::world(format!("the table of the bench: {error}")))?;
    let began = Instant::now();
    let request = ExplainRequest { table: Some(table), ..ExplainRequest::default() };
    let client = &stage.client;
    let mut parts = client.routes().explain(request).await.map_err(client.failed())?.into_inner();
    let (mut shown, mut summary) = (0_u64, None);
    while let Some(part) = parts.message().await.map_err(client.failed())? {
        match part.part {
            Some(Part::Event(_)) => shown += 1,
            Some(Part::Summary(found)) => summary = Some(found),
            None => {}
        }
    }
    let took = began.elapsed();
    let used = stage.used();
    stage.stop().await;
    let summary = summary.ok_or_else(|| Failure::world("the explanation ended without a summary"))?;
    if summary.events < events {
        return Err(Failure::world(format!("{} of {events} events were explained", summary.events)));
    }
    let flows = summary.flows.iter().map(|flow| json!({"to": flow.would_go, "events": flow.events}));
    render::print_json(&json!({
        "bench": "explain",
        "events": summary.events,
        "records": summary.records,
        "payload_bytes": payload,
        "seconds": rounded(took.as_secs_f64()),
        "events_per_second": rounded(summary.events as f64 / took.as_secs_f64()),
        "server_cpu_seconds": rounded((used.cpu - before.cpu).as_secs_f64()),
        "server_rss_peak_bytes": used.resident_peak,
        "server_rss_before_bytes": before.resident,
        "differ": summary.differ,
        "shown": shown,
        "flows": flows.collect::<Vec<_>>(),
        "publish_seconds": rounded(published.as_secs_f64()),
        "machine": machine(),
    }));
    Ok(())
}

async fn publish(stage: &Stage, events: u64, payload: u64) -> Result<(), Failure> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    let client = &stage.client;
    let answers = async {
        let stream = client.events().publish_stream(ReceiverStream::new(receiver)).await.map_err(client.failed())?;
        let mut answers = stream.into_inner();
        let mut answered = 0;
        while let Some(answer) = answers.message().await.map_err(client.failed())? {
            answered += answer.results.len() as u64;
            if let Some(error) = answer.results.iter().find_map(|result| result.error.as_ref()) {
                return Err(Failure::world(format!("an event was refused: {}", error.message)));
            }
        }
        if answered < events {
            return Err(Failure::world(format!("{answered} of {events} events were answered")));
        }
        Ok(())
    };
    let offers = async move {
        for (batch, from) in (1..).zip((0..events).step_by(BATCH as usize)) {
            let events = (from..events.min(from + BATCH)).map(|number| event(number, payload)).collect();
            if sender.send(PublishStreamRequest { batch, events, explain: false }).await.is_err() {
                break;
            }
        }
    };
    let ((), answered) = tokio::join!(offers, answers);
    answered
}

fn event(number: u64, payload: u64) -> CloudEvent {
    let text = |text: String| CloudEventAttributeValue { attr: Some(Attr::CeString(text)) };
    let labels: Vec<_> =
        (0..number % 4).map(|label| json!({"name": (["bug", "security", "p1"][label as usize])})).collect();
    let words = ["fix: the login", "feat: more of it", "docs: a word", "wip"];
    let data = json!({
        "action": "opened",
        "number": number,
        "body": "x".repeat(payload.saturating_sub(400) as usize),
        "pull_request": {
            "title": words[(number % 4) as usize],
            "additions": number * 37 % 1000,
            "deletions": number * 11 % 300,
            "draft": number.is_multiple_of(5),
            "labels": labels,
            "head": {"ref": format!("branch-{number}"), "sha": format!("{number:040x}")},
        },
        "repository": {"full_name": format!("acme/service-{}", number % 100), "id": number % 100},
    });
    let mut attributes = vec![
        ("kind", text(if number.is_multiple_of(2) { "pr_created" } else { "issue" }.to_owned())),
        ("subject", text(number.to_string())),
        ("repository", text(format!("acme/service-{}", number % 100))),
        ("actor", text(["ada", "bob", "alan", "dependabot[bot]"][(number / 4 % 4) as usize].to_owned())),
        ("datacontenttype", text("application/json".to_owned())),
    ];
    if number / 4 % 4 == 3 {
        attributes.push(("bot", CloudEventAttributeValue { attr: Some(Attr::CeBoolean(true)) }));
    }
    CloudEvent {
        id: number.to_string(),
        source: "/mindos/bench/explain".to_owned(),
        spec_version: "1.0".to_owned(),
        r#type: "com.example.bench".to_owned(),
        attributes: attributes.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        data: Some(Data::BinaryData(Bytes::from(data.to_string()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_the_bench_is_one() {
        assert_eq!(file::parse(TABLE).unwrap().routes.len(), 4);
    }
}
