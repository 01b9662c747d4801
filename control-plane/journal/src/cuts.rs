//! A trial by power cuts: a log is written, cut off at every moment there is, and opened again, over and over.
//!
//! A life ends at a sync that fails: what was written since the last one is then lost, torn or kept at random. After each
//! the log must hold every acknowledged record and at most the one batch that was under way, whole.

use std::fmt;

use mindos_model::Seq;

use crate::chain::{self, Link};
use crate::fault::{FaultCounts, FaultDisk, Random};
use crate::{Frame, JournalError, Log, Options, Payload, Preparation, verify_directory};

/// What happened in a trial.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CutsReport {
    /// Times the power went, or the process died.
    pub lives: u64,
    /// Lives that ended by a death of the process alone.
    pub kills: u64,
    /// Batches acknowledged.
    pub batches_acked: u64,
    /// Records acknowledged.
    pub records_acked: u64,
    /// Batches not acknowledged that were there whole afterwards.
    pub unacked_kept: u64,
    /// Batches not acknowledged that were gone afterwards.
    pub unacked_gone: u64,
    /// Torn batches that a start cut off.
    pub torn_cut: u64,
    /// Single bytes of a torn batch that a start put right.
    pub repaired: u64,
    /// Batches refused because the disk was full.
    pub no_space: u64,
    /// Snapshots finished.
    pub snapshots: u64,
    /// Segments that became spares.
    pub recycled: u64,
    /// Segments that were unlinked.
    pub unlinked: u64,
    /// Records read and checked after starts.
    pub records_checked: u64,
    /// What the disk did.
    pub disk: FaultCounts,
}

impl CutsReport {
    /// Every count with its name.
    #[must_use]
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        let CutsReport {
            lives,
            kills,
            batches_acked,
            records_acked,
            unacked_kept,
            unacked_gone,
            torn_cut,
            repaired,
            no_space,
            snapshots,
            recycled,
            unlinked,
            records_checked,
            disk,
        } = *self;
        let FaultCounts {
            cuts,
            writes_lost,
            writes_torn,
            writes_kept,
            names_lost,
            names_kept,
            flips: _,
            full,
            syncs_failed,
            syncs,
        } = disk;
        vec![
            ("lives", lives),
            ("cuts", cuts),
            ("kills", kills),
            ("batches_acked", batches_acked),
            ("records_acked", records_acked),
            ("unacked_batches_kept_whole", unacked_kept),
            ("unacked_batches_gone", unacked_gone),
            ("torn_batches_cut", torn_cut),
            ("torn_batches_with_one_byte_put_right", repaired),
            ("batches_refused_for_space", no_space),
            ("snapshots", snapshots),
            ("segments_recycled", recycled),
            ("segments_unlinked", unlinked),
            ("records_checked", records_checked),
            ("writes_lost", writes_lost),
            ("writes_torn", writes_torn),
            ("writes_kept", writes_kept),
            ("names_lost", names_lost),
            ("names_kept", names_kept),
            ("writes_refused_for_space", full),
            ("syncs", syncs),
            ("syncs_failed", syncs_failed),
        ]
    }
}

/// A promise that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Seed of the trial.
    pub seed: u64,
    /// In which of its lives.
    pub life: u64,
    /// What was wrong.
    pub what: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}, life {}: {}", self.seed, self.life, self.what)
    }
}

/// Goes through `lives` lives of one log, all chance drawn from `seed`.
///
/// # Errors
/// The first promise that did not hold.
pub fn run(seed: u64, lives: u64) -> Result<CutsReport, Broken> {
    let mut trial = Trial {
        random: Random::new(seed),
        disk: FaultDisk::new(),
        expected: Expected::default(),
        report: CutsReport::default(),
    };
    for life in 0..lives {
        trial.live().map_err(|what| Broken { seed, life, what })?;
    }
    trial.report.disk = trial.disk.counts();
    Ok(trial.report)
}

/// What the log must hold.
#[derive(Debug, Default)]
struct Expected {
    acked: u64,
    acked_link: Link,
    /// End and link if the batch that was under way survived.
    under_way: Option<(u64, Link)>,
    snapshot: Option<u64>,
    dropped_through: u64,
}

struct Trial {
    random: Random,
    disk: FaultDisk,
    expected: Expected,
    report: CutsReport,
}

impl Trial {
    /// Opens, checks, writes until the end comes.
    fn live(&mut self) -> Result<(), String> {
        let entropy = [self.random.bits().to_le_bytes(), self.random.bits().to_le_bytes()].concat();
        let entropy = entropy.try_into().map_err(|_| "16 bytes are 16 bytes")?;
        // Some starts are cut off too.
        if self.random.chance(10) {
            self.disk.fail_syncs_after(Some(self.random.below(6)));
        }
        let opened = Log::open(
            self.disk.clone(),
            Options {
                segment_bytes: 8 << 10,
                preparation: Preparation::Inline,
                check_all: true,
                ..Options::new(entropy)
            },
        );
        match opened {
            Ok((mut log, recovery)) => {
                self.report.torn_cut += u64::from(recovery.cut.is_some());
                self.report.repaired += recovery.repaired.len() as u64;
                self.check(&log)?;
                self.disk.fail_syncs_after(Some(self.random.below(40)));
                if let Err(error) = self.work(&mut log)
                    && !matches!(error, JournalError::Io { .. } | JournalError::Poisoned { .. })
                {
                    return Err(format!("unexpected error: {error}"));
                }
            }
            Err(JournalError::Io { .. }) => {}
            Err(error) => return Err(format!("does not open: {error}")),
        }
        self.report.lives += 1;
        self.disk.set_quota(None);
        if self.random.chance(15) {
            self.report.kills += 1;
            self.disk = self.disk.kill();
        } else {
            self.disk = self.disk.cut(&mut self.random);
        }
        Ok(())
    }

    fn check(&mut self, log: &Log<FaultDisk>) -> Result<(), String> {
        let (end, link) = (log.end().0, log.end_link());
        let expected = &mut self.expected;
        match expected.under_way.take() {
            _ if end == expected.acked && (link == expected.acked_link || end == 0) => {
                self.report.unacked_gone += 1;
            }
            Some((kept, kept_link)) if end == kept && link == kept_link => self.report.unacked_kept += 1,
            under_way => {
                let acked = expected.acked;
                return Err(format!("log ends at {end}, acknowledged was {acked}, under way {under_way:?}"));
            }
        }
        (expected.acked, expected.acked_link) = (end, link);
        let reader = log.reader();
        let first = reader.first();
        if first.0 > expected.dropped_through + 1 {
            return Err(format!("log begins at {first}, dropped was only {}", expected.dropped_through));
        }
        let mut cursor = reader.cursor(first).map_err(|error| error.to_string())?;
        let mut next = first.0;
        while let Some(batch) = cursor.next_batch().map_err(|error| error.to_string())? {
            for entry in batch.entries() {
                let entry = entry.map_err(|error| error.to_string())?;
                let (metadata, payload) = content(next);
                let found = entry.payload.map(|payload| (*payload.salt, payload.bytes.to_vec()));
                if entry.seq.0 != next || entry.metadata != metadata || found != payload {
                    return Err(format!("record {next} is not as written"));
                }
                next += 1;
            }
        }
        if next != end + 1 {
            return Err(format!("read through {}, log ends at {end}", next - 1));
        }
        self.report.records_checked += next - first.0;
        let verified = verify_directory(&self.disk).map_err(|error| error.to_string())?;
        if let Some(broken) = verified.broken {
            return Err(broken.to_string());
        }
        let newest = reader.snapshots().map_err(|error| error.to_string())?.first().map_or(0, |seq| seq.0);
        let loaded = reader.load_snapshot(|snapshot| Ok(snapshot.seq().0), |_| {});
        let loaded = loaded.map_err(|error| error.to_string())?;
        if loaded.unwrap_or(0) < expected.snapshot.unwrap_or(0) || loaded.unwrap_or(0) != newest {
            return Err(format!("snapshot at {loaded:?} loads, expected {:?}", expected.snapshot));
        }
        Ok(())
    }

    /// Does what a server does, until a sync fails.
    fn work(&mut self, log: &mut Log<FaultDisk>) -> Result<(), JournalError> {
        loop {
            match self.random.below(100) {
                0..92 => self.append(log)?,
                92..95 => {
                    let end = log.end();
                    let mut snapshot = log.reader().write_snapshot(end, log.end_link(), log.epoch())?;
                    for item in 0..self.random.below(20) {
                        snapshot.push(&content(item).0)?;
                    }
                    match snapshot.finish() {
                        Ok(()) => self.expected.snapshot = Some(end.0),
                        Err(JournalError::NoSpace { .. }) => continue,
                        Err(error) => return Err(error),
                    }
                    self.report.snapshots += 1;
                }
                95..98 => {
                    let through = Seq(log.end().0.saturating_sub(self.random.below(60)));
                    let Ok((first, _)) = log.plan_drop(through) else { continue };
                    self.expected.dropped_through = self.expected.dropped_through.max(first.0 - 1);
                    let dropped = log.drop_prefix(through)?;
                    self.report.recycled += dropped.recycled as u64;
                    self.report.unlinked += dropped.unlinked as u64;
                }
                98 => log.begin_epoch(log.epoch() + 1)?,
                _ => {
                    // A disk with room for a little, or for much.
                    let room = self.random.below(3) * 3000;
                    let quota = self.random.chance(60).then(|| self.disk.used_bytes() + room);
                    self.disk.set_quota(quota);
                }
            }
        }
    }

    fn append(&mut self, log: &mut Log<FaultDisk>) -> Result<(), JournalError> {
        let end = log.end();
        let count = 1 + self.random.below(10);
        let mut frame = Frame::new();
        let mut link = log.end_link();
        for seq in end.0 + 1..=end.0 + count {
            let (metadata, payload) = content(seq);
            let digest = payload.as_ref().map(|(salt, bytes)| chain::payload_digest(salt, bytes));
            link = chain::link(&link, seq, &chain::leaf(&metadata, &digest.unwrap_or(chain::NO_PAYLOAD)));
            frame.push(&metadata, payload.as_ref().map(|(salt, bytes)| Payload { salt, bytes }));
        }
        self.expected.under_way = Some((end.0 + count, link));
        match log.append(end, &mut frame) {
            Ok(_) => {}
            Err(JournalError::NoSpace { .. }) => {
                self.expected.under_way = None;
                self.report.no_space += 1;
                self.disk.set_quota(None);
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        self.expected.under_way = None;
        (self.expected.acked, self.expected.acked_link) = (log.end().0, log.end_link());
        self.report.batches_acked += 1;
        self.report.records_acked += count;
        Ok(())
    }
}

/// A payload with its salt.
type Content = Option<([u8; 16], Vec<u8>)>;

/// What the record `seq` says, in every trial.
fn content(seq: u64) -> (Vec<u8>, Content) {
    let mut random = Random::new(seq);
    let mut bytes = |most: u64| -> Vec<u8> {
        let len = random.below(most);
        (0..len).map(|_| random.bits().to_le_bytes()[0]).collect()
    };
    let metadata = bytes(60);
    let payload = bytes(300);
    let salt = [seq.to_le_bytes(), seq.to_be_bytes()].concat().try_into().unwrap_or_default();
    (metadata, (!seq.is_multiple_of(3)).then_some((salt, payload)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cut_loses_what_was_acknowledged() {
        let mut total = CutsReport::default();
        for seed in 0..30 {
            let report = run(seed, 100).unwrap_or_else(|broken| panic!("{broken}"));
            total.lives += report.lives;
            total.unacked_kept += report.unacked_kept;
            total.torn_cut += report.torn_cut;
            total.recycled += report.recycled;
            total.no_space += report.no_space;
        }
        assert_eq!(total.lives, 3000);
        assert!(total.unacked_kept > 0 && total.torn_cut > 0 && total.recycled > 0 && total.no_space > 0, "{total:?}");
    }

    #[test]
    fn a_seed_repeats_a_trial() {
        assert_eq!(run(7, 40), run(7, 40));
    }
}
