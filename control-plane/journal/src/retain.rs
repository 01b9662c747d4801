//! Retention: the oldest segments go, whole ones only.
//!
//! They go oldest first, each one's going on the disk before the next, so that what is left after a crash is a log without
//! its beginning and never one with a hole. The hash link before what is kept stays in the next segment's header.

use std::sync::Arc;

use mindos_model::Seq;

use crate::chain::Link;
use crate::disk::Disk;
use crate::error::JournalError;
use crate::log::Log;

/// What a call of [`Log::drop_prefix`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DroppedPrefix {
    /// First record that is kept.
    pub first: Seq,
    /// Link of the last record that is gone.
    pub link: Link,
    /// Segments that became spares.
    pub recycled: usize,
    /// Segments whose files are gone.
    pub unlinked: usize,
}

impl<D: Disk> Log<D> {
    /// Where [`Log::drop_prefix`] with this `through` would cut: the first record kept, and the link before it.
    /// For the record that says so, appended before the cut.
    ///
    /// # Errors
    /// [`JournalError::NoSnapshot`] if no snapshot stands for what would go.
    pub fn plan_drop(&self, through: Seq) -> Result<(Seq, Link), JournalError> {
        let snapshots = self.reader().snapshots()?;
        // A replay must be able to start from the older snapshot, should the newer one turn out damaged.
        let covered = snapshots.last().copied().ok_or(JournalError::NoSnapshot { through })?;
        let through = through.min(covered).0;
        let segments = self.shared.segments();
        let kept = segments.iter().rev().find(|segment| segment.header.first_seq <= through + 1);
        let header = &kept.or(segments.first()).expect("a log has a segment").header;
        Ok((Seq(header.first_seq), header.previous))
    }

    /// Drops all segments that hold no record after `through`, nor after the older snapshot. The last one always stays.
    ///
    /// # Errors
    /// [`JournalError::NoSnapshot`] if no snapshot stands for what would go, or what the system says.
    pub fn drop_prefix(&mut self, through: Seq) -> Result<DroppedPrefix, JournalError> {
        self.check_sound()?;
        let (first, link) = self.plan_drop(through)?;
        let mut dropped = DroppedPrefix { first, link, recycled: 0, unlinked: 0 };
        loop {
            let oldest = {
                let mut segments = self.shared.segments_mut();
                if segments[0].header.first_seq >= first.0 {
                    break;
                }
                segments.remove(0)
            };
            let (name, file_bytes) = (oldest.name.clone(), oldest.file_bytes);
            // Somebody who still reads it must go on finding what is in it.
            let unread = Arc::try_unwrap(oldest).is_ok();
            let spare = if unread { self.spares.name_for_recycled(file_bytes) } else { None };
            let disk = &self.shared.disk;
            let gone = match &spare {
                Some(spare) => disk.rename(&name, spare),
                None => disk.unlink(&name),
            };
            if let Err(source) = gone.and_then(|()| disk.sync_dir()) {
                return Err(self.poisoned_by("drop a segment before", source));
            }
            match spare {
                Some(spare) => {
                    self.spares.put_back(&spare);
                    dropped.recycled += 1;
                }
                None => dropped.unlinked += 1,
            }
        }
        self.shared.measure()?;
        Ok(dropped)
    }
}
