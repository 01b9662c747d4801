//! The forge: git over smart HTTP, a stub of GitHub and model servers, as real processes on loopback (`tests/forge`).
//!
//! ```text
//!   control plane, generals --> prism --> stub of GitHub --> bare repositories <-- git http-backend <-- generals
//!   generals --> models.py (holds what it is told to) --> aimock
//! ```
//! Prism and aimock need Node: with `MINDOS_FORGE_NODE` naming a folder with `node_modules` they stand in between, else the stub is asked itself and
//! `models.py` answers from the same fixtures. Invariant: what is judged is what the stub, the repositories and the model server hold in the end.

pub mod cold;
pub mod heard;
pub mod injured;
pub mod many;
pub mod money;
pub mod plan;
pub mod reviews;
pub mod team;
pub mod triage;
pub mod trouble;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::process::Process;
use crate::world::{free_address, http};

/// The App's id at the stub.
pub const APP: u64 = 7;
/// Login of the App's own user.
pub const BOT: &str = "mindos[bot]";
/// Who owns the repositories.
pub const OWNER: &str = "ada";

/// A server whose requests can be held, dropped and refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Github,
    Models,
}

/// What a model server counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Calls that were answered as a whole.
    pub calls: u64,
    /// Tokens that were asked in them.
    pub input: u64,
    /// Tokens that were answered in them.
    pub output: u64,
    /// What these cost by [`team::PRICES`], in millionths, each call rounded up.
    pub cost: u64,
    /// Calls whose answer was cut, and the tokens that were asked in them.
    pub cut: u64,
    pub cut_input: u64,
    /// Most tokens that may have arrived of those.
    pub cut_output: u64,
    /// Calls that were refused for a limit.
    pub limited: u64,
}

impl Counted {
    /// Adds another's.
    pub fn add(&mut self, other: Counted) {
        let Counted { calls, input, output, cost, cut, cut_input, cut_output, limited } = other;
        self.calls += calls;
        self.input += input;
        self.output += output;
        self.cost += cost;
        self.cut += cut;
        self.cut_input += cut_input;
        self.cut_output += cut_output;
        self.limited += limited;
    }
}

/// The processes. They go when this is dropped.
#[derive(Debug)]
pub struct Forge {
    /// Host and port of the stub itself.
    stub: String,
    /// URL of the API, as the control plane knows it.
    api: String,
    /// Host and port of the model server, as generals know it.
    models: String,
    /// Host and port of the one that counts.
    counter: String,
    /// Whether Prism and aimock stand in between.
    checked: bool,
    prism_log: Option<PathBuf>,
    _processes: Vec<Process>,
}

/// Where the forge's files are.
#[must_use]
pub fn files() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../forge")
}

/// The key of the App.
#[must_use]
pub fn app_key() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../control-plane/server/src/catch_up/test_key.pem")
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

async fn answers(address: &str, process: &mut Process) -> Result<()> {
    let begun = Instant::now();
    while tokio::net::TcpStream::connect(address).await.is_err() {
        if let Some(status) = process.ended()? {
            bail!("a part of the forge ended with {status}; its log ends: {}", process.log_end());
        }
        ensure!(begun.elapsed() < Duration::from_secs(180), "a part of the forge is not there: {}", process.log_end());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

impl Forge {
    /// Starts it below `folder`, with an App of all permissions installed at [`OWNER`]. Limits pass `scale` times faster than GitHub's.
    ///
    /// # Errors
    /// When a part does not start: `python3` and `git` are needed.
    pub async fn start(folder: &Path, scale: u32) -> Result<Forge> {
        let (files, python, node) =
            (files(), Path::new("/usr/bin/env"), std::env::var_os("MINDOS_FORGE_NODE").map(PathBuf::from));
        let (stub, front, models) = (free_address()?, free_address()?, free_address()?);
        let port = |address: &str| address.rsplit(':').next().unwrap_or_default().to_owned();
        let api = if node.is_some() { format!("http://{front}") } else { format!("http://{stub}") };
        let scale = scale.to_string();
        let run = |name: &str, arguments: &[&str]| {
            let program = files.join(format!("{name}.py")).display().to_string();
            let all = [&["python3", "-B", program.as_str()][..], arguments].concat();
            Process::start_program(python, folder, name, &words(&all))
        };
        let bare = folder.join("repositories").display().to_string();
        std::fs::create_dir_all(&bare).context("failed to make a folder")?;
        let mut github = run(
            "github",
            &["--folder", &bare, "--port", &port(&stub), "--scale", &scale, "--primary", "1000000", "--api-url", &api],
        )?;
        answers(&stub, &mut github).await?;
        let fixtures = files.join("fixtures").display().to_string();
        let mut processes = vec![github];
        let (mut counter, mut prism_log) = (models.clone(), None);
        let upstream = if let Some(node) = &node {
            counter = free_address()?;
            let program = |path: &str| node.join("node_modules").join(path).display().to_string();
            let aimock = [
                "node",
                &program("@copilotkit/aimock/dist/cli.js"),
                "-p",
                &port(&counter),
                "-f",
                &fixtures,
                "--strict",
                "--journal-max",
                "0",
            ];
            let mut aimock = Process::start_program(python, folder, "aimock", &words(&aimock))?;
            answers(&counter, &mut aimock).await?;
            let trimmed = node.join("github-trimmed.json").display().to_string();
            let prism = program("@stoplight/prism-cli/dist/index.js");
            let to = format!("http://{stub}");
            let prism = ["node", &prism, "proxy", "-h", "127.0.0.1", "-p", &port(&front), "--errors", &trimmed, &to];
            let mut prism = Process::start_program(python, folder, "prism", &words(&prism))?;
            answers(&front, &mut prism).await?;
            prism_log = Some(folder.join("prism.log"));
            processes.extend([aimock, prism]);
            vec!["--upstream".to_owned(), format!("http://{counter}")]
        } else {
            vec!["--fixtures".to_owned(), fixtures]
        };
        let upstream: Vec<&str> = upstream.iter().map(String::as_str).collect();
        let mut front = run("models", &[&["--port", &port(&models)][..], &upstream].concat())?;
        answers(&models, &mut front).await?;
        processes.push(front);
        let forge = Forge { stub, api, models, counter, checked: node.is_some(), prism_log, _processes: processes };
        let key = app_key().with_file_name("test_key.pub.der").display().to_string();
        let permissions = json!({"contents": "write", "issues": "write", "pull_requests": "write", "checks": "write", "metadata": "read"});
        forge.admin("user", json!({"login": OWNER, "token": "ada-token"})).await?;
        forge.admin("app", json!({"slug": "mindos", "id": APP, "key_file": key, "permissions": permissions})).await?;
        forge.admin("install", json!({"account": OWNER})).await?;
        Ok(forge)
    }

    /// URL of the API.
    #[must_use]
    pub fn api(&self) -> &str {
        &self.api
    }

    /// URL of the model server.
    #[must_use]
    pub fn models(&self) -> String {
        format!("http://{}", self.models)
    }

    /// Whether every request and answer is held against GitHub's description.
    #[must_use]
    pub fn is_checked(&self) -> bool {
        self.checked
    }

    /// Tells the stub something, by a call of `stub/admin.py`.
    ///
    /// # Errors
    /// When it refuses.
    pub async fn admin(&self, name: &str, body: Value) -> Result<Value> {
        exchange(&self.stub, "POST", &format!("/_admin/{name}"), &body).await
    }

    /// Looks at something in the stub.
    ///
    /// # Errors
    /// When it refuses.
    pub async fn look(&self, name: &str) -> Result<Value> {
        exchange(&self.stub, "GET", &format!("/_admin/{name}"), &Value::Null).await
    }

    /// A call of GitHub's API by somebody; returns its answer.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn by(&self, login: &str, method: &str, path: &str, body: Value) -> Result<Value> {
        let mut answer =
            self.admin("as", json!({"login": login, "method": method, "path": path, "body": body})).await?;
        Ok(answer["body"].take())
    }

    /// Reads something as the owner, up to a hundred items of a list.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn get(&self, path: &str) -> Result<Value> {
        self.by(OWNER, "GET", path, Value::Null).await
    }

    /// A list, as the owner.
    ///
    /// # Errors
    /// When it is refused, or no list.
    pub async fn list(&self, path: &str) -> Result<Vec<Value>> {
        let sign = if path.contains('?') { '&' } else { '?' };
        let answer = self.get(&format!("{path}{sign}per_page=100")).await?;
        answer.as_array().cloned().with_context(|| format!("{path} is no list: {answer}"))
    }

    /// A repository with real code; returns its only commit.
    ///
    /// # Errors
    /// When it is there already.
    pub async fn repository(&self, name: &str) -> Result<String> {
        let folder = files().join("repository").display().to_string();
        let wanted = json!({"full_name": name, "people": {"bob": "write"}, "folder": folder});
        let made = self.admin("repository", wanted).await?;
        Ok(made["sha"].as_str().context("a repository has a commit")?.to_owned())
    }

    /// A commit on a branch as somebody pushes it.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn push(
        &self,
        login: &str,
        repository: &str,
        branch: &str,
        files: Value,
        message: &str,
    ) -> Result<String> {
        let body =
            json!({"login": login, "repository": repository, "branch": branch, "files": files, "message": message});
        let made = self.admin("push", body).await?;
        Ok(made["sha"].as_str().context("a push makes a commit")?.to_owned())
    }

    /// Requests that the stub had, its own bookkeeping left out.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn log(&self) -> Result<Vec<Value>> {
        self.look("log").await?.as_array().cloned().context("a log")
    }

    /// What went wrong in it: refusals for limits, answers that are not GitHub's, requests that nobody could read.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn refusals(&self) -> Result<Vec<String>> {
        let log = self.log().await?;
        let mut bad: Vec<String> = log
            .iter()
            .filter(|one| !one["refused"].is_null() || one["status"].as_u64() == Some(500))
            .map(Value::to_string)
            .collect();
        if let Some(path) = &self.prism_log {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let signs = ["Violation:", "VIOLATIONS", "NO_PATH_MATCHED", "UNPROCESSABLE"];
            // GitHub's description leaves out that any call may be answered by 401: a general that was killed had its token revoked.
            let undescribed = "Unable to match the returned status code";
            let is_bad = |line: &&str| signs.iter().any(|sign| line.contains(sign)) && !line.contains(undescribed);
            bad.extend(text.lines().filter(is_bad).map(str::to_owned));
        }
        Ok(bad)
    }

    fn address(&self, place: Place) -> &str {
        match place {
            Place::Github => &self.stub,
            Place::Models => &self.models,
        }
    }

    /// Lets something go wrong, by the words of `stub/faults.py`; returns its number.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn fault(&self, place: Place, wanted: Value) -> Result<u64> {
        let made = exchange(self.address(place), "POST", "/_admin/fault", &wanted).await?;
        made["id"].as_u64().context("a fault has a number")
    }

    /// Waits until the fault of this number holds a request; returns which.
    ///
    /// # Errors
    /// When it takes longer than `time`.
    pub async fn holds(&self, place: Place, number: u64, time: Duration) -> Result<String> {
        let begun = Instant::now();
        loop {
            let held = exchange(self.address(place), "GET", "/_admin/held", &Value::Null).await?;
            if let Some(what) = held[number.to_string()].as_str() {
                return Ok(what.to_owned());
            }
            ensure!(begun.elapsed() < time, "nothing was held at {place:?} within {time:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Lets everything that is held go on, or with `drop` end without an answer, and takes all faults back.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn let_all_go(&self, drop: bool) -> Result<()> {
        for place in [Place::Github, Place::Models] {
            let held = exchange(self.address(place), "GET", "/_admin/held", &Value::Null).await?;
            for number in held.as_object().into_iter().flat_map(|held| held.keys()) {
                exchange(self.address(place), "POST", "/_admin/release", &json!({"id": number, "drop": drop})).await?;
            }
        }
        self.clear().await
    }

    /// Takes all faults back; what is held loses its connection.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn clear(&self) -> Result<()> {
        for place in [Place::Github, Place::Models] {
            exchange(self.address(place), "POST", "/_admin/clear", &json!({})).await?;
        }
        Ok(())
    }

    /// What the model server was asked and answered.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn journal(&self) -> Result<Vec<Value>> {
        let journal = exchange(&self.counter, "GET", "/__aimock/journal", &Value::Null).await?;
        journal.as_array().cloned().context("a journal is a list")
    }

    /// What the model server counted for what it answered.
    ///
    /// # Errors
    /// When it does not answer, or an answer was not counted.
    pub async fn counted(&self) -> Result<Counted> {
        let mut sum = Counted::default();
        self.counted_by_model().await?.into_values().for_each(|counted| sum.add(counted));
        Ok(sum)
    }

    /// The same by model.
    ///
    /// # Errors
    /// When it does not answer, or an answer was not counted.
    pub async fn counted_by_model(&self) -> Result<BTreeMap<String, Counted>> {
        let mut by_model: BTreeMap<String, Counted> = BTreeMap::new();
        for call in self.journal().await? {
            let model = call["body"]["model"].as_str().context("a call names its model")?;
            let counted = by_model.entry(model.to_owned()).or_default();
            match call["response"]["status"].as_u64() {
                Some(200) => {}
                Some(429) => {
                    counted.limited += 1;
                    continue;
                }
                _ => continue,
            }
            let fixture = &call["response"]["fixture"];
            let usage = &fixture["response"]["usage"];
            let number =
                |name: &str| usage[name].as_u64().with_context(|| format!("an answer that is not counted: {call}"));
            let (mut input, mut output) = (number("input_tokens")?, number("output_tokens")?);
            // Of Ollama's dialect aimock says that everything took no token.
            if self.checked && call["path"] == "/api/chat" {
                (input, output) = (0, 0);
            }
            if fixture["truncateAfterChunks"].is_null() {
                (counted.calls, counted.input, counted.output) =
                    (counted.calls + 1, counted.input + input, counted.output + output);
                counted.cost += team::cost_micros(model, input, output);
            } else {
                counted.cut += 1;
                counted.cut_input += input;
                counted.cut_output += output;
            }
        }
        Ok(by_model)
    }
}

async fn exchange(address: &str, method: &str, path: &str, body: &Value) -> Result<Value> {
    let body = if body.is_null() { Vec::new() } else { serde_json::to_vec(body).context("JSON")? };
    let (status, answer) = http(address, method, path, &[("content-type", "application/json")], &body).await?;
    // Chunks, where the answer comes in some.
    let answer = unchunked(answer);
    ensure!(status == 200, "{method} {path} answered {status}: {}", String::from_utf8_lossy(&answer));
    serde_json::from_slice(&answer)
        .with_context(|| format!("{method} {path} answered no JSON: {}", String::from_utf8_lossy(&answer)))
}

/// The body behind the sizes of chunks; itself where there are none.
fn unchunked(body: Vec<u8>) -> Vec<u8> {
    if body.first().is_some_and(|first| b"{[".contains(first)) {
        return body;
    }
    let (mut rest, mut whole) = (&body[..], Vec::new());
    while let Some(at) = rest.windows(2).position(|two| two == b"\r\n") {
        let size = std::str::from_utf8(&rest[..at]).ok().and_then(|text| usize::from_str_radix(text.trim(), 16).ok());
        let Some(size) = size.filter(|size| *size > 0 && at + 2 + size <= rest.len()) else { break };
        whole.extend_from_slice(&rest[at + 2..at + 2 + size]);
        rest = rest.get(at + 4 + size..).unwrap_or_default();
    }
    whole
}
