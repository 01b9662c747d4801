//! How a delivery ended, as a row.

use mindos_model::{DeliveryId, ParkReason, Seq, Status, Timestamp};

use super::file::{DeliveryColumns, Domain, HistoryFile};
use super::leases::OpenLease;
use super::row::{pack, reason_code, status_code, unpack};
use super::{HistoryError, planned};

/// What an ending's record says, beside its status.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ending {
    pub reason: Option<ParkReason>,
    pub took_ms: Option<u64>,
    /// Unset takes those of the lease.
    pub attempts: Option<u32>,
    pub superseded_by: Option<DeliveryId>,
    pub redrives: i64,
    /// Input tokens, output tokens, cost in millionths.
    pub usage: [u64; 3],
}

/// What the record of an ending says of a delivery.
pub(super) fn columns_of(
    delivery: DeliveryId,
    seq: Seq,
    at: Timestamp,
    status: Status,
    ending: Ending,
) -> DeliveryColumns {
    let Ending {
        reason,
        took_ms,
        attempts,
        superseded_by,
        redrives,
        usage: [input_tokens, output_tokens, cost_micros],
    } = ending;
    let number = |value: u64| Some(value as i64).filter(|&value| value > 0);
    DeliveryColumns {
        id: pack(delivery),
        seq: seq.0 as i64,
        status: status_code(status),
        at: at.0 as i64,
        attempts,
        took_ms: took_ms.map(|took| took as i64),
        reason: reason.map(reason_code),
        superseded_by: superseded_by.map(pack),
        redrives,
        input_tokens: number(input_tokens),
        output_tokens: number(output_tokens),
        cost_micros: number(cost_micros),
        ..DeliveryColumns::default()
    }
}

/// Adds what its lease says, in the names of a file; without one, the general it was planned for.
pub(super) fn columns_at(
    file: &mut HistoryFile,
    columns: DeliveryColumns,
    lease: Option<&OpenLease>,
    plan: impl FnOnce(&mut HistoryFile) -> Result<Vec<u8>, HistoryError>,
) -> Result<DeliveryColumns, HistoryError> {
    let Some(OpenLease { general, instance, token, attempt, since }) = lease else {
        let index = (unpack(columns.id).ordinal as usize).saturating_sub(1);
        let general = planned::decode(&plan(file)?).nth(index).and_then(|(general, _)| general);
        return Ok(DeliveryColumns { general, ..columns });
    };
    Ok(DeliveryColumns {
        general: Some(file.general(general)?),
        instance: Some(file.name_of(Domain::Instance, instance.instance.as_str())?),
        epoch: Some(token.epoch),
        term: Some(token.term),
        leased: Some(since.0 as i64),
        attempts: columns.attempts.or(Some(*attempt)),
        ..columns
    })
}
