//! Objects of clusters: what their agents may bring, and what it becomes here.
//!
//! ```text
//!  agent --ApplyObject--> granted? --> spec to `Made` --> arrange the table --> core: one batch --> conditions
//! ```
//! Who asks, and what is answered, is `grpc::cluster`; what an object means is here, without I/O.

pub mod arrange;
pub mod grants;
pub(crate) mod spec;
mod spec_route;
pub(crate) mod standing;
