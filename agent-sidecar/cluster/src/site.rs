//! The place where an agent works: its cluster on one side, the control plane on the other. What the parts of the agent are given.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use mindos_sdk::agent::{AgentError, Identity};
use mindos_sdk::model::{ClusterName, GeneralName, GeneralType, InstanceId, NameError, Region};
use mindos_sdk::{Channel, Counts, General, GeneralConfig, Labels, Options, Served, Trunk, serve_over};

use crate::metrics::Metrics;
use crate::shutdown::{Ending, Shutdown};

/// What the parts of an agent are given. Cheap to clone.
#[derive(Clone)]
pub struct Site {
    /// The API server.
    pub kube: Client,
    /// Name of the cluster at the control plane.
    pub cluster: ClusterName,
    /// Namespace of the agent itself.
    pub namespace: Arc<str>,
    /// Namespaces that it looks at.
    pub namespaces: Namespaces,
    /// Calls to the control plane, port 8091, with the agent's certificate.
    pub plane: Channel,
    /// The agent, as its certificate says. Where several stand by for each other, each has its own.
    pub instance: InstanceId,
    /// What the API server is.
    pub server_version: ServerVersion,
    /// How long work may go on after a drain has begun.
    pub drain_grace: Duration,
    /// Counted by all parts, shown at `/metrics`.
    pub metrics: Arc<Metrics>,
    /// The same for watches: gives a server up that says nothing for longer than a watch lasts.
    pub(crate) watching: Client,
    pub(crate) region: Option<Region>,
    pub(crate) cluster_labels: Labels,
    pub(crate) trunk: Trunk,
}

/// Namespaces that an agent looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Namespaces {
    All,
    /// At least one.
    Some(BTreeSet<Arc<str>>),
}

impl Namespaces {
    /// All, unless some are named.
    #[must_use]
    pub fn new(names: &[String]) -> Namespaces {
        if names.is_empty() {
            return Namespaces::All;
        }
        Namespaces::Some(names.iter().map(|name| Arc::from(name.as_str())).collect())
    }

    /// Each namespace to ask about; `None` asks about all at once.
    pub fn each(&self) -> impl Iterator<Item = Option<Arc<str>>> + '_ {
        let (all, some) = match self {
            Namespaces::All => (Some(None), None),
            Namespaces::Some(names) => (None, Some(names.iter().cloned().map(Some))),
        };
        all.into_iter().chain(some.into_iter().flatten())
    }
}

/// Version of an API server, as `/version` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServerVersion {
    pub major: u32,
    pub minor: u32,
}

impl ServerVersion {
    /// Reads `major` and `minor`, of which some providers mark the latter with a `+`.
    #[must_use]
    pub fn read(major: &str, minor: &str) -> ServerVersion {
        let number = |text: &str| {
            let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
            digits.parse().unwrap_or(0)
        };
        ServerVersion { major: number(major), minor: number(minor) }
    }

    /// Whether it is at least `major.minor`.
    #[must_use]
    pub fn is_at_least(self, major: u32, minor: u32) -> bool {
        self >= ServerVersion { major, minor }
    }
}

/// Why a general cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Agent(#[from] AgentError),
}

impl Site {
    /// Serves a general whose agent is this process, such as `code-run`, until the shutdown. Its instance is `agent.<general>`, whichever
    /// agent of the cluster is at work, so that what another one held is known to be free at once.
    ///
    /// # Errors
    /// When `general` is not a name, or `slots` not 1 to 65,536; never because the control plane is away.
    pub async fn serve<G: General>(
        &self,
        general: &str,
        slots: u32,
        implementation: G,
        shutdown: Shutdown,
    ) -> Result<Counts, ServeError> {
        let config = GeneralConfig {
            name: GeneralName::new(general)?,
            ty: GeneralType::new(general)?,
            labels: Labels::new(),
            slots,
        };
        let instance = InstanceId::new(&format!("agent.{general}"))?;
        let identity = Identity {
            namespace: self.namespace.to_string(),
            pod: self.instance.to_string(),
            capabilities: vec!["blob".to_owned()],
        };
        let served = self.open(config, instance, identity, implementation)?;
        let handle = served.handle();
        let mut run = std::pin::pin!(served.run());
        tokio::select! {
            counts = &mut run => return Ok(counts?),
            ending = shutdown.begun() => match ending {
                Ending::Drain => handle.drain(self.drain_grace),
                Ending::Abandon => return Ok(Counts::default()),
            },
        }
        tokio::select! {
            counts = &mut run => Ok(counts?),
            () = shutdown.abandoned() => Ok(Counts::default()),
        }
    }

    /// An instance of a general, about to be served over the shared connections.
    pub(crate) fn open<G: General>(
        &self,
        config: GeneralConfig,
        instance: InstanceId,
        identity: Identity,
        implementation: G,
    ) -> Result<Served<G>, AgentError> {
        let options = Options {
            control_plane: String::new(),
            cluster: self.cluster.clone(),
            region: self.region.clone(),
            cluster_labels: self.cluster_labels.clone(),
            instance,
            identity,
            drain_grace: self.drain_grace,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            joining: None,
            standing: None,
        };
        serve_over(&self.trunk, vec![(config, implementation)], options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_whatever_a_provider_adds_to_it() {
        for (major, minor, is) in
            [("1", "20", (1, 20)), ("1", "29+", (1, 29)), ("1", "33-gke.1", (1, 33)), ("", "x", (0, 0))]
        {
            let version = ServerVersion::read(major, minor);
            assert_eq!((version.major, version.minor), is);
        }
        let old = ServerVersion::read("1", "20");
        assert!(old.is_at_least(1, 20) && !old.is_at_least(1, 29) && ServerVersion::read("2", "0").is_at_least(1, 29));
    }

    #[test]
    fn all_namespaces_are_asked_about_at_once() {
        assert_eq!(Namespaces::new(&[]).each().collect::<Vec<_>>(), [None]);
        let some = Namespaces::new(&["b".to_owned(), "a".to_owned(), "b".to_owned()]);
        assert_eq!(some.each().collect::<Vec<_>>(), [Some(Arc::from("a")), Some(Arc::from("b"))]);
    }
}
