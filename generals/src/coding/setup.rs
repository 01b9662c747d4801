//! The settings of the coding agent, with the contract's names of variables.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use mindos_sdk::Blobs;

use super::checks::Command;
use super::command::{Editor, EditorError};
use super::paths::Rules;
use super::sandbox::{Isolation, Limits, Place, PlaceError, Sandbox};

/// How the coding agent works.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "The coding agent")]
pub struct CodingOptions {
    /// Where tasks have their folders, which are gone with them
    #[arg(long, env = "WORKSPACE_DIR", default_value = "/tmp/workspace", value_name = "FOLDER")]
    pub workspace: PathBuf,
    /// Commits of history that a clone has
    #[arg(long, env = "GIT_CLONE_DEPTH", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..), value_name = "COMMITS")]
    pub clone_depth: u32,
    /// What edits in the place of a model: `aider`, `claude`, or a command with `{task}` among its arguments; runs in the sandbox
    #[arg(long, env = "MINDOS_CODING_EDITOR", value_name = "COMMAND")]
    pub editor: Option<String>,
    /// Whom the editor may reach besides its model, as host:port or address, comma-separated
    #[arg(long, env = "MINDOS_CODING_REACH", value_delimiter = ',', value_name = "PLACES")]
    pub editor_reach: Vec<String>,
    /// Variables that the editor gets from this program's own, comma-separated
    #[arg(long, env = "MINDOS_CODING_VARIABLES", value_delimiter = ',', value_name = "NAMES")]
    pub editor_variables: Vec<String>,
    /// A check to run, such as `make test`, instead of those that the repository names or is known by; repeatable
    #[arg(long = "check", value_name = "COMMAND")]
    pub checks: Vec<String>,
    /// What checks and editors run in; `none` is for machines that are sandboxes themselves
    #[arg(long, env = "MINDOS_CODING_SANDBOX", value_enum, default_value_t, value_name = "KIND")]
    pub sandbox: Isolation,
    /// Further paths that are seen in the sandbox, read-only, comma-separated
    #[arg(long, env = "MINDOS_CODING_READ", value_delimiter = ',', value_name = "PATHS")]
    pub sandbox_read: Vec<PathBuf>,
    /// Longest run of one check or editor
    #[arg(long, env = "MINDOS_CODING_SECONDS", default_value_t = Limits::default().seconds, value_name = "SECONDS")]
    pub sandbox_seconds: u64,
    /// Most memory of one, all its processes together
    #[arg(long, env = "MINDOS_CODING_MEMORY", default_value_t = Limits::default().memory, value_name = "BYTES")]
    pub sandbox_memory: u64,
    /// Most processes and threads of one
    #[arg(long, env = "MINDOS_CODING_PROCESSES", default_value_t = Limits::default().processes, value_name = "NUMBER")]
    pub sandbox_processes: u64,
    /// Lets workflows of the forge be edited, which run with its rights
    #[arg(long, env = "MINDOS_CODING_WORKFLOWS")]
    pub edit_workflows: bool,
}

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("--editor: {0}")]
    Editor(#[from] EditorError),
    #[error("--editor-reach: {0}")]
    Reach(#[from] PlaceError),
    #[error("--editor-variables: `{0}` is no name of a variable")]
    Variable(String),
    #[error("--check: `{0}` is no command: expected a program with its arguments")]
    Check(String),
    #[error("cannot tell where this program is: {0}")]
    Program(std::io::Error),
}

/// The settings, checked.
#[derive(Clone, Debug)]
pub struct Coding {
    pub workspace: PathBuf,
    pub depth: u32,
    pub editor: Option<Editor>,
    pub reach: Vec<Place>,
    pub variables: Vec<String>,
    /// None: those of the repository.
    pub checks: Option<Vec<Command>>,
    pub sandbox: Sandbox,
    pub limits: Limits,
    pub rules: Rules,
}

impl Coding {
    /// Checks the options.
    ///
    /// # Errors
    /// Names the option, and what it accepts.
    pub fn read(options: &CodingOptions) -> Result<Coding, SetupError> {
        let CodingOptions {
            workspace,
            clone_depth,
            editor,
            editor_reach,
            editor_variables,
            checks,
            sandbox,
            sandbox_read,
            sandbox_seconds,
            sandbox_memory,
            sandbox_processes,
            edit_workflows,
        } = options;
        let named =
            |name: &&String| !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') || name.is_empty();
        if let Some(name) = editor_variables.iter().find(named) {
            return Err(SetupError::Variable(name.clone()));
        }
        let checks = checks.iter().map(|line| Command::of_line(line).ok_or_else(|| SetupError::Check(line.clone())));
        let checks = checks.collect::<Result<Vec<_>, _>>()?;
        let read = toolchains().into_iter().chain(sandbox_read.iter().cloned()).collect();
        Ok(Coding {
            workspace: workspace.clone(),
            depth: *clone_depth,
            editor: editor.as_deref().map(str::parse).transpose()?,
            reach: editor_reach.iter().map(|place| place.parse()).collect::<Result<_, _>>()?,
            variables: editor_variables.clone(),
            checks: Some(checks).filter(|checks| !checks.is_empty()),
            sandbox: Sandbox::here(*sandbox, read).map_err(SetupError::Program)?,
            limits: Limits {
                seconds: (*sandbox_seconds).clamp(1, 24 * 3600),
                memory: (*sandbox_memory).max(16 << 20),
                processes: (*sandbox_processes).max(8),
                ..Limits::default()
            },
            rules: Rules { workflows: *edit_workflows },
        })
    }
}

/// The folder of rustup and what of cargo's is no credential, where they are: nothing else of a home folder is seen.
fn toolchains() -> Vec<PathBuf> {
    let (rustup, cargo) = rust_homes();
    let parts = ["bin", "registry", "git"].iter().filter_map(|part| Some(cargo.as_ref()?.join(part)));
    rustup.iter().cloned().chain(parts).filter(|path| path.is_dir()).collect()
}

/// `RUSTUP_HOME` and `CARGO_HOME`, or where they are without.
pub(super) fn rust_homes() -> (Option<PathBuf>, Option<PathBuf>) {
    let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    let of = |variable: &str, name: &str| {
        let set = std::env::var_os(variable).map(PathBuf::from);
        set.or_else(|| Some(home.as_ref()?.join(name))).filter(|path| Path::is_dir(path))
    };
    (of("RUSTUP_HOME", ".rustup"), of("CARGO_HOME", ".cargo"))
}

/// What the coding agent has besides what every run has.
#[derive(Clone, Debug, Default)]
pub struct Hands {
    /// Unset: this program was not set up for coding.
    pub coding: Option<Arc<Coding>>,
    /// Where large changes go; unset where work comes without a stream.
    pub blobs: Option<Blobs>,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        coding: CodingOptions,
    }

    fn read(line: &[&str]) -> Result<Coding, String> {
        let line = Line::try_parse_from(["x"].iter().chain(line)).map_err(|error| error.to_string())?;
        Coding::read(&line.coding).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_are_the_contracts() {
        let coding = read(&[]).unwrap();
        assert_eq!((coding.workspace, coding.depth), (PathBuf::from("/tmp/workspace"), 1));
        assert_eq!((coding.sandbox.isolation, coding.rules.workflows), (Isolation::Namespaces, false));
        assert!(coding.editor.is_none() && coding.checks.is_none());
    }

    #[test]
    fn a_wrong_setting_is_named() {
        for (line, name) in [
            (["--editor", "emacs"], "--editor"),
            (["--editor-reach", "nowhere"], "--editor-reach"),
            (["--editor-variables", "A=B"], "--editor-variables"),
            (["--check", " "], "--check"),
            (["--clone-depth", "0"], "--clone-depth"),
            (["--sandbox", "docker"], "--sandbox"),
        ] {
            let error = read(&line).unwrap_err();
            assert!(error.contains(name), "{error}");
        }
        assert_eq!(read(&["--check", "make test", "--check", "x"]).unwrap().checks.unwrap().len(), 2);
    }
}
