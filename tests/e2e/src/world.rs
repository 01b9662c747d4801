//! A small world on loopback: a data directory, a control plane, sidecars, and the generals of the test behind them.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mindos_proto::fleet::v1::fleet_service_client::FleetServiceClient;
use mindos_proto::fleet::v1::{ListGeneralsRequest, ListInstancesRequest, Liveness};
use tonic::transport::Channel;

use crate::account::Account;
use crate::client;
use crate::process::{self, Process};

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
        Ok(World { folder, api: free_address()?, agents: free_address()?, arguments, plane: None })
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
        format!("http://{}", self.api)
    }

    /// A connection to the API.
    ///
    /// # Errors
    /// When the address is malformed, which it is not.
    pub fn channel(&self) -> Result<Channel> {
        client::channel(&self.server())
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
        let mut plane = Process::start(&self.folder, "control-plane", &arguments)?;
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
        http(&self.api, "GET", "/readyz", &[], b"").await.is_ok_and(|(status, _)| status == 200)
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

impl Drop for World {
    fn drop(&mut self) {
        self.plane = None;
        // With MINDOS_E2E_KEEP set, logs and data stay to be looked at.
        if !std::thread::panicking() && std::env::var_os("MINDOS_E2E_KEEP").is_none() {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

/// A port of loopback that nobody has at this moment.
///
/// # Errors
/// When there is none.
pub fn free_address() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").context("failed to find a free port")?;
    Ok(listener.local_addr().context("a bound socket has an address")?.to_string())
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
