//! A general as a command: an event on standard input, its report on standard output.

use std::io::{self, Read, Write};

use http::HeaderMap;
use mindos_model::Timestamp;

use crate::{Profile, RequestError, analyse, decode};

/// Why the command gave no report.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("cannot read the event: {0}")]
    Read(io::Error),
    #[error("the event is longer than {limit} bytes")]
    TooLong { limit: usize },
    #[error("{0}")]
    Request(#[from] RequestError),
    #[error("cannot write the report: {0}")]
    Write(io::Error),
}

/// Reads one event of at most `body_max` bytes to its end and writes the report as one line of JSON.
///
/// # Errors
/// `CommandError`; nothing is written then but by a failed write itself.
pub fn run(
    profile: &Profile,
    mut input: impl Read,
    mut output: impl Write,
    body_max: usize,
    now: Timestamp,
) -> Result<(), CommandError> {
    let mut body = Vec::new();
    let limit = u64::try_from(body_max).unwrap_or(u64::MAX).saturating_add(1);
    input.by_ref().take(limit).read_to_end(&mut body).map_err(CommandError::Read)?;
    if body.len() > body_max {
        return Err(CommandError::TooLong { limit: body_max });
    }
    let report = analyse(profile, &decode(&HeaderMap::new(), &body)?, now);
    let mut line = serde_json::to_vec(&report).map_err(|error| CommandError::Write(error.into()))?;
    line.push(b'\n');
    output.write_all(&line).and_then(|()| output.flush()).map_err(CommandError::Write)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_in_is_a_report_out() {
        let profile = Profile::stock("general-purpose-general").unwrap();
        let mut out = Vec::new();
        let event = br#"{"event_type":"custom","job_id":"7","data":{"a":1}}"#;
        run(&profile, &event[..], &mut out, 1024, Timestamp(0)).unwrap();
        let report: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!((&report["status"], &report["job_id"]), (&"processed".into(), &"7".into()));
        assert!(matches!(
            run(&profile, &event[..], &mut out, 9, Timestamp(0)),
            Err(CommandError::TooLong { limit: 9 })
        ));
        assert!(matches!(run(&profile, &b"{}"[..], &mut out, 9, Timestamp(0)), Err(CommandError::Request(_))));
    }
}
