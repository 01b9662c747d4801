//! Blobs: large payloads as files under their SHA-256.
//!
//! ```text
//! blobs/<first two hex digits>/<64 hex digits>        the bytes
//! blobs/<first two hex digits>/<64 hex digits>.type   media type, where one was given
//! blobs/<first two hex digits>/<64 hex digits>.of     names of the tenants whose it is, see `owners`
//! blobs/tmp/<random>                                  being written
//! ```
//! Invariant: a file under its final name is whole, has the digest it is named by, and is on stable storage.

mod owners;

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use mindos_model::limits::BLOB_MAX;
use mindos_model::{TenantName, Timestamp};
use sha2::{Digest, Sha256};

/// What every address begins with.
pub const PREFIX: &str = "blob:sha256:";
/// The longest media type, in bytes.
pub const CONTENT_TYPE_MAX: usize = 255;

/// Names a blob by the SHA-256 of its bytes. Written `blob:sha256:<64 hex digits>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobRef(pub [u8; 32]);

impl BlobRef {
    fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Reads 64 hex digits in lower case.
    #[must_use]
    pub fn from_hex(digits: &[u8]) -> Option<BlobRef> {
        let mut digest = [0; 32];
        if digits.len() != 64 {
            return None;
        }
        let nibble = |digit: u8| match digit {
            b'0'..=b'9' => Some(digit - b'0'),
            b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        };
        for (byte, pair) in digest.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Some(BlobRef(digest))
    }
}

impl fmt::Display for BlobRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.hex())
    }
}

impl fmt::Debug for BlobRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for BlobRef {
    type Err = BlobError;

    fn from_str(text: &str) -> Result<BlobRef, BlobError> {
        let digits = text.strip_prefix(PREFIX).map(str::as_bytes);
        digits.and_then(BlobRef::from_hex).ok_or_else(|| BlobError::Address { text: text.chars().take(100).collect() })
    }
}

/// Why a blob is not taken or given.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    #[error("`{text}` is not the address of a blob: expected `{PREFIX}` and 64 hex digits in lower case")]
    Address { text: String },
    #[error("blob has more than {max} bytes")]
    TooLarge { max: u64 },
    #[error("blob has no bytes: expected 1 to {max}")]
    Empty { max: u64 },
    #[error("blob has {actual} bytes, not the {announced} announced")]
    Length { announced: u64, actual: u64 },
    #[error("blob is {actual}, not the {announced} announced")]
    Digest { announced: BlobRef, actual: BlobRef },
    #[error("blobs use {used} bytes, {quota} may be used")]
    Quota { used: u64, quota: u64 },
    #[error("content type is not usable: expected at most {CONTENT_TYPE_MAX} visible ASCII characters")]
    ContentType,
    #[error("failed to {action} `{path}`")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
}

/// What is known of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobInfo {
    pub length: u64,
    /// Empty when none was given.
    pub content_type: String,
    pub stored: Timestamp,
}

/// A blob that was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    pub blob: BlobRef,
    pub length: u64,
    /// It was there before.
    pub existed: bool,
}

/// The blobs of a data directory. Its calls use files: not for async threads.
#[derive(Debug)]
pub struct BlobStore {
    dir: PathBuf,
    quota: u64,
    used: AtomicU64,
    claims: Mutex<()>,
}

impl BlobStore {
    /// Opens the store, making it where it is missing; what was being written is removed. `quota` is in bytes.
    ///
    /// # Errors
    /// When the directory cannot be read or written.
    pub fn open(dir: &Path, quota: u64) -> Result<BlobStore, BlobError> {
        let store = BlobStore { dir: dir.to_owned(), quota, used: AtomicU64::new(0), claims: Mutex::default() };
        let temporary = store.temporary();
        if temporary.exists() {
            fs::remove_dir_all(&temporary).map_err(failed("remove", &temporary))?;
        }
        fs::create_dir_all(&temporary).map_err(failed("make", &temporary))?;
        let mut used = 0;
        store.for_each(|_, info| used += info.length)?;
        store.used.store(used, Ordering::Relaxed);
        Ok(store)
    }

    fn temporary(&self) -> PathBuf {
        self.dir.join("tmp")
    }

    fn path(&self, blob: &BlobRef) -> PathBuf {
        let hex = blob.hex();
        self.dir.join(&hex[..2]).join(hex)
    }

    /// Bytes that all blobs take.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// What is known of a blob; `None` when it is not there.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn stat(&self, blob: &BlobRef) -> Result<Option<BlobInfo>, BlobError> {
        let path = self.path(blob);
        match fs::metadata(&path) {
            Ok(data) => Ok(Some(info(&path, &data))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &path)(error)),
        }
    }

    /// Opens a blob from an offset on; `None` when it is not there.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self, blob: &BlobRef, offset: u64) -> Result<Option<(BlobInfo, impl Read + use<>)>, BlobError> {
        let path = self.path(blob);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("read", &path)(error)),
        };
        let data = file.metadata().map_err(failed("read", &path))?;
        file.seek(SeekFrom::Start(offset)).map_err(failed("read", &path))?;
        Ok(Some((info(&path, &data), file)))
    }

    /// Begins a blob. Nothing is left of it unless it is finished.
    ///
    /// # Errors
    /// When the quota is used up, the length announced is out of range, or no file can be made.
    pub fn begin(&self, announced: Announced) -> Result<BlobWriter<'_>, BlobError> {
        let Announced { blob: _, length, content_type, tenant: _ } = &announced;
        if length.is_some_and(|length| length > BLOB_MAX) {
            return Err(BlobError::TooLarge { max: BLOB_MAX });
        }
        if content_type.len() > CONTENT_TYPE_MAX || !content_type.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
            return Err(BlobError::ContentType);
        }
        let mut random = [0; 16];
        let path = self.temporary();
        getrandom::fill(&mut random).map_err(|error| failed("name a file in", &path)(io::Error::other(error)))?;
        let path = path.join(random.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        let file = File::create_new(&path).map_err(failed("make", &path))?;
        let mut writer = BlobWriter { store: self, announced, path, file, hash: Sha256::new(), length: 0, reserved: 0 };
        let length = writer.announced.length.unwrap_or(0);
        writer.reserve(length)?;
        Ok(writer)
    }

    /// Shows every blob.
    ///
    /// # Errors
    /// When a directory cannot be read.
    pub fn for_each(&self, mut visit: impl FnMut(BlobRef, BlobInfo)) -> Result<(), BlobError> {
        for folder in fs::read_dir(&self.dir).map_err(failed("read", &self.dir))? {
            let folder = folder.map_err(failed("read", &self.dir))?.path();
            if folder.file_name().is_none_or(|name| name.len() != 2) {
                continue;
            }
            for file in fs::read_dir(&folder).map_err(failed("read", &folder))? {
                let file = file.map_err(failed("read", &folder))?;
                let blob = file.file_name().to_str().and_then(|name| BlobRef::from_hex(name.as_bytes()));
                if let (Some(blob), Ok(data)) = (blob, file.metadata()) {
                    visit(blob, info(&file.path(), &data));
                }
            }
        }
        Ok(())
    }

    /// Has the age of a blob begin anew; false when it is not there.
    ///
    /// # Errors
    /// When its file cannot be touched.
    pub fn renew(&self, blob: &BlobRef) -> Result<bool, BlobError> {
        let _one_at_a_time = self.one_at_a_time();
        renew(&self.path(blob))
    }

    /// Removes a blob that is there and of which `is_due` holds when nobody can bring it again; says whether it did.
    ///
    /// # Errors
    /// When its file cannot be read or removed.
    pub fn remove_if(&self, blob: &BlobRef, is_due: impl FnOnce(&BlobInfo) -> bool) -> Result<bool, BlobError> {
        let _one_at_a_time = self.one_at_a_time();
        match self.stat(blob)? {
            Some(info) if is_due(&info) => self.remove(blob).map(|()| true),
            _ => Ok(false),
        }
    }

    /// Held while a blob gets its name, changes hands or goes.
    fn one_at_a_time(&self) -> MutexGuard<'_, ()> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes a blob. To be called by who holds [`Self::one_at_a_time`].
    fn remove(&self, blob: &BlobRef) -> Result<(), BlobError> {
        let path = self.path(blob);
        let length = fs::metadata(&path).map_or(0, |data| data.len());
        for path in [path.with_extension("type"), owners::beside(&path), path] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove", &path)(error)),
                _ => {}
            }
        }
        self.used.fetch_sub(length, Ordering::Relaxed);
        Ok(())
    }
}

/// What is said of a blob before its bytes come.
#[derive(Clone, Debug, Default)]
pub struct Announced {
    pub blob: Option<BlobRef>,
    pub length: Option<u64>,
    /// Empty when none is given.
    pub content_type: String,
    /// Whose it is; unset is the tenant `default`.
    pub tenant: Option<TenantName>,
}

/// A blob that is being written.
#[derive(Debug)]
pub struct BlobWriter<'a> {
    store: &'a BlobStore,
    announced: Announced,
    path: PathBuf,
    file: File,
    hash: Sha256,
    length: u64,
    /// Counted as used already.
    reserved: u64,
}

impl BlobWriter<'_> {
    /// Sets room aside up to `length` in all.
    fn reserve(&mut self, length: u64) -> Result<(), BlobError> {
        let more = length.saturating_sub(self.reserved);
        let quota = self.store.quota;
        let fits = |used: u64| used.checked_add(more).filter(|&sum| sum <= quota);
        match self.store.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits) {
            Ok(_) => self.reserved += more,
            Err(used) => return Err(BlobError::Quota { used, quota }),
        }
        Ok(())
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// When there are too many, the quota is used up, or the disk fails.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        let length = self.length + bytes.len() as u64;
        if length > BLOB_MAX {
            return Err(BlobError::TooLarge { max: BLOB_MAX });
        }
        if let Some(announced) = self.announced.length
            && length > announced
        {
            return Err(BlobError::Length { announced, actual: length });
        }
        self.reserve(length)?;
        self.hash.update(bytes);
        self.file.write_all(bytes).map_err(failed("write", &self.path))?;
        self.length = length;
        Ok(())
    }

    /// Puts the blob on stable storage under its name.
    ///
    /// # Errors
    /// When it is empty or not what was announced, or the disk fails.
    pub fn finish(mut self) -> Result<Stored, BlobError> {
        let blob = BlobRef(self.hash.finalize_reset().into());
        let length = self.length;
        if length == 0 {
            return Err(BlobError::Empty { max: BLOB_MAX });
        }
        if let Some(announced) = self.announced.length.filter(|&announced| announced != length) {
            return Err(BlobError::Length { announced, actual: length });
        }
        if let Some(announced) = self.announced.blob.filter(|announced| *announced != blob) {
            return Err(BlobError::Digest { announced, actual: blob });
        }
        let path = self.store.path(&blob);
        let tenant = self.announced.tenant.take().unwrap_or_else(TenantName::default_tenant);
        let existed = self.store.is_of(&blob, &tenant)?;
        let folder = path.parent().unwrap_or(&self.store.dir).to_owned();
        fs::create_dir_all(&folder).map_err(failed("make", &folder))?;
        self.file.sync_all().map_err(failed("sync", &self.path))?;
        {
            // Meanwhile nobody removes it, or brings the same.
            let _one_at_a_time = self.store.one_at_a_time();
            self.store.claim(&path, &tenant)?;
            if !renew(&path)? {
                self.name(&path)?;
            }
        }
        // Also where it was there before: whoever brought it may not have come to this yet.
        for folder in [&folder, &self.store.dir] {
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("sync", folder))?;
        }
        Ok(Stored { blob, length, existed })
    }

    /// Gives it its name. From here on its bytes are used for good.
    fn name(&mut self, path: &Path) -> Result<(), BlobError> {
        if !self.announced.content_type.is_empty() {
            let path = path.with_extension("type");
            let written = fs::write(&path, &self.announced.content_type).and_then(|()| File::open(&path)?.sync_all());
            written.map_err(failed("write", &path))?;
        }
        fs::rename(&self.path, path).map_err(failed("name", path))?;
        self.store.used.fetch_sub(self.reserved - self.length, Ordering::Relaxed);
        self.reserved = 0;
        Ok(())
    }
}

impl Drop for BlobWriter<'_> {
    fn drop(&mut self) {
        self.store.used.fetch_sub(self.reserved, Ordering::Relaxed);
        let _ = fs::remove_file(&self.path);
    }
}

/// So that it is not removed while somebody is about to name it; false when it is not there.
fn renew(path: &Path) -> Result<bool, BlobError> {
    let now = fs::FileTimes::new().set_modified(SystemTime::now());
    match File::options().append(true).open(path).and_then(|file| file.set_times(now)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed("renew", path)(error)),
    }
}

fn info(path: &Path, data: &fs::Metadata) -> BlobInfo {
    let since = data.modified().ok().and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    BlobInfo {
        length: data.len(),
        content_type: fs::read_to_string(path.with_extension("type")).unwrap_or_default(),
        stored: Timestamp(u64::try_from(since.unwrap_or(Duration::ZERO).as_millis()).unwrap_or(0)),
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BlobError {
    let path = path.to_owned();
    move |source| BlobError::Io { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SHA-256 of `abc`.
    const ABC: &str = "blob:sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn put(store: &BlobStore, bytes: &[u8], announced: Announced) -> Result<Stored, BlobError> {
        let mut writer = store.begin(announced)?;
        bytes.chunks(2).try_for_each(|chunk| writer.write(chunk))?;
        writer.finish()
    }

    fn store(quota: u64) -> (tempfile::TempDir, BlobStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = BlobStore::open(dir.path(), quota).unwrap();
        (dir, store)
    }

    #[test]
    fn a_blob_is_read_back_under_the_digest_of_its_bytes() {
        let (dir, store) = store(100);
        let announced =
            Announced { blob: ABC.parse().ok(), length: Some(3), content_type: "text/plain".into(), tenant: None };
        let stored = put(&store, b"abc", announced.clone()).unwrap();
        assert_eq!((stored.blob.to_string().as_str(), stored.length, stored.existed), (ABC, 3, false));
        assert!(put(&store, b"abc", announced).unwrap().existed);
        let store = BlobStore::open(dir.path(), 100).unwrap();
        assert_eq!(store.used(), 3);
        let (info, mut file) = store.read(&stored.blob, 1).unwrap().unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        assert_eq!((bytes.as_slice(), info.length, info.content_type.as_str()), (&b"bc"[..], 3, "text/plain"));
        assert!(!store.remove_if(&stored.blob, |_| false).unwrap());
        assert!(store.remove_if(&stored.blob, |info| info.length == 3).unwrap());
        assert!(!store.remove_if(&stored.blob, |_| true).unwrap() && !store.renew(&stored.blob).unwrap());
        assert_eq!((store.stat(&stored.blob).unwrap(), store.used()), (None, 0));
    }

    #[test]
    fn what_is_not_as_announced_leaves_nothing() {
        let (dir, store) = store(100);
        let is = |result: Result<Stored, BlobError>, fits: fn(&BlobError) -> bool| assert!(fits(&result.unwrap_err()));
        let blob = ABC.parse().ok();
        is(put(&store, b"abd", Announced { blob, ..Default::default() }), |e| matches!(e, BlobError::Digest { .. }));
        let short = Announced { length: Some(4), ..Default::default() };
        is(put(&store, b"abc", short), |e| matches!(e, BlobError::Length { announced: 4, actual: 3 }));
        let long = Announced { length: Some(2), ..Default::default() };
        is(put(&store, b"abc", long), |e| matches!(e, BlobError::Length { .. }));
        is(put(&store, b"", Announced::default()), |e| matches!(e, BlobError::Empty { .. }));
        let huge = Announced { length: Some(BLOB_MAX + 1), ..Default::default() };
        is(put(&store, b"", huge), |e| matches!(e, BlobError::TooLarge { .. }));
        let media = Announced { content_type: "a\nb".into(), ..Default::default() };
        is(put(&store, b"abc", media), |e| matches!(e, BlobError::ContentType));
        assert_eq!((store.used(), fs::read_dir(dir.path().join("tmp")).unwrap().count()), (0, 0));
    }

    #[test]
    fn the_quota_counts_what_is_being_written() {
        let (_dir, store) = store(5);
        let first = store.begin(Announced { length: Some(4), ..Default::default() }).unwrap();
        assert!(matches!(put(&store, b"abc", Announced::default()), Err(BlobError::Quota { quota: 5, .. })));
        drop(first);
        assert!(put(&store, b"abc", Announced::default()).is_ok());
        assert_eq!(store.used(), 3);
    }

    #[test]
    fn the_same_bytes_that_come_at_once_are_counted_once() {
        let (_dir, store) = store(u64::MAX);
        let blob = ABC.parse().unwrap();
        for _ in 0..20 {
            std::thread::scope(|scope| {
                (0..8).for_each(|_| drop(scope.spawn(|| put(&store, b"abc", Announced::default()).unwrap())));
            });
            assert_eq!(store.used(), 3);
            std::thread::scope(|scope| {
                scope.spawn(|| store.remove_if(&blob, |_| true).unwrap());
                scope.spawn(|| store.disown(&blob, &TenantName::default_tenant()).unwrap());
            });
            assert_eq!(store.used(), 0);
        }
    }

    #[test]
    fn addresses_have_one_spelling() {
        assert_eq!(ABC.parse::<BlobRef>().unwrap().to_string(), ABC);
        for text in ["", "blob:sha256:", &ABC.to_uppercase(), &ABC[..70], &format!("{ABC}0"), "../../etc/passwd"] {
            assert!(text.parse::<BlobRef>().is_err(), "{text}");
        }
    }
}
