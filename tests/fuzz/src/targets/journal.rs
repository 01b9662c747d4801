//! What lies on the disk: segments and snapshots, with and without checksums that hold.

use std::sync::LazyLock;

use mindos_journal::chain;
use mindos_journal::export::{ExportWriter, Flags, Head, Shown, VerifyOptions, verify};
use mindos_journal::fault::FaultDisk;
use mindos_journal::keyring::testing::SigningKey;
use mindos_journal::signing::{KnownKey, PublicKey};
use mindos_journal::{Disk, DiskFile, Entry, Frame, Log, Options, Payload, Preparation, inspect, verify_directory};
use mindos_model::{Seq, Timestamp};

const SEGMENT_BYTES: u64 = 8 << 10;

/// A small log with a snapshot, as a process left it that was killed.
static LOG: LazyLock<FaultDisk> = LazyLock::new(|| {
    let disk = FaultDisk::new();
    let (mut log, _) = Log::open(disk.clone(), options()).expect("an empty disk can be used");
    for batch in 0..6_u8 {
        let mut frame = Frame::new();
        for record in 0..=batch {
            let text = format!("record {record} of batch {batch}");
            let bytes = vec![record; 40 * usize::from(batch)];
            let payload = (record % 2 == 0).then_some(Payload { salt: &[7; 16], bytes: &bytes });
            frame.push(text.as_bytes(), payload);
        }
        let end = log.end();
        log.append(end, &mut frame).expect("the disk takes it");
    }
    let reader = log.reader();
    let mut snapshot = reader.write_snapshot(log.end(), log.end_link(), 1).expect("the end is durable");
    for item in 0..20_u8 {
        snapshot.push(&vec![item; usize::from(item)]).expect("the disk takes it");
    }
    snapshot.finish().expect("the disk takes it");
    disk.kill().copy()
});

fn options() -> Options {
    Options { segment_bytes: SEGMENT_BYTES, preparation: Preparation::Inline, check_all: true, ..Options::new([3; 16]) }
}

fn files(suffix: &str) -> Vec<String> {
    let names = LOG.list().expect("the disk lists").into_iter().map(|(name, _)| name);
    names.filter(|name| name.ends_with(suffix)).collect()
}

fn read(name: &str) -> Vec<u8> {
    let file = LOG.open(name).expect("listed");
    let mut bytes = vec![0; usize::try_from(file.len().expect("the file is there")).expect("small")];
    let read = file.read_at(&mut bytes, 0).expect("the file can be read");
    bytes.truncate(read);
    bytes
}

/// The log with other bytes in one file.
fn with(name: &str, bytes: &[u8]) -> FaultDisk {
    let disk = LOG.copy();
    disk.unlink(name).expect("listed");
    disk.create(name).and_then(|file| file.write_at(bytes, 0)).expect("the disk takes it");
    disk.copy()
}

/// A small exported ledger with all kinds of entries, and a key that signed it.
static EXPORT: LazyLock<(Vec<u8>, PublicKey)> = LazyLock::new(|| {
    let key = SigningKey::from_seed([5; 32]);
    let log_id = [9; 16];
    let known = KnownKey { public: key.public(), since: Seq(1), by_old: Some(([1; 8], [2; 64])) };
    let previous = chain::genesis(&log_id);
    let (made, flags) = (Timestamp(1), Flags::default());
    let mut writer = ExportWriter::new(&Head { log_id, first: Seq(1), previous, made, flags, keys: vec![known] });
    for seq in 1..=20_u64 {
        let text = format!("record {seq}");
        let bytes = vec![seq as u8; 30];
        let payload = (seq % 2 == 0).then_some(Payload { salt: &[7; 16], bytes: &bytes });
        let redacted = (seq % 5 == 0 && payload.is_none()).then_some(&[3; 32]);
        let shown = [Shown::Whole, Shown::WithoutPayload, Shown::LeafOnly][usize::try_from(seq % 3).expect("small")];
        writer.push(&Entry { seq: Seq(seq), metadata: text.as_bytes(), payload, redacted }, shown);
        if seq % 7 == 0 {
            writer.end_block();
        }
    }
    let signed = key.checkpoint(&log_id, Seq(20), writer.link());
    (writer.finish(Some(signed)), key.public())
});

pub(super) fn export_seeds() -> Vec<Vec<u8>> {
    vec![EXPORT.0.clone()]
}

/// An exported ledger, as it came and with checksums that fit: whatever verifies is what was written.
pub(super) fn export(input: &[u8]) {
    let (sound, key) = &*EXPORT;
    for bytes in [input.to_vec(), export_with_good_checksums(input)] {
        let options = VerifyOptions { keys: vec![*key], threads: 1, ..VerifyOptions::default() };
        let report = verify(&*bytes, &options, |_| {}).expect("bytes in memory can be read");
        if report.fault.is_none() {
            // Head and foot say things that no key signs, such as when the file was made.
            assert_eq!((report.first, report.last), (Seq(1), Seq(20)), "what is signed is what was written");
            assert_eq!(report.link[..], foot_link(sound)[..], "what is signed is what was written");
        }
    }
}

fn foot_link(file: &[u8]) -> &[u8] {
    let foot = file.len() - 132;
    &file[foot + 28..foot + 60]
}

/// Sets the checksums of head, blocks and foot right, as far as they can be found.
fn export_with_good_checksums(input: &[u8]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    let length = |bytes: &[u8], at: usize| {
        bytes.get(at..at + 4).map(|length| u32::from_le_bytes(length.try_into().expect("four bytes")) as usize)
    };
    let crc = |parts: &[&[u8]]| {
        let mut hasher = crc32fast::Hasher::new();
        parts.iter().for_each(|part| hasher.update(part));
        hasher.finalize().to_le_bytes()
    };
    let Some(head) = length(&bytes, 16).filter(|head| bytes.len() >= 20 + head) else { return bytes };
    let sum = crc(&[&bytes[8..12], &bytes[16..20], &bytes[20..20 + head]]);
    bytes[12..16].copy_from_slice(&sum);
    let mut at = 20 + head;
    while bytes.get(at..at + 4) == Some(b"MDLB") {
        let Some(block) = length(&bytes, at + 4).filter(|block| bytes.len() >= at + 24 + block) else { return bytes };
        let sum = crc(&[&bytes[at + 4..at + 8], &bytes[at + 12..at + 24 + block]]);
        bytes[at + 8..at + 12].copy_from_slice(&sum);
        at += 24 + block;
    }
    if bytes.len() >= at + 132 {
        let sum = crc(&[&bytes[at + 12..at + 132]]);
        bytes[at + 8..at + 12].copy_from_slice(&sum);
    }
    bytes
}

pub(super) fn segment(input: &[u8]) {
    let Some(name) = files(".segment").pop() else { unreachable!("a log has a segment") };
    open(&with(&name, input));
    open(&with(&name, &with_good_checksums(input)));
}

/// Everything that reads a journal; it may find damage, and must not fall over it.
fn open(disk: &FaultDisk) {
    let _ = inspect(disk);
    let _ = verify_directory(disk);
    let Ok((mut log, _)) = Log::open(disk.clone(), options()) else { return };
    let reader = log.reader();
    for seq in reader.first().0..=reader.end().0 {
        let _ = reader.read(Seq(seq));
    }
    let _ = reader.verify(reader.first(), reader.end());
    if let Ok(mut cursor) = reader.cursor(reader.first()) {
        while let Ok(Some(batch)) = cursor.next_batch() {
            assert!(batch.entries().count() > 0, "a batch has records");
        }
    }
    let mut frame = Frame::new();
    frame.push(b"goes on", None);
    let end = log.end();
    if let Ok(after) = log.append(end, &mut frame) {
        assert_eq!(after.0, end.0 + 1, "the log goes on where it ends");
    }
}

/// The same bytes, with the checksums of the header and of every frame as they should be: what lies behind them is read too.
fn with_good_checksums(input: &[u8]) -> Vec<u8> {
    const HEADER: usize = 4096;
    let mut bytes = input.to_vec();
    let seal = |part: &mut [u8], crc_at: usize| {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&part[..crc_at]);
        hasher.update(&part[crc_at + 4..]);
        part[crc_at..crc_at + 4].copy_from_slice(&hasher.finalize().to_le_bytes());
    };
    if bytes.len() < HEADER {
        return bytes;
    }
    seal(&mut bytes[..HEADER], 12);
    let mut at = HEADER;
    while let Some(head) = bytes.get(at..at + 24) {
        let length = usize::try_from(u32::from_le_bytes([head[16], head[17], head[18], head[19]])).unwrap_or(0);
        let end = at.saturating_add(length);
        if length < 24 || end > bytes.len() {
            break;
        }
        seal(&mut bytes[at..end], 20);
        at = end;
    }
    bytes
}

pub(super) fn segment_seeds() -> Vec<Vec<u8>> {
    files(".segment").iter().map(|name| read(name)).collect()
}

pub(super) fn snapshot(input: &[u8]) {
    let Some(name) = files(".mds").pop() else { unreachable!("the log has a snapshot") };
    let Ok((log, _)) = Log::open(with(&name, input), options()) else { return };
    let mut items = 0;
    let loaded = log.reader().load_snapshot(
        |snapshot| {
            while snapshot.next_item()?.is_some() {
                items += 1;
            }
            Ok(())
        },
        drop,
    );
    if let Ok(Some(())) = loaded {
        assert_eq!(items, 20, "a snapshot is taken whole or not at all");
    }
}

pub(super) fn snapshot_seeds() -> Vec<Vec<u8>> {
    files(".mds").iter().map(|name| read(name)).collect()
}
