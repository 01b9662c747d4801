//! The instances that are served: a task each, and what it can be told.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use mindos_agent_sidecar::{About, HttpClient};
use mindos_sdk::agent::{Handle, Identity};
use mindos_sdk::model::{GeneralName, InstanceId};
use mindos_sdk::{GeneralConfig, GeneralIndex, Labels};
use tokio::task::{Id, JoinSet};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::Settings;
use super::failing::Failing;
use super::fleet::{Command, Target};
use super::pod_general::PodGeneral;
use super::watches::chain;
use crate::site::Site;

/// All instances. When it is dropped they end at once.
pub(super) struct Instances {
    site: Site,
    settings: Settings,
    client: HttpClient,
    live: BTreeMap<InstanceId, Live>,
    tasks: JoinSet<()>,
    ids: HashMap<Id, InstanceId>,
    failing: Failing,
}

struct Live {
    handle: Handle,
    general: PodGeneral,
}

impl Instances {
    pub(super) fn new(site: Site, settings: Settings) -> Instances {
        Instances {
            site,
            settings,
            client: HttpClient::default(),
            live: BTreeMap::new(),
            tasks: JoinSet::new(),
            ids: HashMap::new(),
            failing: Failing::default(),
        }
    }

    /// Does what is to be done. Returns the id of an instance that cannot be begun.
    pub(super) fn obey(&mut self, command: Command) -> Option<InstanceId> {
        match command {
            Command::Start { id, target, labels } => return self.start(id, &target, labels),
            Command::Ready { id, ready } => {
                if let Some(live) = self.live.get(&id) {
                    live.general.pod_is_ready(ready);
                    // At once, and not when it is asked next.
                    live.handle.ready(GeneralIndex(0), ready);
                }
            }
            Command::Leave { id, grace } => {
                debug!(instance = %id, grace_ms = grace.as_millis() as u64, "instance leaves");
                if let Some(live) = self.live.get(&id) {
                    live.general.pod_is_ready(false);
                    live.handle.drain(grace);
                }
            }
        }
        None
    }

    /// The next instance that has ended; waits for ever where there is none.
    pub(super) async fn ended(&mut self) -> InstanceId {
        loop {
            let id = match self.tasks.join_next_with_id().await {
                Some(Ok((id, ()))) => id,
                Some(Err(error)) => {
                    warn!(error = %chain(&error), "an instance broke off");
                    error.id()
                }
                None => std::future::pending().await,
            };
            if let Some(id) = self.ids.remove(&id) {
                self.live.remove(&id);
                return id;
            }
        }
    }

    /// Tells all to leave.
    pub(super) fn drain(&self, grace: Duration) {
        for live in self.live.values() {
            live.general.pod_is_ready(false);
            live.handle.drain(grace);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    fn start(&mut self, id: InstanceId, target: &Arc<Target>, labels: Labels) -> Option<InstanceId> {
        let Target { namespace, pod, ty, slots, address, .. } = target.as_ref();
        let about = About {
            cluster: self.site.cluster.clone(),
            instance: Arc::from(id.as_str()),
            ty: Arc::from(ty.as_str()),
            output_max: self.settings.output_max,
            repository_access: self.settings.repository_access,
        };
        let opened = Uri::try_from(format!("http://{address}")).map_err(|error| error.to_string()).and_then(|base| {
            let general = PodGeneral::new(self.client.clone(), &base, about, self.site.metrics.clone());
            let name = GeneralName::new(ty.as_str()).map_err(|error| error.to_string())?;
            let config = GeneralConfig { name, ty: ty.clone(), labels, slots: *slots };
            let (namespace, pod) = (namespace.to_string(), pod.to_string());
            let identity = Identity { namespace, pod, capabilities: vec!["blob".to_owned()] };
            let served = self.site.open(config, id.clone(), identity, general.clone());
            served.map(|served| (served, general)).map_err(|error| chain(&error))
        });
        let (served, general) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                if let Some(times) = self.failing.failed(&id, &error, Instant::now()) {
                    warn!(instance = %id, error, times, "instance not begun: tried again");
                }
                return Some(id);
            }
        };
        self.site.metrics.instances_started.add(1);
        if self.failing.works(&id) {
            info!(instance = %id, general = %ty, %address, "instance begun, which could not be before");
        } else {
            debug!(instance = %id, general = %ty, %address, "instance begun");
        }
        let live = Live { handle: served.handle(), general };
        let of = id.clone();
        let task = self.tasks.spawn(async move {
            match served.run().await {
                Ok(counts) => debug!(instance = %of, ?counts, "instance ended"),
                Err(error) => warn!(instance = %of, error = %chain(&error), "instance ended"),
            }
        });
        self.ids.insert(task.id(), id.clone());
        self.live.insert(id, live);
        None
    }
}
