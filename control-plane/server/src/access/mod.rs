//! Access: who calls, and what they may do.
//!
//! ```text
//!   request --> gate: credential --> principal --> tenant --> permission --> handler, with the principal in the extensions
//! ```
//! Invariant: what stands in no row of the table of permissions is refused.

pub mod authenticate;
pub mod bootstrap;
mod browser;
pub mod gate;
pub mod jwt;
pub mod live;
pub mod permission;
pub mod principal;
pub mod refusal;
mod scoped;
pub mod secret;
pub mod service_account;
pub mod tenancy;
pub mod view;

pub use gate::Gate;
pub use principal::{Caller, Principal, PrincipalKind, Roles, Sources};
pub(crate) use scoped::Scoped;
pub use view::AccessView;
