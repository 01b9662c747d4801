//! A server in the test's process, with clients that speak to it over loopback.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

pub mod http;
pub mod jwt;
pub mod raw;
pub mod tls;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use clap::Parser;
use mindos_control_plane::config::Config;
use mindos_control_plane::driver::Handle;
use mindos_control_plane::run::{RunError, Server};
use mindos_proto::agent::v1 as agent;
use mindos_proto::agent::v1::agent_message::Message as Up;
use mindos_proto::agent::v1::agent_service_client::AgentServiceClient;
use mindos_proto::agent::v1::control_message::Message as Down;
use mindos_proto::cloudevents::v1::CloudEvent;
use mindos_proto::cloudevents::v1::cloud_event::Data;
use mindos_proto::delivery::v1 as delivery;
use mindos_proto::delivery::v1::delivery_service_client::DeliveryServiceClient;
use mindos_proto::event::v1::event_service_client::EventServiceClient;
use mindos_proto::event::v1::{PublishRequest, PublishResult};
use mindos_proto::fleet::v1::fleet_service_client::FleetServiceClient;
use mindos_proto::route::v1::route_service_client::RouteServiceClient;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// Longer than anything here takes; only a test that fails waits for it.
pub const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Parser)]
struct Command {
    #[command(flatten)]
    config: Config,
}

/// A directory that is gone with its owner.
#[derive(Debug)]
pub struct Directory(pub PathBuf);

impl Directory {
    pub fn new() -> Directory {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("server-{}-{number}", std::process::id()));
        Directory(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A server that serves.
pub struct Running {
    pub api: String,
    pub agents: String,
    pub aggregator: Option<std::net::SocketAddr>,
    pub keda: Option<std::net::SocketAddr>,
    pub platform: Option<std::net::SocketAddr>,
    /// The plane itself.
    pub plane: Handle,
    /// Gone with it, where nobody else has it.
    own: Option<Directory>,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<Result<(), RunError>>,
}

impl Running {
    /// A server in a directory of its own.
    pub async fn alone(options: &[&str]) -> Running {
        let directory = Directory::new();
        let server = Running::with(&directory, options).await;
        Running { own: Some(directory), ..server }
    }

    pub async fn start(directory: &Directory) -> Running {
        Running::with(directory, &[]).await
    }

    pub async fn with(directory: &Directory, options: &[&str]) -> Running {
        let data_dir = directory.0.to_str().unwrap();
        let fixed = [
            "test",
            "--data-dir",
            data_dir,
            "--listen",
            "127.0.0.1:0",
            "--agent-listen",
            "127.0.0.1:0",
            "--stop-timeout",
            "3s",
        ];
        let segments = ["--segment-bytes", "4MiB"];
        let segments = if options.contains(&segments[0]) { &[][..] } else { &segments[..] };
        let config = Command::parse_from([&fixed[..], segments, options].concat()).config;
        let server = Server::start(config).await.unwrap();
        server.handle().begun().await;
        let (api, agents) = (format!("http://{}", server.api), format!("http://{}", server.agents));
        let (aggregator, keda, platform) = (server.aggregator, server.keda, server.platform);
        let plane = server.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(server.serve(async {
            let _ = stopped.await;
        }));
        Running { api, agents, aggregator, keda, platform, plane, own: None, stop: Some(stop), serving }
    }

    /// Why a server with these options does not start.
    pub async fn refused(directory: &Directory, options: &[&str]) -> RunError {
        let fixed = ["test", "--data-dir", directory.0.to_str().unwrap()];
        let fixed = [&fixed[..], &["--listen", "127.0.0.1:0", "--agent-listen", "127.0.0.1:0"]].concat();
        let config = Command::parse_from([&fixed[..], options].concat()).config;
        Server::start(config).await.expect_err("the server started")
    }

    /// Takes the server down in order.
    pub async fn stop(mut self) {
        drop(self.stop.take());
        self.serving.await.unwrap().unwrap();
    }

    /// An agent that holds the delivery of an event, its first.
    pub async fn leased(&self, boot: &str, capacity: u32) -> (Agent, agent::Assign) {
        let mut agent = Agent::ready(self, boot, capacity).await;
        self.publish(event("e1", "one")).await.unwrap();
        let assign = agent.assignment().await;
        (agent, assign)
    }

    pub async fn channel(&self) -> Channel {
        Channel::from_shared(self.api.clone()).unwrap().connect().await.unwrap()
    }

    pub async fn events(&self) -> EventServiceClient<Channel> {
        EventServiceClient::new(self.channel().await)
    }

    pub async fn deliveries(&self) -> DeliveryServiceClient<Channel> {
        DeliveryServiceClient::new(self.channel().await)
    }

    pub async fn fleet(&self) -> FleetServiceClient<Channel> {
        FleetServiceClient::new(self.channel().await)
    }

    pub async fn routes(&self) -> RouteServiceClient<Channel> {
        RouteServiceClient::new(self.channel().await)
    }

    pub async fn publish(&self, event: CloudEvent) -> Result<PublishResult, Status> {
        let request = PublishRequest { event: Some(event), explain: false };
        Ok(self.events().await.publish(request).await?.into_inner().result.unwrap())
    }
}

/// An event of the kind that the stock table's default route takes.
pub fn event(id: &str, data: &str) -> CloudEvent {
    CloudEvent {
        id: id.to_owned(),
        source: "/test".to_owned(),
        spec_version: "1.0".to_owned(),
        r#type: "com.example.test".to_owned(),
        data: Some(Data::TextData(data.to_owned())),
        ..CloudEvent::default()
    }
}

/// The agent side of a stream.
pub struct Agent {
    pub up: mpsc::Sender<agent::ConnectRequest>,
    pub down: Streaming<agent::ConnectResponse>,
    pub welcome: agent::Welcome,
    waiting: std::collections::VecDeque<Down>,
    number: u64,
    seen: u64,
}

pub fn hello(boot: &str, claims: Vec<agent::LeaseClaim>) -> agent::Hello {
    let general = agent::ServedGeneral { r#type: "general-purpose-general".to_owned(), ..Default::default() };
    agent::Hello {
        protocol_min: 1,
        protocol_max: 1,
        version: "0.1.0".to_owned(),
        cluster: "c1".to_owned(),
        region: "eu".to_owned(),
        instance_id: "i1".to_owned(),
        boot_id: boot.to_owned(),
        generals: vec![general],
        claims,
        ..Default::default()
    }
}

impl Agent {
    pub async fn dial(server: &Running, hello: agent::Hello) -> Result<Agent, Status> {
        Agent::over(Channel::from_shared(server.agents.clone()).unwrap().connect().await.unwrap(), hello).await
    }

    pub async fn over(channel: Channel, hello: agent::Hello) -> Result<Agent, Status> {
        let (up, receiver) = mpsc::channel(64);
        let message = agent::AgentMessage { message: Some(Up::Hello(hello)) };
        up.send(agent::ConnectRequest { first_number: 1, messages: vec![message] }).await.unwrap();
        let mut client = AgentServiceClient::new(channel);
        let down = client.connect(ReceiverStream::new(receiver)).await?.into_inner();
        let welcome = agent::Welcome::default();
        let mut agent = Agent { up, down, welcome, waiting: Default::default(), number: 2, seen: 0 };
        match agent.next().await? {
            Down::Welcome(welcome) => agent.welcome = welcome,
            other => panic!("{other:?}"),
        }
        Ok(agent)
    }

    /// An agent that takes work at once.
    pub async fn ready(server: &Running, boot: &str, capacity: u32) -> Agent {
        let mut agent = Agent::dial(server, hello(boot, Vec::new())).await.unwrap();
        agent.grant(capacity).await;
        agent
    }

    pub async fn grant(&mut self, capacity: u32) {
        let general = agent::GeneralGrant { general: "general-purpose-general".to_owned(), capacity };
        self.say(Up::Grant(agent::Grant { generals: vec![general], last_assign: 0 })).await;
    }

    pub async fn say(&mut self, message: Up) {
        let message = agent::AgentMessage { message: Some(message) };
        let frame = agent::ConnectRequest { first_number: self.number, messages: vec![message] };
        self.number += 1;
        self.up.send(frame).await.unwrap();
    }

    /// The number of the next message, for a frame that the caller builds.
    pub fn take_number(&mut self) -> u64 {
        self.number += 1;
        self.number - 1
    }

    pub async fn next(&mut self) -> Result<Down, Status> {
        loop {
            if let Some(message) = self.waiting.pop_front() {
                return Ok(message);
            }
            let frame = tokio::time::timeout(PATIENCE, self.down.message()).await.expect("nothing came down")?;
            let frame = frame.ok_or_else(|| Status::ok("the stream ended"))?;
            assert_eq!(frame.first_number, self.seen + 1);
            self.seen += frame.messages.len() as u64;
            self.waiting.extend(frame.messages.into_iter().map(|message| message.message.unwrap()));
        }
    }

    pub async fn assignment(&mut self) -> agent::Assign {
        match self.next().await.unwrap() {
            Down::Assign(assign) => assign,
            other => panic!("{other:?}"),
        }
    }

    pub async fn succeed_using(&mut self, assign: &agent::Assign, usage: delivery::Usage) {
        self.say(Up::Result(agent::Result { usage: vec![usage], ..succeeded(assign, "done") })).await;
    }

    pub async fn succeed(&mut self, assign: &agent::Assign, output: &str) {
        self.say(Up::Result(succeeded(assign, output))).await;
    }

    pub async fn settled(&mut self) -> agent::Settled {
        match self.next().await.unwrap() {
            Down::Settled(settled) => settled,
            other => panic!("{other:?}"),
        }
    }
}

fn succeeded(assign: &agent::Assign, output: &str) -> agent::Result {
    agent::Result {
        delivery_id: assign.delivery_id.clone(),
        token: assign.token,
        outcome: Some(agent::result::Outcome::Succeeded(delivery::Succeeded {})),
        output: output.to_owned().into(),
        output_content_type: "text/plain".to_owned(),
        ..Default::default()
    }
}
