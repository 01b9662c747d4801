//! `mindos up` with real processes: a replay, the same once more, and an end by force that leaves nothing behind.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A directory of its own for each test, removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Directory {
        let path = std::env::temp_dir().join(format!("mindos-cli-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Directory(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn up(data: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mindos"));
    command.args(["up", "--clusters", "one,two", "--port", "0", "--agent-port", "0", "--generals-port", "0"]);
    command.args(["--output", "json", "--data-dir"]).arg(data).args(more);
    command.env_remove("MINDOS_DATA_DIR").env_remove("MINDOS_GITHUB_SECRET").env_remove("MINDOS_OUTPUT");
    command
}

fn payloads(names: &[&str]) -> Directory {
    let folder = Directory::new("payloads");
    for name in names {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/github-webhooks").join(name);
        std::fs::copy(from, folder.0.join(name)).unwrap();
    }
    folder
}

fn replay(data: &Path, folder: &Path) -> Value {
    let output = up(data, &["--replay", folder.to_str().unwrap()]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_replay_settles_everything_and_a_second_one_is_recognised() {
    let data = Directory::new("replay");
    let folder = payloads(&["pull_request.opened.1.json", "push.2.json", "issues.opened.1.json", "ping.2.json"]);

    let first = replay(&data.0, &folder.0);
    assert_eq!((&first["events"], &first["duplicates"]), (&4.into(), &0.into()));
    assert_eq!(first["events_not_routed"], 1);
    assert_eq!(first["by_outcome"]["succeeded"], first["deliveries"]);
    // Three types of generals in two clusters.
    for general in ["one/security-general", "two/architecture-general", "two/code-review-general"] {
        assert_eq!(first["by_general"][general], 1, "{first}");
    }
    assert_eq!(first["ledger"]["verified"], true);

    let second = replay(&data.0, &folder.0);
    assert_eq!((&second["events"], &second["duplicates"]), (&4.into(), &4.into()));
    assert_eq!(second["deliveries"], first["deliveries"]);
}

/// The processes that a run has written down.
fn processes(data: &Path) -> Vec<u32> {
    let files = std::fs::read_dir(data.join("pids")).unwrap();
    files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap().trim().parse().unwrap()).collect()
}

/// Whether a process is there and not merely waiting to be buried.
fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_killed_process_is_started_again_and_a_killed_run_leaves_nothing_behind() {
    let data = Directory::new("killed");
    let mut run = up(&data.0, &[]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(run.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let ready: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(ready["generals"], 22);
    // One whose port somebody else took meanwhile is started again by now, or soon.
    wait_until("not all of them live", || {
        let all = processes(&data.0);
        all.len() == 45 && all.iter().all(|pid| lives(*pid))
    });

    let pid_file = data.0.join("pids/control-plane.pid");
    let before = std::fs::read_to_string(&pid_file).unwrap();
    assert!(Command::new("kill").args(["-9", before.trim()]).status().unwrap().success());
    wait_until("the control plane was not started again", || std::fs::read_to_string(&pid_file).unwrap() != before);

    let all = processes(&data.0);
    run.kill().unwrap();
    run.wait().unwrap();
    wait_until("processes outlived the run", || !all.iter().any(|pid| lives(*pid)));
}
