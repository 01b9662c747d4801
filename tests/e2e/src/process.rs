//! Processes under test: started with a log file, looked at, hurt, and gone when dropped.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// The `mindos` binary: the one that `MINDOS_BIN` names, else the one built beside this test.
///
/// # Errors
/// When it was not built.
pub fn mindos() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("MINDOS_BIN") {
        return Ok(path.into());
    }
    let test = std::env::current_exe().context("failed to find this test's own file")?;
    let built = test.ancestors().skip(1).take(3).map(|folder| folder.join("mindos")).find(|path| path.is_file());
    built.with_context(|| {
        format!("there is no mindos binary beside {}: run `cargo build -p mindos` first", test.display())
    })
}

/// Runs `mindos` with `arguments` to its end.
///
/// # Errors
/// When it cannot be started.
pub fn run(arguments: &[&str]) -> Result<Output> {
    Command::new(mindos()?).args(arguments).output().with_context(|| format!("failed to run mindos {arguments:?}"))
}

/// Runs `mindos` with `arguments --output json` and reads what it prints.
///
/// # Errors
/// When it cannot be started, fails, or prints no JSON.
pub fn json(arguments: &[&str]) -> Result<serde_json::Value> {
    let output = run(&[arguments, &["--output", "json"]].concat())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let value = serde_json::from_str(&text).with_context(|| {
        format!("mindos {arguments:?} printed {text:?} and {}", String::from_utf8_lossy(&output.stderr))
    })?;
    Ok(value)
}

/// A running process.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `mindos` with `arguments`; what it prints is added to `<folder>/<name>.log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(folder: &Path, name: &str, arguments: &[String]) -> Result<Process> {
        Process::start_program(&mindos()?, folder, name, arguments)
    }

    /// Starts any program, as [`Process::start`] does.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_program(program: &Path, folder: &Path, name: &str, arguments: &[String]) -> Result<Process> {
        let log = folder.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log).context("failed to open a log")?;
        let child = Command::new(program)
            .args(arguments)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(file.try_clone().context("failed to share a log")?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("failed to start {} {arguments:?}", program.display()))?;
        Ok(Process { name: name.to_owned(), child, log })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).with_context(|| format!("failed to signal {}", self.name))
    }

    /// Ends it at once, as a power cut of the process would.
    ///
    /// # Errors
    /// When it is gone already: it died of itself.
    pub fn kill(mut self) -> Result<()> {
        if let Some(status) = self.ended()? {
            bail!("{} had ended by itself with {status}; its log ends: {}", self.name, self.log_end());
        }
        self.signal(Signal::KILL)?;
        self.child.wait().context("failed to wait for a killed process")?;
        Ok(())
    }

    /// Asks it to end and waits.
    ///
    /// # Errors
    /// When it takes longer than `time`.
    pub fn terminate(mut self, time: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait(time)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it takes longer than `time`.
    pub fn wait(&mut self, time: Duration) -> Result<ExitStatus> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if begun.elapsed() > time {
                bail!("{} did not end within {time:?}; its log ends: {}", self.name, self.log_end());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// How it ended, if it did.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("failed to look at {}", self.name))
    }

    /// The most memory that it had resident so far, in bytes.
    ///
    /// # Errors
    /// When it is gone.
    pub fn memory_peak(&self) -> Result<u64> {
        self.status("VmHWM:")
    }

    /// The memory that it has resident, in bytes.
    ///
    /// # Errors
    /// When it is gone.
    pub fn memory(&self) -> Result<u64> {
        self.status("VmRSS:")
    }

    /// Lets [`Self::memory_peak`] begin anew.
    ///
    /// # Errors
    /// When the system does not let it.
    pub fn forget_memory_peak(&self) -> Result<()> {
        let path = format!("/proc/{}/clear_refs", self.id());
        std::fs::write(&path, "5").with_context(|| format!("failed to write {path}"))
    }

    fn status(&self, field: &str) -> Result<u64> {
        let path = format!("/proc/{}/status", self.id());
        let status = std::fs::read_to_string(&path).with_context(|| format!("failed to read {path}"))?;
        let line = status.lines().find_map(|line| line.strip_prefix(field)).context("status has no such field")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().context("a number of KiB")?;
        Ok(kib * 1024)
    }

    /// The end of what it printed.
    #[must_use]
    pub fn log_end(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
