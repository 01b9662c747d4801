//! Kubernetes objects of Mind OS: their types, the admission webhook, and what they become.
//!
//! Pure functions from typed objects to typed objects; who calls the API server is elsewhere.

pub mod conditions;
pub mod duration;
pub mod mindos;

/// The one field manager of all that Mind OS writes.
pub const FIELD_MANAGER: &str = "mindos";
