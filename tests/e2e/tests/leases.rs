//! Leases over the real stream: what becomes of work when one side goes away.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mindos_e2e::client;
use mindos_e2e::general::{self, Notes};
use mindos_e2e::proxy::Proxy;
use mindos_e2e::world::World;
use rustix::process::Signal;

/// Longer than any test runs.
const FOREVER_MS: u64 = 3_600_000;
const SETTLE_MAX: Duration = Duration::from_secs(90);

/// Publishes `count` events, each on a lane of its own.
async fn publish(world: &World, count: usize) -> Result<()> {
    let channel = world.channel()?;
    for number in 0..count {
        let event = client::event("/leases", &number.to_string(), "work", &format!("lane-{number}"));
        client::publish(&channel, event, Duration::from_secs(10)).await?;
    }
    Ok(())
}

/// Waits until so many starts were seen in all.
async fn started(notes: &Notes, count: usize) -> Result<()> {
    let begun = Instant::now();
    while notes.starts().len() < count {
        ensure!(begun.elapsed() < Duration::from_secs(20), "{} of {count} started", notes.starts().len());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

async fn work_of_a_lost_instance_moves(name: &str, signal: Signal) -> Result<()> {
    let notes = Notes::new(FOREVER_MS, FOREVER_MS);
    let world = World::started(name, &[]).await?;
    client::broadcast_to_workers(&world.channel()?).await?;
    let url = general::serve(notes.clone()).await?;
    // All of the work is at the one that is lost; the other comes after.
    let lost = world.sidecar("east", "east-0", 8, &url, None)?;
    world.fleet(1, 1).await?;
    publish(&world, 8).await?;
    started(&notes, 8).await?;
    let other = world.sidecar("east", "east-1", 8, &url, None)?;
    world.fleet(1, 2).await?;
    let held: BTreeSet<_> = notes.starts().into_iter().map(|start| start.delivery).collect();
    ensure!(held.len() == 8 && notes.starts().iter().all(|start| start.instance == "east-0"), "eight at the first");

    notes.set_time(1, 1);
    lost.signal(signal)?;
    let begun = Instant::now();
    let mut moved = BTreeSet::new();
    while moved.len() < held.len() {
        ensure!(
            begun.elapsed() < Duration::from_secs(30),
            "{} of {} ran elsewhere within 30 s",
            moved.len(),
            held.len()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
        let again = notes.starts().into_iter().skip(8).filter(|start| start.instance == "east-1");
        moved = again.map(|start| start.delivery).filter(|delivery| held.contains(delivery)).collect();
    }
    println!("{} deliveries of the lost instance ran elsewhere after {:?}", moved.len(), begun.elapsed());

    ensure!(notes.by_job().values().all(|starts| *starts == 1), "no job started twice");
    drop((lost, other));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn work_of_a_killed_instance_runs_elsewhere_within_30_s() -> Result<()> {
    work_of_a_lost_instance_moves("killed", Signal::KILL).await
}

#[tokio::test(flavor = "multi_thread")]
async fn work_of_a_silent_instance_runs_elsewhere_within_30_s() -> Result<()> {
    work_of_a_lost_instance_moves("silent", Signal::STOP).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_boot_back_within_its_lease_keeps_its_work() -> Result<()> {
    let notes = Notes::new(14_000, 14_000);
    let world = World::started("back", &[]).await?;
    client::broadcast_to_workers(&world.channel()?).await?;
    let url = general::serve(notes.clone()).await?;
    let proxy = Proxy::start(world.agents().to_owned()).await?;
    let sidecar = world.sidecar("east", "east-0", 4, &url, Some(proxy.address()))?;
    world.fleet(1, 1).await?;
    publish(&world, 4).await?;
    started(&notes, 4).await?;

    proxy.cut();
    tokio::time::sleep(Duration::from_secs(5)).await;
    proxy.mend();

    let account = world.settled(4, SETTLE_MAX).await?;
    ensure!(account.unsettled() == 0 && account.settled_twice().is_empty(), "each settled once");
    ensure!(account.attempts_ended.is_empty(), "given up: {:?}", account.attempts_ended);
    ensure!(notes.starts().len() == 4, "nothing started a second time");
    drop(sidecar);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_control_plane_doubles_no_work() -> Result<()> {
    let notes = Notes::new(3_000, 5_000);
    let mut world = World::started("restart", &[]).await?;
    client::broadcast_to_workers(&world.channel()?).await?;
    let url = general::serve(notes.clone()).await?;
    let sidecar = world.sidecar("east", "east-0", 8, &url, None)?;
    world.fleet(1, 1).await?;
    publish(&world, 24).await?;
    started(&notes, 8).await?;

    for _ in 0..3 {
        world.take_plane()?.kill()?;
        world.start_plane().await?;
        tokio::time::sleep(Duration::from_millis(1_500)).await;
    }

    let account = world.settled(24, SETTLE_MAX).await?;
    ensure!(account.unsettled() == 0 && account.settled_twice().is_empty(), "each settled once");
    ensure!(notes.starts().len() == 24, "{} starts for 24 deliveries", notes.starts().len());
    drop(sidecar);
    Ok(())
}
