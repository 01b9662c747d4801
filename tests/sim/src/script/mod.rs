//! Scenarios: stories as text, with what came of them below `----`.
//!
//! Above the line stand steps, one a line; `#` begins a remark. Below stand the records and what left the plane, as
//! they came after each step. Invariant: the same text gives the same output.

mod about;
pub mod access;
mod effects;
mod objects;
pub mod parse;
mod parse_budget;
mod policy;
pub mod print;
pub mod run;
pub mod show;
mod siting;

pub use run::{Ran, run};
