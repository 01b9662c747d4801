//! The options of a general, shared by `mindos-general` and `mindos general`.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use mindos_model::Timestamp;

use crate::command::{self, CommandError};
use crate::{BODY_MAX, Config, Profile, ProfileError, RunError, run};

/// What one general is told at its start.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The type, with or without `-general`, such as `code-review-general`.
    #[arg(long = "type", env = "GENERAL_TYPE", default_value = "general-purpose-general", value_name = "TYPE")]
    pub general_type: String,
    /// What it says it is good at, comma-separated; unset keeps the profile's own.
    #[arg(long, env = "SPECIALIZATION", value_delimiter = ',', value_name = "WORDS")]
    pub specialization: Vec<String>,
    /// A profile of your own (JSON) instead of the built-in one of the type.
    #[arg(long, env = "MINDOS_GENERAL_PROFILE", value_name = "FILE")]
    pub profile: Option<PathBuf>,
    /// Where to listen; port 0 takes a free one.
    #[arg(long, env = "MINDOS_GENERAL_LISTEN", default_value = "127.0.0.1:8080", value_name = "ADDR:PORT")]
    pub listen: SocketAddr,
    /// Longest event accepted, in bytes.
    #[arg(long, env = "MINDOS_GENERAL_BODY_MAX", default_value_t = BODY_MAX, value_name = "BYTES")]
    pub body_max: usize,
    /// Read one event from standard input and write its report to standard output, instead of listening.
    #[arg(long)]
    pub stdin: bool,
}

/// Why a general did not start, or ended with an error.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("--profile {path}: {error}")]
    ReadProfile { path: String, error: io::Error },
    #[error("--profile or --type: {0}")]
    Profile(#[from] ProfileError),
    #[error("{0}")]
    Run(#[from] RunError),
    #[error("{0}")]
    Command(#[from] CommandError),
    #[error("cannot start the runtime: {0}")]
    Runtime(io::Error),
}

/// Runs the general these options describe, on this thread, until it is told to stop.
///
/// # Errors
/// `StartError`, in one line that names the option where one is wrong.
pub fn start(options: Options) -> Result<(), StartError> {
    let Options { general_type, specialization, profile, listen, body_max, stdin } = options;
    let mut profile = match profile {
        None => Profile::stock(&general_type)?,
        Some(path) => {
            let text = fs::read_to_string(&path)
                .map_err(|error| StartError::ReadProfile { path: path.display().to_string(), error })?;
            Profile::parse(&text)?
        }
    };
    if !specialization.is_empty() {
        profile.specializations = specialization;
    }
    if stdin {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
        return Ok(command::run(&profile, io::stdin().lock(), io::stdout().lock(), body_max, now)?);
    }
    // One thread: a general of this kind answers in less than a millisecond and idles the rest.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Runtime)?;
    Ok(runtime.block_on(run(Config { profile, listen, body_max }))?)
}
