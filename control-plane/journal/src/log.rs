//! The log: one writer, the durable part of it shared with readers.
//!
//! ```text
//!   append ----> write ----> sync ----> published: readers see it, the caller may answer
//!                  |           |
//!                  +-----------+--> poisoned: nothing more is written, the process ends
//! ```
//! Invariant: a frame is written only when all before it are synced, so what a crash tears is one frame at the end.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use mindos_model::Seq;
use sha2::{Digest as _, Sha256};

use crate::chain::Link;
use crate::disk::{BLOCK_BYTES, Disk, DiskFile};
use crate::error::JournalError;
use crate::frame::Frame;
use crate::reader::Reader;
use crate::segment::{self, Extent, FRAMES_AT, Place, Segment, SegmentHeader};
use crate::spare::{Preparation, Spares};

/// How a log is kept.
#[derive(Clone, Debug)]
pub struct Options {
    /// Size of a segment's file: 64 MiB unless set. At least 8 KiB. May differ from one start to the next.
    pub segment_bytes: u64,
    /// How many dropped segments are kept for another use: 2 unless set.
    pub spares_max: usize,
    /// Where spare segments are made.
    pub preparation: Preparation,
    /// What all files together should stay below, in bytes. Nothing stops at it; see [`Usage`].
    pub quota_bytes: u64,
    /// Whether a start reads every segment, or only the last one, and the rest when somebody asks for it.
    pub check_all: bool,
    /// Fresh random bytes for every start. Nobody who sends payloads may know them.
    pub entropy: [u8; 16],
}

impl Options {
    /// What a server uses.
    #[must_use]
    pub fn new(entropy: [u8; 16]) -> Options {
        Options {
            segment_bytes: 64 << 20,
            spares_max: 2,
            preparation: Preparation::Thread,
            quota_bytes: u64::MAX,
            check_all: false,
            entropy,
        }
    }
}

/// How much room the journal takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// All files of the journal: segments, spares, snapshots.
    pub used_bytes: u64,
    /// What was allowed.
    pub quota_bytes: u64,
}

impl Usage {
    /// Whether at least 90 % of the quota is used: publishing is refused, everything else goes on.
    #[must_use]
    pub fn is_tight(&self) -> bool {
        u128::from(self.used_bytes) * 10 >= u128::from(self.quota_bytes) * 9
    }
}

/// What the writer and its readers share.
#[derive(Debug)]
pub(crate) struct Shared<D: Disk> {
    pub(crate) disk: D,
    pub(crate) log_id: [u8; 16],
    pub(crate) quota_bytes: u64,
    segments: RwLock<Vec<Arc<Segment<D::File>>>>,
    durable: AtomicU64,
    used_bytes: AtomicU64,
    /// The live segment is to be sealed while it holds a record up to this one.
    seal_through: AtomicU64,
}

impl<D: Disk> Shared<D> {
    pub(crate) fn new(
        disk: D,
        log_id: [u8; 16],
        quota_bytes: u64,
        segments: Vec<Arc<Segment<D::File>>>,
        durable: u64,
    ) -> Arc<Shared<D>> {
        let segments = RwLock::new(segments);
        let (durable, used_bytes) = (AtomicU64::new(durable), AtomicU64::new(0));
        let seal_through = AtomicU64::new(0);
        Arc::new(Shared { disk, log_id, quota_bytes, segments, durable, used_bytes, seal_through })
    }

    /// Asks the writer to begin another segment, so that no record up to `through` stands in the one it writes.
    pub(crate) fn want_seal(&self, through: u64) {
        self.seal_through.fetch_max(through, Ordering::Relaxed);
    }

    pub(crate) fn segments(&self) -> RwLockReadGuard<'_, Vec<Arc<Segment<D::File>>>> {
        self.segments.read().expect("no holder of the lock panics")
    }

    pub(crate) fn segments_mut(&self) -> RwLockWriteGuard<'_, Vec<Arc<Segment<D::File>>>> {
        self.segments.write().expect("no holder of the lock panics")
    }

    pub(crate) fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    pub(crate) fn usage(&self) -> Usage {
        Usage { used_bytes: self.used_bytes.load(Ordering::Relaxed), quota_bytes: self.quota_bytes }
    }

    /// Counts again what the files take.
    pub(crate) fn measure(&self) -> Result<(), JournalError> {
        let files = self.disk.list().map_err(JournalError::io("list", self.disk.describe("")))?;
        self.used_bytes.store(files.iter().map(|(_, bytes)| bytes).sum(), Ordering::Relaxed);
        Ok(())
    }
}

/// The one writer of a log. Dropping it gives the directory back; what was appended is on the disk already.
#[derive(Debug)]
pub struct Log<D: Disk> {
    pub(crate) shared: Arc<Shared<D>>,
    pub(crate) spares: Spares<D>,
    live: Arc<Segment<D::File>>,
    end: u64,
    link: Link,
    offset: u64,
    epoch: u32,
    segment_bytes: u64,
    entropy: [u8; 16],
    poison: Option<String>,
    /// Last, so that nothing is touched once it is given back.
    _lock: D::Lock,
}

impl<D: Disk> Log<D> {
    pub(crate) fn from_parts(
        shared: Arc<Shared<D>>,
        spares: Spares<D>,
        live: Arc<Segment<D::File>>,
        epoch: u32,
        options: &Options,
        lock: D::Lock,
    ) -> Log<D> {
        let (end, link, offset) = {
            let extent = live.extent();
            (extent.end_seq, extent.end_link, extent.end_offset)
        };
        let Options { segment_bytes, entropy, .. } = *options;
        Log { shared, spares, live, end, link, offset, epoch, segment_bytes, entropy, poison: None, _lock: lock }
    }

    /// A handle that reads what is durable, from any thread.
    #[must_use]
    pub fn reader(&self) -> Reader<D> {
        Reader::new(Arc::clone(&self.shared))
    }

    /// The last record; zero if there is none.
    #[must_use]
    pub fn end(&self) -> Seq {
        Seq(self.end)
    }

    /// Link of the last record.
    #[must_use]
    pub fn end_link(&self) -> Link {
        self.link
    }

    /// Epoch under which is written, or that of the last batch.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// From here on batches carry `epoch`.
    ///
    /// # Errors
    /// [`JournalError::StaleEpoch`] if the log has seen a later one.
    pub fn begin_epoch(&mut self, epoch: u32) -> Result<(), JournalError> {
        if epoch < self.epoch {
            return Err(JournalError::StaleEpoch { presented: epoch, current: self.epoch });
        }
        self.epoch = epoch;
        Ok(())
    }

    /// Appends a batch to a log that ends at `expected`, waits until it is on stable storage, and returns the new end.
    ///
    /// # Errors
    /// [`JournalError::UnexpectedEnd`], [`JournalError::EmptyBatch`], [`JournalError::BatchTooLarge`]: nothing happened.
    /// [`JournalError::NoSpace`]: nothing happened, the same batch may be tried again.
    /// Anything else: see [`JournalError::is_fatal`]; every later call fails too.
    pub fn append(&mut self, expected: Seq, frame: &mut Frame) -> Result<Seq, JournalError> {
        self.check_sound()?;
        if expected.0 != self.end {
            return Err(JournalError::UnexpectedEnd { expected, end: Seq(self.end) });
        }
        if frame.is_empty() {
            return Err(JournalError::EmptyBatch);
        }
        let size = frame.size();
        if self.offset + size as u64 > self.live.file_bytes || self.is_seal_wanted() {
            let bytes_max = usize::try_from(self.segment_bytes - FRAMES_AT).unwrap_or(usize::MAX);
            let bytes_max = bytes_max.min(crate::FRAME_BYTES_MAX);
            if size > bytes_max {
                return Err(JournalError::BatchTooLarge { bytes: size, bytes_max });
            }
            self.rotate()?;
        }
        let first = self.end + 1;
        let (_, link) = frame.seal(self.live.header.nonce, self.epoch, first, &self.link);
        let bytes = frame.padded(padding(self.offset + size as u64, self.live.file_bytes));
        if let Err(source) = self.live.file.write_at(bytes, self.offset) {
            return Err(self.write_failed(source));
        }
        if let Err(source) = self.live.file.sync_data() {
            return Err(self.poisoned_by("sync", source));
        }
        self.publish(frame, first, link);
        Ok(Seq(self.end))
    }

    fn publish(&mut self, frame: &Frame, first: u64, link: Link) {
        let offset = self.offset;
        self.end += u64::from(frame.count());
        self.link = link;
        self.offset += frame.size() as u64;
        let mut extent = self.live.extent_mut();
        extent.note_frame(first, offset);
        for (entry, place) in frame.places() {
            let (seq, offset) = (first + u64::from(*entry), offset + u64::from(*place));
            extent.places.push(Place { seq, offset, left: frame.count() - entry });
        }
        extent.end_seq = self.end;
        extent.end_link = self.link;
        extent.end_offset = self.offset;
        drop(extent);
        self.spares.note_live(self.offset);
        self.shared.durable.store(self.end, Ordering::Release);
    }

    /// Whether a payload is to be taken out of the live segment.
    fn is_seal_wanted(&self) -> bool {
        let first = self.live.header.first_seq;
        self.shared.seal_through.load(Ordering::Relaxed) >= first && first <= self.end
    }

    /// Begins another segment if a payload is to be taken out of the live one; call it while nothing is appended.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub fn seal_if_wanted(&mut self) -> Result<(), JournalError> {
        self.check_sound()?;
        if self.is_seal_wanted() { self.rotate() } else { Ok(()) }
    }

    /// Begins the next segment.
    fn rotate(&mut self) -> Result<(), JournalError> {
        let header = SegmentHeader {
            log_id: self.shared.log_id,
            nonce: nonce(&self.entropy, self.live.header.number + 1),
            number: self.live.header.number + 1,
            first_seq: self.end + 1,
            epoch: self.epoch,
            previous: self.link,
            format: segment::FORMAT,
        };
        let spare = self.spares.take().map_err(|source| self.write_failed(source))?;
        let segment = match begin_segment(&self.shared.disk, &spare, header) {
            Ok(segment) => segment,
            Err(source) => {
                self.spares.put_back(&spare);
                return Err(self.write_failed(source));
            }
        };
        std::mem::replace(&mut self.live, Arc::clone(&segment)).file.appends_are_over();
        self.offset = FRAMES_AT;
        let mut segments = self.shared.segments_mut();
        segments.push(segment);
        // A follower that is a little late reads the one that was just filled.
        let long_filled = segments.iter().rev().nth(2).map(|segment| segment.name.clone());
        drop(segments);
        self.spares.want();
        long_filled.into_iter().for_each(|name| self.spares.let_go(name));
        self.shared.measure()
    }

    /// Fails if the log may not be written any more.
    pub(crate) fn check_sound(&self) -> Result<(), JournalError> {
        match &self.poison {
            None => Ok(()),
            Some(reason) => Err(JournalError::Poisoned { reason: reason.clone() }),
        }
    }

    /// A full disk is a state of the world; any other failure to write ends this log.
    fn write_failed(&mut self, source: io::Error) -> JournalError {
        if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            return JournalError::NoSpace { directory: self.shared.disk.describe(""), source };
        }
        self.poisoned_by("write", source)
    }

    pub(crate) fn poisoned_by(&mut self, action: &'static str, source: io::Error) -> JournalError {
        let file = self.shared.disk.describe(&self.live.name);
        self.poison = Some(format!("failed to {action} `{file}`: {source}"));
        JournalError::Io { action, file, source }
    }

    /// How much room the journal takes.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.shared.usage()
    }

    /// Whether the next segment lies ready, so that a full disk does not stop the log yet.
    #[must_use]
    pub fn has_spare(&self) -> bool {
        self.spares.is_ready()
    }
}

/// How many zeroes go behind a frame that ends at `end`, so that the system need not read the last block of a segment's file
/// to write a part of it: it is not in memory yet. The next frame begins at `end` and takes their place.
fn padding(end: u64, file_bytes: u64) -> usize {
    let block_end = end.next_multiple_of(BLOCK_BYTES).min(file_bytes);
    usize::try_from(block_end.saturating_sub(end)).expect("below a block")
}

/// The nonce of segment `number` as begun by the start that `entropy` is of.
pub(crate) fn nonce(entropy: &[u8; 16], number: u64) -> u64 {
    let digest = Sha256::new().chain_update(entropy).chain_update(number.to_le_bytes()).finalize();
    u64::from_le_bytes(digest[..8].try_into().expect("eight bytes"))
}

/// Makes a segment of a spare: header first, then its name, each on the disk before what rests on it.
pub(crate) fn begin_segment<D: Disk>(
    disk: &D,
    spare: &str,
    header: SegmentHeader,
) -> io::Result<Arc<Segment<D::File>>> {
    let file = disk.open_for_appends(spare)?;
    file.write_at(&header.encode(), 0)?;
    file.sync_data()?;
    let name = segment::name_of(header.first_seq);
    disk.rename(spare, &name)?;
    disk.sync_dir()?;
    let file_bytes = file.len()?;
    let extent = Extent {
        places: Vec::new(),
        end_seq: header.first_seq - 1,
        end_link: header.previous,
        end_offset: FRAMES_AT,
        known: true,
    };
    Ok(Segment::new(header, name, file, file_bytes, extent))
}
