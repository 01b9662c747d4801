//! The signer: a key's word on the chain every so many records, or every so often while there are any.
//!
//! Invariant: what is signed is durable.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mindos_core::access::{AccessChange, Checkpoint};
use mindos_core::output::Reply;
use mindos_journal::{JournalError, Ledger, RealDisk};
use mindos_model::Seq;
use tokio::sync::watch;
use tracing::{debug, warn};

use super::keys::LedgerKeys;
use super::record;
use crate::driver::{CallError, Handle};
use crate::logging::Chain;

/// Between two looks at how far the journal has come.
const LOOK: Duration = Duration::from_millis(500);

/// When it is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignerSettings {
    /// Once this many records are not signed.
    pub records: u64,
    /// Or once this has passed and there is one.
    pub interval: Duration,
}

/// Why nothing was signed; it is tried again.
#[derive(Debug, thiserror::Error)]
enum SignError {
    #[error("failed to read the journal")]
    Journal(#[from] JournalError),
    #[error("plane did not record it")]
    Call(#[from] CallError),
    #[error("reading the journal panicked")]
    Panicked(#[from] tokio::task::JoinError),
}

/// What signs.
#[derive(Debug)]
pub struct Signer {
    pub handle: Handle,
    pub ledger: Ledger<RealDisk>,
    pub keys: LedgerKeys,
    pub settings: SignerSettings,
    /// Last record that is signed, and the record that says so.
    pub last: (Seq, Seq),
}

impl Signer {
    /// Signs until `drain` turns true, and once more then, so that nothing of a clean end is unsigned but its last record.
    pub async fn run(mut self, mut drain: watch::Receiver<bool>) {
        self.handle.begun().await;
        let mut signed = Instant::now();
        loop {
            let ends = tokio::select! {
                () = tokio::time::sleep(LOOK) => false,
                _ = drain.wait_for(|draining| *draining) => true,
            };
            let (through, said) = self.last;
            let end = self.handle.durable_seq();
            // The record that tells of a checkpoint is no reason for another one.
            let own = u64::from(said > through && said <= end);
            let unsigned = end.0.saturating_sub(through.0).saturating_sub(own);
            let is_due = unsigned >= self.settings.records || signed.elapsed() >= self.settings.interval || ends;
            if unsigned > 0 && is_due {
                match self.sign(end).await {
                    Ok(()) => signed = Instant::now(),
                    Err(SignError::Call(CallError::Stopped(_))) => return,
                    Err(error) => {
                        warn!(error = %Chain(&error), %end, "checkpoint was not signed");
                        signed = Instant::now();
                    }
                }
            }
            if ends {
                return;
            }
        }
    }

    async fn sign(&mut self, through: Seq) -> Result<(), SignError> {
        self.keys.announce(&self.handle, Arc::from(""), Arc::from("")).await?;
        let (ledger, keys) = (self.ledger.clone(), self.keys.clone());
        let signed = tokio::task::spawn_blocking(move || {
            let link = ledger.link_at(through)?;
            Ok::<_, JournalError>(keys.checkpoint(through, link))
        });
        let signed = signed.await??;
        let change = AccessChange::SignCheckpoint(Checkpoint {
            through: signed.through,
            link: signed.link,
            key: signed.key,
            signature: signed.signature,
        });
        let said = match record(&self.handle, change).await? {
            Reply::Done { at } => at,
            _ => through.next(),
        };
        self.last = (through, said);
        debug!(%through, "checkpoint was signed");
        Ok(())
    }
}
