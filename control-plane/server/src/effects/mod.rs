//! Effects: what generals want done on GitHub, carried out exactly once, as far as can be seen.
//!
//! ```text
//!   EffectsDue --> broker --> executor of the kind: reads what is there --> writes what is missing --> what it observed
//!      ^                                                                                                |
//!      +----------------------------- Input::Effect: ended, or later ----------------------------------+
//! ```
//! Invariants: an executor looks for what its effect may have left before it writes, so a try whose end nobody saw is found and not
//! made again; a mark counts only under our own author; of order nothing is decided here, that is the core's.

mod accounts;
mod attempt;
mod branch;
mod broker;
mod check;
mod comment;
mod diff;
mod files;
mod forge;
mod issue;
mod labels;
pub mod mark;
mod pace;
mod parameters;
mod placeholders;
mod pull_request;
mod reaction;
mod readers;
mod rest;
mod review;
mod service;
pub mod settings;
mod text;
mod turns;
mod wanted;

pub use forge::Forge;
#[allow(unused_imports)]
pub(crate) use forge::{News, Tag, part};
pub use parameters::Invalid;
pub use readers::{Access, AccessError, Asker, Asking, Readers};
pub use rest::ForgeError;
pub use service::{Counts, Effects};
pub use wanted::{EffectFailure, Kind, On, Outcome, Repository, Subject, Wanted};

/// Carries one effect out: reads what is there, and writes what is missing.
///
/// # Errors
/// Says whether it may work later. After a write whose end was not seen, the next try reads again.
pub async fn carry_out(forge: &Forge, wanted: &Wanted) -> Result<Outcome, EffectFailure> {
    match wanted.kind {
        Kind::Comment => comment::carry_out(forge, wanted).await,
        Kind::Review => review::carry_out(forge, wanted).await,
        Kind::Check => check::carry_out(forge, wanted).await,
        Kind::Labels => labels::carry_out(forge, wanted).await,
        Kind::Reaction => reaction::carry_out(forge, wanted).await,
        Kind::Branch => branch::carry_out(forge, wanted).await,
        Kind::PullRequest => pull_request::carry_out(forge, wanted).await,
        Kind::Issue => issue::carry_out(forge, wanted).await,
    }
}

#[cfg(test)]
mod tests;
