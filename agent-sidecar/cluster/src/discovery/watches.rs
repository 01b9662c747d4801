//! Watches: what the API server tells, put into one queue.
//!
//! Invariant: a watch goes on after every error, from where it was or from a new list; what it tells keeps its order, and a full queue makes it
//! read more slowly.

use std::fmt::Debug;
use std::sync::Arc;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

use super::fleet::{Key, SourceId};
use super::pod::{Pod, PodObject};
use super::service::{Service, ServiceObject};
use crate::metrics::Metrics;

/// What may wait to be looked at. A pod is about 500 bytes.
const QUEUE: usize = 2048;

/// What a watch tells.
#[derive(Debug)]
pub(super) enum Told {
    Pod(SourceId, Heard<Pod>),
    Service(SourceId, Heard<Service>),
    /// A node and its zone.
    Node(Heard<(Arc<str>, Option<Arc<str>>)>),
}

/// What happened to something.
#[derive(Debug)]
pub(super) enum Heard<T> {
    /// All of them follow.
    Begin,
    Is(Box<T>),
    Gone(Key),
    /// That were all.
    Done,
    /// It cannot be told at the moment.
    Trouble,
}

/// A watch that goes on for as long as this lives.
#[derive(Debug)]
pub(super) struct Watch(JoinHandle<()>);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Where watches put what they are told.
#[derive(Clone)]
pub(super) struct Ears {
    client: Client,
    metrics: Arc<Metrics>,
    queue: mpsc::Sender<Told>,
}

impl Ears {
    pub(super) fn new(client: Client, metrics: Arc<Metrics>) -> (Ears, mpsc::Receiver<Told>) {
        let (queue, told) = mpsc::channel(QUEUE);
        (Ears { client, metrics, queue }, told)
    }

    /// Pods that a selector fits, of one namespace or of all.
    pub(super) fn pods(&self, source: SourceId, namespace: Option<&str>, selector: &str) -> Watch {
        let stream = watch(self.api::<PodObject>(namespace), watcher::Config::default().labels(selector));
        let what = format!("pods {selector}");
        self.listen(stream, what, move |heard| Told::Pod(source, heard), |object: PodObject| object.pod)
    }

    /// Services, of one namespace or of all. Their annotations say as much as their labels, so all are read.
    pub(super) fn services(&self, source: SourceId, namespace: Option<&str>) -> Watch {
        let stream = watch(self.api::<ServiceObject>(namespace), watcher::Config::default());
        let what = "services".to_owned();
        self.listen(stream, what, move |heard| Told::Service(source, heard), |object: ServiceObject| object.service)
    }

    /// Nodes, of which the labels are read and nothing else.
    pub(super) fn nodes(&self) -> Watch {
        let nodes: Api<PartialObjectMeta<Node>> = Api::all(self.client.clone());
        let stream = watch(nodes, watcher::Config::default());
        let node = |node: PartialObjectMeta<Node>| {
            let labels = node.metadata.labels.unwrap_or_default();
            let zone = labels.get("topology.kubernetes.io/zone").map(|zone| Arc::from(zone.as_str()));
            (Arc::from(node.metadata.name.unwrap_or_default()), zone)
        };
        self.listen(stream, "nodes".to_owned(), Told::Node, node)
    }

    fn api<K>(&self, namespace: Option<&str>) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        match namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        }
    }

    fn listen<K, T, S>(
        &self,
        stream: S,
        what: String,
        told: impl Fn(Heard<T>) -> Told + Send + 'static,
        read: impl Fn(K) -> T + Send + 'static,
    ) -> Watch
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
        S: futures_util::Stream<Item = watcher::Result<Event<K>>> + Send + 'static,
        T: Send + 'static,
    {
        let (queue, metrics) = (self.queue.clone(), self.metrics.clone());
        Watch(tokio::spawn(async move {
            let mut stream = std::pin::pin!(stream.default_backoff());
            let mut trouble: Option<String> = None;
            while let Some(event) = stream.next().await {
                let heard = match event {
                    Ok(event) => {
                        metrics.events.add(1);
                        if trouble.take().is_some() {
                            info!(what, "api server told again");
                        }
                        match event {
                            Event::Init => {
                                metrics.lists.add(1);
                                Heard::Begin
                            }
                            Event::InitApply(object) | Event::Apply(object) => Heard::Is(Box::new(read(object))),
                            Event::InitDone => Heard::Done,
                            Event::Delete(object) => Heard::Gone(key(&object)),
                        }
                    }
                    Err(error) => {
                        metrics.watch_errors.add(1);
                        let error = chain(&error);
                        if trouble.as_ref() == Some(&error) {
                            debug!(what, error, "api server did not tell");
                        } else {
                            warn!(what, error, "api server did not tell: what is known is served on");
                        }
                        trouble = Some(error);
                        Heard::Trouble
                    }
                };
                if queue.send(told(heard)).await.is_err() {
                    return;
                }
            }
        }))
    }
}

fn key<K: Resource>(object: &K) -> Key {
    let text = |text: &Option<String>| Arc::from(text.as_deref().unwrap_or_default());
    (text(&object.meta().namespace), text(&object.meta().name))
}

/// An error with what caused it.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
