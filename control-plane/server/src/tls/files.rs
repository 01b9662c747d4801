//! Files of keys and certificates: read within bounds, written whole or not at all, and for their owner alone.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Bytes of a file of certificates or keys.
const FILE_MAX: u64 = 1 << 20;
/// Characters of a line of PEM.
const LINE: usize = 64;

/// Why a file is not taken.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("failed to read `{path}`")]
    Read { path: PathBuf, source: io::Error },
    #[error("failed to write `{path}`")]
    Write { path: PathBuf, source: io::Error },
    #[error("`{path}` may be read by others (mode {mode:04o}): expected {expected:04o} or less, as it holds keys")]
    Mode { path: PathBuf, mode: u32, expected: u32 },
    #[error("`{path}` is not accepted: {reason}")]
    Content { path: PathBuf, reason: String },
}

impl FileError {
    pub(super) fn content(path: &Path, reason: impl Into<String>) -> FileError {
        FileError::Content { path: path.to_owned(), reason: reason.into() }
    }
}

/// Reads a file of at most 1 MiB.
///
/// # Errors
/// When it cannot be read or is longer.
pub fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    let failed = |source| FileError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).map_err(failed)?.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(FileError::content(path, format!("is longer than {FILE_MAX} bytes")));
    }
    Ok(bytes)
}

/// The certificates of a PEM file, in their order; at least one.
///
/// # Errors
/// Says what is wrong with the file.
pub fn certificates(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    let found = read.map_err(|error| FileError::content(path, format!("is not PEM: {error}")))?;
    if found.is_empty() {
        return Err(FileError::content(path, "holds no certificate: expected PEM with `BEGIN CERTIFICATE`"));
    }
    Ok(found)
}

/// The private key of a PEM file.
///
/// # Errors
/// Says what is wrong with the file, and nothing of what is in it.
pub fn private_key(path: &Path, bytes: &[u8]) -> Result<PrivateKeyDer<'static>, FileError> {
    PrivateKeyDer::from_pem_slice(bytes)
        .map_err(|_| FileError::content(path, "holds no private key: expected PEM with `BEGIN PRIVATE KEY`"))
}

/// Refuses a file or folder that others than its owner may touch.
///
/// # Errors
/// When they may, or when it cannot be seen.
pub fn for_owner_only(path: &Path, expected: u32) -> Result<(), FileError> {
    let data = fs::metadata(path).map_err(|source| FileError::Read { path: path.to_owned(), source })?;
    let mode = data.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(FileError::Mode { path: path.to_owned(), mode, expected });
    }
    Ok(())
}

/// Makes a folder for its owner alone, or checks that it is one.
///
/// # Errors
/// When it cannot be made, or when others may look into it.
pub fn private_dir(path: &Path) -> Result<(), FileError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| FileError::Write { path: path.to_owned(), source })?;
    for_owner_only(path, 0o700)
}

/// Writes a file for its owner alone, so that after a crash there is the old one or the new one.
///
/// # Errors
/// When it cannot be written.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let failed = |source| FileError::Write { path: path.to_owned(), source };
    let temporary = path.with_extension("tmp");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary).map_err(failed)?;
    // Whatever the umask left of the mode.
    file.set_permissions(Permissions::from_mode(0o600)).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&temporary, path).map_err(failed)?;
    let dir = path.parent().unwrap_or(Path::new("."));
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)
}

/// A section of PEM.
#[must_use]
pub fn pem(label: &str, der: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut digits = String::with_capacity(der.len().div_ceil(3) * 4);
    for chunk in der.chunks(3) {
        let held = chunk.iter().fold(0u32, |held, &byte| held << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = DIGITS[(held >> (18 - 6 * place)) as usize & 63];
            digits.push(if place <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in digits.as_bytes().chunks(LINE) {
        text.extend(line.iter().copied().map(char::from));
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pem_reads_back_what_was_written() {
        for length in 1..200 {
            let der: Vec<u8> = (0..length).map(|at| (at * 7 % 256) as u8).collect();
            let text = pem("CERTIFICATE", &der);
            let read = CertificateDer::from_pem_slice(text.as_bytes()).unwrap();
            assert_eq!(&*read, &der[..], "{length}");
        }
    }

    #[test]
    fn what_holds_keys_is_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("keys");
        private_dir(&inner).unwrap();
        let path = inner.join("a.pem");
        write_private(&path, b"one").unwrap();
        write_private(&path, b"two").unwrap();
        assert_eq!(read(&path).unwrap(), b"two");
        for_owner_only(&path, 0o600).unwrap();

        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let error = for_owner_only(&path, 0o600).unwrap_err().to_string();
        assert!(error.contains("0640") && error.contains("0600"), "{error}");
        fs::set_permissions(&inner, Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(private_dir(&inner), Err(FileError::Mode { mode: 0o755, .. })));
    }
}
