//! TLS: whom the server believes, and by what it is believed.
//!
//! ```text
//!   authority --- certificates, roots ---> server_config --- config ---> accept --> connection with its agent
//!      ^                                        ^
//!   IdentityService (join, renew)         files that are watched
//! ```
//! Invariant: TLS 1.3 and one provider, ring; no certificate is judged by the wall clock.

pub mod accept;
pub mod authority;
pub mod challenge;
pub mod counts;
pub mod files;
pub mod identity;
pub mod key;
pub mod live;
pub mod membership;
pub mod names;
pub mod renew;
pub mod server_config;
#[cfg(test)]
pub(crate) mod testing;
pub mod verify;
