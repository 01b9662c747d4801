//! The agent of a cluster: what a central controller would need credentials of each cluster for, done from within and dialled out.
//!
//! ```text
//!   API server <== watches == cluster agent == one connection, many streams ==> control plane
//!   pods <------- POST /process ----+
//! ```
//! Of several agents of a cluster one is at work, which holds the Lease; the others stand by. Invariant: this crate only carries. What pods
//! and Services become is decided by `discovery::fleet`, who leads by `election`, and both are pure.

mod api_server;
pub mod config;
pub mod discovery;
pub mod election;
mod leader;
pub mod metrics;
pub mod objects;
#[cfg(test)]
mod played;
mod probes;
mod run;
pub mod runs;
pub mod shutdown;
pub mod site;

pub use config::Config;
pub use run::{PartError, RunError, run};
pub use shutdown::{Ending, Shutdown};
pub use site::{Namespaces, ServeError, ServerVersion, Site};
