//! Records: the facts that the journal stores, in the past tense.
//!
//! Invariant: a record carries every value that `apply` needs, times and fresh ids too, so that replay folds and never decides.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use mindos_model::{
    BootId, BudgetName, ClusterName, DeliveryId, EffectId, FailureKind, GeneralName, GeneralType, InstanceId,
    ParkReason, Priority, Region, RouteName, Seq, Strategy, TenantName, Timestamp, Token,
};

use smallvec::SmallVec;

pub use crate::access::AccessRecord;
use crate::account::{OverBudget, Reservation, Tally};
pub use crate::affinity::{KeptOut, Siting};
use crate::budget::{Amount, Budget, Level};
pub use crate::effect::{EffectDeferred, EffectEnded, EffectIntended, EffectOutcome, EffectRevived};
pub use crate::feedback::{Feedback, FeedbackVerdict, Weighing};
use crate::guard::Guarded;
pub use crate::object::ObjectRecord;
pub use crate::replay::{Replay, Role, Variant, VersionWanted};
use crate::route::{Route, RouteTable};
pub use crate::score::{Exclusion, Weight};
pub use crate::terms::Terms;

/// Names a general: a pool of identical agents in one cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GeneralKey {
    pub tenant: TenantName,
    pub cluster: ClusterName,
    pub name: GeneralName,
}

impl fmt::Display for GeneralKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.cluster, self.name)
    }
}

/// Names an instance: one running agent process and all generals that it speaks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceKey {
    pub tenant: TenantName,
    pub cluster: ClusterName,
    pub instance: InstanceId,
}

impl fmt::Display for InstanceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.cluster, self.instance)
    }
}

/// A body that stands beside its record in the journal, with the salt that hides it in the hash chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// Drawn at random by the shell for each payload; goes with the payload when that is redacted.
    pub salt: [u8; 16],
    pub bytes: Bytes,
}

/// A record at its place in the journal.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub seq: Seq,
    /// When the plane decided it.
    pub at: Timestamp,
    pub record: Record,
}

/// Consecutive entries that become durable together or not at all.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Never empty; sequences grow by one.
    pub entries: Vec<Entry>,
}

impl Batch {
    /// Sequence of the first entry.
    ///
    /// # Panics
    /// When the batch is empty, which the plane never seals.
    #[must_use]
    pub fn first(&self) -> Seq {
        self.entries.first().expect("a sealed batch has entries").seq
    }

    /// Sequence of the last entry.
    ///
    /// # Panics
    /// When the batch is empty, which the plane never seals.
    #[must_use]
    pub fn last(&self) -> Seq {
        self.entries.last().expect("a sealed batch has entries").seq
    }
}

/// A fact.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    EpochStarted(EpochStarted),
    EventAccepted(Box<EventAccepted>),
    DeliveryLeased(Box<DeliveryLeased>),
    AttemptEnded(Box<AttemptEnded>),
    DeliverySettled(Box<DeliverySettled>),
    DeliveryCancelled(Box<DeliveryCancelled>),
    CancelRequested(CancelRequested),
    DeliveryParked(DeliveryParked),
    DeliveryRedriven(DeliveryRedriven),
    ResultRefused(Box<ResultRefused>),
    LeaseExtended(Box<LeaseExtended>),
    ClusterRegistered(Box<ClusterRegistered>),
    GeneralRegistered(Box<GeneralRegistered>),
    GeneralRemoved(Box<GeneralRemoved>),
    HoldChanged(Box<HoldChanged>),
    RoutesApplied(Box<RoutesApplied>),
    RouteAsked(Box<RouteAsked>),
    PayloadCarried(PayloadCarried),
    PrefixDropped(PrefixDropped),
    JournalTruncated(JournalTruncated),
    UpgradeFinalized(UpgradeFinalized),
    BudgetSet(Box<BudgetSet>),
    BudgetRemoved(BudgetRemoved),
    BudgetAcknowledged(BudgetAcknowledged),
    BudgetCrossed(Box<BudgetCrossed>),
    Access(Box<AccessRecord>),
    PayloadsRedacted(Box<PayloadsRedacted>),
    EffectIntended(Box<EffectIntended>),
    EffectDeferred(Box<EffectDeferred>),
    EffectEnded(Box<EffectEnded>),
    EffectRevived(Box<EffectRevived>),
    Object(Box<ObjectRecord>),
}

// Records are moved a few times on their way: what is large and rare stands apart.
const _: () = assert!(size_of::<Record>() <= 80);

/// The plane started. Ends every earlier epoch, so that a deposed process can be told by its tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochStarted {
    pub epoch: u32,
    /// Version of the program, such as `0.1.0`.
    pub version: Arc<str>,
    pub cause: EpochCause,
}

/// Why an epoch began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EpochCause {
    Start,
    /// The data directory came from a backup.
    Restore,
}

/// An event and all that it led to at that moment: its distribution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventAccepted {
    pub tenant: TenantName,
    pub source: Arc<str>,
    pub id: Arc<str>,
    /// CloudEvents type.
    pub ty: Arc<str>,
    /// What routes match by default: the stock table's word, or the type.
    pub kind: Arc<str>,
    pub subject: Option<Arc<str>>,
    pub lane: Arc<str>,
    pub repository: Option<Arc<str>>,
    /// What the event asked for, else its route: the class in which it waits.
    pub priority: Priority,
    pub actor: Option<Arc<str>>,
    /// When it happened, by its sender.
    pub time: Option<Timestamp>,
    /// Hash of (tenant, source, id).
    pub key: DedupeKey,
    /// Start of the SHA-256 of type, subject, content type and data.
    pub digest: ContentDigest,
    /// The encoded CloudEvent.
    pub payload: Payload,
    /// The route that matched; unset when the event is recorded and not routed.
    pub route: Option<RouteName>,
    pub strategy: Option<Strategy>,
    /// What its route made of its origin, and of conditions; unset where there is nothing to say.
    pub judgement: Option<Box<Judgement>>,
    /// Ordinals are the positions, from 1.
    pub deliveries: Vec<PlannedDelivery>,
    /// The route that matched, when none of its generals was there and `route` took the event instead.
    pub fell_back_from: Option<RouteName>,
    /// The other work that it is about; unset with nearly all events.
    pub about: Option<Box<About>>,
}

/// What an event says of other work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
    /// It is a past event once more, for comparison.
    Replay(Replay),
    /// It says what became of a result.
    Feedback(Feedback),
}

impl EventAccepted {
    /// The past event that it repeats.
    #[must_use]
    pub fn replay(&self) -> Option<&Replay> {
        match self.about.as_deref()? {
            About::Replay(replay) => Some(replay),
            About::Feedback(_) => None,
        }
    }

    /// What it says of a result.
    #[must_use]
    pub fn feedback(&self) -> Option<&Feedback> {
        match self.about.as_deref()? {
            About::Feedback(feedback) => Some(feedback),
            About::Replay(_) => None,
        }
    }
}

/// What became of an event before it was offered to anybody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// Set when a guard did not let it pass: its deliveries are parked, or there are none.
    pub guarded: Option<Guarded>,
    /// Conditions of routes that could not be evaluated for it, and so did not hold.
    pub conditions_failed: u32,
}

/// First 16 bytes of a SHA-256 over the parts of an event's identity.
pub type DedupeKey = [u8; 16];
/// First 16 bytes of a SHA-256 over the parts of an event's content.
pub type ContentDigest = [u8; 16];

/// A delivery as it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedDelivery {
    /// Fixed by broadcast; unset when the general is bound at the lease.
    pub general: Option<Arc<GeneralKey>>,
    /// Set when its queue had no room.
    pub parked: Option<ParkReason>,
    pub terms: Option<Box<Terms>>,
    /// Set where its general takes the place of dearer ones.
    pub degraded: Option<Box<Degraded>>,
}

/// Work went to a cheaper general, because a budget is low.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Degraded {
    /// The budget that is low.
    pub budget: BudgetName,
    /// How much of its limit was charged, in percent and rounded down.
    pub percent: u32,
    /// The generals whose place it takes; the first few of them.
    pub from: Vec<Arc<GeneralKey>>,
}

/// An instance got the right to work on a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryLeased {
    pub delivery: DeliveryId,
    pub token: Token,
    pub general: Arc<GeneralKey>,
    pub instance: Arc<InstanceKey>,
    pub boot: BootId,
    /// From 1.
    pub attempt: u32,
    pub lease_ms: u32,
    pub choice: Choice,
    /// What is set aside for it; unset where no budget applies.
    pub reservation: Option<Box<Reservation>>,
    /// Set where the general takes the place of dearer ones.
    pub degraded: Option<Box<Degraded>>,
    /// What is compared by it; unset where nothing is.
    pub variant: Option<Box<Variant>>,
}

/// Why this general and this instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// Generals weighed, at most 16; empty under broadcast, where the general is fixed.
    pub generals: Vec<(Arc<GeneralKey>, Load)>,
    /// Instances weighed: the better of at most two drawn at random from those with a free slot.
    pub instances: SmallVec<[(Arc<InstanceKey>, Weight); 2]>,
    /// Instances of the chosen general that had a free slot.
    pub free: u32,
    /// Instances of the chosen general that were connected; 0 where it was not noted.
    pub connected: u32,
    /// How many of them were not drawn from, for another reason than want of a slot.
    pub aside: u32,
    /// The first few of those.
    pub excluded: Vec<(Arc<InstanceKey>, Exclusion)>,
    /// What feedback had to do with it; unset where the route does not ask for that.
    pub feedback: Option<Box<Weighing>>,
    /// What affinity and residency had to do with it; unset where that is nothing.
    pub siting: Option<Box<Siting>>,
}

/// Slots taken and slots in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    pub open: u32,
    pub capacity: u32,
}

impl Load {
    /// Orders by share of slots taken, exactly.
    #[must_use]
    pub fn is_below(self, other: Load) -> bool {
        u64::from(self.open) * u64::from(other.capacity) < u64::from(other.open) * u64::from(self.capacity)
    }
}

/// A lease ended without a result that settles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptEnded {
    pub delivery: DeliveryId,
    pub token: Token,
    pub cause: Cause,
    /// From the agent side; at most 1 KiB. Data, never trusted.
    pub message: Arc<str>,
    /// Whether it used up an attempt.
    pub counted: bool,
    pub next: Next,
    /// What the general reported with it.
    pub usage: Vec<Usage>,
    /// What its budgets are charged; unset where none applied to the lease.
    pub charged: Option<Amount>,
    /// The budget that it waits for, where it is parked for one.
    pub over: Option<Box<OverBudget>>,
}

/// Why a lease ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The general reported a failure.
    Failed(FailureKind),
    /// The lease ran out.
    Lapsed,
    /// The instance came back as another process.
    Rebooted,
    /// The instance never got the assignment.
    Undelivered,
    /// The agent side gave it back.
    Declined,
    /// No progress until the route's deadline.
    Deadline,
}

/// What becomes of a delivery whose lease ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Wait { not_before: Timestamp },
    Park { reason: ParkReason },
}

/// A delivery ended with a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliverySettled {
    pub delivery: DeliveryId,
    pub token: Token,
    /// What the general returned; unset when it returned nothing or named a blob.
    pub output: Option<Payload>,
    pub output_type: Option<Arc<str>>,
    /// Blob that holds the output.
    pub output_ref: Option<[u8; 32]>,
    pub usage: Vec<Usage>,
    /// From the lease to the result.
    pub took_ms: u64,
    /// What its budgets are charged; unset where none applied to the lease.
    pub charged: Option<Amount>,
}

/// What a run used of one model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub model: Arc<str>,
    pub input_tokens: u64,
    pub output_tokens: u64,
    /// Millionths of the currency unit.
    pub cost_micros: u64,
}

/// A delivery ended without a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryCancelled {
    pub delivery: DeliveryId,
    pub reason: CancelReason,
    /// Why, in the words of whoever asked; may be empty.
    pub why: Arc<str>,
    /// Who asked; empty for the plane itself.
    pub by: Arc<str>,
    /// What its budgets are charged; unset where it was not leased, or none applied to the lease.
    pub charged: Option<Box<Amount>>,
    /// Its lease ended without a word of its holder, whose result would come late.
    pub unanswered: bool,
}

/// A leased delivery is to be stopped; it ends when the agent side says so, or its lease lapses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CancelRequested {
    pub delivery: DeliveryId,
    pub reason: CancelReason,
    /// Why, in the words of whoever asked; may be empty.
    pub why: Arc<str>,
    pub by: Arc<str>,
}

/// Why a delivery is cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelReason {
    /// A newer event of the same lane and kind took its place.
    Superseded { by: DeliveryId },
    /// Somebody asked.
    Requested,
    /// Another delivery of the event succeeded first.
    RaceLost { by: DeliveryId },
    /// It was not begun in time.
    Expired,
    /// It was a shadow, and came to nothing.
    ShadowFailed,
    /// It was a replay, and came to nothing: the attempt before says why.
    ReplayFailed,
    /// It was a replay, and its budget had nothing left.
    ReplayOverBudget,
    /// The payload of its event was redacted.
    Redacted,
}

/// A waiting delivery was set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryParked {
    pub delivery: DeliveryId,
    pub reason: ParkReason,
    /// The budget that it waits for, where it is parked for one.
    pub over: Option<Box<OverBudget>>,
}

/// A parked delivery waits again, at its lane's tail and with its attempts forgiven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryRedriven {
    pub delivery: DeliveryId,
    /// Its place in the lane before: the record that had queued it.
    pub place_before: Seq,
    /// Why, in the words of whoever asked; may be empty.
    pub why: Arc<str>,
    pub by: Arc<str>,
}

/// A result came under a token that does not hold the lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResultRefused {
    pub delivery: DeliveryId,
    pub presented: Token,
    /// The newest token of the delivery.
    pub current: Token,
    pub instance: Arc<InstanceKey>,
}

/// A checkpoint or usage that must survive the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseExtended {
    pub delivery: DeliveryId,
    pub token: Token,
    pub checkpoint: Option<Payload>,
    pub usage: Vec<Usage>,
    /// What is set aside for it from here on; unset leaves that as it is.
    pub reserved: Option<Amount>,
    /// What it has used by this report, where budgets apply to it.
    pub spent: Option<Amount>,
}

/// A cluster was seen for the first time, or changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterRegistered {
    pub tenant: TenantName,
    pub cluster: ClusterName,
    pub region: Option<Region>,
    pub labels: Labels,
}

/// Sorted by key, each key once.
pub type Labels = Vec<(Arc<str>, Arc<str>)>;

/// A general was seen for the first time, or changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GeneralRegistered {
    pub key: GeneralKey,
    pub ty: GeneralType,
    pub labels: Labels,
}

/// A general without instances and without work was forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GeneralRemoved {
    pub key: GeneralKey,
    pub by: Arc<str>,
    /// The address that it was asked from; empty where that is not known, and for the plane itself.
    pub from: Arc<str>,
}

/// Work was held back from somewhere, or let go again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldChanged {
    pub tenant: TenantName,
    pub target: HoldTarget,
    /// All that are in force from here on.
    pub holds: Holds,
    /// Why, in the words of whoever asked; may be empty.
    pub why: Arc<str>,
    pub by: Arc<str>,
    /// The address that it was asked from; empty where that is not known, and for the plane itself.
    pub from: Arc<str>,
}

/// What can be held.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HoldTarget {
    Cluster(ClusterName),
    General(ClusterName, GeneralName),
    Instance(ClusterName, InstanceId),
    Route(RouteName),
}

/// What holds work back from a target: any of three holds, each set and ended by itself.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holds {
    /// Nothing begins; what comes for it waits.
    pub paused: bool,
    /// Nothing begins, and no event is given to it.
    pub cordoned: bool,
    /// As cordoned, and its agents are told to finish and leave.
    pub draining: bool,
}

impl Holds {
    pub const NONE: Holds = Holds { paused: false, cordoned: false, draining: false };
    pub const PAUSED: Holds = Holds { paused: true, ..Holds::NONE };
    pub const CORDONED: Holds = Holds { cordoned: true, ..Holds::NONE };
    pub const DRAINING: Holds = Holds { draining: true, ..Holds::NONE };
    pub const ALL: Holds = Holds { paused: true, cordoned: true, draining: true };

    /// Whether nothing is held back.
    #[must_use]
    pub fn is_none(self) -> bool {
        self == Holds::NONE
    }

    /// These and those.
    #[must_use]
    pub fn with(self, those: Holds) -> Holds {
        Holds {
            paused: self.paused || those.paused,
            cordoned: self.cordoned || those.cordoned,
            draining: self.draining || those.draining,
        }
    }

    /// These but for those.
    #[must_use]
    pub fn without(self, those: Holds) -> Holds {
        Holds {
            paused: self.paused && !those.paused,
            cordoned: self.cordoned && !those.cordoned,
            draining: self.draining && !those.draining,
        }
    }
}

/// `None`, or the names of the holds with `+` between them.
impl fmt::Debug for Holds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Holds { paused, cordoned, draining } = *self;
        let named = [(paused, "Paused"), (cordoned, "Cordoned"), (draining, "Draining")];
        let words: Vec<_> = named.into_iter().filter_map(|(on, word)| on.then_some(word)).collect();
        f.write_str(if words.is_empty() { "None".to_owned() } else { words.join("+") }.as_str())
    }
}

/// A routing table took effect.
#[derive(Clone, Debug, PartialEq)]
pub struct RoutesApplied {
    pub tenant: TenantName,
    pub table: Arc<RouteTable>,
    pub by: Arc<str>,
    /// The address that it was asked from; empty where that is not known, and for the plane itself.
    pub from: Arc<str>,
}

/// An event is about to come that brings its own route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteAsked {
    pub tenant: TenantName,
    pub route: Arc<Route>,
    /// The asked route whose place it takes: nothing is open under that.
    pub replaces: Option<(TenantName, RouteName)>,
}

/// The payload of an event with open work, or the parameters of an open effect, were copied ahead of a dropped prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PayloadCarried {
    /// The event; of an effect, the one that it comes from.
    pub event: Seq,
    /// Whose parameters they are; unset for the payload of the event itself.
    pub effect: Option<EffectId>,
    pub payload: Payload,
}

/// Everything through `through` left the journal; `link` is the chain's hash there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefixDropped {
    pub through: Seq,
    pub link: [u8; 32],
}

/// An operator cut the journal's tail off behind `kept`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalTruncated {
    pub kept: Seq,
    pub dropped_through: Seq,
}

/// Record kinds of `version` may be written from here on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpgradeFinalized {
    pub version: Arc<str>,
    pub by: Arc<str>,
    /// The address that it was asked from; empty where that is not known, and for the plane itself.
    pub from: Arc<str>,
}

/// A budget was set, for the first time or otherwise than before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetSet {
    pub tenant: TenantName,
    pub budget: Arc<Budget>,
    pub by: Arc<str>,
    /// The address that it was asked from; empty where that is not known, and for the plane itself.
    pub from: Arc<str>,
}

/// A budget was removed. What waited for it goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetRemoved {
    pub tenant: TenantName,
    pub budget: BudgetName,
    pub by: Arc<str>,
    /// The address that it was asked from; empty where that is not known, and for the plane itself.
    pub from: Arc<str>,
}

/// A person lets a paused budget be used up, for this period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetAcknowledged {
    pub tenant: TenantName,
    pub budget: BudgetName,
    pub by: Arc<str>,
    /// The address that it was asked from; empty where that is not known, and for the plane itself.
    pub from: Arc<str>,
}

/// A budget has reached a level for the first time in its period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetCrossed {
    pub tenant: TenantName,
    pub budget: BudgetName,
    pub level: Level,
    pub tally: Tally,
}

/// Payloads were taken out of the journal: those of these events, of the results of their deliveries, and of their checkpoints. The chain
/// holds on, because each stands in it as its salted hash alone. Nothing of them is sent out after this record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PayloadsRedacted {
    /// Whose events they are.
    pub tenant: TenantName,
    /// Ascending, each once; 1 to [`mindos_model::limits::REDACTED_MAX`].
    pub events: Vec<Seq>,
    pub why: Arc<str>,
    pub by: Arc<str>,
    /// The address that it was asked from; empty for the plane itself.
    pub from: Arc<str>,
}

impl Record {
    /// The body that stands beside the record, if it has one.
    #[must_use]
    pub fn payload(&self) -> Option<&Payload> {
        match self {
            Record::EventAccepted(record) => Some(&record.payload),
            Record::DeliverySettled(record) => record.output.as_ref(),
            Record::LeaseExtended(record) => record.checkpoint.as_ref(),
            Record::PayloadCarried(record) => Some(&record.payload),
            Record::EffectIntended(record) => Some(&record.parameters),
            Record::EpochStarted(_)
            | Record::DeliveryLeased(_)
            | Record::AttemptEnded(_)
            | Record::DeliveryCancelled(_)
            | Record::CancelRequested(_)
            | Record::DeliveryParked(_)
            | Record::DeliveryRedriven(_)
            | Record::ResultRefused(_)
            | Record::ClusterRegistered(_)
            | Record::GeneralRegistered(_)
            | Record::GeneralRemoved(_)
            | Record::HoldChanged(_)
            | Record::RoutesApplied(_)
            | Record::RouteAsked(_)
            | Record::PrefixDropped(_)
            | Record::JournalTruncated(_)
            | Record::UpgradeFinalized(_)
            | Record::BudgetSet(_)
            | Record::BudgetRemoved(_)
            | Record::BudgetAcknowledged(_)
            | Record::BudgetCrossed(_)
            | Record::Access(_)
            | Record::PayloadsRedacted(_)
            | Record::EffectDeferred(_)
            | Record::EffectEnded(_)
            | Record::EffectRevived(_)
            | Record::Object(_) => None,
        }
    }

    /// Name of the kind, as the ledger shows it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Record::EpochStarted(_) => "EpochStarted",
            Record::EventAccepted(_) => "EventAccepted",
            Record::DeliveryLeased(_) => "DeliveryLeased",
            Record::AttemptEnded(_) => "AttemptEnded",
            Record::DeliverySettled(_) => "DeliverySettled",
            Record::DeliveryCancelled(_) => "DeliveryCancelled",
            Record::CancelRequested(_) => "CancelRequested",
            Record::DeliveryParked(_) => "DeliveryParked",
            Record::DeliveryRedriven(_) => "DeliveryRedriven",
            Record::ResultRefused(_) => "ResultRefused",
            Record::LeaseExtended(_) => "LeaseExtended",
            Record::ClusterRegistered(_) => "ClusterRegistered",
            Record::GeneralRegistered(_) => "GeneralRegistered",
            Record::GeneralRemoved(_) => "GeneralRemoved",
            Record::HoldChanged(_) => "HoldChanged",
            Record::RoutesApplied(_) => "RoutesApplied",
            Record::RouteAsked(_) => "RouteAsked",
            Record::PayloadCarried(_) => "PayloadCarried",
            Record::PrefixDropped(_) => "PrefixDropped",
            Record::JournalTruncated(_) => "JournalTruncated",
            Record::UpgradeFinalized(_) => "UpgradeFinalized",
            Record::BudgetSet(_) => "BudgetSet",
            Record::BudgetRemoved(_) => "BudgetRemoved",
            Record::BudgetAcknowledged(_) => "BudgetAcknowledged",
            Record::BudgetCrossed(_) => "BudgetCrossed",
            Record::Access(record) => record.kind(),
            Record::PayloadsRedacted(_) => "PayloadsRedacted",
            Record::EffectIntended(_) => "EffectIntended",
            Record::EffectDeferred(_) => "EffectDeferred",
            Record::EffectEnded(_) => "EffectEnded",
            Record::EffectRevived(_) => "EffectRevived",
            Record::Object(record) => record.kind(),
        }
    }
}
