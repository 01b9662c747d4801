//! What carries effects out and gives generals access to repositories, as the server holds it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mindos_model::{TenantName, Timestamp};
use mindos_outgoing::Outgoing;
use tokio::sync::watch;

use super::accounts::{Accounts, Need};
use super::forge::Forge;
use super::pace::Lanes;
use super::readers::Readers;
use super::rest::ForgeError;
use super::settings::Configured;
use super::turns::Turns;
use super::wanted::Repository;
use crate::driver::Handle;
use crate::metrics::{Exposition, Kind as Metric};

/// What became of tries.
#[derive(Debug, Default)]
pub struct Counts {
    pub(super) done: AtomicU64,
    pub(super) dry_run: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) transient: AtomicU64,
    pub(super) limited: AtomicU64,
    pub(super) trying: AtomicU64,
}

impl Counts {
    /// Writes the families.
    pub fn expose(&self, into: &mut Exposition) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let help = "Tries to carry out effects and what became of them.";
        let mut family = into.family("mindos_effect_tries_total", Metric::Counter, help);
        for (outcome, count) in [
            ("done", &self.done),
            ("dry_run", &self.dry_run),
            ("failed", &self.failed),
            ("transient", &self.transient),
            ("rate_limited", &self.limited),
        ] {
            family.series(&[("outcome", outcome)], read(count));
        }
        let help = "Effects that are being tried.";
        into.single("mindos_effects_trying", Metric::Gauge, help, read(&self.trying));
    }
}

/// What is needed to carry out effects.
#[derive(Clone, Debug)]
pub struct Effects {
    pub(super) accounts: Accounts,
    pub(super) handle: Handle,
    pub(super) counts: Arc<Counts>,
}

impl Effects {
    /// Nothing is carried out before it runs. What was written when is kept at `pace`; `newest` is when the journal's newest record was made before
    /// this start, 0 where it had none.
    ///
    /// # Errors
    /// When that file cannot be opened or made.
    pub fn new(
        configured: &Configured,
        client: Outgoing,
        handle: &Handle,
        pace: &Path,
        newest: Timestamp,
    ) -> Result<Effects, rusqlite::Error> {
        let lanes = Lanes::kept(Turns::open(pace, newest)?, newest > Timestamp(0));
        let accounts = Accounts::new(Arc::clone(configured), client, handle.clock(), lanes);
        Ok(Effects { accounts, handle: handle.clone(), counts: Arc::default() })
    }

    /// Where its counts are read.
    #[must_use]
    pub fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts)
    }

    /// What reads a repository for the plane itself, and writes nothing.
    ///
    /// # Errors
    /// When there are no credentials, the repository is not the tenant's to touch, or GitHub does not let it be read.
    pub(crate) async fn reading(&self, tenant: &TenantName, repository: &Repository) -> Result<Forge, ForgeError> {
        let account = self.accounts.current().filter(|account| account.github.credentials.is_some());
        let account = account.ok_or_else(|| ForgeError::refused(0, "there are no credentials"))?;
        if !account.github.lets(tenant, repository) {
            return Err(ForgeError::refused(0, format!("tenant {tenant} may not touch {repository}")));
        }
        account.forge(repository, Need::Read, true).await
    }

    /// The login under which is written, as soon as it is known, and again when it changes.
    #[must_use]
    pub fn author(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.accounts.authors.subscribe()
    }

    /// What gives generals access to repositories.
    #[must_use]
    pub fn readers(&self) -> Readers {
        Readers::new(self.accounts.clone(), self.handle.clone())
    }
}
