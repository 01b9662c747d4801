//! What a coding agent meets in tests: a repository over git's smart HTTP, the forge's API as far as it is read, and a model that says
//! what the test wrote down. One server, in this process.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};

pub(crate) const AUTHOR: &str = "mindos[bot]";
pub(crate) const TOKEN: &str = "read-token-of-one-lease";

#[derive(Default)]
struct Said {
    /// Answers by path; what is not there is 404.
    api: BTreeMap<String, Value>,
    /// What the model says, one after the other.
    answers: Vec<String>,
    /// What the model was asked.
    asked: Vec<Value>,
}

pub(crate) struct Stand {
    pub folder: tempfile::TempDir,
    port: u16,
    said: Arc<Mutex<Said>>,
}

/// How a run of the program ended.
pub(crate) struct Ran {
    pub report: Option<Value>,
    pub errors: String,
}

impl Ran {
    pub(crate) fn effects(&self) -> Vec<Value> {
        let report = self.report.as_ref().unwrap_or_else(|| panic!("no report: {}", self.errors));
        report["effects"].as_array().unwrap().clone()
    }

    pub(crate) fn kinds(&self) -> Vec<String> {
        self.effects().iter().map(|effect| effect["kind"].as_str().unwrap().to_owned()).collect()
    }
}

impl Stand {
    /// With a repository of these files, whose default branch is `trunk`.
    pub(crate) fn with(files: &[(&str, &str)]) -> Stand {
        let folder = tempfile::tempdir().unwrap();
        let work = folder.path().join("work");
        fs::create_dir_all(&work).unwrap();
        git(&work, &["init", "--quiet", "--initial-branch=trunk"]);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let stand = Stand { folder, port, said: Arc::default() };
        stand.commit("trunk", files);
        git(stand.folder.path(), &["clone", "--quiet", "--bare", "work", "git/o/r.git"]);
        stand.answer("", json!({"default_branch": "trunk"}));
        let (said, root) = (Arc::clone(&stand.said), stand.folder.path().join("git"));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (said, root) = (Arc::clone(&said), root.clone());
                thread::spawn(move || serve(stream, &said, &root));
            }
        });
        stand
    }

    /// A commit on a branch of the repository, made where it is not there.
    pub(crate) fn commit(&self, branch: &str, files: &[(&str, &str)]) -> String {
        let work = self.folder.path().join("work");
        if branch != "trunk" {
            git(&work, &["checkout", "--quiet", "-B", branch]);
        }
        for (path, text) in files {
            let place = work.join(path);
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            fs::write(place, text).unwrap();
        }
        git(&work, &["add", "--all"]);
        git(
            &work,
            &["-c", "user.name=p", "-c", "user.email=p@localhost", "commit", "--quiet", "--allow-empty", "-m", "work"],
        );
        if branch != "trunk" {
            git(&work, &["push", "--quiet", "--force", "../git/o/r.git", branch]);
        }
        git(&work, &["rev-parse", "HEAD"]).trim().to_owned()
    }

    /// What the API answers below the repository.
    pub(crate) fn answer(&self, path: &str, value: Value) {
        self.said.lock().unwrap().api.insert(format!("/api/repos/o/r{path}"), value);
    }

    pub(crate) fn issue(&self, number: u64, title: &str, body: &str) {
        let user = json!({"login": "somebody"});
        self.answer(
            &format!("/issues/{number}"),
            json!({"number": number, "title": title, "body": body, "state": "open", "user": user, "labels": []}),
        );
    }

    pub(crate) fn pull(&self, number: u64, branch: &str, author: &str, body: &str) {
        let repo = json!({"full_name": "o/r"});
        let side = |name: &str| json!({"ref": name, "sha": "0".repeat(40), "repo": repo});
        self.answer(
            &format!("/pulls/{number}"),
            json!({"number": number, "title": "t", "body": body, "state": "open", "user": {"login": author}, "head": side(branch), "base": side("trunk"), "labels": []}),
        );
        self.answer(&format!("/pulls/{number}/files"), json!([]));
    }

    /// A file as the API shows it on the base branch.
    pub(crate) fn on_base(&self, path: &str, text: &str) {
        let bytes: Vec<u8> = text.bytes().collect();
        let value =
            json!({"type": "file", "encoding": "base64", "size": text.len(), "sha": "1", "content": base64(&bytes)});
        self.answer(&format!("/contents/{path}"), value);
    }

    pub(crate) fn model_says(&self, answer: impl Into<String>) {
        self.said.lock().unwrap().answers.push(answer.into());
    }

    pub(crate) fn edits(&self, edits: Value) {
        self.model_says(json!({"summary": "Did it.", "edits": edits}).to_string());
    }

    pub(crate) fn asked(&self) -> Vec<Value> {
        self.said.lock().unwrap().asked.clone()
    }

    /// Runs the program on one task, with a model where `arguments` do not say otherwise.
    pub(crate) fn run(&self, task: Value, model: bool, arguments: &[&str]) -> Ran {
        let mut data = json!({"repo_url": format!("http://127.0.0.1:{}/git/o/r", self.port), "repository": "o/r", "trigger_user": "somebody"});
        data.as_object_mut().unwrap().extend(task.as_object().unwrap().clone());
        let event = json!({"event_type": "task", "job_id": "1", "data": data});
        let access = json!({
            "repository": "o/r",
            "api_url": format!("http://127.0.0.1:{}/api", self.port),
            "clone_url": format!("http://127.0.0.1:{}/git/o/r.git", self.port),
            "token": TOKEN,
            "author": AUTHOR,
        });
        let mut command = Command::new(env!("CARGO_BIN_EXE_mindos-general"));
        command.args(["--type", "coding-general", "--stdin"]).args(arguments);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", self.folder.path());
        for (name, folder) in [("RUSTUP_HOME", ".rustup"), ("CARGO_HOME", ".cargo")] {
            let home = || Path::new(&std::env::var_os("HOME").unwrap()).join(folder);
            command.env(name, std::env::var_os(name).map_or_else(home, PathBuf::from));
        }
        command.env("WORKSPACE_DIR", self.workspace()).env("MINDOS_REPOSITORY_ACCESS", access.to_string());
        if model {
            command.args(["--model", "openai:scripted"]);
            command.env("OPENAI_API_KEY", "key").env("OPENAI_BASE_URL", format!("http://127.0.0.1:{}/v1", self.port));
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(event.to_string().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!errors.contains(TOKEN), "{errors}");
        Ran { report: output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap()), errors }
    }

    fn workspace(&self) -> PathBuf {
        self.folder.path().join("workspace")
    }

    /// What tasks left behind.
    pub(crate) fn left(&self) -> Vec<PathBuf> {
        fs::read_dir(self.workspace()).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    }
}

fn git(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git").args(arguments).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn base64(bytes: &[u8]) -> String {
    mindos_sdk::base64(bytes)
}

fn serve(mut stream: TcpStream, said: &Mutex<Said>, root: &Path) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    if reader.read_line(&mut line).is_err() {
        return;
    }
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).is_err() || line.trim().is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').unwrap();
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let mut body = Vec::new();
    if headers.get("transfer-encoding").is_some_and(|it| it == "chunked") {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size).unwrap();
            let size = usize::from_str_radix(size.trim(), 16).unwrap();
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk).unwrap();
            body.extend(&chunk[..size]);
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = headers.get("content-length") {
        body.resize(length.parse().unwrap(), 0);
        reader.read_exact(&mut body).unwrap();
    }
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let path = path.replace("%2F", "/");
    let answer = if path.starts_with("/git/") {
        backend(root, &method, path.trim_start_matches("/git"), query, &headers, &body)
    } else if path == "/v1/chat/completions" {
        complete(said, &body)
    } else {
        match said.lock().unwrap().api.get(path.trim_end_matches('/')) {
            Some(value) => whole("200 OK", "application/json", value.to_string().as_bytes()),
            None => whole("404 Not Found", "application/json", b"{\"message\": \"Not Found\"}"),
        }
    };
    let _ = stream.write_all(&answer);
}

fn whole(status: &str, kind: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn complete(said: &Mutex<Said>, body: &[u8]) -> Vec<u8> {
    let asked: Value = serde_json::from_slice(body).unwrap();
    let stream = asked["stream"] == true;
    let mut said = said.lock().unwrap();
    said.asked.push(asked);
    if said.answers.is_empty() {
        return whole(
            "400 Bad Request",
            "application/json",
            b"{\"error\": {\"message\": \"nothing is left to say\", \"type\": \"invalid_request_error\"}}",
        );
    }
    let text = said.answers.remove(0);
    let usage = json!({"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110});
    if !stream {
        let choice = json!({"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"});
        return whole(
            "200 OK",
            "application/json",
            json!({"model": "scripted", "choices": [choice], "usage": usage}).to_string().as_bytes(),
        );
    }
    let piece = |choices: Value, usage: Value| {
        format!("data: {}\n\n", json!({"id": "1", "model": "scripted", "choices": choices, "usage": usage}))
    };
    let pieces = [
        piece(
            json!([{"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": null}]),
            Value::Null,
        ),
        piece(json!([{"index": 0, "delta": {}, "finish_reason": "stop"}]), Value::Null),
        piece(json!([]), usage),
        "data: [DONE]\n\n".to_owned(),
    ];
    whole("200 OK", "text/event-stream", pieces.concat().as_bytes())
}

/// `git http-backend`, for who has the token.
fn backend(
    root: &Path,
    method: &str,
    path: &str,
    query: &str,
    headers: &BTreeMap<String, String>,
    body: &[u8],
) -> Vec<u8> {
    let expected = format!("Basic {}", base64(format!("x-access-token:{TOKEN}").as_bytes()));
    if headers.get("authorization") != Some(&expected) {
        let head = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"git\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        return head.as_bytes().to_vec();
    }
    let mut command = Command::new("git");
    command.arg("http-backend").env("GIT_PROJECT_ROOT", root).env("GIT_HTTP_EXPORT_ALL", "1");
    command.env("REQUEST_METHOD", method).env("PATH_INFO", path).env("QUERY_STRING", query);
    command.env("CONTENT_LENGTH", body.len().to_string()).env("REMOTE_ADDR", "127.0.0.1");
    for (header, variable) in [
        ("content-type", "CONTENT_TYPE"),
        ("git-protocol", "GIT_PROTOCOL"),
        ("content-encoding", "HTTP_CONTENT_ENCODING"),
    ] {
        if let Some(value) = headers.get(header) {
            command.env(variable, value);
        }
    }
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let body = body.to_owned();
    let feeding = thread::spawn(move || {
        let _ = input.write_all(&body);
    });
    let output = child.wait_with_output().unwrap().stdout;
    feeding.join().unwrap();
    let at = output.windows(4).position(|it| it == b"\r\n\r\n").unwrap();
    let head = String::from_utf8_lossy(&output[..at]).into_owned();
    let status = head.lines().find_map(|line| line.strip_prefix("Status: ")).unwrap_or("200 OK").to_owned();
    let kind = head.lines().find_map(|line| line.strip_prefix("Content-Type: ")).unwrap_or("text/plain").to_owned();
    whole(&status, &kind, &output[at + 4..])
}
