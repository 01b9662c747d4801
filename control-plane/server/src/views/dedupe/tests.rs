use bytes::Bytes;
use mindos_core::record::{EventAccepted, Payload};
use mindos_model::{Priority, TenantName};

use super::*;

/// Spread like a SHA-256.
pub(super) fn key(number: u64) -> DedupeKey {
    let mut entropy = mindos_core::input::Entropy(number.wrapping_mul(0x9e37_79b9) ^ 0x5555);
    let mut key = [0; 16];
    key[..8].copy_from_slice(&entropy.draw().to_be_bytes());
    key[8..].copy_from_slice(&entropy.draw().to_be_bytes());
    key
}

pub(super) fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn accepted(seq: u64, key: DedupeKey) -> Entry {
    let event = EventAccepted {
        tenant: TenantName::default_tenant(),
        source: "s".into(),
        id: "i".into(),
        ty: "t".into(),
        kind: "k".into(),
        subject: None,
        lane: "l".into(),
        repository: None,
        priority: Priority::Normal,
        actor: None,
        time: None,
        key,
        digest: [seq as u8; 16],
        payload: Payload { salt: [0; 16], bytes: Bytes::new() },
        route: None,
        strategy: None,
        judgement: None,
        deliveries: vec![],
        fell_back_from: None,
        about: None,
    };
    Entry { seq: Seq(seq), at: Timestamp(seq), record: Record::EventAccepted(Box::new(event)) }
}

fn small(dir: &Path, horizon: Horizon) -> DedupeWriter {
    let mut writer = DedupeWriter::open(dir, horizon).unwrap();
    (writer.buffer_max, writer.run_max) = (100, 400);
    writer
}

fn fill(writer: &mut DedupeWriter, seqs: std::ops::RangeInclusive<u64>) {
    for seq in seqs {
        writer.apply(&accepted(seq, key(seq))).unwrap();
    }
}

#[test]
fn what_is_covered_is_found_also_after_reopening() {
    let dir = scratch();
    let mut writer = small(dir.path(), Horizon::default());
    fill(&mut writer, 1..=1_050);
    let index = writer.index();
    let covered = index.covered_through();
    assert!(covered >= Seq(900), "{covered}");
    let check = |index: &DedupeIndex, through: u64| {
        for seq in 1..=through {
            let seen = Seen { event: Seq(seq), digest: [seq as u8; 16] };
            assert_eq!(index.lookup(&key(seq)).unwrap(), Some(seen));
        }
    };
    check(&index, covered.0);
    drop(writer);

    let mut writer = small(dir.path(), Horizon::default());
    assert_eq!(writer.next(), covered.next());
    fill(&mut writer, covered.0 + 1..=1_050);
    writer.close().unwrap();
    check(&writer.index(), 1_050);
    assert_eq!(writer.index().keys(), 1_050);
}

#[test]
fn runs_are_merged_and_the_oldest_leave_past_the_horizon() {
    let dir = scratch();
    let mut writer = small(dir.path(), Horizon { keys: 1_000, ..Horizon::default() });
    fill(&mut writer, 1..=10_000);
    let index = writer.index();
    assert!(index.runs.load().len() <= 6, "{}", index.runs.load().len());
    assert!((1_000..=1_400).contains(&index.keys()));
    assert!(index.lookup(&key(1)).unwrap().is_none());
    assert!(index.lookup(&key(index.covered_through().0)).unwrap().is_some());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), index.runs.load().len());
}

#[test]
fn a_key_that_came_again_is_known_by_its_newer_event() {
    let dir = scratch();
    let mut writer = small(dir.path(), Horizon::default());
    writer.apply(&accepted(1, key(7))).unwrap();
    fill(&mut writer, 100..=350);
    writer.apply(&accepted(351, key(7))).unwrap();
    writer.flush().unwrap();
    assert_eq!(writer.index().lookup(&key(7)).unwrap().unwrap().event, Seq(351));
    writer.apply(&accepted(352, key(7))).unwrap();
    writer.apply(&accepted(353, key(7))).unwrap();
    writer.flush().unwrap();
    assert_eq!(writer.index().lookup(&key(7)).unwrap().unwrap().event, Seq(353));
}

#[test]
fn a_damaged_run_takes_those_before_it_along() {
    let dir = scratch();
    let mut writer = small(dir.path(), Horizon::default());
    fill(&mut writer, 1..=1_600);
    let runs = writer.index().runs.load().clone();
    assert!(runs.len() >= 3);
    let damaged = runs[1].span;
    drop(writer);
    let path = dir.path().join(format!("{:020}-{:020}.run", damaged.first.0, damaged.through.0));
    let mut bytes = fs::read(&path).unwrap();
    bytes[99] ^= 4;
    fs::write(&path, bytes).unwrap();

    let writer = small(dir.path(), Horizon::default());
    assert_eq!(writer.index().covered_from(), Some(damaged.through.next()));
    assert!(writer.index().lookup(&key(1)).unwrap().is_none());
}

#[test]
fn a_prefix_that_left_unseen_empties_the_index() {
    let dir = scratch();
    let mut writer = small(dir.path(), Horizon::default());
    fill(&mut writer, 1..=500);
    writer.skip_to(Seq(900)).unwrap();
    assert_eq!((writer.next(), writer.index().keys()), (Seq(900), 0));
    assert!(writer.index().lookup(&key(1)).unwrap().is_none());
}
