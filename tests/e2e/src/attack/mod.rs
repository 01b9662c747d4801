//! Attacks on a real server, and what a well-behaved client sees of them.
//!
//! ```text
//!   client at 127.0.0.1 --steady publishes--> control plane <--attack-- a process of its own, at 127.0.0.2 and after
//!         |                                        |
//!         +--- p50, p99 before and during ---------+--- most memory resident
//! ```
//! What the machine itself keeps waiting is told apart: answers during which all of it stood still are set aside, and counted. A disk
//! does so too; the journal is in the folder for temporary files, so `TMPDIR=/dev/shm` keeps it out of the figures.
//!
//! Invariant: an attack is judged by what the client measured, by the server's memory, and by the server being alive after it.

mod attackers;
mod client;
mod raw;
pub mod stills;
mod tally;

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use crate::world::World;
pub use attackers::{Scale, Victim};
use client::Steady;
use stills::Watch;

/// An attack that is known.
#[derive(Clone, Copy, Debug)]
pub struct Attack {
    pub name: &'static str,
    /// What the attacker does.
    pub what: &'static str,
    /// Against a server that asks nobody who they are; others ask everybody.
    pub open: bool,
    /// Over when all its requests were sent; others last their time.
    pub counted: bool,
}

const fn attack(name: &'static str, what: &'static str) -> Attack {
    Attack { name, what, open: false, counted: false }
}

const fn counted(name: &'static str, what: &'static str) -> Attack {
    Attack { counted: true, ..attack(name, what) }
}

/// All attacks.
pub const ATTACKS: &[Attack] = &[
    attack("half_open", "opens connections and says nothing"),
    attack("idle_after_a_request", "keeps connections after one request each"),
    attack("idle_http2", "keeps connections of HTTP/2 without a request"),
    attack("garbage", "sends noise on many connections"),
    attack("connection_churn", "opens and closes connections as fast as it can"),
    attack("slow_headers_http1", "sends the headers of a request a byte a second"),
    attack("slow_headers_http2", "sends the headers of a request a frame a second"),
    attack("slow_bodies_http1", "sends bodies a byte a second"),
    attack("slow_bodies_http2", "announces messages of 4 MiB on many streams and sends them 16 bytes a second"),
    attack("slow_readers_http1", "asks for much, pipelined, and reads nothing"),
    attack("slow_readers_http2", "asks for much on many streams with a window of nothing"),
    attack("rapid_reset", "opens and resets streams as fast as it can"),
    attack("made_reset", "makes the server reset streams as fast as it can"),
    attack("continuation_flood", "never ends the headers of a request"),
    attack("headers_flood", "sends requests with 12 KiB of headers each as fast as it can"),
    attack("ping_flood", "sends PING as fast as it can and reads nothing more"),
    attack("settings_flood", "sends SETTINGS as fast as it can"),
    attack("small_frames", "sends empty DATA, PRIORITY and WINDOW_UPDATE as fast as it can"),
    counted("bad_tokens", "asks with tokens that nobody gave out, over HTTP"),
    counted("bad_tokens_grpc", "asks with tokens that nobody gave out, over gRPC"),
    attack("one_at_its_limit", "a principal publishes as fast as it can"),
    attack("oversize_bodies", "sends bodies that are too large, announced and not"),
    attack("nested_json", "sends JSON nested up to 1,500,000 deep to every path that reads JSON"),
    attack("compression_bombs", "sends 1 GiB of zeroes, compressed, by HTTP and gRPC"),
    attack("slow_expressions", "publishes events whose routes have patterns and expressions made to be slow"),
    Attack { open: true, ..attack("agent_flood", "an agent sends heartbeats as fast as it can") },
];

/// How attacks are run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How long the client is measured before the attack.
    pub before: Duration,
    pub scale: Scale,
    /// The p99 under attack, as a multiple of that before, that fails; unset judges function alone.
    pub ratio_max: Option<f64>,
    /// Most memory of the server, in bytes.
    pub memory_max: u64,
}

/// What everybody's attacks are like.
pub const FULL: Plan = Plan {
    before: Duration::from_secs(6),
    scale: Scale { connections: 10_000, requests: 1_000_000, addresses: 20, time: Duration::from_secs(12) },
    ratio_max: Some(2.0),
    memory_max: 512 << 20,
};

/// A short version: it shows that the server refuses and lives on, not how fast it is meanwhile.
pub const QUICK: Plan = Plan {
    before: Duration::from_millis(500),
    scale: Scale { connections: 500, requests: 20_000, addresses: 5, time: Duration::from_secs(3) },
    ratio_max: None,
    memory_max: 512 << 20,
};

/// Backlogs out of the way, for nobody works on what is published here; webhooks that anybody on this machine may send, so that what is
/// in them is read.
const ARGUMENTS: [&str; 7] = [
    "--lane-backlog-max",
    "10000000",
    "--queue-backlog-max",
    "10000000",
    "--tenant-backlog-max",
    "10000000",
    "--webhooks-unsigned",
];
/// How long it may take to make all that an attack sends.
const BEGUN_TIMEOUT: Duration = Duration::from_secs(60);
/// How long an attack may take that is over by its count.
const COUNTED_TIMEOUT: Duration = Duration::from_secs(300);
const ENFORCED: [&str; 4] = ["--access", "enforced", "--tls", "off"];
/// How long the token of the first admin may take to be there.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(20);

/// Tokens of the two who call.
#[derive(Debug, Default)]
struct Tokens {
    client: Option<String>,
    attacker: Option<String>,
}

/// Makes a token for the client and one for the attacker, who are two principals of one tenant.
async fn tokens(world: &World) -> Result<(Tokens, String)> {
    use mindos_proto::access::v1::access_service_client::AccessServiceClient;
    use mindos_proto::access::v1::{CreateApiTokenRequest, Role};

    let path = world.data().join("admin-token");
    let begun = std::time::Instant::now();
    let admin = loop {
        match std::fs::read_to_string(&path) {
            Ok(text) if !text.trim().is_empty() => break text.trim().to_owned(),
            _ => ensure!(begun.elapsed() < TOKEN_TIMEOUT, "there is no {}", path.display()),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let mut made = Vec::new();
    for name in ["client", "attacker"] {
        made.push(loop {
            let mut request = tonic::Request::new(CreateApiTokenRequest {
                name: name.to_owned(),
                tenant: "default".to_owned(),
                roles: vec![Role::Publisher.into()],
                sources: vec!["*".to_owned()],
                ttl: None,
            });
            request.metadata_mut().insert("authorization", format!("Bearer {admin}").parse().context("a token")?);
            match AccessServiceClient::new(world.channel()?).create_api_token(request).await {
                Ok(answer) => break answer.into_inner().text,
                // Its file may be there a moment before it is known.
                Err(status) if status.code() == tonic::Code::Unauthenticated && begun.elapsed() < TOKEN_TIMEOUT => {}
                Err(status) => return Err(status).context("failed to make a token"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        });
    }
    let attacker = made.pop();
    Ok((Tokens { client: made.pop(), attacker }, admin))
}

/// Runs one attack against a server of its own and reports.
///
/// # Errors
/// When the server does not start, is not there afterwards, or something else fails that should not.
pub async fn run(attack: &Attack, plan: &Plan, attacker: &std::path::Path) -> Result<Value> {
    let arguments = [&ARGUMENTS[..], if attack.open { &[] } else { &ENFORCED }].concat();
    let world = World::started("attack", &arguments).await?;
    let (tokens, admin) = match attack.open {
        true => (Tokens::default(), None),
        false => tokens(&world).await.map(|(tokens, admin)| (tokens, Some(admin)))?,
    };
    apply(&world, admin.as_deref()).await?;
    let steady = Steady::new(&world.server(), tokens.client.as_deref())?;
    steady.publish(false).await.map_err(anyhow::Error::msg).context("before anything")?;
    let watch = Watch::start(attacker)?;
    let mut before = steady.run(tokio::time::sleep(plan.before)).await;
    let memory_before = world.plane()?.memory()?;
    world.plane()?.forget_memory_peak()?;

    let mut child = start(attack, plan, &world, tokens.attacker, attacker)?;
    begun(&mut child).await?;
    // What it takes to be under way.
    tokio::time::sleep(plan.scale.time / 10).await;
    let attacked = tokio::spawn(child.wait_with_output());
    let begun = std::time::Instant::now();
    let under_way = async {
        while !attacked.is_finished() && (attack.counted || begun.elapsed() < plan.scale.time * 8 / 10) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let mut during = steady.run(under_way).await;
    if let Some(stills) = watch.end().await? {
        [&mut before, &mut during].into_iter().for_each(|latencies| latencies.set_aside(&stills));
    }
    let attacked = attacked.await?.context("failed to wait for the attacker")?;
    ensure!(attacked.status.success(), "the attacker failed: {}", String::from_utf8_lossy(&attacked.stderr));
    let attacker: Value = serde_json::from_slice(&attacked.stdout).context("the attacker reports JSON")?;
    let memory = world.plane()?.memory_peak()?;

    let after = alive(&world, &steady).await;
    let floor = Duration::from_millis(1);
    let ratio = during.p99().max(floor).as_secs_f64() / before.p99().max(floor).as_secs_f64();
    let ratio = (ratio * 100.0).round() / 100.0;
    let mut faults = Vec::new();
    if let Err(error) = &after {
        faults.push(format!("afterwards: {error:#}"));
    }
    if during.failed() > 0 {
        faults.push(format!("{} of the client's calls failed", during.failed()));
    }
    if attack.counted && attacker["sent"].as_u64().unwrap_or(0) < plan.scale.requests {
        faults.push(format!("{} requests were sent: expected {}", attacker["sent"], plan.scale.requests));
    }
    if attacker["connections_opened"].as_u64() == Some(0) {
        faults.push("the attacker got no connection at all".to_owned());
    }
    if during.answered() == 0 {
        faults.push("the client got no answer at all".to_owned());
    }
    if let Some(most) = plan.ratio_max.filter(|most| ratio > *most) {
        faults.push(format!("p99 is {ratio} times what it was: expected at most {most}"));
    }
    if memory > plan.memory_max {
        faults.push(format!("the server took {} MiB", memory >> 20));
    }
    Ok(json!({
        "attack": attack.name,
        "what": attack.what,
        "before": before.report(),
        "during": during.report(),
        "p99_ratio": ratio,
        "memory_mib": { "before": memory_before >> 20, "most_during": memory >> 20 },
        "attacker": attacker,
        "faults": faults,
    }))
}

/// Puts the table of [`routes`] in force.
async fn apply(world: &World, admin: Option<&str>) -> Result<()> {
    use mindos_proto::route::v1::route_service_client::RouteServiceClient;
    use mindos_proto::route::v1::{ApplyRequest, RouteTable};
    let table = RouteTable { routes: routes(), ..RouteTable::default() };
    let mut request = tonic::Request::new(ApplyRequest { table: Some(table), ..ApplyRequest::default() });
    if let Some(admin) = admin {
        request.metadata_mut().insert("authorization", format!("Bearer {admin}").parse().context("a token")?);
        request.metadata_mut().insert("mindos-tenant", "default".parse().context("a name")?);
    }
    RouteServiceClient::new(world.channel()?).apply(request).await.context("failed to apply routes")?;
    Ok(())
}

fn start(
    attack: &Attack,
    plan: &Plan,
    world: &World,
    token: Option<String>,
    attacker: &std::path::Path,
) -> Result<tokio::process::Child> {
    let Scale { connections, requests, addresses, time } = plan.scale;
    let time = if attack.counted { COUNTED_TIMEOUT } else { time };
    // It would have a machine of its own; here it gets what the server and its client leave of the processors.
    tokio::process::Command::new("chrt")
        .args(["--idle", "0"])
        .arg(attacker)
        .args(token.iter().flat_map(|token| ["--token", token]))
        .args(["--attacker", attack.name, "--api", world.api(), "--agents", world.agents()])
        .args(["--connections", &connections.to_string(), "--requests", &requests.to_string()])
        .args(["--addresses", &addresses.to_string(), "--millis", &time.as_millis().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("failed to start the attacker")
}

/// Waits until it has all that it sends.
async fn begun(attacker: &mut tokio::process::Child) -> Result<()> {
    let output = attacker.stdout.as_mut().context("its output is a pipe")?;
    let said = tokio::time::timeout(BEGUN_TIMEOUT, output.read_u8()).await;
    ensure!(matches!(said, Ok(Ok(b'\n'))), "the attacker did not begin: {said:?}");
    Ok(())
}

/// Runs as the attacker: prints an empty line when its time begins.
///
/// # Errors
/// When an address is malformed or the attack is not known.
pub async fn attack_now(name: &str, api: &str, agents: &str, token: Option<String>, scale: Scale) -> Result<Value> {
    let victim = Victim { api: raw::address(api)?, agents: raw::address(agents)?, token };
    attackers::run(name, victim, scale, || println!()).await
}

/// The server answers, from a connection that is new as well.
async fn alive(world: &World, steady: &Steady) -> Result<()> {
    world.plane()?.memory().context("the server is gone")?;
    for fresh in [false, true] {
        steady.publish(fresh).await.map_err(anyhow::Error::msg)?;
    }
    Ok(())
}

/// Events of the well-behaved client go to workers; those of the kind `slow` have to pass what was made to take long first.
fn routes() -> Vec<mindos_proto::route::v1::Route> {
    use mindos_proto::route::v1::{Route, RouteMatch, RouteTargets, Strategy};
    let slow = [
        "data.items.all(a, data.items.all(b, data.items.all(c, a + b + c > 0)))",
        "data.items.map(a, data.items.map(b, a + b)).size() > 10000000",
        "data.text.matches('(a|aa|aaa|a?){100}b$')",
        "data.text.matches('^(([a-z])+.)+[A-Z]([a-z])+$')",
        "data.text.matches('(?:a*)*(?:a*)*(?:a*)*b')",
        "data.items.exists(a, data.text.matches('(x+x+)+y') && a == 2)",
    ];
    let targets = Some(RouteTargets { types: vec!["worker".to_owned()], ..RouteTargets::default() });
    let route = |name: String, kind: &str, condition: &str| Route {
        name,
        r#match: Some(RouteMatch { kinds: vec![kind.to_owned()], expr: condition.to_owned(), ..RouteMatch::default() }),
        targets: targets.clone(),
        strategy: Strategy::Broadcast.into(),
        ..Route::default()
    };
    let mut routes: Vec<_> =
        (0..60).map(|place| route(format!("slow-{place}"), "slow", slow[place % slow.len()])).collect();
    routes.push(Route { r#match: None, ..route("work".to_owned(), "", "") });
    routes
}
