//! Protobuf by hand: fields written straight into a vector, and read without copies.
//!
//! Only what the hot kinds need. Invariant: what is written here, prost reads, and the other way round.

use mindos_proto::convert::Invalid;
use prost::encoding::{decode_varint, encoded_len_varint};

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;
const FIXED32: u64 = 5;

/// Writes a number; zero is left out.
pub(crate) fn put_number(tag: u32, value: u64, bytes: &mut Vec<u8>) {
    if value != 0 {
        put_varint(u64::from(tag) << 3 | VARINT, bytes);
        put_varint(value, bytes);
    }
}

/// Writes a text or bytes; what is empty is left out.
pub(crate) fn put_bytes(tag: u32, value: &[u8], bytes: &mut Vec<u8>) {
    if !value.is_empty() {
        put_varint(u64::from(tag) << 3 | BYTES, bytes);
        put_varint(value.len() as u64, bytes);
        bytes.extend_from_slice(value);
    }
}

#[inline]
fn put_varint(value: u64, bytes: &mut Vec<u8>) {
    match u8::try_from(value) {
        Ok(value) if value < 0x80 => bytes.push(value),
        _ => {
            let len = encoded_len_varint(value);
            let mut varint = [0; VARINT_BYTES_MAX];
            write_varint(value, &mut varint[..len]);
            bytes.extend_from_slice(&varint[..len]);
        }
    }
}

/// Largest number of bytes that a number takes.
const VARINT_BYTES_MAX: usize = 10;

/// Writes a number into as many bytes as it takes.
fn write_varint(mut value: u64, bytes: &mut [u8]) {
    let last = bytes.len() - 1;
    for byte in &mut bytes[..last] {
        *byte = (value & 0x7f) as u8 | 0x80;
        value >>= 7;
    }
    bytes[last] = value as u8;
}

/// Writes a message whose fields `fill` appends, also if there are none. Most are shorter than 128 bytes.
pub(crate) fn put_message(tag: u32, bytes: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    put_message_in(1, tag, bytes, fill);
}

/// As [`put_message`], for one of which most are longer.
pub(crate) fn put_long_message(tag: u32, bytes: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    put_message_in(2, tag, bytes, fill);
}

/// Leaves `room` bytes for the length, and moves the fields if it takes more or fewer.
#[inline]
fn put_message_in(room: usize, tag: u32, bytes: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    put_varint(u64::from(tag) << 3 | BYTES, bytes);
    let at = bytes.len();
    let start = at + room;
    bytes.resize(start, 0);
    fill(bytes);
    let end = bytes.len();
    let len = (end - start) as u64;
    let takes = encoded_len_varint(len);
    if takes != room {
        bytes.resize(end.max(end + takes - room), 0);
        bytes.copy_within(start..end, at + takes);
        bytes.truncate(end + takes - room);
    }
    write_varint(len, &mut bytes[at..at + takes]);
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
    #[inline]
    pub(crate) fn number(self) -> Result<u64, Malformed> {
        match self {
            Value::Number(number) => Ok(number),
            Value::Bytes(_) | Value::Other => Err(Malformed),
        }
    }

    #[inline]
    pub(crate) fn small(self) -> Result<u32, Malformed> {
        // As prost does: what is too large loses its upper bits.
        self.number().map(|number| (number & u64::from(u32::MAX)) as u32)
    }

    #[inline]
    pub(crate) fn word(self) -> Result<i32, Malformed> {
        self.small().map(u32::cast_signed)
    }

    #[inline]
    pub(crate) fn bytes(self) -> Result<&'a [u8], Malformed> {
        match self {
            Value::Bytes(bytes) => Ok(bytes),
            Value::Number(_) | Value::Other => Err(Malformed),
        }
    }

    #[inline]
    pub(crate) fn text(self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed)
    }
}

/// Not a protobuf message of its kind. Small, because it is in the way of every field.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Malformed;

impl From<Malformed> for Invalid {
    fn from(Malformed: Malformed) -> Invalid {
        Invalid::new("record", "is not a protobuf message of its kind")
    }
}

/// The fields of a message, in the order in which they stand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    /// The next field with its tag; `None` at the end.
    #[inline(always)]
    pub(crate) fn next(&mut self) -> Result<Option<(u32, Value<'a>)>, Malformed> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let tag = u32::try_from(key >> 3).ok().filter(|tag| *tag > 0).ok_or(Malformed)?;
        let value = match key & 7 {
            VARINT => Value::Number(self.varint()?),
            BYTES => {
                let len = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
                Value::Bytes(self.take(len)?)
            }
            FIXED64 => self.take(8).map(|_| Value::Other)?,
            FIXED32 => self.take(4).map(|_| Value::Other)?,
            _ => return Err(Malformed),
        };
        Ok(Some((tag, value)))
    }

    #[inline(always)]
    fn varint(&mut self) -> Result<u64, Malformed> {
        match self.0 {
            // Nearly all keys and lengths.
            [byte, rest @ ..] if *byte < 0x80 => {
                self.0 = rest;
                Ok(u64::from(*byte))
            }
            _ => decode_varint(&mut self.0).map_err(|_| Malformed),
        }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }
}
