//! Notices of parked work: told in order, over outages and restarts, at the pace of their place, and never in anybody's way.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::{Agent, Directory, PATIENCE, Running, event, http};
use ::http::{Method, StatusCode, Uri};
use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use mindos_outgoing::{Outgoing, Request, Target};
use mindos_proto::agent::v1 as agent;
use mindos_proto::agent::v1::agent_message::Message as Up;
use mindos_proto::delivery::v1 as delivery;
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// A place on this machine. Answers 503 while it is down, and what it was told to once.
#[derive(Clone)]
struct Place {
    told: mpsc::UnboundedSender<(String, Value)>,
    down: Arc<Mutex<bool>>,
    /// Answers this, and counts.
    refusal: Arc<Mutex<Option<(StatusCode, u32)>>>,
    /// Answers 429 once, and says in its body for how long.
    limit: Arc<Mutex<Option<f64>>>,
}

async fn receive(State(place): State<Place>, uri: Uri, body: Bytes) -> Response {
    if *place.down.lock().unwrap() {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    if let Some((status, count)) = &mut *place.refusal.lock().unwrap() {
        *count += 1;
        return status.into_response();
    }
    if let Some(seconds) = place.limit.lock().unwrap().take() {
        return (StatusCode::TOO_MANY_REQUESTS, json!({ "retry_after": seconds }).to_string()).into_response();
    }
    place.told.send((uri.path().to_owned(), serde_json::from_slice(&body).unwrap())).unwrap();
    StatusCode::NO_CONTENT.into_response()
}

struct Told {
    url: String,
    place: Place,
    messages: mpsc::UnboundedReceiver<(String, Value)>,
}

impl Told {
    async fn start() -> Told {
        let (told, messages) = mpsc::unbounded_channel();
        let place = Place { told, down: Arc::default(), refusal: Arc::default(), limit: Arc::default() };
        let router = Router::new().fallback(receive).with_state(place.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async { axum::serve(listener, router).await });
        Told { url, place, messages }
    }

    async fn next(&mut self) -> (String, Value) {
        tokio::time::timeout(2 * PATIENCE, self.messages.recv()).await.expect("nobody was told").unwrap()
    }
}

async fn listed(server: &Running) -> Vec<Value> {
    let target = Target::parse(&server.api, false).unwrap().join("/sinks").unwrap();
    let answer = Outgoing::new().send(Request::new(Method::GET, target)).await.unwrap();
    serde_json::from_slice(&answer.body).unwrap()
}

/// Waits until the only sink stands so.
async fn stands(server: &Running, is_so: impl Fn(&Value) -> bool) -> Value {
    let so = async {
        loop {
            let mut shown = listed(server).await;
            if is_so(&shown[0]) {
                return shown.remove(0);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, so).await.expect("the sink does not come to stand so")
}

async fn started(directory: &Directory, notify: &str, places: usize) -> Running {
    std::fs::create_dir_all(&directory.0).unwrap();
    let settings = directory.0.join("settings.yaml");
    std::fs::write(&settings, format!("notify: {notify}\n")).unwrap();
    let server = Running::with(directory, &["--settings", settings.to_str().unwrap()]).await;
    // A place is told of what comes after it: wait until all have begun.
    let begun = async {
        while listed(&server).await.iter().filter(|sink| sink["next_seq"] != json!(0)).count() < places {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, begun).await.expect("a place has not begun");
    server
}

/// A file with a token for Discord.
fn token(directory: &Directory) -> PathBuf {
    std::fs::create_dir_all(&directory.0).unwrap();
    let token = directory.0.join("token");
    std::fs::write(&token, "not-a-real-token").unwrap();
    token
}

/// An event whose delivery is parked as poison, with a word of its general.
async fn park(server: &Running, agent: &mut Agent, word: &str) -> String {
    server.publish(event(word, "x")).await.unwrap();
    let assign = agent.assignment().await;
    let kind = delivery::FailureKind::Poison.into();
    let failed = delivery::Failure { kind, message: word.to_owned(), ..Default::default() };
    let result = agent::Result {
        delivery_id: assign.delivery_id.clone(),
        token: assign.token,
        outcome: Some(agent::result::Outcome::Failure(failed)),
        ..Default::default()
    };
    agent.say(Up::Result(result)).await;
    agent.settled().await;
    assign.delivery_id
}

#[tokio::test]
async fn parked_work_is_told_in_order_over_outages_and_restarts() {
    let directory = Directory::new();
    let mut ops = Told::start().await;
    let token = token(&directory);
    // Nobody is at Discord's address, which is in no other's way.
    let notify = format!(
        "{{webhook: {{url: '{}/hook'}}, discord: {{channels: {{prs: '1'}}, token: {{file: {token:?}}}, api: 'http://127.0.0.1:1'}}}}",
        ops.url
    );
    let server = started(&directory, &notify, 2).await;
    let mut agent = Agent::ready(&server, "b1", 1).await;
    let first = park(&server, &mut agent, "one").await;
    let (path, notice) = ops.next().await;
    assert_eq!((&*path, &notice["notice"], &notice["message"]), ("/hook", &json!("parked"), &json!("one")));
    assert_eq!((&notice["delivery"], &notice["reason"]), (&json!(first), &json!("poison")));

    // Down over a restart: what was parked meanwhile is told once it is back.
    *ops.place.down.lock().unwrap() = true;
    park(&server, &mut agent, "two").await;
    park(&server, &mut agent, "three").await;
    let shown = listed(&server).await;
    let discord = shown.iter().find(|sink| sink["name"] == "notify.discord").unwrap();
    assert!(!discord.to_string().contains("not-a-real-token"), "{discord}");
    drop(agent);
    server.stop().await;
    let server = started(&directory, &notify, 2).await;
    *ops.place.down.lock().unwrap() = false;
    for word in ["two", "three"] {
        assert_eq!(ops.next().await.1["message"], word);
    }
    let mut agent = Agent::ready(&server, "b2", 1).await;
    park(&server, &mut agent, "four").await;
    assert_eq!(ops.next().await.1["message"], "four");
    server.stop().await;
}

#[tokio::test]
async fn a_place_keeps_its_pace_and_says_when_to_come_again() {
    let directory = Directory::new();
    let mut ops = Told::start().await;
    let token = token(&directory);
    let notify = format!(
        "{{discord: {{channels: {{prs: '1', alerts: '2'}}, token: {{file: {token:?}}}, api: '{}', per_minute: 60, burst: 2}}}}",
        ops.url
    );
    let server = started(&directory, &notify, 1).await;
    let mut agent = Agent::ready(&server, "b1", 1).await;
    let began = Instant::now();
    for word in ["one", "two", "three", "four"] {
        park(&server, &mut agent, word).await;
    }
    for word in ["one", "two", "three", "four"] {
        let (path, message) = ops.next().await;
        assert_eq!(path, "/channels/2/messages");
        let description = message["embeds"][0]["description"].as_str().unwrap();
        assert!(description.ends_with(&format!("was parked: poison\n{word}")), "{description}");
    }
    // Two at once, then one a second.
    assert!(began.elapsed() >= Duration::from_millis(1900), "{:?}", began.elapsed());

    *ops.place.limit.lock().unwrap() = Some(2.5);
    let limited = Instant::now();
    park(&server, &mut agent, "five").await;
    ops.next().await;
    assert!(limited.elapsed() >= Duration::from_millis(2500), "{:?}", limited.elapsed());
    // The place has its answer a moment before it is counted.
    let shown = stands(&server, |sink| sink["sent"] == json!(5)).await;
    assert_eq!(shown["name"], json!("notify.discord"));
    server.stop().await;
}

#[tokio::test]
async fn a_place_that_wants_other_settings_is_asked_a_few_times_and_nobody_waits_for_it() {
    for status in [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::NOT_FOUND, StatusCode::GONE] {
        let directory = Directory::new();
        let mut ops = Told::start().await;
        let server = started(&directory, &format!("{{webhook: {{url: '{}/hook'}}}}", ops.url), 1).await;
        let mut agent = Agent::ready(&server, "b1", 1).await;
        *ops.place.refusal.lock().unwrap() = Some((status, 0));
        for word in ["one", "two", "three"] {
            park(&server, &mut agent, word).await;
        }
        let shown = stands(&server, |sink| sink["refused"] == json!(3)).await;
        assert_eq!((&shown["state"], &shown["sent"]), (&json!("failing"), &json!(0)));
        assert!(shown["reason"].as_str().unwrap().ends_with(&format!("answered {}", status.as_u16())), "{shown}");
        // The first three times; each behind it once.
        assert_eq!(ops.place.refusal.lock().unwrap().take(), Some((status, 5)));
        let (_, metrics) = http::get(&server, "/metrics").await;
        assert!(metrics.contains("mindos_sink_refused_total{sink=\"notify.webhook\"} 3\n"), "{metrics}");

        park(&server, &mut agent, "four").await;
        assert_eq!(ops.next().await.1["message"], "four");
        let shown = stands(&server, |sink| sink["sent"] == json!(1)).await;
        assert_eq!((&shown["state"], &shown["refused"]), (&json!("up"), &json!(3)));
        server.stop().await;
    }
}
