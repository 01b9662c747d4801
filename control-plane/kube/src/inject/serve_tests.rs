use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::super::decide::tests::settings;
use super::*;

const NOW_LIFE: u64 = 3600;

/// A webhook that runs, and roots that believe it.
struct Running {
    shared: Arc<Shared>,
    address: SocketAddr,
    probes: SocketAddr,
    ends: watch::Sender<bool>,
    ports: Vec<tokio::task::JoinHandle<()>>,
}

fn pair() -> Pair {
    Pair::make(&["127.0.0.1".to_owned()], super::super::keeper::now(), NOW_LIFE).unwrap()
}

async fn start() -> Running {
    let shared = Shared::new(settings(), Arc::default(), Arc::default(), None, true);
    let shared = Arc::new(shared);
    let (ends, ending) = watch::channel(false);
    let listen = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, probe_port) = (listen().await, listen().await);
    let (address, probes_at) = (port.local_addr().unwrap(), probe_port.local_addr().unwrap());
    let ports = vec![
        tokio::spawn(webhook(port, Arc::clone(&shared), ending.clone())),
        tokio::spawn(probes(probe_port, Arc::clone(&shared), ending)),
    ];
    Running { shared, address, probes: probes_at, ends, ports }
}

async fn dial(address: SocketAddr, root: &str) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(root.as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("127.0.0.1").unwrap(), stream).await
}

/// Status and body.
async fn exchange(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), head: &str, body: &[u8]) -> (u16, String) {
    let head = format!("{head}\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
    // It may hang up before it has read everything.
    let _ = stream.write_all(head.as_bytes()).await;
    let _ = stream.write_all(body).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap_or_default().parse().unwrap_or_default();
    (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

const POST: &str = "POST /inject?timeout=5s HTTP/1.1\r\ncontent-type: application/json";

fn review(pod: &Value) -> Vec<u8> {
    serde_json::to_vec(&json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {"uid": "u-1", "kind": {"group": "", "version": "v1", "kind": "Pod"}, "namespace": "agents",
            "operation": "CREATE", "object": pod},
    }))
    .unwrap()
}

fn pod() -> Value {
    json!({
        "metadata": {"labels": {"mindos.io/general": "triage"}},
        "spec": {"containers": [{"name": "general", "ports": [{"containerPort": 7000}]}]},
    })
}

#[tokio::test]
async fn a_pod_is_answered_by_a_patch_as_soon_as_everything_is_known() {
    let running = start().await;
    let probe = async |path: &str| {
        let mut stream = TcpStream::connect(running.probes).await.unwrap();
        exchange(&mut stream, &format!("GET {path} HTTP/1.1"), b"").await
    };
    assert_eq!(probe("/healthz").await.0, 200);
    assert_eq!(probe("/readyz").await, (503, "no certificate yet: see the log\n".to_owned()));
    let first = pair();
    running.shared.in_force.set(&first).unwrap();
    assert_eq!(probe("/readyz").await, (503, "version of the API server is not known yet\n".to_owned()));
    let mut stream = dial(running.address, &first.root).await.unwrap();
    assert_eq!(exchange(&mut stream, POST, &review(&pod())).await.0, 503);
    running.shared.set_version(ServerVersion { major: 1, minor: 30 });
    assert_eq!(probe("/readyz").await, (200, "ok\n".to_owned()));

    let mut stream = dial(running.address, &first.root).await.unwrap();
    let (status, body) = exchange(&mut stream, POST, &review(&pod())).await;
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (status, &answer["response"]["uid"], &answer["response"]["allowed"]),
        (200, &json!("u-1"), &json!(true))
    );
    assert_eq!(answer["response"]["patchType"], "JSONPatch");

    // Another certificate is shown from the next handshake on.
    let second = pair();
    running.shared.in_force.set(&second).unwrap();
    assert!(dial(running.address, &first.root).await.is_err());
    assert!(dial(running.address, &second.root).await.is_ok());

    let metrics = probe("/metrics").await.1;
    assert!(metrics.contains("mindos_injector_reviews_total{result=\"injected\"} 1"), "{metrics}");
    running.shared.end();
    assert_eq!(probe("/readyz").await, (503, "ending\n".to_owned()));
    running.ends.send_replace(true);
    for port in running.ports {
        tokio::time::timeout(Duration::from_secs(10), port).await.expect("it ends").unwrap();
    }
}

#[tokio::test]
async fn what_is_no_review_is_answered_by_what_is_wrong() {
    let running = start().await;
    let pair = pair();
    running.shared.in_force.set(&pair).unwrap();
    running.shared.set_version(ServerVersion { major: 1, minor: 20 });
    let nested = [b"{\"a\":".repeat(10_000), b"}".repeat(10_000)].concat();
    let beta = String::from_utf8(review(&pod())).unwrap().replace("k8s.io/v1\"", "k8s.io/v1beta1\"");
    let no_pod = review(&json!({"metadata": {}, "spec": {"containers": []}}));
    for (head, body, status, said) in [
        (POST, &b"{}"[..], 400, "apiVersion is ``: expected `admission.k8s.io/v1`"),
        (POST, b"\x00\xff", 400, "body is not an AdmissionReview"),
        (POST, b"", 400, "body is not an AdmissionReview"),
        (POST, &nested, 400, "body is not an AdmissionReview"),
        (POST, beta.as_bytes(), 400, "apiVersion is `admission.k8s.io/v1beta1`"),
        (POST, &no_pod, 400, "request.object.spec.containers is empty"),
        ("POST /inject HTTP/1.1\r\ncontent-type: text/plain", b"{}", 415, "expected content-type application/json"),
        ("GET /inject HTTP/1.1", b"", 405, "expected POST"),
        ("POST /other HTTP/1.1", b"", 404, "expected POST /inject"),
    ] {
        let mut stream = dial(running.address, &pair.root).await.unwrap();
        let (found, text) = exchange(&mut stream, head, body).await;
        assert!(found == status && text.contains(said), "{head}: {found} {text}");
    }
    // Refused by what it says of its length, before any of it is read.
    let mut stream = dial(running.address, &pair.root).await.unwrap();
    let head = format!("{POST}\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", BODY_MAX + 1);
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("expected at most 3145728 bytes"), "{answer}");
    // What is no TLS, and what says nothing, harms only itself.
    let mut plain = TcpStream::connect(running.address).await.unwrap();
    assert_eq!(exchange(&mut plain, POST, b"{}").await.0, 0);
    let _silent = TcpStream::connect(running.address).await.unwrap();
    let mut stream = dial(running.address, &pair.root).await.unwrap();
    assert_eq!(exchange(&mut stream, POST, &review(&pod())).await.0, 200);
}
