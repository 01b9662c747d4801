//! Watches what all processes of a sandbox use together: limits of the kernel hold for one process each.
//!
//! Runs in process 1, which sees nobody but them. What is held in memory files that nobody maps is not seen; such files are bounded
//! by the limit on files.

use std::fs;
use std::thread;
use std::time::Duration;

use super::mounts::MEMORY_FOLDERS;
use super::spec::{Limits, Verdict};

/// How often; what may come on top between two looks is what a process can touch in this time.
const EVERY: Duration = Duration::from_millis(50);

/// Returns when something is beyond its limit.
pub(super) fn until_beyond(limits: Limits) -> Verdict {
    loop {
        let (mut memory, mut threads) = (folders(), 0);
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let name = entry.file_name();
            let is_process =
                name.to_str().is_some_and(|name| name != "1" && name.bytes().all(|it| it.is_ascii_digit()));
            // One that ended meanwhile uses nothing.
            if let Some(status) = is_process.then(|| fs::read_to_string(entry.path().join("status")).ok()).flatten() {
                let (its_memory, its_threads) = used(&status);
                memory += its_memory;
                threads += its_threads;
            }
        }
        if memory > limits.memory {
            return Verdict::Memory;
        }
        // The kernel's own limit comes first, where it counts.
        if threads > limits.processes + 1 {
            return Verdict::Processes;
        }
        thread::sleep(EVERY);
    }
}

/// Bytes that are nobody else's, and threads, by a `/proc/<pid>/status`.
fn used(status: &str) -> (u64, u64) {
    let mut sums = (0, 0);
    for line in status.lines() {
        let Some((name, value)) = line.split_once(':') else { continue };
        let number = || value.split_whitespace().next().and_then(|it| it.parse::<u64>().ok()).unwrap_or_default();
        match name {
            "RssAnon" | "RssShmem" | "VmSwap" => sums.0 += number().saturating_mul(1024),
            "Threads" => sums.1 += number(),
            _ => {}
        }
    }
    sums
}

/// What stands in folders that are memory.
fn folders() -> u64 {
    let of = |folder: &&str| rustix::fs::statvfs(*folder).map_or(0, |it| (it.f_blocks - it.f_bfree) * it.f_frsize);
    MEMORY_FOLDERS.iter().map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn use_is_read_from_the_status() {
        let status = "Name:\tRssAnon: 9\nRssAnon:\t     100 kB\nRssFile:\t  77 kB\nRssShmem:\t 20 kB\nThreads:\t3\n";
        assert_eq!(used(status), (120 * 1024, 3));
        assert_eq!(used("Name:\tx\nThreads:\tmany\n"), (0, 0));
    }
}
