//! The loop: what both sides tell is kept, and steps are taken, a bounded number at a time.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use super::api::{self, Seen, Source};
use super::known::{Held, Known, Ref, Refusal, Stand};
use super::plan::{self, Both, Step, Written};
use super::plane::{self, Brought, Told};
use super::{Place, Settings};
use crate::discovery::chain;
use crate::metrics::Metrics;

/// Steps at a time.
const STEPS_MAX: usize = 16;
/// Messages of the control plane that may lie.
const TOLD_MAX: usize = 16;
/// How long a leader that is told to end later goes on: for ever, where nothing is due.
const NEVER: Duration = Duration::from_secs(24 * 60 * 60);

/// A number from 0 to 1, for jitter.
pub(super) fn chance() -> f64 {
    // As random as the keys of hash maps are.
    let drawn = RandomState::new().build_hasher().finish();
    f64::from(u32::try_from(drawn >> 32).unwrap_or_default()) / f64::from(u32::MAX)
}

/// What came of a step.
enum Outcome {
    /// The object as it is by now.
    Known(Box<Known>),
    Brought(Brought, Held),
    /// The control plane does not hold it any more.
    Forgotten,
    /// It is there after all, or another one: its watch says the rest.
    Stays,
    /// It leaves, and nothing of ours holds it.
    Released,
    /// Look again then.
    Later(Duration),
    Nothing,
    Failed(String),
}

/// What is known.
struct Work {
    settings: Settings,
    api: api::Caller,
    plane: plane::Caller,
    objects: BTreeMap<Ref, Arc<Known>>,
    /// Lists that are being read, with what was in them so far.
    lists: BTreeMap<Source, BTreeSet<Ref>>,
    /// Sources whose first list is not complete: what is missing may only not have come yet.
    unread: BTreeSet<Source>,
    /// `None` while the control plane is away.
    held: Option<BTreeMap<Ref, Held>>,
    stands: BTreeMap<Ref, Arc<Stand>>,
    refusals: BTreeMap<Ref, Arc<Refusal>>,
    queue: super::queue::Queue,
    /// What went wrong last, so that it is logged once.
    trouble: Option<String>,
}

/// Reconciles for ever.
pub(super) async fn run(place: Place, settings: Settings, metrics: &Metrics) {
    let Place { kube, watching, plane, cluster, namespaces, instance } = place;
    let sources = api::sources(&namespaces);
    let mut seen = api::watch(&watching, &sources);
    let plane = plane::Caller::new(plane, cluster);
    let (sender, mut told) = mpsc::channel(TOLD_MAX);
    // Ends with its receiver.
    tokio::spawn(plane.clone().follow(settings.resync, sender));
    let mut work = Work {
        settings,
        api: api::Caller::new(kube, instance),
        plane,
        objects: BTreeMap::new(),
        lists: BTreeMap::new(),
        unread: sources.into_iter().collect(),
        held: None,
        stands: BTreeMap::new(),
        refusals: BTreeMap::new(),
        queue: super::queue::Queue::default(),
        trouble: None,
    };
    let mut steps: JoinSet<(Ref, Step, Outcome)> = JoinSet::new();
    loop {
        while steps.len() < STEPS_MAX
            && let Some(of) = work.queue.take(Instant::now())
        {
            work.begin(of, &mut steps);
        }
        let due = work.queue.next().filter(|_| steps.len() < STEPS_MAX).unwrap_or_else(|| Instant::now() + NEVER);
        tokio::select! {
            Some((source, seen)) = seen.next() => work.seen(source, seen, metrics),
            Some(told) = told.recv() => work.told(told, metrics),
            Some(ended) = steps.join_next() => match ended {
                Ok((of, step, outcome)) => work.ended(of, &step, outcome, metrics),
                // A step that panicked leaves its object taken, which would never be looked at again.
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            },
            () = sleep_until(due) => {}
        }
        metrics.objects.set(i64::try_from(work.objects.len()).unwrap_or(i64::MAX));
        metrics.objects_refused.set(i64::try_from(work.refusals.len()).unwrap_or(i64::MAX));
    }
}

impl Work {
    fn look(&mut self, of: Ref) {
        self.queue.put(of, Instant::now());
    }

    fn seen(&mut self, source: Source, seen: Seen, metrics: &Metrics) {
        match seen {
            Seen::Begun => {
                metrics.lists.add(1);
                self.lists.insert(source, BTreeSet::new());
            }
            Seen::There(of, known) => {
                metrics.events.add(1);
                if let Some(list) = self.lists.get_mut(&source) {
                    list.insert(of.clone());
                }
                self.objects.insert(of.clone(), Arc::from(known));
                self.look(of);
            }
            Seen::Gone(of) => {
                metrics.events.add(1);
                self.gone(of);
            }
            Seen::Complete => {
                let list = self.lists.remove(&source).unwrap_or_default();
                let (kind, namespace) = &source;
                let is_of = |of: &Ref| {
                    of.kind == *kind && namespace.as_deref().is_none_or(|namespace| of.namespace == namespace)
                };
                let missing = self.objects.keys().filter(|of| is_of(of) && !list.contains(*of));
                missing.cloned().collect::<Vec<_>>().into_iter().for_each(|of| self.gone(of));
                if self.unread.remove(&source) && self.unread.is_empty() {
                    info!(objects = self.objects.len(), "objects of the cluster read");
                    self.look_at_all();
                }
            }
            Seen::Failed(error) => {
                metrics.watch_errors.add(1);
                self.log(format!("watch: {}", chain(&error)));
            }
        }
    }

    fn gone(&mut self, of: Ref) {
        self.objects.remove(&of);
        self.refusals.remove(&of);
        self.stands.remove(&of);
        self.look(of);
    }

    fn told(&mut self, told: Told, metrics: &Metrics) {
        match told {
            Told::Held(held) => {
                if self.held.is_none() {
                    info!(held = held.len(), "control plane reached for objects");
                    self.queue.hurry(Instant::now());
                }
                self.held = Some(held);
                // What was not granted may be by now.
                self.refusals.clear();
                self.look_at_all();
            }
            Told::Stands(stands) => {
                for (of, stand) in stands {
                    self.stands.insert(of.clone(), Arc::new(stand));
                    self.look(of);
                }
            }
            Told::Away(status) => {
                metrics.object_errors.add(1);
                self.log(format!("control plane: {}", status.message()));
                if self.held.take().is_some() {
                    self.stands.clear();
                    self.look_at_all();
                }
            }
        }
    }

    fn look_at_all(&mut self) {
        let held = self.held.iter().flat_map(|held| held.keys());
        let all: BTreeSet<Ref> = self.objects.keys().chain(held).cloned().collect();
        all.into_iter().for_each(|of| self.look(of));
    }

    fn log(&mut self, trouble: String) {
        if self.trouble.as_ref() == Some(&trouble) {
            debug!(error = trouble, "objects were not reconciled");
        } else {
            warn!(error = trouble, "objects were not reconciled");
            self.trouble = Some(trouble);
        }
    }

    fn step(&self, of: &Ref) -> Step {
        let plane = match &self.held {
            None => plan::Plane::Away,
            Some(held) => plan::Plane::There { held: held.get(of), stand: self.stands.get(of).map(AsRef::as_ref) },
        };
        let known = self.objects.get(of).map(AsRef::as_ref);
        let refusal = self.refusals.get(of).map(AsRef::as_ref);
        let step = plan::step(
            Both { kind: of.kind, known, plane: &plane, refusal },
            &Time(Timestamp::now()),
            self.settings.finalizer_timeout,
        );
        match step {
            // Before everything was read, what is missing may only not have come yet.
            Step::Prune if !self.unread.is_empty() => Step::Nothing,
            step => step,
        }
    }

    fn begin(&mut self, of: Ref, steps: &mut JoinSet<(Ref, Step, Outcome)>) {
        let step = self.step(&of);
        match &step {
            Step::Nothing => return self.queue.done(of, Instant::now(), None),
            Step::Wait(left) => return self.queue.done(of, Instant::now(), Some(*left)),
            Step::AddFinalizer
            | Step::LetGo
            | Step::Apply
            | Step::Delete { .. }
            | Step::Prune
            | Step::WriteStatus(_) => {}
        }
        let known = self.objects.get(&of).cloned();
        let held = self.held.as_ref().and_then(|held| held.get(&of)).cloned();
        let (api, plane) = (self.api.clone(), self.plane.clone());
        steps.spawn(async move {
            let outcome = take(&of, &step, known.as_deref(), held.as_ref(), &api, &plane).await;
            (of, step, outcome)
        });
    }

    fn ended(&mut self, of: Ref, step: &Step, outcome: Outcome, metrics: &Metrics) {
        let now = Instant::now();
        let mut more = Some(Duration::ZERO);
        match outcome {
            Outcome::Known(known) => {
                // Whoever was deleted meanwhile was told by the watch already.
                if self.objects.get(&of).is_some_and(|before| before.uid == known.uid) {
                    self.objects.insert(of.clone(), Arc::from(known));
                }
            }
            Outcome::Brought(Brought::Accepted, brought) => {
                metrics.objects_applied.add(1);
                self.refusals.remove(&of);
                if let Some(held) = &mut self.held {
                    held.insert(of.clone(), brought);
                }
            }
            Outcome::Brought(Brought::Refused(refusal), _) => {
                metrics.objects_applied.add(1);
                self.refusals.insert(of.clone(), Arc::new(refusal));
            }
            Outcome::Forgotten | Outcome::Released => {
                if let Some(held) = &mut self.held {
                    held.remove(&of);
                }
                self.stands.remove(&of);
                more = None;
            }
            // The watch brings what there is, and the next look at the control plane what it holds.
            Outcome::Stays | Outcome::Nothing => more = None,
            Outcome::Later(wait) => more = Some(wait),
            Outcome::Failed(trouble) => {
                metrics.object_errors.add(1);
                debug!(object = %of, ?step, error = trouble, "step was not taken");
                self.log(trouble);
                return self.queue.failed(of, now, chance());
            }
        }
        self.queue.done(of, now, more);
    }
}

async fn take(
    of: &Ref,
    step: &Step,
    known: Option<&Known>,
    held: Option<&Held>,
    api: &api::Caller,
    plane: &plane::Caller,
) -> Outcome {
    let written = |written: kube::Result<Known>| match written {
        Ok(known) => Outcome::Known(Box::new(known)),
        Err(error) if api::is_gone(&error) => Outcome::Later(Duration::from_secs(2)),
        Err(error) => Outcome::Failed(format!("API server: {}", chain(&error))),
    };
    let released = |removed: kube::Result<()>| match removed {
        Ok(()) => Outcome::Released,
        Err(error) => Outcome::Failed(format!("API server: {}", chain(&error))),
    };
    let away = |status: tonic::Status| Outcome::Failed(format!("control plane: {}", status.message()));
    match (step, known, held) {
        (Step::AddFinalizer, Some(known), _) => written(api.add_finalizer(of, &known.uid).await),
        (Step::LetGo, Some(known), _) => {
            let note =
                "the control plane does not answer: the object goes, and what it made is taken back when it does";
            released(let_go(of, &known.uid, note, api).await)
        }
        (Step::Apply, Some(known), _) => match plane.apply(of, known).await {
            Ok(brought) => {
                let digest = plan::digest(&known.spec);
                let held = Held { uid: known.uid.clone(), generation: known.generation, digest };
                Outcome::Brought(brought, held)
            }
            Err(status) => away(status),
        },
        (Step::Delete { is_late }, Some(Known { uid, .. }), _) => match plane.delete(of, uid).await {
            Ok(()) => released(api.remove_finalizer(of, uid).await),
            Err(status) if *is_late => {
                let why = status.message();
                let note = format!(
                    "the control plane keeps what the object made: the object goes, and it is asked again to take that back: {why}"
                );
                released(let_go(of, uid, &note, api).await)
            }
            Err(status) => away(status),
        },
        (Step::Prune, _, Some(held)) => match api.get(of).await {
            Ok(Some(known)) if known.uid == held.uid => Outcome::Stays,
            Ok(_) => match plane.delete(of, &held.uid).await {
                Ok(()) => Outcome::Forgotten,
                Err(status) => away(status),
            },
            Err(error) => Outcome::Failed(format!("API server: {}", chain(&error))),
        },
        (Step::WriteStatus(Written { status, told }), Some(known), _) => {
            let outcome = written(api.write_status(of, &known.uid, status).await);
            if let (Outcome::Known(_), Some((reason, message, is_well))) = (&outcome, told) {
                api.tell(of, &known.uid, reason, message, *is_well).await;
            }
            outcome
        }
        // A step is for what was there when it was chosen.
        _ => Outcome::Nothing,
    }
}

/// Lets an object go though the control plane has not taken back what it made, and says so.
async fn let_go(of: &Ref, uid: &str, note: &str, api: &api::Caller) -> kube::Result<()> {
    warn!(object = %of, note, "object let go before its cleanup");
    api.tell(of, uid, "CleanupPutOff", note, false).await;
    api.remove_finalizer(of, uid).await
}

#[cfg(test)]
mod tests {
    use kube::core::DynamicObject;
    use mindos_kube::mindos::FINALIZER;
    use mindos_sdk::Trunk;
    use mindos_sdk::model::ClusterName;
    use serde_json::json;
    use tokio::net::TcpListener;
    use tokio_stream::wrappers::TcpListenerStream;
    use tonic::service::Routes;
    use tonic::transport::Server;

    use super::super::known::Kind;
    use super::*;
    use crate::played::ApiServer;

    #[tokio::test]
    async fn an_object_goes_once_its_time_is_over_though_the_control_plane_refuses() {
        // Without services it refuses whatever it is asked.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let refusing = Server::builder().add_routes(Routes::default());
        tokio::spawn(refusing.serve_with_incoming(TcpListenerStream::new(listener)));
        let trunk = Trunk::anonymous(&url).unwrap();
        let plane = plane::Caller::new(trunk.calls(), ClusterName::new("c1").unwrap());

        let (client, played) = ApiServer::start();
        let api = api::Caller::new(client, "agent-0".to_owned());
        let metadata = json!({ "name": "x", "namespace": "a", "uid": "u1", "finalizers": [FINALIZER] });
        let object = played.lock().unwrap().put("generals", json!({ "metadata": metadata }));
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        let (of, known) = (Ref::of(Kind::General, &object), Known::of(&object));

        let delete = async |is_late: bool| take(&of, &Step::Delete { is_late }, Some(&known), None, &api, &plane).await;
        let finalizers = || played.lock().unwrap().get("generals", "x")["metadata"]["finalizers"].clone();
        assert!(matches!(delete(false).await, Outcome::Failed(_)));
        assert_eq!(finalizers(), json!([FINALIZER]));
        assert!(matches!(delete(true).await, Outcome::Released));
        assert_eq!(finalizers(), json!([]));
        let told = played.lock().unwrap().all("events");
        assert_eq!((told.len(), &told[0]["reason"]), (1, &json!("CleanupPutOff")));
    }

    #[test]
    fn chance_lies_between_nothing_and_one() {
        assert!((0..100).map(|_| chance()).all(|drawn| (0.0..=1.0).contains(&drawn)));
    }

    #[test]
    fn clusters_are_looked_at_before_what_is_in_them() {
        assert!(Kind::Cluster < Kind::General);
    }
}
