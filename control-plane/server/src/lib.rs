//! The control plane: durable events in, fenced work out to generals, results kept.
//!
//! A thin shell around the pure core: [`driver`] runs the plane and its journal on threads of their own, [`grpc`] and
//! `http` carry what comes and goes, [`views`] derive what people ask for. Invariant: nothing in here decides.

pub mod access;
pub mod admission;
pub mod amount;
pub mod asked;
mod base64url;
pub mod blobs;
pub mod catch_up;
pub mod clock;
pub mod clusters;
pub mod config;
pub mod driver;
pub mod effects;
pub mod feedback;
pub mod grpc;
pub mod http;
pub mod ingest;
pub mod injector;
pub mod ledger;
pub mod limits;
pub mod logging;
mod memory;
pub mod metrics;
pub mod net;
pub mod network;
pub mod notify;
pub mod own_logins;
pub mod payloads;
pub mod prices;
mod priority;
pub mod reload;
pub mod routing;
pub mod run;
pub mod secret;
pub mod secure;
pub mod settings;
pub mod sinks;
pub mod store;
pub mod surface;
pub mod tasks;
pub mod tls;
pub mod trace;
pub mod upkeep;
pub mod views;

/// Version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
