//! The cluster as runs see it: objects, Jobs and their pods, files, workspaces.
//!
//! Invariant: every change of an object that is ours carries the version that was read, so that of two agents one has to read again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod};
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, ListParams, LogParams, Patch, PatchParams, PostParams,
    PropagationPolicy,
};
use kube::{Client, ResourceExt};
use mindos_kube::platform::config::CONFIG_KEY;
use mindos_kube::platform::outcome::{LOG_MAX, tail};
use mindos_kube::platform::plan::{Kind, RunSpec};
use mindos_kube::platform::{
    CODE_FINALIZER, ControllerConfig, DOCS_FINALIZER, GROUP, HOLDER_ANNOTATION, HOLDER_SINCE_ANNOTATION, Outcome, Plan,
    Run, RunStatus, Templates, job,
};
use mindos_model::Timestamp;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::general::now;
use super::settings::RunsSettings;
use super::step::{JOB_WITHIN, JobState, is_within};
use crate::api_server::within;

/// The field manager of every write.
pub(super) const MANAGER: &str = "mindos";
/// Lines of a log that are read at its end, and while its Job runs.
const LINES: i64 = 2000;
const LINES_RUNNING: i64 = 500;
/// How long the log of a Job that has ended may take: it is up to 8 MiB.
const LOG_WITHIN: Duration = Duration::from_secs(60);

/// The cluster.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) kube: Client,
    pub(super) settings: Arc<RunsSettings>,
}

/// The kind of an object.
pub(super) fn resource(kind: Kind) -> ApiResource {
    let (name, plural) = match kind {
        Kind::Code => ("CodeRun", "coderuns"),
        Kind::Docs => ("DocsRun", "docsruns"),
    };
    ApiResource {
        group: GROUP.to_owned(),
        version: "v1".to_owned(),
        api_version: format!("{GROUP}/v1"),
        kind: name.to_owned(),
        plural: plural.to_owned(),
    }
}

/// The finalizer of a kind.
pub(super) fn finalizer(kind: Kind) -> &'static str {
    match kind {
        Kind::Code => CODE_FINALIZER,
        Kind::Docs => DOCS_FINALIZER,
    }
}

/// What an object asks for.
///
/// # Errors
/// Says what of its spec is not accepted.
pub(super) fn spec_of(kind: Kind, object: &DynamicObject) -> Result<RunSpec, String> {
    use mindos_kube::platform::request::{check_code, check_docs};
    let spec = object.data.get("spec").cloned().unwrap_or_default();
    let spec = match kind {
        Kind::Code => serde_json::from_value(spec).map(RunSpec::Code),
        Kind::Docs => serde_json::from_value(spec).map(RunSpec::Docs),
    };
    let spec = spec.map_err(|error| format!("spec: {error}"))?;
    match &spec {
        RunSpec::Code(spec) => check_code(spec),
        RunSpec::Docs(spec) => check_docs(spec),
    }
    .map_err(|error| format!("spec.{error}"))?;
    Ok(spec)
}

/// How an object stands.
pub(super) fn status_of(object: &DynamicObject) -> RunStatus {
    object.data.get("status").cloned().and_then(|status| serde_json::from_value(status).ok()).unwrap_or_default()
}

pub(super) fn annotation<'a>(object: &'a DynamicObject, name: &str) -> Option<&'a str> {
    object.annotations().get(name).map(String::as_str)
}

pub(super) fn code(error: &kube::Error) -> u16 {
    match error {
        kube::Error::Api(status) => status.code,
        _ => 0,
    }
}

/// Who has a workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Workspace {
    Ours,
    /// The Job of another run.
    Of(String),
}

impl Place {
    pub(super) fn objects(&self, kind: Kind, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.kube.clone(), namespace, &resource(kind))
    }

    pub(super) fn jobs(&self, namespace: &str) -> Api<Job> {
        Api::namespaced(self.kube.clone(), namespace)
    }

    /// Writes a status, where it says something else than before.
    pub(super) async fn write_status(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        before: &RunStatus,
        status: &RunStatus,
    ) -> kube::Result<()> {
        if !status.differs(before) {
            return Ok(());
        }
        let mut value = serde_json::to_value(status).map_err(kube::Error::SerdeError)?;
        // A merge leaves what is not named.
        for field in ["workCompleted", "finishedAt"] {
            if value.get(field).is_none() {
                value[field] = Value::Null;
            }
        }
        let patch = Patch::Merge(json!({ "status": value }));
        within(self.objects(kind, namespace).patch_status(name, &PatchParams::apply(MANAGER), &patch)).await?;
        Ok(())
    }

    /// Changes the metadata of an object that was read in this version.
    pub(super) async fn write_metadata(
        &self,
        kind: Kind,
        object: &DynamicObject,
        metadata: Value,
    ) -> kube::Result<DynamicObject> {
        let mut metadata = metadata;
        metadata["resourceVersion"] = json!(object.resource_version());
        let namespace = object.namespace().unwrap_or_default();
        let patch = Patch::Merge(json!({ "metadata": metadata }));
        within(self.objects(kind, &namespace).patch(&object.name_any(), &PatchParams::apply(MANAGER), &patch)).await
    }

    /// Lets an object go.
    pub(super) async fn release(&self, kind: Kind, namespace: &str, name: &str) -> kube::Result<()> {
        for _ in 0..5 {
            let Some(object) = within(self.objects(kind, namespace).get_opt(name)).await? else { return Ok(()) };
            let own = finalizer(kind);
            if !object.finalizers().iter().any(|name| name == own) {
                return Ok(());
            }
            let left: Vec<&String> = object.finalizers().iter().filter(|name| *name != own).collect();
            match self.write_metadata(kind, &object, json!({ "finalizers": left })).await {
                Ok(_) => return Ok(()),
                Err(error) if code(&error) == 404 => return Ok(()),
                Err(error) if code(&error) == 409 => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The configuration of a namespace.
    ///
    /// # Errors
    /// `Ok(Err(..))` says what of it is not accepted.
    pub(super) async fn config(&self, namespace: &str) -> kube::Result<Result<ControllerConfig, String>> {
        let maps: Api<ConfigMap> = Api::namespaced(self.kube.clone(), namespace);
        let name = &self.settings.config_map;
        let Some(map) = within(maps.get_opt(name)).await? else {
            return Ok(match &self.settings.job.image {
                Some(_) => Ok(ControllerConfig::default()),
                None => Err(format!(
                    "ConfigMap {namespace}/{name} is missing: expected `{CONFIG_KEY}` with agent.image, or JOB_IMAGE"
                )),
            });
        };
        let data = map.data.unwrap_or_default();
        Ok(match data.get(CONFIG_KEY) {
            Some(text) => {
                ControllerConfig::read(text).map_err(|error| format!("ConfigMap {namespace}/{name}: {error}"))
            }
            None => Err(format!("ConfigMap {namespace}/{name} has no key `{CONFIG_KEY}`")),
        })
    }

    /// The templates of a namespace.
    pub(super) async fn templates(&self, namespace: &str) -> kube::Result<Result<Templates, String>> {
        let maps: Api<ConfigMap> = Api::namespaced(self.kube.clone(), namespace);
        let name = &self.settings.templates;
        let Some(map) = within(maps.get_opt(name)).await? else { return Ok(Ok(Templates::stock())) };
        let data: BTreeMap<String, String> = map.data.unwrap_or_default();
        let given = data.iter().map(|(key, text)| (key.as_str(), text.as_str()));
        Ok(Templates::with(given).map_err(|error| format!("ConfigMap {namespace}/{name}: {error}")))
    }

    /// Takes the workspace of a service for a Job, made if it is not there. Who had it and has ended gives way; who took it just now and has
    /// no Job yet does not. Taken again it is kept for longer.
    pub(super) async fn workspace(
        &self,
        claim: &PersistentVolumeClaim,
        namespace: &str,
        job: &str,
    ) -> kube::Result<Workspace> {
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.kube.clone(), namespace);
        let name = claim.metadata.name.clone().unwrap_or_default();
        loop {
            let Some(there) = within(claims.get_opt(&name)).await? else {
                let mut claim = claim.clone();
                claim.metadata.annotations.get_or_insert_default().extend([
                    (HOLDER_ANNOTATION.to_owned(), job.to_owned()),
                    (HOLDER_SINCE_ANNOTATION.to_owned(), now().to_string()),
                ]);
                match within(claims.create(&post(), &claim)).await {
                    Ok(_) => return Ok(Workspace::Ours),
                    Err(error) if code(&error) == 409 => continue,
                    Err(error) => return Err(error),
                }
            };
            let since = there.annotations().get(HOLDER_SINCE_ANNOTATION);
            let since: Option<Timestamp> = since.and_then(|since| since.parse().ok());
            match there.annotations().get(HOLDER_ANNOTATION).filter(|holder| !holder.is_empty()) {
                Some(holder) if holder == job && is_within(JOB_WITHIN / 2, since, now()) => return Ok(Workspace::Ours),
                // For longer.
                Some(holder) if holder == job => {}
                Some(holder) => {
                    let other = within(self.jobs(namespace).get_opt(holder)).await?;
                    if JobState::of(other.as_ref()).needs_workspace(since, now())
                        || self.pods(namespace, holder).await?.iter().any(is_alive)
                    {
                        return Ok(Workspace::Of(holder.clone()));
                    }
                }
                None => {}
            }
            let patch = json!({ "metadata": {
                "resourceVersion": there.resource_version(),
                "annotations": { HOLDER_ANNOTATION: job, HOLDER_SINCE_ANNOTATION: now().to_string() },
            }});
            match within(claims.patch(&name, &PatchParams::apply(MANAGER), &Patch::Merge(patch))).await {
                Ok(_) => return Ok(Workspace::Ours),
                Err(error) if code(&error) == 409 => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives a workspace back.
    pub(super) async fn give_back(&self, run: &Run) -> kube::Result<()> {
        let Some(name) = run.workspace_name() else { return Ok(()) };
        let none = json!({ HOLDER_ANNOTATION: Value::Null, HOLDER_SINCE_ANNOTATION: Value::Null });
        self.annotate(&run.namespace, &name, &run.job_name(), none).await
    }

    /// Changes what a workspace says, while that Job has it.
    async fn annotate(&self, namespace: &str, claim: &str, job: &str, annotations: Value) -> kube::Result<()> {
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.kube.clone(), namespace);
        loop {
            let Some(there) = within(claims.get_opt(claim)).await? else { return Ok(()) };
            if there.annotations().get(HOLDER_ANNOTATION).is_none_or(|holder| holder != job) {
                return Ok(());
            }
            let patch =
                json!({ "metadata": { "resourceVersion": there.resource_version(), "annotations": annotations } });
            match within(claims.patch(claim, &PatchParams::apply(MANAGER), &Patch::Merge(patch))).await {
                // Others change it too, such as the controllers of volumes when it is new.
                Err(error) if code(&error) == 409 => {}
                Err(error) if code(&error) != 404 => return Err(error),
                _ => return Ok(()),
            }
        }
    }

    /// Whether the files' usual name is another run's.
    pub(super) async fn is_taken(&self, run: &Run) -> kube::Result<bool> {
        let maps: Api<ConfigMap> = Api::namespaced(self.kube.clone(), &run.namespace);
        let there = within(maps.get_opt(&run.files_name(false))).await?;
        let owned_by = |there: &ConfigMap| {
            there
                .labels()
                .get("mindos.io/run")
                .is_some_and(|name| *name == mindos_kube::platform::names::object(&run.name))
        };
        Ok(there.is_some_and(|there| !owned_by(&there)))
    }

    /// Makes files and Job. What is there of this run is brought up to date, or found. There is no Job where another has the workspace by now.
    pub(super) async fn make(
        &self,
        plan: &Plan,
        namespace: &str,
        config: &ControllerConfig,
    ) -> kube::Result<Workspace> {
        let maps: Api<ConfigMap> = Api::namespaced(self.kube.clone(), namespace);
        let files = plan.files.name_any();
        match within(maps.create(&post(), &plan.files)).await {
            Ok(_) => {}
            Err(error) if code(&error) == 409 => {
                let patch = Patch::Merge(
                    json!({ "data": plan.files.data, "metadata": { "labels": plan.files.metadata.labels } }),
                );
                within(maps.patch(&files, &PatchParams::apply(MANAGER), &patch)).await?;
            }
            Err(error) => return Err(error),
        }
        if let Some(claim) = &plan.workspace {
            // Whoever was held up since it was taken may have lost it.
            let workspace = self.workspace(claim, namespace, &plan.job.name_any()).await?;
            if workspace != Workspace::Ours {
                return Ok(workspace);
            }
        }
        let job = match within(self.jobs(namespace).create(&post(), &plan.job)).await {
            Ok(job) => job,
            Err(error) if code(&error) == 409 => within(self.jobs(namespace).get(&plan.job.name_any())).await?,
            Err(error) => return Err(error),
        };
        if let Some(claim) = &plan.workspace {
            // From here on it is kept by the Job alone, and free as soon as that is deleted.
            let since = json!({ HOLDER_SINCE_ANNOTATION: Value::Null });
            self.annotate(namespace, &claim.name_any(), &job.name_any(), since).await?;
        }
        if config.cleanup.enabled && config.cleanup.delete_config_map {
            // They go with the Job.
            let owner = json!({
                "apiVersion": "batch/v1", "kind": "Job", "name": job.name_any(), "uid": job.uid(), "blockOwnerDeletion": false,
            });
            let patch = Patch::Merge(json!({ "metadata": { "ownerReferences": [owner] } }));
            within(maps.patch(&files, &PatchParams::apply(MANAGER), &patch)).await?;
        }
        Ok(Workspace::Ours)
    }

    /// Deletes a Job and its pods.
    pub(super) async fn delete_job(&self, namespace: &str, name: &str) -> kube::Result<()> {
        let how = DeleteParams { propagation_policy: Some(PropagationPolicy::Background), ..DeleteParams::default() };
        match within(self.jobs(namespace).delete(name, &how)).await {
            Ok(_) => Ok(()),
            Err(error) if code(&error) == 404 => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// How long a Job stays after its end, in seconds, now that nobody has to read it any more.
    pub(super) async fn keep_for(&self, namespace: &str, name: &str, seconds: i32) -> kube::Result<()> {
        let patch = Patch::Merge(json!({ "spec": { "ttlSecondsAfterFinished": seconds } }));
        match within(self.jobs(namespace).patch(name, &PatchParams::apply(MANAGER), &patch)).await {
            Err(error) if code(&error) != 404 => Err(error),
            _ => Ok(()),
        }
    }

    async fn pods(&self, namespace: &str, job: &str) -> kube::Result<Vec<Pod>> {
        let pods: Api<Pod> = Api::namespaced(self.kube.clone(), namespace);
        Ok(within(pods.list(&ListParams::default().labels(&format!("job-name={job}")))).await?.items)
    }

    /// What a Job told, and the last part of its log.
    pub(super) async fn outcome(&self, namespace: &str, job: &str) -> kube::Result<(Outcome, String)> {
        let pods = self.pods(namespace, job).await?;
        let Some(pod) = pods.iter().max_by_key(|pod| pod.creation_timestamp().map(|at| at.0)) else {
            return Ok((Outcome::default(), String::new()));
        };
        let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
        let ended =
            statuses.iter().find(|status| status.name == job::CONTAINER).and_then(|status| status.state.as_ref());
        let ended = ended.and_then(|state| state.terminated.as_ref());
        let how = LogParams {
            container: Some(job::CONTAINER.to_owned()),
            tail_lines: Some(LINES),
            limit_bytes: Some(8 << 20),
            ..LogParams::default()
        };
        let logs: Api<Pod> = Api::namespaced(self.kube.clone(), namespace);
        // A node that is gone has taken its logs along, and one that hangs keeps nobody waiting.
        let log = timeout(LOG_WITHIN, logs.logs(&pod.name_any(), &how)).await;
        let log = log.ok().and_then(Result::ok).unwrap_or_default();
        let mut outcome = Outcome::read(ended.and_then(|ended| ended.message.as_deref()), &log);
        if outcome.exit_code.is_none() {
            outcome.exit_code = ended.map(|ended| ended.exit_code);
        }
        if outcome.message.is_none() {
            let reason = ended.and_then(|ended| ended.reason.clone());
            outcome.message = reason.filter(|reason| reason != "Completed" && reason != "Error");
        }
        Ok((outcome, tail(&log, LOG_MAX)))
    }

    /// The last lines of a log while its Job runs, at most [`LOG_MAX`] bytes.
    pub(super) async fn last_lines(&self, namespace: &str, job: &str) -> Option<String> {
        let pods = self.pods(namespace, job).await.ok()?;
        let pod = pods.iter().max_by_key(|pod| pod.creation_timestamp().map(|at| at.0))?;
        let how = LogParams {
            container: Some(job::CONTAINER.to_owned()),
            tail_lines: Some(LINES_RUNNING),
            limit_bytes: Some(1 << 20),
            ..LogParams::default()
        };
        let logs: Api<Pod> = Api::namespaced(self.kube.clone(), namespace);
        let log = within(logs.logs(&pod.name_any(), &how)).await.ok()?;
        Some(tail(&log, LOG_MAX))
    }
}

fn is_alive(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    !matches!(phase, Some("Succeeded" | "Failed"))
}

pub(super) fn post() -> PostParams {
    PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use super::super::tests::{NAMESPACE, played};
    use super::*;
    use crate::played::ApiServer;

    const CLAIM: &str = "workspace-trader";
    const CLAIMS: &str = "persistentvolumeclaims";

    type Call<'a> = Pin<Box<dyn Future<Output = kube::Result<()>> + 'a>>;

    fn claim() -> PersistentVolumeClaim {
        serde_json::from_value(json!({ "metadata": { "name": CLAIM } })).unwrap()
    }

    /// The workspace, as a Job took it then.
    fn taken(api: &mut ApiServer, job: &str, at: Timestamp) {
        let annotations = json!({ HOLDER_ANNOTATION: job, HOLDER_SINCE_ANNOTATION: at.to_string() });
        api.put(CLAIMS, json!({ "metadata": { "name": CLAIM, "annotations": annotations } }));
    }

    fn since(api: &ApiServer) -> Timestamp {
        let claim = api.get(CLAIMS, CLAIM);
        claim["metadata"]["annotations"][HOLDER_SINCE_ANNOTATION].as_str().unwrap().parse().unwrap()
    }

    fn plan() -> Plan {
        let named = |name: &str| json!({ "metadata": { "name": name } });
        Plan {
            files: serde_json::from_value(named("files")).unwrap(),
            workspace: Some(claim()),
            job: serde_json::from_value(named("one")).unwrap(),
        }
    }

    #[tokio::test]
    async fn a_workspace_is_kept_for_a_job_that_is_about_to_be_made() {
        let (place, api) = played();
        let claim = claim();
        let take = async |job: &str| place.workspace(&claim, NAMESPACE, job).await.unwrap();
        assert_eq!(take("one").await, Workspace::Ours);
        assert_eq!(take("two").await, Workspace::Of("one".to_owned()));
        // Its agent was started again meanwhile.
        taken(&mut api.lock().unwrap(), "one", now() - JOB_WITHIN * 3 / 4);
        assert_eq!(take("one").await, Workspace::Ours);
        assert!(since(&api.lock().unwrap()) > now() - JOB_WITHIN / 4, "it is kept for longer");
        assert_eq!(take("two").await, Workspace::Of("one".to_owned()));
        // It never is made.
        taken(&mut api.lock().unwrap(), "one", now() - JOB_WITHIN);
        assert_eq!(take("two").await, Workspace::Ours);
        assert_eq!(take("one").await, Workspace::Of("two".to_owned()));
    }

    #[tokio::test]
    async fn no_job_is_made_once_another_run_has_the_workspace() {
        let (place, api) = played();
        let (plan, config) = (plan(), ControllerConfig::default());
        let is_made = || !api.lock().unwrap().get("jobs", "one").is_null();
        taken(&mut api.lock().unwrap(), "two", now());
        assert_eq!(place.make(&plan, NAMESPACE, &config).await.unwrap(), Workspace::Of("two".to_owned()));
        assert!(!is_made());
        taken(&mut api.lock().unwrap(), "one", now());
        assert_eq!(place.make(&plan, NAMESPACE, &config).await.unwrap(), Workspace::Ours);
        assert!(is_made());
        assert_eq!(place.workspace(&claim(), NAMESPACE, "two").await.unwrap(), Workspace::Of("one".to_owned()));
        // Cancelled: nobody waits for a Job that was there.
        place.delete_job(NAMESPACE, "one").await.unwrap();
        assert_eq!(place.workspace(&claim(), NAMESPACE, "two").await.unwrap(), Workspace::Ours);
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_says_nothing_is_not_waited_for_without_end() {
        let (place, api) = played();
        api.lock().unwrap().is_silent = true;
        let (plan, config, kind) = (plan(), ControllerConfig::default(), Kind::Code);
        let object = DynamicObject::new("code-5-1", &resource(kind)).within(NAMESPACE);
        let (before, status) =
            (RunStatus::default(), RunStatus { message: Some("waits".to_owned()), ..RunStatus::default() });
        let calls: [(&str, Call<'_>); 10] = [
            ("status", Box::pin(async { place.write_status(kind, NAMESPACE, "code-5-1", &before, &status).await })),
            ("metadata", Box::pin(async { place.write_metadata(kind, &object, json!({})).await.map(drop) })),
            ("release", Box::pin(async { place.release(kind, NAMESPACE, "code-5-1").await })),
            ("config", Box::pin(async { place.config(NAMESPACE).await.map(drop) })),
            ("templates", Box::pin(async { place.templates(NAMESPACE).await.map(drop) })),
            ("workspace", Box::pin(async { place.workspace(&claim(), NAMESPACE, "one").await.map(drop) })),
            ("make", Box::pin(async { place.make(&plan, NAMESPACE, &config).await.map(drop) })),
            ("job", Box::pin(async { place.delete_job(NAMESPACE, "one").await })),
            ("time to live", Box::pin(async { place.keep_for(NAMESPACE, "one", 300).await })),
            ("outcome", Box::pin(async { place.outcome(NAMESPACE, "one").await.map(drop) })),
        ];
        for (name, call) in calls {
            let ended = timeout(LOG_WITHIN, call).await.unwrap_or_else(|_| panic!("{name} is waited for"));
            assert!(matches!(ended, Err(kube::Error::Service(_))), "{name}: {ended:?}");
        }
    }
}
