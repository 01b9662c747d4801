//! Log lines on standard error, as text or JSON.

use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object on each line.
    Json,
}

/// What is logged.
#[derive(Clone, Debug, clap::Args)]
pub struct LogConfig {
    /// What is logged: `error`, `warn`, `info`, `debug`, or by module as in `info,mindos_sdk=debug`
    #[arg(long, env = "MINDOS_LOG", value_name = "FILTER", default_value = "info")]
    pub log: String,

    /// How log lines look
    #[arg(long, env = "MINDOS_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

/// Starts logging; for programs, once.
///
/// # Errors
/// When the filter is malformed.
pub fn start(config: &LogConfig) -> Result<(), tracing_subscriber::filter::ParseError> {
    let LogConfig { log, log_format } = config;
    let filter = EnvFilter::builder().parse(log)?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match log_format {
        LogFormat::Text => subscriber.with_ansi(false).init(),
        LogFormat::Json => subscriber.json().init(),
    }
    Ok(())
}
