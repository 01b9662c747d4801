//! A general with a stream of its own that uses a model and keeps to its ceilings, as a process that can be killed.
//!
//! What one delivery needs varies tenfold, and no call takes what it was likely to take. Everything goes into a file before anybody
//! else hears of it: `call <job> <millionths>` for each call, `done <job> <sum>` or `stopped <job> <sum>` at the end. So the file
//! is the general's own account, and no report can be ahead of it.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use mindos_e2e::chance::Chance;
use mindos_sdk::{Failure, General, Options, Output, Usage, Work, general_config, serve};

/// Spends by model until what each delivery needs is spent, or a ceiling is reached.
#[derive(Debug, Parser)]
struct Arguments {
    /// Address of the control plane for agents.
    #[arg(long)]
    control_plane: String,
    /// Cluster that this runs in.
    #[arg(long)]
    cluster: String,
    /// Name of this process within it.
    #[arg(long)]
    instance: String,
    /// Deliveries at a time.
    #[arg(long)]
    slots: u32,
    /// What a delivery needs at least, in millionths; at most ten times that.
    #[arg(long)]
    needs_least: u64,
    /// What a call is likely to take; it takes from three fifths to seven fifths of that.
    #[arg(long)]
    call: u64,
    /// How long a call takes, in ms.
    #[arg(long)]
    call_ms: u64,
    /// File for the account; added to.
    #[arg(long)]
    account: PathBuf,
}

struct Spender {
    needs_least: u64,
    call: u64,
    call_time: Duration,
    account: Mutex<File>,
}

impl Spender {
    fn note(&self, line: &str) -> Result<(), Failure> {
        let mut account = self.account.lock().unwrap_or_else(PoisonError::into_inner);
        // One write: a kill leaves a whole line or none.
        account.write_all(line.as_bytes()).map_err(|error| Failure::poison(format!("no account: {error}")))
    }
}

impl General for Spender {
    async fn process(&self, work: Work) -> Result<Output, Failure> {
        let (spending, job) = (work.spending(), work.job_id());
        let needs = self.needs_least + Chance::of(work.event.id()).below(9 * self.needs_least + 1);
        let mut chance = Chance::of(&job);
        let likely = Usage { model: "m".into(), input_tokens: 1, cost_micros: self.call, ..Usage::default() };
        let mut spent = 0;
        while spent < needs {
            if !spending.may_spend(&likely).await {
                self.note(&format!("stopped {job} {spent}\n"))?;
                return Err(spending.stop("the ceiling is reached"));
            }
            tokio::time::sleep(self.call_time).await;
            let cost = self.call * 3 / 5 + chance.below(self.call * 4 / 5 + 1);
            self.note(&format!("call {job} {cost}\n"))?;
            spent += cost;
            spending.spend(Usage { cost_micros: cost, calls: 1, ..likely.clone() });
        }
        self.note(&format!("done {job} {spent}\n"))?;
        Ok(Output { usage: spending.used(), ..Output::text("done") })
    }

    fn keeps_ceilings(&self) -> bool {
        true
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let Arguments { control_plane, cluster, instance, slots, needs_least, call, call_ms, account } = Arguments::parse();
    let file = File::options().create(true).append(true).open(&account);
    let file = file.with_context(|| format!("failed to open {}", account.display()))?;
    let spender = Spender { needs_least, call, call_time: Duration::from_millis(call_ms), account: Mutex::new(file) };
    let options = Options::new(control_plane, &cluster, &instance)?;
    serve(spender, general_config("spender", slots)?, options, std::future::pending()).await?;
    Ok(())
}
