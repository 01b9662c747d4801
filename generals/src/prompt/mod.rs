//! What a model is told: our words in the system text, everybody else's behind a fence.
//!
//! ```text
//!   system:  how data is marked, what the general is to do (the profile), what may be answered
//!   user:    <<data 5f0c.. kind="title">> ... <<end 5f0c..>>     each foreign text, in order of weight, within a budget
//! ```
//! Invariant: no letter of an event, a repository or a model stands outside of a fence, and no fence can be written by who does not know
//! the run's 128 random bits.

mod fence;
pub mod injection;
mod injection_text;
mod pack;
mod system;

pub use fence::Fence;
pub use pack::{Pack, tokens};
pub use system::system;
