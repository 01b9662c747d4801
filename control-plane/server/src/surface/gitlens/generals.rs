//! Generals as the orchestrator showed them, out of the fleet as it is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use mindos_core::input::Input;
use mindos_core::output::{FleetView, GeneralView, InstanceState, Reply};
use mindos_core::record::{HoldTarget, Holds};
use mindos_model::{ClusterName, GeneralName};
use serde::Serialize;
use serde_json::Value;

use super::answer::{Refusal, json};
use super::settings::{ClusterSection, GitlensSettings};
use super::{Gitlens, event};
use crate::access::Principal;
use crate::grpc::status;
use crate::http::HttpError;
use crate::metrics::{Exposition, Kind};

/// The stock generals in the contract's order, with what they are good at.
const SPECIALIZATIONS: [(&str, &[&str]); 11] = [
    ("code-review-general", &["code_review", "quality", "best_practices"]),
    ("quality-assurance-general", &["testing", "qa", "validation"]),
    ("architecture-general", &["design", "architecture", "patterns"]),
    ("security-general", &["security", "vulnerabilities", "compliance"]),
    ("deployment-general", &["deployment", "release", "cicd"]),
    ("documentation-general", &["docs", "readme", "guides"]),
    ("analytics-general", &["metrics", "analysis", "insights"]),
    ("metrics-general", &["performance", "monitoring", "observability"]),
    ("triage-general", &["prioritization", "triage", "routing"]),
    ("priority-general", &["urgency", "severity", "escalation"]),
    ("general-purpose-general", &["general", "multipurpose"]),
];

/// How long the plane may take to show its fleet to a scrape.
const PATIENCE: Duration = Duration::from_secs(1);
/// Where generals ran in the earlier system.
const NAMESPACE: &str = "agents";

/// The words of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Word {
    Active,
    Inactive,
    Busy,
}

/// A general in full.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct General {
    pub(super) name: String,
    pub(super) cluster: String,
    namespace: String,
    endpoint: String,
    pub(super) status: Word,
    pub(super) specialization: Vec<String>,
    pub(super) current_load: u32,
    pub(super) max_load: u32,
    #[serde(skip)]
    pub(super) ty: String,
    /// Whether events may be given to it.
    #[serde(skip)]
    pub(super) takes: bool,
}

/// All generals: by cluster, and within one in the contract's order.
pub(super) fn all(fleet: &FleetView, settings: &GitlensSettings) -> Vec<General> {
    let mut generals: Vec<General> = fleet.generals.iter().map(|view| general(view, fleet, settings)).collect();
    let place = |ty: &str| SPECIALIZATIONS.iter().position(|(stock, _)| *stock == ty).unwrap_or(usize::MAX);
    generals.sort_by_cached_key(|one| (one.cluster.clone(), place(&one.ty), one.name.clone()));
    generals
}

fn general(view: &GeneralView, fleet: &FleetView, settings: &GitlensSettings) -> General {
    let (name, cluster) = (view.key.name.to_string(), view.key.cluster.to_string());
    let label = |wanted: &str| view.labels.iter().find(|(key, _)| **key == *wanted).map(|(_, value)| value.to_string());
    let known = settings.clusters.get(&cluster).cloned().unwrap_or_default();
    let ClusterSection { api_server, namespace } = known;
    let namespace = label("namespace").or(namespace).unwrap_or_else(|| NAMESPACE.to_owned());
    let api_server = api_server.unwrap_or_else(|| format!("https://{cluster}"));
    let endpoint = label("endpoint").unwrap_or_else(|| {
        format!("{}/api/v1/namespaces/{namespace}/services/{name}:8080/proxy", api_server.trim_end_matches('/'))
    });
    let of_cluster = fleet.clusters.iter().find(|one| one.cluster == view.key.cluster);
    let holds = view.holds.with(of_cluster.map_or(Holds::NONE, |cluster| cluster.holds));
    let serves = fleet.instances.iter().any(|instance| {
        instance.state == InstanceState::Ready && instance.generals.iter().any(|(key, ..)| *key == view.key)
    });
    let takes = holds.without(Holds::PAUSED).is_none();
    let full = view.load.open >= view.load.capacity;
    let status = match (takes && serves, holds.paused || full) {
        (false, _) => Word::Inactive,
        (true, true) => Word::Busy,
        (true, false) => Word::Active,
    };
    General {
        specialization: specialization(view.ty.as_str(), label("specialization")),
        ty: view.ty.to_string(),
        current_load: view.load.open,
        max_load: view.load.capacity,
        name,
        cluster,
        namespace,
        endpoint,
        status,
        takes,
    }
}

fn specialization(ty: &str, label: Option<String>) -> Vec<String> {
    let stock = || SPECIALIZATIONS.iter().find(|(stock, _)| *stock == ty).map(|(_, words)| *words);
    match (label, stock()) {
        (Some(list), _) => list.split(',').map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()).collect(),
        (None, Some(words)) => words.iter().map(|word| (*word).to_owned()).collect(),
        (None, None) => vec![ty.trim_end_matches("-general").to_owned()],
    }
}

/// How many are in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Counts {
    active: usize,
    inactive: usize,
    busy: usize,
}

impl Counts {
    pub(super) fn of(generals: &[General]) -> Counts {
        let count = |word: Word| generals.iter().filter(|general| general.status == word).count();
        Counts { active: count(Word::Active), inactive: count(Word::Inactive), busy: count(Word::Busy) }
    }
}

/// A general as `/status` lists it.
#[derive(Debug, Serialize)]
pub(super) struct Listed {
    name: String,
    status: Word,
    load: String,
    specialization: Vec<String>,
}

pub(super) fn by_cluster(generals: &[General]) -> BTreeMap<&str, Vec<Listed>> {
    let mut clusters: BTreeMap<&str, Vec<Listed>> = BTreeMap::new();
    for general in generals {
        clusters.entry(&general.cluster).or_default().push(Listed {
            name: general.name.clone(),
            status: general.status,
            load: format!("{}/{}", general.current_load, general.max_load),
            specialization: general.specialization.clone(),
        });
    }
    clusters
}

fn not_found() -> Refusal {
    Refusal { code: StatusCode::NOT_FOUND, word: "General not found", detail: String::new(), retry_after: None }
}

#[derive(Serialize)]
struct Updated<'a> {
    message: &'static str,
    name: &'a str,
    cluster: &'a str,
    status: &'a str,
}

impl Gitlens {
    pub(super) async fn generals(&self) -> Result<Vec<General>, HttpError> {
        let fleet = self.scoped().fleet().await.map_err(|status| {
            HttpError::with_code(StatusCode::SERVICE_UNAVAILABLE, "FLEET_UNREAD", status.message())
        })?;
        Ok(all(&fleet, &self.settings.load()))
    }

    /// `GET /generals/{cluster}/{name}`.
    pub(super) async fn general(&self, cluster: &str, name: &str) -> Response {
        match self.generals().await {
            Ok(generals) => match generals.iter().find(|general| general.cluster == cluster && general.name == name) {
                Some(general) => json(StatusCode::OK, general),
                None => not_found().into_response(),
            },
            Err(error) => Refusal::of("Failed to read generals", &error).into_response(),
        }
    }

    /// `PUT /generals/{cluster}/{name}/status`: the status is checked first.
    pub(super) async fn put_status(&self, caller: &Principal, cluster: &str, name: &str, body: &[u8]) -> Response {
        const WORD: &str = "Invalid status";
        const ACCEPTED: &str = "expected `active`, `inactive` or `busy`";
        let status = match event::object(body) {
            Ok(mut object) => object.remove("status").unwrap_or_default(),
            Err(detail) => return Refusal::malformed(WORD, detail).into_response(),
        };
        let (end, begin) = match status.as_str() {
            Some("active") => (Holds::ALL, Holds::NONE),
            Some("inactive") => (Holds::PAUSED, Holds::CORDONED),
            Some("busy") => (Holds { paused: false, ..Holds::ALL }, Holds::PAUSED),
            Some(_) | None => return Refusal::malformed(WORD, format!("status: {ACCEPTED}")).into_response(),
        };
        let Value::String(status) = status else { return Refusal::malformed(WORD, ACCEPTED).into_response() };
        let (Ok(of), Ok(called)) = (ClusterName::new(cluster), GeneralName::new(name)) else {
            return not_found().into_response();
        };
        let (tenant, by, from) = (caller.tenant.clone(), Arc::clone(&caller.name), Arc::clone(&caller.from));
        let (target, why) = (HoldTarget::General(of, called), Arc::default());
        let hold = |request| Input::Hold { request, tenant, target, end, begin, why, by, from };
        match self.context.handle.call(hold).await {
            Ok(Reply::Done { .. }) => {
                json(StatusCode::OK, &Updated { message: "Status updated", name, cluster, status: &status })
            }
            Ok(_) => {
                Refusal::of(WORD, &status::internal("the plane gave an answer of another kind").into()).into_response()
            }
            Err(error) => match HttpError::from(status::call(&error)) {
                error if error.code() == StatusCode::NOT_FOUND => not_found().into_response(),
                error => Refusal::of("Failed to update status", &error).into_response(),
            },
        }
    }
}

/// The four series of the contract, and who was refused.
pub async fn expose(gitlens: &Gitlens, into: &mut Exposition) {
    gitlens.turned.expose(into);
    expose_generals(gitlens, into).await;
}

/// Those of them that are of the tenant of this surface.
pub async fn expose_generals(gitlens: &Gitlens, into: &mut Exposition) {
    let Ok(Ok(generals)) = tokio::time::timeout(PATIENCE, gitlens.generals()).await else { return };
    let Counts { active, busy, .. } = Counts::of(&generals);
    into.single("mindos_llm_generals_total", Kind::Gauge, "Generals known.", generals.len());
    into.single("mindos_llm_generals_active", Kind::Gauge, "Generals that take work and have room.", active);
    into.single("mindos_llm_generals_busy", Kind::Gauge, "Generals that are full or paused.", busy);
    let total = gitlens.board.total_distributions();
    into.single("mindos_distributions_total", Kind::Counter, "Events that led to at least one delivery.", total);
}
