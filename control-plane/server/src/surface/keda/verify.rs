//! Whether a client certificate is KEDA's, by one of the names in it.

use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, DnsName, ServerName};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, Error};

use crate::tls::verify::{Judge, Verifier};

/// Checks the certificate that KEDA shows.
pub type ClientVerifier = Verifier<Names>;

/// One of them has to fit; none lets every certificate of the roots in.
#[derive(Debug)]
pub struct Names(Vec<ServerName<'static>>);

impl Judge for Names {
    fn judge(&self, leaf: &CertificateDer<'_>) -> Result<(), Error> {
        let leaf = ParsedCertificate::try_from(leaf)?;
        let fits = |name: &ServerName<'_>| verify_server_name(&leaf, name).is_ok();
        match self.0.is_empty() || self.0.iter().any(fits) {
            true => Ok(()),
            false => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }
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
        let name = |name: &String| {
            let name = DnsName::try_from(name.clone()).map_err(|error| error.to_string())?;
            Ok(ServerName::DnsName(name))
        };
        Verifier::over(roots, Names(names.iter().map(name).collect::<Result<_, String>>()?))
    }
}
