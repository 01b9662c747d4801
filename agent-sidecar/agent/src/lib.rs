//! The sidecar: stands beside generals that know nothing of the control plane, and brings them their work.
//!
//! ```text
//!   control plane <== one stream ==> sidecar --- POST /process ---> general
//!                                           \--- a command, event on standard input
//! ```
//! Invariant: everything about leases is decided in `mindos-sidecar-core`; this crate only calls generals and reads their answers.

mod answer;
mod cloudevent;
mod command;
pub mod config;
mod drain;
mod general;
mod gone;
mod http_adapter;
pub mod joining;
pub mod logs;
mod model_metrics;
pub mod ready;
mod run;
mod signals;
mod streamed;

pub use config::{Config, ConfigError, GeneralSpec, MetricsUrl, Target};
pub use general::About;
pub use http_adapter::{Http, HttpClient};
pub use joining::{JoiningConfig, JoiningError, Pin, Surroundings};
pub use run::{RunError, run};
pub use signals::told_to_end;
