//! Readers: generals that read the repository that they work on, each with access of its own while it holds its lease.
//!
//! Of an App each lease gets a token of its own, for one repository and to read, which is revoked when the lease ends. Where the
//! process ends first the token ends by itself, an hour after it was made. Invariant: whoever does not hold the lease gets nothing, and
//! of another repository than that of the event nobody gets anything.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mindos_core::input::{Input, Query};
use mindos_core::output::{DeliveryView, EventView, Reply};
use mindos_core::record::{InstanceKey, Record};
use mindos_model::{ClusterName, DeliveryId, Secret, Status, TenantName, Timestamp, Token};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::accounts::{self, Accounts};
use super::rest::ForgeError;
use super::wanted::Repository;
use crate::driver::{CallError, Followed, Handle};

/// Leases that may have access at a time.
const LEASES_MAX: usize = 10_000;
/// Access that ends sooner is not handed out again.
const MARGIN: Duration = Duration::from_secs(300);
/// Between two looks at all leases that have access.
const SWEEP: Duration = Duration::from_secs(30);
/// Tries to revoke a token.
const REVOKE_TRIES: u32 = 3;

/// Access to one repository.
#[derive(Clone, Debug)]
pub struct Access {
    pub repository: Repository,
    pub api_url: String,
    pub clone_url: String,
    pub token: Secret,
    pub expires: Option<Timestamp>,
    pub author: Arc<str>,
}

/// Why there is no access.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    #[error("delivery {0} is not known or has ended")]
    Unknown(DeliveryId),
    #[error("{0}")]
    Denied(String),
    #[error("{0}")]
    None(String),
    #[error("{} leases have access to repositories, no more may", LEASES_MAX)]
    Full,
    #[error(transparent)]
    Forge(#[from] ForgeError),
    #[error(transparent)]
    Plane(#[from] CallError),
}

/// Who asks.
#[derive(Clone, Debug)]
pub struct Asking {
    pub tenant: TenantName,
    pub holder: Asker,
}

/// Whose leases somebody may ask about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asker {
    /// Anybody's, while access is open.
    Anybody,
    /// Those of the instance that its certificate names.
    Instance(InstanceKey),
    /// Those of all instances of the cluster that its certificate names.
    ClusterAgent(ClusterName),
}

impl Asker {
    fn is_for(&self, instance: Option<&InstanceKey>) -> bool {
        match (self, instance) {
            (Asker::Anybody, _) => true,
            (Asker::Instance(own), Some(instance)) => instance == own,
            (Asker::ClusterAgent(cluster), Some(instance)) => instance.cluster == *cluster,
            (Asker::Instance(_) | Asker::ClusterAgent(_), None) => false,
        }
    }
}

/// A lease that has access, or is about to get it.
#[derive(Debug)]
struct Lease {
    tenant: TenantName,
    given: tokio::sync::Mutex<Option<Given>>,
}

#[derive(Debug)]
struct Given {
    access: Access,
    /// What is to be revoked; unset where it is not ours alone.
    revoked_by: Option<(Arc<accounts::Account>, accounts::Token)>,
}

type Leases = HashMap<(DeliveryId, Token), Arc<Lease>>;

/// Gives access, and takes it back.
#[derive(Clone, Debug)]
pub struct Readers {
    accounts: Accounts,
    handle: Handle,
    leases: Arc<Mutex<Leases>>,
}

impl Readers {
    #[must_use]
    pub(super) fn new(accounts: Accounts, handle: Handle) -> Readers {
        Readers { accounts, handle, leases: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Access to the repository of a delivery's event, for who holds its lease.
    ///
    /// # Errors
    /// Says why there is none.
    pub async fn access(
        &self,
        asking: &Asking,
        (delivery, token): (DeliveryId, Token),
        wanted: Option<&str>,
    ) -> Result<Access, AccessError> {
        let view = self.leased(asking, delivery, token).await?;
        let repository = view
            .repository
            .as_deref()
            .ok_or_else(|| AccessError::None(format!("the event of delivery {delivery} names no repository")))?;
        let found = Repository::read(repository).ok_or_else(|| {
            AccessError::None(format!("`{repository}` is not a repository on GitHub: expected `owner/name`"))
        })?;
        if wanted.is_some_and(|wanted| Repository::read(wanted).is_none_or(|wanted| !wanted.is(&found))) {
            return Err(AccessError::Denied(format!("repository: expected {found}, that of the event, or none")));
        }
        let account = self.accounts.current();
        let Some(account) = account.filter(|account| account.github.lets(&asking.tenant, &found)) else {
            return Err(AccessError::None(format!(
                "there is no access to {found}: expected `github_app` or `github` in the settings, for tenant {}",
                asking.tenant
            )));
        };
        let lease = {
            let mut leases = self.lock();
            if leases.len() >= LEASES_MAX && !leases.contains_key(&(delivery, token)) {
                return Err(AccessError::Full);
            }
            let new = || Arc::new(Lease { tenant: asking.tenant.clone(), given: tokio::sync::Mutex::default() });
            Arc::clone(leases.entry((delivery, token)).or_insert_with(new))
        };
        let mut given = lease.given.lock().await;
        let soon = self.handle.now() + MARGIN;
        let access = match given.as_ref() {
            Some(Given { access, .. }) if access.expires.is_none_or(|end| end > soon) => access.clone(),
            _ => {
                let new = self.give(account, found).await?;
                let access = new.access.clone();
                if let Some(old) = given.replace(new) {
                    tokio::spawn(revoke(old));
                }
                access
            }
        };
        drop(given);
        // It may have ended meanwhile, and nobody would notice later.
        if let Err(ended) = self.leased(asking, delivery, token).await {
            self.end(delivery, token);
            return Err(ended);
        }
        Ok(access)
    }

    async fn give(&self, account: Arc<accounts::Account>, repository: Repository) -> Result<Given, ForgeError> {
        let author = account.author().await?;
        let token = account.reader(&repository).await?;
        let clone_url = account.clone_url(&repository, &token.secret).await;
        let revoked_by = token.expires.is_some().then(|| (Arc::clone(&account), token.clone()));
        let clone_url = match clone_url {
            Ok(clone_url) => clone_url,
            Err(error) => {
                if let Some((account, token)) = revoked_by {
                    let _ = account.revoke(&token).await;
                }
                return Err(error);
            }
        };
        let api_url = account.github.api_url.clone();
        let (expires, token) = (token.expires, token.secret);
        Ok(Given { access: Access { repository, api_url, clone_url, token, expires, author }, revoked_by })
    }

    /// The delivery, where the lease is held by who asks.
    async fn leased(&self, asking: &Asking, delivery: DeliveryId, token: Token) -> Result<DeliveryView, AccessError> {
        let view = self.view(&asking.tenant, delivery).await?.ok_or(AccessError::Unknown(delivery))?;
        let holds = is_leased(&view, token) && asking.holder.is_for(view.instance.as_deref());
        match holds {
            true => Ok(view),
            false => {
                Err(AccessError::Denied(format!("the lease of delivery {delivery} under token {token} is not yours")))
            }
        }
    }

    async fn view(&self, tenant: &TenantName, delivery: DeliveryId) -> Result<Option<DeliveryView>, CallError> {
        let (tenant, query) = (tenant.clone(), Query::Event { event: delivery.event });
        match self.handle.call(|request| Input::Query { request, tenant, query }).await? {
            Reply::Event(Some(EventView { deliveries, .. })) => {
                Ok(deliveries.into_iter().find(|view| view.delivery == delivery))
            }
            _ => Ok(None),
        }
    }

    /// Takes back what was given for a lease.
    fn end(&self, delivery: DeliveryId, token: Token) {
        let Some(lease) = self.lock().remove(&(delivery, token)) else { return };
        tokio::spawn(async move {
            if let Some(given) = lease.given.lock().await.take() {
                revoke(given).await;
            }
        });
    }

    /// Takes access back as leases end, until `drain` turns true. Leases outlive this process, and so does what was given for them.
    pub async fn watch(self, mut drain: watch::Receiver<bool>) {
        let mut follower = self.handle.subscribe();
        let mut sweep = Instant::now() + SWEEP;
        loop {
            let followed = tokio::select! {
                followed = follower.next() => followed,
                () = tokio::time::sleep_until(sweep) => Followed::Idle,
                _ = drain.wait_for(|draining| *draining) => return,
            };
            let ended: Vec<_> = match followed {
                Followed::Closed => return,
                Followed::Lagged { .. } | Followed::Idle => {
                    sweep = Instant::now() + SWEEP;
                    self.lock().keys().copied().collect()
                }
                Followed::Batch(batch) => {
                    let leases = self.lock();
                    if leases.is_empty() {
                        continue;
                    }
                    let named = batch.entries.iter().filter_map(|entry| let_go(&entry.record));
                    let of = |delivery: DeliveryId| leases.keys().filter(move |(own, _)| *own == delivery).copied();
                    named.flat_map(of).collect()
                }
            };
            for (delivery, token) in ended {
                let Some(tenant) = self.lock().get(&(delivery, token)).map(|lease| lease.tenant.clone()) else {
                    continue;
                };
                match self.view(&tenant, delivery).await {
                    Ok(Some(view)) if is_leased(&view, token) => {}
                    Ok(_) => self.end(delivery, token),
                    // Looked at again.
                    Err(error) => debug!(%error, "a lease was not looked at"),
                }
            }
        }
    }
}

fn is_leased(view: &DeliveryView, token: Token) -> bool {
    view.status == Status::Leased && view.token == token
}

/// The delivery that a record lets go of.
fn let_go(record: &Record) -> Option<DeliveryId> {
    match record {
        Record::AttemptEnded(record) => Some(record.delivery),
        Record::DeliverySettled(record) => Some(record.delivery),
        Record::DeliveryParked(record) => Some(record.delivery),
        Record::DeliveryCancelled(record) => Some(record.delivery),
        _ => None,
    }
}

async fn revoke(given: Given) {
    let Some((account, token)) = given.revoked_by else { return };
    let mut wait = Duration::from_secs(1);
    for attempt in 1..=REVOKE_TRIES {
        match account.revoke(&token).await {
            Ok(()) => return,
            Err(error) if attempt == REVOKE_TRIES => {
                let repository = given.access.repository.to_string();
                warn!(%error, repository, "a general's token was not revoked: it ends by itself within the hour");
            }
            Err(_) => tokio::time::sleep(wait).await,
        }
        wait *= 4;
    }
}
