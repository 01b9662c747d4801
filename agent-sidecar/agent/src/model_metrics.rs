//! Load of a model server, from the metrics that it shows to Prometheus: vLLM's and llama.cpp's.
//!
//! | read as | vLLM | llama.cpp |
//! |---|---|---|
//! | requests in work | `vllm:num_requests_running` | `llamacpp:requests_processing` |
//! | requests that wait | `vllm:num_requests_waiting` | `llamacpp:requests_deferred` |
//! | use of the cache | `vllm:kv_cache_usage_perc`, before `vllm:gpu_cache_usage_perc` | `llamacpp:kv_cache_usage_ratio` |
//! | tokens a second | growth of `vllm:generation_tokens_total` | `llamacpp:predicted_tokens_seconds` |
//!
//! Several engines behind one address count together, the fullest cache for all. Invariant: a scrape ends within [`SCRAPE_MAX`] and
//! reads at most [`BODY_MAX`] bytes; without one that succeeded nothing is reported.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use mindos_sdk::ModelLoad;
use tracing::{info, warn};

use crate::http_adapter::read;

/// How long a scrape may take.
const SCRAPE_MAX: Duration = Duration::from_secs(2);
/// Bytes of metrics that are read; more than that is refused.
const BODY_MAX: usize = 1024 * 1024;
/// Two scrapes further apart say nothing of the speed between them.
const APART_MAX: Duration = Duration::from_secs(60);
/// Bytes of a model's name that are reported.
const NAME_MAX: usize = 63;

/// Reads the metrics of one model server.
#[derive(Debug)]
pub(crate) struct Scraper {
    client: Client<HttpConnector, Full<Bytes>>,
    address: Uri,
    last: Mutex<Last>,
}

#[derive(Debug, Default)]
struct Last {
    /// Tokens written in all, and when that was.
    tokens: Option<(f64, Instant)>,
    /// Whether the last scrape succeeded; unset before the first.
    worked: Option<bool>,
}

/// What one scrape shows.
#[derive(Clone, Debug, Default, PartialEq)]
struct Sample {
    model: String,
    running: Option<f64>,
    waiting: Option<f64>,
    cache: Option<f64>,
    tokens_total: Option<f64>,
    tokens_per_second: Option<f64>,
}

impl Scraper {
    pub(crate) fn new(address: Uri) -> Scraper {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(SCRAPE_MAX));
        let client = Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector);
        Scraper { client, address, last: Mutex::default() }
    }

    /// The load of this moment; none when the server does not answer, or shows nothing that is known.
    pub(crate) async fn scrape(&self) -> Option<ModelLoad> {
        let scraped = match tokio::time::timeout(SCRAPE_MAX, self.get()).await {
            Ok(Ok(body)) => {
                Sample::read(&String::from_utf8_lossy(&body)).ok_or("no metric of vLLM or llama.cpp".to_owned())
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(format!("no answer within {} s", SCRAPE_MAX.as_secs())),
        };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let worked = scraped.is_ok();
        if last.worked.replace(worked) != Some(worked) {
            match &scraped {
                Ok(sample) => info!(address = %self.address, model = %sample.model, "model metrics read"),
                Err(error) => warn!(%error, address = %self.address, "model metrics not read"),
            }
        }
        let sample = scraped.ok()?;
        let now = Instant::now();
        let before = std::mem::replace(&mut last.tokens, sample.tokens_total.map(|total| (total, now)));
        drop(last);
        let speed = before.and_then(|(total, at)| sample.speed_since(total, now.duration_since(at)));
        Some(sample.load(speed))
    }

    async fn get(&self) -> Result<Bytes, String> {
        let mut request = Request::new(Full::default());
        *request.uri_mut() = self.address.clone();
        let response = self.client.request(request).await.map_err(|error| crate::http_adapter::chain(&error))?;
        if !response.status().is_success() {
            return Err(format!("answered {}", response.status().as_u16()));
        }
        read(response.into_body(), BODY_MAX).await.map_err(|_| format!("broke off, or has more than {BODY_MAX} bytes"))
    }
}

impl Sample {
    /// Reads the text format; `None` when nothing in it is known.
    fn read(text: &str) -> Option<Sample> {
        let mut sample = Sample::default();
        let mut older_cache = None;
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((name, labels, value)) = metric(line) else { continue };
            let sum = |field: &mut Option<f64>| *field = Some(field.unwrap_or(0.0) + value);
            let most = |field: &mut Option<f64>| *field = Some(field.unwrap_or(0.0).max(value));
            match name {
                "vllm:num_requests_running" | "llamacpp:requests_processing" => sum(&mut sample.running),
                "vllm:num_requests_waiting" | "llamacpp:requests_deferred" => sum(&mut sample.waiting),
                "vllm:kv_cache_usage_perc" | "llamacpp:kv_cache_usage_ratio" => most(&mut sample.cache),
                "vllm:gpu_cache_usage_perc" => most(&mut older_cache),
                "vllm:generation_tokens_total" => sum(&mut sample.tokens_total),
                "llamacpp:predicted_tokens_seconds" => sum(&mut sample.tokens_per_second),
                _ => continue,
            }
            if sample.model.is_empty() {
                sample.model = label(labels, "model_name").chars().take(NAME_MAX).collect();
            }
        }
        sample.cache = sample.cache.or(older_cache);
        (sample != Sample::default()).then_some(sample)
    }

    /// Tokens a second since the scrape before.
    fn speed_since(&self, total: f64, passed: Duration) -> Option<f64> {
        // A server that was started anew counts from the beginning.
        let grown = self.tokens_total.filter(|now| *now >= total)? - total;
        (!passed.is_zero() && passed <= APART_MAX).then(|| grown / passed.as_secs_f64())
    }

    fn load(self, speed: Option<f64>) -> ModelLoad {
        let Sample { model, running, waiting, cache, tokens_total: _, tokens_per_second } = self;
        // A cast of a float saturates.
        let count = |value: Option<f64>| value.unwrap_or(0.0).round() as u32;
        ModelLoad {
            model,
            running: count(running),
            queue: count(waiting),
            cache_use: cache.map(|share| share.clamp(0.0, 1.0)),
            tokens_per_second: tokens_per_second.or(speed),
            requests: None,
            tokens: None,
        }
    }
}

/// Name, labels and value of a line; `None` when it is none, or its value is no number from 0.
fn metric(line: &str) -> Option<(&str, &str, f64)> {
    let (name, labels, rest) = match line.split_once('{') {
        Some((name, rest)) => {
            let (labels, rest) = rest.rsplit_once('}')?;
            (name, labels, rest)
        }
        None => {
            let (name, rest) = line.split_once(' ')?;
            (name, "", rest)
        }
    };
    let value: f64 = rest.split_ascii_whitespace().next()?.parse().ok()?;
    (value.is_finite() && value >= 0.0).then_some((name.trim(), labels, value))
}

/// The value of a label, without its escapes undone; empty when there is none.
fn label<'a>(labels: &'a str, name: &str) -> &'a str {
    let found = labels.split(',').find_map(|label| label.trim().strip_prefix(name)?.strip_prefix("=\""));
    found.and_then(|value| value.split('"').next()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const VLLM: &str = r#"# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="meta-llama/Llama-3.1-8B"} 5.0
vllm:num_requests_running{engine="1",model_name="meta-llama/Llama-3.1-8B"} 3.0
vllm:num_requests_waiting{engine="0",model_name="meta-llama/Llama-3.1-8B"} 12.0
vllm:kv_cache_usage_perc{engine="0",model_name="meta-llama/Llama-3.1-8B"} 0.42
vllm:kv_cache_usage_perc{engine="1",model_name="meta-llama/Llama-3.1-8B"} 0.91
vllm:generation_tokens_total{engine="0",model_name="meta-llama/Llama-3.1-8B"} 1.234e+06
vllm:e2e_request_latency_seconds_bucket{le="0.3",model_name="a}b"} 0.0
"#;
    const LLAMA: &str = "# TYPE llamacpp:requests_processing gauge\nllamacpp:requests_processing 2\n\
        llamacpp:requests_deferred 7\nllamacpp:kv_cache_usage_ratio 0.5\nllamacpp:predicted_tokens_seconds 31.25\n";

    #[test]
    fn the_engines_of_a_vllm_count_together() {
        let sample = Sample::read(VLLM).unwrap();
        assert_eq!(sample.model, "meta-llama/Llama-3.1-8B");
        assert_eq!(sample.speed_since(1_233_000.0, Duration::from_secs(5)), Some(200.0));
        assert_eq!(sample.speed_since(9e9, Duration::from_secs(5)), None, "it was started anew");
        assert_eq!(sample.speed_since(1.0, Duration::from_secs(61)), None);
        let load = sample.load(Some(200.0));
        assert_eq!((load.running, load.queue, load.cache_use), (8, 12, Some(0.91)));
        assert_eq!(load.tokens_per_second, Some(200.0));
    }

    #[test]
    fn a_llama_cpp_says_its_speed_itself() {
        let load = Sample::read(LLAMA).unwrap().load(Some(9.0));
        assert_eq!((load.running, load.queue, load.cache_use), (2, 7, Some(0.5)));
        assert_eq!(load.tokens_per_second, Some(31.25));
    }

    #[test]
    fn an_older_vllm_names_its_cache_otherwise() {
        let sample = Sample::read("vllm:gpu_cache_usage_perc{model_name=\"m\"} 0.25 1700000000000\n").unwrap();
        assert_eq!((sample.cache, sample.model.as_str()), (Some(0.25), "m"));
    }

    #[test]
    fn what_is_not_known_or_no_number_is_passed_over() {
        for text in
            ["", "up 1\n", "vllm:num_requests_running NaN\n", "vllm:num_requests_running{a=\"b\" 1\n", "\u{0}\n"]
        {
            assert_eq!(Sample::read(text), None, "{text:?}");
        }
        let huge = Sample::read("vllm:num_requests_waiting 1e30\nvllm:kv_cache_usage_perc 7\n").unwrap().load(None);
        assert_eq!((huge.queue, huge.cache_use), (u32::MAX, Some(1.0)));
    }
}
