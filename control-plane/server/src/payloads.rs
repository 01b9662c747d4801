//! Payloads at hand: the newest ones in memory, bounded by bytes; the others read back from the journal.
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

/// Requests that may wait for the reader's thread.
const READS_MAX: usize = 1024;
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
    done: oneshot::Sender<Vec<Option<Bytes>>>,
}

#[derive(Debug)]
struct Cache {
    bytes_max: usize,
    bytes: usize,
    found: HashMap<Seq, Bytes, FixedState>,
    order: VecDeque<Seq>,
}

impl Cache {
    fn insert(&mut self, seq: Seq, bytes: Bytes) {
        let size = bytes.len() + ENTRY_BYTES;
        if size > self.bytes_max || self.found.contains_key(&seq) {
            return;
        }
        while self.bytes + size > self.bytes_max {
            let Some(oldest) = self.order.pop_front() else { break };
            if let Some(gone) = self.found.remove(&oldest) {
                self.bytes -= gone.len() + ENTRY_BYTES;
            }
        }
        self.bytes += size;
        self.found.insert(seq, bytes);
        self.order.push_back(seq);
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
                let one = |seq: &Seq| match read(*seq) {
                    Ok(payload) => payload,
                    Err(error) => {
                        error!(error = %crate::logging::Chain(&error), %seq, "payload was not read");
                        None
                    }
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
            match &entry.record {
                Record::EventAccepted(accepted) => cache.insert(entry.seq, accepted.payload.bytes.clone()),
                Record::PayloadCarried(carried) => cache.insert(entry.seq, carried.payload.bytes.clone()),
                _ => {}
            }
        }
    }

    /// Looks several up under one lock, in their order.
    pub(crate) fn look_up(&self, seqs: impl Iterator<Item = Seq>, mut found: impl FnMut(Seq, Option<Bytes>)) {
        let cache = self.lock();
        for seq in seqs {
            found(seq, cache.found.get(&seq).cloned());
        }
    }

    /// The payload beside a record, from memory or else from the journal; `None` when it is gone.
    pub async fn get(&self, seq: Seq) -> Option<Bytes> {
        if let Some(bytes) = self.lock().found.get(&seq).cloned() {
            return Some(bytes);
        }
        self.read(vec![seq]).await.pop().flatten()
    }

    /// Reads payloads from the journal, in the order of their records.
    pub async fn read(&self, seqs: Vec<Seq>) -> Vec<Option<Bytes>> {
        let count = seqs.len();
        let (done, answer) = oneshot::channel();
        if self.reads.send(Read { seqs, done }).await.is_err() {
            return vec![None; count];
        }
        answer.await.unwrap_or_else(|_| vec![None; count])
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
            cache.insert(Seq(seq), Bytes::from(vec![0; 100]));
        }
        assert_eq!(cache.found.len(), 3);
        assert!(cache.found.contains_key(&Seq(5)) && !cache.found.contains_key(&Seq(2)));
        assert_eq!(cache.bytes, cache.bytes_max);
        cache.insert(Seq(6), Bytes::from(vec![0; 10_000]));
        assert!(!cache.found.contains_key(&Seq(6)));
    }

    #[tokio::test]
    async fn what_is_not_in_the_cache_is_read_from_the_journal() {
        let read: ReadPayload = Arc::new(|seq| Ok((seq.0 != 9).then(|| Bytes::copy_from_slice(&seq.0.to_le_bytes()))));
        let payloads = Payloads::start(1 << 20, read).unwrap();
        assert_eq!(payloads.get(Seq(7)).await, Some(Bytes::copy_from_slice(&7u64.to_le_bytes())));
        assert_eq!(payloads.get(Seq(9)).await, None);
    }
}
