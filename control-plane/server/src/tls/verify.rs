//! Whether a client's certificate lets it in: the path to a root by rustls-webpki, then what it is judged by. Of an agent that is its
//! name, and whether it is kept out; of others see who asks for a [`Verifier`].
//!
//! Invariant: no path is checked here by other means than rustls-webpki's.

use std::fmt;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};

use super::identity::AgentIdentity;

/// Says whether an agent is kept out; nobody is until it is set.
#[derive(Clone, Default)]
pub struct Denied(Arc<OnceLock<Asked>>);

type Asked = Box<dyn Fn(&AgentIdentity) -> bool + Send + Sync>;

impl Denied {
    /// Says from here on who is kept out.
    pub fn ask(&self, asked: impl Fn(&AgentIdentity) -> bool + Send + Sync + 'static) {
        let _ = self.0.set(Box::new(asked));
    }

    /// Whether an agent is kept out.
    #[must_use]
    pub fn holds(&self, agent: &AgentIdentity) -> bool {
        self.0.get().is_some_and(|asked| asked(agent))
    }
}

impl fmt::Debug for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Denied")
    }
}

/// What a certificate is judged by beside its path to a root.
pub trait Judge: fmt::Debug + Send + Sync {
    /// Whether whoever shows this certificate is let in.
    ///
    /// # Errors
    /// What is wrong with it, as TLS names it.
    fn judge(&self, leaf: &CertificateDer<'_>) -> Result<(), Error>;
}

/// Checks the certificates that clients show.
#[derive(Debug)]
pub struct Verifier<J> {
    path: Arc<dyn ClientCertVerifier>,
    judge: J,
}

impl<J: Judge> Verifier<J> {
    /// One that trusts these roots.
    ///
    /// # Errors
    /// When there are none, or one that is no certificate.
    pub fn over(roots: impl IntoIterator<Item = CertificateDer<'static>>, judge: J) -> Result<Verifier<J>, String> {
        let mut store = RootCertStore::empty();
        for root in roots {
            store.add(root).map_err(|error| error.to_string())?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider);
        // A client has one certificate and needs no hint which to show.
        let path = builder.clear_root_hint_subjects().build().map_err(|error| error.to_string())?;
        Ok(Verifier { path, judge })
    }
}

impl<J: Judge> ClientCertVerifier for Verifier<J> {
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
        self.judge.judge(end_entity).map(|()| verified)
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

/// Checks the certificates of agents.
pub type AgentVerifier = Verifier<Agents>;

/// Lets in agents of the trust domain that are not kept out.
#[derive(Debug)]
pub struct Agents {
    trust_domain: Arc<str>,
    denied: Denied,
}

impl Agents {
    fn agent(&self, leaf: &CertificateDer<'_>) -> Result<AgentIdentity, Error> {
        let agent = AgentIdentity::of(leaf, &self.trust_domain);
        let agent = agent.map_err(|_| CertificateError::ApplicationVerificationFailure)?;
        if self.denied.holds(&agent) { Err(CertificateError::Revoked.into()) } else { Ok(agent) }
    }
}

impl Judge for Agents {
    fn judge(&self, leaf: &CertificateDer<'_>) -> Result<(), Error> {
        self.agent(leaf).map(drop)
    }
}

impl AgentVerifier {
    /// One that trusts these roots.
    ///
    /// # Errors
    /// When there are none, or one that is no certificate.
    pub fn new(
        roots: impl IntoIterator<Item = CertificateDer<'static>>,
        trust_domain: &Arc<str>,
        denied: &Denied,
    ) -> Result<AgentVerifier, String> {
        Verifier::over(roots, Agents { trust_domain: Arc::clone(trust_domain), denied: denied.clone() })
    }

    /// Who shows this certificate, leaf first, at that time.
    ///
    /// # Errors
    /// What is wrong with the certificate, as TLS names it.
    pub fn agent(&self, certificates: &[CertificateDer<'_>], at: UnixTime) -> Result<AgentIdentity, Error> {
        let (leaf, intermediates) = certificates.split_first().ok_or(Error::NoCertificatesPresented)?;
        self.path.verify_client_cert(leaf, intermediates, at)?;
        self.judge.agent(leaf)
    }

    /// Whether an agent is kept out.
    #[must_use]
    pub fn denies(&self, agent: &AgentIdentity) -> bool {
        self.judge.denied.holds(agent)
    }
}
