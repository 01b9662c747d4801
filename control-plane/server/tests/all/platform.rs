//! The platform's paths: every answer of the contract's table, and what becomes of a run that was asked for.

use std::fmt::Write as _;
use std::net::SocketAddr;

use crate::support;
use crate::support::{Agent, Directory, Running, http};
use hmac::{KeyInit, Mac};
use mindos_proto::agent::v1 as agent;
use mindos_proto::agent::v1::agent_message::Message as Up;
use mindos_proto::agent::v1::control_message::Message as Down;
use mindos_proto::cloudevents::v1::cloud_event::Data;
use mindos_proto::delivery::v1 as delivery;
use mindos_proto::run::v1::run_service_client::RunServiceClient;
use mindos_proto::run::v1::{CancelRunRequest, GetRunRequest, RunKind, SubmitRunRequest, TellLogRequest};
use serde_json::{Value, json};
use tonic::Code;
use tonic::transport::Channel;

const SECRET: &str = "the secret of the webhook";
const JSON: &str = "content-type: application/json\r\n";

async fn server(directory: &Directory, settings: &str) -> Running {
    std::fs::create_dir_all(&directory.0).unwrap();
    let file = directory.0.join("settings.yaml");
    std::fs::write(&file, format!("github_secret: '{SECRET}'\n{settings}\n")).unwrap();
    Running::with(directory, &["--surface", "platform=127.0.0.1:0", "--settings", file.to_str().unwrap()]).await
}

async fn ask(at: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    );
    http::send_to(at, request.as_bytes()).await
}

async fn post(at: SocketAddr, path: &str, body: &Value) -> (u16, Value) {
    let (code, body) = ask(at, "POST", path, JSON, &body.to_string()).await;
    (code, serde_json::from_str(&body).unwrap_or(Value::String(body)))
}

async fn get(at: SocketAddr, path: &str) -> (u16, Value) {
    let (code, body) = ask(at, "GET", path, "", "").await;
    (code, serde_json::from_str(&body).unwrap_or(Value::String(body)))
}

fn code_request() -> Value {
    json!({
        "task_id": 5, "service": "trader", "repository_url": "https://github.com/acme/trader",
        "docs_repository_url": "https://github.com/acme/docs", "github_user": "ada",
    })
}

fn docs_request() -> Value {
    json!({
        "repository_url": "https://github.com/acme/docs", "working_directory": ".", "source_branch": "main", "github_user": "ada",
    })
}

const TASKS: &str = "/api/v1/pm/tasks";
const DOCS: &str = "/api/v1/pm/docs/generate";

#[tokio::test]
async fn every_answer_is_that_of_the_contract() {
    let directory = Directory::new();
    let server = server(&directory, "").await;
    let at = server.platform.unwrap();

    let (code, health) = get(at, "/health").await;
    assert_eq!((code, &health["status"]), (200, &json!("healthy")));
    assert!(health["version"].is_string() && health["timestamp"].as_str().unwrap().ends_with('Z'), "{health}");

    let (code, taken) = post(at, TASKS, &code_request()).await;
    assert_eq!((code, &taken["success"], &taken["data"]["namespace"]), (200, &json!(true), &json!("orchestrator")));
    let name = taken["data"]["coderun_name"].as_str().unwrap();
    assert!(name.starts_with("code-5-") && taken["message"].is_string(), "{taken}");

    let (code, taken) = post(at, DOCS, &docs_request()).await;
    assert_eq!((code, &taken["success"]), (201, &json!(true)));
    let data = &taken["data"];
    assert!(data["docsrun_name"].as_str().unwrap().starts_with("docs-gen-"), "{data}");
    assert_eq!(data["repository_url"], "https://github.com/acme/docs");
    assert_eq!((&data["model"], &data["namespace"]), (&json!("claude-opus-4-20250514"), &json!("orchestrator")));

    // What is malformed, in plain text under its own code; never 200.
    for path in [TASKS, DOCS] {
        for (headers, body, code, said) in [
            (JSON, "{", 400, "Failed to parse the request body as JSON"),
            (JSON, "", 400, "Failed to parse the request body as JSON"),
            ("", "{}", 415, "Expected request with `Content-Type: application/json`"),
            ("content-type: text/plain\r\n", "{}", 415, "Content-Type"),
            (JSON, "[]", 422, "expected an object"),
            (JSON, "{}", 422, "missing field `"),
        ] {
            let (found, text) = ask(at, "POST", path, headers, body).await;
            assert!(found == code && text.contains(said), "{path} {headers:?} {body:?}: {found} {text}");
        }
    }
    for (member, value) in [
        ("task_id", json!("5")),
        ("service", json!("a; rm -rf /")),
        ("repository_url", json!("https://ada:pw@github.com/a/b")),
        ("working_directory", json!("../..")),
        ("env", json!({ "GITHUB_TOKEN": "x" })),
    ] {
        let mut request = code_request();
        request[member] = value;
        let (code, said) = post(at, TASKS, &request).await;
        assert!(code == 422 && said.as_str().unwrap().contains(member), "{member}: {code} {said}");
    }
    let large = "x".repeat(3 << 20);
    let (code, said) = post(at, TASKS, &json!({ "prompt_modification": large })).await;
    assert_eq!((code, &said["success"]), (413, &json!(false)), "{said}");

    for (method, path, code) in [
        ("GET", "/api/v1/pm/tasks/nothing", 404),
        ("DELETE", "/api/v1/pm/tasks/nothing", 404),
        ("GET", "/api/v1/pm/tasks/999999/logs", 404),
        ("GET", "/api/v1/pm/tasks?limit=0", 400),
        ("GET", "/api/v1/pm/tasks?other=1", 400),
        ("PUT", "/api/v1/pm/tasks", 405),
        ("GET", "/nowhere", 404),
    ] {
        let (found, body) = ask(at, method, path, "", "").await;
        let body: Value = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{method} {path}: {found} {body}"));
        assert!(found == code, "{method} {path}: {found} {body}");
        assert!(body["success"] == false || found == 405, "{method} {path}: {body}");
    }
    server.stop().await;
}

#[tokio::test]
async fn runs_of_one_second_are_told_apart_and_the_same_one_is_the_same() {
    let directory = Directory::new();
    let server = server(&directory, "").await;
    let at = server.platform.unwrap();
    let mut names = std::collections::BTreeSet::new();
    for branch in 0..5 {
        let mut request = code_request();
        request["docs_branch"] = json!(format!("b{branch}"));
        let (code, taken) = post(at, TASKS, &request).await;
        assert_eq!(code, 200, "{taken}");
        names.insert(taken["data"]["coderun_name"].as_str().unwrap().to_owned());
    }
    assert_eq!(names.len(), 5, "{names:?}");
    let (code, list) = get(at, TASKS).await;
    let runs = list["data"]["runs"].as_array().unwrap();
    assert_eq!((code, runs.len()), (200, 5));
    assert!(
        runs.iter().all(|run| run["phase"] == "Pending" && run["kind"] == "CodeRun" && run["service"] == "trader"),
        "{list}"
    );
    let (_, page) = get(at, &format!("{TASKS}?limit=2")).await;
    let next = page["data"]["next_page"].as_str().unwrap();
    let (_, rest) = get(at, &format!("{TASKS}?limit=200&page={next}")).await;
    assert_eq!(rest["data"]["runs"].as_array().unwrap().len(), 3);
    server.stop().await;
}

/// An agent that does code runs.
async fn runner(server: &Running, boot: &str) -> Agent {
    let general = agent::ServedGeneral { r#type: "code-run".to_owned(), ..Default::default() };
    let hello = agent::Hello { generals: vec![general], ..support::hello(boot, Vec::new()) };
    let mut agent = Agent::dial(server, hello).await.unwrap();
    let grant = agent::GeneralGrant { general: "code-run".to_owned(), capacity: 4 };
    agent.say(Up::Grant(agent::Grant { generals: vec![grant], last_assign: 0 })).await;
    agent
}

#[tokio::test]
async fn a_run_is_done_shown_and_goes_on() {
    let directory = Directory::new();
    let server = server(&directory, "").await;
    let at = server.platform.unwrap();
    let mut agent = runner(&server, "b1").await;
    let (_, taken) = post(at, TASKS, &code_request()).await;
    let name = taken["data"]["coderun_name"].as_str().unwrap().to_owned();
    let (_, second) = post(
        at,
        TASKS,
        &json!({ "task_id": 6, "service": "trader", "repository_url": "https://h/a/b",
        "docs_repository_url": "https://h/a/b", "github_user": "ada" }),
    )
    .await;
    let second = second["data"]["coderun_name"].as_str().unwrap().to_owned();

    let assign = agent.assignment().await;
    let (_, run) = get(at, &format!("{TASKS}/{name}")).await;
    assert_eq!((&run["data"]["phase"], &run["data"]["delivery"]), (&json!("Running"), &json!(assign.delivery_id)));
    let (_, waiting) = get(at, &format!("{TASKS}/{second}")).await;
    assert_eq!(waiting["data"]["phase"], "Pending", "one run of a service at a time: {waiting}");
    let output =
        json!({ "pullRequestUrl": "https://github.com/acme/trader/pull/7", "jobName": "j", "log": "line 1\nline 2\n" });
    let usage = delivery::Usage { model: "m".to_owned(), input_tokens: 9, cost_micros: 250_000, ..Default::default() };
    let result = agent::Result {
        delivery_id: assign.delivery_id.clone(),
        token: assign.token,
        outcome: Some(agent::result::Outcome::Succeeded(delivery::Succeeded {})),
        output: output.to_string().into(),
        output_content_type: "application/json".to_owned(),
        usage: vec![usage],
        ..Default::default()
    };
    agent.say(Up::Result(result)).await;
    // The second has its turn once the first has ended.
    let next = loop {
        match agent.next().await.unwrap() {
            Down::Assign(assign) => break assign,
            Down::Settled(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_ne!(next.delivery_id, assign.delivery_id);

    let (_, run) = get(at, &format!("{TASKS}/{name}")).await;
    let run = &run["data"];
    assert_eq!((&run["phase"], &run["cost_usd"]), (&json!("Succeeded"), &json!("0.2500")), "{run}");
    assert_eq!(run["pull_request_url"], "https://github.com/acme/trader/pull/7");
    let (code, log) = ask(at, "GET", &format!("{TASKS}/{name}/logs"), "", "").await;
    assert_eq!((code, log.as_str()), (200, "line 1\nline 2\n"));

    // Cancelled while it is worked on: its agent is told.
    let (code, cancelled) = ask(at, "DELETE", &format!("{TASKS}/{second}"), "", "").await;
    assert_eq!((code, cancelled.contains("\"cancelled\":true")), (200, true), "{cancelled}");
    let Down::Cancel(cancel) = agent.next().await.unwrap() else { panic!("no cancel") };
    assert_eq!(cancel.delivery_id, next.delivery_id);
    let (code, ended) = ask(at, "DELETE", &format!("{TASKS}/{name}"), "", "").await;
    assert_eq!((code, ended.contains("\"cancelled\":false")), (200, true), "{ended}");

    let (code, said) = post(at, &format!("{TASKS}/{name}/context"), &json!({})).await;
    assert_eq!(code, 422, "{said}");
    let (code, more) =
        post(at, &format!("{TASKS}/{name}/context"), &json!({ "prompt_modification": "more tests" })).await;
    assert_eq!(code, 200, "{more}");
    let again = more["data"]["coderun_name"].as_str().unwrap();
    let (_, again) = get(at, &format!("{TASKS}/{again}")).await;
    assert_eq!(again["data"]["context_version"], 2, "{again}");
    server.stop().await;
}

#[tokio::test]
async fn the_webhook_is_the_verified_one() {
    let directory = Directory::new();
    let server = server(&directory, "").await;
    let at = server.platform.unwrap();
    let body = json!({ "zen": "x", "hook_id": 1, "repository": { "full_name": "o/n" } }).to_string();
    let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(body.as_bytes());
    let mut signature = String::new();
    mac.finalize().into_bytes().iter().for_each(|byte| write!(signature, "{byte:02x}").unwrap());
    let headers = |signature: &str| {
        format!("{JSON}x-github-event: ping\r\nx-github-delivery: g1\r\nx-hub-signature-256: sha256={signature}\r\n")
    };
    let (code, said) = ask(at, "POST", "/webhook/github", &headers(&signature), &body).await;
    assert_eq!(code, 200, "{said}");
    let (code, said) = ask(at, "POST", "/webhook/github", &headers(&signature.replace(['0', '1'], "2")), &body).await;
    assert_eq!(code, 401, "{said}");
    let (code, _) = ask(at, "POST", "/webhook/github", JSON, &body).await;
    assert!(code == 401 || code == 400, "{code}");
    server.stop().await;
}

fn submit(uid: &str, cluster: &str) -> SubmitRunRequest {
    let spec = json!({
        "taskId": 5, "service": "trader", "repositoryUrl": "https://github.com/acme/trader",
        "docsRepositoryUrl": "https://github.com/acme/docs", "model": "m", "githubUser": "ada",
    });
    SubmitRunRequest {
        kind: RunKind::Code.into(),
        namespace: "orchestrator".to_owned(),
        name: "by-hand".to_owned(),
        uid: uid.to_owned(),
        spec_json: spec.to_string(),
        cluster: cluster.to_owned(),
    }
}

#[tokio::test]
async fn an_object_becomes_one_run_of_its_own_cluster() {
    let directory = Directory::new();
    let server = server(&directory, "").await;
    let channel = Channel::from_shared(server.agents.clone()).unwrap().connect().await.unwrap();
    let mut runs = RunServiceClient::new(channel);
    let first = runs.submit_run(submit("uid-1", "c1")).await.unwrap().into_inner();
    assert!(!first.duplicate && first.delivery_id.starts_with('d'));
    let again = runs.submit_run(submit("uid-1", "c1")).await.unwrap().into_inner();
    assert_eq!((again.duplicate, &again.delivery_id), (true, &first.delivery_id));
    // Its spec was changed in the meantime: it is the run that was taken.
    let mut changed = submit("uid-1", "c1");
    changed.spec_json = changed.spec_json.replace("\"taskId\":5", "\"taskId\":6");
    let changed = runs.submit_run(changed).await.unwrap().into_inner();
    assert_eq!((changed.duplicate, &changed.delivery_id), (true, &first.delivery_id));

    for (change, field) in [
        (SubmitRunRequest { kind: 0, ..submit("u", "c1") }, "kind"),
        (SubmitRunRequest { uid: String::new(), ..submit("u", "c1") }, "uid"),
        (SubmitRunRequest { name: "a/b".to_owned(), ..submit("u", "c1") }, "name"),
        (SubmitRunRequest { spec_json: "{}".to_owned(), ..submit("u", "c1") }, "spec_json"),
        (SubmitRunRequest { spec_json: "x".repeat(300_000), ..submit("u", "c1") }, "spec_json"),
        (submit("u", ""), "cluster"),
    ] {
        let refused = runs.submit_run(change).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains(field), "{refused}");
    }

    let stands = |cluster: &str| GetRunRequest { delivery_id: first.delivery_id.clone(), cluster: cluster.to_owned() };
    let waiting = runs.get_run(stands("c1")).await.unwrap().into_inner();
    assert_eq!(waiting.status, i32::from(delivery::DeliveryStatus::Waiting));
    assert_eq!(runs.get_run(stands("c2")).await.unwrap_err().code(), Code::NotFound, "of another cluster");
    let cancel =
        |cluster: &str| CancelRunRequest { delivery_id: first.delivery_id.clone(), cluster: cluster.to_owned() };
    assert_eq!(runs.cancel_run(cancel("c2")).await.unwrap_err().code(), Code::NotFound);
    assert!(runs.cancel_run(cancel("c1")).await.unwrap().into_inner().cancelled);
    assert!(!runs.cancel_run(cancel("c1")).await.unwrap().into_inner().cancelled);
    let ended = runs.get_run(stands("c1")).await.unwrap().into_inner();
    assert_eq!(ended.status, i32::from(delivery::DeliveryStatus::Cancelled));
    // Nobody reads other events by this way.
    server.publish(support::event("e1", "x")).await.unwrap();
    let other = GetRunRequest { delivery_id: "d3.1".to_owned(), cluster: "c1".to_owned() };
    assert_eq!(runs.get_run(other).await.unwrap_err().code(), Code::NotFound);
    server.stop().await;
}

/// The Jobs that an assignment lets its run have.
fn attempts(assign: &agent::Assign) -> Value {
    let order: Value = match assign.event.as_ref().unwrap().data.as_ref().unwrap() {
        Data::BinaryData(data) => serde_json::from_slice(data).unwrap(),
        Data::TextData(text) => serde_json::from_str(text).unwrap(),
        Data::ProtoData(_) => panic!("an order is JSON"),
    };
    order["attempts"].clone()
}

#[tokio::test]
async fn a_run_has_as_many_attempts_as_it_says_and_its_last_lines_are_shown_while_it_runs() {
    let directory = Directory::new();
    let server = server(&directory, "platform: {attempts: 5}").await;
    let at = server.platform.unwrap();
    let mut agent = runner(&server, "b1").await;
    let channel = Channel::from_shared(server.agents.clone()).unwrap().connect().await.unwrap();
    let mut runs = RunServiceClient::new(channel);
    let mut says = submit("uid-1", "c1");
    says.spec_json = says.spec_json.replace("\"model\"", "\"maxRetries\":1,\"model\"");
    runs.submit_run(says).await.unwrap();
    let assign = agent.assignment().await;
    assert_eq!(attempts(&assign), 2, "one, and the one retry that its object allows");
    let mut other = submit("uid-2", "c1");
    other.spec_json = other.spec_json.replace("\"trader\"", "\"other\"");
    runs.submit_run(other).await.unwrap();
    assert_eq!(attempts(&agent.assignment().await), 5, "as the settings say");
    let mut too_many = submit("uid-3", "c1");
    too_many.spec_json = too_many.spec_json.replace("\"model\"", "\"maxRetries\":10,\"model\"");
    let refused = runs.submit_run(too_many).await.unwrap_err();
    assert!(refused.message().contains("maxRetries: is 10: expected 0 to 9"), "{refused}");

    let tell = |lines: &str| TellLogRequest {
        delivery_id: assign.delivery_id.clone(),
        cluster: "c1".to_owned(),
        token: assign.token,
        lines: lines.to_owned(),
    };
    let logs = format!("{TASKS}/uid-1/logs");
    runs.tell_log(tell("one\ntwo\n")).await.unwrap();
    runs.tell_log(tell("two\n\u{1b}[2Jthree\n")).await.unwrap();
    let (code, text) = ask(at, "GET", &logs, "", "").await;
    assert_eq!((code, text.as_str()), (200, "two\n[2Jthree\n"), "what moves a terminal is left out");
    for (wrong, code) in [
        (TellLogRequest { cluster: "c2".to_owned(), ..tell("x") }, Code::NotFound),
        (TellLogRequest { delivery_id: "d99.1".to_owned(), ..tell("x") }, Code::NotFound),
        (TellLogRequest { token: None, ..tell("x") }, Code::InvalidArgument),
        (TellLogRequest { token: Some(delivery::Token { epoch: 1, term: 9 }), ..tell("x") }, Code::FailedPrecondition),
        (tell(&"x".repeat(50_000)), Code::InvalidArgument),
    ] {
        assert_eq!(runs.tell_log(wrong).await.unwrap_err().code(), code);
    }
    let result = agent::Result {
        delivery_id: assign.delivery_id.clone(),
        token: assign.token,
        outcome: Some(agent::result::Outcome::Succeeded(delivery::Succeeded {})),
        output: json!({ "log": "all of it\n" }).to_string().into(),
        output_content_type: "application/json".to_owned(),
        ..Default::default()
    };
    agent.say(Up::Result(result)).await;
    agent.settled().await;
    let (_, text) = ask(at, "GET", &logs, "", "").await;
    assert_eq!(text, "all of it\n", "what its result says goes before");
    server.stop().await;
}
