//! Logs: structured lines on standard error, for people or as JSON.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, reload};

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    #[default]
    Human,
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<LogFormat, String> {
        match text {
            "human" => Ok(LogFormat::Human),
            "json" => Ok(LogFormat::Json),
            _ => Err(format!("`{text}` is not a log format: expected human or json")),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LogFormat::Human => "human",
            LogFormat::Json => "json",
        })
    }
}

/// Why logging could not begin.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    #[error(
        "log filter `{filter}` is not usable: expected directives such as `info` or `info,mindos_control_plane=debug`"
    )]
    Filter { filter: String, source: tracing_subscriber::filter::ParseError },
    #[error("logging has begun already")]
    Begun(#[from] tracing_subscriber::util::TryInitError),
}

/// Begins logging for the whole process. `filter` is in the syntax of `RUST_LOG`.
///
/// # Errors
/// When the filter cannot be read, or logging has begun before.
pub fn init(format: LogFormat, filter: &str) -> Result<(), LoggingError> {
    let (parsed, handle) = reload::Layer::new(parse(filter)?);
    let registry = tracing_subscriber::registry().with(parsed);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match format {
        LogFormat::Human => registry.with(layer.with_target(false)).try_init()?,
        LogFormat::Json => registry.with(layer.json().flatten_event(true).with_current_span(true)).try_init()?,
    }
    // Whoever began logging is the only one who got here.
    let _ = FILTER.set(handle);
    Ok(())
}

/// What the process logs from here on; nothing happens where logging was begun by somebody else.
pub fn set_filter(filter: &Filter) {
    if let Some(handle) = FILTER.get() {
        let parsed = parse(&filter.0).expect("a filter was read when it was made");
        // It fails only after the subscriber is gone, when nothing is logged at all.
        let _ = handle.reload(parsed);
    }
}

/// What is logged, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter(String);

impl Filter {
    /// Reads one such as `info,mindos_control_plane=debug`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn parse(filter: &str) -> Result<Filter, LoggingError> {
        parse(filter).map(|_| Filter(filter.to_owned()))
    }
}

fn parse(filter: &str) -> Result<EnvFilter, LoggingError> {
    EnvFilter::try_new(filter).map_err(|source| LoggingError::Filter { filter: filter.to_owned(), source })
}

static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// An error with all its sources, for one log line.
pub struct Chain<'a>(pub &'a (dyn std::error::Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("failed to read `config`")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn a_chain_prints_every_source() {
        let error = Outer(std::io::Error::other("disk on fire"));
        assert_eq!(Chain(&error).to_string(), "failed to read `config`: disk on fire");
    }

    #[test]
    fn formats_are_read_back_as_written() {
        for format in [LogFormat::Human, LogFormat::Json] {
            assert_eq!(format.to_string().parse(), Ok(format));
        }
        assert!("xml".parse::<LogFormat>().unwrap_err().contains("expected human or json"));
    }
}
