//! The ledger as a file that can be taken away and verified with nothing but a public key.
//!
//! ```text
//! file   = head | block | block | ... | foot                                        numbers are little endian
//! head   : magic 8 | format 4 | crc 4 | length 4 | log id 16 | first seq 8 | link before it 32 | made at 8 | flags 4
//!          | count of keys 4 | key: public 32, since 8, key before it 8, its signature 64, both zero for the first
//! block  : magic 4 | length 4 | crc 4 | count 4 | first seq 8 | entries
//! entry  : kind 1 | seq 8 | start of the link after it 8 | parts
//!          0 no payload       metadata length 4 | metadata
//!          1 payload          metadata length 4 | payload length 4 | salt 16 | metadata | payload
//!          2 redacted         metadata length 4 | digest of the payload 32 | metadata
//!          3 payload left out as 2
//!          4 somebody else's  leaf 32
//! foot   : magic 8 | crc 4 | count 8 | last seq 8 | link after it 32 | key 8 | signature 64, both zero if nobody signed
//! ```
//! The link after each entry makes a fault found at its record; what proves the whole is a key's signature over a link, in the
//! records and in the foot. Invariant: what is left out leaves its digest, so that every link can be computed.

mod block;
mod fault;
mod head;
mod statement;
#[cfg(test)]
mod tests;
mod verify;
mod write;

pub use fault::{ExportFault, Wrong};
pub use head::{Flags, Foot, Head, KEYS_MAX};
pub use verify::{Anchor, Report, VerifyOptions, verify};
pub use write::{ExportWriter, Shown};

/// What the file's name ends with.
pub const SUFFIX: &str = ".mindos-ledger";
/// Version of what is written here.
pub const FORMAT: u32 = 1;
/// Entries are gathered until a block has this many bytes.
pub(crate) const BLOCK_BYTES: usize = 256 << 10;
/// A block can be larger by one entry, which cannot exceed a frame of the log by much.
pub(crate) const BLOCK_BYTES_MAX: usize = crate::FRAME_BYTES_MAX + BLOCK_BYTES;

/// Checksum of several parts.
pub(crate) fn crc_of(parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}
