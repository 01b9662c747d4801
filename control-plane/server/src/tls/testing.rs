//! Agents and clients for tests: keys, certificates, and connections that shake hands.

#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mindos_model::Timestamp;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::authority::Authority;
use super::key::PublicKey;
use super::server_config::{Source, Tls, TlsSettings};
use crate::clock::Clock;

pub(crate) const AGENT: &str = "spiffe://mindos.local/tenant/default/cluster/c1/agent/i1";

/// What an agent holds.
pub(crate) struct Holder {
    pub(crate) key: KeyPair,
    pub(crate) chain: Vec<CertificateDer<'static>>,
}

impl Holder {
    /// One whose certificate was made at that time.
    pub(crate) fn of(authority: &Authority, uri: &str, at: Timestamp, life: Duration) -> Holder {
        let key = KeyPair::generate().unwrap();
        let made = authority.for_agent(uri, &public(&key), at, life).unwrap();
        Holder { key, chain: made.chain }
    }
}

/// The public half, by way of a request.
pub(crate) fn public(key: &KeyPair) -> PublicKey {
    PublicKey::of_request(&request(key)).unwrap()
}

pub(crate) fn request(key: &KeyPair) -> Vec<u8> {
    CertificateParams::default().serialize_request(key).unwrap().der().to_vec()
}

/// TLS by an authority in a folder, for `localhost`.
pub(crate) fn tls(dir: &Path) -> Arc<Tls> {
    let source = Source::Authority { names: vec!["localhost".parse().unwrap()] };
    let authority = dir.join("authority");
    let settings = TlsSettings {
        source,
        agent_ca: None,
        keda_ca: None,
        keda_names: Vec::new(),
        trust_domain: Arc::from("mindos.local"),
        authority,
    };
    Arc::new(Tls::start(settings, Clock::start(Timestamp(0))).unwrap())
}

/// A client that trusts these roots and shows what the agent holds.
pub(crate) fn client(roots: &[CertificateDer<'static>], agent: Option<&Holder>) -> ClientConfig {
    let mut store = RootCertStore::empty();
    roots.iter().for_each(|root| store.add(root.clone()).unwrap());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(store);
    match agent {
        None => builder.with_no_client_auth(),
        Some(Holder { key, chain }) => {
            let key = PrivatePkcs8KeyDer::from(key.serialize_der());
            builder.with_client_auth_cert(chain.clone(), key.into()).unwrap()
        }
    }
}

/// Shakes hands and says a word; what comes back, or why nothing does.
pub(crate) async fn echo(at: SocketAddr, client: ClientConfig) -> Result<String, String> {
    let mut stream = dial(at, client).await?;
    let said = async {
        stream.write_all(b"hello").await?;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).await.map(|_| String::from_utf8_lossy(&answer).into_owned())
    };
    said.await.map_err(|error: std::io::Error| error.to_string())
}

pub(crate) async fn dial(at: SocketAddr, client: ClientConfig) -> Result<TlsStream<TcpStream>, String> {
    let stream = TcpStream::connect(at).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(client)).connect(name, stream).await.map_err(|error| error.to_string())
}
