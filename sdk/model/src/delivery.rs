//! Words for what happens to a delivery.

use std::fmt;
use std::str::FromStr;

use crate::{ParseIdError, Timestamp};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $expected:literal { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// Every word, in order.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            /// The word as it is written everywhere.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                match text {
                    $($word => Ok($name::$variant),)+
                    _ => Err(ParseIdError::unknown($kind, $expected, text)),
                }
            }
        }
    };
}

pub(crate) use words;

words! {
    /// Where a delivery stands.
    Status, "status", "waiting, leased, parked, succeeded or cancelled" {
        /// Not yet with an instance, or between two attempts.
        Waiting = "waiting",
        /// An instance works on it.
        Leased = "leased",
        /// Set aside until a person or a rule redrives it.
        Parked = "parked",
        /// Ended with a result.
        Succeeded = "succeeded",
        /// Ended by a person, or by a newer event.
        Cancelled = "cancelled",
    }
}

impl Status {
    /// Whether the delivery has ended for good.
    #[must_use]
    pub fn is_settled(self) -> bool {
        matches!(self, Status::Succeeded | Status::Cancelled)
    }
}

words! {
    /// Why a delivery was set aside.
    ParkReason, "park reason", "poison, too_large, attempts_exhausted, blocked, backlog_full, over_budget, delayed or guarded" {
        /// The general says that no attempt can succeed.
        Poison = "poison",
        /// The general cannot take an event of this size.
        TooLarge = "too_large",
        /// As many attempts failed as the route allows.
        AttemptsExhausted = "attempts_exhausted",
        /// It held its lane up for longer than the route allows.
        Blocked = "blocked",
        /// The queue was full when it was accepted; redriven by itself.
        BacklogFull = "backlog_full",
        /// No money was left.
        OverBudget = "over_budget",
        /// Its time has not come; redriven by itself when it does.
        Delayed = "delayed",
        /// A guard on its event's origin did not let it pass.
        Guarded = "guarded",
    }
}

words! {
    /// Where an effect stands.
    EffectStatus, "effect status", "waiting, failed, done, dry_run, cancelled or repeated" {
        /// To be carried out: it is its turn, or it waits for an earlier one or for its next try.
        Waiting = "waiting",
        /// It could not be carried out. A person may have it tried again, or cancel it.
        Failed = "failed",
        /// Carried out.
        Done = "done",
        /// Only looked at, and what would have been done was noted.
        DryRun = "dry_run",
        /// Ended by a person, with an earlier one, or because its event was redacted.
        Cancelled = "cancelled",
        /// Its key was known: it is the effect that had the key first.
        Repeated = "repeated",
    }
}

words! {
    /// How the generals of a delivery are chosen.
    Strategy, "strategy", "broadcast, round_robin, load_balanced, sticky, failover, race, split or shadow" {
        /// Every general that the route names, fixed when the event is accepted.
        Broadcast = "broadcast",
        /// One general, each in its turn, bound at the lease.
        RoundRobin = "round_robin",
        /// The least loaded generals, as many as the route's `count`, bound at the lease.
        LoadBalanced = "load_balanced",
        /// The same general for the same lane while it is there, by rendezvous hash; bound at the lease.
        Sticky = "sticky",
        /// The first target, in the order written, that can take it when it is leased.
        Failover = "failover",
        /// Every general that the route names; the first success wins and the others are cancelled.
        Race = "race",
        /// One of the targets, by lane, in the shares given.
        Split = "split",
        /// The least loaded general, and one more whose effects are dropped.
        Shadow = "shadow",
    }
}

words! {
    /// The class in which an event's deliveries wait. While all three wait in a queue they leave it as 16:4:1, so none starves.
    Priority, "priority", "low, normal or high" {
        /// For what may take its time.
        Low = "low",
        /// Unless something else is asked for.
        Normal = "normal",
        /// For what somebody waits for.
        High = "high",
    }
}

/// Why an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// May succeed when tried again. Uses up an attempt.
    Transient,
    /// The instance or its lease was lost. Uses up an attempt.
    Lost,
    /// A limit is used up until then. Uses up no attempt.
    RateLimited { until: Timestamp },
    /// Cannot succeed: parked at once.
    Poison,
    /// Too large for the general: parked at once.
    TooLarge,
    /// The agent side stopped as it was told: settles.
    Cancelled,
    /// No money left: parked until the reset or a raise.
    OverBudget,
}

impl FailureKind {
    /// The word as it is written everywhere.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            FailureKind::Transient => "transient",
            FailureKind::Lost => "lost",
            FailureKind::RateLimited { .. } => "rate_limited",
            FailureKind::Poison => "poison",
            FailureKind::TooLarge => "too_large",
            FailureKind::Cancelled => "cancelled",
            FailureKind::OverBudget => "over_budget",
        }
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
