//! `cargo run -p mindos-kube-tests --bin kube`: what is shown of Kubernetes, on real API servers, its figures as JSON.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Parser;
use mindos_kube_tests::bed::Bed;
use mindos_kube_tests::lend::lend;
use mindos_kube_tests::scenario::{Scenario, Size};
use mindos_kube_tests::scenarios;
use serde_json::{Value, json};

/// Starts API servers and runs scenarios on them, one after the other.
///
/// Needs the programs of a cluster: `export MINDOS_KUBE_ASSETS=$(.ci/kube/build.sh ~/.cache/mindos-ci)`.
#[derive(Debug, Parser)]
struct Options {
    /// Scenarios to run, by name or by the beginning of names; all unless named.
    scenarios: Vec<String>,
    /// Little of everything, as CI runs it.
    #[arg(long)]
    quick: bool,
    /// Lists the scenarios and ends.
    #[arg(long)]
    list: bool,
    /// Starts a cluster, prints its kubeconfig's path and keeps it until it is interrupted.
    #[arg(long, conflicts_with_all = ["scenarios", "quick", "list", "results"])]
    keep: bool,
    /// File to write the figures to; what stands there of other scenarios stays.
    #[arg(long)]
    results: Option<PathBuf>,
    /// After `--`: a command that is run with a cluster, in MINDOS_TEST_KUBECONFIG and MINDOS_TEST_RESTART, instead of scenarios.
    #[arg(last = true, conflicts_with_all = ["scenarios", "quick", "list", "results", "keep"])]
    command: Vec<String>,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let Options { scenarios: named, quick, list, keep, results, command } = Options::parse();
    let all = scenarios::all();
    if list {
        all.iter()
            .for_each(|one| println!("{:28} {}{}", one.name, one.what, if one.quick { "" } else { " (not quick)" }));
        return Ok(ExitCode::SUCCESS);
    }
    let mut chosen = Vec::new();
    for name in &named {
        let before = chosen.len();
        chosen.extend(all.iter().filter(|one| one.name.starts_with(name.as_str())));
        anyhow::ensure!(chosen.len() > before, "there is no scenario `{name}`: --list names them");
    }
    if named.is_empty() {
        chosen.extend(all.iter().filter(|one| one.quick || !quick));
    }
    let begun = Instant::now();
    let mut bed = Bed::start().await?;
    if keep {
        println!("{}", bed.cluster().kubeconfig().display());
        tokio::signal::ctrl_c().await.context("failed to wait for an interruption")?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some((program, arguments)) = command.split_first() {
        let ended = lend(bed.cluster_mut(), program, arguments).await?;
        println!("kube: {program} ended with {ended} after {} s", begun.elapsed().as_secs());
        return Ok(if ended.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    println!("kube: a cluster of 1.{} in {} ms", bed.cluster().minor(), begun.elapsed().as_millis());
    let size = if quick { Size::Quick } else { Size::Full };
    let mut failed = 0;
    for Scenario { name, run, .. } in chosen.iter().copied() {
        let since = Instant::now();
        let came = run(&mut bed, size).await;
        let took = since.elapsed().as_millis();
        match came {
            Ok(figures) => {
                println!("{name}: holds in {took} ms {figures}");
                if let Some(path) = &results {
                    keep_figures(path, name, figures)?;
                }
            }
            Err(error) => {
                failed += 1;
                println!("{name}: FAILED after {took} ms: {error:?}");
            }
        }
    }
    println!("kube: {} scenarios, {failed} failed, {} s", chosen.len(), begun.elapsed().as_secs());
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Writes the figures of one into the file of all.
fn keep_figures(path: &Path, name: &str, figures: Value) -> Result<()> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let mut all: Value = serde_json::from_str(&text).unwrap_or_else(|_| json!({}));
    all[name] = figures;
    std::fs::write(path, format!("{all:#}\n")).with_context(|| format!("failed to write {}", path.display()))
}
