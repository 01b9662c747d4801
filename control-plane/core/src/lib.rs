//! The pure core of the plane: what is known, what follows from an input, what is due.
//!
//! `decide` reads the state and returns records; `apply` folds a record into the state; [`Plane`] drives both without
//! waiting, so that the server and the simulator run the very same one. No clock, no chance, no I/O in here.

pub mod input;
pub mod journal;
pub mod output;
pub mod record;
pub mod route;
pub mod snapshot;
