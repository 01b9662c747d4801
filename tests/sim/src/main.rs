//! Runs seeds of the simulator and prints what they suffered and went through.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use clap::{Parser, Subcommand};
use mindos_sim::coverage::Coverage;
use mindos_sim::faults::Counts;
use mindos_sim::placement::{self, Setting};
use mindos_sim::{Failure, Options, Report, run};

/// Runs the plane and its agents under many seeds.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// How many seeds to run.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Runs this seed alone, twice, and compares.
    #[arg(long)]
    seed: Option<u64>,
    /// Inputs of a seed before it heals.
    #[arg(long, default_value_t = 2000)]
    inputs: u64,
    /// Seeds at a time; one per core unless set.
    #[arg(long)]
    threads: Option<usize>,
    /// Every run on the real journal.
    #[arg(long)]
    real_journal: bool,
    /// Where the script of a failure is written.
    #[arg(long, default_value = ".")]
    scripts: PathBuf,
    /// Prints every transition with its count.
    #[arg(long)]
    transitions: bool,
    /// Stops at the first seed that fails.
    #[arg(long)]
    stop: bool,
    /// Runs the stories in this folder instead of seeds.
    #[arg(long)]
    stories: Option<PathBuf>,
    /// Writes the journal of the first seed that has records of every kind to this folder, with what it leads to.
    #[arg(long)]
    history: Option<PathBuf>,
    /// Prints one line of JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// Measurements.
#[derive(Clone, Copy, Debug, Subcommand)]
enum Command {
    /// Time in queue with one slow and one failing instance, against other ways of drawing one; prints JSON.
    Placement {
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Connected instances of the one general.
        #[arg(long, default_value_t = 100)]
        instances: u32,
        /// Seconds for which events come.
        #[arg(long, default_value_t = 600)]
        seconds: u64,
        /// Lanes that events are spread over.
        #[arg(long, default_value_t = 1000)]
        lanes: u64,
        /// Most load, in percent of what the models can do.
        #[arg(long, default_value_t = 90)]
        load: u64,
    },
}

#[derive(Default)]
struct Sum {
    seeds: u64,
    inputs: u64,
    records: u64,
    outputs: u64,
    events: u64,
    simulated_ms: u64,
    real: u64,
    inputs_min: Option<u64>,
    faults: Counts,
    coverage: Coverage,
    failures: Vec<(u64, String)>,
}

impl Sum {
    fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.inputs += report.inputs;
        self.records += report.records;
        self.outputs += report.outputs;
        self.events += report.events_accepted;
        self.simulated_ms += report.took_ms;
        self.real += u64::from(report.real_journal);
        self.inputs_min = Some(self.inputs_min.map_or(report.inputs, |least| least.min(report.inputs)));
        self.faults.merge(&report.faults);
        self.coverage.merge(&report.coverage);
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(Command::Placement { seed, instances, seconds, lanes, load }) = args.command {
        let setting = Setting { seed, instances, seconds, lanes, load: (30.min(load), load), ..Setting::default() };
        println!("{}", placement::report(setting));
        return ExitCode::SUCCESS;
    }
    let options =
        Options { inputs_min: args.inputs, real_journal: args.real_journal.then_some(true), ..Options::default() };
    if let Some(folder) = &args.history {
        return history(folder, &args);
    }
    match (&args.stories, args.seed) {
        (Some(folder), _) => stories(folder),
        (None, Some(seed)) => one(seed, options, &args),
        (None, None) => many(options, &args),
    }
}

fn one(seed: u64, options: Options, args: &Args) -> ExitCode {
    let all = Options { hash_all: true, record: true, ..options };
    match (run(seed, all), run(seed, all)) {
        (Ok(first), Ok(second)) => {
            println!("seed {seed}: {} inputs, {} records, {} outputs", first.inputs, first.records, first.outputs);
            println!("hash {:016x}, again {:016x}", first.hash, second.hash);
            if args.transitions {
                first.coverage.table().iter().for_each(|(name, count)| println!("{count:8} {name}"));
            }
            if first.hash == second.hash { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        (Err(failure), _) | (_, Err(failure)) => {
            report_failure(&failure, args);
            ExitCode::FAILURE
        }
    }
}

fn history(folder: &Path, args: &Args) -> ExitCode {
    for seed in args.first..args.first + args.seeds {
        match mindos_sim::world::history(seed, args.inputs, folder) {
            Ok(true) => {
                println!("history of seed {seed} in {}", folder.display());
                return ExitCode::SUCCESS;
            }
            Ok(false) => {}
            Err(broken) => eprintln!("seed {seed}: {broken}"),
        }
    }
    eprintln!("none of {} seeds had records of every kind", args.seeds);
    ExitCode::FAILURE
}

/// Runs every story of a folder and compares it with what is recorded.
fn stories(folder: &Path) -> ExitCode {
    let names = std::fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let mut names: Vec<_> = names.filter(|path| path.extension().is_some_and(|extension| extension == "txt")).collect();
    names.sort();
    std::panic::set_hook(Box::new(|_| {}));
    let wrong = names.iter().filter(|path| {
        let recorded = std::fs::read_to_string(path).unwrap_or_default();
        let came = std::panic::catch_unwind(|| mindos_sim::script::run(&recorded));
        !came.is_ok_and(|ran| ran.is_ok_and(|ran| ran.broken.is_none() && ran.text.trim_end() == recorded.trim_end()))
    });
    let wrong: Vec<_> = wrong.filter_map(|path| path.file_stem()?.to_str()).collect();
    println!("{} of {} stories came out otherwise: {}", wrong.len(), names.len(), wrong.join(" "));
    if wrong.is_empty() && !names.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn report_failure(failure: &Failure, args: &Args) {
    eprintln!("seed {} at {} ms: {}", failure.seed, failure.at_ms, failure.broken);
    if !failure.script.is_empty() {
        let path = args.scripts.join(format!("seed-{}.txt", failure.seed));
        match std::fs::write(&path, &failure.script) {
            Ok(()) => eprintln!("its inputs: {}", path.display()),
            Err(error) => eprintln!("failed to write `{}`: {error}", path.display()),
        }
    }
}

fn many(options: Options, args: &Args) -> ExitCode {
    let threads = args.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(2, usize::from));
    let next = AtomicU64::new(args.first);
    let stop = AtomicBool::new(false);
    let sum = Mutex::new(Sum::default());
    let begun = Instant::now();
    std::panic::set_hook(Box::new(|_| {}));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= args.first + args.seeds {
                        break;
                    }
                    let result = run(seed, options);
                    let mut sum = sum.lock().expect("no holder of the lock panics");
                    match result {
                        Ok(report) => sum.add(&report),
                        Err(failure) => {
                            sum.failures.push((seed, failure.broken));
                            stop.store(sum.failures.len() >= if args.stop { 1 } else { 20 }, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    let _ = std::panic::take_hook();
    let mut sum = sum.into_inner().expect("no holder of the lock panics");
    sum.failures.sort();
    print(&sum, begun.elapsed().as_secs_f64(), args);
    if let Some((seed, _)) = sum.failures.first() {
        let recorded = Options { record: true, ..options };
        if let Err(failure) = run(*seed, recorded) {
            report_failure(&failure, args);
        }
        return ExitCode::FAILURE;
    }
    let missing: Vec<_> = sum.faults.iter().filter(|(_, count)| *count == 0).map(|(fault, _)| fault.as_str()).collect();
    if sum.seeds >= 1000 && !missing.is_empty() {
        eprintln!("faults that never came: {}", missing.join(", "));
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn print(sum: &Sum, seconds: f64, args: &Args) {
    let (hit, all, missed) = sum.coverage.summary();
    let rate = sum.seeds as f64 / seconds;
    if args.json {
        let faults: Vec<_> =
            sum.faults.iter().map(|(fault, count)| format!("\"{}\":{count}", fault.as_str())).collect();
        println!(
            "{{\"seeds\":{},\"seconds\":{seconds:.1},\"seeds_per_second\":{rate:.1},\"inputs\":{},\"inputs_min\":{},\"records\":{},\"outputs\":{},\"simulated_hours\":{:.0},\"real_journal_seeds\":{},\"transitions_hit\":{hit},\"transitions_possible\":{all},\"failures\":{},\"faults\":{{{}}}}}",
            sum.seeds,
            sum.inputs,
            sum.inputs_min.unwrap_or(0),
            sum.records,
            sum.outputs,
            sum.simulated_ms as f64 / 3.6e6,
            sum.real,
            sum.failures.len(),
            faults.join(",")
        );
        return;
    }
    println!("{} seeds in {seconds:.1} s: {rate:.1} seeds/s; {} on the real journal", sum.seeds, sum.real);
    println!(
        "{} inputs (at least {} a seed), {} events accepted, {} records, {} outputs, {:.0} h simulated",
        sum.inputs,
        sum.inputs_min.unwrap_or(0),
        sum.events,
        sum.records,
        sum.outputs,
        sum.simulated_ms as f64 / 3.6e6
    );
    for (fault, count) in sum.faults.iter() {
        println!("{count:10} {}", fault.as_str());
    }
    println!("transitions: {hit} of {all}");
    if args.transitions {
        sum.coverage.table().iter().for_each(|(name, count)| println!("{count:10} {name}"));
    }
    missed.iter().for_each(|name| println!("      never {name}"));
    for (seed, broken) in &sum.failures {
        println!("FAILED seed {seed}: {broken}");
    }
}
