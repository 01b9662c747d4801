//! `cargo run --release -p mindos-e2e --bin rotation`: the rotation loop as a command, its figures as JSON.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use mindos_e2e::rotation::{self, Plan};

/// Renews certificates of many sidecars under load, steps clocks, changes the authority's key, and judges by the ledger.
#[derive(Debug, Parser)]
struct Options {
    /// How long it is under load, in minutes.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Sidecars, each a process of its own.
    #[arg(long, default_value_t = 100)]
    sidecars: usize,
    /// How long a certificate lives, in seconds: 10 to 3600.
    #[arg(long, default_value_t = 60)]
    life: u64,
    /// Publishers at the same time.
    #[arg(long, default_value_t = 8)]
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
    let Options { minutes, sidecars, life, publishers, rest, results } = Options::parse();
    let load = Duration::try_from_secs_f64(minutes * 60.0).context("--minutes: expected a number above 0")?;
    let plan = Plan { load, sidecars, life: Duration::from_secs(life), publishers, rest };
    let text = format!("{:#}\n", rotation::run(plan).await?);
    print!("{text}");
    if let Some(path) = results {
        std::fs::write(&path, text).with_context(|| format!("failed to write {}", path.display()))?;
    }
    Ok(())
}
