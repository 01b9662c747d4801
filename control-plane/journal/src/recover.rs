//! Opening a log: what the last run left is put in order, or refused with the place that is wrong.
//!
//! A torn batch at the end never was acknowledged and is cut. Anything else that is not as written stops the start: a hole
//! with valid batches behind it, a missing segment, a foreign one. One exception: where a single byte of the last batch is
//! wrong and the hash chain proves which, it is put right and reported, since cutting would lose what was acknowledged.

use std::io;
use std::sync::Arc;

use mindos_model::Seq;
use sha2::{Digest as _, Sha256};

use crate::chain::{Link, genesis};
use crate::disk::{Disk, DiskFile};
use crate::error::{Damage, Fault, JournalError};
use crate::frame;
use crate::log::{Log, Options, Shared, begin_segment, nonce};
use crate::mark::{self, Marks};
use crate::scan::{Tail, walk};
use crate::segment::{Extent, FRAMES_AT, Segment, SegmentHeader, first_seq_in};
use crate::snapshot;
use crate::spare::{Spares, UNFINISHED};

/// What a start found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// Names this log among all others; random, given at its creation. Also a seed that nobody outside knows.
    pub log_id: [u8; 16],
    /// First record that is kept; one past `end` if there is none.
    pub first: Seq,
    /// Last record; zero if there is none.
    pub end: Seq,
    /// Link of the last record.
    pub end_link: Link,
    /// Epoch of the last batch; zero in an empty log.
    pub epoch: u32,
    /// A torn batch that was cut off.
    pub cut: Option<Cut>,
    /// Bytes of the last batch that were put right.
    pub repaired: Vec<Damage>,
    /// What tools did to the log since the last start; see [`Marks`].
    pub marks: Marks,
}

/// A torn batch that was cut off at the end of the log. It never was acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The segment's file.
    pub file: String,
    /// Where the batch began.
    pub offset: u64,
    /// Its length as its header had it; zero if that was torn too.
    pub bytes: u64,
}

/// How many single bytes of the last batch are put right before it counts as damaged.
const REPAIRS_MAX: usize = 1;

impl<D: Disk> Log<D> {
    /// Opens the log in `disk`, or begins one there if the directory is empty.
    ///
    /// # Errors
    /// [`JournalError::Locked`] if another process has it, [`JournalError::Damaged`] with the place that is wrong.
    pub fn open(disk: D, options: Options) -> Result<(Log<D>, Recovery), JournalError> {
        let directory = disk.describe("");
        let lock = disk.lock().map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => JournalError::Locked { directory: directory.clone() },
            _ => JournalError::Io { action: "lock", file: directory.clone(), source },
        })?;
        let files = list(&disk)?;
        mark::refuse_unfinished(&disk, &files)?;
        for (name, _) in files.iter().filter(|(name, _)| name.ends_with(UNFINISHED)) {
            disk.unlink(name).map_err(JournalError::io("unlink", disk.describe(name)))?;
        }
        let spares = Spares::open(&disk, &files, options.segment_bytes, options.spares_max, options.preparation)
            .map_err(JournalError::io("prepare spare segments in", directory.as_str()))?;
        let mut segments = load(&disk, &files)?;
        if segments.is_empty() {
            refuse_lost_log(&disk, &files)?;
            segments.push(first_segment(&disk, &spares, &options)?);
        }
        let live = Arc::clone(segments.last().expect("there is at least one"));
        if options.check_all {
            for pair in segments.windows(2) {
                let (extent, _, _) = walk(&pair[0], Some(pair[1].header.first_seq), |name| disk.describe(name))?;
                check_join(&disk, &extent.end_link, &pair[1])?;
                *pair[0].extent_mut() = extent;
            }
        }
        let (epoch, cut, repaired) = settle_tail(&disk, &live)?;
        let (first, log_id) = (segments[0].header.first_seq, live.header.log_id);
        let end = live.extent().end_seq;
        let shared = Shared::new(disk, log_id, options.quota_bytes, segments, end);
        shared.measure()?;
        let marks = Marks::read(&shared.disk)?;
        let log = Log::from_parts(shared, spares, live, epoch, &options, lock);
        let recovery = Recovery {
            log_id,
            first: Seq(first),
            end: log.end(),
            end_link: log.end_link(),
            epoch,
            cut,
            repaired,
            marks,
        };
        Ok((log, recovery))
    }
}

pub(crate) fn list<D: Disk>(disk: &D) -> Result<Vec<(String, u64)>, JournalError> {
    disk.list().map_err(JournalError::io("list", disk.describe("")))
}

/// Reads the headers of all segments and checks that they are those of one log, none missing between them.
pub(crate) fn load<D: Disk>(disk: &D, files: &[(String, u64)]) -> Result<Vec<Arc<Segment<D::File>>>, JournalError> {
    let mut segments: Vec<Arc<Segment<D::File>>> = Vec::new();
    let last = files.iter().rfind(|(name, _)| first_seq_in(name).is_some());
    for (name, file_bytes) in files {
        let Some(named) = first_seq_in(name) else { continue };
        // The log goes on in the last one.
        let is_last = last.is_some_and(|(last, _)| last == name);
        let file = if is_last { disk.open_for_appends(name) } else { disk.open(name) };
        let file = file.map_err(JournalError::io("open", disk.describe(name)))?;
        let read = SegmentHeader::read(&file).map_err(JournalError::io("read", disk.describe(name)))?;
        let damage = |offset, fault| Damage { file: disk.describe(name), offset, seq: Seq(named), fault };
        let header = read.map_err(|(offset, fault)| damage(offset, fault))?;
        let fault = match segments.last().map(|segment| &segment.header) {
            _ if header.first_seq != named => Some(Fault::WrongName { name: Seq(named), first: Seq(header.first_seq) }),
            Some(before) if before.log_id != header.log_id => Some(Fault::ForeignLog),
            Some(before) if before.number + 1 != header.number => {
                Some(Fault::MissingSegment { expected: before.number + 1, found: header.number })
            }
            Some(before) if before.epoch > header.epoch => {
                Some(Fault::EpochBack { before: before.epoch, found: header.epoch })
            }
            None if named == 1 && header.previous != genesis(&header.log_id) => {
                Some(Fault::PreviousLink { expected: genesis(&header.log_id), found: header.previous })
            }
            Some(_) | None => None,
        };
        if let Some(fault) = fault {
            return Err(damage(0, fault).into());
        }
        segments.push(Segment::new(header, name.clone(), file, *file_bytes, Extent::default()));
    }
    Ok(segments)
}

/// Checks that a segment starts with the link that the one before it ends with.
pub(crate) fn check_join<D: Disk>(disk: &D, end: &Link, next: &Segment<D::File>) -> Result<(), JournalError> {
    if *end == next.header.previous {
        return Ok(());
    }
    let fault = Fault::PreviousLink { expected: *end, found: next.header.previous };
    Err(Damage { file: disk.describe(&next.name), offset: 0, seq: Seq(next.header.first_seq), fault }.into())
}

/// An empty directory is a new log; one that holds a snapshot has lost its log.
fn refuse_lost_log<D: Disk>(disk: &D, files: &[(String, u64)]) -> Result<(), JournalError> {
    match snapshot::newest_in(files) {
        None => Ok(()),
        Some(snapshot) => Err(JournalError::MissingSegments { directory: disk.describe(""), snapshot }),
    }
}

/// The id of a log, from which nobody can tell the nonces of its segments.
fn name_of_log(entropy: &[u8; 16]) -> [u8; 16] {
    let digest = Sha256::new().chain_update(b"log id").chain_update(entropy).finalize();
    digest[..16].try_into().expect("16 bytes")
}

fn first_segment<D: Disk>(
    disk: &D,
    spares: &Spares<D>,
    options: &Options,
) -> Result<Arc<Segment<D::File>>, JournalError> {
    let log_id = name_of_log(&options.entropy);
    let header = SegmentHeader {
        log_id,
        nonce: nonce(&options.entropy, 1),
        number: 1,
        first_seq: 1,
        epoch: 0,
        previous: genesis(&log_id),
        format: crate::segment::FORMAT,
    };
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::StorageFull => JournalError::NoSpace { directory: disk.describe(""), source },
        _ => JournalError::Io { action: "begin a log in", file: disk.describe(""), source },
    };
    let spare = spares.take().map_err(failed)?;
    let segment = begin_segment(disk, &spare, header).map_err(failed)?;
    spares.want();
    Ok(segment)
}

/// Blanks a header's room behind the end, so that the batch that comes in its place cannot complete by chance what lies there.
fn blank_header<F: DiskFile>(live: &Segment<F>, offset: u64) -> io::Result<()> {
    let room = usize::try_from(live.file_bytes - offset).unwrap_or(usize::MAX);
    let mut header = [0; frame::HEADER_BYTES];
    let header = &mut header[..frame::HEADER_BYTES.min(room)];
    live.file.read_at(header, offset)?;
    if header.iter().all(|byte| *byte == 0) {
        return Ok(());
    }
    header.fill(0);
    live.file.write_at(header, offset)
}

/// Finds the end of the last segment, puts a single wrong byte right, and makes sure that what is kept is on the disk.
fn settle_tail<D: Disk>(disk: &D, live: &Segment<D::File>) -> Result<(u32, Option<Cut>, Vec<Damage>), JournalError> {
    let mut repaired = Vec::new();
    let describe = |name: &str| disk.describe(name);
    let file = disk.describe(&live.name);
    let (extent, epoch, cut) = loop {
        let (extent, position, tail) = walk(live, None, describe)?;
        match tail {
            Tail::OneByte(damage) if repaired.len() < REPAIRS_MAX => {
                if let Fault::Byte { written, .. } = damage.fault {
                    live.file.write_at(&[written], damage.offset).map_err(JournalError::io("write", &file))?;
                }
                repaired.push(damage);
            }
            Tail::OneByte(damage) => return Err(damage.into()),
            Tail::Torn(bytes) => {
                let cut = Cut { file: file.clone(), offset: position.offset, bytes };
                blank_header(live, position.offset).map_err(JournalError::io("write", &file))?;
                break (extent, position.epoch, Some(cut));
            }
            Tail::Clean => {
                // The beginning of a header may be lost while the rest of its batch is there.
                blank_header(live, position.offset).map_err(JournalError::io("write", &file))?;
                break (extent, position.epoch, None);
            }
        }
    };
    // What we see may be the work of a process that died before its sync: batch, names of segments and snapshots.
    live.file.sync_data().map_err(JournalError::io("sync", &file))?;
    disk.sync_dir().map_err(JournalError::io("sync", disk.describe("")))?;
    debug_assert!(extent.end_offset >= FRAMES_AT);
    *live.extent_mut() = extent;
    Ok((epoch, cut, repaired))
}
