//! The real binaries over loopback: started, loaded, hurt, and judged by their ledger.
//!
//! ```text
//!   test --gRPC, HTTP--> control plane <--stream-- sidecars --HTTP--> generals in the test, which note every start
//!    |                        |
//!    +--- kill -9, SIGSTOP ---+--> ledger --> Account
//! ```
//! Invariant: verdicts come from what was acknowledged to the test, what its generals saw, and the ledger; never from a log
//! line or a time that was guessed.

pub mod access;
pub mod account;
pub mod attack;
pub mod chance;
pub mod client;
pub mod faketime;
pub mod forge;
pub mod general;
pub mod kills;
pub mod process;
pub mod proxy;
pub mod rotation;
pub mod spending;
pub mod world;
