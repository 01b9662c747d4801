//! Cuts the power under a log many times and prints what happened as JSON.
//!
//! `cargo run --release -p mindos-journal --features fault --example journal-cuts -- --cuts 100000`

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use mindos_journal::cuts::{self, Broken, CutsReport};

/// How many lives one log goes through.
const LIVES_EACH: u64 = 200;

/// After so many broken promises it is no use to go on.
const BROKEN_MAX: u64 = 10;

/// What all seeds so far suffered.
struct Total {
    counts: Vec<(&'static str, u64)>,
    seeds: u64,
    broken: u64,
}

impl Default for Total {
    fn default() -> Total {
        Total { counts: CutsReport::default().counts(), seeds: 0, broken: 0 }
    }
}

impl Total {
    fn wants(&self, cuts: u64) -> bool {
        self.counts[1].1 < cuts && self.broken <= BROKEN_MAX
    }

    fn add(&mut self, report: Result<CutsReport, Broken>) {
        self.seeds += 1;
        match report {
            Ok(report) => {
                for (sum, (_, count)) in self.counts.iter_mut().zip(report.counts()) {
                    sum.1 += count;
                }
            }
            Err(promise) => {
                eprintln!("{promise}");
                self.broken += 1;
            }
        }
    }
}

fn main() -> ExitCode {
    let mut cuts_wanted = 100_000;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match (argument.as_str(), arguments.next().and_then(|value| value.parse().ok())) {
            ("--cuts", Some(value)) => cuts_wanted = value,
            _ => {
                eprintln!("usage: journal-cuts [--cuts <number>]");
                return ExitCode::from(2);
            }
        }
    }
    let started = Instant::now();
    // Seeds know nothing of each other, so each core takes the next one.
    let (next, total) = (AtomicU64::new(0), Mutex::new(Total::default()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while total.lock().expect("no thread panicked").wants(cuts_wanted) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let report = cuts::run(seed, LIVES_EACH);
                    total.lock().expect("no thread panicked").add(report);
                }
            });
        }
    });
    let Total { counts, seeds, broken } = total.into_inner().expect("no thread panicked");
    println!("{{");
    println!("  \"command\": \"journal-cuts --cuts {cuts_wanted}\",");
    println!("  \"seeds\": {seeds},");
    println!("  \"promises_broken\": {broken},");
    for (name, count) in &counts {
        println!("  \"{name}\": {count},");
    }
    println!("  \"seconds\": {:.1}", started.elapsed().as_secs_f64());
    println!("}}");
    match counts.iter().find(|(_, count)| *count == 0) {
        None if broken > 0 => ExitCode::FAILURE,
        None => ExitCode::SUCCESS,
        Some((name, _)) => {
            eprintln!("nothing of the kind `{name}` happened");
            ExitCode::FAILURE
        }
    }
}
