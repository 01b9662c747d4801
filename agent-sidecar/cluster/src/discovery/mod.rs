//! Generals that are there without a sidecar, found by their pods and Services and served from here.
//!
//! ```text
//!   watches --> view (what is read of an object) --> fleet (pure) --> commands --> instances, a stream each
//!                                                      ^                               |
//!                                                      +------------- ended -----------+
//! ```
//! Invariant: while the API server is away nothing changes: what is known is served on, and pods that are gone fail their probes.

mod failing;
pub mod fleet;
mod instances;
pub mod pod;
mod pod_general;
mod run;
pub mod service;
mod watches;

pub(crate) use watches::chain;

pub use run::{Settings, run};
