//! The other end of an agent's stream, played by a test: a real gRPC server on loopback that does what the test says.

#![allow(dead_code, unreachable_pub)]

use std::pin::Pin;
use std::time::Duration;

use mindos_proto::agent::v1::agent_message::Message as Up;
use mindos_proto::agent::v1::agent_service_server::{AgentService, AgentServiceServer};
use mindos_proto::agent::v1::control_message::Message as Down;
use mindos_proto::agent::v1::repository_service_server::{RepositoryService, RepositoryServiceServer};
use mindos_proto::agent::v1::{
    AgentMessage, Assign, ConnectRequest, ConnectResponse, ControlMessage, GetRepositoryAccessRequest,
    GetRepositoryAccessResponse, Grant, Hello, LeaseClaim, LeaseVerdict, SettleVerdict, Settled, Verdict, Welcome,
};
use mindos_proto::cloudevents::v1::CloudEvent;
use mindos_proto::delivery::v1::Token;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::Stream;
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tonic::{Request, Response, Status, Streaming};

const WAIT: Duration = Duration::from_secs(20);

/// A server that hands every stream to the test.
pub struct Plane {
    pub url: String,
    streams: mpsc::UnboundedReceiver<Session>,
}

/// One stream.
pub struct Session {
    up: Streaming<ConnectRequest>,
    down: mpsc::UnboundedSender<Result<ConnectResponse, Status>>,
    waiting: std::collections::VecDeque<AgentMessage>,
    numbered_up: u64,
    numbered_down: u64,
}

struct Service(mpsc::UnboundedSender<Session>);

#[tonic::async_trait]
impl AgentService for Service {
    type ConnectStream = Pin<Box<dyn Stream<Item = Result<ConnectResponse, Status>> + Send>>;

    async fn connect(
        &self,
        request: Request<Streaming<ConnectRequest>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let (down, messages) = mpsc::unbounded_channel();
        let session =
            Session { up: request.into_inner(), down, waiting: Default::default(), numbered_up: 0, numbered_down: 0 };
        self.0.send(session).map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(messages))))
    }
}

/// Gives access to the first delivery, and to no other.
struct Repositories;

#[tonic::async_trait]
impl RepositoryService for Repositories {
    async fn get_repository_access(
        &self,
        request: Request<GetRepositoryAccessRequest>,
    ) -> Result<Response<GetRepositoryAccessResponse>, Status> {
        let GetRepositoryAccessRequest { delivery_id, token, repository } = request.into_inner();
        if (delivery_id.as_str(), token, repository.as_str()) != ("d1.1", Some(Token { epoch: 1, term: 1 }), "") {
            return Err(Status::permission_denied("the lease is not yours"));
        }
        Ok(Response::new(GetRepositoryAccessResponse {
            repository: "octo/hello".to_owned(),
            api_url: "https://api.github.com".to_owned(),
            clone_url: "https://github.com/octo/hello.git".to_owned(),
            token: "hush".to_owned(),
            expires_at: Some(prost_types::Timestamp { seconds: 1_795_176_000, nanos: 0 }),
            author: "mindos[bot]".to_owned(),
        }))
    }
}

impl Plane {
    pub async fn start() -> Plane {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (sessions, streams) = mpsc::unbounded_channel();
        let server = tonic::transport::Server::builder()
            .add_service(AgentServiceServer::new(Service(sessions)))
            .add_service(RepositoryServiceServer::new(Repositories))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        Plane { url, streams }
    }

    /// The next stream that is opened.
    pub async fn accept(&mut self) -> Session {
        timeout(WAIT, self.streams.recv()).await.expect("nobody dialled").unwrap()
    }

    /// The next stream, its `Hello`, answered by a `Welcome` with the verdicts that `judge` gives.
    pub async fn welcome(&mut self, judge: impl Fn(&LeaseClaim) -> Verdict) -> (Session, Hello) {
        let mut session = self.accept().await;
        let Up::Hello(hello) = session.next().await.expect("the stream ended") else { panic!("no hello came first") };
        let verdicts = hello.claims.iter().map(|claim| LeaseVerdict {
            delivery_id: claim.delivery_id.clone(),
            token: claim.token,
            verdict: judge(claim).into(),
        });
        session.send(Down::Welcome(Welcome {
            session: "1.1".into(),
            epoch: 1,
            protocol: 1,
            verdicts: verdicts.collect(),
            ..Default::default()
        }));
        (session, hello)
    }
}

impl Session {
    /// The next message of any kind; `None` when the stream has ended.
    pub async fn next(&mut self) -> Option<Up> {
        loop {
            if let Some(message) = self.waiting.pop_front() {
                return message.message;
            }
            let frame = timeout(WAIT, self.up.message()).await.expect("nothing came").ok()??;
            assert_eq!(frame.first_number, self.numbered_up + 1, "messages are numbered without gaps");
            assert!(!frame.messages.is_empty(), "a frame has at least one message");
            self.numbered_up += frame.messages.len() as u64;
            self.waiting.extend(frame.messages);
        }
    }

    /// The next message that is about work.
    pub async fn next_work(&mut self) -> Option<Up> {
        loop {
            match self.next().await? {
                Up::Grant(_) | Up::Heartbeat(_) => {}
                other => return Some(other),
            }
        }
    }

    /// Waits for a grant of more than nothing.
    pub async fn granted(&mut self) -> Grant {
        loop {
            match self.next().await.expect("the stream ended") {
                Up::Grant(grant) if grant.generals.iter().any(|general| general.capacity > 0) => return grant,
                _ => {}
            }
        }
    }

    /// The next result; everything else on the way is skipped.
    pub async fn result(&mut self) -> mindos_proto::agent::v1::Result {
        loop {
            if let Up::Result(result) = self.next().await.expect("the stream ended") {
                return result;
            }
        }
    }

    pub fn send(&mut self, message: Down) {
        self.send_all([message]);
    }

    pub fn send_all(&mut self, messages: impl IntoIterator<Item = Down>) {
        let messages: Vec<_> = messages.into_iter().map(|message| ControlMessage { message: Some(message) }).collect();
        let first_number = self.numbered_down + 1;
        self.numbered_down += messages.len() as u64;
        let _ = self.down.send(Ok(ConnectResponse { first_number, messages }));
    }

    /// Leaves a gap in the numbers.
    pub fn skip_number(&mut self) {
        self.numbered_down += 1;
    }

    pub fn settle(&mut self, delivery_id: &str, term: u32) {
        self.send(Down::Settled(Settled {
            delivery_id: delivery_id.into(),
            token: Some(Token { epoch: 1, term }),
            verdict: SettleVerdict::Settled.into(),
            effect_ids: vec![],
        }));
    }

    pub fn fail(&mut self, status: Status) {
        let _ = self.down.send(Err(status));
    }
}

pub fn assign(delivery_id: &str, term: u32, general: &str, event: CloudEvent) -> Down {
    Down::Assign(Assign {
        delivery_id: delivery_id.into(),
        token: Some(Token { epoch: 1, term }),
        general: general.into(),
        event: Some(event),
        attempt: 1,
        lane: "l".into(),
        route: "r".into(),
        ..Default::default()
    })
}
