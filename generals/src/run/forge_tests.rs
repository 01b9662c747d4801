//! A run that reads a forge: an API that a test plays on this machine.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mindos_model::{FailureKind, Secret, Timestamp};
use mindos_outgoing::Outgoing;
use mindos_sdk::{Ceilings, RepositoryAccess, Usage};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::brain::Fake;
use super::{Brain, Run, Steps};
use crate::model::{Ask, Message, Meter, ModelFailure, Said, Stop};
use crate::{Event, Profile, Report};

const HEAD: &str = "0123456789012345678901234567890123456789";
const BASE: &str = "9876543210987654321098765432109876543210";

/// Answers by path, without the query; 404 for all else.
type Paths = Arc<Mutex<BTreeMap<String, (u16, Value)>>>;

async fn api(paths: Paths) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let paths = paths.clone();
            let answer = service_fn(move |request: Request<Incoming>| {
                assert_eq!(request.headers()["authorization"], "Bearer t0k");
                assert_eq!(request.method(), "GET", "nothing is written");
                let (status, body) =
                    paths.lock().unwrap().get(request.uri().path()).cloned().unwrap_or((404, json!({})));
                let response =
                    Response::builder().status(status).body(Full::new(Bytes::from(body.to_string()))).unwrap();
                async move { Ok::<_, Infallible>(response) }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), answer));
        }
    });
    url
}

fn paths() -> Paths {
    let pull = json!({"number": 7, "title": "Add a thing", "body": "It adds a thing.", "state": "open", "user": {"login": "ann"},
        "head": {"ref": "feat/x", "sha": HEAD, "repo": {"full_name": "o/r"}}, "base": {"ref": "main", "sha": BASE, "repo": {"full_name": "o/r"}},
        "labels": [{"name": "carried"}], "html_url": "https://github.com/o/r/pull/7"});
    let files = json!([{"filename": "src/a.rs", "status": "modified", "additions": 1, "deletions": 0, "patch": "@@ -1 +1,2 @@\n fn a() {}\n+fn b() {}"}]);
    let commits = json!([{"sha": HEAD, "commit": {"message": "feat: a thing", "author": {"name": "Ann", "email": "a@b", "date": "2026-01-01T00:00:00Z"}}, "parents": []}]);
    let repo = |path: &str| format!("/repos/o/r{path}");
    let paths = [
        (repo("/pulls/7"), pull),
        (repo("/pulls/7/files"), files),
        (repo("/pulls/7/commits"), commits),
        (repo("/issues/7/comments"), json!([])),
        (repo("/labels"), json!([{"name": "area: core", "description": ""}])),
        (
            repo(&format!("/git/trees/{HEAD}")),
            json!({"tree": [{"path": "src/a.rs", "type": "blob", "size": 20}], "truncated": false}),
        ),
    ];
    Arc::new(Mutex::new(paths.into_iter().map(|(path, body)| (path, (200, body))).collect()))
}

struct Model(Mutex<Vec<Ask>>);

impl Fake for Model {
    fn answer<'a>(&'a self, ask: &'a Ask) -> Pin<Box<dyn Future<Output = Result<Said, ModelFailure>> + Send + 'a>> {
        self.0.lock().unwrap().push(ask.clone());
        let finding = json!({"severity": "warning", "title": "b is not used", "body": "", "path": "src/a.rs", "line": 2, "suggestion": null});
        let answer = json!({"summary": "one remark", "verdict": "minor", "findings": [finding], "past": []});
        let usage = Usage {
            model: "fake:m".into(),
            input_tokens: 1000,
            output_tokens: 20,
            cost_micros: 1_500,
            calls: 1,
            ..Usage::default()
        };
        let said = Said { text: answer.to_string(), calls: Vec::new(), stop: Stop::End, usage, model: "fake:m".into() };
        Box::pin(std::future::ready(Ok(said)))
    }
}

fn go(paths: &Paths, brain: Brain, sender: &str) -> Result<Report, mindos_sdk::Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let api_url = api(paths.clone()).await;
        let access = RepositoryAccess {
            repository: "o/r".into(),
            // Nobody answers there: then a listing has to do.
            clone_url: format!("{api_url}/nothing.git"),
            api_url,
            token: Secret::new("t0k"),
            expires_at: None,
            author: "mindos[bot]".into(),
        };
        let data = json!({"action": "opened", "repository": {"full_name": "o/r"}, "sender": {"login": sender},
            "pull_request": {"number": 7, "title": "Add a thing", "body": "It adds a thing.", "head": {"ref": "feat/x", "sha": HEAD}, "base": {"ref": "main"}}});
        let meter = Meter::own(Ceilings::default());
        let run = Run {
            profile: Arc::new(Profile::stock("code-review-general").unwrap()),
            event: Arc::new(Event { event_type: "pr_created".into(), data, ..Event::default() }),
            outgoing: Outgoing::new(),
            access: Some(access),
            brain,
            steps: Steps::alone(meter.clone(), 3),
            meter,
            hands: crate::coding::Hands::default(),
            now: Timestamp(0),
        };
        run.go().await
    })
}

fn body(report: &Report) -> &str {
    report.effects.iter().find(|it| it.kind == "comment").unwrap().parameters["body"].as_str().unwrap()
}

#[test]
fn a_change_is_read_shown_to_the_model_and_remarked_on() {
    let (paths, model) = (paths(), Arc::new(Model(Mutex::default())));
    let report = go(&paths, Brain::Fake(model.clone()), "ann").unwrap();
    let asked = model.0.lock().unwrap()[0].clone();
    let Message::User(text) = &asked.messages[0] else { panic!() };
    assert!(text.contains("    2 +fn b() {}") && text.contains("feat: a thing"), "{text}");
    let kinds: Vec<_> = report.effects.iter().map(|it| it.kind).collect();
    assert_eq!(kinds, ["comment", "review", "check"]);
    let review = &report.effects[1].parameters;
    assert_eq!(
        (&review["commit"], &review["comments"][0]["line"], &review["comments"][0]["path"]),
        (&json!(HEAD), &json!(2), &json!("src/a.rs"))
    );
    assert!(body(&report).contains("**warning** `src/a.rs:2` b is not used"), "{}", body(&report));
    assert!(body(&report).contains("fake:m asked 1 times: 1000 tokens read, 20 written") || report.usage.is_empty());
    assert!(report.statement.starts_with("Computed from the event and the repository"), "{}", report.statement);

    // The next run reads what this one left, from a comment of our own author alone.
    let comment = |author: &str, body: &str| json!({"id": 1, "user": {"login": author}, "body": body, "author_association": "NONE", "html_url": "x", "created_at": "2026-01-01T00:00:00Z"});
    let left = body(&report).to_owned();
    let say = |author: &str| {
        let comments = (200, json!([comment(author, &left)]));
        paths.lock().unwrap().insert("/repos/o/r/issues/7/comments".to_owned(), comments);
    };
    say("mindos[bot]");
    let again = go(&paths, Brain::Fake(model.clone()), "ann").unwrap();
    let kinds: Vec<_> = again.effects.iter().map(|it| it.kind).collect();
    assert_eq!(kinds, ["comment", "check"], "what was said on a line is not said again");
    let without = go(&paths, Brain::none(), "ann").unwrap();
    assert!(
        body(&without).contains("Found before, not looked at again") && body(&without).contains("b is not used"),
        "{}",
        body(&without)
    );
    say("mallory");
    let without = go(&paths, Brain::none(), "ann").unwrap();
    assert!(!body(&without).contains("b is not used"), "{}", body(&without));
}

#[test]
fn what_is_missing_is_left_out_and_what_fails_for_now_fails_the_attempt() {
    let paths = paths();
    paths.lock().unwrap().clear();
    let report = go(&paths, Brain::none(), "ann").unwrap();
    assert!(report.statement.starts_with("Computed from the event alone"), "{}", report.statement);
    paths.lock().unwrap().insert("/repos/o/r/pulls/7".to_owned(), (401, json!({})));
    assert_eq!(go(&paths, Brain::none(), "ann").unwrap_err().kind, FailureKind::Transient);
    // By ourselves: nothing is done about what we did.
    assert_eq!(go(&self::paths(), Brain::none(), "mindos[bot]").unwrap().effects, []);
}
