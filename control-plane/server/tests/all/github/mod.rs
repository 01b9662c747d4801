//! A stub of GitHub as an App sees it: it sends webhooks, keeps the list of its attempts, and sends again what it is asked for.
//!
//! ```text
//!   event --POST, signed--> webhook of the App        GET  /app/hook/deliveries             newest first, by pages
//!             |  each attempt is listed               GET  /app/hook/deliveries/{id}        one attempt, with request and response
//!             +-----------------------------<-------- POST /app/hook/deliveries/{id}/attempts
//! ```
//! Tokens are verified under the App's public key, and every answer of the stub is checked against GitHub's own description
//! (`tests/data/github-openapi`). Its attempts are dated two minutes back, for who asks waits until an attempt is 30 s old.

#![allow(clippy::unwrap_used, unreachable_pub)]

mod shape;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use hmac::{KeyInit, Mac};
use http::{HeaderMap, HeaderName, Method, StatusCode};
use mindos_model::Timestamp;
use mindos_outgoing::{Outgoing, Request, Target};
use serde_json::{Value, json};

const PUBLIC: &[u8] = include_bytes!("../../../src/catch_up/test_key.pub.der");
/// How far back attempts are dated.
const BACK: Duration = Duration::from_secs(120);

/// One attempt to deliver.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub id: u64,
    pub guid: String,
    pub event: String,
    pub body: Bytes,
    pub status_code: u16,
    pub redelivery: bool,
    at: Timestamp,
    took: Duration,
    sent: Vec<(String, String)>,
    answer: Option<String>,
}

/// What an attempt comes to, where not what the webhook answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It never arrives.
    Lost,
    /// It arrives, and its answer does not.
    TimedOut,
    /// It is signed with another secret.
    Forged,
}

#[derive(Debug, Default)]
struct Inner {
    hook: Option<String>,
    attempts: Vec<Attempt>,
    /// What comes of the next attempts on a delivery.
    faults: BTreeMap<String, Vec<Fault>>,
    /// Answers in place of the next ones, of any path: status and headers.
    refusals: Vec<(u16, Vec<(&'static str, String)>)>,
    refused: Vec<Instant>,
    /// Paths asked for, with when.
    asked: Vec<(Instant, String)>,
    tokens_refused: u64,
}

/// The stub; a clone is the same.
#[derive(Clone, Debug)]
pub struct GitHub {
    inner: Arc<Mutex<Inner>>,
    client: Outgoing,
    app: String,
    secret: String,
    pub api: String,
}

impl GitHub {
    /// Serves the API for the App `app`, whose webhook has this secret, on a port of loopback.
    pub async fn start(app: &str, secret: &str) -> GitHub {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = format!("http://{}", listener.local_addr().unwrap());
        let (app, secret) = (app.to_owned(), secret.to_owned());
        let github = GitHub { inner: Arc::default(), client: Outgoing::new(), app, secret, api };
        let router = Router::new()
            .route("/app/hook/deliveries", get(list))
            .route("/app/hook/deliveries/{id}", get(one))
            .route("/app/hook/deliveries/{id}/attempts", post(redeliver))
            .with_state(github.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        github
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// Where webhooks go from here on.
    pub fn set_hook(&self, server: &str) {
        self.inner().hook = Some(format!("{server}/webhooks/github"));
    }

    /// What comes of the next attempts on a delivery, the first of them first.
    pub fn fail(&self, guid: &str, faults: &[Fault]) {
        self.inner().faults.insert(guid.to_owned(), faults.iter().rev().copied().collect());
    }

    /// Answers the next request, whatever it is, in this way.
    pub fn refuse(&self, status: u16, headers: &[(&'static str, String)]) {
        self.inner().refusals.insert(0, (status, headers.to_vec()));
    }

    /// All attempts so far, the first one first.
    pub fn attempts(&self) -> Vec<Attempt> {
        self.inner().attempts.clone()
    }

    /// When requests were answered as [`GitHub::refuse`] said.
    pub fn refused(&self) -> Vec<Instant> {
        self.inner().refused.clone()
    }

    /// Requests with a good token, and when they came.
    pub fn asked(&self) -> Vec<(Instant, String)> {
        self.inner().asked.clone()
    }

    /// Requests whose token was not good.
    pub fn tokens_refused(&self) -> u64 {
        self.inner().tokens_refused
    }

    /// Something happened: sends its webhook, once, as GitHub does.
    pub async fn happen(&self, guid: &str, event: &str, body: Bytes) {
        self.attempt(guid, event, body, false).await;
    }

    async fn attempt(&self, guid: &str, event: &str, body: Bytes, redelivery: bool) {
        let (fault, hook) = {
            let mut inner = self.inner();
            (inner.faults.get_mut(guid).and_then(Vec::pop), inner.hook.clone().unwrap())
        };
        let secret = if fault == Some(Fault::Forged) { "another" } else { &self.secret };
        let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).unwrap();
        mac.update(&body);
        let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        let sent: Vec<(String, String)> = [
            ("content-type", "application/json".to_owned()),
            ("user-agent", "GitHub-Hookshot/stub".to_owned()),
            ("x-github-event", event.to_owned()),
            ("x-github-delivery", guid.to_owned()),
            ("x-hub-signature-256", format!("sha256={hex}")),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        let began = Instant::now();
        let mut request = Request::new(Method::POST, Target::parse(&hook, false).unwrap());
        request.body = body.clone();
        // GitHub gives up after ten seconds.
        request.timeout = Duration::from_secs(10);
        for (name, value) in &sent {
            request.headers.insert(HeaderName::try_from(name).unwrap(), value.parse().unwrap());
        }
        let answer = match fault {
            Some(Fault::Lost) => None,
            _ => self.client.send(request).await.ok(),
        };
        let status_code = match (fault, &answer) {
            (Some(Fault::TimedOut), Some(_)) => 504,
            (_, Some(answer)) => answer.status.as_u16(),
            (_, None) => 502,
        };
        let answer = answer.map(|answer| String::from_utf8_lossy(&answer.body).into_owned());
        let mut inner = self.inner();
        let id = 700_000_000_000 + inner.attempts.len() as u64;
        let at = Timestamp(now().0 - u64::try_from(BACK.as_millis()).unwrap());
        let (guid, event) = (guid.to_owned(), event.to_owned());
        let took = began.elapsed();
        inner.attempts.push(Attempt { id, guid, event, body, status_code, redelivery, at, took, sent, answer });
    }

    /// What a request is refused with, if it is.
    fn admit(&self, headers: &HeaderMap, path: &str, method: &str) -> Option<Response> {
        let mut inner = self.inner();
        if !self.is_token(headers) {
            inner.tokens_refused += 1;
            let body =
                json!({"message": "A JSON web token could not be decoded", "documentation_url": DOCS, "status": "401"});
            return Some((StatusCode::UNAUTHORIZED, Json(body)).into_response());
        }
        inner.asked.push((Instant::now(), format!("{method} {path}")));
        let (status, named) = inner.refusals.pop()?;
        inner.refused.push(Instant::now());
        let body = json!({"message": "API rate limit exceeded", "documentation_url": DOCS});
        let mut response = (StatusCode::from_u16(status).unwrap(), Json(body)).into_response();
        for (name, value) in named {
            response.headers_mut().insert(name, value.parse().unwrap());
        }
        Some(response)
    }

    /// Whether a request comes with a token of the App: RS256 under its key, in force, for ten minutes at most.
    fn is_token(&self, headers: &HeaderMap) -> bool {
        let accepts = |name: &str, value: &str| headers.get(name).is_some_and(|given| given == value);
        assert!(accepts("accept", "application/vnd.github+json") && accepts("x-github-api-version", "2022-11-28"));
        let token = headers.get("authorization").and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        let Some([header, claims, signature]) =
            token.and_then(|token| <[&str; 3]>::try_from(token.split('.').collect::<Vec<_>>()).ok())
        else {
            return false;
        };
        let signed = format!("{header}.{claims}");
        let read = |part: &str| serde_json::from_slice::<Value>(&decode(part)).unwrap_or_default();
        let (header, claims) = (read(header), read(claims));
        let seconds = now().0 / 1000;
        let (from, until) = (claims["iat"].as_u64().unwrap_or(u64::MAX), claims["exp"].as_u64().unwrap_or(0));
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
        let rsa = |(scheme, _): &&(rustls::SignatureScheme, _)| *scheme == rustls::SignatureScheme::RSA_PKCS1_SHA256;
        let algorithm = algorithms.mapping.iter().find(rsa).unwrap().1[0];
        header["alg"] == "RS256"
            && claims["iss"] == *self.app
            && from <= seconds
            && until > seconds
            && until - from <= 600
            && algorithm.verify_signature(PUBLIC, signed.as_bytes(), &decode(signature)).is_ok()
    }
}

const DOCS: &str = "https://docs.github.com/rest/apps/webhooks";

fn now() -> Timestamp {
    let millis = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    Timestamp(u64::try_from(millis).unwrap())
}

/// Base64 of addresses.
fn decode(text: &str) -> Vec<u8> {
    const DIGITS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let (mut bytes, mut held, mut bits) = (Vec::new(), 0u32, 0);
    for digit in text.chars() {
        let Some(value) = DIGITS.find(digit) else { return Vec::new() };
        held = held << 6 | u32::try_from(value).unwrap();
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits & 255) as u8);
        }
    }
    bytes
}

fn entry(attempt: &Attempt) -> Value {
    let payload: Value = serde_json::from_slice(&attempt.body).unwrap();
    let status = match attempt.status_code {
        200..300 => "OK".to_owned(),
        502 => "failed to connect to host".to_owned(),
        504 => "timed out".to_owned(),
        other => format!("Invalid HTTP Response: {other}"),
    };
    json!({
        "id": attempt.id,
        "guid": attempt.guid,
        "delivered_at": attempt.at.to_string(),
        "redelivery": attempt.redelivery,
        "duration": (attempt.took.as_secs_f64() * 100.0).round() / 100.0,
        "status": status,
        "status_code": attempt.status_code,
        "event": attempt.event,
        "action": payload["action"],
        "installation_id": payload["installation"]["id"],
        "repository_id": payload["repository"]["id"],
        "throttled_at": null,
    })
}

async fn list(
    State(github): State<GitHub>,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    let asked = query.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&");
    if let Some(refusal) = github.admit(&headers, &format!("/app/hook/deliveries?{asked}"), "GET") {
        return refusal;
    }
    let per_page = query.get("per_page").map_or(30, |count| count.parse::<usize>().unwrap().clamp(1, 100));
    // A cursor names the last attempt that was shown; those after it are older.
    let before = query.get("cursor").map(|cursor| cursor.strip_prefix("v1_").unwrap().parse::<u64>().unwrap());
    let attempts = github.attempts();
    let older: Vec<_> = attempts.iter().rev().filter(|one| before.is_none_or(|before| one.id < before)).collect();
    let page: Vec<Value> = older.iter().take(per_page).map(|attempt| entry(attempt)).collect();
    let body = Value::Array(page);
    shape::check("/app/hook/deliveries", "get", 200, &body);
    let mut response = Json(body).into_response();
    if older.len() > per_page {
        let api = &github.api;
        let link = format!(
            "<{api}/app/hook/deliveries?per_page={per_page}&cursor=v1_{}>; rel=\"next\"",
            older[per_page - 1].id
        );
        response.headers_mut().insert("link", link.parse().unwrap());
    }
    response
}

fn not_found(path: &str, method: &str) -> Response {
    let body = json!({"message": "Not Found", "documentation_url": DOCS, "status": "404"});
    shape::check(path, method, 404, &body);
    (StatusCode::NOT_FOUND, Json(body)).into_response()
}

async fn one(State(github): State<GitHub>, Path(id): Path<u64>, headers: HeaderMap) -> Response {
    const PATH: &str = "/app/hook/deliveries/{delivery_id}";
    if let Some(refusal) = github.admit(&headers, &format!("/app/hook/deliveries/{id}"), "GET") {
        return refusal;
    }
    let Some(attempt) = github.attempts().into_iter().find(|attempt| attempt.id == id) else {
        return not_found(PATH, "get");
    };
    let mut body = entry(&attempt);
    body["url"] = json!(github.inner().hook);
    let sent: BTreeMap<_, _> = attempt.sent.into_iter().collect();
    let payload: Value = serde_json::from_slice(&attempt.body).unwrap();
    body["request"] = json!({"headers": sent, "payload": payload});
    body["response"] = json!({"headers": {}, "payload": attempt.answer});
    shape::check(PATH, "get", 200, &body);
    Json(body).into_response()
}

async fn redeliver(State(github): State<GitHub>, Path(id): Path<u64>, headers: HeaderMap) -> Response {
    const PATH: &str = "/app/hook/deliveries/{delivery_id}/attempts";
    if let Some(refusal) = github.admit(&headers, &format!("/app/hook/deliveries/{id}/attempts"), "POST") {
        return refusal;
    }
    let Some(attempt) = github.attempts().into_iter().find(|attempt| attempt.id == id) else {
        return not_found(PATH, "post");
    };
    // It is answered before it is done.
    tokio::spawn(async move { github.attempt(&attempt.guid, &attempt.event, attempt.body, true).await });
    let body = json!({});
    shape::check(PATH, "post", 202, &body);
    (StatusCode::ACCEPTED, Json(body)).into_response()
}
