//! The command as people meet it: help, exit codes, JSON, and what it says when something is wrong.

use std::path::Path;
use std::process::{Command, Output, Stdio};

fn mindos(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

fn command(args: &[&str]) -> Command {
    // A port on which nobody listens, so that no test depends on what runs on this machine.
    let mut command = Command::new(env!("CARGO_BIN_EXE_mindos"));
    command
        .args(args)
        .env("MINDOS_SERVER", "http://127.0.0.1:9")
        .env("MINDOS_CONFIG", "/nonexistent/mindos.yaml")
        .env_remove("MINDOS_OUTPUT")
        .env_remove("MINDOS_TOKEN")
        .env_remove("MINDOS_DATA_DIR");
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Commands below a command, read from its help.
fn subcommands(path: &[&str]) -> Vec<String> {
    let output = mindos(&[path, &["--help"]].concat());
    assert!(output.status.success(), "{path:?}: {}", text(&output.stderr));
    let help = text(&output.stdout);
    let Some((_, commands)) = help.split_once("\nCommands:\n") else { return Vec::new() };
    let names = commands
        .lines()
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help").map(str::to_owned).collect()
}

fn all_commands() -> Vec<Vec<String>> {
    let mut found: Vec<Vec<String>> = Vec::new();
    let mut left: Vec<Vec<String>> = vec![Vec::new()];
    while let Some(path) = left.pop() {
        let names: Vec<&str> = path.iter().map(String::as_str).collect();
        for name in subcommands(&names) {
            left.push([path.clone(), vec![name]].concat());
        }
        found.push(path);
    }
    found
}

#[test]
fn the_help_of_every_command_has_examples() {
    let commands = all_commands();
    assert!(commands.len() > 75, "{commands:?}");
    for path in commands {
        let args: Vec<&str> = path.iter().map(String::as_str).chain(["--help"]).collect();
        let help = text(&mindos(&args).stdout);
        assert!(help.contains("Examples:\n  "), "{path:?}:\n{help}");
        assert!(help.contains("--output <OUTPUT>"), "{path:?}");
    }
}

#[test]
fn the_commands_of_the_manual_are_there() {
    let commands = all_commands();
    for path in [
        "up",
        "control-plane",
        "sidecar",
        "general",
        "send",
        "events list",
        "events get",
        "events watch",
        "deliveries list",
        "deliveries get",
        "deliveries watch",
        "deliveries cancel",
        "deliveries redrive",
        "generals list",
        "generals get",
        "generals cordon",
        "generals uncordon",
        "generals drain",
        "generals pause",
        "generals resume",
        "clusters list",
        "instances list",
        "routes get",
        "routes apply",
        "routes diff",
        "routes explain",
        "routes schema",
        "ledger tail",
        "ledger verify",
        "ledger export",
        "journal inspect",
        "journal truncate",
        "backup",
        "restore",
        "upgrade finalize",
        "top",
        "bench fanout",
        "bench webhooks",
        "bench streams",
        "bench recovery",
        "completions",
        "auth login",
        "auth whoami",
        "auth can-i",
        "auth logout",
        "contexts list",
        "contexts use",
        "contexts set",
        "contexts delete",
        "tokens create",
        "tokens list",
        "tokens revoke",
        "roles bind",
        "roles unbind",
        "roles list",
        "issuers add",
        "issuers list",
        "issuers remove",
        "agents deny",
        "agents allow",
        "agents denials",
        "quotas set",
        "quotas list",
        "authority show",
        "authority rotate",
        "authority retire",
    ] {
        let words: Vec<String> = path.split(' ').map(str::to_owned).collect();
        assert!(commands.contains(&words), "{path}");
    }
}

#[test]
fn the_help_documents_the_exit_codes() {
    let help = text(&mindos(&["--help"]).stdout);
    for code in 0..=5 {
        assert!(help.contains(&format!("\n  {code}  ")), "{code}");
    }
}

#[test]
fn a_comparison_that_cannot_be_made_is_refused_before_anything_is_measured() {
    let began = std::time::Instant::now();
    let output =
        mindos(&["bench", "fanout", "--seconds", "60", "--against", "nats", "--nats-server", "/nowhere/nats-server"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("NATS") || said.contains("--nats-server"), "{said}");
    assert!(!said.contains("round 1") && began.elapsed() < std::time::Duration::from_secs(30), "{said}");
}

#[test]
fn a_table_of_the_bench_has_from_2_to_1000_routes() {
    for routes in ["0", "1", "1001"] {
        let output = mindos(&["bench", "fanout", "--routes", routes]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("--routes") && said.contains("2..=1000"), "{said}");
    }
}

#[test]
fn nobody_there_is_a_failure_that_says_what_to_do() {
    for args in
        [&["events", "list"][..], &["deliveries", "get", "d1.1"], &["routes", "get"], &["ledger", "verify"], &["top"]]
    {
        let output = mindos(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        let error = text(&output.stderr);
        assert!(error.contains("cannot reach http://127.0.0.1:9") && error.contains("mindos up"), "{error}");
    }
}

#[test]
fn errors_are_json_when_json_is_wanted() {
    let output = mindos(&["events", "list", "--output", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let error: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(error["error"]["code"], 1);
    assert!(error["error"]["hint"].as_str().unwrap().contains("mindos up"));
}

#[test]
fn a_wrong_command_line_ends_with_two() {
    for args in [
        &["frobnicate"][..],
        &["events", "list", "--since", "yesterday"],
        &["deliveries", "list", "--status", "lost"],
        &["up", "--clusters", "E U"],
        &["send", "--source", "/me"],
        &["events", "list", "--server", "ftp://host"],
    ] {
        assert_eq!(mindos(args).status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn what_is_not_there_ends_with_four() {
    for args in [
        &["journal", "inspect", "--data-dir", "/nonexistent/mindos"][..],
        &["ledger", "verify", "--data-dir", "/nonexistent/mindos"],
        &["restore", "/nonexistent/mindos", "--data-dir", "/nonexistent/other"],
    ] {
        let output = mindos(args);
        assert_eq!(output.status.code(), Some(4), "{args:?}: {}", text(&output.stderr));
    }
}

#[test]
fn a_folder_without_payloads_starts_nothing() {
    let output = mindos(&["up", "--ephemeral", "--replay", env!("CARGO_MANIFEST_DIR")]);
    assert_eq!(output.status.code(), Some(4), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("pull_request.opened.json"));
}

#[test]
fn completions_name_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let output = mindos(&["completions", shell]);
        assert!(output.status.success());
        assert!(text(&output.stdout).contains("deliveries"), "{shell}");
    }
}

/// A pipe that nobody reads.
fn unread() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

/// A disk that is full.
#[cfg(target_os = "linux")]
fn full() -> Stdio {
    std::fs::File::options().write(true).open("/dev/full").unwrap().into()
}

/// The folder of a journal, as a release left it.
fn journal() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let segment = "00000000000000000001.segment";
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/histories/0.1.0").join(segment);
    std::fs::copy(from, folder.path().join(segment)).unwrap();
    folder
}

#[test]
#[cfg(target_os = "linux")]
fn what_cannot_be_printed_is_a_failure() {
    let journal = journal();
    let folder = journal.path().to_str().unwrap();
    for args in [&["routes", "schema"][..], &["completions", "bash"], &["ledger", "export", "--data-dir", folder]] {
        let output = command(args).stdout(full()).output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.contains("cannot write to standard output") && said.lines().count() == 1, "{args:?}: {said}");
    }
}

#[test]
fn a_reader_that_has_gone_away_is_no_failure() {
    let journal = journal();
    let folder = journal.path().to_str().unwrap();
    for args in [&["routes", "schema"][..], &["completions", "bash"], &["ledger", "export", "--data-dir", folder]] {
        let output = command(args).stdout(unread()).output().unwrap();
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()), "{args:?}");
    }
}

#[test]
fn a_verdict_stands_where_it_cannot_be_printed() {
    let journal = journal();
    let segment = journal.path().join("00000000000000000001.segment");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[32_768..33_280].fill(0xff);
    std::fs::write(&segment, bytes).unwrap();
    let folder = journal.path().to_str().unwrap();
    for args in [&["ledger", "verify", "--data-dir", folder][..], &["journal", "inspect", "--data-dir", folder]] {
        let output = command(args).stdout(unread()).output().unwrap();
        assert_eq!(output.status.code(), Some(5), "{args:?}: {}", text(&output.stderr));
        let unheard = command(args).stdout(unread()).stderr(unread()).output().unwrap();
        assert_eq!(unheard.status.code(), Some(5), "{args:?}");
        #[cfg(target_os = "linux")]
        assert_eq!(command(args).stdout(full()).output().unwrap().status.code(), Some(5), "{args:?}");
    }
}

#[test]
fn settings_that_cannot_be_and_files_that_cannot_be_read_end_with_two_and_what_is_not_to_be_had_with_one() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let sidecar = ["sidecar", "--instance", "i1", "--general", "type=a,command=true"];
    let joins = ["--control-plane", "https://127.0.0.1:8091", "--identity-dir", "/dev/null/identity"];
    let trusts = ["--control-plane", "https://127.0.0.1:8091", "--ca", "/nonexistent/ca.pem"];
    let cluster_agent = ["cluster-agent", "--cluster", "c1", "--instance", "i1"];
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let control_plane =
        ["control-plane", "--data-dir", data, "--listen", "127.0.0.1:0", "--agent-listen", "127.0.0.1:0"];
    let in_the_clear = ["--aggregator-address", "0.0.0.0:0", "--aggregator-plaintext", "--tls", "off"];
    for (args, code, says) in [
        ([&sidecar[..], &["--join-token-file", "/token"]].concat(), 2, "needs --control-plane https://"),
        ([&sidecar[..], &["--ready-listen", &address]].concat(), 1, "in use"),
        ([&sidecar[..], &joins].concat(), 1, "failed to make `/dev/null/identity`"),
        ([&sidecar[..], &trusts].concat(), 2, "failed to read `/nonexistent/ca.pem`"),
        ([&cluster_agent[..], &["--job-ttl-seconds", "5"]].concat(), 2, "expected 30 or more"),
        ([&cluster_agent[..], &["--kubeconfig", "/nonexistent/kubeconfig"]].concat(), 2, "No such file"),
        ([&control_plane[..], &in_the_clear].concat(), 2, "gitlens.sources.aggregator"),
        ([&control_plane[..], &["--settings", "/nonexistent/settings"]].concat(), 2, "`/nonexistent/settings`"),
        ([&control_plane[..], &["--aggregator-address", &address]].concat(), 1, "failed to listen"),
        (vec!["general", "--model", "nonsense"], 2, "--model `nonsense`"),
        (vec!["general", "--type", "nonsense"], 2, "there is no general of type"),
        (vec!["general", "--profile", "/nonexistent/profile"], 2, "No such file"),
        (vec!["general", "--listen", &address], 1, "in use"),
    ] {
        let output = mindos(&args);
        let said = text(&output.stderr);
        assert!(output.status.code() == Some(code) && said.contains(says), "{args:?}: {:?} {said}", output.status);
    }
}

#[test]
fn a_file_that_is_named_and_cannot_be_read_ends_with_two() {
    let file = "/nonexistent/file";
    let key = "0".repeat(64);
    for args in [
        &["events", "list", "--endpoint", "https://127.0.0.1:9", "--ca", file][..],
        &["events", "list", "--token-file", file],
        &["routes", "apply", file],
        &["send", "--type", "t", "--source", "/s", "--data-file", file],
        &["import", file],
        &["ledger", "verify", file, "--key", &key],
        &["up", "--ephemeral", "--replay", file],
    ] {
        let output = mindos(args);
        let said = text(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains(file), "{args:?}: {:?} {said}", output.status);
    }
}

#[test]
fn the_live_view_wants_a_terminal() {
    let output = mindos(&["top", "--server", "http://127.0.0.1:9"]);
    assert_eq!(output.status.code(), Some(1));
}
