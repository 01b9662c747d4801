//! Objects of `mindos.io`: defined, taken, refused, told about, and taken back, through every absence.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use mindos_e2e::client;
use mindos_e2e::process::{self, Process};
use mindos_e2e::world::{World, free_address, http};
use mindos_kube::conditions;
use mindos_kube::mindos::{ACCEPTED, FINALIZER, General, GeneralSpec, READY};
use mindos_proto::journal::v1::entry::Record;
use serde_json::{Value, json};

use crate::bed::Bed;
use crate::cluster::{Cluster, Part};
use crate::eventually::eventually;
use crate::scenario::{Scenario, Size};

/// Those of this module.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "objects_life",
        what: "objects are defaulted, pruned, granted, refused, changed by their owners alone, told about and taken back",
        quick: true,
        run: |bed, _| Box::pin(life(bed)),
    },
    Scenario {
        name: "objects_absence",
        what: "a deleted object is let go while the control plane is away, and what it made goes when it is back",
        quick: true,
        run: |bed, _| Box::pin(absence(bed)),
    },
    Scenario {
        name: "objects_restarts",
        what: "API server, control plane and agent are killed in mid-work: nothing is lost and nothing recorded twice",
        quick: true,
        run: |bed, size| Box::pin(restarts(bed, size)),
    },
    Scenario {
        name: "objects_many",
        what: "how long 5,000 generals take to be taken and told about, and what memory",
        quick: false,
        run: |bed, size| Box::pin(many(bed, size)),
    },
];

const SOON: Duration = Duration::from_secs(40);
/// Objects are looked at again sooner than by default, where it is the look that is waited for.
const QUICKLY: [&str; 2] = ["--objects-resync", "2"];

/// A control plane with an agent for the cluster.
struct Site {
    world: World,
    roots: PathBuf,
    settings: PathBuf,
    agent: Option<Process>,
    probes: String,
    arguments: Vec<String>,
}

impl Site {
    /// With these settings, and an agent with these options that has no more rights than it needs.
    async fn start(cluster: &Cluster, namespace: &str, settings: &str, more: &[&str]) -> Result<Site> {
        define(cluster).await?;
        rights(cluster, namespace).await?;
        let mut world = World::secure(namespace, Duration::from_secs(3600), &[])?;
        let file = world.folder().join("settings.yaml");
        std::fs::write(&file, settings)?;
        world.add_arguments(&["--settings", &file.display().to_string()]);
        world.start_plane().await?;
        let roots = mindos_e2e::access::copy_roots(&world, "roots.pem")?;
        let probes = free_address()?;
        let mut site = Site { world, roots, settings: file, agent: None, probes, arguments: Vec::new() };
        let token =
            process::run(&site.with_site(&["tokens", "create", "--cluster", cluster.name(), "--cluster-agent"]))?;
        ensure!(token.status.success(), "{}", String::from_utf8_lossy(&token.stderr));
        let join = site.world.folder().join("join-token");
        std::fs::write(&join, &token.stdout)?;
        let kubeconfig = cluster.kubeconfig_of(namespace, "objects").await?;
        let words = [
            "cluster-agent",
            "--control-plane",
            &format!("https://{}", site.world.agents()),
            "--api",
            &site.world.server(),
            "--ca",
            &site.roots.display().to_string(),
            "--cluster",
            cluster.name(),
            "--instance",
            "agent-0",
            "--namespace",
            namespace,
            "--watch-namespace",
            namespace,
            "--no-discovery",
            "--kubeconfig",
            &kubeconfig.display().to_string(),
            "--join-token-file",
            &join.display().to_string(),
            "--identity-dir",
            &site.world.folder().join("identity").display().to_string(),
            "--listen",
            &site.probes.clone(),
            "--lease-duration",
            "5",
        ]
        .map(str::to_owned);
        site.arguments = words.into_iter().chain(more.iter().map(|word| (*word).to_owned())).collect();
        site.start_agent()?;
        Ok(site)
    }

    fn start_agent(&mut self) -> Result<()> {
        self.agent = Some(Process::start(self.world.folder(), "agent-0", &self.arguments)?);
        Ok(())
    }

    fn with_site<'a>(&self, arguments: &[&'a str]) -> Vec<&'a str> {
        // Kept for the run of the test: a handful of words.
        let leak = |text: String| -> &'static str { Box::leak(text.into_boxed_str()) };
        let token = self.world.data().join("admin-token").display().to_string();
        let site = [
            "--server",
            leak(self.world.server()),
            "--ca",
            leak(self.roots.display().to_string()),
            "--token-file",
            leak(token),
        ];
        [arguments, &site].concat()
    }

    /// Runs `mindos` as the admin, and reads the JSON that it prints.
    fn mindos(&self, arguments: &[&str]) -> Result<Value> {
        process::json(&self.with_site(arguments))
    }

    /// Names of generals that the control plane knows.
    fn generals(&self) -> Result<BTreeSet<String>> {
        Ok(names(&self.mindos(&["generals", "list"])?["generals"]))
    }

    fn routes(&self) -> Result<Vec<String>> {
        let table = self.mindos(&["routes", "get"])?;
        let table = if table["table"].is_object() { &table["table"] } else { &table };
        let routes = table["routes"].as_array().context("a table has routes")?;
        Ok(routes.iter().map(|route| route["name"].as_str().unwrap_or_default().to_owned()).collect())
    }

    fn log_end(&self) -> String {
        self.agent.as_ref().map(Process::log_end).unwrap_or_default()
    }

    /// A figure of `/metrics`.
    async fn metric(&self, name: &str) -> Result<i64> {
        let (_, body) = http(&self.probes, "GET", "/metrics", &[], b"").await?;
        let text = String::from_utf8_lossy(&body).into_owned();
        let name = format!("mindos_cluster_agent_{name} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&name)).context("a metric of that name")?;
        line.parse().context("a metric is a number")
    }

    /// How often each generation of each object was recorded as applied, and by whom and from where.
    async fn applied(&self) -> Result<BTreeMap<(String, String, i64), u32>> {
        let mut applied = BTreeMap::new();
        for entry in client::ledger(&self.world.channel()?, 0).await? {
            let Some(Record::ObjectApplied(record)) = entry.entry.and_then(|entry| entry.record) else { continue };
            let object = record.object.context("a record has its object")?;
            ensure!(record.by.starts_with("kubernetes:eu/"), "it was changed by {:?}", record.by);
            ensure!(
                record.from.contains("agent/agent-0") && record.from.contains("127.0.0.1"),
                "from {:?}",
                record.from
            );
            *applied.entry((record.by, object.uid, object.generation)).or_default() += 1;
        }
        Ok(applied)
    }
}

fn names(list: &Value) -> BTreeSet<String> {
    let list = list.as_array().cloned().unwrap_or_default();
    list.iter().map(|one| one["name"].as_str().unwrap_or_default().to_owned()).collect()
}

/// Installs the definitions as the server takes them, and waits until they are established.
async fn define(cluster: &Cluster) -> Result<()> {
    let crds: Vec<_> = mindos_kube::crds().into_iter().map(|(_, crd)| crd).collect();
    let has_rules = cluster.minor() >= 25;
    for crd in crds {
        let crd = if has_rules { crd } else { mindos_kube::without_rules(crd) };
        cluster.kubectl(&["apply", "-f", "-"], &mindos_kube::to_yaml(&crd)).await?;
    }
    let all: Api<CustomResourceDefinition> = Api::all(cluster.client());
    let established = async || {
        let found = all.list(&ListParams::default()).await?;
        let is_up = |crd: &CustomResourceDefinition| {
            let conditions = crd.status.as_ref().and_then(|status| status.conditions.as_ref());
            conditions.is_some_and(|all| all.iter().any(|one| one.type_ == "Established" && one.status == "True"))
        };
        let ours = found.items.iter().filter(|crd| crd.spec.group == "mindos.io");
        Ok((ours.filter(|crd| is_up(crd)).count() == 4).then_some(()))
    };
    eventually("the definitions are established", SOON, established).await?;
    Ok(())
}

/// A service account that may what the reconcilers need, verb by verb.
async fn rights(cluster: &Cluster, namespace: &str) -> Result<()> {
    cluster.namespace(namespace, &[]).await?;
    let group = "rbac.authorization.k8s.io";
    let subjects = json!([{"kind": "ServiceAccount", "name": "objects", "namespace": namespace}]);
    let kinds = ["clusters", "generals", "routes", "budgets"];
    let statuses = kinds.map(|kind| format!("{kind}/status"));
    let objects = json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "objects", "namespace": namespace}},
        {"apiVersion": format!("{group}/v1"), "kind": "ClusterRole", "metadata": {"name": format!("{namespace}-objects")}, "rules": [
            {"apiGroups": ["mindos.io"], "resources": kinds, "verbs": ["get", "list", "watch", "patch"]},
            {"apiGroups": ["mindos.io"], "resources": statuses, "verbs": ["patch"]},
            {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]},
            {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create", "get", "update"]},
        ]},
        {"apiVersion": format!("{group}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": format!("{namespace}-objects")},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": format!("{namespace}-objects")}, "subjects": subjects},
    ]});
    cluster.kubectl(&["apply", "-f", "-"], &objects.to_string()).await?;
    Ok(())
}

fn object(kind: &str, namespace: &str, name: &str, spec: &Value) -> Value {
    let mut metadata = json!({"name": name});
    if !namespace.is_empty() {
        metadata["namespace"] = json!(namespace);
    }
    json!({"apiVersion": "mindos.io/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec})
}

async fn apply(cluster: &Cluster, object: &Value) -> Result<String> {
    cluster.kubectl(&["apply", "--server-side", "--validate=false", "-f", "-"], &object.to_string()).await
}

/// Waits for the reason of a condition, which is then told in how long.
async fn reason(cluster: &Cluster, kind: &str, namespace: &str, name: &str, wanted: (&str, &str)) -> Result<Duration> {
    let (of, wanted) = wanted;
    let what = format!("{kind} {name} to say {of} for {wanted}");
    let ((), took) = eventually(&what, SOON, async || {
        let found = get(cluster, kind, namespace, name).await?;
        let found = &found["status"]["conditions"];
        let said = found.as_array().into_iter().flatten().find(|one| one["type"] == of);
        let said = said.cloned().unwrap_or_default();
        ensure!(said["reason"] == wanted, "it says {said}");
        Ok(Some(()))
    })
    .await?;
    Ok(took)
}

async fn get(cluster: &Cluster, kind: &str, namespace: &str, name: &str) -> Result<Value> {
    let mut words = vec!["get", kind, name, "-o", "json"];
    if !namespace.is_empty() {
        words.extend(["-n", namespace]);
    }
    Ok(serde_json::from_str(&cluster.kubectl(&words, "").await?)?)
}

async fn life(bed: &mut Bed) -> Result<Value> {
    let (namespace, cluster) = ("objects-life", bed.cluster());
    let site = Site::start(cluster, namespace, "", &QUICKLY).await?;

    // Defaults, pruning, and what the schema does not take.
    // A server-side apply would be refused for the field that nobody declared.
    let said = json!({"type": "security-general", "nonsense": 1, "scale": {"max": 3}});
    let made = object("General", namespace, "pruned", &said).to_string();
    cluster.kubectl(&["create", "--validate=false", "-f", "-"], &made).await?;
    let found = get(cluster, "general", namespace, "pruned").await?;
    let spec = json!({"type": "security-general", "slots": 1, "drained": false, "paused": false,
        "scale": {"min": 0, "max": 3, "idle": "5m"}});
    ensure!(found["spec"] == spec, "the spec is {}", found["spec"]);
    cluster.kubectl(&["delete", "general", "pruned", "-n", namespace, "--timeout=20s"], "").await?;
    let said = json!({"type": "security-general", "scale": {"max": 3}});
    apply(cluster, &object("General", namespace, "security", &said)).await?;
    let found = get(cluster, "general", namespace, "security").await?;
    ensure!(found["spec"] == spec, "the spec is {}", found["spec"]);
    for bad in [json!({"slots": 0}), json!({"name": "BAD"}), json!({"scale": {"idle": "soon"}})] {
        ensure!(apply(cluster, &object("General", namespace, "bad", &bad)).await.is_err(), "{bad} was taken");
    }

    // Taken, told about, known by name; with its finalizer, the generation and an event.
    let taken = reason(cluster, "general", namespace, "security", (ACCEPTED, "Accepted"))
        .await
        .with_context(|| site.log_end())?;
    reason(cluster, "general", namespace, "security", (READY, "NoInstance")).await?;
    let found = get(cluster, "general", namespace, "security").await?;
    ensure!(found["status"]["observedGeneration"] == found["metadata"]["generation"], "{}", found["status"]);
    ensure!(found["metadata"]["finalizers"] == json!([FINALIZER]), "{}", found["metadata"]["finalizers"]);
    ensure!(site.generals()? == BTreeSet::from(["security".to_owned()]), "{:?}", site.generals()?);
    let listed = cluster.kubectl(&["get", "mindos", "-n", namespace], "").await?;
    ensure!(listed.contains("security-general"), "{listed}");
    let managers = cluster
        .kubectl(&["get", "general", "security", "-n", namespace, "-o", "json", "--show-managed-fields"], "")
        .await?;
    let managers: Value = serde_json::from_str(&managers)?;
    let managers: BTreeSet<&str> = managers["metadata"]["managedFields"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|one| one["manager"].as_str())
        .collect();
    ensure!(managers == BTreeSet::from(["kubectl", "mindos"]), "{managers:?}");
    let told = async || {
        let events = cluster.kubectl(&["get", "events", "-n", namespace], "").await?;
        Ok(events.contains("Accepted").then_some(()))
    };
    eventually("an event about the object", SOON, told).await?;

    // A change is taken; a hold shows; the cluster's own object.
    apply(cluster, &object("General", namespace, "security", &json!({"type": "security-general", "paused": true})))
        .await?;
    reason(cluster, "general", namespace, "security", (READY, "Paused")).await?;
    apply(
        cluster,
        &object("Cluster", "", "eu", &json!({"region": "eu-west-1", "labels": {"tier": "gold"}, "drained": true})),
    )
    .await?;
    reason(cluster, "clusters.mindos.io", "", "eu", (READY, "Drained")).await?;
    let clusters = site.mindos(&["clusters", "list"])?;
    ensure!(clusters["clusters"][0]["region"] == "eu-west-1", "{clusters}");
    apply(cluster, &object("Cluster", "", "other", &json!({}))).await?;
    reason(cluster, "clusters.mindos.io", "", "other", (ACCEPTED, "OtherCluster")).await?;

    // Denied by default, granted by the settings, taken back when they say so no more.
    let route =
        json!({"match": {"kinds": ["pr_created"]}, "targets": {"types": ["security-general"]}, "placement": "First"});
    apply(cluster, &object("Route", namespace, "mine", &route)).await?;
    apply(cluster, &object("Budget", namespace, "mine", &json!({"tokens": 1000}))).await?;
    reason(cluster, "route", namespace, "mine", (ACCEPTED, "NotGranted")).await?;
    reason(cluster, "budget", namespace, "mine", (ACCEPTED, "NotGranted")).await?;
    ensure!(!site.routes()?.contains(&"mine".to_owned()), "{:?}", site.routes()?);
    std::fs::write(&site.settings, format!("clusters: [{{name: eu, routes: [{namespace}], budgets: ['*']}}]"))?;
    let granted = reason(cluster, "route", namespace, "mine", (ACCEPTED, "Accepted")).await?;
    reason(cluster, "budget", namespace, "mine", (READY, "Free")).await?;
    ensure!(site.routes()?.first().is_some_and(|name| name == "mine"), "{:?}", site.routes()?);

    // What it made is its own: another object, another name, and a person.
    apply(
        cluster,
        &object(
            "Route",
            namespace,
            "thief",
            &json!({"name": "mine", "match": {"kinds": ["x"]}, "targets": {"types": ["t"]}}),
        ),
    )
    .await?;
    reason(cluster, "route", namespace, "thief", (ACCEPTED, "Conflict")).await?;
    apply(
        cluster,
        &object(
            "Route",
            namespace,
            "wrong",
            &json!({"match": {"kinds": ["x"], "expr": "1 +"}, "targets": {"types": ["t"]}}),
        ),
    )
    .await?;
    reason(cluster, "route", namespace, "wrong", (ACCEPTED, "Invalid")).await?;
    let refused = process::run(&site.with_site(&["budgets", "delete", "mine"]))?;
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success() && text.contains(&format!("kubernetes:eu/{namespace}/mine")), "{text}");
    std::fs::write(&site.settings, "")?;
    reason(cluster, "route", namespace, "mine", (ACCEPTED, "NotGranted")).await?;
    ensure!(!site.routes()?.contains(&"mine".to_owned()), "{:?}", site.routes()?);

    // Deleted, and gone on both sides.
    for (kind, name) in
        [("route", "mine"), ("route", "thief"), ("route", "wrong"), ("budget", "mine"), ("general", "security")]
    {
        cluster.kubectl(&["delete", kind, name, "-n", namespace, "--timeout=20s"], "").await?;
    }
    cluster.kubectl(&["delete", "clusters.mindos.io", "eu", "other", "--timeout=20s"], "").await?;
    ensure!(site.generals()?.is_empty(), "{:?}", site.generals()?);
    let applied = site.applied().await?;
    ensure!(applied.values().all(|count| *count == 1), "recorded more than once: {applied:?}");
    Ok(
        json!({"taken_ms": taken.as_millis() as u64, "granted_ms": granted.as_millis() as u64, "records": applied.len()}),
    )
}

async fn absence(bed: &mut Bed) -> Result<Value> {
    let (namespace, cluster) = ("objects-absence", bed.cluster());
    let mut site = Site::start(cluster, namespace, "", &[&QUICKLY[..], &["--finalizer-timeout", "3"]].concat()).await?;
    for name in ["stays", "goes", "changes"] {
        apply(cluster, &object("General", namespace, name, &json!({}))).await?;
    }
    apply(cluster, &object("Cluster", "", "eu", &json!({}))).await?;
    for name in ["stays", "goes", "changes"] {
        reason(cluster, "general", namespace, name, (ACCEPTED, "Accepted")).await.with_context(|| site.log_end())?;
    }

    site.world.take_plane()?.kill()?;
    reason(cluster, "clusters.mindos.io", "", "eu", ("Connected", "Unreachable")).await?;
    let begun = Instant::now();
    cluster.kubectl(&["delete", "general", "goes", "-n", namespace, "--timeout=30s"], "").await?;
    let let_go = begun.elapsed();
    ensure!(let_go >= Duration::from_secs(2), "it went after {let_go:?}, though it has to wait for 3 s");
    let events = cluster.kubectl(&["get", "events", "-n", namespace], "").await?;
    ensure!(events.contains("CleanupPutOff"), "{events}");
    apply(cluster, &object("General", namespace, "changes", &json!({"type": "other"}))).await?;
    // Gone and made again under the same name: another object.
    cluster.kubectl(&["delete", "general", "stays", "-n", namespace, "--timeout=30s"], "").await?;
    apply(cluster, &object("General", namespace, "stays", &json!({"paused": true}))).await?;

    site.world.start_plane().await?;
    let wanted = BTreeSet::from(["changes".to_owned(), "stays".to_owned()]);
    let ((), pruned) = eventually("what is gone is pruned", SOON, async || {
        let found = site.generals()?;
        ensure!(found == wanted, "there are {found:?}");
        Ok(Some(()))
    })
    .await
    .with_context(|| site.log_end())?;
    reason(cluster, "general", namespace, "stays", (READY, "Paused")).await?;
    let typed = async || {
        let found = get(cluster, "general", namespace, "changes").await?;
        Ok((found["status"]["type"] == "other").then_some(()))
    };
    eventually("a change of the time of absence", SOON, typed).await?;
    reason(cluster, "clusters.mindos.io", "", "eu", ("Connected", "Reached")).await?;
    cluster.kubectl(&["delete", "general", "--all", "-n", namespace, "--timeout=20s"], "").await?;
    cluster.kubectl(&["delete", "clusters.mindos.io", "--all", "--timeout=20s"], "").await?;
    let applied = site.applied().await?;
    ensure!(applied.values().all(|count| *count == 1), "recorded more than once: {applied:?}");
    Ok(json!({"let_go_ms": let_go.as_millis() as u64, "pruned_ms": pruned.as_millis() as u64}))
}

async fn restarts(bed: &mut Bed, size: Size) -> Result<Value> {
    let (namespace, cluster) = ("objects-restarts", bed.cluster_mut());
    let mut site =
        Site::start(cluster, namespace, "", &[&QUICKLY[..], &["--finalizer-timeout", "60"]].concat()).await?;
    let count = size.of(60, 500);
    let generals: Api<General> = Api::namespaced(cluster.client(), namespace);
    let make = |from: usize, until: usize| {
        let generals = generals.clone();
        async move {
            for number in from..until {
                let general = General::new(&format!("g-{number}"), GeneralSpec::default());
                generals.create(&PostParams::default(), &general).await?;
            }
            anyhow::Ok(())
        }
    };
    make(0, count / 3).await?;
    cluster.kill(Part::ApiServer)?;
    cluster.revive(Part::ApiServer).await?;
    make(count / 3, count * 2 / 3).await?;
    site.world.take_plane()?.kill()?;
    make(count * 2 / 3, count).await?;
    site.world.start_plane().await?;
    site.agent.take().context("an agent runs")?.kill()?;
    for number in 0..count / 4 {
        generals.delete(&format!("g-{number}"), &DeleteParams::default()).await?;
    }
    site.start_agent()?;

    let wanted: BTreeSet<String> = (count / 4..count).map(|number| format!("g-{number}")).collect();
    let ((), settled) = eventually("both sides have the same generals", Duration::from_secs(120), async || {
        let there: BTreeSet<String> = generals
            .list(&ListParams::default())
            .await?
            .items
            .into_iter()
            .filter_map(|one| one.metadata.name)
            .collect();
        ensure!(there == wanted, "the cluster has {} of {}", there.len(), wanted.len());
        let found = names(&site.mindos(&["generals", "list"])?["generals"]);
        ensure!(found == wanted, "the control plane has {} of {}", found.len(), wanted.len());
        let accepted =
            generals.list(&ListParams::default()).await?.items.into_iter().filter(|one| {
                one.status.as_ref().is_some_and(|status| conditions::holds(&status.conditions, ACCEPTED))
            });
        ensure!(accepted.count() == wanted.len(), "not all say so");
        Ok(Some(()))
    })
    .await
    .with_context(|| site.log_end())?;
    let applied = site.applied().await?;
    let twice: Vec<_> = applied.iter().filter(|(_, count)| **count != 1).collect();
    ensure!(twice.is_empty(), "recorded more than once: {twice:?}");
    cluster.kubectl(&["delete", "general", "--all", "-n", namespace, "--timeout=60s"], "").await?;
    Ok(json!({"generals": count, "settled_ms": settled.as_millis() as u64, "records": applied.len()}))
}

async fn many(bed: &mut Bed, size: Size) -> Result<Value> {
    let (namespace, cluster) = ("objects-many", bed.cluster());
    let count = size.of(300, 5000);
    let mut site = Site::start(cluster, namespace, "", &[]).await?;
    site.agent.take().context("an agent runs")?.kill()?;
    let generals: Api<General> = Api::namespaced(cluster.client(), namespace);
    let numbers: Vec<usize> = (0..count).collect();
    for chunk in numbers.chunks(50) {
        let made = chunk.iter().map(|number| {
            let general = General::new(&format!("g-{number}"), GeneralSpec::default());
            let generals = generals.clone();
            async move { generals.create(&PostParams::default(), &general).await }
        });
        futures_util::future::try_join_all(made).await?;
    }
    site.start_agent()?;
    let wait = Duration::from_secs(600);
    let ((), applied) = eventually("all are taken", wait, async || {
        Ok((site.metric("custom_objects_applied_total").await? >= count as i64).then_some(()))
    })
    .await
    .with_context(|| site.log_end())?;
    let ((), told) = eventually("all say so", wait, async || {
        // A list of all is work for the API server too.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let list = generals.list(&ListParams::default()).await?;
        let accepted = list
            .items
            .iter()
            .filter(|one| one.status.as_ref().is_some_and(|status| conditions::holds(&status.conditions, ACCEPTED)));
        Ok((accepted.count() == count).then_some(()))
    })
    .await?;
    let agent = site.agent.as_ref().context("an agent runs")?;
    let (memory, peak) = (agent.memory()?, agent.memory_peak()?);
    // What a start costs when nothing has changed.
    site.agent.take().context("an agent runs")?.kill()?;
    site.start_agent()?;
    let ((), again) = eventually("all are read again", wait, async || {
        Ok((site.metric("custom_objects").await? == count as i64).then_some(()))
    })
    .await?;
    let repeated = site.metric("custom_objects_applied_total").await?;
    ensure!(repeated == 0, "{repeated} were brought again though nothing changed");
    let definition = cluster.kubectl(&["delete", "ns", namespace, "--wait=false"], "").await;
    definition?;
    Ok(json!({
        "generals": count,
        "applied_ms": applied.as_millis() as u64,
        "told_ms": (applied + told).as_millis() as u64,
        "read_again_ms": again.as_millis() as u64,
        "memory_mb": memory / 1_000_000,
        "memory_peak_mb": peak / 1_000_000,
    }))
}
