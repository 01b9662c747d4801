//! Cluster agents: generals found by pods and Services, joined by service account, served through every restart.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams};
use mindos_e2e::process::{self, Process};
use mindos_e2e::world::{World, free_address, http};
use mindos_e2e::{client, general};
use mindos_proto::route::v1::{Route, RouteTargets, Strategy};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::bed::Bed;
use crate::cluster::{Cluster, Part};
use crate::eventually::eventually;
use crate::scenario::{Scenario, Size};

/// Those of this module.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "agent_two_clusters",
        what: "generals of two clusters by their agents and a sidecar by hand, joined by service account; residency holds",
        quick: true,
        run: |bed, size| Box::pin(two_clusters(bed, size)),
    },
    Scenario {
        name: "agent_restarts",
        what: "the API server and the agent are killed in mid-work: nothing is lost and nothing doubled",
        quick: true,
        run: |bed, size| Box::pin(restarts(bed, size)),
    },
    Scenario {
        name: "agent_pods_go",
        what: "a pod that is deleted ends its work and gets no more; a Service speaks for pods that say nothing",
        quick: true,
        run: |bed, _| Box::pin(pods_go(bed)),
    },
    Scenario {
        name: "agent_stands_by",
        what: "of two agents one is at work; the other takes over when that one is killed, and at once when it leaves",
        quick: true,
        run: |bed, _| Box::pin(stands_by(bed)),
    },
    Scenario {
        name: "agent_many",
        what: "how long 5,000 generals in 20,000 pods take to be seen and served, and what memory",
        quick: false,
        run: |bed, size| Box::pin(many(bed, size)),
    },
];

const SOON: Duration = Duration::from_secs(40);
const AUDIENCE: &str = "mindos";
/// What the chart `mindos-agent` lets an agent have.
const AGENT_MEMORY: u64 = 512 << 20;

/// A control plane that asks everybody who he is.
struct Plane {
    world: World,
    roots: PathBuf,
}

impl Plane {
    async fn start(name: &str) -> Result<Plane> {
        let mut world = World::secure(name, Duration::from_secs(3600), &[])?;
        world.start_plane().await?;
        let roots = mindos_e2e::access::copy_roots(&world, "roots.pem")?;
        Ok(Plane { world, roots })
    }

    /// Runs `mindos` as the admin, and reads the JSON that it prints.
    fn mindos(&self, arguments: &[&str]) -> Result<Value> {
        let (server, roots) = (self.world.server(), self.roots.display().to_string());
        let token = self.world.data().join("admin-token").display().to_string();
        let site = ["--server", &server, "--ca", &roots, "--token-file", &token];
        process::json(&[arguments, &site].concat())
    }

    /// Trusts the service accounts of a cluster: `agent` to be its agent, `general` to be any general.
    async fn trust(&self, cluster: &Cluster, namespace: &str) -> Result<()> {
        let keys = cluster.folder().join("keys.json");
        std::fs::write(&keys, cluster.kubectl(&["get", "--raw", "/openid/v1/jwks"], "").await?)?;
        let (keys, agent) =
            (keys.display().to_string(), format!("namespace={namespace},service-account=agent,cluster-agent"));
        let general = format!("namespace={namespace},service-account=default,generals=*");
        self.mindos(&[
            "issuers",
            "add",
            "main",
            "--cluster",
            cluster.name(),
            "--url",
            cluster.url(),
            "--audience",
            AUDIENCE,
            "--keys",
            &keys,
            "--grant",
            &agent,
            "--grant",
            &general,
        ])?;
        Ok(())
    }

    /// Generals as `mindos generals list` shows them: `cluster/name`.
    fn generals(&self) -> Result<BTreeSet<String>> {
        let all = self.mindos(&["generals", "list"])?;
        let all = all["generals"].as_array().cloned().unwrap_or_default();
        let text = |general: &Value, field: &str| general[field].as_str().unwrap_or_default().to_owned();
        Ok(all.iter().map(|general| format!("{}/{}", text(general, "cluster"), text(general, "name"))).collect())
    }

    /// Instances that are connected.
    fn instances(&self) -> Result<BTreeSet<String>> {
        let all = self.mindos(&["instances", "list"])?;
        let all = all["instances"].as_array().cloned().unwrap_or_default();
        let live = all
            .iter()
            .filter(|one| one["liveness"].as_str().is_some_and(|word| word.to_lowercase().ends_with("connected")));
        let name = |one: &Value| {
            let text = |field: &str| one[field].as_str().unwrap_or_default().to_owned();
            format!("{}/{}", text("cluster"), text("instance_id"))
        };
        Ok(live.map(name).collect())
    }

    async fn has(&self, wanted: &[&str]) -> Result<Duration> {
        let wanted: BTreeSet<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
        let what = format!("the instances {wanted:?}");
        let ((), took) = eventually(&what, SOON, async || {
            let found = self.instances()?;
            ensure!(found == wanted, "there are {found:?}");
            Ok(Some(()))
        })
        .await?;
        Ok(took)
    }
}

/// An agent that runs.
struct Agent {
    process: Process,
    probes: String,
}

impl Agent {
    /// Starts one that joins by its service account and has no more rights than that.
    async fn start(plane: &Plane, cluster: &Cluster, namespace: &str, instance: &str) -> Result<Agent> {
        let token = cluster.token(namespace, "agent", AUDIENCE, None).await?;
        let file = plane.world.folder().join(format!("{instance}.token"));
        std::fs::write(&file, token.expose())?;
        let kubeconfig = cluster.kubeconfig_of(namespace, "agent").await?;
        let probes = free_address()?;
        let (agents, api) = (format!("https://{}", plane.world.agents()), plane.world.server());
        let (ca, file, kubeconfig) =
            (plane.roots.display().to_string(), file.display().to_string(), kubeconfig.display().to_string());
        let words = [
            "cluster-agent",
            "--control-plane",
            &agents,
            "--api",
            &api,
            "--ca",
            &ca,
            "--cluster",
            cluster.name(),
            "--region",
            cluster.name(),
            "--instance",
            instance,
            "--namespace",
            namespace,
            "--watch-namespace",
            namespace,
            "--kubeconfig",
            &kubeconfig,
            "--service-account-token",
            &file,
            "--listen",
            &probes,
        ];
        let process = Process::start(plane.world.folder(), instance, &words.map(str::to_owned))?;
        Ok(Agent { process, probes })
    }

    async fn is_ready(&self) -> Result<Duration> {
        let ((), took) = eventually("an agent that is ready", SOON, async || {
            let (status, body) = http(&self.probes, "GET", "/readyz", &[], b"").await?;
            ensure!(status == 200, "{}; its log ends: {}", String::from_utf8_lossy(&body), self.process.log_end());
            Ok(Some(()))
        })
        .await?;
        Ok(took)
    }

    /// A figure of `/metrics`.
    async fn metric(&self, name: &str) -> Result<i64> {
        let (_, body) = http(&self.probes, "GET", "/metrics", &[], b"").await?;
        let text = String::from_utf8_lossy(&body).into_owned();
        let name = format!("mindos_cluster_agent_{name} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&name)).context("a metric of that name")?;
        line.parse().context("a metric is a number")
    }
}

/// A namespace with the service account of an agent, which may do what it needs and nothing else.
async fn prepare(cluster: &Cluster, namespace: &str) -> Result<()> {
    cluster.namespace(namespace, &[]).await?;
    let subject = json!([{"kind": "ServiceAccount", "name": "agent", "namespace": namespace}]);
    let group = "rbac.authorization.k8s.io";
    let objects = json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "agent", "namespace": namespace}},
        {"apiVersion": format!("{group}/v1"), "kind": "Role", "metadata": {"name": "agent", "namespace": namespace}, "rules": [
            {"apiGroups": [""], "resources": ["pods", "services"], "verbs": ["list", "watch"]},
            {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]},
            {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "resourceNames": ["mindos-cluster-agent"], "verbs": ["get", "update"]},
        ]},
        {"apiVersion": format!("{group}/v1"), "kind": "RoleBinding", "metadata": {"name": "agent", "namespace": namespace},
            "roleRef": {"apiGroup": group, "kind": "Role", "name": "agent"}, "subjects": subject},
        {"apiVersion": format!("{group}/v1"), "kind": "ClusterRole", "metadata": {"name": "agent-nodes"}, "rules": [
            {"apiGroups": [""], "resources": ["nodes"], "verbs": ["list", "watch"]},
        ]},
        {"apiVersion": format!("{group}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": format!("agent-nodes-{namespace}")},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "agent-nodes"}, "subjects": subject},
    ]});
    cluster.kubectl(&["apply", "-f", "-"], &objects.to_string()).await?;
    Ok(())
}

/// A pod whose general answers at `url`, with these labels.
fn pod(namespace: &str, name: &str, url: &str, labels: &Value) -> Value {
    let port = url.rsplit(':').next().unwrap_or_default();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels,
            "annotations": {"fake/ip": "127.0.0.1", "mindos.io/port": port, "mindos.io/slots": "2"}},
        "spec": {"containers": [{"name": "general", "image": "none"}]},
    })
}

async fn apply(cluster: &Cluster, objects: Vec<Value>) -> Result<()> {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    cluster.kubectl(&["apply", "-f", "-"], &list.to_string()).await?;
    Ok(())
}

fn worker() -> Value {
    json!({"mindos.io/general": "worker"})
}

async fn publish(plane: &Plane, prefix: &str, count: usize) -> Result<()> {
    let channel = plane.world.channel()?;
    for number in 0..count {
        let id = format!("{prefix}-{number}");
        client::publish(&channel, client::event("test", &id, "work", &id), SOON).await?;
    }
    Ok(())
}

/// Everything was settled once, and no general got the same attempt twice.
async fn settled(plane: &Plane, events: usize, notes: &[&general::Notes]) -> Result<mindos_e2e::account::Account> {
    let account = plane.world.settled(events, Duration::from_secs(120)).await?;
    let (twice, parked) = (account.settled_twice(), account.parked.len());
    ensure!(account.events.len() == events, "{} events of {events}", account.events.len());
    ensure!(twice.is_empty() && parked == 0 && account.unsettled() == 0, "twice {twice:?}, {parked} parked");
    for notes in notes {
        let doubled: Vec<_> = notes.by_job().into_iter().filter(|(_, count)| *count > 1).collect();
        ensure!(doubled.is_empty(), "attempts that were begun twice: {doubled:?}");
    }
    Ok(account)
}

/// A real general, `mindos general`, at an address of its own.
async fn real_general(folder: &Path, ty: &str) -> Result<(Process, String)> {
    let address = free_address()?;
    let words = ["general", "--type", ty, "--listen", &address].map(str::to_owned);
    let process = Process::start(folder, &format!("general-{ty}"), &words)?;
    let ready = async || Ok((http(&address, "GET", "/ready", &[], b"").await?.0 == 200).then_some(()));
    eventually("a general that is ready", SOON, ready).await.with_context(|| process.log_end())?;
    Ok((process, format!("http://{address}")))
}

async fn two_clusters(bed: &mut Bed, size: Size) -> Result<Value> {
    let namespace = "agent-two-clusters";
    let plane = Plane::start("kube-two").await?;
    let (eu, us) = bed.both().await?;
    let (eu, us) = (&*eu, &*us);
    for cluster in [eu, us] {
        prepare(cluster, namespace).await?;
        plane.trust(cluster, namespace).await?;
    }
    let notes = [general::Notes::new(5, 20), general::Notes::new(5, 20), general::Notes::new(5, 20)];
    let [in_eu, in_us, beside] = &notes;
    let (eu_url, us_url) = (general::serve(in_eu.clone()).await?, general::serve(in_us.clone()).await?);
    let beside_url = general::serve(beside.clone()).await?;
    let (_triage, triage_url) = real_general(plane.world.folder(), "triage-general").await?;
    // One that has a sidecar, which the agent is to leave alone.
    let mut injected = pod(namespace, "injected", &beside_url, &worker());
    injected["spec"]["containers"] =
        json!([{"name": "general", "image": "none"}, {"name": "mindos-sidecar", "image": "none"}]);
    let contract = json!({"app": "llm-general", "type": "triage"});
    apply(
        eu,
        vec![pod(namespace, "w0", &eu_url, &worker()), pod(namespace, "triage", &triage_url, &contract), injected],
    )
    .await?;
    apply(us, vec![pod(namespace, "w0", &us_url, &worker()), pod(namespace, "w1", &us_url, &worker())]).await?;
    let agents = [
        Agent::start(&plane, eu, namespace, "agent-eu").await?,
        Agent::start(&plane, us, namespace, "agent-us").await?,
    ];
    for agent in &agents {
        agent.is_ready().await?;
    }
    let sidecar = sidecar(&plane, eu, namespace, "injected", &beside_url).await?;
    let at = |cluster: &str, pod: &str| format!("{cluster}/{pod}.{namespace}");
    let wanted = [at("eu", "w0"), at("eu", "triage"), at("us", "w0"), at("us", "w1"), "eu/injected".to_owned()];
    let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
    let found = plane
        .has(&wanted)
        .await
        .with_context(|| format!("agent: {}, sidecar: {}", agents[0].process.log_end(), sidecar.log_end()))?;
    let generals = plane.generals()?;
    let expected = ["eu/triage-general", "eu/worker", "us/worker"].map(str::to_owned);
    ensure!(generals == BTreeSet::from(expected), "`mindos generals list` shows {generals:?}");

    // To both clusters, to one of them for its region, and to the real general of the contract.
    let count = size.of(20, 200);
    let channel = plane.world.channel()?;
    client::broadcast_to_workers(&channel).await?;
    publish(&plane, "all", count).await?;
    settled(&plane, count, &notes.each_ref()).await?;
    let (before_eu, before_us) = (in_eu.starts().len() + beside.starts().len(), in_us.starts().len());
    ensure!(before_eu == count && before_us == count, "{before_eu} in eu, {before_us} in us");
    let to = |types: &str| Some(RouteTargets { types: vec![types.to_owned()], ..RouteTargets::default() });
    let resident = Route {
        name: "resident".to_owned(),
        targets: to("worker"),
        strategy: Strategy::RoundRobin.into(),
        residency: vec!["us".to_owned()],
        ..Route::default()
    };
    client::apply(&channel, vec![resident]).await?;
    publish(&plane, "resident", count).await?;
    settled(&plane, 2 * count, &notes.each_ref()).await?;
    let after_eu = in_eu.starts().len() + beside.starts().len();
    ensure!(after_eu == before_eu, "{} that had to stay in us were worked on in eu", after_eu - before_eu);
    ensure!(in_us.starts().len() == before_us + count, "{} in us", in_us.starts().len());
    let triage = Route {
        name: "triage".to_owned(),
        targets: to("triage-general"),
        strategy: Strategy::Broadcast.into(),
        ..Route::default()
    };
    client::apply(&channel, vec![triage]).await?;
    publish(&plane, "triage", 3).await?;
    settled(&plane, 2 * count + 3, &notes.each_ref()).await?;
    let spread: BTreeSet<String> = in_us.starts().into_iter().map(|start| start.instance).collect();
    ensure!(spread.len() == 2, "work in us went to {spread:?} alone");
    ensure!(agents[1].metric("connections").await? == 1, "an agent has more than one connection");
    Ok(
        json!({"found_ms": found.as_millis() as u64, "events": 2 * count + 3, "generals": generals.len(), "beside": beside.starts().len()}),
    )
}

/// A real sidecar by hand, which joins by the service account of a pod.
async fn sidecar(plane: &Plane, cluster: &Cluster, namespace: &str, pod: &str, url: &str) -> Result<Process> {
    let pods: Api<Pod> = Api::namespaced(cluster.client(), namespace);
    eventually("the pod of a sidecar", SOON, async || Ok(pods.get_opt(pod).await?)).await?;
    let token = cluster.token(namespace, "default", AUDIENCE, Some(pod)).await?;
    let file = plane.world.folder().join(format!("{pod}.token"));
    std::fs::write(&file, token.expose())?;
    let general = format!("type=worker,slots=2,url={url}");
    let (agents, api) = (format!("https://{}", plane.world.agents()), plane.world.server());
    let (ca, file) = (plane.roots.display().to_string(), file.display().to_string());
    let words = [
        "sidecar",
        "--control-plane",
        &agents,
        "--api",
        &api,
        "--ca",
        &ca,
        "--cluster",
        cluster.name(),
        "--region",
        cluster.name(),
        "--instance",
        pod,
        "--namespace",
        namespace,
        "--service-account-token",
        &file,
        "--general",
        &general,
    ];
    Process::start(plane.world.folder(), &format!("sidecar-{pod}"), &words.map(str::to_owned))
}

async fn restarts(bed: &mut Bed, size: Size) -> Result<Value> {
    let namespace = "agent-restarts";
    let mut plane = Plane::start("kube-restarts").await?;
    let cluster = bed.cluster_mut();
    prepare(cluster, namespace).await?;
    plane.trust(cluster, namespace).await?;
    let notes = general::Notes::new(300, 1500);
    let url = general::serve(notes.clone()).await?;
    let pods = (0..4).map(|number| pod(namespace, &format!("w{number}"), &url, &worker())).collect();
    apply(cluster, pods).await?;
    let mut agent = Agent::start(&plane, cluster, namespace, "agent-0").await?;
    agent.is_ready().await?;
    let all = (0..4).map(|number| format!("eu/w{number}.{namespace}")).collect::<Vec<_>>();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    plane.has(&all).await.with_context(|| agent.process.log_end())?;
    let to = RouteTargets { types: vec!["worker".to_owned()], ..RouteTargets::default() };
    let route =
        Route { name: "all".to_owned(), targets: Some(to), strategy: Strategy::RoundRobin.into(), ..Route::default() };
    client::apply(&plane.world.channel()?, vec![route]).await?;
    let rounds = size.of(1, 3);
    let (mut events, each) = (0, 40);
    let (mut away, mut back) = (Duration::ZERO, Duration::ZERO);
    for round in 0..rounds {
        // The API server is away: what is known is served on.
        publish(&plane, &format!("api-{round}"), each).await?;
        tokio::time::sleep(Duration::from_millis(700)).await;
        cluster.kill(Part::ApiServer)?;
        let begun = Instant::now();
        events += each;
        settled(&plane, events, &[&notes]).await.with_context(|| agent.process.log_end())?;
        away = away.max(begun.elapsed());
        cluster.revive(Part::ApiServer).await?;
        ensure!(plane.instances()?.len() == 4, "an instance went with the API server");
        // The agent is killed: its leases end with its boot, and the work is done again under other tokens.
        publish(&plane, &format!("agent-{round}"), each).await?;
        tokio::time::sleep(Duration::from_millis(700)).await;
        agent.process.kill()?;
        let begun = Instant::now();
        agent = Agent::start(&plane, cluster, namespace, "agent-0").await?;
        plane.has(&all).await.with_context(|| agent.process.log_end())?;
        back = back.max(begun.elapsed());
        events += each;
        settled(&plane, events, &[&notes]).await.with_context(|| agent.process.log_end())?;
        // And the control plane, since streams that share a connection come back together.
        publish(&plane, &format!("plane-{round}"), each).await?;
        tokio::time::sleep(Duration::from_millis(700)).await;
        plane.world.take_plane()?.kill()?;
        plane.world.start_plane().await?;
        events += each;
        settled(&plane, events, &[&notes]).await.with_context(|| agent.process.log_end())?;
    }
    let account = settled(&plane, events, &[&notes]).await?;
    // A pod that came while the agent was watching again is found.
    apply(cluster, vec![pod(namespace, "late", &url, &worker())]).await?;
    let late = format!("eu/late.{namespace}");
    plane.has(&[&all[..], &[late.as_str()]].concat()).await.with_context(|| agent.process.log_end())?;
    let lost = account.attempts_ended.len();
    plane.world.take_plane()?.terminate(SOON)?;
    let records = plane.world.verify()?;
    Ok(json!({
        "events": events, "settled_without_api_server_ms": away.as_millis() as u64, "agent_back_ms": back.as_millis() as u64,
        "attempts_lost_with_agent": lost, "starts": notes.starts().len(), "records": records,
    }))
}

async fn pods_go(bed: &mut Bed) -> Result<Value> {
    let namespace = "agent-pods-go";
    let plane = Plane::start("kube-pods-go").await?;
    let cluster = bed.cluster();
    prepare(cluster, namespace).await?;
    plane.trust(cluster, namespace).await?;
    let notes = general::Notes::new(3000, 3000);
    let url = general::serve(notes.clone()).await?;
    // The second says nothing of itself, and is spoken for by a Service.
    let mut silent = pod(namespace, "silent", &url, &json!({"tier": "gold"}));
    silent["metadata"]["annotations"]["mindos.io/slots"] = json!("1");
    let port: u16 = url.rsplit(':').next().unwrap_or_default().parse()?;
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "workers", "namespace": namespace, "annotations": {"mindos.io/general": "worker"}},
        "spec": {"selector": {"tier": "gold"}, "ports": [{"port": 80, "targetPort": port}]},
    });
    apply(cluster, vec![pod(namespace, "going", &url, &worker()), silent, service]).await?;
    let agent = Agent::start(&plane, cluster, namespace, "agent-0").await?;
    agent.is_ready().await?;
    let (going, silent) = (format!("eu/going.{namespace}"), format!("eu/silent.{namespace}"));
    plane.has(&[&going, &silent]).await.with_context(|| agent.process.log_end())?;
    let to = RouteTargets { types: vec!["worker".to_owned()], ..RouteTargets::default() };
    let route =
        Route { name: "all".to_owned(), targets: Some(to), strategy: Strategy::RoundRobin.into(), ..Route::default() };
    client::apply(&plane.world.channel()?, vec![route]).await?;
    publish(&plane, "work", 6).await?;
    let begun = async || Ok((notes.starts().len() == 3).then_some(()));
    eventually("three slots that work", SOON, begun).await?;
    let pods: Api<Pod> = Api::namespaced(cluster.client(), namespace);
    pods.delete("going", &DeleteParams::default()).await?;
    let deleted = Instant::now();
    plane.has(&[&silent]).await.with_context(|| agent.process.log_end())?;
    let left = deleted.elapsed();
    let account = settled(&plane, 6, &[&notes]).await?;
    ensure!(account.attempts_ended.is_empty(), "work was cut off: {:?}", account.attempts_ended);
    let by_going = notes.starts().into_iter().filter(|start| start.instance.starts_with("going.")).count();
    ensure!(by_going == 2, "the pod that went got {by_going} pieces of work");
    // A pod that is not ready gets nothing, and nothing is said of a value that is not accepted but in metrics and the log.
    let mut wrong = pod(namespace, "wrong", &url, &worker());
    wrong["metadata"]["annotations"]["mindos.io/slots"] = json!("many");
    apply(cluster, vec![wrong]).await?;
    eventually("a refused object", SOON, async || Ok((agent.metric("objects_refused").await? == 1).then_some(())))
        .await?;
    ensure!(plane.instances()? == BTreeSet::from([silent.clone()]), "a pod that was refused is served");
    // SIGTERM: what runs ends, and the Lease is free.
    publish(&plane, "last", 1).await?;
    eventually("work under way", SOON, async || Ok((notes.starts().len() == 7).then_some(()))).await?;
    let ended = agent.process.terminate(SOON)?;
    ensure!(ended.success(), "the agent ended with {ended}");
    let account = settled(&plane, 7, &[&notes]).await?;
    ensure!(account.attempts_ended.is_empty(), "work was cut off: {:?}", account.attempts_ended);
    let leases: Api<Lease> = Api::namespaced(cluster.client(), namespace);
    let holder = leases.get("mindos-cluster-agent").await?.spec.and_then(|spec| spec.holder_identity);
    ensure!(holder.as_deref().unwrap_or_default().is_empty(), "the lease is still {holder:?}'s");
    Ok(json!({"seen_to_leave_ms": left.as_millis() as u64}))
}

async fn stands_by(bed: &mut Bed) -> Result<Value> {
    let namespace = "agent-stands-by";
    let plane = Plane::start("kube-stands-by").await?;
    let cluster = bed.cluster();
    prepare(cluster, namespace).await?;
    plane.trust(cluster, namespace).await?;
    let notes = general::Notes::new(200, 600);
    let url = general::serve(notes.clone()).await?;
    apply(cluster, vec![pod(namespace, "w0", &url, &worker()), pod(namespace, "w1", &url, &worker())]).await?;
    let all = [format!("eu/w0.{namespace}"), format!("eu/w1.{namespace}")];
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let first = Agent::start(&plane, cluster, namespace, "agent-0").await?;
    first.is_ready().await?;
    plane.has(&all).await.with_context(|| first.process.log_end())?;
    let second = Agent::start(&plane, cluster, namespace, "agent-1").await?;
    second.is_ready().await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    ensure!(first.metric("leader").await? == 1 && second.metric("leader").await? == 0, "not one of two is at work");
    ensure!(second.metric("streams").await? == 0, "who stands by has streams");
    client::broadcast_to_workers(&plane.world.channel()?).await?;
    publish(&plane, "one", 20).await?;
    first.process.signal(Signal::STOP)?;
    let stopped = Instant::now();
    eventually("the second is at work", SOON, async || Ok((second.metric("leader").await? == 1).then_some(()))).await?;
    let took_over = stopped.elapsed();
    let count = settled(&plane, 20, &[&notes]).await.with_context(|| second.process.log_end())?;
    // The first comes back and stands back.
    first.process.signal(Signal::CONT)?;
    eventually("the first stands by", SOON, async || Ok((first.metric("leader").await? == 0).then_some(()))).await?;
    publish(&plane, "two", 20).await?;
    settled(&plane, 40, &[&notes]).await.with_context(|| second.process.log_end())?;
    plane.has(&all).await?;
    ensure!(second.metric("leader").await? == 1, "two are not one");
    // Who leaves in good order is followed at once.
    publish(&plane, "three", 20).await?;
    let left = Instant::now();
    second.process.terminate(SOON)?;
    let gone = left.elapsed();
    eventually("the first is at work again", SOON, async || Ok((first.metric("leader").await? == 1).then_some(())))
        .await?;
    let followed = left.elapsed() - gone;
    settled(&plane, 60, &[&notes]).await.with_context(|| first.process.log_end())?;
    Ok(json!({
        "taken_over_ms": took_over.as_millis() as u64, "followed_ms": followed.as_millis() as u64,
        "attempts_lost": count.attempts_ended.len(),
    }))
}

async fn many(bed: &mut Bed, size: Size) -> Result<Value> {
    let namespace = "agent-many";
    bed.cluster().namespace(namespace, &[]).await?;
    // It would make pods unready, and remove them, whose node is none.
    bed.cluster_mut().kill(Part::ControllerManager)?;
    let came = at_work(bed.cluster(), namespace, size).await;
    bed.cluster_mut().revive(Part::ControllerManager).await?;
    came
}

async fn at_work(cluster: &Cluster, namespace: &str, size: Size) -> Result<Value> {
    let (generals, each) = (size.of(50, 5000), 4);
    let plane = Plane::start("kube-many").await?;
    prepare(cluster, namespace).await?;
    plane.trust(cluster, namespace).await?;
    let notes = general::Notes::new(1, 5);
    let url = general::serve(notes.clone()).await?;
    let made = Instant::now();
    fill(cluster, namespace, generals, each, &url).await?;
    let made = made.elapsed();
    let begun = Instant::now();
    let agent = Agent::start(&plane, cluster, namespace, "agent-0").await?;
    let total = i64::try_from(generals * each)?;
    let seen = async || Ok((agent.metric("pods").await? == total && agent.metric("synced").await? == 1).then_some(()));
    eventually("all pods are seen", Duration::from_secs(120), seen).await.with_context(|| agent.process.log_end())?;
    let synced = begun.elapsed();
    let served = async || {
        let streams = agent.metric("streams").await?;
        ensure!(streams == total, "{streams} of {total} streams");
        Ok(Some(()))
    };
    eventually("all are served", Duration::from_secs(300), served).await.with_context(|| agent.process.log_end())?;
    let served = begun.elapsed();
    let (resident, peak) = (agent.process.memory()?, agent.process.memory_peak()?);
    ensure!(peak <= AGENT_MEMORY, "the agent took {peak} bytes: its chart gives it {AGENT_MEMORY}");
    // They work.
    let channel = plane.world.channel()?;
    let route = Route {
        name: "all".to_owned(),
        targets: Some(RouteTargets {
            types: vec!["worker-0".to_owned(), "worker-1".to_owned()],
            ..RouteTargets::default()
        }),
        strategy: Strategy::Broadcast.into(),
        ..Route::default()
    };
    client::apply(&channel, vec![route]).await?;
    publish(&plane, "one", 10).await?;
    settled(&plane, 10, &[&notes]).await.with_context(|| agent.process.log_end())?;
    Ok(json!({
        "generals": generals, "pods": total, "made_s": made.as_secs(), "synced_ms": synced.as_millis() as u64,
        "served_ms": served.as_millis() as u64, "resident_bytes": resident, "peak_bytes": peak,
        "connections": agent.metric("connections").await?, "plane_resident_bytes": plane.world.plane()?.memory()?,
    }))
}

/// Makes generals with their pods, which are on no node and are said to be ready here.
async fn fill(cluster: &Cluster, namespace: &str, generals: usize, each: usize, url: &str) -> Result<()> {
    use futures_util::StreamExt;
    let pods: Api<Pod> = Api::namespaced(cluster.client(), namespace);
    let work = (0..generals * each).map(|number| {
        let (pods, name) = (pods.clone(), format!("worker-{}-{}", number / each, number % each));
        let labels = json!({"mindos.io/general": format!("worker-{}", number / each)});
        let mut object = pod(namespace, &name, url, &labels);
        object["spec"]["nodeName"] = json!("nowhere");
        async move {
            let made: Pod = serde_json::from_value(object)?;
            pods.create(&Default::default(), &made).await?;
            let status = json!({"status": {
                "phase": "Running", "podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}],
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-20T12:00:00Z"}],
            }});
            pods.patch_status(&name, &Default::default(), &kube::api::Patch::Merge(&status)).await?;
            anyhow::Ok(())
        }
    });
    let mut running = futures_util::stream::iter(work).buffer_unordered(32);
    while let Some(done) = running.next().await {
        done?;
    }
    Ok(())
}
