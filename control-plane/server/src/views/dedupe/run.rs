//! A run: the keys of a stretch of the journal, sorted, in a file that is written once.
//!
//! ```text
//! header  magic, version, count, first and last record covered, time of the newest, CRC-32 of the header, CRC-32 of the rows
//! rows    (key 16, event 8, digest 16), sorted by key, each key once
//! ```
//! Keys are evenly spread, so a row is found by reading the page where it would stand. Invariant: a file under its final name is
//! whole; what a crash left behind has another name.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use mindos_core::input::Seen;
use mindos_core::record::{ContentDigest, DedupeKey};
use mindos_model::{Seq, Timestamp};

use super::DedupeError;
use super::filter::{Filter, Probe};

const MAGIC: [u8; 8] = *b"MOSDEDUP";
const VERSION: u32 = 1;
const HEADER: usize = 64;
const ROW: usize = 40;
/// Rows read at once around the place where a key is expected: 4 KiB.
const PAGE_ROWS: u64 = 102;

/// What is kept of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub key: DedupeKey,
    pub event: Seq,
    pub digest: ContentDigest,
}

impl Row {
    fn encode(&self) -> [u8; ROW] {
        let mut bytes = [0; ROW];
        bytes[..16].copy_from_slice(&self.key);
        bytes[16..24].copy_from_slice(&self.event.0.to_le_bytes());
        bytes[24..].copy_from_slice(&self.digest);
        bytes
    }

    fn decode(bytes: &[u8]) -> Row {
        let mut row = Row { key: [0; 16], event: Seq(le64(&bytes[16..24])), digest: [0; 16] };
        row.key.copy_from_slice(&bytes[..16]);
        row.digest.copy_from_slice(&bytes[24..ROW]);
        row
    }
}

fn le64(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

/// The part of the journal that a run covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub first: Seq,
    pub through: Seq,
    pub newest: Timestamp,
}

/// A run that can be asked.
#[derive(Debug)]
pub(super) struct Run {
    pub span: Span,
    pub count: u64,
    path: PathBuf,
    file: File,
    filter: Filter,
}

impl Run {
    /// Writes `rows`, sorted by key and each key once, and opens the result. It is on stable storage when this returns.
    pub(super) fn write(
        dir: &Path,
        span: Span,
        count: u64,
        rows: impl Iterator<Item = Row>,
    ) -> Result<Run, DedupeError> {
        let path = dir.join(format!("{:020}-{:020}.run", span.first.0, span.through.0));
        let temporary = path.with_extension("tmp");
        let failed = |source| DedupeError::Write { path: temporary.clone(), source };
        let mut filter = Filter::with_capacity(count as usize);
        let write = || -> io::Result<()> {
            let mut file = BufWriter::with_capacity(1 << 18, File::create(&temporary)?);
            file.write_all(&[0; HEADER])?;
            let mut checksum = crc32fast::Hasher::new();
            let mut written = 0;
            for row in rows {
                let bytes = row.encode();
                checksum.update(&bytes);
                file.write_all(&bytes)?;
                filter.insert(&row.key);
                written += 1;
            }
            let mut file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.seek(SeekFrom::Start(0))?;
            file.write_all(&header(span, written, checksum.finalize()))?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            File::open(dir)?.sync_all()
        };
        write().map_err(failed)?;
        let file = File::open(&path).map_err(|source| DedupeError::Read { path: path.clone(), source })?;
        let count =
            file.metadata().map(|data| (data.len().saturating_sub(HEADER as u64)) / ROW as u64).unwrap_or(count);
        Ok(Run { span, count, path, file, filter })
    }

    /// Reads a run back whole, which checks it and fills its filter. `None` when it is damaged or of another version.
    pub(super) fn open(path: PathBuf) -> Result<Option<Run>, DedupeError> {
        let failed = |source| DedupeError::Read { path: path.clone(), source };
        let mut file = File::open(&path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let mut head = [0; HEADER];
        if length < HEADER as u64 || !(length - HEADER as u64).is_multiple_of(ROW as u64) {
            return Ok(None);
        }
        file.read_exact(&mut head).map_err(failed)?;
        let count = (length - HEADER as u64) / ROW as u64;
        let span = Span {
            first: Seq(le64(&head[24..32])),
            through: Seq(le64(&head[32..40])),
            newest: Timestamp(le64(&head[40..48])),
        };
        let checksum = u32::from_le_bytes([head[48], head[49], head[50], head[51]]);
        if head != header(span, count, checksum) {
            return Ok(None);
        }
        let mut filter = Filter::with_capacity(count as usize);
        let mut hasher = crc32fast::Hasher::new();
        let mut chunk = vec![0; ROW * 4096];
        let mut left = count;
        while left > 0 {
            let rows = left.min(4096);
            let bytes = &mut chunk[..rows as usize * ROW];
            file.read_exact(bytes).map_err(failed)?;
            hasher.update(bytes);
            bytes.chunks_exact(ROW).for_each(|row| filter.insert(&Row::decode(row).key));
            left -= rows;
        }
        Ok((hasher.finalize() == checksum).then_some(Run { span, count, path, file, filter }))
    }

    /// What the run knows of a key.
    pub(super) fn lookup(&self, key: &DedupeKey, probe: &Probe) -> Result<Option<Seen>, DedupeError> {
        if !self.filter.may_contain(probe) || self.count == 0 {
            return Ok(None);
        }
        self.search(key).map_err(|source| DedupeError::Read { path: self.path.clone(), source })
    }

    fn search(&self, key: &DedupeKey) -> io::Result<Option<Seen>> {
        let prefix = u64::from_be_bytes([key[0], key[1], key[2], key[3], key[4], key[5], key[6], key[7]]);
        let (mut low, mut high) = (0, self.count);
        let mut expected = ((u128::from(prefix) * u128::from(self.count)) >> 64) as u64;
        let mut page = [0; PAGE_ROWS as usize * ROW];
        while low < high {
            let start = expected.saturating_sub(PAGE_ROWS / 2).clamp(low, high - 1);
            let rows = PAGE_ROWS.min(high - start);
            let bytes = &mut page[..rows as usize * ROW];
            self.file.read_exact_at(bytes, HEADER as u64 + start * ROW as u64)?;
            if key[..] < bytes[..16] {
                high = start;
            } else if key[..] > bytes[bytes.len() - ROW..][..16] {
                low = start + rows;
            } else {
                let (mut from, mut until) = (0, rows as usize);
                while from < until {
                    let middle = from + (until - from) / 2;
                    let row = &bytes[middle * ROW..][..ROW];
                    match row[..16].cmp(&key[..]) {
                        std::cmp::Ordering::Less => from = middle + 1,
                        std::cmp::Ordering::Greater => until = middle,
                        std::cmp::Ordering::Equal => {
                            let row = Row::decode(row);
                            return Ok(Some(Seen { event: row.event, digest: row.digest }));
                        }
                    }
                }
                return Ok(None);
            }
            // The expectation was off by more than half a page: halve what is left.
            expected = low + (high - low) / 2;
        }
        Ok(None)
    }

    /// All rows in order.
    pub(super) fn rows(&self) -> Result<impl Iterator<Item = io::Result<Row>> + use<>, DedupeError> {
        let failed = |source| DedupeError::Read { path: self.path.clone(), source };
        let mut file = File::open(&self.path).map_err(failed)?;
        file.seek(SeekFrom::Start(HEADER as u64)).map_err(failed)?;
        let mut reader = io::BufReader::with_capacity(1 << 17, file);
        let mut left = self.count;
        Ok(std::iter::from_fn(move || {
            left = left.checked_sub(1)?;
            let mut bytes = [0; ROW];
            Some(reader.read_exact(&mut bytes).map(|()| Row::decode(&bytes)))
        }))
    }

    /// Removes the file. Who still holds the run may go on asking it.
    pub(super) fn remove(&self) -> Result<(), DedupeError> {
        fs::remove_file(&self.path).map_err(|source| DedupeError::Write { path: self.path.clone(), source })
    }
}

fn header(span: Span, count: u64, rows_checksum: u32) -> [u8; HEADER] {
    let mut head = [0; HEADER];
    head[..8].copy_from_slice(&MAGIC);
    head[8..12].copy_from_slice(&VERSION.to_le_bytes());
    head[16..24].copy_from_slice(&count.to_le_bytes());
    head[24..32].copy_from_slice(&span.first.0.to_le_bytes());
    head[32..40].copy_from_slice(&span.through.0.to_le_bytes());
    head[40..48].copy_from_slice(&span.newest.0.to_le_bytes());
    head[48..52].copy_from_slice(&rows_checksum.to_le_bytes());
    let checksum = crc32fast::hash(&head[..60]);
    head[60..].copy_from_slice(&checksum.to_le_bytes());
    head
}

#[cfg(test)]
mod tests {
    use super::super::tests::{key, scratch};
    use super::*;

    fn rows(count: u64) -> Vec<Row> {
        let mut rows: Vec<_> = (1..=count)
            .map(|number| Row { key: key(number), event: Seq(number), digest: [number as u8; 16] })
            .collect();
        rows.sort_by_key(|row| row.key);
        rows
    }

    fn ask(run: &Run, key: &DedupeKey) -> Option<Seen> {
        run.lookup(key, &Probe::new(key)).unwrap()
    }

    const SPAN: Span = Span { first: Seq(1), through: Seq(9_999), newest: Timestamp(77) };

    #[test]
    fn every_key_is_found_after_reopening_and_no_other() {
        let dir = scratch();
        let written = Run::write(dir.path(), SPAN, 5_000, rows(5_000).into_iter()).unwrap();
        let run = Run::open(written.path.clone()).unwrap().unwrap();
        assert_eq!((run.span, run.count), (SPAN, 5_000));
        for number in 1..=5_000 {
            let seen = Seen { event: Seq(number), digest: [number as u8; 16] };
            assert_eq!(ask(&run, &key(number)), Some(seen));
        }
        assert!((5_001..20_000).all(|number| ask(&run, &key(number)).is_none()));
    }

    #[test]
    fn uneven_keys_are_found_too() {
        let dir = scratch();
        let mut uneven: Vec<_> = rows(3_000);
        uneven.iter_mut().for_each(|row| row.key[0] = 0);
        uneven.sort_by_key(|row| row.key);
        let run = Run::write(dir.path(), SPAN, 3_000, uneven.clone().into_iter()).unwrap();
        assert!(uneven.iter().all(|row| ask(&run, &row.key).is_some_and(|seen| seen.event == row.event)));
    }

    #[test]
    fn a_flipped_byte_anywhere_makes_a_run_unusable() {
        let dir = scratch();
        let run = Run::write(dir.path(), SPAN, 3, rows(3).into_iter()).unwrap();
        let whole = fs::read(&run.path).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(&run.path, &bytes).unwrap();
            assert!(Run::open(run.path.clone()).unwrap().is_none(), "byte {at}");
        }
        fs::write(&run.path, &whole[..whole.len() - 1]).unwrap();
        assert!(Run::open(run.path.clone()).unwrap().is_none());
    }
}
