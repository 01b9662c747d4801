//! Feedback from GitHub: what becomes there of what we wrote comes back as events about the deliveries whose work it was.
//!
//! ```text
//!   durable records --> view: index of what is ours, words that were said --> publisher --> `dev.mindos.feedback.*`
//!                             index: our comments --> poller: reactions ---------^
//! ```
//! Invariant: nothing here is on the way of an event; a word is published once, however often it is found.

pub mod index;
pub mod poll;
pub mod publish;
pub mod settings;
pub mod signal;
pub mod view;
