//! All scenarios, by what they are about. One module for each part; copy `server.rs` to begin another.

pub mod agent;
pub mod chart;
pub mod deploy;
pub mod inject;
pub mod objects;
pub mod runs;
pub mod server;

use crate::scenario::Scenario;

/// All of them, in the order in which they run.
#[must_use]
pub fn all() -> Vec<Scenario> {
    [
        server::SCENARIOS,
        deploy::SCENARIOS,
        chart::SCENARIOS,
        agent::SCENARIOS,
        inject::SCENARIOS,
        objects::SCENARIOS,
        runs::SCENARIOS,
    ]
    .concat()
}
