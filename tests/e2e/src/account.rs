//! The account of a run, reckoned from the ledger alone.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use mindos_proto::journal::v1::DeliveryRef;
use mindos_proto::journal::v1::entry::Record;
use mindos_proto::ledger::v1::LedgerEntry;

/// What became of every event and delivery.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// Sequence of the last record read.
    pub seq: u64,
    /// Sequences under which each (source, id) was accepted.
    pub events: BTreeMap<(String, String), Vec<u64>>,
    /// Every delivery planned, with how often it was settled, succeeded or cancelled.
    pub deliveries: BTreeMap<(u64, u32), u64>,
    /// Deliveries that are parked.
    pub parked: BTreeMap<(u64, u32), i32>,
    /// Leases given.
    pub leases: u64,
    /// Attempts that ended without an outcome, and how.
    pub attempts_ended: Vec<String>,
    /// Those of them that used up one of the attempts a route allows.
    pub attempts_used: u64,
    /// Results refused because their token was not that in force.
    pub refused: u64,
    /// Starts of the control plane.
    pub epochs: u64,
    /// The last epoch.
    pub epoch: u32,
}

fn key(reference: Option<&DeliveryRef>) -> Result<(u64, u32)> {
    let reference = reference.context("a record names its delivery")?;
    Ok((reference.event, reference.ordinal))
}

impl Account {
    /// Takes in more records; they follow those taken before without a gap.
    ///
    /// # Errors
    /// When there is a gap, or a record of a delivery that nothing planned.
    pub fn add(&mut self, entries: &[LedgerEntry]) -> Result<()> {
        for entry in entries {
            ensure!(entry.seq == self.seq + 1, "record {} follows {}", entry.seq, self.seq);
            self.seq = entry.seq;
            let Some(record) = entry.entry.as_ref().and_then(|entry| entry.record.as_ref()) else { continue };
            match record {
                Record::EventAccepted(event) => {
                    self.events.entry((event.source.clone(), event.id.clone())).or_default().push(entry.seq);
                    for planned in &event.deliveries {
                        self.deliveries.insert((entry.seq, planned.ordinal), 0);
                        if planned.parked != 0 {
                            self.parked.insert((entry.seq, planned.ordinal), planned.parked);
                        }
                    }
                }
                Record::DeliverySettled(settled) => self.settle(key(settled.delivery.as_ref())?)?,
                Record::DeliveryCancelled(cancelled) => self.settle(key(cancelled.delivery.as_ref())?)?,
                Record::DeliveryParked(parked) => {
                    self.parked.insert(key(parked.delivery.as_ref())?, parked.reason);
                }
                Record::DeliveryRedriven(redriven) => {
                    self.parked.remove(&key(redriven.delivery.as_ref())?);
                }
                Record::DeliveryLeased(_) => self.leases += 1,
                Record::AttemptEnded(ended) => {
                    let (event, ordinal) = key(ended.delivery.as_ref())?;
                    self.attempts_used += u64::from(ended.counted);
                    let (cause, by) = (ended.cause(), ended.ended_by());
                    self.attempts_ended.push(format!("d{event}.{ordinal} {cause:?} {by:?} {}", ended.message));
                    if let Some(mindos_proto::journal::v1::attempt_ended::Next::Parked(reason)) = ended.next {
                        self.parked.insert(key(ended.delivery.as_ref())?, reason);
                    }
                }
                Record::ResultRefused(_) => self.refused += 1,
                Record::EpochStarted(started) => {
                    self.epochs += 1;
                    ensure!(started.epoch > self.epoch, "epoch {} follows {}", started.epoch, self.epoch);
                    self.epoch = started.epoch;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn settle(&mut self, delivery: (u64, u32)) -> Result<()> {
        let count = self.deliveries.get_mut(&delivery);
        *count.with_context(|| format!("d{}.{} was settled and never planned", delivery.0, delivery.1))? += 1;
        self.parked.remove(&delivery);
        Ok(())
    }

    /// Deliveries that are neither settled nor parked.
    #[must_use]
    pub fn open(&self) -> usize {
        self.unsettled() - self.parked.len()
    }

    /// Deliveries that are not settled.
    #[must_use]
    pub fn unsettled(&self) -> usize {
        self.deliveries.values().filter(|settled| **settled == 0).count()
    }

    /// Deliveries settled more than once.
    #[must_use]
    pub fn settled_twice(&self) -> Vec<String> {
        let twice = self.deliveries.iter().filter(|(_, settled)| **settled > 1);
        twice.map(|((event, ordinal), _)| format!("d{event}.{ordinal}")).collect()
    }

    /// Events accepted under more than one sequence.
    #[must_use]
    pub fn accepted_twice(&self) -> usize {
        self.events.values().filter(|seqs| seqs.len() > 1).count()
    }
}
