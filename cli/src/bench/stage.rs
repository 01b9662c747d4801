//! The control plane under measurement: a process of its own, seen from outside.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

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
        std::fs::create_dir_all(&path)
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

/// A running control plane.
#[derive(Debug)]
pub(super) struct Stage {
    child: Child,
    pub(super) api: String,
    pub(super) agents: String,
    pub(super) client: Client,
    web: Web,
}

impl Stage {
    /// Starts a control plane with backlogs as large as the bench may need, and waits until it is ready.
    pub(super) async fn start(data: &Path, extra: &[String]) -> Result<Stage, Failure> {
        let (api, agents) = (free_port()?, free_port()?);
        let mut stage = Stage::spawn(data, extra, api, agents)?;
        stage.ready().await?;
        Ok(stage)
    }

    /// Starts the process and waits for nothing.
    pub(super) fn spawn(data: &Path, extra: &[String], api: u16, agents: u16) -> Result<Stage, Failure> {
        let mut args: Vec<OsString> = vec!["control-plane".into(), "--data-dir".into(), data.into()];
        let set = [
            format!("--listen=127.0.0.1:{api}"),
            format!("--agent-listen=127.0.0.1:{agents}"),
            "--queue-backlog-max=25000000".to_owned(),
            "--tenant-backlog-max=20000000".to_owned(),
            "--lane-backlog-max=1000000".to_owned(),
            "--open-max=20000000".to_owned(),
            "--log=warn".to_owned(),
        ];
        let taken = |argument: &str| {
            let name = argument.split('=').next().unwrap_or(argument);
            extra.iter().any(|given| given.split('=').next() == Some(name))
        };
        args.extend(set.into_iter().filter(|argument| !taken(argument)).map(OsString::from));
        args.extend(extra.iter().map(OsString::from));
        let child = process::start(&args, &[], &Log::Piped)?;
        let (api, agents) = (format!("http://127.0.0.1:{api}"), format!("http://127.0.0.1:{agents}"));
        let site = Site::plain(&api);
        Ok(Stage { child, client: Client::lazy(&site)?, web: Web::new(&site)?, api, agents })
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
