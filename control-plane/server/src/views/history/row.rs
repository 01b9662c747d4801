//! What the history knows of an event and of a delivery, and how questions about them are put.

use mindos_model::{
    ClusterName, DeliveryId, GeneralName, ParkReason, RouteName, Seq, Status, Strategy, TenantName, Timestamp, Token,
};

/// An accepted event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRow {
    pub seq: Seq,
    pub at: Timestamp,
    pub source: String,
    pub id: String,
    pub ty: String,
    pub kind: String,
    pub subject: Option<String>,
    pub repository: Option<String>,
    pub lane: String,
    pub actor: Option<String>,
    pub time: Option<Timestamp>,
    pub payload_len: u32,
    /// Unset when it was recorded and not routed.
    pub route: Option<String>,
    pub strategy: Option<Strategy>,
    /// In the order of their ordinals.
    pub deliveries: Vec<PlannedRow>,
}

/// A delivery as it was planned when its event was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedRow {
    /// Unset where the general is bound at the lease.
    pub general: Option<GeneralRef>,
    pub parked: Option<ParkReason>,
}

/// A general by its names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GeneralRef {
    pub cluster: String,
    pub name: String,
}

/// A delivery that has ended or is parked, with what it shows of its event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryRow {
    pub delivery: DeliveryId,
    /// The last record about it; of one that succeeded, the record that holds the output.
    pub seq: Seq,
    /// Parked, succeeded or cancelled.
    pub status: Status,
    /// When it was settled or parked.
    pub ended: Timestamp,
    pub accepted: Timestamp,
    pub source: String,
    pub event_id: String,
    pub ty: String,
    pub kind: String,
    pub subject: Option<String>,
    pub repository: Option<String>,
    pub lane: String,
    pub route: Option<String>,
    pub strategy: Option<Strategy>,
    /// The one that had it last, or that it was for.
    pub general: Option<GeneralRef>,
    pub instance: Option<String>,
    /// The last lease's.
    pub token: Option<Token>,
    pub leased: Option<Timestamp>,
    /// Attempts used up.
    pub attempts: u32,
    pub took_ms: Option<u64>,
    pub reason: Option<ParkReason>,
    pub superseded_by: Option<DeliveryId>,
    pub redrives: u32,
    pub input_tokens: u64,
    pub output_tokens: u64,
    pub cost_micros: u64,
}

/// Which events are wanted: those that fit every field that is set.
#[derive(Clone, Debug, Default)]
pub struct EventQuery {
    pub repository: Option<String>,
    pub kind: Option<String>,
    pub ty: Option<String>,
    pub source: Option<String>,
    pub subject: Option<String>,
    pub lane: Option<String>,
    pub actor: Option<String>,
    pub route: Option<String>,
    /// Accepted at this time or later.
    pub since: Option<Timestamp>,
    /// Accepted before this time.
    pub until: Option<Timestamp>,
    /// Only those before this one; the cursor of the page before.
    pub before: Option<Seq>,
}

/// Which deliveries are wanted: those that fit every field that is set.
#[derive(Clone, Debug, Default)]
pub struct DeliveryQuery {
    pub repository: Option<String>,
    pub kind: Option<String>,
    pub general: Option<GeneralName>,
    pub cluster: Option<ClusterName>,
    pub route: Option<RouteName>,
    pub lane: Option<String>,
    /// Of parked, succeeded and cancelled; empty fits all three.
    pub statuses: Vec<Status>,
    /// Empty fits all.
    pub reasons: Vec<ParkReason>,
    pub instance: Option<String>,
    /// Events they belong to; empty fits all.
    pub events: Vec<Seq>,
    /// Accepted at this time or later.
    pub since: Option<Timestamp>,
    /// Accepted before this time.
    pub until: Option<Timestamp>,
    /// Only those before this one; the cursor of the page before.
    pub before: Option<DeliveryId>,
}

/// Whose data, and how much of it.
#[derive(Clone, Debug)]
pub struct PageRequest {
    pub tenant: TenantName,
    /// Rows at most, from 1.
    pub limit: usize,
}

/// Rows, the newest first, and where to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<R, C> {
    /// May be fewer than asked for, also none, while `next` is set: the search ran out of time.
    pub rows: Vec<R>,
    /// Put into `before` for the next page. Unset when there is none.
    pub next: Option<C>,
}

/// Deliveries of one event get this many ids.
const ORDINALS: u64 = 8192;
const _: () = assert!(mindos_model::limits::FANOUT_MAX < ORDINALS as usize);

/// The delivery as one number that grows with the event, then with the ordinal.
pub(super) fn pack(delivery: DeliveryId) -> i64 {
    // The cursor of a first page lies behind every delivery there can be.
    let packed = delivery.event.0.saturating_mul(ORDINALS).saturating_add(u64::from(delivery.ordinal));
    i64::try_from(packed).unwrap_or(i64::MAX)
}

pub(super) fn unpack(id: i64) -> DeliveryId {
    let id = id as u64;
    DeliveryId::new(Seq(id / ORDINALS), (id % ORDINALS) as u32)
}

/// The least number that no delivery of an event before `event` has.
pub(super) fn pack_start(event: Seq) -> i64 {
    i64::try_from(event.0.saturating_mul(ORDINALS)).unwrap_or(i64::MAX)
}

macro_rules! codes {
    ($to:ident, $from:ident, $ty:ty, $($variant:path = $code:literal),+ $(,)?) => {
        pub(super) fn $to(value: $ty) -> i64 {
            match value { $($variant => $code),+ }
        }

        pub(super) fn $from(code: i64) -> Option<$ty> {
            match code { $($code => Some($variant),)+ _ => None }
        }
    };
}

codes!(
    status_code,
    status_of,
    Status,
    Status::Waiting = 0,
    Status::Leased = 1,
    Status::Parked = 2,
    Status::Succeeded = 3,
    Status::Cancelled = 4,
);
codes!(
    reason_code,
    reason_of,
    ParkReason,
    ParkReason::Poison = 1,
    ParkReason::TooLarge = 2,
    ParkReason::AttemptsExhausted = 3,
    ParkReason::Blocked = 4,
    ParkReason::BacklogFull = 5,
    ParkReason::OverBudget = 6,
    ParkReason::Delayed = 7,
    ParkReason::Guarded = 9,
);
codes!(
    strategy_code,
    strategy_of,
    Strategy,
    Strategy::Broadcast = 1,
    Strategy::RoundRobin = 2,
    Strategy::LoadBalanced = 3,
    Strategy::Sticky = 4,
    Strategy::Failover = 5,
    Strategy::Race = 6,
    Strategy::Split = 7,
    Strategy::Shadow = 8,
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deliveries_keep_their_order_as_numbers() {
        let ids =
            [(1, 1), (1, 4096), (2, 1), (1 << 49, 7)].map(|(event, ordinal)| DeliveryId::new(Seq(event), ordinal));
        assert!(ids.is_sorted_by_key(|&id| pack(id)));
        ids.iter().for_each(|&id| assert_eq!(unpack(pack(id)), id));
        assert!(pack(ids[1]) < pack_start(Seq(2)) && pack_start(Seq(2)) <= pack(ids[2]));
    }
}
