//! An authority and a TLS server of its own, played by a test: real certificates, real handshakes, on loopback.

#![allow(dead_code, unreachable_pub)]

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose, SanType};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::server::Connected;

/// A root that signs.
pub struct Authority {
    pub issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(rcgen::DnType::CommonName, "a test's authority");
        Authority { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    pub fn root(&self) -> CertificateDer<'static> {
        self.issuer.der().clone()
    }

    /// A certificate of a server on 127.0.0.1, good from and until so many seconds from now.
    pub fn server(&self, from: i64, until: i64) -> (CertificateDer<'static>, KeyPair) {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.not_before = at(from);
        params.not_after = at(until);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().into(), key)
    }

    /// A certificate of a client that is called `uri`.
    pub fn client(&self, uri: &str) -> (CertificateDer<'static>, KeyPair) {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
        params.not_before = at(-60);
        params.not_after = at(3600);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().into(), key)
    }
}

fn at(seconds: i64) -> time::OffsetDateTime {
    time::OffsetDateTime::from(SystemTime::now()) + time::Duration::seconds(seconds)
}

pub fn key(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::try_from(key.serialize_der()).unwrap()
}

/// The leaf that a client showed at its handshake.
#[derive(Clone, Debug, Default)]
pub struct Shown(pub Option<Vec<u8>>);

/// The server's end of a TLS connection.
pub struct Socket(TlsStream<TcpStream>);

impl Connected for Socket {
    type ConnectInfo = Shown;

    fn connect_info(&self) -> Shown {
        Shown(self.0.get_ref().1.peer_certificates().and_then(<[_]>::first).map(|leaf| leaf.to_vec()))
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// A listener whose certificate and clients' roots can be changed between connections.
#[derive(Clone)]
pub struct Listener {
    pub url: String,
    config: Arc<Mutex<Arc<ServerConfig>>>,
}

impl Listener {
    /// Speaks TLS with `certificate`; asks clients for a certificate of `clients` if that is given.
    pub async fn start(
        certificate: (CertificateDer<'static>, KeyPair),
        clients: Option<&Authority>,
    ) -> (Listener, UnboundedReceiverStream<std::io::Result<Socket>>) {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", tcp.local_addr().unwrap());
        let config = Arc::new(Mutex::new(server_config(certificate, clients)));
        let (sender, sockets) = mpsc::unbounded_channel();
        let current = config.clone();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = tcp.accept().await {
                let acceptor = TlsAcceptor::from(current.lock().unwrap().clone());
                let sender = sender.clone();
                tokio::spawn(async move {
                    if let Ok(Ok(tls)) = tokio::time::timeout(Duration::from_secs(5), acceptor.accept(tcp)).await {
                        let _ = sender.send(Ok(Socket(tls)));
                    }
                });
            }
        });
        (Listener { url, config }, UnboundedReceiverStream::new(sockets))
    }

    pub fn replace(&self, certificate: (CertificateDer<'static>, KeyPair), clients: Option<&Authority>) {
        *self.config.lock().unwrap() = server_config(certificate, clients);
    }
}

fn server_config(
    (certificate, server_key): (CertificateDer<'static>, KeyPair),
    clients: Option<&Authority>,
) -> Arc<ServerConfig> {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap();
    let builder = match clients {
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.root()).unwrap();
            builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap(),
            )
        }
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(vec![certificate], key(&server_key)).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}
