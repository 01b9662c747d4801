//! The sidecar's program, as a pod ends: what asks it to drain, and what it does when the general beside it has gone.

#[path = "../../../sdk/rust/tests/plane/mod.rs"]
mod plane;

use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

use mindos_proto::agent::v1::result::Outcome;
use mindos_proto::agent::v1::{LeaseClaim, Verdict};
use mindos_sdk::Event;
use plane::{Plane, assign};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::timeout;

const LONG: Duration = Duration::from_secs(20);
const TOKEN: &str = "0123456789abcdef";

/// Ends with the test.
struct Sidecar(Child);

impl Sidecar {
    fn start(plane: &Plane, general: &str, more: &[&str]) -> Sidecar {
        let args = ["--control-plane", &plane.url, "--cluster", "c1", "--instance", "i1", "--general", general];
        let child = Command::new(env!("CARGO_BIN_EXE_mindos-sidecar"))
            .args(args)
            .args(more)
            .env("MINDOS_DRAIN_TOKEN", TOKEN)
            .spawn();
        Sidecar(child.unwrap())
    }

    fn terminate(&self) {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    }

    /// Its exit code.
    async fn ended(&mut self) -> Option<i32> {
        let ends = async {
            loop {
                if let Some(status) = self.0.try_wait().unwrap() {
                    return status.code();
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(LONG, ends).await.expect("it ends")
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A general on a port of its own, ready at another path, that answers work at another path once it is let.
async fn general(lets: Arc<Notify>) -> (String, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let serving = tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let lets = lets.clone();
            tokio::spawn(async move {
                let mut bytes = [0; 8192];
                let read = socket.read(&mut bytes).await.unwrap_or_default();
                let text = String::from_utf8_lossy(&bytes[..read]).into_owned();
                let status = match text.split(' ').nth(1) {
                    Some("/healthz") => "200 OK",
                    Some("/v1/work") => {
                        lets.notified().await;
                        "200 OK"
                    }
                    _ => "404 Not Found",
                };
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}");
                let _ = socket.write_all(answer.as_bytes()).await;
                let _ = socket.shutdown().await;
            });
        }
    });
    (url, serving)
}

async fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

/// Status of a request for a drain.
async fn ask(port: u16, path: &str, token: &str) -> u16 {
    let mut socket = loop {
        match TcpStream::connect(("127.0.0.1", port)).await {
            Ok(socket) => break socket,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n{token}\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn who_stops_the_general_is_kept_until_its_work_is_done_and_settled() {
    let lets = Arc::new(Notify::new());
    let (url, _serving) = general(lets.clone()).await;
    let mut plane = Plane::start().await;
    let port = free_port().await;
    let spec = format!("name=sec,type=security-general,ready=/healthz,process=/v1/work,url={url}");
    let mut sidecar = Sidecar::start(&plane, &spec, &["--ready-listen", &format!("127.0.0.1:{port}")]);
    let mut session = plane.welcome(|_: &LeaseClaim| Verdict::Keep).await.0;
    session.granted().await;
    session.send(assign("d1.1", 1, "sec", Event::new("s", "e", "t").json("{}").into_message()));
    tokio::time::sleep(Duration::from_millis(300)).await;
    for (path, header) in
        [("/drain", ""), ("/drain/", ""), ("/drain/another", ""), ("/drain", "mindos-drain: another\r\n")]
    {
        assert_eq!(ask(port, path, header).await, 403, "{path} {header}");
    }

    let asked = tokio::spawn(async move { ask(port, "/drain", &format!("mindos-drain: {TOKEN}\r\n")).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!asked.is_finished(), "it was answered while work ran");
    lets.notify_waiters();
    let result = session.result().await;
    assert!(matches!(result.outcome, Some(Outcome::Succeeded(_))), "{result:?}");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!asked.is_finished(), "it was answered before the result was settled");
    session.settle("d1.1", 1);
    assert_eq!(timeout(LONG, asked).await.unwrap().unwrap(), 200);
    assert_eq!(ask(port, &format!("/drain/{TOKEN}"), "").await, 200, "as kubelets ask that send no headers");

    assert!(sidecar.0.try_wait().unwrap().is_none(), "it waits for SIGTERM");
    sidecar.terminate();
    assert_eq!(sidecar.ended().await, Some(0));
}

#[tokio::test]
async fn a_sidecar_ends_with_its_general_where_it_is_told_to() {
    let (url, serving) = general(Arc::default()).await;
    let mut plane = Plane::start().await;
    let spec = format!("type=security-general,ready=/healthz,url={url}");
    let mut sidecar = Sidecar::start(&plane, &spec, &["--end-with-general", "1"]);
    let mut session = plane.welcome(|_: &LeaseClaim| Verdict::Keep).await.0;
    session.granted().await;
    assert!(sidecar.0.try_wait().unwrap().is_none());
    serving.abort();
    assert_eq!(sidecar.ended().await, Some(0));
}
