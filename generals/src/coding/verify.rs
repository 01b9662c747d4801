//! Running what is not ours: the repository's checks, and a command that edits.
//!
//! Invariant: neither sees the clone's own `.git`; where no sandbox can be had nothing is run, unless the settings say to do without.

use std::collections::BTreeMap;
use std::path::Path;

use mindos_sdk::Failure;

use super::checks::{Check, Checked, Command, Outcome};
use super::patch::{self, Clone, FileEntry};
use super::sandbox::{Ended, How, Isolation, Run as Running, SandboxError};
use super::setup::{Coding, rust_homes};
use super::texts::tail;
use super::tree::Workspace;
use super::work::of_patch;

/// Bytes of a failed check's output that a model is shown.
const SHOWN_MAX: usize = 8_000;

/// What failed before the change, by the name of the check.
pub(super) type Before = BTreeMap<String, bool>;

/// Runs checks on the clone's files as they are. What fails is run on the files without the change as well.
///
/// # Errors
/// When the machine fails us.
pub(super) async fn check(
    coding: &Coding,
    workspace: &Workspace,
    clone: &Clone,
    commands: &[Command],
    before: &mut Before,
) -> Result<Checked, Failure> {
    let isolated = coding.sandbox.isolation == Isolation::Namespaces;
    if isolated && let Err(error) = coding.sandbox.probe(&workspace.scratch()).await {
        return Ok(Checked::NotRun(format!("{error}; --sandbox none runs them without one")));
    }
    let copy = copied(workspace, clone.folder(), "checks").await?;
    let mut checks = Vec::new();
    for command in commands {
        let (ended, name) = (one(coding, workspace, &copy, command).await?, command.name());
        let outcome = match ended.how.succeeded() {
            true => Outcome::Passed,
            false => {
                let known = before.get(&name).copied();
                let failed_before = match known {
                    Some(known) => known,
                    None => {
                        let without = workspace.folder().join("before");
                        if !without.exists() {
                            clone.export(&without).await.map_err(of_patch)?;
                        }
                        !one(coding, workspace, &without, command).await?.how.succeeded()
                    }
                };
                before.insert(name.clone(), failed_before);
                if failed_before { Outcome::FailedBefore } else { Outcome::Failed }
            }
        };
        checks.push(Check { name, outcome, output: told(&ended), seconds: ended.took.as_secs_f64() });
    }
    Ok(Checked::Run { checks, isolated, corrected: false })
}

async fn one(coding: &Coding, workspace: &Workspace, copy: &Path, command: &Command) -> Result<Ended, Failure> {
    let (rustup, cargo) = rust_homes();
    let path = |name: &str, value: Option<std::path::PathBuf>| {
        value.map(|value| (name.to_owned(), value.display().to_string()))
    };
    let environment = [path("RUSTUP_HOME", rustup), path("CARGO_HOME", cargo)].into_iter().flatten();
    let environment = environment.chain([("CARGO_NET_OFFLINE".to_owned(), "true".to_owned())]).collect();
    let running = Running {
        workspace: copy,
        scratch: &workspace.scratch(),
        program: command.program.clone(),
        arguments: command.arguments.clone(),
        environment,
        limits: coding.limits,
        reach: &[],
    };
    coding.sandbox.run(running).await.map_err(of_sandbox)
}

/// The output, and how it ended where it was not by itself.
fn told(ended: &Ended) -> String {
    let why = match ended.how {
        How::Exited(127) => "the command is not here, or could not be started",
        How::Exited(_) | How::Signalled(_) => return ended.output.clone(),
        How::TimedOut => "it took longer than allowed",
        How::Memory => "it used more memory than allowed",
        How::Processes => "it had more processes than allowed",
        How::Output => "it wrote more output than allowed",
        How::Disk => "it filled its disk",
    };
    format!("{}\n[ended by the sandbox: {why}]\n", ended.output)
}

/// The outputs of what failed because of the change, for a model.
pub(super) fn failures(checked: &Checked) -> String {
    let Checked::Run { checks, .. } = checked else { return String::new() };
    let failed = checks.iter().filter(|check| check.outcome == Outcome::Failed);
    failed.map(|check| format!("$ {}\n{}\n", check.name, tail(&check.output, SHOWN_MAX))).collect()
}

/// Has a command edit a copy of the clone's files, and says what it changed.
///
/// # Errors
/// When it cannot be run, fails, or changes what may not be changed.
pub(super) async fn edit(
    coding: &Coding,
    workspace: &Workspace,
    clone: &Clone,
    task: &str,
) -> Result<Vec<FileEntry>, Failure> {
    let editor = coding.editor.as_ref().expect("asked for only where there is one");
    if coding.sandbox.isolation == Isolation::Namespaces {
        coding.sandbox.probe(&workspace.scratch()).await.map_err(of_sandbox)?;
    }
    let copy = copied(workspace, clone.folder(), "edit").await?;
    patch::begin(&copy).await.map_err(of_patch)?;
    let variable = |name: &str| std::env::var(name).ok();
    let mut line = editor.line(task, &variable);
    line.environment.extend(coding.variables.iter().filter_map(|name| Some((name.clone(), variable(name)?))));
    line.reach.extend(coding.reach.iter().cloned());
    let secrets: Vec<String> =
        line.environment.iter().map(|(_, value)| value.clone()).filter(|value| value.len() >= 8).collect();
    let running = Running {
        workspace: &copy,
        scratch: &workspace.scratch(),
        program: line.program,
        arguments: line.arguments,
        environment: line.environment,
        limits: coding.limits,
        reach: &line.reach,
    };
    let ended = coding.sandbox.run(running).await.map_err(of_sandbox)?;
    if !ended.how.succeeded() {
        // A command may repeat what it was given.
        let output = secrets.iter().fold(told(&ended), |output, secret| output.replace(secret, "***"));
        let words = format!("the editor {} failed ({:?}): {}", editor.name(), ended.how, tail(output.trim(), 1_000));
        return Err(match ended.how {
            // It is not here, and will not be next time.
            How::Exited(127) => Failure::poison(words),
            _ => Failure::transient(words),
        });
    }
    clone.taken_over(&copy, &coding.rules).await.map_err(of_patch)
}

async fn copied(workspace: &Workspace, from: &Path, name: &'static str) -> Result<std::path::PathBuf, Failure> {
    workspace
        .copied(from, name)
        .await
        .map_err(|error| Failure::transient(format!("the clone cannot be copied: {error}")))
}

fn of_sandbox(error: SandboxError) -> Failure {
    match error {
        SandboxError::NotPermitted(_) => Failure::poison(format!("{error}; --sandbox none does without one")),
        SandboxError::Start(ref source) if source.kind() == std::io::ErrorKind::NotFound => {
            Failure::poison(error.to_string() + ": it is not here")
        }
        SandboxError::Start(_) | SandboxError::Lost(_) => Failure::transient(error.to_string()),
    }
}
