//! How much one agent costs: assignments with 1 KiB of payload in, results of 100 bytes out, over loopback.
//!
//! cargo bench -p mindos-sdk --bench stream -- [seconds] [slots]
//!
//! The control plane's end is played by a thread of its own that keeps every slot filled; the agent's end runs on one thread, whose
//! CPU time is what the figure at the end tells.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mindos_proto::agent::v1::agent_message::Message as Up;
use mindos_proto::agent::v1::{ConnectRequest, SettleVerdict, Settled, Welcome};
use mindos_proto::delivery::v1::Token;
use mindos_proto::wire::agent_service_server::{AgentService, AgentServiceServer};
use mindos_proto::wire::{AssignWire, ConnectResponseWire, ControlWire};
use mindos_sdk::agent::{Adapter, Body, Connection, Finish, Identity, Start};
use mindos_sdk::model::{BootId, ClusterName, InstanceId};
use mindos_sdk::{Config, Event, GeneralIndex, general_config};
use mindos_sidecar_core::Outcome;
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

type Frames = Pin<Box<dyn Stream<Item = Result<ConnectResponseWire, Status>> + Send>>;

/// Assigns without end, and counts what is settled.
struct Plane {
    event: Bytes,
    slots: u64,
    settled: Arc<AtomicU64>,
}

#[tonic::async_trait]
impl AgentService for Plane {
    type ConnectStream = Frames;

    async fn connect(&self, request: Request<Streaming<ConnectRequest>>) -> Result<Response<Frames>, Status> {
        let (sender, receiver) = mpsc::channel(4);
        tokio::spawn(assign(request.into_inner(), sender, self.event.clone(), self.slots, self.settled.clone()));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

async fn assign(
    mut up: Streaming<ConnectRequest>,
    down: mpsc::Sender<Result<ConnectResponseWire, Status>>,
    event: Bytes,
    slots: u64,
    settled: Arc<AtomicU64>,
) {
    let (mut numbered, mut next) = (0, 0);
    let token = Some(Token { epoch: 1, term: 1 });
    while let Ok(Some(frame)) = up.message().await {
        let (mut messages, mut free) = (Vec::new(), 0);
        for message in frame.messages {
            match message.message {
                Some(Up::Hello(_)) => {
                    messages.push(ControlWire::Welcome(Welcome { session: "1".into(), ..Default::default() }))
                }
                Some(Up::Grant(_)) => free += slots,
                Some(Up::Result(result)) => {
                    let verdict = SettleVerdict::Settled.into();
                    messages.push(ControlWire::Settled(Settled {
                        delivery_id: result.delivery_id,
                        token,
                        verdict,
                        effect_ids: vec![],
                    }));
                    settled.fetch_add(1, Ordering::Relaxed);
                    free += 1;
                }
                _ => {}
            }
        }
        for _ in 0..free {
            next += 1;
            messages.push(ControlWire::Assign(AssignWire {
                delivery_id: format!("d{next}.1"),
                token,
                general: "echo".into(),
                event: event.clone(),
                attempt: 1,
                lane: "octocat/hello-world/pr/7".into(),
                event_seq: next,
                ..Default::default()
            }));
        }
        // Frames of about 256 KiB.
        while !messages.is_empty() {
            let rest = messages.split_off(messages.len().min(200));
            let first_number = numbered + 1;
            numbered += messages.len() as u64;
            let messages = std::mem::replace(&mut messages, rest).into_iter().map(Into::into).collect();
            if down.send(Ok(ConnectResponseWire { first_number, messages, encoded: Bytes::new() })).await.is_err() {
                return;
            }
        }
    }
}

/// Answers at once with 100 bytes.
struct Echo(Bytes);

impl Adapter for Echo {
    fn start(&mut self, _: Start) -> Option<Finish> {
        let body = Body { output: self.0.clone(), ..Body::default() };
        Some(Finish { outcome: Outcome::Succeeded, body })
    }

    fn stop(&mut self, _: mindos_sdk::model::DeliveryId, _: mindos_sdk::model::Token, _: Duration) {}
}

fn main() {
    let mut args = std::env::args().skip(1).filter(|arg| !arg.starts_with("--"));
    let seconds: u64 = args.next().and_then(|arg| arg.parse().ok()).unwrap_or(5);
    let slots: u32 = args.next().and_then(|arg| arg.parse().ok()).unwrap_or(512);
    let settled = Arc::new(AtomicU64::new(0));
    let (address_to, address) = std::sync::mpsc::channel();
    let counted = settled.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            address_to.send(listener.local_addr().unwrap()).unwrap();
            let data: Vec<u8> = (0..1024u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
            let event = Event::new("bench", "1", "bench").data("application/octet-stream", data);
            let event = event.message().encode_to_vec().into();
            let plane = Plane { event, slots: u64::from(slots), settled: counted };
            let window = 16 * 1024 * 1024;
            tonic::transport::Server::builder()
                .initial_stream_window_size(window)
                .initial_connection_window_size(window)
                .add_service(AgentServiceServer::new(plane))
                .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
                .await
                .unwrap();
        });
    });
    let url = format!("http://{}", address.recv().unwrap());
    let agent = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let (cluster, instance) = (ClusterName::new("bench").unwrap(), InstanceId::new("i1").unwrap());
            let config = Config::new(
                cluster,
                instance,
                BootId::new("b1").unwrap(),
                vec![general_config("echo", slots).unwrap()],
                1,
            );
            let connection = Connection::new(&url, config, Identity::default()).unwrap();
            let handle = connection.handle();
            handle.ready(GeneralIndex(0), true);
            let began = Instant::now();
            let stop = handle.clone();
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_secs(seconds));
                stop.drain(Duration::from_secs(1));
            });
            connection.run(Echo(Bytes::from_static(&[b'x'; 100]))).await;
            (began.elapsed(), cpu())
        })
    });
    let (took, cpu) = agent.join().unwrap();
    let count = settled.load(Ordering::Relaxed);
    println!(
        "{{\"deliveries\": {count}, \"per_second\": {:.0}, \"agent_cpu_us_per_delivery\": {:.3}, \"slots\": {slots}}}",
        count as f64 / took.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / count as f64,
    );
}

/// CPU time of this thread.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(stat.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or_default())
}
