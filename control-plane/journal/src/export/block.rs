//! Blocks of an exported ledger: from bytes to leaves.

use super::fault::{ExportFault, Wrong, fault};
use super::statement::{Statement, statement};
use super::write::{BLOCK_HEAD_BYTES, BLOCK_MAGIC};
use super::{BLOCK_BYTES_MAX, crc_of};
use crate::chain::{self, Link};
use crate::frame::{link_at, u32_at, u64_at};

pub(crate) const PLAIN: u8 = 0;
pub(crate) const PAYLOAD: u8 = 1;
pub(crate) const REDACTED: u8 = 2;
pub(crate) const LEFT_OUT: u8 = 3;
pub(crate) const LEAF_ONLY: u8 = 4;
/// Kind, sequence, start of the link.
const ENTRY_HEAD_BYTES: usize = 17;

/// What stands before the entries of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockHead {
    pub(crate) length: usize,
    crc: u32,
    pub(crate) count: u32,
    pub(crate) first: u64,
}

impl BlockHead {
    /// Reads a head; `None` if these bytes are none.
    pub(crate) fn parse(bytes: &[u8; BLOCK_HEAD_BYTES]) -> Option<BlockHead> {
        let head = BlockHead {
            length: u32_at(bytes, 4) as usize,
            crc: u32_at(bytes, 8),
            count: u32_at(bytes, 12),
            first: u64_at(bytes, 16),
        };
        let fits = head.length <= BLOCK_BYTES_MAX
            && (1..=head.length / ENTRY_HEAD_BYTES).contains(&(head.count as usize))
            && head.first > 0;
        (bytes[..4] == BLOCK_MAGIC && fits).then_some(head)
    }
}

/// A block that was read and not yet looked into.
#[derive(Debug)]
pub(crate) struct Raw {
    pub(crate) head: BlockHead,
    /// Of the block in the file.
    pub(crate) offset: u64,
    pub(crate) bytes: Vec<u8>,
}

/// One record as far as the chain is concerned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leaf {
    pub(crate) seq: u64,
    /// Offset of its entry in the file.
    pub(crate) offset: u64,
    pub(crate) leaf: Link,
    /// What the file says the link after it begins with.
    pub(crate) mark: [u8; 8],
}

/// How much of the records is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kinds {
    pub(crate) redacted: u64,
    pub(crate) left_out: u64,
    pub(crate) leaf_only: u64,
}

/// A block with its leaves.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) offset: u64,
    pub(crate) first: u64,
    pub(crate) leaves: Vec<Leaf>,
    /// What keys say in it, each with the place of its record in `leaves`.
    pub(crate) statements: Vec<(usize, Statement)>,
    pub(crate) kinds: Kinds,
    /// An entry that cannot be read, behind the leaves; or that the checksum does not fit.
    pub(crate) fault: Option<ExportFault>,
}

/// Looks into a block. Hashes every record in it.
pub(crate) fn open(raw: &Raw) -> Block {
    let BlockHead { length, crc, count, first } = raw.head;
    let (length, count_bytes) = (u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes(), count.to_le_bytes());
    let is_whole = crc_of(&[&length, &count_bytes, &first.to_le_bytes(), &raw.bytes]) == crc;
    let entries_at = raw.offset + BLOCK_HEAD_BYTES as u64;
    let mut block = Block {
        offset: raw.offset,
        first,
        leaves: Vec::with_capacity((count as usize).min(raw.bytes.len() / ENTRY_HEAD_BYTES)),
        statements: Vec::new(),
        kinds: Kinds::default(),
        fault: None,
    };
    let mut at = 0;
    for number in 0..count {
        match entry(&raw.bytes[at..], &mut block.kinds) {
            Some((leaf, size, metadata)) => {
                if let Some(statement) = metadata.and_then(statement) {
                    block.statements.push((block.leaves.len(), statement));
                }
                block.leaves.push(Leaf { offset: entries_at + at as u64, ..leaf });
                at += size;
            }
            None => {
                let seq = first.saturating_add(u64::from(number));
                block.fault = Some(fault(seq, entries_at + at as u64, Wrong::Unreadable));
                return block;
            }
        }
    }
    if at != raw.bytes.len() || !is_whole {
        block.fault = Some(fault(first, raw.offset, Wrong::Checksum));
    }
    block
}

/// The first entry of `bytes`: its leaf, its size, and its metadata where that is there.
fn entry<'a>(bytes: &'a [u8], kinds: &mut Kinds) -> Option<(Leaf, usize, Option<&'a [u8]>)> {
    let head: &[u8; ENTRY_HEAD_BYTES] = bytes.first_chunk()?;
    let rest = &bytes[ENTRY_HEAD_BYTES..];
    let leaf_of =
        |leaf| Leaf { seq: u64_at(head, 1), offset: 0, leaf, mark: head[9..17].try_into().expect("eight bytes") };
    let part = |from: usize, len: usize| rest.get(from..from.checked_add(len)?);
    let length = |at: usize| part(at, 4).map(|bytes| u32_at(bytes, 0) as usize);
    let (leaf, size, metadata) = match head[0] {
        PLAIN => {
            let len = length(0)?;
            let metadata = part(4, len)?;
            (chain::leaf(metadata, &chain::NO_PAYLOAD), 4 + len, Some(metadata))
        }
        PAYLOAD => {
            let (len, payload_len) = (length(0)?, length(4)?);
            let salt = part(8, 16)?.try_into().expect("16 bytes");
            let metadata = part(24, len)?;
            let digest = chain::payload_digest(salt, part(24 + len, payload_len)?);
            (chain::leaf(metadata, &digest), 24 + len + payload_len, Some(metadata))
        }
        kind @ (REDACTED | LEFT_OUT) => {
            let len = length(0)?;
            let digest = link_at(part(4, 32)?, 0);
            let metadata = part(36, len)?;
            kinds.redacted += u64::from(kind == REDACTED);
            kinds.left_out += u64::from(kind == LEFT_OUT);
            (chain::leaf(metadata, &digest), 36 + len, Some(metadata))
        }
        LEAF_ONLY => {
            kinds.leaf_only += 1;
            (link_at(part(0, 32)?, 0), 32, None)
        }
        _ => return None,
    };
    Some((leaf_of(leaf), ENTRY_HEAD_BYTES + size, metadata))
}
