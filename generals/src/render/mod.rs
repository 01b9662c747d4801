//! What people see of a run: a comment, a review, a check run, labels. Built here from a report and an answer, never by a model.
//!
//! Invariant: a foreign text passes `safe` on its way into any of them. It can show words, code and paths of this repository, and nothing
//! that notifies, links elsewhere, loads an image, hides, closes an issue or commands a bot.

mod check;
mod comment;
mod labels;
mod lines;
mod past;
mod review;
pub mod safe;

pub use check::check;
pub use comment::{Commented, comment};
pub use labels::labels;
pub use lines::DiffLines;
pub use past::{Past, PastFinding, State, read_past};
pub use review::review;
