//! The control plane under measurement: a process of its own, seen from outside.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mindos_model::Secret;
use mindos_proto::access::v1::join_holder::Holder;
use mindos_proto::access::v1::{CreateJoinTokenRequest, JoinHolder, WhoAmIRequest};
use mindos_proto::fleet::v1::FleetFilter;
use mindos_proto::route::v1::{self as route, Route, RouteMatch, RouteTable, RouteTargets, Strategy};
use tokio::process::Child;

use super::StageArgs;
use crate::client::Client;
use crate::commands::fleet::all_generals;
use crate::commands::send::random_id;
use crate::failure::Failure;
use crate::process::{self, Log, Used};
use crate::site::Site;
use crate::top::read_metrics;
use crate::web::Web;

/// How long a control plane may take to be ready.
const READY_WITHIN: Duration = Duration::from_secs(300);
/// How often its metrics are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// A data directory that goes when the bench ends, unless it was named.
#[derive(Debug)]
pub(super) struct Data {
    pub(super) path: PathBuf,
    remove: bool,
}

impl Data {
    pub(super) fn new(args: &StageArgs) -> Result<Data, Failure> {
        let (path, remove) = match &args.data_dir {
            Some(path) => (path.clone(), false),
            None => (std::env::temp_dir().join(format!("mindos-bench-{}", &random_id()?[..12])), !args.keep),
        };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(|error| Failure::world(format!("cannot make {}: {error}", path.display())))?;
        Ok(Data { path, remove })
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        if self.remove {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// All load comes from one address here, which a fleet's does not: what an address may is out of the way.
const SETTINGS: &str = "{limits: {connections_per_address: 1000000, new_connections_per_second: 1000000, requests_per_second: {address: 1000000, principal: 1000000}}}";

fn settings(data: &Path) -> Result<PathBuf, Failure> {
    let path = data.join("bench-settings.yaml");
    std::fs::write(&path, SETTINGS)?;
    Ok(path)
}

/// A running control plane.
#[derive(Debug)]
pub(super) struct Stage {
    child: Child,
    pub(super) api: String,
    pub(super) agents: String,
    pub(super) client: Client,
    web: Web,
    /// Where roots and tokens are, with TLS.
    secrets: Option<Secrets>,
}

/// Files that the load generators of a control plane with TLS need.
#[derive(Clone, Debug)]
struct Secrets {
    roots: PathBuf,
    admin: PathBuf,
    data: PathBuf,
}

/// Arguments of a control plane with TLS, where everybody has to say who he is.
const SECURE: [&str; 2] = ["--tls=authority", "--access=enforced"];
/// Agents that may join with one token, by the limit of its uses.
const USES_MAX: u32 = 10_000;

impl Stage {
    /// Starts a control plane with backlogs as large as the bench may need, and waits until it is ready.
    pub(super) async fn start(data: &Path, extra: &[String]) -> Result<Stage, Failure> {
        Stage::start_on(data, extra, free_port()?, free_port()?).await
    }

    /// The same on these ports.
    pub(super) async fn start_on(data: &Path, extra: &[String], api: u16, agents: u16) -> Result<Stage, Failure> {
        let mut stage = Stage::spawn(data, extra, api, agents)?;
        stage.ready().await?;
        Ok(stage)
    }

    /// The same, with TLS on both ports if that is wanted.
    pub(super) async fn start_as(data: &Path, extra: &[String], tls: bool) -> Result<Stage, Failure> {
        if !tls {
            return Stage::start(data, extra).await;
        }
        Stage::start_secure(data, extra, free_port()?, free_port()?).await
    }

    /// Starts a control plane with TLS on these ports and waits until it is ready.
    pub(super) async fn start_secure(data: &Path, extra: &[String], api: u16, agents: u16) -> Result<Stage, Failure> {
        let extra: Vec<String> = extra.iter().cloned().chain(SECURE.map(str::to_owned)).collect();
        let mut child = Stage::process(data, &extra, api, agents)?;
        let (roots, admin) = (data.join("authority/roots.pem"), data.join("admin-token"));
        let deadline = Instant::now() + READY_WITHIN;
        let token = loop {
            // Both are written before it listens, at the first start.
            match std::fs::read_to_string(&admin) {
                Ok(token) if !token.trim().is_empty() && roots.is_file() => break Secret::new(token),
                _ => {}
            }
            if let Ok(Some(status)) = child.try_wait() {
                return Err(Failure::world(format!("the control plane ended with {status} before it was ready")));
            }
            if Instant::now() >= deadline {
                return Err(Failure::world("the control plane made no token within 300 s"));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        };
        let (api, agents) = (format!("https://127.0.0.1:{api}"), format!("https://127.0.0.1:{agents}"));
        let site = Site { endpoint: api.clone(), ca: Some(roots.clone()), token: Some(token), tenant: None };
        let secrets = Some(Secrets { roots, admin, data: data.to_owned() });
        let mut stage = Stage { child, client: Client::lazy(&site)?, web: Web::new(&site)?, api, agents, secrets };
        stage.ready().await?;
        // Readiness needs no token; what knows the token follows the journal.
        while let Err(status) = stage.client.access().who_am_i(WhoAmIRequest {}).await {
            if Instant::now() >= deadline {
                return Err(stage.client.failed()(status));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        Ok(stage)
    }

    /// What a publisher is told beside the address.
    pub(super) fn publisher_arguments(&self) -> Vec<String> {
        let Some(Secrets { roots, admin, data: _ }) = &self.secrets else { return Vec::new() };
        let (roots, admin) = (roots.display().to_string(), admin.display().to_string());
        vec!["--ca".to_owned(), roots, "--token-file".to_owned(), admin]
    }

    /// What so many agents are told beside the address: with TLS a token that lets them join as agents of their cluster.
    pub(super) async fn agent_arguments(&self, agents: u32) -> Result<Vec<String>, Failure> {
        let Some(Secrets { roots, admin: _, data }) = &self.secrets else { return Ok(Vec::new()) };
        let request = CreateJoinTokenRequest {
            cluster: "bench".to_owned(),
            holder: Some(JoinHolder { holder: Some(Holder::ClusterAgent(true)) }),
            uses: agents.clamp(1, USES_MAX),
            ..CreateJoinTokenRequest::default()
        };
        let made = self.client.access().create_join_token(request).await.map_err(self.client.failed())?.into_inner();
        let id = made.token.map(|token| token.id).unwrap_or_default();
        let file = data.join(format!("join-token-{id}"));
        std::fs::write(&file, made.text)?;
        let (roots, file, api) = (roots.display().to_string(), file.display().to_string(), self.api.clone());
        Ok(vec!["--api".to_owned(), api, "--ca".to_owned(), roots, "--join-token-file".to_owned(), file])
    }

    /// Starts the process and waits for nothing.
    pub(super) fn spawn(data: &Path, extra: &[String], api: u16, agents: u16) -> Result<Stage, Failure> {
        let child = Stage::process(data, extra, api, agents)?;
        let (api, agents) = (format!("http://127.0.0.1:{api}"), format!("http://127.0.0.1:{agents}"));
        let site = Site::plain(&api);
        Ok(Stage { child, client: Client::lazy(&site)?, web: Web::new(&site)?, api, agents, secrets: None })
    }

    fn process(data: &Path, extra: &[String], api: u16, agents: u16) -> Result<Child, Failure> {
        let mut args: Vec<OsString> = vec!["control-plane".into(), "--data-dir".into(), data.into()];
        let set = [
            format!("--listen=127.0.0.1:{api}"),
            format!("--agent-listen=127.0.0.1:{agents}"),
            "--queue-backlog-max=25000000".to_owned(),
            "--tenant-backlog-max=20000000".to_owned(),
            "--lane-backlog-max=1000000".to_owned(),
            "--open-max=20000000".to_owned(),
            "--log=warn".to_owned(),
            format!("--settings={}", settings(data)?.display()),
        ];
        let taken = |argument: &str| {
            let name = argument.split('=').next().unwrap_or(argument);
            extra.iter().any(|given| given.split('=').next() == Some(name))
        };
        args.extend(set.into_iter().filter(|argument| !taken(argument)).map(OsString::from));
        args.extend(extra.iter().map(OsString::from));
        process::start(&args, &[], &Log::Piped)
    }

    async fn ready(&mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            if let Ok((status, _)) = self.web.get("/readyz").await
                && status.is_success()
            {
                return Ok(());
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(Failure::world(format!("the control plane ended with {status} before it was ready")));
            }
            if Instant::now() >= deadline {
                return Err(Failure::world("the control plane was not ready within 300 s"));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// What the process has used so far.
    pub(super) fn used(&self) -> Used {
        self.child.id().map(process::used).unwrap_or_default()
    }

    /// Its metrics, summed by family.
    pub(super) async fn metrics(&mut self) -> Result<BTreeMap<String, f64>, Failure> {
        let (_, body) = self.web.get("/metrics").await?;
        Ok(read_metrics(&String::from_utf8_lossy(&body)))
    }

    /// Waits until the metrics please; returns them.
    pub(super) async fn wait(
        &mut self,
        what: &str,
        within: Duration,
        mut enough: impl FnMut(&BTreeMap<String, f64>) -> bool,
    ) -> Result<BTreeMap<String, f64>, Failure> {
        let deadline = Instant::now() + within;
        loop {
            let metrics = self.metrics().await?;
            if enough(&metrics) {
                return Ok(metrics);
            }
            if Instant::now() >= deadline {
                return Err(Failure::world(format!("{what} took longer than {} s", within.as_secs())));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Waits until these generals are connected with slots to fill.
    pub(super) async fn wait_for_generals(&mut self, names: &[String]) -> Result<(), Failure> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let generals = all_generals(&self.client, FleetFilter::default()).await?;
            let is_there = |name: &String| generals.iter().any(|general| general.name == *name && general.slots > 0);
            if names.iter().all(is_there) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Failure::world(format!("not all of {} were connected within 60 s", names.join(", "))));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Puts a table in force: each kind goes to its generals by broadcast.
    pub(super) async fn route(&self, kinds: &[(&str, Vec<String>)]) -> Result<(), Failure> {
        self.route_among(0, kinds).await
    }

    /// Puts a table of `count` routes in force, or of as many as `kinds` needs: those that nothing here takes come first. Of 100 of
    /// them 95 are for other kinds, the rest for the same ones and other subjects.
    pub(super) async fn route_among(&self, count: usize, kinds: &[(&str, Vec<String>)]) -> Result<(), Failure> {
        let route = |name: String, kind: &str, subjects: Vec<String>, types: &[String]| Route {
            name,
            r#match: Some(RouteMatch { kinds: vec![kind.to_owned()], subjects, ..Default::default() }),
            targets: Some(RouteTargets { types: types.to_vec(), ..Default::default() }),
            strategy: Strategy::Broadcast.into(),
            ..Default::default()
        };
        let passed = count.saturating_sub(kinds.len() + 1);
        let others = passed.min(count * 95 / 100);
        let mut routes: Vec<Route> = (0..passed)
            .map(|number| match kinds.get(number % kinds.len().max(1)) {
                Some((kind, types)) if number >= others => {
                    route(format!("near-{number}"), kind, vec![format!("other/{number}/*")], types)
                }
                _ => route(
                    format!("other-{number}"),
                    &format!("other-{number}"),
                    Vec::new(),
                    &["bench-nobody".to_owned()],
                ),
            })
            .collect();
        routes.extend(kinds.iter().map(|(kind, types)| route((*kind).to_owned(), kind, Vec::new(), types)));
        routes.push(Route {
            name: "default".to_owned(),
            targets: Some(RouteTargets { types: vec!["bench-nobody".to_owned()], ..Default::default() }),
            strategy: Strategy::RoundRobin.into(),
            ..Default::default()
        });
        let request =
            route::ApplyRequest { table: Some(RouteTable { routes, ..Default::default() }), ..Default::default() };
        self.client.routes().apply(request).await.map_err(self.client.failed())?;
        Ok(())
    }

    /// Ends it at once, as kill -9 does.
    pub(super) async fn kill(mut self) {
        let _ = self.child.kill().await;
    }

    /// Ends it in order.
    pub(super) async fn stop(mut self) {
        process::stop(&mut self.child, Duration::from_secs(60)).await;
    }
}

/// A port that is free at this moment.
pub(super) fn free_port() -> Result<u16, Failure> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}
