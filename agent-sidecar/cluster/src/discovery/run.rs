//! Discovery from its start to its end: carries between watches, fleet and instances.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{info, warn};

use super::fleet::{Counts, Fleet, Rules, SourceId};
use super::instances::Instances;
use super::watches::{Ears, Heard, Told, Watch};
use crate::shutdown::{Ending, Shutdown};
use crate::site::Site;

/// Pods of the contract.
const CONTRACT: &str = "app=llm-general";
/// Pods that say it in our own word.
const OWN: &str = "mindos.io/general";
/// What is taken out of the queue before something is done about it.
const BATCH: usize = 1024;
/// How long a list that was read to its end is waited for before instances begin without zones.
const ZONES_MAX: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_secs(1);

/// How generals are served.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Slots of a pod that does not say it.
    pub slots: u32,
    /// Largest output, in bytes.
    pub output_max: usize,
    /// Whether generals are given read access to the repository of their event.
    pub repository_access: bool,
}

/// Finds generals and serves them until the shutdown. Goes on through every error of the API server.
pub async fn run(site: Site, settings: Settings, shutdown: Shutdown) {
    let mut discovery = Discovery::begin(site, settings);
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let ending = loop {
        tokio::select! {
            biased;
            ending = shutdown.begun() => break ending,
            id = discovery.instances.ended() => {
                discovery.fleet.ended(&id);
                discovery.turn();
            }
            Some(told) = discovery.told.recv() => {
                discovery.hear(told);
                discovery.turn();
            }
            _ = tick.tick() => {
                discovery.open_if_due();
                discovery.turn();
                discovery.report();
            }
        }
    };
    discovery.leave(ending, &shutdown).await;
}

struct Discovery {
    site: Site,
    fleet: Fleet,
    instances: Instances,
    ears: Ears,
    told: mpsc::Receiver<Told>,
    /// Those that go on for as long as this does.
    watches: Vec<Watch>,
    /// Namespaces of each watch of Services.
    services_of: BTreeMap<SourceId, Option<Arc<str>>>,
    /// Watches of pods that Services speak for.
    selected: BTreeMap<(Arc<str>, String), (SourceId, Watch)>,
    next_source: u32,
    /// Lists that were not read to their end yet.
    missing: BTreeSet<Missing>,
    services_changed: bool,
    left_out: usize,
    began: Instant,
    synced_in: Option<Duration>,
    reported: Counts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Missing {
    Pods(SourceId),
    Services(SourceId),
    Nodes,
}

impl Discovery {
    fn begin(site: Site, settings: Settings) -> Discovery {
        let (ears, told) = Ears::new(site.watching.clone(), site.metrics.clone());
        let rules = Rules { slots: settings.slots, drain_grace: site.drain_grace };
        let mut discovery = Discovery {
            fleet: Fleet::new(rules),
            instances: Instances::new(site.clone(), settings),
            ears,
            told,
            watches: Vec::new(),
            services_of: BTreeMap::new(),
            selected: BTreeMap::new(),
            next_source: 0,
            missing: BTreeSet::from([Missing::Nodes]),
            services_changed: false,
            left_out: 0,
            began: Instant::now(),
            synced_in: None,
            reported: Counts::default(),
            site,
        };
        discovery.watches.push(discovery.ears.nodes());
        let namespaces: Vec<_> = discovery.site.namespaces.each().collect();
        for namespace in namespaces {
            let source = discovery.source();
            discovery.watches.push(discovery.ears.services(source, namespace.as_deref()));
            discovery.missing.insert(Missing::Services(source));
            discovery.services_of.insert(source, namespace.clone());
            for selector in [CONTRACT, OWN] {
                let source = discovery.source();
                discovery.watches.push(discovery.ears.pods(source, namespace.as_deref(), selector));
                discovery.missing.insert(Missing::Pods(source));
            }
        }
        discovery.site.metrics.synced.set(0);
        discovery
    }

    fn source(&mut self) -> SourceId {
        self.next_source += 1;
        SourceId(self.next_source)
    }

    /// Takes what was told, and what waits behind it.
    fn hear(&mut self, told: Told) {
        self.take(told);
        for _ in 0..BATCH {
            let Ok(told) = self.told.try_recv() else { break };
            self.take(told);
        }
    }

    fn take(&mut self, told: Told) {
        match told {
            Told::Pod(source, heard) => self.pod(source, heard),
            Told::Service(source, heard) => self.service(source, heard),
            Told::Node(heard) => self.node(heard),
        }
    }

    fn pod(&mut self, source: SourceId, heard: Heard<super::pod::Pod>) {
        // What a watch that is no more had said.
        let is_selected = self.selected.values().any(|(selected, _)| *selected == source);
        if !is_selected && source.0 > self.base() {
            return;
        }
        match heard {
            Heard::Begin => self.fleet.relist(source),
            Heard::Is(pod) => self.fleet.pod(source, *pod),
            Heard::Gone(key) => self.fleet.pod_gone(source, &key),
            Heard::Done => {
                self.fleet.relist_done(source);
                self.missing.remove(&Missing::Pods(source));
            }
            Heard::Trouble => {}
        }
    }

    /// The last source of those that go on.
    fn base(&self) -> u32 {
        u32::try_from(self.services_of.len() * 3).unwrap_or(u32::MAX)
    }

    fn service(&mut self, source: SourceId, heard: Heard<super::service::Service>) {
        match heard {
            Heard::Begin => self.fleet.relist_services(source),
            Heard::Is(service) => {
                self.services_changed = true;
                self.fleet.service(source, *service);
            }
            Heard::Gone(key) => {
                self.services_changed = true;
                self.fleet.service_gone(&key);
            }
            Heard::Done => {
                self.services_changed = true;
                let of = self.services_of.get(&source).cloned().flatten();
                self.fleet.relist_services_done(source, |namespace| of.as_deref().is_none_or(|of| of == namespace));
                self.missing.remove(&Missing::Services(source));
            }
            Heard::Trouble => {}
        }
    }

    fn node(&mut self, heard: Heard<(Arc<str>, Option<Arc<str>>)>) {
        match heard {
            Heard::Is(node) => self.fleet.node(&node.0, node.1.as_deref()),
            Heard::Gone((_, name)) => self.fleet.node(&name, None),
            // Not everybody may look at nodes; what they say is not needed.
            Heard::Done | Heard::Trouble => {
                self.missing.remove(&Missing::Nodes);
            }
            Heard::Begin => {}
        }
    }

    /// Begins instances when Services are known, and zones as far as they can be.
    fn open_if_due(&mut self) {
        let services = self.missing.iter().any(|missing| matches!(missing, Missing::Services(_)));
        let zones = self.missing.contains(&Missing::Nodes) && self.began.elapsed() < ZONES_MAX;
        if !services && !zones {
            self.fleet.open();
        }
    }

    /// Does what follows from what was heard.
    fn turn(&mut self) {
        self.open_if_due();
        if std::mem::take(&mut self.services_changed) {
            self.look_for_selected();
        }
        for command in self.fleet.turn() {
            // What could not be begun is tried again at the next turn.
            if let Some(id) = self.instances.obey(command) {
                self.fleet.ended(&id);
            }
        }
        for (kind, (namespace, name), error) in self.fleet.take_refusals() {
            warn!(kind, %namespace, %name, %error, "object not accepted as a general");
        }
        if self.synced_in.is_none() && !self.missing.iter().any(|missing| *missing != Missing::Nodes) {
            let took = self.began.elapsed();
            self.synced_in = Some(took);
            self.site.metrics.synced.set(1);
            let Counts { pods, services, generals, instances, .. } = self.fleet.counts();
            info!(pods, services, generals, instances, took_ms = took.as_millis() as u64, "cluster seen");
        }
    }

    /// Begins and ends the watches of pods that only Services know.
    fn look_for_selected(&mut self) {
        let (selectors, left_out) = self.fleet.selectors();
        if left_out > 0 && left_out != self.left_out {
            let most = super::fleet::SELECTORS_MAX;
            warn!(left_out, most, "too many selectors of services: label the pods themselves");
        }
        self.left_out = left_out;
        let ended: Vec<_> = self.selected.keys().filter(|selector| !selectors.contains(*selector)).cloned().collect();
        for selector in ended {
            if let Some((source, _)) = self.selected.remove(&selector) {
                self.fleet.source_gone(source);
            }
        }
        for selector in selectors {
            if !self.selected.contains_key(&selector) {
                let source = self.source();
                let watch = self.ears.pods(source, Some(&selector.0), &selector.1);
                self.selected.insert(selector, (source, watch));
            }
        }
    }

    fn report(&mut self) {
        let counts = self.fleet.counts();
        let Counts { pods, services, generals, instances, ready, leaving, refused } = counts;
        let metrics = &self.site.metrics;
        let gauges = [
            (&metrics.pods, pods),
            (&metrics.services, services),
            (&metrics.generals, generals),
            (&metrics.instances, instances),
            (&metrics.instances_ready, ready),
            (&metrics.instances_leaving, leaving),
            (&metrics.refused, refused),
        ];
        for (gauge, count) in gauges {
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        if counts != self.reported {
            info!(pods, services, generals, instances, ready, leaving, refused, "fleet changed");
            self.reported = counts;
        }
    }

    /// Ends: in good order, or at once.
    async fn leave(mut self, ending: Ending, shutdown: &Shutdown) {
        self.watches.clear();
        self.selected.clear();
        if ending == Ending::Drain {
            self.instances.drain(self.site.drain_grace);
            while !self.instances.is_empty() {
                tokio::select! {
                    id = self.instances.ended() => self.fleet.ended(&id),
                    () = shutdown.abandoned() => break,
                }
            }
        }
        let Discovery { site, instances, .. } = self;
        drop(instances);
        let metrics = &site.metrics;
        for gauge in [&metrics.instances, &metrics.instances_ready, &metrics.instances_leaving, &metrics.synced] {
            gauge.set(0);
        }
    }
}
