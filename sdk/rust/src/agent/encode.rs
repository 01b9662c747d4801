//! Messages of the core, as frames for the control plane.
//!
//! `Accept` and a plain `Result` are written by hand; the rest is rare and encoded as generated.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use mindos_model::FailureKind;
use mindos_proto::agent::v1 as proto;
use mindos_proto::agent::v1::agent_message::Message as Up_;
use mindos_proto::convert;
use mindos_proto::delivery::v1 as delivery;
use mindos_sidecar_core::{
    CancelReason, Ceilings, Claim, Config, Extend, GeneralIndex, Load, Outcome, Progress, Up, Usage, Verdict,
};
use prost::Message;

use super::protobuf::{put_bytes, put_lease, put_varint};
use super::{Body, Finish, Identity};
use crate::general::{ModelLoad, ProviderLimit};

/// A frame is closed when it has this many bytes; one message may be larger.
const FRAME_BYTES: usize = 128 * 1024;
/// Longest message of a failure, in bytes.
const MESSAGE_MAX: usize = 4096;
/// Models reported behind one general.
const MODELS_MAX: usize = 64;
/// Longest note of progress, in bytes.
const NOTE_MAX: usize = 256;

/// Collects messages into numbered frames.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// Messages written on this stream so far.
    numbered: u64,
    /// Messages in `open`.
    count: u64,
    open: BytesMut,
    scratch: BytesMut,
}

/// Who the messages are about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sender<'a> {
    pub(super) config: &'a Config,
    pub(super) identity: &'a Identity,
}

impl Frames {
    /// Numbers start again: another stream.
    pub(super) fn restart(&mut self) {
        self.numbered = 0;
        self.count = 0;
        self.open.clear();
    }

    /// Whether the open frame should leave before more is put into it.
    pub(super) fn is_full(&self) -> bool {
        self.open.len() >= FRAME_BYTES
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The open frame, if there is something in it.
    pub(super) fn take(&mut self) -> Option<Bytes> {
        if self.count == 0 {
            return None;
        }
        // Fields may come in any order: the number stands at the end, when it is known.
        self.open.put_u8(1 << 3);
        put_varint(&mut self.open, self.numbered + 1);
        self.numbered += self.count;
        self.count = 0;
        Some(self.open.split().freeze())
    }

    pub(super) fn put(&mut self, message: Up<Body>, sender: Sender<'_>) {
        self.count += 1;
        match message {
            Up::Accept { delivery, token } => {
                self.scratch.clear();
                put_lease(&mut self.scratch, delivery, token);
                self.put_scratch(3);
            }
            Up::Result { delivery, token, finish: Finish { outcome: Outcome::Succeeded, body } } if is_plain(&body) => {
                self.scratch.clear();
                put_lease(&mut self.scratch, delivery, token);
                put_bytes(&mut self.scratch, 3, &[]);
                if !body.output.is_empty() {
                    put_bytes(&mut self.scratch, 6, &body.output);
                }
                if !body.content_type.is_empty() {
                    put_bytes(&mut self.scratch, 7, body.content_type.as_bytes());
                }
                self.put_scratch(6);
            }
            rare => {
                let message = proto::AgentMessage { message: Some(generated(rare, sender)) };
                self.put_generated(&message);
            }
        }
    }

    /// What the core does not speak of.
    pub(super) fn put_other(&mut self, message: Up_) {
        self.count += 1;
        self.put_generated(&proto::AgentMessage { message: Some(message) });
    }

    fn put_generated(&mut self, message: &proto::AgentMessage) {
        self.open.put_u8(2 << 3 | 2);
        put_varint(&mut self.open, message.encoded_len() as u64);
        message.encode(&mut self.open).expect("a BytesMut grows");
    }

    /// The scratch as field `number` of an `AgentMessage`.
    fn put_scratch(&mut self, number: u8) {
        let len = self.scratch.len();
        let len_len = match len {
            0..0x80 => 1,
            0x80..0x4000 => 2,
            0x4000..0x20_0000 => 3,
            _ => 4,
        };
        self.open.reserve(len + 16);
        self.open.put_u8(2 << 3 | 2);
        put_varint(&mut self.open, (1 + len_len + len) as u64);
        put_bytes(&mut self.open, number, &self.scratch);
    }
}

/// The capability to take an event once for all assignments of a frame.
const SHARED_EVENT: &str = "shared_event";

fn is_plain(body: &Body) -> bool {
    let Body { output: _, content_type: _, output_ref, usage, effects, duration } = body;
    output_ref.is_none() && usage.is_empty() && effects.is_empty() && duration.is_none()
}

fn generated(message: Up<Body>, Sender { config, identity }: Sender<'_>) -> Up_ {
    let name = |general: mindos_sidecar_core::GeneralIndex| {
        config.generals.get(usize::from(general.0)).map(|general| general.name.to_string()).unwrap_or_default()
    };
    match message {
        Up::Hello(hello) => Up_::Hello(proto::Hello {
            protocol_min: 1,
            protocol_max: 1,
            capabilities: std::iter::once(SHARED_EVENT.to_owned())
                .chain(identity.capabilities.iter().cloned())
                .collect(),
            version: config.version.clone(),
            cluster: config.cluster.to_string(),
            region: config.region.as_ref().map(ToString::to_string).unwrap_or_default(),
            cluster_labels: config.cluster_labels.clone(),
            namespace: identity.namespace.clone(),
            pod: identity.pod.clone(),
            instance_id: config.instance.to_string(),
            boot_id: config.boot.to_string(),
            generals: config.generals.iter().map(served).collect(),
            last_session: hello.last_session.map(|session| session.to_string()).unwrap_or_default(),
            claims: claims(&hello.claims),
        }),
        Up::Grant { capacities, last_assign } => Up_::Grant(proto::Grant {
            generals: capacities
                .into_iter()
                .map(|(general, capacity)| proto::GeneralGrant { general: name(general), capacity })
                .collect(),
            last_assign,
        }),
        Up::Accept { delivery, token } => {
            Up_::Accept(proto::Accept { delivery_id: delivery.to_string(), token: Some(token.into()) })
        }
        Up::Decline { delivery, token, retry_at, message } => Up_::Decline(proto::Decline {
            delivery_id: delivery.to_string(),
            token: Some(token.into()),
            failure: Some(failure(FailureKind::RateLimited { until: retry_at }, &message)),
        }),
        Up::Extend(Extend { delivery, token, progress }) => {
            let Progress { note, usage, checkpoint, wanted } =
                progress.map(|progress| (*progress).clone()).unwrap_or_default();
            Up_::Extend(proto::Extend {
                delivery_id: delivery.to_string(),
                token: Some(token.into()),
                progress: cut(&note, NOTE_MAX).to_owned(),
                usage: usage.into_iter().map(used).collect(),
                checkpoint: checkpoint.into(),
                wanted: None,
                ceilings_wanted: wanted.map(ceilings),
            })
        }
        Up::Result { delivery, token, finish: Finish { outcome, body } } => {
            let Body { output, content_type, output_ref, usage, effects, duration } = body;
            Up_::Result(proto::Result {
                delivery_id: delivery.to_string(),
                token: Some(token.into()),
                outcome: Some(self::outcome(outcome)),
                output,
                output_content_type: content_type.into_owned(),
                output_ref: output_ref.unwrap_or_default(),
                usage: usage.into_iter().map(used).collect(),
                effects: crate::effect::sent(delivery, effects),
                duration: duration.map(convert::span),
            })
        }
        Up::Heartbeat { loads, leases } => heartbeat(loads, leases, BTreeMap::new(), Sender { config, identity }),
        Up::Reconcile { request, claims, last_assign } => {
            Up_::Reconcile(proto::Reconcile { request, claims: self::claims(&claims), last_assign })
        }
        Up::Reconciled { request, verdicts } => Up_::Reconciled(proto::Reconciled {
            request,
            verdicts: verdicts
                .into_iter()
                .map(|(delivery, token, verdict)| proto::LeaseVerdict {
                    delivery_id: delivery.to_string(),
                    token: Some(token.into()),
                    verdict: match verdict {
                        Verdict::Keep => proto::Verdict::Keep,
                        Verdict::Cancel => proto::Verdict::Cancel,
                        Verdict::Unknown => proto::Verdict::Unknown,
                    }
                    .into(),
                })
                .collect(),
        }),
        Up::Draining { deadline, generals } => Up_::Draining(proto::Draining {
            deadline: Some(convert::time(deadline)),
            generals: generals.into_iter().map(name).collect(),
            reason: String::new(),
        }),
    }
}

/// A heartbeat with what is known of the models behind each general.
pub(super) fn heartbeat(
    loads: Vec<Load>,
    leases: u32,
    mut models: BTreeMap<GeneralIndex, Vec<ModelLoad>>,
    Sender { config, .. }: Sender<'_>,
) -> Up_ {
    let loads = loads.into_iter().zip(&config.generals).zip(0..).map(|((load, general), at)| {
        let Load { in_flight, latency } = load;
        let models = models.remove(&GeneralIndex(at)).unwrap_or_default();
        proto::GeneralLoad {
            general: general.name.to_string(),
            in_flight,
            queued: 0,
            latency: (!latency.is_zero()).then(|| convert::span(latency)),
            models: models.into_iter().take(MODELS_MAX).map(model).collect(),
        }
    });
    Up_::Heartbeat(proto::Heartbeat { loads: loads.collect(), leases })
}

fn model(load: ModelLoad) -> proto::ModelLoad {
    let ModelLoad { model, running, queue, cache_use, tokens_per_second, requests, tokens } = load;
    let resets = |limit: Option<ProviderLimit>| limit.and_then(|limit| limit.resets_at).map(convert::time);
    proto::ModelLoad {
        model,
        queue,
        cache_use: cache_use.filter(|share| (0.0..=1.0).contains(share)),
        tokens_per_second: tokens_per_second.filter(|rate| (0.0..=1e9).contains(rate)),
        limit_remaining: tokens.map(|limit| limit.remaining),
        limit_resets_at: resets(tokens),
        running,
        requests_remaining: requests.map(|limit| limit.remaining),
        requests_reset_at: resets(requests),
    }
}

fn served(general: &mindos_sidecar_core::GeneralConfig) -> proto::ServedGeneral {
    proto::ServedGeneral {
        r#type: general.ty.to_string(),
        name: general.name.to_string(),
        labels: general.labels.clone(),
        slots: general.slots,
    }
}

fn claims(claims: &[Claim]) -> Vec<proto::LeaseClaim> {
    let claim = |(delivery, token): &Claim| proto::LeaseClaim {
        delivery_id: delivery.to_string(),
        token: Some((*token).into()),
    };
    claims.iter().map(claim).collect()
}

fn outcome(outcome: Outcome) -> proto::result::Outcome {
    match outcome {
        Outcome::Succeeded => proto::result::Outcome::Succeeded(delivery::Succeeded {}),
        Outcome::Failed { kind, message } => proto::result::Outcome::Failure(failure(kind, &message)),
        Outcome::Cancelled { reason } => {
            let reason = match reason {
                CancelReason::Superseded => delivery::CancelReason::Superseded,
                CancelReason::Budget => delivery::CancelReason::Budget,
                CancelReason::Human => delivery::CancelReason::Human,
                CancelReason::Drain => delivery::CancelReason::Drain,
                CancelReason::Deadline => delivery::CancelReason::Deadline,
                CancelReason::RaceLost => delivery::CancelReason::RaceLost,
            };
            proto::result::Outcome::Cancelled(delivery::Cancelled { reason: reason.into(), message: String::new() })
        }
    }
}

fn failure(kind: FailureKind, message: &str) -> delivery::Failure {
    let retry_at = match kind {
        FailureKind::RateLimited { until } => Some(convert::time(until)),
        FailureKind::Transient
        | FailureKind::Lost
        | FailureKind::Poison
        | FailureKind::TooLarge
        | FailureKind::Cancelled
        | FailureKind::OverBudget => None,
    };
    delivery::Failure {
        kind: delivery::FailureKind::from(kind).into(),
        retry_at,
        message: cut(message, MESSAGE_MAX).to_owned(),
        budget: String::new(),
    }
}

fn ceilings(wanted: Ceilings) -> proto::Ceilings {
    let Ceilings { cost_micros, tokens, time } = wanted;
    proto::Ceilings { cost_micros, tokens, calls: None, time: time.map(convert::span) }
}

fn used(usage: Usage) -> delivery::Usage {
    let Usage { model, input_tokens, cached_input_tokens, output_tokens, cost_micros, calls } = usage;
    delivery::Usage { model, input_tokens, output_tokens, cost_micros, cached_input_tokens, calls }
}

/// At most `max` bytes of a text, whole characters.
fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}
