//! The plan of an event as bytes: for each delivery the number of its general, then a byte for why it was parked.

use mindos_model::ParkReason;

use super::row::{reason_code, reason_of};

/// Appends one delivery. `general` is a name's number, from 1.
pub(super) fn encode(into: &mut Vec<u8>, general: Option<i64>, parked: Option<ParkReason>) {
    let mut value = general.unwrap_or(0).unsigned_abs();
    while value >= 0x80 {
        into.push(value as u8 | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
    into.push(parked.map_or(0, |reason| reason_code(reason) as u8));
}

/// The deliveries in order; ends early where the bytes do.
pub(super) fn decode(mut bytes: &[u8]) -> impl Iterator<Item = (Option<i64>, Option<ParkReason>)> {
    std::iter::from_fn(move || {
        let mut value = 0_i64;
        let mut shift = 0;
        loop {
            let (&byte, rest) = bytes.split_first()?;
            bytes = rest;
            value |= i64::from(byte & 0x7f).checked_shl(shift)?;
            shift += 7;
            if byte < 0x80 {
                break;
            }
        }
        let (&reason, rest) = bytes.split_first()?;
        bytes = rest;
        Some(((value > 0).then_some(value), reason_of(i64::from(reason))))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_are_read_back_as_written() {
        let plan = [(Some(1), None), (None, None), (Some(300), Some(ParkReason::BacklogFull)), (Some(1 << 40), None)];
        let mut bytes = Vec::new();
        plan.iter().for_each(|&(general, parked)| encode(&mut bytes, general, parked));
        assert_eq!(decode(&bytes).collect::<Vec<_>>(), plan);
        bytes.pop();
        assert_eq!(decode(&bytes).count(), 3);
    }
}
