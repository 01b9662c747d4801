//! The reference for access: what the records say of tokens, denials and redactions, folded without any of the core's code.

use std::collections::{BTreeMap, BTreeSet};

use mindos_core::access::{AccessRecord, JoinedBy};
use mindos_core::record::{CancelReason, Entry, Record};
use mindos_model::{ClusterName, DeliveryId, Seq, Timestamp};

use crate::ledger::Broken;

/// What is known of a join token.
#[derive(Clone, Debug)]
struct Token {
    cluster: ClusterName,
    uses: u32,
    joins: u32,
    expires: Timestamp,
    revoked: bool,
}

/// The reference state.
#[derive(Debug, Default)]
pub struct AccessFacts {
    join_tokens: BTreeMap<u64, Token>,
    /// API tokens that are not revoked.
    pub api_tokens: BTreeSet<u64>,
    pub denials: BTreeSet<u64>,
    /// What each tenant of the run may have open.
    pub open_max: Option<u64>,
    pub streams_max: Option<u32>,
    /// Events whose payloads are gone, with the record that said so.
    pub redacted: BTreeMap<Seq, Seq>,
    /// How many joined.
    pub joins: u64,
}

impl AccessFacts {
    /// A join token, by any number.
    #[must_use]
    pub fn some_join_token(&self, number: u64) -> Option<u64> {
        let count = self.join_tokens.len() as u64;
        let at = number.checked_rem(count)?;
        self.join_tokens.keys().nth(at as usize).copied()
    }

    /// Folds and judges a record.
    ///
    /// # Errors
    /// Names the invariant that the record breaks.
    pub fn fold(&mut self, entry: &Entry) -> Result<(), Broken> {
        let Entry { seq, at, record } = entry;
        match record {
            Record::Access(record) => self.access(*seq, *at, record),
            Record::PayloadsRedacted(record) => {
                for event in &record.events {
                    self.redacted.entry(*event).or_insert(*seq);
                }
                Ok(())
            }
            Record::DeliveryLeased(record) => self.nothing_of(record.delivery, "was leased"),
            Record::DeliverySettled(record) => self.nothing_of(record.delivery, "was settled with a result"),
            Record::DeliveryRedriven(record) => self.nothing_of(record.delivery, "was redriven"),
            Record::LeaseExtended(record) if record.checkpoint.is_some() => {
                self.nothing_of(record.delivery, "left a checkpoint")
            }
            // What an effect takes that was wanted after the redaction is not of what was redacted.
            Record::PayloadCarried(record)
                if self
                    .redacted
                    .get(&record.event)
                    .is_some_and(|by| record.effect.is_none_or(|effect| effect.0 < *by)) =>
            {
                Err(format!("what_is_redacted_stays_so: the payload of {} was written again", record.event))
            }
            Record::DeliveryCancelled(record)
                if record.reason == CancelReason::Redacted && !self.redacted.contains_key(&record.delivery.event) =>
            {
                Err(format!("only_what_is_redacted_ends_so: {}", record.delivery))
            }
            _ => Ok(()),
        }
    }

    fn nothing_of(&self, id: DeliveryId, what: &str) -> Result<(), Broken> {
        match self.redacted.get(&id.event) {
            Some(by) => Err(format!("what_is_redacted_stays_so: {id} {what} after record {by}")),
            None => Ok(()),
        }
    }

    fn access(&mut self, seq: Seq, at: Timestamp, record: &AccessRecord) -> Result<(), Broken> {
        match record {
            AccessRecord::JoinTokenCreated { token, .. } => {
                let (uses, expires) = (token.uses_left, token.expires);
                let cluster = token.cluster.clone();
                self.join_tokens.insert(seq.0, Token { cluster, uses, joins: 0, expires, revoked: false });
            }
            AccessRecord::JoinTokenRevoked { token, .. } => {
                if let Some(token) = self.join_tokens.get_mut(&token.0) {
                    token.revoked = true;
                }
            }
            AccessRecord::AgentJoined { identity, how, .. } => {
                self.joins += 1;
                let JoinedBy::Token(id) = how else { return Ok(()) };
                let Some(token) = self.join_tokens.get_mut(&id.0) else {
                    return Err(format!("a_join_has_its_token: {identity} by {id}, which was never made"));
                };
                if token.cluster != identity.cluster {
                    return Err(format!("a_token_lets_in_where_it_says: {identity} by {id} for {}", token.cluster));
                }
                token.joins += 1;
                if token.joins > token.uses {
                    return Err(format!("no_more_joins_than_uses: {} by token {id} of {}", token.joins, token.uses));
                }
                if token.revoked || at >= token.expires {
                    return Err(format!("a_token_that_is_over_lets_nobody_in: {identity} by {id} at {at}"));
                }
            }
            AccessRecord::ApiTokenCreated { .. } => {
                self.api_tokens.insert(seq.0);
            }
            AccessRecord::ApiTokenRevoked { token, .. } => {
                self.api_tokens.remove(&token.0);
            }
            AccessRecord::ApiTokenUsed { token, .. } if !self.api_tokens.contains(&token.0) => {
                return Err(format!("only_known_tokens_are_used: {token}"));
            }
            AccessRecord::AgentDenied { .. } => {
                self.denials.insert(seq.0);
            }
            AccessRecord::AgentAllowed { denial, .. } => {
                if !self.denials.remove(&denial.0) {
                    return Err(format!("only_who_is_denied_is_allowed: {denial}"));
                }
            }
            AccessRecord::QuotaSet { quota, .. } => {
                self.open_max = quota.and_then(|quota| quota.open_max);
                self.streams_max = quota.and_then(|quota| quota.streams_max);
            }
            AccessRecord::ApiTokenUsed { .. }
            | AccessRecord::JoinRefused { .. }
            | AccessRecord::RoleBound { .. }
            | AccessRecord::RoleUnbound { .. }
            | AccessRecord::IssuerRegistered { .. }
            | AccessRecord::IssuerRemoved { .. }
            | AccessRecord::SettingsChanged { .. }
            | AccessRecord::AuthorityChanged { .. }
            | AccessRecord::CheckpointSigned(_) => {}
        }
        Ok(())
    }
}
