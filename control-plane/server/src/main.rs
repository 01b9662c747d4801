//! The control plane as a program of its own, for images.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use mindos_control_plane::config::Config;
use mindos_control_plane::{logging, run};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Takes durable events in and gives fenced work out to generals.
#[derive(Debug, Parser)]
#[command(name = "mindos-control-plane", version)]
struct Command {
    #[command(flatten)]
    config: Config,
}

fn main() -> anyhow::Result<ExitCode> {
    let Command { config } = Command::parse();
    logging::init(config.log_format, &config.log).context("logging did not start")?;
    Ok(run::report(run::run_until_signal(config)))
}
