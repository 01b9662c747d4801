//! The disk: the few things the journal asks of a directory and its files.
//!
//! Everything the journal writes goes through here, so a test can put a disk underneath that loses at a cut what was
//! not synced. Invariant: bytes are safe after `sync_data` of their file, names after `sync_dir`, nothing earlier.

use std::fmt::Debug;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
#[cfg(target_os = "linux")]
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

/// A directory that holds the journal's files. A clone is another handle on the same directory.
pub trait Disk: Clone + Debug + Send + Sync + 'static {
    /// An open file.
    type File: DiskFile;
    /// Sole ownership of the directory, given back when dropped.
    type Lock: Debug + Send + Sync + 'static;

    /// Takes the directory for this process.
    ///
    /// # Errors
    /// `WouldBlock` if somebody else holds it.
    fn lock(&self) -> io::Result<Self::Lock>;

    /// Makes an empty file. The name is safe only after `sync_dir`.
    ///
    /// # Errors
    /// `AlreadyExists` if the name is taken, else what the system says.
    fn create(&self, name: &str) -> io::Result<Self::File>;

    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// `NotFound` if there is none, else what the system says.
    fn open(&self, name: &str) -> io::Result<Self::File>;

    /// All files by name, with their lengths in bytes, in order of their names.
    ///
    /// # Errors
    /// What the system says.
    fn list(&self) -> io::Result<Vec<(String, u64)>>;

    /// Takes a name away; the file lives on for those who hold it open.
    ///
    /// # Errors
    /// `NotFound` if there is none, else what the system says.
    fn unlink(&self, name: &str) -> io::Result<()>;

    /// Gives a file another name, in one step. A file of that name is replaced.
    ///
    /// # Errors
    /// `NotFound` if there is none, else what the system says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Makes the names safe: creations, unlinks and renames so far.
    ///
    /// # Errors
    /// What the system says. The state of the names is then unknown.
    fn sync_dir(&self) -> io::Result<()>;

    /// Where a file is, for messages to people.
    fn describe(&self, name: &str) -> String;

    /// Fills `from..to` of a file with zeroes. They and the length of the file are safe only after `sync_data`, which then
    /// finds little to do.
    ///
    /// They need not come to lie in memory: it is long until somebody reads or writes there.
    ///
    /// # Errors
    /// As [`DiskFile::write_at`] and [`DiskFile::sync_data`].
    fn fill_zeroes(&self, name: &str, from: u64, to: u64) -> io::Result<()> {
        write_zeroes(&self.open(name)?, from, to)
    }

    /// What is on the disk of a file need not stay in memory as well: it is long until somebody reads it, if ever.
    fn let_go(&self, _name: &str) {}
}

/// An open file of a [`Disk`].
#[expect(clippy::len_without_is_empty, reason = "no one asks")]
pub trait DiskFile: Debug + Send + Sync + 'static {
    /// Reads up to `buf.len()` bytes from `offset`; fewer only at the end of the file.
    ///
    /// # Errors
    /// What the system says.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `bytes` at `offset`. They are safe only after `sync_data`.
    ///
    /// # Errors
    /// `StorageFull` if there is no room (a part may have been written), else what the system says.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes safe what was written so far, and the length of the file.
    ///
    /// # Errors
    /// What the system says. What is on the disk is then unknown, also after a later call that succeeds.
    fn sync_data(&self) -> io::Result<()>;

    /// Length in bytes.
    ///
    /// # Errors
    /// What the system says.
    fn len(&self) -> io::Result<u64>;
}

/// How many bytes are written at once where a file is filled with zeroes or copied.
pub(crate) const CHUNK_BYTES: usize = 1 << 20;
/// In what units files lie in memory and on the disk. Who writes a part of one that is not in memory waits for it to be read.
pub(crate) const BLOCK_BYTES: u64 = 4096;

/// A chunk of zeroes that starts at a multiple of [`BLOCK_BYTES`] in memory.
fn zeroes() -> &'static [u8] {
    static ZEROES: LazyLock<Vec<u8>> = LazyLock::new(|| vec![0; CHUNK_BYTES + BLOCK_BYTES as usize]);
    let start = ZEROES.as_ptr().align_offset(BLOCK_BYTES as usize);
    ZEROES.get(start..start + CHUNK_BYTES).unwrap_or(&ZEROES[..CHUNK_BYTES])
}

/// Fills `from..to` with zeroes, syncing after each chunk, so that no burst of writes stands before somebody's commit.
pub(crate) fn write_zeroes(file: &impl DiskFile, from: u64, to: u64) -> io::Result<()> {
    write_chunks_of_zeroes(file, from, to, || file.sync_data())
}

/// Fills `from..to` with zeroes and calls `written` after each chunk.
fn write_chunks_of_zeroes(
    file: &impl DiskFile,
    from: u64,
    to: u64,
    written: impl Fn() -> io::Result<()>,
) -> io::Result<()> {
    let zeroes = zeroes();
    let mut at = from;
    while at < to {
        let step = (to - at).min(zeroes.len() as u64);
        file.write_at(&zeroes[..usize::try_from(step).expect("a chunk fits in memory")], at)?;
        written()?;
        at += step;
    }
    Ok(())
}

/// Reads exactly `buf.len()` bytes.
pub(crate) fn read_exact_at(file: &impl DiskFile, buf: &mut [u8], offset: u64) -> io::Result<()> {
    match file.read_at(buf, offset)? {
        read if read == buf.len() => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// A directory of the file system.
#[derive(Clone, Debug)]
pub struct RealDisk {
    path: Arc<PathBuf>,
    directory: Arc<fs::File>,
}

/// Name of the file whose lock stands for the directory.
const LOCK_NAME: &str = "lock";

impl RealDisk {
    /// The directory at `path`, made if it is missing.
    ///
    /// # Errors
    /// What the system says.
    pub fn new(path: impl AsRef<Path>) -> io::Result<RealDisk> {
        let path = path.as_ref().to_path_buf();
        if !path.is_dir() {
            fs::create_dir_all(&path)?;
            if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                fs::File::open(parent)?.sync_all()?;
            }
        }
        RealDisk::existing(path)
    }

    /// The directory at `path`, which must exist: for tools that only look.
    ///
    /// # Errors
    /// What the system says.
    pub fn existing(path: impl AsRef<Path>) -> io::Result<RealDisk> {
        let path = path.as_ref().to_path_buf();
        let directory = fs::File::open(&path)?;
        Ok(RealDisk { path: Arc::new(path), directory: Arc::new(directory) })
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a file so that what is written goes to the disk and not into the page cache.
    #[cfg(target_os = "linux")]
    fn open_past_memory(&self, name: &str) -> io::Result<fs::File> {
        let direct = rustix::fs::OFlags::DIRECT.bits().cast_signed();
        fs::File::options().write(true).custom_flags(direct).open(self.path.join(name))
    }

    #[cfg(not(target_os = "linux"))]
    fn open_past_memory(&self, _name: &str) -> io::Result<fs::File> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Lock of a [`RealDisk`]. The kernel gives it back if the process dies.
#[derive(Debug)]
pub struct RealLock {
    _file: fs::File,
}

impl Disk for RealDisk {
    type File = fs::File;
    type Lock = RealLock;

    fn lock(&self) -> io::Result<RealLock> {
        let file =
            fs::File::options().read(true).write(true).create(true).truncate(false).open(self.path.join(LOCK_NAME))?;
        file.try_lock()?;
        Ok(RealLock { _file: file })
    }

    fn create(&self, name: &str) -> io::Result<fs::File> {
        fs::File::options().read(true).write(true).create_new(true).open(self.path.join(name))
    }

    fn open(&self, name: &str) -> io::Result<fs::File> {
        let path = self.path.join(name);
        match fs::File::options().read(true).write(true).open(&path) {
            // A tool that only looks may have no more than that.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => fs::File::open(&path),
            other => other,
        }
    }

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&*self.path)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            match entry.metadata() {
                Ok(metadata) if metadata.is_file() && name != LOCK_NAME => files.push((name, metadata.len())),
                Ok(_) => {}
                // Unlinked while we looked.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        files.sort_unstable();
        Ok(files)
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.directory.sync_all()
    }

    fn describe(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }

    fn fill_zeroes(&self, name: &str, from: u64, to: u64) -> io::Result<()> {
        let aligned_to = to - to % BLOCK_BYTES;
        let past_memory = match from.is_multiple_of(BLOCK_BYTES) {
            // They are on the disk with each write, so there is no burst to wait for.
            true => {
                let file = self.open_past_memory(name);
                file.and_then(|file| write_chunks_of_zeroes(&file, from, aligned_to, || Ok(())))
            }
            false => Err(io::ErrorKind::InvalidInput.into()),
        };
        match past_memory {
            Ok(()) if aligned_to == to => Ok(()),
            Ok(()) => write_zeroes(&self.open(name)?, aligned_to, to),
            // Not every file system can do so, and some say it only when written to.
            Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
                write_zeroes(&self.open(name)?, from, to)
            }
            Err(error) => Err(error),
        }
    }

    fn let_go(&self, name: &str) {
        // Advice: where it cannot be given, nothing is lost.
        if let Ok(file) = fs::File::open(self.path.join(name)) {
            let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        }
    }
}

impl DiskFile for fs::File {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match FileExt::read_at(self, &mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        fs::File::sync_data(self)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_owner() {
        let directory = crate::testing::TempDir::new();
        let disk = RealDisk::new(directory.path()).unwrap();
        let lock = disk.lock().unwrap();

        let second = RealDisk::new(directory.path()).unwrap().lock();

        assert_eq!(second.unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(lock);
        disk.lock().unwrap();
    }

    #[test]
    fn files_are_listed_by_name_without_the_lock() {
        let directory = crate::testing::TempDir::new();
        let disk = RealDisk::new(directory.path()).unwrap();
        let _lock = disk.lock().unwrap();
        DiskFile::write_at(&disk.create("b").unwrap(), b"xyz", 2).unwrap();
        disk.create("a").unwrap();

        disk.rename("a", "c").unwrap();

        assert_eq!(disk.list().unwrap(), [("b".to_owned(), 5), ("c".to_owned(), 0)]);
    }

    #[test]
    fn zeroes_fill_what_they_are_asked_to_and_nothing_else() {
        let directory = crate::testing::TempDir::new();
        let disk = RealDisk::new(directory.path()).unwrap();
        let len = 3 * CHUNK_BYTES as u64 / 2 + 777;
        for (from, to) in [(0, len), (0, 4096), (4096, 12_288), (8192, 10_000), (5, 9000), (4096, len), (7, 8)] {
            let name = format!("{from}-{to}");
            DiskFile::write_at(&disk.create(&name).unwrap(), &vec![9; to as usize + 10], 0).unwrap();

            disk.fill_zeroes(&name, from, to).unwrap();

            let bytes = fs::read(directory.path().join(&name)).unwrap();
            let expected = |at: usize| if (from..to).contains(&(at as u64)) { 0 } else { 9 };
            assert_eq!(bytes.len() as u64, to + 10);
            assert!(bytes.iter().enumerate().all(|(at, byte)| *byte == expected(at)), "{from}..{to}");
        }
    }
}
