//! Who calls, and what they may do.

pub mod jwt;
pub mod service_account;
