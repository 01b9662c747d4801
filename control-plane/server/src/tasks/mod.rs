//! Tasks: every way in by which people and programs ask for code to be planned, written or made better.
//!
//! Invariant: each of them ends as one event of one form ([`task`]), which is durable before whoever asked is answered.

pub mod github;
pub mod http_counts;
pub mod queue;
pub mod queue_settings;
pub mod receipt;
mod repository;
pub mod settings;
pub mod task;
