//! HTTP/2 by hand: frames that no honest client would send, from addresses that are not the client's.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use tokio::net::{TcpSocket, TcpStream};

/// What a connection of HTTP/2 begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(super) const END_STREAM: u8 = 0x1;
pub(super) const END_HEADERS: u8 = 0x4;
pub(super) const INITIAL_WINDOW: u16 = 0x4;

/// Types of frames.
pub(super) const DATA: u8 = 0x0;
pub(super) const HEADERS: u8 = 0x1;
pub(super) const PRIORITY: u8 = 0x2;
pub(super) const RESET: u8 = 0x3;
pub(super) const SETTINGS: u8 = 0x4;
pub(super) const PING: u8 = 0x6;
pub(super) const GOAWAY: u8 = 0x7;
pub(super) const WINDOW: u8 = 0x8;
pub(super) const CONTINUATION: u8 = 0x9;

/// Addresses that attackers come from: 127.0.0.2 and those after it.
#[must_use]
pub(super) fn source(number: usize, of: usize) -> Ipv4Addr {
    let place = u8::try_from(2 + number % of.clamp(1, 250)).unwrap_or(2);
    Ipv4Addr::new(127, 0, 0, place)
}

/// Connects from an address of its own.
///
/// # Errors
/// When the server does not take it.
pub(super) async fn connect(from: Ipv4Addr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::from((from, 0)))?;
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Host and port as an address.
///
/// # Errors
/// When it is none.
pub(super) fn address(text: &str) -> Result<SocketAddr> {
    text.parse().with_context(|| format!("`{text}` is no address"))
}

/// Frames to be written.
#[derive(Clone, Debug, Default)]
pub(super) struct Frames(pub(super) Vec<u8>);

impl Frames {
    /// The beginning of a connection.
    pub(super) fn preface(settings: &[(u16, u32)]) -> Frames {
        let mut frames = Frames(PREFACE.to_vec());
        let body: Vec<u8> = settings
            .iter()
            .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()[..]].concat())
            .collect();
        frames.frame(SETTINGS, 0, 0, &body);
        frames
    }

    pub(super) fn frame(&mut self, kind: u8, flags: u8, stream: u32, body: &[u8]) -> &mut Frames {
        let length = u32::try_from(body.len()).unwrap_or(0).to_be_bytes();
        self.0.extend_from_slice(&length[1..]);
        self.0.extend_from_slice(&[kind, flags]);
        self.0.extend_from_slice(&stream.to_be_bytes());
        self.0.extend_from_slice(body);
        self
    }

    /// A request that ends with its headers, or goes on.
    pub(super) fn request(&mut self, stream: u32, fields: &[(&str, &str)], ends: bool) -> &mut Frames {
        let flags = END_HEADERS | if ends { END_STREAM } else { 0 };
        self.frame(HEADERS, flags, stream, &fields_as_block(fields))
    }
}

/// Fields as literals without an index, so that no state is shared.
pub(super) fn fields_as_block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            number(text.len(), &mut block);
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// An integer with a prefix of seven bits.
fn number(value: usize, into: &mut Vec<u8>) {
    let Some(mut rest) = value.checked_sub(127) else { return into.push(value as u8) };
    into.push(127);
    while rest >= 128 {
        into.push((rest % 128 + 128) as u8);
        rest /= 128;
    }
    into.push(rest as u8);
}

/// The fields of a call by gRPC.
pub(super) fn call<'a>(path: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut fields = vec![
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "mindos"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    fields.extend_from_slice(more);
    fields
}

/// Counts frames by type in what a server sent. Keeps what is not whole.
#[derive(Debug, Default)]
pub(super) struct Answers {
    rest: Vec<u8>,
}

impl Answers {
    /// Calls `each` with type and flags of every frame that is whole.
    pub(super) fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(u8, u8)) {
        self.rest.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(head) = self.rest.get(at..at + 9) {
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            if self.rest.len() < at + 9 + length {
                break;
            }
            each(head[3], head[4]);
            at += 9 + length;
        }
        self.rest.drain(..at);
    }
}

/// gzip of as many zeroes as are asked for, a thousandth as long: one fixed block of matches of 258.
#[must_use]
pub(super) fn bomb(zeroes: usize) -> Vec<u8> {
    let mut bits = Bits::default();
    // The last block, of fixed codes; one literal zero, whose code is 0x30.
    bits.low_first(1, 1);
    bits.low_first(1, 2);
    bits.high_first(0x30, 8);
    for _ in 0..zeroes / 258 {
        // Length 258 is code 285, distance 1 is code 0.
        bits.high_first(0xc5, 8);
        bits.high_first(0, 5);
    }
    bits.high_first(0, 7);
    let mut bytes = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    bytes.extend(bits.bytes);
    // Checksum and length: whoever reads as far has been hit already.
    bytes.extend_from_slice(&[0; 8]);
    bytes
}

#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    used: u8,
}

impl Bits {
    fn push(&mut self, bit: u32) {
        if self.used == 0 {
            self.bytes.push(0);
        }
        if let Some(last) = self.bytes.last_mut() {
            *last |= ((bit & 1) as u8) << self.used;
        }
        self.used = (self.used + 1) % 8;
    }

    fn low_first(&mut self, value: u32, count: u32) {
        (0..count).for_each(|place| self.push(value >> place));
    }

    fn high_first(&mut self, value: u32, count: u32) {
        (0..count).rev().for_each(|place| self.push(value >> place));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_back_as_they_were_written() {
        let mut frames = Frames::default();
        frames.request(1, &call("/x", &[("a", &"b".repeat(300))]), true).frame(PING, 0, 0, &[0; 8]);
        let (mut answers, mut seen) = (Answers::default(), Vec::new());
        for part in frames.0.chunks(7) {
            answers.feed(part, |kind, flags| seen.push((kind, flags)));
        }
        assert_eq!(seen, [(HEADERS, END_HEADERS | END_STREAM), (PING, 0)]);
        assert!(answers.rest.is_empty());
    }

    #[test]
    fn a_bomb_is_a_thousandth_of_what_it_becomes() {
        let bomb = bomb(10 << 20);
        assert!(bomb.len() < 70 << 10 && bomb.starts_with(&[0x1f, 0x8b, 8]), "{}", bomb.len());
    }
}
