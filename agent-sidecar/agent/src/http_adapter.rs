//! Generals that serve HTTP: `POST /process`, `GET /ready`, and where that is not known `GET /health`.
//!
//! | answer | outcome |
//! |---|---|
//! | 2xx | succeeded, the body is the output |
//! | 429 | rate limited until `Retry-After` (seconds or a date), else until the provider's reset, else for a minute |
//! | 408, 425, 5xx, no answer | transient |
//! | 413 | too large |
//! | 402 | over budget |
//! | anything else | poison |
//!
//! A general cannot be asked in mid-run here, so its ceilings go along as headers: `mindos-ceiling-cost-micros`,
//! `mindos-ceiling-tokens` and `mindos-ceiling-time-ms`, each where there is a limit. An answer in JSON may have a member `usage` that
//! says what was used: a list of `{model, input_tokens, output_tokens, cost_micros}`, or one of them, or what providers call
//! `prompt_tokens` and `completion_tokens` beside a member `model`. What is not understood is not counted. A member `effects` says what is
//! to be done outside; see `answer`. With `--repository-access` the body has a member `repository_access`.

use std::borrow::Cow;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use mindos_sdk::model::Timestamp;
use mindos_sdk::{Ceilings, Clock, Failure, Output, ProviderLimits, RepositoryAccess, Work, retry_after};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::answer::{self, Answer};
use crate::cloudevent;
use crate::general::{About, AccessMember, excerpt};

const CONNECT_MAX: Duration = Duration::from_secs(5);
/// A general that is gone without a word, with its machine, is noticed after three of these.
const KEEPALIVE: Duration = Duration::from_secs(10);
const KEEPALIVES: u32 = 3;
/// How long a connection is kept for the next piece of work.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// How long to wait where a general says that it is limited and not until when.
const RATE_LIMIT_WAIT: Duration = Duration::from_secs(60);
/// Bytes of an answer that are quoted in a failure.
const EXCERPT: usize = 512;
/// Bytes of an answer to a failure that are read, for what was used.
const FAILURE_MAX: usize = 64 * 1024;

/// Connections to generals. Cheap to clone; all clones share their connections.
#[derive(Clone, Debug)]
pub struct HttpClient(Client<HttpConnector, Full<Bytes>>);

impl Default for HttpClient {
    fn default() -> HttpClient {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_MAX));
        connector.set_keepalive(Some(KEEPALIVE));
        connector.set_keepalive_interval(Some(KEEPALIVE));
        connector.set_keepalive_retries(Some(KEEPALIVES));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_MAX)
            .build(connector);
        HttpClient(client)
    }
}

/// A general that is called over HTTP.
#[derive(Debug)]
pub struct Http {
    client: HttpClient,
    process: Uri,
    ready: Uri,
    health: Uri,
    about: About,
    clock: Clock,
    /// What the provider behind it allows, as its answers say.
    limits: Mutex<ProviderLimits>,
}

/// The body of `POST /process`.
#[derive(Debug, Serialize)]
struct ProcessRequest<'a> {
    event_type: &'a str,
    job_id: &'a str,
    timestamp: &'a str,
    data: &'a RawValue,
    general_info: GeneralInfo<'a>,
    /// Only with `--repository-access`.
    #[serde(skip_serializing_if = "Option::is_none")]
    repository_access: Option<AccessMember<'a>>,
}

#[derive(Debug, Serialize)]
struct GeneralInfo<'a> {
    name: &'a str,
    r#type: &'a str,
    cluster: &'a str,
    instance: &'a str,
    delivery: &'a str,
    attempt: u32,
    lane: &'a str,
    route: &'a str,
    live: bool,
    /// `live`, `shadow` or `replay`: effects are held back in all but the first.
    mode: &'a str,
}

impl Http {
    /// A general at `base`, which is `http://<host>:<port>`.
    ///
    /// # Panics
    /// When `base` is no such address.
    #[must_use]
    pub fn new(client: HttpClient, base: &Uri, about: About) -> Http {
        let at = |path: &'static str| {
            let mut parts = base.clone().into_parts();
            parts.path_and_query = Some(http::uri::PathAndQuery::from_static(path));
            Uri::from_parts(parts).expect("a checked address and a fixed path")
        };
        Http {
            client,
            process: at("/process"),
            ready: at("/ready"),
            health: at("/health"),
            about,
            clock: Clock::start(),
            limits: Mutex::default(),
        }
    }

    /// Whether work may come.
    pub async fn ready(&self) -> bool {
        match self.ask(&self.ready).await {
            // It has no word of its own for that.
            Some(StatusCode::NOT_FOUND) => self.ask(&self.health).await.is_some_and(|status| status.is_success()),
            answer => answer.is_some_and(|status| status.is_success()),
        }
    }

    async fn ask(&self, uri: &Uri) -> Option<StatusCode> {
        let mut request = Request::new(Full::default());
        *request.uri_mut() = uri.clone();
        let response = self.client.0.request(request).await.ok()?;
        let status = response.status();
        // Read to its end, so that the connection can be used again.
        let _ = read(response.into_body(), EXCERPT).await;
        Some(status)
    }

    /// Does one piece of work.
    ///
    /// # Errors
    /// As its answer says, or because there is none.
    pub async fn process(&self, work: Work) -> Result<Output, Failure> {
        let access = self.about.access(&work).await?;
        let mut request = Request::new(Full::new(self.body(&work, access.as_ref())?));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.process.clone();
        let headers = request.headers_mut();
        headers.extend(cloudevent::headers(&work.event));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert("mindos-mode", HeaderValue::from_static(work.mode.as_str()));
        for (name, value) in [("traceparent", &work.traceparent), ("tracestate", &work.tracestate)] {
            if let Ok(value) = HeaderValue::try_from(value)
                && !value.is_empty()
            {
                headers.insert(name, value);
            }
        }
        headers.extend(ceilings(work.spending().ceilings()));
        let unreachable =
            |error: &dyn std::error::Error| Failure::transient(format!("general did not answer: {}", chain(error)));
        let response = self.client.0.request(request).await.map_err(|error| unreachable(&error))?;
        let (parts, body) = response.into_parts();
        let heard = ProviderLimits::read(&parts.headers, self.clock.now());
        if heard != ProviderLimits::default() {
            let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
            *limits = heard.or(*limits);
        }
        if !parts.status.is_success() {
            let said = read(body, FAILURE_MAX).await.unwrap_or_default();
            let usage = answer::usage(&said);
            return Err(Failure { usage, ..failure(parts.status, &parts.headers, &said, self.clock.now()) });
        }
        let max = self.about.output_max;
        let declared = parts.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if declared.is_some_and(|length| length > max) {
            return Err(Failure::too_large(format!("the output has more than {max} bytes")));
        }
        let data = match read(body, max).await {
            Ok(data) => data,
            Err(ReadError::TooLarge) => {
                return Err(Failure::too_large(format!("the output has more than {max} bytes")));
            }
            Err(ReadError::Broken(error)) => return Err(unreachable(&error)),
        };
        let media = parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let content_type = match media {
            "application/json" => Cow::Borrowed("application/json"),
            other => Cow::Owned(other.chars().take(255).collect()),
        };
        let Answer { usage, effects } = match content_type.starts_with("application/json") {
            true => answer::read(&data)?,
            false => Answer::default(),
        };
        Ok(Output { data, content_type, usage, effects })
    }

    /// What the provider behind it allows still, as far as answers said.
    pub fn limits(&self) -> ProviderLimits {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner).at(self.clock.now())
    }

    fn body(&self, work: &Work, access: Option<&RepositoryAccess>) -> Result<Bytes, Failure> {
        let kind = work.event.attribute("kind");
        let timestamp = match work.event.attribute("time") {
            Some(time) => time.into_owned(),
            None => self.clock.now().to_string(),
        };
        let data = cloudevent::data(&work.event);
        let body = ProcessRequest {
            event_type: kind.as_deref().unwrap_or(work.event.ty()),
            job_id: &work.job_id(),
            timestamp: &timestamp,
            data: &data,
            repository_access: access.map(AccessMember::of),
            general_info: GeneralInfo {
                name: work.general.as_str(),
                r#type: &self.about.ty,
                cluster: self.about.cluster.as_str(),
                instance: &self.about.instance,
                delivery: &work.delivery.to_string(),
                attempt: work.attempt,
                lane: &work.lane,
                route: &work.route,
                live: work.live,
                mode: work.mode.as_str(),
            },
        };
        let json = serde_json::to_vec(&body)
            .map_err(|error| Failure::poison(format!("event is not to be written: {error}")))?;
        Ok(Bytes::from(json))
    }
}

fn ceilings(ceilings: Ceilings) -> HeaderMap {
    let Ceilings { cost_micros, tokens, time } = ceilings;
    let time_ms = time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    let named = [
        ("mindos-ceiling-cost-micros", cost_micros),
        ("mindos-ceiling-tokens", tokens),
        ("mindos-ceiling-time-ms", time_ms),
    ];
    let header = |(name, limit): (&'static str, Option<u64>)| {
        Some((http::HeaderName::from_static(name), HeaderValue::from(limit?)))
    };
    named.into_iter().filter_map(header).collect()
}

fn failure(status: StatusCode, headers: &HeaderMap, said: &[u8], now: Timestamp) -> Failure {
    let said = excerpt(said, EXCERPT);
    let message = format!("general answered {}: {said}", status.as_u16());
    match status {
        StatusCode::TOO_MANY_REQUESTS => {
            let until = headers.get(RETRY_AFTER).and_then(|value| retry_after(value.to_str().ok()?, now));
            let until = until.or_else(|| ProviderLimits::read(headers, now).used_up_until());
            Failure::rate_limited(until.unwrap_or(now + RATE_LIMIT_WAIT), message)
        }
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY => Failure::transient(message),
        StatusCode::PAYLOAD_TOO_LARGE => Failure::too_large(message),
        StatusCode::PAYMENT_REQUIRED => Failure::over_budget(message),
        status if status.is_server_error() => Failure::transient(message),
        _ => Failure::poison(message),
    }
}

pub(crate) enum ReadError {
    TooLarge,
    Broken(hyper::Error),
}

/// The body, if it has at most `max` bytes.
pub(crate) async fn read(mut body: Incoming, max: usize) -> Result<Bytes, ReadError> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(ReadError::Broken)?.into_data() {
            if bytes.len() + data.len() > max {
                return Err(ReadError::TooLarge);
            }
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes.freeze())
}

pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use mindos_sdk::model::FailureKind;

    use super::*;

    const NOW: Timestamp = Timestamp(1_795_176_000_000);

    fn kind(status: u16, header: Option<&'static str>) -> FailureKind {
        let mut headers = HeaderMap::new();
        if let Some(value) = header {
            headers.insert(RETRY_AFTER, HeaderValue::from_static(value));
        }
        failure(StatusCode::from_u16(status).unwrap(), &headers, b"no", NOW).kind
    }

    #[test]
    fn answers_become_failures_by_their_status() {
        for status in [408, 425, 500, 502, 503, 504, 599] {
            assert_eq!(kind(status, None), FailureKind::Transient, "{status}");
        }
        for status in [302, 400, 401, 404, 409, 422] {
            assert_eq!(kind(status, None), FailureKind::Poison, "{status}");
        }
        assert_eq!(kind(413, None), FailureKind::TooLarge);
        assert_eq!(kind(402, None), FailureKind::OverBudget);
    }

    #[test]
    fn ceilings_go_along_as_headers_where_there_are_any() {
        let headers = ceilings(Ceilings { cost_micros: Some(5), tokens: None, time: Some(Duration::from_secs(2)) });
        assert_eq!(headers.len(), 2);
        assert_eq!(
            (&headers["mindos-ceiling-cost-micros"], &headers["mindos-ceiling-time-ms"]),
            (&"5".parse().unwrap(), &"2000".parse().unwrap())
        );
    }

    #[test]
    fn a_rate_limit_lasts_as_long_as_the_general_says() {
        let until = |header| match kind(429, header) {
            FailureKind::RateLimited { until } => until.since(NOW).as_secs(),
            other => panic!("{other}"),
        };
        assert_eq!(until(Some("7")), 7);
        assert_eq!(until(Some("Fri, 20 Nov 2026 12:01:30 GMT")), 90);
        assert_eq!(until(Some("soon")), 60);
        assert_eq!(until(None), 60);

        let mut headers = HeaderMap::new();
        headers.insert("x-ratelimit-remaining-tokens", HeaderValue::from_static("0"));
        headers.insert("x-ratelimit-reset-tokens", HeaderValue::from_static("2m0s"));
        let reset = failure(StatusCode::TOO_MANY_REQUESTS, &headers, b"no", NOW).kind;
        assert_eq!(reset, FailureKind::RateLimited { until: NOW + Duration::from_secs(120) });
    }
}
