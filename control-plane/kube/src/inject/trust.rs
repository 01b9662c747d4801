//! Keeps the ConfigMap that sidecars find the control plane's roots in, in every namespace in which a pod was injected.
//!
//! A pod that names a ConfigMap which is not there waits for it, so it is made after the pod was admitted, without holding that up.
//! Namespaces are known from their pods alone, so that nothing has to be listed; after a start those come back with their next pod.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, Patch, PatchParams};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tracing::{debug, warn};

use super::keeper::{MANAGER, chain};
use super::metrics::Metrics;
use super::sidecar::CA_KEY;

/// Between two looks at the file, and two tries of what failed.
const LOOK: Duration = Duration::from_secs(5);
/// After this a ConfigMap is written again, in case somebody took it away.
const AGAIN: Duration = Duration::from_secs(600);
/// Namespaces that are looked after. Beyond, the next pod of a namespace has it written again.
const NAMESPACES_MAX: usize = 10_000;
/// Namespaces that wait to be looked at.
pub(super) const WAITING_MAX: usize = 4096;
/// Bytes of the roots.
const ROOTS_MAX: u64 = 512 << 10;

/// Keeps them.
pub(super) struct TrustKeeper {
    pub(super) client: kube::Client,
    pub(super) name: String,
    pub(super) file: PathBuf,
    pub(super) namespaces: mpsc::Receiver<String>,
    pub(super) metrics: Arc<Metrics>,
}

/// Reads roots; refuses what holds none, and what is longer than a ConfigMap may be.
///
/// # Errors
/// Says what is wrong.
pub(super) fn read(path: &Path) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("failed to read `{}`: {error}", path.display());
    let length = std::fs::metadata(path).map_err(failed)?.len();
    if length > ROOTS_MAX {
        return Err(format!("`{}` has {length} bytes: expected at most {ROOTS_MAX}", path.display()));
    }
    let text = std::fs::read_to_string(path).map_err(failed)?;
    let roots = CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>();
    match roots {
        Ok(roots) if !roots.is_empty() => Ok(text),
        _ => Err(format!("`{}` holds no certificates: expected PEM", path.display())),
    }
}

impl TrustKeeper {
    /// Keeps them until it is dropped. `roots` are those that were read at the start.
    pub(super) async fn run(mut self, mut roots: String) {
        let mut kept = BTreeMap::<String, Instant>::new();
        let mut due = BTreeSet::new();
        let mut failed = String::new();
        loop {
            let until = Instant::now() + LOOK;
            while let Ok(Some(namespace)) = timeout_at(until, self.namespaces.recv()).await {
                if due.len() < NAMESPACES_MAX && kept.get(&namespace).is_none_or(|at| at.elapsed() >= AGAIN) {
                    due.insert(namespace);
                    if self.namespaces.is_empty() {
                        break;
                    }
                }
            }
            if self.namespaces.is_closed() {
                return;
            }
            match read(&self.file) {
                Ok(read) if read != roots => {
                    roots = read;
                    due.extend(std::mem::take(&mut kept).into_keys());
                }
                Ok(_) => {}
                Err(error) if error != failed => {
                    warn!(error, "roots could not be read again");
                    failed = error;
                }
                Err(_) => {}
            }
            for namespace in std::mem::take(&mut due) {
                match self.write(&namespace, &roots).await {
                    Ok(()) => {
                        if kept.len() >= NAMESPACES_MAX {
                            kept.clear();
                        }
                        kept.insert(namespace, Instant::now());
                    }
                    // Gone meanwhile: so are its pods.
                    Err(kube::Error::Api(status)) if status.code == 404 => {}
                    Err(error) => {
                        let text = chain(&error);
                        warn!(error = text, namespace, "roots could not be written");
                        if due.len() < NAMESPACES_MAX {
                            due.insert(namespace);
                        }
                    }
                }
            }
        }
    }

    async fn write(&self, namespace: &str, roots: &str) -> Result<(), kube::Error> {
        let maps = Api::<ConfigMap>::namespaced(self.client.clone(), namespace);
        let patch = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": self.name, "labels": {"app.kubernetes.io/managed-by": MANAGER}},
            "data": {CA_KEY: roots},
        });
        let params = PatchParams::apply(MANAGER).force();
        let written = maps.patch(&self.name, &params, &Patch::Apply(&patch)).await;
        self.metrics.config_map(written.is_ok());
        debug!(namespace, kept = written.is_ok(), "roots were written");
        written.map(|_| ())
    }
}
