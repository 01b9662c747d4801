//! The cluster, by kubectl in the PATH: whoever installs has it, with credentials that this program need not know.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::failure::Failure;

/// Who applies, as server-side apply has it.
const MANAGER: &str = "mindos";
const TIMEOUT: Duration = Duration::from_secs(120);
/// Bytes of an answer that is shown.
const SAID_MAX: usize = 4096;

/// A cluster.
#[derive(Debug)]
pub(super) struct Kubectl {
    kubeconfig: Option<PathBuf>,
    context: Option<String>,
}

/// The version of an API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(u32, u32);

impl Version {
    /// One that knows all that is asked of it.
    pub(super) const NEWEST: Version = Version(u32::MAX, 0);

    /// As `/version` tells it; some vendors write `20+`.
    fn read(text: &str) -> Option<Version> {
        let value: Value = serde_json::from_str(text).ok()?;
        let number = |field: &str| value[field].as_str()?.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().ok();
        Some(Version(number("major")?, number("minor")?))
    }

    /// Whether it evaluates the CEL rules of definitions.
    pub(super) fn knows_rules(self) -> bool {
        self >= Version(1, 25)
    }

    /// Whether it has PodDisruptionBudgets of policy/v1.
    pub(super) fn has_budgets(self) -> bool {
        self >= Version(1, 21)
    }
}

impl Kubectl {
    /// The version of the API server.
    pub(super) async fn version(&self) -> Result<Version, Failure> {
        let text = self.get_raw("/version").await?;
        Version::read(&text).ok_or_else(|| Failure::world("/version of the cluster names none"))
    }

    pub(super) fn new(kubeconfig: Option<PathBuf>, context: Option<String>) -> Kubectl {
        Kubectl { kubeconfig, context }
    }

    /// What the API server says at a path.
    pub(super) async fn get_raw(&self, path: &str) -> Result<String, Failure> {
        self.run(&["get", "--raw", path], None).await
    }

    /// Applies a list of objects; what kubectl says of each.
    pub(super) async fn apply(&self, list: &Value) -> Result<String, Failure> {
        // Old servers know nothing of newer fields, and drop them: that is no reason not to apply.
        let manager = format!("--field-manager={MANAGER}");
        self.run(&["apply", "--server-side", "--validate=false", &manager, "-f", "-"], Some(list.to_string())).await
    }

    async fn run(&self, words: &[&str], given: Option<String>) -> Result<String, Failure> {
        let mut command = Command::new("kubectl");
        if let Some(kubeconfig) = &self.kubeconfig {
            command.arg("--kubeconfig").arg(kubeconfig);
        }
        if let Some(context) = &self.context {
            command.arg(format!("--context={context}"));
        }
        command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| {
            Failure::world(format!("kubectl does not start: {error}")).hint("kubectl has to be in the PATH")
        })?;
        let mut input = child.stdin.take().expect("it was asked for");
        let feed = async move {
            // Who does not read it to its end says why on standard error.
            let _ = input.write_all(given.unwrap_or_default().as_bytes()).await;
        };
        let waited = tokio::time::timeout(TIMEOUT, async { tokio::join!(feed, child.wait_with_output()).1 }).await;
        let output = match waited {
            Ok(output) => output?,
            Err(_) => return Err(Failure::world(format!("kubectl {} took longer than {TIMEOUT:?}", words[0]))),
        };
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let said: String = said.trim().chars().take(SAID_MAX).collect();
            return Err(Failure::world(format!("kubectl {}: {said}", words[0])));
        }
        String::from_utf8(output.stdout).map_err(|_| Failure::world("kubectl answers in no text"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_knows_follows_from_its_version() {
        let read = |minor: &str| Version::read(&format!(r#"{{"major":"1","minor":"{minor}"}}"#)).unwrap();
        assert!(!read("20").has_budgets() && read("21").has_budgets() && !read("24+").knows_rules());
        assert!(read("25").knows_rules() && Version::NEWEST.knows_rules());
        assert_eq!(Version::read("{}"), None);
    }
}
