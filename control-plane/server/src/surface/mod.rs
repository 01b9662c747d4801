//! Surfaces of earlier systems, for the clients that were written for them.
//!
//! Invariant: a surface has paths and words of its own, and no truth of its own: what it is told goes through the plane, and
//! what it tells comes from the plane and its views.

pub mod gitlens;
pub mod platform;
