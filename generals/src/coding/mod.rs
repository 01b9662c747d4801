//! The coding agent: from an issue to a plan, from an approved plan to code.
//!
//! ```text
//!   task --> steps (which follows which; pure) --> work (takes them) --> intents: branch, pull request, comment, labels, reaction
//!                                                   |
//!                     clone (trusted)   edits by a model, checked paths   a command or checks, in the sandbox, on a copy
//! ```
//! Invariants: the general pushes nothing, it hands in what changed; what a model, a command or a repository wrote is data until a person
//! merges it; a task leaves nothing behind on the machine, however it ends.

mod ask;
pub mod checks;
pub mod command;
pub mod edits;
mod gather;
mod intend;
mod intents;
pub mod patch;
pub mod paths;
pub mod plan;
mod prompts;
pub mod sandbox;
mod setup;
pub mod steps;
pub mod task;
pub mod texts;
pub mod tree;
mod verify;
mod work;

pub use setup::{Coding, CodingOptions, Hands, SetupError};
pub(crate) use work::go;
