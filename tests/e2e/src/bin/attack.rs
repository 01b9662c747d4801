//! `cargo run --release -p mindos-e2e --bin attack`: attacks a real server and says what a well-behaved client saw of it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use mindos_e2e::attack::{self, ATTACKS, Attack, FULL, QUICK, Scale};
use serde_json::{Value, json};

/// Runs attacks, each against a server of its own.
#[derive(Debug, Parser)]
struct Options {
    /// Attacks to run; all unless named.
    attacks: Vec<String>,
    /// A short version of each, judged by what it does and not by time.
    #[arg(long)]
    quick: bool,
    /// Lists the attacks and ends.
    #[arg(long)]
    list: bool,
    /// File to write the figures to; what stands there of other attacks stays.
    #[arg(long)]
    results: Option<PathBuf>,
    /// How this program starts itself as a watcher.
    #[arg(long, hide = true)]
    watch_stills: bool,
    #[command(flatten)]
    attacker: Attacker,
}

/// How this program starts itself as the attacker.
#[derive(Debug, clap::Args)]
struct Attacker {
    #[arg(long, hide = true)]
    attacker: Option<String>,
    #[arg(long, hide = true, default_value = "")]
    api: String,
    #[arg(long, hide = true, default_value = "")]
    agents: String,
    #[arg(long, hide = true)]
    token: Option<String>,
    #[arg(long, hide = true, default_value_t = 0)]
    connections: usize,
    #[arg(long, hide = true, default_value_t = 0)]
    requests: u64,
    #[arg(long, hide = true, default_value_t = 1)]
    addresses: usize,
    #[arg(long, hide = true, default_value_t = 0)]
    millis: u64,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let Options { attacks, quick, list, results, watch_stills, attacker } = Options::parse();
    if watch_stills {
        attack::stills::watch()?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Attacker { attacker: Some(name), api, agents, token, connections, requests, addresses, millis } = attacker {
        let scale = Scale { connections, requests, addresses, time: Duration::from_millis(millis) };
        println!("{}", attack::attack_now(&name, &api, &agents, token, scale).await?);
        return Ok(ExitCode::SUCCESS);
    }
    if list {
        ATTACKS.iter().for_each(|Attack { name, what, .. }| println!("{name:22} {what}"));
        return Ok(ExitCode::SUCCESS);
    }
    let mut chosen = Vec::new();
    for name in &attacks {
        let known = ATTACKS.iter().find(|attack| attack.name == name);
        chosen.push(known.with_context(|| format!("there is no attack `{name}`: --list names them"))?);
    }
    if chosen.is_empty() {
        chosen.extend(ATTACKS);
    }
    let plan = if quick { QUICK } else { FULL };
    let me = std::env::current_exe().context("failed to find this program's own file")?;
    let mut failed = 0;
    for attack in chosen {
        let report = attack::run(attack, &plan, &me).await.with_context(|| attack.name)?;
        let faults = report["faults"].as_array().map_or(0, Vec::len);
        failed += usize::from(faults > 0);
        println!("{report:#}");
        println!("{}: {}", attack.name, if faults == 0 { "withstood" } else { "FAILED" });
        if let Some(path) = &results {
            keep(path, attack.name, report)?;
        }
    }
    println!("attacks: {failed} failed");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Writes one report into the file of all.
fn keep(path: &std::path::Path, name: &str, report: Value) -> Result<()> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let mut all: Value = serde_json::from_str(&text).unwrap_or_else(|_| json!({}));
    all[name] = report;
    std::fs::write(path, format!("{all:#}\n")).with_context(|| format!("failed to write {}", path.display()))
}
