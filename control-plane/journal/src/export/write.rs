//! Writing an exported ledger, piece by piece.

use mindos_model::Seq;

use super::head::{Foot, Head};
use super::{BLOCK_BYTES, block, crc_of};
use crate::chain::{self, Link};
use crate::frame::Entry;
use crate::signing::Checkpoint;

pub(crate) const BLOCK_MAGIC: [u8; 4] = *b"MDLB";
/// Magic, length, crc, count, first sequence.
pub(crate) const BLOCK_HEAD_BYTES: usize = 24;

/// How much of a record is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// All of it.
    Whole,
    /// Of its payload only the digest.
    WithoutPayload,
    /// Only its leaf: it belongs to another tenant.
    LeafOnly,
}

/// Makes the bytes of a file. They are taken out as they come, so that memory stays bounded.
#[derive(Debug)]
pub struct ExportWriter {
    out: Vec<u8>,
    block: Vec<u8>,
    block_first: u64,
    block_count: u32,
    next: u64,
    link: Link,
    first: Seq,
}

impl ExportWriter {
    /// Begins a file.
    #[must_use]
    pub fn new(head: &Head) -> ExportWriter {
        let mut writer = ExportWriter::resume(head.first, head.first, head.previous);
        writer.out = head.encode();
        writer
    }

    /// Goes on with a file whose first record is `first`, behind the blocks that end with the record before `next`, after which
    /// `link` stands.
    #[must_use]
    pub fn resume(first: Seq, next: Seq, link: Link) -> ExportWriter {
        let (out, block) = (Vec::new(), Vec::with_capacity(BLOCK_BYTES + (64 << 10)));
        ExportWriter { out, block, block_first: next.0, block_count: 0, next: next.0, link, first }
    }

    /// The record that comes next.
    #[must_use]
    pub fn next(&self) -> Seq {
        Seq(self.next)
    }

    /// The link after the last record.
    #[must_use]
    pub fn link(&self) -> Link {
        self.link
    }

    /// Adds the next record.
    ///
    /// # Panics
    /// If it is another one.
    pub fn push(&mut self, entry: &Entry<'_>, shown: Shown) {
        assert_eq!(entry.seq.0, self.next, "records are exported in order");
        let digest = entry.digest();
        let leaf = chain::leaf(entry.metadata, &digest);
        self.link = chain::link(&self.link, entry.seq.0, &leaf);
        self.block.push(0);
        let kind_at = self.block.len() - 1;
        self.block.extend_from_slice(&entry.seq.0.to_le_bytes());
        self.block.extend_from_slice(&self.link[..8]);
        let metadata_len = u32::try_from(entry.metadata.len()).expect("below a frame").to_le_bytes();
        self.block[kind_at] = match (shown, entry.payload, entry.redacted) {
            (Shown::LeafOnly, _, _) => {
                self.block.extend_from_slice(&leaf);
                block::LEAF_ONLY
            }
            (_, None, None) => {
                self.block.extend_from_slice(&metadata_len);
                self.block.extend_from_slice(entry.metadata);
                block::PLAIN
            }
            (Shown::Whole, Some(payload), _) => {
                self.block.extend_from_slice(&metadata_len);
                let payload_len = u32::try_from(payload.bytes.len()).expect("below a frame");
                self.block.extend_from_slice(&payload_len.to_le_bytes());
                self.block.extend_from_slice(payload.salt);
                self.block.extend_from_slice(entry.metadata);
                self.block.extend_from_slice(payload.bytes);
                block::PAYLOAD
            }
            (_, _, redacted) => {
                self.block.extend_from_slice(&metadata_len);
                self.block.extend_from_slice(&digest);
                self.block.extend_from_slice(entry.metadata);
                if redacted.is_some() { block::REDACTED } else { block::LEFT_OUT }
            }
        };
        self.next += 1;
        self.block_count += 1;
        if self.block.len() >= BLOCK_BYTES {
            self.end_block();
        }
    }

    /// Ends the block that is being gathered, so that what [`ExportWriter::take`] gives out reaches up to the last record.
    pub fn end_block(&mut self) {
        if self.block_count == 0 {
            return;
        }
        let length = u32::try_from(self.block.len()).expect("a block is below 4 GiB").to_le_bytes();
        let (count, first) = (self.block_count.to_le_bytes(), self.block_first.to_le_bytes());
        let crc = crc_of(&[&length, &count, &first, &self.block]).to_le_bytes();
        for part in [&BLOCK_MAGIC[..], &length, &crc, &count, &first, &self.block] {
            self.out.extend_from_slice(part);
        }
        self.block.clear();
        self.block_first = self.next;
        self.block_count = 0;
    }

    /// The record through which what was taken out reaches, blocks being whole.
    #[must_use]
    pub fn through(&self) -> Seq {
        Seq(self.block_first - 1)
    }

    /// How many bytes can be taken out.
    #[must_use]
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Whether none can.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// Takes out what is finished.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// Ends the file, with a key's word on its last link if there is one.
    #[must_use]
    pub fn finish(mut self, checkpoint: Option<Checkpoint>) -> Vec<u8> {
        self.end_block();
        let last = Seq(self.next - 1);
        let foot = Foot { count: self.next - self.first.0, last, link: self.link, checkpoint };
        self.out.extend_from_slice(&foot.encode());
        self.out
    }
}
