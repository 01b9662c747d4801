//! Readers: everything that is durable, from any thread, while the writer goes on.
//!
//! A reader never waits for the disk's writer and sees a batch only after its sync. What retention drops while it is being
//! read stays readable to the end, because a segment somebody holds is unlinked and not recycled.

use std::sync::Arc;

use bytes::Bytes;
use mindos_model::Seq;

use crate::chain::{Link, Salt, payload_digest};
use crate::disk::Disk;
use crate::error::{Damage, Fault, JournalError};
use crate::frame::{
    ENTRY_HEADER_BYTES, Entries, Entry, EntryShape, FrameHeader, HEADER_BYTES, INDEX_BYTES, SALT_BYTES,
};
use crate::log::{Shared, Usage};
use crate::scan::{Position, Tail, Window, explain_here, read_frame, walk};
use crate::segment::{Extent, Segment};

/// A handle that reads what is durable. Cheap to clone.
#[derive(Debug)]
pub struct Reader<D: Disk> {
    pub(crate) shared: Arc<Shared<D>>,
}

impl<D: Disk> Clone for Reader<D> {
    fn clone(&self) -> Reader<D> {
        Reader { shared: Arc::clone(&self.shared) }
    }
}

/// A payload read back, with what its digest needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredPayload {
    /// Chosen once for this payload.
    pub salt: Salt,
    /// The bytes.
    pub bytes: Bytes,
}

impl StoredPayload {
    /// Digest as it stands in the chain.
    #[must_use]
    pub fn digest(&self) -> Link {
        payload_digest(&self.salt, &self.bytes)
    }
}

/// A record read back by its sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEntry {
    /// Its position.
    pub seq: Seq,
    /// What the chain covers directly.
    pub metadata: Bytes,
    /// What the chain covers by digest.
    pub payload: Option<StoredPayload>,
    /// Digest of a payload that was taken out.
    pub redacted: Option<Link>,
}

/// A segment, and the first record of the one after it.
type Found<D> = (Arc<Segment<<D as Disk>::File>>, Option<u64>);

impl<D: Disk> Reader<D> {
    pub(crate) fn new(shared: Arc<Shared<D>>) -> Reader<D> {
        Reader { shared }
    }

    /// Last durable record; zero if there is none.
    #[must_use]
    pub fn end(&self) -> Seq {
        Seq(self.shared.durable())
    }

    /// First record that is kept; one past the end if there is none.
    #[must_use]
    pub fn first(&self) -> Seq {
        Seq(self.shared.segments().first().map_or(1, |segment| segment.header.first_seq))
    }

    /// Link before the first record that is kept: what is left of all that was dropped.
    #[must_use]
    pub fn link_before_first(&self) -> Link {
        self.shared.segments().first().map_or([0; 32], |segment| segment.header.previous)
    }

    /// Names this log among all others.
    #[must_use]
    pub fn log_id(&self) -> [u8; 16] {
        self.shared.log_id
    }

    /// How much room the journal takes.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.shared.usage()
    }

    /// The segment that holds `seq`, or the last one for the record after the end, and the first record of the next one.
    pub(crate) fn segment_of(&self, seq: u64) -> Result<Found<D>, JournalError> {
        let segments = self.shared.segments();
        let after = segments.partition_point(|segment| segment.header.first_seq <= seq);
        if after == 0 {
            let first = segments.first().map_or(1, |segment| segment.header.first_seq);
            return Err(JournalError::Dropped { seq: Seq(seq), first: Seq(first) });
        }
        let next_first = segments.get(after).map(|segment| segment.header.first_seq);
        Ok((Arc::clone(&segments[after - 1]), next_first))
    }

    /// Reads batches from the one that holds `from`, or waits for it to come if `from` is one past the end.
    ///
    /// # Errors
    /// [`JournalError::Dropped`], [`JournalError::PastEnd`], or what reading the segment says.
    pub fn cursor(&self, from: Seq) -> Result<Cursor<D>, JournalError> {
        let seq = from.0.max(1);
        let end = self.shared.durable();
        if seq > end + 1 {
            return Err(JournalError::PastEnd { seq: from, end: Seq(end) });
        }
        let (segment, next_first) = self.segment_of(seq)?;
        self.index(&segment, next_first)?;
        let place = segment.extent().frame_before(seq, segment.header.first_seq);
        let mut position = Position::start_of(&segment);
        if place.seq != position.seq {
            position = Position { offset: place.offset, seq: place.seq, previous: None, epoch: position.epoch };
        }
        let mut cursor =
            Cursor { reader: self.clone(), segment, next_first, position, from: seq, window: Window::default() };
        cursor.skip_before(seq)?;
        Ok(cursor)
    }

    /// One record.
    ///
    /// # Errors
    /// [`JournalError::Dropped`], [`JournalError::PastEnd`], or what reading the segment says.
    pub fn read(&self, seq: Seq) -> Result<StoredEntry, JournalError> {
        let end = self.shared.durable();
        if seq.0 == 0 || seq.0 > end {
            return Err(JournalError::PastEnd { seq, end: Seq(end) });
        }
        let (segment, next_first) = self.segment_of(seq.0)?;
        self.index(&segment, next_first)?;
        let (mut place, limit) = {
            let extent = segment.extent();
            // Behind the end there is nothing, and to read it would take the disk.
            let limit = if extent.known { extent.end_offset } else { segment.file_bytes };
            (extent.place_before(seq.0, segment.header.first_seq), limit)
        };
        let failed = || JournalError::io("read", self.shared.disk.describe(&segment.name));
        let mut window = Window::small();
        let (mut marked, mut passed) = (place.offset, Vec::new());
        loop {
            if place.offset - marked >= INDEX_BYTES as u64 {
                marked = place.offset;
                passed.push(place);
            }
            if place.left == 0 {
                let head = window.get(&segment.file, place.offset, HEADER_BYTES, limit).map_err(failed())?;
                let header =
                    FrameHeader::parse(head, segment.header.nonce).filter(|header| header.first_seq == place.seq);
                let Some(header) = header else { return Err(self.no_frame(&segment, place.seq, place.offset)) };
                if header.last_seq() < seq.0 {
                    place.offset += header.len as u64;
                    place.seq = header.last_seq() + 1;
                    continue;
                }
                place.offset += HEADER_BYTES as u64;
                place.left = header.count;
            }
            let head = window.get(&segment.file, place.offset, ENTRY_HEADER_BYTES, limit).map_err(failed())?;
            if head.len() < ENTRY_HEADER_BYTES {
                return Err(self.no_frame(&segment, place.seq, place.offset));
            }
            let shape = EntryShape::parse(head);
            if place.seq == seq.0 {
                let bytes = window.get(&segment.file, place.offset, shape.size(), limit).map_err(failed())?;
                if bytes.len() < shape.size() {
                    return Err(self.no_frame(&segment, place.seq, place.offset));
                }
                let stored = stored(seq, &shape, Bytes::copy_from_slice(bytes));
                if !passed.is_empty() {
                    segment.extent_mut().remember(&passed);
                }
                return Ok(stored);
            }
            place.offset += shape.size() as u64;
            place.seq += 1;
            place.left -= 1;
            if place.left == 0 {
                place.offset = place.offset.next_multiple_of(crate::frame::ALIGNMENT as u64);
            }
        }
    }

    /// The payload of one record; `None` if it has none. The caller may hold its digest against it.
    ///
    /// # Errors
    /// As [`Reader::read`].
    pub fn read_payload(&self, seq: Seq) -> Result<Option<StoredPayload>, JournalError> {
        Ok(self.read(seq)?.payload)
    }

    fn no_frame(&self, segment: &Segment<D::File>, seq: u64, offset: u64) -> JournalError {
        let file = self.shared.disk.describe(&segment.name);
        Damage { file, offset, seq: Seq(seq), fault: Fault::NoFrame }.into()
    }

    /// Headers alone led astray: reads the segment whole to say what is wrong in it.
    fn find_damage(&self, segment: &Segment<D::File>, next_first: Option<u64>, astray: &Position) -> JournalError {
        match walk(segment, next_first, |name| self.shared.disk.describe(name)) {
            Err(error) => error,
            Ok((_, _, Tail::OneByte(damage))) => damage.into(),
            Ok(_) => self.no_frame(segment, astray.seq, astray.offset),
        }
    }

    /// Learns where things are in a sealed segment that was not read since the start: headers only.
    pub(crate) fn index(&self, segment: &Segment<D::File>, next_first: Option<u64>) -> Result<(), JournalError> {
        let Some(next_first) = next_first else { return Ok(()) };
        if segment.extent().known {
            return Ok(());
        }
        let mut window = Window::small();
        let mut extent = Extent::default();
        let mut position = Position::start_of(segment);
        while position.seq < next_first {
            let read = window.get(&segment.file, position.offset, HEADER_BYTES, segment.file_bytes);
            let head = read.map_err(JournalError::io("read", self.shared.disk.describe(&segment.name)))?;
            let header =
                FrameHeader::parse(head, segment.header.nonce).filter(|header| header.first_seq == position.seq);
            let Some(header) = header else { return Err(self.find_damage(segment, Some(next_first), &position)) };
            extent.note_frame(position.seq, position.offset);
            position.pass(&header);
        }
        if position.seq != next_first {
            return Err(self.find_damage(segment, Some(next_first), &position));
        }
        extent.end_seq = position.seq - 1;
        extent.end_link = position.previous.unwrap_or_default();
        extent.end_offset = position.offset;
        extent.known = true;
        *segment.extent_mut() = extent;
        Ok(())
    }
}

fn stored(seq: Seq, shape: &EntryShape, bytes: Bytes) -> StoredEntry {
    let metadata_end = ENTRY_HEADER_BYTES + shape.metadata_len;
    let payload = shape.payload_len.map(|_| {
        let salt_end = metadata_end + SALT_BYTES;
        let salt = bytes[metadata_end..salt_end].try_into().expect("16 bytes");
        StoredPayload { salt, bytes: bytes.slice(salt_end..) }
    });
    let redacted = shape.is_redacted.then(|| crate::frame::link_at(&bytes, metadata_end));
    StoredEntry { seq, metadata: bytes.slice(ENTRY_HEADER_BYTES..metadata_end), payload, redacted }
}

/// Reads batch after batch. At the end it waits: a later call goes on with what has become durable.
#[derive(Debug)]
pub struct Cursor<D: Disk> {
    reader: Reader<D>,
    segment: Arc<Segment<D::File>>,
    /// First record of the segment after this one, once there is one.
    next_first: Option<u64>,
    position: Position,
    /// Entries before this one are passed over.
    from: u64,
    window: Window,
}

/// One batch as it was appended.
#[derive(Clone, Debug)]
pub struct Batch<'a> {
    header: FrameHeader,
    bytes: &'a [u8],
    from: u64,
    file: String,
    offset: u64,
}

impl<'a> Batch<'a> {
    /// Its first record.
    #[must_use]
    pub fn first(&self) -> Seq {
        Seq(self.header.first_seq)
    }

    /// Its last record.
    #[must_use]
    pub fn last(&self) -> Seq {
        Seq(self.header.last_seq())
    }

    /// Epoch under which it was written.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.header.epoch
    }

    /// Link of its last record.
    #[must_use]
    pub fn end_link(&self) -> Link {
        self.header.end
    }

    /// Link of the record before its first.
    #[must_use]
    pub fn previous_link(&self) -> Link {
        self.header.previous
    }

    /// The segment's file it stands in.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Its offset in that file.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// All its records.
    ///
    /// # Errors
    /// As [`Batch::entries`].
    pub fn all_entries(&self) -> impl Iterator<Item = Result<Entry<'a>, JournalError>> + use<'a> {
        Batch { from: 0, ..self.clone() }.entries()
    }

    /// Its records, from the one that the cursor was asked for.
    ///
    /// # Errors
    /// Each item is [`JournalError::Damaged`] if it reaches past the batch, after which there are no more.
    pub fn entries(&self) -> impl Iterator<Item = Result<Entry<'a>, JournalError>> + use<'a> {
        let (from, file, offset, first) = (self.from, self.file.clone(), self.offset, self.header.first_seq);
        Entries::new(self.bytes, first, self.header.count)
            .map(move |entry| {
                let malformed = || Damage { file: file.clone(), offset, seq: Seq(first), fault: Fault::Entry };
                entry.map_err(|_| JournalError::from(malformed()))
            })
            .skip_while(move |entry| entry.as_ref().is_ok_and(|entry| entry.seq.0 < from))
    }
}

impl<D: Disk> Cursor<D> {
    /// The record that comes next.
    #[must_use]
    pub fn next_seq(&self) -> Seq {
        Seq(self.position.seq.max(self.from))
    }

    /// How far the segment is read. In the live one only what is durable: what stands behind that is written over, and would be taken for
    /// what came there, once it is in the window.
    fn limit(&self) -> u64 {
        let extent = self.segment.extent();
        match self.next_first {
            None if extent.known => extent.end_offset,
            _ => self.segment.file_bytes,
        }
    }

    /// Moves over whole batches before `seq` without looking into them.
    fn skip_before(&mut self, seq: u64) -> Result<(), JournalError> {
        while self.position.seq < seq {
            let limit = self.limit();
            let read = self.window.get(&self.segment.file, self.position.offset, HEADER_BYTES, limit);
            let head = read.map_err(JournalError::io("read", self.reader.shared.disk.describe(&self.segment.name)))?;
            let header = FrameHeader::parse(head, self.segment.header.nonce);
            let Some(header) = header.filter(|header| header.first_seq == self.position.seq) else {
                return Err(self.reader.find_damage(&self.segment, self.next_first, &self.position));
            };
            if header.last_seq() >= seq {
                return Ok(());
            }
            self.position.pass(&header);
        }
        Ok(())
    }

    /// The next batch; `None` if there is no durable one yet.
    ///
    /// # Errors
    /// [`JournalError::Damaged`] with the place that is wrong, or what the system says.
    pub fn next_batch(&mut self) -> Result<Option<Batch<'_>>, JournalError> {
        if self.position.seq > self.reader.shared.durable() {
            return Ok(None);
        }
        let (segment, next_first) = self.reader.segment_of(self.position.seq).or_else(|error| match error {
            // Dropped under us: what we hold is still ours to read, up to its end.
            JournalError::Dropped { .. } if !self.at_end_of_segment() => {
                Ok((Arc::clone(&self.segment), self.next_first.or(Some(u64::MAX))))
            }
            other => Err(other),
        })?;
        // One out of which payloads were taken meanwhile has its batches elsewhere; what we hold is whole.
        let is_same = segment.header.first_seq == self.segment.header.first_seq;
        if !is_same {
            self.enter(segment)?;
        }
        self.next_first = next_first;
        let limit = self.limit();
        let describe = |name: &str| self.reader.shared.disk.describe(name);
        let position = self.position;
        let Some(header) = read_frame(&mut self.window, &self.segment, &position, limit, describe)? else {
            return Err(explain_here(&self.segment, &position, describe)?.into());
        };
        self.position.pass(&header);
        let file = describe(&self.segment.name);
        let bytes = self.window.get(&self.segment.file, position.offset, header.len, limit);
        let bytes = bytes.map_err(JournalError::io("read", file.as_str()))?;
        Ok(Some(Batch { header, bytes, from: self.from, file, offset: position.offset }))
    }

    fn at_end_of_segment(&self) -> bool {
        let extent = self.segment.extent();
        self.next_first == Some(self.position.seq) || (extent.known && self.position.seq > extent.end_seq)
    }

    fn enter(&mut self, segment: Arc<Segment<D::File>>) -> Result<(), JournalError> {
        let start = Position::start_of(&segment);
        let fault = if start.seq != self.position.seq {
            Some(Fault::Gap { expected: Seq(self.position.seq), found: Seq(start.seq) })
        } else {
            let before = self.position.previous.filter(|before| Some(*before) != start.previous);
            before.map(|expected| Fault::PreviousLink { expected, found: segment.header.previous })
        };
        if let Some(fault) = fault {
            let file = self.reader.shared.disk.describe(&segment.name);
            return Err(Damage { file, offset: 0, seq: Seq(start.seq), fault }.into());
        }
        self.segment = segment;
        self.position = start;
        self.window.reset();
        Ok(())
    }
}
