//! The control plane as a program of its own, for images.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use mindos_control_plane::asked::{self, Asked};
use mindos_control_plane::config::Config;
use mindos_control_plane::injector::{self, InjectorArgs};
use mindos_control_plane::{logging, run};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Takes durable events in and gives fenced work out to generals.
#[derive(Debug, Parser)]
#[command(
    name = "mindos-control-plane",
    version,
    after_help = "Also, where there is no shell: `mindos-control-plane admin-token`, `roots` and `ready HOST:PORT`, each with --help.\n\
                  `mindos-control-plane injector --help` is another program in this one: it gives pods of Kubernetes their sidecars."
)]
struct Command {
    #[command(flatten)]
    config: Config,
}

/// Gives pods of Kubernetes that are generals their sidecars, when they are made.
#[derive(Debug, Parser)]
#[command(name = "mindos-control-plane injector", version, after_help = injector::EXAMPLES)]
struct InjectorCommand {
    #[command(flatten)]
    args: InjectorArgs,
}

/// The word that chooses the other program.
const INJECTOR: &str = "injector";

fn main() -> anyhow::Result<ExitCode> {
    // Not a subcommand of the parser: it would take the settings of a control plane along.
    let word = std::env::args_os().nth(1);
    if word.as_ref().is_some_and(|word| asked::is_asked(word)) {
        println!("{}", asked::answer(Asked::parse())?);
        return Ok(ExitCode::SUCCESS);
    }
    if word.is_some_and(|word| word == INJECTOR) {
        let InjectorCommand { args } = InjectorCommand::parse_from(std::env::args_os().skip(1));
        injector::run_until_signal(args)?;
        return Ok(ExitCode::SUCCESS);
    }
    let Command { config } = Command::parse();
    logging::init(config.log_format, &config.log).context("logging did not start")?;
    Ok(run::report(run::run_until_signal(config)))
}
