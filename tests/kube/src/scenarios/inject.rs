//! Injection, by the real injector beside a real API server, with no more rights than its manifest gives it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use mindos_e2e::client;
use mindos_e2e::general::{self, Notes};
use mindos_e2e::process::{self, Process};
use mindos_e2e::world::{World, free_address, http};
use serde_json::{Value, json};

use crate::assets::checkout;
use crate::authority::Authority;
use crate::bed::Bed;
use crate::cluster::Cluster;
use crate::eventually::eventually;
use crate::scenario::{Scenario, Size};

/// Those of this module.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "inject_pods",
        what: "pods of a Deployment have one sidecar each, though every webhook is asked twice; roots and certificate come by themselves",
        quick: true,
        run: |bed, size| Box::pin(pods(bed, size)),
    },
    Scenario {
        name: "inject_down",
        what: "without an injector pods are made bare under Ignore and refused under Fail; what is wrong is warned of or refused",
        quick: true,
        run: |bed, _| Box::pin(down(bed)),
    },
    Scenario {
        name: "inject_rotation",
        what: "two replicas rotate one certificate while pods are made all the time under Fail, and none is refused",
        quick: true,
        run: |bed, size| Box::pin(rotation(bed, size)),
    },
    Scenario {
        name: "inject_files",
        what: "a certificate in files that somebody replaces, as cert-manager does, is taken up; half of one changes nothing",
        quick: true,
        run: |bed, _| Box::pin(files(bed)),
    },
    Scenario {
        name: "inject_joins",
        what: "what was injected into the pod of a Job, started as it stands there, joins by the pod's token, and ends with its general",
        quick: true,
        run: |bed, _| Box::pin(joins(bed)),
    },
];

const SIDECAR: &str = "mindos-sidecar";
const LONG: Duration = Duration::from_secs(60);

/// The injector's objects in a cluster, as its chart has them.
struct Installed {
    /// Its own namespace, which names its objects of the cluster as well.
    namespace: String,
    kubeconfig: PathBuf,
    folder: PathBuf,
}

/// A replica of it.
struct Injector {
    process: Process,
    webhook: String,
    probes: String,
}

/// Makes the service account, what it may do, and the webhook configuration for `target`.
async fn install(cluster: &Cluster, folder: &Path, namespace: &str, target: &str, policy: &str) -> Result<Installed> {
    cluster.namespace(namespace, &[]).await?;
    let subject = json!([{"kind": "ServiceAccount", "name": "injector", "namespace": namespace}]);
    let rbac = "rbac.authorization.k8s.io";
    let own = json!({"name": "injector", "namespace": namespace});
    let wide = json!({"name": namespace});
    let objects = json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": own},
        {"apiVersion": format!("{rbac}/v1"), "kind": "Role", "metadata": own, "rules": [
            {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},
            {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["mindos-injector-tls"], "verbs": ["get", "update"]},
        ]},
        {"apiVersion": format!("{rbac}/v1"), "kind": "RoleBinding", "metadata": own, "subjects": subject,
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "injector"}},
        {"apiVersion": format!("{rbac}/v1"), "kind": "ClusterRole", "metadata": wide, "rules": [
            {"apiGroups": ["admissionregistration.k8s.io"], "resources": ["mutatingwebhookconfigurations"],
                "resourceNames": [namespace], "verbs": ["get", "patch"]},
            {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create"]},
            {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["mindos-ca"], "verbs": ["get", "patch"]},
        ]},
        {"apiVersion": format!("{rbac}/v1"), "kind": "ClusterRoleBinding", "metadata": wide, "subjects": subject,
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": namespace}},
        configuration(namespace, target, policy),
    ]});
    cluster.kubectl(&["apply", "-f", "-"], &objects.to_string()).await?;
    let kubeconfig = cluster.kubeconfig_of(namespace, "injector").await?;
    Ok(Installed { namespace: namespace.to_owned(), kubeconfig, folder: folder.to_owned() })
}

fn configuration(name: &str, target: &str, policy: &str) -> Value {
    let rules = json!([{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"], "scope": "Namespaced"}]);
    let webhook = |webhook: &str, namespaces: Value, general: &str| {
        json!({
            "name": webhook, "rules": rules, "clientConfig": {"url": format!("https://{target}/inject")},
            "failurePolicy": policy, "timeoutSeconds": 5, "reinvocationPolicy": "IfNeeded", "sideEffects": "NoneOnDryRun",
            "admissionReviewVersions": ["v1"], "matchPolicy": "Equivalent",
            "namespaceSelector": {"matchExpressions": namespaces},
            "objectSelector": {"matchExpressions": [{"key": "mindos.io/general", "operator": general}]},
        })
    };
    // Of scenarios' namespaces only those that name this one: others have their own.
    let here = json!({"key": "scenario", "operator": "In", "values": [name]});
    let asked = json!({"key": "mindos.io/inject", "operator": "In", "values": ["true"]});
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration", "metadata": {"name": name},
        "webhooks": [
            webhook("pods.injector.mindos.io", json!([here]), "Exists"),
            webhook("namespaces.injector.mindos.io", json!([here, asked]), "DoesNotExist"),
        ],
    })
}

impl Installed {
    /// Starts a replica that listens at `webhook`, and waits until the API server has its roots.
    async fn start(&self, webhook: &str, control_plane: &str, more: &[&str]) -> Result<Injector> {
        let injector = self.begin(webhook, control_plane, more).await?;
        eventually("the API server has the roots", LONG, || async {
            Ok((injector.metric("mindos_injector_ca_bundle_published").await? == 1.0).then_some(()))
        })
        .await
        .with_context(|| injector.process.log_end())?;
        Ok(injector)
    }

    /// Starts a replica that listens at `webhook`; the roots are somebody else's affair.
    async fn begin(&self, webhook: &str, control_plane: &str, more: &[&str]) -> Result<Injector> {
        let probes = free_address()?;
        let kubeconfig = format!("KUBECONFIG={}", self.kubeconfig.display());
        let mindos = process::mindos()?.display().to_string();
        let words = [
            &[&kubeconfig, &mindos, "injector", "--listen", webhook, "--metrics-listen", &probes][..],
            &["--namespace", &self.namespace, "--server-name", "127.0.0.1", "--webhook-configuration", &self.namespace],
            &[
                "--image",
                "registry.example.com/mindos-sidecar:test",
                "--control-plane",
                control_plane,
                "--cluster",
                "eu",
            ],
            &["--shutdown-delay", "0s"],
            more,
        ];
        let words: Vec<String> = words.concat().into_iter().map(str::to_owned).collect();
        let mut process =
            Process::start_program(Path::new("/usr/bin/env"), &self.folder, &format!("injector-{probes}"), &words)?;
        let ready = eventually("the injector is ready", LONG, || async {
            Ok((http(&probes, "GET", "/readyz", &[], b"").await?.0 == 200).then_some(()))
        });
        if let Err(error) = ready.await {
            bail!("{error:#}; {:?}; its log ends: {}", process.ended()?, process.log_end());
        }
        Ok(Injector { process, webhook: webhook.to_owned(), probes })
    }

    /// Takes what concerns the whole cluster away.
    async fn remove(self, cluster: &Cluster) -> Result<()> {
        let all: Api<MutatingWebhookConfiguration> = Api::all(cluster.client());
        all.delete(&self.namespace, &DeleteParams::default()).await?;
        Ok(())
    }
}

impl Injector {
    /// One figure of its metrics.
    async fn metric(&self, name: &str) -> Result<f64> {
        let (_, body) = http(&self.probes, "GET", "/metrics", &[], b"").await?;
        let text = String::from_utf8_lossy(&body);
        let line =
            text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("there is no {name}"))?;
        Ok(line.trim().parse()?)
    }

    async fn reviews(&self, result: &str) -> Result<f64> {
        self.metric(&format!("mindos_injector_reviews_total{{result=\"{result}\"}}")).await
    }
}

/// Containers of a pod that are sidecars of ours, wherever they are.
fn sidecars(pod: &Pod) -> Vec<Value> {
    let spec = serde_json::to_value(&pod.spec).unwrap_or_default();
    let all = ["containers", "initContainers"].into_iter().filter_map(|list| spec[list].as_array()).flatten();
    all.filter(|container| container["name"] == SIDECAR).cloned().collect()
}

fn pod(name: &str, more: &Value) -> Value {
    let mut metadata = json!({"name": name, "labels": {"mindos.io/general": "worker"}});
    if let (Some(metadata), Some(more)) = (metadata.as_object_mut(), more.as_object()) {
        metadata.extend(more.clone());
    }
    let container = json!({"name": "general", "image": "none", "ports": [{"containerPort": 8080}]});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container]}})
}

async fn pods(bed: &mut Bed, size: Size) -> Result<Value> {
    let folder = bed.folder_of("inject-pods")?;
    let cluster = bed.cluster();
    let (webhook, second) = (free_address()?, free_address()?);
    let installed = install(cluster, &folder, "inject-pods", &webhook, "Fail").await?;
    let roots = cluster.ca().display().to_string();
    let injector = installed.start(&webhook, "https://127.0.0.1:1", &["--ca-file", &roots]).await?;

    // Asked after ours, by its name.
    let script = checkout("tests/kube/second_webhook.py")?.display().to_string();
    let port = second.rsplit(':').next().unwrap_or_default().to_owned();
    let in_cluster = |name: &str| cluster.folder().join(name).display().to_string();
    let words = ["-B".to_owned(), script, port, in_cluster("server.crt"), in_cluster("server.key")];
    let _second = Process::start_program(Path::new("python3"), &folder, "second", &words)?;
    eventually("the second webhook listens", LONG, || async {
        Ok(tokio::net::TcpStream::connect(&second).await.is_ok().then_some(()))
    })
    .await?;
    let bundle = k8s_openapi::ByteString(std::fs::read(cluster.ca())?);
    let mut other = configuration("inject-pods", &second, "Fail");
    other["metadata"]["name"] = json!("z-inject-pods");
    other["webhooks"].as_array_mut().context("webhooks")?.truncate(1);
    other["webhooks"][0]["name"] = json!("mesh.example.com");
    other["webhooks"][0]["clientConfig"]["caBundle"] = json!(bundle);
    cluster.kubectl(&["apply", "-f", "-"], &other.to_string()).await?;

    let count = size.of(20, 200);
    cluster.namespace("inject-pods-work", &[("scenario", "inject-pods")]).await?;
    let deployments: Api<Deployment> = Api::namespaced(cluster.client(), "inject-pods-work");
    let template = pod("", &json!({"name": null, "labels": {"app": "worker", "mindos.io/general": "worker"}}));
    let deployment = serde_json::from_value(json!({
        "metadata": {"name": "worker"},
        "spec": {"replicas": count, "selector": {"matchLabels": {"app": "worker"}}, "template": template},
    }))?;
    let begun = Instant::now();
    deployments.create(&PostParams::default(), &deployment).await?;
    let all: Api<Pod> = Api::namespaced(cluster.client(), "inject-pods-work");
    eventually("all pods are made", Duration::from_secs(120), || async {
        Ok((all.list(&ListParams::default()).await?.items.len() == count).then_some(()))
    })
    .await?;
    let took = begun.elapsed();
    for pod in all.list(&ListParams::default()).await?.items {
        let found = sidecars(&pod);
        let name = pod.metadata.name.clone().unwrap_or_default();
        ensure!(found.len() == 1, "{name} has {} sidecars", found.len());
        let spec = pod.spec.context("a pod has a spec")?;
        ensure!(spec.containers.iter().any(|one| one.name == "mesh"), "{name} has nothing of the second webhook");
        // Put in front of it by the second webhook, whose container moves the general's.
        let general = spec.containers.iter().find(|one| one.name == "general").context("the general is there")?;
        let hook = general.lifecycle.as_ref().and_then(|all| all.pre_stop.as_ref()?.http_get.as_ref()?.path.clone());
        let asks = hook.as_ref().is_some_and(|path| path.starts_with("/drain"));
        ensure!(asks, "{name}: the general's hook is {hook:?}");
        let volumes: Vec<_> = spec.volumes.unwrap_or_default().into_iter().map(|one| one.name).collect();
        for volume in ["mindos-token", "mindos-ca"] {
            ensure!(volumes.iter().filter(|name| *name == volume).count() == 1, "{name} has volumes {volumes:?}");
        }
    }
    let (injected, present) = (injector.reviews("injected").await?, injector.reviews("present").await?);
    ensure!(
        injected >= count as f64 && present >= count as f64,
        "asked for {injected}, again for {present} of {count}"
    );
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client(), "inject-pods-work");
    let (map, _) = eventually("the roots are there", LONG, || async { Ok(maps.get_opt("mindos-ca").await?) }).await?;
    let held = map.data.and_then(|data| data.get("ca.crt").cloned());
    ensure!(held.as_deref() == Some(std::fs::read_to_string(cluster.ca())?.as_str()), "the roots are others");

    // By an annotation alone, in a namespace that wants it, and in one that does not.
    let annotated = json!({"labels": {}, "annotations": {"mindos.io/general": "worker"}});
    for (namespace, labels, expected) in [
        ("inject-pods-asked", &[("scenario", "inject-pods"), ("mindos.io/inject", "true")][..], 1),
        ("inject-pods-unasked", &[("scenario", "inject-pods")], 0),
    ] {
        cluster.namespace(namespace, labels).await?;
        let made = make(&Api::namespaced(cluster.client(), namespace), "annotated", &annotated).await?;
        ensure!(sidecars(&made).len() == expected, "in {namespace} it has {} sidecars", sidecars(&made).len());
    }
    let memory = injector.process.memory_peak()?;
    let seconds = injector.metric("mindos_injector_review_duration_seconds_sum").await?;
    let reviews = injector.metric("mindos_injector_review_duration_seconds_count").await?;
    injector.process.terminate(LONG)?;
    installed.remove(cluster).await?;
    let all: Api<MutatingWebhookConfiguration> = Api::all(cluster.client());
    all.delete("z-inject-pods", &DeleteParams::default()).await?;
    deployments.delete("worker", &DeleteParams::default()).await?;
    Ok(json!({
        "pods": count, "made_ms": took.as_millis() as u64, "asked": reviews as u64, "asked_again": present as u64,
        "mean_review_us": (seconds / reviews * 1e6) as u64, "memory_peak_mb": memory >> 20,
    }))
}

async fn down(bed: &mut Bed) -> Result<Value> {
    let folder = bed.folder_of("inject-down")?;
    let cluster = bed.cluster();
    let webhook = free_address()?;
    let installed = install(cluster, &folder, "inject-down", &webhook, "Ignore").await?;
    cluster.namespace("inject-down-work", &[("scenario", "inject-down")]).await?;
    let all: Api<Pod> = Api::namespaced(cluster.client(), "inject-down-work");
    let injector = installed.start(&webhook, "https://127.0.0.1:1", &["--ca-system"]).await?;
    ensure!(sidecars(&make(&all, "first", &json!({})).await?).len() == 1, "it was not injected");
    // A value that has no meaning.
    let wrong = json!({"annotations": {"mindos.io/slots": "many"}});
    let warned = make(&all, "warned", &wrong).await?;
    let said =
        warned.metadata.annotations.clone().unwrap_or_default().remove("mindos.io/injection").unwrap_or_default();
    ensure!(sidecars(&warned).is_empty() && said.contains("mindos.io/slots is `many`"), "it says `{said}`");
    let told = cluster
        .kubectl(&["create", "--dry-run=server", "-o", "name", "-f", "-"], &namespaced("by-hand", &wrong))
        .await?;
    ensure!(told.trim() == "pod/by-hand", "kubectl printed {told}");
    injector.process.kill()?;

    ensure!(sidecars(&make(&all, "ignored", &json!({})).await?).is_empty(), "it was injected by nobody");
    let fail = configuration("inject-down", &webhook, "Fail");
    cluster.kubectl(&["apply", "-f", "-"], &fail.to_string()).await?;
    let (error, _) = eventually("a pod is refused", LONG, || async {
        let error = make(&all, "refused", &json!({})).await.err();
        if error.is_none() {
            all.delete("refused", &DeleteParams::default()).await?;
        }
        Ok(error)
    })
    .await?;
    let error = format!("{error:#}");
    ensure!(error.contains("pods.injector.mindos.io"), "it says {error}");
    let bare = pod("bystander", &json!({"labels": {"app": "another"}}));
    all.create(&PostParams::default(), &serde_json::from_value(bare)?).await.context("others are not held up")?;

    let injector = installed.start(&webhook, "https://127.0.0.1:1", &["--ca-system", "--wrong", "refuse"]).await?;
    let (made, _) =
        eventually("pods are injected again", LONG, || async { Ok(make(&all, "refused", &json!({})).await.ok()) })
            .await?;
    ensure!(sidecars(&made).len() == 1, "it was not injected");
    let error = make(&all, "wrong", &wrong).await.err().map(|error| format!("{error:#}")).unwrap_or_default();
    ensure!(error.contains("mindos.io/slots is `many`: expected a number from 1 to 10000"), "it says {error}");
    injector.process.terminate(LONG)?;
    installed.remove(cluster).await?;
    Ok(json!({"refused_with": error}))
}

/// Makes a pod. A server before 1.24 wants the namespace's first token for that, which takes a moment.
async fn make(all: &Api<Pod>, name: &str, more: &Value) -> Result<Pod> {
    let pod = serde_json::from_value(pod(name, more))?;
    loop {
        match all.create(&PostParams::default(), &pod).await {
            Err(error) if error.to_string().contains("No API token found") => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            made => return Ok(made?),
        }
    }
}

fn namespaced(name: &str, more: &Value) -> String {
    let mut pod = pod(name, more);
    pod["metadata"]["namespace"] = json!("inject-down-work");
    pod.to_string()
}

async fn rotation(bed: &mut Bed, size: Size) -> Result<Value> {
    let folder = bed.folder_of("inject-rotation")?;
    let cluster = bed.cluster();
    let (webhook, other) = (free_address()?, free_address()?);
    let installed = install(cluster, &folder, "inject-rotation", &webhook, "Fail").await?;
    cluster.namespace("inject-rotation-work", &[("scenario", "inject-rotation")]).await?;
    let more = ["--ca-system", "--certificate-life", "60s"];
    let (injector, replica) = tokio::try_join!(
        installed.start(&webhook, "https://127.0.0.1:1", &more),
        installed.start(&other, "https://127.0.0.1:1", &more)
    )?;
    let secrets: Api<Secret> = Api::namespaced(cluster.client(), "inject-rotation");
    let serving = async || {
        let held = secrets.get("mindos-injector-tls").await?.data.unwrap_or_default();
        anyhow::Ok(held.get("tls.crt").context("the Secret has a certificate")?.0.clone())
    };
    let all: Api<Pod> = Api::namespaced(cluster.client(), "inject-rotation-work");
    let made: Pod = serde_json::from_value(pod("again", &json!({})))?;
    let params = PostParams { dry_run: true, ..PostParams::default() };
    make(&all, "first", &json!({})).await?;
    let (begun, mut current, mut rotations, mut pods, mut slowest) =
        (Instant::now(), serving().await?, 0, 0, Duration::ZERO);
    // A certificate of 60 s is replaced after 40 s, and 5 s for API servers to hear of it.
    while rotations < size.of(1, 3) {
        ensure!(begun.elapsed() < Duration::from_secs(240), "{rotations} rotations in {:?}", begun.elapsed());
        let asked = Instant::now();
        let pod =
            all.create(&params, &made).await.with_context(|| format!("after {rotations} rotations and {pods} pods"))?;
        ensure!(sidecars(&pod).len() == 1, "it was not injected");
        (pods, slowest) = (pods + 1, slowest.max(asked.elapsed()));
        if pods % 10 == 0 {
            let now = serving().await?;
            rotations += usize::from(now != current);
            current = now;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Whoever did not take the step shows the same certificate.
    let seconds = |text: f64| text as u64;
    let expiry = "mindos_injector_certificate_expiry_timestamp_seconds";
    eventually("both replicas show one certificate", LONG, || async {
        Ok((seconds(injector.metric(expiry).await?) == seconds(replica.metric(expiry).await?)).then_some(()))
    })
    .await?;
    let failed = injector.metric("mindos_injector_handshakes_failed_total").await?;
    ensure!(failed == 0.0, "{failed} handshakes failed");
    ensure!(injector.webhook != replica.webhook, "they are two");
    injector.process.terminate(LONG)?;
    replica.process.terminate(LONG)?;
    installed.remove(cluster).await?;
    Ok(json!({"rotations": rotations, "pods": pods, "refused": 0, "slowest_ms": slowest.as_millis() as u64}))
}

/// Files are put in place as a kubelet puts those of a Secret: all of them at once, by a link.
async fn files(bed: &mut Bed) -> Result<Value> {
    let folder = bed.folder_of("inject-files")?;
    let cluster = bed.cluster();
    let mut bundles = Vec::new();
    for name in ["old", "new"] {
        let at = folder.join(name);
        std::fs::create_dir_all(&at).with_context(|| format!("failed to make {}", at.display()))?;
        Authority::new(&at)?.server("tls", &[])?;
        bundles.push(std::fs::read(at.join("ca.crt"))?);
    }
    std::fs::create_dir_all(folder.join("half"))?;
    std::fs::copy(folder.join("new/tls.crt"), folder.join("half/tls.crt"))?;
    std::fs::copy(folder.join("old/tls.key"), folder.join("half/tls.key"))?;
    let put = |name: &str| {
        std::os::unix::fs::symlink(folder.join(name), folder.join("next"))?;
        std::fs::rename(folder.join("next"), folder.join("data")).context("failed to put files in place")
    };
    put("old")?;

    let webhook = free_address()?;
    let installed = install(cluster, &folder, "inject-files", &webhook, "Fail").await?;
    cluster.namespace("inject-files-work", &[("scenario", "inject-files")]).await?;
    // The API server keeps its connections for as long as a bundle is the same to the byte, so each is another.
    let asked = std::sync::atomic::AtomicUsize::new(0);
    let trusts = async |bundle: &[u8]| {
        let number = asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let bundle = [bundle, "\n".repeat(number).as_bytes()].concat();
        let mut trusting = configuration("inject-files", &webhook, "Fail");
        for webhook in trusting["webhooks"].as_array_mut().context("webhooks")? {
            webhook["clientConfig"]["caBundle"] = json!(k8s_openapi::ByteString(bundle.clone()));
        }
        cluster.kubectl(&["apply", "-f", "-"], &trusting.to_string()).await?;
        // Until the API server goes by it.
        tokio::time::sleep(Duration::from_secs(1)).await;
        anyhow::Ok(())
    };
    trusts(&bundles.concat()).await?;
    let file = |name: &str| folder.join("data").join(name).display().to_string();
    let (certificate, key) = (file("tls.crt"), file("tls.key"));
    let more = ["--ca-system", "--tls-cert", &certificate, "--tls-key", &key];
    let injector = installed.begin(&webhook, "https://127.0.0.1:1", &more).await?;

    let all: Api<Pod> = Api::namespaced(cluster.client(), "inject-files-work");
    let made: Pod = serde_json::from_value(pod("again", &json!({})))?;
    let params = PostParams { dry_run: true, ..PostParams::default() };
    let injects = async || anyhow::Ok(sidecars(&all.create(&params, &made).await?).len() == 1);
    let injected = async || Ok(injects().await?.then_some(()));
    let refused = async || Ok(injects().await.err().map(|error| format!("{error:#}")));
    eventually("pods are injected", LONG, injected).await.with_context(|| injector.process.log_end())?;

    // A certificate with another's key: what was there is shown on.
    put("half")?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    trusts(&bundles[0]).await?;
    ensure!(injects().await?, "half of a certificate was taken");

    put("new")?;
    let changed = Instant::now();
    // Who trusts the old one alone finds another, and who trusts the new one finds that.
    let (error, _) = eventually("the old certificate is shown no more", LONG, async || {
        trusts(&bundles[0]).await?;
        refused().await
    })
    .await
    .with_context(|| injector.process.log_end())?;
    ensure!(error.contains("certificate"), "it says {error}");
    let took = changed.elapsed();
    trusts(&bundles[1]).await?;
    eventually("pods are injected under the new one", LONG, injected).await?;
    injector.process.terminate(LONG)?;
    installed.remove(cluster).await?;
    Ok(json!({"taken_up_ms": took.as_millis() as u64}))
}

/// A general that ends, with its connections, when it is dropped.
struct General(Option<tokio::runtime::Runtime>);

impl General {
    /// Where it is.
    async fn serve(&self) -> Result<String> {
        let runtime = self.0.as_ref().context("it has not ended")?;
        runtime.spawn(general::serve(Notes::new(1, 5))).await?
    }
}

impl Drop for General {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

async fn joins(bed: &mut Bed) -> Result<Value> {
    let folder = bed.folder_of("inject-joins")?;
    let cluster = bed.cluster();
    let mut world = World::secure("inject-joins", Duration::from_secs(600), &[])?;
    world.start_plane().await?;
    let webhook = free_address()?;
    let installed = install(cluster, &folder, "inject-joins", &webhook, "Fail").await?;
    let roots = world.roots().display().to_string();
    let (plane, api) = (format!("https://{}", world.agents()), world.server());
    let flags = ["--api", &api, "--ca-file", &roots, "--audience", "mindos/default", "--issuer", "default/main"];
    let injector = installed.start(&webhook, &plane, &flags).await?;

    // The cluster's keys, and who may be what.
    let keys = folder.join("keys.json");
    let request = ::http::Request::get("/openid/v1/jwks").body(Vec::new())?;
    std::fs::write(&keys, cluster.client().request_text(request).await?)?;
    let (token, keys) = (folder.join("admin"), keys.display().to_string());
    std::fs::write(&token, world.admin_token()?.expose())?;
    let token = token.display().to_string();
    let server = ["--endpoint", &api, "--ca", &roots, "--token-file", &token];
    let mindos = |words: &[&str]| process::json(&[words, &server].concat());
    let grant = "namespace=inject-joins-work,service-account=default,generals=worker";
    mindos(&[
        "issuers",
        "add",
        "main",
        "--cluster",
        "eu",
        "--url",
        cluster.url(),
        "--audience",
        "mindos/default",
        "--keys",
        &keys,
        "--grant",
        grant,
    ])?;

    // A Job's pod, with a general that really listens.
    let general = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let general = General(Some(general));
    let address = general.serve().await?;
    cluster.namespace("inject-joins-work", &[("scenario", "inject-joins")]).await?;
    let port = address.rsplit(':').next().unwrap_or_default();
    let notes = json!({"fake/phase": "Succeeded", "fake/after": "600", "mindos.io/port": port});
    let job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "once", "namespace": "inject-joins-work"},
        "spec": {"backoffLimit": 0, "template": {
            "metadata": {"labels": {"mindos.io/general": "worker"}, "annotations": notes},
            "spec": {"restartPolicy": "Never", "containers": [{"name": "general", "image": "none"}]},
        }},
    });
    cluster.kubectl(&["apply", "-f", "-"], &job.to_string()).await?;
    let all: Api<Pod> = Api::namespaced(cluster.client(), "inject-joins-work");
    let (pod, _) = eventually("the Job has a pod", LONG, || async {
        Ok(all.list(&ListParams::default().labels("job-name=once")).await?.items.pop())
    })
    .await?;
    let found = sidecars(&pod).pop().context("it was not injected")?;

    // What a kubelet does: volumes as folders, variables from the pod.
    let name = pod.metadata.name.clone().unwrap_or_default();
    let mounts = folder.join("volumes");
    std::fs::create_dir_all(mounts.join("token"))?;
    std::fs::create_dir_all(mounts.join("ca"))?;
    let pod_token = cluster.token("inject-joins-work", "default", "mindos/default", Some(&name)).await?;
    std::fs::write(mounts.join("token/token"), pod_token.expose())?;
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client(), "inject-joins-work");
    let (map, _) = eventually("the roots are there", LONG, || async { Ok(maps.get_opt("mindos-ca").await?) }).await?;
    std::fs::write(
        mounts.join("ca/ca.crt"),
        map.data.and_then(|data| data.get("ca.crt").cloned()).unwrap_or_default(),
    )?;
    let mut words = Vec::new();
    for variable in found["env"].as_array().into_iter().flatten() {
        let value = match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
            Some("metadata.name") => name.as_str(),
            Some("metadata.namespace") => "inject-joins-work",
            Some("metadata.uid") => pod.metadata.uid.as_deref().unwrap_or_default(),
            Some(other) => bail!("nobody has a field {other}"),
            None => variable["value"].as_str().unwrap_or_default(),
        };
        words.push(format!("{}={value}", variable["name"].as_str().unwrap_or_default()));
    }
    words.extend([process::mindos()?.display().to_string(), "sidecar".to_owned()]);
    let place = mounts.display().to_string();
    for arg in found["args"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let arg = arg.replace("/var/run/secrets/mindos.io", &place).replace("$$", "$");
        // The port of the pod's own network; here it may be somebody else's.
        words.push(if arg.starts_with("--ready-listen=") {
            format!("--ready-listen={}", free_address()?)
        } else {
            arg
        });
    }
    ensure!(words.iter().any(|word| word == "--end-with-general=10"), "it does not end with its general: {words:?}");
    let begun = Instant::now();
    let mut sidecar = Process::start_program(Path::new("/usr/bin/env"), &folder, "sidecar", &words)?;
    let joined = eventually("the sidecar has joined", LONG, || async {
        let all = mindos(&["instances", "list"])?;
        Ok(all.to_string().contains(&name).then_some(()))
    });
    joined.await.with_context(|| sidecar.log_end())?;
    let took = begun.elapsed();
    client::broadcast_to_workers(&world.channel()?).await?;
    let sent = mindos(&["send", "--type", "com.example.hello", "--source", "/inject", "--data", "{}", "--wait"])?;
    ensure!(sent.to_string().contains("succeeded"), "what was sent came to {sent}");

    // The general ends; nobody tells the sidecar.
    let begun = Instant::now();
    drop(general);
    let status = sidecar.wait(LONG)?;
    ensure!(status.success(), "the sidecar ended with {status}");
    let ended = begun.elapsed();
    injector.process.terminate(LONG)?;
    installed.remove(cluster).await?;
    Ok(json!({"joined_ms": took.as_millis() as u64, "ended_after_its_general_ms": ended.as_millis() as u64}))
}
