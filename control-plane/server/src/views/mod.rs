//! Views: what is derived from the journal and can be rebuilt from it.
//!
//! Each follows durable records on a thread of its own, may lag, and never makes the plane wait.

pub mod blob_refs;
pub mod dedupe;
pub mod effects;
pub mod follow;
pub mod history;
pub mod retention;
pub mod scorecards;
pub mod snapshot;
pub mod stats;
#[cfg(test)]
pub(crate) mod testing;
mod times;
