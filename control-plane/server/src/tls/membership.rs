//! What joining and renewing remember: who joined a moment ago, which refusals are on record, and how often each thing happened.
//!
//! Invariant: all of it is bounded, and none of it decides who may join.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use mindos_core::access::{Identity, JoinRefusal, JoinRefused, KeyHash, TokenHash, TokenId};
use mindos_model::{TenantName, Timestamp};

use crate::metrics::{Exposition, Kind};

/// How long a join may be repeated at no further use of its token: an answer that was lost.
pub const REPEAT_MAX: Duration = Duration::from_secs(5 * 60);
/// Between two records of the same refusal.
const REFUSAL_PAUSE: Duration = Duration::from_secs(10);
/// Entries of each memory.
const ENTRIES_MAX: usize = 10_000;

/// Things that are forgotten after their time. Where it is full of things whose time is not over, no more are taken.
#[derive(Debug)]
struct Memory<K, V> {
    entries: HashMap<K, (Timestamp, V)>,
    span: Duration,
}

impl<K: Hash + Eq, V: Clone> Memory<K, V> {
    fn new(span: Duration) -> Memory<K, V> {
        Memory { entries: HashMap::new(), span }
    }

    fn get(&self, key: &K, now: Timestamp) -> Option<V> {
        self.entries.get(key).filter(|(at, _)| now.since(*at) < self.span).map(|(_, value)| value.clone())
    }

    /// Whether there was room.
    fn put(&mut self, key: K, value: V, now: Timestamp) -> bool {
        if self.entries.len() >= ENTRIES_MAX {
            let span = self.span;
            self.entries.retain(|_, (at, _)| now.since(*at) < span);
        }
        let fits = self.entries.len() < ENTRIES_MAX;
        if fits {
            self.entries.insert(key, (now, value));
        }
        fits
    }
}

/// By what and with which key somebody joined.
pub type JoinedWith = (TokenHash, KeyHash);

/// A refusal without what a stranger chooses.
type Refusal = (TenantName, Option<TokenId>, JoinRefusal);

/// What joining and renewing remember.
#[derive(Debug)]
pub struct Membership {
    joined: Mutex<Memory<JoinedWith, Identity>>,
    refused: Mutex<Memory<Refusal, ()>>,
    counts: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
}

impl Default for Membership {
    fn default() -> Membership {
        Membership {
            joined: Mutex::new(Memory::new(REPEAT_MAX)),
            refused: Mutex::new(Memory::new(REFUSAL_PAUSE)),
            counts: Mutex::default(),
        }
    }
}

impl Membership {
    /// Remembers a join.
    pub fn joined(&self, with: JoinedWith, identity: Identity, now: Timestamp) {
        self.joined.lock().unwrap_or_else(PoisonError::into_inner).put(with, identity, now);
    }

    /// What was joined as a moment ago, with the same token and key.
    #[must_use]
    pub fn joined_as(&self, with: &JoinedWith, now: Timestamp) -> Option<Identity> {
        self.joined.lock().unwrap_or_else(PoisonError::into_inner).get(with, now)
    }

    /// Whether a refusal is to be recorded: the same one was not for a while.
    pub fn is_to_be_recorded(&self, refused: &JoinRefused, now: Timestamp) -> bool {
        let JoinRefused { tenant, token, cluster: _, reason } = refused;
        let refusal = (tenant.clone(), *token, *reason);
        let mut memory = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        memory.get(&refusal, now).is_none() && memory.put(refusal, (), now)
    }

    /// Counts how an RPC ended; the words are fixed ones.
    pub fn count(&self, rpc: &'static str, result: &'static str) {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner).entry((rpc, result)).or_default() += 1;
    }

    /// Writes the family.
    pub fn expose(&self, into: &mut Exposition) {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let help = "Requests of agents for certificates, by kind and by how they ended.";
        let mut family = into.family("mindos_certificate_requests_total", Kind::Counter, help);
        for ((rpc, result), count) in counts {
            family.series(&[("kind", rpc), ("result", result)], count);
        }
    }
}

#[cfg(test)]
mod tests {
    use mindos_core::access::{JoinRefusal, TokenId};
    use mindos_model::{ClusterName, TenantName};

    use super::*;

    const NOW: Timestamp = Timestamp(1_795_176_000_000);

    fn refused(token: u64, reason: JoinRefusal) -> JoinRefused {
        let (tenant, cluster) = (TenantName::default_tenant(), ClusterName::new("c").unwrap());
        JoinRefused { tenant, token: Some(TokenId(token)), cluster, reason }
    }

    #[test]
    fn a_join_is_repeated_with_the_same_token_and_key_for_a_while() {
        let membership = Membership::default();
        let identity: Identity = "tenant/default/cluster/c/agent/i".parse().unwrap();
        membership.joined(([1; 32], [2; 32]), identity.clone(), NOW);
        assert_eq!(membership.joined_as(&([1; 32], [2; 32]), NOW), Some(identity));
        for other in [([1; 32], [3; 32]), ([3; 32], [2; 32])] {
            assert_eq!(membership.joined_as(&other, NOW), None);
        }
        assert_eq!(membership.joined_as(&([1; 32], [2; 32]), NOW + REPEAT_MAX), None);
    }

    #[test]
    fn a_refusal_is_recorded_once_in_a_while_and_never_without_bound() {
        let membership = Membership::default();
        let first = refused(1, JoinRefusal::UsedUp);
        assert!(membership.is_to_be_recorded(&first, NOW) && !membership.is_to_be_recorded(&first, NOW));
        assert!(membership.is_to_be_recorded(&refused(1, JoinRefusal::Expired), NOW));
        assert!(membership.is_to_be_recorded(&first, NOW + REFUSAL_PAUSE));
        let many = (0..3 * ENTRIES_MAX as u64).filter(|token| {
            membership.is_to_be_recorded(&refused(*token + 2, JoinRefusal::UsedUp), NOW + REFUSAL_PAUSE)
        });
        assert!(many.count() <= ENTRIES_MAX);
        // Later there is room again.
        assert!(membership.is_to_be_recorded(&refused(9, JoinRefusal::Revoked), NOW + REFUSAL_PAUSE * 2));
    }
}
