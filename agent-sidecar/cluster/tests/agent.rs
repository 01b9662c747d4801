//! An agent between an API server and a control plane that are played, and real generals.

#[path = "../../../sdk/rust/tests/plane/mod.rs"]
mod plane;

mod api;

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::Api;
use bytes::Bytes;
use clap::Parser;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use mindos_cluster_agent::{Config, run};
use mindos_proto::agent::v1::agent_message::Message as Up;
use mindos_proto::agent::v1::result::Outcome;
use mindos_proto::agent::v1::{Hello, LeaseClaim, Verdict};
use mindos_sdk::Event;
use plane::{Plane, Session, assign};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    config: Config,
}

/// A general that answers when it is told to, and remembers what it was asked.
#[derive(Clone)]
struct Fake {
    asked: Arc<Mutex<Vec<Value>>>,
    may_answer: Arc<tokio::sync::Semaphore>,
}

async fn fake() -> (Fake, u16) {
    let fake = Fake { asked: Arc::default(), may_answer: Arc::new(tokio::sync::Semaphore::new(0)) };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let general = fake.clone();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let general = general.clone();
            let service = hyper::service::service_fn(move |request| answer(general.clone(), request));
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service));
        }
    });
    (fake, port)
}

async fn answer(general: Fake, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    match request.uri().path() {
        // It has no word of its own for being ready.
        "/ready" => return Ok(Response::builder().status(404).body(Full::default()).unwrap()),
        "/health" => return Ok(Response::new(Full::default())),
        _ => {}
    }
    let body = request.into_body().collect().await.unwrap().to_bytes();
    general.asked.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
    general.may_answer.acquire().await.unwrap().forget();
    Ok(Response::new(Full::from("{\"status\":\"processed\"}")))
}

struct Agent {
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Agent {
    fn start(api: &Api, plane: &Plane, instance: &str) -> Agent {
        let kubeconfig = api.kubeconfig.display().to_string();
        let args = [
            "agent",
            "--cluster",
            "c1",
            "--control-plane",
            &plane.url,
            "--kubeconfig",
            &kubeconfig,
            "--instance",
            instance,
            "--listen",
            "127.0.0.1:0",
            "--drain-grace",
            "2",
            "--lease-duration",
            "5",
            "--slots",
            "3",
        ];
        let Args { config } = Args::parse_from(args);
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            run(config, stopped).await.unwrap();
        });
        Agent { stop: Some(stop), task }
    }

    async fn end(mut self) {
        let _ = self.stop.take().unwrap().send(());
        timeout(Duration::from_secs(20), self.task).await.expect("the agent did not end").unwrap();
    }
}

fn pod(name: &str, port: u16) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "agents", "uid": name, "labels": {"app": "llm-general", "type": "triage"}},
        "spec": {"nodeName": "n1", "containers": [{"name": "general", "ports": [{"containerPort": port}]}]},
        "status": {"phase": "Running", "podIP": "127.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
    })
}

fn node() -> Value {
    json!({"metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "eu-west-1a"}}})
}

async fn welcome(plane: &mut Plane) -> (Session, Hello) {
    plane.welcome(|_: &LeaseClaim| Verdict::Keep).await
}

fn event() -> mindos_proto::cloudevents::v1::CloudEvent {
    Event::new("https://github.com/o/r", "e 1", "com.github.pull_request.opened")
        .kind("pr_created")
        .json("{}")
        .into_message()
}

async fn draining(session: &mut Session) {
    loop {
        if let Up::Draining(_) = session.next().await.expect("the stream ended") {
            return;
        }
    }
}

#[tokio::test]
async fn a_ready_pod_is_served_over_http_until_it_terminates() {
    let (general, port) = fake().await;
    let api = Api::start("served").await;
    api.put("nodes", node());
    api.put("pods", pod("triage-0", port));
    let mut plane = Plane::start().await;
    let agent = Agent::start(&api, &plane, "agent-0");

    let (mut session, hello) = welcome(&mut plane).await;
    let (general_, labels) = (&hello.generals[0], &hello.generals[0].labels);
    assert_eq!((&*hello.instance_id, &*hello.namespace, &*hello.pod), ("triage-0.agents", "agents", "triage-0"));
    assert_eq!((&*general_.name, &*general_.r#type), ("triage-general", "triage-general"));
    assert_eq!(labels["topology.kubernetes.io/zone"], "eu-west-1a");
    assert_eq!(labels["kubernetes.io/hostname"], "n1");
    assert_eq!(session.granted().await.generals[0].capacity, 3);
    assert_eq!(api.holder(), "agent-0");

    session.send(assign("d1.1", 1, "triage-general", event()));
    while general.asked.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    // It is deleted in mid-work: nothing new, and what runs ends.
    let mut terminating = pod("triage-0", port);
    terminating["metadata"]["deletionTimestamp"] = json!("2026-11-20T12:00:00Z");
    terminating["metadata"]["deletionGracePeriodSeconds"] = json!(30);
    api.put("pods", terminating.clone());
    draining(&mut session).await;
    api.remove("pods", terminating);
    general.may_answer.add_permits(1);
    let result = session.result().await;
    assert!(matches!(result.outcome, Some(Outcome::Succeeded(_))), "{result:?}");
    assert_eq!(general.asked.lock().unwrap()[0]["general_info"]["instance"], "triage-0.agents");
    session.settle("d1.1", 1);
    while session.next().await.is_some() {}

    agent.end().await;
    assert_eq!(api.holder(), "");
}

#[tokio::test]
async fn an_api_server_that_is_away_changes_nothing_and_is_read_again() {
    let (general, port) = fake().await;
    general.may_answer.add_permits(10);
    let api = Api::start("away").await;
    api.put("pods", pod("triage-0", port));
    let mut plane = Plane::start().await;
    let agent = Agent::start(&api, &plane, "agent-0");
    let (mut session, _) = welcome(&mut plane).await;
    session.granted().await;

    api.set_away(true);
    api.remove("pods", pod("triage-0", port));
    api.put("pods", pod("triage-1", port));
    session.send(assign("d1.1", 1, "triage-general", event()));
    let result = session.result().await;
    assert!(matches!(result.outcome, Some(Outcome::Succeeded(_))), "served while the API server is away: {result:?}");
    session.settle("d1.1", 1);

    api.set_away(false);
    let (mut other, hello) = welcome(&mut plane).await;
    assert_eq!(hello.instance_id, "triage-1.agents");
    draining(&mut session).await;
    other.granted().await;
    agent.end().await;
}

#[tokio::test]
async fn of_two_agents_one_is_at_work_and_the_other_follows_at_once() {
    let (_general, port) = fake().await;
    let api = Api::start("two").await;
    api.put("pods", pod("triage-0", port));
    let mut plane = Plane::start().await;
    let first = Agent::start(&api, &plane, "agent-0");
    let (mut session, hello) = welcome(&mut plane).await;
    session.granted().await;
    let second = Agent::start(&api, &plane, "agent-1");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(api.holder(), "agent-0");

    first.end().await;
    let (mut session, again) = welcome(&mut plane).await;
    assert_eq!(again.instance_id, hello.instance_id, "the same pod is the same instance, whoever serves it");
    assert_ne!(again.boot_id, hello.boot_id);
    session.granted().await;
    assert_eq!(api.holder(), "agent-1");
    second.end().await;
}
