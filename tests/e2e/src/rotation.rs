//! The rotation loop: under load, certificates of agents are renewed again and again, clocks are stepped on either side, and the
//! authority changes its key.
//!
//! Invariant of the product that is judged here: no stream is lost to any of it, nothing that was acknowledged is lost or settled twice,
//! and no general is started twice under one token.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mindos_proto::fleet::v1::fleet_service_client::FleetServiceClient;
use mindos_proto::fleet::v1::{ListInstancesRequest, Liveness};
use mindos_sdk::{Channel, Roots, Tls};
use serde_json::{Value, json};

use crate::access;
use crate::client;
use crate::faketime::Clock;
use crate::general::{self, Notes};
use crate::process::Process;
use crate::world::{Joining, World};

/// How a run goes.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How long it is under load.
    pub load: Duration,
    /// Sidecars, each a process of its own.
    pub sidecars: usize,
    /// How long a certificate lives.
    pub life: Duration,
    /// Publishers at the same time.
    pub publishers: u32,
    /// How long each rests between two events, in ms.
    pub rest: u64,
}

const SOURCE: &str = "/rotation";
const LANES: u64 = 256;
const SLOTS: u32 = 2;
const HOUR: i64 = 3600;

/// Runs the plan; returns the figures.
///
/// # Errors
/// When a promise is broken, naming it, or the run cannot go on.
pub async fn run(plan: Plan) -> Result<Value> {
    let begun = Instant::now();
    let notes = Notes::new(2, 40);
    let mut world = World::secure("rotation", plan.life, &[])?;
    let plane_clock = Clock::new(world.folder(), "plane")?;
    world.plane_environment(plane_clock.as_ref().map(Clock::environment).unwrap_or_default());
    world.start_plane().await?;
    let ca = access::copy_roots(&world, "ca.pem")?;
    let uses = u32::try_from(plan.sidecars)?;
    let token = access::join_token(&world, "token", "east", uses, Duration::from_secs(3600)).await?;
    let tls = Tls::new(&Roots::file(&world.roots())?)?;
    let channel = client::dial(world.dialer()?.tls(tls.clone()).token(&world.admin_token()?)?)?;
    client::broadcast_to_workers(&channel).await?;
    let url = general::serve(notes.clone()).await?;

    let (mut sidecars, mut clocks) = (Vec::new(), Vec::new());
    for number in 0..plan.sidecars {
        let instance = format!("east-{number}");
        // A quarter of them have a clock that will be stepped.
        let clock = if number % 4 == 0 { Clock::new(world.folder(), &instance)? } else { None };
        let mut environment = clock.as_ref().map(Clock::environment).unwrap_or_default();
        environment.push("MINDOS_LOG=info,mindos_sdk::identity=debug".to_owned());
        clocks.extend(clock);
        let (token, ca) = (token.as_path(), ca.as_path());
        let joining = Joining {
            cluster: "east",
            instance: &instance,
            slots: SLOTS,
            url: &url,
            token,
            ca,
            more: &[],
            environment: &environment,
        };
        sidecars.push((instance.clone(), world.joining_sidecar(&joining)?));
    }
    let before = sessions(&channel, plan.sidecars, Duration::from_secs(180)).await?;
    let joined_in = begun.elapsed();

    let acks = Arc::new(Acks::default());
    let publishers: Vec<_> = (0..plan.publishers)
        .map(|number| tokio::spawn(publish(channel.clone(), Arc::clone(&acks), number, plan.rest)))
        .collect();
    let loaded = Instant::now();
    let stepped = plane_clock.is_some();
    until(loaded, plan.load / 5).await;
    for (number, clock) in clocks.iter().enumerate() {
        clock.step(if number % 2 == 0 { HOUR } else { -HOUR })?;
    }
    until(loaded, plan.load * 2 / 5).await;
    if let Some(clock) = &plane_clock {
        clock.step(HOUR)?;
    }
    until(loaded, plan.load / 2).await;
    access::rotate(&channel).await?;
    tls.trust(&Roots::file(&world.roots())?)?;
    until(loaded, plan.load * 7 / 10).await;
    if let Some(clock) = &plane_clock {
        clock.step(-HOUR)?;
    }
    until(loaded, plan.load * 4 / 5).await;
    for clock in &clocks {
        clock.step(0)?;
    }
    until(loaded, plan.load).await;

    acks.stop.store(true, Ordering::Relaxed);
    for publisher in publishers {
        publisher.await.context("a publisher panicked")??;
    }
    let acked = acks.by_id.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let account = world.settled(acked.len(), Duration::from_secs(180)).await?;
    let after = sessions(&channel, plan.sidecars, Duration::from_secs(30)).await?;
    let joins = access::joins(&channel).await?;
    for (instance, sidecar) in &mut sidecars {
        let ended = sidecar.ended()?;
        ensure!(ended.is_none(), "{instance} ended with {ended:?}: {}", sidecar.log_end());
    }

    let lost = acked
        .iter()
        .filter(|(id, seq)| account.events.get(&(SOURCE.to_owned(), (*id).clone())) != Some(&vec![**seq]))
        .count();
    let streams_lost = before.iter().filter(|(instance, session)| after.get(*instance) != Some(session)).count();
    let twice = account.settled_twice();
    let jobs = notes.by_job();
    let started_twice: Vec<_> = jobs.iter().filter(|(_, starts)| **starts > 1).map(|(job, _)| job.clone()).collect();
    let renewals =
        sidecars.iter().map(|(instance, _)| renewals(world.folder(), instance)).collect::<Result<Vec<_>>>()?;
    let peak = world.plane()?.memory_peak()?;
    drop(sidecars);
    world.take_plane()?.kill()?;
    let records = world.verify()?;

    let report = json!({
        "plan": {
            "load_seconds": plan.load.as_secs(),
            "sidecars": plan.sidecars,
            "certificate_life_seconds": plan.life.as_secs(),
            "clocks_stepped_by_an_hour": if stepped { clocks.len() + 1 } else { 0 },
        },
        "seconds": begun.elapsed().as_secs(),
        "all_at_work_after_ms": joined_in.as_millis(),
        "joined": joins.joined.len(),
        "joins_refused": joins.refused.len(),
        "keys_of_the_authority": joins.authority,
        "renewals": {"all": renewals.iter().sum::<usize>(), "least_of_one": renewals.iter().min()},
        "streams_lost": streams_lost,
        "events_acknowledged": acked.len(),
        "events_per_second": acked.len() as u128 * 1000 / plan.load.as_millis().max(1),
        "deliveries": account.deliveries.len(),
        "acknowledged_and_lost": lost,
        "accepted_twice": account.accepted_twice(),
        "settled_twice": twice.len(),
        "unsettled": account.unsettled(),
        "attempts_without_outcome": account.attempts_ended.len(),
        "late_results_refused": account.refused,
        "jobs_started_twice": started_twice.len(),
        "control_plane_peak_bytes": peak,
        "ledger_records_verified": records,
    });
    ensure!(streams_lost == 0, "streams were lost: {report}");
    ensure!(joins.joined.len() == plan.sidecars, "each joins once: {report}");
    ensure!(joins.authority >= 1, "the authority was rotated: {report}");
    let least = usize::try_from(plan.load.as_secs() / plan.life.as_secs())?;
    ensure!(renewals.iter().all(|count| *count >= least), "each renews at least {least} times: {report}");
    ensure!(lost == 0, "acknowledged events were lost: {report}");
    ensure!(account.accepted_twice() == 0, "events were accepted twice: {report}");
    ensure!(twice.is_empty(), "settled twice: {twice:?}: {report}");
    ensure!(account.unsettled() == 0, "not settled: {report}");
    ensure!(account.attempts_ended.is_empty(), "attempts were lost: {:?}: {report}", account.attempts_ended);
    ensure!(started_twice.is_empty(), "started twice under one token: {started_twice:?}: {report}");
    Ok(report)
}

/// What the publishers were told.
#[derive(Debug, Default)]
struct Acks {
    by_id: Mutex<BTreeMap<String, u64>>,
    stop: AtomicBool,
}

async fn publish(channel: Channel, acks: Arc<Acks>, number: u32, rest: u64) -> Result<()> {
    let mut sent: u64 = 0;
    while !acks.stop.load(Ordering::Relaxed) {
        sent += 1;
        let id = format!("{number}-{sent}");
        let lane = format!("lane-{}", (u64::from(number) * 7 + sent) % LANES);
        let acked =
            client::publish(&channel, client::event(SOURCE, &id, "work", &lane), Duration::from_secs(60)).await?;
        acks.by_id.lock().unwrap_or_else(PoisonError::into_inner).insert(id, acked.seq);
        tokio::time::sleep(Duration::from_millis(rest)).await;
    }
    Ok(())
}

/// Session of each instance, once so many are connected.
///
/// # Errors
/// When it takes longer than `time`.
pub async fn sessions(channel: &Channel, instances: usize, time: Duration) -> Result<BTreeMap<String, String>> {
    let begun = Instant::now();
    loop {
        let request = ListInstancesRequest { page_size: 1000, ..ListInstancesRequest::default() };
        let listed = FleetServiceClient::new(channel.clone()).list_instances(request).await;
        let listed = listed.map(|answer| answer.into_inner().instances).unwrap_or_default();
        let live = listed.into_iter().filter(|one| one.liveness == i32::from(Liveness::Connected));
        let sessions: BTreeMap<_, _> = live.map(|one| (one.instance_id, one.session)).collect();
        if sessions.len() >= instances {
            return Ok(sessions);
        }
        ensure!(begun.elapsed() < time, "{} of {instances} are connected after {time:?}", sessions.len());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn renewals(folder: &Path, instance: &str) -> Result<usize> {
    Ok(access::said(folder, instance)?.lines().filter(|line| line.contains("certificate renewed")).count())
}

async fn until(begun: Instant, at: Duration) {
    tokio::time::sleep(at.saturating_sub(begun.elapsed())).await;
}

/// A fleet of one process, for tests that need no more.
///
/// # Errors
/// When it does not start.
pub fn sidecar(world: &World, instance: &str, url: &str, token: &Path, ca: &Path, more: &[&str]) -> Result<Process> {
    let joining = Joining { cluster: "east", instance, slots: SLOTS, url, token, ca, more, environment: &[] };
    world.joining_sidecar(&joining)
}
