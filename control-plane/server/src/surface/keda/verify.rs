//! Whether a client certificate is KEDA's: the path to a root, and one of the names, both by rustls-webpki.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, DnsName, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};

/// Checks the certificate that KEDA shows.
#[derive(Debug)]
pub struct ClientVerifier {
    path: Arc<dyn ClientCertVerifier>,
    /// One of them has to fit; none lets every certificate of the roots in.
    names: Vec<ServerName<'static>>,
}

impl ClientVerifier {
    /// One that trusts these roots.
    ///
    /// # Errors
    /// When there are no roots, one is no certificate, or a name is no DNS name.
    pub fn new(
        roots: impl IntoIterator<Item = CertificateDer<'static>>,
        names: &[String],
    ) -> Result<ClientVerifier, String> {
        let mut store = RootCertStore::empty();
        for root in roots {
            store.add(root).map_err(|error| error.to_string())?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider);
        let path = builder.clear_root_hint_subjects().build().map_err(|error| error.to_string())?;
        let name = |name: &String| {
            let name = DnsName::try_from(name.clone()).map_err(|error| error.to_string())?;
            Ok(ServerName::DnsName(name))
        };
        Ok(ClientVerifier { path, names: names.iter().map(name).collect::<Result<_, String>>()? })
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.path.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.path.verify_client_cert(end_entity, intermediates, now)?;
        let leaf = ParsedCertificate::try_from(end_entity)?;
        let fits = |name: &ServerName<'_>| verify_server_name(&leaf, name).is_ok();
        if self.names.is_empty() || self.names.iter().any(fits) {
            Ok(verified)
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.path.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.path.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.path.supported_verify_schemes()
    }
}
