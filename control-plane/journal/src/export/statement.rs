//! What keys say within the ledger: checkpoints, and the keys that follow them.

use mindos_model::Seq;
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

/// The numbers of the kinds in `mindos.journal.v1.Entry`.
const CHECKPOINT_SIGNED: u64 = 60;
const AUTHORITY_CHANGED: u64 = 61;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct CheckpointSigned {
    #[prost(uint64, tag = "1")]
    pub(crate) through: u64,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) link: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    pub(crate) signature: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct AuthorityChanged {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) public: Vec<u8>,
    #[prost(uint64, tag = "2")]
    pub(crate) since: u64,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) signature: Vec<u8>,
}

/// Reads what keys say out of a record's metadata; `None` for all other records, at the cost of a glance.
pub(crate) fn statement(metadata: &[u8]) -> Option<Statement> {
    let (number, body) = kind(metadata)?;
    if number == CHECKPOINT_SIGNED {
        let signed = CheckpointSigned::decode(body).ok()?;
        return Some(Statement::Checkpoint(Checkpoint {
            through: Seq(signed.through),
            link: signed.link.as_slice().try_into().ok()?,
            key: signed.key.as_slice().try_into().ok()?,
            signature: signed.signature.as_slice().try_into().ok()?,
        }));
    }
    let changed = AuthorityChanged::decode(body).ok()?;
    let signatures = changed.signature.as_slice().try_into().into_iter().collect();
    let public = PublicKey(changed.public.as_slice().try_into().ok()?);
    Some(Statement::Key { public, since: Seq(changed.since), signatures })
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
    use super::*;
    use crate::signing::KnownKey;

    fn entry(seq: u64, number: u64, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut put = |mut value: u64| {
            while value >= 0x80 {
                bytes.push(value as u8 | 0x80);
                value >>= 7;
            }
            bytes.push(value as u8);
        };
        [8, seq, 16, 1_700_000_000_000, number << 3 | 2, body.len() as u64].into_iter().for_each(&mut put);
        bytes.extend_from_slice(body);
        bytes
    }

    pub(crate) fn checkpoint(seq: u64, checkpoint: &Checkpoint) -> Vec<u8> {
        let Checkpoint { through, link, key, signature } = checkpoint;
        let (link, key, signature) = (link.to_vec(), key.to_vec(), signature.to_vec());
        let signed = CheckpointSigned { through: through.0, link, key, signature };
        entry(seq, CHECKPOINT_SIGNED, &signed.encode_to_vec())
    }

    pub(crate) fn key(seq: u64, known: &KnownKey) -> Vec<u8> {
        let signature = known.by_old.map(|(_, signature)| signature.to_vec()).unwrap_or_default();
        let changed = AuthorityChanged { public: known.public.0.to_vec(), since: known.since.0, signature };
        entry(seq, AUTHORITY_CHANGED, &changed.encode_to_vec())
    }
}
