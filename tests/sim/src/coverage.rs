//! Which transitions a run went through: what a record did to a delivery in which phase, and which other kinds came.

use mindos_core::record::{CancelReason, Cause, HoldTarget, Holds, Next, Record};
use mindos_model::{FailureKind, ParkReason};

/// Where a delivery stands, as the ledger tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    New,
    Waiting,
    Leased,
    /// Leased, and asked to stop.
    Cancelling,
    Parked(ParkReason),
    Ended,
}

impl Phase {
    fn index(self) -> usize {
        match self {
            Phase::New => 0,
            Phase::Waiting => 1,
            Phase::Leased => 2,
            Phase::Cancelling => 3,
            Phase::Parked(reason) => 4 + reason as usize,
            Phase::Ended => PHASES.len() - 1,
        }
    }
}

const PHASES: [&str; 5 + ParkReason::ALL.len()] = [
    "new",
    "waiting",
    "leased",
    "cancelling",
    "parked:poison",
    "parked:too_large",
    "parked:attempts_exhausted",
    "parked:blocked",
    "parked:backlog_full",
    "parked:over_budget",
    "parked:delayed",
    "parked:guarded",
    "ended",
];

const STEPS: [&str; 43] = [
    "accepted",
    "accepted_parked",
    "leased",
    "succeeded",
    "wait_transient",
    "wait_lost",
    "wait_rate_limited",
    "wait_lapsed",
    "wait_rebooted",
    "wait_undelivered",
    "wait_declined",
    "wait_deadline",
    "park_poison",
    "park_too_large",
    "park_over_budget",
    "exhausted_transient",
    "exhausted_lost",
    "exhausted_lapsed",
    "exhausted_rebooted",
    "exhausted_deadline",
    "cancelled_superseded",
    "cancelled_requested",
    "cancelled_by_agent",
    "cancel_superseded",
    "cancel_requested",
    "parked_blocked",
    "redriven_by_person",
    "redriven_by_itself",
    "refused",
    "extended",
    "cluster_registered",
    "general_registered",
    "general_removed",
    "routes_applied",
    "payload_carried",
    "prefix_dropped",
    "cancelled_race_lost",
    "cancel_race_lost",
    "cancelled_expired",
    "cancelled_shadow_failed",
    "parked_over_budget",
    "cancelled_redacted",
    "cancel_redacted",
];

const OTHERS: [&str; 68] = [
    "epoch_started",
    "upgrade_finalized",
    "cluster none",
    "cluster paused",
    "cluster cordoned",
    "cluster draining",
    "general none",
    "general paused",
    "general cordoned",
    "general draining",
    "instance none",
    "instance paused",
    "instance cordoned",
    "instance draining",
    "route none",
    "route paused",
    "route cordoned",
    "route draining",
    "journal_truncated",
    "budget_set",
    "budget_removed",
    "budget_acknowledged",
    "budget_crossed",
    "degraded at acceptance",
    "degraded at the lease",
    "ApiTokenCreated",
    "ApiTokenUsed",
    "ApiTokenRevoked",
    "JoinTokenCreated",
    "JoinTokenRevoked",
    "AgentJoined",
    "JoinRefused",
    "RoleBound",
    "RoleUnbound",
    "IssuerRegistered",
    "IssuerRemoved",
    "AgentDenied",
    "AgentAllowed",
    "QuotaSet",
    "SettingsChanged",
    "AuthorityChanged",
    "CheckpointSigned",
    "PayloadsRedacted",
    "EffectIntended",
    "EffectDeferred",
    "EffectEnded",
    "EffectRevived",
    "effect tried in vain",
    "effect limited",
    "effect done",
    "effect looked at",
    "effect failed",
    "effect cancelled",
    "ObjectApplied",
    "ObjectRemoved",
    "cluster object applied",
    "general object applied",
    "route object applied",
    "budget object applied",
    "cluster object removed",
    "general object removed",
    "route object removed",
    "budget object removed",
    "object under another uid",
    "object as it was",
    "object refused: another's",
    "object refused: another table",
    "general of a kept pool",
];

/// Hits of each (phase, step).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coverage {
    hits: [[u32; STEPS.len()]; PHASES.len()],
    others: [u32; OTHERS.len()],
}

impl Default for Coverage {
    fn default() -> Coverage {
        Coverage { hits: [[0; STEPS.len()]; PHASES.len()], others: [0; OTHERS.len()] }
    }
}

fn possible(phase: usize, step: usize) -> bool {
    match phase {
        0 => matches!(step, 0 | 1 | 30..=35),
        1 => matches!(step, 2 | 20 | 21 | 25 | 28 | 36 | 38..=41),
        2 => matches!(step, 3..=19 | 22..=24 | 28 | 29 | 37 | 42),
        3 => matches!(step, 3 | 20 | 21 | 28 | 29 | 36 | 41 | 42),
        8 => matches!(step, 21 | 26 | 27 | 28 | 36 | 38 | 41),
        10 => matches!(step, 21 | 26 | 27 | 41),
        9 => matches!(step, 21 | 26 | 27 | 28 | 36 | 38 | 41),
        4..=7 => matches!(step, 21 | 26 | 28 | 36 | 41),
        _ => step == 28,
    }
}

impl Coverage {
    /// Notes a record about a delivery that stood in `phase`.
    pub fn hit(&mut self, phase: Phase, record: &Record) {
        if let Some(step) = step_of(record) {
            let count = &mut self.hits[phase.index()][step];
            *count = count.saturating_add(1);
        } else if let Some(other) = other_of(record) {
            self.others[other] = self.others[other].saturating_add(1);
        }
    }

    /// Notes a delivery of an event that was accepted.
    pub fn accepted(&mut self, is_parked: bool) {
        let count = &mut self.hits[0][usize::from(is_parked)];
        *count = count.saturating_add(1);
    }

    /// Notes what a record says besides its kind.
    pub fn note(&mut self, name: &str) {
        if let Some(at) = OTHERS.iter().position(|other| *other == name) {
            self.others[at] = self.others[at].saturating_add(1);
        }
    }

    /// Adds those of another run.
    pub fn merge(&mut self, other: &Coverage) {
        for (row, more) in self.hits.iter_mut().zip(&other.hits) {
            row.iter_mut().zip(more).for_each(|(count, more)| *count = count.saturating_add(*more));
        }
        self.others.iter_mut().zip(&other.others).for_each(|(count, more)| *count = count.saturating_add(*more));
    }

    /// How many of the possible transitions were hit, how many there are, and the names of those that were not.
    #[must_use]
    pub fn summary(&self) -> (usize, usize, Vec<String>) {
        let mut missed = Vec::new();
        let mut all = 0;
        for (phase, row) in self.hits.iter().enumerate() {
            for (step, count) in row.iter().enumerate().filter(|(step, _)| possible(phase, *step)) {
                all += 1;
                if *count == 0 {
                    missed.push(format!("{} x {}", PHASES[phase], STEPS[step]));
                }
            }
        }
        for (name, count) in OTHERS.iter().zip(&self.others) {
            all += 1;
            if *count == 0 {
                missed.push((*name).to_owned());
            }
        }
        (all - missed.len(), all, missed)
    }

    /// Every transition that was hit, with how often; those thought impossible too.
    #[must_use]
    pub fn table(&self) -> Vec<(String, u32)> {
        let mut table = Vec::new();
        for (phase, row) in self.hits.iter().enumerate() {
            for (step, count) in row.iter().enumerate().filter(|(_, count)| **count > 0) {
                let odd = if possible(phase, step) { "" } else { " (not expected)" };
                table.push((format!("{} x {}{odd}", PHASES[phase], STEPS[step]), *count));
            }
        }
        table.extend(OTHERS.iter().zip(&self.others).map(|(name, count)| ((*name).to_owned(), *count)));
        table
    }
}

fn step_of(record: &Record) -> Option<usize> {
    Some(match record {
        Record::DeliveryLeased(_) => 2,
        Record::DeliverySettled(_) => 3,
        Record::AttemptEnded(ended) => match (ended.next, ended.cause) {
            (Next::Park { .. }, Cause::Failed(FailureKind::Poison)) => 12,
            (Next::Park { .. }, Cause::Failed(FailureKind::TooLarge)) => 13,
            (Next::Park { .. }, Cause::Failed(FailureKind::OverBudget)) => 14,
            (Next::Park { .. }, Cause::Failed(FailureKind::Lost)) => 16,
            (Next::Park { .. }, Cause::Failed(_)) => 15,
            (Next::Park { .. }, Cause::Lapsed | Cause::Undelivered | Cause::Declined) => 17,
            (Next::Park { .. }, Cause::Rebooted) => 18,
            (Next::Park { .. }, Cause::Deadline) => 19,
            (Next::Wait { .. }, Cause::Failed(FailureKind::Lost)) => 5,
            (Next::Wait { .. }, Cause::Failed(FailureKind::RateLimited { .. })) => 6,
            (Next::Wait { .. }, Cause::Failed(_)) => 4,
            (Next::Wait { .. }, Cause::Lapsed) => 7,
            (Next::Wait { .. }, Cause::Rebooted) => 8,
            (Next::Wait { .. }, Cause::Undelivered) => 9,
            (Next::Wait { .. }, Cause::Declined) => 10,
            (Next::Wait { .. }, Cause::Deadline) => 11,
        },
        Record::DeliveryCancelled(cancelled) => match cancelled.reason {
            CancelReason::Superseded { .. } => 20,
            CancelReason::Requested if &*cancelled.by == "agent" => 22,
            CancelReason::Requested => 21,
            CancelReason::RaceLost { .. } => 36,
            CancelReason::Expired => 38,
            CancelReason::ShadowFailed | CancelReason::ReplayFailed | CancelReason::ReplayOverBudget => 39,
            CancelReason::Redacted => 41,
        },
        Record::CancelRequested(request) => match request.reason {
            CancelReason::Superseded { .. } => 23,
            CancelReason::RaceLost { .. } => 37,
            CancelReason::Redacted => 42,
            CancelReason::Requested
            | CancelReason::Expired
            | CancelReason::ShadowFailed
            | CancelReason::ReplayFailed
            | CancelReason::ReplayOverBudget => 24,
        },
        Record::DeliveryParked(parked) if parked.over.is_some() => 40,
        Record::DeliveryParked(_) => 25,
        Record::DeliveryRedriven(redriven) => 26 + usize::from(redriven.by.is_empty()),
        Record::ResultRefused(_) => 28,
        Record::LeaseExtended(_) => 29,
        Record::ClusterRegistered(_) => 30,
        Record::GeneralRegistered(_) => 31,
        Record::GeneralRemoved(_) => 32,
        Record::RoutesApplied(_) => 33,
        Record::PayloadCarried(_) => 34,
        Record::PrefixDropped(_) => 35,
        Record::EpochStarted(_)
        | Record::EventAccepted(_)
        | Record::HoldChanged(_)
        | Record::RouteAsked(_)
        | Record::JournalTruncated(_)
        | Record::UpgradeFinalized(_)
        | Record::BudgetSet(_)
        | Record::BudgetRemoved(_)
        | Record::BudgetAcknowledged(_)
        | Record::BudgetCrossed(_)
        | Record::Access(_)
        | Record::PayloadsRedacted(_)
        | Record::EffectIntended(_)
        | Record::EffectDeferred(_)
        | Record::EffectEnded(_)
        | Record::EffectRevived(_)
        | Record::Object(_) => return None,
    })
}

fn other_of(record: &Record) -> Option<usize> {
    // Of several holds the strongest counts.
    let hold = |holds: Holds| match holds {
        Holds { draining: true, .. } => 3,
        Holds { cordoned: true, .. } => 2,
        Holds { paused: true, .. } => 1,
        Holds { .. } => 0,
    };
    match record {
        Record::EpochStarted(_) => Some(0),
        Record::UpgradeFinalized(_) => Some(1),
        Record::JournalTruncated(_) => Some(18),
        Record::BudgetSet(_) => Some(19),
        Record::BudgetRemoved(_) => Some(20),
        Record::BudgetAcknowledged(_) => Some(21),
        Record::BudgetCrossed(_) => Some(22),
        Record::Access(_)
        | Record::PayloadsRedacted(_)
        | Record::EffectIntended(_)
        | Record::EffectDeferred(_)
        | Record::EffectEnded(_)
        | Record::EffectRevived(_)
        | Record::Object(_) => OTHERS.iter().position(|name| *name == record.kind()),
        Record::HoldChanged(changed) => {
            let target = match changed.target {
                HoldTarget::Cluster(_) => 2,
                HoldTarget::General(..) => 6,
                HoldTarget::Instance(..) => 10,
                HoldTarget::Route(_) => 14,
            };
            Some(target + hold(changed.holds))
        }
        _ => None,
    }
}
