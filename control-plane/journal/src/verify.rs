//! Verification: every leaf and link computed again from the bytes, and the first place that does not fit.
//!
//! Works on what a running log has made durable, and on a directory that nobody has open or that another process writes.

use mindos_model::Seq;

use crate::chain::{self, Link, hex};
use crate::disk::Disk;
use crate::error::{Damage, Fault, JournalError};
use crate::log::Shared;
use crate::reader::Reader;
use crate::recover::{list, load};
use crate::scan::{Tail, walk};
use crate::segment::{SegmentHeader, first_seq_in};

/// What a verification found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// First record that was looked at: a whole segment is, where it holds one that was asked for.
    pub first: Seq,
    /// Last record whose link holds; zero if none does.
    pub last: Seq,
    /// Link of that record, as hexadecimal text.
    pub link: String,
    /// How many records were looked at.
    pub records: u64,
    /// How many batches.
    pub batches: u64,
    /// How many segments.
    pub segments: u64,
    /// The first place that is not as written.
    pub broken: Option<Damage>,
    /// Where the rest of a batch stands that never was whole: offline only, the next start cuts it.
    pub torn_at: Option<TornAt>,
}

/// File and offset of what is left of a batch that never was whole.
pub type TornAt = (String, u64);

impl<D: Disk> Reader<D> {
    /// Computes the chain again from `from` through `through`, both cut to what is there.
    ///
    /// # Errors
    /// [`JournalError::Dropped`] if `from` is gone, or what the system says. Damage is no error but in the answer.
    pub fn verify(&self, from: Seq, through: Seq) -> Result<Verified, JournalError> {
        let through = through.min(self.end()).0;
        let from = from.max(self.first()).0;
        let mut verified = Verified {
            first: Seq(from),
            last: Seq(0),
            link: hex(&self.link_before_first()),
            records: 0,
            batches: 0,
            segments: 0,
            broken: None,
            torn_at: None,
        };
        if from > through {
            return Ok(verified);
        }
        let (segment, _) = self.segment_of(from)?;
        verified.first = Seq(segment.header.first_seq);
        verified.link = hex(&segment.header.previous);
        let mut link = segment.header.previous;
        match self.follow(verified.first, through, &mut link, &mut verified) {
            Err(JournalError::Damaged(damage)) => verified.broken = Some(*damage),
            other => other?,
        }
        if verified.records > 0 {
            verified.link = hex(&link);
        }
        Ok(verified)
    }

    fn follow(&self, first: Seq, through: u64, link: &mut Link, verified: &mut Verified) -> Result<(), JournalError> {
        let mut cursor = self.cursor(first)?;
        let mut segment = String::new();
        while cursor.next_seq().0 <= through {
            let Some(batch) = cursor.next_batch()? else { break };
            if batch.file() != segment {
                segment = batch.file().to_owned();
                verified.segments += 1;
                self.check_header(batch.first().0)?;
            }
            let mut computed = *link;
            for entry in batch.entries() {
                let entry = entry?;
                computed = chain::link(&computed, entry.seq.0, &entry.leaf());
            }
            let damage = |fault| Damage { file: segment.clone(), offset: batch.offset(), seq: batch.first(), fault };
            if batch.previous_link() != *link {
                return Err(damage(Fault::PreviousLink { expected: *link, found: batch.previous_link() }).into());
            }
            if batch.end_link() != computed {
                return Err(damage(Fault::EndLink { computed, written: batch.end_link() }).into());
            }
            *link = computed;
            verified.last = batch.last();
            verified.records += batch.last().0 - batch.first().0 + 1;
            verified.batches += 1;
        }
        Ok(())
    }

    /// Reads a segment's header from the disk again: it was read once at the start.
    fn check_header(&self, seq: u64) -> Result<(), JournalError> {
        let (segment, _) = self.segment_of(seq)?;
        let file = self.shared.disk.describe(&segment.name);
        let read = SegmentHeader::read(&segment.file).map_err(JournalError::io("read", file.as_str()))?;
        let seq = Seq(segment.header.first_seq);
        match read {
            Ok(header) if header == segment.header => Ok(()),
            Ok(_) => Err(Damage { file, offset: 0, seq, fault: Fault::Header }.into()),
            Err((offset, fault)) => Err(Damage { file, offset, seq, fault }.into()),
        }
    }

    /// Reads a directory without taking it: what is there at this moment, also while another process writes.
    /// Says too where a torn batch stands, if one does.
    ///
    /// # Errors
    /// [`JournalError::NoLog`], or [`JournalError::Damaged`] if a header or the last segment is not as written.
    pub fn offline(disk: D) -> Result<(Reader<D>, Option<TornAt>), JournalError> {
        let files = list(&disk)?;
        let segments = load(&disk, &files)?;
        let Some(live) = segments.last() else {
            return Err(JournalError::NoLog { directory: disk.describe("") });
        };
        let (extent, position, tail) = walk(live, None, |name| disk.describe(name))?;
        let torn_at = match tail {
            Tail::Clean => None,
            Tail::Torn(_) => Some((disk.describe(&live.name), position.offset)),
            Tail::OneByte(damage) => return Err(damage.into()),
        };
        let (end, log_id) = (extent.end_seq, live.header.log_id);
        *live.extent_mut() = extent;
        let shared = Shared::new(disk, log_id, u64::MAX, segments, end);
        shared.measure()?;
        Ok((Reader::new(shared), torn_at))
    }
}

/// How often a directory is read again because the process that writes it dropped a segment meanwhile.
const ATTEMPTS_MAX: usize = 5;

/// Verifies a directory that this process does not have open, from its first record to its last.
///
/// # Errors
/// What the system says. Damage is no error but in the answer.
pub fn verify_directory<D: Disk>(disk: &D) -> Result<Verified, JournalError> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        let before = segment_names(disk)?;
        let verified = verify_once(disk)?;
        // What looks damaged may be a segment that was dropped and written anew under our eyes.
        if verified.broken.is_none() || attempt == ATTEMPTS_MAX || segment_names(disk)?.starts_with(&before) {
            return Ok(verified);
        }
    }
}

fn segment_names<D: Disk>(disk: &D) -> Result<Vec<u64>, JournalError> {
    Ok(list(disk)?.iter().filter_map(|(name, _)| first_seq_in(name)).collect())
}

fn verify_once<D: Disk>(disk: &D) -> Result<Verified, JournalError> {
    let broken = match Reader::offline(disk.clone()) {
        Ok((reader, torn_at)) => {
            return Ok(Verified { torn_at, ..reader.verify(reader.first(), reader.end())? });
        }
        Err(JournalError::Damaged(damage)) => *damage,
        Err(other) => return Err(other),
    };
    // The head or the tail cannot be read: what stands before it can be, and may be damaged earlier.
    let before = verify_sound_part(disk, &broken)?;
    Ok(Verified { broken: before.broken.clone().or(Some(broken)), ..before })
}

/// Verifies the segments before the one that is damaged.
fn verify_sound_part<D: Disk>(disk: &D, broken: &Damage) -> Result<Verified, JournalError> {
    let files = list(disk)?;
    let sound: Vec<_> = files.into_iter().filter(|(name, _)| disk.describe(name) < broken.file).collect();
    let segments = match load(disk, &sound) {
        Ok(segments) => segments,
        Err(JournalError::Damaged(_)) => Vec::new(),
        Err(other) => return Err(other),
    };
    let mut verified = Verified {
        first: broken.seq,
        last: Seq(0),
        link: String::new(),
        records: 0,
        batches: 0,
        segments: 0,
        broken: None,
        torn_at: None,
    };
    let Some(last) = segments.last() else { return Ok(verified) };
    // The name of the segment behind says where the sound part must end.
    let mut end = last.header.first_seq - 1;
    match walk(last, None, |name| disk.describe(name)) {
        Ok((extent, _, Tail::Clean | Tail::Torn(_))) => {
            end = extent.end_seq;
            *last.extent_mut() = extent;
        }
        Ok((_, _, Tail::OneByte(damage))) => verified.broken = Some(damage),
        Err(JournalError::Damaged(damage)) => verified.broken = Some(*damage),
        Err(other) => return Err(other),
    }
    let shared = Shared::new(disk.clone(), last.header.log_id, u64::MAX, segments, end);
    let reader = Reader::new(shared);
    let found = reader.verify(reader.first(), reader.end())?;
    Ok(Verified { broken: found.broken.clone().or(verified.broken), ..found })
}
