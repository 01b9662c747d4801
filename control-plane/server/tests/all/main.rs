//! The server over its real ports. One program, so that what all of it builds on is linked once, and one test's waits are another's turn.

#![allow(clippy::unwrap_used)]

mod access;
mod access_agents;
mod access_table;
mod admission;
mod asked;
mod broker;
mod budgets;
mod catch_up;
mod clusters;
mod effects;
mod feedback;
mod forge;
mod github;
mod hostile;
mod identity;
mod keda;
mod large_data;
mod notices;
mod observed;
mod platform;
mod replays;
mod sinks;
#[cfg(feature = "nats")]
mod sinks_nats;
mod sources;
mod stream;
mod support;
mod surfaces;
mod tasks;
mod tls;
mod traces;
mod watch;
mod webhooks;
