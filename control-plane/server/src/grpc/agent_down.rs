//! What agents are told: messages of the plane, put into frames with the payloads they need.
//!
//! A payload that is not in memory is read on another thread, and what comes behind it waits, so that a stream keeps its
//! order. Invariant: messages are numbered without gaps, and a frame stays below the largest message.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use foldhash::fast::FixedState;
use hashbrown::HashSet;
use mindos_core::budget::Limit;
use mindos_core::input::{AgentMessage, Input, ReportedOutcome, ResultReport};
use mindos_core::output::{Assign, Claim, CloseReason, Mode, PlaneMessage, SettledVerdict};
use mindos_core::record::CancelReason;
use mindos_model::limits::{EXTEND_INTERVAL, HEARTBEATS_MISSED_MAX, INLINE_MAX, LEASE, MESSAGE_MAX};
use mindos_model::{DeliveryId, FailureKind, Seq, Token};
use mindos_proto::agent::v1 as wire;
use mindos_proto::convert::{span, time};
use mindos_proto::delivery::v1 as outcome;
use mindos_proto::wire::{Assignment, ConnectResponseWire, ControlWire, Frame};
use tokio_stream::Stream as AsyncStream;
use tonic::{Code, Status};
use tracing::warn;

use super::Context;
use super::agent::Stream;
use super::agent_up::CLAIMS_MAX;
use crate::driver::{Ending, Next};
use crate::payloads::{Found, Unread};
use crate::trace::of_assignment;

/// A frame is sent once it has this many bytes.
const FRAME_BYTES: usize = 256 << 10;
/// Messages and bytes of payloads that are looked up ahead of the frame.
const AHEAD_MESSAGES: usize = 1024;
const AHEAD_BYTES: usize = 1 << 20;
/// What a message takes beside its payload, roughly.
const MESSAGE_BYTES: usize = 160;

/// Payloads on their way from the journal.
type Reading = Pin<Box<dyn Future<Output = Vec<Found>> + Send>>;

/// A stream of frames.
pub(super) struct Down {
    stream: Arc<Stream>,
    context: Arc<Context>,
    next_number: u64,
    waiting: VecDeque<PlaneMessage>,
    /// Payloads for the assignments among the first of `waiting`; what has none after it was read is gone for good.
    payloads: VecDeque<(Seq, Found)>,
    /// How many of `waiting` have theirs in `payloads`.
    looked_up: usize,
    reading: Option<Reading>,
    /// Events that stand in the frame already.
    sent: HashSet<Seq, FixedState>,
    ended: bool,
}

impl Down {
    pub(super) fn new(stream: Arc<Stream>, context: Arc<Context>) -> Down {
        Down {
            stream,
            context,
            next_number: 1,
            waiting: VecDeque::new(),
            payloads: VecDeque::new(),
            looked_up: 0,
            reading: None,
            sent: HashSet::default(),
            ended: false,
        }
    }

    /// Looks payloads up for the next messages; what is not in memory is read.
    fn look_up(&mut self) {
        let (mut bytes, mut seqs) = (0, Vec::new());
        for message in self.waiting.iter().take(AHEAD_MESSAGES) {
            if bytes >= AHEAD_BYTES {
                break;
            }
            self.looked_up += 1;
            if let PlaneMessage::Assign(assign) = message {
                seqs.push(assign.payload.seq);
                bytes += assign.payload.len as usize;
            }
        }
        if seqs.is_empty() {
            return;
        }
        let mut missing = Vec::new();
        let payloads = &mut self.payloads;
        self.context.payloads.take(seqs.into_iter(), |seq, found| {
            if found.is_none() {
                missing.push(seq);
            }
            payloads.push_back((seq, Ok(found)));
        });
        if !missing.is_empty() {
            let payloads = self.context.payloads.clone();
            self.reading = Some(Box::pin(async move { payloads.read(missing).await }));
        }
    }

    fn frame(&mut self) -> Option<ConnectResponseWire> {
        if self.looked_up == 0 {
            return None;
        }
        let shares_events = self.stream.shares_events.load(Ordering::Relaxed);
        let mut frame = Frame::with_capacity(self.room());
        self.sent.clear();
        while self.looked_up > 0 && frame.len() < FRAME_BYTES {
            let Some(message) = self.waiting.pop_front() else { break };
            self.looked_up -= 1;
            match message {
                PlaneMessage::Assign(assign) => {
                    let payload = match self.payloads.pop_front().map_or(Err(Unread), |(_, payload)| payload) {
                        Ok(Some(payload)) => payload,
                        gone => {
                            self.give_up(&assign, gone.is_ok());
                            continue;
                        }
                    };
                    self.stream.assigned.fetch_add(1, Ordering::Relaxed);
                    let comes_again = shares_events && !self.sent.insert(assign.delivery.event);
                    let traceparent = self.traceparent(&assign, &payload);
                    let event: &[u8] = if comes_again { &[] } else { &payload };
                    frame.assign(&self.assignment(&assign, event, &traceparent));
                }
                other => self.control(other, &mut frame),
            }
        }
        if frame.is_empty() {
            return None;
        }
        let first_number = self.next_number;
        self.next_number += frame.messages();
        Some(frame.finish(first_number))
    }

    /// About as many bytes as the next frame takes.
    fn room(&self) -> usize {
        let payloads: usize = self
            .payloads
            .iter()
            .map(|(_, payload)| payload.as_ref().map_or(0, |payload| payload.as_ref().map_or(0, Bytes::len)))
            .sum();
        (payloads + self.looked_up * MESSAGE_BYTES).min(FRAME_BYTES + MESSAGE_BYTES)
    }

    /// Work without its payload cannot be done: the plane sets aside what has lost it for good, and tries again what could not be read.
    fn give_up(&self, assign: &Assign, is_gone: bool) {
        let (kind, message) = match is_gone {
            true => (FailureKind::Poison, "its payload is not in the journal any more"),
            false => (FailureKind::Transient, "the journal could not be read for its payload"),
        };
        warn!(delivery = %assign.delivery, seq = %assign.payload.seq, message, "delivery is not sent");
        let report = ResultReport {
            delivery: assign.delivery,
            token: assign.token,
            outcome: ReportedOutcome::Failed { kind, message: Arc::from(message) },
            usage: Vec::new(),
            effects: Vec::new(),
        };
        let message = AgentMessage::Result(Box::new(report));
        // When the inbox is full the lease lapses instead, and another attempt finds the same.
        let _ = self.stream.handle.offer([Input::Agent { session: self.stream.session, message }]);
    }

    /// The trace context of the lease; empty while nothing is traced.
    fn traceparent(&self, assign: &Assign, event: &[u8]) -> String {
        let otlp = self.context.otlp.load();
        let of = |otlp| of_assignment(otlp, &self.context.plane_id, event, assign.delivery, assign.token);
        otlp.as_deref().map(of).unwrap_or_default()
    }

    fn assignment<'a>(&self, assign: &'a Assign, event: &'a [u8], traceparent: &'a str) -> Assignment<'a> {
        let Assign { delivery, token, general, attempt, lane, place, payload: _, lease, deadline, ceilings, mode } =
            assign;
        let in_welcome = *lease == self.context.limits.lease;
        Assignment {
            delivery: *delivery,
            token: *token,
            general: general.name.as_str(),
            event,
            lease: (!in_welcome).then(|| span(*lease)),
            attempt: *attempt,
            lane,
            lane_place: place.0,
            mode: match mode {
                Mode::Live => wire::Mode::Live,
                Mode::Shadow => wire::Mode::Shadow,
                Mode::Replay => wire::Mode::Replay,
            },
            ceilings: ceilings.as_ref().map(|ceilings| self::ceilings(**ceilings)),
            traceparent,
            deadline: time(self.stream.handle.now() + *deadline),
        }
    }

    fn control(&self, message: PlaneMessage, frame: &mut Frame) {
        let message = match message {
            PlaneMessage::Welcome { epoch, verdicts } => ControlWire::Welcome(self.welcome(epoch, verdicts)),
            PlaneMessage::Assign(assign) => return frame.assign(&self.assignment(&assign, &[], "")),
            PlaneMessage::Settled { delivery, token, verdict, effects } if effects.is_empty() => {
                return frame.settled(delivery, token, settle_verdict(verdict));
            }
            PlaneMessage::Settled { delivery, token, verdict, effects } => ControlWire::Settled(wire::Settled {
                delivery_id: delivery.to_string(),
                token: Some(token.into()),
                verdict: settle_verdict(verdict).into(),
                effect_ids: effects.iter().map(ToString::to_string).collect(),
            }),
            PlaneMessage::Extended { delivery, token, ceilings } => {
                let (delivery_id, token) = (delivery.to_string(), Some(token.into()));
                let ceilings = ceilings.map(self::ceilings);
                ControlWire::Extended(wire::Extended { delivery_id, token, lease: None, ceilings })
            }
            PlaneMessage::Lost { delivery, token } => {
                let (delivery_id, token) = (delivery.to_string(), Some(token.into()));
                ControlWire::Lost(wire::Lost { delivery_id, token, message: String::new() })
            }
            PlaneMessage::Cancel { delivery, token, reason } => {
                let (reason, superseded_by) = match reason {
                    CancelReason::Superseded { by } => (outcome::CancelReason::Superseded, by.to_string()),
                    CancelReason::Requested => (outcome::CancelReason::Human, String::new()),
                    CancelReason::RaceLost { by } => (outcome::CancelReason::RaceLost, by.to_string()),
                    CancelReason::Expired => (outcome::CancelReason::Expired, String::new()),
                    CancelReason::ShadowFailed => (outcome::CancelReason::ShadowFailed, String::new()),
                    CancelReason::ReplayFailed => (outcome::CancelReason::ReplayFailed, String::new()),
                    CancelReason::ReplayOverBudget => (outcome::CancelReason::ReplayOverBudget, String::new()),
                    CancelReason::Redacted => (outcome::CancelReason::Redacted, String::new()),
                };
                ControlWire::Cancel(wire::Cancel {
                    delivery_id: delivery.to_string(),
                    token: Some(token.into()),
                    reason: reason.into(),
                    superseded_by,
                    ..wire::Cancel::default()
                })
            }
            PlaneMessage::Reconciled { verdicts } => {
                let mut waiting = self.stream.reconciles.lock().unwrap_or_else(PoisonError::into_inner);
                let request = waiting.pop_front().unwrap_or_default();
                ControlWire::Reconciled(wire::Reconciled { request, verdicts: self::verdicts(verdicts) })
            }
            PlaneMessage::Drain => ControlWire::Drain(wire::Drain::default()),
        };
        frame.push(message);
    }

    fn welcome(&self, epoch: u32, claimed: Vec<(DeliveryId, Token, Claim)>) -> wire::Welcome {
        let limits = &self.context.limits;
        // As many tries within a lease as in the stock one.
        let extend = limits.lease.mul_f64(EXTEND_INTERVAL.as_secs_f64() / LEASE.as_secs_f64());
        let intervals = wire::Intervals {
            heartbeat: Some(span(limits.heartbeat)),
            heartbeat_idle: Some(span(limits.heartbeat_idle)),
            lease: Some(span(limits.lease)),
            extend: Some(span(extend)),
            lost_after: Some(span(limits.heartbeat_idle * HEARTBEATS_MISSED_MAX)),
        };
        let bounds = wire::Limits {
            message_bytes_max: MESSAGE_MAX as u64,
            inline_bytes_max: INLINE_MAX as u64,
            leases_max: CLAIMS_MAX as u32,
        };
        wire::Welcome {
            session: format!("{epoch}.{}", self.stream.session.0),
            epoch,
            protocol: super::agent_up::PROTOCOL_MAX,
            intervals: Some(intervals),
            limits: Some(bounds),
            config_digest: String::new(),
            verdicts: verdicts(claimed),
            version: crate::VERSION.to_owned(),
            plane_id: self.context.plane_id.clone(),
        }
    }
}

fn settle_verdict(verdict: SettledVerdict) -> wire::SettleVerdict {
    match verdict {
        SettledVerdict::Settled => wire::SettleVerdict::Settled,
        SettledVerdict::Stale { .. } => wire::SettleVerdict::RefusedStale,
        SettledVerdict::Unknown => wire::SettleVerdict::Unknown,
    }
}

fn ceilings(limit: Limit) -> wire::Ceilings {
    let Limit { micros, tokens, time_ms } = limit;
    let time = time_ms.map(|time_ms| span(Duration::from_millis(time_ms)));
    wire::Ceilings { cost_micros: micros, tokens, calls: None, time }
}

fn verdicts(verdicts: Vec<(DeliveryId, Token, Claim)>) -> Vec<wire::LeaseVerdict> {
    let one = |(delivery, token, claim): (DeliveryId, Token, Claim)| {
        let verdict = match claim {
            Claim::Keep => wire::Verdict::Keep,
            Claim::Cancel => wire::Verdict::Cancel,
            Claim::Unknown => wire::Verdict::Unknown,
        };
        wire::LeaseVerdict { delivery_id: delivery.to_string(), token: Some(token.into()), verdict: verdict.into() }
    };
    verdicts.into_iter().map(one).collect()
}

/// How a stream ends; `None` is OK.
fn status(ending: Ending) -> Option<Status> {
    let (code, message) = match ending {
        Ending::Finished => return None,
        Ending::Plane(CloseReason::Replaced) => (Code::Aborted, "a newer stream of this instance took over".to_owned()),
        Ending::Plane(CloseReason::Silent) => {
            (Code::Unavailable, "nothing was heard for too long: dial again".to_owned())
        }
        Ending::Plane(CloseReason::TooManyStreams { max }) => (
            Code::ResourceExhausted,
            format!("the tenant has {max} streams of agents open, no more may be: dial again later"),
        ),
        Ending::TooSlow => (Code::ResourceExhausted, "the stream was read too slowly: dial again".to_owned()),
        Ending::Shutdown => (Code::Unavailable, "the control plane is stopping: dial again".to_owned()),
        Ending::Protocol(message) => (Code::InvalidArgument, message),
        Ending::Identity(message) => (Code::PermissionDenied, message),
        Ending::Version(message) => (Code::FailedPrecondition, message),
    };
    Some(Status::new(code, message))
}

impl AsyncStream for Down {
    type Item = Result<ConnectResponseWire, Status>;

    fn poll_next(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if this.ended {
                return Poll::Ready(None);
            }
            if let Some(reading) = &mut this.reading {
                let mut read = ready!(reading.as_mut().poll(task)).into_iter();
                this.reading = None;
                for (_, payload) in this.payloads.iter_mut().filter(|(_, payload)| *payload == Ok(None)) {
                    *payload = read.next().unwrap_or(Err(Unread));
                }
            }
            if let Some(frame) = this.frame() {
                this.stream.outbox.moved();
                return Poll::Ready(Some(Ok(frame)));
            }
            if !this.waiting.is_empty() {
                this.look_up();
                continue;
            }
            match ready!(this.stream.outbox.poll_take(task)) {
                Next::Messages(messages) => this.waiting = messages.into(),
                Next::End(ending) => {
                    this.ended = true;
                    return Poll::Ready(status(ending).map(Err));
                }
            }
        }
    }
}

impl Drop for Down {
    fn drop(&mut self) {
        self.stream.handle.close_session(self.stream.session);
        self.stream.outbox.end(Ending::Finished);
        self.stream.gone.notify_one();
    }
}
