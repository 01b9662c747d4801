//! The API server's side: what is watched, and what is written, by the one field manager.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use mindos_kube::FIELD_MANAGER;
use mindos_kube::mindos::{FINALIZER, GROUP, VERSION};
use serde_json::{Value, json};

use super::known::{Kind, Known, Ref};
use crate::api_server::within;
use crate::site::Namespaces;

/// Where a list comes from: a kind in one namespace, or in all.
pub(super) type Source = (Kind, Option<Arc<str>>);

/// What the API server tells.
#[derive(Debug)]
pub(super) enum Seen {
    /// A list begins: what is not in it is gone.
    Begun,
    /// There, and in the list where one has begun.
    There(Ref, Box<Known>),
    /// The list is complete.
    Complete,
    Gone(Ref),
    Failed(watcher::Error),
}

/// What is watched, all sources in one stream.
pub(super) type Watched = Pin<Box<dyn Stream<Item = (Source, Seen)> + Send>>;

/// Calls to the API server.
#[derive(Clone)]
pub(super) struct Caller {
    client: Client,
    recorder: Recorder,
}

/// The object is not there any more, or another one by now: its watch says the rest.
pub(super) fn is_gone(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => match status.code {
            404 | 409 => true,
            // How older servers say that the uid is another one's.
            422 => status.message.contains("metadata.uid"),
            _ => false,
        },
        _ => false,
    }
}

fn resource_api(client: &Client, kind: Kind, namespace: Option<&str>) -> Api<DynamicObject> {
    let resource: ApiResource = kind.resource();
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    }
}

/// Every source.
pub(super) fn sources(namespaces: &Namespaces) -> Vec<Source> {
    let mut sources = vec![(Kind::Cluster, None)];
    for kind in Kind::ALL.into_iter().filter(|kind| kind.is_namespaced()) {
        sources.extend(namespaces.each().map(|namespace| (kind, namespace)));
    }
    sources
}

/// Watches all sources. Goes on through every failure.
pub(super) fn watch(client: &Client, sources: &[Source]) -> Watched {
    let streams = sources.iter().map(|source| -> BoxStream<'static, (Source, Seen)> {
        let (kind, namespace) = source.clone();
        let api = resource_api(client, kind, namespace.as_deref());
        let config = watcher::Config::default().page_size(500);
        let stream = watcher(api, config).default_backoff().map(move |told| {
            let there = |object: DynamicObject| Seen::There(Ref::of(kind, &object), Box::new(Known::of(&object)));
            let seen = match told {
                Ok(watcher::Event::Init) => Seen::Begun,
                Ok(watcher::Event::InitApply(object) | watcher::Event::Apply(object)) => there(object),
                Ok(watcher::Event::InitDone) => Seen::Complete,
                Ok(watcher::Event::Delete(object)) => Seen::Gone(Ref::of(kind, &object)),
                Err(error) => Seen::Failed(error),
            };
            ((kind, namespace.clone()), seen)
        });
        stream.boxed()
    });
    Box::pin(stream::select_all(streams.collect::<Vec<_>>()))
}

impl Caller {
    pub(super) fn new(client: Client, instance: String) -> Caller {
        let reporter = Reporter { controller: "mindos.io/cluster-agent".to_owned(), instance: Some(instance) };
        Caller { recorder: Recorder::new(client.clone(), reporter), client }
    }

    fn api(&self, of: &Ref) -> Api<DynamicObject> {
        let namespace = Some(of.namespace.as_str()).filter(|namespace| !namespace.is_empty());
        resource_api(&self.client, of.kind, namespace)
    }

    /// What there is of an object, asked for anew.
    pub(super) async fn get(&self, of: &Ref) -> kube::Result<Option<Known>> {
        let found = within(self.api(of).get_opt(&of.name)).await?;
        Ok(found.as_ref().map(Known::of))
    }

    /// Adds the finalizer, by server-side apply.
    pub(super) async fn add_finalizer(&self, of: &Ref, uid: &str) -> kube::Result<Known> {
        let mut patch = head(of, uid);
        patch["metadata"]["finalizers"] = json!([FINALIZER]);
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let object = within(self.api(of).patch(&of.name, &params, &Patch::Apply(&patch))).await?;
        Ok(Known::of(&object))
    }

    /// Takes the finalizer away, whoever wrote it, unless somebody changes the object at the same time.
    pub(super) async fn remove_finalizer(&self, of: &Ref, uid: &str) -> kube::Result<()> {
        let Some(object) = within(self.api(of).get_opt(&of.name)).await? else { return Ok(()) };
        let DynamicObject { metadata, .. } = object;
        let mut finalizers = metadata.finalizers.unwrap_or_default();
        if metadata.uid.as_deref() != Some(uid) || !finalizers.iter().any(|name| name == FINALIZER) {
            return Ok(());
        }
        finalizers.retain(|name| name != FINALIZER);
        // The version makes it fail where somebody else changed the list meanwhile.
        let patch = json!({"metadata": {"finalizers": finalizers, "resourceVersion": metadata.resource_version}});
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        match within(self.api(of).patch(&of.name, &params, &Patch::Merge(&patch))).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            written => written.map(drop),
        }
    }

    /// Writes the status, by server-side apply.
    pub(super) async fn write_status(&self, of: &Ref, uid: &str, status: &Value) -> kube::Result<Known> {
        let mut patch = head(of, uid);
        patch["status"] = status.clone();
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let object = within(self.api(of).patch_status(&of.name, &params, &Patch::Apply(&patch))).await?;
        Ok(Known::of(&object))
    }

    /// Tells people. That it is not told is no reason to stop.
    pub(super) async fn tell(&self, of: &Ref, uid: &str, reason: &str, note: &str, is_well: bool) {
        let event = Event {
            type_: if is_well { EventType::Normal } else { EventType::Warning },
            reason: reason.chars().take(128).collect(),
            note: Some(note.chars().take(1000).collect()).filter(|note: &String| !note.is_empty()),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        let reference = ObjectReference {
            api_version: Some(format!("{GROUP}/{VERSION}")),
            kind: Some(of.kind.resource().kind),
            name: Some(of.name.clone()),
            namespace: Some(of.namespace.clone()).filter(|namespace| !namespace.is_empty()),
            uid: Some(uid.to_owned()),
            ..ObjectReference::default()
        };
        if let Err(error) = within(self.recorder.publish(&event, &reference)).await {
            tracing::debug!(%error, object = %of, "event was not written");
        }
    }
}

/// What every apply of ours begins with. With the uid nothing is made anew that was deleted meanwhile.
fn head(of: &Ref, uid: &str) -> Value {
    let mut metadata = json!({"name": of.name, "uid": uid});
    if !of.namespace.is_empty() {
        metadata["namespace"] = json!(of.namespace);
    }
    json!({"apiVersion": format!("{GROUP}/{VERSION}"), "kind": of.kind.resource().kind, "metadata": metadata})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_are_in_no_namespace_and_the_rest_in_each() {
        assert_eq!(sources(&Namespaces::All).len(), 4);
        let two = Namespaces::new(&["a".to_owned(), "b".to_owned()]);
        let sources = sources(&two);
        assert_eq!(sources.len(), 7);
        assert!(sources.iter().all(|(kind, namespace)| kind.is_namespaced() == namespace.is_some()));
    }

    #[test]
    fn an_apply_names_the_object_with_its_uid() {
        let of = Ref { kind: Kind::General, namespace: "a".to_owned(), name: "x".to_owned() };
        let expected = json!({
            "apiVersion": "mindos.io/v1alpha1",
            "kind": "General",
            "metadata": {"name": "x", "uid": "u", "namespace": "a"},
        });
        assert_eq!(head(&of, "u"), expected);
    }
}
