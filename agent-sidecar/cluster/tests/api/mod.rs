//! An API server, played by a test: lists and watches pods, services and nodes, keeps one Lease. For what it holds and tells, no more.

#![allow(unreachable_pub)]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::broadcast;

type Body = UnsyncBoxBody<Bytes, Infallible>;

#[derive(Clone)]
pub struct Api {
    state: Arc<Mutex<State>>,
    /// The kind and what happened to it.
    told: broadcast::Sender<(String, Value)>,
    away: Arc<AtomicBool>,
    pub kubeconfig: PathBuf,
}

#[derive(Default)]
struct State {
    /// By kind and name.
    objects: BTreeMap<(String, String), Value>,
    version: u64,
    lease: Option<Value>,
    renewals: u64,
}

impl Api {
    pub async fn start(name: &str) -> Api {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        let kubeconfig = std::env::temp_dir().join(format!("mindos-agent-{name}-{}.kubeconfig", std::process::id()));
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": server}}], "users": [{"name": "u", "user": {}}],
        });
        std::fs::write(&kubeconfig, config.to_string()).unwrap();
        let (told, _) = broadcast::channel(64);
        let api = Api { state: Arc::default(), told, away: Arc::default(), kubeconfig };
        let serving = api.clone();
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let api = serving.clone();
                let service = hyper::service::service_fn(move |request| {
                    let api = api.clone();
                    async move { api.answer(request).await }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service),
                );
            }
        });
        api
    }

    /// Makes or changes an object, and tells.
    pub fn put(&self, kind: &str, object: Value) {
        self.change(kind, object, false);
    }

    /// Removes an object, and tells.
    pub fn remove(&self, kind: &str, object: Value) {
        self.change(kind, object, true);
    }

    /// Answers everything with 503 from here on, or no longer.
    pub fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
        let _ = self.told.send(("all".to_owned(), Value::Null));
    }

    /// Who holds the Lease.
    pub fn holder(&self) -> String {
        let state = self.state.lock().unwrap();
        let lease = state.lease.clone().unwrap_or_default();
        lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
    }

    fn change(&self, kind: &str, mut object: Value, gone: bool) {
        let mut state = self.state.lock().unwrap();
        state.version += 1;
        object["metadata"]["resourceVersion"] = json!(state.version.to_string());
        let key = (kind.to_owned(), object["metadata"]["name"].as_str().unwrap().to_owned());
        let what = match (gone, state.objects.contains_key(&key)) {
            (true, _) => "DELETED",
            (false, true) => "MODIFIED",
            (false, false) => "ADDED",
        };
        if gone {
            state.objects.remove(&key)
        } else {
            state.objects.insert(key, object.clone())
        };
        let _ = self.told.send((kind.to_owned(), json!({"type": what, "object": object})));
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        if self.away.load(Ordering::SeqCst) {
            return Ok(status(StatusCode::SERVICE_UNAVAILABLE, "Unavailable"));
        }
        let path = request.uri().path().to_owned();
        let query = request.uri().query().unwrap_or_default().to_owned();
        if path == "/version" {
            return Ok(whole(
                json!({"major": "1", "minor": "33", "gitVersion": "v1.33.0", "gitCommit": "", "gitTreeState": "",
                "buildDate": "", "goVersion": "", "compiler": "", "platform": ""}),
            ));
        }
        if path.contains("/leases") {
            let method = request.method().clone();
            let body = request.into_body().collect().await.unwrap().to_bytes();
            return Ok(self.leased(&method, serde_json::from_slice(&body).ok()));
        }
        let kind = path.rsplit('/').next().unwrap_or_default().to_owned();
        let selector =
            query.split('&').find_map(|pair| pair.strip_prefix("labelSelector=")).unwrap_or_default().to_owned();
        let state = self.state.lock().unwrap();
        if query.contains("watch=true") {
            let from = query
                .split('&')
                .find_map(|pair| pair.strip_prefix("resourceVersion="))
                .and_then(|from| from.parse::<u64>().ok());
            return Ok(match from {
                Some(from) if from == state.version => self.watch(kind, selector),
                // What came in between is not kept.
                _ => whole(
                    json!({"type": "ERROR", "object": {"kind": "Status", "status": "Failure", "reason": "Expired",
                    "message": "too old resource version", "code": 410}}),
                ),
            });
        }
        let items: Vec<Value> = state
            .objects
            .iter()
            .filter(|((of, _), object)| *of == kind && fits(&selector, object))
            .map(|(_, object)| object.clone())
            .collect();
        Ok(whole(
            json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": state.version.to_string()}, "items": items}),
        ))
    }

    fn watch(&self, kind: String, selector: String) -> Response<Body> {
        let (told, away) = (self.told.subscribe(), self.away.clone());
        let lines = futures_util::stream::unfold((told, away), move |(mut told, away)| {
            let (kind, selector) = (kind.clone(), selector.clone());
            async move {
                loop {
                    let (of, event) = told.recv().await.ok()?;
                    if away.load(Ordering::SeqCst) {
                        return None;
                    }
                    if of == kind && fits(&selector, &event["object"]) {
                        return Some((event.to_string() + "\n", (told, away)));
                    }
                }
            }
        });
        let frames = lines.map(|line| Ok(Frame::data(Bytes::from(line))));
        Response::new(BodyExt::boxed_unsync(StreamBody::new(frames)))
    }

    fn leased(&self, method: &Method, body: Option<Value>) -> Response<Body> {
        let mut state = self.state.lock().unwrap();
        state.renewals += 1;
        let version = json!(state.renewals.to_string());
        match (method, body, state.lease.clone()) {
            (&Method::GET, _, None) => status(StatusCode::NOT_FOUND, "NotFound"),
            (&Method::GET, _, Some(lease)) => whole(lease),
            (&Method::PUT, Some(lease), Some(held))
                if lease["metadata"]["resourceVersion"] != held["metadata"]["resourceVersion"] =>
            {
                status(StatusCode::CONFLICT, "Conflict")
            }
            (_, Some(mut lease), _) => {
                lease["metadata"]["resourceVersion"] = version;
                state.lease = Some(lease.clone());
                whole(lease)
            }
            _ => status(StatusCode::BAD_REQUEST, "BadRequest"),
        }
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        if Arc::strong_count(&self.state) == 1 {
            let _ = std::fs::remove_file(&self.kubeconfig);
        }
    }
}

/// `name=value` or `name`, as encoded in a query.
fn fits(selector: &str, object: &Value) -> bool {
    let selector = selector.replace("%3D", "=").replace("%2F", "/").replace("%2C", ",");
    let labels = &object["metadata"]["labels"];
    selector.split(',').filter(|term| !term.is_empty()).all(|term| match term.split_once('=') {
        Some((name, value)) => labels[name] == value,
        None => !labels[term].is_null(),
    })
}

fn whole(value: Value) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())).boxed_unsync());
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    response
}

fn status(code: StatusCode, reason: &str) -> Response<Body> {
    let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": reason, "message": reason, "code": code.as_u16()});
    let mut response = whole(body);
    *response.status_mut() = code;
    response
}
