//! Models that are programs: `claude`, `gemini`, `aider` and others, asked by a prompt and answering on standard output.
//!
//! | program | is called as | answers |
//! |---|---|---|
//! | `claude` | `claude -p --output-format json ...`, prompt on standard input; tools that act are its own only in a folder that the asker names | JSON with `result`, `usage` and `total_cost_usd` |
//! | `gemini` | `gemini --output-format json ...`, prompt on standard input | JSON with `response` and `stats` |
//! | `aider` | `aider --yes-always --no-detect-urls --no-check-update ... --message-file {prompt_file}` | text |
//! | any other | as it is written, prompt on standard input, or as a file where an argument is `{prompt_file}` | text |
//!
//! Never by a shell, with no more of the environment than it needs, and in an empty folder unless the asker names one. Invariants: what is
//! kept of its output is bounded; when the future is gone, so is the program with all that it started in its process group, and the folder.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::pin::pin;
use std::process::Stdio;
use std::time::Duration;

use mindos_sdk::model::Secret;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process;

use super::dialect::{in_words, system};
use super::failure::{Kind, WORDS_MAX, brief};
use super::hearing::{Fault, HEARD_MAX, Tokens, number, text};
use super::{Ask, Message};

/// The argument that stands for the file with the prompt.
const PROMPT_FILE: &str = "{prompt_file}";
/// How long the rest of its output is waited for when a program has ended; what it started may hold that open for much longer.
const DRAINING: Duration = Duration::from_secs(1);
/// What any program gets of the environment.
const BASE: [&str; 13] = [
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "XDG_CONFIG_HOME",
    "XDG_CACHE_HOME",
    "XDG_DATA_HOME",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NODE_EXTRA_CA_CERTS",
];

/// The variables that a program needs.
pub(crate) fn environment(program: &str) -> Vec<&'static str> {
    let own: &[&str] = match program {
        "claude" => &["ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", "CLAUDE_CODE_OAUTH_TOKEN", "CLAUDE_CONFIG_DIR"],
        "gemini" => &["GEMINI_API_KEY", "GEMINI_MODEL", "GOOGLE_API_KEY", "GOOGLE_CLOUD_PROJECT"],
        "aider" => &[
            "OPENAI_API_KEY",
            "OPENAI_API_BASE",
            "ANTHROPIC_API_KEY",
            "GEMINI_API_KEY",
            "OLLAMA_API_BASE",
            "AIDER_MODEL",
        ],
        _ => &[],
    };
    BASE.iter().chain(own).copied().collect()
}

/// What a program said.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Printed {
    pub(crate) text: String,
    pub(crate) tokens: Tokens,
    /// What it says that it cost, in millionths.
    pub(crate) cost_micros: Option<u64>,
    /// Why it is no answer, where the program failed; it may have cost something all the same.
    pub(crate) fault: Option<Fault>,
}

/// The arguments of a program that is known, around those that were given.
pub(crate) fn arguments(program: &str, given: &[String], in_a_folder: bool) -> Vec<String> {
    let (before, after): (&[&str], &[&str]) = match program {
        // A prompt holds foreign texts: asked for words alone, it must not act on them.
        "claude" if !in_a_folder => (
            &[
                "--disallowedTools",
                "Bash,Edit,Write,NotebookEdit,WebFetch,WebSearch,Task",
                "--output-format",
                "json",
                "-p",
            ],
            &[],
        ),
        "claude" => (&["-p", "--output-format", "json"], &[]),
        "gemini" => (&["--output-format", "json"], &[]),
        "aider" => (
            &["--yes-always", "--no-detect-urls", "--no-check-update", "--no-pretty"],
            &["--message-file", PROMPT_FILE],
        ),
        _ => (&[], &[]),
    };
    let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    [owned(before), given.to_vec(), owned(after)].concat()
}

/// The question as one text.
pub(crate) fn prompt(ask: &Ask) -> String {
    let mut prompt = system(ask, true);
    let single = ask.messages.len() == 1;
    for message in &ask.messages {
        let (who, said) = match message {
            Message::User(text) => ("User", text.as_str()),
            Message::Assistant { text, .. } => ("You", text.as_str()),
            Message::Tool { output, .. } => ("Tool", output.as_str()),
        };
        if !prompt.is_empty() {
            prompt.push_str("\n\n");
        }
        if !single {
            prompt.push_str(who);
            prompt.push_str(":\n");
        }
        prompt.push_str(said);
    }
    // Close to the end, or it is forgotten in long prompts.
    if let Some(schema) = ask.schema.as_ref().filter(|_| prompt.len() > 8192) {
        prompt.push_str("\n\n");
        prompt.push_str(&in_words(schema));
    }
    prompt.push('\n');
    prompt
}

/// A program to ask.
pub(crate) struct Program<'a> {
    pub(crate) name: &'a str,
    pub(crate) program: &'a str,
    pub(crate) arguments: &'a [String],
    pub(crate) environment: &'a BTreeMap<String, Secret>,
    pub(crate) timeout: Duration,
}

impl Program<'_> {
    /// Runs it to its end.
    pub(crate) async fn ask(&self, ask: &Ask) -> Result<Printed, Fault> {
        if !ask.tools.is_empty() {
            return Err(Fault::new(Kind::Rejected, "a command takes no tools"));
        }
        let failed = |what: &str, error: io::Error| Fault::new(Kind::Unreachable, format!("{what}: {error}"));
        let folder = Folder::new().map_err(|error| failed("no folder for it", error))?;
        let prompt = prompt(ask);
        let mut arguments = arguments(self.name, self.arguments, ask.directory.is_some());
        let by_file = arguments.iter().any(|argument| argument.contains(PROMPT_FILE));
        if by_file {
            let file = folder.write("prompt.md", &prompt).map_err(|error| failed("no file for its prompt", error))?;
            for argument in &mut arguments {
                *argument = argument.replace(PROMPT_FILE, &file);
            }
        }
        let work = folder.0.join("work");
        fs::create_dir(&work).map_err(|error| failed("no folder for it", error))?;
        let mut command = process::Command::new(self.program);
        command
            .args(&arguments)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value.expose())))
            .env("TERM", "dumb")
            .env("NO_COLOR", "1")
            .current_dir(ask.directory.as_deref().unwrap_or(&work))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        dies_with_parent(&mut command);
        let mut child = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => {
                Fault::new(Kind::Rejected, format!("cannot be started: {error}"))
            }
            _ => failed("cannot be started", error),
        })?;
        let group = Group(child.id().and_then(|id| i32::try_from(id).ok()));
        let (Some(mut stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(Fault::new(Kind::Unreachable, "has no pipes"));
        };
        let feed = async move {
            // A program may end without reading all of it.
            let _ = stdin.write_all(if by_file { b"" } else { prompt.as_bytes() }).await;
            drop(stdin);
            Ok(())
        };
        let (mut said, mut complained) = (Vec::new(), Vec::new());
        let hear = async {
            let read = stdout.take(HEARD_MAX as u64 + 1).read_to_end(&mut said).await;
            match read.map_err(|error| failed("not read", error))? > HEARD_MAX {
                true => Err(Fault::protocol(format!("the answer has more than {HEARD_MAX} bytes"))),
                false => Ok(()),
            }
        };
        let complain = async {
            tail(stderr, &mut complained).await;
            Ok(())
        };
        let whole = async {
            let mut talk = pin!(async { tokio::try_join!(feed, hear, complain) });
            let status = tokio::select! {
                heard = &mut talk => {
                    heard?;
                    child.wait().await
                }
                status = child.wait() => {
                    // What was read until then counts.
                    if let Ok(heard) = tokio::time::timeout(DRAINING, &mut talk).await {
                        heard?;
                    }
                    status
                }
            };
            status.map_err(|error| failed("not waited for", error))
        };
        let status = match tokio::time::timeout(self.timeout, whole).await {
            Ok(whole) => whole?,
            Err(_) => {
                let waited = self.timeout.as_secs();
                return Err(Fault::new(Kind::Unreachable, format!("did not answer within {waited} s")));
            }
        };
        drop(group);
        let words = if complained.is_empty() { &said } else { &complained };
        let words = brief(&String::from_utf8_lossy(&words[words.len().saturating_sub(2 * WORDS_MAX)..]));
        match (status.code(), status.signal()) {
            (Some(0), _) => printed(self.name, &said),
            // Some say in their JSON why they failed, and what that cost.
            (Some(code), _) => {
                let told = printed(self.name, &said).unwrap_or_default();
                let ended = || Fault::new(Kind::of(None, "", &words), format!("ended with {code}: {words}"));
                Ok(Printed { fault: Some(told.fault.unwrap_or_else(ended)), ..told })
            }
            (None, signal) => {
                let signal = signal.unwrap_or_default();
                Err(Fault::new(Kind::Unreachable, format!("was ended by signal {signal}: {words}")))
            }
        }
    }
}

/// Reads what a program printed.
pub(crate) fn printed(program: &str, said: &[u8]) -> Result<Printed, Fault> {
    let not_json = || Fault::protocol("did not print the JSON that it was asked for");
    match program {
        "claude" => {
            let value: Value = serde_json::from_slice(said.trim_ascii()).map_err(|_| not_json())?;
            let words = text(&value, "/result");
            let failed = value.get("is_error") == Some(&Value::Bool(true));
            let fault = failed.then(|| Fault::new(Kind::of(None, text(&value, "/subtype"), words), brief(words)));
            let of = |name: &str| number(&value, &format!("/usage/{name}"));
            let (cached, stored) = (of("cache_read_input_tokens"), of("cache_creation_input_tokens"));
            let (cached, stored) = (cached.unwrap_or(0), stored.unwrap_or(0));
            let input = of("input_tokens").map(|input| input.saturating_add(cached).saturating_add(stored));
            let tokens = Tokens { input, cached, stored, output: of("output_tokens") };
            let cost = value.get("total_cost_usd").and_then(Value::as_f64).filter(|cost| (0.0..1e9).contains(cost));
            // What is paid in millionths may be written with more digits than it has.
            let cost_micros = cost.map(|cost| (cost * 1e6 - 1e-6).ceil().max(0.0) as u64);
            Ok(Printed { text: words.to_owned(), tokens, cost_micros, fault })
        }
        "gemini" => {
            // It may greet before it prints.
            let begin = said.iter().position(|byte| *byte == b'{').ok_or_else(not_json)?;
            let value: Value = serde_json::from_slice(said[begin..].trim_ascii()).map_err(|_| not_json())?;
            let words = text(&value, "/error/message");
            let failed = !words.is_empty();
            let fault = failed.then(|| Fault::new(Kind::of(None, text(&value, "/error/type"), words), brief(words)));
            let mut tokens = Tokens::default();
            let models = value.pointer("/stats/models").and_then(Value::as_object);
            for model in models.into_iter().flat_map(|models| models.values()) {
                let of = |name: &str| number(model, &format!("/tokens/{name}")).unwrap_or(0);
                let add = |to: Option<u64>, more: u64| Some(to.unwrap_or(0).saturating_add(more));
                tokens.input = add(tokens.input, of("prompt"));
                tokens.cached = tokens.cached.saturating_add(of("cached"));
                tokens.output = add(tokens.output, of("candidates").saturating_add(of("thoughts")));
            }
            Ok(Printed { text: text(&value, "/response").to_owned(), tokens, cost_micros: None, fault })
        }
        _ => Ok(Printed { text: String::from_utf8_lossy(said).trim().to_owned(), ..Printed::default() }),
    }
}

/// Keeps the last bytes of it.
async fn tail(mut from: impl AsyncRead + Unpin, kept: &mut Vec<u8>) {
    const KEPT: usize = 4096;
    let mut buffer = [0; KEPT];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..read]);
        kept.drain(..kept.len().saturating_sub(KEPT));
    }
}

/// A folder that nobody else can read, removed with all that is in it.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new() -> io::Result<Folder> {
        use std::os::unix::fs::DirBuilderExt;
        use std::sync::atomic::{AtomicU64, Ordering};
        static NEXT: AtomicU64 = AtomicU64::new(0);
        loop {
            let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            let (pid, next) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            let path = std::env::temp_dir().join(format!("mindos-model-{pid}-{next}-{}", since.subsec_nanos()));
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Folder(path)),
                // Left behind by a process that was killed.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn write(&self, name: &str, text: &str) -> io::Result<String> {
        let path = self.0.join(name);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(text.as_bytes())?;
        Ok(path.display().to_string())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let path: &Path = &self.0;
        let _ = fs::remove_dir_all(path);
    }
}

/// A process group, ended by force when it is dropped.
struct Group(Option<i32>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // SAFETY: `kill` takes plain numbers. The group was made for the child; its id is not given out again before all in it are gone.
            #[allow(unsafe_code)]
            unsafe {
                libc::kill(-group, libc::SIGKILL);
            }
        }
    }
}

/// A program must not outlive the general that asked it, even if that is killed.
fn dies_with_parent(command: &mut process::Command) {
    #[cfg(target_os = "linux")]
    // SAFETY: between fork and exec only an async-signal-safe function is called, with plain numbers.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
    #[cfg(not(target_os = "linux"))]
    let _ = command;
}
