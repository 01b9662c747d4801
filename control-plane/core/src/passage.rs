//! Passages: what records say of how far an event and its deliveries have come.
//!
//! Whoever tells of work, or folds it in large pieces, asks here, so that a record that is added has to be placed once for all of them.

use crate::record::{
    AttemptEnded, CancelRequested, DeliveryCancelled, DeliveryLeased, DeliveryParked, DeliveryRedriven,
    DeliverySettled, EventAccepted, PayloadCarried, Record,
};

/// A step on the way of an event or of one of its deliveries.
#[derive(Clone, Copy, Debug)]
pub enum Passage<'a> {
    /// The event came in, with the deliveries that it led to.
    Accepted(&'a EventAccepted),
    Leased(&'a DeliveryLeased),
    AttemptEnded(&'a AttemptEnded),
    Settled(&'a DeliverySettled),
    CancelRequested(&'a CancelRequested),
    Cancelled(&'a DeliveryCancelled),
    Parked(&'a DeliveryParked),
    Redriven(&'a DeliveryRedriven),
    /// The event's payload was written again, because the segment that held it leaves.
    Carried(&'a PayloadCarried),
}

impl Record {
    /// How far this takes an event or a delivery; `None` for what moves neither.
    #[must_use]
    pub fn passage(&self) -> Option<Passage<'_>> {
        Some(match self {
            Record::EventAccepted(record) => Passage::Accepted(record),
            Record::DeliveryLeased(record) => Passage::Leased(record),
            Record::AttemptEnded(record) => Passage::AttemptEnded(record),
            Record::DeliverySettled(record) => Passage::Settled(record),
            Record::CancelRequested(record) => Passage::CancelRequested(record),
            Record::DeliveryCancelled(record) => Passage::Cancelled(record),
            Record::DeliveryParked(record) => Passage::Parked(record),
            Record::DeliveryRedriven(record) => Passage::Redriven(record),
            Record::PayloadCarried(record) if record.effect.is_none() => Passage::Carried(record),
            Record::PayloadCarried(_) => return None,
            Record::EpochStarted(_)
            | Record::ResultRefused(_)
            | Record::LeaseExtended(_)
            | Record::ClusterRegistered(_)
            | Record::GeneralRegistered(_)
            | Record::GeneralRemoved(_)
            | Record::HoldChanged(_)
            | Record::RoutesApplied(_)
            | Record::RouteAsked(_)
            | Record::PrefixDropped(_)
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
}
