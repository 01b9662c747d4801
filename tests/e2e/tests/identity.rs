//! Joining, being turned away, and coming back, with real binaries over TLS.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mindos_e2e::rotation::{sessions, sidecar};
use mindos_e2e::world::{Joining, START_MAX, World};
use mindos_e2e::{access, client, general};
use mindos_proto::journal::v1::JoinRefusal;
use mindos_sdk::{Roots, Tls};

const HOUR: Duration = Duration::from_secs(3600);

async fn publish(channel: &mindos_sdk::Channel, number: u32) -> Result<()> {
    let event = client::event("/identity", &number.to_string(), "work", &format!("lane-{number}"));
    client::publish(channel, event, Duration::from_secs(30)).await.map(drop)
}

async fn said(world: &World, instance: &str, what: &str) -> Result<()> {
    let begun = Instant::now();
    while !access::said(world.folder(), instance)?.contains(what) {
        ensure!(
            begun.elapsed() < START_MAX,
            "{instance} never said {what:?}: {}",
            access::said(world.folder(), instance)?
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_token_is_of_no_use_and_the_attempts_are_on_record() -> Result<()> {
    let mut world = World::secure("stolen", HOUR, &[])?;
    world.start_plane().await?;
    let channel = world.channel()?;
    let ca = access::copy_roots(&world, "ca.pem")?;
    let notes = general::Notes::new(1, 2);
    let url = general::serve(notes.clone()).await?;
    client::broadcast_to_workers(&channel).await?;

    let token = access::join_token(&world, "token", "east", 1, HOUR).await?;
    let _right = sidecar(&world, "right", &url, &token, &ca, &[])?;
    sessions(&channel, 1, START_MAX).await?;
    publish(&channel, 1).await?;
    world.settled(1, START_MAX).await?;

    // Used already; for another cluster; after its time; made up.
    let _second = sidecar(&world, "second", &url, &token, &ca, &[])?;
    said(&world, "second", "refused").await?;
    let token = access::join_token(&world, "token-west", "west", 1, HOUR).await?;
    let _elsewhere = sidecar(&world, "elsewhere", &url, &token, &ca, &[])?;
    said(&world, "elsewhere", "refused").await?;
    let token = access::join_token(&world, "token-late", "east", 1, Duration::from_secs(1)).await?;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let _late = sidecar(&world, "late", &url, &token, &ca, &[])?;
    said(&world, "late", "refused").await?;
    let made_up = world.folder().join("token-made-up");
    std::fs::write(&made_up, format!("mindos_join_{}", "A".repeat(43)))?;
    let _stranger = sidecar(&world, "stranger", &url, &made_up, &ca, &[])?;
    said(&world, "stranger", "refused").await?;

    let joins = access::joins(&channel).await?;
    assert_eq!(joins.joined.len(), 1, "{joins:?}");
    for reason in [JoinRefusal::UsedUp, JoinRefusal::WrongCluster, JoinRefusal::Expired] {
        assert!(joins.refused.contains(&i32::from(reason)), "{reason:?} is on record: {joins:?}");
    }
    assert_eq!(sessions(&channel, 1, START_MAX).await?.len(), 1, "only the right one is connected");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_denied_is_off_within_five_seconds_and_back_when_allowed() -> Result<()> {
    let mut world = World::secure("denied", HOUR, &[])?;
    world.start_plane().await?;
    let channel = world.channel()?;
    let ca = access::copy_roots(&world, "ca.pem")?;
    let url = general::serve(general::Notes::new(1, 2)).await?;
    let token = access::join_token(&world, "token", "east", 2, HOUR).await?;
    let _one = sidecar(&world, "one", &url, &token, &ca, &[])?;
    let _two = sidecar(&world, "two", &url, &token, &ca, &[])?;
    let before = sessions(&channel, 2, START_MAX).await?;

    let denial = access::deny(&channel, "east", "one").await?;
    let begun = Instant::now();
    while sessions(&channel, 0, START_MAX).await?.contains_key("one") {
        ensure!(begun.elapsed() < Duration::from_secs(5), "still there after {:?}", begun.elapsed());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let off_after = begun.elapsed();
    said(&world, "one", "refused this agent").await?;
    let left = sessions(&channel, 1, START_MAX).await?;
    assert_eq!(left.get("two"), before.get("two"), "nobody else is disturbed");
    assert!(!left.contains_key("one"));

    access::allow(&channel, denial).await?;
    sessions(&channel, 2, Duration::from_secs(60)).await?;
    println!("off after {off_after:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_was_away_for_longer_than_certificates_live_finds_its_fleet_again() -> Result<()> {
    let life = Duration::from_secs(10);
    let mut world = World::secure("away", life, &[])?;
    world.start_plane().await?;
    let channel = world.channel()?;
    let ca = access::copy_roots(&world, "ca.pem")?;
    let url = general::serve(general::Notes::new(1, 2)).await?;
    client::broadcast_to_workers(&channel).await?;
    let token = access::join_token(&world, "token", "east", 2, HOUR).await?;
    let kept = world.folder().join("identity");
    let kept = kept.display().to_string();
    let _one = sidecar(&world, "one", &url, &token, &ca, &[])?;
    let two = sidecar(&world, "two", &url, &token, &ca, &["--identity-dir", &kept])?;
    sessions(&channel, 2, START_MAX).await?;

    world.take_plane()?.kill()?;
    // A process that ends meanwhile keeps its key in its directory.
    two.kill()?;
    tokio::time::sleep(life + Duration::from_secs(2)).await;
    let _two = sidecar(&world, "two", &url, &token, &ca, &["--identity-dir", &kept])?;
    world.start_plane().await?;
    let channel = world.channel()?;
    sessions(&channel, 2, Duration::from_secs(60)).await?;
    publish(&channel, 1).await?;
    world.settled(1, START_MAX).await?;
    let joins = access::joins(&channel).await?;
    assert_eq!((joins.joined.len(), joins.refused.len()), (2, 0), "nobody had to join again: {joins:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retired_authority_costs_streams_and_no_membership() -> Result<()> {
    let mut world = World::secure("retired", Duration::from_secs(10), &[])?;
    world.start_plane().await?;
    let tls = Tls::new(&Roots::file(&world.roots())?)?;
    let channel = client::dial(world.dialer()?.tls(tls.clone()).token(&world.admin_token()?)?)?;
    let ca = access::copy_roots(&world, "ca.pem")?;
    let url = general::serve(general::Notes::new(1, 2)).await?;
    client::broadcast_to_workers(&channel).await?;
    let token = access::join_token(&world, "token", "east", 1, HOUR).await?;
    let more = ["--identity-dir", "identity"];
    let one = sidecar(&world, "one", &url, &token, &ca, &more)?;
    let before = sessions(&channel, 1, START_MAX).await?;

    access::rotate(&channel).await?;
    tls.trust(&Roots::file(&world.roots())?)?;
    // Everybody has renewed by then.
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(sessions(&channel, 1, START_MAX).await?, before, "a rotation costs no stream");
    access::retire(&channel).await?;
    tls.trust(&Roots::file(&world.roots())?)?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    sessions(&channel, 1, START_MAX).await?;
    publish(&channel, 1).await?;
    world.settled(1, START_MAX).await?;
    one.kill()?;
    // The file that it was started with names a root that nobody trusts any more; what it learned is in its directory.
    let _one = sidecar(&world, "one", &url, &token, &ca, &more)?;
    publish(&channel, 2).await?;
    world.settled(2, START_MAX).await?;
    let joins = access::joins(&channel).await?;
    assert_eq!((joins.joined.len(), joins.refused.len()), (1, 0), "{joins:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_started_with_a_clock_an_hour_off_joins() -> Result<()> {
    let mut world = World::secure("clock", Duration::from_secs(10), &[])?;
    world.start_plane().await?;
    let channel = world.channel()?;
    let ca = access::copy_roots(&world, "ca.pem")?;
    let url = general::serve(general::Notes::new(1, 2)).await?;
    let token = access::join_token(&world, "token", "east", 2, HOUR).await?;
    let mut running = Vec::new();
    for (instance, seconds) in [("ahead", 3600), ("behind", -3600)] {
        let Some(clock) = mindos_e2e::faketime::Clock::new(world.folder(), instance)? else { return Ok(()) };
        clock.step(seconds)?;
        running.push(world.joining_sidecar(&Joining {
            cluster: "east",
            instance,
            slots: 1,
            url: &url,
            token: &token,
            ca: &ca,
            more: &[],
            environment: &clock.environment(),
        })?);
    }
    let before = sessions(&channel, 2, START_MAX).await?;
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert_eq!(sessions(&channel, 2, START_MAX).await?, before);
    Ok(())
}
