//! The generals `code-run` and `docs-run`: a lease becomes an object and its Job, and what the Job tells becomes the result.
//!
//! ```text
//!  lease --> object found or made, marked with delivery and token --> step --> Start --> workspace, status, files, Job, status
//!                                                                      ^         |
//!                                                                      |         v
//!                                    deleted, cancelled <---------- looked at again whenever something changed
//!                                                                      |
//!                                     result, or failure <---- status <-- outcome of the Job
//! ```
//! Invariants: an agent that loses its lease leaves the Job alone; whoever gets the next lease finds it by its name. Job and object stay until
//! the control plane has the result: neither goes in a way that whoever comes next would take for a run that never began.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kube::ResourceExt;
use kube::api::DynamicObject;
use mindos_kube::platform::plan::{Kind, PlanError, RunSpec};
use mindos_kube::platform::request::Order;
use mindos_kube::platform::status::usd;
use mindos_kube::platform::{
    CODE_EVENT, DELIVERY_ANNOTATION, DOCS_EVENT, Outcome, Phase, Plan, Run, RunStatus, TOKEN_ANNOTATION,
};
use mindos_model::{FailureKind, Timestamp, Token};
use mindos_sdk::{Failure, General, Output, Progress, Usage, Work};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tracing::{debug, info, warn};

use super::place::{Place, Workspace, annotation, code, finalizer, post, resource, spec_of, status_of};
use super::plane::{Plane, Stands};
use super::step::{self, Attempt, JobState, Step};
use crate::api_server::within;

/// Looked at again after this time, also where nothing was heard of.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);
/// Between two looks at an API server that does not answer, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));
/// Between two reports of the last lines of a log.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);
/// Between two looks whether a workspace is free.
const WORKSPACE_INTERVAL: Duration = Duration::from_secs(5);
/// Deliveries of deleted objects that are remembered until the control plane gives them out.
const UNHEARD_MAX: usize = 4096;
/// Of a failure's message: what the control plane keeps is 4 KiB.
const MESSAGE_MAX: usize = 3800;
/// Jobs before a run is given up, where its order does not say.
const ATTEMPTS: u32 = 3;

/// An object by its place.
pub(super) type Key = (Kind, String, String);

/// What all runs of an agent share.
#[derive(Default)]
pub(super) struct Desk {
    /// Runs that are worked on here, and the way to wake them.
    working: Mutex<BTreeMap<Key, Arc<Notify>>>,
    /// Jobs that have ended and were given no time to live yet, by their runs.
    ended: Mutex<BTreeMap<Key, BTreeMap<String, JobState>>>,
    /// Deliveries that the control plane did not hear are not wanted, before their objects went.
    unheard: Mutex<BTreeSet<String>>,
}

impl Desk {
    /// Whether a run is worked on here.
    pub(super) fn has(&self, key: &Key) -> bool {
        self.working.lock().unwrap_or_else(PoisonError::into_inner).contains_key(key)
    }

    /// Something about a run changed.
    pub(super) fn wake(&self, key: &Key) {
        if let Some(notify) = self.working.lock().unwrap_or_else(PoisonError::into_inner).get(key) {
            notify.notify_one();
        }
    }

    /// A Job of a run has ended and stays for good; with `None` it does not, or is gone.
    pub(super) fn job(&self, key: &Key, name: &str, ended: Option<JobState>) {
        let mut all = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        match ended {
            Some(state) => {
                all.entry(key.clone()).or_default().insert(name.to_owned(), state);
            }
            None => {
                if let Some(jobs) = all.get_mut(key) {
                    jobs.remove(name);
                    if jobs.is_empty() {
                        all.remove(key);
                    }
                }
            }
        }
    }

    /// All Jobs of a namespace are told of again.
    pub(super) fn relist(&self, namespace: &str) {
        let mut all = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(_, of, _), _| of != namespace);
    }

    /// The Jobs of a run that have ended and stay for good.
    pub(super) fn ended(&self, key: &Key) -> BTreeMap<String, JobState> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned().unwrap_or_default()
    }

    /// The object of a delivery goes, and the control plane did not hear of it.
    pub(super) fn unheard(&self, delivery: &str) {
        let mut unheard = self.unheard.lock().unwrap_or_else(PoisonError::into_inner);
        unheard.insert(delivery.to_owned());
        if unheard.len() > UNHEARD_MAX {
            unheard.pop_first();
        }
    }

    fn is_unheard(&self, delivery: &str) -> bool {
        self.unheard.lock().unwrap_or_else(PoisonError::into_inner).contains(delivery)
    }

    pub(super) fn take(self: &Arc<Desk>, key: &Key) -> Taken {
        let notify = Arc::new(Notify::new());
        self.working.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), Arc::clone(&notify));
        Taken { desk: Arc::clone(self), key: key.clone(), notify }
    }
}

/// A run that is worked on; given back when it is dropped.
pub(super) struct Taken {
    desk: Arc<Desk>,
    key: Key,
    pub(super) notify: Arc<Notify>,
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut working = self.desk.working.lock().unwrap_or_else(PoisonError::into_inner);
        // A newer lease of the same run may have come in its place.
        if working.get(&self.key).is_some_and(|notify| Arc::ptr_eq(notify, &self.notify)) {
            working.remove(&self.key);
        }
    }
}

/// Does runs of one kind.
#[derive(Clone)]
pub(super) struct Runner {
    pub(super) kind: Kind,
    pub(super) place: Place,
    pub(super) plane: Plane,
    pub(super) desk: Arc<Desk>,
}

#[derive(Deserialize)]
struct Attempts {
    attempts: Option<u32>,
}

impl General for Runner {
    async fn process(&self, work: Work) -> Result<Output, Failure> {
        let order = self.order(&work)?;
        let attempts = serde_json::from_slice::<Attempts>(&work.event.bytes()).ok().and_then(|order| order.attempts);
        let key = (self.kind, order.namespace.clone(), order.name.clone());
        let taken = self.desk.take(&key);
        let mut stopped = std::pin::pin!(work.stopped());
        let reporter = work.reporter();
        let lease = Lease {
            runner: self.clone(),
            delivery: work.delivery.to_string(),
            token: work.token,
            attempt: work.attempt,
            order,
            attempts: attempts.unwrap_or(ATTEMPTS).max(1),
            notify: Arc::clone(&taken.notify),
            tell: Box::new(move |note| reporter.progress(progress(note))),
        };
        tokio::select! {
            biased;
            ended = lease.run() => ended,
            _ = &mut stopped => lease.stop().await,
        }
    }
}

impl Runner {
    fn order(&self, work: &Work) -> Result<Order<Value>, Failure> {
        let expected = match self.kind {
            Kind::Code => CODE_EVENT,
            Kind::Docs => DOCS_EVENT,
        };
        if work.event.ty() != expected {
            return Err(Failure::poison(format!("the event's type is `{}`: expected `{expected}`", work.event.ty())));
        }
        let order: Order<Value> = serde_json::from_slice(&work.event.bytes())
            .map_err(|error| Failure::poison(format!("the event is no order of a run: {error}")))?;
        let namespaces = &self.place.settings.namespaces;
        if !namespaces.contains(&order.namespace) {
            let namespace = &order.namespace;
            return Err(Failure::poison(format!(
                "namespace `{namespace}` is none in which this agent does runs: expected {}",
                namespaces.join(" or ")
            )));
        }
        Ok(order)
    }
}

/// One lease of a run.
pub(super) struct Lease {
    pub(super) runner: Runner,
    pub(super) delivery: String,
    pub(super) token: Token,
    /// Which attempt at the delivery this is, from 1; a delivery that a person sets going again begins with 1.
    pub(super) attempt: u32,
    pub(super) order: Order<Value>,
    /// Jobs before it is given up.
    pub(super) attempts: u32,
    pub(super) notify: Arc<Notify>,
    /// Tells the control plane how far it is.
    pub(super) tell: Box<dyn Fn(&str) + Send + Sync>,
}

/// What earlier looks of this lease saw.
#[derive(Default)]
struct Seen {
    /// The object was there.
    object: bool,
    /// The Job that was watched: its end is this lease's to tell.
    job: Option<String>,
    /// When the end of the log was last told.
    told: Option<tokio::time::Instant>,
    /// What was told then.
    lines: String,
}

/// How one look at a run ended.
enum Look {
    /// Look again when something changes, or after this time.
    Wait(Duration),
    Ended(Result<Output, Failure>),
}

impl Lease {
    /// Looks until the run has ended. An API server that is away is waited for: the lease is extended meanwhile.
    pub(super) async fn run(&self) -> Result<Output, Failure> {
        let (mut pause, mut seen) = (RETRY.0, Seen::default());
        loop {
            match self.look(&mut seen).await {
                Ok(Look::Ended(ended)) => return ended,
                Ok(Look::Wait(time)) => {
                    pause = RETRY.0;
                    tokio::select! {
                        () = self.notify.notified() => {}
                        () = tokio::time::sleep(time) => {}
                    }
                }
                Err(error) => {
                    if let kube::Error::Api(status) = &error
                        && matches!(status.code, 400 | 403 | 422)
                    {
                        // Asked again it says the same: somebody has to change something.
                        return Err(Failure::poison(format!("the API server refused: {}", status.message)));
                    }
                    warn!(%error, run = %self.order.name, "a look at a run failed");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY.1);
                }
            }
        }
    }

    fn api(&self) -> kube::Api<DynamicObject> {
        self.runner.place.objects(self.runner.kind, &self.order.namespace)
    }

    fn cancelled(why: &str) -> Look {
        Look::Ended(Err(Failure::new(FailureKind::Cancelled, why)))
    }

    async fn look(&self, seen: &mut Seen) -> kube::Result<Look> {
        let (place, kind) = (&self.runner.place, self.runner.kind);
        let Order { name, namespace, uid, .. } = &self.order;
        let object = match within(self.api().get_opt(name)).await? {
            Some(object) => object,
            None if uid.is_some() || seen.object || self.runner.desk.is_unheard(&self.delivery) => {
                return Ok(Lease::cancelled("its object was deleted"));
            }
            None => match self.create().await {
                Ok(object) => object,
                Err(error) if code(&error) == 409 => return Ok(Look::Wait(Duration::ZERO)),
                Err(error) if code(&error) == 404 => {
                    let message = format!(
                        "namespace {namespace} is not there, or {} is not installed in the cluster",
                        kind.object()
                    );
                    return Ok(Look::Ended(Err(Failure::poison(message))));
                }
                Err(error) => return Err(error),
            },
        };
        seen.object = true;
        if uid.as_ref().is_some_and(|uid| object.uid().as_ref() != Some(uid)) {
            return Ok(Lease::cancelled("its object was deleted, and another has its name"));
        }
        if object.metadata.deletion_timestamp.is_some() {
            self.clear(&object).await?;
            // Before it goes: who comes next without having heard of it would find nothing, and begin anew.
            match self.runner.plane.cancel(&self.delivery).await {
                Ok(()) => place.release(kind, namespace, name).await?,
                Err(status) => warn!(error = %status, run = name, "a deleted run is not cancelled yet: let go later"),
            }
            return Ok(Lease::cancelled("its object was deleted"));
        }
        let object = match self.mark(object).await? {
            Marked::Ours(object) => *object,
            Marked::Again => return Ok(Look::Wait(Duration::ZERO)),
            Marked::Not(failure) => return Ok(Look::Ended(Err(failure))),
        };
        let spec = match spec_of(kind, &object) {
            Ok(spec) => spec,
            Err(reason) => return self.refuse(&object, &reason).await,
        };
        let status = status_of(&object);
        let first = match &spec {
            RunSpec::Code(spec) => spec.context_version,
            RunSpec::Docs(_) => 1,
        };
        let newest = self.run_of(&object, &spec, Attempt::newest(&status, first));
        let job_name = newest.job_name();
        let job = JobState::of(within(place.jobs(namespace).get_opt(&job_name)).await?.as_ref());
        // A failure that was written and not told: no answer came, or the agent ended in between. Once the last one is told the delivery is
        // parked, and begins with attempt 1 when a person sets it going.
        let is_untold =
            seen.job.as_ref() == Some(&job_name) || (self.attempt > 1 && newest.retries + 1 >= self.attempts);
        match step::next(&status, first, &job_name, &job, is_untold) {
            Step::Cancelled => Ok(Lease::cancelled("it was cancelled")),
            Step::Done(attempt) => {
                let run = self.run_of(&object, &spec, attempt);
                self.done(&run, status).await
            }
            Step::Start(attempt) => self.start(&object, &self.run_of(&object, &spec, attempt), status).await,
            Step::Watch(attempt) => {
                let run = self.run_of(&object, &spec, attempt);
                seen.job = Some(job_name);
                self.watch(&object, &run, status, &job, seen).await
            }
            Step::Gone(attempt) => {
                let (tried, job) = (attempt.retries + 1, status.job_name.as_deref().unwrap_or(&job_name));
                let message = format!(
                    "attempt {tried} was begun as job {job}, which is gone, and nobody saw what came of it: see whether it made a pull \
                     request. Set going again it is done once more"
                );
                warn!(run = name, job, "a run's job is gone: its delivery is parked");
                // Its status says so once the delivery is parked: until then whoever comes next is to find the same.
                Ok(Look::Ended(Err(Failure::poison(message))))
            }
            Step::Tell(attempt) => {
                let run = self.run_of(&object, &spec, attempt);
                let (outcome, log) = place.outcome(namespace, &job_name).await?;
                self.give_back(&run).await;
                let message = status.message.as_deref().unwrap_or("the job failed");
                Ok(Look::Ended(Err(self.failure(&run, message, &outcome, &log))))
            }
        }
    }

    fn run_of(&self, object: &DynamicObject, spec: &RunSpec, attempt: Attempt) -> Run {
        Run {
            name: object.name_any(),
            namespace: object.namespace().unwrap_or_default(),
            uid: object.uid().unwrap_or_default(),
            spec: spec.clone(),
            context: attempt.context,
            retries: attempt.retries,
        }
    }

    async fn create(&self) -> kube::Result<DynamicObject> {
        let kind = self.runner.kind;
        let mut object = DynamicObject::new(&self.order.name, &resource(kind)).within(&self.order.namespace);
        object.metadata.finalizers = Some(vec![finalizer(kind).to_owned()]);
        object.metadata.annotations = Some(self.marks());
        object.metadata.labels = Some(BTreeMap::from([("app".to_owned(), "orchestrator".to_owned())]));
        object.data = json!({ "spec": self.order.spec });
        let made = within(self.api().create(&post(), &object)).await?;
        info!(run = %self.order.name, delivery = %self.delivery, "a run's object was made");
        Ok(made)
    }

    fn marks(&self) -> BTreeMap<String, String> {
        BTreeMap::from([
            (DELIVERY_ANNOTATION.to_owned(), self.delivery.clone()),
            (TOKEN_ANNOTATION.to_owned(), self.token.to_string()),
        ])
    }

    /// Marks the object with this lease, unless a newer one is there.
    async fn mark(&self, object: DynamicObject) -> kube::Result<Marked> {
        let delivery = annotation(&object, DELIVERY_ANNOTATION);
        if delivery.is_some_and(|delivery| delivery != self.delivery) {
            let other = delivery.unwrap_or_default();
            return Ok(Marked::Not(Failure::poison(format!(
                "the object {} belongs to delivery {other}",
                object.name_any()
            ))));
        }
        let known: Option<Token> = annotation(&object, TOKEN_ANNOTATION).and_then(|token| token.parse().ok());
        if known.is_some_and(|known| known > self.token) {
            return Ok(Marked::Not(Failure::transient("a newer lease of the run is at work")));
        }
        let own = finalizer(self.runner.kind);
        let is_kept = object.finalizers().iter().any(|name| name == own) || status_of(&object).is_final();
        if known == Some(self.token) && delivery.is_some() && is_kept {
            return Ok(Marked::Ours(Box::new(object)));
        }
        let mut finalizers = object.finalizers().to_vec();
        if !is_kept {
            finalizers.push(own.to_owned());
        }
        let metadata = json!({ "annotations": self.marks(), "finalizers": finalizers });
        match self.runner.place.write_metadata(self.runner.kind, &object, metadata).await {
            Ok(object) => Ok(Marked::Ours(Box::new(object))),
            Err(error) if matches!(code(&error), 404 | 409) => Ok(Marked::Again),
            Err(error) => Err(error),
        }
    }

    /// What is asked for cannot be done.
    async fn refuse(&self, object: &DynamicObject, reason: &str) -> kube::Result<Look> {
        let mut status = status_of(object);
        let before = status.clone();
        status.enter(Phase::Failed, reason, now());
        status.observed_generation = object.metadata.generation;
        self.write(&before, &status).await?;
        Ok(Look::Ended(Err(Failure::poison(reason))))
    }

    async fn write(&self, before: &RunStatus, status: &RunStatus) -> kube::Result<()> {
        let Order { name, namespace, .. } = &self.order;
        self.runner.place.write_status(self.runner.kind, namespace, name, before, status).await
    }

    /// Makes the Job of an attempt, once the workspace is free.
    async fn start(&self, object: &DynamicObject, run: &Run, before: RunStatus) -> kube::Result<Look> {
        let place = &self.runner.place;
        let config = match place.config(&run.namespace).await? {
            Ok(config) => config,
            Err(reason) => return self.refuse(object, &reason).await,
        };
        let templates = match place.templates(&run.namespace).await? {
            Ok(templates) => templates,
            Err(reason) => return self.refuse(object, &reason).await,
        };
        let apart = run.spec.kind() == Kind::Code && place.is_taken(run).await?;
        let plan = match Plan::new(run, &config, &place.settings.job, &templates, apart) {
            Ok(plan) => plan,
            Err(
                error @ (PlanError::Config(_) | PlanError::Template(_) | PlanError::Faults(_) | PlanError::Size { .. }),
            ) => {
                return self.refuse(object, &error.to_string()).await;
            }
        };
        let mut status = before.clone();
        status.observed_generation = object.metadata.generation;
        // Also while it waits: what stands there says which attempt comes next.
        status.context_version = Some(run.context);
        status.retry_count = Some(run.retries);
        if let Some(claim) = &plan.workspace
            && let Workspace::Of(other) = place.workspace(claim, &run.namespace, &run.job_name()).await?
        {
            return self.wait_for(&other, &before, status).await;
        }
        status.job_name = Some(run.job_name());
        status.configmap_name = Some(run.files_name(apart));
        if let RunSpec::Code(spec) = &run.spec {
            status.prompt_modification = spec.prompt_modification.clone();
            status.prompt_mode = Some(spec.prompt_mode);
        }
        let (attempt, job) = (run.retries + 1, run.job_name());
        status.enter(Phase::Pending, &format!("attempt {attempt} begins as {job}"), now());
        // Before the Job, so that whoever comes next looks for this one.
        self.write(&before, &status).await?;
        if let Workspace::Of(other) = place.make(&plan, &run.namespace, &config).await? {
            return self.wait_for(&other, &status, status.clone()).await;
        }
        info!(run = %run.name, job, attempt, "a run's job was made");
        let message = format!("attempt {attempt} runs as {job}");
        let before = status.clone();
        status.enter(Phase::Running, &message, now());
        // And after it: from here on a Job that is not there was begun.
        self.write(&before, &status).await?;
        (self.tell)(&message);
        Ok(Look::Wait(LOOK_INTERVAL))
    }

    /// Another Job has the workspace.
    async fn wait_for(&self, other: &str, before: &RunStatus, mut status: RunStatus) -> kube::Result<Look> {
        let message = format!("waits for {other}, which has the workspace of the service");
        status.enter(Phase::Pending, &message, now());
        (self.tell)(&message);
        self.write(before, &status).await?;
        Ok(Look::Wait(WORKSPACE_INTERVAL))
    }

    async fn watch(
        &self,
        object: &DynamicObject,
        run: &Run,
        mut status: RunStatus,
        job: &JobState,
        seen: &mut Seen,
    ) -> kube::Result<Look> {
        let (place, before) = (&self.runner.place, status.clone());
        let job_name = run.job_name();
        let (is_well, said) = match job {
            JobState::Absent | JobState::Running => {
                status.job_name = Some(job_name.clone());
                status.context_version = Some(run.context);
                status.retry_count = Some(run.retries);
                if before.phase() != Phase::Running {
                    status.enter(Phase::Running, &format!("attempt {} runs as {job_name}", run.retries + 1), now());
                }
                self.write(&before, &status).await?;
                if seen.told.is_none_or(|told| told.elapsed() >= PROGRESS_INTERVAL) {
                    seen.told = Some(tokio::time::Instant::now());
                    self.tell_lines(&run.namespace, &job_name, seen).await;
                }
                return Ok(Look::Wait(PROGRESS_INTERVAL));
            }
            JobState::Complete => (true, String::new()),
            JobState::Failed(said) => (false, said.clone()),
        };
        let (outcome, log) = place.outcome(&run.namespace, &job_name).await?;
        status.job_name = Some(job_name.clone());
        status.context_version = Some(run.context);
        status.retry_count = Some(run.retries);
        status.observed_generation = object.metadata.generation;
        status.learn(&outcome);
        let message = match (is_well, &outcome.pull_request_url) {
            (true, Some(url)) => format!("pull request {url}"),
            (true, None) => outcome.message.clone().unwrap_or_else(|| "done, without a pull request".to_owned()),
            (false, _) => failure_text(&outcome, &said),
        };
        status.enter(if is_well { Phase::Succeeded } else { Phase::Failed }, &message, now());
        self.write(&before, &status).await?;
        info!(run = %run.name, job = %job_name, is_well, message, "a run's job has ended");
        self.give_back(run).await;
        if is_well {
            let usage = usage(&run.spec, &outcome);
            return Ok(Look::Ended(Ok(result(run, &status, &outcome, &log, usage))));
        }
        Ok(Look::Ended(Err(self.failure(run, &message, &outcome, &log))))
    }

    /// Gives the workspace of an attempt back, once its status is written: that it cannot be is no reason to lose the outcome.
    async fn give_back(&self, run: &Run) {
        if let Err(error) = self.runner.place.give_back(run).await {
            warn!(%error, run = %run.name, job = run.job_name(), "a workspace was not given back: it is free all the same");
        }
    }

    /// That an attempt failed, as the control plane is told.
    fn failure(&self, run: &Run, message: &str, outcome: &Outcome, log: &str) -> Failure {
        let tried = run.retries + 1;
        let kind = if tried >= self.attempts { FailureKind::Poison } else { FailureKind::Transient };
        let text = format!("attempt {tried} of {} failed: {message}\n{log}", self.attempts);
        Failure { kind, message: head_and_tail(&text, MESSAGE_MAX), usage: usage(&run.spec, outcome) }
    }

    /// Tells the control plane the end of the log of a Job that runs, where it has changed.
    async fn tell_lines(&self, namespace: &str, job: &str, seen: &mut Seen) {
        let lines = self.runner.place.last_lines(namespace, job).await.unwrap_or_default();
        let last = lines.lines().rev().map(str::trim).find(|line| !line.is_empty());
        (self.tell)(&last.map_or_else(|| format!("{job} runs"), str::to_owned));
        if lines == seen.lines {
            return;
        }
        match self.runner.plane.tell_log(&self.delivery, self.token, lines.clone()).await {
            Ok(()) => seen.lines = lines,
            // For people alone: the next look tells it again.
            Err(status) => debug!(error = %status, run = %self.order.name, "the log of a run was not told"),
        }
    }

    /// What a run that had ended before came to.
    async fn done(&self, run: &Run, status: RunStatus) -> kube::Result<Look> {
        let place = &self.runner.place;
        let (mut outcome, log) = place.outcome(&run.namespace, &run.job_name()).await?;
        if outcome.pull_request_url.is_none() {
            outcome.pull_request_url = status.pull_request_url.clone();
        }
        self.give_back(run).await;
        let usage = usage(&run.spec, &outcome);
        Ok(Look::Ended(Ok(result(run, &status, &outcome, &log, usage))))
    }

    /// Ends what a run has going in the cluster.
    async fn clear(&self, object: &DynamicObject) -> kube::Result<()> {
        clear(&self.runner.place, self.runner.kind, object).await
    }

    /// The lease has to end: where the run was cancelled its Job is stopped, else it goes on for whoever comes next.
    pub(super) async fn stop(&self) -> Result<Output, Failure> {
        let stands = self.runner.plane.stands(&self.delivery).await;
        if !matches!(stands, Ok(Stands::Cancelled)) {
            info!(run = %self.order.name, ?stands, "a run is left to whoever comes next");
            return std::future::pending().await;
        }
        let (place, kind) = (self.runner.place.clone(), self.runner.kind);
        let (namespace, name) = (self.order.namespace.clone(), self.order.name.clone());
        // On its own: the lease may be gone before the API server has answered.
        let cancelling = tokio::spawn(async move { cancel(&place, kind, &namespace, &name).await });
        if let Ok(Err(error)) = cancelling.await {
            warn!(%error, run = %self.order.name, "a cancelled run was not cleared: looked at again later");
        }
        Err(Failure::new(FailureKind::Cancelled, "cancelled"))
    }
}

enum Marked {
    Ours(Box<DynamicObject>),
    /// It has changed in the meantime.
    Again,
    Not(Failure),
}

/// The Jobs that the newest attempt of a run may have: that which its status names, and that which was made before the status said so.
pub(super) fn job_names(kind: Kind, object: &DynamicObject) -> BTreeSet<String> {
    let status = status_of(object);
    let spec = spec_of(kind, object);
    let first = match &spec {
        Ok(RunSpec::Code(spec)) => spec.context_version,
        Ok(RunSpec::Docs(_)) | Err(_) => 1,
    };
    let Attempt { context, retries } = Attempt::newest(&status, first);
    let mut names: BTreeSet<String> = status.job_name.into_iter().collect();
    if let Ok(spec) = spec {
        let (name, namespace) = (object.name_any(), object.namespace().unwrap_or_default());
        let uid = object.uid().unwrap_or_default();
        names.insert(Run { name, namespace, uid, spec, context, retries }.job_name());
    }
    names
}

/// Deletes the Job of a run's newest attempt. Its workspace is free once its pod is gone, which whoever wants it next looks for.
pub(super) async fn clear(place: &Place, kind: Kind, object: &DynamicObject) -> kube::Result<()> {
    let namespace = object.namespace().unwrap_or_default();
    for job in job_names(kind, object) {
        place.delete_job(&namespace, &job).await?;
    }
    Ok(())
}

/// Clears a run and says on its object that it was cancelled.
pub(super) async fn cancel(place: &Place, kind: Kind, namespace: &str, name: &str) -> kube::Result<()> {
    let Some(object) = within(place.objects(kind, namespace).get_opt(name)).await? else { return Ok(()) };
    clear(place, kind, &object).await?;
    let before = status_of(&object);
    let mut status = before.clone();
    if !status.is_final() {
        status.enter(Phase::Cancelled, "cancelled", now());
        place.write_status(kind, namespace, name, &before, &status).await?;
    }
    place.release(kind, namespace, name).await
}

pub(super) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn progress(message: &str) -> Progress {
    Progress { note: message.chars().take(250).collect(), ..Progress::default() }
}

fn failure_text(outcome: &Outcome, said: &str) -> String {
    let exit = outcome.exit_code.map(|code| format!("exit code {code}")).unwrap_or_default();
    let parts = [outcome.message.as_deref().unwrap_or_default(), &exit, said];
    let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    if parts.is_empty() { "the job failed".to_owned() } else { parts.join(", ") }
}

fn usage(spec: &RunSpec, outcome: &Outcome) -> Vec<Usage> {
    let Outcome { cost_micros, input_tokens, output_tokens, .. } = outcome;
    if cost_micros.is_none() && input_tokens.is_none() && output_tokens.is_none() {
        return Vec::new();
    }
    vec![Usage {
        model: spec.model().into(),
        input_tokens: input_tokens.unwrap_or(0),
        output_tokens: output_tokens.unwrap_or(0),
        cost_micros: cost_micros.unwrap_or(0),
        calls: 1,
        ..Usage::default()
    }]
}

fn result(run: &Run, status: &RunStatus, outcome: &Outcome, log: &str, usage: Vec<Usage>) -> Output {
    let output = json!({
        "kind": run.spec.kind().object(),
        "name": run.name,
        "namespace": run.namespace,
        "jobName": run.job_name(),
        "contextVersion": run.context,
        "retryCount": run.retries,
        "pullRequestUrl": outcome.pull_request_url,
        "branch": outcome.branch,
        "sessionId": outcome.session_id,
        "costUsd": status.cost_usd.clone().or_else(|| outcome.cost_micros.map(usd)),
        "log": log,
    });
    Output { usage, ..Output::json(output.to_string()) }
}

/// The first line of a text and as much of its end as fits.
fn head_and_tail(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.trim_end().to_owned();
    }
    let (head, rest) = text.split_once('\n').unwrap_or((text, ""));
    let head: String = head.chars().take(800).collect();
    let rest = mindos_kube::platform::outcome::tail(rest, max.saturating_sub(head.len() + 8));
    format!("{head}\n..\n{}", rest.trim_end())
}

#[cfg(test)]
mod tests {
    use http::Method;
    use mindos_kube::platform::HOLDER_ANNOTATION;
    use tokio::time::timeout;

    use super::super::tests::{NAMESPACE, Played, code_spec, config_map, played};
    use super::*;
    use crate::played::ApiServer;

    const NAME: &str = "code-5-1";
    const DELIVERY: &str = "d1.1";

    /// A cluster whose Jobs fail as soon as they are made.
    fn failing() -> (Runner, Arc<Mutex<ApiServer>>) {
        let (place, api) = played();
        let failed = json!({ "type": "Failed", "status": "True", "reason": "R", "message": "m" });
        api.lock().unwrap().job_status = json!({ "conditions": [failed] });
        api.lock().unwrap().put("configmaps", config_map(json!({})));
        let runner = Runner { kind: Kind::Code, place, plane: Arc::new(Played::default()), desk: Arc::default() };
        (runner, api)
    }

    /// What comes of a lease of a run that may have so many Jobs.
    async fn lease(runner: &Runner, term: u32, attempt: u32, attempts: u32) -> Failure {
        leased(runner, term, attempt, attempts).await.unwrap_err()
    }

    async fn leased(runner: &Runner, term: u32, attempt: u32, attempts: u32) -> Result<Output, Failure> {
        let (name, namespace) = (NAME.to_owned(), NAMESPACE.to_owned());
        let lease = Lease {
            runner: runner.clone(),
            delivery: DELIVERY.to_owned(),
            token: Token { epoch: 1, term },
            attempt,
            order: Order { name, namespace, uid: None, spec: code_spec("trader") },
            attempts,
            notify: Arc::default(),
            tell: Box::new(|_| {}),
        };
        lease.run().await
    }

    /// A lease whose agent ends after this time.
    async fn broken_off(runner: &Runner, term: u32, after: Duration) {
        assert!(timeout(after, leased(runner, term, term, 3)).await.is_err(), "the run has ended");
    }

    /// What a lease comes to that is to end soon.
    async fn soon(runner: &Runner, term: u32, attempt: u32) -> Result<Output, Failure> {
        timeout(Duration::from_secs(600), leased(runner, term, attempt, 3)).await.expect("the run ends")
    }

    fn status(api: &Arc<Mutex<ApiServer>>) -> Value {
        api.lock().unwrap().get("coderuns", NAME)["status"].clone()
    }

    async fn delete_job(runner: &Runner, api: &Arc<Mutex<ApiServer>>) {
        let job = status(api)["jobName"].as_str().expect("a Job's name").to_owned();
        assert!(!api.lock().unwrap().get("jobs", &job).is_null(), "the Job is there");
        runner.place.delete_job(NAMESPACE, &job).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_whose_job_was_begun_and_is_gone_is_begun_again_by_a_person_alone() {
        let (runner, api) = failing();
        api.lock().unwrap().job_status = Value::Null;
        broken_off(&runner, 1, Duration::from_secs(60)).await;
        assert_eq!(status(&api)["phase"], "Running");
        // It ends, and is deleted, while no agent is there.
        delete_job(&runner, &api).await;
        for term in [2, 3] {
            // Once more, as when the answer was lost.
            let failure = soon(&runner, term, term).await.unwrap_err();
            assert_eq!(failure.kind, FailureKind::Poison);
            assert!(
                failure.message.contains("attempt 1 was begun") && failure.message.contains("is gone"),
                "{failure}"
            );
            assert_eq!(api.lock().unwrap().all("jobs").len(), 0, "nothing is done twice");
        }
        // The control plane has parked it, and a person sets it going again.
        let parked = json!({ "status": { "phase": "Failed", "message": "parked" } });
        let api_of = runner.place.objects(Kind::Code, NAMESPACE);
        api_of.patch_status(NAME, &Default::default(), &kube::api::Patch::Merge(parked)).await.unwrap();
        api.lock().unwrap().job_status = json!({ "conditions": [{ "type": "Complete", "status": "True" }] });
        soon(&runner, 4, 1).await.unwrap();
        assert_eq!((&status(&api)["phase"], &status(&api)["contextVersion"]), (&json!("Succeeded"), &json!(2)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_whose_making_was_broken_off_is_found_or_made() {
        for was_made in [true, false] {
            let (runner, api) = failing();
            api.lock().unwrap().job_status = json!({ "conditions": [{ "type": "Complete", "status": "True" }] });
            // The API server goes and takes the agent along.
            let making: fn(&Method, &str, &Value) -> bool =
                |method, plural, _| plural == "jobs" && *method == Method::POST;
            api.lock().unwrap().unanswered = Some(making);
            broken_off(&runner, 1, RETRY.0 / 2).await;
            assert_eq!(status(&api)["phase"], "Pending", "it was not seen to run");
            if !was_made {
                delete_job(&runner, &api).await;
            }
            soon(&runner, 2, 2).await.unwrap();
            assert_eq!((&status(&api)["phase"], &status(&api)["retryCount"]), (&json!("Succeeded"), &json!(0)));
            assert_eq!(api.lock().unwrap().all("jobs").len(), 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_stays_until_its_result_was_told() {
        let (runner, api) = failing();
        api.lock().unwrap().job_status = json!({ "conditions": [{ "type": "Complete", "status": "True" }] });
        soon(&runner, 1, 1).await.unwrap();
        let object = || api.lock().unwrap().get("coderuns", NAME);
        assert_eq!(object()["metadata"]["finalizers"], json!([finalizer(Kind::Code)]));
        let jobs = api.lock().unwrap().all("jobs");
        assert!(jobs.iter().all(|job| job["spec"]["ttlSecondsAfterFinished"].is_null()), "so does its Job");
    }

    #[tokio::test(start_paused = true)]
    async fn a_deleted_object_goes_once_the_control_plane_has_heard_of_it() {
        let (runner, api) = failing();
        let plane = Arc::new(Played::default());
        let runner = Runner { plane: plane.clone(), ..runner };
        api.lock().unwrap().job_status = Value::Null;
        broken_off(&runner, 1, Duration::from_secs(60)).await;
        let mut object = api.lock().unwrap().get("coderuns", NAME);
        object["metadata"]["deletionTimestamp"] = json!("2026-11-20T12:00:00Z");
        api.lock().unwrap().put("coderuns", object);
        let finalizers = || api.lock().unwrap().get("coderuns", NAME)["metadata"]["finalizers"].clone();
        *plane.is_away.lock().unwrap() = true;
        assert_eq!(soon(&runner, 2, 2).await.unwrap_err().kind, FailureKind::Cancelled);
        assert_eq!(finalizers(), json!([finalizer(Kind::Code)]), "nobody may have heard it");
        assert_eq!(api.lock().unwrap().all("jobs").len(), 0, "its Job ends at once");
        *plane.is_away.lock().unwrap() = false;
        assert_eq!(soon(&runner, 3, 3).await.unwrap_err().kind, FailureKind::Cancelled);
        assert_eq!((&plane.cancelled.lock().unwrap()[..], finalizers()), (&[DELIVERY.to_owned()][..], json!([])));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_told_once_whichever_call_is_not_answered() {
        let calls: [fn(&Method, &str, &Value) -> bool; 4] = [
            |method, plural, _| plural == "jobs" && *method == Method::POST,
            |_, plural, given| plural == "coderuns" && given["status"]["phase"] == "Running",
            |_, plural, given| plural == "coderuns" && given["status"]["phase"] == "Failed",
            |method, plural, _| plural == "persistentvolumeclaims" && *method == Method::PATCH,
        ];
        for call in calls {
            let (runner, api) = failing();
            api.lock().unwrap().unanswered = Some(call);
            let failure = lease(&runner, 1, 1, 3).await;
            assert_eq!(failure.kind, FailureKind::Transient);
            assert!(failure.message.starts_with("attempt 1 of 3 failed: R: m"), "{failure}");
            let api = api.lock().unwrap();
            assert!(api.unanswered.is_none(), "the call was made");
            assert_eq!(api.all("jobs").len(), 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_last_failure_that_was_not_told_is_told_by_the_next_lease_and_a_person_has_one_attempt_more() {
        let (runner, api) = failing();
        let jobs = || api.lock().unwrap().all("jobs").len();
        let told = lease(&runner, 1, 1, 1).await;
        assert_eq!((told.kind, jobs()), (FailureKind::Poison, 1));
        // The agent ended before it was heard.
        assert_eq!((lease(&runner, 2, 2, 1).await, jobs()), (told, 1));
        // It was heard, and the delivery was set going again.
        let more = lease(&runner, 3, 1, 1).await;
        assert!(more.message.starts_with("attempt 2 of 1 failed"), "{more}");
        assert_eq!(jobs(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_waits_for_its_workspace_is_begun_by_the_next_lease() {
        let (runner, api) = failing();
        lease(&runner, 1, 1, 1).await;
        let other = |status: Value| json!({ "metadata": { "name": "other" }, "status": status });
        let holder = json!({ "name": "workspace-trader", "annotations": { HOLDER_ANNOTATION: "other" } });
        api.lock().unwrap().put("persistentvolumeclaims", json!({ "metadata": holder }));
        api.lock().unwrap().put("jobs", other(Value::Null));
        // A person has set it going, and its agent ends while it waits.
        assert!(timeout(Duration::from_secs(60), lease(&runner, 2, 1, 1)).await.is_err());
        let status = api.lock().unwrap().get("coderuns", NAME)["status"].clone();
        assert_eq!((&status["phase"], &status["retryCount"]), (&json!("Pending"), &json!(1)));
        let complete = json!({ "conditions": [{ "type": "Complete", "status": "True" }] });
        api.lock().unwrap().put("jobs", other(complete));
        let failure = lease(&runner, 3, 2, 1).await;
        assert!(failure.message.starts_with("attempt 2 of 1 failed"), "{failure}");
    }

    #[test]
    fn a_failure_is_told_with_the_end_of_its_log() {
        let log: String = (0..2000).map(|line| format!("line {line}\n")).collect();
        let text = head_and_tail(&format!("attempt 1 of 3 failed: exit code 1\n{log}"), MESSAGE_MAX);
        assert!(text.len() <= MESSAGE_MAX && text.starts_with("attempt 1 of 3 failed: exit code 1\n..\nline "));
        assert!(text.ends_with("line 1999"), "{text}");
        let outcome = Outcome { exit_code: Some(1), message: Some("no key".into()), ..Outcome::default() };
        assert_eq!(failure_text(&outcome, "DeadlineExceeded"), "no key, exit code 1, DeadlineExceeded");
        assert_eq!(failure_text(&Outcome::default(), ""), "the job failed");
    }
}
