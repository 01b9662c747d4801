//! Agents for load: connections of the SDK's own agent, with an adapter that answers at once, or after a while.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use mindos_model::{BootId, ClusterName, DeliveryId, InstanceId, Token};
use mindos_sdk::agent::{Adapter, Body, Connection, Finish, Handle, Identity, Start};
use mindos_sdk::{Config, GeneralIndex, Joining, Member, Proof, Trust, Who, general_config};
use mindos_sidecar_core::{CancelReason, Outcome};
use serde_json::json;

use super::clock_ns;
use super::event::due_of;
use super::histogram::Receipts;
use super::worker::Talk;
use crate::commands::filter::span;
use crate::commands::send::random_id;
use crate::failure::Failure;
use crate::render;

#[derive(Clone, Debug, Args)]
pub(crate) struct AgentArgs {
    /// Where the control plane awaits agents.
    #[arg(long)]
    url: String,
    /// Cluster.
    #[arg(long, default_value = "bench")]
    cluster: String,
    /// Begin of the instances' names.
    #[arg(long, default_value = "a")]
    prefix: String,
    /// How many agents, each with a connection of its own.
    #[arg(long, default_value_t = 1)]
    agents: u32,
    /// Generals that each of them serves.
    #[arg(long, value_delimiter = ',', default_value = "bench-1,bench-2,bench-3")]
    generals: Vec<String>,
    /// Slots of each general.
    #[arg(long, default_value_t = 4096)]
    slots: u32,
    /// How long the work takes; 0s answers at once.
    #[arg(long, default_value = "0s", value_parser = span)]
    work: Duration,
    /// Bytes of each result.
    #[arg(long, default_value_t = 100)]
    result_bytes: usize,
    /// Read when each event was due.
    #[arg(long)]
    measure: bool,
    /// Where agents join; with the two below this speaks TLS.
    #[arg(long, requires = "ca", requires = "join_token_file")]
    api: Option<String>,
    /// Roots to trust.
    #[arg(long)]
    ca: Option<PathBuf>,
    /// A token that lets all of them join as agents of the cluster.
    #[arg(long)]
    join_token_file: Option<PathBuf>,
    /// Try this often whether the control plane is there, and say when the first work came.
    #[arg(long, value_parser = span)]
    redial: Option<Duration>,
}

/// Agents that ask for their first certificates together.
const JOINING_MAX: usize = 32;

/// What all agents of this process saw.
#[derive(Debug)]
struct Seen {
    started: u64,
    stopped: u64,
    bytes: u64,
    first_ns: u64,
    last_ns: u64,
    receipts: Receipts,
}

/// Answers for a general.
struct Worker {
    seen: Arc<Mutex<Seen>>,
    handle: Handle,
    output: Bytes,
    work: Duration,
    measure: bool,
    /// Whether nothing has come yet on this connection.
    first: bool,
    /// Whether the first work is to be told to the bench.
    announce: bool,
}

impl Worker {
    fn finish(&self, outcome: Outcome) -> Finish {
        Finish { outcome, body: Body { output: self.output.clone(), ..Body::default() } }
    }
}

impl Adapter for Worker {
    fn start(&mut self, work: Start) -> Option<Finish> {
        // Nobody else holds the lock while work comes in, so it costs next to nothing.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.started += 1;
        if self.measure || self.first {
            let now = clock_ns();
            if seen.first_ns == 0 {
                seen.first_ns = now;
                if self.announce {
                    render::print_json_line(&json!({"first": now}));
                }
            }
            self.first = false;
            if self.measure {
                seen.last_ns = now;
                let shared = work.assignment.shared_event().map(|event| &**event);
                if let Some((due, len)) = due_of(work.assignment.encoded(), shared) {
                    seen.bytes += len as u64;
                    seen.receipts.record(due, now);
                }
            }
        }
        drop(seen);
        if self.work.is_zero() {
            return Some(self.finish(Outcome::Succeeded));
        }
        let (handle, finish, span) = (self.handle.clone(), self.finish(Outcome::Succeeded), self.work);
        let Start { delivery, token, .. } = work;
        tokio::spawn(async move {
            tokio::time::sleep(span).await;
            handle.finished(delivery, token, finish);
        });
        None
    }

    fn stop(&mut self, delivery: DeliveryId, token: Token, _grace: Duration) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).stopped += 1;
        if !self.work.is_zero() {
            return;
        }
        self.handle.finished(delivery, token, self.finish(Outcome::Cancelled { reason: CancelReason::Human }));
    }
}

pub(super) async fn run(args: AgentArgs) -> Result<(), Failure> {
    let AgentArgs {
        url,
        cluster,
        prefix,
        agents,
        generals,
        slots,
        work,
        result_bytes,
        measure,
        redial,
        api,
        ca,
        join_token_file,
    } = args;
    let joining = api.zip(ca).zip(join_token_file).map(|((api, ca), token)| Joining {
        api: Some(api),
        trust: Trust::File(ca),
        proof: Proof::JoinTokenFile(token),
        ..Joining::default()
    });
    let bad = |error: &dyn std::fmt::Display| Failure::usage(error.to_string());
    let seen = Arc::new(Mutex::new(Seen {
        started: 0,
        stopped: 0,
        bytes: 0,
        first_ns: 0,
        last_ns: 0,
        receipts: Receipts::new(),
    }));
    let mut output = vec![0; result_bytes];
    getrandom::fill(&mut output).map_err(|error| bad(&error))?;
    let output = Bytes::from(output);
    let authority = url.trim_start_matches("https://").trim_start_matches("http://").to_owned();
    let mut members = Vec::new();
    let mut talk = Talk::new();
    let mut tasks = Vec::new();
    for number in 0..agents {
        let generals: Result<Vec<_>, _> = generals.iter().map(|name| general_config(name, slots)).collect();
        let generals = generals.map_err(|error| bad(&error))?;
        let count = generals.len();
        let cluster = ClusterName::new(&cluster).map_err(|error| bad(&error))?;
        let instance = InstanceId::new(&format!("{prefix}-{number}")).map_err(|error| bad(&error))?;
        let boot = BootId::new(&random_id()?).map_err(|error| bad(&error))?;
        let seed = u64::from(number) + u64::from(std::process::id());
        let config = Config::new(cluster, instance, boot, generals, seed);
        let connection = match &joining {
            Some(joining) => {
                let who = Who {
                    cluster: config.cluster.clone(),
                    namespace: String::new(),
                    general: None,
                    instance: config.instance.clone(),
                };
                let member = Member::start(&url, joining.clone(), who).map_err(|error| bad(&error))?;
                let connection = Connection::of(&member, config, Identity::default()).map_err(|error| bad(&error))?;
                members.push(member);
                // The control plane signs for some at a time and sends the rest away for a while.
                if members.len() % JOINING_MAX == 0 {
                    for member in members.iter().rev().take(JOINING_MAX) {
                        member.ready().await;
                    }
                }
                connection
            }
            None => Connection::new(&url, config, Identity::default()).map_err(|error| bad(&error))?,
        };
        let standing = members.last().map(Member::standing);
        let handle = connection.handle();
        for at in 0..count {
            handle.ready(GeneralIndex(u16::try_from(at).unwrap_or(u16::MAX)), true);
        }
        let worker = Worker {
            seen: seen.clone(),
            handle,
            output: output.clone(),
            work,
            measure,
            first: true,
            announce: redial.is_some(),
        };
        let wait = redial.map(|every| (every, authority.clone()));
        tasks.push(tokio::task::spawn(async move {
            if let Some(mut standing) = standing {
                let _ = standing.wait_for(|standing| standing.is_good).await;
            }
            if let Some((every, authority)) = wait {
                while tokio::net::TcpStream::connect(&authority).await.is_err() {
                    tokio::time::sleep(every).await;
                }
            }
            connection.run(worker).await
        }));
        // Not all at once: the kernel's queue of new connections is short.
        if number % 50 == 49 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    talk.ready();
    talk.hear("stop").await;
    let done = {
        let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        json!({
            "started": seen.started,
            "stopped": seen.stopped,
            "bytes": seen.bytes,
            "first_ns": seen.first_ns,
            "last_ns": seen.last_ns,
            "receipts": seen.receipts.to_pairs(),
        })
    };
    talk.done(done);
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
    Ok(())
}
