//! Segments: files of one size that hold the log one after another, each named by its first record.
//!
//! ```text
//! 0 magic 8 | 8 format 4 | 12 crc 4 | 16 log id 16 | 32 nonce 8 | 40 number 8 | 48 first seq 8
//! 56 epoch 4 | 60 zero 4 | 64 previous link 32 | zeroes up to 4096 | frames | zeroes or what an earlier use left
//! ```
//! Behind the last frame its block is filled with zeroes, over which the next frame is written.
//! Segments of a log are numbered without a gap, so a missing file shows. Invariant: a file has a segment's name only
//! once its header is on the disk, and frames only once its name is.

use std::io;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::chain::Link;
use crate::disk::{DiskFile, read_exact_at};
use crate::error::Fault;
use crate::frame::{link_at, u32_at, u64_at};

/// Bytes before the first frame.
pub(crate) const HEADER_BYTES: usize = 4096;
/// Offset of the first frame.
pub(crate) const FRAMES_AT: u64 = HEADER_BYTES as u64;
/// Version of what is written here and in frames.
pub(crate) const FORMAT: u32 = 1;
/// Version of a segment out of which payloads were taken: entries may hold digests in their place.
pub(crate) const FORMAT_REDACTED: u32 = 2;
const MAGIC: [u8; 8] = *b"MDSEGMT1";
const CRC_AT: usize = 12;
const SUFFIX: &str = ".segment";
const SPARE: &str = "spare-";

/// Name of the segment that starts at `first_seq`.
pub(crate) fn name_of(first_seq: u64) -> String {
    format!("{first_seq:020}{SUFFIX}")
}

/// The sequence in a segment's name; `None` if this is no segment.
pub(crate) fn first_seq_in(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SUFFIX)?;
    (digits.len() == 20).then(|| digits.parse().ok()).flatten()
}

/// Name of the spare file `number`.
pub(crate) fn spare_name(number: u64) -> String {
    format!("{SPARE}{number}")
}

/// The number in a spare file's name; `None` if this is none.
pub(crate) fn spare_number_in(name: &str) -> Option<u64> {
    name.strip_prefix(SPARE)?.parse().ok()
}

/// What stands at the head of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) log_id: [u8; 16],
    /// Of this use of the file: stands in each of its frames.
    pub(crate) nonce: u64,
    /// Place among the log's segments, from 1.
    pub(crate) number: u64,
    pub(crate) first_seq: u64,
    /// Epoch of the writer that began it.
    pub(crate) epoch: u32,
    /// Link of the record before the first.
    pub(crate) previous: Link,
    /// [`FORMAT`], or [`FORMAT_REDACTED`], which a program that does not know it refuses to read.
    pub(crate) format: u32,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&self.format.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.log_id);
        bytes[32..40].copy_from_slice(&self.nonce.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.number.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.first_seq.to_le_bytes());
        bytes[56..60].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[64..96].copy_from_slice(&self.previous);
        let crc = header_crc(&bytes);
        bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header; the fault comes with the offset of the byte, where one byte alone is wrong.
    pub(crate) fn decode(bytes: &[u8]) -> Result<SegmentHeader, (u64, Fault)> {
        if bytes.len() < HEADER_BYTES {
            return Err((0, Fault::Header));
        }
        let bytes = &bytes[..HEADER_BYTES];
        if header_crc(bytes) != u32_at(bytes, CRC_AT) {
            return Err(crate::repair::wrong_byte(bytes, CRC_AT..CRC_AT + 4).map_or((0, Fault::Header), |wrong| {
                (wrong.offset as u64, Fault::Byte { found: wrong.found, written: wrong.written })
            }));
        }
        if bytes[..8] != MAGIC {
            return Err((0, Fault::Header));
        }
        let format = match u32_at(bytes, 8) {
            known @ (FORMAT | FORMAT_REDACTED) => known,
            found => return Err((8, Fault::Format { found, known: FORMAT_REDACTED })),
        };
        Ok(SegmentHeader {
            log_id: bytes[16..32].try_into().expect("16 bytes"),
            nonce: u64_at(bytes, 32),
            number: u64_at(bytes, 40),
            first_seq: u64_at(bytes, 48),
            epoch: u32_at(bytes, 56),
            previous: link_at(bytes, 64),
            format,
        })
    }

    pub(crate) fn read(file: &impl DiskFile) -> io::Result<Result<SegmentHeader, (u64, Fault)>> {
        let mut bytes = vec![0; HEADER_BYTES];
        match read_exact_at(file, &mut bytes, 0) {
            Ok(()) => Ok(SegmentHeader::decode(&bytes)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Err((0, Fault::Header))),
            Err(error) => Err(error),
        }
    }
}

fn header_crc(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..CRC_AT]);
    hasher.update(&bytes[CRC_AT + 4..]);
    hasher.finalize()
}

/// A remembered place in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) seq: u64,
    /// Offset in the file: of an entry, or of a frame.
    pub(crate) offset: u64,
    /// How many entries of the frame are left from here; zero if a frame starts here.
    pub(crate) left: u32,
}

/// How far a segment goes, and where in it things are.
#[derive(Debug, Default)]
pub(crate) struct Extent {
    pub(crate) places: Vec<Place>,
    /// Last durable record, or the one before the segment's first.
    pub(crate) end_seq: u64,
    /// Link of that record.
    pub(crate) end_link: Link,
    /// Where the next frame goes.
    pub(crate) end_offset: u64,
    /// Whether the fields above are known: not so for a sealed segment that nobody asked about since the start.
    pub(crate) known: bool,
}

impl Extent {
    /// Remembers a frame at `offset` that starts at `seq`, if the last place is far enough behind.
    pub(crate) fn note_frame(&mut self, seq: u64, offset: u64) {
        let far = |place: &Place| offset - place.offset >= crate::frame::INDEX_BYTES as u64;
        if self.places.last().is_none_or(far) {
            self.places.push(Place { seq, offset, left: 0 });
        }
    }

    /// Remembers places that a reader came by, so that the next one starts nearer.
    pub(crate) fn remember(&mut self, passed: &[Place]) {
        for place in passed {
            let after = self.places.partition_point(|known| known.offset <= place.offset);
            let near = |known: &Place| known.offset.abs_diff(place.offset) < crate::frame::INDEX_BYTES as u64 / 2;
            let is_known = after.checked_sub(1).is_some_and(|before| near(&self.places[before]));
            if !is_known && !self.places.get(after).is_some_and(near) {
                self.places.insert(after, *place);
            }
        }
    }

    /// The last remembered place at or before `seq`, else the segment's start.
    pub(crate) fn place_before(&self, seq: u64, first_seq: u64) -> Place {
        match self.places.partition_point(|place| place.seq <= seq) {
            0 => Place { seq: first_seq, offset: FRAMES_AT, left: 0 },
            after => self.places[after - 1],
        }
    }

    /// The last remembered start of a frame at or before `seq`, else the segment's start.
    pub(crate) fn frame_before(&self, seq: u64, first_seq: u64) -> Place {
        let after = self.places.partition_point(|place| place.seq <= seq);
        let frames = self.places[..after].iter().rev().find(|place| place.left == 0);
        frames.copied().unwrap_or(Place { seq: first_seq, offset: FRAMES_AT, left: 0 })
    }
}

/// A segment that is part of the log. Whoever holds one can read it, whatever becomes of its name.
#[derive(Debug)]
pub(crate) struct Segment<F> {
    pub(crate) header: SegmentHeader,
    pub(crate) name: String,
    pub(crate) file: F,
    /// Length of the file in bytes.
    pub(crate) file_bytes: u64,
    extent: RwLock<Extent>,
}

impl<F: DiskFile> Segment<F> {
    pub(crate) fn new(
        header: SegmentHeader,
        name: String,
        file: F,
        file_bytes: u64,
        extent: Extent,
    ) -> Arc<Segment<F>> {
        Arc::new(Segment { header, name, file, file_bytes, extent: RwLock::new(extent) })
    }

    pub(crate) fn extent(&self) -> RwLockReadGuard<'_, Extent> {
        self.extent.read().expect("no holder of the lock panics")
    }

    pub(crate) fn extent_mut(&self) -> RwLockWriteGuard<'_, Extent> {
        self.extent.write().expect("no holder of the lock panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SegmentHeader {
        SegmentHeader {
            log_id: [4; 16],
            nonce: 5,
            number: 6,
            first_seq: 7,
            epoch: 8,
            previous: [9; 32],
            format: FORMAT,
        }
    }

    #[test]
    fn a_header_is_read_back() {
        assert_eq!(SegmentHeader::decode(&header().encode()), Ok(header()));
    }

    #[test]
    fn a_flipped_bit_of_a_header_is_found_where_it_is() {
        let good = header().encode();
        for offset in 0..good.len() {
            let mut bytes = good.clone();
            bytes[offset] ^= 0x10;

            let (at, fault) = SegmentHeader::decode(&bytes).unwrap_err();

            assert_eq!(at, offset as u64);
            assert_eq!(fault, Fault::Byte { found: bytes[offset], written: good[offset] });
        }
    }

    #[test]
    fn a_later_format_is_refused_by_name() {
        let mut bytes = header().encode();
        bytes[8] = 3;
        let crc = header_crc(&bytes);
        bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());

        assert_eq!(SegmentHeader::decode(&bytes), Err((8, Fault::Format { found: 3, known: 2 })));
    }

    #[test]
    fn names_are_told_apart() {
        assert_eq!(first_seq_in(&name_of(42)), Some(42));
        assert_eq!(first_seq_in("42.segment"), None);
        assert_eq!(first_seq_in(&spare_name(3)), None);
        assert_eq!(spare_number_in(&spare_name(3)), Some(3));
        assert_eq!(spare_number_in("spare-3.tmp"), None);
    }
}
