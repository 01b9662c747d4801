//! The simulator: the real plane and real agents under one seeded scheduler, on a network and a disk that do their worst.
//!
//! A seed decides everything: what is published, what gets lost, when a process dies. After every step the named
//! invariants run on what it touched: those of the records in [`ledger`], those of what leaves the plane in `outputs`,
//! those of the agents in `world`. Invariant: one seed, run twice, gives equal bytes.

pub mod access;
mod attempts;
pub mod budgets;
pub mod chance;
pub mod clocks;
pub mod coverage;
pub mod effects;
pub mod faults;
pub mod histories;
pub mod home;
pub mod ledger;
pub mod objects;
mod outputs;
mod placed;
pub mod placement;
mod policies;
pub mod script;
mod wire;
pub mod words;
pub mod world;

pub use world::{Failure, Options, Report, run};
