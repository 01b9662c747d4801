//! The chain: every record's link rests on all records before it.
//!
//! ```text
//! leaf = H(0, metadata length, metadata, payload digest)      payload digest = H(2, salt, payload), zeroes if none
//! link = H(1, previous link, seq, leaf)                       first link     = H("mindos.journal.v1", log id)
//! ```
//! H is SHA-256; numbers are little endian. The salt stands beside the payload and goes with it, so a payload can be
//! taken out, its digest left, and the chain still holds. Invariant: nothing here looks at what a record means.

use sha2::{Digest as _, Sha256};

/// A link of the chain, or a digest in it: 32 bytes of SHA-256.
pub type Link = [u8; 32];

/// What stands in a leaf where a record has no payload.
pub const NO_PAYLOAD: Link = [0; 32];

/// Random bytes mixed into a payload's digest, so that the digest tells nothing about a payload that is gone.
pub type Salt = [u8; 16];

const LEAF: u8 = 0;
const LINK: u8 = 1;
const PAYLOAD: u8 = 2;

/// The link before the first record of the log named `log_id`.
#[must_use]
pub fn genesis(log_id: &[u8; 16]) -> Link {
    Sha256::new().chain_update(b"mindos.journal.v1").chain_update(log_id).finalize().into()
}

/// Digest of a payload under its salt.
#[must_use]
pub fn payload_digest(salt: &Salt, payload: &[u8]) -> Link {
    Sha256::new().chain_update([PAYLOAD]).chain_update(salt).chain_update(payload).finalize().into()
}

/// Leaf of one record; [`NO_PAYLOAD`] for a record without one.
#[must_use]
pub fn leaf(metadata: &[u8], payload_digest: &Link) -> Link {
    Sha256::new()
        .chain_update([LEAF])
        .chain_update((metadata.len() as u64).to_le_bytes())
        .chain_update(metadata)
        .chain_update(payload_digest)
        .finalize()
        .into()
}

/// Link of the record at `seq`.
#[must_use]
pub fn link(previous: &Link, seq: u64, leaf: &Link) -> Link {
    let mut bytes = [0; 73];
    bytes[0] = LINK;
    bytes[1..33].copy_from_slice(previous);
    bytes[33..41].copy_from_slice(&seq.to_le_bytes());
    bytes[41..].copy_from_slice(leaf);
    Sha256::digest(bytes).into()
}

/// A link as hexadecimal text, for people.
#[must_use]
pub fn hex(link: &Link) -> String {
    use std::fmt::Write as _;
    link.iter().fold(String::with_capacity(64), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string does not fail");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_moves_the_link() {
        let start = genesis(&[7; 16]);
        let base = link(&start, 1, &leaf(b"meta", &payload_digest(&[1; 16], b"payload")));

        let others = [
            link(&genesis(&[8; 16]), 1, &leaf(b"meta", &payload_digest(&[1; 16], b"payload"))),
            link(&start, 2, &leaf(b"meta", &payload_digest(&[1; 16], b"payload"))),
            link(&start, 1, &leaf(b"metb", &payload_digest(&[1; 16], b"payload"))),
            link(&start, 1, &leaf(b"meta", &payload_digest(&[2; 16], b"payload"))),
            link(&start, 1, &leaf(b"meta", &payload_digest(&[1; 16], b"payloae"))),
            link(&start, 1, &leaf(b"meta", &NO_PAYLOAD)),
        ];

        assert!(others.iter().all(|other| *other != base));
    }

    // The values a program in another language must arrive at.
    #[test]
    fn the_definition_does_not_move() {
        let start = genesis(&[0; 16]);
        let first = link(&start, 1, &leaf(b"hello", &payload_digest(&[9; 16], b"world")));

        assert_eq!(hex(&start), "038ca2a2b7029b10c62dbf81230a9ad52a541f41993748a6acf90ca34fe7fff6");
        assert_eq!(hex(&first), "e04ef4255fa3ee2ec382b80954a79156505f016ff135dcbc53ab9a2b38a27477");
    }
}
