//! Connects generals to the control plane.

use std::sync::Arc;
use std::time::Duration;

use mindos_model::{BootId, ClusterName, GeneralName, GeneralType, InstanceId, NameError, Region};
use mindos_sidecar_core::{Config, Counts, GeneralConfig, GeneralIndex, Labels};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::info;

use crate::agent::{AgentError, Connection, Handle, Identity};
use crate::event::random;
use crate::general::General;
use crate::identity::{Joining, Member, Standing, Who};
use crate::tasks::{Running, Tasks, end_all};
use crate::trunk::Trunk;

/// How often a general that is not ready is asked.
const READY_WAIT: Duration = Duration::from_secs(1);
/// How often one that is ready is asked.
const READY_INTERVAL: Duration = Duration::from_secs(5);
/// How long it may take to answer.
const READY_MAX: Duration = Duration::from_secs(5);

/// Where and as what generals are served.
#[derive(Clone, Debug)]
pub struct Options {
    /// Address of the control plane for agents, such as `http://127.0.0.1:8091`.
    pub control_plane: String,
    /// The cluster that this runs in.
    pub cluster: ClusterName,
    /// The region of the cluster.
    pub region: Option<Region>,
    /// Labels of the cluster.
    pub cluster_labels: Labels,
    /// Names this program within the cluster, the same after every restart.
    pub instance: InstanceId,
    /// Kubernetes namespace and pod, where there are any.
    pub identity: Identity,
    /// How long work may go on after the shutdown has begun; the rest is handed back.
    pub drain_grace: Duration,
    /// Version of the program, for people.
    pub version: String,
    /// How the agent proves who it is. Needs an address with `https`; one with several generals joins as an agent of its cluster.
    pub joining: Option<Joining>,
    /// Told how the agent stands with the control plane.
    pub standing: Option<watch::Sender<Option<Standing>>>,
}

impl Options {
    /// Options with the usual values.
    ///
    /// # Errors
    /// Says what a name may look like when one does not.
    pub fn new(control_plane: impl Into<String>, cluster: &str, instance: &str) -> Result<Options, NameError> {
        Ok(Options {
            control_plane: control_plane.into(),
            cluster: ClusterName::new(cluster)?,
            region: None,
            cluster_labels: Labels::new(),
            instance: InstanceId::new(instance)?,
            identity: Identity::default(),
            drain_grace: Duration::from_secs(20),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            joining: None,
            standing: None,
        })
    }
}

/// The capability of agents whose generals stop at their ceilings.
const CEILINGS: &str = "ceilings";

/// A general of a type, named like it, with as many slots as it can work on deliveries at a time.
///
/// # Errors
/// Says what a name may look like when it does not.
pub fn general_config(ty: &str, slots: u32) -> Result<GeneralConfig, NameError> {
    Ok(GeneralConfig { name: GeneralName::new(ty)?, ty: GeneralType::new(ty)?, labels: Labels::new(), slots })
}

/// Serves one general until `shutdown` is done and everything is finished, handed back, and settled.
///
/// Reconnects by itself for as long as it takes. Returns how often what happened.
///
/// # Errors
/// When the options do not fit together; never because the control plane is away.
pub async fn serve<G: General>(
    general: G,
    config: GeneralConfig,
    options: Options,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<Counts, AgentError> {
    serve_all(vec![(config, general)], options, shutdown).await
}

/// Serves several generals over one stream, as [`serve`].
///
/// # Errors
/// As [`serve`].
pub async fn serve_all<G: General>(
    generals: Vec<(GeneralConfig, G)>,
    options: Options,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<Counts, AgentError> {
    let mut shutdown = std::pin::pin!(shutdown);
    let Options { control_plane, joining, standing, mut identity, .. } = options.clone();
    let Some(joining) = joining else {
        let set_up = SetUp::new(generals, Options { identity, ..options });
        let connection = Connection::new(&control_plane, set_up.config.clone(), set_up.identity.clone())?;
        return set_up.serve(connection, shutdown).await;
    };
    if identity.namespace.is_empty() {
        // What the certificate says, and `Hello` has to say the same.
        identity.namespace = "default".to_owned();
    }
    let set_up = SetUp::new(generals, Options { identity, ..options });
    let general = if let [(only, _)] = set_up.generals.as_slice() { Some(only.clone()) } else { None };
    let who = Who {
        cluster: set_up.config.cluster.clone(),
        namespace: set_up.identity.namespace.clone(),
        general,
        instance: set_up.config.instance.clone(),
    };
    let member = Member::start(&control_plane, joining, who)?;
    let connection = Connection::of(&member, set_up.config.clone(), set_up.identity.clone())?;
    let _telling = standing.map(|into| Telling(tokio::spawn(tell(member.standing(), into))));
    tokio::select! {
        () = member.ready() => {}
        // Nothing was begun, so there is nothing to hand back.
        () = &mut shutdown => return Ok(Counts::default()),
    }
    set_up.serve(connection, shutdown).await
}

/// Serves generals as one instance of an agent that has many, over the connections that those share; else as [`serve_all`]. Of the
/// options `control_plane`, `joining` and `standing` are not asked: the trunk knows.
///
/// # Errors
/// As [`serve`].
pub fn serve_over<G: General>(
    trunk: &Trunk,
    generals: Vec<(GeneralConfig, G)>,
    options: Options,
) -> Result<Served<G>, AgentError> {
    let set_up = SetUp::new(generals, options);
    let connection = Connection::over(trunk, set_up.config.clone(), set_up.identity.clone())?;
    Ok(Served { set_up, connection })
}

/// Generals that are about to be served.
#[derive(Debug)]
pub struct Served<G> {
    set_up: SetUp<G>,
    connection: Connection,
}

impl<G: General> Served<G> {
    /// Tells them to leave, and tells of them, while they run.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.connection.handle()
    }

    /// Serves until [`Handle::drain`] was called and everything is finished, handed back, and settled. When it is dropped before, its
    /// work ends at once and its leases lapse.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub async fn run(self) -> Result<Counts, AgentError> {
        let Served { set_up, connection } = self;
        set_up.serve(connection, std::pin::pin!(std::future::pending())).await
    }
}

/// Generals and what an agent says of itself.
#[derive(Debug)]
struct SetUp<G> {
    config: Config,
    identity: Identity,
    generals: Vec<(GeneralName, Arc<G>)>,
    drain_grace: Duration,
}

impl<G: General> SetUp<G> {
    fn new(generals: Vec<(GeneralConfig, G)>, options: Options) -> SetUp<G> {
        let Options {
            control_plane: _,
            cluster,
            region,
            cluster_labels,
            instance,
            mut identity,
            drain_grace,
            version,
            joining: _,
            standing: _,
        } = options;
        let boot = BootId::new(&format!("{:016x}", random())).expect("16 hex digits are a name");
        let (configs, generals): (Vec<_>, Vec<_>) = generals.into_iter().unzip();
        let names: Vec<GeneralName> = configs.iter().map(|config| config.name.clone()).collect();
        let config =
            Config { region, cluster_labels, version, ..Config::new(cluster, instance, boot, configs, random()) };
        if generals.iter().all(General::keeps_ceilings) {
            identity.capabilities.push(CEILINGS.to_owned());
        }
        let generals = names.into_iter().zip(generals.into_iter().map(Arc::new)).collect();
        SetUp { config, identity, generals, drain_grace }
    }

    async fn serve(
        self,
        connection: Connection,
        mut shutdown: std::pin::Pin<&mut (impl Future<Output = ()> + Send)>,
    ) -> Result<Counts, AgentError> {
        let SetUp { config: _, identity: _, generals, drain_grace } = self;
        let handle = connection.handle();
        let probes = generals.iter().enumerate().map(|(at, (name, general))| {
            let index = GeneralIndex(u16::try_from(at).expect("an agent speaks for few generals"));
            tokio::spawn(probe(general.clone(), name.clone(), index, handle.clone()))
        });
        let _probes = Probes(probes.collect());
        let running = Stopping(Running::default());
        let tasks = Tasks {
            generals,
            handle: Arc::new(handle.clone()),
            channel: connection.channel()?,
            running: running.0.clone(),
        };
        let mut run = std::pin::pin!(connection.run(tasks));
        Ok(tokio::select! {
            counts = &mut run => counts,
            () = &mut shutdown => {
                handle.drain(drain_grace);
                run.await
            }
        })
    }
}

/// Work that ends at once with this.
struct Stopping(Running);

impl Drop for Stopping {
    fn drop(&mut self) {
        end_all(&self.0);
    }
}

/// The task that passes the standing on; it ends with it.
struct Telling(tokio::task::JoinHandle<()>);

impl Drop for Telling {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn tell(mut from: watch::Receiver<Standing>, into: watch::Sender<Option<Standing>>) {
    loop {
        let standing = from.borrow_and_update().clone();
        into.send_replace(Some(standing));
        if from.changed().await.is_err() {
            return;
        }
    }
}

/// The tasks that ask the generals whether they are ready; they end with it.
struct Probes(Vec<tokio::task::JoinHandle<()>>);

impl Drop for Probes {
    fn drop(&mut self) {
        for probe in &self.0 {
            probe.abort();
        }
    }
}

async fn probe<G: General>(general: Arc<G>, name: GeneralName, index: GeneralIndex, handle: Handle) {
    let mut was = None;
    loop {
        let ready = timeout(READY_MAX, general.ready()).await.unwrap_or(false);
        if was != Some(ready) {
            handle.ready(index, ready);
            info!(general = %name, ready, "general probed");
            was = Some(ready);
        }
        let models = timeout(READY_MAX, general.models()).await.unwrap_or_default();
        if !models.is_empty() {
            handle.models(index, models);
        }
        sleep(if ready { READY_INTERVAL } else { READY_WAIT }).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Failure, Output, Work};

    struct Idle;

    impl General for Idle {
        async fn process(&self, _: Work) -> Result<Output, Failure> {
            Ok(Output::default())
        }
    }

    #[tokio::test]
    async fn one_instance_of_thousands_in_a_process_is_small() {
        let trunk = Trunk::anonymous("http://127.0.0.1:1").unwrap();
        let options = Options::new("http://127.0.0.1:1", "eu", "i-1").unwrap();
        let served = serve_over(&trunk, vec![(general_config("worker", 2).unwrap(), Idle)], options).unwrap();
        let size = std::mem::size_of_val(&served.run());
        assert!(size <= 8192, "{size} bytes for as long as it is served");
    }
}
