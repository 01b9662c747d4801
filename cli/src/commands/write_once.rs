//! A file that is there whole or not at all, for its owner alone: for containers that hand it to each other.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::failure::Failure;

/// Writes `text` and a line end into a file, by way of another name.
///
/// # Errors
/// Names the file.
pub(super) fn write_whole(path: &Path, text: &str) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::world(format!("failed to write `{}`: {error}", path.display()));
    let mut name = path.file_name().map(std::ffi::OsStr::to_owned).unwrap_or_default();
    name.push(format!(".{}", std::process::id()));
    let next = path.with_file_name(name);
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&next)?;
        file.write_all(text.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&next, path)
    })();
    written.map_err(|error| {
        let _ = fs::remove_file(&next);
        failed(error)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_written_is_whole_and_its_owners_alone() {
        let folder = std::env::temp_dir().join(format!("mindos-write-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("token");
        write_whole(&path, "one").unwrap();
        write_whole(&path, "two").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing else is left");
        let error = write_whole(&folder.join("no/where"), "x").unwrap_err().to_string();
        assert!(error.contains("no/where"), "{error}");
        fs::remove_dir_all(&folder).unwrap();
    }
}
