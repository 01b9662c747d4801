//! Protobuf by hand: fields read without copies. What writes them is [`mindos_proto::put`].
//!
//! Only what the hot kinds need. Invariant: what prost writes is read here.

use mindos_proto::convert::Invalid;
use prost::encoding::decode_varint;

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;
const FIXED32: u64 = 5;

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
