//! Certificates of agents, and connections under them.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use mindos_proto::identity::v1 as identity;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

/// What an agent holds.
pub struct Holder {
    pub key: KeyPair,
    pub issued: identity::Issued,
}

pub fn ders(bytes: &[bytes::Bytes]) -> Vec<CertificateDer<'static>> {
    bytes.iter().map(|der| CertificateDer::from(der.to_vec())).collect()
}

pub fn published(data_dir: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(data_dir.join("authority/roots.pem")).unwrap().map(Result::unwrap).collect()
}

pub fn client(roots: &[CertificateDer<'static>], agent: Option<&Holder>) -> ClientConfig {
    let mut store = RootCertStore::empty();
    roots.iter().for_each(|root| store.add(root.clone()).unwrap());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(store);
    let mut config = match agent {
        None => builder.with_no_client_auth(),
        Some(Holder { key, issued }) => {
            let key = PrivatePkcs8KeyDer::from(key.serialize_der());
            builder.with_client_auth_cert(ders(&issued.certificates), key.into()).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

pub async fn channel(at: &str, config: ClientConfig) -> Result<Channel, tonic::transport::Error> {
    let at: SocketAddr = at.rsplit_once('/').unwrap().1.parse().unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let dial = tower::service_fn(move |_: Uri| {
        let connector = connector.clone();
        async move {
            let stream = TcpStream::connect(at).await?;
            let stream = connector.connect(ServerName::from(at.ip()), stream).await?;
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    });
    Endpoint::from_shared(format!("http://{at}")).unwrap().connect_with_connector(dial).await
}

/// A request for a certificate of the key.
pub fn request(key: &KeyPair) -> Vec<u8> {
    CertificateParams::default().serialize_request(key).unwrap().der().to_vec()
}
