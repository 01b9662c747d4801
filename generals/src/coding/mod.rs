//! The coding agent: from an issue to a plan, from an approved plan to code.

pub mod checks;
pub mod command;
pub mod edits;
mod intents;
pub mod patch;
pub mod paths;
pub mod plan;
pub mod sandbox;
pub mod steps;
pub mod task;
pub mod texts;
pub mod tree;
