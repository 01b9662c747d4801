//! Tools for people: what is in a journal's directory, and cutting its end off where it cannot be read.
//!
//! Cutting is the one way to give up records, so it leaves a mark that the next start turns into a record.

use mindos_model::Seq;

use crate::chain::hex;
use crate::disk::{Disk, DiskFile, write_zeroes};
use crate::error::{Damage, JournalError};
use crate::frame::{Entries, Frame};
use crate::mark::{self, Marks, Truncated};
use crate::recover::{list, load};
use crate::scan::{Position, Tail, Window, read_frame, walk};
use crate::segment::{FRAMES_AT, Segment, SegmentHeader, first_seq_in, spare_number_in};
use crate::snapshot;
use crate::spare::UNFINISHED;

/// What is in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// Segments in order.
    pub segments: Vec<SegmentReport>,
    /// Records of which there is a snapshot, newest first.
    pub snapshots: Vec<Seq>,
    /// How many spare segments lie ready.
    pub spares: usize,
    /// Bytes of all files.
    pub bytes: u64,
    /// What tools did since the last start.
    pub marks: Marks,
}

/// What is in a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentReport {
    /// Its file.
    pub file: String,
    /// First record by its name.
    pub first: Seq,
    /// Last record that can be read; one before `first` if there is none.
    pub last: Seq,
    /// How many batches can be read.
    pub batches: u64,
    /// Bytes of the log in it.
    pub used_bytes: u64,
    /// Length of the file.
    pub file_bytes: u64,
    /// Place among the log's segments; zero if the header cannot be read.
    pub number: u64,
    /// Link of the last record, as hexadecimal text.
    pub link: String,
    /// What is wrong.
    pub damage: Option<Damage>,
    /// Length of a torn batch at the end, if there is one.
    pub torn_bytes: Option<u64>,
}

/// Looks at everything in a directory and changes nothing. Nobody needs to have it open, nor to be gone.
///
/// # Errors
/// What the system says. Damage is no error but in the answer.
pub fn inspect<D: Disk>(disk: &D) -> Result<Inspection, JournalError> {
    let files = list(disk)?;
    let mut firsts: Vec<_> = files.iter().filter_map(|(name, _)| first_seq_in(name)).skip(1).map(Some).collect();
    firsts.push(None);
    let mut segments = Vec::new();
    let named = files.iter().filter(|(name, _)| first_seq_in(name).is_some());
    for ((name, file_bytes), next_first) in named.zip(firsts) {
        segments.push(inspect_segment(disk, name, *file_bytes, next_first)?);
    }
    Ok(Inspection {
        segments,
        snapshots: snapshot::all_in(&files),
        spares: files.iter().filter(|(name, _)| spare_number_in(name).is_some()).count(),
        bytes: files.iter().map(|(_, bytes)| bytes).sum(),
        marks: Marks::read(disk)?,
    })
}

fn inspect_segment<D: Disk>(
    disk: &D,
    name: &str,
    file_bytes: u64,
    next_first: Option<u64>,
) -> Result<SegmentReport, JournalError> {
    let first = first_seq_in(name).unwrap_or_default();
    let file = disk.describe(name);
    let mut report = SegmentReport {
        file: file.clone(),
        first: Seq(first),
        last: Seq(first.saturating_sub(1)),
        batches: 0,
        used_bytes: 0,
        file_bytes,
        number: 0,
        link: String::new(),
        damage: None,
        torn_bytes: None,
    };
    let segment = match load(disk, &[(name.to_owned(), file_bytes)]) {
        Ok(mut segments) => segments.remove(0),
        Err(JournalError::Damaged(damage)) => {
            report.damage = Some(*damage);
            return Ok(report);
        }
        Err(other) => return Err(other),
    };
    report.number = segment.header.number;
    let sound = sound_part(disk, &segment, next_first)?;
    report.last = Seq(sound.position.seq - 1);
    report.used_bytes = sound.position.offset;
    report.batches = sound.batches;
    report.link = hex(&sound.position.previous.unwrap_or(segment.header.previous));
    match walk(&segment, next_first, |name| disk.describe(name)) {
        Ok((_, _, Tail::Clean)) => {}
        Ok((_, _, Tail::Torn(bytes))) => report.torn_bytes = Some(bytes),
        Ok((_, _, Tail::OneByte(damage))) => report.damage = Some(damage),
        Err(JournalError::Damaged(damage)) => report.damage = Some(*damage),
        Err(other) => return Err(other),
    }
    Ok(report)
}

struct SoundPart {
    position: Position,
    batches: u64,
}

/// Walks as far as batches can be read.
fn sound_part<D: Disk>(
    disk: &D,
    segment: &Segment<D::File>,
    next_first: Option<u64>,
) -> Result<SoundPart, JournalError> {
    let mut window = Window::default();
    let mut sound = SoundPart { position: Position::start_of(segment), batches: 0 };
    while next_first != Some(sound.position.seq) {
        let describe = |name: &str| disk.describe(name);
        match read_frame(&mut window, segment, &sound.position, segment.file_bytes, describe) {
            Ok(Some(header)) => sound.position.pass(&header),
            Ok(None) | Err(JournalError::Damaged(_)) => break,
            Err(other) => return Err(other),
        }
        sound.batches += 1;
    }
    Ok(sound)
}

/// Cuts the log off behind the record `at`, and drops the snapshots that know more.
///
/// A batch that reaches beyond `at` keeps its first part. The directory must not be in use. It is safe to repeat.
///
/// # Errors
/// [`JournalError::Locked`], [`JournalError::PastEnd`] if no record `at` can be read, [`JournalError::Dropped`] or
/// [`JournalError::NoSnapshot`] if what would be left has no beginning, or what the system says.
pub fn truncate<D: Disk>(disk: &D, at: Seq) -> Result<Truncated, JournalError> {
    let _lock = disk.lock().map_err(|source| match source.kind() {
        std::io::ErrorKind::WouldBlock => JournalError::Locked { directory: disk.describe("") },
        _ => JournalError::Io { action: "lock", file: disk.describe(""), source },
    })?;
    let files = list(disk)?;
    let mut named: Vec<_> = files.iter().filter(|(name, _)| first_seq_in(name).is_some()).cloned().collect();
    let dropped_through = Seq(last_known(disk, named.last())?.max(at.0));
    let first = Seq(named.first().and_then(|(name, _)| first_seq_in(name)).unwrap_or(1));
    let keep = named.partition_point(|(name, _)| first_seq_in(name) <= Some(at.0.max(1)));
    if keep == 0 || at.0 + 1 < first.0 {
        return Err(JournalError::Dropped { seq: at, first });
    }
    if first.0 > 1 && !snapshot::all_in(&files).iter().any(|seq| *seq <= at && seq.0 + 1 >= first.0) {
        return Err(JournalError::NoSnapshot { through: Seq(first.0 - 1) });
    }
    let beyond = named.split_off(keep);
    let segments = load(disk, &named)?;
    let kept = segments.last().expect("one is kept");
    let frames = frames_through(disk, kept, at)?;
    let mark = mark::begin_truncate(disk, Truncated { at, dropped_through })?;
    let failed = |name: &str| JournalError::io("cut", disk.describe(name));
    for (name, _) in beyond.iter().rev() {
        disk.unlink(name).and_then(|()| disk.sync_dir()).map_err(failed(name))?;
    }
    for seq in snapshot::all_in(&files).into_iter().filter(|seq| *seq > at) {
        let name = snapshot::file_name(seq);
        disk.unlink(&name).map_err(failed(&name))?;
    }
    rewrite(disk, kept, &frames).map_err(failed(&kept.name))?;
    mark::end_truncate(disk)?;
    Ok(mark)
}

/// The last record that can be read in the last segment, or the one before it.
fn last_known<D: Disk>(disk: &D, last: Option<&(String, u64)>) -> Result<u64, JournalError> {
    let Some(file) = last else { return Ok(0) };
    match load(disk, std::slice::from_ref(file)) {
        Ok(segments) => Ok(sound_part(disk, &segments[0], None)?.position.seq - 1),
        Err(JournalError::Damaged(damage)) => Ok(damage.seq.0.saturating_sub(1)),
        Err(other) => Err(other),
    }
}

/// The bytes of all frames of a segment up to the record `at`, the last one shortened if it goes beyond.
fn frames_through<D: Disk>(disk: &D, segment: &Segment<D::File>, at: Seq) -> Result<Vec<u8>, JournalError> {
    let mut window = Window::default();
    let mut position = Position::start_of(segment);
    let mut frames = Vec::new();
    while position.seq <= at.0 {
        let describe = |name: &str| disk.describe(name);
        let read = match read_frame(&mut window, segment, &position, segment.file_bytes, describe) {
            Err(JournalError::Damaged(_)) => None,
            other => other?,
        };
        let Some(header) = read else { return Err(JournalError::PastEnd { seq: at, end: Seq(position.seq - 1) }) };
        let bytes = window.get(&segment.file, position.offset, header.len, segment.file_bytes);
        let bytes = bytes.map_err(JournalError::io("read", disk.describe(&segment.name)))?;
        if header.last_seq() <= at.0 {
            frames.extend_from_slice(bytes);
        } else {
            let mut short = Frame::new();
            for entry in Entries::new(bytes, header.first_seq, header.count).flatten() {
                if entry.seq <= at {
                    short.push_entry(&entry);
                }
            }
            frames.extend_from_slice(
                short.seal(segment.header.nonce, header.epoch, header.first_seq, &header.previous).0,
            );
        }
        position.pass(&header);
    }
    Ok(frames)
}

/// Puts a segment that holds just `frames` in the place of this one, in one step.
fn rewrite<D: Disk>(disk: &D, segment: &Segment<D::File>, frames: &[u8]) -> std::io::Result<()> {
    let unfinished = format!("{}{UNFINISHED}", segment.name);
    match disk.unlink(&unfinished) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let file = disk.create(&unfinished)?;
    let header: &SegmentHeader = &segment.header;
    file.write_at(&header.encode(), 0)?;
    file.write_at(frames, FRAMES_AT)?;
    write_zeroes(&file, FRAMES_AT + frames.len() as u64, segment.file_bytes)?;
    file.sync_data()?;
    disk.rename(&unfinished, &segment.name)?;
    disk.sync_dir()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::{FaultDisk, Random};
    use crate::testing::{append, check, fill_log, open, options};
    use crate::{Fault, Log, verify_directory};

    fn log(records: u64) -> FaultDisk {
        let disk = FaultDisk::new();
        let (mut log, _) = open(&disk, 1);
        fill_log(&mut log, 5, records);
        disk
    }

    #[test]
    fn an_inspection_sees_segments_snapshots_and_damage() {
        let disk = log(400);
        open(&disk, 2).0.reader().write_snapshot(Seq(100), [0; 32], 1).unwrap().finish().unwrap();
        let sound = inspect(&disk).unwrap();
        assert_eq!(sound.segments.last().unwrap().last, Seq(400));
        assert!(sound.segments.iter().all(|segment| segment.damage.is_none() && segment.torn_bytes.is_none()));
        assert!(sound.segments.windows(2).all(|pair| pair[0].last.next() == pair[1].first));
        assert_eq!((sound.snapshots.as_slice(), sound.spares), ([Seq(100)].as_slice(), 1));

        disk.flip(&sound.segments[1].file, 5000, 1);
        let damaged = inspect(&disk).unwrap();

        let damage = damaged.segments[1].damage.clone().unwrap();
        assert_eq!(damage.offset, 5000);
        assert!(matches!(damage.fault, Fault::Byte { .. }));
        assert!(damaged.segments[1].last < sound.segments[1].last);
    }

    #[test]
    fn a_log_can_be_cut_behind_any_record() {
        let disk = log(150);
        for at in 0..=150 {
            let copy = disk.copy();

            let mark = truncate(&copy, Seq(at)).unwrap();
            assert_eq!(mark, Truncated { at: Seq(at), dropped_through: Seq(150) });

            let verified = verify_directory(&copy).unwrap();
            assert_eq!((verified.broken, verified.last), (None, Seq(at)));
            let (mut log, recovery) = open(&copy, 7);
            assert_eq!((recovery.end, recovery.marks.truncated, recovery.cut), (Seq(at), Some(mark), None));
            assert_eq!(check(&log.reader(), 1), at);
            append(&mut log, 2).unwrap();
            log.clear_marks().unwrap();
            drop(log);
            let (log, recovery) = open(&copy, 8);
            assert_eq!((check(&log.reader(), 1), recovery.marks.truncated), (at + 2, None));
        }
    }

    #[test]
    fn a_damaged_log_opens_after_it_was_cut_before_the_damage() {
        let disk = log(400);
        let second = inspect(&disk).unwrap().segments[1].clone();
        disk.flip(&second.file, second.used_bytes - 100, 3);
        disk.flip(&second.file, second.used_bytes - 99, 3);
        assert!(matches!(
            Log::open(disk.clone(), crate::Options { check_all: true, ..options(2) }),
            Err(JournalError::Damaged(_))
        ));
        let readable = inspect(&disk).unwrap().segments[1].last;

        assert!(matches!(truncate(&disk, second.last), Err(JournalError::PastEnd { end, .. }) if end == readable));
        truncate(&disk, readable).unwrap();

        let (log, _) = open(&disk, 3);
        assert_eq!(check(&log.reader(), 1), readable.0);
    }

    #[test]
    fn a_cut_that_is_cut_off_can_be_repeated() {
        let disk = log(150);
        for seed in 0..60 {
            let mut copy = disk.copy();
            copy.fail_syncs_after(Some(seed % 20));
            let _ = truncate(&copy, Seq(70));
            copy = copy.cut(&mut Random::new(seed));
            if let Ok((_, recovery)) = Log::open(copy.clone(), options(seed)) {
                assert_eq!(recovery.end, Seq(if recovery.marks.truncated.is_some() { 70 } else { 150 }));
            }

            truncate(&copy, Seq(70)).unwrap();

            assert_eq!(check(&open(&copy, 9).0.reader(), 1), 70);
        }
    }

    #[test]
    fn a_log_in_use_is_not_cut() {
        let disk = FaultDisk::new();
        let (_log, _) = open(&disk, 1);

        assert!(matches!(truncate(&disk, Seq(0)), Err(JournalError::Locked { .. })));
    }
}
