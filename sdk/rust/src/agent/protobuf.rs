//! Protobuf by hand, as far as the two hottest messages need it.

use bytes::{BufMut, Bytes, BytesMut};
use mindos_model::{DeliveryId, Token};

/// Bytes that are not a protobuf message, or one that breaks the protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Malformed(pub(super) String);

impl Malformed {
    pub(super) fn new(reason: impl ToString) -> Malformed {
        Malformed(reason.to_string())
    }
}

/// A field's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Varint(u64),
    Fixed,
    Bytes(&'a [u8]),
}

/// Reads fields one after the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for (at, byte) in self.0.iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                self.0 = &self.0[at + 1..];
                return Ok(value);
            }
        }
        Err(Malformed::new("a varint does not end"))
    }

    fn take(&mut self, len: u64) -> Result<&'a [u8], Malformed> {
        let len = usize::try_from(len).ok().filter(|len| *len <= self.0.len());
        let (taken, rest) = self.0.split_at(len.ok_or_else(|| Malformed::new("a field is longer than its message"))?);
        self.0 = rest;
        Ok(taken)
    }

    /// The next field's number and value.
    pub(super) fn next(&mut self) -> Result<Option<(u64, Value<'a>)>, Malformed> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let len = self.varint()?;
                Value::Bytes(self.take(len)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            other => return Err(Malformed(format!("wire type {other} is not used"))),
        };
        match key >> 3 {
            0 => Err(Malformed::new("field number 0 is not allowed")),
            number => Ok(Some((number, value))),
        }
    }
}

/// The part of `whole` that `part` was read from, sharing its memory.
pub(super) fn shared(whole: &Bytes, part: &[u8]) -> Bytes {
    if part.is_empty() { Bytes::new() } else { whole.slice_ref(part) }
}

pub(super) fn put_varint(into: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        into.put_u8((value as u8) | 0x80);
        value >>= 7;
    }
    into.put_u8(value as u8);
}

/// A field that is a string, bytes or a message.
pub(super) fn put_bytes(into: &mut BytesMut, number: u8, bytes: &[u8]) {
    into.put_u8(number << 3 | 2);
    put_varint(into, bytes.len() as u64);
    into.put_slice(bytes);
}

/// The fields 1 and 2 that begin every message about a lease.
pub(super) fn put_lease(into: &mut BytesMut, delivery: DeliveryId, token: Token) {
    let mut text = [0u8; 32];
    let mut at = text.len();
    let mut digits = |mut number: u64, before: u8| {
        loop {
            at -= 1;
            text[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        at -= 1;
        text[at] = before;
    };
    // `d`, 20 digits, a dot and 10 digits: the array holds them exactly.
    digits(u64::from(delivery.ordinal), b'.');
    digits(delivery.event.0, b'd');
    put_bytes(into, 1, &text[at..]);

    let len_at = into.len() + 1;
    into.put_slice(&[2 << 3 | 2, 0]);
    if token.epoch > 0 {
        into.put_u8(1 << 3);
        put_varint(into, u64::from(token.epoch));
    }
    if token.term > 0 {
        into.put_u8(2 << 3);
        put_varint(into, u64::from(token.term));
    }
    // Two keys and two varints of up to five bytes: the length is one byte.
    into[len_at] = (into.len() - len_at - 1) as u8;
}

#[cfg(test)]
mod tests {
    use super::*;
    use mindos_model::Seq;
    use mindos_proto::agent::v1::Accept;
    use prost::Message;

    #[test]
    fn a_lease_is_written_as_the_generated_code_writes_it() {
        for (event, ordinal) in [(1, 1), (42, 3), (9_999, 10), (u64::MAX, u32::MAX)] {
            for (epoch, term) in [(1, 1), (127, 128), (u32::MAX, u32::MAX), (0, 0)] {
                let (delivery, token) = (DeliveryId::new(Seq(event), ordinal), Token::new(epoch, term));
                let mut written = BytesMut::new();
                put_lease(&mut written, delivery, token);
                let generated = Accept { delivery_id: delivery.to_string(), token: Some(token.into()) };
                assert_eq!(written, generated.encode_to_vec());
            }
        }
    }

    #[test]
    fn noise_is_read_or_refused_but_never_panics() {
        let mut state = 1u64;
        for _ in 0..20_000 {
            let mut bytes = [0u8; 24];
            for byte in &mut bytes {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                *byte = (state >> 56) as u8;
            }
            let mut reader = Reader(&bytes);
            while let Ok(Some(_)) = reader.next() {}
        }
    }
}
