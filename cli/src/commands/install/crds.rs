//! `mindos install crds`: the definitions of the objects.

use clap::Args;
use serde_json::Value;

use crate::failure::Failure;
use crate::options::Global;
use crate::render;

pub(super) const EXAMPLES: &str = "\
Examples:
  mindos install crds
  mindos install crds | kubectl apply --server-side --field-manager mindos -f -
  mindos install crds --output json
  mindos install crds --no-cel | kubectl apply -f -
  mindos install crds --dir deploy/crds";

#[derive(Debug, Args)]
pub(crate) struct CrdsArgs {
    /// Write one file for each into this folder, which is made where it is missing, instead of printing them.
    #[arg(long, value_name = "DIR")]
    dir: Option<std::path::PathBuf>,
    /// Leave out the CEL rules, which API servers before 1.25 do not know.
    #[arg(long)]
    no_cel: bool,
}

pub(super) fn run(args: CrdsArgs, global: &Global) -> Result<(), Failure> {
    let CrdsArgs { dir, no_cel } = args;
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

/// The definitions, as objects among others; without CEL rules for API servers that do not know them.
pub(super) fn definitions(knows_rules: bool) -> Result<Vec<Value>, Failure> {
    let crds = mindos_kube::crds().into_iter().map(|(_, crd)| match knows_rules {
        true => crd,
        false => mindos_kube::without_rules(crd),
    });
    let values = crds.map(serde_json::to_value).collect::<Result<_, _>>();
    values.map_err(|error| Failure::world(format!("a definition cannot be written: {error}")))
}
