//! What people see of a run: a comment, a review, a check run, labels. Built here from a report and an answer, never by a model.
//!
//! Invariant: a foreign text passes `safe` on its way into any of them. It can show words, code and paths of this repository, and nothing
//! that notifies, links elsewhere, loads an image, hides, closes an issue or commands a bot.

mod check;
mod comment;
mod item;
mod labels;
mod past;
mod review;
pub(crate) mod safe;

pub(crate) use check::check;
pub(crate) use comment::comment;
pub(crate) use item::{Item, items};
pub(crate) use labels::{Labelled, labels};
pub(crate) use past::{PastFinding, compared, read_past};
pub(crate) use review::review;

use crate::Profile;
use crate::run::Answer;
use safe::Allowed;

/// All that is shown.
#[derive(Clone, Copy)]
pub(crate) struct Shown<'a> {
    pub(crate) profile: &'a Profile,
    /// What the event is about, in a sentence.
    pub(crate) about: &'a str,
    pub(crate) items: &'a [Item],
    pub(crate) past: &'a [PastFinding],
    pub(crate) answer: Option<&'a Answer>,
    pub(crate) advice: &'a [String],
    /// Who was asked and what it took, in a sentence of ours.
    pub(crate) statement: &'a str,
    /// The commit that was looked at.
    pub(crate) head: Option<&'a str>,
    pub(crate) allowed: &'a Allowed,
}
