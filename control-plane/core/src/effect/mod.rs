//! Effects: what generals want done to the outside, from the intent in a result to its end.
//!
//! ```text
//!   intent --> Waiting --------> Done, DryRun
//!               ^  ^ |  \------> Cancelled <------+
//!               |  | v                           |
//!               | deferred                       |
//!               +------- Failed -----------------+
//!          a person      stays, holds up those of its series
//! ```
//! The effects of one result are a series. Invariants: an effect ends once; one is due only when all before it in its series have
//! succeeded and no earlier one on its target is to come; a key is carried out once as long as it is remembered; whoever carries out
//! decides nothing about order.

mod check;
mod decide;
mod keys;
mod state;
#[cfg(test)]
mod tests;
mod view;

use std::sync::Arc;

use mindos_model::{DeliveryId, EffectId, EffectStatus, GeneralType, Seq, TenantName, Timestamp, Token};

use crate::output::PayloadRef;
use crate::record::{GeneralKey, Payload};

pub(crate) use decide::Origin;
pub use keys::EffectKey;
pub(crate) use state::Effects;

/// What a general wants done. Whoever takes it in has checked that all of it is within its bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// Two intents of a tenant with one key are one effect. 1 to [`mindos_model::limits::EFFECT_KEY_MAX`] characters.
    pub key: Arc<str>,
    /// What is to be done, such as `comment`. 1 to [`mindos_model::limits::EFFECT_KIND_MAX`] characters.
    pub kind: Arc<str>,
    /// On what, such as `octocat/hello-world#7`. 1 to [`mindos_model::limits::EFFECT_TARGET_MAX`] characters.
    pub target: Arc<str>,
    /// A JSON object, at most [`mindos_model::limits::EFFECT_PARAMETERS_MAX`] bytes.
    pub parameters: Payload,
}

/// Something is to be done to the outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EffectIntended {
    pub tenant: TenantName,
    /// The event that it comes from.
    pub event: Seq,
    /// Whose result it comes from; unset where the plane itself wants it.
    pub delivery: Option<DeliveryId>,
    /// Of the lease of that result; epoch 0 where there was none.
    pub token: Token,
    pub general: Arc<GeneralKey>,
    pub general_type: GeneralType,
    /// Its place in its series, from 0. The records of a series follow each other.
    pub ordinal: u32,
    /// How many its series has.
    pub of: u32,
    pub key: Arc<str>,
    pub kind: Arc<str>,
    pub target: Arc<str>,
    /// A JSON object.
    pub parameters: Payload,
    /// The effect that had the key before: then this one is not carried out.
    pub first: Option<EffectId>,
    /// Too many were open: it ends with a record after this one, is not carried out, and its key stays free.
    pub overflow: bool,
}

/// An effect is to be tried again later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EffectDeferred {
    pub effect: EffectId,
    /// Tries that failed so far.
    pub attempts: u32,
    /// Whether this was one: not so a wait for a limit.
    pub counted: bool,
    pub not_before: Timestamp,
    pub why: Arc<str>,
}

/// An effect came to an end. One that failed stays until a person decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EffectEnded {
    pub effect: EffectId,
    pub outcome: EffectOutcome,
    /// The address that it was asked from; empty where nobody asked.
    pub from: Arc<str>,
}

/// How an effect ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EffectOutcome {
    /// Carried out, now or before it was asked for.
    Done {
        /// What there is now: a JSON object of at most [`mindos_model::limits::EFFECT_OBSERVED_MAX`] bytes.
        observed: Arc<str>,
    },
    /// Only looked at.
    DryRun {
        /// What would have been done, as `observed`.
        would: Arc<str>,
    },
    Failed {
        message: Arc<str>,
    },
    Cancelled {
        why: Arc<str>,
        /// Who asked; empty for the plane itself.
        by: Arc<str>,
    },
}

impl EffectOutcome {
    /// Where an effect with this outcome stands.
    #[must_use]
    pub fn status(&self) -> EffectStatus {
        match self {
            EffectOutcome::Done { .. } => EffectStatus::Done,
            EffectOutcome::DryRun { .. } => EffectStatus::DryRun,
            EffectOutcome::Failed { .. } => EffectStatus::Failed,
            EffectOutcome::Cancelled { .. } => EffectStatus::Cancelled,
        }
    }

    /// What later effects of its series may name, where it succeeded.
    #[must_use]
    pub fn observed(&self) -> Option<&Arc<str>> {
        match self {
            EffectOutcome::Done { observed } => Some(observed),
            EffectOutcome::DryRun { would } => Some(would),
            EffectOutcome::Failed { .. } | EffectOutcome::Cancelled { .. } => None,
        }
    }
}

/// A person wants an effect tried again: at once, and with its tries forgiven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EffectRevived {
    pub effect: EffectId,
    pub by: Arc<str>,
    /// The address that it was asked from.
    pub from: Arc<str>,
}

/// What whoever carries out has to say of an effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EffectReport {
    Ended(EffectOutcome),
    /// It did not work, and may later.
    Defer {
        /// Not before; where it counts, not before the backoff has passed either. At most [`mindos_model::limits::EFFECT_WAIT_MAX`] ahead.
        until: Timestamp,
        /// Whether this was a try: after [`mindos_model::limits::EFFECT_ATTEMPTS_MAX`] the effect has failed.
        counted: bool,
        why: Arc<str>,
    },
}

/// What a person wants of an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EffectChange {
    /// Of one that failed, or waits for its next try: that it is tried at once.
    Retry,
    /// That it is not carried out, and with it those of its series that come after.
    Cancel,
}

/// Every field that is set must fit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EffectFilter {
    pub status: Option<EffectStatus>,
    pub event: Option<Seq>,
    pub delivery: Option<DeliveryId>,
    pub kind: Option<Arc<str>>,
    /// The whole target, or the repository that it lies in.
    pub target: Option<Arc<str>>,
    /// Name of the general.
    pub general: Option<Arc<str>>,
}

/// An effect that has not ended for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EffectView {
    pub effect: EffectId,
    pub tenant: TenantName,
    pub event: Seq,
    /// Unset where the plane itself wants it.
    pub delivery: Option<DeliveryId>,
    pub token: Token,
    pub general: Arc<GeneralKey>,
    pub general_type: GeneralType,
    /// Its place in its series, from 0.
    pub ordinal: u32,
    pub key: Arc<str>,
    pub kind: Arc<str>,
    pub target: Arc<str>,
    /// Where its parameters stand.
    pub parameters: PayloadRef,
    /// When it was intended.
    pub intended: Timestamp,
    /// [`EffectStatus::Waiting`] or [`EffectStatus::Failed`].
    pub status: EffectStatus,
    /// Whether it may be carried out now.
    pub due: bool,
    /// What it waits for: an earlier one of its series, else one on its target.
    pub behind: Option<EffectId>,
    /// Tries that failed.
    pub attempts: u32,
    /// When it is tried again, where it was put off.
    pub not_before: Option<Timestamp>,
    /// When it failed.
    pub failed: Option<Timestamp>,
    /// Why it was put off or has failed; empty where it was not.
    pub why: Arc<str>,
    /// Those before it in its series, by their places.
    pub earlier: Vec<Earlier>,
}

/// One that comes before an effect in its series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Earlier {
    /// The effect itself; of a repeated key, the one that had it first.
    pub effect: EffectId,
    /// What was observed of it, where it succeeded and that is still known.
    pub observed: Option<Arc<str>>,
}

/// An open effect in a snapshot. Its series stands before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EffectItem {
    pub effect: EffectId,
    pub tenant: TenantName,
    pub event: Seq,
    pub delivery: Option<DeliveryId>,
    pub token: Token,
    pub general: Arc<GeneralKey>,
    pub general_type: GeneralType,
    pub ordinal: u32,
    pub key: Arc<str>,
    pub kind: Arc<str>,
    pub target: Arc<str>,
    pub parameters: PayloadRef,
    pub intended: Timestamp,
    pub attempts: u32,
    /// When it is tried again; zero where it was not put off.
    pub not_before: Timestamp,
    /// When it failed.
    pub failed: Option<Timestamp>,
    pub why: Arc<str>,
}

/// The effects of one result, in a snapshot, as far as their records have come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EffectSeries {
    /// Its first one, by which it is known.
    pub first: EffectId,
    pub tenant: TenantName,
    /// How many it has.
    pub of: u32,
    pub places: Vec<Earlier>,
}
