//! The checks in `.ci/kube` that are Python: Helm's library, schemas of newer servers, the restricted profile.

use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::AsyncWriteExt;

use crate::assets::checkout;
use crate::cluster::Cluster;

/// The Python that has what `.ci/kube/tools.txt` names.
const PYTHON: &str = "MINDOS_KUBE_PYTHON";

/// Runs a script of `.ci/kube` for a cluster and returns what it printed.
///
/// # Errors
/// When it fails, with all that it said.
pub async fn run(cluster: &Cluster, script: &str, arguments: &[&str], input: &str) -> Result<String> {
    let Some(python) = std::env::var_os(PYTHON) else {
        bail!("{PYTHON} is not set: it names the python of an environment with what `.ci/kube/tools.txt` names");
    };
    let kubectl = cluster.program("kubectl");
    // Some call it by name.
    let folder = kubectl.parent().context("kubectl is in a folder")?.to_owned();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::iter::once(folder).chain(std::env::split_paths(&path)))?;
    let mut child = tokio::process::Command::new(python)
        .arg("-B")
        .arg(checkout(&format!(".ci/kube/{script}"))?)
        .args(arguments)
        .env("PATH", path)
        .env("HOME", cluster.folder())
        .env("KUBECTL", kubectl)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("failed to start {script}"))?;
    let mut stdin = child.stdin.take().context("a script has an input")?;
    let write = async move {
        // It may end before it has read everything.
        let _ = stdin.write_all(input.as_bytes()).await;
    };
    let (output, ()) = tokio::join!(child.wait_with_output(), write);
    let output = output.with_context(|| format!("failed to wait for {script}"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{script} {arguments:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
    Ok(said)
}
