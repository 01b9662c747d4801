//! The ledger's proof and its gaps: keys that sign it, places where their word is noted, payloads that are to go.
//!
//! ```text
//!  durable records --> signer --CheckpointSigned--> checkpoints (a file) --> anchors: files, webhooks
//!  PayloadsRedacted --> redactor --> blobs, segments, cache
//! ```
//! Invariant: nothing here is on the way of an event.

pub mod anchor_settings;
pub mod anchors;
pub mod changes;
pub mod checkpoints;
pub mod keys;
pub mod redactions;
pub mod redactor;
pub mod signer;

use std::sync::Arc;

use mindos_core::access::{AccessChange, Scope};
use mindos_core::input::Input;
use mindos_core::output::Reply;

use crate::driver::{CallError, Handle};

/// Has the plane itself record a change of access.
pub(crate) async fn record(handle: &Handle, change: AccessChange) -> Result<Reply, CallError> {
    record_by(handle, change, Arc::from(""), Arc::from("")).await
}

/// As [`record`], for somebody who asked from somewhere.
pub(crate) async fn record_by(
    handle: &Handle,
    change: AccessChange,
    by: Arc<str>,
    from: Arc<str>,
) -> Result<Reply, CallError> {
    let change = Box::new(change);
    handle.call(|request| Input::Access { request, within: Scope::Plane, change, by, from }).await
}
