//! Outputs: what leaves the plane, each once the records it rests on are durable.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mindos_model::{
    BootId, BudgetName, ClusterName, DeliveryId, EffectId, EffectStatus, GeneralType, ParkReason, Region, RouteName,
    Seq, Status, Strategy, TenantName, Timestamp, Token,
};

use crate::access::{AccessError, Identity, JoinRefused, TokenId};
use crate::breaker::BreakerState;
use crate::budget::{Amount, Budget, Level, Limit};
pub use crate::demand::Demand;
pub use crate::effect::{Earlier, EffectView};
use crate::input::{NewEvent, PodName, ReportedLoad, RequestId, Seen, SessionId};
use crate::object::Object;
use crate::record::{CancelReason, Cause, GeneralKey, Holds, InstanceKey, Labels, Load};
use crate::route::RouteTable;

/// One thing that leaves.
#[derive(Clone, Debug)]
pub enum Output {
    /// To a caller.
    Reply { request: RequestId, reply: Box<Result<Reply, Rejection>> },
    /// Down a stream.
    Send { session: SessionId, message: PlaneMessage },
    /// Ends a stream.
    Close { session: SessionId, reason: CloseReason },
    /// The journal may drop everything through here, once a snapshot covers it.
    DropPrefix { through: Seq },
}

/// An answer that is not a refusal.
#[derive(Clone, Debug)]
pub enum Reply {
    Published(Published),
    /// The event was judged against another table than the one in force, or against none where that has conditions: judge it and offer
    /// it again.
    Unjudged(Box<NewEvent>),
    /// Deliveries that were changed.
    Changed {
        deliveries: Vec<DeliveryId>,
    },
    /// A token was made, by the record of that number.
    TokenMade {
        id: TokenId,
    },
    /// An agent got an identity.
    Joined {
        identity: Box<Identity>,
        at: Seq,
    },
    /// Where the change stands in the journal; the same place as before where nothing changed.
    Done {
        at: Seq,
    },
    Seen(Option<Seen>),
    Event(Option<EventView>),
    Deliveries(Vec<DeliveryView>),
    Fleet(Box<FleetView>),
    /// In the order asked for; unset for generals that are not known.
    Demand(Vec<Option<Demand>>),
    Routes {
        table: Arc<RouteTable>,
        at: Seq,
    },
    Budgets(Vec<BudgetView>),
    Objects(Vec<Arc<Object>>),
    /// Whether anything was recorded.
    Object {
        changed: bool,
    },
    Totals(Totals),
    /// Where payloads stand.
    Payloads(Vec<(PayloadOf, PayloadRef)>),
    Effects(Vec<EffectView>),
    /// Effects that were changed, and where the first change stands in the journal.
    EffectsChanged {
        effects: Vec<EffectId>,
        at: Seq,
    },
}

/// The answer to a publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    pub event: Seq,
    /// The event was known; nothing was recorded.
    pub duplicate: bool,
    pub route: Option<RouteName>,
    /// Of a duplicate those of an event that is open, as they are by then: the shell reads the first answer back.
    pub deliveries: Vec<PublishedDelivery>,
}

/// A delivery as its publisher is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedDelivery {
    pub delivery: DeliveryId,
    /// Unset when the general is bound at the lease.
    pub general: Option<Arc<GeneralKey>>,
    pub parked: Option<ParkReason>,
}

/// What a payload belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadOf {
    Event(Seq),
    /// Parameters of an effect, which comes from the event.
    Effect {
        event: Seq,
        effect: EffectId,
    },
}

/// Where a body stands in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PayloadRef {
    pub seq: Seq,
    pub len: u32,
}

/// What the plane says on an open stream.
#[derive(Clone, Debug)]
pub enum PlaneMessage {
    Welcome {
        epoch: u32,
        verdicts: Vec<(DeliveryId, Token, Claim)>,
    },
    Assign(Box<Assign>),
    Extended {
        delivery: DeliveryId,
        token: Token,
        /// What it may use in all, where more was wanted.
        ceilings: Option<Limit>,
    },
    /// The lease is gone: stop, a result would be refused.
    Lost {
        delivery: DeliveryId,
        token: Token,
    },
    Cancel {
        delivery: DeliveryId,
        token: Token,
        reason: CancelReason,
    },
    Settled {
        delivery: DeliveryId,
        token: Token,
        verdict: SettledVerdict,
        /// The effects of its intents, in their order. Empty where there were none, or where a result is repeated and all of its effects
        /// have ended.
        effects: Vec<EffectId>,
    },
    Reconciled {
        verdicts: Vec<(DeliveryId, Token, Claim)>,
    },
    Drain,
}

/// A lease to work on.
#[derive(Clone, Debug)]
pub struct Assign {
    pub delivery: DeliveryId,
    pub token: Token,
    pub general: Arc<GeneralKey>,
    pub attempt: u32,
    pub lane: Arc<str>,
    /// The record that put it into its lane: grows along the lane.
    pub place: Seq,
    pub payload: PayloadRef,
    pub lease: Duration,
    pub deadline: Duration,
    /// What it may use; unset where no budget applies.
    pub ceilings: Option<Box<Limit>>,
    pub mode: Mode,
}

/// What the work of a lease leads to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The result counts, and effects are carried out.
    #[default]
    Live,
    /// The result is recorded for comparison, and effects are dropped.
    Shadow,
    /// As a shadow, of an event that has passed.
    Replay,
}

/// What becomes of a lease that an agent claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Go on.
    Keep,
    /// Stop: somebody wants it to end.
    Cancel,
    /// Stop: the lease is not yours, or the delivery has ended.
    Unknown,
}

/// What became of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettledVerdict {
    /// Recorded, now or before.
    Settled,
    /// Refused: another token holds the delivery. Recorded as refused.
    Stale { current: Token },
    /// Refused: the delivery is not known.
    Unknown,
}

/// Why the plane ends a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The same instance opened a newer one.
    Replaced,
    /// Nothing was heard for too long.
    Silent,
    /// Its tenant has as many streams as it may.
    TooManyStreams {
        /// What it may have.
        max: u32,
    },
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    #[error("event is known under the same source and id with other content, as record {event}")]
    Conflict { event: Seq },
    #[error("every target of route {route} is full: {waiting} deliveries wait, {max} may")]
    BacklogFull { route: RouteName, waiting: u32, max: u32 },
    #[error("{open} deliveries are open, {max} may")]
    PlaneFull { open: u64, max: u64 },
    #[error("{open} deliveries of tenant {tenant} are open, {max} may")]
    TenantFull { tenant: TenantName, open: u64, max: u64 },
    #[error("event concerns {targets} generals, {max} may be")]
    FanoutTooWide { targets: usize, max: usize },
    #[error("none of the generals of route {route} is there, and it does not let events wait")]
    NoGeneral { route: RouteName },
    #[error("event is not to be worked on before {not_before}: at most 30 days ahead are accepted")]
    TooFarAhead { not_before: Timestamp },
    #[error("delivery {delivery} is not known or has ended")]
    UnknownDelivery { delivery: DeliveryId },
    #[error("delivery {delivery} is {status}, only parked ones can be redriven")]
    NotParked { delivery: DeliveryId, status: Status },
    #[error("{what} is not known")]
    UnknownTarget { what: String },
    #[error("general {general} has {instances} instances and {open} open deliveries; only an idle one can be removed")]
    GeneralInUse { general: String, instances: usize, open: u32 },
    #[error("routes in force stand at record {current}, not {expected}")]
    RoutesChanged { current: Seq, expected: Seq },
    #[error("{max} routes that publishers asked for have open work, no more may")]
    AskedRoutesFull { max: usize },
    /// A token or an issuer that nothing is known of.
    #[error("join refused: unknown")]
    JoinUnknown,
    #[error("join refused: {}", .0.reason)]
    JoinRefused(Box<JoinRefused>),
    #[error("{field}: {reason}")]
    Redaction { field: &'static str, reason: String },
    #[error("effect {effect} is not known or has ended")]
    UnknownEffect { effect: EffectId },
    #[error(
        "effect {effect} is {status} and not put off: only failed ones and those that wait for their next try can be tried again"
    )]
    EffectNotFailed { effect: EffectId, status: EffectStatus },
    #[error("{what} is that of {owner}")]
    Owned { what: String, owner: String },
    #[error("what an object is about cannot change: it was {was}, not {what}")]
    ObjectRenamed { what: String, was: String },
    #[error("cluster {cluster} has {max} objects or generals, no more may be")]
    ObjectsFull { cluster: ClusterName, max: usize },
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error(transparent)]
    Budget(#[from] crate::budget::BudgetError),
    #[error(transparent)]
    Routes(#[from] crate::route::RouteError),
}

/// A budget as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetView {
    pub budget: Arc<Budget>,
    /// The record that began its account.
    pub since: Seq,
    /// When its present period began.
    pub began: Timestamp,
    /// When it begins anew; unset where it never does.
    pub resets: Option<Timestamp>,
    pub charged: Amount,
    /// By open leases.
    pub reserved: Amount,
    pub level: Level,
    pub acknowledged: bool,
    /// Deliveries that wait for it.
    pub parked: u64,
}

/// An open event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventView {
    pub event: Seq,
    pub kind: Arc<str>,
    pub lane: Arc<str>,
    pub route: RouteName,
    pub accepted: Timestamp,
    pub payload: PayloadRef,
    /// Those that have ended are marked so and stay until the last one has.
    pub deliveries: Vec<DeliveryView>,
}

/// A delivery as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryView {
    pub delivery: DeliveryId,
    pub status: Status,
    pub kind: Arc<str>,
    pub lane: Arc<str>,
    pub route: RouteName,
    pub repository: Option<Arc<str>>,
    pub accepted: Timestamp,
    /// Fixed by broadcast, or bound by the present lease.
    pub general: Option<Arc<GeneralKey>>,
    /// Attempts used up so far.
    pub attempts: u32,
    /// The newest lease's; epoch 0 before the first one.
    pub token: Token,
    pub instance: Option<Arc<InstanceKey>>,
    pub not_before: Option<Timestamp>,
    pub expires: Option<Timestamp>,
    pub parked: Option<ParkReason>,
    pub parked_at: Option<Timestamp>,
    /// The budget that it is parked for, and when that begins anew.
    pub budget: Option<(BudgetName, Option<Timestamp>)>,
    pub cancel: Option<CancelReason>,
    pub last_cause: Option<Cause>,
    pub place: Seq,
}

/// Everything about the fleet.
#[derive(Clone, Debug, Default)]
pub struct FleetView {
    pub clusters: Vec<ClusterView>,
    pub generals: Vec<GeneralView>,
    pub instances: Vec<InstanceView>,
    pub holds: BTreeMap<RouteName, Holds>,
}

/// A cluster.
#[derive(Clone, Debug)]
pub struct ClusterView {
    pub cluster: ClusterName,
    pub region: Option<Region>,
    pub labels: Labels,
    pub holds: Holds,
}

/// A general.
#[derive(Clone, Debug)]
pub struct GeneralView {
    pub key: Arc<GeneralKey>,
    pub ty: GeneralType,
    pub labels: Labels,
    /// Labels as its connected instances told them, each set once.
    pub told: Vec<Labels>,
    pub holds: Holds,
    pub instances: u32,
    pub load: Load,
    /// Deliveries waiting for it alone.
    pub waiting: u32,
    pub parked_backlog: u32,
    /// Instances that their breakers keep out.
    pub ejected: u32,
    /// The provider's limit that it shares, and until when that holds its work back.
    pub rate_pool: Option<(Arc<str>, Option<Timestamp>)>,
}

/// An instance.
#[derive(Clone, Debug)]
pub struct InstanceView {
    pub key: Arc<InstanceKey>,
    pub boot: BootId,
    pub version: Arc<str>,
    pub pod: PodName,
    pub state: InstanceState,
    pub since: Timestamp,
    /// Its stream, with the epoch in which that was opened.
    pub session: Option<(u32, SessionId)>,
    /// When anything was last heard of it.
    pub heard: Timestamp,
    pub holds: Holds,
    pub generals: Vec<(Arc<GeneralKey>, Load, ReportedLoad, Health)>,
}

/// How well an instance does for one general, as placement sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    pub breaker: BreakerState,
    /// Its provider's limit is reset then.
    pub paused_until: Option<Timestamp>,
    /// With peaks and penalties, in milliseconds; 0 when not known or stale.
    pub latency_ms: u32,
}

/// What is known of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstanceState {
    /// Its stream is open.
    Ready,
    /// Its stream is open; it gets no new work.
    Draining,
    /// Its stream is gone. It may be alive: its leases run on.
    Unknown,
}

/// Counts of what is open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub events_open: u64,
    pub waiting: u64,
    pub leased: u64,
    pub parked: u64,
    pub lanes: u64,
    pub sessions: u64,
    pub generals: u64,
    /// Effects that are to be carried out.
    pub effects_waiting: u64,
    /// Effects that failed and wait for a person.
    pub effects_failed: u64,
    pub dedupe_keys: u64,
    /// The oldest key that the core's own window holds.
    pub dedupe_from: Seq,
    pub seq: Seq,
    pub epoch: u32,
}

/// What a route would do, for those who ask before they publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    pub route: RouteName,
    pub strategy: Strategy,
    pub candidates: Vec<Arc<GeneralKey>>,
}
