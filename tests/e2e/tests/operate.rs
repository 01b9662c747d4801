//! What an operator does: stop, drain, back up, restore, cut the journal.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mindos_e2e::account::Account;
use mindos_e2e::client;
use mindos_e2e::general::{self, Notes};
use mindos_e2e::process;
use mindos_e2e::world::{World, http};

const SETTLE_MAX: Duration = Duration::from_secs(60);

async fn publish(world: &World, from: usize, to: usize) -> Result<()> {
    let channel = world.channel()?;
    for number in from..to {
        let event = client::event("/operate", &number.to_string(), "work", &format!("lane-{}", number % 8));
        client::publish(&channel, event, Duration::from_secs(20)).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orderly_stop_of_either_side_gives_up_no_attempt() -> Result<()> {
    let notes = Notes::new(200, 800);
    let mut world = World::started("drain", &[]).await?;
    client::broadcast_to_workers(&world.channel()?).await?;
    let url = general::serve(notes.clone()).await?;
    let first = world.sidecar("east", "east-0", 4, &url, None)?;
    world.fleet(1, 1).await?;
    publish(&world, 0, 40).await?;

    let status = world.take_plane()?.terminate(Duration::from_secs(40))?;
    ensure!(status.success(), "the control plane ended with {status}");
    world.start_plane().await?;
    publish(&world, 40, 60).await?;
    let second = world.sidecar("east", "east-1", 4, &url, None)?;
    world.fleet(1, 2).await?;
    let status = first.terminate(Duration::from_secs(40))?;
    ensure!(status.success(), "the sidecar ended with {status}");

    let account = world.settled(60, SETTLE_MAX).await?;
    ensure!(account.unsettled() == 0 && account.settled_twice().is_empty(), "each settled once");
    // What was on its way when the sidecar began to drain is handed back, unstarted.
    ensure!(account.attempts_used == 0, "given up: {:?}", account.attempts_ended);
    ensure!(notes.starts().len() == 60, "{} starts for 60 deliveries", notes.starts().len());
    drop(second);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_taken_under_load_restores_and_raises_the_epoch() -> Result<()> {
    let notes = Notes::new(1, 5);
    let mut world = World::started("backup", &[]).await?;
    client::broadcast_to_workers(&world.channel()?).await?;
    let url = general::serve(notes.clone()).await?;
    let sidecar = world.sidecar("east", "east-0", 8, &url, None)?;
    world.fleet(1, 1).await?;
    publish(&world, 0, 50).await?;
    let data = world.data().display().to_string();
    let backup = world.folder().join("backup").display().to_string();

    let (published, taken) = tokio::join!(publish(&world, 50, 100), async {
        tokio::task::spawn_blocking({
            let (data, backup) = (data.clone(), backup.clone());
            move || process::json(&["backup", &backup, "--data-dir", &data])
        })
        .await
        .context("the backup panicked")?
    });
    published?;
    let taken = taken?;
    let before = world.settled(100, SETTLE_MAX).await?;
    world.take_plane()?.kill()?;
    drop(sidecar);

    std::fs::rename(world.data(), world.folder().join("lost")).context("failed to put the data away")?;
    process::json(&["restore", &backup, "--data-dir", &data])?;
    world.start_plane().await?;
    let after = world.account().await?;
    ensure!(after.epoch > before.epoch + 1, "epoch {} after a restore of {}: {taken}", after.epoch, before.epoch);
    ensure!(
        after.events.len() >= 50,
        "the backup holds what was acknowledged before it: {} events",
        after.events.len()
    );

    // What the backup does not hold is published again by whoever was answered; nothing that it holds is accepted twice.
    let sidecar = world.sidecar("east", "east-0", 8, &url, None)?;
    publish(&world, 0, 100).await?;
    let account = world.settled(100, SETTLE_MAX).await?;
    ensure!(account.accepted_twice() == 0 && account.settled_twice().is_empty(), "each once");
    drop(sidecar);
    world.take_plane()?.kill()?;
    world.start_plane().await?;
    let ledger = process::run(&["ledger", "export", "--output", "json", "--server", &world.server()])?;
    let restores = String::from_utf8(ledger.stdout)?.matches(r#""reason":"restore""#).count();
    ensure!(restores == 1, "{restores} restores are recorded");
    world.take_plane()?.kill()?;
    world.verify()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_of_the_journal_is_recorded() -> Result<()> {
    let mut world = World::started("cut", &[]).await?;
    let channel = world.channel()?;
    for number in 0..20 {
        let event = client::event("/operate", &number.to_string(), "work", "lane");
        client::publish(&channel, event, Duration::from_secs(10)).await?;
    }
    let full = world.account().await?;
    let data = world.data().display().to_string();
    let keep = full.seq - 5;
    let running = process::run(&["journal", "truncate", "--data-dir", &data, "--at", &keep.to_string()])?;
    ensure!(!running.status.success(), "the journal of a running control plane is not cut");
    world.take_plane()?.kill()?;

    process::json(&["journal", "truncate", "--data-dir", &data, "--at", &keep.to_string()])?;
    world.start_plane().await?;

    let begun = Instant::now();
    let (account, entries) = loop {
        let mut account = Account::default();
        let entries = client::ledger(&world.channel()?, 0).await?;
        account.add(&entries)?;
        // The record of the start becomes durable a moment after the ports are open.
        if account.epoch > full.epoch {
            break (account, entries);
        }
        ensure!(begun.elapsed() < Duration::from_secs(10), "a start is an epoch");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let recorded = entries.iter().any(|entry| entry.kind == "journal_truncated");
    ensure!(recorded, "the cut stands in the ledger");
    ensure!(account.events.len() < full.events.len(), "what was cut off is gone");
    world.take_plane()?.kill()?;
    world.verify()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_change_while_it_runs_and_bad_ones_change_nothing() -> Result<()> {
    let mut world = World::new("settings", &[])?;
    let file = world.folder().join("settings.yaml");
    let path = file.display().to_string();
    world.add_arguments(&["--settings", &path]);
    std::fs::write(&file, "github_secret: first\n")?;
    world.start_plane().await?;
    // HMAC-SHA-256 of `{}` under each secret.
    let first = "sha256=1a622d22c97781330a4b238d7aa9ee5fa17bae5a3f4de330ee27097d9ab280d7";
    let second = "sha256=2d38281c7c6e75cf9d08153bb140a7f919a0a514598fdbe913d4d622c00d4cd8";
    ensure!(hook(&world, first).await? == 200, "the secret at the start is taken");

    std::fs::write(&file, "github_secret: second\n")?;
    let begun = Instant::now();
    while hook(&world, second).await? != 200 {
        ensure!(begun.elapsed() < Duration::from_secs(15), "the other secret is not taken");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    ensure!(hook(&world, first).await? == 401, "the secret before is not taken any more");

    std::fs::write(&file, "no_such_setting: 1\n")?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    ensure!(hook(&world, second).await? == 200, "a file that is refused changes nothing");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_an_event_without_deliveries_ends_at_once() -> Result<()> {
    let world = World::started("send", &[]).await?;
    let server = world.server();
    let send = |more: &[&str]| {
        let fixed = ["send", "--server", &server, "--type", "work", "--kind", "pr_created", "--source", "/send"];
        let fixed = [&fixed[..], &["--id", "1", "--wait"]].concat();
        let begun = Instant::now();
        let output = process::run(&[&fixed[..], more].concat())?;
        ensure!(begun.elapsed() < Duration::from_secs(30), "it waited for nothing");
        ensure!(output.status.code() == Some(4), "it ended with {}", output.status);
        Ok((String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?))
    };

    // No general was ever there, so the broadcast fixes none; and the same event again is known to have none.
    for again in [false, true] {
        let (shown, said) = send(&["--output", "json"])?;
        let value: serde_json::Value = serde_json::from_str(&shown)?;
        ensure!(value["deliveries"] == serde_json::json!([]) && value["settled"] == false, "shown: {shown}");
        ensure!(value["duplicate"].as_bool().unwrap_or_default() == again, "shown: {shown}");
        ensure!(said.contains("no delivery was made"), "said: {said}");
    }
    let (shown, said) = send(&[])?;
    ensure!(shown.contains("no deliveries") && said.contains("no delivery was made"), "{shown} {said}");
    Ok(())
}

async fn hook(world: &World, signature: &str) -> Result<u16> {
    let headers = [
        ("X-GitHub-Event", "ping"),
        ("X-GitHub-Delivery", "1"),
        ("Content-Type", "application/json"),
        ("X-Hub-Signature-256", signature),
    ];
    Ok(http(world.api(), "POST", "/webhooks/github", &headers, b"{}").await?.0)
}
