//! Threads that stand back behind those that serve: they get what those leave of the processors.

use tracing::debug;

/// The longest turn that can be asked for. Whoever wakes and asked for a shorter one, as all that asked for nothing, goes first at once;
/// else the system lets a thread have several milliseconds before it looks who waits.
#[cfg(target_os = "linux")]
const TURN_NS: u64 = 100_000_000;

/// Has the thread that calls this stand back by `niceness` from here on, of 19. Where the system does not allow it, it is a thread like
/// others. Returns how far it stands back now.
pub(crate) fn stand_back(niceness: i32) -> Option<i32> {
    rustix::process::nice(niceness).inspect_err(|error| debug!(%error, "a thread was not set back")).ok()
}

/// As [`stand_back`], and whoever wakes goes first at once. Only for threads that hold no lock which others take while they work: one that
/// is made to wait would keep its locks for as long, so a thread with a runtime of its own gives way where it holds none instead.
pub(crate) fn make_room(niceness: i32) {
    #[cfg(target_os = "linux")]
    if let Some(niceness) = stand_back(niceness) {
        ask_for_long_turns(niceness);
    }
    #[cfg(not(target_os = "linux"))]
    stand_back(niceness);
}

/// By `sched_setattr(2)`: `sched_runtime` is the length of a turn from Linux 6.12 on, and nothing before.
#[cfg(target_os = "linux")]
fn ask_for_long_turns(niceness: i32) {
    let attributes = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: libc::SCHED_OTHER as u32,
        sched_flags: 0,
        sched_nice: niceness,
        sched_priority: 0,
        sched_runtime: TURN_NS,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the call reads one structure, of the size that stands in it, and changes the scheduling of the calling thread alone.
    #[allow(unsafe_code)]
    let answer = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if answer != 0 {
        debug!(error = %std::io::Error::last_os_error(), "a thread could not ask for long turns");
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #[test]
    fn a_thread_stands_back_and_others_do_not() {
        let niceness = || rustix::process::getpriority_process(None).unwrap();
        let before = niceness();
        let there = std::thread::spawn(move || {
            super::make_room(10);
            niceness()
        });
        assert_eq!((there.join().unwrap(), niceness()), ((before + 10).min(19), before));
    }
}
