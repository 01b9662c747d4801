//! Publishers for load: a stream with a window of batches, or single calls with many in flight; as fast as it goes, or at a
//! rate that does not wait for answers.
//!
//! Invariant: under a rate every event has a time at which it is due, whether or not earlier ones were answered; what is late
//! is sent late and counted from when it was due.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::uri::PathAndQuery;
use mindos_proto::event::v1::{PublishResponse, PublishStreamResponse};
use mindos_proto::wire::{PublishRequestWire, PublishStreamRequestWire};
use mindos_sdk::Channel;
use serde_json::json;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::client::Grpc;
use tonic_prost::ProstCodec;

use super::clock_ns;
use super::event::Events;
use super::histogram::Latencies;
use super::worker::Talk;
use crate::failure::Failure;
use crate::site::Site;

/// Single calls that may be in flight under a rate.
const OPEN_LOOP_CALLS_MAX: usize = 20_000;
/// Due times that may wait for the publisher.
const DUE_MAX: usize = 1_000_000;

#[derive(Clone, Debug, Args)]
pub(crate) struct PublisherArgs {
    /// The control plane's API.
    #[arg(long)]
    url: String,
    /// Roots to trust, for an address with `https`.
    #[arg(long)]
    ca: Option<PathBuf>,
    /// File with the token to call with.
    #[arg(long)]
    token_file: Option<PathBuf>,
    /// For how long.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// How many events at most; 0 has no limit.
    #[arg(long, default_value_t = 0)]
    count: u64,
    /// Events a second, whatever the answers do; 0 goes as fast as they come.
    #[arg(long, default_value_t = 0.0)]
    rate: f64,
    /// Events of a batch at most.
    #[arg(long, default_value_t = 64)]
    batch: usize,
    /// Batches without an answer, 1 or 2.
    #[arg(long, default_value_t = 2)]
    window: usize,
    /// One call for each event instead of a stream.
    #[arg(long)]
    unary: bool,
    /// Calls without an answer.
    #[arg(long, default_value_t = 64)]
    in_flight: usize,
    /// Bytes of data.
    #[arg(long, default_value_t = 1024)]
    payload: usize,
    /// Lanes to share; 0 gives each event one of its own.
    #[arg(long, default_value_t = 0)]
    lanes: u64,
    /// Kind of the events.
    #[arg(long, default_value = "bench")]
    kind: String,
    /// Number of this publisher.
    #[arg(long, default_value_t = 0)]
    number: u16,
}

/// What a publisher did.
#[derive(Debug)]
struct Did {
    accepted: u64,
    refused: u64,
    parked: u64,
    last_error: String,
    latencies: Latencies,
}

impl Did {
    fn new() -> Did {
        Did { accepted: 0, refused: 0, parked: 0, last_error: String::new(), latencies: Latencies::new() }
    }
}

pub(super) async fn run(args: PublisherArgs) -> Result<(), Failure> {
    let events = Events::new(&args.kind, args.payload, args.lanes, args.number)?;
    let token = args.token_file.as_deref().map(crate::contexts::token_in).transpose()?;
    let site = Site { endpoint: args.url.clone(), ca: args.ca.clone(), token, tenant: None };
    let channel = site.dialer()?.connect().await.map_err(|_| Failure::unreachable(&args.url))?;
    let mut talk = Talk::new();
    talk.ready();
    talk.hear("go").await;
    let start = clock_ns();
    let plan = Plan {
        over_ns: start + (args.seconds * 1e9) as u64,
        count_max: if args.count == 0 { u64::MAX } else { args.count },
    };
    let bytes = events.len();
    let did = match args.unary {
        false => stream(&args, channel, events, plan).await?,
        true => unary(&args, channel, events, plan).await?,
    };
    talk.done(json!({
        "accepted": did.accepted,
        "refused": did.refused,
        "parked": did.parked,
        "last_error": did.last_error,
        "event_bytes": bytes,
        "start_ns": start,
        "end_ns": clock_ns(),
        "latencies": did.latencies.to_pairs(),
    }));
    talk.hear("stop").await;
    talk.done(json!({}));
    Ok(())
}

/// When to stop.
#[derive(Clone, Copy, Debug)]
struct Plan {
    over_ns: u64,
    count_max: u64,
}

impl Plan {
    fn is_over(self, count: u64) -> bool {
        count >= self.count_max || clock_ns() >= self.over_ns
    }
}

/// Says when each event is due, from a thread of its own: the runtime's timers are too coarse for less than a millisecond.
fn pace(rate: f64, plan: Plan) -> mpsc::Receiver<u64> {
    let (sender, due) = mpsc::channel(DUE_MAX);
    std::thread::spawn(move || {
        let start = clock_ns();
        let step = 1e9 / rate;
        for number in 0..plan.count_max {
            let at = start + (number as f64 * step) as u64;
            if at >= plan.over_ns {
                return;
            }
            let now = clock_ns();
            if at > now {
                std::thread::sleep(Duration::from_nanos(at - now));
            }
            if sender.blocking_send(at).is_err() {
                return;
            }
        }
    });
    due
}

/// The same for another publisher.
#[cfg(feature = "nats")]
pub(super) fn pace_until(rate: f64, over_ns: u64) -> mpsc::Receiver<u64> {
    pace(rate, Plan { over_ns, count_max: u64::MAX })
}

/// One stream of batches.
struct Batches {
    requests: mpsc::Sender<PublishStreamRequestWire>,
    answers: Streaming<PublishStreamResponse>,
    /// Due times of the batches without an answer.
    open: VecDeque<Vec<u64>>,
    sent: u64,
    did: Did,
}

impl Batches {
    async fn send(&mut self, events: Vec<Bytes>, due: Vec<u64>) -> Result<(), Failure> {
        self.sent += 1;
        self.open.push_back(due);
        let request = PublishStreamRequestWire { batch: self.sent, events, explain: false };
        self.requests.send(request).await.map_err(|_| Failure::world("the publish stream was closed"))
    }

    /// Counts an answer that has come.
    fn take(&mut self, answer: Result<Option<PublishStreamResponse>, tonic::Status>) -> Result<(), Failure> {
        let answer = answer.map_err(|status| Failure::world(format!("the publish stream broke: {status}")))?;
        let Some(answer) = answer else { return Err(Failure::world("the publish stream ended before its answers")) };
        let now = clock_ns();
        let due = self.open.pop_front().unwrap_or_default();
        for (result, due) in answer.results.iter().zip(due) {
            match &result.error {
                Some(error) => {
                    self.did.refused += 1;
                    self.did.last_error.clone_from(&error.message);
                }
                None => {
                    self.did.accepted += 1;
                    self.did.parked +=
                        result.deliveries.iter().filter(|planned| planned.park_reason != 0).count() as u64;
                    self.did.latencies.record_ns(now.saturating_sub(due));
                }
            }
        }
        Ok(())
    }
}

async fn stream(args: &PublisherArgs, channel: Channel, mut events: Events, plan: Plan) -> Result<Did, Failure> {
    let (requests, receiver) = mpsc::channel(args.window.max(1));
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.map_err(|_| Failure::unreachable(&args.url))?;
    let path = PathAndQuery::from_static("/mindos.event.v1.EventService/PublishStream");
    let codec = ProstCodec::<PublishStreamRequestWire, PublishStreamResponse>::default();
    let request = tonic::Request::new(ReceiverStream::new(receiver));
    let answers =
        grpc.streaming(request, path, codec).await.map_err(|status| Failure::from_status(&status, &args.url))?;
    let mut batches =
        Batches { requests, answers: answers.into_inner(), open: VecDeque::new(), sent: 0, did: Did::new() };
    if args.rate > 0.0 {
        let mut due = pace(args.rate, plan);
        let mut pending = Vec::new();
        let mut paced = true;
        while paced || !pending.is_empty() || !batches.open.is_empty() {
            if !pending.is_empty() && batches.open.len() < args.window {
                let take = pending.len().min(1000);
                let times: Vec<u64> = pending.drain(..take).collect();
                let made = times.iter().map(|due| events.next(*due)).collect();
                batches.send(made, times).await?;
                continue;
            }
            tokio::select! {
                answer = batches.answers.message(), if !batches.open.is_empty() => batches.take(answer)?,
                more = due.recv_many(&mut pending, 1000), if paced => paced = more > 0,
            }
        }
        return Ok(batches.did);
    }
    loop {
        while batches.open.len() < args.window && !plan.is_over(events.count()) {
            let now = clock_ns();
            let made: Vec<Bytes> = (0..args.batch).map(|_| events.next(now)).collect();
            batches.send(made, vec![now; args.batch]).await?;
        }
        if batches.open.is_empty() {
            return Ok(batches.did);
        }
        let answer = batches.answers.message().await;
        batches.take(answer)?;
    }
}

/// Publishes one event with a call of its own.
async fn call(channel: Channel, event: Bytes, due: u64, did: &Mutex<Did>) {
    let mut grpc = Grpc::new(channel);
    let answer = match grpc.ready().await {
        Ok(()) => {
            let path = PathAndQuery::from_static("/mindos.event.v1.EventService/Publish");
            let codec = ProstCodec::<PublishRequestWire, PublishResponse>::default();
            let request = PublishRequestWire { event, explain: false };
            grpc.unary(tonic::Request::new(request), path, codec).await.map(|_| ()).map_err(|status| status.to_string())
        }
        Err(error) => Err(error.to_string()),
    };
    let mut did = did.lock().unwrap_or_else(PoisonError::into_inner);
    match answer {
        Ok(()) => {
            did.accepted += 1;
            did.latencies.record_ns(clock_ns().saturating_sub(due));
        }
        Err(error) => {
            did.refused += 1;
            did.last_error = error;
        }
    }
}

async fn unary(args: &PublisherArgs, channel: Channel, mut events: Events, plan: Plan) -> Result<Did, Failure> {
    let did = Arc::new(Mutex::new(Did::new()));
    if args.rate > 0.0 {
        let mut due = pace(args.rate, plan);
        let places = Arc::new(Semaphore::new(OPEN_LOOP_CALLS_MAX));
        while let Some(at) = due.recv().await {
            let Ok(place) = places.clone().acquire_owned().await else { break };
            let (channel, event, did) = (channel.clone(), events.next(at), did.clone());
            tokio::spawn(async move {
                call(channel, event, at, &did).await;
                drop(place);
            });
        }
        let all = u32::try_from(OPEN_LOOP_CALLS_MAX).unwrap_or(u32::MAX);
        let _ = places.acquire_many(all).await;
    } else {
        let events = Arc::new(Mutex::new(events));
        let callers = (0..args.in_flight.max(1)).map(|_| {
            let (channel, events, did) = (channel.clone(), events.clone(), did.clone());
            tokio::spawn(async move {
                loop {
                    let (event, now) = {
                        let mut events = events.lock().unwrap_or_else(PoisonError::into_inner);
                        if plan.is_over(events.count()) {
                            return;
                        }
                        let now = clock_ns();
                        (events.next(now), now)
                    };
                    call(channel.clone(), event, now, &did).await;
                }
            })
        });
        for caller in callers.collect::<Vec<_>>() {
            let _ = caller.await;
        }
    }
    let did = std::mem::replace(&mut *did.lock().unwrap_or_else(PoisonError::into_inner), Did::new());
    Ok(did)
}
