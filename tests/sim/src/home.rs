//! Where the journal lives in a run: in memory, or the real embedded log on a disk that does its worst.
//!
//! Invariant: `durable` is what a start finds, batch by batch; what was acknowledged never leaves it but with a dropped
//! prefix.

use std::path::Path;
use std::sync::Arc;

use mindos_core::record::{Batch, Entry};
use mindos_core::snapshot::Item;
use mindos_journal::fault::{FaultDisk, Random};
use mindos_journal::{Disk, DiskFile, EmbeddedError, EmbeddedJournal, JournalError, Options, Preparation};
use mindos_model::Seq;

use crate::chance::Chance;
use crate::faults::{Counts, Fault};
use crate::ledger::Broken;

/// What became of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    Durable,
    /// The disk is full: to be tried again.
    Full,
    /// The sync failed: the process ends, and nobody knows what is on the disk.
    Failed,
}

#[derive(Debug)]
struct OnDisk {
    disk: FaultDisk,
    journal: Option<EmbeddedJournal<FaultDisk>>,
    starts: u64,
}

/// The journal of a run.
#[derive(Debug)]
pub struct Home {
    on_disk: Option<Box<OnDisk>>,
    /// What is durable, after what was dropped.
    pub durable: Vec<Arc<Batch>>,
    pub dropped: Seq,
    pub snapshot: Option<(Seq, Arc<Vec<Item>>)>,
    /// The disk has no room.
    pub full: bool,
    /// The next sync fails.
    pub sync_fails: bool,
}

impl Home {
    /// An empty journal.
    ///
    /// # Errors
    /// When the log cannot begin on an empty disk.
    pub fn new(on_disk: bool, seed: u64) -> Result<Home, Broken> {
        let mut home = Home {
            on_disk: None,
            durable: Vec::new(),
            dropped: Seq::ZERO,
            snapshot: None,
            full: false,
            sync_fails: false,
        };
        if on_disk {
            let mut real = OnDisk { disk: FaultDisk::new(), journal: None, starts: seed };
            real.open()?;
            home.on_disk = Some(Box::new(real));
        }
        Ok(home)
    }

    /// Whether the real log is below.
    #[must_use]
    pub fn is_real(&self) -> bool {
        self.on_disk.is_some()
    }

    /// The last durable record.
    #[must_use]
    pub fn end(&self) -> Seq {
        self.durable.last().map_or(self.dropped, |batch| batch.last())
    }

    /// Writes and syncs a batch.
    ///
    /// # Errors
    /// When the log refuses what it must take.
    pub fn append(&mut self, batch: &Arc<Batch>) -> Result<Appended, Broken> {
        if let Some(real) = &mut self.on_disk {
            real.disk.set_quota(self.full.then_some(0));
            if self.sync_fails {
                real.disk.fail_syncs_after(Some(0));
            }
            let end = self.durable.last().map_or(self.dropped, |batch| batch.last());
            match real.append(end, batch) {
                Ok(()) => {}
                Err(error) if error.is_no_space() => return Ok(Appended::Full),
                Err(EmbeddedError::Log(error)) if self.sync_fails && error.is_fatal() => return Ok(Appended::Failed),
                Err(error) => return Err(format!("journal_takes_batches: {error}")),
            }
        } else if self.full {
            return Ok(Appended::Full);
        } else if self.sync_fails {
            return Ok(Appended::Failed);
        }
        self.durable.push(batch.clone());
        Ok(Appended::Durable)
    }

    /// The process dies with these batches on their way. Returns those that a start finds all the same.
    ///
    /// # Errors
    /// When something acknowledged is gone, or something is there that nobody wrote.
    pub fn crash(
        &mut self,
        in_flight: &[Arc<Batch>],
        chance: &mut Chance,
        counts: &mut Counts,
    ) -> Result<Vec<Arc<Batch>>, Broken> {
        let kept = match &mut self.on_disk {
            None => {
                let kept = chance.below(in_flight.len() as u64 + 1) as usize;
                in_flight[..kept].to_vec()
            }
            Some(real) => {
                let end = self.durable.last().map_or(self.dropped, |batch| batch.last());
                real.crash(end, in_flight, self.sync_fails, chance, counts)?;
                let found = real.read()?;
                let before: usize = self.durable.iter().map(|batch| batch.entries.len()).sum();
                let acknowledged = self.durable.iter().flat_map(|batch| &batch.entries);
                if found.len() < before || !found.iter().zip(acknowledged).all(|(found, known)| found == known) {
                    return Err(format!(
                        "acked_event_is_kept: {before} records were durable, {} are found",
                        found.len()
                    ));
                }
                let more = &found[before..];
                let mut kept = Vec::new();
                let mut at = 0;
                for batch in in_flight {
                    if more.len() >= at + batch.entries.len() && more[at..at + batch.entries.len()] == batch.entries {
                        at += batch.entries.len();
                        kept.push(batch.clone());
                    } else {
                        break;
                    }
                }
                if at != more.len() {
                    return Err(format!(
                        "a_batch_is_there_or_not: {} records more than whole batches",
                        more.len() - at
                    ));
                }
                kept
            }
        };
        for _ in &kept {
            counts.add(Fault::BatchKept);
        }
        for _ in kept.len()..in_flight.len() {
            counts.add(Fault::BatchLost);
        }
        self.durable.extend(kept.iter().cloned());
        (self.full, self.sync_fails) = (false, false);
        Ok(kept)
    }

    /// Every durable entry after `from`.
    pub fn entries_after(&self, from: Seq) -> impl Iterator<Item = &Entry> {
        let batches = self.durable.iter().filter(move |batch| batch.last() > from);
        batches.flat_map(|batch| &batch.entries).filter(move |entry| entry.seq > from)
    }

    /// Copies the files of the real journal to a folder; false when the run is not on it.
    ///
    /// # Errors
    /// What the system says.
    pub fn copy_to(&self, folder: &Path) -> std::io::Result<bool> {
        self.on_disk.as_ref().map_or(Ok(false), |real| real.copy_to(folder).map(|()| true))
    }

    /// Drops whole batches through here.
    pub fn drop_prefix(&mut self, through: Seq) {
        let count = self.durable.iter().take_while(|batch| batch.last() <= through).count();
        if let Some(last) = self.durable[..count].last() {
            self.dropped = last.last();
        }
        self.durable.drain(..count);
    }
}

impl OnDisk {
    fn open(&mut self) -> Result<(), Broken> {
        self.starts = self.starts.wrapping_add(0x9e37_79b9);
        let mut entropy = [0; 16];
        entropy[..8].copy_from_slice(&self.starts.to_le_bytes());
        let options = Options { segment_bytes: 1 << 20, preparation: Preparation::Inline, ..Options::new(entropy) };
        let opened = EmbeddedJournal::open(self.disk.clone(), options);
        self.journal = Some(opened.map_err(|error| format!("journal_opens: {error}"))?.0);
        Ok(())
    }

    fn append(&mut self, end: Seq, batch: &Batch) -> Result<(), EmbeddedError> {
        let closed = || JournalError::Poisoned { reason: "closed".to_owned() };
        self.journal.as_mut().ok_or_else(closed)?.append_batch(end, batch).map(|_| ())
    }

    fn crash(
        &mut self,
        end: Seq,
        in_flight: &[Arc<Batch>],
        sync_failed: bool,
        chance: &mut Chance,
        counts: &mut Counts,
    ) -> Result<(), Broken> {
        let mut random = Random::new(chance.draw());
        if let Some(first) = in_flight.first().filter(|_| !sync_failed && chance.permille(700)) {
            // The power goes in the middle of the write.
            self.disk.set_quota(None);
            self.disk.fail_syncs_after(Some(0));
            if self.append(end, first).is_ok() {
                return Err("sync_fails_when_told: an append went through".to_owned());
            }
            counts.add(Fault::TornWrite);
        }
        self.disk.set_quota(None);
        if sync_failed || chance.permille(700) {
            self.disk = self.disk.cut(&mut random);
        } else {
            counts.add(Fault::ProcessKilled);
            self.disk = self.disk.kill();
        }
        self.journal = None;
        self.open()
    }

    fn read(&self) -> Result<Vec<Entry>, Broken> {
        let failed = |error: EmbeddedError| format!("journal_reads_back: {error}");
        let journal = self.journal.as_ref().ok_or("journal_opens: it is closed")?;
        let mut entries = Vec::new();
        let mut tail = journal.ledger().tail(Seq(1)).map_err(|error| format!("journal_reads_back: {error}"))?;
        while tail.next_batch(|entry| entries.push(entry)).map_err(failed)? {}
        Ok(entries)
    }

    /// What the log holds, file by file, and where it was written.
    fn copy_to(&self, folder: &Path) -> std::io::Result<()> {
        std::fs::create_dir_all(folder)?;
        for (name, bytes) in self.disk.list()? {
            let file = self.disk.open(&name)?;
            let mut content = vec![0; usize::try_from(bytes).unwrap_or_default()];
            let read = file.read_at(&mut content, 0)?;
            content.truncate(read);
            // What was zeroed ahead is nobody's history.
            let end = content.iter().rposition(|byte| *byte != 0).map_or(0, |last| (last + 1).next_multiple_of(4096));
            content.truncate(end.max(4096).min(read));
            std::fs::write(folder.join(name), content)?;
        }
        Ok(())
    }
}
