//! A frame for an agent, encoded while its messages come: the two that every delivery needs never become messages in between.

use bytes::Bytes;
use mindos_model::{DeliveryId, Token};
use prost::Message;

use super::{ConnectResponseWire, ControlMessageWire, ControlWire};
use crate::agent::v1::{Ceilings, Mode, SettleVerdict};
use crate::put::{put_bytes, put_long_message, put_message, put_number};

/// Tags in `ConnectResponse` and `ControlMessage`.
const MESSAGES: u32 = 2;
const ASSIGN: u32 = 2;
const SETTLED: u32 = 6;

/// Messages in order, encoded.
#[derive(Debug, Default)]
pub struct Frame {
    bytes: Vec<u8>,
    messages: u64,
}

/// What `mindos.agent.v1.Assign` says; the .proto file says what the fields mean. Empty and zero mean unset.
#[derive(Clone, Debug)]
pub struct Assignment<'a> {
    pub delivery: DeliveryId,
    pub token: Token,
    pub general: &'a str,
    /// The encoded CloudEvent.
    pub event: &'a [u8],
    pub lease: Option<prost_types::Duration>,
    pub attempt: u32,
    pub lane: &'a str,
    pub lane_place: u64,
    pub mode: Mode,
    pub ceilings: Option<Ceilings>,
    pub traceparent: &'a str,
    pub deadline: prost_types::Timestamp,
}

impl Frame {
    /// A frame with room for so many bytes.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Frame {
        Frame { bytes: Vec::with_capacity(bytes), messages: 0 }
    }

    /// Bytes of the messages so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it has no messages.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages == 0
    }

    /// How many messages it has.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// Appends any message.
    pub fn push(&mut self, message: ControlWire) {
        self.messages += 1;
        put_message(MESSAGES, &mut self.bytes, |bytes| ControlMessageWire::from(message).encode_raw(bytes));
    }

    /// Appends an assignment.
    pub fn assign(&mut self, of: &Assignment<'_>) {
        self.messages += 1;
        self.bytes.reserve(of.event.len() + of.lane.len() + of.general.len() + 128);
        put_long_message(MESSAGES, &mut self.bytes, |bytes| put_long_message(ASSIGN, bytes, |bytes| assign(of, bytes)));
    }

    /// Appends the answer to a result.
    pub fn settled(&mut self, delivery: DeliveryId, token: Token, verdict: SettleVerdict) {
        self.messages += 1;
        put_message(MESSAGES, &mut self.bytes, |bytes| {
            put_message(SETTLED, bytes, |bytes| {
                put_lease(delivery, token, bytes);
                put_number(3, i32::from(verdict).unsigned_abs().into(), bytes);
            });
        });
    }

    /// The frame as it is sent, whose first message has that number.
    #[must_use]
    pub fn finish(self, first_number: u64) -> ConnectResponseWire {
        ConnectResponseWire { first_number, messages: Vec::new(), encoded: Bytes::from(self.bytes) }
    }
}

fn assign(of: &Assignment<'_>, bytes: &mut Vec<u8>) {
    let Assignment { delivery, token, general, event, lease, attempt, lane, lane_place, mode, .. } = of;
    put_lease(*delivery, *token, bytes);
    put_bytes(3, general.as_bytes(), bytes);
    put_bytes(4, event, bytes);
    if let Some(lease) = lease {
        put_message(5, bytes, |bytes| lease.encode_raw(bytes));
    }
    put_number(6, (*attempt).into(), bytes);
    put_bytes(7, lane.as_bytes(), bytes);
    put_number(8, *lane_place, bytes);
    put_number(9, i32::from(*mode).unsigned_abs().into(), bytes);
    if let Some(ceilings) = &of.ceilings {
        put_message(10, bytes, |bytes| ceilings.encode_raw(bytes));
    }
    put_bytes(12, of.traceparent.as_bytes(), bytes);
    put_message(14, bytes, |bytes| of.deadline.encode_raw(bytes));
    put_number(16, delivery.event.0, bytes);
}

/// The first two fields of everything that is about a lease.
fn put_lease(delivery: DeliveryId, token: Token, bytes: &mut Vec<u8>) {
    put_message(1, bytes, |bytes| {
        bytes.push(b'd');
        put_decimal(delivery.event.0, bytes);
        bytes.push(b'.');
        put_decimal(delivery.ordinal.into(), bytes);
    });
    put_message(2, bytes, |bytes| {
        put_number(1, token.epoch.into(), bytes);
        put_number(2, token.term.into(), bytes);
    });
}

fn put_decimal(mut value: u64, bytes: &mut Vec<u8>) {
    let mut digits = [b'0'; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] += (value % 10) as u8;
        value /= 10;
        if value == 0 {
            return bytes.extend_from_slice(&digits[at..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use mindos_model::Seq;

    use super::*;
    use crate::agent::v1::control_message::Message as Control;
    use crate::agent::v1::{ConnectResponse, Drain};
    use crate::wire::AssignWire;

    /// The frame, read by prost.
    fn read(frame: Frame, first_number: u64) -> ConnectResponse {
        let sent = frame.finish(first_number).encode_to_vec();
        ConnectResponse::decode(&*sent).unwrap()
    }

    #[test]
    fn an_encoded_frame_has_the_bytes_of_its_messages() {
        let event = [10, 3, b'e', b'-', b'1'];
        for (event, lane, delivery) in [
            (&event[..], "octocat/hello-world/pr/7".to_owned(), DeliveryId::new(Seq(42), 1)),
            (&[], String::new(), DeliveryId::new(Seq(u64::MAX), u32::MAX)),
            (&[], "l".repeat(20_000), DeliveryId::new(Seq(10), 0)),
        ] {
            for full in [true, false] {
                let of = Assignment {
                    delivery,
                    token: Token::new(1, 300),
                    general: "security-general",
                    event,
                    lease: full.then_some(prost_types::Duration { seconds: 25, nanos: 5 }),
                    attempt: 2,
                    lane: &lane,
                    lane_place: 9,
                    mode: if full { Mode::Shadow } else { Mode::Live },
                    ceilings: full.then_some(Ceilings {
                        cost_micros: Some(5),
                        tokens: Some(0),
                        calls: None,
                        time: None,
                    }),
                    traceparent: if full { "00-1-2-01" } else { "" },
                    deadline: prost_types::Timestamp { seconds: 1_795_176_000, nanos: 5_000_000 },
                };
                let mirror = AssignWire {
                    delivery_id: delivery.to_string(),
                    token: Some(of.token.into()),
                    general: of.general.to_owned(),
                    event: Bytes::copy_from_slice(event),
                    lease: of.lease,
                    attempt: of.attempt,
                    lane: lane.clone(),
                    lane_place: of.lane_place,
                    mode: of.mode.into(),
                    ceilings: of.ceilings,
                    traceparent: of.traceparent.to_owned(),
                    deadline: Some(of.deadline),
                    event_seq: delivery.event.0,
                    ..AssignWire::default()
                };
                let messages = vec![ControlMessageWire::from(ControlWire::Assign(mirror))];
                let whole = ConnectResponseWire { first_number: 17, messages, encoded: Bytes::new() };
                let mut frame = Frame::default();
                frame.assign(&of);
                assert_eq!(frame.finish(17).encode_to_vec(), whole.encode_to_vec());
            }
        }
    }

    #[test]
    fn other_messages_keep_their_order_between_assignments() {
        let mut frame = Frame::default();
        assert!(frame.is_empty());
        frame.push(ControlWire::Drain(Drain::default()));
        frame.settled(DeliveryId::new(Seq(7), 2), Token::new(1, 2), SettleVerdict::RefusedStale);
        assert_eq!((frame.messages(), frame.is_empty()), (2, false));
        let read = read(frame, 5);
        assert_eq!(read.first_number, 5);
        let [drain, settled] = read.messages.try_into().unwrap();
        assert!(matches!(drain.message, Some(Control::Drain(_))));
        let Some(Control::Settled(settled)) = settled.message else { panic!("not an answer to a result") };
        assert_eq!((settled.delivery_id.as_str(), settled.verdict()), ("d7.2", SettleVerdict::RefusedStale));
        assert_eq!(settled.token, Some(Token::new(1, 2).into()));
    }
}
