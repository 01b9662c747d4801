//! KEDA's external scaler: how much there is to do for a general in a cluster, and at once when there is something.
//!
//! ```text
//!   ScaledObject -> KEDA -> IsActive, GetMetrics --> Query::Demand
//!                        -> StreamIsActive <-- Demands <-- durable records, at most ten times a second
//!   Demands --> Input::KeepPools: the general is known and its pool there, also when it is empty
//! ```
//! KEDA shows a client certificate or nothing: who may ask is said by a CA of its own, by ranges of addresses, or by both; without
//! either nobody may but this machine while access is open. Invariant: what is told rests on durable records.

mod config;
mod demands;
mod scale;
mod service;
mod verify;

pub use config::{KedaConfig, KedaError};
pub use demands::Demands;
pub use service::{Admission, service};
pub use verify::ClientVerifier;
