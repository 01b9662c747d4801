//! Between the two cores: what the stream services of both sides do to a message.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use mindos_core::budget::Limit;
use mindos_core::input::{
    AgentMessage, CeilingsWanted, Extend, Hello, HelloGeneral, Input, ModelLoad, ReportedLoad, ReportedOutcome,
    ResultReport, SessionId,
};
use mindos_core::output::{Claim, PlaneMessage, SettledVerdict};
use mindos_core::record::{CancelReason, InstanceKey, Labels, Payload, Usage};
use mindos_model::{FailureKind, Timestamp};
use mindos_sidecar_core as sidecar;
use mindos_sidecar_core::{Agent, Config, Down, Outcome, Up};

use crate::words;

/// How long a general may take to stop.
const GRACE: std::time::Duration = std::time::Duration::from_secs(10);

/// What a message from an agent is to the plane.
#[must_use]
pub(crate) fn up(session: SessionId, key: &Arc<InstanceKey>, config: &Config, message: Up<()>) -> Vec<Input> {
    let agent = |message| Input::Agent { session, message };
    let name = |index: sidecar::GeneralIndex| config.generals[usize::from(index.0)].name.clone();
    match message {
        Up::Hello(hello) => {
            let generals = config.generals.iter().map(|general| HelloGeneral {
                name: general.name.clone(),
                ty: general.ty.clone(),
                labels: labels(&general.labels),
                // Slots come with the first grant.
                slots: 0,
            });
            vec![Input::Hello(Box::new(Hello {
                session,
                key: key.clone(),
                boot: config.boot.clone(),
                version: Arc::from(config.version.as_str()),
                region: config.region.clone(),
                cluster_labels: Vec::new(),
                pod: Default::default(),
                generals: generals.collect(),
                // One of the clusters has generals of the simpler kind.
                keeps_ceilings: config.cluster.as_str() == "c1",
                held: hello.claims,
            }))]
        }
        Up::Grant { capacities, last_assign: _ } => {
            let grant = |(index, capacity)| agent(AgentMessage::Grant { general: name(index), capacity });
            capacities.into_iter().map(grant).collect()
        }
        Up::Accept { delivery, token } => vec![agent(AgentMessage::Accept { delivery, token })],
        Up::Decline { delivery, token, retry_at, message } => {
            vec![agent(AgentMessage::Decline { delivery, token, retry_at: Some(retry_at), message })]
        }
        Up::Extend(extend) => {
            let sidecar::Extend { delivery, token, progress } = extend;
            // The general's notes count up; see `agents::Host::progress`.
            let noted = progress.as_ref().and_then(|progress| progress.note.parse().ok()).unwrap_or(0);
            let checkpoint = progress.as_ref().filter(|progress| !progress.checkpoint.is_empty());
            let checkpoint = checkpoint
                .map(|progress| Payload { salt: [7; 16], bytes: Bytes::copy_from_slice(&progress.checkpoint) });
            let usage = if noted > 0 { vec![used(100 * noted)] } else { Vec::new() };
            let limit = |micros| Limit { micros: Some(micros), ..Limit::default() };
            let wanted = match noted % 4 {
                0 => Some(CeilingsWanted::More(limit(50 * noted))),
                2 => Some(CeilingsWanted::InAll(limit(150 * noted))),
                _ => None,
            };
            let extend = Extend { delivery, token, progress: noted, checkpoint, usage, wanted };
            vec![agent(AgentMessage::Extend(Box::new(extend)))]
        }
        Up::Result { delivery, token, finish } => {
            let outcome = match finish.outcome {
                Outcome::Succeeded => ReportedOutcome::Succeeded {
                    output: Some(words::payload("done")),
                    output_type: None,
                    output_ref: None,
                },
                Outcome::Failed { kind, message } => ReportedOutcome::Failed { kind, message },
                Outcome::Cancelled { reason: _ } => {
                    ReportedOutcome::Failed { kind: FailureKind::Cancelled, message: Arc::from("") }
                }
            };
            // Models whose use varies tenfold, and some that say nothing of it.
            let drawn = words::hash(&[&delivery.event.0.to_le_bytes(), &token.term.to_le_bytes()]);
            let usage = if drawn.is_multiple_of(5) { Vec::new() } else { vec![used(100 + drawn % 901)] };
            // Some want things done outside, a few of them under keys of their own that come again.
            let count = if drawn.is_multiple_of(3) { 1 + drawn / 3 % 3 } else { 0 };
            let of = Some(delivery).filter(|_| !drawn.is_multiple_of(7));
            let effects = crate::world::intents(&format!("k{}", drawn % 31), of, count);
            vec![agent(AgentMessage::Result(Box::new(ResultReport { delivery, token, outcome, usage, effects })))]
        }
        Up::Heartbeat { loads, leases: _ } => {
            let loads = config.generals.iter().zip(loads).map(|(general, load)| {
                let model = model(load.in_flight);
                let load = ReportedLoad { in_flight: load.in_flight, queued: 0, latency: load.latency, model };
                (general.name.clone(), load)
            });
            vec![agent(AgentMessage::Heartbeat { loads: loads.collect() })]
        }
        Up::Reconcile { request: _, claims, last_assign: _ } => vec![agent(AgentMessage::Reconcile { held: claims })],
        Up::Reconciled { .. } => Vec::new(),
        Up::Draining { deadline: _, generals: _ } => vec![agent(AgentMessage::Draining)],
    }
}

/// One model's use, a token for a millionth.
fn used(micros: u64) -> Usage {
    Usage { model: Arc::from("m"), input_tokens: micros, output_tokens: 0, cost_micros: micros }
}

fn labels(labels: &BTreeMap<String, String>) -> Labels {
    labels.iter().map(|(key, value)| (Arc::from(key.as_str()), Arc::from(value.as_str()))).collect()
}

/// What a model would report that works on so much, two at a time.
fn model(in_flight: u32) -> Option<Box<ModelLoad>> {
    let running = in_flight.min(2);
    let cache = u16::try_from(in_flight * 230).unwrap_or(u16::MAX).min(1000);
    let queue = in_flight - running;
    let load = ModelLoad { running, queue, cache_permille: Some(cache), ..ModelLoad::default() };
    (in_flight > 0).then(|| Box::new(ModelLoad { tokens_per_second: Some(running * 40), ..load }))
}

/// What a message from the plane is to the agent; none when it names a general that the agent does not have.
#[must_use]
pub(crate) fn down(message: PlaneMessage, agent: &Agent<(), ()>, now: Timestamp) -> Option<Down<()>> {
    let verdict = |claim: Claim| match claim {
        Claim::Keep => sidecar::Verdict::Keep,
        Claim::Cancel => sidecar::Verdict::Cancel,
        Claim::Unknown => sidecar::Verdict::Unknown,
    };
    Some(match message {
        PlaneMessage::Welcome { epoch, verdicts } => Down::Welcome(sidecar::Welcome {
            session: Arc::from(format!("e{epoch}")),
            intervals: sidecar::Intervals::default(),
            verdicts: verdicts.into_iter().map(|(id, token, claim)| (id, token, verdict(claim))).collect(),
        }),
        PlaneMessage::Assign(assign) => Down::Assign(sidecar::Assign {
            delivery: assign.delivery,
            token: assign.token,
            general: agent.general(assign.general.name.as_str())?,
            lease: Some(assign.lease),
            deadline: Some(now + assign.deadline),
            work: (),
        }),
        PlaneMessage::Extended { delivery, token, ceilings: _ } => Down::Extended { delivery, token, lease: None },
        PlaneMessage::Lost { delivery, token } => Down::Lost { delivery, token },
        PlaneMessage::Cancel { delivery, token, reason } => {
            let reason = match reason {
                CancelReason::Superseded { .. } => sidecar::CancelReason::Superseded,
                CancelReason::Requested
                | CancelReason::Expired
                | CancelReason::ShadowFailed
                | CancelReason::ReplayFailed
                | CancelReason::ReplayOverBudget
                | CancelReason::Redacted => sidecar::CancelReason::Human,
                CancelReason::RaceLost { .. } => sidecar::CancelReason::RaceLost,
            };
            Down::Cancel { delivery, token, reason, grace: GRACE }
        }
        PlaneMessage::Settled { delivery, token, verdict, effects: _ } => {
            let verdict = match verdict {
                SettledVerdict::Settled => sidecar::SettledVerdict::Settled,
                SettledVerdict::Stale { .. } => sidecar::SettledVerdict::Refused,
                SettledVerdict::Unknown => sidecar::SettledVerdict::Unknown,
            };
            Down::Settled { delivery, token, verdict }
        }
        PlaneMessage::Reconciled { verdicts } => {
            let verdicts = verdicts.into_iter().map(|(id, token, claim)| (id, token, verdict(claim)));
            Down::Reconciled { verdicts: verdicts.collect() }
        }
        PlaneMessage::Drain => Down::Drain { generals: Vec::new(), reconnect: false },
    })
}
