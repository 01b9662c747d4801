//! `/distribute`: an event, and whom it is for, as its sender says.
//!
//! The request becomes an event that brings its own route. What the answer lists is what the plane decided within a second;
//! a delivery that waits longer is listed at its first choice, for it may yet go to another.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use mindos_core::ASKED_PREFIX;
use mindos_core::route::{Match, Route, Targets};
use mindos_model::TenantName;
use mindos_model::{ClusterName, GeneralName, RouteName, Strategy, Timestamp};
use serde::Serialize;
use serde_json::{Map, Value};

use super::answer::{Refusal, json};
use super::board::{Candidates, Distribution, Slot};
use super::generals::{General, Word};
use super::{Gitlens, event};
use crate::grpc::status;
use crate::http::HttpError;
use crate::ingest::event::accept_incoming;

const WORD: &str = "Failed to distribute event";
/// How long the answer waits for deliveries to find their general.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long work was said to take.
const ESTIMATE: Duration = Duration::from_secs(5);
/// Names in either list of a request.
const NAMES_MAX: usize = 256;

/// A distribution as the contract shows it.
#[derive(Debug, Serialize)]
pub(super) struct Answer {
    distribution_id: String,
    timestamp: String,
    strategy: String,
    assignments: Vec<Assignment>,
}

#[derive(Debug, Serialize)]
struct Assignment {
    general: String,
    cluster: String,
    status: &'static str,
    response: Outcome,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Outcome {
    Accepted {
        job_id: String,
        general: String,
        cluster: String,
        status: &'static str,
        processing_started: String,
        estimated_completion: String,
    },
    Failed {
        error: String,
    },
}

/// What a request asks for.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) event: event::Checked,
    clusters: Vec<String>,
    generals: Vec<String>,
    strategy: String,
}

impl Asked {
    pub(super) fn read(body: &[u8], now: Timestamp) -> Result<Asked, String> {
        let object = event::object(body)?;
        let event = match object.get("event") {
            Some(Value::Object(event)) => event,
            Some(_) => return Err("event: expected an object".to_owned()),
            None => return Err("event: is missing: expected an object".to_owned()),
        };
        let strategy = match object.get("distribution_strategy") {
            Some(Value::String(strategy)) if strategy.len() <= 64 => strategy.clone(),
            _ => {
                return Err("distribution_strategy: expected `broadcast`, `round_robin` or `load_balanced`".to_owned());
            }
        };
        Ok(Asked {
            event: event::check(event, now).map_err(|error| format!("event.{error}"))?,
            clusters: names(&object, "target_clusters")?,
            generals: names(&object, "llm_generals")?,
            strategy,
        })
    }

    /// Whether it may go to this general; an empty list names all.
    fn names(&self, general: &General) -> bool {
        (self.clusters.is_empty() || self.clusters.contains(&general.cluster))
            && (self.generals.is_empty() || self.generals.contains(&general.name))
    }

    /// The route that the event brings along.
    fn route(&self, candidates: &[&General]) -> Result<Route, String> {
        let strategy = match self.strategy.as_str() {
            "broadcast" => Some(Strategy::Broadcast),
            "round_robin" => Some(Strategy::RoundRobin),
            "load_balanced" => Some(Strategy::LoadBalanced),
            // The first candidate only.
            _ => None,
        };
        let (strategy, candidates) = match strategy {
            Some(strategy) => (strategy, candidates),
            None => (Strategy::RoundRobin, &candidates[..1]),
        };
        let only = |wanted: bool, list: &[String]| if wanted { list.to_vec() } else { Vec::new() };
        let (mut clusters, mut names) = (only(true, &self.clusters), only(true, &self.generals));
        if let ([one], false) =
            (candidates, matches!(self.strategy.as_str(), "broadcast" | "round_robin" | "load_balanced"))
        {
            (clusters, names) = (vec![one.cluster.clone()], vec![one.name.clone()]);
        }
        if clusters.is_empty() && names.is_empty() {
            // All of them: a route has to name something.
            names = candidates.iter().map(|general| general.name.clone()).collect();
        }
        clusters.sort();
        clusters.dedup();
        names.sort();
        names.dedup();
        let texts: Vec<&[u8]> = clusters
            .iter()
            .map(String::as_bytes)
            .chain([&b"|"[..]])
            .chain(names.iter().map(String::as_bytes))
            .collect();
        let name = format!("{ASKED_PREFIX}{}.{}", strategy.as_str(), event::hash(&texts));
        let targets = Targets {
            clusters: clusters.iter().filter_map(|name| ClusterName::new(name).ok()).collect(),
            names: names.iter().filter_map(|name| GeneralName::new(name).ok()).collect(),
            ..Targets::default()
        };
        let name = RouteName::new(&name).map_err(|error| error.to_string())?;
        Ok(Route::new(name, Match::default(), targets, strategy))
    }
}

fn names(object: &Map<String, Value>, field: &'static str) -> Result<Vec<String>, String> {
    let list = match object.get(field) {
        Some(Value::Array(list)) => list,
        Some(_) => return Err(format!("{field}: expected an array of names")),
        None => return Err(format!("{field}: is missing: expected an array of names")),
    };
    if list.len() > NAMES_MAX {
        return Err(format!("{field}: has {} names: expected at most {NAMES_MAX}", list.len()));
    }
    let name =
        |name: &Value| name.as_str().map(str::to_owned).ok_or_else(|| format!("{field}: expected an array of names"));
    list.iter().map(name).collect()
}

impl Gitlens {
    /// Answers `POST /distribute`.
    pub(super) async fn distribute(&self, headers: HeaderMap, body: Body) -> Response {
        let held = match self.read(&headers, body).await {
            Ok(held) => held,
            Err(error) => return Refusal::of(WORD, &error).into_response(),
        };
        let now = self.context.handle.now();
        let asked = match Asked::read(&held.bytes, now) {
            Ok(asked) => asked,
            Err(detail) => return Refusal::malformed(WORD, detail).into_response(),
        };
        match self.distributed(&headers, asked, now).await {
            Ok(answer) => json(StatusCode::OK, &answer),
            Err(error) => Refusal::of(WORD, &error).into_response(),
        }
    }

    async fn distributed(&self, headers: &HeaderMap, asked: Asked, now: Timestamp) -> Result<Answer, HttpError> {
        let generals = self.generals().await?;
        let candidates: Vec<&General> = generals.iter().filter(|one| one.takes && asked.names(one)).collect();
        let strategy = asked.strategy.clone();
        if candidates.is_empty() {
            // Nobody to give it to: it is as if it had not been asked.
            return Ok(Answer {
                distribution_id: id(now),
                timestamp: now.to_string(),
                strategy,
                assignments: Vec::new(),
            });
        }
        let malformed = |detail| HttpError::with_code(StatusCode::BAD_REQUEST, "REQUEST_MALFORMED", detail);
        let route = asked.route(&candidates).map_err(malformed)?;
        let choice = Candidates {
            types: Vec::new(),
            clusters: route.targets.clusters.iter().map(ToString::to_string).collect(),
            names: route.targets.names.iter().map(ToString::to_string).collect(),
        };
        let incoming = asked.event.into_incoming(headers, route.name.as_str(), now);
        let event = accept_incoming(&TenantName::default_tenant(), incoming)
            .map_err(|error| HttpError::from(status::event(&error)))?;
        let began = tokio::time::Instant::now();
        let event = mindos_core::input::NewEvent { asked: Some(Arc::new(route)), ..event };
        let published = self.publish(event).await?;
        let distribution = match self.board.bound(published.event, PATIENCE.saturating_sub(began.elapsed())).await {
            Some(distribution) => distribution,
            None => Distribution {
                event: published.event,
                at: now,
                strategy: None,
                route: published.route,
                deliveries: published.deliveries.into_iter().map(slot).collect(),
            },
        };
        // Loads have changed since: the first choice is that of the answer's moment.
        let generals = if distribution.is_bound() { generals } else { self.generals().await? };
        Ok(answer(&distribution, Some(strategy), &generals, Some(&choice)))
    }
}

fn slot(published: mindos_core::output::PublishedDelivery) -> Slot {
    let failed = published.parked.map(|reason| std::borrow::Cow::Borrowed(reason.as_str()));
    Slot { general: published.general, leased_at: None, failed }
}

fn id(at: Timestamp) -> String {
    format!("dist-{}", at.0)
}

/// A distribution in the contract's form.
pub(super) fn answer(
    distribution: &Distribution,
    strategy: Option<String>,
    generals: &[General],
    candidates: Option<&Candidates>,
) -> Answer {
    let Distribution { event, at, strategy: decided, route: _, deliveries } = distribution;
    let strategy = strategy.or_else(|| decided.map(|word| word.as_str().to_owned())).unwrap_or_default();
    let taken: Vec<_> = deliveries.iter().filter_map(|slot| slot.general.as_ref()).collect();
    let free = |general: &&General| {
        !taken.iter().any(|key| key.cluster.as_str() == general.cluster && key.name.as_str() == general.name)
    };
    let mut choices: Vec<&General> = generals.iter().filter(free).collect();
    choices.retain(|general| general.takes && candidates.is_none_or(|candidates| candidates.names_one(general)));
    match decided {
        Some(Strategy::RoundRobin) if !choices.is_empty() => {
            let turn = usize::try_from(event.0 % choices.len() as u64).unwrap_or(0);
            choices.rotate_left(turn);
        }
        // The least loaded first; among equals the order stands.
        _ => choices.sort_by_key(|general| (general.status == Word::Inactive, general.current_load)),
    }
    let mut choices = choices.into_iter();
    let mut assignments = Vec::with_capacity(deliveries.len());
    for slot in deliveries {
        let (cluster, name) = match &slot.general {
            Some(key) => (key.cluster.to_string(), key.name.to_string()),
            None => match choices.next() {
                Some(general) => (general.cluster.clone(), general.name.clone()),
                // Nobody is there that could be named; the delivery waits all the same.
                None => continue,
            },
        };
        let started = slot.leased_at.unwrap_or(*at);
        let outcome = match &slot.failed {
            Some(why) => Outcome::Failed { error: why.to_string() },
            None => Outcome::Accepted {
                job_id: format!("{name}-{cluster}-{}", started.0),
                general: name.clone(),
                cluster: cluster.clone(),
                status: "accepted",
                processing_started: started.to_string(),
                estimated_completion: (started + ESTIMATE).to_string(),
            },
        };
        let status = if slot.failed.is_some() { "failed" } else { "dispatched" };
        assignments.push(Assignment { general: format!("{name}-{cluster}"), cluster, status, response: outcome });
    }
    Answer { distribution_id: id(*at), timestamp: at.to_string(), strategy, assignments }
}

impl Candidates {
    fn names_one(&self, general: &General) -> bool {
        let Candidates { types, clusters, names } = self;
        (types.is_empty() || types.contains(&general.ty))
            && (clusters.is_empty() || clusters.contains(&general.cluster))
            && (names.is_empty() || names.contains(&general.name))
    }
}
