//! Access as requests see it: the fold of the durable records, swapped as a whole.
//!
//! Invariant: what is here was durable; who changed something waits until it is here, so that a token works from the answer on that
//! made it, and does not from the answer on that revoked it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use mindos_core::access::{Access, ApiToken, Binding, DenialId, Subject, TokenHash};
use mindos_core::record::{Entry, Record};
use mindos_model::{Seq, Timestamp};
use tokio::sync::watch;
use tracing::error;

use super::principal::{Roles, Sources};
use crate::driver::{Followed, Follower};
use crate::logging::Chain;
use crate::views::follow::Source;

/// How long a change is waited for until it is here.
const SEEN_MAX: Duration = Duration::from_secs(2);
/// Between two looks whether it is.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);
/// Before the journal is read again, where it could not be.
const RETRY: Duration = Duration::from_secs(1);

/// An API token, with what a request by it needs.
#[derive(Debug)]
pub struct KnownToken {
    pub token: Arc<ApiToken>,
    /// `token:<id>`.
    pub name: Arc<str>,
    pub roles: Roles,
    pub sources: Sources,
    /// When its use was last noted, in milliseconds since the epoch.
    noted: AtomicU64,
}

/// Between two notes that a token is in use.
const NOTE_EVERY: u64 = 60 * 60 * 1000;

impl KnownToken {
    fn new(token: &Arc<ApiToken>) -> KnownToken {
        let roles: Roles = token.roles.iter().copied().collect();
        KnownToken {
            name: Arc::from(format!("token:{}", token.id)),
            roles,
            sources: Sources::of(roles, token.sources.iter()),
            noted: AtomicU64::new(token.last_used.map_or(0, |at| at.0)),
            token: Arc::clone(token),
        }
    }

    /// Whether this use is to be noted: the first in an hour. True for one caller only.
    pub fn is_to_be_noted(&self, now: Timestamp) -> bool {
        let noted = self.noted.load(Ordering::Relaxed);
        (noted == 0 || now.0 >= noted.saturating_add(NOTE_EVERY))
            && self.noted.compare_exchange(noted, now.0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// Access at one record, indexed for requests.
#[derive(Debug, Default)]
pub struct Known {
    pub access: Access,
    api_tokens: HashMap<TokenHash, Arc<KnownToken>>,
    bindings: HashMap<Subject, Vec<Arc<Binding>>>,
}

impl Known {
    fn new(access: Access) -> Known {
        let known = access.api_tokens().map(|token| (token.hash, Arc::new(KnownToken::new(token))));
        let api_tokens = known.collect();
        let mut bindings = HashMap::<Subject, Vec<Arc<Binding>>>::new();
        for binding in access.bindings() {
            bindings.entry(binding.subject.clone()).or_default().push(Arc::clone(binding));
        }
        Known { access, api_tokens, bindings }
    }

    /// The API token whose text has this hash; it may have expired.
    #[must_use]
    pub fn api_token(&self, hash: &TokenHash) -> Option<&Arc<KnownToken>> {
        self.api_tokens.get(hash)
    }

    /// What a subject has, in all scopes.
    #[must_use]
    pub fn bindings(&self, subject: &Subject) -> &[Arc<Binding>] {
        self.bindings.get(subject).map(Vec::as_slice).unwrap_or_default()
    }
}

/// Which denials hold. They have ever higher ids, so their number and the last one tell every change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Denials {
    count: usize,
    last: Option<DenialId>,
}

impl Denials {
    fn of(access: &Access) -> Denials {
        Denials { count: access.denials().count(), last: access.denials().map(|denial| denial.id).max() }
    }
}

/// Access as it is. Cheap to read.
#[derive(Debug)]
pub struct AccessView {
    known: ArcSwap<Known>,
    seen: AtomicU64,
    changed: watch::Sender<u64>,
    denials: watch::Sender<Denials>,
}

impl AccessView {
    /// Begins with what is durable up to a record.
    #[must_use]
    pub fn new(access: &Access, seq: Seq) -> AccessView {
        let known = ArcSwap::from_pointee(Known::new(access.clone()));
        let denials = watch::Sender::new(Denials::of(access));
        AccessView { known, seen: AtomicU64::new(seq.0), changed: watch::Sender::new(0), denials }
    }

    /// Access as it is.
    #[must_use]
    pub fn load(&self) -> Guard<Arc<Known>> {
        self.known.load()
    }

    /// Hears of every change from here on.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Hears when somebody comes to be denied or no longer is, and of nothing else.
    #[must_use]
    pub fn denials(&self) -> watch::Receiver<Denials> {
        self.denials.subscribe()
    }

    /// Waits until a record is here, for two seconds at most.
    pub async fn seen(&self, seq: Seq) {
        let seen = async {
            while self.seen.load(Ordering::Acquire) < seq.0 {
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
        };
        let _ = tokio::time::timeout(SEEN_MAX, seen).await;
    }

    /// Follows the durable records until the plane ends. The follower is to begin where the view does.
    pub async fn follow(self: Arc<Self>, mut follower: Follower, source: Arc<dyn Source>) {
        loop {
            match follower.next().await {
                Followed::Batch(batch) => {
                    let last = batch.last();
                    if batch.entries.iter().any(is_access) {
                        self.fold(move |access| batch.entries.iter().for_each(|entry| access.fold(entry))).await;
                    }
                    self.seen.store(last.0, Ordering::Release);
                }
                Followed::Lagged { through } => self.catch_up(&source, through).await,
                Followed::Idle => {}
                Followed::Closed => return,
            }
        }
    }

    /// Reads what was passed over.
    async fn catch_up(&self, source: &Arc<dyn Source>, through: Seq) {
        loop {
            let (source, from) = (Arc::clone(source), Seq(self.seen.load(Ordering::Acquire) + 1));
            let read = tokio::task::spawn_blocking(move || {
                let mut entries = Vec::new();
                let read = source.read(from, &mut |entry| {
                    if entry.seq <= through && is_access(entry) {
                        entries.push(entry.clone());
                    }
                    entry.seq < through
                });
                read.map(|()| entries)
            });
            match read.await {
                Ok(Ok(entries)) => {
                    if !entries.is_empty() {
                        self.fold(move |access| entries.iter().for_each(|entry| access.fold(entry))).await;
                    }
                    self.seen.store(through.0, Ordering::Release);
                    return;
                }
                Ok(Err(error)) => {
                    error!(error = %Chain(&error), "changes of access were not read: older ones are in force")
                }
                Err(error) => {
                    error!(error = %Chain(&error), "changes of access were not read: older ones are in force")
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn fold(&self, fold: impl FnOnce(&mut Access) + Send + 'static) {
        let mut access = self.known.load().access.clone();
        // With many tokens it takes a millisecond or two, which nobody else is to wait.
        let next = tokio::task::spawn_blocking(move || {
            fold(&mut access);
            Known::new(access)
        });
        match next.await {
            Ok(next) => {
                let denials = Denials::of(&next.access);
                self.known.store(Arc::new(next));
                self.changed.send_modify(|changes| *changes += 1);
                self.denials.send_if_modified(|before| std::mem::replace(before, denials) != denials);
            }
            // A record that does not fit the state: the plane, which folds the same, has ended too.
            Err(error) => error!(error = %Chain(&error), "changes of access were not folded: older ones are in force"),
        }
    }
}

/// Whether a record changes who may do what.
fn is_access(entry: &Entry) -> bool {
    matches!(entry.record, Record::Access(_))
}
