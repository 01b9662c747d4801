//! The kill loop: under load, control planes and sidecars are killed with -9 at random times and started again.
//!
//! Invariant of the product that is judged here: what was acknowledged is settled in the end, each delivery exactly once, and no
//! general is started twice under one token.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mindos_proto::delivery::v1::delivery_service_client::DeliveryServiceClient;
use mindos_proto::delivery::v1::redrive_request::Target;
use mindos_proto::delivery::v1::{DeliveryFilter, DeliveryStatus, RedriveRequest};
use mindos_sdk::Channel;
use serde_json::{Value, json};

use crate::chance::Chance;
use crate::client;
use crate::general::{self, Notes};
use crate::process::Process;
use crate::world::World;

/// How a run goes.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How often the control plane is killed.
    pub control_planes: u32,
    /// How often a sidecar is killed.
    pub sidecars: u32,
    /// Where chance begins.
    pub seed: u64,
    /// Publishers at the same time.
    pub publishers: u32,
    /// How long each rests between two events, in ms.
    pub rest: u64,
}

/// What the publishers were told.
#[derive(Debug, Default)]
struct Acks {
    /// Sequence acknowledged by event id.
    by_id: Mutex<BTreeMap<String, u64>>,
    stop: AtomicBool,
}

/// Clusters and the sidecars of each.
const FLEET: [(&str, &str); 4] = [("east", "east-0"), ("east", "east-1"), ("west", "west-0"), ("west", "west-1")];
const SLOTS: u32 = 8;
const LANES: u64 = 64;
const SOURCE: &str = "/kills";

/// Runs the plan; returns the figures.
///
/// # Errors
/// When a promise is broken, naming it, or the run cannot go on.
pub async fn run(plan: Plan) -> Result<Value> {
    let begun = Instant::now();
    let mut chance = Chance::new(plan.seed);
    let notes = Notes::new(2, 40);
    let mut world = World::started("kills", &[]).await?;
    let channel = world.channel()?;
    client::broadcast_to_workers(&channel).await?;
    let url = general::serve(notes.clone()).await?;
    let mut sidecars = Vec::new();
    for (cluster, instance) in FLEET {
        sidecars.push(world.sidecar(cluster, instance, SLOTS, &url, None)?);
    }
    world.fleet(2, FLEET.len()).await?;

    let acks = Arc::new(Acks::default());
    let publishers: Vec<_> = (0..plan.publishers)
        .map(|number| tokio::spawn(publish(channel.clone(), Arc::clone(&acks), number, plan.rest)))
        .collect();

    // Which is killed when: drawn ahead, so that the seed alone says it.
    let mut left = (plan.control_planes, plan.sidecars);
    let mut restarts = Vec::new();
    let mut peak = 0;
    while left.0 + left.1 > 0 {
        tokio::time::sleep(chance.millis(100, 900)).await;
        if chance.below(u64::from(left.0 + left.1)) < u64::from(left.0) {
            left.0 -= 1;
            let plane = world.take_plane()?;
            peak = peak.max(plane.memory_peak()?);
            plane.kill()?;
            tokio::time::sleep(chance.millis(0, 300)).await;
            restarts.push(world.start_plane().await?.as_millis());
        } else {
            left.1 -= 1;
            let which = usize::try_from(chance.below(FLEET.len() as u64)).unwrap_or(0);
            let (cluster, instance) = FLEET[which];
            kill_sidecar(&mut sidecars, which)?;
            tokio::time::sleep(chance.millis(0, 300)).await;
            sidecars.insert(which, world.sidecar(cluster, instance, SLOTS, &url, None)?);
        }
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    acks.stop.store(true, Ordering::Relaxed);
    for publisher in publishers {
        publisher.await.context("a publisher panicked")??;
    }
    let published_in = begun.elapsed();
    let acked = acks.by_id.lock().unwrap_or_else(PoisonError::into_inner).clone();

    let mut account = world.settled(acked.len(), Duration::from_secs(180)).await?;
    let parked = account.parked.len();
    if parked > 0 {
        redrive(&channel).await?;
        account = world.settled(acked.len(), Duration::from_secs(180)).await?;
        ensure!(account.parked.is_empty(), "{} deliveries parked again", account.parked.len());
    }
    peak = peak.max(world.plane()?.memory_peak()?);

    let lost = acked
        .iter()
        .filter(|(id, seq)| account.events.get(&(SOURCE.to_owned(), (*id).clone())) != Some(&vec![**seq]))
        .count();
    let twice = account.settled_twice();
    let jobs = notes.by_job();
    let started_twice: Vec<_> = jobs.iter().filter(|(_, starts)| **starts > 1).map(|(job, _)| job.clone()).collect();
    let log_end = world.plane()?.log_end();
    drop(sidecars);
    world.take_plane()?.kill()?;
    let records = world.verify()?;

    restarts.sort_unstable();
    let report = json!({
        "plan": {"kills_of_control_plane": plan.control_planes, "kills_of_sidecars": plan.sidecars, "seed": plan.seed},
        "seconds": begun.elapsed().as_secs(),
        "events_acknowledged": acked.len(),
        "events_per_second": acked.len() as u128 * 1000 / published_in.as_millis().max(1),
        "deliveries": account.deliveries.len(),
        "acknowledged_and_lost": lost,
        "accepted_twice": account.accepted_twice(),
        "settled_twice": twice.len(),
        "unsettled": account.unsettled(),
        "parked_and_redriven": parked,
        "leases": account.leases,
        "attempts_without_outcome": account.attempts_ended.len(),
        "late_results_refused": account.refused,
        "starts_at_generals": jobs.values().sum::<u64>(),
        "jobs_started_twice": started_twice.len(),
        "epochs": account.epochs,
        "restart_to_ready_ms": {"p50": restarts.get(restarts.len() / 2), "max": restarts.last()},
        "control_plane_peak_bytes": peak,
        "ledger_records_verified": records,
    });
    ensure!(lost == 0, "acknowledged events were lost: {report}; the log ends: {log_end}");
    ensure!(account.accepted_twice() == 0, "events were accepted twice: {report}");
    ensure!(twice.is_empty(), "settled twice: {twice:?}: {report}");
    ensure!(account.unsettled() == 0, "not settled: {report}");
    ensure!(started_twice.is_empty(), "started twice under one token: {started_twice:?}: {report}");
    ensure!(account.epochs == u64::from(plan.control_planes) + 1, "one epoch for each start: {report}");
    Ok(report)
}

fn kill_sidecar(sidecars: &mut Vec<Process>, which: usize) -> Result<()> {
    sidecars.remove(which).kill()
}

async fn publish(channel: Channel, acks: Arc<Acks>, number: u32, rest: u64) -> Result<()> {
    let mut sent: u64 = 0;
    while !acks.stop.load(Ordering::Relaxed) {
        sent += 1;
        let id = format!("{number}-{sent}");
        let lane = format!("lane-{}", (u64::from(number) * 7 + sent) % LANES);
        let event = client::event(SOURCE, &id, "work", &lane);
        let acked = client::publish(&channel, event, Duration::from_secs(60)).await?;
        acks.by_id.lock().unwrap_or_else(PoisonError::into_inner).insert(id, acked.seq);
        tokio::time::sleep(Duration::from_millis(rest)).await;
    }
    Ok(())
}

/// Puts everything parked back: an attempt is used up by each kill of the sidecar that held it.
async fn redrive(channel: &Channel) -> Result<()> {
    let filter = DeliveryFilter { statuses: vec![DeliveryStatus::Parked.into()], ..DeliveryFilter::default() };
    let request = RedriveRequest { target: Some(Target::Filter(filter)), ..RedriveRequest::default() };
    DeliveryServiceClient::new(channel.clone()).redrive(request).await.context("failed to redrive")?;
    Ok(())
}
