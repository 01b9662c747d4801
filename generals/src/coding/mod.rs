//! The coding agent: from an issue to a plan, from an approved plan to code.

pub mod sandbox;
