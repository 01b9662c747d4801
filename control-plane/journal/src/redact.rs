//! Redaction: payloads leave the disk, and the chain still holds.
//!
//! ```text
//! spares made of zeroes only -> live segment sealed -> each segment that holds a payload written again, its digest in the
//! payload's place -> renamed over the old one -> rests of earlier uses behind the ends zeroed
//! ```
//! A segment is replaced in one step, so a crash leaves the old one or the new one, and doing all of it again is harmless. Readers
//! that stand in the old file read it to its end. Invariant: leaf and link of every record stay as they were.

use std::sync::Arc;

use mindos_model::Seq;

use crate::disk::{CHUNK_BYTES, Disk, DiskFile, write_zeroes};
use crate::error::JournalError;
use crate::frame::{Entries, Frame};
use crate::log::{Log, Shared};
use crate::reader::Reader;
use crate::scan::{Position, Window, explain_here, read_frame};
use crate::segment::{Extent, FORMAT_REDACTED, FRAMES_AT, Segment, SegmentHeader};
use crate::spare::{SpareControl, UNFINISHED};

/// What was taken out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redacted {
    /// How many payloads left the disk by this call.
    pub payloads: u64,
    /// How many segments were written again.
    pub segments: u64,
    /// Records that stand in the live segment, which is not touched: see [`Redactor::seal`].
    pub live: Vec<Seq>,
}

/// Takes payloads out of a log from a thread of its own, while its writer goes on. There is to be one at a time.
#[derive(Clone, Debug)]
pub struct Redactor<D: Disk> {
    shared: Arc<Shared<D>>,
    spares: SpareControl<D>,
}

impl<D: Disk> Log<D> {
    /// Takes payloads out of this log.
    #[must_use]
    pub fn redactor(&self) -> Redactor<D> {
        Redactor { shared: Arc::clone(&self.shared), spares: self.spares.control() }
    }
}

impl<D: Disk> Redactor<D> {
    /// From here on no dropped segment is used again; the spares that are there go.
    ///
    /// # Errors
    /// What the system says.
    pub fn begin(&self) -> Result<(), JournalError> {
        let directory = self.shared.disk.describe("");
        self.spares.set_fresh_only(true).map_err(JournalError::io("remove spare segments in", directory))
    }

    /// Dropped segments may be used again.
    pub fn end(&self) {
        // Nothing is unlinked, so nothing can fail.
        let _ = self.spares.set_fresh_only(false);
    }

    /// Whether a segment can be begun without anybody waiting for one to be made.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.spares.is_ready()
    }

    /// Asks the writer to begin another segment behind the last durable record, and returns that record. It does so with its next
    /// batch, or when nothing comes.
    pub fn seal(&self) -> Seq {
        let through = self.shared.durable();
        self.shared.want_seal(through);
        Seq(through)
    }

    /// Whether the live segment begins behind `through`.
    #[must_use]
    pub fn is_sealed(&self, through: Seq) -> bool {
        self.shared.segments().last().is_some_and(|live| live.header.first_seq > through.0)
    }

    /// Takes the payloads of these records out of all sealed segments; what was dropped, or has none, is passed over. `seqs` in
    /// order, each once.
    ///
    /// # Errors
    /// Damage, or what the system says. What was done until then stays done; all of it may be done again.
    pub fn redact(&self, seqs: &[Seq]) -> Result<Redacted, JournalError> {
        let mut redacted = Redacted::default();
        let reader = Reader::new(Arc::clone(&self.shared));
        let segments = self.shared.segments().clone();
        let nexts = segments.iter().skip(1).map(|next| Some(next.header.first_seq)).chain([None]);
        for (segment, next_first) in segments.iter().zip(nexts) {
            let from = seqs.partition_point(|seq| seq.0 < segment.header.first_seq);
            let to = next_first.map_or(seqs.len(), |next| seqs.partition_point(|seq| seq.0 < next));
            let wanted = &seqs[from..to.max(from)];
            let Some(next_first) = next_first else {
                redacted.live.extend(wanted);
                continue;
            };
            if !wanted.is_empty() {
                let payloads = self.rewrite(segment, next_first, wanted)?;
                redacted.payloads += payloads;
                redacted.segments += u64::from(payloads > 0);
                if payloads > 0 {
                    continue;
                }
            }
            reader.index(segment, Some(next_first))?;
            self.scrub(segment)?;
        }
        self.shared.measure()?;
        Ok(redacted)
    }

    /// Writes a segment again without the payloads of `wanted`; how many there were.
    fn rewrite(&self, segment: &Arc<Segment<D::File>>, next_first: u64, wanted: &[Seq]) -> Result<u64, JournalError> {
        let disk = &self.shared.disk;
        let describe = |name: &str| disk.describe(name);
        let mut window = Window::default();
        let mut position = Position::start_of(segment);
        let mut written = Written::default();
        let mut payloads = 0;
        while position.seq < next_first {
            let Some(header) = read_frame(&mut window, segment, &position, segment.file_bytes, describe)? else {
                return Err(explain_here(segment, &position, describe)?.into());
            };
            let bytes = window.get(&segment.file, position.offset, header.len, segment.file_bytes);
            let bytes = bytes.map_err(JournalError::io("read", describe(&segment.name)))?;
            let place = written.bytes.len() as u64 + FRAMES_AT;
            written.extent.note_frame(position.seq, place);
            let touches = |seq: &Seq| (header.first_seq..=header.last_seq()).contains(&seq.0);
            if wanted.iter().any(touches) {
                let (frame, taken) = without(bytes, header.first_seq, header.count, wanted);
                let mut frame = frame;
                let (bytes, end) = frame.seal(segment.header.nonce, header.epoch, header.first_seq, &header.previous);
                assert_eq!(end, header.end, "a payload's digest stands for it in the chain");
                written.bytes.extend_from_slice(bytes);
                payloads += taken;
            } else {
                written.bytes.extend_from_slice(bytes);
            }
            position.pass(&header);
        }
        if payloads == 0 {
            return Ok(0);
        }
        written.extent.end_seq = position.seq - 1;
        written.extent.end_link = position.previous.unwrap_or(segment.header.previous);
        written.extent.end_offset = FRAMES_AT + written.bytes.len() as u64;
        written.extent.known = true;
        self.replace(segment, written).map_err(JournalError::io("write again", describe(&segment.name)))?;
        Ok(payloads)
    }

    /// Puts what was written in a segment's place, in one step. One that was dropped meanwhile stays dropped.
    fn replace(&self, segment: &Arc<Segment<D::File>>, written: Written) -> std::io::Result<()> {
        let disk = &self.shared.disk;
        let unfinished = format!("{}{UNFINISHED}", segment.name);
        match disk.unlink(&unfinished) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let header = SegmentHeader { format: FORMAT_REDACTED, ..segment.header.clone() };
        let file = disk.create(&unfinished)?;
        file.write_at(&header.encode(), 0)?;
        for (number, chunk) in written.bytes.chunks(CHUNK_BYTES).enumerate() {
            file.write_at(chunk, FRAMES_AT + (number * CHUNK_BYTES) as u64)?;
        }
        file.sync_data()?;
        let file_bytes = file.len()?;
        let fresh = Segment::new(header, segment.name.clone(), file, file_bytes, written.extent);
        let mut segments = self.shared.segments_mut();
        let Some(place) = segments.iter_mut().find(|kept| Arc::ptr_eq(kept, segment)) else {
            drop(segments);
            return disk.unlink(&unfinished);
        };
        disk.rename(&unfinished, &segment.name)?;
        *place = fresh;
        drop(segments);
        disk.sync_dir()
    }

    /// Zeroes what an earlier use of a sealed segment's file left behind its end.
    fn scrub(&self, segment: &Segment<D::File>) -> Result<(), JournalError> {
        let end = segment.extent().end_offset;
        let failed = || JournalError::io("clear the rest of", self.shared.disk.describe(&segment.name));
        let mut window = Window::default();
        let mut at = end;
        while at < segment.file_bytes {
            let bytes = window.get(&segment.file, at, CHUNK_BYTES, segment.file_bytes).map_err(failed())?;
            if bytes.is_empty() {
                break;
            }
            if bytes.iter().any(|byte| *byte != 0) {
                write_zeroes(&segment.file, at, segment.file_bytes).map_err(failed())?;
                return segment.file.sync_data().map_err(failed());
            }
            at += bytes.len() as u64;
        }
        Ok(())
    }
}

/// A segment's frames as they are to be, and where things are in them.
#[derive(Debug, Default)]
struct Written {
    bytes: Vec<u8>,
    extent: Extent,
}

/// A batch without the payloads of `wanted`, and how many were taken out.
fn without(bytes: &[u8], first_seq: u64, count: u32, wanted: &[Seq]) -> (Frame, u64) {
    let (mut frame, mut taken) = (Frame::new(), 0);
    for entry in Entries::new(bytes, first_seq, count).flatten() {
        match entry.payload {
            Some(payload) if wanted.binary_search(&entry.seq).is_ok() => {
                frame.push_redacted(entry.metadata, &entry.digest(), payload.bytes.len());
                taken += 1;
            }
            _ => frame.push_entry(&entry),
        }
    }
    (frame, taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::{FaultDisk, Random};
    use crate::testing::{append, fill_log, metadata, open, payload};
    use crate::verify_directory;

    /// Records that have a payload of some length.
    fn with_payloads(through: u64) -> Vec<Seq> {
        (1..=through).filter(|seq| payload(*seq).is_some_and(|(_, bytes)| bytes.len() > 20)).map(Seq).collect()
    }

    fn holds(disk: &FaultDisk, bytes: &[u8]) -> bool {
        disk.list().unwrap().iter().any(|(name, len)| {
            let mut file = vec![0; usize::try_from(*len).unwrap()];
            let read = disk.open(name).unwrap().read_at(&mut file, 0).unwrap();
            memchr_find(&file[..read], bytes)
        })
    }

    fn memchr_find(text: &[u8], bytes: &[u8]) -> bool {
        text.windows(bytes.len()).any(|window| window == bytes)
    }

    fn redact_all(log: &mut Log<FaultDisk>, seqs: &[Seq]) -> Redacted {
        let redactor = log.redactor();
        redactor.begin().unwrap();
        let through = redactor.seal();
        log.seal_if_wanted().unwrap();
        assert!(redactor.is_sealed(through));
        let redacted = redactor.redact(seqs).unwrap();
        redactor.end();
        redacted
    }

    #[test]
    fn what_is_redacted_is_on_no_file_and_everything_else_reads_as_before() {
        let disk = FaultDisk::new();
        let (mut log, _) = open(&disk, 1);
        fill_log(&mut log, 5, 400);
        let reader = log.reader();
        // It stands in the middle of the segment that is written again.
        let mut cursor = reader.cursor(Seq(100)).unwrap();
        cursor.next_batch().unwrap();
        let gone: Vec<Seq> = with_payloads(400).into_iter().step_by(3).collect();
        assert!(holds(&disk, &payload(gone[0].0).unwrap().1));

        let redacted = redact_all(&mut log, &gone);

        assert_eq!((redacted.payloads, redacted.live.len()), (gone.len() as u64, 0));
        for seq in &gone {
            assert!(!holds(&disk, &payload(seq.0).unwrap().1), "{seq} is still there");
        }
        while cursor.next_batch().unwrap().is_some() {}
        append(&mut log, 5).unwrap();
        for reader in [
            reader,
            open(
                &{
                    let copy = disk.copy();
                    drop(log);
                    copy
                },
                2,
            )
            .0
            .reader(),
        ] {
            let verified = reader.verify(Seq(1), reader.end()).unwrap();
            assert_eq!((verified.broken, verified.last), (None, Seq(405)));
            for seq in (1..=405).map(Seq) {
                let stored = reader.read(seq).unwrap();
                assert_eq!(stored.metadata, metadata(seq.0));
                assert_eq!(stored.redacted.is_some(), gone.contains(&seq));
                let expected = payload(seq.0).filter(|_| !gone.contains(&seq));
                assert_eq!(stored.payload.map(|payload| (payload.salt, payload.bytes.to_vec())), expected);
            }
        }
        // Once more is harmless.
        let (mut log, _) = open(&disk, 3);
        assert_eq!(redact_all(&mut log, &gone).payloads, 0);
    }

    #[test]
    fn what_an_earlier_use_of_a_file_left_goes_too() {
        let disk = FaultDisk::new();
        let (mut log, _) = open(&disk, 1);
        fill_log(&mut log, 5, 400);
        log.reader().write_snapshot(Seq(300), [0; 32], 1).unwrap().finish().unwrap();
        log.drop_prefix(Seq(300)).unwrap();
        fill_log(&mut log, 6, 100);
        let dropped: Vec<_> = with_payloads(60).into_iter().map(|seq| payload(seq.0).unwrap().1).collect();

        redact_all(&mut log, &[]);

        assert!(dropped.iter().all(|bytes| !holds(&disk, bytes)));
        assert_eq!(verify_directory(&disk).unwrap().broken, None);
    }

    #[test]
    fn a_cut_at_any_point_leaves_a_log_that_can_be_redacted() {
        for seed in 0..80 {
            let disk = FaultDisk::new();
            let (mut log, _) = open(&disk, 1);
            fill_log(&mut log, seed, 300);
            let gone: Vec<Seq> = with_payloads(300).into_iter().step_by(5).collect();
            let redactor = log.redactor();
            redactor.begin().unwrap();
            redactor.seal();
            log.seal_if_wanted().unwrap();
            disk.fail_syncs_after(Some(seed % 40));
            let _ = redactor.redact(&gone);
            drop((log, redactor));
            let disk = disk.cut(&mut Random::new(seed));

            let (mut log, recovery) = open(&disk, 2);
            assert_eq!(recovery.end, Seq(300));
            redact_all(&mut log, &gone);

            assert!(gone.iter().all(|seq| !holds(&disk, &payload(seq.0).unwrap().1)));
            assert_eq!(verify_directory(&disk).unwrap().broken, None);
        }
    }
}
