//! What the log promises, on a disk that does its worst.

use mindos_model::Seq;

use crate::fault::{FaultDisk, Random};
use crate::segment::FRAMES_AT;
use crate::testing::{TempDir, append, check, fill, frame, metadata, open, options, payload};
use crate::{Disk, DiskFile as _, Fault, Frame, JournalError, Log, Options, Reader, RealDisk, verify_directory};

#[test]
fn what_is_appended_is_read_back_after_a_start() {
    let disk = FaultDisk::new();
    let (mut log, recovery) = open(&disk, 1);
    assert_eq!((recovery.first, recovery.end, recovery.cut), (Seq(1), Seq(0), None));
    fill(&mut log, &mut Random::new(1), 1000);
    let link = log.end_link();
    drop(log);

    let (log, recovery) = open(&disk, 2);

    assert_eq!((recovery.end, recovery.end_link, recovery.cut), (Seq(1000), link, None));
    assert!(log.shared.segments().len() > 5);
    assert_eq!(check(&log.reader(), 1), 1000);
}

#[test]
fn a_cursor_starts_anywhere_and_any_record_can_be_read_alone() {
    let disk = FaultDisk::new();
    let (mut log, _) = open(&disk, 1);
    fill(&mut log, &mut Random::new(7), 700);
    let fresh = log.reader();
    drop(log);
    let reopened = open(&disk, 2).0.reader();
    for reader in [fresh, reopened] {
        for from in (1..=701).step_by(7) {
            assert_eq!(check(&reader, from), 700);
        }
        for seq in 1..=700 {
            let stored = reader.read(Seq(seq)).unwrap();
            assert_eq!(stored.metadata, metadata(seq));
            assert_eq!(stored.payload.map(|payload| (payload.salt, payload.bytes.to_vec())), payload(seq));
        }
        assert!(matches!(reader.read(Seq(701)), Err(JournalError::PastEnd { .. })));
    }
}

#[test]
fn an_append_that_expects_another_end_changes_nothing() {
    let disk = FaultDisk::new();
    let (mut log, _) = open(&disk, 1);
    append(&mut log, 3).unwrap();

    let refused = log.append(Seq(2), &mut frame(3, 1));

    assert!(matches!(refused, Err(JournalError::UnexpectedEnd { expected: Seq(2), end: Seq(3) })));
    append(&mut log, 1).unwrap();
    assert_eq!(check(&log.reader(), 1), 4);
}

#[test]
fn an_older_epoch_cannot_write() {
    let disk = FaultDisk::new();
    let (mut log, _) = open(&disk, 1);
    log.begin_epoch(3).unwrap();
    append(&mut log, 3).unwrap();
    drop(log);

    let (mut log, recovery) = open(&disk, 2);

    assert_eq!(recovery.epoch, 3);
    assert!(matches!(log.begin_epoch(2), Err(JournalError::StaleEpoch { presented: 2, current: 3 })));
    log.begin_epoch(4).unwrap();
}

#[test]
fn a_second_writer_is_locked_out() {
    let disk = FaultDisk::new();
    let (log, _) = open(&disk, 1);

    assert!(matches!(Log::open(disk.clone(), options(2)), Err(JournalError::Locked { .. })));
    drop(log);
    open(&disk, 3);
}

#[test]
fn after_a_failed_sync_nothing_is_written_any_more() {
    let disk = FaultDisk::new();
    let (mut log, _) = open(&disk, 1);
    append(&mut log, 3).unwrap();
    disk.fail_syncs_after(Some(0));

    let failed = append(&mut log, 2).unwrap_err();

    assert!(failed.is_fatal(), "{failed}");
    disk.fail_syncs_after(None);
    assert!(matches!(append(&mut log, 2), Err(JournalError::Poisoned { .. })));
    assert_eq!(check(&log.reader(), 1), 3);
}

#[test]
fn a_full_disk_refuses_a_batch_and_takes_it_later() {
    let disk = FaultDisk::new();
    let (mut log, _) = open(&disk, 1);
    disk.set_quota(Some(disk.used_bytes() + 1000));
    let mut random = Random::new(5);
    let refused = loop {
        match append(&mut log, 1 + random.below(8)) {
            Ok(_) => assert!(log.end().0 < 1000, "the disk never fills"),
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, JournalError::NoSpace { .. }), "{refused}");
    assert!(!refused.is_fatal());
    let end = log.end().0;
    assert_eq!(check(&log.reader(), 1), end);
    // The reserve was used: one whole segment beyond the first.
    assert_eq!(log.shared.segments().len(), 2);

    disk.set_quota(None);
    append(&mut log, 4).unwrap();

    drop(log);
    assert_eq!(check(&open(&disk, 2).0.reader(), 1), end + 4);
}

#[test]
fn a_torn_batch_is_cut_and_reported() {
    let disk = FaultDisk::new();
    let (mut log, _) = open(&disk, 1);
    append(&mut log, 3).unwrap();
    let offset = log.shared.segments()[0].extent().end_offset;
    append(&mut log, 8).unwrap();
    drop(log);
    // Two bytes are more than one flip explains.
    assert!(disk.flip(&format!("{:020}.segment", 1), offset + 200, 1));
    assert!(disk.flip(&format!("{:020}.segment", 1), offset + 300, 1));

    let (mut log, recovery) = open(&disk, 2);

    assert_eq!(recovery.end, Seq(3));
    assert_eq!(recovery.cut.unwrap().offset, offset);
    append(&mut log, 1).unwrap();
    drop(log);
    assert_eq!(check(&open(&disk, 3).0.reader(), 1), 4);
}

#[test]
fn a_directory_without_a_log_is_named_as_such() {
    assert!(matches!(verify_directory(&FaultDisk::new()), Err(JournalError::NoLog { .. })));
    assert!(matches!(Reader::offline(FaultDisk::new()), Err(JournalError::NoLog { .. })));
}

#[test]
fn a_missing_segment_stops_the_start() {
    let disk = FaultDisk::new();
    let (mut log, _) = open(&disk, 1);
    fill(&mut log, &mut Random::new(1), 600);
    let second = log.shared.segments()[1].name.clone();
    drop(log);
    disk.unlink(&second).unwrap();

    let Err(JournalError::Damaged(damage)) = Log::open(disk.clone(), options(2)) else { panic!("it opened") };

    assert_eq!(damage.fault, Fault::MissingSegment { expected: 2, found: 3 });
}

#[test]
fn every_flipped_bit_is_found_where_it_is_or_put_right() {
    let disk = FaultDisk::new();
    let (mut log, _) = Log::open(disk.clone(), Options { segment_bytes: 8 << 10, ..options(1) }).unwrap();
    fill(&mut log, &mut Random::new(3), 90);
    let segments: Vec<_> = {
        let segments = log.shared.segments();
        segments.iter().map(|segment| (segment.name.clone(), segment.extent().end_offset)).collect()
    };
    let end_link = log.end_link();
    drop(log);
    assert!(segments.len() >= 3);
    let mut random = Random::new(9);
    for (number, (name, end_offset)) in segments.iter().enumerate() {
        for offset in 0..*end_offset {
            let copy = disk.copy();
            assert!(copy.flip(name, offset, 1 << random.below(8)));

            let verified = verify_directory(&copy).unwrap();

            let broken = verified.broken.unwrap_or_else(|| panic!("{name} {offset} went unseen"));
            assert_eq!((&broken.file, broken.offset), (name, offset), "{broken}");
            match Log::open(copy.clone(), Options { check_all: true, ..options(2) }) {
                Ok((log, recovery)) => {
                    // Only the last batch is put right, and nothing of it is lost.
                    assert_eq!(number, segments.len() - 1);
                    assert_eq!((recovery.repaired[0].offset, recovery.end_link), (offset, end_link));
                    assert_eq!(check(&log.reader(), 1), 90);
                }
                Err(JournalError::Damaged(damage)) => {
                    assert_eq!((&damage.file, damage.offset), (name, offset), "{damage}");
                }
                Err(other) => panic!("{other}"),
            }
        }
    }
}

#[test]
fn what_an_earlier_use_left_in_a_recycled_segment_is_not_read() {
    let disk = FaultDisk::new();
    let (mut log, _) = open(&disk, 1);
    let mut random = Random::new(11);
    for round in 0..20 {
        fill(&mut log, &mut random, 100);
        let reader = log.reader();
        let (end, link) = (log.end(), log.end_link());
        reader.write_snapshot(end, link, 1).unwrap().finish().unwrap();
        let dropped = log.drop_prefix(Seq(end.0.saturating_sub(60))).unwrap();
        assert_eq!(reader.first(), dropped.first);
        assert_eq!(check(&reader, dropped.first.0), end.0);
        drop((log, reader));
        log = open(&disk, 100 + round).0;
        assert_eq!((log.end(), log.end_link()), (end, link));
    }
    assert!(log.shared.segments().last().unwrap().header.number > 10);
    assert!(log.shared.segments().len() < 6);
    assert!(log.reader().verify(Seq(1), Seq(u64::MAX)).unwrap().broken.is_none());
}

#[test]
fn nothing_is_dropped_that_no_snapshot_stands_for() {
    let disk = FaultDisk::new();
    let (mut log, _) = open(&disk, 1);
    fill(&mut log, &mut Random::new(1), 500);
    assert!(matches!(log.drop_prefix(Seq(400)), Err(JournalError::NoSnapshot { .. })));

    log.reader().write_snapshot(Seq(200), [0; 32], 1).unwrap().finish().unwrap();
    let dropped = log.drop_prefix(Seq(400)).unwrap();

    assert!(dropped.first.0 <= 201 && dropped.first.0 > 100, "{dropped:?}");
    assert!(matches!(log.reader().cursor(Seq(1)), Err(JournalError::Dropped { .. })));
}

#[test]
fn a_reader_keeps_what_is_dropped_under_it() {
    let disk = FaultDisk::new();
    let (mut log, _) = Log::open(disk.clone(), Options { spares_max: 100, ..options(1) }).unwrap();
    fill(&mut log, &mut Random::new(1), 500);
    let reader = log.reader();
    let mut cursor = reader.cursor(Seq(1)).unwrap();
    let first = cursor.next_batch().unwrap().unwrap().last();
    reader.write_snapshot(Seq(500), log.end_link(), 1).unwrap().finish().unwrap();

    let dropped = log.drop_prefix(Seq(450)).unwrap();
    fill(&mut log, &mut Random::new(2), 500);

    assert_eq!(dropped.unlinked, 1, "the segment that is being read was recycled");
    let next = cursor.next_batch().unwrap().unwrap();
    assert_eq!(next.first(), first.next());
    assert_eq!(next.entries().next().unwrap().unwrap().metadata, metadata(first.0 + 1));
    let dropped = loop {
        match cursor.next_batch() {
            Ok(batch) => assert!(batch.is_some()),
            Err(error) => break error,
        }
    };
    assert!(matches!(dropped, JournalError::Dropped { .. }), "{dropped}");
}

/// What stands behind the end when a cursor is made is not what is there once the log has gone on.
#[test]
fn a_cursor_of_the_end_reads_what_comes_after_it() {
    let disk = FaultDisk::new();
    let (mut log, _) = open(&disk, 1);
    for _ in 0..3 {
        append(&mut log, 1).unwrap();
    }
    for from in [Seq(3), Seq(4)] {
        let end = log.reader().end();
        let mut cursor = log.reader().cursor(from).unwrap();
        append(&mut log, 1).unwrap();
        let mut found = Vec::new();
        while let Some(batch) = cursor.next_batch().unwrap() {
            found.push(batch.first());
        }
        assert_eq!(found.last(), Some(&end.next()), "from {from:?}");
    }
}

#[test]
fn the_newest_whole_snapshot_is_loaded() {
    let disk = FaultDisk::new();
    let (mut log, _) = open(&disk, 1);
    fill(&mut log, &mut Random::new(1), 100);
    let reader = log.reader();
    for seq in [20, 40, 60] {
        let mut writer = reader.write_snapshot(Seq(seq), [seq as u8; 32], 7).unwrap();
        for item in 0..seq {
            writer.push(&metadata(item)).unwrap();
        }
        writer.finish().unwrap();
    }
    assert_eq!(reader.snapshots().unwrap(), [Seq(60), Seq(40)]);
    let load = |reader: &Reader<FaultDisk>| {
        let mut skipped = 0;
        let loaded = reader.load_snapshot(
            |snapshot| {
                let mut items = 0;
                while let Some(item) = snapshot.next_item()? {
                    assert_eq!(item, metadata(items));
                    items += 1;
                }
                assert_eq!((snapshot.link(), snapshot.epoch()), ([items as u8; 32], 7));
                Ok((snapshot.seq(), items))
            },
            |_| skipped += 1,
        );
        (loaded.unwrap(), skipped)
    };
    assert_eq!(load(&reader), (Some((Seq(60), 60)), 0));
    let bytes = disk.list().unwrap().iter().find(|(name, _)| name.contains("60.mds")).unwrap().1;
    drop(log);
    for offset in 0..bytes {
        let copy = disk.copy();
        copy.flip(&format!("snapshot-{:020}.mds", 60), offset, 0x20);

        assert_eq!(load(&open(&copy, 2).0.reader()), (Some((Seq(40), 40)), 1), "offset {offset}");
    }
}

#[test]
fn a_batch_beyond_a_segment_is_refused() {
    let disk = FaultDisk::new();
    let (mut log, _) = open(&disk, 1);
    let mut frame = Frame::new();
    frame.push(&[0; 16 << 10], None);

    assert!(matches!(log.append(Seq(0), &mut frame), Err(JournalError::BatchTooLarge { .. })));
    append(&mut log, 1).unwrap();
}

#[test]
fn large_batches_are_read_record_by_record() {
    let disk = FaultDisk::new();
    let options = |seed| Options { segment_bytes: 1 << 20, ..options(seed) };
    let (mut log, _) = Log::open(disk.clone(), options(1)).unwrap();
    for _ in 0..10 {
        append(&mut log, 2000).unwrap();
    }
    let written = log.reader();
    let reopened = {
        let copy = disk.copy();
        Log::open(copy, options(2)).unwrap().0.reader()
    };
    for reader in [written, reopened] {
        for number in 0..2000 {
            let seq = 1 + number * 7919 % 20_000;
            assert_eq!(reader.read(Seq(seq)).unwrap().metadata, metadata(seq));
        }
        let segments = reader.shared.segments();
        let places: usize = segments.iter().map(|segment| segment.extent().places.len()).sum();
        assert!((30..100).contains(&places), "{places} places for 2.6 MB");
        assert!(segments.iter().all(|segment| segment.extent().places.is_sorted_by_key(|place| place.seq)));
    }
}

#[test]
fn readers_follow_a_writer_from_other_threads() {
    let directory = crate::testing::TempDir::new();
    let disk = crate::RealDisk::new(directory.path()).unwrap();
    let (mut log, _) =
        Log::open(disk.clone(), Options { preparation: crate::Preparation::Thread, ..options(1) }).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let reader = log.reader();
            scope.spawn(move || {
                let mut cursor = reader.cursor(Seq(1)).unwrap();
                let mut next = 1;
                while next <= 2000 {
                    while let Some(batch) = cursor.next_batch().unwrap() {
                        for entry in batch.entries() {
                            assert_eq!(entry.unwrap().metadata, metadata(next));
                            next += 1;
                        }
                        let back = Seq((next / 2).max(1));
                        assert_eq!(reader.read(back).unwrap().metadata, metadata(back.0));
                    }
                    std::thread::yield_now();
                }
            });
        }
        while log.end() < Seq(2000) {
            let (end, count) = (log.end(), 1 + log.end().0 % 7);
            log.append(end, &mut frame(end.0 + 1, count)).unwrap();
        }
    });
    drop(log);
    let (log, _) = Log::open(disk, options(2)).unwrap();
    assert!(log.reader().verify(Seq(1), log.end()).unwrap().broken.is_none());
    assert!(!log.usage().is_tight());
}

#[test]
fn room_is_tight_from_nine_tenths_of_the_quota() {
    let disk = FaultDisk::new();
    let (mut log, _) = Log::open(disk.clone(), Options { quota_bytes: 128 << 10, ..options(1) }).unwrap();
    let mut random = Random::new(1);
    let mut tight_at = None;
    for _ in 0..200 {
        append(&mut log, 1 + random.below(8)).unwrap();
        if log.usage().is_tight() && tight_at.is_none() {
            tight_at = Some(log.usage().used_bytes);
        }
    }
    assert!((118_000..131_073).contains(&tight_at.unwrap()), "{tight_at:?}");

    log.reader().write_snapshot(log.end(), log.end_link(), 1).unwrap().finish().unwrap();
    log.drop_prefix(log.end()).unwrap();

    assert!(!log.usage().is_tight());
    assert_eq!(log.usage().used_bytes, disk.used_bytes());
}

#[test]
fn zeroes_behind_a_frame_fill_its_block_and_the_next_frame_takes_their_place() {
    let disk = FaultDisk::new();
    let (mut log, _) = open(&disk, 1);
    let live = log.shared.segments().last().unwrap().clone();
    // As an earlier use may leave it.
    let before = live.file_bytes - FRAMES_AT;
    live.file.write_at(&vec![0xaa; usize::try_from(before).unwrap()], FRAMES_AT).unwrap();
    let mut ends = vec![FRAMES_AT];
    for _ in 0..12 {
        append(&mut log, 2).unwrap();

        let end = live.extent().end_offset;
        let (from, block_end) = (usize::try_from(end).unwrap(), end.next_multiple_of(4096).min(live.file_bytes));
        let block_end = usize::try_from(block_end).unwrap();
        let mut bytes = vec![0; usize::try_from(live.file_bytes).unwrap()];
        live.file.read_at(&mut bytes, 0).unwrap();
        assert!(bytes[from..block_end].iter().all(|byte| *byte == 0));
        assert!(bytes[block_end..].iter().all(|byte| *byte == 0xaa));
        let magic = usize::try_from(*ends.last().unwrap()).unwrap();
        assert_eq!(bytes[magic..magic + 8], *b"MDFRAME1");
        ends.push(end);
    }
    drop(log);

    let (log, recovery) = open(&disk, 2);

    assert_eq!((recovery.end, recovery.cut), (Seq(24), None));
    assert_eq!(check(&log.reader(), 1), 24);
}

#[test]
fn a_segment_that_ends_within_a_block_keeps_its_length() {
    let directory = TempDir::new();
    let odd = |seed| Options { segment_bytes: (12 << 10) + 1000, ..options(seed) };
    let (mut log, _) = Log::open(RealDisk::new(directory.path()).unwrap(), odd(1)).unwrap();
    let mut random = Random::new(4);
    while log.end().0 < 800 {
        let end = log.end();
        log.append(end, &mut frame(end.0 + 1, 1 + random.below(8))).unwrap();
    }
    let (end, link) = (log.end(), log.end_link());
    drop(log);

    let (log, recovery) =
        Log::open(RealDisk::new(directory.path()).unwrap(), Options { check_all: true, ..odd(2) }).unwrap();

    assert_eq!((recovery.end, recovery.end_link, recovery.cut), (end, link, None));
    let segments = log.shared.segments();
    assert!(segments.len() > 5 && segments.iter().all(|segment| segment.file.len().unwrap() == 13_288));
}
