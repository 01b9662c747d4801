//! A disk in memory that does its worst: at a cut it loses and tears what was not synced.
//!
//! Every write since its file's last sync survives a cut sector by sector, each by itself, in part, or not at all; so do
//! creations, unlinks and renames since the last sync of the directory. It can also flip bits, fill up and fail a sync.
//! Invariant: all chance comes from the caller, so a seed repeats a run exactly.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::disk::{Disk, DiskFile};

/// Unit in which a write survives a cut, unless it is torn inside.
const SECTOR_BYTES: usize = 512;

/// A small seeded generator (splitmix64), so that tests need no other.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The generator of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which must not be zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.bits() % bound
    }

    /// True `percent` times in a hundred.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// How often each kind of fault happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Times the power went.
    pub cuts: u64,
    /// Unsynced writes that were lost whole.
    pub writes_lost: u64,
    /// Unsynced writes of which a part survived.
    pub writes_torn: u64,
    /// Unsynced writes that survived whole.
    pub writes_kept: u64,
    /// Unsynced changes of names that were lost.
    pub names_lost: u64,
    /// Unsynced changes of names that survived.
    pub names_kept: u64,
    /// Bits flipped.
    pub flips: u64,
    /// Writes refused because the disk was full.
    pub full: u64,
    /// Syncs that failed.
    pub syncs_failed: u64,
    /// Syncs that succeeded.
    pub syncs: u64,
}

#[derive(Debug, Default)]
struct FileData {
    safe: Vec<u8>,
    seen: Vec<u8>,
    /// Since the last sync, in order.
    pending: Vec<(usize, Vec<u8>)>,
}

impl FileData {
    fn write(to: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
        if to.len() < offset + bytes.len() {
            to.resize(offset + bytes.len(), 0);
        }
        to[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    fn cut(&mut self, random: &mut Random, counts: &mut FaultCounts) {
        // Some cuts lose all, some nothing, most a part.
        let keep = [0, 10, 50, 90, 100][usize::try_from(random.below(5)).expect("below five")];
        for (offset, bytes) in std::mem::take(&mut self.pending) {
            let (mut kept, mut lost) = (0, 0);
            let mut from = offset;
            while from < offset + bytes.len() {
                // Sectors lie on the disk, not in the write.
                let to = ((from / SECTOR_BYTES + 1) * SECTOR_BYTES).min(offset + bytes.len());
                let mut sector = &bytes[from - offset..to - offset];
                if random.chance(keep) {
                    if random.chance(3) {
                        // Zeroes at its end mostly stood there before, so to lose them is to lose nothing.
                        let told = sector.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1);
                        sector = &sector[..usize::try_from(random.below(told as u64)).expect("in a sector")];
                        lost += 1;
                    }
                    kept += 1;
                    FileData::write(&mut self.safe, from, sector);
                } else {
                    lost += 1;
                }
                from = to;
            }
            match (kept, lost) {
                (0, _) => counts.writes_lost += 1,
                (_, 0) => counts.writes_kept += 1,
                _ => counts.writes_torn += 1,
            }
        }
        self.seen.clone_from(&self.safe);
    }
}

type FileId = u64;

/// A change of names: what each name stands for afterwards.
#[derive(Clone, Debug)]
struct NameChange(Vec<(String, Option<FileId>)>);

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<FileId, FileData>,
    names: BTreeMap<String, FileId>,
    safe_names: BTreeMap<String, FileId>,
    pending: Vec<NameChange>,
    next_file: FileId,
    /// Grows with every cut; handles from before are dead.
    life: u64,
    locked: bool,
    quota_bytes: Option<u64>,
    syncs_until_failure: Option<u64>,
    counts: FaultCounts,
}

impl State {
    fn change(&mut self, change: Vec<(String, Option<FileId>)>) {
        let change = NameChange(change);
        apply(&mut self.names, &change);
        self.pending.push(change);
    }

    fn forget_nameless(&mut self) {
        let State { files, names, safe_names, pending, .. } = self;
        files.retain(|id, _| {
            names.values().chain(safe_names.values()).any(|named| named == id)
                || pending.iter().any(|change| change.0.iter().any(|(_, file)| *file == Some(*id)))
        });
    }

    fn used_bytes(&self) -> u64 {
        self.names.values().filter_map(|id| self.files.get(id)).map(|file| file.seen.len() as u64).sum()
    }

    fn count_sync(&mut self) -> io::Result<()> {
        match &mut self.syncs_until_failure {
            Some(0) => {
                self.counts.syncs_failed += 1;
                return Err(io::Error::other("injected sync failure"));
            }
            Some(left) => *left -= 1,
            None => {}
        }
        self.counts.syncs += 1;
        Ok(())
    }
}

fn apply(names: &mut BTreeMap<String, FileId>, change: &NameChange) {
    for (name, file) in &change.0 {
        match file {
            Some(id) => names.insert(name.clone(), *id),
            None => names.remove(name),
        };
    }
}

/// The disk. A clone is the same disk.
#[derive(Clone, Debug)]
pub struct FaultDisk {
    state: Arc<Mutex<State>>,
    /// Of this handle; see [`State::life`].
    life: u64,
}

impl Default for FaultDisk {
    fn default() -> FaultDisk {
        FaultDisk::new()
    }
}

impl FaultDisk {
    /// An empty disk without limits.
    #[must_use]
    pub fn new() -> FaultDisk {
        FaultDisk { state: Arc::default(), life: 0 }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the lock panics")
    }

    fn alive(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.state();
        if state.life == self.life { Ok(state) } else { Err(io::Error::other("the power went")) }
    }

    /// The power goes and comes back: returns the disk as the next start finds it. Older handles are dead.
    #[must_use]
    pub fn cut(&self, random: &mut Random) -> FaultDisk {
        let mut state = self.state();
        let State { files, names, safe_names, pending, counts, .. } = &mut *state;
        counts.cuts += 1;
        let keep = [0, 50, 100][usize::try_from(random.below(3)).expect("below three")];
        for change in std::mem::take(pending) {
            if random.chance(keep) {
                counts.names_kept += 1;
                apply(safe_names, &change);
            } else {
                counts.names_lost += 1;
            }
        }
        names.clone_from(safe_names);
        for file in files.values_mut() {
            file.cut(random, counts);
        }
        state.syncs_until_failure = None;
        state.locked = false;
        state.life += 1;
        state.forget_nameless();
        FaultDisk { state: Arc::clone(&self.state), life: state.life }
    }

    /// The process dies and the machine stays up: nothing is lost, handles are dead, the lock is free.
    #[must_use]
    pub fn kill(&self) -> FaultDisk {
        let mut state = self.state();
        state.locked = false;
        state.life += 1;
        state.syncs_until_failure = None;
        FaultDisk { state: Arc::clone(&self.state), life: state.life }
    }

    /// An independent copy of what the disk shows, all of it safe.
    #[must_use]
    pub fn copy(&self) -> FaultDisk {
        let copy = FaultDisk::new();
        let state = self.state();
        let mut other = copy.state();
        for (name, id) in &state.names {
            let seen = state.files[id].seen.clone();
            let id = other.next_file;
            other.next_file += 1;
            other.files.insert(id, FileData { safe: seen.clone(), seen, pending: Vec::new() });
            other.names.insert(name.clone(), id);
            other.safe_names.insert(name.clone(), id);
        }
        drop(other);
        copy
    }

    /// Changes one byte where it lies: `mask` is added without carry. False if there is no such byte.
    pub fn flip(&self, name: &str, offset: u64, mask: u8) -> bool {
        let mut state = self.state();
        let Some(id) = state.names.get(name).copied() else { return false };
        let Some(file) = state.files.get_mut(&id) else { return false };
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        let found = file.seen.get_mut(at).map(|byte| *byte ^= mask).is_some();
        if let Some(byte) = file.safe.get_mut(at) {
            *byte ^= mask;
        }
        state.counts.flips += u64::from(found);
        found
    }

    /// Writes beyond this many bytes in all are refused; `None` lifts the limit.
    pub fn set_quota(&self, quota_bytes: Option<u64>) {
        self.state().quota_bytes = quota_bytes;
    }

    /// Bytes in all files that have a name.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.state().used_bytes()
    }

    /// After `successes` more syncs all fail, until the next cut or kill; `None` takes that back.
    pub fn fail_syncs_after(&self, successes: Option<u64>) {
        self.state().syncs_until_failure = successes;
    }

    /// How often each kind of fault happened so far.
    #[must_use]
    pub fn counts(&self) -> FaultCounts {
        self.state().counts
    }
}

/// Lock of a [`FaultDisk`].
#[derive(Debug)]
pub struct FaultLock(FaultDisk);

impl Drop for FaultLock {
    fn drop(&mut self) {
        if let Ok(mut state) = self.0.alive() {
            state.locked = false;
        }
    }
}

/// File of a [`FaultDisk`].
#[derive(Debug)]
pub struct FaultFile {
    disk: FaultDisk,
    id: FileId,
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Disk for FaultDisk {
    type File = FaultFile;
    type Lock = FaultLock;

    fn lock(&self) -> io::Result<FaultLock> {
        let mut state = self.alive()?;
        if std::mem::replace(&mut state.locked, true) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(FaultLock(self.clone()))
    }

    fn create(&self, name: &str) -> io::Result<FaultFile> {
        let mut state = self.alive()?;
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let id = state.next_file;
        state.next_file += 1;
        state.files.insert(id, FileData::default());
        state.change(vec![(name.to_owned(), Some(id))]);
        Ok(FaultFile { disk: self.clone(), id })
    }

    fn open(&self, name: &str) -> io::Result<FaultFile> {
        let state = self.alive()?;
        let id = *state.names.get(name).ok_or_else(not_found)?;
        Ok(FaultFile { disk: self.clone(), id })
    }

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let state = self.alive()?;
        Ok(state.names.iter().map(|(name, id)| (name.clone(), state.files[id].seen.len() as u64)).collect())
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        let mut state = self.alive()?;
        state.names.get(name).ok_or_else(not_found)?;
        state.change(vec![(name.to_owned(), None)]);
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.alive()?;
        let id = *state.names.get(from).ok_or_else(not_found)?;
        state.change(vec![(from.to_owned(), None), (to.to_owned(), Some(id))]);
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.alive()?;
        state.count_sync()?;
        let State { names, safe_names, pending, .. } = &mut *state;
        pending.clear();
        safe_names.clone_from(names);
        Ok(())
    }

    fn describe(&self, name: &str) -> String {
        name.to_owned()
    }
}

impl FaultFile {
    fn with<T>(&self, act: impl FnOnce(&mut State, FileId) -> io::Result<T>) -> io::Result<T> {
        act(&mut *self.disk.alive()?, self.id)
    }
}

impl DiskFile for FaultFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.with(|state, id| {
            let seen = &state.files.get(&id).ok_or_else(not_found)?.seen;
            let from = usize::try_from(offset).unwrap_or(usize::MAX).min(seen.len());
            let read = buf.len().min(seen.len() - from);
            buf[..read].copy_from_slice(&seen[from..from + read]);
            Ok(read)
        })
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.with(|state, id| {
            let used = state.used_bytes();
            let quota_bytes = state.quota_bytes.unwrap_or(u64::MAX);
            let file = state.files.get_mut(&id).ok_or_else(not_found)?;
            let grows = (offset + bytes.len() as u64).saturating_sub(file.seen.len() as u64);
            if grows > 0 && used + grows > quota_bytes {
                state.counts.full += 1;
                return Err(io::ErrorKind::StorageFull.into());
            }
            let offset = usize::try_from(offset).map_err(io::Error::other)?;
            FileData::write(&mut file.seen, offset, bytes);
            file.pending.push((offset, bytes.to_vec()));
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|state, id| {
            state.count_sync()?;
            let file = state.files.get_mut(&id).ok_or_else(not_found)?;
            for (offset, bytes) in std::mem::take(&mut file.pending) {
                FileData::write(&mut file.safe, offset, &bytes);
            }
            Ok(())
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|state, id| Ok(state.files.get(&id).ok_or_else(not_found)?.seen.len() as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_synced_survives_every_cut() {
        for seed in 0..200 {
            let disk = FaultDisk::new();
            let file = disk.create("a").unwrap();
            file.write_at(&[1; 2000], 0).unwrap();
            file.sync_data().unwrap();
            disk.sync_dir().unwrap();
            file.write_at(&[2; 2000], 2000).unwrap();

            let disk = disk.cut(&mut Random::new(seed));

            let mut bytes = [0; 2000];
            assert_eq!(disk.open("a").unwrap().read_at(&mut bytes, 0).unwrap(), 2000);
            assert_eq!(bytes, [1; 2000]);
            assert!(file.len().is_err(), "a handle from before the cut lives");
        }
    }

    #[test]
    fn what_was_not_synced_is_kept_lost_and_torn() {
        let mut counts = FaultCounts::default();
        for seed in 0..200 {
            let disk = FaultDisk::new();
            disk.create("a").unwrap().write_at(&[1; 2000], 0).unwrap();
            disk.rename("a", "b").unwrap();

            let after = disk.cut(&mut Random::new(seed)).counts();

            counts.writes_lost += after.writes_lost;
            counts.writes_kept += after.writes_kept;
            counts.writes_torn += after.writes_torn;
            counts.names_kept += after.names_kept;
            counts.names_lost += after.names_lost;
        }
        assert!(counts.writes_lost > 0 && counts.writes_kept > 0 && counts.writes_torn > 0, "{counts:?}");
        assert!(counts.names_lost > 0 && counts.names_kept > 0, "{counts:?}");
    }

    #[test]
    fn a_full_disk_refuses_growth_and_takes_overwrites() {
        let disk = FaultDisk::new();
        disk.set_quota(Some(100));
        let file = disk.create("a").unwrap();
        file.write_at(&[0; 100], 0).unwrap();

        assert_eq!(file.write_at(&[1; 2], 99).unwrap_err().kind(), io::ErrorKind::StorageFull);
        file.write_at(&[1; 100], 0).unwrap();
    }
}
