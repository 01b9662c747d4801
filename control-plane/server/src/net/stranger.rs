//! Connections on which nobody was let in yet: they are read a little at a time, and the next part when it is decided
//! who of those that asked is let in.
//!
//! ```text
//!             let in
//!  Stranger ----------> Known
//!     |   ^               |  refused at a limit
//!     |   +---------------+  for a second
//!     |  refused too often
//!     +-----------------------> read no more, and cut when its answers had time to leave
//! ```
//! So whoever sends hundreds of requests with a credential that nobody gave out is cut after the first few of them. Invariant: a known
//! connection is read as fast as it comes, and costs one look at a flag.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::porch::Place;

/// Bytes of a stranger that are read at a time: a few requests of usual size.
pub(super) const PART: usize = 2048;
/// Refusals on one connection after which it is cut.
const REFUSED_MAX: u32 = 16;
/// How long whoever takes more than they may stands with the strangers.
const BACK_TIME: Duration = Duration::from_secs(1);

/// How a connection stands.
#[derive(Debug, Default)]
pub(super) struct Standing {
    known: AtomicBool,
    /// Requests of a stranger that are not decided.
    undecided: AtomicU32,
    refused: AtomicU32,
    /// Requests under way whose bodies are large.
    large: AtomicU32,
    reader: Mutex<Option<Waker>>,
    back: Mutex<Option<Instant>>,
}

/// A request with a large body, until it is answered.
#[derive(Debug)]
pub(super) struct Large(Arc<Standing>);

impl Drop for Large {
    fn drop(&mut self) {
        self.0.large.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Standing {
    pub(super) fn is_known(&self) -> bool {
        self.known.load(Ordering::Acquire)
    }

    /// Where the connection is to be served.
    pub(super) fn place(&self) -> Place {
        match self.large.load(Ordering::Acquire) {
            0 if self.is_known() => Place::Inside,
            0 => Place::Porch,
            1.. => Place::Large,
        }
    }

    /// Has it served where large bodies are, until what this returns is dropped.
    pub(super) fn begin_large(self: &Arc<Standing>) -> Large {
        self.large.fetch_add(1, Ordering::AcqRel);
        Large(Arc::clone(self))
    }

    /// Somebody on it was let in.
    pub(super) fn let_in(&self) {
        if self.is_known() {
            return;
        }
        let back = *self.back.lock().unwrap_or_else(PoisonError::into_inner);
        if back.is_some_and(|since| since.elapsed() < BACK_TIME) {
            return;
        }
        if !self.known.swap(true, Ordering::AcqRel) {
            self.wake();
        }
    }

    /// Somebody on it takes more than they may: for a moment it stands as if nobody had been let in.
    pub(super) fn set_back(&self) {
        *self.back.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.known.store(false, Ordering::Release);
    }

    /// Somebody on it was refused; true when that was once too often: it is read no more.
    pub(super) fn refuse(&self) -> bool {
        !self.is_known() && self.refused.fetch_add(1, Ordering::Relaxed) + 1 >= REFUSED_MAX
    }

    fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed) >= REFUSED_MAX
    }

    /// Ready when more may be read.
    pub(super) fn poll_read(&self, context: &mut Context<'_>) -> Poll<()> {
        let may = || self.is_known() || (self.undecided.load(Ordering::Acquire) == 0 && !self.is_refused());
        if may() {
            return Poll::Ready(());
        }
        *self.reader.lock().unwrap_or_else(PoisonError::into_inner) = Some(context.waker().clone());
        // It may have been decided in between.
        if may() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn wake(&self) {
        if let Some(reader) = self.reader.lock().unwrap_or_else(PoisonError::into_inner).take() {
            reader.wake();
        }
    }
}

/// A request of a stranger of which it is not decided whether it is let in. Goes with the request as an extension; the gate takes it out.
#[derive(Clone, Debug)]
pub(crate) struct Undecided {
    _one: Arc<One>,
}

#[derive(Debug)]
struct One(Arc<Standing>);

impl Undecided {
    /// `None` where the connection is known.
    pub(super) fn begin(standing: &Arc<Standing>) -> Option<Undecided> {
        if standing.is_known() {
            return None;
        }
        standing.undecided.fetch_add(1, Ordering::AcqRel);
        Some(Undecided { _one: Arc::new(One(Arc::clone(standing))) })
    }
}

impl Drop for One {
    fn drop(&mut self) {
        if self.0.undecided.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicU32);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_stranger_is_read_on_when_all_it_asked_is_answered() {
        let (standing, woken) = (Arc::new(Standing::default()), Arc::new(Woken::default()));
        let waker = Waker::from(Arc::clone(&woken));
        let mut context = Context::from_waker(&waker);
        assert!(standing.poll_read(&mut context).is_ready());
        let (one, other) = (Undecided::begin(&standing), Undecided::begin(&standing));
        assert!(standing.poll_read(&mut context).is_pending());
        drop(one);
        assert_eq!(woken.0.load(Ordering::Relaxed), 0);
        drop(other);
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert!(standing.poll_read(&mut context).is_ready());
    }

    #[test]
    fn who_was_let_in_is_read_as_fast_as_it_comes() {
        let (standing, woken) = (Arc::new(Standing::default()), Arc::new(Woken::default()));
        let waker = Waker::from(Arc::clone(&woken));
        let mut context = Context::from_waker(&waker);
        let _asked = Undecided::begin(&standing);
        assert!(standing.poll_read(&mut context).is_pending());
        standing.let_in();
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert!(standing.poll_read(&mut context).is_ready() && Undecided::begin(&standing).is_none());
    }

    #[test]
    fn who_takes_more_than_they_may_stands_back_for_a_moment() {
        let standing = Standing::default();
        standing.let_in();
        standing.set_back();
        standing.let_in();
        assert!(!standing.is_known());
        *standing.back.lock().unwrap() = Instant::now().checked_sub(BACK_TIME);
        standing.let_in();
        assert!(standing.is_known());
    }

    #[test]
    fn who_is_refused_again_and_again_is_cut() {
        let standing = Standing::default();
        assert_eq!((1..=REFUSED_MAX).find(|_| standing.refuse()), Some(REFUSED_MAX));
        assert!(standing.poll_read(&mut Context::from_waker(Waker::noop())).is_pending());
        standing.let_in();
        assert!(!standing.refuse(), "others on the connection are at work");
    }
}
