//! The chart of a workload cluster, and the programs started as it says: with its variables and arguments, as its service accounts.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use mindos_e2e::general;
use mindos_e2e::process::{self, Process};
use mindos_e2e::world::{World, free_address, http};
use serde_json::{Value, json};

use super::deploy::define;
use crate::assets::checkout;
use crate::bed::Bed;
use crate::cluster::Cluster;
use crate::eventually::eventually;
use crate::python;
use crate::scenario::Scenario;

/// Those of this module.
pub const SCENARIOS: &[Scenario] = &[Scenario {
    name: "chart_of_a_cluster",
    what: "agent and injector, started as their chart says and with no more rights, find, inject, and take objects",
    quick: true,
    run: |bed, _| Box::pin(chart(bed)),
}];

const NAMESPACE: &str = "chart";
const WORK: &str = "chart-work";
const AUDIENCE: &str = "mindos";
const SOON: Duration = Duration::from_secs(60);
/// Where the chart mounts things in its pods.
const CA: &str = "/etc/mindos/ca/ca.crt";
const TOKEN: &str = "/var/run/secrets/mindos/token";

/// Starts what a Deployment runs, as it stands there, but for addresses and files, which are of pods.
fn start(
    folder: &Path,
    deployment: &Value,
    command: &[&str],
    changes: &[(&str, &str)],
    more: &[String],
) -> Result<Process> {
    let spec = &deployment["spec"]["template"]["spec"];
    let container = &spec["containers"][0];
    let change = |text: &str| changes.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
    let name = deployment["metadata"]["name"].as_str().context("a Deployment has a name")?;
    let mut words = vec!["-i".to_owned()];
    for variable in container["env"].as_array().into_iter().flatten() {
        let value = match (variable["value"].as_str(), variable["valueFrom"]["fieldRef"]["fieldPath"].as_str()) {
            (Some(value), _) => change(value),
            (None, Some("metadata.name")) => format!("{name}-0"),
            (None, Some("metadata.namespace")) => NAMESPACE.to_owned(),
            _ => anyhow::bail!("a variable whose value is not known: {variable}"),
        };
        words.push(format!("{}={value}", variable["name"].as_str().unwrap_or_default()));
    }
    words.extend(more.iter().cloned());
    words.push(process::mindos()?.display().to_string());
    words.extend(command.iter().map(|word| (*word).to_owned()));
    let arguments = container["args"].as_array().into_iter().flatten().filter_map(Value::as_str);
    words.extend(arguments.filter(|word| !command.contains(word)).map(change));
    Process::start_program(Path::new("/usr/bin/env"), folder, name, &words)
}

async fn deployment(cluster: &Cluster, name: &str) -> Result<Value> {
    let text = cluster.kubectl(&["-n", NAMESPACE, "get", "deployment", name, "-o", "json"], "").await?;
    Ok(serde_json::from_str(&text)?)
}

async fn ready(process: &Process, probes: &str) -> Result<Duration> {
    let answers = async || {
        let (status, body) = http(probes, "GET", "/readyz", &[], b"").await?;
        ensure!(status == 200, "{}", String::from_utf8_lossy(&body));
        Ok(Some(()))
    };
    let found = eventually("what the chart starts is ready", SOON, answers).await;
    Ok(found.with_context(|| process.log_end())?.1)
}

async fn chart(bed: &mut Bed) -> Result<Value> {
    let folder = bed.folder_of(NAMESPACE)?;
    let cluster = bed.cluster();
    let kubeconfig = cluster.kubeconfig().display().to_string();
    let mut world = World::secure("kube-chart", Duration::from_secs(3600), &[])?;
    world.start_plane().await?;
    let roots = mindos_e2e::access::copy_roots(&world, "roots.pem")?;
    define(cluster).await?;
    cluster.namespace(NAMESPACE, &[]).await?;
    cluster.namespace(WORK, &[]).await?;
    let values = json!({
        "global": {"mindos": {"cluster": cluster.name(), "controlPlane": format!("https://{}", world.agents())}},
        "ca": {"crt": std::fs::read_to_string(&roots)?},
        "watchNamespaces": [WORK], "runs": {"namespaces": [WORK]},
        // Ports are any here, so that the one of the API does not follow from the other.
        "env": {"MINDOS_API": world.server()},
        "injector": {"failurePolicy": "Fail"},
    });
    let path = checkout("deploy/charts/mindos-agent")?.display().to_string();
    python::run(cluster, "helm.py", &["install", "mindos", &path, NAMESPACE, &kubeconfig], &values.to_string()).await?;
    let came = installed(cluster, &world, &roots, &folder).await;
    // What concerns every pod of the cluster is not left to others.
    python::run(cluster, "helm.py", &["uninstall", "mindos", NAMESPACE, &kubeconfig], "").await?;
    came
}

async fn installed(cluster: &Cluster, world: &World, roots: &Path, folder: &Path) -> Result<Value> {
    trust(cluster, world, folder)?;
    let roots = roots.display().to_string();
    let (agent_probes, probes, webhook) = (free_address()?, free_address()?, free_address()?);
    let account = "mindos-cluster-agent";
    let token = folder.join("token");
    std::fs::write(&token, cluster.token(NAMESPACE, account, AUDIENCE, None).await?.expose())?;
    let (token, data) = (token.display().to_string(), folder.join("identity").display().to_string());
    std::fs::create_dir_all(&data)?;
    let kubeconfig = cluster.kubeconfig_of(NAMESPACE, account).await?.display().to_string();
    let changes = [(CA, roots.as_str()), (TOKEN, &token), ("0.0.0.0:8093", &agent_probes), ("/data", &data)];
    let more = [format!("MINDOS_KUBECONFIG={kubeconfig}")];
    let agent = start(folder, &deployment(cluster, account).await?, &["cluster-agent"], &changes, &more)?;
    let agent_ready = ready(&agent, &agent_probes).await?;

    let account = "mindos-injector";
    let kubeconfig = cluster.kubeconfig_of(NAMESPACE, account).await?.display().to_string();
    let changes = [(CA, roots.as_str()), ("0.0.0.0:8443", &webhook), ("0.0.0.0:8095", &probes)];
    // It is called by address here, and not as a Service.
    let more = [format!("KUBECONFIG={kubeconfig}"), "MINDOS_INJECTOR_SERVER_NAMES=127.0.0.1".to_owned()];
    let injector = start(folder, &deployment(cluster, account).await?, &["injector"], &changes, &more)?;
    let injector_ready = ready(&injector, &probes).await?;
    redirect(cluster, account, &webhook).await?;

    let injected = injected(cluster, folder).await.with_context(|| injector.log_end())?;
    let found = found(cluster, world).await.with_context(|| agent.log_end())?;
    let accepted = accepted(cluster).await.with_context(|| agent.log_end())?;
    agent.terminate(SOON)?;
    injector.terminate(SOON)?;
    Ok(json!({
        "agent_ready_ms": agent_ready.as_millis() as u64, "injector_ready_ms": injector_ready.as_millis() as u64,
        "injected": injected, "found_ms": found.as_millis() as u64, "accepted_ms": accepted.as_millis() as u64,
    }))
}

/// Registers the cluster as an issuer, as its runbook says.
fn trust(cluster: &Cluster, world: &World, folder: &Path) -> Result<()> {
    let keys = folder.join("keys.json").display().to_string();
    let grant = format!("namespace={NAMESPACE},service-account=mindos-cluster-agent,cluster-agent");
    let output = std::process::Command::new(cluster.program("kubectl"))
        .arg("--kubeconfig")
        .arg(cluster.kubeconfig())
        .args(["get", "--raw", "/openid/v1/jwks"])
        .output()?;
    std::fs::write(&keys, output.stdout)?;
    let words = [
        &["issuers", "add", "main", "--cluster", cluster.name(), "--url", cluster.url(), "--audience", AUDIENCE][..],
        &["--keys", &keys, "--grant", &grant],
    ]
    .concat();
    mindos(world, &words)?;
    Ok(())
}

fn mindos(world: &World, words: &[&str]) -> Result<Value> {
    let (server, roots) = (world.server(), world.roots().display().to_string());
    let token = world.data().join("admin-token").display().to_string();
    process::json(&[words, &["--server", &server, "--ca", &roots, "--token-file", &token]].concat())
}

/// Has the API server call the injector where it runs.
async fn redirect(cluster: &Cluster, configuration: &str, webhook: &str) -> Result<()> {
    let held = cluster.kubectl(&["get", "mutatingwebhookconfiguration", configuration, "-o", "json"], "").await?;
    let held: Value = serde_json::from_str(&held)?;
    let count = held["webhooks"].as_array().context("a configuration has webhooks")?.len();
    let url = format!("https://{webhook}/inject");
    let patch: Vec<Value> = (0..count)
        .flat_map(|at| {
            let path = format!("/webhooks/{at}/clientConfig");
            let remove = json!({"op": "remove", "path": format!("{path}/service")});
            [remove, json!({"op": "add", "path": format!("{path}/url"), "value": url})]
        })
        .collect();
    let patch = Value::Array(patch).to_string();
    let words = ["patch", "mutatingwebhookconfiguration", configuration, "--type", "json", "-p", &patch];
    cluster.kubectl(&words, "").await?;
    let roots = async || {
        let held = cluster.kubectl(&["get", "mutatingwebhookconfiguration", configuration, "-o", "json"], "").await?;
        let held: Value = serde_json::from_str(&held)?;
        let all = held["webhooks"].as_array().cloned().unwrap_or_default();
        let is_there = |one: &Value| !one["clientConfig"]["caBundle"].as_str().unwrap_or_default().is_empty();
        Ok(all.iter().all(is_there).then_some(()))
    };
    eventually("the injector publishes its roots with the rights of its chart", SOON, roots).await?;
    Ok(())
}

/// Pods of a Deployment that asks for it get one sidecar each, and stay restricted.
async fn injected(cluster: &Cluster, folder: &Path) -> Result<usize> {
    let context = json!({
        "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
    });
    let memory = json!({"requests": {"memory": "16Mi"}, "limits": {"memory": "16Mi"}});
    let labels = json!({"app": "worker", "mindos.io/general": "worker"});
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "worker", "namespace": WORK},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "worker"}}, "template": {
            "metadata": {"labels": labels},
            "spec": {
                "securityContext": {"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [{"name": "general", "image": "none", "securityContext": context, "resources": memory,
                    "ports": [{"containerPort": 8080}]}],
            },
        }},
    });
    cluster.kubectl(&["apply", "-f", "-"], &deployment.to_string()).await?;
    let pods: Api<Pod> = Api::namespaced(cluster.client(), WORK);
    let made = async || {
        let found = pods.list(&ListParams::default().labels("app=worker")).await?.items;
        Ok((found.len() == 3).then_some(found))
    };
    let (found, _) = eventually("three pods of a Deployment", SOON, made).await?;
    for pod in &found {
        let containers =
            pod.spec.iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
        let sidecars = containers.filter(|one| one.name == "mindos-sidecar").count();
        ensure!(sidecars == 1, "{:?} has {sidecars} sidecars", pod.metadata.name);
    }
    let file = folder.join("pods.json");
    std::fs::write(&file, serde_json::to_vec(&json!({"items": found}))?)?;
    python::run(cluster, "manifests.py", &["--pods", &file.display().to_string()], "").await?;
    Ok(found.len())
}

/// A pod that the agent is to find by itself is an instance of the control plane.
async fn found(cluster: &Cluster, world: &World) -> Result<Duration> {
    let notes = general::Notes::new(5, 20);
    let url = general::serve(notes).await?;
    let port = url.rsplit(':').next().unwrap_or_default();
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "bare", "namespace": WORK, "labels": {"app": "llm-general", "type": "triage"},
            "annotations": {"fake/ip": "127.0.0.1", "mindos.io/port": port}},
        "spec": {"containers": [{"name": "general", "image": "none"}]},
    });
    cluster.kubectl(&["apply", "-f", "-"], &pod.to_string()).await?;
    let listed = async || {
        let all = mindos(world, &["instances", "list"])?;
        let name = format!("bare.{WORK}");
        let found = all["instances"].as_array().into_iter().flatten().any(|one| one["instance_id"] == name.as_str());
        ensure!(found, "there are {all}");
        Ok(Some(()))
    };
    Ok(eventually("an instance that was discovered", SOON, listed).await?.1)
}

/// An object is taken by the control plane, which says so in its status.
async fn accepted(cluster: &Cluster) -> Result<Duration> {
    let object = json!({
        "apiVersion": "mindos.io/v1alpha1", "kind": "General",
        "metadata": {"name": "worker", "namespace": WORK}, "spec": {"type": "worker", "slots": 2},
    });
    cluster.kubectl(&["apply", "-f", "-"], &object.to_string()).await?;
    let said = async || {
        let held = cluster.kubectl(&["-n", WORK, "get", "general", "worker", "-o", "json"], "").await?;
        let held: Value = serde_json::from_str(&held)?;
        let conditions = held["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let is_taken = conditions.iter().any(|one| one["type"] == "Accepted" && one["status"] == "True");
        ensure!(is_taken, "its status is {}", held["status"]);
        ensure!(held["status"]["observedGeneration"] == held["metadata"]["generation"], "{}", held["status"]);
        Ok(Some(()))
    };
    let (_, took) = eventually("an object is accepted", SOON, said).await?;
    cluster.kubectl(&["-n", WORK, "delete", "general", "worker", "--timeout=60s"], "").await?;
    Ok(took)
}
