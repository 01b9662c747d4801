//! The generals: agents that look at development events, compute what can be computed, ask a model where there is one, and say what is
//! to be done.
//!
//! ```text
//!  POST /process, standard input, or a stream of one's own          profiles/<type>.json
//!            |                                                              |
//!       Event, access to the repository ----> run::Run (context, evidence, model) ----> Report with intents
//! ```
//! A general is a profile: which analyses to run, what a model is told, what may come of it. Invariants: without a model a report follows from
//! profile, event, repository and time alone; texts of others are data, quoted and clipped, and never steer what is done; nothing here
//! writes to a forge.

mod analysis;
pub mod change;
pub mod coding;
pub mod command;
mod event;
mod evidence;
pub mod forge;
mod intent;
pub mod model;
pub mod options;
mod profile;
pub mod prompt;
mod render;
mod report;
mod request;
pub mod run;
pub mod select;
pub mod serve;
mod server;
mod stream;
mod streamed;
mod summary;
mod text;
mod tools;

pub use change::{Change, FileChange, Tree};
pub use event::Event;
pub use evidence::examine;
pub use forge::{Forge, ForgeFailure, RepositoryAccess};
pub use intent::Intent;
pub use profile::{Budget, EffectKind, Letters, Lookup, Profile, ProfileError, SecretPattern, Workflow};
pub use report::{Finding, NO_MODEL, Place, Report, Severity, analyse};
pub use request::{RequestError, decode};
pub use select::{Selected, select};
pub use server::{BODY_MAX, Bound, Config, RunError, bind, run};
