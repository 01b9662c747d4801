//! The options of a general, shared by `mindos-general` and `mindos general`.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use mindos_agent_sidecar::logs::{self, LogConfig};
use mindos_outgoing::Outgoing;
use tracing::warn;

use crate::coding::{Coding, CodingOptions, Hands, SetupError};
use crate::command::{self, ACCESS_VARIABLE, CommandError};
use crate::model::{ModelOptions, ModelSettings, ModelSettingsError, Models, environment};
use crate::run::Brain;
use crate::serve::Served;
use crate::server::{Config, RunError, run};
use crate::stream::{self, StreamError, StreamOptions};
use crate::{BODY_MAX, Profile, ProfileError};

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
    #[arg(long, conflicts_with = "control_plane")]
    pub stdin: bool,

    #[command(flatten)]
    pub models: ModelOptions,

    #[command(flatten)]
    pub coding: CodingOptions,

    #[command(flatten)]
    pub stream: StreamOptions,

    #[command(flatten)]
    pub logs: LogConfig,
}

/// Why a general did not start, or ended with an error.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("--profile {path}: {error}")]
    ReadProfile { path: String, error: io::Error },
    #[error("--profile or --type: {0}")]
    Profile(#[from] ProfileError),
    #[error("--log is not a filter: {0}")]
    Log(String),
    #[error("{0}")]
    Models(#[from] ModelSettingsError),
    #[error("{0}")]
    Run(#[from] RunError),
    #[error("{0}")]
    Command(#[from] CommandError),
    #[error("{0}")]
    Coding(#[from] SetupError),
    #[error("{0}")]
    Stream(#[from] StreamError),
    #[error("cannot start the runtime: {0}")]
    Runtime(io::Error),
}

/// Runs the general these options describe, on this thread, until it is told to stop.
///
/// # Errors
/// `StartError`, in one line that names the option where one is wrong.
pub fn start(options: Options) -> Result<(), StartError> {
    let Options { general_type, specialization, profile, listen, body_max, stdin, models, coding, stream, logs } =
        options;
    logs::start(&logs).map_err(|error| StartError::Log(error.to_string()))?;
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
    let settings = ModelSettings::read(&models, &environment)?;
    let outgoing = Outgoing::new();
    let models = Models::by(&settings, &outgoing).preferring(&profile.models);
    for model in models.unpriced() {
        warn!(model, "the price of a model is not known, so its use counts as free");
    }
    let hands = Hands { coding: Some(Arc::new(Coding::read(&coding)?)), blobs: None };
    let served = Served { profile: Arc::new(profile), brain: Brain::Models(models), outgoing, hands };
    // One thread: a general waits for others nearly all its time; what computes for long has threads of its own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Runtime)?;
    if stdin {
        let access = std::env::var(ACCESS_VARIABLE).ok().filter(|text| !text.is_empty());
        let run = command::run(&served, io::stdin().lock(), io::stdout().lock(), body_max, access.as_deref());
        return Ok(runtime.block_on(run)?);
    }
    let config = Config { served, listen, body_max, drain: stream.drain_grace };
    match stream.checked()? {
        Some(stream) => runtime.block_on(stream::run(config, stream))?,
        None => runtime.block_on(run(config))?,
    }
    Ok(())
}
