//! Webhooks over HTTP at a rate that does not wait for answers: from when each was due to its durable answer.
//!
//! Invariant: what is sent late is counted from when it was due.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::compare::machine;
use super::histogram::Latencies;
use super::stage::{Data, Stage};
use super::{StageArgs, clock_ns, rounded, say};
use crate::failure::Failure;
use crate::render;
use crate::site::Site;
use crate::up::github::{Webhook, read_folder};
use crate::web::Web;

const SECRET: &str = "bench";

#[derive(Clone, Debug, Args)]
pub(crate) struct WebhooksArgs {
    /// Folder of GitHub's payloads, named `<event>.<action>.json`; they are sent in turn, each time as another delivery.
    #[arg(long, value_name = "DIR")]
    payloads: PathBuf,
    /// Deliveries a second.
    #[arg(long, default_value_t = 200.0)]
    rate: f64,
    /// For how long.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Connections; one that waits for an answer sends nothing, so this bounds what is in flight.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    #[command(flatten)]
    stage: StageArgs,
}

/// What all connections came to.
#[derive(Debug)]
struct Did {
    accepted: u64,
    refused: u64,
    last_refusal: String,
    latencies: Latencies,
}

pub(super) async fn run(args: WebhooksArgs) -> Result<(), Failure> {
    let WebhooksArgs { payloads, rate, seconds, connections, stage: stage_args } = args;
    if !(rate > 0.0 && seconds > 0.0 && (1..=10_000).contains(&connections)) {
        return Err(Failure::usage("--rate and --seconds are above 0, --connections is 1 to 10000"));
    }
    let webhooks = Rc::new(read_folder(&payloads, "")?);
    let data = Data::new(&stage_args)?;
    let extra = [stage_args.control_plane_args.clone(), vec![format!("--github-secret={SECRET}")]].concat();
    let mut stage = Stage::start(&data.path, &extra).await?;
    say(&format!("{rate} webhooks a second for {seconds} s over {connections} connections"));
    let did = Did { accepted: 0, refused: 0, last_refusal: String::new(), latencies: Latencies::new() };
    let did = Rc::new(RefCell::new(did));
    let count = (rate * seconds) as u64;
    let next = Rc::new(Cell::new(0u64));
    let before = stage.used();
    // Connections are dialled with the first webhooks: a moment, so that it is not counted.
    let start = clock_ns() + 200_000_000;
    let tasks: Vec<_> = (0..connections)
        .map(|_| {
            let (webhooks, did, next, api) =
                (Rc::clone(&webhooks), Rc::clone(&did), Rc::clone(&next), stage.api.clone());
            tokio::task::spawn_local(async move {
                let mut web = Web::new(&Site::plain(&api))?;
                web.get("/healthz").await?;
                loop {
                    let number = next.get();
                    if number >= count {
                        return Ok::<(), Failure>(());
                    }
                    next.set(number + 1);
                    let due = start + (number as f64 * 1e9 / rate) as u64;
                    let wait = Duration::from_nanos(due.saturating_sub(clock_ns()));
                    if !wait.is_zero() {
                        tokio::time::sleep(wait).await;
                    }
                    send(&mut web, &webhooks[number as usize % webhooks.len()], number, due, &did).await?;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.map_err(|error| Failure::world(format!("a connection ended: {error}")))??;
    }
    let took = (clock_ns() - start) as f64 / 1e9;
    let after = stage.used();
    let accepted = did.borrow().accepted as f64;
    let enough =
        |metrics: &std::collections::BTreeMap<String, f64>| metrics.get("mindos_events_total") >= Some(&accepted);
    stage.wait("the events to be counted", Duration::from_secs(30), enough).await?;
    stage.stop().await;
    let bytes: usize = webhooks.iter().map(|webhook| webhook.body.len()).sum();
    let did = did.borrow();
    render::print_json(&json!({
        "bench": "webhooks",
        "payloads": webhooks.len(),
        "payload_bytes_mean": bytes / webhooks.len(),
        "rate": rate,
        "sent": count,
        "accepted": did.accepted,
        "refused": did.refused,
        "last_refusal": did.last_refusal,
        "seconds": rounded(took),
        "per_second": rounded(did.accepted as f64 / took),
        "due_to_durable_answer": did.latencies.to_json(),
        "server_cpu_percent_of_a_core": rounded((after.cpu - before.cpu).as_secs_f64() / took * 100.0),
        "machine": machine(),
    }));
    Ok(())
}

async fn send(web: &mut Web, webhook: &Webhook, number: u64, due: u64, did: &RefCell<Did>) -> Result<(), Failure> {
    let mut headers = webhook.headers(SECRET);
    for (name, value) in &mut headers {
        if *name == "x-github-delivery" {
            *value = format!("bench-{number}");
        }
    }
    let (status, body) = web.post("/webhooks/github", &headers, webhook.body.clone()).await?;
    let took = clock_ns().saturating_sub(due);
    let mut did = did.borrow_mut();
    if status.is_success() {
        did.accepted += 1;
        did.latencies.record_ns(took);
    } else {
        did.refused += 1;
        did.last_refusal = format!("{status}: {}", String::from_utf8_lossy(&body));
    }
    Ok(())
}
