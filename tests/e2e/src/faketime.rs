//! Processes with a wall clock of their own, which the test steps: libfaketime with a file that says how far it is off.
//!
//! The monotonic clock is left alone, as it is when somebody sets the time of a machine.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A wall clock that can be stepped.
#[derive(Clone, Debug)]
pub struct Clock {
    library: PathBuf,
    file: PathBuf,
}

impl Clock {
    /// A clock that is right at first, kept in `<folder>/<name>.time`. `None` where libfaketime is not installed, which is said aloud:
    /// the package is `faketime`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn new(folder: &Path, name: &str) -> Result<Option<Clock>> {
        let places = ["x86_64-linux-gnu", "aarch64-linux-gnu", "."];
        let library = places.iter().map(|place| Path::new("/usr/lib").join(place).join("faketime/libfaketimeMT.so.1"));
        let Some(library) = library.into_iter().find(|path| path.is_file()) else {
            eprintln!("SKIPPED: no clock is stepped, for libfaketime is not installed (Debian package `faketime`)");
            return Ok(None);
        };
        let clock = Clock { library, file: folder.join(format!("{name}.time")) };
        clock.step(0)?;
        Ok(Some(clock))
    }

    /// Puts the clock so many seconds off from the right time.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn step(&self, seconds: i64) -> Result<()> {
        // Replaced whole: it is read at any moment.
        let aside = self.file.with_extension("new");
        std::fs::write(&aside, format!("{seconds:+}\n")).context("failed to write a time")?;
        std::fs::rename(&aside, &self.file).context("failed to step a clock")
    }

    /// Variables of a process that goes by it.
    #[must_use]
    pub fn environment(&self) -> Vec<String> {
        vec![
            format!("LD_PRELOAD={}", self.library.display()),
            format!("FAKETIME_TIMESTAMP_FILE={}", self.file.display()),
            "FAKETIME_NO_CACHE=1".to_owned(),
            "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
        ]
    }
}
