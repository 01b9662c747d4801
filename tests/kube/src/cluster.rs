//! A cluster: etcd, API server, controller manager, scheduler and a kubelet whose pods "run".
//!
//! Its parts can be killed and started again one by one. All go when it is dropped, its folder too unless the scenario panics or
//! `MINDOS_E2E_KEEP` is set.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use mindos_e2e::process::Process;
use mindos_e2e::world::free_address;
use mindos_sdk::model::Secret;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::assets::{self, Assets};
use crate::authority::{Authority, write_kubeconfig};
use crate::eventually::eventually;

/// How long a cluster may take to be there.
pub const START_MAX: Duration = Duration::from_secs(90);
/// Who makes what a scenario makes.
pub const MANAGER: &str = "mindos-kube-tests";

/// A process of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Etcd,
    ApiServer,
    ControllerManager,
    Scheduler,
    /// `kubectl proxy`, for the kubelet.
    Proxy,
    Kubelet,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Part::Etcd => "etcd",
            Part::ApiServer => "kube-apiserver",
            Part::ControllerManager => "kube-controller-manager",
            Part::Scheduler => "kube-scheduler",
            Part::Proxy => "kubectl-proxy",
            Part::Kubelet => "kubelet",
        }
    }
}

/// A cluster that runs.
pub struct Cluster {
    name: String,
    folder: PathBuf,
    assets: Assets,
    url: String,
    client: kube::Client,
    commands: BTreeMap<Part, (PathBuf, Vec<String>)>,
    // Dropped in the order of their names: whoever asks goes after whom it asks, which does no harm.
    running: BTreeMap<Part, Process>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("name", &self.name).field("url", &self.url).finish_non_exhaustive()
    }
}

impl Cluster {
    /// Starts one in `<folder>/<name>` and waits until pods can be made in it.
    ///
    /// # Errors
    /// When a program is missing or not ready in time.
    pub async fn start(folder: &Path, name: &str) -> Result<Cluster> {
        let assets = Assets::find()?;
        let folder = folder.join(name);
        std::fs::create_dir_all(&folder).with_context(|| format!("failed to make {}", folder.display()))?;
        let address = free_address()?;
        let url = format!("https://{address}");
        let authority = Authority::new(&folder)?;
        authority.server("server", &["kubernetes.default.svc"])?;
        authority.client("admin", "admin", Some("system:masters"))?;
        authority.client("kcm", "system:kube-controller-manager", None)?;
        authority.client("sched", "system:kube-scheduler", None)?;
        authority.client("front", "front-proxy-client", None)?;
        for who in ["admin", "kcm", "sched"] {
            authority.kubeconfig(who, &url)?;
        }
        let commands = commands(&assets, &folder, &address)?;
        let client = client_of(&folder.join("admin.kubeconfig")).await?;
        let running = BTreeMap::new();
        let mut cluster = Cluster { name: name.to_owned(), folder, assets, url, client, commands, running };
        cluster.start_part(Part::Etcd)?;
        cluster.start_part(Part::ApiServer)?;
        // The others end where they are refused, and they are until the first roles are there.
        cluster.ready().await?;
        for part in [Part::ControllerManager, Part::Scheduler, Part::Proxy, Part::Kubelet] {
            cluster.start_part(part)?;
        }
        // Volumes that are asked for are there at once.
        let class = json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": "kubernetes.io/host-path",
            "metadata": {"name": "standard", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        });
        cluster.kubectl(&["apply", "-f", "-"], &class.to_string()).await?;
        cluster.takes_pods("default").await?;
        Ok(cluster)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its folder, with logs, certificates and whatever a scenario puts there.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// URL of the API server, which is the issuer of service account tokens too.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Who signed for the API server.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.folder.join("ca.crt")
    }

    /// Minor version of its API server.
    #[must_use]
    pub fn minor(&self) -> u32 {
        self.assets.minor
    }

    /// Who may do everything.
    #[must_use]
    pub fn client(&self) -> kube::Client {
        self.client.clone()
    }

    /// The kubeconfig of who may do everything.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("admin.kubeconfig")
    }

    /// Kills a part, as a machine that goes does.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self, part: Part) -> Result<()> {
        let process = self.running.remove(&part).with_context(|| format!("{} does not run", part.name()))?;
        process.kill()
    }

    /// Starts a part that was killed, and waits for the API server if it is that.
    ///
    /// # Errors
    /// When it runs already, or is not there in time.
    pub async fn revive(&mut self, part: Part) -> Result<()> {
        ensure!(!self.running.contains_key(&part), "{} runs already", part.name());
        self.start_part(part)?;
        if part == Part::ApiServer { self.ready().await } else { Ok(()) }
    }

    /// The process of a part.
    ///
    /// # Errors
    /// When it does not run.
    pub fn process(&self, part: Part) -> Result<&Process> {
        self.running.get(&part).with_context(|| format!("{} does not run", part.name()))
    }

    /// The path of a program that belongs to it, such as kubectl.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.assets.program(name)
    }

    /// Runs kubectl as who may do everything, and returns what it printed.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub async fn kubectl(&self, arguments: &[&str], input: &str) -> Result<String> {
        let mut child = tokio::process::Command::new(self.assets.program("kubectl"))
            .arg("--kubeconfig")
            .arg(self.kubeconfig())
            .args(arguments)
            .env("HOME", &self.folder)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("failed to start kubectl")?;
        let mut stdin = child.stdin.take().context("kubectl has an input")?;
        let write = async move {
            // It may fail before it has read everything.
            let _ = stdin.write_all(input.as_bytes()).await;
        };
        let (output, ()) = tokio::join!(child.wait_with_output(), write);
        let output = output.context("failed to wait for kubectl")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl {arguments:?}: {}", said.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Makes a namespace with labels, and waits for its default service account.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn namespace(&self, name: &str, labels: &[(&str, &str)]) -> Result<()> {
        let labels: BTreeMap<_, _> = labels.iter().copied().collect();
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        let all: Api<Namespace> = Api::all(self.client());
        all.patch(name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&object)).await?;
        self.takes_pods(name).await
    }

    /// A token of a service account for `audience`, as a pod has it projected; bound to `pod` where one is named.
    ///
    /// # Errors
    /// When there is no such service account or pod.
    pub async fn token(&self, namespace: &str, account: &str, audience: &str, pod: Option<&str>) -> Result<Secret> {
        let mut spec = json!({"audiences": [audience], "expirationSeconds": 3600});
        if let Some(pod) = pod {
            spec["boundObjectRef"] = json!({"kind": "Pod", "apiVersion": "v1", "name": pod});
        }
        let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let request = http::Request::post(path).header("content-type", "application/json");
        let answer: Value = self.client.request(request.body(body.to_string().into_bytes())?).await?;
        let token = answer["status"]["token"].as_str().context("a TokenRequest is answered by a token")?;
        Ok(Secret::new(token.to_owned()))
    }

    /// A kubeconfig with no more rights than a service account has.
    ///
    /// # Errors
    /// When there is no such service account.
    pub async fn kubeconfig_of(&self, namespace: &str, account: &str) -> Result<PathBuf> {
        let token = self.token(namespace, account, &self.url, None).await?;
        let path = self.folder.join(format!("{namespace}-{account}.kubeconfig"));
        write_kubeconfig(&path, &self.url, &self.ca(), json!({"token": token.expose()}))
    }

    /// A client with no more rights than a service account has.
    ///
    /// # Errors
    /// When there is no such service account.
    pub async fn client_of(&self, namespace: &str, account: &str) -> Result<kube::Client> {
        client_of(&self.kubeconfig_of(namespace, account).await?).await
    }

    /// Waits until pods can be made: they need the default service account, and on servers before 1.24 its token, which is made after it.
    async fn takes_pods(&self, namespace: &str) -> Result<()> {
        let pods: Api<Pod> = Api::namespaced(self.client(), namespace);
        let pod = serde_json::from_value(json!({
            "metadata": {"name": "takes-pods"},
            "spec": {"containers": [{"name": "main", "image": "none"}]},
        }))?;
        let as_if = PostParams { dry_run: true, ..PostParams::default() };
        let takes =
            eventually("a namespace that takes pods", START_MAX, async || match pods.create(&as_if, &pod).await {
                // What else may be in its way, such as a webhook that is down, is for the scenario to say.
                Err(kube::Error::Api(status)) if status.message.contains("service account") => Err(status.into()),
                _ => Ok(Some(())),
            });
        takes.await.with_context(|| self.logs(Part::ControllerManager)).map(|_| ())
    }

    async fn ready(&mut self) -> Result<()> {
        let client = self.client();
        let ready = eventually("an API server that is ready", START_MAX, async || {
            let request = http::Request::get("/readyz").body(Vec::new())?;
            Ok(client.request_text(request).await.is_ok().then_some(()))
        });
        ready.await.with_context(|| self.logs(Part::ApiServer)).map(|_| ())
    }

    fn logs(&self, part: Part) -> String {
        let end = self.running.get(&part).map_or_else(|| "it does not run".to_owned(), Process::log_end);
        format!("{} of cluster {}: {end}", part.name(), self.name)
    }

    fn start_part(&mut self, part: Part) -> Result<()> {
        let (program, arguments) = self.commands.get(&part).context("every part has a command")?;
        let process = Process::start_program(program, &self.folder, part.name(), arguments)?;
        self.running.insert(part, process);
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // First those who would write about what they miss.
        while let Some((_, process)) = self.running.pop_last() {
            drop(process);
        }
        if !std::thread::panicking() && std::env::var_os("MINDOS_E2E_KEEP").is_none() {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

/// The client of a kubeconfig.
///
/// # Errors
/// When it cannot be read.
pub async fn client_of(kubeconfig: &Path) -> Result<kube::Client> {
    let read = Kubeconfig::read_from(kubeconfig)?;
    let config = kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?;
    Ok(kube::Client::try_from(config)?)
}

fn commands(assets: &Assets, folder: &Path, address: &str) -> Result<BTreeMap<Part, (PathBuf, Vec<String>)>> {
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let port = |address: &str| address.rsplit(':').next().unwrap_or_default().to_owned();
    let (client, peer, proxy, logs) = (free_address()?, free_address()?, free_address()?, free_address()?);
    let (manager, scheduler) = (free_address()?, free_address()?);
    let at = |name: &str| folder.join(name).display().to_string();
    // Until 1.23 both listen without TLS too, on a port of everybody's.
    let plain = if assets.minor < 23 { "--port 0" } else { "" };
    let etcd = format!(
        "--data-dir {} --listen-client-urls http://{client} --advertise-client-urls http://{client} --log-level error --logger zap \
         --listen-peer-urls http://{peer} --initial-advertise-peer-urls http://{peer} --initial-cluster default=http://{peer}",
        at("etcd")
    );
    let server = format!(
        "--etcd-servers http://{client} --bind-address 127.0.0.1 --secure-port {} --advertise-address 127.0.0.1 \
         --endpoint-reconciler-type none --service-cluster-ip-range 10.97.0.0/16 --authorization-mode Node,RBAC \
         --allow-privileged=true --client-ca-file ca.crt --tls-cert-file server.crt --tls-private-key-file server.key \
         --service-account-issuer https://{address} --service-account-jwks-uri https://{address}/openid/v1/jwks \
         --api-audiences https://{address} --service-account-key-file sa.pub --service-account-signing-key-file sa.key \
         --requestheader-client-ca-file ca.crt --requestheader-allowed-names front-proxy-client \
         --requestheader-username-headers X-Remote-User --requestheader-group-headers X-Remote-Group \
         --requestheader-extra-headers-prefix X-Remote-Extra- --proxy-client-cert-file front.crt \
         --proxy-client-key-file front.key \
         --enable-admission-plugins MutatingAdmissionWebhook,ValidatingAdmissionWebhook",
        port(address)
    );
    let controllers = format!(
        "--kubeconfig kcm.kubeconfig --authentication-kubeconfig kcm.kubeconfig --authorization-kubeconfig kcm.kubeconfig \
         --bind-address 127.0.0.1 --secure-port {} {plain} --service-account-private-key-file sa.key --root-ca-file ca.crt \
         --cluster-signing-cert-file ca.crt --cluster-signing-key-file ca.key --use-service-account-credentials \
         --leader-elect=false --enable-hostpath-provisioner --kube-api-qps 500 --kube-api-burst 1000",
        port(&manager)
    );
    let schedules = format!(
        "--kubeconfig sched.kubeconfig --authentication-kubeconfig sched.kubeconfig \
         --authorization-kubeconfig sched.kubeconfig --bind-address 127.0.0.1 --secure-port {} {plain} --leader-elect=false \
         --kube-api-qps 500 --kube-api-burst 1000",
        port(&scheduler)
    );
    let proxied = format!("proxy --kubeconfig admin.kubeconfig --port {}", port(&proxy));
    let kubelet = assets::kubelet()?.display().to_string();
    let pods =
        format!("PROXY=http://{proxy} python3 -B {kubelet} --node fake-1 --logs {} server.crt server.key", port(&logs));
    Ok(BTreeMap::from([
        (Part::Etcd, (assets.program("etcd"), words(&etcd))),
        (Part::ApiServer, (assets.program("kube-apiserver"), words(&server))),
        (Part::ControllerManager, (assets.program("kube-controller-manager"), words(&controllers))),
        (Part::Scheduler, (assets.program("kube-scheduler"), words(&schedules))),
        (Part::Proxy, (assets.program("kubectl"), words(&proxied))),
        (Part::Kubelet, (PathBuf::from("/usr/bin/env"), words(&pods))),
    ]))
}
