//! Connections that stand, within a bound: when there are as many as may be, the one that has been idle the longest gives way.
//!
//! An API server keeps idle connections for 90 s and takes them again; whoever else reaches the port cannot keep it out by opening many.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::AbortHandle;
use tokio::time::Instant;

/// All connections of a port.
#[derive(Debug)]
pub(super) struct Connections {
    max: usize,
    standing: Mutex<Standing>,
}

#[derive(Debug, Default)]
struct Standing {
    last: u64,
    all: HashMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    /// Since when nothing is asked on it; unset while something is.
    idle: Option<Instant>,
    task: AbortHandle,
}

/// One connection, which leaves when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    connections: Arc<Connections>,
    id: u64,
}

/// What is asked on a connection, until it is dropped.
#[derive(Debug)]
pub(super) struct Busy<'a>(&'a Place);

impl Connections {
    pub(super) fn new(max: usize) -> Arc<Connections> {
        Arc::new(Connections { max, standing: Mutex::default() })
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count(&self) -> usize {
        self.standing().all.len()
    }

    /// Serves a connection in a task of its own. `false` when there is no room: all others are at work.
    pub(super) fn serve<F: Future<Output = ()> + Send + 'static>(
        self: &Arc<Connections>,
        serve: impl FnOnce(Place) -> F,
    ) -> bool {
        let mut standing = self.standing();
        if standing.all.len() >= self.max {
            let idle = standing.all.iter().filter_map(|(id, entry)| Some((entry.idle?, *id)));
            let Some((_, oldest)) = idle.min() else { return false };
            if let Some(entry) = standing.all.remove(&oldest) {
                entry.task.abort();
            }
        }
        standing.last += 1;
        let id = standing.last;
        let place = Place { connections: Arc::clone(self), id };
        // It leaves only after the lock is free, so it is entered before.
        let task = tokio::spawn(serve(place)).abort_handle();
        standing.all.insert(id, Entry { idle: Some(Instant::now()), task });
        true
    }
}

impl Place {
    /// Something is asked.
    pub(super) fn busy(&self) -> Busy<'_> {
        self.set(None);
        Busy(self)
    }

    fn set(&self, idle: Option<Instant>) {
        if let Some(entry) = self.connections.standing().all.get_mut(&self.id) {
            entry.idle = idle;
        }
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.set(Some(Instant::now()));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.standing().all.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn the_oldest_idle_one_gives_way_and_none_at_work() {
        let connections = Connections::new(2);
        let (done, ended) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
        struct Ends(Arc<AtomicUsize>, usize);
        impl Drop for Ends {
            fn drop(&mut self) {
                self.0.fetch_add(self.1, Ordering::SeqCst);
            }
        }
        let open = |number: usize, works: bool| {
            let (done, ends) = (done.clone(), Ends(ended.clone(), number));
            connections.serve(move |place| async move {
                let _ends = ends;
                if works {
                    let _busy = place.busy();
                    done.notified().await;
                }
                done.notified().await;
                drop(place);
            })
        };
        for (number, works) in [(1, true), (10, false)] {
            assert!(open(number, works));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(open(100, true), "an idle one gives way");
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(ended.load(Ordering::SeqCst), 10);
        assert!(!open(1000, false), "all are at work");
        assert_eq!((ended.load(Ordering::SeqCst), connections.count()), (1010, 2));
        done.notify_waiters();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(open(2000, false));
    }
}
