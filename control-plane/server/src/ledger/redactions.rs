//! How far redaction has come, for those who wait for it.

use std::sync::Arc;

use mindos_model::Seq;
use tokio::sync::watch;

/// Every redaction up to a record is done; cheap to clone.
#[derive(Clone, Debug)]
pub struct Redactions(Arc<watch::Sender<Seq>>);

impl Default for Redactions {
    fn default() -> Redactions {
        Redactions(Arc::new(watch::Sender::new(Seq::ZERO)))
    }
}

impl Redactions {
    /// All up to `seq` are done.
    pub(super) fn reached(&self, seq: Seq) {
        self.0.send_if_modified(|done| {
            let moves = seq > *done;
            *done = seq.max(*done);
            moves
        });
    }

    /// Up to where they are done.
    #[must_use]
    pub fn done(&self) -> Seq {
        *self.0.borrow()
    }

    /// Waits until all up to `seq` are.
    pub async fn through(&self, seq: Seq) {
        // The sender lives as long as this does.
        let _ = self.0.subscribe().wait_for(|done| *done >= seq).await;
    }
}
