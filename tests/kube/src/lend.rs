//! A cluster that is lent to a command: to tests of other crates, which find it by their environment.
//!
//! ```text
//!  MINDOS_TEST_KUBECONFIG   the kubeconfig of who may do everything
//!  MINDOS_TEST_RESTART      a command that kills the API server, starts it again and returns when it is ready
//! ```

use std::process::ExitStatus;

use anyhow::{Context, Result};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::process::Command;

use crate::cluster::{Cluster, Part};

/// Runs a command with a cluster until it ends. What it prints is seen.
///
/// # Errors
/// When it does not start, or the API server does not come back after a restart that was asked for.
pub async fn lend(cluster: &mut Cluster, program: &str, arguments: &[String]) -> Result<ExitStatus> {
    // Whoever connects asks for a restart, and is told when it is done.
    let asked = TcpListener::bind("127.0.0.1:0").await.context("failed to listen for restarts")?;
    let address = asked.local_addr().context("a listener has an address")?;
    let restart = format!(
        "bash -c 'exec 3<>/dev/tcp/{}/{} && read -r said <&3 && [[ $said == back ]]'",
        address.ip(),
        address.port()
    );
    let mut child = Command::new(program)
        .args(arguments)
        .env("MINDOS_TEST_KUBECONFIG", cluster.kubeconfig())
        .env("MINDOS_TEST_RESTART", restart)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("failed to start {program}"))?;
    loop {
        let mut asks = tokio::select! {
            ended = child.wait() => return ended.with_context(|| format!("failed to wait for {program}")),
            asks = asked.accept() => asks.context("failed to hear who asks for a restart")?.0,
        };
        cluster.kill(Part::ApiServer)?;
        cluster.revive(Part::ApiServer).await?;
        asks.write_all(b"back\n").await.context("failed to say that the API server is back")?;
    }
}
