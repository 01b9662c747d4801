//! Snapshots: the durable state as a list of items, and back.
//!
//! Invariant: importing what was exported gives an equal state; exporting twice gives equal items.

use std::sync::Arc;

use mindos_model::{DeliveryId, ParkReason, RouteName, Seq, TenantName, Timestamp, Token};

use crate::input::Seen;
use crate::output::PayloadRef;
use crate::record::{
    CancelReason, Cause, ClusterRegistered, DedupeKey, GeneralKey, GeneralRegistered, HoldChanged, InstanceKey,
};
use crate::route::{Route, RouteTable};

/// One piece of the state. Items come in the order of the variants.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    Header {
        seq: Seq,
        at: Timestamp,
        epoch: u32,
    },
    Cluster(ClusterRegistered),
    /// With when it last had an instance or work.
    General(GeneralRegistered),
    Hold(HoldChanged),
    Routes {
        tenant: TenantName,
        at: Seq,
        table: Arc<RouteTable>,
    },
    /// A route that is in force, or has left the table while its deliveries are open; with its place in the round.
    Route {
        tenant: TenantName,
        route: Arc<Route>,
        cursor: Option<Arc<GeneralKey>>,
    },
    Event(Box<EventItem>),
    Seen {
        key: DedupeKey,
        at: Timestamp,
        seen: Seen,
    },
    Settled {
        delivery: DeliveryId,
        token: Token,
    },
}

/// An event with open work.
#[derive(Clone, Debug, PartialEq)]
pub struct EventItem {
    pub event: Seq,
    pub tenant: TenantName,
    pub kind: Arc<str>,
    pub lane: Arc<str>,
    pub repository: Option<Arc<str>>,
    pub route: RouteName,
    pub accepted: Timestamp,
    pub payload: PayloadRef,
    pub deliveries: Vec<DeliveryItem>,
}

/// A delivery of an event with open work.
#[derive(Clone, Debug, PartialEq)]
pub struct DeliveryItem {
    /// Fixed by broadcast.
    pub general: Option<Arc<GeneralKey>>,
    pub phase: PhaseItem,
    /// Newest token; epoch 0 before the first lease.
    pub token: Token,
    pub attempts: u32,
    pub place: Seq,
    pub blocked_since: Option<Timestamp>,
    pub cancel: Option<CancelReason>,
    pub last_cause: Option<Cause>,
}

/// Where a delivery stands.
#[derive(Clone, Debug, PartialEq)]
pub enum PhaseItem {
    Waiting { not_before: Timestamp },
    Leased { general: Arc<GeneralKey>, instance: Arc<InstanceKey>, boot: mindos_model::BootId, since: Timestamp },
    Parked { reason: ParkReason, since: Timestamp },
    Succeeded,
    Cancelled,
}
