//! Hot reload: a file that is watched, read and checked; what is in force changes as a whole, or not at all.
//!
//! Invariant: a file that cannot be read or is not accepted changes nothing, and is said to be so once.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use crate::logging::Chain;

/// Between two looks at the file.
const POLL: Duration = Duration::from_secs(2);

/// Why a file is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    #[error("failed to read `{path}`")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("`{path}` is not accepted: {reason}")]
    Refused { path: PathBuf, reason: String },
}

/// What tells one version of a file from another.
type Stamp = Option<(SystemTime, u64)>;

/// Reads and checks the text of a file; says what is wrong with it.
type Parse<T> = Box<dyn Fn(&str) -> Result<T, String> + Send + Sync>;

/// A value that comes from a file.
pub struct Reloaded<T> {
    path: PathBuf,
    parse: Parse<T>,
    current: Arc<ArcSwap<T>>,
    text: String,
    stamp: Stamp,
}

impl<T> std::fmt::Debug for Reloaded<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reloaded").field("path", &self.path).finish_non_exhaustive()
    }
}

impl<T: Send + Sync + 'static> Reloaded<T> {
    /// Reads the file for the first time.
    ///
    /// # Errors
    /// When it cannot be read, or is not accepted.
    pub fn open(
        path: &Path,
        parse: impl Fn(&str) -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<Reloaded<T>, ReloadError> {
        let (stamp, text) = read(path)?;
        let value = parse(&text).map_err(|reason| ReloadError::Refused { path: path.to_owned(), reason })?;
        let current = Arc::new(ArcSwap::from_pointee(value));
        Ok(Reloaded { path: path.to_owned(), parse: Box::new(parse), current, text, stamp })
    }

    /// Where the value in force is read.
    #[must_use]
    pub fn current(&self) -> Arc<ArcSwap<T>> {
        Arc::clone(&self.current)
    }

    /// Looks at the file; true when another value took effect.
    ///
    /// # Errors
    /// When the file cannot be read or is not accepted; what is in force stays, and the same file is not complained about again.
    pub fn look(&mut self) -> Result<bool, ReloadError> {
        let stamp = stamp(&self.path);
        if stamp.is_some() && stamp == self.stamp {
            return Ok(false);
        }
        let (stamp, text) = read(&self.path)?;
        self.stamp = stamp;
        if text == self.text {
            return Ok(false);
        }
        self.take(text)
    }

    /// Takes the file also when it is unchanged, for what it names may have changed: files that hold secrets.
    ///
    /// # Errors
    /// As [`Self::look`].
    pub fn reload(&mut self) -> Result<bool, ReloadError> {
        let (stamp, text) = read(&self.path)?;
        self.stamp = stamp;
        self.take(text)
    }

    fn take(&mut self, text: String) -> Result<bool, ReloadError> {
        let value = (self.parse)(&text).map_err(|reason| ReloadError::Refused { path: self.path.clone(), reason })?;
        self.text = text;
        self.current.store(Arc::new(value));
        Ok(true)
    }

    /// Watches the file until `drain` turns true and hands each value that takes effect to `changed`; `hurry` makes it look at
    /// once, as SIGHUP does.
    pub async fn watch(mut self, hurry: Arc<Notify>, mut drain: watch::Receiver<bool>, changed: impl Fn(&T)) {
        let mut complained = false;
        loop {
            let looked = tokio::select! {
                () = hurry.notified() => self.reload(),
                () = tokio::time::sleep(POLL) => self.look(),
                _ = drain.wait_for(|draining| *draining) => return,
            };
            match looked {
                Ok(taken) => {
                    complained &= !taken;
                    if taken {
                        changed(&self.current.load());
                        info!(path = %self.path.display(), "configuration was reloaded");
                    }
                }
                Err(error @ ReloadError::Refused { .. }) => {
                    warn!(error = %Chain(&error), "configuration was not reloaded; the last good one stays in force");
                }
                // A file that is gone is looked for at every turn: say so once.
                Err(error) => {
                    if !complained {
                        warn!(error = %Chain(&error), "configuration was not read; the last good one stays in force");
                    }
                    complained = true;
                }
            }
        }
    }
}

fn stamp(path: &Path) -> Stamp {
    let data = fs::metadata(path).ok()?;
    Some((data.modified().ok()?, data.len()))
}

fn read(path: &Path) -> Result<(Stamp, String), ReloadError> {
    // The stamp first: a change while reading shows at the next look.
    let stamp = stamp(path);
    let text = fs::read_to_string(path).map_err(|source| ReloadError::Read { path: path.to_owned(), source })?;
    Ok((stamp, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Result<u32, String> {
        text.trim().parse().map_err(|_| format!("`{}` is not a number", text.trim()))
    }

    #[test]
    fn a_bad_file_keeps_the_last_good_value_and_is_refused_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("limits");
        fs::write(&path, "7").unwrap();
        let mut file = Reloaded::open(&path, number).unwrap();
        let current = file.current();
        assert!(!file.look().unwrap());

        fs::write(&path, "seven").unwrap();
        assert!(file.look().unwrap_err().to_string().ends_with("is not accepted: `seven` is not a number"));
        assert!(!file.look().unwrap());
        assert_eq!(**current.load(), 7);

        fs::write(&path, "81").unwrap();
        assert!(file.look().unwrap());
        assert_eq!(**current.load(), 81);
        fs::remove_file(&path).unwrap();
        assert!(matches!(file.look(), Err(ReloadError::Read { .. })));
        assert_eq!(**current.load(), 81);
    }

    #[test]
    fn a_first_file_must_be_good() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Reloaded::open(&dir.path().join("none"), number), Err(ReloadError::Read { .. })));
        let path = dir.path().join("bad");
        fs::write(&path, "x").unwrap();
        assert!(matches!(Reloaded::open(&path, number), Err(ReloadError::Refused { .. })));
    }
}
