//! Tasks through every door: labels and comments of GitHub, HTTP and gRPC. Each is one event, however often and by whichever door it
//! is asked for. And what GitHub says of what came of them.

use std::fmt::Write as _;

use crate::support;
use crate::support::{Agent, Directory, PATIENCE, Running, hello, http};
use hmac::{KeyInit, Mac};
use mindos_core::input::{EffectReport, Input};
use mindos_core::record::EffectOutcome;
use mindos_proto::agent::v1 as agent;
use mindos_proto::cloudevents::v1::cloud_event::Data;
use mindos_proto::delivery::v1 as delivery;
use mindos_proto::effect::v1::effect_service_client::EffectServiceClient;
use mindos_proto::effect::v1::{EffectFilter, ListEffectsRequest};
use mindos_proto::event::v1::{EventFilter, ListRequest};
use mindos_proto::rpc;
use mindos_proto::task::v1::task_service_client::TaskServiceClient;
use mindos_proto::task::v1::{self as task, Mode, TaskSpec};
use serde_json::{Value, json};
use tonic::Code;
use tonic::transport::Channel;

const SECRET: &str = "the secret of the webhook";

/// A server with these settings beside the webhook's secret.
async fn server(directory: &Directory, tasks: &str) -> Running {
    std::fs::create_dir_all(&directory.0).unwrap();
    let settings = directory.0.join("settings.yaml");
    std::fs::write(&settings, format!("github_secret: '{SECRET}'\n{tasks}\n")).unwrap();
    Running::with(directory, &["--settings", settings.to_str().unwrap()]).await
}

async fn deliver(server: &Running, event: &str, guid: &str, payload: &Value) -> (u16, Value) {
    let body = payload.to_string();
    let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(body.as_bytes());
    let mut headers =
        format!("content-type: application/json\r\nx-github-event: {event}\r\nx-github-delivery: {guid}\r\n");
    headers.push_str("x-hub-signature-256: sha256=");
    mac.finalize().into_bytes().iter().for_each(|byte| write!(headers, "{byte:02x}").unwrap());
    headers.push_str("\r\n");
    let (code, body) = http::post(server, "/webhooks/github", &headers, body.as_bytes()).await;
    (code, serde_json::from_str(&body).unwrap())
}

async fn create(server: &Running, body: &Value) -> (u16, Value) {
    let headers = "content-type: application/json\r\n";
    let (code, body) = http::post(server, "/api/v1/tasks", headers, body.to_string().as_bytes()).await;
    (code, serde_json::from_str(&body).unwrap())
}

async fn get(server: &Running, path: &str) -> (u16, Value) {
    let (code, body) = http::get(server, path).await;
    (code, serde_json::from_str(&body).unwrap())
}

fn labelled(sender: &str) -> Value {
    json!({
        "action": "labeled",
        "label": { "name": "ai-help" },
        "issue": { "number": 7, "state": "open", "user": { "login": "zoe" }, "author_association": "NONE" },
        "repository": { "full_name": "o/n", "html_url": "https://github.com/o/n", "url": "https://api.github.com/repos/o/n", "default_branch": "main" },
        "sender": { "login": sender, "type": "User" },
    })
}

fn commented(id: u64, body: &str, association: &str) -> Value {
    json!({
        "action": "created",
        "issue": { "number": 9, "state": "open", "title": "A change", "pull_request": { "url": "x" } },
        "comment": { "id": id, "body": body, "user": { "login": "ada", "type": "User" }, "author_association": association },
        "repository": { "full_name": "o/n", "html_url": "https://github.com/o/n", "url": "https://api.github.com/repos/o/n" },
        "sender": { "login": "ada", "type": "User" },
    })
}

/// Id and data of each task's event, the oldest first.
async fn tasks(server: &Running) -> Vec<(String, Value)> {
    let filter = EventFilter { r#type: "dev.mindos.task.requested".to_owned(), ..EventFilter::default() };
    let request = ListRequest { filter: Some(filter), include_data: true, page_size: 64, ..ListRequest::default() };
    let events = server.events().await.list(request).await.unwrap().into_inner().events;
    let read = |event: mindos_proto::event::v1::Event| {
        let event = event.event.unwrap();
        let Some(Data::BinaryData(data)) = event.data else { panic!("no data") };
        (event.id, serde_json::from_slice(&data).unwrap())
    };
    events.into_iter().rev().map(read).collect()
}

async fn metric(server: &Running, line: &str) -> u64 {
    let (_, text) = http::get(server, "/metrics").await;
    let value = text.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {line} in {text}")).parse().unwrap()
}

async fn coder(server: &Running) -> Agent {
    let mut hello = hello("b1", Vec::new());
    hello.generals = vec![agent::ServedGeneral { r#type: "coding-general".to_owned(), ..Default::default() }];
    let mut agent = Agent::dial(server, hello).await.unwrap();
    let general = agent::GeneralGrant { general: "coding-general".to_owned(), capacity: 4 };
    agent.say(agent::agent_message::Message::Grant(agent::Grant { generals: vec![general], last_assign: 0 })).await;
    agent
}

#[tokio::test]
async fn a_label_is_one_task_however_often_github_sends_it_and_goes_to_the_coding_general() {
    let directory = Directory::new();
    let server = server(&directory, "tasks: {}").await;
    let (code, first) = deliver(&server, "issues", "g1", &labelled("ada")).await;
    assert_eq!(code, 202, "{first}");
    assert_eq!((&first["task"]["duplicate"], &first["task"]["route"]), (&json!(false), &json!("task")), "{first}");
    // GitHub sends it again, and somebody else takes the label off and puts it on once more.
    let (code, again) = deliver(&server, "issues", "g1", &labelled("ada")).await;
    assert_eq!((code, &again["duplicate"], &again["task"]["duplicate"]), (202, &json!(true), &json!(true)));
    assert_eq!(again["task"]["event"], first["task"]["event"]);
    let (code, other) = deliver(&server, "issues", "g2", &labelled("bob")).await;
    assert_eq!((code, &other["duplicate"], &other["task"]["duplicate"]), (202, &json!(false), &json!(true)), "{other}");
    let found = tasks(&server).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].0, "o/n#7/plan");
    assert_eq!((&found[0].1["mode"], &found[0].1["issue_id"]), (&json!("plan"), &json!(7)));
    let mut agent = coder(&server).await;
    let assign = agent.assignment().await;
    assert_eq!((assign.lane.as_str(), assign.delivery_id), ("o/n/issue/7", format!("d{}.1", first["task"]["event"])));
    assert_eq!(metric(&server, "mindos_tasks_asked_total{outcome=\"taken\"}").await, 1);
    assert_eq!(metric(&server, "mindos_tasks_asked_total{outcome=\"duplicate\"}").await, 2);
    server.stop().await;
}

#[tokio::test]
async fn comments_of_those_who_may_write_are_commands_and_those_of_others_are_not() {
    let directory = Directory::new();
    let server = server(&directory, "tasks: {}").await;
    let (_, taken) = deliver(&server, "issue_comment", "c1", &commented(31, "/refine use the helper", "OWNER")).await;
    assert_eq!(taken["task"]["duplicate"], false, "{taken}");
    let (code, refused) =
        deliver(&server, "issue_comment", "c2", &commented(32, "/refine drop all tables", "NONE")).await;
    assert_eq!((code, &refused["task_ignored"]), (202, &json!("association")));
    let (_, talk) = deliver(&server, "issue_comment", "c3", &commented(33, "looks good, /refine it?", "OWNER")).await;
    assert!(talk.get("task").is_none() && talk.get("task_ignored").is_none(), "{talk}");
    let (_, approved) = deliver(&server, "issue_comment", "c4", &commented(34, "/approve", "COLLABORATOR")).await;
    assert_eq!(approved["task"]["duplicate"], false, "{approved}");
    let found = tasks(&server).await;
    let ids: Vec<&str> = found.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(ids, ["o/n#9/refine/31", "o/n#9/implement/34"]);
    assert_eq!(found[0].1["refine_request"], "use the helper");
    assert_eq!(metric(&server, "mindos_tasks_asked_total{outcome=\"association\"}").await, 1);
    server.stop().await;
}

#[tokio::test]
async fn nothing_on_github_is_a_task_unless_the_settings_say_so() {
    let directory = Directory::new();
    let server = server(&directory, "").await;
    let (code, answer) = deliver(&server, "issues", "g1", &labelled("ada")).await;
    assert_eq!((code, answer.get("task")), (202, None), "{answer}");
    assert!(tasks(&server).await.is_empty());
    // Who asks at the API is heard all the same.
    let (code, made) =
        create(&server, &json!({"repo_url": "https://github.com/o/n", "mode": "plan", "issue_id": 7})).await;
    assert_eq!((code, &made["trigger_user"], &made["status"]), (201, &json!("local"), &json!("waiting")), "{made}");
    server.stop().await;
}

#[tokio::test]
async fn a_task_over_http_is_made_shown_listed_and_cancelled() {
    let directory = Directory::new();
    let server = server(&directory, "tasks: {}").await;
    let wish =
        json!({"repo_url": "https://github.com/o/n.git", "mode": "plan", "issue_id": "7", "trigger_user": "ada"});
    let (code, made) = create(&server, &wish).await;
    assert_eq!((code, &made["id"], &made["duplicate"]), (201, &json!("o/n#7/plan"), &json!(false)), "{made}");
    let (code, again) = create(&server, &wish).await;
    assert_eq!((code, &again["duplicate"], &again["seq"]), (200, &json!(true), &made["seq"]));
    let mut changed = wish.clone();
    changed["base_branch"] = json!("next");
    let (code, conflict) = create(&server, &changed).await;
    assert_eq!((code, &conflict["error"]["status"]), (409, &json!("ALREADY_EXISTS")));
    changed["repeat"] = json!("2");
    let (code, more) = create(&server, &changed).await;
    assert_eq!((code, &more["id"]), (201, &json!("o/n#7/plan/2")), "{more}");

    let path = format!("/api/v1/tasks/{}", made["seq"]);
    let (code, shown) = get(&server, &path).await;
    assert_eq!(
        (code, &shown["issue_id"], &shown["deliveries"][0]["status"]),
        (200, &json!(7), &json!("waiting")),
        "{shown}"
    );
    let (_, list) = get(&server, "/api/v1/tasks?repository=o%2Fn&status=waiting&page_size=1").await;
    assert_eq!(list["tasks"][0]["id"], "o/n#7/plan/2");
    let next = list["next_page_token"].as_str().unwrap();
    let (_, list) = get(&server, &format!("/api/v1/tasks?repository=o/n&status=waiting&page_token={next}")).await;
    assert_eq!((list["tasks"][0]["id"].as_str(), list["next_page_token"].as_str()), (Some("o/n#7/plan"), Some("")));

    let request = format!("DELETE {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    for counts in [
        json!({"cancelled": 1, "requested": 0, "unchanged": 0}),
        json!({"cancelled": 0, "requested": 0, "unchanged": 1}),
    ] {
        let (code, body) = http::send(&server, request.as_bytes()).await;
        assert_eq!((code, serde_json::from_str::<Value>(&body).unwrap()), (200, counts));
    }
    assert_eq!(get(&server, &path).await.1["status"], "cancelled");
    // An event that is no task is none.
    let other = server.publish(support::event("e1", "{}")).await.unwrap().seq;
    for missing in [other, 9999] {
        let (code, error) = get(&server, &format!("/api/v1/tasks/{missing}")).await;
        assert_eq!((code, &error["error"]["message"]), (404, &json!(format!("task {missing} is not known"))));
    }
    server.stop().await;
}

#[tokio::test]
async fn what_is_not_accepted_is_named_by_its_field() {
    let directory = Directory::new();
    let server = server(&directory, "").await;
    let base = json!({"repo_url": "https://github.com/o/n", "mode": "plan", "issue_id": 7});
    for (name, value, field) in [
        ("repo_url", json!("ftp://x/o/n"), "repo_url"),
        ("mode", json!("sing"), "mode"),
        ("issue_id", json!("seven"), "issue_id"),
        ("issue_id", Value::Null, "issue_id"),
        ("colour", json!("red"), "colour"),
        ("repeat", json!("a/b"), "repeat"),
        ("base_branch", json!("-x"), "base_branch"),
    ] {
        let mut wish = base.clone();
        wish[name] = value;
        let (code, error) = create(&server, &wish).await;
        let details = error["error"]["details"].as_array().unwrap();
        let named = details.iter().find_map(|detail| detail["fieldViolations"][0]["field"].as_str());
        assert_eq!((code, named), (400, Some(field)), "{error}");
    }
    let (code, _) = http::post(&server, "/api/v1/tasks", "content-type: text/plain\r\n", b"{}").await;
    assert_eq!(code, 415);
    for (path, field) in
        [("/api/v1/tasks?colour=red", "colour"), ("/api/v1/tasks/x", "task"), ("/api/v1/tasks?page_size=9999", "")]
    {
        let (code, error) = get(&server, path).await;
        assert_eq!(code, 400, "{error}");
        assert!(error.to_string().contains(field), "{error}");
    }
    let mut client = TaskServiceClient::<Channel>::new(server.channel().await);
    let refused = client.create_task(task::CreateTaskRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let spec =
        TaskSpec { repo_url: "https://github.com/o/n".to_owned(), mode: Mode::Refine.into(), ..TaskSpec::default() };
    let refused =
        client.create_task(task::CreateTaskRequest { spec: Some(spec), ..Default::default() }).await.unwrap_err();
    let bad = rpc::Status::from(&refused).detail::<rpc::BadRequest>().unwrap();
    assert_eq!(bad.field_violations[0].field, "spec.pr_number");
    server.stop().await;
}

#[tokio::test]
async fn a_task_over_grpc_is_worked_on_and_shown_with_its_result() {
    let directory = Directory::new();
    let server = server(&directory, "").await;
    let mut agent = coder(&server).await;
    let mut client = TaskServiceClient::<Channel>::new(server.channel().await);
    let spec = TaskSpec {
        repo_url: "https://github.com/o/n".to_owned(),
        mode: Mode::Refine.into(),
        trigger_user: "ada".to_owned(),
        pr_number: 9,
        refine_request: "better".to_owned(),
        ..TaskSpec::default()
    };
    let request = task::CreateTaskRequest { spec: Some(spec.clone()), repeat: String::new() };
    let made = client.create_task(request).await.unwrap().into_inner();
    assert!(!made.duplicate);
    let assign = agent.assignment().await;
    assert_eq!(assign.lane, "o/n/pr/9");
    agent.succeed(&assign, "a commit").await;
    agent.settled().await;
    let key = Some(task::get_task_request::Key::Id("o/n#9/refine".to_owned()));
    let shown =
        client.get_task(task::GetTaskRequest { key, include_output: true }).await.unwrap().into_inner().task.unwrap();
    assert_eq!(shown.spec, Some(spec));
    assert_eq!(shown.deliveries[0].output.as_ref().unwrap().data, "a commit");
    let key = Some(task::cancel_task_request::Key::Seq(shown.seq));
    let late = client.cancel_task(task::CancelTaskRequest { key }).await.unwrap().into_inner();
    assert_eq!((late.cancelled, late.requested, late.unchanged), (0, 0, 1));
    let key = Some(task::get_task_request::Key::Id("o/n#1/plan".to_owned()));
    let none = client.get_task(task::GetTaskRequest { key, include_output: false }).await.unwrap_err();
    assert_eq!(none.code(), Code::NotFound);
    server.stop().await;
}

#[tokio::test]
async fn a_comment_that_was_taken_gets_one_receipt() {
    let directory = Directory::new();
    let server = server(&directory, "tasks: {}").await;
    for guid in ["c1", "c1", "c2"] {
        let (code, _) = deliver(&server, "issue_comment", guid, &commented(31, "/approve", "OWNER")).await;
        assert_eq!(code, 202);
    }
    deliver(&server, "issues", "g1", &labelled("ada")).await;
    let mut effects = EffectServiceClient::<Channel>::new(server.channel().await);
    let filter = EffectFilter { kind: "reaction".to_owned(), ..EffectFilter::default() };
    let request = ListEffectsRequest { filter: Some(filter), ..ListEffectsRequest::default() };
    let found = effects.list_effects(request).await.unwrap().into_inner().effects;
    let first: Vec<_> = found.iter().filter(|effect| effect.repeats.is_empty()).collect();
    assert_eq!(first.len(), 1, "{found:?}");
    assert_eq!((first[0].target.as_str(), first[0].key.as_str()), ("o/n#9", "intake/issue/31/eyes"));
    assert_eq!(first[0].general.as_ref().unwrap().name, "intake");
    server.stop().await;
}

#[tokio::test]
async fn a_merge_and_a_revert_of_our_pull_request_come_back_as_feedback_once_each() {
    const SHA: &str = "0123456789abcdef0123456789abcdef01234567";
    let directory = Directory::new();
    let server = server(&directory, "tasks: {}").await;
    let (_, asked) = deliver(&server, "issues", "g1", &labelled("ada")).await;
    let mut agent = coder(&server).await;
    let assign = agent.assignment().await;
    let wanted = |key: &str, kind: &str| delivery::Effect {
        key: key.to_owned(),
        kind: kind.to_owned(),
        target: "o/n".to_owned(),
        parameters_json: "{}".to_owned(),
        ..delivery::Effect::default()
    };
    let result = agent::Result {
        delivery_id: assign.delivery_id.clone(),
        token: assign.token,
        outcome: Some(agent::result::Outcome::Succeeded(delivery::Succeeded {})),
        effects: vec![wanted("k1", "branch"), wanted("k2", "pull_request")],
        ..Default::default()
    };
    agent.say(agent::agent_message::Message::Result(result)).await;
    let effects = agent.settled().await.effect_ids;
    assert_eq!(effects.len(), 2);
    // What the broker reports once GitHub has answered it.
    for (effect, observed) in
        effects.iter().zip([json!({"sha": SHA, "branch": "b"}), json!({"number": 9, "id": 3, "sha": SHA})])
    {
        let report = EffectReport::Ended(EffectOutcome::Done { observed: observed.to_string().into() });
        server.plane.offer([Input::Effect { effect: effect.parse().unwrap(), report }]).unwrap();
    }
    let merged = json!({
        "action": "closed", "number": 9, "sender": {"login": "ada", "type": "User"},
        "repository": {"full_name": "o/n", "html_url": "https://github.com/o/n", "url": "https://api.github.com/repos/o/n"},
        "pull_request": {"number": 9, "merged": true, "merge_commit_sha": "f".repeat(40), "base": {"repo": {"id": 1}}, "head": {"repo": {"id": 1}}},
    });
    let reverted = json!({
        "ref": "refs/heads/main", "sender": {"login": "bob", "type": "User"},
        "repository": {"full_name": "o/n", "default_branch": "main", "url": "https://api.github.com/repos/o/n"},
        "commits": [{"id": "1".repeat(40), "message": format!("Revert\n\nThis reverts commit {}.", "f".repeat(40))}],
    });
    // A pull request of somebody else, and one of the same number elsewhere.
    let mut other = merged.clone();
    other["pull_request"]["number"] = json!(10);
    let mut elsewhere = merged.clone();
    elsewhere["repository"]["full_name"] = json!("else/where");
    for (guid, event, payload) in [
        ("m0", "pull_request", &other),
        ("m1", "pull_request", &elsewhere),
        ("m2", "pull_request", &merged),
        ("m2", "pull_request", &merged),
        ("m3", "pull_request", &merged),
        ("p1", "push", &reverted),
    ] {
        assert_eq!(deliver(&server, event, guid, payload).await.0, 202);
    }
    let filter = EventFilter { source: "/github/feedback".to_owned(), ..EventFilter::default() };
    let began = std::time::Instant::now();
    let found = loop {
        let request = ListRequest { filter: Some(filter.clone()), ..ListRequest::default() };
        let events = server.events().await.list(request).await.unwrap().into_inner().events;
        if events.len() >= 2 {
            break events;
        }
        assert!(began.elapsed() < PATIENCE, "{events:?}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    let mut said: Vec<_> =
        found.iter().map(|event| event.event.clone().unwrap()).map(|it| (it.r#type, it.id)).collect();
    said.sort();
    let expected = [
        ("dev.mindos.feedback.accepted".to_owned(), "pull/o/n#9/merged".to_owned()),
        ("dev.mindos.feedback.reverted".to_owned(), format!("commit/{}/reverted/{}", "f".repeat(40), "1".repeat(40))),
    ];
    assert_eq!(said, expected);
    let subject = format!("d{}.1", asked["task"]["event"]);
    assert!(found.iter().all(|event| event.event.as_ref().unwrap().attributes["subject"].attr.as_ref().is_some_and(|attr| {
        matches!(attr, mindos_proto::cloudevents::v1::cloud_event::cloud_event_attribute_value::Attr::CeString(text) if *text == subject)
    })));
    assert!(found.iter().all(|event| event.deliveries.is_empty()), "nobody is asked to work on it");
    server.stop().await;
}

/// A GitHub that knows of reactions alone, and counts how often it is asked.
async fn reactions(list: Value) -> (String, std::sync::Arc<std::sync::atomic::AtomicUsize>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let api = format!("http://{}", listener.local_addr().unwrap());
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = std::sync::Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.unwrap() > 0 {}
            let head = String::from_utf8(head).unwrap();
            assert!(head.to_ascii_lowercase().contains("authorization: bearer a-token"), "{head}");
            let (code, body) = match head.starts_with("GET /repos/o/n/issues/comments/17/reactions") {
                true => (200, list.to_string()),
                false => (404, json!({"message": "Not Found"}).to_string()),
            };
            count.fetch_add(usize::from(code == 200), std::sync::atomic::Ordering::SeqCst);
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 {code} X\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (api, asked)
}

#[tokio::test]
async fn reactions_to_our_comments_are_asked_for_and_published_once() {
    let user = |login: &str, kind: &str| json!({"login": login, "type": kind});
    let (api, asked) = reactions(json!([
        {"id": 1, "content": "+1", "user": user("ada", "User")},
        {"id": 2, "content": "eyes", "user": user("ada", "User")},
        {"id": 3, "content": "heart", "user": user("mindos", "User")},
        {"id": 4, "content": "-1", "user": user("ci[bot]", "Bot")},
        {"id": 5, "content": "confused", "user": user("bob", "User")},
    ]))
    .await;
    let directory = Directory::new();
    std::fs::create_dir_all(&directory.0).unwrap();
    let token = directory.0.join("token");
    std::fs::write(&token, "a-token").unwrap();
    let settings = format!(
        "tasks: {{}}\ngithub: {{api: '{api}', token_file: {token:?}, author: mindos}}\neffects: {{mode: off}}\n\
         feedback: {{every: 100ms, pace: 10ms}}"
    );
    let server = server(&directory, &settings).await;
    deliver(&server, "issues", "g1", &labelled("ada")).await;
    let mut agent = coder(&server).await;
    let assign = agent.assignment().await;
    let comment = delivery::Effect {
        key: "k".to_owned(),
        kind: "comment".to_owned(),
        target: "o/n#7".to_owned(),
        parameters_json: json!({"body": "a plan"}).to_string(),
        ..delivery::Effect::default()
    };
    let result = agent::Result {
        delivery_id: assign.delivery_id.clone(),
        token: assign.token,
        outcome: Some(agent::result::Outcome::Succeeded(delivery::Succeeded {})),
        effects: vec![comment],
        ..Default::default()
    };
    agent.say(agent::agent_message::Message::Result(result)).await;
    let effect = agent.settled().await.effect_ids[0].parse().unwrap();
    let report =
        EffectReport::Ended(EffectOutcome::Done { observed: json!({"id": 17, "number": 7}).to_string().into() });
    server.plane.offer([Input::Effect { effect, report }]).unwrap();
    let filter = EventFilter { source: "/github/feedback".to_owned(), ..EventFilter::default() };
    let said = async || {
        let request = ListRequest { filter: Some(filter.clone()), ..ListRequest::default() };
        let events = server.events().await.list(request).await.unwrap().into_inner().events;
        let mut said: Vec<_> = events.into_iter().map(|it| it.event.unwrap()).map(|it| (it.r#type, it.id)).collect();
        said.sort();
        said
    };
    let began = std::time::Instant::now();
    while said().await.len() < 2 || asked.load(std::sync::atomic::Ordering::SeqCst) < 4 {
        assert!(began.elapsed() < PATIENCE, "{:?}", said().await);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let expected = [("accepted", 1), ("dismissed", 5)]
        .map(|(word, id)| (format!("dev.mindos.feedback.{word}"), format!("comment/17/reaction/{id}")));
    assert_eq!(said().await, expected, "neither our own, nor a program's, nor what says nothing");
    server.stop().await;
}
