//! Frames: one batch of records each, whole or not there.
//!
//! ```text
//! 0 magic 8 | 8 nonce 8 | 16 length 4 | 20 crc 4 | 24 count 4 | 28 epoch 4 | 32 first seq 8
//! 40 previous link 32 | 72 end link 32 | 104 entries | zeroes up to a multiple of 8
//! entry: metadata length 4 | payload length 4, top bit set if there is one | metadata | [salt 16 | payload]
//!        where the bit below it is set too, the payload was redacted: its digest, 32 bytes, stands for salt and payload
//! ```
//! Numbers are little endian; the length covers everything, the crc all but itself. The nonce is that of the segment's
//! present use, so what an earlier use left in the file is never taken for a frame, nor is a payload that looks like one.
//! Invariant: a frame whose crc holds was written whole.

use mindos_model::Seq;

use crate::chain::{self, Link, NO_PAYLOAD, Salt};

/// Bytes before the first entry.
pub(crate) const HEADER_BYTES: usize = 104;
/// Every frame starts at a multiple of this.
pub(crate) const ALIGNMENT: usize = 8;
/// Largest frame, in bytes. Batches are sealed far below that.
pub const FRAME_BYTES_MAX: usize = 64 << 20;
/// About every how many bytes the index remembers a place.
pub(crate) const INDEX_BYTES: usize = 64 << 10;

pub(crate) const MAGIC: [u8; 8] = *b"MDFRAME1";
pub(crate) const ENTRY_HEADER_BYTES: usize = 8;
pub(crate) const SALT_BYTES: usize = 16;
const HAS_PAYLOAD: u32 = 1 << 31;
/// Salt and payload were taken out, their digest was left. Only in segments of format [`crate::segment::FORMAT_REDACTED`].
const IS_REDACTED: u32 = 1 << 30;
const DIGEST_BYTES: usize = 32;

pub(crate) mod at {
    pub(crate) const NONCE: usize = 8;
    pub(crate) const LEN: usize = 16;
    pub(crate) const CRC: usize = 20;
    pub(crate) const COUNT: usize = 24;
    pub(crate) const EPOCH: usize = 28;
    pub(crate) const FIRST_SEQ: usize = 32;
    pub(crate) const PREVIOUS: usize = 40;
    pub(crate) const END: usize = 72;
}

/// A payload and the salt under which its digest stands in the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload<'a> {
    /// Random, chosen once for this payload.
    pub salt: &'a Salt,
    /// The bytes.
    pub bytes: &'a [u8],
}

/// One record as it stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Its position.
    pub seq: Seq,
    /// What the chain covers directly.
    pub metadata: &'a [u8],
    /// What the chain covers by digest.
    pub payload: Option<Payload<'a>>,
    /// Digest of a payload that was taken out; there is none in `payload` then.
    pub redacted: Option<&'a Link>,
}

impl Entry<'_> {
    /// Digest of its payload as it stands in the leaf.
    #[must_use]
    pub fn digest(&self) -> Link {
        match (self.payload, self.redacted) {
            (Some(payload), _) => chain::payload_digest(payload.salt, payload.bytes),
            (None, Some(digest)) => *digest,
            (None, None) => NO_PAYLOAD,
        }
    }

    /// Leaf of this record.
    #[must_use]
    pub fn leaf(&self) -> Link {
        chain::leaf(self.metadata, &self.digest())
    }
}

/// A batch on its way to the log. Reuse it: its memory stays.
#[derive(Debug)]
pub struct Frame {
    bytes: Vec<u8>,
    /// Where the entries end; padding stands behind it once sealed.
    body_end: usize,
    count: u32,
    /// Places for the index: (entry number, offset in the frame), about every [`INDEX_BYTES`].
    places: Vec<(u32, u32)>,
}

impl Default for Frame {
    fn default() -> Frame {
        Frame::new()
    }
}

impl Frame {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Frame {
        Frame { bytes: vec![0; HEADER_BYTES], body_end: HEADER_BYTES, count: 0, places: Vec::new() }
    }

    /// Forgets the records and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.truncate(HEADER_BYTES);
        self.body_end = HEADER_BYTES;
        self.count = 0;
        self.places.clear();
    }

    /// Adds a record.
    pub fn push(&mut self, metadata: &[u8], payload: Option<Payload<'_>>) {
        self.push_with(|bytes| bytes.extend_from_slice(metadata), payload);
    }

    /// Adds a record whose metadata `encode` appends to the bytes it is given. It must not touch what stands there.
    ///
    /// # Panics
    /// If metadata or payload reach 1 GiB.
    pub fn push_with(&mut self, encode: impl FnOnce(&mut Vec<u8>), payload: Option<Payload<'_>>) {
        self.bytes.truncate(self.body_end);
        let start = self.bytes.len();
        let marked = self.places.last().map_or(0, |(_, offset)| *offset as usize);
        if self.count > 0 && start - marked >= INDEX_BYTES {
            self.places.push((self.count, u32::try_from(start).expect("a frame is below 4 GiB")));
        }
        self.bytes.extend_from_slice(&[0; ENTRY_HEADER_BYTES]);
        encode(&mut self.bytes);
        let metadata_len = self.bytes.len() - start - ENTRY_HEADER_BYTES;
        let payload_len = match payload {
            None => 0,
            Some(Payload { salt, bytes }) => {
                self.bytes.extend_from_slice(salt);
                self.bytes.extend_from_slice(bytes);
                length(bytes.len()) | HAS_PAYLOAD
            }
        };
        self.end_entry(start, metadata_len, payload_len);
    }

    /// Adds a record as it stands in a log already, whether its payload is there or was taken out.
    pub(crate) fn push_entry(&mut self, entry: &Entry<'_>) {
        match entry.redacted {
            None => self.push(entry.metadata, entry.payload),
            Some(digest) => self.push_redacted(entry.metadata, digest, 0),
        }
    }

    /// Adds a record whose payload of `payload_len` bytes is taken out.
    pub(crate) fn push_redacted(&mut self, metadata: &[u8], digest: &Link, payload_len: usize) {
        self.push(metadata, None);
        let start = self.body_end - ENTRY_HEADER_BYTES - metadata.len();
        self.bytes.extend_from_slice(digest);
        self.count -= 1;
        self.end_entry(start, metadata.len(), length(payload_len) | HAS_PAYLOAD | IS_REDACTED);
    }

    fn end_entry(&mut self, start: usize, metadata_len: usize, payload_len: u32) {
        self.bytes[start..start + 4].copy_from_slice(&length(metadata_len).to_le_bytes());
        self.bytes[start + 4..start + 8].copy_from_slice(&payload_len.to_le_bytes());
        self.body_end = self.bytes.len();
        self.count += 1;
    }

    /// How many records it holds.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many bytes it takes in the log.
    #[must_use]
    pub fn size(&self) -> usize {
        self.body_end.next_multiple_of(ALIGNMENT)
    }

    pub(crate) fn places(&self) -> &[(u32, u32)] {
        &self.places
    }

    /// Computes the chain and fills in the header. Doing it again, for another place, is fine.
    pub(crate) fn seal(&mut self, nonce: u64, epoch: u32, first_seq: u64, previous: &Link) -> (&[u8], Link) {
        let size = self.size();
        self.bytes.truncate(self.body_end);
        self.bytes.resize(size, 0);
        let mut end = *previous;
        for entry in Entries::new(&self.bytes, first_seq, self.count) {
            let entry = entry.expect("what was pushed can be read");
            end = chain::link(&end, entry.seq.0, &entry.leaf());
        }
        let header = &mut self.bytes[..HEADER_BYTES];
        header[..at::NONCE].copy_from_slice(&MAGIC);
        header[at::NONCE..at::LEN].copy_from_slice(&nonce.to_le_bytes());
        header[at::LEN..at::CRC].copy_from_slice(&length(size).to_le_bytes());
        header[at::COUNT..at::EPOCH].copy_from_slice(&self.count.to_le_bytes());
        header[at::EPOCH..at::FIRST_SEQ].copy_from_slice(&epoch.to_le_bytes());
        header[at::FIRST_SEQ..at::PREVIOUS].copy_from_slice(&first_seq.to_le_bytes());
        header[at::PREVIOUS..at::END].copy_from_slice(previous);
        header[at::END..].copy_from_slice(&end);
        let crc = crc_of(&self.bytes);
        self.bytes[at::CRC..at::COUNT].copy_from_slice(&crc.to_le_bytes());
        (&self.bytes, end)
    }

    /// The sealed batch with `padding` zeroes behind it, which are not part of it.
    pub(crate) fn padded(&mut self, padding: usize) -> &[u8] {
        self.bytes.resize(self.size() + padding, 0);
        &self.bytes
    }
}

fn length(len: usize) -> u32 {
    let len = u32::try_from(len).unwrap_or(u32::MAX);
    assert!(len < IS_REDACTED, "a part of a record reaches 1 GiB");
    len
}

/// Checksum of a whole frame: all bytes but the checksum's own.
pub(crate) fn crc_of(frame: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&frame[..at::CRC]);
    hasher.update(&frame[at::COUNT..]);
    hasher.finalize()
}

/// What stands before a frame's entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) len: usize,
    pub(crate) crc: u32,
    pub(crate) count: u32,
    pub(crate) epoch: u32,
    pub(crate) first_seq: u64,
    pub(crate) previous: Link,
    pub(crate) end: Link,
}

impl FrameHeader {
    /// Reads a header of the segment use `nonce`; `None` if these bytes are not one. The crc is not checked.
    pub(crate) fn parse(bytes: &[u8], nonce: u64) -> Option<FrameHeader> {
        let bytes: &[u8; HEADER_BYTES] = bytes.get(..HEADER_BYTES)?.try_into().ok()?;
        if bytes[..at::NONCE] != MAGIC || u64_at(bytes, at::NONCE) != nonce {
            return None;
        }
        let header = FrameHeader {
            len: u32_at(bytes, at::LEN) as usize,
            crc: u32_at(bytes, at::CRC),
            count: u32_at(bytes, at::COUNT),
            epoch: u32_at(bytes, at::EPOCH),
            first_seq: u64_at(bytes, at::FIRST_SEQ),
            previous: link_at(bytes, at::PREVIOUS),
            end: link_at(bytes, at::END),
        };
        let fits = (HEADER_BYTES + ENTRY_HEADER_BYTES..=FRAME_BYTES_MAX).contains(&header.len)
            && header.len.is_multiple_of(ALIGNMENT)
            && (1..=header.len / ENTRY_HEADER_BYTES).contains(&(header.count as usize))
            && header.first_seq > 0;
        fits.then_some(header)
    }

    /// Sequence of the last record.
    pub(crate) fn last_seq(&self) -> u64 {
        self.first_seq + u64::from(self.count) - 1
    }
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

pub(crate) fn link_at(bytes: &[u8], at: usize) -> Link {
    bytes[at..at + 32].try_into().expect("32 bytes")
}

/// Lengths of the parts of one entry, from its first eight bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EntryShape {
    pub(crate) metadata_len: usize,
    /// Of what stands in the log, the salt not counted; `None` also where there is a digest instead.
    pub(crate) payload_len: Option<usize>,
    /// Whether a digest stands for salt and payload.
    pub(crate) is_redacted: bool,
}

impl EntryShape {
    pub(crate) fn parse(bytes: &[u8]) -> EntryShape {
        let payload = u32_at(bytes, 4);
        let is_redacted = payload & IS_REDACTED != 0;
        let has_payload = payload & HAS_PAYLOAD != 0 && !is_redacted;
        EntryShape {
            metadata_len: u32_at(bytes, 0) as usize,
            payload_len: has_payload.then_some((payload & !HAS_PAYLOAD) as usize),
            is_redacted,
        }
    }

    /// Length of the whole entry in bytes.
    pub(crate) fn size(&self) -> usize {
        let digest = if self.is_redacted { DIGEST_BYTES } else { 0 };
        ENTRY_HEADER_BYTES + self.metadata_len + self.payload_len.map_or(digest, |len| SALT_BYTES + len)
    }
}

/// An entry that reaches past its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// The records of a frame, in order.
#[derive(Clone, Debug)]
pub(crate) struct Entries<'a> {
    frame: &'a [u8],
    at: usize,
    seq: u64,
    left: u32,
}

impl<'a> Entries<'a> {
    pub(crate) fn new(frame: &'a [u8], first_seq: u64, count: u32) -> Entries<'a> {
        Entries { frame, at: HEADER_BYTES, seq: first_seq, left: count }
    }

    /// Where the next entry starts in the frame.
    pub(crate) fn offset(&self) -> usize {
        self.at
    }

    fn entry(&mut self) -> Option<Entry<'a>> {
        let rest = self.frame.get(self.at..)?;
        let shape = EntryShape::parse(rest.get(..ENTRY_HEADER_BYTES)?);
        let body = rest.get(ENTRY_HEADER_BYTES..shape.size())?;
        let (metadata, rest) = body.split_at(shape.metadata_len);
        let payload = match shape.payload_len {
            None => None,
            Some(_) => {
                let (salt, bytes) = rest.split_first_chunk()?;
                Some(Payload { salt, bytes })
            }
        };
        let redacted = if shape.is_redacted { Some(rest.first_chunk()?) } else { None };
        let entry = Entry { seq: Seq(self.seq), metadata, payload, redacted };
        self.at += shape.size();
        self.seq += 1;
        self.left -= 1;
        Some(entry)
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let entry = self.entry();
        if entry.is_none() {
            self.left = 0;
        }
        Some(entry.ok_or(Malformed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: Salt = [3; 16];

    fn frame() -> Frame {
        let mut frame = Frame::new();
        frame.push(b"one", None);
        frame.push(b"", Some(Payload { salt: &SALT, bytes: b"" }));
        frame.push(b"three", Some(Payload { salt: &SALT, bytes: b"payload" }));
        frame
    }

    #[test]
    fn what_is_pushed_is_read_back() {
        let mut frame = frame();
        let start = chain::genesis(&[0; 16]);

        let (bytes, end) = frame.seal(77, 3, 10, &start);

        let header = FrameHeader::parse(bytes, 77).unwrap();
        assert_eq!((header.len, header.crc), (bytes.len(), crc_of(bytes)));
        assert_eq!((header.epoch, header.first_seq, header.last_seq()), (3, 10, 12));
        assert_eq!((header.previous, header.end), (start, end));
        let entries: Vec<_> = Entries::new(bytes, 10, 3).map(Result::unwrap).collect();
        assert_eq!(entries[0], Entry { seq: Seq(10), metadata: b"one", payload: None, redacted: None });
        assert_eq!(entries[1].payload, Some(Payload { salt: &SALT, bytes: b"" }));
        assert_eq!(entries[2].payload, Some(Payload { salt: &SALT, bytes: b"payload" }));
        assert_eq!(entries[2].metadata, b"three");
    }

    #[test]
    fn a_payload_that_is_taken_out_leaves_leaf_and_link() {
        let mut whole = frame();
        let start = chain::genesis(&[0; 16]);
        let (bytes, end) = whole.seal(77, 3, 10, &start);
        let bytes = bytes.to_vec();
        let mut without = Frame::new();
        for entry in Entries::new(&bytes, 10, 3).map(Result::unwrap) {
            match entry.payload {
                Some(payload) => without.push_redacted(entry.metadata, &entry.digest(), payload.bytes.len()),
                None => without.push(entry.metadata, None),
            }
        }
        let mut again = Frame::new();
        let (bytes, redacted_end) = without.seal(77, 3, 10, &start);
        assert_eq!(redacted_end, end);
        assert!(!bytes.windows(7).any(|window| window == b"payload"));
        for entry in Entries::new(bytes, 10, 3).map(Result::unwrap) {
            assert_eq!((entry.payload, entry.redacted.is_some()), (None, entry.seq > Seq(10)));
            again.push_entry(&entry);
        }
        assert_eq!(again.seal(77, 3, 10, &start).1, end);
    }

    #[test]
    fn sealing_twice_gives_the_same_bytes() {
        let mut frame = frame();
        let first = frame.seal(1, 1, 1, &[0; 32]).0.to_vec();

        frame.seal(2, 2, 9, &[1; 32]);

        assert_eq!(frame.seal(1, 1, 1, &[0; 32]).0, first);
    }

    #[test]
    fn a_header_of_another_use_is_no_header() {
        let mut frame = frame();
        let (bytes, _) = frame.seal(1, 1, 1, &[0; 32]);

        assert_eq!(FrameHeader::parse(bytes, 2), None);
    }

    #[test]
    fn an_entry_past_the_end_is_malformed() {
        let mut frame = frame();
        let (bytes, _) = frame.seal(1, 1, 1, &[0; 32]);

        let last = Entries::new(&bytes[..bytes.len() - 8], 1, 3).last().unwrap();

        assert_eq!(last, Err(Malformed));
    }

    #[test]
    fn a_cleared_frame_starts_anew() {
        let mut frame = frame();
        let expected = frame.seal(1, 1, 1, &[0; 32]).0.to_vec();

        frame.clear();
        frame.push(b"one", None);
        frame.push(b"", Some(Payload { salt: &SALT, bytes: b"" }));
        frame.push(b"three", Some(Payload { salt: &SALT, bytes: b"payload" }));

        assert_eq!(frame.seal(1, 1, 1, &[0; 32]).0, expected);
    }
}
