//! Following the journal: hands each durable record once, in order, to a view, from memory while it keeps up and from storage
//! when it does not.
//!
//! ```text
//!              the feed lagged, or has a gap
//!   Live  ------------------------------------->  Catching up
//!         <-------------------------------------
//!              storage has no record that the view lacks
//! ```
//! Invariant: a view sees the records from its own `next()` on without a gap, unless the journal itself has dropped them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use mindos_core::journal::JournalError;
use mindos_core::record::{Batch, Entry};
use mindos_model::{Seq, Timestamp};
use tracing::{debug, error, info, warn};

use crate::driver::{self, Followed};
use crate::logging::Chain;

/// Records between two looks at the stop flag and two turns of upkeep while catching up.
const STRIDE: u64 = 20_000;
/// How long a live follower sleeps when nothing comes, at most.
const IDLE: Duration = Duration::from_millis(500);
/// How long a live follower lets batches gather after it has taken all there were: waking for each would cost more than its work.
const GATHER: Duration = Duration::from_millis(25);
/// First wait after a view failed; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// What a feed has.
#[derive(Debug)]
pub enum Fed {
    Batch(Arc<Batch>),
    /// Batches were passed over: read them from storage.
    Lagged,
    /// Nothing came in the time given.
    Idle,
    /// Nothing will come: the plane ends.
    Closed,
}

/// Durable batches as they come, in order.
pub trait Feed: Send {
    /// The next batch, waited for up to `wait`.
    fn next(&mut self, wait: Duration) -> Fed;
}

impl Feed for driver::Follower {
    fn next(&mut self, wait: Duration) -> Fed {
        match self.next_blocking(wait) {
            Followed::Batch(batch) => Fed::Batch(batch),
            Followed::Lagged { .. } => Fed::Lagged,
            Followed::Idle => Fed::Idle,
            Followed::Closed => Fed::Closed,
        }
    }
}

/// Durable records, from storage.
pub trait Source: Send + Sync {
    /// The last durable record.
    fn end(&self) -> Seq;

    /// Hands entries from `from` on to `visit`, in order, until it returns false.
    ///
    /// # Errors
    /// [`JournalError::Dropped`] when `from` has left the journal; others when it cannot be read.
    fn read(&self, from: Seq, visit: &mut dyn FnMut(&Entry) -> bool) -> Result<(), JournalError>;
}

/// A failure of a view. It is followed by [`View::recover`].
pub type ViewError = Box<dyn std::error::Error + Send + Sync>;

/// Something derived from the journal that can be rebuilt from it.
pub trait View: Send {
    /// For logs and the names of threads.
    fn name(&self) -> &'static str;
    /// The first record it has not seen.
    fn next(&self) -> Seq;
    /// Takes the record at `next()`.
    ///
    /// # Errors
    /// When its storage fails.
    fn apply(&mut self, entry: &Entry) -> Result<(), ViewError>;
    /// Called between strides; `idle` when nothing more is waiting.
    ///
    /// # Errors
    /// When its storage fails.
    fn upkeep(&mut self, idle: bool) -> Result<(), ViewError>;
    /// The last record it has seen and that record's time, where it is known: tells whether the journal is still the same.
    fn mark(&self) -> Option<(Seq, Timestamp)>;
    /// The journal was cut off, and goes on otherwise: forgets everything and begins anew.
    ///
    /// # Errors
    /// When its storage fails.
    fn reset(&mut self) -> Result<(), ViewError>;
    /// The records before `first` left the journal unseen.
    ///
    /// # Errors
    /// When its storage fails.
    fn skip_to(&mut self, first: Seq) -> Result<(), ViewError>;
    /// Brings the view back to a state it can go on from, after an error.
    ///
    /// # Errors
    /// When its storage still fails; tried again later.
    fn recover(&mut self) -> Result<(), ViewError>;
    /// The last call, on a clean end.
    ///
    /// # Errors
    /// When its storage fails.
    fn close(&mut self) -> Result<(), ViewError>;
}

/// How far a follower has come; shared with metrics.
#[derive(Debug, Default)]
pub struct Progress {
    seen: AtomicU64,
    restarts: AtomicU64,
}

impl Progress {
    /// The last record that the view has seen.
    #[must_use]
    pub fn seen(&self) -> Seq {
        Seq(self.seen.load(Ordering::Relaxed))
    }

    /// How many records the view is behind `end`.
    #[must_use]
    pub fn lag(&self, end: Seq) -> u64 {
        end.0.saturating_sub(self.seen().0)
    }

    /// How often the view failed and was brought back.
    #[must_use]
    pub fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::Relaxed)
    }
}

/// How much of the processor a follower may take from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// Cheap work that others rely on.
    Normal,
    /// Work that may lag.
    Low,
}

/// A running follower. Dropping it ends its thread.
#[derive(Debug)]
pub struct Follower {
    stop: Arc<AtomicBool>,
    progress: Arc<Progress>,
    thread: Option<JoinHandle<()>>,
}

impl Follower {
    /// Starts a thread that keeps `view` up with the journal.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start(
        mut view: impl View + 'static,
        mut feed: impl Feed + 'static,
        source: Arc<dyn Source>,
        priority: Priority,
    ) -> std::io::Result<Follower> {
        let stop = Arc::new(AtomicBool::new(false));
        let progress = Arc::new(Progress::default());
        progress.seen.store(view.next().0.saturating_sub(1), Ordering::Relaxed);
        let (its_stop, its_progress) = (Arc::clone(&stop), Arc::clone(&progress));
        let thread = std::thread::Builder::new().name(format!("view-{}", view.name())).spawn(move || {
            if priority == Priority::Low {
                lower_priority();
            }
            run(&mut view, &mut feed, &*source, &its_stop, &its_progress);
        })?;
        Ok(Follower { stop, progress, thread: Some(thread) })
    }

    /// How far it has come.
    #[must_use]
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Ends the thread once the view is closed.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            error!("a view's thread panicked");
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.end();
    }
}

/// Lets every other thread go first. Linux keeps the value per thread.
pub(crate) fn lower_priority() {
    const NICE: i32 = 10;
    if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE) {
        debug!(%error, "priority was not lowered");
    }
}

/// Keeps `view` up with the journal until told to stop, or the feed closes.
pub fn run(view: &mut dyn View, feed: &mut dyn Feed, source: &dyn Source, stop: &AtomicBool, progress: &Progress) {
    let mut wait = RETRY_MIN;
    let mut live = false;
    loop {
        let before = view.next();
        match check_mark(view, source).and_then(|()| follow(view, feed, source, stop, progress, &mut live)) {
            Ok(()) => match view.close() {
                Ok(()) => return,
                Err(error) => return warn!(error = %Chain(&*error), view = view.name(), "view was not closed cleanly"),
            },
            Err(error) => {
                live = false;
                progress.restarts.fetch_add(1, Ordering::Relaxed);
                // Progress between two failures begins the waits anew.
                wait = if view.next() > before { RETRY_MIN } else { (wait * 2).min(RETRY_MAX) };
                let retry_in_ms = wait.as_millis();
                warn!(error = %Chain(&*error), view = view.name(), retry_in_ms, "view failed");
                if !pause(wait, stop) {
                    return;
                }
                // Until it is whole again it says nothing of where it stands, so nothing may be followed from there.
                while let Err(error) = view.recover() {
                    wait = (wait * 2).min(RETRY_MAX);
                    let retry_in_ms = wait.as_millis();
                    warn!(error = %Chain(&*error), view = view.name(), retry_in_ms, "view was not brought back");
                    if !pause(wait, stop) {
                        return;
                    }
                }
                progress.seen.store(view.next().0.saturating_sub(1), Ordering::Relaxed);
            }
        }
    }
}

/// Begins anew when the journal no longer has the view's last record: an operator cut it off.
fn check_mark(view: &mut dyn View, source: &dyn Source) -> Result<(), ViewError> {
    let Some((seq, at)) = view.mark() else { return Ok(()) };
    let mut found = None;
    match source.read(seq, &mut |entry| {
        found = Some((entry.seq, entry.at));
        false
    }) {
        Ok(()) if found == Some((seq, at)) => Ok(()),
        Err(JournalError::Dropped { .. }) => Ok(()),
        Ok(()) => {
            warn!(view = view.name(), %seq, "journal was cut behind the view, which begins anew");
            view.reset()
        }
        Err(error) => Err(error.into()),
    }
}

fn follow(
    view: &mut dyn View,
    feed: &mut dyn Feed,
    source: &dyn Source,
    stop: &AtomicBool,
    progress: &Progress,
    live: &mut bool,
) -> Result<(), ViewError> {
    let mut wait = IDLE;
    while !stop.load(Ordering::Relaxed) {
        if !*live {
            let end = source.end();
            if view.next() <= end {
                catch_up(view, source, progress)?;
                continue;
            }
            *live = true;
            debug!(view = view.name(), seq = %end, "view caught up");
        }
        match feed.next(wait) {
            Fed::Batch(batch) => {
                if batch.first() > view.next() {
                    *live = false;
                    continue;
                }
                let next = view.next();
                for entry in batch.entries.iter().filter(|entry| entry.seq >= next) {
                    view.apply(entry)?;
                }
                progress.seen.store(view.next().0.saturating_sub(1), Ordering::Relaxed);
                wait = Duration::ZERO;
            }
            Fed::Lagged => *live = false,
            Fed::Idle if wait.is_zero() => {
                view.upkeep(false)?;
                std::thread::sleep(GATHER);
                wait = IDLE;
            }
            Fed::Idle => view.upkeep(true)?,
            Fed::Closed => {
                // What the feed no longer gave is on storage already.
                while view.next() <= source.end() && !stop.load(Ordering::Relaxed) {
                    catch_up(view, source, progress)?;
                }
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Reads one stride from storage.
fn catch_up(view: &mut dyn View, source: &dyn Source, progress: &Progress) -> Result<(), ViewError> {
    let from = view.next();
    let mut failed = None;
    let read = source.read(from, &mut |entry| match view.apply(entry) {
        Ok(()) => entry.seq.0 - from.0 < STRIDE,
        Err(error) => {
            failed = Some(error);
            false
        }
    });
    if let Some(error) = failed {
        return Err(error);
    }
    match read {
        Ok(()) => {}
        Err(JournalError::Dropped { wanted, first }) => {
            info!(view = view.name(), %wanted, %first, "view begins where the journal does");
            view.skip_to(first)?;
        }
        Err(error) => return Err(error.into()),
    }
    progress.seen.store(view.next().0.saturating_sub(1), Ordering::Relaxed);
    if view.next() == from {
        // Only records that this program passes over: what comes behind them is waited for.
        std::thread::sleep(IDLE);
    }
    view.upkeep(false)
}

/// Waits, and says whether to go on.
fn pause(wait: Duration, stop: &AtomicBool) -> bool {
    let step = Duration::from_millis(50);
    let mut left = wait;
    while !left.is_zero() && !stop.load(Ordering::Relaxed) {
        std::thread::sleep(left.min(step));
        left = left.saturating_sub(step);
    }
    !stop.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use mindos_core::record::{EpochCause, EpochStarted, Record};

    use super::super::testing::Records;
    use super::*;

    /// Says what it was fed with.
    #[derive(Default)]
    struct Seen {
        entries: Vec<Entry>,
        next: u64,
        fails_at: Option<Seq>,
        /// How often it is not brought back before it is.
        stays_down: u32,
        resets: usize,
        closed: bool,
    }

    impl View for Seen {
        fn name(&self) -> &'static str {
            "seen"
        }

        fn next(&self) -> Seq {
            Seq(self.next.max(1))
        }

        fn apply(&mut self, entry: &Entry) -> Result<(), ViewError> {
            assert_eq!(entry.seq, View::next(self));
            if self.fails_at.take_if(|at| *at == entry.seq).is_some() {
                return Err("disk on fire".into());
            }
            self.entries.push(entry.clone());
            self.next = entry.seq.0 + 1;
            Ok(())
        }

        fn upkeep(&mut self, _: bool) -> Result<(), ViewError> {
            Ok(())
        }

        fn mark(&self) -> Option<(Seq, Timestamp)> {
            self.entries.last().map(|entry| (entry.seq, entry.at))
        }

        fn reset(&mut self) -> Result<(), ViewError> {
            self.entries.clear();
            self.next = 1;
            self.resets += 1;
            Ok(())
        }

        fn skip_to(&mut self, first: Seq) -> Result<(), ViewError> {
            self.next = first.0;
            Ok(())
        }

        fn recover(&mut self) -> Result<(), ViewError> {
            match self.stays_down.checked_sub(1) {
                Some(left) => {
                    // As one that lost its place on the way.
                    (self.next, self.stays_down) = (0, left);
                    Err("still on fire".into())
                }
                None => {
                    self.next = self.entries.last().map_or(1, |entry| entry.seq.0 + 1);
                    Ok(())
                }
            }
        }

        fn close(&mut self) -> Result<(), ViewError> {
            self.closed = true;
            Ok(())
        }
    }

    struct Script(VecDeque<Fed>);

    impl Feed for Script {
        fn next(&mut self, _: Duration) -> Fed {
            self.0.pop_front().unwrap_or(Fed::Closed)
        }
    }

    fn records(count: u32) -> Records {
        let records = Records::default();
        for epoch in 1..=count {
            records.push(Record::EpochStarted(EpochStarted { epoch, version: "0".into(), cause: EpochCause::Start }));
        }
        records
    }

    fn batch(records: &Records, range: std::ops::Range<usize>) -> Fed {
        Fed::Batch(Arc::new(Batch { entries: records.entries()[range].to_vec() }))
    }

    fn follow_all(view: &mut Seen, feed: Vec<Fed>, records: &Records) -> Progress {
        let progress = Progress::default();
        run(view, &mut Script(feed.into()), records, &AtomicBool::new(false), &progress);
        assert!(view.closed);
        progress
    }

    #[test]
    fn every_record_is_seen_once_whatever_the_feed_leaves_out() {
        let records = records(40);
        let feeds: [Vec<Fed>; 4] = [
            vec![],
            vec![batch(&records, 0..40)],
            vec![batch(&records, 35..38), Fed::Lagged, batch(&records, 38..40)],
            vec![Fed::Lagged, Fed::Idle, batch(&records, 39..40), batch(&records, 10..12)],
        ];
        for feed in feeds {
            let mut view = Seen::default();
            let progress = follow_all(&mut view, feed, &records);
            assert_eq!(view.entries, records.entries());
            assert_eq!((progress.seen(), progress.lag(Seq(41))), (Seq(40), 1));
        }
    }

    #[test]
    fn a_view_that_fails_goes_on_where_it_was() {
        let records = records(9);
        let mut view = Seen { fails_at: Some(Seq(4)), ..Seen::default() };
        let progress = follow_all(&mut view, vec![], &records);
        assert_eq!((view.entries.len(), progress.restarts()), (9, 1));
    }

    #[test]
    fn a_view_that_is_not_brought_back_at_once_is_fed_nothing_until_it_is() {
        let records = records(9);
        let mut view = Seen { fails_at: Some(Seq(4)), stays_down: 1, ..Seen::default() };
        let progress = follow_all(&mut view, vec![], &records);
        assert_eq!((view.entries, progress.restarts()), (records.entries(), 1));
    }

    #[test]
    fn a_journal_that_was_cut_and_goes_on_otherwise_makes_a_view_begin_anew() {
        let longer = records(9);
        let mut view = Seen::default();
        follow_all(&mut view, vec![], &longer);
        // The same place, another time.
        view.entries.last_mut().unwrap().at = Timestamp(5);
        follow_all(&mut view, vec![], &longer);
        assert_eq!((view.resets, view.entries.len()), (1, 9));

        let shorter = records(3);
        follow_all(&mut view, vec![], &shorter);
        assert_eq!((view.resets, view.entries.len()), (2, 3));
    }
}
