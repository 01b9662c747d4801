//! Streams that break when the control plane ends, and what follows them while it starts again.

use std::pin::Pin;
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use mindos_proto::delivery::v1 as delivery;
use mindos_proto::delivery::v1::delivery_service_server::{DeliveryService, DeliveryServiceServer};
use mindos_proto::ledger::v1 as ledger;
use mindos_proto::ledger::v1::ledger_service_server::{LedgerService, LedgerServiceServer};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio_stream::Stream;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A control plane that ends after the first message, refuses the next call because it is starting, and then is there. Remembers from where
/// it was asked.
#[derive(Clone, Default)]
struct Plane(Arc<Mutex<Vec<u64>>>);

impl Plane {
    async fn start(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = tonic::transport::Server::builder()
            .add_service(LedgerServiceServer::new(self.clone()))
            .add_service(DeliveryServiceServer::new(self.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        url
    }

    fn asked(&self) -> Vec<u64> {
        self.0.lock().unwrap().clone()
    }

    fn answer<T: Send + 'static>(&self, from: u64, message: T) -> Result<Response<Boxed<T>>, Status> {
        let mut asked = self.0.lock().unwrap();
        asked.push(from);
        let end = match asked.len() {
            1 => Some(Err(Status::unavailable("the control plane ends"))),
            2 => return Err(Status::unavailable("the control plane starts")),
            _ => None,
        };
        Ok(Response::new(Box::pin(tokio_stream::iter([Ok(message)].into_iter().chain(end)))))
    }
}

#[tonic::async_trait]
impl LedgerService for Plane {
    type TailStream = Boxed<ledger::TailResponse>;

    async fn tail(&self, request: Request<ledger::TailRequest>) -> Result<Response<Self::TailStream>, Status> {
        let from = request.into_inner().from_seq;
        let entry = ledger::LedgerEntry { seq: from, kind: "fence_raised".to_owned(), ..Default::default() };
        self.answer(from, ledger::TailResponse { entries: vec![entry], seq: from })
    }

    type VerifyStream = Boxed<ledger::VerifyResponse>;

    async fn verify(&self, _: Request<ledger::VerifyRequest>) -> Result<Response<Self::VerifyStream>, Status> {
        Err(Status::unimplemented("nothing is verified"))
    }

    type ExportStream = Boxed<ledger::ExportResponse>;

    async fn export(&self, request: Request<ledger::ExportRequest>) -> Result<Response<Self::ExportStream>, Status> {
        let after = request.into_inner().after_seq;
        let chunk = Bytes::from(format!("part {after} "));
        self.answer(after, ledger::ExportResponse { chunk, seq: after + 1, through_seq: 2 })
    }

    async fn list_checkpoints(
        &self,
        _: Request<ledger::ListCheckpointsRequest>,
    ) -> Result<Response<ledger::ListCheckpointsResponse>, Status> {
        Err(Status::unimplemented("nothing is listed"))
    }

    async fn list_keys(
        &self,
        _: Request<ledger::ListKeysRequest>,
    ) -> Result<Response<ledger::ListKeysResponse>, Status> {
        Err(Status::unimplemented("nothing is listed"))
    }

    async fn redact(&self, _: Request<ledger::RedactRequest>) -> Result<Response<ledger::RedactResponse>, Status> {
        Err(Status::unimplemented("nothing is redacted"))
    }
}

#[tonic::async_trait]
impl DeliveryService for Plane {
    async fn get(&self, _: Request<delivery::GetRequest>) -> Result<Response<delivery::GetResponse>, Status> {
        Err(Status::unimplemented("nothing is got"))
    }

    async fn list(&self, _: Request<delivery::ListRequest>) -> Result<Response<delivery::ListResponse>, Status> {
        Err(Status::unimplemented("nothing is listed"))
    }

    type WatchStream = Boxed<delivery::WatchResponse>;

    async fn watch(&self, request: Request<delivery::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let from = request.into_inner().from_seq;
        let delivery = delivery::Delivery { delivery_id: format!("d{from}.1"), ..Default::default() };
        self.answer(from, delivery::WatchResponse { delivery: Some(delivery), seq: from, caught_up: false })
    }

    async fn cancel(&self, _: Request<delivery::CancelRequest>) -> Result<Response<delivery::CancelResponse>, Status> {
        Err(Status::unimplemented("nothing is cancelled"))
    }

    async fn redrive(
        &self,
        _: Request<delivery::RedriveRequest>,
    ) -> Result<Response<delivery::RedriveResponse>, Status> {
        Err(Status::unimplemented("nothing is redriven"))
    }
}

async fn mindos(url: &str, args: &[&str], stdout: Stdio) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mindos"));
    command.args(args).env("MINDOS_SERVER", url).env("MINDOS_CONFIG", "/nonexistent/mindos.yaml");
    for name in ["MINDOS_TOKEN", "MINDOS_CONTEXT", "MINDOS_CA", "MINDOS_TENANT", "MINDOS_OUTPUT"] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped()).kill_on_drop(true);
    let output = command.spawn().unwrap().wait_with_output();
    tokio::time::timeout(Duration::from_secs(60), output).await.expect("it does not end").unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn what_follows_goes_on_when_the_control_plane_is_there_again() {
    for args in [
        &["ledger", "tail", "--follow", "--from", "1", "--output", "json"][..],
        &["deliveries", "watch", "--from", "1", "--output", "json"],
    ] {
        let plane = Plane::default();
        let url = plane.start().await;

        let output = mindos(&url, args, Stdio::piped()).await;

        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        assert_eq!(plane.asked(), [1, 2, 2], "{args:?}");
        assert_eq!(text(&output.stdout).lines().count(), 2, "{args:?}: {}", text(&output.stdout));
    }
}

#[tokio::test]
async fn an_export_goes_on_when_the_control_plane_is_there_again() {
    let plane = Plane::default();
    let url = plane.start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ledger");

    let args = ["ledger", "export", "--from", "1", "--out", file.to_str().unwrap()];
    let output = mindos(&url, &args, Stdio::piped()).await;

    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(plane.asked(), [0, 1, 1]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "part 0 part 1 ");
}

#[tokio::test]
async fn a_control_plane_that_is_starting_is_not_waited_for_at_first() {
    let plane = Plane::default();
    plane.0.lock().unwrap().push(0);
    let url = plane.start().await;

    let output = mindos(&url, &["ledger", "tail", "--follow", "--from", "1"], Stdio::piped()).await;

    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert_eq!(plane.asked(), [0, 1]);
}

#[tokio::test]
async fn what_follows_ends_when_nobody_reads_it() {
    for args in [
        &["ledger", "tail", "--follow", "--from", "1", "--output", "json"][..],
        &["deliveries", "watch", "--from", "1", "--output", "json"],
    ] {
        let plane = Plane::default();
        let url = plane.start().await;
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);

        let output = mindos(&url, args, writer.into()).await;

        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()), "{args:?}");
        assert_eq!(plane.asked(), [1], "{args:?}");
    }
}
