//! The disk: the few things the journal asks of a directory and its files.
//!
//! Everything the journal writes goes through here, so a test can put a disk underneath that loses at a cut what was
//! not synced. Invariant: bytes are safe after `sync_data` of their file, names after `sync_dir`, nothing earlier.

use std::fmt::Debug;
use std::io;
use std::sync::LazyLock;

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

    /// Opens a file for reading, and for writes that each go on where the one before ended and are synced at once. Such writes need
    /// not come to lie in memory.
    ///
    /// # Errors
    /// As [`Disk::open`].
    fn open_for_appends(&self, name: &str) -> io::Result<Self::File> {
        self.open(name)
    }

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
pub(crate) fn write_chunks_of_zeroes(
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
