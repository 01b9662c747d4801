//! A general as a command: an event on standard input, its report on standard output.

use std::io::{self, Read, Write};

use http::HeaderMap;
use mindos_sdk::{Ceilings, Failure};

use crate::RequestError;
use crate::request::{Asked, access_of, read};
use crate::serve::Served;

/// The variable with read access to the event's repository, as JSON.
pub const ACCESS_VARIABLE: &str = "MINDOS_REPOSITORY_ACCESS";

/// Why the command gave no report.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("cannot read the event: {0}")]
    Read(io::Error),
    #[error("the event is longer than {limit} bytes")]
    TooLong { limit: usize },
    #[error("{0}")]
    Request(#[from] RequestError),
    #[error("{ACCESS_VARIABLE}: {0}")]
    Access(RequestError),
    #[error("{0}")]
    Work(#[from] Failure),
    #[error("cannot write the report: {0}")]
    Write(io::Error),
}

/// Reads one event of at most `body_max` bytes to its end and writes the report as one line of JSON. `access` is the JSON of
/// [`ACCESS_VARIABLE`], where it is set.
///
/// # Errors
/// `CommandError`; nothing is written then but by a failed write itself.
pub async fn run(
    served: &Served,
    mut input: impl Read,
    mut output: impl Write,
    body_max: usize,
    access: Option<&str>,
) -> Result<(), CommandError> {
    let mut body = Vec::new();
    let limit = u64::try_from(body_max).unwrap_or(u64::MAX).saturating_add(1);
    input.by_ref().take(limit).read_to_end(&mut body).map_err(CommandError::Read)?;
    if body.len() > body_max {
        return Err(CommandError::TooLong { limit: body_max });
    }
    let asked = read(&HeaderMap::new(), &body)?;
    let given = access.map(access_of).transpose().map_err(CommandError::Access)?;
    let asked = Asked { access: asked.access.or(given), ..asked };
    let report = served.once(asked, Ceilings::default(), None).await?;
    let mut line = serde_json::to_vec(&report).map_err(|error| CommandError::Write(error.into()))?;
    line.push(b'\n');
    output.write_all(&line).and_then(|()| output.flush()).map_err(CommandError::Write)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Profile;

    #[test]
    fn an_event_in_is_a_report_out() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let served = Served::without_model(Profile::stock("general-purpose-general").unwrap());
        let mut out = Vec::new();
        let event = br#"{"event_type":"custom","job_id":"7","data":{"a":1}}"#;
        runtime.block_on(run(&served, &event[..], &mut out, 1024, None)).unwrap();
        let report: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!((&report["status"], &report["job_id"]), (&"processed".into(), &"7".into()));
        let mut failed = |event: &[u8], body_max, access| {
            runtime.block_on(run(&served, event, &mut out, body_max, access)).unwrap_err()
        };
        assert!(matches!(failed(&event[..], 9, None), CommandError::TooLong { limit: 9 }));
        assert!(matches!(failed(&b"{}"[..], 9, None), CommandError::Request(_)));
        assert!(matches!(failed(&event[..], 99, Some("{\"token\":1}")), CommandError::Access(_)));
    }
}
