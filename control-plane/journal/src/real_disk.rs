//! The disk of a server: a directory of the file system.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt as _;
#[cfg(target_os = "linux")]
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::direct::Direct;
use crate::disk::{BLOCK_BYTES, Disk, DiskFile, write_chunks_of_zeroes, write_zeroes};

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

/// A file of a [`RealDisk`].
#[derive(Debug)]
pub struct RealFile {
    file: fs::File,
    /// The way past the page cache, where it is wanted and the file system has it.
    direct: Mutex<Option<Direct>>,
}

impl From<fs::File> for RealFile {
    fn from(file: fs::File) -> RealFile {
        RealFile { file, direct: Mutex::new(None) }
    }
}

/// Lock of a [`RealDisk`]. The kernel gives it back if the process dies.
#[derive(Debug)]
pub struct RealLock {
    _file: fs::File,
}

impl Disk for RealDisk {
    type File = RealFile;
    type Lock = RealLock;

    fn lock(&self) -> io::Result<RealLock> {
        let file =
            fs::File::options().read(true).write(true).create(true).truncate(false).open(self.path.join(LOCK_NAME))?;
        file.try_lock()?;
        Ok(RealLock { _file: file })
    }

    fn create(&self, name: &str) -> io::Result<RealFile> {
        Ok(fs::File::options().read(true).write(true).create_new(true).open(self.path.join(name))?.into())
    }

    fn open(&self, name: &str) -> io::Result<RealFile> {
        let path = self.path.join(name);
        let file = match fs::File::options().read(true).write(true).open(&path) {
            // A tool that only looks may have no more than that.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => fs::File::open(&path),
            other => other,
        };
        Ok(file?.into())
    }

    fn open_for_appends(&self, name: &str) -> io::Result<RealFile> {
        let RealFile { file, direct: _ } = self.open(name)?;
        // Not every file system can do so.
        let direct = self.open_past_memory(name).ok().map(Direct::new);
        Ok(RealFile { file, direct: Mutex::new(direct) })
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
                file.and_then(|file| write_chunks_of_zeroes(&RealFile::from(file), from, aligned_to, || Ok(())))
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

impl DiskFile for RealFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.file.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut direct = self.direct.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(past) = direct.as_mut() else { return self.file.write_all_at(bytes, offset) };
        match past.write_at(&self.file, bytes, offset) {
            // Some file systems say only now that they want it otherwise.
            Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
                *direct = None;
                self.file.write_all_at(bytes, offset)
            }
            written => written,
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::CHUNK_BYTES;

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

    #[test]
    fn appends_past_memory_are_what_was_written_and_leave_the_rest() {
        let directory = crate::testing::TempDir::new();
        let disk = RealDisk::new(directory.path()).unwrap();
        let len = 1 << 20;
        DiskFile::write_at(&disk.create("log").unwrap(), &vec![7; len], 0).unwrap();
        let mut expected = vec![7; len];
        let mut random = crate::fault::Random::new(3);
        let mut at = 0usize;
        for round in 0..200u64 {
            // As after a start: nothing is known of the block that is half full.
            let file = disk.open_for_appends("log").unwrap();
            for _ in 0..random.below(4) {
                let wanted = 1 + usize::try_from(random.below(9000)).unwrap();
                let whole = (at + wanted).next_multiple_of(BLOCK_BYTES as usize);
                let end = if random.below(5) == 0 { at + wanted } else { whole };
                if end > len {
                    break;
                }
                let mut bytes = vec![0; end - at];
                bytes[..wanted].fill(1 + (round % 200) as u8);
                file.write_at(&bytes, at as u64).unwrap();
                file.sync_data().unwrap();
                expected[at..end].copy_from_slice(&bytes);
                at += wanted;
                let mut seen = vec![0; 64];
                let from = at.saturating_sub(40).min(len - 64);
                assert_eq!(file.read_at(&mut seen, from as u64).unwrap(), 64);
                assert_eq!(seen[..], expected[from..from + 64], "round {round}");
            }
        }

        assert!(at > len / 2, "{at}");
        assert!(fs::read(directory.path().join("log")).unwrap() == expected);
    }
}
