//! TLS to a control plane: whom to trust, and what certificate to show.
//!
//! TLS 1.3 by rustls on ring and nothing else. What is changed here holds for the connections made after; those that are open stay.
//! Invariant: certificates are judged by the [`PlaneClock`] and never by the wall clock.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::plane_clock::PlaneClock;

/// By how much the clocks of both sides may differ for the dates of the control plane's certificate before the time is known:
/// a machine whose clock is an hour off can join and learn the time.
pub(crate) const SKEW_MAX: Duration = Duration::from_secs(2 * 60 * 60);
/// How long a machine may have slept since it heard the time.
const SLEEP_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Certificates of one file or answer.
const CERTIFICATES_MAX: usize = 1000;

/// Whom to trust.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Roots {
    /// Whom this machine trusts.
    #[default]
    System,
    /// These roots alone.
    Certificates(Vec<CertificateDer<'static>>),
}

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is not to be had.
    #[error("failed to read `{path}`")]
    Read {
        /// Where it should be.
        path: PathBuf,
        /// Why it is not.
        source: std::io::Error,
    },
    /// Something is no PEM.
    #[error("{what} is not PEM: {reason}; expected `-----BEGIN {expected}-----`")]
    Pem {
        /// What was read.
        what: String,
        /// What a block of it begins with.
        expected: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no root to trust.
    #[error("{0} has no certificate of a root to trust: expected X.509 certificates in PEM")]
    NoRoots(String),
    /// A root that cannot be read.
    #[error("a root certificate cannot be read: {0}")]
    Root(rustls::Error),
    /// A certificate and key that cannot be shown.
    #[error("the client certificate cannot be used: {0}")]
    Client(rustls::Error),
}

impl Roots {
    /// Roots from PEM.
    ///
    /// # Errors
    /// When there is none in it.
    pub fn pem(pem: &[u8]) -> Result<Roots, TlsError> {
        read_certificates(pem, "the roots").map(Roots::Certificates)
    }

    /// Roots from a file of PEM.
    ///
    /// # Errors
    /// When the file cannot be read, or there is none in it.
    pub fn file(path: &Path) -> Result<Roots, TlsError> {
        let pem = read(path)?;
        read_certificates(&pem, &format!("`{}`", path.display())).map(Roots::Certificates)
    }

    fn store(&self) -> Result<RootCertStore, TlsError> {
        let mut store = RootCertStore::empty();
        match self {
            Roots::System => {
                let found = rustls_native_certs::load_native_certs();
                // A machine may hold roots that nobody can read; those that can be are enough.
                store.add_parsable_certificates(found.certs);
                if store.is_empty() {
                    let why = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
                    return Err(TlsError::NoRoots(format!("this machine{why}")));
                }
            }
            Roots::Certificates(certificates) => {
                for certificate in certificates {
                    store.add(certificate.clone()).map_err(TlsError::Root)?;
                }
                if store.is_empty() {
                    return Err(TlsError::NoRoots("the trust bundle".to_owned()));
                }
            }
        }
        Ok(store)
    }
}

/// How TLS is spoken to one control plane. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Tls {
    shared: Arc<Shared>,
}

struct Shared {
    provider: Arc<CryptoProvider>,
    clock: PlaneClock,
    current: Mutex<Current>,
}

struct Current {
    roots: Arc<RootCertStore>,
    client: Option<Arc<CertifiedKey>>,
    /// `None` while nobody is trusted.
    config: Option<Arc<ClientConfig>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let current = self.lock();
        f.debug_struct("Tls").field("roots", &current.roots.len()).field("client", &current.client.is_some()).finish()
    }
}

impl Tls {
    /// TLS that trusts `roots` and shows no certificate.
    ///
    /// # Errors
    /// When there is no root to trust, or one cannot be read.
    pub fn new(roots: &Roots) -> Result<Tls, TlsError> {
        Tls::with_clock(roots, PlaneClock::start())
    }

    /// The same, by the time of `clock`.
    ///
    /// # Errors
    /// As [`Tls::new`].
    pub fn with_clock(roots: &Roots, clock: PlaneClock) -> Result<Tls, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let roots = Arc::new(roots.store()?);
        let config = Some(build(&provider, &clock, &roots, None)?);
        Ok(Tls {
            shared: Arc::new(Shared { provider, clock, current: Mutex::new(Current { roots, client: None, config }) }),
        })
    }

    /// TLS that trusts nobody yet, so that no connection can be made.
    pub(crate) fn without_roots(clock: PlaneClock) -> Tls {
        let provider = Arc::new(ring::default_provider());
        let current = Current { roots: Arc::new(RootCertStore::empty()), client: None, config: None };
        Tls { shared: Arc::new(Shared { provider, clock, current: Mutex::new(current) }) }
    }

    /// The clock that certificates are judged by.
    #[must_use]
    pub fn clock(&self) -> &PlaneClock {
        &self.shared.clock
    }

    /// Trusts these roots and no other from here on.
    ///
    /// # Errors
    /// When there is none, or one cannot be read; the former roots are then kept.
    pub fn trust(&self, roots: &Roots) -> Result<(), TlsError> {
        let roots = Arc::new(roots.store()?);
        let mut current = self.lock();
        current.config = Some(build(&self.shared.provider, &self.shared.clock, &roots, current.client.clone())?);
        current.roots = roots;
        Ok(())
    }

    /// Trusts nobody from here on.
    pub(crate) fn trust_nobody(&self) {
        let mut current = self.lock();
        current.roots = Arc::new(RootCertStore::empty());
        current.config = None;
    }

    pub(crate) fn has_roots(&self) -> bool {
        self.lock().config.is_some()
    }

    /// Shows this certificate from here on: the leaf first, then intermediates.
    ///
    /// # Errors
    /// When certificate and key do not belong together or cannot be read; the former one is then kept.
    pub fn present(&self, chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<(), TlsError> {
        let certified =
            CertifiedKey::from_der(chain, key, &self.shared.provider).map_err(TlsError::Client).map(Arc::new)?;
        let mut current = self.lock();
        if current.config.is_some() {
            let client = Some(certified.clone());
            current.config = Some(build(&self.shared.provider, &self.shared.clock, &current.roots, client)?);
        }
        current.client = Some(certified);
        Ok(())
    }

    /// As [`Tls::present`], from PEM.
    ///
    /// # Errors
    /// As [`Tls::present`].
    pub fn present_pem(&self, chain: &[u8], key: &[u8]) -> Result<(), TlsError> {
        let chain = read_certificates(chain, "the client certificate")?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| TlsError::Pem {
            what: "the client's key".to_owned(),
            expected: "PRIVATE KEY",
            reason: error.to_string(),
        })?;
        self.present(chain, key)
    }

    /// What the next connection goes by.
    pub(crate) fn config(&self) -> Option<Arc<ClientConfig>> {
        self.lock().config.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Current> {
        // Nothing in here is left half done by a panic.
        self.shared.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A configuration that trusts whoever answers: only to fetch what is public and then held against a digest.
pub(crate) fn trusting_nobody(clock: &PlaneClock) -> Arc<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    finish(&provider, clock, Arc::new(Unjudged { provider: provider.clone() }), None)
}

fn build(
    provider: &Arc<CryptoProvider>,
    clock: &PlaneClock,
    roots: &Arc<RootCertStore>,
    client: Option<Arc<CertifiedKey>>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let judge = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone())
        .build()
        .map_err(|error| TlsError::Root(rustls::Error::General(error.to_string())))?;
    Ok(finish(provider, clock, Arc::new(Verifier { judge, clock: clock.clone() }), client))
}

fn finish(
    provider: &Arc<CryptoProvider>,
    clock: &PlaneClock,
    verifier: Arc<dyn ServerCertVerifier>,
    client: Option<Arc<CertifiedKey>>,
) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_details(provider.clone(), Arc::new(clock.clone()))
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has suites of TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match client {
        Some(client) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(client))),
        None => builder.with_no_client_auth(),
    };
    // A resumed session would speak for the certificate that began it.
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

/// Judges the control plane's certificate as everybody does, but for a bounded difference of the clocks.
#[derive(Debug)]
struct Verifier {
    judge: Arc<WebPkiServerVerifier>,
    clock: PlaneClock,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let judge = |at| self.judge.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, at);
        let refused = match judge(now) {
            Ok(verified) => return Ok(verified),
            Err(refused) => refused,
        };
        // Whoever has to learn the time has to get through first. Once it is known an end is an end, for a key may be known to others by
        // then; a certificate of the future shows that this machine slept, while its monotonic clock stood.
        let is_known = self.clock.ahead_ms().is_some();
        let (nearest, most) = match &refused {
            rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. }) if !is_known => {
                (*not_after, SKEW_MAX)
            }
            rustls::Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. }) => {
                (*not_before, if is_known { SLEEP_MAX } else { SKEW_MAX })
            }
            _ => return Err(refused),
        };
        if now.as_secs().abs_diff(nearest.as_secs()) > most.as_secs() {
            return Err(refused);
        }
        judge(nearest).map_err(|_| refused)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.judge.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.judge.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.judge.supported_verify_schemes()
    }
}

/// Lets any certificate pass. See [`trusting_nobody`].
#[derive(Debug)]
struct Unjudged {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Unjudged {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

pub(crate) fn read_certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let mut certificates = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem).take(CERTIFICATES_MAX) {
        certificates.push(certificate.map_err(|error| TlsError::Pem {
            what: what.to_owned(),
            expected: "CERTIFICATE",
            reason: error.to_string(),
        })?);
    }
    if certificates.is_empty() {
        return Err(TlsError::NoRoots(what.to_owned()));
    }
    Ok(certificates)
}
