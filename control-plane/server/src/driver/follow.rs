//! Followers: those who want to see every durable batch, in order, without ever slowing the plane.
//!
//! Invariant: a follower gets consecutive batches, or is told through which record it has to read the journal instead.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use mindos_core::record::Batch;
use mindos_model::Seq;
use tokio::sync::Notify;

/// Entries that may wait for one follower; a batch above that makes it lag. A second of full load, about 100 MB that followers share.
pub const FOLLOW_ENTRIES_MAX: usize = 262_144;
/// Batches that may wait for one follower: half a gigabyte where they are as large as can be.
pub const FOLLOW_BATCHES_MAX: usize = 1024;

/// What a follower is told.
#[derive(Clone, Debug)]
pub enum Followed {
    /// The next durable batch.
    Batch(Arc<Batch>),
    /// Batches were left out: read the journal through this record, then go on following.
    Lagged { through: Seq },
    /// Nothing came within the time given.
    Idle,
    /// The plane has stopped; nothing more comes.
    Closed,
}

/// Sees durable batches. Dropping it ends the subscription.
#[derive(Debug)]
pub struct Follower {
    queue: Arc<Queue>,
    /// Everything through here was durable before it began.
    start: Seq,
}

#[derive(Debug, Default)]
struct Queue {
    state: Mutex<Waiting>,
    ready: Condvar,
    notify: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    batches: VecDeque<Arc<Batch>>,
    entries: usize,
    lagged: Option<Seq>,
    closed: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn take(&mut self) -> Option<Followed> {
        if let Some(through) = self.lagged.take() {
            return Some(Followed::Lagged { through });
        }
        if let Some(batch) = self.batches.pop_front() {
            self.entries -= batch.entries.len();
            return Some(Followed::Batch(batch));
        }
        self.closed.then_some(Followed::Closed)
    }
}

impl Follower {
    /// The last record that was durable when the subscription began; the first batch starts right behind it.
    #[must_use]
    pub fn start(&self) -> Seq {
        self.start
    }

    /// What comes next, or [`Followed::Idle`] after `patience`. For threads of their own.
    pub fn next_blocking(&mut self, patience: Duration) -> Followed {
        let deadline = Instant::now() + patience;
        let mut state = self.queue.lock();
        loop {
            if let Some(followed) = state.take() {
                return followed;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Followed::Idle;
            }
            state = self.queue.ready.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// What comes next. May be dropped at any time without losing anything.
    pub async fn next(&mut self) -> Followed {
        loop {
            let notified = self.queue.notify.notified();
            if let Some(followed) = self.queue.lock().take() {
                return followed;
            }
            notified.await;
        }
    }
}

/// All followers, as the plane's thread sees them.
#[derive(Debug, Default)]
pub(crate) struct Followers {
    state: Mutex<Registry>,
}

#[derive(Debug, Default)]
struct Registry {
    queues: Vec<Weak<Queue>>,
    durable: Seq,
    closed: bool,
}

impl Followers {
    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn subscribe(&self) -> Follower {
        let queue = Arc::new(Queue::default());
        let mut registry = self.lock();
        queue.lock().closed = registry.closed;
        registry.queues.push(Arc::downgrade(&queue));
        Follower { queue, start: registry.durable }
    }

    /// Where a follower that begins now would start.
    pub(crate) fn begin(&self, durable: Seq) {
        self.lock().durable = durable;
    }

    pub(crate) fn publish(&self, batch: &Arc<Batch>) {
        let mut registry = self.lock();
        registry.durable = batch.last();
        registry.queues.retain(|queue| {
            let Some(queue) = queue.upgrade() else { return false };
            let mut state = queue.lock();
            let full = state.entries + batch.entries.len() > FOLLOW_ENTRIES_MAX && !state.batches.is_empty()
                || state.batches.len() >= FOLLOW_BATCHES_MAX;
            if full {
                state.batches.clear();
                state.entries = 0;
            }
            if full || state.lagged.is_some() {
                state.lagged = Some(batch.last());
            } else {
                state.entries += batch.entries.len();
                state.batches.push_back(Arc::clone(batch));
            }
            let waiting = state.batches.len() + usize::from(state.lagged.is_some());
            drop(state);
            // A follower that has more than this one in its queue is awake already.
            if waiting == 1 {
                queue.ready.notify_one();
                queue.notify.notify_one();
            }
            true
        });
    }

    pub(crate) fn close(&self) {
        let mut registry = self.lock();
        registry.closed = true;
        for queue in registry.queues.drain(..).filter_map(|queue| queue.upgrade()) {
            queue.lock().closed = true;
            queue.ready.notify_one();
            queue.notify.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use mindos_core::record::GeneralKey;
    use mindos_core::record::{Entry, GeneralRemoved, Record};
    use mindos_model::{ClusterName, GeneralName, TenantName, Timestamp};

    use super::*;

    fn batch(first: u64, count: u64) -> Arc<Batch> {
        let key = GeneralKey {
            tenant: TenantName::default_tenant(),
            cluster: ClusterName::new("c").unwrap(),
            name: GeneralName::new("g").unwrap(),
        };
        let record = Record::GeneralRemoved(Box::new(GeneralRemoved { key, by: Arc::from(""), from: Arc::from("") }));
        let entry = |seq| Entry { seq: Seq(seq), at: Timestamp(0), record: record.clone() };
        Arc::new(Batch { entries: (first..first + count).map(entry).collect() })
    }

    #[test]
    fn a_follower_sees_batches_in_order_and_then_the_end() {
        let followers = Followers::default();
        followers.begin(Seq(4));
        let mut follower = followers.subscribe();
        followers.publish(&batch(5, 2));
        followers.publish(&batch(7, 1));
        followers.close();

        assert_eq!(follower.start(), Seq(4));
        for first in [5, 7] {
            let Followed::Batch(batch) = follower.next_blocking(Duration::ZERO) else { panic!("no batch") };
            assert_eq!(batch.first(), Seq(first));
        }
        assert!(matches!(follower.next_blocking(Duration::ZERO), Followed::Closed));
        assert!(matches!(followers.subscribe().next_blocking(Duration::ZERO), Followed::Closed));
    }

    #[test]
    fn a_follower_that_falls_behind_is_told_through_where_to_read() {
        let followers = Followers::default();
        let mut follower = followers.subscribe();
        let mut next = 1;
        for _ in 0..=FOLLOW_BATCHES_MAX {
            followers.publish(&batch(next, 1));
            next += 1;
        }
        followers.publish(&batch(next, 1));

        assert!(matches!(follower.next_blocking(Duration::ZERO), Followed::Lagged { through } if through == Seq(next)));
        assert!(matches!(follower.next_blocking(Duration::ZERO), Followed::Idle));
        followers.publish(&batch(next + 1, 1));
        let Followed::Batch(batch) = follower.next_blocking(Duration::ZERO) else { panic!("no batch") };
        assert_eq!(batch.first(), Seq(next + 1));
    }
}
