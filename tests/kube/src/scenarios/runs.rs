//! Runs: CodeRun and DocsRun over the platform's paths and by `kubectl apply`, as Jobs, through failures and restarts.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::{Api, DeleteParams, ListParams, PropagationPolicy};
use mindos_e2e::process::Process;
use mindos_e2e::world::{World, free_address, http};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::bed::Bed;
use crate::cluster::{Cluster, Part};
use crate::eventually::eventually;
use crate::scenario::{Scenario, Size};

/// Those of this module.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "runs_succeed",
        what: "a request becomes an object, files, workspace and Job; pull request, cost and log come back; by hand the same",
        quick: true,
        run: |bed, _| Box::pin(succeed(bed)),
    },
    Scenario {
        name: "runs_fail",
        what: "a Job that fails is tried again under the next context, and given up after three with the end of its log",
        quick: true,
        run: |bed, _| Box::pin(fail(bed)),
    },
    Scenario {
        name: "runs_end_early",
        what: "a cancelled run's Job is deleted; a deleted object cancels its delivery, also while nobody is at work on it",
        quick: true,
        run: |bed, _| Box::pin(end_early(bed)),
    },
    Scenario {
        name: "runs_restart",
        what: "API server, agent and control plane are killed in mid-run: every run has one Job and one result",
        quick: true,
        run: |bed, size| Box::pin(restart(bed, size)),
    },
    Scenario {
        name: "runs_away",
        what: "Jobs end while the agent is away: one that is there is read, one that is gone is not done again",
        quick: true,
        run: |bed, _| Box::pin(away(bed)),
    },
];

const SOON: Duration = Duration::from_secs(60);
const OUTCOME: &str = r#"{"exitCode":0,"pullRequestUrl":"https://github.com/acme/trader/pull/7","branch":"b","sessionId":"s-1","costUsd":0.25,"inputTokens":100,"outputTokens":20,"message":""}"#;

/// A control plane, an agent that does runs, and the namespace that they are in.
struct Stage {
    world: World,
    platform: String,
    agent: Option<Process>,
    namespace: &'static str,
    kubeconfig: String,
}

impl Stage {
    async fn start(cluster: &Cluster, namespace: &'static str) -> Result<Stage> {
        prepare(cluster, namespace).await?;
        let platform = free_address()?;
        let surface = format!("platform={platform}");
        let world = World::started(namespace, &["--surface", &surface, "--run-namespace", namespace]).await?;
        let kubeconfig = cluster.kubeconfig_of(namespace, "agent").await?.display().to_string();
        let mut stage = Stage { world, platform, agent: None, namespace, kubeconfig };
        stage.start_agent(cluster)?;
        Ok(stage)
    }

    fn start_agent(&mut self, cluster: &Cluster) -> Result<()> {
        let agents = format!("http://{}", self.world.agents());
        let probes = free_address()?;
        let words = [
            "cluster-agent",
            "--control-plane",
            &agents,
            "--cluster",
            cluster.name(),
            "--instance",
            "agent-0",
            "--namespace",
            self.namespace,
            "--no-discovery",
            "--no-objects",
            "--runs",
            "8",
            "--run-namespaces",
            self.namespace,
            "--finalizer-timeout",
            "5",
            "--lease-duration",
            "5",
            "--kubeconfig",
            &self.kubeconfig,
            "--listen",
            &probes,
        ];
        self.agent = Some(Process::start(self.world.folder(), "agent-0", &words.map(str::to_owned))?);
        Ok(())
    }

    fn log(&self) -> String {
        self.agent.as_ref().map(Process::log_end).unwrap_or_default()
    }

    async fn ask(&self, method: &str, path: &str, body: &Value) -> Result<(u16, Value)> {
        let headers = [("content-type", "application/json")];
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (code, answer) = http(&self.platform, method, path, &headers, body.as_bytes()).await?;
        let text = String::from_utf8_lossy(&answer).into_owned();
        Ok((code, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    /// Asks for a code run; its name.
    async fn code(&self, task: u32, service: &str) -> Result<String> {
        let body = json!({
            "task_id": task, "service": service, "repository_url": "https://github.com/acme/trader",
            "docs_repository_url": "git@github.com:acme/docs.git", "github_user": "ada",
        });
        let (code, taken) = self.ask("POST", "/api/v1/pm/tasks", &body).await?;
        ensure!(code == 200, "{code} {taken}");
        Ok(taken["data"]["coderun_name"].as_str().context("a name")?.to_owned())
    }

    async fn run(&self, name: &str) -> Result<Value> {
        let (code, run) = self.ask("GET", &format!("/api/v1/pm/tasks/{name}"), &Value::Null).await?;
        ensure!(code == 200, "{code} {run}");
        Ok(run["data"].clone())
    }

    /// Waits until a run of the control plane has a phase.
    async fn reaches(&self, name: &str, phase: &str) -> Result<(Value, Duration)> {
        let what = format!("run {name} is {phase}; the agent's log ends: {}", self.log());
        eventually(&what, SOON, async || {
            let run = self.run(name).await?;
            ensure!(run["phase"] == phase, "it is {run}");
            Ok(Some(run))
        })
        .await
        .with_context(|| self.log())
    }
}

/// A namespace with the definitions, the configuration and the service account of an agent that may do what runs need and nothing else.
async fn prepare(cluster: &Cluster, namespace: &str) -> Result<()> {
    cluster.namespace(namespace, &[]).await?;
    let crds: Vec<Value> =
        mindos_kube::platform::crds().iter().map(serde_json::to_value).collect::<std::result::Result<_, _>>()?;
    cluster
        .kubectl(&["apply", "-f", "-"], &json!({ "apiVersion": "v1", "kind": "List", "items": crds }).to_string())
        .await?;
    for crd in ["coderuns.orchestrator.platform", "docsruns.orchestrator.platform"] {
        cluster.kubectl(&["wait", "--for=condition=Established", "--timeout=30s", &format!("crd/{crd}")], "").await?;
    }
    let subject = json!([{ "kind": "ServiceAccount", "name": "agent", "namespace": namespace }]);
    let group = "rbac.authorization.k8s.io";
    let rules = json!([
        { "apiGroups": ["orchestrator.platform"], "resources": ["coderuns", "docsruns"], "verbs": ["get", "list", "watch", "create", "patch"] },
        { "apiGroups": ["orchestrator.platform"], "resources": ["coderuns/status", "docsruns/status"], "verbs": ["patch"] },
        { "apiGroups": ["orchestrator.platform"], "resources": ["coderuns/finalizers", "docsruns/finalizers"], "verbs": ["update"] },
        { "apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get", "list", "watch", "create", "patch", "delete"] },
        { "apiGroups": [""], "resources": ["configmaps", "persistentvolumeclaims"], "verbs": ["get", "create", "patch"] },
        { "apiGroups": [""], "resources": ["pods"], "verbs": ["list"] },
        { "apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"] },
        { "apiGroups": [""], "resources": ["events"], "verbs": ["create"] },
        { "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create", "get", "update"] },
    ]);
    let objects = json!({ "apiVersion": "v1", "kind": "List", "items": [
        { "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "agent", "namespace": namespace } },
        { "apiVersion": format!("{group}/v1"), "kind": "Role", "metadata": { "name": "agent", "namespace": namespace }, "rules": rules },
        { "apiVersion": format!("{group}/v1"), "kind": "RoleBinding", "metadata": { "name": "agent", "namespace": namespace },
            "roleRef": { "apiGroup": group, "kind": "Role", "name": "agent" }, "subjects": subject },
    ]});
    cluster.kubectl(&["apply", "-f", "-"], &objects.to_string()).await?;
    pods_do(cluster, namespace, json!({ "fake/after": "0.3", "fake/message": OUTCOME, "fake/log": "hello\nworld\n" }))
        .await
}

/// What pods of Jobs do from here on.
async fn pods_do(cluster: &Cluster, namespace: &str, notes: Value) -> Result<()> {
    let config = json!({
        "job": { "podAnnotations": notes },
        "agent": { "image": { "repository": "ghcr.io/5dlabs/platform/claude-code", "tag": "1.0.56" } },
        "storage": { "storageClassName": "standard" },
    });
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "task-controller-config", "namespace": namespace },
        "data": { "config.yaml": config.to_string() },
    });
    cluster.kubectl(&["apply", "-f", "-"], &map.to_string()).await?;
    Ok(())
}

fn object(namespace: &str, name: &str, service: &str) -> Value {
    json!({
        "apiVersion": "orchestrator.platform/v1", "kind": "CodeRun", "metadata": { "name": name, "namespace": namespace },
        "spec": {
            "taskId": 9, "service": service, "repositoryUrl": "https://github.com/acme/trader",
            "docsRepositoryUrl": "https://github.com/acme/docs", "model": "m", "githubUser": "ada",
            "tools": { "local": ["git"], "remote": ["a_b"] }, "githubApp": "kept",
        },
    })
}

async fn read(cluster: &Cluster, namespace: &str, name: &str) -> Result<Value> {
    let text = cluster.kubectl(&["get", "coderun", name, "-n", namespace, "-o", "json"], "").await?;
    Ok(serde_json::from_str(&text)?)
}

async fn is_gone(cluster: &Cluster, namespace: &str, name: &str) -> Result<Duration> {
    let ((), took) = eventually("an object is gone", SOON, async || {
        let text =
            cluster.kubectl(&["get", "coderun", name, "-n", namespace, "--ignore-not-found", "-o", "name"], "").await?;
        Ok(text.trim().is_empty().then_some(()))
    })
    .await?;
    Ok(took)
}

fn jobs(cluster: &Cluster, namespace: &str) -> Api<Job> {
    Api::namespaced(cluster.client(), namespace)
}

/// Waits until an object's status has a phase.
async fn object_reaches(stage: &Stage, cluster: &Cluster, name: &str, phase: &str) -> Result<Value> {
    let (found, _) = eventually(&format!("object {name} is {phase}"), SOON, async || {
        let found = read(cluster, stage.namespace, name).await?;
        ensure!(found["status"]["phase"] == phase, "it is {}", found["status"]);
        Ok(Some(found))
    })
    .await
    .with_context(|| stage.log())?;
    Ok(found)
}

async fn succeed(bed: &mut Bed) -> Result<Value> {
    let cluster = bed.cluster();
    let stage = Stage::start(cluster, "runs-succeed").await?;
    let name = stage.code(5, "trader").await?;
    let (run, took) = stage.reaches(&name, "Succeeded").await?;
    ensure!(run["pull_request_url"] == "https://github.com/acme/trader/pull/7", "{run}");
    ensure!(run["cost_usd"] == "0.2500" && run["session_id"] == "s-1", "{run}");
    let (code, log) = stage.ask("GET", &format!("/api/v1/pm/tasks/{name}/logs"), &Value::Null).await?;
    ensure!(code == 200 && log == "hello\nworld\n", "the log is {log}");

    let found = object_reaches(&stage, cluster, &name, "Succeeded").await?;
    let status = &found["status"];
    ensure!(status["pullRequestUrl"] == run["pull_request_url"] && status["workCompleted"] == true, "{status}");
    ensure!(status["conditions"][0]["type"] == "Ready" && status["conditions"][0]["status"] == "True", "{status}");
    ensure!(status["costUsd"] == "0.2500" && status["retryCount"] == 0 && status["contextVersion"] == 1, "{status}");
    let job = jobs(cluster, stage.namespace).get(status["jobName"].as_str().context("a Job's name")?).await?;
    let pod = job.spec.context("a spec")?.template.spec.context("a pod")?;
    ensure!(pod.automount_service_account_token == Some(false), "the pod has a token");
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(cluster.client(), stage.namespace);
    claims.get("workspace-trader").await.context("the workspace stays")?;

    // By hand: an object like any other, in either shape of tools, with what is not known kept.
    cluster.kubectl(&["apply", "-f", "-"], &object(stage.namespace, "by-hand", "trader").to_string()).await?;
    let found = object_reaches(&stage, cluster, "by-hand", "Succeeded").await?;
    ensure!(found["spec"]["githubApp"] == "kept" && found["spec"]["tools"]["local"][0] == "git", "{}", found["spec"]);
    let uid = found["metadata"]["uid"].as_str().context("a uid")?;
    // The object says so a moment before the control plane has it in its ledger.
    let (by_hand, _) = stage.reaches(uid, "Succeeded").await?;
    ensure!(by_hand["name"] == "by-hand", "{by_hand}");
    ensure!(found["metadata"]["annotations"]["mindos.io/delivery"] == by_hand["delivery"], "{}", found["metadata"]);

    // What is not accepted is said on the object.
    let mut bad = object(stage.namespace, "bad", "trader");
    bad["spec"]["repositoryUrl"] = json!("https://ada:pw@github.com/a/b");
    cluster.kubectl(&["apply", "-f", "-"], &bad.to_string()).await?;
    let bad = object_reaches(&stage, cluster, "bad", "Failed").await?;
    ensure!(bad["status"]["message"].as_str().unwrap_or_default().contains("repositoryUrl"), "{}", bad["status"]);

    let docs = json!({
        "repository_url": "https://github.com/acme/docs", "working_directory": ".", "source_branch": "main", "github_user": "ada",
    });
    let (code, taken) = stage.ask("POST", "/api/v1/pm/docs/generate", &docs).await?;
    ensure!(code == 201, "{taken}");
    let docs = taken["data"]["docsrun_name"].as_str().context("a name")?;
    stage.reaches(docs, "Succeeded").await?;
    // Finished objects go at once.
    cluster.kubectl(&["delete", "coderun", &name, "-n", stage.namespace, "--timeout=20s"], "").await?;
    Ok(json!({ "post_to_succeeded_ms": took.as_millis() as u64 }))
}

async fn fail(bed: &mut Bed) -> Result<Value> {
    let cluster = bed.cluster();
    let stage = Stage::start(cluster, "runs-fail").await?;
    let told = r#"{"exitCode":3,"costUsd":0.1,"message":"tests are red"}"#;
    let notes = json!({ "fake/after": "0.3", "fake/phase": "Failed", "fake/exit": "3", "fake/message": told, "fake/log": "line a\nline b\n" });
    pods_do(cluster, stage.namespace, notes).await?;
    let name = stage.code(5, "trader").await?;
    let (run, took) = stage.reaches(&name, "Failed").await?;
    let message = run["message"].as_str().unwrap_or_default();
    ensure!(message.contains("attempt 3 of 3 failed: tests are red, exit code 3"), "{run}");
    ensure!(message.contains("line b"), "the end of the log is told: {message}");
    let status = object_reaches(&stage, cluster, &name, "Failed").await?["status"].clone();
    ensure!(status["retryCount"] == 2 && status["contextVersion"] == 3 && status["costUsd"] == "0.3000", "{status}");
    let all = jobs(cluster, stage.namespace).list(&ListParams::default()).await?.items;
    ensure!(all.len() == 3, "there are {} Jobs", all.len());
    let continues = all.iter().filter(|job| {
        serde_json::to_string(job).is_ok_and(|text| text.contains(r#""name":"CONTINUE_SESSION","value":"true""#))
    });
    ensure!(continues.count() == 2, "attempts after the first go on with the session");
    // A second run of the same service has the workspace, and does well.
    let notes = json!({ "fake/after": "0.3", "fake/message": OUTCOME });
    pods_do(cluster, stage.namespace, notes).await?;
    let next = stage.code(6, "trader").await?;
    stage.reaches(&next, "Succeeded").await?;
    Ok(json!({ "three_attempts_ms": took.as_millis() as u64 }))
}

async fn end_early(bed: &mut Bed) -> Result<Value> {
    let cluster = bed.cluster();
    let mut stage = Stage::start(cluster, "runs-end-early").await?;
    let namespace = stage.namespace;
    pods_do(cluster, namespace, json!({ "fake/phase": "Running" })).await?;
    let running = async |stage: &Stage, name: &str| -> Result<()> {
        object_reaches(stage, cluster, name, "Running").await?;
        eventually("there is a Job", SOON, async || {
            let there = jobs(cluster, namespace).list(&ListParams::default()).await?.items;
            Ok((there.len() == 1).then_some(()))
        })
        .await?;
        Ok(())
    };
    let no_jobs = async || -> Result<Duration> {
        let ((), took) = eventually("the Job is gone", SOON, async || {
            let there = jobs(cluster, namespace).list(&ListParams::default()).await?.items;
            Ok(there.is_empty().then_some(()))
        })
        .await?;
        Ok(took)
    };

    let cancelled = stage.code(5, "trader").await?;
    running(&stage, &cancelled).await?;
    let waiting = stage.code(6, "trader").await?;
    stage.ask("DELETE", &format!("/api/v1/pm/tasks/{waiting}"), &Value::Null).await?;
    stage.reaches(&waiting, "Cancelled").await?;
    let begun = Instant::now();
    let (code, said) = stage.ask("DELETE", &format!("/api/v1/pm/tasks/{cancelled}"), &Value::Null).await?;
    ensure!(code == 200 && said["data"]["cancelled"] == true, "{said}");
    stage.reaches(&cancelled, "Cancelled").await?;
    no_jobs().await.with_context(|| stage.log())?;
    let cancel = begun.elapsed();
    object_reaches(&stage, cluster, &cancelled, "Cancelled").await?;

    // The object is deleted while it is worked on.
    let deleted = stage.code(7, "trader").await?;
    running(&stage, &deleted).await?;
    cluster.kubectl(&["delete", "coderun", &deleted, "-n", namespace, "--wait=false"], "").await?;
    stage.reaches(&deleted, "Cancelled").await?;
    let delete = is_gone(cluster, namespace, &deleted).await.with_context(|| stage.log())?;
    no_jobs().await?;

    // And while it waits behind another.
    cluster.kubectl(&["apply", "-f", "-"], &object(namespace, "first", "trader").to_string()).await?;
    running(&stage, "first").await?;
    cluster.kubectl(&["apply", "-f", "-"], &object(namespace, "second", "trader").to_string()).await?;
    let second = object_reaches(&stage, cluster, "second", "Pending").await?;
    cluster
        .kubectl(&["delete", "coderun", "second", "-n", namespace, "--timeout=30s"], "")
        .await
        .with_context(|| stage.log())?;
    stage.reaches(second["metadata"]["uid"].as_str().unwrap_or_default(), "Cancelled").await?;

    // Without a control plane an object goes after its time, and says so.
    stage.world.take_plane()?.kill()?;
    cluster.kubectl(&["delete", "coderun", "first", "-n", namespace, "--wait=false"], "").await?;
    let alone = is_gone(cluster, namespace, "first").await.with_context(|| stage.log())?;
    Ok(json!({
        "cancel_ms": cancel.as_millis() as u64, "delete_ms": delete.as_millis() as u64, "delete_alone_ms": alone.as_millis() as u64,
    }))
}

async fn restart(bed: &mut Bed, size: Size) -> Result<Value> {
    let cluster = bed.cluster_mut();
    let mut stage = Stage::start(cluster, "runs-restart").await?;
    let namespace = stage.namespace;
    pods_do(cluster, namespace, json!({ "fake/after": "6", "fake/message": OUTCOME, "fake/log": "hello\n" })).await?;
    let (rounds, each) = (size.of(1, 3), 6);
    let mut names = Vec::new();
    let mut slowest = Duration::ZERO;
    for round in 0..rounds {
        let begun = Instant::now();
        let mut these = Vec::new();
        for number in 0..each {
            these.push(stage.code(round * 100 + number, &format!("service-{number}")).await?);
        }
        for name in &these {
            object_reaches(&stage, cluster, name, "Running").await?;
        }
        cluster.kill(Part::ApiServer)?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        stage.agent.take().context("an agent")?.kill()?;
        cluster.revive(Part::ApiServer).await?;
        stage.start_agent(cluster)?;
        stage.world.take_plane()?.kill()?;
        stage.world.start_plane().await?;
        if let Some(agent) = &stage.agent {
            // And once in good order: what runs goes on.
            tokio::time::sleep(Duration::from_secs(1)).await;
            agent.signal(Signal::TERM)?;
        }
        stage.start_agent(cluster)?;
        for name in &these {
            stage.reaches(name, "Succeeded").await?;
        }
        slowest = slowest.max(begun.elapsed());
        names.extend(these);
    }
    let all = jobs(cluster, namespace).list(&ListParams::default()).await?.items;
    ensure!(all.len() == names.len(), "{} runs have {} Jobs", names.len(), all.len());
    let mut attempts = 0;
    for name in &names {
        let status = read(cluster, namespace, name).await?["status"].clone();
        ensure!(status["retryCount"] == 0 && status["costUsd"] == "0.2500", "{name}: {status}");
        attempts += stage.run(name).await?["attempts"].as_u64().unwrap_or(0);
    }
    stage.world.take_plane()?.terminate(SOON)?;
    let records = stage.world.verify()?;
    Ok(
        json!({ "runs": names.len(), "jobs": all.len(), "leases_lost": attempts, "round_ms": slowest.as_millis() as u64, "records": records }),
    )
}

async fn away(bed: &mut Bed) -> Result<Value> {
    let cluster = bed.cluster();
    let mut stage = Stage::start(cluster, "runs-away").await?;
    let namespace = stage.namespace;
    pods_do(cluster, namespace, json!({ "fake/after": "2", "fake/message": OUTCOME, "fake/log": "hello\n" })).await?;
    let (read, lost) = (stage.code(5, "trader").await?, stage.code(6, "broker").await?);
    for name in [&read, &lost] {
        object_reaches(&stage, cluster, name, "Running").await?;
    }
    stage.agent.take().context("an agent")?.kill()?;
    let all = jobs(cluster, namespace);
    eventually("both Jobs have ended", SOON, async || {
        let there = all.list(&ListParams::default()).await?.items;
        let ended = there.iter().filter(|job| job.status.as_ref().is_some_and(|status| status.succeeded == Some(1)));
        Ok((ended.count() == 2).then_some(()))
    })
    .await?;
    for job in all.list(&ListParams::default()).await?.items {
        let time = job.spec.and_then(|spec| spec.ttl_seconds_after_finished);
        ensure!(time.is_none(), "a Job that nobody has read goes after {time:?} s");
    }
    // As the controller of times to live does, or somebody who tidies up.
    let job = self::read(cluster, namespace, &lost).await?["status"]["jobName"].as_str().context("a Job")?.to_owned();
    let how = DeleteParams { propagation_policy: Some(PropagationPolicy::Background), ..DeleteParams::default() };
    all.delete(&job, &how).await?;

    stage.start_agent(cluster)?;
    stage.reaches(&read, "Succeeded").await?;
    let (run, _) = stage.reaches(&lost, "Failed").await?;
    ensure!(run["message"].as_str().unwrap_or_default().contains(&format!("{job}, which is gone")), "{run}");
    let there = all.list(&ListParams::default()).await?.items;
    ensure!(there.len() == 1, "there are {} Jobs", there.len());
    // The control plane has its outcome: at the next look the object is free.
    let touch = ["annotate", "coderun", &read, "-n", namespace, "looked=at", "--overwrite"];
    cluster.kubectl(&touch, "").await?;
    eventually("the object of what was told is free", SOON, async || {
        let object = self::read(cluster, namespace, &read).await?;
        Ok(object["metadata"]["finalizers"].is_null().then_some(()))
    })
    .await
    .with_context(|| stage.log())?;
    Ok(json!({ "runs": 2, "jobs": there.len() }))
}
