//! Child processes of `mindos`: how they are started, and how they end with their parent.
//!
//! A child asks the kernel to be killed when its parent dies, so that nothing stays behind a `kill -9`. Invariant: the parent
//! starts children on its main thread only, because it is the death of the starting thread that the kernel watches.

use std::ffi::OsString;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};
use tokio::process::{Child, Command};

use crate::failure::Failure;

/// Set for children: the process id of the parent they are to die with.
const PARENT: &str = "MINDOS_PARENT_PID";

/// Called first of all by every `mindos`: binds its life to that of the `mindos` that started it, if one did.
pub(crate) fn die_with_parent() -> Result<(), Failure> {
    let Some(parent) = std::env::var(PARENT).ok().and_then(|text| text.parse::<i32>().ok()) else { return Ok(()) };
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| Failure::world(format!("cannot bind this process to its parent: {error}")))?;
    // The parent may have died before the kernel knew.
    if getppid().map(Pid::as_raw_pid) != Some(parent) {
        return Err(Failure::world("the process that started this one is gone"));
    }
    Ok(())
}

/// Where a child's output goes.
#[derive(Debug)]
pub(crate) enum Log<'a> {
    /// Appended to a file.
    File(&'a Path),
    /// Standard error as it is; standard output to the caller.
    Piped,
    /// Standard error as it is; standard input and output to the caller.
    Talking,
}

/// Starts this very program with other arguments, in a process group of its own.
pub(crate) fn start(args: &[OsString], variables: &[(String, String)], log: &Log<'_>) -> Result<Child, Failure> {
    let program = std::env::current_exe()
        .map_err(|error| Failure::world(format!("cannot tell where this program is: {error}")))?;
    start_program(program.as_os_str(), args, variables, log)
}

/// Starts a program.
pub(crate) fn start_program(
    program: &std::ffi::OsStr,
    args: &[OsString],
    variables: &[(String, String)],
    log: &Log<'_>,
) -> Result<Child, Failure> {
    let mut command = Command::new(program);
    command.args(args).envs(variables.iter().cloned()).env(PARENT, std::process::id().to_string());
    command.stdin(Stdio::null()).kill_on_drop(true).process_group(0);
    match log {
        Log::File(path) => {
            let open = || std::fs::OpenOptions::new().create(true).append(true).open(path);
            let failed = |error| Failure::world(format!("cannot write {}: {error}", path.display()));
            command.stdout(open().map_err(failed)?).stderr(open().map_err(failed)?);
        }
        Log::Piped => {
            command.stdout(Stdio::piped());
        }
        Log::Talking => {
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
        }
    }
    command.spawn().map_err(|error| Failure::world(format!("cannot start {}: {error}", program.display())))
}

/// Asks a child to end; harmless when it has.
pub(crate) fn terminate(child: &Child) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        let _ = kill_process(pid, Signal::TERM);
    }
}

/// Asks a child to end, waits, and kills it when it has not.
pub(crate) async fn stop(child: &mut Child, within: Duration) {
    terminate(child);
    if tokio::time::timeout(within, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

/// What the system says a process used.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Used {
    /// Processor time of all threads.
    pub(crate) cpu: Duration,
    /// Resident bytes.
    pub(crate) resident: u64,
    /// The most resident bytes there ever were.
    pub(crate) resident_peak: u64,
}

/// Reads what a process has used so far; zeroes when it is gone.
pub(crate) fn used(pid: u32) -> Used {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name stands in brackets and may hold anything; the fields behind it are numbers.
    let fields: Vec<&str> = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect()).unwrap_or_default();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    let cpu = Duration::from_secs_f64((ticks(11) + ticks(12)) as f64 / per_second as f64);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.trim().split(' ').next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    Used { cpu, resident: kib("VmRSS:"), resident_peak: kib("VmHWM:") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_process_uses_is_read() {
        let used = used(std::process::id());
        assert!(used.resident > 0 && used.resident_peak >= used.resident);
    }
}
