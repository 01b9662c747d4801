//! `mindos bench`: measurements with real processes, as JSON.

use clap::Subcommand;

use crate::failure::Failure;
use crate::options::Global;

pub(crate) const EXAMPLES: &str = "\
Examples:
  mindos bench fanout --seconds 10";

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Placeholder until the next commit.
    Fanout,
}

pub(crate) async fn run(_command: BenchCommand, _global: &Global) -> Result<(), Failure> {
    Err(Failure::world("not built yet"))
}
