//! Protobuf by hand: fields written straight into a vector, and read without copies.
//!
//! Only what the hot kinds need. Invariant: what is written here, prost reads, and the other way round.

use mindos_proto::convert::Invalid;
use prost::encoding::{decode_varint, encode_varint};

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;
const FIXED32: u64 = 5;

/// Writes a number; zero is left out.
pub(crate) fn put_number(tag: u32, value: u64, bytes: &mut Vec<u8>) {
    if value != 0 {
        encode_varint(u64::from(tag) << 3 | VARINT, bytes);
        encode_varint(value, bytes);
    }
}

/// Writes a text or bytes; what is empty is left out.
pub(crate) fn put_bytes(tag: u32, value: &[u8], bytes: &mut Vec<u8>) {
    if !value.is_empty() {
        encode_varint(u64::from(tag) << 3 | BYTES, bytes);
        encode_varint(value.len() as u64, bytes);
        bytes.extend_from_slice(value);
    }
}

/// Writes a message whose fields `fill` appends, also if there are none.
pub(crate) fn put_message(tag: u32, bytes: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    encode_varint(u64::from(tag) << 3 | BYTES, bytes);
    // Most are shorter than 128 bytes, so their length takes one.
    bytes.push(0);
    let start = bytes.len();
    fill(bytes);
    let len = bytes.len() - start;
    if let Some(len) = u8::try_from(len).ok().filter(|len| *len < 0x80) {
        bytes[start - 1] = len;
        return;
    }
    let mut prefix = Vec::with_capacity(5);
    encode_varint(len as u64, &mut prefix);
    bytes.splice(start - 1..start, prefix);
}

/// What a field holds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Of a type that no field here has.
    Other,
}

impl<'a> Value<'a> {
    pub(crate) fn number(self) -> Result<u64, Invalid> {
        match self {
            Value::Number(number) => Ok(number),
            Value::Bytes(_) | Value::Other => Err(malformed()),
        }
    }

    pub(crate) fn small(self) -> Result<u32, Invalid> {
        // As prost does: what is too large loses its upper bits.
        self.number().map(|number| (number & u64::from(u32::MAX)) as u32)
    }

    pub(crate) fn word(self) -> Result<i32, Invalid> {
        self.small().map(u32::cast_signed)
    }

    pub(crate) fn bytes(self) -> Result<&'a [u8], Invalid> {
        match self {
            Value::Bytes(bytes) => Ok(bytes),
            Value::Number(_) | Value::Other => Err(malformed()),
        }
    }

    pub(crate) fn text(self) -> Result<&'a str, Invalid> {
        std::str::from_utf8(self.bytes()?).map_err(|_| malformed())
    }
}

pub(crate) fn malformed() -> Invalid {
    Invalid::new("record", "is not a protobuf message of its kind")
}

/// The fields of a message, in the order in which they stand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    /// The next field with its tag; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<(u32, Value<'a>)>, Invalid> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let tag = u32::try_from(key >> 3).ok().filter(|tag| *tag > 0).ok_or_else(malformed)?;
        let value = match key & 7 {
            VARINT => Value::Number(self.varint()?),
            BYTES => {
                let len = usize::try_from(self.varint()?).map_err(|_| malformed())?;
                Value::Bytes(self.take(len)?)
            }
            FIXED64 => self.take(8).map(|_| Value::Other)?,
            FIXED32 => self.take(4).map(|_| Value::Other)?,
            _ => return Err(malformed()),
        };
        Ok(Some((tag, value)))
    }

    fn varint(&mut self) -> Result<u64, Invalid> {
        decode_varint(&mut self.0).map_err(|_| malformed())
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Invalid> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or_else(malformed)?;
        self.0 = rest;
        Ok(taken)
    }
}
