//! Reading a segment frame by frame, and saying what is wrong where one cannot be read.
//!
//! Invariant: a frame comes out only if its checksum holds and it stands where the log expects it: right number, right
//! link before it, no earlier epoch.

use std::io;

use mindos_model::Seq;

use crate::chain::Link;
use crate::disk::DiskFile;
use crate::error::{Damage, Fault, JournalError};
use crate::frame::{self, ALIGNMENT, FRAME_BYTES_MAX, FrameHeader, HEADER_BYTES, at};
use crate::repair::{self, Expected};
use crate::segment::{Extent, FRAMES_AT, Segment};

/// How much is read at once by whoever reads on.
const READ_BYTES: usize = 256 << 10;
/// How much is read at once by whoever looks at one place.
const PEEK_BYTES: usize = 16 << 10;

/// A window on a file that moves forward with its reader.
#[derive(Debug)]
pub(crate) struct Window {
    /// How much is read at once, at least.
    step: usize,
    bytes: Vec<u8>,
    /// Where in the file the window starts.
    start: u64,
    filled: usize,
}

impl Default for Window {
    fn default() -> Window {
        Window { step: READ_BYTES, bytes: Vec::new(), start: 0, filled: 0 }
    }
}

impl Window {
    /// For looking at one place.
    pub(crate) fn small() -> Window {
        Window { step: PEEK_BYTES, ..Window::default() }
    }

    /// Forgets what was read: the file grew or is another one.
    pub(crate) fn reset(&mut self) {
        self.filled = 0;
    }

    /// `len` bytes from `offset`, fewer at `limit` or the end of the file.
    pub(crate) fn get(&mut self, file: &impl DiskFile, offset: u64, len: usize, limit: u64) -> io::Result<&[u8]> {
        let len = len.min(usize::try_from(limit.saturating_sub(offset)).unwrap_or(usize::MAX));
        let inside = offset >= self.start && offset + len as u64 <= self.start + self.filled as u64;
        if !inside {
            let want = len.max(self.step).min(usize::try_from(limit.saturating_sub(offset)).unwrap_or(usize::MAX));
            if self.bytes.len() < want {
                self.bytes.resize(want, 0);
            }
            self.filled = 0;
            self.filled = file.read_at(&mut self.bytes[..want], offset)?;
            self.start = offset;
        }
        let from = usize::try_from(offset - self.start).expect("a window fits in memory");
        Ok(&self.bytes[from..self.filled.min(from + len)])
    }
}

/// The frame of the use `nonce` at `offset`, if a whole one is there. `limit` is where the log may reach.
fn frame_at(
    window: &mut Window,
    file: &impl DiskFile,
    nonce: u64,
    offset: u64,
    limit: u64,
) -> io::Result<Option<FrameHeader>> {
    let head = window.get(file, offset, HEADER_BYTES, limit)?;
    let Some(header) = FrameHeader::parse(head, nonce) else { return Ok(None) };
    if header.len as u64 > limit - offset {
        return Ok(None);
    }
    let bytes = window.get(file, offset, header.len, limit)?;
    let whole = bytes.len() == header.len && frame::crc_of(bytes) == header.crc;
    Ok(whole.then_some(header))
}

/// Where the next whole frame of this use of the segment starts, after `offset`; only records after `seq` count.
fn next_frame<F: DiskFile>(segment: &Segment<F>, offset: u64, seq: u64) -> io::Result<Option<u64>> {
    let nonce = segment.header.nonce;
    let mut pattern = [0; at::LEN];
    pattern[..at::NONCE].copy_from_slice(&frame::MAGIC);
    pattern[at::NONCE..].copy_from_slice(&nonce.to_le_bytes());
    let mut window = Window::default();
    let mut inner = Window::default();
    let mut from = offset + ALIGNMENT as u64;
    loop {
        let bytes = window.get(&segment.file, from, READ_BYTES, segment.file_bytes)?;
        if bytes.len() < HEADER_BYTES {
            return Ok(None);
        }
        let hits = bytes.windows(pattern.len()).step_by(ALIGNMENT).enumerate();
        for (number, _) in hits.filter(|(_, found)| *found == pattern) {
            let at = from + (number * ALIGNMENT) as u64;
            let frame = frame_at(&mut inner, &segment.file, nonce, at, segment.file_bytes)?;
            if frame.is_some_and(|header| header.first_seq > seq) {
                return Ok(Some(at));
            }
        }
        // The last few bytes again, for a pattern that lies across the edge.
        from += ((bytes.len() - at::LEN) / ALIGNMENT * ALIGNMENT).max(ALIGNMENT) as u64;
    }
}

/// Where in the log a reader stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    /// Offset of the next frame in the segment.
    pub(crate) offset: u64,
    /// Its first record.
    pub(crate) seq: u64,
    /// Link before it; `None` if the reader started in the middle.
    pub(crate) previous: Option<Link>,
    /// Highest epoch so far.
    pub(crate) epoch: u32,
}

impl Position {
    /// The start of a segment.
    pub(crate) fn start_of<F>(segment: &Segment<F>) -> Position {
        let header = &segment.header;
        Position { offset: FRAMES_AT, seq: header.first_seq, previous: Some(header.previous), epoch: header.epoch }
    }

    /// Moves behind a frame.
    pub(crate) fn pass(&mut self, header: &FrameHeader) {
        self.offset += header.len as u64;
        self.seq = header.last_seq() + 1;
        self.previous = Some(header.end);
        self.epoch = header.epoch;
    }
}

/// Reads the frame at `position` and checks that it belongs there. `None` if no whole frame is there.
///
/// The window then holds its bytes.
pub(crate) fn read_frame<F: DiskFile>(
    window: &mut Window,
    segment: &Segment<F>,
    position: &Position,
    limit: u64,
    describe: impl Fn(&str) -> String,
) -> Result<Option<FrameHeader>, JournalError> {
    let read = frame_at(window, &segment.file, segment.header.nonce, position.offset, limit);
    let Some(header) = read.map_err(JournalError::io("read", describe(&segment.name)))? else {
        return Ok(None);
    };
    let fault = if header.first_seq != position.seq {
        Some(Fault::Gap { expected: Seq(position.seq), found: Seq(header.first_seq) })
    } else if position.previous.is_some_and(|previous| previous != header.previous) {
        Some(Fault::PreviousLink { expected: position.previous.unwrap_or_default(), found: header.previous })
    } else if header.epoch < position.epoch {
        Some(Fault::EpochBack { before: position.epoch, found: header.epoch })
    } else {
        None
    };
    match fault {
        None => Ok(Some(header)),
        Some(fault) => {
            let file = describe(&segment.name);
            Err(Damage { file, offset: position.offset, seq: Seq(position.seq), fault }.into())
        }
    }
}

/// Says what is wrong at `position`, where a frame should be: the byte, if it is one.
pub(crate) fn explain<F: DiskFile>(
    segment: &Segment<F>,
    position: &Position,
    next_at: Option<u64>,
    describe: impl Fn(&str) -> String,
) -> Result<Damage, JournalError> {
    let file = describe(&segment.name);
    let mut damage = Damage { file, offset: position.offset, seq: Seq(position.seq), fault: Fault::NoFrame };
    let room = segment.file_bytes.saturating_sub(position.offset);
    let mut window = Window::default();
    let read = |window: &mut Window, len: usize| {
        window.get(&segment.file, position.offset, len, segment.file_bytes).map(<[u8]>::to_vec)
    };
    let head = read(&mut window, HEADER_BYTES).map_err(JournalError::io("read", &damage.file))?;
    let (Some(previous), true) = (position.previous, head.len() == HEADER_BYTES) else { return Ok(damage) };
    let next_at = next_at.and_then(|next| usize::try_from(next - position.offset).ok());
    let own_len = frame::u32_at(&head, at::LEN) as usize;
    // Without a frame behind, the length itself may be wrong, so all that is there counts.
    let len = next_at.map_or(FRAME_BYTES_MAX, |next| next.max(own_len.min(FRAME_BYTES_MAX)));
    let len = len.min(usize::try_from(room).unwrap_or(usize::MAX));
    let bytes = read(&mut window, len).map_err(JournalError::io("read", &damage.file))?;
    let expected = Expected { nonce: segment.header.nonce, first_seq: position.seq, previous };
    if let Some(found) = repair::diagnose(&bytes, &expected, next_at) {
        damage.offset += found.wrong.offset as u64;
        damage.seq = Seq(found.seq);
        damage.fault = Fault::Byte { found: found.wrong.found, written: found.wrong.written };
    }
    Ok(damage)
}

/// As [`explain`], after looking for where the log goes on.
pub(crate) fn explain_here<F: DiskFile>(
    segment: &Segment<F>,
    position: &Position,
    describe: impl Fn(&str) -> String,
) -> Result<Damage, JournalError> {
    let next_at = next_frame(segment, position.offset, position.seq);
    let next_at = next_at.map_err(JournalError::io("read", describe(&segment.name)))?;
    explain(segment, position, next_at, describe)
}

/// How a segment ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Tail {
    /// With a whole batch.
    Clean,
    /// With the rest of a batch of so many bytes that never was whole; zero if its header is torn too.
    Torn(u64),
    /// With a whole batch in which one byte is wrong; the chain proves what it was.
    OneByte(Damage),
}

/// Walks a whole segment and returns its extent and how it ends.
///
/// `next_first` is the first record of the segment that follows: with one, the walk must arrive exactly there.
pub(crate) fn walk<F: DiskFile>(
    segment: &Segment<F>,
    next_first: Option<u64>,
    describe: impl Fn(&str) -> String,
) -> Result<(Extent, Position, Tail), JournalError> {
    let mut window = Window::default();
    let mut position = Position::start_of(segment);
    let mut extent = Extent::default();
    let mut tail = Tail::Clean;
    while next_first != Some(position.seq) {
        let Some(header) = read_frame(&mut window, segment, &position, segment.file_bytes, &describe)? else {
            let read_failed = || JournalError::io("read", describe(&segment.name));
            let next_at = next_frame(segment, position.offset, position.seq).map_err(read_failed())?;
            let damage = explain(segment, &position, next_at, &describe)?;
            if next_at.is_some() || next_first.is_some() {
                return Err(damage.into());
            }
            tail = match damage.fault {
                Fault::Byte { .. } => Tail::OneByte(damage),
                _ if !is_blank(segment, position.offset).map_err(read_failed())? => {
                    Tail::Torn(torn_bytes(segment, position.offset).map_err(read_failed())?)
                }
                _ => Tail::Clean,
            };
            break;
        };
        if let Some(next) = next_first.filter(|next| header.last_seq() >= *next) {
            let fault = Fault::Gap { expected: Seq(next), found: Seq(header.first_seq) };
            let file = describe(&segment.name);
            return Err(Damage { file, offset: position.offset, seq: Seq(position.seq), fault }.into());
        }
        extent.note_frame(position.seq, position.offset);
        position.pass(&header);
    }
    extent.end_seq = position.seq - 1;
    extent.end_link = position.previous.unwrap_or(segment.header.previous);
    extent.end_offset = position.offset;
    extent.known = true;
    Ok((extent, position, tail))
}

/// Whether nothing of this use of the segment stands at `offset`: zeroes, the end, or what an earlier use left.
fn is_blank<F: DiskFile>(segment: &Segment<F>, offset: u64) -> io::Result<bool> {
    let mut window = Window::default();
    let head = window.get(&segment.file, offset, at::LEN, segment.file_bytes)?;
    Ok(head.len() < at::LEN || frame::u64_at(head, at::NONCE) != segment.header.nonce)
}

/// Length of the batch whose torn rest stands at `offset`; zero if not even its header can be read.
fn torn_bytes<F: DiskFile>(segment: &Segment<F>, offset: u64) -> io::Result<u64> {
    let mut window = Window::default();
    let head = window.get(&segment.file, offset, HEADER_BYTES, segment.file_bytes)?;
    Ok(FrameHeader::parse(head, segment.header.nonce).map_or(0, |header| header.len as u64))
}
