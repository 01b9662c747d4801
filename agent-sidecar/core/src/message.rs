//! What travels on the stream, as plain values.
//!
//! `W` is what the shell needs to start a piece of work and `O` what it needs to report one; the agent carries both unread.

use std::sync::Arc;
use std::time::Duration;

use mindos_model::limits;
use mindos_model::{DeliveryId, FailureKind, GeneralName, Timestamp, Token};

use crate::GeneralIndex;

/// A lease that the agent side believes to hold.
pub type Claim = (DeliveryId, Token);

/// From the agent side to the plane.
#[derive(Clone, Debug, PartialEq)]
pub enum Up<O> {
    /// First message on every stream.
    Hello(Hello),
    /// Capacity of the generals named, and the number of the last message seen that carried an `Assign`.
    Grant { capacities: Vec<(GeneralIndex, u32)>, last_assign: u64 },
    /// Work was taken on.
    Accept { delivery: DeliveryId, token: Token },
    /// Work is given back untouched or unfinished; uses up no attempt.
    Decline { delivery: DeliveryId, token: Token, retry_at: Timestamp, message: Arc<str> },
    /// Work goes on.
    Extend(Extend),
    /// Work has ended. Repeated on every stream until it is settled.
    Result { delivery: DeliveryId, token: Token, finish: Finish<O> },
    /// Still here, and how busy: one load for each general, in their order.
    Heartbeat { loads: Vec<Load>, leases: u32 },
    /// Everything held; sent in doubt.
    Reconcile { request: u64, claims: Vec<Claim>, last_assign: u64 },
    /// Which of the leases that the plane listed are held: keep or unknown.
    Reconciled { request: u64, verdicts: Vec<(DeliveryId, Token, Verdict)> },
    /// No more work, please. No generals means all of them.
    Draining { deadline: Timestamp, generals: Vec<GeneralIndex> },
}

/// Introduces the agent side; who it is stands in the [`Config`](crate::Config).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// Session of the stream before.
    pub last_session: Option<Arc<str>>,
    /// Leases still held, those with a result on its way too.
    pub claims: Vec<Claim>,
}

/// Extends a lease.
#[derive(Clone, Debug, PartialEq)]
pub struct Extend {
    pub delivery: DeliveryId,
    pub token: Token,
    /// What the general last said, until an answer confirms that it arrived.
    pub progress: Option<Arc<Progress>>,
}

/// How far a general is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// For people, at most 256 bytes.
    pub note: String,
    /// What was used so far in this attempt; sums, not steps.
    pub usage: Vec<Usage>,
    /// State from which another attempt can go on, at most 64 KiB. Empty leaves the one before.
    pub checkpoint: Vec<u8>,
    /// What the work wants to be allowed in all, where that is more than its ceilings; asked for at once. What is unset stays as it is.
    pub wanted: Option<Ceilings>,
}

/// What an attempt may use; unset has no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ceilings {
    /// Millionths of the currency unit.
    pub cost_micros: Option<u64>,
    /// Tokens read and written together.
    pub tokens: Option<u64>,
    /// From the lease to the result.
    pub time: Option<Duration>,
}

/// What one model was used for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub model: String,
    pub input_tokens: u64,
    pub cached_input_tokens: u64,
    pub output_tokens: u64,
    /// Millionths of the currency unit.
    pub cost_micros: u64,
    pub calls: u32,
}

impl Usage {
    /// Adds what was counted elsewhere, by a provider who may say any number: sums stop at the largest one.
    pub fn add(&mut self, more: &Usage) {
        let Usage { model: _, input_tokens, cached_input_tokens, output_tokens, cost_micros, calls } = more;
        self.input_tokens = self.input_tokens.saturating_add(*input_tokens);
        self.cached_input_tokens = self.cached_input_tokens.saturating_add(*cached_input_tokens);
        self.output_tokens = self.output_tokens.saturating_add(*output_tokens);
        self.cost_micros = self.cost_micros.saturating_add(*cost_micros);
        self.calls = self.calls.saturating_add(*calls);
    }
}

/// How work ended, and what it came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Finish<O> {
    pub outcome: Outcome,
    /// Output, usage and the like, in the shell's own form.
    pub body: O,
}

/// How work ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Succeeded,
    Failed { kind: FailureKind, message: Arc<str> },
    Cancelled { reason: CancelReason },
}

/// Why work is to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelReason {
    /// A newer event took its place.
    Superseded,
    Budget,
    Human,
    /// The instance is drained.
    Drain,
    /// It took longer than the route allows.
    Deadline,
    /// Another delivery of the event answered first.
    RaceLost,
}

/// How busy one general is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Deliveries it works on.
    pub in_flight: u32,
    /// Moving average from start to end of a delivery; zero before the first.
    pub latency: Duration,
}

/// From the plane to the agent side.
#[derive(Clone, Debug, PartialEq)]
pub enum Down<W> {
    Welcome(Welcome),
    Assign(Assign<W>),
    /// The lease runs on: `lease` from when the `Extend` was sent, unset for as long as before.
    Extended {
        delivery: DeliveryId,
        token: Token,
        lease: Option<Duration>,
    },
    /// The lease is gone.
    Lost {
        delivery: DeliveryId,
        token: Token,
    },
    /// Stop within `grace` and report.
    Cancel {
        delivery: DeliveryId,
        token: Token,
        reason: CancelReason,
        grace: Duration,
    },
    /// Answers a `Result`.
    Settled {
        delivery: DeliveryId,
        token: Token,
        verdict: SettledVerdict,
    },
    /// Answers a `Reconcile`.
    Reconciled {
        verdicts: Vec<(DeliveryId, Token, Verdict)>,
    },
    /// The leases that the plane believes to be held here. Answered by `Reconciled`.
    Reconcile {
        request: u64,
        claims: Vec<Claim>,
    },
    /// Leave: all generals, or those named; with `reconnect` only this stream.
    Drain {
        generals: Vec<GeneralName>,
        reconnect: bool,
    },
}

/// Answers `Hello`.
#[derive(Clone, Debug, PartialEq)]
pub struct Welcome {
    pub session: Arc<str>,
    pub intervals: Intervals,
    /// One for each claim. A claim without one counts as unknown.
    pub verdicts: Vec<(DeliveryId, Token, Verdict)>,
}

/// The times that the plane dictates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intervals {
    pub heartbeat: Duration,
    pub heartbeat_idle: Duration,
    pub lease: Duration,
    pub extend: Duration,
}

impl Default for Intervals {
    fn default() -> Intervals {
        Intervals {
            heartbeat: limits::HEARTBEAT_INTERVAL,
            heartbeat_idle: limits::HEARTBEAT_IDLE_INTERVAL,
            lease: limits::LEASE,
            extend: limits::EXTEND_INTERVAL,
        }
    }
}

impl Intervals {
    /// Within what the protocol allows, so that a wrong one can neither spin nor let leases lapse.
    pub(crate) fn within_protocol(self) -> Intervals {
        let floor = Duration::from_millis(100);
        let ceiling = Duration::from_secs(300);
        let lease = self.lease.clamp(Duration::from_secs(1), Duration::from_secs(3600));
        Intervals {
            heartbeat: self.heartbeat.clamp(floor, ceiling),
            heartbeat_idle: self.heartbeat_idle.clamp(floor, ceiling),
            lease,
            extend: self.extend.clamp(floor, lease / 2),
        }
    }
}

/// What becomes of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// In force: go on.
    Keep,
    /// Stop and report.
    Cancel,
    /// Not yours any more: stop and forget.
    Unknown,
}

/// Work for a general.
#[derive(Clone, Debug, PartialEq)]
pub struct Assign<W> {
    pub delivery: DeliveryId,
    pub token: Token,
    pub general: GeneralIndex,
    /// Unset means the lease of `Welcome`.
    pub lease: Option<Duration>,
    /// When it has to be done, whatever is extended. Unset means 30 min from now.
    pub deadline: Option<Timestamp>,
    pub work: W,
}

/// What became of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettledVerdict {
    /// On record, by this report or an earlier one.
    Settled,
    /// Another lease is in force, or the delivery has ended.
    Refused,
    /// The delivery is not known.
    Unknown,
}
