//! The few texts and hashes that the simulator and its scripts share.

use std::sync::Arc;

use bytes::Bytes;
use mindos_core::input::{Input, RequestId};
use mindos_core::record::{ContentDigest, DedupeKey, GeneralKey, InstanceKey, Payload};
use mindos_model::{ClusterName, GeneralName, InstanceId, Priority, TenantName};

/// FNV-1a over parts, each followed by a separator; stands in for the SHA-256 of the server.
#[must_use]
pub fn hash(parts: &[&[u8]]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in parts.iter().flat_map(|part| part.iter().copied().chain([0xff])) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash
}

/// The key of an event within the default tenant.
#[must_use]
pub fn dedupe_key(source: &str, id: &str) -> DedupeKey {
    wide(hash(&[source.as_bytes(), id.as_bytes()]))
}

/// The digest of an event's content.
#[must_use]
pub fn content_digest(kind: &str, data: &str) -> ContentDigest {
    wide(hash(&[kind.as_bytes(), data.as_bytes()]))
}

fn wide(hash: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&hash.to_le_bytes());
    bytes[8..].copy_from_slice(&hash.rotate_left(29).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    bytes
}

/// A payload of this text, with a salt that follows from it.
#[must_use]
pub fn payload(text: &str) -> Payload {
    Payload { salt: wide(hash(&[text.as_bytes()])), bytes: Bytes::copy_from_slice(text.as_bytes()) }
}

/// The repository of a lane: some have none.
#[must_use]
pub fn repository(lane: &str) -> Option<Arc<str>> {
    let number = hash(&[lane.as_bytes()]) % 4;
    (number > 0).then(|| format!("o/{number}").into())
}

/// What the event of this id asks for: most ask for nothing.
#[must_use]
pub fn priority(id: &str) -> Option<Priority> {
    Priority::ALL.get((hash(&[id.as_bytes()]) % 8) as usize).copied()
}

/// The default tenant.
#[must_use]
pub fn tenant() -> TenantName {
    TenantName::default_tenant()
}

/// An instance of the default tenant.
#[must_use]
pub fn instance(cluster: &str, instance: &str) -> Option<Arc<InstanceKey>> {
    let cluster = ClusterName::new(cluster).ok()?;
    Some(Arc::new(InstanceKey { tenant: tenant(), cluster, instance: InstanceId::new(instance).ok()? }))
}

/// A general of the default tenant.
#[must_use]
pub fn general(cluster: &str, name: &str) -> Option<GeneralKey> {
    Some(GeneralKey { tenant: tenant(), cluster: ClusterName::new(cluster).ok()?, name: GeneralName::new(name).ok()? })
}

/// Gives an input that asks for a reply its request.
pub fn name_request(input: &mut Input, id: RequestId) {
    match input {
        Input::Publish { request, .. }
        | Input::Cancel { request, .. }
        | Input::Redrive { request, .. }
        | Input::Hold { request, .. }
        | Input::ApplyRoutes { request, .. }
        | Input::RemoveGeneral { request, .. }
        | Input::Budget { request, .. }
        | Input::Object { request, .. }
        | Input::FinalizeUpgrade { request, .. }
        | Input::Access { request, .. }
        | Input::Redact { request, .. }
        | Input::ChangeEffect { request, .. }
        | Input::Query { request, .. }
        | Input::DropPrefix { request, .. } => *request = id,
        Input::Join(join) => join.request = id,
        Input::Hello(_)
        | Input::Agent { .. }
        | Input::Closed { .. }
        | Input::KeepPools { .. }
        | Input::Effect { .. }
        | Input::Intend { .. }
        | Input::Carry { .. }
        | Input::Truncated { .. } => {}
    }
}
