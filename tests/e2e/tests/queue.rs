//! The contract's queue on a real RabbitMQ: taken once, parked and never looped, and nothing lost when either side is killed.
//!
//! Needs Debian's `rabbitmq-server`, whose programs are run as normal processes in the test's folder.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lapin::options::{
    BasicAckOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use mindos_e2e::process::{self, Process};
use mindos_e2e::world::{World, free_address, http};
use serde_json::{Value, json};

/// On a busy machine; an idle one takes a few seconds.
const START_MAX: Duration = Duration::from_secs(120);
const PATIENCE: Duration = Duration::from_secs(60);
const QUEUE: &str = "agent-tasks";
const PARKED: &str = "agent-tasks.parked";

/// A RabbitMQ of the test's own; gone when dropped.
struct Rabbit {
    folder: PathBuf,
    port: u16,
    dist_port: u16,
    epmd_port: u16,
    server: Option<Process>,
    /// The names of Erlang's nodes, in the foreground.
    _epmd: Process,
}

impl Rabbit {
    async fn start(world: &World) -> Result<Rabbit> {
        let folder = world.folder().join("rabbitmq");
        std::fs::create_dir_all(folder.join("home"))?;
        std::fs::write(folder.join("plugins"), "[].\n")?;
        let port = || -> Result<u16> { Ok(free_address()?.rsplit(':').next().context("no port")?.parse()?) };
        let epmd_port = port()?;
        let arguments = ["-address".to_owned(), "127.0.0.1".to_owned(), "-port".to_owned(), epmd_port.to_string()];
        let epmd = Process::start_program(Path::new("/usr/bin/epmd"), &folder, "epmd", &arguments)
            .context("rabbitmq-server and with it Erlang have to be installed")?;
        let (port, dist_port) = (port()?, port()?);
        let mut rabbit = Rabbit { folder, port, dist_port, epmd_port, server: None, _epmd: epmd };
        rabbit.begin().await?;
        Ok(rabbit)
    }

    /// Starts the server on the data as they are; returns how long that took.
    async fn begin(&mut self) -> Result<Duration> {
        let begun = Instant::now();
        let folder = self.folder.display();
        let Rabbit { port, dist_port, epmd_port, .. } = self;
        let variables = [
            format!("HOME={folder}/home"),
            "LANG=C.UTF-8".to_owned(),
            // Without it a shell stands before the server, and would take the signals.
            "RUNNING_UNDER_SYSTEMD=true".to_owned(),
            format!("ERL_EPMD_PORT={epmd_port}"),
            format!("RABBITMQ_NODENAME=mindos{port}@localhost"),
            "RABBITMQ_NODE_IP_ADDRESS=127.0.0.1".to_owned(),
            format!("RABBITMQ_NODE_PORT={port}"),
            format!("RABBITMQ_DIST_PORT={dist_port}"),
            format!("RABBITMQ_MNESIA_BASE={folder}/mnesia"),
            format!("RABBITMQ_LOG_BASE={folder}/log"),
            "RABBITMQ_LOGS=-".to_owned(),
            format!("RABBITMQ_ENABLED_PLUGINS_FILE={folder}/plugins"),
            format!("RABBITMQ_CONFIG_FILE={folder}/none"),
            format!("RABBITMQ_ADVANCED_CONFIG_FILE={folder}/none"),
            format!("RABBITMQ_CONF_ENV_FILE={folder}/none"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-kernel inet_dist_use_interface {127,0,0,1}".to_owned(),
        ];
        let arguments: Vec<String> =
            variables.into_iter().chain(["/usr/lib/rabbitmq/bin/rabbitmq-server".to_owned()]).collect();
        let mut server = Process::start_program(Path::new("/usr/bin/env"), &self.folder, "rabbitmq", &arguments)?;
        while self.connect().await.is_err() {
            if let Some(status) = server.ended()? {
                bail!("rabbitmq-server ended with {status}; its log ends: {}", server.log_end());
            }
            ensure!(begun.elapsed() < START_MAX, "rabbitmq-server is not there; its log ends: {}", server.log_end());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.server = Some(server);
        println!("rabbitmq-server took {} ms to start", begun.elapsed().as_millis());
        Ok(begun.elapsed())
    }

    async fn connect(&self) -> Result<(Connection, Channel)> {
        let uri = format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port);
        let connection = Connection::connect(&uri, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok((connection, channel))
    }

    /// Kills it as a power cut would.
    fn kill(&mut self) -> Result<()> {
        self.server.take().context("no RabbitMQ runs")?.kill()
    }
}

async fn publish(channel: &Channel, message: &[u8]) -> Result<()> {
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(QUEUE.into(), durable, FieldTable::default()).await?;
    let properties = BasicProperties::default().with_delivery_mode(2).with_content_type("application/json".into());
    let sent =
        channel.basic_publish("".into(), QUEUE.into(), BasicPublishOptions::default(), message, properties).await?;
    ensure!(sent.await?.is_ack(), "the server did not keep a message");
    Ok(())
}

async fn length(channel: &Channel, queue: &str) -> Result<u32> {
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    Ok(channel.queue_declare(queue.into(), passive, FieldTable::default()).await?.message_count())
}

fn wish(issue: u64) -> Value {
    json!({"repo_url": "https://github.com/octocat/hello", "mode": "plan", "issue_id": issue, "trigger_user": "ada"})
}

async fn metric(world: &World, line: &str) -> Result<u64> {
    let (_, text) = http(world.api(), "GET", "/metrics", &[], b"").await?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let value = text.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(' '));
    Ok(value.with_context(|| format!("no {line}"))?.parse()?)
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !is_so().await? {
        ensure!(begun.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Ids of all tasks that the control plane knows, each as often as it is there.
fn tasks(world: &World) -> Result<Vec<String>> {
    let server = world.server();
    let listed = process::json(&["tasks", "list", "--limit", "1000", "--endpoint", &server])?;
    let tasks = listed["tasks"].as_array().context("no list")?;
    let mut ids: Vec<String> = tasks.iter().filter_map(|task| task["id"].as_str().map(str::to_owned)).collect();
    ids.sort();
    Ok(ids)
}

fn expected(issues: impl Iterator<Item = u64>) -> Vec<String> {
    let mut ids: Vec<String> = issues.map(|issue| format!("octocat/hello#{issue}/plan")).collect();
    ids.sort();
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_taken_once_and_parked_once_while_both_sides_are_killed() -> Result<()> {
    let mut world = World::new("queue", &[])?;
    let mut rabbit = Rabbit::start(&world).await?;
    let password = world.folder().join("password");
    std::fs::write(&password, "guest\n")?;
    let settings = world.folder().join("settings.yaml");
    let text = format!("tasks: {{rabbitmq: {{user: guest, password: {{file: {password:?}}}, prefetch: 4}}}}\n");
    std::fs::write(&settings, text)?;
    let port = rabbit.port.to_string();
    let settings = settings.display().to_string();
    // Where it is comes by the contract's names; the rest by the settings.
    world.add_arguments(&["--settings", &settings, "--rabbitmq-host", "127.0.0.1", "--rabbitmq-port", &port]);
    world.start_plane().await?;
    let (_connection, channel) = rabbit.connect().await?;

    // Good, good again, the same in other words, and what cannot be taken.
    for issue in 1..=20 {
        publish(&channel, wish(issue).to_string().as_bytes()).await?;
    }
    publish(&channel, wish(3).to_string().as_bytes()).await?;
    let mut other = wish(4);
    other["base_branch"] = json!("next");
    publish(&channel, other.to_string().as_bytes()).await?;
    publish(&channel, b"{\"repo_url\": \"hush").await?;
    publish(
        &channel,
        json!({"repo_url": "https://github.com/o/n", "mode": "dance", "trigger_user": "a"}).to_string().as_bytes(),
    )
    .await?;
    until("all is taken or parked", async || {
        let accepted = metric(&world, "mindos_task_messages_total{outcome=\"accepted\"}").await?;
        let duplicate = metric(&world, "mindos_task_messages_total{outcome=\"duplicate\"}").await?;
        let parked = metric(&world, "mindos_task_messages_total{outcome=\"parked\"}").await?;
        Ok((accepted, duplicate, parked) == (20, 2, 2))
    })
    .await?;
    ensure!(length(&channel, QUEUE).await? == 0, "all are acknowledged");
    ensure!(tasks(&world)? == expected(1..=20), "each once: {:?}", tasks(&world)?);
    let mut reasons = Vec::new();
    while let Some(parked) = channel.basic_get(PARKED.into(), BasicGetOptions::default()).await? {
        let headers = parked.delivery.properties.headers().clone().unwrap_or_default();
        let reason =
            headers.inner().get("x-mindos-reason").and_then(|value| value.as_long_string()).map(ToString::to_string);
        reasons.push(reason.context("no reason")?);
        parked.delivery.ack(BasicAckOptions::default()).await?;
    }
    reasons.sort();
    ensure!(
        reasons.len() == 2 && reasons[0].starts_with("is not JSON") && reasons[1].starts_with("mode: `dance`"),
        "{reasons:?}"
    );

    // The control plane is killed again and again while messages come in.
    for round in 0..3 {
        for issue in 0..30 {
            publish(&channel, wish(100 + round * 30 + issue).to_string().as_bytes()).await?;
            if issue == 10 {
                world.take_plane()?.kill()?;
            }
        }
        world.start_plane().await?;
    }
    until("the queue is empty", async || Ok(length(&channel, QUEUE).await? == 0)).await?;
    until("all are there", async || Ok(tasks(&world)?.len() >= 110)).await?;
    ensure!(tasks(&world)? == expected((1..=20).chain(100..190)), "each once");

    // So is RabbitMQ, with messages in its queue; it is dialled again.
    for issue in 200..230 {
        publish(&channel, wish(issue).to_string().as_bytes()).await?;
    }
    rabbit.kill()?;
    until("it is missed", async || Ok(metric(&world, "mindos_task_queue_up").await? == 0)).await?;
    rabbit.begin().await?;
    until("it is read again", async || Ok(metric(&world, "mindos_task_queue_up").await? == 1)).await?;
    let (_connection, channel) = rabbit.connect().await?;
    publish(&channel, wish(230).to_string().as_bytes()).await?;
    until("all came", async || Ok(tasks(&world)?.len() >= 141)).await?;
    ensure!(tasks(&world)? == expected((1..=20).chain(100..190).chain(200..=230)), "each once, and none lost");
    ensure!(length(&channel, PARKED).await? == 0, "nothing else was parked");

    let log = std::fs::read_to_string(world.folder().join("control-plane.log"))?;
    ensure!(
        !log.contains("hush") && !log.contains("guest@") && !log.contains(":guest"),
        "neither payloads nor passwords are logged"
    );
    let status = world.take_plane()?.terminate(Duration::from_secs(40))?;
    ensure!(status.success(), "the control plane ended with {status}");
    Ok(())
}
