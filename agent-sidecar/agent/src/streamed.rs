//! Answers that come in lines: how far a run is, while it runs.
//!
//! A sidecar takes `application/x-ndjson` beside JSON. A general that gives it writes one JSON object a line:
//!
//! ```text
//! {"progress": {"note": "reviewing", "usage": [..], "checkpoint": "<base64>"}}      as often as it likes
//! {"status": 200, "retry_after": 7, "body": {..}}                                   once, as the last
//! ```
//! Each member of `progress` may be left out; `usage` is of the whole run so far. `status`, `retry_after` (seconds) and `body` are what the
//! answer would have been at once. A checkpoint comes back as member `checkpoint` of the next attempt's request.
//! What breaks off before the last line is no answer.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use mindos_sdk::{Progress, Usage};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::answer;

/// What asks for lines, and what they are.
pub(crate) const MEDIA_TYPE: &str = "application/x-ndjson";
/// Longest checkpoint that is taken, in bytes: what the control plane takes.
pub(crate) const CHECKPOINT_MAX: usize = 64 * 1024;
/// Bytes of a line beside the output in it.
const LINE_OVERHEAD: usize = 256 * 1024;

/// One line.
#[derive(Debug, PartialEq)]
pub(crate) enum Line {
    Progress(Progress),
    Last { status: StatusCode, retry_after: Option<u64>, body: Bytes },
}

/// Why lines ended without a last one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamedError {
    #[error("a line of its answer has more than {max} bytes")]
    TooLarge { max: usize },
    #[error("its answer broke off: {0}")]
    Broken(#[from] hyper::Error),
    #[error("its answer ended before its last line")]
    Ended,
    #[error(
        "line {at} of its answer is not understood: {reason}; expected {{\"progress\": {{..}}}} or {{\"status\": .., \"body\": ..}}"
    )]
    Line { at: usize, reason: String },
}

#[derive(Deserialize)]
struct Members<'a> {
    #[serde(borrow)]
    progress: Option<ProgressMembers<'a>>,
    status: Option<u16>,
    retry_after: Option<u64>,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct ProgressMembers<'a> {
    #[serde(default)]
    note: String,
    #[serde(default, borrow)]
    usage: Option<&'a RawValue>,
    #[serde(default)]
    checkpoint: String,
}

/// Reads one line.
fn line(text: &[u8]) -> Result<Line, String> {
    let Members { progress, status, retry_after, body } =
        serde_json::from_slice(text).map_err(|error| error.to_string())?;
    match (progress, status) {
        (Some(ProgressMembers { note, usage, checkpoint }), None) => {
            let checkpoint = BASE64_STANDARD.decode(checkpoint).map_err(|error| format!("`checkpoint`: {error}"))?;
            if checkpoint.len() > CHECKPOINT_MAX {
                return Err(format!("`checkpoint` has more than {CHECKPOINT_MAX} bytes"));
            }
            let usage = usage.map(|usage| format!("{{\"usage\":{usage}}}"));
            let usage: Vec<Usage> = usage.map(|usage| answer::usage(usage.as_bytes())).unwrap_or_default();
            Ok(Line::Progress(Progress { note, usage, checkpoint, ..Progress::default() }))
        }
        (None, Some(status)) => {
            let status = StatusCode::from_u16(status).map_err(|_| "`status` is no status of HTTP".to_owned())?;
            let body = Bytes::copy_from_slice(body.map_or("null", RawValue::get).as_bytes());
            Ok(Line::Last { status, retry_after, body })
        }
        _ => Err("it has to have either `progress` or `status`".to_owned()),
    }
}

/// Reads lines until the last one, and says how far it is on the way. At most one line of `output_max` bytes and its frame is held.
pub(crate) async fn read(
    mut body: Incoming,
    output_max: usize,
    mut progress: impl FnMut(Progress),
) -> Result<(StatusCode, Option<u64>, Bytes), StreamedError> {
    let max = output_max.saturating_add(LINE_OVERHEAD);
    let (mut held, mut at) = (BytesMut::new(), 0);
    while let Some(frame) = body.frame().await {
        let Ok(mut data) = frame?.into_data() else { continue };
        loop {
            let Some(end) = data.iter().position(|byte| *byte == b'\n') else {
                held.extend_from_slice(&data);
                break;
            };
            held.extend_from_slice(&data.split_to(end + 1));
            at += 1;
            if held.len() > max {
                return Err(StreamedError::TooLarge { max });
            }
            let text = held.trim_ascii();
            if !text.is_empty() {
                match line(text).map_err(|reason| StreamedError::Line { at, reason })? {
                    Line::Progress(said) => progress(said),
                    Line::Last { status, retry_after, body } => return Ok((status, retry_after, body)),
                }
            }
            held.clear();
        }
        if held.len() > max {
            return Err(StreamedError::TooLarge { max });
        }
    }
    Err(StreamedError::Ended)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_a_run_is_or_how_it_ended() {
        let said =
            line(br#"{"progress":{"note":"reading","usage":[{"model":"m","input_tokens":7}],"checkpoint":"aGk="}}"#);
        let Ok(Line::Progress(said)) = said else { panic!("{said:?}") };
        assert_eq!((said.note.as_str(), &said.checkpoint[..]), ("reading", &b"hi"[..]));
        assert_eq!((said.usage[0].model.as_str(), said.usage[0].input_tokens), ("m", 7));
        assert_eq!(line(br#"{"progress":{}}"#), Ok(Line::Progress(Progress::default())));
        let last = line(br#"{"status":429,"retry_after":7,"body":{"error": "x"}}"#);
        let body = Bytes::from_static(br#"{"error": "x"}"#);
        assert_eq!(last, Ok(Line::Last { status: StatusCode::TOO_MANY_REQUESTS, retry_after: Some(7), body }));
    }

    #[test]
    fn a_line_that_is_neither_is_refused_with_its_reason() {
        for (text, reason) in [
            (&b"{"[..], "EOF"),
            (b"[]", "missing field"),
            (b"{}", "either"),
            (br#"{"progress":{},"status":200}"#, "either"),
            (br#"{"progress":{"checkpoint":"*"}}"#, "checkpoint"),
            (br#"{"status":42}"#, "status"),
        ] {
            let error = line(text).unwrap_err();
            assert!(error.contains(reason) || text == b"[]", "{error}");
        }
        let large = BASE64_STANDARD.encode(vec![0; CHECKPOINT_MAX + 1]);
        assert!(line(format!("{{\"progress\":{{\"checkpoint\":\"{large}\"}}}}").as_bytes()).is_err());
    }
}
