//! Threads of their own for what stands back behind those that serve: it gets what they leave of the processors.

use std::cell::Cell;
use std::io;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::priority;

thread_local! {
    static STANDS_BACK: Cell<bool> = const { Cell::new(false) };
}

/// Lets those that serve go first, who have waited while this thread had a turn: the system would let it have several milliseconds
/// more. Nothing on any other thread.
pub(super) fn give_way() {
    if STANDS_BACK.get() {
        std::thread::yield_now();
    }
}

/// One such thread. It ends when this is dropped.
#[derive(Debug)]
pub struct Background {
    runtime: Handle,
    _end: oneshot::Sender<()>,
}

impl Background {
    /// Starts it under `name`, with `first` before anything else; it stands back by `niceness`, of 19.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start(name: &'static str, niceness: i32, first: impl FnOnce() + Send + 'static) -> io::Result<Background> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel();
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            STANDS_BACK.set(true);
            first();
            priority::stand_back(niceness);
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
