//! A certificate from files, such as those of cert-manager: read again when they change.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::certificate::{self, CertificateError};
use super::keeper::chain;
use super::serve::InForce;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(2);
/// Bytes of a file.
const FILE_MAX: u64 = 1 << 20;

/// The files.
#[derive(Clone, Debug)]
pub(super) struct CertificateFiles {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
    pub(super) in_force: Arc<InForce>,
}

impl CertificateFiles {
    /// Looks until it is dropped. What does not fit together, such as one file that was replaced before the other, changes nothing.
    pub(super) async fn run(self) {
        let (mut taken, mut failed) = (Vec::new(), String::new());
        loop {
            match self.read() {
                Ok(read) if read == taken => {}
                Ok(read) => match self.take(&read) {
                    Ok(()) => {
                        info!(path = %self.certificate.display(), "certificate was read");
                        (taken, failed) = (read, String::new());
                    }
                    Err(error) => self.warn(&chain(&error), &mut failed),
                },
                Err(text) => self.warn(&text, &mut failed),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn warn(&self, text: &str, failed: &mut String) {
        if failed != text {
            warn!(error = text, path = %self.certificate.display(), "certificate was not taken");
            text.clone_into(failed);
        }
    }

    fn read(&self) -> Result<Vec<Vec<u8>>, String> {
        let read = |path: &PathBuf| {
            let failed = |error: std::io::Error| format!("failed to read `{}`: {error}", path.display());
            let length = std::fs::metadata(path).map_err(failed)?.len();
            if length > FILE_MAX {
                return Err(format!("`{}` has {length} bytes: expected at most {FILE_MAX}", path.display()));
            }
            std::fs::read(path).map_err(failed)
        };
        [&self.certificate, &self.key].into_iter().map(read).collect()
    }

    fn take(&self, files: &[Vec<u8>]) -> Result<(), CertificateError> {
        let [chain, key] = files else { return Ok(()) };
        let certified = certificate::certified(chain, key)?;
        self.in_force.put(certified, certificate::not_after(chain).unwrap_or_default());
        Ok(())
    }
}
