//! `mindos replay`: past events once more, for a general of one's choice, and what came of them beside what came of them then.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use clap::Args;
use mindos_control_plane::amount::money;
use mindos_proto::convert;
use mindos_proto::delivery::v1::{self as delivery, Delivery, DeliveryFilter, DeliveryStatus, FailureKind};
use mindos_proto::replay::v1::replay_response::Part;
use mindos_proto::replay::v1::{ReplayRequest, ReplaySummary, ReplayTarget, ReplayWindow, ReplayedEvent};
use serde_json::{Value, json};

use super::budgets::cost;
use super::deliveries::{fetch, general_text, park_text, status_word};
use super::filter::{PageArgs, now, short_span, span};
use super::send::random_id;
use crate::client::Client;
use crate::failure::Failure;
use crate::options::Global;
use crate::render::{self, Progress, Table, short_word};

/// Events whose deliveries are asked for at once.
const ASKED_MAX: usize = 1000;
/// How often is looked whether work has ended.
const LOOK_EVERY: Duration = Duration::from_millis(200);

pub(crate) const EXAMPLES: &str = "\
Examples:
  mindos replay --event 4711 --to code-review-general --wait
  mindos replay --last 1d --kind pr_created --to code-review-general --cluster eu-west-1 --version 1.4.0 --wait
  mindos replay --last 7d --repository acme/site --to-name reviewer-next --limit 200 --cost-max 5 --wait --output json
  mindos replay --last 1d --route pr-created --to security-general --dry-run

The general gets each event as it was then, in the mode `replay`: effects are held back, results go to no sink, and the cost is on
budgets for replays (`mindos budgets set replays --replays --period day --cost 10`) and no others. Live work goes first.
The same --id with the same --event goes on where it was, and names what was accepted before; a window given by --last moves on.

The exit code is 4 when there was nothing to replay; with --wait it is 0 when all that was replayed has ended, and 5 when it took too long.";

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["event", "last"]))]
#[command(group = clap::ArgGroup::new("target").required(true).multiple(true).args(["to", "to_name", "cluster"]))]
pub(crate) struct ReplayArgs {
    /// Events, by sequence; several with commas.
    #[arg(long, value_delimiter = ',', value_name = "SEQ", value_parser = clap::value_parser!(u64).range(1..))]
    event: Vec<u64>,
    /// Events accepted since this long ago, such as 1d.
    #[arg(long, value_name = "SPAN", value_parser = span)]
    last: Option<Duration>,
    /// Of those, events of this kind.
    #[arg(long, requires = "last")]
    kind: Option<String>,
    /// Of those, events of this repository, as owner/name.
    #[arg(long, value_name = "OWNER/NAME", requires = "last")]
    repository: Option<String>,
    /// Of those, events that this route took.
    #[arg(long, requires = "last")]
    route: Option<String>,
    /// At most so many, the newest; 1 to 10000.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// Type of the general that works on them.
    #[arg(long, value_name = "TYPE")]
    to: Option<String>,
    /// Name of that general.
    #[arg(long, value_name = "NAME")]
    to_name: Option<String>,
    /// Its cluster.
    #[arg(long)]
    cluster: Option<String>,
    /// Version of its instance, such as 1.4.0, or 1.4.0+ for that or a later one.
    // The program's own flag of this name is not wanted here.
    #[arg(long = "version", value_name = "VERSION")]
    instance_version: Option<String>,
    /// Money that all of it may cost: sets a budget `replay.<id>`.
    #[arg(long, value_name = "AMOUNT", value_parser = money)]
    cost_max: Option<u64>,
    /// Name of the replay; unset draws one.
    #[arg(long)]
    id: Option<String>,
    /// Say which events would be replayed.
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
    /// Wait until all has ended, and show both results side by side.
    #[arg(long)]
    wait: bool,
    /// How long to wait at most.
    #[arg(long, default_value = "30m", value_parser = span, value_name = "SPAN")]
    timeout: Duration,
}

pub(crate) async fn run(args: ReplayArgs, global: &Global) -> Result<(), Failure> {
    let (wait, timeout, dry_run) = (args.wait, args.timeout, args.dry_run);
    let request = request(args)?;
    let id = request.id.clone();
    let client = Client::connect(global).await?;
    let (events, summary) = accept(&client, request).await?;
    let replayed: Vec<&ReplayedEvent> = events.iter().filter(|event| event.replay_seq > 0).collect();
    if !wait {
        show_accepted(&id, &events, &summary, global);
        return match events.is_empty() || (replayed.is_empty() && !dry_run) {
            true => Err(nothing()),
            false => Ok(()),
        };
    }
    if replayed.is_empty() {
        show_accepted(&id, &events, &summary, global);
        return Err(nothing());
    }
    let ended = wait_for(&client, &replayed, timeout).await?;
    let seqs = |of: fn(&ReplayedEvent) -> u64| replayed.iter().map(|event| of(event)).collect::<Vec<_>>();
    let then = deliveries(&client, &seqs(|event| event.seq)).await?;
    let again = deliveries(&client, &seqs(|event| event.replay_seq)).await?;
    if global.output.is_json() {
        let side = |of: &BTreeMap<u64, Vec<Delivery>>, seq: u64| -> Value {
            of.get(&seq).into_iter().flatten().map(as_json).collect()
        };
        let pair = |event: &&ReplayedEvent| {
            json!({
                "event": render::json(*event),
                "then": side(&then, event.seq),
                "again": side(&again, event.replay_seq),
            })
        };
        let skipped: Vec<_> = events.iter().filter(|event| event.replay_seq == 0).map(render::json).collect();
        render::print_json(&json!({
            "id": id,
            "settled": ended,
            "pairs": replayed.iter().map(pair).collect::<Vec<_>>(),
            "skipped": skipped,
            "summary": render::json(&summary),
        }));
    } else {
        show_pairs(&id, &events, (&then, &again));
    }
    match ended {
        true => Ok(()),
        false => Err(Failure::verification(format!("replay {id} has not ended")).hint(format!(
            "look again with `mindos replay --id {id} --event {}` and the same target",
            listed(&seqs(|event| event.seq))
        ))),
    }
}

/// Sequences as `--event` takes them.
fn listed(seqs: &[u64]) -> String {
    seqs.iter().map(u64::to_string).collect::<Vec<_>>().join(",")
}

fn nothing() -> Failure {
    Failure::not_found("there was nothing to replay: no event fits, or none has its payload still")
        .hint("look at what there is with `mindos events list`")
}

fn request(args: ReplayArgs) -> Result<ReplayRequest, Failure> {
    let ReplayArgs { event, last, kind, repository, route, limit, to, to_name, cluster, instance_version, .. } = args;
    let id = match args.id {
        Some(id) => id,
        None => format!("r-{}", &random_id()?[..8]),
    };
    let wanted = instance_version.unwrap_or_default();
    let (version, or_later) = wanted.strip_suffix('+').map_or((wanted.as_str(), false), |version| (version, true));
    Ok(ReplayRequest {
        id,
        event_seqs: event,
        window: last.map(|last| ReplayWindow {
            since: Some(convert::time(now() - last)),
            until: None,
            kind: kind.unwrap_or_default(),
            repository: repository.unwrap_or_default(),
            route: route.unwrap_or_default(),
            limit,
        }),
        target: Some(ReplayTarget {
            general_type: to.unwrap_or_default(),
            general: to_name.unwrap_or_default(),
            cluster: cluster.unwrap_or_default(),
            version: version.to_owned(),
            or_later,
        }),
        cost_max_micros: args.cost_max,
        dry_run: args.dry_run,
    })
}

/// Has the events accepted, and waits where there is no room for them.
async fn accept(client: &Client, request: ReplayRequest) -> Result<(Vec<ReplayedEvent>, ReplaySummary), Failure> {
    let mut parts = client.replays().replay(request).await.map_err(client.failed())?.into_inner();
    let (mut events, mut progress) = (Vec::new(), Progress::new());
    while let Some(part) = parts.message().await.map_err(client.failed())? {
        match part.part {
            Some(Part::Event(event)) => {
                events.push(event);
                progress.show(&format!("{} events looked at", events.len()));
            }
            Some(Part::Summary(summary)) => return Ok((events, summary)),
            None => {}
        }
    }
    Err(Failure::world("the answer ended before its summary"))
}

async fn wait_for(client: &Client, events: &[&ReplayedEvent], timeout: Duration) -> Result<bool, Failure> {
    let started = Instant::now();
    let mut progress = Progress::new();
    let mut left: Vec<u64> = events.iter().map(|event| event.replay_seq).collect();
    loop {
        let (mut open, mut parked) = (Vec::new(), None::<(usize, String)>);
        for part in left.chunks(ASKED_MAX) {
            let filter = DeliveryFilter { event_seqs: part.to_vec(), ..Default::default() };
            let found = fetch(client, &filter, PageArgs { limit: 0 }, false).await?;
            let is_open =
                |found: &&Delivery| !matches!(found.status(), DeliveryStatus::Succeeded | DeliveryStatus::Cancelled);
            for waits in found.iter().filter(|found| found.status() == DeliveryStatus::Parked) {
                parked.get_or_insert_with(|| (0, park_text(waits))).0 += 1;
            }
            open.extend(found.iter().filter(is_open).filter_map(|found| Some(found.event.as_ref()?.seq)));
        }
        if open.is_empty() || started.elapsed() >= timeout {
            return Ok(open.is_empty());
        }
        let ended = events.len() - open.len().min(events.len());
        let parked = parked.map(|(count, text)| format!(", {count} parked: {text}")).unwrap_or_default();
        progress.show(&format!("{ended} of {} ended{parked}", events.len()));
        left = open;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Deliveries with their outputs, by event.
async fn deliveries(client: &Client, seqs: &[u64]) -> Result<BTreeMap<u64, Vec<Delivery>>, Failure> {
    let mut by_event = BTreeMap::<u64, Vec<Delivery>>::new();
    for part in seqs.chunks(ASKED_MAX) {
        let filter = DeliveryFilter { event_seqs: part.to_vec(), ..Default::default() };
        for mut found in fetch(client, &filter, PageArgs { limit: 0 }, true).await? {
            if found.status() == DeliveryStatus::Cancelled {
                // Its attempts say what went wrong.
                let request = delivery::GetRequest { delivery_id: found.delivery_id.clone(), include_output: false };
                let answer = client.deliveries().get(request).await.map_err(client.failed())?.into_inner();
                found = answer.delivery.unwrap_or(found);
            }
            if let Some(event) = &found.event {
                by_event.entry(event.seq).or_default().push(found);
            }
        }
    }
    // They come with the highest ordinal first.
    by_event.values_mut().for_each(|found| found.reverse());
    Ok(by_event)
}

/// `succeeded`, or how it failed and what was said.
fn outcome(of: &Delivery) -> String {
    let failed = of.attempts.iter().rev().find(|attempt| attempt.failure() != FailureKind::Unspecified);
    match (of.status(), failed) {
        (DeliveryStatus::Cancelled, Some(attempt)) => {
            let kind = short_word(attempt.failure().as_str_name(), "FAILURE_KIND_");
            let said = if attempt.message.is_empty() { String::new() } else { format!(": {}", attempt.message) };
            format!("failed ({kind}{said})")
        }
        (DeliveryStatus::Cancelled, None) => "cancelled before it was begun".to_owned(),
        (DeliveryStatus::Parked, _) => format!("parked ({})", park_text(of)),
        _ => status_word(of),
    }
}

fn took_ms(of: &Delivery) -> Option<u64> {
    let at = |at: &Option<prost_types::Timestamp>| convert::timestamp(at.as_ref()?, "at").ok();
    let (leased, settled) = (at(&of.leased_at)?, at(&of.settled_at)?);
    Some(u64::try_from(settled.since(leased).as_millis()).unwrap_or(u64::MAX))
}

fn cost_micros(of: &Delivery) -> u64 {
    of.usage.iter().fold(0, |sum, usage| sum.saturating_add(usage.cost_micros))
}

/// The output in short.
fn short(of: &Delivery) -> String {
    let output = render::json(of)["output"]["data"].clone();
    let text = output["analysis"].as_str().map_or_else(|| output.to_string(), str::to_owned);
    if output.is_null() { String::new() } else { text }
}

fn as_json(of: &Delivery) -> Value {
    json!({
        "delivery": of.delivery_id,
        "general": general_text(of),
        "outcome": outcome(of),
        "took_ms": took_ms(of),
        "cost_micros": cost_micros(of),
        "output": render::json(of)["output"].clone(),
    })
}

fn show_accepted(id: &str, events: &[ReplayedEvent], summary: &ReplaySummary, global: &Global) {
    if global.output.is_json() {
        let events: Vec<_> = events.iter().map(render::json).collect();
        render::print_json(&json!({ "id": id, "events": events, "summary": render::json(summary) }));
        return;
    }
    let mut table = Table::new(&[">event", "kind", "subject", ">replayed as", "delivery", ""]);
    for event in events {
        let ReplayedEvent { seq, kind, subject, replay_seq, delivery_id, duplicate, skipped } = event;
        let again = if *replay_seq > 0 { replay_seq.to_string() } else { String::new() };
        let note = match (skipped.is_empty(), duplicate) {
            (false, _) => format!("skipped: {skipped}"),
            (true, true) => "accepted before".to_owned(),
            (true, false) => String::new(),
        };
        table.row(vec![seq.to_string(), kind.clone(), subject.clone(), again, delivery_id.clone(), note]);
    }
    if !table.is_empty() {
        render::print(&table.text());
    }
    let ReplaySummary { replayed, duplicates, skipped, budget } = summary;
    let budget = if budget.is_empty() { String::new() } else { format!(", within budget {budget}") };
    render::print(&format!("replay {id}: {replayed} replayed ({duplicates} before), {skipped} skipped{budget}"));
}

type Sides<'a> = (&'a BTreeMap<u64, Vec<Delivery>>, &'a BTreeMap<u64, Vec<Delivery>>);

fn show_pairs(id: &str, events: &[ReplayedEvent], (then, again): Sides<'_>) {
    let mut table = Table::new(&[
        ">event", "kind", "then by", "outcome", ">took", ">cost", "output", "again by", "outcome", ">took", ">cost",
        "output",
    ]);
    let cells = |of: Option<&Delivery>| match of {
        None => vec![String::new(); 5],
        Some(of) => vec![
            general_text(of),
            render::clip(&outcome(of), 40),
            took_ms(of).map_or_else(String::new, |ms| short_span(Duration::from_millis(ms))),
            cost(cost_micros(of)),
            render::clip(&short(of), 36),
        ],
    };
    let none = Vec::new();
    let (mut of_then, mut of_again) = (Side::default(), Side::default());
    for event in events {
        if event.replay_seq == 0 {
            let mut row = vec![event.seq.to_string(), event.kind.clone(), format!("skipped: {}", event.skipped)];
            row.resize(12, String::new());
            table.row(row);
            continue;
        }
        let (left, right) = (then.get(&event.seq).unwrap_or(&none), again.get(&event.replay_seq).unwrap_or(&none));
        left.iter().for_each(|of| of_then.add(of));
        right.iter().for_each(|of| of_again.add(of));
        for row in 0..left.len().max(right.len()).max(1) {
            let names = if row == 0 { [event.seq.to_string(), event.kind.clone()] } else { Default::default() };
            let cells = names.into_iter().chain(cells(left.get(row))).chain(cells(right.get(row)));
            table.row(cells.collect());
        }
    }
    render::print(&table.text());
    render::print("");
    render::print(&format!("replay {id}: then {}; again {}", of_then.text(), of_again.text()));
}

/// One side, summed up.
#[derive(Default)]
struct Side {
    deliveries: u64,
    succeeded: u64,
    took_ms: Vec<u64>,
    cost: u64,
    /// How many are parked, and what the first of them waits for.
    parked: u64,
    waits: String,
}

impl Side {
    fn add(&mut self, of: &Delivery) {
        self.deliveries += 1;
        self.succeeded += u64::from(of.status() == DeliveryStatus::Succeeded);
        self.took_ms.extend(took_ms(of).filter(|_| of.status() == DeliveryStatus::Succeeded));
        self.cost = self.cost.saturating_add(cost_micros(of));
        if of.status() == DeliveryStatus::Parked {
            self.parked += 1;
            if self.waits.is_empty() {
                self.waits.clone_from(&of.park_message);
            }
        }
    }

    fn text(mut self) -> String {
        self.took_ms.sort_unstable();
        let median = self.took_ms.get(self.took_ms.len() / 2);
        let median =
            median.map_or_else(String::new, |ms| format!(", median {}", short_span(Duration::from_millis(*ms))));
        let parked = match self.parked {
            0 => String::new(),
            parked if self.waits.is_empty() => format!(", {parked} parked"),
            parked => format!(", {parked} parked: {}", self.waits),
        };
        format!("{} of {} succeeded{median}, cost {}{parked}", self.succeeded, self.deliveries, cost(self.cost))
    }
}
