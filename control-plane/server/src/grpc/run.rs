//! Runs: `mindos.run.v1.RunService` for the agents of clusters, and what the platform's paths share with it.
//!
//! A run is an event that brings its own route, to the general `code-run` or `docs-run`, and the one delivery that it leads to. Invariant:
//! who is told that a run was taken is told so once its event is durable.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mindos_core::ASKED_PREFIX;
use mindos_core::output::{Published, Reply};
use mindos_core::route::{Match, Policy, Retry, Route, Targets};
use mindos_kube::platform::plan::{Kind, RunSpec};
use mindos_kube::platform::request::{Order, check_code, check_docs};
use mindos_kube::platform::{
    CODE_EVENT, CODE_GENERAL, CodeRunSpec, DOCS_EVENT, DOCS_GENERAL, DocsRunSpec, EVENT_KIND, EVENT_SOURCE, Phase,
    names,
    outcome::{LOG_MAX, tail},
    status::usd,
};
use mindos_model::{ClusterName, DeliveryId, GeneralType, RouteName, Seq, Status as Stands, Strategy, Token};
use mindos_proto::cloudevents::v1::cloud_event::Data;
use mindos_proto::convert::{Invalid, delivery_id};
use mindos_proto::delivery::v1::{Delivery, DeliveryFilter, DeliveryStatus, ParkReason};
use mindos_proto::event::v1::Event;
use mindos_proto::rpc;
use mindos_proto::run::v1::run_service_server::RunService;
use mindos_proto::run::v1::{
    CancelRunRequest, CancelRunResponse, GetRunRequest, GetRunResponse, RunKind, SubmitRunRequest, SubmitRunResponse,
    TellLogRequest, TellLogResponse,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tonic::{Request, Response, Status};

use super::delivery_filter::Filter;
use super::{Context, delivery, delivery_list, event, status};
use crate::access::{PrincipalKind, Scoped};
use crate::ingest::cloudevents::{ExtensionValue, IncomingEvent};
use crate::ingest::event::accept_incoming;
use crate::surface::platform::ATTEMPTS;

/// The longest spec of an object.
const SPEC_MAX: usize = 200 << 10;
/// Leases of a run before it is parked: agents that are lost take one each, and Jobs that fail are counted apart.
const LEASES_MAX: u32 = 20;
/// How long a run may go on without progress, and wait for others of its lane.
const DAY: Duration = Duration::from_secs(86_400);

/// The service.
#[derive(Clone, Debug)]
pub(super) struct Runs {
    pub(super) context: Arc<Context>,
}

/// A run to be taken.
#[derive(Clone, Debug)]
pub(crate) struct NewRun {
    /// Of its event.
    pub(crate) id: String,
    /// Of its object.
    pub(crate) name: String,
    pub(crate) namespace: String,
    /// Of an object that is there.
    pub(crate) uid: Option<String>,
    pub(crate) spec: RunSpec,
    /// Where it has to be done.
    pub(crate) cluster: Option<ClusterName>,
    /// Jobs before it is given up, where its spec does not say.
    pub(crate) attempts: u32,
}

/// A run as it stands.
#[derive(Clone, Debug)]
pub(crate) struct ShownRun {
    seq: u64,
    id: String,
    name: String,
    namespace: String,
    pub(crate) spec: RunSpec,
    accepted_at: String,
    delivery: Option<Delivery>,
    /// The last lines of its log, while its Job runs.
    told: Option<Arc<str>>,
}

#[tonic::async_trait]
impl RunService for Runs {
    async fn submit_run(&self, request: Request<SubmitRunRequest>) -> Result<Response<SubmitRunResponse>, Status> {
        let context = self.context.of(&request)?;
        let SubmitRunRequest { kind, namespace, name, uid, spec_json, cluster } = request.into_inner();
        let cluster = context.own_cluster(&cluster)?;
        let invalid = |field: &str, reason: String| Status::from(status::invalid(Invalid::new(field, reason)));
        let texts = [("namespace", &namespace, 63), ("name", &name, 253), ("uid", &uid, 64)];
        for (field, text, max) in texts {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
            if text.is_empty() || text.len() > max || !text.bytes().all(fits) {
                return Err(invalid(field, format!("expected 1 to {max} of a-z, 0-9, `-` and `.`")));
            }
        }
        if spec_json.len() > SPEC_MAX {
            return Err(invalid("spec_json", format!("has {} bytes: expected at most {SPEC_MAX}", spec_json.len())));
        }
        let kind = match RunKind::try_from(kind) {
            Ok(RunKind::Code) => Kind::Code,
            Ok(RunKind::Docs) => Kind::Docs,
            Ok(RunKind::Unspecified) | Err(_) => return Err(invalid("kind", "expected code or docs".to_owned())),
        };
        let spec = serde_json::from_str(&spec_json)
            .map_err(|error| error.to_string())
            .and_then(|spec| read_spec(kind, spec))
            .map_err(|reason| invalid("spec_json", reason))?;
        let run = NewRun {
            id: uid.clone(),
            name,
            namespace,
            uid: Some(uid),
            spec,
            cluster: Some(cluster),
            attempts: context.run_attempts(),
        };
        let Published { event, duplicate, deliveries, .. } = match context.take_run(run.clone()).await {
            Ok(published) => published,
            // The object's spec was changed since: the run is the one that was taken.
            Err(error) if error.code == tonic::Code::AlreadyExists as i32 => {
                let seq = event::seq_of(&context, EVENT_SOURCE, &run.id).await?;
                let delivery_id = DeliveryId { event: seq, ordinal: 1 }.to_string();
                return Ok(Response::new(SubmitRunResponse { seq: seq.0, delivery_id, duplicate: true }));
            }
            Err(error) => return Err(error.into()),
        };
        let delivery_id = deliveries.first().map(|planned| planned.delivery.to_string()).unwrap_or_default();
        Ok(Response::new(SubmitRunResponse { seq: event.0, delivery_id, duplicate }))
    }

    async fn get_run(&self, request: Request<GetRunRequest>) -> Result<Response<GetRunResponse>, Status> {
        let context = self.context.of(&request)?;
        let GetRunRequest { delivery_id, cluster } = request.into_inner();
        let found = context.own_run(&delivery_id, &cluster).await?;
        let response = GetRunResponse {
            status: found.status,
            cancel_requested: found.cancel_requested,
            message: found.park_message,
        };
        Ok(Response::new(response))
    }

    async fn cancel_run(&self, request: Request<CancelRunRequest>) -> Result<Response<CancelRunResponse>, Status> {
        let context = self.context.of(&request)?;
        let CancelRunRequest { delivery_id, cluster } = request.into_inner();
        let found = context.own_run(&delivery_id, &cluster).await?;
        let id = self::delivery_id(&found.delivery_id).map_err(status::invalid)?;
        let cancelled = context.cancel_run_delivery(id).await?;
        Ok(Response::new(CancelRunResponse { cancelled }))
    }

    async fn tell_log(&self, request: Request<TellLogRequest>) -> Result<Response<TellLogResponse>, Status> {
        let context = self.context.of(&request)?;
        let TellLogRequest { delivery_id, cluster, token, lines } = request.into_inner();
        if lines.len() > LOG_MAX {
            let accepted = format!("has {} bytes: expected at most {LOG_MAX}", lines.len());
            return Err(status::invalid(Invalid::new("lines", accepted)).into());
        }
        let (id, token) = mindos_proto::convert::lease(&delivery_id, token).map_err(status::invalid)?;
        let found = context.own_run(&delivery_id, &cluster).await?;
        if lease_of(&found) != Some(token) {
            let message = format!("run {id} is not worked on under token {token}");
            return Err(Status::failed_precondition(message));
        }
        // Whoever looks has a terminal.
        context.run_logs.put(id, token, tail(&lines, LOG_MAX).into());
        Ok(Response::new(TellLogResponse {}))
    }
}

fn read_spec(kind: Kind, spec: Value) -> Result<RunSpec, String> {
    match kind {
        Kind::Code => {
            let spec: CodeRunSpec = serde_json::from_value(spec).map_err(|error| error.to_string())?;
            check_code(&spec).map_err(|error| error.to_string())?;
            Ok(RunSpec::Code(spec))
        }
        Kind::Docs => {
            let spec: DocsRunSpec = serde_json::from_value(spec).map_err(|error| error.to_string())?;
            check_docs(&spec).map_err(|error| error.to_string())?;
            Ok(RunSpec::Docs(spec))
        }
    }
}

impl NewRun {
    /// The route that the event brings along: to whoever does such runs, one lane at a time.
    fn route(&self) -> Route {
        let general = match self.spec.kind() {
            Kind::Code => CODE_GENERAL,
            Kind::Docs => DOCS_GENERAL,
        };
        let targets = Targets {
            types: vec![GeneralType::new(general).expect("our own type is a name")],
            clusters: self.cluster.iter().cloned().collect(),
            ..Targets::default()
        };
        let cluster = self.cluster.as_ref().map_or("any", ClusterName::as_str);
        let digest: String = Sha256::digest(cluster).iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        let name = RouteName::new(&format!("{ASKED_PREFIX}{general}.{digest}")).expect("letters and digits are a name");
        let retry = Retry { first: Duration::from_secs(10), longest: Duration::from_secs(600) };
        Route {
            count: 1,
            attempts_max: LEASES_MAX,
            deadline: DAY,
            block_max: DAY,
            policy: Policy { retry, ..Policy::default() },
            ..Route::new(name, Match::default(), targets, Strategy::LoadBalanced)
        }
    }

    /// What it keeps its order in: the workspace that it shares.
    fn lane(&self) -> String {
        match &self.spec {
            RunSpec::Code(spec) => format!("runs/{}/{}", self.namespace, names::workspace(&spec.service)),
            RunSpec::Docs(_) => format!("runs/{}/{}", self.namespace, self.name),
        }
    }

    fn event(&self) -> IncomingEvent {
        let NewRun { id, name, namespace, uid, spec, cluster, attempts } = self;
        let text = |name: &str, value: String| (name.to_owned(), ExtensionValue::String(value));
        let mut extensions: BTreeMap<String, ExtensionValue> = [
            text("kind", EVENT_KIND.to_owned()),
            text("lane", self.lane()),
            text("actor", spec.github_user().to_owned()),
            text("repository", spec.repository_url().chars().take(512).collect()),
        ]
        .into();
        extensions.extend(cluster.as_ref().map(|cluster| text("cluster", cluster.to_string())));
        let order = |spec: Value| Order { name: name.clone(), namespace: namespace.clone(), uid: uid.clone(), spec };
        let (ty, spec) = match spec {
            RunSpec::Code(spec) => (CODE_EVENT, serde_json::to_value(spec)),
            RunSpec::Docs(spec) => (DOCS_EVENT, serde_json::to_value(spec)),
        };
        let mut data = serde_json::to_value(order(spec.expect("a spec is JSON"))).expect("an order is JSON");
        data["attempts"] = json!(self.spec.max_retries().map_or(*attempts, |retries| retries + 1));
        IncomingEvent {
            id: id.clone(),
            source: EVENT_SOURCE.to_owned(),
            r#type: ty.to_owned(),
            subject: Some(format!("{namespace}/{name}")),
            datacontenttype: Some("application/json".to_owned()),
            extensions,
            data: data.to_string().into(),
            ..IncomingEvent::default()
        }
    }
}

impl Scoped {
    /// Takes a run; the answer comes once it is durable. One of this id with other contents is a conflict.
    pub(crate) async fn take_run(&self, run: NewRun) -> Result<Published, rpc::Status> {
        self.room()?;
        let accepted = accept_incoming(self.tenant(), run.event());
        let accepted = accepted.inspect_err(|_| self.handle.admission().count(crate::admission::Verdict::Invalid));
        let mut event = Box::new(accepted.map_err(|error| status::event(&error))?);
        event.asked = Some(Arc::new(run.route()));
        self.recall(&mut event).await;
        self.quota(&event)?;
        match self.publish_one(event).await.map_err(|error| status::call(&error))? {
            Reply::Published(published) => Ok(self.first_answer(self.tenant(), published).await),
            other => Err(rpc::Status::from(&super::unexpected(&other))),
        }
    }

    /// A page of runs, the newest first, and the mark of the next.
    pub(crate) async fn runs(&self, page: &str, limit: u32) -> Result<(Vec<ShownRun>, Option<String>), Status> {
        let filter = DeliveryFilter { kind: EVENT_KIND.to_owned(), ..DeliveryFilter::default() };
        let before = delivery_list::token(page)?;
        let (deliveries, next) = delivery_list::page(self, Filter::new(filter)?, before, limit as usize).await?;
        let mut runs = Vec::with_capacity(deliveries.len());
        for delivery in deliveries {
            let Ok(DeliveryId { event: seq, .. }) = delivery_id(&delivery.delivery_id) else { continue };
            let event = event::event(self, seq).await?;
            runs.extend(ShownRun::of(&event, Some(delivery)));
        }
        Ok((runs, next.map(|next| next.to_string())))
    }

    /// One run as it stands, by its name, the uid of its object or the sequence of its event.
    pub(crate) async fn run(&self, key: &str, output: bool) -> Result<ShownRun, Status> {
        let unknown = || Status::from(status::not_found("run", key.chars().take(128).collect::<String>()));
        let missed = |status: Status| if status.code() == tonic::Code::NotFound { unknown() } else { status };
        let seq = match key.parse() {
            Ok(seq) => Seq(seq),
            Err(_) => event::seq_of(self, EVENT_SOURCE, key).await.map_err(missed)?,
        };
        let event = event::event(self, seq).await.map_err(missed)?;
        let found = match event.deliveries.first().map(|planned| delivery_id(&planned.delivery_id)) {
            Some(Ok(id)) => Some(self.delivery(id, output).await?),
            Some(Err(_)) | None => None,
        };
        let told = found.as_ref().and_then(|delivery| {
            let id = delivery_id(&delivery.delivery_id).ok()?;
            self.run_logs.get(id, lease_of(delivery)?)
        });
        ShownRun::of(&event, found).map(|run| ShownRun { told, ..run }).ok_or_else(unknown)
    }

    /// Cancels a run; whether there was something to cancel.
    pub(crate) async fn cancel_run(&self, key: &str) -> Result<bool, Status> {
        let run = self.run(key, false).await?;
        match run.delivery.map(|delivery| delivery_id(&delivery.delivery_id)) {
            Some(Ok(id)) => self.cancel_run_delivery(id).await,
            Some(Err(_)) | None => Ok(false),
        }
    }

    async fn cancel_run_delivery(&self, id: DeliveryId) -> Result<bool, Status> {
        let open = self.open_event(id.event).await?;
        let Some(view) = open.iter().find(|view| view.delivery == id && !view.status.is_settled()) else {
            return Ok(false);
        };
        Ok(delivery::cancel_one(self, view).await? != delivery::Cancelled::Unchanged)
    }

    /// Jobs before a run is given up that does not say it itself.
    fn run_attempts(&self) -> u32 {
        self.platform.get().map_or(ATTEMPTS, |settings| settings.load().attempts)
    }

    /// The cluster that an agent speaks for.
    fn own_cluster(&self, named: &str) -> Result<ClusterName, Status> {
        match &self.caller.kind {
            PrincipalKind::Agent(agent) => Ok(agent.identity.cluster.clone()),
            _ => ClusterName::new(named)
                .map_err(|error| Status::from(status::invalid(Invalid::new("cluster", error.to_string())))),
        }
    }

    /// The delivery of a run of an agent's own cluster.
    async fn own_run(&self, id: &str, cluster: &str) -> Result<Delivery, Status> {
        let cluster = self.own_cluster(cluster)?;
        let parsed = delivery_id(id).map_err(status::invalid)?;
        let unknown = || Status::from(status::not_found("run", parsed.to_string()));
        let found = self.delivery(parsed, false).await?;
        let is_own = {
            let mut generals = found.attempts.iter().map(|attempt| &attempt.general).chain([&found.general]).flatten();
            generals.any(|general| general.cluster == cluster.as_str())
        };
        if is_own && is_run(&found) {
            return Ok(found);
        }
        let event = event::event(self, parsed.event).await?;
        let pinned = event.event.as_ref().and_then(|event| event.attributes.get("cluster")).cloned();
        let pinned = pinned.and_then(|value| value.attr);
        use mindos_proto::cloudevents::v1::cloud_event::cloud_event_attribute_value::Attr;
        match pinned {
            Some(Attr::CeString(name)) if name == cluster.as_str() && of_run(&event) => Ok(found),
            _ => Err(unknown()),
        }
    }
}

/// The token under which a delivery is worked on.
fn lease_of(delivery: &Delivery) -> Option<Token> {
    let token = delivery.lease.as_ref()?.token;
    mindos_proto::convert::lease(&delivery.delivery_id, token).ok().map(|(_, token)| token)
}

fn is_run(delivery: &Delivery) -> bool {
    delivery.event.as_ref().is_some_and(|event| event.source == EVENT_SOURCE && event.kind == EVENT_KIND)
}

fn of_run(event: &Event) -> bool {
    let is_type = |ty: &str| ty == CODE_EVENT || ty == DOCS_EVENT;
    event.event.as_ref().is_some_and(|event| event.source == EVENT_SOURCE && is_type(&event.r#type))
}

impl ShownRun {
    fn of(event: &Event, delivery: Option<Delivery>) -> Option<ShownRun> {
        let encoded = event.event.as_ref().filter(|_| of_run(event))?;
        let data: Order<Value> = match encoded.data.as_ref()? {
            Data::BinaryData(data) => serde_json::from_slice(data).ok()?,
            Data::TextData(text) => serde_json::from_str(text).ok()?,
            Data::ProtoData(_) => return None,
        };
        let spec = if encoded.r#type == CODE_EVENT {
            RunSpec::Code(serde_json::from_value(data.spec).ok()?)
        } else {
            RunSpec::Docs(serde_json::from_value(data.spec).ok()?)
        };
        let at = event.accepted_at.as_ref().and_then(|at| mindos_proto::convert::timestamp(at, "accepted_at").ok());
        Some(ShownRun {
            seq: event.seq,
            id: encoded.id.clone(),
            name: data.name,
            namespace: data.namespace,
            spec,
            accepted_at: at.map(|at| at.to_string()).unwrap_or_default(),
            delivery,
            told: None,
        })
    }

    /// Where it stands, in the words of its object.
    pub(crate) fn phase(&self) -> Phase {
        let status = self.delivery.as_ref().and_then(|delivery| DeliveryStatus::try_from(delivery.status).ok());
        let is = |stands: Stands| status == Some(DeliveryStatus::from(stands));
        if is(Stands::Leased) {
            Phase::Running
        } else if is(Stands::Succeeded) {
            Phase::Succeeded
        } else if is(Stands::Cancelled) {
            Phase::Cancelled
        } else if is(Stands::Parked) {
            Phase::Failed
        } else {
            Phase::Pending
        }
    }

    fn output(&self) -> Value {
        let output = self.delivery.as_ref().and_then(|delivery| delivery.output.as_ref());
        output.and_then(|output| serde_json::from_slice(&output.data).ok()).unwrap_or(Value::Null)
    }

    /// The last part of its log: that of its result, that which its agent told, else what is known of it.
    pub(crate) fn log(&self) -> String {
        let output = self.output();
        if let Some(log) = output["log"].as_str() {
            return log.to_owned();
        }
        if let Some(told) = &self.told {
            return told.to_string();
        }
        let Some(delivery) = &self.delivery else { return String::new() };
        let mut text = String::new();
        if let Some(last) = delivery.attempts.last() {
            text.push_str(&last.message);
        }
        if let Some(lease) = &delivery.lease {
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(&lease.progress);
        }
        if text.is_empty() { delivery.park_message.clone() } else { text }
    }

    /// The run as JSON.
    pub(crate) fn to_json(&self) -> Value {
        let ShownRun { seq, id, name, namespace, spec, accepted_at, delivery, told: _ } = self;
        let output = self.output();
        let text = |text: &str| if text.is_empty() { Value::Null } else { json!(text) };
        let mut shown = json!({
            "id": id,
            "seq": seq,
            "kind": spec.kind().object(),
            "name": name,
            "namespace": namespace,
            "phase": self.phase().as_str(),
            "created_at": text(accepted_at),
            "repository_url": spec.repository_url(),
            "model": spec.model(),
            "github_user": spec.github_user(),
            "pull_request_url": output["pullRequestUrl"],
            "job_name": output["jobName"],
            "session_id": output["sessionId"],
        });
        if let RunSpec::Code(spec) = spec {
            shown["task_id"] = json!(spec.task_id);
            shown["service"] = json!(spec.service);
            shown["context_version"] = output.get("contextVersion").cloned().unwrap_or(json!(spec.context_version));
        }
        if let Some(delivery) = delivery {
            shown["delivery"] = json!(delivery.delivery_id);
            shown["attempts"] = json!(delivery.attempts_used);
            if let Some(general) = &delivery.general {
                shown["cluster"] = text(&general.cluster);
            }
            shown["message"] = match ParkReason::try_from(delivery.park_reason).unwrap_or_default() {
                ParkReason::Unspecified => delivery.lease.as_ref().map_or(Value::Null, |lease| text(&lease.progress)),
                _ => text(&delivery.park_message),
            };
            let cost: u64 = delivery.usage.iter().map(|usage| usage.cost_micros).sum();
            shown["cost_usd"] = if cost > 0 { json!(usd(cost)) } else { output["costUsd"].clone() };
        }
        shown
    }
}
