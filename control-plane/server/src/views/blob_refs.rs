//! Which blobs are named by records that are kept, so that the others can be removed.
//!
//! A file of lines, each a blob with the last record that names it, or the mark through which the journal was read. Invariant:
//! a blob that a kept record names before the mark is in the file, also after a crash.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use memchr::memmem::Finder;
use mindos_core::record::{Entry, Record};
use mindos_model::{Seq, Timestamp};
use tracing::{info, warn};

use super::follow::{View, ViewError};
use crate::blobs::{BlobError, BlobInfo, BlobRef, BlobStore, PREFIX};
use crate::logging::Chain;

/// A line: what it is, a digest or a time, a sequence, a CRC-32.
const LINE: usize = 45;
const NAMED: u8 = 1;
const MARK: u8 = 2;
/// How long what was found may wait to be written.
const WRITE_INTERVAL: Duration = Duration::from_secs(5);
/// Lines beyond four for each blob that make the file be written anew.
const SLACK_LINES: u64 = 10_000;

/// A failure of the file.
#[derive(Debug, thiserror::Error)]
#[error("failed to {action} `{path}`")]
pub struct RefsError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

type Named = HashMap<BlobRef, Seq, RandomState>;

/// The last record that names each blob; shared with the one who removes.
#[derive(Clone, Debug, Default)]
pub struct BlobRefs(Arc<Mutex<Named>>);

impl BlobRefs {
    /// The last record that names the blob.
    #[must_use]
    pub fn named_by(&self, blob: &BlobRef) -> Option<Seq> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(blob).copied()
    }

    /// Removes blobs that no record from `first` on names and that were stored before `before`; returns how many.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub fn sweep(&self, store: &BlobStore, first: Seq, before: Timestamp) -> Result<usize, BlobError> {
        let mut unnamed = Vec::new();
        store.for_each(|blob, info| {
            if info.stored < before && self.named_by(&blob).is_none_or(|seq| seq < first) {
                unnamed.push(blob);
            }
        })?;
        let mut removed = 0;
        for blob in &unnamed {
            // Once more, for it may have come or been named meanwhile.
            let is_due = |info: &BlobInfo| info.stored < before && self.named_by(blob).is_none_or(|seq| seq < first);
            if store.remove_if(blob, is_due)? {
                removed += 1;
                info!(%blob, "blob that nothing names was removed");
            }
        }
        // Names in records that are gone, also of blobs that never were: who writes payloads could make up any number.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, seq| *seq >= first);
        Ok(removed)
    }
}

/// Follows the journal for names of blobs.
#[derive(Debug)]
pub struct BlobRefsView {
    path: PathBuf,
    file: File,
    refs: BlobRefs,
    lines: u64,
    mark: (Seq, Timestamp),
    pending: Vec<(BlobRef, Seq)>,
    written: Instant,
    finder: Finder<'static>,
}

impl BlobRefsView {
    /// Opens the file in `dir`, which must be there. A torn end is cut off.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn open(dir: &Path) -> Result<BlobRefsView, RefsError> {
        let path = dir.join("refs");
        let failed = |action| fail(action, &path);
        let file = File::options().create(true).read(true).append(true).open(&path).map_err(failed("open"))?;
        let bytes = fs::read(&path).map_err(failed("read"))?;
        let (mut named, mut mark, mut lines) = (Named::default(), (Seq::ZERO, Timestamp(0)), 0);
        for line in bytes.chunks(LINE) {
            let Some((kind, blob, seq)) = decode(line) else { break };
            match kind {
                NAMED => drop(named.insert(blob, seq)),
                _ => mark = (seq, Timestamp(u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|at| blob.0[at])))),
            }
            lines += 1;
        }
        file.set_len(lines * LINE as u64).map_err(failed("cut"))?;
        let refs = BlobRefs(Arc::new(Mutex::new(named)));
        let finder = Finder::new(PREFIX.as_bytes());
        Ok(BlobRefsView { path, file, refs, lines, mark, pending: Vec::new(), written: Instant::now(), finder })
    }

    /// What was found.
    #[must_use]
    pub fn refs(&self) -> BlobRefs {
        self.refs.clone()
    }

    fn write(&mut self) -> Result<(), RefsError> {
        let mut named = self.refs.0.lock().unwrap_or_else(PoisonError::into_inner);
        named.extend(self.pending.iter().copied());
        let anew = self.lines > 4 * named.len() as u64 + SLACK_LINES;
        let mut bytes = Vec::new();
        if anew {
            named.iter().for_each(|(blob, seq)| bytes.extend_from_slice(&encode(NAMED, *blob, *seq)));
        } else {
            self.pending.iter().for_each(|(blob, seq)| bytes.extend_from_slice(&encode(NAMED, *blob, *seq)));
        }
        drop(named);
        let mut time = [0; 32];
        time[..8].copy_from_slice(&self.mark.1.0.to_le_bytes());
        bytes.extend_from_slice(&encode(MARK, BlobRef(time), self.mark.0));
        let count = (bytes.len() / LINE) as u64;
        if anew {
            let temporary = self.path.with_extension("tmp");
            let write = || -> io::Result<File> {
                let mut file = File::create(&temporary)?;
                file.write_all(&bytes)?;
                file.sync_all()?;
                fs::rename(&temporary, &self.path)?;
                File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()?;
                File::options().append(true).open(&self.path)
            };
            self.file = write().map_err(fail("write", &self.path))?;
            self.lines = count;
        } else {
            let written = self.file.write_all(&bytes).and_then(|()| self.file.sync_data());
            written.map_err(fail("write", &self.path))?;
            self.lines += count;
        }
        self.pending.clear();
        self.written = Instant::now();
        Ok(())
    }

    fn find(&mut self, payload: &[u8], seq: Seq) {
        for at in self.finder.find_iter(payload) {
            let digits = payload.get(at + PREFIX.len()..at + PREFIX.len() + 64);
            if let Some(blob) = digits.and_then(BlobRef::from_hex) {
                self.pending.push((blob, seq));
            }
        }
    }
}

fn fail(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RefsError {
    let path = path.to_owned();
    move |source| RefsError { action, path, source }
}

fn encode(kind: u8, blob: BlobRef, seq: Seq) -> [u8; LINE] {
    let mut line = [0; LINE];
    line[0] = kind;
    line[1..33].copy_from_slice(&blob.0);
    line[33..41].copy_from_slice(&seq.0.to_le_bytes());
    let crc = crc32fast::hash(&line[..41]);
    line[41..].copy_from_slice(&crc.to_le_bytes());
    line
}

fn decode(line: &[u8]) -> Option<(u8, BlobRef, Seq)> {
    let line: &[u8; LINE] = line.try_into().ok()?;
    let mut blob = BlobRef([0; 32]);
    blob.0.copy_from_slice(&line[1..33]);
    let seq = Seq(line[33..41].iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)));
    (matches!(line[0], NAMED | MARK) && *line == encode(line[0], blob, seq)).then_some((line[0], blob, seq))
}

impl View for BlobRefsView {
    fn name(&self) -> &'static str {
        "blob-refs"
    }

    fn next(&self) -> Seq {
        self.mark.0.next()
    }

    fn mark(&self) -> Option<(Seq, Timestamp)> {
        (self.mark.0 > Seq::ZERO && self.mark.1 > Timestamp(0)).then_some(self.mark)
    }

    fn apply(&mut self, entry: &Entry) -> Result<(), ViewError> {
        match &entry.record {
            Record::EventAccepted(event) => self.find(&event.payload.bytes, entry.seq),
            Record::PayloadCarried(carried) => self.find(&carried.payload.bytes, entry.seq),
            // Files of a commit, where they are too many for the parameters.
            Record::EffectIntended(intended) => self.find(&intended.parameters.bytes, entry.seq),
            Record::DeliverySettled(settled) => {
                self.pending.extend(settled.output_ref.map(|digest| (BlobRef(digest), entry.seq)));
            }
            _ => {}
        }
        self.mark = (entry.seq, entry.at);
        Ok(())
    }

    fn upkeep(&mut self, _idle: bool) -> Result<(), ViewError> {
        if self.written.elapsed() >= WRITE_INTERVAL {
            self.write()?;
        }
        Ok(())
    }

    fn reset(&mut self) -> Result<(), ViewError> {
        // A name too many keeps a blob for longer, and is not wrong.
        self.pending.clear();
        self.mark = (Seq::ZERO, Timestamp(0));
        Ok(())
    }

    fn skip_to(&mut self, first: Seq) -> Result<(), ViewError> {
        self.mark = (Seq(first.0.saturating_sub(1)), Timestamp(0));
        Ok(())
    }

    fn recover(&mut self) -> Result<(), ViewError> {
        let dir = self.path.parent().unwrap_or(Path::new("."));
        match BlobRefsView::open(dir) {
            Ok(opened) => {
                // Those who remove keep looking at the same map.
                let mut named = self.refs.0.lock().unwrap_or_else(PoisonError::into_inner);
                named.extend(opened.refs.0.lock().unwrap_or_else(PoisonError::into_inner).iter());
                (self.file, self.lines, self.mark) = (opened.file, opened.lines, opened.mark);
                self.pending.clear();
                Ok(())
            }
            Err(error) => {
                warn!(error = %Chain(&error), "names of blobs were not read");
                Err(error.into())
            }
        }
    }

    fn close(&mut self) -> Result<(), ViewError> {
        Ok(self.write()?)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use mindos_core::record::{Payload, PayloadCarried};

    use super::super::testing::Records;
    use super::*;
    use crate::blobs::Announced;

    fn store(store: &BlobStore, bytes: &[u8]) -> BlobRef {
        let mut writer = store.begin(Announced::default()).unwrap();
        writer.write(bytes).unwrap();
        writer.finish().unwrap().blob
    }

    fn naming(records: &Records, text: String) -> Seq {
        let payload = Payload { salt: [0; 16], bytes: Bytes::from(text) };
        records.push(Record::PayloadCarried(PayloadCarried { event: Seq(1), effect: None, payload }))
    }

    #[test]
    fn only_what_no_kept_record_names_is_removed() {
        let (dir, records) = (tempfile::tempdir().unwrap(), Records::default());
        let blobs = BlobStore::open(dir.path(), u64::MAX).unwrap();
        let [kept, old, never] = [b"kept", b"old!", b"nevr"].map(|bytes| store(&blobs, bytes));
        let last = naming(&records, format!("x{old}y"));
        naming(&records, format!("{kept}"));
        naming(&records, "blob:sha256:and no digits".to_owned());
        let mut view = BlobRefsView::open(dir.path()).unwrap();
        records.entries().iter().for_each(|entry| view.apply(entry).unwrap());
        view.close().unwrap();
        drop(view);

        let view = BlobRefsView::open(dir.path()).unwrap();
        assert_eq!(View::next(&view), Seq(4));
        let refs = view.refs();
        assert_eq!(refs.sweep(&blobs, last, Timestamp(0)).unwrap(), 0);
        assert_eq!(refs.sweep(&blobs, last, Timestamp::MAX).unwrap(), 1);
        assert_eq!((blobs.stat(&never).unwrap(), blobs.stat(&old).unwrap().is_some()), (None, true));
        assert_eq!(refs.sweep(&blobs, last.next(), Timestamp::MAX).unwrap(), 1);
        assert_eq!((blobs.stat(&old).unwrap(), blobs.stat(&kept).unwrap().is_some()), (None, true));
    }

    #[test]
    fn names_leave_with_the_records_that_they_stand_in() {
        let (dir, records) = (tempfile::tempdir().unwrap(), Records::default());
        let blobs = BlobStore::open(dir.path(), u64::MAX).unwrap();
        let mut view = BlobRefsView::open(dir.path()).unwrap();
        let made_up = |number: u8| BlobRef([number; 32]).to_string();
        let last = (0..100).map(|number| naming(&records, made_up(number))).last().unwrap();
        records.entries().iter().for_each(|entry| view.apply(entry).unwrap());
        view.close().unwrap();
        let refs = view.refs();
        assert_eq!(refs.0.lock().unwrap().len(), 100);
        refs.sweep(&blobs, last, Timestamp::MAX).unwrap();
        assert_eq!(refs.0.lock().unwrap().len(), 1);
        assert_eq!(refs.named_by(&BlobRef([99; 32])), Some(last));
    }

    #[test]
    fn a_torn_end_is_read_again_from_the_journal() {
        let (dir, records) = (tempfile::tempdir().unwrap(), Records::default());
        let blob = BlobRef([7; 32]);
        naming(&records, blob.to_string());
        let mut view = BlobRefsView::open(dir.path()).unwrap();
        records.entries().iter().for_each(|entry| view.apply(entry).unwrap());
        view.close().unwrap();
        let path = dir.path().join("refs");
        let bytes = fs::read(&path).unwrap();
        for end in 0..bytes.len() {
            fs::write(&path, &bytes[..end]).unwrap();
            let view = BlobRefsView::open(dir.path()).unwrap();
            assert_eq!(View::next(&view), Seq(1), "cut at {end}");
        }
    }
}
