//! What comes in from outside, checked and turned into plain events: webhooks and CloudEvents over HTTP.
//!
//! Everything here is a pure function of headers, body and secrets: no clock, no socket, no state. Invariant: no bytes make
//! it panic; what it refuses, it refuses with an error that names the header, attribute or field and what is accepted.

pub mod alertmanager;
pub(crate) mod base64;
pub mod cloudevents;
pub mod doors;
pub mod event;
mod event_scan;
pub mod generic;
pub mod github;
mod github_signature;
pub(crate) mod github_table;
pub mod github_trust;
pub mod gitlab;
pub mod hook;
pub mod redact;

/// The stock routing table, as JSON; its last route is the default.
pub const STOCK_ROUTES: &str = include_str!("stock_routes.json");
