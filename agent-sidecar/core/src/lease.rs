//! A lease as its holder sees it.
//!
//! ```text
//!           tick              finished             settled
//!   Taken -------> Working -------------> Reported -------> forgotten
//!     |               | cancel, deadline,     ^
//!     |               v drain                 |
//!     |           Stopping -------------------+  (or handed back by Decline)
//!     +-----------> finished ----------------> Reported: an instant general, no Accept is sent
//! ```
//! What is handed back without an open stream stays as Declined, until it can be said or the lease lapses.
//! A lease that lapses or is lost while Taken, Working or Stopping is forgotten, and its work stopped.
//!
//! Invariant: `due` is the time under which the lease stands in the agent's agenda; none stands there while Taken or Reported.

use std::sync::Arc;
use std::time::Duration;

use mindos_model::{Timestamp, Token};

use crate::GeneralIndex;
use crate::message::{CancelReason, Finish, Progress};

#[derive(Clone, Debug)]
pub(crate) struct Lease<O> {
    pub(crate) token: Token,
    pub(crate) general: GeneralIndex,
    pub(crate) phase: Phase<O>,
    pub(crate) length: Duration,
    pub(crate) started: Timestamp,
    pub(crate) expires: Timestamp,
    pub(crate) extend_at: Timestamp,
    /// When the `Extend` was sent that has no answer yet.
    pub(crate) extend_sent: Option<Timestamp>,
    pub(crate) deadline: Timestamp,
    pub(crate) due: Option<Timestamp>,
    /// What the general said last, until an answer shows that it has arrived.
    pub(crate) progress: Option<Arc<Progress>>,
    /// The `Extend` without an answer carries it.
    pub(crate) progress_sent: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Phase<O> {
    /// Started in this turn; `Accept` leaves at its end.
    Taken,
    Working,
    /// Told to stop; answered at `until` even if the general has not stopped by then.
    Stopping {
        answer: Answer,
        until: Timestamp,
    },
    Reported {
        finish: Finish<O>,
    },
    /// Given back unfinished, while no stream was open to say so.
    Declined {
        retry_at: Timestamp,
    },
}

/// How work that was stopped is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Cancelled(CancelReason),
    /// It took longer than its route allows: a failed attempt.
    Overdue,
    /// Handed back, because this side leaves.
    Decline,
}

impl<O> Lease<O> {
    pub(crate) fn is_running(&self) -> bool {
        match self.phase {
            Phase::Taken | Phase::Working | Phase::Stopping { .. } => true,
            Phase::Reported { .. } | Phase::Declined { .. } => false,
        }
    }

    /// When something has to happen to it next.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        let extend = if self.extend_sent.is_some() { Timestamp(u64::MAX) } else { self.extend_at };
        match self.phase {
            Phase::Taken | Phase::Reported { .. } => None,
            Phase::Declined { .. } => Some(self.expires),
            Phase::Working => Some(self.expires.min(self.deadline).min(extend)),
            Phase::Stopping { until, .. } => Some(self.expires.min(until).min(extend)),
        }
    }
}
