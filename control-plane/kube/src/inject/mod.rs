//! Injection: a pod that says that it is a general gets a sidecar beside it, when it is made.
//!
//! ```text
//!   API server --AdmissionReview--> serve --> review --> decide(pod, settings, server) --> JSON patch
//!                    HTTPS                                 |
//!   Secret <--> keeper --> certificate in force            +--> wanted: what the pod asks for
//!                  |                                       +--> sidecar: the container that it gets
//!                  +--> caBundle of the webhook configuration
//! ```
//! Invariant: [`decide`] is pure, and what it changes it changes by a patch of just that: nothing that this program does not know of a pod is lost.
//! A pod that has its sidecar is left alone, so that it may be asked as often as the API server likes.

mod answer;
mod certificate;
mod certificate_files;
mod config;
mod connections;
mod decide;
mod error;
mod keeper;
mod metrics;
mod patch;
mod review;
mod rotation;
mod run;
mod serve;
mod server_version;
mod settings;
mod sidecar;
mod trust;
mod wanted;

pub use config::Config;
pub use decide::{Decision, Entropy, decide};
pub use error::{ConfigError, RunError};
pub use patch::Operation;
pub use review::{Malformed, Review};
pub use run::run;
pub use server_version::ServerVersion;
pub use settings::{Native, Quantity, Resources, Settings, Trust, Wrong};
