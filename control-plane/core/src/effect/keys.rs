//! Keys of effects, as hashes: which effect had a key first.

use mindos_model::TenantName;
use sha2::{Digest as _, Sha256};

/// First 16 bytes of a SHA-256 over a tenant and a key.
pub type EffectKey = [u8; 16];

/// Generals choose keys, so nobody may be able to find two with one hash.
pub(super) fn hash(tenant: &TenantName, key: &str) -> EffectKey {
    // A tenant's name has no zero byte in it.
    let whole = Sha256::new().chain_update(tenant.as_str()).chain_update([0]).chain_update(key).finalize();
    let mut start = EffectKey::default();
    start.copy_from_slice(&whole[..16]);
    start
}
