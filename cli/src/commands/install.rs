//! `mindos install`: what a cluster needs.

use clap::{Args, Subcommand};
use serde_json::Value;

use crate::failure::Failure;
use crate::options::Global;
use crate::render;

pub(crate) const EXAMPLES: &str = "\
Examples:
  mindos install crds | kubectl apply --server-side --field-manager mindos -f -
  mindos install crds --dir deploy/crds";
const CRDS_EXAMPLES: &str = "\
Examples:
  mindos install crds
  mindos install crds | kubectl apply --server-side --field-manager mindos -f -
  mindos install crds --output json
  mindos install crds --no-cel | kubectl apply -f -
  mindos install crds --dir deploy/crds";

#[derive(Debug, Subcommand)]
pub(crate) enum InstallCommand {
    /// Print the definitions of the objects: Cluster, General, Route, Budget, CodeRun and DocsRun.
    #[command(after_help = CRDS_EXAMPLES)]
    Crds(CrdsArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CrdsArgs {
    /// Write one file for each into this folder, which is made where it is missing, instead of printing them.
    #[arg(long, value_name = "DIR")]
    dir: Option<std::path::PathBuf>,
    /// Leave out the CEL rules, which API servers before 1.25 do not know.
    #[arg(long)]
    no_cel: bool,
}

pub(crate) fn run(command: InstallCommand, global: &Global) -> Result<(), Failure> {
    let InstallCommand::Crds(CrdsArgs { dir, no_cel }) = command;
    let mut crds = mindos_kube::crds();
    if no_cel {
        crds = crds.into_iter().map(|(file, crd)| (file, mindos_kube::without_rules(crd))).collect();
    }
    if let Some(dir) = dir {
        let failed = |error| Failure::world(format!("failed to write to {}: {error}", dir.display()));
        std::fs::create_dir_all(&dir).map_err(failed)?;
        for (file, crd) in &crds {
            std::fs::write(dir.join(file), mindos_kube::to_yaml(crd)).map_err(failed)?;
        }
        return Ok(());
    }
    if global.output.is_json() {
        let items: Result<Vec<Value>, _> = crds.iter().map(|(_, crd)| serde_json::to_value(crd)).collect();
        let items = items.map_err(|error| Failure::world(error.to_string()))?;
        render::print_json(&serde_json::json!({"apiVersion": "v1", "kind": "List", "items": items}));
        return Ok(());
    }
    for (_, crd) in &crds {
        render::print("---");
        render::print(mindos_kube::to_yaml(crd).trim_end());
    }
    Ok(())
}
