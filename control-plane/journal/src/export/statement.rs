//! What keys say within the ledger: checkpoints, and the keys that follow them.

use mindos_model::Seq;
use mindos_proto::journal::v1 as pb;
use prost::Message;

use crate::signing::{Checkpoint, PublicKey, Signature};

/// What a record says of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Statement {
    Checkpoint(Checkpoint),
    Key {
        public: PublicKey,
        since: Seq,
        /// By the key before, where there was one.
        signatures: Vec<Signature>,
    },
}

/// The numbers of the kinds in `mindos.journal.v1.Entry`; a test holds them against it.
const AUTHORITY_CHANGED: u64 = 65;
const CHECKPOINT_SIGNED: u64 = 66;

/// Reads what keys say out of a record's metadata; `None` for all other records, at the cost of a glance.
pub(crate) fn statement(metadata: &[u8]) -> Option<Statement> {
    let (number, body) = kind(metadata)?;
    if number == CHECKPOINT_SIGNED {
        let signed = pb::CheckpointSigned::decode(body).ok()?;
        return Some(Statement::Checkpoint(Checkpoint {
            through: Seq(signed.through),
            link: signed.link.as_ref().try_into().ok()?,
            key: signed.key.as_ref().try_into().ok()?,
            signature: signed.signature.as_ref().try_into().ok()?,
        }));
    }
    let changed = pb::AuthorityChanged::decode(body).ok()?;
    let Some(pb::authority_changed::What::LedgerKey(change)) = changed.what else { return None };
    let signatures = change.signed_by_old.as_ref().try_into().into_iter().collect();
    let key = change.key?;
    let public = PublicKey(key.public_key.as_ref().try_into().ok()?);
    Some(Statement::Key { public, since: Seq(key.since), signatures })
}

/// The field of the one kind that is of interest, and its bytes.
fn kind(mut metadata: &[u8]) -> Option<(u64, &[u8])> {
    while !metadata.is_empty() {
        let tag = varint(&mut metadata)?;
        let number = tag >> 3;
        match tag & 7 {
            0 => {
                varint(&mut metadata)?;
            }
            2 => {
                let length = usize::try_from(varint(&mut metadata)?).ok()?;
                let (body, rest) = metadata.split_at_checked(length)?;
                if number == CHECKPOINT_SIGNED || number == AUTHORITY_CHANGED {
                    return Some((number, body));
                }
                metadata = rest;
            }
            _ => return None,
        }
    }
    None
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
pub(crate) mod testing {
    //! Records with statements, as the plane writes them.

    use std::sync::Arc;

    use mindos_core::access::{AccessRecord, AuthorityChange, Checkpoint as Signed, SigningKey};
    use mindos_core::record::{Entry, Record};
    use mindos_model::Timestamp;

    use super::*;
    use crate::signing::KnownKey;

    fn encoded(seq: u64, record: AccessRecord) -> Vec<u8> {
        let entry = Entry { seq: Seq(seq), at: Timestamp(1_700_000_000_000), record: Record::Access(Box::new(record)) };
        let mut bytes = Vec::new();
        crate::encode::encode(&entry, &mut bytes);
        assert!(statement(&bytes).is_some(), "the kind has the number that is expected");
        bytes
    }

    pub(crate) fn checkpoint(seq: u64, checkpoint: &Checkpoint) -> Vec<u8> {
        let Checkpoint { through, link, key, signature } = *checkpoint;
        encoded(seq, AccessRecord::CheckpointSigned(Signed { through, link, key, signature }))
    }

    pub(crate) fn key(seq: u64, known: &KnownKey) -> Vec<u8> {
        let key = SigningKey { id: known.public.id(), public: known.public.0, since: Seq(seq) };
        let what = AuthorityChange::SigningKey { key, signed_by_old: known.by_old.map(|(_, signature)| signature) };
        encoded(seq, AccessRecord::AuthorityChanged { what, by: Arc::from(""), from: Arc::from("") })
    }
}
