//! Some attacks in short: the server refuses, stays within its memory and goes on. `cargo run --release -p mindos-e2e --bin attack` is the
//! long run of all of them, with figures.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use mindos_e2e::attack::{self, ATTACKS, QUICK};

async fn withstood(name: &str) -> Result<serde_json::Value> {
    let attack = ATTACKS.iter().find(|attack| attack.name == name).context("a known attack")?;
    let report = attack::run(attack, &QUICK, Path::new(env!("CARGO_BIN_EXE_attack"))).await?;
    ensure!(report["faults"].as_array().is_some_and(Vec::is_empty), "{report:#}");
    Ok(report)
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_reset_at_once_end_their_connection() -> Result<()> {
    let report = withstood("rapid_reset").await?;
    let ended = report["attacker"]["connections_ended_by_server"].as_u64().unwrap_or(0);
    ensure!(ended > 0, "{report:#}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_of_tokens_are_refused_and_paced() -> Result<()> {
    let report = withstood("bad_tokens").await?;
    let answers = &report["attacker"]["answers"];
    ensure!(answers["401"].as_u64() > Some(0) && answers["429"].as_u64() > Some(0), "{report:#}");
    ensure!(answers["200"].is_null(), "somebody was let in: {report:#}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn json_without_a_bottom_is_answered_like_any_other() -> Result<()> {
    let report = withstood("nested_json").await?;
    let answers = &report["attacker"]["answers"];
    ensure!(answers["400"].as_u64() > Some(0) && answers["none"].is_null(), "{report:#}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_compressed_is_not_unpacked() -> Result<()> {
    let report = withstood("compression_bombs").await?;
    ensure!(report["memory_mib"]["most_during"].as_u64() < Some(400), "{report:#}");
    ensure!(report["attacker"]["answers"]["415"].as_u64() > Some(0), "{report:#}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn expressions_made_to_be_slow_hold_nobody_up() -> Result<()> {
    let report = withstood("slow_expressions").await?;
    ensure!(report["attacker"]["answers"].as_object().is_some_and(|answers| !answers.is_empty()), "{report:#}");
    Ok(())
}
