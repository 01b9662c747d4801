//! The `git` program, run so that nothing of the machine or the repository decides what it does.
//!
//! No hook, filter, module, helper, pager or question; only http and https; the token is in a variable that git reads as
//! configuration. Invariant: a run that is dropped, too slow or too loud leaves no process behind.

use std::fmt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use base64::Engine as _;
use mindos_model::Secret;
use mindos_outgoing::Target;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

use super::ForgeFailure;

/// Longest complaint of git that is kept.
const COMPLAINT_MAX: usize = 8 << 10;
/// How long the end of a process that was killed is waited for.
const END_WAIT: Duration = Duration::from_secs(2);
/// Attributes are taken from the empty tree, so that no file of the repository says how others are written or compared.
const EMPTY_TREE: &str = "4b825dc642cb6eb9a060e54bf8d69288fbee4904";
/// What git is told whatever stands in its files.
const SETTINGS: &[(&str, &str)] = &[
    ("core.hooksPath", "/dev/null"),
    ("core.attributesFile", "/dev/null"),
    ("core.excludesFile", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.protectHFS", "true"),
    ("core.protectNTFS", "true"),
    ("core.askPass", ""),
    ("core.autocrlf", "false"),
    ("credential.helper", ""),
    ("submodule.recurse", "false"),
    ("fetch.recurseSubmodules", "false"),
    ("transfer.bundleURI", "false"),
    ("http.followRedirects", "false"),
    ("http.lowSpeedLimit", "1"),
    ("http.lowSpeedTime", "60"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("advice.detachedHead", "false"),
    ("commit.gpgSign", "false"),
    ("log.showSignature", "false"),
    ("diff.external", ""),
    ("color.ui", "false"),
];
/// Variables of the machine that git may see: where programs are, and how the outside is reached.
const KEPT: [&str; 12] = [
    "PATH",
    "TMPDIR",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "GIT_SSL_CAINFO",
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
];

/// What git is run with.
#[derive(Clone)]
pub(super) struct Git {
    settings: Vec<(String, String)>,
    /// `Authorization` for one server; only where the outside is needed.
    authorization: Option<(String, Secret)>,
    online: bool,
    deadline: Instant,
    seconds: u64,
}

impl fmt::Debug for Git {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Git").field("online", &self.online).finish_non_exhaustive()
    }
}

/// Bounds of one run.
pub(super) struct Run<'a> {
    /// What it is for, for messages.
    pub(super) step: &'static str,
    pub(super) directory: &'a Path,
    pub(super) arguments: &'a [&'a str],
    /// Bytes of output that are taken.
    pub(super) output_max: usize,
    /// A directory whose size is watched, and the most it may have.
    pub(super) watched: Option<(&'a Path, u64)>,
}

impl Git {
    /// Git without the outside.
    pub(super) fn offline(timeout: Duration, links: bool) -> Git {
        let mut settings: Vec<(String, String)> =
            SETTINGS.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        settings.push(("core.symlinks".to_owned(), links.to_string()));
        Git {
            settings,
            authorization: None,
            online: false,
            deadline: Instant::now() + timeout,
            seconds: timeout.as_secs(),
        }
    }

    /// Git that may reach servers, and shows the token to one of them.
    pub(super) fn online(timeout: Duration, links: bool, server: &Target, token: &Secret) -> Git {
        let mut git = Git::offline(timeout, links);
        git.online = true;
        if !token.is_empty() {
            // The header is kept for this server alone.
            let pair = format!("x-access-token:{}", token.expose());
            let value = format!("Authorization: Basic {}", base64::engine::general_purpose::STANDARD.encode(pair));
            git.authorization = Some((format!("http.{}/.extraHeader", server.origin()), Secret::new(value)));
        }
        git
    }

    fn command(&self, run: &Run<'_>) -> Command {
        let mut command = Command::new("git");
        command.args(run.arguments).current_dir(run.directory).env_clear();
        for name in KEPT {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        let settings = self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let authorization = self.authorization.iter().map(|(name, value)| (name.as_str(), value.expose()));
        let mut count = 0;
        for (name, value) in settings.chain(authorization) {
            command.env(format!("GIT_CONFIG_KEY_{count}"), name).env(format!("GIT_CONFIG_VALUE_{count}"), value);
            count += 1;
        }
        command
            .env("GIT_CONFIG_COUNT", count.to_string())
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_SYSTEM", "/dev/null")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_ATTR_NOSYSTEM", "1")
            .env("GIT_ATTR_SOURCE", EMPTY_TREE)
            .env("GIT_ALLOW_PROTOCOL", if self.online { "https:http" } else { "" })
            .env("GIT_PROTOCOL_FROM_USER", "0")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ASKPASS", "")
            .env("GIT_NO_REPLACE_OBJECTS", "1")
            .env("GIT_NO_LAZY_FETCH", "1")
            .env("GIT_OPTIONAL_LOCKS", "0")
            .env("GIT_LFS_SKIP_SMUDGE", "1")
            .env("GIT_CEILING_DIRECTORIES", run.directory.parent().unwrap_or(run.directory))
            .env("GIT_PAGER", "cat")
            .env("HOME", "/nonexistent")
            .env("LC_ALL", "C");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        command
    }

    /// Runs git and gives what it wrote.
    pub(super) async fn run(&self, run: Run<'_>) -> Result<Vec<u8>, ForgeFailure> {
        let step = run.step;
        let child = self.command(&run).spawn().map_err(|error| ForgeFailure::NoGit { why: error.to_string() })?;
        let mut running = Running::new(child);
        let stdout = running.child.stdout.take().expect("is piped");
        let stderr = running.child.stderr.take().expect("is piped");
        let ended = async {
            let (output, complaint, status) =
                tokio::join!(taken(stdout, run.output_max), kept(stderr), running.child.wait());
            (output, complaint, status)
        };
        let watched = async {
            match run.watched {
                Some((directory, max)) => {
                    while size(directory) <= max {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                    max
                }
                None => std::future::pending().await,
            }
        };
        let deadline = tokio::time::sleep_until(self.deadline.into());
        let (output, complaint, status) = tokio::select! {
            ended = ended => ended,
            max = watched => {
                return Err(ForgeFailure::TooLarge { what: "the repository".to_owned(), max, unit: "bytes" });
            }
            () = deadline => {
                return Err(ForgeFailure::TooSlow { what: format!("git ({step})"), seconds: self.seconds });
            }
        };
        running.ended = true;
        let status = status.map_err(|error| ForgeFailure::Git { step, why: error.to_string() })?;
        // Git that could not write all it had to say ends badly as well, so this comes first.
        let output = output.ok_or_else(|| ForgeFailure::TooLarge {
            what: format!("what git said ({step})"),
            max: run.output_max as u64,
            unit: "bytes",
        })?;
        match status.success() {
            true => Ok(output),
            false => Err(self.complained(step, &complaint)),
        }
    }

    /// What a complaint of git means.
    fn complained(&self, step: &'static str, complaint: &str) -> ForgeFailure {
        let has = |words: &[&str]| words.iter().any(|word| complaint.contains(word));
        let what = || "the repository".to_owned();
        if has(&["could not read Username", "Authentication failed", "error: 401", "error: 403"]) {
            return ForgeFailure::Unauthorised {
                what: what(),
                status: if complaint.contains("403") { 403 } else { 401 },
            };
        }
        if has(&["couldn't find remote ref", "not our ref", "unadvertised object"]) {
            return ForgeFailure::NotFound { what: "such branch, tag or commit".to_owned() };
        }
        if has(&["not found", "error: 404", "error: 410"]) && step != "checkout" {
            return ForgeFailure::NotFound { what: "repository at the address".to_owned() };
        }
        if has(&["error: 429"]) {
            return ForgeFailure::Unavailable { what: what(), status: 429 };
        }
        if has(&["Could not resolve host", "Failed to connect", "Connection refused", "Connection reset", "timed out"])
        {
            return ForgeFailure::Unreachable { why: "git could not connect".to_owned() };
        }
        let line =
            complaint.lines().map(str::trim).find(|line| line.starts_with("fatal:") || line.starts_with("error:"));
        let mut why = crate::text::clipped(line.unwrap_or("it gave no reason"), 200);
        // Never seen there; but nothing that is shown may hold it.
        if let Some((_, value)) = &self.authorization
            && let Some(token) = value.expose().rsplit(' ').next()
        {
            why = why.replace(token, "...");
        }
        ForgeFailure::Git { step, why }
    }
}

/// A process with all it started.
struct Running {
    child: Child,
    group: Option<Pid>,
    ended: bool,
}

impl Running {
    fn new(child: Child) -> Running {
        let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        Running { child, group, ended: false }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        if let Some(group) = self.group {
            let _ = kill_process_group(group, Signal::KILL);
        }
        // What was killed may be in the middle of a write: the directory is removed only after that.
        let until = Instant::now() + END_WAIT;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// All that is written, or `None` where it is more than `max`.
async fn taken(from: impl AsyncRead + Unpin, max: usize) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let _ = from.take(max as u64 + 1).read_to_end(&mut bytes).await;
    // The pipe is closed with the reader, which ends a process that goes on writing.
    (bytes.len() <= max).then_some(bytes)
}

/// The end of what is written.
async fn kept(mut from: impl AsyncRead + Unpin) -> String {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut piece).await {
        bytes.extend_from_slice(&piece[..read]);
        if bytes.len() > 2 * COMPLAINT_MAX {
            bytes.drain(..bytes.len() - COMPLAINT_MAX);
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Bytes in a directory, as far as they can be seen.
fn size(directory: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    entries.filter_map(Result::ok).fold(0u64, |sum, entry| {
        let Ok(kind) = entry.file_type() else { return sum };
        let bytes = match kind.is_dir() {
            true => size(&entry.path()),
            false => entry.metadata().map_or(0, |it| it.len()),
        };
        sum.saturating_add(bytes)
    })
}
