//! A general in a pod elsewhere in the cluster.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::Uri;
use mindos_agent_sidecar::{About, Http, HttpClient};
use mindos_sdk::model::FailureKind;
use mindos_sdk::{Failure, General, ModelLoad, Output, ProviderLimits, Work};

use crate::metrics::Metrics;

/// How often a pod is asked whether its general is ready, at the most.
const ASK_INTERVAL: Duration = Duration::from_secs(5);
/// Questions of that kind in a second, all pods together: the kubelet of each asks as well.
const ASKS_PER_SECOND: u32 = 200;

/// A general in a pod. Cheap to clone; all clones are the same.
#[derive(Clone, Debug)]
pub(super) struct PodGeneral(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    http: Http,
    metrics: Arc<Metrics>,
    pod_is_ready: AtomicBool,
    /// When it last said that it was ready.
    said: Mutex<Option<Instant>>,
}

impl PodGeneral {
    pub(super) fn new(client: HttpClient, base: &Uri, about: About, metrics: Arc<Metrics>) -> PodGeneral {
        let http = Http::new(client, base, about);
        PodGeneral(Arc::new(Inner { http, metrics, pod_is_ready: AtomicBool::new(true), said: Mutex::default() }))
    }

    /// What its cluster says of its pod.
    pub(super) fn pod_is_ready(&self, ready: bool) {
        self.0.pod_is_ready.store(ready, Ordering::Relaxed);
        self.said(None);
    }

    fn said(&self, at: Option<Instant>) {
        *self.0.said.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }
}

/// How long an answer holds where there are so many instances.
fn interval(instances: i64) -> Duration {
    let instances = u32::try_from(instances).unwrap_or(0);
    ASK_INTERVAL.max(Duration::from_secs(1) * instances / ASKS_PER_SECOND)
}

impl General for PodGeneral {
    async fn process(&self, work: Work) -> Result<Output, Failure> {
        let metrics = Working::begin(&self.0.metrics);
        let done = self.0.http.process(work).await;
        if let Err(failure) = &done {
            metrics.0.work_failed.add(1);
            if failure.kind == FailureKind::Transient {
                // It may be gone: asked before it gets more.
                self.said(None);
            }
        }
        done
    }

    async fn ready(&self) -> bool {
        if !self.0.pod_is_ready.load(Ordering::Relaxed) {
            return false;
        }
        let said = *self.0.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.is_some_and(|at| at.elapsed() < interval(self.0.metrics.instances.get())) {
            return true;
        }
        let ready = self.0.http.ready().await;
        self.said(ready.then(Instant::now));
        ready && self.0.pod_is_ready.load(Ordering::Relaxed)
    }

    async fn models(&self) -> Vec<ModelLoad> {
        let limits = self.0.http.limits();
        let ProviderLimits { requests, tokens } = limits;
        let known = limits != ProviderLimits::default();
        known.then(|| ModelLoad { requests, tokens, ..ModelLoad::default() }).into_iter().collect()
    }
}

/// Counts a piece of work for as long as it lasts, however it ends.
struct Working(Arc<Metrics>);

impl Working {
    fn begin(metrics: &Arc<Metrics>) -> Working {
        metrics.work.add(1);
        metrics.work_running.add(1);
        Working(metrics.clone())
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.work_running.add(-1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_pods_are_asked_less_often() {
        assert_eq!(interval(0), ASK_INTERVAL);
        assert_eq!(interval(1000), ASK_INTERVAL);
        assert_eq!(interval(20_000), Duration::from_secs(100));
    }
}
