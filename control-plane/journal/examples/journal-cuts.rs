//! Cuts the power under a log many times and prints what happened as JSON.
//!
//! `cargo run --release -p mindos-journal --features fault --example journal-cuts -- --cuts 100000`

use std::process::ExitCode;
use std::time::Instant;

use mindos_journal::cuts::{self, CutsReport};

/// How many lives one log goes through.
const LIVES_EACH: u64 = 200;

/// After so many broken promises it is no use to go on.
const BROKEN_MAX: u64 = 10;

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
    let mut total: Vec<(&str, u64)> = CutsReport::default().counts();
    let (mut seeds, mut broken) = (0, 0);
    while total[1].1 < cuts_wanted {
        let report = cuts::run(seeds, LIVES_EACH);
        seeds += 1;
        let report = match report {
            Ok(report) => report,
            Err(promise) if broken < BROKEN_MAX => {
                eprintln!("{promise}");
                broken += 1;
                continue;
            }
            Err(promise) => {
                eprintln!("{promise}");
                return ExitCode::FAILURE;
            }
        };
        for (sum, (_, count)) in total.iter_mut().zip(report.counts()) {
            sum.1 += count;
        }
    }
    println!("{{");
    println!("  \"command\": \"journal-cuts --cuts {cuts_wanted}\",");
    println!("  \"seeds\": {seeds},");
    println!("  \"promises_broken\": {broken},");
    for (name, count) in &total {
        println!("  \"{name}\": {count},");
    }
    println!("  \"seconds\": {:.1}", started.elapsed().as_secs_f64());
    println!("}}");
    match total.iter().find(|(_, count)| *count == 0) {
        None if broken > 0 => ExitCode::FAILURE,
        None => ExitCode::SUCCESS,
        Some((name, _)) => {
            eprintln!("nothing of the kind `{name}` happened");
            ExitCode::FAILURE
        }
    }
}
