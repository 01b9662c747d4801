//! Snapshots: the state at one record, as a stream of items that only the core understands.
//!
//! ```text
//! 0 magic 8 | 8 format 4 | 12 epoch 4 | 16 seq 8 | 24 link 32 | 56 log id 16 | 72 crc 4 | 76 zero 4
//! block: length 4 | crc 4 | items, each with its length before it (4)       ... the last block is empty, with
//!        length 0 and in place of the crc that over all blocks' crcs
//! ```
//! A snapshot gets its name once all of it is on the disk. Two are kept, so that a damaged one costs only a longer replay.
//! Invariant: an item comes out only of a block whose checksum holds.

use std::sync::Arc;

use mindos_model::Seq;

use crate::chain::Link;
use crate::disk::{Disk, DiskFile};
use crate::error::JournalError;
use crate::frame::{link_at, u32_at, u64_at};
use crate::log::Shared;
use crate::reader::Reader;
use crate::spare::UNFINISHED;

const MAGIC: [u8; 8] = *b"MDSNAPS1";
const FORMAT: u32 = 1;
const HEADER_BYTES: usize = 80;
const CRC_AT: usize = 72;
/// How many bytes of items go under one checksum, unless one item is larger.
const BLOCK_BYTES: usize = 256 << 10;
/// Largest item, in bytes.
pub const SNAPSHOT_ITEM_BYTES_MAX: usize = 64 << 20;
/// How many snapshots are kept.
pub const SNAPSHOTS_KEPT: usize = 2;
const PREFIX: &str = "snapshot-";
const SUFFIX: &str = ".mds";

fn name_of(seq: u64) -> String {
    format!("{PREFIX}{seq:020}{SUFFIX}")
}

/// The record in a snapshot's name; `None` if this is none.
pub(crate) fn seq_in(name: &str) -> Option<Seq> {
    let digits = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    (digits.len() == 20).then(|| digits.parse().ok()).flatten().map(Seq)
}

/// The newest snapshot by name.
pub(crate) fn newest_in(files: &[(String, u64)]) -> Option<Seq> {
    files.iter().filter_map(|(name, _)| seq_in(name)).max()
}

/// Snapshots by name, newest first.
pub(crate) fn all_in(files: &[(String, u64)]) -> Vec<Seq> {
    let mut all: Vec<_> = files.iter().filter_map(|(name, _)| seq_in(name)).collect();
    all.sort_unstable_by(|a, b| b.cmp(a));
    all
}

pub(crate) fn file_name(seq: Seq) -> String {
    name_of(seq.0)
}

impl<D: Disk> Reader<D> {
    /// Records of which there is a snapshot, newest first. Whether it is whole shows in reading it.
    ///
    /// # Errors
    /// What the system says.
    pub fn snapshots(&self) -> Result<Vec<Seq>, JournalError> {
        Ok(all_in(&crate::recover::list(&self.shared.disk)?))
    }

    /// Begins the snapshot of the state after `seq`, which must be durable, whose link is `link`.
    ///
    /// # Errors
    /// [`JournalError::PastEnd`] if `seq` is not durable, or what the system says.
    pub fn write_snapshot(&self, seq: Seq, link: Link, epoch: u32) -> Result<SnapshotWriter<D>, JournalError> {
        let end = self.end();
        if seq > end {
            return Err(JournalError::PastEnd { seq, end });
        }
        SnapshotWriter::begin(Arc::clone(&self.shared), seq, link, epoch)
    }

    /// Opens the snapshot at `seq`.
    ///
    /// # Errors
    /// [`JournalError::SnapshotDamaged`], or what the system says.
    pub fn open_snapshot(&self, seq: Seq) -> Result<SnapshotReader<D>, JournalError> {
        let snapshot = SnapshotReader::open(&self.shared.disk, seq)?;
        if snapshot.log_id != self.shared.log_id {
            return Err(snapshot.damaged(56, "it belongs to another log"));
        }
        Ok(snapshot)
    }

    /// Hands `load` the newest snapshot from which it can build a state, oldest last; `None` if there is none.
    ///
    /// `load` begins anew each time. What it says of a damaged snapshot goes to `skipped`.
    ///
    /// # Errors
    /// What `load` returns other than [`JournalError::SnapshotDamaged`].
    pub fn load_snapshot<T>(
        &self,
        mut load: impl FnMut(&mut SnapshotReader<D>) -> Result<T, JournalError>,
        mut skipped: impl FnMut(JournalError),
    ) -> Result<Option<T>, JournalError> {
        for seq in self.snapshots()? {
            let loaded = self.open_snapshot(seq).and_then(|mut snapshot| {
                let state = load(&mut snapshot)?;
                snapshot.finish()?;
                Ok(state)
            });
            match loaded {
                Ok(state) => return Ok(Some(state)),
                Err(error @ JournalError::SnapshotDamaged { .. }) => skipped(error),
                Err(other) => return Err(other),
            }
        }
        Ok(None)
    }
}

/// Writes a snapshot. Nothing is left of it unless it is finished.
#[derive(Debug)]
pub struct SnapshotWriter<D: Disk> {
    shared: Arc<Shared<D>>,
    seq: Seq,
    file: D::File,
    offset: u64,
    block: Vec<u8>,
    crcs: crc32fast::Hasher,
}

impl<D: Disk> SnapshotWriter<D> {
    fn begin(shared: Arc<Shared<D>>, seq: Seq, link: Link, epoch: u32) -> Result<SnapshotWriter<D>, JournalError> {
        let unfinished = format!("{}{UNFINISHED}", name_of(seq.0));
        let failed = || JournalError::io("write", shared.disk.describe(&unfinished));
        match shared.disk.unlink(&unfinished) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            other => other.map_err(failed())?,
        }
        let file = shared.disk.create(&unfinished).map_err(failed())?;
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(&MAGIC);
        header[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        header[12..16].copy_from_slice(&epoch.to_le_bytes());
        header[16..24].copy_from_slice(&seq.0.to_le_bytes());
        header[24..56].copy_from_slice(&link);
        header[56..72].copy_from_slice(&shared.log_id);
        let crc = crc32fast::hash(&header[..CRC_AT]);
        header[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        file.write_at(&header, 0).map_err(failed())?;
        let block = Vec::with_capacity(BLOCK_BYTES + (64 << 10));
        Ok(SnapshotWriter { shared, seq, file, offset: HEADER_BYTES as u64, block, crcs: crc32fast::Hasher::new() })
    }

    /// Adds an item.
    ///
    /// # Errors
    /// [`JournalError::SnapshotItemTooLarge`], or what the system says.
    pub fn push(&mut self, item: &[u8]) -> Result<(), JournalError> {
        if item.len() > SNAPSHOT_ITEM_BYTES_MAX {
            return Err(JournalError::SnapshotItemTooLarge { bytes: item.len(), bytes_max: SNAPSHOT_ITEM_BYTES_MAX });
        }
        let len = u32::try_from(item.len()).expect("64 MiB are below 4 GiB");
        self.block.extend_from_slice(&len.to_le_bytes());
        self.block.extend_from_slice(item);
        if self.block.len() >= BLOCK_BYTES { self.write_block() } else { Ok(()) }
    }

    fn write_block(&mut self) -> Result<(), JournalError> {
        let crc = crc32fast::hash(&self.block).to_le_bytes();
        self.crcs.update(&crc);
        let len = u32::try_from(self.block.len()).expect("an item and a block are below 4 GiB");
        self.write(&[len.to_le_bytes(), crc].concat())?;
        let block = std::mem::take(&mut self.block);
        self.write(&block)?;
        self.block = block;
        self.block.clear();
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), JournalError> {
        let failed = JournalError::io("write", self.shared.disk.describe(&name_of(self.seq.0)));
        self.file.write_at(bytes, self.offset).map_err(failed)?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    /// Puts the snapshot on stable storage under its name, and drops all but the two newest.
    ///
    /// # Errors
    /// What the system says; the snapshot then does not count.
    pub fn finish(mut self) -> Result<(), JournalError> {
        if !self.block.is_empty() {
            self.write_block()?;
        }
        let crc = self.crcs.clone().finalize().to_le_bytes();
        self.write(&[[0; 4], crc].concat())?;
        let disk = &self.shared.disk;
        let name = name_of(self.seq.0);
        self.file.sync_data().map_err(JournalError::io("sync", disk.describe(&name)))?;
        let named = disk.rename(&format!("{name}{UNFINISHED}"), &name).and_then(|()| disk.sync_dir());
        named.map_err(JournalError::io("name", disk.describe(&name)))?;
        let files = crate::recover::list(disk)?;
        for old in all_in(&files).into_iter().skip(SNAPSHOTS_KEPT) {
            let name = name_of(old.0);
            disk.unlink(&name).map_err(JournalError::io("unlink", disk.describe(&name)))?;
        }
        self.shared.measure()
    }
}

/// Reads a snapshot item by item.
#[derive(Debug)]
pub struct SnapshotReader<D: Disk> {
    /// Where it is, for messages.
    path: String,
    file: D::File,
    seq: Seq,
    link: Link,
    epoch: u32,
    log_id: [u8; 16],
    offset: u64,
    block: Vec<u8>,
    at: usize,
    crcs: crc32fast::Hasher,
    ended: bool,
}

impl<D: Disk> SnapshotReader<D> {
    pub(crate) fn open(disk: &D, seq: Seq) -> Result<SnapshotReader<D>, JournalError> {
        let name = name_of(seq.0);
        let path = disk.describe(&name);
        let file = disk.open(&name).map_err(JournalError::io("open", path.as_str()))?;
        let mut header = [0; HEADER_BYTES];
        let read = file.read_at(&mut header, 0).map_err(JournalError::io("read", path.as_str()))?;
        let snapshot = SnapshotReader {
            path,
            file,
            seq: Seq(u64_at(&header, 16)),
            link: link_at(&header, 24),
            epoch: u32_at(&header, 12),
            log_id: header[56..72].try_into().expect("16 bytes"),
            offset: HEADER_BYTES as u64,
            block: Vec::new(),
            at: 0,
            crcs: crc32fast::Hasher::new(),
            ended: false,
        };
        let whole = read == HEADER_BYTES && crc32fast::hash(&header[..CRC_AT]) == u32_at(&header, CRC_AT);
        if !whole || header[..8] != MAGIC || header[CRC_AT + 4..] != [0; 4] {
            return Err(snapshot.damaged(0, "header is not valid"));
        }
        if u32_at(&header, 8) != FORMAT {
            return Err(snapshot.damaged(8, "format is not known"));
        }
        if snapshot.seq != seq {
            return Err(snapshot.damaged(16, "name and header disagree"));
        }
        Ok(snapshot)
    }

    /// The record after which the state was so.
    #[must_use]
    pub fn seq(&self) -> Seq {
        self.seq
    }

    /// Link of that record.
    #[must_use]
    pub fn link(&self) -> Link {
        self.link
    }

    /// Epoch in which it was written.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    pub(crate) fn file(&self) -> &D::File {
        &self.file
    }

    /// The next item; `None` at the end.
    ///
    /// # Errors
    /// [`JournalError::SnapshotDamaged`]: what was read before must be thrown away.
    pub fn next_item(&mut self) -> Result<Option<&[u8]>, JournalError> {
        if self.at == self.block.len() {
            self.read_block()?;
        }
        if self.ended {
            return Ok(None);
        }
        let len = self.block.get(self.at..self.at + 4).map(|bytes| u32_at(bytes, 0) as usize);
        let start = self.at + 4;
        match len.filter(|len| start + len <= self.block.len()) {
            None => Err(self.damaged(self.offset, "item reaches past its block")),
            Some(len) => {
                self.at = start + len;
                Ok(Some(&self.block[start..start + len]))
            }
        }
    }

    /// Reads what is left and checks that the snapshot ends where it should.
    ///
    /// # Errors
    /// [`JournalError::SnapshotDamaged`]: what was read before must be thrown away.
    pub fn finish(&mut self) -> Result<(), JournalError> {
        while self.next_item()?.is_some() {}
        Ok(())
    }

    fn read_block(&mut self) -> Result<(), JournalError> {
        if self.ended {
            return Ok(());
        }
        let mut head = [0; 8];
        self.read_exact(&mut head, "it ends too early")?;
        let (len, crc) = (u32_at(&head, 0) as usize, u32_at(&head, 4));
        if len == 0 {
            self.ended = true;
            let end = self.file.len().map_err(JournalError::io("read", self.path.as_str()))?;
            return match crc == self.crcs.clone().finalize() && end == self.offset {
                true => Ok(()),
                false => Err(self.damaged(self.offset, "blocks do not lead to the checksum at the end")),
            };
        }
        if len > SNAPSHOT_ITEM_BYTES_MAX + BLOCK_BYTES + 8 {
            return Err(self.damaged(self.offset, "block length is not plausible"));
        }
        let mut block = std::mem::take(&mut self.block);
        block.resize(len, 0);
        let read = self.read_exact(&mut block, "it ends too early");
        self.block = block;
        self.at = 0;
        read?;
        if crc32fast::hash(&self.block) != crc {
            return Err(self.damaged(self.offset - len as u64, "block does not match its checksum"));
        }
        self.crcs.update(&head[4..]);
        Ok(())
    }

    fn read_exact(&mut self, bytes: &mut [u8], fault: &'static str) -> Result<(), JournalError> {
        let read = self.file.read_at(bytes, self.offset).map_err(JournalError::io("read", self.path.as_str()))?;
        self.offset += read as u64;
        if read == bytes.len() { Ok(()) } else { Err(self.damaged(self.offset, fault)) }
    }

    fn damaged(&self, offset: u64, fault: &'static str) -> JournalError {
        JournalError::SnapshotDamaged { file: self.path.clone(), offset, fault }
    }
}
