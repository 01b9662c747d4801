//! `mindos`: the one command of Mind OS, for people and for scripts.

mod bench;
mod client;
mod commands;
mod contexts;
mod failure;
mod oidc;
mod options;
mod process;
mod render;
mod site;
mod top;
mod up;
mod web;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use failure::Failure;
use options::{Command, Global, Options};
use render::Output;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // A part of the coding agent's sandbox, which is begun while there is one thread.
    if let Some(ended) = mindos_generals::coding::sandbox::entered() {
        return ended;
    }
    if let Err(failure) = process::die_with_parent() {
        return report(&failure, false);
    }
    let Options { global, command } = match Options::try_parse() {
        Ok(options) => options,
        // Prints help and version to standard output, errors to standard error, and ends with 0 or 2.
        Err(error) => error.exit(),
    };
    let json = global.output.is_json();
    if global.output == Output::Yaml && !matches!(command, Command::Routes(_) | Command::Task(_)) {
        return report(
            &Failure::usage(
                "--output yaml: only `mindos routes get` and `mindos task` print it; expected table or json",
            ),
            json,
        );
    }
    match run(command, &global).and_then(|()| render::written()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report(&failure, json),
    }
}

fn report(failure: &Failure, json: bool) -> ExitCode {
    if json {
        render::say(&failure.to_json().to_string());
    } else {
        render::say(&format!("mindos: {failure}"));
        if let Some(hint) = &failure.hint {
            render::say(&format!("  {hint}"));
        }
    }
    ExitCode::from(failure.code())
}

fn run(command: Command, global: &Global) -> Result<(), Failure> {
    match command {
        Command::ControlPlane(args) => commands::run::control_plane(*args),
        Command::Sidecar(args) => commands::run::sidecar(*args),
        Command::ClusterAgent(args) => commands::run::cluster_agent(*args),
        Command::Injector(args) => commands::run::injector(*args),
        Command::General(args) => commands::run::general(*args),
        Command::Up(args) => wait_local(up::run(args, global)),
        Command::Send(args) => wait(commands::send::run(args, global)),
        Command::Replay(args) => wait(commands::replay::run(*args, global)),
        Command::Feedback(args) => wait(commands::feedback::run(args, global)),
        Command::Events(command) => wait(commands::events::run(command, global)),
        Command::Deliveries(command) => wait(commands::deliveries::run(command, global)),
        Command::Effects(command) => wait(commands::effects::run(command, global)),
        Command::Generals(command) => wait(commands::fleet::generals(command, global)),
        Command::Clusters(command) => wait(commands::fleet::clusters(command, global)),
        Command::Instances(command) => wait(commands::fleet::instances(command, global)),
        Command::Routes(command) => wait(commands::routes::run(command, global)),
        Command::Budgets(command) => wait(commands::budgets::run(command, global)),
        Command::Tasks(command) => wait(commands::tasks::run(command, global)),
        Command::Task(args) => wait(commands::task::run(*args, global)),
        Command::Sinks(command) => wait(commands::sinks::run(command, global)),
        Command::Import(args) => commands::import::run(&args, global),
        Command::Ledger(command) => wait(commands::ledger::run(command, global)),
        Command::Journal(command) => commands::journal::run(command, global),
        Command::Backup(args) => commands::journal::backup(&args, global),
        Command::Restore(args) => commands::journal::run_restore(&args, global),
        Command::Upgrade(command) => wait(commands::journal::upgrade(command, global)),
        Command::Auth(command) => wait(commands::auth::run(command, global)),
        Command::Contexts(command) => commands::contexts::run(command, global),
        Command::Tokens(command) => wait(commands::tokens::run(command, global)),
        Command::Roles(command) => wait(commands::roles::run(command, global)),
        Command::Issuers(command) => wait(commands::issuers::run(command, global)),
        Command::Agents(command) => wait(commands::agents::run(command, global)),
        Command::Quotas(command) => wait(commands::quotas::run(command, global)),
        Command::Install(args) => wait(commands::install::run(*args, global)),
        Command::Authority(command) => wait(commands::authority::run(command, global)),
        Command::Top(args) => wait(top::run(args, global)),
        Command::Bench(command) => wait_local(bench::run(command, global)),
        Command::Completions(args) => {
            let mut script = Vec::new();
            clap_complete::generate(args.shell, &mut Options::command(), "mindos", &mut script);
            render::print(String::from_utf8_lossy(&script).trim_end());
            Ok(())
        }
    }
}

/// Runs a command that mostly waits, on this thread alone.
fn wait(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(command)
}

/// The same for commands that start processes: everything stays on the main thread.
fn wait_local(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, command)
}
