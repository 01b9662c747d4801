//! The server's side of TLS: which certificate it shows, whom it believes, and how both are replaced while it runs.
//!
//! ```text
//!   files | authority --> certificate \
//!   --agent-ca | authority --> roots  --> State { api, agents }, replaced as a whole
//! ```
//! Invariant: what is in force is whole and was checked; what is not accepted changes nothing and is said to be so once. Time is
//! the plane's own, so that a step of the wall clock neither ends nor begins a certificate.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use mindos_model::Timestamp;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;
use rustls::{ServerConfig, ServerConnection};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tracing::{error, info};

use super::authority::{Authority, AuthorityError, SERVER_LIFE};
use super::counts::{Handshakes, PortName};
use super::files::{self, FileError};
use super::identity::{AgentIdentity, Read};
use super::live::Live;
use super::names::Name;
use super::verify::{AgentVerifier, Denied};
use crate::clock::Clock;
use crate::logging::Chain;
use crate::metrics::{Exposition, Kind};
use crate::surface::keda::ClientVerifier;

/// Between two looks at files and the age of the certificate.
const POLL: Duration = Duration::from_secs(2);

/// Where the server's certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Files {
        certificates: PathBuf,
        key: PathBuf,
    },
    /// The built-in authority, for these names.
    Authority {
        names: Vec<Name>,
    },
}

/// What TLS is set up with.
#[derive(Clone, Debug)]
pub struct TlsSettings {
    pub source: Source,
    /// Roots of the authority that makes the certificates of agents; unset is the built-in one.
    pub agent_ca: Option<PathBuf>,
    /// Roots of the authority that makes KEDA's client certificate; unset asks it for none.
    pub keda_ca: Option<PathBuf>,
    /// Names of which that has to carry one; none lets in any.
    pub keda_names: Vec<String>,
    pub trust_domain: Arc<str>,
    /// Folder of the built-in authority.
    pub authority: PathBuf,
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("the built-in authority does not work")]
    Authority(#[from] AuthorityError),
    #[error("failed to set up TLS")]
    Tls(#[from] rustls::Error),
    #[error("roots of agents are not accepted: {0}")]
    Roots(String),
    #[error("--keda-client-ca is not accepted: {0}")]
    KedaRoots(String),
}

/// What is in force.
struct State {
    api: Arc<ServerConfig>,
    agents: Arc<ServerConfig>,
    keda: Arc<ServerConfig>,
    verifier: Arc<AgentVerifier>,
    /// When the server's certificate lapses, and when another is to be made.
    not_after: Timestamp,
    renew_at: Option<Timestamp>,
    /// SHA-256 of the server's certificate.
    digest: [u8; 32],
}

/// Content of the files, by which a change is seen.
#[derive(Clone, Default, PartialEq, Eq)]
struct Content {
    certificates: Vec<u8>,
    key: Vec<u8>,
    agent_ca: Vec<u8>,
    keda_ca: Vec<u8>,
}

/// TLS of a running server.
pub struct Tls {
    settings: TlsSettings,
    clock: Clock,
    authority: Option<Arc<Authority>>,
    denied: Denied,
    state: ArcSwap<State>,
    /// What was looked at last, taken or not.
    seen: Mutex<Content>,
    handshakes: Handshakes,
    live: Live,
    /// The digest of the server's certificate, whenever there is another.
    replaced: watch::Sender<[u8; 32]>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// The plane's time, for rustls.
#[derive(Debug)]
struct PlaneTime(Clock);

impl TimeProvider for PlaneTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix(self.0.now()))
    }
}

/// A time as rustls has it.
#[must_use]
pub fn unix(at: Timestamp) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_millis(at.0))
}

impl Tls {
    /// Sets TLS up.
    ///
    /// # Errors
    /// Names the file that is not accepted, or says why there is no authority.
    pub fn start(settings: TlsSettings, clock: Clock) -> Result<Tls, TlsError> {
        let needed = matches!(settings.source, Source::Authority { .. }) || settings.agent_ca.is_none();
        let authority = if needed { Some(Arc::new(Authority::open(&settings.authority, clock.now())?)) } else { None };
        let denied = Denied::default();
        let content = Content::read(&settings)?;
        let state = State::build(&settings, authority.as_deref(), &denied, &content, clock)?;
        let replaced = watch::Sender::new(state.digest);
        Ok(Tls {
            settings,
            clock,
            authority,
            denied,
            state: ArcSwap::from_pointee(state),
            seen: Mutex::new(content),
            handshakes: Handshakes::default(),
            live: Live::default(),
            replaced,
        })
    }

    /// What a port shakes hands with.
    #[must_use]
    pub fn config(&self, port: PortName) -> Arc<ServerConfig> {
        let state = self.state.load();
        Arc::clone(match port {
            PortName::Agents => &state.agents,
            PortName::Keda => &state.keda,
            PortName::Api | PortName::Aggregator | PortName::Platform => &state.api,
        })
    }

    /// Who is at the other end.
    #[must_use]
    pub fn agent_of(&self, connection: &ServerConnection) -> Option<AgentIdentity> {
        let leaf = connection.peer_certificates()?.first()?;
        AgentIdentity::of(leaf, &self.settings.trust_domain).ok()
    }

    /// Checks certificates of agents.
    #[must_use]
    pub fn verifier(&self) -> Arc<AgentVerifier> {
        Arc::clone(&self.state.load().verifier)
    }

    /// The built-in authority, where it is in use.
    #[must_use]
    pub fn authority(&self) -> Option<&Arc<Authority>> {
        self.authority.as_ref()
    }

    /// Whether the built-in authority makes the certificates of agents.
    #[must_use]
    pub fn issues_to_agents(&self) -> bool {
        self.settings.agent_ca.is_none()
    }

    /// Whether the server's certificate comes from files.
    #[must_use]
    pub fn is_from_files(&self) -> bool {
        matches!(self.settings.source, Source::Files { .. })
    }

    /// Roots that clients need for this server: empty where its certificate is not of the built-in authority.
    #[must_use]
    pub fn roots_for_clients(&self) -> Vec<CertificateDer<'static>> {
        match (&self.settings.source, &self.authority) {
            (Source::Authority { .. }, Some(authority)) => authority.roots(),
            _ => Vec::new(),
        }
    }

    /// The domain of SPIFFE ids.
    #[must_use]
    pub fn trust_domain(&self) -> &Arc<str> {
        &self.settings.trust_domain
    }

    /// Who is kept out.
    #[must_use]
    pub fn denied(&self) -> &Denied {
        &self.denied
    }

    /// How handshakes ended.
    #[must_use]
    pub fn handshakes(&self) -> &Handshakes {
        &self.handshakes
    }

    /// Connections of agents.
    #[must_use]
    pub fn live(&self) -> &Live {
        &self.live
    }

    /// Cuts the agents that are kept out, or whose authority is trusted no more; how many there were.
    pub fn sweep(&self) -> usize {
        let issuers: Vec<Arc<str>> = match (&self.authority, self.issues_to_agents()) {
            (Some(authority), true) => authority.names(),
            _ => Vec::new(),
        };
        let is_strange = |agent: &AgentIdentity| {
            let known = |issuer: &Arc<str>| issuers.contains(issuer);
            !issuers.is_empty() && !agent.issuer.as_ref().is_some_and(known)
        };
        self.live.sweep("denied", |agent| self.denied.holds(agent)) + self.live.sweep("root retired", is_strange)
    }

    /// The time by which certificates are judged.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// When the server's certificate lapses.
    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        self.state.load().not_after
    }

    /// The digest of the server's certificate, whenever there is another.
    #[must_use]
    pub fn replaced(&self) -> watch::Receiver<[u8; 32]> {
        self.replaced.subscribe()
    }

    /// Sets everything up again, as after a rotation.
    ///
    /// # Errors
    /// Says what is not accepted; what was in force stays.
    pub fn refresh(&self) -> Result<(), TlsError> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        *seen = Content::read(&self.settings)?;
        self.take(&seen)
    }

    fn take(&self, content: &Content) -> Result<(), TlsError> {
        let state = State::build(&self.settings, self.authority.as_deref(), &self.denied, content, self.clock)?;
        let digest = state.digest;
        self.state.store(Arc::new(state));
        self.replaced.send_if_modified(|known| std::mem::replace(known, digest) != digest);
        Ok(())
    }

    /// Looks whether a file changed or the certificate is to be replaced; true when something took effect. Blocks.
    ///
    /// # Errors
    /// Says what is not accepted; what was in force stays, and the same content is not complained about again.
    pub fn look(&self) -> Result<bool, TlsError> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let content = Content::read(&self.settings)?;
        let is_due = self.state.load().renew_at.is_some_and(|at| at <= self.clock.now());
        if content == *seen && !is_due {
            return Ok(false);
        }
        *seen = content;
        self.take(&seen)?;
        Ok(true)
    }

    /// Keeps certificates and roots current until `drain` turns true.
    pub async fn watch(self: Arc<Self>, mut drain: watch::Receiver<bool>) {
        let mut complained = false;
        loop {
            tokio::select! {
                () = tokio::time::sleep(POLL) => {}
                _ = drain.wait_for(|draining| *draining) => return,
            }
            let tls = Arc::clone(&self);
            match tokio::task::spawn_blocking(move || tls.look()).await {
                Ok(Ok(false)) => {}
                Ok(Ok(true)) => {
                    complained = false;
                    info!(not_after = %self.not_after(), "certificates were replaced");
                }
                // A file that is gone is looked for at every turn: say so once.
                Ok(Err(TlsError::File(FileError::Read { .. }))) if complained => {}
                Ok(Err(failed)) => {
                    complained = true;
                    let not_after = self.not_after();
                    error!(error = %Chain(&failed), %not_after, "certificates were NOT replaced; the last good ones stay in use");
                }
                Err(failed) => error!(error = %Chain(&failed), "a look at the certificates panicked"),
            }
        }
    }

    /// Writes what there is to see.
    pub fn expose(&self, into: &mut Exposition) {
        let help = "When a certificate lapses, in seconds since the epoch.";
        let mut family = into.family("mindos_certificate_expiry_timestamp_seconds", Kind::Gauge, help);
        family.series(&[("certificate", "server")], self.not_after().0 / 1000);
        if let Some(authority) = &self.authority {
            let roots = authority.roots();
            for (name, root) in ["root", "former_root"].iter().zip(&roots) {
                let lapses = Read::new(root).map_or(0, |read| read.not_after().0 / 1000);
                family.series(&[("certificate", name)], lapses);
            }
        }
        let help = "Connections of agents that showed a certificate.";
        into.single("mindos_agent_connections", Kind::Gauge, help, self.live.count());
        self.handshakes.expose(into);
    }
}

impl Content {
    fn read(settings: &TlsSettings) -> Result<Content, FileError> {
        let mut content = Content::default();
        if let Source::Files { certificates, key } = &settings.source {
            content.certificates = files::read(certificates)?;
            content.key = files::read(key)?;
        }
        if let Some(path) = &settings.agent_ca {
            content.agent_ca = files::read(path)?;
        }
        if let Some(path) = &settings.keda_ca {
            content.keda_ca = files::read(path)?;
        }
        Ok(content)
    }
}

impl State {
    fn build(
        settings: &TlsSettings,
        authority: Option<&Authority>,
        denied: &Denied,
        content: &Content,
        clock: Clock,
    ) -> Result<State, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let (key, renew_at) = certificate(settings, authority, content, &provider, clock)?;
        let leaf = key.end_entity_cert()?;
        let read = Read::new(leaf).map_err(|error| TlsError::Roots(error.to_string()))?;
        let (not_after, digest) = (read.not_after(), Sha256::digest(leaf).into());
        let roots = match (&settings.agent_ca, authority) {
            (Some(path), _) => files::certificates(path, &content.agent_ca)?,
            (None, Some(authority)) => authority.roots(),
            (None, None) => Vec::new(),
        };
        let verifier = AgentVerifier::new(roots, &settings.trust_domain, denied).map_err(TlsError::Roots)?;
        let verifier = Arc::new(verifier);
        let key = Arc::new(SingleCertAndKey::from(key));
        let builder = || {
            ServerConfig::builder_with_details(Arc::clone(&provider), Arc::new(PlaneTime(clock)))
                .with_protocol_versions(&[&rustls::version::TLS13])
        };
        let mut api = builder()?.with_no_client_auth().with_cert_resolver(Arc::clone(&key) as _);
        let mut agents =
            builder()?.with_client_cert_verifier(Arc::clone(&verifier) as _).with_cert_resolver(Arc::clone(&key) as _);
        let mut keda = match &settings.keda_ca {
            Some(path) => {
                let roots = files::certificates(path, &content.keda_ca)?;
                let verifier = ClientVerifier::new(roots, &settings.keda_names).map_err(TlsError::KedaRoots)?;
                builder()?.with_client_cert_verifier(Arc::new(verifier))
            }
            None => builder()?.with_no_client_auth(),
        }
        .with_cert_resolver(key);
        for config in [&mut api, &mut agents, &mut keda] {
            config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        }
        // A client's certificate is checked with every connection: a session that is resumed would skip that.
        for config in [&mut agents, &mut keda] {
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        let (api, agents, keda) = (Arc::new(api), Arc::new(agents), Arc::new(keda));
        Ok(State { api, agents, keda, verifier, not_after, renew_at, digest })
    }
}

/// The server's certificate with its key, and when another is to be made.
fn certificate(
    settings: &TlsSettings,
    authority: Option<&Authority>,
    content: &Content,
    provider: &CryptoProvider,
    clock: Clock,
) -> Result<(CertifiedKey, Option<Timestamp>), TlsError> {
    match (&settings.source, authority) {
        (Source::Files { certificates, key }, _) => {
            let chain = files::certificates(certificates, &content.certificates)?;
            let private = files::private_key(key, &content.key)?;
            let refused = |error: rustls::Error| {
                let reason = format!("does not go with `{}`: {error}", key.display());
                FileError::content(certificates, reason)
            };
            Ok((CertifiedKey::from_der(chain, private, provider).map_err(refused)?, None))
        }
        (Source::Authority { names }, Some(authority)) => {
            let now = clock.now();
            let (made, private) = authority.for_server(names, now)?;
            Ok((CertifiedKey::from_der(made.chain, private, provider)?, Some(now + SERVER_LIFE / 3)))
        }
        (Source::Authority { .. }, None) => unreachable!("an authority is opened where it is the source"),
    }
}

#[cfg(test)]
#[path = "server_config_tests.rs"]
mod tests;
