//! Inputs: everything that can reach the plane, named for what arrived.

use std::sync::Arc;
use std::time::Duration;

use mindos_model::{
    BootId, BudgetName, ClusterName, DeliveryId, EffectId, FailureKind, GeneralName, GeneralType, ParkReason, Priority,
    Region, RouteName, Seq, Status, TenantName, Timestamp, Token,
};

use crate::access::{AccessChange, Join, Scope};
use crate::budget::{Budget, Limit};
pub use crate::demand::KeptPool;
pub use crate::effect::{EffectChange, EffectFilter, EffectReport, Intent};
use crate::guard::Trust;
pub use crate::object::ObjectChange;
use crate::record::{
    About, ContentDigest, DedupeKey, GeneralKey, HoldTarget, Holds, InstanceKey, Labels, Payload, Usage,
};
use crate::route::{Route, RouteTable};

/// Ties a reply to its caller; chosen by the shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Names a stream for as long as the process runs; chosen by the shell, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// Chance, as data: the seed of all that one decision draws.
#[derive(Clone, Copy, Debug)]
pub struct Entropy(pub u64);

impl Entropy {
    /// The next number, by splitmix64.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        // The high half of the product: even enough for jitter and for choosing among instances.
        ((u128::from(self.draw()) * u128::from(bound)) >> 64) as u64
    }
}

/// Something that reached the plane.
#[derive(Clone, Debug)]
pub enum Input {
    /// From publishers.
    Publish {
        request: RequestId,
        event: Box<NewEvent>,
    },
    /// From agents.
    Hello(Box<Hello>),
    Agent {
        session: SessionId,
        message: AgentMessage,
    },
    /// The stream is gone.
    Closed {
        session: SessionId,
    },
    /// From whoever scales pools: these are there also when they are empty. Nobody is answered.
    KeepPools {
        tenant: TenantName,
        pools: Vec<KeptPool>,
    },
    /// From people and programs. In each `by` is who asks, `from` the address that they ask from, and `why` the reason that they give,
    /// which may be empty and has at most [`mindos_model::limits::REASON_MAX`] bytes.
    Cancel {
        request: RequestId,
        tenant: TenantName,
        select: Selector,
        why: Arc<str>,
        by: Arc<str>,
    },
    Redrive {
        request: RequestId,
        tenant: TenantName,
        select: Selector,
        why: Arc<str>,
        by: Arc<str>,
    },
    Hold {
        request: RequestId,
        tenant: TenantName,
        target: HoldTarget,
        /// Holds that end.
        end: Holds,
        /// Holds that begin.
        begin: Holds,
        why: Arc<str>,
        by: Arc<str>,
        from: Arc<str>,
    },
    ApplyRoutes {
        request: RequestId,
        tenant: TenantName,
        table: Arc<RouteTable>,
        /// Refused unless the table in force has this sequence; unset applies in any case.
        expected: Option<Seq>,
        by: Arc<str>,
        from: Arc<str>,
    },
    RemoveGeneral {
        request: RequestId,
        key: GeneralKey,
        by: Arc<str>,
        from: Arc<str>,
    },
    Budget {
        request: RequestId,
        tenant: TenantName,
        change: BudgetChange,
        by: Arc<str>,
        from: Arc<str>,
    },
    /// From the agent of a cluster, about an object that stands there. Whether it may is checked before.
    Object {
        request: RequestId,
        change: Box<ObjectChange>,
        by: Arc<str>,
        from: Arc<str>,
    },
    FinalizeUpgrade {
        request: RequestId,
        version: Arc<str>,
        by: Arc<str>,
        from: Arc<str>,
    },
    /// Who may do what is to change. Whether they may change it is checked before.
    Access {
        request: RequestId,
        /// Where who asks may act: what lies outside is not known to them.
        within: Scope,
        change: Box<AccessChange>,
        by: Arc<str>,
        from: Arc<str>,
    },
    /// An agent wants an identity.
    Join(Box<Join>),
    /// Payloads of these events are to be forgotten.
    Redact {
        request: RequestId,
        tenant: TenantName,
        events: Vec<Seq>,
        why: Arc<str>,
        by: Arc<str>,
        from: Arc<str>,
    },
    Query {
        request: RequestId,
        tenant: TenantName,
        query: Query,
    },
    /// From whoever carries out effects.
    Effect {
        effect: EffectId,
        report: EffectReport,
    },
    /// A person wants another end for an effect.
    ChangeEffect {
        request: RequestId,
        tenant: TenantName,
        effect: EffectId,
        change: EffectChange,
        by: Arc<str>,
        from: Arc<str>,
    },
    /// The plane itself wants something done outside, because of an event. Nobody is answered; each call is carried out in its own
    /// order, whatever became of another.
    Intend {
        tenant: TenantName,
        event: Seq,
        /// The part of the plane that wants it, such as `intake`: shown as the general `plane/intake`.
        part: GeneralName,
        intents: Vec<Intent>,
    },
    /// From the shell's upkeep of the journal.
    Carry {
        event: Seq,
        /// Whose parameters it is; unset for the payload of the event itself.
        effect: Option<EffectId>,
        payload: Payload,
    },
    DropPrefix {
        request: RequestId,
        through: Seq,
        link: [u8; 32],
    },
    Truncated {
        kept: Seq,
        dropped_through: Seq,
    },
}

/// What somebody wants of a budget.
#[derive(Clone, Debug)]
pub enum BudgetChange {
    /// Sets it, or sets it otherwise; with another scope or period it begins anew.
    Set(Arc<Budget>),
    Remove(BudgetName),
    /// Lets it be used up to the limit in this period, whatever it pauses at.
    Acknowledge(BudgetName),
}

/// An event to accept.
#[derive(Clone, Debug)]
pub struct NewEvent {
    pub tenant: TenantName,
    pub source: Arc<str>,
    pub id: Arc<str>,
    pub ty: Arc<str>,
    pub kind: Arc<str>,
    pub subject: Option<Arc<str>>,
    pub lane: Arc<str>,
    pub repository: Option<Arc<str>>,
    /// What the event asks for; unset leaves it to the route.
    pub priority: Option<Priority>,
    pub actor: Option<Arc<str>>,
    pub time: Option<Timestamp>,
    pub key: DedupeKey,
    pub digest: ContentDigest,
    pub payload: Payload,
    /// What is known of its origin; unset where that is nothing.
    pub trust: Option<Box<Trust>>,
    /// By which table it was judged, and which condition holds for it; unset where none was known.
    pub judged: Option<Judged>,
    /// Not to be worked on before; at most [`crate::route::DELAY_MAX`] ahead.
    pub not_before: Option<Timestamp>,
    /// Recorded and deduplicated only, when false.
    pub routed: bool,
    /// The route that it brings along; the table is asked when unset.
    pub asked: Option<Arc<Route>>,
    /// The other work that it is about; unset with nearly all events.
    pub about: Option<Box<About>>,
    /// The event that the index on disk knows under this key, when the core's own window no longer does.
    pub seen: Option<Seen>,
}

/// What an event was found to be under the conditions of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// The record that brought the table in force; 0 for the stock table.
    pub table: Seq,
    /// Place of the first route with a condition that holds and which fits otherwise; unset if there is none before a route
    /// without a condition that fits.
    pub holds: Option<u32>,
    /// Conditions that could not be evaluated, such as for want of a field; they do not hold.
    pub failed: u32,
}

/// What is remembered of an event for deduplication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub event: Seq,
    pub digest: ContentDigest,
}

/// A stream opened, or opened again.
#[derive(Clone, Debug)]
pub struct Hello {
    pub session: SessionId,
    pub key: Arc<InstanceKey>,
    pub boot: BootId,
    pub version: Arc<str>,
    pub pod: PodName,
    pub region: Option<Region>,
    pub cluster_labels: Labels,
    pub generals: Vec<HelloGeneral>,
    /// Its generals report what they use in mid-run, and stop at their ceilings.
    pub keeps_ceilings: bool,
    /// Leases that the agent side still holds, those with a result on its way too.
    pub held: Vec<(DeliveryId, Token)>,
}

/// The pod of an instance; both are empty outside Kubernetes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodName {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

/// A general that an agent speaks for.
#[derive(Clone, Debug)]
pub struct HelloGeneral {
    pub name: GeneralName,
    pub ty: GeneralType,
    pub labels: Labels,
    /// Slots that may be filled at once; 0 until its general is ready.
    pub slots: u32,
}

/// What an agent says on an open stream.
#[derive(Clone, Debug)]
pub enum AgentMessage {
    Grant { general: GeneralName, capacity: u32 },
    Accept { delivery: DeliveryId, token: Token },
    Decline { delivery: DeliveryId, token: Token, retry_at: Option<Timestamp>, message: Arc<str> },
    Extend(Box<Extend>),
    Result(Box<ResultReport>),
    Heartbeat { loads: Vec<(GeneralName, ReportedLoad)> },
    Reconcile { held: Vec<(DeliveryId, Token)> },
    Draining,
}

/// Work goes on.
#[derive(Clone, Debug)]
pub struct Extend {
    pub delivery: DeliveryId,
    pub token: Token,
    /// Any number that grows when the general gets on with it.
    pub progress: u64,
    pub checkpoint: Option<Payload>,
    pub usage: Vec<Usage>,
    /// What more is wanted; unset for nothing.
    pub wanted: Option<CeilingsWanted>,
}

/// Ceilings that a general asks for; what is unset stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CeilingsWanted {
    /// In all. Asked again it changes nothing.
    InAll(Limit),
    /// Beyond what it has when this arrives.
    More(Limit),
}

/// Work ended.
#[derive(Clone, Debug)]
pub struct ResultReport {
    pub delivery: DeliveryId,
    pub token: Token,
    pub outcome: ReportedOutcome,
    pub usage: Vec<Usage>,
    /// What is to be done outside, in this order; at most [`mindos_model::limits::EFFECTS_MAX`], within the bounds of [`Intent`]. Counts
    /// where the work succeeded and is live.
    pub effects: Vec<Intent>,
}

/// How work ended, by the agent side.
#[derive(Clone, Debug)]
pub enum ReportedOutcome {
    Succeeded { output: Option<Payload>, output_type: Option<Arc<str>>, output_ref: Option<[u8; 32]> },
    Failed { kind: FailureKind, message: Arc<str> },
}

/// Load as the agent side sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReportedLoad {
    pub in_flight: u32,
    pub queued: u32,
    /// Moving average of the time from assignment to result.
    pub latency: Duration,
    /// Unset when nothing is known of the models behind the general.
    pub model: Option<Box<ModelLoad>>,
}

/// Load of the models behind a general, all of them together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelLoad {
    /// Requests in work.
    pub running: u32,
    /// Requests that wait.
    pub queue: u32,
    /// Use of the key-value cache, in thousandths.
    pub cache_permille: Option<u16>,
    /// Tokens written in a second, all requests together.
    pub tokens_per_second: Option<u32>,
    /// Least of what the provider allows until the reset: requests or tokens.
    pub limit_remaining: Option<u64>,
    /// When that limit is reset.
    pub limit_resets_at: Option<Timestamp>,
}

/// Which deliveries a person means.
#[derive(Clone, Debug)]
pub enum Selector {
    One(DeliveryId),
    /// At most `limit` of those that fit, in order of their ids.
    Filter {
        filter: DeliveryFilter,
        limit: u32,
    },
}

/// Every field that is set must fit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeliveryFilter {
    pub status: Option<Status>,
    pub reason: Option<ParkReason>,
    pub cluster: Option<ClusterName>,
    pub general: Option<GeneralName>,
    pub route: Option<RouteName>,
    pub kind: Option<Arc<str>>,
    pub lane: Option<Arc<str>>,
    pub repository: Option<Arc<str>>,
    /// Events accepted at or after.
    pub from: Option<Timestamp>,
    /// Events accepted before.
    pub until: Option<Timestamp>,
}

/// A question about the state as it is.
#[derive(Clone, Debug)]
pub enum Query {
    /// The event that is known under this key.
    Seen {
        key: DedupeKey,
    },
    /// One open event with its deliveries.
    Event {
        event: Seq,
    },
    /// Open deliveries that fit, after the given one, in order of their ids.
    Deliveries {
        filter: DeliveryFilter,
        after: Option<DeliveryId>,
        limit: u32,
    },
    Fleet,
    /// What these generals have to do; at most [`crate::demand::DEMAND_MAX`].
    Demand {
        generals: Vec<(ClusterName, GeneralName)>,
    },
    Routes,
    /// Budgets as they stand.
    Budgets,
    /// Objects of clusters, in the order of their keys: those of one cluster where it is named, and there the one that made the general
    /// where that is named too.
    Objects {
        cluster: Option<ClusterName>,
        general: Option<GeneralName>,
    },
    /// Counts of what is open.
    Totals,
    /// Effects of all tenants that may be carried out at once, after the given one, in order of their ids.
    EffectsDue {
        after: Option<EffectId>,
        limit: u32,
    },
    /// Effects that have not ended for good and fit, after the given one, in order of their ids.
    Effects {
        filter: EffectFilter,
        after: Option<EffectId>,
        limit: u32,
    },
    /// Events with open work, and open effects, whose payload stands before the given record.
    PayloadsBefore {
        before: Seq,
        limit: u32,
    },
}
