//! The well-behaved client: publishes at a steady rate and notes how long each answer takes; and opens a connection of its own now
//! and then.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mindos_proto::agent::v1::{AgentMessage, ConnectRequest, Heartbeat, Hello, ServedGeneral, agent_message};
use mindos_proto::event::v1::PublishRequest;
use mindos_proto::event::v1::event_service_client::EventServiceClient;
use prost::Message;
use serde_json::{Value, json};
use tonic::Request;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};

use super::stills::{self, Stills};
use crate::client::event;

/// Between two publications.
const INTERVAL: Duration = Duration::from_millis(5);
/// Between two connections of its own.
const FRESH_INTERVAL: Duration = Duration::from_millis(250);
/// How long an answer may take before it counts as none.
const PATIENCE: Duration = Duration::from_secs(5);

/// How the answers came.
#[derive(Clone, Debug, Default)]
pub(super) struct Latencies {
    answers: Vec<Answer>,
    fresh: Vec<Answer>,
    errors: Vec<String>,
    failed: u64,
    /// Since when the client is at it, and until when.
    span: (u64, u64),
    /// Answers during which the machine stood still.
    aside: Vec<Answer>,
    stood_still: Option<(usize, u64)>,
}

/// When it was asked for, and how long it took, in microseconds.
type Answer = (u64, u64);

impl Latencies {
    /// Sets those answers aside during which the machine stood still: what is left tells of the server.
    pub(super) fn set_aside(&mut self, stills: &Stills) {
        self.stood_still = Some(stills.within(self.span.0, self.span.1));
        let hit = |answer: &Answer| stills.hit(answer.0, answer.0 + answer.1);
        self.fresh.retain(|answer| !hit(answer));
        (self.aside, self.answers) = self.answers.drain(..).partition(hit);
    }

    pub(super) fn p99(&self) -> Duration {
        Duration::from_micros(quantile(&self.answers, 0.99))
    }

    pub(super) fn failed(&self) -> u64 {
        self.failed
    }

    pub(super) fn answered(&self) -> usize {
        self.answers.len()
    }

    pub(super) fn report(&self) -> Value {
        let millis = |micros: u64| (micros as f64 / 10.0).round() / 100.0;
        let stood_still = self.stood_still.map(|(times, micros)| {
            let all = [&self.answers[..], &self.aside].concat();
            json!({
                "times": times,
                "ms": micros / 1000,
                "answers_set_aside": self.aside.len(),
                "p99_ms_with_them": millis(quantile(&all, 0.99)),
            })
        });
        json!({
            "answered": self.answers.len(),
            "failed": self.failed,
            "p50_ms": millis(quantile(&self.answers, 0.5)),
            "p99_ms": millis(quantile(&self.answers, 0.99)),
            "max_ms": millis(quantile(&self.answers, 1.0)),
            "on_a_fresh_connection": {
                "answered": self.fresh.len(),
                "p50_ms": millis(quantile(&self.fresh, 0.5)),
                "max_ms": millis(quantile(&self.fresh, 1.0)),
            },
            "machine_stood_still": stood_still,
            "errors": self.errors,
        })
    }
}

fn quantile(answers: &[Answer], quantile: f64) -> u64 {
    let mut micros: Vec<u64> = answers.iter().map(|(_, took)| *took).collect();
    micros.sort_unstable();
    let rank = (micros.len() as f64 * quantile).ceil() as usize;
    micros.get(rank.saturating_sub(1)).copied().unwrap_or(0)
}

/// The client.
#[derive(Clone, Debug)]
pub(super) struct Steady {
    endpoint: Endpoint,
    channel: Channel,
    token: Option<MetadataValue<tonic::metadata::Ascii>>,
    next: Arc<AtomicU64>,
}

impl Steady {
    pub(super) fn new(server: &str, token: Option<&str>) -> Result<Steady> {
        let endpoint = Endpoint::from_shared(server.to_owned()).context("failed to read an address")?;
        let endpoint = endpoint.connect_timeout(PATIENCE).timeout(PATIENCE);
        let token =
            token.map(|token| format!("Bearer {token}").parse()).transpose().context("a token is plain text")?;
        Ok(Steady { channel: endpoint.connect_lazy(), endpoint, token, next: Arc::default() })
    }

    /// One publication, over a connection of its own or the one that is kept.
    pub(super) async fn publish(&self, fresh: bool) -> Result<(), String> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let channel = match fresh {
            true => self.endpoint.connect().await.map_err(|error| format!("no connection: {error}"))?,
            false => self.channel.clone(),
        };
        let event = event("/well-behaved", &number.to_string(), "work", &format!("lane-{number}"));
        let mut request = Request::new(PublishRequest { event: Some(event), explain: false });
        if let Some(token) = &self.token {
            request.metadata_mut().insert("authorization", token.clone());
        }
        let answered = EventServiceClient::new(channel).publish(request).await;
        answered.map(drop).map_err(|status| format!("{:?}: {}", status.code(), status.message()))
    }

    /// Publishes until `end`.
    pub(super) async fn run(&self, end: impl Future<Output = ()>) -> Latencies {
        let latencies = Arc::new(Mutex::new(Latencies { span: (stills::now(), 0), ..Latencies::default() }));
        tokio::pin!(end);
        let mut tasks = tokio::task::JoinSet::new();
        let mut ticks = tokio::time::interval(INTERVAL);
        let mut fresh_at = Instant::now();
        loop {
            tokio::select! {
                () = &mut end => break,
                _ = ticks.tick() => {}
            }
            let fresh = Instant::now() >= fresh_at;
            if fresh {
                fresh_at = Instant::now() + FRESH_INTERVAL;
            }
            for fresh in if fresh { &[false, true][..] } else { &[false] } {
                let (steady, latencies, fresh) = (self.clone(), Arc::clone(&latencies), *fresh);
                tasks.spawn(async move {
                    let (began, at) = (Instant::now(), stills::now());
                    let answer = steady.publish(fresh).await;
                    let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
                    let mut latencies = latencies.lock().expect("nobody panics with it");
                    match answer {
                        Ok(()) if fresh => latencies.fresh.push((at, took)),
                        Ok(()) => latencies.answers.push((at, took)),
                        Err(error) => {
                            latencies.failed += 1;
                            if latencies.errors.len() < 3 && !latencies.errors.contains(&error) {
                                latencies.errors.push(error);
                            }
                        }
                    }
                });
            }
            while tasks.try_join_next().is_some() {}
        }
        while tasks.join_next().await.is_some() {}
        let mut latencies = latencies.lock().expect("nobody panics with it").clone();
        latencies.span.1 = stills::now();
        latencies
    }
}

fn message(first_number: u64, message: agent_message::Message) -> Vec<u8> {
    let frame = ConnectRequest { first_number, messages: vec![AgentMessage { message: Some(message) }] };
    let body = frame.encode_to_vec();
    let length = u32::try_from(body.len()).unwrap_or(0).to_be_bytes();
    [&[0][..], &length, &body].concat()
}

/// The first message of an agent, as gRPC frames it.
pub(super) fn hello_frame(number: usize) -> Vec<u8> {
    let general = ServedGeneral { r#type: "attacker".to_owned(), ..ServedGeneral::default() };
    let hello = Hello {
        protocol_min: 1,
        protocol_max: 1,
        version: "0.1.0".to_owned(),
        cluster: "attack".to_owned(),
        instance_id: format!("attack-{number}"),
        boot_id: "b1".to_owned(),
        generals: vec![general],
        ..Hello::default()
    };
    message(1, agent_message::Message::Hello(hello))
}

/// A heartbeat, as gRPC frames it.
pub(super) fn heartbeat_frame(number: u64) -> Vec<u8> {
    message(number, agent_message::Message::Heartbeat(Heartbeat::default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hundredth_of_a_hundred_is_their_p99_from_below() {
        let answers: Vec<Answer> = (1..=100).rev().map(|took| (0, took)).collect();
        assert_eq!((quantile(&answers, 0.99), quantile(&answers, 0.5), quantile(&answers, 1.0)), (99, 50, 100));
        assert_eq!(quantile(&[], 0.5), 0);
    }
}
