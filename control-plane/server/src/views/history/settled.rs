//! Deliveries that settled, as bytes beside their event: most events settle whole within a moment, and are then one row instead of many.
//!
//! ```text
//! each delivery:  seq | at | ordinal | which of the rest are set | the rest, as far as set
//! ```
//! Numbers are of seven bits a byte, the lowest first; a sequence and times count from the event's own.

use super::file::DeliveryColumns;
use super::row::{pack, status_code, unpack};
use mindos_model::{DeliveryId, Seq, Status};

/// What the numbers count from: the event's sequence and time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Base {
    pub seq: i64,
    pub at: i64,
}

/// Appends one delivery that settled.
pub(super) fn encode(into: &mut Vec<u8>, base: Base, columns: &DeliveryColumns) {
    let DeliveryColumns { id, seq, at, general, instance, epoch, term, leased, attempts, took_ms, .. } = *columns;
    let rest = [
        general,
        instance,
        epoch.map(i64::from),
        term.map(i64::from),
        leased.map(|leased| leased.wrapping_sub(base.at)),
        attempts.map(i64::from),
        took_ms,
        columns.input_tokens,
        columns.output_tokens,
        columns.cost_micros,
    ];
    let set = rest.iter().enumerate().fold(0, |set, (bit, value)| set | (i64::from(value.is_some()) << bit));
    let first = [seq.wrapping_sub(base.seq), at.wrapping_sub(base.at), i64::from(unpack(id).ordinal), set];
    first.into_iter().chain(rest.into_iter().flatten()).for_each(|value| put(into, value));
}

/// The deliveries as they were written; ends early where the bytes do.
pub(super) fn decode(bytes: &[u8], base: Base) -> impl Iterator<Item = DeliveryColumns> {
    let mut bytes = bytes;
    std::iter::from_fn(move || {
        let (seq, at) = (base.seq.wrapping_add(take(&mut bytes)?), base.at.wrapping_add(take(&mut bytes)?));
        let (ordinal, set) = (u32::try_from(take(&mut bytes)?).ok()?, take(&mut bytes)?);
        let mut rest = [None; 10];
        for (bit, value) in rest.iter_mut().enumerate() {
            if set >> bit & 1 == 1 {
                *value = Some(take(&mut bytes)?);
            }
        }
        let [general, instance, epoch, term, leased, attempts, took_ms, input_tokens, output_tokens, cost_micros] =
            rest;
        let small = |value: Option<i64>| value.and_then(|value| u32::try_from(value).ok());
        Some(DeliveryColumns {
            id: pack(DeliveryId::new(Seq(base.seq.unsigned_abs()), ordinal)),
            seq,
            status: status_code(Status::Succeeded),
            at,
            general,
            instance,
            epoch: small(epoch),
            term: small(term),
            leased: leased.map(|leased| base.at.wrapping_add(leased)),
            attempts: small(attempts),
            took_ms,
            input_tokens,
            output_tokens,
            cost_micros,
            ..DeliveryColumns::default()
        })
    })
}

/// The sign goes into the lowest bit, so that small numbers of either sign are short.
fn put(into: &mut Vec<u8>, value: i64) {
    let mut value = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while value >= 0x80 {
        into.push(value as u8 | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
}

fn take(bytes: &mut &[u8]) -> Option<i64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some((value >> 1).cast_signed() ^ -(value & 1).cast_signed());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settled_deliveries_are_read_back_as_written_and_noise_ends_them() {
        let base = Base { seq: 1 << 40, at: 1_700_000_000_000 };
        let bare = DeliveryColumns {
            id: pack(DeliveryId::new(Seq(1 << 40), 2)),
            seq: base.seq + 9,
            status: status_code(Status::Succeeded),
            at: base.at - 5,
            ..DeliveryColumns::default()
        };
        let full = DeliveryColumns {
            id: pack(DeliveryId::new(Seq(1 << 40), 1)),
            general: Some(7),
            instance: Some(1 << 33),
            epoch: Some(u32::MAX),
            term: Some(1),
            leased: Some(base.at + 3),
            attempts: Some(2),
            took_ms: Some(i64::MIN),
            input_tokens: Some(i64::MAX),
            output_tokens: Some(-1),
            cost_micros: Some(0),
            ..bare
        };
        let mut bytes = Vec::new();
        [full, bare].iter().for_each(|columns| encode(&mut bytes, base, columns));
        assert_eq!(decode(&bytes, base).collect::<Vec<_>>(), [full, bare]);
        for end in 0..bytes.len() {
            assert!(decode(&bytes[..end], base).count() < 2);
        }
        assert_eq!(decode(&[0xff; 32], base).count(), 0);
    }
}
