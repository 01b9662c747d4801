//! The agent side of the stream: leases held, work started and stopped, results kept until they are settled.
//!
//! [`Agent`] is a synchronous object without clock, socket or thread. Whoever drives it (the sidecar, the SDK's generals, the
//! simulator) tells it what happened and carries out the [`Action`]s it asks for:
//!
//! ```text
//!   received ----> +-------+ ----> Action::Send       onto the stream
//!   finished ----> | Agent | ----> Action::Start/Stop to the general
//!   ready, drain > |       | ----> Action::Reconnect  to the dialler
//!   tick --------> +-------+ ----> Action::Exit
//! ```
//!
//! One turn: hand over everything that waits, take the actions, carry out the starts (an instant general may report in the same
//! turn), call [`Agent::tick`], take the actions again.
//!
//! Beside it stands [`Membership`](membership::Membership), as pure: how the agent comes by its certificate and keeps it.
//!
//! Invariant: work runs only under a lease that by this side's count has not lapsed, and this side starts counting no later than
//! the plane does.

mod agent;
mod backoff;
mod config;
mod drain;
mod lease;
pub mod membership;
mod message;
mod recent;
mod stream;
mod work;

#[cfg(test)]
mod tests;

pub use agent::{Action, Agent, Counts, GeneralIndex};
pub use config::{Config, ConfigError, GeneralConfig, Labels};
pub use message::{
    Assign, CancelReason, Ceilings, Claim, Down, Extend, Finish, Hello, Intervals, Load, Outcome, Progress,
    SettledVerdict, Up, Usage, Verdict, Welcome,
};
