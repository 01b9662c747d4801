//! Routing ahead of the plane: which conditions of the table in force hold for an event.
//!
//! ```text
//!  routes file --> table --> Judge: index, compiled conditions, the payload fields they read
//!  event --------------------> judge() --> Judged, offered to the plane with the event
//! ```
//! Invariant: the plane takes an event only as judged against the table in force there; whoever was late judges again, and
//! no publisher sees it. A table without conditions judges nothing. Data in a blob are read only for a condition that asks.

pub mod condition;
pub mod elsewhere;
mod fields;
pub mod file;
mod judge;
mod retry;

pub use judge::{Facts, Judge, Judges};
