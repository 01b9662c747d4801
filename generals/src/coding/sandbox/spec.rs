//! What the parts of a sandbox tell each other: the order it is started with, and its verdict at the end.
//!
//! Invariant: an order holds no secret, for it is an argument of a process; the environment of the command goes by the environment.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The first argument that makes one of our programs a sandbox.
pub(super) const ENTER: &str = "sandbox-enter";

/// Which of the three processes of a sandbox is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Stage {
    /// Leaves the namespaces of the machine.
    Leave,
    /// The first process inside: mounts, watches, and reaps.
    Keep,
    /// Gives up what rights are left, and becomes the command.
    Become,
}

/// What to run, and within which bounds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) stage: Stage,
    /// Started by the machine's root: rights are given up by changing to another user.
    pub(super) root: bool,
    /// An empty folder of the machine under which the sandbox's root is put together.
    pub(super) scaffold: PathBuf,
    /// The one folder that may be written; it stands at [`WORKSPACE`](super::WORKSPACE).
    pub(super) workspace: PathBuf,
    /// What else of the machine is seen, at its own path, read-only.
    pub(super) read: Vec<PathBuf>,
    /// The socket of the proxy, where there is one.
    pub(super) proxy: Option<PathBuf>,
    pub(super) program: String,
    pub(super) arguments: Vec<String>,
    pub(super) limits: Limits,
}

/// Bounds of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Seconds of wall clock.
    pub seconds: u64,
    /// Bytes of memory, all processes together.
    pub memory: u64,
    /// Processes and threads.
    pub processes: u64,
    /// Bytes of one file.
    pub file: u64,
    /// Bytes in the workspace, all files together.
    pub disk: u64,
    /// Bytes of output; more of it ends the run.
    pub output: u64,
}

impl Default for Limits {
    /// Those of the contract's worker: 2 GiB of memory and 5 GiB of workspace; ten minutes.
    fn default() -> Limits {
        Limits { seconds: 600, memory: 2 << 30, processes: 512, file: 1 << 30, disk: 5 << 30, output: 16 << 20 }
    }
}

/// How it ended, told by its first process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    /// The sandbox could not be put together; nothing was run.
    Refused(String),
    Exited(i32),
    Signalled(i32),
    /// More memory than allowed.
    Memory,
    /// More processes than allowed.
    Processes,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_survives_being_an_argument() {
        let order = Order {
            stage: Stage::Keep,
            root: true,
            scaffold: "/s".into(),
            workspace: "/w".into(),
            read: vec!["/usr".into()],
            proxy: None,
            program: "sh".into(),
            arguments: vec!["-c".into(), "echo \"ü\n\"".into()],
            limits: Limits::default(),
        };
        let text = serde_json::to_string(&order).unwrap();
        assert_eq!(serde_json::from_str::<Order>(&text).unwrap(), order);
    }
}
