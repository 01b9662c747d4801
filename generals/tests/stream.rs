//! The program with a stream of its own, against a control plane that a test plays.

#[path = "../../sdk/rust/tests/plane/mod.rs"]
mod plane;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mindos_proto::agent::v1::agent_message::Message as Up;
use mindos_proto::agent::v1::result::Outcome;
use mindos_proto::agent::v1::{LeaseClaim, Verdict};
use mindos_sdk::Event;
use plane::{Plane, Session, assign};
use serde_json::Value;

/// Ends the process with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn general(arguments: &[&str]) -> Running {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mindos-general"));
    command.args(arguments).args(["--listen", "127.0.0.1:0", "--log", "warn"]);
    for variable in ["OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "LLM_PROVIDER", "LLM_MODEL", "MODEL_NAME", "OLLAMA_BASE_URL"] {
        command.env_remove(variable);
    }
    Running(command.stdout(Stdio::null()).spawn().unwrap())
}

fn event() -> mindos_proto::cloudevents::v1::CloudEvent {
    let pull = r#"{"action":"opened","repository":{"full_name":"o/r","html_url":"https://github.com/o/r"},"sender":{"login":"ann"},
        "pull_request":{"number":7,"title":"Add a thing","body":"It adds a thing that was missing before.","labels":[],
        "head":{"ref":"feat/x","sha":"0123456789012345678901234567890123456789"},"base":{"ref":"main"}}}"#;
    Event::new("https://github.com/o/r", "e1", "com.github.pull_request.opened").kind("pr_created").repository("o/r").json(pull).into_message()
}

async fn connected(plane: &mut Plane, slots: u32) -> Session {
    let (mut session, hello) = plane.welcome(|_: &LeaseClaim| Verdict::Keep).await;
    assert!(hello.capabilities.contains(&"ceilings".to_owned()), "{:?}", hello.capabilities);
    assert_eq!(session.granted().await.generals[0].capacity, slots);
    session
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_comes_by_the_stream_and_a_drain_is_clean() {
    let mut plane = Plane::start().await;
    let url = plane.url.clone();
    let mut general = general(&["--type", "code-review", "--name", "reviewer", "--control-plane", &url, "--cluster", "c1", "--instance", "i1", "--slots", "3"]);
    let mut session = connected(&mut plane, 3).await;
    session.send(assign("d2.1", 1, "reviewer", event()));
    let result = session.result().await;
    assert!(matches!(result.outcome, Some(Outcome::Succeeded(_))), "{result:?}");
    let output: Value = serde_json::from_slice(&result.output).unwrap();
    assert_eq!((output["general"].as_str(), output["event_type"].as_str()), (Some("code-review-general"), Some("pr_created")));
    assert_eq!(output["job_id"], "d2.1-1.1");
    assert!(output["statement"].as_str().unwrap().ends_with("no model was asked."));
    assert_eq!(output["effects"], serde_json::json!([]), "they go beside the output");
    let kinds: Vec<_> = result.effects.iter().map(|it| (it.kind.as_str(), it.target.as_str(), it.key.as_str())).collect();
    let head = "o/r@0123456789012345678901234567890123456789";
    assert_eq!(kinds, [("comment", "o/r#7", "d2.1/0"), ("check", head, "d2.1/1")]);
    session.settle("d2.1", 1);

    let pid = rustix::process::Pid::from_child(&general.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    loop {
        match session.next().await {
            Some(Up::Draining(_)) => break,
            Some(_) => {}
            None => panic!("it left without a word"),
        }
    }
    let began = Instant::now();
    let status = loop {
        if let Some(status) = general.0.try_wait().unwrap() {
            break status;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "it does not end");
        tokio::task::yield_now().await;
    };
    assert!(status.success(), "{status}");
}

#[test]
fn settings_that_are_wrong_are_named() {
    let said = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_mindos-general")).args(arguments).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(said(&["--control-plane", "http://127.0.0.1:1", "--slots", "0"]).contains("--slots"));
    assert!(said(&["--control-plane", "http://127.0.0.1:1", "--instance", "i", "--identity-dir", "x"]).contains("--identity-dir needs --control-plane https"));
    assert!(said(&["--type", "nobody"]).contains("there is no general of type `nobody`"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mine.json");
    std::fs::write(&file, r#"{"type":"mine","specializations":[],"title":"Mine","analyses":[],"advice":{},"otherwise":"-","effects":["merge"]}"#).unwrap();
    let refused = said(&["--profile", file.to_str().unwrap()]);
    assert!(refused.contains("unknown variant `merge`") && refused.contains("comment"), "{refused}");
}

#[test]
fn a_twelfth_general_is_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mine.json");
    let mine = r#"{"type":"changelog-general","specializations":["changelogs"],"title":"Changelog","analyses":["inventory"],"advice":{},"otherwise":"Nothing.",
        "instructions":["Write the entry."],"schema":{"type":"object","properties":{"summary":{"type":"string"}}},"effects":["comment"]}"#;
    std::fs::write(&file, mine).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_mindos-general"))
        .args(["--profile", file.to_str().unwrap(), "--stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let body = r#"{"event_type":"x","data":{"repository":{"full_name":"o/r"},"issue":{"number":3,"title":"A title","body":"A body"}}}"#;
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), body.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((report["general"].as_str(), report["effects"][0]["target"].as_str()), (Some("changelog-general"), Some("o/r#3")));
}
