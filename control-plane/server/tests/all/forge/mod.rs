//! A GitHub that remembers: the part of its REST API that effects use, on loopback, with faults on demand.
//!
//! What is there is asserted, not only what was called. Requests that GitHub would not take are answered as GitHub does, and what the
//! documented request has no place for is a panic of the server, which a test sees as an answer of 500.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State as Shared;
use axum::response::Response;
use http::{HeaderMap, Method, StatusCode, Uri};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The login of our own App, and the token that the tests give where there is none.
pub const OWN: &str = "mindos[bot]";
pub const TOKEN: &str = "ghp_hush";

/// What happens to a request instead of, or beside, what it asks for.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Answered so, and nothing is done.
    Refused(u16, Vec<(&'static str, String)>, Value),
    /// Done, and never answered.
    Silent,
    /// Done, and the answer breaks off.
    Cut,
    /// Done, and answered with a page of a proxy.
    Gateway,
}

#[derive(Clone, Debug, Default)]
pub struct Issue {
    pub title: String,
    pub body: String,
    pub user: String,
    pub open: bool,
    pub labels: BTreeSet<String>,
    pub comments: Vec<Value>,
    pub reactions: Vec<(String, String)>,
    /// Of a pull request.
    pub pull: Option<Pull>,
}

#[derive(Clone, Debug, Default)]
pub struct Pull {
    pub head: String,
    pub base: String,
    pub draft: bool,
    pub reviews: Vec<Value>,
    /// Files and the patch that is shown of each.
    pub files: Vec<(String, Option<String>)>,
}

pub type Tree = BTreeMap<String, (String, String)>;

#[derive(Debug, Default)]
pub struct State {
    pub refs: BTreeMap<String, String>,
    pub commits: BTreeMap<String, Value>,
    pub trees: BTreeMap<String, Tree>,
    pub blobs: BTreeMap<String, Vec<u8>>,
    pub labels: BTreeSet<String>,
    pub issues: BTreeMap<u64, Issue>,
    pub checks: Vec<Value>,
    /// To comments, by the path of the comment.
    pub reactions: BTreeMap<String, Vec<(String, String)>>,
    /// Content writes that were done, as method and path.
    pub writes: Vec<String>,
    /// Every request, as method, path and query.
    pub requests: Vec<String>,
    /// The next requests that begin with this text meet this fault.
    pub faults: VecDeque<(String, Fault)>,
    /// Tokens that installations were given, with what was asked for.
    pub tokens: BTreeMap<String, Value>,
    pub revoked: BTreeSet<String>,
    pub permissions: Value,
    pub no_drafts: bool,
    next: u64,
}

/// The server.
#[derive(Clone)]
pub struct Forge {
    pub url: String,
    state: Arc<Mutex<State>>,
}

impl Forge {
    /// A repository `octo/hello` with one commit on `main`, an issue 1 and a pull request 2 of `ada`.
    pub async fn start() -> Forge {
        let mut state = State { next: 100, ..State::default() };
        state.permissions = json!({ "contents": "write", "issues": "write", "pull_requests": "write", "checks": "write", "metadata": "read" });
        let blob = state.blob(b"hello\n");
        let tree = Tree::from([("README.md".to_owned(), ("100644".to_owned(), blob))]);
        let tree = state.tree(tree);
        let person = json!({ "name": "ada", "email": "ada@example.com", "date": "2026-01-01T00:00:00Z" });
        let first = state
            .commit(json!({ "message": "first", "tree": tree, "parents": [], "author": person, "committer": person }));
        state.refs.insert("heads/main".to_owned(), first.clone());
        state.refs.insert("heads/feature".to_owned(), first);
        let issue = Issue { title: "broken".to_owned(), user: "ada".to_owned(), open: true, ..Issue::default() };
        let patch = "@@ -1,2 +1,3 @@\n a\n+b\n c".to_owned();
        let files = vec![("src/lib.rs".to_owned(), Some(patch)), ("logo.png".to_owned(), None)];
        let pull = Pull { head: "feature".to_owned(), base: "main".to_owned(), files, ..Pull::default() };
        state.issues.insert(1, issue.clone());
        state.issues.insert(2, Issue { pull: Some(pull), ..issue });
        let state = Arc::new(Mutex::new(state));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(answer).with_state(Arc::clone(&state));
        tokio::spawn(async { axum::serve(listener, router).await });
        Forge { url, state }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The next request that begins so, such as `POST /repos/octo/hello/issues/1/comments`, meets a fault.
    pub fn fault(&self, request: &str, fault: Fault) {
        self.state().faults.push_back((request.to_owned(), fault));
    }

    pub fn comments(&self, number: u64) -> Vec<String> {
        let body = |comment: &Value| comment["body"].as_str().unwrap().to_owned();
        self.state().issues[&number].comments.iter().map(body).collect()
    }

    /// A comment of somebody.
    pub fn say(&self, number: u64, user: &str, body: &str) {
        let mut state = self.state();
        let comment = state.written(user, body);
        state.issues.get_mut(&number).unwrap().comments.push(comment);
    }

    pub fn writes(&self) -> usize {
        self.state().writes.len()
    }

    /// A file at the tip of a branch.
    pub fn file(&self, branch: &str, path: &str) -> Option<String> {
        let state = self.state();
        let commit = &state.commits[&state.refs[&format!("heads/{branch}")]];
        let tree = &state.trees[commit["tree"]["sha"].as_str().unwrap()];
        let (_, blob) = tree.get(path)?;
        Some(String::from_utf8_lossy(&state.blobs[blob]).into_owned())
    }

    /// Messages of a branch's commits, the newest first, by first parents.
    pub fn log(&self, branch: &str) -> Vec<String> {
        let state = self.state();
        let mut next = state.refs.get(&format!("heads/{branch}")).cloned();
        let mut log = Vec::new();
        while let Some(sha) = next {
            let commit = &state.commits[&sha];
            log.push(commit["message"].as_str().unwrap().lines().next().unwrap_or_default().to_owned());
            next = commit["parents"][0]["sha"].as_str().map(str::to_owned);
        }
        log
    }

    /// Somebody commits a file to a branch.
    pub fn push(&self, branch: &str, user: &str, path: &str, text: &str, date: &str) -> String {
        let mut state = self.state();
        let name = format!("heads/{branch}");
        let tip = state.refs[&name].clone();
        let mut tree = state.trees[state.commits[&tip]["tree"]["sha"].as_str().unwrap()].clone();
        let blob = state.blob(text.as_bytes());
        tree.insert(path.to_owned(), ("100644".to_owned(), blob));
        let tree = state.tree(tree);
        let person = json!({ "name": user, "email": format!("{user}@example.com"), "date": date });
        let body = json!({ "message": format!("{path} by {user}"), "tree": tree, "parents": [tip], "author": person, "committer": person });
        let sha = state.commit(body);
        state.refs.insert(name, sha.clone());
        sha
    }
}

fn sha(bytes: &[u8]) -> String {
    let mut text = String::new();
    Sha256::digest(bytes).iter().take(20).for_each(|byte| write!(text, "{byte:02x}").unwrap());
    text
}

impl State {
    fn id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn blob(&mut self, bytes: &[u8]) -> String {
        let sha = sha(bytes);
        self.blobs.insert(sha.clone(), bytes.to_vec());
        sha
    }

    fn tree(&mut self, tree: Tree) -> String {
        let sha = sha(format!("{tree:?}").as_bytes());
        self.trees.insert(sha.clone(), tree);
        sha
    }

    fn commit(&mut self, body: Value) -> String {
        let sha = sha(body.to_string().as_bytes());
        let parents: Vec<Value> = body["parents"].as_array().unwrap().iter().map(|sha| json!({ "sha": sha })).collect();
        let commit = json!({ "sha": sha, "message": body["message"], "tree": { "sha": body["tree"] }, "parents": parents,
            "author": body["author"], "committer": body["committer"], "html_url": format!("https://forge/commit/{sha}") });
        self.commits.insert(sha.clone(), commit);
        sha
    }

    fn written(&mut self, user: &str, body: &str) -> Value {
        let id = self.id();
        json!({ "id": id, "body": body, "user": { "login": user }, "html_url": format!("https://forge/said/{id}") })
    }

    fn ancestors(&self, of: &str) -> Vec<String> {
        let (mut seen, mut next) = (Vec::new(), VecDeque::from([of.to_owned()]));
        while let Some(sha) = next.pop_front() {
            if seen.contains(&sha) {
                continue;
            }
            let parents = self.commits[&sha]["parents"].as_array().unwrap();
            next.extend(parents.iter().map(|parent| parent["sha"].as_str().unwrap().to_owned()));
            seen.push(sha);
        }
        seen
    }

    fn issue(&self, number: u64) -> Value {
        let issue = &self.issues[&number];
        let mut shown = json!({ "id": number * 1000, "number": number, "title": issue.title, "body": issue.body,
            "state": if issue.open { "open" } else { "closed" }, "user": { "login": issue.user },
            "html_url": format!("https://forge/{number}") });
        if let Some(pull) = &issue.pull {
            let end = |branch: &str| json!({ "ref": branch, "sha": self.refs.get(&format!("heads/{branch}")) });
            shown["head"] = end(&pull.head);
            shown["base"] = end(&pull.base);
            shown["draft"] = json!(pull.draft);
        }
        shown
    }
}

async fn answer(
    Shared(state): Shared<Arc<Mutex<State>>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let request = format!("{method} {uri}");
    let fault = {
        let mut state = state.lock().unwrap();
        state.requests.push(request.clone());
        let at = state.faults.iter().position(|(prefix, _)| request.starts_with(prefix.as_str()));
        at.and_then(|at| state.faults.remove(at)).map(|(_, fault)| fault)
    };
    if let Some(Fault::Refused(status, headers, body)) = &fault {
        let mut response = Response::builder().status(*status);
        for (name, value) in headers {
            response = response.header(*name, value);
        }
        return response.body(Body::from(body.to_string())).unwrap();
    }
    assert_eq!(headers["accept"], "application/vnd.github+json");
    assert_eq!(headers["x-github-api-version"], "2022-11-28");
    assert!(headers["user-agent"].to_str().unwrap().starts_with("mindos/"));
    let bearer = headers["authorization"].to_str().unwrap().strip_prefix("Bearer ").unwrap().to_owned();
    let body: Value = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
    let (status, link, value) = state.lock().unwrap().serve(&method, &uri, &bearer, &body);
    match fault {
        Some(Fault::Silent) => std::future::pending().await,
        Some(Fault::Gateway) => Response::builder().status(502).body(Body::from("<html>bad gateway</html>")).unwrap(),
        Some(Fault::Cut) => {
            let text = value.to_string();
            Response::builder().status(status).body(Body::from(text[..text.len() / 2].to_owned())).unwrap()
        }
        _ => {
            let mut response = Response::builder().status(status);
            if let Some(link) = link {
                response = response.header("link", link);
            }
            let body = if value.is_null() { Body::empty() } else { Body::from(value.to_string()) };
            response.body(body).unwrap()
        }
    }
}

type Served = (StatusCode, Option<String>, Value);

fn say(status: u16, message: &str) -> Served {
    (StatusCode::from_u16(status).unwrap(), None, json!({ "message": message }))
}

fn made(value: Value) -> Served {
    (StatusCode::CREATED, None, value)
}

fn ok(value: Value) -> Served {
    (StatusCode::OK, None, value)
}

/// Nothing but these members, and the needed ones of them.
fn only(body: &Value, needed: &[&str], more: &[&str]) {
    let members = body.as_object().expect("a request has a body that is an object");
    for name in needed {
        assert!(members.contains_key(*name), "`{name}` is missing in {body}");
    }
    for name in members.keys() {
        assert!(needed.contains(&name.as_str()) || more.contains(&name.as_str()), "`{name}` is not documented: {body}");
    }
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let hex = [rest.next().unwrap(), rest.next().unwrap()];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&hex).unwrap(), 16).unwrap());
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).unwrap()
}

impl State {
    fn serve(&mut self, method: &Method, uri: &Uri, bearer: &str, body: &Value) -> Served {
        let parts: Vec<String> = uri.path().split('/').skip(1).map(decode).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let query: BTreeMap<String, String> = uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.split_once('=').map(|(name, value)| (name.to_owned(), decode(value))))
            .collect();
        let is_jwt = bearer.split('.').count() == 3;
        match (method.as_str(), parts.as_slice()) {
            ("GET", ["app"]) if is_jwt => return ok(json!({ "id": 1, "slug": "mindos" })),
            ("GET", ["repos", "octo", "hello", "installation"]) if is_jwt => {
                return ok(json!({ "id": 42, "permissions": self.permissions }));
            }
            ("GET", ["repos", _, _, "installation"]) if is_jwt => return say(404, "Not Found"),
            ("POST", ["app", "installations", "42", "access_tokens"]) if is_jwt => {
                only(body, &["repositories", "permissions"], &[]);
                let token = format!("ghs_{}", self.id());
                self.tokens.insert(token.clone(), body.clone());
                return made(
                    json!({ "token": token, "expires_at": "2099-01-01T00:00:00Z", "permissions": body["permissions"] }),
                );
            }
            ("DELETE", ["installation", "token"]) if self.tokens.contains_key(bearer) => {
                self.revoked.insert(bearer.to_owned());
                self.tokens.remove(bearer);
                return (StatusCode::NO_CONTENT, None, Value::Null);
            }
            _ => {}
        }
        if bearer != TOKEN && !self.tokens.contains_key(bearer) {
            return say(401, "Bad credentials");
        }
        if let ("GET", ["user"]) = (method.as_str(), parts.as_slice()) {
            return ok(json!({ "login": OWN }));
        }
        let ["repos", "octo", "hello", rest @ ..] = parts.as_slice() else { return say(404, "Not Found") };
        let (rest, writes) = (rest.to_vec(), self.writes.len());
        if *method != Method::GET {
            self.writes.push(format!("{method} {}", uri.path()));
        }
        let served = self.repository(method.as_str(), &rest, &query, body);
        if served.0.is_client_error() {
            self.writes.truncate(writes);
        }
        page(served, &query, uri)
    }

    fn repository(&mut self, method: &str, rest: &[&str], query: &BTreeMap<String, String>, body: &Value) -> Served {
        let number = |text: &str| text.parse::<u64>().unwrap();
        match (method, rest) {
            ("GET", []) => ok(
                json!({ "default_branch": "main", "clone_url": "https://forge/octo/hello.git", "full_name": "octo/hello" }),
            ),
            (_, ["issues", n, ..]) if n.parse::<u64>().is_ok_and(|n| !self.issues.contains_key(&n)) => {
                say(404, "Not Found")
            }
            (_, ["pulls", n, ..])
                if n.parse().is_ok_and(|n: u64| self.issues.get(&n).is_none_or(|issue| issue.pull.is_none())) =>
            {
                say(404, "Not Found")
            }
            ("GET", ["issues", n, "comments"]) => ok(json!(self.issues[&number(n)].comments)),
            ("POST", ["issues", n, "comments"]) => {
                only(body, &["body"], &[]);
                let comment = self.written(OWN, body["body"].as_str().unwrap());
                self.issues.get_mut(&number(n)).unwrap().comments.push(comment.clone());
                made(comment)
            }
            ("PATCH", ["issues", "comments", id]) => {
                only(body, &["body"], &[]);
                let all = self.issues.values_mut().flat_map(|issue| issue.comments.iter_mut());
                let Some(comment) = all.into_iter().find(|comment| comment["id"] == number(id)) else {
                    return say(404, "Not Found");
                };
                if comment["user"]["login"] != OWN {
                    return say(403, "Resource not accessible");
                }
                comment["body"] = body["body"].clone();
                ok(comment.clone())
            }
            ("GET", ["pulls", n, "reviews"]) => ok(json!(self.issues[&number(n)].pull.as_ref().unwrap().reviews)),
            ("POST", ["pulls", n, "reviews"]) => self.review(number(n), body),
            ("GET", ["pulls", n, "files"]) => {
                let files = &self.issues[&number(n)].pull.as_ref().unwrap().files;
                let file = |(name, patch): &(String, Option<String>)| {
                    let mut file = json!({ "filename": name });
                    if let Some(patch) = patch {
                        file["patch"] = json!(patch);
                    }
                    file
                };
                ok(files.iter().map(file).collect())
            }
            ("GET", ["commits", sha, "check-runs"]) => {
                let fits = |run: &&Value| run["head_sha"] == *sha && run["name"] == query["check_name"];
                let runs: Vec<_> = self.checks.iter().filter(fits).cloned().collect();
                ok(json!({ "total_count": runs.len(), "check_runs": runs }))
            }
            ("POST", ["check-runs"]) => {
                only(body, &["name", "head_sha"], &["external_id", "status", "conclusion", "output"]);
                let id = self.id();
                let mut run = body.clone();
                run["id"] = json!(id);
                run["html_url"] = json!(format!("https://forge/check/{id}"));
                run["output"] = output(&json!({}), &body["output"]);
                self.checks.push(run.clone());
                made(run)
            }
            ("PATCH", ["check-runs", id]) => {
                let id = number(id);
                let run = self.checks.iter_mut().find(|run| run["id"] == id).unwrap();
                run["output"] = output(&run["output"], &body["output"]);
                ok(run.clone())
            }
            ("GET", ["issues", n, "labels"]) => {
                ok(self.issues[&number(n)].labels.iter().map(|name| json!({ "name": name })).collect())
            }
            ("POST", ["issues", n, "labels"]) => {
                only(body, &["labels"], &[]);
                let added: Vec<String> = serde_json::from_value(body["labels"].clone()).unwrap();
                assert!(added.iter().all(|name| self.labels.contains(name)), "labels have to be made first");
                let labels = &mut self.issues.get_mut(&number(n)).unwrap().labels;
                labels.extend(added);
                ok(labels.iter().map(|name| json!({ "name": name })).collect())
            }
            ("DELETE", ["issues", n, "labels", name]) => {
                match self.issues.get_mut(&number(n)).unwrap().labels.remove(*name) {
                    true => ok(json!([])),
                    false => say(404, "Label does not exist"),
                }
            }
            ("GET", ["labels", name]) if self.labels.contains(*name) => ok(json!({ "name": name })),
            ("POST", ["labels"]) => {
                only(body, &["name"], &["color", "description"]);
                match self.labels.insert(body["name"].as_str().unwrap().to_owned()) {
                    true => made(body.clone()),
                    false => say(422, "Validation Failed: already_exists"),
                }
            }
            ("GET", ["issues", n, "reactions"]) => {
                let all = self.issues[&number(n)].reactions.iter();
                let fits = all.filter(|(_, content)| *content == query["content"]);
                ok(fits
                    .map(|(user, content)| json!({ "id": 7, "user": { "login": user }, "content": content }))
                    .collect())
            }
            ("POST", ["issues", n, "reactions"]) => {
                only(body, &["content"], &[]);
                let content = body["content"].as_str().unwrap().to_owned();
                let reactions = &mut self.issues.get_mut(&number(n)).unwrap().reactions;
                let own = (OWN.to_owned(), content);
                let shown = json!({ "id": 7, "user": { "login": OWN }, "content": body["content"] });
                if reactions.contains(&own) {
                    return ok(shown);
                }
                reactions.push(own);
                made(shown)
            }
            (_, [part @ ("issues" | "pulls"), "comments", id, "reactions"]) => {
                let reactions = self.reactions.entry(format!("{part}/comments/{id}")).or_default();
                let shown =
                    |user: &str, content: &str| json!({ "id": 8, "user": { "login": user }, "content": content });
                if method == "GET" {
                    let fits = reactions.iter().filter(|(_, content)| *content == query["content"]);
                    return ok(fits.map(|(user, content)| shown(user, content)).collect());
                }
                only(body, &["content"], &[]);
                let content = body["content"].as_str().unwrap().to_owned();
                reactions.push((OWN.to_owned(), content.clone()));
                made(shown(OWN, &content))
            }
            ("GET", ["issues"]) => {
                let fits = |(_, issue): &(&u64, &Issue)| issue.user == query["creator"];
                assert_eq!((query["state"].as_str(), query["direction"].as_str()), ("all", "desc"));
                let all: Vec<u64> = self.issues.iter().rev().filter(fits).map(|(number, _)| *number).collect();
                ok(all.into_iter().map(|number| self.issue(number)).collect())
            }
            ("POST", ["issues"]) => {
                only(body, &["title"], &["body", "labels"]);
                let number = self.id();
                let labels = body["labels"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned());
                let issue = Issue {
                    title: body["title"].as_str().unwrap().to_owned(),
                    body: body["body"].as_str().unwrap().to_owned(),
                    user: OWN.to_owned(),
                    open: true,
                    labels: labels.collect(),
                    ..Issue::default()
                };
                self.issues.insert(number, issue);
                made(self.issue(number))
            }
            (_, ["git" | "compare", ..]) => self.git(method, rest, query, body),
            (_, ["pulls", ..]) => self.pulls(method, rest, query, body),
            _ => say(404, "Not Found"),
        }
    }

    fn review(&mut self, number: u64, body: &Value) -> Served {
        only(body, &["event"], &["commit_id", "body", "comments"]);
        let own = self.issues[&number].user == OWN;
        if own && body["event"] != "COMMENT" {
            return say(422, "Unprocessable Entity: Can not request changes on your own pull request");
        }
        let pull = self.issues[&number].pull.as_ref().unwrap();
        for comment in body["comments"].as_array().into_iter().flatten() {
            only(comment, &["path", "body"], &["line", "side", "start_line", "start_side"]);
            let patch =
                pull.files.iter().find(|(name, _)| comment["path"] == **name).and_then(|(_, patch)| patch.as_ref());
            let in_diff = patch.is_some() && (1..=3).contains(&comment["line"].as_u64().unwrap());
            if !in_diff {
                let errors = json!(["Pull request review thread line must be part of the diff"]);
                return (
                    StatusCode::UNPROCESSABLE_ENTITY,
                    None,
                    json!({ "message": "Unprocessable Entity", "errors": errors }),
                );
            }
        }
        let mut review = self.written(OWN, body["body"].as_str().unwrap());
        review["comments"] = body["comments"].clone();
        review["event"] = body["event"].clone();
        self.issues.get_mut(&number).unwrap().pull.as_mut().unwrap().reviews.push(review.clone());
        ok(review)
    }

    fn pulls(&mut self, method: &str, rest: &[&str], query: &BTreeMap<String, String>, body: &Value) -> Served {
        match (method, rest) {
            ("GET", ["pulls"]) => {
                let (owner, head) = query["head"].split_once(':').unwrap();
                assert_eq!((owner, query["state"].as_str()), ("octo", "all"));
                let fits = |(_, issue): &(&u64, &Issue)| issue.pull.as_ref().is_some_and(|pull| pull.head == head);
                let all: Vec<u64> = self.issues.iter().rev().filter(fits).map(|(number, _)| *number).collect();
                ok(all.into_iter().map(|number| self.issue(number)).collect())
            }
            ("POST", ["pulls"]) => {
                only(body, &["title", "head", "base"], &["body", "draft"]);
                let text = |name: &str| body[name].as_str().unwrap().to_owned();
                let (head, base, draft) = (text("head"), text("base"), body["draft"] == true);
                if draft && self.no_drafts {
                    return say(422, "Draft pull requests are not supported in this repository.");
                }
                let same = |issue: &&Issue| issue.open && issue.pull.as_ref().is_some_and(|pull| pull.head == head);
                if self.issues.values().any(|issue| same(&issue)) {
                    return say(422, "Validation Failed: A pull request already exists for octo:x.");
                }
                let tip = |branch: &str| self.refs.get(&format!("heads/{branch}"));
                if tip(&head).is_none() || tip(&head) == tip(&base) {
                    return say(422, &format!("Validation Failed: No commits between {base} and {head}"));
                }
                let number = self.id();
                let pull = Pull { head, base, draft, ..Pull::default() };
                let issue = Issue {
                    title: text("title"),
                    body: text("body"),
                    user: OWN.to_owned(),
                    open: true,
                    pull: Some(pull),
                    ..Issue::default()
                };
                self.issues.insert(number, issue);
                made(self.issue(number))
            }
            ("PATCH", ["pulls", n]) => {
                only(body, &[], &["title", "body", "base", "state"]);
                let number = n.parse().unwrap();
                let issue = self.issues.get_mut(&number).unwrap();
                issue.title = body["title"].as_str().unwrap().to_owned();
                issue.body = body["body"].as_str().unwrap().to_owned();
                ok(self.issue(number))
            }
            _ => say(404, "Not Found"),
        }
    }

    fn git(&mut self, method: &str, rest: &[&str], query: &BTreeMap<String, String>, body: &Value) -> Served {
        match (method, rest) {
            ("GET", ["git", "ref", name]) => match self.refs.get(*name) {
                Some(sha) => ok(json!({ "ref": format!("refs/{name}"), "object": { "sha": sha, "type": "commit" } })),
                None => say(404, "Not Found"),
            },
            ("POST", ["git", "refs"]) => {
                only(body, &["ref", "sha"], &[]);
                let name = body["ref"].as_str().unwrap().strip_prefix("refs/").unwrap().to_owned();
                let sha = body["sha"].as_str().unwrap().to_owned();
                assert!(self.commits.contains_key(&sha));
                if self.refs.contains_key(&name) {
                    return say(422, "Reference already exists");
                }
                self.refs.insert(name, sha.clone());
                made(json!({ "ref": body["ref"], "object": { "sha": sha } }))
            }
            ("PATCH", ["git", "refs", name]) => {
                only(body, &["sha", "force"], &[]);
                assert_eq!(body["force"], false, "nothing is forced");
                let sha = body["sha"].as_str().unwrap().to_owned();
                let Some(old) = self.refs.get(*name) else { return say(422, "Reference does not exist") };
                if !self.ancestors(&sha).contains(old) {
                    return say(422, "Update is not a fast forward");
                }
                self.refs.insert((*name).to_owned(), sha.clone());
                ok(json!({ "ref": format!("refs/{name}"), "object": { "sha": sha } }))
            }
            ("GET", ["git", "commits", sha]) => match self.commits.get(*sha) {
                Some(commit) => ok(commit.clone()),
                None => say(404, "Not Found"),
            },
            ("POST", ["git", "commits"]) => {
                only(body, &["message", "tree"], &["parents", "author", "committer"]);
                assert!(self.trees.contains_key(body["tree"].as_str().unwrap()));
                let sha = self.commit(body.clone());
                made(self.commits[&sha].clone())
            }
            ("GET", ["git", "trees", sha]) => {
                assert_eq!(query["recursive"], "1");
                let entry = |(path, (mode, sha)): (&String, &(String, String))| json!({ "path": path, "mode": mode, "sha": sha, "type": "blob" });
                let entries: Vec<_> = self.trees[*sha].iter().map(entry).collect();
                ok(json!({ "sha": sha, "tree": entries, "truncated": false }))
            }
            ("POST", ["git", "trees"]) => {
                only(body, &["tree"], &["base_tree"]);
                let mut tree = self.trees[body["base_tree"].as_str().unwrap()].clone();
                for entry in body["tree"].as_array().unwrap() {
                    only(entry, &["path", "mode", "type"], &["sha", "content"]);
                    let path = entry["path"].as_str().unwrap().to_owned();
                    let sha = match (&entry["content"], &entry["sha"]) {
                        (Value::String(text), _) => self.blob(text.as_bytes()),
                        (_, Value::String(sha)) => sha.clone(),
                        _ if tree.remove(&path).is_some() => continue,
                        _ => return say(422, "GitRPC::BadObjectState"),
                    };
                    tree.insert(path, (entry["mode"].as_str().unwrap().to_owned(), sha));
                }
                let sha = self.tree(tree);
                made(json!({ "sha": sha }))
            }
            ("POST", ["git", "blobs"]) => {
                only(body, &["content", "encoding"], &[]);
                assert_eq!(body["encoding"], "base64");
                let sha = self.blob(format!("base64 {}", body["content"].as_str().unwrap()).as_bytes());
                made(json!({ "sha": sha }))
            }
            ("GET", ["compare", ends]) => {
                let (base, head) = ends.split_once("...").unwrap();
                let (of_base, of_head) = (self.ancestors(base), self.ancestors(head));
                let ahead: Vec<_> = of_head.iter().filter(|sha| !of_base.contains(sha)).rev().collect();
                let behind = of_base.iter().any(|sha| !of_head.contains(sha));
                let status = match (ahead.is_empty(), behind) {
                    (true, false) => "identical",
                    (true, true) => "behind",
                    (false, false) => "ahead",
                    (false, true) => "diverged",
                };
                let tree = |sha: &str| &self.trees[self.commits[sha]["tree"]["sha"].as_str().unwrap()];
                let (old, new) = (tree(base), tree(head));
                let paths: BTreeSet<_> =
                    old.keys().chain(new.keys()).filter(|path| old.get(*path) != new.get(*path)).collect();
                let files: Vec<_> = paths.into_iter().map(|path| json!({ "filename": path })).collect();
                let commits: Vec<_> =
                    ahead.iter().map(|sha| json!({ "sha": sha, "commit": self.commits[*sha] })).collect();
                ok(json!({ "status": status, "total_commits": commits.len(), "commits": commits, "files": files }))
            }
            _ => say(404, "Not Found"),
        }
    }
}

fn output(old: &Value, new: &Value) -> Value {
    only(new, &["summary"], &["title", "text", "annotations"]);
    let annotations = new["annotations"].as_array().map_or(0, Vec::len);
    assert!(annotations <= 50, "GitHub takes 50 annotations at a time");
    let count = old["annotations_count"].as_u64().unwrap_or(0) + annotations as u64;
    json!({ "title": new["title"], "summary": new["summary"], "annotations_count": count })
}

/// Lists come in pages.
fn page(served: Served, query: &BTreeMap<String, String>, uri: &Uri) -> Served {
    let (status, _, value) = served;
    let (Some(size), Some(page)) = (query.get("per_page"), query.get("page")) else { return (status, None, value) };
    let (size, page): (usize, usize) = (size.parse().unwrap(), page.parse().unwrap());
    let cut = |items: &Vec<Value>| -> (Vec<Value>, bool) {
        let part = items.iter().skip((page - 1) * size).take(size).cloned().collect();
        (part, items.len() > page * size)
    };
    let (value, more) = match &value {
        Value::Array(items) => {
            let (part, more) = cut(items);
            (json!(part), more)
        }
        Value::Object(members) if members.contains_key("check_runs") => {
            let (part, more) = cut(members["check_runs"].as_array().unwrap());
            (json!({ "total_count": members["total_count"], "check_runs": part }), more)
        }
        _ => (value, false),
    };
    let link = more.then(|| {
        format!("<https://forge{}?page={}>; rel=\"next\", <https://forge/last>; rel=\"last\"", uri.path(), page + 1)
    });
    (status, link, value)
}

/// A moment that is short for people and long for loopback.
pub const MOMENT: Duration = Duration::from_millis(300);
