//! Marks: small files in which a tool tells the next start what it did to the log.
//!
//! The start appends a record for each mark and then clears it. Invariant: a mark is on the disk before what it speaks of.

use mindos_model::Seq;

use crate::disk::{Disk, DiskFile, read_exact_at};
use crate::error::JournalError;
use crate::log::Log;
use crate::spare::UNFINISHED;

const RESTORED: &str = "mark-restored";
const TRUNCATED: &str = "mark-truncated";
const RESTORING: &str = "mark-restoring";
const TRUNCATING: &str = "mark-truncating";
/// A mark is a few numbers.
const MARK_BYTES_MAX: u64 = 4096;

/// How far a restore moves the epoch: more than the plane can have been started since the backup was taken, so that no
/// token given out then equals one given out later.
pub const RESTORE_EPOCH_STEP: u32 = 1 << 16;

/// What tools did to the log since the last start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// The log came out of a backup.
    pub restored: Option<Restored>,
    /// The log was cut by an operator.
    pub truncated: Option<Truncated>,
}

/// The log came out of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Last record of the backup.
    pub end: Seq,
    /// The next epoch must be at least this one.
    pub epoch_min: u32,
}

/// The log was cut by an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncated {
    /// Last record that was kept.
    pub at: Seq,
    /// Last record of which is known that it was there before.
    pub dropped_through: Seq,
}

impl Marks {
    /// Reads what marks there are.
    pub(crate) fn read<D: Disk>(disk: &D) -> Result<Marks, JournalError> {
        let pair = |name: &str| read_pair(disk, name);
        let restored = pair(RESTORED)?.map(|(end, epoch)| {
            let epoch_min = u32::try_from(epoch).unwrap_or(u32::MAX);
            Restored { end: Seq(end), epoch_min }
        });
        let truncated = pair(TRUNCATED)?.map(|(at, through)| Truncated { at: Seq(at), dropped_through: Seq(through) });
        Ok(Marks { restored, truncated })
    }
}

impl<D: Disk> Log<D> {
    /// Forgets the marks: call it once what they say is in the log.
    ///
    /// # Errors
    /// What the system says; the marks may then be there again at the next start.
    pub fn clear_marks(&mut self) -> Result<(), JournalError> {
        for name in [RESTORED, TRUNCATED] {
            remove(&self.shared.disk, name)?;
        }
        Ok(())
    }
}

/// Says that the log came out of a backup.
pub(crate) fn write_restored<D: Disk>(disk: &D, mark: Restored) -> Result<(), JournalError> {
    write(disk, RESTORED, mark.end.0, u64::from(mark.epoch_min))
}

/// Says that the log is being cut; if it was begun before, returns what was said then, for as much as may be gone by now.
pub(crate) fn begin_truncate<D: Disk>(disk: &D, mark: Truncated) -> Result<Truncated, JournalError> {
    let begun = read_pair(disk, TRUNCATING)?.map_or(0, |(_, through)| through);
    let mark = Truncated { dropped_through: mark.dropped_through.max(Seq(begun)), ..mark };
    write(disk, TRUNCATING, mark.at.0, mark.dropped_through.0)?;
    Ok(mark)
}

/// Says that the log was cut.
pub(crate) fn end_truncate<D: Disk>(disk: &D) -> Result<(), JournalError> {
    let named = disk.rename(TRUNCATING, TRUNCATED).and_then(|()| disk.sync_dir());
    named.map_err(JournalError::io("name", disk.describe(TRUNCATED)))
}

/// Says that a restore is under way.
pub(crate) fn begin_restore<D: Disk>(disk: &D) -> Result<(), JournalError> {
    write(disk, RESTORING, 0, 0)
}

/// Says that the restore is done.
pub(crate) fn end_restore<D: Disk>(disk: &D) -> Result<(), JournalError> {
    remove(disk, RESTORING)
}

/// Fails if a restore into this directory, or a cut in it, ended half way.
pub(crate) fn refuse_unfinished<D: Disk>(disk: &D, files: &[(String, u64)]) -> Result<(), JournalError> {
    let is_there = |mark: &str| files.iter().any(|(name, _)| name == mark);
    if is_there(RESTORING) {
        return Err(JournalError::UnfinishedRestore { directory: disk.describe("") });
    }
    if is_there(TRUNCATING) {
        return Err(JournalError::UnfinishedTruncate { directory: disk.describe("") });
    }
    Ok(())
}

pub(crate) fn write<D: Disk>(disk: &D, name: &str, first: u64, second: u64) -> Result<(), JournalError> {
    let failed = || JournalError::io("write", disk.describe(name));
    let unfinished = format!("{name}{UNFINISHED}");
    if disk.list().map_err(failed())?.iter().any(|(other, _)| *other == unfinished) {
        disk.unlink(&unfinished).map_err(failed())?;
    }
    let file = disk.create(&unfinished).map_err(failed())?;
    let text = format!("{first} {second}\n");
    file.write_at(text.as_bytes(), 0).map_err(failed())?;
    file.sync_data().map_err(failed())?;
    disk.rename(&unfinished, name).map_err(failed())?;
    disk.sync_dir().map_err(failed())
}

fn remove<D: Disk>(disk: &D, name: &str) -> Result<(), JournalError> {
    match disk.unlink(name) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(JournalError::io("unlink", disk.describe(name)))?,
    }
    disk.sync_dir().map_err(JournalError::io("sync", disk.describe("")))
}

pub(crate) fn read_pair<D: Disk>(disk: &D, name: &str) -> Result<Option<(u64, u64)>, JournalError> {
    let failed = || JournalError::io("read", disk.describe(name));
    let file = match disk.open(name) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(failed())?,
    };
    let len = file.len().map_err(failed())?.min(MARK_BYTES_MAX);
    let mut bytes = vec![0; usize::try_from(len).expect("4 KiB fit in memory")];
    read_exact_at(&file, &mut bytes, 0).map_err(failed())?;
    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
    let numbers = text.split_once(' ').and_then(|(first, second)| Some((first.parse().ok()?, second.parse().ok()?)));
    numbers.map(Some).ok_or_else(|| JournalError::BadMark { file: disk.describe(name), text })
}
