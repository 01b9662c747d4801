//! The first minutes of a newcomer: `mindos up --replay` over real webhooks, reckoned against a script that shares no code.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use mindos_e2e::process;
use mindos_e2e::world::World;
use serde_json::Value;

const CLUSTERS: [&str; 2] = ["eu", "us"];

fn project() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// The payloads of the project, and a closed pull request that was merged.
fn payloads(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    for entry in std::fs::read_dir(project().join("tests/data/github-webhooks"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            std::fs::copy(&path, folder.join(path.file_name().context("a file has a name")?))?;
        }
    }
    let closed = std::fs::read(folder.join("pull_request.closed.2.json"))?;
    let mut merged: Value = serde_json::from_slice(&closed)?;
    merged["pull_request"]["merged"] = Value::Bool(true);
    std::fs::write(folder.join("pull_request.closed.merged.json"), serde_json::to_vec_pretty(&merged)?)?;
    Ok(())
}

/// What the script reckons from the mapping and the routing table.
fn oracle(folder: &Path) -> Result<Value> {
    let output = Command::new("python3")
        .arg(project().join("tests/e2e/oracle.py"))
        .args(["--clusters", &CLUSTERS.join(",")])
        .arg("--payloads")
        .arg(folder)
        .arg("--kinds")
        .arg(project().join("control-plane/server/src/ingest/github_kinds.json"))
        .arg("--routes")
        .arg(project().join("control-plane/server/src/ingest/stock_routes.json"))
        .output()
        .context("failed to run python3")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context("the script prints JSON")
}

type Counts = BTreeMap<String, u64>;

fn counts(value: &Value) -> Counts {
    let members = value.as_object().into_iter().flatten();
    members.filter_map(|(name, count)| Some((name.clone(), count.as_u64()?))).collect()
}

/// What the ledger says: events by kind, deliveries by route, deliveries by general under broadcast, settlements of each delivery.
#[derive(Debug, Default)]
struct Ledger {
    kinds: Counts,
    routes: Counts,
    broadcast: Counts,
    settled: BTreeMap<String, u64>,
    /// Sequence of each event by its id.
    events: BTreeMap<String, u64>,
}

fn ledger(data: &str) -> Result<Ledger> {
    let output = process::run(&["ledger", "export", "--data-dir", data])?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut ledger = Ledger::default();
    for line in String::from_utf8(output.stdout)?.lines() {
        let record: Value = serde_json::from_str(line)?;
        let (seq, kind) = (record["seq"].as_u64().context("a sequence")?, record["kind"].as_str().context("a kind")?);
        let body = &record["entry"][kind];
        match kind {
            "event_accepted" => {
                let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
                ledger.events.insert(text("id"), seq);
                if body["unrouted"] == true {
                    continue;
                }
                // An event without a word of its own has its type for one.
                let kind = Some(text("kind")).filter(|kind| !kind.is_empty()).unwrap_or_else(|| text("type"));
                *ledger.kinds.entry(kind).or_default() += 1;
                for planned in body["deliveries"].as_array().into_iter().flatten() {
                    let ordinal = planned["ordinal"].as_u64().context("an ordinal")?;
                    ledger.settled.insert(format!("d{seq}.{ordinal}"), 0);
                    *ledger.routes.entry(text("route")).or_default() += 1;
                    if text("strategy") == "broadcast" {
                        let general = &planned["general"];
                        let word = |name: &str| general[name].as_str().unwrap_or_default();
                        *ledger.broadcast.entry(format!("{}/{}", word("cluster"), word("name"))).or_default() += 1;
                    }
                }
            }
            "delivery_settled" | "delivery_cancelled" => {
                let delivery = body["delivery"].as_str().context("a delivery")?;
                *ledger.settled.get_mut(delivery).context("settled and never planned")? += 1;
            }
            _ => {}
        }
    }
    Ok(ledger)
}

#[test]
fn a_replay_comes_to_what_the_mapping_says_and_a_flipped_byte_is_found() -> Result<()> {
    let world = World::new("replay", &[])?;
    let folder = world.folder().join("payloads");
    payloads(&folder)?;
    let expected = oracle(&folder)?;
    let data = world.data().display().to_string();

    let clusters = CLUSTERS.map(|name| format!("{name}={name}-1")).join(",");
    let ports = ["--port", "0", "--agent-port", "0", "--generals-port", "0"];
    let replay = ["--clusters", &clusters, "--data-dir", &data, "--replay", folder.to_str().context("a path of text")?];
    let summary = process::json(&[&["up"][..], &ports, &replay].concat())?;

    ensure!(summary["settled"] == true && summary["unsettled"] == Value::Array(vec![]), "{summary:#}");
    ensure!(summary["ledger"]["verified"] == true, "{summary:#}");
    ensure!(summary["events"] == expected["payloads"], "events: {summary:#} where {expected:#}");
    ensure!(summary["deliveries"] == expected["deliveries"]["total"], "deliveries: {summary:#} where {expected:#}");
    let mut by_kind = counts(&summary["by_kind"]);
    by_kind.remove("com.github.ping");
    ensure!(by_kind == counts(&expected["kinds"]), "by kind: {by_kind:?} where {expected:#}");

    let ledger = ledger(&data)?;
    ensure!(ledger.kinds == counts(&expected["kinds"]), "kinds in the ledger: {:?} where {expected:#}", ledger.kinds);
    ensure!(
        ledger.routes == counts(&expected["deliveries"]["by_route"]),
        "by route: {:?} where {expected:#}",
        ledger.routes
    );
    ensure!(
        ledger.broadcast == counts(&expected["broadcast"]),
        "by general: {:?} where {expected:#}",
        ledger.broadcast
    );
    ensure!(
        ledger.settled.values().all(|settled| *settled == 1),
        "each delivery is settled once: {:?}",
        ledger.settled
    );
    for kind in ["pr_created", "review_started", "review_submitted", "pr_merged", "commit_graph", "needs_attention"] {
        ensure!(ledger.kinds.contains_key(kind), "no event is {kind}");
    }
    ensure!(ledger.routes.contains_key("default"), "no event took the default route");
    println!("{} events, {} deliveries, {:?}", expected["payloads"], expected["deliveries"]["total"], ledger.kinds);

    flipped_byte(&world, &data, &ledger)
}

/// Flips a byte in the payload of an event and has it found.
fn flipped_byte(world: &World, data: &str, ledger: &Ledger) -> Result<()> {
    world.verify()?;
    let (id, seq) = ledger.events.iter().nth(ledger.events.len() / 2).context("there are events")?;
    let mut found = None;
    for entry in std::fs::read_dir(world.data().join("journal"))? {
        let path = entry?.path();
        let bytes = std::fs::read(&path)?;
        let name = path.file_name().context("a file has a name")?.to_string_lossy().into_owned();
        if name.ends_with(".segment") {
            // The id stands in the record, and once more in the payload behind it.
            let at = bytes.windows(id.len()).rposition(|part| part == id.as_bytes());
            if let Some(at) = at {
                found = Some((path, name, bytes, at));
            }
        }
    }
    let (path, name, mut bytes, at) = found.context("the id of an event stands in the journal")?;
    bytes[at] ^= 0x10;
    std::fs::write(&path, &bytes)?;

    let verdict = process::json(&["ledger", "verify", "--data-dir", data])?;
    let damage = &verdict["damage"];
    println!("flipped a byte at offset {at} of {name}, in record {seq}: {damage}");
    ensure!(verdict["verified"] == false, "{verdict}");
    ensure!(damage["seq"] == *seq, "sequence: {damage}");
    ensure!(damage["file"].as_str().is_some_and(|file| file.ends_with(&name)), "file: {damage}");
    ensure!(damage["offset"] == at, "offset: {damage}");
    ensure!(process::run(&["ledger", "verify", "--data-dir", data])?.status.code() == Some(5), "exit code");

    bytes[at] ^= 0x10;
    std::fs::write(&path, &bytes)?;
    world.verify()?;
    Ok(())
}
