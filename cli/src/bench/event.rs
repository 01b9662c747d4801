//! Events for load: encoded once, with id, lane, due time and data written over for each.
//!
//! The data begin with the time the event was due, so that an agent can tell how long it took. The rest cannot be compressed.

use bytes::Bytes;
use mindos_proto::cloudevents::v1::CloudEvent;
use mindos_proto::cloudevents::v1::cloud_event::cloud_event_attribute_value::Attr;
use mindos_proto::cloudevents::v1::cloud_event::{CloudEventAttributeValue, Data};
use prost::Message;

use crate::failure::Failure;

/// Digits of an id and of a lane.
const WORD: usize = 16;
/// Random bytes from which data are cut.
const POOL: usize = 1 << 20;

/// How far apart the data of two events begin; odd, so that the whole pool is used before it repeats.
const STRIDE: u64 = 4099;

/// Makes encoded events.
#[derive(Debug)]
pub(super) struct Events {
    template: Vec<u8>,
    id_at: usize,
    lane_at: usize,
    data_at: usize,
    data_len: usize,
    pool: Vec<u8>,
    prefix: u64,
    next: u64,
    /// Events share this many lanes; 0 gives each a lane of its own.
    lanes: u64,
}

impl Events {
    /// Events of a kind with so many bytes of data, at least 8. `worker` keeps the ids of several makers apart.
    pub(super) fn new(kind: &str, data_len: usize, lanes: u64, worker: u16) -> Result<Events, Failure> {
        let data_len = data_len.max(8);
        let random = |bytes: &mut [u8]| {
            getrandom::fill(bytes).map_err(|error| Failure::world(format!("no randomness: {error}")))
        };
        let mut pool = vec![0; POOL + data_len];
        random(&mut pool)?;
        let mut salt = [0; 4];
        random(&mut salt)?;
        let text = |text: &str| CloudEventAttributeValue { attr: Some(Attr::CeString(text.to_owned())) };
        let (id, lane, data) = ("I".repeat(WORD), "L".repeat(WORD), vec![b'D'; data_len]);
        let attributes = [("kind", kind), ("lane", lane.as_str()), ("datacontenttype", "application/octet-stream")];
        let event = CloudEvent {
            id: id.clone(),
            source: format!("/mindos/bench/{:08x}", u32::from_le_bytes(salt)),
            spec_version: "1.0".to_owned(),
            r#type: "dev.mindos.bench".to_owned(),
            attributes: attributes.into_iter().map(|(name, value)| (name.to_owned(), text(value))).collect(),
            data: Some(Data::BinaryData(data.clone().into())),
        };
        let template = event.encode_to_vec();
        let find = |needle: &[u8]| {
            template
                .windows(needle.len())
                .position(|window| window == needle)
                .expect("the template holds what it was made of")
        };
        let (id_at, lane_at, data_at) = (find(id.as_bytes()), find(lane.as_bytes()), find(&data));
        Ok(Events {
            id_at,
            lane_at,
            data_at,
            data_len,
            template,
            pool,
            prefix: u64::from(worker) << 48,
            next: 0,
            lanes,
        })
    }

    /// How many were made.
    pub(super) fn count(&self) -> u64 {
        self.next
    }

    /// Bytes of one event.
    pub(super) fn len(&self) -> usize {
        self.template.len()
    }

    /// The data of the next event alone.
    #[cfg(feature = "nats")]
    pub(super) fn next_data(&mut self, due_ns: u64) -> Bytes {
        let number = self.next;
        self.next += 1;
        let from = usize::try_from(number.wrapping_mul(STRIDE) % POOL as u64).unwrap_or(0);
        let mut data = self.pool[from..from + self.data_len].to_vec();
        data[..8].copy_from_slice(&due_ns.to_le_bytes());
        data.into()
    }

    /// The next event, due at a time of the shared clock.
    pub(super) fn next(&mut self, due_ns: u64) -> Bytes {
        let number = self.next;
        self.next += 1;
        let mut event = self.template.clone();
        write_hex(&mut event[self.id_at..self.id_at + WORD], self.prefix | number);
        let lane = if self.lanes == 0 { self.prefix | number } else { number % self.lanes };
        write_hex(&mut event[self.lane_at..self.lane_at + WORD], lane);
        let from = usize::try_from(number.wrapping_mul(STRIDE) % POOL as u64).unwrap_or(0);
        let data = &mut event[self.data_at..self.data_at + self.data_len];
        data.copy_from_slice(&self.pool[from..from + self.data_len]);
        data[..8].copy_from_slice(&due_ns.to_le_bytes());
        event.into()
    }
}

fn write_hex(into: &mut [u8], mut number: u64) {
    for place in into.iter_mut().rev() {
        *place = b"0123456789abcdef"[(number & 15) as usize];
        number >>= 4;
    }
}

/// When the event of an encoded `Assign` was due, and how long its data are; `None` for what this module did not make.
pub(super) fn due_of(assign: &[u8], shared_event: Option<&[u8]>) -> Option<(u64, usize)> {
    let event = shared_event.or_else(|| field(assign, 4))?;
    let data = field(event, 6)?;
    Some((u64::from_le_bytes(data.get(..8)?.try_into().ok()?), data.len()))
}

/// The bytes of the first length-delimited field of a number.
fn field(mut message: &[u8], wanted: u64) -> Option<&[u8]> {
    while !message.is_empty() {
        let key = varint(&mut message)?;
        match key & 7 {
            0 => drop(varint(&mut message)?),
            1 => message = message.get(8..)?,
            2 => {
                let len = usize::try_from(varint(&mut message)?).ok()?;
                let (bytes, rest) = message.split_at_checked(len)?;
                if key >> 3 == wanted {
                    return Some(bytes);
                }
                message = rest;
            }
            5 => message = message.get(4..)?,
            _ => return None,
        }
    }
    None
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for place in 0..10 {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 127) << (7 * place);
        if byte & 128 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use mindos_proto::agent::v1::Assign;

    use super::*;

    #[test]
    fn events_differ_and_an_agent_reads_when_they_were_due() {
        let mut events = Events::new("bench", 1024, 0, 3).unwrap();
        let mut seen = BTreeSet::new();
        for due in [7, 1 << 40, u64::MAX] {
            let event = CloudEvent::decode(events.next(due)).unwrap();
            assert!(seen.insert(event.id.clone()));
            assert!(event.attributes.contains_key("lane"));
            assert_eq!(due_of(&[], Some(&event.encode_to_vec())), Some((due, 1024)));
            let assign =
                Assign { delivery_id: "d1.1".to_owned(), event: Some(event), event_seq: 9, ..Default::default() };
            assert_eq!(due_of(&assign.encode_to_vec(), None), Some((due, 1024)));
        }
    }

    #[test]
    fn lanes_are_shared_when_wanted() {
        let mut events = Events::new("bench", 8, 2, 0).unwrap();
        let lanes: BTreeSet<String> =
            (0..10).map(|_| format!("{:?}", CloudEvent::decode(events.next(0)).unwrap().attributes["lane"])).collect();
        assert_eq!(lanes.len(), 2);
    }

    #[test]
    fn noise_has_no_due_time() {
        assert_eq!(due_of(&[0xff; 40], None), None);
        assert_eq!(due_of(&[], None), None);
    }
}
