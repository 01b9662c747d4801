//! Objects that were applied by hand, and what becomes of objects that nobody works on.
//!
//! ```text
//!  CodeRun without a delivery --> SubmitRun --> annotated with its delivery --> leased like any other
//!  its delivery is forgotten  --> SubmitRun once more, or phase Failed where it might be done twice
//!  deleted, nobody at work    --> CancelRun, Job deleted --> finalizer gone, after `finalizer_timeout` also where nobody answers
//!  cancelled while nobody was there --> Job deleted, phase Cancelled
//!  ended, and the control plane has it  --> finalizer gone, its Jobs go after the delays of `cleanup`
//! ```
//! Invariant: everything here is decided from the object as it is, so whatever was missed is made good at the next look.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Event;
use kube::api::{Api, DynamicObject};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use mindos_kube::platform::plan::Kind;
use mindos_kube::platform::{DELIVERY_ANNOTATION, EVENT_ANNOTATION, Phase, RunStatus, TOKEN_ANNOTATION, names};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{info, warn};

use super::general::{Desk, Key, cancel, clear, job_names, now};
use super::place::{Place, annotation, code, finalizer, post, resource, spec_of, status_of};
use super::plane::{Plane, Stands};
use super::step::{self, Forgotten, JobState};
use crate::api_server::within;

/// Every object is looked at again after this time.
const RESYNC: Duration = Duration::from_secs(60);
/// Between two looks at a deleted object that is worked on.
const LEAVES: Duration = Duration::from_secs(1);
/// Between two looks at an object that one look was not enough for, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// Objects that may wait to be looked at: those beyond are found by the next resync.
const WAITING_MAX: usize = 4096;

/// Looks after the objects of a kind in a namespace.
#[derive(Clone)]
pub(super) struct Keeper {
    pub(super) place: Place,
    pub(super) plane: Plane,
    pub(super) desk: Arc<Desk>,
    /// For watches, which say nothing for long.
    pub(super) watching: Client,
}

/// What a look at an object came to.
#[derive(Debug)]
enum Looked {
    /// Nothing is to be done until it changes, or the resync.
    Settled,
    /// It is to be looked at again, after this time at most.
    Again(Duration),
}

/// Objects that are to be looked at again: when, and after which pause. It doubles until a look was enough.
#[derive(Debug, Default)]
struct Later(BTreeMap<String, (Instant, Duration)>);

impl Later {
    fn next(&self) -> Option<Instant> {
        self.0.values().map(|(at, _)| *at).min()
    }

    /// One whose time has come.
    fn due(&self, now: Instant) -> Option<String> {
        self.0.iter().find(|(_, (at, _))| *at <= now).map(|(name, _)| name.clone())
    }

    fn put(&mut self, name: String, now: Instant, most: Duration) {
        let pause = self.0.get(&name).map_or(AGAIN.0, |(_, pause)| (*pause * 2).min(AGAIN.1));
        self.0.insert(name, (now + pause.min(most), pause));
    }

    fn settled(&mut self, name: &str) {
        self.0.remove(name);
    }
}

impl Keeper {
    /// Watches the objects of a kind, until it is dropped.
    pub(super) async fn objects(self, kind: Kind, namespace: String) {
        let api: Api<DynamicObject> = Api::namespaced_with(self.watching.clone(), &namespace, &resource(kind));
        let (seen, mut due) = mpsc::channel(WAITING_MAX);
        let keeper = self.clone();
        let watch = async {
            let mut stream = std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff());
            let mut known = BTreeSet::new();
            let mut resync = tokio::time::interval(RESYNC);
            loop {
                tokio::select! {
                    event = stream.next() => match event {
                        Some(Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object))) => {
                            let name = object.name_any();
                            keeper.desk.wake(&(kind, namespace.clone(), name.clone()));
                            known.insert(name.clone());
                            let _ = seen.try_send(name);
                        }
                        Some(Ok(watcher::Event::Delete(object))) => {
                            known.remove(&object.name_any());
                            keeper.desk.wake(&(kind, namespace.clone(), object.name_any()));
                        }
                        Some(Ok(watcher::Event::Init)) => known.clear(),
                        Some(Ok(watcher::Event::InitDone)) => {}
                        Some(Err(error)) => warn!(%error, kind = kind.object(), namespace, "a watch broke off: begun again"),
                        None => return,
                    },
                    _ = resync.tick() => for name in &known {
                        let _ = seen.try_send(name.clone());
                    }
                }
            }
        };
        let look = async {
            let mut later = Later::default();
            loop {
                let name = tokio::select! {
                    name = due.recv() => match name {
                        Some(name) => name,
                        None => return,
                    },
                    () = sleep_until(later.next()) => {
                        let Some(name) = later.due(Instant::now()) else { continue };
                        name
                    }
                };
                match self.look(&(kind, namespace.clone(), name.clone())).await {
                    Ok(Looked::Settled) => later.settled(&name),
                    Ok(Looked::Again(most)) => later.put(name, Instant::now(), most),
                    Err(error) => {
                        if code(&error) != 409 {
                            warn!(%error, kind = kind.object(), namespace, name, "an object was not looked after: tried again");
                        }
                        later.put(name, Instant::now(), AGAIN.1);
                    }
                }
            }
        };
        tokio::select! {
            () = watch => {}
            () = look => {}
        }
    }

    /// Watches Jobs, and wakes whoever works on their runs.
    pub(super) async fn jobs(self, namespace: String) {
        let api: Api<Job> = Api::namespaced(self.watching.clone(), &namespace);
        let config = watcher::Config::default().labels("app=orchestrator");
        let mut stream = std::pin::pin!(watcher(api, config).default_backoff());
        while let Some(event) = stream.next().await {
            match event {
                Ok(watcher::Event::Apply(job) | watcher::Event::InitApply(job)) => {
                    let has_time = job.spec.as_ref().is_some_and(|spec| spec.ttl_seconds_after_finished.is_some());
                    let ended = Some(JobState::of(Some(&job))).filter(|state| *state != JobState::Running && !has_time);
                    self.heard(&namespace, &job, ended);
                }
                Ok(watcher::Event::Delete(job)) => self.heard(&namespace, &job, None),
                Ok(watcher::Event::Init) => self.desk.relist(&namespace),
                Ok(watcher::Event::InitDone) => {}
                Err(error) => warn!(%error, namespace, "a watch of jobs broke off: begun again"),
            }
        }
    }

    /// A Job has changed; how it ended, where it has and stays for good.
    fn heard(&self, namespace: &str, job: &Job, ended: Option<JobState>) {
        for owner in job.owner_references() {
            let kind = if owner.kind == Kind::Code.object() { Kind::Code } else { Kind::Docs };
            let key = (kind, namespace.to_owned(), owner.name.clone());
            self.desk.job(&key, &job.name_any(), ended.clone());
            self.desk.wake(&key);
        }
    }

    async fn look(&self, key: &Key) -> kube::Result<Looked> {
        let (kind, namespace, name) = key;
        let Some(object) = within(self.place.objects(*kind, namespace).get_opt(name)).await? else {
            return Ok(Looked::Settled);
        };
        if self.desk.has(key) {
            // Who works on one that is deleted may have to leave it.
            let is_deleted = object.metadata.deletion_timestamp.is_some();
            return Ok(if is_deleted { Looked::Again(LEAVES) } else { Looked::Settled });
        }
        let delivery = annotation(&object, DELIVERY_ANNOTATION).map(str::to_owned);
        if object.metadata.deletion_timestamp.is_some() {
            return self.let_go(*kind, &object, delivery.as_deref()).await;
        }
        let status = status_of(&object);
        let ended = self.desk.ended(key);
        let is_kept = object.finalizers().iter().any(|name| name == finalizer(*kind));
        if status.is_final() && !is_kept && ended.is_empty() {
            return Ok(Looked::Settled);
        }
        let Some(delivery) = delivery else {
            return if status.is_final() { Ok(Looked::Settled) } else { self.submit(*kind, &object).await };
        };
        let stands = match self.plane.stands(&delivery).await {
            Ok(stands) => stands,
            Err(status) => {
                warn!(error = %status, name, "the control plane did not say how a run stands: asked again");
                return Ok(Looked::Settled);
            }
        };
        if self.desk.has(key) {
            return Ok(Looked::Settled);
        }
        if !ended.is_empty()
            && let Err(error) = self.let_jobs_go(key, &object, &status, &stands, ended).await
        {
            warn!(%error, kind = kind.object(), namespace, name, "jobs that have ended were given no time to live: tried again");
        }
        match stands {
            Stands::Open => {}
            // Whoever gets the lease of what has ended and was not told yet is to find it.
            Stands::Parked(_) if status.is_final() => {}
            _ if status.is_final() => self.place.release(*kind, namespace, name).await?,
            Stands::Cancelled => {
                cancel(&self.place, *kind, namespace, name).await?;
                info!(kind = kind.object(), namespace, name, "a run that was cancelled was cleared");
            }
            Stands::Parked(reason) if status.phase() != Phase::Failed => {
                let mut parked = status.clone();
                parked.enter(Phase::Failed, &reason, now());
                self.place.write_status(*kind, namespace, name, &status, &parked).await?;
            }
            Stands::Unknown => return self.forgotten(*kind, &object, &delivery).await,
            Stands::Parked(_) | Stands::Succeeded => {}
        }
        Ok(Looked::Settled)
    }

    /// Gives Jobs that have ended a time to live, where nobody has to read them any more.
    async fn let_jobs_go(
        &self,
        key: &Key,
        object: &DynamicObject,
        status: &RunStatus,
        stands: &Stands,
        ended: BTreeMap<String, JobState>,
    ) -> kube::Result<()> {
        let (kind, namespace, _) = key;
        let newest = job_names(*kind, object);
        let is_by_hand = annotation(object, EVENT_ANNOTATION).is_some();
        let may_go = |name: &String, job: &JobState| {
            step::may_go(job, newest.contains(name), status.phase(), stands, is_by_hand)
        };
        let free: Vec<(String, JobState)> = ended.into_iter().filter(|(name, job)| may_go(name, job)).collect();
        if free.is_empty() {
            return Ok(());
        }
        // Where it is not accepted they stay until it is.
        let Ok(config) = self.place.config(namespace).await? else { return Ok(()) };
        for (name, job) in free {
            let seconds = match stands {
                Stands::Unknown => config.stays_forgotten(&self.place.settings.job),
                _ => config.stays(job == JobState::Complete),
            };
            if let Some(seconds) = seconds {
                self.place.keep_for(namespace, &name, seconds).await?;
            }
            // Also where it stays for good, be it because the API server drops the field: before 1.21 that is switched off.
            self.desk.job(key, &name, None);
        }
        Ok(())
    }

    /// The control plane does not know its delivery, as after a restore: it is submitted again where nothing of it can be done twice.
    async fn forgotten(&self, kind: Kind, object: &DynamicObject, delivery: &str) -> kube::Result<Looked> {
        let (namespace, status) = (object.namespace().unwrap_or_default(), status_of(object));
        let job = match &status.job_name {
            Some(job) => within(self.place.jobs(&namespace).get_opt(job)).await?,
            None => None,
        };
        let is_by_hand = annotation(object, EVENT_ANNOTATION).is_some();
        match step::forgotten(status.phase(), &JobState::of(job.as_ref()), is_by_hand) {
            Forgotten::Leave => Ok(Looked::Settled),
            Forgotten::Submit => self.submit(kind, object).await,
            Forgotten::GiveUp => self.give_up(kind, object, delivery).await,
        }
    }

    /// Nobody can say what came of a run: its object says what a person has to do.
    async fn give_up(&self, kind: Kind, object: &DynamicObject, delivery: &str) -> kube::Result<Looked> {
        let message = format!(
            "the control plane does not know delivery {delivery}, and there is no job to say what came of it: see whether it made a pull \
             request. To have it done again, delete this object, then apply it or ask for the run once more"
        );
        self.refuse(kind, object, &message).await?;
        self.tell(kind, object, "Forgotten", &message).await;
        warn!(
            kind = kind.object(),
            name = object.name_any(),
            delivery,
            "a run was given up: its delivery is not known"
        );
        Ok(Looked::Settled)
    }

    /// What an object asks for is not done.
    async fn refuse(&self, kind: Kind, object: &DynamicObject, reason: &str) -> kube::Result<()> {
        let before = status_of(object);
        let mut status = before.clone();
        status.enter(Phase::Failed, reason, now());
        status.observed_generation = object.metadata.generation;
        let namespace = object.namespace().unwrap_or_default();
        self.place.write_status(kind, &namespace, &object.name_any(), &before, &status).await
    }

    /// An object that was applied by hand becomes an event.
    async fn submit(&self, kind: Kind, object: &DynamicObject) -> kube::Result<Looked> {
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        let uid = object.uid().unwrap_or_default();
        let before = status_of(object);
        let generation = object.metadata.generation;
        if before.phase() == Phase::Failed && before.observed_generation == generation {
            // It was refused, and is as it was.
            return Ok(Looked::Settled);
        }
        if let Err(reason) = spec_of(kind, object) {
            self.refuse(kind, object, &reason).await?;
            return Ok(Looked::Settled);
        }
        let spec = object.data.get("spec").cloned().unwrap_or_default();
        let taken = match self.plane.submit(kind, (&namespace, &name, &uid), &spec).await {
            Ok(taken) => taken,
            Err(status) if status.code() == tonic::Code::InvalidArgument => {
                self.refuse(kind, object, status.message()).await?;
                return Ok(Looked::Settled);
            }
            Err(status) => {
                warn!(error = %status, name, "the control plane did not take a run: tried again");
                return Ok(Looked::Again(AGAIN.1));
            }
        };
        if annotation(object, DELIVERY_ANNOTATION) == Some(taken.delivery_id.as_str()) {
            // It knows that it took the run, and not what came of it.
            return self.give_up(kind, object, &taken.delivery_id).await;
        }
        let mut finalizers = object.finalizers().to_vec();
        if !finalizers.iter().any(|name| name == finalizer(kind)) {
            finalizers.push(finalizer(kind).to_owned());
        }
        // A token of another delivery says nothing about this one.
        let annotations = json!({
            DELIVERY_ANNOTATION: taken.delivery_id, EVENT_ANNOTATION: taken.seq.to_string(), TOKEN_ANNOTATION: Value::Null,
        });
        self.place
            .write_metadata(kind, object, json!({ "annotations": annotations, "finalizers": finalizers }))
            .await?;
        info!(kind = kind.object(), namespace, name, delivery = taken.delivery_id, "an object became a run");
        if before.phase() == Phase::Pending {
            let mut status = before.clone();
            status.enter(Phase::Pending, &format!("waits as delivery {}", taken.delivery_id), now());
            status.observed_generation = generation;
            // Who has the lease may have said more by now; then this one comes too late to matter.
            let there = within(self.place.objects(kind, &namespace).get_opt(&name)).await?;
            if there.is_some_and(|there| !status_of(&there).differs(&before)) {
                self.place.write_status(kind, &namespace, &name, &before, &status).await?;
            }
        }
        Ok(Looked::Settled)
    }

    /// An object that is deleted: its delivery is cancelled and its Job ends before it goes.
    async fn let_go(&self, kind: Kind, object: &DynamicObject, delivery: Option<&str>) -> kube::Result<Looked> {
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        if !object.finalizers().iter().any(|name| name == finalizer(kind)) {
            return Ok(Looked::Settled);
        }
        // Also of one that has ended: its result may not have been told yet.
        if let Some(delivery) = delivery
            && let Err(status) = self.plane.cancel(delivery).await
        {
            let deleted = object.metadata.deletion_timestamp.as_ref().map(|at| at.0.as_millisecond()).unwrap_or(0);
            let waited = Duration::from_millis(now().0.saturating_sub(u64::try_from(deleted).unwrap_or(0)));
            if waited < self.place.settings.finalizer_timeout {
                warn!(error = %status, name, "a deleted run is not cancelled yet: tried again");
                return Ok(Looked::Again(self.place.settings.finalizer_timeout - waited));
            }
            let message = format!(
                "let go after {} s: the control plane did not hear that {delivery} is not wanted",
                waited.as_secs()
            );
            self.tell(kind, object, "LetGo", &message).await;
            self.desk.unheard(delivery);
        }
        clear(&self.place, kind, object).await?;
        self.place.release(kind, &namespace, &name).await?;
        info!(kind = kind.object(), namespace, name, "a deleted run was let go");
        Ok(Looked::Settled)
    }

    /// Puts a warning on an object.
    async fn tell(&self, kind: Kind, object: &DynamicObject, reason: &str, message: &str) {
        let namespace = object.namespace().unwrap_or_default();
        let event = json!({
            "metadata": { "generateName": format!("{}-", names::object(&object.name_any())), "namespace": namespace },
            "involvedObject": {
                "apiVersion": "orchestrator.platform/v1", "kind": kind.object(), "name": object.name_any(),
                "namespace": namespace, "uid": object.uid(),
            },
            "reason": reason, "message": message, "type": "Warning",
            "source": { "component": "mindos-cluster-agent" },
            "firstTimestamp": now().to_string(), "lastTimestamp": now().to_string(), "count": 1,
        });
        let events: Api<Event> = Api::namespaced(self.place.kube.clone(), &namespace);
        let told = match serde_json::from_value::<Event>(event) {
            Ok(event) => within(events.create(&post(), &event)).await.map(drop),
            Err(error) => Err(kube::Error::SerdeError(error)),
        };
        if let Err(error) = told {
            warn!(%error, message, "an event was not put on an object");
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use kube::api::DeleteParams;
    use mindos_kube::platform::request::Order;
    use mindos_model::{FailureKind, Token};

    use super::super::general::{Lease, Runner};
    use super::super::tests::{NAMESPACE, Played, code_spec, config_map, played};
    use super::*;

    #[test]
    fn a_look_is_repeated_after_a_pause_that_doubles_to_a_minute() {
        let (mut later, now) = (Later::default(), Instant::now());
        let put = |later: &mut Later, most: Duration| {
            later.put("x".to_owned(), now, most);
            (later.next().unwrap() - now).as_secs()
        };
        let pauses: Vec<u64> = (0..6).map(|_| put(&mut later, AGAIN.1)).collect();
        assert_eq!(pauses, [5, 10, 20, 40, 60, 60]);
        assert_eq!((later.due(now), later.due(now + AGAIN.1)), (None, Some("x".to_owned())));
        assert_eq!(put(&mut later, Duration::from_secs(3)), 3);
        later.settled("x");
        assert_eq!(later.next(), None);
        assert_eq!(put(&mut later, AGAIN.1), 5);
    }

    #[tokio::test]
    async fn a_forgotten_run_is_submitted_again_unless_its_job_is_gone() {
        let (place, api) = played();
        let plane = Arc::new(Played::default());
        *plane.is_restored.lock().unwrap() = true;
        let keeper = Keeper { watching: place.kube.clone(), place, plane: plane.clone(), desk: Arc::default() };
        let complete = json!({ "conditions": [{ "type": "Complete", "status": "True" }] });
        api.lock().unwrap().put("jobs", json!({ "metadata": { "name": "at-work" } }));
        api.lock().unwrap().put("jobs", json!({ "metadata": { "name": "complete" }, "status": complete }));
        let marks = json!({ DELIVERY_ANNOTATION: "d9.1", EVENT_ANNOTATION: "9", TOKEN_ANNOTATION: "1.4" });
        for (name, status) in [
            ("waits", json!({ "phase": "Pending" })),
            ("runs", json!({ "phase": "Running", "jobName": "at-work" })),
            ("ended", json!({ "phase": "Running", "jobName": "complete" })),
            ("lost", json!({ "phase": "Running", "jobName": "gone" })),
        ] {
            let metadata = json!({ "name": name, "namespace": NAMESPACE, "uid": name, "annotations": marks });
            let object = json!({ "metadata": metadata, "spec": code_spec("trader"), "status": status });
            api.lock().unwrap().put("coderuns", object);
        }

        for name in ["waits", "runs", "ended", "lost", "lost"] {
            keeper.look(&(Kind::Code, NAMESPACE.to_owned(), name.to_owned())).await.unwrap();
        }

        assert_eq!(*plane.submitted.lock().unwrap(), ["waits", "ended"]);
        let api = api.lock().unwrap();
        let marks = |name: &str| api.get("coderuns", name)["metadata"]["annotations"].clone();
        for name in ["waits", "ended"] {
            assert_eq!(marks(name)[DELIVERY_ANNOTATION], format!("of-{name}"));
            assert!(marks(name)[TOKEN_ANNOTATION].is_null(), "the new delivery begins with its own token");
        }
        assert_eq!(api.get("coderuns", "waits")["status"]["message"], "waits as delivery of-waits");
        assert_eq!(marks("runs")[DELIVERY_ANNOTATION], "d9.1");
        let status = api.get("coderuns", "lost")["status"].clone();
        assert_eq!(status["phase"], "Failed");
        assert!(status["message"].as_str().unwrap().contains("does not know delivery d9.1"), "{status}");
        let told = api.all("events");
        assert_eq!(told.len(), 1, "it is told once");
        assert_eq!((&told[0]["reason"], &told[0]["involvedObject"]["name"]), (&json!("Forgotten"), &json!("lost")));
    }

    #[tokio::test]
    async fn a_job_and_its_object_stay_until_the_control_plane_has_the_outcome() {
        let (place, api) = played();
        let plane = Arc::new(Played::default());
        let keeper = Keeper { watching: place.kube.clone(), place, plane: plane.clone(), desk: Arc::default() };
        api.lock().unwrap().put("configmaps", config_map(json!({})));
        let condition = |kind: &str| json!({ "conditions": [{ "type": kind, "status": "True" }] });
        let key = |name: &str| (Kind::Code, NAMESPACE.to_owned(), name.to_owned());
        let runs = [
            ("done", "Succeeded", "Complete", Stands::Succeeded, Some(300)),
            ("parked", "Failed", "Failed", Stands::Parked("m".into()), Some(3600)),
            ("unread", "Failed", "Complete", Stands::Parked("m".into()), None),
            ("untold", "Succeeded", "Complete", Stands::Parked("m".into()), None),
            ("unknown", "Succeeded", "Complete", Stands::Unknown, Some(1800)),
        ];
        for (name, phase, end, ..) in &runs {
            let metadata = json!({
                "name": name, "namespace": NAMESPACE, "uid": name, "finalizers": [finalizer(Kind::Code)],
                "annotations": { DELIVERY_ANNOTATION: name },
            });
            let status = json!({ "phase": phase, "jobName": format!("{name}-v1") });
            let object = json!({ "metadata": metadata, "spec": code_spec("trader"), "status": status });
            api.lock().unwrap().put("coderuns", object);
            let owner = json!({ "apiVersion": "v1", "kind": "CodeRun", "name": name, "uid": name });
            let metadata = json!({ "name": format!("{name}-v1"), "ownerReferences": [owner] });
            let job = json!({ "metadata": metadata, "spec": { "template": {} }, "status": condition(end) });
            let job: Job = serde_json::from_value(api.lock().unwrap().put("jobs", job)).unwrap();
            keeper.heard(NAMESPACE, &job, Some(JobState::of(Some(&job))));
            keeper.look(&key(name)).await.unwrap();
        }
        let look = |name: &str| {
            let api = api.lock().unwrap();
            let time = api.get("jobs", &format!("{name}-v1"))["spec"]["ttlSecondsAfterFinished"].as_i64();
            (time, api.get("coderuns", name)["metadata"]["finalizers"].as_array().map_or(0, Vec::len))
        };
        for (name, ..) in &runs {
            assert_eq!(look(name), (None, 1), "{name}: its delivery is open");
        }

        for (name, _, _, stands, time) in &runs {
            plane.ended.lock().unwrap().insert((*name).to_owned(), stands.clone());
            keeper.look(&key(name)).await.unwrap();
            let is_kept = usize::from(!matches!(*name, "done" | "unknown"));
            assert_eq!(look(name), (*time, is_kept), "{name}");
        }
    }

    #[tokio::test]
    async fn a_run_whose_object_went_unheard_is_not_begun_anew() {
        let (place, api) = played();
        let plane = Arc::new(Played::default());
        *plane.is_away.lock().unwrap() = true;
        let desk: Arc<Desk> = Arc::default();
        let keeper = Keeper { watching: place.kube.clone(), place, plane: plane.clone(), desk: Arc::clone(&desk) };
        let metadata = json!({
            "name": "x", "namespace": NAMESPACE, "uid": "x", "finalizers": [finalizer(Kind::Code)],
            "annotations": { DELIVERY_ANNOTATION: "d1.1" }, "deletionTimestamp": "2020-11-20T12:00:00Z",
        });
        api.lock().unwrap().put("coderuns", json!({ "metadata": metadata, "spec": code_spec("trader") }));
        keeper.look(&(Kind::Code, NAMESPACE.to_owned(), "x".to_owned())).await.unwrap();
        assert_eq!(api.lock().unwrap().get("coderuns", "x")["metadata"]["finalizers"], json!([]));
        keeper.place.objects(Kind::Code, NAMESPACE).delete("x", &DeleteParams::default()).await.unwrap();

        let lease = Lease {
            runner: Runner { kind: Kind::Code, place: keeper.place.clone(), plane, desk },
            delivery: "d1.1".to_owned(),
            token: Token { epoch: 1, term: 2 },
            attempt: 2,
            order: Order {
                name: "x".to_owned(),
                namespace: NAMESPACE.to_owned(),
                uid: None,
                spec: code_spec("trader"),
            },
            attempts: 3,
            notify: Arc::default(),
            tell: Box::new(|_| {}),
        };
        let ended = tokio::time::timeout(Duration::from_secs(5), lease.run()).await.expect("the run ends");
        assert_eq!(ended.unwrap_err().kind, FailureKind::Cancelled);
        assert!(api.lock().unwrap().get("coderuns", "x").is_null());
    }
}
