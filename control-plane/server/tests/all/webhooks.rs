//! Webhooks over HTTP: every payload on file is taken, everything altered is refused with the right status, and the log shows neither
//! payloads nor secrets.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::support;
use crate::support::{Directory, Running};
use bytes::Bytes;
use hmac::{KeyInit, Mac};
use http::{HeaderName, Method};
use mindos_outgoing::{Outgoing, Request, Target};
use mindos_proto::event::v1::ListRequest;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tracing_subscriber::fmt::MakeWriter;

const SECRET: &str = "hush-this-is-the-secret";
const OLD: &str = "hush-this-was-the-secret";
const SETTINGS: &str = r#"
# All of them come from one address here, and many are altered.
limits: {failures_per_second: 100000}
github_secret: hush-this-is-the-secret
github_secret_previous: hush-this-was-the-secret
gitlab: {secret: hush-this-is-the-secret, previous: hush-this-was-the-secret}
alertmanager: {secret: hush-this-is-the-secret, previous: hush-this-was-the-secret}
ingest:
  deploys:
    type: "com.example.deploy.{/phase}"
    id: "{/id}"
    subject: "{/app}"
    lane: "deploy/{/app}"
    signature: {header: X-Signature, prefix: "sha256=", secret: hush-this-is-the-secret, previous: hush-this-was-the-secret}
"#;

/// What was logged, all of it.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Log;

    fn make_writer(&'a self) -> Log {
        self.clone()
    }
}

fn sign(secret: &str, body: &[u8]) -> String {
    let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(body);
    let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256={hex}")
}

/// One delivery of somebody, with what proves it.
#[derive(Clone)]
struct Delivery {
    path: &'static str,
    headers: Vec<(&'static str, String)>,
    /// The header that is a signature over the body, or holds the secret.
    proof: &'static str,
    body: Bytes,
}

impl Delivery {
    fn with(mut self, name: &'static str, value: &str) -> Delivery {
        self.headers.retain(|(other, _)| *other != name);
        self.headers.push((name, value.to_owned()));
        self
    }

    fn without(mut self, name: &str) -> Delivery {
        self.headers.retain(|(other, _)| *other != name);
        self
    }

    /// Another body, or the same proved with another secret.
    fn proved(mut self, secret: &str, body: impl Into<Bytes>) -> Delivery {
        self.body = body.into();
        let proof = match self.proof {
            "authorization" => format!("Bearer {secret}"),
            "x-gitlab-token" => secret.to_owned(),
            _ => sign(secret, &self.body),
        };
        let name = self.proof;
        self.with(name, &proof)
    }
}

/// Every payload on file, as its sender sends it.
fn deliveries() -> Vec<(String, Delivery)> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data");
    let mut found = Vec::new();
    for (folder, path, proof) in [
        ("github-webhooks", "/webhooks/github", "x-hub-signature-256"),
        ("gitlab-webhooks", "/webhooks/gitlab", "x-gitlab-token"),
        ("alertmanager", "/webhooks/alertmanager", "authorization"),
    ] {
        let mut files: Vec<_> = std::fs::read_dir(data.join(folder)).unwrap().map(|it| it.unwrap().path()).collect();
        files.retain(|path| path.extension().is_some_and(|it| it == "json"));
        files.sort();
        for file in files {
            let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
            let event = name.split('.').next().unwrap().to_owned();
            let headers = match folder {
                "github-webhooks" => vec![("x-github-event", event), ("x-github-delivery", format!("id-{name}"))],
                "gitlab-webhooks" => {
                    vec![("x-gitlab-event", "Some Hook".to_owned()), ("idempotency-key", name.clone())]
                }
                _ => Vec::new(),
            };
            let delivery = Delivery { path, headers, proof, body: Bytes::new() };
            let delivery =
                delivery.with("content-type", "application/json").proved(SECRET, std::fs::read(&file).unwrap());
            found.push((format!("{folder}/{name}"), delivery));
        }
    }
    let body = json!({"id": "d1", "app": "web", "phase": "done", "note": "my-private-payload"}).to_string();
    let generic =
        Delivery { path: "/webhooks/generic/deploys", headers: Vec::new(), proof: "x-signature", body: Bytes::new() };
    found.push(("generic".to_owned(), generic.with("content-type", "application/json").proved(SECRET, body)));
    found
}

struct Sender {
    client: Outgoing,
    api: Target,
}

impl Sender {
    async fn send(&self, delivery: &Delivery) -> (u16, Value) {
        let mut request = Request::new(Method::POST, self.api.join(delivery.path).unwrap());
        for (name, value) in &delivery.headers {
            request.headers.insert(HeaderName::from_static(name), value.parse().unwrap());
        }
        request.body = delivery.body.clone();
        request.timeout = support::PATIENCE;
        let answer = self.client.send(request).await.unwrap();
        (answer.status.as_u16(), serde_json::from_slice(&answer.body).unwrap_or_default())
    }

    async fn code(&self, delivery: &Delivery) -> u16 {
        self.send(delivery).await.0
    }
}

/// The answers for the events of one delivery.
fn results(answer: &Value) -> Vec<Value> {
    answer["results"].as_array().cloned().unwrap_or_else(|| vec![answer.clone()])
}

async fn started(directory: &Directory) -> (Running, Sender) {
    std::fs::create_dir_all(&directory.0).unwrap();
    let settings = directory.0.join("settings.yaml");
    std::fs::write(&settings, SETTINGS).unwrap();
    let server = Running::with(directory, &["--settings", settings.to_str().unwrap()]).await;
    let sender = Sender { client: Outgoing::new(), api: Target::parse(&server.api, false).unwrap() };
    (server, sender)
}

#[tokio::test]
async fn every_payload_is_taken_once_what_was_altered_is_refused_and_nothing_leaks() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(log.clone()).finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let directory = Directory::new();
    let (server, sender) = started(&directory).await;

    let mut events = 0;
    for (name, delivery) in deliveries() {
        let altered = [
            ("another secret", 401, delivery.clone().proved("guess", delivery.body.clone())),
            ("no proof", 401, delivery.clone().without(delivery.proof)),
            ("cut in half", 400, delivery.clone().proved(SECRET, delivery.body.slice(..delivery.body.len() / 2))),
            ("nothing", 400, delivery.clone().proved(SECRET, Bytes::new())),
            ("a list", 400, delivery.clone().proved(SECRET, "[]")),
            ("text", 415, delivery.clone().with("content-type", "text/plain")),
        ];
        for (what, code, altered) in altered {
            let (found, answer) = sender.send(&altered).await;
            assert_eq!(found, code, "{name}, {what}: {answer}");
            let signed = !matches!(delivery.proof, "authorization" | "x-gitlab-token");
            if signed && what == "another secret" {
                let mut body = delivery.body.to_vec();
                let last = body.len() - 1;
                body[last] ^= 1;
                let altered = Delivery { body: body.into(), ..delivery.clone() };
                assert_eq!(sender.code(&altered).await, 401, "{name}, a bit of the body");
            }
        }
        let (code, answer) = sender.send(&delivery).await;
        assert!(code == 202 || (code == 200 && name.contains("/ping")), "{name}: {code} {answer}");
        let first = results(&answer);
        // An alert that still fires is in more than one file.
        events += first.iter().filter(|result| result["duplicate"] != json!(true)).count();
        // Again, as a sender does that saw no answer, and under the secret that is being replaced.
        let (code, answer) = sender.send(&delivery.clone().proved(OLD, delivery.body.clone())).await;
        assert!(code == 202 || code == 200, "{name}: {code} {answer}");
        assert!(results(&answer).iter().all(|result| result["duplicate"] == json!(true)), "{name}: {answer}");
    }
    let mut kept = 0;
    let mut page_token = String::new();
    loop {
        let request = ListRequest { page_token, page_size: 100, ..Default::default() };
        let page = server.events().await.list(request).await.unwrap().into_inner();
        kept += page.events.len();
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!((events, kept), (113, 113));
    server.stop().await;

    let logged = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    assert!(logged.contains("webhook received"), "nothing was logged at all");
    let private =
        ["hush-this", "my-private-payload", "sha256=", "Round the gears", "Hello-World", "HighLatency", "Bearer"];
    for secret in private {
        let line = logged.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "`{secret}` stands in the log: {line:?}");
    }
}

#[tokio::test]
async fn twenty_five_mebibytes_are_taken_and_a_byte_more_is_not() {
    const MAX: usize = 25 << 20;
    let directory = Directory::new();
    let (server, sender) = started(&directory).await;
    let mut seen = std::collections::BTreeSet::new();
    for (name, delivery) in deliveries() {
        if !seen.insert(delivery.path) {
            continue;
        }
        // Only announced, never sent: it is refused by its length.
        let address = server.api.strip_prefix("http://").unwrap();
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let mut head = format!("POST {} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n", delivery.path, MAX + 1);
        delivery.headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
        stream.write_all(format!("{head}\r\n").as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 413 "), "{name}: {answer}");
    }
    let (_, github) = deliveries().swap_remove(0);
    let mut body = github.body.to_vec();
    body.resize(MAX, b' ');
    let (code, answer) = sender.send(&github.proved(SECRET, body)).await;
    assert_eq!(code, 202, "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn a_door_that_nothing_was_configured_for_is_shut() {
    let directory = Directory::new();
    let server = Running::start(&directory).await;
    let sender = Sender { client: Outgoing::new(), api: Target::parse(&server.api, false).unwrap() };
    for (name, delivery) in deliveries() {
        let wanted = if name == "generic" { 404 } else { 503 };
        assert_eq!(sender.code(&delivery).await, wanted, "{name}");
    }
    server.stop().await;
    let directory = Directory::new();
    let server = Running::with(&directory, &["--webhooks-unsigned"]).await;
    let sender = Sender { client: Outgoing::new(), api: Target::parse(&server.api, false).unwrap() };
    for (name, delivery) in deliveries().into_iter().filter(|(name, _)| name != "generic") {
        let code = sender.code(&delivery.clone().without(delivery.proof)).await;
        assert!(code == 202 || code == 200, "{name}: {code}");
    }
    server.stop().await;
}
