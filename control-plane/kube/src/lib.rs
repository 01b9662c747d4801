//! Kubernetes objects of Mind OS: their types, the admission webhook, and what they become.
//!
//! Pure functions from typed objects to typed objects; who calls the API server is elsewhere.

// Each column of a definition is an attribute of one name.
#![allow(clippy::duplicated_attributes)]

pub mod conditions;
mod crds;
pub mod duration;
pub mod inject;
pub mod mindos;
pub mod platform;

pub use crds::{crds, to_yaml, without_rules};

/// The one field manager of all that Mind OS writes.
pub const FIELD_MANAGER: &str = "mindos";
