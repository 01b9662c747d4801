//! The fleet of a cluster: what pods and Services become, and what changes when they do. Pure.
//!
//! ```text
//!            its pod is ready for the first time
//!   Absent ---------------------------------------> Serving <---> the same, with its pod unready: nothing new, what runs goes on
//!      ^                                                |
//!      |                   the pod ends, is gone, or is to be reached or told of otherwise
//!      |   ended                                        v
//!      +--------------------------------------------- Leaving
//! ```
//! Invariant: a pod has one instance at a time, and its next one begins when the one before has ended. Everything is decided from what objects
//! are now, never from how they came to be so, so lists read again after a break change nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mindos_sdk::Labels;
use mindos_sdk::model::{GeneralType, InstanceId};
use sha2::{Digest, Sha256};

use super::pod::{Pod, PodState, Role, RoleError};
use super::service::Service;

/// Services whose pods have to be looked for by a watch of their own.
pub const SELECTORS_MAX: usize = 100;
/// A pod without this much time left is told to leave at once.
const MARGIN: Duration = Duration::from_secs(1);
/// How long work may end whose pod is gone: its connection is broken by then.
const GONE_GRACE: Duration = Duration::from_secs(1);

/// Namespace and name.
pub type Key = (Arc<str>, Arc<str>);

/// A watch that tells of pods. A pod may be told of by several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(pub u32);

/// How an instance is served. Another target is another instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub namespace: Arc<str>,
    pub pod: Arc<str>,
    pub uid: Arc<str>,
    pub ty: GeneralType,
    pub slots: u32,
    pub address: SocketAddr,
    pub labels: Labels,
    pub node: Option<Arc<str>>,
}

/// What there is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Serve it, with these labels.
    Start { id: InstanceId, target: Arc<Target>, labels: Labels },
    /// Its pod became ready, or stopped being so.
    Ready { id: InstanceId, ready: bool },
    /// Take nothing on for it, let it end within the grace, hand back the rest, then say [`Fleet::ended`].
    Leave { id: InstanceId, grace: Duration },
}

/// What does not depend on the cluster.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Slots of a pod that does not say it.
    pub slots: u32,
    /// How long work may go on where its pod stays.
    pub drain_grace: Duration,
}

/// How many there are of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub pods: usize,
    pub services: usize,
    pub generals: usize,
    pub instances: usize,
    pub ready: usize,
    pub leaving: usize,
    pub refused: usize,
}

/// All that is known.
#[derive(Debug)]
pub struct Fleet {
    rules: Rules,
    pods: BTreeMap<Key, Entry>,
    /// Those that do not say themselves what they are.
    silent: BTreeSet<Key>,
    services: BTreeMap<Key, Service>,
    /// Services by namespace and the first pair of their selector.
    by_pair: BTreeMap<(Arc<str>, String, String), BTreeSet<Arc<str>>>,
    zones: BTreeMap<Arc<str>, Arc<str>>,
    instances: BTreeMap<InstanceId, Instance>,
    generals: BTreeMap<GeneralType, usize>,
    ready: usize,
    leaving: usize,
    dirty: BTreeSet<Key>,
    relisted: BTreeMap<SourceId, BTreeSet<Key>>,
    relisted_services: BTreeMap<SourceId, BTreeSet<Key>>,
    refused: BTreeMap<(&'static str, Key), RoleError>,
    /// Refusals that nobody was told of.
    untold: Vec<(&'static str, Key, RoleError)>,
    is_open: bool,
}

#[derive(Debug)]
struct Entry {
    pod: Pod,
    sources: BTreeSet<SourceId>,
}

#[derive(Debug)]
struct Instance {
    key: Key,
    target: Arc<Target>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Serving { ready: bool },
    Leaving,
}

enum Wanted {
    Absent { grace: Duration },
    Present { target: Target, ready: bool },
}

/// The id of a pod's instance: `<pod>.<namespace>`, of which the middle is cut out and replaced by a digest where that is too long.
#[must_use]
pub fn instance_id((namespace, name): &Key) -> Option<InstanceId> {
    let whole = format!("{name}.{namespace}");
    if whole.len() <= InstanceId::MAX {
        return InstanceId::new(&whole).ok();
    }
    let digest: String = Sha256::digest(&whole).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let tail = format!("-{digest}.{namespace}");
    let room = InstanceId::MAX.saturating_sub(tail.len());
    InstanceId::new(&format!("{}{tail}", name.get(..room)?)).ok()
}

impl Fleet {
    /// An empty one, which does nothing until [`Fleet::open`].
    #[must_use]
    pub fn new(rules: Rules) -> Fleet {
        Fleet {
            rules,
            pods: BTreeMap::new(),
            silent: BTreeSet::new(),
            services: BTreeMap::new(),
            by_pair: BTreeMap::new(),
            zones: BTreeMap::new(),
            instances: BTreeMap::new(),
            generals: BTreeMap::new(),
            ready: 0,
            leaving: 0,
            dirty: BTreeSet::new(),
            relisted: BTreeMap::new(),
            relisted_services: BTreeMap::new(),
            refused: BTreeMap::new(),
            untold: Vec::new(),
            is_open: false,
        }
    }

    /// Services and zones are known as far as they can be: from here on instances are begun.
    pub fn open(&mut self) {
        if !std::mem::replace(&mut self.is_open, true) {
            self.dirty.extend(self.silent.iter().cloned());
        }
    }

    /// A pod is there, or has changed.
    pub fn pod(&mut self, source: SourceId, pod: Pod) {
        let key = (pod.namespace.clone(), pod.name.clone());
        if let Some(seen) = self.relisted.get_mut(&source) {
            seen.insert(key.clone());
        }
        let silent = matches!(pod.role, Ok(None));
        if silent {
            self.silent.insert(key.clone())
        } else {
            self.silent.remove(&key)
        };
        match self.pods.get_mut(&key) {
            Some(entry) => {
                entry.sources.insert(source);
                if entry.pod == pod {
                    return;
                }
                entry.pod = pod;
            }
            None => {
                self.pods.insert(key.clone(), Entry { pod, sources: BTreeSet::from([source]) });
            }
        }
        self.dirty.insert(key);
    }

    /// A watch tells no longer of a pod: it is gone, or carries other labels.
    pub fn pod_gone(&mut self, source: SourceId, key: &Key) {
        let Some(entry) = self.pods.get_mut(key) else { return };
        entry.sources.remove(&source);
        if entry.sources.is_empty() {
            self.pods.remove(key);
            self.silent.remove(key);
            self.dirty.insert(key.clone());
        }
    }

    /// A watch begins to tell of all its pods again.
    pub fn relist(&mut self, source: SourceId) {
        self.relisted.insert(source, BTreeSet::new());
    }

    /// It has told of all: what it did not name is gone.
    pub fn relist_done(&mut self, source: SourceId) {
        let Some(seen) = self.relisted.remove(&source) else { return };
        let told = self.pods.iter().filter(|(key, entry)| entry.sources.contains(&source) && !seen.contains(*key));
        let gone: Vec<Key> = told.map(|(key, _)| key.clone()).collect();
        for key in gone {
            self.pod_gone(source, &key);
        }
    }

    /// A watch is no more.
    pub fn source_gone(&mut self, source: SourceId) {
        self.relist(source);
        self.relist_done(source);
    }

    /// A Service is there, or has changed.
    pub fn service(&mut self, source: SourceId, service: Service) {
        let key = (service.namespace.clone(), service.name.clone());
        if let Some(seen) = self.relisted_services.get_mut(&source) {
            seen.insert(key.clone());
        }
        if self.services.get(&key) == Some(&service) {
            return;
        }
        self.remove_service(&key);
        self.told("service", &key, service.role.as_ref().err().cloned());
        if service.speaks() {
            if let Some((name, value)) = service.selector.first_key_value() {
                let pair = (key.0.clone(), name.clone(), value.clone());
                self.by_pair.entry(pair).or_default().insert(key.1.clone());
            }
            self.look_at_silent(&service);
        }
        self.services.insert(key, service);
    }

    /// A Service is gone.
    pub fn service_gone(&mut self, key: &Key) {
        self.told("service", key, None);
        self.remove_service(key);
    }

    /// A watch begins to tell of all its Services again.
    pub fn relist_services(&mut self, source: SourceId) {
        self.relisted_services.insert(source, BTreeSet::new());
    }

    /// It has told of all; `is_its` says of which namespaces it tells.
    pub fn relist_services_done(&mut self, source: SourceId, is_its: impl Fn(&str) -> bool) {
        let Some(seen) = self.relisted_services.remove(&source) else { return };
        let gone = self.services.keys().filter(|key| is_its(&key.0) && !seen.contains(*key));
        let gone: Vec<Key> = gone.cloned().collect();
        for key in gone {
            self.service_gone(&key);
        }
    }

    /// Where a node stands. What is served is told so when it is begun anew.
    pub fn node(&mut self, name: &str, zone: Option<&str>) {
        match zone {
            Some(zone) => self.zones.insert(name.into(), zone.into()),
            None => self.zones.remove(name),
        };
    }

    /// An instance has ended.
    pub fn ended(&mut self, id: &InstanceId) {
        let Some(Instance { key, target, state }) = self.instances.remove(id) else { return };
        match state {
            State::Leaving => self.leaving -= 1,
            State::Serving { ready } => self.ready -= usize::from(ready),
        }
        if let Some(count) = self.generals.get_mut(&target.ty) {
            *count -= 1;
            if *count == 0 {
                self.generals.remove(&target.ty);
            }
        }
        self.dirty.insert(key);
    }

    /// Selectors of Services whose pods nobody tells of otherwise, with their namespaces, and how many were left out because there are too many.
    #[must_use]
    pub fn selectors(&self) -> (BTreeSet<(Arc<str>, String)>, usize) {
        let services = self.services.values().filter(|service| service.speaks() && !service.is_covered());
        let all: BTreeSet<_> = services.map(|service| (service.namespace.clone(), service.selector_text())).collect();
        let left_out = all.len().saturating_sub(SELECTORS_MAX);
        (all.into_iter().take(SELECTORS_MAX).collect(), left_out)
    }

    /// What is not accepted and was not told yet: the kind of object, which one, and why.
    pub fn take_refusals(&mut self) -> Vec<(&'static str, Key, RoleError)> {
        std::mem::take(&mut self.untold)
    }

    /// What is to be done after what was told.
    pub fn turn(&mut self) -> Vec<Command> {
        let mut commands = Vec::new();
        if self.is_open {
            for key in std::mem::take(&mut self.dirty) {
                self.look(key, &mut commands);
            }
        }
        commands
    }

    /// How many there are.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            pods: self.pods.len(),
            services: self.services.values().filter(|service| service.speaks()).count(),
            generals: self.generals.len(),
            instances: self.instances.len(),
            ready: self.ready,
            leaving: self.leaving,
            refused: self.refused.len(),
        }
    }

    fn look(&mut self, key: Key, commands: &mut Vec<Command>) {
        let Some(id) = instance_id(&key) else { return };
        let wanted = self.wanted(&key);
        let Some(instance) = self.instances.get_mut(&id) else {
            // What was never ready is not begun.
            if let Wanted::Present { target, ready: true } = wanted {
                self.start(id, key, target, commands);
            }
            return;
        };
        let grace = match (instance.state, wanted) {
            // Looked at again when it has ended.
            (State::Leaving, _) => return,
            (State::Serving { ready: was }, Wanted::Present { target, ready }) if *instance.target == target => {
                if was != ready {
                    instance.state = State::Serving { ready };
                    self.ready = if ready { self.ready + 1 } else { self.ready - 1 };
                    commands.push(Command::Ready { id, ready });
                }
                return;
            }
            // Another pod of this name: the one that is served is gone.
            (State::Serving { .. }, Wanted::Present { target, .. }) if instance.target.uid != target.uid => GONE_GRACE,
            (State::Serving { .. }, Wanted::Present { .. }) => self.rules.drain_grace,
            (State::Serving { .. }, Wanted::Absent { grace }) => grace,
        };
        if instance.state == (State::Serving { ready: true }) {
            self.ready -= 1;
        }
        instance.state = State::Leaving;
        self.leaving += 1;
        commands.push(Command::Leave { id, grace });
    }

    fn start(&mut self, id: InstanceId, key: Key, target: Target, commands: &mut Vec<Command>) {
        let mut labels = target.labels.clone();
        if let Some(node) = &target.node {
            labels.insert("kubernetes.io/hostname".to_owned(), node.to_string());
        }
        let own = self.pods.get(&key).and_then(|entry| entry.pod.zone.clone());
        let zone = own.or_else(|| self.zones.get(target.node.as_ref()?).cloned());
        if let Some(zone) = zone {
            labels.insert("topology.kubernetes.io/zone".to_owned(), zone.to_string());
        }
        let target = Arc::new(target);
        *self.generals.entry(target.ty.clone()).or_default() += 1;
        self.ready += 1;
        let instance = Instance { key, target: target.clone(), state: State::Serving { ready: true } };
        self.instances.insert(id.clone(), instance);
        commands.push(Command::Start { id, target, labels });
    }

    fn wanted(&mut self, key: &Key) -> Wanted {
        let Some(Entry { pod, .. }) = self.pods.get(key) else {
            self.told("pod", key, None);
            return Wanted::Absent { grace: GONE_GRACE };
        };
        let stays = Wanted::Absent { grace: self.rules.drain_grace };
        let judged = self.judged(pod);
        let (state, is_left_alone) = (pod.state, pod.has_sidecar);
        let refusal = judged.as_ref().err().cloned().filter(|_| !is_left_alone);
        self.told("pod", key, refusal);
        match (state, judged) {
            (PodState::Over, _) => Wanted::Absent { grace: GONE_GRACE },
            (PodState::Terminating { grace }, _) => Wanted::Absent { grace: grace.saturating_sub(MARGIN) },
            (PodState::Unready | PodState::Ready, Ok(Some(_))) if is_left_alone => stays,
            (PodState::Unready | PodState::Ready, Ok(Some(target))) => {
                Wanted::Present { target, ready: state == PodState::Ready }
            }
            (PodState::Unready | PodState::Ready, Ok(None) | Err(_)) => stays,
        }
    }

    /// How a pod would be served: by what it says itself, else by what the first Service of its own says, in the order of their names.
    fn judged(&self, pod: &Pod) -> Result<Option<Target>, RoleError> {
        let own = match &pod.role {
            Ok(own) => own.as_ref(),
            Err(error) => return Err(error.clone()),
        };
        let (Role { ty, port, labels }, slots) = match own {
            Some(own) => (own, pod.slots),
            None => match self.service_of(pod) {
                Some(Service { role: Ok(Some(role)), slots, .. }) => (role, pod.slots.or(*slots)),
                Some(_) | None => return Ok(None),
            },
        };
        let port = pod.port(port)?;
        let Some(address) = pod.address else { return Ok(None) };
        Ok(Some(Target {
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            uid: pod.uid.clone(),
            ty: ty.clone(),
            slots: slots.unwrap_or(self.rules.slots),
            address: SocketAddr::new(address, port),
            labels: labels.clone(),
            node: pod.node.clone(),
        }))
    }

    fn service_of(&self, pod: &Pod) -> Option<&Service> {
        let names = pod
            .labels
            .iter()
            .filter_map(|(name, value)| self.by_pair.get(&(pod.namespace.clone(), name.clone(), value.clone())));
        let services = names.flatten().filter_map(|name| self.services.get(&(pod.namespace.clone(), name.clone())));
        services.filter(|service| service.selects(&pod.labels)).min_by(|one, other| one.name.cmp(&other.name))
    }

    fn remove_service(&mut self, key: &Key) {
        let Some(service) = self.services.remove(key) else { return };
        if let Some((name, value)) = service.selector.first_key_value() {
            let pair = (key.0.clone(), name.clone(), value.clone());
            if let Some(names) = self.by_pair.get_mut(&pair) {
                names.remove(&key.1);
                if names.is_empty() {
                    self.by_pair.remove(&pair);
                }
            }
        }
        if service.speaks() {
            self.look_at_silent(&service);
        }
    }

    /// The pods that a Service speaks for, or did, are looked at again.
    fn look_at_silent(&mut self, service: &Service) {
        if !self.is_open {
            return;
        }
        let from: Key = (service.namespace.clone(), Arc::from(""));
        let here = self.silent.range(from..).take_while(|(namespace, _)| *namespace == service.namespace);
        let its = here.filter(|key| self.pods.get(*key).is_some_and(|entry| service.selects(&entry.pod.labels)));
        let its: Vec<Key> = its.cloned().collect();
        self.dirty.extend(its);
    }

    fn told(&mut self, kind: &'static str, key: &Key, refusal: Option<RoleError>) {
        let at = (kind, key.clone());
        match refusal {
            None => {
                self.refused.remove(&at);
            }
            Some(error) => {
                if self.refused.get(&at) != Some(&error) {
                    self.untold.push((kind, key.clone(), error.clone()));
                    self.refused.insert(at, error);
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "fleet_tests.rs"]
mod tests;
