//! The sidecar between a real stream and real generals.

#[path = "../../../sdk/rust/tests/plane/mod.rs"]
mod plane;

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use clap::Parser;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use mindos_agent_sidecar::{Config, run};
use mindos_proto::agent::v1::agent_message::Message as Up;
use mindos_proto::agent::v1::control_message::Message as Down;
use mindos_proto::agent::v1::result::Outcome;
use mindos_proto::agent::v1::{Cancel, Intervals, LeaseClaim, Lost, Verdict, Welcome};
use mindos_proto::delivery::v1::{FailureKind, Token};
use mindos_sdk::Event;
use plane::{Plane, Session, assign};
use serde_json::Value;
use tokio::net::TcpListener;

#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    config: Config,
}

/// A general that answers as the test says, and remembers what it was asked.
#[derive(Default)]
struct Fake {
    ready: AtomicBool,
    answer: Mutex<Option<Response<Full<Bytes>>>>,
    asked: Mutex<Vec<(http::request::Parts, Value)>>,
}

async fn fake() -> (Arc<Fake>, String) {
    let fake = Arc::new(Fake::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let general = fake.clone();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let general = general.clone();
            let service = hyper::service::service_fn(move |request| answer(general.clone(), request));
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service));
        }
    });
    (fake, url)
}

async fn answer(general: Arc<Fake>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() == "/ready" {
        let status = if general.ready.load(Ordering::SeqCst) { 200 } else { 503 };
        return Ok(Response::builder().status(status).body(Full::default()).unwrap());
    }
    if request.uri().path() == "/metrics" {
        let metrics = "vllm:num_requests_running{model_name=\"m\"} 4\nvllm:num_requests_waiting{model_name=\"m\"} 9\n\
            vllm:kv_cache_usage_perc{model_name=\"m\"} 0.75\n";
        return Ok(Response::new(Full::from(metrics)));
    }
    let (parts, body) = request.into_parts();
    let body = serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap();
    general.asked.lock().unwrap().push((parts, body));
    let answer = general.answer.lock().unwrap().take();
    match answer {
        Some(answer) => Ok(answer),
        None => std::future::pending().await,
    }
}

/// Starts a sidecar that does not wait to be welcomed.
fn start(plane: &Plane, general: &str, more: &[&str]) {
    let args = ["sidecar", "--control-plane", &plane.url, "--cluster", "c1", "--instance", "i1", "--general", general];
    let args = args.into_iter().chain(["--output-max", "1000", "--drain-grace", "1"]).chain(more.iter().copied());
    let args = Args::parse_from(args);
    tokio::spawn(run(args.config, std::future::pending()));
}

async fn sidecar(plane: &mut Plane, general: &str) -> Session {
    start(plane, general, &[]);
    plane.welcome(|_: &LeaseClaim| Verdict::Keep).await.0
}

fn event() -> mindos_proto::cloudevents::v1::CloudEvent {
    Event::new("https://github.com/o/r", "e 1", "com.github.pull_request.opened")
        .kind("pr_created")
        .subject("7")
        .extension("traceparent", "00-aa-bb-01")
        .json("{\"number\": 7}")
        .into_message()
}

#[tokio::test]
async fn a_general_gets_the_contracts_body_and_cloudevents_headers() {
    let (general, url) = fake().await;
    general.ready.store(true, Ordering::SeqCst);
    let json =
        Response::builder().header("content-type", "application/json").body(Full::from("{\"status\":\"processed\"}"));
    *general.answer.lock().unwrap() = Some(json.unwrap());
    let mut plane = Plane::start().await;
    let mut session = sidecar(&mut plane, &format!("name=sec,type=security-general,slots=2,url={url}")).await;
    session.granted().await;

    session.send(assign("d42.1", 3, "sec", event()));
    let result = session.result().await;

    assert!(matches!(result.outcome, Some(Outcome::Succeeded(_))), "{result:?}");
    assert_eq!(
        (&result.output[..], &*result.output_content_type),
        (&b"{\"status\":\"processed\"}"[..], "application/json")
    );
    let (parts, body) = general.asked.lock().unwrap().remove(0);
    assert_eq!((parts.method.as_str(), parts.uri.path()), ("POST", "/process"));
    assert_eq!(body["event_type"], "pr_created");
    assert_eq!(body["job_id"], "d42.1-1.3");
    assert_eq!(body["data"]["number"], 7);
    assert_eq!((&body["general_info"]["name"], &body["general_info"]["cluster"]), (&"sec".into(), &"c1".into()));
    assert!(body["timestamp"].as_str().unwrap().ends_with('Z'));
    assert_eq!(parts.headers["ce-id"], "e%201");
    assert_eq!(parts.headers["ce-type"], "com.github.pull_request.opened");
    assert_eq!(parts.headers["ce-traceparent"], "00-aa-bb-01");
    assert_eq!(parts.headers["content-type"], "application/json");
    assert_eq!(
        (&parts.headers["mindos-mode"], &body["general_info"]["mode"]),
        (&"live".parse().unwrap(), &"live".into())
    );
}

/// An answer in lines.
fn lines(text: &'static str) -> Response<Full<Bytes>> {
    Response::builder().header("content-type", "application/x-ndjson").body(Full::from(text)).unwrap()
}

/// A general that writes `lines` one after the other, each a moment after the one before.
async fn slow_lines(lines: &'static [&'static str]) -> (tokio::sync::mpsc::Receiver<String>, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (asked, asks) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let asked = asked.clone();
            tokio::spawn(async move {
                let mut request = String::new();
                while !request.ends_with('}') && !request.starts_with("GET") {
                    let mut some = [0; 4096];
                    let read = socket.read(&mut some).await.unwrap();
                    request.push_str(std::str::from_utf8(&some[..read]).unwrap());
                }
                if request.starts_with("GET") {
                    let _ =
                        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
                    return;
                }
                asked.send(request).await.unwrap();
                let head = "HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\nconnection: close\r\n\r\n";
                socket.write_all(head.as_bytes()).await.unwrap();
                for line in lines {
                    socket.write_all(line.as_bytes()).await.unwrap();
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            });
        }
    });
    (asks, url)
}

#[tokio::test]
async fn an_answer_in_lines_says_how_far_it_is_and_leaves_its_checkpoint() {
    let (mut asks, url) = slow_lines(&[
        "{\"progress\":{\"note\":\"asking\",\"usage\":[{\"model\":\"m\",\"input_tokens\":7}],\"checkpoint\":\"aGk=\"}}\n\n",
        "{\"status\":200,\"body\":{\"status\":\"processed\",\"usage\":{\"model\":\"m\",\"input_tokens\":9}}}\n",
    ])
    .await;
    let mut plane = Plane::start().await;
    let mut session = sidecar(&mut plane, &format!("name=sec,type=security-general,url={url}")).await;
    session.granted().await;

    let mut again = assign("d42.1", 3, "sec", event());
    if let Down::Assign(assign) = &mut again {
        assign.checkpoint = b"before".to_vec().into();
    }
    session.send(again);
    let (left, result) = left(&mut session).await;

    assert_eq!(left, [&b"hi"[..]]);
    assert!(matches!(result.outcome, Some(Outcome::Succeeded(_))), "{result:?}");
    assert_eq!(serde_json::from_slice::<Value>(&result.output).unwrap()["status"], "processed");
    assert_eq!(result.usage[0].input_tokens, 9);
    let asked = asks.recv().await.unwrap();
    assert!(asked.contains("application/x-ndjson") && asked.contains("\"checkpoint\":\"YmVmb3Jl\""), "{asked}");
}

/// The checkpoints that come before the next result, and that.
async fn left(session: &mut Session) -> (Vec<Bytes>, mindos_proto::agent::v1::Result) {
    let mut left = Vec::new();
    loop {
        match session.next().await {
            Some(Up::Extend(extend)) if !extend.checkpoint.is_empty() => left.push(extend.checkpoint),
            Some(Up::Result(result)) => return (left, result),
            Some(_) => {}
            None => panic!("the stream ended"),
        }
    }
}

#[tokio::test]
async fn lines_that_break_off_are_no_answer_but_what_was_used_counts() {
    let (general, url) = fake().await;
    general.ready.store(true, Ordering::SeqCst);
    *general.answer.lock().unwrap() = Some(lines(
        "{\"progress\":{\"usage\":[{\"model\":\"m\",\"input_tokens\":7}],\"checkpoint\":\"aGk=\"}}\n{\"status\":200,",
    ));
    let mut plane = Plane::start().await;
    let mut session = sidecar(&mut plane, &format!("name=sec,type=security-general,url={url}")).await;
    session.granted().await;

    session.send(assign("d42.1", 3, "sec", event()));
    let (left, result) = left(&mut session).await;

    assert_eq!(left, [&b"hi"[..]], "the next attempt has it");

    let Some(Outcome::Failure(failed)) = &result.outcome else { panic!("{result:?}") };
    assert_eq!(failed.kind(), FailureKind::Transient);
    assert!(failed.message.contains("before its last line"), "{}", failed.message);
    assert_eq!(result.usage[0].input_tokens, 7);
}

#[tokio::test]
async fn nothing_is_granted_until_the_general_is_ready() {
    let (general, url) = fake().await;
    let mut plane = Plane::start().await;
    let mut session = sidecar(&mut plane, &format!("type=a,url={url}")).await;
    // The first heartbeat follows what is granted at once.
    assert!(matches!(session.next().await, Some(Up::Heartbeat(_))));
    general.ready.store(true, Ordering::SeqCst);
    assert_eq!(session.granted().await.generals[0].capacity, 1);
    general.ready.store(false, Ordering::SeqCst);
    loop {
        if let Some(Up::Grant(grant)) = session.next().await {
            assert_eq!(grant.generals[0].capacity, 0);
            return;
        }
    }
}

#[tokio::test]
async fn the_load_of_the_model_and_the_providers_limits_come_with_the_heartbeat() {
    let (general, url) = fake().await;
    general.ready.store(true, Ordering::SeqCst);
    let limited = Response::builder()
        .header("x-ratelimit-remaining-requests", "0")
        .header("x-ratelimit-reset-requests", "1m0s")
        .body(Full::from("done"));
    *general.answer.lock().unwrap() = Some(limited.unwrap());
    let mut plane = Plane::start().await;
    start(&plane, &format!("name=sec,type=security-general,url={url}"), &["--model-metrics", &url]);
    let mut session = plane.accept().await;
    assert!(matches!(session.next().await, Some(Up::Hello(_))));
    let often = Some(mindos_proto::convert::span(std::time::Duration::from_millis(200)));
    let intervals = Intervals { heartbeat: often, heartbeat_idle: often, ..Intervals::default() };
    let (epoch, protocol) = (1, 1);
    session.send(Down::Welcome(Welcome {
        session: "1.1".into(),
        epoch,
        protocol,
        intervals: Some(intervals),
        ..Welcome::default()
    }));
    session.granted().await;
    session.send(assign("d42.1", 3, "sec", event()));

    let (mut scraped, mut limited) = (false, false);
    while !(scraped && limited) {
        let Some(Up::Heartbeat(beat)) = session.next().await else { continue };
        for model in beat.loads.iter().flat_map(|load| &load.models) {
            assert_eq!((model.running, model.queue, model.cache_use), (4, 9, Some(0.75)));
            assert_eq!(model.model, "m");
            scraped = true;
            limited |= model.requests_remaining == Some(0) && model.requests_reset_at.is_some();
        }
    }
}

#[tokio::test]
async fn answers_that_are_not_good_become_failures() {
    let (general, url) = fake().await;
    general.ready.store(true, Ordering::SeqCst);
    let mut plane = Plane::start().await;
    let mut session = sidecar(&mut plane, &format!("type=a,url={url}")).await;
    session.granted().await;
    let expected = [
        (503, "", FailureKind::Transient),
        (422, "no such thing", FailureKind::Poison),
        (413, "", FailureKind::TooLarge),
        (402, "{\"usage\":[{\"model\":\"m\",\"input_tokens\":7}]}", FailureKind::OverBudget),
        (429, "", FailureKind::RateLimited),
        (200, &"x".repeat(1001), FailureKind::TooLarge),
    ];
    for (at, (status, said, kind)) in expected.into_iter().enumerate() {
        let answer = Response::builder().status(status).header("retry-after", "9").body(Full::from(said.to_owned()));
        *general.answer.lock().unwrap() = Some(answer.unwrap());
        session.send(assign(&format!("d{}.1", at + 1), 1, "a", event()));
        let Some(Outcome::Failure(failure)) = session.result().await.outcome else { panic!("{status}") };
        assert_eq!(failure.kind(), kind, "{status}");
        assert!(status == 200 || failure.message.ends_with(said), "{}", failure.message);
        assert_eq!(failure.retry_at.is_some(), kind == FailureKind::RateLimited);
    }
}

#[tokio::test]
async fn a_general_that_hangs_is_left_when_the_work_is_cancelled() {
    let (general, url) = fake().await;
    general.ready.store(true, Ordering::SeqCst);
    let mut plane = Plane::start().await;
    let mut session = sidecar(&mut plane, &format!("type=a,url={url}")).await;
    session.granted().await;
    session.send(assign("d1.1", 1, "a", event()));
    assert!(matches!(session.next_work().await, Some(Up::Accept(_))));
    let token = Some(Token { epoch: 1, term: 1 });
    let grace = Some(mindos_proto::convert::span(std::time::Duration::ZERO));
    session.send(Down::Cancel(Cancel { delivery_id: "d1.1".into(), token, grace, ..Default::default() }));
    assert!(matches!(session.result().await.outcome, Some(Outcome::Cancelled(_))));
}

#[tokio::test]
async fn a_command_gets_the_event_on_standard_input() {
    let mut plane = Plane::start().await;
    let command = "type=a,slots=2,command=printf '%s ' $MINDOS_JOB_ID $MINDOS_KIND; cat";
    let mut session = sidecar(&mut plane, command).await;
    session.granted().await;
    session.send(assign("d1.1", 2, "a", event()));
    let result = session.result().await;
    let output = String::from_utf8(result.output.to_vec()).unwrap();
    let json = output.strip_prefix("d1.1-1.2 pr_created ").unwrap_or_else(|| panic!("{output}"));
    let value: Value = serde_json::from_str(json).unwrap();
    assert_eq!((value["id"].as_str(), &value["data"]["number"]), (Some("e 1"), &7.into()));
}

#[tokio::test]
async fn a_commands_end_decides_the_outcome() {
    let mut plane = Plane::start().await;
    let mut session = sidecar(&mut plane, "type=a,command=cat > /dev/null; echo no >&2; exit 65").await;
    session.granted().await;
    session.send(assign("d1.1", 1, "a", event()));
    let Some(Outcome::Failure(failure)) = session.result().await.outcome else { panic!() };
    assert_eq!(failure.kind(), FailureKind::Poison);
    assert!(failure.message.ends_with("no"), "{}", failure.message);

    let mut plane = Plane::start().await;
    let mut session = sidecar(&mut plane, "type=a,command=head -c 5000 /dev/zero").await;
    session.granted().await;
    session.send(assign("d1.1", 1, "a", event()));
    let Some(Outcome::Failure(failure)) = session.result().await.outcome else { panic!() };
    assert_eq!(failure.kind(), FailureKind::TooLarge);
}

#[tokio::test]
async fn a_command_is_ended_with_everything_that_it_started() {
    let mut plane = Plane::start().await;
    // The child of the shell writes its id to a file named by the job, and would sleep for long.
    let folder = std::env::temp_dir().join(format!("mindos-sidecar-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("pid");
    let command =
        format!("type=a,command=trap '' TERM; sleep 600 & echo $! > {}.new; mv {0}.new {0}; wait", file.display());
    let mut session = sidecar(&mut plane, &command).await;
    session.granted().await;
    session.send(assign("d1.1", 1, "a", event()));
    assert!(matches!(session.next_work().await, Some(Up::Accept(_))));
    let pid = loop {
        if let Ok(pid) = std::fs::read_to_string(&file) {
            break pid.trim().to_owned();
        }
        tokio::task::yield_now().await;
    };
    assert!(is_alive(&pid));

    let token = Some(Token { epoch: 1, term: 1 });
    session.send(Down::Lost(Lost { delivery_id: "d1.1".into(), token, ..Default::default() }));

    while is_alive(&pid) {
        tokio::task::yield_now().await;
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test]
async fn a_command_has_ended_even_where_what_it_started_holds_its_pipes() {
    let mut plane = Plane::start().await;
    let command = r#"type=a,command=cat > /dev/null; sleep 600 & printf '{"pid": %s}' $!"#;
    let mut session = sidecar(&mut plane, command).await;
    session.granted().await;
    session.send(assign("d1.1", 1, "a", event()));

    let result = tokio::time::timeout(std::time::Duration::from_secs(20), session.result()).await.expect("it hangs");

    assert!(matches!(result.outcome, Some(Outcome::Succeeded(_))), "{result:?}");
    let output: Value = serde_json::from_slice(&result.output).unwrap();
    let pid = output["pid"].to_string();
    while is_alive(&pid) {
        tokio::task::yield_now().await;
    }
}

/// Neither gone nor a zombie.
fn is_alive(pid: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    status.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

#[tokio::test]
async fn effects_and_usage_in_an_answer_go_along_and_access_comes_where_it_is_wanted() {
    let (general, url) = fake().await;
    general.ready.store(true, Ordering::SeqCst);
    let answer = r#"{"usage":{"model":"m","input_tokens":7,"output_tokens":3},
        "effects":[{"kind":"comment","target":"octo/hello#7","parameters":{"body":"x"}},{"key":"k","kind":"labels","target":"octo/hello#7"}]}"#;
    let json = || Response::builder().header("content-type", "application/json").body(Full::from(answer)).unwrap();
    *general.answer.lock().unwrap() = Some(json());
    let mut plane = Plane::start().await;
    start(&plane, &format!("name=sec,type=security-general,url={url}"), &["--repository-access"]);
    let mut session = plane.welcome(|_: &LeaseClaim| Verdict::Keep).await.0;
    session.granted().await;
    let event = Event::new("s", "e", "t").repository("octo/hello").json("{}").into_message();

    session.send(assign("d1.1", 1, "sec", event.clone()));
    let result = session.result().await;

    let effects: Vec<_> =
        result.effects.iter().map(|it| (it.key.as_str(), it.kind.as_str(), it.parameters_json.as_str())).collect();
    assert_eq!(effects, [("d1.1/0", "comment", "{\"body\":\"x\"}"), ("k", "labels", "{}")]);
    assert_eq!(result.usage[0].input_tokens, 7);
    let (_, body) = general.asked.lock().unwrap().remove(0);
    let access = &body["repository_access"];
    assert_eq!(
        (&access["repository"], &access["token"], &access["author"]),
        (&"octo/hello".into(), &"hush".into(), &"mindos[bot]".into())
    );

    // Refused for another delivery: the general has to do without.
    *general.answer.lock().unwrap() = Some(json());
    session.send(assign("d2.1", 1, "sec", event));
    assert!(matches!(session.result().await.outcome, Some(Outcome::Succeeded(_))));
    assert_eq!(general.asked.lock().unwrap().remove(0).1.get("repository_access"), None);

    // Not asked for where nobody said so, and an effect that is none is refused by its place.
    let bad =
        Response::builder().header("content-type", "application/json").body(Full::from("{\"effects\":[{\"kind\":1}]}"));
    *general.answer.lock().unwrap() = Some(bad.unwrap());
    let mut plane = Plane::start().await;
    let mut session = sidecar(&mut plane, &format!("name=sec,type=security-general,url={url}")).await;
    session.granted().await;
    session.send(assign(
        "d1.1",
        1,
        "sec",
        Event::new("s", "e", "t").repository("octo/hello").json("{}").into_message(),
    ));
    let Some(Outcome::Failure(failure)) = session.result().await.outcome else { panic!("it was taken") };
    assert!(failure.message.contains("`effects[0]`"), "{}", failure.message);
    assert_eq!(general.asked.lock().unwrap().remove(0).1.get("repository_access"), None);
}

#[tokio::test]
async fn a_command_has_effects_and_access_too() {
    let mut plane = Plane::start().await;
    let command = "type=a,command=cat >/dev/null; printf '{\"effects\":[{\"kind\":\"comment\",\"target\":\"octo/hello#7\"}],\"seen\":%s}' \"$MINDOS_REPOSITORY_ACCESS\"";
    start(&plane, command, &["--repository-access"]);
    let mut session = plane.welcome(|_: &LeaseClaim| Verdict::Keep).await.0;
    session.granted().await;
    session.send(assign("d1.1", 1, "a", Event::new("s", "e", "t").repository("octo/hello").json("{}").into_message()));
    let result = session.result().await;
    assert_eq!(result.effects[0].kind, "comment");
    let output: Value = serde_json::from_slice(&result.output).unwrap();
    assert_eq!(output["seen"]["clone_url"], "https://github.com/octo/hello.git");
}
