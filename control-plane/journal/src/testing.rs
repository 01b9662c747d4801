//! What several tests of this crate need.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use mindos_model::Seq;

use crate::fault::{FaultDisk, Random};
use crate::{Frame, JournalError, Log, Options, Payload, Preparation, Reader, Recovery};

/// A directory that goes away with the test.
#[derive(Debug)]
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> TempDir {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("mindos-journal-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        TempDir(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn options(seed: u64) -> Options {
    let mut entropy = [0; 16];
    entropy[..8].copy_from_slice(&seed.to_le_bytes());
    Options { segment_bytes: 16 << 10, preparation: Preparation::Inline, ..Options::new(entropy) }
}

pub(crate) fn open(disk: &FaultDisk, seed: u64) -> (Log<FaultDisk>, Recovery) {
    Log::open(disk.clone(), options(seed)).unwrap()
}

/// What the record `seq` says, the same in every test.
pub(crate) fn metadata(seq: u64) -> Vec<u8> {
    let mut random = Random::new(seq);
    let len = random.below(60);
    let mut bytes = seq.to_le_bytes().to_vec();
    bytes.extend((0..len).map(|_| random.bits() as u8));
    bytes
}

pub(crate) fn payload(seq: u64) -> Option<([u8; 16], Vec<u8>)> {
    let mut random = Random::new(seq ^ 0xabcd);
    let len = random.below(300);
    random.chance(40).then(|| ([seq as u8; 16], (0..len).map(|_| random.bits() as u8).collect()))
}

pub(crate) fn frame(first: u64, count: u64) -> Frame {
    let mut frame = Frame::new();
    for seq in first..first + count {
        let payload = payload(seq);
        let payload = payload.as_ref().map(|(salt, bytes)| Payload { salt, bytes });
        frame.push(&metadata(seq), payload);
    }
    frame
}

pub(crate) fn append(log: &mut Log<FaultDisk>, count: u64) -> Result<Seq, JournalError> {
    let end = log.end();
    log.append(end, &mut frame(end.0 + 1, count))
}

pub(crate) fn fill(log: &mut Log<FaultDisk>, random: &mut Random, records: u64) {
    let end = log.end().0 + records;
    while log.end().0 < end {
        append(log, (1 + random.below(8)).min(end - log.end().0)).unwrap();
    }
}

pub(crate) fn fill_log(log: &mut Log<FaultDisk>, seed: u64, records: u64) {
    fill(log, &mut Random::new(seed), records);
}

/// Reads everything from `from` and checks what it says.
pub(crate) fn check(reader: &Reader<FaultDisk>, from: u64) -> u64 {
    let mut cursor = reader.cursor(Seq(from)).unwrap();
    let mut next = from;
    while let Some(batch) = cursor.next_batch().unwrap() {
        for entry in batch.entries() {
            let entry = entry.unwrap();
            assert_eq!(entry.seq, Seq(next));
            assert_eq!(entry.metadata, metadata(next));
            assert_eq!(entry.payload.map(|payload| (*payload.salt, payload.bytes.to_vec())), payload(next));
            next += 1;
        }
    }
    next - 1
}
