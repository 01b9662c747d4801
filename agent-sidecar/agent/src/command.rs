//! Generals that are commands: started for each piece of work, event on standard input, output on standard output.
//!
//! | end | outcome |
//! |---|---|
//! | 0 | succeeded |
//! | 65 (EX_DATAERR) | poison |
//! | anything else, or a signal | transient |
//!
//! An output in JSON may have members `usage` and `effects`; see `answer`. With `--repository-access` the variable
//! `MINDOS_REPOSITORY_ACCESS` holds, as JSON, what the event's repository can be read with.
//!
//! A command has ended when its shell has, whoever still holds its pipes.
//!
//! Invariant: when a future of [`Command::process`] is gone, so is the command with all that it started in its process group.

use std::borrow::Cow;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use bytes::Bytes;
use mindos_sdk::{Failure, Output, Work};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process;
use tokio::time::timeout;

use crate::answer::{self, Answer};
use crate::cloudevent;
use crate::general::{About, AccessMember, excerpt};

/// The exit code of a command that finds its event impossible to work on, from sysexits.h.
const EX_DATAERR: i32 = 65;
/// Bytes of standard error that are kept for the failure's message: the last ones.
const STDERR_MAX: usize = 4096;
/// How long a command that has ended is still read from: what it started may hold its pipes for ever.
const DRAIN_MAX: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Command {
    command: String,
    about: About,
}

impl Command {
    pub(crate) fn new(command: String, about: About) -> Command {
        Command { command, about }
    }

    pub(crate) async fn process(&self, work: Work) -> Result<Output, Failure> {
        let event = cloudevent::json(&work.event);
        let kind = work.event.attribute("kind").unwrap_or(Cow::Borrowed(work.event.ty())).into_owned();
        let access = self.about.access(&work).await?;
        let mut command = process::Command::new("/bin/sh");
        command
            .arg("-c")
            .arg(&self.command)
            .env("MINDOS_JOB_ID", work.job_id())
            .env("MINDOS_DELIVERY", work.delivery.to_string())
            .env("MINDOS_TOKEN", work.token.to_string())
            .env("MINDOS_ATTEMPT", work.attempt.to_string())
            .env("MINDOS_GENERAL", work.general.as_str())
            .env("MINDOS_CLUSTER", self.about.cluster.as_str())
            .env("MINDOS_KIND", kind)
            .env("MINDOS_LANE", &work.lane)
            .env("MINDOS_MODE", work.mode.as_str())
            .env("TRACEPARENT", &work.traceparent)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        if let Some(access) = access.as_ref().map(AccessMember::of) {
            let json = serde_json::to_string(&access).map_err(|error| Failure::transient(error.to_string()))?;
            command.env("MINDOS_REPOSITORY_ACCESS", json);
        }
        dies_with_parent(&mut command);
        let failed =
            |what: &str, error: io::Error| Failure::transient(format!("failed to {what} the command: {error}"));
        let mut child = command.spawn().map_err(|error| failed("start", error))?;
        let group = Group(child.id().and_then(|id| i32::try_from(id).ok()));
        let (Some(mut stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(Failure::transient("the command has no pipes"));
        };
        let feed = async move {
            // A command may end without reading all of it.
            let _ = stdin.write_all(&event).await;
            drop(stdin);
            Ok(())
        };
        let max = self.about.output_max;
        let ended = async {
            let (mut output, mut said) = (Vec::new(), Vec::new());
            let status = {
                let read = async {
                    match head(stdout, max, &mut output).await {
                        Ok(true) => Ok(()),
                        Ok(false) => Err(Failure::too_large(format!("the output has more than {max} bytes"))),
                        Err(error) => Err(failed("read from", error)),
                    }
                };
                let listen = async {
                    tail(stderr, &mut said).await;
                    Ok(())
                };
                let mut piped = pin!(async { tokio::try_join!(feed, read, listen) });
                let status = tokio::select! {
                    done = &mut piped => {
                        done?;
                        child.wait().await
                    }
                    status = child.wait() => {
                        if let Ok(done) = timeout(DRAIN_MAX, &mut piped).await {
                            done?;
                        }
                        status
                    }
                };
                status.map_err(|error| failed("wait for", error))?
            };
            ended_with(status, output.into(), &said)
        };
        let asked_to_stop = async {
            work.stopped().await;
            group.signal(libc::SIGTERM);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            answer = ended => answer,
            () = asked_to_stop => Err(Failure::transient("stopped")),
        }
    }
}

fn ended_with(status: ExitStatus, output: Bytes, said: &[u8]) -> Result<Output, Failure> {
    let said = excerpt(said, STDERR_MAX);
    match (status.code(), status.signal()) {
        (Some(0), _) => {
            let json = serde_json::from_slice::<serde::de::IgnoredAny>(&output).is_ok();
            let content_type = Cow::Borrowed(if json { "application/json" } else { "text/plain; charset=utf-8" });
            let Answer { usage, effects } = if json { answer::read(&output)? } else { Answer::default() };
            Ok(Output { data: output, content_type, usage, effects })
        }
        (Some(EX_DATAERR), _) => Err(Failure::poison(format!("the command ended with {EX_DATAERR}: {said}"))),
        (Some(code), _) => Err(Failure::transient(format!("the command ended with {code}: {said}"))),
        (None, signal) => {
            Err(Failure::transient(format!("the command was ended by signal {}: {said}", signal.unwrap_or_default())))
        }
    }
}

/// Keeps all of it as it comes; false as soon as there is more than `max`.
async fn head(mut from: impl AsyncRead + Unpin, max: usize, kept: &mut Vec<u8>) -> io::Result<bool> {
    while from.read_buf(kept).await? > 0 {
        if kept.len() > max {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Keeps the last bytes of it as they come.
async fn tail(mut from: impl AsyncRead + Unpin, kept: &mut Vec<u8>) {
    let mut buffer = [0; STDERR_MAX];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..read]);
        kept.drain(..kept.len().saturating_sub(STDERR_MAX));
    }
}

/// A process group, ended by force when it is dropped.
struct Group(Option<i32>);

impl Group {
    fn signal(&self, signal: i32) {
        if let Some(group) = self.0 {
            // SAFETY: `kill` takes plain numbers. The group was made for the child; it is gone when all in it have ended, and its id
            // is not given out again before all others have been.
            #[allow(unsafe_code)]
            unsafe {
                libc::kill(-group, signal);
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(libc::SIGKILL);
    }
}

/// Work must not outlive the sidecar that holds its lease, even if that is killed.
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
