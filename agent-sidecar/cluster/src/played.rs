//! An API server, played by tests: it keeps objects by their plural and name. No pod runs.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::Full;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

/// What it has, and how it behaves.
#[derive(Default)]
pub(crate) struct ApiServer {
    objects: BTreeMap<(String, String), Value>,
    version: u64,
    /// How Jobs stand as soon as they are made.
    pub(crate) job_status: Value,
    /// Tells by method, plural and what is given which call is obeyed next without an answer.
    pub(crate) unanswered: Option<fn(&Method, &str, &Value) -> bool>,
    /// It says nothing to anybody.
    pub(crate) is_silent: bool,
}

impl ApiServer {
    /// An empty one, and a client of it.
    pub(crate) fn start() -> (Client, Arc<Mutex<ApiServer>>) {
        let played = Arc::new(Mutex::new(ApiServer::default()));
        let answering = Arc::clone(&played);
        let service = tower::service_fn(move |request: Request<Body>| {
            let played = Arc::clone(&answering);
            async move {
                let (head, body) = request.into_parts();
                let given = body.collect_bytes().await.unwrap();
                let given: Value = serde_json::from_slice(&given).unwrap_or_default();
                let is_silent = played.lock().unwrap().is_silent;
                if is_silent {
                    std::future::pending::<()>().await;
                }
                let (status, answer) = played.lock().unwrap().answer(&head.method, head.uri.path(), given);
                let body = Full::new(Bytes::from(answer.to_string()));
                Ok::<_, Infallible>(Response::builder().status(status).body(body).unwrap())
            }
        });
        (Client::new(service, "default"), played)
    }

    /// Puts an object there, in the place of the one of its name.
    pub(crate) fn put(&mut self, plural: &str, mut object: Value) -> Value {
        self.version += 1;
        let version = self.version.to_string();
        let metadata = &mut object["metadata"];
        if metadata["uid"].is_null() {
            metadata["uid"] = json!(format!("u-{version}"));
        }
        metadata["resourceVersion"] = json!(version);
        let name = metadata["name"].as_str().unwrap().to_owned();
        self.objects.insert((plural.to_owned(), name), object.clone());
        object
    }

    /// One object, or null.
    pub(crate) fn get(&self, plural: &str, name: &str) -> Value {
        self.objects.get(&(plural.to_owned(), name.to_owned())).cloned().unwrap_or_default()
    }

    /// All objects of a kind.
    pub(crate) fn all(&self, plural: &str) -> Vec<Value> {
        let of_kind = self.objects.iter().filter(|((of, _), _)| of == plural);
        of_kind.map(|(_, object)| object.clone()).collect()
    }

    fn answer(&mut self, method: &Method, path: &str, given: Value) -> (u16, Value) {
        let mut parts = path.split('/').skip_while(|part| *part != "namespaces").skip(2);
        let plural = parts.next().unwrap();
        let is_lost = self.unanswered.is_some_and(|is_meant| is_meant(method, plural, &given));
        let answer = self.obey(method, plural, parts.next(), given);
        if is_lost {
            self.unanswered = None;
            return failure(503, "ServiceUnavailable");
        }
        answer
    }

    fn obey(&mut self, method: &Method, plural: &str, name: Option<&str>, mut given: Value) -> (u16, Value) {
        let name = match name.or(given["metadata"]["name"].as_str()) {
            Some(name) => name.to_owned(),
            None if *method == Method::POST => format!("{plural}-{}", self.version),
            None => return (200, json!({ "kind": "List", "apiVersion": "v1", "metadata": {}, "items": [] })),
        };
        let key = (plural.to_owned(), name);
        match (method, self.objects.get(&key).cloned()) {
            (&Method::GET, Some(there)) => (200, there),
            (&Method::POST, None) => {
                given["metadata"]["name"] = json!(key.1);
                if plural == "jobs" {
                    given["status"] = self.job_status.clone();
                }
                (201, self.put(plural, given))
            }
            (&Method::PATCH, Some(mut there)) => {
                let version = &given["metadata"]["resourceVersion"];
                if !version.is_null() && *version != there["metadata"]["resourceVersion"] {
                    return failure(409, "Conflict");
                }
                merge(&mut there, &given);
                (200, self.put(plural, there))
            }
            (&Method::DELETE, Some(there)) => {
                self.objects.remove(&key);
                (200, there)
            }
            (_, Some(_)) => failure(409, "AlreadyExists"),
            (_, None) => failure(404, "NotFound"),
        }
    }
}

/// As a JSON merge patch does.
fn merge(there: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *there = patch.clone();
        return;
    };
    if !there.is_object() {
        *there = json!({});
    }
    for (name, value) in fields {
        if value.is_null() {
            there.as_object_mut().unwrap().remove(name);
        } else {
            merge(&mut there[name.as_str()], value);
        }
    }
}

fn failure(code: u16, reason: &str) -> (u16, Value) {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": reason,
        "message": reason, "code": code,
    });
    (code, status)
}
