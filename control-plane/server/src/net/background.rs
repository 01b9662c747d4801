//! Threads of their own for what stands back behind those that serve: it gets what they leave of the processors.

use std::io;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tracing::warn;

/// How far such a thread stands back.
const NICENESS: i32 = 10;

/// One such thread. It ends when this is dropped.
#[derive(Debug)]
pub struct Background {
    runtime: Handle,
    _end: oneshot::Sender<()>,
}

impl Background {
    /// Starts it under `name`, with `first` before anything else.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start(name: &'static str, first: impl FnOnce() + Send + 'static) -> io::Result<Background> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel();
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            first();
            if let Err(error) = rustix::process::nice(NICENESS) {
                warn!(%error, name, "a thread was not set back");
            }
            let _ = runtime.block_on(ended);
        })?;
        Ok(Background { runtime: handle, _end: end })
    }

    /// Where its tasks run.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.runtime
    }
}
