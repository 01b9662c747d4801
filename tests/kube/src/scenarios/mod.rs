//! All scenarios, by what they are about. One module for each part; copy `server.rs` to begin another.

pub mod agent;
pub mod objects;
pub mod runs;
pub mod server;

use crate::scenario::Scenario;

/// All of them, in the order in which they run.
#[must_use]
pub fn all() -> Vec<Scenario> {
    [server::SCENARIOS, agent::SCENARIOS, objects::SCENARIOS, runs::SCENARIOS].concat()
}
