//! The keys that sign the ledger, as the server uses them.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hmac::{Hmac, KeyInit, Mac};
use mindos_core::access::{AccessChange, AccessError, AuthorityChange, SigningKey};
use mindos_core::output::{Rejection, Reply};
use mindos_journal::chain::Link;
use mindos_journal::keyring::{self, Keyring, KeyringError};
use mindos_journal::signing::{Checkpoint, KeyId, KnownKey};
use mindos_model::Seq;
use sha2::Sha256;
use tracing::{info, warn};

use super::record_by;
use crate::driver::{CallError, Handle};
use crate::logging::Chain;

/// Folder of keys within the data directory.
pub const AUTHORITY_DIR: &str = "authority";
const SALT: &str = "ledger-salt";

/// Why a key was not rotated.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    #[error("failed to make a key")]
    Keyring(#[from] KeyringError),
    #[error("key is made, and not recorded yet: it is tried again")]
    Call(#[from] CallError),
    #[error("making a key panicked")]
    Panicked(#[from] tokio::task::JoinError),
}

/// The keys; cheap to clone.
#[derive(Clone, Debug)]
pub struct LedgerKeys {
    ring: Arc<Mutex<Keyring>>,
    /// The key of which the ledger knows.
    announced: Arc<Mutex<Option<KeyId>>>,
    log_id: [u8; 16],
    salt: [u8; 32],
}

impl LedgerKeys {
    /// Opens the keys of the data directory, and makes the first one where there is none.
    ///
    /// # Errors
    /// When they cannot be read or written, or others may read them.
    pub fn open(data_dir: &Path, log_id: [u8; 16]) -> Result<LedgerKeys, KeyringError> {
        let folder = data_dir.join(AUTHORITY_DIR);
        let ring = Keyring::open(&folder, log_id)?;
        let salt = keyring::salt(&folder, SALT)?;
        Ok(LedgerKeys { ring: Arc::new(Mutex::new(ring)), announced: Arc::default(), log_id, salt })
    }

    fn ring(&self) -> MutexGuard<'_, Keyring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Names the journal that they sign.
    #[must_use]
    pub fn log_id(&self) -> [u8; 16] {
        self.log_id
    }

    /// What stands in the ledger for a digest of something that may hold secrets: nobody can try guesses against it.
    ///
    /// # Panics
    /// Never: HMAC takes keys of any length.
    #[must_use]
    pub fn blinded(&self, digest: &[u8; 32]) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.salt).expect("HMAC takes keys of any length");
        mac.update(digest);
        mac.finalize().into_bytes().into()
    }

    /// All keys there ever were, oldest first.
    #[must_use]
    pub fn known(&self) -> Vec<KnownKey> {
        self.ring().known().to_vec()
    }

    /// Signs what stands up to `through`.
    #[must_use]
    pub fn checkpoint(&self, through: Seq, link: Link) -> Checkpoint {
        self.ring().checkpoint(through, link)
    }

    /// Makes another key, vouched for by the one before, which goes once the ledger says so.
    ///
    /// # Errors
    /// See [`RotateError`].
    pub async fn rotate(&self, handle: &Handle, by: Arc<str>, from: Arc<str>) -> Result<(KnownKey, Seq), RotateError> {
        let (keys, since) = (self.clone(), handle.durable_seq());
        let made = tokio::task::spawn_blocking(move || keys.ring().rotate(since).copied()).await??;
        let said = self.announce(handle, by, from).await?;
        info!(key = %made.public, "key of the ledger was rotated");
        Ok((made, said))
    }

    /// Records the key that signs, where that is not done yet, and returns that record; zero where it was done before.
    ///
    /// # Errors
    /// When the plane does not take it.
    pub async fn announce(&self, handle: &Handle, by: Arc<str>, from: Arc<str>) -> Result<Seq, CallError> {
        let current = *self.ring().current();
        let id = current.public.id();
        if *self.announced.lock().unwrap_or_else(PoisonError::into_inner) == Some(id) {
            return Ok(Seq::ZERO);
        }
        let key = SigningKey { id, public: current.public.0, since: Seq::ZERO };
        let signed_by_old = current.by_old.map(|(_, signature)| signature);
        let change = AccessChange::ChangeAuthority(AuthorityChange::SigningKey { key, signed_by_old });
        let said = match record_by(handle, change, by, from).await {
            Ok(Reply::Done { at }) => at,
            Ok(_) | Err(CallError::Rejected(Rejection::Access(AccessError::Exists { .. }))) => Seq::ZERO,
            Err(error) => return Err(error),
        };
        *self.announced.lock().unwrap_or_else(PoisonError::into_inner) = Some(id);
        let keys = self.clone();
        let forgot = tokio::task::spawn_blocking(move || keys.ring().forget_old()).await;
        if let Ok(Err(error)) = forgot {
            warn!(error = %Chain(&error), "old key of the ledger was not removed");
        }
        Ok(said)
    }
}
