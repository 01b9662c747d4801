//! Backups: a copy of the log up to a durable record, taken while it runs, and the way back.
//!
//! ```text
//! backup  = segments, newest snapshots, and last of all `backup-complete`, without which it is none
//! restore = `mark-restoring`, the files, `mark-restored` with the epoch to begin at, and `mark-restoring` goes
//! ```
//! Invariant: half a backup is not taken for one, nor half a restore for a log.

use mindos_model::Seq;

use crate::chain::hex;
use crate::disk::{CHUNK_BYTES, Disk, DiskFile};
use crate::error::JournalError;
use crate::mark::{self, RESTORE_EPOCH_STEP, Restored};
use crate::reader::Reader;
use crate::recover::list;
use crate::segment::first_seq_in;
use crate::snapshot::{self, SnapshotReader};
use crate::verify::verify_directory;

const COMPLETE: &str = "backup-complete";
/// How often a backup starts again because retention took away what it was about to copy.
const ATTEMPTS_MAX: usize = 5;

/// What was backed up or restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupReport {
    /// First record.
    pub first: Seq,
    /// Last record.
    pub end: Seq,
    /// Link of the last record, as hexadecimal text.
    pub link: String,
    /// Epoch of the last batch.
    pub epoch: u32,
    /// Bytes copied.
    pub bytes: u64,
    /// How many segments.
    pub segments: usize,
    /// Records of which there is a snapshot, newest first.
    pub snapshots: Vec<Seq>,
}

impl<D: Disk> Reader<D> {
    /// Copies everything that is durable into the empty directory `to`, while the log goes on.
    ///
    /// # Errors
    /// [`JournalError::NotEmpty`], damage in what is copied, or what the system says; `to` then holds no backup.
    pub fn backup<T: Disk>(&self, to: &T) -> Result<BackupReport, JournalError> {
        refuse_used(to)?;
        let mut attempt = 1;
        loop {
            match self.try_backup(to)? {
                Some(report) => return Ok(report),
                None if attempt == ATTEMPTS_MAX => {
                    return Err(JournalError::MissingSegments {
                        directory: self.shared.disk.describe(""),
                        snapshot: self.first(),
                    });
                }
                None => {
                    attempt += 1;
                    for (name, _) in list(to)? {
                        to.unlink(&name).map_err(JournalError::io("unlink", to.describe(&name)))?;
                    }
                }
            }
        }
    }

    /// `None` if no snapshot fits the segments: retention went on between looking at both.
    fn try_backup<T: Disk>(&self, to: &T) -> Result<Option<BackupReport>, JournalError> {
        // Held from here on, so nothing of it is recycled. The end comes after: it lies in these segments or later ones.
        let segments = self.shared.segments().clone();
        let live = segments.last().expect("a log has a segment");
        let (end, end_link, end_offset) = {
            let extent = live.extent();
            (extent.end_seq, extent.end_link, extent.end_offset)
        };
        let first = segments[0].header.first_seq;
        let mut report = BackupReport {
            first: Seq(first),
            end: Seq(end),
            link: hex(&end_link),
            epoch: live.header.epoch,
            bytes: 0,
            segments: segments.len(),
            snapshots: Vec::new(),
        };
        for seq in self.snapshots()? {
            // One that was dropped since, or reaches beyond what is copied, or begins before it, is of no use.
            if seq.0 > end || seq.0 + 1 < first {
                continue;
            }
            let name = snapshot::file_name(seq);
            let mut snapshot = match SnapshotReader::open(&self.shared.disk, seq) {
                Err(JournalError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => continue,
                Err(JournalError::SnapshotDamaged { .. }) => continue,
                other => other?,
            };
            if let Err(JournalError::SnapshotDamaged { .. }) = snapshot.finish() {
                continue;
            }
            report.bytes += copy(snapshot.file(), u64::MAX, to, &name)?;
            report.snapshots.push(seq);
        }
        if first > 1 && report.snapshots.is_empty() {
            return Ok(None);
        }
        for segment in &segments {
            let is_live = std::sync::Arc::ptr_eq(segment, live);
            let known = if is_live { Some(end_offset) } else { known_end(segment) };
            report.bytes += copy(&segment.file, known.unwrap_or(u64::MAX), to, &segment.name)?;
        }
        if let Some(batch) = self.last_batch_epoch(end)? {
            report.epoch = batch;
        }
        to.sync_dir().map_err(JournalError::io("sync", to.describe("")))?;
        mark::write(to, COMPLETE, end, u64::from(report.epoch))?;
        Ok(Some(report))
    }

    fn last_batch_epoch(&self, end: u64) -> Result<Option<u32>, JournalError> {
        if end == 0 || end + 1 == self.first().0 {
            return Ok(None);
        }
        let mut cursor = self.cursor(Seq(end))?;
        Ok(cursor.next_batch()?.map(|batch| batch.epoch()))
    }
}

fn known_end<F: DiskFile>(segment: &crate::segment::Segment<F>) -> Option<u64> {
    let extent = segment.extent();
    extent.known.then_some(extent.end_offset)
}

/// Puts the backup in `from` into the empty directory `to`, after checking all of it.
///
/// The next start finds [`crate::Marks::restored`] and must begin an epoch beyond any that was given out since the backup.
///
/// # Errors
/// [`JournalError::NoBackup`], [`JournalError::NotEmpty`], [`JournalError::Damaged`], or what the system says.
pub fn restore<F: Disk, T: Disk>(from: &F, to: &T) -> Result<BackupReport, JournalError> {
    let no_backup = || JournalError::NoBackup { directory: from.describe("") };
    let (end, epoch) = mark::read_pair(from, COMPLETE)?.ok_or_else(no_backup)?;
    refuse_used(to)?;
    let lock = to.lock().map_err(JournalError::io("lock", to.describe("")))?;
    let verified = verify_directory(from)?;
    if let Some(damage) = verified.broken {
        return Err(damage.into());
    }
    if verified.last.0 != end && verified.records > 0 {
        return Err(no_backup());
    }
    mark::begin_restore(to)?;
    let mut report = BackupReport {
        first: verified.first,
        end: Seq(end),
        link: verified.link,
        epoch: u32::try_from(epoch).unwrap_or(u32::MAX),
        bytes: 0,
        segments: 0,
        snapshots: Vec::new(),
    };
    for (name, _) in list(from)? {
        let snapshot = snapshot::seq_in(&name);
        if let Some(seq) = snapshot {
            SnapshotReader::open(from, seq)?.finish()?;
            report.snapshots.insert(0, seq);
        }
        if snapshot.is_some() || first_seq_in(&name).is_some() {
            let file = from.open(&name).map_err(JournalError::io("open", from.describe(&name)))?;
            report.bytes += copy(&file, u64::MAX, to, &name)?;
            report.segments += usize::from(snapshot.is_none());
        }
    }
    to.sync_dir().map_err(JournalError::io("sync", to.describe("")))?;
    let epoch_min = report.epoch.saturating_add(RESTORE_EPOCH_STEP);
    mark::write_restored(to, Restored { end: report.end, epoch_min })?;
    mark::end_restore(to)?;
    drop(lock);
    Ok(report)
}

/// Fails if the directory holds anything.
fn refuse_used<D: Disk>(disk: &D) -> Result<(), JournalError> {
    match list(disk)?.into_iter().next() {
        None => Ok(()),
        Some((file, _)) => Err(JournalError::NotEmpty { directory: disk.describe(""), file }),
    }
}

/// Copies up to `limit` bytes of a file and makes them safe; the name is safe after `sync_dir`.
fn copy<D: Disk>(file: &impl DiskFile, limit: u64, to: &D, name: &str) -> Result<u64, JournalError> {
    let failed = || JournalError::io("copy to", to.describe(name));
    let copy = to.create(name).map_err(failed())?;
    let mut bytes = vec![0; CHUNK_BYTES];
    let mut offset = 0;
    loop {
        let want = usize::try_from((limit - offset).min(CHUNK_BYTES as u64)).expect("a chunk fits in memory");
        let read = file.read_at(&mut bytes[..want], offset).map_err(failed())?;
        if read == 0 {
            break;
        }
        copy.write_at(&bytes[..read], offset).map_err(failed())?;
        offset += read as u64;
    }
    copy.sync_data().map_err(failed())?;
    Ok(offset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::FaultDisk;
    use crate::testing::{append, check, fill_log, metadata, open, options};
    use crate::{Disk, Log};

    #[test]
    fn a_backup_of_a_running_log_is_restored_with_a_later_epoch() {
        let disk = FaultDisk::new();
        let (mut log, _) = open(&disk, 1);
        log.begin_epoch(3).unwrap();
        fill_log(&mut log, 5, 500);
        log.reader().write_snapshot(Seq(300), [0; 32], 3).unwrap().finish().unwrap();
        log.drop_prefix(Seq(250)).unwrap();
        let backup = FaultDisk::new();

        let report = log.reader().backup(&backup).unwrap();
        fill_log(&mut log, 6, 100);
        let target = FaultDisk::new();
        let restored = restore(&backup, &target).unwrap();

        assert_eq!((report.end, report.epoch, report.snapshots.as_slice()), (Seq(500), 3, [Seq(300)].as_slice()));
        assert_eq!((restored.end, &restored.link, restored.first), (report.end, &report.link, report.first));
        let (mut log, recovery) = open(&target, 9);
        assert_eq!(recovery.marks.restored, Some(Restored { end: Seq(500), epoch_min: 3 + RESTORE_EPOCH_STEP }));
        assert_eq!(check(&log.reader(), report.first.0), 500);
        log.begin_epoch(recovery.marks.restored.unwrap().epoch_min).unwrap();
        append(&mut log, 3).unwrap();
        log.clear_marks().unwrap();
        drop(log);
        let (log, recovery) = open(&target, 10);
        assert_eq!((recovery.marks.restored, recovery.end), (None, Seq(503)));
        assert_eq!(log.reader().read(Seq(503)).unwrap().metadata, metadata(503));
    }

    #[test]
    fn half_a_backup_is_none_and_half_a_restore_does_not_start() {
        let disk = FaultDisk::new();
        let (mut log, _) = open(&disk, 1);
        fill_log(&mut log, 5, 300);
        let backup = FaultDisk::new();
        log.reader().backup(&backup).unwrap();

        backup.rename(COMPLETE, "elsewhere").unwrap();
        assert!(matches!(restore(&backup, &FaultDisk::new()), Err(JournalError::NoBackup { .. })));

        backup.rename("elsewhere", COMPLETE).unwrap();
        let target = FaultDisk::new();
        target.set_quota(Some(20_000));
        restore(&backup, &target).unwrap_err();
        target.set_quota(None);
        assert!(matches!(Log::open(target, options(2)), Err(JournalError::UnfinishedRestore { .. })));
    }

    #[test]
    fn a_damaged_backup_is_refused_with_the_place() {
        let disk = FaultDisk::new();
        let (mut log, _) = open(&disk, 1);
        fill_log(&mut log, 5, 300);
        let backup = FaultDisk::new();
        log.reader().backup(&backup).unwrap();
        backup.flip(&format!("{:020}.segment", 1), 5000, 4);

        let Err(JournalError::Damaged(damage)) = restore(&backup, &FaultDisk::new()) else { panic!("it restored") };

        assert_eq!(damage.offset, 5000);
    }

    #[test]
    fn neither_goes_into_a_directory_in_use() {
        let disk = FaultDisk::new();
        let (log, _) = open(&disk, 1);

        assert!(matches!(log.reader().backup(&disk), Err(JournalError::NotEmpty { .. })));
        let backup = FaultDisk::new();
        log.reader().backup(&backup).unwrap();
        assert!(matches!(restore(&backup, &disk), Err(JournalError::NotEmpty { .. })));
    }
}
