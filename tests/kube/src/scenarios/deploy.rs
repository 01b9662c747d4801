//! What `deploy/` holds, on a real server: definitions with their samples, and charts installed by Helm.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::Api;
use serde_json::{Value, json};

use crate::assets::checkout;
use crate::bed::Bed;
use crate::cluster::Cluster;
use crate::eventually::eventually;
use crate::python;
use crate::samples::{Case, cases, holds};
use crate::scenario::Scenario;

/// Those of this module.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "deploy_definitions",
        what: "definitions are established; samples accepted, refused, defaulted, pruned; status apart; conflicts told",
        quick: true,
        run: |bed, _| Box::pin(definitions(bed)),
    },
    Scenario {
        name: "deploy_charts",
        what: "Helm installs every chart; the server holds what was sent, restricted, without wildcards; bases agree",
        quick: true,
        run: |bed, _| Box::pin(charts(bed)),
    },
];

const NAMESPACE: &str = "deploy-definitions";
/// Since when servers know CEL rules.
const RULES_SINCE: u32 = 25;

/// A kind, as requests name it.
struct Kind {
    kind: String,
    version: String,
    /// Path of its objects.
    path: String,
}

impl Kind {
    fn new(definition: &CustomResourceDefinition) -> Result<Kind> {
        let spec = &definition.spec;
        let version = spec.versions.first().context("a definition has a version")?;
        let version = format!("{}/{}", spec.group, version.name);
        let within = if spec.scope == "Namespaced" { format!("/namespaces/{NAMESPACE}") } else { String::new() };
        let path = format!("/apis/{version}{within}/{}", spec.names.plural);
        Ok(Kind { kind: spec.names.kind.clone(), version, path })
    }

    fn object(&self, name: &str, spec: &Value) -> Value {
        json!({"apiVersion": self.version, "kind": self.kind, "metadata": {"name": name}, "spec": spec})
    }
}

/// Sends a request and returns its status and answer, whatever they are.
async fn ask(cluster: &Cluster, method: &str, path: &str, kind: &str, body: &Value) -> Result<(u16, Value)> {
    let request = http::Request::builder().method(method).uri(path).header("content-type", kind);
    let request = request.body(kube::client::Body::from(body.to_string().into_bytes()))?;
    let answer = cluster.client().send(request).await?;
    let status = answer.status().as_u16();
    let bytes = answer.into_body().collect_bytes().await?;
    Ok((status, serde_json::from_slice(&bytes)?))
}

const JSON: &str = "application/json";
const APPLY: &str = "application/apply-patch+yaml";
const MERGE: &str = "application/merge-patch+json";

/// Applies what is in `deploy/crds` and waits until it is established; returns the kinds.
///
/// # Errors
/// When the server does not take it.
pub async fn define(cluster: &Cluster) -> Result<Vec<CustomResourceDefinition>> {
    let folder = checkout("deploy/crds")?.display().to_string();
    // The client would refuse CEL rules that an old server does not tell it of.
    cluster.kubectl(&["apply", "--validate=false", "-f", &folder], "").await?;
    let all: Api<CustomResourceDefinition> = Api::all(cluster.client());
    let ours =
        |one: &CustomResourceDefinition| ["mindos.io", "orchestrator.platform"].contains(&one.spec.group.as_str());
    let established = async || {
        let found: Vec<_> = all.list(&Default::default()).await?.items.into_iter().filter(ours).collect();
        let is_there = |one: &CustomResourceDefinition| {
            let conditions = one.status.iter().flat_map(|status| status.conditions.iter().flatten());
            conditions.filter(|one| one.type_ == "Established" && one.status == "True").count() == 1
        };
        Ok((!found.is_empty() && found.iter().all(is_there)).then_some(found))
    };
    Ok(eventually("definitions are established", Duration::from_secs(30), established).await?.0)
}

async fn definitions(bed: &mut Bed) -> Result<Value> {
    let cluster = bed.cluster();
    cluster.namespace(NAMESPACE, &[]).await?;
    let defined = define(cluster).await?;
    let mut counts = (0, 0, 0);
    for (kind, (accepted, refused)) in cases()? {
        let definition = defined.iter().find(|one| one.spec.names.kind == kind);
        let kind = Kind::new(definition.with_context(|| format!("samples of {kind}, which is not defined"))?)?;
        for case in &accepted {
            is_accepted(cluster, &kind, case).await?;
            counts.0 += 1;
        }
        for case in &refused {
            if case.is_refused_by_schema() || (cluster.minor() >= RULES_SINCE && case.old.is_none()) {
                is_refused(cluster, &kind, case).await?;
                counts.1 += 1;
            } else {
                counts.2 += 1;
            }
        }
    }
    let general = defined.iter().find(|one| one.spec.names.kind == "General").context("generals are defined")?;
    lives(cluster, &Kind::new(general)?).await?;
    let listed = cluster.kubectl(&["-n", NAMESPACE, "get", "generals"], "").await?;
    let head = listed.lines().next().unwrap_or_default();
    ensure!(["NAME", "TYPE", "INSTANCES", "WAITING", "AGE"].iter().all(|word| head.contains(word)), "columns: {head}");
    Ok(json!({
        "definitions": defined.len(), "accepted": counts.0, "refused_by_schema": counts.1, "rules_unknown_to_server": counts.2,
    }))
}

async fn is_accepted(cluster: &Cluster, kind: &Kind, case: &Case) -> Result<()> {
    let path = format!("{}?dryRun=All", kind.path);
    let (status, answer) = ask(cluster, "POST", &path, JSON, &kind.object("sample", &case.spec)).await?;
    ensure!(status == 201, "{}: {} is answered by {status}: {}", kind.kind, case.spec, answer["message"]);
    let becomes = case.becomes.clone().unwrap_or(json!({}));
    ensure!(holds(&answer["spec"], &case.spec), "{}: {} became {}", kind.kind, case.spec, answer["spec"]);
    ensure!(holds(&answer["spec"], &becomes), "{}: {} is not {becomes}", kind.kind, answer["spec"]);
    Ok(())
}

async fn is_refused(cluster: &Cluster, kind: &Kind, case: &Case) -> Result<()> {
    let path = format!("{}?dryRun=All", kind.path);
    let (status, answer) = ask(cluster, "POST", &path, JSON, &kind.object("sample", &case.spec)).await?;
    ensure!(status == 422, "{}: {} is answered by {status}: {answer}", kind.kind, case.spec);
    let said = answer["message"].as_str().unwrap_or_default();
    let word = case.schema.as_deref().or(case.rule.as_deref()).unwrap_or_default();
    ensure!(said.contains(word), "{}: {} is refused, but not for {word}: {said}", kind.kind, case.spec);
    Ok(())
}

/// Pruning, status apart from spec, generations, conflicts of managers and of versions, on one kind.
async fn lives(cluster: &Cluster, kind: &Kind) -> Result<()> {
    let at = format!("{}/lives", kind.path);
    let mut first = kind.object("lives", &json!({"slots": 2, "nonsense": true}));
    first["status"] = json!({"instances": 7});
    let (status, made) = ask(cluster, "POST", &kind.path, JSON, &first).await?;
    ensure!(status == 201, "not made: {made}");
    ensure!(made["spec"].get("nonsense").is_none(), "what is not known is kept: {}", made["spec"]);
    ensure!(made["status"]["instances"] != 7, "a status is taken from who makes an object");
    // Status is written apart, without a new generation, and takes no spec along.
    let patch = json!({"status": {"instances": 3}, "spec": {"slots": 9}});
    let (status, told) = ask(cluster, "PATCH", &format!("{at}/status"), MERGE, &patch).await?;
    ensure!(status == 200 && told["status"]["instances"] == 3, "{status}: {told}");
    ensure!(told["spec"]["slots"] == 2, "a spec is taken from who writes a status");
    ensure!(told["metadata"]["generation"] == made["metadata"]["generation"], "a status makes a generation");
    let (_, changed) =
        ask(cluster, "PATCH", &at, MERGE, &json!({"spec": {"slots": 4}, "status": {"instances": 5}})).await?;
    ensure!(changed["metadata"]["generation"] == 2, "a spec makes no generation: {}", changed["metadata"]);
    ensure!(changed["status"]["instances"] == 3, "a status is taken from who writes a spec");
    // An older version of it is not taken.
    let mut stale = made.clone();
    stale["spec"]["slots"] = json!(5);
    let (status, answer) = ask(cluster, "PUT", &at, JSON, &stale).await?;
    ensure!(status == 409, "an older version is answered by {status}: {answer}");
    // Fields have one manager; another one is told who it is.
    let apply = async |manager: &str, slots: u32, force: bool| {
        let path = format!("{}/managed?fieldManager={manager}&force={force}", kind.path);
        ask(cluster, "PATCH", &path, APPLY, &kind.object("managed", &json!({"slots": slots}))).await
    };
    ensure!(apply("mindos", 2, false).await?.0 == 201, "an apply does not make an object");
    ensure!(apply("mindos", 3, false).await?.0 == 200, "an apply by the same manager is not taken");
    let (status, answer) = apply("somebody", 4, false).await?;
    let said = answer["message"].as_str().unwrap_or_default();
    ensure!(status == 409 && said.contains("mindos") && said.contains(".spec.slots"), "a conflict is {status}: {said}");
    ensure!(apply("somebody", 4, true).await?.0 == 200, "an apply by force is not taken");
    Ok(())
}

async fn charts(bed: &mut Bed) -> Result<Value> {
    let cluster = bed.cluster();
    // The chart of definitions makes them, and takes those away that are its own.
    cluster
        .kubectl(&["delete", "--ignore-not-found", "-f", &checkout("deploy/crds")?.display().to_string()], "")
        .await?;
    let said =
        python::run(cluster, "manifests.py", &["--server", &cluster.kubeconfig().display().to_string()], "").await?;
    let last = said.lines().last().unwrap_or_default();
    Ok(json!({"said": last.trim_start_matches("manifests: ")}))
}
