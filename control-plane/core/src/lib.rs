//! The pure core of the plane: what is known, what follows from an input, what is due.
//!
//! `decide` reads the state and returns records; `apply` folds a record into the state; [`Plane`] drives both without
//! waiting, so that the server and the simulator run the very same one. No clock, no chance, no I/O in here.

mod account;
mod account_check;
mod agenda;
mod agents;
mod allowance;
mod aside;
mod asked;
mod breaker;
pub mod budget;
mod check;
mod decide;
mod dedupe;
mod degrade;
mod delivery;
mod dispatch;
mod durable;
pub mod estimate;
mod event;
mod fair;
pub mod guard;
pub mod input;
pub mod journal;
mod member;
pub mod output;
mod overflow;
mod people;
mod placement;
mod plane;
mod policy;
mod pool;
mod publish;
mod queue;
mod race;
mod rate;
mod recent;
pub mod record;
mod registry;
mod rounds;
pub mod route;
pub mod route_index;
mod routing;
mod score;
mod shadow;
pub mod snapshot;
mod soft;
mod spend;
mod strategy;
mod stretch;
mod tenants;
mod terms;
mod there;
mod version;
mod view;

pub use account::{AccountIds, OverBudget, Reservation, Tally, Turn};
pub use asked::{ASKED_MAX, ASKED_PREFIX};
pub use breaker::BreakerState;
pub use dedupe::WINDOW as DEDUPE_WINDOW;
pub use durable::Durable;
pub use people::SELECTED_MAX;
pub use placement::Drawing;
pub use plane::{IN_FLIGHT_MAX, Limits, Plane};
pub use rate::RATE_POOL_LABEL;
pub use soft::Soft;
