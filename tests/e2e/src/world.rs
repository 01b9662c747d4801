//! A small world on loopback: a data directory, a control plane, sidecars, and the generals of the test behind them.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mindos_proto::fleet::v1::fleet_service_client::FleetServiceClient;
use mindos_proto::fleet::v1::{ListGeneralsRequest, ListInstancesRequest, Liveness};
use mindos_proto::identity::v1::ChallengeRequest;
use mindos_proto::identity::v1::identity_service_client::IdentityServiceClient;
use mindos_sdk::model::Secret;
use mindos_sdk::{Channel, Dialer, Roots, Tls};

use crate::account::Account;
use crate::client;
use crate::process::{self, Process};

/// Below the ports that systems give those who dial.
const PORTS: std::ops::Range<usize> = 20_000..32_000;

/// How long a control plane or sidecar may take to be there.
pub const START_MAX: Duration = Duration::from_secs(30);

/// A folder, and what runs in it. All of it goes when this is dropped, the folder too unless the test panics.
#[derive(Debug)]
pub struct World {
    folder: PathBuf,
    api: String,
    agents: String,
    /// More arguments of the control plane.
    arguments: Vec<String>,
    plane: Option<Process>,
    /// Whether both ports are encrypted and everybody has to say who he is.
    secure: bool,
    /// What the control plane's process is started under, such as `LD_PRELOAD=..`.
    plane_environment: Vec<String>,
}

impl World {
    /// An empty world; nothing runs.
    ///
    /// # Errors
    /// When there is no folder or port to be had.
    pub fn new(name: &str, arguments: &[&str]) -> Result<World> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("mindos-e2e-{name}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).with_context(|| format!("failed to make {}", folder.display()))?;
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        Ok(World {
            folder,
            api: free_address()?,
            agents: free_address()?,
            arguments,
            plane: None,
            secure: false,
            plane_environment: Vec::new(),
        })
    }

    /// An empty world whose ports are encrypted by the control plane's own authority, where everybody has to say who he is, and where
    /// certificates of agents live for `life`.
    ///
    /// # Errors
    /// As [`World::new`].
    pub fn secure(name: &str, life: Duration, arguments: &[&str]) -> Result<World> {
        let mut world = World::new(name, &["--tls", "authority", "--access", "enforced"])?;
        world.add_arguments(&["--certificate-life", &format!("{}s", life.as_secs())]);
        world.add_arguments(arguments);
        world.secure = true;
        Ok(world)
    }

    /// Variables for the control plane's process, such as `LD_PRELOAD=..`.
    pub fn plane_environment(&mut self, variables: Vec<String>) {
        self.plane_environment = variables;
    }

    /// An empty world whose control plane runs.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn started(name: &str, arguments: &[&str]) -> Result<World> {
        let mut world = World::new(name, arguments)?;
        world.start_plane().await?;
        Ok(world)
    }

    /// More arguments for the next start of the control plane.
    pub fn add_arguments(&mut self, arguments: &[&str]) {
        self.arguments.extend(arguments.iter().map(|argument| (*argument).to_owned()));
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The control plane's data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Host and port of the API.
    #[must_use]
    pub fn api(&self) -> &str {
        &self.api
    }

    /// Host and port for agents.
    #[must_use]
    pub fn agents(&self) -> &str {
        &self.agents
    }

    /// URL of the API.
    #[must_use]
    pub fn server(&self) -> String {
        format!("{}://{}", if self.secure { "https" } else { "http" }, self.api)
    }

    /// The roots that the control plane publishes.
    #[must_use]
    pub fn roots(&self) -> PathBuf {
        self.data().join("authority/roots.pem")
    }

    /// The token of the plane's admin, made at the first start.
    ///
    /// # Errors
    /// When there is none yet.
    pub fn admin_token(&self) -> Result<Secret> {
        let path = self.data().join("admin-token");
        Ok(Secret::new(std::fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?))
    }

    /// The way to the API, trusting the roots of this moment.
    ///
    /// # Errors
    /// When there are none yet.
    pub fn dialer(&self) -> Result<Dialer> {
        let dialer = Dialer::new(&self.server())?;
        Ok(if self.secure { dialer.tls(Tls::new(&Roots::file(&self.roots())?)?) } else { dialer })
    }

    /// A connection to the API.
    ///
    /// # Errors
    /// When the address is malformed, which it is not.
    pub fn channel(&self) -> Result<Channel> {
        let dialer = self.dialer()?;
        client::dial(if self.secure { dialer.token(&self.admin_token()?)? } else { dialer })
    }

    /// Starts the control plane on the data as they are and waits until it is ready; returns how long that took.
    ///
    /// # Errors
    /// When it ends or is not ready in time.
    pub async fn start_plane(&mut self) -> Result<Duration> {
        let begun = Instant::now();
        let data = self.data().display().to_string();
        let fixed = ["control-plane", "--data-dir", &data, "--listen", &self.api, "--agent-listen", &self.agents];
        let arguments: Vec<_> = fixed.iter().map(|word| (*word).to_owned()).chain(self.arguments.clone()).collect();
        let mut plane = self.process("control-plane", &self.plane_environment, &arguments)?;
        while !self.is_ready().await {
            if let Some(status) = plane.ended()? {
                bail!("the control plane ended with {status}; its log ends: {}", plane.log_end());
            }
            ensure!(begun.elapsed() < START_MAX, "the control plane is not ready; its log ends: {}", plane.log_end());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.plane = Some(plane);
        Ok(begun.elapsed())
    }

    async fn is_ready(&self) -> bool {
        if !self.secure {
            return http(&self.api, "GET", "/readyz", &[], b"").await.is_ok_and(|(status, _)| status == 200);
        }
        let Ok(channel) = self.channel() else { return false };
        let answers = IdentityServiceClient::new(channel.clone()).challenge(ChallengeRequest {}).await.is_ok();
        answers && FleetServiceClient::new(channel).list_generals(ListGeneralsRequest::default()).await.is_ok()
    }

    /// The running control plane.
    ///
    /// # Errors
    /// When none runs.
    pub fn plane(&self) -> Result<&Process> {
        self.plane.as_ref().context("no control plane runs")
    }

    /// Takes the control plane out, to kill or end it.
    ///
    /// # Errors
    /// When none runs.
    pub fn take_plane(&mut self) -> Result<Process> {
        self.plane.take().context("no control plane runs")
    }

    /// Starts a sidecar `instance` of `cluster` with one general named and typed `worker` at `url`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn sidecar(
        &self,
        cluster: &str,
        instance: &str,
        slots: u32,
        url: &str,
        plane: Option<&str>,
    ) -> Result<Process> {
        let plane = plane.map_or_else(|| format!("http://{}", self.agents), str::to_owned);
        let general = format!("name=worker,type=worker,slots={slots},url={url}");
        let words =
            ["sidecar", "--control-plane", &plane, "--cluster", cluster, "--instance", instance, "--general", &general];
        let arguments: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
        Process::start(&self.folder, &format!("sidecar-{instance}"), &arguments)
    }

    /// Starts a sidecar `instance` of `cluster` with one general named and typed `worker` at `url` over TLS, that joins with the token in
    /// the file `token` and trusts the roots in `ca`; `more` are arguments, `environment` variables of its process.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn joining_sidecar(&self, joining: &Joining<'_>) -> Result<Process> {
        let Joining { cluster, instance, slots, url, token, ca, more, environment } = joining;
        let (agents, api) = (format!("https://{}", self.agents), self.server());
        let (ca, token) = (ca.display().to_string(), token.display().to_string());
        let general = format!("name=worker,type=worker,slots={slots},url={url}");
        let words = [
            &["sidecar", "--control-plane", &agents, "--api", &api, "--ca", &ca, "--join-token-file", &token][..],
            &["--cluster", cluster, "--instance", instance, "--general", &general],
            more,
        ]
        .concat();
        let arguments: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
        self.process(&format!("sidecar-{instance}"), environment, &arguments)
    }

    fn process(&self, name: &str, environment: &[String], arguments: &[String]) -> Result<Process> {
        if environment.is_empty() {
            return Process::start(&self.folder, name, arguments);
        }
        let mindos = process::mindos()?.display().to_string();
        let words: Vec<_> = environment.iter().cloned().chain([mindos]).chain(arguments.iter().cloned()).collect();
        Process::start_program(Path::new("/usr/bin/env"), &self.folder, name, &words)
    }

    /// Waits until so many generals are known and so many instances are alive.
    ///
    /// # Errors
    /// When it takes too long.
    pub async fn fleet(&self, generals: usize, instances: usize) -> Result<()> {
        let mut client = FleetServiceClient::new(self.channel()?);
        let begun = Instant::now();
        loop {
            let known = client.list_generals(ListGeneralsRequest::default()).await;
            let alive = client.list_instances(ListInstancesRequest::default()).await;
            let (known, alive) = match (known, alive) {
                (Ok(known), Ok(alive)) => {
                    let alive = alive.into_inner().instances;
                    let live = i32::from(Liveness::Connected);
                    (known.into_inner().generals.len(), alive.iter().filter(|one| one.liveness == live).count())
                }
                (Err(error), _) | (_, Err(error)) if begun.elapsed() > START_MAX => bail!("fleet: {error}"),
                _ => (0, 0),
            };
            if known >= generals && alive >= instances {
                return Ok(());
            }
            ensure!(begun.elapsed() < START_MAX, "{known} generals and {alive} instances after {START_MAX:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The account of everything so far.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn account(&self) -> Result<Account> {
        let mut account = Account::default();
        account.add(&client::ledger(&self.channel()?, 0).await?)?;
        Ok(account)
    }

    /// Waits until no delivery is open and `events` are accepted at least; returns the account.
    ///
    /// # Errors
    /// When it takes longer than `time`.
    pub async fn settled(&self, events: usize, time: Duration) -> Result<Account> {
        let begun = Instant::now();
        let channel = self.channel()?;
        let mut account = Account::default();
        loop {
            // The control plane may be on its way back: what was read stays, the rest comes with the next call.
            if let Ok(entries) = client::ledger(&channel, account.seq + 1).await {
                account.add(&entries)?;
            }
            if account.open() == 0 && account.events.len() >= events {
                return Ok(account);
            }
            ensure!(
                begun.elapsed() < time,
                "after {time:?} {} of {} deliveries are open, {} parked; {} of {events} events",
                account.open(),
                account.deliveries.len(),
                account.parked.len(),
                account.events.len()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Checks the ledger's chain offline, by nothing but the files; the control plane must not run.
    ///
    /// # Errors
    /// When it does not verify.
    pub fn verify(&self) -> Result<u64> {
        let data = self.data().display().to_string();
        let verdict = process::json(&["ledger", "verify", "--data-dir", &data])?;
        ensure!(verdict["verified"] == true, "the ledger does not verify: {verdict}");
        verdict["records"].as_u64().context("the verdict counts records")
    }
}

/// A sidecar that joins.
#[derive(Clone, Debug)]
pub struct Joining<'a> {
    /// Its cluster.
    pub cluster: &'a str,
    /// Its name.
    pub instance: &'a str,
    /// Slots of its general.
    pub slots: u32,
    /// Where the general is.
    pub url: &'a str,
    /// File with the join token.
    pub token: &'a Path,
    /// File with the roots to trust at first.
    pub ca: &'a Path,
    /// More arguments.
    pub more: &'a [&'a str],
    /// Variables of its process.
    pub environment: &'a [String],
}

impl Drop for World {
    fn drop(&mut self) {
        self.plane = None;
        // With MINDOS_E2E_KEEP set, logs and data stay to be looked at.
        if !std::thread::panicking() && std::env::var_os("MINDOS_E2E_KEEP").is_none() {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

/// A port of loopback that nobody has at this moment, and that the system gives nobody who dials: it lies below those, so that it is free
/// when it is listened on a moment later.
///
/// # Errors
/// When there is none.
pub fn free_address() -> Result<String> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let begin = std::process::id().wrapping_mul(2_654_435_761) >> 16;
    for _ in 0..PORTS.len() {
        let place = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) as usize % PORTS.len();
        let address = format!("127.0.0.1:{}", PORTS.start + place);
        if TcpListener::bind(&address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no port of {PORTS:?} is free")
}

/// One HTTP/1.1 request by hand; returns status and body.
///
/// # Errors
/// When nobody answers, or not in HTTP.
pub async fn http(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<(u16, Vec<u8>)> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let exchange = async {
        let mut stream = tokio::net::TcpStream::connect(address).await.context("failed to dial")?;
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
        stream.write_all(head.as_bytes()).await.context("failed to write")?;
        // A server may answer and hang up before it has read everything.
        let written = stream.write_all(body).await;
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer).await;
        if answer.is_empty() {
            written.context("failed to write the body")?;
            read.context("failed to read")?;
        }
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").context("no end of headers")?;
        let status = std::str::from_utf8(&answer[..end]).ok().and_then(|head| head.split(' ').nth(1)?.parse().ok());
        Ok((status.context("no status")?, answer[end + 4..].to_vec()))
    };
    tokio::time::timeout(Duration::from_secs(60), exchange).await.context("no answer in time")?
}
