//! Results leave: signed, in order, at least once over failures and restarts, and a sink that is dead holds up nobody.

use std::sync::{Arc, Mutex};

use crate::support::{Agent, Directory, PATIENCE, Running, event};
use axum::Router;
use axum::extract::State;
use axum::routing::post;
use bytes::Bytes;
use hmac::{KeyInit, Mac};
use http::{HeaderMap, Method, StatusCode};
use mindos_outgoing::{Outgoing, Request, Target};
use mindos_proto::agent::v1 as agent;
use mindos_proto::agent::v1::agent_message::Message as Up;
use mindos_proto::delivery::v1 as delivery;
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// Takes messages; refuses as it is told.
#[derive(Clone)]
struct Receiver {
    taken: mpsc::UnboundedSender<(HeaderMap, Bytes)>,
    /// Answers to come, from the end; 204 when there are none.
    refusals: Arc<Mutex<Vec<u16>>>,
}

struct Inbox {
    url: String,
    messages: mpsc::UnboundedReceiver<(HeaderMap, Bytes)>,
    refusals: Arc<Mutex<Vec<u16>>>,
}

async fn receive(State(receiver): State<Receiver>, headers: HeaderMap, body: Bytes) -> StatusCode {
    if let Some(refusal) = receiver.refusals.lock().unwrap().pop() {
        return StatusCode::from_u16(refusal).unwrap();
    }
    receiver.taken.send((headers, body)).unwrap();
    StatusCode::NO_CONTENT
}

impl Inbox {
    async fn start() -> Inbox {
        let (taken, messages) = mpsc::unbounded_channel();
        let refusals = Arc::default();
        let receiver = Receiver { taken, refusals: Arc::clone(&refusals) };
        let router = Router::new().route("/hook", post(receive)).with_state(receiver);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        tokio::spawn(async { axum::serve(listener, router).await });
        Inbox { url, messages, refusals }
    }

    async fn next(&mut self) -> (HeaderMap, Value) {
        let received = tokio::time::timeout(PATIENCE, self.messages.recv()).await.expect("no message came");
        let (headers, body) = received.unwrap();
        verify(&headers, &body);
        (headers, serde_json::from_slice(&body).unwrap())
    }
}

/// Checks the signature of Standard Webhooks, where there is one.
fn verify(headers: &HeaderMap, body: &[u8]) {
    let Some(signature) = headers.get("webhook-signature") else { return };
    let text = |name: &str| headers[name].to_str().unwrap().to_owned();
    let sign = |secret: &str| {
        let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).unwrap();
        mac.update(format!("{}.{}.", text("webhook-id"), text("webhook-timestamp")).as_bytes());
        mac.update(body);
        mac.finalize().into_bytes()
    };
    let encoded: Vec<&str> =
        signature.to_str().unwrap().split(' ').map(|one| one.strip_prefix("v1,").unwrap()).collect();
    assert_eq!(encoded, ["next", "old"].map(|secret| encode(&sign(secret))));
}

fn encode(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let shown = char::from(DIGITS[(bits >> (18 - 6 * digit) & 63) as usize]);
            text.push(if digit <= chunk.len() { shown } else { '=' });
        }
    }
    text
}

async fn started(directory: &Directory, sinks: &str) -> Running {
    std::fs::create_dir_all(&directory.0).unwrap();
    let settings = directory.0.join("settings.yaml");
    std::fs::write(&settings, format!("sinks:\n{sinks}")).unwrap();
    let server = Running::with(directory, &["--settings", settings.to_str().unwrap()]).await;
    let named = sinks.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   ")).count();
    // A sink begins with what comes after it: wait until all have begun.
    while listed(&server).await.iter().filter(|sink| sink["next_seq"] != json!(0)).count() < named {
        tokio::task::yield_now().await;
    }
    server
}

async fn get(server: &Running, path: &str) -> Bytes {
    let target = Target::parse(&server.api, false).unwrap().join(path).unwrap();
    let request = Request { answer_max: 1 << 20, ..Request::new(Method::GET, target) };
    Outgoing::new().send(request).await.unwrap().body
}

async fn listed(server: &Running) -> Vec<Value> {
    serde_json::from_slice(&get(server, "/sinks").await).unwrap()
}

async fn work(server: &Running, agent: &mut Agent, id: &str, output: &str) {
    server.publish(event(id, "x")).await.unwrap();
    let assign = agent.assignment().await;
    agent.succeed(&assign, output).await;
    agent.settled().await;
}

#[tokio::test]
async fn results_and_notices_leave_signed_and_in_order_over_failures() {
    let directory = Directory::new();
    let mut ops = Inbox::start().await;
    let mut hook = Inbox::start().await;
    let sinks = format!(
        "  ops: {{url: '{}', secret: next, previous: old}}\n  hook: {{url: '{}', format: webhook, secret: next, previous: old, on: [parked], \
         headers: {{X-Team: gears}}}}\n  elsewhere: {{url: '{}', routes: [no-such-route]}}\n  dead: {{url: 'http://127.0.0.1:1/'}}\n",
        ops.url, hook.url, hook.url
    );
    let server = started(&directory, &sinks).await;
    let mut agent = Agent::ready(&server, "b1", 1).await;

    // Fails twice, and is sent again before what comes after it.
    ops.refusals.lock().unwrap().extend([503, 500]);
    work(&server, &mut agent, "e1", "one").await;
    work(&server, &mut agent, "e2", "two").await;
    let (headers, first) = ops.next().await;
    assert_eq!(headers["content-type"], "application/cloudevents+json");
    assert_eq!((&first["type"], &first["specversion"]), (&json!("dev.mindos.delivery.succeeded"), &json!("1.0")));
    let data = &first["data"];
    assert_eq!((&data["output"], &data["event"]["id"]), (&json!("one"), &json!("e1")));
    assert_eq!(data["general"], json!({ "cluster": "c1", "name": "general-purpose-general" }));
    assert_eq!((&data["route"], &first["route"]), (&json!("default"), &json!("default")));
    assert_eq!(ops.next().await.1["data"]["output"], "two");

    // A message that is refused for good is passed over.
    ops.refusals.lock().unwrap().push(422);
    work(&server, &mut agent, "e3", "three").await;
    server.publish(event("e4", "x")).await.unwrap();
    let assign = agent.assignment().await;
    let failed = delivery::Failure { kind: delivery::FailureKind::Poison.into(), ..Default::default() };
    let result = agent::Result {
        delivery_id: assign.delivery_id.clone(),
        token: assign.token,
        outcome: Some(agent::result::Outcome::Failure(failed)),
        ..Default::default()
    };
    agent.say(Up::Result(result)).await;
    let (_, parked) = ops.next().await;
    assert_eq!((&parked["type"], &parked["data"]["reason"]), (&json!("dev.mindos.delivery.parked"), &json!("poison")));
    let (headers, data) = hook.next().await;
    assert_eq!(
        (&headers["x-team"], &headers["content-type"]),
        (&"gears".parse().unwrap(), &"application/json".parse().unwrap())
    );
    assert_eq!((&data["delivery"], &data["outcome"]), (&json!(assign.delivery_id), &json!("parked")));

    let shown = listed(&server).await;
    let of = |name: &str| shown.iter().find(|sink| sink["name"] == json!(name)).unwrap().clone();
    assert_eq!(
        ["sent", "attempts_failed", "refused"].map(|count| of("ops")[count].clone()),
        [json!(3), json!(2), json!(1)]
    );
    assert_eq!((&of("dead")["state"], &of("dead")["sent"]), (&json!("failing"), &json!(0)));
    assert!(of("dead")["reason"].as_str().unwrap().contains("127.0.0.1:1"), "{}", of("dead"));
    assert_eq!(of("elsewhere")["sent"], json!(0));
    let metrics = String::from_utf8(get(&server, "/metrics").await.to_vec()).unwrap();
    for line in ["mindos_sink_up{sink=\"dead\"} 0", "mindos_sink_sent_total{sink=\"ops\"} 3"] {
        assert!(metrics.lines().any(|found| found == line), "{line} in\n{metrics}");
    }
    assert!(hook.messages.try_recv().is_err());
    server.stop().await;
}

#[tokio::test]
async fn what_could_not_leave_leaves_after_a_restart() {
    let directory = Directory::new();
    let mut ops = Inbox::start().await;
    let sinks = format!("  ops: {{url: '{}'}}\n", ops.url);
    ops.refusals.lock().unwrap().extend([503; 1000]);
    let server = started(&directory, &sinks).await;
    let mut agent = Agent::ready(&server, "b1", 1).await;
    for number in 1..=3 {
        work(&server, &mut agent, &format!("e{number}"), &number.to_string()).await;
    }
    drop(agent);
    server.stop().await;

    ops.refusals.lock().unwrap().clear();
    let server = started(&directory, &sinks).await;
    for number in 1..=3 {
        let (_, message) = ops.next().await;
        assert_eq!(message["data"]["output"], json!(number.to_string()));
        assert_eq!(message["data"]["event"]["id"], json!(format!("e{number}")));
    }
    // What was taken and not yet known to be may come again: wait until it is.
    while listed(&server).await[0]["sent"] != json!(3) {
        tokio::task::yield_now().await;
    }
    server.stop().await;
    // All of it is known to be taken, so nothing comes again.
    let server = started(&directory, &sinks).await;
    let mut agent = Agent::ready(&server, "b2", 1).await;
    work(&server, &mut agent, "e4", "4").await;
    assert_eq!(ops.next().await.1["data"]["output"], "4");
    server.stop().await;
}
