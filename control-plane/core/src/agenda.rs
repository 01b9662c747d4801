//! The durable agenda: work that is due because of what is recorded, found without a scan of the state.
//!
//! `apply` keeps it; firing a timer only moves work from "later" to "now" and records nothing, so a restart finds the
//! same work again.
//!
//! Invariants: a waiting delivery at its lane's head is behind a timer, or its lane is queued; a queue with queued lanes is dirty
//! unless it was found without a free slot since the last one came free.

use std::collections::BTreeSet;

use mindos_model::{DeliveryId, Timestamp};

use crate::queue::QueueId;
use crate::rounds::Rounds;

#[derive(Clone, Debug, Default)]
pub(crate) struct Agenda {
    /// Waiting deliveries whose retry time has not come.
    pub(crate) retries: BTreeSet<(Timestamp, DeliveryId)>,
    /// When a waiting delivery will have held its lane up for too long.
    pub(crate) blocks: BTreeSet<(Timestamp, DeliveryId)>,
    /// When deliveries that were accepted before their time enter their lanes.
    pub(crate) later: BTreeSet<(Timestamp, DeliveryId)>,
    /// When deliveries expire that still wait then.
    pub(crate) expiries: BTreeSet<(Timestamp, DeliveryId)>,
    /// Queues that may have something to give out.
    pub(crate) dirty: Rounds,
    /// Queues whose overflow may have room again.
    pub(crate) overflows: BTreeSet<QueueId>,
    /// Retry times up to here have come. Only grows.
    pub(crate) fired: Timestamp,
}

impl Agenda {
    /// When the next timer fires.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        let retry = self.retries.first().map(|(at, _)| *at);
        let block = self.blocks.first().map(|(at, _)| *at);
        let later = self.later.first().map(|(at, _)| *at);
        let expiry = self.expiries.first().map(|(at, _)| *at);
        [retry, block, later, expiry].into_iter().flatten().min()
    }
}
