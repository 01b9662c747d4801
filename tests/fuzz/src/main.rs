//! Runs the fuzz targets for a time on changed copies of their seeds; ends with an error where one breaks a claim.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use mindos_fuzz::{TARGETS, Target, mutate};
use mindos_journal::fault::Random;

/// An input that takes longer than this is a failure as well.
const RUN_MAX: Duration = Duration::from_secs(2);

/// Runs the fuzz targets on changed copies of real inputs.
#[derive(Debug, Parser)]
struct Options {
    /// Targets to run; all unless named.
    targets: Vec<String>,
    /// How long, per target.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Where the changes begin: the same seed gives the same inputs.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where inputs that fail are written.
    #[arg(long, default_value = "target/fuzz")]
    failures: PathBuf,
    /// Runs this one input and nothing else.
    #[arg(long)]
    input: Option<PathBuf>,
    /// Writes the seeds of the targets into folders of their names, and ends.
    #[arg(long)]
    write_seeds: Option<PathBuf>,
}

fn main() -> ExitCode {
    let Options { targets, seconds, seed, failures, input, write_seeds } = Options::parse();
    let mut chosen = Vec::new();
    for name in &targets {
        let Some(target) = TARGETS.iter().find(|target| target.name == name) else {
            let known: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
            eprintln!("error: there is no target {name}; known are {}", known.join(", "));
            return ExitCode::from(2);
        };
        chosen.push(target);
    }
    if chosen.is_empty() {
        chosen.extend(TARGETS);
    }
    if let Some(folder) = write_seeds {
        return match chosen.iter().try_for_each(|target| seeds_into(&folder.join(target.name), target)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: failed to write seeds to {}: {error}", folder.display());
                ExitCode::FAILURE
            }
        };
    }
    if let Some(path) = input {
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) => {
                eprintln!("error: failed to read {}: {error}", path.display());
                return ExitCode::FAILURE;
            }
        };
        chosen.iter().for_each(|target| (target.run)(&bytes));
        return ExitCode::SUCCESS;
    }
    // Each core takes the next target: they know nothing of each other.
    let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let judge = |target: &Target| {
        println!("{}: seed {seed}, {seconds} s", target.name);
        match fuzz(target, seed, Duration::from_secs(seconds)) {
            Ok(runs) => println!("{}: {runs} inputs, nothing found", target.name),
            Err(Failure { runs, input, what }) => {
                failed.fetch_add(1, Ordering::Relaxed);
                let path = failures.join(format!("{}-{seed}-{runs}", target.name));
                let written = std::fs::create_dir_all(&failures).and_then(|()| std::fs::write(&path, &input));
                println!("{}: FAILED on input {runs}: {what}; {:?} in {}", target.name, written, path.display());
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(target) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                    judge(target);
                }
            });
        }
    });
    let failed = failed.into_inner();
    println!("fuzz: {} targets passed, {failed} failed", chosen.len() - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn seeds_into(folder: &std::path::Path, target: &Target) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    for (number, seed) in (target.seeds)().iter().enumerate() {
        std::fs::write(folder.join(format!("seed-{number}")), seed)?;
    }
    Ok(())
}

struct Failure {
    runs: u64,
    input: Vec<u8>,
    what: String,
}

fn fuzz(target: &Target, seed: u64, time: Duration) -> Result<u64, Failure> {
    let seeds = (target.seeds)();
    let mut random = Random::new(seed);
    let begun = Instant::now();
    let mut runs = 0;
    while begun.elapsed() < time {
        // The seeds themselves come first: they have to be taken without a fault as well.
        let input = match usize::try_from(runs).ok().and_then(|run| seeds.get(run)) {
            Some(seed) => seed.clone(),
            None => mutate::mutate(&seeds, target.words, target.shape, &mut random),
        };
        let started = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(&input)));
        runs += 1;
        if let Err(panic) = outcome {
            let text = panic.downcast_ref::<String>().cloned();
            let what = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            return Err(Failure { runs, input, what: what.unwrap_or_default() });
        }
        if started.elapsed() > RUN_MAX {
            return Err(Failure { runs, input, what: format!("took {} ms", started.elapsed().as_millis()) });
        }
    }
    Ok(runs)
}
