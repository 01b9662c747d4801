//! The pure core of the plane: what is known, what follows from an input, what is due.
//!
//! `decide` reads the state and returns records; `apply` folds a record into the state; [`Plane`] drives both without
//! waiting, so that the server and the simulator run the very same one. No clock, no chance, no I/O in here.

mod agenda;
mod agents;
mod check;
mod decide;
mod dedupe;
mod delivery;
mod dispatch;
mod durable;
mod event;
pub mod guard;
pub mod input;
pub mod journal;
pub mod output;
mod overflow;
mod people;
mod placement;
mod plane;
mod publish;
mod queue;
mod recent;
pub mod record;
mod registry;
pub mod route;
pub mod route_index;
mod routing;
pub mod snapshot;
mod soft;
mod stretch;
mod view;

pub use dedupe::WINDOW as DEDUPE_WINDOW;
pub use durable::Durable;
pub use people::SELECTED_MAX;
pub use plane::{IN_FLIGHT_MAX, Limits, Plane};
pub use soft::Soft;
