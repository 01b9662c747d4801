//! The eleven generals, as far as they need no model: what can be computed from an event itself.
//!
//! ```text
//!  POST /process, or standard input          profiles/<type>.json
//!            |                                        |
//!       request::decode ----> Event ----> analyse(profile, event) ----> Report
//! ```
//! A general is a profile: which analyses to run, their thresholds, words and advice. Invariant: a report follows from
//! profile, event and time alone; texts of the event are data, quoted and clipped, and never steer what is done.

mod analysis;
pub mod change;
pub mod command;
mod event;
mod evidence;
pub mod forge;
pub mod options;
mod profile;
mod report;
mod request;
pub mod select;
mod server;
mod summary;
mod text;
mod tools;

pub use change::{Change, FileChange, Tree};
pub use event::Event;
pub use evidence::examine;
pub use forge::{Forge, ForgeFailure, RepositoryAccess};
pub use profile::{Letters, Profile, ProfileError, SecretPattern};
pub use report::{Finding, NO_MODEL, Place, Report, Severity, analyse};
pub use request::{RequestError, decode};
pub use select::{Selected, select};
pub use server::{BODY_MAX, Bound, Config, RunError, bind, run};
