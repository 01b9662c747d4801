//! Protobuf by hand: fields written straight into a vector, where messages of their own would cost more than their bytes.
//!
//! Only what hot paths need. Invariant: what is written here, prost reads.

use prost::encoding::encoded_len_varint;

const VARINT: u64 = 0;
const BYTES: u64 = 2;

/// Writes a number; zero is left out.
pub fn put_number(tag: u32, value: u64, bytes: &mut Vec<u8>) {
    if value != 0 {
        put_varint(u64::from(tag) << 3 | VARINT, bytes);
        put_varint(value, bytes);
    }
}

/// Writes a text or bytes; what is empty is left out.
pub fn put_bytes(tag: u32, value: &[u8], bytes: &mut Vec<u8>) {
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
pub fn put_message(tag: u32, bytes: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    put_message_in(1, tag, bytes, fill);
}

/// As [`put_message`], for one of which most are longer.
pub fn put_long_message(tag: u32, bytes: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
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
