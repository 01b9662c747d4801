//! `cargo run --release -p mindos-e2e --bin kills`: the kill loop as a command, its figures as JSON.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use mindos_e2e::kills::{self, Plan};

/// Kills control planes and sidecars under load and judges by the ledger.
#[derive(Debug, Parser)]
struct Options {
    /// How often the control plane is killed.
    #[arg(long, default_value_t = 50)]
    control_planes: u32,
    /// How often a sidecar is killed.
    #[arg(long, default_value_t = 50)]
    sidecars: u32,
    /// Where chance begins.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Publishers at the same time.
    #[arg(long, default_value_t = 16)]
    publishers: u32,
    /// How long each rests between two events, in ms.
    #[arg(long, default_value_t = 50)]
    rest: u64,
    /// File to write the figures to, besides printing them.
    #[arg(long)]
    results: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let Options { control_planes, sidecars, seed, publishers, rest, results } = Options::parse();
    let report = kills::run(Plan { control_planes, sidecars, seed, publishers, rest }).await?;
    let text = format!("{report:#}\n");
    print!("{text}");
    if let Some(path) = results {
        std::fs::write(&path, text).with_context(|| format!("failed to write {}", path.display()))?;
    }
    Ok(())
}
