//! That the cluster is one: what other scenarios rest on.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, LogParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::bed::Bed;
use crate::cluster::{MANAGER, Part};
use crate::eventually::eventually;
use crate::scenario::{Scenario, Size};

/// Those of this module.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "server_runs_jobs",
        what: "a Job's pod is scheduled, runs, ends and is told about; logs and termination message can be read",
        quick: true,
        run: |bed, _| Box::pin(runs_jobs(bed)),
    },
    Scenario {
        name: "server_restarts",
        what: "the API server is killed and back with what it held, and its controllers go on",
        quick: true,
        run: |bed, size| Box::pin(restarts(bed, size)),
    },
];

async fn runs_jobs(bed: &mut Bed) -> Result<Value> {
    let cluster = bed.cluster();
    cluster.namespace("server-jobs", &[]).await?;
    let jobs: Api<Job> = Api::namespaced(cluster.client(), "server-jobs");
    let notes = json!({"fake/after": "0.2", "fake/log": "hello from a pod\n", "fake/message": "done"});
    for (name, phase) in [("well", "Succeeded"), ("badly", "Failed")] {
        let mut notes = notes.clone();
        notes["fake/phase"] = json!(phase);
        let job = serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {"backoffLimit": 0, "template": {
                "metadata": {"annotations": notes},
                "spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "none"}]},
            }},
        }))?;
        jobs.create(&PostParams::default(), &job).await?;
    }
    let ended = |name: &'static str, kind: &'static str| {
        let jobs = jobs.clone();
        async move {
            let conditions = jobs.get(name).await?.status.and_then(|status| status.conditions).unwrap_or_default();
            Ok(conditions.iter().any(|one| one.type_ == kind && one.status == "True").then_some(()))
        }
    };
    let ((), complete) = eventually("a Job is complete", Duration::from_secs(30), || ended("well", "Complete")).await?;
    eventually("a Job has failed", Duration::from_secs(30), || ended("badly", "Failed")).await?;
    let pods: Api<Pod> = Api::namespaced(cluster.client(), "server-jobs");
    let pod = pods.list(&ListParams::default().labels("job-name=well")).await?.items.pop();
    let pod = pod.map(|pod| (pod.metadata.name.unwrap_or_default(), pod.status.unwrap_or_default()));
    let Some((name, status)) = pod else { anyhow::bail!("the Job has no pod") };
    let containers = status.container_statuses.unwrap_or_default();
    let message = containers.first().and_then(|one| one.state.clone()?.terminated?.message);
    ensure!(message.as_deref() == Some("done"), "its termination message is {message:?}");
    let log = pods.logs(&name, &LogParams::default()).await?;
    ensure!(log == "hello from a pod\n", "its log is {log:?}");
    Ok(json!({"complete_ms": complete.as_millis() as u64}))
}

async fn restarts(bed: &mut Bed, size: Size) -> Result<Value> {
    let cluster = bed.cluster_mut();
    cluster.namespace("server-restarts", &[]).await?;
    let pods: Api<Pod> = Api::namespaced(cluster.client(), "server-restarts");
    let count = size.of(3, 50);
    let pod = |name: &str| {
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"containers": [{"name": "main", "image": "none"}]},
        })
    };
    for number in 0..count {
        let name = format!("before-{number}");
        pods.patch(&name, &PatchParams::apply(MANAGER), &Patch::Apply(&pod(&name))).await?;
    }
    cluster.kill(Part::ApiServer)?;
    ensure!(pods.list(&ListParams::default()).await.is_err(), "the API server answers though it was killed");
    let begun = std::time::Instant::now();
    cluster.revive(Part::ApiServer).await?;
    let back = begun.elapsed();
    pods.patch("after", &PatchParams::apply(MANAGER), &Patch::Apply(&pod("after"))).await?;
    let running = async || {
        let all = pods.list(&ListParams::default().fields("status.phase=Running")).await?.items.len();
        Ok((all == count + 1).then_some(()))
    };
    eventually("pods from before and after run", Duration::from_secs(60), running).await?;
    Ok(json!({"pods": count + 1, "back_ms": back.as_millis() as u64}))
}
