//! The keys of recent events in a snapshot: so many that each by itself would cost more than all the rest.
//!
//! Invariant: a block is [`ENTRY_BYTES`] for each event, in the order in which they came.

use bytes::Bytes;
use mindos_core::input::Seen;
use mindos_core::snapshot::Item;
use mindos_model::{Seq, Timestamp};
use mindos_proto::convert::Invalid;
use mindos_proto::journal::v1::{self as pb, snapshot_item::Item as Piece};
use prost::Message;

/// Key 16, digest 16, sequence 8, time 8.
const ENTRY_BYTES: usize = 48;
/// Entries of one block: as many as go under one checksum.
const ENTRIES_MAX: usize = 4096;

/// A block that fills.
#[derive(Debug, Default)]
pub(crate) struct SeenBlock {
    entries: Vec<u8>,
}

impl SeenBlock {
    /// Takes the item in, if it is the key of an event and there is room.
    pub(crate) fn takes(&mut self, item: &Item) -> bool {
        let Item::Seen { key, at, seen: Seen { event, digest } } = item else { return false };
        if self.entries.len() == ENTRIES_MAX * ENTRY_BYTES {
            return false;
        }
        self.entries.extend_from_slice(key);
        self.entries.extend_from_slice(digest);
        self.entries.extend_from_slice(&event.0.to_le_bytes());
        self.entries.extend_from_slice(&at.0.to_le_bytes());
        true
    }

    /// The encoded block, if it has anything in it; the next one begins.
    pub(crate) fn take(&mut self) -> Option<Vec<u8>> {
        if self.entries.is_empty() {
            return None;
        }
        let entries = std::mem::replace(&mut self.entries, Vec::with_capacity(ENTRIES_MAX * ENTRY_BYTES));
        let piece = Piece::DedupeBlock(pb::DedupeBlock { entries: Bytes::from(entries) });
        Some(pb::SnapshotItem { item: Some(piece) }.encode_to_vec())
    }
}

/// Hands out what a block holds.
pub(crate) fn read(entries: &[u8], visit: &mut dyn FnMut(Item)) -> Result<(), Invalid> {
    let (entries, rest) = entries.as_chunks::<ENTRY_BYTES>();
    if !rest.is_empty() {
        return Err(Invalid::new("entries", format_args!("ends within an entry of {ENTRY_BYTES} bytes")));
    }
    for entry in entries {
        let [mut key, mut digest, mut event, mut at] = [[0; 16]; 4];
        key.copy_from_slice(&entry[..16]);
        digest.copy_from_slice(&entry[16..32]);
        event[..8].copy_from_slice(&entry[32..40]);
        at[..8].copy_from_slice(&entry[40..]);
        let [event, at] = [event, at].map(|bytes| u128::from_le_bytes(bytes) as u64);
        visit(Item::Seen { key, at: Timestamp(at), seen: Seen { event: Seq(event), digest } });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_block_takes_in_comes_out_in_order() {
        let item = |number: u64| Item::Seen {
            key: u128::from(number).to_be_bytes(),
            at: Timestamp(number << 20),
            seen: Seen { event: Seq(u64::MAX - number), digest: u128::from(number * 3).to_be_bytes() },
        };
        let mut block = SeenBlock::default();
        let taken = (0..).take_while(|number| block.takes(&item(*number))).count();
        assert_eq!(taken, ENTRIES_MAX);

        let encoded = block.take().unwrap();
        let mut items = Vec::new();
        super::super::state::decode(&mut Default::default(), &encoded, &mut |item| items.push(item)).unwrap();

        assert!(items == (0..ENTRIES_MAX as u64).map(item).collect::<Vec<_>>());
        assert!(block.take().is_none(), "the next one is empty");
        assert!(read(&[0; ENTRY_BYTES + 1], &mut |_| {}).is_err());
    }
}
