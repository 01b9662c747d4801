//! Spare segments: files of full length, zeroed or recycled, so that an append neither waits for room nor lacks it.
//!
//! A file grows on the disk only here, ahead of need, so a full disk shows while there is still a spare to write into.
//! Invariant: a file has a spare's name only once its blocks are on the disk.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;

use crate::disk::{Disk, DiskFile, write_zeroes};
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
    /// Whether the thread should make another one.
    wanted: bool,
    /// Why the last attempt failed, until somebody was told.
    failure: Option<io::Error>,
    stopped: bool,
}

#[derive(Debug)]
struct Shared {
    stock: Mutex<Stock>,
    changed: Condvar,
}

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
        let shared = Arc::new(Shared { stock: Mutex::new(stock), changed: Condvar::new() });
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
        match prepare(&self.disk, number, self.segment_bytes, || false) {
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
            if let Some(number) = stock.ready.pop_front() {
                return Ok(spare_name(number));
            }
            if let Some(failure) = stock.failure.take() {
                return Err(failure);
            }
            stock = self.shared.changed.wait(stock).expect("no holder of the lock panics");
        }
    }

    /// Puts a spare back that was taken and not used.
    pub(crate) fn put_back(&self, name: &str) {
        if let Some(number) = spare_number_in(name) {
            self.shared.stock().ready.push_front(number);
        }
    }

    /// A name under which a dropped segment of `file_bytes` becomes a spare; `None` if it is not wanted as such.
    pub(crate) fn name_for_recycled(&self, file_bytes: u64) -> Option<String> {
        let mut stock = self.shared.stock();
        if file_bytes != self.segment_bytes || stock.ready.len() >= self.kept_max {
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
        while !stock.wanted && !stock.stopped {
            stock = shared.changed.wait(stock).expect("no holder of the lock panics");
        }
        if stock.stopped {
            return;
        }
        let number = stock.next_number;
        stock.next_number += 1;
        drop(stock);
        let prepared = prepare(disk, number, segment_bytes, || shared.stock().stopped);
        stock = shared.stock();
        stock.wanted = false;
        match prepared {
            Ok(()) => stock.ready.push_back(number),
            Err(error) => stock.failure = Some(error),
        }
        shared.changed.notify_all();
    }
}

/// Makes the spare `number`, all its blocks on the disk.
fn prepare<D: Disk>(disk: &D, number: u64, segment_bytes: u64, stopped: impl Fn() -> bool) -> io::Result<()> {
    const STEP_BYTES: u64 = 4 << 20;
    let name = spare_name(number);
    let unfinished = format!("{name}{UNFINISHED}");
    let file = disk.create(&unfinished)?;
    let fill = || {
        let mut at = 0;
        while at < segment_bytes {
            if stopped() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let to = (at + STEP_BYTES).min(segment_bytes);
            write_zeroes(&file, at, to)?;
            at = to;
        }
        file.sync_data()
    };
    let filled = fill().and_then(|()| disk.rename(&unfinished, &name));
    if filled.is_err() {
        // The room goes back; the first failure is the one to tell.
        let _ = disk.unlink(&unfinished);
    }
    filled
}
