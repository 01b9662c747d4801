//! The ledger proves itself: exported and verified elsewhere, anchored, redacted under kill -9.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mindos_e2e::client;
use mindos_e2e::process;
use mindos_e2e::world::World;
use mindos_proto::cloudevents::v1::CloudEvent;
use mindos_proto::cloudevents::v1::cloud_event::cloud_event_attribute_value::Attr;
use mindos_proto::cloudevents::v1::cloud_event::{CloudEventAttributeValue, Data};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(20);
/// Ends with this code when something is not as it was written.
const VERIFICATION: i32 = 5;

fn event_by(actor: &str, number: usize, data: String) -> CloudEvent {
    let mut event = client::event("/ledger", &format!("{actor}-{number}"), "work", &format!("lane-{}", number % 4));
    let actor = CloudEventAttributeValue { attr: Some(Attr::CeString(actor.to_owned())) };
    event.attributes.insert("actor".to_owned(), actor);
    event.data = Some(Data::TextData(data));
    event
}

async fn publish(world: &World, actor: &str, from: usize, to: usize) -> Result<()> {
    let channel = world.channel()?;
    for number in from..to {
        let event = event_by(actor, number, format!("{{\"mail\":\"{actor}-secret-{number}@example.com\"}}"));
        client::publish(&channel, event, SOON).await?;
    }
    Ok(())
}

/// Files below `folder` in which `text` stands.
fn files_with(folder: &Path, text: &str) -> Result<Vec<PathBuf>> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            // One may be renamed under our eyes.
            let Ok(bytes) = std::fs::read(&path) else { continue };
            if bytes.windows(text.len()).any(|window| window == text.as_bytes()) {
                found.push(path);
            }
        }
    }
    Ok(found)
}

fn key(world: &World) -> Result<String> {
    let keys = process::run(&["ledger", "key", "--server", &world.server()])?;
    let text = String::from_utf8(keys.stdout)?;
    Ok(text.lines().last().context("there is a key")?.to_owned())
}

/// Verifies a file; the exit code and what was found.
fn verify(file: &Path, key: &str, more: &[&str]) -> Result<(i32, Value)> {
    let file = file.display().to_string();
    let arguments = [&["ledger", "verify", &file, "--key", key, "--output", "json"], more].concat();
    let ended = process::run(&arguments)?;
    let code = ended.status.code().context("it ended by itself")?;
    Ok((
        code,
        serde_json::from_slice(&ended.stdout).with_context(|| String::from_utf8_lossy(&ended.stderr).into_owned())?,
    ))
}

fn export(world: &World, name: &str, more: &[&str]) -> Result<PathBuf> {
    let out = world.folder().join(name);
    let (path, server) = (out.display().to_string(), world.server());
    let arguments = [&["ledger", "export", "--out", &path, "--server", &server], more].concat();
    let ended = process::run(&arguments)?;
    ensure!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    Ok(out)
}

/// The entries of the file, each with its offset.
fn entries(file: &[u8]) -> Vec<(usize, usize)> {
    let length = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().expect("four bytes")) as usize;
    let (mut found, mut at) = (Vec::new(), 20 + length(16));
    while &file[at..at + 4] == b"MDLB" {
        let end = at + 24 + length(at + 4);
        at += 24;
        while at < end {
            let size = 17
                + match file[at] {
                    0 => 4 + length(at + 17),
                    1 => 24 + length(at + 17) + length(at + 21),
                    4 => 32,
                    _ => 36 + length(at + 17),
                };
            found.push((at, size));
            at += size;
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exported_ledger_is_verified_elsewhere_and_every_harm_is_located() -> Result<()> {
    let folder = std::env::temp_dir().join(format!("mindos-anchor-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let anchor = folder.join("anchor.jsonl");
    let settings = folder.join("settings.yaml");
    std::fs::write(&settings, format!("anchors: [{{file: {}}}]\n", anchor.display()))?;
    let settings = settings.display().to_string();
    let world = World::started("export", &["--settings", &settings, "--checkpoint-interval", "1s"]).await?;
    publish(&world, "bob", 0, 60).await?;
    let key = key(&world)?;
    let file = export(&world, "all.mindos-ledger", &[])?;

    let (code, report) = verify(&file, &key, &[])?;
    ensure!(code == 0 && report["verified"] == true, "{report}");
    ensure!(report["signed_through_seq"] == report["through_seq"], "{report}");
    let through = report["through_seq"].as_u64().context("a sequence")?;
    let bytes = std::fs::read(&file)?;
    let entries = entries(&bytes);
    ensure!(entries.len() as u64 == through, "{} entries through {through}", entries.len());

    let harmed = world.folder().join("harmed.mindos-ledger");
    let found = |bytes: &[u8]| -> Result<(u64, u64, String)> {
        std::fs::write(&harmed, bytes)?;
        let (code, report) = verify(&harmed, &key, &[])?;
        ensure!(code == VERIFICATION, "ended with {code}: {report}");
        let fault = &report["fault"];
        let number = |name: &str| fault[name].as_u64().context("a number");
        Ok((number("seq")?, number("offset")?, fault["message"].as_str().unwrap_or_default().to_owned()))
    };
    let (at, size) = entries[29];
    let mut altered = bytes.clone();
    altered[at + size - 1] ^= 1;
    let (seq, offset, message) = found(&altered)?;
    ensure!((seq, offset) == (30, at as u64) && message.contains("altered"), "{seq} {offset} {message}");
    let mut dropped = bytes.clone();
    dropped.drain(at..at + size);
    let (seq, _, message) = found(&dropped)?;
    ensure!(seq == 30 && message.contains("dropped"), "{seq} {message}");
    let (next, next_size) = entries[30];
    let swapped =
        [&bytes[..at], &bytes[next..next + next_size], &bytes[at..at + size], &bytes[next + next_size..]].concat();
    let (seq, _, message) = found(&swapped)?;
    ensure!(seq == 30 && message.contains("swapped"), "{seq} {message}");
    let (seq, offset, message) = found(&bytes[..at + 3])?;
    ensure!((seq, offset) == (30, at as u64) && message.contains("truncated"), "{seq} {offset} {message}");

    // An earlier file is honest, and the anchor knows that it is not all.
    publish(&world, "bob", 60, 70).await?;
    let begun = Instant::now();
    let anchored = anchor.display().to_string();
    while !anchor.exists() {
        ensure!(begun.elapsed() < SOON, "nothing was anchored");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    loop {
        let (code, report) = verify(&file, &key, &["--anchors", &anchored])?;
        if code == VERIFICATION {
            let message = report["fault"]["message"].as_str().unwrap_or_default();
            ensure!(report["fault"]["seq"] == through + 1 && message.contains("anchor"), "{report}");
            break;
        }
        ensure!(begun.elapsed() < SOON, "the anchor has no checkpoint: {report}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let later = export(&world, "later.mindos-ledger", &[])?;
    let (code, report) = verify(&later, &key, &["--anchors", &anchored])?;
    ensure!(code == 0 && report["anchors"].as_u64() > Some(0), "{report}");

    // A part, without payloads.
    let part = export(&world, "part.mindos-ledger", &["--from", "20", "--through", "50", "--without-payloads"])?;
    let (code, report) = verify(&part, &key, &[])?;
    ensure!(code == 0 && report["records"] == 31 && report["payloads_left_out"].as_u64() > Some(0), "{report}");
    ensure!(files_with(world.folder(), "no such text")?.is_empty());
    ensure!(!std::fs::read(&part)?.windows(10).any(|window| window == b"bob-secret"), "payloads are left out");

    // Somebody else's key proves nothing.
    let stranger = format!("mindos-ledger-ed25519:{}", "5a".repeat(32));
    let (code, _) = verify(&file, &stranger, &[])?;
    ensure!(code == VERIFICATION, "a stranger's key: {code}");
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_redacted_is_gone_whenever_the_process_is_killed() -> Result<()> {
    let mut world = World::started("redact", &["--segment-bytes", "4MiB", "--checkpoint-interval", "1s"]).await?;
    let key = key(&world)?;
    publish(&world, "bob", 0, 10).await?;
    for round in 0..6_u64 {
        let actor = format!("alice{round}");
        publish(&world, &actor, 0, 40).await?;
        publish(&world, "bob", 10 + 5 * round as usize, 15 + 5 * round as usize).await?;
        let secret = format!("{actor}-secret");
        ensure!(!files_with(&world.data(), &secret)?.is_empty(), "it is there at first");
        let (server, by) = (world.server(), actor.clone());
        let asked = tokio::task::spawn_blocking(move || {
            process::run(&["ledger", "redact", "--actor", &by, "--reason", "request", "--server", &server])
        });
        if round > 0 {
            // At another moment each time: before the record, while segments are written, after it.
            tokio::time::sleep(Duration::from_millis(40 * round * round)).await;
            world.take_plane()?.kill()?;
            let _ = asked.await?;
            world.start_plane().await?;
        } else {
            let ended = asked.await??;
            ensure!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
            let left = files_with(&world.data(), &secret)?;
            ensure!(left.is_empty(), "gone once it was answered, but in {left:?}");
            continue;
        }
        // Whether the record was made before the kill or not: asked once more, it is done.
        let ended =
            process::run(&["ledger", "redact", "--actor", &actor, "--reason", "request", "--server", &world.server()])?;
        ensure!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        let left = files_with(&world.data(), &secret)?;
        ensure!(left.is_empty(), "round {round}: still in {left:?}");
    }
    ensure!(!files_with(&world.data(), "bob-secret")?.is_empty(), "nobody else's is gone");
    let file = export(&world, "redacted.mindos-ledger", &[])?;
    let (code, report) = verify(&file, &key, &[])?;
    ensure!(code == 0 && report["redacted"] == 240, "{report}");
    // Killed right after the record, nobody asks again: the start does it.
    publish(&world, "carol", 0, 40).await?;
    let server = world.server();
    let asked = tokio::task::spawn_blocking(move || {
        process::run(&["ledger", "redact", "--actor", "carol", "--reason", "request", "--server", &server])
    });
    let begun = Instant::now();
    loop {
        let tail = process::run(&[
            "ledger",
            "tail",
            "--kind",
            "payloads_redacted",
            "--from",
            "1",
            "--limit",
            "0",
            "--output",
            "json",
            "--server",
            &world.server(),
        ])?;
        if String::from_utf8_lossy(&tail.stdout).lines().count() >= 12 || begun.elapsed() > Duration::from_secs(2) {
            break;
        }
    }
    world.take_plane()?.kill()?;
    let _ = asked.await?;
    world.start_plane().await?;
    let recorded = process::run(&["ledger", "export", "--output", "json", "--server", &world.server()])?;
    let recorded = String::from_utf8(recorded.stdout)?;
    let begun = Instant::now();
    if recorded.matches("\"kind\":\"payloads_redacted\"").count() >= 7 {
        while !files_with(&world.data(), "carol-secret")?.is_empty() {
            ensure!(begun.elapsed() < SOON, "the start did not finish what was recorded");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    world.take_plane()?.kill()?;
    world.verify()?;
    Ok(())
}
