//! What commands print: a table for people, JSON for programs.
//!
//! Invariant: everything a program may want stands on standard output; progress and errors go to standard error.

mod message;
mod table;

use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;

pub(crate) use message::{Named, json, short_word};
pub(crate) use table::{Table, clip};

use crate::failure::Failure;

/// The first write to standard output that failed; nothing is written after it.
static BROKEN: OnceLock<io::Error> = OnceLock::new();

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// Aligned columns for people; the same as yaml for `import`.
    #[default]
    Table,
    /// JSON for programs: one object, or one a line where things come as they happen.
    Json,
    /// YAML, where what is printed is a file: `routes get` and `import`.
    Yaml,
}

impl Output {
    pub(crate) fn is_json(self) -> bool {
        self == Output::Json
    }
}

/// Prints one value as JSON over several lines.
pub(crate) fn print_json(value: &serde_json::Value) {
    print(&format!("{value:#}"));
}

/// Prints one value as JSON on one line.
pub(crate) fn print_json_line(value: &serde_json::Value) {
    print(&value.to_string());
}

/// Prints a line, if standard output takes it: the command goes on to its own verdict all the same.
pub(crate) fn print(line: &str) {
    if is_closed() {
        return;
    }
    let mut out = io::stdout().lock();
    if let Err(error) = writeln!(out, "{line}").and_then(|()| out.flush()) {
        let _ = BROKEN.set(error);
    }
}

/// Whether standard output takes nothing more, so that what only prints has nothing left to do.
pub(crate) fn is_closed() -> bool {
    BROKEN.get().is_some()
}

/// Fails where something printed was lost. A reader that has gone away had enough, as in any pipe.
pub(crate) fn written() -> Result<(), Failure> {
    match BROKEN.get() {
        Some(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::world(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Says a line on standard error. Where nobody takes it, it is lost and nothing else is.
pub(crate) fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// A line of progress that replaces itself; nothing at all where standard error is no terminal.
#[derive(Debug)]
pub(crate) struct Progress {
    on: bool,
    shown: bool,
}

impl Progress {
    pub(crate) fn new() -> Progress {
        Progress { on: io::stderr().is_terminal(), shown: false }
    }

    pub(crate) fn show(&mut self, text: &str) {
        if self.on {
            self.shown = true;
            let _ = write!(io::stderr(), "\r\x1b[2K{text}");
            let _ = io::stderr().flush();
        }
    }

    pub(crate) fn clear(&mut self) {
        if self.shown {
            self.shown = false;
            let _ = write!(io::stderr(), "\r\x1b[2K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
