//! Who an agent is, and how it proves it: a certificate that it asks for, keeps, and renews.
//!
//! ```text
//!   Proof --join--> certificate --renew, with the old key--> certificate --> ...
//!                        |
//!                        v
//!                   Tls, for the connections made from here on
//! ```
//! What to try and when is decided in `mindos_sidecar_core::membership`; here are keys, files and calls. Keys are made here and leave
//! the process only into the file of [`Joining::dir`].

mod exchange;
mod keeper;
mod key;
mod proof;
mod store;
mod workload;
mod x509;

use std::path::PathBuf;
use std::sync::Arc;

use mindos_model::{ClusterName, GeneralName, InstanceId, Secret, Timestamp};
use mindos_sidecar_core::membership::Phase;
use tokio::sync::{Notify, watch};

use crate::dial::{AddressError, Dialer};
use crate::tls::TlsError;
use keeper::Keeper;

/// How an agent becomes a member, and stays one.
#[derive(Clone, Debug, Default)]
pub struct Joining {
    /// Address of the API, where certificates are given out: `https://<host>:8090`. By default the host of the agents' address.
    pub api: Option<String>,
    /// Whom to trust before the control plane has said so.
    pub trust: Trust,
    /// What shows that the agent may join.
    pub proof: Proof,
    /// Where key, certificate and roots are kept, so that a restart needs no proof. In memory only by default.
    pub dir: Option<PathBuf>,
    /// Issuer of the service account token, as `<tenant>/<name>` or `<name>`. Empty where only one has its address.
    pub issuer_hint: String,
}

/// Whom to trust at the first contact. What the control plane says then replaces it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// Whom this machine trusts.
    #[default]
    System,
    /// The roots in a file of PEM.
    File(PathBuf),
    /// The root of the control plane's authority with this SHA-256.
    Pin([u8; 32]),
}

/// What shows that an agent may join.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Proof {
    /// Nothing: a certificate that is kept can be renewed, and without one TLS shows none.
    #[default]
    None,
    /// A join token.
    JoinToken(Secret),
    /// A file with a join token, read at each use.
    JoinTokenFile(PathBuf),
    /// A projected service account token of Kubernetes, read at each use.
    ServiceAccountToken(PathBuf),
    /// The socket of a SPIFFE Workload API, which brings certificates by itself.
    Workload(PathBuf),
}

/// As whom to join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    /// The cluster.
    pub cluster: ClusterName,
    /// Kubernetes namespace; empty means `default`.
    pub namespace: String,
    /// The general. `None` for a cluster agent, which speaks for all of its cluster.
    pub general: Option<GeneralName>,
    /// The instance.
    pub instance: InstanceId,
}

/// Why an agent cannot even try.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// An address is not one.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The agents' address is in the clear.
    #[error(
        "`{url}` is in the clear, where nothing can be proven: expected `https://<host>:<port>`, or no way to join"
    )]
    InClear {
        /// The address.
        url: String,
    },
    /// The API's address is not known.
    #[error("the address of the API cannot be told from `{url}`, which has not port 8091: give it as well")]
    Api {
        /// The address for agents.
        url: String,
    },
    /// What was kept cannot be used.
    #[error("{0}")]
    Kept(String),
    /// A key cannot be made.
    #[error("failed to make a key: {0}")]
    Key(String),
}

/// How an agent stands with the control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Where it stands.
    pub phase: Phase,
    /// Whether it has a certificate that is good.
    pub is_good: bool,
    /// Its SPIFFE id, once it is known.
    pub identity: Option<Arc<str>>,
    /// Until when its certificate is good, by the control plane's time.
    pub not_after: Option<Timestamp>,
    /// What is wrong, for people.
    pub problem: Option<String>,
}

/// What the stream and the keeper of the certificate tell each other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Signals {
    /// A certificate is good that was not: dial at once.
    pub(crate) revived: Arc<Notify>,
    /// A connection was turned away because of its certificate.
    pub(crate) suspected: Arc<Notify>,
}

/// An agent that is kept a member for as long as this lives.
#[derive(Debug)]
pub struct Member {
    dialer: Dialer,
    standing: watch::Receiver<Standing>,
    signals: Signals,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl Member {
    /// Begins to join the control plane whose address for agents is `control_plane`. Has to be called within a Tokio runtime.
    ///
    /// # Errors
    /// When addresses, files or keys are not what they have to be; never because the control plane is away.
    pub fn start(control_plane: &str, joining: Joining, who: Who) -> Result<Member, IdentityError> {
        let dialer = Dialer::new(control_plane)?;
        if !dialer.is_tls() {
            return Err(IdentityError::InClear { url: control_plane.to_owned() });
        }
        let signals = Signals::default();
        let anonymous = joining.proof == Proof::None && joining.dir.is_none();
        let (keeper, standing) = Keeper::new(&dialer, joining, who, signals.clone())?;
        let dialer = dialer.tls(keeper.tls());
        // Without a certificate of an earlier run and without a proof there is nothing to keep.
        let task = (!anonymous).then(|| tokio::spawn(keeper.run()));
        Ok(Member { dialer, standing, signals, task })
    }

    /// The way to the control plane's agents' port, with the certificate of the moment.
    #[must_use]
    pub fn dialer(&self) -> Dialer {
        self.dialer.clone()
    }

    /// How the agent stands, now and later.
    #[must_use]
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.clone()
    }

    /// Waits until there is a good certificate. At once where none is to be had.
    pub async fn ready(&self) {
        if self.task.is_some() {
            // The keeper lives as long as this, so the wait cannot fail.
            let _ = self.standing.clone().wait_for(|standing| standing.is_good).await;
        }
    }

    pub(crate) fn signals(&self) -> Signals {
        self.signals.clone()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Who {
    fn namespace(&self) -> &str {
        if self.namespace.is_empty() { "default" } else { &self.namespace }
    }

    /// The end of the SPIFFE id; the trust domain and the tenant are the control plane's to say.
    fn path(&self) -> String {
        let Who { cluster, namespace: _, general, instance } = self;
        match general {
            Some(general) => {
                let namespace = self.namespace();
                format!("/cluster/{cluster}/ns/{namespace}/general/{general}/instance/{instance}")
            }
            None => format!("/cluster/{cluster}/agent/{instance}"),
        }
    }
}

/// Whether TLS, and not something else, is why a dial failed.
pub(crate) fn is_untrusted(why: &str) -> bool {
    why.contains("invalid peer certificate")
}

/// Whether a stream ended because of the certificate that was shown.
pub(crate) fn is_turned_away(status: &tonic::Status) -> bool {
    matches!(status.code(), tonic::Code::Unauthenticated | tonic::Code::PermissionDenied)
        || status.message().contains("received fatal alert")
}
