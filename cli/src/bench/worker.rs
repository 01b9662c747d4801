//! Load generators as processes of their own, and how the bench talks to them.
//!
//! ```text
//!   bench  --"go\n", "stop\n"-->  worker's standard input
//!   bench  <--JSON lines--------  worker's standard output: {"ready": true}, then {"done": {..}}
//! ```
//! A worker ends when its standard input does.

use std::ffi::OsString;
use std::time::Duration;

use clap::Subcommand;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};

use super::{agent, publisher};
use crate::failure::Failure;
use crate::process::{self, Log, Used};
use crate::render;

/// How long a worker may take to say something it was asked for, beyond its own work.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);

#[derive(Debug, Subcommand)]
pub(crate) enum WorkerCommand {
    /// Agents that answer at once or after a while.
    #[command(after_help = "Examples:\n  mindos bench worker agent --url http://127.0.0.1:8091")]
    Agent(agent::AgentArgs),
    /// A publisher.
    #[command(after_help = "Examples:\n  mindos bench worker publish --url http://127.0.0.1:8090 --seconds 5")]
    Publish(publisher::PublisherArgs),
    /// A publisher to JetStream.
    #[cfg(feature = "nats")]
    #[command(after_help = "Examples:\n  mindos bench worker nats-publish --help")]
    NatsPublish(super::nats::PublisherArgs),
    /// Consumers of JetStream.
    #[cfg(feature = "nats")]
    #[command(after_help = "Examples:\n  mindos bench worker nats-consume --help")]
    NatsConsume(super::nats::ConsumerArgs),
}

pub(super) async fn run(command: WorkerCommand) -> Result<(), Failure> {
    match command {
        WorkerCommand::Agent(args) => agent::run(args).await,
        WorkerCommand::Publish(args) => publisher::run(args).await,
        #[cfg(feature = "nats")]
        WorkerCommand::NatsPublish(args) => super::nats::run_publisher(args).await,
        #[cfg(feature = "nats")]
        WorkerCommand::NatsConsume(args) => super::nats::run_consumer(args).await,
    }
}

/// A worker, seen from the bench.
#[derive(Debug)]
pub(super) struct Worker {
    name: String,
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    /// Starts a worker and waits until it is ready.
    pub(super) async fn start(name: &str, args: &[String]) -> Result<Worker, Failure> {
        let all: Vec<OsString> =
            ["bench", "worker"].iter().map(OsString::from).chain(args.iter().map(OsString::from)).collect();
        let mut child = process::start(&all, &[], &Log::Talking)?;
        let gone = || Failure::world(format!("worker {name} has no pipes"));
        let input = child.stdin.take().ok_or_else(gone)?;
        let output = BufReader::new(child.stdout.take().ok_or_else(gone)?).lines();
        let mut worker = Worker { name: name.to_owned(), child, input, output };
        worker.expect("ready", ANSWER_WITHIN).await?;
        Ok(worker)
    }

    /// Tells it a word.
    pub(super) async fn tell(&mut self, word: &str) -> Result<(), Failure> {
        let failed = |error| Failure::world(format!("worker {} is gone: {error}", self.name));
        self.input.write_all(format!("{word}\n").as_bytes()).await.map_err(failed)?;
        self.input.flush().await.map_err(failed)
    }

    /// Waits for a line with this member, and returns the member.
    pub(super) async fn expect(&mut self, member: &str, within: Duration) -> Result<Value, Failure> {
        let read = async {
            while let Some(line) = self.output.next_line().await? {
                if let Ok(mut value) = serde_json::from_str::<Value>(&line)
                    && !value[member].is_null()
                {
                    return Ok(value[member].take());
                }
            }
            Err(std::io::Error::other("it ended"))
        };
        match tokio::time::timeout(within, read).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(Failure::world(format!("worker {} did not say `{member}`: {error}", self.name))),
            Err(_) => {
                let seconds = within.as_secs();
                Err(Failure::world(format!("worker {} did not say `{member}` within {seconds} s", self.name)))
            }
        }
    }

    /// What it has used so far.
    pub(super) fn used(&self) -> Used {
        self.child.id().map(process::used).unwrap_or_default()
    }

    /// Tells it to stop and returns what it did.
    pub(super) async fn stop(mut self) -> Result<Value, Failure> {
        self.tell("stop").await?;
        let done = self.expect("done", ANSWER_WITHIN).await?;
        process::stop(&mut self.child, Duration::from_secs(2)).await;
        Ok(done)
    }
}

/// A worker's own end of the conversation.
#[derive(Debug)]
pub(super) struct Talk {
    input: Lines<BufReader<tokio::io::Stdin>>,
}

impl Talk {
    pub(super) fn new() -> Talk {
        Talk { input: BufReader::new(tokio::io::stdin()).lines() }
    }

    /// Says that it is ready.
    pub(super) fn ready(&self) {
        render::print_json_line(&json!({"ready": true}));
    }

    /// Says what it did.
    pub(super) fn done(&self, done: Value) {
        render::print_json_line(&json!({"done": done}));
    }

    /// Waits for a word; ends the process when the bench is gone.
    pub(super) async fn hear(&mut self, word: &str) {
        loop {
            match self.input.next_line().await {
                Ok(Some(line)) if line == word => return,
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => std::process::exit(1),
            }
        }
    }
}
