//! Answers in lines: how far a run is, while it runs, for whoever takes `application/x-ndjson`.
//!
//! ```text
//! {"progress": {"note": "reviewing", "usage": [..], "checkpoint": "<base64>"}}      as often as the run says it
//! {"status": 200, "retry_after": 7, "body": {..}}                                   once, as the last: what the answer would have been
//! ```
//! Invariant: the run goes on only while its answer is read, so what waits to be sent is what it said since; dropping the answer drops it.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use http_body::Frame;
use mindos_sdk::Progress;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use crate::report::Used;
use crate::run::Follower;
use crate::server::Answer;

/// What these answers are.
pub(crate) const MEDIA_TYPE: HeaderValue = HeaderValue::from_static("application/x-ndjson");

/// Whether whoever asks takes lines.
pub(crate) fn is_taken(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).into_iter().filter_map(|value| value.to_str().ok());
    let mut ranges = accepted.flat_map(|value| value.split(','));
    ranges.any(|range| range.split(';').next().is_some_and(|media| media.trim() == "application/x-ndjson"))
}

/// The body of an answer.
pub(crate) enum Body {
    Whole(Option<Bytes>),
    Lines { said: mpsc::UnboundedReceiver<Progress>, run: Option<Pin<Box<dyn Future<Output = Answer> + Send>>> },
}

impl Body {
    pub(crate) fn whole(bytes: Vec<u8>) -> Body {
        Body::Whole(Some(Bytes::from(bytes)))
    }

    /// What `run` says to its follower, and how it ends.
    pub(crate) fn lines<F>(run: impl FnOnce(Follower) -> F) -> Body
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        let (lines, said) = mpsc::unbounded_channel();
        Body::Lines { said, run: Some(Box::pin(run(Follower::Lines(lines)))) }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Body::Whole(_) => "Whole",
            Body::Lines { .. } => "Lines",
        })
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let line = match self.get_mut() {
            Body::Whole(bytes) => bytes.take(),
            Body::Lines { said, run } => {
                let Some(running) = run else { return Poll::Ready(None) };
                let ended = running.as_mut().poll(context);
                // What it said on its way comes before how it ended. Polled after it, so that what it says wakes nobody in vain.
                if let Poll::Ready(Some(progress)) = said.poll_recv(context) {
                    if let Poll::Ready(answer) = ended {
                        *run = Some(Box::pin(std::future::ready(answer)));
                    }
                    Some(progress_line(progress))
                } else {
                    let answer = ready!(ended);
                    *run = None;
                    Some(last_line(answer))
                }
            }
        };
        Poll::Ready(line.map(|line| Ok(Frame::data(line))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Body::Whole(None) | Body::Lines { run: None, .. })
    }

    fn size_hint(&self) -> http_body::SizeHint {
        match self {
            Body::Whole(bytes) => {
                http_body::SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len().try_into().unwrap_or(0)))
            }
            Body::Lines { .. } => http_body::SizeHint::default(),
        }
    }
}

fn progress_line(Progress { note, usage, checkpoint, wanted: _ }: Progress) -> Bytes {
    #[derive(Serialize)]
    struct Line {
        progress: Members,
    }
    #[derive(Serialize)]
    struct Members {
        #[serde(skip_serializing_if = "String::is_empty")]
        note: String,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        usage: Vec<Used>,
        #[serde(skip_serializing_if = "String::is_empty")]
        checkpoint: String,
    }
    let usage = usage.into_iter().map(Used::from).collect();
    written(&Line { progress: Members { note, usage, checkpoint: BASE64_STANDARD.encode(checkpoint) } })
}

fn last_line(Answer { status, retry_after, body }: Answer) -> Bytes {
    #[derive(Serialize)]
    struct Line<'a> {
        status: u16,
        #[serde(skip_serializing_if = "Option::is_none")]
        retry_after: Option<u64>,
        body: Option<&'a RawValue>,
    }
    written(&Line { status: status.as_u16(), retry_after, body: serde_json::from_slice(&body).ok() })
}

fn written(line: &impl Serialize) -> Bytes {
    let mut bytes = serde_json::to_vec(line).unwrap_or_default();
    bytes.push(b'\n');
    Bytes::from(bytes)
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use http_body_util::BodyExt;
    use mindos_sdk::Usage;

    use super::*;

    #[test]
    fn lines_are_for_those_that_take_them() {
        let taken = |accept: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            is_taken(&headers)
        };
        assert!(taken("application/json, application/x-ndjson, */*;q=0.5") && taken("application/x-ndjson;q=1"));
        assert!(!taken("*/*") && !taken("application/json") && !is_taken(&HeaderMap::new()));
    }

    #[test]
    fn what_a_run_says_comes_before_how_it_ended() {
        let body = Body::lines(|follower| async move {
            let Follower::Lines(lines) = follower else { panic!("another follower") };
            let usage = vec![Usage { model: "m".into(), input_tokens: 7, ..Usage::default() }];
            lines.send(Progress { note: "one".into(), usage, ..Progress::default() }).unwrap();
            tokio::task::yield_now().await;
            lines.send(Progress { checkpoint: b"hi".to_vec(), ..Progress::default() }).unwrap();
            Answer { status: StatusCode::TOO_MANY_REQUESTS, retry_after: Some(7), body: b"{\"a\": 1}".to_vec() }
        });
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let all = runtime.block_on(body.collect()).unwrap().to_bytes();
        let lines: Vec<serde_json::Value> =
            all.split_inclusive(|byte| *byte == b'\n').map(|line| serde_json::from_slice(line).unwrap()).collect();
        assert_eq!((lines.len(), &lines[0]["progress"]["note"]), (3, &"one".into()));
        assert_eq!(lines[0]["progress"]["usage"][0]["input_tokens"], 7);
        assert_eq!(lines[1], serde_json::json!({"progress": {"checkpoint": "aGk="}}));
        assert_eq!(lines[2], serde_json::json!({"status": 429, "retry_after": 7, "body": {"a": 1}}));
    }
}
