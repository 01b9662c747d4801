//! What was spent, reckoned from an export of the ledger and from nothing else.
//!
//! ```text
//!   leased: reservation --> extended: more of it, spent so far --> settled, failed: what was used
//!                                                              +-> lapsed, rebooted: the last report, else the reservation
//! ```
//! The rules stand here a second time on purpose: what the control plane recorded as charged is compared with what follows from the
//! usage in the same records. Money only, in millionths.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// What stands against one budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Used by leases that have ended.
    pub charged: u64,
    /// Set aside for open ones.
    pub reserved: u64,
}

/// How a lease ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Its general answered, and the delivery is settled.
    Settled,
    /// Its general answered that it failed.
    Failed,
    /// It was given back, or never arrived.
    Unbegun,
    /// Nobody answered.
    Lost,
}

/// One lease.
#[derive(Clone, Debug)]
pub struct Lease {
    /// The instance that had it.
    pub instance: String,
    /// The records that began the accounts it is reserved in.
    pub accounts: Vec<u64>,
    /// What was set aside for it last.
    pub reserved: u64,
    /// What its general reported last in mid-run.
    pub spent: Option<u64>,
    /// What its general reported at its end.
    pub used: u64,
    /// How it ended, and what it was charged. Unset while it is open.
    pub ended: Option<(Ended, u64)>,
}

/// All that was spent.
#[derive(Clone, Debug, Default)]
pub struct Spending {
    /// By the name of the budget.
    pub budgets: BTreeMap<String, Standing>,
    /// By job: the delivery with its token, such as `d42.1-1.3`.
    pub leases: BTreeMap<String, Lease>,
    /// What general types used in deliveries that were settled, by the name of the general.
    pub settled: BTreeMap<String, u64>,
    /// How often a budget was said to have reached a level.
    pub crossed: u64,
    accounts: BTreeMap<u64, String>,
    open: BTreeMap<String, String>,
    generals: BTreeMap<String, String>,
}

impl Spending {
    /// Reads an export, one record a line.
    ///
    /// # Errors
    /// When records do not follow each other, or what one says that it charged does not follow from what was used.
    pub fn read(export: &str) -> Result<Spending> {
        let mut spending = Spending::default();
        for (at, line) in (1..).zip(export.lines()) {
            let record: Value = serde_json::from_str(line).with_context(|| format!("line {at} is no JSON: {line}"))?;
            ensure!(record["seq"] == at, "line {at} has the record {}", record["seq"]);
            let entry = record["entry"].as_object().context("a record has an entry")?;
            for (kind, fields) in entry.iter().filter(|(_, fields)| fields.is_object()) {
                spending.take(at, kind, fields).with_context(|| format!("record {at}: {line}"))?;
            }
        }
        Ok(spending)
    }

    fn take(&mut self, seq: u64, kind: &str, fields: &Value) -> Result<()> {
        match kind {
            "budget_set" => {
                let name = text(&fields["budget"]["name"])?;
                if self.budgets.insert(name.clone(), self.budgets.get(&name).copied().unwrap_or_default()).is_none() {
                    self.accounts.insert(seq, name);
                }
            }
            "budget_removed" => bail!("nothing here removes a budget"),
            "budget_crossed" => self.crossed += 1,
            "delivery_leased" => self.leased(fields)?,
            "lease_extended" => self.extended(fields)?,
            "delivery_settled" => {
                let used = sum(&fields["usage"]);
                let job = self.job(fields)?;
                if let Some(general) = self.generals.get(&job) {
                    *self.settled.entry(general.clone()).or_default() += used;
                }
                self.end(&job, Ended::Settled, used, fields)?;
            }
            "attempt_ended" => {
                let ended = match fields["ended_by"].as_str().unwrap_or_default() {
                    "failed" => Ended::Failed,
                    "declined" | "undelivered" => Ended::Unbegun,
                    "lapsed" | "rebooted" | "deadline" => Ended::Lost,
                    other => bail!("an attempt ended by {other:?}"),
                };
                let job = self.job(fields)?;
                self.end(&job, ended, sum(&fields["usage"]), fields)?;
            }
            "delivery_cancelled" => {
                let delivery = text(&fields["delivery"])?;
                ensure!(!self.open.contains_key(&delivery), "nothing here cancels work that is leased");
            }
            _ => {}
        }
        Ok(())
    }

    fn leased(&mut self, fields: &Value) -> Result<()> {
        let job = self.job(fields)?;
        let reservation = &fields["reservation"];
        let accounts = reservation["accounts"].as_array().into_iter().flatten();
        let accounts: Vec<u64> = accounts.filter_map(Value::as_u64).collect();
        let reserved = micros(&reservation["amount"]).unwrap_or(0);
        self.reserve(&accounts, reserved)?;
        ensure!(self.open.insert(text(&fields["delivery"])?, job.clone()).is_none(), "leased twice at a time");
        self.generals.insert(job.clone(), text(&fields["general"]["name"])?);
        let instance = text(&fields["instance"])?;
        self.leases.insert(job, Lease { instance, accounts, reserved, spent: None, used: 0, ended: None });
        Ok(())
    }

    fn extended(&mut self, fields: &Value) -> Result<()> {
        let job = self.job(fields)?;
        let lease = self.leases.get_mut(&job).context("only what was leased is extended")?;
        if fields["usage"].as_array().is_some_and(|usage| !usage.is_empty()) {
            lease.spent = Some(sum(&fields["usage"]).max(lease.spent.unwrap_or(0)));
        }
        if let Some(spent) = micros(&fields["spent"]) {
            ensure!(lease.spent == Some(spent), "{spent} were spent by the record, {:?} by its usage", lease.spent);
        }
        let Some(reserved) = micros(&fields["reserved"]) else { return Ok(()) };
        let more = reserved.checked_sub(lease.reserved).context("a reservation never shrinks")?;
        lease.reserved = reserved;
        let accounts = lease.accounts.clone();
        self.reserve(&accounts, more)
    }

    fn reserve(&mut self, accounts: &[u64], amount: u64) -> Result<()> {
        for account in accounts {
            self.standing(*account)?.reserved += amount;
        }
        Ok(())
    }

    fn end(&mut self, job: &str, ended: Ended, used: u64, fields: &Value) -> Result<()> {
        let lease = self.leases.get_mut(job).context("only what was leased ends")?;
        ensure!(lease.ended.is_none(), "{job} ended twice");
        let spent = lease.spent.unwrap_or(0);
        let charge = match ended {
            Ended::Settled | Ended::Failed => used.max(spent),
            Ended::Unbegun => spent,
            Ended::Lost => lease.spent.unwrap_or(lease.reserved),
        };
        if !lease.accounts.is_empty() {
            let charged = micros(&fields["charged"]).context("an end under budgets says what it is charged")?;
            ensure!(charged == charge, "{job} is charged {charged}, and {charge} by what was reported");
        }
        (lease.used, lease.ended) = (used, Some((ended, charge)));
        let (accounts, reserved) = (lease.accounts.clone(), lease.reserved);
        for account in accounts {
            let standing = self.standing(account)?;
            standing.charged += charge;
            standing.reserved =
                standing.reserved.checked_sub(reserved).context("what is reserved is the sum over open leases")?;
        }
        self.open.remove(&text(&fields["delivery"])?);
        Ok(())
    }

    fn standing(&mut self, account: u64) -> Result<&mut Standing> {
        let name = self.accounts.get(&account).with_context(|| format!("no budget began with record {account}"))?;
        self.budgets.get_mut(name).context("an account has a budget")
    }

    fn job(&self, fields: &Value) -> Result<String> {
        Ok(format!("{}-{}", text(&fields["delivery"])?, text(&fields["token"])?))
    }

    /// Leases that have not ended.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// The leases that a budget was charged for, or will be.
    pub fn leases_of(&self, budget: &str) -> impl Iterator<Item = (&String, &Lease)> {
        let account = self.accounts.iter().find(|(_, name)| *name == budget).map(|(account, _)| *account);
        self.leases.iter().filter(move |(_, lease)| account.is_some_and(|account| lease.accounts.contains(&account)))
    }
}

fn text(value: &Value) -> Result<String> {
    Ok(value.as_str().context("a text is missing")?.to_owned())
}

fn micros(amount: &Value) -> Option<u64> {
    amount["cost_micros"].as_u64()
}

fn sum(usage: &Value) -> u64 {
    usage.as_array().into_iter().flatten().filter_map(micros).sum()
}
