//! Where what a repository brings along is run: its checks, and commands that edit it.
//!
//! ```text
//!   our process            | namespaces of the run: user, mount, pid, net, ipc, uts
//!   run() --order--------->| leave > keep > become > the command, in /workspace
//!     <----output, verdict-|    |
//!   proxy <---unix socket--|----+ loopback:3128, where a network is allowed at all
//! ```
//! No container engine: the kernel's namespaces, begun by this very program ([`entered`]). Nothing but the workspace can be written,
//! nothing of the machine is seen but programs and libraries, no variable is inherited. Invariant: when [`Sandbox::run`] has
//! returned, or its future is dropped, no process of the run is left.

mod proxy;
mod spec;

#[cfg(target_os = "linux")]
mod enter;
#[cfg(target_os = "linux")]
mod loopback;
#[cfg(target_os = "linux")]
mod mounts;
mod output;
#[cfg(target_os = "linux")]
mod relay;
#[cfg(target_os = "linux")]
mod watch;

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep_until, timeout};

#[cfg(target_os = "linux")]
use enter::NOBODY;
use output::Output;
pub use proxy::{Place, PlaceError};
pub use spec::Limits;
use spec::{ENTER, Order, Stage, Verdict};

/// Where the workspace stands inside.
pub const WORKSPACE: &str = "/workspace";
/// The home folder inside, in memory.
pub const HOME: &str = "/home/agent";
const PROXY_SOCKET: &str = "/run/mindos/proxy.sock";
const PROXY_PORT: u16 = 3128;
/// What of the machine is seen, where it is there.
const SYSTEM: [&str; 9] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/opt", "/nix/store", "/gnu/store"];
/// How long the first process may take to tell its verdict once the output has ended.
const ENDING: Duration = Duration::from_secs(5);
/// How long the rest of the output is waited for when a command without namespaces has ended; what it started may hold that open.
const DRAINING: Duration = Duration::from_secs(1);
/// How often the size of the workspace is looked at.
const DISK_EVERY: Duration = Duration::from_secs(2);

/// Takes over where this program was started as a part of a sandbox; every `main` calls it first.
#[cfg(target_os = "linux")]
pub use enter::entered;
/// Sandboxes need namespaces of Linux.
#[cfg(not(target_os = "linux"))]
#[must_use]
pub fn entered() -> Option<std::process::ExitCode> {
    None
}

/// How much stands between the machine and what is run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Isolation {
    /// Namespaces; nothing is run where the kernel does not let us have them.
    #[default]
    Namespaces,
    /// Nothing but limits on time and output: for machines that are sandboxes themselves.
    None,
}

/// Runs commands apart from the machine.
#[derive(Clone, Debug)]
pub struct Sandbox {
    pub isolation: Isolation,
    /// Further paths of the machine to be seen read-only, such as toolchains.
    pub read: Vec<PathBuf>,
    /// Our own program, whose `main` calls [`entered`].
    pub program: PathBuf,
}

/// One command.
pub struct Run<'a> {
    /// The folder it may write.
    pub workspace: &'a Path,
    /// An empty folder beside it, for what the run needs itself.
    pub scratch: &'a Path,
    pub program: String,
    pub arguments: Vec<String>,
    /// All the variables it gets, besides `HOME`, `PATH`, `TMPDIR` and `LANG`.
    pub environment: Vec<(String, String)>,
    pub limits: Limits,
    /// Whom it may reach, through the proxy; nobody when empty.
    pub reach: &'a [Place],
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    Exited(i32),
    Signalled(i32),
    /// It took longer than [`Limits::seconds`].
    TimedOut,
    /// It used more than [`Limits::memory`].
    Memory,
    /// It had more than [`Limits::processes`].
    Processes,
    /// It wrote more than [`Limits::output`].
    Output,
    /// It filled [`Limits::disk`].
    Disk,
}

impl How {
    #[must_use]
    pub fn succeeded(self) -> bool {
        self == How::Exited(0)
    }
}

/// What is left of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    pub how: How,
    /// Its beginning and its end; what stood between is counted.
    pub output: String,
    pub took: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    #[error("this machine lets us have no sandbox: {0}")]
    NotPermitted(String),
    #[error("cannot start a sandbox: {0}")]
    Start(#[source] std::io::Error),
    #[error("the sandbox ended without a verdict: {0}")]
    Lost(String),
}

impl Sandbox {
    /// One that begins namespaces by this very program.
    ///
    /// # Errors
    /// When the program cannot tell where it is.
    pub fn here(isolation: Isolation, read: Vec<PathBuf>) -> std::io::Result<Sandbox> {
        Ok(Sandbox { isolation, read, program: std::env::current_exe()? })
    }

    /// Whether runs are possible: by one that does nothing.
    ///
    /// # Errors
    /// `NotPermitted`, with the reason.
    pub async fn probe(&self, scratch: &Path) -> Result<(), SandboxError> {
        let workspace = scratch.join("probe");
        std::fs::create_dir_all(&workspace).map_err(SandboxError::Start)?;
        let limits = Limits { seconds: 20, ..Limits::default() };
        let run = Run {
            workspace: &workspace,
            scratch,
            program: "true".to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            limits,
            reach: &[],
        };
        let ended = self.run(run).await;
        let _ = std::fs::remove_dir(&workspace);
        match ended? {
            Ended { how: How::Exited(0), .. } => Ok(()),
            Ended { how, output, .. } => Err(SandboxError::NotPermitted(format!("{how:?}: {}", output.trim()))),
        }
    }

    /// Runs a command to its end, or to that of its limits.
    ///
    /// # Errors
    /// When it could not be run at all.
    pub async fn run(&self, run: Run<'_>) -> Result<Ended, SandboxError> {
        let began = Instant::now();
        let namespaces = self.isolation == Isolation::Namespaces;
        let scaffold = run.scratch.join("root");
        // Ends with this function.
        let proxy = match namespaces && !run.reach.is_empty() {
            true => Some(proxy::Proxy::start(run.scratch, run.reach.to_vec()).map_err(SandboxError::Start)?),
            false => None,
        };
        let mut command = match namespaces {
            true => {
                std::fs::create_dir_all(&scaffold).map_err(SandboxError::Start)?;
                #[cfg(target_os = "linux")]
                {
                    let folder = run.workspace.to_owned();
                    let handed = tokio::task::spawn_blocking(move || hand_over(&folder)).await;
                    handed.map_err(std::io::Error::other).flatten().map_err(SandboxError::Start)?;
                }
                let order = Order {
                    stage: Stage::Leave,
                    root: false,
                    scaffold: scaffold.clone(),
                    workspace: run.workspace.to_owned(),
                    read: SYSTEM.iter().map(PathBuf::from).chain(self.read.iter().cloned()).collect(),
                    proxy: proxy.as_ref().map(|proxy| proxy.socket.clone()),
                    program: run.program,
                    arguments: run.arguments,
                    limits: run.limits,
                };
                let mut command = Command::new(&self.program);
                command.arg(ENTER).arg(serde_json::to_string(&order).expect("an order is plain data"));
                command
            }
            false => {
                let mut command = Command::new(run.program);
                command.args(run.arguments).current_dir(run.workspace);
                command
            }
        };
        command.env_clear().envs(basics(namespaces, run.workspace));
        if proxy.is_some() {
            let address = format!("http://127.0.0.1:{PROXY_PORT}");
            for name in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"] {
                command.env(name, &address);
            }
        }
        command.envs(run.environment);
        command.stdin(if namespaces { Stdio::piped() } else { Stdio::null() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
        let mut tree = Tree::of(command.spawn().map_err(SandboxError::Start)?);
        let ended = watched(&mut tree.child, namespaces, run.limits, run.workspace, began).await;
        drop(tree);
        ended
    }
}

/// A process with all that it started.
struct Tree {
    child: Child,
    /// Kept apart, for a child that was waited for tells no id.
    group: Option<Pid>,
}

impl Tree {
    fn of(child: Child) -> Tree {
        let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        Tree { child, group }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        // The lifeline ends what is inside of namespaces, the signal what is not.
        drop(self.child.stdin.take());
        if let Some(group) = self.group {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

async fn watched(
    child: &mut Child,
    namespaces: bool,
    limits: Limits,
    workspace: &Path,
    began: Instant,
) -> Result<Ended, SandboxError> {
    let (stdout, stderr) = (child.stdout.take().expect("asked for"), child.stderr.take().expect("asked for"));
    let mut output = Output::new(limits.output);
    let mut told = Output::new(64 << 10);
    let deadline = began + Duration::from_secs(limits.seconds);
    let (beyond, exited) = {
        let (output, told) = (&mut output, &mut told);
        let mut reading = pin!(async {
            // Inside of namespaces standard output is the verdict's; without, both are output.
            let (stderr, stdout) = match namespaces {
                true => tokio::join!(output.read(stderr), told.read(stdout)),
                false => output.read_both(stderr, stdout).await,
            };
            if stderr || stdout { Some(How::Output) } else { None }
        });
        let full = async {
            loop {
                tokio::time::sleep(DISK_EVERY).await;
                let folder = workspace.to_owned();
                let size = tokio::task::spawn_blocking(move || size_of(&folder, limits.disk)).await;
                if size.is_ok_and(|size| size > limits.disk) {
                    return;
                }
            }
        };
        tokio::select! {
            beyond = &mut reading => (beyond, None),
            // With namespaces to wait would close the lifeline, and nothing outlives the first process.
            status = child.wait(), if !namespaces => {
                let beyond = timeout(DRAINING, &mut reading).await;
                (beyond.ok().flatten(), Some(status))
            }
            () = sleep_until(deadline) => (Some(How::TimedOut), None),
            () = full => (Some(How::Disk), None),
        }
    };
    let status = match (beyond, exited) {
        (Some(_), _) => None,
        (None, Some(status)) => Some(status),
        // All output has ended, so it is ending; what only closed its output is given the rest of its time.
        (None, None) => tokio::time::timeout_at(deadline.max(Instant::now() + ENDING), child.wait()).await.ok(),
    };
    let end = |how| Ok(Ended { how, output: output.text(), took: began.elapsed() });
    let Some(status) = status else { return end(beyond.unwrap_or(How::TimedOut)) };
    let status = status.map_err(SandboxError::Start)?;
    if !namespaces {
        use std::os::unix::process::ExitStatusExt;
        return end(status.code().map_or_else(|| How::Signalled(status.signal().unwrap_or_default()), How::Exited));
    }
    match told.text().lines().next().and_then(|line| serde_json::from_str(line).ok()) {
        Some(Verdict::Exited(code)) => end(How::Exited(code)),
        Some(Verdict::Signalled(signal)) => end(How::Signalled(signal)),
        Some(Verdict::Memory) => end(How::Memory),
        Some(Verdict::Processes) => end(How::Processes),
        Some(Verdict::Refused(why)) => Err(SandboxError::NotPermitted(why)),
        None => Err(SandboxError::Lost(format!("{status}; {}", output.text().trim()))),
    }
}

/// The variables every run has; nothing of ours is among them.
fn basics(namespaces: bool, workspace: &Path) -> Vec<(String, String)> {
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/local/bin:/usr/bin:/bin".to_owned());
    let home = if namespaces { HOME.to_owned() } else { workspace.display().to_string() };
    vec![
        pair("PATH", &path),
        pair("HOME", &home),
        pair("TMPDIR", "/tmp"),
        pair("LANG", "C.UTF-8"),
        pair("CI", "true"),
        pair("GIT_CONFIG_NOSYSTEM", "1"),
    ]
}

/// Bytes in a folder, counted no further than just beyond `max`. Links are not followed.
fn size_of(folder: &Path, max: u64) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let (mut sum, mut open) = (0u64, vec![folder.to_owned()]);
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            // What is written, not how long it claims to be; and something for each name.
            let Ok(found) = entry.metadata() else { continue };
            sum = sum.saturating_add(found.blocks() * 512).saturating_add(512);
            if found.is_dir() {
                open.push(entry.path());
            }
            if sum > max {
                return sum;
            }
        }
    }
    sum
}

/// Root runs commands as `nobody`, whom the workspace has to belong to.
#[cfg(target_os = "linux")]
fn hand_over(folder: &Path) -> std::io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let mut open = vec![folder.to_owned()];
    std::os::unix::fs::lchown(folder, Some(NOBODY), Some(NOBODY))?;
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            std::os::unix::fs::lchown(entry.path(), Some(NOBODY), Some(NOBODY))?;
            if entry.file_type()?.is_dir() {
                open.push(entry.path());
            }
        }
    }
    Ok(())
}
