//! Keeps the ConfigMap that sidecars find the control plane's roots in, in every namespace in which a pod was injected.
//!
//! A pod that names a ConfigMap which is not there waits for it, so it is made after the pod was admitted, without holding that up.
//! Namespaces are known from their pods alone, so that nothing has to be listed; after a start those come back with their next pod.
//! One that is taken away, with its namespace or without, comes back with the next pod there, and without one when all are written again.

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

/// Between two looks at the file, two tries of what failed, and two writes in one namespace.
const LOOK: Duration = Duration::from_secs(5);
/// After this a ConfigMap is written again, in case somebody took it away: pods may wait for it.
const AGAIN: Duration = Duration::from_secs(60);
/// Those that are written again in one turn: pods that were just injected wait for its end.
const AGAIN_MAX: usize = 1000;
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

/// The namespaces in which a pod was injected.
#[derive(Default)]
struct Namespaces {
    /// Those that are looked after, and when each was written last.
    kept: BTreeMap<String, Instant>,
    /// Those that are to be written.
    due: BTreeSet<String>,
}

impl Namespaces {
    /// Whether the last write there is long enough ago.
    fn may_be_written(&self, namespace: &str, now: Instant) -> bool {
        self.kept.get(namespace).is_none_or(|at| now.duration_since(*at) >= LOOK)
    }

    /// A pod was injected there. Says whether it may be written at once.
    fn injected(&mut self, namespace: String, now: Instant) -> bool {
        let at_once = self.may_be_written(&namespace, now);
        self.want(namespace);
        at_once
    }

    /// Has it written.
    fn want(&mut self, namespace: String) {
        if self.due.len() < NAMESPACES_MAX {
            self.due.insert(namespace);
        }
    }

    /// Has all written, whenever they last were: there is something else to write.
    fn want_all(&mut self) {
        self.due.extend(std::mem::take(&mut self.kept).into_keys());
    }

    /// Takes what is to be written now: what is due, then what was written longest ago.
    fn turn(&mut self, now: Instant) -> Vec<String> {
        let due = std::mem::take(&mut self.due);
        let (due, later): (BTreeSet<_>, BTreeSet<_>) =
            due.into_iter().partition(|namespace| self.may_be_written(namespace, now));
        self.due = later;
        let is_old = |at: Instant| now.duration_since(at) >= AGAIN;
        let mut old: Vec<_> =
            self.kept.iter().filter(|(namespace, at)| is_old(**at) && !due.contains(*namespace)).collect();
        old.sort_unstable_by_key(|(_, at)| **at);
        let old: Vec<String> = old.into_iter().take(AGAIN_MAX).map(|(namespace, _)| namespace.clone()).collect();
        due.into_iter().chain(old).collect()
    }

    /// It was written, or could not be.
    fn ended(&mut self, namespace: String, written: Result<(), kube::Error>, now: Instant) {
        match written {
            Ok(()) => {
                if self.kept.len() < NAMESPACES_MAX || self.kept.contains_key(&namespace) {
                    self.kept.insert(namespace, now);
                }
            }
            // So are its pods.
            Err(error) if is_gone(&error) => {
                self.kept.remove(&namespace);
            }
            Err(error) => {
                warn!(error = chain(&error), namespace, "roots could not be written");
                self.want(namespace);
            }
        }
    }
}

/// Whether the namespace is gone, or about to be.
fn is_gone(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let mut causes = status.details.iter().flat_map(|details| &details.causes);
    status.code == 404 || causes.any(|cause| cause.reason == "NamespaceTerminating")
}

impl TrustKeeper {
    /// Keeps them until it is dropped. `roots` are those that were read at the start.
    pub(super) async fn run(mut self, mut roots: String) {
        let mut namespaces = Namespaces::default();
        let mut failed = String::new();
        loop {
            let (until, mut at_once) = (Instant::now() + LOOK, false);
            while let Ok(Some(namespace)) = timeout_at(until, self.namespaces.recv()).await {
                at_once |= namespaces.injected(namespace, Instant::now());
                if at_once && self.namespaces.is_empty() {
                    break;
                }
            }
            if self.namespaces.is_closed() {
                return;
            }
            match read(&self.file) {
                Ok(read) if read != roots => {
                    roots = read;
                    namespaces.want_all();
                }
                Ok(_) => {}
                Err(error) if error != failed => {
                    warn!(error, "roots could not be read again");
                    failed = error;
                }
                Err(_) => {}
            }
            for namespace in namespaces.turn(Instant::now()) {
                let written = self.write(&namespace, &roots).await;
                namespaces.ended(namespace, written, Instant::now());
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

#[cfg(test)]
mod tests {
    use kube::core::Status;
    use kube::core::response::{StatusCause, StatusDetails};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Namespaces that were written at this time.
    fn kept(names: &[&str], at: Instant) -> Namespaces {
        let mut namespaces = Namespaces::default();
        for name in names {
            assert!(namespaces.injected((*name).to_owned(), at), "{name}");
        }
        assert_eq!(namespaces.turn(at), names);
        for name in names {
            namespaces.ended((*name).to_owned(), Ok(()), at);
        }
        namespaces
    }

    fn failure(code: u16, cause: &str) -> kube::Error {
        let cause = StatusCause { reason: cause.to_owned(), message: String::new(), field: String::new() };
        let details = StatusDetails {
            name: String::new(),
            group: String::new(),
            kind: String::new(),
            uid: String::new(),
            causes: vec![cause],
            retry_after_seconds: 0,
        };
        kube::Error::Api(Status::failure("no", "").with_code(code).with_details(details).boxed())
    }

    #[test]
    fn a_namespace_that_was_made_again_gets_its_roots_with_its_next_pod() {
        let start = Instant::now();
        let mut namespaces = kept(&["a"], start);
        // Many pods of one namespace are one write, which waits until it may be.
        assert!(!namespaces.injected("a".to_owned(), start + SECOND));
        assert!(namespaces.turn(start + SECOND).is_empty());
        assert_eq!(namespaces.turn(start + LOOK), ["a"]);
        namespaces.ended("a".to_owned(), Ok(()), start + LOOK);
        assert!(namespaces.turn(start + 2 * LOOK).is_empty());
        assert!(namespaces.injected("a".to_owned(), start + 2 * LOOK));
        assert_eq!(namespaces.turn(start + 2 * LOOK), ["a"]);
    }

    #[test]
    fn roots_come_back_without_another_pod_and_what_is_gone_is_forgotten() {
        let start = Instant::now();
        let mut namespaces = kept(&["a", "b", "c"], start);
        assert!(namespaces.turn(start + AGAIN - SECOND).is_empty());
        let again = start + AGAIN;
        assert_eq!(namespaces.turn(again), ["a", "b", "c"]);
        namespaces.ended("a".to_owned(), Ok(()), again);
        namespaces.ended("b".to_owned(), Err(failure(404, "")), again);
        namespaces.ended("c".to_owned(), Err(failure(403, "NamespaceTerminating")), again);
        assert_eq!(namespaces.turn(again + AGAIN), ["a"]);
    }

    #[test]
    fn what_could_not_be_written_is_tried_again() {
        let start = Instant::now();
        let mut namespaces = kept(&["a"], start);
        assert_eq!(namespaces.turn(start + AGAIN), ["a"]);
        namespaces.ended("a".to_owned(), Err(failure(503, "")), start + AGAIN);
        assert_eq!(namespaces.turn(start + AGAIN), ["a"], "once");
    }

    #[test]
    fn those_written_longest_ago_are_first_and_pods_are_before_them() {
        let start = Instant::now();
        let mut namespaces = Namespaces::default();
        for number in 0..=AGAIN_MAX as u64 {
            let at = start - Duration::from_millis(number);
            namespaces.ended(format!("n{number:04}"), Ok(()), at);
        }
        namespaces.injected("z".to_owned(), start + AGAIN);
        let turn = namespaces.turn(start + AGAIN);
        assert_eq!((turn.len(), &*turn[0], &*turn[1]), (AGAIN_MAX + 1, "z", "n1000"));
        assert!(!turn.contains(&"n0000".to_owned()), "the youngest has its turn next");
    }

    #[test]
    fn namespaces_are_kept_up_to_a_bound() {
        let start = Instant::now();
        let mut namespaces = Namespaces::default();
        for number in 0..=NAMESPACES_MAX {
            namespaces.ended(number.to_string(), Ok(()), start);
            namespaces.want(format!("due {number}"));
        }
        assert_eq!((namespaces.kept.len(), namespaces.due.len()), (NAMESPACES_MAX, NAMESPACES_MAX));
    }
}
