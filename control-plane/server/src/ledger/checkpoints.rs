//! Checkpoints as they were recorded: the last ones in memory, and in a file so that a start need not look for them.
//!
//! One line of JSON for each, the oldest first. Invariant: the file has every checkpoint of the journal from its first line on, up to
//! its last.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mindos_core::access::AccessRecord;
use mindos_core::record::{Entry, Record};
use mindos_journal::export::Anchor;
use mindos_journal::signing::{Checkpoint, hex, unhex};
use mindos_model::{Seq, Timestamp};
use serde::{Deserialize, Serialize};

use crate::views::follow::{View, ViewError};

/// Checkpoints that are known.
pub const KNOWN_MAX: usize = 10_000;
/// Lines of the file before it is written anew with those that are known.
const LINES_MAX: usize = 4 * KNOWN_MAX;
/// The longest line.
const LINE_MAX: u64 = 4096;
const FILE: &str = "checkpoints";

/// A checkpoint with the record that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noted {
    pub seq: Seq,
    pub at: Timestamp,
    pub checkpoint: Checkpoint,
}

/// A checkpoint as a line, in the file and at anchors.
#[derive(Debug, Serialize, Deserialize)]
pub struct Line {
    /// The journal's id.
    pub journal: String,
    pub through: u64,
    pub link: String,
    pub key: String,
    pub signature: String,
    /// The record that says so.
    #[serde(default)]
    pub seq: u64,
    #[serde(default)]
    pub at_ms: u64,
}

impl Line {
    /// Of a checkpoint of the journal `log_id`.
    #[must_use]
    pub fn of(log_id: &[u8; 16], noted: &Noted) -> Line {
        let Noted { seq, at, checkpoint: Checkpoint { through, link, key, signature } } = noted;
        Line {
            journal: hex(log_id),
            through: through.0,
            link: hex(link),
            key: hex(key),
            signature: hex(signature),
            seq: seq.0,
            at_ms: at.0,
        }
    }

    fn noted(&self, log_id: &[u8; 16]) -> Option<Noted> {
        if unhex::<16>(&self.journal)? != *log_id {
            return None;
        }
        let checkpoint = Checkpoint {
            through: Seq(self.through),
            link: unhex(&self.link)?,
            key: unhex(&self.key)?,
            signature: unhex(&self.signature)?,
        };
        Some(Noted { seq: Seq(self.seq), at: Timestamp(self.at_ms), checkpoint })
    }

    /// What it proves to whoever verifies a file; `None` where a part of it is malformed.
    #[must_use]
    pub fn anchor(&self) -> Option<Anchor> {
        let log_id = unhex(&self.journal)?;
        Some(Anchor { log_id, checkpoint: self.noted(&log_id)?.checkpoint })
    }

    /// As one line of JSON, its end included.
    ///
    /// # Panics
    /// Never: a line is plain data.
    #[must_use]
    pub fn json(&self) -> String {
        let mut text = serde_json::to_string(self).expect("a line is plain data");
        text.push('\n');
        text
    }
}

/// The last checkpoints; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Checkpoints(Arc<Mutex<VecDeque<Noted>>>);

impl Checkpoints {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Noted>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest one.
    #[must_use]
    pub fn last(&self) -> Option<Noted> {
        self.lock().back().copied()
    }

    /// Up to `limit` that cover less than `before`, the newest first.
    #[must_use]
    pub fn page(&self, before: Seq, limit: usize) -> Vec<Noted> {
        let known = self.lock();
        let end = known.partition_point(|noted| noted.checkpoint.through < before);
        known.range(..end).rev().take(limit).copied().collect()
    }

    /// Up to `limit` that cover more than `after`, the oldest first.
    #[must_use]
    pub fn after(&self, after: Seq, limit: usize) -> Vec<Noted> {
        let known = self.lock();
        let start = known.partition_point(|noted| noted.checkpoint.through <= after);
        known.range(start..).take(limit).copied().collect()
    }

    fn push(&self, noted: Noted) {
        let mut known = self.lock();
        if known.len() == KNOWN_MAX {
            known.pop_front();
        }
        known.push_back(noted);
    }
}

/// Follows the journal for checkpoints.
#[derive(Debug)]
pub struct CheckpointsView {
    path: PathBuf,
    log_id: [u8; 16],
    known: Checkpoints,
    file: File,
    lines: usize,
    /// The last record that was looked at.
    seen: Seq,
    /// That of the last line.
    mark: Option<(Seq, Timestamp)>,
}

impl CheckpointsView {
    /// Opens the file in `data_dir`. A torn last line is cut off.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn open(data_dir: &Path, log_id: [u8; 16]) -> io::Result<CheckpointsView> {
        let path = data_dir.join(FILE);
        let known = Checkpoints::default();
        let (file, lines) = load(&path, &log_id, &known)?;
        let mark = known.last().map(|noted| (noted.seq, noted.at));
        let seen = mark.map_or(Seq::ZERO, |(seq, _)| seq);
        Ok(CheckpointsView { path, log_id, known, file, lines, seen, mark })
    }

    /// The last checkpoints.
    #[must_use]
    pub fn known(&self) -> Checkpoints {
        self.known.clone()
    }

    fn note(&mut self, noted: Noted) -> io::Result<()> {
        if self.lines >= LINES_MAX {
            let text: String = self.known.lock().iter().map(|noted| Line::of(&self.log_id, noted).json()).collect();
            let temporary = self.path.with_extension("new");
            fs::write(&temporary, text)?;
            File::open(&temporary)?.sync_all()?;
            fs::rename(&temporary, &self.path)?;
            self.file = File::options().append(true).open(&self.path)?;
            self.lines = self.known.lock().len();
        }
        self.file.write_all(Line::of(&self.log_id, &noted).json().as_bytes())?;
        self.file.sync_data()?;
        self.lines += 1;
        self.known.push(noted);
        self.mark = Some((noted.seq, noted.at));
        Ok(())
    }
}

/// Reads the file as far as its lines are whole and in order, and cuts off the rest.
fn load(path: &Path, log_id: &[u8; 16], known: &Checkpoints) -> io::Result<(File, usize)> {
    let file = File::options().create(true).read(true).append(true).open(path)?;
    let mut reader = BufReader::new(&file);
    let (mut lines, mut good, mut text) = (0, 0_u64, String::new());
    let mut last = Seq::ZERO;
    loop {
        text.clear();
        // What is no text is no line either.
        let read = match io::Read::take(&mut reader, LINE_MAX).read_line(&mut text) {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => break,
            read => read?,
        };
        let noted = serde_json::from_str::<Line>(&text).ok().and_then(|line| line.noted(log_id));
        match noted.filter(|noted| text.ends_with('\n') && noted.checkpoint.through > last) {
            Some(noted) => {
                last = noted.checkpoint.through;
                known.push(noted);
                lines += 1;
                good += read as u64;
            }
            None => break,
        }
    }
    file.set_len(good)?;
    Ok((file, lines))
}

impl View for CheckpointsView {
    fn name(&self) -> &'static str {
        "checkpoints"
    }

    fn next(&self) -> Seq {
        self.seen.next()
    }

    fn apply(&mut self, entry: &Entry) -> Result<(), ViewError> {
        if let Record::Access(record) = &entry.record
            && let AccessRecord::CheckpointSigned(signed) = &**record
        {
            let mindos_core::access::Checkpoint { through, link, key, signature } = *signed;
            let checkpoint = Checkpoint { through, link, key, signature };
            self.note(Noted { seq: entry.seq, at: entry.at, checkpoint })?;
        }
        self.seen = entry.seq;
        Ok(())
    }

    fn upkeep(&mut self, _idle: bool) -> Result<(), ViewError> {
        Ok(())
    }

    fn mark(&self) -> Option<(Seq, Timestamp)> {
        self.mark
    }

    fn reset(&mut self) -> Result<(), ViewError> {
        self.file.set_len(0)?;
        self.known.lock().clear();
        (self.lines, self.seen, self.mark) = (0, Seq::ZERO, None);
        Ok(())
    }

    fn skip_to(&mut self, first: Seq) -> Result<(), ViewError> {
        self.seen = Seq(first.0.saturating_sub(1));
        Ok(())
    }

    fn recover(&mut self) -> Result<(), ViewError> {
        self.known.lock().clear();
        (self.file, self.lines) = load(&self.path, &self.log_id, &self.known)?;
        self.mark = self.known.last().map(|noted| (noted.seq, noted.at));
        self.seen = self.mark.map_or(Seq::ZERO, |(seq, _)| seq);
        Ok(())
    }

    fn close(&mut self) -> Result<(), ViewError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views::testing::Records;

    const LOG: [u8; 16] = [3; 16];

    fn signed(through: u64) -> Record {
        let checkpoint =
            mindos_core::access::Checkpoint { through: Seq(through), link: [1; 32], key: [2; 8], signature: [3; 64] };
        Record::Access(Box::new(AccessRecord::CheckpointSigned(checkpoint)))
    }

    #[test]
    fn checkpoints_are_found_again_and_a_torn_line_is_read_from_the_journal() {
        let (dir, records) = (tempfile::tempdir().unwrap(), Records::default());
        for through in 1..=5 {
            records.push(signed(through));
        }
        let mut view = CheckpointsView::open(dir.path(), LOG).unwrap();
        records.entries().iter().for_each(|entry| view.apply(entry).unwrap());
        let all = view.known().page(Seq(u64::MAX), 10);
        assert_eq!(all.iter().map(|noted| noted.checkpoint.through.0).collect::<Vec<_>>(), [5, 4, 3, 2, 1]);
        assert_eq!(view.known().after(Seq(3), 10).len(), 2);
        drop(view);

        let path = dir.path().join(FILE);
        let bytes = fs::read(&path).unwrap();
        for end in [bytes.len(), bytes.len() - 1, bytes.len() - 30, 10, 0] {
            fs::write(&path, &bytes[..end]).unwrap();
            let mut view = CheckpointsView::open(dir.path(), LOG).unwrap();
            let next = View::next(&view);
            records.entries().iter().filter(|entry| entry.seq >= next).for_each(|entry| view.apply(entry).unwrap());
            assert_eq!(view.known().page(Seq(u64::MAX), 10), all, "cut at {end}");
        }
        // Those of another journal are not ours.
        assert_eq!(View::next(&CheckpointsView::open(dir.path(), [4; 16]).unwrap()), Seq(1));
    }
}
