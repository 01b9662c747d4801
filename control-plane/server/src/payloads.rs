//! Payloads at hand: those of events whose deliveries have not all gone out yet, the newest first where they do not fit; the others are
//! read back from the journal.
//!
//! Invariant: looking into the cache never waits; reading the journal happens on a thread of its own.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use mindos_core::journal::JournalError;
use mindos_core::record::Batch;
use mindos_model::Seq;
use tokio::sync::{mpsc, oneshot};
use tracing::error;

/// Reads the payload that stands with a record; `None` when it has none, or has lost it.
pub type ReadPayload = Arc<dyn Fn(Seq) -> Result<Option<Bytes>, JournalError> + Send + Sync>;

/// Why a payload is not known to be there or gone: the journal could not be read, which may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the journal was not read")]
pub struct Unread;

/// A payload; `None` when it is gone for good.
pub type Found = Result<Option<Bytes>, Unread>;

/// Requests that may wait for the reader's thread.
const READS_MAX: usize = 1024;
/// Places in the order of coming before those of payloads that have left are cleared away.
const ORDER_MIN: usize = 1024;
/// What an entry costs beside its bytes, roughly.
const ENTRY_BYTES: usize = 96;

/// The cache and the way past it; cheap to clone.
#[derive(Clone)]
pub struct Payloads {
    cache: Arc<Mutex<Cache>>,
    reads: mpsc::Sender<Read>,
}

impl std::fmt::Debug for Payloads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Payloads").field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

struct Read {
    seqs: Vec<Seq>,
    done: oneshot::Sender<Vec<Found>>,
}

#[derive(Debug)]
struct Cache {
    bytes_max: usize,
    bytes: usize,
    found: HashMap<Seq, Kept, FixedState>,
    /// As they came; some have left since.
    order: VecDeque<Seq>,
}

#[derive(Debug)]
struct Kept {
    bytes: Bytes,
    /// Deliveries that have not gone out yet. What is asked for again after the last one is read from the journal.
    left: usize,
}

impl Cache {
    /// Keeps a payload for `left` deliveries.
    fn insert(&mut self, seq: Seq, bytes: Bytes, left: usize) {
        let size = bytes.len() + ENTRY_BYTES;
        if left == 0 || size > self.bytes_max || self.found.contains_key(&seq) {
            return;
        }
        while self.bytes + size > self.bytes_max {
            let Some(oldest) = self.order.pop_front() else { break };
            self.remove(oldest);
        }
        if self.order.len() >= ORDER_MIN + 2 * self.found.len() {
            let found = &self.found;
            self.order.retain(|seq| found.contains_key(seq));
        }
        self.bytes += size;
        self.found.insert(seq, Kept { bytes, left });
        self.order.push_back(seq);
    }

    /// A payload for one delivery that goes out.
    fn take(&mut self, seq: Seq) -> Option<Bytes> {
        let kept = self.found.get_mut(&seq)?;
        if kept.left > 1 {
            kept.left -= 1;
            return Some(kept.bytes.clone());
        }
        self.remove(seq)
    }

    fn remove(&mut self, seq: Seq) -> Option<Bytes> {
        let Kept { bytes, left: _ } = self.found.remove(&seq)?;
        self.bytes -= bytes.len() + ENTRY_BYTES;
        Some(bytes)
    }
}

impl Payloads {
    /// A cache of at most `bytes_max`, and a thread that reads what is not in it. The thread ends with the last clone.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start(bytes_max: usize, read: ReadPayload) -> std::io::Result<Payloads> {
        let cache = Cache { bytes_max, bytes: 0, found: HashMap::default(), order: VecDeque::new() };
        let cache = Arc::new(Mutex::new(cache));
        let (reads, mut requests) = mpsc::channel::<Read>(READS_MAX);
        std::thread::Builder::new().name("payloads".to_owned()).spawn(move || {
            while let Some(Read { seqs, done }) = requests.blocking_recv() {
                if done.is_closed() {
                    continue;
                }
                let one = |seq: &Seq| {
                    read(*seq).map_err(|error| {
                        error!(error = %crate::logging::Chain(&error), %seq, "payload was not read");
                        Unread
                    })
                };
                let _ = done.send(seqs.iter().map(one).collect());
            }
        })?;
        Ok(Payloads { cache, reads })
    }

    fn lock(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what stands beside the records of a batch and may be sent out.
    pub(crate) fn keep(&self, batch: &Batch) {
        use mindos_core::record::Record;
        let mut cache = self.lock();
        for entry in &batch.entries {
            if let Record::EventAccepted(accepted) = &entry.record {
                let left = accepted.deliveries.iter().filter(|delivery| delivery.parked.is_none()).count();
                cache.insert(entry.seq, accepted.payload.bytes.clone(), left);
            }
        }
    }

    /// Looks several up under one lock, in their order, each for one delivery that goes out.
    pub(crate) fn take(&self, seqs: impl Iterator<Item = Seq>, mut found: impl FnMut(Seq, Option<Bytes>)) {
        let mut cache = self.lock();
        for seq in seqs {
            found(seq, cache.take(seq));
        }
    }

    /// Forgets the payloads of these records.
    pub(crate) fn forget(&self, seqs: &std::collections::BTreeSet<Seq>) {
        let mut cache = self.lock();
        for seq in seqs {
            cache.remove(*seq);
        }
    }

    /// The payload beside a record, from memory or else from the journal.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub async fn get(&self, seq: Seq) -> Found {
        if let Some(bytes) = self.lock().found.get(&seq).map(|kept| kept.bytes.clone()) {
            return Ok(Some(bytes));
        }
        self.read(vec![seq]).await.pop().unwrap_or(Err(Unread))
    }

    /// Reads payloads from the journal, in the order of their records.
    pub async fn read(&self, seqs: Vec<Seq>) -> Vec<Found> {
        let count = seqs.len();
        let (done, answer) = oneshot::channel();
        if self.reads.send(Read { seqs, done }).await.is_err() {
            return vec![Err(Unread); count];
        }
        answer.await.unwrap_or_else(|_| vec![Err(Unread); count])
    }

    /// Bytes that the cache holds.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(bytes_max: usize) -> Cache {
        Cache { bytes_max, bytes: 0, found: HashMap::default(), order: VecDeque::new() }
    }

    #[test]
    fn the_cache_stays_within_its_bytes_and_drops_the_oldest() {
        let mut cache = cache(3 * (100 + ENTRY_BYTES));
        for seq in 1..=5 {
            cache.insert(Seq(seq), Bytes::from(vec![0; 100]), 1);
        }
        assert_eq!(cache.found.len(), 3);
        assert!(cache.found.contains_key(&Seq(5)) && !cache.found.contains_key(&Seq(2)));
        assert_eq!(cache.bytes, cache.bytes_max);
        cache.insert(Seq(6), Bytes::from(vec![0; 10_000]), 1);
        assert!(!cache.found.contains_key(&Seq(6)));
    }

    /// 100,000 deliveries of 64 KiB that all wait: 6 GiB pass through, and memory holds what it may.
    #[test]
    fn a_hundred_thousand_large_payloads_that_wait_take_no_more_than_the_bound() {
        const BOUND: usize = 16 << 20;
        let mut cache = cache(BOUND);
        for seq in 1..=100_000 {
            cache.insert(Seq(seq), Bytes::from(vec![1; 64 << 10]), 1);
            assert!(cache.bytes <= BOUND);
        }
        let held: usize = cache.found.values().map(|kept| kept.bytes.len()).sum();
        assert!(held <= BOUND && cache.found.len() == 255, "{held} bytes in {}", cache.found.len());
        assert!(cache.order.len() <= ORDER_MIN + 2 * cache.found.len());
        assert!(cache.take(Seq(1)).is_none() && cache.take(Seq(100_000)).is_some());
    }

    #[test]
    fn a_payload_leaves_with_its_last_delivery_and_so_does_its_place() {
        let mut cache = cache(1 << 30);
        for seq in 1..=10 * ORDER_MIN as u64 {
            cache.insert(Seq(seq), Bytes::from_static(b"x"), 2);
            assert!(cache.take(Seq(seq)).is_some() && cache.take(Seq(seq)).is_some());
            assert!(cache.take(Seq(seq)).is_none());
        }
        cache.insert(Seq(1), Bytes::from_static(b"x"), 0);
        assert_eq!((cache.bytes, cache.found.len()), (0, 0));
        assert!(cache.order.len() <= ORDER_MIN);
    }

    #[tokio::test]
    async fn what_is_not_in_the_cache_is_read_from_the_journal() {
        let read: ReadPayload = Arc::new(|seq| Ok((seq.0 != 9).then(|| Bytes::copy_from_slice(&seq.0.to_le_bytes()))));
        let payloads = Payloads::start(1 << 20, read).unwrap();
        assert_eq!(payloads.get(Seq(7)).await, Ok(Some(Bytes::copy_from_slice(&7u64.to_le_bytes()))));
        assert_eq!(payloads.get(Seq(9)).await, Ok(None));
    }

    #[tokio::test]
    async fn what_could_not_be_read_is_not_taken_for_gone() {
        let read: ReadPayload = Arc::new(|seq| Err(JournalError::Dropped { wanted: seq, first: Seq(9) }));
        let payloads = Payloads::start(1 << 20, read).unwrap();
        assert_eq!(payloads.get(Seq(7)).await, Err(Unread));
    }
}
