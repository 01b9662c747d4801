//! `mindos-general`: one general, served over HTTP or run once as a command.

use std::process::ExitCode;

use clap::Parser;
use mindos_generals::options::{Options, start};

/// One general: reports what can be computed from an event without asking a model.
#[derive(Debug, Parser)]
#[command(name = "mindos-general", version)]
struct Arguments {
    #[command(flatten)]
    options: Options,
}

fn main() -> ExitCode {
    if let Some(ended) = mindos_generals::coding::sandbox::entered() {
        return ended;
    }
    let Arguments { options } = Arguments::parse();
    match start(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mindos-general: {error}");
            ExitCode::FAILURE
        }
    }
}
