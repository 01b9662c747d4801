//! Writes past the page cache: of whole blocks, from memory that starts where a block could.
//!
//! A journal is written once and rarely read, so a copy of it in the page cache is paid for (pages found, marked, written back, each
//! commit behind those of other files) and not used. Invariant: what stood in the first block before the bytes is written with them
//! once more, unchanged, so a write that is torn between sectors takes nothing away that was safe.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt as _;

use crate::disk::BLOCK_BYTES;

const BLOCK: usize = BLOCK_BYTES as usize;

/// Writes to one file, each of them where the one before ended.
#[derive(Debug)]
pub(crate) struct Direct {
    file: fs::File,
    bytes: Aligned,
    /// The last block written, as far as it was, and where it starts.
    tail: Vec<u8>,
    tail_at: u64,
}

impl Direct {
    /// Writes through `file`, which was opened with `O_DIRECT`.
    pub(crate) fn new(file: fs::File) -> Direct {
        Direct { file, bytes: Aligned::default(), tail: Vec::with_capacity(BLOCK), tail_at: 0 }
    }

    /// Writes all of `bytes` at `offset`. What is before them in their first block is asked of `readable` unless it was written last.
    ///
    /// # Errors
    /// `InvalidInput` if the file system wants it otherwise: nothing was written. Else what the system says.
    pub(crate) fn write_at(&mut self, readable: &fs::File, bytes: &[u8], offset: u64) -> io::Result<()> {
        let end = offset + bytes.len() as u64;
        if bytes.is_empty() || !end.is_multiple_of(BLOCK_BYTES) {
            // What was written last is known no more.
            self.tail.clear();
            return readable.write_all_at(bytes, offset);
        }
        let start = offset - offset % BLOCK_BYTES;
        let before = usize::try_from(offset - start).expect("below a block");
        if self.tail_at != start || self.tail.len() < before {
            self.tail.resize(before, 0);
            readable.read_exact_at(&mut self.tail, start)?;
        }
        let whole = self.bytes.of(&[&self.tail[..before], bytes]);
        // Known again only when this is written.
        self.tail.clear();
        self.file.write_all_at(whole, start)?;
        self.tail.extend_from_slice(&whole[whole.len() - BLOCK..]);
        self.tail_at = end - BLOCK_BYTES;
        Ok(())
    }
}

/// Memory that keeps its room and hands out bytes that start at a multiple of [`BLOCK_BYTES`].
#[derive(Debug, Default)]
struct Aligned {
    room: Vec<u8>,
}

impl Aligned {
    /// `parts`, one behind the other.
    fn of(&mut self, parts: &[&[u8]]) -> &[u8] {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        if self.room.len() < len + BLOCK {
            self.room = vec![0; (len + BLOCK).next_power_of_two()];
        }
        let start = self.room.as_ptr().align_offset(BLOCK);
        let mut at = start;
        for part in parts {
            self.room[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        &self.room[start..at]
    }
}
