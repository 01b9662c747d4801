//! TLS of a whole server: what is spoken on which port, who gets in, and what is refused at the start.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use crate::support::{Directory, PATIENCE, Running};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A client that trusts what the server published and has no certificate.
fn nobody(data_dir: &Path) -> ClientConfig {
    let mut store = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(data_dir.join("authority/roots.pem")).unwrap() {
        store.add(root.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    builder.with_root_certificates(store).with_no_client_auth()
}

async fn dial(at: &str, client: ClientConfig) -> TlsStream<TcpStream> {
    let at: SocketAddr = at.rsplit_once('/').unwrap().1.parse().unwrap();
    let stream = TcpStream::connect(at).await.unwrap();
    let name = ServerName::from(at.ip());
    TlsConnector::from(Arc::new(client)).connect(name, stream).await.unwrap()
}

async fn all(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<String> {
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("it hung").map(|_| answer)
}

const ASK: &[u8] = b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn both_ports_speak_tls_and_agents_need_a_certificate() {
    let directory = Directory::new();
    let server = Running::with(&directory, &["--tls", "authority"]).await;

    let mut stream = dial(&server.api, nobody(&directory.0)).await;
    stream.write_all(ASK).await.unwrap();
    assert!(all(&mut stream).await.unwrap().starts_with("HTTP/1.1 200 "));

    let mut stream = dial(&server.agents, nobody(&directory.0)).await;
    let _ = stream.write_all(ASK).await;
    let error = all(&mut stream).await.unwrap_err().to_string();
    assert!(error.contains("CertificateRequired"), "{error}");

    for at in [&server.api, &server.agents] {
        let at: SocketAddr = at.rsplit_once('/').unwrap().1.parse().unwrap();
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(ASK).await.unwrap();
        assert!(all(&mut stream).await.unwrap().starts_with("HTTP/1.1 400 "));
    }

    let mut stream = dial(&server.api, nobody(&directory.0)).await;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let metrics = all(&mut stream).await.unwrap();
    for line in [
        "mindos_tls_handshakes_total{port=\"agents\",result=\"no_certificate\"} 1\n",
        "mindos_tls_handshakes_total{port=\"api\",result=\"plaintext\"} 1\n",
        "mindos_certificate_expiry_timestamp_seconds{certificate=\"server\"} 1",
        "mindos_certificate_expiry_timestamp_seconds{certificate=\"root\"} 2",
    ] {
        assert!(metrics.contains(line), "{line} in\n{metrics}");
    }
    server.stop().await;
}

/// A certificate and key in PEM, of nobody's authority, with a serial number of its own.
fn pair() -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let names = vec!["127.0.0.1".to_owned()];
    let certificate = rcgen::CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

/// The certificate that the server shows; nobody is believed here.
async fn shown(at: &str, trusted: &[&str]) -> Option<Vec<u8>> {
    let mut store = RootCertStore::empty();
    for pem in trusted {
        store.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let client = builder.with_root_certificates(store).with_no_client_auth();
    let at: SocketAddr = at.rsplit_once('/').unwrap().1.parse().unwrap();
    let stream = TcpStream::connect(at).await.unwrap();
    let stream = TlsConnector::from(Arc::new(client)).connect(ServerName::from(at.ip()), stream).await.ok()?;
    Some(stream.get_ref().1.peer_certificates().unwrap()[0].to_vec())
}

#[tokio::test]
async fn certificates_from_files_are_replaced_while_it_runs() {
    let directory = Directory::new();
    std::fs::create_dir_all(&directory.0).unwrap();
    let (certificate_at, key_at) = (directory.0.join("server.pem"), directory.0.join("server.key"));
    let (first, key) = pair();
    std::fs::write(&certificate_at, &first).unwrap();
    std::fs::write(&key_at, key).unwrap();
    let options = ["--tls-cert", certificate_at.to_str().unwrap(), "--tls-key", key_at.to_str().unwrap()];
    let server = Running::with(&directory, &options).await;
    let (second, key) = pair();
    let before = shown(&server.api, &[&first, &second]).await.unwrap();

    std::fs::write(&key_at, key).unwrap();
    std::fs::write(&certificate_at, &second).unwrap();
    let replaced = async {
        while shown(&server.api, &[&first, &second]).await.unwrap() == before {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, replaced).await.expect("the new pair was not taken");
    let after = shown(&server.api, &[&second]).await.unwrap();
    std::fs::write(&key_at, "junk").unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(shown(&server.api, &[&second]).await.unwrap(), after);
    server.stop().await;
}

#[tokio::test]
async fn a_half_open_handshake_does_not_hold_up_a_drain() {
    let directory = Directory::new();
    let server = Running::with(&directory, &["--tls", "authority"]).await;
    let at: SocketAddr = server.api.rsplit_once('/').unwrap().1.parse().unwrap();
    let mut half = TcpStream::connect(at).await.unwrap();
    half.write_all(&[0x16, 3, 1]).await.unwrap();
    let began = std::time::Instant::now();
    server.stop().await;
    assert!(began.elapsed() < std::time::Duration::from_secs(3));
}
