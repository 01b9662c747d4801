//! Spare segments: files of full length, zeroed or recycled, so that an append neither waits for room nor lacks it.
//!
//! A file grows on the disk only here, ahead of need, so a full disk shows while there is still a spare to write into.
//! Invariant: a file has a spare's name only once its blocks are on the disk.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use crate::disk::{Disk, DiskFile as _};
use crate::segment::{spare_name, spare_number_in};

/// Where spare segments are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preparation {
    /// On a thread of their own: for a server.
    Thread,
    /// When one is taken, by whoever appends: for tests and the simulator, where the order of everything must repeat.
    Inline,
}

/// Suffix of a file that is not finished yet.
pub(crate) const UNFINISHED: &str = ".tmp";

#[derive(Debug, Default)]
struct Stock {
    ready: VecDeque<u64>,
    next_number: u64,
    /// Dropped segments are not used again, because of what stands in them.
    fresh_only: bool,
    /// Whether the thread should make another one.
    wanted: bool,
    /// Whether an append stands still until there is one.
    awaited: bool,
    /// A segment that nobody is likely to read, to be let go of on the thread.
    filled: Option<String>,
    /// Why the last attempt failed, until somebody was told.
    failure: Option<io::Error>,
    stopped: bool,
}

#[derive(Debug)]
struct Shared {
    stock: Mutex<Stock>,
    changed: Condvar,
    /// How many bytes of the live segment are used.
    live_bytes: AtomicU64,
}

/// How much is zeroed at once on the thread, and how long it rests in between unless it is needed: 32 MB/s. A commit waits for
/// one such write at most.
const STEP_BYTES: u64 = 128 << 10;
const REST: Duration = Duration::from_millis(4);
/// How much is zeroed at once, without a rest, when the live segment fills at more than half that pace.
const LATE_STEP_BYTES: u64 = 512 << 10;
/// How much is zeroed at once when the live segment is about to overtake.
const TOO_LATE_STEP_BYTES: u64 = 4 << 20;

impl Shared {
    fn stock(&self) -> MutexGuard<'_, Stock> {
        self.stock.lock().expect("no holder of the lock panics")
    }
}

/// The spares of one log.
#[derive(Debug)]
pub(crate) struct Spares<D: Disk> {
    disk: D,
    segment_bytes: u64,
    /// How many dropped segments are kept for another use.
    kept_max: usize,
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
}

impl<D: Disk> Spares<D> {
    /// Takes over the spares in `files`, unlinks those of another length and what was left unfinished.
    pub(crate) fn open(
        disk: &D,
        files: &[(String, u64)],
        segment_bytes: u64,
        kept_max: usize,
        preparation: Preparation,
    ) -> io::Result<Spares<D>> {
        let mut stock = Stock::default();
        for (name, bytes) in files {
            if let Some(number) = spare_number_in(name) {
                stock.next_number = stock.next_number.max(number + 1);
                if *bytes == segment_bytes && stock.ready.len() < kept_max.max(1) {
                    stock.ready.push_back(number);
                } else {
                    disk.unlink(name)?;
                }
            }
        }
        let live_bytes = AtomicU64::new(0);
        let shared = Arc::new(Shared { stock: Mutex::new(stock), changed: Condvar::new(), live_bytes });
        let thread = match preparation {
            Preparation::Inline => None,
            Preparation::Thread => {
                let (disk, shared) = (disk.clone(), Arc::clone(&shared));
                Some(
                    thread::Builder::new()
                        .name("journal-spares".to_owned())
                        .spawn(move || prepare_ahead(&disk, segment_bytes, &shared))?,
                )
            }
        };
        let spares = Spares { disk: disk.clone(), segment_bytes, kept_max, shared, thread };
        spares.want();
        Ok(spares)
    }

    /// Asks for a spare to be made if there is none. Inline, a failure shows at the next `take`.
    pub(crate) fn want(&self) {
        let mut stock = self.shared.stock();
        if !stock.ready.is_empty() {
            return;
        }
        if self.thread.is_some() {
            stock.wanted = true;
            self.shared.changed.notify_all();
            return;
        }
        let number = stock.next_number;
        stock.next_number += 1;
        match prepare(&self.disk, number, self.segment_bytes, |_| Ok(TOO_LATE_STEP_BYTES)) {
            Ok(()) => stock.ready.push_back(number),
            Err(error) => stock.failure = Some(error),
        }
    }

    /// The name of a spare, which is the caller's from here on; waits if one is being made.
    pub(crate) fn take(&self) -> io::Result<String> {
        let mut stock = self.shared.stock();
        if stock.ready.is_empty() {
            stock.failure = None;
            drop(stock);
            self.want();
            stock = self.shared.stock();
        }
        loop {
            stock.awaited = false;
            if let Some(number) = stock.ready.pop_front() {
                return Ok(spare_name(number));
            }
            if let Some(failure) = stock.failure.take() {
                return Err(failure);
            }
            stock.awaited = true;
            self.shared.changed.notify_all();
            stock = self.shared.changed.wait(stock).expect("no holder of the lock panics");
        }
    }

    /// Tells how much of the live segment is used, so that the next one is ready in time.
    pub(crate) fn note_live(&self, bytes: u64) {
        self.shared.live_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Has the system forget what it keeps in memory of a segment.
    pub(crate) fn let_go(&self, segment: String) {
        if self.thread.is_some() {
            self.shared.stock().filled = Some(segment);
            self.shared.changed.notify_all();
        }
    }

    /// Puts a spare back that was taken and not used.
    pub(crate) fn put_back(&self, name: &str) {
        if let Some(number) = spare_number_in(name) {
            self.shared.stock().ready.push_front(number);
        }
    }

    /// A handle for other threads.
    pub(crate) fn control(&self) -> SpareControl<D> {
        let is_inline = self.thread.is_none();
        SpareControl { disk: self.disk.clone(), shared: Arc::clone(&self.shared), is_inline }
    }

    /// A name under which a dropped segment of `file_bytes` becomes a spare; `None` if it is not wanted as such.
    pub(crate) fn name_for_recycled(&self, file_bytes: u64) -> Option<String> {
        let mut stock = self.shared.stock();
        if file_bytes != self.segment_bytes || stock.ready.len() >= self.kept_max || stock.fresh_only {
            return None;
        }
        let number = stock.next_number;
        stock.next_number += 1;
        Some(spare_name(number))
    }

    /// Whether an append that needs another segment finds one.
    pub(crate) fn is_ready(&self) -> bool {
        !self.shared.stock().ready.is_empty()
    }
}

/// Decides from another thread what becomes of dropped segments.
#[derive(Clone, Debug)]
pub(crate) struct SpareControl<D: Disk> {
    disk: D,
    shared: Arc<Shared>,
    is_inline: bool,
}

impl<D: Disk> SpareControl<D> {
    /// From here on, or not any more, spares are made of zeroes alone. Those that are there go, for they may have been used before.
    pub(crate) fn set_fresh_only(&self, fresh_only: bool) -> io::Result<()> {
        let mut stock = self.shared.stock();
        stock.fresh_only = fresh_only;
        if !fresh_only {
            return Ok(());
        }
        let used: Vec<u64> = stock.ready.drain(..).collect();
        stock.wanted = !self.is_inline;
        self.shared.changed.notify_all();
        drop(stock);
        for number in used {
            match self.disk.unlink(&spare_name(number)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.disk.sync_dir()
    }

    /// Whether an append that needs another segment finds one.
    pub(crate) fn is_ready(&self) -> bool {
        self.is_inline || !self.shared.stock().ready.is_empty()
    }
}

impl<D: Disk> Drop for Spares<D> {
    fn drop(&mut self) {
        self.shared.stock().stopped = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed; there is nothing to add while going down.
            let _ = thread.join();
        }
    }
}

fn prepare_ahead<D: Disk>(disk: &D, segment_bytes: u64, shared: &Shared) {
    let mut stock = shared.stock();
    loop {
        while !stock.wanted && stock.filled.is_none() && !stock.stopped {
            stock = shared.changed.wait(stock).expect("no holder of the lock panics");
        }
        if stock.stopped {
            return;
        }
        if !stock.wanted {
            let filled = stock.filled.take();
            drop(stock);
            filled.into_iter().for_each(|segment| disk.let_go(&segment));
            stock = shared.stock();
            continue;
        }
        let number = stock.next_number;
        stock.next_number += 1;
        drop(stock);
        let prepared = prepare(disk, number, segment_bytes, |filled| rest(shared, filled));
        stock = shared.stock();
        stock.wanted = false;
        match prepared {
            Ok(()) => stock.ready.push_back(number),
            Err(error) => stock.failure = Some(error),
        }
        shared.changed.notify_all();
    }
}

/// Leaves the disk to the appends for a moment, unless they are about to need the spare. Returns how much to fill next.
fn rest(shared: &Shared, filled: u64) -> io::Result<u64> {
    let mut stock = shared.stock();
    let live = shared.live_bytes.load(Ordering::Relaxed);
    let is_late = filled < 2 * live;
    let is_too_late = filled < live + live / 4;
    if !is_late && !stock.awaited && !stock.stopped {
        (stock, _) = shared.changed.wait_timeout(stock, REST).expect("no holder of the lock panics");
    }
    if stock.stopped {
        return Err(io::ErrorKind::Interrupted.into());
    }
    Ok(match (is_too_late || stock.awaited, is_late) {
        (true, _) => TOO_LATE_STEP_BYTES,
        (false, true) => LATE_STEP_BYTES,
        (false, false) => STEP_BYTES,
    })
}

/// Makes the spare `number`, all its blocks on the disk; `rest` is called with how far it is filled.
fn prepare<D: Disk>(
    disk: &D,
    number: u64,
    segment_bytes: u64,
    rest: impl Fn(u64) -> io::Result<u64>,
) -> io::Result<()> {
    let name = spare_name(number);
    let unfinished = format!("{name}{UNFINISHED}");
    let file = disk.create(&unfinished)?;
    let fill = || {
        let mut at = 0;
        while at < segment_bytes {
            let to = (at + rest(at)?).min(segment_bytes);
            disk.fill_zeroes(&unfinished, at, to)?;
            at = to;
        }
        Ok(())
    };
    let filled = fill().and_then(|()| file.sync_data()).and_then(|()| disk.rename(&unfinished, &name));
    if filled.is_err() {
        // The room goes back; the first failure is the one to tell.
        let _ = disk.unlink(&unfinished);
    }
    filled
}
