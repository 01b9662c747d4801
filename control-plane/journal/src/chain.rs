//! The chain: every record's link rests on all records before it.
//!
//! ```text
//! leaf = H(0, metadata length, metadata, payload digest)      payload digest = H(2, salt, payload), zeroes if none
//! link = H(1, previous link, seq, leaf)                       first link     = H("mindos.journal.v1", log id)
//! ```
//! H is SHA-256; numbers are little endian. The salt stands beside the payload and goes with it, so a payload can be
//! taken out, its digest left, and the chain still holds. Invariant: nothing here looks at what a record means.

use sha2::block_api::compress256;
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
    hash(&[&[PAYLOAD], salt, payload])
}

/// Leaf of one record; [`NO_PAYLOAD`] for a record without one.
#[must_use]
pub fn leaf(metadata: &[u8], payload_digest: &Link) -> Link {
    hash(&[&[LEAF], &(metadata.len() as u64).to_le_bytes(), metadata, payload_digest])
}

/// Link of the record at `seq`.
#[must_use]
pub fn link(previous: &Link, seq: u64, leaf: &Link) -> Link {
    hash(&[&[LINK], previous, &seq.to_le_bytes(), leaf])
}

const BLOCK_BYTES: usize = 64;
/// Up to how many blocks are put together before they are hashed: those of nearly all links and leaves.
const BLOCKS_MAX: usize = 8;
/// What SHA-256 begins with.
const INITIAL: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// H of the parts one after the other.
fn hash(parts: &[&[u8]]) -> Link {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    // Behind the text stand a bit and the length.
    let blocks = (len + 9).div_ceil(BLOCK_BYTES);
    if blocks > BLOCKS_MAX {
        let hasher = parts.iter().fold(Sha256::new(), |hasher, part| hasher.chain_update(part));
        return hasher.finalize().into();
    }
    let mut text = [[0; BLOCK_BYTES]; BLOCKS_MAX];
    let bytes = text[..blocks].as_flattened_mut();
    let mut at = 0;
    for part in parts {
        bytes[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    bytes[len] = 0x80;
    let length_at = bytes.len() - 8;
    bytes[length_at..].copy_from_slice(&(8 * len as u64).to_be_bytes());
    let mut state = INITIAL;
    compress256(&mut state, &text[..blocks]);
    let mut digest = [0; 32];
    for (bytes, word) in digest.as_chunks_mut().0.iter_mut().zip(state) {
        *bytes = word.to_be_bytes();
    }
    digest
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

    #[test]
    fn texts_of_every_length_are_hashed_as_sha_256_says() {
        let text: Vec<u8> = (0..2 * BLOCKS_MAX * BLOCK_BYTES).map(|number| number as u8).collect();
        for len in 0..text.len() {
            let (first, second) = text[..len].split_at(len / 3);

            assert_eq!(hash(&[first, &[], second]), *Sha256::digest(&text[..len]), "{len} bytes");
        }
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
