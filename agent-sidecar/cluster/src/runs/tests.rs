//! Who plays the sides of a run in tests, and runs against a real API server, lease by lease. `MINDOS_TEST_KUBECONFIG` names a cluster whose pods
//! "run" as `.ci/kube/fake_kubelet.py` does; each test has a namespace of its own. `kube -- cargo test -p mindos-cluster-agent --lib -- --ignored
//! --test-threads 1` lends them one: one after the other, for one of them restarts the API server.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, PersistentVolumeClaim};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, ResourceExt};
use mindos_kube::platform::plan::Kind;
use mindos_kube::platform::request::Order;
use mindos_kube::platform::{CodeRequest, JobSettings, Phase, RunStatus, crds};
use mindos_model::{FailureKind, Token};
use mindos_proto::run::v1::SubmitRunResponse;
use mindos_sdk::{Failure, Output};
use serde_json::{Value, json};
use tokio::task::{JoinHandle, JoinSet};

use super::attend;
use super::general::{Desk, Lease, Runner};
use super::objects::Keeper;
use super::place::{Place, annotation, resource, status_of};
use super::plane::{ControlPlane, Plane, Stands};
use super::settings::RunsSettings;
use crate::played::ApiServer;

/// Where runs are done whose API server is played.
pub(super) const NAMESPACE: &str = "runs";
const SOON: Duration = Duration::from_secs(60);
const OUTCOME: &str = r#"{"exitCode":0,"pullRequestUrl":"https://github.com/acme/trader/pull/7","branch":"b","sessionId":"s-1","costUsd":0.25,"inputTokens":100,"outputTokens":20,"message":""}"#;

/// The control plane, played: deliveries by name.
#[derive(Debug, Default)]
pub(super) struct Played {
    pub(super) submitted: Mutex<Vec<String>>,
    pub(super) cancelled: Mutex<Vec<String>>,
    told: Mutex<Vec<String>>,
    pub(super) is_away: Mutex<bool>,
    /// How deliveries stand that are not open.
    pub(super) ended: Mutex<BTreeMap<String, Stands>>,
    /// From before all of its deliveries.
    pub(super) is_restored: Mutex<bool>,
}

/// A cluster whose API server is played.
pub(super) fn played() -> (Place, Arc<Mutex<ApiServer>>) {
    let (kube, api) = ApiServer::start();
    (Place { kube, settings: Arc::new(settings(NAMESPACE)) }, api)
}

fn settings(namespace: &str) -> RunsSettings {
    RunsSettings {
        slots: 4,
        namespaces: vec![namespace.to_owned()],
        config_map: "task-controller-config".to_owned(),
        templates: "claude-templates-configmap".to_owned(),
        job: JobSettings::default(),
        finalizer_timeout: Duration::from_secs(3),
    }
}

/// What Jobs are made by; each pod of theirs has these annotations.
pub(super) fn config_map(notes: Value) -> Value {
    let config = json!({
        "job": { "podAnnotations": notes },
        "agent": { "image": { "repository": "ghcr.io/5dlabs/platform/claude-code", "tag": "1.0.56" } },
        "storage": { "storageClassName": "standard" },
    });
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "task-controller-config" }, "data": { "config.yaml": config.to_string() },
    })
}

/// What a code run of a service asks for.
pub(super) fn code_spec(service: &str) -> Value {
    let request = json!({
        "task_id": 5, "service": service, "repository_url": "https://github.com/acme/trader",
        "docs_repository_url": "git@github.com:acme/docs.git", "github_user": "ada",
    });
    serde_json::to_value(CodeRequest::read(request.as_object().unwrap(), "m").unwrap()).unwrap()
}

impl Played {
    fn here(&self) -> Result<(), tonic::Status> {
        if *self.is_away.lock().unwrap() { Err(tonic::Status::unavailable("away")) } else { Ok(()) }
    }
}

#[tonic::async_trait]
impl ControlPlane for Played {
    async fn submit(
        &self,
        _: Kind,
        (_, _, uid): (&str, &str, &str),
        _: &Value,
    ) -> Result<SubmitRunResponse, tonic::Status> {
        self.here()?;
        let mut submitted = self.submitted.lock().unwrap();
        let duplicate = submitted.iter().any(|known| known == uid);
        submitted.push(uid.to_owned());
        Ok(SubmitRunResponse { seq: 1, delivery_id: format!("of-{uid}"), duplicate })
    }

    async fn stands(&self, delivery: &str) -> Result<Stands, tonic::Status> {
        self.here()?;
        if *self.is_restored.lock().unwrap() {
            return Ok(Stands::Unknown);
        }
        if let Some(stands) = self.ended.lock().unwrap().get(delivery) {
            return Ok(stands.clone());
        }
        let is_cancelled = self.cancelled.lock().unwrap().iter().any(|known| known == delivery);
        Ok(if is_cancelled { Stands::Cancelled } else { Stands::Open })
    }

    async fn cancel(&self, delivery: &str) -> Result<(), tonic::Status> {
        self.here()?;
        self.cancelled.lock().unwrap().push(delivery.to_owned());
        Ok(())
    }

    async fn tell_log(&self, _: &str, _: Token, lines: String) -> Result<(), tonic::Status> {
        self.here()?;
        self.told.lock().unwrap().push(lines);
        Ok(())
    }
}

/// A cluster, and a namespace in it.
struct Stage {
    client: Client,
    namespace: String,
    runner: Runner,
    played: Arc<Played>,
}

impl Stage {
    async fn start(namespace: &str) -> Stage {
        let path =
            std::env::var("MINDOS_TEST_KUBECONFIG").expect("MINDOS_TEST_KUBECONFIG names the kubeconfig of a cluster");
        let config = Kubeconfig::read_from(path).unwrap();
        let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.unwrap();
        let client = Client::try_from(config).unwrap();
        let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
        for crd in crds() {
            let how = PatchParams::apply("mindos-tests").force();
            definitions.patch(&crd.name_any(), &how, &Patch::Apply(&crd)).await.unwrap();
        }
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let made: Namespace = serde_json::from_value(json!({ "metadata": { "name": namespace } })).unwrap();
        namespaces.create(&PostParams::default(), &made).await.unwrap();
        let played = Arc::new(Played::default());
        let plane: Plane = played.clone();
        let place = Place { kube: client.clone(), settings: Arc::new(settings(namespace)) };
        let runner = Runner { kind: Kind::Code, place, plane, desk: Arc::new(Desk::default()) };
        let stage = Stage { client, namespace: namespace.to_owned(), runner, played };
        stage.pods_do(json!({ "fake/after": "1", "fake/message": OUTCOME, "fake/log": "hello\nworld\n" })).await;
        stage
    }

    /// What pods of Jobs do from here on.
    async fn pods_do(&self, notes: Value) {
        let map: ConfigMap = serde_json::from_value(config_map(notes)).unwrap();
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        let how = PatchParams::apply("mindos-tests").force();
        maps.patch("task-controller-config", &how, &Patch::Apply(&map)).await.unwrap();
    }

    fn objects(&self) -> Api<DynamicObject> {
        self.runner.place.objects(Kind::Code, &self.namespace)
    }

    fn jobs(&self) -> Api<Job> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn count(&self) -> usize {
        self.jobs().list(&ListParams::default()).await.unwrap().items.len()
    }

    /// A lease of a run, under way.
    fn lease(&self, name: &str, service: &str, term: u32) -> JoinHandle<Result<Output, Failure>> {
        let order =
            Order { name: name.to_owned(), namespace: self.namespace.clone(), uid: None, spec: code_spec(service) };
        let key = (Kind::Code, self.namespace.clone(), name.to_owned());
        let taken = self.runner.desk.take(&key);
        let lease = Lease {
            runner: self.runner.clone(),
            delivery: format!("d-{name}"),
            token: Token { epoch: 1, term },
            attempt: 1,
            order,
            attempts: 3,
            notify: Arc::clone(&taken.notify),
            tell: Box::new(|_| {}),
        };
        tokio::spawn(async move {
            let _taken = taken;
            lease.run().await
        })
    }

    fn keep(&self) -> Vec<JoinHandle<()>> {
        let Runner { place, plane, desk, .. } = self.runner.clone();
        let keeper = Keeper { place, plane, desk, watching: self.client.clone() };
        let jobs = keeper.clone().jobs(self.namespace.clone());
        vec![tokio::spawn(keeper.objects(Kind::Code, self.namespace.clone())), tokio::spawn(jobs)]
    }

    async fn status(&self, name: &str) -> Option<RunStatus> {
        self.objects().get_opt(name).await.ok().flatten().map(|object| status_of(&object))
    }

    /// Waits for a status that says it: an object without one is no more than as it was made, though that reads as Pending too.
    async fn reaches(&self, name: &str, phase: Phase) -> RunStatus {
        eventually(async || self.status(name).await.filter(|status| status.phase == Some(phase))).await
    }

    async fn apply(&self, name: &str, service: &str) {
        let object = json!({
            "apiVersion": "orchestrator.platform/v1", "kind": "CodeRun", "metadata": { "name": name },
            "spec": {
                "taskId": 9, "service": service, "repositoryUrl": "https://github.com/acme/trader",
                "docsRepositoryUrl": "https://github.com/acme/docs", "model": "m", "githubUser": "ada",
                "tools": { "local": ["git"], "remote": ["a_b"] }, "githubApp": "kept",
            },
        });
        let mut made = DynamicObject::new(name, &resource(Kind::Code));
        made.data = json!({ "spec": object["spec"] });
        self.objects().create(&PostParams::default(), &made).await.unwrap();
    }
}

async fn eventually<T>(mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let until = tokio::time::Instant::now() + SOON;
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < until, "it did not come about within {SOON:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn runs_end_with_a_keeper_that_breaks_off() {
    let mut keepers: JoinSet<()> = JoinSet::new();
    keepers.spawn(std::future::pending());
    keepers.spawn(async { panic!("a keeper that breaks off") });
    let attended = attend(std::future::pending(), &mut keepers);
    tokio::time::timeout(SOON, attended).await.expect("runs are served without one of their keepers");
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn a_run_becomes_a_job_and_its_outcome_comes_back() {
    let stage = Stage::start("lease-succeeds").await;
    let keepers = stage.keep();
    let output = stage.lease("code-5-1", "trader", 1).await.unwrap().unwrap();
    let told: Value = serde_json::from_slice(&output.data).unwrap();
    assert_eq!(told["pullRequestUrl"], "https://github.com/acme/trader/pull/7");
    assert_eq!(
        (&told["sessionId"], &told["costUsd"], &told["log"]),
        (&json!("s-1"), &json!("0.2500"), &json!("hello\nworld\n"))
    );
    assert_eq!((output.usage[0].cost_micros, output.usage[0].input_tokens), (250_000, 100));
    let status = stage.status("code-5-1").await.unwrap();
    assert_eq!((status.phase(), status.work_completed), (Phase::Succeeded, Some(true)));
    assert_eq!(status.pull_request_url.as_deref(), Some("https://github.com/acme/trader/pull/7"));
    assert_eq!(
        (status.retry_count, status.context_version, status.cost_usd.as_deref()),
        (Some(0), Some(1), Some("0.2500"))
    );
    let maps: Api<ConfigMap> = Api::namespaced(stage.client.clone(), &stage.namespace);
    let files = maps.get("trader-task5-v1-files").await.unwrap();
    assert_eq!(files.owner_references()[0].kind, "Job", "the files go with the Job");
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(stage.client.clone(), &stage.namespace);
    let claim = claims.get("workspace-trader").await.unwrap();
    assert!(!claim.annotations().contains_key("mindos.io/holder") && claim.owner_references().is_empty());
    assert_eq!(stage.objects().get("code-5-1").await.unwrap().finalizers().len(), 1, "it stays until it was told");
    // A lease that comes after the end, as when the result was lost on its way, finds the same.
    let again = stage.lease("code-5-1", "trader", 2).await.unwrap().unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&again.data).unwrap(), told);
    assert_eq!(stage.count().await, 1);
    // Told: the object is free.
    stage.played.ended.lock().unwrap().insert("d-code-5-1".to_owned(), Stands::Succeeded);
    let note = json!({ "metadata": { "labels": { "looked": "at" } } });
    stage.objects().patch("code-5-1", &PatchParams::default(), &Patch::Merge(note)).await.unwrap();
    eventually(async || stage.objects().get("code-5-1").await.unwrap().finalizers().is_empty().then_some(())).await;
    keepers.iter().for_each(JoinHandle::abort);
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn a_job_that_fails_is_tried_again_under_the_next_context_and_then_given_up() {
    let stage = Stage::start("lease-fails").await;
    let keepers = stage.keep();
    let told = r#"{"exitCode":3,"costUsd":0.1,"message":"tests are red"}"#;
    stage.pods_do(json!({ "fake/after": "0.3", "fake/phase": "Failed", "fake/exit": "3", "fake/message": told, "fake/log": "line a\nline b\n" })).await;
    for attempt in 1..=3u32 {
        let failure = stage.lease("code-5-1", "trader", attempt).await.unwrap().unwrap_err();
        let last = attempt == 3;
        assert_eq!(failure.kind, if last { FailureKind::Poison } else { FailureKind::Transient });
        assert!(
            failure.message.starts_with(&format!("attempt {attempt} of 3 failed: tests are red, exit code 3")),
            "{}",
            failure.message
        );
        assert!(failure.message.ends_with("line a\nline b"), "{}", failure.message);
        assert_eq!(failure.usage[0].cost_micros, 100_000);
        let status = stage.status("code-5-1").await.unwrap();
        assert_eq!(
            (status.phase(), status.retry_count, status.context_version),
            (Phase::Failed, Some(attempt - 1), Some(attempt))
        );
    }
    let jobs = stage.jobs().list(&ListParams::default()).await.unwrap().items;
    assert_eq!(jobs.len(), 3);
    let goes_on =
        |job: &&Job| serde_json::to_string(job).unwrap().contains(r#""name":"CONTINUE_SESSION","value":"true""#);
    assert_eq!(jobs.iter().filter(goes_on).count(), 2);
    assert_eq!(stage.status("code-5-1").await.unwrap().cost_usd.as_deref(), Some("0.3000"));
    // Somebody tries once more, and it does well.
    stage.pods_do(json!({ "fake/after": "0.3", "fake/message": OUTCOME })).await;
    stage.lease("code-5-1", "trader", 4).await.unwrap().unwrap();
    assert_eq!(stage.status("code-5-1").await.unwrap().context_version, Some(4));
    keepers.iter().for_each(JoinHandle::abort);
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn whoever_comes_next_finds_the_job_and_one_service_has_one_job_at_a_time() {
    let stage = Stage::start("lease-adopts").await;
    let keepers = stage.keep();
    stage.pods_do(json!({ "fake/after": "4", "fake/message": OUTCOME })).await;
    let first = stage.lease("code-5-1", "trader", 1);
    stage.reaches("code-5-1", Phase::Running).await;
    let other = stage.lease("code-5-2", "trader", 1);
    let waits = stage.reaches("code-5-2", Phase::Pending).await;
    assert!(waits.message.unwrap().contains("which has the workspace"));
    // The agent is killed in mid-run, and another begins; an old lease that wakes up late gives way.
    first.abort();
    let second = stage.lease("code-5-1", "trader", 2);
    eventually(async || {
        let object = stage.objects().get("code-5-1").await.unwrap();
        (annotation(&object, "mindos.io/token") == Some("1.2")).then_some(())
    })
    .await;
    let late = stage.lease("code-5-1", "trader", 1).await.unwrap().unwrap_err();
    assert!(late.kind == FailureKind::Transient && late.message.contains("newer lease"), "{late}");
    second.await.unwrap().unwrap();
    other.await.unwrap().unwrap();
    assert_eq!(stage.count().await, 2, "one Job for each run");
    keepers.iter().for_each(JoinHandle::abort);
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn a_deleted_object_ends_its_run_and_a_cancelled_run_is_cleared() {
    let stage = Stage::start("lease-ends").await;
    let keepers = stage.keep();
    stage.pods_do(json!({ "fake/phase": "Running", "fake/log": "one\ntwo\nthree\n" })).await;
    let lease = stage.lease("code-5-1", "trader", 1);
    stage.reaches("code-5-1", Phase::Running).await;
    eventually(async || (stage.count().await == 1).then_some(())).await;
    // What it says is told while it runs: its last lines, and not the last alone.
    let said = |lines: &String| lines == "one\ntwo\nthree\n";
    eventually(async || stage.played.told.lock().unwrap().iter().any(said).then_some(())).await;
    stage.objects().delete("code-5-1", &DeleteParams::default()).await.unwrap();
    let failure = lease.await.unwrap().unwrap_err();
    assert_eq!(failure.kind, FailureKind::Cancelled, "{failure}");
    eventually(async || stage.objects().get_opt("code-5-1").await.unwrap().is_none().then_some(())).await;
    eventually(async || (stage.count().await == 0).then_some(())).await;

    // Cancelled while nobody was at work on it.
    let lease = stage.lease("code-5-2", "other", 1);
    stage.reaches("code-5-2", Phase::Running).await;
    eventually(async || (stage.count().await == 1).then_some(())).await;
    lease.abort();
    stage.played.cancel("d-code-5-2").await.unwrap();
    let note = json!({ "metadata": { "labels": { "looked": "at" } } });
    stage.objects().patch("code-5-2", &PatchParams::default(), &Patch::Merge(note)).await.unwrap();
    stage.reaches("code-5-2", Phase::Cancelled).await;
    eventually(async || (stage.count().await == 0).then_some(())).await;
    keepers.iter().for_each(JoinHandle::abort);
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn an_object_by_hand_is_submitted_once_and_let_go_with_or_without_a_control_plane() {
    let stage = Stage::start("lease-by-hand").await;
    let keepers = stage.keep();
    stage.apply("by-hand", "trader").await;
    let object = eventually(async || {
        let object = stage.objects().get("by-hand").await.unwrap();
        annotation(&object, "mindos.io/delivery").is_some().then_some(object)
    })
    .await;
    assert_eq!(annotation(&object, "mindos.io/delivery"), Some(format!("of-{}", object.uid().unwrap()).as_str()));
    assert_eq!(
        (&object.data["spec"]["githubApp"], &object.data["spec"]["docsBranch"]),
        (&json!("kept"), &json!("main"))
    );
    stage.reaches("by-hand", Phase::Pending).await;
    assert_eq!(stage.played.submitted.lock().unwrap().len(), 1);
    stage.objects().delete("by-hand", &DeleteParams::default()).await.unwrap();
    eventually(async || stage.objects().get_opt("by-hand").await.unwrap().is_none().then_some(())).await;
    assert_eq!(stage.played.cancelled.lock().unwrap().len(), 1, "its delivery is cancelled");

    stage.apply("alone", "trader").await;
    stage.reaches("alone", Phase::Pending).await;
    assert_eq!(stage.objects().get("alone").await.unwrap().finalizers().len(), 1);
    *stage.played.is_away.lock().unwrap() = true;
    stage.objects().delete("alone", &DeleteParams::default()).await.unwrap();
    let begun = tokio::time::Instant::now();
    eventually(async || stage.objects().get_opt("alone").await.unwrap().is_none().then_some(())).await;
    assert!(begun.elapsed() >= Duration::from_secs(2), "it waited for the control plane first");
    let events: Api<k8s_openapi::api::core::v1::Event> = Api::namespaced(stage.client.clone(), &stage.namespace);
    let told = events.list(&ListParams::default()).await.unwrap().items;
    assert!(told.iter().any(|event| event.reason.as_deref() == Some("LetGo")), "{told:?}");

    // What is not accepted is said on the object, once.
    let mut bad = DynamicObject::new("bad", &resource(Kind::Code));
    bad.data = json!({ "spec": { "taskId": 1, "service": "x", "repositoryUrl": "https://a:b@c/d", "docsRepositoryUrl": "https://a/b", "model": "m", "githubUser": "ada" } });
    stage.objects().create(&PostParams::default(), &bad).await.unwrap();
    let status = stage.reaches("bad", Phase::Failed).await;
    assert!(status.message.unwrap().contains("repositoryUrl"));
    keepers.iter().for_each(JoinHandle::abort);
}

#[tokio::test]
#[ignore = "needs a cluster, and MINDOS_TEST_RESTART: a command that restarts its API server"]
async fn an_api_server_that_restarts_costs_no_run() {
    let restart = std::env::var("MINDOS_TEST_RESTART").expect("MINDOS_TEST_RESTART restarts the API server");
    let stage = Stage::start("lease-restarts").await;
    let keepers = stage.keep();
    stage.pods_do(json!({ "fake/after": "6", "fake/message": OUTCOME })).await;
    let leases: Vec<_> =
        (0..4).map(|number| stage.lease(&format!("code-{number}"), &format!("s{number}"), 1)).collect();
    for number in 0..4 {
        stage.reaches(&format!("code-{number}"), Phase::Running).await;
    }
    assert!(std::process::Command::new("sh").args(["-c", &restart]).status().unwrap().success());
    for lease in leases {
        lease.await.unwrap().unwrap();
    }
    assert_eq!(stage.count().await, 4);
    keepers.iter().for_each(JoinHandle::abort);
}
