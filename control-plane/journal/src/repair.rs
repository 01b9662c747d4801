//! Which byte is wrong: a checksum names the one byte whose change explains it.
//!
//! The crc of a damaged text differs from the written one by what the wrong byte alone would have left after the bytes
//! behind it. Walking that difference back byte by byte, it is below 256 exactly where one byte explains it, and is
//! then the change itself. Several places may fit by chance, so the hash chain decides which one is true.

use std::ops::Range;

use crate::chain::{self, Link};
use crate::frame::{self, Entries, FrameHeader, at};

/// One byte that is not as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WrongByte {
    pub(crate) offset: usize,
    pub(crate) found: u8,
    pub(crate) written: u8,
}

/// The reflected CRC-32 table, and for each top byte the index that has it.
const TABLES: ([u32; 256], [u8; 256]) = {
    let mut table = [0_u32; 256];
    let mut by_top = [0_u8; 256];
    let mut index = 0;
    while index < 256 {
        let mut value = index as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { (value >> 1) ^ 0xedb8_8320 } else { value >> 1 };
            bit += 1;
        }
        table[index] = value;
        by_top[(value >> 24) as usize] = index as u8;
        index += 1;
    }
    (table, by_top)
};

/// Undoes one byte's step of the checksum.
fn unstep(difference: u32) -> u32 {
    let index = TABLES.1[(difference >> 24) as usize];
    ((difference ^ TABLES.0[index as usize]) << 8) | u32::from(index)
}

/// All bytes of `bytes`, of which `crc_at` holds the checksum over the rest, that may be the only wrong one.
fn candidates(bytes: &[u8], crc_at: &Range<usize>) -> Vec<WrongByte> {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..crc_at.start]);
    hasher.update(&bytes[crc_at.end..]);
    let written = frame::u32_at(bytes, crc_at.start);
    let difference = hasher.finalize() ^ written;
    let mut found = Vec::new();
    if difference == 0 {
        return found;
    }
    let mut wrong = |offset: usize, change: u8| {
        found.push(WrongByte { offset, found: bytes[offset], written: bytes[offset] ^ change });
    };
    // The checksum itself may be what was damaged.
    for (place, change) in difference.to_le_bytes().into_iter().enumerate() {
        if u32::from(change) << (8 * place) == difference {
            wrong(crc_at.start + place, change);
        }
    }
    let mut left = difference;
    for offset in (crc_at.end..bytes.len()).rev().chain((0..crc_at.start).rev()) {
        left = unstep(left);
        if let Ok(change) = u8::try_from(left) {
            wrong(offset, change);
        }
    }
    found
}

/// The one wrong byte, if exactly one place explains the checksum.
pub(crate) fn wrong_byte(bytes: &[u8], crc_at: Range<usize>) -> Option<WrongByte> {
    match candidates(bytes, &crc_at)[..] {
        [only] => Some(only),
        _ => None,
    }
}

/// What a frame must say about itself at its place in the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected {
    pub(crate) nonce: u64,
    pub(crate) first_seq: u64,
    pub(crate) previous: Link,
}

/// A byte that explains a damaged frame, proved by the chain, and the record it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Diagnosis {
    pub(crate) wrong: WrongByte,
    /// The record that the byte is part of, the first one for the frame's header.
    pub(crate) seq: u64,
}

/// Looks for the one wrong byte of the frame at the start of `bytes`. `next_at` is where a valid frame follows, if one does:
/// it stands for the length, should the length be what is damaged.
pub(crate) fn diagnose(bytes: &[u8], expected: &Expected, next_at: Option<usize>) -> Option<Diagnosis> {
    if bytes.len() < frame::HEADER_BYTES {
        return None;
    }
    // What the place dictates is set right first; the frame's own word counts for the rest.
    let mut head: [u8; frame::HEADER_BYTES] = bytes[..frame::HEADER_BYTES].try_into().ok()?;
    head[..at::NONCE].copy_from_slice(&frame::MAGIC);
    head[at::NONCE..at::LEN].copy_from_slice(&expected.nonce.to_le_bytes());
    head[at::FIRST_SEQ..at::PREVIOUS].copy_from_slice(&expected.first_seq.to_le_bytes());
    head[at::PREVIOUS..at::END].copy_from_slice(&expected.previous);
    let mut dictated = (0..frame::HEADER_BYTES).filter(|offset| head[*offset] != bytes[*offset]);
    let dictated = match (dictated.next(), dictated.next()) {
        (first, None) => first,
        (_, Some(_)) => return None,
    };
    let len = frame::u32_at(bytes, at::LEN);
    if let Some(found) = diagnose_with_len(bytes, &head, len, expected, dictated) {
        return Some(found);
    }
    if dictated.is_some() {
        return None;
    }
    let from_next = next_at.and_then(|next| u32::try_from(next).ok());
    let one_byte_off =
        (0..4).flat_map(|place| (1..=u8::MAX).map(move |change| len ^ (u32::from(change) << (8 * place))));
    let mut lens = from_next.into_iter().chain(one_byte_off.filter(|_| from_next.is_none()));
    lens.find_map(|len| {
        head[at::LEN..at::CRC].copy_from_slice(&len.to_le_bytes());
        let mut wrong = (at::LEN..at::CRC).filter(|offset| head[*offset] != bytes[*offset]);
        match (wrong.next(), wrong.next()) {
            (Some(offset), None) => diagnose_with_len(bytes, &head, len, expected, Some(offset)),
            _ => None,
        }
    })
}

/// As [`diagnose`], for one length. `head` is the header as it should be, `settled` the byte in which it differs.
fn diagnose_with_len(
    bytes: &[u8],
    head: &[u8; frame::HEADER_BYTES],
    len: u32,
    expected: &Expected,
    settled: Option<usize>,
) -> Option<Diagnosis> {
    let len = len as usize;
    let fits = (frame::HEADER_BYTES..=frame::FRAME_BYTES_MAX).contains(&len) && len.is_multiple_of(frame::ALIGNMENT);
    if !fits || len > bytes.len() {
        return None;
    }
    if settled.is_some() && crc_with(head, &bytes[frame::HEADER_BYTES..len]) != frame::u32_at(head, at::CRC) {
        return None;
    }
    let mut frame = bytes[..len].to_vec();
    frame[..frame::HEADER_BYTES].copy_from_slice(head);
    if let Some(offset) = settled {
        let seq = proved(&frame, expected)?(offset);
        let wrong = WrongByte { offset, found: bytes[offset], written: frame[offset] };
        return Some(Diagnosis { wrong, seq });
    }
    candidates(&frame, &(at::CRC..at::COUNT)).into_iter().find_map(|wrong| {
        frame[wrong.offset] = wrong.written;
        let seq = proved(&frame, expected).map(|seq_of| seq_of(wrong.offset));
        frame[wrong.offset] = wrong.found;
        seq.map(|seq| Diagnosis { wrong, seq })
    })
}

fn crc_with(head: &[u8; frame::HEADER_BYTES], entries: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&head[..at::CRC]);
    hasher.update(&head[at::COUNT..]);
    hasher.update(entries);
    hasher.finalize()
}

/// Whether checksum and chain of a frame hold; if so, tells which record an offset belongs to.
fn proved(bytes: &[u8], expected: &Expected) -> Option<impl Fn(usize) -> u64> {
    let header = FrameHeader::parse(bytes, expected.nonce)?;
    if header.crc != frame::crc_of(bytes) {
        return None;
    }
    let mut entries = Entries::new(bytes, header.first_seq, header.count);
    let mut ends = Vec::new();
    let mut link = header.previous;
    while let Some(entry) = entries.next() {
        let entry = entry.ok()?;
        link = chain::link(&link, entry.seq.0, &entry.leaf());
        ends.push(entries.offset());
    }
    let first_seq = header.first_seq;
    (link == header.end).then_some(move |offset| {
        let number = ends.partition_point(|end| *end <= offset).min(ends.len() - 1);
        first_seq + number as u64
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Frame, Payload};

    #[test]
    fn any_flipped_byte_of_a_frame_is_named() {
        let mut frame = Frame::new();
        for number in 0..20_u8 {
            let text = vec![number; usize::from(number) * 3];
            frame.push(&text, (number % 3 > 0).then_some(Payload { salt: &[number; 16], bytes: &text }));
        }
        let expected = Expected { nonce: 99, first_seq: 1000, previous: [5; 32] };
        let good = frame.seal(99, 4, 1000, &[5; 32]).0.to_vec();
        for offset in 0..good.len() {
            for mask in [1, 0x80, 0xff] {
                let mut bad = good.clone();
                bad[offset] ^= mask;

                for next_at in [Some(good.len()), None] {
                    let Diagnosis { wrong, seq } = diagnose(&bad, &expected, next_at).unwrap();

                    assert_eq!(wrong, WrongByte { offset, found: bad[offset], written: good[offset] });
                    assert!((1000..1020).contains(&seq));
                }
            }
        }
    }

    #[test]
    fn two_wrong_bytes_are_not_explained_by_one() {
        let mut frame = Frame::new();
        frame.push(&[7; 4000], None);
        let expected = Expected { nonce: 99, first_seq: 1, previous: [5; 32] };
        let good = frame.seal(99, 4, 1, &[5; 32]).0.to_vec();
        for offset in 0..good.len() - 1 {
            let mut bad = good.clone();
            bad[offset] ^= 1;
            bad[offset + 1] ^= 1;

            assert_eq!(diagnose(&bad, &expected, None), None);
        }
    }
}
